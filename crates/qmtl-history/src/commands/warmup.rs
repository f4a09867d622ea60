//! `warmup`: primes a moving average of each series, as a strategy's start does, and says when it
//! was ready.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_backfill::{AugmentedHistoryProvider, FetcherBackfillStrategy};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, Error, ErrorKind, HistoryBackend,
    ProgressEvent, ProgressSink, SeriesKey, SourceId, TimeRange, async_trait,
};
use qmtl_runtime::{
    AsOf, ComputeNode, InputReport, PeriodCounts, Runner, Session, Strategy, StreamInput, WarmupConfig,
};
use serde::Serialize;

use super::{Context, in_time};
use crate::cli::{FillArgs, WarmupArgs};
use crate::console::{Console, Style};
use crate::fill::{self, Job, Limits};
use crate::outcome::{self, Failure, Outcome, Result};
use crate::progress::Progress;
use crate::range::RangeArgs;
use crate::series::{self, Wanted};
use crate::shapes::{NanColumn, OneOrMany, Pair, Seconds, Series, pairs};
use crate::store::Store;
use crate::text;
use crate::waits::Waits;

/// The sample strategy's only compute node.
const AVERAGE: &str = "moving average";
/// A fill is stopped at the deadline by the warm-up, which says so; its own end only keeps it from waiting out a ban
/// that lasts longer.
const FILL_ENDS_LATER_BY: Duration = Duration::from_secs(1);
/// Series that are primed side by side.
const AT_ONCE: usize = 8;

