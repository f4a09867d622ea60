//! Fills: from arguments to jobs, from jobs to reports. `plan`, `backfill` and `demo` share it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_backfill::lease::Keeper;
use qmtl_backfill::plan::{LIMITED_WINDOW_BARS, Plan, UNLIMITED_WINDOW_BARS};
use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, Error, ErrorKind,
    HistoryBackend, RangeSet, SeriesKey, StopSignal, TimeRange, Timestamp,
};

use crate::cli::{BackfillArgs, FillArgs, SourceArgs, WorkerArgs};
use crate::console::{Console, Style};
use crate::outcome::{Failure, Outcome, Result};
use crate::progress::Progress;
use crate::range::{ClosedRange, Span};
use crate::series::{self, Wanted};
use crate::source::{self, Asking, FileSource, Names, Opened, Source, Venue};
use crate::text;
use crate::waits::Waits;

/// More windows than this need `--yes`.
const MANY_WINDOWS: u64 = 10_000;
/// The most series that are filled side by side; they share the limits.
const SERIES_AT_ONCE: u32 = 4;

/// One series to fill, checked without any I/O but that of a nodes file.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) key: SeriesKey,
    /// The bars; `None` for all that its files have, up to the end that was named.
    closed: Option<ClosedRange>,
    /// What was said of the range.
    span: Span,
    /// In order of preference; never empty.
    sources: Vec<Source>,
    symbol: Option<String>,
    product: Option<String>,
}

/// One series to fill and what fills it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) key: SeriesKey,
    pub(crate) range: TimeRange,
    /// Bars of the wish that have not closed and are left out.
    pub(crate) left_out: u64,
    /// Whether all sources are files.
    pub(crate) is_from_files: bool,
    /// Why they serve no bar of the series, when they are the wrong ones.
    pub(crate) refused: Option<Error>,
    /// Where they have bars, when they have some of the series.
    pub(crate) holds: Option<TimeRange>,
    pub(crate) strategy: FetcherBackfillStrategy,
}

/// Limits that all series of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    config: BackfillConfig,
    /// Series that are filled side by side.
    pub(crate) at_once: usize,
    /// Requests at once, all series together.
    pub(crate) requests_at_once: u64,
    /// When nothing is asked any more, on the monotonic clock, whichever series has not had its turn by then.
    until: Option<Duration>,
    /// What holds the leases without which no window is filled.
    keeper: Option<Keeper>,
    asking: Asking,
}

impl Limits {
    /// The limits of a run over `series` series, or of a plan of them.
    pub(crate) fn new(
        args: &FillArgs,
        own: Option<&BackfillArgs>,
        series: usize,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        let mut config = BackfillConfig::default();
        if let Some(bars) = args.window_bars {
            config = config.with_window_bars(bars);
        }
        if let Some(lag) = args.source.publish_lag {
            config = config.with_publish_lag(lag);
        }
        let windows = args
            .concurrency
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
        let asking = Asking {
            rate: args.rate,
            retries: own.and_then(|own| own.retries),
            retry_for: args.source.retry_for,
            archive_folder: args.source.archive_folder.clone(),
            clock: Arc::clone(clock),
        };
        let keeper = own.map(|own| keeper(&own.worker)).transpose()?.flatten();
        let limits = Self { config, at_once, requests_at_once: windows as u64, until: None, keeper, asking };
        Ok(limits.with_deadline(own.and_then(|own| own.deadline)))
    }

    /// For a run that ends so much time from now.
    pub(crate) fn with_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.until = deadline.map(|deadline| self.asking.clock.monotonic().saturating_add(deadline));
        self
    }

    /// Whether other workers fill the same series, under leases.
    pub(crate) fn is_shared(&self) -> bool {
        self.keeper.is_some()
    }

    /// What is left of the time of the run; `None` when it has no end.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(self.asking.clock.monotonic()))
    }

    /// The strategy of a job that begins now.
    pub(crate) fn in_time(&self, strategy: &FetcherBackfillStrategy) -> FetcherBackfillStrategy {
        match self.left() {
            Some(left) => strategy.clone().with_config(self.config.clone().with_deadline(left)),
            None => strategy.clone(),
        }
    }
}

