//! What of a series is stored, and what is proven not to exist.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::series::write_visible;
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

    /// What follows the last `#`, if anything does.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.0.rsplit_once('#').map(|(_, version)| version)
    }

    /// Whether the text names a version, as that of a file does, whose proofs are about one content.
    #[must_use]
    pub fn has_version(&self) -> bool {
        self.version().is_some()
    }

    /// The same source in another version.
    #[must_use]
    pub fn with_version(&self, version: &str) -> Self {
        Self(Arc::from(format!("{}#{version}", self.name())))
    }

    /// Whether an answer of `other` is one of this source: of this version, or of any when none is named.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (!self.has_version() && other.name() == self.as_str())
    }

    /// The text without its version, `file:candles.csv`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('#').map_or(&*self.0, |(name, _)| name)
    }
}

/// Prints the id as it is, except for control characters, which are escaped: a file may be called anything.
impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_visible(f, &self.0)
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
    /// When the source answered: the earlier of its own clock and ours.
    pub answered_at: Timestamp,
    /// The version of the rule that decided; see [`EmptyProof::RULE`].
    pub rule: u32,
    /// How many later answers said the same of bars that were still young.
    pub confirmed: u32,
}

impl EmptyProof {
    /// The version of the rule by which absence is decided now. Rule 1 believed whatever a page lacked,
    /// however short or early it was; what exchanges proved by it is asked for once more.
    pub const RULE: u32 = 2;
    /// An answer this much younger than a bar settles that bar for good.
    pub const SETTLED_AFTER: Duration = Duration::from_secs(7 * 86_400);
    /// How long an answer about a younger bar is believed the first time.
    pub const PROVISIONAL_FOR: Duration = Duration::from_secs(3_600);
    /// How long it is believed at most, after doubling with each later answer that says the same.
    pub const PROVISIONAL_AT_MOST: Duration = Duration::from_secs(86_400);
    /// How far ahead of a clock the time of an answer may be before that time is taken to be wrong.
    pub const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(300);

    /// A proof by `source`, given at `answered_at` under the present rule.
    #[must_use]
    pub fn new(
        source: SourceId,
        ranges: RangeSet,
        reason: impl Into<String>,
        answered_at: Timestamp,
    ) -> Self {
        Self { source, ranges, reason: reason.into(), answered_at, rule: Self::RULE, confirmed: 0 }
    }

    /// Says by which version of the rule it was decided: for a store that reads what it kept.
    #[must_use]
    pub fn with_rule(mut self, rule: u32) -> Self {
        self.rule = rule;
        self
    }

    /// Says how many later answers said the same: for a store that reads what it kept.
    #[must_use]
    pub fn with_confirmed(mut self, confirmed: u32) -> Self {
        self.confirmed = confirmed;
        self
    }

    /// The same answer about other ranges.
    #[must_use]
    pub fn about(&self, ranges: RangeSet) -> Self {
        Self { ranges, ..self.clone() }
    }

    /// Whether two proofs are parts of one answer, or as good as: all but the ranges is equal.
    #[must_use]
    pub fn is_same_answer(&self, other: &Self) -> bool {
        (&self.source, &self.reason, self.answered_at, self.rule, self.confirmed)
            == (&other.source, &other.reason, other.answered_at, other.rule, other.confirmed)
    }

