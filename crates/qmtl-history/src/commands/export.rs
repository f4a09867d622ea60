//! `export`: the bars of one or many series as files or on stdout, streamed.

use std::fs;
use std::io::BufWriter;
use std::path::{Component, Path};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{Error, ErrorKind, ReadRequest, TimeRange, Timestamp};
use serde::Serialize;

use super::{Asked, Context, Target, Targets, listed, must_exist, tell_damaged};
use crate::cli::ExportArgs;
use crate::console;
use crate::export::{
    Days, Destination, Expected, Flat, Form, Known, Layout, Names, Output, Packing, Place, Sink, beside,
    cannot_write, has_columns, has_days, open, resolution, zip_entry,
};
use crate::outcome::{self, Failure, Outcome, Result};
use crate::range::Span;
use crate::shapes::{Damaged, Entry, OneOrMany, Series};
use crate::store::Store;
use crate::table_writer::TableWriter;
use crate::text;
use crate::waits::Waits;

/// The result, when the bars go to a file.
#[derive(Debug, Serialize)]
struct Exported {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    /// Those of them that were made up, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<u64>,
    out: String,
}

pub(crate) async fn run(args: &ExportArgs, context: &Context) -> Result<Outcome> {
    let place = Place::of(&args.out);
    check(args, place, context)?;
    let asked = Asked::new(&args.read, context).await?;
    let form = Form::new(args, (!place.is_folder()).then_some(args.out.as_path()))?;
    if place == Place::Stdout && !form.is_text() && context.console.is_terminal() {
        return Err(Error::invalid("a terminal cannot show this format: use --out FILE or a pipe").into());
    }
    let store = context.store().await?;
    let targets = asked.targets(&store, context).await?;
    let job = Job { args, form, store: &store, context };
    // A folder of days is that of one series, unless several are asked for.
    let in_days = |target: &Target| job.is_in_days(target) && place != Place::Stdout;
    let is_one_in_days = targets.one && targets.list.iter().any(in_days);
    if (place == Place::NamedFolder && !is_one_in_days) || (place == Place::Folder && !targets.one) {
        return job.each(targets).await;
    }
    let ([target], []) = (targets.list.as_slice(), targets.damaged.as_slice()) else {
        let error = Error::invalid("an export is of one series: use --node ID --interval 5m")
            .with("series", targets.list.len() + targets.damaged.len());
        let hint = "`qmtl-history ls` lists what the store has; --out DIR/ writes a file for each series";
        return Err(Failure::from(error).hint(hint));
    };
    let exported = match place {
        Place::Stdout => {
            let prepared = job.prepare(target).await?;
            job.fits_a_file(target)?;
            let out: Output = Box::new(BufWriter::new(console::stdout()?));
            let sink = Sink::new(Packing::Plain, out).map_err(|e| cannot_write(&args.out, e))?;
            job.copy(prepared, sink, true).await?;
            return Ok(Outcome::Done);
        }
        _ if in_days(target) => job.days(target, &args.out).await?,
        _ => job.one(target, &args.out).await?,
    };
    job.tell(&exported);
    if context.console.is_json() {
        context.console.json(&exported)?;
    }
    Ok(Outcome::Done)
}

/// Refuses what cannot be, before anything is opened.
fn check(args: &ExportArgs, place: Place, context: &Context) -> Result<()> {
    if place == Place::Stdout && context.console.is_json() {
        return Err(Error::invalid("--json and bars cannot share stdout: use --out FILE").into());
    }
    text::must_be_path(&args.out, "an export is written to a file, and not to an address: use --out FILE")?;
    // An address is cut at its commas, and nobody can tell what of the parts is a password.
    let columns = args.columns.as_deref().unwrap_or_default().join(",");
    let renamed: Vec<_> = args.rename.iter().map(|(old, new)| format!("{old}={new}")).collect();
    for (flag, names) in [("--columns", columns), ("--rename", renamed.join(","))] {
        if text::without_secrets(&names) != names {
            return Err(Error::invalid(format!("{flag} takes names of columns, not an address")).into());
        }
    }
    Ok(())
}

/// What is asked of every series.
struct Job<'a> {
    args: &'a ExportArgs,
    form: Form,
    store: &'a Store,
    context: &'a Context,
}

