//! The store of a run: a real backend whose calls fail, take time and end the process, with another writer.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use fastrand::Rng;
use qmtl_history_api::arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Clock, Coverage, Error, HistoryBackend, HistoryBackendExt,
    RangeSet, ReadRequest, Result, SeriesKey, TimeRange, Timestamp, WriteReceipt, WriteRequest, async_trait,
    frame,
};
use qmtl_history_testkit::fixtures::{self, OHLCV};

use crate::clock::{Process, SimClock};
use crate::log::Log;
use crate::world::{Fault, Kind, Market, Version, World};

/// A backend and what befalls its calls.
pub(crate) struct Store {
    world: Arc<World>,
    clock: SimClock,
    process: Arc<Process>,
    log: Arc<Log>,
    state: Mutex<State>,
}

struct State {
    inner: Arc<dyn HistoryBackend>,
    rng: Rng,
    /// The life of the process that goes on now.
    life: usize,
    /// How long calls have waited.
    took: Duration,
    series: BTreeMap<SeriesKey, Kept>,
}

/// Counts of the calls for a series.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Rows that came to stand there by writes of the process.
    pub(crate) own: u64,
    /// Rows that came to stand there by the other writer.
    pub(crate) others: u64,
    /// Calls that failed.
    pub(crate) failures: u64,
    /// Of them, those that asked for the coverage.
    pub(crate) unknown: u64,
    /// How long calls for any series have waited.
    pub(crate) took: Duration,
}

