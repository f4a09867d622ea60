//! `plan`: the holes and what would be asked for.

use std::time::Duration;

use qmtl_backfill::plan::{Demand, Plan};
use serde::Serialize;

use super::Context;
use crate::cli::FillArgs;
use crate::console::Style;
use crate::fill::{self, Job, Limits};
use crate::outcome::{Outcome, Result};
use crate::shapes::{OneOrMany, Pair, Series, pair, pairs};
use crate::store::Store;
use crate::text;
use crate::waits::Waits;

/// The result for one series.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    #[serde(flatten)]
    series: Series,
    gaps: Vec<Pair>,
    /// Missing bars further back than any source has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out_of_reach: Vec<Pair>,
    windows: Vec<Pair>,
    estimated_rows: u64,
    requests: u64,
    /// What the requests cost, in the sources' own units.
    weight: u64,
    /// How long they take, at the assumed round trip; null where nothing is said of a request's cost.
    seconds: Option<f64>,
    sources: Vec<Asked>,
}

/// The most that one source is asked.
#[derive(Debug, Serialize)]
struct Asked {
    source: String,
    requests: u64,
    weight: u64,
}

impl Planned {
    pub(super) fn new(job: &Job, plan: &Plan, limits: &Limits) -> Self {
        let asked = |demand: &Demand| Asked {
            source: demand.source.as_str().to_owned(),
            requests: demand.requests,
            weight: demand.weight,
        };
        let interval = job.key.interval;
        Self {
            series: Series::from(&job.key),
            gaps: pairs(plan.gaps(), interval),
            out_of_reach: pairs(plan.out_of_reach(), interval),
            windows: plan.windows().map(|window| pair(window.span(), interval)).collect(),
            estimated_rows: plan.estimated_rows(),
            requests: plan.request_count(),
            weight: plan.weight(),
            seconds: (plan.weight() > 0).then(|| time_of(plan, limits).as_secs_f64()),
            sources: plan.demands().iter().map(asked).collect(),
        }
    }
}

/// How long the answer to a request is taken to need.
const ROUND_TRIP: Duration = Duration::from_millis(100);

fn time_of(plan: &Plan, limits: &Limits) -> Duration {
    plan.estimated_time(limits.requests_at_once, ROUND_TRIP)
}

/// How many gaps are listed for people.
const GAPS_SHOWN: usize = 12;

pub(crate) async fn run(args: &FillArgs, context: &Context) -> Result<Outcome> {
    print(&plans(args, context, false).await?, "missing", context)
}

/// Prints what a fill would ask for, also one that replaces.
pub(crate) async fn dry_run(args: &FillArgs, context: &Context, replace: bool) -> Result<Outcome> {
    print(&plans(args, context, replace).await?, if replace { "again" } else { "missing" }, context)
}

/// Prints plans, in which `why` says why bars are asked for.
fn print((planned, limits): &(Vec<(Job, Plan)>, Limits), why: &str, context: &Context) -> Result<Outcome> {
    for (job, plan) in planned {
        if let Some(told) = job.beyond_files(plan.gaps()) {
            context.console.note(format!("{}: {told}", job.key));
        }
    }
    if context.console.is_json() {
        let one = planned.len() == 1;
        let results = planned.iter().map(|(job, plan)| Planned::new(job, plan, limits)).collect();
        context.console.json(&OneOrMany::new(results, one))?;
    } else {
        for (job, plan) in planned {
            show(job, plan, (limits, why), context)?;
        }
    }
    Ok(Outcome::Done)
}

/// Plans every series without writing anything, not even the store's folder.
pub(crate) async fn plans(
    args: &FillArgs,
    context: &Context,
    replace: bool,
) -> Result<(Vec<(Job, Plan)>, Limits)> {
    let orders = fill::orders(args, &*context.clock, &context.console).await?;
    let store = Store::open_or_new(context.global.store.as_deref(), None, &context.console).await?;
    let limits = Limits::new(args, None, orders.len(), &context.clock)?;
    let mut planned = Vec::new();
    let jobs = fill::jobs(orders, &limits, &Waits::new(&context.console)).await?;
    super::warn_of_damage(&store, jobs.iter().map(|job| &job.key), &context.console).await?;
    for job in jobs {
        let plan = if replace { job.plan(&store.replacing()).await? } else { job.plan(&*store).await? };
        // What would be asked is refused by the files already.
        if let Some(error) = job.refused.clone().filter(|_| !plan.gaps().is_empty()) {
            return Err(error.into());
        }
        planned.push((job, plan));
    }
    Ok((planned, limits))
}

fn show(job: &Job, plan: &Plan, (limits, why): (&Limits, &str), context: &Context) -> Result<()> {
    let (console, interval) = (&context.console, job.key.interval);
    job.show(console)?;
    if !plan.out_of_reach().is_empty() {
        console.line(format!("  {}", text::out_of_reach(plan.out_of_reach(), interval)))?;
    }
    if plan.gaps().is_empty() && plan.out_of_reach().is_empty() {
        console.line(format!("  {}: nothing is missing", console.paint(Style::Green, "complete")))?;
    } else if !plan.gaps().is_empty() {
        console.line(format!("  {why:<9} {}", text::set(plan.gaps(), interval)))?;
        for gap in plan.gaps().iter().take(GAPS_SHOWN) {
            let bars = text::counted(gap.count(interval), "bar");
            console.line(format!("    {}  {bars}", text::range(gap, interval)))?;
        }
        if let Some(more) = plan.gaps().len().checked_sub(GAPS_SHOWN).filter(|more| *more > 0) {
            console.line(format!("    ... and {more} more; --json has them all"))?;
        }
        console.line(format!(
            "  to do     {}, {}, at most {}",
            text::counted(plan.window_count(), "window"),
            text::counted(plan.request_count(), "request"),
            text::counted(plan.estimated_rows(), "row")
        ))?;
        show_sources(plan, limits, context)?;
    }
    left_out(job, context);
    Ok(())
}

/// Who is asked for how much, where that costs something, and how long it takes.
fn show_sources(plan: &Plan, limits: &Limits, context: &Context) -> Result<()> {
    let console = &context.console;
    if plan.demands().len() > 1 || plan.weight() > 0 {
        for Demand { source, requests, weight, .. } in plan.demands() {
            let requests = text::counted(*requests, "request");
            let weight =
                if *weight > 0 { format!(", weight {}", text::count(*weight)) } else { String::new() };
            console.line(format!("    at most {requests}{weight}  {source}"))?;
        }
    }
    if plan.weight() > 0 {
        console.line(format!(
            "  takes     about {}, {} at once, if an answer takes {}",
            text::duration(time_of(plan, limits)),
            text::counted(limits.requests_at_once, "request"),
            text::duration(ROUND_TRIP)
        ))?;
    }
    Ok(())
}

/// Says which bars of the wish are left out because they have not closed.
pub(crate) fn left_out(job: &Job, context: &Context) {
    if job.left_out > 0 {
        context.console.note(format!(
            "{}: {} not closed yet and left out",
            job.key,
            if job.left_out == 1 {
                "1 bar has".to_owned()
            } else {
                format!("{} bars have", text::count(job.left_out))
            }
        ));
    }
}
