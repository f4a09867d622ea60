//! What is asked of a source, and what of its answers is stored.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    TimestampSecondArray,
};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{
    Error, ErrorKind, FetchLimits, FetchRequest, Fetched, HistoryBackend, HistoryBackendExt, PageOrder,
    ProgressEvent, RangeSet, ReadRequest, SourceProfile, TimeRange, Timestamp, fetcher_fn,
};
use qmtl_history_testkit::fixtures::{
    self, FakeFetcher, ManualClock, bar, bars, bars_at, source, sparse_bars,
};

use crate::support::{Events, Filling, Store, btc, failures, late, runs, span};

fn asked(fetcher: &FakeFetcher) -> RangeSet {
    fetcher.requests().into_iter().map(|request| request.range).collect()
}

#[tokio::test]
async fn the_first_backfill_goes_into_an_empty_store_and_the_second_asks_nothing() {
    let holes = runs([(7, 9), (40, 55)]);
    let rows = RangeSet::from(span(0, 100)).difference(&holes);
    let fetcher = Arc::new(FakeFetcher::new("fake").with_bars_in(rows.clone()));
    let store = Store::new();
    let report = Filling::new().run(&fetcher, &store, span(0, 100)).await;

    assert_eq!((report.rows_written, report.fetch_requests), (83, 10));
    assert_eq!(report.filled, [(source("fake"), rows.clone())]);
    assert_eq!((&report.known_empty, report.is_complete()), (&holes, true));
    assert_eq!(store.present(&btc()).await, rows);
    let stored = store.read_all(&ReadRequest::new(btc(), TimeRange::ALL)).await.unwrap();
    assert_eq!(stored, sparse_bars(&btc(), &rows));

    let again = Filling::new().run(&fetcher, &store, span(0, 100)).await;
    assert_eq!((again.rows_written, again.fetch_requests, again.is_complete()), (0, 0, true));
    assert!(again.filled.is_empty() && again.known_empty.is_empty());
}

#[tokio::test]
async fn a_young_hole_is_asked_for_again_only_when_its_proof_has_expired() {
    let clock = ManualClock::new(bar(&btc(), 20));
    let filling = Filling::new().with_clock(&clock);
    let fetcher = Arc::new(FakeFetcher::new("fake").with_bars_in(runs([(0, 5)])));
    let store = Store::new();
    filling.run(&fetcher, &store, span(0, 10)).await;
    clock.advance(Duration::from_secs(3_599));
    assert_eq!(filling.run(&fetcher, &store, span(0, 10)).await.fetch_requests, 0);
    clock.advance(Duration::from_secs(1));
    filling.run(&fetcher, &store, span(0, 10)).await;
    assert_eq!(fetcher.requests().last().unwrap().range, span(5, 10));
}

#[tokio::test]
async fn a_hole_that_is_believed_for_no_time_at_all_is_missing_and_nothing_else() {
    let source = source("behind");
    let fetcher = fetcher_fn(source, |request: FetchRequest| async move {
        let rows = sparse_bars(&request.key, &runs([(0, 4), (6, 10)]).within(request.range));
        // The answer is dated by the source's clock, which is an hour behind.
        let as_of = bar(&btc(), 200).checked_sub(Duration::from_secs(3_600));
        Ok(Fetched::from_batch(rows).with_proven(request.range.into(), "no row").with_as_of(as_of))
    })
    .with_profile(SourceProfile::new(PageOrder::Unpaged));
    let filling = Filling::new().with_clock(&ManualClock::new(bar(&btc(), 200)));
    let report = filling.run(&Arc::new(fetcher), &Store::new(), span(0, 10)).await;
    assert_eq!((report.missing, report.known_empty), (runs([(4, 6)]), RangeSet::new()));
}

#[tokio::test]
async fn rows_that_come_again_with_the_second_question_are_not_taken_for_bars_in_step() {
    let rows = runs([(2, 3), (6, 7)]);
    let fetcher = FakeFetcher::new("fake")
        .with_bars_in(rows.clone())
        .with_limits(FetchLimits::none().with_max_rows(100))
        .with_profile(SourceProfile::new(PageOrder::OldestFirst).with_gapless(true));
    let report = Filling::new().run(&Arc::new(fetcher), &Store::new(), span(0, 10)).await;
    assert!(report.failed.is_empty(), "{:?}", failures(&report));
    assert_eq!((report.rows_written, report.missing), (2, RangeSet::new()));
}

