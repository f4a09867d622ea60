//! One compute node at work: it walks the events of a chunk and appends a result at each.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use qmtl_history_api::{Error, Result, TimeRange, Timestamp};

use crate::graph::{Compute, ComputeNode, Place, Windows};
use crate::{Activation, CacheView, NodeCache, Order, Side};

/// The order in which the rows of all inputs are delivered.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// When each event happens, ascending.
    pub(super) ts: Vec<Timestamp>,
    /// For every input the numbers of its events.
    pub(super) emits: Vec<Vec<u32>>,
    /// For every input how many of its cached rows were delivered before.
    pub(super) before: Vec<usize>,
}

impl Chunk {
    /// A handful of events costs less than a thread.
    pub(super) fn is_small(&self) -> bool {
        self.ts.len() < 1_024
    }
}

/// What the nodes of one level read: the inputs, and the results of the levels before.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) chunk: &'a Chunk,
    pub(super) inputs: &'a [CacheView<'a>],
    pub(super) done: &'a [Results],
}

/// Where a source stands in a chunk.
struct Feed<'a> {
    /// The events at which the source has one more row.
    emits: &'a [u32],
    /// How many of its rows were there before.
    before: usize,
    /// The cache, when bars of it are proven not to exist.
    proven: Option<&'a NodeCache>,
}

pub(super) struct Node {
    pub(super) spec: ComputeNode,
    /// The distinct sources.
    sources: Vec<Place>,
    /// For every read the place of its source among `sources`.
    source_of: Vec<usize>,
    /// The inputs that it reads, directly or through other nodes.
    pub(super) inputs: Vec<usize>,
    pub(super) failed: Option<Error>,
}

