//! Writers that are killed, that race in other processes, and that run out of room.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(target_os = "linux")]
use qmtl_history_api::ErrorKind;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::UInt32Type;
#[cfg(target_os = "linux")]
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array};
use qmtl_history_api::{
    HistoryBackend, HistoryBackendExt, Maintenance, Problem, ReadRequest, TimeRange, WriteRequest, frame,
};
use qmtl_history_testkit::fixtures;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

use crate::child::{FIRST, Task, key, numbered};

pub(crate) async fn open(root: &Path) -> ParquetBackend {
    ParquetBackend::open(ParquetConfig::new(root)).await.unwrap()
}

/// The bars' numbers and writers, after checking that they and coverage fit the rows' times.
pub(crate) async fn read(store: &ParquetBackend) -> Vec<(u32, u32)> {
    let rows = store.read_all(&ReadRequest::new(key(), TimeRange::ALL)).await.unwrap();
    frame::check(&key(), &rows).unwrap();
    let scanned = store.scan_present(&key(), TimeRange::ALL).await.unwrap();
    assert_eq!(*store.coverage(&key(), TimeRange::ALL).await.unwrap().present(), scanned);
    let column = |name| rows.column_by_name(name).map(|c| c.as_primitive::<UInt32Type>().values().to_vec());
    let (numbers, writers) = (column("number").unwrap_or_default(), column("writer").unwrap_or_default());
    let points: Vec<_> = numbers.iter().map(|number| fixtures::bar(&key(), *number).as_micros()).collect();
    assert_eq!(*frame::timestamps(&rows).unwrap().values(), points, "a row's values belong to its time");
    numbers.into_iter().zip(writers).collect()
}

/// Every file below a folder.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_loses_no_acknowledged_row_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 0x2545_f491_u32;
    let mut acknowledged = FIRST;
    let mut unfinished = HashSet::new();
    for round in 0..25 {
        let mut task = Task::start("endless", folder.path(), 1);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..(state >> 28) {
            acknowledged = acknowledged.max(task.line().unwrap().parse::<u32>().unwrap());
        }
        // A random moment of the next write; the test holds whichever it is.
        std::thread::sleep(Duration::from_micros(u64::from(state >> 8 & 0x0fff)));
        task.process.kill().unwrap();
        while let Some(line) = task.line() {
            acknowledged = acknowledged.max(line.parse().unwrap());
        }
        task.process.wait().unwrap();

        let store = open(folder.path()).await;
        let numbers: Vec<u32> = read(&store).await.into_iter().map(|(number, _)| number).collect();
        let end = FIRST + u32::try_from(numbers.len()).unwrap();
        assert_eq!(numbers, (FIRST..end).collect::<Vec<_>>(), "round {round}: a row is missing or doubled");
        assert!(end >= acknowledged, "round {round}: an acknowledged row is gone");
        for finding in store.verify(&key()).await.unwrap() {
            assert!(matches!(finding.problem, Problem::Unfinished), "round {round}: {finding}");
            unfinished.insert(finding.path);
        }
    }
    let temporary = walk(folder.path())
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".tmp-"));
    assert_eq!(temporary.collect::<HashSet<_>>(), unfinished, "every leftover is found, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_keep_each_others_rows_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = [1, 2].map(|id| Task::start("overlap", folder.path(), id));
    let written: Vec<u32> = tasks
        .iter_mut()
        .map(|task| {
            let written = task.line().expect("the child finishes").parse().unwrap();
            assert!(task.process.wait().unwrap().success());
            written
        })
        .collect();
    let rows = read(&open(folder.path()).await).await;
    assert_eq!(rows.len(), 2_000);
    let by = |id: u32| u32::try_from(rows.iter().filter(|(_, writer)| *writer == id).count()).unwrap();
    assert_eq!(written, [by(1), by(2)], "each row is counted by the process that stored it");
}

/// Rounds of eight processes: a few, or as many as the soak run of docs/reliability.md asks for.
const ROUNDS: &str = "QMTL_SOAK_ROUNDS";

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    eight_processes(folder.path(), 4).await;
}

