//! Delivers bars to a strategy's nodes, one by one as they come or many when history is replayed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{
    BatchStream, Error, ErrorKind, NodeId, Result, SeriesKey, StreamKind, Timestamp, frame,
};

use crate::graph::{Place, Source, VALUE};
use crate::{
    Activation, Appended, CacheView, ComputeNode, EventRecorderService, NodeCache, Strategy, StreamInput,
};
use node::{Chunk, Node, Results, Round};

mod node;

/// How many events are delivered before caches are trimmed: what a core's cache holds well, and
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
    /// What became of it in the cache. Only a [`Appended::New`] bar is delivered to nodes.
    pub appended: Appended,
    /// How many results it led to.
    pub results: u64,
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

/// Live bars that were not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateBars {
    /// At or below the newest bar that was delivered.
    pub late: u64,
    /// A second bar of one time.
    pub duplicate: u64,
}

/// The nodes of a strategy at work.
///
/// A row of an input is delivered once, in the order of time, then of the inputs; a row that comes
/// to lie behind the newest delivered one of its input only lies in the cache.
pub struct Pipeline {
    inputs: Vec<StreamInput>,
    places: HashMap<Source, Place>,
    /// The inputs by series: whoever holds several caches at once locks them in this order.
    lock_order: Vec<usize>,
    /// The newest row of each input that was delivered.
    delivered: Vec<Option<Timestamp>>,
    nodes: Vec<Node>,
    /// For every node what it has computed.
    results: Vec<Results>,
    /// The nodes of each level are neighbours.
    levels: Vec<std::ops::Range<usize>>,
    late: LateBars,
    on_panic: OnPanic,
    parallelism: Parallelism,
    activation: Option<Activation>,
    /// Whether orders may come from windows with bars missing.
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
            delivered: vec![None; inputs.len()],
            levels: (0..deepest).map(level).collect(),
            results: nodes.iter().map(|_| Results::default()).collect(),
            nodes: connect(nodes, &sources),
            inputs,
            late: LateBars::default(),
            on_panic: OnPanic::default(),
            parallelism: Parallelism::default(),
            activation: None,
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

