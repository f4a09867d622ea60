//! Reads one block of a CSV file into a record batch.

use std::sync::Arc;

use qmtl_history_api::arrow_array::builder::{Float64Builder, Int64Builder, StringBuilder};
use qmtl_history_api::arrow_array::{Array, ArrayRef, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef};
use qmtl_history_api::{Error, ErrorKind, Result};

use super::layout::{Column, Layout, epoch};
use super::number::{Notation, is_null, number};
use super::split::{Record, Splitter};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::table::{Selection, Table, symbol_of};
use crate::file::time::TsUnit;

/// Where a block stands in the file, and the line that it starts with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) bytes: usize,
    pub(super) line: u64,
}

/// A scanned CSV file.
#[derive(Debug)]
pub(super) struct CsvTable {
    bytes: FileBytes,
    layout: Layout,
    extents: Vec<Extent>,
    unit: TsUnit,
    schema: SchemaRef,
}

impl CsvTable {
    pub(super) fn new(
        bytes: FileBytes,
        layout: Layout,
        extents: Vec<Extent>,
        unit: TsUnit,
        (ts, ts_type): (&str, DataType),
    ) -> Self {
        let payload = layout.payload.iter().map(|column| Field::new(&column.name, column.data_type(), true));
        let fields: Vec<_> = std::iter::once(Field::new(ts, ts_type, false)).chain(payload).collect();
        Self { bytes, layout, extents, unit, schema: Arc::new(Schema::new(fields)) }
    }

    /// The columns of the selected rows of a block's text.
    fn columns(&self, text: &[u8], line: u64, rows: &Selection) -> Result<Vec<ArrayRef>> {
        let mut times = Vec::new();
        let mut builders: Vec<_> = self.layout.payload.iter().map(ColumnBuilder::new).collect();
        let mut splitter = Splitter::new(self.layout.delimiter);
        let mut records = splitter.records(text, line, true);
        while let Some(record) = records.next().map_err(|e| Error::schema(e.message()))? {
            let time = match self.layout.row_time(&record) {
                Ok(time) => time,
                Err(_) if self.layout.is_header(&record) => continue,
                Err(_) if record.len() != self.layout.width => {
                    return Err(Error::new(ErrorKind::Conflict, "the file changed while it was read"));
                }
                Err(error) => return Err(error),
            };
            let is_other =
                self.layout.symbol.is_some_and(|at| symbol_of(record.field(at)) != rows.symbol.as_bytes());
            if is_other || !rows.span.contains(&time) || self.layout.is_no_bar(&record) {
                continue;
            }
            times.push(time);
            for (builder, column) in builders.iter_mut().zip(&self.layout.payload) {
                builder
                    .push(record.field(column.at), self.layout.notation)
                    .map_err(|fault| bad_value(&record, column, fault))?;
            }
        }
        let payload = builders.into_iter().map(ColumnBuilder::finish);
        Ok(std::iter::once(self.unit.column(times)).chain(payload).collect())
    }
}

impl Table for CsvTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        let extent = self.extents[block];
        let mut text = vec![0; extent.bytes];
        let count = self.bytes.read_at(&mut text, extent.offset).map_err(io_error)?;
        let columns = self.columns(&text[..count], extent.line, rows)?;
        RecordBatch::try_new(self.schema(), columns)
            .map(|batch| vec![batch])
            .map_err(|e| Error::unexpected("cannot assemble the rows of a block").caused_by(e))
    }
}

fn bad_value(record: &Record<'_>, column: &Column, fault: ValueFault) -> Error {
    let message = match fault {
        ValueFault::Not(wanted) if wanted != TEXT && record.field(column.at).contains(&b',') => format!(
            "a value is not {wanted}; correct it, or say whether a point or a comma stands before the fraction \
             (with_decimal)"
        ),
        ValueFault::Not(wanted) => {
            format!("a value is not {wanted}; correct it, or declare the column's type (with_column_type)")
        }
        ValueFault::TooLarge => {
            "a number is larger than the largest double; correct it, or declare the column as \
                                 Utf8 (with_column_type)"
                .to_owned()
        }
        ValueFault::Inexact => {
            "a whole number cannot be held exactly by a double; declare the column as Int64, or \
                                as Utf8 if its values need more than 64 bits (with_column_type)"
                .to_owned()
        }
    };
    Error::schema(message)
        .with("line", record.line)
        .with("column", &column.own)
        .with("value", record.quote(column.at))
}

