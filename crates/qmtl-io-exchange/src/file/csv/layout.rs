//! What the columns of a CSV file are: told by its header, or by the shape of a Binance archive.

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result};

use super::MAX_LINE_BYTES;
use super::split::{Record, SplitFault, Splitter};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::columns::{self, Payload};
use crate::file::config::{ColumnType, FileConfig};
use crate::file::one_series::{Holds, OneSeries, has_leading_zeros};
use crate::file::time::Reading;
use crate::kline;

/// The mark that some editors put before UTF-8 text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A payload column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its place in a line.
    pub(super) at: usize,
    /// Its name in the header.
    pub(super) own: String,
    /// Its name in what is read.
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
    /// How the time column is read.
    pub(super) reading: Reading,
    /// The place of the close time of klines.
    pub(super) close_time: Option<usize>,
    /// Whether the columns are told by their number alone, so that each row must prove to be a kline.
    pub(super) is_bare: bool,
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
    let names = if is_archive { bare_names(&first)? } else { header_names(&first)? };
    let (start, line) = if is_archive { (0, 1) } else { (records.position, records.line) };
    let mut rows = row_splitter.records(&text[start..], line, at_end);
    let row = rows.next().map_err(|e| bad_line(e, line))?;
    let row = row.ok_or_else(|| Error::schema("the file has a header but no rows"))?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let is_called = |wanted: &&String| names.iter().any(|own| columns::is_called(own, wanted));
    if let Some(name) = config.column_types.keys().find(|name| !is_called(name)) {
        return Err(
            Error::invalid("a type is declared for a column that the file lacks").with("column", name)
        );
    }
    let (roles, payload) = columns::find(config, &names)?;
    let payload: Vec<_> = payload.into_iter().map(|column| typed(config, column)).collect();
    let one_series = match roles.symbol {
        Some(_) => OneSeries::default(),
        None => one_series(&payload),
    };
    let has_integers = roles.ts < row.len() && integer(row.field(roles.ts)).is_some();
    Ok(Layout {
        width: names.len(),
        ts: roles.ts,
        ts_name: names[roles.ts].to_owned(),
        symbol: roles.symbol,
        payload,
        one_series,
        reading: if has_integers { Reading::Undecided } else { Reading::Iso },
        close_time: roles.close_time,
        is_bare: is_archive,
        data_start: (head.len() - text.len() + start) as u64,
        data_line: line,
    })
}

fn one_series(payload: &[Column]) -> OneSeries {
    let suspects = payload.iter().map(|Column { at, own, column_type, .. }| {
        let holds = match column_type {
            Some(ColumnType::Utf8) => Holds::Text,
            Some(ColumnType::Float64) => Holds::Other,
            Some(ColumnType::Int64) | None => Holds::Anything,
        };
        (*at, own.as_str(), holds)
    });
    OneSeries::new("line", suspects)
}

/// A decimal number, blanks around it ignored: the nearest double.
pub(super) fn number(field: &[u8]) -> Option<f64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

/// A whole number, blanks around it ignored.
pub(super) fn integer(field: &[u8]) -> Option<i64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

/// Whether a field of a column of no known type is a number; digits with zeros before them are a name.
pub(super) fn reads_as_number(field: &[u8]) -> bool {
    number(field).is_some() && !has_leading_zeros(field.trim_ascii())
}

fn bare_names(first: &Record<'_>) -> Result<Vec<String>> {
    if first.len() != kline::FIELDS.len() {
        return Err(Error::schema(
            "the first line has numbers alone, so there is no header; only the 12 columns of a Binance archive are \
             known without one: add a header",
        )
        .with("columns", first.len()));
    }
    let mut unread = kline::UNREAD.into_iter();
    Ok(kline::FIELDS.iter().filter_map(|name| name.or_else(|| unread.next())).map(str::to_owned).collect())
}

fn header_names(first: &Record<'_>) -> Result<Vec<String>> {
    let bad =
        |message: &str, at: usize| Error::schema(message).with("line", first.line).with("column", at + 1);
    (0..first.len())
        .map(|at| match std::str::from_utf8(first.field(at)).map(str::trim) {
            Ok("") => Err(bad("a column has no name", at)),
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(bad("the header is not UTF-8", at)),
        })
        .collect()
}

/// A column with its type: declared, else that of a column which every candle file has. There, text in place of
/// a number is an error and not a reason to read the column as text.
fn typed(config: &FileConfig, Payload { at, own, name }: Payload) -> Column {
    let types = &config.column_types;
    let called =
        || types.iter().find(|(wanted, _)| columns::is_called(&own, wanted)).map(|(_, declared)| *declared);
    let declared = types.get(&own).copied().or_else(called);
    let usual = || match kline::payload_type(&name)? {
        DataType::Int64 => Some(ColumnType::Int64),
        _ => Some(ColumnType::Float64),
    };
    let column_type = declared.or_else(usual);
    Column { at, own, name, column_type }
}
