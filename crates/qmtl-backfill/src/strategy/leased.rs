//! A fill that shares its windows with others under leases.
//!
//! Windows are worked on by blocks, each about a partition of a store, beginning somewhere that the worker's name decides:
//! workers meet at few windows, and what one of them writes together lies together.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qmtl_history_api::{
    AutoBackfillStrategy as _, Coverage, Error, ErrorKind, Interval, ProgressEvent, RangeSet, Result,
    TimeRange, Timestamp, Wait,
};

use super::fetch::Answer;
use super::tally::Tally;
use super::{FetcherBackfillStrategy, Job, Run, Work, with_bars_before};
use crate::lease::{
    Claimed, Ending, HeldLease, Keeper, LEASED_WINDOW_BARS, LeaseKey, OnLoss, Outcome, Refusal, Status,
};
use crate::plan::{Plan, Window};

/// Windows of a block: with 900 bars a window, a little less than a partition of the embedded store.
const BLOCK: i64 = 48;
/// How long a window that could not be settled is left alone, where nothing says when it may be.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much sooner than usual the windows of others are looked at while they come to an end one after another.
const SOONER: u32 = 16;
/// How long a coordinator may take to hear of the last windows before it is said that it is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// Until a coordinator that is gone is asked again by a worker that goes on alone.
const ALONE_FOR: Duration = Duration::from_secs(30);

/// Why nobody is asked for a window.
#[derive(Debug)]
pub(super) enum Lack {
    /// Nothing of it is missing any more: somebody else has filled it.
    Filled,
    /// Somebody else has it, or nobody may have it now.
    Refused(Refusal),
    /// It is left for later, because somebody else works nearby.
    Later,
    /// The lease was lost.
    Lost,
    /// Nothing can be said of it: the store or the coordinator does not answer.
    Failed { error: Error, is_final: bool },
}

/// How the windows of a job are leased.
pub(super) struct Leasing<'a> {
    run: &'a Run<'a>,
    strategy: &'a FetcherBackfillStrategy,
    keeper: &'a Keeper,
    /// What was missing when the fill began.
    wanted: &'a RangeSet,
    /// Until when the worker goes on without the coordinator, on the monotonic clock.
    alone_until: &'a Mutex<Option<Duration>>,
    /// Whether windows near those of others are left for later.
    is_shy: bool,
    /// Whether a lease was granted to the job.
    has_leases: AtomicBool,
    /// Whether a window of the job is somebody else's.
    has_others: AtomicBool,
    /// What was not to be had.
    lacking: Mutex<Vec<(TimeRange, Lack)>>,
}

impl<'a> Leasing<'a> {
    /// Claims a window, and brings what is missing of it up to date.
    pub(super) async fn take(&self, window: &mut Window) -> Result<Option<HeldLease>, Lack> {
        if self.is_shy && self.has_others.load(Ordering::Relaxed) && !self.has_leases.load(Ordering::Relaxed)
        {
            return Err(Lack::Later);
        }
        let lease = self.claim(window.range).await?;
        let backend = self.run.backend;
        let failed = |error: Error| Lack::Failed { error, is_final: false };
        let mut known = backend.coverage(&self.run.request.key, window.range).await.map_err(failed)?;
        self.run.ended.leave_out_of(&mut known);
        let interval = self.run.request.key.interval;
        let wanted = window.range.intersect(self.run.request.range).unwrap_or(window.range);
        let plan = self.strategy.plan_from((interval, wanted), &known, self.strategy.clock.now());
        let plan = plan.map_err(failed)?;
        let missing = self.missing(window.range, &known);
        if plan.gaps().is_empty() {
            if let Some(lease) = lease {
                lease.end(self.ending(window.range, &missing, &RangeSet::new()));
            }
            return Err(Lack::Filled);
        }
        window.gaps = plan.gaps().clone();
        if let Some(lease) = &lease {
            lease.settled(self.share(window.range, &missing));
        }
        Ok(lease)
    }

