//! Filling from a fetcher: coverage, plan, windows in flight, gathered writes, report.

pub(crate) mod batch;
mod fetch;
mod leased;
mod notes;
mod reread;
mod retries;
mod tally;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, Coverage, DataFetcher, Error, ErrorKind,
    FetchRequest, HistoryBackend, Interval, ProgressEvent, ProgressSink, RangeSet, Result, SeriesKey,
    SourceId, SourceProfile, StopSignal, TimeRange, Timestamp, async_trait,
};
use qmtl_observe::{TokioClock, events, metrics};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::BackfillConfig;
use crate::budget::Budget;
use crate::lease::{Keeper, LEASED_WINDOW_BARS};
use crate::plan::{Plan, Planner, Window};
use leased::Leasing;
pub use reread::Reread;
use retries::Retries;
use tally::Tally;
use write::Writer;

/// Completes a range with the rows of a [`DataFetcher`], or of several in order of preference.
///
/// - Of several fetchers each is asked for what those before it did not give: where they had no row,
///   and where they failed. What each proves not to exist is filed under its own name, and a bar is
///   missing until all of them have said so. The report says which one gave which range. A stand-in
///   is asked before all others and decides nothing.
/// - It asks only for bars that have closed and that are neither stored nor proven not to exist.
/// - Windows are fetched side by side within a budget of bytes; their rows are gathered and written
///   together, ascending. A window whose rows contradict the frame or the stored columns is not
///   written at all; of one that breaks off otherwise, what came before stays.
/// - A window that fails does not stop the others. Three things stop the run, because going on
///   would only ask in vain: no source knows the series or its interval, the
///   store cannot take bytes or is damaged, or three writes in a row failed. What was fetched
///   by then is stored where that is possible, and the windows left stand in the report as failed.
/// - Nothing is retried here: retries are the fetcher's business. Running again asks for what is
///   still missing.
/// - A request's [`stop`](BackfillRequest::stop) ends it early: requests to sources are given up, what has come
///   is stored, and the report says exactly what was done.
/// - Dropping the future cancels: requests end, and what the store had acknowledged stays.
#[derive(Clone, Debug)]
pub struct FetcherBackfillStrategy {
    name: &'static str,
    /// In order of preference; never empty.
    fetchers: Vec<Arc<dyn DataFetcher>>,
    /// Asked before them, but what they lack those speak for.
    stand_ins: Vec<Arc<dyn DataFetcher>>,
    clock: Arc<dyn Clock>,
    config: BackfillConfig,
    /// What holds the leases without which no window is filled, when there are several workers.
    keeper: Option<Keeper>,
    /// Series whose proofs have been counted.
    counted: Arc<Mutex<HashSet<SeriesKey>>>,
}

impl FetcherBackfillStrategy {
    /// The name in metric labels.
    pub const NAME: &'static str = "fetcher";

    /// Fills from `fetcher`, at the time of the system's clock.
    #[must_use]
    pub fn new(fetcher: impl DataFetcher) -> Self {
        Self::named(Self::NAME, vec![Arc::new(fetcher)])
    }

    /// The clock by which bars close and pauses pass.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// A strategy that goes by another name in metrics.
    pub(crate) fn named(name: &'static str, fetchers: Vec<Arc<dyn DataFetcher>>) -> Self {
        let (stand_ins, clock) = (Vec::new(), Arc::new(TokioClock::new()));
        Self {
            name,
            fetchers,
            stand_ins,
            clock,
            config: BackfillConfig::default(),
            keeper: None,
            counted: Arc::default(),
        }
    }

    /// Asks `fetcher` for what those before it cannot give: first an exchange, then another one.
    /// Windows are cut to suit the first.
    #[must_use]
    pub fn then(mut self, fetcher: impl DataFetcher) -> Self {
        self.fetchers.push(Arc::new(fetcher));
        self
    }

    /// Asks `fetcher` before all others, as one whose silence and failures mean nothing because the
    /// others speak for what it lacks: the archive of an exchange before its API. Windows are cut to
    /// suit the first of these.
    #[must_use]
    pub fn with_stand_in(mut self, fetcher: impl DataFetcher) -> Self {
        self.stand_ins.push(Arc::new(fetcher));
        self
    }

    /// Changes how it fills.
    #[must_use]
    pub fn with_config(mut self, config: BackfillConfig) -> Self {
        self.config = config;
        self
    }

