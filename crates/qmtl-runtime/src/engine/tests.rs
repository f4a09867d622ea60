//! Jobs side by side: retries, cancellation, finished ranges, every outcome told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::metrics::with_local_recorder;
use futures::FutureExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use qmtl_history_api::{BatchStream, provider_fn};
use qmtl_history_testkit::fixtures::{ManualClock, bar, bars, key, span, start};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;
use crate::NodeCache;

/// Lines `LEVEL name field=value …` of the lifecycle events.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 += &format!("{value:?}");
                } else {
                    self.0 += &format!(" {}={value:?}", field.name());
                }
            }
        }
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

/// What a test sees: log lines and the values of counters and gauges.
struct Seen {
    log: Vec<String>,
    metrics: BTreeMap<String, f64>,
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) -> Seen {
    let (log, recorder) = (Log::default(), DebuggingRecorder::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log.clone()), || {
        with_local_recorder(&recorder, || runtime.block_on(test()));
    });
    let metrics = recorder.snapshotter().snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let value = match value {
            DebugValue::Counter(count) => f64::from(u32::try_from(count).unwrap()),
            DebugValue::Gauge(value) => *value,
            DebugValue::Histogram(_) => f64::NAN,
        };
        (key.key().name().to_owned(), value)
    });
    Seen { log: log.0.lock().unwrap().clone(), metrics: metrics.collect() }
}

fn cache_of(key: &SeriesKey, period: usize) -> SharedCache {
    SharedCache::new(NodeCache::new(key.clone(), period).unwrap())
}

/// Answers every request with every bar of its range, unless `fail` has an error for the call,
/// which counts from 0. Remembers the ranges.
#[derive(Clone)]
struct Scripted {
    asked: Arc<Mutex<Vec<TimeRange>>>,
    provider: Arc<dyn HistoryProvider>,
}

impl Scripted {
    fn new(fail: impl Fn(usize) -> Option<Error> + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<TimeRange>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let provider = provider_fn(move |request: ReadRequest| {
            let mut asked = seen.lock().unwrap();
            asked.push(request.range);
            let failure = fail(asked.len() - 1);
            async move { failure.map_or_else(|| Ok(stream_of(&request)), Err) }
        });
        Self { asked, provider: Arc::new(provider) }
    }

    fn good() -> Self {
        Self::new(|_| None)
    }

    fn job(&self, cache: &SharedCache, range: TimeRange) -> BackfillJob {
        BackfillJob::new(cache.clone(), Arc::clone(&self.provider), range)
    }

    fn asked(&self) -> Vec<TimeRange> {
        self.asked.lock().unwrap().clone()
    }
}

fn stream_of(request: &ReadRequest) -> BatchStream {
    let count = usize::try_from(request.range.count(request.key.interval)).unwrap();
    let batch = bars(&request.key, request.range.start(), count);
    BatchStream::from_batches(batch.schema(), vec![batch])
}

fn engine(clock: &ManualClock) -> BackfillEngine {
    BackfillEngine::new().with_clock(Arc::new(clock.clone()))
}

/// A clock at which the first 100 bars of `key` have closed.
fn after_100(key: &SeriesKey) -> ManualClock {
    ManualClock::skipping_sleep(bar(key, 100))
}

#[test]
fn a_job_loads_its_range_and_says_so() {
    let seen = run(|| async {
        let key = key("btc:1", "1m");
        let (cache, provider) = (cache_of(&key, 50), Scripted::good());
        let engine = engine(&after_100(&key));
        engine.submit(provider.job(&cache, span(&key, 0, 10)));
        let outcomes = engine.wait().await;
        assert_eq!(outcomes.len(), 1);
        assert_eq!((outcomes[0].attempts, outcomes[0].rows_added), (1, 10));
        assert!(outcomes[0].result.is_ok());
        assert_eq!(cache.read(NodeCache::len), 10);
        assert!(engine.wait().await.is_empty(), "outcomes are told once");
    });
    assert_eq!(
        seen.log,
        [
            "INFO backfill.start node_id=\"btc:1\" interval=60 start=1704067200 end=1704067800",
            "INFO backfill.complete node_id=\"btc:1\" interval=60 start=1704067200 end=1704067800",
        ]
    );
    assert_eq!(seen.metrics["backfill_jobs_in_progress"], 0.0);
    assert_eq!(seen.metrics["backfill_last_timestamp"], 1_704_067_740.0);
}

