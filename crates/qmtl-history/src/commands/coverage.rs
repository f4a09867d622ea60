//! `coverage`: where rows are, where sources proved that there are none, what is missing.

use qmtl_history_api::{Coverage, EmptyProof, RangeSet, TimeRange, Timestamp};
use serde::Serialize;

use super::{Asked, Context, Target, Unknown, entry, tell_damaged, unknown, warn_of_damage};
use crate::cli::CoverageArgs;
use crate::console::{Console, Style};
use crate::outcome::{self, Failure, Outcome, Result};
use crate::shapes::{Entry, OneOrMany, Pair, Proof, Series, pairs};
use crate::strip::{Look, Strip};
use crate::text;

/// The result for one series.
#[derive(Debug, Serialize)]
pub(crate) struct Covered {
    #[serde(flatten)]
    series: Series,
    present: Vec<Pair>,
    /// Of all sources together, as far as it is still believed.
    known_empty: Vec<Pair>,
    /// Of the asked range; of the series' own span when none was asked.
    missing: Vec<Pair>,
    rows: u64,
    proofs: Vec<Proof>,
}

/// What is known of one series.
#[derive(Debug)]
pub(crate) struct View {
    target: Target,
    coverage: Coverage,
    known_empty: RangeSet,
    missing: RangeSet,
    /// The range that it is about, `None` for a series of which nothing is known.
    span: Option<TimeRange>,
    now: Timestamp,
}

/// How many ranges are listed for people.
const RANGES_SHOWN: usize = 30;

pub(crate) async fn run(args: &CoverageArgs, context: &Context) -> Result<Outcome> {
    let (views, one) = views(args, context).await?;
    let (outcome, console) = (tell_damaged(&views, context), &context.console);
    if console.is_json() {
        let results = views.into_iter().map(|view| match view {
            Entry::Sound(view) => Entry::Sound(view.result()),
            Entry::Damaged(damaged) => Entry::Damaged(damaged),
        });
        outcome::read_or_not(console.json(&OneOrMany::new(results.collect(), one)))?;
        return Ok(outcome);
    }
    if views.is_empty() {
        console.note("the store has no series yet; `qmtl-history backfill` fills it");
    }
    let printed = views.iter().filter_map(Entry::sound).try_for_each(|view| {
        view.show(console)?;
        if args.strip || console.is_terminal() { view.show_strip(console, args.months) } else { Ok(()) }
    });
    outcome::read_or_not(printed)?;
    Ok(outcome)
}

/// Looks at every series that was asked about; whether exactly one was.
pub(crate) async fn views(args: &CoverageArgs, context: &Context) -> Result<(Vec<Entry<View>>, bool)> {
    let asked = Asked::new(&args.read, context).await?;
    let store = context.store().await?;
    let now = context.clock.now();
    let targets = asked.targets(&store, context).await?;
    if targets.one {
        warn_of_damage(&store, targets.list.iter().map(|target| &target.key), &context.console).await?;
        for Target { key, .. } in &targets.list {
            if let Some(Unknown { failure, may_be_damaged }) = unknown(&*store, key).await? {
                if may_be_damaged {
                    // And not a series without bars.
                    return Err(failure);
                }
                if let Failure::Error { hint: Some(hint), .. } = failure {
                    context.console.note(format!("the store has no series {key}; {hint}"));
                }
            }
        }
    }
    let mut views = Vec::new();
    for target in targets.list {
        let (key, coverage) = (target.key.clone(), store.coverage(&target.key, target.range).await);
        let view = coverage.map(|coverage| View::new(target, coverage, now));
        views.push(entry(&key, view, targets.one)?);
    }
    views.extend(targets.damaged.into_iter().map(Entry::Damaged));
    Ok((views, targets.one))
}

impl View {
    fn new(target: Target, coverage: Coverage, now: Timestamp) -> Self {
        let known_empty = coverage.empty_by_any(now);
        let known = coverage.present().union(&known_empty);
        let span = match target.range {
            TimeRange::ALL => known.span(),
            // An end that was not named is now, unless the series goes on.
            range if range.end() == Timestamp::MAX => {
                let closed = target.key.interval.floor(now).unwrap_or(now);
                let end = known.span().map_or(closed, |span| span.end().max(closed));
                TimeRange::checked(range.start(), end)
            }
            range => Some(range),
        };
        let missing =
            span.map_or_else(RangeSet::new, RangeSet::from).difference(&known).on_grid(target.key.interval);
        Self { target, coverage, known_empty, missing, span, now }
    }

