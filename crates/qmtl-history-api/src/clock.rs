//! Time as an injected dependency.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::Timestamp;

/// Where the time comes from. Logic never asks the operating system: a test sets its own clock,
/// a program passes the one of `qmtl-observe`.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock, UTC. It may jump in both directions.
    fn now(&self) -> Timestamp;

    /// The wall clock by which answers of sources are dated and believed: [`now`](Self::now), unless that pretends to be
    /// another time.
    fn real_now(&self) -> Timestamp {
        self.now()
    }

    /// Time since an arbitrary point of this process; never goes back. Deadlines use this one.
    fn monotonic(&self) -> Duration;

    /// Returns when `duration` has passed on the monotonic clock.
    async fn sleep(&self, duration: Duration);
}

/// What the wall clock and the monotonic one showed at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moment {
    /// See [`Clock::now`].
    pub wall: Timestamp,
    /// See [`Clock::monotonic`].
    pub monotonic: Duration,
}

impl Moment {
    /// How far the two clocks may run apart before one of them was set or stood still: five seconds. A clock
    /// that is slewed is not set.
    pub const STEP: Duration = Duration::from_secs(5);

    /// What both show.
    #[must_use]
    pub fn new(wall: Timestamp, monotonic: Duration) -> Self {
        Self { wall, monotonic }
    }

    /// What both show now.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self::new(clock.now(), clock.monotonic())
    }

    /// How long after `earlier` this is; `None` when the clocks do not agree on that, by more than
    /// [`Moment::STEP`]: the wall clock was set, or the machine slept and its monotonic clock with it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let passed = self.monotonic.saturating_sub(earlier.monotonic);
        let expected = earlier.wall.checked_add(passed).unwrap_or(Timestamp::MAX);
        let apart = self.wall.since(expected).max(expected.since(self.wall));
        (apart <= Self::STEP).then_some(passed)
    }
}

#[async_trait]
impl<T: Clock + ?Sized> Clock for Arc<T> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn real_now(&self) -> Timestamp {
        (**self).real_now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        (**self).sleep(duration).await;
    }
}
