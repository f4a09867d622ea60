//! One compute node at work: it walks the moments of a chunk and appends a result at each.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use qmtl_history_api::{Error, Interval, NodeId, Result, Timestamp};
use smallvec::SmallVec;

use crate::compute::{Compute, ComputeNode};
use crate::graph::{Place, Source};
use crate::shared::in_node;
use crate::windows::Windows;
use crate::{Activation, CacheView, Order, Side};

/// A list that is short where bars are delivered one by one, and then costs no allocation.
pub(super) type Few<T> = SmallVec<[T; 4]>;

/// The order in which the rows of all inputs are delivered. It is kept for the next ones: at live bars its memory is
/// worth more than they are.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// When bars close, strictly ascending.
    pub(super) moments: Vec<Timestamp>,
    /// For every input the numbers of the moments at which one of its bars closes.
    pub(super) emits: Vec<Vec<u32>>,
    /// For every input how many of its cached rows were delivered before.
    pub(super) before: Vec<usize>,
    /// For every input with a bar missing, and each of its rows, the oldest row from which on none is.
    pub(super) runs: Vec<Option<Vec<usize>>>,
    /// For every input the numbers of the moments by which a bar of its is missing that would be its newest.
    pub(super) stale: Vec<Vec<u32>>,
    /// While it is made: for every input the next row, and when it closes.
    pub(super) next: Vec<usize>,
    pub(super) heads: Vec<Timestamp>,
    /// For every input the first moment at which it would be stale without another row, and whether it is.
    pub(super) due: Vec<(Timestamp, bool)>,
}

impl Chunk {
    /// Makes room for rows of so many inputs.
    pub(super) fn clear(&mut self, inputs: usize) {
        self.moments.clear();
        self.emits.resize_with(inputs, Vec::new);
        self.emits.iter_mut().for_each(Vec::clear);
        self.stale.resize_with(inputs, Vec::new);
        self.stale.iter_mut().for_each(Vec::clear);
        self.before.clear();
        self.runs.clear();
        self.next.clear();
        self.heads.clear();
        self.due.clear();
    }

    /// A handful of moments costs less than a thread.
    pub(super) fn is_small(&self) -> bool {
        self.moments.len() < 1_024
    }

    /// How many rows it delivers.
    pub(super) fn rows(&self) -> usize {
        self.emits.iter().map(Vec::len).sum()
    }

    /// How many rows of an input were delivered at a moment.
    pub(super) fn rows_at(&self, input: usize, moment: u32) -> usize {
        self.before[input] + self.emits[input].partition_point(|at| *at <= moment)
    }
}

/// What the nodes of one level read: the inputs, and the results of the levels before.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) chunk: &'a Chunk,
    pub(super) inputs: &'a [CacheView<'a>],
    pub(super) done: &'a [Results],
    /// Whether a window may have a bar missing.
    pub(super) holes_allowed: bool,
}

/// Where a source stands in a chunk.
struct Feed<'a> {
    /// The moments at which the source has one more row.
    emits: &'a [u32],
    /// How many of its rows were there before.
    before: usize,
    holes: Holes<'a>,
    stale: Stale<'a>,
}

/// At which moments the newest row of a source is not the one that it should be.
#[derive(Clone, Copy)]
enum Stale<'a> {
    /// Never, or it does not matter.
    Never,
    /// At these.
    At(&'a [u32]),
    /// From each of these on until its next result; also from the start on, if it was so before.
    Since(&'a [u32], bool),
}

impl Stale<'_> {
    /// Whether it is so at a moment, up to which the source has given these results.
    fn is_at(self, moment: u32, emitted: &[u32]) -> bool {
        match self {
            Self::Never => false,
            Self::At(moments) => moments.binary_search(&moment).is_ok(),
            Self::Since(silences, was) => {
                let silence =
                    silences.partition_point(|at| *at <= moment).checked_sub(1).map(|at| silences[at]);
                match (silence, emitted.last()) {
                    (Some(silence), Some(result)) => silence > *result,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (None, None) => was,
                }
            }
        }
    }
}

