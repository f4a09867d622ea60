//! A million bars from an exchange 20 ms away: beside the ideal, the plan, and parsing alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::measures::{build_program, number};
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{cargo, output, run, target};

const BARS: u64 = 1_000_000;
/// The first minute of 1,000 pages of 1,000 bars, which begin where windows of 1,000 bars do.
const FIRST_BAR: u64 = 1_600_020_000;

/// Through the program, into a store; and the fetcher alone, whose CPU time stands beside that of
/// parsing the same bytes.
pub(super) fn exchange(_: &Peers) -> Result<Vec<Row>> {
    let fetched = output(&mut fetcher_alone())?;
    let (fetcher, parser) = (number(&fetched, "cpu ")?, number(&fetched, "serde_json ")?);
    let stored = Stored::measure()?;
    let less = |name: &str, ours: Amount, other: f64, whose: &str, gate: Option<f64>| Row {
        name: name.to_owned(),
        ours,
        other: (other, whose.to_owned()),
        better: Better::Less,
        gate,
    };
    Ok(vec![
        less(
            "1M bars in 1,000 requests, fetched",
            Amount(number(&fetched, "took ")?, "ms"),
            number(&fetched, "ideal ")?,
            "ideal",
            Some(0.9),
        ),
        less("CPU of the client", Amount(fetcher, "ms"), parser, "serde_json alone", Some(0.5)),
        less(
            "1M bars in 1,000 requests, stored",
            Amount(stored.seconds * 1_000.0, "ms"),
            number(&fetched, "ideal ")? + stored.writing * 1_000.0,
            "ideal + writing",
            Some(0.9),
        ),
        less("requests of that run", Amount(stored.requests, ""), stored.planned, "planned", Some(1.0)),
    ])
}

/// The bench of the fetcher; its exchange is another process of it.
fn fetcher_alone() -> Command {
    let package = ["--package", "qmtl-io-exchange", "--features", "binance,coinbase"];
    let mut command = cargo(["bench", "--quiet", "--bench", "binance"]);
    command.args(package);
    command
}

/// What the program did.
struct Stored {
    seconds: f64,
    /// The seconds that writing the same rows takes once they are in memory.
    writing: f64,
    requests: f64,
    planned: f64,
}

impl Stored {
    fn measure() -> Result<Self> {
        let folder = target().join("bench-exchange");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        build_program()?;
        let mut server = Server::start()?;
        let outcome = Self::with(&server, &folder);
        // The server ends when nobody writes to it any longer.
        drop(server.0.stdin.take());
        server.0.wait()?;
        fs::remove_dir_all(&folder)?;
        outcome
    }

    fn with(server: &Server, folder: &Path) -> Result<Self> {
        let source = format!("binance+{}", server.1);
        let planned = program(folder, "plan", "store", &source)?;
        let filled = program(folder, "backfill", "store", &source)?;
        let key = ["--store", "store", "--node", "ADABTC", "--interval", "1m", "--out", "bars.parquet"];
        let mut export = Command::new(target().join("release/qmtl-history"));
        run(export.arg("export").args(key).current_dir(folder).stdout(Stdio::null()))?;
        let bars = folder.join("bars.parquet").display().to_string();
        let writing = ["bench", "--quiet", "--package", "qmtl-history", "--bench", "writing", "--"];
        let writing = output(cargo(writing).args([&bars, "ADABTC", "1m"]))?;
        let of = |value: &Value, key: &str| value[key].as_f64().with_context(|| format!("{key} in {value}"));
        anyhow::ensure!(filled["rows_written"] == BARS, "{filled}");
        Ok(Self {
            seconds: of(&filled, "elapsed_ms")? / 1_000.0,
            writing: number(&writing, "writing ")? / 1_000.0,
            requests: of(&filled, "fetch_requests")?,
            planned: of(&planned, "requests")?,
        })
    }
}

/// Runs a command on the million bars and reads what it prints.
fn program(folder: &Path, command: &str, store: &str, source: &str) -> Result<Value> {
    let (start, end) = (FIRST_BAR.to_string(), (FIRST_BAR + BARS * 60).to_string());
    let mut run = Command::new(target().join("release/qmtl-history"));
    run.current_dir(folder).args([command, "--json", "--quiet", "--store", store, "--source", source]);
    run.args(["--node", "ADABTC", "--interval", "1m", "--start", &start, "--end", &end]);
    run.args(["--window-bars", "1000", "--concurrency", "8"]);
    Ok(serde_json::from_str(&output(&mut run)?)?)
}

/// The exchange, in a process of its own, and its address.
struct Server(Child, String);

impl Server {
    fn start() -> Result<Self> {
        let mut command = fetcher_alone();
        command.args(["--", "serve"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut url = String::new();
        BufReader::new(child.stdout.take().context("the server has no output")?).read_line(&mut url)?;
        Ok(Self(child, url.trim().to_owned()))
    }
}