/// Reads the arguments into orders; everything that can be refused without I/O is refused here.
pub(crate) async fn orders(args: &FillArgs, clock: &dyn Clock, console: &Console) -> Result<Vec<Order>> {
    let source = SourceArgs { rename: args.column.clone(), ..args.source.clone() };
    let wanted = series::select(&args.series, &source, console).await?.ok_or_else(|| {
        Failure::from(Error::invalid("no series is named: use --node ID --interval 5m, or --nodes FILE"))
    })?;
    orders_of(wanted, args, clock)
}

/// The same for series that have been read already: a list in a pipe can be read once only.
pub(crate) fn orders_of(wanted: Vec<Wanted>, args: &FillArgs, clock: &dyn Clock) -> Result<Vec<Order>> {
    // What several files tell of their series is known when they are open.
    let series = wanted.iter().map(|wanted| (&wanted.key, wanted.sources.as_slice()));
    series::told_apart(series, |_, file| file.may_be_several())?;
    let (span, now) = (args.range.span()?, clock.now());
    let orders = wanted
        .into_iter()
        .map(|Wanted { key, sources, symbol, product }| {
            if sources.is_empty() {
                let remedy = match &args.series.nodes {
                    Some(_) => "no source is named: write source = \"binance\" in the list of series",
                    None => "no source is named: use --source binance or --source file:PATH",
                };
                return Err(Failure::from(Error::invalid(remedy).with("series", &key)));
            }
            let is_whole = span.has_no_start() && matches!(sources.as_slice(), [Source::Files(_)]);
            let closed = if is_whole { None } else { Some(span.resolve_closed(key.interval, now)?) };
            Ok(Order { key, closed, span, sources, symbol, product })
        })
        .collect::<Result<Vec<_>>>()?;
    let bars = |order: &Order| args.window_bars.unwrap_or_else(|| order.window_bars());
    let windows: u64 = orders.iter().map(|order| order.count().div_ceil(bars(order))).sum();
    if windows > MANY_WINDOWS && !args.yes {
        let error = Error::invalid("the range has more than 10000 windows")
            .with("windows", windows)
            .with("window_bars", orders.iter().map(bars).min().unwrap_or_default());
        return Err(Failure::from(error)
            .hint("confirm with --yes, use a longer --window-bars, or ask for a shorter range"));
    }
    Ok(orders)
}