/// Where rows do not follow one another.
#[derive(Clone, Copy)]
enum Holes<'a> {
    /// Nowhere, or it does not matter.
    None,
    /// For each row the oldest one from which on none is missing.
    Runs(&'a [usize]),
    /// The rows before which one is missing, ascending.
    Breaks(&'a [usize]),
}

impl Holes<'_> {
    /// Whether one is missing between the rows.
    fn are_in(self, rows: &Range<usize>) -> bool {
        match self {
            Self::None => false,
            Self::Runs(runs) => runs[rows.end - 1] > rows.start,
            Self::Breaks(breaks) => {
                let behind = breaks.partition_point(|row| *row <= rows.start);
                breaks.get(behind).is_some_and(|row| *row < rows.end)
            }
        }
    }
}

pub(super) struct Node {
    pub(super) spec: ComputeNode,
    /// The distinct sources.
    sources: Vec<Place>,
    /// For every read the place of its source among `sources`.
    source_of: Vec<usize>,
    /// For every read the place of its column among the outputs of its source, if that is a node.
    output_of: Vec<usize>,
    /// For every read the place of its column in its source, once all inputs that it reads have columns.
    column_of: Vec<usize>,
    /// The inputs that it reads, directly or through other nodes.
    pub(super) inputs: Vec<usize>,
    /// The longest grid on which all bars of these close: that of the node's results.
    pub(super) interval: Interval,
    pub(super) failed: Option<Error>,
    /// Whether the failure was told.
    pub(super) is_told: bool,
}

/// What a node has computed. It stands apart from the node, so that other threads may read it, and
/// in cache lines of its own: neighbours are written by several threads at once, at every row.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Results {
    pub(super) ts: Vec<Timestamp>,
    /// For every output its values. Their lengths stand in here, and not beside those of a neighbour.
    pub(super) columns: Few<Vec<f64>>,
    /// The moments of the chunk at which the node had a result.
    pub(super) fired: Vec<u32>,
    /// The results before which the node was silent although it was warm.
    pub(super) breaks: Vec<usize>,
    /// How often it was silent because a bar was missing in a window.
    pub(super) silenced: u64,
    /// How many values are NaN at moments when a window held one.
    pub(super) not_numbers: u64,
    /// The moments of the chunk at which it was so silent, and whether it was at its last moment before the chunk.
    silences: Vec<u32>,
    pub(super) is_stale: bool,
    /// The moment that is computed.
    at: u32,
    /// The moment of the chunk from which on there are no results, because the node has failed.
    stopped: Option<u32>,
}

impl Results {
    pub(super) fn new(outputs: usize) -> Self {
        Self {
            ts: Vec::new(),
            columns: (0..outputs).map(|_| Vec::new()).collect(),
            fired: Vec::new(),
            breaks: Vec::new(),
            silenced: 0,
            not_numbers: 0,
            silences: Vec::new(),
            is_stale: false,
            at: 0,
            stopped: None,
        }
    }

    /// How many results were there before the chunk.
    pub(super) fn before(&self) -> usize {
        self.ts.len() - self.fired.len()
    }

    fn reserve(&mut self, rows: usize) {
        self.ts.reserve(rows);
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
        self.fired.reserve(rows);
    }

    /// Ends the chunk, and forgets all but the newest `keeps` results once that pays.
    pub(super) fn trim(&mut self, keeps: usize) {
        self.is_stale = Stale::Since(&self.silences, self.is_stale).is_at(u32::MAX, &self.fired);
        self.silences.clear();
        self.fired.clear();
        self.at = 0;
        self.stopped = None;
        let excess = self.ts.len().saturating_sub(keeps);
        if excess >= keeps.max(self.ts.len() / 2) {
            self.columns.iter_mut().for_each(|column| drop(column.drain(..excess)));
            self.ts.drain(..excess);
            self.breaks.retain(|row| *row > excess);
            self.breaks.iter_mut().for_each(|row| *row -= excess);
        }
    }

