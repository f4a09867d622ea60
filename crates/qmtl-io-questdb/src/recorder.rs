//! The recorder: single events into batches, batches into tables, nothing lost on the way.

mod buffer;
mod config;
mod rows;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    BatchStream, Error, ErrorKind, EventRecorder, EventSource, Interval, NodeId, OnConflict, ReadRequest,
    Result, SeriesKey, StreamBinding, StreamKind, TimeRange, Timestamp, WriteRequest, async_trait, frame,
};
use tokio::sync::{Notify, watch};

use crate::naming;
use crate::schema::Table;
use crate::store::Store;
use crate::transport::{Scan, in_runtime};
use crate::{QuestDbBackend, values};
use buffer::{Buffer, Taken};
pub use config::RecorderConfig;
use rows::{by_time, event, joined};

/// The pause after the first try that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Writes what nodes emit to a QuestDB, in batches.
///
/// - Bars go into the table of the series' bars, where a later event of the same time replaces the
///   earlier one; they are coverage. Plain events go into a table of their own, `…_events`, as they
///   come and without deduplication. A series that no stream was bound for is one of bars.
/// - [`persist`](EventRecorder::persist) checks the event, takes it and returns; it waits while
///   [`RecorderConfig::capacity`] events are unwritten. A batch is written when it is full or old.
/// - While the server is away a batch is tried again with growing pauses, and nothing is dropped.
///   A batch that the server refuses for good is dropped; the next [`flush`](EventRecorder::flush)
///   says so, with the count. A try that was cut off midway may have been stored: bars do not mind,
///   plain events may then stand twice.
/// - When [`flush`](EventRecorder::flush) returns, everything taken before is stored and visible.
///   Dropping the recorder without it loses what [`unwritten`](Self::unwritten) counts, and logs it.
#[derive(Clone)]
pub struct QuestDbRecorder {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    config: RecorderConfig,
    kinds: Mutex<HashMap<SeriesKey, StreamKind>>,
    buffer: Mutex<Buffer>,
    /// There is work: a batch is full, or somebody flushes.
    work: Notify,
    /// There is room again.
    room: Notify,
    /// Counts the writes that have ended, so that flushers know when to look again.
    written: watch::Sender<u64>,
}

impl QuestDbRecorder {
    /// A recorder into the backend's store. Its task starts with the first event.
    #[must_use]
    pub fn new(backend: &QuestDbBackend) -> Self {
        Self::with_config(backend, RecorderConfig::default())
    }

    /// A recorder that gathers events so.
    #[must_use]
    pub fn with_config(backend: &QuestDbBackend, config: RecorderConfig) -> Self {
        let inner = Inner {
            store: Arc::clone(&backend.store),
            config,
            kinds: Mutex::default(),
            buffer: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
            written: watch::Sender::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Events that were taken and are not stored yet.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.inner.buffer().len()
    }
}

impl fmt::Debug for QuestDbRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuestDbRecorder")
            .field("store", &self.inner.store.config.to_string())
            .field("config", &self.inner.config)
            .field("unwritten", &self.unwritten())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let unwritten = self.buffer().len();
        if unwritten > 0 {
            tracing::error!(
                events = unwritten,
                "a recorder was dropped before it was flushed; its events are lost"
            );
        }
    }
}

impl Inner {
    fn buffer(&self) -> std::sync::MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self, key: &SeriesKey) -> StreamKind {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or_default()
    }

    /// Writes what was taken, series by series, until it is stored or refused for good.
    async fn write(&self, taken: Taken) {
        for (key, rows) in taken.series {
            let (mut pause, events) = (FIRST_PAUSE, rows.num_rows());
            let outcome = loop {
                let error = match self.try_write(&key, &rows).await {
                    Err(error) if is_passing(&error) => error,
                    outcome => break outcome,
                };
                tracing::warn!(series = %key, events, error = error.chain(), "events are not stored yet");
                self.buffer().note(error);
                self.written.send_modify(|count| *count += 1);
                self.store.clock.sleep(pause).await;
                pause = std::cmp::min(pause.saturating_mul(2), self.config.max_pause);
            };
            match outcome {
                Ok(()) => self.buffer().stored(),
                Err(error) => {
                    tracing::error!(series = %key, events, error = error.chain(), "events are lost");
                    self.buffer().refused(error);
                }
            }
            self.room.notify_waiters();
        }
        self.buffer().settled(taken.up_to);
        self.written.send_modify(|count| *count += 1);
    }

    async fn try_write(&self, key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
        match self.kind(key) {
            StreamKind::Bars => {
                let request = WriteRequest::new(key.clone()).with_on_conflict(OnConflict::Replace);
                self.store.write(&request, by_time(rows, StreamKind::Bars)?).await.map(drop)
            }
            StreamKind::Events => {
                let table = naming::events_table(&self.store.config, &key.node_id);
                let columns = values::columns(key, rows)?;
                self.store.table_for(&table, key, &columns).await?;
                self.store.transport.send(&table, key, rows).await?;
                self.store.transport.settle(&table).await
            }
        }
    }
}

