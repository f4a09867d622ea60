//! Which instants the times on local clocks are.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, MappedLocalTime, Offset, TimeZone};
use chrono_tz::Tz;
use qmtl_history_api::{Error, Result};

use super::stamp::Stamp;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// The time zone of times that do not say how far they are from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Named(Tz),
    Fixed(FixedOffset),
}

/// Reads a name of the IANA database, such as `America/New_York`, `EST` (which has no summer time) or `UTC`, or an
/// offset such as `+05:30`.
impl FromStr for Zone {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with(['+', '-'])
            && let Ok(offset) = text.parse::<FixedOffset>()
        {
            return Ok(Self(Kind::Fixed(offset)));
        }
        if let Some(zone) = chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(text))
        {
            return Ok(Self(Kind::Named(*zone)));
        }
        let wanted: String = text.chars().take(64).collect::<String>().to_lowercase();
        let distance = |zone: &&Tz| {
            let name = zone.name().to_lowercase();
            let city = name.rsplit('/').next().unwrap_or(&name);
            strsim::levenshtein(&wanted, &name).min(strsim::levenshtein(&wanted, city))
        };
        let nearest = chrono_tz::TZ_VARIANTS.iter().min_by_key(distance).map_or("", |zone| zone.name());
        Err(Error::invalid(
            "not a time zone: use a name of the IANA database such as America/New_York, or an offset such as +05:30",
        )
        .with("zone", format_args!("{text:?}"))
        .with("nearest", nearest))
    }
}

/// Prints what [`Zone::from_str`] reads.
impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Named(zone) => f.write_str(zone.name()),
            Kind::Fixed(offset) => write!(f, "{offset}"),
        }
    }
}

impl Zone {
    /// How far clocks are ahead of UTC when they show a time, in microseconds; two values where they show it twice, the
    /// one that comes first before the other.
    fn offsets(self, wall: i64) -> MappedLocalTime<i64> {
        let Some(naive) = DateTime::from_timestamp_micros(wall).map(|time| time.naive_utc()) else {
            return MappedLocalTime::None;
        };
        let micros = |offset: FixedOffset| i64::from(offset.local_minus_utc()) * 1_000_000;
        match self.0 {
            Kind::Named(zone) => zone.offset_from_local_datetime(&naive).map(|offset| micros(offset.fix())),
            Kind::Fixed(offset) => MappedLocalTime::Single(micros(offset)),
        }
    }

    /// What clocks show at an instant, both in microseconds.
    fn wall(self, instant: i64) -> Option<i64> {
        let time = DateTime::from_timestamp_micros(instant)?;
        let offset = match self.0 {
            Kind::Named(zone) => zone.offset_from_utc_datetime(&time.naive_utc()).fix(),
            Kind::Fixed(offset) => offset,
        };
        instant.checked_add(i64::from(offset.local_minus_utc()) * 1_000_000)
    }
}

/// A time as clocks show it, in microseconds as if it were UTC, and how far they are ahead of UTC if that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wall {
    pub(super) micros: i64,
    pub(super) offset: Option<i64>,
}

/// How the times of a file become instants, beyond their unit and their form.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    zone: Option<Zone>,
    is_date: bool,
    /// How the hours that clocks show twice are read; `None` until a scan has seen all rows.
    folds: Option<Arc<Folds>>,
}

impl Local {
    pub(super) fn new(zone: Option<Zone>, stamp: Stamp) -> Self {
        Self { zone, is_date: stamp == Stamp::Date, folds: None }
    }

    /// Whether times are instants as they stand.
    pub(super) fn is_plain(&self) -> bool {
        self.zone.is_none() && !self.is_date
    }

    /// Whether times are dates, whatever time of day they have.
    pub(super) fn is_date(&self) -> bool {
        self.is_date
    }

    /// Whether a scan must look at all rows before the time of one can be told.
    pub(super) fn is_open(&self) -> bool {
        self.zone.is_some() && !self.is_date && self.folds.is_none()
    }

    /// Knows how doubled hours are read.
    pub(super) fn decided(mut self, folds: Folds) -> Self {
        self.folds = Some(Arc::new(folds));
        self
    }

    /// The instant of what clocks showed in a row of `symbol`, in microseconds; while this is open, what they showed.
    pub(super) fn instant(&self, wall: Wall, symbol: &str, row: u64) -> Result<i64> {
        let Wall { micros, offset } = wall;
        match (self.zone, &self.folds) {
            // In UTC, as programs write instants, the date is that of the zone; any other offset is that of the exchange.
            (Some(_), _) if self.is_date && offset == Some(0) => Ok(self.of_instant(micros)),
            _ if self.is_date => Ok(micros.div_euclid(DAY) * DAY),
            (Some(zone), folds) if offset.is_none() => match (zone.offsets(micros), folds) {
                (_, None) => Ok(micros),
                (MappedLocalTime::Single(offset), _) => Ok(micros - offset),
                (MappedLocalTime::Ambiguous(early, late), Some(folds)) => {
                    let is_early = folds.is_first(symbol, fold_of(micros, early, late), row);
                    Ok(micros - if is_early { early } else { late })
                }
                (MappedLocalTime::None, _) => Err(Error::schema(
                    "a time is none in its time zone: clocks were put forward over it; correct it, or give another zone \
                     (with_zone)",
                )
                .with("zone", zone)),
            },
            _ => Ok(micros - offset.unwrap_or(0)),
        }
    }

