//! `gc`, `prune` and `forget-empty`, which remove from a store, and `repair`, which rebuilds; each with a dry run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use qmtl_history_api::{
    Error, ErrorKind, Interval, Problem, Rebuilt, Removed, Repaired, SeriesKey, SourceId,
};
use serde::Serialize;

use super::{Asked, Context, Target, listed, must_exist, tell_damaged};
use crate::cli::{ForgetArgs, GcArgs, PruneArgs, ReadArgs, RemoveArgs, RepairArgs};
use crate::outcome::{self, Failure, Outcome, Result};
use crate::range::RangeArgs;
use crate::shapes::{Damaged, Entry, OneOrMany, Series};
use crate::store::Store;
use crate::text;

/// The result of `gc` for one series.
#[derive(Debug, Serialize)]
struct Collected {
    #[serde(flatten)]
    series: Series,
    files: usize,
    bytes: u64,
    dry_run: bool,
}

/// The result of `prune` and `forget-empty` for one series.
#[derive(Debug, Serialize)]
struct Gone {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    /// Each bar is counted for each source that said so.
    empty_bars: u64,
    /// Partitions with a change; a server tells of none.
    partitions: Option<u64>,
    dry_run: bool,
}

pub(crate) async fn gc(args: &GcArgs, context: &Context) -> Result<Outcome> {
    let read = ReadArgs { series: args.series.clone(), range: RangeArgs::default() };
    let asked = Asked::new(&read, context).await?;
    let store = Store::open_with_grace(context.global.store.as_deref(), args.grace, &context.console).await?;
    let now = context.clock.now();
    let (dry_run, verb) = (args.dry_run, if args.dry_run { "would remove" } else { "removed" });
    for_each(asked, (&store, context), async |target: &Target| {
        let collected = store.upkeep()?.collect(&target.key, now, dry_run).await?;
        let (files, bytes) = (collected.files.len(), collected.bytes);
        let line = format!("{verb} {}, {}", text::counted(files as u64, "file"), text::bytes(bytes));
        Ok((line, Collected { series: Series::from(&target.key), files, bytes, dry_run }))
    })
    .await
}

pub(crate) async fn prune(args: &PruneArgs, context: &Context) -> Result<Outcome> {
    let read = ReadArgs { series: args.remove.series.clone(), range: RangeArgs::default() };
    named_or_all(&args.remove)?;
    let asked = Asked::new(&read, context).await?;
    let store = context.store().await?;
    for_each(asked, (&store, context), async |target: &Target| {
        let removed = store.upkeep()?.prune(&target.key, args.before, args.remove.dry_run).await?;
        Ok(told(&target.key, removed, args.remove.dry_run))
    })
    .await
}

pub(crate) async fn forget_empty(args: &ForgetArgs, context: &Context) -> Result<Outcome> {
    let read = ReadArgs { series: args.remove.series.clone(), range: args.range.clone() };
    named_or_all(&args.remove)?;
    let source = args.from.as_deref().map(SourceId::new).transpose()?;
    let asked = Asked::new(&read, context).await?;
    let store = context.store().await?;
    for_each(asked, (&store, context), async |target: &Target| {
        let dry_run = args.remove.dry_run;
        if let Some(source) = source.as_ref().filter(|_| !args.remove.all) {
            must_have_proofs(&store, target, source).await?;
        }
        let (key, range) = (&target.key, target.range);
        let removed = store.upkeep()?.forget_empty(key, range, source.as_ref(), dry_run).await?;
        Ok(told(&target.key, removed, dry_run))
    })
    .await
}

