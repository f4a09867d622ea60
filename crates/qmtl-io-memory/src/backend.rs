//! The backend: a map of series behind one lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, HistoryBackend, ReadRequest, Result, SeriesKey,
    TimeRange, WriteReceipt, WriteRequest, async_trait, frame, stream_of,
};

use crate::series::Series;

/// A store in memory, gone when it is dropped. Share it as `Arc<MemoryBackend>`.
///
/// It holds every Arrow type. A read is a copy of the rows taken under the lock, so a stream shows
/// one moment of the series and holds nothing up.
#[derive(Default)]
pub struct MemoryBackend {
    series: RwLock<BTreeMap<SeriesKey, Series>>,
}

impl MemoryBackend {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<SeriesKey, Series>> {
        // A write either fails before it changes anything or cannot fail: poison means nothing.
        self.series.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HistoryBackend for MemoryBackend {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        match self.read().get(&request.key) {
            Some(series) => series.read(request),
            None => Series::default().read(request),
        }
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        Ok(self.read().get(key).map_or_else(frame::ts_only_schema, Series::schema))
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        frame::check(&request.key, &rows)?;
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&request.key) {
            Some(series) => series.write(request, rows),
            None => {
                let mut series = Series::default();
                let receipt = series.write(request, rows)?;
                if series.revision() > 0 {
                    all.insert(request.key.clone(), series);
                }
                Ok(receipt)
            }
        }
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        Ok(self.read().get(key).map(|series| series.coverage(range)).unwrap_or_default())
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        Ok(stream_of(self.read().keys().cloned().map(Ok).collect()))
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        Ok(self.read().get(key).map(Series::revision))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("memory", |_| true)
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("series", &self.read().len()).finish_non_exhaustive()
    }
}
