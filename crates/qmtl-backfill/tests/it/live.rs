//! Filling from what was seen live.

use std::sync::Arc;

use qmtl_backfill::LiveReplayBackfillStrategy;
use qmtl_history_api::{AutoBackfillStrategy, BackfillRequest, Clock, EventSource, NoProgress, RangeSet};
use qmtl_history_testkit::fixtures::{self, FakeEvents, FakeFetcher, bar, sparse_bars};

use super::support::{Store, btc, late, runs, span};

fn clock() -> Arc<dyn Clock> {
    Arc::new(late())
}

fn events(stored: &RangeSet, buffered: &RangeSet) -> Arc<dyn EventSource> {
    let key = btc();
    let events = FakeEvents::new(key.clone()).with_stored(sparse_bars(&key, stored));
    Arc::new(events.with_buffered(sparse_bars(&key, buffered)))
}

#[tokio::test]
async fn stored_events_come_before_the_buffer_and_prove_nothing() {
    let store = Store::new();
    store.seed(&btc(), sparse_bars(&btc(), &runs([(0, 5)]))).await;
    let events = events(&runs([(3, 20)]), &runs([(15, 30), (32, 34)]));
    let strategy = LiveReplayBackfillStrategy::of_events(events).with_clock(clock());
    assert_eq!(strategy.name(), "live_replay");
    let request = BackfillRequest::new(btc(), span(0, 40));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    let filled: Vec<_> = report.filled.iter().map(|(source, set)| (source.as_str(), set.clone())).collect();
    assert_eq!(
        filled,
        [("recorder:stored", runs([(5, 20)])), ("recorder:buffer", runs([(20, 30), (32, 34)]))]
    );
    assert_eq!(store.present(&btc()).await, runs([(0, 30), (32, 34)]));
    assert_eq!(report.missing, runs([(30, 32), (34, 40)]));
    assert!(report.known_empty.is_empty() && report.failed.is_empty());
}

#[tokio::test]
async fn a_replay_source_comes_before_all_events() {
    let store = Store::new();
    let replay = FakeFetcher::new("tape").with_bars_in(runs([(0, 10)])).with_proven(|_| RangeSet::new());
    let events = events(&runs([(0, 20)]), &runs([(0, 22)]));
    let strategy = LiveReplayBackfillStrategy::of_replay(replay).with_events(events).with_clock(clock());
    let request = BackfillRequest::new(btc(), span(0, 22));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    let filled: Vec<_> = report.filled.iter().map(|(source, set)| (source.as_str(), set.clone())).collect();
    assert_eq!(
        filled,
        [
            ("tape", runs([(0, 10)])),
            ("recorder:stored", runs([(10, 20)])),
            ("recorder:buffer", runs([(20, 22)]))
        ]
    );
    assert!(report.is_complete());
}

#[tokio::test]
async fn events_that_are_no_bars_are_listed_and_not_stored() {
    let off_grid = bar(&btc(), 3).checked_add_micros(1).unwrap();
    let rows = fixtures::bars_at(&[bar(&btc(), 1), off_grid]);
    let events = Arc::new(FakeEvents::new(btc()).with_stored(rows));
    let strategy = LiveReplayBackfillStrategy::of_events(events).with_clock(clock());
    let store = Store::new();
    let request = BackfillRequest::new(btc(), span(0, 10));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert_eq!(report.off_grid.iter().map(|row| row.ts).collect::<Vec<_>>(), [off_grid]);
    assert_eq!(store.present(&btc()).await, runs([(1, 2)]));
}