#[tokio::test]
async fn one_sources_proof_does_not_keep_another_from_being_asked() {
    let store = Store::new();
    let poor = Arc::new(FakeFetcher::new("poor").with_bars_in(RangeSet::new()));
    Filling::new().run(&poor, &store, span(0, 10)).await;
    let rich = Arc::new(FakeFetcher::new("rich"));
    assert_eq!(Filling::new().run(&rich, &store, span(0, 10)).await.rows_written, 10);
    assert!(store.coverage(&btc(), span(0, 10)).await.unwrap().known_empty().is_empty());
}

#[tokio::test]
async fn a_source_proves_nothing_beyond_what_it_was_asked_and_nothing_that_it_may_still_publish() {
    let clock = ManualClock::new(bar(&btc(), 8));
    let fetcher =
        FakeFetcher::new("fake").with_bars_in(runs([(0, 4)])).with_proven(|_| TimeRange::ALL.into());
    let fetcher = Arc::new(fetcher);
    let store = Store::new();
    let filling = Filling::new().with_clock(&clock);
    let report = filling.run(&fetcher, &store, span(0, 20)).await;
    assert_eq!((&report.known_empty, &report.missing), (&runs([(4, 6)]), &runs([(6, 20)])));
    assert_eq!((&report.too_young, report.wanting()), (&runs([(6, 8)]), runs([(8, 20)])));
    let stored = store.coverage(&btc(), TimeRange::ALL).await.unwrap();
    assert_eq!(stored.empty_by_any(bar(&btc(), 8)), runs([(4, 6)]));
    // Two minutes after its close a bar that is not there is not there.
    clock.advance(Duration::from_secs(120));
    let report = filling.run(&fetcher, &store, span(0, 8)).await;
    assert_eq!((&report.known_empty, report.is_complete()), (&runs([(6, 8)]), true));
}

/// A request may end long after its answer was given: retries and a look for the listing come behind it.
#[tokio::test]
async fn an_answer_is_dated_by_when_it_was_asked_for_and_not_by_when_its_fetcher_was_done() {
    let clock = ManualClock::skipping_sleep(bar(&btc(), 30));
    let has = FakeFetcher::new("fake").with_bars_in(runs([(0, 29)]));
    let fetcher = Arc::new(has.with_latency(clock.clone(), Duration::from_secs(200)));
    let store = Store::new();
    let filling = Filling::new().with_clock(&clock);
    let report = filling.run(&fetcher, &store, span(25, 30)).await;
    assert_eq!((&report.missing, &report.too_young), (&runs([(29, 30)]), &runs([(29, 30)])));
    assert!(store.coverage(&btc(), TimeRange::ALL).await.unwrap().known_empty().is_empty());
}

#[tokio::test]
async fn the_servers_clock_dates_an_answer_when_it_is_behind_ours_and_closes_its_bars() {
    // Our clock is three weeks ahead: every bar seems to have closed long ago.
    let (ours, theirs) = (bar(&btc(), 30_240), bar(&btc(), 7));
    let has =
        |request: &FetchRequest| sparse_bars(&request.key, &runs([(0, 3), (6, 8)]).within(request.range));
    let fetcher = Arc::new(fetcher_fn(source("fake"), move |request: FetchRequest| {
        let fetched = Fetched::from_batch(has(&request)).with_as_of(Some(theirs));
        async move { Ok(fetched.with_proven(request.range.into(), "no row in the answer")) }
    }));
    let store = Store::new();
    let filling = Filling::new().with_clock(&ManualClock::new(ours));
    let report = filling.run(&fetcher, &store, span(0, 20)).await;
    assert_eq!(store.present(&btc()).await, runs([(0, 3), (6, 7)]), "bar 7 is open at the source");
    // By our clock the proof has expired already: its bars are missing, and are counted as nothing else.
    assert_eq!((report.dropped.forming, &report.known_empty), (1, &RangeSet::new()));
    assert_eq!(report.missing, runs([(3, 6), (7, 20)]));
    assert!(report.too_young.is_empty(), "by our clock they closed weeks ago");
    let [proof] = &store.coverage(&btc(), TimeRange::ALL).await.unwrap().known_empty().to_vec()[..] else {
        panic!("one answer is one proof")
    };
    assert_eq!((proof.answered_at, &proof.ranges), (theirs, &runs([(3, 5)])));
}

