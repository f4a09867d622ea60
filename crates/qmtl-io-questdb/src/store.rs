//! What the backend and the recorder share: the tables of one store on one server.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::{Capabilities, Clock, ErrorKind, NodeId, Result, SeriesKey, Timestamp};
use tokio_postgres::types::Type;

use crate::config::QuestDbConfig;
use crate::coverage::Remembered;
use crate::naming::{self, EVENTS, literal, proofs_table, quoted};
use crate::schema::{INTERVAL, NODE_ID, Table, holds};
use crate::transport::{Param, Statement, Transport};

/// Writers of one series in this process take turns, whatever handle they write through: keeping
/// existing rows is a look at the store and a write after it.
static TURNS: LazyLock<[tokio::sync::Mutex<()>; 64]> =
    LazyLock::new(|| std::array::from_fn(|_| tokio::sync::Mutex::new(())));

/// Tables whose series are looked for at once.
const LISTED_AT_ONCE: usize = 4;

/// One store on one server.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: QuestDbConfig,
    pub(crate) transport: Transport,
    pub(crate) clock: Arc<dyn Clock>,
    /// Series that have a row. QuestDB deletes none, so what is true once stays true.
    known: Mutex<HashSet<SeriesKey>>,
    pub(crate) remembered: Remembered,
}

impl Store {
    pub(crate) fn new(config: QuestDbConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let config = config.validated()?;
        let transport = Transport::new(&config, Arc::clone(&clock))?;
        Ok(Self { config, transport, clock, known: Mutex::default(), remembered: Remembered::default() })
    }