/// Why a field is no value of its column.
#[derive(Clone, Copy, Debug)]
enum ValueFault {
    /// It is not what is named here.
    Not(&'static str),
    /// It is finite, but every double is smaller.
    TooLarge,
    /// It is a whole number, but no double equals it or is written so.
    Inexact,
}

/// What a value of a text column must be.
const TEXT: &str = "UTF-8 text";

/// The fewest digits of a whole number that no double equals: 2^53 + 1 has 16.
const INEXACT_DIGITS: usize = 16;

/// The double of a field: a whole number in plain digits exactly, any other number rounded to the
/// nearest.
fn double(field: &[u8], notation: Notation) -> Result<f64, ValueFault> {
    let plain = if notation.is_plain() { number(field) } else { None };
    let Some(value) = plain else {
        let spelled = notation.spelled(field).ok_or(ValueFault::Not("a number"))?;
        return double(&spelled, Notation::PLAIN);
    };
    if field.len() >= INEXACT_DIGITS || value.is_infinite() {
        check_double(field, value)?;
    }
    Ok(value)
}

/// A whole number, also with a fraction of zeros alone, as programs write one that has passed through doubles.
fn whole(field: &[u8], notation: Notation) -> Option<i64> {
    let plain = if notation.is_plain() { epoch(field) } else { None };
    plain.or_else(|| epoch(&notation.spelled(field)?))
}

/// Whether `value` may stand for the number that it was parsed from.
#[inline(never)]
fn check_double(field: &[u8], value: f64) -> Result<(), ValueFault> {
    // Infinity itself is spelled without digits.
    if value.is_infinite() && field.iter().any(u8::is_ascii_digit) {
        return Err(ValueFault::TooLarge);
    }
    let field = field.trim_ascii();
    let digits = field.strip_prefix(b"-").or_else(|| field.strip_prefix(b"+")).unwrap_or(field);
    if digits.len() < INEXACT_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Ok(());
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let is_text = |text: String| text.trim_start_matches('0').as_bytes() == &digits[zeros..];
    // All digits of the double, or the shortest ones that name it with zeros behind them, which is
    // how many programs write large doubles, ours among them.
    let is_exact = is_text(format!("{:.0}", value.abs())) || is_text(value.abs().to_string());
    if is_exact { Ok(()) } else { Err(ValueFault::Inexact) }
}

/// Collects the values of one column.
enum ColumnBuilder {
    Float64(Float64Builder),
    Int64(Int64Builder),
    Utf8(StringBuilder),
}

impl ColumnBuilder {
    fn new(column: &Column) -> Self {
        match column.data_type() {
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Utf8 => Self::Utf8(StringBuilder::new()),
            _ => Self::Float64(Float64Builder::new()),
        }
    }

    /// Adds a value, null when it is empty or, of a number, says that there is none.
    fn push(&mut self, field: &[u8], notation: Notation) -> Result<(), ValueFault> {
        match self {
            Self::Float64(values) if field.is_empty() => values.append_null(),
            Self::Float64(values) => match double(field, notation) {
                Ok(value) => values.append_value(value),
                Err(ValueFault::Not(_)) if is_null(field) => values.append_null(),
                Err(fault) => return Err(fault),
            },
            Self::Int64(values) if field.is_empty() => values.append_null(),
            Self::Int64(values) => match whole(field, notation) {
                Some(value) => values.append_value(value),
                None if is_null(field) => values.append_null(),
                None => return Err(ValueFault::Not("an integer")),
            },
            Self::Utf8(values) if field.is_empty() => values.append_null(),
            Self::Utf8(values) => {
                values.append_value(std::str::from_utf8(field).map_err(|_| ValueFault::Not(TEXT))?)
            }
        }
        Ok(())
    }

    /// The column, without the room that was left for more: a window may hold the few rows of thousands of blocks.
    fn finish(self) -> ArrayRef {
        fn fitted<A: Array + 'static>(mut column: A) -> ArrayRef {
            column.shrink_to_fit();
            Arc::new(column)
        }
        match self {
            Self::Float64(mut values) => fitted(values.finish()),
            Self::Int64(mut values) => fitted(values.finish()),
            Self::Utf8(mut values) => fitted(values.finish()),
        }
    }
}
