//! Runs a strategy over a range of history, in bounded memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use qmtl_history_api::arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{
    BatchStream, Error, ErrorKind, NodeId, RangeSet, ReadRequest, Result, SeriesKey, TimeRange, Timestamp,
    frame,
};

use crate::pipeline::{Delivered, NodeRows};
use crate::runner::stored_columns;
use crate::warmup::{LOOKBACK, start_of_newest};
use crate::{Activation, Mode, NodeCache, OnPanic, Order, Parallelism, Pipeline, Strategy, StreamInput};

/// The moment of a result or an order: when its bars close.
const MOMENT: &str = "moment";

/// How a strategy is run over history: the same graph, and the same order of moments, as live.
///
/// [`range`](Self::range) streams each input from its provider, and only the columns that nodes read. It fills
/// nothing: [`BacktestRun::missing`] reports what is not stored. Orders are returned, never sent: the sinks of
/// [`ComputeNode::orders_to`](crate::ComputeNode::orders_to) are not called, nothing is recorded.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Backtest {
    parallelism: Parallelism,
    on_panic: OnPanic,
    holes_allowed: bool,
    activation: Option<Activation>,
}

impl Backtest {
    /// A backtest on one thread, in which both sides may act with full weight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses how many nodes compute at once.
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// Chooses what a failing node stops.
    pub fn with_on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Lets nodes run and emit orders even if a bar is missing in a window.
    pub fn with_holes_allowed(mut self, allowed: bool) -> Self {
        self.holes_allowed = allowed;
        self
    }

    /// States which orders are allowed. By default both sides may trade, on paper.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Runs `strategy` over the bars that close after `start` and up to `end`.
    ///
    /// Each input is read from `period` rows before `start` on, ten times as many points of the grid back at most:
    /// these prime the nodes and are not counted, and nothing that comes of them is returned. The inputs' own caches
    /// are not used, so one input can serve many backtests.
    ///
    /// `InvalidInput` unless `start < end`, `Unsupported` for an input without history, `NotFound` or `Schema` when a
    /// node reads a column that its input lacks or that is not of doubles, else the error of a provider.
    pub async fn range(
        &self,
        mut strategy: Strategy,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<BacktestRun> {
        TimeRange::new(start, end)?;
        // Bars that came through the inputs' caches by another way do not belong to this run.
        strategy.inputs = strategy.inputs.iter().map(StreamInput::detached).collect::<Result<_>>()?;
        let pipeline = Pipeline::new(strategy)
            .with_parallelism(self.parallelism)
            .with_on_panic(self.on_panic)
            .with_holes_allowed(self.holes_allowed);
        let (mut streams, mut missing) = (Vec::new(), Vec::new());
        let columns = stored_columns(pipeline.inputs()).await;
        pipeline.check_columns(&columns)?;
        for (input, columns) in pipeline.inputs().iter().zip(pipeline.columns_read()) {
            let (rows, lacking) = opened(input, columns, (start, end)).await?;
            streams.extend(rows.map(|rows| (input.key().clone(), rows)));
            missing.push((input.key().clone(), lacking));
        }
        let activation = match (&self.activation, pipeline.inputs().first()) {
            (Some(activation), _) => Some(activation.clone()),
            (None, Some(input)) => Some(Activation::always(Mode::Paper, Arc::clone(input.clock()))),
            (None, None) => None,
        };
        Ok(BacktestRun {
            open: pipeline.opened(streams)?,
            pipeline,
            start,
            activation,
            missing,
            waiting: VecDeque::new(),
            bars: 0,
            failed: None,
        })
    }
}

/// The rows of an input from its period before the range on, and what of the range is neither stored nor proven
/// absent.
async fn opened(
    input: &StreamInput,
    columns: BTreeSet<String>,
    (start, end): (Timestamp, Timestamp),
) -> Result<(Option<BatchStream>, RangeSet)> {
    let (key, provider) = (input.key(), input.require_history()?);
    let interval = key.interval;
    let period = input.cache().read(NodeCache::period);
    // Closes lie on the grid of openings: the bar that is open at a time is the first to close after it.
    let first = interval.floor(start).unwrap_or(Timestamp::MIN);
    let past_end = interval.floor(end).unwrap_or(Timestamp::MIN);
    let before = |points: i64| {
        let micros = interval.as_micros().checked_mul(points);
        micros.and_then(|micros| first.checked_add_micros(-micros)).unwrap_or(Timestamp::MIN)
    };
    let points = |bars: usize| i64::try_from(bars).unwrap_or(i64::MAX);
    let (mut from, mut missing) = (before(points(period)), RangeSet::new());
    if provider.capabilities().coverage {
        let coverage = provider.coverage(key).await?;
        let farthest = before(points(period.saturating_mul(LOOKBACK)));
        if let Some(past) = TimeRange::checked(farthest, first) {
            from = start_of_newest(&coverage, past, period, interval).unwrap_or(from);
        }
        let known_empty = coverage.empty_by_any(input.clock().real_now());
        if let Some(asked) = TimeRange::checked(first, past_end) {
            missing = RangeSet::from(asked).difference(coverage.present()).difference(&known_empty);
        }
        input.cache().write(|cache| cache.note_known_empty(&known_empty));
    }
    let Some(range) = TimeRange::checked(from, past_end) else { return Ok((None, missing)) };
    let request = ReadRequest::new(key.clone(), range).with_columns(columns);
    Ok((Some(checked(provider.fetch(&request).await?, key.clone(), range)), missing))
}

/// Fails with `Schema` where a provider gives rows that are not ascending, or outside of what was asked for.
fn checked(rows: BatchStream, key: SeriesKey, range: TimeRange) -> BatchStream {
    let (schema, mut newest) = (rows.schema(), None);
    let mut check = move |batch: RecordBatch| {
        let ts = frame::timestamps(&batch)?.values();
        let is_inside = |micros: &i64| (range.start().as_micros()..range.end().as_micros()).contains(micros);
        if !ts.iter().all(is_inside) {
            return Err(Error::schema(
                "the history provider gives rows outside of the range that it was asked for",
            )
            .with("series", &key)
            .with("range", range));
        }
        if ts.first().is_some_and(|first| newest >= Some(*first)) || !ts.is_sorted() {
            return Err(Error::schema("the history provider gives rows that are not ascending in time")
                .with("series", &key)
                .with("range", range));
        }
        newest = ts.last().copied().or(newest);
        Ok(batch)
    };
    BatchStream::new(schema, rows.map(move |batch| batch.and_then(&mut check)).boxed())
}

/// A backtest under way.
#[derive(Debug)]
pub struct BacktestRun {
    pipeline: Pipeline,
    open: Vec<Option<BatchStream>>,
    start: Timestamp,
    activation: Option<Activation>,
    missing: Vec<(SeriesKey, RangeSet)>,
    waiting: VecDeque<Result<BacktestBatch, ArrowError>>,
    bars: u64,
    failed: Option<Error>,
}

/// What nodes computed at neighbouring moments.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BacktestBatch {
    /// For every node its results: `ts`, the opening time of the bar that a result represents; `moment`, its close;
    /// then one column of doubles for each output. Ascending; no row where the node had no result.
    pub results: Vec<(NodeId, RecordBatch)>,
    /// The orders, in the order of moments: `node_id`, `ts`, `moment`, `side` (`long` or `short`), `value`,
    /// `weight`.
    pub orders: RecordBatch,
}

