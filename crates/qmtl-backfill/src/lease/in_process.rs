//! A coordinator for the tasks of one process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use qmtl_history_api::{Clock, Result, Timestamp, async_trait};
use qmtl_observe::TokioClock;

use super::{BackfillCoordinator, Command, Lease, LeaseClock, Page, Policy, Query, Reply, Turn, admit};

/// Grants leases to the tasks of this process; it forgets them with the process. The reference of what coordinators do.
#[derive(Debug)]
pub struct InProcessCoordinator {
    policy: Policy,
    clock: LeaseClock,
    leases: Mutex<Leases>,
}

#[derive(Debug, Default)]
struct Leases {
    /// The number of the last grant.
    fence: u64,
    by_key: BTreeMap<String, Lease>,
}

impl InProcessCoordinator {
    /// Knows no key yet, and judges by the system's clock.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            clock: LeaseClock::new(Arc::new(TokioClock::new()), Timestamp::MIN),
            leases: Mutex::default(),
        }
    }

    /// The clock by which leases expire. Call it before anything is claimed.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        Self { clock: LeaseClock::new(Arc::new(clock), Timestamp::MIN), ..self }
    }
}

impl InProcessCoordinator {
    /// Forgets the keys for which this does not hold; tells how many.
    pub fn retain(&self, is_kept: impl Fn(&Lease) -> bool) -> u64 {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let before = leases.by_key.len();
        leases.by_key.retain(|_, lease| is_kept(lease));
        (before - leases.by_key.len()) as u64
    }
}

impl Default for InProcessCoordinator {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

#[async_trait]
impl BackfillCoordinator for InProcessCoordinator {
    /// `in-process`.
    fn id(&self) -> &str {
        "in-process"
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        admit(key, &mut command)?;
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Turn { now: self.clock.now(), fence: leases.fence + 1, nonce: fastrand::u64(..) };
        let (changed, reply) = self.policy.step(leases.by_key.get(key), turn, &command);
        if let Some(lease) = changed {
            leases.fence = leases.fence.max(lease.fence);
            leases.by_key.insert(key.to_owned(), lease);
        }
        Ok(reply)
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let found = leases.by_key.range::<str, _>((query.start(), Bound::Unbounded));
        let found = found.map(|(key, lease)| Ok::<_, Infallible>((key.clone(), lease.clone())));
        match query.page(self.clock.now(), found) {
            Ok(page) => Ok(page),
            Err(never) => match never {},
        }
    }
}
