//! Several sources in order: each is asked for what those before it did not give.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qmtl_backfill::BackfillConfig;
use qmtl_history_api::arrow_array::{RecordBatch, TimestampMicrosecondArray};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, BatchStream, Clock, DataFetcher, Error, ErrorKind,
    FetchLimits, FetchRequest, Fetched, HistoryBackend, NoProgress, ProgressEvent, RangeSet, Result, Retry,
    SourceId, TimeRange, async_trait, fetcher_fn, frame,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, sparse_bars};

use super::support::{Events, Filling, Store, btc, failures, late, runs, span};

fn having<const N: usize>(id: &str, bars: [(u32, u32); N]) -> FakeFetcher {
    FakeFetcher::new(id).with_bars_in(runs(bars))
}

fn asked(fetcher: &FakeFetcher) -> Vec<TimeRange> {
    let mut ranges: Vec<_> = fetcher.requests().into_iter().map(|request| request.range).collect();
    ranges.sort_unstable_by_key(|range| range.start());
    ranges
}

fn filled(report: &BackfillReport) -> Vec<(&str, RangeSet)> {
    report.filled.iter().map(|(source, ranges)| (source.as_str(), ranges.clone())).collect()
}

async fn fill(sources: [&Arc<FakeFetcher>; 2], store: &Store, range: TimeRange) -> BackfillReport {
    let [first, second] = sources;
    let strategy = Filling::new().strategy(first).then(Arc::<FakeFetcher>::clone(second));
    strategy.ensure_range(&BackfillRequest::new(btc(), range), store, &NoProgress).await.unwrap()
}

#[tokio::test]
async fn the_second_gives_what_the_first_cannot_and_the_report_says_who_gave_what() {
    let store = Store::new();
    let archive = Arc::new(
        having("archive", [(0, 14)]).with_proven(|request| RangeSet::from(request.range).within(span(0, 16))),
    );
    let rest = Arc::new(having("rest", [(4, 15), (18, 30)]));
    let report = fill([&archive, &rest], &store, span(0, 30)).await;
    assert_eq!(filled(&report), [("archive", runs([(0, 14)])), ("rest", runs([(14, 15), (18, 30)]))]);
    assert_eq!(asked(&rest), [span(14, 20), span(20, 30)], "only what the archive did not give");
    // The archive proved 14 and 15, the exchange 15 to 18: both have said so of 15 alone.
    assert_eq!(report.missing, runs([(16, 18)]));
    let coverage = store.coverage(&btc(), span(0, 30)).await.unwrap();
    let of = |id: &str| coverage.empty_by_all(&[SourceId::new(id).unwrap()], late().now());
    assert_eq!((of("archive"), of("rest")), (runs([(15, 16)]), runs([(15, 18)])));

    // Again: the exchange has said all that it can say, the archive has not.
    let (archive_before, rest_before) = (asked(&archive).len(), asked(&rest).len());
    fill([&archive, &rest], &store, span(0, 30)).await;
    assert_eq!(
        archive.requests()[archive_before..].iter().map(|r| r.range).collect::<Vec<_>>(),
        [span(16, 18)]
    );
    assert_eq!(asked(&rest).len(), rest_before);
}

#[tokio::test]
async fn rows_of_two_sources_in_one_window_are_written_in_order() {
    let store = Store::new();
    let odd = Arc::new(having("odd", [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]));
    let even = Arc::new(FakeFetcher::new("even"));
    let report = fill([&odd, &even], &store, span(0, 10)).await;
    assert!(report.is_complete());
    assert_eq!((report.rows_written, store.writes()), (10, vec![runs([(0, 10)])]));
    assert_eq!(asked(&even).len(), 5);
}

#[tokio::test]
async fn a_source_that_fails_is_replaced_by_the_next_and_told_only_where_nobody_else_had_rows() {
    let store = Store::new();
    let down =
        Arc::new(FakeFetcher::new("down").with_failures(|_, _| Some(Error::unavailable("it is down"))));
    let other = Arc::new(having("other", [(0, 12)]));
    let report = fill([&down, &other], &store, span(0, 20)).await;
    assert_eq!(filled(&report), [("other", runs([(0, 12)]))]);
    // Of 12 to 20 the first source has still to say whether it has rows.
    let [(range, error)] = &failures(&report)[..] else { panic!("{:?}", report.failed) };
    assert!(error.contains("it is down") && range.end() == span(0, 20).end(), "{range}: {error}");
    assert_eq!(report.missing, runs([(12, 20)]));
}