/// The result for one series.
#[derive(Debug, Serialize)]
struct Primed {
    #[serde(flatten)]
    series: Series,
    bars: usize,
    first: Option<Seconds>,
    last: Option<Seconds>,
    /// Null when the node did not become ready.
    ready_ms: Option<u64>,
    average: Option<f64>,
    known_empty: Vec<Pair>,
    missing: Vec<Pair>,
    /// Columns in which a bar of the cache has NaN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nan: Vec<NanColumn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How one series stands after its warm-up.
#[derive(Debug)]
struct Done {
    report: InputReport,
    average: Option<f64>,
    /// From the start of the command's work to the node's first result.
    ready: Option<Duration>,
    error: Option<Error>,
}

pub(crate) async fn run(args: &WarmupArgs, context: &Context) -> Result<Outcome> {
    let progress = Arc::new(Progress::new(&context.console).with_deadline(args.deadline));
    let done = tokio::select! {
        done = async { prime_all(args, Orders::new(args, context).await?, (context, &progress)).await } => done?,
        () = context.signals.asked() => return Err(interrupted(&progress)),
    };
    outcome::read_or_not(print(&done, args, &context.console))?;
    Ok(end_of(&done))
}

/// The end of a warm-up that was interrupted; what it was waiting for is an error.
fn interrupted(progress: &Progress) -> Failure {
    let message = "interrupted; what was stored is kept";
    let error = Error::new(ErrorKind::Cancelled, message);
    match progress.last_error() {
        Some(last) => error.caused_by(last),
        None => error,
    }
    .into()
}

/// What is to be primed, checked without any I/O but that of a nodes file.
struct Orders {
    clock: Arc<dyn Clock>,
    wanted: Vec<Wanted>,
    /// What fills each series; empty when the store alone is to serve.
    fills: Option<FillArgs>,
}

impl Orders {
    async fn new(args: &WarmupArgs, context: &Context) -> Result<Self> {
        let now = context.clock.now();
        let as_of = args.as_of.unwrap_or(now);
        if as_of > now {
            let error = Error::invalid("--as-of must not lie in the future");
            return Err(Failure::from(error.with("as_of", as_of).with("now", now)));
        }
        let wanted =
            series::select(&args.series, &args.source, &context.console).await?.ok_or_else(|| {
                Failure::from(Error::invalid(
                    "no series is named: use --node ID --interval 5m, or --nodes FILE",
                ))
            })?;
        let range = RangeArgs { bars: Some(args.period), ..RangeArgs::default() };
        let fills = wanted.iter().any(|wanted| !wanted.sources.is_empty()).then(|| FillArgs {
            series: args.series.clone(),
            range,
            source: args.source.clone(),
            window_bars: None,
            concurrency: None,
            rate: None,
            column: Vec::new(),
            yes: true,
        });
        let clock = Arc::new(AsOf::new(as_of).with_clock(Arc::clone(&context.clock)));
        Ok(Self { clock, wanted, fills })
    }
}

async fn prime_all(
    args: &WarmupArgs,
    orders: Orders,
    (context, progress): (&Context, &Arc<Progress>),
) -> Result<Vec<Done>> {
    let begun = context.clock.monotonic();
    let name = context.global.store.as_deref();
    let left = || {
        args.deadline.map(|deadline| begun.saturating_add(deadline).saturating_sub(context.clock.monotonic()))
    };
    let wished = orders.fills.as_ref().map(|fills| {
        let wishes = fill::orders_of(orders.wanted.clone(), fills, &*orders.clock)?;
        // Proofs carry the time at which the source was really asked.
        let ends = args.deadline.map(|deadline| deadline.saturating_add(FILL_ENDS_LATER_BY));
        let limits = Limits::new(fills, None, wishes.len(), &context.clock)?.with_deadline(ends);
        Ok::<_, Failure>((wishes, limits))
    });
    let wished = wished.transpose()?;
    let opening = Box::pin(async {
        match wished {
            Some(_) => Store::open_or_new(name, args.deadline, &context.console).await,
            None => Store::open(name, &context.console).await,
        }
    });
    let store = in_time("the store was open", left(), &*context.clock, opening).await?;
    let fills = match wished {
        Some((wishes, limits)) => {
            let waits = Waits::new(&context.console).with_deadline(args.deadline);
            let opening = Box::pin(fill::jobs(wishes, &limits, &waits));
            let jobs = in_time("the sources were open", left(), &*context.clock, opening).await;
            Some((jobs.map_err(Failure::of_source)?, limits))
        }
        None => None,
    };
    let shared =
        Shared { args, clock: orders.clock, begun, backend: store.backend(), progress: Arc::clone(progress) };
    let shared = &shared;
    let fills = fills.as_ref();
    let primed = stream::iter(orders.wanted.into_iter().enumerate()).map(|(at, Wanted { key, .. })| {
        let fill = fills.and_then(|(jobs, limits)| Some((jobs.get(at)?, limits)));
        async move { shared.prime(key, fill).await }
    });
    primed.buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

/// What the warm-ups of all series have in common.
struct Shared<'a> {
    args: &'a WarmupArgs,
    clock: Arc<dyn Clock>,
    begun: Duration,
    backend: Arc<dyn HistoryBackend>,
    progress: Arc<Progress>,
}

impl Shared<'_> {
    async fn prime(&self, key: SeriesKey, fill: Option<(&Job, &Limits)>) -> Result<Done> {
        let mut config = WarmupConfig::default().with_holes_allowed(self.args.allow_holes);
        if let Some(deadline) = self.args.deadline {
            // One for all: those that are primed last have what the others and the opening have left.
            let until = self.begun.saturating_add(deadline);
            config = config.with_deadline(until.saturating_sub(self.clock.monotonic()));
        }
        if let Some(max_lookback) = self.args.max_lookback {
            let max_lookback = usize::try_from(max_lookback).unwrap_or(usize::MAX);
            config = config.with_period_counts(PeriodCounts::Rows { max_lookback: Some(max_lookback) });
        }
        let runner = Runner::new().with_warmup(config);
        let primed = runner.prime(self.strategy(&key, fill, Some(&self.args.column))?).await;
        let (primed, wrong_column) = match primed {
            // It is told with the bars that there are, and hides no other series.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Schema) => {
                (runner.prime(self.strategy(&key, fill, None)?).await, Some(error))
            }
            primed => (primed, None),
        };
        self.progress.finish(&key);
        let Session { pipeline, mut warmup, .. } = primed?;
        let report = warmup.inputs.pop().ok_or_else(|| Error::unexpected("a warm-up without a report"))?;
        let average = match wrong_column {
            Some(_) => None,
            None => pipeline.results(&AVERAGE.parse()?)?.1.last().copied(),
        };
        let is_ready = report.ready && average.is_some();
        let failure = || pipeline.failures().next().cloned();
        Ok(Done {
            error: report.error.clone().or(wrong_column).or_else(failure),
            ready: is_ready.then(|| self.clock.monotonic().saturating_sub(self.begun)),
            average,
            report,
        })
    }

    /// A moving average of a column over the whole period; the input alone without one.
    fn strategy(
        &self,
        key: &SeriesKey,
        fill: Option<(&Job, &Limits)>,
        column: Option<&str>,
    ) -> Result<Strategy> {
        let period = usize::try_from(self.args.period).unwrap_or(usize::MAX);
        let mut provider = AugmentedHistoryProvider::new(Arc::clone(&self.backend))
            .with_progress(Told(Arc::clone(&self.progress)));
        if let Some((job, limits)) = fill {
            let strategy = limits.in_time(&job.strategy);
            provider = provider.with_auto_backfill(Final { job: job.clone(), strategy });
        }
        let input = StreamInput::builder(key.node_id.as_str())
            .interval(key.interval)
            .period(period)
            .history_provider(provider)
            .clock(Arc::clone(&self.clock))
            .build()?;
        let id = AVERAGE.parse()?;
        let average = |column: &str| {
            let node = ComputeNode::slices(id, period, |windows| {
                let values = windows.f64(0);
                values.iter().sum::<f64>() / values.len() as f64
            });
            node.reads(&input, column)
        };
        let strategy = column.map(average).into_iter().fold(Strategy::builder(), |all, node| all.node(node));
        Ok(strategy.input(input).build()?)
    }
}

