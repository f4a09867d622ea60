//! A point in the past as now.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Timestamp, async_trait};
use qmtl_observe::TokioClock;

/// A clock whose wall stands still, so that the same bars have closed at every look: a strategy
/// starts as it would have started then. Its monotonic side goes on.
///
/// Give it to inputs, not to what fills a store: proofs are of the time at which a source was
/// really asked.
#[derive(Clone, Debug)]
pub struct AsOf {
    now: Timestamp,
    clock: Arc<dyn Clock>,
}

impl AsOf {
    /// It is `now` for ever.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { now, clock: Arc::new(TokioClock::new()) }
    }

    /// Takes its monotonic side, and the real time by which answers are believed, from `clock` instead of the system.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }
}

#[async_trait]
impl Clock for AsOf {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn real_now(&self) -> Timestamp {
        self.clock.real_now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }
}
