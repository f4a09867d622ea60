//! How fast the store is: a million bars in and out, one day, coverage. Run by `cargo bench`; each
//! line of the output is `name median-milliseconds bytes`, medians of five runs.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    HistoryBackend, HistoryBackendExt, ReadRequest, Result, SeriesKey, TimeRange, Timestamp, WriteRequest,
    frame,
};
use qmtl_io_parquet::{Codec, ParquetBackend, ParquetConfig};

const BARS: usize = 1_000_000;
const RUNS: usize = 5;

/// Minute bars of a random walk, prices to two decimals and volumes to three.
fn bars(key: &SeriesKey, from: Timestamp) -> RecordBatch {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from(u32::try_from(state >> 32).expect("half of the bits")) / f64::from(u32::MAX)
    };
    let mut columns: [Vec<f64>; 5] = Default::default();
    let mut price = 42_000.0;
    let cents = |value: f64| (value * 100.0).round() / 100.0;
    for _ in 0..BARS {
        let close = price + 20.0 * (random() - 0.5);
        let (high, low) = (price.max(close) + 5.0 * random(), price.min(close) - 5.0 * random());
        let row =
            [cents(price), cents(high), cents(low), cents(close), (random() * 50_000.0).round() / 1_000.0];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        price = close;
    }
    let range = TimeRange::new(from, Timestamp::MAX).expect("it ends later");
    let ts: ArrayRef = Arc::new(frame::ts_array(range.points(key.interval).take(BARS)));
    let names = ["open", "high", "low", "close", "volume"];
    let payload = columns.into_iter().map(|column| Arc::new(Float64Array::from(column)) as ArrayRef);
    RecordBatch::try_new(
        frame::schema_of(names.map(|name| (name, DataType::Float64))),
        std::iter::once(ts).chain(payload).collect(),
    )
    .expect("columns of one length")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

async fn open(root: &Path, codec: Codec) -> Result<ParquetBackend> {
    ParquetBackend::open(ParquetConfig::new(root).with_codec(codec)).await
}

async fn measure(codec: Codec) -> Result<()> {
    let key = SeriesKey::new("ohlcv:bench:BTC/USDT", "1m".parse()?)?;
    let rows = bars(&key, "2020-01-01".parse()?);
    let day = TimeRange::new("2021-03-04".parse()?, "2021-03-05".parse()?)?;
    let mut times: [(&str, Vec<Duration>); 7] =
        ["write", "write_again", "read", "read_close", "day", "coverage_cold", "coverage_warm"]
            .map(|name| (name, Vec::new()));
    let mut bytes = 0;
    for _ in 0..RUNS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = open(folder.path(), codec).await?;
        let write = WriteRequest::new(key.clone());
        let mut at = Instant::now();
        let mut lap = |index: usize| {
            times[index].1.push(at.elapsed());
            at = Instant::now();
        };
        assert_eq!(store.write_rows(&write, rows.clone()).await?.rows_written, BARS as u64);
        lap(0);
        assert_eq!(store.write_rows(&write, rows.clone()).await?.rows_kept_out, BARS as u64);
        lap(1);
        let all = ReadRequest::new(key.clone(), TimeRange::ALL);
        for (index, request) in [(2, all.clone()), (3, all.with_columns(["close"]))] {
            let mut stream = store.read_range(&request).await?;
            let mut read = 0;
            while let Some(batch) = stream.next().await {
                read += batch?.num_rows();
            }
            assert_eq!(read, BARS);
            lap(index);
        }
        assert_eq!(store.read_all(&ReadRequest::new(key.clone(), day)).await?.num_rows(), 1_440);
        lap(4);
        let other = open(folder.path(), codec).await?;
        for index in [5, 6] {
            assert_eq!(other.coverage(&key, TimeRange::ALL).await?.present().len(), 1);
            lap(index);
        }
        bytes = store.files(&key, TimeRange::ALL).await?.iter().map(|file| file.bytes).sum();
    }
    for (name, times) in times {
        println!("{codec:?}/{name} {:.2} {bytes}", median(times));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --all-targets` runs this program too, without the word.
    if std::env::args().any(|argument| argument == "--bench") {
        for codec in [Codec::Lz4, Codec::Zstd, Codec::None] {
            measure(codec).await?;
        }
    }
    Ok(())
}
