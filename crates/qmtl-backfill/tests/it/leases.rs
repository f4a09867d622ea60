//! Several workers over one store, under leases. Time is tokio's and paused: it passes when all wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, Grant, InProcessCoordinator, Keeper, LeaseConfig, OnLoss, Page, Policy,
    Query, Reply,
};
use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, Error, ErrorKind, FetchLimits,
    ProgressEvent, RangeSet, Result, StopSignal, TimeRange, async_trait,
};
use qmtl_history_testkit::fixtures::{self, FakeFetcher};
use qmtl_observe::TokioClock;

use crate::support::{Events, Store, btc, span};

/// Bars of a window.
const WINDOW: u32 = 900;

/// The first bar of the first whole window of the fixtures' series.
fn first() -> u32 {
    let index = btc().interval.index(span(0, 1).start());
    u32::try_from(-index.rem_euclid(i64::from(WINDOW)) + i64::from(WINDOW)).unwrap()
}

/// Windows `[from, to)`, counted from the first whole one.
fn windows(from: u32, to: u32) -> TimeRange {
    span(first() + from * WINDOW, first() + to * WINDOW)
}

/// An exchange that has these bars, a thousand a page.
fn exchange(bars: TimeRange) -> FakeFetcher {
    FakeFetcher::new("exchange")
        .with_bars_in(bars.into())
        .with_limits(FetchLimits::none().with_max_rows(1_000))
}

/// What it was asked for.
fn ranges(fetcher: &FakeFetcher) -> Vec<TimeRange> {
    fetcher.requests().iter().map(|request| request.range).collect()
}

fn keeper(coordinator: impl BackfillCoordinator, config: LeaseConfig) -> Keeper {
    let (keeper, work) = Keeper::with_clock(coordinator, config, TokioClock::new());
    tokio::spawn(work);
    keeper
}

fn config(worker: &str) -> LeaseConfig {
    LeaseConfig::new(worker).with_ttl(Duration::from_secs(30))
}

fn worker<F: DataFetcher>(fetcher: &Arc<F>, keeper: Keeper) -> FetcherBackfillStrategy {
    FetcherBackfillStrategy::new(Arc::<F>::clone(fetcher)).with_leases(keeper)
}

async fn fill(strategy: &FetcherBackfillStrategy, store: &Store, range: TimeRange) -> BackfillReport {
    let request = BackfillRequest::new(btc(), range);
    strategy.ensure_range(&request, store, &Events::default()).await.unwrap()
}

/// A fill that is told to stop after some time.
async fn fill_until(
    strategy: &FetcherBackfillStrategy,
    store: &Store,
    range: TimeRange,
    time: Duration,
) -> BackfillReport {
    let stop = StopSignal::new();
    let stopping = async {
        TokioClock::new().sleep(time).await;
        stop.stop();
    };
    let request = BackfillRequest::new(btc(), range).with_stop(stop.clone());
    let events = Events::default();
    let (report, ()) = futures::join!(strategy.ensure_range(&request, store, &events), stopping);
    report.unwrap()
}

async fn states(coordinator: &dyn BackfillCoordinator) -> BTreeMap<&'static str, usize> {
    let page = coordinator.inspect(&Query::new("").with_limit(Query::LONGEST)).await.unwrap();
    let mut states = BTreeMap::new();
    for listed in &page.leases {
        *states.entry(listed.lease.state(page.now).as_str()).or_default() += 1;
    }
    states
}

async fn claim(coordinator: &dyn BackfillCoordinator, window: u32) -> Grant {
    let key = lease_key(window);
    let claim =
        Command::Claim { ttl: Duration::from_secs(60), worker: Some("other".into()), request_id: None };
    match coordinator.apply(&key, claim).await.unwrap() {
        Reply::Granted(grant) => grant,
        other => panic!("{key}: {other:?}"),
    }
}

fn lease_key(window: u32) -> String {
    qmtl_backfill::lease::LeaseKey::new(btc(), windows(window, window + 1)).unwrap().to_string()
}

