//! A fetcher of any API for candles: page by page, with what every exchange needs and none says by itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, Interval, PageOrder, RangeSet,
    Result, SeriesKey, SourceId, SourceProfile, TimeRange, Timestamp, async_trait, frame,
};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::api::{ApiSpec, Beginning, CandleApi, CandleRequest};
use crate::config::ExchangeConfig;
use crate::http::{Answer, Failure, HttpClient, Reason, ServerClock, in_runtime};

/// Ten years: a row this far from what was asked for counts its time in another unit.
const FAR_MICROS: i64 = 3_650 * 86_400 * 1_000_000;

/// How many pages it looks back for a bar before a range: 1, 2, 4 … up to this many, which for bars
/// of a minute and pages of 300 is seven months.
const FARTHEST_LOOK_BACK: i64 = 1_024;

/// Serves the closed bars of an API, or of any server that speaks as it does.
///
/// A fetch asks for one page, the first of its range in the API's order, and for nothing that has not closed by the
/// server's clock. Requests that fail in passing are repeated, and so is a page without any row that was asked for,
/// or with rows ten years away from that; what helped none is exhausted. All fetchers of a process that ask one
/// host share what it grants.
///
/// What a page lacks is reported as absent, but not before the beginning of the series, which is looked for once
/// where that makes a difference, as [`ApiSpec::beginning`] says: where a range begins with absent bars and no
/// earlier bar is known, neither to the fetcher nor to whoever asks ([`FetchRequest::begun_by`]).
///
/// Errors of a fetch: `InvalidInput` for an interval that is not on offer, naming those that are; `Schema`,
/// exhausted, for rows that again and again contradict the request; `Unavailable` for what else does not pass; and
/// what the API's answers tell, such as `NotFound` for a symbol.
#[derive(Debug)]
pub struct Pager<A>(Arc<Inner<A>>);

impl<A> Clone for Pager<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<A> {
    api: A,
    http: HttpClient,
    server_clock: ServerClock,
    series: StdMutex<HashMap<SeriesKey, Series>>,
}

/// What is known of where a series begins; the lock is held by who looks that up.
type Series = Arc<Mutex<Known>>;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// There was a bar by then.
    by: Option<Timestamp>,
    /// The first bar of all.
    at: Option<Timestamp>,
    /// Looking back from anywhere before this found no bar.
    nothing_before: Option<Timestamp>,
    /// Somebody has asked for bars since the fetcher was made.
    is_asked: bool,
}

impl Known {
    /// Whether bars that are absent from `start` on may lie before the beginning.
    fn is_unknown_at(&self, start: Timestamp) -> bool {
        self.at.is_none() && self.by.is_none_or(|by| by > start)
    }

    fn saw(&mut self, bar: Option<Timestamp>) {
        self.by = self.by.into_iter().chain(bar).min();
    }

    /// Where in `asked` the absence of a row means anything, when the first row of a page is at `first`.
    fn proven(&self, asked: TimeRange, first: Option<Timestamp>, interval: Interval) -> Option<TimeRange> {
        // The first bar of all exists, whatever pages lack.
        let exists = self.at.filter(|at| first.is_none_or(|first| first > *at));
        let after = exists.and_then(|at| interval.next(at));
        let begun = after.or(self.at).or(self.by)?;
        TimeRange::checked(asked.start().max(begun), asked.end())
    }
}

/// The rows of an answer.
#[derive(Debug)]
struct Page {
    rows: RecordBatch,
    /// When the earliest bar opens that was asked for.
    first: Option<Timestamp>,
    /// Whether the absence of a row in it means anything.
    is_whole: bool,
}

/// The part of a request whose bars have closed.
#[derive(Clone, Copy, Debug)]
struct Closed {
    range: Option<TimeRange>,
    /// When the bar opened that is open now.
    open: Timestamp,
    /// The server's time.
    now: Timestamp,
}

