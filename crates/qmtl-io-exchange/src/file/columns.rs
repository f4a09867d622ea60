//! Which columns of a file hold what, and under which names they come out.

use std::collections::HashMap;

use qmtl_history_api::{Error, Result, frame};

use super::config::FileConfig;
use crate::kline;

/// Names of a time column. Case, blanks, underscores and dashes do not matter.
const TIME_NAMES: [&str; 15] = [
    "ts",
    "timestamp",
    "time",
    "date",
    kline::OPEN_TIME,
    "datetime",
    "unix",
    "unix_timestamp",
    "gmt_time",
    "utc_time",
    "ts_event",
    "window_start",
    "trade_date",
    "trade_time",
    "datum",
];

/// What a column may be called for short, where no other one has that name. Single letters count where all four prices
/// have one, and another name of the close where the other three prices are there: the price of a trade is no close.
const SHORT: [(&str, &str); 11] = [
    ("price", "close"),
    ("last", "close"),
    ("close/last", "close"),
    ("vol", "volume"),
    ("vol.", "volume"),
    ("o", "open"),
    ("h", "high"),
    ("l", "low"),
    ("c", "close"),
    ("v", "volume"),
    ("t", "ts"),
];

/// The places of the columns that are not payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    pub(super) ts: usize,
    /// The time of day, where the time is only its date.
    pub(super) clock: Option<usize>,
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
    own == wanted || is_usual(wanted) || (is_time(own) && kline::is_same(own, wanted))
}

/// The names of columns after those that are given for them, and those that are short for a usual one.
///
/// `InvalidInput` when the file lacks a column that is to be renamed.
pub(super) fn named(config: &FileConfig, own: &[&str]) -> Result<Vec<String>> {
    let mut names: Vec<String> = own.iter().map(|name| (*name).to_owned()).collect();
    for (at, name) in of_two_header_rows(own, config)? {
        name.clone_into(&mut names[at]);
    }
    for (from, to) in &config.renamed {
        let Some(at) = own.iter().position(|name| name == from) else {
            return Err(Error::invalid("the file lacks a column that is to be renamed (with_column)")
                .with("column", from)
                .with("columns", shown(own)));
        };
        names[at].clone_from(to);
    }
    for (from, to) in config.usually_renamed {
        let at = own.iter().position(|name| name == from).filter(|_| !config.renamed.contains_key(*from));
        if let Some(at) = at {
            (*to).clone_into(&mut names[at]);
        }
    }
    let has = |names: &[String], name: &str| names.iter().any(|own| kline::canonical(own) == Some(name));
    let is = |own: &str, short: &str| own.eq_ignore_ascii_case(short);
    let has_letters =
        ["o", "h", "l", "c"].iter().all(|letter| names.iter().any(|own| own.eq_ignore_ascii_case(letter)));
    let has_prices = ["open", "high", "low"].iter().all(|name| has(&names, name));
    let counts = |short: &str, name: &str| match short.len() {
        1 => has_letters,
        _ => name != "close" || has_prices,
    };
    for (short, name) in SHORT.into_iter().filter(|(short, name)| counts(short, name)) {
        let mut called = (0..names.len()).filter(|at| is(&names[*at], short));
        if let (Some(at), None, false) = (called.next(), called.next(), has(&names, name)) {
            name.clone_into(&mut names[at]);
        }
    }
    Ok(names)
}

/// What pandas calls the columns of a table with two header rows, such as `('Close', 'AAPL')`: the part by which they differ,
/// where one part is the same of all.
///
/// `Schema` where they are of several series side by side, and none is renamed.
fn of_two_header_rows<'a>(own: &[&'a str], config: &FileConfig) -> Result<Vec<(usize, &'a str)>> {
    let parts = |name: &&'a str| name.strip_prefix("('")?.strip_suffix("')")?.split_once("', '");
    let all = own.iter().enumerate().filter_map(|(at, name)| Some((at, parts(name)?)));
    // The index, such as `('Date', '')`, is of no series.
    let (index, all): (Vec<_>, Vec<_>) = all.partition(|(_, (_, second))| second.is_empty());
    let are_one = |part: fn(&(&'a str, &'a str)) -> &'a str| {
        all.len() > 1 && all.iter().all(|(_, parts)| part(parts) == part(&all[0].1))
    };
    let names: Vec<_> = match (are_one(|parts| parts.1), are_one(|parts| parts.0)) {
        (true, _) => all.iter().map(|(at, parts)| (*at, parts.0)).collect(),
        // Closes of several series have one first part too.
        (_, true) if kline::canonical(all[0].1.0).is_none() => {
            all.iter().map(|(at, parts)| (*at, parts.1)).collect()
        }
        _ if all.len() > 1 && config.renamed.is_empty() => {
            return Err(Error::schema(
                "the file holds several series side by side; write each to a file of its own, or name the columns to read \
                 (with_column)",
            )
            .with("columns", shown(own)));
        }
        _ => Vec::new(),
    };
    Ok(names.into_iter().chain(index.into_iter().map(|(at, parts)| (at, parts.0))).collect())
}

