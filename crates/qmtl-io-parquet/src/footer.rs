//! What a commit says about itself: the JSON under the key `qmtl` of a file's footer.

use std::path::Path;

use qmtl_history_api::{
    Coverage, EmptyProof, Error, Interval, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::error;
use crate::layout::Partition;

/// The newest format that this version reads, and the one that it writes.
pub(crate) const FORMAT: u64 = 1;

/// The key of the footer's metadata.
pub(crate) const KEY: &str = "qmtl";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// All rows of a partition.
    Full,
    /// The columns of a series, no rows.
    Schema,
}

/// A commit's description of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Footer {
    pub(crate) kind: Kind,
    pub(crate) key: SeriesKey,
    /// The partition of a full file; a schema file has none.
    pub(crate) partition: Option<Partition>,
    pub(crate) seq: u64,
    /// The commit whose rows went into this one, 0 for none.
    pub(crate) built_on: u64,
    pub(crate) rows: u64,
    pub(crate) coverage: Coverage,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format: u64,
    kind: Kind,
    node_id: String,
    interval: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    seq: u64,
    built_on: u64,
    rows: u64,
    /// Alternately bars without and bars with a row, from the partition's start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    present: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    known_empty: Vec<JsonProof>,
    /// A checksum of each column chunk, by row group and column.
    chunks: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct JsonProof {
    source: String,
    reason: String,
    /// Microseconds since the epoch.
    answered_at: i64,
    /// Alternately microseconds outside and inside of the proof, from the partition's start.
    ranges: Vec<u64>,
}

/// Checksums of a file's column chunks, by row group and column.
pub(crate) type Checksums = Vec<Vec<String>>;

impl Footer {
    /// The JSON text.
    pub(crate) fn encode(&self, chunks: Checksums) -> Result<String> {
        let from = self.partition.map_or(Timestamp::MIN, |partition| partition.range().start());
        let known_empty = self
            .coverage
            .known_empty()
            .iter()
            .map(|proof| JsonProof {
                source: proof.source.as_str().to_owned(),
                reason: proof.reason.clone(),
                answered_at: proof.answered_at.as_micros(),
                ranges: steps(&proof.ranges, from, 1),
            })
            .collect();
        let json = Json {
            format: FORMAT,
            kind: self.kind,
            node_id: self.key.node_id.as_str().to_owned(),
            interval: self.key.interval.to_string(),
            partition: self.partition.map(Partition::name),
            seq: self.seq,
            built_on: self.built_on,
            rows: self.rows,
            present: steps(self.coverage.present(), from, self.key.interval.as_micros().unsigned_abs()),
            known_empty,
            chunks,
        };
        serde_json::to_string(&json).map_err(|e| Error::unexpected("cannot write a footer").caused_by(e))
    }

    /// Reads the JSON text of the file at `path`. `Corrupt` names the path, and the version when
    /// the file is of a newer format.
    pub(crate) fn decode(text: &str, path: &Path) -> Result<(Self, Checksums)> {
        let bad = |e: serde_json::Error| error::corrupt(path, "the file's footer is damaged").caused_by(e);
        let Version { format } = serde_json::from_str(text).map_err(bad)?;
        if format > FORMAT {
            return Err(error::newer(path, format, FORMAT));
        }
        let json: Json = serde_json::from_str(text).map_err(bad)?;
        let nonsense = |field: &'static str| {
            error::corrupt(path, "the file's footer contradicts the format").with("field", field)
        };
        let interval: Interval = json.interval.parse().map_err(|_| nonsense("interval"))?;
        let key = SeriesKey::new(&json.node_id, interval).map_err(|_| nonsense("node_id"))?;
        let partition = match (json.kind, &json.partition) {
            (Kind::Schema, None) => None,
            (Kind::Full, Some(name)) => {
                Some(Partition::parse(interval, name).ok_or_else(|| nonsense("partition"))?)
            }
            _ => return Err(nonsense("partition")),
        };
        let span = partition.map_or(TimeRange::ALL, Partition::range);
        let present = ranges(&json.present, span, interval.as_micros()).ok_or_else(|| nonsense("present"))?;
        if present.count(interval) != json.rows {
            return Err(nonsense("rows"));
        }
        let mut coverage = Coverage::of_present(present);
        for proof in json.known_empty {
            coverage.add_empty(&EmptyProof::new(
                SourceId::new(&proof.source).map_err(|_| nonsense("source"))?,
                ranges(&proof.ranges, span, 1).ok_or_else(|| nonsense("ranges"))?,
                proof.reason,
                Timestamp::from_micros(proof.answered_at).map_err(|_| nonsense("answered_at"))?,
            ));
        }
        let (seq, built_on, rows) = (json.seq, json.built_on, json.rows);
        Ok((Self { kind: json.kind, key, partition, seq, built_on, rows, coverage }, json.chunks))
    }
}

/// Alternately the steps between ranges and the steps inside of them, counted from `from`. An end
/// that was cut at the end of time counts as a whole step.
fn steps(set: &RangeSet, from: Timestamp, step: u64) -> Vec<u64> {
    let mut at = from;
    let mut steps = Vec::with_capacity(set.len() * 2);
    for point in set.iter().flat_map(|range| [range.start(), range.end()]) {
        steps.push((point.as_micros() - at.as_micros()).unsigned_abs().div_ceil(step));
        at = point;
    }
    steps
}

/// The inverse of [`steps`]; `None` when the text names anything outside `span`, runs backwards or
/// in place.
fn ranges(steps: &[u64], span: TimeRange, step: i64) -> Option<RangeSet> {
    let mut at = span.start().as_micros();
    let mut advance = |steps: u64| {
        at = at.checked_add(i64::try_from(steps).ok()?.checked_mul(step)?)?;
        Some(at)
    };
    let (pairs, rest) = steps.as_chunks::<2>();
    let mut set = RangeSet::new();
    for [outside, inside] in pairs {
        let start = Timestamp::from_micros(advance(*outside)?).ok()?;
        let end = advance(*inside)?;
        // Only the last bar before the end of time may reach beyond it.
        let end = match Timestamp::from_micros(end) {
            Ok(end) => end,
            Err(_) if end - Timestamp::MAX.as_micros() <= step => Timestamp::MAX,
            Err(_) => return None,
        };
        set.insert(TimeRange::checked(start, end).filter(|range| span.contains_range(*range))?);
    }
    rest.is_empty().then_some(set)
}

#[cfg(test)]
mod tests;
