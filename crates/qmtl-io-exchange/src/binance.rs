//! A fetcher that asks Binance's spot API for klines.

mod page;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use qmtl_history_api::{
    BatchStream, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, PageOrder, RangeSet, Result,
    SeriesKey, SourceId, SourceProfile, TimeRange, Timestamp, async_trait,
};
use tokio::sync::Mutex;

use crate::api::{self, Api, apart};
use crate::config::ExchangeConfig;
use crate::http::{Answer, Call, ServerClock};
use page::Page;

/// Hosts that answer for the exchange itself.
const OWN_HOSTS: [&str; 7] = [
    "api.binance.com",
    "api1.binance.com",
    "api2.binance.com",
    "api3.binance.com",
    "api4.binance.com",
    "api-gcp.binance.com",
    "data-api.binance.vision",
];

/// Rows of a page at most.
const MAX_ROWS: u64 = 1_000;
const KLINES_WEIGHT: u32 = 2;
const TIME_WEIGHT: u32 = 1;

/// The bars that the API offers, in seconds, by their case-sensitive names. Months (`1M`) have no
/// fixed length.
pub(crate) const INTERVALS: [(i64, &str); 15] = [
    (1, "1s"),
    (60, "1m"),
    (180, "3m"),
    (300, "5m"),
    (900, "15m"),
    (1_800, "30m"),
    (3_600, "1h"),
    (7_200, "2h"),
    (14_400, "4h"),
    (21_600, "6h"),
    (28_800, "8h"),
    (43_200, "12h"),
    (86_400, "1d"),
    (259_200, "3d"),
    (604_800, "1w"),
];

/// Serves the closed bars of Binance's spot markets, or of any server with the same API.
///
/// A fetch asks for one page, at most 1000 rows, and for nothing that has not closed by the server's
/// clock. The exchange sends rows for bars without trades as well. What a page lacks is reported as
/// absent, but not before the symbol's listing, which is looked up once where that makes a difference.
/// Requests that fail in passing are repeated; what helped none is exhausted. All fetchers of a
/// process that ask one host share its weight.
///
/// Columns: `ts`, then the doubles `open`, `high`, `low`, `close`, `volume`, `quote_volume`, the
/// 64-bit integer `trades`, and the doubles `taker_base_volume` and `taker_quote_volume`, as an
/// archive of the same bars has them.
///
/// Errors of a fetch: `InvalidInput` for an interval that the exchange does not offer, naming those
/// it does; `NotFound` for a symbol that it does not know; `Schema`, exhausted, for rows that again
/// and again contradict the request, naming series, column and row; `Unavailable` for the rest.
#[derive(Clone, Debug)]
pub struct BinanceFetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    api: Api,
    server_clock: ServerClock,
    listings: StdMutex<HashMap<SeriesKey, Listing>>,
}

/// What is known of a series' first bar; the lock is held by who looks it up.
type Listing = Arc<Mutex<Known>>;

/// When a series' first bar opens, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// There was a bar by then.
    by: Option<Timestamp>,
    /// The first bar.
    at: Option<Timestamp>,
    /// Somebody has asked for bars since the fetcher was made.
    is_asked: bool,
}

impl Known {
    /// Whether bars that are absent from `start` on may lie before the listing.
    fn is_unknown_at(&self, start: Timestamp) -> bool {
        self.at.is_none() && self.by.is_none_or(|by| by > start)
    }
}

