//! The folder tree: what is created and when, what is foreign, what cannot be created.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, Maintenance, RangeSet, ReadRequest, SeriesKey, TimeRange,
    WriteRequest, frame,
};
use qmtl_history_testkit::fixtures::{self, bars, proof, span, start};
use qmtl_io_parquet::{Codec, ParquetBackend, ParquetConfig};
use tempfile::TempDir;

fn key() -> SeriesKey {
    fixtures::key("ohlcv:folder", "1m")
}

async fn open(root: &Path) -> ParquetBackend {
    ParquetBackend::open(ParquetConfig::new(root)).await.unwrap()
}

/// Every path below a folder, sorted, relative to it.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, paths: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, paths);
            } else {
                paths.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut paths = Vec::new();
    walk(root, root, &mut paths);
    paths.sort();
    paths
}

#[test]
fn a_call_outside_of_a_runtime_is_refused() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(open(folder.path()));
    let refused = ParquetBackend::open(ParquetConfig::new(folder.path())).now_or_never().unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    let refused = store.coverage(&key(), TimeRange::ALL).now_or_never().unwrap().unwrap_err();
    assert!(refused.to_string().contains("#[tokio::main]"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_before_the_first_write() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("a/b/store");
    let store = open(&root).await;
    assert_eq!(store.list_series().await.unwrap(), []);
    assert_eq!(store.revision(&key()).await.unwrap(), None);
    assert_eq!(store.files(&key(), TimeRange::ALL).await.unwrap(), []);
    assert!(store.verify(&key()).await.unwrap().is_empty());
    let refused = WriteRequest::new(key());
    store.write_rows(&refused, bars(&fixtures::key("x", "1s"), fixtures::secs(1), 1)).await.unwrap_err();
    assert!(!folder.path().join("a").exists());

    store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 1)).await.unwrap();
    let hash = &blake3::hash(b"ohlcv:folder").to_hex()[..16];
    assert_eq!(
        tree(&root),
        [
            format!("ohlcv-folder-{hash}/1m/20231231T052000Z/0000000001.parquet"),
            format!("ohlcv-folder-{hash}/1m/_schema/0000000001.parquet"),
            format!("ohlcv-folder-{hash}/_series.json"),
        ]
    );
    let name = fs::read_to_string(root.join(format!("ohlcv-folder-{hash}/_series.json"))).unwrap();
    assert_eq!(name, r#"{"format":3,"node_id":"ohlcv:folder"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_path_is_not_a_store() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("no/such");
    let error = ParquetBackend::open(ParquetConfig::new(&missing).with_create(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("there is no store in this folder; check the path (path: {})", missing.display())
    );
    assert!(!folder.path().join("no").exists());

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = ParquetBackend::open(ParquetConfig::new(&file)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("a file stands where a folder is needed"), "{error}");

    for rows in [0, 50_001] {
        let config = ParquetConfig::new(folder.path()).with_row_group_rows(rows);
        let error = ParquetBackend::open(config).await.unwrap_err();
        assert_eq!(error.to_string(), format!("row_group_rows must be 1 to 50000 (value: {rows})"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_files_and_folders_are_passed_over() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 5)).await.unwrap();
    let path = store.files(&key(), TimeRange::ALL).await.unwrap().remove(0).path;
    let (partition, interval) = (path.parent().unwrap(), path.ancestors().nth(2).unwrap());
    let node = interval.parent().unwrap();
    for place in [folder.path(), node, interval, partition] {
        fs::write(place.join("README.txt"), "hello").unwrap();
        fs::write(place.join(".tmp-killed"), "PAR1").unwrap();
        fs::write(place.join("0000000007.parquet.bak"), "x").unwrap();
        fs::create_dir(place.join("1M")).unwrap();
        fs::create_dir(place.join("20240101T000000Z")).unwrap();
    }
    fs::create_dir(node.join("60s")).unwrap();
    fs::create_dir_all(node.join("_5m/20230101T000000Z")).unwrap();
    let revision = store.revision(&key()).await.unwrap();

    for store in [store, open(folder.path()).await] {
        assert_eq!(store.list_series().await.unwrap(), [key()]);
        assert_eq!(store.revision(&key()).await.unwrap(), revision);
        let rows = store.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
        assert_eq!(rows, bars(&key(), start(), 5));
        store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 5)).await.unwrap();
        let found = store.verify(&key()).await.unwrap();
        assert_eq!(found.len(), 2, "the unfinished files beside the series' own: {found:?}");
    }
    // A copy that was left in the store is not foreign.
    let copy = folder.path().join("copy of a series");
    fs::create_dir(&copy).unwrap();
    fs::copy(node.join("_series.json"), copy.join("_series.json")).unwrap();
    let error = open(folder.path()).await.list_series().await.unwrap_err();
    assert!(error.to_string().contains("copy of a series"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_a_folder_is_named() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 5)).await.unwrap();
    let path = store.files(&key(), TimeRange::ALL).await.unwrap().remove(0).path;
    let next = path.ancestors().nth(2).unwrap().join("20240203T224000Z");
    let far = bars(&key(), fixtures::bar(&key(), 49_000), 5);
    fs::write(&next, "in the way").unwrap();
    let error = store.write_rows(&WriteRequest::new(key()), far.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("a file stands where a folder is needed"), "{error}");
    assert!(error.to_string().contains(&next.display().to_string()), "{error}");
    fs::remove_file(&next).unwrap();
    assert_eq!(store.write_rows(&WriteRequest::new(key()), far).await.unwrap().rows_written, 5);
}

