//! How fast a thousand gaps of a hundred bars are filled in a table of a million, from a source that
//! answers at once. Run by `cargo bench`; the output is `gaps median-milliseconds`.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::sync::Arc;
use std::time::Instant;

use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, BatchStream, FetchRequest, Fetched, HistoryBackend, ProgressEvent,
    ProgressSink, Result, SeriesKey, SourceId, TimeRange, Timestamp, WriteRequest, fetcher_fn, frame,
};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

const BARS: i64 = 1_000_000;
const GAPS: usize = 1_000;
const RUNS: usize = 5;
const MINUTE: i64 = 60_000_000;

/// Nobody watches.
#[derive(Debug)]
struct Silent;

impl ProgressSink for Silent {
    fn on_event(&self, _: &SeriesKey, _: &ProgressEvent) {}
}

fn first() -> Timestamp {
    "2020-01-01".parse().expect("a time")
}

fn bar(number: i64) -> Timestamp {
    first().checked_add_micros(number * MINUTE).expect("a time")
}

/// Every bar, with numbers that any two runs agree on.
fn bars() -> RecordBatch {
    let ts: ArrayRef = Arc::new(frame::ts_array((0..BARS).map(bar)));
    let column = |factor: i64| -> ArrayRef {
        let cents = (0..BARS).map(|n| (n * factor) % 1_000_003).map(|n| i32::try_from(n).unwrap_or(0));
        Arc::new(cents.map(|n| f64::from(n) / 100.0).collect::<Float64Array>())
    };
    let names = ["open", "high", "low", "close", "volume"];
    let columns = [7_919, 104_729, 1_299_709, 15_485_863, 32_452_843].map(column);
    let schema = frame::schema_of(names.map(|name| (name, DataType::Float64)));
    RecordBatch::try_new(schema, std::iter::once(ts).chain(columns).collect()).expect("columns of one length")
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --all-targets` runs this program too, without the word.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let rows = bars();
    let with_gaps: Vec<_> = (0..GAPS).map(|gap| rows.slice(gap * 1_000 + 100, 900)).collect();
    let with_gaps = concat_batches(&rows.schema(), &with_gaps).expect("pieces of one batch");
    let all = TimeRange::new(first(), bar(BARS))?;
    let key = SeriesKey::new("ohlcv:bench:gaps", "1m".parse()?)?;
    let source = rows.clone();
    let fetcher = Arc::new(fetcher_fn(SourceId::new("memory")?, move |request: FetchRequest| {
        let at = |ts: Timestamp| usize::try_from((ts.as_micros() - first().as_micros()) / MINUTE);
        let (from, to) = (at(request.range.start()).unwrap_or(0), at(request.range.end()).unwrap_or(0));
        let rows = source.slice(from, to - from);
        let stream = BatchStream::new(rows.schema(), Box::pin(futures::stream::iter([Ok(rows)])));
        async move { Ok(Fetched::new(stream)) }
    }));
    let strategy = FetcherBackfillStrategy::new(fetcher);
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ParquetBackend::open(ParquetConfig::new(folder.path())).await?;
        store.write_rows(&WriteRequest::new(key.clone()), with_gaps.clone()).await?;
        let at = Instant::now();
        let report = strategy.ensure_range(&BackfillRequest::new(key.clone(), all), &store, &Silent).await?;
        times.push(at.elapsed());
        assert!(report.is_complete() && report.rows_written == 100_000, "{report:?}");
    }
    times.sort_unstable();
    println!("gaps {:.1}", times[RUNS / 2].as_secs_f64() * 1_000.0);
    Ok(())
}
