//! What stands in the folder tree: series, and what was renamed, moved or put there and fits nowhere.

use std::path::{Path, PathBuf};

use qmtl_history_api::{Error, ErrorKind, Interval, NodeId, Result, SeriesKey};

use crate::disk::Entries;
use crate::error::stray;
use crate::file::StoredFile;
use crate::layout::{self, Partition};
use crate::store::Store;

/// How many folders below another one commits are looked for: a node's are two below it, and it may have been moved
/// into one that nobody knows.
const DEPTH: usize = 3;

impl Store {
    /// Every series of the folder tree, also one that has nothing stored yet or any more, and an error for each folder
    /// that holds a name or commits and does not fit; what is not ours is passed over.
    pub(crate) fn series(&self) -> Result<Vec<Result<SeriesKey>>> {
        let mut keys = Vec::new();
        let root = self.disk.root();
        let entries = self.disk.entries(root)?;
        for name in &entries.folders {
            match self.series_of(&root.join(name), name) {
                Ok(found) => keys.extend(found),
                // Those that can be read are told all the same.
                Err(error) => keys.push(Err(error)),
            }
        }
        let mut unfit = self.obstacles(root, &entries, layout::is_node_folder);
        unfit.extend(loose(root, &entries));
        unfit.extend(self.strays(root, &entries, |_| true)?);
        keys.extend(unfit.into_iter().map(|(_, error)| Err(error)));
        Ok(keys)
    }

    fn series_of(&self, node: &Path, name: &str) -> Result<Vec<Result<SeriesKey>>> {
        let found = self.intervals(node)?;
        let unfit = || found.unfit.iter().map(|(_, error)| Err(error.clone()));
        match self.read_owner(node)? {
            Some(node_id) if layout::node_folder(&node_id) == name => {
                let key = |interval| Ok(SeriesKey { node_id: node_id.clone(), interval });
                Ok(found.all().map(key).chain(unfit()).collect())
            }
            Some(node_id) => Err(misplaced(node, &node_id)),
            None if !found.intervals.is_empty() => {
                Err(match self.told_by_commits(node, &found.intervals)? {
                    // A copy, or one that was renamed besides.
                    Some(node_id) if layout::node_folder(&node_id) != name => misplaced(node, &node_id),
                    _ => nameless(node),
                })
            }
            // A partition's folder, and not a node's.
            None if found.has_commits => Err(stray(node)),
            None if !found.unfit.is_empty() => Ok(unfit().collect()),
            None if layout::is_node_folder(name) && self.holds_more_than_attempts(node)? => {
                Err(nameless(node))
            }
            None => {
                tracing::debug!(path = %node.display(), "not a series folder");
                Ok(Vec::new())
            }
        }
    }

    /// The folders in a folder that are not its `own` and hold commits or a name all the same.
    pub(crate) fn strays(
        &self,
        folder: &Path,
        entries: &Entries,
        is_own: impl Fn(&str) -> bool,
    ) -> Result<Unfit> {
        let foreign = entries.folders.iter().filter(|name| !is_own(name)).map(|name| folder.join(name));
        let mut found = Unfit::new();
        for path in foreign.chain(entries.unnamed_folders.iter().cloned()) {
            match self.read_owner(&path) {
                Ok(None) if !self.disk.holds_commits(&path, DEPTH)? => {}
                Ok(Some(node_id)) if path.to_str().is_some() => {
                    found.push((path.clone(), moved(&path, &node_id)))
                }
                Ok(_) => found.push((path.clone(), stray(&path))),
                Err(error) => found.push((path, error)),
            }
        }
        Ok(found)
    }

    /// What stands in the place of a folder that is called as one of `wanted` are, such as a link to a disk that is
    /// gone.
    fn obstacles(&self, folder: &Path, entries: &Entries, wanted: impl Fn(&str) -> bool) -> Unfit {
        let files = entries.files.iter().filter(|name| self.disk.files_obstruct() && wanted(name));
        files.map(|name| folder.join(name)).map(|path| (path.clone(), in_the_way(&path))).collect()
    }

    /// Whether there is anything in a folder but what a writer leaves that is killed at the beginning.
    fn holds_more_than_attempts(&self, folder: &Path) -> Result<bool> {
        Ok(self.disk.list(folder)?.iter().any(|name| !name.starts_with(layout::TEMP_PREFIX)))
    }

    /// What stands in a node's folder.
    pub(crate) fn intervals(&self, node: &Path) -> Result<Intervals> {
        let mut found = Intervals::default();
        let interval_of =
            |name: &str| name.parse().ok().filter(|interval: &Interval| interval.to_string() == name);
        let entries = self.disk.entries(node)?;
        for name in &entries.folders {
            let Some(interval) = interval_of(name) else { continue };
            let folder = node.join(name);
            if self.has_partition(interval, &folder)? {
                found.intervals.push(interval);
                continue;
            }
            let (_, unfit) = self.partitions_of(interval, &folder)?;
            // A writer that was killed at the beginning leaves the same as whoever removes every commit.
            found.empty.extend(unfit.is_empty().then_some(interval));
            found.unfit.extend(unfit);
        }
        let commits = loose(node, &entries);
        found.has_commits = !commits.is_empty();
        found.unfit.extend(commits);
        found.unfit.extend(self.strays(node, &entries, |name| interval_of(name).is_some())?);
        found.unfit.extend(self.obstacles(node, &entries, |name| interval_of(name).is_some()));
        Ok(found)
    }

