//! How rows reach the store: gathered, bounded in memory, and what happens when it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use qmtl_history_api::arrow_array::{RecordBatch, StringArray};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, Clock, DataFetcher, Error, ErrorKind, FetchRequest, Fetched,
    NoProgress, RangeSet, StopSignal, TimeRange, fetcher_fn, frame,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, bars, batch, source, sparse_bars};

use crate::support::{Filling, Store, btc, failures, late, runs, span};

/// Bytes of a bar of the fixtures: a time and five doubles.
const BAR: u64 = 48;

fn holds(rows: &RecordBatch, index: u32) -> bool {
    let ts = frame::timestamps(rows).unwrap().values();
    ts.contains(&bar(&btc(), index).as_micros())
}

/// A source that has every bar, and sleeps before it answers about the windows in which it is `asleep`.
fn drowsy(
    clock: &ManualClock,
    asleep: impl Fn(TimeRange) -> bool + Send + Sync + 'static,
) -> Arc<impl DataFetcher> {
    let clock = clock.clone();
    Arc::new(fetcher_fn(source("fake"), move |request: FetchRequest| {
        let (clock, sleeps) = (clock.clone(), asleep(request.range));
        async move {
            if sleeps {
                clock.sleep(Duration::from_secs(1_000)).await;
            }
            Ok(Fetched::from_batch(sparse_bars(&request.key, &request.range.into())))
        }
    }))
}

#[tokio::test]
async fn a_thousand_holes_are_one_write() {
    let holes: RangeSet = (0..1_000).map(|index| span(index * 20, index * 20 + 1)).collect();
    let store = Store::new();
    let known = RangeSet::from(span(0, 20_000)).difference(&holes);
    store.seed(&btc(), sparse_bars(&btc(), &known)).await;
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let report = Filling::new().run(&fetcher, &store, span(0, 20_000)).await;
    assert_eq!((report.rows_written, report.fetch_requests), (1_000, 1_000));
    assert_eq!(store.writes(), [holes]);
}

#[tokio::test]
async fn rows_are_written_ascending_in_pieces_of_the_wanted_size() {
    let store = Store::new();
    let filling = Filling::new().with_config(|config| config.with_flush_bytes(30 * BAR));
    filling.run(&Arc::new(FakeFetcher::new("fake")), &store, span(0, 100)).await;
    let writes = store.writes();
    assert_eq!(writes, [(0, 30), (30, 60), (60, 90), (90, 100)].map(|(a, b)| RangeSet::from(span(a, b))));
}

