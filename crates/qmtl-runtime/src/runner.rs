//! Runs a strategy: warm-up, replay, and then whatever comes.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    Error, ErrorKind, RangeSet, Result, SeriesKey, StopSignal, TimeRange, Timestamp, async_trait,
};
use qmtl_observe::events;
use tokio::sync::mpsc;

use crate::warmup::{complete, load};
use crate::{
    Activation, Alignment, BackfillEngine, LiveBar, LiveMoment, LiveSource, NodeCache, OnPanic, Parallelism,
    Pipeline, Replayed, Snapshot, Strategy, StreamInput, WarmupConfig, WarmupReport, warm_up,
};

/// How often the age of the newest live bars and the memory of the caches are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How long a store may take to say which columns it has. They are compared again when its rows are there.
const COLUMNS_WITHIN: Duration = Duration::from_secs(5);
/// The most bars of one input that are made up for from a saved state, or before its first live bar.
const LONGEST_AWAY: u64 = 1_000_000;
/// How long what lies before an input's first bar is looked for while other inputs are followed already.
const SEAM_WITHIN: Duration = Duration::from_secs(10);

/// How strategies are run. Every way of running executes the same warm-up and replay.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Runner {
    pub(crate) warmup: WarmupConfig,
    on_panic: OnPanic,
    parallelism: Parallelism,
    alignment: Alignment,
    activation: Option<Activation>,
    snapshot: Option<Snapshot>,
    on_ready: Option<OnReady>,
    stop: StopSignal,
}

/// Whom a runner tells that its strategy is ready.
#[derive(Clone)]
struct OnReady(Arc<ReadyFn>);

type ReadyFn = dyn Fn(&Pipeline, &WarmupReport) -> Result<()> + Send + Sync;

impl fmt::Debug for OnReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnReady")
    }
}

/// A strategy that was run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Session {
    /// The strategy's nodes with their results; it takes further bars.
    pub pipeline: Pipeline,
    /// How the inputs stood before replay.
    pub warmup: WarmupReport,
    /// What the replay of history delivered.
    pub replayed: Replayed,
    /// Bars between history and the first live bar that could not be obtained in time.
    pub gaps: Vec<(SeriesKey, RangeSet)>,
    /// The moment of the saved state from which the strategy resumed, or why it was warmed up from history instead;
    /// `None` when there was no saved state.
    pub restored: Option<Result<Timestamp>>,
}

impl Session {
    /// Why nodes failed, as [`Pipeline::failures`]; empty when all is well.
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.pipeline.failures()
    }

    /// The state of all nodes, for [`Runner::with_snapshot`]. Fails as [`Pipeline::snapshot`] does.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.pipeline.snapshot()
    }
}

impl Runner {
    /// A runner with default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses how inputs are primed.
    pub fn with_warmup(mut self, config: WarmupConfig) -> Self {
        self.warmup = config;
        self
    }

    /// Chooses what a panicking node stops.
    pub fn with_on_panic(mut self, on_panic: OnPanic) -> Self {
        self.on_panic = on_panic;
        self
    }

