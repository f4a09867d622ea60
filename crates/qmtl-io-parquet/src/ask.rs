//! Questions that footers and names answer: coverage, revision, files, series.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use qmtl_history_api::{
    Coverage, EmptyProof, Error, ErrorKind, Interval, NodeId, RangeSet, Result, SeriesKey, TimeRange,
};

use crate::backend::StoredPartition;
use crate::columns::check_listed;
use crate::layout::{self, Partition, SeriesFolder};
use crate::store::Store;

impl Store {
    pub(crate) fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let series = self.series_folder(key)?;
        let mut present = RangeSet::new();
        let mut proofs: Vec<EmptyProof> = Vec::new();
        let mut are_columns_known = false;
        for (partition, newest) in self.partitions(&series, range)? {
            // Once a handle: what is remembered was read when the list was sound.
            if !are_columns_known && self.states.get(&series.partition(partition), newest).is_none() {
                self.check_columns(&series, partition, newest.seq)?;
                are_columns_known = true;
            }
            let known = self.state(&series, partition, newest)?;
            let coverage = known.coverage().within(range);
            present.extend(coverage.present().iter());
            for proof in coverage.known_empty() {
                match proofs.iter_mut().find(|known| known.is_same_answer(proof)) {
                    Some(known) => known.ranges.extend(proof.ranges.iter()),
                    None => proofs.push(proof.clone()),
                }
            }
        }
        proofs.sort_by_key(|proof| proof.answered_at);
        let mut coverage = Coverage::of_present(present);
        for proof in &proofs {
            coverage.add_empty(proof);
        }
        Ok(coverage)
    }

    /// `Corrupt` where the list of columns is damaged or gone: rows that cannot be read make nothing complete.
    fn check_columns(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<()> {
        let columns = self.columns(series)?;
        // A series of times alone has no list.
        if columns.version == 0 {
            for file in self.open(series, partition, seq)?.files() {
                check_listed(file, &columns.schema)?;
            }
        }
        Ok(())
    }

    /// A hash over the newest commits and the version of each one's file, so that a store that was
    /// taken away and filled again under an open handle differs too.
    pub(crate) fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let series = self.series_folder(key)?;
        let partitions = self.partitions(&series, TimeRange::ALL)?;
        if partitions.is_empty() {
            return Ok(None);
        }
        let mut hash = blake3::Hasher::new();
        let columns = self.newest(&series.schemas())?.map_or(0, |newest| newest.seq);
        hash.update(&columns.to_le_bytes());
        for (partition, newest) in partitions {
            let changed = newest.modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
            hash.update(&partition.range().start().as_micros().to_le_bytes());
            hash.update(&newest.seq.to_le_bytes());
            hash.update(&newest.bytes.to_le_bytes());
            hash.update(&changed.unwrap_or_default().as_nanos().to_le_bytes());
            hash.update(&newest.tag.to_le_bytes());
        }
        let mut number = [0; 8];
        hash.finalize_xof().fill(&mut number);
        Ok(Some(u64::from_le_bytes(number)))
    }

    pub(crate) fn files(&self, key: &SeriesKey, range: TimeRange) -> Result<Vec<StoredPartition>> {
        let series = self.series_folder(key)?;
        let mut files = Vec::new();
        for (partition, newest) in self.partitions(&series, range)? {
            for file in self.open(&series, partition, newest.seq)?.files() {
                files.push(StoredPartition {
                    path: file.path().to_owned(),
                    partition: partition.range(),
                    rows: file.footer().rows,
                    bytes: file.bytes()?,
                    seq: file.footer().seq,
                });
            }
        }
        Ok(files)
    }

    /// Every series of the folder tree that has a commit, and an error for each folder that holds a name or commits
    /// and does not fit; what is not ours is passed over.
    pub(crate) fn series(&self) -> Result<Vec<Result<SeriesKey>>> {
        let mut keys = Vec::new();
        for name in self.disk.folders(self.disk.root())? {
            let node = self.disk.root().join(&name);
            match self.series_of(&node, &name) {
                Ok(found) => keys.extend(found),
                // Those that can be read are told all the same.
                Err(error) => keys.push(Err(error)),
            }
        }
        Ok(keys)
    }

    fn series_of(&self, node: &Path, name: &str) -> Result<Vec<Result<SeriesKey>>> {
        let found = self.intervals(node)?;
        match self.read_owner(node)? {
            Some(node_id) if layout::node_folder(&node_id) == name => {
                let key = |interval| Ok(SeriesKey { node_id: node_id.clone(), interval });
                let strays = found.strays.iter().map(|path| Err(stray(path)));
                Ok(found.intervals.into_iter().map(key).chain(strays).collect())
            }
            Some(node_id) => Err(misplaced(node, &node_id)),
            None if !found.intervals.is_empty() => {
                Err(match self.told_by_commits(node, &found.intervals)? {
                    // A copy, or one that was renamed besides.
                    Some(node_id) if layout::node_folder(&node_id) != name => misplaced(node, &node_id),
                    _ => nameless(node),
                })
            }
            None if !found.strays.is_empty() => {
                Ok(found.strays.iter().map(|path| Err(stray(path))).collect())
            }
            None if self.disk.newest(node, None)?.is_some() => Err(stray(node)),
            None if layout::is_node_folder(name) && self.holds_more_than_attempts(node)? => {
                Err(nameless(node))
            }
            None => {
                tracing::debug!(path = %node.display(), "not a series folder");
                self.series_inside(node)
            }
        }
    }

    /// An error for each folder of a series that was moved into a foreign one.
    fn series_inside(&self, foreign: &Path) -> Result<Vec<Result<SeriesKey>>> {
        let mut found = Vec::new();
        for name in self.disk.folders(foreign)? {
            let folder = foreign.join(&name);
            if let Some(node_id) = self.read_owner(&folder)? {
                found.push(Err(moved(&folder, &node_id)));
            }
        }
        Ok(found)
    }

    /// Whether there is anything in a folder but what a writer leaves that is killed at the beginning.
    fn holds_more_than_attempts(&self, folder: &Path) -> Result<bool> {
        Ok(self.disk.list(folder)?.iter().any(|name| !name.starts_with(layout::TEMP_PREFIX)))
    }

    /// What stands in a node's folder.
    pub(crate) fn intervals(&self, node: &Path) -> Result<Intervals> {
        let mut found = Intervals::default();
        for name in self.disk.folders(node)? {
            let folder = node.join(&name);
            match name.parse::<Interval>().ok().filter(|interval| interval.to_string() == name) {
                Some(interval) if self.has_partition(interval, &folder)? => found.intervals.push(interval),
                Some(interval) => {
                    found.strays.extend(self.stray_partitions(interval, &folder)?);
                    found.strays.extend(self.odd_commits(interval, &folder)?);
                }
                None if self.holds_commits(&folder)? => found.strays.push(folder),
                None => {}
            }
        }
        Ok(found)
    }

    fn has_partition(&self, interval: Interval, folder: &Path) -> Result<bool> {
        for name in self.disk.list(folder)? {
            if Partition::parse(interval, &name).is_some()
                && self.disk.newest(&folder.join(&name), None)?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The folders in that of an interval that hold commits, and are not called as a partition of it is.
    pub(crate) fn stray_partitions(&self, interval: Interval, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut strays = Vec::new();
        for name in self.disk.folders(folder)? {
            let is_own = name == layout::SCHEMA_FOLDER || Partition::parse(interval, &name).is_some();
            let folder = folder.join(&name);
            if !is_own && self.disk.newest(&folder, None)?.is_some() {
                strays.push(folder);
            }
        }
        Ok(strays)
    }

    /// The files in the partitions of an interval that look like commits and are not called as those are.
    pub(crate) fn odd_commits(&self, interval: Interval, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut odd = Vec::new();
        for name in self.disk.list(folder)? {
            if Partition::parse(interval, &name).is_some() {
                let partition = folder.join(&name);
                let names =
                    self.disk.list(&partition)?.into_iter().filter(|name| layout::is_odd_commit(name));
                odd.extend(names.map(|name| partition.join(name)));
            }
        }
        Ok(odd)
    }

    /// Whether a folder has commits, or folders that have some.
    fn holds_commits(&self, folder: &Path) -> Result<bool> {
        if self.disk.newest(folder, None)?.is_some() {
            return Ok(true);
        }
        for name in self.disk.folders(folder)? {
            if self.disk.newest(&folder.join(&name), None)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What stands in a node's folder.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    /// Those under which a partition has a commit.
    pub(crate) intervals: Vec<Interval>,
    /// Folders with commits that no interval or partition is called like.
    pub(crate) strays: Vec<PathBuf>,
}

/// The error of a folder whose series nobody can name.
fn nameless(node: &Path) -> Error {
    let message = "the file that names the series of a folder is missing; rebuild it (with `repair`) or restore it from \
                   a copy";
    Error::new(ErrorKind::Corrupt, message).with("path", node.join(layout::SERIES_FILE).display())
}

/// The error of a folder that says it is another one.
fn misplaced(node: &Path, node_id: &NodeId) -> Error {
    let message = "the folder is not called as the one of its series is; rename it back if it was renamed, rebuild the \
                   name inside if that was edited (with `repair`), or move the folder out of the store";
    Error::new(ErrorKind::Corrupt, message)
        .with("path", node.display())
        .with("node_id", node_id)
        .with("called", layout::node_folder(node_id))
}

/// The error of a series' folder inside of one that is not of the store.
fn moved(folder: &Path, node_id: &NodeId) -> Error {
    let message = "the folder of a series was moved into another folder; move it back, or out of the store";
    Error::new(ErrorKind::Corrupt, message).with("path", folder.display()).with("node_id", node_id)
}

/// The error of a folder with commits, or of a file that looks like one, where no series has such.
pub(crate) fn stray(path: &Path) -> Error {
    let message = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        "a file of a partition is not called as commits are; give it its name back, or move it out of the store and \
         run the backfill again"
    } else {
        "a folder holds commits and is called like no interval and no partition; give it its name back, or move it out \
         of the store and run the backfill again"
    };
    Error::new(ErrorKind::Corrupt, message).with("path", path.display())
}
