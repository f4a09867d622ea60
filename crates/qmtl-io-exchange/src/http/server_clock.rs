//! A server's clock, read now and then.

use std::time::Duration;

use qmtl_history_api::{Clock, Moment, Result, Timestamp};
use tokio::sync::Mutex;

/// How long the server's clock is believed to run as ours does.
const TRUSTED_FOR: Duration = Duration::from_secs(600);
/// How young its reading must be to refuse a bar that may just have closed.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// What the server's clock showed last. The lock is held by who reads it.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<Reading>>);

/// What the server's clock showed, and what our clocks did then.
#[derive(Clone, Copy, Debug)]
struct Reading {
    server: Timestamp,
    ours: Moment,
}

impl Reading {
    /// How old the reading is and what the server's clock shows by now; `None` when our clocks do not agree
    /// on that: then nobody knows how long ago the server's clock was read.
    fn age(&self, now: Moment) -> Option<(Duration, Timestamp)> {
        let age = now.since(self.ours)?;
        Some((age, self.server.checked_add(age).unwrap_or(Timestamp::MAX)))
    }
}

impl ServerClock {
    /// The server's time, or a little before it; read anew when it decides whether bars up to `end`
    /// have closed. A server that has none (`None`) is taken to go by our clock. Errors: those of `read`.
    pub async fn now(
        &self,
        clock: &dyn Clock,
        end: Timestamp,
        read: impl Future<Output = Result<Option<Timestamp>>> + Send,
    ) -> Result<Timestamp> {
        let mut reading = self.0.lock().await;
        let aged = reading.and_then(|reading| reading.age(Moment::now(clock)));
        if let Some((age, now)) = aged
            && (age < FRESH_FOR || (age < TRUSTED_FOR && end <= now))
        {
            return Ok(now);
        }
        let server = read.await?.unwrap_or_else(|| clock.now());
        *reading = Some(Reading { server, ours: Moment::now(clock) });
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs).unwrap()
    }

    #[test]
    fn a_reading_ages_as_our_clocks_run_and_is_void_when_they_part() {
        let secs = Duration::from_secs;
        let reading = Reading { server: at(5_000), ours: Moment::new(at(1_000), secs(70)) };
        assert_eq!(reading.age(Moment::new(at(1_030), secs(100))), Some((secs(30), at(5_030))));
        // A clock that is slewed is not set.
        assert_eq!(reading.age(Moment::new(at(1_034), secs(100))), Some((secs(30), at(5_030))));
        // The machine slept for an hour, and its monotonic clock with it.
        assert_eq!(reading.age(Moment::new(at(4_630), secs(100))), None);
        assert_eq!(reading.age(Moment::new(at(430), secs(100))), None, "the wall clock was set back");
    }
}
