//! What dashboards and log readers see, asserted through a recorder and a subscriber in memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clock;
mod conformance;
mod events;
#[cfg(feature = "format")]
mod format;
mod metrics;
mod observed;
mod recorded;

use qmtl_history_api::{Interval, SeriesKey, SourceId, TimeRange, Timestamp};

/// A series whose node id has a colon in it.
fn key(node_id: &str) -> SeriesKey {
    SeriesKey::new(node_id, Interval::MINUTE).unwrap()
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs).unwrap()
}

fn window() -> TimeRange {
    TimeRange::new(at(1_700_000_040), at(1_700_000_100)).unwrap()
}

fn source() -> SourceId {
    SourceId::new("file:candles.csv#9f86d081884c7d65").unwrap()
}