impl<A: CandleApi> Pager<A> {
    /// A fetcher of the API under these settings; it asks nothing yet.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub fn new(config: ExchangeConfig) -> Result<Self>
    where
        A: Default,
    {
        Self::with_api(A::default(), config)
    }

    /// As [`Pager::new`], of an API that has settings of its own.
    pub fn with_api(api: A, config: ExchangeConfig) -> Result<Self> {
        let spec = api.spec();
        let http = HttpClient::new(config, spec.name, spec.own_hosts)?.with_weight_header(spec.weight_header);
        let (server_clock, series) = (ServerClock::default(), StdMutex::default());
        Ok(Self(Arc::new(Inner { api, http, server_clock, series })))
    }

    /// How many requests were repeated so far, by reason: [`Reason::as_str`].
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.0.http.retries()
    }
}

#[async_trait]
impl<A: CandleApi> DataFetcher for Pager<A> {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = &self.0;
        inner.api.spec().interval(&request.key)?;
        let closed = inner.closed(request).await?;
        let begun = match closed.range {
            Some(range) => inner.begin(request, range, closed).await?,
            None => None,
        };
        let Some((page, proven)) = begun else {
            return Ok(Fetched::new(BatchStream::empty(inner.api.schema())).with_as_of(Some(closed.now)));
        };
        let reason = format!("no row in the answer of {}", inner.http.source());
        let proven = proven.filter(|_| page.is_whole).map_or_else(RangeSet::new, RangeSet::from);
        Ok(Fetched::from_batch(page.rows).with_proven(proven, reason).with_as_of(Some(closed.now)))
    }

    fn source_id(&self) -> SourceId {
        self.0.http.source().clone()
    }

    fn limits(&self) -> FetchLimits {
        self.0.limits()
    }

    fn profile(&self) -> SourceProfile {
        let spec = self.0.api.spec();
        let profile = SourceProfile::new(spec.order).with_gapless(spec.gapless);
        let config = self.0.http.config();
        profile.with_publish_lag(config.publish_lag).with_rules(config.rules)
    }
}

impl<A: CandleApi> Inner<A> {
    fn limits(&self) -> FetchLimits {
        let (config, spec) = (self.http.config(), self.api.spec());
        let mut limits = FetchLimits::none().with_max_rows(spec.max_rows).with_weight(spec.weight);
        limits.newest_bars = spec.newest_bars;
        let per_minute = config.weight_per_minute / spec.weight.max(1);
        let by_weight = f64::from(per_minute) / 60.0;
        match config.requests_per_second {
            Some(rate) if rate <= by_weight => limits.with_requests_per_second(rate),
            _ => limits.with_requests_per_second(by_weight).with_burst(per_minute.into()),
        }
    }

    /// The part of the request that is on the grid and has closed by the server's clock, and not before the epoch,
    /// which no API can name.
    async fn closed(&self, request: &FetchRequest) -> Result<Closed> {
        let interval = request.key.interval;
        let wanted = request.range.on_grid(interval);
        let read = async {
            match self.api.time() {
                Some(time) => self.http.get(&time, request, |answer| self.api.time_in(answer)).await,
                None => self.http.date(request).await,
            }
        };
        let end = wanted.map_or(Timestamp::MIN, TimeRange::end);
        let now = self.server_clock.now(&*self.http.config().clock, end, read).await?;
        let open = interval.floor(now).unwrap_or(Timestamp::MIN);
        let askable = TimeRange::checked(Timestamp::EPOCH, open);
        let range = wanted.zip(askable).and_then(|(wanted, askable)| wanted.intersect(askable));
        Ok(Closed { range, open, now })
    }

    fn known(&self, key: &SeriesKey) -> Series {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(series.entry(key.clone()).or_default())
    }

