//! Every metric of the system, and the functions that record them.
//!
//! Names and labels are those that users of the original have on their dashboards; what is new
//! starts with `qmtl_` and uses base units. [`METRICS`] is the whole list. The label `interval` is
//! what [`interval_label`] says; `node_id` is the node's id unchanged; `source` is a source id up to its `#`,
//! since the hash of a file's content would make a new series of every version of a file.

#![expect(clippy::disallowed_macros, reason = "the one place where metrics are recorded")]

mod table;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::metrics::SharedString;
use qmtl_history_api::frame::Dropped;
use qmtl_history_api::{ErrorKind, Interval, NodeId, SeriesKey, SourceId, Timestamp};

pub use table::{Kind, METRICS, Metric, Unit, describe};

/// Counts one thing in a gauge for as long as it lives: the gauge is right also after what it counts was cancelled or
/// has panicked.
#[derive(Debug)]
#[must_use = "the thing counts only while the guard lives"]
pub struct Guard(::metrics::Gauge);

impl Guard {
    /// Counts one more backfill job, `backfill_jobs_in_progress`.
    pub fn job() -> Self {
        Self::start(table::JOBS_IN_PROGRESS.with([]))
    }

    /// Counts one more connection of a lease coordinator, `qmtl_coordinator_connections`.
    pub fn connection() -> Self {
        Self::start(table::COORDINATOR_CONNECTIONS.with([]))
    }

    /// Counts one more lease that this worker holds, `qmtl_backfill_lease_held`.
    pub fn lease() -> Self {
        Self::start(table::LEASE_HELD.with([]))
    }

