//! Merging and weaving are sorting.

use std::collections::BTreeSet;

use proptest::prelude::*;
use qmtl_history_api::{SeriesKey, TimeRange};
use qmtl_history_testkit::fixtures::{secs, sparse_bars};

use super::*;

fn bars(points: &BTreeSet<i64>) -> RecordBatch {
    let key = SeriesKey::new("x", "1s".parse().unwrap()).unwrap();
    sparse_bars(&key, &points.iter().map(|at| TimeRange::new(secs(*at), secs(at + 1)).unwrap()).collect())
}

fn cut(whole: &RecordBatch, group: usize) -> Vec<RecordBatch> {
    (0..whole.num_rows())
        .step_by(group)
        .map(|from| whole.slice(from, group.min(whole.num_rows() - from)))
        .collect()
}

proptest! {
    #[test]
    fn merging_is_sorting(
        stored in proptest::collection::btree_set(0i64..200, 0..60),
        new in proptest::collection::btree_set(0i64..300, 0..60),
        group in 1usize..20,
    ) {
        let whole = bars(&stored);
        let batches = cut(&whole, group);
        let union = stored.union(&new).copied().collect();
        prop_assert_eq!(merge(&batches, &bars(&new)).unwrap(), bars(&union));
        prop_assert_eq!(is_equal(&batches, &whole), true);
        prop_assert_eq!(is_equal(&batches, &bars(&union)), union == stored);
    }

    #[test]
    fn weaving_is_sorting(
        stored in proptest::collection::btree_set(0i64..200, 0..60),
        new in proptest::collection::btree_set(0i64..300, 0..60),
        group in 1usize..20,
    ) {
        let new = &new - &stored;
        let union: BTreeSet<i64> = &stored | &new;
        let woven = weave(cut(&bars(&stored), group), &cut(&bars(&new), group)).unwrap();
        prop_assert!(woven.iter().all(|batch| batch.num_rows() > 0));
        let schema = bars(&union).schema();
        prop_assert_eq!(concat_batches(&schema, &woven).unwrap(), bars(&union));
    }
}
