//! Files that are damaged, of a newer version, in the wrong place or gone.

use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use qmtl_history_api::{
    Error, ErrorKind, HistoryBackend, HistoryBackendExt, Maintenance, OnConflict, Problem, ReadRequest,
    Rebuilt, Repaired, Result, SeriesKey, TimeRange, WriteRequest,
};
use qmtl_history_testkit::fixtures::{self, bars, span, start};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use tempfile::TempDir;

/// A store with one file in each of three partitions of a series.
struct Three {
    folder: TempDir,
    store: ParquetBackend,
    key: SeriesKey,
    files: Vec<PathBuf>,
}

impl Three {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = open(folder.path()).await;
        let key = fixtures::key("ohlcv:damage", "1m");
        store.write_rows(&WriteRequest::new(key.clone()), bars(&key, start(), 120_000)).await.unwrap();
        let files = store.files(&key, TimeRange::ALL).await.unwrap();
        let files: Vec<_> = files.into_iter().map(|file| file.path).collect();
        assert_eq!(files.len(), 3);
        Self { folder, store, key, files }
    }

    async fn rows(&self, store: &ParquetBackend, range: TimeRange) -> Result<usize> {
        Ok(store.read_all(&ReadRequest::new(self.key.clone(), range)).await?.num_rows())
    }

    /// The bars of the first and of the last partition.
    fn outer(&self) -> [TimeRange; 2] {
        [span(&self.key, 0, 40_000), span(&self.key, 100_000, 120_000)]
    }

    /// Changes the bytes of the middle partition's file.
    fn spoil(&self, change: impl Fn(&mut Vec<u8>)) {
        let mut bytes = fs::read(&self.files[1]).unwrap();
        change(&mut bytes);
        fs::write(&self.files[1], bytes).unwrap();
    }

    /// Asserts that `outcome` is the error of the middle file, with the remedy.
    fn assert_named<T: std::fmt::Debug>(&self, outcome: Result<T>, what: &str) {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(!error.is_retryable());
        let remedy = "restore the file from a copy, or move it away and run the backfill again";
        let expected = format!("{what}; {remedy} (path: {}", self.files[1].display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    async fn assert_rest_is_readable(&self, store: &ParquetBackend) {
        for range in self.outer() {
            assert_eq!(self.rows(store, range).await.unwrap() as u64, range.count(self.key.interval));
            let coverage = store.coverage(&self.key, range).await.unwrap();
            assert_eq!(coverage.present().iter().collect::<Vec<_>>(), [range]);
            store
                .write_rows(&WriteRequest::new(self.key.clone()), bars(&self.key, range.start(), 9))
                .await
                .unwrap();
        }
        assert!(store.revision(&self.key).await.unwrap().is_some());
        assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&self.key));
    }
}

