//! What is asked, what is proven, and which questions are refused.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::TimestampMicrosecondType;
use qmtl_history_api::{
    BackfillRequest, Clock, DataFetcher, ErrorKind, FetchRequest, Interval, NodeId, PageOrder, RangeSet,
    SeriesKey, TimeRange, async_trait,
};
use qmtl_io_exchange::{BinanceFetcher, ExchangeConfig, Transport, TransportAnswer};
use qmtl_io_memory::MemoryBackend;
use qmtl_sim_exchange::{Endpoint, SimExchange};

use super::market::{
    BARS, Hurried, LISTED, MINUTE, NOW, assert_right, at, clock, config, fill, key, klines, settings, wanted,
};

#[test]
fn a_call_outside_of_a_runtime_is_refused() {
    let fetcher = BinanceFetcher::new(ExchangeConfig::binance().with_base_url("http://127.0.0.1:1")).unwrap();
    let request = FetchRequest::new(key(), wanted());
    let refused = fetcher.fetch(&request).now_or_never().unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
}

/// The features of one tree add up: what our client needs must not break an application's own.
#[test]
fn another_client_finds_its_cryptography() {
    reqwest::Client::builder().build().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_asks_what_was_planned_and_a_second_one_nothing() {
    let sim = SimExchange::start(config()).await.unwrap();
    // Where both of our clocks run alike, the server's need not be read again.
    let fetcher = settings(&sim).with_clock(Arc::new(Hurried(at(NOW), 1)));
    let fetcher = BinanceFetcher::new(fetcher).unwrap();
    let backend = MemoryBackend::new();
    let strategy = FetcherBackfillStrategy::new(Arc::new(fetcher.clone())).with_clock(clock());
    let plan = strategy.plan(&BackfillRequest::new(key(), wanted()), &backend).await.unwrap();

    let report = fill(&fetcher, &backend).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(fetcher.retries().is_empty());
    assert_right(&backend, "without faults").await;
    let asked = klines(&sim);
    // One more where the range begins before the listing: which is the first bar of all. What lies before it is
    // not asked for then. Two may be asked for a single bar as well.
    let looked_up = asked.iter().filter(|record| record.param("limit").as_deref() == Some("1")).count();
    // Four windows have holes, which are asked for once more; where one ends its window, nothing but an
    // empty page tells that.
    let again = asked.len() as u64 - plan.request_count();
    assert!(looked_up <= 3 && again <= 3 + 4 * 2, "{looked_up} {again}");
    for record in &asked {
        let asked = record.asked.clone().unwrap();
        assert!(asked.limit <= 1_000, "{asked:?}");
        assert!(asked.last.is_none_or(|last| last + MINUTE <= NOW), "{asked:?}");
    }
    assert_eq!(sim.requests().len() - asked.len(), 1, "the server's clock is asked once");

    sim.clear_requests();
    let report = fill(&fetcher, &backend).await;
    assert_eq!((report.rows_written, klines(&sim).len()), (0, 0));
}

#[tokio::test]
async fn a_fetch_is_the_first_page_of_its_range_and_dated_by_the_servers_clock() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = BinanceFetcher::new(settings(&sim)).unwrap();
    let range = TimeRange::new(at(LISTED), at(LISTED + 2_950 * MINUTE)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    assert_eq!((fetched.proven, fetched.as_of), (RangeSet::from(range), Some(at(NOW))));
    let rows = fetched.batches.into_batch().await.unwrap();
    // The page's thousand rows skip the holes of 1 and 40 bars.
    let last = rows.column(0).as_primitive::<TimestampMicrosecondType>().value(999);
    assert_eq!((rows.num_rows(), last), (1_000, (LISTED + 1_040 * MINUTE) * 1_000));
    assert_eq!(klines(&sim).len(), 1);
    let profile = fetcher.profile();
    assert_eq!((profile.order, profile.gapless), (PageOrder::OldestFirst, true));
}

#[tokio::test]
async fn bars_that_are_open_by_the_servers_clock_are_not_asked_for() {
    let sim = SimExchange::start(config()).await.unwrap();
    // Our own clock is an hour ahead.
    let ahead = Arc::new(Hurried(at(NOW + 60 * MINUTE), 20));
    let fetcher = BinanceFetcher::new(settings(&sim).with_clock(ahead)).unwrap();
    let range = TimeRange::new(at(NOW - 10 * MINUTE), at(NOW + 30 * MINUTE)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    let closed = at(LISTED + (BARS - 1) * MINUTE);
    assert_eq!(fetched.proven.span().unwrap().end(), closed);
    assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 9);

    let future = TimeRange::new(closed, at(NOW + 30 * MINUTE)).unwrap();
    sim.clear_requests();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), future)).await.unwrap();
    assert!(fetched.proven.is_empty());
    assert_eq!((fetched.batches.into_batch().await.unwrap().num_rows(), klines(&sim).len()), (0, 0));
}

