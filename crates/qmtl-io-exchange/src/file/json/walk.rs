//! Goes through a JSON file, a value at a time, in bounded memory.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use qmtl_history_api::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::de::IoRead;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::shape::{Place, Shape};
use super::{MAX_COLUMNS_BYTES, MAX_ROW_BYTES};
use crate::file::bytes::{Cursor, FileBytes, corrupt, io_error};

/// The mark that some editors put before UTF-8 text.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

const BUFFER_BYTES: usize = 64 * 1024;

/// A row of a file.
#[derive(Debug)]
pub(super) enum Row {
    List(Vec<Box<RawValue>>),
    Object(Vec<(String, Box<RawValue>)>),
}

/// Where a walk is, and why it ends early.
#[derive(Debug, Default)]
pub(super) struct Walk {
    row: Cell<u64>,
    /// How many bytes may be read before the next row begins.
    left: Rc<Cell<u64>>,
    fault: RefCell<Option<Error>>,
}

/// A reader that ends where a row is too long.
#[derive(Debug)]
pub(super) struct Bounded {
    cursor: Cursor,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            let too_long = Error::schema("a row of the JSON is longer than 1 MiB");
            return Err(io::Error::other(too_long));
        }
        let count = self.cursor.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(count as u64));
        Ok(count)
    }
}

/// What values are read from.
pub(super) type Values = serde_json::Deserializer<IoRead<BufReader<Bounded>>>;

impl Walk {
    /// The values of a file from its beginning on.
    pub(super) fn values(&self, bytes: &FileBytes) -> Result<Values> {
        let mut mark = [0; BOM.len()];
        let count = bytes.read_at(&mut mark, 0).map_err(io_error)?;
        let skipped = if mark[..count] == *BOM { BOM.len() as u64 } else { 0 };
        let rest = bytes.part(skipped, bytes.len() - skipped);
        let cursor = rest.as_ref().unwrap_or(bytes).cursor();
        self.begin();
        self.restart();
        let reader = Bounded { cursor, left: Rc::clone(&self.left) };
        Ok(serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER_BYTES, reader)))
    }

    /// Begins a list of rows.
    pub(super) fn restart(&self) {
        self.row.set(0);
    }

    /// Begins a row.
    pub(super) fn begin(&self) {
        self.row.set(self.row.get() + 1);
        self.left.set(MAX_ROW_BYTES);
    }

    /// Ends the walk with an error, which names the row.
    pub(super) fn refuse<E: serde::de::Error>(&self, error: Error) -> E {
        *self.fault.borrow_mut() = Some(error.with("row", self.row.get()));
        E::custom("")
    }

    /// Why a walk has ended.
    pub(super) fn error(&self, error: serde_json::Error) -> Error {
        if let Some(fault) = self.fault.borrow_mut().take() {
            return fault;
        }
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Io => io_error(error.into()).with("row", self.row.get()),
            Category::Eof => {
                corrupt("the JSON is cut off; copy or download the file again").with("line", line)
            }
            Category::Syntax | Category::Data => Error::schema("the file is not valid JSON")
                .with("line", line)
                .with("column", column)
                .caused_by(error),
        }
    }
}

/// Reads one value as a row.
pub(super) struct AsRow<'a>(pub(super) &'a Walk);

impl<'de> DeserializeSeed<'de> for AsRow<'_> {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        self.0.begin();
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AsRow<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row as a list or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Row, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Row::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut values = Vec::new();
        while let Some(entry) = map.next_entry()? {
            values.push(entry);
        }
        Ok(Row::Object(values))
    }
}

/// Gives the rows to `take`, one by one.
pub(super) fn rows(bytes: &FileBytes, shape: &Shape, mut take: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let walk = Walk::default();
    let mut values = walk.values(bytes)?;
    match &shape.place {
        Place::Lines => {
            while values.end().is_err() {
                take(AsRow(&walk).deserialize(&mut values).map_err(|e| walk.error(e))?)?;
            }
            Ok(())
        }
        Place::Whole => Ok(()),
        Place::List(path) | Place::Columns(path) => {
            let inside = Inside { walk: &walk, path, take: &mut take };
            inside.deserialize(&mut values).map_err(|e| walk.error(e))
        }
    }
}

/// Goes along a path of keys to the list of rows.
struct Inside<'a> {
    walk: &'a Walk,
    path: &'a [String],
    take: &'a mut dyn FnMut(Row) -> Result<()>,
}

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.walk.restart();
        while let Some(row) = seq.next_element_seed(AsRow(self.walk))? {
            (self.take)(row).map_err(|e| {
                *self.walk.fault.borrow_mut() = Some(e);
                A::Error::custom("")
            })?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                Some((first, path)) if *first == key => {
                    map.next_value_seed(Inside { walk: self.walk, path, take: &mut *self.take })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The columns of a file that has a list for each.
pub(super) fn columns(bytes: &FileBytes, shape: &Shape) -> Result<Vec<Vec<Box<RawValue>>>> {
    if bytes.len() > MAX_COLUMNS_BYTES {
        return Err(Error::schema(
            "JSON with a list for each column is read up to 64 MiB; write a list for each row",
        )
        .with("bytes", bytes.len()));
    }
    let (Place::Columns(path), walk) = (&shape.place, Walk::default()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for key in &shape.keys {
        let mut column = Vec::new();
        let path: Vec<_> = path.iter().chain([key]).cloned().collect();
        let mut values = walk.values(bytes)?;
        walk.left.set(u64::MAX);
        let along = Along { path: &path, column: &mut column };
        along.deserialize(&mut values).map_err(|e| walk.error(e))?;
        found.push(column);
    }
    Ok(found)
}

/// Goes along a path of keys to a list of values.
struct Along<'a> {
    path: &'a [String],
    column: &'a mut Vec<Box<RawValue>>,
}

impl<'de> DeserializeSeed<'de> for Along<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Along<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // Of two lists under one key the last one counts, as readers of JSON do.
        self.column.clear();
        while let Some(value) = seq.next_element()? {
            self.column.push(value);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                Some((first, path)) if *first == key => {
                    map.next_value_seed(Along { path, column: &mut *self.column })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}
