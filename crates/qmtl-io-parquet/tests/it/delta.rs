//! Deltas: what appending, folding and collecting do to the files, and that nobody notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, Maintenance, OnConflict, RangeSet, ReadRequest, SeriesKey,
    TimeRange, Timestamp, WriteRequest, frame,
};
use qmtl_history_testkit::fixtures::{self, bar, bars, proof, source, span, start};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use tempfile::TempDir;

fn key() -> SeriesKey {
    fixtures::key("ohlcv:delta", "1m")
}

async fn open(root: &Path) -> ParquetBackend {
    ParquetBackend::open(ParquetConfig::new(root).with_row_group_rows(1_000)).await.unwrap()
}

fn write() -> WriteRequest {
    WriteRequest::new(key())
}

/// The bars number `first` to `end - 1`.
fn numbered(first: u32, end: u32) -> RecordBatch {
    bars(&key(), bar(&key(), first), usize::try_from(end - first).unwrap())
}

fn nothing() -> RecordBatch {
    RecordBatch::new_empty(frame::ts_only_schema())
}

async fn files(store: &ParquetBackend) -> Vec<(u64, u64)> {
    let files = store.files(&key(), TimeRange::ALL).await.unwrap();
    files.iter().map(|file| (file.seq, file.rows)).collect()
}

async fn rows(store: &ParquetBackend) -> RecordBatch {
    store.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap()
}

