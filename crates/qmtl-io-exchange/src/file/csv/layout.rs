//! What the columns of a CSV file are: told by its header, or by the shape of a Binance archive.

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result, frame};

use super::split::{Record, Splitter};
use super::{BLOCK_BYTES, MAX_LINE_BYTES};
use crate::file::bytes::FileBytes;
use crate::file::columns::{Roles, time_column};
use crate::file::config::{ColumnType, FileConfig};

/// The columns of a Binance archive, which has no header. The close time says nothing that the
/// opening time and the interval do not say, and the last column is always 0: neither is read.
const ARCHIVE: [Option<&str>; 12] = [
    Some("open_time"),
    Some("open"),
    Some("high"),
    Some("low"),
    Some("close"),
    Some("volume"),
    None,
    Some("quote_volume"),
    Some("trades"),
    Some("taker_base_volume"),
    Some("taker_quote_volume"),
    None,
];

/// Columns that hold numbers in every candle file, so that text in them is an error and not a
/// reason to read the column as text.
const NUMBERS: [&str; 8] =
    ["open", "high", "low", "close", "volume", "quote_volume", "taker_base_volume", "taker_quote_volume"];

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
    /// Whether the time column holds integers; otherwise it holds ISO 8601 text.
    pub(super) integer_time: bool,
    /// The byte and the line at which the first row starts.
    pub(super) data_start: u64,
    pub(super) data_line: u64,
}

/// Reads the first two lines of a file.
pub(super) fn detect(bytes: &FileBytes, config: &FileConfig) -> Result<Layout> {
    let mut head = vec![0; BLOCK_BYTES + MAX_LINE_BYTES];
    let filled = bytes.read_at(&mut head, 0).map_err(|e| bytes.io(e))?;
    head.truncate(filled);
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(bytes.fault("the file is UTF-16 text; save it as UTF-8"));
    }
    let bom = head.len() - text.len();
    let (mut splitter, mut row_splitter) = (Splitter::new(), Splitter::new());
    let at_end = filled as u64 == bytes.len();
    let mut records = splitter.records(text, 1, at_end);
    let first = records.next().map_err(|e| bytes.fault(e.message()).with("line", 1))?;
    let first = first.ok_or_else(|| bytes.fault("the file is empty"))?;
    let is_archive = (0..first.len()).all(|at| number(first.field(at)).is_some());
    let names = if is_archive { archive_names(bytes, &first)? } else { header_names(bytes, &first)? };
    let (start, line) = if is_archive { (0, 1) } else { (records.position, records.line) };
    let mut rows = row_splitter.records(&text[start..], line, at_end);
    let row = rows.next().map_err(|e| bytes.fault(e.message()).with("line", line))?;
    let row = row.ok_or_else(|| bytes.fault("the file has a header and no row"))?;
    let roles = roles(bytes, config, &names)?;
    Ok(Layout {
        width: names.len(),
        ts: roles.ts,
        ts_name: names[roles.ts].clone().unwrap_or_default(),
        symbol: roles.symbol,
        payload: payload(bytes, config, &names, &roles)?,
        integer_time: roles.ts < row.len() && integer(row.field(roles.ts)).is_some(),
        data_start: (bom + start) as u64,
        data_line: line,
    })
}

/// A decimal number, blanks around it ignored: the nearest double.
pub(super) fn number(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.trim_ascii().parse().ok()
}

/// A whole number, blanks around it ignored.
pub(super) fn integer(field: &[u8]) -> Option<i64> {
    std::str::from_utf8(field).ok()?.trim_ascii().parse().ok()
}

fn archive_names(bytes: &FileBytes, first: &Record<'_>) -> Result<Vec<Option<String>>> {
    if first.len() != ARCHIVE.len() {
        return Err(bytes
            .fault("the first line has numbers alone, so there is no header; only the 12 columns of a Binance archive are known without one: add a header")
            .with("columns", first.len()));
    }
    Ok(ARCHIVE.iter().map(|name| name.map(str::to_owned)).collect())
}

fn header_names(bytes: &FileBytes, first: &Record<'_>) -> Result<Vec<Option<String>>> {
    (0..first.len())
        .map(|at| match std::str::from_utf8(first.field(at)).map(str::trim) {
            Ok("") => {
                Err(bytes.fault("a column has no name").with("line", first.line).with("column", at + 1))
            }
            Ok(name) => Ok(Some(name.to_owned())),
            Err(_) => {
                Err(bytes.fault("the header is not UTF-8").with("line", first.line).with("column", at + 1))
            }
        })
        .collect()
}

fn roles(bytes: &FileBytes, config: &FileConfig, names: &[Option<String>]) -> Result<Roles> {
    let known: Vec<_> =
        names.iter().enumerate().filter_map(|(at, name)| Some((at, name.as_deref()?))).collect();
    let in_file = |e: Error| e.with("file", bytes.shown());
    let unknown = config.column_types.keys().find(|name| known.iter().all(|(_, other)| other != name));
    if let Some(name) = unknown {
        return Err(in_file(
            Error::invalid("a type is declared for a column that the file lacks").with("column", name),
        ));
    }
    time_column(config, &known).map_err(in_file)
}

fn payload(
    bytes: &FileBytes,
    config: &FileConfig,
    names: &[Option<String>],
    roles: &Roles,
) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let Some(name) = name else { continue };
        if at == roles.ts || Some(at) == roles.symbol {
            continue;
        }
        if name == frame::TS || columns.iter().any(|column| column.name == *name) {
            return Err(bytes.fault("two columns have one name").with("column", name));
        }
        let lower = name.to_ascii_lowercase();
        let known = match lower.as_str() {
            "trades" => Some(ColumnType::Int64),
            lower if NUMBERS.contains(&lower) => Some(ColumnType::Float64),
            _ => None,
        };
        let column_type = config.column_types.get(name).copied().or(known);
        columns.push(Column { at, name: name.clone(), column_type });
    }
    Ok(columns)
}