    /// Fills only windows for which it holds a lease, so that of many workers one fills each. Windows are of
    /// [`LEASED_WINDOW_BARS`](crate::lease::LEASED_WINDOW_BARS) bars then, whatever the configuration and the sources,
    /// so that all workers speak of the same ones.
    ///
    /// - A window is claimed when something of it is missing, and looked at again once the lease is there.
    /// - What others hold is waited for, then looked at in the store, until the request's
    ///   [`stop`](BackfillRequest::stop) or the deadline.
    /// - A lease that was lost ends the work on its window: nothing of it is written any more.
    /// - What the coordinator calls dead stands in the report as failed; what nobody need look at now is missing.
    /// - When the coordinator does not answer, [`LeaseConfig::on_loss`](crate::lease::LeaseConfig::on_loss) says what
    ///   happens. When it does not answer the very first claim, and the worker is to stop, that is the error of
    ///   `ensure_range`.
    #[must_use]
    pub fn with_leases(mut self, keeper: Keeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// What [`ensure_range`](AutoBackfillStrategy::ensure_range) would ask for now; asks nothing.
    ///
    /// `InvalidInput` for a configuration without room, `Unsupported` for bars of a time that the backend cannot
    /// hold, else what the backend answers.
    pub async fn plan(&self, request: &BackfillRequest, backend: &dyn HistoryBackend) -> Result<Plan> {
        backend.capabilities().check_range(&request.key, request.range)?;
        let mut coverage = backend.coverage(&request.key, request.range).await?;
        self.ended(request, &coverage).await.leave_out_of(&mut coverage);
        self.plan_from((request.key.interval, request.range), &coverage, self.clock.now())
    }

    /// The versions of sources whose proofs have ended, because the source has another version by now.
    async fn ended(&self, request: &BackfillRequest, known: &Coverage) -> Ended {
        let fetch = FetchRequest::new(request.key.clone(), request.range);
        let versions: BTreeSet<_> = known.known_empty().iter().map(|proof| &proof.source).collect();
        let mut ended = BTreeSet::new();
        for fetcher in &self.fetchers {
            let id = fetcher.source_id();
            for source in versions.iter().filter(|source| id != ***source && id.covers(source)) {
                if let Some(version) = source.version()
                    && !fetcher.is_current(&fetch, version).await
                {
                    ended.insert((*source).clone());
                }
            }
        }
        Ended(ended)
    }

    /// How long after its close a bar may be published or change, by the slowest of the sources.
    #[must_use]
    pub fn publish_lag(&self) -> Duration {
        let all = self.stand_ins.iter().chain(&self.fetchers);
        let lags = all.map(|fetcher| self.config.profile_of(&**fetcher).publish_lag);
        lags.max().unwrap_or(SourceProfile::PUBLISH_LAG)
    }

    fn plan_from(
        &self,
        (interval, range): (Interval, TimeRange),
        coverage: &Coverage,
        now: Timestamp,
    ) -> Result<Plan> {
        self.config.check()?;
        let mut fetchers = self.fetchers.iter().map(|fetcher| (fetcher.source_id(), fetcher.limits()));
        let (first, limits) = fetchers.next().expect("a strategy has a fetcher");
        let planner = Planner::new(interval, vec![first], limits);
        let planner = fetchers.fold(planner, |planner, (source, limits)| planner.then(source, limits));
        let planner = self
            .stand_ins
            .iter()
            .fold(planner, |planner, own| planner.with_stand_in(own.source_id(), own.limits()))
            .with_settle(self.config.settle);
        let window_bars = self.keeper.as_ref().map(|_| LEASED_WINDOW_BARS).or(self.config.window_bars);
        match window_bars {
            Some(bars) => planner.with_window_bars(bars),
            None => planner,
        }
        .plan(range, coverage, now)
    }
}

#[async_trait]
impl AutoBackfillStrategy for FetcherBackfillStrategy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sources(&self) -> Vec<SourceId> {
        self.fetchers.iter().map(|fetcher| fetcher.source_id()).collect()
    }

    async fn ensure_range(
        &self,
        request: &BackfillRequest,
        backend: &dyn HistoryBackend,
        progress: &dyn ProgressSink,
    ) -> Result<BackfillReport> {
        let _job = metrics::Guard::job();
        let started = self.clock.monotonic();
        let key = &request.key;
        metrics::auto_backfill_request(self.name, key);
        let span = tracing::info_span!("backfill.job", series = %key, range = %request.range);
        let until = self.config.deadline.map(|longest| started + longest);
        let outcome = self.fill(request, (backend, until), progress).instrument(span).await;
        let elapsed = self.clock.monotonic().saturating_sub(started);
        metrics::auto_backfill_duration(self.name, elapsed);
        outcome.map(|mut report| {
            report.elapsed = elapsed;
            report
        })
    }
}

