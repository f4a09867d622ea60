//! The protocol of filling: what is asked, how progress is told, what came of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::frame::{Conflict, Dropped, NotNumbers, OffGrid};
use crate::{
    Coverage, Error, HistoryBackend, RangeSet, Result, Retry, SeriesKey, SourceId, StopSignal, TimeRange,
    Timestamp, Wait,
};

/// What must be complete: the grid points of one series inside a range.
///
/// The guide's inclusive `ensure_range(first, last)` is [`TimeRange::inclusive`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillRequest {
    /// The series.
    pub key: SeriesKey,
    /// The points that must be complete.
    pub range: TimeRange,
    /// The world on whose behalf this is done; goes into lease keys, logs and the labels of metrics when given.
    pub world: Option<String>,
    /// The point of view of the request, as the caller wrote it; goes into lease keys and logs.
    pub requested_as_of: Option<String>,
    /// Asks the fill to end early: requests to sources are given up, what has come is stored, and the report
    /// says exactly what was done.
    pub stop: Option<StopSignal>,
}

impl BackfillRequest {
    /// A request for `key` over `range`.
    #[must_use]
    pub fn new(key: SeriesKey, range: TimeRange) -> Self {
        Self { key, range, world: None, requested_as_of: None, stop: None }
    }

    /// Names the world.
    #[must_use]
    pub fn with_world(mut self, world: impl Into<String>) -> Self {
        self.world = Some(world.into());
        self
    }

    /// Names the point of view.
    #[must_use]
    pub fn with_requested_as_of(mut self, as_of: impl Into<String>) -> Self {
        self.requested_as_of = Some(as_of.into());
        self
    }

    /// Ends the fill early when this signal is given.
    #[must_use]
    pub fn with_stop(mut self, signal: StopSignal) -> Self {
        self.stop = Some(signal);
        self
    }
}

/// What a fill did. Partial success is data: what failed stands beside what was stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackfillReport {
    /// The request's series.
    pub key: SeriesKey,
    /// The request's range.
    pub wanted: TimeRange,
    /// Rows stored where none was.
    pub rows_written: u64,
    /// Fetched rows left out because one was stored already.
    pub rows_kept_out: u64,
    /// Fetched rows that were not written, by reason.
    pub dropped: Dropped,
    /// Bars whose row did not stand on the grid and was moved onto it, as the source's
    /// [`Rules`](crate::frame::Rules) say.
    pub rows_moved: u64,
    /// Where this run stored rows, by the source that gave them.
    pub filled: Vec<(SourceId, RangeSet)>,
    /// Where this run learned that there is no row, without what is missing for all that: another source may
    /// have it, or the proof was given too long ago by our clock.
    pub known_empty: RangeSet,
    /// What is still missing at the end: failed, not proven, not closed yet, or not asked for before a stop.
    pub missing: RangeSet,
    /// What the store had of the range at the end.
    pub coverage: Coverage,
    /// Whether it was stopped before all windows had their turn.
    pub stopped: bool,
    /// Of those, the bars that have closed and that their source may still publish: nothing but time
    /// is wrong with them.
    pub too_young: RangeSet,
    /// Of those that are missing, the bars that no source can have any more: they lie further back than what the
    /// sources keep ([`FetchLimits::newest_bars`](crate::FetchLimits::newest_bars)).
    pub out_of_reach: RangeSet,
    /// Rows of the sources that stand on no point of the grid, ascending, the first ones; all are counted
    /// in `dropped`. They are not stored, and their bars are missing.
    pub off_grid: Vec<OffGrid>,
    /// Rows that contradict another of the same time, the first ones; all are counted in `dropped`.
    pub conflicts: Vec<Conflict>,
    /// Columns in which a stored row has NaN.
    pub not_numbers: Vec<NotNumbers>,
    /// The windows that failed, each with its reason, ascending.
    pub failed: Vec<(TimeRange, Error)>,
    /// When the first answer of a source was given: the earlier of its own clock and ours. Bars that closed
    /// little before may still be revised. `None` when nobody answered.
    pub answered_at: Option<Timestamp>,
    /// Requests made to sources, retries included.
    pub fetch_requests: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// The retries by reason: `rate_limited`, `timeout`.
    pub retry_reasons: BTreeMap<&'static str, u64>,
    /// Why a request was being made again when the fill was stopped.
    pub last_error: Option<Error>,
    /// How long it took.
    pub elapsed: Duration,
}

