//! How fast the store is. Run by `cargo bench`; each line of the output is `name number`, times in
//! milliseconds, medians. `cargo xtask bench store` puts them beside peers.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    HistoryBackend, HistoryBackendExt, ReadRequest, Result, SeriesKey, TimeRange, Timestamp, WriteRequest,
    frame,
};
use qmtl_io_parquet::{Codec, ParquetBackend, ParquetConfig};
use tempfile::TempDir;

/// As in the program. pyarrow, beside which this is measured, brings the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BARS: usize = 1_000_000;
const RUNS: usize = 5;
const MINUTE: i64 = 60_000_000;

/// Minute bars of a random walk, prices to two decimals and volumes to three.
fn bars(from: Timestamp, count: usize) -> RecordBatch {
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
    for _ in 0..count {
        let close = price + 20.0 * (random() - 0.5);
        let (high, low) = (price.max(close) + 5.0 * random(), price.min(close) - 5.0 * random());
        let row =
            [cents(price), cents(high), cents(low), cents(close), (random() * 50_000.0).round() / 1_000.0];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        price = close;
    }
    let points = (0..).map_while(|bar| from.checked_add_micros(bar * MINUTE)).take(count);
    let ts: ArrayRef = Arc::new(frame::ts_array(points));
    let names = ["open", "high", "low", "close", "volume"];
    let payload = columns.into_iter().map(|column| Arc::new(Float64Array::from(column)) as ArrayRef);
    RecordBatch::try_new(
        frame::schema_of(names.map(|name| (name, DataType::Float64))),
        std::iter::once(ts).chain(payload).collect(),
    )
    .expect("columns of one length")
}

fn key(number: usize) -> SeriesKey {
    let interval = "1m".parse().expect("an interval");
    SeriesKey::new(format!("ohlcv:bench:{number}"), interval).expect("a node id")
}

fn first() -> Timestamp {
    "2020-01-01".parse().expect("a time")
}