#[tokio::test]
async fn nothing_is_proven_or_asked_before_the_listing() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = BinanceFetcher::new(settings(&sim)).unwrap();
    let before = TimeRange::new(at(LISTED - 500 * MINUTE), at(LISTED)).unwrap();
    for _ in 0..2 {
        let fetched = fetcher.fetch(&FetchRequest::new(key(), before)).await.unwrap();
        assert!(fetched.proven.is_empty());
    }
    assert_eq!(klines(&sim).len(), 2, "a page, and the first bar of all");
    let across = TimeRange::new(at(LISTED - 500 * MINUTE), at(LISTED + 5 * MINUTE)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), across)).await.unwrap();
    assert_eq!(fetched.proven.span().unwrap().start(), at(LISTED));
}

#[tokio::test]
async fn where_the_series_is_known_to_have_begun_its_listing_is_not_looked_for() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetch = async |from: i64, to: i64, begun: i64| {
        let fetcher = BinanceFetcher::new(settings(&sim)).unwrap();
        let range = TimeRange::new(at(LISTED + from * MINUTE), at(LISTED + to * MINUTE)).unwrap();
        let request = FetchRequest::new(key(), range).with_begun_by(Some(at(LISTED + begun * MINUTE)));
        sim.clear_requests();
        let proven = fetcher.fetch(&request).await.unwrap().proven;
        let asked = klines(&sim).into_iter().map(|record| record.asked.unwrap());
        let minute = |ms: Option<i64>| ms.map(|ms| (ms - LISTED) / MINUTE);
        let asked: Vec<_> = asked.map(|asked| (minute(asked.first), minute(asked.last))).collect();
        (range, proven, asked)
    };
    // Inside the hole of 1,500 bars, which a new fetcher knows nothing of.
    let (range, proven, asked) = fetch(3_100, 3_200, 10).await;
    assert_eq!((proven, asked), (range.into(), vec![(Some(3_100), Some(3_199))]));
    // A time after the range says nothing of it, but what follows is not asked for again.
    let (range, proven, asked) = fetch(3_100, 3_200, 3_900).await;
    assert_eq!((proven, asked.len()), (range.into(), 2));
    let (range, proven, asked) = fetch(-500, -300, 70).await;
    assert_eq!((proven, asked.len()), (RangeSet::new(), 2));
    assert_eq!(asked[0], (Some(-500), Some(-301)));
    assert_eq!(asked[1].1, Some(70), "{range} {asked:?}");
}

/// A server with a few bars that leaves out the first one of its first pages.
#[derive(Debug)]
struct Odd {
    /// When the bars open.
    bars: Vec<i64>,
    /// Of how many pages.
    forgets: AtomicUsize,
}

impl Odd {
    fn fetcher(host: &str, bars: impl IntoIterator<Item = i64>, forgets: usize) -> BinanceFetcher {
        let odd = Self { bars: bars.into_iter().collect(), forgets: AtomicUsize::new(forgets) };
        let settings = ExchangeConfig::binance()
            .with_base_url(format!("http://{host}.invalid"))
            .with_transport(odd)
            .with_clock(clock());
        BinanceFetcher::new(settings).unwrap()
    }
}

#[async_trait]
impl Transport for Odd {
    async fn get(&self, url: &str) -> std::io::Result<TransportAnswer> {
        if url.contains("time") && !url.contains("klines") {
            return Ok(TransportAnswer::new(200, format!("{{\"serverTime\":{NOW}}}")));
        }
        let number = |name: &str| {
            let (_, value) = url.split_once(name).unwrap();
            value.split('&').next().unwrap().parse::<i64>().unwrap()
        };
        let asked = number("startTime=")..=number("endTime=");
        let bars = self.bars.iter().filter(|bar| asked.contains(bar));
        let left = |forgets: usize| forgets.checked_sub(1);
        let forgets = self.forgets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok();
        let bars = bars.skip(usize::from(forgets)).take(usize::try_from(number("limit=")).unwrap());
        let rows: Vec<_> = bars
            .map(|bar| {
                let close = bar - bar % MINUTE + MINUTE - 1;
                format!("[{bar},\"1\",\"1\",\"1\",\"1\",\"1\",{close},\"1\",1,\"1\",\"1\",\"0\"]")
            })
            .collect();
        Ok(TransportAnswer::new(200, format!("[{}]", rows.join(","))))
    }
}

