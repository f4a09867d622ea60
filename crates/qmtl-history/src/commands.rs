//! One module a command, and what they share.

pub(crate) mod backfill;
mod compare;
#[cfg(feature = "coordinator")]
pub(crate) mod coordinator;
pub(crate) mod coverage;
#[cfg(feature = "demo")]
pub(crate) mod demo;
pub(crate) mod export;
pub(crate) mod files;
mod follow;
pub(crate) mod inspect;
#[cfg(feature = "coordinator")]
pub(crate) mod leases;
pub(crate) mod ls;
pub(crate) mod plan;
pub(crate) mod upkeep;
pub(crate) mod verify;
pub(crate) mod warmup;

use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use futures::StreamExt;
use qmtl_history_api::{Clock, Error, ErrorKind, HistoryBackend, SeriesKey, TimeRange};

use crate::cli::{Cli, Command, Global, ReadArgs, SourceArgs};
use crate::console::Console;
use crate::outcome::{Failure, Outcome, Result};
use crate::range::Span;
use crate::series;
use crate::shapes::{Damaged, Entry};
use crate::signals::Signals;
use crate::store::Store;

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Where results, notes and progress go.
    pub(crate) console: Console,
    /// Flags of every command.
    pub(crate) global: Global,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The wish that the program should end.
    pub(crate) signals: Signals,
}

impl Context {
    /// The store that was named, which must exist.
    async fn store(&self) -> Result<Store> {
        Store::open(self.global.store.as_deref(), &self.console).await
    }
}

/// Runs a command to its end, or until the user or the system wants it to end. Fills see to that
/// themselves: what they have stored is to be told.
pub(crate) async fn run(command: &Command, context: &Context) -> Result<Outcome> {
    let fills = match command {
        Command::Backfill(args) => !args.dry_run,
        Command::Coordinator(_) | Command::Demo(_) | Command::Warmup(_) => true,
        _ => false,
    };
    context.signals.end_for_certain(&context.clock);
    if fills {
        return dispatch(command, context).await;
    }
    tokio::select! {
        outcome = dispatch(command, context) => outcome,
        () = context.signals.asked() => Err(Error::new(ErrorKind::Cancelled, "interrupted").into()),
    }
}

async fn dispatch(command: &Command, context: &Context) -> Result<Outcome> {
    match command {
        Command::Plan(args) => plan::run(args, context).await,
        Command::Backfill(args) => backfill::run(args, context).await,
        Command::Inspect(args) => inspect::run(args, context).await,
        Command::Ls => ls::run(context).await,
        Command::Coverage(args) => coverage::run(args, context).await,
        Command::Files(args) => files::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Warmup(args) => warmup::run(args, context).await,
        Command::Gc(args) => upkeep::gc(args, context).await,
        Command::Prune(args) => upkeep::prune(args, context).await,
        Command::ForgetEmpty(args) => upkeep::forget_empty(args, context).await,
        Command::Repair(args) => upkeep::repair(args, context).await,
        #[cfg(feature = "coordinator")]
        Command::Coordinator(args) => coordinator::run(args, context).await,
        #[cfg(feature = "coordinator")]
        Command::Leases(args) => leases::run(args, context).await,
        #[cfg(not(feature = "coordinator"))]
        Command::Coordinator(_) | Command::Leases(_) => {
            Err(crate::outcome::not_built("lease coordinator", "coordinator").into())
        }
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args, context).await,
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) => Err(crate::outcome::not_built("demo", "demo").into()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "qmtl-history", &mut script);
            context.console.bytes(&script)?;
            Ok(Outcome::Done)
        }
    }
}

/// A series to read and the range of it.
#[derive(Clone, Debug)]
struct Target {
    key: SeriesKey,
    range: TimeRange,
}

impl Target {
    /// Where the bars end of a series that has none in the range, and how as many of them are named. A store that does
    /// not answer is asked again by the command itself.
    async fn ended_before(&self, store: &Store) -> Option<String> {
        let Self { key, range } = self;
        let stored = store.coverage(key, TimeRange::ALL).await.ok()?;
        let end = stored.present().span().map(TimeRange::end).filter(|end| *end <= range.start())?;
        let start = end.checked_sub(range.end().since(range.start()))?;
        let (_, last) = TimeRange::checked(start, end)?.bounds(key.interval)?;
        let (from, to) = (start.as_secs(), end.as_secs());
        Some(format!(
            "{key}: no bars in this range: the newest is at {last}; for the last ones use --timerange {from}-{to}"
        ))
    }
}

/// What a reading command was asked about.
#[derive(Clone, Debug)]
struct Targets {
    list: Vec<Target>,
    /// Series of the store that cannot even be named.
    damaged: Vec<Damaged>,
    /// Whether exactly one series was asked for: its result is an object, not an array.
    one: bool,
}

/// The series and ranges that a reading command was asked about, checked before the store is opened.
#[derive(Debug)]
struct Asked<'a> {
    args: &'a ReadArgs,
    named: Option<Vec<SeriesKey>>,
}

impl<'a> Asked<'a> {
    async fn new(args: &'a ReadArgs, context: &Context) -> Result<Self> {
        args.range.span()?;
        let named = series::select(&args.series, &SourceArgs::default(), &context.console).await?;
        let named = named.map(|wanted| wanted.into_iter().map(|wanted| wanted.key).collect());
        Ok(Self { args, named })
    }