#[tokio::test]
async fn what_is_known_is_never_asked_for_and_requests_keep_the_sources_limit() {
    let known = runs([(3, 5), (18, 23), (60, 61)]);
    let store = Store::new();
    store.seed(&btc(), sparse_bars(&btc(), &known)).await;
    let fetcher = Arc::new(FakeFetcher::new("fake").with_limits(FetchLimits::none().with_max_rows(4)));
    let report = Filling::new().run(&fetcher, &store, span(0, 100)).await;
    assert!(RangeSet::from(span(0, 100)).difference(&known).difference(&asked(&fetcher)).is_empty());
    let is_known = |ts| known.contains(ts);
    let ends = fetcher.requests().into_iter().map(|request| request.range.bounds(btc().interval).unwrap());
    assert!(ends.into_iter().all(|(first, last)| !is_known(first) && !is_known(last)));
    assert!(fetcher.requests().iter().all(|request| request.range.count(btc().interval) <= 4));
    assert_eq!(report.rows_written, 92);
}

#[tokio::test]
async fn the_second_gaps_failure_keeps_the_first_ones_rows_and_count() {
    let store = Store::new();
    store.seed(&btc(), sparse_bars(&btc(), &runs([(4, 6)]))).await;
    let fetcher = Arc::new(
        FakeFetcher::new("fake")
            .with_failures(|number, _| (number == 1).then(|| Error::unavailable("reset"))),
    );
    let filling = Filling::new();
    let report = filling.run(&fetcher, &store, span(0, 10)).await;
    assert_eq!((report.rows_written, report.fetch_requests), (4, 2));
    assert_eq!(report.filled, [(source("fake"), runs([(0, 4)]))]);
    assert_eq!(report.missing, runs([(6, 10)]));
    let text = "reset (source: fake, request: [2024-01-01T00:06:00Z, 2024-01-01T00:10:00Z))";
    assert_eq!(failures(&report), [(span(0, 10), text.to_owned())]);

    assert!(filling.run(&fetcher, &store, span(0, 10)).await.is_complete());
    assert_eq!(fetcher.requests().last().unwrap().range, span(6, 10));
}

#[tokio::test]
async fn windows_that_fail_alike_are_reported_as_one_and_the_others_go_on() {
    let bad = |request: &FetchRequest| {
        span(20, 50).contains(request.range.start()) || request.range == span(70, 80)
    };
    let fetcher = Arc::new(
        FakeFetcher::new("fake")
            .with_failures(move |_, request| bad(request).then(|| Error::unavailable("reset").exhausted())),
    );
    let store = Store::new();
    let report = Filling::new().run(&fetcher, &store, span(0, 100)).await;
    assert_eq!((report.rows_written, &report.missing), (60, &runs([(20, 50), (70, 80)])));
    let ranges: Vec<_> = report.failed.iter().map(|(range, _)| *range).collect();
    assert_eq!(ranges, [span(20, 50), span(70, 80)]);
    assert!(report.failed[0].1.to_string().ends_with("windows: 3)"), "{}", report.failed[0].1);
    assert!(report.failed[0].1.is_exhausted());
}

#[tokio::test]
async fn a_source_that_does_not_know_the_series_is_not_asked_on() {
    let unknown = || Error::new(ErrorKind::NotFound, "no such symbol").with("symbol", "BTC/USDT");
    let fetcher =
        Arc::new(FakeFetcher::new("fake").with_failures(move |number, _| (number >= 2).then(unknown)));
    let store = Store::new();
    let filling = Filling::new().with_config(|config| config.with_windows_in_flight(1));
    let report = filling.run(&fetcher, &store, span(0, 1_000)).await;
    assert!(fetcher.requests().len() <= 4, "{} requests", fetcher.requests().len());
    assert_eq!(report.rows_written, 20, "what had come before is stored");
    assert_eq!((report.failed.len(), report.failed[0].0), (1, span(20, 1_000)));
    assert!(report.failed[0].1.to_string().starts_with("no such symbol (symbol: BTC/USDT, source: fake"));
}

