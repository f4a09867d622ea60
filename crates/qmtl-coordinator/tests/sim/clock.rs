//! The clocks of simulated processes: true time is the runtime's paused one, which moves on when everything waits.

use std::time::Duration;

use qmtl_history_api::{Clock, TimeRange, Timestamp, async_trait};
use tokio::time::Instant;

/// When every run begins, by the true time: 2024-06-01T00:00:00Z.
pub(crate) fn begin() -> Timestamp {
    Timestamp::from_secs(1_717_200_000).expect("it lies in 2024")
}

/// So much after the beginning.
pub(crate) fn after(secs: f64) -> Timestamp {
    begin().checked_add(Duration::from_secs_f64(secs)).unwrap_or(Timestamp::MAX)
}

/// The true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth(Instant);

impl Truth {
    /// Starts now, inside of a paused runtime.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Timestamp {
        begin().checked_add(self.0.elapsed()).unwrap_or(Timestamp::MAX)
    }

    pub(crate) async fn until(self, time: Timestamp) {
        tokio::time::sleep_until(self.0 + time.since(begin())).await;
    }

    pub(crate) async fn pass(self, duration: Duration) {
        tokio::time::sleep_until(Instant::now() + duration).await;
    }
}

/// How a process's clocks are wrong, and when it stands still.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skew {
    /// By how much its wall clock is off.
    pub(crate) wall: i64,
    /// By how many parts of a million its clocks run too fast.
    pub(crate) ppm: i64,
    /// When it does not run, though its clocks do.
    pub(crate) stalls: Vec<TimeRange>,
}

/// The clock of one process.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    pub(crate) truth: Truth,
    pub(crate) skew: Skew,
}

impl SimClock {
    /// Waits until the process runs.
    pub(crate) async fn awake(&self) {
        // Standstills may overlap.
        while let Some(stall) = self.skew.stalls.iter().find(|stall| stall.contains(self.truth.now())) {
            self.truth.until(stall.end()).await;
        }
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.monotonic().as_micros()).unwrap_or(i64::MAX);
        begin().checked_add_micros(passed.saturating_add(self.skew.wall)).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        let passed = self.truth.now().since(begin());
        let drift = passed.as_secs_f64() * self.skew.ppm as f64 / 1e6;
        Duration::from_secs_f64((passed.as_secs_f64() + drift).max(0.0))
    }

    async fn sleep(&self, duration: Duration) {
        let rate = 1.0 + self.skew.ppm as f64 / 1e6;
        // A wait that rounds to nothing would never end.
        self.truth.pass(duration.div_f64(rate) + Duration::from_micros(2)).await;
        self.awake().await;
    }
}

/// When faults end.
pub(crate) fn calm() -> Timestamp {
    after(crate::world::CALM)
}