/// How often each window was asked for.
fn asked<F>(requests: &[TimeRange], of: F) -> BTreeMap<TimeRange, usize>
where
    F: Fn(TimeRange) -> TimeRange,
{
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(of(*request)).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn four_workers_fill_each_window_once() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    // Over five blocks, so that workers meet.
    let range = windows(0, 200);
    let fetcher = exchange(range);
    let fetcher = Arc::new(fetcher.with_latency(TokioClock::new(), Duration::from_millis(20)));
    let workers =
        ["a", "b", "c", "d"].map(|name| worker(&fetcher, keeper(Arc::clone(&coordinator), config(name))));
    let reports = join_all(workers.iter().map(|worker| fill(worker, &store, range))).await;
    for report in &reports {
        assert!(report.is_complete(), "{:?} {:?}", report.failed, report.missing);
    }
    let written: u64 = reports.iter().map(|report| report.rows_written).sum();
    assert_eq!(written, 200 * u64::from(WINDOW));
    assert_eq!(store.present(&btc()).await, range.into());
    let requests = ranges(&fetcher);
    assert_eq!(requests.len(), 200, "each window is one page, asked for once");
    assert!(asked(&requests, |range| range).values().all(|count| *count == 1));
    assert_eq!(states(&*coordinator).await, BTreeMap::from([("done", 200)]));
    assert!(reports.iter().all(|report| report.rows_written > 0), "all of them worked");
}

#[tokio::test(start_paused = true)]
async fn what_others_hold_is_waited_for_and_then_looked_at_in_the_store() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let range = windows(0, 3);
    let fetcher = Arc::new(exchange(range));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    // Window 0: somebody else does it while we wait. Window 1: its holder is never heard of again.
    let grant = claim(&*coordinator, 0).await;
    claim(&*coordinator, 1).await;
    let other = async {
        TokioClock::new().sleep(Duration::from_secs(7)).await;
        let rows = fixtures::sparse_bars(&btc(), &windows(0, 1).into());
        store.seed(&btc(), rows).await;
        let (token, retry_after) = (grant.token.clone(), Duration::ZERO);
        let complete = Command::Complete { token, missing: 0, ratio: 1.0, retry_after };
        coordinator.apply(&lease_key(0), complete).await.unwrap();
    };
    let events = Events::default();
    let request = BackfillRequest::new(btc(), range);
    let started = TokioClock::new().monotonic();
    let (report, ()) = futures::join!(strategy.ensure_range(&request, &store, &events), other);
    let report = report.unwrap();
    assert!(report.is_complete(), "{:?}", report.missing);
    assert_eq!(report.rows_written, 2 * u64::from(WINDOW));
    assert_eq!(ranges(&fetcher).len(), 2, "what another worker stored is not asked for");
    let waited = TokioClock::new().monotonic() - started;
    assert!((Duration::from_secs(60)..Duration::from_secs(66)).contains(&waited), "{waited:?}");
    let events = events.0.into_inner().unwrap();
    let waits = events.iter().filter(|event| matches!(event, ProgressEvent::Waiting { wait, .. } if wait.what == "lease" && wait.host == "other"));
    assert!(waits.count() > 10, "whoever watches is told");
    let stored: u64 = events
        .iter()
        .map(|event| if let ProgressEvent::WindowStored { bars, .. } = event { *bars } else { 0 })
        .sum();
    assert_eq!(stored, 3 * u64::from(WINDOW), "what others fill is progress as well");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_window_is_written_once_its_lease_is_lost() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let range = windows(0, 1);
    let fetcher = exchange(range);
    let fetcher = Arc::new(fetcher.with_latency(TokioClock::new(), Duration::from_secs(25)));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    let thief = async {
        TokioClock::new().sleep(Duration::from_secs(5)).await;
        let recover = Command::Recover { token: None, is_done: false, reason: "stuck".into() };
        coordinator.apply(&lease_key(0), recover).await.unwrap();
        let grant = claim(&*coordinator, 0).await;
        TokioClock::new().sleep(Duration::from_secs(40)).await;
        assert!(store.writes().is_empty(), "the loser's rows came after 25 s");
        let release = Command::Release { token: grant.token, reason: "done with it".into(), ratio: None };
        coordinator.apply(&lease_key(0), release).await.unwrap();
    };
    let (report, ()) = futures::join!(fill(&strategy, &store, range), thief);
    assert!(report.is_complete(), "it is claimed again once it is free");
    assert_eq!(ranges(&fetcher).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_as_long_as_its_window_takes() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let range = windows(0, 2);
    let fetcher = exchange(range);
    let fetcher = Arc::new(fetcher.with_latency(TokioClock::new(), Duration::from_secs(600)));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    assert!(fill(&strategy, &store, range).await.is_complete());
    assert_eq!(ranges(&fetcher).len(), 2);
}

