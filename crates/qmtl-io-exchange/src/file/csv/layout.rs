//! What the columns of a CSV file are: told by its header, or by the shape of a Binance archive.

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result};

use super::MAX_LINE_BYTES;
use super::split::{Record, SplitFault, Splitter};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::columns::{OneSeries, Roles, find_roles};
use crate::file::config::{ColumnType, FileConfig};
use crate::kline;

/// The mark that some editors put before UTF-8 text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A payload column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its place in a line.
    pub(super) at: usize,
    /// Its name in the header.
    pub(super) name: String,
    /// Its type; `None` until the scan has seen whether all its values are numbers.
    pub(super) column_type: Option<ColumnType>,
}

impl Column {
    pub(super) fn data_type(&self) -> DataType {
        match self.column_type {
            Some(ColumnType::Int64) => DataType::Int64,
            Some(ColumnType::Utf8) => DataType::Utf8,
            Some(ColumnType::Float64) | None => DataType::Float64,
        }
    }
}

/// Where things stand in a line, and where the first row starts.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The number of fields of each line.
    pub(super) width: usize,
    /// The place of the time column and its name.
    pub(super) ts: usize,
    pub(super) ts_name: String,
    /// The place of the symbol column.
    pub(super) symbol: Option<usize>,
    pub(super) payload: Vec<Column>,
    /// What shows that all rows are of one series.
    pub(super) one_series: OneSeries,
    /// Whether the time column holds integers; otherwise it holds ISO 8601 text.
    pub(super) integer_time: bool,
    /// The byte and the line at which the first row starts.
    pub(super) data_start: u64,
    pub(super) data_line: u64,
}

/// Reads the first two lines of a file.
pub(super) fn detect(bytes: &FileBytes, config: &FileConfig) -> Result<Layout> {
    let mut head = vec![0; BOM.len() + 2 * MAX_LINE_BYTES];
    let filled = bytes.read_at(&mut head, 0).map_err(io_error)?;
    head.truncate(filled);
    let text = head.strip_prefix(BOM).unwrap_or(&head);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(Error::schema("the file is UTF-16 text; save it as UTF-8"));
    }
    let bad_line = |e: SplitFault, line: u64| Error::schema(e.message()).with("line", line);
    let at_end = filled as u64 == bytes.len();
    let (mut splitter, mut row_splitter) = (Splitter::new(), Splitter::new());
    let mut records = splitter.records(text, 1, at_end);
    let first = records.next().map_err(|e| bad_line(e, 1))?;
    let first = first.ok_or_else(|| Error::schema("the file is empty"))?;
    let is_archive = (0..first.len()).all(|at| number(first.field(at)).is_some());
    let names = if is_archive { archive_names(&first)? } else { header_names(&first)? };
    let (start, line) = if is_archive { (0, 1) } else { (records.position, records.line) };
    let mut rows = row_splitter.records(&text[start..], line, at_end);
    let row = rows.next().map_err(|e| bad_line(e, line))?;
    let row = row.ok_or_else(|| Error::schema("the file has a header and no row"))?;
    let (roles, one_series, payload) = columns(config, &names)?;
    Ok(Layout {
        width: names.len(),
        ts: roles.ts,
        ts_name: names[roles.ts].clone().unwrap_or_default(),
        symbol: roles.symbol,
        payload,
        one_series,
        integer_time: roles.ts < row.len() && integer(row.field(roles.ts)).is_some(),
        data_start: (head.len() - text.len() + start) as u64,
        data_line: line,
    })
}

/// A decimal number, blanks around it ignored: the nearest double.
pub(super) fn number(field: &[u8]) -> Option<f64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

/// A whole number, blanks around it ignored.
pub(super) fn integer(field: &[u8]) -> Option<i64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

fn archive_names(first: &Record<'_>) -> Result<Vec<Option<String>>> {
    if first.len() != kline::FIELDS.len() {
        return Err(Error::schema(
            "the first line has numbers alone, so there is no header; only the 12 columns of a Binance archive are \
             known without one: add a header",
        )
        .with("columns", first.len()));
    }
    Ok(kline::FIELDS.iter().map(|name| name.map(str::to_owned)).collect())
}

fn header_names(first: &Record<'_>) -> Result<Vec<Option<String>>> {
    let bad =
        |message: &str, at: usize| Error::schema(message).with("line", first.line).with("column", at + 1);
    (0..first.len())
        .map(|at| match std::str::from_utf8(first.field(at)).map(str::trim) {
            Ok("") => Err(bad("a column has no name", at)),
            Ok(name) => Ok(Some(name.to_owned())),
            Err(_) => Err(bad("the header is not UTF-8", at)),
        })
        .collect()
}

/// The time, the symbol and the payload columns.
fn columns(config: &FileConfig, names: &[Option<String>]) -> Result<(Roles, OneSeries, Vec<Column>)> {
    let known: Vec<_> =
        names.iter().enumerate().filter_map(|(at, name)| Some((at, name.as_deref()?))).collect();
    let is_absent = |name: &&String| known.iter().all(|(_, other)| other != name);
    if let Some(name) = config.column_types.keys().find(is_absent) {
        return Err(
            Error::invalid("a type is declared for a column that the file lacks").with("column", name)
        );
    }
    let roles = find_roles(config, &known)?;
    let one_series = OneSeries::new(roles, &known);
    let payload = known.into_iter().filter(|(at, _)| *at != roles.ts && Some(*at) != roles.symbol);
    let column = |(at, name): (usize, &str)| {
        let column_type = config.column_types.get(name).copied().or_else(|| usual_type(name));
        Column { at, name: name.to_owned(), column_type }
    };
    Ok((roles, one_series, payload.map(column).collect()))
}

/// The type of a column that every candle file has, whatever the case of its name: there, text in
/// place of a number is an error and not a reason to read the column as text.
fn usual_type(name: &str) -> Option<ColumnType> {
    kline::payload_type(&name.to_ascii_lowercase()).map(|data_type| match data_type {
        DataType::Int64 => ColumnType::Int64,
        _ => ColumnType::Float64,
    })
}
