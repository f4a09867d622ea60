//! The protocol of sources outside the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::frame::Rules;
use crate::{BatchStream, Error, Interval, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp};

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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// 1 for the first repetition.
    pub attempt: u32,
    /// The pause before it.
    pub after: Duration,
    /// A bounded word for why: `rate_limited`, `timeout`.
    pub reason: &'static str,
    /// How the try before it failed, naming who was asked.
    pub error: Option<Error>,
    /// How long from now on the request is made again at most.
    pub at_most: Option<Duration>,
}

impl Retry {
    /// The repetition number `attempt`, counted from 1.
    #[must_use]
    pub fn new(attempt: u32, after: Duration, reason: &'static str) -> Self {
        Self { attempt, after, reason, error: None, at_most: None }
    }

    /// Says how the try before it failed.
    #[must_use]
    pub fn with_error(mut self, error: Error) -> Self {
        self.error = Some(error);
        self
    }

    /// Says how long from now on the request is made again at most.
    #[must_use]
    pub fn with_at_most(mut self, longest: Duration) -> Self {
        self.at_most = Some(longest);
        self
    }
}

/// A request that waits for longer than a moment, though nothing has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// A bounded word for what it waits for: `answer`, `rate_limit` (others have used what the host grants), `pause`
    /// (the host has asked for one), `ban`, `lease` (another worker has the window), `coordinator` (it does not answer).
    pub what: &'static str,
    /// Who keeps it waiting, such as `api.example.com`.
    pub host: String,
    /// How much longer it waits at most.
    pub at_most: Duration,
    /// How long it is until it is tried next, where that is known.
    pub next: Option<Duration>,
    /// The HTTP status with which the host asked for a pause, or said that there is a ban.
    pub status: Option<u16>,
}

impl Wait {
    /// A wait for `what` of `host` that lasts `at_most` from now on.
    #[must_use]
    pub fn new(what: &'static str, host: impl Into<String>, at_most: Duration) -> Self {
        Self { what, host: host.into(), at_most, next: None, status: None }
    }

    /// Says how long it is until it is tried next.
    #[must_use]
    pub fn with_next(mut self, next: Option<Duration>) -> Self {
        self.next = next;
        self
    }

    /// Says with which HTTP status the host asked for it.
    #[must_use]
    pub fn with_status(mut self, status: Option<u16>) -> Self {
        self.status = status;
        self
    }

    /// `Unavailable`: what is told of a request that was given up while it waited.
    #[must_use]
    pub fn error(&self) -> Error {
        let message = match self.what {
            "rate_limit" => "the source's rate limit was used up",
            "pause" => "the source has asked for a pause",
            "ban" => "the source has banned this address for a while",
            _ => "the source had not answered yet",
        };
        let error = Error::unavailable(message).with("host", &self.host);
        let error = self.status.into_iter().fold(error, |error, status| error.with("status", status));
        self.next.into_iter().fold(error, |error, next| error.with("wait_s", next.as_secs()))
    }
}

/// Where a fetcher tells why it takes its time. Called from hot paths: must return at once.
pub trait RetrySink: fmt::Debug + Send + Sync {
    /// Takes one repetition of a request for `range`.
    fn on_retry(&self, range: TimeRange, retry: Retry);

    /// Takes that a request for `range` waits; does nothing by default.
    fn on_wait(&self, range: TimeRange, wait: Wait) {
        let _ = (range, wait);
    }

