//! A backend whose coverage is remembered as long as nothing changes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, HistoryBackend, Maintenance, ReadRequest, Result,
    SeriesKey, TimeRange, WriteReceipt, WriteRequest, async_trait,
};

/// Series whose coverage is kept in memory at most.
const CACHED_SERIES: usize = 1_024;

/// Passes every call on to `B`, and remembers the coverage of whole series, which it believes only
/// while the series' revision is the same: asking again costs one call of
/// [`revision`](HistoryBackend::revision), whoever else writes.
#[derive(Debug)]
pub struct Cached<B> {
    inner: B,
    known: Mutex<HashMap<SeriesKey, (u64, Coverage)>>,
}

impl<B: HistoryBackend> Cached<B> {
    /// Remembers the coverage of `backend`.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self { inner: backend, known: Mutex::default() }
    }

    /// The backend that is asked.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn remembered(&self, key: &SeriesKey, revision: u64, range: TimeRange) -> Option<Coverage> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(at, _)| *at == revision).map(|(_, coverage)| coverage.within(range))
    }

    fn remember(&self, key: &SeriesKey, revision: u64, coverage: Coverage) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED_SERIES && !known.contains_key(key) {
            known.clear();
        }
        known.insert(key.clone(), (revision, coverage));
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: HistoryBackend> HistoryBackend for Cached<B> {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.inner.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.inner.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        self.inner.write_rows(request, rows).await
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let Some(revision) = self.inner.revision(key).await? else { return Ok(Coverage::default()) };
        if let Some(coverage) = self.remembered(key, revision, range) {
            return Ok(coverage);
        }
        // What changes after the revision was read may be in it or not; the revision tells next time.
        let coverage = self.inner.coverage(key, TimeRange::ALL).await?;
        let asked = coverage.within(range);
        self.remember(key, revision, coverage);
        Ok(asked)
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.inner.series().await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.inner.revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.inner.maintenance()
    }
}
