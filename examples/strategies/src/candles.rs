//! The bundled candles, and the values of nodes over all of them.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, TimestampMicrosecondType};
use qmtl_history_api::{Error, NodeId, Result, Timestamp};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_runtime::{Backtest, BacktestResults, ComputeNode, Strategy, StreamInput};

use crate::nodes;

/// Five-minute bars of ADABTC, 2018-01-10 04:55 to 2018-01-30, as rows of `open_time` (milliseconds), `open`, `high`,
/// `low`, `close`, `volume`.
pub const CANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/ADABTC-5m.csv");
/// How many of them there are.
pub const BARS: usize = 5_720;

/// The candles as an input whose nodes look back on up to 26 bars.
pub async fn input() -> Result<StreamInput> {
    let candles = FileFetcher::open(FileConfig::new(CANDLES)).await?;
    StreamInput::builder("ADABTC").interval("5m").period(26).fetcher(candles).build()
}

/// Runs `nodes`, which read [`input`], over all candles. Where bars are missing the rows around are neighbours, as those
/// who see columns of numbers take them.
pub async fn backtest(input: StreamInput, nodes: Vec<ComputeNode>) -> Result<BacktestResults> {
    let (start, end): (Timestamp, Timestamp) = ("2018-01-10".parse()?, "2018-02-01".parse()?);
    let builder =
        nodes.into_iter().fold(Strategy::builder().input(input), |builder, node| builder.node(node));
    let results =
        Backtest::new().with_holes_allowed(true).range(builder.build()?, start, end).await?.collect().await?;
    match results.failures.first() {
        Some(failure) => Err(failure.clone()),
        None => Ok(results),
    }
}

/// The openings of a node's results, seconds since 1970.
pub fn times(results: &BacktestResults, node: &NodeId) -> Result<Vec<i64>> {
    let times = rows(results, node)?.column(0).as_primitive::<TimestampMicrosecondType>();
    Ok(times.values().iter().map(|micros| micros / 1_000_000).collect())
}

/// One output of a node.
pub fn output(results: &BacktestResults, node: &NodeId, output: &str) -> Result<Vec<f64>> {
    let column = rows(results, node)?.column_by_name(output);
    let column =
        column.ok_or_else(|| Error::invalid("the node has no such output").with("output", output))?;
    Ok(column.as_primitive::<Float64Type>().values().to_vec())
}

fn rows<'a>(results: &'a BacktestResults, node: &NodeId) -> Result<&'a RecordBatch> {
    let found = results.results.iter().find(|(id, _)| id == node);
    found.map(|(_, rows)| rows).ok_or_else(|| Error::invalid("there is no such node").with("node_id", node))
}

/// What is compared with TA-Lib, by the names of its columns in the tables: SMA 20, EMA 20, RSI 14, ATR 14 and MACD
/// 12/26/9 over all candles. The openings of the bars, and for each column one value a bar.
pub async fn compared() -> Result<(Vec<i64>, Vec<(&'static str, Vec<f64>)>)> {
    let input = input().await?;
    let ids: Vec<NodeId> =
        ["sma", "ema", "rsi", "atr", "macd"].into_iter().map(str::parse).collect::<Result<_, _>>()?;
    let [sma, ema, rsi, atr, macd] = ids.as_slice() else { unreachable!("five names were parsed") };
    let all = vec![
        nodes::sma(sma.clone(), 20, &input, "close")?,
        nodes::ema(ema.clone(), 20, &input, "close")?,
        nodes::rsi(rsi.clone(), 14, &input, "close")?,
        nodes::atr(atr.clone(), 14, &input)?,
        nodes::macd(macd.clone(), [12, 26, 9], &input, "close")?,
    ];
    let results = backtest(input, all).await?;
    let bars = times(&results, ema)?;
    let columns = [
        ("sma", sma, "value"),
        ("ema", ema, "value"),
        ("rsi", rsi, "value"),
        ("atr", atr, "value"),
        ("macd", macd, "macd"),
        ("signal", macd, "signal"),
        ("histogram", macd, "histogram"),
    ];
    let column = |(name, node, of): (&'static str, &NodeId, &str)| {
        let values = output(&results, node, of)?;
        // The moving average has no result before its window is full.
        let before = vec![f64::NAN; bars.len() - values.len()];
        Ok((name, [before, values].concat()))
    };
    let columns = columns.into_iter().map(column).collect::<Result<_>>()?;
    Ok((bars, columns))
}

/// The largest relative difference of two columns; infinite where one has a value and the other none.
#[must_use]
pub fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    let relative = |(a, b): (&f64, &f64)| match (a.is_nan(), b.is_nan()) {
        (true, true) => 0.0,
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs() / a.abs().max(b.abs()),
        _ => f64::INFINITY,
    };
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    ours.iter().zip(theirs).map(relative).fold(0.0, f64::max)
}

/// A table of TA-Lib's values: bars as seconds since 1970 in the column `ts`, then the columns of [`compared`]. `nan`
/// is where there is none.
pub fn table(text: &str) -> Result<Vec<(i64, Vec<f64>)>> {
    let row = |line: &str| {
        let invalid = || Error::invalid("a row of the table has no numbers").with("row", line);
        let (ts, values) = line.split_once(',').ok_or_else(invalid)?;
        let values = values.split(',').map(str::parse).collect::<Result<_, _>>();
        Ok((ts.parse().map_err(|_| invalid())?, values.map_err(|_| invalid())?))
    };
    text.lines().skip(1).map(row).collect()
}
