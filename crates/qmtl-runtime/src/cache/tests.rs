//! The cache against a naive map of bars, its refusals and what it counts.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow_array::{Float64Array, Int64Array, StringArray};
use arrow_schema::DataType;
use proptest::prelude::*;
use qmtl_history_api::{ErrorKind, Interval, NodeId};

use super::*;

const MINUTE: i64 = 60;

fn at(bar: i64) -> Timestamp {
    Timestamp::from_secs(bar * MINUTE).unwrap()
}

fn key() -> SeriesKey {
    SeriesKey::new("btc", Interval::MINUTE).unwrap()
}

fn cache(period: usize) -> NodeCache {
    NodeCache::new(key(), period).unwrap()
}

fn batch_at(ts: impl IntoIterator<Item = Timestamp>, columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(frame::ts_array(ts))];
    let schema = frame::schema_of(columns.iter().map(|(name, array)| (*name, array.data_type().clone())));
    arrays.extend(columns.into_iter().map(|(_, array)| array));
    RecordBatch::try_new(schema, arrays).unwrap()
}

fn doubles(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

/// Bars whose close is their number plus `shift`.
fn history(bars: &[i64], shift: f64) -> RecordBatch {
    batch_at(bars.iter().map(|b| at(*b)), vec![("close", doubles(bars.iter().map(|b| *b as f64 + shift)))])
}

fn run_of(bars: Range<i64>) -> RecordBatch {
    history(&bars.collect::<Vec<_>>(), 0.0)
}

fn live(close: f64) -> RecordBatch {
    batch_at([at(0)], vec![("close", doubles([close]))])
}

fn closes(cache: &NodeCache) -> Vec<f64> {
    cache.view().f64("close").unwrap().to_vec()
}

#[test]
fn the_newest_period_of_a_batch_stays() {
    let mut cache = cache(3);
    let merged = cache.backfill_bulk(&run_of(0..10)).unwrap();
    assert_eq!(merged, Merged { added: 3, kept_out: 0, too_old: 7 });
    assert_eq!(closes(&cache), [7.0, 8.0, 9.0]);
    assert_eq!((cache.oldest(), cache.watermark()), (Some(at(7)), Some(at(9))));
    assert!(cache.is_ready());
    let again = cache.backfill_bulk(&run_of(0..10)).unwrap();
    assert_eq!(again, Merged { added: 0, kept_out: 3, too_old: 7 });
}

#[test]
fn live_rows_win_whichever_comes_first() {
    let mut cache = cache(5);
    assert_eq!(cache.append(at(4), &live(-4.0)).unwrap(), Appended::New);
    cache.backfill_bulk(&run_of(2..6)).unwrap();
    assert_eq!(closes(&cache), [2.0, 3.0, -4.0, 5.0]);
    assert_eq!(cache.append(at(5), &live(-5.0)).unwrap(), Appended::Replaced);
    assert_eq!(cache.append(at(5), &live(-55.0)).unwrap(), Appended::Duplicate);
    assert_eq!(closes(&cache), [2.0, 3.0, -4.0, -5.0]);
}

#[test]
fn late_live_rows_keep_the_order() {
    let mut cache = cache(3);
    for bar in [10, 12, 13] {
        cache.append(at(bar), &live(bar as f64)).unwrap();
    }
    assert!(cache.has_missing_bars());
    assert_eq!(cache.append(at(11), &live(11.0)).unwrap(), Appended::Late);
    assert_eq!(closes(&cache), [11.0, 12.0, 13.0]);
    assert_eq!(cache.append(at(10), &live(10.0)).unwrap(), Appended::TooOld);
    assert!(!cache.has_missing_bars());
}

#[test]
fn times_are_floored_and_the_first_of_a_bar_stays() {
    let mut cache = cache(5);
    let secs = |s| Timestamp::from_secs(s).unwrap();
    let batch = batch_at([secs(61), secs(90), secs(120)], vec![("close", doubles([1.0, 1.5, 2.0]))]);
    assert_eq!(cache.backfill_bulk(&batch).unwrap(), Merged { added: 2, kept_out: 1, too_old: 0 });
    assert_eq!(cache.view().timestamps(), [at(1), at(2)]);
    assert_eq!(closes(&cache), [1.0, 2.0]);
    cache.append(secs(239), &live(3.0)).unwrap();
    assert_eq!(cache.watermark(), Some(at(3)));
}

#[test]
fn a_seam_between_history_and_live_is_a_missing_bar() {
    let mut cache = cache(10);
    cache.backfill_bulk(&run_of(0..3)).unwrap();
    assert!(!cache.has_missing_bars());
    cache.append(at(5), &live(5.0)).unwrap();
    assert!(cache.has_missing_bars());
    assert_eq!(cache.missing().inclusive(Interval::MINUTE), [(at(3), at(4))]);
    cache.note_known_empty(&TimeRange::new(at(3), at(5)).unwrap().into());
    assert!(!cache.has_missing_bars());
}

#[test]
fn bars_proven_empty_count_towards_ready() {
    let mut cache = cache(5);
    cache.backfill_bulk(&history(&[1, 2, 4], 0.0)).unwrap();
    assert!(!cache.is_ready());
    cache.note_known_empty(&TimeRange::new(at(3), at(4)).unwrap().into());
    assert!(!cache.is_ready());
    cache.note_known_empty(&TimeRange::new(at(5), at(6)).unwrap().into());
    assert!(cache.is_ready(), "1, 2, 4 are there, 3 and 5 cannot be");
}

#[test]
fn columns_match_by_name_missing_is_null_unknown_is_counted() {
    let mut cache = cache(10);
    let both = |ts, close: f64, n: i64| {
        batch_at(
            [at(ts)],
            vec![("n", Arc::new(Int64Array::from(vec![n])) as ArrayRef), ("close", doubles([close]))],
        )
    };
    cache.backfill_bulk(&both(0, 0.0, 7)).unwrap();
    let swapped = batch_at(
        [at(1)],
        vec![
            ("close", doubles([1.0])),
            ("extra", doubles([9.0])),
            ("n", Arc::new(Int64Array::from(vec![8])) as ArrayRef),
        ],
    );
    cache.backfill_bulk(&swapped).unwrap();
    assert_eq!(cache.unknown_columns(), 1);
    cache.append(at(2), &live(2.0)).unwrap();
    let ColumnView::Arrow(n) = cache.view().column("n").unwrap() else { panic!("integers are Arrow") };
    let expected: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(8), None]));
    assert_eq!(&n, &expected);
    assert_eq!(closes(&cache), [0.0, 1.0, 2.0]);
    assert_eq!(cache.view().f64("open").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(cache.view().f64("n").unwrap_err().kind(), ErrorKind::Schema);
}

