//! The merge of two ascending runs of bars as a plan: which rows come from where, in order.

use std::ops::Range;

use qmtl_history_api::Timestamp;

/// Neighbouring rows of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Rows that are in the cache already.
    Old(Range<usize>),
    /// Rows that arrive.
    New(Range<usize>),
}

impl Run {
    fn rows_mut(&mut self) -> &mut Range<usize> {
        match self {
            Self::Old(rows) | Self::New(rows) => rows,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Old(rows) | Self::New(rows) => rows.len(),
        }
    }
}

/// What a cache's rows become: those before `at` stay where they are, then come `runs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first old row that moves.
    pub(super) at: usize,
    /// Old rows from `at` on and new rows, ascending in time.
    pub(super) runs: Vec<Run>,
}

impl Plan {
    /// Merges two strictly ascending sides; of two rows of one time the old one stays.
    pub(super) fn keeping_old(old: &[Timestamp], new: &[Timestamp]) -> Self {
        let at = new.first().map_or(old.len(), |first| old.partition_point(|ts| ts < first));
        let mut runs = Vec::new();
        let (mut o, mut n) = (at, 0);
        while n < new.len() {
            let Some(next) = old.get(o) else {
                runs.push(Run::New(n..new.len()));
                return Self { at, runs };
            };
            let until = n + new[n..].partition_point(|ts| ts < next);
            if n < until {
                runs.push(Run::New(n..until));
            }
            n = until + usize::from(new.get(until) == Some(next));
            let from = o;
            o = new.get(n).map_or(old.len(), |ts| o + old[o..].partition_point(|other| other < ts));
            match runs.last_mut() {
                Some(Run::Old(rows)) => rows.end = o,
                _ if from < o => runs.push(Run::Old(from..o)),
                _ => {}
            }
        }
        if o < old.len() && o != at {
            runs.push(Run::Old(o..old.len()));
        }
        if runs.is_empty() { Self { at: old.len(), runs } } else { Self { at, runs } }
    }

    /// The number of rows from `at` on.
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(Run::len).sum()
    }

    /// The number of new rows that are in.
    pub(super) fn new_rows(&self) -> usize {
        self.runs.iter().filter(|run| matches!(run, Run::New(_))).map(Run::len).sum()
    }

    /// Counts old rows from `by` rows further back.
    pub(super) fn shift_old(&mut self, by: usize) {
        self.at += by;
        for run in &mut self.runs {
            if let Run::Old(rows) = run {
                *rows = rows.start + by..rows.end + by;
            }
        }
    }

    /// Leaves out the oldest `count` rows of the runs.
    pub(super) fn skip(&mut self, mut count: usize) {
        let whole = self
            .runs
            .iter()
            .take_while(|run| {
                let fits = run.len() <= count;
                if fits {
                    count -= run.len();
                }
                fits
            })
            .count();
        self.runs.drain(..whole);
        if let Some(run) = self.runs.first_mut() {
            run.rows_mut().start += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn points(secs: &BTreeSet<i64>) -> Vec<Timestamp> {
        secs.iter().map(|s| Timestamp::from_secs(*s).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn a_plan_is_the_union_with_old_rows_first_choice(
            old in proptest::collection::btree_set(0i64..40, 0..20),
            new in proptest::collection::btree_set(0i64..40, 0..20),
            skip in 0usize..10,
        ) {
            let (old, new) = (points(&old), points(&new));
            let plan = Plan::keeping_old(&old, &new);
            let apply = |plan: &Plan| {
                let mut rows: Vec<_> = old[..plan.at].iter().map(|ts| (*ts, false)).collect();
                for run in &plan.runs {
                    match run {
                        Run::Old(r) => rows.extend(old[r.clone()].iter().map(|ts| (*ts, false))),
                        Run::New(r) => rows.extend(new[r.clone()].iter().map(|ts| (*ts, true))),
                    }
                }
                rows
            };
            let mut model: BTreeMap<_, _> = new.iter().map(|ts| (*ts, true)).collect();
            model.extend(old.iter().map(|ts| (*ts, false)));
            let model: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(apply(&plan), model.clone());
            prop_assert_eq!(plan.at + plan.len(), model.len());

            let mut cut = plan.clone();
            let skip = skip.min(plan.len());
            cut.skip(skip);
            let mut rest = model;
            rest.drain(plan.at..plan.at + skip);
            prop_assert_eq!(apply(&cut), rest);
        }
    }

    #[test]
    fn a_batch_before_the_live_rows_is_one_run() {
        let at = |secs: Range<i64>| secs.map(|s| Timestamp::from_secs(s).unwrap()).collect::<Vec<_>>();
        let plan = Plan::keeping_old(&at(90..110), &at(0..100));
        assert_eq!(plan, Plan { at: 0, runs: vec![Run::New(0..90), Run::Old(0..20)] });
    }
}
