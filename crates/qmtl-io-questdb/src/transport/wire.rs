//! The PostgreSQL wire: a pool of connections, statements with deadlines, rows as they come.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures::{FutureExt, Stream, TryStreamExt};
use qmtl_history_api::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{NoTls, Row};

use crate::config::QuestDbConfig;
use crate::error::{self, On};

/// The first instant that PostgreSQL counts from, in microseconds since the epoch.
const PG_EPOCH: i64 = 946_684_800_000_000;

/// A value of a statement.
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// A statement: what it is for, the table that it concerns, its text and the types of its values.
#[derive(Clone, Copy)]
pub(crate) struct Statement<'a> {
    pub(crate) doing: &'static str,
    pub(crate) table: &'a str,
    pub(crate) sql: &'a str,
    pub(crate) types: &'a [Type],
}

/// Rows that come, and the connection that brings them.
pub(crate) struct Rows {
    rows: Pin<Box<dyn Stream<Item = Result<Row>> + Send>>,
    /// Taken out of the pool when the stream is dropped before its end: the server still sends.
    client: Option<Object>,
}

impl Rows {
    /// The next row; an error once nothing came for `deadline`.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Result<Option<Row>> {
        // Most rows have come with the one before them: a timer for each would take longer than the row.
        let next = match self.rows.try_next().now_or_never() {
            Some(next) => next?,
            None => tokio::time::timeout(deadline, self.rows.try_next())
                .await
                .map_err(|_| late("read rows"))??,
        };
        if next.is_none() {
            // Read to the end: the connection is clean and goes back to the pool.
            self.client = None;
        }
        Ok(next)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

/// A pool of connections.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pool: Pool,
    deadline: Duration,
    shown: String,
}

impl Wire {
    pub(crate) fn new(config: &QuestDbConfig) -> Result<Self> {
        let mut pg = tokio_postgres::Config::new();
        pg.host(config.host.trim_matches(['[', ']']))
            .port(config.port)
            .user(&config.user)
            .password(&config.password.0)
            .dbname(&config.database)
            .application_name("qmtl-history")
            .connect_timeout(config.connect_timeout);
        let manager =
            Manager::from_config(pg, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.connections)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(config.connect_timeout))
            .wait_timeout(Some(config.timeout))
            .recycle_timeout(Some(config.connect_timeout))
            .build()
            .map_err(|e| Error::unexpected("cannot make a pool of connections").caused_by(e))?;
        Ok(Self { pool, deadline: config.timeout, shown: config.to_string() })
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn client(&self) -> Result<Object> {
        in_runtime()?;
        self.pool.get().await.map_err(|e| error::no_connection(&self.shown, e))
    }

    /// Runs statements without values, one after the other. They hold names and numbers, never data.
    pub(crate) async fn run(&self, doing: &'static str, table: &str, sql: &str) -> Result<()> {
        let client = self.client().await?;
        let run =
            async { client.batch_execute(sql).await.map_err(|e| error::statement(e, doing, On(table))) };
        self.within(doing, run).await
    }

    /// All rows of a statement. Asked again once where a pooled connection turns out to be dead.
    pub(crate) async fn query(&self, statement: Statement<'_>, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let ask = async {
            let mut rows = self.stream(statement, params).await?;
            let mut all = Vec::new();
            while let Some(row) = rows.next(self.deadline).await? {
                all.push(row);
            }
            Ok(all)
        };
        self.within(statement.doing, ask).await
    }

    /// The rows of a statement as they come.
    pub(crate) async fn stream(&self, statement: Statement<'_>, params: &[Param<'_>]) -> Result<Rows> {
        match self.try_stream(statement, params).await {
            // The server was restarted since the connection was last used, or the table was made
            // anew under the same name: a fresh connection knows neither.
            Err(error) if error.kind() == ErrorKind::Unavailable || error.kind() == ErrorKind::Unexpected => {
                self.pool.retain(|_, _| false);
                self.try_stream(statement, params).await
            }
            other => other,
        }
    }

    async fn try_stream(&self, statement: Statement<'_>, params: &[Param<'_>]) -> Result<Rows> {
        let client = self.client().await?;
        let doing = statement.doing;
        let start = async {
            let prepared = client.prepare_typed_cached(statement.sql, statement.types).await?;
            client.query_raw(&prepared, params.iter().copied()).await
        };
        let started = tokio::time::timeout(self.deadline, start).await.map_err(|_| late(doing))?;
        let table = statement.table.to_owned();
        let rows = started.map_err(|e| error::statement(e, doing, On(&table)))?;
        let rows = rows.map_err(move |e| error::statement(e, doing, On(&table)));
        Ok(Rows { rows: Box::pin(rows), client: Some(client) })
    }

    /// Inserts rows one by one in one transaction: for tables that HTTP cannot write.
    pub(crate) async fn insert(
        &self,
        statement: Statement<'_>,
        rows: impl Iterator<Item = Vec<Box<dyn ToSql + Sync + Send>>> + Send,
    ) -> Result<()> {
        let client = self.client().await?;
        let fail = |e| error::statement(e, statement.doing, On(statement.table));
        let work = async {
            let prepared = client.prepare_typed(statement.sql, statement.types).await.map_err(fail)?;
            // `transaction()` sends START TRANSACTION, which QuestDB takes for a table.
            client.batch_execute("BEGIN").await.map_err(fail)?;
            for row in rows {
                let params: Vec<Param<'_>> = row.iter().map(|value| &**value as Param<'_>).collect();
                client.execute(&prepared, &params).await.map_err(fail)?;
            }
            client.batch_execute("COMMIT").await.map_err(fail)
        };
        let done = self.within(statement.doing, work).await;
        if done.is_err() {
            // An open transaction must not come back to the next user of the connection.
            drop(Object::take(client));
        }
        done
    }

    async fn within<T>(&self, doing: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        in_runtime()?;
        tokio::time::timeout(self.deadline, work).await.map_err(|_| late(doing))?
    }
}

/// Timers, connections and tasks panic without a runtime.
pub(crate) fn in_runtime() -> Result<()> {
    Handle::try_current().map(drop).map_err(|e| Error::outside_runtime("QuestDB's client").caused_by(e))
}

fn late(doing: &'static str) -> Error {
    Error::unavailable("QuestDB did not answer in time").with("doing", doing)
}

/// A TIMESTAMP in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Micros(pub(crate) i64);

impl ToSql for Micros {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.0 - PG_EPOCH);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TIMESTAMP | Type::TIMESTAMPTZ)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?).saturating_add(PG_EPOCH)))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TIMESTAMP | Type::TIMESTAMPTZ)
    }
}