#[tokio::test]
async fn the_forming_bar_is_dropped_and_counted_apart_from_other_strays() {
    // A source that answers with whatever surrounds the request, as naive ones do.
    let fetcher =
        Arc::new(FakeFetcher::new("naive").with_rows(|request| bars(&request.key, bar(&request.key, 0), 40)));
    let clock = ManualClock::new(bar(&btc(), 30).checked_add(Duration::from_secs(59)).unwrap());
    let store = Store::new();
    store.seed(&btc(), bars(&btc(), bar(&btc(), 0), 20)).await;
    let report = Filling::new().with_clock(&clock).run(&fetcher, &store, span(0, 100)).await;
    assert_eq!(store.present(&btc()).await, runs([(0, 30)]));
    assert_eq!((report.dropped.forming, report.dropped.outside), (1, 29));
    assert_eq!(report.missing, runs([(30, 100)]), "bars that have not closed are still missing");
    assert!(report.failed.is_empty());
}

#[tokio::test]
async fn a_recorders_newest_bars_are_left_alone() {
    let clock = ManualClock::new(bar(&btc(), 30));
    let filling = Filling::new().with_clock(&clock).with_config(|config| config.with_settle(2));
    let store = Store::new();
    filling.run(&Arc::new(FakeFetcher::new("fake")), &store, span(0, 100)).await;
    assert_eq!(store.present(&btc()).await, runs([(0, 28)]));
}

#[tokio::test]
async fn unsorted_rows_duplicates_and_conflicts_are_brought_into_form_and_counted() {
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let upper = bars(&request.key, bar(&request.key, 5), 5);
        let lower = bars(&request.key, bar(&request.key, 0), 6);
        let mut other = lower.slice(2, 1).columns().to_vec();
        other[1] = Arc::new(Float64Array::from(vec![-1.0]));
        let other = RecordBatch::try_new(lower.schema(), other).unwrap();
        concat_batches(&lower.schema(), [&upper, &lower, &other]).unwrap()
    }));
    let store = Store::new();
    let report = Filling::new().run(&fetcher, &store, span(0, 10)).await;
    assert_eq!((report.dropped.duplicate, report.dropped.conflict), (1, 1));
    let stored = store.read_all(&ReadRequest::new(btc(), span(0, 10))).await.unwrap();
    assert_eq!(stored, bars(&btc(), bar(&btc(), 0), 10), "the source's first row stays");
}

/// Rows whose `ts` is `times` and whose one column is `close`.
fn odd_rows(times: ArrayRef, close: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("ts", times), ("close", close)]).unwrap()
}

#[tokio::test]
async fn a_row_off_the_grid_costs_its_own_bar_alone_and_is_listed() {
    let store = Store::new();
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let late = |ts: Timestamp| match ts == bar(&btc(), 7) {
            true => ts.checked_add_micros(7_000_000).unwrap(),
            false => ts,
        };
        bars_at(&request.range.points(request.key.interval).map(late).collect::<Vec<_>>())
    }));
    for _ in 0..2 {
        let report = Filling::new().run(&fetcher, &store, span(0, 20)).await;
        assert_eq!((report.missing, report.known_empty), (runs([(7, 8)]), RangeSet::new()));
        assert!(report.failed.is_empty());
        let [odd] = &report.off_grid[..] else { panic!("{:?}", report.off_grid) };
        assert_eq!((odd.bar, odd.distance()), (Some(bar(&btc(), 7)), Duration::from_secs(7)));
    }
    assert_eq!(store.present(&btc()).await, runs([(0, 7), (8, 20)]));
    // A second answer with the bar as it should be mends it.
    let report = Filling::new().run(&Arc::new(FakeFetcher::new("fake")), &store, span(0, 20)).await;
    assert!(report.is_complete() && report.off_grid.is_empty());
}

#[tokio::test]
async fn rows_of_another_grid_prove_nothing_on_ours() {
    let store = Store::new();
    // A series that has a row stands on its grid.
    store.seed(&btc(), bars(&btc(), bar(&btc(), 100), 1)).await;
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let rows = runs([(0, 5), (12, 17)]).within(request.range);
        let late = rows.points(request.key.interval).map(|ts| ts.checked_add_micros(30_000_000).unwrap());
        bars_at(&late.collect::<Vec<_>>())
    }));
    let filling = Filling::new().with_config(|config| config.with_window_bars(20));
    let report = filling.run(&fetcher, &store, span(0, 20)).await;
    assert_eq!(
        (report.off_grid.len(), report.known_empty, report.missing),
        (10, RangeSet::new(), runs([(0, 20)]))
    );
}