fn bar(number: i64) -> Timestamp {
    first().checked_add_micros(number * MINUTE).expect("a time")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

fn print(name: &str, times: Vec<Duration>) {
    println!("{name} {:.4}", median(times));
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn open(root: &Path, codec: Codec) -> Result<ParquetBackend> {
    ParquetBackend::open(ParquetConfig::new(root).with_codec(codec)).await
}

async fn read(store: &ParquetBackend, request: &ReadRequest) -> Result<usize> {
    let mut stream = store.read_range(request).await?;
    let mut rows = 0;
    while let Some(batch) = stream.next_batch().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

/// A million bars in and out with one codec.
async fn whole(codec: Codec) -> Result<()> {
    let rows = bars(first(), BARS);
    let day = TimeRange::new("2021-03-04".parse()?, "2021-03-05".parse()?)?;
    let mut times: [Vec<Duration>; 5] = Default::default();
    let mut bytes = 0;
    for _ in 0..RUNS {
        let folder = folder();
        let store = open(folder.path(), codec).await?;
        let write = WriteRequest::new(key(0));
        let at = Instant::now();
        assert_eq!(store.write_rows(&write, rows.clone()).await?.rows_written, BARS as u64);
        times[0].push(at.elapsed());
        let at = Instant::now();
        assert_eq!(store.write_rows(&write, rows.clone()).await?.rows_kept_out, BARS as u64);
        times[1].push(at.elapsed());
        let all = ReadRequest::new(key(0), TimeRange::ALL);
        for (index, request) in [(2, all.clone()), (3, all.with_columns(["close"]))] {
            for _ in 0..RUNS {
                let at = Instant::now();
                assert_eq!(read(&store, &request).await?, BARS);
                times[index].push(at.elapsed());
            }
        }
        let one = ReadRequest::new(key(0), day);
        for _ in 0..11 {
            let at = Instant::now();
            assert_eq!(store.read_all(&one).await?.num_rows(), 1_440);
            times[4].push(at.elapsed());
        }
        bytes = store.files(&key(0), TimeRange::ALL).await?.iter().map(|file| file.bytes).sum();
    }
    for (name, times) in ["write", "write_again", "read", "read_close", "day"].into_iter().zip(times) {
        print(&format!("{codec:?}/{name}"), times);
    }
    println!("{codec:?}/bytes {bytes}");
    Ok(())
}

/// Coverage of a million bars with a thousand gaps, by a new handle and again.
async fn coverage() -> Result<()> {
    let folder = folder();
    let store = open(folder.path(), Codec::default()).await?;
    let rows = bars(first(), BARS);
    // Every thousandth bar is missing.
    let pieces: Vec<_> = (0..1_000).map(|gap| rows.slice(gap * 1_000 + 1, 999)).collect();
    let rows = qmtl_history_api::arrow_select::concat::concat_batches(&rows.schema(), &pieces)
        .expect("pieces of one batch");
    store.write_rows(&WriteRequest::new(key(0)), rows).await?;
    let ask = async |store: &ParquetBackend| -> Result<Duration> {
        let at = Instant::now();
        assert_eq!(store.coverage(&key(0), TimeRange::ALL).await?.present().len(), 1_000);
        Ok(at.elapsed())
    };
    let mut cold = Vec::new();
    for _ in 0..21 {
        cold.push(ask(&open(folder.path(), Codec::default()).await?).await?);
    }
    print("coverage_cold", cold);
    // Soon after the write, and when the coarsest tick of the folders' last change is over.
    for (name, wait) in [("coverage_new", 200), ("coverage_warm", 4_000)] {
        let wait = Duration::from_millis(wait);
        std::thread::sleep(wait);
        ask(&store).await?;
        let mut warm = Vec::new();
        for _ in 0..201 {
            warm.push(ask(&store).await?);
        }
        print(name, warm);
    }
    Ok(())
}

/// One bar for each of a thousand series, again and again, beside as many stored ones.
async fn append(stored: usize) -> Result<()> {
    const SERIES: usize = 1_000;
    const ROUNDS: i64 = 4;
    let folder = folder();
    let store = open(folder.path(), Codec::default()).await?;
    let rows = bars(first(), stored);
    stream::iter(0..SERIES)
        .for_each_concurrent(8, |number| {
            let (store, rows) = (&store, &rows);
            async move {
                let write = WriteRequest::new(key(number));
                store.write_rows(&write, rows.clone()).await.expect("the series is written");
            }
        })
        .await;
    let next = i64::try_from(stored).expect("a small number");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let row = bars(bar(next + round), 1);
        for number in 0..SERIES {
            let at = Instant::now();
            let receipt = store.write_rows(&WriteRequest::new(key(number)), row.clone()).await?;
            times.push(at.elapsed());
            assert_eq!(receipt.rows_written, 1);
        }
    }
    times.sort_unstable();
    println!("append_{stored}_p99 {:.4}", times[times.len() * 99 / 100].as_secs_f64() * 1_000.0);
    print(&format!("append_{stored}"), times);
    Ok(())
}

/// A bar at a time for one series until deltas have been folded several times: the mean, which has
/// the folds in it, and the median beside the thousands of files that are too young to be collected.
async fn record() -> Result<()> {
    const APPENDS: i64 = 4_000;
    let folder = folder();
    let store = open(folder.path(), Codec::default()).await?;
    store.write_rows(&WriteRequest::new(key(0)), bars(first(), 40_000)).await?;
    let mut times = Vec::new();
    for number in 0..APPENDS {
        let row = bars(bar(40_000 + number), 1);
        let at = Instant::now();
        store.write_rows(&WriteRequest::new(key(0)), row).await?;
        times.push(at.elapsed());
    }
    println!("record {:.4}", times.iter().sum::<Duration>().as_secs_f64() * 1_000.0 / times.len() as f64);
    print("record_late", times.split_off(times.len() / 2));
    let listed = store.files(&key(0), TimeRange::ALL).await?.pop().expect("a partition").path;
    let beside = std::fs::read_dir(listed.parent().expect("a file stands in a folder"));
    println!("record_files {}", beside.expect("the folder is there").count());
    Ok(())
}

/// Nanoseconds a bar for as many bars in one series, and for as many series of a thousand bars.
async fn flat() -> Result<()> {
    for count in [10_000_usize, 100_000, 1_000_000, 10_000_000] {
        let folder = folder();
        let store = open(folder.path(), Codec::default()).await?;
        let at = Instant::now();
        let mut written = 0;
        while written < count {
            let batch = (count - written).min(BARS);
            let from = bar(i64::try_from(written).expect("a small number"));
            store.write_rows(&WriteRequest::new(key(0)), bars(from, batch)).await?;
            written += batch;
        }
        let wrote = at.elapsed();
        let at = Instant::now();
        assert_eq!(read(&store, &ReadRequest::new(key(0), TimeRange::ALL)).await?, count);
        let a_bar = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
        println!("write_{count}_bars {:.1}", a_bar(wrote));
        println!("read_{count}_bars {:.1}", a_bar(at.elapsed()));
    }
    let rows = bars(first(), 1_000);
    for count in [1_usize, 10, 100, 1_000, 10_000] {
        let folder = folder();
        let store = open(folder.path(), Codec::default()).await?;
        let at = Instant::now();
        let all = stream::iter(0..count).for_each_concurrent(8, |number| {
            let (store, rows) = (&store, &rows);
            async move {
                let write = WriteRequest::new(key(number));
                store.write_rows(&write, rows.clone()).await.expect("the series is written");
            }
        });
        all.await;
        let wrote = at.elapsed();
        let at = Instant::now();
        for number in 0..count {
            assert_eq!(read(&store, &ReadRequest::new(key(number), TimeRange::ALL)).await?, 1_000);
        }
        let a_bar = |time: Duration| time.as_secs_f64() * 1e9 / (count * 1_000) as f64;
        println!("write_{count}_series {:.1}", a_bar(wrote));
        println!("read_{count}_series {:.1}", a_bar(at.elapsed()));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this program too, without the word.
    if !words.iter().any(|word| word == "--bench") {
        return Ok(());
    }
    let asked = |name: &str| words.len() == 1 || words.iter().any(|word| word == name);
    if asked("whole") {
        for codec in [Codec::Lz4, Codec::Zstd, Codec::None] {
            whole(codec).await?;
        }
    }
    if asked("coverage") {
        coverage().await?;
    }
    if asked("append") {
        append(3_000).await?;
        append(40_000).await?;
    }
    if asked("record") {
        record().await?;
    }
    if asked("flat") {
        flat().await?;
    }
    Ok(())
}
