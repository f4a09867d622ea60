//! `backfill`: fills the holes, shows how it goes, and says what came of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qmtl_history_api::frame::Conflict;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, Error, ErrorKind, HistoryBackend, Interval, RangeSet, StopSignal,
    TimeRange, Timestamp,
};
use serde::Serialize;

use super::{Context, compare, follow, in_time, plan, warn_of_damage};
use crate::cli::BackfillArgs;
use crate::console::{self, Console, Style};
use crate::fill::{self, Job, Limits, Order};
use crate::outcome::{self, Failure, Outcome, Result};
use crate::progress::Progress;
use crate::shapes::{NanColumn, OneOrMany, Pair, Seconds, Series, pair, pairs};
use crate::store::Store;
use crate::text;
use crate::waits::Waits;

/// The result for one series.
#[derive(Debug, Serialize)]
pub(crate) struct Filled {
    #[serde(flatten)]
    series: Series,
    rows_written: u64,
    present: Vec<Pair>,
    known_empty: Vec<Pair>,
    missing: Vec<Pair>,
    /// Of those, bars that their source may still publish.
    too_young: Vec<Pair>,
    /// Missing bars further back than any source has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out_of_reach: Vec<Pair>,
    failed: Vec<FailedWindow>,
    fetch_requests: u64,
    elapsed_ms: u64,
    /// Fetched rows left out because one was stored already.
    rows_kept_out: u64,
    /// Bars whose row was moved onto the grid.
    #[serde(skip_serializing_if = "is_none")]
    rows_moved: u64,
    /// Fetched rows that were not written, by reason.
    rows_dropped: BTreeMap<&'static str, u64>,
    /// Rows that stand on no point of the grid, the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    off_grid: Vec<OddRow>,
    /// Rows that contradict another of the same time, the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<Contradiction>,
    /// Columns in which a stored row has NaN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nan: Vec<NanColumn>,
    /// Stored rows that their source has revised, and which were replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revised: Vec<Contradiction>,
    retries: u64,
    retry_reasons: BTreeMap<&'static str, u64>,
    /// Where this run stored rows, by the source that gave them.
    sources: Vec<Given>,
    /// Bars of the wish that had not closed.
    not_closed: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    /// Why a request was being made again when the run was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Of the rows written, those that took the place of stored ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_replaced: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

#[derive(Debug, Serialize)]
struct Given {
    source: String,
    ranges: Vec<Pair>,
}

/// A row off the grid: its time, and how far it stands behind the bar's opening.
#[derive(Debug, Serialize)]
struct OddRow {
    ts: Seconds,
    bar: Option<Seconds>,
    distance_s: f64,
}

/// Two values for one time: what is stored, and what else was given.
#[derive(Debug, Serialize)]
pub(super) struct Contradiction {
    ts: Seconds,
    column: String,
    kept: String,
    other: String,
}

impl From<&Conflict> for Contradiction {
    fn from(conflict: &Conflict) -> Self {
        Self {
            ts: Seconds(conflict.ts),
            column: conflict.column.clone(),
            kept: conflict.kept.clone(),
            other: conflict.other.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct FailedWindow {
    range: Pair,
    error: String,
}

impl FailedWindow {
    pub(super) fn new((range, error): &(TimeRange, Error), interval: Interval) -> Self {
        Self { range: pair(*range, interval), error: outcome::chain(error) }
    }
}

/// What came of one series.
#[derive(Debug)]
pub(crate) struct Done {
    pub(super) job: Job,
    pub(super) report: BackfillReport,
    /// When this was made.
    now: Timestamp,
    /// Rows that were replaced because their source has revised them.
    pub(super) revised: Vec<Conflict>,
    /// How many rows took the place of stored ones, and why, when that was asked for.
    replaced: Option<(u64, String)>,
}

/// How the run of all series ended.
#[derive(Debug)]
pub(crate) struct Run {
    /// What was begun.
    pub(crate) done: Vec<Done>,
    /// Whether one series was asked for.
    one: bool,
    pub(crate) outcome: Outcome,
    /// Whether a signal has ended it.
    pub(super) was_cut: bool,
}

/// A source's clock that is so far behind ours is worth a word.
const CLOCKS_DIFFER: Duration = Duration::from_secs(86_400);

/// How many of a list are shown to people.
pub(super) const SHOWN: usize = 10;

/// Says how many of a list were not shown.
pub(super) fn more(console: &Console, all: usize) -> Result<()> {
    match all.checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => console.line(format!("    ... and {more} more; --json has them all")),
        None => Ok(()),
    }
}

/// The windows that failed, each behind a label and so many blanks.
pub(super) fn show_failed(report: &BackfillReport, blanks: &str, console: &Console) -> Result<()> {
    for (range, error) in report.failed.iter().take(SHOWN) {
        let (label, range) = (console.paint(Style::Red, "failed"), text::range(*range, report.key.interval));
        console.line(format!("  {label}{blanks}{range}: {}", outcome::chain(error)))?;
    }
    more(console, report.failed.len())
}

pub(crate) async fn run(args: &BackfillArgs, context: &Context) -> Result<Outcome> {
    if args.dry_run {
        return plan::dry_run(&args.fill, context, args.replace).await;
    }
    let open = Open::new(args, context).await?;
    if args.compare {
        return compare::run(open, context).await;
    }
    if args.follow {
        return follow::run(open, context).await;
    }
    conclude(&open.fill(open.jobs.clone(), context).await?, context)
}

/// Prints what came of a run.
pub(super) fn conclude(run: &Run, context: &Context) -> Result<Outcome> {
    let rows: u64 = run.done.iter().map(|done| done.report.rows_written).sum();
    console::told_or_not(print(run, &context.console)).map_err(|failure| match rows {
        0 => failure,
        _ => failure.hint(format!("{} stored all the same", text::counted(rows, "row"))),
    })?;
    if run.outcome == Outcome::Interrupted {
        context.console.warn(match rows {
            0 => "interrupted before anything was stored; run the same command to start again".to_owned(),
            1 => "interrupted: 1 row is stored and kept; run the same command to continue".to_owned(),
            _ => format!(
                "interrupted: {} rows are stored and kept; run the same command to continue",
                text::count(rows)
            ),
        });
    }
    Ok(run.outcome)
}

fn print(run: &Run, console: &Console) -> Result<()> {
    for done in &run.done {
        if let Some(told) = done.job.beyond_files(&done.report.wanting()) {
            console.note(format!("{}: {told}", done.job.key));
        }
    }
    if console.is_json() {
        console.json(&OneOrMany::new(run.done.iter().map(Done::result).collect(), run.one))
    } else {
        run.done.iter().try_for_each(|done| done.show(console))?;
        if run.one { Ok(()) } else { sum_up(&run.done, console) }
    }
}

/// How many of many series are as they should be, and which are not.
fn sum_up(done: &[Done], console: &Console) -> Result<()> {
    let is_failed = |done: &&Done| !done.report.failed.is_empty();
    let is_incomplete = |done: &&Done| done.report.failed.is_empty() && !done.report.wanting().is_empty();
    let keys =
        |is: &dyn Fn(&&Done) -> bool| done.iter().filter(is).map(|done| &done.job.key).collect::<Vec<_>>();
    let (failed, incomplete) = (keys(&is_failed), keys(&is_incomplete));
    let complete = done.len() - failed.len() - incomplete.len();
    console.line(format!(
        "{} series: {} complete, {} incomplete, {} failed",
        text::count(done.len() as u64),
        text::count(complete as u64),
        text::count(incomplete.len() as u64),
        text::count(failed.len() as u64)
    ))?;
    for (what, keys) in [("incomplete", incomplete), ("failed", failed)] {
        for key in keys.iter().take(SHOWN) {
            console.line(format!("  {what:<11}  {key}"))?;
        }
        more(console, keys.len())?;
    }
    Ok(())
}

/// A store and what fills its series.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) jobs: Vec<Job>,
    pub(super) limits: Limits,
    pub(super) store: Store,
    /// Why what comes takes the place of stored rows, when it is to.
    reason: Option<String>,
}

impl Open {
    /// Checks the arguments, then opens the store and every source, unless that is interrupted or takes all the time
    /// that there is.
    pub(super) async fn new(args: &BackfillArgs, context: &Context) -> Result<Self> {
        let orders = tokio::select! {
            orders = fill::orders(&args.fill, &*context.clock, &context.console) => orders?,
            () = context.signals.asked() => {
                let why = "the list of series had not been read to its end";
                return Err(interrupted(Error::new(ErrorKind::Cancelled, why)));
            }
        };
        if args.follow && orders.iter().all(Order::is_from_files) {
            return Err(follow::nothing_to_follow());
        }
        let limits = Limits::new(&args.fill, Some(args), orders.len(), &context.clock)?;
        // A server may not answer, and a large file takes a while to open.
        let named = context.global.store.as_deref();
        let shown = text::without_secrets(named.unwrap_or_default());
        let opening = Box::pin(Store::open_or_new(named, limits.left(), &context.console));
        let waits = Waits::new(&context.console).with_deadline(limits.left());
        let sources = fill::opened(&orders);
        let pending = Mutex::new(format!("the store {shown} was not open yet"));
        let await_now = |what| *pending.lock().unwrap_or_else(PoisonError::into_inner) = what;
        let opening = async {
            let what = format!("the store {shown} was open");
            let store = in_time(&what, limits.left(), &*context.clock, opening).await?;
            let opening = Box::pin(fill::jobs(orders, &limits, &waits));
            await_now(format!("a source was not open yet: {sources}"));
            let jobs = in_time("the sources were open", limits.left(), &*context.clock, opening).await;
            let jobs = jobs.map_err(Failure::of_source)?;
            await_now(format!("the store {shown} had not listed its series yet"));
            let looking = warn_of_damage(&store, jobs.iter().map(|job| &job.key), &context.console);
            let what = format!("the store {shown} had listed its series");
            in_time(&what, limits.left(), &*context.clock, looking).await?;
            Ok::<_, Failure>((store, jobs))
        };
        let (store, jobs) = tokio::select! {
            opened = opening => opened?,
            () = context.signals.asked() => {
                let why = pending.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(interrupted(Error::new(ErrorKind::Cancelled, why)));
            }
        };
        for job in &jobs {
            plan::left_out(job, context);
        }
        Ok(Self { jobs, limits, store, reason: args.reason.clone() })
    }