    /// How long it is believed about bars that it does not settle: an hour, twice as long for each
    /// later answer that said the same, a day at most.
    #[must_use]
    pub fn provisional_for(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.confirmed).unwrap_or(u32::MAX);
        Self::PROVISIONAL_FOR.saturating_mul(doubled).min(Self::PROVISIONAL_AT_MOST)
    }

    /// When the proof about the bar at `ts` ends: `None` is never, for a bar that was more than
    /// [`EmptyProof::SETTLED_AFTER`] old when the source answered.
    #[must_use]
    pub fn expires_at(&self, ts: Timestamp) -> Option<Timestamp> {
        if self.settled_before().is_some_and(|limit| ts < limit) { None } else { Some(self.fresh_until()) }
    }

    /// Whether it is dated after `now` by more than clocks differ: the clock that dated it was wrong,
    /// so nobody knows when the source answered, and the proof counts nowhere.
    #[must_use]
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.answered_at.since(now) > Self::CLOCKS_DIFFER_BY
    }

    /// Whether the rule that decided it is still trusted. What an exchange proved by an older one is
    /// not; a file's proof, whose source names the content, is.
    #[must_use]
    pub fn is_by_trusted_rule(&self) -> bool {
        self.rule >= Self::RULE || self.source.has_version()
    }

    /// The ranges that are still believed at `now`.
    #[must_use]
    pub fn valid_at(&self, now: Timestamp) -> RangeSet {
        if self.is_ahead_of(now) || !self.is_by_trusted_rule() {
            RangeSet::new()
        } else if now < self.fresh_until() {
            self.ranges.clone()
        } else {
            self.settled()
        }
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

    fn fresh_until(&self) -> Timestamp {
        self.answered_at.checked_add(self.provisional_for()).unwrap_or(Timestamp::MAX)
    }

    /// Whether `newer` takes its place where the two overlap. The trusted rule wins, then the later
    /// answer, unless that one is dated ahead of the other: then its clock was wrong.
    fn yields_to(&self, newer: &Self) -> bool {
        match self.is_by_trusted_rule().cmp(&newer.is_by_trusted_rule()) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.answered_at <= newer.answered_at || self.is_ahead_of(newer.answered_at),
        }
    }

    /// How often the ranges that both are about are confirmed once `newer` has been given.
    fn confirmed_by(&self, newer: &Self) -> u32 {
        if self.source != newer.source || self.is_ahead_of(newer.answered_at) || !self.is_by_trusted_rule() {
            return newer.confirmed;
        }
        let asked_again = u32::from(newer.answered_at >= self.fresh_until());
        newer.confirmed.max(self.confirmed.saturating_add(asked_again))
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

    /// Forgets the proofs for which `is_believed` says no.
    pub fn retain_proofs(&mut self, is_believed: impl FnMut(&EmptyProof) -> bool) {
        self.known_empty.retain(is_believed);
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
                .filter(|proof| source.covers(&proof.source))
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
    /// version of it, replaces the older one where they overlap; one that is dated more than
    /// [`EmptyProof::CLOCKS_DIFFER_BY`] after the recorded one yields to it, since its clock was wrong.
    /// An answer that repeats one which had expired is believed for longer. Settled answers of one
    /// source, reason and day are kept as one, dated by the newest. So the list grows neither with the
    /// number of fetches of a day nor with that of the versions of a file that grows.
    pub fn add_empty(&mut self, proof: &EmptyProof) {
        let mut left = proof.ranges.difference(&self.present);
        let mut parts: Vec<EmptyProof> = Vec::new();
        for old in self.known_empty.iter_mut().filter(|old| old.source.name() == proof.source.name()) {
            if old.yields_to(proof) {
                let both = left.intersection(&old.ranges);
                if both.is_empty() {
                    continue;
                }
                parts.push(proof.about(both).with_confirmed(old.confirmed_by(proof)));
                old.ranges = old.ranges.difference(&left);
            } else {
                left = left.difference(&old.ranges);
            }
        }
        let repeated = parts.iter().fold(RangeSet::new(), |all, part| all.union(&part.ranges));
        parts.push(proof.about(left.difference(&repeated)));
        self.known_empty.retain(|old| !old.ranges.is_empty());
        parts.into_iter().for_each(|part| self.insert(&part));
        self.known_empty.sort_by(|a, b| {
            let order = |proof: &EmptyProof| (proof.answered_at, proof.rule, proof.confirmed);
            (&a.source, &a.reason, order(a)).cmp(&(&b.source, &b.reason, order(b)))
        });
    }

    /// Adds a proof where no other of its source is, to one that says the same if there is one.
    fn insert(&mut self, proof: &EmptyProof) {
        let settled = proof.ranges.intersection(&proof.settled());
        let provisional = proof.ranges.difference(&settled);
        // What never expires need not remember how often it was confirmed before.
        let parts = [(proof.about(settled).with_confirmed(0), true), (proof.about(provisional), false)];
        for (part, is_settled) in parts {
            if part.ranges.is_empty() {
                continue;
            }
            let is_twin = |old: &&mut EmptyProof| {
                let same_time = if is_settled {
                    day(old.answered_at) == day(part.answered_at)
                } else {
                    old.answered_at == part.answered_at
                };
                same_time
                    && old.is_settled() == is_settled
                    && (&old.source, &old.reason, old.rule, old.confirmed)
                        == (&part.source, &part.reason, part.rule, part.confirmed)
            };
            match self.known_empty.iter_mut().find(is_twin) {
                Some(old) => {
                    old.ranges = old.ranges.union(&part.ranges);
                    old.answered_at = old.answered_at.max(part.answered_at);
                }
                None => self.known_empty.push(part),
            }
        }
    }

    /// The part inside `range`.
    #[must_use]
    pub fn within(&self, range: TimeRange) -> Self {
        Self {
            present: self.present.within(range),
            known_empty: self
                .known_empty
                .iter()
                .map(|proof| proof.about(proof.ranges.within(range)))
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

/// The day of a point in time, counted from the epoch.
fn day(ts: Timestamp) -> i64 {
    ts.as_secs().div_euclid(86_400)
}

#[cfg(test)]
mod tests;
