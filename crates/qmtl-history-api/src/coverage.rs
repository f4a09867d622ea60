//! What of a series is stored, and what is proven not to exist.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Interval, RangeSet, Result, TimeRange, Timestamp};

/// The identity of a source of rows: `binance`, `file:candles.csv#9f86d081884c7d65`.
///
/// Two sources are the same exactly when their ids are. What follows the last `#` is a version of
/// the source: a file's id includes its content, so that a changed file is asked again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(Arc<str>);

impl SourceId {
    /// Names a source; `InvalidInput` when the name is empty.
    pub fn new(id: impl AsRef<str>) -> Result<Self> {
        match id.as_ref() {
            "" => Err(Error::invalid("a source id must not be empty")),
            id => Ok(Self(Arc::from(id))),
        }
    }

    /// The text, unchanged.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without its version, `file:candles.csv`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('#').map_or(&*self.0, |(name, _)| name)
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A source's proof that some bars do not exist: it answered for these ranges and had no row there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmptyProof {
    /// Who answered.
    pub source: SourceId,
    /// Where the answer had no row.
    pub ranges: RangeSet,
    /// Why absence is proof, for people: `no row in the answer`.
    pub reason: String,
    /// When the source answered.
    pub answered_at: Timestamp,
}

impl EmptyProof {
    /// An answer this much younger than a bar settles that bar for good.
    pub const SETTLED_AFTER: Duration = Duration::from_secs(7 * 86_400);
    /// How long an answer about a younger bar is believed.
    pub const PROVISIONAL_FOR: Duration = Duration::from_secs(3_600);

    /// A proof by `source`, given at `answered_at`.
    #[must_use]
    pub fn new(
        source: SourceId,
        ranges: RangeSet,
        reason: impl Into<String>,
        answered_at: Timestamp,
    ) -> Self {
        Self { source, ranges, reason: reason.into(), answered_at }
    }

    /// When the proof about the bar at `ts` ends: `None` is never, for a bar that was more than
    /// [`EmptyProof::SETTLED_AFTER`] old when the source answered.
    #[must_use]
    pub fn expires_at(&self, ts: Timestamp) -> Option<Timestamp> {
        if self.settled_before().is_some_and(|limit| ts < limit) {
            None
        } else {
            Some(self.answered_at.checked_add(Self::PROVISIONAL_FOR).unwrap_or(Timestamp::MAX))
        }
    }

    /// The ranges that are still believed at `now`.
    #[must_use]
    pub fn valid_at(&self, now: Timestamp) -> RangeSet {
        let fresh = self.answered_at.checked_add(Self::PROVISIONAL_FOR).unwrap_or(Timestamp::MAX);
        if now < fresh { self.ranges.clone() } else { self.settled() }
    }

    /// The ranges that never expire.
    #[must_use]
    pub fn settled(&self) -> RangeSet {
        self.settled_before()
            .and_then(|limit| TimeRange::checked(Timestamp::MIN, limit))
            .map_or_else(RangeSet::new, |old| self.ranges.within(old))
    }

    /// True when no part of the proof expires.
    fn is_settled(&self) -> bool {
        self.ranges.span().is_none_or(|span| self.settled_before().is_some_and(|limit| span.end() <= limit))
    }

    fn settled_before(&self) -> Option<Timestamp> {
        self.answered_at.checked_sub(Self::SETTLED_AFTER)
    }
}

/// What a store knows of a series: where rows are, and where sources proved that none can be.
///
/// The two never overlap: a row that arrives removes the known-empty at its point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    present: RangeSet,
    known_empty: Vec<EmptyProof>,
}

impl Coverage {
    /// A coverage of rows alone.
    #[must_use]
    pub fn of_present(present: RangeSet) -> Self {
        Self { present, known_empty: Vec::new() }
    }

    /// Where rows are.
    #[must_use]
    pub fn present(&self) -> &RangeSet {
        &self.present
    }

    /// The proofs of emptiness, sorted by source, reason and time of the answer.
    /// The ranges of one source, its versions included, never overlap.
    #[must_use]
    pub fn known_empty(&self) -> &[EmptyProof] {
        &self.known_empty
    }

