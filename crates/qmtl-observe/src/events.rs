//! The lifecycle log events. The message of each is its name, and its fields are a contract with
//! whoever reads the logs: names, types and levels do not change.
//!
//! `interval`, `start` and `end` are integers: seconds, and epoch seconds with `end` exclusive. An interval with
//! a phase is text, such as `86400+57600`.

use qmtl_history_api::{Error, Interval, NodeId, RangeSet, SeriesKey, SourceId, TimeRange, Timestamp};
use tracing::Value;

use crate::metrics::interval_label;

/// The target of every lifecycle event, for filters: `qmtl=info`.
pub const TARGET: &str = "qmtl::lifecycle";

/// `backfill.start`: a job begins.
pub fn backfill_start(key: &SeriesKey, range: TimeRange) {
    tracing::info!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = seconds(key.interval),
        start = range.start().as_secs(),
        end = range.end().as_secs(),
        "backfill.start"
    );
}

/// `backfill.complete`: a job has done all that could be done now.
pub fn backfill_complete(key: &SeriesKey, range: TimeRange) {
    tracing::info!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = seconds(key.interval),
        start = range.start().as_secs(),
        end = range.end().as_secs(),
        "backfill.complete"
    );
}

/// `backfill.retry`: something is tried again; `attempt` is 1 for the first repetition.
pub fn backfill_retry(key: &SeriesKey, attempt: u32) {
    tracing::info!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = seconds(key.interval),
        attempt,
        "backfill.retry"
    );
}

/// `backfill.failed`: a job gave up after `attempts` tries.
pub fn backfill_failed(key: &SeriesKey, attempts: u32) {
    tracing::error!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = seconds(key.interval),
        attempts,
        "backfill.failed"
    );
}

/// `world.gateway_lost`: the gateway does not answer, or not of now; no order side is active.
pub fn gateway_lost(world: &str, error: &Error) {
    tracing::warn!(target: TARGET, world, error = error.chain(), "world.gateway_lost");
}

/// `world.gateway_found`: the gateway answers, for the first time or again.
pub fn gateway_found(world: &str, strategy_id: &str) {
    tracing::info!(target: TARGET, world, strategy_id, "world.gateway_found");
}

/// `strategy.node_failed`: a compute node panicked, returned an error or cannot read its columns. It stands still, and
/// so do those that read it.
pub fn node_failed(node_id: &NodeId, error: &Error) {
    tracing::error!(target: TARGET, node_id = node_id.as_str(), error = error.chain(), "strategy.node_failed");
}

/// `strategy.not_ready`: warm-up has ended, and an input has no full period without a missing bar.
pub fn strategy_not_ready(key: &SeriesKey, bars: usize, period: usize, missing: u64) {
    tracing::warn!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = key.interval.to_string(),
        bars,
        period,
        missing,
        "strategy.not_ready"
    );
}

/// `strategy.gap`: bars between history and the first live bar could not be obtained.
pub fn strategy_gap(key: &SeriesKey, missing: &RangeSet) {
    tracing::warn!(
        target: TARGET,
        node_id = key.node_id.as_str(),
        interval = key.interval.to_string(),
        bars = missing.count(key.interval),
        first = missing.span().map(|span| span.start().to_string()),
        "strategy.gap"
    );
}

/// `strategy.no_activation`: nodes have orders, and nothing allows any.
pub fn strategy_no_activation(node_id: &NodeId) {
    tracing::warn!(target: TARGET, node_id = node_id.as_str(), "strategy.no_activation");
}

/// `strategy.state_refused`: a saved state does not fit the strategy, which is warmed up anew.
pub fn state_refused(error: &Error) {
    tracing::warn!(target: TARGET, error = error.chain(), "strategy.state_refused");
}

/// `strategy.state_restored`: the strategy goes on from a state that was saved at `moment`.
pub fn state_restored(moment: Timestamp) {
    tracing::info!(target: TARGET, moment = moment.to_string(), "strategy.state_restored");
}

/// One window that is fetched from one source: what its `seamless.backfill` events have in common.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    key: &'a SeriesKey,
    window: TimeRange,
    source: &'a SourceId,
}

impl<'a> Batch<'a> {
    /// The fetch of `window` from `source`.
    #[must_use]
    pub fn new(key: &'a SeriesKey, window: TimeRange, source: &'a SourceId) -> Self {
        Self { key, window, source }
    }

    /// `seamless.backfill.attempt`: the window is asked for; `attempt` is 1 for the first time.
    pub fn attempt(&self, attempt: u32) {
        tracing::info!(
            target: TARGET,
            batch_id = self.id(),
            attempt,
            node_id = self.key.node_id.as_str(),
            interval = seconds(self.key.interval),
            start = self.window.start().as_secs(),
            end = self.window.end().as_secs(),
            source = self.source.as_str(),
            "seamless.backfill.attempt"
        );
    }

