//! A fetcher that asks Binance's spot API for klines.

mod config;
mod page;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_history_api::{
    BatchStream, Clock, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, Interval, Result, SeriesKey,
    SourceId, TimeRange, Timestamp, async_trait,
};
use tokio::sync::Mutex;

pub use config::BinanceConfig;

use crate::http::{Call, HttpClient, Url};
use page::Page;

/// Rows of a page at most.
const MAX_ROWS: u64 = 1_000;
const KLINES_WEIGHT: u32 = 2;
const TIME_WEIGHT: u32 = 1;

/// How long the server's clock is believed to run as ours does.
const CLOCK_TRUSTED_FOR: Duration = Duration::from_secs(600);
/// How young its reading must be to refuse a bar that may just have closed.
const CLOCK_FRESH_FOR: Duration = Duration::from_secs(1);

/// The bars that the API offers, in seconds, by their case-sensitive names. Months (`1M`) have no
/// fixed length.
const INTERVALS: [(i64, &str); 15] = [
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
/// A fetch asks for at most 1000 rows at a time, for nothing before a symbol's listing and for
/// nothing that has not closed by the server's clock. Where it asked, the absence of a row is proof.
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
    config: BinanceConfig,
    base: Url,
    http: HttpClient,
    source: SourceId,
    server_clock: Mutex<Option<Reading>>,
    listings: StdMutex<HashMap<SeriesKey, Listing>>,
}

/// A series' first opening time, once it is known; the lock is held by who asks for it.
type Listing = Arc<Mutex<Option<Timestamp>>>;

/// What the server's clock showed, and when that was on our monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    server: Timestamp,
    at: Duration,
}

/// A series as the API calls it.
#[derive(Clone, Debug)]
struct Series {
    key: SeriesKey,
    symbol: String,
    interval: &'static str,
}

impl BinanceFetcher {
    /// A fetcher of these settings; it asks nothing yet.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub fn new(config: BinanceConfig) -> Result<Self> {
        config.check_room()?;
        let base = config.url()?;
        let source = BinanceConfig::source_id(&base)?;
        let http = HttpClient::new(&base, source.clone(), config.limits(), Arc::clone(&config.clock))?;
        let (server_clock, listings) = (Mutex::default(), StdMutex::default());
        Ok(Self(Arc::new(Inner { config, base, http, source, server_clock, listings })))
    }

    /// How many requests were repeated so far, by reason: `rate_limited`, `banned`, `forbidden`,
    /// `server_error`, `timeout`, `connection`, `truncated`, `too_large`, `redirected` or
    /// `bad_answer`.
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.0.http.retries()
    }
}

#[async_trait]
impl DataFetcher for BinanceFetcher {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = Arc::clone(&self.0);
        let series = inner.series(&request.key)?;
        let schema = Arc::clone(&page::SCHEMA);
        let Some(asked) = inner.askable(&series, request.range).await? else {
            return Ok(Fetched::new(BatchStream::empty(schema)));
        };
        let pages = stream::try_unfold(Some(asked), move |left| {
            let (inner, series) = (Arc::clone(&inner), series.clone());
            async move {
                let Some(left) = left else { return Ok(None) };
                let page = inner.page(&series, left).await?;
                let left = after(&page, left, series.key.interval);
                Ok(Some((page.batch, left)))
            }
        });
        let reason = format!("no row in the answer of {}", self.0.source);
        Ok(Fetched::new(BatchStream::new(schema, pages.boxed())).with_proven(asked.into(), reason))
    }

    fn source_id(&self) -> SourceId {
        self.0.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        let per_second = f64::from(self.0.config.weight_per_minute) / f64::from(60 * KLINES_WEIGHT);
        FetchLimits::none()
            .with_max_rows(MAX_ROWS)
            .with_weight(KLINES_WEIGHT)
            .with_requests_per_second(per_second)
    }
}

impl Inner {
    fn series(&self, key: &SeriesKey) -> Result<Series> {
        let (_, interval) =
            INTERVALS.into_iter().find(|(secs, _)| *secs == key.interval.as_secs()).ok_or_else(|| {
                Error::invalid("Binance does not offer bars of this interval")
                    .with("series", key)
                    .with("offered", INTERVALS.map(|(_, name)| name).join(", "))
            })?;
        let symbol = self.config.symbols.get(&key.node_id);
        let symbol = symbol.map_or_else(|| key.node_id.as_str(), String::as_str).to_owned();
        Ok(Series { key: key.clone(), symbol, interval })
    }