impl FetcherBackfillStrategy {
    /// Everybody who is asked, in order, with what `known` says of each.
    fn asked(&self, known: &Coverage, (interval, now): (Interval, Timestamp)) -> Vec<Source<'_>> {
        // Of several sources nobody knows which one gave a stored row.
        let row = known.present().span().filter(|_| self.fetchers.len() == 1).map(TimeRange::start);
        let stand_ins = self.stand_ins.iter().map(|fetcher| (fetcher, false));
        let sources = self.fetchers.iter().map(|fetcher| (fetcher, true));
        let asked = stand_ins.chain(sources).map(|(fetcher, decides)| {
            let id = fetcher.source_id();
            // What is not believed says nothing of when the series began either.
            let own = known.known_empty().iter().filter(|proof| {
                id.covers(&proof.source) && proof.is_by_trusted_rule() && !proof.is_ahead_of(now)
            });
            let proof = own.filter_map(|proof| proof.ranges.span()).map(TimeRange::start).min();
            Source {
                known_empty: known.empty_by_all(std::slice::from_ref(&id), now),
                begun_by: row.into_iter().chain(proof).min(),
                id,
                max_rows: fetcher.limits().max_rows,
                reach: TimeRange::checked(fetcher.limits().reaches_back_to(interval, now), Timestamp::MAX),
                profile: self.config.profile_of(&**fetcher),
                fetcher: &**fetcher,
                decides,
                refusal: OnceLock::new(),
            }
        });
        asked.collect()
    }

    fn job<'a>(
        &'a self,
        key: &'a SeriesKey,
        (known, columns, now): (&Coverage, &SchemaRef, Timestamp),
        (backend, until): (&'a dyn HistoryBackend, Option<Duration>),
        (progress, leasing): (&'a dyn ProgressSink, Option<&'a Leasing<'a>>),
    ) -> Job<'a> {
        Job {
            key,
            columns: SchemaRef::clone(columns),
            source: joined(self.stand_ins.iter().chain(&self.fetchers)),
            sources: self.asked(known, (key.interval, now)),
            until,
            retries: Retries::new(Arc::clone(&self.clock), until),
            backend,
            progress,
            leasing,
            clock: &*self.clock,
            config: &self.config,
            forming: forming_bar(key, now),
            budget: Budget::new(self.config.memory_budget),
            row_bytes: AtomicU64::new(FIRST_ROW_BYTES),
            requests: AtomicU64::new(0),
            open: Mutex::default(),
            begun: AtomicU64::new(0),
        }
    }

    /// What comes of a look at the store before anything is asked: `Cancelled` once the fill is to stop,
    /// `Unavailable` once its time is over.
    async fn look<T>(
        &self,
        request: &BackfillRequest,
        until: Option<Duration>,
        look: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let stop = request.stop.clone().unwrap_or_default();
        let over = async {
            match until {
                Some(until) => self.clock.sleep(until.saturating_sub(self.clock.monotonic())).await,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            biased;
            () = stop.stopped() => {
                Error::new(ErrorKind::Cancelled, "the fill was stopped before the store had answered")
            }
            look = look => return look,
            () = over => Error::unavailable("the deadline passed before the store answered"),
        };
        Err(error.with("series", &request.key))
    }

    async fn fill(
        &self,
        request: &BackfillRequest,
        (backend, until): (&dyn HistoryBackend, Option<Duration>),
        progress: &dyn ProgressSink,
    ) -> Result<BackfillReport> {
        let key = &request.key;
        backend.capabilities().check_range(key, request.range)?;
        let stop = request.stop.clone().unwrap_or_default();
        let look = async {
            // The bars just before it tell whether the series had begun, which saves a source from looking.
            let known = backend.coverage(key, with_bars_before(request.range, key.interval)).await?;
            let ended = self.ended(request, &known).await;
            Ok((known, ended))
        };
        let (mut known, ended) = self.look(request, until, look).await?;
        ended.leave_out_of(&mut known);
        let before = known.within(request.range);
        let now = self.clock.now();
        let plan = self.plan_from((key.interval, request.range), &before, now)?;
        metrics::auto_backfill_missing_ranges(self.name, key, plan.gaps().len() as u64);
        progress.on_event(
            key,
            &ProgressEvent::Planned {
                bars: plan.estimated_rows(),
                windows: plan.window_count(),
                requests: plan.request_count(),
            },
        );
        let mut report = BackfillReport::new(key.clone(), request.range);
        let after = if plan.gaps().is_empty() {
            before
        } else {
            let run = Run { request, backend, until, progress, stop: &stop, ended: &ended };
            let stood = before.present().clone();
            let work = match &self.keeper {
                Some(keeper) => self.fill_leased(&run, &plan, keeper).await?,
                None => self.work(&run, &plan, (&known, now), None).await?,
            };
            // The report of what was done must not get lost because the store went away.
            let after = match backend.coverage(key, request.range).await {
                Ok(mut after) => {
                    ended.leave_out_of(&mut after);
                    after
                }
                Err(_) => work.tally.applied_to(before, now),
            };
            work.into_report(&mut report, &stood, &after);
            after
        };
        self.conclude(&mut report, &plan, &after);
        if !report.stopped {
            self.count_known_empty(key, backend, !report.known_empty.is_empty()).await;
        }
        let wanted = request.range.count(key.interval);
        let settled = wanted - report.missing.count(key.interval);
        metrics::coverage_ratio(key, request.world.as_deref(), settled, wanted);
        metrics::auto_backfill_rows(self.name, key, report.rows_written);
        report.coverage = after;
        Ok(report)
    }

    /// Runs a plan.
    async fn work(
        &self,
        run: &Run<'_>,
        plan: &Plan,
        (known, now): (&Coverage, Timestamp),
        leasing: Option<&Leasing<'_>>,
    ) -> Result<Work> {
        let Run { request, backend, until, progress, stop, .. } = *run;
        let columns = self.look(request, until, backend.schema(&request.key)).await?;
        let job = self.job(&request.key, (known, &columns, now), (backend, until), (progress, leasing));
        let (tally, was_stopped, vain) = job.run(plan, stop).await;
        let last_error = job.retries.pending(request.range).filter(|_| was_stopped);
        let requests = job.requests.into_inner();
        Ok(Work { tally, was_stopped, vain, last_error, requests, retry_reasons: job.retries.into_reasons() })
    }

    /// Reports how many bars of the whole series are known not to exist: the first time, and where that has changed.
    async fn count_known_empty(&self, key: &SeriesKey, backend: &dyn HistoryBackend, has_changed: bool) {
        let is_first = self.counted.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        if is_first || has_changed {
            match backend.coverage(key, TimeRange::ALL).await {
                Ok(all) => {
                    metrics::known_empty_bars(key, all.empty_by_any(self.clock.now()).count(key.interval))
                }
                // It is counted with the next run.
                Err(_) => drop(self.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(key)),
            }
        }
    }

    /// Says in `report` what is missing after all, and of that what nobody can help or time alone mends.
    fn conclude(&self, report: &mut BackfillReport, plan: &Plan, after: &Coverage) {
        let now = self.clock.now();
        report.missing = after.missing(report.wanted, report.key.interval, &self.sources(), now);
        // What closed days ago by our clock is not young, whatever time it is at its source; nor is anything where
        // it is days ago at the source.
        let is_astray = report.answered_at.is_some_and(|at| now.since(at) > YOUNG_FOR);
        let young = now.checked_sub(YOUNG_FOR).and_then(|from| TimeRange::checked(from, Timestamp::MAX));
        let young = young.filter(|_| !is_astray);
        report.too_young = young.map_or_else(RangeSet::new, |young| report.too_young.within(young));
        report.too_young = report.too_young.intersection(&report.missing);
        report.out_of_reach = plan.out_of_reach().intersection(&report.missing);
        // Of several sources another one may still have the bar; and an answer that is dated by a clock far
        // behind is believed for no time at all.
        report.known_empty = report.known_empty.difference(&report.missing);
    }
}

