//! The PostgreSQL that leases are tested against: Debian's package. Each test starts a server of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::apt;
use crate::server;

/// Where its programs are.
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// The programs for tests. `None`, with a line that says what is left out, where there can be none; an error where
    /// backends are required.
    pub(crate) fn for_tests() -> Result<Option<Self>> {
        server::for_tests("PostgreSQL", Self::find_or_install())
    }

    fn find_or_install() -> Result<Self> {
        if let Some(folder) = find() {
            return Ok(Self(folder));
        }
        apt("postgresql", "PostgreSQL")?;
        find().map(Self).context("the package of PostgreSQL brought no `initdb`")
    }

    /// Tells a command of tests where the programs are.
    pub(crate) fn told(&self, command: &mut Command) {
        command.env("QMTL_TEST_POSTGRES_BIN", &self.0);
    }
}

/// The folder with `initdb`: on the path, or where Debian keeps those of each version.
fn find() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&on_path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders
        .into_iter()
        .find(|folder| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists()))
}
