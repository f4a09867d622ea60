//! Removing on purpose: old rows of a series, and proofs of emptiness that are no longer believed.

use qmtl_history_api::{Coverage, Removed, Result, SeriesKey, SourceId, TimeRange, Timestamp};

use crate::commit::Edit;
use crate::layout::{Partition, SeriesFolder};
use crate::state::State;
use crate::store::Store;

impl Store {
    /// Removes the rows and proofs of the bars that open before a point.
    pub(crate) fn prune(&self, key: &SeriesKey, before: Timestamp, dry_run: bool) -> Result<Removed> {
        // Between two bars nothing is left of the one that opened first.
        let before = key.interval.ceil(before).unwrap_or(Timestamp::MAX);
        let Some(range) = TimeRange::checked(Timestamp::MIN, before) else {
            return Ok(Removed::default().with_partitions(0));
        };
        let kept = TimeRange::checked(before, Timestamp::MAX);
        self.remove(key, range, dry_run, &|coverage| match kept {
            Some(kept) => coverage.within(kept),
            None => Coverage::default(),
        })
    }

    /// Forgets the proofs of emptiness in a range: those of one source and all its versions, or of
    /// all sources. A fill asks for these bars again.
    pub(crate) fn forget_empty(
        &self,
        key: &SeriesKey,
        (range, source): (TimeRange, Option<&SourceId>),
        dry_run: bool,
    ) -> Result<Removed> {
        // A range is the bars that open inside of it: nothing is left between two of them.
        let Some(range) = range.on_grid(key.interval) else {
            return Ok(Removed::default().with_partitions(0));
        };
        self.remove(key, range, dry_run, &|coverage| {
            let mut kept = Coverage::of_present(coverage.present().clone());
            for proof in coverage.known_empty() {
                let is_meant = source.is_none_or(|source| source.name() == proof.source.name());
                let ranges =
                    if is_meant { proof.ranges.difference(&range.into()) } else { proof.ranges.clone() };
                kept.add_empty(&proof.about(ranges));
            }
            kept
        })
    }

    fn remove(
        &self,
        key: &SeriesKey,
        range: TimeRange,
        dry_run: bool,
        edit: &dyn Fn(&Coverage) -> Coverage,
    ) -> Result<Removed> {
        let series = self.series_folder(key)?;
        let (mut removed, mut partitions) = (Removed::default(), 0);
        for (partition, newest) in self.partitions(&series, range)? {
            let one = if dry_run {
                let known = self.state(&series, partition, newest)?;
                difference(key, known.coverage(), &edit(known.coverage()))
            } else {
                self.remove_from(&series, partition, edit)?
            };
            removed.rows += one.rows;
            removed.empty_bars += one.empty_bars;
            partitions += one.partitions.unwrap_or(0);
        }
        Ok(removed.with_partitions(partitions))
    }

    fn remove_from(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        edit: &dyn Fn(&Coverage) -> Coverage,
    ) -> Result<Removed> {
        self.transact(series, partition, |state| {
            let Some(known) = state.map(State::coverage) else { return Ok((Removed::default(), None)) };
            let coverage = edit(known);
            let removed = difference(&series.key, known, &coverage);
            Ok((removed, (coverage != *known).then_some(Edit::Keep { coverage })))
        })
    }
}

/// What `after` lacks of `before`.
fn difference(key: &SeriesKey, before: &Coverage, after: &Coverage) -> Removed {
    let empty = |coverage: &Coverage| -> u64 {
        coverage.known_empty().iter().map(|proof| proof.ranges.count(key.interval)).sum()
    };
    let rows = before.present().count(key.interval) - after.present().count(key.interval);
    Removed::new(rows, empty(before).saturating_sub(empty(after))).with_partitions(u64::from(before != after))
}