/// The sources that take a while to open, as they are told of.
pub(crate) fn opened(orders: &[Order]) -> String {
    let names = orders.iter().flat_map(|order| &order.sources).filter_map(Source::opened);
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

impl Order {
    /// How many bars it is about, as far as that is known before its files are open.
    fn count(&self) -> u64 {
        self.closed.map_or(0, |closed| closed.range.count(self.key.interval))
    }

    /// The bars that it is about, given where its files have some.
    ///
    /// `InvalidInput` where none of them has closed.
    fn closed(&self, holds: Option<TimeRange>, now: Timestamp) -> Result<ClosedRange, Error> {
        match (self.closed, holds) {
            (Some(closed), _) => Ok(closed),
            (None, Some(holds)) => {
                let wish = self.span.resolve(self.key.interval, now)?.intersect(holds);
                let wish = wish.ok_or_else(|| {
                    Error::invalid("the file has no bar before the end of the range")
                        .with("series", &self.key)
                        .with("file_has", text::range(holds, self.key.interval))
                })?;
                Span::Exact(wish).resolve_closed(self.key.interval, now)
            }
            (None, None) => {
                Err(Error::new(ErrorKind::NotFound, "the file has no bar").with("series", &self.key))
            }
        }
    }

    /// Whether all of its sources are files, which are one source where they are named next to each other.
    pub(crate) fn is_from_files(&self) -> bool {
        matches!(self.sources.as_slice(), [Source::Files(_)])
    }

    /// Bars of a window unless the user says otherwise: by the first source that is asked.
    fn window_bars(&self) -> u64 {
        match self.asked_first() {
            Source::Exchange(exchange) if exchange.venue != Venue::BinanceArchive => LIMITED_WINDOW_BARS,
            _ => UNLIMITED_WINDOW_BARS,
        }
    }

    /// A stand-in, else the first source.
    fn asked_first(&self) -> &Source {
        self.sources.iter().find(|source| self.is_stand_in(source)).unwrap_or(&self.sources[0])
    }

    /// Whether a source speaks for another one that is also named: the archive for its exchange.
    fn is_stand_in(&self, source: &Source) -> bool {
        let is = |source: &Source, venue| matches!(source, Source::Exchange(of) if of.venue == venue);
        is(source, Venue::BinanceArchive) && self.sources.iter().any(|other| is(other, Venue::Binance))
    }

    /// What `source` is to call the node: a file without a symbol column has no names, which is a
    /// mistake only where no exchange is named that has.
    fn names_on(&self, source: &Source) -> Names {
        let has_names = |files: &[FileSource]| files.iter().any(|file| file.has_symbol_column);
        let is_nameless = matches!(source, Source::Files(files) if !has_names(files))
            && self.sources.iter().any(|source| matches!(source, Source::Exchange(_)));
        let symbol = self.symbol.clone().filter(|_| !is_nameless);
        Names { node: self.key.node_id.clone(), symbol, product: self.product.clone() }
    }

    fn strategy(
        &self,
        fetcher_of: impl Fn(&Source) -> Arc<dyn DataFetcher>,
        limits: &Limits,
    ) -> FetcherBackfillStrategy {
        let (stand_ins, sources): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|source| self.is_stand_in(source));
        let (first, others) = sources.split_first().expect("a stand-in stands in for another source");
        let strategy =
            FetcherBackfillStrategy::new(fetcher_of(first)).with_clock(Arc::clone(&limits.asking.clock));
        let strategy = others.iter().fold(strategy, |strategy, source| strategy.then(fetcher_of(source)));
        let strategy = stand_ins
            .into_iter()
            .fold(strategy, |strategy, source| strategy.with_stand_in(fetcher_of(source)))
            .with_config(limits.config.clone());
        match &limits.keeper {
            Some(keeper) => strategy.with_leases(keeper.clone()),
            None => strategy,
        }
    }
}

/// What holds the leases of this process; `None` when it works by itself.
fn keeper(args: &WorkerArgs) -> Result<Option<Keeper>> {
    #[cfg(feature = "coordinator")]
    return Ok(crate::worker::keeper(args)?);
    #[cfg(not(feature = "coordinator"))]
    match args.coordinator {
        Some(_) => Err(crate::outcome::not_built("lease coordinator", "coordinator").into()),
        None => Ok(None),
    }
}

