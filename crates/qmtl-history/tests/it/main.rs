//! The program as its users run it: the real binary, its output and its exit codes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
#[cfg(feature = "s3")]
mod bucket;
mod candles;
mod compare;
mod demo;
#[cfg(any(feature = "questdb", feature = "s3"))]
mod elsewhere;
mod exchange;
mod export;
mod folders;
mod follow;
mod grid;
mod hints;
mod inspect;
mod klines_server;
#[cfg(feature = "coordinator")]
mod leases;
mod many;
mod names;
mod odd_rows;
mod output;
mod pages;
mod proofs;
#[cfg(feature = "questdb")]
mod questdb;
mod signals;
mod upkeep;
mod waiting;
mod warmup;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The bundled candles: 5,720 bars in 6 runs, 40 bars in 5 holes between them.
const CANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/ADABTC-5m.csv");
/// The range that covers them.
const SPAN: [&str; 4] = ["--start", "1515560100", "--end", "1517288100"];

/// A folder for one test.
struct Scene(TempDir);

/// What a run said and how it ended.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn store(&self) -> String {
        self.path("store").display().to_string()
    }

    /// Writes a file and gives the source that names it.
    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        format!("file:{}", self.path(name).display())
    }

    /// A command on this scene's store, not yet run.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        command.args(words).args(["--store", &self.store()]).current_dir(self.0.path());
        command
    }

    fn run(&self, words: &[&str]) -> Run {
        Run::of(self.command(words).output().unwrap())
    }

    /// Runs a command that must succeed, and reads the object that it prints.
    fn json(&self, words: &[&str]) -> Value {
        let run = self.run(&[words, &["--json"]].concat());
        assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
        run.object()
    }
}

/// The program without anything of the surroundings.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qmtl-history"));
    for name in ["QMTL_HISTORY_STORE", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The one object that stdout holds.
    fn object(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    fn fails_with(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(message), "{message:?} is not in:\n{}", self.stderr);
    }
}

/// Interrupts a run, which must then end by itself.
#[cfg(unix)]
fn interrupt(child: Child) -> Run {
    let pid = child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-INT");
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    match end.recv_timeout(std::time::Duration::from_secs(60)) {
        Ok(output) => Run::of(output.unwrap()),
        Err(_) => {
            signal("-KILL");
            panic!("a minute after the interruption it still runs");
        }
    }
}

/// One bar of a table of text: epoch seconds and the bits of its numbers.
type Bits = (i64, Vec<u64>);

/// The bars of a CSV whose first column is a time in `unit_of_second` parts of a second.
fn bars(text: &str, unit_of_second: i64) -> Vec<Bits> {
    let number = |cell: &str| cell.parse::<f64>().unwrap().to_bits();
    text.lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.split(',');
            let ts: i64 = cells.next().unwrap().parse().unwrap();
            (ts / unit_of_second, cells.map(number).collect())
        })
        .collect()
}

/// Candles a minute apart from 2024 on, as CSV with times in seconds.
fn minutes(count: i64) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("ts,open,high,low,close,volume\n");
    for index in 0..count {
        let open = 100.0 + f64::from(i32::try_from(index % 977).unwrap()) / 7.0;
        let ts = 1_704_067_200 + index * 60;
        writeln!(text, "{ts},{open},{},{},{},{index}", open + 0.5, open - 0.5, open + 0.25).unwrap();
    }
    text
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
