//! The simulation of fills and follows at length.

use anyhow::{Result, bail};

use super::page;
use crate::flags;
use crate::process::{self, cargo, shown};

const PAGE: &str = "docs/simulation.md";
const RUNS: u64 = 100_000;

/// Runs the simulation, and writes its figures to the page when nothing broke.
pub(super) fn run(flags: &flags::Soak) -> Result<()> {
    let runs = flags.runs.unwrap_or(RUNS);
    let over_parquet = flags.parquet_runs.unwrap_or(runs / 100);
    let mut command = cargo(["test", "-p", "qmtl-backfill", "--all-features", "--test", "sim"]);
    // Fast enough, and sums that overflow are still seen.
    command.args(["--config", "profile.dev.opt-level=2", "--", "runs over"]);
    command.env("QMTL_SIM_RUNS", runs.to_string()).env("QMTL_SIM_PARQUET_RUNS", over_parquet.to_string());
    let mut columns = Columns::default();
    let has_succeeded = process::watch(&mut command, |line| columns.read(line))?;
    if !has_succeeded {
        bail!("an invariant was broken: run `{}`", shown(&command));
    }
    page::replace(PAGE, |_| columns.table())
}

/// Figures as the simulation prints them, by batch.
#[derive(Debug, Default)]
struct Columns {
    /// The batches that have ended, with their figures.
    done: Vec<(String, Vec<(String, String)>)>,
    open: Vec<(String, String)>,
}

impl Columns {
    /// Takes a line of the simulation's output; those that tell of something else mean nothing.
    fn read(&mut self, line: &str) {
        if let Some((name, value)) = line.strip_prefix("figure: ").and_then(|figure| figure.split_once(" = "))
        {
            self.open.push((name.to_owned(), value.to_owned()));
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ok")) {
            self.done.push((name.to_owned(), std::mem::take(&mut self.open)));
        }
    }

    /// A row for each figure, a column for each batch.
    fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.done.iter().flat_map(|(_, figures)| figures) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let row = |name: &str, cells: Vec<&str>| format!("| {name} | {} |\n", cells.join(" | "));
        let mut table = row("figure", self.done.iter().map(|(batch, _)| batch.as_str()).collect());
        table.push_str(&format!("|---|{}\n", "--:|".repeat(self.done.len())));
        for name in names {
            let of = |(_, figures): &'_ (String, Vec<(String, String)>)| {
                figures.iter().find(|(own, _)| own == name).map_or("0".to_owned(), |(_, value)| value.clone())
            };
            let cells: Vec<_> = self.done.iter().map(of).collect();
            table.push_str(&row(name, cells.iter().map(String::as_str).collect()));
        }
        table
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn figures_become_a_table() {
        let mut columns = Columns::default();
        for line in [
            "running 2 tests",
            "figure: runs = 7",
            "figure: fault Late = 3",
            "test runs over memory ... ok",
            "figure: runs = 2",
            "test runs over Parquet ... ok",
        ] {
            columns.read(line);
        }
        let table = columns.table();
        assert_eq!(
            table,
            "| figure | runs over memory | runs over Parquet |\n|---|--:|--:|\n| runs | 7 | 2 |\n| fault Late | 3 | 0 |\n"
        );
    }
}
