//! What a predecessor of this system got wrong about warm-up, caches and the engine: one test a
//! mistake, through the public API, each of which its behaviour would fail. Then faults of input.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::metrics::with_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use qmtl_backfill::{AugmentedHistoryProvider, FetcherBackfillStrategy};
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    BatchStream, Clock, Error, HistoryBackend, HistoryProvider, RangeSet, ReadRequest, Result, TimeRange,
    Timestamp, WriteRequest, frame, provider_fn,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, bars, batch, key, secs, span};
use qmtl_io_memory::MemoryBackend;

use crate::testing::passing_time;
use crate::{
    Appended, BackfillEngine, BackfillJob, ComputeNode, EngineConfig, NodeCache, Runner, SharedCache,
    Strategy, StreamInput, WarmupConfig, WarmupReport, warm_up,
};

const ID: &str = "ohlcv:binance:BTC/USDT:1m";

fn minute(index: u32) -> Timestamp {
    bar(&key(ID, "1m"), index)
}

/// A clock in the middle of the bar that is forming.
fn forming(index: u32) -> ManualClock {
    ManualClock::new(minute(index).checked_add(Duration::from_secs(30)).unwrap())
}

fn input(period: usize, clock: &ManualClock, history: impl HistoryProvider) -> StreamInput {
    let builder = StreamInput::builder(ID).interval("1m").period(period);
    builder.history_provider(history).clock(clock.clone()).build().unwrap()
}

fn filling(
    store: &Arc<MemoryBackend>,
    clock: &ManualClock,
    fetcher: Arc<FakeFetcher>,
) -> impl HistoryProvider {
    let strategy = FetcherBackfillStrategy::new(fetcher).with_clock(Arc::new(clock.clone()));
    AugmentedHistoryProvider::new(Arc::clone(store)).with_auto_backfill(strategy).with_clock(clock.clone())
}

async fn primed(stream: &StreamInput, clock: &ManualClock, deadline: u64) -> WarmupReport {
    let config = WarmupConfig::default().with_deadline(Duration::from_secs(deadline)).with_world("w");
    passing_time(clock, warm_up(std::slice::from_ref(stream), &config)).await.unwrap()
}

/// Everything recorded: `name{labels}` to a counter, a gauge or the values of a histogram.
fn recorded<F: Future<Output = ()>>(test: F) -> BTreeMap<String, Vec<f64>> {
    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    with_local_recorder(&recorder, || runtime.block_on(test));
    let entries = recorder.snapshotter().snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let values = match value {
            DebugValue::Counter(count) => vec![f64::from(u32::try_from(count).unwrap())],
            DebugValue::Gauge(value) => vec![*value],
            DebugValue::Histogram(values) => values.into_iter().map(|value| *value).collect(),
        };
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), values)
    });
    entries.collect()
}

#[tokio::test]
async fn warm_up_loads_period_minus_one_bars_and_stores_the_forming_one() {
    let (clock, store) = (forming(300), Arc::new(MemoryBackend::new()));
    let stream = input(200, &clock, filling(&store, &clock, Arc::new(FakeFetcher::new("exchange"))));
    let report = primed(&stream, &clock, 60).await;
    let found = &report.inputs[0];
    assert_eq!((found.bars, found.first, found.last), (200, Some(minute(100)), Some(minute(299))));
    let stored = store.coverage(stream.key(), TimeRange::ALL).await.unwrap();
    assert_eq!(stored.present(), &span(stream.key(), 100, 300).into());
}

#[tokio::test]
async fn the_first_backfill_into_an_empty_store_crashes() {
    let (clock, store) = (forming(10), Arc::new(MemoryBackend::new()));
    let stream = input(5, &clock, filling(&store, &clock, Arc::new(FakeFetcher::new("exchange"))));
    assert!(store.revision(stream.key()).await.unwrap().is_none());
    assert!(primed(&stream, &clock, 60).await.is_ready());
}

