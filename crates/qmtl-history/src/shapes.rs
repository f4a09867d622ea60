//! The shapes of `--json`: times are epoch seconds, ranges inclusive pairs `[first, last]` of bars.

use std::path::{Path, PathBuf};

use qmtl_history_api::frame::NotNumbers;
use qmtl_history_api::{EmptyProof, Error, Interval, RangeSet, SeriesKey, TimeRange, Timestamp};
use serde::{Serialize, Serializer};

use crate::outcome;

/// A point in time in epoch seconds; whole ones print without a fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) Timestamp);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.as_micros() % 1_000_000 == 0 {
            serializer.serialize_i64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

/// An inclusive pair of bars.
pub(crate) type Pair = (Seconds, Seconds);

/// The ranges of a set as inclusive pairs.
pub(crate) fn pairs(set: &RangeSet, interval: Interval) -> Vec<Pair> {
    set.inclusive(interval).into_iter().map(|(first, last)| (Seconds(first), Seconds(last))).collect()
}

/// A range as an inclusive pair; as it is when no bar opens inside.
pub(crate) fn pair(range: TimeRange, interval: Interval) -> Pair {
    let (first, last) = range.bounds(interval).unwrap_or((range.start(), range.end()));
    (Seconds(first), Seconds(last))
}

/// A series by its name and its interval in seconds, with the phase where there is one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) node_id: String,
    pub(crate) interval: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<i64>,
}

impl From<&SeriesKey> for Series {
    fn from(key: &SeriesKey) -> Self {
        let SeriesKey { node_id, interval } = key;
        let phase = Some(interval.phase_secs()).filter(|phase| *phase > 0);
        Self { node_id: node_id.as_str().to_owned(), interval: interval.as_secs(), phase }
    }
}

/// A column in which some rows have NaN.
#[derive(Debug, Serialize)]
pub(crate) struct NanColumn {
    column: String,
    rows: u64,
    first: Seconds,
}

impl From<&NotNumbers> for NanColumn {
    fn from(nan: &NotNumbers) -> Self {
        Self { column: nan.column.clone(), rows: nan.rows, first: Seconds(nan.first) }
    }
}

/// A proof of emptiness, the detail beside `known_empty`.
#[derive(Debug, Serialize)]
pub(crate) struct Proof {
    source: String,
    reason: String,
    answered_at: Seconds,
    /// When the proof of its newest bar ends; null is never.
    expires_at: Option<Seconds>,
    rule: u32,
    /// How many later answers said the same.
    confirmed: u32,
    /// Whether it counts now, for a part of its bars at least.
    believed: bool,
    ranges: Vec<Pair>,
}

impl Proof {
    pub(crate) fn new(proof: &EmptyProof, interval: Interval, now: Timestamp) -> Self {
        let newest = proof.ranges.span().and_then(|span| span.bounds(interval)).map(|(_, last)| last);
        Self {
            source: proof.source.as_str().to_owned(),
            reason: proof.reason.clone(),
            answered_at: Seconds(proof.answered_at),
            expires_at: newest.and_then(|ts| proof.expires_at(ts)).map(Seconds),
            rule: proof.rule,
            confirmed: proof.confirmed,
            believed: !proof.valid_at(now).is_empty(),
            ranges: pairs(&proof.ranges, interval),
        }
    }
}

/// A series that cannot be looked at; the file that names it may be what is damaged.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Damaged {
    node_id: Option<String>,
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<i64>,
    error: DamagedError,
    /// Where, as far as the error says.
    #[serde(skip)]
    path: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
struct DamagedError {
    kind: &'static str,
    message: String,
}

impl Damaged {
    pub(crate) fn new(key: Option<&SeriesKey>, error: &Error) -> Self {
        Self {
            node_id: key.map(|key| key.node_id.as_str().to_owned()),
            interval: key.map(|key| key.interval.as_secs()),
            phase: key.map(|key| key.interval.phase_secs()).filter(|phase| *phase > 0),
            error: DamagedError { kind: error.kind().as_str(), message: outcome::chain(error) },
            path: error.context().iter().find(|(name, _)| *name == "path").map(|(_, path)| path.into()),
        }
    }

    /// What is wrong, for people; the message names the file.
    pub(crate) fn message(&self) -> &str {
        &self.error.message
    }

    /// Whether it is about what stands at a path.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.path.as_deref().is_some_and(|own| path.starts_with(own))
    }
}

/// The result for a series, or why there is none: a damaged series does not hide the others.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Entry<T> {
    Sound(T),
    Damaged(Damaged),
}

impl<T> Entry<T> {
    pub(crate) fn sound(&self) -> Option<&T> {
        match self {
            Self::Sound(item) => Some(item),
            Self::Damaged(_) => None,
        }
    }

    pub(crate) fn damaged(&self) -> Option<&Damaged> {
        match self {
            Self::Sound(_) => None,
            Self::Damaged(damaged) => Some(damaged),
        }
    }
}

/// One object when one series was asked for, else an array.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    /// The object.
    One(T),
    /// The array.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn new(mut items: Vec<T>, one: bool) -> Self {
        match items.pop() {
            Some(item) if one && items.is_empty() => Self::One(item),
            Some(item) => {
                items.push(item);
                Self::Many(items)
            }
            None => Self::Many(items),
        }
    }
}
