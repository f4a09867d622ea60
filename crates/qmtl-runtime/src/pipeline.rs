//! Delivers bars to a strategy's nodes in the order in which they close, as they come or many when history is replayed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{
    BatchStream, Error, ErrorKind, Interval, NodeId, Result, SeriesKey, StreamKind, Timestamp, frame,
};

use crate::graph::{Place, Source, VALUE};
use crate::{
    Activation, Appended, CacheView, ComputeNode, EventRecorderService, NodeCache, Strategy, StreamInput,
};
use align::{Aligner, Ripe};
use node::{Chunk, Node, Results, Round};

pub use align::Alignment;

mod align;
mod node;

/// How many moments are delivered before caches are trimmed: what a core's cache holds well, and
/// with threads enough to pay for starting them.
const CHUNK: usize = 16_384;
const THREADED_CHUNK: usize = 65_536;

/// What happens to the other nodes when one panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPanic {
    /// The node and those that read it stand still; the others go on.
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

/// What a live bar did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fed {
    /// What became of it in the cache.
    pub appended: Appended,
    /// How many bars were delivered because of it: none while its moment waits for another input.
    pub bars: u64,
    /// How many results came of them.
    pub results: u64,
}

/// A live moment, and what nodes made of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LiveMoment {
    /// When its bars close.
    pub at: Timestamp,
    /// A result of each node that ran: its id, the opening of its bar, and the value.
    pub results: Vec<(NodeId, Timestamp, f64)>,
}

type MomentFn = dyn FnMut(&LiveMoment) + Send;

/// An input for whose bars a moment has waited in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// The moment.
    pub moment: Timestamp,
    /// The input.
    pub input: SeriesKey,
    /// The close up to which it had said which bars it has.
    pub told_up_to: Timestamp,
}

/// A live bar that closes at or before a moment which had been delivered when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateBar {
    /// Whose bar it is.
    pub input: SeriesKey,
    /// When it opens.
    pub ts: Timestamp,
    /// The newest moment that had been delivered by then; at later ones nodes see it.
    pub after: Timestamp,
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

/// Live bars that were not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateBars {
    /// They close at or before the newest moment that was delivered.
    pub late: u64,
    /// A second bar of one time.
    pub duplicate: u64,
}

/// The nodes of a strategy at work.
///
/// A bar exists when it closes. All bars that close at one *moment* are delivered together, in the order of moments,
/// and then each node runs once that reads one of them, directly or through others. A bar that comes to close at or
/// before the newest moment that was delivered is late: it only lies in the cache, and is seen from the next moment
/// on.
///
/// Live, a moment [waits](Alignment) for the inputs that may have a bar which closes then, and for no other.
pub struct Pipeline {
    inputs: Vec<StreamInput>,
    places: HashMap<Source, Place>,
    /// The inputs by series: whoever holds several caches at once locks them in this order.
    lock_order: Vec<usize>,
    /// The newest moment that was delivered.
    released: Timestamp,
    aligner: Aligner,
    given_up: Vec<GivenUp>,
    came_late: Vec<LateBar>,
    nodes: Vec<Node>,
    /// For every node what it has computed.
    results: Vec<Results>,
    /// The nodes of each level are neighbours.
    levels: Vec<std::ops::Range<usize>>,
    late: LateBars,
    on_panic: OnPanic,
    parallelism: Parallelism,
    activation: Option<Activation>,
    on_moment: Option<Box<MomentFn>>,
    /// Whether nodes run and orders come though a window has bars missing.
    holes_allowed: bool,
    stopped: Option<Error>,
}

impl Pipeline {
    /// A pipeline to which nothing was delivered yet.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
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
            places,
            lock_order,
            released: Timestamp::MIN,
            aligner: Aligner::new(inputs.iter().map(|input| input.key().interval).collect()),
            given_up: Vec::new(),
            came_late: Vec::new(),
            levels: (0..deepest).map(level).collect(),
            results: nodes.iter().map(|_| Results::default()).collect(),
            nodes: connect(nodes, &sources, &inputs),
            inputs,
            late: LateBars::default(),
            on_panic: OnPanic::default(),
            parallelism: Parallelism::default(),
            activation: None,
            on_moment: None,
            holes_allowed: false,
            stopped: None,
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

