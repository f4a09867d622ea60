//! A fetcher that asks Coinbase Exchange for candles.

mod page;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use qmtl_history_api::{
    BatchStream, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, Interval, PageOrder, RangeSet,
    Result, SeriesKey, SourceId, SourceProfile, TimeRange, Timestamp, async_trait,
};
use tokio::sync::Mutex;

use crate::api::{self, Api, apart};
use crate::config::ExchangeConfig;
use crate::http::{Answer, ServerClock};
use page::Page;

/// Hosts that answer for the exchange itself.
const OWN_HOSTS: [&str; 2] = ["api.exchange.coinbase.com", "api.pro.coinbase.com"];

/// Rows of a page at most.
const MAX_ROWS: u64 = 300;

/// Of any request: there are no weights.
const WEIGHT: u32 = 1;

/// The bars that the API offers, in seconds.
const INTERVALS: [i64; 6] = [60, 300, 900, 3_600, 21_600, 86_400];

/// How many pages it looks back for a bar before a range: 1, 2, 4 … up to this many, which for bars
/// of a minute is seven months.
const FARTHEST_LOOK_BACK: i64 = 1_024;

/// Serves the closed bars of Coinbase Exchange, or of any server with the same API.
///
/// A fetch asks for one page: the newest 300 bars of its range. The exchange sends the newest first, no
/// rows for bars without a trade, and does not say when a product was listed. So what a page lacks is
/// reported as absent only after a bar that is known: the fetcher looks back for one, once, where a range
/// begins without.
/// Requests that fail in passing are repeated; what helped none is exhausted. All fetchers of a
/// process that ask one host share its rate.
///
/// Columns: `ts` and the doubles `open`, `high`, `low`, `close`, `volume`.
///
/// Errors of a fetch: `InvalidInput` for an interval that the exchange does not offer, naming those
/// it does; `NotFound` for a product that it does not know; `Schema`, exhausted, for rows that again
/// and again contradict the request; `Unavailable` for the rest.
#[derive(Clone, Debug)]
pub struct CoinbaseFetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    api: Api,
    server_clock: ServerClock,
    beginnings: StdMutex<HashMap<SeriesKey, Beginning>>,
}

/// What is known of where a series begins; the lock is held by who looks it up.
type Beginning = Arc<Mutex<Known>>;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The earliest bar seen, or a later time by which there was one.
    bar: Option<Timestamp>,
    /// Looking back from anywhere before this found no bar.
    nothing_before: Option<Timestamp>,
    /// Somebody has asked for bars since the fetcher was made.
    is_asked: bool,
}

impl Known {
    fn has_no_bar_by(&self, time: Timestamp) -> bool {
        self.bar.is_none_or(|bar| bar > time)
    }
}

/// A page, and where in it the absence of a row is proof: after any bar that is known.
#[derive(Debug)]
struct Begun {
    page: Page,
    proven: Option<TimeRange>,
}

impl CoinbaseFetcher {
    /// A fetcher of these settings; it asks nothing yet.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub fn new(config: ExchangeConfig) -> Result<Self> {
        let api = Api::open(config, "coinbase", &OWN_HOSTS, None)?;
        let (server_clock, beginnings) = (ServerClock::default(), StdMutex::default());
        Ok(Self(Arc::new(Inner { api, server_clock, beginnings })))
    }

    /// How many requests were repeated so far, by reason, as
    /// [`BinanceFetcher::retries`](crate::BinanceFetcher::retries).
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.0.api.http.retries()
    }
}

#[async_trait]
impl DataFetcher for CoinbaseFetcher {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = &self.0;
        if !INTERVALS.iter().any(|secs| api::is_plain(request.key.interval, *secs)) {
            return Err(Error::invalid("Coinbase does not offer bars of this interval")
                .with("series", &request.key)
                .with("offered", "1m, 5m, 15m, 1h, 6h, 1d"));
        }
        let (closed, now) = inner.closed(request).await?;
        let Some(closed) = closed else {
            let nothing = Fetched::new(BatchStream::empty(Arc::clone(&page::SCHEMA)));
            return Ok(nothing.with_as_of(Some(now)));
        };
        let Begun { page, proven } = inner.begin(request, tail(closed, request.key.interval)).await?;
        let reason = format!("no row in the answer of {}", inner.api.source);
        let proven = proven.filter(|_| page.is_whole).map_or_else(RangeSet::new, RangeSet::from);
        Ok(Fetched::from_batch(page.batch).with_proven(proven, reason).with_as_of(Some(now)))
    }

    fn source_id(&self) -> SourceId {
        self.0.api.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        let by_minute = f64::from(self.0.api.config.weight_per_minute) / 60.0;
        let rate = self.0.api.config.requests_per_second.map_or(by_minute, |rate| rate.min(by_minute));
        FetchLimits::none().with_max_rows(MAX_ROWS).with_weight(WEIGHT).with_requests_per_second(rate)
    }

    fn profile(&self) -> SourceProfile {
        SourceProfile::new(PageOrder::NewestFirst).with_publish_lag(self.0.api.config.publish_lag)
    }
}