/// All results of a backtest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BacktestResults {
    /// For every node its results, with the columns of [`BacktestBatch::results`].
    pub results: Vec<(NodeId, RecordBatch)>,
    /// The orders, with the columns of [`BacktestBatch::orders`].
    pub orders: RecordBatch,
    /// How many bars closed in the range.
    pub bars: u64,
    /// For every input the bars of the range that are neither stored nor proven not to exist.
    pub missing: Vec<(SeriesKey, RangeSet)>,
    /// Why nodes failed.
    pub failures: Vec<Error>,
}

impl BacktestResults {
    /// The values of one output of a node, one for each row of its results. `NotFound` for an unknown node or output.
    pub fn output(&self, node: &str, output: &str) -> Result<&[f64]> {
        let rows = self.results.iter().find(|(id, _)| id.as_str() == node).map(|(_, rows)| rows);
        let column = rows.and_then(|rows| rows.column_by_name(output));
        let values = column.and_then(|column| column.as_primitive_opt::<Float64Type>());
        values.map(|values| &values.values()[..]).ok_or_else(|| {
            let known = self.results.iter().map(|(id, rows)| {
                let outputs = rows.schema_ref().fields().iter().skip(2).map(|field| field.name().as_str());
                format!("{id} ({})", outputs.collect::<Vec<_>>().join(", "))
            });
            Error::new(ErrorKind::NotFound, "the backtest has no such node, or the node no such output")
                .with("node_id", node)
                .with("output", output)
                .with("nodes", known.collect::<Vec<_>>().join(", "))
        })
    }

    /// Whether no bar of the range was missing and no node failed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.iter().all(|(_, missing)| missing.is_empty()) && self.failures.is_empty()
    }
}

