//! The servers that the tests talk to: the one that `cargo xtask integration` has started, and
//! ones of their own for those that kill it.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use qmtl_io_questdb::{QuestDbBackend, QuestDbConfig};
use tempfile::TempDir;
use tokio_postgres::{Client as Wire, NoTls};

static STORES: AtomicU32 = AtomicU32::new(0);

/// A variable that `cargo xtask integration` sets.
fn told(variable: &str) -> Option<String> {
    qmtl_history_testkit::told(variable, "`cargo xtask integration` starts a QuestDB")
}

/// An empty store of its own on the shared server.
pub(crate) fn fresh() -> Option<QuestDbConfig> {
    Some(QuestDbConfig::from_dsn(&dsn(&told("QMTL_TEST_QUESTDB_DSN")?)).unwrap())
}

/// The address with a prefix that nobody else uses.
fn dsn(server: &str) -> String {
    let number = STORES.fetch_add(1, Ordering::Relaxed);
    format!("{server}&prefix=t{}_{number}_", std::process::id())
}

/// The same with every series in one table.
pub(crate) fn one_table() -> Option<QuestDbConfig> {
    let dsn = dsn(&told("QMTL_TEST_QUESTDB_DSN")?).replace("&prefix=", "&table=") + "all";
    Some(QuestDbConfig::from_dsn(&dsn).unwrap())
}

/// The same, as text to add parameters to.
pub(crate) fn fresh_dsn() -> Option<String> {
    Some(dsn(&told("QMTL_TEST_QUESTDB_DSN")?))
}

pub(crate) async fn connect(dsn: &str) -> QuestDbBackend {
    QuestDbBackend::connect(QuestDbConfig::from_dsn(dsn).unwrap()).await.unwrap()
}

/// A plain PostgreSQL client of the server at this address.
pub(crate) async fn client(dsn: &str) -> Wire {
    let (address, _) = dsn.split_once('?').unwrap();
    let url = address.replace("questdb://", "postgresql://");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A number that a statement of a plain client gives.
pub(crate) async fn number(client: &Wire, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The port of HTTP of the server at this address.
fn http_port(dsn: &str) -> u16 {
    let (_, parameters) = dsn.split_once("?http=").unwrap();
    parameters.split('&').next().unwrap().parse().unwrap()
}

/// What the HTTP of the server at this address answers to somebody who does not log in: the status
/// and the body.
pub(crate) async fn http(dsn: &str, method: Method, path: &str, body: &'static str) -> (u16, String) {
    let uri = format!("http://127.0.0.1:{}{path}", http_port(dsn));
    let request = Request::builder().method(method).uri(uri).body(Full::new(Bytes::from(body))).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A server of one test, in a folder of its own.
pub(crate) struct Own {
    jar: String,
    folder: TempDir,
    pub(crate) pg: u16,
    pub(crate) http: u16,
    child: Option<Child>,
}

impl Own {
    /// Starts it; `None`, said aloud, where there is no jar.
    pub(crate) fn start() -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Starts it on this folder.
    pub(crate) fn start_in(folder: TempDir) -> Option<Self> {
        let jar = told("QMTL_TEST_QUESTDB_JAR")?;
        let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [pg, http] = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut own = Self { jar, folder, pg, http, child: None };
        own.restart();
        Some(own)
    }

    pub(crate) fn dsn(&self) -> String {
        dsn(&format!("questdb://admin:quest@127.0.0.1:{}/qdb?http={}", self.pg, self.http))
    }

    /// The number of the running process.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Lets a suspended table go on.
    pub(crate) async fn resume(&self, table: &str) {
        let resume = format!("ALTER TABLE \"{table}\" RESUME WAL");
        client(&self.dsn()).await.batch_execute(&resume).await.unwrap();
    }

    /// Ends the server without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts the server on its data, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        let mut java = Command::new("java");
        java.arg("-Xmx512m")
            .arg("-p")
            .arg(&self.jar)
            .args(["-m", "io.questdb/io.questdb.ServerMain", "-d"])
            .arg(self.folder.path());
        java.env("QDB_PG_NET_BIND_TO", format!("127.0.0.1:{}", self.pg))
            .env("QDB_HTTP_BIND_TO", format!("127.0.0.1:{}", self.http))
            .env("QDB_HTTP_MIN_ENABLED", "false")
            .env("QDB_LINE_TCP_ENABLED", "false")
            .env("QDB_TELEMETRY_ENABLED", "false")
            .env("QDB_CAIRO_COMMIT_MODE", "sync");
        self.child =
            Some(java.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        let open = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        while !(open(self.pg) && open(self.http)) {
            assert!(started.elapsed() < Duration::from_secs(120), "QuestDB does not come up");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}