    /// `seamless.backfill.succeeded`: the window is stored.
    pub fn succeeded(&self, attempt: u32) {
        tracing::info!(
            target: TARGET,
            batch_id = self.id(),
            attempt,
            node_id = self.key.node_id.as_str(),
            interval = seconds(self.key.interval),
            start = self.window.start().as_secs(),
            end = self.window.end().as_secs(),
            source = self.source.as_str(),
            "seamless.backfill.succeeded"
        );
    }

    /// `seamless.backfill.failed`: the window failed; `error` is the whole chain of causes.
    pub fn failed(&self, attempt: u32, error: &Error) {
        tracing::error!(
            target: TARGET,
            batch_id = self.id(),
            attempt,
            node_id = self.key.node_id.as_str(),
            interval = seconds(self.key.interval),
            start = self.window.start().as_secs(),
            end = self.window.end().as_secs(),
            source = self.source.as_str(),
            error = error.chain(),
            "seamless.backfill.failed"
        );
    }

    fn id(&self) -> String {
        let SeriesKey { node_id, interval } = self.key;
        let (start, end) = (self.window.start().as_secs(), self.window.end().as_secs());
        format!("{}:{}:{start}:{end}", node_id.as_str(), interval.as_secs())
    }
}

/// One lease of a worker: what its `seamless.backfill.coordinator_…` events have in common. `world` and
/// `requested_as_of` are fields only where they are known.
#[derive(Clone, Copy, Debug)]
pub struct Lease<'a> {
    /// The host of the coordinator's address: `coordinator_id`.
    pub coordinator: &'a str,
    /// Who holds it.
    pub worker: &'a str,
    /// Its key: `node:interval:start:end:world:requested_as_of`.
    pub key: &'a str,
    /// The series of the window.
    pub series: &'a SeriesKey,
    /// The window: `batch_start` and `batch_end`.
    pub range: TimeRange,
    /// On behalf of which world.
    pub world: Option<&'a str>,
    /// From which point of view.
    pub requested_as_of: Option<&'a str>,
}

/// A lifecycle event of a lease, in the order of the guide's fields.
macro_rules! lease_event {
    ($name:literal, $lease:expr, $token:expr, $until:expr, $ratio:expr $(, $field:ident = $value:expr)*) => {{
        let lease = $lease;
        tracing::info!(
            target: TARGET,
            coordinator_id = lease.coordinator,
            lease_key = lease.key,
            node_id = lease.series.node_id.as_str(),
            interval = seconds(lease.series.interval),
            batch_start = lease.range.start().as_secs(),
            batch_end = lease.range.end().as_secs(),
            world = lease.world,
            requested_as_of = lease.requested_as_of,
            worker = lease.worker,
            lease_token = $token,
            lease_until_ms = $until,
            completion_ratio = $ratio,
            $($field = $value,)*
            $name
        );
    }};
}

/// A call of a coordinator that came to nothing.
macro_rules! coordinator_warning {
    ($name:literal, $lease:expr, $error:expr) => {
        tracing::warn!(
            target: TARGET,
            coordinator_id = $lease.coordinator,
            lease_key = $lease.key,
            error = $error.chain(),
            $name
        )
    };
}

impl Lease<'_> {
    /// `seamless.backfill.coordinator_claimed`: the lease is the worker's until `until_ms`, epoch milliseconds.
    pub fn claimed(&self, token: &str, until_ms: i64, ratio: f64) {
        lease_event!("seamless.backfill.coordinator_claimed", self, token, until_ms, ratio);
    }

    /// `seamless.backfill.coordinator_completed`: the window is done, or all that could be done of it now.
    pub fn completed(&self, token: &str, until_ms: i64, ratio: f64) {
        lease_event!("seamless.backfill.coordinator_completed", self, token, until_ms, ratio);
    }

    /// `seamless.backfill.coordinator_failed`: the window was failed.
    pub fn failed(&self, token: &str, until_ms: i64, ratio: f64, reason: &str) {
        lease_event!("seamless.backfill.coordinator_failed", self, token, until_ms, ratio, reason = reason);
    }

    /// `seamless.coordinator.claim_failed`: nobody knows whether the lease was granted.
    pub fn claim_failed(&self, error: &Error) {
        coordinator_warning!("seamless.coordinator.claim_failed", self, error);
    }

    /// `seamless.coordinator.bad_claim_response`: the answer to a claim is none.
    pub fn bad_claim_response(&self, error: &Error) {
        coordinator_warning!("seamless.coordinator.bad_claim_response", self, error);
    }

    /// `seamless.coordinator.complete_failed`: the window is stored, and the coordinator does not know it.
    pub fn complete_failed(&self, error: &Error) {
        coordinator_warning!("seamless.coordinator.complete_failed", self, error);
    }

    /// `seamless.coordinator.fail_failed`: the window failed, and the coordinator does not know it.
    pub fn fail_failed(&self, error: &Error) {
        coordinator_warning!("seamless.coordinator.fail_failed", self, error);
    }
}

/// The field `interval`.
fn seconds(interval: Interval) -> Box<dyn Value> {
    match interval.phase_secs() {
        0 => Box::new(interval.as_secs()),
        _ => Box::new(interval_label(interval)),
    }
}
