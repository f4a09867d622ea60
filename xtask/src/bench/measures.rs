//! The rows of the table.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{cargo, output, run, shown, target};

/// A difference of a million ranges takes linear time: the time of a range may grow by what slower
/// memory costs, which is far from the hundredfold of a quadratic one.
pub(super) fn algebra(_: &Peers) -> Result<Vec<Row>> {
    let text = bench("qmtl-history-api", "algebra")?;
    let small = number(&text, "difference 10000 ")?;
    let growth = |count: &str| -> Result<Row> {
        Ok(Row {
            name: format!("difference of {count} ranges"),
            ours: Amount(number(&text, &format!("difference {count} "))?, "ns/range"),
            other: (small, "with 10000".to_owned()),
            better: Better::Less,
            gate: Some(0.25),
        })
    };
    Ok(vec![growth("100000")?, growth("1000000")?])
}

/// Candles are read from CSV on one core at 150 MB/s or better, and at least as fast as pandas reads them. Peers read a file
/// once; ours are found first and read then, so that a fetch need not read all of it.
pub(super) fn csv(peers: &Peers) -> Result<Vec<Row>> {
    let ours = number(&bench("qmtl-io-exchange", "csv")?, "csv scan+parse ")?;
    let against = |other: f64, whose: String, gate| Row {
        name: "read candles from CSV".to_owned(),
        ours: Amount(ours, "MB/s"),
        other: (other, whose),
        better: Better::More,
        gate,
    };
    let gate = |peer: &str| peer.starts_with("pandas").then_some(1.0);
    let mut rows = vec![against(150.0, "limit".to_owned(), Some(1.0))];
    let peers = peers.run("read_csv.py")?.into_iter();
    rows.extend(peers.map(|(peer, rate)| against(rate, peer.clone(), gate(&peer))));
    Ok(rows)
}

/// A thousand archives are read within a tenth of the time of one with the same rows.
pub(super) fn archives(_: &Peers) -> Result<Vec<Row>> {
    let text = bench("qmtl-io-exchange", "archives")?;
    let seconds = |which: &str| number(&text, &format!("archives: {which} "));
    let row = |name: &str, ours: &str, other: (f64, &str), gate| -> Result<Row> {
        let other = (other.0, other.1.to_owned());
        Ok(Row {
            name: name.to_owned(),
            ours: Amount(seconds(ours)?, "s"),
            other,
            better: Better::Less,
            gate,
        })
    };
    let one = seconds("1 of the same rows")?;
    Ok(vec![
        row("fill from 1000 daily archives", "1000 of a day", (one, "as one"), Some(0.9))?,
        row("fill from 10000 small archives", "10000 of 24 rows", (10.0, "limit"), Some(1.0))?,
    ])
}

/// A look at a file of a gigabyte takes less than a second.
pub(super) fn inspect(_: &Peers) -> Result<Vec<Row>> {
    const BYTES: u64 = 1_000_000_000;
    let folder = target().join("bench-inspect");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    build_program()?;
    let (program, path) = (Program { folder: folder.clone() }, folder.join("candles.csv"));
    write_candles(&path, BARS * 5 / 2)?;
    ensure!(fs::metadata(&path)?.len() >= BYTES, "the file is smaller than a gigabyte");
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        run(program.command().args(["inspect", "file:candles.csv"]).stdout(Stdio::null()))?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    fs::remove_dir_all(&folder)?;
    seconds.sort_unstable_by(f64::total_cmp);
    Ok(vec![Row {
        name: "inspect a file of 1 GB".to_owned(),
        ours: Amount(seconds[seconds.len() / 2], "s"),
        other: (1.0, "limit".to_owned()),
        better: Better::Less,
        gate: Some(1.0),
    }])
}

const BARS: u64 = 10_000_000;
/// 2000-01-01, in seconds.
const FIRST_BAR: u64 = 946_684_800;

/// Ten million bars from a Parquet file through the program, within 256 MB.
pub(super) fn backfill(_: &Peers) -> Result<Vec<Row>> {
    let folder = target().join("bench-backfill");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    build_program()?;
    let program = Program { folder: folder.clone() };
    // The program's own export makes the Parquet file, so that no peer is needed for the gate.
    write_candles(&folder.join("candles.csv"), BARS)?;
    let from_csv = program.backfill("first", "candles.csv")?;
    fs::remove_file(folder.join("candles.csv"))?;
    let export =
        ["export", "--store", "first", "--node", "bench", "--interval", "1m", "--out", "candles.parquet"];
    run(program.command().args(export).stdout(Stdio::null()))?;
    let filled = program.backfill("second", "candles.parquet")?;
    fs::remove_dir_all(&folder)?;
    let speed = |filled: &Filled| 10.0 / filled.seconds;
    Ok(vec![
        Row {
            name: "peak memory of a backfill of 10M bars".to_owned(),
            ours: Amount(filled.peak_mb, "MB"),
            other: (256.0, "limit".to_owned()),
            better: Better::Less,
            gate: Some(1.0),
        },
        Row {
            name: "backfill of 10M bars from Parquet".to_owned(),
            ours: Amount(speed(&filled), "M bars/s"),
            other: (speed(&from_csv), "from CSV".to_owned()),
            better: Better::More,
            gate: None,
        },
    ])
}