    /// Runs jobs to their end, or until an interruption.
    pub(super) async fn fill(&self, jobs: Vec<Job>, context: &Context) -> Result<Run> {
        fill_jobs(jobs, self, context).await
    }
}

/// The end of a run that was interrupted before anything was begun.
fn interrupted(why: Error) -> Failure {
    let message = "interrupted before anything was stored; run the same command to start again";
    Error::new(ErrorKind::Cancelled, message).caused_by(why).into()
}

async fn fill_jobs(jobs: Vec<Job>, open: &Open, context: &Context) -> Result<Run> {
    let Open { limits, store, reason, .. } = open;
    let progress = Progress::new(&context.console).with_replaces(reason.is_some());
    let replacing = reason.as_ref().map(|reason| {
        for job in &jobs {
            tracing::info!(series = %job.key, range = %job.range, reason, "stored rows are replaced");
        }
        store.replacing()
    });
    let backend: &dyn HistoryBackend = replacing.as_ref().map_or(&**store, |replacing| replacing);
    let stop = context.signals.stop();
    let reports = fill::fill(&jobs, limits, backend, (&progress, &stop)).await;
    if let [Err(error)] = reports.as_slice()
        && !(is_stopped(error, &stop) && limits.is_shared())
    {
        let error = error.clone();
        return Err(if is_stopped(&error, &stop) { interrupted(error) } else { error.into() });
    }
    let count = jobs.len();
    let mut done = Vec::new();
    for (job, report) in jobs.into_iter().zip(reports) {
        if report.as_ref().is_err_and(|error| is_stopped(error, &stop)) {
            continue;
        }
        let mut item = Done::new(job, report, context.clock.now());
        if let Some((replacing, reason)) = replacing.as_ref().zip(reason.clone()) {
            item.replaced = Some((replacing.replaced(&item.job.key), reason));
            item.look_at(&**store).await;
        }
        done.push(item);
    }
    let was_cut = done.len() < count || done.iter().any(|done| done.report.stopped);
    let outcome = match end_of(&done) {
        _ if was_cut => end_of_interrupted(limits, context),
        outcome => outcome,
    };
    Ok(Run { done, one: count == 1, outcome, was_cut })
}

/// The exit of a run that a signal has ended.
pub(super) fn end_of_interrupted(limits: &Limits, context: &Context) -> Outcome {
    // A worker that is told to go has done its part: the others do the rest.
    let is_relieved = limits.is_shared() && context.signals.was_terminated();
    if is_relieved { Outcome::Done } else { Outcome::Interrupted }
}

/// Whether a fill was stopped before it had begun, which is nothing to tell.
pub(super) fn is_stopped(error: &Error, stop: &StopSignal) -> bool {
    error.kind() == ErrorKind::Cancelled && stop.is_stopped()
}

/// The exit of a run that was not interrupted.
pub(super) fn end_of(done: &[Done]) -> Outcome {
    let failed = done.iter().any(|done| !done.report.failed.is_empty());
    let gained = done.iter().any(|done| done.report.rows_written > 0 || !done.report.known_empty.is_empty());
    // A row off the grid leaves its bar missing, unless another row is there.
    let missing = done.iter().any(|done| !done.report.wanting().is_empty());
    match (failed, gained, missing) {
        (true, false, _) => Outcome::Failed,
        (true, true, _) | (false, _, true) => Outcome::Partial,
        (false, _, false) => Outcome::Done,
    }
}

impl Done {
    /// What is there after a look at bars that were revised, and nothing was filled.
    pub(super) async fn revised(
        job: Job,
        revised: Vec<Conflict>,
        (backend, now): (&dyn HistoryBackend, Timestamp),
    ) -> Self {
        let report = BackfillReport::new(job.key.clone(), job.range);
        let mut done = Self { revised, ..Self::new(job, Ok(report), now) };
        done.look_at(backend).await;
        done
    }