/// What the jobs of one fill share.
struct Run<'a> {
    request: &'a BackfillRequest,
    backend: &'a dyn HistoryBackend,
    /// When the run is to end, on the monotonic clock.
    until: Option<Duration>,
    progress: &'a dyn ProgressSink,
    stop: &'a StopSignal,
    ended: &'a Ended,
}

/// What came of a job.
struct Work {
    tally: Tally,
    was_stopped: bool,
    /// Why to go on would be vain.
    vain: Option<Error>,
    /// Why a request was being made again when it was stopped.
    last_error: Option<Error>,
    /// Requests without retries.
    requests: u64,
    retry_reasons: BTreeMap<&'static str, u64>,
}

impl Work {
    /// Fills in `report`, given where rows stood before and the coverage at the end.
    fn into_report(self, report: &mut BackfillReport, stood: &RangeSet, after: &Coverage) {
        self.tally.into_report(report, stood, after);
        report.stopped = self.was_stopped;
        report.last_error = self.last_error;
        report.retry_reasons = self.retry_reasons;
        report.retries = report.retry_reasons.values().sum();
        report.fetch_requests = self.requests + report.retries;
    }
}

/// Versions of sources that are not current any more: their proofs count no longer.
struct Ended(BTreeSet<SourceId>);

impl Ended {
    fn leave_out_of(&self, coverage: &mut Coverage) {
        coverage.retain_proofs(|proof| !self.0.contains(&proof.source));
    }
}

