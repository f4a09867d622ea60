//! The table of metrics: each name is written once, here.

use ::metrics::{Label, SharedString};

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only goes up; its name ends in `_total`.
    Counter,
    /// A value that is set.
    Gauge,
    /// A distribution.
    Histogram,
}

/// What a metric's value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// A number of things.
    Count,
    /// A share, 0 to 1.
    Ratio,
    /// Seconds.
    Seconds,
    /// Milliseconds, in names that the original gave.
    Milliseconds,
    /// Seconds since 1970-01-01T00:00:00Z.
    EpochSeconds,
    /// Bytes.
    Bytes,
}

/// One metric as documentation, exporters and tests see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name, to the letter.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What its value is measured in.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in one sentence.
    pub help: &'static str,
}

/// A metric of one kind, whose number of labels the compiler counts.
macro_rules! kinds {
    ($($kind:ident $record:ident;)*) => {$(
        pub(super) struct $kind<const N: usize> {
            name: &'static str,
            labels: [&'static str; N],
        }

        impl<const N: usize> $kind<N> {
            /// The metric with these label values, in the order of the table.
            pub(super) fn with(&self, values: [SharedString; N]) -> ::metrics::$kind {
                let labels = self.labels.into_iter().zip(values);
                let labels: Vec<Label> = labels.map(|(name, value)| Label::new(name, value)).collect();
                ::metrics::$record!(self.name, labels)
            }
        }
    )*};
}

kinds! {
    Counter counter;
    Gauge gauge;
    Histogram histogram;
}

macro_rules! table {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $unit:ident, $help:literal;)*) => {
        $(pub(super) const $id: $kind<{ <[&str]>::len(&[$($label),*]) }> =
            $kind { name: $name, labels: [$($label),*] };)*

        /// Every metric of the system.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $id.name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &$id.labels,
            help: $help,
        }),*];
    };
}

