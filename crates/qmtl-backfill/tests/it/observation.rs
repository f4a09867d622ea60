//! Metrics and log events of a fill, also of one that is cancelled.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use qmtl_history_api::{AutoBackfillStrategy, BackfillRequest, Error, NoProgress};
use qmtl_history_testkit::fixtures::{FakeFetcher, bar, bars_at, key};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::support::{Filling, Store, btc, late, runs, span};

/// Everything recorded, as sorted lines `name{labels} value`; asking takes it out.
fn values(snapshotter: &Snapshotter) -> Vec<String> {
    let mut lines: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
            let value = match value {
                DebugValue::Counter(count) => count.to_string(),
                DebugValue::Gauge(value) => value.to_string(),
                DebugValue::Histogram(values) => format!("{} values", values.len()),
            };
            format!("{}{{{}}} {value}", key.key().name(), labels.join(","))
        })
        .collect();
    lines.sort();
    lines
}

/// Runs `work` on this thread with a recorder of its own.
fn recorded<F: Future>(work: F) -> Snapshotter {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    });
    snapshotter
}

#[test]
fn every_count_of_a_fill_is_recorded() {
    // A node of its own: backfill_last_timestamp never goes back within a process.
    let key = key("observed: node", "1m");
    let snapshotter = recorded(async {
        let rows = runs([(0, 25), (27, 45)]);
        let rows = FakeFetcher::new("file:x.csv#9f86").with_bars_in(rows);
        let fetcher = Arc::new(rows.with_failures(|_, request| {
            (request.range == span(50, 60)).then(|| Error::unavailable("reset"))
        }));
        let request = BackfillRequest::new(key.clone(), span(0, 60));
        let strategy = Filling::new().strategy(&fetcher);
        strategy.ensure_range(&request, &Store::new(), &NoProgress).await.unwrap();
    });
    let series = "node_id=observed: node,interval=60";
    let mut expected = [
        format!("backfill_failure_total{{{series}}} 1"),
        "backfill_jobs_in_progress{} 0".into(),
        format!("backfill_last_timestamp{{{series}}} {}", bar(&key, 44).as_secs()),
        format!("coverage_ratio{{{series},world_id=}} {}", 50.0 / 60.0),
        "history_auto_backfill_duration_ms{strategy=fetcher} 1 values".into(),
        format!("history_auto_backfill_missing_ranges_total{{strategy=fetcher,{series}}} 1"),
        format!("history_auto_backfill_requests_total{{strategy=fetcher,{series}}} 1"),
        format!("history_auto_backfill_rows_total{{strategy=fetcher,{series}}} 43"),
        "qmtl_backfill_fetch_duration_seconds{source=file:x.csv} 6 values".into(),
        format!("qmtl_backfill_known_empty_bars{{{series}}} 7"),
        format!("qmtl_backfill_rows_written_total{{{series}}} 43"),
        "qmtl_backfill_fetch_requests_total{source=file:x.csv,outcome=ok} 5".into(),
        "qmtl_backfill_fetch_requests_total{source=file:x.csv,outcome=unavailable} 1".into(),
    ];
    expected.sort();
    assert_eq!(values(&snapshotter), expected);
}

#[test]
fn what_is_known_to_be_empty_is_counted_for_the_whole_series() {
    let key = key("empty: node", "1m");
    let snapshotter = recorded(async {
        let fetcher = Arc::new(FakeFetcher::new("fake").with_bars_in(runs([(0, 5), (8, 40)])));
        let (strategy, store) = (Filling::new().strategy(&fetcher), Store::new());
        for range in [span(0, 20), span(20, 40)] {
            strategy
                .ensure_range(&BackfillRequest::new(key.clone(), range), &store, &NoProgress)
                .await
                .unwrap();
        }
    });
    let counted = values(&snapshotter);
    let told = "qmtl_backfill_known_empty_bars{node_id=empty: node,interval=60} 3".to_owned();
    assert!(counted.contains(&told), "{counted:?}");
}