    /// Where any source's proof is still believed at `now`.
    #[must_use]
    pub fn empty_by_any(&self, now: Timestamp) -> RangeSet {
        self.known_empty.iter().fold(RangeSet::new(), |all, proof| all.union(&proof.valid_at(now)))
    }

    /// Where every one of `sources` proved that there is no row; nothing when `sources` is empty.
    /// So a poor source does not silence a better one.
    #[must_use]
    pub fn empty_by_all(&self, sources: &[SourceId], now: Timestamp) -> RangeSet {
        let by_source = |source: &SourceId| {
            self.known_empty
                .iter()
                .filter(|proof| proof.source == *source)
                .fold(RangeSet::new(), |all, proof| all.union(&proof.valid_at(now)))
        };
        let mut sources = sources.iter();
        let Some(first) = sources.next() else { return RangeSet::new() };
        sources.fold(by_source(first), |common, source| common.intersection(&by_source(source)))
    }

    /// `wanted - present - (known empty by every source)`: what must be asked for, on the grid.
    #[must_use]
    pub fn missing(
        &self,
        wanted: TimeRange,
        interval: Interval,
        sources: &[SourceId],
        now: Timestamp,
    ) -> RangeSet {
        RangeSet::from(wanted)
            .difference(&self.present)
            .difference(&self.empty_by_all(sources, now))
            .on_grid(interval)
    }

    /// Records that rows now stand at `rows`.
    pub fn add_present(&mut self, rows: &RangeSet) {
        self.present = self.present.union(rows);
        for proof in &mut self.known_empty {
            proof.ranges = proof.ranges.difference(rows);
        }
        self.known_empty.retain(|proof| !proof.ranges.is_empty());
    }

    /// Records a proof, except where rows are. A newer answer of the same source, or of another
    /// version of it, replaces the older one where they overlap; settled answers of one source and
    /// reason are kept as one, dated by the newest. So the list grows neither with the number of
    /// fetches nor with that of the versions of a file that grows.
    pub fn add_empty(&mut self, proof: &EmptyProof) {
        let mut ranges = proof.ranges.difference(&self.present);
        for old in self.known_empty.iter_mut().filter(|old| old.source.name() == proof.source.name()) {
            if old.answered_at <= proof.answered_at {
                old.ranges = old.ranges.difference(&ranges);
            } else {
                ranges = ranges.difference(&old.ranges);
            }
        }
        self.known_empty.retain(|old| !old.ranges.is_empty());
        let settled = ranges.intersection(&proof.settled());
        let provisional = ranges.difference(&settled);
        for (part, is_settled) in [(settled, true), (provisional, false)] {
            if part.is_empty() {
                continue;
            }
            let twin = self.known_empty.iter_mut().find(|old| {
                (&old.source, &old.reason) == (&proof.source, &proof.reason)
                    && old.is_settled() == is_settled
                    && (is_settled || old.answered_at == proof.answered_at)
            });
            match twin {
                Some(old) => {
                    old.ranges = old.ranges.union(&part);
                    if old.answered_at < proof.answered_at {
                        old.answered_at = proof.answered_at;
                    }
                }
                None => self.known_empty.push(EmptyProof { ranges: part, ..proof.clone() }),
            }
        }
        self.known_empty.sort_by(|a, b| {
            (&a.source, &a.reason, a.answered_at).cmp(&(&b.source, &b.reason, b.answered_at))
        });
    }

    /// The part inside `range`.
    #[must_use]
    pub fn within(&self, range: TimeRange) -> Self {
        Self {
            present: self.present.within(range),
            known_empty: self
                .known_empty
                .iter()
                .map(|proof| EmptyProof { ranges: proof.ranges.within(range), ..proof.clone() })
                .filter(|proof| !proof.ranges.is_empty())
                .collect(),
        }
    }

    /// Adds everything that `other` knows: rows win over proofs.
    pub fn merge(&mut self, other: &Self) {
        self.add_present(&other.present);
        for proof in &other.known_empty {
            self.add_empty(proof);
        }
    }
}

#[cfg(test)]
mod tests;
