//! A strategy's input: one series with its history, its recorder and its cache.

use std::fmt;
use std::sync::Arc;

use qmtl_backfill::AugmentedHistoryProvider;
use qmtl_history_api::arrow_schema::Schema;
use qmtl_history_api::{
    BatchStream, Clock, DataFetcher, Error, ErrorKind, FetchRequest, HistoryBackend, HistoryProvider,
    ReadRequest, Result, SeriesKey, StreamBinding, StreamKind, TimeRange, Timestamp, frame, provider_fn,
};
use qmtl_observe::{TokioClock, metrics};

use crate::{
    BackfillEngine, BackfillJob, EngineConfig, EventRecorderService, JobOutcome, NodeCache, SharedCache,
};

/// One series that a strategy reads.
///
/// Its provider and recorder are bound to the stream when it is built, and cannot be changed afterwards. Clones share
/// one cache.
#[derive(Clone, Debug)]
pub struct StreamInput {
    binding: StreamBinding,
    cache: SharedCache,
    history: Option<Arc<dyn HistoryProvider>>,
    events: Option<Arc<EventRecorderService>>,
    clock: Arc<dyn Clock>,
    engine: EngineConfig,
    /// The cache's columns were fixed when it was built.
    is_schema_fixed: bool,
}

impl StreamInput {
    /// Starts to build the input of `node_id`.
    pub fn builder(node_id: impl Into<String>) -> StreamInputBuilder {
        StreamInputBuilder {
            node_id: node_id.into(),
            interval: String::new(),
            period: 1,
            kind: StreamKind::Bars,
            schema: None,
            provider: None,
            backend: None,
            fetcher: None,
            events: None,
            clock: Arc::new(TokioClock::new()),
            engine: EngineConfig::default(),
        }
    }

    /// The series.
    #[must_use]
    pub fn key(&self) -> &SeriesKey {
        &self.binding.key
    }

    /// What provider and recorder were told about the stream.
    #[must_use]
    pub fn binding(&self) -> &StreamBinding {
        &self.binding
    }

    /// The newest bars.
    #[must_use]
    pub fn cache(&self) -> &SharedCache {
        &self.cache
    }

    /// The same input with an empty cache of its own.
    pub(crate) fn detached(&self) -> Result<Self> {
        let (period, schema) = self.cache.read(|cache| (cache.period(), cache.schema().cloned()));
        let cache = NodeCache::new(self.key().clone(), period)?;
        let cache = match schema.filter(|_| self.is_schema_fixed) {
            Some(schema) => cache.with_schema(&schema)?,
            None => cache,
        };
        Ok(Self { cache: SharedCache::new(cache), ..self.clone() })
    }

    /// Where history comes from.
    #[must_use]
    pub fn history_provider(&self) -> Option<&Arc<dyn HistoryProvider>> {
        self.history.as_ref()
    }

    /// Where events are recorded.
    #[must_use]
    pub fn event_service(&self) -> Option<&Arc<EventRecorderService>> {
        self.events.as_ref()
    }

    /// The clock by which bars close.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Loads the closed bars of `[start, end)` into the cache; what is loaded already is not asked
    /// for again. It does not fill holes of the store.
    ///
    /// `InvalidInput` unless `start < end`, `Unsupported` without a history provider, else the
    /// provider's last error. Dropping the future cancels.
    pub async fn load_history(&self, start: Timestamp, end: Timestamp) -> Result<JobOutcome> {
        let range = TimeRange::new(start, end).map_err(|e| e.with("series", self.key()))?;
        let engine = BackfillEngine::new().with_clock(Arc::clone(&self.clock));
        self.load_by(&engine.with_config(self.engine.clone()), range).await
    }

    /// As [`load_history`](Self::load_history), by an engine that others use too.
    pub(crate) async fn load_by(&self, engine: &BackfillEngine, range: TimeRange) -> Result<JobOutcome> {
        let provider = Arc::clone(self.require_history()?);
        let outcome = engine.run(BackfillJob::new(self.cache.clone(), provider, range)).await;
        outcome.result.clone().map(|()| outcome)
    }

    /// Reports how long ago the newest bar closed, and the memory of the cache.
    pub(crate) fn report_live(&self, world: Option<&str>) {
        let closed = self.cache.read(NodeCache::watermark).and_then(|bar| self.key().interval.next(bar));
        if let Some(closed) = closed {
            metrics::live_staleness(self.key(), world, self.clock.now().since(closed));
        }
        self.report_memory();
    }

    /// Reports the memory of the cache.
    pub(crate) fn report_memory(&self) {
        metrics::nodecache_resident(self.key(), self.cache.read(NodeCache::resident_bytes));
    }

    pub(crate) fn require_history(&self) -> Result<&Arc<dyn HistoryProvider>> {
        self.history.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the stream has no history; give its builder a history_provider, a backend or a fetcher",
            )
            .with("series", self.key())
        })
    }
}

