//! History to live: every bar once, in order, the live one winning; seams and late bars.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::{prop_assert, prop_assert_eq, proptest, test_runner::Config};
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{Clock, FetchRequest, HistoryBackend, NodeId, WriteRequest, async_trait};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, batch, key, span};
use qmtl_io_memory::MemoryBackend;

use super::*;
use crate::testing::passing_time;
use crate::{Backtest, ComputeNode, LateBars, Mode, Side, StatefulNode, VALUE, Windows, live_channel};

/// The bars that had closed when the strategy was started.
const CLOSED: u32 = 100;
const PERIOD: usize = 30;

fn minute(index: u32) -> Timestamp {
    bar(&key("btc", "1m"), index)
}

fn index_of(ts: Timestamp) -> u32 {
    u32::try_from((ts.as_secs() - minute(0).as_secs()) / 60).unwrap()
}

fn rows(points: &[Timestamp], shift: f64) -> RecordBatch {
    let values = points.iter().map(|ts| f64::from(index_of(*ts)) + shift);
    batch(points, [("close", Arc::new(Float64Array::from_iter_values(values)) as ArrayRef)])
}

/// Every bar, whose close is its number.
fn fetcher() -> FakeFetcher {
    FakeFetcher::new("history").with_rows(|request: &FetchRequest| {
        rows(&request.range.points(request.key.interval).collect::<Vec<_>>(), 0.0)
    })
}

/// A live bar, whose close is its number and a half.
fn live(index: u32) -> LiveBar {
    LiveBar::new(key("btc", "1m"), minute(index), rows(&[minute(index)], 0.5))
}

type Delivered = Arc<Mutex<Vec<(u32, f64)>>>;

/// A strategy that writes down every bar that it is given, of an input that a fetcher fills.
fn strategy(clock: &ManualClock, fetcher: FakeFetcher) -> (Strategy, Delivered) {
    let stream = StreamInput::builder("btc").interval("1m").period(PERIOD).backend(MemoryBackend::new());
    logged(stream.fetcher(fetcher).clock(clock.clone()).build().unwrap())
}

/// The same of any input.
fn logged(stream: StreamInput) -> (Strategy, Delivered) {
    let delivered = Delivered::default();
    let log = Arc::clone(&delivered);
    let node = ComputeNode::slices("log".parse().unwrap(), 1, move |windows| {
        log.lock().unwrap().push((index_of(windows.ts()), windows.f64(0)[0]));
        0.0
    });
    let node = node.reads(&stream, "close");
    (Strategy::builder().input(stream).node(node).build().unwrap(), delivered)
}

/// Live bars that were there before the start, then others; a bar comes when it has closed.
#[derive(Debug)]
struct Scheduled {
    clock: ManualClock,
    first: std::vec::IntoIter<u32>,
    /// The second part comes only after the replay of history.
    replayed: Delivered,
    then: std::vec::IntoIter<u32>,
}

#[async_trait]
impl LiveSource for Scheduled {
    async fn next(&mut self) -> Option<LiveBar> {
        let next = match self.first.next() {
            Some(bar) => Some(bar),
            None if self.replayed.lock().unwrap().is_empty() => std::future::pending().await,
            None => self.then.next(),
        };
        let bar = live(next?);
        let closed = bar.ts.checked_add(Duration::from_secs(60)).unwrap();
        self.clock.set(closed.max(self.clock.now()));
        Some(bar)
    }
}

async fn follow(first: Vec<u32>, then: Vec<u32>, fetcher: FakeFetcher) -> (Session, Vec<(u32, f64)>) {
    let clock = ManualClock::new(minute(CLOSED));
    let (strategy, delivered) = strategy(&clock, fetcher);
    let mut source = Scheduled {
        clock: clock.clone(),
        first: first.into_iter(),
        replayed: Arc::clone(&delivered),
        then: then.into_iter(),
    };
    let runner = Runner::new().with_warmup(WarmupConfig::default().with_deadline(Duration::from_secs(5)));
    let session = passing_time(&clock, runner.follow(strategy, &mut source)).await.unwrap();
    let delivered = delivered.lock().unwrap().clone();
    (session, delivered)
}

