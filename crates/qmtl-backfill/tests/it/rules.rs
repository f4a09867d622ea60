//! Sources with rows off the grid or without prices: what each rule leaves present, proven or missing.

use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::frame::Rules;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, HistoryBackend, NoProgress, PageOrder, RangeSet,
    SourceProfile, TimeRange, Timestamp,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, bar, bars_at, batch, rows_within};

use super::support::{Filling, Store, btc, failures, runs, span};

/// How far rows 3 and 13 stand behind their bars: seven seconds, and seven before the next one.
const LATE: [(u32, i64); 2] = [(3, 7_000_000), (13, 53_000_000)];

/// Twenty rows, of which some stand off the grid, and which a source gives as it is asked.
fn odd(rules: Rules) -> FakeFetcher {
    let at = |index: u32| {
        let late = LATE.iter().find(|(odd, _)| *odd == index).map_or(0, |(_, late)| *late);
        bar(&btc(), index).checked_add_micros(late).unwrap()
    };
    FakeFetcher::new("odd")
        .with_batch(bars_at(&(0..20).map(at).collect::<Vec<_>>()))
        .with_profile(SourceProfile::new(PageOrder::Unpaged).with_rules(rules))
}

fn off_grid(rule: &str) -> Rules {
    Rules::default().with_off_grid(rule.parse().unwrap())
}

async fn run(rule: &str) -> (BackfillReport, Store, RangeSet) {
    let store = Store::new();
    let report = Filling::new().run(&Arc::new(odd(off_grid(rule))), &store, span(0, 20)).await;
    let present = store.present(&btc()).await;
    assert_eq!(&present, report.coverage.present(), "{rule}");
    (report, store, present)
}

#[tokio::test]
async fn a_row_off_the_grid_that_is_listed_leaves_its_bar_missing() {
    let (report, _, present) = run("list").await;
    assert_eq!(present, runs([(0, 3), (4, 13), (14, 20)]));
    assert_eq!((report.missing, report.known_empty), (runs([(3, 4), (13, 14)]), RangeSet::new()));
    assert_eq!((report.off_grid.len(), report.dropped.off_grid, report.rows_moved), (2, 2, 0));
}

#[tokio::test]
async fn a_row_off_the_grid_that_is_dropped_leaves_its_bar_to_what_the_source_proves() {
    let (report, store, present) = run("drop").await;
    assert_eq!(present, runs([(0, 3), (4, 13), (14, 20)]));
    assert_eq!(
        (report.missing.clone(), report.known_empty.clone()),
        (RangeSet::new(), runs([(3, 4), (13, 14)]))
    );
    assert_eq!((report.off_grid.len(), report.dropped.off_grid), (2, 2), "it is listed all the same");
    assert!(report.is_complete());
    // And so it is not asked for again.
    let again = Arc::new(odd(off_grid("drop")));
    Filling::new().run(&again, &store, span(0, 20)).await;
    assert_eq!(again.requests().len(), 0);
    // A source that proves nothing leaves it missing.
    let silent = Arc::new(odd(off_grid("drop")).with_proven(|_| RangeSet::new()));
    let report = Filling::new().run(&silent, &Store::new(), span(0, 20)).await;
    assert_eq!((report.missing, report.known_empty), (runs([(3, 4), (13, 14)]), RangeSet::new()));
}

#[tokio::test]
async fn a_row_off_the_grid_that_is_moved_is_a_row_like_others() {
    let (report, store, present) = run("floor").await;
    assert_eq!((present, report.rows_moved, report.dropped.total()), (runs([(0, 20)]), 2, 0));
    assert!(report.is_complete() && report.off_grid.is_empty(), "{report:?}");
    let points: Vec<_> = (0..20).map(|index| bar(&btc(), index)).collect();
    let stored = store.rows(&btc()).await;
    assert_eq!(stored.num_rows(), points.len());

    let (report, _, present) = run("nearest:10s").await;
    // The row before bar 14 contradicts the row of that bar.
    assert_eq!((present, report.rows_moved), (runs([(0, 13), (14, 20)]), 1), "{report:?}");
    assert_eq!((report.dropped.conflict, report.missing), (1, RangeSet::new()));
    assert_eq!(report.known_empty, runs([(13, 14)]), "no row tells of it any more");
    let (report, _, present) = run("nearest:1s").await;
    assert_eq!((present, report.dropped.off_grid), (runs([(0, 3), (4, 13), (14, 20)]), 2));
    assert_eq!(report.missing, runs([(3, 4), (13, 14)]));
}

#[tokio::test]
async fn a_rule_that_refuses_costs_the_rows_of_the_request_alone() {
    let store = Store::new();
    let one = odd(off_grid("refuse")).with_rows(|request| {
        let late = |ts: Timestamp| ts.checked_add_micros(if ts == bar(&btc(), 3) { 1 } else { 0 }).unwrap();
        bars_at(&request.range.points(request.key.interval).map(late).collect::<Vec<_>>())
    });
    let report = Filling::new().run(&Arc::new(one), &store, span(0, 20)).await;
    let [(range, error)] = &failures(&report)[..] else { panic!("{report:?}") };
    assert_eq!(*range, span(0, 10));
    assert!(error.starts_with("rows are off the grid, which is to be refused (with_off_grid)"), "{error}");
    assert_eq!((store.present(&btc()).await, report.missing), (runs([(10, 20)]), runs([(0, 10)])));
}

