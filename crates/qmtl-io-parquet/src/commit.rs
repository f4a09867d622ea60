//! Commits: from what is to change in a partition to the next file of it, a delta or a full one, and
//! the proof that the file counts.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{Coverage, RangeSet, Result, TimeRange, frame};

use crate::disk;
use crate::failpoints::{Step, reach};
use crate::footer::{Footer, Kind, Link};
use crate::layout::{Partition, SeriesFolder};
use crate::merge::{is_equal, merge};
use crate::state::{Snapshot, State};
use crate::store::{ATTEMPTS, Store, lost_races, open_checked};

/// The most rows of a delta: a commit that would have more folds everything into a full file. Each
/// commit writes the whole delta, so this bounds what appending a row costs.
pub(crate) const DELTA_ROWS: usize = 512;

/// Rows from which on a full file has a delta. A smaller one is written anew as quickly.
pub(crate) const DELTA_BASE_ROWS: u64 = 2_048;

/// What is to become of a partition.
#[derive(Debug)]
pub(crate) enum Edit {
    /// These rows are stored, at new points or in the place of stored ones.
    Add {
        rows: RecordBatch,
        /// What is known afterwards.
        coverage: Coverage,
    },
    /// Of the stored rows and proofs these stay.
    Keep {
        /// What is known afterwards.
        coverage: Coverage,
    },
}

/// The file that a commit is to be.
struct Draft {
    kind: Kind,
    rows: RecordBatch,
    /// What the file says of itself.
    coverage: Coverage,
    inherits: bool,
}

impl Store {
    /// Changes a partition as `plan` wants it, which is asked again when another writer was first.
    /// `plan` is given what is known of the partition and answers with its result and the change.
    pub(crate) fn transact<T>(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        plan: impl Fn(Option<&State>) -> Result<(T, Option<Edit>)>,
    ) -> Result<T> {
        let folder = series.partition(partition);
        for _ in 0..ATTEMPTS {
            let known = match self.newest(&folder)? {
                Some(newest) => Some(self.state(series, partition, newest)?),
                None => None,
            };
            let state = known.as_deref();
            let (result, edit) = plan(state)?;
            let draft = match edit {
                Some(edit) => match self.draft(series, (partition, state), edit)? {
                    Drafted::Draft(draft) => Some(draft),
                    Drafted::Nothing => None,
                    Drafted::Overtaken => continue,
                },
                None => None,
            };
            let Some(draft) = draft else {
                self.settle(series, &folder, state.map_or(0, |state| state.newest.seq))?;
                return Ok(result);
            };
            if self.put(series, (partition, state), draft)? {
                return Ok(result);
            }
        }
        Err(lost_races(&folder))
    }

    /// Makes the file of a change.
    fn draft(
        &self,
        series: &SeriesFolder,
        (partition, state): (Partition, Option<&State>),
        edit: Edit,
    ) -> Result<Drafted> {
        let Some(state) = state else {
            return Ok(match edit {
                Edit::Add { rows, coverage } => Drafted::Draft(Draft::full(rows, coverage)),
                Edit::Keep { .. } => Drafted::Nothing,
            });
        };
        let snapshot = self.open(series, partition, state.newest.seq)?;
        if snapshot.newest().link() != state.newest {
            return Ok(Drafted::Overtaken);
        }
        match edit {
            Edit::Add { rows, coverage } => {
                let points = frame::row_runs(&series.key, &rows)?;
                if is_small(state, &points, rows.num_rows()) {
                    Draft::delta(state, &snapshot, (rows, coverage))
                } else {
                    let stored = snapshot.read(TimeRange::ALL, &snapshot.schema())?;
                    let rows = merge(&stored, &rows)?;
                    let is_none = coverage == *state.coverage() && is_equal(&stored, &rows);
                    Ok(if is_none { Drafted::Nothing } else { Drafted::Draft(Draft::full(rows, coverage)) })
                }
            }
            Edit::Keep { coverage } if coverage == *state.coverage() => Ok(Drafted::Nothing),
            Edit::Keep { coverage }
                if coverage.present() == state.coverage().present()
                    && is_small(state, &RangeSet::new(), 0) =>
            {
                let none = RecordBatch::new_empty(frame::ts_only_schema());
                Draft::delta(state, &snapshot, (none, coverage))
            }
            Edit::Keep { coverage } => {
                let mut kept = Vec::new();
                // Rows stay within their span: what is removed stands before or after it.
                if let Some(span) = coverage.present().span() {
                    kept = snapshot.read(span, &snapshot.schema())?;
                }
                let none = RecordBatch::new_empty(snapshot.schema());
                Ok(Drafted::Draft(Draft::full(merge(&kept, &none)?, coverage)))
            }
        }
    }

