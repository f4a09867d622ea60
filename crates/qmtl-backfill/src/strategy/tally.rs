//! What a run has done so far, window by window, and the report that comes of it.

use qmtl_history_api::frame::Dropped;
use qmtl_history_api::{
    BackfillReport, Coverage, EmptyProof, Error, Interval, RangeSet, SourceId, TimeRange, Timestamp,
    WriteReceipt,
};
use qmtl_observe::metrics;

use super::fetch::Answer;
use super::notes::Notes;
use crate::plan::{Plan, Window};

/// Counts of one run of a plan.
#[derive(Debug)]
pub(super) struct Tally {
    sources: Vec<SourceId>,
    written: u64,
    kept_out: u64,
    dropped: Dropped,
    notes: Notes,
    /// The bars that rows were moved to.
    moved: RangeSet,
    /// Bars that a source may still publish.
    too_young: RangeSet,
    /// The date of the earliest answer.
    dated: Option<Timestamp>,
    /// Where rows were stored, by source.
    filled: Vec<RangeSet>,
    /// Where there is no row, by source.
    empty: Vec<RangeSet>,
    /// Rows of writes that failed, by source: a store may have kept some of them.
    unsure: Vec<RangeSet>,
    /// The whole ranges of the windows that are stored or have failed.
    concluded: RangeSet,
    failed: Vec<Failure>,
}

/// A window that failed, or several in a row that failed alike.
#[derive(Debug)]
struct Failure {
    first: u64,
    last: u64,
    range: TimeRange,
    error: Error,
}

impl Tally {
    pub(super) fn new(sources: Vec<SourceId>) -> Self {
        let none = vec![RangeSet::new(); sources.len()];
        Self {
            sources,
            written: 0,
            kept_out: 0,
            dropped: Dropped::default(),
            notes: Notes::default(),
            moved: RangeSet::new(),
            too_young: RangeSet::new(),
            dated: None,
            filled: none.clone(),
            empty: none.clone(),
            unsure: none,
            concluded: RangeSet::new(),
            failed: Vec::new(),
        }
    }

    /// Takes in what was noticed about an answer, whatever becomes of its rows.
    pub(super) fn noticed(&mut self, answer: &Answer, interval: Interval) {
        let mut dropped = answer.dropped;
        dropped.nan += answer.without_price.count(interval);
        self.moved = self.moved.union(&answer.moved);
        self.notes.add(&answer.notes);
        for part in &answer.parts {
            dropped.off_grid += part.off_grid.len() as u64;
            self.notes.off_grid(&part.off_grid);
        }
        metrics::rows_dropped(dropped);
        self.dropped.add(dropped);
        self.too_young = self.too_young.union(&answer.too_young);
        self.dated = self.dated.into_iter().chain(answer.dated).min();
    }

    pub(super) fn written(&mut self, receipt: WriteReceipt) {
        self.written += receipt.rows_written;
        self.kept_out += receipt.rows_kept_out;
    }

    /// Takes in what a stored answer brought, but for the bars of which `others` had put other rows there.
    pub(super) fn stored(&mut self, answer: &Answer, others: &RangeSet) {
        for part in &answer.parts {
            self.filled[part.source].extend(part.present.difference(others).iter());
            part.proofs.iter().for_each(|proof| self.empty[part.source].extend(proof.ranges.iter()));
        }
    }

    /// Takes in an answer whose write failed, perhaps after a part of it was stored.
    pub(super) fn unsure(&mut self, answer: &Answer) {
        for part in &answer.parts {
            self.unsure[part.source].extend(part.present.iter());
        }
    }

    pub(super) fn conclude(&mut self, window: &Window) {
        self.concluded.insert(window.range);
    }

    pub(super) fn failed(&mut self, window: &Window, error: Error) {
        self.conclude(window);
        let ordinal = window.ordinal;
        self.failed.push(Failure { first: ordinal, last: ordinal, range: window.span(), error });
    }

    /// Takes in that all windows of the plan from this one on have failed.
    pub(super) fn failed_from(&mut self, first: u64, plan: &Plan, error: Error) {
        let from = plan.windows().nth(usize::try_from(first).unwrap_or(usize::MAX));
        if let Some(range) = from
            .zip(plan.gaps().span())
            .and_then(|(from, gaps)| TimeRange::checked(from.span().start(), gaps.end()))
        {
            self.failed.push(Failure { first, last: plan.window_count() - 1, range, error });
        }
    }