/// What fails by itself is dead in the end; what fails with its surroundings never is.
#[tokio::test(start_paused = true)]
async fn a_poisoned_window_dies_and_an_outage_kills_none() {
    for (error, outcome) in [
        (Error::schema("the rows are upside down"), "dead"),
        (Error::unavailable("502"), "released"),
        (Error::new(ErrorKind::NotFound, "no such symbol"), "released"),
    ] {
        let coordinator = Arc::new(InProcessCoordinator::new(Policy::default()));
        let store = Store::new();
        let range = windows(0, 1);
        let failure = error.clone();
        let fetcher = exchange(range);
        let fetcher = Arc::new(fetcher.with_failures(move |_, _| Some(failure.clone())));
        let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
        for _ in 0..8 {
            let report = fill(&strategy, &store, range).await;
            assert_eq!(report.failed.len(), 1, "{:?}", report.failed);
        }
        assert_eq!(states(&*coordinator).await, BTreeMap::from([(outcome, 1)]), "{error}");
        let report = fill(&strategy, &store, range).await;
        let told = report.failed[0].1.to_string();
        assert_eq!(told.contains("leases recover"), outcome == "dead", "{told}");
    }
}

/// Windows at the ends of a request are done as far as they were asked for; whoever wants the rest has it at once.
#[tokio::test(start_paused = true)]
async fn a_part_of_a_window_is_partial_and_the_rest_is_free() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let fetcher = exchange(windows(0, 2));
    let fetcher = Arc::new(fetcher);
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    let half = span(first() + 450, first() + WINDOW + 90);
    assert!(fill(&strategy, &store, half).await.is_complete());
    assert_eq!(states(&*coordinator).await, BTreeMap::from([("partial", 2)]));
    let page = coordinator.inspect(&Query::new(lease_key(1))).await.unwrap();
    let lease = &page.leases[0].lease;
    assert_eq!((lease.ratio, lease.missing), (0.1, 810));
    assert!(fill(&strategy, &store, windows(0, 2)).await.is_complete());
    assert_eq!(states(&*coordinator).await, BTreeMap::from([("done", 2)]));
    // Even where some of what was asked for cannot be settled: a source that proves nothing, without the first bars.
    let fetcher =
        FakeFetcher::new("file").with_bars_in(span(first() + 2 * WINDOW + 100, first() + 3 * WINDOW).into());
    let fetcher = Arc::new(fetcher.with_proven(|_| RangeSet::new()));
    let [one, other] =
        ["a", "b"].map(|name| worker(&fetcher, keeper(Arc::clone(&coordinator), config(name))));
    let report = fill(&one, &store, span(first() + 2 * WINDOW, first() + 2 * WINDOW + 450)).await;
    assert_eq!((report.rows_written, report.missing.count(btc().interval)), (350, 100));
    assert_eq!(fill(&other, &store, windows(2, 3)).await.rows_written, 450);
}

