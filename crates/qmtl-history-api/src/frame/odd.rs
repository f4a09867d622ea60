//! What can be odd about rows that are kept, or beside them: named, so that somebody can look.

use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ord::ord::make_comparator;
use arrow_schema::{DataType, SortOptions};

use super::{TS, timestamps};
use crate::{Error, Interval, Result, SeriesKey, TimeRange, Timestamp};

/// A row that stands on no point of the grid. Its bar is missing, and the absence of a row at its bar
/// means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct OffGrid {
    /// The time of the row, rounded to a microsecond.
    pub ts: Timestamp,
    /// The grid point before it; `None` before the first one.
    pub bar: Option<Timestamp>,
}

impl OffGrid {
    /// A row at `ts` of bars of `interval`.
    #[must_use]
    pub fn new(ts: Timestamp, interval: Interval) -> Self {
        Self { ts, bar: interval.floor(ts) }
    }

    /// How long after the grid point before it the row stands.
    #[must_use]
    pub fn distance(&self) -> Duration {
        self.bar.map_or(Duration::ZERO, |bar| self.ts.since(bar))
    }

    /// Whether it stands just before a point of the grid, as close times do.
    fn is_close(&self, interval: Interval) -> bool {
        interval.ceil(self.ts).is_some_and(|end| end.since(self.ts) <= close_slack(interval))
    }

    /// The bars that the row may have been meant for: those on both sides of it.
    #[must_use]
    pub fn bars(&self, interval: Interval) -> Option<TimeRange> {
        let bar = self.bar?;
        let end = interval.next(bar).and_then(|next| interval.next(next)).unwrap_or(Timestamp::MAX);
        TimeRange::checked(bar, end)
    }
}

/// What is wrong with a source whose rows, at least two, all stand off the grid in a way that tells of another
/// one: `Schema`, naming the phase that fits or why none does; `None` where they tell of none.
#[must_use]
pub fn other_grid(key: &SeriesKey, rows: &[OffGrid]) -> Option<Error> {
    let fault = |message: String| Error::schema(message).with("series", key).with("first", rows[0].ts);
    if let Some(told) = close_stamps(key.interval, rows).filter(|_| rows.len() > 1) {
        return Some(fault(told));
    }
    let mut fitting: Vec<_> = rows.iter().map(|row| key.interval.through(row.ts)).collect::<Option<_>>()?;
    fitting.sort_unstable();
    fitting.dedup();
    match fitting[..] {
        [fits] if rows.len() > 1 => Some(fault(format!(
            "no row is on the grid of {}, but all are on that of {fits}: use that interval",
            key.interval
        ))),
        [early, late] if late.phase_secs() - early.phase_secs() == SUMMER_TIME_SECS => Some(
            fault(format!(
                "no row is on the grid of {}: bars begin at two times of day an hour apart, as days do in a zone with \
                 summer time; store each by its date (with_stamp date)",
                key.interval
            ))
            .with("fitting", format_args!("{early}, {late}")),
        ),
        _ => None,
    }
}

/// How long before the end of a bar its close time may stand: exchanges write the last microsecond or millisecond of it,
/// or, of bars of a minute and longer, the last second.
#[must_use]
pub fn close_slack(interval: Interval) -> Duration {
    if interval >= Interval::MINUTE { Duration::from_secs(1) } else { Duration::from_millis(1) }
}

/// What is wrong where all rows stand just before the end of a bar, as close times do; `None` where not all do.
#[must_use]
pub fn close_stamps(interval: Interval, rows: &[OffGrid]) -> Option<String> {
    let are_close = !rows.is_empty() && rows.iter().all(|row| row.is_close(interval));
    are_close.then(|| {
        format!(
            "every row stands at the end of a bar of {interval}: they are stamped with their close (with_stamp close)"
        )
    })
}

/// How much later clocks stand in summer.
const SUMMER_TIME_SECS: i64 = 3_600;

/// Two rows of one time that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// Their time.
    pub ts: Timestamp,
    /// The first column in which they differ.
    pub column: String,
    /// Its value in the row that stays.
    pub kept: String,
    /// Its value in the row that does not.
    pub other: String,
}

/// A column in which some values are no numbers: NaN in any column of floating-point numbers, and also null and infinity
/// in one of prices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotNumbers {
    /// The column.
    pub column: String,
    /// The rows with such a value there.
    pub rows: u64,
    /// The first of them.
    pub first: Timestamp,
}

impl NotNumbers {
    /// The rows in which `column` has none, given its values and the times of the rows; `None` without any.
    #[must_use]
    pub fn of(column: &str, values: &[f64], times: impl Fn(usize) -> Timestamp) -> Option<Self> {
        let is_price = is_price(column);
        let first = values.iter().position(|value| is_none(*value, is_price))?;
        let rows = values[first..].iter().filter(|value| is_none(**value, is_price)).count() as u64;
        Some(Self { column: column.to_owned(), rows, first: times(first) })
    }
}