/// Every row stands two seconds before its bar, so that each window needs a row that lies before it.
#[tokio::test]
async fn rows_that_stand_before_their_window_are_neither_lost_nor_doubled() {
    let early: Vec<_> =
        (0..50).map(|index| bar(&btc(), index).checked_add_micros(-2_000_000).unwrap()).collect();
    for (bars, newest_first) in [(7, false), (10, false), (7, true)] {
        let rows = bars_at(&early);
        let order = if newest_first { PageOrder::NewestFirst } else { PageOrder::OldestFirst };
        let rules = off_grid("nearest:5s");
        let source = FakeFetcher::new("early")
            .with_batch(rows.clone())
            .with_profile(SourceProfile::new(order).with_rules(rules));
        let store = Store::new();
        let filling = Filling::new().with_config(|config| config.with_window_bars(bars));
        let report = filling.run(&Arc::new(source), &store, span(0, 50)).await;
        assert!(report.is_complete(), "{bars}: {report:?}");
        assert_eq!((report.rows_written, report.rows_moved, report.dropped.total()), (50, 50, 0), "{bars}");
        let stored = store.rows(&btc()).await;
        assert_eq!(stored.columns()[1..], rows.columns()[1..], "each number is with its bar");
    }
}

/// Bars of which some have no number for a price.
fn priced(window: TimeRange) -> RecordBatch {
    let points: Vec<_> = (0..10).map(|index| bar(&btc(), index)).collect();
    let open: ArrayRef =
        Arc::new(Float64Array::from_iter((0..10).map(|index| (index != 2).then(|| f64::from(index)))));
    let close: ArrayRef = Arc::new(Float64Array::from_iter_values(
        (0..10).map(|index| if index == 5 { f64::NAN } else { f64::from(index) }),
    ));
    let volume: ArrayRef =
        Arc::new(Float64Array::from_iter((0..10).map(|index| (index != 7).then_some(1.0))));
    rows_within(&batch(&points, [("open", open), ("close", close), ("volume", volume)]), window)
}

#[tokio::test]
async fn a_bar_without_a_price_is_missing_and_another_source_may_have_it() {
    let source = |rule: &str| {
        let rules = Rules::default().with_nan(rule.parse().unwrap());
        Arc::new(
            FakeFetcher::new("holed")
                .with_rows(|request| priced(request.range))
                .with_profile(SourceProfile::new(PageOrder::Unpaged).with_rules(rules)),
        )
    };
    let report = Filling::new().run(&source("keep"), &Store::new(), span(0, 10)).await;
    assert_eq!((report.rows_written, report.not_numbers.len(), report.dropped.nan), (10, 2, 0));
    let report = Filling::new().run(&source("refuse"), &Store::new(), span(0, 10)).await;
    assert!(failures(&report)[0].1.contains("(with_nan)"), "{report:?}");
    assert_eq!((report.rows_written, report.missing), (0, runs([(0, 10)])));

    let store = Store::new();
    let report = Filling::new().run(&source("missing"), &store, span(0, 10)).await;
    assert_eq!((report.rows_written, report.dropped.nan), (8, 2));
    // That there is a row is no proof that there is no bar.
    assert_eq!((report.missing, report.known_empty), (runs([(2, 3), (5, 6)]), RangeSet::new()));
    assert!(report.failed.is_empty() && report.not_numbers.is_empty());
    let coverage = store.coverage(&btc(), span(0, 10)).await.unwrap();
    assert!(coverage.empty_by_any(Timestamp::MAX).is_empty());

    let store = Store::new();
    let whole = Arc::new(FakeFetcher::new("whole").with_rows(|request| {
        let points: Vec<_> = request.range.points(request.key.interval).collect();
        let numbers = || Arc::new(Float64Array::from(vec![99.0; points.len()])) as ArrayRef;
        batch(&points, [("open", numbers()), ("close", numbers()), ("volume", numbers())])
    }));
    let strategy = Filling::new().strategy(&source("missing")).then(Arc::<FakeFetcher>::clone(&whole));
    let request = BackfillRequest::new(btc(), span(0, 10));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let asked: RangeSet = whole.requests().iter().map(|request| request.range).collect();
    assert_eq!(asked, runs([(2, 3), (5, 6)]), "only what the first one had no price for");
    let stored = store.rows(&btc()).await;
    let open = stored.column_by_name("open").unwrap().as_primitive::<Float64Type>();
    assert_eq!(open.values(), &[0.0, 1.0, 99.0, 3.0, 4.0, 99.0, 6.0, 7.0, 8.0, 9.0]);
}