async fn open(root: &Path) -> ParquetBackend {
    ParquetBackend::open(ParquetConfig::new(root)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_data_fails_the_reads_that_touch_it() {
    let three = Three::new().await;
    three.spoil(|bytes| bytes[20_000] ^= 0x10);
    let other = open(three.folder.path()).await;
    for store in [&three.store, &other] {
        three.assert_named(three.rows(store, TimeRange::ALL).await, "the file's data fails its checksum");
        three.assert_rest_is_readable(store).await;
        // Footers are whole, so where rows should be is known.
        assert_eq!(
            store.coverage(&three.key, TimeRange::ALL).await.unwrap().present().count(three.key.interval),
            120_000
        );
    }
    let findings = three.store.verify(&three.key).await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].path, three.files[1]);
    assert!(
        findings[0].to_string().starts_with("the file's data fails its checksum; restore"),
        "{}",
        findings[0]
    );
    let Problem::Damaged(error) = &findings[0].problem else { panic!("{findings:?}") };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_footer_fails_what_asks_for_its_range() {
    type Change = fn(&mut Vec<u8>);
    let flip: Change = |bytes| {
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
    };
    let cut: Change = |bytes| bytes.truncate(bytes.len() / 2);
    let empty: Change = Vec::clear;
    for (change, what) in [
        (flip, "the file's footer fails its checksum"),
        (cut, "the file is truncated"),
        (empty, "the file is truncated"),
    ] {
        let three = Three::new().await;
        let middle = span(&three.key, 60_000, 60_010);
        // The handle knows the footer from before; it must not trust it.
        three.store.coverage(&three.key, TimeRange::ALL).await.unwrap();
        three.spoil(change);
        let other = open(three.folder.path()).await;
        three.assert_rest_is_readable(&other).await;
        three.assert_named(three.rows(&other, middle).await, what);
        three.assert_named(other.coverage(&three.key, middle).await, what);
        three.assert_named(other.files(&three.key, TimeRange::ALL).await, what);
        let write = WriteRequest::new(three.key.clone()).with_on_conflict(OnConflict::Replace);
        three.assert_named(other.write_rows(&write, bars(&three.key, middle.start(), 10)).await, what);

        // The remedy works: what is moved away is missing, and can be filled again.
        fs::rename(&three.files[1], three.folder.path().join("aside")).unwrap();
        for store in [&three.store, &other] {
            let coverage = store.coverage(&three.key, TimeRange::ALL).await.unwrap();
            assert_eq!(coverage.present().len(), 2, "{what}");
        }
        three
            .store
            .write_rows(&WriteRequest::new(three.key.clone()), bars(&three.key, start(), 120_000))
            .await
            .unwrap();
        assert_eq!(three.rows(&other, TimeRange::ALL).await.unwrap(), 120_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_anothers_place_is_refused() {
    let three = Three::new().await;
    fs::copy(&three.files[0], &three.files[1]).unwrap();
    let error = three.rows(&open(three.folder.path()).await, TimeRange::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().starts_with("the file belongs to another place of a store; "), "{error}");
    three.assert_rest_is_readable(&open(three.folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_over_a_damaged_partition_stores_the_others_and_says_which_failed() {
    let three = Three::new().await;
    three.spoil(Vec::clear);
    let other = open(three.folder.path()).await;
    let write = WriteRequest::new(three.key.clone()).with_on_conflict(OnConflict::Replace);
    let wanted = span(&three.key, 0, 120_000);
    let mut rows = bars(&three.key, wanted.start(), 120_000);
    rows.remove_column(1);
    three.assert_named(other.write_rows(&write, rows).await, "the file is truncated");
    for range in three.outer() {
        let request = ReadRequest::new(three.key.clone(), range);
        let open = other.read_all(&request).await.unwrap();
        assert_eq!(open.column(1).null_count(), open.num_rows(), "the new rows lack this column");
    }
}

fn node_folder(three: &Three) -> PathBuf {
    three.files[0].ancestors().nth(3).unwrap().to_owned()
}

async fn every_call(store: &ParquetBackend, key: &SeriesKey) -> Vec<Error> {
    let request = ReadRequest::new(key.clone(), TimeRange::ALL);
    vec![
        store.read_range(&request).await.unwrap_err(),
        store.coverage(key, TimeRange::ALL).await.unwrap_err(),
        store.revision(key).await.unwrap_err(),
        store.write_rows(&WriteRequest::new(key.clone()), bars(key, start(), 1)).await.unwrap_err(),
        store.list_series().await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_node_or_version_is_refused_by_path() {
    let three = Three::new().await;
    let name = node_folder(&three).join("_series.json");
    for (text, what) in [
        (
            r#"{"format":9,"node_id":"x"}"#,
            "the file has format version 9 and this program knows up to 3: upgrade the program",
        ),
        (r#"{"format":1,"nod"#, "the file that names the series is damaged"),
        (r#"{"format":1,"node_id":""}"#, "the file that names the series is damaged"),
    ] {
        fs::write(&name, text).unwrap();
        for error in every_call(&open(three.folder.path()).await, &three.key).await {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().starts_with(what), "{error}");
            assert!(error.to_string().ends_with(&format!("(path: {})", name.display())), "{error}");
        }
        if text.contains('9') {
            assert_eq!(open(three.folder.path()).await.repair(false).await.unwrap(), []);
            assert_eq!(fs::read_to_string(&name).unwrap(), text, "a later version's name is not damaged");
        }
    }
    // Two ids with one hash would meet in one folder.
    fs::write(&name, r#"{"format":1,"node_id":"another"}"#).unwrap();
    let store = open(three.folder.path()).await;
    let error = store.revision(&three.key).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("says that the folder belongs to another node; rebuild it (with `repair`)"),
        "{error}"
    );
    assert!(error.to_string().ends_with("node_id: ohlcv:damage, owner: another)"), "{error}");
    let error = store.list_series().await.unwrap_err();
    assert!(
        error.to_string().starts_with("the folder's name does not fit the series that it holds; "),
        "{error}"
    );
    let repaired = store.repair(false).await.unwrap();
    assert_eq!(repaired, [Repaired::new(&name, Rebuilt::Name(three.key.node_id.clone()))]);
    assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&three.key));
}

/// A folder that was renamed, by hand or by a tool, is seen, wherever it stood; the series beside it are, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_folder_is_a_finding_beside_the_series_that_can_be_read() {
    let other = fixtures::key("ohlcv:sound", "1m");
    for depth in [3, 2, 1] {
        let three = Three::new().await;
        three.store.write_rows(&WriteRequest::new(other.clone()), bars(&other, start(), 3)).await.unwrap();
        let folder = three.files[0].ancestors().nth(depth).unwrap();
        let renamed = folder.with_extension("old");
        fs::rename(folder, &renamed).unwrap();
        let store = open(three.folder.path()).await;
        let listed: Vec<_> = store.series().await.unwrap().collect().await;
        let sound: Vec<_> = listed.iter().filter_map(|key| key.as_ref().ok()).collect();
        let mut errors: Vec<_> = listed.iter().filter_map(|key| key.as_ref().err()).cloned().collect();
        assert!(sound.contains(&&other), "{listed:?}");
        if depth == 1 {
            // Two partitions of three are called as they should be.
            assert_eq!((sound.len(), errors.len()), (2, 0));
            // Nothing is complete whose third part nobody sees.
            let said = store.coverage(&three.key, TimeRange::ALL).await.unwrap_err();
            assert_eq!((said.kind(), errors.len()), (ErrorKind::Corrupt, 0), "{said}");
            assert!(said.to_string().contains(&format!("(path: {}", renamed.display())), "{said}");
            let rows = store.read_all(&ReadRequest::new(three.key.clone(), TimeRange::ALL)).await;
            assert_eq!(rows.unwrap_err().message(), said.message());
            assert!(
                store.revision(&three.key).await.is_err()
                    && store.coverage(&other, TimeRange::ALL).await.is_ok()
            );
            let findings = store.verify(&three.key).await.unwrap().into_iter();
            errors.extend(findings.filter_map(|finding| match finding.problem {
                Problem::Damaged(error) => Some(error),
                _ => None,
            }));
        }
        let [error] = &errors[..] else { panic!("{depth}: {listed:?}") };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("(path: {}", renamed.display())), "{error}");
        // The remedy works.
        assert_eq!(store.repair(false).await.unwrap(), []);
        fs::rename(&renamed, folder).unwrap();
        let store = open(three.folder.path()).await;
        assert_eq!(store.list_series().await.unwrap().len(), 2);
        assert!(store.verify(&three.key).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_a_folder_is_a_finding() {
    let other = fixtures::key("ohlcv:sound", "1m");
    for depth in [3, 2, 1] {
        let three = Three::new().await;
        three.store.write_rows(&WriteRequest::new(other.clone()), bars(&other, start(), 3)).await.unwrap();
        let folder = three.files[0].ancestors().nth(depth).unwrap();
        fs::remove_dir_all(folder).unwrap();
        fs::write(folder, "a file").unwrap();
        let store = open(three.folder.path()).await;
        let listed: Vec<_> = store.series().await.unwrap().collect().await;
        assert!(listed.iter().any(|key| key.as_ref().is_ok_and(|key| *key == other)), "{depth}: {listed:?}");
        let mut errors: Vec<_> = listed.iter().filter_map(|key| key.as_ref().err()).cloned().collect();
        if depth == 1 {
            // Two partitions of three can be read; who looks at the third one is told.
            let found = store.verify(&three.key).await.unwrap().into_iter();
            errors.extend(found.filter_map(|finding| match finding.problem {
                Problem::Damaged(error) => Some(error),
                _ => None,
            }));
        }
        let [error] = &errors[..] else { panic!("{depth}: {listed:?}") };
        assert!(
            error.to_string().contains("is no folder: a file, or a link that leads nowhere"),
            "{depth}: {error}"
        );
        assert!(error.to_string().contains(&format!("(path: {}", folder.display())), "{depth}: {error}");
        assert!(store.coverage(&three.key, TimeRange::ALL).await.is_err(), "{depth}");
        // The remedy works.
        fs::rename(folder, three.folder.path().join("put-aside.txt")).unwrap();
        let store = open(three.folder.path()).await;
        assert!(store.list_series().await.unwrap().contains(&other), "{depth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_or_a_series_that_was_put_aside_inside_the_store_is_told() {
    let three = Three::new().await;
    let node = node_folder(&three);
    let renamed = node.with_file_name("copy");
    fs::rename(&node, &renamed).unwrap();
    fs::remove_file(renamed.join("_series.json")).unwrap();
    let error = open(three.folder.path()).await.list_series().await.unwrap_err().to_string();
    let called = format!("expected: {})", node.file_name().unwrap().to_str().unwrap());
    assert!(error.starts_with("the folder's name does not fit") && error.ends_with(&called), "{error}");
    fs::rename(&renamed, &node).unwrap();
    open(three.folder.path()).await.repair(false).await.unwrap();
    let aside = three.folder.path().join("trash");
    fs::create_dir(&aside).unwrap();
    fs::rename(&node, aside.join(node.file_name().unwrap())).unwrap();
    let error = open(three.folder.path()).await.list_series().await.unwrap_err().to_string();
    assert!(error.starts_with("the folder of a series was moved into another folder"), "{error}");
}

/// The newest list is damaged and the one before it is sound: a dry run says what the repair does, and rows stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_newest_list_of_columns_gives_way_to_the_one_before() {
    let three = Three::new().await;
    let list = three.files[0].ancestors().nth(2).unwrap().join("_schema");
    fs::write(list.join("0000000002.parquet"), "PAR1").unwrap();
    assert!(three.rows(&open(three.folder.path()).await, TimeRange::ALL).await.is_err());
    let told = open(three.folder.path()).await.repair(true).await.unwrap();
    let store = open(three.folder.path()).await;
    assert_eq!((told.len(), store.repair(false).await.unwrap()), (1, told));
    assert_eq!(store.repair(false).await.unwrap(), []);
    assert_eq!(three.rows(&store, TimeRange::ALL).await.unwrap(), 120_000);
}

/// What belongs to another series is sound where it belongs: a repair removes nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_another_series_is_not_removed_by_a_repair() {
    let three = Three::new().await;
    let other = fixtures::key("ohlcv:other", "5m");
    three.store.write_rows(&WriteRequest::new(other.clone()), bars(&other, start(), 3)).await.unwrap();
    let other = three.store.files(&other, TimeRange::ALL).await.unwrap().remove(0).path;
    let (mine, theirs) = (three.files[0].ancestors().nth(2).unwrap(), other.ancestors().nth(2).unwrap());
    let moved = node_folder(&three).join("5m");
    fs::rename(theirs, &moved).unwrap();
    let intact = fs::read(moved.join("_schema/0000000001.parquet")).unwrap();
    fs::copy(moved.join("_schema/0000000001.parquet"), mine.join("_schema/0000000002.parquet")).unwrap();
    let store = open(three.folder.path()).await;
    assert_eq!(store.repair(true).await.unwrap(), []);
    assert_eq!(store.repair(false).await.unwrap(), []);
    assert_eq!(fs::read(moved.join("_schema/0000000001.parquet")).unwrap(), intact);
    assert!(mine.join("_schema/0000000002.parquet").exists());
    assert!(!store.verify(&three.key).await.unwrap().is_empty());
}

/// Rows that cannot be read make nothing complete.
#[tokio::test(flavor = "multi_thread")]
async fn coverage_is_not_told_where_the_columns_are_lost() {
    let three = Three::new().await;
    let list = three.files[0].ancestors().nth(2).unwrap().join("_schema");
    fs::write(list.join("0000000001.parquet"), "").unwrap();
    let error = open(three.folder.path()).await.coverage(&three.key, TimeRange::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    fs::remove_dir_all(&list).unwrap();
    let error = open(three.folder.path()).await.coverage(&three.key, TimeRange::ALL).await.unwrap_err();
    assert!(error.to_string().starts_with("the series' list of columns lacks one"), "{error}");
    let store = open(three.folder.path()).await;
    store.repair(false).await.unwrap();
    assert_eq!(
        store.coverage(&three.key, TimeRange::ALL).await.unwrap().present().count(three.key.interval),
        120_000
    );
}

/// A folder whose name no program gives is seen like any that was renamed, and told by what its name is.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_text_is_a_finding_beside_the_series_that_can_be_read() {
    use std::os::unix::ffi::OsStrExt;
    let other = fixtures::key("ohlcv:sound", "1m");
    for depth in [3, 2, 1, 0] {
        let three = Three::new().await;
        three.store.write_rows(&WriteRequest::new(other.clone()), bars(&other, start(), 3)).await.unwrap();
        let path = three.files[0].ancestors().nth(depth).unwrap();
        let odd: &[u8] = if depth == 0 { b"0000000001\xff.parquet" } else { b"\xffodd" };
        let renamed = path.with_file_name(std::ffi::OsStr::from_bytes(odd));
        fs::rename(path, &renamed).unwrap();
        let store = open(three.folder.path()).await;
        let errors = findings(&store, &three.key).await;
        let [error] = &errors[..] else { panic!("{depth}: {errors:?}") };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(r"\xff"), "{depth}: {error}");
        let complete = store.coverage(&three.key, TimeRange::ALL).await;
        assert!(complete.is_err() || depth > 1, "{depth}: {complete:?}");
        assert!(store.coverage(&other, TimeRange::ALL).await.is_ok(), "{depth}");
        fs::rename(&renamed, path).unwrap();
        assert_eq!(three.rows(&open(three.folder.path()).await, TimeRange::ALL).await.unwrap(), 120_000);
    }
    // What is foreign is passed over, whatever it is called.
    let three = Three::new().await;
    let place = three.folder.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("notes.parquet"), "PAR1").unwrap();
    let store = open(three.folder.path()).await;
    assert!(findings(&store, &three.key).await.is_empty());
}

/// What a list of the store and a look at one of its series find damaged.
async fn findings(store: &ParquetBackend, key: &SeriesKey) -> Vec<Error> {
    let listed: Vec<_> = store.series().await.unwrap().collect().await;
    let looked =
        store.verify(key).await.unwrap_or_default().into_iter().filter_map(|finding| match finding.problem {
            Problem::Damaged(error) => Some(error),
            _ => None,
        });
    let mut errors: Vec<_> = listed.into_iter().filter_map(Result::err).chain(looked).collect();
    errors.dedup_by_key(|error| error.to_string());
    errors
}

/// Commits count in the folder of their partition, and are missed nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_lies_too_high_or_too_deep_is_a_finding() {
    let three = Three::new().await;
    let (file, partition) = (&three.files[0], three.files[0].parent().unwrap());
    let above = |depth| file.ancestors().nth(depth).unwrap().join("0000000001.parquet");
    let to = [
        (above(4), false),
        (above(3), false),
        (above(2), true),
        (partition.join("x/0000000001.parquet"), true),
        (above(2).with_file_name("x").join(partition.file_name().unwrap()).join("0000000001.parquet"), true),
        (above(3).with_file_name("x/1m/20231231T052000Z/0000000001.parquet"), false),
        (above(4).with_file_name("x/y/1m/20231231T052000Z/0000000001.parquet"), false),
    ];
    for (to, is_of_series) in to {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(file, &to).unwrap();
        let store = open(three.folder.path()).await;
        let errors = findings(&store, &three.key).await;
        let [error] = &errors[..] else { panic!("{to:?}: {errors:?}") };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let complete = store.coverage(&three.key, TimeRange::ALL).await;
        assert_eq!(complete.is_err(), is_of_series, "{to:?}: {complete:?}");
        assert_eq!(store.collect(&three.key, start(), true).await.is_err(), is_of_series, "{to:?}");
        fs::rename(&to, file).unwrap();
        let store = open(three.folder.path()).await;
        assert!(findings(&store, &three.key).await.is_empty(), "{to:?}");
        assert_eq!(three.rows(&store, TimeRange::ALL).await.unwrap(), 120_000);
    }
}

/// What has no end, or keeps whoever opens it, is no file of a store.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_device_and_a_pipe_in_the_place_of_files_are_damage() {
    let three = Three::new().await;
    let node = three.files[0].ancestors().nth(3).unwrap();
    for path in [node.join("_series.json"), three.files[0].clone()] {
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        for odd in ["device", "pipe"] {
            match odd {
                "device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                _ => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
            }
            let error =
                open(three.folder.path()).await.coverage(&three.key, TimeRange::ALL).await.unwrap_err();
            assert!(error.to_string().contains("what stands there is no file"), "{odd}: {error}");
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&aside, &path).unwrap();
    }
    let name = node.join("_series.json");
    fs::OpenOptions::new().write(true).open(&name).unwrap().set_len(50 << 30).unwrap();
    let error = open(three.folder.path()).await.coverage(&three.key, TimeRange::ALL).await.unwrap_err();
    assert!(error.to_string().contains("is longer than any name"), "{error}");
}

/// A partition may lie on another disk, which may not be there.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_leads_nowhere_is_a_finding_and_not_missed_in_silence() {
    let three = Three::new().await;
    let partition = three.files[0].parent().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let moved = elsewhere.path().join("partition");
    fs::rename(partition, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, partition).unwrap();
    let all = |store: ParquetBackend| {
        let key = three.key.clone();
        async move { store.coverage(&key, TimeRange::ALL).await.map(|known| known.present().count(key.interval)) }
    };
    assert_eq!(all(open(three.folder.path()).await).await.unwrap(), 120_000);
    fs::rename(&moved, moved.with_extension("gone")).unwrap();
    let error = all(open(three.folder.path()).await).await.unwrap_err();
    assert!(error.to_string().contains(&format!("(path: {}", partition.display())), "{error}");
    let findings = open(three.folder.path()).await.verify(&three.key).await.unwrap();
    assert!(findings.len() == 1 && findings[0].to_string().contains("leads nowhere"), "{findings:?}");
}

/// A commit that was renamed may have been the newest one: what it holds must not be missing in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_commit_is_damage_whether_another_one_is_there_or_not() {
    let key = fixtures::key("ohlcv:one", "1m");
    let names = ["1.parquet", "0000000002 (1).parquet", "0000000001.PARQUET", "18446744073709551615.parquet"];
    for (name, is_alone) in names.into_iter().flat_map(|name| [(name, true), (name, false)]) {
        let folder = TempDir::new().unwrap();
        let store = open(folder.path()).await;
        store.write_rows(&WriteRequest::new(key.clone()), bars(&key, start(), 7)).await.unwrap();
        let file = store.files(&key, TimeRange::ALL).await.unwrap().remove(0).path;
        fs::copy(&file, file.with_file_name(name)).unwrap();
        if is_alone {
            fs::remove_file(&file).unwrap();
        }
        let store = open(folder.path()).await;
        let findings: Vec<_> = store.verify(&key).await.unwrap().iter().map(ToString::to_string).collect();
        let coverage = store.coverage(&key, TimeRange::ALL).await.unwrap_err().to_string();
        let rows = store.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap_err();
        let written = store.write_rows(&WriteRequest::new(key.clone()), bars(&key, start(), 9)).await;
        let errors = [coverage, rows.to_string(), written.unwrap_err().to_string()];
        for told in findings.iter().chain(&errors) {
            assert!(told.starts_with("the file's name is not that of a commit"), "{told}");
            assert!(told.contains(name), "{told}");
        }
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&key));
    }
}