    /// Chooses how many nodes compute at once during replay.
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// Chooses how long live bars wait for those of other inputs that close at the same moment.
    pub fn with_alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// States which orders are allowed when there is no gateway; by default, none.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Resumes from a saved state: warm-up reaches back far enough for it, and only bars that close after its moment
    /// are replayed. A state that does not fit is refused: one of another graph or version, one that a node rejects,
    /// one from the future, and one more than a million bars old. The log and [`Session::restored`] say why, and the
    /// strategy is warmed up as if there were none.
    pub fn with_snapshot(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Calls `on_ready` once history has been replayed, before the first live moment: with the pipeline, which has the
    /// newest results, as many as each node [keeps](crate::ComputeNode::keeps), and with how the inputs stood. Its
    /// error ends the run.
    pub fn with_on_ready(
        mut self,
        on_ready: impl Fn(&Pipeline, &WarmupReport) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_ready = Some(OnReady(Arc::new(on_ready)));
        self
    }

    /// Ends the run cleanly when this signal is given: no further live bar is accepted, waiting moments are
    /// delivered, and the session is returned. Before the strategy is ready, the run ends with `Cancelled`.
    pub fn with_stop(mut self, signal: StopSignal) -> Self {
        self.stop = signal;
        self
    }

    /// Primes and replays `strategy` with default settings, without live data.
    pub async fn offline(strategy: Strategy) -> Result<Session> {
        Self::new().prime(strategy).await
    }

    /// Primes and replays `strategy`, without live data. Fails as [`warm_up`] and
    /// [`Pipeline::replay`] do.
    pub async fn prime(&self, strategy: Strategy) -> Result<Session> {
        self.session(strategy, (&mut NoLive, None), None).await
    }

    /// Warms up and replays `strategy`, and then follows `live` until it ends, so that every bar is delivered once
    /// and in order.
    ///
    /// Live bars are received from the start. Those that arrive before the replay are merged into the caches first,
    /// where they take precedence over history. Bars between the end of history and an input's first live bar are
    /// requested until the deadline, and then reported as a gap.
    ///
    /// `InvalidInput` for a strategy with a [live source](crate::StrategyBuilder::live) of its own, which only
    /// `Runner::run` and `Runner::run_in` follow. `NotFound` or `Schema` when a node reads a column that its input does
    /// not have or that does not hold doubles: before warm-up if the store can list its columns, else before replay. In
    /// strict mode a node that fails ends the run with its error. Otherwise fails as [`warm_up`], [`Pipeline::replay`]
    /// and [`Pipeline::feed`] do.
    pub async fn follow(&self, strategy: Strategy, live: &mut dyn LiveSource) -> Result<Session> {
        has_no_live(&strategy)?;
        self.session(strategy, (live, None), None).await
    }

    /// As [`follow`](Self::follow), but also passes every live moment, with the results of its nodes and their orders,
    /// to `on_moment`, together with the pipeline as it is then. An error that it returns ends the run.
    pub async fn follow_with(
        &self,
        strategy: Strategy,
        live: &mut dyn LiveSource,
        on_moment: impl FnMut(&Pipeline, &LiveMoment) -> Result<()> + Send + 'static,
    ) -> Result<Session> {
        has_no_live(&strategy)?;
        self.session(strategy, (live, Some(Box::new(on_moment))), None).await
    }

    /// The one pipeline of every way of running; `world` is told of the warm-up.
    pub(crate) async fn session(
        &self,
        strategy: Strategy,
        (live, on_moment): (&mut dyn LiveSource, Option<OnMoment>),
        world: Option<(Activation, &mpsc::Sender<WarmupReport>)>,
    ) -> Result<Session> {
        let mut waiting = Waiting { live, bars: VecDeque::new(), is_open: true };
        let mut pipeline = self.pipeline(strategy);
        let mut gaps = Gaps::default();
        let ready = tokio::select! {
            biased;
            () = self.stop.stopped() => Err(Error::new(
                ErrorKind::Cancelled,
                "the run was stopped before the strategy was ready",
            )),
            ready = self.get_ready(&mut pipeline, &mut waiting, &mut gaps, world) => ready,
        };
        let (warmup, restored, activation) = ready?;
        for bar in std::mem::take(&mut waiting.bars) {
            pipeline.merge_live(&bar.input, bar.ts, &bar.payload).await?;
        }
        let replayed = if waiting.is_open {
            // A bar that is not in history by now does not come live, unless it closes later.
            let ends: Vec<_> = warmup.inputs.iter().map(|input| input.window.end()).collect();
            let mut replayed = pipeline.replay_settled(&ends)?;
            replayed.add(pipeline.give_up().await?);
            replayed
        } else {
            pipeline.replay()?
        };
        hold_periods_alone(pipeline.inputs());
        if let Some(OnReady(on_ready)) = &self.on_ready {
            on_ready(&pipeline, &warmup)?;
        }
        if let Some(activation) = activation {
            pipeline = pipeline.with_activation(activation);
        }
        if let Some(on_moment) = on_moment {
            pipeline = pipeline.with_on_moment(on_moment);
        }
        loop {
            let next = match waiting.bars.pop_front() {
                Some(bar) => Next::Bar(bar),
                None => self.next_live(&mut waiting, pipeline.inputs(), pipeline.due()).await,
            };
            match next {
                Next::Bar(bar) => {
                    let first = gaps.first_bars(pipeline.inputs(), std::iter::once(&bar));
                    if !first.is_empty() {
                        // What it loads lies before the bar, and is delivered before it.
                        let deadline = self.warmup.deadline.min(SEAM_WITHIN);
                        let config = self.warmup.clone().with_deadline(deadline);
                        waiting.during(gaps.close(pipeline.inputs(), &first, &config)).await;
                    }
                    pipeline.feed(&bar.input, bar.ts, &bar.payload).await?;
                    if !first.is_empty() {
                        hold_periods_alone(pipeline.inputs());
                    }
                }
                Next::Due => drop(pipeline.give_up().await?),
                Next::End => break,
            }
        }
        pipeline.finish().await?;
        Ok(Session { pipeline, warmup, replayed, gaps: gaps.left, restored })
    }

    /// Warms up, closes the seams before the live bars that wait, and makes room for these in the caches.
    async fn get_ready(
        &self,
        pipeline: &mut Pipeline,
        waiting: &mut Waiting<'_>,
        gaps: &mut Gaps,
        world: Option<(Activation, &mpsc::Sender<WarmupReport>)>,
    ) -> Result<(WarmupReport, Option<Result<Timestamp>>, Option<Activation>)> {
        let columns = waiting.during(stored_columns(pipeline.inputs())).await;
        pipeline.check_columns(&columns)?;
        let restored = self.snapshot.as_ref().map(|snapshot| restore(pipeline, snapshot));
        let warmup = waiting.during(warm_up(pipeline.inputs(), &self.warmup)).await?;
        pipeline.check_columns(&loaded_columns(pipeline.inputs()))?;
        let activation = match world {
            // Whoever does not take the report any more has no use for it.
            Some((activation, told)) => told.send(warmup.clone()).await.map_or(None, |()| Some(activation)),
            None => {
                let has_orders = pipeline.nodes().find(|node| node.orders.is_some());
                if let Some(node) = has_orders.filter(|_| self.activation.is_none() && waiting.is_open) {
                    events::strategy_no_activation(&node.id);
                }
                self.activation.clone()
            }
        };
        waiting.take_what_came().await;
        // Closing one seam takes time, in which another input's first bar may come.
        loop {
            let first = gaps.first_bars(pipeline.inputs(), waiting.bars.iter());
            if first.is_empty() {
                break;
            }
            waiting.during(gaps.close(pipeline.inputs(), &first, &self.warmup)).await;
            waiting.take_what_came().await;
        }
        // None of them may take the place of one that is still to be delivered.
        for input in pipeline.inputs() {
            let bars = waiting.bars.iter().filter(|bar| bar.input == *input.key()).count();
            input.cache().write(|cache| cache.add_extra(bars));
        }
        Ok((warmup, restored, activation))
    }

    fn pipeline(&self, strategy: Strategy) -> Pipeline {
        let on_panic = if self.warmup.strict { OnPanic::Stop } else { self.on_panic };
        Pipeline::new(strategy)
            .with_on_panic(on_panic)
            .with_parallelism(self.parallelism)
            .with_alignment(self.alignment)
            .with_holes_allowed(self.warmup.holes_allowed)
    }

    /// What comes next live, of bars and the time until which they wait; meanwhile the age of the newest is reported.
    async fn next_live(
        &self,
        waiting: &mut Waiting<'_>,
        inputs: &[StreamInput],
        due: Option<Duration>,
    ) -> Next {
        if !waiting.is_open {
            return Next::End;
        }
        let clock = inputs.first().map(StreamInput::clock);
        let sleep = async |length: Option<Duration>| match (clock, length) {
            (Some(clock), Some(length)) => clock.sleep(length).await,
            _ => std::future::pending().await,
        };
        let mut next = waiting.live.next();
        loop {
            let world = self.warmup.world.as_deref();
            inputs.iter().for_each(|input| input.report_live(world));
            let left = due.zip(clock).map(|(due, clock)| due.saturating_sub(clock.monotonic()));
            tokio::select! {
                biased;
                () = self.stop.stopped() => return Next::End,
                bar = &mut next => return bar.map_or(Next::End, Next::Bar),
                () = sleep(left) => return Next::Due,
                () = sleep(Some(REPORT_EVERY)) => {}
            }
        }
    }
}

/// The columns that are stored of each input, as far as its provider says them in time. What is wrong with a store is
/// told by warm-up.
pub(crate) async fn stored_columns(inputs: &[StreamInput]) -> Vec<Option<SchemaRef>> {
    let columns = inputs.iter().map(|input| async {
        let provider = input.history_provider()?;
        tokio::select! {
            biased;
            columns = provider.schema(input.key()) => columns.ok().flatten(),
            () = input.clock().sleep(COLUMNS_WITHIN) => None,
        }
    });
    join_all(columns).await
}

/// The columns of the bars that are there of each input.
fn loaded_columns(inputs: &[StreamInput]) -> Vec<Option<SchemaRef>> {
    inputs.iter().map(|input| input.cache().read(|cache| cache.schema().cloned())).collect()
}

/// Takes over a saved state, and has the caches hold what its windows need besides what came since.
fn restore(pipeline: &mut Pipeline, snapshot: &Snapshot) -> Result<Timestamp> {
    let restored = missed_bars(pipeline.inputs(), snapshot.moment()).and_then(|missed| {
        pipeline.restore(snapshot)?;
        for (input, bars) in pipeline.inputs().iter().zip(missed) {
            input.cache().write(|cache| cache.set_extra(bars));
        }
        Ok(snapshot.moment())
    });
    match &restored {
        Ok(moment) => events::state_restored(*moment),
        Err(error) => events::state_refused(error),
    }
    restored
}

/// For every input how many bars have closed since `moment`; `InvalidInput` when that is no time to go on from.
fn missed_bars(inputs: &[StreamInput], moment: Timestamp) -> Result<Vec<usize>> {
    let missed = inputs.iter().map(|input| {
        let (interval, now) = (input.key().interval, input.clock().now());
        let fault = |message: &str| {
            Error::invalid(message).with("series", input.key()).with("moment", moment).with("now", now)
        };
        if moment > now {
            return Err(fault("the saved state is of the future"));
        }
        // The bar that is open at a time is the first to close after it.
        let since = interval.floor(moment).zip(interval.floor(now));
        let bars = since.and_then(|(open, end)| TimeRange::checked(open, end));
        let bars = bars.map_or(0, |bars| bars.count(interval));
        if bars > LONGEST_AWAY {
            return Err(fault("the saved state is too old").with("bars", bars).with("most", LONGEST_AWAY));
        }
        Ok(usize::try_from(bars).unwrap_or(usize::MAX))
    });
    missed.collect()
}

/// Has the caches hold no more than the period: everything beyond it has been delivered.
fn hold_periods_alone(inputs: &[StreamInput]) {
    inputs.iter().for_each(|input| input.cache().write(|cache| cache.set_extra(0)));
}

/// `InvalidInput` for a strategy whose own live source would be passed over.
fn has_no_live(strategy: &Strategy) -> Result<()> {
    if strategy.live.is_none() {
        return Ok(());
    }
    Err(Error::invalid(
        "the strategy has a live source of its own, which is followed by `Runner::run` and `Runner::run_in`; build it \
         without one, or run it so",
    ))
}

/// What is told of live moments.
type OnMoment = Box<dyn FnMut(&Pipeline, &LiveMoment) -> Result<()> + Send>;

/// What comes next while live bars are followed.
enum Next {
    Bar(LiveBar),
    /// A moment has waited long enough.
    Due,
    End,
}

/// No live data.
#[derive(Debug)]
pub(crate) struct NoLive;

#[async_trait]
impl LiveSource for NoLive {
    async fn next(&mut self) -> Option<LiveBar> {
        None
    }
}

/// Live bars that wait while something else is done.
struct Waiting<'a> {
    live: &'a mut dyn LiveSource,
    bars: VecDeque<LiveBar>,
    is_open: bool,
}