/// What must be delivered: history and the first live bars merged, none of them lost; then what is newer. A seam before
/// the first live bar that history lacks is closed from history.
fn expected(first: &[u32], then: &[u32]) -> Vec<(u32, f64)> {
    let period = u32::try_from(PERIOD).unwrap();
    let mut cache: BTreeMap<u32, f64> = (CLOSED - period..CLOSED).map(|i| (i, f64::from(i))).collect();
    let seam_to = first.iter().filter(|bar| **bar >= CLOSED).min().copied().unwrap_or(0);
    cache.extend((CLOSED..seam_to).map(|i| (i, f64::from(i))));
    cache.extend(first.iter().map(|i| (*i, f64::from(*i) + 0.5)));
    let mut delivered: Vec<_> = cache.into_iter().collect();
    let mut seam_open = seam_to == 0;
    for bar in then {
        let newest = delivered[delivered.len() - 1].0;
        if *bar > newest {
            if std::mem::take(&mut seam_open) {
                delivered.extend((newest + 1..*bar).map(|i| (i, f64::from(i))));
            }
            delivered.push((*bar, f64::from(*bar) + 0.5));
        }
    }
    delivered
}

proptest! {
    #![proptest_config(Config::with_cases(10_000))]

    #[test]
    fn every_bar_comes_once_in_order_and_live_wins(
        first in proptest::collection::vec(CLOSED - 20..CLOSED + 20, 0..15),
        then in proptest::collection::vec(CLOSED - 20..CLOSED + 25, 0..15),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (session, delivered) = runtime.block_on(follow(first.clone(), then.clone(), fetcher()));
        prop_assert!(delivered.is_sorted_by(|a, b| a.0 < b.0), "{:?}", delivered);
        prop_assert_eq!(delivered, expected(&first, &then));
        prop_assert!(session.gaps.is_empty() && session.warmup.is_ready());
    }
}

