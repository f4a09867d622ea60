//! Staying current: each series is filled as its bars close, through outages and wrong clocks.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::frame::{self, Conflict};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, HistoryBackend, HistoryBackendExt, Moment,
    NoProgress, ProgressSink, RangeSet, ReadRequest, Result, SeriesKey, SourceId, StopSignal, TimeRange,
    Timestamp,
};

use qmtl_observe::TokioClock;

use crate::FetcherBackfillStrategy;
use crate::absence::opened_by;
use crate::strategy::batch;
use pace::Pace;

/// The longest sleep: a wall clock may be set while we sleep by the other one.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The shortest time between two second looks at bars that were stored early.
const REREAD_EVERY: Duration = Duration::from_secs(30);

/// How long after it has settled a bar is looked at again when its source does not have it any more.
const REREAD_FOR: Duration = Duration::from_secs(3_600);

/// How a [`Follower`] follows; the defaults suit most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowConfig {
    /// When after its close a bar is asked for, until it is there; then with the next bar. Ascending and
    /// not empty.
    pub ask_after: Vec<Duration>,
    /// A series without rows in so many of its newest bars is asked once for each close.
    pub quiet_bars: u32,
    /// How far back a round looks for bars that have come to be missing again: a proof about a bar of the
    /// last seven days is believed for a day at most.
    pub look_back: Duration,
    /// Series that are filled side by side.
    pub at_once: usize,
}

impl Default for FollowConfig {
    /// 1, 3, 7, 15 and 30 seconds; five bars; eight days; four series.
    fn default() -> Self {
        Self {
            ask_after: [1, 3, 7, 15, 30].map(Duration::from_secs).to_vec(),
            quiet_bars: 5,
            look_back: Duration::from_secs(8 * 86_400),
            at_once: 4,
        }
    }
}

impl FollowConfig {
    /// Series that are filled side by side.
    #[must_use]
    pub fn with_at_once(mut self, series: usize) -> Self {
        self.at_once = series.max(1);
        self
    }

    /// When after its close a bar is asked for; nothing changes when there is no time at all.
    #[must_use]
    pub fn with_ask_after(mut self, times: Vec<Duration>) -> Self {
        if !times.is_empty() {
            self.ask_after = times;
        }
        self
    }
}

/// What came of one round of one series.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Round {
    /// The series.
    pub key: SeriesKey,
    /// The bars that were looked at.
    pub range: TimeRange,
    /// What was filled; an error when nothing could be tried. `None` in a round that only looked again.
    pub filled: Option<Result<BackfillReport>>,
    /// Stored rows that their source has revised since, and which were replaced.
    pub revised: Vec<Conflict>,
    /// Whether stored bars could be compared with their source once more; `None` when none were due. An error is
    /// no loss: they are due again half a minute later.
    pub compared: Option<Result<()>>,
}

/// Keeps series current: asks for each bar soon after its close and again until it is there, fills what an
/// outage has left, and looks once more at bars that were stored before their source was done with them.
///
/// Bars close by the wall clock, pauses pass by the monotonic one. A wall clock that is set, in either
/// direction, makes every series due at once; nothing waits for a time that has been and gone.
#[derive(Debug)]
pub struct Follower {
    clock: Arc<dyn Clock>,
    config: FollowConfig,
    series: Vec<Followed>,
    progress: Arc<dyn ProgressSink>,
    stop: StopSignal,
    /// When the clocks were last compared.
    seen: Moment,
}

/// One series that is kept current.
#[derive(Clone, Debug)]
struct Followed {
    key: SeriesKey,
    strategy: FetcherBackfillStrategy,
    pace: Pace,
    /// What was stored when its source might still change it.
    early: Vec<Early>,
    /// When bars were last looked at again, on the monotonic clock.
    reread_at: Option<Duration>,
}

/// Bars of one source that it might still change when they were stored.
#[derive(Clone, Debug)]
struct Early {
    source: SourceId,
    bars: RangeSet,
    /// Their rows as they came to stand in the store, as far as they have been looked at: a row that is another
    /// one by now is somebody else's.
    rows: RecordBatch,
}