#[tokio::test]
async fn a_fill_that_is_stopped_stores_what_has_come_and_tells_exactly_that() {
    let clock = late();
    // Every second window answers at once, the others never.
    let window = |range: TimeRange| range.start().since(bar(&btc(), 0)).as_secs() / 600;
    let fetcher = drowsy(&clock, move |range| window(range) % 2 == 1);
    let (store, stop) = (Arc::new(Store::new()), StopSignal::new());
    let (filling, to, signal) = (Filling::new().with_clock(&clock), Arc::clone(&store), stop.clone());
    let request = BackfillRequest::new(btc(), span(0, 100)).with_stop(signal);
    let strategy = filling.strategy(&fetcher);
    let running = tokio::spawn(async move { strategy.ensure_range(&request, &*to, &NoProgress).await });
    // Five windows of the source sleep, and so does the writer.
    clock.wait_for_sleepers(6).await;
    stop.stop();
    let report = running.await.unwrap().unwrap();
    let came = runs([(0, 10), (20, 30), (40, 50), (60, 70), (80, 90)]);
    assert_eq!((store.present(&btc()).await, report.rows_written), (came.clone(), 50));
    assert_eq!((report.stopped, report.failed.len()), (true, 0));
    assert_eq!(report.missing, RangeSet::from(span(0, 100)).difference(&came));
    assert_eq!(report.coverage.present(), &came);
    assert_eq!(store.coverage_calls.load(Ordering::Relaxed), 2, "the store is asked twice at most");

    // Whoever begins after that does not begin.
    let request = BackfillRequest::new(btc(), span(0, 100)).with_stop(stop);
    let error =
        Filling::new().strategy(&fetcher).ensure_range(&request, &*store, &NoProgress).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(store.coverage_calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_first_rows_wait_a_second_for_others_and_no_longer() {
    let clock = late();
    // The first window answers at once, the second one never.
    let fetcher = drowsy(&clock, |range| range == span(10, 20));
    let store = Arc::new(Store::new());
    let (filling, to) = (Filling::new().with_clock(&clock), Arc::clone(&store));
    let running = tokio::spawn(async move { filling.run(&fetcher, &to, span(0, 20)).await });
    // The source sleeps, and so does the writer.
    clock.wait_for_sleepers(2).await;
    assert!(store.writes().is_empty());
    clock.advance(Duration::from_secs(1));
    while store.writes().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.present(&btc()).await, runs([(0, 10)]));
    clock.advance(Duration::from_secs(999));
    assert_eq!(running.await.unwrap().rows_written, 20);
}

/// A source and a store that count the bytes of rows between them.
fn counted(most: &Arc<AtomicI64>) -> (Arc<FakeFetcher>, Store) {
    let open = Arc::new(AtomicI64::new(0));
    let (given, taken, most) = (Arc::clone(&open), open, Arc::clone(most));
    let bytes = |rows: usize| i64::try_from(rows).unwrap() * 48;
    let fetcher = FakeFetcher::new("fake").with_rows(move |request| {
        let rows = sparse_bars(&request.key, &request.range.into());
        let now = given.fetch_add(bytes(rows.num_rows()), Ordering::SeqCst) + bytes(rows.num_rows());
        most.fetch_max(now, Ordering::SeqCst);
        rows
    });
    let store = Store::failing(move |_, rows| {
        taken.fetch_sub(bytes(rows.num_rows()), Ordering::SeqCst);
        None
    });
    (Arc::new(fetcher), store)
}

#[tokio::test]
async fn rows_in_memory_keep_to_the_budget_whatever_the_range() {
    for (budget, window) in [(64 << 10, 100), (20 << 10, 100), (1, 100), (64 << 10, 5_000)] {
        let most = Arc::new(AtomicI64::new(0));
        let (fetcher, store) = counted(&most);
        let filling =
            Filling::new().with_config(|config| config.with_memory_budget(budget).with_window_bars(window));
        let report = filling.run(&fetcher, &store, span(0, 20_000)).await;
        assert_eq!((report.rows_written, report.is_complete()), (20_000, true));
        // One window may exceed the budget, when it is alone.
        let bound = i64::try_from(budget.max(window * BAR)).unwrap();
        let most = most.load(Ordering::SeqCst);
        assert!(most <= bound, "{most} bytes with a budget of {budget} and windows of {window}");
    }
}

#[tokio::test]
async fn rows_wider_than_thought_pass_through_the_overdraft_one_by_one() {
    // 10 windows of 10 rows of 4 KB each: many times the first estimate, and over the budget. All
    // that may be in flight have been reserved for before the first answer comes.
    let clock = ManualClock::skipping_sleep(bar(&btc(), 100_000));
    let wide = FakeFetcher::new("wide").with_rows(|request| {
        let points: Vec<_> = request.range.points(request.key.interval).collect();
        let text: StringArray = points.iter().map(|_| Some("x".repeat(4_096))).collect();
        batch(&points, [("note", Arc::new(text) as _)])
    });
    let fetcher = Arc::new(wide.with_latency(Arc::new(clock), Duration::from_secs(1)));
    let store = Store::new();
    let filling = Filling::new().with_config(|config| config.with_memory_budget(50 << 10));
    let report = filling.run(&fetcher, &store, span(0, 100)).await;
    assert_eq!((report.rows_written, report.is_complete()), (100, true));
    // One window within the budget and one over it.
    assert!(store.writes().iter().all(|rows| rows.count(btc().interval) <= 20), "{:?}", store.writes());
    assert_eq!(fetcher.max_in_flight(), 8);
}

#[tokio::test]
async fn what_a_window_did_not_need_of_its_reservation_is_given_back() {
    // Each window takes two fifths of the budget before it is known to have a single bar.
    let fetcher =
        FakeFetcher::new("sparse").with_bars_in((0..20).map(|i| span(i * 1_000, i * 1_000 + 1)).collect());
    let store = Store::new();
    let filling = Filling::new().with_config(|config| {
        config.with_windows_in_flight(1).with_window_bars(1_000).with_memory_budget(150 << 10)
    });
    filling.run(&Arc::new(fetcher), &store, span(0, 20_000)).await;
    assert_eq!(store.writes().len(), 1);
}

#[tokio::test]
async fn a_single_bar_does_not_keep_the_sources_file_in_memory() {
    let store = Store::failing(|_, rows| {
        let held: usize = rows.columns().iter().map(|column| column.get_array_memory_size()).sum();
        (held > 10_000).then(|| Error::schema(format!("{held} bytes for {} rows", rows.num_rows())))
    });
    let fetcher = Arc::new(FakeFetcher::new("fake").with_batch(bars(&btc(), bar(&btc(), 0), 10_000)));
    let report = Filling::new().run(&fetcher, &store, span(5_000, 5_001)).await;
    assert_eq!(failures(&report), []);
}

#[tokio::test]
async fn a_row_that_the_store_cannot_hold_does_not_take_other_windows_with_it() {
    let store = Store::failing(|_, rows| {
        holds(rows, 25).then(|| Error::schema("NaN cannot be held").with("column", "close"))
    });
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let report = Filling::new().run(&fetcher, &store, span(0, 50)).await;
    assert_eq!((report.rows_written, &report.missing), (40, &runs([(20, 30)])));
    assert_eq!(
        failures(&report),
        [(span(20, 30), "NaN cannot be held (column: close, rows: 10)".to_owned())]
    );
}

#[tokio::test]
async fn a_full_store_ends_the_asking_and_every_window_says_why() {
    let full = || Error::new(ErrorKind::Storage, "no space left").with("path", "store/1.parquet");
    let store = Store::failing(move |number, _| (number >= 1).then(full));
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let filling =
        Filling::new().with_config(|config| config.with_windows_in_flight(1).with_flush_bytes(20 * BAR));
    let report = filling.run(&fetcher, &store, span(0, 10_000)).await;
    assert!(fetcher.requests().len() < 20, "{} requests after the disk was full", fetcher.requests().len());
    assert_eq!(report.rows_written, 20, "what was stored before stays");
    assert_eq!(report.missing, runs([(20, 10_000)]));
    assert_eq!((report.failed.len(), report.failed[0].0), (1, span(20, 10_000)));
    let text = report.failed[0].1.to_string();
    assert!(text.starts_with("no space left (path: store/1.parquet"), "{text}");
}

#[tokio::test]
async fn what_a_failed_write_stored_nevertheless_is_counted() {
    let store = Store::failing(|_, _| Some(Error::new(ErrorKind::Storage, "the disk is full")));
    store.seed(&btc(), sparse_bars(&btc(), &span(0, 2).into())).await;
    store.torn_after.store(5, Ordering::Relaxed);
    let report = Filling::new().run(&Arc::new(FakeFetcher::new("fake")), &store, span(0, 20)).await;
    assert_eq!(report.rows_written, 5);
    assert_eq!(report.filled, [(source("fake"), RangeSet::from(span(2, 7)))]);
    assert_eq!(report.missing, span(7, 20).into());
    assert_eq!(failures(&report).len(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_for_one_write_fails_that_one_and_three_in_a_row_end_the_run() {
    let flush =
        |config: qmtl_backfill::BackfillConfig| config.with_windows_in_flight(1).with_flush_bytes(10 * BAR);
    let away = || Error::unavailable("connection refused");
    let once = Store::failing(move |number, _| (number == 2).then(away));
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let report = Filling::new().with_config(flush).run(&fetcher, &once, span(0, 100)).await;
    assert_eq!((report.rows_written, &report.missing), (90, &runs([(20, 30)])));

    let gone = Store::failing(move |number, _| (number >= 2).then(away));
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let report = Filling::new().with_config(flush).run(&fetcher, &gone, span(0, 1_000)).await;
    assert_eq!((report.rows_written, gone.writes().len()), (20, 5));
    assert!(fetcher.requests().len() < 20, "{}", fetcher.requests().len());
    assert_eq!((report.failed.len(), report.failed[0].0), (1, span(20, 1_000)));
}

#[tokio::test]
async fn a_report_survives_a_store_that_goes_away_at_the_end() {
    let store = Arc::new(Store::new());
    let fetcher = {
        let store = Arc::clone(&store);
        Arc::new(FakeFetcher::new("fake").with_bars_in(runs([(0, 15)])).with_failures(move |_, request| {
            store.coverage_is_down.store(true, Ordering::Relaxed);
            (request.range == span(20, 30)).then(|| Error::unavailable("reset"))
        }))
    };
    let report = Filling::new().run(&fetcher, &store, span(0, 30)).await;
    assert_eq!(report.rows_written, 15);
    assert_eq!((report.known_empty, report.missing), (runs([(15, 20)]), runs([(20, 30)])));
}

#[tokio::test]
async fn rows_that_somebody_else_wrote_meanwhile_are_kept_and_counted() {
    // Somebody writes some bars after the plan was made; the source has only the first eight.
    let store = Arc::new(Store::new());
    let other = Arc::clone(&store);
    let fetcher = Arc::new(fetcher_fn(source("fake"), move |request: FetchRequest| {
        let other = Arc::clone(&other);
        async move {
            other.seed(&btc(), sparse_bars(&btc(), &runs([(3, 6), (8, 10)]))).await;
            let rows = sparse_bars(&request.key, &span(0, 8).into());
            Ok(Fetched::from_batch(rows).with_proven(request.range.into(), "no row in the answer"))
        }
    }));
    let report = Filling::new().run(&fetcher, &store, span(0, 10)).await;
    assert_eq!((report.rows_written, report.rows_kept_out), (5, 3));
    assert!(report.known_empty.is_empty(), "somebody knew of bars that the source did not have");
    assert!(report.is_complete());
}
