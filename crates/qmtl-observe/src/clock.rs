//! The operating system's clock: the only place of the system that reads it.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use qmtl_history_api::{Clock, Timestamp};
use tokio::time::Instant;

/// The zero of [`Clock::monotonic`], one for the process, so that all clocks agree on deadlines.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The system clock; sleeping needs a tokio runtime with its timer on.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TokioClock;

impl TokioClock {
    /// The clock.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Clock for TokioClock {
    /// A system clock that is set outside the years 1970 to 9999 reads as the nearer end.
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH.checked_add(since_epoch).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        let origin = *ORIGIN;
        Instant::now().duration_since(origin)
    }

    #[expect(clippy::disallowed_methods, reason = "the sleep that everybody else injects")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
