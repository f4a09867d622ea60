//! The S3-compatible server that the embedded store is tested against: moto, from PyPI, which puts an object
//! only where none is when a request says so, also when many ask at once.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{answers, apt, output, target};
use crate::server::{self, http_status};

/// The release that is tested against.
const MOTO: &str = "5.2.5";
/// The bucket of the tests.
const BUCKET: &str = "qmtl-test";
/// How long the server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs as long as this value lives.
pub(crate) struct Server {
    program: PathBuf,
    port: u16,
    child: Child,
}

impl Server {
    /// A server for tests. `None`, with a line that says what is left out, where there can be none;
    /// an error where backends are required.
    pub(crate) fn for_tests() -> Result<Option<Self>> {
        server::for_tests("server of S3", Self::start())
    }

    fn start() -> Result<Self> {
        let program = install()?;
        let log = target().join("moto.log");
        // A port may be taken between finding it and binding it, which ends the server.
        for _ in 0..3 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let file = File::create(&log)?;
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
            let child = command.spawn().context("start moto_server")?;
            let mut server = Self { program: program.clone(), port, child };
            if server.comes_up()? {
                println!("moto {MOTO} answers at 127.0.0.1:{port}");
                return Ok(server);
            }
        }
        bail!("moto did not come up; its log is {}", log.display())
    }

    /// Waits until the server has the bucket; false when it ended before.
    fn comes_up(&mut self) -> Result<bool> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE && self.child.try_wait()?.is_none() {
            if http_status(self.port, &format!("PUT /{BUCKET}")).is_ok_and(|status| status == "200") {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }

    /// Tells a command of tests where the server is, as its users are told: by the usual variables.
    pub(crate) fn told(&self, command: &mut Command) {
        command.env("QMTL_TEST_S3_URL", format!("s3://{BUCKET}"));
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "test");
        command.env("AWS_SECRET_ACCESS_KEY", "test");
        // Tests of access start one that checks credentials.
        command.env("QMTL_TEST_MOTO_SERVER", &self.program);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's program, in a folder of its own where pip puts it when it is not there.
fn install() -> Result<PathBuf> {
    let folder = target().join(format!("moto-{MOTO}"));
    let program = folder.join("bin/moto_server");
    if program.exists() {
        return Ok(program);
    }
    // Debian has the two apart, and without the second a folder is made that has no pip.
    if !answers("python3", "--version")
        || output(Command::new("python3").args(["-c", "import ensurepip"])).is_err()
    {
        apt("python3-venv", "Python 3 with venv")?;
    }
    println!("installing moto {MOTO} from PyPI …");
    let _ = fs::remove_dir_all(&folder);
    output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let package = format!("moto[server]=={MOTO}");
    output(Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "--quiet", &package]))?;
    if program.exists() { Ok(program) } else { bail!("pip put no program at {}", program.display()) }
}
