//! Rows of the PostgreSQL wire into record batches, and batches into the canonical frame.

use std::sync::Arc;

use qmtl_history_api::arrow_array::builder::{
    BooleanBuilder, Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
    StringBuilder, TimestampMicrosecondBuilder, TimestampMillisecondBuilder,
};
use qmtl_history_api::arrow_array::{
    ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::{Error, Interval, Result, Timestamp, frame};
use tokio_postgres::Row;

use super::wire::Micros;
use crate::schema::{Column, Kind, Time};

/// A column that grows.
enum Growing {
    F64(Float64Builder),
    F32(Float32Builder),
    I64(Int64Builder),
    I32(Int32Builder),
    I16(Int16Builder),
    I8(Int8Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    Micros(TimestampMicrosecondBuilder),
    Millis(TimestampMillisecondBuilder),
}

impl Growing {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Double => Self::F64(Float64Builder::new()),
            Kind::Float => Self::F32(Float32Builder::new()),
            Kind::Long => Self::I64(Int64Builder::new()),
            Kind::Int => Self::I32(Int32Builder::new()),
            Kind::Short => Self::I16(Int16Builder::new()),
            Kind::Byte => Self::I8(Int8Builder::new()),
            Kind::Boolean => Self::Bool(BooleanBuilder::new()),
            Kind::Timestamp => Self::Micros(TimestampMicrosecondBuilder::new()),
            Kind::Date => Self::Millis(TimestampMillisecondBuilder::new()),
            Kind::Varchar | Kind::Text | Kind::Other => Self::Text(StringBuilder::new()),
        }
    }

    fn take(&mut self, row: &Row, at: usize) -> Result<(), tokio_postgres::Error> {
        match self {
            Self::F64(column) => column.append_option(row.try_get(at)?),
            Self::F32(column) => column.append_option(row.try_get(at)?),
            Self::I64(column) => column.append_option(row.try_get(at)?),
            Self::I32(column) => column.append_option(row.try_get(at)?),
            Self::I16(column) => column.append_option(row.try_get(at)?),
            Self::I8(column) => {
                let value: Option<i16> = row.try_get(at)?;
                column.append_option(value.and_then(|value| i8::try_from(value).ok()));
            }
            Self::Bool(column) => column.append_option(row.try_get(at)?),
            Self::Text(column) => column.append_option(row.try_get::<_, Option<&str>>(at)?),
            Self::Micros(column) => column.append_option(row.try_get::<_, Option<Micros>>(at)?.map(|m| m.0)),
            Self::Millis(column) => {
                column.append_option(row.try_get::<_, Option<Micros>>(at)?.map(|m| m.0.div_euclid(1_000)));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::F64(column) => Arc::new(column.finish()),
            Self::F32(column) => Arc::new(column.finish()),
            Self::I64(column) => Arc::new(column.finish()),
            Self::I32(column) => Arc::new(column.finish()),
            Self::I16(column) => Arc::new(column.finish()),
            Self::I8(column) => Arc::new(column.finish()),
            Self::Bool(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
            Self::Micros(column) => Arc::new(column.finish().with_timezone("UTC")),
            Self::Millis(column) => Arc::new(column.finish().with_timezone("UTC")),
        }
    }
}

/// A batch in the making.
pub(crate) struct Gather {
    schema: SchemaRef,
    time: Time,
    ts: Vec<i64>,
    columns: Vec<Growing>,
}

impl Gather {
    pub(crate) fn new(schema: SchemaRef, time: Time, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|column| Growing::new(column.kind)).collect();
        Self { schema, time, ts: Vec::new(), columns }
    }

    pub(crate) fn rows(&self) -> usize {
        self.ts.len()
    }

    /// Takes a row of `ts` and the columns.
    pub(crate) fn take(&mut self, row: &Row) -> Result<()> {
        let fault =
            |e| Error::unexpected("a row of QuestDB has another shape than its statement").caused_by(e);
        self.ts.push(match self.time {
            Time::Designated => row.try_get::<_, Micros>(0).map_err(fault)?.0,
            Time::Seconds => row.try_get::<_, i64>(0).map_err(fault)?.saturating_mul(1_000_000),
        });
        self.columns
            .iter_mut()
            .enumerate()
            .try_for_each(|(index, column)| column.take(row, index + 1))
            .map_err(fault)
    }

    /// The rows so far; the next ones start a new batch.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let ts = TimestampMicrosecondArray::from(std::mem::take(&mut self.ts)).with_timezone("UTC");
        let rows = ts.len();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ts)];
        columns.extend(self.columns.iter_mut().map(Growing::finish));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)
            .map_err(|e| Error::unexpected("rows of QuestDB do not fit their schema").caused_by(e))
    }
}

/// Ascending rows without those off the grid and without repeated times, of which the first stays.
/// `after` is the time of the last row that was given out; it moves on.
pub(crate) fn canonical(
    batch: RecordBatch,
    interval: Interval,
    after: &mut Option<i64>,
) -> Result<RecordBatch> {
    let ts = frame::timestamps(&batch)?.values();
    let mut last = *after;
    let keep: Vec<bool> = ts
        .iter()
        .map(|micros| {
            let is_new = last.is_none_or(|last| *micros > last);
            let keep = is_new && Timestamp::from_micros(*micros).is_ok_and(|ts| interval.is_on_grid(ts));
            if keep {
                last = Some(*micros);
            }
            keep
        })
        .collect();
    *after = last;
    if keep.iter().all(|keep| *keep) {
        return Ok(batch);
    }
    filter_record_batch(&batch, &BooleanArray::from(keep))
        .map_err(|e| Error::unexpected("cannot leave out rows").caused_by(e))
}

#[cfg(test)]
mod tests {
    use qmtl_history_testkit::fixtures::{bar, batch, key};

    use super::*;

    #[test]
    fn rows_off_the_grid_and_repeated_times_are_left_out_across_batches() {
        let key = key("BTC", "1m");
        let off = bar(&key, 1).checked_add_micros(5).unwrap();
        let points = [bar(&key, 0), bar(&key, 0), bar(&key, 1), off, bar(&key, 2)];
        let mut after = None;
        let kept = canonical(batch(&points, []), key.interval, &mut after).unwrap();
        assert_eq!(kept, batch(&[bar(&key, 0), bar(&key, 1), bar(&key, 2)], []));
        let kept = canonical(batch(&[bar(&key, 2), bar(&key, 3)], []), key.interval, &mut after).unwrap();
        assert_eq!(kept, batch(&[bar(&key, 3)], []));
    }
}
