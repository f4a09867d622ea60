//! A budget of bytes that many windows share without ever waiting for each other in a circle.
//!
//! Two rules make it safe. A window that holds nothing may wait for bytes. A window that holds
//! some and needs more may only wait for the single overdraft, whose holder waits for nothing. So
//! somebody always moves on, and the bytes held are at most the budget, one window's excess, and of
//! each window that waits the one batch that it has just been given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for: permits of one call are counted in 32 bits.
const UNIT: u64 = 1 << 10;

/// The bytes that fetched rows may take until they are stored.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u32,
    permits: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
    waiting: AtomicUsize,
    starved: Notify,
}

/// A window's part of the budget; dropping it gives the bytes back.
#[derive(Debug)]
pub(crate) struct Share {
    held: OwnedSemaphorePermit,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `bytes`, at least one unit.
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Self {
            total,
            permits: Arc::new(Semaphore::new(total as usize)),
            overdraft: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            starved: Notify::new(),
        }
    }

    /// Waits for `bytes`, or for the whole budget when they are more. The caller holds nothing.
    pub(crate) async fn reserve(&self, bytes: u64) -> Share {
        let held = self.wait(&self.permits, self.units(bytes)).await;
        Share { held, overdraft: None }
    }

    /// Sees to it that `share` covers `bytes`, if need be by the overdraft.
    pub(crate) async fn grow(&self, share: &mut Share, bytes: u64) {
        let more = self.units(bytes).saturating_sub(share.units());
        if more == 0 || share.overdraft.is_some() {
            return;
        }
        match Arc::clone(&self.permits).try_acquire_many_owned(more) {
            Ok(permit) => share.held.merge(permit),
            Err(_) => share.overdraft = Some(self.wait(&self.overdraft, 1).await),
        }
    }

    /// Gives back what `share` holds beyond `bytes`.
    pub(crate) fn shrink(&self, share: &mut Share, bytes: u64) {
        let surplus = share.units().saturating_sub(self.units(bytes));
        drop(share.held.split(surplus as usize));
    }

    /// True while somebody waits for bytes: whoever can store rows should do so now.
    pub(crate) fn is_starved(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns once somebody has begun to wait since the last call.
    pub(crate) async fn starved(&self) {
        self.starved.notified().await;
    }

    async fn wait(&self, permits: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(permits).try_acquire_many_owned(units) {
            return permit;
        }
        let _waiting = Waiting::new(&self.waiting);
        self.starved.notify_one();
        Arc::clone(permits).acquire_many_owned(units).await.expect("a budget never closes its semaphores")
    }

    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total)
    }
}

impl Share {
    fn units(&self) -> u32 {
        u32::try_from(self.held.num_permits()).unwrap_or(u32::MAX)
    }
}

/// Counts one waiter, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn ready<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("it must not wait")
    }

    #[test]
    fn more_than_the_budget_waits_for_all_of_it_and_then_goes_alone() {
        let budget = Budget::new(10 * UNIT);
        let first = ready(budget.reserve(UNIT));
        let mut huge = Box::pin(budget.reserve(1_000 * UNIT));
        assert!(huge.as_mut().now_or_never().is_none());
        assert!(budget.is_starved() && budget.starved().now_or_never().is_some());
        drop(first);
        let huge = ready(huge);
        assert!(!budget.is_starved());
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(huge);
        assert!(budget.reserve(1).now_or_never().is_some());
    }

    #[test]
    fn windows_that_hold_bytes_and_need_more_pass_one_at_a_time() {
        let budget = Budget::new(10 * UNIT);
        let [mut a, mut b] = [ready(budget.reserve(5 * UNIT)), ready(budget.reserve(5 * UNIT))];
        ready(budget.grow(&mut a, 9 * UNIT));
        assert!(a.overdraft.is_some());
        assert!(budget.grow(&mut b, 9 * UNIT).now_or_never().is_none());
        assert!(!budget.is_starved(), "a dropped waiter no longer counts");
        drop(a);
        ready(budget.grow(&mut b, 9 * UNIT));
        assert!(b.overdraft.is_none(), "what the first gave back is enough");
    }

    #[test]
    fn a_surplus_is_given_back() {
        let budget = Budget::new(10 * UNIT);
        let mut share = ready(budget.reserve(10 * UNIT));
        budget.shrink(&mut share, 0);
        assert_eq!(share.units(), 1);
        assert!(budget.reserve(9 * UNIT).now_or_never().is_some());
    }
}
