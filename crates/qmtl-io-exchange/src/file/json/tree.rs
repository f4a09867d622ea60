//! Tables that are not written row by row: keyed by their times, by columns, or in several parts of one object, as pandas
//! and some vendors write them. They are turned into rows in memory.

use std::collections::HashMap;

use qmtl_history_api::{Error, Result};
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::walk::{AsRow, BOM, Row, Walk};
use super::{MAX_COLUMNS_BYTES, unequal};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::columns;
use crate::file::time::parse_iso;

/// How deep a table may lie.
const MAX_DEPTH: usize = 16;

/// What the column of times is called where they are keys.
const TS: &str = "ts";

type Value = Box<RawValue>;
type Entry = (String, Value);

/// Columns and rows, which have a value or none for each column.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) keys: Vec<String>,
    pub(super) rows: Vec<Vec<Option<Value>>>,
    /// Names of what is left out, because it holds more than a value.
    pub(super) nested: Vec<String>,
}

/// Looks for the table; `None` where there is none, or the file is larger than 64 MiB.
///
/// `Schema` where there are several, or its columns do not have the same number of values.
pub(super) fn find(bytes: &FileBytes) -> Result<Option<Table>> {
    if bytes.len() > MAX_COLUMNS_BYTES {
        return Ok(None);
    }
    let mut text = vec![0; usize::try_from(bytes.len()).unwrap_or(usize::MAX)];
    let count = bytes.read_at(&mut text, 0).map_err(io_error)?;
    let text = text[..count].strip_prefix(BOM).unwrap_or(&text[..count]);
    // What is no JSON was told by whoever looked before.
    let Ok(root) = serde_json::from_slice::<Value>(text) else { return Ok(None) };
    let mut found = Vec::new();
    search(&root, 0, &mut Vec::new(), &mut found)?;
    if found.len() > 1 {
        let paths: Vec<_> = found.into_iter().map(|(path, _)| path).collect();
        return Err(Error::schema("the JSON holds several tables; keep the one that is meant")
            .with("keys", paths.join(", ")));
    }
    Ok(found.pop().map(|(_, table)| table))
}

/// What a list or an object holds.
fn parts(value: &RawValue) -> Option<Row> {
    if !value.get().starts_with(['[', '{']) {
        return None;
    }
    AsRow(&Walk::default()).deserialize(&mut serde_json::Deserializer::from_str(value.get())).ok()
}

fn object(value: &RawValue) -> Option<Vec<Entry>> {
    match parts(value)? {
        Row::Object(entries) => Some(entries),
        Row::List(_) => None,
    }
}

fn list(value: &RawValue) -> Option<Vec<Value>> {
    match parts(value)? {
        Row::List(values) => Some(values),
        Row::Object(_) => None,
    }
}

fn is_scalar(value: &RawValue) -> bool {
    !value.get().starts_with(['[', '{'])
}

