//! The clock by which one process judges leases.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Timestamp};

/// The time of a coordinator that is alone with its leases: the wall clock as it stood when it began, from then on by
/// the monotonic one. So it never goes back, and no lease ends early because somebody set the clock.
#[derive(Clone, Debug)]
pub struct LeaseClock {
    clock: Arc<dyn Clock>,
    /// The time at which it began.
    begin: Timestamp,
    /// The same on the monotonic clock.
    since: Duration,
}

impl LeaseClock {
    /// Begins now, or at `latest`, the latest time by which anything was judged before, where that is later.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, latest: Timestamp) -> Self {
        let (begin, since) = (clock.now().max(latest), clock.monotonic());
        Self { clock, begin, since }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let passed = self.clock.monotonic().saturating_sub(self.since);
        self.begin.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}
