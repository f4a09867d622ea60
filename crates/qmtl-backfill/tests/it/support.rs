//! A store with hooks, a sink that remembers, and the short names of the tests.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, BatchStream, BoxStream, Capabilities, Clock,
    Coverage, DataFetcher, Error, HistoryBackend, HistoryBackendExt, NoProgress, ProgressEvent, ProgressSink,
    RangeSet, ReadRequest, Result, SeriesKey, TimeRange, WriteReceipt, WriteRequest, async_trait, frame,
};
use qmtl_history_testkit::fixtures::{self, ManualClock};
use qmtl_io_memory::MemoryBackend;

type OnWrite = dyn Fn(usize, &RecordBatch) -> Option<Error> + Send + Sync;

/// A memory backend that logs its writes and fails them by script.
pub(crate) struct Store {
    inner: MemoryBackend,
    on_write: Box<OnWrite>,
    writes: Mutex<Vec<RangeSet>>,
    pub(crate) coverage_calls: AtomicUsize,
    pub(crate) coverage_is_down: AtomicBool,
    pub(crate) coverage_hangs: AtomicBool,
    /// Rows that somebody writes right after the coverage has been read, once.
    pub(crate) after_coverage: Mutex<Option<RecordBatch>>,
    /// How many rows a write that fails stores nevertheless, as one over several partitions may.
    pub(crate) torn_after: AtomicUsize,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::failing(|_, _| None)
    }

    /// Fails a write when `on_write` gives an error for it; its first argument counts them from 0.
    pub(crate) fn failing(
        on_write: impl Fn(usize, &RecordBatch) -> Option<Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: MemoryBackend::new(),
            on_write: Box::new(on_write),
            writes: Mutex::default(),
            coverage_calls: AtomicUsize::new(0),
            coverage_is_down: AtomicBool::new(false),
            coverage_hangs: AtomicBool::new(false),
            after_coverage: Mutex::default(),
            torn_after: AtomicUsize::new(0),
        }
    }

    /// Where the rows of each write stood, failed ones included.
    pub(crate) fn writes(&self) -> Vec<RangeSet> {
        self.writes.lock().unwrap().clone()
    }

    /// Puts rows there before a test begins.
    pub(crate) async fn seed(&self, key: &SeriesKey, rows: RecordBatch) {
        self.inner.write_rows(&WriteRequest::new(key.clone()), rows).await.unwrap();
    }

    /// Every row.
    pub(crate) async fn rows(&self, key: &SeriesKey) -> RecordBatch {
        self.inner.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap()
    }

    /// Where rows really stand.
    pub(crate) async fn present(&self, key: &SeriesKey) -> RangeSet {
        self.inner.scan_present(key, TimeRange::ALL).await.unwrap()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

#[async_trait]
impl HistoryBackend for Store {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.inner.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.inner.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let number = {
            let mut writes = self.writes.lock().unwrap();
            writes.push(frame::row_runs(&request.key, &rows)?);
            writes.len() - 1
        };
        match (self.on_write)(number, &rows) {
            Some(error) => {
                let torn = rows.slice(0, self.torn_after.load(Ordering::Relaxed).min(rows.num_rows()));
                self.seed(&request.key, torn).await;
                Err(error)
            }
            None => self.inner.write_rows(request, rows).await,
        }
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        self.coverage_calls.fetch_add(1, Ordering::Relaxed);
        if self.coverage_is_down.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the store is away"));
        }
        if self.coverage_hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let coverage = self.inner.coverage(key, range).await;
        let rows = self.after_coverage.lock().unwrap().take();
        if let Some(rows) = rows {
            self.seed(key, rows).await;
        }
        coverage
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
}

/// Remembers every event.
#[derive(Debug, Default)]
pub(crate) struct Events(pub(crate) Mutex<Vec<ProgressEvent>>);

impl ProgressSink for Events {
    fn on_event(&self, _: &SeriesKey, event: &ProgressEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// The series of most tests: one-minute bars.
pub(crate) fn btc() -> SeriesKey {
    fixtures::key("ohlcv:binance:BTC/USDT:1m", "1m")
}

/// The bars `[first, end)` of [`btc`].
pub(crate) fn span(first: u32, end: u32) -> TimeRange {
    fixtures::span(&btc(), first, end)
}

/// Bars of [`btc`] in several runs.
pub(crate) fn runs<const N: usize>(runs: [(u32, u32); N]) -> RangeSet {
    runs.into_iter().map(|(first, end)| span(first, end)).collect()
}

/// A clock a hundred days after the first bar: all bars have closed, and proofs are for good.
pub(crate) fn late() -> ManualClock {
    ManualClock::new(fixtures::bar(&btc(), 100 * 1_440))
}

/// Fills bars `[first, end)` of [`btc`] and reports.
pub(crate) struct Filling {
    pub(crate) clock: ManualClock,
    pub(crate) config: BackfillConfig,
    pub(crate) progress: Arc<dyn ProgressSink>,
}

impl Filling {
    pub(crate) fn new() -> Self {
        let config = BackfillConfig::default().with_window_bars(10);
        Self { clock: late(), config, progress: Arc::new(NoProgress) }
    }

    pub(crate) fn with_clock(mut self, clock: &ManualClock) -> Self {
        self.clock = clock.clone();
        self
    }

    pub(crate) fn with_config(mut self, change: impl FnOnce(BackfillConfig) -> BackfillConfig) -> Self {
        self.config = change(self.config);
        self
    }

    pub(crate) fn with_progress(mut self, progress: &Arc<Events>) -> Self {
        self.progress = Arc::<Events>::clone(progress);
        self
    }

    pub(crate) fn strategy<F: DataFetcher>(&self, fetcher: &Arc<F>) -> FetcherBackfillStrategy {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        FetcherBackfillStrategy::new(Arc::<F>::clone(fetcher))
            .with_clock(clock)
            .with_config(self.config.clone())
    }

    pub(crate) async fn run<F: DataFetcher>(
        &self,
        fetcher: &Arc<F>,
        store: &Store,
        range: TimeRange,
    ) -> BackfillReport {
        let request = BackfillRequest::new(btc(), range);
        self.strategy(fetcher).ensure_range(&request, store, &*self.progress).await.unwrap()
    }
}

/// What failed, as text.
pub(crate) fn failures(report: &BackfillReport) -> Vec<(TimeRange, String)> {
    report.failed.iter().map(|(range, error)| (*range, error.to_string())).collect()
}