table! {
    JOBS_IN_PROGRESS: Gauge "backfill_jobs_in_progress" [] Count,
        "Backfill jobs that run now.";
    LAST_TIMESTAMP: Gauge "backfill_last_timestamp" ["node_id", "interval"] EpochSeconds,
        "Time of the newest row that is stored; never goes back.";
    RETRIES: Counter "backfill_retry_total" ["node_id", "interval"] Count,
        "Requests that were repeated.";
    FAILURES: Counter "backfill_failure_total" ["node_id", "interval"] Count,
        "Windows that failed for good.";
    COMPLETION_RATIO: Gauge "backfill_completion_ratio" ["node_id", "interval", "lease_key"] Ratio,
        "Share of a leased window that is stored or known to be empty.";
    AUTO_REQUESTS: Counter "history_auto_backfill_requests_total" ["strategy", "node_id", "interval"] Count,
        "Calls of a backfill strategy.";
    AUTO_MISSING_RANGES: Counter "history_auto_backfill_missing_ranges_total"
        ["strategy", "node_id", "interval"] Count,
        "Gaps that a strategy found.";
    AUTO_ROWS: Counter "history_auto_backfill_rows_total" ["strategy", "node_id", "interval"] Count,
        "Rows that a strategy stored.";
    AUTO_DURATION: Histogram "history_auto_backfill_duration_ms" ["strategy"] Milliseconds,
        "How long a strategy's call took.";
    COVERAGE_RATIO: Gauge "coverage_ratio" ["node_id", "interval", "world_id"] Ratio,
        "Share of the wanted range that is stored or known to be empty.";
    LIVE_STALENESS: Gauge "live_staleness_seconds" ["node_id", "interval", "world_id"] Seconds,
        "Age of the newest live bar.";
    GAP_REPAIR_LATENCY: Histogram "gap_repair_latency_ms" ["node_id", "interval", "world_id"] Milliseconds,
        "Time from finding a gap to its repair.";
    WARMUP_READY_NODES: Counter "warmup_ready_nodes_total" ["node_id"] Count,
        "Nodes whose warm-up has ended well.";
    WARMUP_READY_DURATION: Histogram "warmup_ready_duration_ms" ["node_id"] Milliseconds,
        "How long a node's warm-up took.";
    NODECACHE_RESIDENT: Gauge "nodecache_resident_bytes" ["node_id", "interval"] Bytes,
        "Memory that a node's cache holds.";
    NODE_FAILURES: Counter "qmtl_strategy_node_failures_total" ["node_id"] Count,
        "Compute nodes that panicked or returned an error, and stand still.";
    FETCH_REQUESTS: Counter "qmtl_backfill_fetch_requests_total" ["source", "outcome"] Count,
        "Requests to a source; the outcome is ok or an error kind.";
    FETCH_DURATION: Histogram "qmtl_backfill_fetch_duration_seconds" ["source"] Seconds,
        "How long a request to a source took.";
    RATE_LIMIT_WAIT: Counter "qmtl_backfill_rate_limit_wait_seconds_total" ["source"] Seconds,
        "Time spent waiting for a source's rate limit.";
    ROWS_WRITTEN: Counter "qmtl_backfill_rows_written_total" ["node_id", "interval"] Count,
        "Rows stored where none was.";
    ROWS_DROPPED: Counter "qmtl_backfill_rows_dropped_total" ["reason"] Count,
        "Fetched rows that were not written: outside, duplicate, conflict, forming, off_grid or nan.";
    KNOWN_EMPTY: Gauge "qmtl_backfill_known_empty_bars" ["node_id", "interval"] Count,
        "Bars that a source proved not to exist.";
    LEASE_HELD: Gauge "qmtl_backfill_lease_held" [] Count,
        "Leases that this worker holds.";
    LEASE_LOST: Counter "qmtl_backfill_lease_lost_total" [] Count,
        "Leases that another worker took over.";
    LEASE_EXPIRED: Counter "qmtl_backfill_lease_expired_total" [] Count,
        "Leases that ran out before their window was done.";
    COORDINATOR_REQUESTS: Counter "qmtl_coordinator_requests_total" ["call", "outcome"] Count,
        "Calls that a lease coordinator answered; the outcome is ok, why it was refused, or an error kind.";
    COORDINATOR_DURATION: Histogram "qmtl_coordinator_request_duration_seconds" ["call"] Seconds,
        "How long a lease coordinator took to answer a call.";
    COORDINATOR_CONNECTIONS: Gauge "qmtl_coordinator_connections" [] Count,
        "Connections that are open to a lease coordinator.";
    COORDINATOR_KEYS: Gauge "qmtl_coordinator_keys" ["state"] Count,
        "Lease keys that a coordinator knows, by state.";
    COORDINATOR_COMMIT: Histogram "qmtl_coordinator_commit_duration_seconds" [] Seconds,
        "How long a lease coordinator took to make changes durable.";
    STORE_DURATION: Histogram "qmtl_store_operation_duration_seconds" ["backend", "operation"] Seconds,
        "How long a backend took to answer a call.";
    STORE_ERRORS: Counter "qmtl_store_errors_total" ["backend", "operation", "kind"] Count,
        "Calls of a backend that failed, by error kind.";
    BUILD_INFO: Gauge "qmtl_build_info" ["version"] Count,
        "Always 1; the label tells which version runs.";
}

/// Tells the installed recorder the unit and the help text of every metric, and which version runs.
pub fn describe() {
    BUILD_INFO.with([env!("CARGO_PKG_VERSION").into()]).set(1.0);
    for metric in METRICS {
        let unit = match metric.unit {
            // The facade has no unit for a share.
            Unit::Count | Unit::Ratio => ::metrics::Unit::Count,
            Unit::Seconds | Unit::EpochSeconds => ::metrics::Unit::Seconds,
            Unit::Milliseconds => ::metrics::Unit::Milliseconds,
            Unit::Bytes => ::metrics::Unit::Bytes,
        };
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => ::metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}