    /// Every series of the store when none was named.
    async fn targets(self, store: &Store, context: &Context) -> Result<Targets> {
        let one = self.named.as_ref().is_some_and(|keys| keys.len() == 1);
        let (keys, damaged) = match self.named {
            Some(keys) => (keys, Vec::new()),
            None => listed(&**store).await?,
        };
        if keys.is_empty() && damaged.is_empty() {
            context
                .console
                .note(format!("the store {} has no series yet; is it the right one?", store.shown()));
        }
        let (span, now) = (self.args.range.span()?, context.clock.now());
        let list: Vec<_> = keys
            .into_iter()
            .map(|key| Ok(Target { range: span.resolve(key.interval, now)?, key }))
            .collect::<Result<_>>()?;
        if matches!(span, Span::Last(_) | Span::Bars(_)) {
            for target in &list {
                target.ended_before(store).await.into_iter().for_each(|told| context.console.note(told));
            }
        }
        Ok(Targets { list, damaged, one })
    }
}

/// The series of the store, sorted, and those that cannot be named.
async fn listed(backend: &dyn HistoryBackend) -> Result<(Vec<SeriesKey>, Vec<Damaged>)> {
    let (mut keys, mut damaged) = (Vec::new(), Vec::new());
    let mut series = backend.series().await?;
    while let Some(key) = series.next().await {
        match key {
            Ok(key) => keys.push(key),
            Err(error) => damaged.push(Damaged::new(None, &error)),
        }
    }
    keys.sort();
    Ok((keys, damaged))
}

/// Does some work before a fill, unless that takes all the time that is left.
async fn in_time<T>(
    what: &str,
    left: Option<Duration>,
    clock: &dyn Clock,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(left) = left else { return work.await };
    tokio::select! {
        done = work => done,
        () = clock.sleep(left) => {
            Err(Error::unavailable(format!("the deadline (--deadline) passed before {what}")).into())
        }
    }
}

/// What came of a series: one that was asked for alone fails as a whole, one of several is told
/// beside the others.
fn entry<T>(key: &SeriesKey, result: Result<T, Error>, one: bool) -> Result<Entry<T>> {
    match result {
        Ok(item) => Ok(Entry::Sound(item)),
        Err(error) if one => Err(error.into()),
        Err(error) => Ok(Entry::Damaged(Damaged::new(Some(key), &error))),
    }
}

/// Tells on stderr of the series that cannot be looked at; how the command ends.
fn tell_damaged<T>(entries: &[Entry<T>], context: &Context) -> Outcome {
    let damaged: Vec<_> = entries.iter().filter_map(Entry::damaged).collect();
    damaged.iter().for_each(|damaged| context.console.error(damaged.message()));
    if damaged.is_empty() { Outcome::Done } else { Outcome::Failed }
}

/// Tells of damaged folders where one of these series has no rows yet: it may be one of them. On a server no folder is
/// renamed, and in a bucket hardly.
async fn warn_of_damage(
    store: &Store,
    keys: impl Iterator<Item = &SeriesKey>,
    console: &Console,
) -> Result<()> {
    for key in keys.filter(|_| store.is_folder()) {
        if matches!(store.revision(key).await, Ok(None)) {
            for damaged in listed(&**store).await?.1 {
                console.warn(format!("{key} has no rows; perhaps this is it: {}", damaged.message()));
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Fails when the store has no such series, not even one with nothing stored. What cannot be told is left to the read
/// that follows.
async fn must_exist(backend: &dyn HistoryBackend, key: &SeriesKey) -> Result<()> {
    unknown(backend, key).await?.map_or(Ok(()), |unknown| Err(unknown.failure))
}

/// A series that the store does not list.
struct Unknown {
    /// With a hint.
    failure: Failure,
    /// The store has damaged folders, of which it may be one.
    may_be_damaged: bool,
}

/// Whether the store has no such series.
async fn unknown(backend: &dyn HistoryBackend, key: &SeriesKey) -> Result<Option<Unknown>> {
    if !matches!(backend.revision(key).await, Ok(None)) {
        return Ok(None);
    }
    let (known, damaged) = listed(backend).await?;
    // Nothing is stored any more, or not yet.
    if known.contains(key) {
        return Ok(None);
    }
    // Every bar of the longer interval begins with one of the shorter.
    let is_finer = |of: &&SeriesKey| {
        let (finer, coarser) = (of.interval, key.interval);
        of.node_id == key.node_id
            && finer.as_secs() < coarser.as_secs()
            && coarser.as_secs() % finer.as_secs() == 0
            && (coarser.phase_secs() - finer.phase_secs()) % finer.as_secs() == 0
    };
    let finer = known.iter().filter(is_finer).max_by_key(|of| of.interval).map(ToString::to_string);
    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
    let hint = match known.as_slice() {
        _ if !damaged.is_empty() => {
            "it may be a damaged one: `qmtl-history ls` names the damaged folders".to_owned()
        }
        _ if let Some(finer) = &finer => format!(
            "it has {finer}: export that and resample it to {}, for example with pandas",
            key.interval
        ),
        [] => "the store is empty; `qmtl-history backfill` fills it".to_owned(),
        few if few.len() <= 5 => format!("it has {}", few.join(", ")),
        _ => "`qmtl-history ls` lists what it has".to_owned(),
    };
    let error = Error::new(ErrorKind::NotFound, "the store has no such series").with("series", key);
    let failure = Failure::from(error).hint(hint);
    Ok(Some(Unknown { failure, may_be_damaged: !damaged.is_empty() }))
}
