//! The canonical frame, and how a source's rows are brought into it.
//!
//! A canonical batch has the column `ts` first, `Timestamp(Microsecond, "UTC")` without nulls,
//! strictly ascending, every value on the series' grid; then payload columns of distinct names and
//! any Arrow type that the backend holds. [`check`] decides it, [`normalize`] gets there.

mod columns;
mod normalize;
mod odd;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

pub use columns::{check_types, conform, project, reversed, union};
pub use normalize::{Dropped, Normalized, normalize, normalize_by};
pub use odd::{
    Conflict, NotNumbers, OffGrid, close_slack, close_stamps, differences, is_price, not_numbers, other_grid,
};
pub use rules::{NanRule, OffGridRule, Rules};

use crate::{Error, RangeSet, Result, SeriesKey, Timestamp};

/// The name of the time column.
pub const TS: &str = "ts";

/// The type of the time column.
#[must_use]
pub fn ts_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// The field of the time column.
#[must_use]
pub fn ts_field() -> Field {
    Field::new(TS, ts_type(), false)
}

/// The schema of a series that has no payload column yet.
#[must_use]
pub fn ts_only_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![ts_field()]))
}

/// The schema of a canonical batch: `ts`, then `payload` in order, each nullable, without metadata.
#[must_use]
pub fn schema_of<'a>(payload: impl IntoIterator<Item = (&'a str, DataType)>) -> SchemaRef {
    let payload = payload.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(std::iter::once(ts_field()).chain(payload).collect::<Vec<_>>()))
}

/// A canonical time column of these points.
#[must_use]
pub fn ts_array(points: impl IntoIterator<Item = Timestamp>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from_iter_values(points.into_iter().map(Timestamp::as_micros))
        .with_timezone("UTC")
}

/// The time column of a canonical batch; `Schema` when the batch has none.
pub fn timestamps(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray> {
    batch
        .column_by_name(TS)
        .filter(|column| *column.data_type() == ts_type())
        .map(|column| column.as_primitive::<TimestampMicrosecondType>())
        .ok_or_else(|| Error::schema("the batch has no canonical time column").with("column", TS))
}

/// Where the rows of a canonical batch stand: each is `[ts, ts + interval)`, neighbours joined.
pub fn row_runs(key: &SeriesKey, batch: &RecordBatch) -> Result<RangeSet> {
    let points =
        timestamps(batch)?.values().iter().map(|m| Timestamp::from_micros(*m)).collect::<Result<Vec<_>>>()?;
    Ok(RangeSet::from_sorted_points(points, key.interval))
}

/// Fails with `Schema`, naming series, column and row, unless `batch` is canonical for `key`.
pub fn check(key: &SeriesKey, batch: &RecordBatch) -> Result<()> {
    let fault = |message: &str| Error::schema(message).with("series", key);
    if batch.schema().fields().first().is_none_or(|field| field.name() != TS) {
        return Err(fault("the first column must be ts").with("columns", names(&batch.schema())));
    }
    distinct_names(key, &batch.schema())?;
    if *batch.column(0).data_type() != ts_type() {
        return Err(fault("the time column must be Timestamp(Microsecond, \"UTC\")")
            .with("column", TS)
            .with("type", batch.column(0).data_type()));
    }
    let ts = timestamps(batch)?;
    if let Some(row) = first_null(ts) {
        return Err(fault("a row has no time").with("column", TS).with("row", row));
    }
    let mut previous = None;
    for (row, micros) in ts.values().iter().copied().enumerate() {
        let at = |message: &str| fault(message).with("column", TS).with("row", row).with("value", micros);
        let point = Timestamp::from_micros(micros)
            .map_err(|_| at("a row's time is outside the years 1678 to 9999"))?;
        if !key.interval.is_on_grid(point) {
            return Err(off_grid(key, row, point));
        }
        if previous.is_some_and(|earlier| micros <= earlier) {
            return Err(at("rows must be strictly ascending in time"));
        }
        previous = Some(micros);
    }
    Ok(())
}

fn off_grid(key: &SeriesKey, row: usize, point: Timestamp) -> Error {
    let hint =
        key.interval.floor(point).map_or_else(String::new, |bar| format!("the bar around it opens at {bar}"));
    Error::schema("a row is off the grid")
        .with("series", key)
        .with("column", TS)
        .with("row", row)
        .with("value", point)
        .with("hint", hint)
}

fn first_null(array: &dyn Array) -> Option<usize> {
    array.nulls().and_then(|nulls| nulls.iter().position(|valid| !valid))
}

fn distinct_names(key: &SeriesKey, schema: &Schema) -> Result<()> {
    let mut seen = HashSet::new();
    match schema.fields().iter().find(|field| field.name().is_empty() || !seen.insert(field.name())) {
        Some(field) => Err(Error::schema("column names must be distinct and not empty")
            .with("series", key)
            .with("column", format_args!("{:?}", field.name()))),
        None => Ok(()),
    }
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
