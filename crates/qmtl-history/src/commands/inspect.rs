//! `inspect`: what a file holds, how it is read, and the command that stores it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::frame::Normalized;
use qmtl_history_api::{
    DataFetcher, Error, ErrorKind, FetchRequest, Interval, NodeId, SeriesKey, TimeRange, Timestamp, frame,
};
use qmtl_io_exchange::{DescribedSeries, FileConfig, FileDescription, FileSet, Profile, Stamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Context;
use crate::cli::{InspectArgs, SourceArgs};
use crate::console::{Console, Style};
use crate::outcome::{Failure, Outcome, Result, in_own_words};
use crate::shapes::Seconds;
use crate::source::{self, FileSource};
use crate::table_writer::{self, TextForm, TimeForm};
use crate::text;
use crate::waits::Waits;

/// The result.
#[derive(Debug, Serialize)]
struct Inspected {
    file: String,
    /// How many of how many bytes were read; null where all were.
    read_of: Option<(u64, u64)>,
    /// How it was read that is not as a plain file is.
    notes: Vec<String>,
    time: Time,
    columns: Vec<Column>,
    /// The column that tells its series apart; null where there is one.
    symbol_column: Option<String>,
    series: Vec<Found>,
    /// The first rows of the first series, as they would be stored.
    first_rows: Box<RawValue>,
    /// What stores the first of them; null where the rows do not tell which bars they are.
    command: Option<String>,
    /// What stores all of them, a command for each interval.
    commands: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Time {
    column: String,
    form: String,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    /// Its name in the file.
    own: String,
    r#type: String,
}

#[derive(Debug, Serialize)]
struct Found {
    /// Empty where no column tells.
    symbol: String,
    rows: u64,
    first: Seconds,
    last: Seconds,
    /// How far most rows lie apart.
    distance_s: Option<f64>,
    interval: Option<String>,
    /// Bars between the first and the last row that have none.
    without_row: Option<u64>,
}

/// Of a text with more bytes than this only the beginning and the end are read.
const SAMPLE_BYTES: u64 = 64 << 20;

/// How many series are shown to people.
const SERIES_SHOWN: usize = 10;

pub(crate) async fn run(args: &InspectArgs, context: &Context) -> Result<Outcome> {
    let Some(named) = &args.file else { return profiles(&context.console) };
    // Here nothing but a file can be meant.
    let path = if Path::new(named).exists() {
        PathBuf::from(named)
    } else {
        source::file_path(named, Path::new(""))?
    };
    let mut source = SourceArgs { rename: args.column.clone(), ..args.source.clone() };
    let waits = Waits::new(&context.console);
    let what = format!("{} has not been read to its end yet", path.display());
    let open = async |source: &SourceArgs| -> Result<FileSet, Error> {
        let config: FileConfig = FileSource::new(path.clone(), source, Interval::MINUTE)?.config;
        let config = if args.full { config } else { config.with_sample(SAMPLE_BYTES) };
        waits.during(&what, FileSet::open([config])).await
    };
    let file = match open(&source).await {
        // It says itself which column tells its series apart.
        Err(error) if source.symbol_column.is_none() && is_of_several(&error) => {
            source.symbol_column = value(&error, "column");
            open(&source).await.map_err(|_| error)
        }
        opened => opened,
    };
    let file = file.map_err(|error| {
        let outcome = match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::Schema => Outcome::Usage,
            _ => Outcome::Failed,
        };
        Failure::Error { error, hint: None, outcome }
    })?;
    let mut file = file;
    let mut found = file.describe();
    if let Some(stamp) = stamp(args, &found) {
        // What is shown is what the command stores.
        source.stamp = Some(stamp);
        file = open(&source).await?;
        found = file.describe();
        found.series.iter_mut().for_each(|series| series.stamp = Some(stamp));
    }
    // Of a file alone it is clear which one is meant.
    let own = format!("{}: ", path.display());
    let notes: Vec<_> =
        file.notes().iter().map(|note| in_own_words(note.strip_prefix(&own).unwrap_or(note))).collect();
    let rows = first_rows(&file, &found, args.rows).await?;
    if context.console.is_json() {
        context.console.json(&inspected(
            (args, named),
            (&notes, &found),
            source.symbol_column,
            rows.as_ref().map(|found| &found.rows),
        )?)?;
    } else {
        show(
            (args, named),
            (&notes, &found),
            source.symbol_column.as_deref(),
            rows.as_ref(),
            &context.console,
        )?;
    }
    Ok(Outcome::Done)
}

/// A layout of files.
#[derive(Debug, Serialize)]
struct Known {
    name: &'static str,
    about: &'static str,
    settings: BTreeMap<&'static str, String>,
}

/// Lists the layouts.
fn profiles(console: &Console) -> Result<Outcome> {
    if console.is_json() {
        let known = Profile::all().iter().map(|profile| Known {
            name: profile.name,
            about: profile.about,
            settings: profile.settings().into_iter().collect(),
        });
        console.json(&known.collect::<Vec<_>>())?;
        return Ok(Outcome::Done);
    }
    for profile in Profile::all() {
        console.line(format!("{:<19} {}", profile.name, profile.about))?;
        for (what, value) in profile.settings() {
            console.line(format!("{:19}   {what}: {value}", ""))?;
        }
    }
    Ok(Outcome::Done)
}

/// Whether a file was refused because a column tells several series apart.
fn is_of_several(error: &Error) -> bool {
    error.message().contains("(with_symbol_column") && value(error, "column").is_some()
}

fn value(error: &Error, name: &str) -> Option<String> {
    error.context().iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
}

/// The first rows of the first series.
async fn first_rows(file: &FileSet, found: &FileDescription, count: usize) -> Result<Option<Normalized>> {
    let Some(series) = found.series.first() else { return Ok(None) };
    let interval = series.interval.unwrap_or(Interval::MINUTE);
    let sole = found.symbol.as_deref().unwrap_or("inspected");
    let node = if series.symbol.is_empty() { sole } else { &series.symbol };
    let key = SeriesKey { node_id: NodeId::new(node)?, interval };
    let first = interval.floor(series.first).unwrap_or(series.first);
    let start = first.checked_sub(interval.duration()).unwrap_or(first);
    let mut bars = count as u64 + 1;
    // Further, as long as bars without rows leave too few.
    loop {
        let length = Duration::from_secs(interval.as_secs().unsigned_abs().saturating_mul(bars));
        let end = first.checked_add(length).unwrap_or(Timestamp::MAX);
        let Some(range) = TimeRange::checked(start, end) else { return Ok(None) };
        let fetched = file.fetch(&FetchRequest::new(key.clone(), range)).await;
        // A file that is refused under this name or interval is described all the same.
        let Ok(fetched) = fetched else { return Ok(None) };
        let batch = fetched.batches.into_batch().await?;
        let rules = file.profile().rules;
        let Ok(mut normal) = frame::normalize_by(&key, range, &[batch], rules) else { return Ok(None) };
        if normal.rows.num_rows() >= count || end > series.last {
            normal.rows = normal.rows.slice(0, count.min(normal.rows.num_rows()));
            return Ok(Some(normal));
        }
        bars = bars.saturating_mul(4);
    }
}

/// Bars between the first and the last row that have none, where all rows were read.
fn without_row(found: &FileDescription, series: &DescribedSeries) -> Option<u64> {
    let interval = series.interval.filter(|_| found.read_of.is_none())?;
    let (first, last) = (interval.floor(series.first)?, interval.floor(series.last)?);
    let range = TimeRange::checked(first, interval.next(last)?)?;
    Some(range.count(interval).saturating_sub(series.rows))
}

/// The commands that store the file, one for each interval.
fn commands(of: (&InspectArgs, &str), found: &FileDescription, symbol_column: Option<&str>) -> Vec<String> {
    let mut intervals: Vec<_> = found.series.iter().filter_map(|series| series.interval).collect();
    let mut seen = HashSet::new();
    intervals.retain(|interval| seen.insert(*interval));
    intervals.into_iter().map(|interval| command(of, found, symbol_column, interval)).collect()
}

fn command(
    (args, named): (&InspectArgs, &str),
    found: &FileDescription,
    symbol_column: Option<&str>,
    interval: Interval,
) -> String {
    let name = source_name(named);
    let mut words =
        vec!["qmtl-history backfill --store ./history --source".to_owned(), text::shell_word(&name)];
    words.extend(given(named));
    if let Some(column) = symbol_column.filter(|_| args.source.symbol_column.is_none()) {
        words.push(text::option("--symbol-column", column));
    }
    // Those that one command takes.
    let shown = || {
        found.series.iter().filter(|series| series.interval == Some(interval) && !series.symbol.is_empty())
    };
    match shown().count() {
        1.. => words.extend(shown().map(|series| text::option("--node", &series.symbol))),
        0 => {
            let bare = named.strip_prefix("file:").unwrap_or(named);
            let stem = || Path::new(bare).file_name()?.to_str()?.split('.').next().map(str::to_owned);
            let is_name =
                |node: &String| !matches!(node.as_str(), "" | "-") && !node.contains(['*', '?', '[']);
            let node = found.symbol.clone().or_else(stem).filter(is_name);
            words.push(text::option("--node", node.as_deref().unwrap_or("NODE")));
        }
    }
    words.push(format!("--interval {interval}"));
    if let Some(stamp) = stamp(args, found) {
        words.push(format!("--stamp {stamp}"));
    }
    words.join(" ")
}

/// What the times of the rows must be taken for, where nobody says.
fn stamp(args: &InspectArgs, found: &FileDescription) -> Option<Stamp> {
    found.series.iter().find_map(|series| series.stamp).filter(|_| args.source.stamp.is_none())
}

/// The file as --source takes it.
fn source_name(file: &str) -> String {
    if file == "-" || file.starts_with("file:") { file.to_owned() } else { format!("file:{file}") }
}

/// The options that were given for the file, as they are written.
fn given(named: &str) -> Vec<String> {
    // What stands behind the command's name, but for what only it takes.
    let own = ["inspect", "--json", "--full", "--rows", "--store", "-q", "--quiet"];
    let all: Vec<String> = std::env::args().skip(1).collect();
    let mut words = Vec::new();
    let mut rest = all.into_iter().peekable();
    while let Some(word) = rest.next() {
        let name = word.split('=').next().unwrap_or_default();
        if own.contains(&name) || word == named {
            if matches!(word.as_str(), "--rows" | "--store") {
                rest.next();
            }
            continue;
        }
        words.push(text::shell_word(&word));
    }
    words
}

fn inspected(
    (args, named): (&InspectArgs, &str),
    (notes, found): (&[String], &FileDescription),
    symbol_column: Option<String>,
    rows: Option<&RecordBatch>,
) -> Result<Inspected> {
    let series = found.series.iter().map(|series| Found {
        symbol: series.symbol.clone(),
        rows: series.rows,
        first: Seconds(series.first),
        last: Seconds(series.last),
        distance_s: series.distance.map(|distance| distance.as_secs_f64()),
        interval: series.interval.map(|interval| interval.to_string()),
        without_row: without_row(found, series),
    });
    let columns = found.columns.iter().map(|column| Column {
        name: column.name.clone(),
        own: column.own.clone(),
        r#type: column.data_type.to_string().to_lowercase(),
    });
    let shown =
        rows.map(|rows| table_writer::text_of(rows, TextForm::Json, TimeForm::Seconds)).transpose()?;
    // Between its rows, and nowhere else.
    let shown = shown.unwrap_or_else(|| "[]".to_owned()).replace('\n', "");
    let first_rows = RawValue::from_string(shown);
    let commands = commands((args, named), found, symbol_column.as_deref());
    Ok(Inspected {
        file: named.to_owned(),
        read_of: found.read_of,
        notes: notes.to_vec(),
        time: Time { column: found.time_column.clone(), form: found.time_form.clone() },
        columns: columns.collect(),
        series: series.collect(),
        first_rows: first_rows.map_err(|e| Error::unexpected("rows are no JSON").caused_by(e))?,
        command: commands.first().cloned(),
        commands,
        symbol_column,
    })
}

fn show(
    (args, named): (&InspectArgs, &str),
    (notes, found): (&[String], &FileDescription),
    symbol_column: Option<&str>,
    shown: Option<&Normalized>,
    console: &Console,
) -> Result<()> {
    console.line(console.paint(Style::Bold, &text::in_line(named)))?;
    if let Some((read, all)) = found.read_of {
        let (read, all) = (text::bytes(read), text::bytes(all));
        console.line(format!(
            "  read     {read} of {all}: the beginning and the end; --full reads everything"
        ))?;
    }
    for note in notes {
        console.line(format!("  note     {}", text::in_line(note)))?;
    }
    console.line(format!("  time     {}: {}", text::in_line(&found.time_column), found.time_form))?;
    for (at, column) in found.columns.iter().enumerate() {
        let label = if at == 0 { "columns" } else { "" };
        let own =
            if column.own == column.name { String::new() } else { format!(" (in the file: {})", column.own) };
        let told =
            text::in_line(&format!("{}, {}{own}", column.name, column.data_type.to_string().to_lowercase()));
        console.line(format!("  {label:<7}  {told}"))?;
    }
    let count = text::count(found.series.len() as u64);
    match symbol_column {
        Some(column) => {
            console.line(format!("  series   {count}, told apart by {}", text::in_line(column)))?
        }
        None if found.series.iter().any(|series| !series.symbol.is_empty()) => {
            console.line(format!("  series   {count}, told apart by the names of the files"))?;
        }
        None => {}
    }
    for series in found.series.iter().take(SERIES_SHOWN) {
        let rows = text::counted(series.rows, "row");
        let apart = match (series.interval, series.distance) {
            (Some(interval), _) => format!("bars of {interval}"),
            (None, Some(distance)) if is_month(distance) => {
                "about a month apart, which no interval is".to_owned()
            }
            (None, Some(distance)) => format!("{} apart", text::duration(distance)),
            (None, None) => "of no known interval".to_owned(),
        };
        let holes = match without_row(found, series) {
            Some(0) | None => String::new(),
            Some(bars) => format!(", {} without a row", text::counted(bars, "bar")),
        };
        let name = if series.symbol.is_empty() { String::new() } else { format!("{}: ", series.symbol) };
        let told = format!("{name}{rows}, {} to {}, {apart}{holes}", series.first, series.last);
        console.line(format!("  rows     {}", text::in_line(&told)))?;
    }
    if let Some(rest) = found.series.len().checked_sub(SERIES_SHOWN).filter(|rest| *rest > 0) {
        console.line(format!("           ... and {} more; --json has them all", text::count(rest as u64)))?;
    }
    let off_grid = shown.map_or(&[][..], |shown| &shown.off_grid);
    if let Some(rows) = shown.map(|shown| &shown.rows).filter(|rows| rows.num_rows() > 0) {
        console.line("\nThe first rows as they are stored:")?;
        for line in table_writer::text_of(rows, TextForm::Csv, TimeForm::Iso)?.lines() {
            console.line(format!("  {}", text::in_line(line)))?;
        }
    }
    match stamp(args, found) {
        Some(Stamp::Date) => console.line(
            "\nThe days begin at the midnight of a zone with summer time; --stamp date stores each under its date.",
        )?,
        Some(stamp) => console.line(format!(
            "\nThe times are those at which bars closed; --stamp {stamp} stores each bar under its opening."
        ))?,
        None => {}
    }
    if let Some(first) = off_grid.first() {
        let (count, are) =
            (text::count(off_grid.len() as u64), if off_grid.len() == 1 { "is" } else { "are" });
        console.line(format!(
            "\n{count} of the first rows {are} off the grid, the first at {}; --off-grid decides what becomes of such rows.",
            first.ts
        ))?;
    }
    let commands = commands((args, named), found, symbol_column);
    if commands.is_empty() {
        return console.line(if found.series.iter().any(|series| series.distance.is_some_and(is_month)) {
            "\nMonths are no interval: keep days or weeks, and make months of them."
        } else {
            "\nThe rows do not tell which interval they have; say it with --interval in a backfill."
        });
    }
    console.line(if commands.len() == 1 { "\nThis stores them:" } else { "\nThese store them:" })?;
    commands.iter().try_for_each(|command| console.line(format!("  {command}")))
}

fn is_month(distance: Duration) -> bool {
    (28..=31).contains(&(distance.as_secs() / 86_400))
}
