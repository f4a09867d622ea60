//! Every fault at every fifth request: the run ends by itself and nothing of it shows in the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qmtl_history_api::{
    BackfillReport, DataFetcher, Error, ErrorKind, FetchRequest, HistoryBackend, Interval, RangeSet,
    TimeRange,
};
use qmtl_io_exchange::{BinanceFetcher, ExchangeConfig};
use qmtl_io_memory::MemoryBackend;
use qmtl_sim_exchange::{Fault, FaultRule, SimExchange, When};

use super::market::{
    LISTED, MINUTE, NOW, assert_right, at, clock, config, fill, fill_in_turn, key, klines, market, settings,
    wanted,
};

/// The word under which the repetition is counted; none where the rows are brought into form.
pub(crate) fn reason(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::TooManyRequests(_) => Some("rate_limited"),
        Fault::Banned(_) => Some("banned"),
        Fault::Forbidden => Some("forbidden"),
        Fault::InternalError | Fault::BadGateway | Fault::Unavailable | Fault::ErrorInOk => {
            Some("server_error")
        }
        Fault::Redirect(_) => Some("redirected"),
        Fault::WrongContentType
        | Fault::GarbageJson
        | Fault::HugeNumbers
        | Fault::NotAdvancing
        | Fault::WrongTimeUnit => Some("bad_answer"),
        Fault::Truncated => Some("truncated"),
        Fault::Endless | Fault::Bomb => Some("too_large"),
        Fault::Slow | Fault::Silent => Some("timeout"),
        Fault::Reset => Some("connection"),
        _ => None,
    }
}

/// Asserts that the repetitions are counted under the fault's word, and under no other.
pub(crate) fn counted_right(fault: &Fault, struck: u64, late: u64, retries: &BTreeMap<&'static str, u64>) {
    let mut retries = retries.clone();
    let told = format!("{fault:?}: struck {struck} times, {late} late, {retries:?}");
    match reason(fault) {
        // An answer without rows is so short that even a slow one comes in time.
        Some("timeout") => assert!(late > 0 && retries.is_empty(), "{told}"),
        Some(word) => {
            let counted = retries.remove(word).unwrap_or(0);
            assert!(counted <= struck && retries.is_empty(), "{told}");
            // A fault of rows does nothing to a page without rows.
            let all = counted + late >= struck || word == "bad_answer";
            assert!(counted + late > 0 && all, "{told}");
        }
        None => assert!(retries.is_empty(), "{told}"),
    }
}