/// Everything that a store promises of a series that has exactly the bars `expected`.
async fn assert_holds(store: &ParquetBackend, root: &Path, expected: &RecordBatch) {
    let runs = frame::row_runs(&key(), expected).unwrap();
    for store in [store, &open(root).await] {
        assert_eq!(rows(store).await, *expected);
        assert_eq!(*store.coverage(&key(), TimeRange::ALL).await.unwrap().present(), runs);
        assert!(store.verify(&key()).await.unwrap().is_empty());
        let listed = store.files(&key(), TimeRange::ALL).await.unwrap();
        assert_eq!(listed.iter().map(|file| file.rows).sum::<u64>(), expected.num_rows() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appending_writes_small_files_and_folds_them() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    let mut deltas = 0;
    let mut folds = 0;
    for at in 3_000..4_200 {
        let receipt = store.write_rows(&write(), numbered(at, at + 1)).await.unwrap();
        assert_eq!(receipt.rows_written, 1);
        let files = files(&store).await;
        assert!(files.len() <= 2, "two files are a partition at most: {files:?}");
        if files.len() == 2 {
            deltas += 1;
            assert!(files[1].1 <= 512, "a delta stays small: {files:?}");
        } else {
            folds += 1;
        }
    }
    assert_eq!((deltas, folds), (1_198, 2), "two of 1,200 commits wrote the partition anew");
    assert_holds(&store, folder.path(), &numbered(0, 4_200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_fills_gaps_anywhere_and_keeps_stored_rows() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let ranges: RangeSet = [span(&key(), 100, 2_000), span(&key(), 2_100, 4_000)].into_iter().collect();
    store.write_rows(&write(), fixtures::sparse_bars(&key(), &ranges)).await.unwrap();
    let receipt = store.write_rows(&write(), numbered(1_950, 2_120)).await.unwrap();
    assert_eq!((receipt.rows_written, receipt.rows_kept_out), (100, 70));
    store.write_rows(&write(), numbered(0, 50)).await.unwrap();
    assert_eq!(files(&store).await, [(1, 3_800), (3, 150)]);
    let expected: RangeSet = [span(&key(), 0, 50), span(&key(), 100, 4_000)].into_iter().collect();
    assert_holds(&store, folder.path(), &fixtures::sparse_bars(&key(), &expected)).await;
    // Each part of the range, and one column alone, comes from the right file.
    for (first, end) in [(0, 50), (40, 110), (1_990, 2_010), (2_000, 2_100), (2_099, 2_101), (3_990, 5_000)] {
        let range = span(&key(), first, end);
        let request = ReadRequest::new(key(), range);
        let expected = fixtures::sparse_bars(&key(), &expected.within(range));
        assert_eq!(store.read_all(&request).await.unwrap(), expected, "{first}..{end}");
        let times = store.read_all(&request.with_columns(Vec::<String>::new())).await.unwrap();
        assert_eq!(times.column(0), expected.column(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_row_of_the_full_file_writes_it_anew_and_of_the_delta_does_not() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    store.write_rows(&write(), numbered(3_000, 3_010)).await.unwrap();
    let replace = write().with_on_conflict(OnConflict::Replace);
    let mut changed = numbered(3_005, 3_007);
    changed.remove_column(1);
    let receipt = store.write_rows(&replace, changed).await.unwrap();
    assert_eq!(receipt.rows_replaced, 2);
    assert_eq!(files(&store).await, [(1, 3_000), (3, 10)]);
    assert_eq!(rows(&store).await.column(1).null_count(), 2);
    let mut changed = numbered(10, 12);
    changed.remove_column(1);
    store.write_rows(&replace, changed).await.unwrap();
    assert_eq!(files(&store).await, [(4, 3_010)]);
    assert_eq!(rows(&store).await.column(1).null_count(), 4);
    // The same again is no commit.
    store.write_rows(&replace, numbered(3_000, 3_005)).await.unwrap();
    assert_eq!(files(&store).await, [(4, 3_010)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_beside_a_delta_are_exact() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    let late: Timestamp = "2030-01-01".parse().unwrap();
    let first = proof("a", span(&key(), 3_000, 3_100), late);
    store.write_rows(&write().with_empty(first), numbered(0, 3_000)).await.unwrap();
    // Rows alone: the delta leaves the proofs to the full file, except where its rows are.
    store.write_rows(&write(), numbered(3_010, 3_020)).await.unwrap();
    let empty = |coverage: &qmtl_history_api::Coverage| -> Vec<(String, RangeSet)> {
        let proofs = coverage.known_empty().iter();
        proofs.map(|proof| (proof.source.as_str().to_owned(), proof.ranges.clone())).collect()
    };
    let around: RangeSet = [span(&key(), 3_000, 3_010), span(&key(), 3_020, 3_100)].into_iter().collect();
    let other = open(folder.path()).await;
    for store in [&store, &other] {
        let coverage = store.coverage(&key(), TimeRange::ALL).await.unwrap();
        assert_eq!(empty(&coverage), [("a".to_owned(), around.clone())]);
    }
    // A proof of another source: the delta has them all.
    let second = proof("b", span(&key(), 3_000, 3_030), late);
    store.write_rows(&write().with_empty(second), nothing()).await.unwrap();
    assert_eq!(files(&store).await, [(1, 3_000), (3, 10)]);
    let narrow: RangeSet = [span(&key(), 3_000, 3_010), span(&key(), 3_020, 3_030)].into_iter().collect();
    for store in [&store, &other] {
        let coverage = store.coverage(&key(), TimeRange::ALL).await.unwrap();
        assert_eq!(empty(&coverage), [("a".to_owned(), around.clone()), ("b".to_owned(), narrow.clone())]);
    }
    // Forgetting is a small commit too.
    let some = span(&key(), 3_000, 3_005);
    let forgotten = store.forget_empty(&key(), some, Some(&source("a")), true).await.unwrap();
    assert_eq!((forgotten.rows, forgotten.empty_bars, forgotten.partitions), (0, 5, Some(1)));
    assert_eq!(files(&store).await, [(1, 3_000), (3, 10)], "a dry run changes nothing");
    assert_eq!(store.forget_empty(&key(), some, Some(&source("a")), false).await.unwrap(), forgotten);
    assert_eq!(files(&store).await, [(1, 3_000), (4, 10)]);
    let rest: RangeSet = [span(&key(), 3_005, 3_010), span(&key(), 3_020, 3_100)].into_iter().collect();
    let coverage = other.coverage(&key(), TimeRange::ALL).await.unwrap();
    assert_eq!(empty(&coverage), [("a".to_owned(), rest), ("b".to_owned(), narrow)]);
    store.forget_empty(&key(), TimeRange::ALL, None, false).await.unwrap();
    assert_eq!(empty(&other.coverage(&key(), TimeRange::ALL).await.unwrap()), []);
    let nothing = store.forget_empty(&key(), TimeRange::ALL, None, false).await.unwrap();
    assert_eq!(nothing.partitions, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proofs_say_survives_deltas_folds_and_forgetting() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    // Over two partitions and beside a delta, about young bars; twice confirmed, once by an older rule.
    let answered_at = bar(&key(), 60_000);
    let given = [
        proof("a", span(&key(), 49_990, 50_010), answered_at).with_confirmed(2),
        proof("b", span(&key(), 49_990, 50_010), answered_at).with_rule(1),
    ];
    let request = given.iter().fold(write(), |request, proof| request.with_empty(proof.clone()));
    store.write_rows(&request, numbered(3_000, 3_001)).await.unwrap();
    for (first, end) in [(3_001, 3_010), (49_000, 49_001), (50_100, 50_101), (3_010, 3_900)] {
        store.write_rows(&write(), numbered(first, end)).await.unwrap();
        for store in [&store, &open(folder.path()).await] {
            assert_eq!(store.coverage(&key(), TimeRange::ALL).await.unwrap().known_empty(), given);
        }
    }
    store.forget_empty(&key(), span(&key(), 50_000, 50_003), Some(&source("a")), false).await.unwrap();
    // Bars are forgotten whole, wherever between two of them the range begins and ends.
    let moved = |index| bar(&key(), index).checked_add_micros(-1).unwrap();
    let range = TimeRange::new(moved(50_003), moved(50_004)).unwrap();
    assert_eq!(store.forget_empty(&key(), range, Some(&source("a")), false).await.unwrap().empty_bars, 1);
    let left = RangeSet::from(span(&key(), 49_990, 50_010)).difference(&span(&key(), 50_000, 50_004).into());
    let expected = [given[0].about(left), given[1].clone()];
    for store in [&store, &open(folder.path()).await] {
        assert_eq!(store.coverage(&key(), TimeRange::ALL).await.unwrap().known_empty(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_removes_exactly_what_is_before() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    // Over three partitions, the second with a delta; proofs before and after the cut.
    store.write_rows(&write(), numbered(0, 110_000)).await.unwrap();
    let late: Timestamp = "2030-01-01".parse().unwrap();
    let far = proof("a", span(&key(), 110_000, 110_010), late);
    store.write_rows(&write().with_empty(far), nothing()).await.unwrap();
    let cut = bar(&key(), 60_000);
    let told = store.prune(&key(), cut, true).await.unwrap();
    assert_eq!((told.rows, told.empty_bars, told.partitions), (60_000, 0, Some(2)));
    assert_eq!(rows(&store).await.num_rows(), 110_000, "a dry run changes nothing");
    assert_eq!(store.prune(&key(), cut, false).await.unwrap(), told);
    assert_holds(&store, folder.path(), &numbered(60_000, 110_000)).await;
    assert_eq!(store.coverage(&key(), TimeRange::ALL).await.unwrap().known_empty().len(), 1);
    assert_eq!(store.prune(&key(), cut, false).await.unwrap().partitions, Some(0));
    // What is pruned can be filled again.
    store.write_rows(&write(), numbered(0, 60_000)).await.unwrap();
    assert_holds(&store, folder.path(), &numbered(0, 110_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_between_two_bars_leaves_whole_ones() {
    for (interval, before) in [
        ("1h+30m", "2024-01-02"),
        ("1h", "2024-01-02T00:29:59Z"),
        ("1w", "2024-01-03"),
        ("1w+3d", "2024-02-01T00:00:00.000001Z"),
        ("1d+16h", "2024-01-05"),
    ] {
        let (folder, key) = (TempDir::new().unwrap(), fixtures::key("X", interval));
        let store = open(folder.path()).await;
        store.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 200)).await.unwrap();
        let before: Timestamp = before.parse().unwrap();
        let told = store.prune(&key, before, true).await.unwrap();
        assert_eq!(store.prune(&key, before, false).await.unwrap(), told, "{interval}");
        let first = key.interval.ceil(before).unwrap().max(bar(&key, 0));
        let kept = TimeRange::new(first, bar(&key, 200)).unwrap();
        let another = open(folder.path()).await;
        assert_eq!(
            another.coverage(&key, TimeRange::ALL).await.unwrap().present(),
            &kept.into(),
            "{interval}"
        );
        let rows = another.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(rows.num_rows() as u64, kept.count(key.interval));
        assert!(told.rows > 0 && another.verify(&key).await.unwrap().is_empty(), "{interval}");
    }
}

/// The commits in the folder of the only partition.
fn on_disk(root: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "parquet")
                && !path.parent().unwrap().ends_with("_schema")
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &mut found);
    found.sort();
    found
}

fn numbers(root: &Path) -> Vec<u64> {
    on_disk(root).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Makes every commit look as old as this.
fn age(root: &Path, now: Timestamp, by: Duration) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_micros(now.as_micros().unsigned_abs()) - by;
    for path in on_disk(root) {
        fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }
}

/// Makes the newest commit look as if it had been made just now.
fn renew(root: &Path) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_micros(now().as_micros().unsigned_abs());
    let newest = on_disk(root).pop().unwrap();
    fs::File::options().append(true).open(newest).unwrap().set_modified(now).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> Timestamp {
    "2040-01-01".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_keeps_what_a_reader_of_the_last_hour_may_need() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let store = open(root).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    for at in 3_000..3_005 {
        store.write_rows(&write(), numbered(at, at + 1)).await.unwrap();
    }
    assert_eq!(numbers(root), [1, 2, 3, 4, 5, 6]);
    age(root, now(), HOUR - Duration::from_secs(1));
    assert!(store.collect(&key(), now(), false).await.unwrap().files.is_empty(), "all are too young");
    // Of the old ones, the newest and the full one that it adds to are what a reader saw an hour ago.
    age(root, now(), HOUR);
    store.write_rows(&write(), numbered(3_005, 3_006)).await.unwrap();
    renew(root);
    let told = store.collect(&key(), now(), true).await.unwrap();
    assert_eq!(told.files, on_disk(root)[1..5]);
    assert_eq!(numbers(root), [1, 2, 3, 4, 5, 6, 7], "a dry run removes nothing");
    assert_eq!(store.collect(&key(), now(), false).await.unwrap(), told);
    assert_eq!(numbers(root), [1, 6, 7]);
    // A fold makes the full one old; it stays until the fold has stood for an hour.
    store.write_rows(&write(), numbered(3_006, 4_000)).await.unwrap();
    renew(root);
    assert_eq!(files(&store).await, [(8, 4_000)]);
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(numbers(root), [1, 6, 7, 8]);
    age(root, now(), HOUR);
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(numbers(root), [8]);
    assert_holds(&store, root, &numbered(0, 4_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_removes_what_killed_writers_left_and_nothing_foreign() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&write(), numbered(0, 10)).await.unwrap();
    let partition = on_disk(folder.path())[0].parent().unwrap().to_owned();
    for name in [".tmp-old", "README.txt", "0000000007.parquet.bak"] {
        fs::write(partition.join(name), "x").unwrap();
    }
    let collected = store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(collected.files, [partition.join(".tmp-old")]);
    assert_eq!(collected.bytes, 1);
    assert_eq!(fs::read_dir(&partition).unwrap().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_partition_stay_bounded_however_often_rows_are_appended() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let store = open(root).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    for at in 3_000..3_400 {
        store.write_rows(&write(), numbered(at, at + 1)).await.unwrap();
        // As if each commit had been a minute after the one before.
        if at % 32 == 0 {
            let modified = fs::metadata(on_disk(root).last().unwrap()).unwrap().modified().unwrap();
            let then = modified - Duration::from_secs(61);
            for path in on_disk(root) {
                fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
            }
        }
    }
    let count = on_disk(root).len();
    assert!((100..200).contains(&count), "{count} files");
    assert_holds(&store, root, &numbered(0, 3_400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_slept_through_a_collection_loses_cleanly() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let store = open(root).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    store.write_rows(&write(), numbered(3_000, 3_001)).await.unwrap();
    // What a sleeper would put next, on the state of now.
    let sleeper = TempDir::new().unwrap();
    copy(root, sleeper.path());
    let late = open(sleeper.path()).await;
    late.write_rows(&write(), numbered(3_500, 3_501)).await.unwrap();
    let relative = on_disk(sleeper.path()).pop().unwrap();
    let relative = relative.strip_prefix(sleeper.path()).unwrap();

    for at in 3_001..3_004 {
        store.write_rows(&write(), numbered(at, at + 1)).await.unwrap();
    }
    age(root, now(), HOUR);
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(numbers(root), [1, 5]);
    // Its number is free again and it takes it: nobody is misled.
    fs::copy(sleeper.path().join(relative), root.join(relative)).unwrap();
    assert_eq!(numbers(root), [1, 3, 5]);
    assert_holds(&store, root, &numbered(0, 3_004)).await;
    // It would find that newer commits are there that were not made from its own: the write that
    // is merged again is exact, and its leftover is collected in time.
    store.write_rows(&write(), numbered(3_004, 3_005)).await.unwrap();
    assert_holds(&store, root, &numbered(0, 3_005)).await;
    age(root, now(), HOUR);
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(numbers(root), [1, 6]);
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
async fn a_reader_that_meets_collected_files_plans_again() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let store = open(root).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    store.write_rows(&write(), numbered(3_000, 3_001)).await.unwrap();
    let stream = store.read_range(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
    store.write_rows(&write(), numbered(3_001, 4_000)).await.unwrap();
    age(root, now(), HOUR);
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(numbers(root), [3]);
    assert_eq!(stream.into_batch().await.unwrap(), numbered(0, 4_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_without_its_full_file_is_named() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let store = open(root).await;
    store.write_rows(&write(), numbered(0, 3_000)).await.unwrap();
    store.write_rows(&write(), numbered(3_000, 3_001)).await.unwrap();
    let files = on_disk(root);
    fs::rename(&files[0], root.join("aside")).unwrap();
    let error = open(root).await.coverage(&key(), TimeRange::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let expected = format!(
        "the file that this one adds to is gone; restore the file from a copy, or move it away and run the backfill \
         again (path: {}, missing: {})",
        files[1].display(),
        files[0].display()
    );
    assert_eq!(error.to_string(), expected);
    // Both remedies work.
    fs::rename(root.join("aside"), &files[0]).unwrap();
    assert_holds(&store, root, &numbered(0, 3_001)).await;
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    store.write_rows(&write(), numbered(0, 3_001)).await.unwrap();
    assert_holds(&store, root, &numbered(0, 3_001)).await;
    assert_eq!(start(), bar(&key(), 0));
}
