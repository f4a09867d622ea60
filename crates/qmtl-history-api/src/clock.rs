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

    /// Time since an arbitrary point of this process; never goes back. Deadlines use this one.
    fn monotonic(&self) -> Duration;

    /// Returns when `duration` has passed on the monotonic clock.
    async fn sleep(&self, duration: Duration);
}

#[async_trait]
impl<T: Clock + ?Sized> Clock for Arc<T> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        (**self).sleep(duration).await;
    }
}
