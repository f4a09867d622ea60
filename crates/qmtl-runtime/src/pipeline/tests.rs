//! Feeding and replaying a graph: order, parallel runs, panics, results.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::metrics::with_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use proptest::{prop_assert, prop_assert_eq, proptest, test_runner::Config};
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::{EventRecorder, RangeSet, StreamBinding, TimeRange, async_trait};
use qmtl_history_testkit::fixtures::{ManualClock, bar, bars_at, batch, key, span, start};

use super::*;
use crate::{
    Appended, ComputeNode, EventRecorderService, Mode, Order, Side, SideState, Snapshot, StatefulNode, VALUE,
    Windows,
};

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn input(node: &str, period: usize) -> StreamInput {
    StreamInput::builder(node).interval("1m").period(period).build().unwrap()
}

/// Bars of minute `bars` whose close is the bar's number.
fn closes(bars: &[u32]) -> RecordBatch {
    let key = key("any", "1m");
    let points: Vec<_> = bars.iter().map(|b| bar(&key, *b)).collect();
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values(bars.iter().map(|b| f64::from(*b))));
    batch(&points, [("close", values)])
}

fn minute(index: u32) -> Timestamp {
    bar(&key("any", "1m"), index)
}

fn load(stream: &StreamInput, bars: &[u32]) {
    stream.cache().write(|cache| cache.backfill_bulk(&closes(bars))).unwrap();
}

fn mean(windows: &Windows<'_>) -> f64 {
    let values = windows.f64(0);
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap())
}

fn moving_average(name: &str, window: usize, source: impl Into<Source>, column: &str) -> ComputeNode {
    ComputeNode::slices(id(name), window, mean).reads(source, column).keeps(1_000)
}

/// The same by one call for many bars.
fn moving_average_batch(name: &str, window: usize, source: &str) -> ComputeNode {
    ComputeNode::batch(id(name), window, move |windows, out| {
        for (at, out) in out.iter_mut().enumerate() {
            let values = &windows.f64(0)[at..at + window];
            *out = values.iter().sum::<f64>() / f64::from(u32::try_from(window).unwrap());
        }
    })
    .reads(key(source, "1m"), "close")
    .keeps(1_000)
}

/// Two inputs, averages of either kind, a spread of averages, and an average of the spread.
fn strategy(period: usize) -> Strategy {
    Strategy::builder()
        .input(input("a", period))
        .input(input("b", period))
        .node(
            ComputeNode::slices(id("spread"), 1, |w| w.f64(0)[0] - w.f64(1)[0])
                .reads(id("ma-a"), VALUE)
                .reads(id("ma-b"), VALUE)
                .keeps(1_000),
        )
        .node(moving_average("ma-a", 3, key("a", "1m"), "close"))
        .node(moving_average_batch("ma-b", 2, "b"))
        .node(moving_average("smooth", 2, id("spread"), VALUE))
        .build()
        .unwrap()
}

const NODES: [&str; 4] = ["ma-a", "ma-b", "spread", "smooth"];

fn all_results(pipeline: &Pipeline) -> Vec<(Vec<Timestamp>, Vec<f64>)> {
    NODES
        .iter()
        .map(|node| {
            let (ts, values) = pipeline.results(&id(node)).unwrap();
            (ts.to_vec(), values.to_vec())
        })
        .collect()
}

/// What feeding the bars one by one gives, in the order of time and then of inputs.
fn fed_one_by_one(a: &[u32], b: &[u32]) -> Vec<(Vec<Timestamp>, Vec<f64>)> {
    let mut events: Vec<_> = a.iter().map(|bar| (*bar, "a")).chain(b.iter().map(|bar| (*bar, "b"))).collect();
    events.sort_unstable();
    let mut pipeline = Pipeline::new(strategy(100));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (bar, input) in events {
            pipeline.feed(&key(input, "1m"), minute(bar), &closes(&[bar])).await.unwrap();
        }
        pipeline.finish().await.unwrap();
    });
    all_results(&pipeline)
}

