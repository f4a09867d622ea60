//! Reading everything that counts, to find damage before a strategy does.

use std::path::{Path, PathBuf};

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Finding, Problem, RangeSet, Result, SeriesKey, TimeRange, frame};

use crate::columns::check_listed;
use crate::disk::Entries;
use crate::error::{self, stray};
use crate::layout::{self, Partition, SeriesFolder, TEMP_PREFIX};
use crate::state::Snapshot;
use crate::store::Store;
use crate::tree::Unfit;

impl Store {
    /// Reads every byte of the newest commits of a series, and looks for unfinished files.
    pub(crate) fn check(&self, key: &SeriesKey) -> Result<Vec<Finding>> {
        let series = self.series_folder(key)?;
        let mut findings = unfit(self, &series)?;
        let partitions = match self.partitions(&series, TimeRange::ALL) {
            Ok(partitions) => partitions,
            // Where one of them does not fit, which is told of already, nothing counts.
            Err(_) if !findings.is_empty() => return Ok(findings),
            Err(error) => return Err(error),
        };
        let columns = match self.columns(&series) {
            Ok(columns) => Some(columns.schema),
            Err(error) => {
                findings.push(Finding::new(series.schemas(), Problem::Damaged(error)));
                None
            }
        };
        for (partition, newest) in partitions {
            let seq = newest.seq;
            if let Err(error) = self.check_partition(&series, (partition, seq), columns.as_ref()) {
                let named = error.context().iter().find(|(name, _)| *name == "path");
                let path = named.map_or_else(|| series.commit(partition, seq), |(_, path)| path.into());
                findings.push(Finding::new(path, Problem::Damaged(error)));
            }
        }
        Ok(findings)
    }

    fn check_partition(
        &self,
        series: &SeriesFolder,
        (partition, seq): (Partition, u64),
        columns: Option<&SchemaRef>,
    ) -> Result<()> {
        self.with_open(series, partition, seq, |snapshot| check_rows(series, snapshot, columns))
    }
}

/// Whether the files of a state hold the rows that they claim, each once.
fn check_rows(series: &SeriesFolder, snapshot: &Snapshot, columns: Option<&SchemaRef>) -> Result<()> {
    let mut all = RangeSet::new();
    for file in snapshot.files() {
        if let Some(columns) = columns {
            check_listed(file, columns)?;
        }
        let mut present = RangeSet::new();
        let mut rows = 0;
        for batch in file.read(TimeRange::ALL, file.schema())? {
            frame::check(&series.key, &batch)?;
            present.extend(frame::row_runs(&series.key, &batch)?);
            rows += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        }
        let footer = file.footer();
        if (&present, rows) != (footer.coverage.present(), footer.rows) {
            return Err(error::corrupt(file.path(), "the file's footer claims other rows than it has"));
        }
        if !all.intersection(&present).is_empty() {
            return Err(error::corrupt(file.path(), "the file has rows that the one below it has too"));
        }
        all = all.union(&present);
    }
    Ok(())
}

/// What nobody reads: unfinished files, and folders and commits that were renamed.
fn unfit(store: &Store, series: &SeriesFolder) -> Result<Vec<Finding>> {
    let (own, mut unfit) = store.partitions_of(series.key.interval, &series.interval())?;
    let mut findings = Vec::new();
    let partitions: Vec<_> = own.into_iter().map(|partition| series.partition(partition)).collect();
    let schemas = Some(series.schemas()).filter(|folder| store.disk.has_folder(folder));
    for folder in std::iter::once(&series.node()).chain(&schemas).chain(&partitions) {
        let entries = store.disk.entries(folder)?;
        let unfinished = entries.files.iter().filter(|name| name.starts_with(TEMP_PREFIX));
        findings.extend(unfinished.map(|name| Finding::new(folder.join(name), Problem::Unfinished)));
        unfit.extend(odd_commits(folder, &entries));
        // What does not fit in a node's folder is none of this series, and that of columns was looked at.
        if partitions.contains(folder) {
            unfit.extend(store.strays(folder, &entries, |_| false)?);
        }
    }
    findings.extend(unfit.into_iter().map(|(path, error)| Finding::new(path, Problem::Damaged(error))));
    Ok(findings)
}

/// The files in a folder that look like commits and are not called as those are.
fn odd_commits(folder: &Path, entries: &Entries) -> Unfit {
    let named = entries.files.iter().map(|name| folder.join(name));
    let is_odd =
        |path: &PathBuf| path.file_name().is_some_and(|name| layout::is_odd_commit(&name.to_string_lossy()));
    let odd = named.chain(entries.unnamed_files.iter().cloned()).filter(is_odd);
    odd.map(|path| (path.clone(), stray(&path))).collect()
}
