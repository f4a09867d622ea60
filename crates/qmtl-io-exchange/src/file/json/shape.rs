//! Where the rows of a JSON file are, and what their columns are called.

use std::collections::{HashMap, HashSet};
use std::fmt;

use qmtl_history_api::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::walk::{AsRow, Row, Walk};
use super::{tree, unequal};
use crate::file::bytes::FileBytes;

/// The most columns.
const MAX_KEYS: usize = 4_096;

/// Where rows are and what they have.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) place: Place,
    /// The names of the columns; none where rows are lists.
    pub(super) keys: Vec<String>,
    /// Names of what is left out, because it holds more than a value.
    pub(super) nested: Vec<String>,
}

/// Where the rows of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Each value of the file is one.
    Lines,
    /// They are in the list at the end of these keys.
    List(Vec<String>),
    /// In the object at the end of these keys stands a list for each column.
    Columns(Vec<String>),
    /// They are what the whole file is turned into.
    Whole,
}

/// What a value holds.
enum Node {
    Value,
    /// A list of so many values.
    Values(u64),
    Rows(Form),
    Object(Vec<(String, Self)>),
}

/// What rows look like.
#[derive(Debug, Default)]
struct Form {
    rows: u64,
    /// Values that are no rows.
    values: u64,
    width: Option<usize>,
    keys: Vec<String>,
    known: HashMap<String, usize>,
    nested: HashSet<String>,
}

/// Looks for the rows.
///
/// `Schema` where there are none or several lists of them, and where rows differ in their form, naming the row.
pub(super) fn find(bytes: &FileBytes) -> Result<Shape> {
    let found = streamed(bytes);
    // Lists without names may have them beside.
    let is_sure = |shape: &Shape| {
        !shape.keys.is_empty() || !matches!(&shape.place, Place::List(path) if !path.is_empty())
    };
    if found.as_ref().is_ok_and(is_sure) {
        return found;
    }
    match tree::find(bytes)? {
        Some(table) => Ok(Shape { place: Place::Whole, keys: table.keys, nested: table.nested }),
        None => found,
    }
}

/// What can be read a row at a time.
fn streamed(bytes: &FileBytes) -> Result<Shape> {
    let walk = Walk::default();
    let mut values = walk.values(bytes)?;
    let first = OfNode { walk: &walk }.deserialize(&mut values).map_err(|e| walk.error(e))?;
    if values.end().is_err() {
        return lines(bytes);
    }
    let (mut lists, mut columns, mut is_empty) = (Vec::new(), Vec::new(), false);
    gather(first, Vec::new(), &mut lists, &mut columns, &mut is_empty);
    let shown = |paths: Vec<String>| paths.join(", ");
    match (lists.len(), columns.len()) {
        (1, _) => {
            let (path, form) = lists.swap_remove(0);
            form.shape(Place::List(path))
        }
        (0, 1) => {
            let (path, found) = columns.swap_remove(0);
            of_columns(path, found)
        }
        (0, 0) if is_empty => Err(no_row()),
        (0, 0) => lines(bytes),
        (0, _) => Err(Error::schema("the JSON holds several tables; keep the one that is meant")
            .with("keys", shown(columns.iter().map(|(path, _)| path.join(".")).collect()))),
        _ => Err(Error::schema("the JSON holds several lists of rows; keep the one that is meant")
            .with("keys", shown(lists.iter().map(|(path, _)| path.join(".")).collect()))),
    }
}

fn no_row() -> Error {
    Error::schema("the file has no row")
}

type At<T> = Vec<(Vec<String>, T)>;

/// Gathers the lists of rows in a value, and the objects that have lists of values.
fn gather(
    node: Node,
    path: Vec<String>,
    lists: &mut At<Form>,
    columns: &mut At<Vec<(String, u64)>>,
    is_empty: &mut bool,
) {
    match node {
        Node::Values(0) => *is_empty = true,
        Node::Value | Node::Values(_) => {}
        Node::Rows(form) => lists.push((path, form)),
        Node::Object(entries) => {
            let mut own = Vec::new();
            for (key, node) in entries {
                if let Node::Values(count @ 1..) = node {
                    own.push((key, count));
                } else {
                    let inner = path.iter().cloned().chain([key]).collect();
                    gather(node, inner, lists, columns, is_empty);
                }
            }
            if own.len() > 1 {
                columns.push((path, own));
            }
        }
    }
}

fn of_columns(path: Vec<String>, found: Vec<(String, u64)>) -> Result<Shape> {
    let (first, length) = found.first().cloned().unwrap_or_default();
    if let Some((other, count)) = found.iter().find(|(_, count)| *count != length) {
        return Err(unequal((&first, length), (other, *count)));
    }
    let keys = found.into_iter().map(|(key, _)| key).collect();
    Ok(Shape { place: Place::Columns(path), keys, nested: Vec::new() })
}

