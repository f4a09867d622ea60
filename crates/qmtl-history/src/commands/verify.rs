//! `verify`: reads every bar and says what is wrong with it.

use qmtl_history_api::Problem;
use serde::Serialize;

use super::{Asked, Context, Target, must_exist};
use crate::cli::VerifyArgs;
use crate::console::{Console, Style};
use crate::outcome::{self, Outcome, Result};
use crate::shapes::{Entry, OneOrMany, Seconds, Series};
use crate::text;
use crate::verify::{Finding, Terms, Verdict, verify};

/// The result for one series.
#[derive(Debug, Serialize)]
struct Verified {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    /// All findings; `findings` lists the first `--max-findings` of them.
    found: u64,
    findings: Vec<FindingShape>,
    /// What the next fill mends by itself.
    notes: Vec<FindingShape>,
}

#[derive(Debug, Serialize)]
struct FindingShape {
    check: &'static str,
    ts: Option<Seconds>,
    column: Option<String>,
    value: Option<String>,
    message: String,
}

impl From<&Finding> for FindingShape {
    fn from(finding: &Finding) -> Self {
        Self {
            check: finding.check,
            ts: finding.ts.map(Seconds),
            column: finding.column.clone(),
            value: finding.value.clone(),
            message: finding.message.clone(),
        }
    }
}

pub(crate) async fn run(args: &VerifyArgs, context: &Context) -> Result<Outcome> {
    let asked = Asked::new(&args.read, context).await?;
    let store = context.store().await?;
    let targets = asked.targets(&store, context).await?;
    let mut verdicts = Vec::new();
    for target in targets.list {
        must_exist(&*store, &target.key).await?;
        let (keep, now) = (args.max_findings, context.clock.now());
        let terms = Terms { range: target.range, keep, now, store: store.typed() };
        let mut verdict = verify(&*store, &target.key, terms).await;
        if verdict.unread
            && let Ok(upkeep) = store.upkeep()
            && let Ok(found) = upkeep.verify(&target.key).await
        {
            let damaged = found.into_iter().filter_map(|finding| match finding.problem {
                Problem::Damaged(error) => Some(error),
                // An unfinished file does no harm.
                _ => None,
            });
            verdict.tell_files(&damaged.collect::<Vec<_>>(), keep);
        }
        if !context.console.is_json() {
            outcome::read_or_not(show(&target, &verdict, &context.console))?;
        }
        verdicts.push((target, verdict));
    }
    for damaged in targets.damaged.iter().filter(|_| !context.console.is_json()) {
        let wrong = context.console.paint(Style::Red, "wrong");
        outcome::read_or_not(context.console.line(format!("{wrong}   {}", damaged.message())))?;
    }
    let damaged = targets.damaged.into_iter().map(Entry::Damaged);
    let clean = damaged.len() == 0 && verdicts.iter().all(|(_, verdict)| verdict.found == 0);
    if context.console.is_json() {
        let results = verdicts.iter().map(|(target, verdict)| {
            Entry::Sound(Verified {
                series: Series::from(&target.key),
                rows: verdict.rows,
                found: verdict.found,
                findings: verdict.findings.iter().map(FindingShape::from).collect(),
                notes: verdict.notes.iter().map(FindingShape::from).collect(),
            })
        });
        outcome::read_or_not(
            context.console.json(&OneOrMany::new(results.chain(damaged).collect(), targets.one)),
        )?;
    }
    Ok(if clean { Outcome::Done } else { Outcome::Failed })
}

/// A line for a clean series; for another its findings: time, column, value, what is wrong. Then notes.
fn show(target: &Target, verdict: &Verdict, console: &Console) -> Result<()> {
    let rows = text::counted(verdict.rows, "row");
    if verdict.found == 0 {
        let ok = console.paint(Style::Green, "ok");
        console.line(format!("{ok}      {}  {rows}", target.key))?;
    } else {
        let wrong = console.paint(Style::Red, "wrong");
        let found = text::counted(verdict.found, "finding");
        console.line(format!("{wrong}   {}  {rows}, {found}", target.key))?;
        show_findings(verdict, console)?;
    }
    verdict.notes.iter().try_for_each(|note| {
        let label = console.paint(Style::Yellow, "note");
        console.line(format!("  {label}  {}", text::in_line(&note.message)))
    })
}

fn show_findings(verdict: &Verdict, console: &Console) -> Result<()> {
    let cells: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| {
            let or_dash = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), Clone::clone);
            vec![
                finding.check.to_owned(),
                or_dash(finding.ts.map(|ts| ts.to_string()).as_ref()),
                or_dash(finding.column.as_ref()),
                or_dash(finding.value.as_ref()),
                finding.message.clone(),
            ]
        })
        .collect();
    for line in text::table(&cells, &[]) {
        console.line(format!("  {line}"))?;
    }
    match verdict.found.checked_sub(cells.len() as u64).filter(|more| *more > 0) {
        Some(more) => {
            console.line(format!("  ... and {} more; --max-findings shows more", text::count(more)))
        }
        None => Ok(()),
    }
}
