//! Which columns of a file hold what, and under which names they come out.

use std::collections::HashMap;

use qmtl_history_api::{Error, Result, frame};

use super::config::FileConfig;
use crate::kline;

/// Names of a time column. Case, blanks, underscores and dashes do not matter.
const TIME_NAMES: [&str; 5] = ["ts", "timestamp", "time", "date", kline::OPEN_TIME];

/// The places of the columns that are not payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    pub(super) ts: usize,
    pub(super) symbol: Option<usize>,
    /// The close time, in a file that has the columns of a kline and is read by its opening time.
    pub(super) close_time: Option<usize>,
}

/// A payload column.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) at: usize,
    /// Its name in the file.
    pub(super) own: String,
    /// The name under which it comes out: a usual column of a candle has one, whatever the file calls it.
    pub(super) name: String,
}

/// Whether a column of the file is the one that somebody names. A usual column may be named in any of its
/// spellings.
pub(super) fn is_called(own: &str, wanted: &str) -> bool {
    let is_usual = |name| kline::canonical(own).is_some_and(|own| kline::canonical(name) == Some(own));
    own == wanted || is_usual(wanted) || (is_time(own) && kline::fold(own) == kline::fold(wanted))
}

/// Finds what the columns hold, given by name in their order.
///
/// `InvalidInput` when a configured column is not there, or when not exactly one is named like a
/// time column and none is configured; `Schema` when two columns would come out under one name.
pub(super) fn find(config: &FileConfig, columns: &[&str]) -> Result<(Roles, Vec<Payload>)> {
    let seen = || columns.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    let named = |what: &str, wanted: &str| {
        let exact = columns.iter().position(|name| *name == wanted);
        exact.or_else(|| columns.iter().position(|name| is_called(name, wanted))).ok_or_else(|| {
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
    let place = |name: &str| columns.iter().position(|own| kline::fold(own) == kline::fold(name));
    let unread = if place(kline::OPEN_TIME) == Some(ts) { kline::UNREAD.map(place) } else { [None; 2] };
    let [Some(close_time), Some(ignored)] = unread else {
        let roles = Roles { ts, symbol, close_time: None };
        return Ok((roles, payload(columns, |at| at != ts && Some(at) != symbol)?));
    };
    let is_payload = |at| at != ts && Some(at) != symbol && at != close_time && at != ignored;
    Ok((Roles { ts, symbol, close_time: Some(close_time) }, payload(columns, is_payload)?))
}

/// The payload columns, each under a name of its own.
fn payload(columns: &[&str], is_payload: impl Fn(usize) -> bool) -> Result<Vec<Payload>> {
    let mut names = HashMap::from([(frame::TS, frame::TS)]);
    let mut found = Vec::new();
    for (at, own) in columns.iter().copied().enumerate().filter(|(at, _)| is_payload(*at)) {
        let name = kline::canonical(own).unwrap_or(own);
        match names.insert(name, own) {
            None => found.push(Payload { at, own: own.to_owned(), name: name.to_owned() }),
            Some(other) if other == own => {
                return Err(Error::schema("two columns have one name").with("column", own));
            }
            Some(other) => {
                return Err(Error::schema(format!(
                    "two columns have names that stand for {name}; remove one from the file, or rename it"
                ))
                .with("columns", format_args!("{other}, {own}")));
            }
        }
    }
    Ok(found)
}

fn is_time(name: &str) -> bool {
    let folded = kline::fold(name);
    TIME_NAMES.iter().any(|known| kline::fold(known) == folded)
}

/// The only column that is named like a time column, or what to do about it.
fn time_column(columns: &[&str]) -> Result<usize, &'static str> {
    let mut found = columns.iter().enumerate().filter(|(_, name)| is_time(name));
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at),
        (Some(_), Some(_)) => Err("several columns may hold the time; say which one does (with_ts_column)"),
        (None, _) if columns.iter().any(|name| name.contains(';')) => Err(
            "the columns are separated by semicolons; write the file with commas between them, and with points in \
                 its numbers",
        ),
        (None, _) if columns.iter().any(|name| name.contains('\t')) => {
            Err("the columns are separated by tabs; write the file with commas between them")
        }
        (None, _) => {
            Err("no column is named ts, timestamp, time, date or open_time; say which one holds the time \
                          (with_ts_column)")
        }
    }
}