/// The result of `repair`.
#[derive(Debug, Serialize)]
struct Rebuilding {
    rebuilt: Vec<RebuiltShape>,
    /// What stays damaged, as far as a list of the store shows it.
    damaged: Vec<Damaged>,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct RebuiltShape {
    path: PathBuf,
    node_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<i64>,
    /// The columns that the list lacked; none where the name was lost.
    columns: Vec<String>,
}

impl From<&Repaired> for RebuiltShape {
    fn from(repaired: &Repaired) -> Self {
        let (node_id, interval, columns) = match &repaired.what {
            Rebuilt::Columns { key, columns } => (&key.node_id, Some(key.interval), columns.clone()),
            Rebuilt::Name(node_id) => (node_id, None, Vec::new()),
        };
        Self {
            path: repaired.path.clone(),
            node_id: node_id.as_str().to_owned(),
            interval: interval.map(Interval::as_secs),
            phase: interval.map(Interval::phase_secs).filter(|phase| *phase > 0),
            columns,
        }
    }
}

pub(crate) async fn repair(args: &RepairArgs, context: &Context) -> Result<Outcome> {
    let (store, console) = (context.store().await?, &context.console);
    let repaired = store.upkeep()?.repair(args.dry_run).await?;
    let (keys, mut damaged) = listed(&*store).await?;
    for key in &keys {
        // What no command can rebuild is to be told by this one, of every series.
        match store.upkeep()?.verify(key).await {
            Ok(findings) => {
                damaged.extend(findings.into_iter().filter_map(|finding| match finding.problem {
                    Problem::Damaged(error) => Some(Damaged::new(Some(key), &error)),
                    _ => None,
                }))
            }
            Err(error) => damaged.push(Damaged::new(Some(key), &error)),
        }
    }
    // What would be rebuilt is damaged still.
    damaged.retain(|damaged| !args.dry_run || !repaired.iter().any(|repaired| damaged.is_at(&repaired.path)));
    damaged.iter().for_each(|damaged| console.error(damaged.message()));
    let damaged_count = damaged.len();
    let outcome = if damaged_count == 0 { Outcome::Done } else { Outcome::Failed };
    if console.is_json() {
        let rebuilt = repaired.iter().map(RebuiltShape::from).collect();
        outcome::read_or_not(console.json(&Rebuilding { rebuilt, damaged, dry_run: args.dry_run }))?;
        return Ok(outcome);
    }
    let verb = if args.dry_run { "would rebuild" } else { "rebuilt" };
    let printed = match repaired.as_slice() {
        [] if damaged_count > 0 => console.line("nothing can be rebuilt"),
        [] => console.line("nothing to rebuild"),
        all => all.iter().try_for_each(|one| console.line(text::in_line(&format!("{verb} {one}")))),
    };
    outcome::read_or_not(printed)?;
    Ok(outcome)
}

/// A source that has proven nothing is spelled wrong; the error says which ones have.
async fn must_have_proofs(store: &Store, target: &Target, source: &SourceId) -> Result<(), Error> {
    let coverage = store.coverage(&target.key, target.range).await?;
    let names: BTreeSet<_> = coverage.known_empty().iter().map(|proof| proof.source.name()).collect();
    if names.is_empty() || names.contains(source.name()) {
        return Ok(());
    }
    let names: Vec<_> = names.into_iter().collect();
    Err(Error::new(ErrorKind::NotFound, "this source has no stored proofs; use --from with one that has")
        .with("from", source)
        .with("sources", names.join(", ")))
}

/// What removes rows or proofs is told which series it is about.
fn named_or_all(args: &RemoveArgs) -> Result<()> {
    if args.all || !args.series.node.is_empty() || args.series.nodes.is_some() {
        return Ok(());
    }
    let error = Error::invalid("no series is named: use --node ID --interval 5m, --nodes FILE, or --all");
    Err(Failure::from(error).hint("--dry-run shows what would go"))
}

fn told(key: &SeriesKey, removed: Removed, dry_run: bool) -> (String, Gone) {
    let verb = if dry_run { "would remove" } else { "removed" };
    let are = if removed.empty_bars == 1 { "is" } else { "are" };
    let rows = (removed.rows > 0).then(|| text::counted(removed.rows, "row"));
    let proofs = (removed.empty_bars > 0)
        .then(|| format!("proofs that {} {are} empty", text::counted(removed.empty_bars, "bar")));
    let gone: Vec<_> = rows.into_iter().chain(proofs).collect();
    let line =
        if gone.is_empty() { format!("{verb} nothing") } else { format!("{verb} {}", gone.join(" and ")) };
    let Removed { rows, empty_bars, partitions, .. } = removed;
    (line, Gone { series: Series::from(key), rows, empty_bars, partitions, dry_run })
}

/// Does `work` for each series and prints what came of it.
async fn for_each<T: Serialize>(
    asked: Asked<'_>,
    (store, context): (&Store, &Context),
    work: impl AsyncFn(&Target) -> Result<(String, T), Error>,
) -> Result<Outcome> {
    let targets = asked.targets(store, context).await?;
    let mut entries = Vec::new();
    for target in &targets.list {
        must_exist(&**store, &target.key).await?;
        let entry = match work(target).await {
            Ok((line, shape)) => {
                if !context.console.is_json() {
                    outcome::read_or_not(context.console.line(format!("{}  {line}", target.key)))?;
                }
                Ok(shape)
            }
            Err(error) => Err(error),
        };
        entries.push(super::entry(&target.key, entry, targets.one)?);
    }
    entries.extend(targets.damaged.into_iter().map(Entry::Damaged));
    let outcome = tell_damaged(&entries, context);
    if context.console.is_json() {
        outcome::read_or_not(context.console.json(&OneOrMany::new(entries, targets.one)))?;
    }
    Ok(outcome)
}
