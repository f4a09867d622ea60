//! Record batches as the strategy handles them: their size, and several joined into one.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array,
};
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::arrow_select::take::take_record_batch;
use qmtl_history_api::{Error, RangeSet, Result, SeriesKey, Timestamp, frame};

/// Bytes of a batch that no one need mind.
const SMALL: u64 = 4 << 10;

/// Bytes of the rows of `batch`, not of the buffers that they may be slices of.
pub(super) fn bytes(batch: &RecordBatch) -> u64 {
    let of = |column: &ArrayRef| {
        let slice = column.to_data().get_slice_memory_size();
        slice.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(of).sum()
}

/// The same rows without the buffers that they are a small slice of, which would otherwise stay in
/// memory uncounted.
pub(super) fn owned(batch: RecordBatch) -> Result<RecordBatch> {
    let held: usize = batch.columns().iter().map(|column| column.get_array_memory_size()).sum();
    if held as u64 <= 2 * bytes(&batch) + SMALL {
        return Ok(batch);
    }
    let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
    take_record_batch(&batch, &UInt64Array::from_iter_values(0..rows)).map_err(fault)
}

/// The rows of a canonical batch that stand inside of `wanted`.
pub(crate) fn within(batch: &RecordBatch, wanted: &RangeSet) -> Result<RecordBatch> {
    let ts = frame::timestamps(batch)?;
    let is_wanted = ts.values().iter().map(|micros| {
        let point = Timestamp::from_micros(*micros)?;
        Ok(wanted.contains(point))
    });
    let is_wanted = is_wanted.collect::<Result<BooleanArray>>()?;
    if is_wanted.false_count() == 0 {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, &is_wanted).map_err(fault)
}

/// `batch` with its columns called as the series' stored ones where they differ in case alone: `Open` and
/// `open` are one column, or each row would have half of them.
pub(super) fn named_as_stored(batch: &RecordBatch, stored: &SchemaRef) -> RecordBatch {
    let schema = batch.schema();
    let is_here = |name: &str| schema.field_with_name(name).is_ok();
    let mut is_renamed = false;
    let fields = schema.fields().iter().map(|field| {
        let name = field.name();
        let twin = stored.fields().iter().find(|known| known.name().eq_ignore_ascii_case(name));
        match twin.filter(|known| known.name() != name && !is_here(known.name())) {
            Some(known) => {
                is_renamed = true;
                Arc::new(field.as_ref().clone().with_name(known.name()))
            }
            None => Arc::clone(field),
        }
    });
    let renamed = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    if !is_renamed {
        return batch.clone();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    // Names alone differ, so that the columns fit.
    RecordBatch::try_new_with_options(renamed, batch.columns().to_vec(), &options)
        .unwrap_or_else(|_| batch.clone())
}

/// `columns` and what `batch` has besides; `Schema` where a type contradicts.
pub(super) fn with_columns(key: &SeriesKey, columns: &SchemaRef, batch: &RecordBatch) -> Result<SchemaRef> {
    // A type holds for a whole column: the clash is there from the first row on.
    frame::check_types(key, batch.schema_ref(), columns).map_err(|clash| clash.with("row", 0))?;
    frame::union(columns, batch.schema_ref())
}

/// Ascending canonical batches of compatible columns as one; a column that one lacks is null there.
pub(crate) fn join(key: &SeriesKey, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let mut columns = frame::ts_only_schema();
    for batch in batches {
        columns = with_columns(key, &columns, batch)?;
    }
    let widened = batches.iter().map(|batch| frame::conform(batch, &columns)).collect::<Result<Vec<_>>>()?;
    concat_batches(&columns, &widened).map_err(fault)
}

fn fault(error: qmtl_history_api::arrow_schema::ArrowError) -> Error {
    Error::unexpected("cannot join canonical batches").caused_by(error)
}

#[cfg(test)]
mod tests {
    use qmtl_history_api::arrow_schema::DataType;
    use qmtl_history_testkit::fixtures::{bar, bars, key, rows_within, span};

    use super::*;

    fn held(batch: &RecordBatch) -> usize {
        batch.columns().iter().map(|column| column.get_array_memory_size()).sum()
    }

    #[test]
    fn a_row_does_not_keep_the_file_that_it_came_from_in_memory() {
        let key = key("BTC", "1m");
        let file = bars(&key, bar(&key, 0), 10_000);
        let row = rows_within(&file, span(&key, 5_000, 5_001));
        assert_eq!((bytes(&file), bytes(&row)), (480_000, 48));
        let own = owned(row.clone()).unwrap();
        assert_eq!(own, row);
        assert!(held(&row) > 480_000 && held(&own) < 5_000, "{} {}", held(&row), held(&own));
    }

    #[test]
    fn columns_that_differ_in_case_alone_are_the_stored_ones() {
        let key = key("BTC", "1m");
        let all = bars(&key, bar(&key, 0), 4);
        let upper = frame::schema_of(["OPEN", "High"].map(|name| (name, DataType::Float64)));
        let renamed = named_as_stored(&all.project(&[0, 1, 2, 4]).unwrap(), &upper);
        let names = |batch: &RecordBatch| -> Vec<_> {
            batch.schema().fields().iter().map(|field| field.name().clone()).collect()
        };
        assert_eq!(names(&renamed), ["ts", "OPEN", "High", "close"]);
        assert_eq!(names(&named_as_stored(&all, &all.schema())), names(&all));
    }

    #[test]
    fn columns_are_joined_by_name_and_null_where_they_are_lacking() {
        let key = key("BTC", "1m");
        let all = bars(&key, bar(&key, 0), 4);
        let some = all.project(&[0, 4, 1]).unwrap();
        let joined = join(&key, &[some.slice(0, 2), all.slice(2, 2)]).unwrap();
        let names: Vec<_> = joined.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["ts", "close", "open", "high", "low", "volume"]);
        assert_eq!(joined.column(1), all.column(4));
        assert_eq!((joined.column(3).null_count(), joined.column(3).is_null(1)), (2, true));
        assert_eq!(join(&key, &[]).unwrap().num_rows(), 0);
    }
}
