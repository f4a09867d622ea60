//! Rows in columns: contiguous vectors that slide, so that the newest rows are always one slice.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Float64Array, new_empty_array};
use arrow_schema::{DataType, Schema};
use arrow_select::concat::concat;
use qmtl_history_api::{Timestamp, arrow_array, arrow_schema, arrow_select};

use super::merge::{Plan, Run};

/// One payload column. Doubles without nulls lie in a plain vector; everything else, and doubles
/// from their first null on, in an Arrow array.
#[derive(Clone, Debug)]
pub(super) enum Column {
    F64(Vec<f64>),
    Arrow(ArrayRef),
}

impl Column {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Float64 => Self::F64(Vec::new()),
            other => Self::Arrow(new_empty_array(other)),
        }
    }

    /// Replaces the rows from `plan.at` on.
    fn splice(&mut self, plan: &Plan, new: &ArrayRef) {
        match &mut *self {
            Self::F64(values) if new.null_count() == 0 => {
                splice(values, plan, new.as_primitive::<Float64Type>().values());
            }
            _ => {
                let old = self.to_array();
                let joined = splice_arrow(&old, plan, new);
                *self = Self::from_array(joined);
            }
        }
    }

    fn drop_front(&mut self, rows: usize) {
        match self {
            Self::F64(values) => drop(values.drain(..rows)),
            Self::Arrow(array) => *self = Self::from_array(owned(&array.slice(rows, array.len() - rows))),
        }
    }

    fn from_array(array: ArrayRef) -> Self {
        if *array.data_type() == DataType::Float64 && array.null_count() == 0 {
            Self::F64(array.as_primitive::<Float64Type>().values().to_vec())
        } else {
            Self::Arrow(array)
        }
    }

    /// The column as an Arrow array; copies doubles that lie in a vector.
    fn to_array(&self) -> ArrayRef {
        match self {
            Self::F64(values) => Arc::new(Float64Array::from(values.clone())),
            Self::Arrow(array) => Arc::clone(array),
        }
    }

    fn resident_bytes(&self) -> usize {
        match self {
            Self::F64(values) => values.capacity() * size_of::<f64>(),
            Self::Arrow(array) => array.get_buffer_memory_size(),
        }
    }
}

/// A copy that does not keep the buffers of a larger array alive.
fn owned(array: &ArrayRef) -> ArrayRef {
    concat(&[array.as_ref(), new_empty_array(array.data_type()).as_ref()])
        .expect("an array and an empty one of its type can be joined")
}

fn splice<T: Copy>(values: &mut Vec<T>, plan: &Plan, new: &[T]) {
    let tail = values[plan.at..].to_vec();
    values.truncate(plan.at);
    values.reserve(plan.len());
    for run in &plan.runs {
        values.extend_from_slice(match run {
            Run::Old(rows) => &tail[rows.start - plan.at..rows.end - plan.at],
            Run::New(rows) => &new[rows.clone()],
        });
    }
}

fn splice_arrow(old: &ArrayRef, plan: &Plan, new: &ArrayRef) -> ArrayRef {
    let mut parts = vec![old.slice(0, plan.at), new_empty_array(old.data_type())];
    parts.extend(plan.runs.iter().map(|run| match run {
        Run::Old(rows) => old.slice(rows.start, rows.len()),
        Run::New(rows) => new.slice(rows.start, rows.len()),
    }));
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    concat(&parts).expect("types were compared before the merge")
}

/// Rows that arrive: ascending times and the values of every column of the schema.
#[derive(Debug)]
pub(super) struct Arriving<'a> {
    pub(super) ts: &'a [Timestamp],
    pub(super) columns: &'a [ArrayRef],
    pub(super) live: bool,
}

/// The rows of a cache. Rows before `start` are gone and wait to be overwritten in bulk, so that
/// dropping the oldest row costs nothing and every copy is paid for by as many appended rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    start: usize,
    ts: Vec<Timestamp>,
    live: Vec<bool>,
    columns: Vec<Column>,
}

