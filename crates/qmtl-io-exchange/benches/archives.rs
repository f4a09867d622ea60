//! How fast a store in memory is filled from many archives as one source: prints the seconds from opening to the last row
//! of a thousand zip files of a day of minutes each, of one zip file with the same rows, and of ten thousand of a day of
//! hours, each the median of several runs in turn.

#![expect(clippy::print_stdout, reason = "the table is what a bench is run for")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, Interval, NoProgress, SeriesKey, TimeRange, Timestamp,
};
use qmtl_io_exchange::{FileConfig, FileSet};
use qmtl_io_memory::MemoryBackend;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const RUNS: usize = 5;
const DAY_SECS: u32 = 86_400;
/// 1990-01-01, in days.
const FIRST_DAY: u32 = 7_305;

/// The klines of a day as an exchange's archive has them, all of them alike but for a few digits.
fn klines(day: u32, interval_secs: u32) -> String {
    let mut text = String::new();
    for row in 0..DAY_SECS / interval_secs {
        let open = u64::from((FIRST_DAY + day) * DAY_SECS + row * interval_secs) * 1_000;
        let (close, cents) = (open + u64::from(interval_secs) * 1_000 - 1, row * 7_919 % 100);
        writeln!(
            text,
            "{open},42187.{cents:02}000000,42199.50000000,42170.25000000,42188.{cents:02}000000,17.{row:05}000,{close},\
             742911.{row:08},{},8.{row:05}000,351022.{row:08},0",
            row % 900
        )
        .expect("a string takes all");
    }
    text
}

/// Writes files into one archive.
fn archive(path: &Path, name: &str, texts: impl Iterator<Item = String>) {
    let mut archive = ZipWriter::new(File::create(path).expect("room for an archive"));
    archive.start_file(name, SimpleFileOptions::default()).expect("a short name");
    for text in texts {
        archive.write_all(text.as_bytes()).expect("room for an archive");
    }
    archive.finish().expect("room for an archive");
}

/// Opens what a path stands for, and fills a store in memory from it.
fn fill(path: &Path, interval: Interval, days: u32) -> Duration {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let at =
        |day: u32| Timestamp::from_secs(i64::from((FIRST_DAY + day) * DAY_SECS)).expect("a day of this age");
    let range = TimeRange::new(at(0), at(days)).expect("a day or more");
    let request = BackfillRequest::new(SeriesKey::new("BTCUSDT", interval).expect("a short name"), range);
    let start = Instant::now();
    let report = runtime.block_on(async {
        let set = FileSet::open([FileConfig::new(path)]).await.expect("generated klines are sound");
        let strategy = FetcherBackfillStrategy::new(Arc::new(set));
        strategy.ensure_range(&request, &MemoryBackend::new(), &NoProgress).await
    });
    let report = report.expect("generated klines are sound");
    assert!(report.is_complete(), "{report:?}");
    start.elapsed()
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [daily, whole, small] = ["daily", "BTCUSDT-1m.zip", "small"].map(|name| folder.path().join(name));
    for (path, days, interval, secs) in [(&daily, 1_000, "1m", 60), (&small, 10_000, "1h", 3_600)] {
        std::fs::create_dir(path).expect("an empty folder");
        for day in 0..days {
            let name = format!("BTCUSDT-{interval}-{day:05}");
            let text = std::iter::once(klines(day, secs));
            archive(&path.join(format!("{name}.zip")), &format!("{name}.csv"), text);
        }
    }
    archive(&whole, "BTCUSDT-1m.csv", (0..1_000).map(|day| klines(day, 60)));
    let cases = [
        ("1000 of a day", &daily, Interval::MINUTE, 1_000),
        ("1 of the same rows", &whole, Interval::MINUTE, 1_000),
        ("10000 of 24 rows", &small, Interval::HOUR, 10_000),
    ];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..RUNS {
        for ((_, path, interval, days), times) in cases.iter().zip(&mut times) {
            times.push(fill(path, *interval, *days));
        }
    }
    for ((name, ..), mut times) in cases.into_iter().zip(times) {
        times.sort_unstable();
        println!("archives: {name:<20} {:>6.2} s", times[times.len() / 2].as_secs_f64());
    }
}
