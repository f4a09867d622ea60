//! A memory of the newest commit of each folder, so that asking again costs a look at a few names,
//! however many files lie there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use qmtl_history_api::Result;

use crate::cache::Stamp;
use crate::disk::{self, Disk};
use crate::layout::commit_file;

/// The most folders that are remembered.
const CAPACITY: usize = 100_000;

/// The newest commit of a folder when somebody looked.
#[derive(Clone, Copy, Debug)]
struct Tip {
    stamp: Stamp,
    /// The folder's time of change just before that.
    changed: Option<SystemTime>,
    /// When this time of change was first seen.
    seen: Instant,
    /// When somebody looked.
    looked: Instant,
}

/// The newest commits that are known, by folder.
#[derive(Debug, Default)]
pub(crate) struct Tips {
    by_folder: Mutex<HashMap<PathBuf, Tip>>,
}

impl Tips {
    /// The newest commit in a folder; `is_delta` knows whether a commit is one.
    pub(crate) fn newest(
        &self,
        disk: &dyn Disk,
        folder: &Path,
        is_delta: impl Fn(Stamp) -> bool,
    ) -> Result<Option<Stamp>> {
        let known = self.lock().get(folder).copied();
        let looked = Instant::now();
        let changed = disk.changed(folder);
        // Where there are no times of change one list from the known commit on tells everything.
        if let Some(tip) = known
            && changed.is_some()
        {
            let same = changed.filter(|changed| Some(*changed) == tip.changed);
            if same.is_some_and(|changed| tip.looked.duration_since(tip.seen) >= disk::tick(changed)) {
                return Ok(Some(tip.stamp));
            }
            let is_same = same.is_some();
            if is_newest(disk, folder, tip.stamp, || is_same || is_delta(tip.stamp))? {
                if is_same {
                    self.put(folder, Tip { looked, ..tip });
                }
                return Ok(Some(tip.stamp));
            }
        }
        let Some(stamp) = disk.newest(folder, known.map(|tip| tip.stamp.seq))? else {
            self.forget(folder);
            return Ok(None);
        };
        // One that has gone in between has a successor, which whoever opens it will find.
        if stamp.modified.is_some() {
            self.set(folder, stamp, changed);
        }
        Ok(Some(stamp))
    }

    /// Remembers the newest commit of a folder that had changed last at `changed`.
    pub(crate) fn set(&self, folder: &Path, stamp: Stamp, changed: Option<SystemTime>) {
        let looked = Instant::now();
        self.put(folder, Tip { stamp, changed, seen: looked, looked });
    }

    /// Forgets the newest commit of a folder: it is about to go.
    pub(crate) fn forget(&self, folder: &Path) {
        self.lock().remove(folder);
    }

    fn put(&self, folder: &Path, tip: Tip) {
        let mut tips = self.lock();
        if tips.len() >= CAPACITY {
            tips.clear();
        }
        tips.insert(folder.to_owned(), tip);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Tip>> {
        self.by_folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what was the newest commit is it still.
///
/// Commits are removed from below. So while it is there none above it has come and gone, unless it
/// is a full one that stayed because a newer delta adds to it. `is_certain` says that it is a delta,
/// or that the folder has the same time of change: nothing is removed within a
/// [`TICK`](disk::TICK).
fn is_newest(
    disk: &dyn Disk,
    folder: &Path,
    stamp: Stamp,
    is_certain: impl FnOnce() -> bool,
) -> Result<bool> {
    // In this order: what is there after its successor was not was there at that time too.
    let next = stamp.seq + 1;
    Ok(disk.stamp(&folder.join(commit_file(next)), next)?.is_none()
        && is_there(disk, folder, stamp)?
        && is_certain())
}

/// Whether this very file is still in its folder.
pub(crate) fn is_there(disk: &dyn Disk, folder: &Path, stamp: Stamp) -> Result<bool> {
    let path = folder.join(commit_file(stamp.seq));
    Ok(stamp.modified.is_some() && disk.stamp(&path, stamp.seq)? == Some(stamp))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;
    use crate::disk::Folder;

    fn newest(tips: &Tips, folder: &Path, is_delta: bool) -> Option<u64> {
        tips.newest(&Folder::new(folder), folder, |_| is_delta).unwrap().map(|stamp| stamp.seq)
    }

    /// The folder with an old time of change.
    fn set_changed(folder: &Path, seconds: u64) {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(folder).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn every_way_in_which_the_newest_commit_changes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let tips = Tips::default();
        let put = |seq: u64| fs::write(root.join(commit_file(seq)), "x").unwrap();
        let remove = |seq: u64| fs::remove_file(root.join(commit_file(seq))).unwrap();
        assert_eq!(newest(&tips, root, false), None);
        put(1);
        set_changed(root, 7);
        assert_eq!(newest(&tips, root, false), Some(1));
        // The next one, within one tick of the folder's time.
        put(2);
        set_changed(root, 7);
        assert_eq!((newest(&tips, root, false), newest(&tips, root, true)), (Some(2), Some(2)));
        // More than one, and what was known is collected.
        (3..6).for_each(put);
        (1..5).for_each(remove);
        assert_eq!(newest(&tips, root, true), Some(5));
        // A full one that stays for a delta above a hole.
        put(7);
        set_changed(root, 8);
        assert_eq!(newest(&tips, root, false), Some(7));
        // Another file of the same number.
        fs::write(root.join(commit_file(7)), "longer").unwrap();
        put(9);
        assert_eq!(newest(&tips, root, true), Some(9));
        fs::remove_dir_all(root).unwrap();
        assert_eq!(newest(&tips, root, true), None);
    }

    #[test]
    fn a_known_delta_is_found_without_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let tips = Tips::default();
        fs::write(root.join(commit_file(4)), "x").unwrap();
        assert_eq!(newest(&tips, root, true), Some(4));
        // No commit comes about like this: a list would show it.
        fs::write(root.join(commit_file(6)), "x").unwrap();
        assert_eq!(newest(&tips, root, true), Some(4));
        set_changed(root, 9);
        assert_eq!(newest(&tips, root, false), Some(6));
    }
}
