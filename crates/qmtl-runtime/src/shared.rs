//! A cache that jobs fill while a strategy looks at it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::NodeCache;

/// A [`NodeCache`] that may be read and written from several tasks. Clones share one cache.
///
/// Closures run under the cache's lock and must be short; the runtime never waits inside one.
#[derive(Clone, Debug)]
pub struct SharedCache(Arc<Mutex<NodeCache>>);

impl SharedCache {
    /// Shares a cache.
    #[must_use]
    pub fn new(cache: NodeCache) -> Self {
        Self(Arc::new(Mutex::new(cache)))
    }

    /// Looks at the cache.
    pub fn read<R>(&self, look: impl FnOnce(&NodeCache) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the cache.
    pub fn write<R>(&self, change: impl FnOnce(&mut NodeCache) -> R) -> R {
        change(&mut self.lock())
    }

    /// A cache checks everything before it changes anything, so that a panic of a caller's
    /// closure leaves it whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, NodeCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
