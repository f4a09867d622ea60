//! Names, labels, units and values of the recording functions.

use std::time::Duration;

use expect_test::expect_file;
use qmtl_history_api::frame::Dropped;
use qmtl_history_api::{ErrorKind, SourceId};
use qmtl_observe::metrics::{self, Guard, Kind, METRICS, Unit};

use crate::recorded::Value::{Counter, Gauge, Histogram};
use crate::recorded::{Recorded, Value};
use crate::{at, key, source};

#[test]
fn the_table_is_the_documented_one() {
    let mut page = String::from(
        "# Metrics\n\nMade from `qmtl_observe::metrics::METRICS` by its test; `interval` is decimal seconds, with a phase `86400+57600`.\n\n\
         | name | type | unit | labels | what it tells |\n|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let (name, kind, unit) = (metric.name, word(metric.kind), word(metric.unit));
        page += &format!("| `{name}` | {kind} | {unit} | {} | {} |\n", metric.labels.join(", "), metric.help);
    }
    expect_file!["../../METRICS.md"].assert_eq(&page);
}

fn word(value: impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for c in format!("{value:?}").chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[test]
fn names_follow_the_rules_of_their_kind_and_are_given_once() {
    let mut names: Vec<_> = METRICS.iter().map(|m| m.name).collect();
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "a name is given twice: {names:?}");
    for metric in METRICS {
        assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        assert_eq!(metric.unit == Unit::Milliseconds, metric.name.ends_with("_ms"), "{}", metric.name);
        assert_eq!(metric.unit == Unit::Ratio, metric.name.ends_with("_ratio"), "{}", metric.name);
    }
}

#[test]
fn everything_recorded_is_in_the_table_with_its_labels() {
    for (id, value) in Recorded::of(record_everything) {
        let (name, labels) = id.split_once('{').unwrap();
        let metric =
            METRICS.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} is not listed"));
        let kind = match value {
            Counter(_) => Kind::Counter,
            Gauge(_) => Kind::Gauge,
            Histogram(_) => Kind::Histogram,
        };
        assert_eq!(kind, metric.kind, "{name}");
        for label in metric.labels {
            assert!(labels.contains(&format!("{label}=")), "{name} lacks {label}: {labels}");
        }
    }
}

fn record_everything() {
    let series = key("blake3:everything");
    let _job = Guard::job();
    metrics::last_timestamp(&series, at(1_700_000_040));
    metrics::retry(&series);
    metrics::failure(&series);
    metrics::auto_backfill_request("fetcher", &series);
    metrics::auto_backfill_missing_ranges("fetcher", &series, 3);
    metrics::auto_backfill_rows("fetcher", &series, 1_000);
    metrics::auto_backfill_duration("fetcher", Duration::from_micros(1_500));
    metrics::fetch_request(&source(), Ok(()), Duration::from_millis(250));
    metrics::rows_written(&series, 7);
    metrics::known_empty_bars(&series, 40);
    metrics::coverage_ratio(&series, Some("world-1"), 3, 4);
    metrics::live_staleness(&series, Some("world-1"), Duration::from_millis(2_500));
    metrics::gap_repair_latency(&series, None, Duration::from_millis(40));
    metrics::warmup_ready(&series.node_id, Duration::from_millis(35));
    metrics::nodecache_resident(&series, 4_096);
}

#[test]
fn values_and_labels_are_those_of_the_contract() {
    let expected: Vec<(&str, Value)> = vec![
        ("backfill_failure_total{node_id=blake3:everything,interval=60}", Counter(1)),
        ("backfill_jobs_in_progress{}", Gauge(0.0)),
        ("backfill_last_timestamp{node_id=blake3:everything,interval=60}", Gauge(1_700_000_040.0)),
        ("backfill_retry_total{node_id=blake3:everything,interval=60}", Counter(1)),
        ("coverage_ratio{node_id=blake3:everything,interval=60,world_id=world-1}", Gauge(0.75)),
        ("gap_repair_latency_ms{node_id=blake3:everything,interval=60,world_id=}", Histogram(vec![40.0])),
        ("history_auto_backfill_duration_ms{strategy=fetcher}", Histogram(vec![1.5])),
        (
            "history_auto_backfill_missing_ranges_total{strategy=fetcher,node_id=blake3:everything,interval=60}",
            Counter(3),
        ),
        (
            "history_auto_backfill_requests_total{strategy=fetcher,node_id=blake3:everything,interval=60}",
            Counter(1),
        ),
        (
            "history_auto_backfill_rows_total{strategy=fetcher,node_id=blake3:everything,interval=60}",
            Counter(1_000),
        ),
        ("live_staleness_seconds{node_id=blake3:everything,interval=60,world_id=world-1}", Gauge(2.5)),
        ("nodecache_resident_bytes{node_id=blake3:everything,interval=60}", Gauge(4_096.0)),
        ("qmtl_backfill_fetch_duration_seconds{source=file:candles.csv}", Histogram(vec![0.25])),
        ("qmtl_backfill_fetch_requests_total{source=file:candles.csv,outcome=ok}", Counter(1)),
        ("qmtl_backfill_known_empty_bars{node_id=blake3:everything,interval=60}", Gauge(40.0)),
        ("qmtl_backfill_rows_written_total{node_id=blake3:everything,interval=60}", Counter(7)),
        ("warmup_ready_duration_ms{node_id=blake3:everything}", Histogram(vec![35.0])),
        ("warmup_ready_nodes_total{node_id=blake3:everything}", Counter(1)),
    ];
    let recorded = Recorded::of(record_everything);
    let recorded: Vec<_> = recorded.iter().map(|(id, value)| (id.as_str(), value.clone())).collect();
    assert_eq!(recorded, expected);
}

