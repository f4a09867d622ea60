//! What can be odd about rows that are kept, or beside them: named, so that somebody can look.

use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ord::ord::make_comparator;
use arrow_schema::{DataType, SortOptions};

use super::{TS, timestamps};
use crate::{Error, Interval, Result, TimeRange, Timestamp};

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

    /// The bars that the row may have been meant for: those on both sides of it.
    #[must_use]
    pub fn bars(&self, interval: Interval) -> Option<TimeRange> {
        let bar = self.bar?;
        let end = interval.next(bar).and_then(|next| interval.next(next)).unwrap_or(Timestamp::MAX);
        TimeRange::checked(bar, end)
    }
}

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

/// A column of floating-point numbers in which some values are none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotNumbers {
    /// The column.
    pub column: String,
    /// Rows with NaN there.
    pub rows: u64,
    /// The first of them.
    pub first: Timestamp,
}

impl NotNumbers {
    /// The rows in which `column` has NaN, given its values and the times of the rows; `None` without any.
    #[must_use]
    pub fn of(column: &str, values: &[f64], times: impl Fn(usize) -> Timestamp) -> Option<Self> {
        let first = values.iter().position(|value| value.is_nan())?;
        let rows = values[first..].iter().filter(|value| value.is_nan()).count() as u64;
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

/// Where in the rows of a canonical batch a floating-point number is none, by column.
#[must_use]
pub fn not_numbers(rows: &RecordBatch) -> Vec<NotNumbers> {
    let Ok(ts) = timestamps(rows) else { return Vec::new() };
    let nan_at = |column: &ArrayRef| -> Vec<usize> {
        match column.data_type() {
            DataType::Float64 => positions(column.as_primitive::<Float64Type>().iter(), f64::is_nan),
            DataType::Float32 => positions(column.as_primitive::<Float32Type>().iter(), f32::is_nan),
            _ => Vec::new(),
        }
    };
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    columns
        .filter_map(|(field, column)| {
            let at = nan_at(column);
            let first = Timestamp::from_micros(ts.value(*at.first()?)).ok()?;
            Some(NotNumbers { column: field.name().clone(), rows: at.len() as u64, first })
        })
        .collect()
}

fn positions<T>(values: impl Iterator<Item = Option<T>>, is: fn(T) -> bool) -> Vec<usize> {
    values.enumerate().filter_map(|(at, value)| value.is_some_and(is).then_some(at)).collect()
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