#[test]
fn three_retries_with_growing_pauses_then_failure() {
    let seen = run(|| async {
        let key = key("btc", "1m");
        let (cache, provider) = (cache_of(&key, 50), Scripted::new(|_| Some(Error::unavailable("away"))));
        let clock = after_100(&key);
        let engine = engine(&clock);
        engine.submit(provider.job(&cache, span(&key, 0, 10)));
        let outcome = engine.wait().await.remove(0);
        assert_eq!(outcome.attempts, 4, "one try and at most three retries");
        assert_eq!(outcome.result.unwrap_err().to_string(), "away");
        assert_eq!(clock.monotonic(), Duration::from_millis(500 + 1_000 + 2_000));
    });
    assert_eq!(
        seen.log[1..],
        [
            "INFO backfill.retry node_id=\"btc\" interval=60 attempt=1",
            "INFO backfill.retry node_id=\"btc\" interval=60 attempt=2",
            "INFO backfill.retry node_id=\"btc\" interval=60 attempt=3",
            "ERROR backfill.failed node_id=\"btc\" interval=60 attempts=4",
        ]
    );
    assert_eq!(seen.metrics["backfill_retry_total"], 3.0);
    assert_eq!(seen.metrics["backfill_failure_total"], 1.0);
    assert_eq!(seen.metrics["backfill_jobs_in_progress"], 0.0);
}

#[test]
fn only_what_may_pass_is_repeated() {
    run(|| async {
        let key = key("btc", "1m");
        for error in [Error::invalid("never"), Error::unavailable("given up").exhausted()] {
            let (cache, provider) = (cache_of(&key, 50), Scripted::new(move |_| Some(error.clone())));
            let engine = engine(&after_100(&key));
            engine.submit(provider.job(&cache, span(&key, 0, 10)));
            assert_eq!(engine.wait().await[0].attempts, 1);
        }
    });
}

#[test]
fn a_passing_error_costs_one_retry() {
    let seen = run(|| async {
        let key = key("btc", "1m");
        let provider = Scripted::new(|call| (call == 0).then(|| Error::unavailable("away")));
        let (cache, engine) = (cache_of(&key, 50), engine(&after_100(&key)));
        engine.submit(provider.job(&cache, span(&key, 0, 10)));
        let outcome = engine.wait().await.remove(0);
        assert!(outcome.result.is_ok());
        assert_eq!((outcome.attempts, outcome.rows_added), (2, 10));
    });
    assert!(seen.log[2].starts_with("INFO backfill.complete"), "{:?}", seen.log);
    assert!(!seen.metrics.contains_key("backfill_failure_total"));
}

#[test]
fn rows_before_an_error_stay_and_are_not_asked_for_again() {
    run(|| async {
        let key = key("btc", "1m");
        let asked: Arc<Mutex<Vec<TimeRange>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let provider = provider_fn(move |request: ReadRequest| {
            seen.lock().unwrap().push(request.range);
            let first = seen.lock().unwrap().len() == 1;
            async move {
                let half = bars(&request.key, request.range.start(), 4);
                let schema = half.schema();
                let broken = futures::stream::iter([Ok(half), Err(Error::unavailable("reset"))]);
                Ok(if first { BatchStream::new(schema, Box::pin(broken)) } else { stream_of(&request) })
            }
        });
        let (cache, engine) = (cache_of(&key, 50), engine(&after_100(&key)));
        engine.submit(BackfillJob::new(cache.clone(), Arc::new(provider), span(&key, 0, 10)));
        let outcome = engine.wait().await.remove(0);
        assert!(outcome.result.is_ok());
        assert_eq!(outcome.rows_added, 10);
        assert_eq!(*asked.lock().unwrap(), [span(&key, 0, 10), span(&key, 4, 10)]);
    });
}

#[test]
fn finished_ranges_are_skipped_and_belong_to_their_cache() {
    run(|| async {
        let key = key("btc", "1m");
        let (cache, provider, engine) = (cache_of(&key, 50), Scripted::good(), engine(&after_100(&key)));
        for range in [span(&key, 0, 10), span(&key, 2, 8), span(&key, 5, 15)] {
            engine.submit(provider.job(&cache, range));
            engine.wait().await;
        }
        assert_eq!(provider.asked(), [span(&key, 0, 10), span(&key, 10, 15)]);
        let other = cache_of(&key, 50);
        engine.submit(provider.job(&other, span(&key, 0, 10)));
        cache.write(NodeCache::clear);
        engine.submit(provider.job(&cache, span(&key, 0, 10)));
        assert!(engine.wait().await.iter().all(|outcome| outcome.rows_added == 10));
    });
}