    /// The same tables over the same connections, by another clock.
    pub(crate) fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        let transport = self.transport.clone().with_clock(Arc::clone(&clock));
        let config = self.config.clone();
        Self { config, transport, clock, known: Mutex::default(), remembered: Remembered::default() }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("questdb", holds);
        capabilities.nan = false;
        capabilities.adds_columns = self.config.add_columns;
        capabilities.concurrent_keep_existing = false;
        capabilities.earliest = Timestamp::EPOCH;
        capabilities
    }

    /// A node's table as it is now.
    pub(crate) async fn table(&self, node_id: &NodeId) -> Result<Option<Table>> {
        Table::load(&self.transport.wire, &naming::table(&self.config, node_id)).await
    }

    /// The turn of a writer of a series.
    pub(crate) async fn turn(&self, key: &SeriesKey) -> tokio::sync::MutexGuard<'static, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % 64).unwrap_or(0);
        TURNS[stripe].lock().await
    }

    /// Whether the series has a row.
    pub(crate) async fn has_rows(&self, table: &Table, key: &SeriesKey) -> Result<bool> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            return Ok(true);
        }
        let sql = format!(
            "select 1 from {} where \"{NODE_ID}\" = $1 and \"{INTERVAL}\" = $2 limit 1",
            quoted(&table.name)
        );
        let types = [Type::VARCHAR, Type::INT8];
        let statement = Statement { doing: "look for a row", table: &table.name, sql: &sql, types: &types };
        let params: [Param<'_>; 2] = [&naming::stored(&key.node_id), &naming::interval_number(key.interval)];
        let found = !self.transport.wire.query(statement, &params).await?.is_empty();
        if found {
            self.remember(key);
        }
        Ok(found)
    }

    /// Remembers that the series has a row.
    pub(crate) fn remember(&self, key: &SeriesKey) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
    }

    /// A number that is another one after any change of the series, `None` before the first.
    pub(crate) async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let logged = self.logged(key).await?;
        let version = match self.table(&key.node_id).await? {
            Some(table) if self.has_rows(&table, key).await? => Some(self.version(&table).await?),
            _ => None,
        };
        if logged.is_none() && version.is_none() {
            return Ok(None);
        }
        let words = [logged.map_or(0, |l| l.count), logged.map_or(0, |l| l.newest)];
        let (id, txn, rows) = version.unwrap_or_default();
        let bytes: Vec<u8> = words.into_iter().chain([id, txn, rows]).flat_map(i64::to_le_bytes).collect();
        let hash = blake3::hash(&bytes);
        Ok(hash.as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes)))
    }

    /// A table's identity, its last commit, and how many rows it has where commits are not counted.
    async fn version(&self, table: &Table) -> Result<(i64, i64, i64)> {
        let name = &table.name;
        let sql = "select t.id, t.table_name, w.writerTxn from tables() t left join wal_tables() w on w.name = t.table_name";
        let statement = Statement { doing: "read the version of a table", table: name, sql, types: &[] };
        let rows = self.transport.wire.query(statement, &[]).await?;
        let row = rows.iter().find(|row| row.get::<_, &str>(1).eq_ignore_ascii_case(name));
        let (id, txn) = row.map_or((0, None), |row| (row.get::<_, i32>(0), row.get::<_, Option<i64>>(2)));
        let count = if txn.is_some() {
            0
        } else {
            let sql = format!("select count() from {}", quoted(name));
            let statement = Statement { doing: "count rows", table: name, sql: &sql, types: &[] };
            let rows = self.transport.wire.query(statement, &[]).await?;
            rows.first().map_or(0, |row| row.get(0))
        };
        Ok((i64::from(id), txn.unwrap_or(-1), count))
    }

    /// Every series of the store, sorted.
    pub(crate) async fn series(&self) -> Result<BTreeSet<SeriesKey>> {
        let tables = self.tables().await?;
        let lists: Vec<_> = stream::iter(tables)
            .map(|table| async move { self.series_of(&table).await })
            .buffered(LISTED_AT_ONCE)
            .try_collect()
            .await?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// The tables of the store that have a series' columns, the one of proofs included.
    async fn tables(&self) -> Result<BTreeSet<String>> {
        let sql = "select table_name from information_schema.columns() \
                   where column_name in ('node_id', 'interval', 'ts')";
        let statement = Statement { doing: "list tables", table: "", sql, types: &[] };
        let rows = self.transport.wire.query(statement, &[]).await?;
        let mut columns: std::collections::BTreeMap<String, u8> = Default::default();
        for row in &rows {
            *columns.entry(row.get(0)).or_default() += 1;
        }
        let proofs = proofs_table(&self.config);
        let is_ours = |name: &str| {
            let is_proofs = name.eq_ignore_ascii_case(&proofs);
            match &self.config.table {
                Some(table) => is_proofs || name.eq_ignore_ascii_case(table),
                None => {
                    let lower = name.to_lowercase();
                    let is_foreign = lower.ends_with(EVENTS) || lower.ends_with("_qmtl_known_empty");
                    is_proofs || (lower.starts_with(&self.config.prefix.to_lowercase()) && !is_foreign)
                }
            }
        };
        Ok(columns
            .into_iter()
            .filter(|(name, count)| *count == 3 && is_ours(name))
            .map(|(name, _)| name)
            .collect())
    }

    async fn series_of(&self, table: &str) -> Result<Vec<SeriesKey>> {
        let sql =
            format!("select distinct \"{NODE_ID}\"::varchar, \"{INTERVAL}\"::varchar from {}", quoted(table));
        let statement = Statement { doing: "list series", table, sql: &sql, types: &[] };
        let rows = match self.transport.wire.query(statement, &[]).await {
            Ok(rows) => rows,
            // Dropped since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let key = |row: &tokio_postgres::Row| {
            let node_id: Option<&str> = row.try_get(0).ok()?;
            let interval: Option<&str> = row.try_get(1).ok()?;
            let interval = naming::interval_of(interval?.parse().ok()?)?;
            Some(SeriesKey { node_id: naming::node_of(node_id?)?, interval })
        };
        // A row of another tool may name no series.
        Ok(rows.iter().filter_map(key).collect())
    }

    /// Asks the server whether it is there.
    pub(crate) async fn ping(&self) -> Result<()> {
        let sql = format!("select {}", literal("qmtl"));
        let statement = Statement { doing: "say hello", table: "", sql: &sql, types: &[] };
        self.transport.wire.query(statement, &[]).await.map(drop)
    }
}