    /// Claims the lease of a window; `None` where the worker goes on without.
    async fn claim(&self, window: TimeRange) -> Result<Option<HeldLease>, Lack> {
        let (clock, config) = (&self.strategy.clock, self.keeper.config());
        let failed = |error: Error| Lack::Failed { error, is_final: true };
        let key = self.key(window).map_err(failed)?;
        // A worker that is alone already looks now and then whether it still is, and does not wait for that.
        let patience = if self.alone_until().is_some() { Duration::ZERO } else { config.patience };
        let give_up = clock.monotonic() + patience;
        let give_up = self.run.until.map_or(give_up, |until| until.min(give_up));
        loop {
            let now = clock.monotonic();
            if self.alone_until().is_some_and(|until| now < until) {
                return Ok(None);
            }
            let claimed = self.keeper.claim(key.clone()).await;
            if claimed.is_ok() && self.be_alone_until(None).is_some() {
                tracing::info!("the coordinator answers again");
            }
            let error = match claimed {
                Ok(Claimed::Ours(lease)) => {
                    self.has_leases.store(true, Ordering::Relaxed);
                    return Ok(Some(lease));
                }
                Ok(Claimed::Refused(refusal)) => {
                    self.has_others.store(true, Ordering::Relaxed);
                    return Err(Lack::Refused(refusal));
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(failed(error));
            }
            let now = clock.monotonic();
            let is_over = now >= give_up;
            match config.on_loss {
                OnLoss::Alone if is_over => {
                    if self.be_alone_until(Some(now + ALONE_FOR)).is_none() {
                        let error = error.chain();
                        tracing::warn!(error, "the coordinator does not answer; going on without leases");
                    }
                }
                OnLoss::Stop if is_over => {
                    let message = "the coordinator does not answer, so no window is begun";
                    let error = Error::unavailable(message).caused_by(error).exhausted();
                    return Err(failed(error.with("coordinator", self.keeper.coordinator())));
                }
                _ => {
                    let left = give_up.saturating_sub(now);
                    let wait = Wait::new("coordinator", self.keeper.coordinator(), left);
                    self.tell(&ProgressEvent::Waiting { window, wait });
                    clock.sleep(left.min(Duration::from_secs(1))).await;
                }
            }
        }
    }

    fn alone_until(&self) -> Option<Duration> {
        *self.alone_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on without the coordinator until then, or with it; what was so before.
    fn be_alone_until(&self, until: Option<Duration>) -> Option<Duration> {
        std::mem::replace(&mut *self.alone_until.lock().unwrap_or_else(PoisonError::into_inner), until)
    }

    fn key(&self, window: TimeRange) -> Result<LeaseKey> {
        let request = self.run.request;
        let key = LeaseKey::new(request.key.clone(), window)?;
        let key = key.with_world(request.world.as_deref().unwrap_or_default())?;
        key.with_requested_as_of(request.requested_as_of.as_deref().unwrap_or_default())
    }

    /// What is missing of a whole window, whatever of it was asked for.
    fn missing(&self, window: TimeRange, known: &Coverage) -> RangeSet {
        let (interval, now) = (self.run.request.key.interval, self.strategy.clock.now());
        known.missing(window, interval, &self.strategy.sources(), now)
    }

    /// The share of a window's bars that is settled.
    fn share(&self, window: TimeRange, missing: &RangeSet) -> f64 {
        let interval = self.run.request.key.interval;
        match (window.count(interval), missing.count(interval)) {
            (0, _) => 1.0,
            (points, missing) => points.saturating_sub(missing) as f64 / points as f64,
        }
    }

    /// How the lease of a window ends, by what the store lacks of it.
    fn ending(&self, window: TimeRange, missing: &RangeSet, too_young: &RangeSet) -> Ending {
        if missing.is_empty() {
            return Ending::Complete { missing: 0, ratio: 1.0, retry_after: Duration::ZERO };
        }
        let now = self.strategy.clock.now();
        if window.end() > now {
            return Ending::Release("the window is still open".into());
        }
        let unasked = missing.difference(&self.run.request.range.into());
        let retry_after = if !unasked.is_empty() {
            // Another job may want those, and would take them for settled otherwise.
            Duration::ZERO
        } else {
            let young = too_young.within(window).span();
            let settles = young.and_then(|young| young.end().checked_add(self.strategy.publish_lag()));
            settles.map_or(RETRY_AFTER, |settles| settles.since(now).max(Duration::from_secs(1)))
        };
        let count = missing.count(self.run.request.key.interval);
        Ending::Complete { missing: count, ratio: self.share(window, missing), retry_after }
    }

    fn tell(&self, event: &ProgressEvent) {
        self.run.progress.on_event(&self.run.request.key, event);
    }
}

/// How the lease of a window ends that failed. What says nothing of the window gives it back: an outage, a store that is
/// full, a symbol that nobody knows.
fn failed(error: &Error) -> Ending {
    match error.kind() {
        ErrorKind::Schema | ErrorKind::Unexpected => Ending::Fail(error.to_string()),
        _ => Ending::Release(error.to_string()),
    }
}

impl Job<'_> {
    /// The longest that rows wait for others to be written with: under leases a quarter of their time at most.
    pub(super) fn flush_after(&self) -> Duration {
        let quarter = self.leasing.map(|leasing| leasing.keeper.config().ttl / 4);
        self.config.flush_after.min(quarter.unwrap_or(Duration::MAX))
    }

    /// Takes in that nobody was asked for a window; the error is a reason to stop.
    pub(super) fn lacking(&self, window: &Window, lack: Lack, tally: &mut Tally) -> Option<Error> {
        let leasing = self.leasing?;
        let mut stop = None;
        match &lack {
            Lack::Filled => {
                let bars = window.bars();
                self.tell(&ProgressEvent::WindowStored { window: window.span(), rows: 0, bars });
            }
            Lack::Failed { error, is_final } => {
                self.window_failed(window, error);
                tally.failed(window, error.clone());
                stop = is_final.then(|| error.clone());
            }
            Lack::Lost => self.window_given_up(window),
            Lack::Refused(_) | Lack::Later => {}
        }
        tally.conclude(window);
        leasing.lacking.lock().unwrap_or_else(PoisonError::into_inner).push((window.range, lack));
        stop
    }

    /// Of these answers, those whose leases are still ours: of the others nothing is written.
    pub(super) fn still_leased(&self, chunk: Vec<Answer>, tally: &mut Tally) -> Vec<Answer> {
        let (ours, lost): (Vec<_>, Vec<_>) =
            chunk.into_iter().partition(|answer| answer.lease.as_ref().is_none_or(HeldLease::is_ours));
        for answer in lost {
            self.lacking(&answer.window, Lack::Lost, tally);
        }
        ours
    }

    /// What the store has of these windows now that they are written; `None` where they are not leased, or where it
    /// does not say.
    pub(super) async fn look_after(&self, chunk: &[Answer]) -> Option<Coverage> {
        let leasing = self.leasing?;
        let ranges = chunk.iter().filter(|answer| answer.lease.is_some()).map(|answer| answer.window.range);
        let span = ranges.collect::<RangeSet>().span()?;
        let mut known = self.backend.coverage(self.key, span).await.ok()?;
        leasing.run.ended.leave_out_of(&mut known);
        Some(known)
    }

    /// Ends the lease of an answer that is stored or has failed.
    pub(super) fn end_lease(&self, answer: &mut Answer, after: Option<&Coverage>) {
        let Some((leasing, lease)) = self.leasing.zip(answer.lease.take()) else { return };
        let window = answer.window.range;
        let missing = after.map(|known| leasing.missing(window, known));
        if let Some(missing) = &missing {
            lease.settled(leasing.share(window, missing));
        }
        let ending = match (&answer.error, &missing) {
            (Some(error), _) => failed(error),
            (None, Some(missing)) => leasing.ending(window, missing, &answer.too_young),
            (None, None) => Ending::Release("the store does not say what it has".into()),
        };
        lease.end(ending);
    }
}

/// A window that is to be looked at again.
struct Later {
    /// When, on the monotonic clock.
    due: Duration,
    /// Who has it, as far as that is known.
    worker: Option<String>,
}

impl FetcherBackfillStrategy {
    /// Fills the windows of a plan for which leases can be had, until nothing is left that somebody is still to do.
    pub(super) async fn fill_leased(&self, run: &Run<'_>, plan: &Plan, keeper: &Keeper) -> Result<Work> {
        let sources = self.stand_ins.iter().chain(&self.fetchers).map(|fetcher| fetcher.source_id());
        let tally = Tally::new(sources.collect());
        let mut work = Work {
            tally,
            was_stopped: false,
            vain: None,
            last_error: None,
            requests: 0,
            retry_reasons: BTreeMap::new(),
        };
        let done = self.fill_blocks(run, plan, keeper, &mut work).await;
        // Whoever waits for these windows is to hear of them.
        let patience = async {
            self.clock.sleep(TOLD_AFTER).await;
            let wait = Wait::new("coordinator", keeper.coordinator(), keeper.config().patience);
            let waiting = ProgressEvent::Waiting { window: run.request.range, wait };
            run.progress.on_event(&run.request.key, &waiting);
            run.stop.stopped().await;
            self.clock.sleep(TOLD_AFTER / 2).await;
        };
        tokio::select! {
            biased;
            () = keeper.idle() => {}
            () = patience => {}
        }
        done.map(|()| work)
    }

