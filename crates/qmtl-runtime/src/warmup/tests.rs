//! Warm-up windows, deadlines, strict mode and providers that never fill.

use std::sync::Mutex;

use futures::FutureExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use qmtl_backfill::AugmentedHistoryProvider;
use qmtl_history_api::{
    BackfillReport, BatchStream, HistoryBackend, ProviderCapabilities, ReadRequest, WriteRequest, async_trait,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, key, proof, span, sparse_bars};
use qmtl_io_memory::MemoryBackend;

use super::*;
use crate::testing::passing_time;

const HALF_A_MINUTE: i64 = 30_000_000;

/// In the middle of bar `index`.
fn clock_in(index: u32) -> ManualClock {
    ManualClock::new(bar(&key("btc", "1m"), index).checked_add_micros(HALF_A_MINUTE).unwrap())
}

fn stream(period: usize, clock: &ManualClock, provider: impl HistoryProvider) -> StreamInput {
    let builder = StreamInput::builder("btc").interval("1m").period(period);
    builder.history_provider(provider).clock(clock.clone()).build().unwrap()
}

/// What a provider does when it is asked to fill.
type Filling = dyn Fn(usize, &BackfillRequest) -> Result<()> + Send + Sync;

/// A provider over a store; remembers when it was called, and what fills were asked for.
struct Provider {
    inner: AugmentedHistoryProvider<Arc<MemoryBackend>>,
    clock: ManualClock,
    able: ProviderCapabilities,
    filling: Option<Box<Filling>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    calls: Vec<(&'static str, Duration)>,
    filled: Vec<TimeRange>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("able", &self.able).finish_non_exhaustive()
    }
}

impl Provider {
    fn new(clock: &ManualClock, store: &Arc<MemoryBackend>, fetcher: FakeFetcher) -> Self {
        let inner = AugmentedHistoryProvider::new(Arc::clone(store));
        Self {
            inner: inner.with_fetcher(fetcher).with_clock(clock.clone()),
            clock: clock.clone(),
            able: ProviderCapabilities::all(),
            filling: None,
            seen: Arc::default(),
        }
    }

    fn able(mut self, able: ProviderCapabilities) -> Self {
        self.able = able;
        self
    }

    fn filling(
        mut self,
        filling: impl Fn(usize, &BackfillRequest) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.filling = Some(Box::new(filling));
        self
    }

    fn note(&self, call: &'static str) -> usize {
        let mut seen = self.seen.lock().unwrap();
        seen.calls.push((call, self.clock.monotonic()));
        seen.calls.len() - 1
    }
}

#[async_trait]
impl HistoryProvider for Provider {
    async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.note("fetch");
        self.inner.fetch(request).await
    }

    async fn coverage(&self, key: &SeriesKey) -> Result<Coverage> {
        self.note("coverage");
        self.inner.coverage(key).await
    }

    async fn fill_missing(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        let call = self.note("fill_missing");
        self.seen.lock().unwrap().filled.push(request.range);
        match &self.filling {
            Some(filling) => {
                filling(call, request)?;
                Ok(BackfillReport::new(request.key.clone(), request.range))
            }
            None => self.inner.fill_missing(request).await,
        }
    }

    async fn ensure_range(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        self.note("ensure_range");
        self.inner.ensure_range(request).await
    }

    fn capabilities(&self) -> ProviderCapabilities {
        self.able
    }
}

fn loop_only() -> ProviderCapabilities {
    ProviderCapabilities::fetch_only().with_coverage(true).with_fill_missing(true)
}

fn store() -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::new())
}

async fn prime(stream: &StreamInput, clock: &ManualClock, config: &WarmupConfig) -> Result<WarmupReport> {
    passing_time(clock, warm_up(std::slice::from_ref(stream), config)).await
}