/// Fills by a strategy, and ends the warm-up where only files are asked and the rest is in none of them: what they hold
/// does not change, so that asking again would only take time.
#[derive(Debug)]
struct Final {
    job: Job,
    strategy: FetcherBackfillStrategy,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl AutoBackfillStrategy for Final {
    fn name(&self) -> &'static str {
        self.strategy.name()
    }

    fn sources(&self) -> Vec<SourceId> {
        self.strategy.sources()
    }

    async fn ensure_range(
        &self,
        request: &BackfillRequest,
        backend: &dyn HistoryBackend,
        progress: &dyn ProgressSink,
    ) -> Result<BackfillReport, Error> {
        let mut report = self.strategy.ensure_range(request, backend, progress).await?;
        report.last_error = self.job.never_comes(&report).or(report.last_error);
        Ok(report)
    }
}

/// One progress display for the providers of all series.
#[derive(Debug)]
struct Told(Arc<Progress>);

impl ProgressSink for Told {
    fn on_event(&self, key: &SeriesKey, event: &ProgressEvent) {
        self.0.on_event(key, event);
    }
}

fn end_of(done: &[Done]) -> Outcome {
    if done.iter().all(|done| done.ready.is_some()) {
        Outcome::Done
    } else if done.iter().all(|done| done.error.is_some() && done.report.bars == 0) {
        Outcome::Failed
    } else {
        Outcome::Partial
    }
}

fn print(done: &[Done], args: &WarmupArgs, console: &Console) -> Result<()> {
    if console.is_json() {
        return console.json(&OneOrMany::new(done.iter().map(Done::result).collect(), done.len() == 1));
    }
    done.iter().try_for_each(|done| done.show(args, console))
}

impl Done {
    /// The result for machines.
    fn result(&self) -> Primed {
        let report = &self.report;
        let interval = report.key.interval;
        Primed {
            series: Series::from(&report.key),
            bars: report.bars,
            first: report.first.map(Seconds),
            last: report.last.map(Seconds),
            ready_ms: self.ready.map(|ready| u64::try_from(ready.as_millis()).unwrap_or(u64::MAX)),
            average: self.average,
            known_empty: pairs(&report.known_empty, interval),
            missing: pairs(&report.missing, interval),
            nan: report.not_numbers.iter().map(NanColumn::from).collect(),
            error: self.error.as_ref().map(outcome::chain),
        }
    }

    /// The result for people.
    fn show(&self, args: &WarmupArgs, console: &Console) -> Result<()> {
        let report = &self.report;
        let interval = report.key.interval;
        let state = match self.ready {
            Some(ready) => console.paint(Style::Green, &format!("ready after {}", text::duration(ready))),
            None => console.paint(Style::Yellow, "not ready"),
        };
        console.line(format!("{}  {state}", console.paint(Style::Bold, &report.key.to_string())))?;
        let span =
            report.first.zip(report.last).and_then(|(first, last)| TimeRange::inclusive(first, last).ok());
        let bars = text::counted(report.bars as u64, "closed bar");
        match span {
            Some(span) => console.line(format!("  in the cache  {bars}, {}", text::range(span, interval)))?,
            None => console.line(format!("  in the cache  {bars}"))?,
        }
        if let Some(average) = self.average {
            console.line(format!("  average       {average} ({})", text::in_line(&args.column)))?;
        }
        console.line(format!("  known empty   {}", text::set(&report.known_empty, interval)))?;
        console.line(format!("  missing       {}", text::set(&report.missing, interval)))?;
        for nan in &report.not_numbers {
            let (label, told) = (console.paint(Style::Yellow, "NaN"), text::not_numbers(nan));
            console.line(format!("  {label}           {told}"))?;
        }
        match &self.error {
            Some(error) => console.line(format!(
                "  {}         {}",
                console.paint(Style::Red, "error"),
                outcome::chain(error)
            )),
            None => Ok(()),
        }
    }
}