    async fn fill_blocks(&self, run: &Run<'_>, plan: &Plan, keeper: &Keeper, work: &mut Work) -> Result<()> {
        let mut left: RangeSet = plan.window_ranges().collect();
        let mut blocks = begun_at(blocks(&left, run.request.key.interval), &keeper.config().worker);
        let mut later: BTreeMap<TimeRange, Later> = BTreeMap::new();
        let alone_until = Mutex::new(None);
        let mut is_shy = true;
        let look_every = keeper.config().look_every;
        // Looks are rarer the longer nothing of others is seen to end.
        let (mut pause, mut has_news) = (look_every / SOONER, false);
        loop {
            if run.stop.is_stopped() {
                work.was_stopped = true;
                return Ok(());
            }
            let Some(block) = blocks.pop_front() else {
                if later.is_empty() {
                    return Ok(());
                }
                is_shy = false;
                if !self.wait_for_others(run, keeper, &later).await {
                    work.was_stopped = run.stop.is_stopped();
                    if !work.was_stopped {
                        let message = "the deadline passed before other workers were done with the window";
                        let error = Error::unavailable(message).exhausted();
                        give_up(run, later.into_keys(), &error, work);
                    }
                    return Ok(());
                }
                pause = if std::mem::take(&mut has_news) {
                    look_every / SOONER
                } else {
                    look_every.min(pause * 2)
                };
                let now = self.clock.monotonic();
                let due: RangeSet =
                    later.iter().filter(|(_, own)| own.due <= now).map(|(window, _)| *window).collect();
                later.retain(|_, own| own.due > now);
                blocks = self::blocks(&due, run.request.key.interval).into();
                continue;
            };
            let leasing = Leasing {
                run,
                strategy: self,
                keeper,
                wanted: plan.gaps(),
                alone_until: &alone_until,
                is_shy,
                has_leases: AtomicBool::new(false),
                has_others: AtomicBool::new(false),
                lacking: Mutex::default(),
            };
            let windows = block.intersection(&left);
            let (vain, not_begun) = match self.fill_block(&leasing, &windows, work).await {
                Ok(vain) => (vain, RangeSet::new()),
                // What was done before is not to get lost because the store went away.
                Err(error) => (Some(error), windows.clone()),
            };
            // The store, or the coordinator: then nothing can be tried.
            let mut is_out_of_reach = !not_begun.is_empty();
            let due = self.clock.monotonic() + pause;
            for (window, lack) in leasing.lacking.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let again = match lack {
                    Lack::Refused(refusal) if is_settled(&refusal) => {
                        if refusal.outcome == Outcome::Dead {
                            report_dead(run, window, &refusal, work);
                        }
                        None
                    }
                    Lack::Refused(refusal) => Some(Later { due, worker: refusal.worker }),
                    Lack::Lost => Some(Later { due, worker: None }),
                    Lack::Later => Some(Later { due: Duration::ZERO, worker: None }),
                    Lack::Failed { is_final, .. } => {
                        is_out_of_reach |= is_final;
                        None
                    }
                    Lack::Filled => None,
                };
                match again {
                    Some(again) => drop(later.insert(window, again)),
                    None => left = left.difference(&window.into()),
                }
            }
            has_news |= !windows.difference(&later.keys().copied().collect()).is_empty();
            let Some(error) = vain.filter(|_| !run.stop.is_stopped()) else { continue };
            if is_out_of_reach && work.requests == 0 {
                return Err(error);
            }
            let rest = blocks.iter().chain([&not_begun]).flat_map(RangeSet::iter).chain(later.into_keys());
            give_up(run, rest, &error, work);
            return Ok(());
        }
    }