    pub(super) fn new(job: Job, report: Result<BackfillReport, Error>, now: Timestamp) -> Self {
        let mut report = job.told(report);
        if job.is_from_files {
            // A file publishes nothing.
            report.too_young = RangeSet::new();
        }
        Self { job, report, now, revised: Vec::new(), replaced: None }
    }

    /// Asks the store what it has now, where the fill has not.
    async fn look_at(&mut self, backend: &dyn HistoryBackend) {
        let (job, report) = (&self.job, &mut self.report);
        match backend.coverage(&job.key, job.range).await {
            Ok(coverage) => report.coverage = coverage,
            // Of a series that cannot be looked at nothing is known; the others' results stand.
            Err(error) if report.failed.is_empty() => report.failed.push((job.range, error)),
            Err(_) => {}
        }
        let sources = job.strategy.sources();
        report.missing = report.coverage.missing(job.range, job.key.interval, &sources, self.now);
        report.too_young = report.too_young.intersection(&report.missing);
    }

    /// What one source proved and another one that is asked now did not is missing, and counted so.
    fn known_empty(&self) -> RangeSet {
        self.report.coverage.empty_by_any(self.now).difference(&self.report.missing)
    }

    /// The result for machines.
    pub(crate) fn result(&self) -> Filled {
        let (report, interval) = (&self.report, self.job.key.interval);
        let failed = |window: &(TimeRange, Error)| FailedWindow::new(window, interval);
        Filled {
            series: Series::from(&self.job.key),
            rows_written: report.rows_written,
            present: pairs(report.coverage.present(), interval),
            known_empty: pairs(&self.known_empty(), interval),
            missing: pairs(&report.missing, interval),
            too_young: pairs(&report.too_young, interval),
            out_of_reach: pairs(&report.out_of_reach, interval),
            off_grid: report
                .off_grid
                .iter()
                .map(|row| OddRow {
                    ts: Seconds(row.ts),
                    bar: row.bar.map(Seconds),
                    distance_s: row.distance().as_secs_f64(),
                })
                .collect(),
            conflicts: report.conflicts.iter().map(Contradiction::from).collect(),
            nan: report.not_numbers.iter().map(NanColumn::from).collect(),
            revised: self.revised.iter().map(Contradiction::from).collect(),
            failed: report.failed.iter().map(failed).collect(),
            fetch_requests: report.fetch_requests,
            elapsed_ms: u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
            rows_kept_out: report.rows_kept_out,
            rows_moved: report.rows_moved,
            rows_dropped: report.dropped.by_reason().into_iter().filter(|(_, rows)| *rows > 0).collect(),
            retries: report.retries,
            retry_reasons: report.retry_reasons.clone(),
            sources: report
                .filled
                .iter()
                .map(|(source, set)| Given {
                    source: source.as_str().to_owned(),
                    ranges: pairs(set, interval),
                })
                .collect(),
            not_closed: self.job.left_out,
            interrupted: report.stopped,
            last_error: report.last_error.as_ref().map(outcome::chain),
            rows_replaced: self.replaced.as_ref().map(|(rows, _)| *rows),
            reason: self.replaced.as_ref().map(|(_, reason)| reason.clone()),
        }
    }

