//! The server's store: the core over a map that outlives every restart, and what happened to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmtl_backfill::lease::{
    BackfillCoordinator, Command, Lease, LeaseClock, Page, Policy, Query, Reply, State, Status, Turn, admit,
};
use qmtl_coordinator::LeaseStore;
use qmtl_history_api::{Clock, Result, Timestamp, async_trait};

use crate::clock::SimClock;

/// A way in which the store is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flaw {
    #[default]
    None,
    /// It grants what is held.
    GrantsWhatIsHeld,
    /// It forgets the number of the last grant when it is restarted.
    ForgetsFences,
    /// It takes any token for the right one when a window is completed.
    TakesAnyToken,
    /// Its clock stands still once it was restarted.
    StandsStill,
    /// It says now and then that somebody holds what nobody holds.
    SaysHeld,
}

/// A clock that does not move.
#[derive(Debug)]
struct Still;

#[async_trait]
impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::MIN
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _: Duration) {}
}

/// Something that the store did.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Granted { key: String, fence: u64, worker: String },
    Renewed { key: String, fence: u64 },
    Ended { key: String, fence: u64, shown: String, status: Status, ratio: f64 },
}

#[derive(Debug)]
pub(crate) struct Durable {
    policy: Policy,
    flaw: Flaw,
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: LeaseClock,
    latest: Timestamp,
    fence: u64,
    leases: BTreeMap<String, Lease>,
    /// With the store's time of each.
    events: Vec<(Timestamp, Event)>,
}

impl Durable {
    pub(crate) fn new(clock: SimClock, flaw: Flaw) -> Self {
        let clock = LeaseClock::new(Arc::new(clock), Timestamp::MIN);
        let latest = Timestamp::MIN;
        let state = Inner { clock, latest, fence: 0, leases: BTreeMap::new(), events: Vec::new() };
        Self { policy: Policy::default(), flaw, state: Mutex::new(state) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ended and was started again, its wall clock may show anything.
    pub(crate) fn restart(&self, clock: impl Clock) {
        let mut state = self.lock();
        state.clock = if self.flaw == Flaw::StandsStill {
            LeaseClock::new(Arc::new(Still), state.latest)
        } else {
            LeaseClock::new(Arc::new(clock), state.latest)
        };
        if self.flaw == Flaw::ForgetsFences {
            state.fence = 0;
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.lock().clock.now()
    }

    /// What happened since it was last asked.
    pub(crate) fn take_events(&self) -> Vec<(Timestamp, Event)> {
        std::mem::take(&mut self.lock().events)
    }

    /// Who holds a key now, by the store's clock.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        let state = self.lock();
        let now = state.clock.now();
        let lease = state.leases.get(key).filter(|lease| lease.state(now) == State::Held)?;
        lease.worker.clone()
    }
}

#[async_trait]
impl BackfillCoordinator for Durable {
    fn id(&self) -> &str {
        "sim"
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        admit(key, &mut command)?;
        let mut state = self.lock();
        let now = state.clock.now();
        let turn = Turn { now, fence: state.fence + 1, nonce: fastrand::u64(..) };
        let mut before = state.leases.get(key).cloned();
        match (&mut before, self.flaw) {
            (Some(lease), Flaw::GrantsWhatIsHeld) if matches!(command, Command::Claim { .. }) => {
                lease.status = Status::Released;
                lease.until = Timestamp::MIN;
            }
            (Some(lease), Flaw::TakesAnyToken) => {
                if let Command::Complete { token, .. } = &command {
                    lease.token.clone_from(token);
                    lease.status = Status::Held;
                }
            }
            _ => {}
        }
        let shown = match &command {
            Command::Complete { token, .. }
            | Command::Fail { token, .. }
            | Command::Release { token, .. } => token.clone(),
            _ => String::new(),
        };
        if self.flaw == Flaw::SaysHeld
            && matches!(command, Command::Claim { .. })
            && let Some(lease) =
                before.as_ref().filter(|lease| lease.state(now) != State::Held && fastrand::bool())
        {
            let mut held = lease.clone();
            (held.status, held.until, held.request_id) = (Status::Held, Timestamp::MAX, None);
            return Ok(self.policy.step(Some(&held), turn, &command).1);
        }
        let (changed, reply) = self.policy.step(before.as_ref(), turn, &command);
        if let Some(lease) = changed {
            let (key, fence) = (key.to_owned(), lease.fence);
            let event = match (&command, &reply) {
                (Command::Claim { worker, .. }, Reply::Granted(_)) => Some(Event::Granted {
                    key: key.clone(),
                    fence,
                    worker: worker.clone().unwrap_or_default(),
                }),
                (_, Reply::Renewed(_)) => Some(Event::Renewed { key: key.clone(), fence }),
                (_, Reply::Ended { ratio, status }) => {
                    Some(Event::Ended { key: key.clone(), fence, shown, status: *status, ratio: *ratio })
                }
                _ => None,
            };
            state.events.extend(event.map(|event| (now, event)));
            (state.latest, state.fence) = (now, state.fence.max(fence));
            state.leases.insert(key, lease);
        }
        Ok(reply)
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let state = self.lock();
        let from = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
        let from = from.map_or(Bound::Included(query.prefix.as_str()), Bound::Excluded);
        let found = state.leases.range::<str, _>((from, Bound::Unbounded));
        let found = found.map(|(key, lease)| Ok::<_, Infallible>((key.clone(), lease.clone())));
        match query.page(state.clock.now(), found) {
            Ok(page) => Ok(page),
            Err(never) => match never {},
        }
    }
}

#[async_trait]
impl LeaseStore for Durable {
    async fn counts(&self) -> Result<Vec<(State, u64)>> {
        Ok(Vec::new())
    }

    async fn forget(&self, _: Timestamp) -> Result<u64> {
        Ok(0)
    }
}