    /// How much longer an answer is of use; `None`, the default, where that has no end. A pause that a source imposes
    /// and that is longer need not be begun.
    fn left(&self) -> Option<Duration> {
        None
    }
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

/// What a source answered: one page of rows, and what it says of the bars that are not among them.
///
/// A fetcher reports; it does not decide what is absent. Whoever asks takes into account how the source
/// answers ([`SourceProfile`]): where the page ends, when a bar would have been published, and whether
/// the source repeats itself.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fetched {
    /// The rows as the source gives them: any order, any timestamp unit, duplicates and rows
    /// outside the request are brought into form by [`crate::frame::normalize`].
    pub batches: BatchStream,
    /// Where a row would have come if there were one, as far as the page reaches: not before the
    /// listing of a symbol, not outside the rows of a file. Holds once `batches` has ended well.
    pub proven: RangeSet,
    /// Why absence is proof, for people; empty when nothing is proven.
    pub reason: String,
    /// The source's own time when it answered; `None` when it does not tell.
    pub as_of: Option<Timestamp>,
    /// Which version of the source answered for which part, where what it proves ends with that version:
    /// the checksums of an archive's files. They become the versions of the proofs' [`SourceId`]s.
    pub versions: Vec<(RangeSet, String)>,
}

impl Fetched {
    /// An answer that proves nothing about absent rows.
    #[must_use]
    pub fn new(batches: BatchStream) -> Self {
        Self { batches, proven: RangeSet::new(), reason: String::new(), as_of: None, versions: Vec::new() }
    }

    /// An answer of one batch that proves nothing about absent rows.
    #[must_use]
    pub fn from_batch(batch: RecordBatch) -> Self {
        Self::new(BatchStream::from_batches(batch.schema(), vec![batch]))
    }

    /// Adds where a row would have come if there were one, and why that can be said.
    #[must_use]
    pub fn with_proven(mut self, proven: RangeSet, reason: impl Into<String>) -> Self {
        self.proven = proven;
        self.reason = reason.into();
        self
    }

    /// Says what time it was at the source.
    #[must_use]
    pub fn with_as_of(mut self, as_of: Option<Timestamp>) -> Self {
        self.as_of = as_of;
        self
    }

    /// Says which version of the source answered for `ranges`.
    #[must_use]
    pub fn with_version(mut self, ranges: RangeSet, version: impl Into<String>) -> Self {
        self.versions.push((ranges, version.into()));
        self
    }
}

/// Where the rows of an answer begin and end in what was asked for: beyond its last row, in the
/// source's own order, a page says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageOrder {
    /// Every answer is whole, however long: a file.
    Unpaged,
    /// The earliest rows come first; what a short page lacks is the later side: Binance.
    OldestFirst,
    /// The latest rows come first; what a short page lacks is the earlier side: Coinbase.
    NewestFirst,
    /// Not known: only between two of its rows does a page say anything.
    #[default]
    Unknown,
}

/// How a source answers, by which it is decided what its silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceProfile {
    /// The order of the rows of a page.
    pub order: PageOrder,
    /// How long after its close a bar may be published. Until then its absence means nothing.
    pub publish_lag: Duration,
    /// Whether a row is sent for a bar without trades too, so that a bar which lacks is a rare thing
    /// and worth a second question.
    pub gapless: bool,
    /// What becomes of its odd rows.
    pub rules: Rules,
}

impl SourceProfile {
    /// How long a bar may take to be published unless a source says otherwise: two minutes.
    pub const PUBLISH_LAG: Duration = Duration::from_secs(120);

    /// A source with pages in this order, which leaves out bars without trades.
    #[must_use]
    pub fn new(order: PageOrder) -> Self {
        Self { order, publish_lag: Self::PUBLISH_LAG, gapless: false, rules: Rules::default() }
    }

    /// Says how long after its close a bar may be published.
    #[must_use]
    pub fn with_publish_lag(mut self, lag: Duration) -> Self {
        self.publish_lag = lag;
        self
    }

    /// Says that bars without trades have rows too.
    #[must_use]
    pub fn with_gapless(mut self, gapless: bool) -> Self {
        self.gapless = gapless;
        self
    }

    /// Says what becomes of rows off the grid and of rows without prices.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }
}

