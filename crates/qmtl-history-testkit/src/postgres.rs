//! A PostgreSQL of one's own, to be killed and restarted.

use std::io::{self, Error};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::told;

/// How long the server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster in a temporary folder, on a port of its own, for as long as this value lives.
///
/// The server does not run as root: a test that does starts it as the user `postgres`.
#[derive(Debug)]
pub struct Cluster {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    user: Option<(u32, u32)>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts a server with the programs of the folder that `QMTL_TEST_POSTGRES_BIN` names; `None`, with a line that
    /// says so, where it is not set.
    ///
    /// # Panics
    ///
    /// Without that variable where `QMTL_REQUIRE_BACKENDS=1`.
    pub fn start() -> Option<io::Result<Self>> {
        let programs = told("QMTL_TEST_POSTGRES_BIN", "`cargo xtask test` sets it")?;
        Some(Self::with_programs(Path::new(&programs)))
    }

    /// Starts a server with the programs of this folder: `initdb`, `postgres`, `psql`.
    pub fn with_programs(programs: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let user = if number(&["-u"])? == 0 {
            Some((number(&["-u", "postgres"])?, number(&["-g", "postgres"])?))
        } else {
            None
        };
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut cluster = Self { programs: programs.to_owned(), folder, port, user, child: None };
        let mut init = cluster.program("initdb");
        init.args(["--no-sync", "--auth=trust", "--username=qmtl", "--encoding=UTF8", "--locale=C", "-D"]);
        succeeded(&init.arg(cluster.data()).output()?)?;
        cluster.restart()?;
        Ok(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The address of a database of this name, which [`Cluster::create`] makes; `postgres` is there.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://qmtl@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a database.
    pub fn create(&self, database: &str) -> io::Result<String> {
        self.execute("postgres", &format!("create database {database}"))?;
        Ok(self.url(database))
    }

    /// Runs SQL; what it prints, one row a line.
    pub fn execute(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut psql = self.program("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url(database)]);
        succeeded(&psql.output()?)
    }

    /// Kills the server without a word, as a machine does that loses its power; its disk keeps what it was given.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Each connection's process is a session of its own, and may go on for a moment without the one that began it.
            let id = child.id();
            let own = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            // They may have ended by themselves.
            let _ = child.kill();
            let _ =
                Command::new("kill").arg("-KILL").args(own.split_whitespace()).stderr(Stdio::null()).status();
            let _ = child.wait();
        }
    }

    /// Starts the server again, and waits until it answers.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let started = Instant::now();
        loop {
            let mut server = self.program("postgres");
            server.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
            for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"] {
                server.args(["-c", setting]);
            }
            self.child = Some(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
            while self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
                if self.execute("postgres", "select 1").is_ok() {
                    return Ok(());
                }
                if started.elapsed() > PATIENCE {
                    return Err(Error::other("the server does not answer"));
                }
                thread::sleep(Duration::from_millis(20));
            }
            // The children of one that was killed may not have noticed yet.
            if started.elapsed() > PATIENCE {
                return Err(Error::other("the server ends when it is started"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The number of a user or a group, by `id`.
fn number(args: &[&str]) -> io::Result<u32> {
    let told = succeeded(&Command::new("id").args(args).output()?)?;
    told.trim().parse().map_err(Error::other)
}

fn succeeded(output: &Output) -> io::Result<String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
