//! A host that does not answer, or serves nobody from here: it is asked no more than makes sense, and the end names why.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use qmtl_history_api::{
    Clock, DataFetcher, Error, FetchRequest, Retry, RetrySink, TimeRange, Wait, async_trait,
};
use qmtl_history_testkit::fixtures::ManualClock;
use qmtl_io_exchange::{BinanceFetcher, ExchangeConfig, Transport, TransportAnswer};
use qmtl_sim_exchange::{Fault, FaultRule, SimExchange, When};

use super::market::{LISTED, MINUTE, at, config, key, settings};

/// A network on which nothing, or always the same, is answered.
#[derive(Debug)]
struct Network {
    answer: Mutex<Option<TransportAnswer>>,
    tries: AtomicU32,
}

impl Network {
    fn new(answer: Option<TransportAnswer>) -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new(answer), tries: AtomicU32::new(0) })
    }

    /// The tries since the last time.
    fn tries(&self) -> u32 {
        self.tries.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl Transport for Network {
    async fn get(&self, _: &str) -> io::Result<TransportAnswer> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.answer.lock().unwrap().clone().ok_or_else(|| io::Error::other("no route to host"))
    }
}

/// A fetcher on a clock of its own, and so with a host of its own.
fn fetcher(network: &Arc<Network>, clock: &ManualClock) -> BinanceFetcher {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let host = format!("http://nobody-{}.invalid", HOSTS.fetch_add(1, Ordering::Relaxed));
    let config = ExchangeConfig::binance().with_base_url(host).with_clock(clock.clone());
    BinanceFetcher::new(config.with_transport(Arc::clone(network))).unwrap()
}

fn clock() -> ManualClock {
    ManualClock::skipping_sleep(at(LISTED + 1_000 * MINUTE))
}

async fn ask(fetcher: &BinanceFetcher, window: i64) -> Error {
    let start = LISTED + window * 10 * MINUTE;
    let range = TimeRange::new(at(start), at(start + 10 * MINUTE)).unwrap();
    fetcher.fetch(&FetchRequest::new(key(), range)).await.unwrap_err()
}

#[tokio::test]
async fn a_host_that_never_answers_costs_a_minute_for_any_number_of_windows() {
    let (network, clock) = (Network::new(None), clock());
    let (fetcher, started) = (fetcher(&network, &clock), clock.monotonic());
    let errors = join_all((0..49).map(|window| ask(&fetcher, window))).await;
    assert!(clock.monotonic() - started <= Duration::from_secs(60), "{:?}", clock.monotonic() - started);
    assert!((5..=10).contains(&network.tries()), "one round of tries is made for all windows");
    for error in errors {
        assert!(error.is_exhausted(), "{error:?}");
        let text = error.chain();
        assert!(text.starts_with("the source has never answered; check its address"), "{text}");
        assert!(text.contains("waited: 60.0s") && text.ends_with("no route to host"), "{text}");
    }
    // While it is given up, and once more when it may have come back.
    ask(&fetcher, 50).await;
    assert_eq!(network.tries(), 0);
    clock.advance(Duration::from_secs(61));
    ask(&fetcher, 50).await;
    assert!(network.tries() >= 5);
}

#[tokio::test]
async fn without_repetitions_one_try_speaks_for_all_windows() {
    let (network, clock) = (Network::new(None), clock());
    let config = ExchangeConfig::binance().with_base_url("http://nobody-at-all.invalid").with_retries(0);
    let config = config.with_clock(clock.clone()).with_transport(Arc::clone(&network));
    let fetcher = BinanceFetcher::new(config).unwrap();
    for error in join_all((0..9).map(|window| ask(&fetcher, window))).await {
        assert!(error.message().starts_with("the source has never answered"), "{error}");
    }
    assert_eq!(network.tries(), 1);
}