#[tokio::test]
async fn a_gap_that_cannot_be_filled_is_asked_for_without_a_pause() {
    let clock = forming(100);
    let calls = Arc::new(Mutex::new(Vec::<Duration>::new()));
    let poor = FakeFetcher::new("poor").with_proven(|_| RangeSet::new()).with_rows({
        let (calls, clock) = (Arc::clone(&calls), clock.clone());
        move |_| {
            calls.lock().unwrap().push(clock.monotonic());
            RecordBatch::new_empty(frame::schema_of([("close", DataType::Float64)]))
        }
    });
    let stream = input(5, &clock, filling(&Arc::default(), &clock, Arc::new(poor)));
    let report = primed(&stream, &clock, 20).await;
    assert!(!report.is_ready());
    let calls = calls.lock().unwrap();
    assert!((3..=200).contains(&calls.len()), "{} calls in 20 s", calls.len());
    let busiest = calls
        .iter()
        .map(|at| calls.iter().filter(|other| (*at..*at + Duration::from_secs(1)).contains(other)).count());
    assert!(busiest.max().unwrap() <= 10);
}

#[tokio::test]
async fn empty_ranges_are_fetched_again_on_every_read() {
    let (clock, store) = (forming(20_000), Arc::new(MemoryBackend::new()));
    let even = FakeFetcher::new("even").with_rows(|request| {
        let points: Vec<_> =
            request.range.points(request.key.interval).filter(|ts| ts.as_secs() / 60 % 2 == 0).collect();
        let closes = Float64Array::from(vec![1.0; points.len()]);
        batch(&points, [("close", Arc::new(closes) as ArrayRef)])
    });
    let even = Arc::new(even.punctual());
    for round in 1..=3 {
        let stream = input(100, &clock, filling(&store, &clock, Arc::clone(&even)));
        assert!(primed(&stream, &clock, 60).await.is_ready());
        assert_eq!(stream.cache().read(NodeCache::len), 100);
        assert_eq!(even.requests().len(), 2, "round {round}: the period, and as much before it");
    }
}

#[test]
fn jobs_in_progress_stay_up_after_a_cancel_and_a_panic() {
    let metrics = recorded(async {
        let clock = ManualClock::new(minute(100));
        let engine = BackfillEngine::new().with_clock(Arc::new(clock.clone()));
        let cache = || SharedCache::new(NodeCache::new(key(ID, "1m"), 10).unwrap());
        let hanging = Arc::new(provider_fn(|_: ReadRequest| std::future::pending::<Result<BatchStream>>()));
        let handle = engine.submit(BackfillJob::new(cache(), hanging, span(&key(ID, "1m"), 0, 10)));
        tokio::task::yield_now().await;
        handle.cancel();
        let panicking = Arc::new(provider_fn(|_: ReadRequest| async { panic!("a provider's bug") }));
        engine.submit(BackfillJob::new(cache(), panicking, span(&key(ID, "1m"), 0, 10)));
        let outcomes = engine.wait().await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.result.is_err()).count(), 2);
    });
    assert_eq!(metrics["backfill_jobs_in_progress{}"], [0.0]);
}

#[tokio::test]
async fn retries_have_no_delay() {
    let clock = ManualClock::skipping_sleep(minute(100));
    let engine = BackfillEngine::new()
        .with_clock(Arc::new(clock.clone()))
        .with_config(EngineConfig::default().with_retry_delay(Duration::from_millis(500)));
    let failing = Arc::new(provider_fn(|_: ReadRequest| async { Err(Error::unavailable("down")) }));
    let cache = SharedCache::new(NodeCache::new(key(ID, "1m"), 10).unwrap());
    engine.submit(BackfillJob::new(cache, failing, span(&key(ID, "1m"), 0, 10)));
    let outcome = engine.wait().await.remove(0);
    assert_eq!(outcome.attempts, 4, "the first try and three retries");
    assert_eq!(clock.monotonic(), Duration::from_millis(500 + 1_000 + 2_000));
}

#[tokio::test]
async fn a_failure_loses_the_count_of_what_was_loaded_before() {
    let clock = ManualClock::new(minute(100));
    let rows = bars(&key(ID, "1m"), minute(0), 30);
    let breaking = Arc::new(provider_fn(move |_: ReadRequest| {
        let (schema, rows) = (rows.schema(), rows.clone());
        async move {
            let broken = Error::invalid("the second half is gone");
            Ok(BatchStream::new(schema, Box::pin(futures::stream::iter([Ok(rows), Err(broken)]))))
        }
    }));
    let cache = SharedCache::new(NodeCache::new(key(ID, "1m"), 60).unwrap());
    let engine = BackfillEngine::new().with_clock(Arc::new(clock));
    engine.submit(BackfillJob::new(cache.clone(), breaking, span(&key(ID, "1m"), 0, 60)));
    let outcome = engine.wait().await.remove(0);
    assert!(outcome.result.is_err());
    assert_eq!((outcome.rows_added, cache.read(NodeCache::len)), (30, 30));
}