/// The shape of a file each value of which is a row.
fn lines(bytes: &FileBytes) -> Result<Shape> {
    let walk = Walk::default();
    let mut values = walk.values(bytes)?;
    let mut form = Form::default();
    while values.end().is_err() {
        OfRow { walk: &walk, form: &mut form }.deserialize(&mut values).map_err(|e| walk.error(e))?;
    }
    form.shape(Place::Lines)
}

impl Form {
    fn shape(self, place: Place) -> Result<Shape> {
        let (nested, keys): (Vec<_>, Vec<_>) =
            self.keys.into_iter().partition(|key| self.nested.contains(key));
        if self.rows == 0 {
            return Err(no_row());
        }
        if keys.is_empty() && self.width.is_none() {
            return Err(Error::schema(
                "the JSON holds no rows; write it as a list with an object or a list for each",
            ));
        }
        Ok(Shape { place, keys, nested })
    }

    /// Adds a row; what is wrong with it.
    fn add(&mut self, row: &Row) -> Result<()> {
        self.rows += 1;
        let is_nested = |value: &RawValue| value.get().starts_with(['[', '{']);
        match row {
            Row::List(_) if !self.keys.is_empty() => Err(mixed()),
            Row::Object(_) if self.width.is_some() => Err(mixed()),
            Row::List(values) => {
                let width = *self.width.get_or_insert(values.len());
                if values.iter().any(|value| is_nested(value)) {
                    return Err(Error::schema("a value of a row is a list or an object"));
                }
                if width != values.len() {
                    return Err(Error::schema("a row does not have as many values as the first one")
                        .with("values", values.len())
                        .with("expected", width));
                }
                Ok(())
            }
            Row::Object(values) => {
                for (key, value) in values {
                    if !self.known.contains_key(key) {
                        self.known.insert(key.clone(), self.keys.len());
                        self.keys.push(key.clone());
                    }
                    if is_nested(value) {
                        self.nested.insert(key.clone());
                    }
                }
                if self.keys.len() > MAX_KEYS {
                    return Err(Error::schema("the rows have more than 4096 names of columns"));
                }
                Ok(())
            }
        }
    }
}

fn mixed() -> Error {
    Error::schema("some rows are lists and some are objects, or values")
}

/// Reads a value that may be, or hold, a list of rows.
#[derive(Clone, Copy)]
struct OfNode<'a> {
    walk: &'a Walk,
}

impl<'de> DeserializeSeed<'de> for OfNode<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The visits of values that hold nothing.
macro_rules! visit_values {
    ($node:expr) => {
        fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
            $node(self)
        }

        fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
            $node(self)
        }

        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
            $node(self)
        }

        fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
            $node(self)
        }

        fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
            $node(self)
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            $node(self)
        }
    };
}

impl<'de> Visitor<'de> for OfNode<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    visit_values!(|_| Ok(Node::Value));

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut form = Form::default();
        self.walk.restart();
        while seq.next_element_seed(OfRow { walk: self.walk, form: &mut form })?.is_some() {}
        Ok(match form.rows {
            0 => Node::Values(form.values),
            _ => Node::Rows(form),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.len() >= MAX_KEYS {
                return Err(self.walk.refuse(Error::schema("an object of the JSON has more than 4096 keys")));
            }
            entries.push((key, map.next_value_seed(self)?));
        }
        Ok(Node::Object(entries))
    }
}

/// Reads a value of a list, which may be a row.
struct OfRow<'a> {
    walk: &'a Walk,
    form: &'a mut Form,
}

impl<'de> DeserializeSeed<'de> for OfRow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.walk.begin();
        deserializer.deserialize_any(self)
    }
}

impl OfRow<'_> {
    fn take<E: serde::de::Error>(self, row: &Row) -> Result<(), E> {
        let of_values = if self.form.values > 0 { Err(mixed()) } else { Ok(()) };
        of_values.and_then(|()| self.form.add(row)).map_err(|e| self.walk.refuse(e))
    }

    fn value<E: serde::de::Error>(self) -> Result<(), E> {
        self.form.values += 1;
        if self.form.rows > 0 { Err(self.walk.refuse(mixed())) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for OfRow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row as a list or an object")
    }

    visit_values!(Self::value);

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        let row = AsRow(self.walk).visit_seq(seq)?;
        self.take(&row)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let row = AsRow(self.walk).visit_map(map)?;
        self.take(&row)
    }
}
