//! The embedded store beside pyarrow, which writes and reads the same bytes with the same codec, and
//! ArcticDB, which does the same work its own way.

use std::fs;

use anyhow::{Context, Result};

use super::measures::{bench_with, number};
use super::peers::Peers;
use super::{Amount, Better, Row};
use crate::process::target;

/// The codec that the store writes with when nobody chooses one.
const CODEC: &str = "Lz4";

/// Everything that the store promises of its speed.
pub(super) fn store(peers: &Peers) -> Result<Vec<Row>> {
    // Beside the build, which is on a disk where temporary folders may not be.
    let folder = target().join("bench-store");
    fs::create_dir_all(&folder)?;
    let ours = bench_with("qmtl-io-parquet", "store", &folder)?;
    let gaps = bench_with("qmtl-history", "gaps", &folder)?;
    let theirs = peers.run_in("store.py", &folder)?;
    fs::remove_dir_all(&folder)?;

    let mut rows = Vec::new();
    for codec in [CODEC, "Zstd", "None"] {
        for (work, gate) in [("write", 1.0 / 1.5), ("read", 1.0 / 1.2)] {
            let label = format!("{codec}/{work}");
            let name = format!("{work} 1M bars, {codec}");
            let gate = (codec == CODEC).then_some(gate);
            rows.extend(beside(
                &theirs,
                "pyarrow",
                (name, number(&ours, &format!("{label} "))?),
                (&label, gate),
            ));
        }
    }
    for (work, theirs_is) in [("write", "write"), ("read", "read"), ("day", "day")] {
        let name = format!("{work} of 1M bars, {CODEC}");
        let gate = (work == "day").then_some(1.0);
        let number = number(&ours, &format!("{CODEC}/{work} "))?;
        rows.extend(beside(&theirs, "ArcticDB", (name, number), (theirs_is, gate)));
    }
    let cold = number(&ours, "coverage_cold ")?;
    let name = "coverage of 1M bars, 1,000 gaps, cold".to_owned();
    rows.extend(beside(&theirs, "ArcticDB", (name, cold), ("coverage", Some(1.0))));

    let limit = |name: &str, ours: f64, limit: f64| Row {
        name: name.to_owned(),
        ours: Amount(ours, "ms"),
        other: (limit, "limit".to_owned()),
        better: Better::Less,
        gate: Some(1.0),
    };
    rows.push(limit("one day of 1M bars, warm", number(&ours, &format!("{CODEC}/day "))?, 1.5));
    rows.push(limit("coverage, 1,000 gaps, cold", cold, 5.0));
    rows.push(limit("coverage, 1,000 gaps, warm", number(&ours, "coverage_warm ")?, 0.2));
    rows.push(limit("the same just after a write", number(&ours, "coverage_new ")?, 0.2));
    rows.push(limit("1,000 gaps of 100 bars filled", number(&gaps, "gaps ")?, 400.0));
    rows.push(limit("append a bar, 3,000 stored", number(&ours, "append_3000 ")?, 2.0));
    rows.push(limit("append a bar, 40,000 stored", number(&ours, "append_40000 ")?, 2.0));
    let files = number(&ours, "record_files ")?;
    rows.push(limit(&format!("append a bar beside {files} files"), number(&ours, "record_late ")?, 2.0));
    rows.extend(flat(&ours)?);
    Ok(rows)
}

/// Our milliseconds beside a peer's, where the peer could be installed.
fn beside(
    theirs: &[(String, f64)],
    peer: &str,
    (name, ours): (String, f64),
    (label, gate): (&str, Option<f64>),
) -> Option<Row> {
    let (whose, number) = theirs.iter().find_map(|(told, number)| {
        let (whose, work) = told.split_once(": ")?;
        (whose.starts_with(peer) && work == label).then_some((whose, *number))
    })?;
    Some(Row {
        name,
        ours: Amount(ours, "ms"),
        other: (number, whose.to_owned()),
        better: Better::Less,
        gate,
    })
}

/// What a bar costs must not grow with what is stored beside it.
fn flat(ours: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (work, unit, sizes) in [
        ("write", "bars", &["10000", "100000", "1000000", "10000000"][..]),
        ("read", "bars", &["10000", "100000", "1000000", "10000000"]),
        ("write", "series", &["1", "10", "100", "1000", "10000"]),
        ("read", "series", &["1", "10", "100", "1000", "10000"]),
    ] {
        let cost = |size: &str| {
            number(ours, &format!("{work}_{size}_{unit} "))
                .with_context(|| format!("{work} of {size} {unit}"))
        };
        // The cheapest bar of all smaller sizes: what a small size costs once does not hide growth.
        let mut cheapest: Option<(f64, &str)> = None;
        for size in sizes {
            let cost = cost(size)?;
            if let Some((least, with)) = cheapest {
                rows.push(Row {
                    name: format!("{work}, {size} {unit}"),
                    ours: Amount(cost, "ns/bar"),
                    other: (least, format!("with {with}")),
                    better: Better::Less,
                    // Noise of the disk, not growth: ten times as much may not take twice as long a bar.
                    gate: Some(0.5),
                });
            }
            if cheapest.is_none_or(|(least, _)| cost < least) {
                cheapest = Some((cost, size));
            }
        }
    }
    Ok(rows)
}
