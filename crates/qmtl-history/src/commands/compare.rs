//! `backfill --compare`: requests the bars of a range again, and lists where they differ from the stored ones.

use qmtl_history_api::frame::Conflict;
use qmtl_history_api::{BackfillReport, Error, HistoryBackend, RangeSet, Timestamp};
use serde::Serialize;

use super::Context;
use super::backfill::{self, Contradiction, FailedWindow, Open, SHOWN, more, show_failed};
use crate::again::Compared;
use crate::console::{Console, Style};
use crate::fill::{self, Job};
use crate::outcome::{Outcome, Result};
use crate::progress::Progress;
use crate::shapes::{OneOrMany, Pair, Series, pairs};
use crate::text;

/// The result for one series.
#[derive(Debug, Serialize)]
struct Comparison {
    #[serde(flatten)]
    series: Series,
    /// Bars that both have.
    compared: u64,
    /// How many of them differ.
    differ: u64,
    /// The first ones, each by the first column that does: what is stored, and what the source has.
    differences: Vec<Contradiction>,
    /// Bars that the source has and the store does not.
    not_stored: Vec<Pair>,
    /// Bars that the store has and the source proved not to exist.
    not_in_source: Vec<Pair>,
    /// Bars that the source did not tell of.
    not_told: Vec<Pair>,
    failed: Vec<FailedWindow>,
    #[serde(skip)]
    of: Found,
}

/// What came of one series.
#[derive(Debug)]
struct Found {
    job: Job,
    report: BackfillReport,
    compared: Compared,
    both: RangeSet,
    not_in_source: RangeSet,
    not_told: RangeSet,
}

pub(super) async fn run(open: Open, context: &Context) -> Result<Outcome> {
    let Open { jobs, limits, store, .. } = open;
    let (progress, stop) = (Progress::new(&context.console), context.signals.stop());
    let comparing = store.comparing();
    let reports = fill::fill(&jobs, &limits, &comparing, (&progress, &stop)).await;
    let one = jobs.len() == 1;
    let mut results = Vec::new();
    for (job, report) in jobs.into_iter().zip(reports) {
        let report = match report {
            Err(error) if backfill::is_stopped(&error, &stop) => continue,
            Err(error) if one => return Err(error.into()),
            report => report,
        };
        let compared = comparing.compared(&job.key);
        results.push(Found::new(job, report, compared, (&*store, context.clock.now())).await?.comparison());
    }
    let is_cut = stop.is_stopped();
    let outcome = end_of(&results, is_cut);
    if context.console.is_json() {
        context.console.json(&OneOrMany::new(results, one))?;
    } else {
        results.iter().try_for_each(|result| result.show(&context.console))?;
    }
    Ok(outcome)
}

/// How the run ends.
fn end_of(results: &[Comparison], is_cut: bool) -> Outcome {
    let differs = |result: &Comparison| {
        result.differ > 0 || !result.not_stored.is_empty() || !result.not_in_source.is_empty()
    };
    match () {
        () if is_cut => Outcome::Interrupted,
        () if results.iter().any(|result| !result.failed.is_empty()) => Outcome::Partial,
        () if results.iter().any(differs) => Outcome::Failed,
        () => Outcome::Done,
    }
}

impl Found {
    async fn new(
        job: Job,
        report: Result<BackfillReport, Error>,
        compared: Compared,
        (backend, now): (&dyn HistoryBackend, Timestamp),
    ) -> Result<Self> {
        let report = job.told(report);
        let stored = backend.coverage(&job.key, job.range).await?;
        let given = compared.coverage.present();
        let absent = compared.coverage.empty_by_any(now);
        let both = stored.present().intersection(given);
        let not_in_source = stored.present().intersection(&absent);
        let not_told = stored.present().difference(given).difference(&absent);
        Ok(Self { job, report, compared, both, not_in_source, not_told })
    }

    fn comparison(self) -> Comparison {
        let interval = self.job.key.interval;
        Comparison {
            series: Series::from(&self.job.key),
            compared: self.both.count(interval),
            differ: self.compared.count,
            differences: self.compared.differing.iter().map(Contradiction::from).collect(),
            not_stored: pairs(&self.compared.new, interval),
            not_in_source: pairs(&self.not_in_source, interval),
            not_told: pairs(&self.not_told, interval),
            failed: self.report.failed.iter().map(|window| FailedWindow::new(window, interval)).collect(),
            of: self,
        }
    }
}

impl Comparison {
    fn show(&self, console: &Console) -> Result<()> {
        let Found { job, report, compared, both, not_in_source, not_told } = &self.of;
        let interval = job.key.interval;
        job.show(console)?;
        console.line(format!("  compared       {}", text::set(both, interval)))?;
        let style = if compared.count == 0 { Style::Green } else { Style::Yellow };
        let differ = text::counted(compared.count, "bar");
        console.line(format!("  differ         {}", console.paint(style, &differ)))?;
        for Conflict { ts, column, kept, other, .. } in compared.differing.iter().take(SHOWN) {
            let told = text::in_line(&format!("{column}: {kept} is stored, the source has {other}"));
            console.line(format!("    {ts} {told}"))?;
        }
        more(console, compared.differing.len())?;
        for (what, set) in
            [("not stored", &compared.new), ("not in source", not_in_source), ("not told of", not_told)]
        {
            if !set.is_empty() {
                console.line(format!("  {what:<13}  {}", text::set(set, interval)))?;
                for range in set.iter().take(SHOWN) {
                    console.line(format!("    {}", text::range(range, interval)))?;
                }
                more(console, set.len())?;
            }
        }
        show_failed(report, "         ", console)
    }
}