#[tokio::test]
async fn a_page_that_leaves_out_the_first_bar_of_all_does_not_make_the_second_one_the_listing() {
    let fetcher = Odd::fetcher("forgetful", (0..10).map(|bar| LISTED + bar * MINUTE), 1);
    let range = TimeRange::new(at(LISTED - 5 * MINUTE), at(LISTED + 10 * MINUTE)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    // Of the first bar the page says nothing, and that it exists is known by then.
    assert_eq!(fetched.proven.span().unwrap().start(), at(LISTED + MINUTE));
    assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 9);
    let again = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    assert_eq!(again.batches.into_batch().await.unwrap().num_rows(), 10);
}

#[tokio::test]
async fn a_bar_is_not_the_first_of_all_while_one_before_it_may_still_be_published() {
    let second = NOW - NOW % MINUTE - MINUTE;
    let fetcher = Odd::fetcher("young", [second - MINUTE, second], 2);
    let all = TimeRange::new(at(second - 5 * MINUTE), at(second + MINUTE)).unwrap();
    let before = TimeRange::new(at(second - 5 * MINUTE), at(second)).unwrap();
    // The first of two bars is late: neither the page nor the look for the listing has it.
    fetcher.fetch(&FetchRequest::new(key(), all)).await.unwrap();
    let late = fetcher.fetch(&FetchRequest::new(key(), before)).await.unwrap();
    assert_eq!(late.batches.into_batch().await.unwrap().num_rows(), 1);
}

#[tokio::test]
async fn what_is_asked_begins_on_the_grid_where_the_first_row_of_all_does_not() {
    let fetcher = Odd::fetcher("beside", [LISTED + 7_000, LISTED + MINUTE], 0);
    let range = TimeRange::new(at(LISTED - 5 * MINUTE), at(LISTED + 2 * MINUTE)).unwrap();
    for _ in 0..2 {
        let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
        assert_eq!(fetched.proven.span().unwrap().start(), at(LISTED));
        assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 2);
    }
}

#[tokio::test]
async fn a_node_may_be_called_otherwise_than_its_symbol() {
    let sim = SimExchange::start(config()).await.unwrap();
    let node = NodeId::new("ohlcv:binance:ADA/BTC:1m").unwrap();
    let named = settings(&sim).with_symbol(node.clone(), "ADABTC");
    let key = SeriesKey { node_id: node, interval: Interval::MINUTE };
    let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
    let request = FetchRequest::new(key, range);
    let fetched = BinanceFetcher::new(named).unwrap().fetch(&request).await.unwrap();
    assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 5);

    // Unnamed, the node's id goes out as it is, and the exchange does not understand it.
    let error = BinanceFetcher::new(settings(&sim)).unwrap().fetch(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("is the symbol spelled as the exchange does"), "{error}");
    assert_eq!(klines(&sim).last().unwrap().param("symbol").as_deref(), Some("ohlcv:binance:ADA/BTC:1m"));
}

#[tokio::test]
async fn what_the_exchange_does_not_have_is_said_without_asking_twice() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = BinanceFetcher::new(settings(&sim)).unwrap();
    let ask = async |node: &str, secs: i64| {
        let key = SeriesKey::new(node, Interval::from_secs(secs).unwrap()).unwrap();
        fetcher.fetch(&FetchRequest::new(key, wanted())).await.unwrap_err()
    };
    let error = ask("ADABTC", 90).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("series: ADABTC@90s, offered: 1s, 1m, 3m, 5m, 15m"), "{error}");
    assert!(sim.requests().is_empty());

    let error = ask("NOSUCH", 60).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("with_symbol"), "{error}");
    assert_eq!(klines(&sim).len(), 1);
    assert_eq!(sim.requests().iter().filter(|record| record.endpoint == Endpoint::Time).count(), 1);
}