#[tokio::test]
async fn bars_of_a_longer_interval_are_not_stored_as_short_ones() {
    let store = Store::new();
    let fifth: RangeSet = (0..200).map(|index| span(index * 5, index * 5 + 1)).collect();
    let profile = SourceProfile::new(PageOrder::OldestFirst).with_gapless(true);
    let fetcher = Arc::new(FakeFetcher::new("fake").with_bars_in(fifth).with_profile(profile));
    let filling = Filling::new().with_config(|config| config.with_window_bars(500));
    let report = filling.run(&fetcher, &store, span(0, 1_000)).await;
    assert_eq!((report.rows_written, report.known_empty), (0, RangeSet::new()));
    let text = report.failed[0].1.to_string();
    assert!(text.starts_with("the source's rows are bars of a longer interval"), "{text}");
    assert!(text.contains("bars_apart: 5"), "{text}");
}

#[tokio::test]
async fn conflicts_and_values_that_are_no_numbers_are_named() {
    let store = Store::new();
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let rows = sparse_bars(&request.key, &request.range.into());
        let mut odd = rows.slice(2, 1).columns().to_vec();
        odd[4] = Arc::new(Float64Array::from(vec![f64::NAN]));
        let odd = RecordBatch::try_new(rows.schema(), odd).unwrap();
        concat_batches(&rows.schema(), [&odd, &rows]).unwrap()
    }));
    let report = Filling::new().run(&fetcher, &store, span(0, 10)).await;
    let [conflict] = &report.conflicts[..] else { panic!("{:?}", report.conflicts) };
    assert_eq!((conflict.ts, &*conflict.column, &*conflict.kept), (bar(&btc(), 2), "close", "NaN"));
    let [nan] = &report.not_numbers[..] else { panic!("{:?}", report.not_numbers) };
    assert_eq!((&*nan.column, nan.rows, nan.first), ("close", 1, bar(&btc(), 2)));
}

#[tokio::test]
async fn a_wrong_unit_a_null_time_and_a_missing_time_fail_the_window_by_name() {
    let check = async |rows: fn() -> RecordBatch, expected: &str| {
        let store = Store::new();
        let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(move |_| rows()));
        let report = Filling::new().run(&fetcher, &store, span(0, 10)).await;
        assert!(store.present(&btc()).await.is_empty());
        let text = report.failed[0].1.to_string();
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(report.missing, runs([(0, 10)]));
    };
    fn close() -> ArrayRef {
        Arc::new(Int64Array::from(vec![1, 2]))
    }
    check(
        || odd_rows(Arc::new(TimestampMillisecondArray::from(vec![1_704_067_200, 1_704_067_260])), close()),
        "a row lies more than ten years outside its window (series: ohlcv:binance:BTC/USDT:1m@1m, column: ts, row: 0",
    )
    .await;
    check(
        || odd_rows(Arc::new(TimestampSecondArray::from(vec![Some(1_704_067_200), None])), close()),
        "a row has no time (series: ohlcv:binance:BTC/USDT:1m@1m, column: ts, row: 1",
    )
    .await;
    check(
        || RecordBatch::try_from_iter([("close", close())]).unwrap(),
        "the source's rows have no time column (series: ohlcv:binance:BTC/USDT:1m@1m, column: ts",
    )
    .await;
}

#[tokio::test]
async fn a_type_that_contradicts_the_stored_one_fails_its_window_alone() {
    let store = Store::new();
    store.seed(&btc(), bars(&btc(), bar(&btc(), 100), 1)).await;
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let rows = sparse_bars(&request.key, &request.range.into());
        if !request.range.contains(bar(&request.key, 12)) {
            return rows;
        }
        let words = StringArray::from(vec!["x"; rows.num_rows()]);
        odd_rows(Arc::clone(rows.column(0)), Arc::new(words))
    }));
    let report = Filling::new().run(&fetcher, &store, span(0, 30)).await;
    assert_eq!(store.present(&btc()).await, runs([(0, 10), (20, 30), (100, 101)]));
    assert_eq!(
        failures(&report),
        [(
            span(10, 20),
            "the column is stored with another type; give the new one another name, or leave it out \
             (with_column) (series: ohlcv:binance:BTC/USDT:1m@1m, column: close, \
             stored: Float64, given: Utf8, row: 0, source: fake)"
                .to_owned()
        )]
    );
}

