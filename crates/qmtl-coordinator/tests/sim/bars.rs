//! The source of the bars and the store that they go to, as each worker sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, DataFetcher, Error, FetchLimits, FetchRequest, Fetched,
    HistoryBackend, HistoryBackendExt, RangeSet, ReadRequest, Result, SeriesKey, SourceId, TimeRange,
    Timestamp, WriteReceipt, WriteRequest, async_trait, frame,
};
use qmtl_history_testkit::fixtures;
use qmtl_io_memory::MemoryBackend;

use crate::clock::{SimClock, calm};
use crate::leases::Durable;
use crate::run::{Figures, Found};
use crate::world::World;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: Arc<World>,
    pub(crate) store: MemoryBackend,
    pub(crate) leases: Arc<Durable>,
    pub(crate) figures: Arc<Figures>,
    /// How often each life of a worker asked for each bar.
    pub(crate) asked: Mutex<BTreeMap<(String, Timestamp), u32>>,
    /// What was found to be wrong, the first thing.
    pub(crate) found: Found,
}

/// One life of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    /// Its name, another one for each life.
    pub(crate) name: String,
    pub(crate) clock: SimClock,
    pub(crate) rng: Arc<Mutex<Rng>>,
    /// Whether it works under leases all the time.
    pub(crate) is_leased: bool,
}

impl Life {
    fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_calm(&self) -> bool {
        self.clock.truth.now() >= calm()
    }

    fn strikes(&self, chance: f64) -> bool {
        !self.is_calm() && self.draw(Rng::f64) < chance
    }

    async fn takes(&self, longest: f64) {
        let longest = if self.is_calm() { 0.05 } else { longest };
        let length = Duration::from_secs_f64(0.001 + self.draw(Rng::f64) * longest);
        self.clock.truth.pass(length).await;
        self.clock.awake().await;
    }
}

/// The source.
#[derive(Clone, Debug)]
pub(crate) struct Source(pub(crate) Life);

#[async_trait]
impl DataFetcher for Source {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let Life { shared, name, clock, .. } = &self.0;
        clock.awake().await;
        shared.figures.add("pages asked for", 1);
        let world = &shared.world;
        {
            let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            for bar in request.range.points(world.key.interval) {
                *asked.entry((name.clone(), bar)).or_default() += 1;
            }
        }
        self.0.takes(world.slow_source).await;
        if world.is_poisoned(request.range.start()) && !self.0.is_calm() {
            shared.figures.add("pages that are poisoned", 1);
            return Err(Error::schema("the rows are upside down"));
        }
        if self.0.strikes(world.failing_source) {
            shared.figures.add("pages that failed", 1);
            return Err(Error::unavailable("502"));
        }
        let rows = fixtures::sparse_bars(&world.key, &request.range.into());
        let fetched = Fetched::new(BatchStream::from_batches(rows.schema(), vec![rows]));
        Ok(fetched.with_proven(request.range.into(), "no row in the answer"))
    }

    fn source_id(&self) -> SourceId {
        fixtures::source("sim")
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits::none().with_max_rows(1_000)
    }
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Bars(pub(crate) Life);

#[async_trait]
impl HistoryBackend for Bars {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.0.shared.store.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.0.shared.store.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let Life { shared, name, clock, is_leased, .. } = &self.0;
        clock.awake().await;
        let stands = frame::row_runs(&request.key, &rows)?;
        if *is_leased {
            shared.found.writes_are_leased(shared, name, &stands);
        }
        if self.0.strikes(shared.world.failing_store) {
            shared.figures.add("writes that failed", 1);
            self.0.takes(shared.world.slow_store).await;
            return Err(Error::unavailable("the store is away"));
        }
        // It lands also when the worker ends meanwhile, or sleeps.
        let (life, request) = (self.0.clone(), request.clone());
        let landing = tokio::spawn(async move {
            let shared = Arc::clone(&life.shared);
            let longest = if life.is_calm() { 0.05 } else { shared.world.slow_store };
            let length = Duration::from_secs_f64(life.draw(Rng::f64) * longest);
            life.clock.truth.pass(length).await;
            let before = shared.rows().await?;
            let receipt = shared.store.write_rows(&request, rows).await?;
            shared.found.nothing_changed(&before, &shared.rows().await?);
            shared.figures.add("rows stored", receipt.rows_written);
            Ok(receipt)
        });
        let landed = landing.await.map_err(|e| Error::unexpected("a write panicked").caused_by(e))?;
        clock.awake().await;
        landed
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        self.0.clock.awake().await;
        if self.0.strikes(self.0.shared.world.failing_store) {
            return Err(Error::unavailable("the store is away"));
        }
        self.0.shared.store.coverage(key, range).await
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.0.shared.store.series().await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.0.shared.store.revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.shared.store.capabilities()
    }
}

impl Shared {
    /// Every row as it stands.
    pub(crate) async fn rows(&self) -> Result<RecordBatch> {
        self.store.read_all(&ReadRequest::new(self.world.key.clone(), TimeRange::ALL)).await
    }

    /// What is missing of a range, whoever is asked.
    pub(crate) async fn missing(&self, range: TimeRange) -> RangeSet {
        let known = self.store.coverage(&self.world.key, range).await.unwrap_or_default();
        known.missing(range, self.world.key.interval, &[fixtures::source("sim")], Timestamp::MAX)
    }
}
