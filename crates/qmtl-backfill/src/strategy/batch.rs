//! Record batches as the strategy handles them: their size, and several joined into one.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{Error, Result, SeriesKey, frame};

/// Bytes of the rows of `batch`, not of the buffers that they may be slices of.
pub(super) fn bytes(batch: &RecordBatch) -> u64 {
    let of = |column: &ArrayRef| {
        let slice = column.to_data().get_slice_memory_size();
        slice.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(of).sum()
}

/// `columns` and what `batch` has besides; `Schema` where a type contradicts.
pub(super) fn with_columns(key: &SeriesKey, columns: &SchemaRef, batch: &RecordBatch) -> Result<SchemaRef> {
    let schema = batch.schema_ref();
    if columns == schema {
        return Ok(Arc::clone(columns));
    }
    // A type holds for a whole column: the clash is there from the first row on.
    frame::check_types(key, schema, columns).map_err(|clash| clash.with("row", 0))?;
    let new = schema.fields().iter().filter(|field| columns.field_with_name(field.name()).is_err());
    Ok(Arc::new(Schema::new(columns.fields().iter().chain(new).cloned().collect::<Vec<_>>())))
}

/// Ascending canonical batches of compatible columns as one; a column that one lacks is null there.
pub(super) fn join(key: &SeriesKey, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let mut columns = frame::ts_only_schema();
    for batch in batches {
        columns = with_columns(key, &columns, batch)?;
    }
    let widened = batches.iter().map(|batch| widen(&columns, batch)).collect::<Result<Vec<_>>>()?;
    concat_batches(&columns, &widened).map_err(fault)
}

/// `batch` with exactly `columns`, in their order.
fn widen(columns: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    if batch.schema_ref() == columns {
        return Ok(batch.clone());
    }
    let column = |name: &str| batch.column_by_name(name).map(Arc::clone);
    let arrays = columns
        .fields()
        .iter()
        .map(|field| {
            column(field.name()).unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options).map_err(fault)
}

fn fault(error: qmtl_history_api::arrow_schema::ArrowError) -> Error {
    Error::unexpected("cannot join canonical batches").caused_by(error)
}
