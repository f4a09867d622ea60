//! `files`: the exact current data files of a series, for other readers of Parquet.

use std::path::PathBuf;

use serde::Serialize;

use super::{Asked, Context, entry, must_exist, tell_damaged};
use crate::cli::ReadArgs;
use crate::outcome::{self, Outcome, Result};
use crate::shapes::{Entry, OneOrMany, Pair, Series, pair};
use crate::text;

/// The result for one series.
#[derive(Debug, Serialize)]
struct Listing {
    #[serde(flatten)]
    series: Series,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    rows: u64,
    bytes: u64,
    /// The bars that the file answers for.
    partition: Pair,
}

pub(crate) async fn run(args: &ReadArgs, context: &Context) -> Result<Outcome> {
    let asked = Asked::new(args, context).await?;
    let store = context.store().await?;
    let targets = asked.targets(&store, context).await?;
    let mut listings = Vec::new();
    for target in &targets.list {
        must_exist(&*store, &target.key).await?;
        let files = store.files(&target.key, target.range).await;
        let listing = files.map(|files| Listing {
            series: Series::from(&target.key),
            files: files
                .into_iter()
                .map(|file| File {
                    path: file.path,
                    rows: file.rows,
                    bytes: file.bytes,
                    partition: pair(file.partition, target.key.interval),
                })
                .collect(),
        });
        listings.push(entry(&target.key, listing, targets.one)?);
    }
    listings.extend(targets.damaged.into_iter().map(Entry::Damaged));
    let outcome = tell_damaged(&listings, context);
    if context.console.is_json() {
        outcome::read_or_not(context.console.json(&OneOrMany::new(listings, targets.one)))?;
    } else {
        let mut files = listings.iter().filter_map(Entry::sound).flat_map(|listing| &listing.files);
        let printed =
            files.try_for_each(|file| context.console.line(text::in_line(&file.path.display().to_string())));
        outcome::read_or_not(printed)?;
    }
    Ok(outcome)
}
