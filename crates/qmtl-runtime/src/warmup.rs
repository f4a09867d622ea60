//! Warm-up: sees to it that every input has the bars that its strategy looks back on.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qmtl_history_api::frame::NotNumbers;
use qmtl_history_api::{
    BackfillReport, BackfillRequest, Clock, Coverage, Error, ErrorKind, HistoryProvider, Interval, RangeSet,
    Result, SeriesKey, StopSignal, TimeRange, Timestamp,
};
use qmtl_observe::{events, metrics};

use crate::{BackfillEngine, EngineConfig, NodeCache, StreamInput};

/// The pause after the first round that left something missing: three calls a round, so fewer
/// than ten a second. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long after the deadline a fill that is stopped may take to store what has come.
const FILL_ENDS_WITHIN: Duration = Duration::from_millis(500);
/// How long after the deadline what is stored by then may still be loaded.
const LOAD_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What a period counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeriodCounts {
    /// Rows, as the window of a node does: where bars are proved not to exist, warm-up looks further back. A stock
    /// has seven hourly bars a day, for example.
    Rows {
        /// The most closed grid points to look at; ten times the period if `None`.
        max_lookback: Option<usize>,
    },
    /// The last `period` closed points of the grid, each stored or proven not to exist. A node whose window is as
    /// long is silent until it has as many rows.
    Grid,
}

impl Default for PeriodCounts {
    /// Rows, of ten times as many points.
    fn default() -> Self {
        Self::Rows { max_lookback: None }
    }
}

/// How many points are looked at for each row of the period, unless that is said.
pub(crate) const LOOKBACK: usize = 10;

/// How inputs are primed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WarmupConfig {
    /// How long one input may take to wait for missing bars and to load what there is, by the monotonic clock. After
    /// that, what is under way ends within a second: a fill stores what has arrived, and what is stored is loaded.
    pub deadline: Duration,
    /// Whether an input that is not ready is an error.
    pub strict: bool,
    /// What a period counts.
    pub period_counts: PeriodCounts,
    /// Whether an input is ready, and nodes run, though a bar is missing among its rows.
    pub holes_allowed: bool,
    /// The world in the labels of metrics and in the requests to providers, if there is one.
    pub world: Option<String>,
    /// Settings of the engine that loads all inputs: how many at once, and how many retries.
    pub engine: EngineConfig,
}

impl Default for WarmupConfig {
    /// Three minutes, not strict, rows without a hole. For two minutes after its close nobody knows whether a bar
    /// without trades exists.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(180),
            strict: false,
            period_counts: PeriodCounts::default(),
            holes_allowed: false,
            world: None,
            engine: EngineConfig::default(),
        }
    }
}

impl WarmupConfig {
    /// Sets how long one input may take, missing bars included.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Says whether an input that is not ready is an error.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets what a period counts.
    #[must_use]
    pub fn with_period_counts(mut self, period_counts: PeriodCounts) -> Self {
        self.period_counts = period_counts;
        self
    }

    /// Says whether an input is ready, and nodes run, though a bar is missing among its rows.
    #[must_use]
    pub fn with_holes_allowed(mut self, allowed: bool) -> Self {
        self.holes_allowed = allowed;
        self
    }

    /// Sets what the engine may do that loads all inputs.
    #[must_use]
    pub fn with_engine(mut self, engine: EngineConfig) -> Self {
        self.engine = engine;
        self
    }

    /// Names the world in the labels of metrics.
    #[must_use]
    pub fn with_world(mut self, world: impl Into<String>) -> Self {
        self.world = Some(world.into());
        self
    }

    /// The one engine that loads these inputs, by the clock of the first: a strategy's inputs have one.
    pub(crate) fn engine_for(&self, inputs: &[StreamInput]) -> BackfillEngine {
        let engine = BackfillEngine::new().with_config(self.engine.clone());
        match inputs.first() {
            Some(input) => engine.with_clock(Arc::clone(input.clock())),
            None => engine,
        }
    }
}