    /// The result for machines.
    pub(crate) fn result(&self) -> Covered {
        let interval = self.target.key.interval;
        let proofs = self.coverage.known_empty().iter();
        Covered {
            series: Series::from(&self.target.key),
            present: pairs(self.coverage.present(), interval),
            known_empty: pairs(&self.known_empty, interval),
            missing: pairs(&self.missing, interval),
            rows: self.coverage.present().count(interval),
            proofs: proofs.map(|proof| Proof::new(proof, interval, self.now)).collect(),
        }
    }

    /// The result for people.
    fn show(&self, console: &Console) -> Result<()> {
        let interval = self.target.key.interval;
        let name = console.paint(Style::Bold, &self.target.key.to_string());
        let Some(span) = self.span else {
            return console.line(format!("{name}  nothing is stored"));
        };
        console.line(format!("{name}  {}", console.paint(Style::Dim, &text::range(span, interval))))?;
        let present = self.coverage.present();
        console.line(format!("  present      {}", text::set(present, interval)))?;
        console.line(format!("  known empty  {}", text::set(&self.known_empty, interval)))?;
        for proof in self.coverage.known_empty() {
            let bars = text::set(&proof.ranges, interval);
            let (year, month, day) = proof.answered_at.date();
            let standing = standing(proof, self.now);
            let what = format!("{}: {bars}, answered {year:04}-{month:02}-{day:02}{standing}", proof.source);
            console.line(format!("               {}", console.paint(Style::Dim, &what)))?;
        }
        console.line(format!("  missing      {}", text::set(&self.missing, interval)))?;
        self.show_ranges(console)
    }

    fn show_ranges(&self, console: &Console) -> Result<()> {
        let interval = self.target.key.interval;
        let states = [
            ("present", Style::Green, self.coverage.present()),
            ("known empty", Style::Dim, &self.known_empty),
            ("missing", Style::Yellow, &self.missing),
        ];
        let mut ranges: Vec<_> = states
            .into_iter()
            .flat_map(|(state, style, set)| set.on_grid(interval).into_iter().map(move |r| (r, state, style)))
            .collect();
        ranges.sort_by_key(|(range, ..)| *range);
        let cells: Vec<_> = ranges
            .iter()
            .take(RANGES_SHOWN)
            .map(|(range, state, _)| {
                let bars = text::counted(range.count(interval), "bar");
                vec![(*state).to_owned(), text::range(*range, interval), bars]
            })
            .collect();
        for (line, (_, state, style)) in text::table(&cells, &[2]).iter().zip(&ranges) {
            let painted = line.replacen(state, &console.paint(*style, state), 1);
            console.line(format!("    {painted}"))?;
        }
        match ranges.len().checked_sub(RANGES_SHOWN).filter(|more| *more > 0) {
            Some(more) => console.line(format!("    ... and {more} more; --json has them all")),
            None => Ok(()),
        }
    }

    /// The strip of days.
    pub(crate) fn show_strip(&self, console: &Console, months: usize) -> Result<()> {
        let Some(wanted) = self.span else { return Ok(()) };
        let strip = Strip {
            interval: self.target.key.interval,
            wanted,
            present: self.coverage.present(),
            known_empty: &self.known_empty,
        };
        let look = if console.is_rich() { Look::Rich } else { Look::Ascii };
        strip.lines(look, months).iter().try_for_each(|line| console.line(format!("  {line}")))
    }
}

/// Why a proof does not count now, behind what it says.
fn standing(proof: &EmptyProof, now: Timestamp) -> &'static str {
    if proof.is_ahead_of(now) {
        ", ignored: dated in the future"
    } else if !proof.is_by_trusted_rule() {
        ", ignored: made under an older rule"
    } else if proof.valid_at(now).is_empty() {
        ", expired"
    } else {
        ""
    }
}