    /// Lets orders come from windows with bars missing, where rows are counted instead.
    #[must_use]
    pub(crate) fn with_holes_allowed(mut self, allowed: bool) -> Self {
        self.holes_allowed = allowed;
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

    /// The newest results of a node, at least as many as it keeps once it had them, oldest first.
    /// `NotFound` for an unknown node.
    pub fn results(&self, node: &NodeId) -> Result<(&[Timestamp], &[f64])> {
        match self.places.get(&Source::from(node)) {
            Some(Place::Node(node)) => {
                let Results { ts, values, .. } = &self.results[*node];
                Ok((ts, values))
            }
            _ => Err(Error::new(ErrorKind::NotFound, "the strategy has no such compute node")
                .with("node_id", node)),
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

    /// Takes a live bar of an input: into its cache, to the nodes, to the recorders.
    ///
    /// `NotFound` for an unknown input, `Schema` for a row that contradicts the cache, the node's
    /// error when one panicked and [`OnPanic::Stop`] was chosen, else what a recorder answers.
    pub async fn feed(&mut self, input: &SeriesKey, ts: Timestamp, payload: &RecordBatch) -> Result<Fed> {
        let (fed, records) = self.compute(input, ts, payload)?;
        for (recorder, key, ts, payload) in records {
            recorder.record(&key, ts, payload).await?;
        }
        Ok(fed)
    }

    /// The part of [`feed`](Self::feed) that waits for nothing, and what is to be recorded.
    fn compute(
        &mut self,
        input: &SeriesKey,
        ts: Timestamp,
        payload: &RecordBatch,
    ) -> Result<(Fed, Vec<Record>)> {
        self.check_running()?;
        let at = self.input(input)?;
        let stream = &self.inputs[at];
        let appended = stream.cache().write(|cache| cache.append(ts, payload))?;
        match appended {
            Appended::New => {}
            Appended::Duplicate => self.late.duplicate += 1,
            Appended::Late | Appended::Replaced | Appended::TooOld => self.late.late += 1,
        }
        let mut records = Vec::new();
        if let Some(recorder) = recorder_for(stream, appended) {
            records.push((Arc::clone(recorder), stream.key().clone(), ts, without_ts(payload)?));
        }
        let mut results = 0;
        if appended == Appended::New {
            let interval = stream.key().interval;
            let before: Vec<_> = self.results.iter().map(|results| results.ts.last().copied()).collect();
            results = self.replay()?.results;
            let clean: Vec<_> = self.inputs.iter().map(|input| self.is_clean(input)).collect();
            for ((node, results), before) in self.nodes.iter_mut().zip(&self.results).zip(before) {
                let (Some(ts), Some(value)) = (results.ts.last(), results.values.last()) else { continue };
                if Some(*ts) == before {
                    continue;
                }
                if let Some(recorder) = &node.spec.recorder {
                    let key = SeriesKey { node_id: node.spec.id.clone(), interval };
                    records.push((Arc::clone(recorder), key, *ts, one(*value)?));
                }
                if node.inputs.iter().all(|input| clean[*input]) {
                    node.order(*ts, *value, self.activation.as_ref());
                }
            }
            self.stop_on_failure();
        }
        Ok((Fed { appended, results }, records))
    }

    /// Whether orders may come of an input's bars.
    fn is_clean(&self, input: &StreamInput) -> bool {
        self.activation.is_some()
            && input
                .cache()
                .read(|cache| cache.is_ready() && (self.holes_allowed || !cache.has_missing_bars()))
    }

    /// Delivers every row of the caches that lies after the newest delivered one of its input.
    ///
    /// Fails with the node's error when one panics and [`OnPanic::Stop`] was chosen.
    pub fn replay(&mut self) -> Result<Replayed> {
        self.deliver(&vec![false; self.inputs.len()])
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
            let delivered = self.deliver(&is_open)?;
            total.bars += delivered.bars;
            total.results += delivered.results;
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
        let delivered = self.delivered[input];
        self.inputs[input].cache().read(|cache| cache.len() - rows_up_to(cache, delivered))
    }

    /// Delivers until an input whose stream is open has no row left, or none has.
    fn deliver(&mut self, open: &[bool]) -> Result<Replayed> {
        let mut total = Replayed::default();
        loop {
            self.check_running()?;
            let Self { inputs, nodes, results, levels, delivered, parallelism, .. } = self;
            let mut caches = lock(inputs, &self.lock_order);
            let size = if *parallelism == Parallelism::Serial { CHUNK } else { THREADED_CHUNK };
            let chunk = next_chunk(&caches, delivered, open, size);
            if chunk.ts.is_empty() {
                return Ok(total);
            }
            let views: Vec<CacheView<'_>> = caches.iter().map(|cache| cache.view()).collect();
            for level in levels.iter() {
                let (done, rest) = results.split_at_mut(level.start);
                let round = Round { chunk: &chunk, inputs: &views, done };
                run_level(&mut nodes[level.clone()], &mut rest[..level.len()], &round, *parallelism);
            }
            total.bars += chunk.ts.len() as u64;
            total.results += results.iter().map(|results| results.fired.len() as u64).sum::<u64>();
            for (node, results) in nodes.iter().zip(results) {
                results.trim(node.spec.keeps);
            }
            let threads = if chunk.is_small() { 1 } else { parallelism.threads() };
            let seen = chunk.before.iter().zip(&chunk.emits).map(|(before, emits)| before + emits.len());
            // A guard stays in its thread, what it guards need not.
            let unlocked: Vec<&mut NodeCache> = caches.iter_mut().map(|cache| &mut **cache).collect();
            let seen: Vec<usize> = seen.collect();
            spread(
                threads,
                unlocked.into_iter().zip(delivered.iter_mut()).zip(seen),
                |((cache, delivered), seen)| {
                    *delivered =
                        seen.checked_sub(1).map(|row| cache.view().timestamps()[row]).max(*delivered);
                    let keep = cache.period() + (cache.len() - seen);
                    cache.trim(keep);
                },
            );
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

/// The nodes with what they read, in the order of their levels.
fn connect(specs: Vec<ComputeNode>, sources: &[Vec<Place>]) -> Vec<Node> {
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

fn rows_up_to(cache: &NodeCache, ts: Option<Timestamp>) -> usize {
    ts.map_or(0, |ts| cache.view().timestamps().partition_point(|other| *other <= ts))
}

/// Merges what waits, by time and then by input, into at most about `size` events.
fn next_chunk(
    caches: &[MutexGuard<'_, NodeCache>],
    delivered: &[Option<Timestamp>],
    open: &[bool],
    size: usize,
) -> Chunk {
    let rows: Vec<&[Timestamp]> = caches.iter().map(|cache| cache.view().timestamps()).collect();
    let before: Vec<usize> = caches.iter().zip(delivered).map(|(cache, ts)| rows_up_to(cache, *ts)).collect();
    let mut next = before.clone();
    // What each input delivers next; none is later than the end of time, where nothing is left.
    let mut heads: Vec<Timestamp> =
        rows.iter().zip(&next).map(|(rows, at)| rows.get(*at).copied().unwrap_or(Timestamp::MAX)).collect();
    let starved = |input: usize, at: usize| open[input] && at == rows[input].len();
    let mut chunk = Chunk { before, emits: vec![Vec::new(); caches.len()], ts: Vec::with_capacity(size) };
    if (0..rows.len()).any(|input| starved(input, next[input])) {
        return chunk;
    }
    let mut is_starved = false;
    while chunk.ts.len() < size && !is_starved {
        let Some(ts) = heads.iter().copied().min().filter(|ts| *ts < Timestamp::MAX) else { break };
        for (input, head) in heads.iter_mut().enumerate() {
            if *head == ts {
                let event = u32::try_from(chunk.ts.len()).expect("a chunk has few events");
                chunk.emits[input].push(event);
                chunk.ts.push(ts);
                next[input] += 1;
                is_starved |= starved(input, next[input]);
                *head = rows[input].get(next[input]).copied().unwrap_or(Timestamp::MAX);
            }
        }
    }
    chunk
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