/// Bars that nobody can settle now keep nobody waiting: they are missing, and asked for again later.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_settled_ends_the_job() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let range = windows(0, 1);
    // A source that proves nothing, such as a file that ends in the middle of the window.
    let fetcher = FakeFetcher::new("file").with_bars_in(span(first(), first() + 600).into());
    let fetcher = Arc::new(fetcher.with_proven(|_| RangeSet::new()));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    let report = fill(&strategy, &store, range).await;
    assert_eq!(report.missing.count(btc().interval), 300);
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(states(&*coordinator).await, BTreeMap::from([("partial", 1)]));
    let before = ranges(&fetcher).len();
    let report = fill(&strategy, &store, range).await;
    assert_eq!(
        (report.missing.count(btc().interval), ranges(&fetcher).len()),
        (300, before),
        "it is left alone for now"
    );
    TokioClock::new().sleep(Duration::from_secs(61)).await;
    fill(&strategy, &store, range).await;
    assert!(ranges(&fetcher).len() > before);
}

/// A coordinator that can be unplugged.
#[derive(Debug)]
struct Plugged {
    inner: InProcessCoordinator,
    is_down: AtomicBool,
}

#[async_trait]
impl BackfillCoordinator for Plugged {
    fn id(&self) -> &str {
        "coordinator.local"
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Error::unavailable("connection refused"));
        }
        self.inner.apply(key, command).await
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        self.inner.inspect(query).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_down_is_not_somebody_else_who_holds_the_window() {
    for on_loss in [OnLoss::Stop, OnLoss::Alone] {
        let coordinator =
            Arc::new(Plugged { inner: InProcessCoordinator::default(), is_down: AtomicBool::new(true) });
        let store = Store::new();
        let range = windows(0, 100);
        let fetcher = Arc::new(exchange(range));
        let config = config("w").with_on_loss(on_loss, Duration::from_secs(20));
        let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config));
        let events = Events::default();
        let request = BackfillRequest::new(btc(), range);
        let outcome = strategy.ensure_range(&request, &store, &events).await;
        let events = events.0.into_inner().unwrap();
        assert!(
            events.iter().any(
                |event| matches!(event, ProgressEvent::Waiting { wait, .. } if wait.what == "coordinator")
            )
        );
        match on_loss {
            OnLoss::Stop => {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.chain().contains("connection refused"), "{}", error.chain());
                assert!(ranges(&fetcher).is_empty());
                // It comes back half way, and goes away again.
                coordinator.is_down.store(false, Ordering::Relaxed);
                let report = fill(&strategy, &store, windows(0, 60)).await;
                assert!(report.is_complete());
                coordinator.is_down.store(true, Ordering::Relaxed);
                let report = strategy.ensure_range(&request, &store, &Events::default()).await;
                assert!(report.is_err(), "nothing could be tried");
            }
            OnLoss::Alone => {
                let report = outcome.unwrap();
                assert!(report.is_complete(), "{:?}", report.failed);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_goes_away_loses_no_window_that_was_begun() {
    let coordinator =
        Arc::new(Plugged { inner: InProcessCoordinator::default(), is_down: AtomicBool::new(false) });
    let store = Store::new();
    let range = windows(0, 100);
    let fetcher = exchange(range);
    let unplugged = Arc::clone(&coordinator);
    let fetcher = Arc::new(fetcher.with_failures(move |number, _| {
        unplugged.is_down.store(number > 30, Ordering::Relaxed);
        None
    }));
    let config = config("w").with_on_loss(OnLoss::Stop, Duration::from_secs(5));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config));
    let report = fill(&strategy, &store, range).await;
    let asked = ranges(&fetcher).len() as u64;
    assert_eq!(report.rows_written, asked * u64::from(WINDOW), "what was fetched is stored");
    assert!(asked < 60, "{asked}");
    let failed: u64 = report.failed.iter().map(|(range, _)| range.count(btc().interval)).sum();
    assert_eq!(failed + report.rows_written, 100 * u64::from(WINDOW), "the rest is told as failed");
    // Once it is back, the leases that could not be ended run out, and nothing is in the way.
    coordinator.is_down.store(false, Ordering::Relaxed);
    let fetcher = Arc::new(exchange(range));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), self::config("v")));
    assert!(fill(&strategy, &store, range).await.is_complete());
    assert_eq!(store.present(&btc()).await, range.into());
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_is_not_done() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Store::new();
    let range = windows(0, 100);
    let fetcher = exchange(range);
    let fetcher = Arc::new(fetcher.with_latency(TokioClock::new(), Duration::from_secs(1)));
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    let report = fill_until(&strategy, &store, range, Duration::from_millis(2_500)).await;
    assert!(report.stopped);
    let states = states(&*coordinator).await;
    assert_eq!(states, BTreeMap::from([("done", 16), ("released", 8)]));
    assert_eq!(report.rows_written, states["done"] as u64 * u64::from(WINDOW));
}

