//! What a file was found to hold, for people who have not seen it before.

use std::time::Duration;

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Interval, Timestamp};

use super::index::Series;
use super::{FileFetcher, FileSet, Stamp, name};

/// What a file was found to hold, or several together.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FileDescription {
    /// The column that holds the time.
    pub time_column: String,
    /// How its values are read, in words.
    pub time_form: String,
    /// The payload columns, in the order in which they come out.
    pub columns: Vec<DescribedColumn>,
    /// The series, by symbol; one with an empty symbol where no column tells them apart.
    pub series: Vec<DescribedSeries>,
    /// The symbol that the file or its name tells, where it is of one.
    pub symbol: Option<String>,
    /// How many of how many bytes were read, where only the beginning and the end of the file were: what is said of its
    /// rows is said of these.
    pub read_of: Option<(u64, u64)>,
}

/// A payload column of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedColumn {
    /// Its name in the file.
    pub own: String,
    /// The name under which it comes out.
    pub name: String,
    /// The type of its values.
    pub data_type: DataType,
}

/// A series of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedSeries {
    /// What the symbol column calls it; empty without one.
    pub symbol: String,
    /// Its rows, doubled ones included.
    pub rows: u64,
    /// The time of its first row; when that bar opened, where times are closes of bars of a known interval.
    pub first: Timestamp,
    /// The same of its last row.
    pub last: Timestamp,
    /// The distance of most neighbouring rows; `None` with fewer than two.
    pub distance: Option<Duration>,
    /// The interval of bars that the rows may be; `None` where they tell of none.
    pub interval: Option<Interval>,
    /// What the times must be taken for where no stamp was given and they fit no grid as they stand: closes, as at
    /// `00:59:59.999`, or the dates of days that begin at midnight in a zone with summer time.
    pub stamp: Option<Stamp>,
}

impl FileFetcher {
    /// What the file was found to hold.
    #[must_use]
    pub fn describe(&self) -> FileDescription {
        let opened = &self.0.opened;
        let schema = self.schema();
        let columns = opened.names.iter().zip(schema.fields().iter().skip(1)).map(|((own, name), field)| {
            DescribedColumn { own: own.clone(), name: name.clone(), data_type: field.data_type().clone() }
        });
        let mut symbols: Vec<_> = opened.index.symbols().collect();
        symbols.sort_unstable();
        let series = symbols.into_iter().filter_map(|symbol| {
            let found = opened.index.series(symbol)?;
            self.described(symbol, found)
        });
        let by_name = || self.0.by_name(name::symbol).or_else(|| self.0.by_name(name::capitals));
        FileDescription {
            time_column: opened.time.0.clone(),
            time_form: opened.time.1.clone(),
            columns: columns.collect(),
            series: series.collect(),
            read_of: opened.read_of,
            symbol: opened.sole.as_ref().map(|(_, symbol)| symbol.clone()).or_else(by_name),
        }
    }

