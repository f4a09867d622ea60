//! What stands in the folder tree: series, and what was renamed, moved or put there and fits nowhere.

use std::path::{Path, PathBuf};

use qmtl_history_api::{Error, ErrorKind, Interval, NodeId, Result, SeriesKey};

use crate::file::StoredFile;
use crate::layout::{self, Partition};
use crate::store::Store;

impl Store {
    /// Every series of the folder tree, also one that has nothing stored yet or any more, and an error for each folder
    /// that holds a name or commits and does not fit; what is not ours is passed over.
    pub(crate) fn series(&self) -> Result<Vec<Result<SeriesKey>>> {
        let mut keys = Vec::new();
        let (folders, obstacles) = self.disk.folders_and_obstacles(self.disk.root())?;
        for name in folders {
            let node = self.disk.root().join(&name);
            match self.series_of(&node, &name) {
                Ok(found) => keys.extend(found),
                // Those that can be read are told all the same.
                Err(error) => keys.push(Err(error)),
            }
        }
        let obstacles = obstacles.into_iter().filter(|name| layout::is_node_folder(name));
        keys.extend(obstacles.map(|name| Err(in_the_way(&self.disk.root().join(name)))));
        Ok(keys)
    }

    fn series_of(&self, node: &Path, name: &str) -> Result<Vec<Result<SeriesKey>>> {
        let found = self.intervals(node)?;
        match self.read_owner(node)? {
            Some(node_id) if layout::node_folder(&node_id) == name => {
                let key = |interval| Ok(SeriesKey { node_id: node_id.clone(), interval });
                let own: Vec<_> = found.all().collect();
                let inside = self.series_inside(node, &own)?;
                Ok(own.into_iter().map(key).chain(found.unfit.errors().map(Err)).chain(inside).collect())
            }
            Some(node_id) => Err(misplaced(node, &node_id)),
            None if !found.intervals.is_empty() => {
                Err(match self.told_by_commits(node, &found.intervals)? {
                    // A copy, or one that was renamed besides.
                    Some(node_id) if layout::node_folder(&node_id) != name => misplaced(node, &node_id),
                    _ => nameless(node),
                })
            }
            None if !found.unfit.is_empty() => Ok(found.unfit.errors().map(Err).collect()),
            None if self.disk.newest(node, None)?.is_some() => Err(stray(node)),
            None if layout::is_node_folder(name) && self.holds_more_than_attempts(node)? => {
                Err(nameless(node))
            }
            None => {
                tracing::debug!(path = %node.display(), "not a series folder");
                self.series_inside(node, &[])
            }
        }
    }