fn search(
    value: &RawValue,
    depth: usize,
    path: &mut Vec<String>,
    found: &mut Vec<(String, Table)>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    match parts(value) {
        // A list of one thing is that thing.
        Some(Row::List(values)) if values.len() == 1 => search(&values[0], depth + 1, path, found)?,
        Some(Row::Object(entries)) => {
            let table = in_parts(&entries).or_else(|| by_time(&entries)).or_else(|| by_column(&entries));
            let table = match table {
                None => beside_times(&entries)?,
                table => table,
            };
            if let Some(table) = table {
                found.push((path.join("."), table));
                return Ok(());
            }
            for (key, value) in entries {
                path.push(key);
                search(&value, depth + 1, path, found)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

/// Rows under `data` with the names of their columns beside them, and perhaps an index: pandas' `split` and `table`.
fn in_parts(entries: &[Entry]) -> Option<Table> {
    let part = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let data = list(part("data")?)?;
    if let Some(columns) = part("columns") {
        let names = list(columns)?.into_iter().map(|name| serde_json::from_str(name.get()).ok());
        let keys = names.collect::<Option<Vec<String>>>()?;
        let rows = data.iter().map(|row| Some(list(row)?.into_iter().map(Some).collect::<Vec<_>>()));
        let mut table = Table { keys, rows: rows.collect::<Option<_>>()?, ..Table::default() };
        if table.rows.iter().any(|row| row.len() != table.keys.len()) {
            return None;
        }
        let index = part("index").and_then(|index| list(index)).filter(|index| index.len() == data.len());
        if let Some(index) = index.filter(|_| !table.has_time()) {
            table.keys.insert(0, TS.to_owned());
            table.rows.iter_mut().zip(index).for_each(|(row, time)| row.insert(0, Some(time)));
        }
        return Some(table);
    }
    part("schema")?;
    let rows = data.iter().map(|row| object(row)).collect::<Option<Vec<_>>>()?;
    Some(Table::of_objects(rows))
}

/// An object for each time, which is its key.
fn by_time(entries: &[Entry]) -> Option<Table> {
    if entries.is_empty() || !entries.iter().all(|(key, _)| is_time(key)) {
        return None;
    }
    let named = |(name, value): Entry| (unnumbered(&name).to_owned(), value);
    let rows = entries.iter().map(|(_, row)| Some(object(row)?.into_iter().map(named).collect()));
    let mut rows = rows.collect::<Option<Vec<Vec<Entry>>>>()?;
    // Where rows have times of their own as well, whoever reads them decides between the two.
    let has_own = rows.iter().flatten().any(|(name, _)| name == TS);
    for ((time, _), row) in entries.iter().zip(&mut rows) {
        row.insert(0, (if has_own { "time" } else { TS }.to_owned(), text(time)?));
    }
    Some(Table::of_objects(rows))
}

/// An object for each column, whose keys are times or numbers of rows.
fn by_column(entries: &[Entry]) -> Option<Table> {
    let columns = entries.iter().map(|(_, column)| object(column)).collect::<Option<Vec<_>>>()?;
    let index: Vec<String> = columns.first()?.iter().map(|(key, _)| key.clone()).collect();
    let is_number = |key: &String| key.bytes().all(|byte| byte.is_ascii_digit());
    if index.is_empty() || !index.iter().all(|key| is_number(key) || is_time(key)) {
        return None;
    }
    let mut table = Table {
        keys: entries.iter().map(|(key, _)| key.clone()).collect(),
        rows: index.iter().map(|_| Vec::new()).collect(),
        ..Table::default()
    };
    if !table.has_time() {
        if !index.iter().all(|key| is_time(key)) {
            return None;
        }
        table.keys.insert(0, TS.to_owned());
        for (row, key) in table.rows.iter_mut().zip(&index) {
            row.push(text(key));
        }
    }
    for column in columns {
        if column.len() != index.len() {
            return None;
        }
        let mut values: HashMap<String, Value> = column.into_iter().collect();
        for (row, key) in table.rows.iter_mut().zip(&index) {
            // What holds more than a value is no column.
            row.push(Some(values.remove(key).filter(|value| is_scalar(value))?));
        }
    }
    Some(table)
}

/// A list of times, and lists that are as long in what stands beside it.
///
/// `Schema` where of the lists that stand together only some are as long.
fn beside_times(entries: &[Entry]) -> Result<Option<Table>> {
    let times = |(key, value): &Entry| {
        let times = scalars(value).filter(|times| columns::is_time(key) && !times.is_empty())?;
        Some((key.clone(), times))
    };
    // Lists of the same object are what streams find.
    let is_deeper =
        |(_, value): &Entry| matches!(parts(value), Some(Row::Object(_))) || sole(value).is_some();
    let Some(times) = entries.iter().find_map(times).filter(|_| entries.iter().any(is_deeper)) else {
        return Ok(None);
    };
    let mut columns = vec![times];
    gather(entries, 0, &mut columns)?;
    if columns.len() < 2 {
        return Ok(None);
    }
    let mut rows: Vec<Vec<Option<Value>>> = columns[0].1.iter().map(|_| Vec::new()).collect();
    let mut keys = Vec::new();
    for (key, values) in columns {
        keys.push(key);
        rows.iter_mut().zip(values).for_each(|(row, value)| row.push(Some(value)));
    }
    Ok(Some(Table { keys, rows, nested: Vec::new() }))
}

/// Adds the lists in an object that are as long as the times, and have a name of their own.
fn gather(entries: &[Entry], depth: usize, columns: &mut Vec<(String, Vec<Value>)>) -> Result<()> {
    let length = columns[0].1.len();
    let (mut as_long, mut other) = (None, None);
    for (key, value) in entries {
        if let Some(inner) = object(value).or_else(|| sole(value)).filter(|_| depth < MAX_DEPTH) {
            gather(&inner, depth + 1, columns)?;
        } else if let Some(values) = scalars(value).filter(|values| !values.is_empty()) {
            if values.len() != length {
                other = Some((key, values.len()));
                continue;
            }
            as_long = Some(key);
            if columns.iter().all(|(known, _)| known != key) {
                columns.push((key.clone(), values));
            }
        }
    }
    match as_long.zip(other) {
        Some((key, (other, count))) => Err(unequal((key, length as u64), (other, count as u64))),
        None => Ok(()),
    }
}

/// The only object of a list.
fn sole(value: &RawValue) -> Option<Vec<Entry>> {
    match &list(value)?[..] {
        [one] => object(one),
        _ => None,
    }
}

/// A list of values.
fn scalars(value: &RawValue) -> Option<Vec<Value>> {
    list(value).filter(|values| values.iter().all(|value| is_scalar(value)))
}

impl Table {
    /// Rows with the columns that any of them has, but for those that hold more than a value in one.
    fn of_objects(objects: Vec<Vec<Entry>>) -> Self {
        let mut table = Self::default();
        for (key, _) in objects.iter().flatten().filter(|(_, value)| !is_scalar(value)) {
            if !table.nested.contains(key) {
                table.nested.push(key.clone());
            }
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        for object in objects {
            let mut row: Vec<Option<Value>> = vec![None; table.keys.len()];
            for (key, value) in object.into_iter().filter(|(key, _)| !table.nested.contains(key)) {
                let at = *places.entry(key).or_insert_with_key(|key| {
                    table.keys.push(key.clone());
                    table.keys.len() - 1
                });
                row.resize(row.len().max(at + 1), None);
                row[at] = Some(value);
            }
            table.rows.push(row);
        }
        let width = table.keys.len();
        table.rows.iter_mut().for_each(|row| row.resize(width, None));
        table
    }

    fn has_time(&self) -> bool {
        self.keys.iter().any(|key| columns::is_time(key))
    }
}

/// Whether a key is a time: text, or a count since 1970 that is no number of a row.
fn is_time(key: &str) -> bool {
    const FEWEST_DIGITS: usize = 9;
    let is_count = key.len() >= FEWEST_DIGITS && key.bytes().all(|byte| byte.is_ascii_digit());
    is_count || (key.contains(['-', '/']) && parse_iso(key).is_some())
}

/// A name without the number before it: `1. open`.
fn unnumbered(name: &str) -> &str {
    let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() == name.len() { name } else { rest.strip_prefix(". ").unwrap_or(name) }
}

/// A key as a value.
fn text(key: &str) -> Option<Value> {
    serde_json::value::to_raw_value(key).ok()
}
