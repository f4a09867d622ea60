//! The server's clock: it runs with the system's, runs from a time of the test's, or stands still.

use std::time::Duration;

use chrono::DateTime;
use tokio::time::Instant;

/// What the server takes for the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SimClock {
    /// The system's time.
    #[default]
    System,
    /// Stands at this time, milliseconds since the epoch, until it is set or advanced.
    Frozen(i64),
    /// Starts at this time, milliseconds since the epoch, when the server starts, and runs at the
    /// pace of tokio's clock.
    Running(i64),
}

/// A clock in use.
#[derive(Debug)]
pub(crate) enum Time {
    System { ahead: i64 },
    Frozen { now: i64 },
    Running { from: i64, since: Instant },
}

impl Time {
    pub(crate) fn start(clock: SimClock) -> Self {
        match clock {
            SimClock::System => Self::System { ahead: 0 },
            SimClock::Frozen(now) => Self::Frozen { now },
            SimClock::Running(from) => Self::Running { from, since: Instant::now() },
        }
    }

    /// Milliseconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        match self {
            Self::System { ahead } => system_now().saturating_add(*ahead),
            Self::Frozen { now } => *now,
            Self::Running { from, since } => from.saturating_add(millis(since.elapsed())),
        }
    }

    /// Moves the clock to `to`; a running one runs on from there.
    pub(crate) fn set(&mut self, to: i64) {
        match self {
            Self::System { ahead } => *ahead = to.saturating_sub(system_now()),
            Self::Frozen { now } => *now = to,
            Self::Running { from, since } => (*from, *since) = (to, Instant::now()),
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.set(self.now().saturating_add(millis(by)));
    }
}

/// The time in the form of HTTP's `Date` header, such as `Mon, 01 Jan 2024 00:00:00 GMT`.
pub(crate) fn http_date(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a server of its own: nothing of ours can inject its clock")]
fn system_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_fixed_form_of_http() {
        // The date of RFC 9110's own example, with the milliseconds that the form cannot say.
        assert_eq!(http_date(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(i64::MAX), http_date(0));
    }
}