/// What a node has computed. It stands apart from the node, so that other threads may read it, and
/// in cache lines of its own: neighbours are written by several threads at once, at every row.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Results {
    pub(super) ts: Vec<Timestamp>,
    pub(super) values: Vec<f64>,
    /// The events of the chunk at which the node had a result.
    pub(super) fired: Vec<u32>,
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

    fn push(&mut self, event: u32, ts: Timestamp, value: f64) {
        self.ts.push(ts);
        self.values.push(value);
        self.fired.push(event);
    }

    /// Ends the chunk, and forgets all but the newest `keeps` results once that pays.
    pub(super) fn trim(&mut self, keeps: usize) {
        self.fired.clear();
        let excess = self.values.len().saturating_sub(keeps);
        if excess >= keeps.max(self.values.len() / 2) {
            self.values.drain(..excess);
            self.ts.drain(..excess);
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
        Self { spec, sources, source_of, inputs: Vec::new(), failed: None }
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
        let Round { chunk, inputs, done } = *round;
        let feeds: Vec<Feed<'_>> = self
            .sources
            .iter()
            .map(|source| match *source {
                Place::Input(input) => Feed {
                    emits: &chunk.emits[input],
                    before: chunk.before[input],
                    proven: Some(inputs[input].cache()).filter(|cache| cache.has_proofs()),
                },
                Place::Node(node) => {
                    Feed { emits: &done[node].fired, before: done[node].before(), proven: None }
                }
            })
            .collect();
        if feeds.iter().all(|feed| feed.emits.is_empty()) {
            return Ok(());
        }
        let columns = self.columns(inputs, done)?;
        let columns: Vec<&[f64]> = columns.iter().map(AsRef::as_ref).collect();
        let mut walk = Walk {
            columns: &columns,
            source_of: &self.source_of,
            window: self.spec.window,
            ts: &chunk.ts,
            results: own,
        };
        match (&mut self.spec.compute, feeds.as_slice()) {
            (Compute::Slices(compute), [feed]) => walk.by_row(feed, |windows| compute(windows)),
            (Compute::Slices(compute), _) => walk.by_event(&feeds, |windows| compute(windows)),
            (Compute::Batch(compute), [feed]) if feed.proven.is_none() => walk.at_once(feed, compute),
            (Compute::Batch(compute), _) => walk.by_event(&feeds, |windows| {
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
    ts: &'a [Timestamp],
    results: &'a mut Results,
}

impl Walk<'_> {
    /// One call for every event at which the node is warm.
    fn by_event(&mut self, feeds: &[Feed<'_>], mut compute: impl FnMut(&Windows<'_>) -> f64) {
        let mut next = vec![0; feeds.len()];
        let mut rows: Vec<Range<usize>> = feeds.iter().map(|feed| self.window_at(feed.before)).collect();
        while let Some(event) = feeds.iter().zip(&next).filter_map(|(feed, at)| feed.emits.get(*at)).min() {
            for ((feed, at), rows) in feeds.iter().zip(&mut next).zip(&mut rows) {
                if feed.emits.get(*at) == Some(event) {
                    *at += 1;
                    *rows = self.window_at(feed.before + *at);
                }
            }
            let warm = |(feed, rows): (&Feed<'_>, &Range<usize>)| {
                rows.len() == self.window || feed.is_whole(rows, self.window)
            };
            if feeds.iter().zip(&rows).all(warm) {
                let ts = self.ts[*event as usize];
                let value =
                    compute(&Windows { columns: self.columns, source_of: self.source_of, rows: &rows, ts });
                self.push(*event, value);
            }
        }
    }

    /// One call for every row of the only source at which the node is warm.
    fn by_row(&mut self, feed: &Feed<'_>, mut compute: impl FnMut(&Windows<'_>) -> f64) {
        self.results.reserve(feed.emits.len());
        for (nth, event) in feed.emits.iter().enumerate() {
            let rows = self.window_at(feed.before + nth + 1);
            if rows.len() == self.window || feed.is_whole(&rows, self.window) {
                let ts = self.ts[*event as usize];
                let rows = std::slice::from_ref(&rows);
                let value = compute(&Windows { columns: self.columns, source_of: self.source_of, rows, ts });
                self.results.push(*event, ts, value);
            }
        }
    }

    /// One call for all events of the only source at which the node is warm.
    fn at_once(&mut self, feed: &Feed<'_>, compute: &mut dyn FnMut(&Windows<'_>, &mut [f64])) {
        let cold = (self.window - 1).saturating_sub(feed.before);
        let Some(warm) = feed.emits.get(cold..).filter(|warm| !warm.is_empty()) else { return };
        let rows = feed.before + cold + 1 - self.window..feed.before + feed.emits.len();
        let mut values = vec![f64::NAN; warm.len()];
        let ts = self.ts[warm[warm.len() - 1] as usize];
        compute(
            &Windows {
                columns: self.columns,
                source_of: self.source_of,
                rows: std::slice::from_ref(&rows),
                ts,
            },
            &mut values,
        );
        for (event, value) in warm.iter().zip(values) {
            self.push(*event, value);
        }
    }

    fn window_at(&self, rows: usize) -> Range<usize> {
        rows.saturating_sub(self.window)..rows
    }

    fn push(&mut self, event: u32, value: f64) {
        self.results.push(event, self.ts[event as usize], value);
    }
}

impl Feed<'_> {
    /// True when the rows, fewer than the window, and the bars proven not to exist fill it.
    fn is_whole(&self, rows: &Range<usize>, window: usize) -> bool {
        self.proven.is_some_and(|cache| {
            let view = cache.view();
            let Some(newest) = rows.end.checked_sub(1).map(|row| view.timestamps()[row]) else {
                return false;
            };
            let interval = cache.key().interval;
            let steps = i64::try_from(window - 1).unwrap_or(i64::MAX);
            let oldest = steps
                .checked_mul(-interval.as_micros())
                .and_then(|micros| newest.checked_add_micros(micros))
                .unwrap_or(Timestamp::MIN);
            let proofs = TimeRange::checked(oldest, newest).map_or(0, |span| cache.proofs_within(span));
            rows.len() as u64 + proofs >= window as u64
        })
    }
}
