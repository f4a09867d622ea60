//! Which Arrow types come back from Parquet bit for bit, and how batches take a schema.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use qmtl_history_api::arrow_schema::{DataType, IntervalUnit, SchemaRef};
use qmtl_history_api::{Error, Result};

/// Whether every value of this type survives a round trip, type included.
pub(crate) fn holds(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Null | Boolean => true,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => true,
        Float16 | Float32 | Float64 => true,
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale) => u8::try_from(*scale).is_ok_and(|scale| scale <= *precision),
        Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..) | Duration(_) => true,
        Interval(unit) => *unit != IntervalUnit::MonthDayNano,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        FixedSizeBinary(bytes) => *bytes > 0,
        List(item) | LargeList(item) => holds(item.data_type()),
        FixedSizeList(item, length) => *length > 0 && holds(item.data_type()),
        Struct(fields) => !fields.is_empty() && fields.iter().all(|field| holds(field.data_type())),
        Map(entries, _) => holds(entries.data_type()),
        // Dictionaries of merged rows can outgrow their key type; the rest has no Parquet form.
        Dictionary(..) | RunEndEncoded(..) | Union(..) | ListView(_) | LargeListView(_) => false,
    }
}

/// The batch with exactly the columns of `schema`: matched by name, null where it has none.
/// The types of columns that both have must agree.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect::<Vec<ArrayRef>>();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| Error::unexpected("a batch does not fit the schema of its series").caused_by(e))
}
