//! How a strategy fills: windows, parallelism, memory, how writes are gathered.

use std::time::Duration;

use qmtl_history_api::{DataFetcher, Error, Result, SourceProfile};

/// Knobs of [`FetcherBackfillStrategy`](crate::FetcherBackfillStrategy); the defaults suit most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillConfig {
    /// Grid points of a window; `None` follows the source:
    /// [`LIMITED_WINDOW_BARS`](crate::plan::LIMITED_WINDOW_BARS) where it limits rows, else
    /// [`UNLIMITED_WINDOW_BARS`](crate::plan::UNLIMITED_WINDOW_BARS).
    pub window_bars: Option<u64>,
    /// How long after its close a bar may be published, whatever the sources say of themselves; `None`
    /// leaves that to each.
    pub publish_lag: Option<Duration>,
    /// Windows being fetched at once; within a window, requests follow one another.
    pub windows_in_flight: usize,
    /// How many of the newest closed bars to leave to a live recorder: 2 beside one, else 0.
    pub settle: u64,
    /// Bytes of rows, with their copies, that may be in memory between source and store. One window
    /// may exceed it.
    pub memory_budget: u64,
    /// Bytes of rows that are gathered before they are written together.
    pub flush_bytes: u64,
    /// The longest that fetched rows wait for others to be written with; the first ones of a run wait for a second, and
    /// later ones twice as long each time.
    pub flush_after: Duration,
    /// The longest that a window may take, retries and pauses included; `None` leaves that to the
    /// deadlines of its requests. What came before it passed is stored.
    pub window_deadline: Option<Duration>,
    /// The longest that a run may take, the last writes not included. Windows that did not come to
    /// their end stand in the report as failed.
    pub deadline: Option<Duration>,
}

impl Default for BackfillConfig {
    fn default() -> Self {
        Self {
            window_bars: None,
            publish_lag: None,
            windows_in_flight: 8,
            settle: 0,
            memory_budget: 128 << 20,
            flush_bytes: 8 << 20,
            flush_after: Duration::from_secs(10),
            window_deadline: None,
            deadline: None,
        }
    }
}

impl BackfillConfig {
    /// Grid points of a window.
    #[must_use]
    pub fn with_window_bars(mut self, bars: u64) -> Self {
        self.window_bars = Some(bars);
        self
    }

    /// How long after its close a bar may be published.
    #[must_use]
    pub fn with_publish_lag(mut self, lag: Duration) -> Self {
        self.publish_lag = Some(lag);
        self
    }

    /// Windows being fetched at once.
    #[must_use]
    pub fn with_windows_in_flight(mut self, windows: usize) -> Self {
        self.windows_in_flight = windows;
        self
    }

    /// How many of the newest closed bars to leave to a live recorder.
    #[must_use]
    pub fn with_settle(mut self, bars: u64) -> Self {
        self.settle = bars;
        self
    }

    /// Bytes of rows, with their copies, that may be in memory between source and store.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Bytes of rows that are gathered before they are written together.
    #[must_use]
    pub fn with_flush_bytes(mut self, bytes: u64) -> Self {
        self.flush_bytes = bytes;
        self
    }

    /// The longest that fetched rows wait for others to be written with.
    #[must_use]
    pub fn with_flush_after(mut self, wait: Duration) -> Self {
        self.flush_after = wait;
        self
    }

    /// The longest that a window may take.
    #[must_use]
    pub fn with_window_deadline(mut self, longest: Duration) -> Self {
        self.window_deadline = Some(longest);
        self
    }

    /// The longest that a run may take.
    #[must_use]
    pub fn with_deadline(mut self, longest: Duration) -> Self {
        self.deadline = Some(longest);
        self
    }

    /// How a source answers under this configuration.
    pub(crate) fn profile_of(&self, fetcher: &dyn DataFetcher) -> SourceProfile {
        let profile = fetcher.profile();
        self.publish_lag.map_or(profile, |lag| profile.with_publish_lag(lag))
    }

    /// `InvalidInput` for a value with which nothing could ever move.
    pub(crate) fn check(&self) -> Result<()> {
        match self.windows_in_flight {
            0 => Err(Error::invalid("a backfill needs at least one window in flight")
                .with("windows_in_flight", self.windows_in_flight)),
            _ => Ok(()),
        }
    }
}
