//! Fills: from arguments to jobs, from jobs to reports. `plan`, `backfill` and `demo` share it.

use std::sync::Arc;

use futures::{StreamExt, stream};
use qmtl_backfill::plan::{Plan, UNLIMITED_WINDOW_BARS};
use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, Error, ErrorKind,
    HistoryBackend, ProgressSink, SeriesKey, TimeRange,
};

use crate::cli::{BackfillArgs, FillArgs};
use crate::outcome::{Failure, Outcome, Result};
use crate::range::ClosedRange;
use crate::series::{self, Wanted};
use crate::source::{self, FileSource};

/// More windows than this need `--yes`.
const MANY_WINDOWS: u64 = 10_000;
/// The most series that are filled side by side; they share the limits.
const SERIES_AT_ONCE: u32 = 4;

/// One series to fill, checked without any I/O but that of a nodes file.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) key: SeriesKey,
    pub(crate) closed: ClosedRange,
    source: FileSource,
    symbol: Option<String>,
}

/// One series to fill and what fills it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) key: SeriesKey,
    pub(crate) range: TimeRange,
    /// Bars of the wish that have not closed and are left out.
    pub(crate) left_out: u64,
    pub(crate) strategy: FetcherBackfillStrategy,
}

/// Limits that all series of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    config: BackfillConfig,
    at_once: usize,
}

impl Limits {
    /// The limits of a run over `series` series, or of a plan of them.
    pub(crate) fn new(args: &FillArgs, own: Option<&BackfillArgs>, series: usize) -> Self {
        let mut config = BackfillConfig::default();
        if let Some(bars) = args.window_bars {
            config = config.with_window_bars(bars);
        }
        let windows = own
            .and_then(|own| own.concurrency)
            .and_then(|windows| usize::try_from(windows).ok())
            .unwrap_or(config.windows_in_flight);
        let memory = own.and_then(|own| own.memory).unwrap_or(config.memory_budget);
        let at_once = series.clamp(1, SERIES_AT_ONCE as usize).min(windows);
        let memory = memory / at_once as u64;
        // Gathered rows are within the budget, so a flush must come before it is used up.
        let flush = config.flush_bytes.min(memory / 2).max(1);
        let config = config
            .with_windows_in_flight((windows / at_once).max(1))
            .with_memory_budget(memory)
            .with_flush_bytes(flush);
        Self { config, at_once }
    }
}

/// Reads the arguments into orders; everything that can be refused without I/O is refused here.
pub(crate) fn orders(args: &FillArgs, clock: &dyn Clock) -> Result<Vec<Order>> {
    let wanted = series::select(&args.series, &args.source)?.ok_or_else(|| {
        Failure::from(Error::invalid("no series is named: use --node ID --interval 5m, or --nodes FILE"))
    })?;
    let (span, now) = (args.range.span()?, clock.now());
    let orders = wanted
        .into_iter()
        .map(|Wanted { key, source, symbol }| {
            let source = source.ok_or_else(|| {
                let remedy = match &args.series.nodes {
                    Some(_) => "no source is named: write source = \"file:PATH\" in the list of series",
                    None => "no source is named: use --source file:PATH",
                };
                Failure::from(Error::invalid(remedy).with("series", &key))
            })?;
            let closed = span.resolve_closed(key.interval, now)?;
            Ok(Order { key, closed, source, symbol })
        })
        .collect::<Result<Vec<_>>>()?;
    let bars = args.window_bars.unwrap_or(UNLIMITED_WINDOW_BARS);
    let windows: u64 =
        orders.iter().map(|order| order.closed.range.count(order.key.interval).div_ceil(bars)).sum();
    if windows > MANY_WINDOWS && !args.yes {
        let error = Error::invalid("the range has more than 10000 windows")
            .with("windows", windows)
            .with("window_bars", bars);
        return Err(
            Failure::from(error).hint("agree with --yes, take a longer --window-bars, or ask for less")
        );
    }
    Ok(orders)
}

/// Opens each source once, for all of its series, and gives every order what fills it.
pub(crate) async fn jobs(orders: Vec<Order>, limits: &Limits, clock: &Arc<dyn Clock>) -> Result<Vec<Job>> {
    let mut opened: Vec<(FileSource, Arc<dyn DataFetcher>)> = Vec::new();
    for order in &orders {
        if opened.iter().all(|(source, _)| *source != order.source) {
            let symbols: Vec<_> = orders
                .iter()
                .filter(|other| other.source == order.source)
                .filter_map(|other| Some((other.key.node_id.clone(), other.symbol.clone()?)))
                .collect();
            let fetcher = source::open(&order.source, &symbols).await.map_err(refused)?;
            opened.push((order.source.clone(), fetcher));
        }
    }
    let fetcher_of = |source: &FileSource| {
        let (_, fetcher) =
            opened.iter().find(|(known, _)| known == source).expect("every source was opened above");
        Arc::clone(fetcher)
    };
    Ok(orders
        .into_iter()
        .map(|order| Job {
            range: order.closed.range,
            left_out: order.closed.left_out,
            strategy: FetcherBackfillStrategy::new(fetcher_of(&order.source), Arc::clone(clock))
                .with_config(limits.config.clone()),
            key: order.key,
        })
        .collect())
}

/// A source that is not there is a wrong argument.
fn refused(error: Error) -> Failure {
    let outcome = match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => Outcome::Usage,
        _ => Outcome::Failed,
    };
    Failure::Error { error, hint: None, outcome }
}

impl Job {
    /// What would be asked for.
    pub(crate) async fn plan(&self, backend: &dyn HistoryBackend) -> Result<Plan> {
        Ok(self.strategy.plan(&self.request(), backend).await?)
    }

    fn request(&self) -> BackfillRequest {
        BackfillRequest::new(self.key.clone(), self.range)
    }
}

/// Fills all jobs, a few at once, and hands each report to `done` as it comes.
///
/// Dropping the future cancels what is under way; reports that were handed over stay.
pub(crate) async fn fill(
    jobs: &[Job],
    limits: &Limits,
    backend: &dyn HistoryBackend,
    (progress, done): (&dyn ProgressSink, impl Fn(usize, Result<BackfillReport, Error>) + Send + Sync),
) {
    let done = &done;
    stream::iter(jobs.iter().enumerate())
        .for_each_concurrent(limits.at_once, |(index, job)| async move {
            let request = job.request();
            done(index, job.strategy.ensure_range(&request, backend, progress).await);
        })
        .await;
}