    /// Says which orders the world allows; without, none. A node's orders also need every input
    /// that it reads, directly or through others, to be ready and without a missing bar.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Hands over every live moment and what nodes made of it, once it has been delivered. History has none.
    #[must_use]
    pub fn with_on_moment(mut self, on_moment: impl FnMut(&LiveMoment) + Send + 'static) -> Self {
        self.on_moment = Some(Box::new(on_moment));
        self
    }

    /// Lets nodes run, and orders come, though a bar is missing in a window: the rows around it are neighbours then.
    /// Without, a node is silent at such a moment.
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

    /// The newest results of a node, at least as many as it keeps once it had them, oldest first, with the opening of
    /// the bar that each one is: a result stands at the moment one [interval](Self::interval) later.
    /// `NotFound` for an unknown node.
    pub fn results(&self, node: &NodeId) -> Result<(&[Timestamp], &[f64])> {
        let Results { ts, values, .. } = &self.results[self.node(node)?];
        Ok((ts, values))
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

    /// The newest moment that was delivered; `None` before the first.
    #[must_use]
    pub fn moment(&self) -> Option<Timestamp> {
        Some(self.released).filter(|moment| *moment > Timestamp::MIN)
    }

    /// For whose bars live moments have waited in vain, in the order of moments and then of inputs.
    #[must_use]
    pub fn given_up(&self) -> &[GivenUp] {
        &self.given_up
    }

    /// The bars that came late, in the order in which they came: nodes see them as far as their windows reach back. With
    /// [`given_up`](Self::given_up) they say all that live moments have seen otherwise than a replay of the same bars.
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

    /// Why nodes stand still: one error for each that panicked or cannot read its columns.
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.nodes.iter().filter_map(|node| node.failed.as_ref())
    }

    /// Takes a live bar that came before history was replayed: into its cache, where it wins, and
    /// to its recorder. The next [`replay`](Self::replay) delivers it. Fails as [`feed`](Self::feed) does.
    pub async fn merge_live(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
    ) -> Result<Appended> {
        let stream = &self.inputs[self.input(input)?];
        let appended = stream.cache().write(|cache| cache.append(ts, payload))?;
        if appended == Appended::Duplicate {
            self.late.duplicate += 1;
        }
        if let Some(recorder) = recorder_for(stream, appended) {
            recorder.record(stream.key(), ts, without_ts(payload)?).await?;
        }
        Ok(appended)
    }

    /// Takes a live bar of an input: into its cache and its recorder, and once nothing is waited for any more that
    /// closes with it, to the nodes and theirs.
    ///
    /// `NotFound` for an unknown input, `Schema` for a row that contradicts the cache, the node's
    /// error when one panicked and [`OnPanic::Stop`] was chosen, else what a recorder answers.
    pub async fn feed(&mut self, input: &SeriesKey, ts: Timestamp, payload: &RecordBatch) -> Result<Fed> {
        let mut records = Vec::new();
        let appended = self.take(input, ts, payload, &mut records)?;
        let Replayed { bars, results } = self.deliver_live(false, records).await?;
        Ok(Fed { appended, bars, results })
    }

    /// Takes in that an input has no bar that is not there by now and closes at `close` or before: its source has
    /// said so. Fails as [`feed`](Self::feed) does.
    pub async fn settle(&mut self, input: &SeriesKey, close: Timestamp) -> Result<Replayed> {
        let at = self.input(input)?;
        self.aligner.settle(at, close);
        self.deliver_live(false, Vec::new()).await
    }

    /// Delivers the moments that have waited long enough; [`due`](Self::due) says when there are any. Fails as
    /// [`feed`](Self::feed) does.
    pub async fn give_up(&mut self) -> Result<Replayed> {
        self.deliver_live(false, Vec::new()).await
    }

    /// Delivers all moments that wait: no further bar will come. Fails as [`feed`](Self::feed) does.
    pub async fn finish(&mut self) -> Result<Replayed> {
        self.deliver_live(true, Vec::new()).await
    }

    /// Delivers the moments that are ripe, and has recorded what came of them, behind what is to be recorded already.
    async fn deliver_live(&mut self, at_end: bool, mut records: Vec<Record>) -> Result<Replayed> {
        let released = self.release(at_end, &mut records)?;
        for (recorder, key, ts, payload) in records {
            recorder.record(&key, ts, payload).await?;
        }
        Ok(released)
    }

