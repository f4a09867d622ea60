//! One compute node at work: it walks the moments of a chunk and appends a result at each.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use qmtl_history_api::{Error, Interval, Result, Timestamp};

use crate::graph::{Compute, ComputeNode, Place, Windows};
use crate::{Activation, CacheView, Order, Side};

/// The order in which the rows of all inputs are delivered.
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
}

impl Chunk {
    /// A handful of moments costs less than a thread.
    pub(super) fn is_small(&self) -> bool {
        self.moments.len() < 1_024
    }

    /// How many rows it delivers.
    pub(super) fn rows(&self) -> usize {
        self.emits.iter().map(Vec::len).sum()
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
    /// The inputs that it reads, directly or through other nodes.
    pub(super) inputs: Vec<usize>,
    /// The longest grid on which all bars of these close: that of the node's results.
    pub(super) interval: Interval,
    pub(super) failed: Option<Error>,
}

/// What a node has computed. It stands apart from the node, so that other threads may read it, and
/// in cache lines of its own: neighbours are written by several threads at once, at every row.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Results {
    pub(super) ts: Vec<Timestamp>,
    pub(super) values: Vec<f64>,
    /// The moments of the chunk at which the node had a result.
    pub(super) fired: Vec<u32>,
    /// The results before which the node was silent although it was warm.
    breaks: Vec<usize>,
    /// How often it was silent because a bar was missing in a window.
    pub(super) silenced: u64,
}

impl Results {
    /// How many results were there before the chunk.
    fn before(&self) -> usize {
        self.values.len() - self.fired.len()
    }

    fn reserve(&mut self, rows: usize) {
        self.ts.reserve(rows);
        self.values.reserve(rows);
        self.fired.reserve(rows);
    }

    fn push(&mut self, moment: u32, ts: Timestamp, value: f64) {
        self.ts.push(ts);
        self.values.push(value);
        self.fired.push(moment);
    }

    /// Ends the chunk, and forgets all but the newest `keeps` results once that pays.
    pub(super) fn trim(&mut self, keeps: usize) {
        self.fired.clear();
        let excess = self.values.len().saturating_sub(keeps);
        if excess >= keeps.max(self.values.len() / 2) {
            self.values.drain(..excess);
            self.ts.drain(..excess);
            self.breaks.retain(|row| *row > excess);
            self.breaks.iter_mut().for_each(|row| *row -= excess);
        }
    }

    /// The results of the chunk.
    pub(super) fn of_chunk(&self) -> impl Iterator<Item = (Timestamp, f64)> {
        let before = self.before();
        self.ts[before..].iter().copied().zip(self.values[before..].iter().copied())
    }

    /// Notes that there is no result where there would be one.
    fn silence(&mut self) {
        self.silenced += 1;
        if self.breaks.last() != Some(&self.values.len()) {
            self.breaks.push(self.values.len());
        }
    }
}

impl Node {
    pub(super) fn new(spec: ComputeNode, reads: &[Place]) -> Self {
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
        Self { spec, sources, source_of, inputs: Vec::new(), interval: Interval::DAY, failed: None }
    }

    /// Runs over a chunk, unless the node has failed. A panic fails the node; its results up to
    /// there stay.
    pub(super) fn run(&mut self, own: &mut Results, round: &Round<'_>) {
        if self.failed.is_some() {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.walk(own, round)));
        self.failed = outcome.unwrap_or_else(|panic| Err(self.panicked(&*panic))).err();
    }

    /// Hands a result of a live bar to the node's orders, when the world allows its side to act.
    /// A panic of theirs fails the node as one of its own does.
    pub(super) fn order(&mut self, ts: Timestamp, value: f64, activation: Option<&Activation>) {
        let Some(sink) = &mut self.spec.orders else { return };
        let Some((side, allowed)) =
            Side::of_signal(value).and_then(|side| Some((side, activation?.allowed(side)?)))
        else {
            return;
        };
        let order = Order { node_id: self.spec.id.clone(), ts, side, value, allowed };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| sink(&order))) {
            self.failed = Some(self.panicked(&*panic));
        }
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Error {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Error::unexpected("a compute node panicked")
            .with("node_id", &self.spec.id)
            .with("panic", text.unwrap_or_else(|| "no message".into()))
    }

    fn walk(&mut self, own: &mut Results, round: &Round<'_>) -> Result<()> {
        let Round { chunk, inputs, done, holes_allowed } = *round;
        let feeds: Vec<Feed<'_>> = self
            .sources
            .iter()
            .map(|source| match *source {
                Place::Input(input) => Feed {
                    emits: &chunk.emits[input],
                    before: chunk.before[input],
                    holes: match &chunk.runs[input] {
                        Some(runs) if !holes_allowed => Holes::Runs(runs),
                        _ => Holes::None,
                    },
                },
                Place::Node(node) => Feed {
                    emits: &done[node].fired,
                    before: done[node].before(),
                    holes: if done[node].breaks.is_empty() {
                        Holes::None
                    } else {
                        Holes::Breaks(&done[node].breaks)
                    },
                },
            })
            .collect();
        let is_cold = |feed: &Feed<'_>| feed.before + feed.emits.len() < self.spec.window;
        if feeds.iter().all(|feed| feed.emits.is_empty()) || feeds.iter().any(is_cold) {
            // An input of which no row has come yet has no columns either.
            return Ok(());
        }
        let columns = self.columns(inputs, done)?;
        let columns: Vec<&[f64]> = columns.iter().map(AsRef::as_ref).collect();
        let mut walk = Walk {
            columns: &columns,
            source_of: &self.source_of,
            window: self.spec.window,
            moments: &chunk.moments,
            interval: self.interval,
            results: own,
        };
        match (&mut self.spec.compute, feeds.as_slice()) {
            (Compute::Slices(compute), [feed]) => walk.by_row(feed, |windows| compute(windows)),
            (Compute::Slices(compute), _) => walk.by_moment(&feeds, |windows| compute(windows)),
            (Compute::Batch(compute), [feed]) if matches!(feed.holes, Holes::None) => {
                walk.at_once(feed, compute)
            }
            (Compute::Batch(compute), _) => walk.by_moment(&feeds, |windows| {
                let mut value = [f64::NAN];
                compute(windows, &mut value);
                value[0]
            }),
        }
        Ok(())
    }

    fn columns<'a>(&self, inputs: &'a [CacheView<'_>], done: &'a [Results]) -> Result<Vec<Cow<'a, [f64]>>> {
        let reads = self.spec.reads.iter().zip(&self.source_of);
        reads
            .map(|((_, column), source)| match self.sources[*source] {
                Place::Input(input) => {
                    inputs[input].f64_or_nan(column).map_err(|e| e.with("reader", &self.spec.id))
                }
                Place::Node(node) => Ok(Cow::Borrowed(done[node].values.as_slice())),
            })
            .collect()
    }
}