async fn fill_with(fault: Fault) {
    let rule = FaultRule::new(fault.clone(), When::Every(5));
    let sim = SimExchange::start(config().with_fault(rule).with_body_cap(8 << 20)).await.unwrap();
    let fetcher = BinanceFetcher::new(settings(&sim)).unwrap();
    let backend = MemoryBackend::new();
    let report = match fault {
        // What is off the grid is asked for once more, and the fifth request must be another one then.
        Fault::OffGrid => fill_in_turn(&fetcher, &backend).await,
        _ => fill(&fetcher, &backend).await,
    };
    assert!(report.failed.is_empty() && report.off_grid.is_empty(), "{fault:?}: {:?}", report.failed);
    assert_right(&backend, fault.name()).await;

    let struck = klines(&sim).iter().filter(|record| record.fault.is_some()).count() as u64;
    assert!(struck >= 2, "{fault:?} struck {struck} times");
    let mut retries = fetcher.retries();
    assert_eq!(report.retry_reasons, retries, "{fault:?}: the report counts them too");
    // A busy machine may let an answer come too late, whatever the fault.
    let late = retries.remove("timeout").unwrap_or(0);
    counted_right(&fault, struck, late, &retries);
    sim.clear_requests();
    fill(&fetcher, &backend).await;
    assert_eq!(klines(&sim).len(), 0, "{fault:?}: the second run asks nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_any_fault_at_every_fifth_request_the_store_is_the_same() {
    join_all(Fault::all().into_iter().map(fill_with)).await;
}

/// Asks for five bars of an exchange on which every request meets this fault.
async fn ask(fault: Fault, change: impl Fn(ExchangeConfig) -> ExchangeConfig) -> (Error, usize) {
    let rule = FaultRule::new(fault, When::Always);
    let sim = SimExchange::start(config().with_fault(rule).with_body_cap(8 << 20)).await.unwrap();
    let fetcher = BinanceFetcher::new(change(settings(&sim).with_retries(2))).unwrap();
    let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
    let error = fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap_err();
    (error, klines(&sim).len())
}

#[tokio::test]
async fn what_retries_do_not_help_against_is_exhausted_and_says_why() {
    let cases = [
        (
            Fault::InternalError,
            ErrorKind::Unavailable,
            "the source answered with a server error (status: 500",
        ),
        (Fault::Redirect("http://elsewhere.invalid".into()), ErrorKind::Unavailable, "elsewhere.invalid"),
        (Fault::Bomb, ErrorKind::Unavailable, "larger than any valid one (cap_bytes: 4194304"),
        (Fault::Truncated, ErrorKind::Unavailable, "broke off"),
        (Fault::NotAdvancing, ErrorKind::Schema, "the page does not advance"),
        (Fault::WrongTimeUnit, ErrorKind::Schema, "not in milliseconds"),
        (Fault::HugeNumbers, ErrorKind::Schema, "column: open"),
        (Fault::GarbageJson, ErrorKind::Unavailable, "not what Binance's API sends"),
    ];
    for (fault, kind, message) in cases {
        let (error, requests) = ask(fault.clone(), |config| config).await;
        assert_eq!((error.kind(), requests), (kind, 3), "{fault:?}: {error}");
        assert!(error.is_exhausted() && !error.is_retryable(), "{fault:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(message) && text.contains("tries: 3"), "{fault:?}: {text}");
    }
}

#[tokio::test]
async fn a_request_is_repeated_no_sooner_than_the_exchange_allows() {
    let rule = FaultRule::new(Fault::TooManyRequests(Some(20)), When::Numbers(vec![1]));
    let sim = SimExchange::start(config().with_fault(rule)).await.unwrap();
    let clock = clock();
    let fetcher = BinanceFetcher::new(settings(&sim).with_clock(Arc::clone(&clock))).unwrap();
    let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
    let started = clock.monotonic();
    fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap();
    // By itself it would pause for a second at most.
    assert!(clock.monotonic() - started >= Duration::from_secs(20));
    assert_eq!(fetcher.retries().into_iter().collect::<Vec<_>>(), [("rate_limited", 1)]);
}

#[tokio::test]
async fn a_ban_is_waited_out_when_the_deadline_allows_and_else_given_up_at_once() {
    let (error, requests) =
        ask(Fault::Banned(Some(10)), |config| config.with_deadline(Duration::from_secs(15))).await;
    // The second ban would end after the deadline.
    assert_eq!(requests, 2, "{error}");
    let (error, requests) =
        ask(Fault::Banned(Some(3_600)), |config| config.with_deadline(Duration::from_secs(60))).await;
    assert_eq!(requests, 1, "{error}");
    assert!(error.is_exhausted(), "{error}");
    assert!(error.to_string().contains("banned this address"), "{error}");
}

/// Fills from an exchange whose every answer, or every other one, is quietly wrong.
async fn fill_quietly(fault: &Fault, when: When) -> (MemoryBackend, BackfillReport) {
    let sim = SimExchange::start(config().with_fault(FaultRule::new(fault.clone(), when))).await.unwrap();
    let (fetcher, backend) =
        (BinanceFetcher::new(settings(&sim).with_retries(1)).unwrap(), MemoryBackend::new());
    // In turn, so that not every question about one page meets the fault.
    let report = fill_in_turn(&fetcher, &backend).await;
    (backend, report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_only_looks_right_proves_nothing_false() {
    for fault in Fault::quiet() {
        for when in [When::Always, When::Every(3)] {
            let (backend, report) = fill_quietly(&fault, when.clone()).await;
            let coverage = backend.coverage(&key(), wanted()).await.unwrap();
            let bars = market().candles().iter().map(|bar| at(bar.open_time)).collect::<Vec<_>>();
            let exists = RangeSet::from_sorted_points(bars, Interval::MINUTE);
            let lost = coverage.empty_by_any(at(NOW)).intersection(&exists);
            // A source that says twice that it has nothing at all, and only that, is believed.
            let is_beyond_doubt = fault == Fault::EmptyPage && matches!(when, When::Always);
            assert!(lost.is_empty() || is_beyond_doubt, "{fault:?} {when:?} lost {lost:?}");
            assert!(coverage.present().difference(&exists).is_empty(), "{fault:?} {when:?} invented");
            let settled = coverage.present().union(&coverage.empty_by_any(at(NOW)));
            assert_eq!(
                report.missing,
                RangeSet::from(wanted()).difference(&settled).on_grid(Interval::MINUTE)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_pages_lose_no_row() {
    for fault in [Fault::ShortPage(500), Fault::PartialContent(500)] {
        let (backend, report) = fill_quietly(&fault, When::Always).await;
        let closed = market().candles().iter().filter(|bar| bar.open_time + MINUTE <= NOW).count() as u64;
        assert_eq!(report.rows_written, closed, "{fault:?}: {:?}", report.failed);
        if fault == Fault::ShortPage(500) {
            assert_right(&backend, "short pages").await;
        }
    }
}
