//! The reference nodes against TA-Lib's values, against their definitions, and across a restart.

use qmtl_history_api::{ErrorKind, NodeId, Timestamp};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_io_memory::MemoryBackend;
use qmtl_runtime::{AsOf, ComputeNode, Pipeline, Runner, StatefulNode, Strategy, StreamInput};
use strategies::candles::{self, CANDLES, difference};
use strategies::nodes::{self, Anchor, Atr, Ema, Macd, Resample, Rsi, Vwap};

/// The most by which two ways to the same number may differ, relative to it.
const MOST: f64 = 1e-9;

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// The candles: seconds since 1970, open, high, low, close and volume.
fn rows() -> Vec<(i64, [f64; 5])> {
    let text = std::fs::read_to_string(CANDLES).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let values = [1, 2, 3, 4, 5].map(|at| cells[at].parse().unwrap());
        (cells[0].parse::<i64>().unwrap() / 1_000, values)
    };
    text.lines().skip(1).map(row).collect()
}

fn closes() -> Vec<f64> {
    rows().iter().map(|(_, values)| values[3]).collect()
}

/// For each bar `of` all values up to it.
fn at_each(values: &[f64], of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    (1..=values.len()).map(|end| of(&values[..end])).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The exponential average written out as a sum over all values: the seed and each later one with its weight by now.
fn written_out(values: &[f64], length: usize, weight: f64) -> f64 {
    if values.len() < length {
        return f64::NAN;
    }
    let (seed, rest) = values.split_at(length);
    let aged = |age: usize| (1.0 - weight).powi(i32::try_from(age).unwrap());
    // Weights that no sum of doubles would notice are left out.
    let later = rest.iter().rev().enumerate().map(|(age, value)| (weight * aged(age), value));
    let later = later.take_while(|(weight, _)| *weight > 1e-18).map(|(weight, value)| weight * value);
    mean(seed) * aged(rest.len()) + later.sum::<f64>()
}

async fn values(node: impl FnOnce(&StreamInput) -> ComputeNode, outputs: &[&str]) -> Vec<Vec<f64>> {
    let input = candles::input().await.unwrap();
    let node = node(&input);
    let results = candles::backtest(input, vec![node]).await.unwrap();
    outputs.iter().map(|output| candles::output(&results, &id("node"), output).unwrap()).collect()
}

async fn value(node: impl FnOnce(&StreamInput) -> ComputeNode) -> Vec<f64> {
    values(node, &["value"]).await.remove(0)
}

#[tokio::test]
async fn the_last_values_are_those_of_ta_lib() {
    let golden = candles::table(include_str!("talib.csv")).unwrap();
    let (bars, columns) = candles::compared().await.unwrap();
    assert_eq!((bars.len(), golden.len()), (candles::BARS, 20));
    let last = bars.len() - golden.len();
    assert!(golden.iter().map(|(ts, _)| *ts).eq(bars[last..].iter().copied()));
    for (at, (name, ours)) in columns.iter().enumerate() {
        let theirs: Vec<f64> = golden.iter().map(|(_, values)| values[at]).collect();
        let most = difference(&ours[last..], &theirs);
        assert!(most < MOST, "{name} differs by {most:e}");
    }
}

#[tokio::test]
async fn averages_are_what_they_are_defined_as() {
    let closes = closes();
    let sma = value(|input| nodes::sma(id("node"), 20, input, "close").unwrap()).await;
    let defined: Vec<f64> = closes.windows(20).map(mean).collect();
    assert!(difference(&sma, &defined) < MOST);
    let ema = value(|input| nodes::ema(id("node"), 20, input, "close").unwrap()).await;
    let defined = at_each(&closes, |closes| written_out(closes, 20, 2.0 / 21.0));
    assert!(difference(&ema, &defined) < MOST);
    assert!(ema[18].is_nan() && (ema[19] - mean(&closes[..20])).abs() < 1e-18, "the seed is the mean");

    let outputs = ["macd", "signal", "histogram"];
    let macd = values(|input| nodes::macd(id("node"), [12, 26, 9], input, "close").unwrap(), &outputs).await;
    // The first 14 are left out of the fast average, which so begins with the slow one.
    let fast = at_each(&closes[14..], |closes| written_out(closes, 12, 2.0 / 13.0));
    let slow = at_each(&closes, |closes| written_out(closes, 26, 2.0 / 27.0));
    let line: Vec<f64> = (25..closes.len()).map(|at| fast[at - 14] - slow[at]).collect();
    let signal = at_each(&line, |line| written_out(line, 9, 0.2));
    let absolute = |ours: f64, defined: f64| (ours - defined).abs() < 1e-17;
    assert!(macd[0][..33].iter().all(|value| value.is_nan()));
    for at in 33..closes.len() {
        assert!(absolute(macd[0][at], line[at - 25]) && absolute(macd[1][at], signal[at - 25]), "at {at}");
        assert_eq!(macd[2][at].to_bits(), (macd[0][at] - macd[1][at]).to_bits());
    }
}

#[tokio::test]
async fn what_wilder_defined_is_what_it_is_defined_as() {
    let (rows, closes) = (rows(), closes());
    let changes: Vec<f64> = closes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let part = |part: fn(f64) -> f64| changes.iter().map(|change| part(*change)).collect::<Vec<_>>();
    let (ups, downs) = (part(|change| change.max(0.0)), part(|change| (-change).max(0.0)));
    let average = |values: &[f64]| at_each(values, |values| written_out(values, 14, 1.0 / 14.0));
    let strength =
        average(&ups).into_iter().zip(average(&downs)).map(|(up, down)| 100.0 - 100.0 / (1.0 + up / down));
    let rsi = value(|input| nodes::rsi(id("node"), 14, input, "close").unwrap()).await;
    assert!(rsi[0].is_nan() && difference(&rsi[1..], &strength.collect::<Vec<_>>()) < MOST);

    let ranges = rows.windows(2).map(|pair| {
        let (before, [_, high, low, ..]) = (pair[0].1[3], pair[1].1);
        (high - low).max((high - before).abs()).max((low - before).abs())
    });
    let atr = value(|input| nodes::atr(id("node"), 14, input).unwrap()).await;
    assert!(atr[0].is_nan() && difference(&atr[1..], &average(&ranges.collect::<Vec<_>>())) < MOST);
}

#[tokio::test]
async fn a_price_is_weighted_with_the_volume_since_midnight_or_the_start() {
    let rows = rows();
    let weighted = |from: fn(i64, i64) -> bool| {
        let at = |at: usize| {
            let since = rows[..=at].iter().filter(|(ts, _)| from(*ts, rows[at].0));
            let (traded, volume) =
                since.fold((0.0, 0.0), |(traded, sum), (_, [_, high, low, close, volume])| {
                    (traded + (high + low + close) / 3.0 * volume, sum + volume)
                });
            traded / volume
        };
        (0..rows.len()).map(at).collect::<Vec<_>>()
    };
    let days = value(|input| nodes::vwap(id("node"), Anchor::UtcDay, input)).await;
    assert!(difference(&days, &weighted(|ts, now| ts / 86_400 == now / 86_400)) < MOST);
    let all = value(|input| nodes::vwap(id("node"), Anchor::Start, input)).await;
    assert!(difference(&all, &weighted(|_, _| true)) < MOST);
}

#[tokio::test]
async fn coarse_bars_come_when_their_last_fine_one_closes() {
    let rows = rows();
    let input = candles::input().await.unwrap();
    let hours = nodes::resample(id("hours"), "1h".parse().unwrap(), &input).unwrap();
    let results = candles::backtest(input, vec![hours]).await.unwrap();
    let outputs = ["open", "high", "low", "close", "volume"]
        .map(|output| candles::output(&results, &id("hours"), output).unwrap());
    let mut ours = candles::times(&results, &id("hours")).unwrap().into_iter().enumerate();
    for (at, (ts, _)) in rows.iter().enumerate() {
        let hour: Vec<_> = rows[..=at].iter().filter(|(fine, _)| fine / 3_600 == ts / 3_600).collect();
        // The candles begin at 04:55, in the middle of an hour.
        if (ts + 300) % 3_600 != 0 || at == 0 {
            continue;
        }
        let (row, result) = ours.next().unwrap();
        let of = |column: usize| hour.iter().map(move |(_, values)| values[column]);
        let defined = [
            hour[0].1[0],
            of(1).fold(f64::MIN, f64::max),
            of(2).fold(f64::MAX, f64::min),
            rows[at].1[3],
            of(4).sum(),
        ];
        let ours: Vec<f64> = outputs.iter().map(|column| column[row]).collect();
        assert!(result == *ts && difference(&ours, &defined) < MOST, "at {ts}");
    }
    assert_eq!(ours.next(), None, "and nothing in between");
    assert!(outputs[0].len() > 460, "{}", outputs[0].len());
}

#[tokio::test]
async fn readers_of_a_resampling_see_the_coarse_bars_alone() {
    let input = candles::input().await.unwrap();
    let hours = nodes::resample(id("hours"), "1h".parse().unwrap(), &input).unwrap();
    let range = nodes::atr(id("range"), 14, id("hours")).unwrap();
    let average = nodes::sma(id("average"), 5, id("hours"), "close").unwrap();
    let results = candles::backtest(input, vec![hours, range, average]).await.unwrap();
    let [high, low, close] =
        ["high", "low", "close"].map(|of| candles::output(&results, &id("hours"), of).unwrap());
    let ranges: Vec<f64> =
        (1..close.len()).map(|at| high[at].max(close[at - 1]) - low[at].min(close[at - 1])).collect();
    let ours = candles::output(&results, &id("range"), "value").unwrap();
    let defined = at_each(&ranges, |ranges| written_out(ranges, 14, 1.0 / 14.0));
    assert!(ours[0].is_nan() && difference(&ours[1..], &defined) < MOST);
    let defined: Vec<f64> = close.windows(5).map(mean).collect();
    assert!(difference(&candles::output(&results, &id("average"), "value").unwrap(), &defined) < MOST);
}

/// All nodes with a state, and one without, over the candles up to `now`.
async fn all_nodes(now: &str, period: usize) -> Strategy {
    let input = StreamInput::builder("ADABTC")
        .interval("5m")
        .period(period)
        .backend(MemoryBackend::new())
        .fetcher(FileFetcher::open(FileConfig::new(CANDLES)).await.unwrap())
        .clock(AsOf::new(now.parse().unwrap()))
        .build()
        .unwrap();
    let nodes = [
        nodes::sma(id("sma"), 20, &input, "close").unwrap(),
        nodes::ema(id("ema"), 20, &input, "close").unwrap(),
        nodes::rsi(id("rsi"), 14, &input, "close").unwrap(),
        nodes::atr(id("atr"), 14, &input).unwrap(),
        nodes::macd(id("macd"), [12, 26, 9], &input, "close").unwrap(),
        nodes::vwap(id("vwap"), Anchor::UtcDay, &input),
        nodes::resample(id("hours"), "1h".parse().unwrap(), &input).unwrap(),
    ];
    let builder = Strategy::builder().input(input);
    nodes.into_iter().fold(builder, |builder, node| builder.node(node.keeps(500))).build().unwrap()
}

const OUTPUTS: [(&str, &str); 13] = [
    ("sma", "value"),
    ("ema", "value"),
    ("rsi", "value"),
    ("atr", "value"),
    ("macd", "macd"),
    ("macd", "signal"),
    ("macd", "histogram"),
    ("vwap", "value"),
    ("hours", "open"),
    ("hours", "high"),
    ("hours", "low"),
    ("hours", "close"),
    ("hours", "volume"),
];

/// The bits of all results from a moment on.
fn bits(pipeline: &Pipeline, from: Timestamp) -> Vec<Vec<u64>> {
    let column = |(node, output): (&str, &str)| {
        let (ts, values) = pipeline.output(&id(node), output).unwrap();
        values[ts.partition_point(|ts| *ts < from)..].iter().map(|value| value.to_bits()).collect()
    };
    OUTPUTS.into_iter().map(column).collect()
}

#[tokio::test]
async fn a_restored_strategy_goes_on_bit_for_bit() {
    // In the middle of a day and of an hour.
    let (middle, end) = ("2018-01-26T13:25:00Z", "2018-01-27T17:40:00Z");
    let session = Runner::offline(all_nodes(middle, 300).await).await.unwrap();
    let snapshot = session.snapshot().unwrap();
    let restored = Runner::new().with_snapshot(snapshot).prime(all_nodes(end, 300).await).await.unwrap();
    assert!(restored.restored.as_ref().unwrap().is_ok());
    let missed = usize::try_from(restored.replayed.bars).unwrap();
    // The same bars in one run.
    let whole = Runner::offline(all_nodes(end, 300 + missed).await).await.unwrap();
    let from = middle.parse().unwrap();
    let expected = bits(&whole.pipeline, from);
    let (fine, hours) = expected.split_at(8);
    assert!(missed > 300 && fine.iter().all(|column| column.len() == missed));
    assert!(hours.iter().all(|column| column.len() > 20));
    assert_eq!(bits(&restored.pipeline, from), expected);
    // Warmed up anew it would not be so: an average still owes a part to its seed.
    let anew = Runner::offline(all_nodes(end, 300).await).await.unwrap();
    assert_ne!(bits(&anew.pipeline, from)[1].last(), expected[1].last());
}

#[test]
fn a_state_of_another_length_or_sense_is_an_error_and_no_panic() {
    let nodes: [(Box<dyn StatefulNode>, usize); 6] = [
        (Box::new(Ema::new(20).unwrap()), 16),
        (Box::new(Rsi::new(14).unwrap()), 40),
        (Box::new(Atr::new(14).unwrap()), 24),
        (Box::new(Macd::new([12, 26, 9]).unwrap()), 48),
        (Box::new(Vwap::new(Anchor::UtcDay)), 24),
        (Box::new(Resample::new("1h".parse().unwrap())), 0),
    ];
    for (mut node, bytes) in nodes {
        let state = node.save().unwrap();
        assert_eq!(state.len(), bytes, "{}", node.version());
        node.restore(&state).unwrap();
        for wrong in
            [&[0xff; 64][..], &[0xff; 56], &[1; 7], &[0xff; 48], &[0xff; 40], &[0xff; 24], &[0xff; 16]]
        {
            let error = node.restore(wrong).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::InvalidInput), "{error}");
            node.reset();
            assert_eq!(node.save().unwrap(), state, "{}", node.version());
        }
    }
}

#[tokio::test]
async fn parameters_that_make_no_sense_are_refused() {
    assert!(Ema::new(0).is_err() && Rsi::new(0).is_err() && Atr::new(0).is_err());
    assert!(Macd::new([26, 12, 9]).is_err() && Macd::new([12, 26, 0]).is_err());
    let input = candles::input().await.unwrap();
    assert!(nodes::sma(id("node"), 0, &input, "close").is_err());
    let error = nodes::resample(id("node"), "7m".parse().unwrap(), &input).unwrap_err();
    assert_eq!(error.to_string(), "coarse bars do not consist of whole fine ones (coarse: 7m, fine: 5m)");
}

#[test]
fn a_row_without_numbers_is_refused() {
    assert!(candles::table("ts,sma\n1,nan\n").is_ok_and(|rows| rows[0].1[0].is_nan()));
    assert!(candles::table("ts,sma\n1,x\n").is_err() && candles::table("ts,sma\n\n").is_err());
}
