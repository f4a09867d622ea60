//! `plan`: the holes and what would be asked for.

use qmtl_backfill::plan::Plan;
use serde::Serialize;

use super::Context;
use crate::cli::FillArgs;
use crate::console::Style;
use crate::fill::{self, Job, Limits};
use crate::outcome::{Outcome, Result};
use crate::shapes::{OneOrMany, Pair, Series, pair, pairs};
use crate::store::Store;
use crate::text;

/// The result for one series.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    #[serde(flatten)]
    series: Series,
    gaps: Vec<Pair>,
    windows: Vec<Pair>,
    estimated_rows: u64,
    requests: u64,
}

impl Planned {
    fn new(job: &Job, plan: &Plan) -> Self {
        let interval = job.key.interval;
        Self {
            series: Series::from(&job.key),
            gaps: pairs(plan.gaps(), interval),
            windows: plan.windows().map(|window| pair(window.span(), interval)).collect(),
            estimated_rows: plan.estimated_rows(),
            requests: plan.request_count(),
        }
    }
}

/// How many gaps are listed for people.
const GAPS_SHOWN: usize = 12;

pub(crate) async fn run(args: &FillArgs, context: &Context) -> Result<Outcome> {
    print(&plans(args, context, false).await?, context)
}

/// Prints what a fill would ask for, also one that replaces.
pub(crate) async fn dry_run(args: &FillArgs, context: &Context, replace: bool) -> Result<Outcome> {
    print(&plans(args, context, replace).await?, context)
}

fn print(planned: &[(Job, Plan)], context: &Context) -> Result<Outcome> {
    if context.console.is_json() {
        let one = planned.len() == 1;
        let results = planned.iter().map(|(job, plan)| Planned::new(job, plan)).collect();
        context.console.json(&OneOrMany::new(results, one))?;
    } else {
        for (job, plan) in planned {
            show(job, plan, context)?;
        }
    }
    Ok(Outcome::Done)
}

/// Plans every series without writing anything, not even the store's folder.
pub(crate) async fn plans(args: &FillArgs, context: &Context, replace: bool) -> Result<Vec<(Job, Plan)>> {
    let orders = fill::orders(args, &*context.clock)?;
    let store = Store::open_or_new(context.global.store.as_deref()).await?;
    let limits = Limits::new(args, None, orders.len());
    let mut planned = Vec::new();
    for job in fill::jobs(orders, &limits, &context.clock).await? {
        let plan = if replace { job.plan(&store.replacing()).await? } else { job.plan(&*store).await? };
        planned.push((job, plan));
    }
    Ok(planned)
}

/// The result for machines, for `demo`.
pub(crate) fn result(job: &Job, plan: &Plan) -> Planned {
    Planned::new(job, plan)
}

fn show(job: &Job, plan: &Plan, context: &Context) -> Result<()> {
    let (console, interval) = (&context.console, job.key.interval);
    console.line(format!(
        "{}  {}",
        console.paint(Style::Bold, &job.key.to_string()),
        console.paint(Style::Dim, &text::range(job.range, interval))
    ))?;
    if plan.gaps().is_empty() {
        console.line(format!("  {}: nothing is missing", console.paint(Style::Green, "complete")))?;
    } else {
        console.line(format!("  missing   {}", text::set(plan.gaps(), interval)))?;
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
    }
    left_out(job, context);
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
