//! Rebuilding what the files of a store still tell: the name of a node's folder, and the list of a series' columns.

use std::path::Path;
use std::sync::Arc;

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{ErrorKind, Interval, NodeId, Rebuilt, Repaired, Result, SeriesKey, TimeRange, frame};

use crate::columns::plain;
use crate::file::StoredFile;
use crate::layout::{self, Partition, SeriesFolder};
use crate::store::Store;

impl Store {
    /// Rebuilds every name and every list of columns that is lost or wrong and can be had from the commits below it.
    pub(crate) fn repair(&self, dry_run: bool) -> Result<Vec<Repaired>> {
        let mut repaired = Vec::new();
        for name in self.disk.folders(self.disk.root())? {
            let node = self.disk.root().join(&name);
            // A folder that cannot be looked at stays a finding of those who list the store.
            let Ok(found) = self.intervals(&node) else { continue };
            let is_called = |id: &NodeId| layout::node_folder(id) == name;
            let node_id = match self.read_owner(&node) {
                Ok(Some(id)) if is_called(&id) => id,
                // What a later version wrote is not damage.
                Err(_) if self.is_of_later_version(&node) => continue,
                named => {
                    let told = self.told_by_commits(&node, &found.intervals)?.filter(is_called);
                    let Some(id) = told else { continue };
                    if !dry_run {
                        // A name is put where none is.
                        if !matches!(named, Ok(None)) {
                            self.disk.remove(&node.join(layout::SERIES_FILE))?;
                        }
                        self.put_name(&node, &id)?;
                    }
                    let path = node.join(layout::SERIES_FILE);
                    repaired.push(Repaired::new(path, Rebuilt::Name(id.clone())));
                    id
                }
            };
            for interval in found.intervals {
                let key = SeriesKey { node_id: node_id.clone(), interval };
                let series = SeriesFolder::new(self.disk.root(), &key);
                repaired.extend(self.repair_columns(&series, dry_run)?);
            }
        }
        Ok(repaired)
    }

    /// The node that the newest commits of a folder say they are of, where one can be read.
    pub(crate) fn told_by_commits(&self, node: &Path, intervals: &[Interval]) -> Result<Option<NodeId>> {
        for interval in intervals {
            let folder = node.join(interval.to_string());
            for partition in self.disk.list(&folder)? {
                let folder = folder.join(&partition);
                if Partition::parse(*interval, &partition).is_none() {
                    continue;
                }
                let Some(newest) = self.disk.newest(&folder, None)? else { continue };
                if let Ok(Some(file)) =
                    StoredFile::open(&*self.disk, &folder.join(layout::commit_file(newest.seq)))
                {
                    return Ok(Some(file.footer().key.node_id.clone()));
                }
            }
        }
        Ok(None)
    }

    /// Lists the columns again that rows have and the list lacks; one that is damaged makes room.
    fn repair_columns(&self, series: &SeriesFolder, dry_run: bool) -> Result<Option<Repaired>> {
        let needed = self.columns_of_rows(series)?;
        let folder = series.schemas();
        let listed = loop {
            match self.columns(series) {
                Ok(columns) => break columns.schema,
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Err(_) if dry_run => break frame::ts_only_schema(),
                Err(error) => {
                    let Some(newest) = self.disk.newest(&folder, None)? else { return Err(error) };
                    self.disk.remove(&folder.join(layout::commit_file(newest.seq)))?;
                    self.tips.forget(&folder);
                }
            }
        };
        let lacks = needed.fields().iter().filter(|field| listed.field_with_name(field.name()).is_err());
        let columns: Vec<_> = lacks.map(|field| field.name().clone()).collect();
        if columns.is_empty() {
            return Ok(None);
        }
        if !dry_run {
            self.add_columns(series, &needed)?;
        }
        Ok(Some(Repaired::new(folder, Rebuilt::Columns { key: series.key.clone(), columns })))
    }

    /// The columns of all current files that can be read.
    fn columns_of_rows(&self, series: &SeriesFolder) -> Result<SchemaRef> {
        let mut all = frame::ts_only_schema();
        for (partition, newest) in self.partitions(series, TimeRange::ALL)? {
            if let Ok(snapshot) = self.open(series, partition, newest.seq) {
                for file in snapshot.files() {
                    all = frame::union(&all, &plain(file.schema()))?;
                }
            }
        }
        Ok(Arc::clone(&all))
    }
}