/// The state of one input after warm-up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InputReport {
    /// The input's series.
    pub key: SeriesKey,
    /// The closed bars that were wanted.
    pub window: TimeRange,
    /// Bars in the cache.
    pub bars: usize,
    /// The oldest bar in the cache.
    pub first: Option<Timestamp>,
    /// The newest bar in the cache.
    pub last: Option<Timestamp>,
    /// Bars of the window that are proven not to exist.
    pub known_empty: RangeSet,
    /// Bars of the window that are neither in the cache nor proven not to exist.
    pub missing: RangeSet,
    /// Columns in which a bar of the cache has NaN.
    pub not_numbers: Vec<NotNumbers>,
    /// Whether all bars of the period are present, with none missing between them unless that is allowed.
    pub ready: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// The last error, if there was one.
    pub error: Option<Error>,
}

/// The state of the inputs after warm-up, in their order.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WarmupReport {
    /// One report for each input.
    pub inputs: Vec<InputReport>,
}

impl WarmupReport {
    /// True when every input is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inputs.iter().all(|input| input.ready)
    }
}

/// Warms up inputs, all at once: completes the last `period` closed bars of each through its provider, then loads
/// them into its cache.
///
/// What is missing is requested with `ensure_range` if the provider's capabilities include it, else with `coverage`
/// and `fill_missing`; again after growing pauses, until nothing is missing or the deadline has passed. Then what
/// there is gets loaded. Dropping the future cancels.
///
/// In strict mode an input that is not ready fails the whole: `Unavailable`, naming the required
/// points, the interval, the bounds of what is there and the first gap.
pub async fn warm_up(inputs: &[StreamInput], config: &WarmupConfig) -> Result<WarmupReport> {
    let engine = config.engine_for(inputs);
    let reports = join_all(inputs.iter().map(|input| prime(input, config, &engine))).await;
    let report = WarmupReport { inputs: reports };
    match report.inputs.iter().zip(inputs).find(|(input, _)| !input.ready) {
        Some((failed, stream)) if config.strict => Err(not_ready(failed, stream)),
        _ => Ok(report),
    }
}

async fn prime(stream: &StreamInput, config: &WarmupConfig, engine: &BackfillEngine) -> InputReport {
    let (clock, interval) = (stream.clock(), stream.key().interval);
    let begun = clock.monotonic();
    let period = stream.cache().read(NodeCache::period);
    let (window, filled) = completed(stream, config, begun).await;
    let loaded = load(stream, window, (begun, config.deadline), engine).await;
    let by_rows = matches!(config.period_counts, PeriodCounts::Rows { .. });
    let known_empty = filled.known_empty;
    let report = stream.cache().write(|cache| {
        cache.note_known_empty(&known_empty);
        let rows = RangeSet::from_sorted_points(cache.view().timestamps().iter().copied(), interval);
        // Of rows those count that are there: what lies before the oldest one of a full cache is not wanted.
        let wanted = match cache.oldest().filter(|_| by_rows && cache.len() >= period) {
            Some(oldest) => {
                window.intersect(TimeRange::checked(oldest, Timestamp::MAX).unwrap_or(TimeRange::ALL))
            }
            None => Some(window),
        };
        let wanted = wanted.map(RangeSet::from).unwrap_or_default();
        let missing = wanted.difference(&rows).difference(&known_empty);
        let is_full = if by_rows { cache.len() >= period } else { true };
        InputReport {
            key: stream.key().clone(),
            window,
            bars: cache.len(),
            first: cache.oldest(),
            last: cache.watermark(),
            not_numbers: cache.view().not_numbers(),
            ready: is_full && (missing.is_empty() || (by_rows && config.holes_allowed)),
            known_empty,
            missing,
            elapsed: clock.monotonic().saturating_sub(begun),
            error: loaded.err().or(filled.error),
        }
    });
    let wanted = window.count(interval);
    let settled = wanted - report.missing.count(interval);
    metrics::coverage_ratio(stream.key(), config.world.as_deref(), settled, wanted);
    if report.ready {
        metrics::warmup_ready(&stream.key().node_id, report.elapsed);
    } else {
        events::strategy_not_ready(stream.key(), report.bars, period, report.missing.count(interval));
    }
    stream.report_memory();
    report
}

