//! `cargo xtask test`: every check and every test, cheap ones first, and what to run after a failure.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::flags;
use crate::postgres;
use crate::process::{self, cargo, shown, target};
use crate::questdb;
use crate::s3;
use crate::tidy;

/// The version of cargo-deny that is installed when there is none.
const CARGO_DENY: &str = "0.20.2";

const PROGRAM: &str = "qmtl-history";

/// A step adds the tests that it ran to the tally; its error says which command to run by hand.
type Step = fn(&Scope, &mut Tally) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("fmt", fmt),
    ("tidy", tidy_rules),
    ("clippy", clippy),
    ("docs", docs),
    ("tests", tests),
    ("examples", examples),
    ("alone", alone),
    ("deny", deny),
];

/// Runs the steps that were asked for, all of them even when one fails; true when all ended well.
pub(crate) fn run(flags: &flags::Test) -> Result<bool> {
    if let Some(name) = flags.step.iter().find(|name| STEPS.iter().all(|(step, _)| step != name)) {
        let known: Vec<_> = STEPS.iter().map(|(step, _)| *step).collect();
        bail!("no step is called {name}; there are {}", known.join(", "));
    }
    let scope = Scope { packages: flags.package.clone() };
    let (mut tally, mut summary) = (Tally::default(), Vec::new());
    let wanted = |name: &str| flags.step.is_empty() || flags.step.iter().any(|step| step == name);
    for (name, step) in STEPS.iter().filter(|(name, _)| wanted(name)) {
        println!("\n==> {name}");
        let started = Instant::now();
        let failed_before = tally.failed;
        let done = step(&scope, &mut tally);
        let time = started.elapsed().as_secs_f64();
        summary.push(match done {
            Ok(()) => format!("ok      {name:<9}{time:>7.1} s"),
            Err(error) => {
                // A step that fails without a failing test counts as one.
                tally.failed = tally.failed.max(failed_before + 1);
                format!("FAILED  {name:<9}{time:>7.1} s  {error:#}")
            }
        });
    }
    println!("\n{}\n\n{} passed, {} failed", summary.join("\n"), tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// The packages to work on: all of the workspace, or those that were named.
struct Scope {
    packages: Vec<String>,
}

impl Scope {
    /// Whether a package in it is tested against a QuestDB.
    fn needs_questdb(&self) -> bool {
        self.packages.is_empty()
            || self.packages.iter().any(|name| name == "qmtl-io-questdb" || name == "qmtl-history")
    }

    /// Whether a package in it is tested against an S3 server.
    fn needs_s3(&self) -> bool {
        self.packages.is_empty()
            || self.packages.iter().any(|name| name == "qmtl-io-parquet" || name == "qmtl-history")
    }

    /// Whether a package in it is tested against PostgreSQL.
    fn needs_postgres(&self) -> bool {
        self.packages.is_empty()
            || self.packages.iter().any(|name| name == "qmtl-coordinator" || name == "qmtl-history")
    }

    /// `cargo` with the subcommand `words`, on the packages.
    fn cargo(&self, words: &[&str]) -> Command {
        let mut command = cargo(words);
        if self.packages.is_empty() {
            // The formatter has its own word for it.
            command.arg(if words == ["fmt"] { "--all" } else { "--workspace" });
        }
        for package in &self.packages {
            command.args(["-p", package]);
        }
        command
    }
}

/// The tests that ran; a step that fails for another reason counts as one that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Adds libtest's summary of one test binary, when the line is one.
    fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for count in counts.split(['.', ';']) {
            match count.trim().split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse::<u64>().unwrap_or(0),
                Some((n, "failed")) => self.failed += n.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
}

fn fmt(scope: &Scope, _: &mut Tally) -> Result<()> {
    process::run(scope.cargo(&["fmt"]).args(["--", "--check"])).context("to format, drop `-- --check`")
}

fn tidy_rules(_: &Scope, _: &mut Tally) -> Result<()> {
    if tidy::run()? { Ok(()) } else { bail!("run `cargo xtask tidy`") }
}

fn clippy(scope: &Scope, _: &mut Tally) -> Result<()> {
    process::run(scope.cargo(&["clippy"]).args(["--all-targets", "--all-features", "--", "-D", "warnings"]))
}

fn docs(scope: &Scope, _: &mut Tally) -> Result<()> {
    let mut command = scope.cargo(&["doc"]);
    process::run(command.args(["--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests(scope: &Scope, tally: &mut Tally) -> Result<()> {
    let mut command = scope.cargo(&["test"]);
    command.args(["--all-features", "--no-fail-fast"]);
    let server = if scope.needs_questdb() { questdb::for_tests()? } else { None };
    if let Some(server) = &server {
        server.told(&mut command);
    }
    let bucket = if scope.needs_s3() { s3::Server::for_tests()? } else { None };
    if let Some(server) = &bucket {
        server.told(&mut command);
    }
    if scope.needs_postgres()
        && let Some(programs) = postgres::Programs::for_tests()?
    {
        programs.told(&mut command);
    }
    let before = *tally;
    let succeeded = process::watch(&mut command, |line| tally.read(line))?;
    if !succeeded {
        bail!("run `{}`", shown(&command));
    }
    if *tally == before {
        bail!("no test ran: run `{}`", shown(&command));
    }
    Ok(())
}

/// Builds, tests and runs the projects outside the workspace, as their users would.
fn examples(_: &Scope, tally: &mut Tally) -> Result<()> {
    for manifest in manifests_of_examples()? {
        if manifest.with_file_name("tests").exists() {
            let mut command = process::cargo_of_example("test", &manifest);
            if !process::watch(&mut command, |line| tally.read(line))? {
                bail!("run `{}`", shown(&command));
            }
        }
    }
    for (manifest, binary) in programs_of_examples()? {
        let mut command = process::cargo_of_example("run", &manifest);
        if let Some(binary) = binary {
            command.args(["--bin", &binary]);
        }
        process::run(&mut command)?;
    }
    Ok(())
}

fn manifests_of_examples() -> Result<Vec<PathBuf>> {
    let folder = process::root().join("examples");
    let mut manifests = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        manifests.push(entry?.path().join("Cargo.toml"));
    }
    manifests.retain(|manifest| manifest.exists());
    manifests.sort();
    Ok(manifests)
}

/// Every program of the examples: those in `src/bin` by name, else the package's only one.
fn programs_of_examples() -> Result<Vec<(PathBuf, Option<String>)>> {
    let mut programs = Vec::new();
    for manifest in manifests_of_examples()? {
        let Ok(entries) = fs::read_dir(manifest.with_file_name("src").join("bin")) else {
            programs.push((manifest, None));
            continue;
        };
        for entry in entries {
            let name = entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
            programs.push((manifest.clone(), name));
        }
    }
    programs.sort();
    Ok(programs)
}

/// Sets of features without the others, which must leave no code unused.
const FEATURES: [(&str, &str); 6] = [
    (PROGRAM, "parquet,file"),
    (PROGRAM, "binance"),
    (PROGRAM, "coordinator"),
    ("qmtl-backfill", "http"),
    ("qmtl-io-exchange", "http"),
    ("qmtl-io-exchange", "coinbase"),
];

/// Each crate by itself: what it needs must stand in its own manifest; and some without what they need not have.
fn alone(scope: &Scope, _: &mut Tally) -> Result<()> {
    let packages = if scope.packages.is_empty() { tidy::members()? } else { scope.packages.clone() };
    for package in &packages {
        process::run(&mut cargo(["check", "-p", package]))?;
    }
    for (package, features) in FEATURES.iter().filter(|(of, _)| packages.iter().any(|package| package == of))
    {
        let lint = ["clippy", "-p", package, "--no-default-features", "--features", features];
        process::run(cargo(lint).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn deny(_: &Scope, _: &mut Tally) -> Result<()> {
    let program = cargo_deny()?;
    let check = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(process::root()).args(["--all-features", "check"]).args(args);
        process::run(&mut command)
    };
    check(&["bans", "licenses", "sources"])?;
    let mut fetch = Command::new(&program);
    fetch.current_dir(process::root()).args(["fetch", "db"]);
    if process::succeeds_within(&mut fetch, Duration::from_secs(120))? {
        check(&["--disable-fetch", "advisories"])
    } else {
        println!("advisories SKIPPED: the advisory database cannot be reached from here");
        Ok(())
    }
}

/// The cargo-deny of this machine, or our own, which is installed when it is missing.
fn cargo_deny() -> Result<PathBuf> {
    let tools = target().join("tools");
    let ours = tools.join("bin").join(format!("cargo-deny{}", env::consts::EXE_SUFFIX));
    for program in [PathBuf::from("cargo-deny"), ours.clone()] {
        if Command::new(&program).arg("--version").output().is_ok_and(|o| o.status.success()) {
            return Ok(program);
        }
    }
    println!("cargo-deny is missing; it takes some minutes to build");
    // Without optimisation it is built in half the time, and runs for seconds.
    let mut install =
        cargo(["install", "cargo-deny", "--locked", "--debug", "--version", CARGO_DENY, "--root"]);
    process::run(install.arg(&tools))?;
    Ok(ours)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn summaries_of_test_binaries_are_summed_and_other_lines_are_not() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 21 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.06s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.read(line);
        }
        assert_eq!(tally, Tally { passed: 23, failed: 3 });
    }
}
