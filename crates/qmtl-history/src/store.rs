//! Stores: what `--store` names, and the backend behind it.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{
    Error, ErrorKind, HistoryBackend, Interval, SeriesKey, SourceId, TimeRange, Timestamp,
};
use qmtl_io_parquet::{Collected, ParquetBackend, ParquetConfig, Problem, Removed, StoredPartition};

use crate::outcome::{Failure, Result};
use crate::replace::Replacing;

/// A store that is open.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    backend: ParquetBackend,
}

impl Store {
    /// Opens the store that was named, which must exist.
    pub(crate) async fn open(name: Option<&str>) -> Result<Self> {
        Self::with(name, false, None).await
    }

    /// The same, to collect what has been replaced for as long as this.
    pub(crate) async fn open_with_grace(name: Option<&str>, grace: Option<Interval>) -> Result<Self> {
        Self::with(name, false, grace).await
    }

    /// Opens the store that was named; when it does not exist, the first write makes it.
    pub(crate) async fn open_or_new(name: Option<&str>) -> Result<Self> {
        Self::with(name, true, None).await
    }

    async fn with(name: Option<&str>, create: bool, grace: Option<Interval>) -> Result<Self> {
        let root = root(name)?;
        let mut config = ParquetConfig::new(&root).with_create(create);
        if let Some(grace) = grace {
            config = config.with_grace(Duration::from_micros(grace.as_micros().unsigned_abs()));
        }
        let backend = ParquetBackend::open(config).await.map_err(|e| {
            let is_absent = e.kind() == ErrorKind::NotFound;
            let failure = Failure::unreachable(e);
            if is_absent { failure.hint("`qmtl-history backfill` makes and fills a store") } else { failure }
        })?;
        Ok(Self { root, backend })
    }

    /// The store as its user named it.
    pub(crate) fn shown(&self) -> String {
        self.root.display().to_string()
    }

    /// The backend, for whoever keeps it longer than this.
    pub(crate) fn backend(&self) -> Arc<dyn HistoryBackend> {
        Arc::new(self.backend.clone())
    }

    /// What is wrong with each damaged file of a series.
    pub(crate) async fn damaged_files(&self, key: &SeriesKey) -> Result<Vec<Error>, Error> {
        let found = self.backend.check_files(key).await?;
        let damaged = found.into_iter().filter_map(|finding| match finding.problem {
            Problem::Damaged(error) => Some(error),
            // An unfinished file does no harm.
            _ => None,
        });
        Ok(damaged.collect())
    }

    /// The current data files of a series that hold rows and overlap `range`, ascending.
    pub(crate) async fn files(
        &self,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<Vec<StoredPartition>, Error> {
        let mut files = self.backend.files(key, range).await?;
        files.retain(|file| file.rows > 0);
        Ok(files)
    }

    /// Removes the files of a series that newer ones have replaced for the grace time.
    pub(crate) async fn collect(
        &self,
        key: &SeriesKey,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<Collected, Error> {
        self.backend.collect(key, now, dry_run).await
    }

    /// Removes the rows and proofs of a series before a point.
    pub(crate) async fn prune(
        &self,
        key: &SeriesKey,
        before: Timestamp,
        dry_run: bool,
    ) -> Result<Removed, Error> {
        self.backend.prune(key, before, dry_run).await
    }

    /// Forgets proofs of emptiness in a range, of one source or of all.
    pub(crate) async fn forget_empty(
        &self,
        key: &SeriesKey,
        (range, source): (TimeRange, Option<&SourceId>),
        dry_run: bool,
    ) -> Result<Removed, Error> {
        self.backend.forget_empty(key, range, source, dry_run).await
    }

    /// The store as a fill sees it whose rows take the place of stored ones.
    pub(crate) fn replacing(&self) -> Replacing<ParquetBackend> {
        Replacing::new(self.backend.clone())
    }
}

impl Deref for Store {
    type Target = dyn HistoryBackend;

    fn deref(&self) -> &Self::Target {
        &self.backend
    }
}

/// The folder that a store's name means; `InvalidInput` for what this build cannot open.
fn root(name: Option<&str>) -> Result<PathBuf> {
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
        Failure::from(Error::invalid("no store is named")).hint("use --store DIR, or set QMTL_HISTORY_STORE")
    })?;
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(PathBuf::from(name));
    };
    match scheme {
        "file" if rest.starts_with('/') => Ok(PathBuf::from(rest)),
        // What follows the scheme may hold a password and is not repeated.
        _ => Err(Failure::from(
            Error::invalid("this build keeps stores in folders only")
                .with("scheme", format_args!("{scheme}://")),
        )
        .hint("use --store DIR: a folder of Parquet files on a local disk")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_store_is_a_folder() {
        assert_eq!(root(Some("./history")).unwrap(), Path::new("./history"));
        assert_eq!(root(Some("file:///data/x")).unwrap(), Path::new("/data/x"));
        assert_eq!(root(Some("a:b")).unwrap(), Path::new("a:b"));
    }

    #[test]
    fn another_store_is_refused_without_its_secrets() {
        for name in ["questdb://admin:quest@host/qdb", "s3://bucket/x", "file://relative"] {
            let failure = root(Some(name)).unwrap_err();
            let Failure::Error { error, hint, outcome } = &failure else { panic!("it is an error") };
            assert!(
                error.to_string().starts_with("this build keeps stores in folders only (scheme: "),
                "{error}"
            );
            assert!(!error.to_string().contains("quest@") && hint.is_some());
            assert_eq!(outcome.code(), 2);
        }
    }
}
