//! Which columns of a file hold the time and the symbol.

use std::collections::HashSet;

use qmtl_history_api::{Error, Result, frame};

use super::config::FileConfig;

/// Names of a time column, in lower case with underscores.
const TIME_NAMES: [&str; 5] = ["ts", "timestamp", "time", "date", "open_time"];

/// Names of a column that tells series apart, in lower case.
const SYMBOL_NAMES: [&str; 4] = ["symbol", "ticker", "pair", "instrument"];

/// The places of the columns that are not payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    pub(super) ts: usize,
    pub(super) symbol: Option<usize>,
}

/// Sees to it that a file which is read as one series is one: a column that is named as if it told
/// series apart must have one value throughout, or the rows of several series would be mixed.
#[derive(Clone, Debug, Default)]
pub(super) struct OneSeries(Vec<Sole>);

/// A column and the value that it has so far.
#[derive(Clone, Debug)]
struct Sole {
    at: usize,
    name: String,
    value: Option<Vec<u8>>,
}

impl OneSeries {
    /// Nothing to see to where a symbol column was named.
    pub(super) fn new(roles: Roles, columns: &[(usize, &str)]) -> Self {
        let is_suspect = |(at, name): &&(usize, &str)| {
            *at != roles.ts && SYMBOL_NAMES.contains(&name.to_ascii_lowercase().as_str())
        };
        let sole = |(at, name): &(usize, &str)| Sole { at: *at, name: (*name).to_owned(), value: None };
        match roles.symbol {
            Some(_) => Self::default(),
            None => Self(columns.iter().filter(is_suspect).map(sole).collect()),
        }
    }

    /// The places of the columns to look at.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|sole| sole.at)
    }

    /// Looks at a row, whose fields `field` gives by place; an empty one says nothing.
    /// `InvalidInput` at the second value.
    pub(super) fn row<'a>(&mut self, field: impl Fn(usize) -> &'a [u8]) -> Result<()> {
        for Sole { at, name, value: sole } in &mut self.0 {
            match (field(*at), sole.as_deref()) {
                (b"", _) => {}
                (value, None) => *sole = Some(value.to_vec()),
                (value, Some(first)) if value == first => {}
                (value, Some(first)) => {
                    let shown = |value: &[u8]| format!("{:?}", String::from_utf8_lossy(value));
                    return Err(Error::invalid(
                        "the file holds several series; say which column tells them apart (with_symbol_column)",
                    )
                    .with("column", name)
                    .with("values", format_args!("{}, {}", shown(first), shown(value))));
                }
            }
        }
        Ok(())
    }
}

/// Finds the time and the symbol column among columns given by place and name.
///
/// `InvalidInput` when a configured column is not there, or when not exactly one is named like a
/// time column and none is configured; `Schema` when two columns would come out under one name.
pub(super) fn find_roles(config: &FileConfig, columns: &[(usize, &str)]) -> Result<Roles> {
    let seen = || columns.iter().take(20).map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    let named = |what: &str, wanted: &str| {
        columns.iter().find(|(_, name)| *name == wanted).map(|(at, _)| *at).ok_or_else(|| {
            Error::invalid(format!("the file has no column of the name given for the {what}"))
                .with("column", wanted)
                .with("columns", seen())
        })
    };
    let ts = match &config.ts_column {
        Some(name) => named("time", name)?,
        None => time_column(columns).map_err(|message| Error::invalid(message).with("columns", seen()))?,
    };
    let symbol = config.symbol_column.as_deref().map(|name| named("symbol", name)).transpose()?;
    if symbol == Some(ts) {
        return Err(
            Error::invalid("one column cannot hold both the time and the symbol").with("columns", seen())
        );
    }
    let mut names = HashSet::from([frame::TS]);
    match columns.iter().find(|(at, name)| *at != ts && Some(*at) != symbol && !names.insert(name)) {
        Some((_, name)) => Err(Error::schema("two columns have one name").with("column", name)),
        None => Ok(Roles { ts, symbol }),
    }
}

/// The only column that is named like a time column, or what to do about it.
fn time_column(columns: &[(usize, &str)]) -> Result<usize, &'static str> {
    let is_time = |name: &str| TIME_NAMES.contains(&name.to_ascii_lowercase().replace(' ', "_").as_str());
    let mut found = columns.iter().filter(|(_, name)| is_time(name));
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(*at),
        (Some(_), Some(_)) => Err("several columns may hold the time; say which one does (with_ts_column)"),
        (None, _) => {
            Err("no column is named ts, timestamp, time, date or open_time; say which one holds the time \
                          (with_ts_column)")
        }
    }
}