impl BackfillReport {
    /// A report of nothing done.
    #[must_use]
    pub fn new(key: SeriesKey, wanted: TimeRange) -> Self {
        Self {
            key,
            wanted,
            rows_written: 0,
            rows_kept_out: 0,
            dropped: Dropped::default(),
            rows_moved: 0,
            filled: Vec::new(),
            known_empty: RangeSet::new(),
            missing: RangeSet::new(),
            coverage: Coverage::default(),
            stopped: false,
            too_young: RangeSet::new(),
            out_of_reach: RangeSet::new(),
            off_grid: Vec::new(),
            conflicts: Vec::new(),
            not_numbers: Vec::new(),
            failed: Vec::new(),
            answered_at: None,
            fetch_requests: 0,
            retries: 0,
            retry_reasons: BTreeMap::new(),
            last_error: None,
            elapsed: Duration::ZERO,
        }
    }

    /// The bars that are missing for another reason than that they are too young.
    #[must_use]
    pub fn wanting(&self) -> RangeSet {
        self.missing.difference(&self.too_young)
    }

    /// True when nothing failed and nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.missing.is_empty()
    }
}

/// A step of a fill. Events of several windows interleave; those of one window are in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The plan stands; sent once before any other event of the series.
    Planned {
        /// The grid points that are missing.
        bars: u64,
        /// The windows that they lie in.
        windows: u64,
        /// The requests that will be made, without retries.
        requests: u64,
    },
    /// A window's rows are being fetched.
    WindowStarted {
        /// The window.
        window: TimeRange,
    },
    /// Rows came from a source and are in form.
    Fetched {
        /// Their window.
        window: TimeRange,
        /// How many.
        rows: u64,
    },
    /// A request is made again after a pause.
    Retrying {
        /// The request's range.
        window: TimeRange,
        /// When, why, and for how long.
        retry: Retry,
    },
    /// A request waits for longer than a moment.
    Waiting {
        /// The request's range.
        window: TimeRange,
        /// For what.
        wait: Wait,
    },
    /// A window is stored: its rows are visible and its proofs recorded.
    WindowStored {
        /// The window.
        window: TimeRange,
        /// Rows stored where none was.
        rows: u64,
        /// Bars of the window that are settled now: stored or known to be empty.
        bars: u64,
    },
    /// A window failed; the others go on.
    WindowFailed {
        /// The window.
        window: TimeRange,
        /// Why.
        error: Error,
    },
}

/// Where progress is told. Called from hot paths: must return at once.
pub trait ProgressSink: Debug + Send + Sync {
    /// Takes one event of `key`'s fill.
    fn on_event(&self, key: &SeriesKey, event: &ProgressEvent);
}

impl<T: ProgressSink + ?Sized> ProgressSink for Arc<T> {
    fn on_event(&self, key: &SeriesKey, event: &ProgressEvent) {
        (**self).on_event(key, event);
    }
}

/// A sink that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn on_event(&self, _: &SeriesKey, _: &ProgressEvent) {}
}

/// A way to make a range complete.
///
/// Dropping the future cancels: the store stays consistent, and what was acknowledged stays stored.
#[async_trait]
pub trait AutoBackfillStrategy: Debug + Send + Sync + 'static {
    /// The name in metric labels: `fetcher`, `live_replay`.
    fn name(&self) -> &'static str;

    /// Who is asked for rows: with the store's coverage this decides what is missing.
    fn sources(&self) -> Vec<SourceId>;

    /// Fills what `backend` misses of the request. An error means that nothing could be tried (bad
    /// input, the store's coverage out of reach; `Cancelled` when the request was stopped before); windows that
    /// failed stand in the report.
    async fn ensure_range(
        &self,
        request: &BackfillRequest,
        backend: &dyn HistoryBackend,
        progress: &dyn ProgressSink,
    ) -> Result<BackfillReport>;
}

macro_rules! forward_strategy {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: AutoBackfillStrategy + ?Sized> AutoBackfillStrategy for $pointer {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn sources(&self) -> Vec<SourceId> {
                (**self).sources()
            }

            async fn ensure_range(
                &self,
                request: &BackfillRequest,
                backend: &dyn HistoryBackend,
                progress: &dyn ProgressSink,
            ) -> Result<BackfillReport> {
                (**self).ensure_range(request, backend, progress).await
            }
        }
    )*};
}

forward_strategy!(Arc<T>, Box<T>);