#[test]
fn a_node_sees_its_window_and_no_bar_of_the_future() {
    let stream = input("a", 10);
    load(&stream, &[1, 2, 4, 8]);
    let strategy = Strategy::builder().input(stream).node(moving_average("ma", 3, key("a", "1m"), "close"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap()).with_holes_allowed(true);
    assert!(!pipeline.is_warm(&id("ma")));
    let replayed = pipeline.replay().unwrap();
    assert_eq!(replayed, Replayed { bars: 4, results: 2 });
    assert_eq!(
        pipeline.results(&id("ma")).unwrap(),
        (&[minute(4), minute(8)][..], &[7.0 / 3.0, 14.0 / 3.0][..])
    );
    assert!(pipeline.is_warm(&id("ma")));
    assert_eq!(pipeline.replay().unwrap(), Replayed::default(), "a bar is delivered once");
    assert_eq!(
        pipeline.results(&id("nope")).unwrap_err().to_string(),
        "the strategy has no such compute node (node_id: nope)"
    );
}

/// What a node of two inputs has seen at each moment.
fn seen_of(one: StreamInput, two: StreamInput) -> Vec<(Timestamp, f64, f64)> {
    let seen: Arc<Mutex<Vec<(Timestamp, f64, f64)>>> = Arc::default();
    let log = Arc::clone(&seen);
    let both = ComputeNode::slices(id("both"), 1, move |w| {
        log.lock().unwrap().push((w.moment(), w.f64(0)[0], w.f64(1)[0]));
        0.0
    });
    let node = both.reads(&one, "close").reads(&two, "close");
    let strategy = Strategy::builder().input(one).input(two).node(node);
    Pipeline::new(strategy.build().unwrap()).replay().unwrap();
    std::mem::take(&mut *seen.lock().unwrap())
}

#[test]
fn bars_that_close_together_are_seen_together() {
    let of_two = |are_absent: bool| {
        let (one, two) = (input("z", 5), input("a", 5));
        for (stream, absent) in [(&one, 3), (&two, 2)] {
            let bars: Vec<_> = (1..5).filter(|bar| *bar != absent).collect();
            load(stream, &bars);
            let absent = TimeRange::new(minute(absent), minute(absent + 1)).unwrap();
            let absent = if are_absent { RangeSet::from(absent) } else { RangeSet::new() };
            stream.cache().write(|cache| cache.note_known_empty(&absent));
        }
        seen_of(one, two)
    };
    let expected =
        |of: &[(u32, f64, f64)]| of.iter().map(|(ts, a, b)| (minute(ts + 1), *a, *b)).collect::<Vec<_>>();
    assert_eq!(of_two(true), expected(&[(1, 1.0, 1.0), (2, 2.0, 1.0), (3, 2.0, 3.0), (4, 4.0, 4.0)]));
    // A bar that is missing may say anything.
    assert_eq!(of_two(false), expected(&[(1, 1.0, 1.0), (4, 4.0, 4.0)]));
}

#[test]
fn a_bar_of_an_hour_is_seen_when_it_closes() {
    let hours = StreamInput::builder("h").interval("1h").period(5).build().unwrap();
    let of_hours: Vec<_> = (0..2).map(|index| bar(&key("h", "1h"), index)).collect();
    let values: ArrayRef = Arc::new(Float64Array::from(vec![100.0, 200.0]));
    hours.cache().write(|cache| cache.backfill_bulk(&batch(&of_hours, [("close", values)]))).unwrap();
    let minutes = input("m", 200);
    load(&minutes, &(0..130).collect::<Vec<_>>());
    let seen = seen_of(minutes, hours);
    assert_eq!(seen.len(), 130 - 59, "before the first hour has closed there is none to see");
    for ((moment, minute_bar, hour_bar), index) in seen.into_iter().zip(59..) {
        assert_eq!((moment, minute_bar), (minute(index + 1), f64::from(index)));
        assert_eq!(hour_bar, if moment < minute(120) { 100.0 } else { 200.0 }, "{moment}");
    }
}

#[tokio::test]
async fn two_inputs_are_one_firing_one_record_and_one_order_a_minute() {
    let taken = Taken::default();
    let service = Arc::new(EventRecorderService::new(taken.clone()));
    let (sender, orders) = std::sync::mpsc::channel();
    let activation = Activation::new(Arc::new(ManualClock::new(start())));
    activation.set_mode(Mode::Live, Duration::MAX);
    activation.set_side(Side::Long, SideState::ACTIVE, Duration::MAX);
    // BTC closes at m and ETH at m/2.
    let spread = ComputeNode::slices(id("spread"), 1, |w| 2.0f64.mul_add(-w.f64(1)[0], w.f64(0)[0]))
        .reads(key("btc", "1m"), "close")
        .reads(key("eth", "1m"), "close")
        .recorded_by(Arc::clone(&service))
        .orders_to(move |order| sender.send(order.ts).unwrap());
    let mut updates = 0.0;
    let stateful = ComputeNode::slices(id("count"), 1, move |_| {
        updates += 1.0;
        updates
    });
    let strategy = Strategy::builder()
        .input(input("btc", 1))
        .input(input("eth", 1))
        .node(spread.keeps(9))
        .node(stateful.reads(id("spread"), VALUE));
    let mut pipeline = Pipeline::new(strategy.build().unwrap()).with_activation(activation);
    for m in 1..=4u32 {
        let half: ArrayRef = Arc::new(Float64Array::from(vec![f64::from(m) / 2.0]));
        let fed = pipeline.feed(&key("btc", "1m"), minute(m), &closes(&[m])).await.unwrap();
        assert_eq!((fed.bars, fed.results), (0, 0), "it waits for the other one");
        let half = batch(&[minute(m)], [("close", half)]);
        let fed = pipeline.feed(&key("eth", "1m"), minute(m), &half).await.unwrap();
        assert_eq!((fed.bars, fed.results), (2, 2));
    }
    service.shutdown().await.unwrap();
    let expected: Vec<_> = (1..=4).map(|m| ("spread".to_owned(), minute(m), 0.0)).collect();
    assert_eq!(*taken.0.lock().unwrap(), expected);
    assert_eq!(orders.try_iter().count(), 0, "a spread of nothing is no signal");
    assert_eq!(pipeline.results(&id("count")).unwrap().1.last(), Some(&4.0));
    assert_eq!((pipeline.given_up(), pipeline.moment()), (&[][..], Some(minute(5))));
}

#[test]
fn a_result_is_a_bar_of_the_longest_grid_on_which_its_inputs_close() {
    let grid = |intervals: &[&str]| {
        common_grid(intervals.iter().map(|text| text.parse().unwrap())).unwrap().to_string()
    };
    assert_eq!(grid(&["1m"]), "1m");
    assert_eq!(grid(&["1m", "1h"]), "1m");
    assert_eq!(grid(&["2m", "3m"]), "1m");
    assert_eq!(grid(&["1h", "1h+30m"]), "30m");
    assert_eq!(grid(&["1h+30m", "1d+30m"]), "1h+30m");
    assert_eq!(grid(&["1w", "1d"]), "1d");
}

proptest! {
    #![proptest_config(Config::with_cases(300))]

    #[test]
    fn replay_is_feeding_one_by_one(
        a in proptest::collection::btree_set(0u32..60, 0..40),
        b in proptest::collection::btree_set(0u32..60, 0..40),
    ) {
        let (a, b): (Vec<_>, Vec<_>) = (a.into_iter().collect(), b.into_iter().collect());
        let expected = fed_one_by_one(&a, &b);
        let strategy_of_caches = strategy(100);
        load(&strategy_of_caches.inputs()[0], &a);
        load(&strategy_of_caches.inputs()[1], &b);
        let mut cached = Pipeline::new(strategy_of_caches);
        cached.replay().unwrap();
        prop_assert_eq!(all_results(&cached), expected.clone());

        let mut streamed = Pipeline::new(strategy(3));
        let stream = |bars: &[u32]| {
            let batches: Vec<_> = bars.chunks(7).map(closes).collect();
            BatchStream::from_batches(closes(&[]).schema(), batches)
        };
        let streams = vec![(key("b", "1m"), stream(&b)), (key("a", "1m"), stream(&a))];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(streamed.replay_streams(streams)).unwrap();
        prop_assert_eq!(all_results(&streamed), expected);
        for input in streamed.inputs() {
            prop_assert!(input.cache().read(NodeCache::len) <= 3, "a cache keeps its period alone");
        }
    }
}

#[test]
fn threads_give_the_serial_results() {
    let run = |parallelism| {
        let strategy = strategy(40_000);
        let (a, b): (Vec<_>, Vec<_>) = (0..40_000).partition(|bar| bar % 3 != 0);
        load(&strategy.inputs()[0], &a);
        load(&strategy.inputs()[1], &b);
        let mut pipeline = Pipeline::new(strategy).with_parallelism(parallelism);
        (pipeline.replay().unwrap(), all_results(&pipeline))
    };
    let serial = run(Parallelism::Serial);
    assert_eq!(serial.0.bars, 40_000);
    for threads in [1, 2, 3, 16] {
        assert_eq!(run(Parallelism::Threads(threads)), serial);
    }
}

#[tokio::test]
async fn late_and_double_bars_are_counted_and_not_delivered_again() {
    let stream = input("a", 10);
    load(&stream, &[1, 2, 3]);
    let strategy = Strategy::builder().input(stream).node(moving_average("ma", 1, key("a", "1m"), "close"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    let mut feed = async |bar| pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await.unwrap();
    assert_eq!(feed(3).await, Fed { appended: Appended::Replaced, bars: 0, results: 0 });
    assert_eq!(feed(5).await, Fed { appended: Appended::New, bars: 1, results: 1 });
    assert_eq!(feed(4).await, Fed { appended: Appended::Late, bars: 0, results: 0 });
    assert_eq!(feed(5).await, Fed { appended: Appended::Duplicate, bars: 0, results: 0 });
    assert_eq!(pipeline.late_bars(), LateBars { late: 2, duplicate: 1 });
    assert_eq!(pipeline.results(&id("ma")).unwrap().1, [1.0, 2.0, 3.0, 5.0]);
    let cached = pipeline.inputs()[0].cache().read(|cache| cache.view().timestamps().to_vec());
    assert_eq!(cached, [1, 2, 3, 4, 5].map(minute), "the cache has them in order");
    let error = pipeline.feed(&key("b", "1m"), minute(9), &closes(&[9])).await.unwrap_err();
    assert_eq!(error.to_string(), "the strategy has no such input (series: b@1m)");
}

fn with_a_panicking_node() -> Pipeline {
    let bad = ComputeNode::slices(id("bad"), 1, |w| {
        assert!(w.f64(0)[0] < 3.0, "three is too much");
        w.f64(0)[0]
    });
    let stream = input("a", 10);
    load(&stream, &[1, 2, 3, 4]);
    let strategy = Strategy::builder()
        .input(stream)
        .node(bad.reads(key("a", "1m"), "close").keeps(9))
        .node(moving_average("of-bad", 1, id("bad"), VALUE))
        .node(moving_average("good", 1, key("a", "1m"), "close"));
    Pipeline::new(strategy.build().unwrap())
}

#[tokio::test]
async fn a_panicking_node_is_named_and_the_others_go_on() {
    let mut pipeline = with_a_panicking_node();
    pipeline.replay().unwrap();
    pipeline.feed(&key("a", "1m"), minute(5), &closes(&[5])).await.unwrap();
    let failures: Vec<_> = pipeline.failures().map(Error::to_string).collect();
    assert_eq!(
        failures,
        [
            "a compute node panicked (node_id: bad, panic: three is too much)",
            "a compute node reads one that has failed (node_id: of-bad, source: bad)"
        ]
    );
    assert_eq!(pipeline.results(&id("good")).unwrap().1, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(pipeline.results(&id("of-bad")).unwrap().1, [1.0, 2.0]);
}

/// The values of a node that reads a column of its input beside the results of one that fails at the third bar, live or
/// replayed, and what its orders were.
async fn beside_one_that_fails(is_live: bool, bad: ComputeNode) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let orders: Arc<Mutex<Vec<f64>>> = Arc::default();
    let told = Arc::clone(&orders);
    let reader = ComputeNode::slices(id("reader"), 1, |w| w.get("bad", VALUE)[0] + w.get("a", "close")[0]);
    let reader = reader.reads(key("a", "1m"), "close").reads(id("bad"), VALUE).keeps(9);
    let stream = input("a", 1);
    let strategy = Strategy::builder()
        .input(stream.clone())
        .node(bad.reads(key("a", "1m"), "close").keeps(9))
        .node(reader.orders_to(move |order| told.lock().unwrap().push(order.value)));
    let mut pipeline = Pipeline::new(strategy.build().unwrap())
        .with_activation(Activation::always(Mode::Paper, ManualClock::new(minute(9))));
    if is_live {
        for bar in 1..6 {
            pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await.unwrap();
        }
    } else {
        stream.cache().write(|cache| cache.set_extra(9));
        load(&stream, &[1, 2, 3, 4, 5]);
        pipeline.replay().unwrap();
    }
    let values = |node: &str| pipeline.results(&id(node)).unwrap().1.to_vec();
    let failures: Vec<_> = pipeline.failures().map(Error::message).collect();
    assert_eq!(failures, ["a compute node panicked", "a compute node reads one that has failed"]);
    (values("bad"), values("reader"), std::mem::take(&mut *orders.lock().unwrap()))
}

#[tokio::test]
async fn a_failed_node_takes_its_readers_with_it_at_the_same_moment_live_and_replayed() {
    let slices = || {
        ComputeNode::slices(id("bad"), 1, |w| {
            assert!(w.f64(0)[0] < 3.0, "three is too much");
            w.f64(0)[0]
        })
    };
    let batch = || {
        ComputeNode::batch(id("bad"), 1, |w, out| {
            for (out, value) in out.iter_mut().zip(w.f64(0)) {
                assert!(*value < 3.0, "three is too much");
                *out = *value;
            }
        })
    };
    let expected = (vec![1.0, 2.0], vec![2.0, 4.0]);
    for is_live in [true, false] {
        for bad in [slices(), batch()] {
            let (own, reader, orders) = beside_one_that_fails(is_live, bad).await;
            assert_eq!((own, reader), expected, "live {is_live}");
            assert_eq!(orders, if is_live { vec![2.0, 4.0] } else { vec![] });
        }
    }
}

#[tokio::test]
async fn a_node_whose_order_sink_fails_takes_its_readers_with_it() {
    let a = input("a", 1);
    let orders =
        ComputeNode::slices(id("orders"), 1, |w| w.f64(0)[0]).reads(&a, "close").orders_to(|order| {
            assert!(order.value < 2.0, "two is too much");
        });
    let reader = ComputeNode::slices(id("reader"), 1, |w| w.f64(0)[0] + w.f64(1)[0]);
    let reader = reader.reads(&a, "close").reads(id("orders"), VALUE).keeps(9);
    let strategy = Strategy::builder().input(a).node(orders.keeps(9)).node(reader).build().unwrap();
    let mut pipeline =
        Pipeline::new(strategy).with_activation(Activation::always(Mode::Paper, ManualClock::new(minute(9))));
    for bar in 1..5 {
        pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await.unwrap();
    }
    // At the moment of the order that failed, the reader had run already.
    assert_eq!(pipeline.results(&id("orders")).unwrap().1, [1.0, 2.0]);
    assert_eq!(pipeline.results(&id("reader")).unwrap().1, [2.0, 4.0]);
    let failures: Vec<_> = pipeline.failures().map(Error::message).collect();
    assert_eq!(failures, ["a compute node panicked", "a compute node reads one that has failed"]);
}

#[tokio::test]
async fn a_node_that_looks_at_a_cache_fails_and_does_not_wait_for_itself() {
    let stream = input("a", 3);
    let looked_at = stream.clone();
    let node =
        ComputeNode::slices(id("looks"), 1, move |_| looked_at.cache().read(|cache| cache.len() as f64));
    let strategy = Strategy::builder().input(stream.clone()).node(node.reads(&stream, "close"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.feed(&key("a", "1m"), minute(1), &closes(&[1])).await.unwrap();
    let failure = pipeline.failures().next().unwrap().to_string();
    assert_eq!(
        failure,
        "a compute node panicked (node_id: looks, panic: a compute node looked at a cache, which is locked while nodes \
         run; it must read its windows)"
    );
    assert_eq!(stream.cache().read(NodeCache::len), 1, "the cache is as it was");
}

#[tokio::test]
async fn no_node_acts_on_the_last_bar_of_an_input_that_has_died_or_on_a_silent_node() {
    let (a, b) = (input("a", 5), input("b", 5));
    let spread = ComputeNode::slices(id("spread"), 1, |w| w.f64(0)[0] - w.f64(1)[0]);
    let spread = spread.reads(&a, "close").reads(&b, "close").keeps(9);
    let reader = ComputeNode::slices(id("reader"), 1, |w| w.f64(0)[0] + w.f64(1)[0]);
    let reader = reader.reads(&a, "close").reads(id("spread"), VALUE).keeps(9);
    let strategy = Strategy::builder().input(a).input(b).node(spread).node(reader);
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    for bar in 1..6 {
        if bar < 3 || bar == 5 {
            let tenfold: ArrayRef = Arc::new(Float64Array::from(vec![f64::from(10 * bar)]));
            let row = batch(&[minute(bar)], [("close", tenfold)]);
            pipeline.feed(&key("b", "1m"), minute(bar), &row).await.unwrap();
        }
        pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await.unwrap();
    }
    pipeline.finish().await.unwrap();
    // The bars 3 and 4 of b are missing.
    let expected = [(1, -9.0), (2, -18.0), (5, -45.0)];
    let expected: (Vec<_>, Vec<_>) = expected.iter().map(|(bar, value)| (minute(*bar), *value)).unzip();
    assert_eq!(pipeline.results(&id("spread")).unwrap(), (&expected.0[..], &expected.1[..]));
    assert_eq!(pipeline.results(&id("reader")).unwrap().1, [-8.0, -16.0, -40.0]);
    assert_eq!(
        (pipeline.silenced(&id("spread")).unwrap(), pipeline.silenced(&id("reader")).unwrap()),
        (2, 2)
    );
}

#[tokio::test]
async fn what_a_source_has_settled_is_not_missing() {
    let a = input("a", 5);
    let node = ComputeNode::slices(id("sum"), 2, |w| w.f64(0).iter().sum()).reads(&a, "close").keeps(9);
    let mut pipeline = Pipeline::new(Strategy::builder().input(a).node(node).build().unwrap());
    for bar in [0, 1] {
        pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await.unwrap();
    }
    pipeline.settle(&key("a", "1m"), minute(3)).await.unwrap();
    pipeline.feed(&key("a", "1m"), minute(3), &closes(&[3])).await.unwrap();
    assert_eq!(pipeline.results(&id("sum")).unwrap().1, [1.0, 4.0]);
    assert_eq!(pipeline.silenced(&id("sum")).unwrap(), 0);
}

#[tokio::test]
async fn a_live_bar_is_refused_that_is_none_of_its_input() {
    let a = input("a", 5);
    let mut pipeline = Pipeline::new(Strategy::builder().input(a).build().unwrap());
    let half_past = minute(1).checked_add_micros(30_000_000).unwrap();
    let mut refused = Vec::new();
    for (ts, payload) in
        [(half_past, closes(&[1])), (minute(1), closes(&[2])), (Timestamp::MAX, closes(&[1]))]
    {
        refused.push(pipeline.feed(&key("a", "1m"), ts, &payload).await.unwrap_err().to_string());
        assert!(pipeline.merge_live(&key("a", "1m"), ts, &payload).await.is_err());
    }
    assert_eq!(
        refused[..2],
        [
            "a live bar must open on the grid of its input (series: a@1m, ts: 2024-01-01T00:01:30Z)",
            "a live bar's payload has another ts than the bar (series: a@1m, ts: 2024-01-01T00:01:00Z)"
        ]
    );
    assert!(refused[2].starts_with("a live bar must open on the grid"), "{}", refused[2]);
    assert_eq!(pipeline.feed(&key("a", "1m"), minute(1), &closes(&[1])).await.unwrap().bars, 1);
}

#[tokio::test]
async fn two_pipelines_do_not_take_bars_from_each_other() {
    let a = input("a", 5);
    let strategy = || Strategy::builder().input(a.clone()).build().unwrap();
    let (mut one, mut two) = (Pipeline::new(strategy()), Pipeline::new(strategy()));
    one.feed(&key("a", "1m"), minute(1), &closes(&[1])).await.unwrap();
    for refused in [
        two.feed(&key("a", "1m"), minute(2), &closes(&[2])).await.map(drop),
        two.merge_live(&key("a", "1m"), minute(2), &closes(&[2])).await.map(drop),
        two.replay().map(drop),
    ] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "another pipeline delivers the bars of this input; build an input for each, since clones share one cache \
             (series: a@1m)"
        );
    }
    drop(one);
    assert_eq!(two.feed(&key("a", "1m"), minute(2), &closes(&[2])).await.unwrap().bars, 2);
}

#[tokio::test]
async fn nothing_is_waited_for_that_has_been_replayed() {
    let hours = StreamInput::builder("h").interval("1h").period(5).build().unwrap();
    let values: ArrayRef = Arc::new(Float64Array::from(vec![100.0]));
    let of_hours = batch(&[bar(&key("h", "1h"), 0)], [("close", values)]);
    hours.cache().write(|cache| cache.backfill_bulk(&of_hours)).unwrap();
    let minutes = input("m", 5);
    load(&minutes, &(0..60).collect::<Vec<_>>());
    let mut pipeline = Pipeline::new(Strategy::builder().input(hours).input(minutes).build().unwrap());
    pipeline.replay().unwrap();
    assert_eq!(pipeline.feed(&key("m", "1m"), minute(60), &closes(&[60])).await.unwrap().bars, 1);
    assert_eq!((pipeline.due(), pipeline.given_up()), (None, &[][..]));
}

#[tokio::test]
async fn an_error_of_a_hook_or_a_sink_loses_no_record_and_is_told_at_once() {
    let taken = Taken::default();
    let service = Arc::new(EventRecorderService::new(taken.clone()));
    let stream =
        StreamInput::builder("a").interval("1m").event_service(Arc::clone(&service)).build().unwrap();
    let node = moving_average("ma", 1, &stream, "close").recorded_by(Arc::clone(&service));
    let strategy = Strategy::builder().input(stream).node(node).build().unwrap();
    let mut pipeline = Pipeline::new(strategy).with_on_moment(|_, moment| {
        if moment.at == minute(3) { Err(Error::invalid("no more")) } else { Ok(()) }
    });
    let mut outcomes = Vec::new();
    for bar in 1..4 {
        let fed = pipeline.feed(&key("a", "1m"), minute(bar), &closes(&[bar])).await;
        outcomes.push(fed.map_err(|e| e.message().to_owned()).map(|fed| fed.bars));
    }
    assert_eq!(outcomes, [Ok(1), Err("no more".to_owned()), Ok(1)]);
    service.shutdown().await.unwrap();
    let recorded = taken.0.lock().unwrap().len();
    assert_eq!(recorded, 6, "three bars and three results");

    let mut pipeline = ordering(|_| panic!("no order")).with_on_panic(OnPanic::Stop);
    let mut errors = Vec::new();
    for bar in 1..9 {
        if let Err(error) = pipeline.feed(&key("in", "1m"), minute(bar), &closes(&[bar])).await {
            errors.push((bar, error.message().to_owned()));
            break;
        }
    }
    let (bar, error) = &errors[0];
    assert_eq!(error, "a compute node panicked");
    assert_eq!(pipeline.finish().await.unwrap_err().message(), "a compute node panicked", "after bar {bar}");
}

#[tokio::test]
async fn a_panicking_node_stops_all_when_that_is_chosen() {
    let mut pipeline = with_a_panicking_node().with_on_panic(OnPanic::Stop);
    let expected = "a compute node panicked (node_id: bad, panic: three is too much)";
    assert_eq!(pipeline.replay().unwrap_err().to_string(), expected);
    let error = pipeline.feed(&key("a", "1m"), minute(5), &closes(&[5])).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
}

/// Two nodes, of which one reads a column that the input will not have.
fn reads_what_is_not_there() -> (StreamInput, Strategy) {
    let stream = input("a", 10);
    let strategy = Strategy::builder()
        .input(stream.clone())
        .node(moving_average("wrong", 1, key("a", "1m"), "open"))
        .node(moving_average("good", 1, key("a", "1m"), "close"));
    (stream, strategy.build().unwrap())
}

#[test]
fn a_column_that_cannot_be_read_fails_its_readers_by_name() {
    let (stream, strategy) = reads_what_is_not_there();
    let mut pipeline = Pipeline::new(strategy);
    load(&stream, &[1]);
    pipeline.replay().unwrap();
    let failures: Vec<_> = pipeline.failures().map(Error::to_string).collect();
    assert_eq!(
        failures,
        ["the cache has no such column (series: a@1m, column: open, columns: close, reader: wrong)"]
    );
    assert_eq!(pipeline.results(&id("good")).unwrap().1, [1.0]);
}

#[test]
fn a_failure_is_logged_and_counted_once() {
    let recorder = DebuggingRecorder::new();
    let logs = Logs::default();
    let logged = logs.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone()).finish();
    with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(subscriber, || {
            let (stream, strategy) = reads_what_is_not_there();
            let mut pipeline = Pipeline::new(strategy);
            for bars in [[1], [2]] {
                load(&stream, &bars);
                pipeline.replay().unwrap();
            }
        });
    });
    let counted = recorder.snapshotter().snapshot().into_vec();
    let [(metric, _, _, DebugValue::Counter(1))] = &counted[..] else { panic!("{counted:?}") };
    assert_eq!(metric.key().name(), "qmtl_strategy_node_failures_total");
    assert_eq!(metric.key().labels().next().map(|label| label.value()), Some("wrong"));
    let told = String::from_utf8(logs.0.lock().unwrap().clone()).unwrap();
    assert_eq!(told.matches("strategy.node_failed").count(), 1, "{told}");
    assert!(told.contains("node_id=\"wrong\"") && told.contains("column: open"), "{told}");
}