    /// An error for each folder of a series that was moved into another folder, of which these are its own.
    fn series_inside(&self, foreign: &Path, own: &[Interval]) -> Result<Vec<Result<SeriesKey>>> {
        let mut found = Vec::new();
        let is_own = |name: &str| own.iter().any(|interval| interval.to_string() == name);
        for name in self.disk.folders(foreign)?.into_iter().filter(|name| !is_own(name)) {
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
        let interval_of =
            |name: &str| name.parse().ok().filter(|interval: &Interval| interval.to_string() == name);
        let (folders, obstacles) = self.disk.folders_and_obstacles(node)?;
        let obstacles = obstacles.into_iter().filter(|name| interval_of(name).is_some());
        found.unfit.obstacles.extend(obstacles.map(|name| node.join(name)));
        for name in folders {
            let folder = node.join(&name);
            match interval_of(&name) {
                Some(interval) if self.has_partition(interval, &folder)? => found.intervals.push(interval),
                Some(interval) => {
                    let (_, mut unfit) = self.partitions_of(interval, &folder)?;
                    unfit.strays.extend(self.odd_commits(interval, &folder)?);
                    // A writer that was killed at the beginning leaves the same as whoever removes every commit.
                    found.empty.extend(unfit.is_empty().then_some(interval));
                    found.unfit.strays.extend(unfit.strays);
                    found.unfit.obstacles.extend(unfit.obstacles);
                }
                None if self.holds_commits(&folder)? => found.unfit.strays.push(folder),
                None => {}
            }
        }
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
            if self.disk.newest(&partition, None)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The partitions that have a folder in that of an interval, ascending, and what does not fit there.
    pub(crate) fn partitions_of(&self, interval: Interval, folder: &Path) -> Result<(Vec<Partition>, Unfit)> {
        let (folders, obstacles) = self.disk.folders_and_obstacles(folder)?;
        let (mut own, mut unfit) = (Vec::new(), Unfit::default());
        for name in folders.iter().filter(|name| *name != layout::SCHEMA_FOLDER) {
            match Partition::parse(interval, name) {
                Some(partition) => own.push(partition),
                None if self.disk.newest(&folder.join(name), None)?.is_some() => {
                    unfit.strays.push(folder.join(name));
                }
                None => {}
            }
        }
        own.sort_unstable();
        let obstacles = obstacles.iter().filter(|name| Partition::parse(interval, name).is_some());
        unfit.obstacles.extend(obstacles.map(|name| folder.join(name)));
        Ok((own, unfit))
    }

    /// The same; `Corrupt` where a partition was renamed or its folder is not there: what it holds would be missing in
    /// every answer, and nobody would be told.
    pub(crate) fn fitting_partitions(&self, interval: Interval, folder: &Path) -> Result<Vec<Partition>> {
        let (own, unfit) = self.partitions_of(interval, folder)?;
        let error = unfit.errors().next();
        error.map_or(Ok(own), Err)
    }

    /// The files in the partitions of an interval that look like commits and are not called as those are.
    fn odd_commits(&self, interval: Interval, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut odd = Vec::new();
        for partition in self.partitions_in(interval, folder)? {
            let names = self.disk.list(&partition)?.into_iter().filter(|name| layout::is_odd_commit(name));
            odd.extend(names.map(|name| partition.join(name)));
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

    /// The node that the newest commits of a folder say they are of, where one can be read.
    pub(crate) fn told_by_commits(&self, node: &Path, intervals: &[Interval]) -> Result<Option<NodeId>> {
        for interval in intervals {
            for partition in self.partitions_in(*interval, &node.join(interval.to_string()))? {
                let Some(newest) = self.disk.newest(&partition, None)? else { continue };
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
}

impl Intervals {
    /// The interval of every series of the node.
    pub(crate) fn all(&self) -> impl Iterator<Item = Interval> {
        self.intervals.iter().chain(&self.empty).copied()
    }
}

/// What stands in a folder and does not fit there.
#[derive(Debug, Default)]
pub(crate) struct Unfit {
    /// Folders with commits that no interval or partition is called like, and files that look like commits.
    strays: Vec<PathBuf>,
    /// What is called like an interval or a partition and is no folder, such as a link to a disk that is gone.
    obstacles: Vec<PathBuf>,
}

impl Unfit {
    /// Each with its error.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&Path, Error)> {
        let strays = self.strays.iter().map(|path| (path.as_path(), stray(path)));
        strays.chain(self.obstacles.iter().map(|path| (path.as_path(), in_the_way(path))))
    }

    fn errors(&self) -> impl Iterator<Item = Error> {
        self.told().map(|(_, error)| error)
    }

    fn is_empty(&self) -> bool {
        self.strays.is_empty() && self.obstacles.is_empty()
    }
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

/// The error of a folder with commits, or of a file that looks like one, where no series has such.
pub(crate) fn stray(path: &Path) -> Error {
    let message = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        "the file's name is not that of a commit; give the file its name back, or move it out of the store and run the \
         backfill again"
    } else {
        "the folder holds commits, but has the name of no interval or partition; give the folder its name back, or move \
         it out of the store and run the backfill again"
    };
    Error::new(ErrorKind::Corrupt, message).with("path", path.display())
}