    /// Notes that there is no result where there would be one.
    fn silence(&mut self, moment: u32) {
        self.silenced += 1;
        self.silences.push(moment);
        if self.breaks.last() != Some(&self.ts.len()) {
            self.breaks.push(self.ts.len());
        }
    }
}

impl Node {
    /// A node that reads from these places; `before` are the nodes among them.
    pub(super) fn new(spec: ComputeNode, reads: &[Place], before: &[Self]) -> Self {
        let mut sources: Vec<Place> = Vec::new();
        let source_of = reads
            .iter()
            .map(|read| {
                sources.iter().position(|source| source == read).unwrap_or_else(|| {
                    sources.push(*read);
                    sources.len() - 1
                })
            })
            .collect();
        let output_of = spec.reads.iter().zip(reads).map(|((_, column), place)| match *place {
            Place::Input(_) => 0,
            Place::Node(node) => {
                before[node].spec.outputs.iter().position(|name| name == column).unwrap_or(0)
            }
        });
        Self {
            output_of: output_of.collect(),
            spec,
            sources,
            source_of,
            column_of: Vec::new(),
            inputs: Vec::new(),
            interval: Interval::DAY,
            failed: None,
            is_told: false,
        }
    }

    /// Runs over a chunk, unless the node has failed. A panic or an error fails the node, as does the failure of one
    /// that it reads; its results up to that moment stay.
    pub(super) fn run(&mut self, own: &mut Results, round: &Round<'_>) {
        if self.failed.is_some() {
            own.stopped = Some(0);
            return;
        }
        let stopped = |(at, source): (usize, &Place)| match *source {
            Place::Node(node) => round.done[node].stopped.map(|moment| (moment, at)),
            Place::Input(_) => None,
        };
        let stopped = self.sources.iter().enumerate().filter_map(stopped).min();
        let until = stopped.map_or(u32::MAX, |(moment, _)| moment);
        let outcome = catch_unwind(AssertUnwindSafe(|| in_node(|| self.walk(own, round, until))));
        match (outcome, stopped) {
            (Ok(Ok(())), None) => {}
            (Ok(Ok(())), Some((moment, source))) => {
                let read = self.spec.reads.iter().zip(&self.source_of).find(|(_, at)| **at == source);
                let source = read.map_or_else(String::new, |((source, _), _)| source.to_string());
                own.stopped = Some(moment);
                self.failed = Some(
                    Error::unexpected("a compute node reads one that has failed")
                        .with("node_id", &self.spec.id)
                        .with("source", source),
                );
            }
            (failed, _) => {
                own.stopped = Some(own.at);
                self.failed = failed.unwrap_or_else(|panic| Err(panicked(&self.spec.id, &*panic))).err();
            }
        }
    }

    /// The order that comes of a result, when the world allows its side to act.
    pub(super) fn order(&self, ts: Timestamp, value: f64, activation: &Activation) -> Option<Order> {
        let side = Side::of_signal(value)?;
        let allowed = activation.allowed(side)?;
        Some(Order { node_id: self.spec.id.clone(), ts, side, value, allowed })
    }

