//! Cutting writes at the partitions, and what a part changes.

use proptest::prelude::*;
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{Interval, RangeSet, TimeRange};
use qmtl_history_testkit::fixtures::{proof, secs, sparse_bars};

use super::*;

fn key(secs: i64) -> SeriesKey {
    SeriesKey::new("x", Interval::from_secs(secs).unwrap()).unwrap()
}

fn ranges(pairs: &[(i64, i64)]) -> RangeSet {
    pairs.iter().map(|(from, length)| TimeRange::new(secs(*from), secs(from + length)).unwrap()).collect()
}

#[test]
fn rows_and_proofs_land_in_their_partitions() {
    let key = key(1);
    let rows = sparse_bars(&key, &ranges(&[(49_998, 4)]));
    let request =
        WriteRequest::new(key).with_empty(proof("s", ranges(&[(49_000, 10), (49_500, 101_000)]), secs(7)));
    let parts = cut(&request, &rows).unwrap();
    let summary: Vec<_> = parts
        .iter()
        .map(|(partition, part)| {
            let rows = part.rows.as_ref().map_or(0, RecordBatch::num_rows);
            let empty: Vec<_> = part.empty.iter().map(|proof| proof.ranges.clone()).collect();
            (partition.range().start().as_secs(), rows, empty)
        })
        .collect();
    assert_eq!(
        summary,
        [
            (0, 2, vec![ranges(&[(49_000, 10), (49_500, 500)])]),
            (50_000, 2, vec![ranges(&[(50_000, 50_000)])]),
            (100_000, 0, vec![ranges(&[(100_000, 50_000)])]),
            (150_000, 0, vec![ranges(&[(150_000, 500)])]),
        ]
    );
}

#[test]
fn nothing_is_cut_from_nothing() {
    let empty = RecordBatch::new_empty(frame::ts_only_schema());
    assert!(cut(&WriteRequest::new(key(60)), &empty).unwrap().is_empty());
    let between = TimeRange::new(secs(61), secs(119)).unwrap();
    let request = WriteRequest::new(key(60)).with_empty(proof("s", between, secs(7)));
    assert!(cut(&request, &empty).unwrap().is_empty(), "no bar opens inside");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bar_is_lost_doubled_or_misplaced(
        interval in prop_oneof![Just(1i64), Just(7), Just(60), Just(604_800)],
        rows in proptest::collection::vec((0i64..200_000, 1i64..200), 0..12),
        empty in proptest::collection::vec((0i64..200_000, 1i64..90_000), 0..6),
    ) {
        let key = key(interval);
        let scale = |pairs: Vec<(i64, i64)>| pairs.into_iter().map(|(a, b)| (a * interval, b * interval)).collect::<Vec<_>>();
        let rows = sparse_bars(&key, &ranges(&scale(rows)));
        let empty = ranges(&scale(empty));
        let request = WriteRequest::new(key.clone()).with_empty(proof("s", empty.clone(), secs(7)));
        let parts = cut(&request, &rows).unwrap();
        let mut proven = RangeSet::new();
        for (partition, part) in &parts {
            let around = RangeSet::from(partition.range());
            if let Some(rows) = &part.rows {
                prop_assert!(frame::row_runs(&key, rows).unwrap().difference(&around).is_empty());
                prop_assert!(rows.num_rows() > 0);
            }
            prop_assert!(part.empty.len() <= 1, "one answer stays one");
            for proof in &part.empty {
                prop_assert!(proof.ranges.difference(&around).is_empty());
                proven.extend(proof.ranges.iter());
            }
        }
        prop_assert_eq!(proven, empty.on_grid(key.interval));
        let cut_rows: Vec<_> = parts.values().filter_map(|part| part.rows.clone()).collect();
        prop_assert_eq!(concat_batches(&rows.schema(), &cut_rows).unwrap(), rows);
    }
}