#[test]
fn doubles_survive_nulls_and_become_a_slice_again() {
    let mut cache = cache(3);
    cache.backfill_bulk(&run_of(0..2)).unwrap();
    let null: ArrayRef = Arc::new(Float64Array::from(vec![None]));
    cache.append(at(2), &batch_at([at(2)], vec![("close", null)])).unwrap();
    assert!(matches!(cache.view().column("close").unwrap(), ColumnView::Arrow(a) if a.null_count() == 1));
    let error = cache.view().f64("close").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the column is not one of doubles without nulls (series: btc@1m, column: close)"
    );
    for bar in 3..6 {
        cache.append(at(bar), &live(bar as f64)).unwrap();
    }
    assert_eq!(closes(&cache), [3.0, 4.0, 5.0]);
    let nan = cache.append(at(6), &live(f64::NAN)).unwrap();
    assert_eq!(nan, Appended::New);
    assert!(cache.view().f64("close").unwrap()[2].is_nan(), "NaN is a value, not a null");
}

#[test]
fn a_type_clash_names_node_and_column_and_changes_nothing() {
    let mut cache = cache(3);
    cache.backfill_bulk(&run_of(0..2)).unwrap();
    let text = batch_at([at(2)], vec![("close", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]);
    for error in [cache.backfill_bulk(&text).unwrap_err(), cache.append(at(2), &text).unwrap_err()] {
        assert_eq!(
            error.to_string(),
            "the cache holds this column with another type (node_id: btc, interval: 1m, column: close, \
             cached: Float64, given: Utf8)"
        );
        assert_eq!(error.kind(), ErrorKind::Schema);
    }
    assert_eq!(closes(&cache), [0.0, 1.0]);
}

#[test]
fn bad_rows_are_refused_whole() {
    let mut cache = cache(3);
    let error = cache.backfill_bulk(&history(&[1, 3, 2], 0.0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows of history must be ascending in time (series: btc@1m, column: ts, row: 2, value: 1970-01-01T00:02:00Z)"
    );
    assert!(cache.is_empty() && cache.schema().is_none());
    let error = cache.append(at(1), &run_of(0..2)).unwrap_err();
    assert_eq!(error.to_string(), "a live bar is exactly one row (series: btc@1m, rows: 2)");
    let error = NodeCache::new(key(), 0).unwrap_err();
    assert_eq!(error.to_string(), "a cache must hold at least one bar (series: btc@1m)");
    let weekly = SeriesKey { node_id: NodeId::new("w").unwrap(), interval: "1w".parse().unwrap() };
    let error = NodeCache::new(weekly, 3).unwrap().append(Timestamp::MIN, &live(1.0)).unwrap_err();
    assert!(error.to_string().starts_with("a row's bar would open before 1678 (series: w@1w"), "{error}");
}

#[test]
fn a_column_that_must_not_be_null_is_required() {
    let schema = Schema::new(vec![Field::new("close", DataType::Float64, false)]);
    let mut cache = cache(3).with_schema(&schema).unwrap();
    let other = batch_at([at(0)], vec![("open", doubles([1.0]))]);
    let error = cache.append(at(0), &other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the rows lack a column that must not be null (node_id: btc, interval: 1m, column: close)"
    );
    let twice = Schema::new(vec![Field::new("a", DataType::Float64, true); 2]);
    let error = NodeCache::new(key(), 3).unwrap().with_schema(&twice).unwrap_err();
    assert_eq!(error.to_string(), "column names must be distinct (series: btc@1m, column: a)");
}

#[test]
fn an_empty_batch_fixes_no_schema() {
    let mut cache = cache(3);
    cache.backfill_bulk(&RecordBatch::new_empty(frame::ts_only_schema())).unwrap();
    cache.backfill_bulk(&run_of(0..1)).unwrap();
    assert_eq!(closes(&cache), [0.0]);
}

#[test]
fn the_state_never_outlives_the_rows() {
    let range = |r: Range<i64>| TimeRange::new(at(r.start), at(r.end)).unwrap();
    let mut cache = cache(5);
    cache.backfill_bulk(&history(&[0, 1, 2, 4], 0.0)).unwrap();
    assert!(cache.backfill_state().is_finished(range(0..3)));
    assert_eq!(cache.unfinished(range(0..6)), Some(range(3..6)));
    assert_eq!(cache.unfinished(range(0..3)), None);
    for bar in 5..8 {
        cache.append(at(bar), &live(0.0)).unwrap();
    }
    assert_eq!(cache.view().timestamps(), [at(2), at(4), at(5), at(6), at(7)]);
    assert_eq!(
        cache.backfill_state().finished().inclusive(Interval::MINUTE),
        [(at(2), at(2)), (at(4), at(4))]
    );
    assert_eq!(cache.unfinished(range(0..2)), None, "a full cache takes nothing older");
    assert_eq!(cache.unfinished(range(0..4)), Some(range(3..4)));
    cache.clear();
    assert!(cache.is_empty() && cache.backfill_state().finished().is_empty());
    assert_eq!(cache.unfinished(range(0..2)), Some(range(0..2)));
}

#[test]
fn views_are_contiguous_and_batches_round_trip() {
    let mut cache = cache(4);
    for bar in 0..11 {
        cache.append(at(bar), &live(bar as f64)).unwrap();
        let expected: Vec<_> = ((bar - 3).max(0)..=bar).map(|b| b as f64).collect();
        assert_eq!(closes(&cache), expected);
    }
    assert_eq!(cache.last(2).f64("close").unwrap(), [9.0, 10.0]);
    assert_eq!(cache.last(99).len(), 4);
    assert_eq!(cache.view().to_batch().unwrap(), run_of(7..11));
    assert!(cache.resident_bytes() >= 4 * (8 + 8 + 1));
}

/// Every bar once, in order, the newest `period` of them; live wins over history, what came first
/// wins otherwise.
#[derive(Debug, Default)]
struct Model {
    rows: BTreeMap<i64, (bool, f64)>,
}

impl Model {
    fn history(&mut self, bars: &[i64], shift: f64) {
        for bar in bars {
            self.rows.entry(*bar).or_insert((false, *bar as f64 + shift));
        }
    }

    fn live(&mut self, bar: i64, close: f64) {
        let row = self.rows.entry(bar).or_insert((true, close));
        if !row.0 {
            *row = (true, close);
        }
    }

    fn trim(&mut self, period: usize) {
        while self.rows.len() > period {
            self.rows.pop_first();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    History(Vec<i64>),
    Live(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::btree_set(0i64..40, 0..25)
            .prop_map(|bars| Step::History(bars.into_iter().collect())),
        (0i64..40).prop_map(Step::Live),
        (0i64..40, 1i64..30).prop_map(|(from, len)| Step::History((from..from + len).collect())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_interleaving_of_history_and_live_is_the_naive_model(
        period in 1usize..20,
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let mut cache = cache(period);
        let mut model = Model::default();
        for (number, step) in steps.iter().enumerate() {
            let shift = number as f64 / 100.0;
            match step {
                Step::History(bars) => {
                    let merged = cache.backfill_bulk(&history(bars, shift)).unwrap();
                    prop_assert_eq!(merged.added + merged.kept_out + merged.too_old, bars.len());
                    model.history(bars, shift);
                }
                Step::Live(bar) => {
                    cache.append(at(*bar), &live(-shift)).unwrap();
                    model.live(*bar, -shift);
                }
            }
            model.trim(period);
            let expected: Vec<_> = model.rows.keys().map(|bar| at(*bar)).collect();
            prop_assert_eq!(cache.view().timestamps(), &expected[..]);
            let values: Vec<_> = model.rows.values().map(|(_, close)| *close).collect();
            if !values.is_empty() {
                prop_assert_eq!(cache.view().f64("close").unwrap(), &values[..]);
            }
            let state = cache.backfill_state().finished();
            let present: RangeSet =
                RangeSet::from_sorted_points(expected.iter().copied(), Interval::MINUTE);
            prop_assert_eq!(state.intersection(&present), state.clone(), "a loaded range without its rows");
            let holes = present.span().map_or(0, |span| span.count(Interval::MINUTE)) - expected.len() as u64;
            prop_assert_eq!(cache.missing().count(Interval::MINUTE), holes);
            prop_assert_eq!(cache.has_missing_bars(), holes > 0);
        }
    }
}