#[test]
fn a_row_off_the_grid_is_counted_once_however_often_it_comes() {
    let key = key("odd: node", "1m");
    let snapshotter = recorded(async {
        let points: Vec<_> = (0..20).map(|at| bar(&key, at)).collect();
        let late = points[7].checked_add_micros(7_000_000).unwrap();
        let rows = [&points[..7], &[late], &points[8..]].concat();
        let fetcher = Arc::new(FakeFetcher::new("fake").with_rows(move |_| bars_at(&rows)));
        let request = BackfillRequest::new(key.clone(), span(0, 20));
        let report =
            Filling::new().strategy(&fetcher).ensure_range(&request, &Store::new(), &NoProgress).await;
        assert_eq!(
            (report.unwrap().dropped.off_grid, fetcher.requests().len()),
            (1, 2),
            "it is asked for again"
        );
    });
    let counted = values(&snapshotter);
    let dropped: Vec<_> = counted.iter().filter(|line| line.contains("rows_dropped")).collect();
    assert!(
        dropped.contains(&&"qmtl_backfill_rows_dropped_total{reason=off_grid} 1".to_owned()),
        "{dropped:?}"
    );
}

#[test]
fn a_cancelled_fill_leaves_the_gauge_right_and_the_store_consistent() {
    let store = Arc::new(Store::new());
    let kept = Arc::clone(&store);
    let snapshotter = recorded(async move {
        let clock = late();
        let fetcher =
            Arc::new(FakeFetcher::new("slow").with_latency(Arc::new(clock.clone()), Duration::from_secs(60)));
        let filling = Filling::new()
            .with_clock(&clock)
            .with_config(|config| config.with_windows_in_flight(1).with_flush_bytes(1));
        let strategy = filling.strategy(&fetcher);
        let request = BackfillRequest::new(btc(), span(0, 50));
        let mut fill = strategy.ensure_range(&request, &*store, &NoProgress);
        for _ in 0..2 {
            tokio::select! {
                biased;
                _ = &mut fill => panic!("it waits for its source"),
                () = clock.wait_for_sleepers(1) => clock.advance(Duration::from_secs(60)),
            }
        }
        tokio::select! {
            biased;
            _ = &mut fill => panic!("it waits for its source"),
            () = clock.wait_for_sleepers(1) => {}
        }
        drop(fill);
        assert_eq!((clock.sleepers(), fetcher.in_flight()), (0, 0));
        assert_eq!(store.present(&btc()).await, runs([(0, 20)]));
    });
    assert!(values(&snapshotter).contains(&"backfill_jobs_in_progress{} 0".to_owned()));
    let present = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let report = Filling::new().run(&Arc::new(FakeFetcher::new("fake")), &kept, span(0, 50)).await;
        assert_eq!(report.rows_written, 30, "only what is missing is asked for again");
        kept.present(&btc()).await
    });
    assert_eq!(present, runs([(0, 50)]));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Captured {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if ["message", "batch_id", "attempt", "source", "error"].contains(&field.name()) {
            self.0 += &format!(" {value:?}");
        }
    }
}

#[tokio::test]
async fn every_window_logs_its_attempt_and_its_end() {
    // For the whole process: what a thread without a subscriber of its own meets first, stays
    // silent for all. Other tests' events are told apart by their node.
    let captured = Captured::default();
    let subscriber = tracing_subscriber::registry().with(captured.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    tracing::callsite::rebuild_interest_cache();
    let fetcher =
        Arc::new(FakeFetcher::new("fake").with_failures(|_, request| {
            (request.range == span(10, 20)).then(|| Error::unavailable("reset"))
        }));
    let request = BackfillRequest::new(key("logged: node", "1m"), span(0, 20));
    let strategy = Filling::new().strategy(&fetcher);
    strategy.ensure_range(&request, &Store::new(), &NoProgress).await.unwrap();

    let id = |first: u32, end: u32| {
        let at = |index| bar(&btc(), index).as_secs();
        format!("\"logged: node:60:{}:{}\"", at(first), at(end))
    };
    let error = "\"reset (source: fake, request: [2024-01-01T00:10:00Z, 2024-01-01T00:20:00Z))\"";
    let mut lines = captured.0.lock().unwrap().clone();
    lines.retain(|line| line.contains("logged: node:"));
    lines.sort();
    let mut expected = [
        format!("ERROR seamless.backfill.failed {} 1 \"fake\" {error}", id(10, 20)),
        format!("INFO seamless.backfill.attempt {} 1 \"fake\"", id(0, 10)),
        format!("INFO seamless.backfill.attempt {} 1 \"fake\"", id(10, 20)),
        format!("INFO seamless.backfill.succeeded {} 1 \"fake\"", id(0, 10)),
    ];
    expected.sort();
    assert_eq!(lines, expected);
}