    /// The part of `range` that may have rows: on the grid, listed, and closed.
    async fn askable(&self, series: &Series, range: TimeRange) -> Result<Option<TimeRange>> {
        let interval = series.key.interval;
        let Some(range) = range.on_grid(interval) else { return Ok(None) };
        let now = self.server_now(&series.key, range.end()).await?;
        let Some(open) = interval.floor(now) else { return Ok(None) };
        let Some(closed) = TimeRange::checked(range.start(), range.end().min(open)) else { return Ok(None) };
        let listed = self.listing(series).await?;
        Ok(listed.and_then(|listed| TimeRange::checked(closed.start().max(listed), closed.end())))
    }

    /// The server's time, or a little before it; read anew when it decides whether bars up to `end`
    /// have closed.
    async fn server_now(&self, key: &SeriesKey, end: Timestamp) -> Result<Timestamp> {
        let mut reading = self.server_clock.lock().await;
        if let Some(Reading { server, at }) = *reading {
            let age = self.config.clock.monotonic().saturating_sub(at);
            let now = server.checked_add(age).unwrap_or(Timestamp::MAX);
            if age < CLOCK_FRESH_FOR || (age < CLOCK_TRUSTED_FOR && end <= now) {
                return Ok(now);
            }
        }
        let call = self.call("/api/v3/time", TIME_WEIGHT, key);
        // A server of klines alone is taken to go by our clock.
        let server = self.http.get(&call, &page::server_time).await?;
        let server = server.unwrap_or_else(|| self.config.clock.now());
        *reading = Some(Reading { server, at: self.config.clock.monotonic() });
        Ok(server)
    }

    /// When the series' first bar opens; `None` while it has none. Asked for once.
    async fn listing(&self, series: &Series) -> Result<Option<Timestamp>> {
        let listing = {
            let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(listings.entry(series.key.clone()).or_default())
        };
        let mut first = listing.lock().await;
        if first.is_none() {
            let call = self.klines(series, &[("startTime", 0), ("limit", 1)]);
            let read = |status, body: &[u8]| page::read(&series.key, TimeRange::ALL, status, body);
            *first = self.http.get(&call, &read).await?.span.map(|(first, _)| first);
        }
        Ok(*first)
    }

    /// Asks for the first rows of `asked`, whose ends are on the grid.
    async fn page(&self, series: &Series, asked: TimeRange) -> Result<Page> {
        let interval = series.key.interval;
        let last = asked.end().as_micros() - interval.as_micros();
        let limit = i64::try_from(asked.count(interval).min(MAX_ROWS)).unwrap_or(i64::MAX);
        let bounds =
            [("startTime", asked.start().as_micros() / 1_000), ("endTime", last / 1_000), ("limit", limit)];
        let call = self.klines(series, &bounds);
        let read = |status, body: &[u8]| page::read(&series.key, asked, status, body);
        self.http.get(&call, &read).await
    }

    fn klines(&self, series: &Series, bounds: &[(&str, i64)]) -> Call {
        let mut call = self.call("/api/v3/klines", KLINES_WEIGHT, &series.key);
        let mut query = call.url.query_pairs_mut();
        query.append_pair("symbol", &series.symbol).append_pair("interval", series.interval);
        query.extend_pairs(bounds.iter().map(|(name, value)| (name, value.to_string())));
        drop(query);
        call
    }

    fn call(&self, path: &str, weight: u32, key: &SeriesKey) -> Call {
        let mut url = self.base.clone();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Call { url, weight, key: key.clone() }
    }
}

/// What is left to ask for: a page that is not full was the last one.
fn after(page: &Page, asked: TimeRange, interval: Interval) -> Option<TimeRange> {
    let full = asked.count(interval).min(MAX_ROWS);
    let (_, newest) = page.span.filter(|_| page.rows as u64 >= full)?;
    TimeRange::checked(interval.next(newest)?, asked.end())
}
