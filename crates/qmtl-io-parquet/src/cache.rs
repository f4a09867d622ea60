//! A bounded memory of what newest files say, so that asking again costs a listing and no read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Which version of which bytes a value was made of. Length, time of change and tag catch a store
/// that was deleted and written anew while a handle was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seq: u64,
    pub(crate) bytes: u64,
    pub(crate) modified: Option<SystemTime>,
    /// A hash of what a bucket calls the version; 0 in a folder.
    pub(crate) tag: u64,
}

/// One value a folder, each with a weight; beyond `capacity` the half that was used least recently
/// is dropped.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    capacity: usize,
    entries: Mutex<Entries<V>>,
}

#[derive(Debug)]
struct Entries<V> {
    by_folder: HashMap<PathBuf, Entry<V>>,
    weight: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    stamp: Stamp,
    value: V,
    weight: usize,
    used: u64,
}

impl<V: Clone> Cache<V> {
    pub(crate) fn new(capacity: usize) -> Self {
        let entries = Entries { by_folder: HashMap::new(), weight: 0, clock: 0 };
        Self { capacity, entries: Mutex::new(entries) }
    }

    /// The value of `folder` if it was made of exactly this version.
    pub(crate) fn get(&self, folder: &Path, stamp: Stamp) -> Option<V> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        let now = entries.clock;
        let entry = entries.by_folder.get_mut(folder).filter(|entry| entry.stamp == stamp)?;
        entry.used = now;
        Some(entry.value.clone())
    }

    pub(crate) fn put(&self, folder: &Path, stamp: Stamp, value: V, weight: usize) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        let entry = Entry { stamp, value, weight, used: entries.clock };
        if let Some(old) = entries.by_folder.insert(folder.to_owned(), entry) {
            entries.weight -= old.weight;
        }
        entries.weight += weight;
        if entries.weight > self.capacity {
            entries.drop_half();
        }
    }
}

impl<V> Entries<V> {
    fn drop_half(&mut self) {
        let mut used: Vec<u64> = self.by_folder.values().map(|entry| entry.used).collect();
        used.sort_unstable();
        let limit = used[used.len() / 2];
        self.by_folder.retain(|_, entry| entry.used > limit);
        self.weight = self.by_folder.values().map(|entry| entry.weight).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seq: u64) -> Stamp {
        Stamp { seq, bytes: 1, modified: None, tag: 0 }
    }

    #[test]
    fn only_the_exact_version_is_found() {
        let cache = Cache::new(100);
        cache.put(Path::new("a"), stamp(1), "one", 1);
        assert_eq!(cache.get(Path::new("a"), stamp(1)), Some("one"));
        assert_eq!(cache.get(Path::new("a"), stamp(2)), None);
        assert_eq!(cache.get(Path::new("a"), Stamp { bytes: 2, ..stamp(1) }), None);
        assert_eq!(cache.get(Path::new("a"), Stamp { tag: 2, ..stamp(1) }), None);
        cache.put(Path::new("a"), stamp(2), "two", 1);
        assert_eq!(cache.get(Path::new("a"), stamp(1)), None);
    }

    #[test]
    fn weight_is_bounded_and_what_is_used_stays() {
        let cache = Cache::new(10);
        for i in 0..1_000 {
            cache.put(Path::new(&i.to_string()), stamp(1), i, 1);
            assert_eq!(cache.get(Path::new("0"), stamp(1)), Some(0), "{i}");
        }
        let entries = cache.entries.lock().unwrap();
        assert!(entries.weight <= 10 && entries.by_folder.len() <= 10);
    }

    #[test]
    fn a_value_heavier_than_the_cache_is_not_kept() {
        let cache = Cache::new(10);
        cache.put(Path::new("a"), stamp(1), (), 11);
        assert_eq!(cache.get(Path::new("a"), stamp(1)), None);
    }
}
