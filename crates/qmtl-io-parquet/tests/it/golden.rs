//! Stores that earlier builds wrote, kept as files: each build reads them and writes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    HistoryBackend, HistoryBackendExt, Maintenance, RangeSet, ReadRequest, SeriesKey, TimeRange, Timestamp,
    WriteRequest, frame,
};
use qmtl_history_testkit::fixtures::{self, bar, proof, span};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use tempfile::TempDir;

use crate::child::numbered;

/// Set, the test writes the golden store of the current format where none is.
const UPDATE: &str = "QMTL_WRITE_GOLDEN";

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{format}"))
}

fn key() -> SeriesKey {
    crate::child::key()
}

fn write() -> WriteRequest {
    WriteRequest::new(key())
}

async fn open(root: &Path) -> ParquetBackend {
    ParquetBackend::open(ParquetConfig::new(root)).await.unwrap()
}

/// Two partitions, the second with a delta that fills a gap and one with proofs, and old versions.
async fn make(root: &Path) {
    let store = open(root).await;
    let answered: Timestamp = "2030-01-01".parse().unwrap();
    let empty = proof("file:a.csv#1", span(&key(), 48_900, 49_000), answered);
    for (first, end) in [(48_800, 48_900), (49_000, 51_500)] {
        store.write_rows(&write().with_empty(empty.clone()), numbered(first, end, 1)).await.unwrap();
    }
    store.write_rows(&write(), numbered(51_510, 51_520, 2)).await.unwrap();
    let more = proof("binance", span(&key(), 51_500, 51_510), answered);
    store
        .write_rows(&write().with_empty(more), RecordBatch::new_empty(frame::ts_only_schema()))
        .await
        .unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_store_is_read_and_written_on() {
    if std::env::var_os(UPDATE).is_some() && !golden(3).exists() {
        make(&golden(3)).await;
    }
    for format in [1, 2, 3] {
        let folder = TempDir::new().unwrap();
        copy(&golden(format), folder.path());
        let store = open(folder.path()).await;
        assert_eq!(store.list_series().await.unwrap(), [key()]);
        assert!(store.verify(&key()).await.unwrap().is_empty(), "format {format}");
        let present: RangeSet = [(48_800, 48_900), (49_000, 51_500), (51_510, 51_520)]
            .map(|(first, end)| span(&key(), first, end))
            .into_iter()
            .collect();
        let coverage = store.coverage(&key(), TimeRange::ALL).await.unwrap();
        assert_eq!(*coverage.present(), present, "format {format}");
        let proven =
            coverage.known_empty().iter().flat_map(|proof| proof.ranges.iter()).collect::<RangeSet>();
        let empty = [(48_900, 49_000), (51_500, 51_510)].map(|(first, end)| span(&key(), first, end));
        assert_eq!(proven, empty.into_iter().collect(), "format {format}");
        let sources: Vec<_> = coverage.known_empty().iter().map(|proof| proof.source.name()).collect();
        let expected: &[&str] =
            if format == 1 { &["file:golden.parquet"] } else { &["binance", "file:a.csv"] };
        assert_eq!(sources, expected, "format {format}");
        // These stores are older than the second rule, which a proof names.
        let rules: BTreeSet<_> =
            coverage.known_empty().iter().map(|proof| (proof.rule, proof.confirmed)).collect();
        assert_eq!(rules, BTreeSet::from([(1, 0)]), "format {format}");
        let rows = store.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
        let expected: Vec<_> = [(48_800, 48_900, 1), (49_000, 51_500, 1), (51_510, 51_520, 2)]
            .into_iter()
            .map(|(first, end, by)| numbered(first, end, by))
            .collect();
        let schema = expected[0].schema();
        let expected = qmtl_history_api::arrow_select::concat::concat_batches(&schema, &expected).unwrap();
        assert_eq!(rows, expected, "format {format}");

        // This build goes on where the other one stopped.
        store.write_rows(&write(), numbered(51_500, 51_525, 3)).await.unwrap();
        let after = open(folder.path()).await;
        let range = TimeRange::new(bar(&key(), 51_500), bar(&key(), 52_000)).unwrap();
        let coverage = after.coverage(&key(), range).await.unwrap();
        assert_eq!(coverage.present().iter().collect::<Vec<_>>(), [span(&key(), 51_500, 51_525)]);
        assert!(coverage.known_empty().is_empty());
        let rows = after.read_all(&ReadRequest::new(key(), range)).await.unwrap();
        assert_eq!(fixtures::rows_within(&rows, span(&key(), 51_510, 51_520)), numbered(51_510, 51_520, 2));
        assert!(after.verify(&key()).await.unwrap().is_empty());
    }
}