    /// The instant of a value that counts from the epoch, in microseconds.
    pub(super) fn of_instant(&self, micros: i64) -> i64 {
        if !self.is_date {
            return micros;
        }
        let wall = self.zone.map_or(Some(micros), |zone| zone.wall(micros)).unwrap_or(micros);
        wall.div_euclid(DAY) * DAY
    }

    /// Looks at a row of an open scan.
    pub(super) fn see(&self, folds: &mut FoldsSeen, wall: Wall, symbol: &str, row: u64) {
        let Some(zone) = self.zone.filter(|_| wall.offset.is_none()) else { return };
        let series = match folds.series.get_mut(symbol) {
            Some(series) => series,
            None => folds.series.entry(symbol.to_owned()).or_insert_with(|| Ends::new(wall.micros)),
        };
        series.last = wall.micros;
        if let MappedLocalTime::Ambiguous(early, late) = zone.offsets(wall.micros) {
            let at = (symbol.to_owned(), fold_of(wall.micros, early, late));
            folds.hours.entry(at).or_insert_with(|| Hour::new(row)).take(wall.micros, row);
        }
    }
}

/// What tells the doubled hours of a zone apart: the day in which they lie.
fn fold_of(wall: i64, early: i64, late: i64) -> i64 {
    // No zone has two within this time.
    (wall - early.min(late)).div_euclid(30 * DAY)
}

/// In which row of each series the second run through a doubled hour begins, and whether that is the later one.
#[derive(Clone, Debug, Default)]
pub(super) struct Folds(HashMap<(String, i64), (u64, bool)>);

impl Folds {
    fn is_first(&self, symbol: &str, fold: i64, row: u64) -> bool {
        let split = self.0.get(&(symbol.to_owned(), fold));
        split.is_none_or(|(second, is_ascending)| (row < *second) == *is_ascending)
    }
}

/// The rows in doubled hours that a scan has met.
#[derive(Debug, Default)]
pub(super) struct FoldsSeen {
    series: HashMap<String, Ends>,
    hours: HashMap<(String, i64), Hour>,
}

/// The times of a series' first and last row.
#[derive(Debug)]
struct Ends {
    first: i64,
    last: i64,
}

impl Ends {
    fn new(first: i64) -> Self {
        Self { first, last: first }
    }
}

/// How the rows of a series go through an hour that comes twice.
#[derive(Debug)]
struct Hour {
    first_row: u64,
    last: Option<i64>,
    /// How often a time is not after the one before it, and where the last time.
    not_later: (u64, u64),
    /// The same for times that are not before it.
    not_earlier: (u64, u64),
}

impl Hour {
    fn new(row: u64) -> Self {
        Self { first_row: row, last: None, not_later: (0, 0), not_earlier: (0, 0) }
    }

    fn take(&mut self, wall: i64, row: u64) {
        if let Some(last) = self.last {
            if wall <= last {
                self.not_later = (self.not_later.0 + 1, row);
            }
            if wall >= last {
                self.not_earlier = (self.not_earlier.0 + 1, row);
            }
        }
        self.last = Some(wall);
    }
}

impl FoldsSeen {
    /// How doubled hours are read: where the rows of a series go through one twice, in the order of the file.
    ///
    /// `Schema` where they do not, naming the first row; `place` is what it is counted in.
    pub(super) fn decide(self, zone: Option<Zone>, place: &'static str) -> Result<Folds> {
        let mut folds = HashMap::new();
        let mut hours: Vec<_> = self.hours.into_iter().collect();
        hours.sort_unstable_by_key(|(_, hour)| hour.first_row);
        for ((symbol, fold), hour) in hours {
            let is_ascending = self.series.get(&symbol).is_none_or(|ends| ends.first <= ends.last);
            let (times, second) = if is_ascending { hour.not_later } else { hour.not_earlier };
            if times != 1 {
                let zone = zone.map(|zone| zone.to_string()).unwrap_or_default();
                return Err(Error::schema(
                    "a time comes twice in its time zone, where clocks were put back, and the rows do not tell which of \
                     the two is meant, as they do not go through that hour twice; write the offset from UTC behind the times",
                )
                .with(place, hour.first_row)
                .with("zone", zone));
            }
            folds.insert((symbol, fold), (second, is_ascending));
        }
        Ok(Folds(folds))
    }
}