impl Waiting<'_> {
    /// Takes live bars until `work` is done.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                bar = self.live.next(), if self.is_open => match bar {
                    Some(bar) => self.bars.push_back(bar),
                    None => self.is_open = false,
                },
            }
        }
    }

    /// Takes the live bars that are there already: `during` may have ended without a look at them.
    async fn take_what_came(&mut self) {
        let taken = tokio::task::unconstrained(async {
            while let Some(Some(bar)) = self.live.next().now_or_never() {
                self.bars.push_back(bar);
            }
        });
        taken.await;
    }
}

/// The seams between history and live.
#[derive(Default)]
struct Gaps {
    /// Inputs whose first live bar has come.
    live: HashSet<SeriesKey>,
    /// What could not be closed.
    left: Vec<(SeriesKey, RangeSet)>,
}

impl Gaps {
    /// The oldest of `bars` for each input of which none had come before. One that history has too is not the first.
    fn first_bars<'a>(
        &mut self,
        inputs: &[StreamInput],
        bars: impl Iterator<Item = &'a LiveBar>,
    ) -> Vec<(SeriesKey, Timestamp)> {
        let mut first: Vec<(SeriesKey, Timestamp)> = Vec::new();
        let is_new = |bar: &&LiveBar| {
            let stream = inputs.iter().find(|stream| *stream.key() == bar.input);
            let newest = stream.and_then(|stream| stream.cache().read(NodeCache::watermark));
            newest.is_none_or(|newest| bar.ts > newest)
        };
        for bar in bars.filter(|bar| !self.live.contains(&bar.input)).filter(is_new) {
            match first.iter_mut().find(|(input, _)| *input == bar.input) {
                Some((_, ts)) => *ts = bar.ts.min(*ts),
                None => first.push((bar.input.clone(), bar.ts)),
            }
        }
        self.live.extend(first.iter().map(|(input, _)| input.clone()));
        first
    }

    /// Loads what lies between each input's history and its first live bar.
    async fn close(
        &mut self,
        inputs: &[StreamInput],
        first: &[(SeriesKey, Timestamp)],
        config: &WarmupConfig,
    ) {
        let engine = config.engine_for(inputs);
        let seams = first.iter().filter_map(|(input, ts)| {
            let stream = inputs.iter().find(|stream| stream.key() == input)?;
            let interval = stream.key().interval;
            let newest = stream.cache().read(NodeCache::watermark)?;
            let seam = TimeRange::checked(interval.next(newest)?, interval.floor(*ts)?)?;
            let engine = &engine;
            Some(async move { (stream.key().clone(), close_seam(stream, seam, config, engine).await) })
        });
        let left = join_all(seams.collect::<Vec<_>>()).await;
        for (key, missing) in left.into_iter().filter(|(_, missing)| !missing.is_empty()) {
            events::strategy_gap(&key, &missing);
            self.left.push((key, missing));
        }
    }
}

/// Fills and loads `seam`; what of it is still missing.
async fn close_seam(
    stream: &StreamInput,
    seam: TimeRange,
    config: &WarmupConfig,
    engine: &BackfillEngine,
) -> RangeSet {
    let begun = stream.clock().monotonic();
    let filled = complete(stream, seam, config).await;
    // All of it is to be delivered, however short the period is.
    let bars = usize::try_from(seam.count(stream.key().interval).min(LONGEST_AWAY)).unwrap_or(usize::MAX);
    stream.cache().write(|cache| cache.add_extra(bars));
    // What cannot be loaded is missing below.
    let _ = load(stream, seam, (begun, config.deadline), engine).await;
    stream.cache().write(|cache| {
        cache.note_known_empty(filled.known_empty());
        let rows = cache.view().timestamps().iter().copied();
        let rows = RangeSet::from_sorted_points(rows, stream.key().interval);
        RangeSet::from(seam).difference(&rows).difference(filled.known_empty())
    })
}

#[cfg(test)]
mod tests;
