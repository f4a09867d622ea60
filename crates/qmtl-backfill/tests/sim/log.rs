//! What happened in a run: a fingerprint of it, the faults met, and the whole story when it is replayed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qmtl_history_api::Timestamp;

use crate::world::Fault;

/// The log of one run.
#[derive(Debug)]
pub(crate) struct Log {
    is_told: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    hasher: DefaultHasher,
    met: BTreeMap<Fault, u64>,
}

impl Log {
    /// An empty log, which is printed as it grows when it `is_told`.
    pub(crate) fn new(is_told: bool) -> Self {
        Self { is_told, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a fault that has struck.
    pub(crate) fn met(&self, fault: Fault) {
        *self.inner().met.entry(fault).or_default() += 1;
    }

    /// How often each fault has struck.
    pub(crate) fn faults(&self) -> BTreeMap<Fault, u64> {
        self.inner().met.clone()
    }

    /// Notes a request and the fault that it met.
    pub(crate) fn request(&self, time: Timestamp, url: &str, fault: Option<Fault>) {
        // The host's name counts the runs of a process.
        let path = url.splitn(4, '/').nth(3).unwrap_or(url);
        self.event(time, || match fault {
            Some(fault) => format!("GET {path}  {fault:?}"),
            None => format!("GET {path}"),
        });
        (time, path, fault).hash(&mut self.inner().hasher);
    }

    /// Notes something that belongs to the fingerprint.
    pub(crate) fn note(&self, value: impl Hash) {
        value.hash(&mut self.inner().hasher);
    }

    /// Tells of something, when the run is replayed.
    pub(crate) fn event(&self, time: Timestamp, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{time}  {}", what());
        }
    }

    /// The same for two runs in which the same happened.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.inner().hasher.finish()
    }
}
