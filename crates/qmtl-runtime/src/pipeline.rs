//! Delivers bars to a strategy's nodes in the order in which they close, as they come or many when history is replayed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{BatchStream, Error, ErrorKind, Interval, NodeId, Result, SeriesKey, Timestamp};
use qmtl_observe::{events, metrics};

use crate::graph::{Place, Source, check_columns};
use crate::shared::Claim;
use crate::{Activation, CacheView, ComputeNode, NodeCache, Strategy, StreamInput};
use align::Aligner;
use live::{MomentFn, Record};
use merge::{lock, next_chunk, rows_up_to, run_level, spread};
use node::{Chunk, Few, Node, Results, Round};

pub use align::Alignment;
pub(crate) use delivered::{Delivered, NodeRows};
pub use live::{Fed, GivenUp, LateBar, LateBars, LiveMoment, NodeResult};

mod align;
mod delivered;
mod live;
mod merge;
mod node;
mod saved;

/// How many moments are delivered before caches are trimmed: what a core's cache holds well, and
/// with threads enough to pay for starting them.
const CHUNK: usize = 16_384;
const THREADED_CHUNK: usize = 65_536;

/// What happens to the other nodes when one panics or returns an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPanic {
    /// The node stops, together with the nodes that read it; the others go on.
    #[default]
    Isolate,
    /// The pipeline stops: this call and all later ones fail with the node named.
    Stop,
}

/// How many nodes compute at once when history is replayed. Results are the same either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parallelism {
    /// One after the other.
    #[default]
    Serial,
    /// Nodes that do not read each other are spread over this many threads.
    Threads(usize),
}

impl Parallelism {
    fn threads(self) -> usize {
        match self {
            Self::Serial => 1,
            Self::Threads(threads) => threads.max(1),
        }
    }
}

/// What a replay delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Bars of inputs.
    pub bars: u64,
    /// Results of nodes.
    pub results: u64,
}

impl Replayed {
    pub(crate) fn add(&mut self, more: Self) {
        self.bars += more.bars;
        self.results += more.results;
    }
}

/// The nodes of a strategy at work.
///
/// A bar exists when it closes. All bars that close at one *moment* are delivered together, in the order of moments,
/// and then each node runs once that reads one of them, directly or through others. A bar that closes at or before
/// the newest moment that was delivered is late: it is only put into the cache, and seen from the next moment on.
///
/// Live, a moment [waits](Alignment) for the inputs that may have a bar which closes then, and for no other.
pub struct Pipeline {
    /// [`Strategy::describe`].
    graph: Vec<String>,
    inputs: Vec<StreamInput>,
    places: HashMap<Source, Place>,
    /// The inputs by series: whoever holds several caches at once locks them in this order.
    lock_order: Vec<usize>,
    /// The newest moment that was delivered.
    released: Timestamp,
    aligner: Aligner,
    /// What was delivered last.
    chunk: Chunk,
    given_up: Vec<GivenUp>,
    came_late: Vec<LateBar>,
    nodes: Vec<Node>,
    /// For every node what it has computed.
    results: Vec<Results>,
    /// The nodes of each level are neighbours.
    levels: Vec<Range<usize>>,
    late: LateBars,
    on_panic: OnPanic,
    parallelism: Parallelism,
    activation: Option<Activation>,
    on_moment: Option<Box<MomentFn>>,
    /// Whether nodes run and orders come though a window has bars missing.
    holes_allowed: bool,
    stopped: Option<Error>,
    /// What is still to be recorded.
    records: VecDeque<Record>,
    /// Whether the inputs' caches are this pipeline's.
    claim: Option<Claim>,
}