/// A series whose export can begin: what can be refused has been looked at, and nothing is written yet.
struct Prepared<'a> {
    target: &'a Target,
    layout: Layout,
    flat: Option<Flat>,
    /// Bars proved absent that no price is known for.
    unpriced: u64,
    /// Bars that are missing, where that was looked up.
    missing: u64,
}

impl Job<'_> {
    fn is_lean(&self) -> bool {
        self.form.expected.is_some_and(Expected::is_lean)
    }

    /// Whether a series is written as a folder of files.
    fn is_in_days(&self, target: &Target) -> bool {
        self.is_lean() && has_days(target.key.interval)
    }

    /// Refuses bars of which LEAN wants a file a day.
    fn fits_a_file(&self, target: &Target) -> Result<()> {
        if self.is_in_days(target) {
            let error = Error::invalid("LEAN reads these bars from a zip a day: use --out DIR/");
            return Err(error.with("interval", target.key.interval).into());
        }
        Ok(())
    }

    /// A file for each series, in a folder; one that fails does not stop the others.
    async fn each(&self, targets: Targets) -> Result<Outcome> {
        let folder = &self.args.out;
        self.folder_outside_stores(folder)?;
        // Names depend on the store, and not on what of it is asked for.
        let (known, _) = listed(&**self.store).await?;
        let known = known.iter().filter(|key| targets.list.iter().all(|target| target.key != **key));
        let names = Names::new(known.chain(targets.list.iter().map(|target| &target.key)));
        let (mut entries, mut worst) = (Vec::new(), Outcome::Done);
        for target in &targets.list {
            match self.in_folder(target, folder, &names).await {
                Ok(exported) => {
                    self.tell(&exported);
                    entries.push(Entry::Sound(exported));
                }
                Err(Failure::Error { error, outcome, .. }) if !targets.one => {
                    entries.push(Entry::Damaged(Damaged::new(Some(&target.key), &error)));
                    // Missing bars alone have a code of their own.
                    let is_partial = outcome == Outcome::Partial && worst != Outcome::Failed;
                    worst = if is_partial { Outcome::Partial } else { Outcome::Failed };
                }
                Err(failure) => return Err(failure),
            }
        }
        entries.extend(targets.damaged.into_iter().map(|damaged| {
            worst = Outcome::Failed;
            Entry::Damaged(damaged)
        }));
        tell_damaged(&entries, self.context);
        if self.context.console.is_json() {
            outcome::read_or_not(self.context.console.json(&OneOrMany::new(entries, targets.one)))?;
        }
        Ok(worst)
    }

    async fn in_folder(&self, target: &Target, folder: &Path, names: &Names) -> Result<Exported> {
        let name = names.of(&target.key);
        if self.is_in_days(target) {
            return self.days(target, &folder.join(name)).await;
        }
        self.one(target, &folder.join(format!("{name}.{}", self.form.extension()))).await
    }

    /// One series into a file, or into what is written to.
    async fn one(&self, target: &Target, out: &Path) -> Result<Exported> {
        let prepared = self.prepare(target).await?;
        self.fits_a_file(target)?;
        let destination = Destination::of(out)?;
        if let Some(path) = destination.file(out) {
            self.outside_stores(&path)?;
        }
        let counts = match destination {
            Destination::File(path) => {
                self.make_folder(out)?;
                let file = beside(&path).map_err(|e| cannot_write(out, e))?;
                let bytes = file.reopen().map_err(|e| cannot_write(out, e))?;
                let sink = match self.form.packing {
                    Packing::Zip => Sink::zip(bytes, &zip_entry(&path)),
                    packing => Sink::new(packing, Box::new(BufWriter::new(bytes))),
                };
                let counts = self.copy(prepared, sink.map_err(|e| cannot_write(out, e))?, false).await?;
                file.persist(&path).map_err(|e| cannot_write(out, e.error))?;
                counts
            }
            Destination::Stream => {
                let what = format!("nobody reads {} yet", out.display());
                let file = Waits::new(&self.context.console).during(&what, open(out.to_owned())).await?;
                let sink = Sink::new(self.form.packing, Box::new(BufWriter::new(file)));
                let copied = self.copy(prepared, sink.map_err(|e| cannot_write(out, e))?, true).await;
                copied.map_err(|failure| match failure {
                    // Whoever reads our stdout may have seen enough; what was named is to hold all of it.
                    Failure::ClosedPipe => cannot_write(out, std::io::ErrorKind::BrokenPipe.into()).into(),
                    failure => failure,
                })?
            }
        };
        Ok(self.exported(target, counts, out))
    }

    /// One series as LEAN reads its shorter bars: a zip a day in a folder.
    async fn days(&self, target: &Target, folder: &Path) -> Result<Exported> {
        let prepared = self.prepare(target).await?;
        self.folder_outside_stores(folder)?;
        fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
        let days = Days::new(folder, target.key.interval, &self.form, &prepared.layout.schema)?;
        let counts = self.stream(prepared, Table::Days(days)).await?;
        Ok(self.exported(target, counts, folder))
    }

    fn exported(&self, target: &Target, (rows, filled): (u64, u64), out: &Path) -> Exported {
        Exported {
            series: Series::from(&target.key),
            rows,
            filled: self.args.fill.map(|_| filled),
            out: out.display().to_string(),
        }
    }

    fn tell(&self, exported: &Exported) {
        if !self.context.console.is_json() {
            let rows = text::counted(exported.rows, "row");
            self.context.console.note(format!("{rows} written to {}", exported.out));
        }
    }

    /// Refuses a folder, there or not, that is or would be in a store.
    fn folder_outside_stores(&self, folder: &Path) -> Result<()> {
        let is_there = |folder: &&Path| !folder.as_os_str().is_empty() && folder.exists();
        let there = folder.ancestors().find(is_there).unwrap_or(Path::new(""));
        let rest = folder.strip_prefix(there).unwrap_or(folder);
        if rest.components().any(|part| part == Component::ParentDir) {
            let error = Error::invalid("the folder before .. is not there: write the path without it");
            return Err(error.with("out", folder.display()).into());
        }
        self.outside_stores(&there.join("x"))
    }

    fn outside_stores(&self, path: &Path) -> Result<()> {
        if self.store.would_hold(path) {
            let error = Error::invalid("the export would lie among a store's own files; write it elsewhere");
            return Err(error.with("out", self.args.out.display()).with("store", self.store.shown()).into());
        }
        Ok(())
    }

    /// Makes the folder of a file where `--out` names the folder; nobody means to make that of a file that is named.
    fn make_folder(&self, file: &Path) -> Result<()> {
        if file == self.args.out {
            return Ok(());
        }
        fs::create_dir_all(&self.args.out).map_err(|e| cannot_write(&self.args.out, e).into())
    }

    /// Looks at all that may be refused.
    async fn prepare<'t>(&self, target: &'t Target) -> Result<Prepared<'t>> {
        let (key, args, store) = (&target.key, self.args, self.store);
        must_exist(&**store, key).await?;
        if self.is_lean() {
            resolution(key.interval)?;
        }
        let stored = store.schema(key).await?;
        let layout = Layout::new(key, &stored, args, &self.form)?;
        let mut prepared = Prepared { target, layout, flat: None, unpriced: 0, missing: 0 };
        if args.fill.is_none() && !args.strict {
            return Ok(prepared);
        }
        // Up to the end, since the close before the range may be needed.
        let known = TimeRange::checked(Timestamp::MIN, target.range.end()).unwrap_or(target.range);
        let coverage = store.coverage(key, known).await?;
        let known = Known::new(&coverage, target.range, key.interval, self.context.clock.now());
        prepared.missing = known.missing.count(key.interval);
        if args.strict && prepared.missing > 0 {
            return Err(missing(target, &known));
        }
        prepared.unpriced = if args.fill.is_some() { known.unpriced } else { 0 };
        // Without a row there is no price.
        if args.fill.is_some() && has_columns(&stored) {
            let mut flat = Flat::new(&prepared.layout.read, &known.flat, key.interval, args)?;
            let first = coverage.present().within(target.range).span().map(TimeRange::start);
            if flat.begins_before(first)
                && let Some(before) = TimeRange::checked(Timestamp::MIN, target.range.start())
            {
                let request = ReadRequest::new(key.clone(), before).with_columns([flat.close()]);
                let last = store.read_range(&request.with_newest_first().with_limit(1)).await?;
                if let Some(close) = last.into_batch().await?.columns().get(1) {
                    flat.start_from(close)?;
                }
            }
            prepared.flat = Some(flat);
        }
        Ok(prepared)
    }

    /// Writes one table; how many rows, and how many of them were made up.
    async fn copy(&self, prepared: Prepared<'_>, sink: Sink, is_pipe: bool) -> Result<(u64, u64)> {
        let table = TableWriter::new(self.form.table(is_pipe), &prepared.layout.schema, sink)?;
        self.stream(prepared, Table::One(table)).await
    }

    /// Streams the rows.
    async fn stream(&self, prepared: Prepared<'_>, mut table: Table) -> Result<(u64, u64)> {
        let Prepared { target, layout, mut flat, unpriced, missing } = prepared;
        let names = layout.read.fields().iter().skip(1).map(|field| field.name().clone());
        let request = ReadRequest::new(target.key.clone(), target.range).with_columns(names);
        let mut stream = self.store.read_range(&request).await?;
        let (mut stored, mut rows) = (0, 0);
        let mut put = |batch: RecordBatch| {
            if batch.num_rows() == 0 {
                return Ok(());
            }
            let batch = layout.apply(&batch)?;
            rows += batch.num_rows() as u64;
            table.write(&batch)
        };
        while let Some(batch) = stream.next_batch().await {
            let batch = batch?;
            stored += batch.num_rows() as u64;
            let Some(flat) = &mut flat else {
                put(batch)?;
                continue;
            };
            flat.give(batch)?;
            while let Some(batch) = flat.take()? {
                put(batch)?;
                tokio::task::yield_now().await;
            }
        }
        while let Some(batch) = flat.as_mut().map_or(Ok(None), Flat::take_rest)? {
            put(batch)?;
            tokio::task::yield_now().await;
        }
        table.finish()?;
        let filled = flat.as_ref().map_or(0, |flat| flat.filled);
        self.tell_holes(target, missing, unpriced + flat.map_or(0, |flat| flat.unpriced));
        if stored == 0 {
            self.tell_empty(target).await;
        }
        Ok((rows, filled))
    }

    fn tell_holes(&self, target: &Target, missing: u64, unpriced: u64) {
        let key = &target.key;
        if missing > 0 {
            let bars = text::counted(missing, "bar");
            self.context.console.note(format!(
                "{key}: the range lacks {bars}, neither stored nor proved absent; --strict refuses that"
            ));
        }
        if unpriced > 0 {
            let bars = text::counted(unpriced, "empty bar");
            self.context.console.note(format!("{key}: {bars} left out, since the close before is not known"));
        }
    }

    /// Says where the rows are of a series that has none in the range.
    async fn tell_empty(&self, target: &Target) {
        let Target { key, range } = target;
        // What cannot be looked up is no reason to fail: the export is written.
        let Ok(coverage) = self.store.coverage(key, TimeRange::ALL).await else { return };
        let interval = key.interval;
        let told = match coverage.present().span().and_then(|span| Some((span, span.bounds(interval)?))) {
            None => format!("{key}: no row; the series has none"),
            Some((span, (first, last))) => {
                let is_relative = matches!(self.args.read.range.span(), Ok(Span::Last(_) | Span::Bars(_)));
                if is_relative && span.end() <= range.start() {
                    // Told already, and how as many bars before the end are named.
                    return;
                }
                let what = match (range.start(), range.end()) {
                    (Timestamp::MIN, end) => format!("before {end}"),
                    (start, Timestamp::MAX) => format!("from {start} on"),
                    _ => format!("in {}", text::range(*range, interval)),
                };
                format!("{key}: no row {what}; the series has rows from {first} to {last}")
            }
        };
        self.context.console.note(told);
    }
}

/// Where the rows go.
enum Table {
    One(TableWriter),
    Days(Days),
}

impl Table {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::One(table) => table.write(batch),
            Self::Days(days) => days.write(batch),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::One(table) => table.finish(),
            Self::Days(mut days) => days.end(),
        }
    }
}

/// The refusal of a range with holes, naming the first ones.
fn missing(target: &Target, known: &Known) -> Failure {
    const NAMED: usize = 3;
    let interval = target.key.interval;
    let count = known.missing.count(interval);
    let first: Vec<_> = known.missing.iter().take(NAMED).map(|range| text::range(range, interval)).collect();
    let more = if known.missing.len() > NAMED { ", …" } else { "" };
    let message = format!("the range lacks {}; nothing is written (--strict)", text::counted(count, "bar"));
    let error = Error::new(ErrorKind::NotFound, message)
        .with("series", &target.key)
        .with("missing", format_args!("{}{more}", first.join(", ")));
    Failure::Error {
        error,
        hint: Some(
            "`qmtl-history backfill` fetches what is missing; without --strict it is left out".to_owned(),
        ),
        outcome: Outcome::Partial,
    }
}
