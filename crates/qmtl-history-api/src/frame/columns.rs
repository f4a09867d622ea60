//! Columns of several batches as those of one series.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::take::take_record_batch;

use super::{TS, schema_of};
use crate::{Error, ErrorKind, Result, SeriesKey};

/// Fails with `Schema`, naming series and column, when a column of `batch` has another type than the stored
/// column of its name.
pub fn check_types(key: &SeriesKey, batch: &Schema, stored: &Schema) -> Result<()> {
    match clash(stored, batch) {
        None => Ok(()),
        Some((known, given)) => Err(Error::schema(
            "the column is stored with another type; give the new one another name, or leave it out \
             (with_column)",
        )
        .with("series", key)
        .with("column", given.name())
        .with("stored", known.data_type())
        .with("given", given.data_type())),
    }
}

/// The first column that both have with two types.
fn clash<'a>(stored: &'a Schema, given: &'a Schema) -> Option<(&'a Field, &'a Field)> {
    given.fields().iter().find_map(|field| {
        let known = stored.field_with_name(field.name()).ok()?;
        (known.data_type() != field.data_type()).then_some((known, &**field))
    })
}

/// `columns`, which are those of a canonical batch, and behind them those that `more` has besides, in its order.
///
/// `Schema`, naming the column, where both have one of that name with two types.
pub fn union(columns: &SchemaRef, more: &Schema) -> Result<SchemaRef> {
    if let Some((known, given)) = clash(columns, more) {
        return Err(Error::schema("a column has two types")
            .with("column", given.name())
            .with("type", known.data_type())
            .with("other", given.data_type()));
    }
    let is_new = |field: &&Arc<Field>| field.name() != TS && columns.field_with_name(field.name()).is_err();
    let new: Vec<_> = more.fields().iter().filter(is_new).collect();
    if new.is_empty() {
        return Ok(Arc::clone(columns));
    }
    let known = columns.fields().iter().filter(|field| field.name() != TS);
    let payload = known.chain(new).map(|field| (field.name().as_str(), field.data_type().clone()));
    Ok(schema_of(payload))
}

/// `batch` with exactly `columns`, matched by name: what it lacks is null, what it has besides is left out.
///
/// `Schema` where a column of one name has two types, or where one that must not be null is lacking or has nulls.
pub fn conform(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == columns {
        return Ok(batch.clone());
    }
    let column = |field: &Arc<Field>| -> ArrayRef {
        let found = batch.column_by_name(field.name()).map(Arc::clone);
        found.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    };
    let arrays = columns.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options)
        .map_err(|e| Error::schema("a batch does not fit the columns of its series").caused_by(e))
}

/// What is read of a series that has `columns` when `names` are asked for: `ts`, which comes first whether it
/// is named or not, and the named ones in their order; all where no names are given.
///
/// `NotFound` for a column that the series lacks, naming those it has; `InvalidInput` for one that is named twice.
pub fn project(key: &SeriesKey, columns: &SchemaRef, names: Option<&[String]>) -> Result<SchemaRef> {
    let Some(names) = names else { return Ok(Arc::clone(columns)) };
    let mut payload: Vec<(&str, _)> = Vec::with_capacity(names.len());
    for name in names.iter().filter(|name| *name != TS) {
        let field = columns.field_with_name(name).map_err(|_| {
            let error = Error::new(ErrorKind::NotFound, "the series has no such column");
            let known: Vec<_> = columns.fields().iter().map(|field| field.name().as_str()).collect();
            error.with("series", key).with("column", name).with("columns", known.join(", "))
        })?;
        if payload.iter().any(|(known, _)| known == name) {
            return Err(Error::invalid("a column is named twice").with("series", key).with("column", name));
        }
        payload.push((name, field.data_type().clone()));
    }
    Ok(schema_of(payload))
}

/// The same rows in the opposite order.
pub fn reversed(batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
    let order = UInt64Array::from_iter_values((0..rows).rev());
    take_record_batch(batch, &order).map_err(|e| Error::unexpected("cannot turn rows round").caused_by(e))
}