/// Root ignores permission bits, but not even root can make a folder in `/proc`.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_created_is_named() {
    let store = open(Path::new("/proc/qmtl-store")).await;
    let error = store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().starts_with("cannot create a folder of the store; "), "{error}");
    assert!(error.to_string().contains("path: /proc/qmtl-store"), "{error}");
    assert_eq!(store.list_series().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_node_ids_stay_inside_the_folder() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("store");
    let store = open(&root).await;
    let ids = ["blake3:ab/../\"x\"", "../../etc/passwd", "🦀", &"é/".repeat(333), "CON", "a\nb\0c", "."];
    let keys: Vec<_> = ids.iter().map(|id| fixtures::key(id, "5m")).collect();
    for key in &keys {
        store.write_rows(&WriteRequest::new(key.clone()), bars(key, start(), 3)).await.unwrap();
    }
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(open(&root).await.list_series().await.unwrap(), sorted);
    for key in &keys {
        let rows = store.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(rows, bars(key, start(), 3));
    }
    assert_eq!(tree(folder.path()).len(), ids.len() * 3, "three files a series");
    assert!(tree(folder.path()).iter().all(|path| path.starts_with("store/") && path.is_ascii()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_exactly_the_current_ones() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let write = WriteRequest::new(key());
    store.write_rows(&write, bars(&key(), start(), 60_000)).await.unwrap();
    store.write_rows(&write, bars(&key(), fixtures::bar(&key(), 60_000), 10)).await.unwrap();
    let all = store.files(&key(), TimeRange::ALL).await.unwrap();
    let summary: Vec<_> = all.iter().map(|file| (file.rows, file.seq)).collect();
    assert_eq!(summary, [(48_880, 1), (11_120, 1), (10, 2)]);
    for file in &all {
        assert_eq!(file.bytes, fs::metadata(&file.path).unwrap().len());
        assert_eq!(file.partition.count(key().interval), 50_000);
    }
    assert_eq!(store.files(&key(), span(&key(), 0, 1)).await.unwrap(), all[..1]);
    assert_eq!(tree(folder.path()).len(), 5, "two commits, their columns and their name");

    // Proofs alone are a file without rows.
    let far = span(&key(), 200_000, 200_010);
    store
        .write_rows(
            &write.with_empty(proof("s", far, start())),
            RecordBatch::new_empty(frame::ts_only_schema()),
        )
        .await
        .unwrap();
    let files = store.files(&key(), far).await.unwrap();
    assert_eq!((files.len(), files[0].rows), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_write_leaves_no_new_file() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let write = WriteRequest::new(key()).with_empty(proof("s", span(&key(), 100, 200), start()));
    for on_conflict in [qmtl_history_api::OnConflict::KeepExisting, qmtl_history_api::OnConflict::Replace] {
        let write = write.clone().with_on_conflict(on_conflict);
        store.write_rows(&write, bars(&key(), start(), 50)).await.unwrap();
        let (files, revision) = (tree(folder.path()), store.revision(&key()).await.unwrap());
        store.write_rows(&write, bars(&key(), start(), 50)).await.unwrap();
        assert_eq!((tree(folder.path()), store.revision(&key()).await.unwrap()), (files, revision));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_over_too_many_partitions_is_refused() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let write = WriteRequest::new(key()).with_empty(proof("s", RangeSet::from(TimeRange::ALL), start()));
    let error = store.write_rows(&write, RecordBatch::new_empty(frame::ts_only_schema())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().starts_with(
            "one write touches more than 10000 partitions; cut it by time (series: ohlcv:folder@1m"
        ),
        "{error}"
    );
    assert_eq!(tree(folder.path()), [""; 0]);
}

/// A batch of one row at `start` with the column `x` of this array.
fn with_x(column: ArrayRef) -> RecordBatch {
    fixtures::batch(&[start()], [("x", column)])
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_types_for_one_new_column_one_wins() {
    for _ in 0..20 {
        let folder = TempDir::new().unwrap();
        let columns: [ArrayRef; 2] =
            [Arc::new(Float64Array::from(vec![1.5])), Arc::new(Int64Array::from(vec![7]))];
        let writers = columns.map(|column| {
            let root = folder.path().to_owned();
            tokio::spawn(async move {
                open(&root).await.write_rows(&WriteRequest::new(key()), with_x(column)).await
            })
        });
        let mut outcomes = Vec::new();
        for writer in writers {
            outcomes.push(writer.await.unwrap());
        }
        let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert_eq!(refused.len(), 1, "{outcomes:?}");
        assert_eq!(refused[0].kind(), ErrorKind::Schema);
        assert!(
            refused[0].to_string().starts_with("the column is stored with another type"),
            "{}",
            refused[0]
        );
        let rows =
            open(folder.path()).await.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
        assert_eq!(rows.num_rows(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_codec_live_side_by_side() {
    let folder = TempDir::new().unwrap();
    for (index, codec) in [Codec::Lz4, Codec::Zstd, Codec::None].into_iter().enumerate() {
        let config = ParquetConfig::new(folder.path()).with_codec(codec).with_row_group_rows(7);
        let store = ParquetBackend::open(config).await.unwrap();
        let first = u32::try_from(index * 20).unwrap();
        let rows = bars(&key(), fixtures::bar(&key(), first), 30);
        store.write_rows(&WriteRequest::new(key()), rows).await.unwrap();
    }
    let rows = open(folder.path()).await.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
    assert_eq!(rows, bars(&key(), start(), 70));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_write_leaves_a_store_that_works() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    for round in 0..20 {
        let rows = bars(&key(), start(), 100_000);
        let task = {
            let store = store.clone();
            tokio::spawn(async move { store.write_rows(&WriteRequest::new(key()), rows).await })
        };
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
        let coverage = store.coverage(&key(), TimeRange::ALL).await.unwrap();
        let scanned = store.scan_present(&key(), TimeRange::ALL).await.unwrap();
        assert!(coverage.present().difference(&scanned).is_empty(), "coverage is never ahead of rows");
    }
    store.write_rows(&WriteRequest::new(key()), bars(&key(), start(), 100_000)).await.unwrap();
    assert_eq!(store.scan_present(&key(), TimeRange::ALL).await.unwrap().count(key().interval), 100_000);
}
