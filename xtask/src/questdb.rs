//! A QuestDB to test against: from `docker-compose.yml` where a container engine answers, else
//! from the jar on Maven Central with the Java at hand, on free ports.

mod install;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::flags;
use crate::process::{self, cargo, root, shown, succeeds_within, target};
use crate::server::{self, http_status};

/// The release that is tested against.
const VERSION: &str = "9.3.4";
/// The ports of a server for hand work, and of the one in a container.
const PORTS: Ports = Ports { pg: 8812, http: 9000 };
/// What a server is told, from the jar or in a container. The tests suspend tables.
const SETTINGS: [(&str, &str); 4] = [
    ("QDB_LINE_TCP_ENABLED", "false"),
    ("QDB_TELEMETRY_ENABLED", "false"),
    ("QDB_CAIRO_COMMIT_MODE", "sync"),
    ("QDB_DEV_MODE_ENABLED", "true"),
];
/// What a server for tests is told besides: each column and symbol of their thousand small tables
/// takes such a page on the disk, which is 16 MB by default, and stays open for minutes after its last use.
const SMALL: [(&str, &str); 7] = [
    ("QDB_CAIRO_WRITER_DATA_INDEX_VALUE_APPEND_PAGE_SIZE", "262144"),
    ("QDB_CAIRO_WRITER_DATA_APPEND_PAGE_SIZE", "262144"),
    ("QDB_CAIRO_WAL_WRITER_DATA_APPEND_PAGE_SIZE", "65536"),
    ("QDB_CAIRO_IDLE_CHECK_INTERVAL", "1000"),
    ("QDB_CAIRO_INACTIVE_READER_TTL", "2000"),
    ("QDB_CAIRO_INACTIVE_WRITER_TTL", "2000"),
    ("QDB_CAIRO_WAL_INACTIVE_WRITER_TTL", "2000"),
];
/// Where the healthcheck of the container asks.
#[cfg(test)]
const PROBE: u16 = 9003;
/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where a server answers on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    /// The PostgreSQL wire.
    pg: u16,
    /// Line protocol and exports.
    http: u16,
}

impl Ports {
    /// Two ports that nobody listens on.
    fn free() -> Result<Self> {
        // Both are held until both are known, so that they differ.
        let (pg, http) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        Ok(Self { pg: pg.local_addr()?.port(), http: http.local_addr()?.port() })
    }

    fn dsn(self) -> String {
        format!("questdb://admin:quest@127.0.0.1:{}/qdb?http={}", self.pg, self.http)
    }

    fn answer(self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.pg)).is_ok()
            && http_status(self.http, "GET /ping").is_ok_and(|status| status == "204")
    }
}

/// A server that runs as long as this value lives.
pub(crate) struct Server {
    ports: Ports,
    kind: Kind,
}

enum Kind {
    Jar { child: Child, folder: PathBuf },
    Compose,
}

impl Server {
    /// The ports of the PostgreSQL wire and of HTTP.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.ports.pg, self.ports.http]
    }

    /// Tells a command of tests where the server is.
    pub(crate) fn told(&self, command: &mut Command) {
        command.env("QMTL_TEST_QUESTDB_DSN", self.ports.dsn());
        if let Ok(jar) = install::jar() {
            // Tests that kill a server start one of their own.
            command.env("QMTL_TEST_QUESTDB_JAR", jar);
        }
    }

    /// Starts a server from the jar in an empty folder, as servers at work are set up.
    pub(crate) fn for_bench() -> Result<Self> {
        Self::from_jar(&[])
    }

    fn from_jar(settings: &[(&str, &str)]) -> Result<Self> {
        let jar = install::jar()?;
        let folder = target().join(format!("questdb-{}", std::process::id()));
        // A port may be taken between finding it and binding it, which ends the server.
        for _ in 0..3 {
            fs::create_dir_all(&folder)?;
            let ports = Ports::free()?;
            let mut command = java(&jar, &folder, ports)?;
            let mut child = command.envs(settings.iter().copied()).spawn().context("start java")?;
            if wait(ports, Some(&mut child))? {
                println!("QuestDB {VERSION} answers at 127.0.0.1:{} and :{}", ports.pg, ports.http);
                return Ok(Self { ports, kind: Kind::Jar { child, folder } });
            }
            stop(&mut child);
        }
        bail!("QuestDB did not come up; its log is {}", folder.join("log.txt").display())
    }

    fn from_compose() -> Result<Self> {
        process::run(compose().args(["up", "--detach", "--wait"]))?;
        let server = Self { ports: PORTS, kind: Kind::Compose };
        if wait(PORTS, None)? {
            Ok(server)
        } else {
            bail!("the container is healthy, its ports do not answer")
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Jar { child, folder } => {
                stop(child);
                let _ = fs::remove_dir_all(folder);
            }
            Kind::Compose => {
                let _ = compose().args(["down", "--volumes"]).status();
            }
        }
    }
}

/// A server for tests. `None`, with a line that says what is left out, where there can be none;
/// an error where backends are required.
pub(crate) fn for_tests() -> Result<Option<Server>> {
    let started = if engine_answers() { Server::from_compose() } else { Server::from_jar(&SMALL) };
    server::for_tests("QuestDB", started)
}