impl BacktestRun {
    /// The next results; `None` at the end. What is in memory at once is a batch of each input, besides the windows.
    ///
    /// Fails with a provider's error, and as [`Pipeline::replay`] does, and from then on with the same error.
    pub async fn next(&mut self) -> Result<Option<BacktestBatch>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.advance().await;
        self.failed = next.as_ref().err().cloned();
        next
    }

    async fn advance(&mut self) -> Result<Option<BacktestBatch>> {
        let assembled = |e| Error::unexpected("cannot assemble results").caused_by(e);
        loop {
            if let Some(batch) = self.waiting.pop_front() {
                return batch.map(Some).map_err(assembled);
            }
            let Self { pipeline, open, start, activation, waiting, bars, .. } = self;
            let mut hear = |delivered: &Delivered<'_>| {
                *bars += delivered.bars_after(*start);
                waiting.push_back(batch_of(delivered, *start, activation.as_ref()));
            };
            if pipeline.replay_next(open, &mut hear).await?.is_none() && self.waiting.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Runs to the end, and puts all results together: they have to fit into memory. Fails as [`next`](Self::next).
    pub async fn collect(mut self) -> Result<BacktestResults> {
        let assembled = |e| Error::unexpected("cannot put results together").caused_by(e);
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        let nodes = self.pipeline.nodes().map(|node| (node.id.clone(), schema_of(&node.outputs)));
        let results = nodes.enumerate().map(|(at, (id, schema))| {
            let rows = batches.iter().map(|batch| &batch.results[at].1);
            concat_batches(&schema, rows).map(|rows| (id, rows))
        });
        let results = results.collect::<Result<_, _>>().map_err(assembled)?;
        let orders = concat_batches(&order_schema(), batches.iter().map(|batch| &batch.orders));
        Ok(BacktestResults {
            results,
            orders: orders.map_err(assembled)?,
            bars: self.bars,
            missing: self.missing,
            failures: self.pipeline.failures().cloned().collect(),
        })
    }

    /// How many bars that close in the range were delivered up to now.
    #[must_use]
    pub fn bars(&self) -> u64 {
        self.bars
    }

    /// For every input the bars of the range that are neither stored nor proven not to exist; nothing where its
    /// provider does not report coverage.
    #[must_use]
    pub fn missing(&self) -> &[(SeriesKey, RangeSet)] {
        &self.missing
    }

    /// The nodes at work: failures, silent moments, the newest results.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }
}

fn batch_of(
    delivered: &Delivered<'_>,
    start: Timestamp,
    activation: Option<&Activation>,
) -> Result<BacktestBatch, ArrowError> {
    let (mut results, mut orders) = (Vec::new(), Vec::new());
    for rows in delivered.results_after(start) {
        results.push((rows.node().id.clone(), record_of(&rows)?));
        orders.extend(activation.into_iter().flat_map(|activation| rows.orders(activation)));
    }
    orders.sort_by_key(|(moment, _)| *moment);
    Ok(BacktestBatch { results, orders: orders_of(&orders)? })
}

fn schema_of(outputs: &[String]) -> SchemaRef {
    let outputs = outputs.iter().map(|name| Field::new(name, DataType::Float64, false));
    let times = [frame::ts_field(), Field::new(MOMENT, frame::ts_type(), false)];
    Arc::new(Schema::new(times.into_iter().chain(outputs).collect::<Vec<_>>()))
}

fn record_of(rows: &NodeRows<'_>) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(frame::ts_array(rows.ts().iter().copied())), Arc::new(frame::ts_array(rows.moments()))];
    columns.extend(rows.columns().map(|values| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef));
    RecordBatch::try_new(schema_of(&rows.node().outputs), columns)
}

fn order_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("node_id", DataType::Utf8, false),
        frame::ts_field(),
        Field::new(MOMENT, frame::ts_type(), false),
        Field::new("side", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
        Field::new("weight", DataType::Float64, false),
    ]))
}

fn orders_of(orders: &[(Timestamp, Order)]) -> Result<RecordBatch, ArrowError> {
    let of = || orders.iter().map(|(_, order)| order);
    RecordBatch::try_new(
        order_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(of().map(|order| order.node_id.as_str()))),
            Arc::new(frame::ts_array(of().map(|order| order.ts))),
            Arc::new(frame::ts_array(orders.iter().map(|(moment, _)| *moment))),
            Arc::new(StringArray::from_iter_values(of().map(|order| order.side.as_str()))),
            Arc::new(Float64Array::from_iter_values(of().map(|order| order.value))),
            Arc::new(Float64Array::from_iter_values(of().map(|order| order.allowed.weight))),
        ],
    )
}

#[cfg(test)]
mod tests;