    /// Works on some windows; the error is a reason to begin no others.
    async fn fill_block(
        &self,
        leasing: &Leasing<'_>,
        windows: &RangeSet,
        work: &mut Work,
    ) -> Result<Option<Error>> {
        let run = leasing.run;
        let range = windows.span().and_then(|span| span.intersect(run.request.range));
        let Some(range) = range else { return Ok(None) };
        let key = &run.request.key;
        let look = run.backend.coverage(key, with_bars_before(range, key.interval));
        let mut known = self.look(run.request, run.until, look).await?;
        run.ended.leave_out_of(&mut known);
        let now = self.clock.now();
        let plan = self.plan_from((key.interval, range), &known.within(range), now)?;
        let filled = windows.difference(&plan.window_ranges().collect());
        for window in filled.iter().filter_map(|window| window.intersect(run.request.range)) {
            let bars = leasing.wanted.within(window).count(key.interval);
            leasing.tell(&ProgressEvent::WindowStored { window, rows: 0, bars });
        }
        let plan = plan.within(windows);
        if plan.gaps().is_empty() {
            return Ok(None);
        }
        let done = self.work(run, &plan, (&known, now), Some(leasing)).await?;
        let vain = done.vain.clone();
        work.add(done);
        Ok(vain)
    }

    /// Waits until a window of others is due; false when the fill is to end before.
    async fn wait_for_others(
        &self,
        run: &Run<'_>,
        keeper: &Keeper,
        later: &BTreeMap<TimeRange, Later>,
    ) -> bool {
        let now = self.clock.monotonic();
        let Some((window, next)) = later.iter().min_by_key(|(_, own)| own.due) else { return true };
        let due = next.due.saturating_sub(now);
        if !due.is_zero() {
            let worker = later.values().find_map(|own| own.worker.clone());
            let at_most = run.until.map_or(keeper.config().ttl, |until| until.saturating_sub(now));
            let wait = Wait::new("lease", worker.unwrap_or_else(|| "another worker".into()), at_most);
            run.progress.on_event(&run.request.key, &ProgressEvent::Waiting { window: *window, wait });
        }
        let is_over = run.until.is_some_and(|until| now + due >= until);
        let pause = run.until.map_or(due, |until| due.min(until.saturating_sub(now)));
        tokio::select! {
            biased;
            () = run.stop.stopped() => false,
            () = self.clock.sleep(pause) => !is_over,
        }
    }
}