/// A page, and where in it the absence of a row is proof: from the listing on.
#[derive(Debug)]
struct Begun {
    page: Page,
    proven: Option<TimeRange>,
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

/// A series as the API calls it, and the request on whose behalf it is asked.
#[derive(Clone, Debug)]
struct Series {
    request: FetchRequest,
    symbol: String,
    interval: &'static str,
}

impl Series {
    /// The bar of a row at `time`, which may stand beside the grid: what is asked for begins on it.
    fn bar_of(&self, time: Timestamp) -> Timestamp {
        self.request.key.interval.floor(time).unwrap_or(time)
    }
}

impl BinanceFetcher {
    /// A fetcher of these settings; it asks nothing yet.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub fn new(config: ExchangeConfig) -> Result<Self> {
        let api = Api::open(config, "binance", &OWN_HOSTS, Some("x-mbx-used-weight-1m"))?;
        let (server_clock, listings) = (ServerClock::default(), StdMutex::default());
        Ok(Self(Arc::new(Inner { api, server_clock, listings })))
    }

    /// How many requests were repeated so far, by reason: `rate_limited`, `banned`, `forbidden`,
    /// `server_error`, `timeout`, `connection`, `truncated`, `too_large`, `redirected` or
    /// `bad_answer`.
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.0.api.http.retries()
    }
}

#[async_trait]
impl DataFetcher for BinanceFetcher {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = &self.0;
        let series = inner.series(request)?;
        let Closed { range, open, now } = inner.closed(&series).await?;
        let begun = match range {
            Some(closed) => inner.begin(&series, (closed, open, now)).await?,
            None => None,
        };
        let Some(Begun { page, proven }) = begun else {
            let nothing = Fetched::new(BatchStream::empty(Arc::clone(&page::SCHEMA)));
            return Ok(nothing.with_as_of(Some(now)));
        };
        let reason = format!("no row in the answer of {}", inner.api.source);
        let proven = proven.filter(|_| page.is_whole).map_or_else(RangeSet::new, RangeSet::from);
        Ok(Fetched::from_batch(page.batch).with_proven(proven, reason).with_as_of(Some(now)))
    }

    fn source_id(&self) -> SourceId {
        self.0.api.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        let per_minute = self.0.api.config.weight_per_minute / KLINES_WEIGHT;
        let limits = FetchLimits::none().with_max_rows(MAX_ROWS).with_weight(KLINES_WEIGHT);
        let by_weight = f64::from(per_minute) / 60.0;
        match self.0.api.config.requests_per_second {
            Some(rate) if rate < by_weight => limits.with_requests_per_second(rate),
            _ => limits.with_requests_per_second(by_weight).with_burst(per_minute.into()),
        }
    }

    fn profile(&self) -> SourceProfile {
        SourceProfile::new(PageOrder::OldestFirst)
            .with_gapless(true)
            .with_publish_lag(self.0.api.config.publish_lag)
    }
}

impl Inner {
    fn series(&self, request: &FetchRequest) -> Result<Series> {
        let key = &request.key;
        let (_, interval) =
            INTERVALS.into_iter().find(|(secs, _)| api::is_plain(key.interval, *secs)).ok_or_else(|| {
                Error::invalid("Binance does not offer bars of this interval")
                    .with("series", key)
                    .with("offered", INTERVALS.map(|(_, name)| name).join(", "))
            })?;
        let symbol = self.api.config.symbol(&key.node_id).to_owned();
        Ok(Series { request: request.clone(), symbol, interval })
    }

    /// The part of the request that is on the grid and has closed by the server's clock.
    async fn closed(&self, series: &Series) -> Result<Closed> {
        let FetchRequest { key, range, .. } = &series.request;
        let wanted = range.on_grid(key.interval);
        let call = self.api.call(["api", "v3", "time"], TIME_WEIGHT, &series.request);
        let read = self.api.http.get(&call, &page::server_time);
        let end = wanted.map_or(Timestamp::MIN, TimeRange::end);
        let now = self.server_clock.now(&*self.api.config.clock, end, read).await?;
        let open = key.interval.floor(now).unwrap_or(Timestamp::MIN);
        let closed = wanted.and_then(|range| api::askable(range, open));
        Ok(Closed { range: closed, open, now })
    }

    fn listing(&self, key: &SeriesKey) -> Listing {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(listings.entry(key.clone()).or_default())
    }

