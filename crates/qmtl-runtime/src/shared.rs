//! A cache that jobs fill while a strategy looks at it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qmtl_history_api::{Error, ErrorKind, Result};

use crate::{NodeCache, StreamInput};

thread_local! {
    /// A compute node runs in this thread, while its inputs' caches are locked.
    static IN_NODE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a compute node: one that looks at a cache panics, and does not wait for itself.
pub(crate) fn in_node<R>(run: impl FnOnce() -> R) -> R {
    struct Leaves;
    impl Drop for Leaves {
        fn drop(&mut self) {
            IN_NODE.set(false);
        }
    }
    IN_NODE.set(true);
    let _leaves = Leaves;
    run()
}

/// A [`NodeCache`] that may be read and written from several tasks. Clones share one cache.
///
/// Closures run under the cache's lock and must be short; the runtime never waits inside one. A compute node must not
/// look at a cache, since all are locked while nodes run: it panics, which fails the node.
#[derive(Clone, Debug)]
pub struct SharedCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Mutex<NodeCache>,
    /// A pipeline delivers its rows.
    is_claimed: AtomicBool,
}

impl SharedCache {
    /// Shares a cache.
    #[must_use]
    pub fn new(cache: NodeCache) -> Self {
        Self(Arc::new(Inner { cache: Mutex::new(cache), is_claimed: AtomicBool::new(false) }))
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
        assert!(
            !IN_NODE.get(),
            "a compute node looked at a cache, which is locked while nodes run; it must read its windows"
        );
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one pipeline to deliver the rows of its inputs' caches; it ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Claim(Vec<SharedCache>);

impl Claim {
    /// `Conflict` while another pipeline has it for one of these inputs.
    pub(crate) fn of(inputs: &[StreamInput]) -> Result<Self> {
        let mut claim = Self::default();
        for input in inputs {
            if input.cache().0.is_claimed.swap(true, Ordering::AcqRel) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another pipeline delivers the bars of this input; build an input for each, since clones share one \
                     cache",
                )
                .with("series", input.key()));
            }
            claim.0.push(input.cache().clone());
        }
        Ok(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.iter().for_each(|cache| cache.0.is_claimed.store(false, Ordering::Release));
    }
}
