//! The simulations at length: of fills and follows, and of many workers under leases, which are also killed as processes.

use std::process::Command;

use anyhow::{Result, bail};

use super::page;
use crate::flags;
use crate::postgres::Programs;
use crate::process::{self, cargo, shown};

/// Runs of fills and follows.
const RUNS: u64 = 100_000;
/// Runs of many workers, of which each has two or three crashes.
const RUNS_OF_WORKERS: u64 = 20_000;
/// Kills each of workers, of a coordinator and of PostgreSQL.
const KILLS: u64 = 50;

/// Runs the simulation of fills and follows, and writes its figures to the page when nothing broke.
pub(super) fn run(flags: &flags::Soak) -> Result<()> {
    let runs = flags.runs.unwrap_or(RUNS);
    let over_parquet = flags.parquet_runs.unwrap_or(runs / 100);
    let variables = [("QMTL_SIM_RUNS", runs), ("QMTL_SIM_PARQUET_RUNS", over_parquet)];
    let columns = simulate("qmtl-backfill", "runs over", &variables)?;
    page::replace("docs/simulation.md", |_| columns.table())
}

/// The same of many workers; then real processes are killed.
pub(super) fn of_workers(flags: &flags::Soak) -> Result<()> {
    let runs = flags.runs.unwrap_or(RUNS_OF_WORKERS);
    let mut columns = simulate("qmtl-coordinator", "runs of", &[("QMTL_SIM_RUNS", runs)])?;
    for (package, tests) in [("qmtl-history", "leases::"), ("qmtl-coordinator", "postgres::nothing")] {
        let mut command = cargo(["test", "-p", package, "--all-features", "--test", "it", "--", tests]);
        command.args(["--nocapture", "--test-threads=1"]).env("QMTL_SOAK_ROUNDS", KILLS.to_string());
        if let Some(programs) = Programs::for_tests()? {
            programs.told(&mut command);
        }
        watch(&mut command, |line| {
            if line.starts_with("figure: ") {
                columns.read(line);
            }
        })?;
    }
    columns.close("real processes");
    page::replace("docs/leases.md", |_| columns.table())
}

fn simulate(package: &str, batches: &str, variables: &[(&str, u64)]) -> Result<Columns> {
    let mut command = cargo(["test", "-p", package, "--all-features", "--test", "sim"]);
    // Fast enough, and sums that overflow are still seen.
    command.args(["--config", "profile.dev.opt-level=2", "--", batches]);
    command.envs(variables.iter().map(|(name, number)| (name, number.to_string())));
    let mut columns = Columns::default();
    watch(&mut command, |line| columns.read(line))?;
    Ok(columns)
}

fn watch(command: &mut Command, read: impl FnMut(&str)) -> Result<()> {
    if !process::watch(command, read)? {
        bail!("an invariant was broken: run `{}`", shown(command));
    }
    Ok(())
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
            self.close(name);
        }
    }

    /// A batch of this name has ended.
    fn close(&mut self, name: &str) {
        self.done.push((name.to_owned(), std::mem::take(&mut self.open)));
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