/// Completes the last bars that a cache is to hold; the window that has them.
async fn completed(stream: &StreamInput, config: &WarmupConfig, begun: Duration) -> (TimeRange, Filled) {
    let (clock, interval) = (stream.clock(), stream.key().interval);
    // Behind a saved state the period lies before its moment, and what came since is extra.
    let (period, extra, capacity) =
        stream.cache().read(|cache| (cache.period(), cache.extra(), cache.capacity()));
    let now = clock.now();
    let mut window = closed_window(interval, now, capacity);
    let mut filled = complete(stream, window, config).await;
    if let PeriodCounts::Rows { max_lookback } = config.period_counts {
        let max_lookback =
            max_lookback.unwrap_or_else(|| period.saturating_mul(LOOKBACK)).saturating_add(extra);
        let since = i64::try_from(extra).ok().and_then(|extra| extra.checked_mul(interval.as_micros()));
        let since = since.and_then(|micros| window.end().checked_add_micros(-micros));
        let since = since.unwrap_or(window.start());
        let mut points = capacity;
        // A bar that is missing may come yet; one that does not exist leaves its place to an older one.
        let may_have = |filled: &Filled, window: TimeRange| {
            let past = TimeRange::checked(window.start(), since).map(RangeSet::from).unwrap_or_default();
            let missing = past.difference(&filled.present).difference(&filled.known_empty);
            let missing = if config.holes_allowed { 0 } else { missing.count(interval) };
            filled.present.intersection(&past).count(interval) + missing
        };
        while may_have(&filled, window) < period as u64 && points < max_lookback {
            let left = config.deadline.saturating_sub(clock.monotonic().saturating_sub(begun));
            if left.is_zero() {
                break;
            }
            points = points.saturating_mul(2).min(max_lookback);
            window = closed_window(interval, now, points);
            filled = complete(stream, window, &config.clone().with_deadline(left)).await;
        }
        // A bar that has not come by now is not waited for any longer: an older one takes its place.
        if filled.present.within(window).count(interval) < capacity as u64
            && let Some(coverage) = stored(stream).await
        {
            let farthest = closed_window(interval, now, max_lookback);
            let start = start_of_newest(&coverage, farthest, capacity, interval);
            let start = start.unwrap_or(window.start()).min(window.start());
            window = TimeRange::checked(start, window.end()).unwrap_or(window);
            let known_empty = coverage.empty_by_any(clock.real_now()).within(window);
            filled.known_empty = filled.known_empty.union(&known_empty);
        }
    }
    (window, filled)
}

/// Where the newest `rows` rows of a range begin, or all where there are fewer; `None` where there is none.
pub(crate) fn start_of_newest(
    coverage: &Coverage,
    range: TimeRange,
    rows: usize,
    interval: Interval,
) -> Option<Timestamp> {
    let present = coverage.present().within(range);
    let skipped = present.count(interval).saturating_sub(rows as u64);
    present.nth(skipped, interval)
}

/// What the store has, if it says so in time.
async fn stored(stream: &StreamInput) -> Option<Coverage> {
    let provider = stream.history_provider().filter(|provider| provider.capabilities().coverage)?;
    tokio::select! {
        biased;
        coverage = provider.coverage(stream.key()) => coverage.ok(),
        () = stream.clock().sleep(LOAD_ENDS_WITHIN) => None,
    }
}