/// A node's functions meet the rows here.
struct Walk<'a> {
    columns: &'a [&'a [f64]],
    source_of: &'a [usize],
    window: usize,
    moments: &'a [Timestamp],
    interval: Interval,
    results: &'a mut Results,
}

impl Walk<'_> {
    /// One call for every moment at which the node is warm.
    fn by_moment(&mut self, feeds: &[Feed<'_>], mut compute: impl FnMut(&Windows<'_>) -> f64) {
        let mut next = vec![0; feeds.len()];
        let mut rows: Vec<Range<usize>> = feeds.iter().map(|feed| self.window_at(feed.before)).collect();
        while let Some(moment) = feeds.iter().zip(&next).filter_map(|(feed, at)| feed.emits.get(*at)).min() {
            for ((feed, at), rows) in feeds.iter().zip(&mut next).zip(&mut rows) {
                if feed.emits.get(*at) == Some(moment) {
                    *at += 1;
                    *rows = self.window_at(feed.before + *at);
                }
            }
            if rows.iter().all(|rows| rows.len() == self.window) {
                if feeds.iter().zip(&rows).any(|(feed, rows)| feed.holes.are_in(rows)) {
                    self.results.silence();
                } else {
                    let value = compute(&self.windows(*moment, &rows));
                    self.push(*moment, value);
                }
            }
        }
    }

    /// One call for every row of the only source at which the node is warm.
    fn by_row(&mut self, feed: &Feed<'_>, mut compute: impl FnMut(&Windows<'_>) -> f64) {
        self.results.reserve(feed.emits.len());
        for (nth, moment) in feed.emits.iter().enumerate() {
            let rows = self.window_at(feed.before + nth + 1);
            if rows.len() < self.window {
                continue;
            }
            if feed.holes.are_in(&rows) {
                self.results.silence();
            } else {
                let value = compute(&self.windows(*moment, std::slice::from_ref(&rows)));
                self.push(*moment, value);
            }
        }
    }

    /// One call for all moments of the only source at which the node is warm.
    fn at_once(&mut self, feed: &Feed<'_>, compute: &mut dyn FnMut(&Windows<'_>, &mut [f64])) {
        let cold = (self.window - 1).saturating_sub(feed.before);
        let Some(warm) = feed.emits.get(cold..).filter(|warm| !warm.is_empty()) else { return };
        let rows = feed.before + cold + 1 - self.window..feed.before + feed.emits.len();
        let mut values = vec![f64::NAN; warm.len()];
        compute(&self.windows(warm[warm.len() - 1], std::slice::from_ref(&rows)), &mut values);
        for (moment, value) in warm.iter().zip(values) {
            self.push(*moment, value);
        }
    }

    fn window_at(&self, rows: usize) -> Range<usize> {
        rows.saturating_sub(self.window)..rows
    }

    fn windows<'a>(&'a self, moment: u32, rows: &'a [Range<usize>]) -> Windows<'a> {
        let (columns, source_of) = (self.columns, self.source_of);
        Windows { columns, source_of, rows, moment: self.moments[moment as usize], ts: self.opening(moment) }
    }

    /// When the bar opens that a result at this moment is.
    fn opening(&self, moment: u32) -> Timestamp {
        let moment = self.moments[moment as usize];
        moment.checked_add_micros(-self.interval.as_micros()).unwrap_or(Timestamp::MIN)
    }

    fn push(&mut self, moment: u32, value: f64) {
        self.results.push(moment, self.opening(moment), value);
    }
}
