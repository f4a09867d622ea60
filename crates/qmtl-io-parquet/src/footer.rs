//! What a commit says about itself: the JSON under the key `qmtl` of a file's footer.

use std::path::Path;

use qmtl_history_api::{
    Coverage, EmptyProof, Error, Interval, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::error;
use crate::layout::Partition;

/// The newest format that this version reads, and the one that it writes.
pub(crate) const FORMAT: u64 = 3;

/// The key of the footer's metadata.
pub(crate) const KEY: &str = "qmtl";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// All rows of a partition.
    Full,
    /// The rows that a full commit lacks: with its base, all rows of a partition.
    Delta,
    /// The columns of a series, no rows.
    Schema,
}

/// A commit by its number and its content: a number alone can be given twice, when a writer slept
/// through the collection of the commit that had it first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    /// The first 16 hex digits of the checksum of its footer.
    pub(crate) id: String,
}

/// A commit's description of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Footer {
    pub(crate) kind: Kind,
    pub(crate) key: SeriesKey,
    /// The partition of rows; a schema file has none.
    pub(crate) partition: Option<Partition>,
    pub(crate) seq: u64,
    /// The commit that was the newest when this one was made from it. `None` for the first.
    pub(crate) built_on: Option<Link>,
    /// The full commit that a delta adds to; none of any other kind.
    pub(crate) base: Option<Link>,
    pub(crate) rows: u64,
    /// Where the rows of this file are, and all proofs of the partition.
    pub(crate) coverage: Coverage,
    /// Of a delta: its proofs are those of its base, except where its rows are, and not repeated.
    pub(crate) inherits: bool,
    /// What no other attempt of a commit has, where a writer may have to look for its own file.
    pub(crate) attempt: Option<String>,
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
    /// The id of the commit `built_on`; format 1 had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Link>,
    rows: u64,
    /// Alternately bars without and bars with a row, from the partition's start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    present: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known_empty: Option<Vec<JsonProof>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<String>,
    /// A checksum of each column chunk, by row group and column.
    chunks: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct JsonProof {
    source: String,
    reason: String,
    /// Microseconds since the epoch.
    answered_at: i64,
    /// The version of the rule that decided. Builds that knew one rule did not write it.
    #[serde(default = "first_rule")]
    rule: u32,
    /// How many later answers said the same of bars that were still young.
    #[serde(default, skip_serializing_if = "is_zero")]
    confirmed: u32,
    /// Alternately microseconds outside and inside of the proof, from the partition's start.
    ranges: Vec<u64>,
}

/// The rule of a proof that names none.
fn first_rule() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Checksums of a file's column chunks.
#[derive(Debug, PartialEq)]
pub(crate) struct Checksums {
    pub(crate) kind: Checksum,
    /// In hex, by row group and column.
    pub(crate) chunks: Vec<Vec<String>>,
}

/// How a column chunk is proven whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// The first 16 hex digits of BLAKE3: formats 1 and 2.
    Blake3,
    /// CRC-32, which takes a tenth of the time.
    Crc32,
}

impl Checksum {
    fn of_format(format: u64) -> Self {
        if format < 3 { Self::Blake3 } else { Self::Crc32 }
    }

    /// The checksum in hex.
    pub(crate) fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Blake3 => short(&blake3::hash(bytes)),
            Self::Crc32 => format!("{:08x}", crc32fast::hash(bytes)),
        }
    }
}

/// The first 16 hex digits of a hash.
pub(crate) fn short(hash: &blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

impl Footer {
    /// The JSON text.
    pub(crate) fn encode(&self, chunks: Vec<Vec<String>>) -> Result<String> {
        let present = self.coverage.present();
        if *present != present.on_grid(self.key.interval) {
            // It could never be read again.
            return Err(Error::unexpected("a commit would claim part of a bar").with("series", &self.key));
        }
        let from = self.partition.map_or(Timestamp::MIN, |partition| partition.range().start());
        let proofs = self.coverage.known_empty().iter().map(|proof| JsonProof {
            source: proof.source.as_str().to_owned(),
            reason: proof.reason.clone(),
            answered_at: proof.answered_at.as_micros(),
            rule: proof.rule,
            confirmed: proof.confirmed,
            ranges: steps(&proof.ranges, from, 1),
        });
        let is_told = match self.kind {
            Kind::Delta => !self.inherits,
            _ => !self.coverage.known_empty().is_empty(),
        };
        let json = Json {
            format: FORMAT,
            kind: self.kind,
            node_id: self.key.node_id.as_str().to_owned(),
            interval: self.key.interval.to_string(),
            partition: self.partition.map(Partition::name),
            seq: self.seq,
            built_on: self.built_on.as_ref().map_or(0, |link| link.seq),
            parent: self.built_on.as_ref().map(|link| link.id.clone()),
            base: self.base.clone(),
            rows: self.rows,
            present: steps(self.coverage.present(), from, self.key.interval.as_micros().unsigned_abs()),
            known_empty: is_told.then(|| proofs.collect()),
            attempt: self.attempt.clone(),
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
            (Kind::Full | Kind::Delta, Some(name)) => {
                Some(Partition::parse(interval, name).ok_or_else(|| nonsense("partition"))?)
            }
            _ => return Err(nonsense("partition")),
        };
        let span = partition.map_or(TimeRange::ALL, Partition::range);
        let present = ranges(&json.present, span, interval.as_micros()).ok_or_else(|| nonsense("present"))?;
        if present.count(interval) != json.rows {
            return Err(nonsense("rows"));
        }
        if (json.kind == Kind::Delta) != json.base.as_ref().is_some_and(|base| base.seq < json.seq) {
            return Err(nonsense("base"));
        }
        let mut coverage = Coverage::of_present(present);
        let inherits = json.kind == Kind::Delta && json.known_empty.is_none();
        for proof in json.known_empty.unwrap_or_default() {
            let stored = EmptyProof::new(
                SourceId::new(&proof.source).map_err(|_| nonsense("source"))?,
                ranges(&proof.ranges, span, 1).ok_or_else(|| nonsense("ranges"))?,
                proof.reason,
                Timestamp::from_micros(proof.answered_at).map_err(|_| nonsense("answered_at"))?,
            );
            coverage.add_empty(&stored.with_rule(proof.rule).with_confirmed(proof.confirmed));
        }
        let built_on =
            (json.built_on > 0).then(|| Link { seq: json.built_on, id: json.parent.unwrap_or_default() });
        let footer = Self {
            kind: json.kind,
            key,
            partition,
            seq: json.seq,
            built_on,
            base: json.base,
            rows: json.rows,
            coverage,
            inherits,
            attempt: json.attempt,
        };
        Ok((footer, Checksums { kind: Checksum::of_format(format), chunks: json.chunks }))
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
