//! A worker's hold on its leases: claims them, renews them in time, ends them.
//!
//! All calls of the coordinator are made by one task that does nothing else ([`Keeper::start`] gives it a thread of its
//! own), so that fetching and writing cannot starve a renewal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use qmtl_history_api::{Clock, Error, ErrorKind, Result, StopSignal};
use qmtl_observe::{TokioClock, events, metrics};
use tokio::sync::{mpsc, oneshot};

use super::{BackfillCoordinator, Command, Grant, LeaseKey, Refusal, Reply};

/// What to do when the coordinator does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// Begin no further windows.
    #[default]
    Stop,
    /// Go on without leases: others may do the same windows, which costs requests and no rows.
    Alone,
}

/// How a worker uses leases; the defaults suit most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseConfig {
    /// What the worker is called, in the coordinator's answers and in logs.
    pub worker: String,
    /// How long a lease lasts without a renewal; it is renewed at a third of that.
    pub ttl: Duration,
    /// What to do when the coordinator does not answer.
    pub on_loss: OnLoss,
    /// How long the coordinator is waited for before that.
    pub patience: Duration,
    /// How often the store is looked at for windows that others hold.
    pub look_every: Duration,
}

impl LeaseConfig {
    /// Leases of two minutes for this worker; a coordinator that does not answer is waited for a minute, then the
    /// worker stops; windows that others hold are looked at every two seconds.
    #[must_use]
    pub fn new(worker: impl Into<String>) -> Self {
        let [ttl, patience, look_every] = [120, 60, 2].map(Duration::from_secs);
        Self { worker: worker.into(), ttl, on_loss: OnLoss::default(), patience, look_every }
    }

    /// How long a lease lasts, one second to one hour.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.clamp(Duration::from_secs(1), Duration::from_secs(3_600));
        self
    }

    /// What to do when the coordinator does not answer for so long.
    #[must_use]
    pub fn with_on_loss(mut self, on_loss: OnLoss, patience: Duration) -> Self {
        (self.on_loss, self.patience) = (on_loss, patience);
        self
    }

    /// How often the store is looked at for windows that others hold.
    #[must_use]
    pub fn with_look_every(mut self, pause: Duration) -> Self {
        self.look_every = pause;
        self
    }

    /// How much earlier than the coordinator a worker takes its lease for over: a twentieth of it, but a second at most.
    fn margin(&self) -> Duration {
        (self.ttl / 20).min(Duration::from_secs(1))
    }
}

/// Holds the leases of a worker. Clones share them.
#[derive(Clone)]
pub struct Keeper {
    asks: mpsc::UnboundedSender<Ask>,
    shared: Arc<Shared>,
}

struct Shared {
    coordinator: String,
    config: LeaseConfig,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn event<'a>(&'a self, key: &'a LeaseKey, text: &'a str) -> events::Lease<'a> {
        events::Lease {
            coordinator: &self.coordinator,
            worker: &self.config.worker,
            key: text,
            series: key.series(),
            range: key.range(),
            world: key.world(),
            requested_as_of: key.requested_as_of(),
        }
    }
}

/// What came of a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The lease is ours.
    Ours(HeldLease),
    /// Somebody else has it, or nobody may.
    Refused(Refusal),
}

/// How a lease ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// Everything is settled but so many bars, whose share of the window is told, and which nobody need look at for so
    /// long.
    Complete { missing: u64, ratio: f64, retry_after: Duration },
    /// The window failed.
    Fail(String),
    /// It is given back.
    Release(String),
}

/// What the task is asked for.
enum Ask {
    Claim {
        key: LeaseKey,
        answer: oneshot::Sender<Result<Claimed>>,
    },
    End {
        id: u64,
        ending: Ending,
    },
    /// Answered once every lease that was to end has, or nobody could be told for long.
    Idle {
        answer: oneshot::Sender<()>,
    },
}