/// Where log lines go.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_a_stateful_node_fails_it_as_a_panic_does() {
    struct Fails;
    impl StatefulNode for Fails {
        fn version(&self) -> String {
            "fails".into()
        }
        fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
            out[0] = windows.get("a", "close")[0];
            if out[0] < 3.0 { Ok(()) } else { Err(Error::invalid("three is too much")) }
        }
        fn reset(&mut self) {}
        fn save(&self) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn restore(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }
    let stream = input("a", 10);
    load(&stream, &[1, 2, 3, 4]);
    let node = ComputeNode::stateful(id("fails"), 1, Fails).reads(&stream, "close").keeps(10);
    let mut pipeline = Pipeline::new(Strategy::builder().input(stream).node(node).build().unwrap());
    pipeline.replay().unwrap();
    assert_eq!(pipeline.results(&id("fails")).unwrap().1, [1.0, 2.0]);
    let failures: Vec<_> = pipeline.failures().map(Error::chain).collect();
    assert_eq!(failures, ["a compute node failed (node_id: fails): three is too much"]);
    assert_eq!(pipeline.snapshot().unwrap_err().to_string(), pipeline.failures().next().unwrap().to_string());
}

/// Bars of all five columns.
fn full_bars(bars: Range<u32>) -> RecordBatch {
    let columns = ["open", "high", "low", "close", "volume"].into_iter().enumerate().map(|(at, name)| {
        let values = bars.clone().map(|bar| f64::from(bar) + 0.1 * at as f64);
        (name, Arc::new(Float64Array::from_iter_values(values)) as ArrayRef)
    });
    batch(&bars.clone().map(minute).collect::<Vec<_>>(), columns)
}