#[tokio::test]
async fn offline_primes_and_replays() {
    let clock = ManualClock::new(minute(CLOSED));
    let (strategy, delivered) = strategy(&clock, fetcher());
    let session = passing_time(&clock, Runner::offline(strategy)).await.unwrap();
    assert_eq!(session.replayed.bars, 30);
    assert!(session.warmup.is_ready() && session.pipeline.is_warm(&"log".parse().unwrap()));
    let expected: Vec<_> = (70..100).map(|i| (i, f64::from(i))).collect();
    assert_eq!(*delivered.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_seam_of_several_bars_is_closed_from_history() {
    for (first, then) in [(vec![104, 105], vec![106]), (vec![], vec![104, 105, 106])] {
        let (session, delivered) = follow(first, then, fetcher()).await;
        let tail: Vec<_> = delivered[delivered.len() - 8..].to_vec();
        let expected = [(99, 99.0), (100, 100.0), (101, 101.0), (102, 102.0), (103, 103.0)];
        assert_eq!(tail[..5], expected);
        assert_eq!(tail[5..], [(104, 104.5), (105, 105.5), (106, 106.5)]);
        assert!(session.gaps.is_empty());
    }
}

#[tokio::test]
async fn a_seam_that_stays_open_is_told_as_a_gap_and_live_goes_on() {
    for (first, then) in [(vec![103], vec![104]), (vec![], vec![103, 104])] {
        let key = key("btc", "1m");
        let poor = fetcher().with_proven(|_| RangeSet::new()).with_rows(|request| {
            let points: Vec<_> =
                request.range.points(request.key.interval).filter(|ts| index_of(*ts) != 101).collect();
            rows(&points, 0.0)
        });
        let (session, delivered) = follow(first, then, poor).await;
        let tail: Vec<_> =
            delivered.iter().map(|(index, _)| *index).skip_while(|index| *index < 99).collect();
        assert_eq!(tail, [99, 100, 102, 103, 104]);
        assert_eq!(session.gaps, [(key.clone(), span(&key, 101, 102).into())]);
        assert!(session.pipeline.inputs()[0].cache().read(NodeCache::has_missing_bars));
    }
}

#[tokio::test]
async fn late_and_double_bars_are_counted() {
    let (session, delivered) = follow(vec![100], vec![101, 101, 99, 100, 102], fetcher()).await;
    assert_eq!(delivered.last(), Some(&(102, 102.5)));
    assert_eq!(session.pipeline.late_bars(), LateBars { late: 1, duplicate: 2 });
}

#[tokio::test]
async fn a_bar_of_an_unknown_input_is_an_error() {
    let clock = ManualClock::new(minute(CLOSED));
    let (strategy, _) = strategy(&clock, fetcher());
    let (sender, mut receiver) = live_channel(4);
    sender.send(LiveBar::new(key("eth", "1m"), minute(100), rows(&[minute(100)], 0.5))).await.unwrap();
    let error = passing_time(&clock, Runner::new().follow(strategy, &mut receiver)).await.unwrap_err();
    assert_eq!(error.to_string(), "the strategy has no such input (series: eth@1m)");
    drop(receiver);
    let error = sender.send(live(100)).await.unwrap_err();
    assert_eq!(error.to_string(), "nobody takes live bars any more (series: btc@1m)");
}

#[tokio::test]
async fn signals_come_out_without_a_gateway_and_a_stop_ends_well() {
    let clock = ManualClock::new(minute(CLOSED).checked_add(Duration::from_secs(1)).unwrap());
    let stream = StreamInput::builder("btc").interval("1m").period(3).backend(MemoryBackend::new());
    let stream = stream.fetcher(fetcher()).clock(clock.clone()).build().unwrap();
    let (orders, moments, replayed) = (Arc::default(), Arc::default(), Arc::new(Mutex::new(0)));
    let (of_orders, of_moments, of_replay): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>, _) =
        (Arc::clone(&orders), Arc::clone(&moments), Arc::clone(&replayed));
    let node = ComputeNode::slices("signal".parse().unwrap(), 1, move |windows| {
        *of_replay.lock().unwrap() += 1;
        windows.f64(0)[0] - 101.0
    });
    let node = node.reads(&stream, "close");
    let node = node.orders_to(move |order| of_orders.lock().unwrap().push((order.ts, order.side)));
    let strategy = Strategy::builder().input(stream).node(node).build().unwrap();
    let (sender, mut receiver) = live_channel(10);
    let stop = StopSignal::new();
    let runner =
        Runner::new().with_activation(Activation::always(Mode::Paper, clock.clone())).with_stop(stop.clone());
    let following = runner.follow_with(strategy, &mut receiver, move |_, moment| {
        of_moments.lock().unwrap().push((moment.at, moment.results[0].values[0]));
        Ok(())
    });
    let feeding = async {
        // A bar that came before the replay would be history.
        while *replayed.lock().unwrap() < 3 {
            tokio::task::yield_now().await;
        }
        for index in CLOSED..CLOSED + 3 {
            sender.send(live(index)).await.unwrap();
        }
        while moments.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        stop.stop();
    };
    let (session, ()) = tokio::join!(following, feeding);
    assert_eq!(session.unwrap().pipeline.moment(), Some(minute(CLOSED + 3)));
    let expected = [(0, -0.5), (1, 0.5), (2, 1.5)].map(|(at, value)| (minute(CLOSED + at + 1), value));
    assert_eq!(*moments.lock().unwrap(), expected);
    let expected = [(0, Side::Short), (1, Side::Long), (2, Side::Long)];
    assert_eq!(*orders.lock().unwrap(), expected.map(|(at, side)| (minute(CLOSED + at), side)));
}

/// A store with these bars, whose close is its number, and an input of it.
async fn stored(clock: &ManualClock, bars: Range<u32>) -> (Arc<MemoryBackend>, StreamInput) {
    let store = Arc::new(MemoryBackend::new());
    let points: Vec<_> = bars.map(minute).collect();
    store.write_rows(&WriteRequest::new(key("btc", "1m")), rows(&points, 0.0)).await.unwrap();
    let stream = StreamInput::builder("btc").interval("1m").period(PERIOD).backend(Arc::clone(&store));
    (store, stream.clock(clock.clone()).build().unwrap())
}

fn closed() -> ManualClock {
    ManualClock::new(minute(CLOSED).checked_add(Duration::from_secs(1)).unwrap())
}

#[tokio::test]
async fn a_column_that_is_not_stored_is_told_before_warm_up() {
    let clock = closed();
    let (_, stream) = stored(&clock, 0..CLOSED).await;
    let node = ComputeNode::slices("mean".parse().unwrap(), 5, |windows| windows.f64(0)[0]);
    let strategy = Strategy::builder().node(node.reads(&stream, "closs")).input(stream.clone());
    let error = passing_time(&clock, Runner::offline(strategy.build().unwrap())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a compute node reads a column that its input lacks (reader: mean, series: btc@1m, column: closs, columns: ts, close)"
    );
    assert!(stream.cache().read(NodeCache::is_empty), "nothing was loaded");

    // Where no store says it, the rows do, before a node meets them.
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let one = batch(&[minute(CLOSED - 1)], [("close", counts)]);
    let fetcher = FakeFetcher::new("counts").with_rows(move |_| one.clone());
    let stream = StreamInput::builder("btc").interval("1m").period(1).fetcher(fetcher).clock(clock.clone());
    let stream = stream.build().unwrap();
    let node = ComputeNode::slices("mean".parse().unwrap(), 1, |windows| windows.f64(0)[0]);
    let strategy = Strategy::builder().node(node.reads(&stream, "close")).input(stream).build().unwrap();
    let error = passing_time(&clock, Runner::offline(strategy)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a compute node reads a column that is not of doubles (reader: mean, series: btc@1m, column: close, type: Int64)"
    );
}

#[tokio::test]
async fn a_node_that_fails_is_in_the_session_and_fails_a_strict_run() {
    for strict in [false, true] {
        let clock = closed();
        let (_, stream) = stored(&clock, 0..CLOSED).await;
        let node = ComputeNode::slices("dies".parse().unwrap(), 1, |windows| {
            assert!(windows.f64(0)[0] < 90.0, "ninety is too much");
            0.0
        });
        let strategy = Strategy::builder().node(node.reads(&stream, "close")).input(stream).build().unwrap();
        let runner = Runner::new().with_warmup(WarmupConfig::default().with_strict(strict));
        let expected = "a compute node panicked (node_id: dies, panic: ninety is too much)";
        match passing_time(&clock, runner.prime(strategy)).await {
            Ok(session) => {
                let failures: Vec<_> = session.failures().map(Error::to_string).collect();
                assert_eq!((strict, failures), (false, vec![expected.to_owned()]));
            }
            Err(error) => assert_eq!((strict, error.to_string()), (true, expected.to_owned())),
        }
    }
}

#[tokio::test]
async fn an_error_of_who_hears_of_moments_ends_the_run() {
    let clock = closed();
    let full = || Err(Error::unavailable("the disk is full"));
    let (_, stream) = stored(&clock, 0..CLOSED).await;
    let runner = Runner::new().with_on_ready(move |_, _| full());
    let error = passing_time(&clock, runner.prime(totals(stream))).await.unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");

    let (_, stream) = stored(&clock, 0..CLOSED).await;
    let (sender, mut receiver) = live_channel(1);
    let runner = Runner::new();
    let following = runner.follow_with(totals(stream), &mut receiver, move |_, _| full());
    let feeding = async {
        // A bar that came before the replay would be history.
        for index in CLOSED.. {
            if sender.send(live(index)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        session = following => assert_eq!(session.unwrap_err().to_string(), "the disk is full"),
        () = feeding => unreachable!("it feeds for as long as it is heard"),
    }
}

/// The sum of all closes since the first bar.
#[derive(Debug, Default)]
struct Total(f64);

impl StatefulNode for Total {
    fn version(&self) -> String {
        "total/1".into()
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        self.0 += windows.get("btc", "close")[0];
        out[0] = self.0;
        Ok(())
    }

    fn reset(&mut self) {
        self.0 = 0.0;
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let bytes = state.try_into().map_err(|_| Error::invalid("a total has eight bytes"))?;
        self.0 = f64::from_le_bytes(bytes);
        Ok(())
    }
}

/// A total of all bars, and the mean of ten of these.
fn totals(stream: StreamInput) -> Strategy {
    let total = ComputeNode::stateful("total".parse().unwrap(), 1, Total::default()).reads(&stream, "close");
    let mean = ComputeNode::slices("mean".parse().unwrap(), 10, |windows| {
        windows.get("total", VALUE).iter().sum::<f64>() + windows.get("btc", "close")[0]
    });
    let mean = mean.version("1").reads("total".parse::<NodeId>().unwrap(), VALUE).reads(&stream, "close");
    Strategy::builder().node(total).node(mean.keeps(200)).input(stream).build().unwrap()
}

#[tokio::test]
async fn a_strategy_goes_on_from_a_saved_state_as_if_it_had_not_stopped() {
    let clock = closed();
    let (store, stream) = stored(&clock, 0..CLOSED).await;
    let session = passing_time(&clock, Runner::offline(totals(stream))).await.unwrap();
    assert!(session.restored.is_none());
    let snapshot = session.snapshot().unwrap();
    // It is away for longer than its period, and then some bars are missing.
    let later = CLOSED + 3 * u32::try_from(PERIOD).unwrap();
    let points: Vec<_> = (CLOSED..later).map(minute).collect();
    store.write_rows(&WriteRequest::new(key("btc", "1m")), rows(&points, 0.0)).await.unwrap();
    clock.set(minute(later));
    let input = || StreamInput::builder("btc").interval("1m").period(PERIOD).backend(Arc::clone(&store));
    let input = || input().clock(clock.clone()).build().unwrap();
    let ready = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&ready);
    let runner = Runner::new().with_snapshot(snapshot.clone()).with_on_ready(move |pipeline, warmup| {
        told.lock().unwrap().push((pipeline.moment(), warmup.is_ready()));
        Ok(())
    });
    let restored = passing_time(&clock, runner.prime(totals(input()))).await.unwrap();
    assert_eq!(*ready.lock().unwrap(), [(Some(minute(later)), true)], "once, after the replay");
    assert_eq!(restored.restored.unwrap().unwrap(), minute(CLOSED));
    assert_eq!(restored.replayed.bars, u64::from(later - CLOSED));
    assert_eq!(restored.pipeline.inputs()[0].cache().read(NodeCache::len), PERIOD);

    let whole = Backtest::new().range(totals(input()), minute(CLOSED), minute(later)).await.unwrap();
    let whole = whole.collect().await.unwrap();
    let mean = "mean".parse().unwrap();
    let (ts, values) = restored.pipeline.results(&mean).unwrap();
    let of_backtest = whole.results[1].1.column(2).as_primitive::<Float64Type>();
    let since = ts.partition_point(|ts| *ts < minute(CLOSED));
    assert_eq!((&values[since..], ts.len() - since), (&of_backtest.values()[..], points.len()));

    // One of the future, one that is too old and one of another strategy are refused, and told.
    let refused = async |now: Timestamp, strategy: Strategy| {
        clock.set(now);
        let session = passing_time(&clock, runner.prime(strategy)).await.unwrap();
        assert_eq!(session.replayed.bars, session.warmup.inputs[0].bars as u64);
        session.restored.unwrap().unwrap_err().to_string()
    };
    let error = refused(minute(CLOSED - 1), totals(input())).await;
    assert!(error.starts_with("the saved state is of the future"), "{error}");
    let (_, other) = stored(&clock, 0..CLOSED).await;
    let node = ComputeNode::slices("other".parse().unwrap(), 1, |_| 0.0).reads(&other, "close");
    let strategy = Strategy::builder().node(node).input(other).build().unwrap();
    let error = refused(minute(later), strategy).await;
    assert!(error.starts_with("the saved state is that of another strategy"), "{error}");
    let error =
        refused(minute(CLOSED).checked_add(Duration::from_secs(60 * 1_000_001)).unwrap(), totals(input()))
            .await;
    assert!(error.starts_with("the saved state is too old"), "{error}");
}

#[tokio::test]
async fn live_bars_that_come_during_warm_up_take_no_place_from_those_that_were_missed() {
    let clock = closed();
    let later = CLOSED + 5 * u32::try_from(PERIOD).unwrap();
    let (_, stream) = stored(&clock, 0..later).await;
    let input = stream.detached().unwrap();
    let session = passing_time(&clock, Runner::offline(totals(stream))).await.unwrap();
    let total: NodeId = "total".parse().unwrap();
    let before = *session.pipeline.results(&total).unwrap().1.last().unwrap();
    clock.set(minute(later));
    let (sender, mut receiver) = live_channel(20);
    for index in later..later + 7 {
        sender.send(live(index)).await.unwrap();
    }
    drop(sender);
    let runner = Runner::new().with_snapshot(session.snapshot().unwrap());
    let session = passing_time(&clock, runner.follow(totals(input), &mut receiver)).await.unwrap();
    let missed: f64 = (CLOSED..later).map(f64::from).sum();
    let live: f64 = (later..later + 7).map(|index| f64::from(index) + 0.5).sum();
    assert_eq!(session.pipeline.results(&total).unwrap().1.last(), Some(&(before + missed + live)));
}

#[tokio::test]
async fn live_bars_that_come_during_warm_up_take_no_place_from_each_other() {
    let clock = closed();
    let (store, _) = stored(&clock, 0..CLOSED).await;
    let stream = StreamInput::builder("btc").interval("1m").period(1).backend(store).clock(clock.clone());
    let stream = stream.build().unwrap();
    let (strategy, delivered) = logged(stream);
    let (sender, mut receiver) = live_channel(20);
    for index in CLOSED..CLOSED + 4 {
        sender.send(live(index)).await.unwrap();
    }
    drop(sender);
    let session = passing_time(&clock, Runner::new().follow(strategy, &mut receiver)).await.unwrap();
    assert_eq!(
        *delivered.lock().unwrap(),
        [(99, 99.0), (100, 100.5), (101, 101.5), (102, 102.5), (103, 103.5)]
    );
    assert!(session.gaps.is_empty());
}

#[tokio::test]
async fn a_bar_that_is_sent_again_does_not_hide_a_seam() {
    let clock = closed();
    let (strategy, delivered) = strategy(&clock, fetcher());
    let (sender, mut receiver) = live_channel(4);
    for index in [99, 103] {
        sender.send(live(index)).await.unwrap();
    }
    drop(sender);
    clock.set(minute(104));
    let runner = Runner::new().with_warmup(WarmupConfig::default().with_deadline(Duration::from_secs(5)));
    let session = passing_time(&clock, runner.follow(strategy, &mut receiver)).await.unwrap();
    let tail: Vec<_> =
        delivered.lock().unwrap().iter().map(|(index, _)| *index).skip_while(|i| *i < 98).collect();
    assert_eq!(tail, [98, 99, 100, 101, 102, 103]);
    assert!(session.gaps.is_empty());
}

#[tokio::test]
async fn a_seam_that_is_longer_than_the_period_is_delivered_whole() {
    let clock = closed();
    let stream = StreamInput::builder("btc").interval("1m").period(1).backend(MemoryBackend::new());
    let stream = stream.fetcher(fetcher()).clock(clock.clone()).build().unwrap();
    let (strategy, delivered) = logged(stream);
    let mut source = Scheduled {
        clock: clock.clone(),
        first: vec![106].into_iter(),
        replayed: Delivered::default(),
        then: vec![].into_iter(),
    };
    let stop = StopSignal::new();
    let runner = Runner::new().with_warmup(WarmupConfig::default().with_deadline(Duration::from_secs(5)));
    let runner = runner.with_stop(stop.clone());
    let ends = async {
        while delivered.lock().unwrap().last() != Some(&(106, 106.5)) {
            tokio::task::yield_now().await;
        }
        stop.stop();
    };
    let (session, ()) = tokio::join!(passing_time(&clock, runner.follow(strategy, &mut source)), ends);
    let seam = (99..106).map(|index| (index, f64::from(index)));
    assert_eq!(*delivered.lock().unwrap(), seam.chain([(106, 106.5)]).collect::<Vec<_>>());
    assert!(session.unwrap().gaps.is_empty());
}

#[tokio::test]
async fn a_run_that_is_stopped_before_it_is_ready_says_so() {
    let clock = closed();
    let never = FakeFetcher::new("empty").with_rows(|_| rows(&[], 0.0)).with_proven(|_| RangeSet::new());
    let (strategy, _) = strategy(&clock, never);
    let stop = StopSignal::new();
    stop.stop();
    let error = Runner::new().with_stop(stop).prime(strategy).await.unwrap_err();
    assert_eq!(error.to_string(), "the run was stopped before the strategy was ready");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_live_source_that_would_be_passed_over_is_refused() {
    let clock = closed();
    let (_, stream) = stored(&clock, 0..CLOSED).await;
    let (_sender, own) = live_channel(1);
    let strategy = || Strategy::builder().input(stream.clone());
    let (_other, mut receiver) = live_channel(1);
    let with_own = strategy().live(own).build().unwrap();
    let error = Runner::new().follow(with_own, &mut receiver).await.unwrap_err();
    assert!(error.to_string().starts_with("the strategy has a live source of its own"), "{error}");
}
