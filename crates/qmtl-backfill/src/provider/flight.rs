//! One fill at a time for each series, shared by those who ask the same.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use qmtl_history_api::{BackfillReport, BackfillRequest, Error, Result, SeriesKey};

type Fill = BoxFuture<'static, Result<BackfillReport>>;

/// Which call a flight answers; the two may fill from different sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    EnsureRange,
    FillMissing,
}

/// The fills under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<SeriesKey, Series>>);

/// A series with fills under way or waiting.
#[derive(Debug, Default)]
struct Series {
    turn: Arc<tokio::sync::Mutex<()>>,
    flights: Vec<Flight>,
    launched: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    task: Task,
    request: BackfillRequest,
    /// Weak: a flight lives for those who wait for it, not for this list.
    fill: WeakShared<Fill>,
}

impl Flights {
    /// Waits for a flight that answers the same request, or makes one of `fill`, which begins when
    /// the series' other flights have ended.
    pub(super) async fn join(
        self: &Arc<Self>,
        task: Task,
        request: &BackfillRequest,
        fill: impl Future<Output = Result<BackfillReport>> + Send + 'static,
    ) -> Result<BackfillReport> {
        self.boarded(task, request, fill).await
    }

    fn boarded(
        self: &Arc<Self>,
        task: Task,
        request: &BackfillRequest,
        fill: impl Future<Output = Result<BackfillReport>> + Send + 'static,
    ) -> Shared<Fill> {
        let mut all = self.lock();
        let series = all.entry(request.key.clone()).or_default();
        let same = |flight: &&Flight| flight.task == task && flight.request == *request;
        if let Some(fill) = series.flights.iter().filter(same).find_map(|flight| flight.fill.upgrade()) {
            return fill;
        }
        series.launched += 1;
        let landing = Landing { all: Arc::clone(self), key: request.key.clone(), number: series.launched };
        let turn = Arc::clone(&series.turn);
        let fill: Fill = Box::pin(async move {
            let _landing = landing;
            let _turn = turn.lock_owned().await;
            // A panic would be passed on to everybody who shares the flight, for as long as one does.
            let ended = AssertUnwindSafe(fill).catch_unwind().await;
            ended.unwrap_or_else(|_| Err(Error::unexpected("the backfill panicked")))
        });
        let fill = fill.shared();
        if let Some(weak) = fill.downgrade() {
            let request = request.clone();
            series.flights.push(Flight { number: series.launched, task, request, fill: weak });
        }
        fill
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SeriesKey, Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a flight off the list when it has ended or everybody has left it.
#[derive(Debug)]
struct Landing {
    all: Arc<Flights>,
    key: SeriesKey,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(series) = all.get_mut(&self.key) {
            series.flights.retain(|flight| flight.number != self.number);
            if series.flights.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}