    /// Hands over an order. A panic of the sink fails the node as one of its own does.
    pub(super) fn send(&mut self, order: &Order) {
        let Some(sink) = &mut self.spec.orders else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| sink(order))) {
            self.failed = Some(panicked(&self.spec.id, &*panic));
        }
    }

    /// Walks the moments before `until`.
    fn walk(&mut self, own: &mut Results, round: &Round<'_>, until: u32) -> Result<()> {
        let Round { chunk, inputs, done, .. } = *round;
        let feeds = self.feeds(round, until);
        let is_cold = |feed: &Feed<'_>| feed.before + feed.emits.len() < self.spec.window;
        if feeds.iter().all(|feed| feed.emits.is_empty()) || feeds.iter().any(is_cold) {
            // An input of which no row has come yet has no columns either.
            return Ok(());
        }
        if self.column_of.is_empty() {
            self.column_of = self.find_columns(inputs)?;
        }
        let plain = self.columns(inputs, done);
        let copies =
            if plain.iter().all(Option::is_some) { Vec::new() } else { self.copies(&plain, inputs)? };
        let mut copies = copies.iter().map(Vec::as_slice);
        let mut columns = Few::<&[f64]>::new();
        for values in plain {
            columns.push(values.unwrap_or_else(|| copies.next().unwrap_or_default()));
        }
        let mut walk = Walk {
            reads: &self.spec.reads,
            columns: &columns,
            source_of: &self.source_of,
            window: self.spec.window,
            moments: &chunk.moments,
            interval: self.interval,
            results: own,
        };
        match (&mut self.spec.compute, feeds.as_slice()) {
            (Compute::Slices(compute), [feed]) => {
                walk.by_row(feed, &mut |windows, columns| Ok(Some(one(compute(windows), columns))))
            }
            (Compute::Slices(compute), _) => {
                walk.by_moment(&feeds, &mut |windows, columns| Ok(Some(one(compute(windows), columns))))
            }
            (Compute::Batch(compute), [feed]) if matches!(feed.holes, Holes::None) => {
                // Row by row it comes as far as live.
                match catch_unwind(AssertUnwindSafe(|| walk.at_once(feed, compute))) {
                    Ok(()) => Ok(()),
                    Err(_) => walk.by_row(feed, &mut |windows, columns| {
                        several(columns, |out| {
                            compute(windows, out);
                            Ok(true)
                        })
                    }),
                }
            }
            (Compute::Batch(compute) | Compute::Outputs(compute), _) => {
                walk.by_moment(&feeds, &mut |windows, columns| {
                    several(columns, |out| {
                        compute(windows, out);
                        Ok(true)
                    })
                })
            }
            (Compute::Stateful(node), [feed]) => walk.by_row(feed, &mut |windows, columns| {
                several(columns, |out| node.update(windows, out).map(|()| node.has_result()))
            }),
            (Compute::Stateful(node), _) => walk.by_moment(&feeds, &mut |windows, columns| {
                several(columns, |out| node.update(windows, out).map(|()| node.has_result()))
            }),
        }
        .map_err(|e| Error::unexpected("a compute node failed").with("node_id", &self.spec.id).caused_by(e))
    }

    /// Where each source stands at the moments before `until`.
    fn feeds<'a>(&self, round: &Round<'a>, until: u32) -> Few<Feed<'a>> {
        let Round { chunk, done, holes_allowed, .. } = *round;
        // At live bars each of these lists is short, and pushing costs a third of collecting.
        let mut feeds = Few::new();
        for source in &self.sources {
            feeds.push(match *source {
                Place::Input(input) => Feed {
                    emits: up_to(&chunk.emits[input], until),
                    stale: match chunk.stale[input].as_slice() {
                        [] => Stale::Never,
                        stale => Stale::At(stale),
                    },
                    before: chunk.before[input],
                    holes: match &chunk.runs[input] {
                        Some(runs) if !holes_allowed => Holes::Runs(runs),
                        _ => Holes::None,
                    },
                },
                Place::Node(node) => Feed {
                    emits: up_to(&done[node].fired, until),
                    stale: match (done[node].silences.as_slice(), done[node].is_stale) {
                        ([], false) => Stale::Never,
                        (silences, was) => Stale::Since(silences, was),
                    },
                    before: done[node].before(),
                    holes: if done[node].breaks.is_empty() {
                        Holes::None
                    } else {
                        Holes::Breaks(&done[node].breaks)
                    },
                },
            });
        }
        feeds
    }

    /// Where its reads stand among the columns of their sources. Those of an input do not change once it has a row.
    fn find_columns(&self, inputs: &[CacheView<'_>]) -> Result<Vec<usize>> {
        let reads = self.spec.reads.iter().zip(&self.source_of).zip(&self.output_of);
        reads
            .map(|(((_, column), source), output)| match self.sources[*source] {
                Place::Input(input) => {
                    inputs[input].index_of(column).map_err(|e| e.with("reader", &self.spec.id))
                }
                Place::Node(_) => Ok(*output),
            })
            .collect()
    }

    /// For every read its values; `None` where a column of an input is not one of doubles without nulls.
    fn columns<'a>(&self, inputs: &[CacheView<'a>], done: &'a [Results]) -> Few<Option<&'a [f64]>> {
        let reads = self.column_of.iter().zip(&self.source_of);
        let mut values = Few::new();
        for (column, source) in reads {
            values.push(match self.sources[*source] {
                Place::Input(input) => inputs[input].doubles(*column),
                Place::Node(node) => Some(done[node].columns[*column].as_slice()),
            });
        }
        values
    }

    /// Copies of the columns of inputs that `plain` lacks, in which a null is NaN.
    fn copies(&self, plain: &[Option<&[f64]>], inputs: &[CacheView<'_>]) -> Result<Vec<Vec<f64>>> {
        let reads =
            self.column_of.iter().zip(&self.source_of).zip(plain).filter(|(_, plain)| plain.is_none());
        let copied = reads.filter_map(|((column, source), _)| match self.sources[*source] {
            Place::Input(input) => Some(inputs[input].f64_or_nan(*column)),
            Place::Node(_) => None,
        });
        copied.map(|copy| copy.map(Cow::into_owned).map_err(|e| e.with("reader", &self.spec.id))).collect()
    }
}

