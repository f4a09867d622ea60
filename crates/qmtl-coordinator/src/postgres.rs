//! Leases in a PostgreSQL database, which any number of servers share.

mod schema;
mod worker;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod};
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, Lease, Page, Policy, Query, Reply, State, Status, admit,
};
use qmtl_history_api::{Error, ErrorKind, Result, Timestamp, async_trait};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Row};

use self::worker::{Job, Worker};
use crate::LeaseStore;
use crate::sql::{COLUMNS, counts, is_in, state_at};

/// Connections that change leases; each makes many changes with one commit.
const WORKERS: usize = 2;
/// Connections for everything else.
const READERS: usize = 4;
/// How long the server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// What every connection is told: no statement may hang for ever, and no transaction of ours keeps others waiting.
const OPTIONS: &str = "-c statement_timeout=8000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000 \
                       -c application_name=qmtl-coordinator";

/// Leases in the tables `qmtl_lease…` of a PostgreSQL database, made when they are not there; any number of servers
/// share them.
///
/// Changes that are asked for at the same time are made in one transaction, which holds an advisory lock for each of
/// their keys. Leases expire by the database's clock; of one key, time never goes back.
pub struct PostgresStore {
    pool: Pool,
    jobs: mpsc::Sender<Job>,
    /// Where keys are looked at next to be forgotten.
    cursor: Mutex<Vec<u8>>,
}

impl PostgresStore {
    /// Connects to `postgres://user:password@host:5432/database`, and makes or brings up to date its tables. The
    /// password may stand in the variable `PGPASSWORD` instead.
    ///
    /// `InvalidInput` for an address that is none; `Unavailable` when the server does not answer or does not let us in;
    /// `Corrupt` for tables of a newer version; `Storage` when it cannot make them.
    pub async fn connect(url: &str, policy: Policy) -> Result<Self> {
        let mut config = parsed(url)?;
        config.options(OPTIONS).connect_timeout(CONNECT).tcp_user_timeout(CONNECT);
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match config.get_ssl_mode() {
            SslMode::Require => Manager::from_config(config, tls()?, manager),
            _ => Manager::from_config(config, tokio_postgres::NoTls, manager),
        };
        let pool = Pool::builder(manager)
            .max_size(WORKERS + READERS)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(CONNECT))
            .create_timeout(Some(CONNECT))
            .build()
            .map_err(|e| Error::unexpected("a pool without a runtime").caused_by(e))?;
        schema::migrate(&mut client(&pool).await?).await?;
        let (jobs, queue) = mpsc::channel(4_096);
        let (queue, policy) = (Arc::new(Mutex::new(queue)), Arc::new(policy));
        for _ in 0..WORKERS {
            let worker = Worker::new(pool.clone(), Arc::clone(&policy));
            tokio::spawn(worker.run(Arc::clone(&queue)));
        }
        Ok(Self { pool, jobs, cursor: Mutex::default() })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresStore")
    }
}

