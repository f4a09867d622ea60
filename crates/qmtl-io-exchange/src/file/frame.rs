//! Brings the batches of a columnar file into the form of a fetcher: `ts` first, then payload.

use std::collections::HashMap;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Int64Type;
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
};
use qmtl_history_api::arrow_cast::{CastOptions, cast_with_options};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use qmtl_history_api::arrow_select::filter::filter;
use qmtl_history_api::{Error, Result, frame};

use super::columns::{OneSeries, Roles, find_roles};
use super::config::FileConfig;
use super::index::{Index, IndexBuilder};
use super::table::Selection;
use super::time::{TsUnit, parse_iso, unit_of};

/// How the values of the time column name instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeKind {
    /// The column's type says the unit.
    Typed(TsUnit),
    /// Integers of a unit to be declared or proven.
    Integer,
    /// ISO 8601 text.
    Text,
}

/// The columns of a columnar file.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    schema: SchemaRef,
    roles: Roles,
    one_series: OneSeries,
    time: TimeKind,
}

impl Columns {
    /// Finds the time and the symbol column.
    pub(super) fn new(config: &FileConfig, schema: &SchemaRef) -> Result<Self> {
        if let Some(name) = config.column_types.keys().next() {
            return Err(Error::invalid("types are declared for CSV alone; this file carries its own")
                .with("column", name));
        }
        let named: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).enumerate().collect();
        let roles = find_roles(config, &named)?;
        let field = schema.field(roles.ts);
        let time = time_kind(field.data_type()).ok_or_else(|| {
            Error::schema("the time column is neither a timestamp, nor a date, an integer or text")
                .with("column", field.name())
                .with("type", field.data_type())
        })?;
        match (time, config.ts_unit) {
            (TimeKind::Typed(own), Some(declared)) if own != declared => Err(Error::invalid(format!(
                "the time column is declared in {declared}, but its type says {own}"
            ))
            .with("column", field.name())),
            (TimeKind::Text, Some(declared)) => {
                Err(Error::invalid(format!("the time column is declared in {declared}, but holds text"))
                    .with("column", field.name()))
            }
            _ => {
                let one_series = OneSeries::new(roles, &named);
                Ok(Self { schema: Arc::clone(schema), roles, one_series, time })
            }
        }
    }

    /// The places of the columns that the scan reads, ascending.
    pub(super) fn scanned(&self) -> Vec<usize> {
        let keys = std::iter::once(self.roles.ts).chain(self.roles.symbol);
        let mut places: Vec<_> = keys.chain(self.one_series.places()).collect();
        places.sort_unstable();
        places
    }

    fn name(&self, at: usize) -> &str {
        self.schema.field(at).name()
    }

    /// Adds the rows of `batch` to the index; `first_row` is the place of its first row in the file.
    pub(super) fn index(
        &mut self,
        builder: &mut IndexBuilder,
        batch: &RecordBatch,
        first_row: u64,
    ) -> Result<()> {
        let times = self.times(batch, first_row)?;
        let Some(symbols) = self.symbols(batch)? else {
            self.check_one_series(batch)?;
            let id = builder.id("")?;
            times.values().iter().for_each(|time| builder.row(id, *time));
            return Ok(());
        };
        let mut last = None;
        for (row, time) in times.values().iter().enumerate() {
            let symbol = symbols.value(row);
            let id = match last {
                Some((known, id)) if known == symbol => id,
                _ => builder.id(symbol)?,
            };
            last = Some((symbol, id));
            builder.row(id, *time);
        }
        Ok(())
    }

    /// Looks at the columns of a batch that must have one value throughout.
    fn check_one_series(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut columns = HashMap::new();
        for at in self.one_series.places() {
            let name = self.name(at);
            // What no text can be made of tells no series apart.
            if let Some(values) = batch.column_by_name(name).and_then(|column| text(column, name).ok()) {
                columns.insert(at, values);
            }
        }
        if columns.is_empty() {
            return Ok(());
        }
        let value = |at: usize, row: usize| {
            columns
                .get(&at)
                .filter(|values| values.is_valid(row))
                .map_or(&b""[..], |values| values.value(row).as_bytes())
        };
        (0..batch.num_rows()).try_for_each(|row| self.one_series.row(|at| value(at, row)))
    }

    /// The unit of the time column, once the whole file was seen.
    pub(super) fn unit(&self, config: &FileConfig, index: &Index) -> Result<TsUnit> {
        let (min, max) = index.bounds().ok_or_else(|| Error::schema("the file has columns and no row"))?;
        match self.time {
            TimeKind::Typed(unit) => Ok(unit),
            TimeKind::Text => Ok(TsUnit::Microsecond),
            TimeKind::Integer => {
                unit_of(config.ts_unit, min, max).map_err(|e| e.with("column", self.name(self.roles.ts)))
            }
        }
    }

    /// The schema of [`Columns::select`].
    pub(super) fn output(&self, unit: TsUnit) -> SchemaRef {
        let ts = Field::new(frame::TS, DataType::Timestamp(unit.arrow(), Some("UTC".into())), false);
        let payload = self.payload().map(|at| {
            let field = self.schema.field(at);
            Field::new(field.name(), field.data_type().clone(), true)
        });
        Arc::new(Schema::new(std::iter::once(ts).chain(payload).collect::<Vec<_>>()))
    }

    fn payload(&self) -> impl Iterator<Item = usize> {
        (0..self.schema.fields().len()).filter(|at| *at != self.roles.ts && Some(*at) != self.roles.symbol)
    }

    /// The selected rows of a batch of all columns.
    pub(super) fn select(
        &self,
        batch: &RecordBatch,
        rows: &Selection,
        (unit, output): (TsUnit, &SchemaRef),
    ) -> Result<RecordBatch> {
        let fault = |e| Error::unexpected("cannot select rows of a block").caused_by(e);
        let times = self.times(batch, 0)?;
        let symbols = self.symbols(batch)?;
        let is_wanted = |row: usize| {
            rows.span.contains(&times.value(row))
                && symbols.as_ref().is_none_or(|symbols| symbols.value(row) == rows.symbol)
        };
        let wanted: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_wanted(row))).collect();
        let kept = times.values().iter().zip(wanted.values()).filter(|(_, wanted)| *wanted);
        let mut columns = vec![unit.column(kept.map(|(time, _)| *time).collect())];
        let is_whole = columns[0].len() == batch.num_rows();
        for at in self.payload() {
            let column = batch.column(at);
            columns.push(if is_whole {
                Arc::clone(column)
            } else {
                filter(column, &wanted).map_err(fault)?
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(columns[0].len()));
        RecordBatch::try_new_with_options(Arc::clone(output), columns, &options).map_err(fault)
    }

    /// The time column as integers of the file's unit.
    fn times(&self, batch: &RecordBatch, first_row: u64) -> Result<Int64Array> {
        let name = self.name(self.roles.ts);
        let fault = |message: &str, row: usize| {
            Error::schema(message).with("column", name).with("row", first_row + row as u64)
        };
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::unexpected("a block lacks the time column").with("column", name))?;
        if let Some(row) = column.logical_nulls().and_then(|nulls| nulls.iter().position(|valid| !valid)) {
            return Err(fault("a row has no time", row));
        }
        if self.time == TimeKind::Text {
            let text = text(column, name)?;
            let parse = |row: usize| {
                parse_iso(text.value(row)).ok_or_else(|| {
                    fault("a time is not an ISO 8601 date or date and time", row)
                        .with("value", format_args!("{:?}", text.value(row)))
                })
            };
            return (0..text.len()).map(parse).collect::<Result<Vec<_>>>().map(Int64Array::from);
        }
        let integers = match column.data_type() {
            DataType::Date32 | DataType::Date64 => cast(column, &MILLISECONDS, name)?,
            _ => Arc::clone(column),
        };
        Ok(cast(&integers, &DataType::Int64, name)?.as_primitive::<Int64Type>().clone())
    }

    /// The symbol column as text; a null is the empty symbol.
    fn symbols(&self, batch: &RecordBatch) -> Result<Option<StringArray>> {
        let Some(at) = self.roles.symbol else { return Ok(None) };
        let name = self.name(at);
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::unexpected("a block lacks the symbol column").with("column", name))?;
        let symbols = text(column, name)?;
        Ok(Some(if symbols.null_count() == 0 {
            symbols
        } else {
            StringArray::from_iter_values(symbols.iter().map(Option::unwrap_or_default))
        }))
    }
}

/// What dates are read as: both of Arrow's date types are whole milliseconds.
const MILLISECONDS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

fn time_kind(data_type: &DataType) -> Option<TimeKind> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(TimeKind::Typed(TsUnit::of_arrow(*unit))),
        DataType::Date32 | DataType::Date64 => Some(TimeKind::Typed(TsUnit::Millisecond)),
        DataType::Dictionary(_, values) => time_kind(values).filter(|kind| *kind == TimeKind::Text),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(TimeKind::Text),
        other => other.is_integer().then_some(TimeKind::Integer),
    }
}

fn text(column: &ArrayRef, name: &str) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8, name)?.as_string::<i32>().clone())
}

/// Casts without loss: a value that does not fit is an error.
fn cast(column: &ArrayRef, to: &DataType, name: &str) -> Result<ArrayRef> {
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() }).map_err(|e| {
        Error::schema(format!("the column cannot be read as {to}"))
            .with("column", name)
            .with("type", column.data_type())
            .caused_by(e)
    })
}
