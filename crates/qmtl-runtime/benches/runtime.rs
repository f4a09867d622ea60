//! What the runtime costs, printed as a table: merging history, looking back, feeding, replaying.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{BatchStream, HistoryBackend, Interval, SeriesKey, Timestamp, WriteRequest, frame};
use qmtl_history_testkit::fixtures::ManualClock;
use qmtl_io_memory::MemoryBackend;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use qmtl_runtime::{
    Backtest, ComputeNode, NodeCache, Parallelism, Pipeline, Strategy, StreamInput, WarmupConfig, warm_up,
};

const BARS: usize = 1_000_000;
const COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    // Cargo passes --bench; anything else is the start of a name.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|start| name.starts_with(start));
    println!("{:<44} {:>12} {:>24}", "what", "time", "rate or ratio");
    for (name, measure) in
        [("bulk", bulk as fn()), ("view", view), ("feed", feed), ("warm", warm), ("backtest", backtest)]
    {
        if asked(name) {
            measure();
        }
    }
    for kind in [Kind::Slices, Kind::Batch] {
        if asked(&format!("replay {kind:?}")) {
            replays(kind);
        }
    }
}

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn report(what: &str, time: Duration, rate: &str) {
    println!("{what:<44} {:>12} {rate:>24}", format!("{time:.2?}"));
}

/// A number for `cargo xtask bench`, on a line of its own.
#[expect(clippy::print_stdout, reason = "a bench prints its numbers")]
fn number(name: &str, value: f64) {
    println!("{name} {value:.4}");
}

/// Seconds of CPU that this process has used, all threads together; 0 without `/proc`.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // What stands before the last parenthesis may have spaces; user and system time come 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// MB (2^20 bytes) of memory: `VmRSS` now, `VmHWM` at most since the last reset.
fn memory_mb(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1_024.0
}

