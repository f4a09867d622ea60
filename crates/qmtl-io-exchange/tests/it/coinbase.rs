//! The Coinbase fetcher against a simulated exchange: another order, another page, other errors, the
//! same store in the end.

use futures::future::join_all;
use qmtl_history_api::{DataFetcher, ErrorKind, FetchRequest, Interval, RangeSet, SeriesKey, TimeRange};
use qmtl_io_exchange::{CoinbaseFetcher, ExchangeConfig};
use qmtl_io_memory::MemoryBackend;
use qmtl_sim_exchange::{Endpoint, Fault, FaultRule, RequestRecord, SimExchange, When};

use crate::binance::faults::counted_right;
use crate::binance::market::{
    LISTED, MINUTE, NOW, assert_right_columns, at, config, fill, fill_in_turn, hurried, key, requests,
};

/// `ts`, open, high, low, close, volume.
const COLUMNS: usize = 6;

fn settings(sim: &SimExchange) -> ExchangeConfig {
    // The clock runs twenty times as fast, and so may the requests come.
    hurried(ExchangeConfig::coinbase().with_weight_per_minute(100_000), sim).with_requests_per_second(1_000.0)
}

fn candles(sim: &SimExchange) -> Vec<RequestRecord> {
    requests(sim, Endpoint::ProductCandles)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_has_every_bar_and_a_second_one_asks_nothing() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = CoinbaseFetcher::new(settings(&sim)).unwrap();
    let backend = MemoryBackend::new();
    let report = fill(&fetcher, &backend).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_right_columns(&backend, COLUMNS, "without faults").await;
    for record in candles(&sim) {
        let asked = record.asked.unwrap();
        let (first, last) = (asked.first.unwrap(), asked.last.unwrap());
        assert!(last - first < 300 * MINUTE && last + MINUTE <= NOW, "{asked:?}");
    }
    sim.clear_requests();
    let again = fill(&fetcher, &backend).await;
    // What lies before the first bar is nobody's to prove: the part of the wish before the listing.
    let listed = at(LISTED);
    assert!(candles(&sim).iter().all(|record| record.asked.as_ref().unwrap().first.unwrap() < LISTED));
    assert_eq!((again.rows_written, again.missing.span().map(|left| left.start() < listed)), (0, Some(true)));
}

async fn fill_with(fault: Fault) {
    let rule = FaultRule::new(fault.clone(), When::Every(5));
    let sim = SimExchange::start(config().with_fault(rule).with_body_cap(8 << 20)).await.unwrap();
    let fetcher = CoinbaseFetcher::new(settings(&sim)).unwrap();
    let backend = MemoryBackend::new();
    let report = match fault {
        // What is off the grid is asked for once more, and the fifth request must be another one then.
        Fault::OffGrid => fill_in_turn(&fetcher, &backend).await,
        _ => fill(&fetcher, &backend).await,
    };
    assert!(report.failed.is_empty() && report.off_grid.is_empty(), "{fault:?}: {:?}", report.failed);
    assert_right_columns(&backend, COLUMNS, fault.name()).await;
    let struck = candles(&sim).iter().filter(|record| record.fault.is_some()).count() as u64;
    assert!(struck >= 2, "{fault:?} struck {struck} times");
    let mut retries = report.retry_reasons;
    let late = retries.remove("timeout").unwrap_or(0);
    counted_right(&fault, struck, late, &retries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_any_fault_at_every_fifth_request_the_store_is_the_same() {
    join_all(Fault::all().into_iter().map(fill_with)).await;
}

#[tokio::test]
async fn an_empty_page_is_proof_only_after_a_bar_that_is_known() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetch = async |from: i64, to: i64| {
        let fetcher = CoinbaseFetcher::new(settings(&sim)).unwrap();
        let range = TimeRange::new(at(LISTED + from * MINUTE), at(LISTED + to * MINUTE)).unwrap();
        sim.clear_requests();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
        (range, fetched.proven, candles(&sim).len())
    };
    // Inside the hole of 1,500 bars: a bar is found eight pages back, after 1, 2 and 4.
    let (range, proven, requests) = fetch(4_400, 4_450).await;
    assert_eq!((proven, requests), (RangeSet::from(range), 5));
    let (range, proven, requests) = fetch(3_050, 3_060).await;
    assert_eq!((proven, requests), (RangeSet::from(range), 2));
    // The page begins with a bar, so there is nothing to look for.
    let (range, proven, requests) = fetch(16, 20).await;
    assert_eq!((proven, requests), (RangeSet::from(range), 1));
    // Before the listing there is no bar, however far back.
    let (_, proven, requests) = fetch(-600, -300).await;
    assert_eq!((proven, requests), (RangeSet::new(), 12));
    let (_, proven, _) = fetch(-300, 10).await;
    assert_eq!(proven.span().unwrap().start(), at(LISTED));

    // Where a bar is known from before, nothing is looked for.
    let fetcher = CoinbaseFetcher::new(settings(&sim)).unwrap();
    let range = TimeRange::new(at(LISTED + 4_400 * MINUTE), at(LISTED + 4_450 * MINUTE)).unwrap();
    sim.clear_requests();
    let request = FetchRequest::new(key(), range).with_begun_by(Some(at(LISTED)));
    let fetched = fetcher.fetch(&request).await.unwrap();
    assert_eq!((fetched.proven, candles(&sim).len()), (RangeSet::from(range), 1));
}

#[tokio::test]
async fn what_the_exchange_does_not_have_is_said() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = CoinbaseFetcher::new(settings(&sim)).unwrap();
    let ask = async |node: &str, secs: i64| {
        let key = SeriesKey::new(node, Interval::from_secs(secs).unwrap()).unwrap();
        let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
        fetcher.fetch(&FetchRequest::new(key, range)).await.unwrap_err()
    };
    let error = ask("ADABTC", 180).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("offered: 1m, 5m, 15m, 1h, 6h, 1d"), "{error}");
    assert!(sim.requests().is_empty());
    let error = ask("NO/SUCH", 60).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("with_product"), "{error}");
}

#[test]
fn limits_are_the_exchanges() {
    let limits = CoinbaseFetcher::new(ExchangeConfig::coinbase()).unwrap();
    assert_eq!(limits.source_id().as_str(), "coinbase");
    assert_eq!((limits.limits().max_rows, limits.limits().requests_per_second), (Some(300), Some(9.0)));
}
