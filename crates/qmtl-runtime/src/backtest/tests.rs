//! Backtests against replay: what is counted, what is returned, and what is told.

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::{ErrorKind, HistoryBackend, WriteRequest};
use qmtl_history_testkit::fixtures::{ManualClock, bar, batch, key, proof, span};
use qmtl_io_memory::MemoryBackend;

use super::*;
use crate::ComputeNode;

fn minute(index: u32) -> Timestamp {
    bar(&key("a", "1m"), index)
}

/// A store with minutes of `a` and five-minute bars of `b`, whose closes go up and down with their numbers, without
/// the minutes that `is_there` denies.
async fn store(is_there: impl Fn(u32) -> bool) -> Arc<MemoryBackend> {
    let store = Arc::new(MemoryBackend::new());
    for (id, interval, count) in [("a", "1m", 400_u32), ("b", "5m", 80)] {
        let series = key(id, interval);
        let there: Vec<u32> = (0..count).filter(|index| id == "b" || is_there(*index)).collect();
        let points: Vec<_> = there.iter().map(|index| bar(&series, *index)).collect();
        let close = |index: &u32| f64::from(*index) * if (index / 25).is_multiple_of(2) { -1.0 } else { 1.0 };
        let closes: ArrayRef = Arc::new(Float64Array::from_iter_values(there.iter().map(close)));
        let unread: ArrayRef = Arc::new(Float64Array::from(vec![0.5; there.len()]));
        let rows = batch(&points, [("close", closes), ("unread", unread)]);
        store.write_rows(&WriteRequest::new(series), rows).await.unwrap();
    }
    store
}

/// A mean of minutes, and a signal from it and the five-minute bars.
fn strategy(store: &Arc<MemoryBackend>) -> Strategy {
    let input = |id: &str, interval: &str, period| {
        let input = StreamInput::builder(id).interval(interval).period(period).backend(Arc::clone(store));
        input.clock(ManualClock::new(minute(100_000))).build().unwrap()
    };
    let (a, b) = (input("a", "1m", 20), input("b", "5m", 4));
    let mean: NodeId = "mean".parse().unwrap();
    let node = ComputeNode::slices(mean.clone(), 20, |windows| windows.get("a", "close").iter().sum());
    let signal = ComputeNode::slices("signal".parse().unwrap(), 1, |windows| {
        windows.get("mean", crate::VALUE)[0] - windows.get("b", "close")[0]
    });
    let signal = signal.reads(mean, crate::VALUE).reads(&b, "close");
    let signal = signal.orders_to(|_| panic!("a backtest sends no orders"));
    Strategy::builder().node(node.reads(&a, "close")).node(signal).input(a).input(b).build().unwrap()
}

fn values(batch: &RecordBatch) -> &[f64] {
    batch.column(2).as_primitive::<Float64Type>().values()
}

#[tokio::test]
async fn a_range_gives_what_a_replay_of_all_bars_gives_there() {
    let store = store(|_| true).await;
    let (start, end) = (minute(100), minute(301));
    for parallelism in [Parallelism::Serial, Parallelism::Threads(2)] {
        let (backtest, strategy_of_part) = (Backtest::new().with_parallelism(parallelism), strategy(&store));
        // A backtest may run on any thread.
        let part = tokio::spawn(async move {
            backtest.range(strategy_of_part, start, end).await.unwrap().collect().await.unwrap()
        });
        let part = part.await.unwrap();
        let whole = Backtest::new().range(strategy(&store), minute(0), minute(400)).await.unwrap();
        let whole = whole.collect().await.unwrap();
        assert_eq!(part.bars, 201 + 40);
        assert_eq!(whole.bars, 400 + 80);
        assert!(part.failures.is_empty() && part.missing.iter().all(|(_, missing)| missing.is_empty()));
        for ((id, part), (_, whole)) in part.results.iter().zip(&whole.results) {
            assert_eq!((part.num_rows(), part.schema().field(1).name().as_str()), (201, "moment"));
            let skipped = whole.num_rows() + 100 - 400;
            assert_eq!(*part, whole.slice(skipped, 201), "{id}");
        }
        let orders = part.orders.num_rows();
        let signals = values(&part.results[1].1);
        assert_eq!(orders, signals.iter().filter(|value| **value != 0.0).count());
        let sides = part.orders.column(3).as_string::<i32>();
        assert!(["long", "short"].iter().all(|side| sides.iter().any(|other| other == Some(*side))));
        assert!(
            part.orders
                .column(2)
                .as_primitive::<qmtl_history_api::arrow_array::types::TimestampMicrosecondType>()
                .values()
                .is_sorted()
        );
    }
}