/// The moments before `until`, of ascending ones.
fn up_to(moments: &[u32], until: u32) -> &[u32] {
    // Mostly no source has failed.
    if until == u32::MAX { moments } else { &moments[..moments.partition_point(|at| *at < until)] }
}

/// That a node's own code has panicked.
pub(super) fn panicked(id: &NodeId, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::unexpected("a compute node panicked")
        .with("node_id", id)
        .with("panic", text.unwrap_or_else(|| "no message".into()))
}

/// Appends a value to the only column; how many of it are NaN.
fn one(value: f64, columns: &mut [Vec<f64>]) -> u64 {
    columns[0].push(value);
    u64::from(value.is_nan())
}

/// Appends to each column the value that `fill` writes for it; how many of these are NaN, or `None` when it says that
/// there is no result.
fn several(columns: &mut [Vec<f64>], fill: impl FnOnce(&mut [f64]) -> Result<bool>) -> Result<Option<u64>> {
    let mut row: Few<f64> = columns.iter().map(|_| f64::NAN).collect();
    if !fill(&mut row)? {
        return Ok(None);
    }
    let mut not_numbers = 0;
    for (column, value) in columns.iter_mut().zip(row) {
        column.push(value);
        not_numbers += u64::from(value.is_nan());
    }
    Ok(Some(not_numbers))
}

/// A node's functions meet the rows here.
struct Walk<'a> {
    reads: &'a [(Source, String)],
    columns: &'a [&'a [f64]],
    source_of: &'a [usize],
    window: usize,
    moments: &'a [Timestamp],
    interval: Interval,
    results: &'a mut Results,
}