    /// The result for people.
    fn show(&self, console: &Console) -> Result<()> {
        let (report, interval) = (&self.report, self.job.key.interval);
        self.job.show(console)?;
        console.line(format!("  stored       {}", self.stored()))?;
        if let Some((rows, reason)) = &self.replaced {
            let rows = text::counted(*rows, "row");
            let reason = text::for_terminal(reason);
            console.line(format!("  replaced     {rows} (reason: {reason})"))?;
        }
        console.line(format!("  present      {}", text::set(report.coverage.present(), interval)))?;
        console.line(format!("  known empty  {}", text::set(&self.known_empty(), interval)))?;
        if report.filled.len() > 1 {
            for (source, ranges) in &report.filled {
                console.line(format!("    from       {source}: {}", text::set(ranges, interval)))?;
            }
        }
        if report.retries > 0 {
            let reasons: Vec<_> =
                report.retry_reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
            let repeated = text::counted(report.retries, "request");
            console.line(format!("  repeated     {repeated}: {}", reasons.join(", ")))?;
        }
        let missing = text::set(&report.missing, interval);
        let style = if report.wanting().is_empty() { Style::Green } else { Style::Yellow };
        console.line(format!("  missing      {}", console.paint(style, &missing)))?;
        if !report.too_young.is_empty() {
            let young = text::counted(report.too_young.count(interval), "bar");
            console.line(format!("    too young  {young}, which the source may still publish"))?;
        }
        if !report.out_of_reach.is_empty() {
            console.line(format!("    {}", text::out_of_reach(&report.out_of_reach, interval)))?;
        }
        let left_out: Vec<_> = report
            .dropped
            .by_reason()
            .into_iter()
            .chain([("stored already", report.rows_kept_out)])
            .filter(|(_, rows)| *rows > 0)
            .map(|(reason, rows)| format!("{} {}", text::count(rows), reason.replace('_', " ")))
            .collect();
        if !left_out.is_empty() {
            console.line(format!("  left out     rows: {}", left_out.join(", ")))?;
        }
        if report.rows_moved > 0 {
            let rows = text::counted(report.rows_moved, "row");
            console.line(format!("  moved        {rows} onto the grid"))?;
        }
        self.show_odd_rows(console)?;
        self.show_open_ends(console)
    }