/// So many rounds of eight processes on the store of this root, unless the environment says how many.
pub(crate) async fn eight_processes(root: &Path, rounds: u32) {
    let rounds = std::env::var(ROUNDS).map_or(rounds, |rounds| rounds.parse().unwrap());
    let store = open(root).await;
    store.write_rows(&WriteRequest::new(key()), numbered(0, 3_000, 0)).await.unwrap();
    let mut total = 3_000;
    for round in 0..rounds {
        let mut tasks: Vec<_> = (1..=8).map(|id| Task::start(&format!("round:{round}"), root, id)).collect();
        for task in &mut tasks {
            total += task.line().expect("the child finishes").parse::<usize>().unwrap();
            assert!(task.process.wait().unwrap().success());
        }
        let rows = read(&open(root).await).await;
        assert_eq!(rows.len(), total, "round {round}: each row is stored once, by the one who says so");
        assert!(rows[..3_000].iter().all(|(_, writer)| *writer == 0), "rows of before are kept");
    }
    assert!(store.verify(&key()).await.unwrap().is_empty());
    println!("{rounds} rounds of 8 processes, {total} rows");
}

/// A small disk that is unmounted when it is dropped.
#[cfg(target_os = "linux")]
struct Tmpfs(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Tmpfs {
    /// `None` where this user may not mount one.
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        let output = mount.output().ok()?;
        output.status.success().then_some(Self(folder))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

/// A store on a disk with room for a few files, and what says that it is full.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_what_was_stored_stays() {
    let Some(disk) = Tmpfs::mount("400k") else {
        println!("a full disk: no tmpfs can be mounted here, RLIMIT_FSIZE alone is tested");
        return;
    };
    println!("a full disk: on a tmpfs of 400 KB");
    let root = disk.0.path();
    let store = open(root).await;
    store.write_rows(&WriteRequest::new(key()), numbered(0, 3_000, 7)).await.unwrap();
    store.write_rows(&WriteRequest::new(key()), numbered(3_000, 3_010, 7)).await.unwrap();
    let (before, files) = (read(&store).await, walk(root));
    // Random numbers do not compress: a full file that has no room.
    let key = fixtures::key("ohlcv:big", "1m");
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from_bits(state >> 2)
    };
    let points: Vec<_> = (0..40_000).map(|at| fixtures::bar(&key, at)).collect();
    let mut column =
        || std::sync::Arc::new(Float64Array::from_iter_values(points.iter().map(|_| random()))) as ArrayRef;
    let rows = fixtures::batch(&points, [("x", column()), ("y", column())]);
    let error = store.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    let expected = "cannot write a file of the store; the disk is full: free space, then run again (path: ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(read(&store).await, before);
    let kept: Vec<_> =
        walk(root).into_iter().filter(|path| path.to_str().unwrap().contains("child")).collect();
    assert_eq!(kept, files, "nothing is left behind");
    // With room again the same write goes through, and the store takes rows as before.
    let mut more = std::process::Command::new("mount");
    assert!(more.args(["-o", "remount,size=8m"]).arg(root).status().unwrap().success());
    assert_eq!(store.write_rows(&WriteRequest::new(key), rows).await.unwrap().rows_written, 40_000);
    store.write_rows(&WriteRequest::new(crate::child::key()), numbered(3_010, 3_020, 7)).await.unwrap();
    assert_eq!(read(&store).await.len(), 3_020);

    // The same disk, read-only: what is stored is read, a write says what to do.
    let mut seal = std::process::Command::new("mount");
    assert!(seal.args(["-o", "remount,ro"]).arg(root).status().unwrap().success());
    let error = store
        .write_rows(&WriteRequest::new(crate::child::key()), numbered(3_020, 3_030, 7))
        .await
        .unwrap_err();
    let expected = "cannot write a file of the store; the file system is read-only: mount it writable or choose \
                    another folder (path: ";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(read(&open(root).await).await.len(), 3_020);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_file_sizes_is_said_and_what_was_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.write_rows(&WriteRequest::new(key()), numbered(39_990, 40_010, 7)).await.unwrap();
    let before = read(&store).await;
    let files = walk(folder.path());

    let mut task = Task::start_limited("write:0:40000", folder.path(), 100);
    let line = task.line().unwrap();
    assert!(task.process.wait().unwrap().success());
    assert!(
        line.starts_with(
            "Storage cannot write a file of the store; a limit on file sizes is reached: raise it, then run again (path: "
        ),
        "{line}"
    );
    assert_eq!(read(&store).await, before);
    assert_eq!(walk(folder.path()), files, "nothing is left behind");

    // With room again the same write goes through.
    let mut task = Task::start("write:0:40000", folder.path(), 1);
    assert_eq!(task.line().as_deref(), Some("stored 39990 kept out 10"));
    task.process.wait().unwrap();
    let after = read(&store).await;
    assert_eq!(after.len(), 40_010);
    assert_eq!(after[39_990], (39_990, 7), "rows of before are kept");
}