impl Early {
    /// Looks at the rows of the bars that have not been looked at. A store that does not answer is asked with the
    /// next round.
    async fn look(&mut self, key: &SeriesKey, backend: &dyn HistoryBackend) -> Result<()> {
        let unseen = self.bars.difference(&frame::row_runs(key, &self.rows)?);
        let Some(span) = unseen.span() else { return Ok(()) };
        let rows = backend.read_all(&ReadRequest::new(key.clone(), span)).await?;
        let rows = batch::within(&rows, &unseen)?;
        self.rows = batch::join(key, &[self.rows.clone(), rows])?;
        Ok(())
    }

    /// Keeps `bars` alone.
    fn retain(&mut self, bars: RangeSet) -> Result<()> {
        self.rows = batch::within(&self.rows, &bars)?;
        self.bars = bars;
        Ok(())
    }
}

impl Follower {
    /// Follows nothing yet, on the system's clock.
    #[must_use]
    pub fn new(config: FollowConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        let seen = Moment::now(&*clock);
        let (progress, stop) = (Arc::new(NoProgress), StopSignal::new());
        Self { clock, config, series: Vec::new(), progress, stop, seen }
    }

    /// The clock by which bars close and pauses pass. Call it before anything is followed.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.seen = Moment::now(&clock);
        self.clock = Arc::new(clock);
        self
    }

    /// Tells `progress` what the fills do, retries above all: a round is over only when they are.
    #[must_use]
    pub fn with_progress(mut self, progress: impl ProgressSink + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// Ends well when this signal is given: rounds under way are cut short and told, none is begun.
    #[must_use]
    pub fn with_stop(mut self, signal: StopSignal) -> Self {
        self.stop = signal;
        self
    }

    /// Keeps `key` current from `start` on.
    pub fn follow(&mut self, key: SeriesKey, start: Timestamp, strategy: FetcherBackfillStrategy) {
        let pace = Pace::new(key.interval, start);
        self.series.push(Followed { key, strategy, pace, early: Vec::new(), reread_at: None });
    }

    /// Looks after `key` no longer; whether anything is still followed.
    pub fn unfollow(&mut self, key: &SeriesKey) -> bool {
        self.series.retain(|own| own.key != *key);
        !self.series.is_empty()
    }

    /// Takes in a fill of a followed series that somebody else ran: what it stored need not be looked for.
    pub async fn take_in(&mut self, report: &BackfillReport, backend: &dyn HistoryBackend) {
        // A clock that is set to and fro between two looks would seem never to have been set.
        let (now, _) = self.compare_clocks();
        if let Some(own) = self.series.iter_mut().find(|own| own.key == report.key) {
            own.take_in(report, (now.wall, &self.config), backend).await;
        }
    }

    /// Waits until a series is due, looks after all that are, and tells what came of it: at least one
    /// round, none once it is [stopped](Self::with_stop). Never returns otherwise when nothing is followed.
    ///
    /// Dropping the future cancels: what is stored stays, and the same rounds are due again.
    pub async fn next(&mut self, backend: &dyn HistoryBackend) -> Vec<Round> {
        while !self.stop.is_stopped() {
            let (Moment { wall: now, monotonic, .. }, _) = self.compare_clocks();
            let rounds: Vec<_> = self.series.iter().filter_map(|own| own.due(now, monotonic)).collect();
            if rounds.is_empty() {
                let next = self.series.iter().map(|own| own.next_due(now, monotonic)).min();
                let wait = next.map_or(LONGEST_SLEEP, |due| due.since(now)).min(LONGEST_SLEEP);
                // A wait that rounds to nothing would spin.
                tokio::select! {
                    biased;
                    () = self.stop.stopped() => {}
                    () = self.clock.sleep(wait.max(Duration::from_millis(10))) => {}
                }
                continue;
            }
            let (series, progress, stop) = (&self.series, &self.progress, &self.stop);
            let done: Vec<_> = stream::iter(rounds)
                .map(|due| async move {
                    let own = series.iter().find(|own| own.key == due.key).expect("it is one of them");
                    own.run(due, (backend, &**progress), stop).await
                })
                .buffer_unordered(self.config.at_once)
                .collect()
                .await;
            let mut told = Vec::new();
            let (Moment { wall: now, monotonic, .. }, was_set) = self.compare_clocks();
            for (round, looked_at) in done {
                if let Some(own) = self.series.iter_mut().find(|own| own.key == round.key) {
                    if let Some(bars) = looked_at {
                        own.looked_at(&bars, monotonic);
                    }
                    match &round.filled {
                        Some(Ok(report)) => own.take_in(report, (now, &self.config), backend).await,
                        Some(Err(_)) => own.pace.failed(now, &self.config),
                        None => {}
                    }
                }
                told.push(round);
            }
            if was_set {
                // What a round has settled by a clock that was set meanwhile is not settled.
                self.series.iter_mut().for_each(|own| own.pace.due_now());
            }
            return told;
        }
        Vec::new()
    }

    /// The time by both clocks, and whether the wall clock was set since the last look: then every series is due.
    fn compare_clocks(&mut self) -> (Moment, bool) {
        let now = Moment::now(&*self.clock);
        let was_set = now.since(self.seen).is_none();
        if was_set {
            tracing::info!(now = %now.wall, before = %self.seen.wall, "the clock was set; every series is looked at");
            self.series.iter_mut().for_each(|own| own.pace.due_now());
        }
        self.seen = now;
        (now, was_set)
    }
}

