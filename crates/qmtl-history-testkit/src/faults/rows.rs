//! What faults do to rows on their way in and out.

use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type};
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::arrow_select::take::take_record_batch;
use qmtl_history_api::{Error, RangeSet, Result, SeriesKey, TimeRange, Timestamp, frame};

use super::Fault;

/// 2262-04-11, the last day that nanoseconds in 64 bits reach, in microseconds.
const NANOSECONDS_END: i64 = i64::MAX / 1_000;

/// What a read gives instead of `rows`.
pub(super) fn read(fault: Fault, rows: RecordBatch) -> RecordBatch {
    let count = rows.num_rows();
    match fault {
        Fault::DropsLastRow => rows.slice(0, count.saturating_sub(1)),
        Fault::StopsAfterFirstBatch => rows.slice(0, count.min(65_536)),
        Fault::ReversesRows => {
            let order: UInt32Array = (0..u32::try_from(count).expect("rows are few")).rev().collect();
            take_record_batch(&rows, &order).expect("the order names its rows")
        }
        Fault::LosesFarTimes => retain(&rows, |micros| micros <= NANOSECONDS_END),
        Fault::LosesEarlyTimes => retain(&rows, |micros| micros >= 0),
        Fault::SchemaFromRows if count == 0 => RecordBatch::new_empty(frame::ts_only_schema()),
        _ => rows,
    }
}

/// The rows outside `ranges`.
pub(super) fn without(rows: &RecordBatch, ranges: &RangeSet) -> RecordBatch {
    retain(rows, |micros| Timestamp::from_micros(micros).is_ok_and(|ts| !ranges.contains(ts)))
}

fn retain(rows: &RecordBatch, keep: impl Fn(i64) -> bool) -> RecordBatch {
    let ts = frame::timestamps(rows).expect("a read gives a time column").values();
    let mask: BooleanArray = ts.iter().map(|micros| Some(keep(*micros))).collect();
    filter_record_batch(rows, &mask).expect("one answer per row")
}

/// `ts`, then the payload columns from last to first.
pub(super) fn columns_reversed(rows: &RecordBatch) -> RecordBatch {
    let order: Vec<_> = std::iter::once(0).chain((1..rows.num_columns()).rev()).collect();
    rows.project(&order).expect("the order names its columns")
}

/// What a write stores instead of `rows`, in a series of the schema `stored`.
pub(super) fn written(
    fault: Fault,
    key: &SeriesKey,
    rows: RecordBatch,
    stored: &Schema,
) -> Result<RecordBatch> {
    Ok(match fault {
        Fault::WeeksFromThursday => refuse_mondays(key, &rows).map(|()| rows)?,
        Fault::SortsSilently => {
            let sorted = frame::normalize(key, TimeRange::ALL, std::slice::from_ref(&rows));
            sorted.map_or(rows, |sorted| sorted.rows)
        }
        Fault::CastsSilently => {
            each_column(&rows, |field, column| match stored.field_with_name(field.name()) {
                Ok(known) => cast(column, known.data_type()).unwrap_or_else(|_| Arc::clone(column)),
                Err(_) => Arc::clone(column),
            })
        }
        Fault::ColumnsByPosition if stored.fields().len() == rows.num_columns() => {
            RecordBatch::try_new(Arc::new(stored.clone()), rows.columns().to_vec()).unwrap_or(rows)
        }
        Fault::NewColumnsVanish if stored.fields().len() > 1 => {
            let fields = rows.schema_ref().fields();
            let known: Vec<_> =
                (0..fields.len()).filter(|at| stored.index_of(fields[*at].name()).is_ok()).collect();
            rows.project(&known).expect("the columns are its own")
        }
        Fault::NanBecomesNull
        | Fault::ZeroLosesItsSign
        | Fault::EmptyTextBecomesNull
        | Fault::IntegersThroughDoubles => each_column(&rows, |_, column| altered(fault, column)),
        _ => rows,
    })
}

/// The rows with the columns of `old` that they lack, where all of them are in `old`.
pub(super) fn merged(rows: RecordBatch, old: &RecordBatch) -> RecordBatch {
    let points = frame::timestamps(&rows).map(|ts| ts.values().to_vec()).unwrap_or_default();
    let old = retain(old, |micros| points.contains(&micros));
    if old.num_rows() != rows.num_rows() {
        return rows;
    }
    let mut columns: Vec<_> =
        rows.schema_ref().fields().iter().cloned().zip(rows.columns().iter().cloned()).collect();
    for (field, column) in old.schema_ref().fields().iter().zip(old.columns()) {
        if rows.column_by_name(field.name()).is_none() {
            columns.push((Arc::clone(field), Arc::clone(column)));
        }
    }
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
}

fn refuse_mondays(key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
    let interval = key.interval.as_micros();
    match frame::timestamps(rows)?.values().iter().find(|micros| *micros % interval != 0) {
        Some(micros) => Err(Error::schema("a row is off the grid").with("series", key).with("value", micros)),
        None => Ok(()),
    }
}

/// The payload columns put through `change`, which may give another type.
fn each_column(rows: &RecordBatch, change: impl Fn(&Field, &ArrayRef) -> ArrayRef) -> RecordBatch {
    let columns: Vec<_> = rows
        .schema_ref()
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, column)| change(field, column))
        .collect();
    let fields = rows.schema_ref().fields().iter().zip(&columns);
    let fields: Vec<_> = fields
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap_or_else(|_| rows.clone())
}

fn altered(fault: Fault, column: &ArrayRef) -> ArrayRef {
    match (fault, column.data_type()) {
        (Fault::NanBecomesNull, DataType::Float64) => {
            let values = column.as_primitive::<Float64Type>().iter();
            Arc::new(values.map(|value| value.filter(|v| !v.is_nan())).collect::<Float64Array>())
        }
        (Fault::ZeroLosesItsSign, DataType::Float64) => {
            let values = column.as_primitive::<Float64Type>().iter();
            Arc::new(values.map(|value| value.map(|v| v + 0.0)).collect::<Float64Array>())
        }
        (Fault::EmptyTextBecomesNull, DataType::Utf8) => {
            let values = column.as_string::<i32>().iter();
            Arc::new(values.map(|value| value.filter(|v| !v.is_empty())).collect::<StringArray>())
        }
        (Fault::IntegersThroughDoubles, DataType::Int64) => {
            let values = column.as_primitive::<Int64Type>().iter();
            // The low bits that a double has no room for.
            Arc::new(values.map(|value| value.map(|v| v & !0x3ff)).collect::<Int64Array>())
        }
        _ => Arc::clone(column),
    }
}
