//! The reference nodes of `examples/strategies` beside TA-Lib's C code: no speed, but the same numbers.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::measures::number;
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{cargo_of_example, output, root, target};

/// What is compared: columns of the table that `xtask/peers/indicators.py` writes.
const COLUMNS: [(&str, &str); 7] = [
    ("sma", "SMA 20"),
    ("ema", "EMA 20"),
    ("rsi", "RSI 14"),
    ("atr", "ATR 14"),
    ("macd", "MACD 12/26/9"),
    ("signal", "MACD 12/26/9, signal"),
    ("histogram", "MACD 12/26/9, histogram"),
];
/// Relative differences are printed in units of this.
const UNIT: (f64, &str) = (1e-15, "e-15");
/// The largest relative difference.
const LIMIT: f64 = 1e-9;
/// The last rows of the table are what CI compares with; `UPDATE_EXPECT=1` writes them.
const GOLDEN: (&str, usize) = ("examples/strategies/tests/talib.csv", 20);

/// The largest relative difference of each indicator over all bundled bars.
pub(super) fn indicators(peers: &Peers) -> Result<Vec<Row>> {
    peers.add(&["numpy", "TA-Lib"])?;
    if peers.python.is_err() {
        return Ok(Vec::new());
    }
    let table = target().join("bench-indicators.csv");
    peers.run_on("indicators.py", &[&root().join("examples/data/ADABTC-5m.csv"), &table])?;
    if env::var_os("UPDATE_EXPECT").is_some() {
        write_golden(&table)?;
    }
    let mut command = cargo_of_example("bench", &root().join("examples/strategies/Cargo.toml"));
    command.args(["--quiet", "--profile", "dev", "--bench", "indicators", "--"]).arg(&table);
    let text = output(&mut command)?;
    let bars = number(&text, "bars ")?;
    ensure!(bars == 5_720.0, "{bars} bars were compared");
    fs::remove_file(table)?;
    let row = |(column, name): (&str, &str)| {
        Ok(Row {
            name: format!("largest relative difference of {name}"),
            // Of nothing at all there is no ratio.
            ours: Amount((number(&text, &format!("{column} "))? / UNIT.0).max(0.1), UNIT.1),
            other: (LIMIT / UNIT.0, "limit, from TA-Lib".to_owned()),
            better: Better::Less,
            gate: Some(1.0),
        })
    };
    COLUMNS.into_iter().map(row).collect()
}

fn write_golden(table: &Path) -> Result<()> {
    let text = fs::read_to_string(table)?;
    let (path, rows) = GOLDEN;
    let lines: Vec<&str> = text.lines().collect();
    let (head, body) = lines.split_first().context("the table is empty")?;
    let last = &body[body.len().saturating_sub(rows)..];
    Ok(fs::write(root().join(path), format!("{head}\n{}\n", last.join("\n")))?)
}