impl Pipeline {
    /// A pipeline to which nothing was delivered yet.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        let graph = strategy.describe();
        let Strategy { inputs, mut nodes, sources, levels, live: _ } = strategy;
        for (reader, sources) in sources.iter().enumerate() {
            for source in sources {
                if let Place::Node(node) = *source {
                    nodes[node].keeps = nodes[node].keeps.max(nodes[reader].window);
                }
            }
        }
        let of_nodes = nodes.iter().enumerate().map(|(n, node)| (Source::from(&node.id), Place::Node(n)));
        let of_inputs = inputs.iter().enumerate().map(|(i, input)| (Source::from(input), Place::Input(i)));
        let places = of_nodes.chain(of_inputs).collect();
        let mut lock_order: Vec<usize> = (0..inputs.len()).collect();
        lock_order.sort_by_key(|input| inputs[*input].key());
        let deepest = levels.last().map_or(0, |level| level + 1);
        let level = |level| levels.partition_point(|l| *l < level)..levels.partition_point(|l| *l <= level);
        Self {
            graph,
            places,
            lock_order,
            released: Timestamp::MIN,
            aligner: Aligner::new(inputs.iter().map(|input| input.key().interval).collect()),
            chunk: Chunk::default(),
            given_up: Vec::new(),
            came_late: Vec::new(),
            levels: (0..deepest).map(level).collect(),
            results: nodes.iter().map(|node| Results::new(node.outputs.len())).collect(),
            nodes: connect(nodes, &sources, &inputs),
            inputs,
            late: LateBars::default(),
            on_panic: OnPanic::default(),
            parallelism: Parallelism::default(),
            activation: None,
            on_moment: None,
            holes_allowed: false,
            stopped: None,
            records: VecDeque::new(),
            claim: None,
        }
    }

    /// Chooses what a panic stops.
    #[must_use]
    pub fn with_on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Chooses how many nodes compute at once when history is replayed.
    #[must_use]
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// States which orders the world allows; by default, none. A node's orders also need every input
    /// that it reads, directly or through others, to be ready and without a missing bar.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Passes every live moment, with the results of its nodes, to `on_moment` once it has been delivered; history
    /// has no live moments. The pipeline is between two moments then, so it can be saved. An error is returned by the
    /// call that delivered the moment.
    #[must_use]
    pub fn with_on_moment(
        mut self,
        on_moment: impl FnMut(&Self, &LiveMoment) -> Result<()> + Send + 'static,
    ) -> Self {
        self.on_moment = Some(Box::new(on_moment));
        self
    }

    /// Lets nodes run and emit orders even if a bar is missing in a window: the rows around it are then neighbours.
    /// By default, a node is silent at such a moment.
    #[must_use]
    pub fn with_holes_allowed(mut self, allowed: bool) -> Self {
        self.holes_allowed = allowed;
        self
    }

    /// Chooses how long live bars wait for those of other inputs.
    #[must_use]
    pub fn with_alignment(mut self, alignment: Alignment) -> Self {
        self.aligner.set_alignment(alignment);
        self
    }

    /// The inputs.
    #[must_use]
    pub fn inputs(&self) -> &[StreamInput] {
        &self.inputs
    }

    /// Live bars that were not delivered.
    #[must_use]
    pub fn late_bars(&self) -> LateBars {
        self.late
    }

    /// The newest results of a node, at least as many as it keeps once it had them, oldest first, each with the opening
    /// time of its bar: a result stands at the moment one [interval](Self::interval) later. Of several
    /// outputs it is the first. `NotFound` for an unknown node.
    pub fn results(&self, node: &NodeId) -> Result<(&[Timestamp], &[f64])> {
        let Results { ts, columns, .. } = &self.results[self.node(node)?];
        Ok((ts, &columns[0]))
    }

    /// The newest results of one of a node's outputs, as [`results`](Self::results) gives those of its first.
    /// `NotFound` for an unknown node or output.
    pub fn output(&self, node: &NodeId, output: &str) -> Result<(&[Timestamp], &[f64])> {
        let at = self.node(node)?;
        let outputs = &self.nodes[at].spec.outputs;
        let Some(column) = outputs.iter().position(|name| name == output) else {
            return Err(Error::new(ErrorKind::NotFound, "the compute node has no such output")
                .with("node_id", node)
                .with("output", output)
                .with("outputs", outputs.join(", ")));
        };
        let Results { ts, columns, .. } = &self.results[at];
        Ok((ts, &columns[column]))
    }

    /// The grid on which a node's results are bars: the longest one on which all bars of its inputs close. Of minutes
    /// and hours it is that of the minutes. `NotFound` for an unknown node.
    pub fn interval(&self, node: &NodeId) -> Result<Interval> {
        Ok(self.nodes[self.node(node)?].interval)
    }

    /// How often a warm node was silent because a bar was missing in a window. `NotFound` for an unknown node.
    pub fn silenced(&self, node: &NodeId) -> Result<u64> {
        Ok(self.results[self.node(node)?].silenced)
    }

    /// How many values of a node were NaN while its window held NaN. `NotFound` for an unknown node.
    pub fn not_numbers(&self, node: &NodeId) -> Result<u64> {
        Ok(self.results[self.node(node)?].not_numbers)
    }

    /// The newest moment that was delivered; `None` before the first.
    #[must_use]
    pub fn moment(&self) -> Option<Timestamp> {
        Some(self.released).filter(|moment| *moment > Timestamp::MIN)
    }

    /// The inputs for whose bars live moments have waited in vain, ordered by moment and then by input.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        &self.given_up
    }

    /// The bars that came late, in the order in which they came; nodes see them as far as their windows reach back.
    /// Together with [`given_up`](Self::given_up) they are everything in which live moments differ from a replay of
    /// the same bars.
    #[must_use]
    pub fn came_late(&self) -> &[LateBar] {
        &self.came_late
    }

    fn node(&self, id: &NodeId) -> Result<usize> {
        match self.places.get(&Source::from(id)) {
            Some(Place::Node(node)) => Ok(*node),
            _ => {
                Err(Error::new(ErrorKind::NotFound, "the strategy has no such compute node")
                    .with("node_id", id))
            }
        }
    }

    /// True when the node has had a result: everything that it reads was warm.
    #[must_use]
    pub fn is_warm(&self, node: &NodeId) -> bool {
        self.results(node).is_ok_and(|(ts, _)| !ts.is_empty())
    }

    /// Why nodes failed: one error, which names the node, for each that panicked, returned an error or cannot read
    /// its columns.
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.nodes.iter().filter_map(|node| node.failed.as_ref())
    }

    /// The nodes, each behind those that it reads.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &ComputeNode> {
        self.nodes.iter().map(|node| &node.spec)
    }

    /// Compares what nodes read with the columns of each input, where these are known. `NotFound` for one that it
    /// lacks, `Schema` for one that is not of doubles.
    pub(crate) fn check_columns(&self, columns: &[Option<SchemaRef>]) -> Result<()> {
        let known =
            self.inputs.iter().zip(columns).filter_map(|(input, columns)| Some((input, columns.as_ref()?)));
        known.into_iter().try_for_each(|(input, columns)| check_columns(self.nodes(), input, columns))
    }

    /// For every input the columns that nodes read.
    pub(crate) fn columns_read(&self) -> Vec<BTreeSet<String>> {
        let reads = |input: &StreamInput| {
            let source = Source::from(input);
            let reads = self.nodes().flat_map(|node| &node.reads);
            reads.filter(|(of, _)| *of == source).map(|(_, column)| column.clone()).collect()
        };
        self.inputs.iter().map(reads).collect()
    }

    /// Delivers every row of the caches that closes after the newest moment that was delivered.
    ///
    /// Fails with the node's error when one panics and [`OnPanic::Stop`] was chosen, and with `Conflict` while another
    /// pipeline delivers the bars of an input.
    pub fn replay(&mut self) -> Result<Replayed> {
        let replayed = self.deliver(&[], Timestamp::MAX, &mut |_| {})?;
        self.aligner.delivered(self.released);
        if self.moment().is_some() {
            // What closes by then and comes now is late.
            (0..self.inputs.len()).for_each(|input| self.aligner.settle(input, self.released));
        }
        Ok(replayed)
    }

    /// The same up to the last moment of which every input has said which bars it has; later rows wait as live bars
    /// do. `settled` has the close up to which that is so for each input.
    pub(crate) fn replay_settled(&mut self, settled: &[Timestamp]) -> Result<Replayed> {
        settled.iter().enumerate().for_each(|(input, close)| self.aligner.settle(input, *close));
        let until = self.aligner.settled().unwrap_or(Timestamp::MAX);
        let replayed = self.deliver(&[], until, &mut |_| {})?;
        for (at, input) in self.inputs.iter().enumerate() {
            let (interval, now) = (input.key().interval, input.clock().monotonic());
            let waiting = input.cache().read(|cache| {
                let seen = rows_up_to(cache, self.released);
                cache.view().timestamps()[seen..].to_vec()
            });
            for close in waiting.into_iter().filter_map(|ts| interval.next(ts)) {
                self.aligner.came(at, close, now);
            }
        }
        Ok(replayed)
    }

    /// Delivers the rows of streams, each of one input, in one pass: what is in memory at once is
    /// a batch of each, besides the caches. Inputs without a stream deliver what they have.
    ///
    /// Fails as [`replay`](Self::replay) does, or with a stream's or a cache's error.
    pub async fn replay_streams(&mut self, streams: Vec<(SeriesKey, BatchStream)>) -> Result<Replayed> {
        let mut open = self.opened(streams)?;
        let mut total = Replayed::default();
        while let Some(more) = self.replay_next(&mut open, &mut |_| {}).await? {
            total.add(more);
        }
        Ok(total)
    }

    /// The streams in the order of their inputs. `NotFound` for an unknown input.
    pub(crate) fn opened(&self, streams: Vec<(SeriesKey, BatchStream)>) -> Result<Vec<Option<BatchStream>>> {
        let mut open: Vec<Option<BatchStream>> = self.inputs.iter().map(|_| None).collect();
        for (input, stream) in streams {
            open[self.input(&input)?] = Some(stream);
        }
        Ok(open)
    }

    /// Delivers what the next batches bring of streams that are open; `None` once none is. Fails as
    /// [`replay_streams`](Self::replay_streams) does.
    pub(crate) async fn replay_next(
        &mut self,
        open: &mut [Option<BatchStream>],
        hear: &mut (dyn FnMut(&Delivered<'_>) + Send),
    ) -> Result<Option<Replayed>> {
        if open.iter().all(Option::is_none) && (0..self.inputs.len()).all(|input| self.pending(input) == 0) {
            return Ok(None);
        }
        while self.refill(open).await? {}
        let is_open: Vec<bool> = open.iter().map(Option::is_some).collect();
        self.deliver(&is_open, Timestamp::MAX, hear).map(Some)
    }

    /// Takes a batch of each open stream whose input has nothing to deliver; false when none needs one.
    async fn refill(&mut self, open: &mut [Option<BatchStream>]) -> Result<bool> {
        let mut came = Vec::new();
        for (at, stream) in open.iter_mut().enumerate() {
            let Some(source) = stream else { continue };
            if self.pending(at) > 0 {
                continue;
            }
            match source.next_batch().await {
                Some(batch) => came.push((self.inputs[at].cache(), batch?, Ok(()))),
                None => *stream = None,
            }
        }
        spread(self.parallelism.threads(), came.iter_mut(), |(cache, batch, outcome)| {
            *outcome = cache.write(|cache| cache.merge(batch, usize::MAX)).map(drop);
        });
        let is_fuller = !came.is_empty();
        came.into_iter().try_for_each(|(_, _, outcome)| outcome).map(|()| is_fuller)
    }

    /// How many rows of an input wait to be delivered.
    fn pending(&self, input: usize) -> usize {
        let released = self.released;
        self.inputs[input].cache().read(|cache| cache.len() - rows_up_to(cache, released))
    }

    /// Delivers what closes up to `until`, or until an input whose stream is open has no row left. `hear` is told of
    /// each chunk while its results are there.
    fn deliver(
        &mut self,
        open: &[bool],
        until: Timestamp,
        hear: &mut (dyn FnMut(&Delivered<'_>) + Send),
    ) -> Result<Replayed> {
        let mut total = Replayed::default();
        self.claim()?;
        loop {
            self.check_running()?;
            let Some(newest) = self.deliver_chunk(open, until, hear, &mut total) else { return Ok(total) };
            self.note_failures();
            if newest == until {
                return self.check_running().map(|()| total);
            }
        }
    }

    /// Delivers a chunk of it; its newest moment, `None` when nothing is left.
    fn deliver_chunk(
        &mut self,
        open: &[bool],
        until: Timestamp,
        hear: &mut (dyn FnMut(&Delivered<'_>) + Send),
        total: &mut Replayed,
    ) -> Option<Timestamp> {
        let shows_stale = self.aligner.waits() && !self.holes_allowed;
        let Self { inputs, nodes, results, levels, released, parallelism, holes_allowed, chunk, .. } = self;
        let mut caches = lock(inputs, &self.lock_order);
        let size = if *parallelism == Parallelism::Serial { CHUNK } else { THREADED_CHUNK };
        next_chunk(&caches, (*released, until), open, (size, shows_stale), chunk);
        let newest = *chunk.moments.last()?;
        {
            let views: Few<CacheView<'_>> = caches.iter().map(|cache| cache.view()).collect();
            for level in levels.iter() {
                let (done, rest) = results.split_at_mut(level.start);
                let round = Round { chunk, inputs: &views, done, holes_allowed: *holes_allowed };
                run_level(&mut nodes[level.clone()], &mut rest[..level.len()], &round, *parallelism);
            }
            hear(&Delivered { chunk, inputs: &views, nodes, results, holes_allowed: *holes_allowed });
        }
        total.bars += chunk.rows() as u64;
        for (node, results) in nodes.iter().zip(results) {
            total.results += results.fired.len() as u64;
            results.trim(node.spec.keeps);
        }
        *released = newest;
        // A guard stays in its thread, what it guards need not.
        let unlocked = caches.iter_mut().map(|cache| &mut **cache).zip(&chunk.next);
        let trim = |(cache, delivered): (&mut NodeCache, &usize)| {
            cache.trim(cache.period().saturating_add(cache.len() - delivered))
        };
        if chunk.is_small() {
            unlocked.for_each(trim);
        } else {
            let unlocked: Vec<_> = unlocked.collect();
            spread(parallelism.threads(), unlocked.into_iter(), trim);
        }
        Some(newest)
    }

    /// Sees to it that no other pipeline delivers the rows of these caches: each would take bars from the other.
    fn claim(&mut self) -> Result<()> {
        if self.claim.is_none() {
            self.claim = Some(Claim::of(&self.inputs)?);
        }
        Ok(())
    }

    /// Tells of nodes that have failed, each once.
    fn note_failures(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_told) {
            if let Some(error) = &node.failed {
                node.is_told = true;
                events::node_failed(&node.spec.id, error);
                metrics::node_failed(&node.spec.id);
                if self.on_panic == OnPanic::Stop && self.stopped.is_none() {
                    self.stopped = Some(error.clone());
                }
            }
        }
    }

    fn check_running(&self) -> Result<()> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    fn input(&self, key: &SeriesKey) -> Result<usize> {
        // Most strategies have a handful, and a comparison costs less than a hash.
        if let Some(input) = self.inputs.iter().take(4).position(|input| input.key() == key) {
            return Ok(input);
        }
        match self.places.get(&Source::from(key)) {
            Some(Place::Input(input)) => Ok(*input),
            _ => Err(Error::new(ErrorKind::NotFound, "the strategy has no such input").with("series", key)),
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("inputs", &self.inputs)
            .field("nodes", &self.nodes.iter().map(|node| &node.spec).collect::<Vec<_>>())
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}

/// The longest grid on which all bars of these inputs close.
fn common_grid(mut intervals: impl Iterator<Item = Interval>) -> Option<Interval> {
    let first = intervals.next()?;
    let origin = first.origin();
    let secs = intervals.fold(first.as_secs(), |common, interval| {
        let apart = interval.origin().as_secs() - origin.as_secs();
        gcd(gcd(common, interval.as_secs()), apart.abs())
    });
    Interval::from_secs(secs).ok()?.through(origin)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The nodes with what they read, in the order of their levels.
fn connect(specs: Vec<ComputeNode>, sources: &[Vec<Place>], inputs: &[StreamInput]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::with_capacity(specs.len());
    for (spec, reads) in specs.into_iter().zip(sources) {
        let mut node = Node::new(spec, reads, &nodes);
        for read in reads {
            match *read {
                Place::Input(input) => node.inputs.push(input),
                Place::Node(other) => node.inputs.extend_from_slice(&nodes[other].inputs),
            }
        }
        node.inputs.sort_unstable();
        node.inputs.dedup();
        let intervals = node.inputs.iter().map(|input| inputs[*input].key().interval);
        // A node reads something, and what two grids have in common is a grid of whole seconds.
        node.interval = common_grid(intervals).unwrap_or(node.interval);
        nodes.push(node);
    }
    nodes
}

#[cfg(test)]
mod tests;