#[test]
fn an_address_is_checked_before_anything_is_asked() {
    let cases = [
        ("api.binance.com", "it is no URL"),
        ("ftp://api.binance.com", "neither http nor https"),
        ("https://api.binance.com/?x=1", "ends in a query"),
        ("https://me:canary@api.binance.com", "a user or a password"),
    ];
    for (url, message) in cases {
        let error = BinanceFetcher::new(ExchangeConfig::binance().with_base_url(url)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(message), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
    }
}

#[test]
fn limits_must_leave_room_for_a_request() {
    let refused = |config: ExchangeConfig| BinanceFetcher::new(config).unwrap_err().to_string();
    let text = refused(ExchangeConfig::binance().with_weight_per_minute(0));
    assert!(text.contains("weight_per_minute: 0"), "{text}");
    assert!(refused(ExchangeConfig::binance().with_timeout(Duration::ZERO)).contains("timeout: 0"));
}

#[tokio::test]
async fn the_weight_of_a_minute_is_kept_by_all_fetchers_of_a_host_together() {
    let sim = SimExchange::start(config()).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Hurried(at(NOW), 200));
    // Each needs 1 for the time and 2 for its page.
    let narrow = settings(&sim)
        .with_clock(Arc::clone(&clock))
        .with_timeout(Duration::from_secs(2_000))
        .with_deadline(Duration::from_secs(10_000))
        .with_weight_per_minute(3);
    let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
    let fetch = async || {
        let fetcher = BinanceFetcher::new(narrow.clone()).unwrap();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
        (fetched.batches.into_batch().await.unwrap().num_rows(), fetcher)
    };
    let started = clock.monotonic();
    let (rows, _keeps_the_limiter) = fetch().await;
    assert_eq!((rows, fetch().await.0), (5, 5));
    assert!(clock.monotonic() - started >= Duration::from_secs(60));
    assert_eq!(sim.requests().len(), 4);
}

/// Uses weight of the exchange as a client that knows nothing of ours does.
fn page_for_another(addr: SocketAddr) {
    let mut stream = TcpStream::connect(addr).unwrap();
    let target = "/api/v3/klines?symbol=ADABTC&interval=1m&limit=1";
    write!(stream, "GET {target} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn weight_that_others_use_counts_too() {
    let sim = SimExchange::start(config()).await.unwrap();
    let addr = sim.addr();
    let others = move || (0..5).for_each(|_| page_for_another(addr));
    tokio::task::spawn_blocking(others).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Hurried(at(NOW), 200));
    // The answer about the time tells of 11; with a page that is 13, and a second page must wait.
    let narrow = settings(&sim)
        .with_clock(Arc::clone(&clock))
        .with_timeout(Duration::from_secs(2_000))
        .with_deadline(Duration::from_secs(10_000))
        .with_weight_per_minute(14);
    let fetcher = BinanceFetcher::new(narrow).unwrap();
    let started = clock.monotonic();
    for page in 0..2 {
        let from = LISTED + page * 5 * MINUTE;
        let range = TimeRange::new(at(from), at(from + 5 * MINUTE)).unwrap();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
        assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 5);
    }
    assert!(clock.monotonic() - started >= Duration::from_secs(59));
    assert!(fetcher.retries().is_empty(), "it was never refused");
}

#[tokio::test]
async fn a_server_without_a_clock_goes_by_ours() {
    let sim = SimExchange::start(config()).await.unwrap();
    // Under this path the simulated exchange knows nothing: what is asked first is answered 404.
    let elsewhere = settings(&sim).with_base_url(format!("{}/proxy", sim.base_url()));
    let range = TimeRange::new(at(NOW), at(NOW + 5 * MINUTE)).unwrap();
    let fetcher = BinanceFetcher::new(elsewhere).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    assert!(fetched.proven.is_empty(), "these bars are open by our clock");
    let listed = TimeRange::new(at(LISTED), at(NOW)).unwrap();
    let error = fetcher.fetch(&FetchRequest::new(key(), listed)).await.unwrap_err();
    assert!(error.to_string().contains("not as Binance's API does (status: 404"), "{error}");
    assert!(!error.is_retryable());
    let paths: Vec<_> = sim.requests().into_iter().map(|record| record.path).collect();
    assert_eq!(paths, ["/proxy/api/v3/time", "/proxy/api/v3/klines"]);
}

#[test]
fn a_source_is_named_by_its_exchange_and_by_its_host_when_that_is_another() {
    let id = |url: &str| {
        let fetcher = BinanceFetcher::new(ExchangeConfig::binance().with_base_url(url)).unwrap();
        fetcher.source_id().to_string()
    };
    assert_eq!(id("https://api.binance.com"), "binance");
    assert_eq!(id("https://data-api.binance.vision/"), "binance");
    assert_eq!(id("http://127.0.0.1:8123"), "binance:127.0.0.1:8123");
    let limits = BinanceFetcher::new(ExchangeConfig::binance()).unwrap().limits();
    assert_eq!((limits.max_rows, limits.weight, limits.requests_per_second), (Some(1_000), 2, Some(45.0)));
}