/// What is known of a series' writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    own: u64,
    others: u64,
    failures: u64,
    unknown: u64,
    /// Bars that the other writer has stored.
    pub(crate) by_others: RangeSet,
    /// In which life, and when by the true time, the process stored a bar.
    pub(crate) stored: BTreeMap<Timestamp, (usize, Timestamp)>,
    /// Bars that came to stand there by a write that failed, since the last look.
    unacknowledged: RangeSet,
    /// Bars of such writes of which the store did not tell either that it has them.
    pub(crate) untold: RangeSet,
    /// The answers about what is stored since the last look at them, with their ranges and our times.
    pub(crate) told: Vec<(TimeRange, Coverage, Timestamp)>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn new(
        world: &Arc<World>,
        inner: Arc<dyn HistoryBackend>,
        clock: SimClock,
        process: &Arc<Process>,
        log: &Arc<Log>,
    ) -> Arc<Self> {
        let rng = Rng::with_seed(world.seed ^ 0x5709e);
        Arc::new(Self {
            world: Arc::clone(world),
            clock,
            process: Arc::clone(process),
            log: Arc::clone(log),
            state: Mutex::new(State { inner, rng, life: 0, took: Duration::ZERO, series: BTreeMap::new() }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backend itself, where nothing fails.
    pub(crate) fn inner(&self) -> Arc<dyn HistoryBackend> {
        Arc::clone(&self.state().inner)
    }

    /// Goes on with a backend that was opened anew, in the life number `life`.
    pub(crate) fn reopen(&self, inner: Arc<dyn HistoryBackend>, life: usize) {
        let mut state = self.state();
        (state.inner, state.life) = (inner, life);
    }

    pub(crate) fn kept(&self, key: &SeriesKey) -> Kept {
        self.state().series.get(key).cloned().unwrap_or_default()
    }

    /// What has come of the calls for `key` so far.
    pub(crate) fn counts(&self, key: &SeriesKey) -> Counts {
        let state = self.state();
        let of = |kept: &Kept| Counts {
            own: kept.own,
            others: kept.others,
            failures: kept.failures,
            unknown: kept.unknown,
            took: state.took,
        };
        state.series.get(key).map(of).unwrap_or_default()
    }

    /// Takes the answers about the coverage of `key` since the last time.
    pub(crate) fn take_told(&self, key: &SeriesKey) -> Vec<(TimeRange, Coverage, Timestamp)> {
        self.state().series.get_mut(key).map(|kept| std::mem::take(&mut kept.told)).unwrap_or_default()
    }

    /// Ends a round, in which the store told at the end what it has or `was_dumb`.
    pub(crate) fn round_ends(&self, key: &SeriesKey, was_dumb: bool) {
        let mut state = self.state();
        let Some(kept) = state.series.get_mut(key) else { return };
        let unacknowledged = std::mem::take(&mut kept.unacknowledged);
        if was_dumb {
            kept.untold = kept.untold.union(&unacknowledged);
        }
    }

    /// Steps, and takes some time at times; says which of `faults` strikes.
    async fn call(&self, faults: &[Fault]) -> Option<Fault> {
        self.process.step(self.clock.truth()).await;
        let now = self.clock.truth();
        let (struck, wait) = {
            let mut state = self.state();
            let mut struck = None;
            let mut wait = 0;
            for trouble in self.world.at(now) {
                let strikes = |rng: &mut Rng| rng.f64() < trouble.chance;
                if trouble.fault == Fault::StoreSlow && strikes(&mut state.rng) {
                    self.log.met(Fault::StoreSlow);
                    wait = state.rng.u64(1..3_000);
                    state.took += Duration::from_millis(wait);
                } else if struck.is_none() && faults.contains(&trouble.fault) && strikes(&mut state.rng) {
                    struck = Some(trouble.fault);
                }
            }
            (struck, wait)
        };
        if wait > 0 {
            self.clock.pass(Duration::from_millis(wait)).await;
        }
        if let Some(fault) = struck {
            self.log.met(fault);
            self.log.event(self.clock.truth(), || format!("store {fault:?}"));
        }
        struck
    }

    fn failed(&self, key: &SeriesKey, fault: Fault) -> Error {
        let mut state = self.state();
        let kept = state.series.entry(key.clone()).or_default();
        kept.failures += 1;
        kept.unknown += u64::from(fault == Fault::CoverageFails);
        Error::unavailable("the simulated store fails").with("fault", format_args!("{fault:?}"))
    }

    /// Writes to the backend and keeps in mind what came to stand there.
    async fn store(&self, request: &WriteRequest, rows: RecordBatch, is_told: bool) -> Result<WriteReceipt> {
        let key = &request.key;
        let runs = frame::row_runs(key, &rows)?;
        let inner = self.inner();
        let before = match runs.span() {
            Some(span) => at_once(inner.coverage(key, span))?.present().clone(),
            None => RangeSet::new(),
        };
        self.log.note((key.node_id.as_str(), rows.num_rows(), request.empty.len()));
        self.log.event(self.clock.truth(), || {
            let proofs: Vec<_> = request
                .empty
                .iter()
                .map(|proof| format!("{:?} at {}", proof.ranges, proof.answered_at))
                .collect();
            format!("write {key} {:?} {runs:?} empty {proofs:?}", request.on_conflict)
        });
        let receipt = at_once(inner.write_rows(request, rows))?;
        let now = self.clock.truth();
        let mut state = self.state();
        let life = state.life;
        let kept = state.series.entry(key.clone()).or_default();
        kept.own += receipt.rows_written;
        let new = runs.difference(&before);
        if !is_told {
            kept.unacknowledged = kept.unacknowledged.union(&new);
        }
        for bar in new.points(key.interval) {
            kept.stored.insert(bar, (life, now));
        }
        Ok(receipt)
    }

    /// Another process stores a closed bar in its final version.
    pub(crate) fn record(&self, market: &Market, bar: Timestamp) {
        let rows = row(market, bar);
        let receipt = at_once(self.inner().write_rows(&WriteRequest::new(market.key.clone()), rows));
        let mut state = self.state();
        let kept = state.series.entry(market.key.clone()).or_default();
        if let Ok(receipt) = receipt
            && receipt.rows_written > 0
        {
            self.log.met(Fault::OtherWriter);
            kept.others += receipt.rows_written;
            kept.by_others.extend(RangeSet::from_sorted_points([bar], market.interval()));
        }
    }
}

#[async_trait]
impl HistoryBackend for Store {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        if let Some(fault) = self.call(&[Fault::ReadFails]).await {
            return Err(self.failed(&request.key, fault));
        }
        let rows = at_once(self.inner().read_all(request))?;
        self.process.step(self.clock.truth()).await;
        Ok(BatchStream::from_batches(rows.schema(), vec![rows]))
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        if let Some(fault) = self.call(&[Fault::ReadFails]).await {
            return Err(self.failed(key, fault));
        }
        self.inner().schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let faults = [Fault::WriteFails, Fault::WriteTorn, Fault::WriteUnacknowledged];
        let done = match self.call(&faults).await {
            None => self.store(request, rows, true).await,
            Some(fault) => {
                match fault {
                    Fault::WriteTorn => {
                        let half = rows.slice(0, rows.num_rows() / 2);
                        let plain =
                            WriteRequest::new(request.key.clone()).with_on_conflict(request.on_conflict);
                        self.store(&plain, half, false).await?;
                    }
                    Fault::WriteUnacknowledged => {
                        self.store(request, rows, false).await?;
                    }
                    _ => {}
                }
                Err(self.failed(&request.key, fault))
            }
        };
        // Here the process may end before it hears of it.
        self.process.step(self.clock.truth()).await;
        done
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        if let Some(fault) = self.call(&[Fault::CoverageFails]).await {
            return Err(self.failed(key, fault));
        }
        let coverage = at_once(self.inner().coverage(key, range))?;
        let now = self.clock.now();
        let mut state = self.state();
        state.series.entry(key.clone()).or_default().told.push((range, coverage.clone(), now));
        drop(state);
        Ok(coverage)
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.inner().series().await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.inner().revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner().capabilities()
    }
}

/// The columns of Binance's bars beside the five usual ones, in their order, as they follow from the volume.
pub(crate) fn beside(volume: f64) -> [f64; 4] {
    [volume * 2.0, (volume * 4.0).floor(), volume / 2.0, volume]
}

/// A bar of a market in its final version, as a fetcher would give it.
pub(crate) fn row(market: &Market, bar: Timestamp) -> RecordBatch {
    let values = market.values(bar, Version::Final);
    let column = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
    let mut columns: Vec<(&str, ArrayRef)> = OHLCV.into_iter().zip(values.map(column)).collect();
    if market.kind == Kind::Binance {
        let [quote, trades, base, taker] = beside(values[4]);
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of a few thousand")]
        let trades: ArrayRef = Arc::new(Int64Array::from(vec![trades as i64]));
        columns.extend([
            ("quote_volume", column(quote)),
            ("trades", trades),
            ("taker_base_volume", column(base)),
            ("taker_quote_volume", column(taker)),
        ]);
    }
    fixtures::batch(&[bar], columns)
}

/// The version of the market's bar that row number `at` of `rows` is; `None` when it is none.
pub(crate) fn version_of(market: &Market, rows: &RecordBatch, at: usize, bar: Timestamp) -> Option<Version> {
    let value = |name: &str| {
        let column = rows.column_by_name(name)?.as_any();
        let double = column.downcast_ref::<Float64Array>().map(|column| column.value(at));
        double.or_else(|| Some(column.downcast_ref::<Int64Array>()?.value(at) as f64))
    };
    [Version::Final, Version::First, Version::Forming].into_iter().find(|version| {
        let values = market.values(bar, *version);
        let is_usual = OHLCV.into_iter().zip(values).all(|(name, is)| value(name) == Some(is));
        let others = ["quote_volume", "trades", "taker_base_volume", "taker_quote_volume"];
        let is_beside = market.kind == Kind::Coinbase
            || others.into_iter().zip(beside(values[4])).all(|(name, is)| value(name) == Some(is));
        is_usual && is_beside
    })
}

/// Waits for a call of a backend on this thread, so that a store with threads of its own makes a run no
/// less certain.
pub(crate) fn at_once<T>(call: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut call = pin!(tokio::task::unconstrained(call));
    loop {
        match call.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}