#[tokio::test]
async fn a_host_that_has_answered_is_asked_as_often_as_the_settings_say() {
    let (network, clock) = (Network::new(Some(TransportAnswer::new(503, "later"))), clock());
    let fetcher = fetcher(&network, &clock);
    let error = ask(&fetcher, 0).await;
    assert_eq!((network.tries(), error.message()), (9, "the source answered with a server error"));
    *network.answer.lock().unwrap() = None;
    for window in 0..2 {
        let error = ask(&fetcher, window).await;
        assert_eq!((network.tries(), error.message()), (9, "the source cannot be reached"));
    }
}

#[tokio::test]
async fn what_will_not_change_is_asked_for_once_and_names_the_way_on() {
    for (status, way_on) in [
        (451, "use another address of it, its archive, or another source"),
        (403, "use another address of it, its archive, or another source"),
        (401, "check its address, or the proxy"),
        (302, "use that address if you trust it"),
    ] {
        let (network, clock) = (Network::new(Some(TransportAnswer::new(status, ""))), clock());
        let fetcher = fetcher(&network, &clock);
        let others = u32::from(status == 302);
        for (window, asked) in [(0, 1), (1, others), (2, others)] {
            let error = ask(&fetcher, window).await;
            assert_eq!(network.tries(), asked, "{status}: {error}");
            assert!(error.message().contains(way_on) && !error.is_retryable(), "{status}: {error}");
        }
        // Who follows a series looks again later.
        clock.advance(Duration::from_secs(60));
        let error = ask(&fetcher, 3).await;
        assert!(network.tries() == 1 && error.message().contains(way_on), "{status}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_not_asked_again() {
    let sim = SimExchange::start(config()).await.unwrap();
    let base = sim.base_url().replace("http://", "https://");
    let fetcher = BinanceFetcher::new(settings(&sim).with_base_url(base)).unwrap();
    let error = ask(&fetcher, 0).await;
    assert!(
        error.message().starts_with("the source does not speak TLS at this address"),
        "{}",
        error.chain()
    );
    assert_eq!(fetcher.retries(), BTreeMap::new());
}

/// What a fetch tells.
#[derive(Debug, Default)]
struct Told(Mutex<(Vec<Retry>, Vec<Wait>)>);

impl RetrySink for Told {
    fn on_retry(&self, _: TimeRange, retry: Retry) {
        self.0.lock().unwrap().0.push(retry);
    }

    fn on_wait(&self, _: TimeRange, wait: Wait) {
        self.0.lock().unwrap().1.push(wait);
    }
}

#[tokio::test]
async fn a_request_that_waits_says_for_whom_for_what_and_for_how_long() {
    let rules = [
        FaultRule::new(Fault::Silent, When::Numbers(vec![1])),
        FaultRule::new(Fault::TooManyRequests(Some(20)), When::Numbers(vec![2])),
    ];
    let sim = SimExchange::start(rules.into_iter().fold(config(), |config, rule| config.with_fault(rule)));
    let sim = sim.await.unwrap();
    let fetcher = BinanceFetcher::new(settings(&sim).with_timeout(Duration::from_secs(10))).unwrap();
    let told = Arc::new(Told::default());
    let range = TimeRange::new(at(LISTED), at(LISTED + 5 * MINUTE)).unwrap();
    fetcher.fetch(&FetchRequest::new(key(), range).with_retries(Arc::clone(&told) as _)).await.unwrap();
    let host = sim.base_url().replace("http://", "");
    let told = told.0.lock().unwrap();
    let (retries, waits) = &*told;
    let [first, second] = &retries[..] else { panic!("{retries:?}") };
    assert_eq!(waits[0], Wait::new("answer", &host, Duration::from_secs(7)));
    assert_eq!((first.reason, second.reason, second.after.as_secs()), ("timeout", "rate_limited", 20));
    for retry in retries {
        let error = retry.error.as_ref().unwrap().to_string();
        assert!(error.contains(&format!("host: {host}")), "{error}");
        assert!(retry.at_most.unwrap() > Duration::from_secs(600), "the exchange has answered: {retry:?}");
    }
}