#[test]
fn a_failure_hides_no_other_job() {
    run(|| async {
        let (good, bad) = (key("good", "1m"), key("bad", "1m"));
        let engine = engine(&after_100(&good));
        engine
            .submit(Scripted::new(|_| Some(Error::invalid("no"))).job(&cache_of(&bad, 9), span(&bad, 0, 5)));
        engine.submit(Scripted::good().job(&cache_of(&good, 9), span(&good, 0, 5)));
        engine.submit(BackfillJob::new(
            cache_of(&bad, 9),
            Arc::new(provider_fn(|_| async { panic!("a provider's defect") })),
            span(&bad, 0, 5),
        ));
        let outcomes = engine.wait().await;
        let results: Vec<_> =
            outcomes.iter().map(|o| o.result.as_ref().err().map(Error::to_string)).collect();
        assert_eq!(results, [Some("no".into()), None, Some("the job panicked (series: bad@1m)".to_owned())]);
    });
}

#[test]
fn cancelled_jobs_leave_the_gauge_right_and_no_task() {
    let seen = run(|| async {
        let key = key("btc", "1m");
        let clock = ManualClock::new(bar(&key, 100));
        let engine = engine(&clock);
        let provider = Scripted::new(|_| Some(Error::unavailable("away")));
        let one = engine.submit(provider.job(&cache_of(&key, 9), span(&key, 0, 5)));
        engine.submit(provider.job(&cache_of(&key, 9), span(&key, 0, 5)));
        clock.wait_for_sleepers(2).await;
        one.cancel();
        while clock.sleepers() > 1 {
            tokio::task::yield_now().await;
        }
        engine.cancel();
        let outcomes = engine.wait().await;
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            assert_eq!(outcome.result.unwrap_err().kind(), ErrorKind::Cancelled);
        }
        engine.submit(provider.job(&cache_of(&key, 9), span(&key, 0, 5)));
        clock.wait_for_sleepers(1).await;
        drop(engine);
        while clock.sleepers() > 0 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(seen.metrics["backfill_jobs_in_progress"], 0.0);
}

#[test]
fn jobs_run_at_once_up_to_the_limit() {
    run(|| async {
        let key = key("btc", "1m");
        let clock = ManualClock::new(bar(&key, 100));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let provider: Arc<dyn HistoryProvider> = Arc::new(provider_fn({
            let (clock, now, most) = (clock.clone(), Arc::clone(&now), Arc::clone(&most));
            move |request: ReadRequest| {
                let (clock, now, most) = (clock.clone(), Arc::clone(&now), Arc::clone(&most));
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    clock.sleep(Duration::from_secs(1)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(stream_of(&request))
                }
            }
        }));
        let engine = engine(&clock).with_config(EngineConfig::default().with_max_concurrent(2));
        for _ in 0..5 {
            let job = BackfillJob::new(cache_of(&key, 9), Arc::clone(&provider), span(&key, 0, 5));
            engine.submit(job);
        }
        for wave in [2, 2, 1] {
            clock.wait_for_sleepers(wave).await;
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(engine.wait().await.len(), 5);
        assert_eq!(most.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_bar_that_is_forming_is_not_loaded() {
    let seen = run(|| async {
        let key = key("btc", "1m");
        let clock = ManualClock::new(bar(&key, 5).checked_add_micros(30_000_000).unwrap());
        let (cache, engine) = (cache_of(&key, 9), engine(&clock));
        // The provider answers beyond what it is asked.
        let eager = provider_fn(|request: ReadRequest| async move {
            let batch = bars(&request.key, start(), 9);
            Ok(BatchStream::from_batches(batch.schema(), vec![batch]))
        });
        engine.submit(BackfillJob::new(cache.clone(), Arc::new(eager), span(&key, 0, 9)));
        assert!(engine.wait().await[0].result.is_ok());
        assert_eq!(cache.read(NodeCache::watermark), Some(bar(&key, 4)));
        let future = Scripted::good();
        engine.submit(future.job(&cache, span(&key, 5, 9)));
        assert!(engine.wait().await[0].result.is_ok());
        assert!(future.asked().is_empty());
        clock.set(bar(&key, 9));
        engine.submit(future.job(&cache, span(&key, 0, 9)));
        engine.wait().await;
        assert_eq!(future.asked(), [span(&key, 5, 9)], "a range that was not over is asked for later");
    });
    assert_eq!(
        seen.metrics["backfill_last_timestamp"], 1_704_067_680.0,
        "the newest row, not the wanted end"
    );
}

#[test]
fn a_job_that_is_submitted_outside_of_a_runtime_ends_with_an_error() {
    let provider = provider_fn(|_: ReadRequest| async { Err(Error::unexpected("never asked")) });
    let cache = SharedCache::new(NodeCache::new(key("btc", "1m"), 5).unwrap());
    let engine = BackfillEngine::new();
    let range = span(&key("btc", "1m"), 0, 5);
    engine.submit(BackfillJob::new(cache, Arc::new(provider), range)).cancel();
    let outcomes = engine.wait().now_or_never().unwrap();
    assert_eq!(outcomes[0].result.as_ref().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!((outcomes.len(), outcomes[0].attempts), (1, 0));
}
