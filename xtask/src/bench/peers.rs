//! What others do with the same work, in Python, installed by pip into a folder of its own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::{output, root, target};

const PACKAGES: [&str; 5] = ["pyarrow", "pandas", "polars", "arcticdb", "duckdb"];
/// What the Python original needs of PyPI to be imported.
const ORIGINAL_NEEDS: [&str; 17] = [
    "aiosqlite",
    "asyncpg",
    "blake3",
    "cachetools",
    "fastapi",
    "grpcio",
    "httpx",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-fastapi",
    "opentelemetry-instrumentation-grpc",
    "opentelemetry-instrumentation-httpx",
    "prometheus-client",
    "protobuf",
    "psutil",
    "PyYAML",
    "redis",
    "xarray",
];

/// The interpreter that has the peers, or why there is none.
pub(super) struct Peers {
    pub(super) python: Result<PathBuf, String>,
}

impl Peers {
    pub(super) fn install() -> Self {
        println!("installing {} …", PACKAGES.join(", "));
        Self { python: python().map_err(|error| format!("{error:#}")) }
    }

    /// Installs packages that only one measure needs.
    pub(super) fn add(&self, packages: &[&str]) -> Result<()> {
        match &self.python {
            Ok(python) => pip_install(python, packages),
            // The table says once that there are no peers.
            Err(_) => Ok(()),
        }
    }

    /// Installs what the Python original needs, where a checkout of it is named.
    pub(super) fn add_original(&self) -> Result<()> {
        if env::var_os("QMTL_ORIGINAL").is_some() { self.add(&ORIGINAL_NEEDS) } else { Ok(()) }
    }

    /// What a script of `xtask/peers` prints: a peer's name and its number on each line. What it says
    /// on stderr is passed through.
    pub(super) fn run(&self, script: &str) -> Result<Vec<(String, f64)>> {
        self.run_with(script, &[])
    }

    /// The same of a script that works in a folder.
    pub(super) fn run_in(&self, script: &str, folder: &Path) -> Result<Vec<(String, f64)>> {
        self.run_with(script, &[folder])
    }

    /// The same of a script that works on files.
    pub(super) fn run_on(&self, script: &str, files: &[&Path]) -> Result<Vec<(String, f64)>> {
        self.run_with(script, files)
    }

    fn run_with(&self, script: &str, args: &[&Path]) -> Result<Vec<(String, f64)>> {
        let Ok(python) = &self.python else { return Ok(Vec::new()) };
        let mut command = Command::new(python);
        command.arg(root().join("xtask/peers").join(script)).args(args).stderr(Stdio::inherit());
        parse(&output(&mut command)?)
    }
}

fn python() -> Result<PathBuf> {
    let folder = target().join("bench-venv");
    let python = folder.join("bin/python");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    pip_install(&python, &PACKAGES)?;
    Ok(python)
}

fn pip_install(python: &Path, packages: &[&str]) -> Result<()> {
    output(Command::new(python).args(["-m", "pip", "install", "--quiet"]).args(packages)).map(drop)
}

fn parse(text: &str) -> Result<Vec<(String, f64)>> {
    let mut numbers = Vec::new();
    for line in text.lines() {
        match line.rsplit_once(' ').map(|(name, number)| (name, number.parse())) {
            Some((name, Ok(number))) => numbers.push((name.to_owned(), number)),
            _ => bail!("a peer printed {line:?} instead of a name and a number"),
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_print_names_and_numbers() {
        assert_eq!(parse("pyarrow 26 1.5\n").unwrap(), [("pyarrow 26".to_owned(), 1.5)]);
        assert!(parse("Traceback").unwrap_err().to_string().contains("\"Traceback\""));
    }
}