    /// When the oldest moment that waits has waited long enough, on the monotonic clock of the inputs; `None` when
    /// none waits.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.aligner.due()
    }

    /// Puts a live bar into its cache, and notes when it closes.
    fn take(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
        records: &mut Vec<Record>,
    ) -> Result<Appended> {
        self.check_running()?;
        let at = self.input(input)?;
        let (stream, released) = (&self.inputs[at], self.released);
        let close = stream.key().interval.next(ts).unwrap_or(Timestamp::MAX);
        let appended = stream.cache().write(|cache| {
            // Those that wait take no room from those that nodes see.
            let waiting = cache.len() - rows_up_to(cache, released) + usize::from(close > released);
            cache.append_within(ts, payload, cache.period() + waiting)
        })?;
        match appended {
            Appended::Duplicate => self.late.duplicate += 1,
            Appended::New | Appended::Late | Appended::TooOld if close <= released => {
                self.late.late += 1;
                let (input, ts) = (stream.key().clone(), stream.key().interval.floor(ts).unwrap_or(ts));
                self.came_late.push(LateBar { input, ts, after: released });
            }
            Appended::Replaced if close <= released => self.late.late += 1,
            _ => self.aligner.came(at, close, stream.clock().monotonic()),
        }
        if let Some(recorder) = recorder_for(stream, appended) {
            records.push((Arc::clone(recorder), stream.key().clone(), ts, without_ts(payload)?));
        }
        Ok(appended)
    }

    /// Delivers the moments that are ripe, with what is to be recorded of them and the orders that come of them.
    fn release(&mut self, at_end: bool, records: &mut Vec<Record>) -> Result<Replayed> {
        let mut total = Replayed::default();
        let Some(now) = self.inputs.first().map(|input| input.clock().monotonic()) else { return Ok(total) };
        let open = vec![false; self.inputs.len()];
        while let Some(Ripe { at, given_up }) = self.aligner.ripe(now, at_end) {
            for (input, told_up_to) in given_up {
                // A bar of its that closes by then and comes now is late.
                self.aligner.settle(input, at);
                let input = self.inputs[input].key().clone();
                self.given_up.push(GivenUp { moment: at, input, told_up_to });
            }
            let mut signals = Vec::new();
            total.add(self.deliver(&open, at, Some(&mut signals))?);
            self.aligner.delivered(at);
            self.signal(at, &signals, records)?;
            if let Some(on_moment) = &mut self.on_moment {
                let nodes = &self.nodes;
                let result = |signal: &Signal| (nodes[signal.node].spec.id.clone(), signal.ts, signal.value);
                on_moment(&LiveMoment { at, results: signals.iter().map(result).collect() });
            }
            self.stop_on_failure();
        }
        Ok(total)
    }

    /// Has results recorded, and hands those of the moment to the nodes' orders.
    fn signal(&mut self, moment: Timestamp, signals: &[Signal], records: &mut Vec<Record>) -> Result<()> {
        if signals.is_empty() {
            return Ok(());
        }
        let clean: Vec<_> = self.inputs.iter().map(|input| self.is_clean(input)).collect();
        for Signal { node, ts, value } in signals {
            let node = &mut self.nodes[*node];
            if let Some(recorder) = &node.spec.recorder {
                let key = SeriesKey { node_id: node.spec.id.clone(), interval: node.interval };
                records.push((Arc::clone(recorder), key, *ts, one(*value)?));
            }
            // What closed before was not known in time to act on it.
            let is_newest = node.interval.next(*ts) == Some(moment);
            if is_newest && node.inputs.iter().all(|input| clean[*input]) {
                node.order(*ts, *value, self.activation.as_ref());
            }
        }
        Ok(())
    }

    /// Whether orders may come of an input's bars.
    fn is_clean(&self, input: &StreamInput) -> bool {
        self.activation.is_some()
            && input
                .cache()
                .read(|cache| cache.is_ready() && (self.holes_allowed || !cache.has_missing_bars()))
    }

    /// Delivers every row of the caches that closes after the newest moment that was delivered.
    ///
    /// Fails with the node's error when one panics and [`OnPanic::Stop`] was chosen.
    pub fn replay(&mut self) -> Result<Replayed> {
        let replayed = self.deliver(&vec![false; self.inputs.len()], Timestamp::MAX, None)?;
        self.aligner.delivered(self.released);
        Ok(replayed)
    }

    /// The same up to the last moment of which every input has said which bars it has; later rows wait as live bars
    /// do. `settled` has the close up to which that is so for each input.
    pub(crate) fn replay_settled(&mut self, settled: &[Timestamp]) -> Result<Replayed> {
        settled.iter().enumerate().for_each(|(input, close)| self.aligner.settle(input, *close));
        let until = self.aligner.settled().unwrap_or(Timestamp::MAX);
        let replayed = self.deliver(&vec![false; self.inputs.len()], until, None)?;
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
        let mut open: Vec<Option<BatchStream>> = self.inputs.iter().map(|_| None).collect();
        for (input, stream) in streams {
            open[self.input(&input)?] = Some(stream);
        }
        let mut total = Replayed::default();
        loop {
            while self.refill(&mut open).await? {}
            let is_open: Vec<bool> = open.iter().map(Option::is_some).collect();
            total.add(self.deliver(&is_open, Timestamp::MAX, None)?);
            if !is_open.contains(&true) {
                return Ok(total);
            }
        }
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

    /// Delivers what closes up to `until`, or until an input whose stream is open has no row left. Results that nobody
    /// would hear of otherwise go to `signals`.
    fn deliver(
        &mut self,
        open: &[bool],
        until: Timestamp,
        mut signals: Option<&mut Vec<Signal>>,
    ) -> Result<Replayed> {
        let mut total = Replayed::default();
        loop {
            self.check_running()?;
            let Self { inputs, nodes, results, levels, released, parallelism, holes_allowed, .. } = self;
            let mut caches = lock(inputs, &self.lock_order);
            let size = if *parallelism == Parallelism::Serial { CHUNK } else { THREADED_CHUNK };
            let chunk = next_chunk(&caches, (*released, until), open, size);
            let Some(newest) = chunk.moments.last().copied() else { return Ok(total) };
            let views: Vec<CacheView<'_>> = caches.iter().map(|cache| cache.view()).collect();
            for level in levels.iter() {
                let (done, rest) = results.split_at_mut(level.start);
                let round = Round { chunk: &chunk, inputs: &views, done, holes_allowed: *holes_allowed };
                run_level(&mut nodes[level.clone()], &mut rest[..level.len()], &round, *parallelism);
            }
            total.bars += chunk.rows() as u64;
            total.results += results.iter().map(|results| results.fired.len() as u64).sum::<u64>();
            for (at, (node, results)) in nodes.iter().zip(results).enumerate() {
                if let Some(signals) = &mut signals {
                    signals.extend(results.of_chunk().map(|(ts, value)| Signal { node: at, ts, value }));
                }
                results.trim(node.spec.keeps);
            }
            *released = newest;
            let threads = if chunk.is_small() { 1 } else { parallelism.threads() };
            // A guard stays in its thread, what it guards need not.
            let unlocked: Vec<&mut NodeCache> = caches.iter_mut().map(|cache| &mut **cache).collect();
            spread(threads, unlocked.into_iter(), |cache| {
                let waiting = cache.len() - rows_up_to(cache, newest);
                cache.trim(cache.period() + waiting);
            });
            drop(caches);
            self.stop_on_failure();
        }
    }

    fn stop_on_failure(&mut self) {
        if self.on_panic == OnPanic::Stop {
            let failure = self.failures().next().cloned();
            self.stopped = failure;
        }
    }

    fn check_running(&self) -> Result<()> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    fn input(&self, key: &SeriesKey) -> Result<usize> {
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

type Record = (Arc<EventRecorderService>, SeriesKey, Timestamp, RecordBatch);

/// A result of a live moment.
#[derive(Clone, Copy, Debug)]
struct Signal {
    node: usize,
    ts: Timestamp,
    value: f64,
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
        let mut node = Node::new(spec, reads);
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

/// All caches, in the order of the inputs.
fn lock<'a>(inputs: &'a [StreamInput], order: &[usize]) -> Vec<MutexGuard<'a, NodeCache>> {
    let mut guards: Vec<_> = order.iter().map(|input| (*input, inputs[*input].cache().lock())).collect();
    guards.sort_unstable_by_key(|(input, _)| *input);
    guards.into_iter().map(|(_, guard)| guard).collect()
}

/// How many rows close at `moment` or before.
fn rows_up_to(cache: &NodeCache, moment: Timestamp) -> usize {
    let newest = moment.checked_add_micros(-cache.key().interval.as_micros());
    newest.map_or(0, |newest| cache.view().timestamps().partition_point(|ts| *ts <= newest))
}

/// Merges what closes after `released` and up to `until`, moment by moment, into at most about `size` moments.
fn next_chunk(
    caches: &[MutexGuard<'_, NodeCache>],
    (released, until): (Timestamp, Timestamp),
    open: &[bool],
    size: usize,
) -> Chunk {
    let rows: Vec<&[Timestamp]> = caches.iter().map(|cache| cache.view().timestamps()).collect();
    let before: Vec<usize> = caches.iter().map(|cache| rows_up_to(cache, released)).collect();
    let close = |input: usize, row: usize| {
        // Nothing is later than the end of time, where an input has no row left.
        let length = caches[input].key().interval.as_micros();
        rows[input].get(row).and_then(|ts| ts.checked_add_micros(length)).unwrap_or(Timestamp::MAX)
    };
    let mut next = before.clone();
    let mut heads: Vec<Timestamp> = next.iter().enumerate().map(|(input, row)| close(input, *row)).collect();
    let starved = |input: usize, at: usize| open[input] && at == rows[input].len();
    let mut is_starved = (0..rows.len()).any(|input| starved(input, next[input]));
    let (mut emits, mut moments) = (vec![Vec::new(); caches.len()], Vec::new());
    while moments.len() < size && !is_starved {
        let Some(moment) = heads.iter().copied().min().filter(|at| *at < Timestamp::MAX && *at <= until)
        else {
            break;
        };
        let number = u32::try_from(moments.len()).expect("a chunk has few moments");
        for (input, head) in heads.iter_mut().enumerate() {
            if *head == moment {
                emits[input].push(number);
                next[input] += 1;
                is_starved |= starved(input, next[input]);
                *head = close(input, next[input]);
            }
        }
        moments.push(moment);
    }
    let runs = caches.iter().zip(&next).map(|(cache, rows)| cache.runs(*rows)).collect();
    Chunk { moments, emits, before, runs }
}

/// Runs the nodes of one level, none of which reads another.
fn run_level(nodes: &mut [Node], results: &mut [Results], round: &Round<'_>, parallelism: Parallelism) {
    let threads = if round.chunk.is_small() { 1 } else { parallelism.threads() };
    spread(threads, nodes.iter_mut().zip(results), |(node, own)| node.run(own, round));
}

/// Works on every item, on up to so many threads, of which this one is one. Each takes the next
/// item when it is done with one, so that a slow item or a busy core holds up nobody else.
fn spread<T: Send>(threads: usize, items: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let others = threads.min(items.len()).saturating_sub(1);
    if others == 0 {
        return items.for_each(work);
    }
    let queue = Mutex::new(items);
    let run = || {
        loop {
            // A panic elsewhere leaves the queue as it was.
            let item = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            match item {
                Some(item) => work(item),
                None => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(run);
        }
        run();
    });
}

/// Who records a live row: a bar once, a plain event always, since several may come in one bar.
fn recorder_for(stream: &StreamInput, appended: Appended) -> Option<&Arc<EventRecorderService>> {
    let is_new = appended != Appended::Duplicate || stream.binding().kind == StreamKind::Events;
    stream.event_service().filter(|_| is_new)
}

/// A result as an event's payload.
fn one(value: f64) -> Result<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new(VALUE, DataType::Float64, true)]));
    RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![value])) as ArrayRef])
        .map_err(|e| Error::unexpected("cannot make a payload of a result").caused_by(e))
}

fn without_ts(payload: &RecordBatch) -> Result<RecordBatch> {
    let fields = payload.schema_ref().fields().iter().enumerate();
    let columns: Vec<usize> =
        fields.filter(|(_, field)| field.name() != frame::TS).map(|(at, _)| at).collect();
    payload.project(&columns).map_err(|e| Error::unexpected("cannot leave out a payload's time").caused_by(e))
}

#[cfg(test)]
mod tests;
