//! A server's clock, read now and then.

use std::time::Duration;

use qmtl_history_api::{Clock, Result, Timestamp};
use tokio::sync::Mutex;

/// How long the server's clock is believed to run as ours does.
const TRUSTED_FOR: Duration = Duration::from_secs(600);
/// How young its reading must be to refuse a bar that may just have closed.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// What the server's clock showed, and when that was on our monotonic clock. The lock is held by
/// who reads it.
#[derive(Debug, Default)]
pub(crate) struct ServerClock(Mutex<Option<(Timestamp, Duration)>>);

impl ServerClock {
    /// The server's time, or a little before it; read anew when it decides whether bars up to `end`
    /// have closed. A server that has none (`None`) is taken to go by our clock.
    pub(crate) async fn now(
        &self,
        clock: &dyn Clock,
        end: Timestamp,
        read: impl Future<Output = Result<Option<Timestamp>>> + Send,
    ) -> Result<Timestamp> {
        let mut reading = self.0.lock().await;
        if let Some((server, at)) = *reading {
            let age = clock.monotonic().saturating_sub(at);
            let now = server.checked_add(age).unwrap_or(Timestamp::MAX);
            if age < FRESH_FOR || (age < TRUSTED_FOR && end <= now) {
                return Ok(now);
            }
        }
        let server = read.await?.unwrap_or_else(|| clock.now());
        *reading = Some((server, clock.monotonic()));
        Ok(server)
    }
}