#[test]
fn windows_are_read_by_name_and_bars_as_bars() {
    let (minutes, hours) = (input("a", 10), StreamInput::builder("a").interval("1h").period(1));
    let hours = hours.build().unwrap();
    minutes.cache().write(|cache| cache.backfill_bulk(&full_bars(0..60))).unwrap();
    hours.cache().write(|cache| cache.backfill_bulk(&full_bars(0..1))).unwrap();
    let range = ComputeNode::slices(id("range"), 2, |windows| {
        let bars = windows.bars("a");
        bars.high[1] - bars.low[0] + bars.open.len() as f64 + bars.volume[0] - bars.close[0]
    });
    let both = ComputeNode::slices(id("both"), 1, |windows| {
        windows.get("a@1m", "close")[0] - windows.get("a@1h", "close")[0] + windows.get("range", VALUE)[0]
    });
    let strategy = Strategy::builder()
        .node(range.reads_bars(&minutes))
        .node(both.reads(&minutes, "close").reads(&hours, "close").reads(id("range"), VALUE))
        .input(minutes)
        .input(hours);
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    assert_eq!(pipeline.failures().map(Error::chain).collect::<Vec<_>>(), [""; 0]);
    // High of the new bar less low of the one before: 0.9; two rows; volume less close: 0.1.
    let value = pipeline.results(&id("range")).unwrap().1[0];
    assert!((value - 3.0).abs() < 1e-9, "{value}");
    let value = *pipeline.results(&id("both")).unwrap().1.last().unwrap();
    assert!((value - 62.0).abs() < 1e-9, "{value}");
}