/// Reports a window that nobody may claim.
fn report_dead(run: &Run<'_>, window: TimeRange, refusal: &Refusal, work: &mut Work) {
    let message =
        "the window failed too often, so nobody may claim it until its lease is recovered (leases recover)";
    let worker = refusal.worker.as_deref().unwrap_or("unknown");
    let error = Error::new(ErrorKind::Conflict, message).with("window", window).with("last_worker", worker);
    if let Some(window) = window.intersect(run.request.range) {
        let failed = ProgressEvent::WindowFailed { window, error: error.clone() };
        run.progress.on_event(&run.request.key, &failed);
        work.tally.failed_elsewhere(window, error);
    }
}

/// Reports windows that nobody will be asked for any more.
fn give_up(run: &Run<'_>, windows: impl Iterator<Item = TimeRange>, error: &Error, work: &mut Work) {
    for window in windows.filter_map(|window| window.intersect(run.request.range)) {
        work.tally.failed_elsewhere(window, error.clone());
    }
}

/// Whether a refusal is the last word on a window for this fill: nobody will do it soon.
fn is_settled(refusal: &Refusal) -> bool {
    refusal.outcome == Outcome::Dead
        || (refusal.outcome == Outcome::Backoff && refusal.status == Status::Partial)
}

impl Work {
    fn add(&mut self, other: Self) {
        self.tally.add(other.tally);
        self.was_stopped |= other.was_stopped;
        self.last_error = other.last_error.or(self.last_error.take());
        self.requests += other.requests;
        for (reason, count) in other.retry_reasons {
            *self.retry_reasons.entry(reason).or_default() += count;
        }
    }
}

/// Windows by blocks, ascending.
fn blocks(windows: &RangeSet, interval: Interval) -> Vec<RangeSet> {
    let bars = i64::try_from(LEASED_WINDOW_BARS).unwrap_or(i64::MAX).saturating_mul(BLOCK);
    let end_of = |time: Timestamp| {
        let next = interval.index(time).div_euclid(bars).saturating_add(1).saturating_mul(bars);
        interval.opening(next).unwrap_or(Timestamp::MAX)
    };
    let mut blocks = Vec::new();
    let mut left = windows.clone();
    while let Some(span) = left.span() {
        let Some(block) = TimeRange::checked(span.start(), end_of(span.start())) else { break };
        blocks.push(left.within(block));
        left = left.difference(&block.into());
    }
    blocks
}

/// The blocks from one on that the worker's name decides, and then the ones before.
fn begun_at(blocks: Vec<RangeSet>, worker: &str) -> VecDeque<RangeSet> {
    let mut hasher = DefaultHasher::new();
    worker.hash(&mut hasher);
    let hash = hasher.finish();
    let mut blocks = VecDeque::from(blocks);
    if !blocks.is_empty() {
        let first = usize::try_from(hash % blocks.len() as u64).unwrap_or(0);
        blocks.rotate_left(first);
    }
    blocks
}