/// The median of several runs; what `prepare` makes is not timed, nor what is dropped.
fn median<T, U>(mut prepare: impl FnMut() -> T, mut run: impl FnMut(T) -> U) -> Duration {
    let mut times: Vec<_> = (0..11)
        .map(|_| {
            let input = prepare();
            let start = Instant::now();
            let output = black_box(run(input));
            let time = start.elapsed();
            drop(output);
            time
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn key() -> SeriesKey {
    SeriesKey::new("bench", Interval::MINUTE).expect("a short name is a node id")
}

fn minute(bar: usize) -> Timestamp {
    let secs = i64::try_from(bar).expect("few bars") * 60;
    Timestamp::from_secs(secs).expect("a million minutes after 1970 is before 9999")
}

fn bars(rows: std::ops::Range<usize>) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(frame::ts_array(rows.clone().map(minute)))];
    for column in 0..COLUMNS.len() {
        let values = rows.clone().map(|row| 100.0 + ((row * 7 + column) % 1_000) as f64 / 10.0);
        columns.push(Arc::new(Float64Array::from_iter_values(values)));
    }
    let schema = frame::schema_of(COLUMNS.map(|name| (name, DataType::Float64)));
    RecordBatch::try_new(schema, columns).expect("the columns have the schema's types")
}

fn bulk() {
    let batch = bars(0..BARS);
    let bytes: usize = batch.columns().iter().map(|column| column.get_buffer_memory_size()).sum();
    let source = vec![1u8; bytes];
    let copy = median(|| (), |()| source.to_vec());
    report("memcpy of the bytes into new memory", copy, &format!("{} MB", bytes / 1_000_000));
    let with_live = || {
        let mut cache = NodeCache::new(key(), BARS).expect("the period is not 0");
        for bar in BARS - 500..BARS + 500 {
            cache.append(minute(bar), &bars(bar..bar + 1)).expect("a bar of the same columns");
        }
        cache
    };
    let merge = median(with_live, |mut cache| {
        cache.backfill_bulk(&batch).expect("rows are ascending");
        cache
    });
    let ratio = format!("{:.2}x memcpy", merge.as_secs_f64() / copy.as_secs_f64());
    report("backfill_bulk, 1M x 5, 1,000 live rows", merge, &ratio);
    number("backfill_bulk over memcpy", merge.as_secs_f64() / copy.as_secs_f64());
}

fn view() {
    const CALLS: u32 = 1_000_000;
    let mut cache = NodeCache::new(key(), 1_000).expect("the period is not 0");
    cache.backfill_bulk(&bars(0..2_000)).expect("rows are ascending");
    let time = median(
        || (),
        |()| {
            for _ in 0..CALLS {
                black_box(black_box(&cache).last(500).f64("close").expect("a column of doubles"));
            }
        },
    );
    report("view of the last 500 bars", time / CALLS, "a call, by name");
}

/// Live bars, one by one, into one input with two nodes.
fn feed() {
    const FED: usize = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    // What hands bars over has each as a row of its own, fresh in the processor's cache; making these is not timed.
    let rows = bars(0..1_000);
    let rows: Vec<RecordBatch> = (0..rows.num_rows()).map(|row| rows.slice(row, 1)).collect();
    let prepare = || {
        let stream =
            StreamInput::builder("input-0").interval("1m").period(500).build().expect("a good stream");
        let strategy = Strategy::builder().input(stream);
        let strategy = strategy.node(moving_average(Kind::Slices, 0)).node(moving_average(Kind::Slices, 10));
        Pipeline::new(strategy.build().expect("a good graph"))
    };
    let time = median(prepare, |mut pipeline| {
        let input = input_key(0);
        runtime.block_on(async {
            for (bar, row) in (0..FED).zip(rows.iter().cycle()) {
                let fed = pipeline.feed(&input, minute(bar), row).await;
                black_box(fed.expect("a good bar"));
            }
        });
        pipeline
    });
    let million = FED as f64 / time.as_secs_f64() / 1e6;
    number("feed million bars/s", million);
    let rate = format!("{million:.2}M bars/s");
    report("feed, one live bar, 2 nodes", time / u32::try_from(FED).expect("few bars"), &rate);
}

/// Ten million bars of each of two inputs out of a Parquet store, through two averages and their spread, in batches that
/// are looked at and dropped.
fn backtest() {
    const OF_EACH: usize = 10_000_000;
    const BATCH: usize = 500_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder for a store");
    let open = || {
        let store = runtime.block_on(ParquetBackend::open(ParquetConfig::new(folder.path())));
        Arc::new(store.expect("a new folder"))
    };
    let writer = open();
    for (input, first) in
        (0..2).flat_map(|input| (0..OF_EACH).step_by(BATCH).map(move |first| (input, first)))
    {
        let request = WriteRequest::new(input_key(input));
        runtime.block_on(writer.write_rows(&request, bars(first..first + BATCH))).expect("good rows");
    }
    drop(writer);
    let run = |parallelism| {
        let store = open();
        let inputs: Vec<_> = (0..2)
            .map(|input| {
                let stream = StreamInput::builder(format!("input-{input}")).interval("1m").period(500);
                stream.backend(Arc::clone(&store)).build().expect("a good stream")
            })
            .collect();
        let spread =
            ComputeNode::slices("spread".parse().expect("a good id"), 1, |w| w.f64(0)[0] - w.f64(1)[0]);
        let strategy =
            (0..2).fold(Strategy::builder(), |all, input| all.node(moving_average(Kind::Batch, input)));
        let strategy = strategy.node(spread.reads(&inputs[0], "close").reads(&inputs[1], "close"));
        let strategy = inputs.into_iter().fold(strategy, |all, input| all.input(input));
        let backtest = Backtest::new().with_parallelism(parallelism);
        let is_reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
        let start = Instant::now();
        let results = runtime.block_on(async {
            let strategy = strategy.build().expect("a good graph");
            let mut run = backtest.range(strategy, minute(0), minute(OF_EACH)).await.expect("a good store");
            let mut results = 0;
            while let Some(batch) = run.next().await.expect("a good store") {
                results += batch.results.iter().map(|(_, rows)| rows.num_rows()).sum::<usize>();
            }
            assert_eq!(run.bars(), 2 * OF_EACH as u64);
            results
        });
        assert!(results > 2 * OF_EACH);
        // The whole process: what writing has freed is used again.
        (start.elapsed(), if is_reset { memory_mb("VmHWM") } else { 0.0 })
    };
    for (parallelism, threads) in [(Parallelism::Serial, 1), (Parallelism::Threads(2), 2)] {
        let runs: Vec<_> = (0..3).map(|_| run(parallelism)).collect();
        let time = runs.iter().map(|(time, _)| *time).min().unwrap_or_default();
        let memory = runs.iter().map(|(_, memory)| *memory).fold(0.0, f64::max);
        let million = 2.0 * OF_EACH as f64 / time.as_secs_f64() / 1e6;
        number(&format!("backtest {threads} million bars/s"), million);
        number(&format!("backtest {threads} memory"), memory);
        let rate = format!("{million:.1}M bars/s, {memory:.0} MB");
        report(&format!("Backtest::range, 10M x 2, Parquet, {threads} threads"), time, &rate);
    }
}

/// 200 inputs of 500 bars out of a store in memory.
fn warm() {
    const SERIES: usize = 200;
    const PERIOD: usize = 500;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let store = Arc::new(MemoryBackend::new());
    let name = |input: usize| format!("input-{input}");
    runtime.block_on(async {
        for input in 0..SERIES {
            let key = SeriesKey::new(name(input), Interval::MINUTE).expect("a short name is a node id");
            let stored = store.write_rows(&WriteRequest::new(key), bars(0..2 * PERIOD)).await;
            stored.expect("good rows");
        }
    });
    let prepare = || {
        let inputs = (0..SERIES).map(|input| {
            let stream = StreamInput::builder(name(input)).interval("1m").period(PERIOD);
            let clock = ManualClock::new(minute(2 * PERIOD));
            stream.backend(Arc::clone(&store)).clock(clock).build().expect("a good stream")
        });
        inputs.collect::<Vec<_>>()
    };
    let time = median(prepare, |inputs| {
        let report = runtime.block_on(warm_up(&inputs, &WarmupConfig::default())).expect("not strict");
        assert!(report.inputs.iter().all(|input| input.bars == PERIOD));
        inputs
    });
    report("warm-up, 200 inputs x 500 bars, in memory", time, "");
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Slices,
    Batch,
}

const INPUTS: usize = 10;
const NODES: usize = 20;
const WINDOW: usize = 20;

fn input_key(input: usize) -> SeriesKey {
    SeriesKey::new(format!("input-{input}"), Interval::MINUTE).expect("a good id")
}

fn moving_average(kind: Kind, node: usize) -> ComputeNode {
    let id = format!("ma-{node}").parse().expect("a good id");
    let source = input_key(node % INPUTS);
    let length = WINDOW as f64;
    let node = match kind {
        Kind::Slices => ComputeNode::slices(id, WINDOW, move |w| w.f64(0).iter().sum::<f64>() / length),
        Kind::Batch => ComputeNode::batch(id, WINDOW, move |w, out| {
            let values = w.f64(0);
            let mut sum: f64 = values[..WINDOW - 1].iter().sum();
            for (at, out) in out.iter_mut().enumerate() {
                sum += values[at + WINDOW - 1];
                *out = sum / length;
                sum -= values[at];
            }
        }),
    };
    node.reads(source, "close")
}

/// A million bars of ten inputs in one pass through twenty moving averages, on one thread and on two
/// in turn. Of each the fastest run counts: what else the machine does takes more from two than from one.
fn replays(kind: Kind) {
    let batches: Vec<RecordBatch> =
        (0..BARS).step_by(16_384).map(|start| bars(start..(start + 16_384).min(BARS))).collect();
    let mut fastest: [Option<Replay>; 2] = [None, None];
    for _ in 0..11 {
        for (fastest, threads) in fastest.iter_mut().zip([1, 2]) {
            let replay = replay(kind, threads, &batches);
            let growth = fastest.as_ref().map_or(0.0, |before| before.growth).max(replay.growth);
            let best = fastest.take().filter(|before| before.time < replay.time).unwrap_or(replay);
            *fastest = Some(Replay { growth, ..best });
        }
    }
    for (replay, threads) in fastest.into_iter().flatten().zip([1, 2]) {
        let per_second = replay.results as f64 / replay.time.as_secs_f64() / 1e6;
        number(&format!("replay {kind:?} {threads} million events/s"), per_second);
        number(&format!("replay {kind:?} {threads} cpu seconds"), replay.cpu_seconds);
        number(&format!("replay {kind:?} {threads} memory growth"), replay.growth);
        let rate = format!("{per_second:.1}M node events/s");
        report(&format!("replay 1M x 10, 20 nodes, {kind:?}, {threads} threads"), replay.time, &rate);
    }
}

/// What one replay took.
struct Replay {
    time: Duration,
    cpu_seconds: f64,
    /// MB of memory at most, beyond what was resident before.
    growth: f64,
    results: u64,
}

fn replay(kind: Kind, threads: usize, batches: &[RecordBatch]) -> Replay {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let inputs = (0..INPUTS).map(|input| {
        let stream = StreamInput::builder(format!("input-{input}")).interval("1m").period(500);
        stream.build().expect("a good stream")
    });
    let strategy = inputs.fold(Strategy::builder(), |strategy, input| strategy.input(input));
    let strategy = (0..NODES).fold(strategy, |strategy, node| strategy.node(moving_average(kind, node)));
    let parallelism = if threads == 1 { Parallelism::Serial } else { Parallelism::Threads(threads) };
    let mut pipeline = Pipeline::new(strategy.build().expect("a good graph")).with_parallelism(parallelism);
    let stream = || BatchStream::from_batches(batches[0].schema(), batches.to_vec());
    let streams: Vec<_> = (0..INPUTS).map(|input| (input_key(input), stream())).collect();

    // From here on the high-water mark is that of this replay.
    let is_reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let (resident, cpu_before, start) = (memory_mb("VmRSS"), cpu_seconds(), Instant::now());
    let replayed = runtime.block_on(pipeline.replay_streams(streams)).expect("good streams");
    let time = start.elapsed();
    assert_eq!(replayed.bars, (BARS * INPUTS) as u64);
    Replay {
        time,
        cpu_seconds: cpu_seconds() - cpu_before,
        growth: if is_reset { memory_mb("VmHWM") - resident } else { 0.0 },
        results: replayed.results,
    }
}