#[test]
fn a_read_that_is_not_declared_or_not_the_only_one_is_named() {
    let (minutes, hours) = (input("a", 1), StreamInput::builder("a").interval("1h").period(1));
    let hours = hours.build().unwrap();
    load(&minutes, &[59]);
    load(&hours, &[0]);
    let strategy = [("unknown", "b"), ("two", "a")].into_iter().fold(
        Strategy::builder().input(minutes.clone()).input(hours.clone()),
        |strategy, (name, source)| {
            let node = ComputeNode::slices(id(name), 1, move |windows| windows.get(source, "close")[0]);
            strategy.node(node.reads(&minutes, "close").reads(&hours, "close"))
        },
    );
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    let failures: Vec<_> = pipeline.failures().map(Error::to_string).collect();
    let told = |what, name| {
        format!(
            "a compute node panicked (node_id: {name}, panic: {what} close; the node reads a@1m close, a@1h close)"
        )
    };
    assert_eq!(failures, [told("no read is called b", "unknown"), told("several reads are called a", "two")]);
}

#[test]
fn a_node_has_several_outputs_and_each_can_be_read() {
    let stream = input("a", 10);
    load(&stream, &[1, 2, 3]);
    let bands = ComputeNode::outputs(id("bands"), 2, ["middle", "upper"], |windows, out| {
        let closes = windows.get("a", "close");
        out[0] = (closes[0] + closes[1]) / 2.0;
        out[1] = closes[1];
    });
    let width = ComputeNode::slices(id("width"), 1, |windows| {
        windows.get("bands", "upper")[0] - windows.get("bands", "middle")[0]
    });
    let strategy = Strategy::builder()
        .node(bands.reads(&stream, "close").keeps(5))
        .node(width.reads(id("bands"), "middle").reads(id("bands"), "upper").keeps(5))
        .input(stream);
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    assert_eq!(
        pipeline.output(&id("bands"), "upper").unwrap(),
        (&[minute(2), minute(3)][..], &[2.0, 3.0][..])
    );
    assert_eq!(pipeline.results(&id("bands")).unwrap().1, [1.5, 2.5]);
    assert_eq!(pipeline.results(&id("width")).unwrap().1, [0.5, 0.5]);
    assert_eq!(
        pipeline.output(&id("bands"), "lower").unwrap_err().to_string(),
        "the compute node has no such output (node_id: bands, output: lower, outputs: middle, upper)"
    );
    let twice = ComputeNode::outputs(id("x"), 1, ["a", "a"], |_, _| {}).reads(key("a", "1m"), "close");
    let error = Strategy::builder().input(input("a", 1)).node(twice).build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "a compute node's outputs must have names, each its own (node_id: x, outputs: a, a)"
    );
}

