//! Work done in a process of its own: this test binary again, with its task in the environment.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use qmtl_history_api::{
    HistoryBackend, HistoryBackendExt, Maintenance, ReadRequest, SeriesKey, Timestamp, WriteRequest,
};
use qmtl_history_testkit::fixtures;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};

const TASK: &str = "QMTL_TEST_CHILD_TASK";
const ROOT: &str = "QMTL_TEST_CHILD_ROOT";
const ID: &str = "QMTL_TEST_CHILD_ID";
/// What a child's lines start with, among those of the test harness.
const MARK: &str = "child: ";

/// A running child and the lines that it prints.
pub(crate) struct Task {
    pub(crate) process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    #[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only failpoints wait for a line"))]
    stdin: ChildStdin,
}

impl Task {
    /// Starts `task` on the store under `root` in a process of its own.
    pub(crate) fn start(task: &str, root: &Path, id: u32) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), task, root, id)
    }

    /// The same with a step at which it stops, fails or pauses.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_at(task: &str, root: &Path, failpoint: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(qmtl_io_parquet::failpoints::VARIABLE, failpoint);
        Self::run(command, task, root, 2)
    }

    /// Waits until the child stands at its step; false when it ended before.
    #[cfg(feature = "failpoints")]
    pub(crate) fn has_stopped(&mut self) -> bool {
        let stopped = qmtl_io_parquet::failpoints::STOPPED;
        self.lines.by_ref().map_while(Result::ok).any(|line| line.contains(stopped))
    }

    /// Lets a child that pauses go on.
    #[cfg(feature = "failpoints")]
    pub(crate) fn wake(&mut self) {
        use std::io::Write;
        self.stdin.write_all(b"\n").unwrap();
    }

    /// The same with files limited to `blocks` of 512 bytes: what a full disk is to a writer.
    #[cfg(unix)]
    pub(crate) fn start_limited(task: &str, root: &Path, blocks: u32) -> Self {
        let mut shell = Command::new("sh");
        // Ignoring the signal outlives exec, so the write fails instead of killing the writer.
        shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
        shell.arg(std::env::current_exe().unwrap());
        Self::run(shell, task, root, 1)
    }

    /// The same with other variables of the environment.
    #[cfg(feature = "s3")]
    pub(crate) fn start_with(task: &str, root: &str, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.envs(env.iter().copied());
        Self::run(command, task, Path::new(root), 1)
    }

    fn run(mut command: Command, task: &str, root: &Path, id: u32) -> Self {
        let mut process = command
            .args(["child::child_entry", "--exact", "--nocapture", "--test-threads=1"])
            .env(TASK, task)
            .env(ROOT, root)
            .env(ID, id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, stdin }
    }

    /// The next line of the child itself.
    pub(crate) fn line(&mut self) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            // The harness prints the test's name without ending the line.
            line.split_once(MARK).map(|(_, text)| text.to_owned())
        })
    }
}

pub(crate) fn key() -> SeriesKey {
    fixtures::key("ohlcv:child", "1m")
}

/// The bars number `first` to `end - 1`, each worth its number in one column and `id` in the other.
pub(crate) fn numbered(first: u32, end: u32, id: u32) -> RecordBatch {
    let key = key();
    let points: Vec<_> = (first..end).map(|bar| fixtures::bar(&key, bar)).collect();
    let number: ArrayRef = Arc::new(UInt32Array::from_iter_values(first..end));
    let writer: ArrayRef = Arc::new(UInt32Array::from_iter_values((first..end).map(|_| id)));
    fixtures::batch(&points, [("number", number), ("writer", writer)])
}

