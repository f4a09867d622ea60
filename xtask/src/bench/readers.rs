//! Other readers of a store: polars and DuckDB read what `qmtl-history files` lists, of a store that
//! has deltas and old versions, and must see exactly the rows that `export` writes.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::measures::build_program;
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{output, run, target};

const NODE: [&str; 4] = ["--node", "x", "--interval", "1m"];

/// Rows that each reader agrees on; a difference is an error.
pub(super) fn readers(peers: &Peers) -> Result<Vec<Row>> {
    let folder = target().join("bench-readers");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    build_program()?;
    fill(&folder)?;
    let files = output(program(&folder, "files", &NODE).current_dir(&folder))?;
    ensure!(files.lines().count() == 4, "three full files and a delta are expected, not:\n{files}");
    fs::write(folder.join("files.txt"), &files)?;
    let out = ["--out", "export.parquet"];
    run(program(&folder, "export", &[&NODE[..], &out[..]].concat()).stdout(Stdio::null()))?;
    let agreed = peers.run_in("readers.py", &folder)?;
    fs::remove_dir_all(&folder)?;
    let row = |(reader, rows)| Row {
        name: format!("rows that {reader} reads as `export` has them"),
        ours: Amount(rows, "rows"),
        other: (110_072.0, "stored".to_owned()),
        better: Better::More,
        gate: Some(1.0),
    };
    Ok(agreed.into_iter().map(row).collect())
}

/// A store of three partitions: gaps that were filled later, rows that were replaced, bars that were
/// appended a few at a time.
fn fill(folder: &Path) -> Result<()> {
    const FIRST: u64 = 1_704_067_200;
    let candles = |name: &str, bars: &mut dyn Iterator<Item = u64>, shift: u64| -> Result<()> {
        use std::io::Write;
        let mut file = std::io::BufWriter::new(File::create(folder.join(name))?);
        writeln!(file, "ts,open,close")?;
        for bar in bars {
            writeln!(file, "{},{}.25,{}", FIRST + bar * 60, bar % 977 + shift, bar % 101)?;
        }
        Ok(file.flush()?)
    };
    candles("gaps.csv", &mut (0..110_000).filter(|bar| bar % 1_000 > 20), 0)?;
    candles("whole.csv", &mut (0..110_072), 0)?;
    candles("revised.csv", &mut (30_000..30_100), 5)?;
    let backfill = |source: &str, (first, end): (u64, u64), more: &[&str]| {
        let (start, end) = ((FIRST + first * 60).to_string(), (FIRST + end * 60).to_string());
        let source = format!("file:{source}");
        let words = ["--source", &source, "--start", &start, "--end", &end];
        run(program(folder, "backfill", &[&NODE[..], &words, more].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null()))
    };
    // The gaps are no gaps to a source that proves nothing about them.
    // The file proves nothing about the bars before its first row.
    backfill("gaps.csv", (21, 110_000), &[])?;
    run(program(folder, "forget-empty", &["--all"]).stdout(Stdio::null()))?;
    backfill("whole.csv", (0, 110_000), &[])?;
    backfill("revised.csv", (30_000, 30_100), &["--replace", "--reason", "revised"])?;
    for end in (110_008..=110_072).step_by(8) {
        backfill("whole.csv", (110_000, end), &[])?;
    }
    Ok(())
}

fn program(folder: &Path, command: &str, words: &[&str]) -> Command {
    let mut program = Command::new(target().join("release/qmtl-history"));
    program.current_dir(folder).args([command, "--store", "store"]).args(words);
    program
}