    /// Puts the file under the next number; false when it does not count.
    fn put(
        &self,
        series: &SeriesFolder,
        (partition, state): (Partition, Option<&State>),
        draft: Draft,
    ) -> Result<bool> {
        let footer = Footer {
            kind: draft.kind,
            key: series.key.clone(),
            partition: Some(partition),
            seq: state.map_or(0, |state| state.newest.seq) + 1,
            built_on: state.map(|state| state.newest.clone()),
            base: state.filter(|_| draft.kind == Kind::Delta).map(|state| state.base_link.clone()),
            rows: u64::try_from(draft.rows.num_rows()).unwrap_or(u64::MAX),
            coverage: draft.coverage,
            inherits: draft.inherits,
        };
        let Some(link) = self.commit(series, &footer, &draft.rows)? else { return Ok(false) };
        let counts = counts(series, partition, &link)?;
        reach(Step::Checked)?;
        if counts {
            self.collect_at_times(series, partition, link.seq);
        }
        Ok(counts)
    }
}

/// What became of the wish to change a partition.
enum Drafted {
    Draft(Draft),
    /// Everything is as it should be already.
    Nothing,
    /// Another writer has committed since the plan was made.
    Overtaken,
}

impl Draft {
    fn full(rows: RecordBatch, coverage: Coverage) -> Self {
        Self { kind: Kind::Full, rows, coverage, inherits: false }
    }

    /// The delta of before with these rows.
    fn delta(
        state: &State,
        snapshot: &Snapshot,
        (rows, coverage): (RecordBatch, Coverage),
    ) -> Result<Drafted> {
        let stored = match &snapshot.delta {
            Some(delta) => delta.read(TimeRange::ALL, delta.schema())?,
            None => Vec::new(),
        };
        let rows = merge(&stored, &rows)?;
        if coverage == *state.coverage() && is_equal(&stored, &rows) {
            return Ok(Drafted::Nothing);
        }
        let below = &state.base.coverage;
        let mut own = Coverage::of_present(coverage.present().difference(below.present()));
        let mut inherited = below.clone();
        inherited.add_present(own.present());
        let inherits = inherited.known_empty() == coverage.known_empty();
        if !inherits {
            for proof in coverage.known_empty() {
                own.add_empty(proof);
            }
        }
        Ok(Drafted::Draft(Self { kind: Kind::Delta, rows, coverage: own, inherits }))
    }
}

/// Whether rows at new points, or a change of proofs, are better kept beside the full file.
fn is_small(state: &State, points: &RangeSet, rows: usize) -> bool {
    let delta = usize::try_from(state.delta_rows).unwrap_or(usize::MAX);
    state.base.rows >= DELTA_BASE_ROWS
        && delta.saturating_add(rows) <= DELTA_ROWS
        && points.intersection(state.base.coverage.present()).is_empty()
}

/// Whether a commit that has its name is part of the partition. It is not when its number was free
/// only because the commit that had it first was collected, while this writer slept: then newer ones
/// are there, and the next one was not made from this one.
fn counts(series: &SeriesFolder, partition: Partition, link: &Link) -> Result<bool> {
    let newest = disk::newest(&series.partition(partition))?;
    if newest.is_none_or(|newest| newest <= link.seq) {
        return Ok(true);
    }
    let next = series.commit(partition, link.seq + 1);
    let next = open_checked(&next, series, Some(partition), link.seq + 1)?;
    Ok(next.is_some_and(|next| next.footer().built_on.as_ref() == Some(link)))
}
