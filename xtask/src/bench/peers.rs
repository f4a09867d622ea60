//! What others do with the same work, in Python, installed by pip into a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::{output, root, target};

const PACKAGES: [&str; 5] = ["pyarrow", "pandas", "polars", "arcticdb", "duckdb"];

/// The interpreter that has the peers, or why there is none.
pub(super) struct Peers {
    pub(super) python: Result<PathBuf, String>,
}

impl Peers {
    pub(super) fn install() -> Self {
        println!("installing {} …", PACKAGES.join(", "));
        Self { python: python().map_err(|error| format!("{error:#}")) }
    }

    /// Installs a package that only one measure needs.
    pub(super) fn add(&self, package: &str) -> Result<()> {
        match &self.python {
            Ok(python) => {
                output(Command::new(python).args(["-m", "pip", "install", "--quiet", package])).map(drop)
            }
            // The table says once that there are no peers.
            Err(_) => Ok(()),
        }
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
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    Ok(python)
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
