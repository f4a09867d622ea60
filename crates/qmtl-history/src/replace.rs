//! Replacing stored bars on purpose: a store that asks for everything and lets what comes win.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, HistoryBackend, Maintenance, OnConflict, ReadRequest,
    Result, SeriesKey, TimeRange, WriteReceipt, WriteRequest, async_trait, frame,
};

/// A backend as a fill that replaces sees it: nothing is there but what this fill has written. So
/// every bar is asked for again, what comes takes the place of what is stored, and a stored bar that
/// does not come stays as it is.
#[derive(Debug)]
pub(crate) struct Replacing<B> {
    backend: B,
    done: Mutex<HashMap<SeriesKey, Done>>,
}

#[derive(Debug, Default)]
struct Done {
    coverage: Coverage,
    replaced: u64,
}

impl<B> Replacing<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self { backend, done: Mutex::default() }
    }

    /// The rows of a series that took the place of stored ones.
    pub(crate) fn replaced(&self, key: &SeriesKey) -> u64 {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.get(key).map_or(0, |done| done.replaced)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: HistoryBackend> HistoryBackend for Replacing<B> {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.backend.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.backend.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let present = frame::row_runs(&request.key, &rows)?;
        let replacing = request.clone().with_on_conflict(OnConflict::Replace);
        let receipt = self.backend.write_rows(&replacing, rows).await?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let done = done.entry(request.key.clone()).or_default();
        done.coverage.add_present(&present);
        request.empty.iter().for_each(|proof| done.coverage.add_empty(proof));
        done.replaced += receipt.rows_replaced;
        // To the fill, both kinds of rows are rows that it stored.
        Ok(WriteReceipt::new(receipt.rows_written + receipt.rows_replaced, 0, receipt.rows_kept_out))
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(done.get(key).map_or_else(Coverage::default, |done| done.coverage.within(range)))
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.backend.series().await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.backend.revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.backend.maintenance()
    }
}