#[async_trait]
impl BackfillCoordinator for PostgresStore {
    /// `postgres`.
    fn id(&self) -> &str {
        "postgres"
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        admit(key, &mut command)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Error::unexpected("the tasks that write leases have ended");
        self.jobs.send(Job { key: key.to_owned(), command, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let client = client(&self.pool).await?;
        let now = now(&client).await?;
        let (from, comparison) = match query.start() {
            Bound::Excluded(key) => (key, ">"),
            Bound::Included(key) => (key, ">="),
            Bound::Unbounded => ("", ">="),
        };
        let is_wanted = is_in(query.state, "$2::bigint");
        let sql = format!(
            "select {COLUMNS} from qmtl_leases where key {comparison} $1 and {is_wanted} order by key limit $3"
        );
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let statement = client.prepare_cached(&sql).await.map_err(failed)?;
        let rows = client.query(&statement, &[&from.as_bytes(), &now.as_micros(), &limit]).await;
        let rows = rows.map_err(failed)?;
        query.page(now, rows.iter().map(|row| Ok((key(row)?, lease(row)?))))
    }
}

#[async_trait]
impl LeaseStore for PostgresStore {
    /// Keys that are done are counted by the server's own estimate.
    async fn counts(&self) -> Result<Vec<(State, u64)>> {
        let client = client(&self.pool).await?;
        let state = state_at("$1::bigint");
        let sql = format!(
            "select {state} as state, count(*) as keys from qmtl_leases where status <> 'done' group by 1"
        );
        let now = now(&client).await?.as_micros();
        let rows = client.query(&client.prepare_cached(&sql).await.map_err(failed)?, &[&now]).await;
        let open: Vec<_> =
            rows.map_err(failed)?.iter().map(|row| (row.get("state"), row.get("keys"))).collect();
        let sql = "select reltuples::bigint as keys from pg_class where oid = 'qmtl_leases'::regclass";
        let row = client.query_one(&client.prepare_cached(sql).await.map_err(failed)?, &[]).await;
        let all = u64::try_from(row.map_err(failed)?.get::<_, i64>("keys")).unwrap_or(0);
        counts(&open, all)
    }

    async fn forget(&self, before: Timestamp) -> Result<u64> {
        let client = client(&self.pool).await?;
        let mut cursor = self.cursor.lock().await;
        let sql = "with page as (select key from qmtl_leases where key > $1 order by key limit 2000), \
                   gone as (delete from qmtl_leases as old using page where old.key = page.key \
                            and old.status in ('done', 'released', 'partial') \
                            and old.changed_us < $2 and old.until_us < $2 returning 1) \
                   select (select count(*) from gone) as gone, (select count(*) from page) as seen, \
                          (select key from page order by key desc limit 1) as last";
        let statement = client.prepare_cached(sql).await.map_err(failed)?;
        let row = client.query_one(&statement, &[&*cursor, &before.as_micros()]).await.map_err(failed)?;
        let last: Option<Vec<u8>> = row.get("last");
        *cursor = last.filter(|_| row.get::<_, i64>("seen") == 2_000).unwrap_or_default();
        Ok(row.get::<_, i64>("gone").unsigned_abs())
    }
}

/// The database's time in microseconds.
const NOW: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us";

async fn now(client: &Client) -> Result<Timestamp> {
    let statement = client.prepare_cached(&format!("select {NOW}")).await.map_err(failed)?;
    micros(&client.query_one(&statement, &[]).await.map_err(failed)?, "now_us")
}

async fn client(pool: &Pool) -> Result<Client> {
    pool.get().await.map_err(|error| match error {
        deadpool_postgres::PoolError::Backend(error) => failed(error),
        other => Error::unavailable("the database of leases cannot be reached").caused_by(other),
    })
}

fn micros(row: &Row, column: &str) -> Result<Timestamp> {
    Timestamp::from_micros(row.get(column)).map_err(|e| damaged().with("column", column).caused_by(e))
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "a row of the table qmtl_leases is none of ours")
}

fn key(row: &Row) -> Result<String> {
    String::from_utf8(row.get("key")).map_err(|e| damaged().caused_by(e))
}

fn lease(row: &Row) -> Result<Lease> {
    let status = Status::named(row.get("status")).ok_or_else(damaged)?;
    let mut lease = Lease::new(row.get::<_, i64>("fence").unsigned_abs(), row.get("token"), status);
    lease.until = micros(row, "until_us")?;
    lease.granted_at = micros(row, "granted_us")?;
    lease.changed_at = micros(row, "changed_us")?;
    (lease.worker, lease.request_id, lease.reason) =
        (row.get("worker"), row.get("request_id"), row.get("reason"));
    lease.attempts = row.get::<_, i32>("attempts").unsigned_abs();
    lease.missing = row.get::<_, i64>("missing").unsigned_abs();
    (lease.ratio, lease.granted_ratio) = (row.get("ratio"), row.get("granted_ratio"));
    Ok(lease)
}

/// The address, which is not shown: it may hold a password.
fn parsed(url: &str) -> Result<Config> {
    let invalid =
        |message: &str| Error::invalid(message).with("expected", "postgres://USER@HOST:5432/DATABASE");
    let mut config: Config = url.parse().map_err(|_| invalid("not an address of a PostgreSQL database"))?;
    if config.get_hosts().is_empty() {
        return Err(invalid("the address of the database names no host"));
    }
    if config.get_user().is_none() {
        return Err(invalid("the address of the database names no user"));
    }
    if config.get_password().is_none()
        && let Some(password) = std::env::var_os("PGPASSWORD")
    {
        config.password(password.as_encoded_bytes());
    }
    let is_local = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    // A password does not go over a network in the clear unless that is asked for.
    if config.get_ssl_mode() == SslMode::Prefer && !is_local {
        config.ssl_mode(SslMode::Require);
    }
    Ok(config)
}

/// TLS that trusts what the operating system trusts.
fn tls() -> Result<tokio_postgres_rustls::MakeRustlsConnect> {
    let broken = |e| Error::unavailable("the system's certificates cannot be read").caused_by(e);
    // Its own cryptography: an application may bring another one, and a process without a choice panics.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(broken)?
        .with_no_client_auth();
    Ok(tokio_postgres_rustls::MakeRustlsConnect::new(config))
}

/// An error of the database in our words.
fn failed(error: tokio_postgres::Error) -> Error {
    let ours = match error.code() {
        Some(code) if [SqlState::DISK_FULL, SqlState::OUT_OF_MEMORY].contains(code) => {
            Error::new(ErrorKind::Storage, "the database of leases is full: give it room")
        }
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Error::new(
            ErrorKind::Storage,
            "the database of leases is read-only: connect to the primary server, not to a replica",
        ),
        Some(code) if [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::INVALID_SCHEMA_NAME].contains(code) => {
            Error::new(
                ErrorKind::Storage,
                "the user may not make or change tables in the database of leases: `grant create on schema public to …`",
            )
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            Error::unavailable("there is no such database: `createdb` makes it").retryable(false)
        }
        Some(code)
            if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code) =>
        {
            Error::unavailable("the database of leases does not accept the user or the password")
                .retryable(false)
        }
        // A statement that the server does not understand: no such table or column, another type.
        Some(code) if code.code().starts_with("42") => Error::new(
            ErrorKind::Corrupt,
            "the tables of leases are not as this version made them: restore them from a backup, or use another database",
        ),
        Some(_) => Error::unavailable("the database of leases cannot do this now"),
        None => Error::unavailable("the database of leases cannot be reached"),
    };
    // What the server says may quote rows, and rows hold what others chose; it has no secret.
    ours.caused_by(error)
}