/// `cargo xtask integration`: everything that needs a server, nothing skipped.
pub(crate) fn integration(flags: &flags::Integration) -> Result<bool> {
    let server = if flags.compose {
        Server::from_compose()?
    } else {
        for_tests()?.context("integration tests need a QuestDB")?
    };
    // The crate's page is examples that are run; of the program, what names a QuestDB.
    let parts = [
        "conformance",
        "disk",
        "facts",
        "fallback",
        "http",
        "legacy",
        "proofs",
        "recorder",
        "reliability",
        "runtime",
        "wire",
    ];
    let tests = [&["--test", "it", "--", "questdb"][..], &parts].concat();
    let packages = ["--all-features", "--no-fail-fast", "-p", "qmtl-io-questdb", "-p", "qmtl-history"];
    let mut succeeded = true;
    for which in [&["--doc"][..], &tests] {
        let mut command = cargo([&["test"][..], &packages, which].concat());
        command.env("QMTL_REQUIRE_BACKENDS", "1");
        server.told(&mut command);
        let status = command.status().with_context(|| format!("start `{}`", shown(&command)))?;
        succeeded &= status.success();
    }
    Ok(succeeded)
}

/// `cargo xtask questdb up|down`.
pub(crate) fn by_hand(flags: &flags::Questdb) -> Result<bool> {
    match &flags.subcommand {
        flags::QuestdbCmd::Up(_) => up().map(|()| true),
        flags::QuestdbCmd::Down(_) => down().map(|()| true),
    }
}

fn up() -> Result<()> {
    if PORTS.answer() {
        println!("a QuestDB answers already: {}", PORTS.dsn());
        return Ok(());
    }
    if engine_answers() {
        process::run(compose().args(["up", "--detach", "--wait"]))?;
    } else {
        let (jar, folder) = (install::jar()?, by_hand_folder());
        fs::create_dir_all(&folder)?;
        let mut command = java(&jar, &folder, PORTS)?;
        // It outlives this command and the terminal's interrupts.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("start java")?;
        if !wait(PORTS, Some(&mut child))? {
            stop(&mut child);
            bail!("QuestDB did not come up; its log is {}", folder.join("log.txt").display());
        }
        fs::write(folder.join("pid"), child.id().to_string())?;
    }
    println!(
        "QuestDB {VERSION}: --store '{}'\n`cargo xtask questdb down` stops it; its data stays",
        PORTS.dsn()
    );
    Ok(())
}

fn down() -> Result<()> {
    let pid = by_hand_folder().join("pid");
    match fs::read_to_string(&pid) {
        Ok(id) => {
            process::run(Command::new("kill").arg(id.trim()))?;
            fs::remove_file(&pid)?;
        }
        Err(_) if engine_answers() => process::run(compose().arg("down"))?,
        Err(_) => println!("no QuestDB of `cargo xtask questdb up` runs"),
    }
    Ok(())
}

fn by_hand_folder() -> PathBuf {
    target().join("questdb")
}

/// The server's command. Its log goes into its folder.
fn java(jar: &Path, folder: &Path, ports: Ports) -> Result<Command> {
    let log = File::create(folder.join("log.txt"))?;
    let mut command = Command::new("java");
    command.arg("-p").arg(jar).args(["-m", "io.questdb/io.questdb.ServerMain", "-d"]).arg(folder);
    command
        .env("QDB_PG_NET_BIND_TO", format!("127.0.0.1:{}", ports.pg))
        .env("QDB_HTTP_BIND_TO", format!("127.0.0.1:{}", ports.http))
        .env("QDB_HTTP_MIN_ENABLED", "false")
        .envs(SETTINGS);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// Waits until both ports answer; false when the server ended before.
fn wait(ports: Ports, mut child: Option<&mut Child>) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        // A failed bind exits quietly, and another server may answer at its port.
        if let Some(child) = &mut child
            && child.try_wait()?.is_some()
        {
            return Ok(false);
        }
        if ports.answer() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

fn stop(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn compose() -> Command {
    let mut command = Command::new("docker");
    command.current_dir(root()).arg("compose");
    command
}

/// Whether a container engine with compose answers.
fn engine_answers() -> bool {
    let answers = |args: &[&str]| {
        succeeds_within(Command::new("docker").args(args), Duration::from_secs(10)).unwrap_or(false)
    };
    answers(&["info"]) && answers(&["compose", "version"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compose_file_has_the_release_the_ports_and_a_healthcheck() {
        let file = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
        let has = |line: &str| file.lines().any(|l| l.trim() == line);
        assert!(has(&format!("image: questdb/questdb:{VERSION}")));
        for port in [PORTS.pg, PORTS.http, PROBE] {
            assert!(has(&format!("- \"127.0.0.1:{port}:{port}\"")), "{port}");
        }
        let probe = format!("curl --fail --silent http://127.0.0.1:{PROBE}/status");
        assert!(has("healthcheck:") && has(&format!("test: [\"CMD-SHELL\", \"{probe}\"]")));
    }

    #[test]
    fn the_container_is_set_up_as_the_jar_is() {
        let file = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
        for (name, value) in SETTINGS.into_iter().chain(SMALL) {
            let written = [format!("{name}: {value}"), format!("{name}: \"{value}\"")];
            assert!(file.lines().any(|line| written.iter().any(|w| line.trim() == w)), "{name}={value}");
        }
    }

    #[test]
    fn the_two_ports_of_a_server_differ() {
        let ports = Ports::free().unwrap();
        assert_ne!(ports.pg, ports.http);
        assert!(!ports.answer(), "nobody listens there");
    }
}