/// How long a bar may be called too young: longer than two clocks that are right may differ.
const YOUNG_FOR: Duration = Duration::from_secs(86_400);

/// Bytes that a row is taken for before the first rows have come: a bar of `ts` and seven doubles.
const FIRST_ROW_BYTES: u64 = 64;

/// How many bars before a range are looked at to see whether the series had begun.
const BARS_BEFORE: i64 = 1_000;

/// How often a row counts against the budget: it is held as the source gave it and in form, later
/// in form and joined with others for the store.
const COPIES: u64 = 2;

/// The bar that is open at `now`.
fn forming_bar(key: &SeriesKey, now: Timestamp) -> Option<TimeRange> {
    TimeRange::checked(key.interval.floor(now)?, key.interval.next(now)?)
}

/// A range and the bars just before it.
fn with_bars_before(range: TimeRange, interval: Interval) -> TimeRange {
    let length = interval.as_micros().saturating_mul(BARS_BEFORE);
    let start = range.start().checked_add_micros(-length).unwrap_or(Timestamp::MIN);
    TimeRange::checked(start, range.end()).unwrap_or(range)
}

/// Several sources in one word, for logs.
fn joined<'a>(fetchers: impl Iterator<Item = &'a Arc<dyn DataFetcher>>) -> SourceId {
    let ids: Vec<_> = fetchers.map(|fetcher| fetcher.source_id().as_str().to_owned()).collect();
    SourceId::new(ids.join(",")).expect("a strategy has a fetcher, and its id is not empty")
}

/// One of a run's sources.
struct Source<'a> {
    id: SourceId,
    fetcher: &'a dyn DataFetcher,
    max_rows: Option<u64>,
    /// Where it can have bars.
    reach: Option<TimeRange>,
    profile: SourceProfile,
    /// Where it proved before that it has no row.
    known_empty: RangeSet,
    /// A time by which the series had begun there, as far as the store knows.
    begun_by: Option<Timestamp>,
    /// False for a stand-in, whose failures are nobody's loss.
    decides: bool,
    /// Why it does not know the series or its interval, once it has said so.
    refusal: OnceLock<Error>,
}

/// One run of a plan: what fetching and writing share.
struct Job<'a> {
    key: &'a SeriesKey,
    /// The columns that the series was stored with when the run began.
    columns: SchemaRef,
    /// All sources, for logs.
    source: SourceId,
    sources: Vec<Source<'a>>,
    /// When the run is to end, on the monotonic clock.
    until: Option<Duration>,
    retries: Retries,
    backend: &'a dyn HistoryBackend,
    progress: &'a dyn ProgressSink,
    /// How windows are leased, where they are.
    leasing: Option<&'a Leasing<'a>>,
    clock: &'a dyn Clock,
    config: &'a BackfillConfig,
    /// The bar that was open when the plan was made.
    forming: Option<TimeRange>,
    budget: Budget,
    /// Bytes of the widest row seen, for reservations.
    row_bytes: AtomicU64,
    requests: AtomicU64,
    /// Ordinals of the windows that have started and not ended.
    open: Mutex<BTreeSet<u64>>,
    /// How many windows have started: the first ones of the plan.
    begun: AtomicU64,
}

