//! A memory of what folders list, so that asking again costs a look at the folder's time of change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use qmtl_history_api::Result;

use crate::disk::{self, Disk};

/// The most folders that are remembered.
const CAPACITY: usize = 100_000;

/// What folders list, as long as they have not changed. `V` is what the caller makes of the names.
#[derive(Debug)]
pub(crate) struct Listings<V> {
    by_folder: Mutex<HashMap<PathBuf, Listed<V>>>,
}

#[derive(Debug)]
struct Listed<V> {
    changed: SystemTime,
    /// When this time of change was first seen.
    seen: Instant,
    /// When the list was begun.
    listed: Instant,
    value: Arc<V>,
}

impl<V> Listings<V> {
    pub(crate) fn new() -> Self {
        Self { by_folder: Mutex::default() }
    }

    /// What `list` makes of a folder, now or when it last changed.
    pub(crate) fn get(
        &self,
        disk: &dyn Disk,
        folder: &Path,
        list: impl FnOnce() -> Result<V>,
    ) -> Result<Arc<V>> {
        let now = Instant::now();
        let changed = disk.changed(folder);
        let mut seen = now;
        if let Some(known) = self.lock().get(folder).filter(|known| Some(known.changed) == changed) {
            if known.listed.duration_since(known.seen) >= disk::tick(known.changed) {
                return Ok(Arc::clone(&known.value));
            }
            seen = known.seen;
        }
        let value = Arc::new(list()?);
        let mut folders = self.lock();
        if folders.len() >= CAPACITY {
            folders.clear();
        }
        match changed {
            Some(changed) => {
                let listed = Listed { changed, seen, listed: now, value: Arc::clone(&value) };
                folders.insert(folder.to_owned(), listed);
            }
            None => drop(folders.remove(folder)),
        }
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Listed<V>>> {
        self.by_folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;
    use crate::disk::Folder;

    /// As if everything that is known had been seen so much earlier than it was listed.
    fn grow_old(listings: &Listings<Vec<String>>, by: Duration) {
        for known in listings.lock().values_mut() {
            known.seen = known.listed.checked_sub(by).unwrap();
        }
    }

    #[test]
    fn a_list_is_believed_when_the_tick_of_the_last_change_was_over() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        let listings = Listings::new();
        let lists = Cell::new(0);
        let ask = || {
            let list = || {
                lists.set(lists.get() + 1);
                disk.list(folder.path())
            };
            listings.get(&disk, folder.path(), list).unwrap().len()
        };
        let set_changed = |time: Duration| {
            File::open(folder.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
        };
        let (coarse, fine) = (Duration::from_secs(7), Duration::new(7, 1_000));
        for (changed, tick) in [(coarse, Duration::from_secs(3)), (fine, Duration::from_millis(100))] {
            set_changed(changed);
            lists.set(0);
            assert_eq!((ask(), ask(), lists.get()), (0, 0, 2), "a change within the tick would not show");
            grow_old(&listings, tick - Duration::from_nanos(1));
            assert_eq!((ask(), lists.get()), (0, 3));
            grow_old(&listings, tick);
            assert_eq!((ask(), ask(), lists.get()), (0, 0, 3), "nothing has changed since");
        }
        // Another time of change, whichever it is, is another list.
        fs::write(folder.path().join("x"), "").unwrap();
        set_changed(coarse);
        assert_eq!((ask(), lists.get()), (1, 4));
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!((ask(), ask(), lists.get()), (0, 0, 6));
    }
}
