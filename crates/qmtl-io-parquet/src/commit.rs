//! Commits: from what is to change in a partition to the next file of it, a delta or a full one, and
//! the proof that the file counts.

use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{Coverage, ErrorKind, RangeSet, Result, TimeRange, frame};

use crate::cache::Stamp;
use crate::failpoints::{Step, reach};
use crate::footer::{Footer, Kind, Link};
use crate::layout::{Partition, SeriesFolder};
use crate::merge::{is_equal, merge};
use crate::state::State;
use crate::store::{ATTEMPTS, Store, lost_races};
use crate::tips;

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
            let newest = self.newest(&folder)?;
            let known = newest.map(|newest| self.state(series, partition, newest)).transpose()?;
            let state = known.as_deref();
            let (result, edit) = plan(state)?;
            let draft = match edit {
                Some(edit) => match self.draft(series, (partition, state), edit) {
                    Ok(Drafted::Draft(draft)) => Some(draft),
                    Ok(Drafted::Nothing) => None,
                    Ok(Drafted::Overtaken) => continue,
                    // Collected after its footer was read.
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
                None => None,
            };
            let Some(draft) = draft else {
                self.settle(series, &folder, state.map_or(0, |state| state.newest.seq))?;
                return Ok(result);
            };
            if self.put(series, partition, newest.zip(state), draft)? {
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
        let (rows, coverage) = match edit {
            Edit::Keep { coverage } if coverage == *state.coverage() => return Ok(Drafted::Nothing),
            Edit::Keep { coverage }
                if coverage.present() == state.coverage().present()
                    && is_small(state, &RangeSet::new(), 0) =>
            {
                (Some(RecordBatch::new_empty(frame::ts_only_schema())), coverage)
            }
            Edit::Keep { coverage } => (None, coverage),
            Edit::Add { rows, coverage } => (Some(rows), coverage),
        };
        if let Some(rows) = &rows
            && is_small(state, &frame::row_runs(&series.key, rows)?, rows.num_rows())
        {
            // What the full file holds is not asked for: appending costs what the delta has.
            return match self.delta_rows(series, (partition, state))? {
                Some(stored) => Draft::delta(state, &stored, (rows, coverage)),
                None => Ok(Drafted::Overtaken),
            };
        }
        self.rewrite(series, (partition, state), (rows, coverage))
    }

    /// Makes a full file of what is stored, with these rows or without what `coverage` lacks.
    fn rewrite(
        &self,
        series: &SeriesFolder,
        (partition, state): (Partition, &State),
        (rows, coverage): (Option<RecordBatch>, Coverage),
    ) -> Result<Drafted> {
        let snapshot = self.open(series, partition, state.newest.seq)?;
        if snapshot.newest().link() != state.newest {
            return Ok(Drafted::Overtaken);
        }
        match rows {
            Some(rows) => {
                let stored = snapshot.read(TimeRange::ALL, &snapshot.schema()?)?;
                let rows = merge(&stored, &rows)?;
                let is_none = coverage == *state.coverage() && is_equal(&stored, &rows);
                Ok(if is_none { Drafted::Nothing } else { Drafted::Draft(Draft::full(rows, coverage)) })
            }
            None => {
                let mut kept = Vec::new();
                // Rows stay within their span: what is removed stands before or after it.
                if let Some(span) = coverage.present().span() {
                    kept = snapshot.read(span, &snapshot.schema()?)?;
                }
                let none = RecordBatch::new_empty(snapshot.schema()?);
                Ok(Drafted::Draft(Draft::full(merge(&kept, &none)?, coverage)))
            }
        }
    }

    /// Puts the file under the next number; false when it does not count.
    fn put(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        before: Option<(Stamp, &State)>,
        draft: Draft,
    ) -> Result<bool> {
        let state = before.map(|(_, state)| state);
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
            attempt: self.disk.attempt(),
        };
        let Some(link) = self.commit(series, &footer, &draft.rows)? else { return Ok(false) };
        let folder = series.partition(partition);
        let changed = self.disk.changed(&folder);
        let seq = link.seq;
        let (counts, stamp, changed) = match before {
            // Files are removed from below: above a delta that is there none has come and gone.
            Some((stamp, state))
                if changed.is_some()
                    && state.is_delta()
                    && stamp.seq + 1 == seq
                    && tips::is_there(&*self.disk, &folder, stamp)? =>
            {
                (true, self.disk.stamp(&series.commit(partition, seq), seq)?, None)
            }
            _ => {
                let newest = self.disk.newest(&folder, Some(seq))?;
                (self.counts(series, partition, (&link, newest))?, newest, changed)
            }
        };
        reach(Step::Checked)?;
        if counts {
            if let Some(stamp) = stamp.filter(|stamp| stamp.seq == seq) {
                self.remember(&folder, stamp, &Arc::new(State::after(state, footer, link)));
                self.tips.set(&folder, stamp, changed);
            }
            self.collect_at_times(series, partition, seq);
        }
        Ok(counts)
    }

    /// The rows of the delta that a state has, none when it has none; `None` when another writer has
    /// committed since.
    fn delta_rows(
        &self,
        series: &SeriesFolder,
        (partition, state): (Partition, &State),
    ) -> Result<Option<Vec<RecordBatch>>> {
        if !state.is_delta() {
            return Ok(Some(Vec::new()));
        }
        let seq = state.newest.seq;
        let delta = self.open_checked(&series.commit(partition, seq), series, Some(partition), seq)?;
        match delta.filter(|delta| delta.link() == state.newest) {
            Some(delta) => delta.read(TimeRange::ALL, delta.schema()).map(Some),
            None => Ok(None),
        }
    }

    /// Whether a commit that has its name is part of the partition, of which this is the newest. It is
    /// not when its number was free only because the commit that had it first was collected, while this
    /// writer slept: then newer ones are there, and the next one was not made from this one.
    fn counts(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        (link, newest): (&Link, Option<Stamp>),
    ) -> Result<bool> {
        if newest.is_none_or(|newest| newest.seq <= link.seq) {
            return Ok(true);
        }
        let next = series.commit(partition, link.seq + 1);
        let next = self.open_checked(&next, series, Some(partition), link.seq + 1)?;
        Ok(next.is_some_and(|next| next.footer().built_on.as_ref() == Some(link)))
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

    /// The delta that has the rows `stored`, with these rows.
    fn delta(
        state: &State,
        stored: &[RecordBatch],
        (rows, coverage): (&RecordBatch, Coverage),
    ) -> Result<Drafted> {
        let rows = merge(stored, rows)?;
        if coverage == *state.coverage() && is_equal(stored, &rows) {
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
