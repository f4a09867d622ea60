//! What the runtime costs: merging history, replaying it, warming up.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use super::measures::{bench, build_program, number};
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::{output, target};

/// The cache and the replay, beside other engines; warm-up through the program.
pub(super) fn runtime(peers: &Peers) -> Result<Vec<Row>> {
    let text = bench("qmtl-runtime", "runtime")?;
    let replayed = |threads: u32, what: &str| number(&text, &format!("replay Slices {threads} {what} "));
    let (serial, threaded) = (replayed(1, "million events/s")?, replayed(2, "million events/s")?);
    let mut rows = vec![
        gated(
            "backfill_bulk of 1M bars",
            (number(&text, "backfill_bulk over memcpy ")?, "x memcpy"),
            3.0,
            1.0,
        ),
        Row {
            name: "replay of 10 x 1M bars, one thread".to_owned(),
            ours: Amount(serial, "M events/s"),
            other: (10.0, "limit".to_owned()),
            better: Better::More,
            gate: Some(1.0),
        },
        Row {
            name: "replay of 10 x 1M bars, two threads".to_owned(),
            ours: Amount(threaded, "M events/s"),
            other: (serial, "one thread".to_owned()),
            better: Better::More,
            gate: Some(1.4),
        },
        Row {
            name: "CPU time of two threads".to_owned(),
            ours: Amount(replayed(2, "cpu seconds")?, "s"),
            other: (replayed(1, "cpu seconds")?, "one thread".to_owned()),
            better: Better::Less,
            gate: Some(1.0 / 1.2),
        },
        gated(
            "memory that a replay of 480 MB takes",
            (replayed(1, "memory growth")?.max(0.1), "MB"),
            64.0,
            1.0,
        ),
        Row {
            name: "live bars fed into two nodes".to_owned(),
            ours: Amount(number(&text, "feed million bars/s ")?, "M bars/s"),
            other: (3.0, "goal".to_owned()),
            better: Better::More,
            gate: None,
        },
        Row {
            name: "backtest of 2 x 10M bars from Parquet".to_owned(),
            ours: Amount(number(&text, "backtest 1 million bars/s ")?, "M bars/s"),
            other: (15.0, "limit".to_owned()),
            better: Better::More,
            gate: Some(1.0),
        },
        gated("memory of that backtest", (number(&text, "backtest 1 memory ")?, "MB"), 300.0, 1.0),
        warm_up()?,
    ];
    if let Err(error) = peers.add(&["nautilus_trader"]).and_then(|()| peers.add_original()) {
        println!("no other engine: {error:#}");
        return Ok(rows);
    }
    rows.extend(peers.run("replay_bars.py")?.into_iter().map(|(peer, rate)| Row {
        name: "replay of moving averages".to_owned(),
        ours: Amount(serial, "M events/s"),
        other: (rate, peer),
        better: Better::More,
        gate: None,
    }));
    Ok(rows)
}

fn gated(name: &str, (ours, unit): (f64, &'static str), limit: f64, gate: f64) -> Row {
    let other = (limit, "limit".to_owned());
    Row { name: name.to_owned(), ours: Amount(ours, unit), other, better: Better::Less, gate: Some(gate) }
}

const SERIES: u64 = 200;
const PERIOD: u64 = 500;
/// 2024-01-01, in seconds.
const FIRST_BAR: u64 = 1_704_067_200;

/// The program primes 200 nodes of 500 bars from the embedded store, its start included.
fn warm_up() -> Result<Row> {
    let folder = target().join("bench-warmup");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    build_program()?;
    let mut candles = "ts,open,high,low,close,volume\n".to_owned();
    for row in 0..PERIOD {
        let ts = FIRST_BAR + row * 60;
        writeln!(candles, "{ts},{row}.5,{row}.9,{row}.1,{row}.7,{row}")?;
    }
    // A file names no series, so each has its own.
    let list = |source: fn(u64) -> String| {
        let series = (0..SERIES).map(|node| format!("[[series]]\nnode = \"node-{node}\"\n{}", source(node)));
        format!("interval = \"1m\"\n{}", series.collect::<String>())
    };
    for node in 0..SERIES {
        fs::write(folder.join(format!("node-{node}.csv")), &candles)?;
    }
    fs::write(folder.join("sourced.toml"), list(|node| format!("source = \"file:node-{node}.csv\"\n")))?;
    fs::write(folder.join("stored.toml"), list(|_| String::new()))?;
    let program = |words: &[&str]| {
        let mut command = Command::new(target().join("release/qmtl-history"));
        command.current_dir(&folder).args(["--store", "store", "--json", "--quiet"]).args(words);
        command
    };
    let (start, end) = (FIRST_BAR.to_string(), (FIRST_BAR + PERIOD * 60).to_string());
    let range = ["--start", &start, "--end", &end];
    output(program(&["backfill", "--nodes", "sourced.toml"]).args(range))?;

    let (period, mut seconds) = (PERIOD.to_string(), f64::MAX);
    for _ in 0..5 {
        let started = Instant::now();
        let mut command =
            program(&["warmup", "--nodes", "stored.toml", "--period", &period, "--as-of", &end]);
        let primed: Value = serde_json::from_str(&output(&mut command)?)?;
        seconds = seconds.min(started.elapsed().as_secs_f64());
        let bars: u64 =
            primed.as_array().into_iter().flatten().filter_map(|node| node["bars"].as_u64()).sum();
        if bars != SERIES * PERIOD {
            bail!("the program primed {bars} bars");
        }
    }
    Ok(gated("warm-up of 200 x 500 stored bars", (seconds, "s"), 1.0, 1.0))
}
