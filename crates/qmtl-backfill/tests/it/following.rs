//! Bars that were stored early are read again, by whose clock it may be.

use std::sync::Arc;
use std::time::Duration;

use qmtl_backfill::{FetcherBackfillStrategy, FollowConfig, Follower, Round};
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, BatchStream, Clock, DataFetcher, Error, FetchRequest, Fetched,
    NoProgress, PageOrder, RangeSet, Result, Retry, SourceId, SourceProfile, StopSignal, Timestamp,
    async_trait, frame,
};
use qmtl_history_testkit::fixtures::{self, ManualClock, bar, bars, rows_within, source, sparse_bars};

use crate::support::{Store, btc, runs, span};

/// A source that publishes each bar at its close and revises it a minute later, and whose clock is behind ours.
#[derive(Debug)]
struct Revising {
    ours: ManualClock,
    behind: Duration,
    /// Bars that it has lost once they are final.
    lost: RangeSet,
}

impl Revising {
    fn now(&self) -> Timestamp {
        self.ours.now().checked_sub(self.behind).unwrap()
    }

    fn rows(&self, request: &FetchRequest) -> RecordBatch {
        let (now, length) = (self.now(), request.key.interval.as_micros());
        let is_over = |ts: &Timestamp, micros: i64| ts.checked_add_micros(length + micros).unwrap() <= now;
        let points = request.range.points(request.key.interval);
        let closed: Vec<_> = points.filter(|ts| is_over(ts, 0)).collect();
        let (old, young): (Vec<_>, Vec<_>) = closed.into_iter().partition(|ts| is_over(ts, 60_000_000));
        let final_bars = RangeSet::from_sorted_points(old, request.key.interval).difference(&self.lost);
        // A first version has the values of another bar.
        let first = fixtures::bars_at(&young);
        let other = bars(&request.key, bar(&request.key, 5_000), young.len());
        let mut columns = other.columns().to_vec();
        columns[0] = Arc::clone(first.column(0));
        let first = RecordBatch::try_new(first.schema(), columns).unwrap();
        let rows = [sparse_bars(&request.key, &final_bars), first];
        qmtl_history_api::arrow_select::concat::concat_batches(&rows[0].schema(), &rows).unwrap()
    }
}

#[async_trait]
impl DataFetcher for Revising {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let rows = self.rows(request);
        let fetched = Fetched::new(BatchStream::from_batches(rows.schema(), vec![rows]));
        Ok(fetched.with_as_of(Some(self.now())))
    }

    fn source_id(&self) -> SourceId {
        source("revising")
    }

    fn limits(&self) -> qmtl_history_api::FetchLimits {
        qmtl_history_api::FetchLimits::none().with_max_rows(1_000)
    }

    fn profile(&self) -> SourceProfile {
        SourceProfile::new(PageOrder::OldestFirst)
    }
}

fn strategy(clock: &ManualClock, behind: Duration, lost: RangeSet) -> FetcherBackfillStrategy {
    let source = Revising { ours: clock.clone(), behind, lost };
    FetcherBackfillStrategy::new(Arc::new(source)).with_clock(Arc::new(clock.clone()))
}

#[tokio::test]
async fn a_bar_that_only_a_clock_that_is_ahead_takes_for_an_old_one_is_read_again() {
    let behind = Duration::from_secs(600);
    let clock = ManualClock::skipping_sleep(bar(&btc(), 20).checked_add(Duration::from_secs(1)).unwrap());
    let (store, strategy) = (Store::new(), strategy(&clock, behind, RangeSet::new()));
    let mut follower = Follower::new(FollowConfig::default()).with_clock(Arc::new(clock.clone()));
    follower.follow(btc(), bar(&btc(), 0), strategy.clone());
    let request = BackfillRequest::new(btc(), span(0, 20));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert_eq!(
        (report.rows_written, report.answered_at),
        (10, bar(&btc(), 10).checked_add_micros(1_000_000))
    );
    follower.take_in(&report, &store).await;
    let mut revised = Vec::new();
    while clock.now() < bar(&btc(), 30) {
        let rounds: Vec<Round> = follower.next(&store).await;
        revised.extend(rounds.into_iter().flat_map(|round| round.revised).map(|row| row.ts));
    }
    assert_eq!(revised[0], bar(&btc(), 9), "the last minute's bar was stored in its first version");
    let settled = span(0, 15);
    let stored = store.rows(&btc()).await;
    assert_eq!(rows_within(&stored, settled), sparse_bars(&btc(), &settled.into()));
}

#[tokio::test]
async fn a_second_look_leaves_what_the_source_does_not_give() {
    let clock = ManualClock::new(bar(&btc(), 20));
    let (store, strategy) = (Store::new(), strategy(&clock, Duration::ZERO, runs([(3, 5)])));
    store.seed(&btc(), bars(&btc(), bar(&btc(), 0), 10)).await;
    let given = bars(&btc(), bar(&btc(), 0), 20);
    let reread =
        strategy.reread(&btc(), (&source("revising"), &given), &store, &StopSignal::new()).await.unwrap();
    assert_eq!((reread.checked, reread.revised.len()), (runs([(0, 3), (5, 18)]), 0));
    assert_eq!(reread.as_of, Some(bar(&btc(), 20)));
}

/// Gives each bar when it has closed, and makes every request for an older one again and again.
#[derive(Debug)]
struct Failing(Revising);