/// The last `points` bars that have closed at `now`; never before 1678.
fn closed_window(interval: Interval, now: Timestamp, points: usize) -> TimeRange {
    let micros = i64::try_from(points).unwrap_or(i64::MAX).saturating_mul(interval.as_micros());
    let end = interval.floor(now).unwrap_or(Timestamp::MIN);
    let start = end.checked_add_micros(-micros).unwrap_or(Timestamp::MIN);
    TimeRange::checked(start, end).unwrap_or(
        // Only a clock that stands at the very beginning of time has no closed bar.
        TimeRange::checked(Timestamp::MIN, interval.next(end).unwrap_or(Timestamp::MAX))
            .unwrap_or(TimeRange::ALL),
    )
}

/// What filling a range came to.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    present: RangeSet,
    known_empty: RangeSet,
    /// Whether something was missing that was then asked for.
    asked: bool,
    error: Option<Error>,
}

impl Filled {
    /// Bars that are proven not to exist.
    pub(crate) fn known_empty(&self) -> &RangeSet {
        &self.known_empty
    }
}

/// Has the provider fill `range` until nothing is missing or the deadline has passed.
pub(crate) async fn complete(stream: &StreamInput, range: TimeRange, config: &WarmupConfig) -> Filled {
    let WarmupConfig { deadline, world, .. } = config;
    let begun = stream.clock().monotonic();
    let provider = match stream.require_history() {
        Ok(provider) => provider,
        Err(error) => return Filled { error: Some(error), ..Filled::default() },
    };
    let mut filled = Filled::default();
    let (world, stop) = (world.as_deref(), StopSignal::new());
    let fill = Fill { provider, clock: stream.clock(), key: stream.key(), range, world, stop: &stop };
    let in_time = {
        let mut rounds = pin!(rounds(fill, &mut filled));
        let in_time = tokio::select! {
            biased;
            () = &mut rounds => true,
            () = stream.clock().sleep(*deadline) => false,
        };
        if !in_time {
            // A fill that is stopped says what it was waiting for; one that does not hear is left alone.
            stop.stop();
            tokio::select! {
                biased;
                () = rounds => {}
                () = stream.clock().sleep(FILL_ENDS_WITHIN) => {}
            }
        }
        in_time
    };
    if in_time && filled.asked && filled.error.is_none() {
        let elapsed = stream.clock().monotonic().saturating_sub(begun);
        metrics::gap_repair_latency(stream.key(), world, elapsed);
    }
    if !in_time {
        let late = Error::new(ErrorKind::Cancelled, "the deadline passed while bars were missing")
            .with("series", stream.key())
            .with("deadline_s", format_args!("{:.1}", deadline.as_secs_f64()));
        filled.error = Some(match filled.error.take() {
            Some(last) => late.caused_by(last),
            None => late,
        });
    }
    filled
}

#[derive(Clone, Copy)]
struct Fill<'a> {
    provider: &'a Arc<dyn HistoryProvider>,
    clock: &'a Arc<dyn Clock>,
    key: &'a SeriesKey,
    range: TimeRange,
    world: Option<&'a str>,
    stop: &'a StopSignal,
}

