//! A fetcher that asks Binance's spot API for klines.

mod page;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use futures::{StreamExt, stream};
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, Interval, RangeSet, Result,
    SeriesKey, SourceId, TimeRange, Timestamp, async_trait,
};
use tokio::sync::Mutex;

use crate::api::{Api, apart};
use crate::config::ExchangeConfig;
use crate::http::{Call, ServerClock};
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
/// A fetch asks for at most 1000 rows at a time and for nothing that has not closed by the server's
/// clock. Where it asked, the absence of a row is proof, but not before the symbol's listing, which
/// it looks up once where that makes a difference.
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

/// How a fetch begins.
#[derive(Debug)]
struct Begun {
    asked: TimeRange,
    /// The first page of it.
    first: Page,
    /// Where in it the absence of a row is proof: from the listing on.
    proven: Option<TimeRange>,
}

/// A series as the API calls it, and the request on whose behalf it is asked.
#[derive(Clone, Debug)]
struct Series {
    request: FetchRequest,
    symbol: String,
    interval: &'static str,
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
        let inner = Arc::clone(&self.0);
        let series = inner.series(request)?;
        let schema = Arc::clone(&page::SCHEMA);
        let begun = match inner.closed(&series).await? {
            Some(closed) => inner.begin(&series, closed).await?,
            None => None,
        };
        let Some(Begun { asked, first, proven }) = begun else {
            return Ok(Fetched::new(BatchStream::empty(schema)));
        };
        let left = after(&first, asked, request.key.interval);
        let others = stream::try_unfold(left, move |left| {
            let (inner, series) = (Arc::clone(&inner), series.clone());
            async move {
                let Some(left) = left else { return Ok(None) };
                let page = inner.page(&series, left).await?;
                let left = after(&page, left, series.request.key.interval);
                Ok(Some((page.batch, left)))
            }
        });
        let pages = stream::once(async { Ok(first.batch) }).chain(others);
        let reason = format!("no row in the answer of {}", self.0.api.source);
        let proven = proven.map_or_else(RangeSet::new, RangeSet::from);
        Ok(Fetched::new(BatchStream::new(schema, pages.boxed())).with_proven(proven, reason))
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
}

impl Inner {
    fn series(&self, request: &FetchRequest) -> Result<Series> {
        let key = &request.key;
        let (_, interval) =
            INTERVALS.into_iter().find(|(secs, _)| *secs == key.interval.as_secs()).ok_or_else(|| {
                Error::invalid("Binance does not offer bars of this interval")
                    .with("series", key)
                    .with("offered", INTERVALS.map(|(_, name)| name).join(", "))
            })?;
        let symbol = self.api.config.symbol(&key.node_id).to_owned();
        Ok(Series { request: request.clone(), symbol, interval })
    }

    /// The part of the request that is on the grid and has closed, and when the bar opened that has not.
    async fn closed(&self, series: &Series) -> Result<Option<(TimeRange, Timestamp)>> {
        let FetchRequest { key, range, .. } = &series.request;
        let Some(range) = range.on_grid(key.interval) else { return Ok(None) };
        let call = self.api.call(["api", "v3", "time"], TIME_WEIGHT, &series.request);
        let read = self.api.http.get(&call, &page::server_time);
        let now = self.server_clock.now(&*self.api.config.clock, range.end(), read).await?;
        let Some(open) = key.interval.floor(now) else { return Ok(None) };
        Ok(TimeRange::checked(range.start(), range.end().min(open)).map(|closed| (closed, open)))
    }

    fn listing(&self, key: &SeriesKey) -> Listing {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(listings.entry(key.clone()).or_default())
    }

    /// Asks for the first page of what of `closed` is not known to lie before the listing; `None` when
    /// that is nothing.
    ///
    /// Where `closed` begins with bars that are absent and nothing is known of any before them, it looks
    /// for the listing. No bar that the series had begun by, or from `open` on, is asked for then. The
    /// first fetch of a series lets the others wait for what it learns: they would look for the same.
    async fn begin(
        self: &Arc<Self>,
        series: &Series,
        (closed, open): (TimeRange, Timestamp),
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
        let first = page.span.map(|(first, _)| first);
        known.by = known.by.into_iter().chain(first).min();
        if known.is_unknown_at(from) {
            let before = TimeRange::checked(Timestamp::MIN, from);
            let after = TimeRange::checked(asked.end(), known.by.unwrap_or(open));
            known.at = self.first_of(series, before).await?.or(first);
            if known.at.is_none() {
                known.at = self.first_of(series, after).await?.or(known.by);
            }
            known.by = known.at;
        }
        let listed = known.at.or(known.by);
        let proven = listed.and_then(|listed| TimeRange::checked(from.max(listed), asked.end()));
        Ok(Some(Begun { asked, first: page, proven }))
    }

    /// When the first bar of `range` opens, which may be long.
    async fn first_of(&self, series: &Series, range: Option<TimeRange>) -> Result<Option<Timestamp>> {
        let range = range.and_then(|range| range.on_grid(series.request.key.interval));
        let Some(range) = range else { return Ok(None) };
        let call = self.klines(series, range, 1);
        let read = |status, body: &[u8]| page::read(&series.request.key, range, status, body);
        Ok(self.api.http.get(&call, &read).await?.span.map(|(first, _)| first))
    }

    /// Asks for the first rows of `asked`, whose ends are on the grid.
    async fn page(self: &Arc<Self>, series: &Series, asked: TimeRange) -> Result<Page> {
        let (inner, key) = (Arc::clone(self), series.request.key.clone());
        let call = self.klines(series, asked, asked.count(key.interval).min(MAX_ROWS));
        apart(async move {
            let read = |status, body: &[u8]| page::read(&key, asked, status, body);
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

/// What is left to ask for: a page that is not full was the last one.
fn after(page: &Page, asked: TimeRange, interval: Interval) -> Option<TimeRange> {
    let full = asked.count(interval).min(MAX_ROWS);
    let (_, newest) = page.span.filter(|_| page.rows as u64 >= full)?;
    TimeRange::checked(interval.next(newest)?, asked.end())
}