fn names(seen: &Mutex<Seen>) -> Vec<&'static str> {
    seen.lock().unwrap().calls.iter().map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn the_last_period_closed_bars_are_there_and_the_forming_one_is_not() {
    let (clock, store) = (clock_in(300), store());
    let provider = Provider::new(&clock, &store, FakeFetcher::new("fake"));
    let seen = Arc::clone(&provider.seen);
    let stream = stream(200, &clock, provider);
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    let key = stream.key();
    let input = &report.inputs[0];
    assert!(report.is_ready() && input.error.is_none());
    assert_eq!((input.bars, input.first, input.last), (200, Some(bar(key, 100)), Some(bar(key, 299))));
    assert_eq!(input.window, span(key, 100, 300));
    assert!(stream.cache().read(NodeCache::is_ready));
    let stored = store.coverage(key, TimeRange::ALL).await.unwrap();
    assert_eq!(stored.present().span(), Some(span(key, 100, 300)), "nor is the forming one stored");
    assert_eq!(names(&seen), ["ensure_range", "coverage", "fetch"]);
}

#[tokio::test]
async fn a_provider_without_ensure_range_is_filled_by_the_loop() {
    let (clock, store) = (clock_in(100), store());
    let key = key("btc", "1m");
    let rows = sparse_bars(&key, &[span(&key, 50, 60), span(&key, 70, 80)].into_iter().collect());
    store.write_rows(&WriteRequest::new(key.clone()), rows).await.unwrap();
    let provider = Provider::new(&clock, &store, FakeFetcher::new("fake")).able(loop_only());
    let seen = Arc::clone(&provider.seen);
    let stream = stream(50, &clock, provider);
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(report.is_ready());
    assert_eq!(names(&seen), ["coverage", "fill_missing", "coverage", "fetch"]);
    assert_eq!(seen.lock().unwrap().filled, [span(&key, 60, 100)], "only what is missing is asked for");
}

#[tokio::test]
async fn a_provider_that_only_fetches_is_taken_as_it_is() {
    let (clock, store) = (clock_in(10), store());
    let provider = Provider::new(&clock, &store, FakeFetcher::new("fake"));
    let stream = stream(5, &clock, provider.able(ProviderCapabilities::fetch_only()));
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(!report.is_ready());
    assert_eq!(report.inputs[0].missing, span(stream.key(), 5, 10).into());
}

#[tokio::test]
async fn a_provider_that_never_fills_is_asked_at_most_ten_times_a_second_until_the_deadline() {
    let (clock, store) = (clock_in(100), store());
    let provider =
        Provider::new(&clock, &store, FakeFetcher::new("fake")).able(loop_only()).filling(|_, _| Ok(()));
    let seen = Arc::clone(&provider.seen);
    let stream = stream(50, &clock, provider);
    let config = WarmupConfig::default().with_deadline(Duration::from_secs(20));
    let report = prime(&stream, &clock, &config).await.unwrap();
    let error = report.inputs[0].error.as_ref().unwrap();
    assert_eq!(
        error.to_string(),
        "the deadline passed while bars were missing (series: btc@1m, deadline_s: 20.0)"
    );
    assert!((20..22).contains(&report.inputs[0].elapsed.as_secs()), "{:?}", report.inputs[0].elapsed);
    let seen = seen.lock().unwrap();
    for (_, from) in &seen.calls {
        let second = *from..*from + Duration::from_secs(1);
        let calls = seen.calls.iter().filter(|(_, at)| second.contains(at)).count();
        assert!(calls <= 10, "{calls} calls within a second");
    }
    assert!(seen.filled.len() > 3, "it was asked again");
}

#[tokio::test]
async fn why_a_fill_failed_is_told_whatever_the_provider_is_able_to() {
    let blind = ProviderCapabilities::fetch_only().with_fill_missing(true);
    for able in [ProviderCapabilities::all(), loop_only(), blind] {
        let (clock, store) = (clock_in(100), store());
        let fetcher = FakeFetcher::new("fake");
        let fetcher =
            fetcher.with_failures(|_, _| Some(Error::unavailable("the exchange is gone").exhausted()));
        let provider = Provider::new(&clock, &store, fetcher).able(able);
        let report = prime(&stream(50, &clock, provider), &clock, &WarmupConfig::default()).await.unwrap();
        let error = report.inputs[0].error.as_ref().map(Error::chain).unwrap_or_default();
        assert!(error.contains("the exchange is gone"), "{able:?}: {error}");
    }
}

