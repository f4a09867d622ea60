//! The provider: what it forwards, what it shares, what it remembers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qmtl_backfill::{AugmentedHistoryProvider, BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Error, ErrorKind, HistoryBackend, HistoryProvider,
    ProgressSink, ProviderCapabilities, ReadRequest, Result, SourceId, async_trait,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, sparse_bars};

use crate::support::{Events, Store, btc, late, runs, span};

fn request(first: u32, end: u32) -> BackfillRequest {
    BackfillRequest::new(btc(), span(first, end))
}

type Provider = AugmentedHistoryProvider<Arc<Store>>;

fn provider(store: &Arc<Store>) -> Provider {
    AugmentedHistoryProvider::new(Arc::clone(store))
        .with_clock(late())
        .with_config(BackfillConfig::default().with_window_bars(10))
}

/// A fetcher that answers a minute after it was asked, by the clock given.
fn slow(clock: &ManualClock) -> FakeFetcher {
    FakeFetcher::new("slow").with_latency(Arc::new(clock.clone()), Duration::from_secs(60))
}

#[tokio::test]
async fn filling_without_means_says_what_is_missing_and_how_to_give_it() {
    let provider = provider(&Arc::new(Store::new()));
    let error = provider.fill_missing(&request(0, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFetcher);
    assert_eq!(
        error.to_string(),
        "missing rows cannot be filled: no fetcher is configured; give the provider one with with_fetcher \
         (series: ohlcv:binance:BTC/USDT:1m@1m)"
    );
    let error = provider.ensure_range(&request(0, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoStrategy);
    assert_eq!(
        error.to_string(),
        "the range cannot be completed: neither a backfill strategy nor a fetcher is configured; give the \
         provider one with with_auto_backfill or with_fetcher (series: ohlcv:binance:BTC/USDT:1m@1m)"
    );
}

#[tokio::test]
async fn reading_never_fills_and_the_fetcher_serves_both_calls() {
    let store = Arc::new(Store::new());
    let fetcher = Arc::new(FakeFetcher::new("fake"));
    let events = Arc::new(Events::default());
    let provider: Arc<dyn HistoryProvider> =
        Arc::new(provider(&store).with_fetcher(Arc::clone(&fetcher)).with_progress(Arc::clone(&events)));
    assert_eq!(provider.capabilities(), ProviderCapabilities::all());
    let read = || async {
        provider
            .fetch(&ReadRequest::new(btc(), span(0, 30)))
            .await
            .unwrap()
            .into_batch()
            .await
            .unwrap()
            .num_rows()
    };
    assert_eq!((read().await, fetcher.requests().len()), (0, 0));
    assert_eq!(provider.fill_missing(&request(0, 10)).await.unwrap().rows_written, 10);
    assert_eq!(provider.ensure_range(&request(0, 20)).await.unwrap().rows_written, 10);
    assert_eq!(read().await, 20);
    assert!(!events.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_strategy_goes_before_the_fetcher() {
    let store = Arc::new(Store::new());
    let (by_hand, automatic) = (Arc::new(FakeFetcher::new("hand")), Arc::new(FakeFetcher::new("auto")));
    let strategy =
        FetcherBackfillStrategy::new(Arc::<FakeFetcher>::clone(&automatic)).with_clock(Arc::new(late()));
    let provider = provider(&store).with_fetcher(Arc::clone(&by_hand)).with_auto_backfill(strategy);
    assert_eq!(provider.ensure_range(&request(0, 10)).await.unwrap().filled[0].0.as_str(), "auto");
    assert_eq!(provider.fill_missing(&request(10, 20)).await.unwrap().filled[0].0.as_str(), "hand");
    assert_eq!((by_hand.requests().len(), automatic.requests().len()), (1, 1));
}

#[tokio::test]
async fn callers_who_ask_the_same_share_one_run() {
    let (store, clock) = (Arc::new(Store::new()), late());
    let fetcher = Arc::new(slow(&clock));
    let provider = Arc::new(provider(&store).with_fetcher(Arc::clone(&fetcher)));
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.ensure_range(&request(0, 10)).await })
        })
        .collect();
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(60));
    for call in calls {
        let report = call.await.unwrap().unwrap();
        assert_eq!((report.rows_written, report.is_complete()), (10, true));
    }
    assert_eq!(fetcher.requests().len(), 1);
}

