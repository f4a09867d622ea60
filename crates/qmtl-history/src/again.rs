//! Requesting stored bars once more: a store in which nothing is there, and what comes wins, or is compared.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::frame::{self, Conflict};
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, HistoryBackend, HistoryBackendExt, Maintenance,
    OnConflict, RangeSet, ReadRequest, Result, SeriesKey, TimeRange, WriteReceipt, WriteRequest, async_trait,
};

/// A backend as a fill sees it that requests everything again: nothing is there but what this fill has brought.
#[derive(Debug)]
pub(crate) struct Again<B> {
    backend: B,
    is_compared: bool,
    done: Mutex<HashMap<SeriesKey, Done>>,
}

#[derive(Debug, Default)]
struct Done {
    coverage: Coverage,
    replaced: u64,
    compared: Compared,
}

/// How what came differs from what is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compared {
    /// The first rows that differ, `kept` being what is stored.
    pub(crate) differing: Vec<Conflict>,
    /// How many do.
    pub(crate) count: u64,
    /// Bars that are not stored.
    pub(crate) new: RangeSet,
    /// What the source had a row for, or proved to be absent.
    pub(crate) coverage: Coverage,
}

/// Differing rows that are named; all are counted.
const NAMED: usize = 1_000;

impl<B: HistoryBackend> Again<B> {
    /// What comes takes the place of what is stored, and a stored bar that does not come stays as it is.
    pub(crate) fn replacing(backend: B) -> Self {
        Self { backend, is_compared: false, done: Mutex::default() }
    }

    /// What comes is compared with what is stored, and nothing is written.
    pub(crate) fn comparing(backend: B) -> Self {
        Self { is_compared: true, ..Self::replacing(backend) }
    }

    /// The rows of a series that took the place of stored ones.
    pub(crate) fn replaced(&self, key: &SeriesKey) -> u64 {
        self.done().get(key).map_or(0, |done| done.replaced)
    }

    /// How a series differs.
    pub(crate) fn compared(&self, key: &SeriesKey) -> Compared {
        let done = self.done();
        let done = done.get(key);
        done.map_or_else(Compared::default, |done| Compared {
            coverage: done.coverage.clone(),
            ..done.compared.clone()
        })
    }

    fn done(&self) -> MutexGuard<'_, HashMap<SeriesKey, Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares rows with what is stored of the same bars.
    async fn compare(&self, key: &SeriesKey, rows: &RecordBatch, present: &RangeSet) -> Result<()> {
        let Some(span) = present.span() else { return Ok(()) };
        let stored = self.backend.read_all(&ReadRequest::new(key.clone(), span)).await?;
        let differing = frame::differences(&stored, rows)?;
        let new = present.difference(&frame::row_runs(key, &stored)?);
        let mut done = self.done();
        let compared = &mut done.entry(key.clone()).or_default().compared;
        compared.count += differing.len() as u64;
        let room = NAMED.saturating_sub(compared.differing.len());
        compared.differing.extend(differing.into_iter().take(room));
        compared.differing.sort_by_key(|row| row.ts);
        compared.new.extend(new.iter());
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: HistoryBackend> HistoryBackend for Again<B> {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.backend.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.backend.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let present = frame::row_runs(&request.key, &rows)?;
        let receipt = if self.is_compared {
            self.compare(&request.key, &rows, &present).await?;
            WriteReceipt::new(rows.num_rows() as u64, 0, 0)
        } else {
            let replacing = request.clone().with_on_conflict(OnConflict::Replace);
            self.backend.write_rows(&replacing, rows).await?
        };
        let mut done = self.done();
        let done = done.entry(request.key.clone()).or_default();
        done.coverage.add_present(&present);
        request.empty.iter().for_each(|proof| done.coverage.add_empty(proof));
        done.replaced += receipt.rows_replaced;
        // To the fill, both kinds of rows are rows that it stored.
        Ok(WriteReceipt::new(receipt.rows_written + receipt.rows_replaced, 0, receipt.rows_kept_out))
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        Ok(self.done().get(key).map_or_else(Coverage::default, |done| done.coverage.within(range)))
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