impl Job<'_> {
    /// Fetches and writes side by side until all is done or the writer finds that to go on is vain.
    /// Says too whether it was stopped before all windows had their turn, and why to go on would be vain.
    async fn run(&self, plan: &Plan, stop: &StopSignal) -> (Tally, bool, Option<Error>) {
        let mut writer = Writer::new(self, SchemaRef::clone(&self.columns));
        // Unbounded in number, bounded in bytes by the budget, so that a slow write never
        // keeps an open request from being read.
        let (sender, receiver) = mpsc::unbounded_channel();
        let fetching = async move {
            let sender = &sender;
            // Those that are not begun in time fail as one, however many they are.
            let windows = plan.windows().take_while(|_| !self.is_over());
            let all = stream::iter(windows).for_each_concurrent(
                self.config.windows_in_flight,
                |window| async move {
                    let answer = self.fetch_window(window).await;
                    // The writer is gone only when this future is about to be dropped.
                    let _ = sender.send(Box::new(answer));
                    // A source that never waits must not keep the writer from its turn.
                    tokio::task::yield_now().await;
                },
            );
            // What was asked is given up; the writer still stores what has come.
            let was_stopped = tokio::select! {
                biased;
                () = stop.stopped() => true,
                () = all => false,
            };
            Ok(was_stopped)
        };
        let work = async { tokio::try_join!(fetching, writer.run(receiver)) };
        let ended = self.retries.tell_while(work, |event| self.tell(&self.in_time(event))).await;
        let mut tally = writer.into_tally();
        let was_stopped = matches!(ended, Ok((true, ())));
        let begun = self.begun.load(Ordering::Relaxed);
        let failure = match ended {
            Err(error) => Some(error),
            Ok((false, ())) if begun < plan.window_count() => Some(self.passed("deadline", None)),
            Ok(_) => None,
        };
        if let Some(error) = &failure {
            for window in plan.windows().take(usize::try_from(begun).unwrap_or(usize::MAX)) {
                if tally.is_concluded(&window) {
                    continue;
                }
                if self.open().contains(&window.ordinal) {
                    self.window_failed(&window, error);
                }
                tally.failed(&window, error.clone());
            }
            tally.failed_from(begun, plan, error.clone());
        }
        (tally, was_stopped, failure)
    }

    /// Whether the time of the run is over.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= self.clock.monotonic())
    }

    /// The error of what was not asked before a limit of time.
    fn passed(&self, limit: &'static str, last: Option<Error>) -> Error {
        let error = Error::unavailable("the deadline passed before everything was answered");
        let error = error.with("limit", limit).exhausted();
        match last {
            Some(last) => error.caused_by(last),
            None => error,
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window_started(&self, window: &Window) {
        self.open().insert(window.ordinal);
        events::Batch::new(self.key, window.span(), &self.source).attempt(1);
        self.tell(&ProgressEvent::WindowStarted { window: window.span() });
    }

    fn window_stored(&self, window: &Window, rows: u64, bars: u64) {
        self.open().remove(&window.ordinal);
        events::Batch::new(self.key, window.span(), &self.source).succeeded(1);
        self.tell(&ProgressEvent::WindowStored { window: window.span(), rows, bars });
    }

    /// The window is somebody else's now.
    fn window_given_up(&self, window: &Window) {
        self.open().remove(&window.ordinal);
    }

    fn window_failed(&self, window: &Window, error: &Error) {
        self.open().remove(&window.ordinal);
        metrics::failure(self.key);
        events::Batch::new(self.key, window.span(), &self.source).failed(1, error);
        self.tell(&ProgressEvent::WindowFailed { window: window.span(), error: error.clone() });
    }

    /// A wait lasts no longer than the run may.
    fn in_time(&self, mut event: ProgressEvent) -> ProgressEvent {
        if let Some(until) = self.until {
            let left = until.saturating_sub(self.clock.monotonic());
            match &mut event {
                ProgressEvent::Retrying { retry, .. } => {
                    retry.at_most = Some(retry.at_most.map_or(left, |most| most.min(left)));
                }
                ProgressEvent::Waiting { wait, .. } => wait.at_most = wait.at_most.min(left),
                _ => {}
            }
        }
        event
    }

    fn tell(&self, event: &ProgressEvent) {
        self.progress.on_event(self.key, event);
    }

    /// Bytes to reserve for a window before anything of it is known.
    fn estimate(&self, window: &Window) -> u64 {
        window.bars().saturating_mul(COPIES * self.row_bytes.load(Ordering::Relaxed))
    }
}