    /// Adds what a later job of the same sources has done.
    pub(super) fn add(&mut self, other: Self) {
        self.written += other.written;
        self.kept_out += other.kept_out;
        self.dropped.add(other.dropped);
        self.notes.add(&other.notes);
        self.moved.extend(other.moved);
        self.too_young = self.too_young.union(&other.too_young);
        self.dated = self.dated.into_iter().chain(other.dated).min();
        for (own, more) in [
            (&mut self.filled, other.filled),
            (&mut self.empty, other.empty),
            (&mut self.unsure, other.unsure),
        ] {
            own.iter_mut().zip(more).for_each(|(own, more)| own.extend(more));
        }
        self.concluded.extend(other.concluded);
        let next = self.next_ordinal();
        self.failed.extend(other.failed.into_iter().map(|failure| Failure {
            first: failure.first + next,
            last: failure.last + next,
            ..failure
        }));
    }

    /// Takes in that nobody has filled this range, for a reason that is not of any job.
    pub(super) fn failed_elsewhere(&mut self, range: TimeRange, error: Error) {
        let ordinal = self.next_ordinal();
        self.failed.push(Failure { first: ordinal, last: ordinal, range, error });
    }

    /// An ordinal behind all others, with a gap: windows of two jobs do not follow one another.
    fn next_ordinal(&self) -> u64 {
        self.failed.iter().map(|failure| failure.last + 2).max().unwrap_or(0)
    }

    pub(super) fn is_concluded(&self, window: &Window) -> bool {
        self.concluded.contains(window.range.start())
    }

    /// What the store must know by now, when it can no longer be asked.
    pub(super) fn applied_to(&self, mut before: Coverage, now: Timestamp) -> Coverage {
        self.filled.iter().for_each(|filled| before.add_present(filled));
        for (source, empty) in self.sources.iter().zip(&self.empty) {
            before.add_empty(&EmptyProof::new(source.clone(), empty.clone(), "", now));
        }
        before
    }

    /// Fills in `report`, given where rows stood before and the coverage at the end: of a write
    /// that failed, what stands in the store now and did not before is counted as stored.
    pub(super) fn into_report(mut self, report: &mut BackfillReport, before: &RangeSet, after: &Coverage) {
        report.rows_written = self.written;
        for (filled, unsure) in self.filled.iter_mut().zip(&self.unsure) {
            let kept = unsure.intersection(after.present()).difference(before).difference(filled);
            report.rows_written += kept.count(report.key.interval);
            filled.extend(kept);
        }
        report.rows_kept_out = self.kept_out;
        report.dropped = self.dropped;
        report.rows_moved = self.moved.count(report.key.interval);
        report.too_young = self.too_young;
        report.answered_at = self.dated;
        self.notes.sort();
        let Notes { off_grid, conflicts, not_numbers } = self.notes;
        (report.off_grid, report.conflicts, report.not_numbers) = (off_grid, conflicts, not_numbers);
        let empty = self.empty.iter().fold(RangeSet::new(), |all, empty| all.union(empty));
        report.known_empty = empty.difference(after.present());
        let filled = self.sources.into_iter().zip(self.filled);
        report.filled = filled.filter(|(_, filled)| !filled.is_empty()).collect();
        report.failed = join_alike(self.failed);
    }
}

/// Joins windows that follow one another in the plan and failed with the same kind and message;
/// the first one's error stands for them, and says how many they are.
fn join_alike(mut failures: Vec<Failure>) -> Vec<(TimeRange, Error)> {
    failures.sort_by_key(|failure| failure.first);
    let mut joined = Vec::<Failure>::new();
    for failure in failures {
        match joined.last_mut() {
            Some(run) if run.last + 1 == failure.first && alike(&run.error, &failure.error) => {
                run.last = failure.last;
                run.range = TimeRange::checked(run.range.start(), failure.range.end()).unwrap_or(run.range);
            }
            _ => joined.push(failure),
        }
    }
    let told = |run: Failure| match run.last - run.first {
        0 => (run.range, run.error),
        more => (run.range, run.error.with("windows", more + 1)),
    };
    joined.into_iter().map(told).collect()
}

fn alike(a: &Error, b: &Error) -> bool {
    a.kind() == b.kind() && a.message() == b.message()
}