/// A lease that the worker holds. One that is dropped without an end is given back.
pub(crate) struct HeldLease {
    /// Its number with the task: tokens are the coordinator's affair.
    id: u64,
    asks: mpsc::UnboundedSender<Ask>,
    state: Arc<State>,
    has_ended: bool,
}

/// What the worker and the task know of a lease.
#[derive(Debug)]
struct State {
    /// Until when it holds, in microseconds of the monotonic clock.
    deadline: AtomicU64,
    /// The share of the window that is settled, as the bits of a float.
    ratio: AtomicU64,
    /// Somebody else has it, or its time is over.
    lost: StopSignal,
    clock: Arc<dyn Clock>,
}

impl State {
    fn deadline(&self) -> Duration {
        Duration::from_micros(self.deadline.load(Ordering::Acquire))
    }

    fn hold_until(&self, deadline: Duration) {
        self.deadline.store(u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn ratio(&self) -> f64 {
        f64::from_bits(self.ratio.load(Ordering::Acquire))
    }
}

impl HeldLease {
    /// Whether a write may begin now.
    pub(crate) fn is_ours(&self) -> bool {
        !self.state.lost.is_stopped() && self.state.clock.monotonic() < self.state.deadline()
    }

    /// A future that returns once it is not ours any more; then it never will be again, even if a renewal was under way.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = Arc::clone(&self.state);
        async move {
            loop {
                let left = state.deadline().saturating_sub(state.clock.monotonic());
                if left.is_zero() {
                    return state.lost.stop();
                }
                tokio::select! {
                    biased;
                    () = state.lost.stopped() => return,
                    () = state.clock.sleep(left) => {}
                }
            }
        }
    }

    /// Tells how much of the window is settled with the next renewal.
    pub(crate) fn settled(&self, ratio: f64) {
        self.state.ratio.store(ratio.to_bits(), Ordering::Release);
    }

    /// Ends it, without waiting for the coordinator's answer.
    pub(crate) fn end(mut self, ending: Ending) {
        self.ask(ending);
    }

    fn ask(&mut self, ending: Ending) {
        if !self.has_ended {
            self.has_ended = true;
            // Without the task the lease ends when its time is over.
            let _ = self.asks.send(Ask::End { id: self.id, ending });
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.ask(Ending::Release("the worker stopped".into()));
    }
}

impl fmt::Debug for HeldLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLease").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Begins to keep leases of `coordinator`, on a thread of its own that ends with the last clone.
    ///
    /// `Unavailable` when the system gives no thread.
    pub fn start(coordinator: impl BackfillCoordinator, config: LeaseConfig) -> Result<Self> {
        let (keeper, work) = Self::with_clock(coordinator, config, TokioClock::new());
        let broken = |e| Error::unavailable("cannot start a thread that renews leases").caused_by(e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        let thread = std::thread::Builder::new().name("qmtl-keeper".into());
        thread.spawn(move || runtime.block_on(work)).map_err(broken)?;
        Ok(keeper)
    }

    /// The same for whoever runs its work themselves, by this clock: a future that is to be polled as long as leases are
    /// held, and ends with the last clone.
    pub fn with_clock(
        coordinator: impl BackfillCoordinator,
        config: LeaseConfig,
        clock: impl Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let shared = Arc::new(Shared { coordinator: coordinator.id().to_owned(), config, clock });
        let (asks, queue) = mpsc::unbounded_channel();
        let task = Task {
            coordinator: Arc::new(coordinator),
            shared: Arc::clone(&shared),
            asks: asks.downgrade(),
            held: BTreeMap::new(),
            last: 0,
            calls: FuturesUnordered::new(),
            ending: 0,
            claims: BTreeSet::new(),
            idle: Vec::new(),
            silent_since: None,
        };
        (Self { asks, shared }, task.run(queue))
    }

    /// How leases are used.
    #[must_use]
    pub fn config(&self) -> &LeaseConfig {
        &self.shared.config
    }

    /// What the coordinator is called.
    #[must_use]
    pub fn coordinator(&self) -> &str {
        &self.shared.coordinator
    }

    /// Claims a lease; an error says nothing of it.
    pub(crate) async fn claim(&self, key: LeaseKey) -> Result<Claimed> {
        let gone = || Error::unexpected("the task that keeps leases has ended");
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Claim { key, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Waits until every lease that was to end has, or the coordinator has been out of reach for as long as is waited for it.
    pub(crate) async fn idle(&self) {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Idle { answer }).is_ok() {
            // Without the task nothing is waited for.
            let _ = answered.await;
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { coordinator, config, .. } = &*self.shared;
        f.debug_struct("Keeper")
            .field("coordinator", coordinator)
            .field("config", config)
            .finish_non_exhaustive()
    }
}

/// A lease as the task knows it.
struct Kept {
    key: LeaseKey,
    token: String,
    state: Arc<State>,
    /// When it is renewed next, on the monotonic clock; `None` while that is asked for.
    renew_at: Option<Duration>,
    /// What it ends with, once that is decided.
    ending: Option<Ending>,
    until_ms: i64,
    _held: metrics::Guard,
}

/// What a call of the coordinator came to.
enum Done {
    Claim {
        id: u64,
        key: LeaseKey,
        begun: Duration,
        reply: Result<Reply>,
        answer: oneshot::Sender<Result<Claimed>>,
    },
    Renew {
        id: u64,
        begun: Duration,
        reply: Result<Reply>,
    },
    End {
        id: u64,
        reply: Result<Reply>,
    },
}

struct Task {
    coordinator: Arc<dyn BackfillCoordinator>,
    shared: Arc<Shared>,
    /// For leases; the queue ends with the last handle and the last lease.
    asks: mpsc::WeakUnboundedSender<Ask>,
    held: BTreeMap<u64, Kept>,
    /// The number of the last claim, and of its lease.
    last: u64,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    /// How many leases are being ended.
    ending: usize,
    /// The claims under way: one that nobody waits for any more may be granted, and is given back then.
    claims: BTreeSet<u64>,
    /// Who waits for that, each with the claims that were under way when it began to.
    idle: Vec<(oneshot::Sender<()>, BTreeSet<u64>)>,
    /// Since when nobody answers, on the monotonic clock.
    silent_since: Option<Duration>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Ask>) {
        let mut is_open = true;
        while is_open || !self.calls.is_empty() {
            let clock = Arc::clone(&self.shared.clock);
            let next = self.held.values().filter_map(|kept| kept.renew_at).min();
            let due = next.map(|at| at.saturating_sub(clock.monotonic()));
            tokio::select! {
                biased;
                Some(done) = self.calls.next(), if !self.calls.is_empty() => self.done(done),
                () = clock.sleep(due.unwrap_or_default()), if due.is_some() => self.renew(),
                ask = queue.recv(), if is_open => match ask {
                    Some(ask) => self.asked(ask),
                    None => is_open = false,
                },
            }
            let silence =
                self.silent_since.map_or(Duration::ZERO, |since| clock.monotonic().saturating_sub(since));
            let is_silent = silence >= self.shared.config.patience;
            let (claims, has_ended) = (&self.claims, self.ending == 0 && queue.is_empty());
            let over =
                |(_, known): &mut (_, BTreeSet<u64>)| is_silent || (has_ended && known.is_disjoint(claims));
            for (waiting, _) in self.idle.extract_if(.., over) {
                let _ = waiting.send(());
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Claim { key, answer } => {
                let command = Command::Claim {
                    ttl: self.shared.config.ttl,
                    worker: Some(self.shared.config.worker.clone()),
                    request_id: None,
                };
                let (coordinator, begun) = (Arc::clone(&self.coordinator), self.shared.clock.monotonic());
                self.last += 1;
                let id = self.last;
                self.claims.insert(id);
                self.calls.push(
                    async move {
                        let reply = coordinator.apply(&key.to_string(), command).await;
                        Done::Claim { id, key, begun, reply, answer }
                    }
                    .boxed(),
                );
            }
            Ask::End { id, ending } => {
                if let Some(kept) = self.held.get_mut(&id) {
                    (kept.ending, kept.renew_at) = (Some(ending), None);
                    self.ending += 1;
                    self.end(id, Duration::ZERO);
                }
            }
            Ask::Idle { answer } => self.idle.push((answer, self.claims.clone())),
        }
    }

    fn done(&mut self, done: Done) {
        let (Done::Claim { reply, .. } | Done::Renew { reply, .. } | Done::End { reply, .. }) = &done;
        let is_silent = reply.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
        self.silent_since = is_silent.then(|| self.silent_since.unwrap_or(self.shared.clock.monotonic()));
        match done {
            Done::Claim { id, key, begun, reply, answer } => {
                self.claims.remove(&id);
                self.claimed(id, key, begun, reply, answer);
            }
            Done::Renew { id, begun, reply } => self.renewed(id, begun, reply),
            Done::End { id, reply } => self.ended(id, &reply),
        }
    }

    fn claimed(
        &mut self,
        id: u64,
        key: LeaseKey,
        begun: Duration,
        reply: Result<Reply>,
        answer: oneshot::Sender<Result<Claimed>>,
    ) {
        let Shared { config, clock, .. } = &*self.shared;
        let text = key.to_string();
        let event = self.shared.event(&key, &text);
        let grant = match reply {
            Ok(Reply::Granted(grant)) => grant,
            Ok(Reply::Refused(refusal)) => return drop(answer.send(Ok(Claimed::Refused(refusal)))),
            Ok(other) => {
                let error = Error::unavailable("the coordinator answers a claim with something else")
                    .with("answer", format_args!("{other:?}"));
                event.bad_claim_response(&error);
                return drop(answer.send(Err(error)));
            }
            Err(error) => {
                event.claim_failed(&error);
                return drop(answer.send(Err(error)));
            }
        };
        let Grant { token, until, ratio, .. } = grant;
        event.claimed(&token, until.as_millis(), ratio);
        let state = Arc::new(State {
            deadline: AtomicU64::new(0),
            ratio: AtomicU64::new(ratio.to_bits()),
            lost: StopSignal::new(),
            clock: Arc::clone(clock),
        });
        state.hold_until(begun + config.ttl.saturating_sub(config.margin()));
        metrics::completion_ratio(key.series(), &text, ratio);
        let Some(asks) = self.asks.upgrade() else { return };
        let lease = HeldLease { id, asks, state: Arc::clone(&state), has_ended: false };
        let (renew_at, until_ms) = (Some(begun + config.ttl / 3), until.as_millis());
        let kept =
            Kept { key, token, state, renew_at, ending: None, until_ms, _held: metrics::Guard::lease() };
        self.held.insert(id, kept);
        // Whoever asked may be gone: then the lease is dropped here, which gives it back.
        let _ = answer.send(Ok(Claimed::Ours(lease)));
    }

    /// Asks for the renewal of every lease that is due.
    fn renew(&mut self) {
        let begun = self.shared.clock.monotonic();
        for (id, kept) in &mut self.held {
            if kept.renew_at.is_none_or(|at| at > begun) {
                continue;
            }
            kept.renew_at = None;
            let (coordinator, key, id) = (Arc::clone(&self.coordinator), kept.key.to_string(), *id);
            let (ttl, ratio) = (self.shared.config.ttl, Some(kept.state.ratio()));
            let command = Command::Renew { token: kept.token.clone(), ttl, ratio };
            let renewal = async move {
                let reply = coordinator.apply(&key, command).await;
                Done::Renew { id, begun, reply }
            };
            self.calls.push(renewal.boxed());
        }
    }

    fn renewed(&mut self, id: u64, begun: Duration, reply: Result<Reply>) {
        let Shared { config, clock, .. } = &*self.shared;
        let Some(kept) = self.held.get_mut(&id).filter(|kept| kept.ending.is_none()) else { return };
        let now = clock.monotonic();
        match reply {
            Ok(Reply::Renewed(grant)) => {
                kept.state.hold_until(begun + config.ttl.saturating_sub(config.margin()));
                (kept.renew_at, kept.until_ms) = (Some(begun + config.ttl / 3), grant.until.as_millis());
                metrics::completion_ratio(kept.key.series(), &kept.key.to_string(), kept.state.ratio());
            }
            // Nobody answered: again, as long as the lease is ours.
            Err(error) if error.kind() == ErrorKind::Unavailable && now < kept.state.deadline() => {
                tracing::debug!(lease_key = %kept.key, error = error.chain(), "a lease could not be renewed yet");
                kept.renew_at = Some(now + (config.ttl / 12).min(Duration::from_secs(2)));
            }
            _ => {
                tracing::warn!(lease_key = %kept.key, lease_token = kept.token, "the lease is lost");
                metrics::lease_lost();
                kept.state.lost.stop();
            }
        }
    }

    /// Asks for the end of a lease, after a pause.
    fn end(&mut self, id: u64, pause: Duration) {
        let Some((kept, ending)) = self.held.get(&id).and_then(|kept| Some((kept, kept.ending.clone()?)))
        else {
            return;
        };
        let (coordinator, key, token) =
            (Arc::clone(&self.coordinator), kept.key.to_string(), kept.token.clone());
        let (clock, ratio) = (Arc::clone(&self.shared.clock), Some(kept.state.ratio()));
        let command = match ending {
            Ending::Complete { missing, ratio, retry_after } => {
                Command::Complete { token, missing, ratio, retry_after }
            }
            Ending::Fail(reason) => Command::Fail { token, reason, ratio },
            Ending::Release(reason) => Command::Release { token, reason, ratio },
        };
        let call = async move {
            if !pause.is_zero() {
                clock.sleep(pause).await;
            }
            let reply = coordinator.apply(&key, command).await;
            Done::End { id, reply }
        };
        self.calls.push(call.boxed());
    }

    fn ended(&mut self, id: u64, reply: &Result<Reply>) {
        let Some(kept) = self.held.get(&id) else { return };
        // A lease that is over may still be completed; but nobody is waited for without end.
        let is_worth_a_try = self.shared.clock.monotonic() < kept.state.deadline();
        if let Err(error) = reply
            && error.is_retryable()
            && is_worth_a_try
        {
            tracing::debug!(lease_key = %kept.key, error = error.chain(), "a lease could not be ended yet");
            return self.end(id, Duration::from_secs(1));
        }
        let Some(Kept { key, token, ending, until_ms, .. }) = self.held.remove(&id) else { return };
        self.ending -= 1;
        let text = key.to_string();
        let event = self.shared.event(&key, &text);
        let error = match (reply, &ending) {
            (Ok(Reply::Ended { ratio, .. }), Some(Ending::Complete { .. })) => {
                metrics::completion_ratio(key.series(), &text, *ratio);
                return event.completed(&token, until_ms, *ratio);
            }
            (Ok(Reply::Ended { ratio, .. }), Some(Ending::Fail(reason))) => {
                return event.failed(&token, until_ms, *ratio, reason);
            }
            (Ok(Reply::Ended { ratio, .. }), _) => {
                tracing::debug!(
                    lease_key = text,
                    lease_token = token,
                    completion_ratio = ratio,
                    "given back"
                );
                return;
            }
            (Err(error), _) => error.clone(),
            (Ok(other), _) => {
                Error::new(ErrorKind::Conflict, "somebody else has the lease, or it has ended already")
                    .with("answer", format_args!("{other:?}"))
            }
        };
        match ending {
            Some(Ending::Complete { .. }) => event.complete_failed(&error),
            Some(Ending::Fail(_)) => event.fail_failed(&error),
            _ => tracing::debug!(lease_key = text, error = error.chain(), "a lease could not be given back"),
        }
    }
}