    fn start(gauge: ::metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Reports the newest row that is really stored, `backfill_last_timestamp`.
///
/// The gauge never goes back: of all reports of a series in this process the newest one stands.
pub fn last_timestamp(key: &SeriesKey, newest_row: Timestamp) {
    static NEWEST: Mutex<BTreeMap<SeriesKey, Timestamp>> = Mutex::new(BTreeMap::new());
    // The gauge is set under the lock, else an older report could overtake a newer one.
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let stands = newest.entry(key.clone()).or_insert(newest_row);
    *stands = newest_row.max(*stands);
    table::LAST_TIMESTAMP.with(series(key)).set(stands.as_secs_f64());
}

/// Counts a repeated request, `backfill_retry_total`.
pub fn retry(key: &SeriesKey) {
    table::RETRIES.with(series(key)).increment(1);
}

/// Counts a window that failed for good, `backfill_failure_total`.
pub fn failure(key: &SeriesKey) {
    table::FAILURES.with(series(key)).increment(1);
}

/// Counts a call of a strategy, `history_auto_backfill_requests_total`.
pub fn auto_backfill_request(strategy: &'static str, key: &SeriesKey) {
    table::AUTO_REQUESTS.with(strategy_series(strategy, key)).increment(1);
}

/// Counts the gaps that a strategy found, `history_auto_backfill_missing_ranges_total`.
pub fn auto_backfill_missing_ranges(strategy: &'static str, key: &SeriesKey, ranges: u64) {
    table::AUTO_MISSING_RANGES.with(strategy_series(strategy, key)).increment(ranges);
}

/// Counts the rows that a strategy stored, `history_auto_backfill_rows_total`.
pub fn auto_backfill_rows(strategy: &'static str, key: &SeriesKey, rows: u64) {
    table::AUTO_ROWS.with(strategy_series(strategy, key)).increment(rows);
}

/// Records how long a strategy's call took, `history_auto_backfill_duration_ms`.
pub fn auto_backfill_duration(strategy: &'static str, elapsed: Duration) {
    table::AUTO_DURATION.with([strategy.into()]).record(elapsed.as_secs_f64() * 1_000.0);
}

/// Records one request to a source: `qmtl_backfill_fetch_requests_total`, whose `outcome` is `ok`
/// or the error's kind, and `qmtl_backfill_fetch_duration_seconds`.
pub fn fetch_request(source: &SourceId, outcome: Result<(), ErrorKind>, elapsed: Duration) {
    let outcome = outcome.map_or_else(ErrorKind::as_str, |()| "ok");
    table::FETCH_REQUESTS.with([source_label(source), outcome.into()]).increment(1);
    table::FETCH_DURATION.with([source_label(source)]).record(elapsed.as_secs_f64());
}

/// Counts time spent waiting for a source's rate limit,
/// `qmtl_backfill_rate_limit_wait_seconds_total`: whole seconds of the sum of all waits.
pub fn rate_limit_wait(source: &SourceId, waited: Duration) {
    static WAITED: Mutex<BTreeMap<SharedString, Duration>> = Mutex::new(BTreeMap::new());
    if waited.is_zero() {
        return;
    }
    let label = source_label(source);
    let mut sums = WAITED.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = sums.entry(label.clone()).or_default();
    let before = sum.as_secs();
    *sum += waited;
    // A counter counts in whole numbers: what is less than a second stays in the sum.
    table::RATE_LIMIT_WAIT.with([label]).increment(sum.as_secs() - before);
}

/// Counts rows stored where none was, `qmtl_backfill_rows_written_total`.
pub fn rows_written(key: &SeriesKey, rows: u64) {
    table::ROWS_WRITTEN.with(series(key)).increment(rows);
}

/// Counts fetched rows that were not written, `qmtl_backfill_rows_dropped_total`, by reason.
pub fn rows_dropped(dropped: Dropped) {
    for (reason, rows) in dropped.by_reason().into_iter().filter(|(_, rows)| *rows > 0) {
        table::ROWS_DROPPED.with([reason.into()]).increment(rows);
    }
}

/// Reports how many bars of a series are known not to exist, `qmtl_backfill_known_empty_bars`.
pub fn known_empty_bars(key: &SeriesKey, bars: u64) {
    table::KNOWN_EMPTY.with(series(key)).set(bars as f64);
}

/// Reports the share of a wanted range that is stored or known to be empty, 0 to 1,
/// `coverage_ratio`. Without a world the label is empty.
pub fn coverage_ratio(key: &SeriesKey, world: Option<&str>, settled_bars: u64, wanted_bars: u64) {
    let ratio = if wanted_bars == 0 { 1.0 } else { settled_bars as f64 / wanted_bars as f64 };
    table::COVERAGE_RATIO.with(world_series(key, world)).set(ratio);
}

/// Reports how long ago the newest bar of a series closed, `live_staleness_seconds`. Without a
/// world the label is empty.
pub fn live_staleness(key: &SeriesKey, world: Option<&str>, age: Duration) {
    table::LIVE_STALENESS.with(world_series(key, world)).set(age.as_secs_f64());
}

/// Records how long it took from finding that bars are missing until none was,
/// `gap_repair_latency_ms`. Without a world the label is empty.
pub fn gap_repair_latency(key: &SeriesKey, world: Option<&str>, elapsed: Duration) {
    table::GAP_REPAIR_LATENCY.with(world_series(key, world)).record(elapsed.as_secs_f64() * 1_000.0);
}

/// Counts a node whose warm-up ended well, and records how long that took:
/// `warmup_ready_nodes_total`, `warmup_ready_duration_ms`.
pub fn warmup_ready(node_id: &NodeId, elapsed: Duration) {
    let node_id: SharedString = node_id.as_str().to_owned().into();
    table::WARMUP_READY_NODES.with([node_id.clone()]).increment(1);
    table::WARMUP_READY_DURATION.with([node_id]).record(elapsed.as_secs_f64() * 1_000.0);
}

/// Counts a compute node that has failed, `qmtl_strategy_node_failures_total`.
pub fn node_failed(node_id: &NodeId) {
    table::NODE_FAILURES.with([node_id.as_str().to_owned().into()]).increment(1);
}

/// Reports the memory that a node's cache holds, `nodecache_resident_bytes`.
pub fn nodecache_resident(key: &SeriesKey, bytes: usize) {
    table::NODECACHE_RESIDENT.with(series(key)).set(bytes as f64);
}

/// Reports the share of a leased window that is stored or known to be empty, `backfill_completion_ratio`.
pub fn completion_ratio(key: &SeriesKey, lease_key: &str, ratio: f64) {
    let [node_id, interval] = series(key);
    table::COMPLETION_RATIO.with([node_id, interval, lease_key.to_owned().into()]).set(ratio);
}

/// Counts a lease that another worker took over, `qmtl_backfill_lease_lost_total`.
pub fn lease_lost() {
    table::LEASE_LOST.with([]).increment(1);
}

/// Counts a lease that ran out before its window was done, `qmtl_backfill_lease_expired_total`.
pub fn lease_expired() {
    table::LEASE_EXPIRED.with([]).increment(1);
}

/// Records a call that a lease coordinator answered: `qmtl_coordinator_requests_total`, and where it was begun,
/// `qmtl_coordinator_request_duration_seconds`.
pub fn coordinator_request(call: &'static str, outcome: &'static str, elapsed: Option<Duration>) {
    table::COORDINATOR_REQUESTS.with([call.into(), outcome.into()]).increment(1);
    if let Some(elapsed) = elapsed {
        table::COORDINATOR_DURATION.with([call.into()]).record(elapsed.as_secs_f64());
    }
}

/// Records how long a lease coordinator took to make changes durable, `qmtl_coordinator_commit_duration_seconds`.
pub fn coordinator_commit(elapsed: Duration) {
    table::COORDINATOR_COMMIT.with([]).record(elapsed.as_secs_f64());
}

/// Reports how many keys a lease coordinator knows in each state, `qmtl_coordinator_keys`.
pub fn coordinator_keys(counts: impl IntoIterator<Item = (&'static str, u64)>) {
    for (state, keys) in counts {
        table::COORDINATOR_KEYS.with([state.into()]).set(keys as f64);
    }
}

/// Records how long a backend took to answer a call, `qmtl_store_operation_duration_seconds`.
pub(crate) fn store_operation(backend: &'static str, operation: &'static str, elapsed: Duration) {
    table::STORE_DURATION.with([backend.into(), operation.into()]).record(elapsed.as_secs_f64());
}

/// Counts a backend's call that failed, `qmtl_store_errors_total`.
pub(crate) fn store_error(backend: &'static str, operation: &'static str, kind: ErrorKind) {
    table::STORE_ERRORS.with([backend.into(), operation.into(), kind.as_str().into()]).increment(1);
}

/// An interval as labels have it: decimal seconds, and where there is a phase, `86400+57600`.
#[must_use]
pub fn interval_label(interval: Interval) -> String {
    match (interval.as_secs(), interval.phase_secs()) {
        (secs, 0) => secs.to_string(),
        (secs, phase) => format!("{secs}+{phase}"),
    }
}

fn series(key: &SeriesKey) -> [SharedString; 2] {
    [key.node_id.as_str().to_owned().into(), interval_label(key.interval).into()]
}

fn world_series(key: &SeriesKey, world: Option<&str>) -> [SharedString; 3] {
    let [node_id, interval] = series(key);
    [node_id, interval, world.unwrap_or_default().to_owned().into()]
}

fn strategy_series(strategy: &'static str, key: &SeriesKey) -> [SharedString; 3] {
    let [node_id, interval] = series(key);
    [strategy.into(), node_id, interval]
}

fn source_label(source: &SourceId) -> SharedString {
    source.name().to_owned().into()
}