impl Default for SourceProfile {
    fn default() -> Self {
        Self::new(PageOrder::Unknown)
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
    /// How many of its newest closed bars the source has (Kraken: 720); `None` is all of them.
    pub newest_bars: Option<u64>,
    /// How far back from now the source has bars; `None` is to their beginning.
    pub newest: Option<Duration>,
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

    /// The source has so many of its newest closed bars alone.
    #[must_use]
    pub fn with_newest_bars(mut self, bars: u64) -> Self {
        self.newest_bars = Some(bars);
        self
    }

    /// The source has bars of so long before now alone.
    #[must_use]
    pub fn with_newest(mut self, age: Duration) -> Self {
        self.newest = Some(age);
        self
    }

    /// The earliest bar that the source can have at `now`, by [`newest_bars`](Self::newest_bars) and
    /// [`newest`](Self::newest): what opens before is out of its reach, and nobody need ask for it.
    #[must_use]
    pub fn reaches_back_to(&self, interval: Interval, now: Timestamp) -> Timestamp {
        let length = |bars: u64| i64::try_from(bars).unwrap_or(i64::MAX).saturating_mul(interval.as_micros());
        let by_count =
            self.newest_bars.and_then(|bars| interval.floor(now)?.checked_add_micros(-length(bars)));
        let by_age = self.newest.and_then(|age| interval.ceil(now.checked_sub(age)?));
        by_count.into_iter().chain(by_age).max().unwrap_or(Timestamp::MIN)
    }
}

/// The guarantees of a [`DataFetcher`] of an exchange, as its page lists them: one on each line, ``- `H-FETCH-01` ``
/// before it.
pub const FETCHER_GUARANTEES: &str = include_str!("../docs/fetching.md");

/// A source of missing rows: an exchange, a file, an archive.
///
/// A fetcher makes its own retries and marks an error that it gave up on as exhausted; nobody
/// retries above it; it tells [`FetchRequest::retries`] of each. It never waits until the rows of
/// another fetch of itself are taken.
///
/// **Guarantees** of a fetcher of an exchange (quoted by the suite for fetchers; as far as they concern it, a file's
/// keeps them too)
#[doc = include_str!("../docs/fetching.md")]
#[async_trait]
pub trait DataFetcher: fmt::Debug + Send + Sync + 'static {
    /// Fetches a range, or as much of it as the source gives at once: whoever asks looks where the rows
    /// end, as [`DataFetcher::profile`] says, and asks for the rest. Errors: `NotFound` for a series the
    /// source does not know, `InvalidInput` for an interval it does not offer, `Unavailable` (retryable
    /// unless exhausted) for the rest.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;

    /// Who answers; proofs of emptiness are filed under it. A file's id includes its content.
    fn source_id(&self) -> SourceId;

    /// What the source bears.
    fn limits(&self) -> FetchLimits;

    /// How the source answers; the default believes least of its silence.
    fn profile(&self) -> SourceProfile {
        SourceProfile::default()
    }

    /// Whether what this source proved under a version ([`Fetched::versions`]) still stands, because it
    /// still has that version. The default is yes.
    async fn is_current(&self, request: &FetchRequest, version: &str) -> bool {
        let _ = (request, version);
        true
    }
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

            fn profile(&self) -> SourceProfile {
                (**self).profile()
            }

            async fn is_current(&self, request: &FetchRequest, version: &str) -> bool {
                (**self).is_current(request, version).await
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
    FetcherFn { source, limits: FetchLimits::none(), profile: SourceProfile::default(), fetch }
}

/// See [`fetcher_fn`].
pub struct FetcherFn<F> {
    source: SourceId,
    limits: FetchLimits,
    profile: SourceProfile,
    fetch: F,
}

impl<F> FetcherFn<F> {
    /// Says what the source bears.
    #[must_use]
    pub fn with_limits(mut self, limits: FetchLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Says how the source answers.
    #[must_use]
    pub fn with_profile(mut self, profile: SourceProfile) -> Self {
        self.profile = profile;
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

    fn profile(&self) -> SourceProfile {
        self.profile
    }
}