/// Nobody looks for rows among the lists of columns.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_moved_among_the_lists_of_columns_is_a_finding() {
    let three = Three::new().await;
    let partition = three.files[0].parent().unwrap();
    let moved = partition.with_file_name("_schema").join(partition.file_name().unwrap());
    fs::rename(partition, &moved).unwrap();
    let store = open(three.folder.path()).await;
    let error = store.coverage(&three.key, TimeRange::ALL).await.unwrap_err().to_string();
    assert!(error.contains(&format!("(path: {}", moved.display())), "{error}");
    let findings = store.verify(&three.key).await.unwrap();
    assert!(
        findings.len() == 1 && findings[0].to_string().contains("the folder holds commits"),
        "{findings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_whose_commits_are_gone_is_listed_with_nothing_stored() {
    type Removal = fn(&Path);
    let removals: [Removal; 3] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::remove_dir_all(file.parent().unwrap()).unwrap(),
        |file| {
            fs::remove_file(file).unwrap();
            fs::remove_dir_all(file.ancestors().nth(2).unwrap().join("_schema")).unwrap();
        },
    ];
    for removal in removals {
        let three = Three::new().await;
        let fives = fixtures::key("ohlcv:damage", "5m");
        three.store.write_rows(&WriteRequest::new(fives.clone()), bars(&fives, start(), 3)).await.unwrap();
        removal(&three.store.files(&fives, TimeRange::ALL).await.unwrap().remove(0).path);
        let store = open(three.folder.path()).await;
        assert_eq!(store.list_series().await.unwrap(), [three.key.clone(), fives.clone()]);
        assert_eq!(store.coverage(&fives, TimeRange::ALL).await.unwrap().present().len(), 0);
        assert!(store.verify(&fives).await.unwrap().is_empty());
        assert_eq!(store.repair(false).await.unwrap(), []);
        // It is filled like any other.
        store.write_rows(&WriteRequest::new(fives.clone()), bars(&fives, start(), 3)).await.unwrap();
        let rows = store.read_all(&ReadRequest::new(fives.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(rows, bars(&fives, start(), 3));
    }
}

/// A dry run promises what the run does, which leaves alone what is no file of the store.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_repair_is_not_called_repaired_and_stops_no_other() {
    for lost in ["_series.json", "1m/_schema", "1m/_schema/0000000001.parquet"] {
        for odd in ["folder", "link", "file"] {
            if odd == "folder" && lost == "1m/_schema" || odd == "file" && lost != "1m/_schema" {
                continue;
            }
            let three = Three::new().await;
            let sound = fixtures::key("ohlcv:sound", "1m");
            three
                .store
                .write_rows(&WriteRequest::new(sound.clone()), bars(&sound, start(), 3))
                .await
                .unwrap();
            let path = three.store.files(&sound, TimeRange::ALL).await.unwrap().remove(0).path;
            fs::remove_file(path.ancestors().nth(3).unwrap().join("_series.json")).unwrap();
            let lost = node_folder(&three).join(lost);
            fs::remove_file(&lost).or_else(|_| fs::remove_dir_all(&lost)).unwrap();
            match odd {
                "folder" => fs::create_dir_all(lost.join("x")).unwrap(),
                "file" => fs::write(&lost, "a file").unwrap(),
                _ => std::os::unix::fs::symlink("/nonexistent", &lost).unwrap(),
            }
            let promised = open(three.folder.path()).await.repair(true).await.unwrap();
            let store = open(three.folder.path()).await;
            assert_eq!(store.repair(false).await.unwrap(), promised, "{lost:?}, {odd}");
            let rebuilt: Vec<_> = promised.iter().map(|repaired| &repaired.what).collect();
            assert_eq!(rebuilt, [&Rebuilt::Name(sound.node_id.clone())], "{lost:?}, {odd}");
            let told = findings(&store, &three.key).await;
            assert!(told.iter().any(|error| error.to_string().contains(lost.to_str().unwrap())), "{told:?}");
            // What is told to do helps.
            fs::rename(&lost, three.folder.path().join("odd")).unwrap();
            assert_eq!(store.repair(false).await.unwrap().len(), 1, "{lost:?}, {odd}");
            let store = open(three.folder.path()).await;
            assert_eq!(three.rows(&store, TimeRange::ALL).await.unwrap(), 120_000);
            assert_eq!(store.list_series().await.unwrap().len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_read_hides_no_other() {
    let three = Three::new().await;
    let odd = three.folder.path().join("odd-0123456789abcdef");
    fs::create_dir_all(odd.join("_series.json")).unwrap();
    let listed: Vec<_> = open(three.folder.path()).await.series().await.unwrap().collect().await;
    assert!(listed.iter().any(|key| key.as_ref().ok() == Some(&three.key)), "{listed:?}");
    let error = listed.iter().find_map(|key| key.as_ref().err()).unwrap().to_string();
    assert!(error.contains("odd-0123456789abcdef"), "{error}");
    // One that is called like ours and has something else inside is no series either.
    fs::remove_dir(odd.join("_series.json")).unwrap();
    assert_eq!(
        open(three.folder.path()).await.list_series().await.unwrap(),
        std::slice::from_ref(&three.key)
    );
    fs::write(odd.join("rows.csv"), "ts,close").unwrap();
    let error = open(three.folder.path()).await.list_series().await.unwrap_err();
    assert!(
        error.to_string().starts_with("the file that names the series of a folder is missing"),
        "{error}"
    );
}

/// Whatever names a series and lists its columns is rebuilt from its rows, once, and changes none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_name_and_a_lost_or_damaged_list_are_rebuilt_from_the_rows() {
    type Harm = fn(&Path, &Path);
    let harms: [Harm; 5] = [
        |node, _| fs::remove_file(node.join("_series.json")).unwrap(),
        |node, _| fs::write(node.join("_series.json"), "{").unwrap(),
        |_, list| fs::remove_dir_all(list).unwrap(),
        |_, list| fs::write(list.join("0000000001.parquet"), "PAR1").unwrap(),
        |node, list| {
            fs::remove_file(node.join("_series.json")).unwrap();
            fs::remove_file(list.join("0000000001.parquet")).unwrap();
        },
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let three = Three::new().await;
        let (node, list) = (node_folder(&three), three.files[0].ancestors().nth(2).unwrap().join("_schema"));
        let request = ReadRequest::new(three.key.clone(), TimeRange::ALL);
        let before = three.store.read_all(&request).await.unwrap();
        harm(&node, &list);
        let told = open(three.folder.path()).await.repair(true).await.unwrap();
        assert_eq!(told.len(), if number == 4 { 2 } else { 1 }, "{told:?}");
        let store = open(three.folder.path()).await;
        assert_eq!(store.repair(false).await.unwrap(), told, "as the dry run said");
        assert_eq!(store.repair(false).await.unwrap(), []);
        for store in [store, open(three.folder.path()).await] {
            assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&three.key));
            assert!(store.verify(&three.key).await.unwrap().is_empty());
            assert_eq!(store.read_all(&request).await.unwrap(), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_name_is_written_again() {
    let three = Three::new().await;
    fs::remove_file(node_folder(&three).join("_series.json")).unwrap();
    let store = open(three.folder.path()).await;
    assert_eq!(three.rows(&store, TimeRange::ALL).await.unwrap(), 120_000, "footers name the node too");
    store.write_rows(&WriteRequest::new(three.key.clone()), bars(&three.key, start(), 1)).await.unwrap();
    assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&three.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_list_of_columns_is_found() {
    let three = Three::new().await;
    let list = three.files[0].ancestors().nth(2).unwrap().join("_schema/0000000001.parquet");
    let intact = fs::read(&list).unwrap();
    fs::write(&list, &intact[..intact.len() - 9]).unwrap();
    let store = open(three.folder.path()).await;
    let findings = store.verify(&three.key).await.unwrap();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].to_string().contains(&list.display().to_string()), "{}", findings[0]);
    let error = three.rows(&store, TimeRange::ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    fs::remove_file(&list).unwrap();
    let store = open(three.folder.path()).await;
    let findings = store.verify(&three.key).await.unwrap();
    let paths: Vec<_> = findings.iter().map(|finding| finding.path.clone()).collect();
    assert_eq!(paths, three.files);
    let what = "the series' list of columns lacks one that this file has; rebuild the list (with `repair`) or restore the folder _schema from a copy, the file is sound ";
    assert!(findings.iter().all(|finding| finding.to_string().starts_with(what)), "{findings:?}");
    let error = three.rows(&store, TimeRange::ALL).await.unwrap_err();
    assert!(error.to_string().starts_with(what), "no column is left out in silence: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_files_vanish_goes_on_with_their_successors() {
    let three = Three::new().await;
    let request = ReadRequest::new(three.key.clone(), TimeRange::ALL);
    let stream = three.store.read_range(&request).await.unwrap();
    let newer = WriteRequest::new(three.key.clone()).with_on_conflict(OnConflict::Replace);
    let mut rows = bars(&three.key, start(), 120_000);
    rows.remove_column(1);
    three.store.write_rows(&newer, rows).await.unwrap();
    for file in &three.files {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(stream.into_batch().await.unwrap().num_rows(), 120_000);

    let stream = three.store.read_range(&request).await.unwrap();
    fs::remove_dir_all(three.folder.path()).unwrap();
    let error = stream.into_batch().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().starts_with("the files of a partition keep vanishing while they are read"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_whose_series_nobody_can_name_are_not_passed_over() {
    let three = Three::new().await;
    let node = three.files[0].ancestors().nth(3).unwrap();
    fs::remove_file(node.join("_series.json")).unwrap();
    let error = three.store.list_series().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let message = format!(
        "the file that names the series of a folder is missing; rebuild it (with `repair`) or restore it from a copy \
         (path: {})",
        node.join("_series.json").display()
    );
    assert_eq!(error.to_string(), message);
    let store = open(three.folder.path()).await;
    store.write_rows(&WriteRequest::new(three.key.clone()), bars(&three.key, start(), 7)).await.unwrap();
    assert_eq!(store.list_series().await.unwrap(), std::slice::from_ref(&three.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_deleted_under_an_open_handle_starts_anew() {
    let three = Three::new().await;
    let first = three.store.revision(&three.key).await.unwrap();
    let before = three.store.coverage(&three.key, TimeRange::ALL).await.unwrap();
    fs::remove_dir_all(three.folder.path()).unwrap();
    assert_eq!(three.store.revision(&three.key).await.unwrap(), None);
    assert!(three.store.coverage(&three.key, TimeRange::ALL).await.unwrap().present().is_empty());
    let write = WriteRequest::new(three.key.clone());
    three.store.write_rows(&write, bars(&three.key, start(), 7)).await.unwrap();
    let after = three.store.coverage(&three.key, TimeRange::ALL).await.unwrap();
    assert_ne!(after, before, "the new first commits are not taken for the old ones");
    assert_ne!(three.store.revision(&three.key).await.unwrap(), first, "nor is the revision");
    assert_eq!(three.rows(&three.store, TimeRange::ALL).await.unwrap(), 7);
    assert_eq!(three.store.list_series().await.unwrap(), std::slice::from_ref(&three.key));
}