impl<'a> Walk<'a> {
    /// One call for every moment at which the node is warm.
    fn by_moment(
        &mut self,
        feeds: &[Feed<'_>],
        compute: &mut impl FnMut(&Windows<'_>, &mut [Vec<f64>]) -> Result<Option<u64>>,
    ) -> Result<()> {
        let mut next: Few<usize> = feeds.iter().map(|_| 0).collect();
        let mut rows: Few<Range<usize>> = feeds.iter().map(|feed| self.window_at(feed.before)).collect();
        while let Some(moment) = feeds.iter().zip(&next).filter_map(|(feed, at)| feed.emits.get(*at)).min() {
            for ((feed, at), rows) in feeds.iter().zip(&mut next).zip(&mut rows) {
                if feed.emits.get(*at) == Some(moment) {
                    *at += 1;
                    *rows = self.window_at(feed.before + *at);
                }
            }
            if rows.iter().all(|rows| rows.len() == self.window) {
                let lacks = |((feed, rows), at): ((&Feed<'_>, &Range<usize>), &usize)| {
                    feed.holes.are_in(rows) || feed.stale.is_at(*moment, &feed.emits[..*at])
                };
                if feeds.iter().zip(&rows).zip(&next).any(lacks) {
                    self.results.silence(*moment);
                } else {
                    self.at(*moment, &rows, compute)?;
                }
            }
        }
        Ok(())
    }

    /// One call for every row of the only source at which the node is warm.
    fn by_row(
        &mut self,
        feed: &Feed<'_>,
        compute: &mut impl FnMut(&Windows<'_>, &mut [Vec<f64>]) -> Result<Option<u64>>,
    ) -> Result<()> {
        self.results.reserve(feed.emits.len());
        for (nth, moment) in feed.emits.iter().enumerate() {
            let rows = self.window_at(feed.before + nth + 1);
            if rows.len() < self.window {
                continue;
            }
            if feed.holes.are_in(&rows) {
                self.results.silence(*moment);
            } else {
                self.at(*moment, std::slice::from_ref(&rows), compute)?;
            }
        }
        Ok(())
    }

    /// One call, at one moment; it appends to the columns of results, and says how many values are NaN, if there is a
    /// result.
    fn at(
        &mut self,
        moment: u32,
        rows: &[Range<usize>],
        compute: &mut impl FnMut(&Windows<'_>, &mut [Vec<f64>]) -> Result<Option<u64>>,
    ) -> Result<()> {
        self.results.at = moment;
        let windows = self.windows(moment, rows);
        let Some(not_numbers) = compute(&windows, &mut self.results.columns)? else { return Ok(()) };
        if not_numbers > 0 && self.has_nan(rows) {
            self.results.not_numbers += not_numbers;
        }
        self.results.ts.push(windows.ts);
        self.results.fired.push(moment);
        Ok(())
    }

    /// One call for all moments of the only source at which the node is warm.
    fn at_once(&mut self, feed: &Feed<'_>, compute: &mut dyn FnMut(&Windows<'_>, &mut [f64])) {
        let cold = (self.window - 1).saturating_sub(feed.before);
        let Some(warm) = feed.emits.get(cold..).filter(|warm| !warm.is_empty()) else { return };
        let first = feed.before + cold + 1 - self.window;
        let rows = first..feed.before + feed.emits.len();
        let mut values = vec![f64::NAN; warm.len()];
        compute(&self.windows(warm[warm.len() - 1], std::slice::from_ref(&rows)), &mut values);
        for (at, _) in values.iter().enumerate().filter(|(_, value)| value.is_nan()) {
            let rows = first + at..first + at + self.window;
            self.results.not_numbers += u64::from(self.has_nan(std::slice::from_ref(&rows)));
        }
        self.results.reserve(warm.len());
        for moment in warm {
            self.results.ts.push(self.opening(*moment));
        }
        self.results.fired.extend_from_slice(warm);
        self.results.columns[0].extend_from_slice(&values);
    }

    /// Whether a window of these rows has NaN.
    fn has_nan(&self, rows: &[Range<usize>]) -> bool {
        let mut reads = self.columns.iter().zip(self.source_of);
        reads.any(|(column, source)| column[rows[*source].clone()].iter().any(|value| value.is_nan()))
    }

    fn window_at(&self, rows: usize) -> Range<usize> {
        rows.saturating_sub(self.window)..rows
    }

    fn windows<'r>(&self, moment: u32, rows: &'r [Range<usize>]) -> Windows<'r>
    where
        'a: 'r,
    {
        Windows {
            reads: self.reads,
            columns: self.columns,
            source_of: self.source_of,
            rows,
            moment: self.moments[moment as usize],
            ts: self.opening(moment),
        }
    }

    /// When the bar opens that a result at this moment is.
    fn opening(&self, moment: u32) -> Timestamp {
        let moment = self.moments[moment as usize];
        moment.checked_add_micros(-self.interval.as_micros()).unwrap_or(Timestamp::MIN)
    }
}