#[tokio::test]
async fn the_state_of_finished_ranges_is_never_consulted() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let history = provider_fn(move |request: ReadRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        let rows = bars(&request.key, request.range.start(), 50);
        async move { Ok(BatchStream::from_batches(rows.schema(), vec![rows])) }
    });
    let stream = input(50, &ManualClock::new(minute(100)), history);
    for _ in 0..3 {
        stream.load_history(minute(50), minute(100)).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    stream.cache().write(NodeCache::clear);
    stream.load_history(minute(50), minute(100)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2, "nor does the state outlive the rows");
}

#[test]
fn late_appends_break_the_order_of_the_cache() {
    let mut cache = NodeCache::new(key(ID, "1m"), 10).unwrap();
    let live = |index| bars(&key(ID, "1m"), minute(index), 1);
    for index in [5, 7, 6, 3] {
        cache.append(minute(index), &live(index)).unwrap();
    }
    assert_eq!(cache.append(minute(6), &live(6)).unwrap(), Appended::Duplicate);
    assert_eq!(cache.view().timestamps(), [3, 5, 6, 7].map(minute));
}

#[test]
fn ids_with_colons_break_labels_and_nothing_says_when_a_node_was_ready() {
    let metrics = recorded(async {
        let (clock, store) = (forming(100), Arc::new(MemoryBackend::new()));
        let stream = input(20, &clock, filling(&store, &clock, Arc::new(FakeFetcher::new("exchange"))));
        assert!(primed(&stream, &clock, 60).await.is_ready());
    });
    let series = format!("node_id={ID},interval=60");
    assert_eq!(metrics[&format!("warmup_ready_nodes_total{{node_id={ID}}}")], [1.0]);
    assert_eq!(metrics[&format!("warmup_ready_duration_ms{{node_id={ID}}}")].len(), 1);
    assert_eq!(metrics[&format!("gap_repair_latency_ms{{{series},world_id=w}}")].len(), 1);
    assert_eq!(metrics[&format!("coverage_ratio{{{series},world_id=w}}")], [1.0]);
    let ratios = metrics.keys().filter(|name| name.starts_with("coverage_ratio"));
    assert_eq!(ratios.count(), 1, "a warm-up and the fill that it asks for have one label");
    assert!(metrics[&format!("nodecache_resident_bytes{{{series}}}")][0] >= 20.0 * 48.0);
}

#[test]
fn the_age_of_the_newest_live_bar_is_reported() {
    let metrics = recorded(async {
        let clock = forming(100);
        let stream =
            input(5, &clock, filling(&Arc::default(), &clock, Arc::new(FakeFetcher::new("exchange"))));
        let strategy = Strategy::builder().input(stream).build().unwrap();
        let (sender, mut live) = crate::live_channel(1);
        let run = async {
            let config = WarmupConfig::default().with_world("w");
            Runner::new().with_warmup(config).follow(strategy, &mut live).await.unwrap();
        };
        let end = async {
            // No bar comes for a minute.
            let started = clock.monotonic();
            while clock.monotonic() < started + Duration::from_secs(60) {
                tokio::task::yield_now().await;
            }
            drop(sender);
        };
        passing_time(&clock, async { tokio::join!(run, end) }).await;
    });
    let age = metrics[&format!("live_staleness_seconds{{node_id={ID},interval=60,world_id=w}}")][0];
    assert!((85.0..=95.0).contains(&age), "bar 99 closed 30 s before the start: {age}");
}

