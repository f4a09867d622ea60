//! JSON: rows as lists or objects, in one list, one a line or inside of an object, columns as lists, or keyed by time. They
//! are rewritten as CSV, their numbers digit by digit, so that all that is known of text holds for them too.

mod nan;
mod shape;
mod tree;
mod walk;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Result};
use serde_json::value::RawValue;

use self::shape::{Place, Shape};
use super::bytes::{FileBytes, io_error};
use super::config::FileConfig;
use super::csv;
use super::table::{Opened, Selection, Table};
use super::unpack::{Capped, rewrite_text};

/// The longest row, and the longest list of a column in which nothing is counted.
const MAX_ROW_BYTES: u64 = 1 << 20;

/// The largest file whose columns are lists: they are turned into rows in memory.
const MAX_COLUMNS_BYTES: u64 = 64 << 20;

/// Finds the rows, and reads them as CSV.
pub(super) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let cap = config.max_unpacked_bytes;
    let (mut quoted, mut notes) = (None, Vec::new());
    let shape = shape::find(bytes).or_else(|error| {
        quoted = nan::quoted(bytes, cap)?;
        shape::find(quoted.as_ref().ok_or(error)?)
    })?;
    let bytes = quoted.as_ref().unwrap_or(bytes);
    if quoted.is_some() {
        notes.push("NaN and Infinity are not valid JSON; they are read as numbers".to_owned());
    }
    if !shape.nested.is_empty() {
        notes.push(format!("what holds lists or objects is left out: {}", shape.nested.join(", ")));
    }
    let names = if config.columns.is_empty() { shape.keys.clone() } else { config.columns.clone() };
    let as_csv = FileConfig {
        delimiter: Some(b','),
        has_header: Some(false),
        skipped_lines: 0,
        columns: names,
        ..config.clone()
    };
    let text = bytes.rewritten(move |bytes| rewrite_text(cap, |target| write(bytes, &shape, target)))?;
    let mut opened = csv::open(&text, &as_csv).map_err(|e| in_rows(&e))?;
    notes.append(&mut opened.notes);
    Ok(Opened { table: Arc::new(Rows(opened.table)), notes, ..opened })
}

/// A table of rows, each of which is a line of CSV.
#[derive(Debug)]
struct Rows(Arc<dyn Table>);

impl Table for Rows {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        self.0.read(block, rows).map_err(|e| in_rows(&e))
    }
}

/// An error that tells the row where it told the line.
fn in_rows(error: &Error) -> Error {
    let mut told = Error::new(error.kind(), error.message()).retryable(error.is_retryable());
    for (name, value) in error.context() {
        told = told.with(if *name == "line" { "row" } else { name }, value);
    }
    match std::error::Error::source(error) {
        Some(cause) => told.caused_by(cause.to_string()),
        None => told,
    }
}

/// Writes the rows as lines.
fn write(bytes: &FileBytes, shape: &Shape, target: &mut Capped) -> Result<()> {
    let mut line = Vec::new();
    let places: HashMap<&str, usize> =
        shape.keys.iter().enumerate().map(|(at, key)| (key.as_str(), at)).collect();
    if shape.place == Place::Whole {
        for row in tree::find(bytes)?.unwrap_or_default().rows {
            line.clear();
            row.iter().try_for_each(|value| push_or_null(&mut line, value.as_deref()))?;
            end(&mut line, target)?;
        }
        return Ok(());
    }
    if matches!(shape.place, Place::Columns(_)) {
        let columns = walk::columns(bytes, shape)?;
        let rows = columns.iter().map(Vec::len).max().unwrap_or_default();
        for row in 0..rows {
            line.clear();
            columns
                .iter()
                .try_for_each(|column| push_or_null(&mut line, column.get(row).map(AsRef::as_ref)))?;
            end(&mut line, target)?;
        }
        return Ok(());
    }
    walk::rows(bytes, shape, |row| {
        line.clear();
        match row {
            walk::Row::List(values) => values.iter().try_for_each(|value| push_field(&mut line, value))?,
            walk::Row::Object(values) => {
                let mut fields: Vec<Option<&RawValue>> = vec![None; places.len()];
                for (key, value) in &values {
                    if let Some(at) = places.get(key.as_str()) {
                        fields[*at] = Some(value);
                    }
                }
                fields.into_iter().try_for_each(|field| push_or_null(&mut line, field))?;
            }
        }
        end(&mut line, target)
    })
}

/// That two columns have different numbers of values.
fn unequal((first, length): (&str, u64), (other, count): (&str, u64)) -> Error {
    Error::schema("the columns of the JSON do not have the same number of values")
        .with("columns", format_args!("{first}, {other}"))
        .with("values", format_args!("{length}, {count}"))
}

/// Ends a line, in which a comma stands behind each field.
fn end(line: &mut Vec<u8>, target: &mut Capped) -> Result<()> {
    line.pop();
    line.push(b'\n');
    target.write_all(line).map_err(io_error)
}

fn push_or_null(line: &mut Vec<u8>, value: Option<&RawValue>) -> Result<()> {
    match value {
        Some(value) => push_field(line, value),
        None => {
            line.push(b',');
            Ok(())
        }
    }
}

/// Adds a value and a comma: a number as it is written, text without its quotes, nothing for null.
fn push_field(line: &mut Vec<u8>, value: &RawValue) -> Result<()> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'n') => {}
        Some(b'"') => {
            let text: String = serde_json::from_str(text)
                .map_err(|e| Error::schema("a text is not valid JSON").caused_by(e))?;
            if text.contains([',', '"', '\n', '\r']) {
                line.push(b'"');
                line.extend(text.replace('"', "\"\"").bytes());
                line.push(b'"');
            } else {
                line.extend(text.bytes());
            }
        }
        _ => line.extend(text.bytes()),
    }
    line.push(b',');
    Ok(())
}
