//! Whether QuestDB can hold a batch: names, types, and values that it would silently alter.

use std::collections::HashSet;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use qmtl_history_api::arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch};
use qmtl_history_api::{Error, Result, SeriesKey, frame};

use crate::naming;
use crate::schema::{Column, Kind, is_reserved};

/// The longest text that is written: requests must fit the server's buffers.
const MAX_TEXT: usize = 1 << 20;

/// The payload columns that a batch needs. `Schema`, naming series, column and row, for what
/// QuestDB cannot hold; `first` is the number of fields before the payload.
pub(crate) fn columns(key: &SeriesKey, batch: &RecordBatch) -> Result<Vec<Column>> {
    let schema = batch.schema();
    let fields = schema.fields().iter().filter(|field| field.name() != frame::TS);
    let mut seen = HashSet::new();
    fields
        .map(|field| {
            let fault = |message: &str| {
                Error::schema(message).with("series", key).with("column", format_args!("{:?}", field.name()))
            };
            if is_reserved(field.name()) {
                return Err(fault("QuestDB's tables have a column of this name already"));
            }
            if !naming::is_column(field.name()) {
                return Err(fault("QuestDB cannot have a column of this name"));
            }
            if !seen.insert(field.name().to_lowercase()) {
                return Err(fault("QuestDB does not tell names apart by case"));
            }
            let kind = Kind::for_type(field.data_type()).ok_or_else(|| {
                fault("QuestDB cannot hold this type bit for bit").with("type", field.data_type())
            })?;
            Ok(Column { name: field.name().clone(), kind, type_name: String::new() })
        })
        .collect()
}

/// The batch as it is stored: unchanged, or with NaN and infinities as null where that is asked
/// for, and how many there were. `Schema` for values that would come back as others.
pub(crate) fn storable(
    key: &SeriesKey,
    batch: &RecordBatch,
    nan_as_null: bool,
) -> Result<(RecordBatch, u64)> {
    let schema = batch.schema();
    let mut replaced = 0;
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let altered = if field.name() == frame::TS { None } else { alteration(column) };
        let Some((row, why)) = altered else {
            columns.push(ArrayRef::clone(column));
            continue;
        };
        if nan_as_null && column.data_type().is_floating() {
            let (column, count) = without_nan(column);
            replaced += count;
            columns.push(column);
            continue;
        }
        return Err(Error::schema(why).with("series", key).with("column", field.name()).with("row", row));
    }
    let batch = RecordBatch::try_new(schema, columns)
        .map_err(|e| Error::unexpected("cannot replace NaN").caused_by(e))?;
    Ok((batch, replaced))
}

/// The first value that would not come back as it is, and why.
fn alteration(column: &ArrayRef) -> Option<(usize, &'static str)> {
    const NAN: &str = "QuestDB stores NaN and infinities as null; ask for nan_as_null=true to allow it";
    const SENTINEL: &str = "QuestDB takes the smallest integer for null";
    match Kind::for_type(column.data_type())? {
        Kind::Double => first::<Float64Type>(column, |v| !v.is_finite()).map(|row| (row, NAN)),
        Kind::Float => first::<Float32Type>(column, |v| !v.is_finite()).map(|row| (row, NAN)),
        Kind::Long => first::<Int64Type>(column, |v| v == i64::MIN).map(|row| (row, SENTINEL)),
        Kind::Int => first::<Int32Type>(column, |v| v == i32::MIN).map(|row| (row, SENTINEL)),
        Kind::Timestamp => first::<TimestampMicrosecondType>(column, |v| v < 0)
            .map(|row| (row, "QuestDB's line protocol takes no time before 1970")),
        Kind::Boolean => column
            .nulls()
            .and_then(|nulls| nulls.iter().position(|valid| !valid))
            .map(|row| (row, "QuestDB has no null for booleans")),
        Kind::Varchar => {
            let texts = column.as_string::<i32>();
            let refused = |text: &str| text.len() > MAX_TEXT || text.contains('\0');
            (0..texts.len())
                .find(|row| texts.is_valid(*row) && refused(texts.value(*row)))
                .map(|row| (row, "QuestDB is not given texts over 1 MB or with a zero byte"))
        }
        _ => None,
    }
}

fn first<T: ArrowPrimitiveType>(column: &ArrayRef, bad: impl Fn(T::Native) -> bool) -> Option<usize> {
    let values = column.as_primitive::<T>();
    (0..values.len()).find(|row| bad(values.value(*row)) && values.is_valid(*row))
}

fn without_nan(column: &ArrayRef) -> (ArrayRef, u64) {
    fn mask<T: ArrowPrimitiveType>(column: &ArrayRef, finite: impl Fn(T::Native) -> bool) -> (ArrayRef, u64) {
        let values = column.as_primitive::<T>();
        let kept: PrimitiveArray<T> =
            values.iter().map(|value| value.filter(|value| finite(*value))).collect();
        let lost = kept.null_count() - values.null_count();
        (Arc::new(kept), u64::try_from(lost).unwrap_or(u64::MAX))
    }
    if Kind::for_type(column.data_type()) == Some(Kind::Double) {
        mask::<Float64Type>(column, f64::is_finite)
    } else {
        mask::<Float32Type>(column, f32::is_finite)
    }
}

#[cfg(test)]
mod tests {
    use qmtl_history_api::arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray};
    use qmtl_history_testkit::fixtures::{bar, batch, key};

    use super::*;

    fn with(column: ArrayRef) -> RecordBatch {
        let key = key("BTC", "1m");
        batch(&[bar(&key, 0), bar(&key, 1)], [("value", column)])
    }

    #[test]
    fn values_that_would_be_altered_are_refused_with_their_place() {
        let columns: [ArrayRef; 4] = [
            Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::INFINITY)])),
            Arc::new(Int64Array::from(vec![1, i64::MIN])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(StringArray::from(vec!["a", "b\0"])),
        ];
        for column in columns {
            let error = storable(&key("BTC", "1m"), &with(column), false).unwrap_err().to_string();
            assert!(error.contains("BTC@1m, column: value, row: 1"), "{error}");
        }
    }

    #[test]
    fn nan_becomes_null_where_it_is_asked_for_and_is_counted() {
        let column = Arc::new(Float64Array::from(vec![Some(f64::NAN), None]));
        let (stored, count) = storable(&key("BTC", "1m"), &with(column), true).unwrap();
        assert_eq!((stored.column(1).null_count(), count), (2, 1));
        let integers = Arc::new(Int64Array::from(vec![1, i64::MIN]));
        assert!(storable(&key("BTC", "1m"), &with(integers), true).is_err(), "only NaN is covered by it");
    }

    #[test]
    fn columns_that_questdb_cannot_have_are_refused_by_name() {
        let key = key("BTC", "1m");
        let one: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        for names in
            [vec!["node_id"], vec!["Interval"], vec!["a.b"], vec!["x\"; drop"], vec!["close", "Close"]]
        {
            let columns = names.iter().map(|name| (*name, ArrayRef::clone(&one)));
            let error = columns_of(&batch(&[bar(&key, 0)], columns)).unwrap_err();
            assert!(error.to_string().contains(&format!("{:?}", names[names.len() - 1])), "{error}");
        }
    }

    fn columns_of(batch: &RecordBatch) -> Result<Vec<Column>> {
        columns(&key("BTC", "1m"), batch)
    }
}