#[tokio::test]
async fn rows_of_another_schema_are_refused_by_name_and_the_others_go_on() {
    let (clock, store) = (forming(100), Arc::new(MemoryBackend::new()));
    let whole = |points: &[Timestamp]| {
        let closes = Int64Array::from(vec![1; points.len()]);
        batch(points, [("close", Arc::new(closes) as ArrayRef)])
    };
    let points: Vec<_> = (80..100).map(minute).collect();
    store.write_rows(&WriteRequest::new(key("whole", "1m")), whole(&points)).await.unwrap();
    store
        .write_rows(&WriteRequest::new(key("double", "1m")), bars(&key("double", "1m"), minute(80), 20))
        .await
        .unwrap();
    let declared = || frame::schema_of([("close", DataType::Float64)]).as_ref().clone();
    let inputs = ["whole", "double"].map(|id| {
        let builder = StreamInput::builder(id).interval("1m").period(20).schema(declared());
        builder.backend(Arc::clone(&store)).clock(clock.clone()).build().unwrap()
    });
    let report = passing_time(&clock, warm_up(&inputs, &WarmupConfig::default())).await.unwrap();
    let error = report.inputs[0].error.as_ref().unwrap();
    assert_eq!(
        error.to_string(),
        "the cache holds this column with another type (node_id: whole, interval: 1m, column: close, cached: Float64, given: Int64)"
    );
    assert!(!report.inputs[0].ready && report.inputs[1].ready);
}

#[tokio::test]
async fn bars_of_another_interval_do_not_make_ready() {
    let clock = forming(100);
    // Bars of five minutes, served for an input of one.
    let coarse = provider_fn(|request: ReadRequest| async move {
        let points: Vec<_> = request.range.points("5m".parse()?).collect();
        let closes = Float64Array::from(vec![1.0; points.len()]);
        let rows = batch(&points, [("close", Arc::new(closes) as ArrayRef)]);
        Ok(BatchStream::from_batches(rows.schema(), vec![rows]))
    });
    let stream = input(50, &clock, coarse);
    let report = primed(&stream, &clock, 5).await;
    assert!(!report.is_ready());
    assert_eq!((report.inputs[0].bars, report.inputs[0].missing.count(stream.key().interval)), (10, 40));
}

#[tokio::test]
async fn inputs_of_several_intervals_are_replayed_in_the_order_of_time() {
    let clock = ManualClock::new(secs(1_704_067_200 + 3_600));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut builder = Strategy::builder();
    for interval in ["1m", "5m"] {
        let stream = StreamInput::builder("btc").interval(interval).period(6).backend(MemoryBackend::new());
        let stream = stream.fetcher(FakeFetcher::new("exchange")).clock(clock.clone()).build().unwrap();
        let seen = Arc::clone(&order);
        let node = ComputeNode::slices(format!("log {interval}").parse().unwrap(), 1, move |windows| {
            seen.lock().unwrap().push((windows.ts(), interval));
            0.0
        });
        let node = node.reads(&stream, "close");
        builder = builder.input(stream).node(node);
    }
    let session = passing_time(&clock, Runner::offline(builder.build().unwrap())).await.unwrap();
    assert_eq!(session.replayed.bars, 12);
    let mut log = order.lock().unwrap().clone();
    // Nodes run over many bars at a time; what each sees is ascending.
    log.sort_by_key(|(_, interval)| *interval);
    assert!(log.chunk_by(|a, b| a.1 == b.1).all(|one| one.len() == 6 && one.is_sorted()));
}

#[tokio::test]
async fn a_wall_clock_that_jumps_loses_no_bar_and_brings_no_forming_one() {
    let clock = forming(100);
    let store = Arc::new(MemoryBackend::new());
    let stream = input(20, &clock, filling(&store, &clock, Arc::new(FakeFetcher::new("exchange"))));
    assert!(primed(&stream, &clock, 60).await.is_ready());
    // Back by 50 bars: what is there stays, and nothing is loaded again.
    clock.set(minute(50));
    let back = primed(&stream, &clock, 60).await;
    assert_eq!(stream.cache().read(NodeCache::watermark), Some(minute(99)));
    assert!(back.is_ready(), "its rows are whole, whatever time it is");
    // Forward by 50: the window moves, and the forming bar is not in it.
    clock.set(minute(150).checked_add(Duration::from_secs(59)).unwrap());
    assert!(primed(&stream, &clock, 60).await.is_ready());
    assert_eq!(stream.cache().read(NodeCache::watermark), Some(minute(149)));
    assert!(!stream.cache().read(NodeCache::has_missing_bars));
}