#[async_trait]
impl DataFetcher for Failing {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        if request.range.end() >= request.key.interval.floor(self.0.now()).unwrap() {
            return self.0.fetch(request).await;
        }
        let refused = Error::unavailable("connection refused");
        let retry = Retry::new(1, Duration::from_secs(1), "connection").with_error(refused);
        request.retries.as_ref().expect("somebody listens").on_retry(request.range, retry);
        std::future::pending().await
    }

    fn source_id(&self) -> SourceId {
        self.0.source_id()
    }

    fn limits(&self) -> qmtl_history_api::FetchLimits {
        self.0.limits()
    }

    fn profile(&self) -> SourceProfile {
        self.0.profile()
    }
}

#[tokio::test]
async fn nothing_waits_for_a_second_look_and_its_failure_is_told() {
    let clock = ManualClock::skipping_sleep(bar(&btc(), 20).checked_add(Duration::from_secs(1)).unwrap());
    let source = Failing(Revising { ours: clock.clone(), behind: Duration::ZERO, lost: RangeSet::new() });
    let strategy = FetcherBackfillStrategy::new(Arc::new(source)).with_clock(Arc::new(clock.clone()));
    let store = Store::new();
    let mut follower = Follower::new(FollowConfig::default()).with_clock(Arc::new(clock.clone()));
    follower.follow(btc(), bar(&btc(), 19), strategy);
    let mut failures = 0;
    while clock.now() < bar(&btc(), 30) {
        let began = clock.now();
        for round in follower.next(&store).await {
            if let Some(filled) = round.filled {
                assert!(filled.unwrap().failed.is_empty());
            }
            failures += match round.compared {
                Some(Err(error)) => u32::from(error.message() == "connection refused"),
                _ => 0,
            };
        }
        assert!(clock.now().since(began) <= Duration::from_secs(60), "it has waited for a second look");
    }
    assert!(failures > 5, "{failures}");
    assert!(store.present(&btc()).await.contains(bar(&btc(), 28)));
}

#[tokio::test]
async fn a_second_look_leaves_rows_that_somebody_else_has_put_there() {
    let clock = ManualClock::new(bar(&btc(), 20));
    let (store, strategy) = (Store::new(), strategy(&clock, Duration::ZERO, RangeSet::new()));
    let closes = |values: [f64; 3]| {
        let points = [0, 1, 2].map(|index| bar(&btc(), index));
        fixtures::batch(&points, [("close", Arc::new(Float64Array::from(values.to_vec())) as _)])
    };
    // The source gave 1, 2, 3, and somebody has corrected the last one since.
    store.seed(&btc(), closes([1.0, 2.0, 7.0])).await;
    let given = closes([1.0, 2.0, 3.0]);
    let reread =
        strategy.reread(&btc(), (&source("revising"), &given), &store, &StopSignal::new()).await.unwrap();
    let revised: Vec<_> = reread.revised.iter().map(|row| row.ts).collect();
    assert_eq!((revised, reread.checked), (vec![bar(&btc(), 0), bar(&btc(), 1)], span(0, 3).into()));
    let stored = store.rows(&btc()).await;
    let close = stored.column_by_name("close").unwrap().as_primitive::<Float64Type>();
    let truth = bars(&btc(), bar(&btc(), 0), 2);
    let truth = truth.column_by_name("close").unwrap().as_primitive::<Float64Type>();
    assert_eq!((&close.values()[..2], close.value(2)), (&truth.values()[..], 7.0));
}

#[tokio::test]
async fn rows_that_another_writer_was_first_with_are_not_the_sources() {
    let clock = ManualClock::new(bar(&btc(), 20));
    let (store, strategy) = (Store::new(), strategy(&clock, Duration::ZERO, RangeSet::new()));
    let other = bars(&btc(), bar(&btc(), 5_000), 4);
    let other = RecordBatch::try_new(
        other.schema(),
        std::iter::once(Arc::new(frame::ts_array((5..9).map(|index| bar(&btc(), index)))) as ArrayRef)
            .chain(other.columns()[1..].iter().cloned())
            .collect(),
    );
    // It comes between the look at the store and the write.
    *store.after_coverage.lock().unwrap() = Some(other.unwrap());
    let request = BackfillRequest::new(btc(), span(0, 10));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    assert_eq!((report.rows_written, report.rows_kept_out), (6, 4));
    assert_eq!(report.filled, [(source("revising"), runs([(0, 5), (9, 10)]))]);
}

#[tokio::test]
async fn a_clock_that_is_set_to_and_fro_between_two_looks_leaves_no_series_asleep() {
    let start = bar(&btc(), 20).checked_add(Duration::from_secs(1)).unwrap();
    let clock = ManualClock::skipping_sleep(start);
    let (store, strategy) = (Store::new(), strategy(&clock, Duration::ZERO, RangeSet::new()));
    let mut follower = Follower::new(FollowConfig::default()).with_clock(clock.clone());
    follower.follow(btc(), bar(&btc(), 0), strategy.clone());
    // A fill that somebody else ran is told while the clock is a month ahead.
    clock.set(start.checked_add(Duration::from_secs(30 * 86_400)).unwrap());
    let request = BackfillRequest::new(btc(), span(0, 20));
    let report = strategy.ensure_range(&request, &store, &NoProgress).await.unwrap();
    follower.take_in(&report, &store).await;
    clock.set(start);
    follower.next(&store).await;
    assert!(clock.now() < bar(&btc(), 25), "it slept until {}", clock.now());
}