    /// The folders of partitions in that of an interval.
    fn partitions_in(&self, interval: Interval, folder: &Path) -> Result<impl Iterator<Item = PathBuf>> {
        let names = self.disk.list(folder)?.into_iter();
        let own = names.filter(move |name| Partition::parse(interval, name).is_some());
        Ok(own.map(|name| folder.join(name)))
    }

    fn has_partition(&self, interval: Interval, folder: &Path) -> Result<bool> {
        for partition in self.partitions_in(interval, folder)? {
            match self.disk.newest(&partition, None) {
                Ok(None) => {}
                // Whoever reads it is told what is wrong with it.
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The partitions that have a folder in that of an interval, ascending, and what does not fit there.
    pub(crate) fn partitions_of(&self, interval: Interval, folder: &Path) -> Result<(Vec<Partition>, Unfit)> {
        let entries = self.disk.entries(folder)?;
        let parse = |name: &str| Partition::parse(interval, name);
        let mut own: Vec<_> = entries.folders.iter().filter_map(|name| parse(name)).collect();
        own.sort_unstable();
        let mut unfit = loose(folder, &entries);
        let is_own = |name: &str| name == layout::SCHEMA_FOLDER || parse(name).is_some();
        unfit.extend(self.strays(folder, &entries, is_own)?);
        unfit.extend(self.obstacles(folder, &entries, is_own));
        if entries.folders.iter().any(|name| name == layout::SCHEMA_FOLDER) {
            // What was moved in there is as lost as anywhere else.
            let schemas = folder.join(layout::SCHEMA_FOLDER);
            unfit.extend(self.strays(&schemas, &self.disk.entries(&schemas)?, |_| false)?);
        }
        Ok((own, unfit))
    }

    /// The same; `Corrupt` where a partition was renamed or its folder is not there: what it holds would be missing in
    /// every answer, and nobody would be told.
    pub(crate) fn fitting_partitions(&self, interval: Interval, folder: &Path) -> Result<Vec<Partition>> {
        let (own, unfit) = self.partitions_of(interval, folder)?;
        first(unfit).map(|()| own)
    }

    /// The node that the newest commits of a folder say they are of, where one can be read.
    pub(crate) fn told_by_commits(&self, node: &Path, intervals: &[Interval]) -> Result<Option<NodeId>> {
        for interval in intervals {
            for partition in self.partitions_in(*interval, &node.join(interval.to_string()))? {
                let Ok(Some(newest)) = self.disk.newest(&partition, None) else { continue };
                let newest = partition.join(layout::commit_file(newest.seq));
                if let Ok(Some(file)) = StoredFile::open(&*self.disk, &newest) {
                    return Ok(Some(file.footer().key.node_id.clone()));
                }
            }
        }
        Ok(None)
    }
}

/// What stands in a node's folder.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    /// Those under which a partition has a commit.
    pub(crate) intervals: Vec<Interval>,
    /// Those that have a folder and nothing stored in it.
    empty: Vec<Interval>,
    unfit: Unfit,
    /// Whether commits stand in the folder itself, where none belong.
    has_commits: bool,
}

impl Intervals {
    /// The interval of every series of the node.
    pub(crate) fn all(&self) -> impl Iterator<Item = Interval> {
        self.intervals.iter().chain(&self.empty).copied()
    }
}

/// What stands in a folder and does not fit there, each with its error.
pub(crate) type Unfit = Vec<(PathBuf, Error)>;

/// The first of the errors.
pub(crate) fn first(unfit: Unfit) -> Result<()> {
    unfit.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// The commits in a folder that is not a partition's.
fn loose(folder: &Path, entries: &Entries) -> Unfit {
    let commits = entries.files.iter().filter(|name| layout::parse_commit(name).is_some());
    commits.map(|name| folder.join(name)).map(|path| (path.clone(), stray(&path))).collect()
}

/// The error of a folder whose series nobody can name.
fn nameless(node: &Path) -> Error {
    let message = "the file that names the series of a folder is missing; rebuild it (with `repair`) or restore it from \
                   a copy";
    Error::new(ErrorKind::Corrupt, message).with("path", node.join(layout::SERIES_FILE).display())
}

/// The error of a folder that says it is another one.
fn misplaced(node: &Path, node_id: &NodeId) -> Error {
    let message = "the folder's name does not fit the series that it holds; rename the folder back, rebuild the name \
                   inside if that was edited (with `repair`), or move the folder out of the store";
    Error::new(ErrorKind::Corrupt, message)
        .with("path", node.display())
        .with("node_id", node_id)
        .with("expected", layout::node_folder(node_id))
}

/// The error of a series' folder inside of one that is not of the store.
fn moved(folder: &Path, node_id: &NodeId) -> Error {
    let message = "the folder of a series was moved into another folder; move it back, or out of the store";
    Error::new(ErrorKind::Corrupt, message).with("path", folder.display()).with("node_id", node_id)
}

/// The error of what stands where the folder of a series does.
fn in_the_way(path: &Path) -> Error {
    let message = "what stands where the folder of a series is needed is no folder: a file, or a link that leads \
                   nowhere; mount what it leads to, or move it out of the store, and restore the folder from a copy or \
                   run the backfill again";
    Error::new(ErrorKind::Corrupt, message).with("path", path.display())
}
