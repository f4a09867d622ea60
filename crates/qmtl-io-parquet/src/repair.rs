//! Rebuilding what the files of a store still tell: the name of a node's folder, and the list of a series' columns.

use std::path::Path;

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{ErrorKind, NodeId, Rebuilt, Repaired, Result, SeriesKey, TimeRange, frame};

use crate::columns::plain;
use crate::error;
use crate::file::StoredFile;
use crate::layout::{self, SeriesFolder};
use crate::store::Store;

impl Store {
    /// Rebuilds every name and every list of columns that is lost or wrong and can be had from the commits below it.
    pub(crate) fn repair(&self, dry_run: bool) -> Result<Vec<Repaired>> {
        let mut repaired = Vec::new();
        for name in self.disk.entries(self.disk.root())?.folders {
            let node = self.disk.root().join(&name);
            // What cannot be mended hides nothing that can: it stays a finding of those who list the store.
            if let Err(error) = self.repair_node((&node, &name), dry_run, &mut repaired) {
                tracing::debug!(path = %node.display(), error = error.chain(), "cannot rebuild what names a series");
            }
        }
        Ok(repaired)
    }

    fn repair_node(
        &self,
        (node, name): (&Path, &str),
        dry_run: bool,
        repaired: &mut Vec<Repaired>,
    ) -> Result<()> {
        let found = self.intervals(node)?;
        let is_called = |id: &NodeId| layout::node_folder(id) == name;
        let node_id = match self.read_owner(node) {
            Ok(Some(id)) if is_called(&id) => id,
            // What a later version wrote is not damage.
            Err(error) if error::is_newer(&error) => return Ok(()),
            named => {
                let told = self.told_by_commits(node, &found.intervals)?.filter(is_called);
                let Some(id) = told else { return Ok(()) };
                let path = node.join(layout::SERIES_FILE);
                self.must_have_room(&path)?;
                if !dry_run {
                    // A name is put where none is.
                    if !matches!(named, Ok(None)) {
                        self.disk.remove(&path)?;
                    }
                    self.put_name(node, &id)?;
                }
                repaired.push(Repaired::new(path, Rebuilt::Name(id.clone())));
                id
            }
        };
        for interval in found.all() {
            let key = SeriesKey { node_id: node_id.clone(), interval };
            let series = SeriesFolder::new(self.disk.root(), &key);
            match self.repair_columns(&series, dry_run) {
                Ok(columns) => repaired.extend(columns),
                Err(error) => {
                    tracing::debug!(series = %key, error = error.chain(), "cannot rebuild a list of columns");
                }
            }
        }
        Ok(())
    }

    /// `Corrupt` where a file could not be put in the place of what stands there: a dry run must not promise it.
    fn must_have_room(&self, path: &Path) -> Result<()> {
        if self.disk.is_in_the_way(path) {
            return Err(error::corrupt(
                path,
                "what stands there cannot be replaced by the file: move it away",
            ));
        }
        Ok(())
    }

    /// Lists the columns again that rows have and the list lacks; versions of it that are damaged make room.
    fn repair_columns(&self, series: &SeriesFolder, dry_run: bool) -> Result<Option<Repaired>> {
        let needed = self.columns_of_rows(series)?;
        let folder = series.schemas();
        let (mut listed, mut damaged) = (frame::ts_only_schema(), Vec::new());
        for commit in self.disk.commits(&folder)?.into_iter().rev() {
            let path = folder.join(layout::commit_file(commit.seq));
            self.must_have_room(&path)?;
            match StoredFile::open(&*self.disk, &path) {
                Ok(None) => {}
                // One that is sound and of another place is a loss somewhere else, and not to be removed.
                Ok(Some(_)) => {
                    let file = self.open_checked(&path, series, None, commit.seq)?;
                    listed = file.map_or(listed, |file| plain(file.schema()));
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt && !error::is_newer(&error) => {
                    damaged.push(path);
                }
                Err(error) => return Err(error),
            }
        }
        let is_listed = |name: &str| damaged.is_empty() && listed.field_with_name(name).is_ok();
        let lacking = needed.fields().iter().map(|field| field.name()).filter(|name| *name != frame::TS);
        let columns: Vec<_> = lacking.filter(|name| !is_listed(name)).cloned().collect();
        if columns.is_empty() && damaged.is_empty() {
            return Ok(None);
        }
        if !dry_run {
            damaged.iter().try_for_each(|path| self.disk.remove(path))?;
            self.tips.forget(&folder);
            self.add_columns(series, &needed)?;
        }
        Ok(Some(Repaired::new(folder, Rebuilt::Columns { key: series.key.clone(), columns })))
    }

    /// The columns of all current files that can be read.
    fn columns_of_rows(&self, series: &SeriesFolder) -> Result<SchemaRef> {
        let mut all = frame::ts_only_schema();
        for (partition, newest) in self.partitions(series, TimeRange::ALL)? {
            let snapshot = match self.open(series, partition, newest.seq) {
                Ok(snapshot) => snapshot,
                // Of files that are out of reach nobody knows what columns they have.
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Err(_) => continue,
            };
            for file in snapshot.files() {
                all = frame::union(&all, &plain(file.schema()))?;
            }
        }
        Ok(all)
    }
}