    /// Asks for the first page of what of `closed` is not known to lie before the listing; `None` when
    /// that is nothing.
    ///
    /// Where `closed` begins with bars that are absent and nothing is known of any before them, it looks
    /// for the listing. No bar that the series had begun by, or from `open` on, is asked for then. A first bar
    /// is the listing once those before it would have been published by `now`, the server's time. The
    /// first fetch of a series lets the others wait for what it learns: they would look for the same.
    async fn begin(
        self: &Arc<Self>,
        series: &Series,
        (closed, open, now): (TimeRange, Timestamp, Timestamp),
    ) -> Result<Option<Begun>> {
        let listing = self.listing(&series.request.key);
        let mut known = listing.lock().await;
        known.by = known.by.into_iter().chain(series.request.begun_by).min();
        let from = closed.start().max(known.at.unwrap_or(Timestamp::MIN));
        let Some(asked) = TimeRange::checked(from, closed.end()) else { return Ok(None) };
        let page = if known.is_unknown_at(from) && !known.is_asked {
            known.is_asked = true;
            self.page(series, asked).await?
        } else {
            drop(known);
            let page = self.page(series, asked).await?;
            known = listing.lock().await;
            page
        };
        let first = page.span.map(|(first, _)| series.bar_of(first));
        known.by = known.by.into_iter().chain(first).min();
        if known.is_unknown_at(from) {
            // Up to a bar that is known: the page may have left out the first ones, and this answer has one at
            // least, so that an empty one is none.
            let next = known.by.and_then(|by| series.request.key.interval.next(by));
            let look = TimeRange::checked(Timestamp::EPOCH, next.unwrap_or(open));
            let earliest = self.first_of(series, look).await?;
            known.by = known.by.into_iter().chain(earliest).min();
            let now = now.min(self.api.config.clock.now());
            known.at = earliest.filter(|bar| now.since(*bar) >= self.api.config.publish_lag);
        }
        // The first bar of all exists, whatever pages lack.
        let exists = known.at.filter(|at| first.is_none_or(|first| first > *at));
        let after = exists.and_then(|at| series.request.key.interval.next(at));
        let listed = after.or(known.at).or(known.by);
        let proven = listed.and_then(|listed| TimeRange::checked(from.max(listed), asked.end()));
        Ok(Some(Begun { page, proven }))
    }

    /// When the first bar of `range` opens, which may be long.
    async fn first_of(&self, series: &Series, range: Option<TimeRange>) -> Result<Option<Timestamp>> {
        let range = range.and_then(|range| range.on_grid(series.request.key.interval));
        let Some(range) = range else { return Ok(None) };
        let call = self.klines(series, range, 1);
        let read = |answer: &Answer| page::read(&series.request.key, range, answer);
        Ok(self.api.http.get(&call, &read).await?.span.map(|(first, _)| series.bar_of(first)))
    }

    /// Asks for the first rows of `asked`, whose ends are on the grid.
    async fn page(self: &Arc<Self>, series: &Series, asked: TimeRange) -> Result<Page> {
        let (inner, key) = (Arc::clone(self), series.request.key.clone());
        let call = self.klines(series, asked, asked.count(key.interval).min(MAX_ROWS));
        apart(async move {
            let read = |answer: &Answer| page::read(&key, asked, answer);
            inner.api.http.get(&call, &read).await
        })
        .await
    }

    fn klines(&self, series: &Series, asked: TimeRange, limit: u64) -> Call {
        let last = asked.end().as_micros() - series.request.key.interval.as_micros();
        let mut call = self.api.call(["api", "v3", "klines"], KLINES_WEIGHT, &series.request);
        call.url
            .query_pairs_mut()
            .append_pair("symbol", &series.symbol)
            .append_pair("interval", series.interval)
            .append_pair("startTime", &(asked.start().as_micros() / 1_000).to_string())
            .append_pair("endTime", &(last / 1_000).to_string())
            .append_pair("limit", &limit.to_string());
        call
    }
}
