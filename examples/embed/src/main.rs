//! Stores a day of hourly bars, finds the hole in it, fills the hole and reads the day back.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{HistoryBackend, HistoryBackendExt, RangeSet, ReadRequest, Result, SeriesKey, TimeRange};
use qmtl_history_api::{Timestamp, WriteRequest, frame};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

/// Hourly bars of one column over a range; the close is the hour's number.
fn bars(key: &SeriesKey, range: TimeRange) -> RecordBatch {
    let points: Vec<Timestamp> = range.points(key.interval).collect();
    let close = points.iter().map(|ts| (ts.as_secs() / 3_600 % 24) as f64);
    let schema = frame::schema_of([("close", DataType::Float64)]);
    let columns: (_, Float64Array) = (frame::ts_array(points.iter().copied()), close.collect::<Vec<_>>().into());
    RecordBatch::try_new(schema, vec![Arc::new(columns.0), Arc::new(columns.1)]).expect("two columns of one length")
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("embed-{}", std::process::id()));
    let store = ParquetBackend::open(ParquetConfig::new(&folder)).await?;
    let key = SeriesKey::new("ohlcv:binance:BTC/USDT:1h", "1h".parse()?)?;

    let day = TimeRange::new("2024-01-01".parse()?, "2024-01-02".parse()?)?;
    let hole = TimeRange::new("2024-01-01T09:00:00Z".parse()?, "2024-01-01T12:00:00Z".parse()?)?;
    for part in RangeSet::from(day).difference(&hole.into()).iter() {
        let receipt = store.write_rows(&WriteRequest::new(key.clone()), bars(&key, part)).await?;
        println!("stored {} bars of {part}", receipt.rows_written);
    }

    let coverage = store.coverage(&key, day).await?;
    let missing = RangeSet::from(day).difference(coverage.present());
    println!("missing {:?}", missing.inclusive(key.interval));
    assert_eq!(missing, hole.into());

    store.write_rows(&WriteRequest::new(key.clone()), bars(&key, hole)).await?;
    let rows = store.read_all(&ReadRequest::new(key, day)).await?;
    println!("read {} bars of {} columns", rows.num_rows(), rows.num_columns());
    assert_eq!(rows.num_rows(), 24);

    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    Ok(())
}