/// What is to be done for a series now.
#[derive(Clone, Debug)]
struct Due {
    key: SeriesKey,
    /// What to fill.
    fill: Option<TimeRange>,
    /// What to look at again: the source and the rows that it gave.
    again: Vec<(SourceId, RecordBatch)>,
}

impl Followed {
    /// When something is to be done next.
    fn next_due(&self, now: Timestamp, monotonic: Duration) -> Timestamp {
        let early = self.early.iter().filter_map(|early| early.bars.span()).map(TimeRange::start).min();
        let settled = early.and_then(|bar| bar.checked_add(self.settles_after()));
        // Looks are not taken more often than every so often, however short the bars are.
        let pause = self.reread_at.map_or(Duration::ZERO, |at| (at + REREAD_EVERY).saturating_sub(monotonic));
        let rested = now.checked_add(pause).unwrap_or(Timestamp::MAX);
        let again = settled.map(|settled| settled.max(rested));
        again.into_iter().chain([self.pace.due()]).min().unwrap_or(Timestamp::MAX)
    }

    /// How long after it opens a bar is final.
    fn settles_after(&self) -> Duration {
        self.key.interval.duration() + self.strategy.publish_lag() + Duration::from_secs(1)
    }

    fn due(&self, now: Timestamp, monotonic: Duration) -> Option<Due> {
        let fill = self.pace.range(now);
        let is_rested = self.reread_at.is_none_or(|at| monotonic.saturating_sub(at) >= REREAD_EVERY);
        let settled = |bars: &RangeSet| opened_by(now, self.settles_after(), bars);
        let again: Vec<_> = self
            .early
            .iter()
            .filter(|_| is_rested)
            .filter_map(|early| {
                let rows = batch::within(&early.rows, &settled(&early.bars)).ok()?;
                (rows.num_rows() > 0).then(|| (early.source.clone(), rows))
            })
            .collect();
        (fill.is_some() || !again.is_empty()).then(|| Due { key: self.key.clone(), fill, again })
    }

