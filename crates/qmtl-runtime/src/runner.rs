//! Runs a strategy: warm-up, replay, and then whatever comes.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use qmtl_history_api::{RangeSet, Result, SeriesKey, StopSignal, TimeRange, Timestamp, async_trait};
use tokio::sync::mpsc;

use crate::warmup::{complete, load};
use crate::{
    Activation, Alignment, BackfillEngine, LiveBar, LiveMoment, LiveSource, NodeCache, OnPanic, Parallelism,
    Pipeline, Replayed, Strategy, StreamInput, WarmupConfig, WarmupReport, warm_up,
};

/// How often the age of the newest live bars and the memory of the caches are reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How strategies are run. Every way of running executes the same warm-up and replay.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Runner {
    pub(crate) warmup: WarmupConfig,
    on_panic: OnPanic,
    parallelism: Parallelism,
    alignment: Alignment,
    activation: Option<Activation>,
    stop: StopSignal,
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
    /// Bars between history and the first live bar that could not be had in time.
    pub gaps: Vec<(SeriesKey, RangeSet)>,
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

    /// Says which orders may come of live moments where no gateway does; without, none.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Ends well when this signal is given: no further live bar is taken, moments that wait are delivered, and the
    /// session is told.
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
        self.follow(strategy, &mut NoLive).await
    }

    /// Primes and replays `strategy` and goes over to `live` until it ends, so that every bar is
    /// delivered once and in order.
    ///
    /// Live bars are taken from the start. Those that come before the replay are merged into the
    /// caches first, where they win over history. Bars between the end of history and an input's
    /// first live bar are asked for until the deadline, then told as a gap. Fails as
    /// [`warm_up`], [`Pipeline::replay`] and [`Pipeline::feed`] do.
    pub async fn follow(&self, strategy: Strategy, live: &mut dyn LiveSource) -> Result<Session> {
        self.session(strategy, (live, None), None).await
    }

    /// The same, and hands every live moment with the results of its nodes to `on_moment`.
    pub async fn follow_with(
        &self,
        strategy: Strategy,
        live: &mut dyn LiveSource,
        on_moment: impl FnMut(&LiveMoment) + Send + 'static,
    ) -> Result<Session> {
        self.session(strategy, (live, Some(Box::new(on_moment))), None).await
    }

    /// The one pipeline of every way of running; `world` is told of the warm-up.
    pub(crate) async fn session(
        &self,
        strategy: Strategy,
        (live, on_moment): (&mut dyn LiveSource, Option<OnMoment>),
        world: Option<(Activation, &mpsc::Sender<WarmupReport>)>,
    ) -> Result<Session> {
        let mut waiting = Waiting { live, bars: Vec::new(), is_open: true };
        let warmup = waiting.during(warm_up(strategy.inputs(), &self.warmup)).await?;
        let activation = match world {
            // Whoever does not take the report any more has no use for it.
            Some((activation, told)) => told.send(warmup.clone()).await.map_or(None, |()| Some(activation)),
            None => self.activation.clone(),
        };
        waiting.take_what_came().await;
        let mut gaps = Gaps::default();
        // Closing one seam takes time, in which another input's first bar may come.
        loop {
            let first = gaps.first_bars(&waiting.bars);
            if first.is_empty() {
                break;
            }
            waiting.during(gaps.close(strategy.inputs(), &first, &self.warmup)).await;
            waiting.take_what_came().await;
        }
        let mut pipeline = self.pipeline(strategy);
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
        if let Some(activation) = activation {
            pipeline = pipeline.with_activation(activation);
        }
        if let Some(on_moment) = on_moment {
            pipeline = pipeline.with_on_moment(on_moment);
        }
        loop {
            match self.next_live(&mut waiting, pipeline.inputs(), pipeline.due()).await {
                Next::Bar(bar) => {
                    let first = gaps.first_bars(std::slice::from_ref(&bar));
                    if !first.is_empty() {
                        // What it loads lies before the bar, and is delivered before it.
                        gaps.close(pipeline.inputs(), &first, &self.warmup).await;
                    }
                    pipeline.feed(&bar.input, bar.ts, &bar.payload).await?;
                }
                Next::Due => drop(pipeline.give_up().await?),
                Next::End => break,
            }
        }
        pipeline.finish().await?;
        Ok(Session { pipeline, warmup, replayed, gaps: gaps.left })
    }

    fn pipeline(&self, strategy: Strategy) -> Pipeline {
        Pipeline::new(strategy)
            .with_on_panic(self.on_panic)
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

/// What is told of live moments.
type OnMoment = Box<dyn FnMut(&LiveMoment) + Send>;

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
    bars: Vec<LiveBar>,
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
                    Some(bar) => self.bars.push(bar),
                    None => self.is_open = false,
                },
            }
        }
    }

    /// Takes the live bars that are there already: `during` may have ended without a look at them.
    async fn take_what_came(&mut self) {
        let taken = tokio::task::unconstrained(async {
            while let Some(Some(bar)) = self.live.next().now_or_never() {
                self.bars.push(bar);
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
    /// The oldest of `bars` for each input of which none had come before.
    fn first_bars(&mut self, bars: &[LiveBar]) -> Vec<(SeriesKey, Timestamp)> {
        let mut first: Vec<(SeriesKey, Timestamp)> = Vec::new();
        for bar in bars.iter().filter(|bar| !self.live.contains(&bar.input)) {
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
        self.left.extend(left.into_iter().filter(|(_, missing)| !missing.is_empty()));
    }
}

/// Fills and loads `seam`; what of it is still missing.
async fn close_seam(
    stream: &StreamInput,
    seam: TimeRange,
    config: &WarmupConfig,
    engine: &BackfillEngine,
) -> RangeSet {
    let filled = complete(stream, seam, config).await;
    // What cannot be loaded is missing below.
    let _ = load(stream, seam, config.deadline, engine).await;
    stream.cache().write(|cache| {
        cache.note_known_empty(filled.known_empty());
        let rows = cache.view().timestamps().iter().copied();
        let rows = RangeSet::from_sorted_points(rows, stream.key().interval);
        RangeSet::from(seam).difference(&rows).difference(filled.known_empty())
    })
}

#[cfg(test)]
mod tests;
