//! The backend: the protocol over a store.

use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Clock, Coverage, Error, ErrorKind, HistoryBackend, Maintenance,
    NodeId, ReadRequest, Removed, Result, SeriesKey, SourceId, TimeRange, Timestamp, WriteReceipt,
    WriteRequest, async_trait, stream_of,
};
use qmtl_observe::TokioClock;

use crate::config::QuestDbConfig;
use crate::naming;
use crate::store::Store;

/// A history store on a QuestDB server. Cloning is cheap and shares the connections.
///
/// - A node has a table, named after its id where that can be a name (see [`Self::table_of`]), or
///   every series lives in the one that the configuration names. Rows carry node id and interval.
/// - [`write_rows`](HistoryBackend::write_rows) returns when the rows are visible to every reader.
///   A batch goes in requests of 50,000 rows, each of which is stored whole or not at all.
/// - Keeping existing rows is exact among writers of one process, and among processes that a lease
///   keeps apart; QuestDB has no conditional write, so
///   [`concurrent_keep_existing`](Capabilities::concurrent_keep_existing) is false.
/// - QuestDB knows no time before 1970: rows of then are refused ([`earliest`](Capabilities::earliest)).
/// - Values that QuestDB would alter are refused: NaN and infinities (unless
///   [`with_nan_as_null`](QuestDbConfig::with_nan_as_null)), the smallest integers, null booleans.
#[derive(Clone, Debug)]
pub struct QuestDbBackend {
    pub(crate) store: Arc<Store>,
}

impl QuestDbBackend {
    /// Connects. `Unavailable` when the server gives no connection within the configured time.
    pub async fn connect(config: QuestDbConfig) -> Result<Self> {
        let store = Store::new(config, Arc::new(TokioClock::new()))?;
        store.ping().await?;
        Ok(Self { store: Arc::new(store) })
    }

    /// The clock that dates proofs; the system's unless set. Handles that were cloned before keep theirs.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        Self { store: Arc::new(self.store.with_clock(Arc::new(clock))) }
    }

    /// The table of a node's bars: the configured one, else the node id itself where it is a plain
    /// name, else a readable part of it and its hash.
    #[must_use]
    pub fn table_of(&self, node_id: &NodeId) -> String {
        naming::table(&self.store.config, node_id)
    }

    /// Where the server is.
    #[must_use]
    pub fn config(&self) -> &QuestDbConfig {
        &self.store.config
    }
}

#[async_trait]
impl HistoryBackend for QuestDbBackend {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.store.read(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.store.columns(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        self.store.write(request, rows).await
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        self.store.coverage(key, range).await
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        let series = self.store.series().await?;
        Ok(stream_of(series.into_iter().map(Ok).collect()))
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.store.revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}

#[async_trait]
impl Maintenance for QuestDbBackend {
    async fn prune(&self, key: &SeriesKey, _: Timestamp, _: bool) -> Result<Removed> {
        let message = "a store on a server has no way to prune bars; its own retention does that";
        Err(Error::new(ErrorKind::Unsupported, message).with("series", key))
    }

    /// Revokes the proofs by a row of their log: nothing is deleted.
    async fn forget_empty(
        &self,
        key: &SeriesKey,
        range: TimeRange,
        source: Option<&SourceId>,
        dry_run: bool,
    ) -> Result<Removed> {
        Ok(Removed::new(0, self.store.forget_empty(key, (range, source), dry_run).await?))
    }
}