    /// Asks for the first page of what of `range` is not known to lie before the beginning, and says where in it
    /// absence means anything; `None` when nothing is to be asked.
    ///
    /// Where the page begins with bars that are absent and nothing is known of any before them, it looks for the
    /// beginning. The first fetch of a series lets the others wait for what it learns: they would look for the same.
    async fn begin(
        self: &Arc<Self>,
        request: &FetchRequest,
        range: TimeRange,
        closed: Closed,
    ) -> Result<Option<(Page, Option<TimeRange>)>> {
        let interval = request.key.interval;
        let series = self.known(&request.key);
        let mut known = series.lock().await;
        known.saw(request.begun_by);
        let from = range.start().max(known.at.unwrap_or(Timestamp::MIN));
        let Some(asked) = TimeRange::checked(from, range.end()) else { return Ok(None) };
        let asked = self.api.spec().first_page(asked, interval);
        let from = asked.start();
        let page = if known.is_unknown_at(from) && !known.is_asked {
            known.is_asked = true;
            self.page(request, asked).await?
        } else {
            drop(known);
            let page = self.page(request, asked).await?;
            known = series.lock().await;
            page
        };
        known.saw(page.first);
        let mut is_searched = true;
        if known.is_unknown_at(from) {
            match self.api.spec().beginning {
                Beginning::FirstRow => self.first_row(request, closed, &mut known).await?,
                Beginning::LookBack if known.nothing_before.is_none_or(|until| until < from) => {
                    match self.look_back(request, from, closed.now).await {
                        Ok(bar) => known.saw(bar),
                        // What was fetched is not lost because nobody knows what lies before it.
                        Err(error) => {
                            tracing::debug!(error = error.chain(), "cannot look for a bar before a range");
                            is_searched = false;
                        }
                    }
                }
                Beginning::LookBack | Beginning::Unknown => {}
            }
        }
        if is_searched && known.is_unknown_at(from) {
            // The range itself had no bar up to its first one.
            known.nothing_before = known.nothing_before.max(Some(page.first.unwrap_or(asked.end())));
        }
        let proven = known.proven(asked, page.first, interval);
        Ok(Some((page, proven)))
    }

    /// Looks for the first bar of all. It is that once those before it would have been published by now.
    async fn first_row(&self, request: &FetchRequest, closed: Closed, known: &mut Known) -> Result<()> {
        let interval = request.key.interval;
        // Up to a bar that is known: a page may have left out the first ones, and this answer has one at
        // least, so that an empty one is none.
        let next = known.by.and_then(|by| interval.next(by));
        let look = TimeRange::checked(Timestamp::EPOCH, next.unwrap_or(closed.open));
        let Some(look) = look.and_then(|look| look.on_grid(interval)) else { return Ok(()) };
        let Page { first, is_whole, .. } = self.ask(request, look, 1).await?;
        known.saw(first);
        if !is_whole {
            return Ok(());
        }
        let config = self.http.config();
        let now = closed.now.min(config.clock.now());
        known.at = first.filter(|bar| now.since(*bar) >= config.publish_lag);
        Ok(())
    }

    /// A bar before `start`, if one is found in pages that lie farther and farther back.
    async fn look_back(
        self: &Arc<Self>,
        request: &FetchRequest,
        start: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let (interval, spec) = (request.key.interval, self.api.spec());
        let reach = self.limits().reaches_back_to(interval, now).max(Timestamp::EPOCH);
        let length = spec.page_micros(interval);
        let mut pages = 1;
        while pages <= FARTHEST_LOOK_BACK {
            let from = start.checked_add_micros(length.saturating_mul(-pages));
            let Some(from) = from.filter(|from| *from >= reach) else { return Ok(None) };
            let end = from.checked_add_micros(length).unwrap_or(start).min(start);
            let range = TimeRange::checked(from, end).and_then(|range| range.on_grid(interval));
            if let Some(range) = range
                && let Some(first) = self.page(request, range).await?.first
            {
                return Ok(Some(first));
            }
            pages *= 2;
        }
        Ok(None)
    }