fn shown(columns: &[&str]) -> String {
    columns.iter().take(20).copied().collect::<Vec<_>>().join(", ")
}

/// Finds what the columns hold, given by name in their order. Of several that are named like a time, or of those
/// without a name where none is, `choose` takes one, and another one with the time of day.
///
/// `InvalidInput` when a configured column is not there, or when not exactly one is named like a
/// time column and none is configured; `Schema` when two columns would come out under one name.
pub(super) fn find(
    config: &FileConfig,
    columns: &[&str],
    choose: impl Fn(&[usize]) -> Option<(usize, Option<usize>)>,
) -> Result<(Roles, Vec<Payload>)> {
    let named = |what: &str, wanted: &str| {
        let exact = columns.iter().position(|name| *name == wanted);
        exact.or_else(|| columns.iter().position(|name| is_called(name, wanted))).ok_or_else(|| {
            Error::invalid(format!("the file has no column of the name given for the {what}"))
                .with("column", wanted)
                .with("columns", shown(columns))
        })
    };
    let (ts, clock) = match &config.ts_column {
        Some(name) => {
            let ts = named("time", name)?;
            // The time of day beside a date that is named.
            let beside = |(at, name): (usize, &&str)| (is_time(name) && at != ts).then_some(at);
            let clock = columns.iter().enumerate().filter_map(beside);
            let clock = clock.filter_map(|at| choose(&[ts, at]).filter(|(first, _)| *first == ts)?.1).next();
            (ts, clock)
        }
        None => time_columns(columns, choose)
            .map_err(|message| Error::invalid(message).with("columns", shown(columns)))?,
    };
    let symbol = config.symbol_column.as_deref().map(|name| named("symbol", name)).transpose()?;
    if symbol == Some(ts) {
        return Err(Error::invalid("one column cannot hold both the time and the symbol")
            .with("columns", shown(columns)));
    }
    let place = |name: &str| columns.iter().position(|own| kline::is_same(own, name));
    let unread = if place(kline::OPEN_TIME) == Some(ts) { kline::UNREAD.map(place) } else { [None; 2] };
    let is_other = |at| at != ts && Some(at) != clock && Some(at) != symbol;
    let [Some(close_time), Some(ignored)] = unread else {
        let roles = Roles { ts, clock, symbol, close_time: None };
        return Ok((roles, payload(columns, is_other)?));
    };
    let is_payload = |at| is_other(at) && at != close_time && at != ignored;
    Ok((Roles { ts, clock, symbol, close_time: Some(close_time) }, payload(columns, is_payload)?))
}

/// The payload columns, each under a name of its own.
fn payload(columns: &[&str], is_payload: impl Fn(usize) -> bool) -> Result<Vec<Payload>> {
    let mut names = HashMap::from([(frame::TS, frame::TS)]);
    let mut found = Vec::new();
    for (at, own) in
        columns.iter().copied().enumerate().filter(|(at, own)| is_payload(*at) && !own.is_empty())
    {
        let name = kline::canonical(own).unwrap_or(own);
        match names.insert(name, own) {
            None => found.push(Payload { at, own: own.to_owned(), name: name.to_owned() }),
            Some(other) if other == own => {
                return Err(Error::schema(
                    "two columns have one name; name all columns of the file in their order (with_columns), or rename one \
                     in it",
                )
                .with("column", own));
            }
            Some(other) => {
                return Err(Error::schema(format!(
                    "two columns have names that stand for {name}; give one of them another name (with_column)"
                ))
                .with("columns", format_args!("{other}, {own}")));
            }
        }
    }
    Ok(found)
}

/// Whether a column is named like a time.
pub(super) fn is_time(name: &str) -> bool {
    TIME_NAMES.iter().any(|known| kline::is_same(known, name))
}

/// The column that is named like a time column, or what to do about it.
fn time_columns(
    columns: &[&str],
    choose: impl Fn(&[usize]) -> Option<(usize, Option<usize>)>,
) -> Result<(usize, Option<usize>), &'static str> {
    let found: Vec<usize> = (0..columns.len()).filter(|at| is_time(columns[*at])).collect();
    match found[..] {
        [at] => Ok((at, None)),
        [] => {
            let unnamed: Vec<usize> = (0..columns.len()).filter(|at| columns[*at].is_empty()).collect();
            choose(&unnamed).filter(|_| !unnamed.is_empty()).ok_or(
                "no column is named like a time, such as ts, timestamp, time, date, datetime or open_time; say which one \
                 holds it (with_ts_column)",
            )
        }
        _ => choose(&found).ok_or("several columns may hold the time; say which one does (with_ts_column)"),
    }
}