#[test]
fn the_gauge_of_jobs_is_right_after_a_panic_and_a_cancel() {
    let jobs = |work: fn()| Recorded::of(work)[0].clone();
    let running = jobs(|| std::mem::forget(Guard::job()));
    assert_eq!(running, ("backfill_jobs_in_progress{}".to_owned(), Gauge(1.0)));
    let panicked = jobs(|| {
        let job = std::panic::catch_unwind(|| {
            let _job = Guard::job();
            panic!("the job fails");
        });
        assert!(job.is_err());
    });
    assert_eq!(panicked.1, Gauge(0.0));
    let cancelled = jobs(|| {
        let mut job = Box::pin(async {
            let _job = Guard::job();
            std::future::pending::<()>().await;
        });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(job.as_mut().poll(&mut context).is_pending());
    });
    assert_eq!(cancelled.1, Gauge(0.0));
}

#[test]
fn the_last_timestamp_never_goes_back() {
    let rows = Recorded::of(|| {
        let (ours, other) = (key("last:ours"), key("last:other"));
        metrics::last_timestamp(&ours, at(1_700_000_100));
        metrics::last_timestamp(&ours, at(1_600_000_020));
        metrics::last_timestamp(&other, at(1_600_000_020));
    });
    let values: Vec<_> = rows.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [Gauge(1_600_000_020.0), Gauge(1_700_000_100.0)]);
}

#[test]
fn failures_of_a_source_are_counted_by_kind() {
    let rows = Recorded::of(|| {
        metrics::fetch_request(&source(), Err(ErrorKind::Unavailable), Duration::ZERO);
    });
    let counted = "qmtl_backfill_fetch_requests_total{source=file:candles.csv,outcome=unavailable}";
    assert!(rows.contains(&(counted.to_owned(), Counter(1))), "{rows:?}");
}

#[test]
fn dropped_rows_are_counted_by_reason_and_only_where_there_are_some() {
    let mut dropped = Dropped::default();
    (dropped.outside, dropped.conflict) = (2, 1);
    let rows = Recorded::of(|| metrics::rows_dropped(dropped));
    let expected = [
        ("qmtl_backfill_rows_dropped_total{reason=conflict}".to_owned(), Counter(1)),
        ("qmtl_backfill_rows_dropped_total{reason=outside}".to_owned(), Counter(2)),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn an_empty_wish_is_covered_whole_and_no_world_is_an_empty_label() {
    let rows = Recorded::of(|| metrics::coverage_ratio(&key("ratio"), None, 0, 0));
    assert_eq!(rows, [("coverage_ratio{node_id=ratio,interval=60,world_id=}".to_owned(), Gauge(1.0))]);
}

#[test]
fn a_recorder_can_be_told_units_and_help() {
    let recorded = Recorded::new();
    ::metrics::with_local_recorder(recorded.recorder(), || {
        metrics::describe();
        metrics::retry(&key("described"));
    });
    let described = recorded.described("backfill_retry_total");
    assert_eq!(described, Some((::metrics::Unit::Count, "Requests that were repeated.".to_owned())));
}

#[test]
fn waits_for_a_rate_limit_add_up_to_whole_seconds() {
    let limited = SourceId::new("limited").unwrap();
    let rows = Recorded::of(|| {
        metrics::rate_limit_wait(&limited, Duration::ZERO);
        for _ in 0..5 {
            metrics::rate_limit_wait(&limited, Duration::from_millis(700));
        }
    });
    let waited = "qmtl_backfill_rate_limit_wait_seconds_total{source=limited}";
    assert_eq!(rows, [(waited.to_owned(), Counter(3))]);
}