/// Builds a [`StreamInput`]. Mistakes are reported by [`build`](Self::build).
#[derive(Clone)]
#[must_use]
pub struct StreamInputBuilder {
    node_id: String,
    interval: String,
    period: usize,
    kind: StreamKind,
    schema: Option<Schema>,
    provider: Option<Arc<dyn HistoryProvider>>,
    backend: Option<Arc<dyn HistoryBackend>>,
    fetcher: Option<Arc<dyn DataFetcher>>,
    events: Option<Arc<EventRecorderService>>,
    clock: Arc<dyn Clock>,
    engine: EngineConfig,
}

impl StreamInputBuilder {
    /// The distance of two bars, such as `60s`, `5m`, `1h`. Required.
    pub fn interval(mut self, interval: impl fmt::Display) -> Self {
        self.interval = interval.to_string();
        self
    }

    /// How many bars the cache holds and warm-up loads; 1 by default. At least the window of every node that reads
    /// the input.
    pub fn period(mut self, bars: usize) -> Self {
        self.period = bars;
        self
    }

    /// Declares that the events are not bars: they are recorded in a table of their own.
    pub fn plain_events(mut self) -> Self {
        self.kind = StreamKind::Events;
        self
    }

    /// Fixes the cache's columns; else its first batch does.
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Serves history. Not together with a backend or a fetcher.
    pub fn history_provider(mut self, provider: impl HistoryProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// Serves history from a store; with a fetcher, what is missing is filled from it.
    pub fn backend(mut self, backend: impl HistoryBackend) -> Self {
        self.backend = Some(Arc::new(backend));
        self
    }

    /// Fills the backend; without one, history is requested from the fetcher directly and stored nowhere.
    pub fn fetcher(mut self, fetcher: impl DataFetcher) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Records what the stream emits.
    pub fn event_service(mut self, service: impl Into<Arc<EventRecorderService>>) -> Self {
        self.events = Some(service.into());
        self
    }

    /// The clock by which bars close; the system's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What [`StreamInput::load_history`] may do; warm-up has one engine for all inputs
    /// ([`WarmupConfig::engine`](crate::WarmupConfig::engine)).
    pub fn engine(mut self, config: EngineConfig) -> Self {
        self.engine = config;
        self
    }

    /// Builds the input and binds provider and recorder to it.
    ///
    /// `InvalidInput` for a node id, an interval or a period that cannot be, and for a history
    /// provider beside a backend or a fetcher; else what the binding answers.
    pub fn build(self) -> Result<StreamInput> {
        if self.interval.is_empty() {
            return Err(
                Error::invalid("a stream needs an interval, such as 60s").with("node_id", &self.node_id)
            );
        }
        let interval = self
            .interval
            .parse()
            .map_err(|e: Error| e.with("node_id", format_args!("{:?}", self.node_id)))?;
        let key = SeriesKey::new(&self.node_id, interval)?;
        let history = self.history(&key)?;
        let mut cache = NodeCache::new(key.clone(), self.period)?;
        if let Some(schema) = &self.schema {
            cache = cache.with_schema(schema)?;
        }
        let binding = match self.kind {
            StreamKind::Bars => StreamBinding::bars(key),
            StreamKind::Events => StreamBinding::events(key),
        };
        if let Some(history) = &history {
            history.bind_stream(&binding)?;
        }
        if let Some(events) = &self.events {
            events.bind_stream(&binding)?;
        }
        let cache = SharedCache::new(cache);
        let Self { events, clock, engine, schema, .. } = self;
        let is_schema_fixed = schema.is_some();
        Ok(StreamInput { binding, cache, history, events, clock, engine, is_schema_fixed })
    }

    fn history(&self, key: &SeriesKey) -> Result<Option<Arc<dyn HistoryProvider>>> {
        let clock = Arc::clone(&self.clock);
        Ok(match (self.provider.clone(), self.backend.clone(), self.fetcher.clone()) {
            (provider, None, None) => provider,
            (None, Some(backend), Some(fetcher)) => {
                Some(Arc::new(AugmentedHistoryProvider::new(backend).with_fetcher(fetcher).with_clock(clock)))
            }
            (None, Some(backend), None) => {
                Some(Arc::new(AugmentedHistoryProvider::new(backend).with_clock(clock)))
            }
            (None, None, Some(fetcher)) => Some(Arc::new(straight_from(fetcher))),
            (Some(_), _, _) => {
                return Err(Error::invalid(
                    "a stream takes a history provider, or a backend and a fetcher, not both",
                )
                .with("series", key));
            }
        })
    }
}

impl fmt::Debug for StreamInputBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamInputBuilder")
            .field("node_id", &self.node_id)
            .field("interval", &self.interval)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

/// A provider that asks a source at every call and keeps nothing.
fn straight_from(fetcher: Arc<dyn DataFetcher>) -> impl HistoryProvider {
    provider_fn(move |request: ReadRequest| {
        let fetcher = Arc::clone(&fetcher);
        async move {
            let ReadRequest { key, range, .. } = &request;
            let rules = fetcher.profile().rules;
            let asked = FetchRequest::new(key.clone(), rules.asked(*range, key.interval));
            let raw = fetcher.fetch(&asked).await?.batches.into_batch().await?;
            let rows = frame::normalize_by(key, *range, &[raw], rules)?.rows;
            Ok(BatchStream::from_batches(rows.schema(), vec![rows]))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use qmtl_history_api::{HistoryBackend, WriteRequest, async_trait};
    use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, bars, key, start};
    use qmtl_io_memory::MemoryBackend;

    use super::*;

    #[tokio::test]
    async fn a_bare_backend_serves_history() {
        let key = key("btc", "1m");
        let store = MemoryBackend::new();
        store.write_rows(&WriteRequest::new(key.clone()), bars(&key, start(), 30)).await.unwrap();
        let stream = StreamInput::builder("btc")
            .interval("60s")
            .period(10)
            .backend(store)
            .clock(ManualClock::new(bar(&key, 30)))
            .build()
            .unwrap();
        let outcome = stream.load_history(bar(&key, 0), bar(&key, 99)).await.unwrap();
        assert_eq!((outcome.attempts, outcome.rows_added), (1, 10));
        assert!(stream.cache().read(NodeCache::is_ready));
        assert_eq!(stream.load_history(bar(&key, 20), bar(&key, 30)).await.unwrap().attempts, 0);
        let error = stream.load_history(bar(&key, 3), bar(&key, 3)).await.unwrap_err();
        assert_eq!(error.message(), "a range must start before it ends");
    }

    #[tokio::test]
    async fn a_bare_fetcher_is_asked_itself() {
        let key = key("btc", "1m");
        let stream = StreamInput::builder("btc")
            .interval("1m")
            .period(5)
            .fetcher(FakeFetcher::new("fake"))
            .clock(ManualClock::new(bar(&key, 30)))
            .build()
            .unwrap();
        stream.load_history(bar(&key, 0), bar(&key, 30)).await.unwrap();
        assert_eq!(stream.cache().read(NodeCache::watermark), Some(bar(&key, 29)));
    }

    #[test]
    fn mistakes_are_told_when_it_is_built() {
        let build = |builder: StreamInputBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            build(StreamInput::builder("btc")),
            "a stream needs an interval, such as 60s (node_id: btc)"
        );
        assert_eq!(
            build(StreamInput::builder("btc").interval("60")),
            "not an interval: the unit is missing; seconds are written s, such as 60s (value: \"60\", node_id: \"btc\")"
        );
        assert_eq!(build(StreamInput::builder("").interval("1m")), "a node id must not be empty");
        assert_eq!(
            build(StreamInput::builder("btc").interval("1m").period(0)),
            "a cache must hold at least one bar (series: btc@1m)"
        );
        assert_eq!(
            build(
                StreamInput::builder("btc")
                    .interval("1m")
                    .history_provider(straight_from(Arc::new(FakeFetcher::new("a"))))
                    .fetcher(FakeFetcher::new("b"))
            ),
            "a stream takes a history provider, or a backend and a fetcher, not both (series: btc@1m)"
        );
    }

    #[tokio::test]
    async fn without_history_loading_is_an_error_with_the_remedy() {
        let stream = StreamInput::builder("btc").interval("1m").build().unwrap();
        let error = stream.load_history(start(), Timestamp::MAX).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the stream has no history; give its builder a history_provider, a backend or a fetcher (series: btc@1m)"
        );
    }

    #[test]
    fn provider_and_recorder_are_bound_once_when_it_is_built() {
        #[derive(Debug, Default)]
        struct Bound(Arc<Mutex<Vec<StreamBinding>>>);

        #[async_trait]
        impl HistoryProvider for Bound {
            async fn fetch(&self, _: &ReadRequest) -> Result<BatchStream> {
                Ok(BatchStream::empty(frame::ts_only_schema()))
            }

            fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
                self.0.lock().unwrap().push(binding.clone());
                Ok(())
            }
        }

        let bound = Bound::default();
        let seen = Arc::clone(&bound.0);
        let stream = StreamInput::builder("a/b:c")
            .interval("1m")
            .plain_events()
            .history_provider(bound)
            .build()
            .unwrap();
        assert_eq!(*seen.lock().unwrap(), [StreamBinding::events(key("a/b:c", "1m"))]);
        assert_eq!(stream.binding(), &seen.lock().unwrap()[0]);
    }
}
