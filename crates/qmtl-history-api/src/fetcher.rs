//! The protocol of sources outside the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::{BatchStream, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp};

/// What to fetch: one series over `[start, end)`.
///
/// Two requests are equal when they ask for the same bars, whoever listens to their retries and
/// whatever is known beside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FetchRequest {
    /// The series.
    pub key: SeriesKey,
    /// The bars wanted; at most [`FetchLimits::max_rows`] grid points when the planner asks.
    pub range: TimeRange,
    /// Who wants to hear of requests that are made again.
    pub retries: Option<Arc<dyn RetrySink>>,
    /// A time by which the series had begun, because a row of it is stored there or the source proved
    /// before that a bar of then does not exist. A source that proves nothing about bars before the
    /// beginning need not look for it where the range lies after; one that has no use for this ignores
    /// it, and `None` says nothing.
    pub begun_by: Option<Timestamp>,
}

impl PartialEq for FetchRequest {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.range) == (&other.key, other.range)
    }
}

impl Eq for FetchRequest {}

/// A request that a fetcher makes again after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// 1 for the first repetition.
    pub attempt: u32,
    /// The pause before it.
    pub after: Duration,
    /// A bounded word for why: `rate_limited`, `timeout`.
    pub reason: &'static str,
}

impl Retry {
    /// The repetition number `attempt`, counted from 1.
    #[must_use]
    pub fn new(attempt: u32, after: Duration, reason: &'static str) -> Self {
        Self { attempt, after, reason }
    }
}

/// Where a fetcher tells of its retries. Called from hot paths: must return at once.
pub trait RetrySink: fmt::Debug + Send + Sync {
    /// Takes one repetition of a request for `range`.
    fn on_retry(&self, range: TimeRange, retry: Retry);
}

impl FetchRequest {
    /// The bars of `key` over `range`.
    #[must_use]
    pub fn new(key: SeriesKey, range: TimeRange) -> Self {
        Self { key, range, retries: None, begun_by: None }
    }

    /// Tells `sink` of requests that are made again.
    #[must_use]
    pub fn with_retries(mut self, sink: Arc<dyn RetrySink>) -> Self {
        self.retries = Some(sink);
        self
    }

    /// Says that the series had begun by `time`; see [`FetchRequest::begun_by`].
    #[must_use]
    pub fn with_begun_by(mut self, time: Option<Timestamp>) -> Self {
        self.begun_by = time;
        self
    }
}

/// What a source answered.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fetched {
    /// The rows as the source gives them: any order, any timestamp unit, duplicates and rows
    /// outside the request are brought into form by [`crate::frame::normalize`].
    pub batches: BatchStream,
    /// Where the absence of a row is proof that there is none; holds once `batches` has ended well.
    pub proven: RangeSet,
    /// Why absence is proof, for people; empty when nothing is proven.
    pub reason: String,
}

impl Fetched {
    /// An answer that proves nothing about absent rows.
    #[must_use]
    pub fn new(batches: BatchStream) -> Self {
        Self { batches, proven: RangeSet::new(), reason: String::new() }
    }

    /// An answer of one batch that proves nothing about absent rows.
    #[must_use]
    pub fn from_batch(batch: RecordBatch) -> Self {
        Self::new(BatchStream::from_batches(batch.schema(), vec![batch]))
    }

    /// Adds where absence is proof, and why.
    #[must_use]
    pub fn with_proven(mut self, proven: RangeSet, reason: impl Into<String>) -> Self {
        self.proven = proven;
        self.reason = reason.into();
        self
    }
}

/// What a source bears. The planner cuts requests by it; the fetcher keeps to the rates itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FetchLimits {
    /// The most rows of one request; `None` is no limit: a request is a whole gap of a window.
    pub max_rows: Option<u64>,
    /// Requests per second that the source allows; `None` is no limit.
    pub requests_per_second: Option<f64>,
    /// Requests that may be made at once before the rate counts.
    pub burst: u64,
    /// What one request costs in the source's own units (Binance: weight); 0 is nothing.
    pub weight: u32,
}

impl FetchLimits {
    /// No limits: a file.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// At most `rows` rows a request.
    #[must_use]
    pub fn with_max_rows(mut self, rows: u64) -> Self {
        self.max_rows = Some(rows);
        self
    }

    /// At most `rate` requests a second.
    #[must_use]
    pub fn with_requests_per_second(mut self, rate: f64) -> Self {
        self.requests_per_second = Some(rate);
        self
    }

    /// So many requests may be made at once before the rate counts.
    #[must_use]
    pub fn with_burst(mut self, requests: u64) -> Self {
        self.burst = requests;
        self
    }

    /// The cost of one request in the source's own units.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

/// A source of missing rows: an exchange, a file, an archive.
///
/// A fetcher makes its own retries and marks an error that it gave up on as exhausted; nobody
/// retries above it; it tells [`FetchRequest::retries`] of each. It never waits until the rows of
/// another fetch of itself are taken.
#[async_trait]
pub trait DataFetcher: fmt::Debug + Send + Sync + 'static {
    /// Fetches a range. Errors: `NotFound` for a series the source does not know, `InvalidInput`
    /// for an interval it does not offer, `Unavailable` (retryable unless exhausted) for the rest.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;

    /// Who answers; proofs of emptiness are filed under it. A file's id includes its content.
    fn source_id(&self) -> SourceId;

    /// What the source bears.
    fn limits(&self) -> FetchLimits;
}

macro_rules! forward_fetcher {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: DataFetcher + ?Sized> DataFetcher for $pointer {
            async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
                (**self).fetch(request).await
            }

            fn source_id(&self) -> SourceId {
                (**self).source_id()
            }

            fn limits(&self) -> FetchLimits {
                (**self).limits()
            }
        }
    )*};
}

forward_fetcher!(Arc<T>, Box<T>);

/// A fetcher made of a closure: the shortest way to bring a source of one's own.
///
/// ```
/// use qmtl_history_api::{BatchStream, FetchRequest, Fetched, SourceId, fetcher_fn, frame};
///
/// let source = SourceId::new("my-api").unwrap();
/// let fetcher = fetcher_fn(source, |request: FetchRequest| async move {
///     // Ask the service for request.range here.
///     Ok(Fetched::new(BatchStream::empty(frame::ts_only_schema())))
/// });
/// # let _: Box<dyn qmtl_history_api::DataFetcher> = Box::new(fetcher);
/// ```
pub fn fetcher_fn<F, Fut>(source: SourceId, fetch: F) -> FetcherFn<F>
where
    F: Fn(FetchRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Fetched>> + Send + 'static,
{
    FetcherFn { source, limits: FetchLimits::none(), fetch }
}

/// See [`fetcher_fn`].
pub struct FetcherFn<F> {
    source: SourceId,
    limits: FetchLimits,
    fetch: F,
}

impl<F> FetcherFn<F> {
    /// Says what the source bears.
    #[must_use]
    pub fn with_limits(mut self, limits: FetchLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl<F> fmt::Debug for FetcherFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetcherFn").field("source", &self.source).finish_non_exhaustive()
    }
}

#[async_trait]
impl<F, Fut> DataFetcher for FetcherFn<F>
where
    F: Fn(FetchRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Fetched>> + Send + 'static,
{
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        (self.fetch)(request.clone()).await
    }

    fn source_id(&self) -> SourceId {
        self.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        self.limits
    }
}