/// A cold release build of the README's first command, against five minutes.
pub(super) fn cold_build(_: &Peers) -> Result<Vec<Row>> {
    let folder = target().join("bench-cold");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    run(&mut cargo(["fetch", "--quiet"]))?;
    let started = Instant::now();
    let mut build = cargo(["build", "--release", "--quiet", "--bin", "qmtl-history", "--target-dir"]);
    run(build.arg(&folder))?;
    let seconds = started.elapsed().as_secs_f64();
    fs::remove_dir_all(&folder)?;
    Ok(vec![Row {
        name: "cold release build of the program".to_owned(),
        ours: Amount(seconds, "s"),
        other: (300.0, "limit on two cores".to_owned()),
        better: Better::Less,
        gate: Some(1.0),
    }])
}

/// Builds the program as it is installed for work. It stands in `target/release`.
pub(super) fn build_program() -> Result<()> {
    let program = ["--package", "qmtl-history", "--bin", "qmtl-history"];
    run(&mut cargo([&["build", "--profile", "bench", "--quiet"][..], &program].concat()))
}

/// What a bench of one of our crates prints.
pub(super) fn bench(package: &str, name: &str) -> Result<String> {
    output(&mut cargo(["bench", "--quiet", "--package", package, "--bench", name]))
}

/// The same with a folder for its temporary files.
pub(super) fn bench_with(package: &str, name: &str, folder: &Path) -> Result<String> {
    let mut command = cargo(["bench", "--quiet", "--package", package, "--bench", name]);
    output(command.env("TMPDIR", folder))
}

/// The number that follows `lead` at the start of a line.
pub(super) fn number(text: &str, lead: &str) -> Result<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(lead));
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no number after {lead:?} in:\n{text}"))
}

/// A candle a minute, prices in whole cents.
fn write_candles(path: &Path, bars: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "ts,open,high,low,close,volume")?;
    for bar in 0..bars {
        let cents = 4_000_000 + bar.wrapping_mul(7_919) % 100_000;
        let (ts, units, rest) = (FIRST_BAR + bar * 60, cents / 100, cents % 100);
        writeln!(
            file,
            "{ts},{units}.{rest:02},{}.5,{}.5,{units}.{:02},{}",
            units + 1,
            units - 1,
            rest,
            bar % 977
        )?;
    }
    Ok(file.flush()?)
}

/// The program at work in a folder.
struct Program {
    folder: PathBuf,
}

struct Filled {
    seconds: f64,
    peak_mb: f64,
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(target().join("release/qmtl-history"));
        command.current_dir(&self.folder);
        command
    }

    /// Fills a store from a file with all bars, and checks that all were written.
    fn backfill(&self, store: &str, file: &str) -> Result<Filled> {
        let mut command = self.command();
        let end = (FIRST_BAR + BARS * 60).to_string();
        command.args([
            "backfill",
            "--json",
            "--yes",
            "--node",
            "bench",
            "--interval",
            "1m",
            "--store",
            store,
        ]);
        command.args(["--source", &format!("file:{file}"), "--start", &FIRST_BAR.to_string(), "--end", &end]);
        let report = File::create(self.folder.join("report.json"))?;
        let started = Instant::now();
        let mut child =
            command.stdout(report).spawn().with_context(|| format!("start `{}`", shown(&command)))?;
        let mut peak_mb = None;
        let status = loop {
            peak_mb = peak_memory(child.id()).or(peak_mb);
            match child.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let report = fs::read_to_string(self.folder.join("report.json"))?;
        let rows =
            serde_json::from_str::<Value>(&report).ok().and_then(|report| report["rows_written"].as_u64());
        if !status.success() || rows != Some(BARS) {
            bail!("`{}` did not write {BARS} rows but said {report}", shown(&command));
        }
        let peak_mb = peak_mb.context("the system has no /proc to read peak memory from")?;
        Ok(Filled { seconds, peak_mb })
    }
}

/// The most memory that a running process has held so far, in MB of 2^20 bytes; `None` when it has
/// ended, or on systems without `/proc`.
fn peak_memory(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kilobytes: f64| kilobytes / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_what_stands_before_them() {
        let text = "csv scan         900 MB/s\ncsv scan+parse      312 MB/s   9 ms\n";
        assert_eq!(number(text, "csv scan+parse ").unwrap(), 312.0);
        assert!(number(text, "parquet ").is_err());
    }
}
