//! Replay against live bars against a naive model, at length.

use anyhow::{Result, bail};

use super::page;
use crate::flags;
use crate::process::{self, cargo, shown};

const PAGE: &str = "docs/replay.md";
const CASES: u64 = 100_000;

/// Runs the property test, and writes its figures to the page when nothing differed.
pub(super) fn run(flags: &flags::Soak) -> Result<()> {
    let mut command = cargo(["test", "-p", "qmtl-runtime", "--all-features", "--lib"]);
    // Fast enough, and sums that overflow are still seen.
    command.args(["--config", "profile.dev.opt-level=2", "--", "replay_live_and_the_model", "--nocapture"]);
    command.env("QMTL_RUNTIME_CASES", flags.runs.unwrap_or(CASES).to_string());
    let mut table = "| figure | count |\n|---|--:|\n".to_owned();
    let has_succeeded = process::watch(&mut command, |line| {
        if let Some((name, count)) = line.split_once("figure: ").and_then(|(_, told)| told.split_once(" = "))
        {
            table.push_str(&format!("| {name} | {count} |\n"));
        }
    })?;
    if !has_succeeded {
        bail!("replay, live and the model differ: run `{}`", shown(&command));
    }
    page::replace(PAGE, |_| table)
}