/// Opens each source once, for all of its series, and gives every order what fills it.
pub(crate) async fn jobs(orders: Vec<Order>, limits: &Limits, waits: &Waits) -> Result<Vec<Job>> {
    let mut opened: Vec<(Source, Opened)> = Vec::new();
    for source in orders.iter().flat_map(|order| &order.sources) {
        if opened.iter().all(|(known, _)| known != source) {
            let served = orders.iter().filter(|order| order.sources.contains(source));
            let names: Vec<_> = served.map(|order| order.names_on(source)).collect();
            let opening = Box::pin(source::open(source, &names, &limits.asking));
            let open = match source.opened() {
                Some(name) => {
                    waits.during(&format!("{name} has not been read to its end yet"), opening).await
                }
                None => opening.await,
            };
            let open = open.map_err(refused)?;
            open.notes.iter().for_each(|note| waits.note(note));
            opened.push((source.clone(), open));
        }
    }
    let open = |source: &Source| {
        let found = opened.iter().find(|(known, _)| known == source);
        &found.expect("every source was opened above").1
    };
    let series = orders.iter().map(|order| (&order.key, order.sources.as_slice()));
    series::told_apart(series, |source, _| open(source).tells_series()).map_err(refused)?;
    let now = limits.asking.clock.now();
    orders
        .into_iter()
        .map(|order| {
            let files = order.sources.first().filter(|_| order.is_from_files());
            let (holds, error) = match files.map(|files| open(files).holds(&order.key)).transpose() {
                Ok(holds) => (holds.flatten(), None),
                // Without a range there is nothing to tell of a series that the files do not serve.
                Err(error) if order.closed.is_none() => return Err(refused(error)),
                Err(error) => (None, Some(error)),
            };
            let ClosedRange { range, left_out } = order.closed(holds, now).map_err(refused)?;
            Ok(Job {
                range,
                left_out,
                is_from_files: files.is_some(),
                refused: error,
                holds,
                strategy: order.strategy(|source| Arc::clone(&open(source).fetcher), limits),
                key: order.key,
            })
        })
        .collect()
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
    /// The line with which what is said of it begins.
    pub(crate) fn show(&self, console: &Console) -> Result<()> {
        console.line(format!(
            "{}  {}",
            console.paint(Style::Bold, &self.key.to_string()),
            console.paint(Style::Dim, &text::range(self.range, self.key.interval))
        ))
    }

    /// What the files hold, where some of `missing` lies outside of it.
    pub(crate) fn beyond_files(&self, missing: &RangeSet) -> Option<String> {
        let holds = self.holds.filter(|holds| !missing.difference(&(*holds).into()).is_empty())?;
        let holds = text::range(holds, self.key.interval);
        Some(format!("the file holds {holds}; bars outside that range need another source"))
    }

    /// Why asking the files again brings nothing of what a fill from them left missing; `None` where it may.
    pub(crate) fn never_comes(&self, report: &BackfillReport) -> Option<Error> {
        let holds = self.holds.map(RangeSet::from).unwrap_or_default();
        // Inside the files' range the absence of a bar is proof as soon as its publish lag has passed.
        let wanting = report.missing.difference(&report.too_young.intersection(&holds));
        if !self.is_from_files || !report.failed.is_empty() || report.stopped || wanting.is_empty() {
            return None;
        }
        let message = match self.beyond_files(&wanting) {
            Some(beyond) => beyond + &self.other_start(&wanting),
            None => "the file lacks some of these bars and does not prove that they do not exist".to_owned(),
        };
        Some(Error::new(ErrorKind::NotFound, message))
    }

    /// What else can be asked for where the files end before the bars that are wanted of a warm-up.
    fn other_start(&self, wanting: &RangeSet) -> String {
        let end = self.holds.map(TimeRange::end);
        match end.filter(|end| wanting.span().is_some_and(|wanting| wanting.end() > *end)) {
            Some(end) => format!(", or start where the file ends: --as-of {end}"),
            None => ", or ask for fewer of them, or start later: --period, --as-of".to_owned(),
        }
    }

    /// What would be asked for.
    pub(crate) async fn plan(&self, backend: &dyn HistoryBackend) -> Result<Plan> {
        Ok(self.strategy.plan(&self.request(), backend).await?)
    }

    /// What came of it, where it failed as a whole too.
    pub(crate) fn told(&self, report: Result<BackfillReport, Error>) -> BackfillReport {
        report.unwrap_or_else(|error| {
            let mut report = BackfillReport::new(self.key.clone(), self.range);
            report.missing = RangeSet::from(self.range).on_grid(self.key.interval);
            report.failed.push((self.range, error));
            report
        })
    }

    fn request(&self) -> BackfillRequest {
        BackfillRequest::new(self.key.clone(), self.range)
    }
}

/// Fills all jobs, a few at once; their reports in the order of the jobs.
///
/// When it is stopped, what is under way ends well and is told; jobs that had not begun end as cancelled.
pub(crate) async fn fill(
    jobs: &[Job],
    limits: &Limits,
    backend: &dyn HistoryBackend,
    (progress, stop): (&Progress, &StopSignal),
) -> Vec<Result<BackfillReport, Error>> {
    let filled = stream::iter(jobs.iter().enumerate()).map(|(index, job)| async move {
        let request = job.request().with_stop(stop.clone());
        let report = limits.in_time(&job.strategy).ensure_range(&request, backend, progress).await;
        progress.finish(&job.key);
        (index, report)
    });
    let mut reports: Vec<_> = filled.buffer_unordered(limits.at_once).collect().await;
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}
