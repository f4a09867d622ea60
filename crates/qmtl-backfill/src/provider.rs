//! A history provider over any backend, with filling added.

mod flight;

use std::fmt::Debug;
use std::sync::Arc;

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, BatchStream, Clock, Coverage, DataFetcher, Error,
    ErrorKind, HistoryBackend, HistoryProvider, NoProgress, ProgressSink, ProviderCapabilities, ReadRequest,
    Result, SeriesKey, TimeRange, async_trait,
};
use qmtl_observe::TokioClock;

use crate::{BackfillConfig, Cached, FetcherBackfillStrategy};
use flight::{Flights, Task};

/// Serves a backend's rows, and completes what is missing when it is asked to.
///
/// - [`fetch`](HistoryProvider::fetch) reads the store and never fills.
/// - [`fill_missing`](HistoryProvider::fill_missing) asks the fetcher;
///   [`ensure_range`](HistoryProvider::ensure_range) asks the strategy, and without one the fetcher.
/// - Calls for one series never fill side by side. Equal requests that meet share one run and its
///   report, failure included; others wait and then plan from what the store holds by then. When a
///   caller gives up, the next one that waits carries the run on; the last one's leaving cancels it.
///   Nothing is remembered of a run that has ended.
/// - [`coverage`](HistoryProvider::coverage) is remembered, and believed only while the series'
///   revision is the same.
#[derive(Debug)]
pub struct AugmentedHistoryProvider<B> {
    /// Its memory is for the provider's own coverage; a fill asks the backend itself.
    backend: Cached<Arc<B>>,
    fetcher: Option<Arc<dyn DataFetcher>>,
    strategy: Option<Arc<dyn AutoBackfillStrategy>>,
    clock: Arc<dyn Clock>,
    config: BackfillConfig,
    progress: Arc<dyn ProgressSink>,
    flights: Arc<Flights>,
}

impl<B: HistoryBackend> AugmentedHistoryProvider<B> {
    /// Serves `backend`, on the system's clock, without anything to fill from.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self {
            backend: Cached::new(Arc::new(backend)),
            fetcher: None,
            strategy: None,
            clock: Arc::new(TokioClock::new()),
            config: BackfillConfig::default(),
            progress: Arc::new(NoProgress),
            flights: Arc::default(),
        }
    }

    /// What `fill_missing` asks, and `ensure_range` unless it has a strategy.
    #[must_use]
    pub fn with_fetcher(mut self, fetcher: impl DataFetcher) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// What `ensure_range` does.
    #[must_use]
    pub fn with_auto_backfill(mut self, strategy: impl AutoBackfillStrategy) -> Self {
        self.strategy = Some(Arc::new(strategy));
        self
    }

    /// The clock by which bars close when the fetcher is asked; a strategy has its own.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How the fetcher is asked; a strategy has its own configuration.
    #[must_use]
    pub fn with_config(mut self, config: BackfillConfig) -> Self {
        self.config = config;
        self
    }

    /// Where the progress of every fill is told.
    #[must_use]
    pub fn with_progress(mut self, progress: impl ProgressSink + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// The store behind the provider.
    #[must_use]
    pub fn backend(&self) -> &B {
        self.backend.inner()
    }

    /// The strategy that asks the fetcher, if there is one.
    fn by_fetcher(&self) -> Option<Arc<dyn AutoBackfillStrategy>> {
        let fetcher = Arc::clone(self.fetcher.as_ref()?);
        let strategy = FetcherBackfillStrategy::new(fetcher).with_clock(Arc::clone(&self.clock));
        Some(Arc::new(strategy.with_config(self.config.clone())))
    }

    async fn run(
        &self,
        task: Task,
        request: &BackfillRequest,
        strategy: Arc<dyn AutoBackfillStrategy>,
    ) -> Result<BackfillReport> {
        let (backend, progress) = (Arc::clone(self.backend.inner()), Arc::clone(&self.progress));
        let own = request.clone();
        let fill = async move { strategy.ensure_range(&own, &*backend, &*progress).await };
        self.flights.join(task, request, fill).await
    }
}

#[async_trait]
impl<B: HistoryBackend> HistoryProvider for AugmentedHistoryProvider<B> {
    async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.backend.read_range(request).await
    }

    async fn coverage(&self, key: &SeriesKey) -> Result<Coverage> {
        self.backend.coverage(key, TimeRange::ALL).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<Option<SchemaRef>> {
        let columns = self.backend.schema(key).await?;
        // A series without a row has `ts` alone.
        Ok(Some(columns).filter(|columns| columns.fields().len() > 1))
    }

    /// As the trait says; `NoFetcher` without a fetcher.
    async fn fill_missing(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        let strategy = self.by_fetcher().ok_or_else(|| {
            Error::new(
                ErrorKind::NoFetcher,
                "missing rows cannot be filled: no fetcher is configured; give the provider one with with_fetcher",
            )
            .with("series", &request.key)
        })?;
        self.run(Task::FillMissing, request, strategy).await
    }

    /// As the trait says; `NoStrategy` without a strategy and a fetcher.
    async fn ensure_range(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        let strategy = self.strategy.clone().or_else(|| self.by_fetcher()).ok_or_else(|| {
            Error::new(
                ErrorKind::NoStrategy,
                "the range cannot be completed: neither a backfill strategy nor a fetcher is configured; \
                 give the provider one with with_auto_backfill or with_fetcher",
            )
            .with("series", &request.key)
        })?;
        self.run(Task::EnsureRange, request, strategy).await
    }

    fn capabilities(&self) -> ProviderCapabilities {
        ProviderCapabilities::all()
    }
}
