//! How fast a QuestDB is through this crate. Run by `cargo bench` with the words `-- talk`: each line
//! of the input names a piece of work, each line of the output is its number, so that whoever asks
//! can let others do the same work in turn. `QMTL_TEST_QUESTDB_DSN` names the server, whose tables
//! of the prefix `bench_` it uses. `cargo xtask bench questdb` puts the numbers beside peers.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::future::Future;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use futures::stream;
use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, BatchStream, Error, EventRecorder, FetchRequest, Fetched,
    HistoryBackend, NodeId, ProgressEvent, ProgressSink, ReadRequest, Result, SeriesKey, SourceId, TimeRange,
    Timestamp, WriteRequest, fetcher_fn, frame,
};
use qmtl_io_questdb::{QuestDbBackend, QuestDbConfig, QuestDbRecorder};

/// As in the program. pyarrow, beside which this is measured, brings the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MILLION: i64 = 1_000_000;
const MINUTE: i64 = 60_000_000;
const NAMES: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// 2020-01-01.
fn bar(number: i64) -> Timestamp {
    Timestamp::from_micros(1_577_836_800_000_000 + number * MINUTE).expect("a time of this century")
}

fn span(from: i64, to: i64) -> TimeRange {
    TimeRange::new(bar(from), bar(to)).expect("a range that does not end before it starts")
}

/// Minute bars with numbers that any two runs agree on: prices to two decimals.
fn bars(from: i64, to: i64) -> RecordBatch {
    let ts: ArrayRef = Arc::new(frame::ts_array((from..to).map(bar)));
    let column = |factor: i64| -> ArrayRef {
        let cents = (from..to).map(|n| (n * factor) % 1_000_003).map(|n| i32::try_from(n).unwrap_or(0));
        Arc::new(cents.map(|n| f64::from(n) / 100.0).collect::<Float64Array>())
    };
    let columns = [7_919, 104_729, 1_299_709, 15_485_863, 32_452_843].map(column);
    let schema = frame::schema_of(NAMES.map(|name| (name, DataType::Float64)));
    RecordBatch::try_new(schema, std::iter::once(ts).chain(columns).collect()).expect("columns of one length")
}

/// A million bars of which the first hundred of each thousand are missing.
fn with_gaps() -> RecordBatch {
    let rows = bars(0, MILLION);
    let pieces: Vec<_> = (0..1_000).map(|gap| rows.slice(gap * 1_000 + 100, 900)).collect();
    concat_batches(&rows.schema(), &pieces).expect("pieces of one batch")
}

fn key(node: &str) -> Result<SeriesKey> {
    SeriesKey::new(node, "1m".parse()?)
}

/// The most memory that this process has held so far, in MB of 2^20 bytes.
fn peak_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.map(|kb| kb / 1_024.0).ok_or_else(|| Error::unexpected("the system does not tell peak memory"))
}

async fn connect() -> Result<QuestDbBackend> {
    let dsn = std::env::var("QMTL_TEST_QUESTDB_DSN")
        .map_err(|_| Error::invalid("QMTL_TEST_QUESTDB_DSN is not set"))?;
    QuestDbBackend::connect(QuestDbConfig::from_dsn(&format!("{dsn}&prefix=bench_"))?).await
}

/// The milliseconds that a piece of work takes.
async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(f64, T)> {
    let at = Instant::now();
    let done = work.await?;
    Ok((at.elapsed().as_secs_f64() * 1_000.0, done))
}

async fn write(store: &QuestDbBackend, node: &str, rows: RecordBatch) -> Result<f64> {
    let (ms, receipt) = timed(store.write_rows(&WriteRequest::new(key(node)?), rows.clone())).await?;
    assert_eq!(receipt.rows_written, rows.num_rows() as u64, "{node} was empty");
    Ok(ms)
}

