//! What the conformance suite cannot see: that memory and time stay in proportion to the rows.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Interval, SeriesKey, Timestamp};

use super::*;

fn key() -> SeriesKey {
    SeriesKey::new("BTC", Interval::MINUTE).unwrap()
}

/// A batch of bars `[first, end)`, counted in minutes from the epoch.
fn bars(first: i64, end: i64, close: f64) -> RecordBatch {
    let points = (first..end).map(|minute| Timestamp::from_secs(minute * 60).unwrap());
    let close = Float64Array::from(vec![close; usize::try_from(end - first).unwrap()]);
    let columns: Vec<ArrayRef> = vec![Arc::new(frame::ts_array(points)), Arc::new(close)];
    RecordBatch::try_new(frame::schema_of([("close", DataType::Float64)]), columns).unwrap()
}

fn held_rows(series: &Series) -> usize {
    series.batches.iter().map(RecordBatch::num_rows).sum()
}

#[test]
fn replaced_rows_do_not_stay_for_ever() {
    let mut series = Series::default();
    let request = WriteRequest::new(key()).with_on_conflict(OnConflict::Replace);
    for version in 0..200_u32 {
        series.write(&request, bars(0, 1_000, f64::from(version))).unwrap();
    }
    assert_eq!(series.rows.len(), 1_000);
    assert!(held_rows(&series) <= 1_000 + LOOSE_ROWS + 1_000, "{} rows are held", held_rows(&series));
}

#[tokio::test]
async fn a_million_bars_in_a_thousand_writes() {
    let mut series = Series::default();
    let request = WriteRequest::new(key());
    for part in 0..1_000 {
        // Alternately from both ends, so that most writes do not append.
        let part = if part % 2 == 0 { part / 2 } else { 999 - part / 2 };
        let receipt = series.write(&request, bars(part * 1_000, (part + 1) * 1_000, 1.0)).unwrap();
        assert_eq!(receipt.rows_written, 1_000);
    }
    let rows = series.read(&ReadRequest::new(key(), TimeRange::ALL)).unwrap().into_batch().await.unwrap();
    frame::check(&key(), &rows).unwrap();
    assert_eq!(rows.num_rows(), 1_000_000);
    assert_eq!(series.coverage(TimeRange::ALL).present().len(), 1);
}
