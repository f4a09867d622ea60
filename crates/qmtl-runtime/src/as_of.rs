//! A point in the past as now.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Timestamp, async_trait};
use qmtl_observe::TokioClock;

/// A clock whose wall time stands still, so that the set of closed bars does not change: a strategy starts as it
/// would have started then. Its monotonic time goes on. Not to be confused with
/// [`Alignment::AsOf`](crate::Alignment::AsOf), which turns off waiting.
///
/// Give it to inputs, not to what fills a store: proofs must carry the time at which a source was really asked.
#[derive(Clone, Debug)]
pub struct AsOf {
    now: Timestamp,
    clock: Arc<dyn Clock>,
}

impl AsOf {
    /// A clock that always shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { now, clock: Arc::new(TokioClock::new()) }
    }

    /// Takes its monotonic time, and the real time by which proofs are judged, from `clock` instead of the system.
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