/// The task behind a recorder. It goes when nothing waits, and holds the recorder until then: what
/// was taken is written also when every other handle is gone.
async fn work(recorder: Arc<Inner>) {
    loop {
        {
            let full = recorder.work.notified();
            tokio::pin!(full);
            full.as_mut().enable();
            let is_urgent = {
                let mut buffer = recorder.buffer();
                if buffer.rests() {
                    return;
                }
                buffer.is_urgent(recorder.config.batch)
            };
            if !is_urgent {
                tokio::select! {
                    () = full => {}
                    () = recorder.store.clock.sleep(recorder.config.delay) => {}
                }
            }
        }
        let taken = recorder.buffer().take();
        match taken {
            Ok(taken) => recorder.write(taken).await,
            Err(error) => tracing::error!(error = error.chain(), "events cannot be put together"),
        }
    }
}

/// Whether the same batch may be stored later: the server is away, or cannot write for now.
fn is_passing(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Storage
}

#[async_trait]
impl EventRecorder for QuestDbRecorder {
    async fn persist(
        &self,
        node_id: &NodeId,
        interval: Interval,
        timestamp: Timestamp,
        payload: RecordBatch,
    ) -> Result<()> {
        in_runtime()?;
        let inner = &self.inner;
        let key = SeriesKey { node_id: node_id.clone(), interval };
        let event = event(&key, inner.kind(&key), timestamp, &payload)?;
        let (event, _) = values::storable(&key, &event, inner.store.config.nan_as_null)?;
        loop {
            let room = inner.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut buffer = inner.buffer();
                let has_room = buffer.len() < inner.config.capacity;
                if has_room {
                    buffer.push(&key, event.clone())?;
                }
                if !has_room || buffer.is_urgent(inner.config.batch) {
                    inner.work.notify_one();
                }
                if buffer.starts() {
                    tokio::spawn(work(Arc::clone(inner)));
                }
                if has_room {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// As the trait says. An error while the server is away, the events being kept; an error when
    /// events were refused since the last flush, which are lost.
    async fn flush(&self) -> Result<()> {
        in_runtime()?;
        let inner = &self.inner;
        let mut written = inner.written.subscribe();
        let goal = inner.buffer().flush_goal();
        loop {
            written.mark_unchanged();
            {
                let mut buffer = inner.buffer();
                if let Some(lost) = buffer.lost() {
                    return Err(lost);
                }
                if buffer.is_past(goal) {
                    return Ok(());
                }
                if let Some(error) = buffer.trouble() {
                    return Err(Error::new(
                        error.kind(),
                        "events are not stored yet; they are kept and tried again",
                    )
                    .retryable(true)
                    .with("events", buffer.len())
                    .caused_by(error));
                }
                if buffer.starts() {
                    tokio::spawn(work(Arc::clone(inner)));
                }
            }
            inner.work.notify_one();
            written.changed().await.map_err(|_| Error::unexpected("the recorder is gone"))?;
        }
    }

    fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
        let mut kinds = self.inner.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(binding.key.clone(), binding.kind);
        Ok(())
    }
}

#[async_trait]
impl EventSource for QuestDbRecorder {
    async fn stored(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream> {
        let store = &self.inner.store;
        if self.inner.kind(key) == StreamKind::Bars {
            return store.read(&ReadRequest::new(key.clone(), range)).await;
        }
        let name = naming::events_table(&store.config, &key.node_id);
        let Some(table) = Table::load(&store.transport.wire, &name).await? else {
            return Ok(BatchStream::empty(frame::ts_only_schema()));
        };
        let columns = table.projected(key, None)?;
        store.transport.wire_rows(&Scan { table, key: key.clone(), range, columns }, StreamKind::Events).await
    }

    async fn buffered(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream> {
        let rows = self.inner.buffer().rows(key);
        let rows = by_time(&joined(&rows)?, self.inner.kind(key))?;
        let ts = frame::timestamps(&rows)?.values();
        let from = ts.partition_point(|micros| *micros < range.start().as_micros());
        let to = ts.partition_point(|micros| *micros < range.end().as_micros());
        Ok(BatchStream::from_batches(rows.schema(), vec![rows.slice(from, to - from)]))
    }
}