impl Inner {
    /// The part of the request that is on the grid and has closed by the server's clock, and its time.
    async fn closed(&self, request: &FetchRequest) -> Result<(Option<TimeRange>, Timestamp)> {
        let interval = request.key.interval;
        let wanted = request.range.on_grid(interval);
        let call = self.api.call(["time"], WEIGHT, request);
        let read = self.api.http.get(&call, &page::server_time);
        let end = wanted.map_or(Timestamp::MIN, TimeRange::end);
        let now = self.server_clock.now(&*self.api.config.clock, end, read).await?;
        let open = interval.floor(now).unwrap_or(Timestamp::MIN);
        Ok((wanted.and_then(|range| api::askable(range, open)), now))
    }

    /// Asks for the page of `asked`.
    ///
    /// Where it begins with bars that are absent and none is known before them, it looks back for one. The
    /// first fetch of a series lets the others wait for what it learns: they would look for the same.
    async fn begin(self: &Arc<Self>, request: &FetchRequest, asked: TimeRange) -> Result<Begun> {
        let beginning = {
            let mut known = self.beginnings.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(request.key.clone()).or_default())
        };
        let mut known = beginning.lock().await;
        known.bar = known.bar.into_iter().chain(request.begun_by).min();
        let page = if known.has_no_bar_by(asked.start()) && !known.is_asked {
            known.is_asked = true;
            self.page(request, asked).await?
        } else {
            drop(known);
            let page = self.page(request, asked).await?;
            known = beginning.lock().await;
            page
        };
        known.bar = known.bar.into_iter().chain(page.first).min();
        if known.has_no_bar_by(asked.start())
            && known.nothing_before.is_none_or(|until| until < asked.start())
        {
            let earlier = self.look_back(request, asked.start()).await?;
            known.bar = known.bar.into_iter().chain(earlier).min();
        }
        if known.has_no_bar_by(asked.start()) {
            // The range itself had no bar up to its first one.
            known.nothing_before = known.nothing_before.max(Some(page.first.unwrap_or(asked.end())));
        }
        let proven = known.bar.and_then(|bar| TimeRange::checked(asked.start().max(bar), asked.end()));
        Ok(Begun { page, proven })
    }

    /// A bar before `start`, if one is found in pages that lie farther and farther back.
    async fn look_back(
        self: &Arc<Self>,
        request: &FetchRequest,
        start: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let page = request.key.interval.as_micros() * i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
        let mut pages = 1;
        while pages <= FARTHEST_LOOK_BACK {
            let from = start.checked_add_micros(-pages * page).filter(|from| *from >= Timestamp::EPOCH);
            let Some(from) = from else { return Ok(None) };
            let range = TimeRange::new(from, start)?;
            if let Some(range) = range.on_grid(request.key.interval)
                && let Some(first) = self.page(request, head(range, request.key.interval)).await?.first
            {
                return Ok(Some(first));
            }
            pages *= 2;
        }
        Ok(None)
    }

    /// Asks for the bars of `asked`, at most a page.
    async fn page(self: &Arc<Self>, request: &FetchRequest, asked: TimeRange) -> Result<Page> {
        let key = &request.key;
        let product = self.api.config.symbol(&key.node_id);
        let last = asked.end().checked_add_micros(-key.interval.as_micros()).unwrap_or(asked.start());
        let mut call = self.api.call(["products", product, "candles"], WEIGHT, request);
        call.url
            .query_pairs_mut()
            .append_pair("granularity", &key.interval.as_secs().to_string())
            .append_pair("start", &asked.start().to_string())
            .append_pair("end", &last.to_string());
        let (inner, key) = (Arc::clone(self), key.clone());
        apart(async move {
            let read = |answer: &Answer| page::read(&key, asked, answer);
            inner.api.http.get(&call, &read).await
        })
        .await
    }
}

/// The first page of a range whose ends are on the grid.
fn head(range: TimeRange, interval: Interval) -> TimeRange {
    let length = interval.as_micros() * i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
    let end = range.start().checked_add_micros(length).unwrap_or(Timestamp::MAX);
    TimeRange::checked(range.start(), end.min(range.end())).unwrap_or(range)
}

/// The last page of a range whose ends are on the grid.
fn tail(range: TimeRange, interval: Interval) -> TimeRange {
    let length = interval.as_micros() * i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
    let start = range.end().checked_add_micros(-length).unwrap_or(Timestamp::MIN);
    TimeRange::checked(start.max(range.start()), range.end()).unwrap_or(range)
}