async fn rows_of(store: &QuestDbBackend, node: &str, range: TimeRange) -> Result<usize> {
    let mut stream = store.read_range(&ReadRequest::new(key(node)?, range)).await?;
    let mut rows = 0;
    while let Some(batch) = stream.next_batch().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

/// Ten million rows stream; the most memory that was held when half of them had come, by which the heaps
/// of all threads have found their size.
async fn stream_ten(store: &QuestDbBackend) -> Result<f64> {
    let mut stream = store.read_range(&ReadRequest::new(key("ten")?, TimeRange::ALL)).await?;
    let (mut rows, mut early) = (0, None);
    while let Some(batch) = stream.next_batch().await {
        rows += batch?.num_rows();
        if rows >= 5_000_000 && early.is_none() {
            early = Some(peak_mb()?);
        }
    }
    assert_eq!(rows, 10_000_000);
    Ok(early.expect("more than five million rows came"))
}

async fn read(store: &QuestDbBackend, range: TimeRange, rows: usize) -> Result<f64> {
    let (ms, read) = timed(rows_of(store, "million", range)).await?;
    assert_eq!(read, rows);
    Ok(ms)
}

async fn coverage(store: &QuestDbBackend, node: &str, range: TimeRange, runs: usize) -> Result<f64> {
    let key = key(node)?;
    let (ms, coverage) = timed(store.coverage(&key, range)).await?;
    assert_eq!(coverage.present().len(), runs);
    Ok(ms)
}

/// Nobody watches.
#[derive(Debug)]
struct Silent;

impl ProgressSink for Silent {
    fn on_event(&self, _: &SeriesKey, _: &ProgressEvent) {}
}

/// A thousand gaps of a hundred bars are filled from a source that answers at once.
async fn fill(store: &QuestDbBackend, node: &str) -> Result<f64> {
    write(store, node, with_gaps()).await?;
    let source = bars(0, MILLION);
    let fetcher = fetcher_fn(SourceId::new("memory")?, move |request: FetchRequest| {
        let at = |ts: Timestamp| usize::try_from((ts.as_micros() - bar(0).as_micros()) / MINUTE).unwrap_or(0);
        let (from, to) = (at(request.range.start()), at(request.range.end()));
        let rows = source.slice(from, to - from);
        let batches = BatchStream::new(rows.schema(), Box::pin(stream::iter([Ok(rows)])));
        async move { Ok(Fetched::new(batches)) }
    });
    let strategy = FetcherBackfillStrategy::new(Arc::new(fetcher));
    let request = BackfillRequest::new(key(node)?, span(0, MILLION));
    let (ms, report) = timed(strategy.ensure_range(&request, store, &Silent)).await?;
    assert!(report.is_complete() && report.rows_written == 100_000, "{report:?}");
    Ok(ms)
}

/// Events a second that a recorder takes and stores, one after the other from one task.
async fn record(store: &QuestDbBackend, node: &str) -> Result<f64> {
    let recorder = QuestDbRecorder::new(store);
    let (node, interval) = (NodeId::new(node)?, "1m".parse()?);
    let schema = Arc::new(Schema::new(NAMES.map(|name| Field::new(name, DataType::Float64, true)).to_vec()));
    let (ms, ()) = timed(async {
        for number in 0..MILLION {
            let value = f64::from(i32::try_from(number % 1_000_003).unwrap_or(0)) / 100.0;
            let columns = NAMES.map(|_| Arc::new(Float64Array::from(vec![value])) as ArrayRef);
            let event = RecordBatch::try_new(Arc::clone(&schema), columns.to_vec()).expect("one row");
            recorder.persist(&node, interval, bar(number), event).await?;
        }
        recorder.flush().await
    })
    .await?;
    Ok(f64::from(1_000_000_i32) / ms * 1_000.0)
}

/// One piece of work by its name; `store` is a handle that has been used before.
async fn work(store: &QuestDbBackend, words: &[&str]) -> Result<f64> {
    match words {
        ["store", node] => write(store, node, bars(0, MILLION)).await,
        ["store_gaps", node] => write(store, node, with_gaps()).await,
        ["store_ten", node] => {
            let mut ms = 0.0;
            for part in 0..10 {
                ms += write(store, node, bars(part * MILLION, (part + 1) * MILLION)).await?;
            }
            Ok(ms)
        }
        ["read"] => read(store, TimeRange::ALL, 1_000_000).await,
        ["day"] => read(store, span(500_000, 501_440), 1_440).await,
        ["coverage"] => coverage(&connect().await?, "gaps", span(0, MILLION), 1_000).await,
        ["coverage_again"] => coverage(store, "gaps", span(0, MILLION), 1_000).await,
        ["month"] => coverage(store, "ten", span(5_000_000, 5_043_200), 1).await,
        ["fill", node] => fill(store, node).await,
        ["record", node] => record(store, node).await,
        ["stream"] => stream_ten(store).await,
        ["peak_mb"] => peak_mb(),
        _ => Err(Error::invalid("nobody knows this work").with("work", words.join(" "))),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --all-targets` runs this program too, without the word.
    if !std::env::args().any(|word| word == "talk") {
        return Ok(());
    }
    let store = Arc::new(connect().await?);
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Error::unexpected("the input broke off").caused_by(e))?;
        let store = Arc::clone(&store);
        // In a task, as programs read: the main thread would be woken for each packet that comes.
        let work = tokio::spawn(async move {
            let words: Vec<_> = line.split_whitespace().collect();
            work(&store, &words).await
        });
        println!("{:.4}", work.await.map_err(|e| Error::unexpected("a piece of work failed").caused_by(e))??);
    }
    Ok(())
}
