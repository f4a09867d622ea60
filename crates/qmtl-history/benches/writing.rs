//! How fast the bars of a file are written into an empty store once they are in memory. Run by
//! `cargo bench --bench writing -- FILE NODE INTERVAL`; the output is `writing median-milliseconds`.
#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::path::Path;
use std::time::Instant;

use qmtl_history_api::{
    DataFetcher, Error, FetchRequest, HistoryBackend, Result, SeriesKey, WriteRequest, frame,
};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

const RUNS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    // `cargo test --all-targets` runs this program too, without words.
    let [file, node, interval] = words.as_slice() else { return Ok(()) };
    let key = SeriesKey::new(node, interval.parse()?)?;
    let source = FileFetcher::open(FileConfig::new(file)).await?;
    let range = source.range(&key)?;
    let fetched = source.fetch(&FetchRequest::new(key.clone(), range)).await?.batches.into_batch().await?;
    let rows = frame::normalize(&key, range, &[fetched])?.rows;
    // Where the file is, a store may be, and be measured.
    let place = Path::new(file).parent().unwrap_or(Path::new("."));
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let folder = tempfile::tempdir_in(place).map_err(|e| Error::unexpected("no folder").caused_by(e))?;
        let store = ParquetBackend::open(ParquetConfig::new(folder.path())).await?;
        let started = Instant::now();
        let receipt = store.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await?;
        times.push(started.elapsed());
        assert_eq!(receipt.rows_written, rows.num_rows() as u64);
    }
    times.sort_unstable();
    println!("writing {:.1}", times[RUNS / 2].as_secs_f64() * 1_000.0);
    Ok(())
}