    /// Rows that are not as they should be, by name.
    fn show_odd_rows(&self, console: &Console) -> Result<()> {
        let (report, interval) = (&self.report, self.job.key.interval);
        for row in report.off_grid.iter().take(SHOWN) {
            console.line(format!("    off grid   {}", text::off_grid(row, interval)))?;
        }
        more(console, report.off_grid.len())?;
        if !report.off_grid.is_empty() && !report.wanting().is_empty() {
            console.line(
                "    to store such rows as the bars in which they stand: --off-grid floor; to take their bars as absent: \
                 --off-grid drop",
            )?;
        }
        for Conflict { ts, column, kept, other, .. } in report.conflicts.iter().take(SHOWN) {
            // Names and values are as their file has them.
            let told = text::in_line(&format!("{column}: {kept} is kept, {other} is left out"));
            console.line(format!("    conflict   {ts} {told}"))?;
        }
        more(console, report.conflicts.len())?;
        for nan in &report.not_numbers {
            let (label, told) = (console.paint(Style::Yellow, "NaN"), text::not_numbers(nan));
            console.line(format!("  {label}          {told}"))?;
        }
        Ok(())
    }

    /// What failed and what nobody could say.
    fn show_open_ends(&self, console: &Console) -> Result<()> {
        let interval = self.job.key.interval;
        show_failed(&self.report, "       ", console)?;
        if let Some(error) = &self.report.last_error {
            console.line(format!("  waited for   {}", outcome::chain(error)))?;
        }
        let odd = self.report.off_grid.iter().filter_map(|row| row.bars(interval)).collect();
        let wanting = self.report.wanting().difference(&odd).on_grid(interval);
        if self.report.failed.is_empty() && !wanting.is_empty() && !self.report.stopped {
            for range in wanting.iter().take(SHOWN) {
                console.line(format!("    {}", text::range(range, interval)))?;
            }
            if let Some(then) = self.report.answered_at.filter(|then| self.now.since(*then) > CLOCKS_DIFFER) {
                let clocks = format!("it is {then} by the source's clock and {} by ours", self.now);
                return console
                    .line(format!("  {clocks}; a bar that has closed by ours alone is not asked for"));
            }
            console.line(
                "  no source returned these bars or proved them absent; the next run asks again (what counts as proof: \
                 docs/known-empty.md)",
            )?;
        }
        Ok(())
    }

    /// What was stored and how fast.
    fn stored(&self) -> String {
        let report = &self.report;
        let rows = text::counted(report.rows_written, "row");
        if report.stopped {
            return format!("{rows} before the interruption");
        }
        if report.fetch_requests == 0 && report.failed.is_empty() {
            return format!("{rows}, 0 requests: nothing was asked for");
        }
        let speed = match u64::try_from(report.elapsed.as_micros()) {
            Ok(micros) if micros > 0 => {
                format!(", {} rows/s", text::count(report.rows_written.saturating_mul(1_000_000) / micros))
            }
            _ => String::new(),
        };
        let requests = text::counted(report.fetch_requests, "request");
        format!("{rows} in {}, {requests}{speed}", text::duration(report.elapsed))
    }
}