#[tokio::test]
async fn requests_of_one_window_that_contradict_each_other_leave_nothing_behind() {
    let store = Store::new();
    store.seed(&btc(), fixtures::batch(&[bar(&btc(), 4)], [])).await;
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let rows = sparse_bars(&request.key, &request.range.into()).project(&[0]).unwrap();
        let close: ArrayRef = match request.range == span(0, 4) {
            true => Arc::new(Int64Array::from(vec![1; rows.num_rows()])),
            false => Arc::new(Float64Array::from(vec![1.0; rows.num_rows()])),
        };
        odd_rows(Arc::clone(rows.column(0)), close)
    }));
    let report = Filling::new().run(&fetcher, &store, span(0, 10)).await;
    assert_eq!(store.present(&btc()).await, runs([(4, 5)]));
    assert_eq!(
        failures(&report),
        [(
            span(0, 10),
            "the column is stored with another type; give the new one another name, or leave it out \
             (with_column) (series: ohlcv:binance:BTC/USDT:1m@1m, column: close, \
             stored: Int64, given: Float64, row: 0, source: fake)"
                .to_owned()
        )]
    );
}

#[tokio::test]
async fn a_column_that_comes_later_is_null_before() {
    let store = Store::new();
    store.seed(&btc(), sparse_bars(&btc(), &runs([(4, 6)]))).await;
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        let rows = sparse_bars(&request.key, &request.range.into());
        if request.range.contains(bar(&request.key, 0)) {
            return rows;
        }
        let columns = rows
            .schema()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .zip(rows.columns().to_vec())
            .collect::<Vec<_>>();
        let trades: ArrayRef = Arc::new(Int64Array::from(vec![7; rows.num_rows()]));
        RecordBatch::try_from_iter(columns.into_iter().chain([("trades".to_owned(), trades)])).unwrap()
    }));
    let report = Filling::new().run(&fetcher, &store, span(0, 20)).await;
    assert!(report.is_complete(), "{report:?}");
    let stored =
        store.read_all(&ReadRequest::new(btc(), span(0, 20)).with_columns(["trades"])).await.unwrap();
    assert_eq!(stored.column(1).null_count(), 6);
    assert_eq!(store.writes().len(), 1);
}

#[tokio::test]
async fn a_panicking_fetcher_fails_its_window_and_nothing_else() {
    let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(|request| {
        assert!(!request.range.contains(bar(&request.key, 15)), "on purpose");
        sparse_bars(&request.key, &request.range.into())
    }));
    let store = Store::new();
    let report = Filling::new().run(&fetcher, &store, span(0, 30)).await;
    assert_eq!((report.rows_written, &report.missing), (20, &runs([(10, 20)])));
    assert_eq!(report.failed[0].1.kind(), ErrorKind::Unexpected);
    assert!(report.failed[0].1.to_string().starts_with("the source's fetcher panicked (source: fake"));
}