impl Rows {
    pub(super) fn of_schema(schema: &Schema) -> Self {
        let columns = schema.fields().iter().map(|field| Column::new(field.data_type())).collect();
        Self { columns, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.ts.len() - self.start
    }

    pub(super) fn ts(&self) -> &[Timestamp] {
        &self.ts[self.start..]
    }

    pub(super) fn is_live(&self, row: usize) -> bool {
        self.live[self.start + row]
    }

    /// Doubles of a column that has no null in `rows`.
    pub(super) fn doubles(&self, column: usize, rows: &Range<usize>) -> Option<&[f64]> {
        let physical = self.start + rows.start..self.start + rows.end;
        match &self.columns[column] {
            Column::F64(values) => Some(&values[physical]),
            Column::Arrow(array) => {
                let array = array.as_primitive_opt::<Float64Type>()?;
                let has_null =
                    array.nulls().is_some_and(|nulls| physical.clone().any(|row| nulls.is_null(row)));
                (!has_null).then(|| &array.values()[physical])
            }
        }
    }

    /// Values of a column; shares the buffers of an Arrow array, copies doubles out of a vector.
    pub(super) fn array(&self, column: usize, rows: &Range<usize>) -> ArrayRef {
        match &self.columns[column] {
            Column::F64(values) => {
                Arc::new(Float64Array::from(values[self.start + rows.start..self.start + rows.end].to_vec()))
            }
            Column::Arrow(array) => array.slice(self.start + rows.start, rows.len()),
        }
    }

    /// Puts one live row behind all others, if every column holds doubles and none of its values is null; false, and
    /// nothing changed, otherwise.
    pub(super) fn push<'a>(
        &mut self,
        bar: Timestamp,
        values: impl Iterator<Item = &'a ArrayRef> + Clone,
    ) -> bool {
        let plain = |array: &'a ArrayRef| array.as_primitive_opt::<Float64Type>();
        let is_plain = |(column, array): (&Column, &'a ArrayRef)| {
            matches!(column, Column::F64(_)) && plain(array).is_some_and(|array| array.null_count() == 0)
        };
        if !self.columns.iter().zip(values.clone()).all(is_plain) {
            return false;
        }
        for (column, array) in self.columns.iter_mut().zip(values) {
            if let (Column::F64(column), Some(array)) = (column, plain(array)) {
                column.push(array.value(0));
            }
        }
        self.ts.push(bar);
        self.live.push(true);
        true
    }

    /// Carries out a plan whose row numbers count from the oldest row.
    pub(super) fn apply(&mut self, mut plan: Plan, new: &Arriving<'_>) {
        plan.shift_old(self.start);
        for (column, array) in self.columns.iter_mut().zip(new.columns) {
            column.splice(&plan, array);
        }
        splice(&mut self.ts, &plan, new.ts);
        let tail = self.live[plan.at..].to_vec();
        self.live.truncate(plan.at);
        for run in &plan.runs {
            match run {
                Run::Old(rows) => {
                    self.live.extend_from_slice(&tail[rows.start - plan.at..rows.end - plan.at]);
                }
                Run::New(rows) => self.live.resize(self.live.len() + rows.len(), new.live),
            }
        }
    }

    /// Drops the oldest rows; moves the others to the front once `slack` dropped ones, and no fewer
    /// than there are others, have gathered.
    pub(super) fn drop_oldest(&mut self, rows: usize, slack: usize) {
        self.start += rows;
        if rows > 0 && self.start >= slack.max(self.ts.len() / 2) {
            self.columns.iter_mut().for_each(|column| column.drop_front(self.start));
            self.ts.drain(..self.start);
            self.live.drain(..self.start);
            self.start = 0;
        }
    }

    pub(super) fn resident_bytes(&self) -> usize {
        self.ts.capacity() * size_of::<Timestamp>()
            + self.live.capacity()
            + self.columns.iter().map(Column::resident_bytes).sum::<usize>()
    }
}
