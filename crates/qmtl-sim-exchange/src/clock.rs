//! The server's clock: it runs with the system's, runs from a time of the test's, or stands still.

use std::time::Duration;

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

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a server of its own: nothing of ours can inject its clock")]
fn system_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, millis)
}