/// Asks again and again; returns when nothing is missing, or when asking again cannot help.
async fn rounds(fill: Fill<'_>, filled: &mut Filled) {
    let mut pause = FIRST_PAUSE;
    loop {
        match fill.round(filled).await {
            Ok(done) => {
                filled.error = None;
                if done {
                    return;
                }
            }
            // That it was stopped before it began tells less than what came before.
            Err(error) if error.kind() == ErrorKind::Cancelled && fill.stop.is_stopped() => return,
            Err(error) => {
                let hopeless = !error.is_retryable();
                filled.error = Some(error);
                if hopeless {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            () = fill.stop.stopped() => return,
            () = fill.clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

impl Fill<'_> {
    /// Asks for `range` on behalf of the world, so that all metrics of a fill have its label.
    fn request(&self, range: TimeRange) -> BackfillRequest {
        let request = BackfillRequest::new(self.key.clone(), range).with_stop(self.stop.clone());
        self.world.into_iter().fold(request, BackfillRequest::with_world)
    }

    /// One attempt; true when nothing is missing afterwards or nothing can be done.
    async fn round(&self, filled: &mut Filled) -> Result<bool> {
        let able = self.provider.capabilities();
        let request = self.request(self.range);
        if able.ensure_range {
            let ensured = self.provider.ensure_range(&request).await;
            if able.coverage && self.look(filled).await?.is_empty() && is_unable(&ensured) {
                return Ok(true);
            }
            let report = ensured?;
            filled.asked |= report.fetch_requests > 0 || report.rows_written > 0;
            let done = RangeSet::from(self.range).difference(&report.missing);
            // The strategy knows its sources: what it does not miss has a row or a proof.
            filled.known_empty = done.difference(&filled.present);
            return is_done(report);
        }
        if !able.coverage {
            return if able.fill_missing {
                self.provider.fill_missing(&request).await.and_then(is_done)
            } else {
                Ok(true)
            };
        }
        let Some(gap) = self.look(filled).await?.span() else { return Ok(true) };
        if !able.fill_missing {
            return Ok(true);
        }
        filled.asked = true;
        let report = self.provider.fill_missing(&self.request(gap)).await?;
        let missing = self.look(filled).await?;
        is_done(report).map(|_| missing.is_empty())
    }

    /// Reads the coverage; what is missing of the range, on the grid.
    async fn look(&self, filled: &mut Filled) -> Result<RangeSet> {
        let coverage: Coverage = self.provider.coverage(self.key).await?.within(self.range);
        filled.present = coverage.present().clone();
        filled.known_empty = coverage.empty_by_any(self.clock.real_now());
        let missing = RangeSet::from(self.range).difference(&filled.present).difference(&filled.known_empty);
        Ok(missing.on_grid(self.key.interval))
    }
}

/// Whether the provider has nothing to fill from: no harm where nothing is missing.
fn is_unable(ensured: &Result<BackfillReport>) -> bool {
    ensured.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::NoStrategy | ErrorKind::NoFetcher))
}

/// Whether nothing of a request is missing; why the first part of it failed, if one did.
fn is_done(report: BackfillReport) -> Result<bool> {
    let failed = report.failed.into_iter().next().map(|(_, error)| error);
    failed.or(report.last_error).map_or(Ok(report.missing.is_empty()), Err)
}

/// Loads `range` into the cache, as part of work that began at `begun` and is to end `deadline` later.
pub(crate) async fn load(
    stream: &StreamInput,
    range: TimeRange,
    (begun, deadline): (Duration, Duration),
    engine: &BackfillEngine,
) -> Result<()> {
    if stream.history_provider().is_none() {
        return Ok(());
    }
    let until = begun.saturating_add(deadline).saturating_add(LOAD_ENDS_WITHIN);
    let left = until.saturating_sub(stream.clock().monotonic());
    tokio::select! {
        biased;
        loaded = stream.load_by(engine, range) => loaded.map(|_| ()),
        () = stream.clock().sleep(left) => {
            Err(Error::new(ErrorKind::Cancelled, "the deadline passed while history was loaded")
                .with("series", stream.key())
                .with("deadline_s", format_args!("{:.1}", deadline.as_secs_f64())))
        }
    }
}

fn not_ready(report: &InputReport, stream: &StreamInput) -> Error {
    let interval = report.key.interval;
    let pair = |(first, last): (Timestamp, Timestamp)| format!("{first} to {last}");
    let bounds = report.first.zip(report.last).map_or_else(|| "nothing".to_owned(), pair);
    let error = Error::unavailable("warm-up is not complete: bars are missing")
        .retryable(false)
        .with("node_id", &report.key.node_id)
        .with("interval", interval)
        .with("required_points", stream.cache().read(NodeCache::period))
        .with("missing_points", report.missing.count(interval))
        .with("coverage", bounds)
        .with(
            "first_gap",
            report.missing.inclusive(interval).first().copied().map_or_else(|| "none".to_owned(), pair),
        );
    match &report.error {
        Some(cause) => error.caused_by(cause.clone()),
        None => error,
    }
}

#[cfg(test)]
mod tests;