#[tokio::test]
async fn a_source_that_does_not_know_the_series_is_asked_once_and_the_others_go_on() {
    let store = Store::new();
    let unknown = Error::new(ErrorKind::NotFound, "no such symbol");
    let first = Arc::new(FakeFetcher::new("first").with_failures(move |_, _| Some(unknown.clone())));
    let second = Arc::new(FakeFetcher::new("second"));
    let filling = Filling::new().with_config(|config| config.with_windows_in_flight(1));
    let strategy = filling.strategy(&first).then(Arc::<FakeFetcher>::clone(&second));
    let request = BackfillRequest::new(btc(), span(0, 100));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((asked(&first).len(), asked(&second).len()), (1, 10));
}

#[tokio::test]
async fn rows_in_doubt_of_one_source_do_not_take_those_of_another_with_them() {
    let store = Store::new();
    let good = Arc::new(having("good", [(0, 5)]));
    let seconds = sparse_bars(&btc(), &runs([(5, 10)]));
    let bad = Arc::new(FakeFetcher::new("bad").with_rows(move |_| {
        let shrunk = frame::timestamps(&seconds).unwrap().values().iter().map(|micros| micros / 1_000);
        let shrunk = TimestampMicrosecondArray::from_iter_values(shrunk);
        let mut columns = seconds.columns().to_vec();
        columns[0] = Arc::new(shrunk.with_timezone("UTC"));
        RecordBatch::try_new(seconds.schema(), columns).unwrap()
    }));
    let report = fill([&good, &bad], &store, span(0, 10)).await;
    assert_eq!(store.present(&btc()).await, runs([(0, 5)]));
    assert_eq!(report.failed[0].1.kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn a_stand_in_is_asked_first_and_decides_nothing() {
    let store = Store::new();
    let archive = Arc::new(having("archive", [(0, 8), (20, 25)]).with_failures(|_, request| {
        (request.range.start() >= span(30, 31).start()).then(|| Error::unavailable("down"))
    }));
    let exchange = Arc::new(having("exchange", [(0, 12), (20, 39)]));
    let strategy = Filling::new().strategy(&exchange).with_stand_in(Arc::<FakeFetcher>::clone(&archive));
    assert_eq!(strategy.sources(), [SourceId::new("exchange").unwrap()]);
    let request = BackfillRequest::new(btc(), span(0, 40));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert_eq!(
        filled(&report),
        [("archive", runs([(0, 8), (20, 25)])), ("exchange", runs([(8, 12), (25, 39)]))]
    );
    // What the archive lacks and what it failed at, the exchange has spoken for.
    assert!(report.is_complete(), "{report:?}");
    let requests = (archive.requests().len(), exchange.requests().len());
    strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert_eq!((archive.requests().len(), exchange.requests().len()), requests, "nothing is asked twice");
}

#[tokio::test]
async fn a_source_is_told_by_when_the_series_had_begun_as_far_as_the_store_knows() {
    let begun = |fetcher: &FakeFetcher| fetcher.requests().last().unwrap().begun_by;
    let at = |bar: u32| Some(span(bar, bar + 1).start());
    let run = async |sources: [&Arc<FakeFetcher>; 2], store: &Store, range| {
        let [stand_in, decides] = sources;
        let strategy = Filling::new().strategy(decides).with_stand_in(Arc::<FakeFetcher>::clone(stand_in));
        strategy.ensure_range(&BackfillRequest::new(btc(), range), store, &NoProgress).await.unwrap();
        (begun(stand_in), begun(decides))
    };
    let empty = || Arc::new(having("empty", []));
    let store = Store::new();
    let one = Arc::new(having("one", [(30, 100)]).with_proven(|_| RangeSet::new()));
    assert_eq!(run([&empty(), &one], &store, span(30, 40)).await, (None, None));
    // By a row before the gap, in the range or shortly before it; and by one after it.
    assert_eq!(run([&empty(), &one], &store, span(30, 50)).await, (at(30), at(30)));
    assert_eq!(run([&empty(), &one], &store, span(70, 80)).await, (at(30), at(30)));
    assert_eq!(run([&empty(), &one], &store, span(0, 40)).await, (at(30), at(30)));
    assert_eq!(run([&empty(), &one], &store, span(2_000, 2_010)).await, (None, None));

    // A proof speaks for its own source alone, and so does a row where several give them.
    let [first, second] = ["first", "second"].map(|id| Arc::new(having(id, [(5, 10)])));
    fill([&first, &second], &store, span(105, 110)).await;
    fill([&first, &one], &store, span(105, 120)).await;
    assert_eq!((begun(&first), begun(&one)), (at(105), None));
}

#[tokio::test]
async fn a_plan_says_the_most_that_each_source_is_asked() {
    let limited = |id: &str, rows, rate, burst| {
        let limits = FetchLimits::none().with_max_rows(rows).with_weight(2);
        FakeFetcher::new(id).with_limits(limits.with_requests_per_second(rate).with_burst(burst))
    };
    let first = Arc::new(limited("first", 10, 1.0, 4));
    let second = Arc::new(limited("second", 3, 100.0, 0));
    let store = Store::new();
    let strategy = Filling::new().strategy(&first).then(Arc::<FakeFetcher>::clone(&second));
    let plan = strategy.plan(&BackfillRequest::new(btc(), span(0, 100)), &store).await.unwrap();
    let demands: Vec<_> =
        plan.demands().iter().map(|d| (d.source.as_str(), d.requests, d.weight, d.paced)).collect();
    assert_eq!(
        demands,
        [("first", 10, 20, Duration::from_secs(6)), ("second", 40, 80, Duration::from_millis(400))]
    );
    assert_eq!((plan.request_count(), plan.weight()), (50, 100));
    assert_eq!(plan.estimated_time(8, Duration::from_millis(100)), Duration::from_millis(6_500));
    fill([&first, &second], &store, span(0, 100)).await;
    assert_eq!((asked(&first).len(), asked(&second).len()), (10, 0));
}

/// Makes every request three times.
#[derive(Debug)]
struct Stubborn;

#[async_trait]
impl DataFetcher for Stubborn {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let sink = request.retries.as_ref().unwrap();
        sink.on_retry(request.range, Retry::new(1, Duration::from_secs(1), "timeout"));
        sink.on_retry(request.range, Retry::new(2, Duration::from_secs(2), "banned"));
        let rows = sparse_bars(&request.key, &request.range.into());
        Ok(Fetched::from_batch(rows).with_proven(request.range.into(), "answered"))
    }

    fn source_id(&self) -> SourceId {
        SourceId::new("stubborn").unwrap()
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits::none()
    }
}

#[tokio::test]
async fn retries_are_told_as_they_come_and_counted_by_reason() {
    let (store, events) = (Store::new(), Arc::new(Events::default()));
    let report = Filling::new().with_progress(&events).run(&Arc::new(Stubborn), &store, span(0, 20)).await;
    assert_eq!(report.retry_reasons.into_iter().collect::<Vec<_>>(), [("banned", 2), ("timeout", 2)]);
    assert_eq!((report.retries, report.fetch_requests), (4, 6));
    let events = events.0.lock().unwrap();
    let told = events.iter().filter_map(|event| match event {
        ProgressEvent::Retrying { window, retry, .. } => Some((*window, retry.attempt, retry.reason)),
        _ => None,
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(window, attempt, _)| (window.start(), *attempt));
    let expected = [(0, 1, "timeout"), (0, 2, "banned"), (10, 1, "timeout"), (10, 2, "banned")];
    assert_eq!(told, expected.map(|(at, attempt, why)| (span(at, at + 10), attempt, why)));
}

/// Answers at once for the first window and never for the others.
fn hanging() -> Arc<impl DataFetcher> {
    let hangs_from = span(10, 11).start();
    Arc::new(fetcher_fn(SourceId::new("hanging").unwrap(), move |request: FetchRequest| async move {
        if request.range.start() >= hangs_from {
            std::future::pending::<()>().await;
        }
        let rows = sparse_bars(&request.key, &request.range.into());
        Ok(Fetched::new(BatchStream::from_batches(rows.schema(), vec![rows])))
    }))
}

/// Fills five windows, two at a time, of which four hang, and lets time pass only when two of them
/// wait for nothing else.
async fn run_out(limit: fn(BackfillConfig, Duration) -> BackfillConfig) -> (BackfillReport, Duration) {
    let (store, clock) = (Store::new(), late());
    let filling = Filling::new().with_clock(&clock).with_config(|config| {
        limit(config.with_windows_in_flight(2).with_flush_after(Duration::ZERO), Duration::from_secs(60))
    });
    let started = clock.monotonic();
    let source = hanging();
    let run = filling.run(&source, &store, span(0, 50));
    let report = tokio::select! {
        report = run => report,
        () = async { loop { clock.wait_for_sleepers(2).await; clock.advance(Duration::from_secs(60)); } } => unreachable!(),
    };
    (report, clock.monotonic() - started)
}

#[tokio::test]
async fn a_run_ends_at_its_deadline_and_says_what_it_did_not_come_to() {
    let (report, took) = run_out(|config, longest| config.with_deadline(longest)).await;
    assert_eq!(report.missing, runs([(10, 50)]));
    assert_eq!(report.rows_written, 10);
    let [(range, error)] = &report.failed[..] else { panic!("{:?}", report.failed) };
    assert_eq!(*range, span(10, 50));
    assert!(error.to_string().contains("(limit: deadline, windows: 4)"), "{error}");
    assert!(error.is_exhausted(), "{error:?}");
    assert_eq!(took, Duration::from_secs(60));
}

#[tokio::test]
async fn windows_that_are_not_begun_in_time_fail_as_one_however_many_they_are() {
    let (store, clock) = (Store::new(), late());
    // Only the first of a hundred thousand windows of one bar has its turn.
    let filling = Filling::new().with_clock(&clock).with_config(|config| {
        config.with_window_bars(1).with_windows_in_flight(1).with_deadline(Duration::from_secs(60))
    });
    let begun = Arc::new(AtomicU64::new(0));
    let slow = {
        let (clock, begun) = (clock.clone(), Arc::clone(&begun));
        Arc::new(fetcher_fn(SourceId::new("slow").unwrap(), move |request: FetchRequest| {
            begun.fetch_add(1, Ordering::Relaxed);
            clock.advance(Duration::from_secs(61));
            async move {
                let rows = sparse_bars(&request.key, &request.range.into());
                Ok(Fetched::new(BatchStream::from_batches(rows.schema(), vec![rows])))
            }
        }))
    };
    let report = filling.run(&slow, &store, span(0, 100_000)).await;
    let [(range, error)] = &report.failed[..] else { panic!("{:?}", report.failed.len()) };
    assert_eq!(*range, span(1, 100_000));
    assert!(error.to_string().contains("(limit: deadline, windows: 99999)"), "{error}");
    assert_eq!((report.rows_written, begun.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_a_run_at_its_deadline() {
    let clock = late();
    let filling =
        Filling::new().with_clock(&clock).with_config(|config| config.with_deadline(Duration::from_secs(5)));
    let (store, source) = (Store::new(), hanging());
    store.coverage_hangs.store(true, Ordering::Relaxed);
    let (strategy, request) = (filling.strategy(&source), BackfillRequest::new(btc(), span(0, 10)));
    let pass = async {
        clock.wait_for_sleepers(1).await;
        clock.advance(Duration::from_secs(5));
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        run = strategy.ensure_range(&request, &store, &NoProgress) => run.unwrap_err(),
        () = pass => unreachable!(),
    };
    assert!(error.message().starts_with("the deadline passed"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_window_ends_at_its_deadline_and_makes_room_for_the_next() {
    let (report, took) = run_out(|config, longest| config.with_window_deadline(longest)).await;
    assert_eq!((report.rows_written, report.failed.len()), (10, 1));
    assert!(report.failed[0].1.to_string().contains("limit: window_deadline"), "{:?}", report.failed);
    assert_eq!(took, Duration::from_secs(120), "two after two");
}