#[tokio::test]
async fn a_source_that_gave_up_is_asked_again_by_the_next_warm_up() {
    let (clock, store) = (clock_in(100), store());
    let provider = Provider::new(
        &clock,
        &store,
        FakeFetcher::new("fake")
            .with_failures(|call, _| (call < 2).then(|| Error::unavailable("not published yet").exhausted())),
    );
    let stream = stream(50, &clock, provider);
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    let first = &report.inputs[0];
    // Retries are the fetcher's: once it gave up, the same warm-up does not ask again.
    assert!(!report.is_ready());
    assert_eq!(first.error.as_ref().unwrap().message(), "not published yet");
    let again = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(!again.is_ready());
    let third = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(third.is_ready(), "{third:?}");
}

#[tokio::test]
async fn an_error_that_may_pass_is_tried_again() {
    let (clock, store) = (clock_in(100), store());
    let held = Arc::clone(&store);
    let provider = Provider::new(&clock, &store, FakeFetcher::new("fake")).able(loop_only()).filling(
        move |call, request| {
            if call < 5 {
                return Err(Error::unavailable("away"));
            }
            let rows = sparse_bars(&request.key, &request.range.into());
            let write = WriteRequest::new(request.key.clone());
            held.write_rows(&write, rows).now_or_never().expect("a store in memory does not wait").map(|_| ())
        },
    );
    let stream = stream(50, &clock, provider);
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(report.is_ready() && report.inputs[0].error.is_none(), "{report:?}");
}

#[tokio::test]
async fn a_store_without_fetcher_is_not_waited_for() {
    let clock = clock_in(100);
    let stream = stream(5, &clock, AugmentedHistoryProvider::new(store()).with_clock(clock.clone()));
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert_eq!(report.inputs[0].error.as_ref().unwrap().kind(), ErrorKind::NoStrategy);
    assert!(report.inputs[0].elapsed < Duration::from_secs(1));
}

#[tokio::test]
async fn a_whole_store_without_fetcher_is_ready_and_nothing_stood_in_the_way() {
    let (clock, store) = (clock_in(100), store());
    let bars = sparse_bars(&key("btc", "1m"), &span(&key("btc", "1m"), 0, 100).into());
    store.write_rows(&WriteRequest::new(key("btc", "1m")), bars).await.unwrap();
    let stream = stream(5, &clock, AugmentedHistoryProvider::new(store).with_clock(clock.clone()));
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert!(report.is_ready() && report.inputs[0].error.is_none(), "{:?}", report.inputs[0].error);
}

#[tokio::test]
async fn a_provider_that_hangs_is_left_at_the_deadline() {
    #[derive(Debug)]
    struct Hangs;

    #[async_trait]
    impl HistoryProvider for Hangs {
        async fn fetch(&self, _: &ReadRequest) -> Result<BatchStream> {
            std::future::pending().await
        }

        async fn ensure_range(&self, _: &BackfillRequest) -> Result<BackfillReport> {
            std::future::pending().await
        }

        fn capabilities(&self) -> ProviderCapabilities {
            ProviderCapabilities::fetch_only().with_ensure_range(true)
        }
    }

    let clock = clock_in(100);
    let stream = stream(5, &clock, Hangs);
    let config = WarmupConfig::default().with_deadline(Duration::from_secs(3));
    let warming = prime(&stream, &clock, &config);
    // A wall clock that jumps moves no deadline.
    clock.set(bar(stream.key(), 10));
    let report = warming.await.unwrap();
    let elapsed = report.inputs[0].elapsed.as_secs_f64();
    assert!((3.0..=4.05).contains(&elapsed), "{elapsed}");
    let error = report.inputs[0].error.as_ref().unwrap();
    assert_eq!(error.message(), "the deadline passed while history was loaded");
}

