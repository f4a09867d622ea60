//! Events as rows: one with its time, many in one batch, the last of each time.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{RecordBatch, UInt32Array};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::arrow_select::take::take_record_batch;
use qmtl_history_api::{Error, Result, SeriesKey, StreamKind, Timestamp, frame};

use crate::values;

/// One event as a row with its time.
pub(super) fn event(
    key: &SeriesKey,
    kind: StreamKind,
    ts: Timestamp,
    payload: &RecordBatch,
) -> Result<RecordBatch> {
    let fault = |message: &str| Error::schema(message).with("series", key).with("ts", ts);
    if payload.num_rows() != 1 {
        return Err(fault("an event has exactly one row").with("rows", payload.num_rows()));
    }
    if payload.column_by_name(frame::TS).is_some() {
        return Err(
            fault("an event's payload has no time column; its time is given apart").with("column", frame::TS)
        );
    }
    if kind == StreamKind::Bars && !key.interval.is_on_grid(ts) {
        return Err(fault("a bar must open on the grid of its interval; bind the stream as one of events"));
    }
    let schema = payload.schema();
    let fields = schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone()));
    let mut columns = vec![Arc::new(frame::ts_array([ts])) as _];
    columns.extend(payload.columns().iter().cloned());
    let event = RecordBatch::try_new(frame::schema_of(fields), columns)
        .map_err(|e| Error::unexpected("an event makes no row").caused_by(e))?;
    values::columns(key, &event)?;
    Ok(event)
}

/// Rows of one series in one batch with the columns of all, null where a row has none.
pub(super) fn joined(rows: &[RecordBatch]) -> Result<RecordBatch> {
    let fault = |e| Error::schema("events of one series have a column of two types").caused_by(e);
    let schema =
        rows.iter().try_fold(frame::ts_only_schema(), |all, rows| frame::union(&all, rows.schema_ref()));
    let schema = schema.map_err(fault)?;
    let widened = rows.iter().map(|rows| frame::conform(rows, &schema)).collect::<Result<Vec<_>>>()?;
    concat_batches(&schema, &widened).map_err(|e| Error::unexpected("cannot join events").caused_by(e))
}

/// The rows by time; of bars of one time the last that came.
pub(super) fn by_time(rows: &RecordBatch, kind: StreamKind) -> Result<RecordBatch> {
    let ts = frame::timestamps(rows)?.values();
    if ts.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(rows.clone());
    }
    let mut order: Vec<usize> = (0..ts.len()).collect();
    order.sort_by_key(|row| ts[*row]);
    order.dedup_by(|later, kept| {
        let is_same = kind == StreamKind::Bars && ts[*later] == ts[*kept];
        if is_same {
            *kept = *later;
        }
        is_same
    });
    let order = order.into_iter().map(|row| u32::try_from(row).unwrap_or(u32::MAX));
    take_record_batch(rows, &order.collect::<UInt32Array>())
        .map_err(|e| Error::unexpected("cannot order events").caused_by(e))
}