#[cfg(test)]
mod tests {
    use qmtl_history_api::Timestamp;

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn zone(name: &str) -> Zone {
        name.parse().unwrap()
    }

    fn wall(text: &str) -> Wall {
        Wall { micros: text.parse::<Timestamp>().unwrap().as_micros(), offset: None }
    }

    /// The instants of rows of one series.
    fn read(name: &str, rows: &[&str]) -> Result<Vec<String>> {
        let local = Local::new(Some(zone(name)), Stamp::Open);
        let mut seen = FoldsSeen::default();
        for (row, text) in (1..).zip(rows) {
            local.see(&mut seen, wall(text), "", row);
        }
        let local = local.decided(seen.decide(Some(zone(name)), "row")?);
        let instant = |(row, text): (u64, &&str)| {
            let micros = local.instant(wall(text), "", row)?;
            Ok(Timestamp::from_micros(micros)?.to_string())
        };
        (1..).zip(rows).map(instant).collect()
    }

    #[test]
    fn a_zone_has_a_name_or_an_offset() {
        for text in ["America/New_York", "EST", "UTC", "Europe/Berlin", "Etc/GMT+5", "+05:30", "-03:00"] {
            assert_eq!(zone(text).to_string(), text);
        }
        assert_eq!(zone("us/eastern"), zone("US/Eastern"));
        let error = "New_Yrok".parse::<Zone>().unwrap_err().to_string();
        assert!(error.contains("nearest: America/New_York"), "{error}");
    }

    #[test]
    fn the_hour_that_comes_twice_is_read_in_the_order_of_the_rows() {
        let new_york = |rows: &[&str]| read("America/New_York", rows);
        let day = |times: &[&str]| times.iter().map(|time| format!("2024-11-03T{time}")).collect::<Vec<_>>();
        let read = |times: &[&str]| {
            let times = day(times);
            new_york(&times.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let utc = |times: &[&str]| times.iter().map(|time| format!("2024-11-03T{time}Z")).collect::<Vec<_>>();
        assert_eq!(
            read(&["00:00", "01:00", "01:00", "02:00"]).unwrap(),
            utc(&["04:00:00", "05:00:00", "06:00:00", "07:00:00"])
        );
        assert_eq!(
            read(&["02:00", "01:00", "01:00", "00:00"]).unwrap(),
            utc(&["07:00:00", "06:00:00", "05:00:00", "04:00:00"]),
            "newest first"
        );
        assert_eq!(
            read(&["01:20", "01:40", "01:00", "01:40", "02:00"]).unwrap(),
            utc(&["05:20:00", "05:40:00", "06:00:00", "06:40:00", "07:00:00"])
        );
        for untold in [&["00:00", "01:00", "02:00"][..], &["01:00", "01:00", "01:30", "01:30"], &["01:30"]] {
            let error = read(untold).unwrap_err().to_string();
            assert!(error.contains("a time comes twice in its time zone"), "{error}");
        }
    }

    #[test]
    fn summer_and_winter_have_their_offsets_and_skipped_hours_none() {
        let new_york = |text: &str| read("America/New_York", &[text]).map(|times| times[0].clone());
        assert_eq!(new_york("2024-07-01T09:30").unwrap(), "2024-07-01T13:30:00Z");
        assert_eq!(new_york("2024-01-02T09:30").unwrap(), "2024-01-02T14:30:00Z");
        let error = new_york("2024-03-10T02:30").unwrap_err().to_string();
        assert!(error.contains("none in its time zone"), "{error}");
        assert_eq!(read("EST", &["2024-07-01T17:04"]).unwrap(), ["2024-07-01T22:04:00Z"]);
        assert_eq!(read("+05:30", &["2024-07-01T09:15"]).unwrap(), ["2024-07-01T03:45:00Z"]);
    }

    #[test]
    fn a_date_is_that_on_the_clocks_of_the_exchange() {
        let date = |name: Option<&str>, wall: Wall| {
            let local = Local::new(name.map(zone), Stamp::Date);
            Timestamp::from_micros(local.instant(wall, "", 1).unwrap()).unwrap().to_string()
        };
        let midnight = Wall { offset: Some(-5 * HOUR), ..wall("2024-03-08T00:00") };
        assert_eq!(date(None, midnight), "2024-03-08T00:00:00Z");
        assert_eq!(date(Some("Asia/Tokyo"), midnight), "2024-03-08T00:00:00Z", "what is told counts");
        let local = Local::new(Some(zone("America/New_York")), Stamp::Date);
        let at = |text: &str| wall(text).micros;
        assert_eq!(local.of_instant(at("2024-03-11T04:00")), at("2024-03-11T00:00"));
        assert_eq!(local.of_instant(at("2024-03-08T05:00")), at("2024-03-08T00:00"));
    }
}