    fn described(&self, symbol: &str, found: &Series) -> Option<DescribedSeries> {
        let unit = self.0.opened.unit;
        let (given, rule) = (self.0.config.stamp(), self.0.config.rules.off_grid);
        let (first, last) = (unit.instant(found.first)?, unit.instant(found.last)?);
        let gap = found.gaps.most_frequent().map(|(gap, _)| gap);
        let distance = gap.map(|gap| Duration::from_micros(unit.distance_micros(gap)));
        let by_name = self.0.by_name(name::told).map(|(_, interval)| interval);
        let is_monthly = found.gaps.are_months(unit);
        let plain = distance.and_then(usual).filter(|_| !is_monthly);
        let is_closing = |plain: Interval| {
            let is_moved =
                Stamp::Close.opening(first, plain, rule).is_some_and(|opening| plain.is_on_grid(opening));
            is_moved && !plain.is_on_grid(first) && found.gaps.are_multiples_of(unit.steps(plain))
        };
        let suggested = match plain {
            _ if self.0.config.stamp.is_some() => None,
            Some(plain) if is_closing(plain) => Some(Stamp::Close),
            Some(Interval::DAY) if found.gaps.are_local_days(unit) => Some(Stamp::Date),
            _ => None,
        };
        let stamp = suggested.unwrap_or(given);
        let interval = by_name.or_else(|| {
            let plain = plain?;
            let opening = stamp.opening(first, plain, rule)?;
            // All rows may stand on a grid that begins elsewhere, or all but those before a holiday.
            let fits = plain.through(opening);
            let ends_there = || {
                fits.is_some() && stamp.opening(last, plain, rule).and_then(|ts| plain.through(ts)) == fits
            };
            let is_shifted = !plain.is_on_grid(opening)
                && (found.gaps.are_multiples_of(unit.steps(plain)) || ends_there());
            if is_shifted { fits } else { Some(plain) }
        });
        let opening = |ts| interval.and_then(|interval| stamp.opening(ts, interval, rule)).unwrap_or(ts);
        let (first, last) = (opening(first), opening(last));
        Some(DescribedSeries {
            symbol: symbol.to_owned(),
            rows: found.rows,
            first,
            last,
            distance,
            interval,
            stamp: suggested,
        })
    }
}

impl FileSet {
    /// What the files were found to hold together. Rows are counted of each file, also where several have a bar; what can
    /// be said of one file only is said of the first.
    #[must_use]
    pub fn describe(&self) -> FileDescription {
        let described = self.files().map(|(file, symbol)| {
            let mut found = file.describe();
            if let Some(symbol) = symbol {
                found.symbol = None;
                found.series.iter_mut().for_each(|series| symbol.clone_into(&mut series.symbol));
            }
            found
        });
        described.reduce(FileDescription::joined).unwrap_or_default()
    }
}

impl FileDescription {
    /// With what another file of the same set holds.
    fn joined(mut self, other: Self) -> Self {
        for column in other.columns {
            if self.columns.iter().all(|known| known.name != column.name) {
                self.columns.push(column);
            }
        }
        for series in other.series {
            let is_it = |known: &DescribedSeries| {
                let is_one = known.interval.is_none()
                    || series.interval.is_none()
                    || known.interval == series.interval;
                known.symbol == series.symbol && (series.symbol.is_empty() || is_one)
            };
            match self.series.iter().position(is_it) {
                None => self.series.push(series),
                Some(at) => {
                    let known = &mut self.series[at];
                    known.rows += series.rows;
                    known.first = known.first.min(series.first);
                    known.last = known.last.max(series.last);
                    known.distance = known.distance.or(series.distance);
                    known.interval = known.interval.or(series.interval);
                    known.stamp = known.stamp.or(series.stamp);
                }
            }
        }
        let sum = |(read, of): (u64, u64), (more, all)| (read + more, of + all);
        self.read_of = match (self.read_of, other.read_of) {
            (Some(own), Some(other)) => Some(sum(own, other)),
            (own, other) => own.or(other),
        };
        self
    }
}

/// The interval of bars that lie so far apart: a usual one that is as long within a twentieth, as rows may be late by
/// seconds; else one of as many seconds.
fn usual(distance: Duration) -> Option<Interval> {
    const USUAL: [&str; 22] = [
        "1s", "5s", "10s", "15s", "30s", "1m", "2m", "3m", "5m", "10m", "15m", "30m", "1h", "2h", "3h", "4h",
        "6h", "8h", "12h", "1d", "3d", "1w",
    ];
    let is_near = |interval: &Interval| {
        let length = interval.duration();
        length.abs_diff(distance).saturating_mul(20) <= length
    };
    let usual = USUAL.iter().filter_map(|text| text.parse().ok()).find(is_near);
    usual.or_else(|| format!("{}s", distance.as_secs()).parse().ok().filter(|_| distance.subsec_nanos() == 0))
}