#[tokio::test]
async fn as_many_windows_are_in_flight_as_are_allowed() {
    let clock = late();
    let fetcher =
        Arc::new(FakeFetcher::new("fake").with_latency(Arc::new(clock.clone()), Duration::from_secs(1)));
    let (asker, ticker) = (Arc::clone(&fetcher), clock.clone());
    let filling = tokio::spawn(async move {
        Filling::new().with_clock(&clock).run(&asker, &Store::new(), span(0, 1_000)).await
    });
    while !filling.is_finished() {
        ticker.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert_eq!((filling.await.unwrap().rows_written, fetcher.max_in_flight()), (1_000, 8));
}

#[tokio::test]
async fn progress_tells_each_window_in_order() {
    let fetcher =
        Arc::new(FakeFetcher::new("fake").with_bars_in(runs([(0, 5), (10, 30)])).with_failures(
            |_, request| (request.range == span(20, 30)).then(|| Error::unavailable("reset")),
        ));
    let events = Arc::new(Events::default());
    let store = Store::new();
    store.seed(&btc(), sparse_bars(&btc(), &runs([(12, 14)]))).await;
    Filling::new().with_progress(&events).run(&fetcher, &store, span(0, 30)).await;

    let events = events.0.lock().unwrap();
    assert!(
        matches!(events[0], ProgressEvent::Planned { bars: 28, windows: 3, requests: 4 }),
        "{:?}",
        events[0]
    );
    let of = |wanted: TimeRange| -> Vec<String> {
        let step = |event: &ProgressEvent| match event {
            ProgressEvent::WindowStarted { window } if *window == wanted => Some("started".into()),
            ProgressEvent::Fetched { window, rows } if *window == wanted => Some(format!("fetched {rows}")),
            ProgressEvent::WindowStored { window, rows, bars } if *window == wanted => {
                Some(format!("stored {rows} of {bars}"))
            }
            ProgressEvent::WindowFailed { window, error } if *window == wanted => {
                Some(format!("failed: {}", error.message()))
            }
            _ => None,
        };
        events.iter().filter_map(step).collect()
    };
    assert_eq!(of(span(0, 10)), ["started", "fetched 5", "stored 5 of 10"]);
    assert_eq!(of(span(10, 20)), ["started", "fetched 2", "fetched 6", "stored 8 of 8"]);
    assert_eq!(of(span(20, 30)), ["started", "failed: reset"]);
}

#[tokio::test]
async fn a_configuration_without_room_is_refused_before_the_source_is_asked() {
    use qmtl_history_api::{AutoBackfillStrategy, BackfillRequest, NoProgress};
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    for (filling, text) in [
        (
            Filling::new().with_config(|config| config.with_windows_in_flight(0)),
            "a backfill needs at least one window in flight (windows_in_flight: 0)",
        ),
        (
            Filling::new().with_config(|config| config.with_window_bars(0)),
            "a plan needs room for at least one bar (window_bars: 0)",
        ),
    ] {
        let strategy = filling.strategy(&fetcher);
        let request = BackfillRequest::new(btc(), span(0, 10));
        let error = strategy.ensure_range(&request, &Store::new(), &NoProgress).await.unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    assert!(fetcher.requests().is_empty());
}

#[tokio::test]
async fn rows_of_another_grid_are_refused_by_its_name_until_the_series_has_rows() {
    let fetcher = Arc::new(fetcher_fn(source("fake"), |request: FetchRequest| async move {
        let points = request.range.points(request.key.interval);
        let late: Vec<_> = points.filter_map(|ts| ts.checked_add_micros(30_000_000)).collect();
        Ok(Fetched::from_batch(bars_at(&late)).with_proven(request.range.into(), "all of it"))
    }));
    let store = Store::new();
    let report = Filling::new().run(&fetcher, &store, span(0, 20)).await;
    let [(range, error)] = &failures(&report)[..] else { panic!("{report:?}") };
    assert_eq!(*range, span(0, 20));
    assert!(
        error.starts_with("no row is on the grid of 1m, but all are on that of 1m+30s: use that interval"),
        "{error}"
    );
    assert_eq!((report.missing.clone(), report.known_empty.is_empty()), (span(0, 20).into(), true));
    // A series that has a row stands on its grid: then such rows are odd ones.
    store.seed(&btc(), bars(&btc(), bar(&btc(), 100), 1)).await;
    let report = Filling::new().run(&fetcher, &store, span(0, 20)).await;
    assert_eq!((report.failed.len(), report.off_grid.len()), (0, 20));
    assert_eq!(report.missing, span(0, 20).into());
}

#[tokio::test]
async fn a_page_off_the_grid_does_not_take_the_rows_of_the_pages_before_with_it() {
    let fetcher = Arc::new(
        FakeFetcher::new("fake").with_limits(FetchLimits::none().with_max_rows(10)).with_rows(|request| {
            let late =
                |ts: Timestamp| ts.checked_add_micros(if ts < bar(&btc(), 10) { 0 } else { 30_000_000 });
            bars_at(&request.range.points(request.key.interval).filter_map(late).collect::<Vec<_>>())
        }),
    );
    let store = Store::new();
    let filling = Filling::new().with_config(|config| config.with_window_bars(20));
    let report = filling.run(&fetcher, &store, span(0, 20)).await;
    assert_eq!((report.failed.len(), report.rows_written, report.off_grid.len()), (0, 10, 10));
    assert_eq!(report.missing, span(10, 20).into());
}
