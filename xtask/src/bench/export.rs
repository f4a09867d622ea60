//! The programs that `export --for …` writes for: each reads what was written, and must see every number of the store.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::measures::build_program;
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{root, run, target};

const SERIES: [&str; 4] = ["--node", "ADA/BTC", "--interval", "5m"];
/// Of the bundled candles.
const BARS: f64 = 5_720.0;

/// What is written: the program, and the file. The first one is what the others are compared with.
const FILES: [(&str, &str); 15] = [
    ("", "plain.parquet"),
    ("pandas", "pandas.csv"),
    ("pandas", "pandas.csv.gz"),
    ("pandas", "pandas.csv.zst"),
    ("pandas", "pandas.parquet"),
    ("pandas", "pandas.feather"),
    ("pandas", "pandas.json"),
    ("pandas", "pandas.jsonl.gz"),
    ("backtesting", "backtesting.csv"),
    ("backtrader", "backtrader.csv"),
    ("freqtrade", "ADA_BTC-5m.feather"),
    ("freqtrade", "ADA_BTC-5m.json"),
    ("freqtrade", "ADA_BTC-5m.json.gz"),
    ("freqtrade", "ADA_BTC-5m.parquet"),
    ("lean", "lean-hour/adabtc_trade.zip"),
];

/// Bars that each program reads as they are stored; a difference is an error.
pub(super) fn export(peers: &Peers) -> Result<Vec<Row>> {
    peers.add(&["zstandard", "backtesting", "backtrader", "freqtrade"])?;
    if peers.python.is_err() {
        return Ok(Vec::new());
    }
    let folder = target().join("bench-export");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("lean-hour"))?;
    build_program()?;
    let source = format!("file:{}", root().join("examples/data/ADABTC-5m.csv").display());
    fill(&folder, &SERIES, &source)?;
    let candles = fs::read_to_string(root().join("examples/data/ADABTC-5m.csv"))?;
    // LEAN has no bars of five minutes: the same ones as hours and as minutes.
    for (interval, seconds) in [("1h", 3_600), ("1m", 60)] {
        let name = format!("{interval}.csv");
        fs::write(folder.join(&name), respaced(&candles, seconds))?;
        fill(&folder, &["--node", "ADA/BTC", "--interval", interval], &format!("file:{name}"))?;
    }
    for (reader, file) in FILES {
        let series = if reader == "lean" { ["--node", "ADA/BTC", "--interval", "1h"] } else { SERIES };
        write(&folder, &series, reader, file)?;
    }
    write(&folder, &["--node", "ADA/BTC", "--interval", "1m"], "lean", "lean-minute/adabtc")?;
    let agreed = peers.run_in("export.py", &folder)?;
    ensure!(agreed.len() == FILES.len() + 1, "{} of {} ways were read", agreed.len(), FILES.len() + 1);
    fs::remove_dir_all(&folder)?;
    let row = |(reader, rows): (String, f64)| Row {
        name: format!("bars as stored: {}", reader.trim_end_matches(',')),
        ours: Amount(rows, "bars"),
        other: (BARS, "stored".to_owned()),
        better: Better::More,
        gate: Some(1.0),
    };
    Ok(agreed.into_iter().map(row).collect())
}

/// The same candles at other times, one after another.
fn respaced(candles: &str, seconds: usize) -> String {
    let mut lines = candles.lines();
    let head = lines.next().unwrap_or_default();
    let lines = lines.enumerate().map(|(index, line)| {
        let rest = line.split_once(',').map_or("", |(_, rest)| rest);
        format!("{},{rest}\n", 1_704_067_200 + index * seconds)
    });
    std::iter::once(format!("{head}\n")).chain(lines).collect()
}

fn fill(folder: &Path, series: &[&str], source: &str) -> Result<()> {
    let words = ["backfill", "--source", source, "--start", "2018-01-01", "--end", "2026-01-01", "--yes"];
    let mut program = program(folder);
    // What the file proves nothing about stays missing, which is no matter here.
    let status = program.args(words).args(series).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(matches!(status.code(), Some(0 | 3)), "the store was not filled: {status}");
    Ok(())
}

fn write(folder: &Path, series: &[&str], reader: &str, file: &str) -> Result<()> {
    let mut program = program(folder);
    program.args(["export", "--quiet", "--out", file]).args(series);
    if !reader.is_empty() {
        program.args(["--for", reader]);
    }
    run(&mut program)
}

fn program(folder: &Path) -> Command {
    let mut program = Command::new(target().join("release/qmtl-history"));
    program.current_dir(folder).env("QMTL_HISTORY_STORE", "store");
    program
}
