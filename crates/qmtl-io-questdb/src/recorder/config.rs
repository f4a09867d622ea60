//! How a recorder gathers events.

use std::time::Duration;

/// How a recorder gathers events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecorderConfig {
    /// Events that are written without waiting longer.
    pub batch: usize,
    /// The longest time that an event waits to be written.
    pub delay: Duration,
    /// Events that may be unwritten, in all: beyond, [`persist`](qmtl_history_api::EventRecorder::persist) waits.
    /// So many can be lost when this process is killed.
    pub capacity: usize,
    /// The longest pause between two tries while the server is away.
    pub max_pause: Duration,
}

impl Default for RecorderConfig {
    /// Batches of 5,000, a second's delay, 20,000 unwritten events, 5 seconds between tries.
    fn default() -> Self {
        Self {
            batch: 5_000,
            delay: Duration::from_secs(1),
            capacity: 20_000,
            max_pause: Duration::from_secs(5),
        }
    }
}

impl RecorderConfig {
    /// Chooses how many events make a batch, and how many may be unwritten.
    #[must_use]
    pub fn with_sizes(mut self, batch: usize, capacity: usize) -> Self {
        (self.batch, self.capacity) = (batch.max(1), capacity.max(1));
        self
    }

    /// Chooses the longest time that an event waits to be written.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}
