//! Runs a strategy: warm-up, replay, and then whatever comes.

use std::collections::HashSet;
use std::pin::pin;

use futures::FutureExt;
use futures::future::join_all;
use qmtl_history_api::{RangeSet, Result, SeriesKey, TimeRange, Timestamp};

use crate::warmup::{complete, load};
use crate::{
    LiveBar, LiveSource, NodeCache, OnPanic, Parallelism, Pipeline, Replayed, Strategy, StreamInput,
    WarmupConfig, WarmupReport, warm_up,
};

/// How strategies are run. Every way of running executes the same warm-up and replay.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Runner {
    warmup: WarmupConfig,
    on_panic: OnPanic,
    parallelism: Parallelism,
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

    /// Primes and replays `strategy` with default settings, without live data.
    pub async fn offline(strategy: Strategy) -> Result<Session> {
        Self::new().prime(strategy).await
    }

    /// Primes and replays `strategy`, without live data. Fails as [`warm_up`] and
    /// [`Pipeline::replay`] do.
    pub async fn prime(&self, strategy: Strategy) -> Result<Session> {
        let warmup = warm_up(strategy.inputs(), &self.warmup).await?;
        let mut pipeline = self.pipeline(strategy);
        let replayed = pipeline.replay()?;
        Ok(Session { pipeline, warmup, replayed, gaps: Vec::new() })
    }

    /// Primes and replays `strategy` and goes over to `live` until it ends, so that every bar is
    /// delivered once and in order.
    ///
    /// Live bars are taken from the start. Those that come before the replay are merged into the
    /// caches first, where they win over history. Bars between the end of history and an input's
    /// first live bar are asked for until the deadline, then told as a gap. Fails as
    /// [`prime`](Self::prime) and [`Pipeline::feed`] do.
    pub async fn follow(&self, strategy: Strategy, live: &mut dyn LiveSource) -> Result<Session> {
        let mut waiting = Waiting { live, bars: Vec::new(), is_open: true };
        let warmup = waiting.during(warm_up(strategy.inputs(), &self.warmup)).await?;
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
        let replayed = pipeline.replay()?;
        while let Some(bar) = waiting.live.next().await {
            let first = gaps.first_bars(std::slice::from_ref(&bar));
            if !first.is_empty() {
                // What it loads lies before the bar, and is delivered before it.
                gaps.close(pipeline.inputs(), &first, &self.warmup).await;
            }
            pipeline.feed(&bar.input, bar.ts, &bar.payload).await?;
        }
        Ok(Session { pipeline, warmup, replayed, gaps: gaps.left })
    }

    fn pipeline(&self, strategy: Strategy) -> Pipeline {
        Pipeline::new(strategy).with_on_panic(self.on_panic).with_parallelism(self.parallelism)
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
    live: HashSet<String>,
    /// What could not be closed.
    left: Vec<(SeriesKey, RangeSet)>,
}

impl Gaps {
    /// The oldest of `bars` for each input of which none had come before.
    fn first_bars(&mut self, bars: &[LiveBar]) -> Vec<(String, Timestamp)> {
        let mut first: Vec<(String, Timestamp)> = Vec::new();
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
    async fn close(&mut self, inputs: &[StreamInput], first: &[(String, Timestamp)], config: &WarmupConfig) {
        let seams = first.iter().filter_map(|(input, ts)| {
            let stream = inputs.iter().find(|stream| stream.key().node_id.as_str() == input)?;
            let interval = stream.key().interval;
            let newest = stream.cache().read(NodeCache::watermark)?;
            let seam = TimeRange::checked(interval.next(newest)?, interval.floor(*ts)?)?;
            Some(async move { (stream.key().clone(), close_seam(stream, seam, config).await) })
        });
        let left = join_all(seams.collect::<Vec<_>>()).await;
        self.left.extend(left.into_iter().filter(|(_, missing)| !missing.is_empty()));
    }
}

/// Fills and loads `seam`; what of it is still missing.
async fn close_seam(stream: &StreamInput, seam: TimeRange, config: &WarmupConfig) -> RangeSet {
    let filled = complete(stream, seam, config.deadline).await;
    // What cannot be loaded is missing below.
    let _ = load(stream, seam, config.deadline).await;
    stream.cache().write(|cache| {
        cache.note_known_empty(filled.known_empty());
        let rows = cache.view().timestamps().iter().copied();
        let rows = RangeSet::from_sorted_points(rows, stream.key().interval);
        RangeSet::from(seam).difference(&rows).difference(filled.known_empty())
    })
}

#[cfg(test)]
mod tests;