    /// Asks for a page in a task of its own, which ends with this future: pages that are asked for side by side by
    /// one task are read on all threads, each where its connection is.
    async fn page(self: &Arc<Self>, request: &FetchRequest, asked: TimeRange) -> Result<Page> {
        in_runtime()?;
        let (inner, request) = (Arc::clone(self), request.clone());
        let rows = asked.count(request.key.interval).min(self.api.spec().max_rows);
        let mut task = JoinSet::new();
        task.spawn(async move { inner.ask(&request, asked, rows).await }.in_current_span());
        match task.join_next().await {
            Some(Ok(page)) => page,
            Some(Err(ended)) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ended) => Err(Error::unexpected("a request was given up").caused_by(ended)),
            },
            None => Err(Error::unexpected("a request was never made")),
        }
    }

    /// Asks for the first rows of `range`, whose ends are on the grid.
    async fn ask(&self, request: &FetchRequest, range: TimeRange, rows: u64) -> Result<Page> {
        let (key, spec) = (&request.key, self.api.spec());
        let symbol = self.http.config().symbol(&key.node_id);
        let asked = CandleRequest::new(key, symbol, spec.interval(key)?, range, rows);
        let call = self.api.candles(&asked).or_weight(spec.weight);
        self.http.get(&call, request, |answer| self.read(&asked, answer)).await
    }

    /// The page of an answer; a failure that may pass where it cannot be one.
    fn read(&self, asked: &CandleRequest<'_>, answer: &Answer) -> Result<Page, Failure> {
        let named = |error: Error| error.with("series", asked.key);
        let bad = |error: Error| Failure::passing(Reason::BadAnswer, named(error));
        let rows = self.api.rows(asked, answer)?;
        let times = frame::timestamps(&rows).map_err(|e| Failure::lasting(named(e)))?.values();
        let (start, end) = (asked.range.start().as_micros(), asked.range.end().as_micros());
        let is_far =
            |ts: &i64| *ts < start.saturating_sub(FAR_MICROS) || *ts > end.saturating_add(FAR_MICROS);
        if let Some(row) = times.iter().position(is_far) {
            let error =
                Error::schema("a row's time is years away from what was asked for, as if in another unit");
            return Err(bad(error.with("asked", asked.range).with("row", row)));
        }
        let first = times.iter().copied().filter(|ts| (start..end).contains(ts)).min();
        let spec = self.api.spec();
        // A page that goes on beyond the range has answered for all of it.
        let is_beyond = |ts: &i64| match spec.order {
            PageOrder::NewestFirst => *ts < start,
            PageOrder::OldestFirst => *ts >= end,
            _ => false,
        };
        let is_answer = spec.open_end && times.iter().any(is_beyond);
        if let (None, Some(other), false) = (first, times.first(), is_answer) {
            let error = Error::schema("the page does not advance: it has no row that was asked for");
            let error = error.with("asked", asked.range);
            return Err(bad(match Timestamp::from_micros(*other) {
                Ok(other) => error.with("first", other),
                Err(_) => error,
            }));
        }
        // A row may stand beside the grid: what is asked for begins on it.
        let first = first.and_then(|ts| asked.key.interval.floor(Timestamp::from_micros(ts).ok()?));
        Ok(Page { rows, first, is_whole: answer.is_whole() })
    }
}

impl ApiSpec {
    /// The length of a page of bars.
    fn page_micros(&self, interval: Interval) -> i64 {
        interval.as_micros().saturating_mul(i64::try_from(self.max_rows).unwrap_or(i64::MAX))
    }

    /// What of a range, whose ends are on the grid, the first page has in the API's order.
    fn first_page(&self, range: TimeRange, interval: Interval) -> TimeRange {
        let (start, end) = (range.start(), range.end());
        let length = self.page_micros(interval);
        let page = match self.order {
            PageOrder::NewestFirst => {
                let from = end.checked_add_micros(-length).unwrap_or(Timestamp::MIN);
                TimeRange::checked(start.max(from), end)
            }
            _ => Some(range),
        };
        page.unwrap_or(range)
    }
}

#[cfg(test)]
mod tests;