#[tokio::test]
async fn a_missing_bar_is_told_and_silences_and_a_proven_one_is_stepped_over() {
    let a = key("a", "1m");
    let store = store(|index| index != 150 && index != 90).await;
    let request = WriteRequest::new(a.clone()).with_empty(proof("source", span(&a, 90, 91), minute(99_999)));
    store.write_rows(&request, RecordBatch::new_empty(frame::ts_only_schema())).await.unwrap();
    let run = |holes_allowed| {
        let backtest = Backtest::new().with_holes_allowed(holes_allowed);
        let strategy = strategy(&store);
        async move { backtest.range(strategy, minute(100), minute(301)).await.unwrap().collect().await.unwrap() }
    };
    let silent = run(false).await;
    assert_eq!(silent.missing[0], (a.clone(), span(&a, 150, 151).into()));
    // At its own moment there is no bar, and nineteen windows hold the hole.
    assert_eq!(silent.results[0].1.num_rows(), 201 - 1 - 19);
    let allowed = run(true).await;
    assert_eq!(allowed.results[0].1.num_rows(), 200);
    assert!(silent.orders.num_rows() < allowed.orders.num_rows());
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_by_name() {
    let store = store(|_| true).await;
    let error = Backtest::new().range(strategy(&store), minute(5), minute(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let input =
        StreamInput::builder("a").interval("1m").period(1).backend(Arc::clone(&store)).build().unwrap();
    let node = ComputeNode::slices("x".parse().unwrap(), 1, |_| 0.0).reads(&input, "volume");
    let strategy = Strategy::builder().node(node).input(input).build().unwrap();
    let error = Backtest::new().range(strategy, minute(5), minute(6)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a compute node reads a column that its input lacks (reader: x, series: a@1m, column: volume, columns: ts, close, unread)"
    );
    let input = StreamInput::builder("a").interval("1m").period(1).build().unwrap();
    let strategy = Strategy::builder().input(input).build().unwrap();
    let error = Backtest::new().range(strategy, minute(5), minute(6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn backtests_of_clones_of_one_input_know_nothing_of_each_other() {
    let store = store(|_| true).await;
    let input = StreamInput::builder("a").interval("1m").period(20).backend(store).build().unwrap();
    let strategy = || {
        let sum = ComputeNode::slices("sum".parse().unwrap(), 20, |windows| windows.f64(0).iter().sum());
        Strategy::builder().node(sum.reads(&input, "close")).input(input.clone()).build().unwrap()
    };
    let run = async |start: u32, end: u32| {
        let run = Backtest::new().range(strategy(), minute(start), minute(end)).await.unwrap();
        run.collect().await.unwrap()
    };
    let first = run(100, 400).await;
    for (start, end) in [(100, 400), (100, 200), (300, 400)] {
        let again = run(start, end).await;
        let rows = usize::try_from(end - start).unwrap();
        assert_eq!((again.bars, again.is_complete()), (u64::from(end - start), true));
        let skipped = usize::try_from(start - 100).unwrap();
        assert_eq!(
            again.output("sum", "value").unwrap(),
            &first.output("sum", "value").unwrap()[skipped..][..rows]
        );
    }
    assert!(input.cache().read(NodeCache::is_empty));
    let error = first.output("sum", "middle").unwrap_err().to_string();
    assert_eq!(
        error,
        "the backtest has no such node, or the node no such output (node_id: sum, output: middle, nodes: sum (value))"
    );
}

#[tokio::test]
async fn rows_of_a_provider_that_nobody_asked_for_are_refused_and_stay_so() {
    for (rows, message) in [
        (vec![101, 100], "the history provider gives rows that are not ascending in time"),
        (vec![100, 500], "the history provider gives rows outside of the range that it was asked for"),
    ] {
        let provider = qmtl_history_api::provider_fn(move |_: ReadRequest| {
            let points: Vec<_> = rows.iter().map(|index| minute(*index)).collect();
            let closes: ArrayRef = Arc::new(Float64Array::from(vec![1.0; points.len()]));
            let rows = batch(&points, [("close", closes)]);
            async move { Ok(BatchStream::from_batches(rows.schema(), vec![rows])) }
        });
        let input =
            StreamInput::builder("a").interval("1m").period(1).history_provider(provider).build().unwrap();
        let strategy = Strategy::builder().input(input).build().unwrap();
        let mut run = Backtest::new().range(strategy, minute(100), minute(200)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(run.next().await.unwrap_err().message(), message);
        }
    }
}