#[tokio::test]
async fn one_engine_loads_all_inputs_and_its_limit_limits() {
    /// How many fetches are under way, and the most at once.
    #[derive(Clone, Debug, Default)]
    struct Counted(Arc<Mutex<(usize, usize)>>);

    #[async_trait]
    impl HistoryProvider for Counted {
        async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream> {
            {
                let mut at_once = self.0.lock().unwrap();
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            tokio::task::yield_now().await;
            self.0.lock().unwrap().0 -= 1;
            let bars = sparse_bars(&request.key, &request.range.into());
            Ok(BatchStream::from_batches(bars.schema(), vec![bars]))
        }
    }

    for limit in [1, 2, 6] {
        let (clock, provider) = (clock_in(100), Counted::default());
        let inputs: Vec<_> = (0..6).map(|_| stream(5, &clock, provider.clone())).collect();
        let config = WarmupConfig::default().with_engine(EngineConfig::default().with_max_concurrent(limit));
        let report = passing_time(&clock, warm_up(&inputs, &config)).await.unwrap();
        assert!(report.inputs.iter().all(|input| input.bars == 5), "{limit}");
        assert_eq!(provider.0.lock().unwrap().1, limit);
    }
}

#[tokio::test]
async fn strict_mode_names_what_is_missing() {
    let clock = clock_in(100);
    let fetcher = FakeFetcher::new("fake")
        .with_bars_in(span(&key("btc", "1m"), 0, 97).into())
        .with_proven(|_| RangeSet::new());
    let provider = AugmentedHistoryProvider::new(store()).with_fetcher(fetcher).with_clock(clock.clone());
    let stream = stream(20, &clock, provider);
    let config = WarmupConfig::default().with_strict(true).with_deadline(Duration::from_secs(2));
    let error = prime(&stream, &clock, &config).await.unwrap_err();
    assert_eq!(
        error.chain(),
        "warm-up is not complete: bars are missing (node_id: btc, interval: 1m, required_points: 20, \
         missing_points: 3, coverage: 2024-01-01T01:20:00Z to 2024-01-01T01:36:00Z, \
         first_gap: 2024-01-01T01:37:00Z to 2024-01-01T01:39:00Z): \
         the deadline passed while bars were missing (series: btc@1m, deadline_s: 2.0)"
    );
    assert!(!error.is_retryable());
    let none = StreamInput::builder("btc").interval("1m").clock(clock.clone()).build().unwrap();
    let error = prime(&none, &clock, &config).await.unwrap_err();
    assert!(error.chain().contains("coverage: nothing"), "{}", error.chain());
    assert!(error.chain().ends_with("a backend or a fetcher (series: btc@1m)"), "{}", error.chain());
}

#[tokio::test]
async fn bars_proven_not_to_exist_leave_their_place_to_older_ones() {
    let clock = clock_in(100);
    let key = key("btc", "1m");
    let present: RangeSet = [span(&key, 0, 90), span(&key, 92, 98)].into_iter().collect();
    for able in [ProviderCapabilities::all(), loop_only()] {
        let fetcher = FakeFetcher::new("fake").punctual().with_bars_in(present.clone());
        let stream = stream(20, &clock, Provider::new(&clock, &store(), fetcher).able(able));
        let config = WarmupConfig::default().with_strict(true);
        let report = prime(&stream, &clock, &config).await.unwrap();
        assert_eq!((report.inputs[0].bars, report.inputs[0].first), (20, Some(bar(&key, 76))));
        assert_eq!(report.inputs[0].known_empty.count(key.interval), 4);
        assert!(stream.cache().read(NodeCache::is_ready));
        assert!(!stream.cache().read(NodeCache::has_missing_bars));
    }
}

#[tokio::test]
async fn a_stale_proof_of_a_source_that_is_gone_does_not_make_ready() {
    let (clock, store) = (clock_in(100), store());
    let key = key("btc", "1m");
    let old = clock.now().checked_sub(Duration::from_secs(7_200)).unwrap();
    let write = WriteRequest::new(key.clone()).with_empty(proof("gone", span(&key, 90, 100), old));
    store.write_rows(&write, sparse_bars(&key, &span(&key, 0, 90).into())).await.unwrap();
    let provider = Provider::new(&clock, &store, FakeFetcher::new("fake"));
    let able = ProviderCapabilities::fetch_only().with_coverage(true);
    let stream = stream(20, &clock, provider.able(able));
    let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
    assert_eq!(report.inputs[0].missing, span(&key, 90, 100).into());
}

#[tokio::test]
async fn rows_are_looked_for_further_back() {
    let clock = clock_in(1_000);
    let key = key("btc", "1m");
    let present: RangeSet = [span(&key, 940, 945), span(&key, 980, 985)].into_iter().collect();
    let prime_rows = async |max_lookback| {
        let fetcher = FakeFetcher::new("fake").punctual().with_bars_in(present.clone());
        let stream = stream(10, &clock, Provider::new(&clock, &store(), fetcher));
        let counts = PeriodCounts::Rows { max_lookback: Some(max_lookback) };
        let config = WarmupConfig::default().with_period_counts(counts);
        prime(&stream, &clock, &config).await.unwrap().inputs.remove(0)
    };
    let near = prime_rows(50).await;
    assert_eq!((near.ready, near.bars, near.window), (false, 5, span(&key, 950, 1_000)));
    let far = prime_rows(200).await;
    assert_eq!((far.ready, far.bars, far.first), (true, 10, Some(bar(&key, 940))));
}

#[tokio::test]
async fn the_grid_counts_where_that_is_chosen_and_holes_where_they_are_allowed() {
    let (clock, key) = (clock_in(100), key("btc", "1m"));
    // Bars 90 and 91 do not exist.
    let present: RangeSet = [span(&key, 0, 90), span(&key, 92, 100)].into_iter().collect();
    let fetcher = FakeFetcher::new("fake").punctual().with_bars_in(present.clone());
    let stream_of_all = stream(20, &clock, Provider::new(&clock, &store(), fetcher));
    let config = WarmupConfig::default().with_period_counts(PeriodCounts::Grid);
    let report = prime(&stream_of_all, &clock, &config).await.unwrap();
    assert_eq!((report.is_ready(), report.inputs[0].bars), (true, 18));
    // Nobody says that they do not exist.
    let store = store();
    store.write_rows(&WriteRequest::new(key.clone()), sparse_bars(&key, &present)).await.unwrap();
    for (allowed, ready) in [(false, false), (true, true)] {
        let provider = Provider::new(&clock, &store, FakeFetcher::new("fake"));
        let able = ProviderCapabilities::fetch_only().with_coverage(true);
        let stream = stream(20, &clock, provider.able(able));
        let config = WarmupConfig::default().with_holes_allowed(allowed);
        let report = prime(&stream, &clock, &config).await.unwrap();
        let missing = report.inputs[0].missing.count(key.interval);
        assert_eq!((report.is_ready(), missing), (ready, 2), "{report:?}");
    }
}

#[tokio::test]
async fn a_second_warm_up_asks_no_source_for_what_is_known_to_be_empty() {
    let (clock, store) = (clock_in(100), store());
    let key = key("btc", "1m");
    let fetcher = Arc::new(FakeFetcher::new("fake").punctual().with_bars_in(span(&key, 0, 95).into()));
    for _ in 0..2 {
        let provider = AugmentedHistoryProvider::new(Arc::clone(&store)).with_fetcher(Arc::clone(&fetcher));
        let stream = stream(20, &clock, provider.with_clock(clock.clone()));
        let report = prime(&stream, &clock, &WarmupConfig::default()).await.unwrap();
        assert!(report.is_ready());
        assert_eq!(fetcher.requests().len(), 2, "for the period, and for as much before it");
    }
}

#[test]
fn a_cancelled_warm_up_leaves_no_task_and_the_gauge_right() {
    /// Loads for ever; whoever loads holds a clone.
    #[derive(Clone, Debug)]
    struct LoadsForEver(Arc<tokio::sync::Notify>);

    #[async_trait]
    impl HistoryProvider for LoadsForEver {
        async fn fetch(&self, _: &ReadRequest) -> Result<BatchStream> {
            let held = Arc::clone(&self.0);
            held.notify_one();
            std::future::pending::<()>().await;
            drop(held);
            Err(Error::unexpected("pending ended"))
        }
    }

    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let (clock, loading) = (clock_in(100), Arc::new(tokio::sync::Notify::new()));
            let stream = stream(20, &clock, LoadsForEver(Arc::clone(&loading)));
            let holders = Arc::strong_count(&loading);
            let config = WarmupConfig::default();
            tokio::select! {
                _ = warm_up(std::slice::from_ref(&stream), &config) => unreachable!(),
                () = loading.notified() => {}
            }
            while Arc::strong_count(&loading) > holders {
                tokio::task::yield_now().await;
            }
            assert_eq!(clock.sleepers(), 0);
        });
    });
    let jobs = recorder.snapshotter().snapshot().into_vec().into_iter();
    let jobs: Vec<_> = jobs.filter(|(key, ..)| key.key().name() == "backfill_jobs_in_progress").collect();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].3, DebugValue::Gauge(0.0.into()));
}
