//! What the tests share: files in a folder of their own, and reading all of an answer.

use std::path::PathBuf;

use futures::FutureExt;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    DataFetcher, Error, ErrorKind, FetchRequest, Interval, SeriesKey, TimeRange, Timestamp, frame,
};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use tempfile::TempDir;

/// A folder with one file in it, removed when dropped.
pub(crate) struct TestFile {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

pub(crate) fn file(name: &str, content: impl AsRef<[u8]>) -> TestFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    TestFile { path, _folder: folder }
}

impl TestFile {
    pub(crate) fn config(&self) -> FileConfig {
        FileConfig::new(&self.path)
    }

    pub(crate) async fn open(&self) -> FileFetcher {
        FileFetcher::open(self.config()).await.unwrap()
    }
}

pub(crate) fn key(node: &str, interval: &str) -> SeriesKey {
    SeriesKey::new(node, interval.parse::<Interval>().unwrap()).unwrap()
}

pub(crate) fn range(start: i64, end: i64) -> TimeRange {
    let at = |secs| Timestamp::from_secs(secs).unwrap();
    TimeRange::new(at(start), at(end)).unwrap()
}

/// The canonical rows of a window.
pub(crate) async fn rows(
    fetcher: &FileFetcher,
    key: &SeriesKey,
    window: TimeRange,
) -> Result<RecordBatch, Error> {
    let answer = fetcher.fetch(&FetchRequest::new(key.clone(), window)).await?;
    let batch = answer.batches.into_batch().await?;
    Ok(frame::normalize(key, window, &[batch])?.rows)
}

#[test]
fn a_call_outside_of_a_runtime_is_refused() {
    let file = file("a.csv", "time,close\n1704067200,1\n");
    let refused = FileFetcher::open(file.config()).now_or_never().unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
}

#[tokio::test]
async fn the_bundled_candles() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/ADABTC-5m.csv");
    let fetcher = FileFetcher::open(FileConfig::new(path)).await.unwrap();
    let (key, window) = (key("ADABTC", "5m"), range(1_515_560_100, 1_517_288_100));
    assert_eq!(fetcher.range(&key).unwrap(), window);
    let rows = rows(&fetcher, &key, window).await.unwrap();
    assert_eq!(rows.num_rows(), 5_720);
    let runs = frame::row_runs(&key, &rows).unwrap();
    assert_eq!((runs.len(), runs.count(key.interval)), (6, 5_720));
    let answer = fetcher.fetch(&FetchRequest::new(key.clone(), window)).await.unwrap();
    assert_eq!(answer.proven.difference(&runs).count(key.interval), 40);
    assert_eq!(fetcher.source_id().as_str(), "file:ADABTC-5m.csv#be547899384923d4");
}