/// Does nothing as a test; as a child it does its task.
#[test]
fn child_entry() {
    let Ok(task) = std::env::var(TASK) else { return };
    let root = std::env::var(ROOT).unwrap();
    let id = std::env::var(ID).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = match ParquetBackend::open(ParquetConfig::new(root)).await {
            Ok(store) => store,
            Err(e) => return println!("{MARK}{:?} {}", e.kind(), e.chain()),
        };
        let words: Vec<&str> = task.split(':').collect();
        match words.as_slice() {
            ["endless"] => endless(&store, id).await,
            ["overlap"] => overlap(&store, id).await,
            ["round", round] => round_of(&store, id, round.parse().unwrap()).await,
            ["write", first, end] => write(&store, (first.parse().unwrap(), end.parse().unwrap()), id).await,
            ["steps", first, end] => steps(&store, (first.parse().unwrap(), end.parse().unwrap()), id).await,
            ["collect", now] => collect(&store, now.parse().unwrap()).await,
            other => panic!("no such task: {other:?}"),
        }
    });
}

/// The first bar of the endless writer: some batches before the end of a partition.
pub(crate) const FIRST: u32 = 48_500;

/// Writes batch after batch, each over the end of the one before, and says so after each.
async fn endless(store: &ParquetBackend, id: u32) {
    for batch in 0.. {
        let (first, end) = (FIRST + batch * 37, FIRST + batch * 37 + 50);
        store.write_rows(&WriteRequest::new(key()), numbered(first, end, id)).await.unwrap();
        println!("{MARK}{end}");
    }
}

/// Writes 2,000 bars in small batches, and says how many of them it was the one to store.
async fn overlap(store: &ParquetBackend, id: u32) {
    let mut written = 0;
    for first in (0..2_000).step_by(100) {
        // Two writers go through the same bars in opposite directions.
        let first = if id == 1 { first } else { 1_900 - first };
        let batch = numbered(first, first + 100, id);
        let receipt = store.write_rows(&WriteRequest::new(key()), batch).await.unwrap();
        written += receipt.rows_written;
    }
    println!("{MARK}{written}");
}

/// Writes overlapping ranges around a full file's end and into its gaps, reads each back after its
/// acknowledgement, and says how many rows it was the one to store.
async fn round_of(store: &ParquetBackend, id: u32, round: u32) {
    let mut written = 0;
    for step in 0..6 {
        // Neighbours overlap by half; every other write is far from the others'.
        let first = 3_000 + round * 60 + (id + step) % 8 * 5 + step % 2 * 10_000;
        let receipt =
            store.write_rows(&WriteRequest::new(key()), numbered(first, first + 10, id)).await.unwrap();
        written += receipt.rows_written;
        let range = fixtures::span(&key(), first, first + 10);
        let rows = store.read_all(&ReadRequest::new(key(), range)).await.unwrap();
        assert_eq!(rows.num_rows(), 10, "an acknowledged row cannot be read");
        let coverage = store.coverage(&key(), range).await.unwrap();
        assert!(coverage.present().contains_range(range), "an acknowledged row is not covered");
    }
    println!("{MARK}{written}");
}

/// Writes bars in batches of forty, and says how many it was the one to store, or what went wrong.
async fn steps(store: &ParquetBackend, (first, end): (u32, u32), id: u32) {
    let mut written = 0;
    for first in (first..end).step_by(40) {
        match store.write_rows(&WriteRequest::new(key()), numbered(first, first + 40, id)).await {
            Ok(receipt) => written += receipt.rows_written,
            Err(e) => return println!("{MARK}{:?} {}", e.kind(), e.chain()),
        }
    }
    println!("{MARK}{written}");
}

/// Writes one batch, and says how it went.
async fn write(store: &ParquetBackend, (first, end): (u32, u32), id: u32) {
    let outcome = store.write_rows(&WriteRequest::new(key()), numbered(first, end, id)).await;
    let said = outcome.map_or_else(
        |e| format!("{:?} {}", e.kind(), e.chain()),
        |receipt| format!("stored {} kept out {}", receipt.rows_written, receipt.rows_kept_out),
    );
    println!("{MARK}{said}");
}

/// Collects at a time in microseconds, and says how it went.
async fn collect(store: &ParquetBackend, now: i64) {
    let now = Timestamp::from_micros(now).unwrap();
    let outcome = store.collect(&key(), now, false).await;
    let said = outcome.map_or_else(
        |e| format!("{:?} {}", e.kind(), e.chain()),
        |collected| format!("collected {}", collected.files.len()),
    );
    println!("{MARK}{said}");
}