    /// Fills and looks again; when it has looked, also tells what need not be looked at any more.
    async fn run(
        &self,
        due: Due,
        (backend, progress): (&dyn HistoryBackend, &dyn ProgressSink),
        stop: &StopSignal,
    ) -> (Round, Option<Vec<(SourceId, RangeSet)>>) {
        // A bar that has just closed is worth more than a second look at one that is stored.
        let filled = match due.fill {
            Some(range) => {
                let request = BackfillRequest::new(self.key.clone(), range).with_stop(stop.clone());
                Some(self.strategy.ensure_range(&request, backend, progress).await)
            }
            None => None,
        };
        let mut revised = Vec::new();
        let mut compared = (!due.again.is_empty()).then_some(Ok(()));
        let mut looked_at = (!due.again.is_empty()).then(Vec::new);
        for (source, rows) in &due.again {
            let bars = frame::row_runs(&self.key, rows).unwrap_or_default();
            match self.strategy.reread(&self.key, (source, rows), backend, stop).await {
                Ok(reread) => {
                    revised.extend(reread.revised);
                    // A source that has lost a bar is not asked for it for ever.
                    let past = self.settles_after() + REREAD_FOR;
                    let past = reread.as_of.map(|as_of| opened_by(as_of, past, &bars)).unwrap_or_default();
                    looked_at.get_or_insert_default().push((source.clone(), past.union(&reread.checked)));
                }
                Err(error) => compared = Some(Err(error.with("source", source))),
            }
        }
        let looked = due.again.iter().find_map(|(_, rows)| frame::row_runs(&self.key, rows).ok()?.span());
        let range = due.fill.or(looked).unwrap_or(TimeRange::ALL);
        (Round { key: self.key.clone(), range, filled, revised, compared }, looked_at)
    }

    fn looked_at(&mut self, bars: &[(SourceId, RangeSet)], monotonic: Duration) {
        self.reread_at = Some(monotonic);
        for (source, bars) in bars {
            for early in self.early.iter_mut().filter(|early| early.source == *source) {
                let left = early.bars.difference(bars);
                if let Err(error) = early.retain(left) {
                    tracing::warn!(series = %self.key, error = error.chain(), "bars are not looked at again");
                }
            }
        }
        self.early.retain(|early| !early.bars.is_empty());
    }

    async fn take_in(
        &mut self,
        report: &BackfillReport,
        (now, config): (Timestamp, &FollowConfig),
        backend: &dyn HistoryBackend,
    ) {
        let interval = self.key.interval;
        // A clock that is ahead takes every bar for an old one; the source's own may know better.
        let seen = report.answered_at.map_or(now, |at| at.min(now));
        let early =
            seen.checked_sub(self.settles_after()).and_then(|bar| TimeRange::checked(bar, Timestamp::MAX));
        for (source, bars) in &report.filled {
            let bars = early.map_or_else(|| bars.clone(), |early| bars.within(early)).on_grid(interval);
            match self.early.iter_mut().find(|early| early.source == *source) {
                Some(early) => early.bars = early.bars.union(&bars),
                None if !bars.is_empty() => {
                    let rows = RecordBatch::new_empty(frame::ts_only_schema());
                    self.early.push(Early { source: source.clone(), bars, rows });
                }
                None => {}
            }
        }
        for early in &mut self.early {
            if let Err(error) = early.look(&self.key, backend).await {
                tracing::debug!(series = %self.key, error = error.chain(), "stored rows are looked at later");
            }
        }
        let failed_from = report.failed.iter().map(|(range, _)| range.start()).min();
        let end = report.wanted.end();
        let newest = interval.floor(now).unwrap_or(end).min(end);
        let lacks_newest = report.missing.span().is_some_and(|span| span.end() >= newest);
        let is_quiet = lacks_newest && self.is_quiet(newest, config, backend).await;
        self.pace.settle((now, newest), failed_from, lacks_newest && !is_quiet, config);
    }

    /// Whether none of the newest bars has a row. A store that does not answer says nothing of that.
    async fn is_quiet(&self, end: Timestamp, config: &FollowConfig, backend: &dyn HistoryBackend) -> bool {
        let length = self.key.interval.as_micros().saturating_mul(i64::from(config.quiet_bars));
        let newest = end.checked_add_micros(-length).and_then(|start| TimeRange::checked(start, end));
        match newest {
            Some(range) => {
                backend.coverage(&self.key, range).await.is_ok_and(|coverage| coverage.present().is_empty())
            }
            None => true,
        }
    }
}