#[tokio::test]
async fn callers_who_ask_otherwise_take_turns_and_nothing_is_fetched_twice() {
    let (store, clock) = (Arc::new(Store::new()), late());
    let fetcher = Arc::new(slow(&clock));
    let provider = Arc::new(provider(&store).with_fetcher(Arc::clone(&fetcher)));
    let calls: Vec<_> = [(0, 40), (20, 60), (0, 60)]
        .map(|(first, end)| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.ensure_range(&request(first, end)).await })
        })
        .into_iter()
        .collect();
    while !calls.iter().all(tokio::task::JoinHandle::is_finished) {
        clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    let asked: Vec<_> = fetcher.requests().iter().map(|r| r.range.count(btc().interval)).collect();
    assert_eq!((asked.iter().sum::<u64>(), fetcher.max_in_flight()), (60, 4));
    assert_eq!(store.present(&btc()).await, runs([(0, 60)]));
}

#[tokio::test]
async fn a_leader_who_leaves_hands_over_and_the_last_one_cancels() {
    let (store, clock) = (Arc::new(Store::new()), late());
    let fetcher = Arc::new(slow(&clock));
    let provider = Arc::new(provider(&store).with_fetcher(Arc::clone(&fetcher)));
    let call = |first, end| {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move { provider.ensure_range(&request(first, end)).await })
    };
    let leader = call(0, 10);
    clock.wait_for_sleepers(1).await;
    let follower = call(0, 10);
    tokio::task::yield_now().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    clock.advance(Duration::from_secs(60));
    assert_eq!(follower.await.unwrap().unwrap().rows_written, 10);
    assert_eq!(fetcher.requests().len(), 1, "the run went on where it was");

    let only = call(10, 20);
    clock.wait_for_sleepers(1).await;
    only.abort();
    assert!(only.await.unwrap_err().is_cancelled());
    assert_eq!((fetcher.in_flight(), clock.sleepers()), (0, 0));
    let next = call(10, 20);
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(60));
    assert_eq!(next.await.unwrap().unwrap().rows_written, 10, "nothing is left of the cancelled run");
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let store = Arc::new(Store::new());
    let fetcher = FakeFetcher::new("fake")
        .with_failures(|number, _| (number == 0).then(|| Error::unavailable("reset")));
    let provider = provider(&store).with_fetcher(fetcher);
    assert_eq!(provider.ensure_range(&request(0, 10)).await.unwrap().failed.len(), 1);
    assert!(provider.ensure_range(&request(0, 10)).await.unwrap().is_complete());
}

#[derive(Debug)]
struct Panicking;

#[async_trait]
impl AutoBackfillStrategy for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn sources(&self) -> Vec<SourceId> {
        Vec::new()
    }

    async fn ensure_range(
        &self,
        request: &BackfillRequest,
        _: &dyn HistoryBackend,
        _: &dyn ProgressSink,
    ) -> Result<BackfillReport> {
        assert_ne!(request.range, span(0, 10), "on purpose");
        Ok(BackfillReport::new(request.key.clone(), request.range))
    }
}

#[tokio::test]
async fn a_panicking_strategy_is_an_error_and_the_series_goes_on() {
    let provider = provider(&Arc::new(Store::new())).with_auto_backfill(Panicking);
    let error = provider.ensure_range(&request(0, 10)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Unexpected, "the backfill panicked".to_owned())
    );
    assert!(provider.ensure_range(&request(0, 20)).await.is_ok());
}

#[tokio::test]
async fn coverage_is_of_the_whole_series_and_remembered_while_nothing_changes() {
    let store = Arc::new(Store::new());
    let provider = provider(&store);
    assert!(provider.coverage(&btc()).await.unwrap().present().is_empty(), "an unknown series is no error");
    store.seed(&btc(), sparse_bars(&btc(), &runs([(0, 5), (900, 905)]))).await;
    let present = || async { provider.coverage(&btc()).await.unwrap().present().clone() };
    assert_eq!(present().await, runs([(0, 5), (900, 905)]));
    let calls = store.coverage_calls.load(Ordering::Relaxed);
    assert_eq!(present().await.len(), 2);
    assert_eq!(store.coverage_calls.load(Ordering::Relaxed), calls, "answered from memory");

    store.seed(&btc(), sparse_bars(&btc(), &runs([(5, 6)]))).await;
    assert_eq!(present().await, runs([(0, 6), (900, 905)]), "another writer's rows are seen at once");
}

#[tokio::test]
async fn coverage_that_changed_while_it_was_read_is_not_believed() {
    let store = Arc::new(Store::new());
    store.seed(&btc(), sparse_bars(&btc(), &runs([(0, 5)]))).await;
    *store.after_coverage.lock().unwrap() = Some(sparse_bars(&btc(), &runs([(5, 9)])));
    let provider = provider(&store);
    assert_eq!(provider.coverage(&btc()).await.unwrap().present(), &runs([(0, 5)]));
    assert_eq!(provider.coverage(&btc()).await.unwrap().present(), &runs([(0, 9)]));
}