/// Leases that are granted after the fill was told to end are given back as well.
#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_is_just_being_claimed() {
    let is_claim = |command: &Command| matches!(command, Command::Claim { .. });
    let coordinator = Arc::new(Slow::new(is_claim, Duration::from_millis(300)));
    let store = Store::new();
    let range = windows(0, 100);
    let strategy = worker(&Arc::new(exchange(range)), keeper(Arc::clone(&coordinator), config("w")));
    assert!(fill_until(&strategy, &store, range, Duration::from_millis(150)).await.stopped);
    let states = states(&*coordinator).await;
    assert!(states["released"] > 0 && !states.contains_key("held"), "{states:?}");
}

/// A lease that ran out while its renewal was under way is lost for good, though the renewal came through before anything
/// was written: what was cut off is not taken for all that there is.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_too_late_does_not_bring_a_lease_back() {
    let is_renewal = |command: &Command| matches!(command, Command::Renew { .. });
    let coordinator = Arc::new(Slow::new(is_renewal, Duration::from_millis(19_500)));
    let store = Store::new();
    let fetcher = Arc::new(exchange(windows(0, 2)).with_latency(TokioClock::new(), Duration::from_secs(45)));
    let one_at_a_time = BackfillConfig::default().with_windows_in_flight(1);
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w"))).with_config(one_at_a_time);
    let filling = tokio::time::timeout(Duration::from_secs(300), fill(&strategy, &store, windows(0, 2)));
    assert!(filling.await.is_err(), "the windows are tried again and again");
    assert!(store.writes().is_empty() && ranges(&fetcher).len() > 4);
    assert!(!states(&*coordinator).await.contains_key("partial"), "nothing of them counts as settled");
}

/// A coordinator whose answers to some calls come late, after it has done what was asked.
#[derive(Debug)]
struct Slow {
    inner: InProcessCoordinator,
    is_slow: fn(&Command) -> bool,
    delay: Duration,
}

impl Slow {
    fn new(is_slow: fn(&Command) -> bool, delay: Duration) -> Self {
        Self { inner: InProcessCoordinator::default(), is_slow, delay }
    }
}

#[async_trait]
impl BackfillCoordinator for Slow {
    fn id(&self) -> &str {
        "slow"
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        let is_slow = (self.is_slow)(&command);
        let reply = self.inner.apply(key, command).await;
        if is_slow {
            TokioClock::new().sleep(self.delay).await;
        }
        reply
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        self.inner.inspect(query).await
    }
}

/// What was stored before the store went away is told, and the rest as failed.
#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_between_blocks_loses_no_report() {
    let coordinator = Arc::new(InProcessCoordinator::default());
    let store = Arc::new(Store::new());
    let range = windows(0, 200);
    let away = Arc::clone(&store);
    let fetcher = exchange(range).with_failures(move |number, _| {
        away.coverage_is_down.store(number > 60, Ordering::Relaxed);
        None
    });
    let fetcher = Arc::new(fetcher);
    let strategy = worker(&fetcher, keeper(Arc::clone(&coordinator), config("w")));
    let report = fill(&strategy, &store, range).await;
    assert!(report.rows_written > 40 * u64::from(WINDOW), "{}", report.rows_written);
    let failed: RangeSet = report.failed.iter().map(|(range, _)| *range).collect();
    let told = failed.union(&store.present(&btc()).await);
    assert_eq!(told, range.into(), "every bar is stored or told as failed");
}