#[test]
fn nan_that_comes_of_nan_is_counted() {
    let nan: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 3.0, 4.0, 5.0]));
    let rows = batch(&(1..6).map(minute).collect::<Vec<_>>(), [("close", nan)]);
    let stream = input("a", 10);
    stream.cache().write(|cache| cache.backfill_bulk(&rows)).unwrap();
    // Of five rows it is in two windows; the logarithm of a negative number comes of none.
    let own = ComputeNode::slices(id("own"), 1, |windows| (windows.f64(0)[0] - 10.0).ln());
    let strategy = Strategy::builder()
        .input(stream)
        .node(moving_average("ma", 2, key("a", "1m"), "close"))
        .node(moving_average_batch("batch", 2, "a"))
        .node(own.reads(key("a", "1m"), "close"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    let counted = ["ma", "batch", "own"].map(|node| pipeline.not_numbers(&id(node)).unwrap());
    assert_eq!(counted, [2, 2, 1]);
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_leaves_the_pipeline_as_new() {
    let node = |window, version: Option<&str>| {
        let node = moving_average("ma", window, key("a", "1m"), "close");
        version.into_iter().fold(node, ComputeNode::version)
    };
    let pipeline = |node: ComputeNode| {
        let stream = input("a", 10);
        load(&stream, &[1, 2, 3]);
        Pipeline::new(Strategy::builder().input(stream).node(node).build().unwrap())
    };
    let mut saved = pipeline(node(2, Some("1")));
    saved.replay().unwrap();
    let snapshot = saved.snapshot().unwrap();
    assert_eq!(snapshot.moment(), minute(4));
    assert_eq!(snapshot.watermarks().collect::<Vec<_>>(), [Some(minute(3))]);

    let refused = |node| {
        let mut other = pipeline(node);
        let error = other.restore(&snapshot).unwrap_err().to_string();
        assert_eq!((other.moment(), other.replay().unwrap().bars), (None, 3));
        error
    };
    assert!(refused(node(2, Some("2"))).contains("saved: node ma version 1 window 2"));
    assert!(refused(node(3, Some("1"))).contains("expected: node ma version 1 window 3"));
    assert_eq!(
        saved.restore(&snapshot).unwrap_err().to_string(),
        "a state is restored before anything was delivered"
    );
    let mut same = pipeline(node(2, Some("1")));
    same.restore(&snapshot).unwrap();
    assert_eq!((same.replay().unwrap().bars, same.results(&id("ma")).unwrap().1), (0, &[1.5, 2.5][..]));
    assert_eq!(
        pipeline(node(2, None)).snapshot().unwrap_err().to_string(),
        "the state of a closure cannot be saved; give the node a version, or make it a StatefulNode (node_id: ma)"
    );

    let mut bytes = snapshot.to_bytes().unwrap();
    assert_eq!(Snapshot::from_bytes(&bytes).unwrap(), snapshot);
    bytes[10] ^= 1;
    for bytes in [&bytes[..], &bytes[..5], b""] {
        let error = Snapshot::from_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_null_reads_as_nan() {
    let stream = input("a", 10);
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
    let rows = batch(&[minute(1), minute(2)], [("close", values)]);
    stream.cache().write(|cache| cache.backfill_bulk(&rows)).unwrap();
    let strategy = Strategy::builder().input(stream).node(moving_average("ma", 1, key("a", "1m"), "close"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    let values = pipeline.results(&id("ma")).unwrap().1;
    assert!(values[0] == 1.0 && values[1].is_nan());
}

#[test]
fn a_window_is_rows_and_only_a_missing_bar_silences_its_node() {
    let stream = input("a", 10);
    // Bar 4 is proven not to exist, bar 7 is missing.
    load(&stream, &[1, 2, 3, 5, 6, 8, 9, 10]);
    let gap = TimeRange::new(minute(4), minute(5)).unwrap();
    stream.cache().write(|cache| cache.note_known_empty(&RangeSet::from(gap)));
    let build = |allowed| {
        let strategy = Strategy::builder()
            .input(stream.clone())
            .node(moving_average("ma", 3, key("a", "1m"), "close"))
            .node(moving_average_batch("batch", 3, "a"))
            .node(moving_average("of-ma", 2, id("ma"), VALUE));
        let mut pipeline = Pipeline::new(strategy.build().unwrap()).with_holes_allowed(allowed);
        pipeline.replay().unwrap();
        let times = |node| pipeline.results(&id(node)).unwrap().0.to_vec();
        let silenced = ["ma", "batch", "of-ma"].map(|node| pipeline.silenced(&id(node)).unwrap());
        (times("ma"), times("batch"), times("of-ma"), silenced)
    };
    let (ma, batch, of_ma, silenced) = build(false);
    assert_eq!(ma, [3, 5, 6, 10].map(minute), "three bars with none missing between them");
    assert_eq!(batch, ma);
    assert_eq!(of_ma, [5, 6].map(minute), "nor is a window of results one across a silence");
    assert_eq!(silenced, [2, 2, 1]);
    let (ma, batch, of_ma, silenced) = build(true);
    assert_eq!(ma, [3, 5, 6, 8, 9, 10].map(minute));
    assert_eq!((batch, of_ma.len(), silenced), (ma, 5, [0; 3]));
}

#[derive(Clone, Debug, Default)]
struct Taken(Arc<Mutex<Vec<(String, Timestamp, f64)>>>);

#[async_trait]
impl EventRecorder for Taken {
    async fn persist(
        &self,
        node_id: &NodeId,
        _: Interval,
        ts: Timestamp,
        payload: RecordBatch,
    ) -> Result<()> {
        use qmtl_history_api::arrow_array::cast::AsArray;
        assert!(payload.column_by_name("ts").is_none());
        let value =
            payload.column(0).as_primitive::<qmtl_history_api::arrow_array::types::Float64Type>().value(0);
        self.0.lock().unwrap().push((node_id.as_str().to_owned(), ts, value));
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn bind_stream(&self, _: &StreamBinding) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn live_bars_and_results_are_recorded_and_history_is_not() {
    let taken = Taken::default();
    let service = Arc::new(EventRecorderService::new(taken.clone()));
    let stream = StreamInput::builder("a").interval("1m").period(10).event_service(Arc::clone(&service));
    let stream = stream.build().unwrap();
    load(&stream, &[1, 2, 3]);
    let strategy = Strategy::builder()
        .input(stream)
        .node(moving_average("ma", 2, key("a", "1m"), "close").recorded_by(Arc::clone(&service)));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    pipeline.replay().unwrap();
    pipeline.feed(&key("a", "1m"), minute(4), &closes(&[4])).await.unwrap();
    pipeline.feed(&key("a", "1m"), minute(4), &closes(&[4])).await.unwrap();
    service.shutdown().await.unwrap();
    let expected = [("a".to_owned(), minute(4), 4.0), ("ma".to_owned(), minute(4), 3.5)];
    assert_eq!(*taken.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn every_plain_event_is_recorded_also_within_one_bar() {
    let taken = Taken::default();
    let service = Arc::new(EventRecorderService::new(taken.clone()));
    let stream = StreamInput::builder("a").interval("1m").plain_events().event_service(Arc::clone(&service));
    let mut pipeline = Pipeline::new(Strategy::builder().input(stream.build().unwrap()).build().unwrap());
    let half_past = minute(4).checked_add_micros(30_000_000).unwrap();
    pipeline.merge_live(&key("a", "1m"), minute(3), &closes(&[3])).await.unwrap();
    for ts in [minute(4), half_past] {
        pipeline.feed(&key("a", "1m"), ts, &closes(&[4])).await.unwrap();
    }
    service.shutdown().await.unwrap();
    let times: Vec<_> = taken.0.lock().unwrap().iter().map(|(_, ts, _)| *ts).collect();
    assert_eq!(times, [minute(3), minute(4), half_past], "as emitted, not as floored");
}

#[test]
fn many_columns_and_many_bars_are_one_pass() {
    let key = key("a", "1m");
    let points: Vec<_> = span(&key, 0, 50_000).points(key.interval).collect();
    let stream = input("a", 50);
    let batches: Vec<_> = points.chunks(8_192).map(bars_at).collect();
    let rows = BatchStream::from_batches(batches[0].schema(), batches);
    let spread = ComputeNode::slices(id("spread"), 50, |w| {
        assert_eq!(w.f64(0).len(), 50);
        w.f64(0)[49] - w.f64(1)[49]
    });
    let strategy = Strategy::builder().input(stream).node(spread.reads(&key, "high").reads(&key, "low"));
    let mut pipeline = Pipeline::new(strategy.build().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let replayed = runtime.block_on(pipeline.replay_streams(vec![(key, rows)])).unwrap();
    assert_eq!(replayed, Replayed { bars: 50_000, results: 50_000 - 49 });
    assert_eq!(pipeline.failures().count(), 0);
    assert_eq!(pipeline.inputs()[0].cache().read(NodeCache::oldest), Some(points[50_000 - 50]));
    assert!(pipeline.inputs()[0].cache().read(NodeCache::resident_bytes) < 4_000_000);
    assert_eq!(points[0], start());
}

/// A pipeline of one input of three bars, whose signal is the last close, in a world that is live.
fn ordering(sink: impl FnMut(&Order) + Send + 'static) -> Pipeline {
    let clock = Arc::new(ManualClock::new(start()));
    let activation = Activation::new(clock);
    activation.set_mode(Mode::Live, Duration::MAX);
    activation.set_side(Side::Long, SideState::ACTIVE, Duration::MAX);
    let first =
        ComputeNode::slices(id("first"), 1, |windows| windows.f64(0)[0]).reads(key("in", "1m"), "close");
    let signal = ComputeNode::slices(id("signal"), 1, |windows| windows.f64(0)[0]).reads(id("first"), VALUE);
    let strategy = Strategy::builder().input(input("in", 3)).node(first).node(signal.orders_to(sink));
    Pipeline::new(strategy.build().unwrap()).with_activation(activation)
}

async fn feed(pipeline: &mut Pipeline, bar: u32) -> Fed {
    pipeline.feed(&key("in", "1m"), minute(bar), &closes(&[bar])).await.unwrap()
}

#[tokio::test]
async fn orders_come_of_live_bars_over_whole_windows_only() {
    let (sender, orders) = std::sync::mpsc::channel();
    let mut pipeline = ordering(move |order| sender.send(order.clone()).unwrap());
    load(&pipeline.inputs()[0], &[1, 2]);
    pipeline.replay().unwrap();
    assert_eq!(orders.try_iter().count(), 0, "history is over");
    feed(&mut pipeline, 3).await;
    let order = orders.try_recv().unwrap();
    assert_eq!(
        (order.node_id.as_str(), order.ts, order.side, order.value),
        ("signal", minute(3), Side::Long, 3.0)
    );

    // Bar 4 never comes: nothing acts until it has left the window, though the node computes.
    for bar in [5, 6] {
        assert_eq!(feed(&mut pipeline, bar).await.results, 2);
    }
    assert_eq!(orders.try_iter().count(), 0);
    feed(&mut pipeline, 7).await;
    feed(&mut pipeline, 8).await;
    let acted: Vec<_> = orders.try_iter().map(|order| order.ts).collect();
    assert_eq!(acted, [minute(7), minute(8)]);
}

#[tokio::test]
async fn no_order_comes_before_the_period_is_there() {
    let (sender, orders) = std::sync::mpsc::channel();
    let mut pipeline = ordering(move |order| sender.send(order.ts).unwrap());
    for bar in 1..=4 {
        feed(&mut pipeline, bar).await;
    }
    assert_eq!(orders.try_iter().collect::<Vec<_>>(), [minute(3), minute(4)]);
}

#[tokio::test]
async fn a_panicking_order_fails_its_node_by_name() {
    let mut pipeline = ordering(|_| panic!("no broker"));
    for bar in 1..=4 {
        feed(&mut pipeline, bar).await;
    }
    let failures: Vec<_> = pipeline.failures().map(ToString::to_string).collect();
    assert_eq!(failures, ["a compute node panicked (node_id: signal, panic: no broker)"]);
    assert_eq!(pipeline.results(&id("first")).unwrap().1.last(), Some(&4.0), "the others go on");
}

mod truth;
