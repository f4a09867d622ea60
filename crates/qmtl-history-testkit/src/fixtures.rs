//! Keys, bars, proofs, a clock and a source for the tests of every crate.
//!
//! Everything is deterministic: a bar's values follow from its timestamp alone.

mod clock;
mod events;
mod fetcher;

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::{EmptyProof, RangeSet, SeriesKey, SourceId, TimeRange, Timestamp, frame};

pub use clock::ManualClock;
pub use events::FakeEvents;
pub use fetcher::FakeFetcher;

/// The payload columns of [`bars`], each `Float64`.
pub const OHLCV: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// 2024-01-01T00:00:00Z, a Monday: on the grid of `1s`, `1m`, `5m`, `1h`, `1d` and `1w`.
#[must_use]
pub fn start() -> Timestamp {
    secs(1_704_067_200)
}

/// The point `value` seconds after the epoch. Panics outside 1678 to 9999.
#[must_use]
pub fn secs(value: i64) -> Timestamp {
    Timestamp::from_secs(value).expect("a fixture's time lies between 1678 and 9999")
}

/// The series of `node_id` at an interval such as `1m`. Panics when either is not valid.
#[must_use]
pub fn key(node_id: &str, interval: &str) -> SeriesKey {
    let interval = interval.parse().expect("a fixture's interval is valid");
    SeriesKey::new(node_id, interval).expect("a fixture's node id is valid")
}

/// The opening of the bar number `index`; number 0 is the first one at or after [`start`].
/// Panics beyond 9999.
#[must_use]
pub fn bar(key: &SeriesKey, index: u32) -> Timestamp {
    key.interval
        .ceil(start())
        .and_then(|first| first.checked_add_micros(key.interval.as_micros() * i64::from(index)))
        .expect("a fixture's bar opens before the year 10000")
}

/// The range that holds exactly the bars number `first` to `end - 1`. Panics unless
/// `first < end`.
#[must_use]
pub fn span(key: &SeriesKey, first: u32, end: u32) -> TimeRange {
    TimeRange::new(bar(key, first), bar(key, end)).expect("a fixture's range is not empty")
}

/// A canonical batch of `n` neighbouring OHLCV bars, the first one at `start`.
#[must_use]
pub fn bars(key: &SeriesKey, start: Timestamp, n: usize) -> RecordBatch {
    let next = |ts: &Timestamp| key.interval.next(*ts);
    bars_at(&std::iter::successors(Some(start), next).take(n).collect::<Vec<_>>())
}

/// A canonical batch with an OHLCV bar at every grid point of `ranges`.
#[must_use]
pub fn sparse_bars(key: &SeriesKey, ranges: &RangeSet) -> RecordBatch {
    bars_at(&ranges.points(key.interval).collect::<Vec<_>>())
}

/// OHLCV bars at these ascending points.
#[must_use]
pub fn bars_at(points: &[Timestamp]) -> RecordBatch {
    let column = |value: fn(f64) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(points.iter().map(|ts| value(wave(*ts)))))
    };
    let payload = [
        column(|w| 100.0 + w),
        column(|w| 101.5 + w),
        column(|w| 99.0 + w),
        column(|w| 100.25 + w),
        column(|w| 1_000.0 * (1.0 + w)),
    ];
    batch(points, OHLCV.into_iter().zip(payload))
}

/// A canonical batch of `payload` columns at these ascending points. Panics when a column has
/// another length than `points`.
#[must_use]
pub fn batch<'a>(
    points: &[Timestamp],
    payload: impl IntoIterator<Item = (&'a str, ArrayRef)>,
) -> RecordBatch {
    let (names, mut columns): (Vec<_>, Vec<ArrayRef>) = payload.into_iter().unzip();
    let schema =
        frame::schema_of(names.into_iter().zip(&columns).map(|(name, c)| (name, c.data_type().clone())));
    columns.insert(0, Arc::new(frame::ts_array(points.iter().copied())));
    RecordBatch::try_new(schema, columns).expect("a fixture's columns are of one length")
}

/// The rows of a canonical batch whose time lies in `range`; a view, nothing is copied.
#[must_use]
pub fn rows_within(batch: &RecordBatch, range: TimeRange) -> RecordBatch {
    let ts = frame::timestamps(batch).expect("a fixture's batch is canonical").values();
    let from = ts.partition_point(|micros| *micros < range.start().as_micros());
    let to = ts.partition_point(|micros| *micros < range.end().as_micros());
    batch.slice(from, to - from)
}

/// A source called `id`. Panics when it is empty.
#[must_use]
pub fn source(id: &str) -> SourceId {
    SourceId::new(id).expect("a fixture's source has a name")
}

/// A proof by `source_id`, answered at `answered_at`, that `ranges` hold no bar.
#[must_use]
pub fn proof(source_id: &str, ranges: impl Into<RangeSet>, answered_at: Timestamp) -> EmptyProof {
    EmptyProof::new(source(source_id), ranges.into(), "no row in the answer", answered_at)
}

/// A value from 0 to 10 that neighbouring bars do not share.
fn wave(ts: Timestamp) -> f64 {
    let step = u32::try_from(ts.as_secs().rem_euclid(9_973)).expect("below 9973");
    f64::from(step) / 1_000.0
}

#[cfg(test)]
mod tests;
