//! `ls`: the series of the store.

use qmtl_history_api::{Error, SeriesKey, TimeRange, Timestamp};
use serde::Serialize;

use super::{Context, entry, listed, tell_damaged};
use crate::console::Style;
use crate::outcome::{self, Outcome, Result};
use crate::shapes::{Entry, Seconds, Series};
use crate::store::Store;
use crate::text;

/// The result: the store and its series.
#[derive(Debug, Serialize)]
struct Listing {
    store: String,
    series: Vec<Entry<Item>>,
}

#[derive(Debug, Serialize)]
struct Item {
    #[serde(flatten)]
    series: Series,
    rows: u64,
    /// The first bar stored; null when only proofs of emptiness are.
    first: Option<Seconds>,
    /// The last bar stored.
    last: Option<Seconds>,
    /// Null where the store does not consist of files.
    files: Option<usize>,
    /// Null where the store does not consist of files.
    bytes: Option<u64>,
    #[serde(skip)]
    key: SeriesKey,
}

pub(crate) async fn run(context: &Context) -> Result<Outcome> {
    let store = context.store().await?;
    let (keys, damaged) = listed(&*store).await?;
    let mut series = Vec::new();
    for key in keys {
        let item = item(&store, key.clone()).await;
        series.push(entry(&key, item, false)?);
    }
    series.extend(damaged.into_iter().map(Entry::Damaged));
    let outcome = tell_damaged(&series, context);
    if context.console.is_json() {
        outcome::read_or_not(context.console.json(&Listing { store: store.shown(), series }))?;
    } else {
        outcome::read_or_not(show(&store, &series, context))?;
    }
    Ok(outcome)
}

async fn item(store: &Store, key: SeriesKey) -> Result<Item, Error> {
    let coverage = store.coverage(&key, TimeRange::ALL).await?;
    let bounds = coverage.present().span().and_then(|span| span.bounds(key.interval));
    let files = if store.has_files() { Some(store.files(&key, TimeRange::ALL).await?) } else { None };
    Ok(Item {
        series: Series::from(&key),
        rows: coverage.present().count(key.interval),
        first: bounds.map(|(first, _)| Seconds(first)),
        last: bounds.map(|(_, last)| Seconds(last)),
        files: files.as_ref().map(Vec::len),
        bytes: files.map(|files| files.iter().map(|file| file.bytes).sum()),
        key,
    })
}

fn show(store: &Store, series: &[Entry<Item>], context: &Context) -> Result<()> {
    let console = &context.console;
    if series.is_empty() {
        console
            .note(format!("the store {} has no series yet; `qmtl-history backfill` fills it", store.shown()));
        return Ok(());
    }
    let none = || "-".to_owned();
    let time = |ts: Option<Seconds>| ts.map_or_else(none, |Seconds(ts): Seconds| Timestamp::to_string(&ts));
    let head = ["INTERVAL", "ROWS", "FIRST", "LAST", "FILES", "SIZE", "NODE"].map(str::to_owned).to_vec();
    let rows = series.iter().filter_map(Entry::sound).map(|item| {
        vec![
            item.key.interval.to_string(),
            text::count(item.rows),
            time(item.first),
            time(item.last),
            item.files.map_or_else(none, |files| files.to_string()),
            item.bytes.map_or_else(none, text::bytes),
            item.key.node_id.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    for (index, line) in text::table(&rows, &[1, 4, 5]).into_iter().enumerate() {
        console.line(if index == 0 { console.paint(Style::Bold, &line) } else { line })?;
    }
    Ok(())
}