/// The rows of `new` that differ from the row of the same time in `old`, each by the first column that both
/// have and in which it does: `kept` is the value in `old`, `other` that in `new`. Columns of another type
/// are passed over.
///
/// `Schema` when one of the batches is not canonical, or a type cannot be compared.
pub fn differences(old: &RecordBatch, new: &RecordBatch) -> Result<Vec<Conflict>> {
    let (before, after) = (timestamps(old)?.values(), timestamps(new)?.values());
    let schema = new.schema();
    let mut shared = Vec::new();
    for field in schema.fields().iter().filter(|field| field.name() != TS) {
        let pair = old.column_by_name(field.name()).zip(new.column_by_name(field.name()));
        if let Some((was, is)) = pair.filter(|(was, is)| was.data_type() == is.data_type()) {
            let order = make_comparator(was, is, SortOptions::default()).map_err(|e| {
                Error::schema("rows cannot be compared in a column of this type").caused_by(e)
            })?;
            shared.push((field.name(), was, is, order));
        }
    }
    let mut found = Vec::new();
    let mut row = 0;
    for (at, micros) in after.iter().enumerate() {
        row += before[row..].partition_point(|earlier| earlier < micros);
        if before.get(row) != Some(micros) {
            continue;
        }
        if let Some((name, was, is, _)) = shared.iter().find(|(.., order)| !order(row, at).is_eq()) {
            found.push(Conflict {
                ts: Timestamp::from_micros(*micros)?,
                column: (*name).clone(),
                kept: shown(was, row)?,
                other: shown(is, at)?,
            });
        }
    }
    Ok(found)
}

/// Whether a column of this name holds prices, of which every bar has one.
#[must_use]
pub fn is_price(column: &str) -> bool {
    ["open", "high", "low", "close"].iter().any(|price| column.eq_ignore_ascii_case(price))
}

/// Where in the rows of a canonical batch a number is none, by column: see [`NotNumbers`].
#[must_use]
pub fn not_numbers(rows: &RecordBatch) -> Vec<NotNumbers> {
    let Ok(ts) = timestamps(rows) else { return Vec::new() };
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    columns
        .filter_map(|(field, column)| {
            let is_none = none_at(field.name(), column)?;
            let mut rows = (0..column.len()).filter(|row| is_none(*row));
            let first = Timestamp::from_micros(ts.value(rows.next()?)).ok()?;
            Some(NotNumbers { column: field.name().clone(), rows: 1 + rows.count() as u64, first })
        })
        .collect()
}

/// Of each row of a canonical batch whether it has NaN or null in a column of prices.
pub(super) fn no_price(rows: &RecordBatch) -> Vec<bool> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let prices = columns.filter(|(field, _)| is_price(field.name()));
    let none: Vec<_> = prices.filter_map(|(field, column)| none_at(field.name(), column)).collect();
    (0..rows.num_rows()).map(|row| none.iter().any(|is_none| is_none(row))).collect()
}

/// Whether a value is no number; an infinite one is no price.
fn is_none(value: f64, is_price: bool) -> bool {
    value.is_nan() || (is_price && value.is_infinite())
}

/// Tells of a row of a column whether its number is none; `None` for a column that has all of them.
fn none_at<'a>(name: &str, column: &'a ArrayRef) -> Option<Box<dyn Fn(usize) -> bool + 'a>> {
    let is_price = is_price(name);
    let counts_nulls = is_price && column.null_count() > 0;
    let is_null = move |row: usize| counts_nulls && column.is_null(row);
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            let has_none = values.iter().any(|value| is_none(*value, is_price));
            let is_none = move |row: usize| is_none(values[row], is_price) && column.is_valid(row);
            (has_none || counts_nulls).then(|| Box::new(move |row| is_none(row) || is_null(row)) as _)
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            let is_none = move |row: usize| is_none(values[row].into(), is_price) && column.is_valid(row);
            Some(Box::new(move |row| is_none(row) || is_null(row)))
        }
        _ => counts_nulls.then(|| Box::new(is_null) as _),
    }
}

/// How two rows of `batch` contradict each other in the column at `column`.
pub(super) fn conflict(
    batch: &RecordBatch,
    micros: i64,
    column: usize,
    [kept, other]: [u32; 2],
) -> Result<Conflict> {
    let values = batch.column(column);
    Ok(Conflict {
        ts: Timestamp::from_micros(micros)?,
        column: batch.schema().field(column).name().clone(),
        kept: shown(values, kept as usize)?,
        other: shown(values, other as usize)?,
    })
}

/// A value of a column as people read it.
fn shown(column: &ArrayRef, row: usize) -> Result<String> {
    let fault = |e| Error::unexpected("cannot show a value of a column").caused_by(e);
    let options = FormatOptions::default().with_null("null");
    let values = ArrayFormatter::try_new(column, &options).map_err(fault)?;
    values.value(row).try_to_string().map_err(fault)
}
