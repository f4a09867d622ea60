//! How fast candles are read from CSV: prints MB/s (10^6 bytes) of the scan that opening a file
//! pays, of parsing all its rows, and of both together, each the median of several runs.

#![expect(clippy::print_stdout, reason = "the table is what a bench is run for")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures::StreamExt;
use qmtl_history_api::{DataFetcher, FetchRequest, Interval, SeriesKey, TimeRange};
use qmtl_io_exchange::{FileConfig, FileFetcher};

const ROWS: u32 = 1_000_000;
const RUNS: usize = 7;

/// A minute candle a row, prices as an exchange writes them.
fn candles() -> String {
    let mut text = String::from("open_time,open,high,low,close,volume\n");
    let (mut state, mut price) = (0x9e37_79b9_u32, 43_210.55_f64);
    let mut random = |span: f64| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) * span
    };
    for row in 0..ROWS {
        let open = price;
        price = (price + random(60.0) - 30.0).abs().max(100.0);
        let (high, low) = (open.max(price) + random(9.0), open.min(price) - random(9.0));
        let (time, volume) = (1_600_000_020_000 + u64::from(row) * 60_000, random(500.0));
        writeln!(text, "{time},{open:.2},{high:.2},{low:.2},{price:.2},{volume:.5}")
            .expect("a string takes all");
    }
    text
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("candles.csv");
    let text = candles();
    std::fs::write(&path, &text).expect("room for the candles");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let key = SeriesKey::new("candles", Interval::MINUTE).expect("a short name");
    let (mut scans, mut parses, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        let fetcher =
            runtime.block_on(FileFetcher::open(FileConfig::new(&path))).expect("generated candles are sound");
        scans.push(start.elapsed());
        let middle = Instant::now();
        let rows = runtime.block_on(async {
            let request = FetchRequest::new(key.clone(), TimeRange::ALL);
            let mut batches = fetcher.fetch(&request).await.expect("a known series").batches;
            let mut rows = 0;
            while let Some(batch) = StreamExt::next(&mut batches).await {
                rows += batch.expect("generated candles are sound").num_rows();
            }
            rows
        });
        assert_eq!(rows, ROWS as usize);
        parses.push(middle.elapsed());
        both.push(start.elapsed());
    }
    for (name, times) in [("scan", scans), ("parse", parses), ("scan+parse", both)] {
        let time = median(times);
        let rate = f64::from(u32::try_from(text.len()).expect("less than 4 GB")) / 1e6 / time.as_secs_f64();
        println!("csv {name:<10} {rate:>7.0} MB/s  {:>6.1} ms  {ROWS} rows", time.as_secs_f64() * 1e3);
    }
}
