//! A wish that work should end well. Made by hand: cancellation tokens come with a runtime, and this crate knows none.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Asks work to end before it is done: what is under way and cannot be taken back is finished, nothing is
/// begun, and what was done is told exactly. Dropping a future ends it too, but then nobody tells anything.
///
/// Clones are one signal, and two signals are equal when they are clones. Once stopped it stays so.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_stopped: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// Who is to be woken.
#[derive(Default)]
struct Waiting {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl StopSignal {
    /// A signal that nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal.
    pub fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut self.0.waiting().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// True once the signal was given.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::SeqCst)
    }

    /// Returns once the signal was given.
    pub fn stopped(&self) -> Stopped {
        Stopped { shared: Arc::clone(&self.0), number: None }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for StopSignal {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for StopSignal {}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSignal").field("is_stopped", &self.is_stopped()).finish()
    }
}

/// See [`StopSignal::stopped`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Stopped {
    shared: Arc<Shared>,
    /// Its place among those who wait.
    number: Option<u64>,
}

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut waiting = shared.waiting();
        // Looked at under the lock: whoever stops it from here on wakes us.
        if shared.is_stopped.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.waiting().wakers.remove(&number);
        }
    }
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn everybody_who_waits_is_woken_and_nobody_who_has_gone() {
        let signal = StopSignal::new();
        let tasks: [Arc<Woken>; 3] = Default::default();
        let poll = |task: &Arc<Woken>, stopped: &mut Stopped| {
            Pin::new(stopped).poll(&mut Context::from_waker(&Arc::clone(task).into()))
        };
        let mut waits: Vec<_> = tasks.iter().map(|_| signal.stopped()).collect();
        for (task, stopped) in tasks.iter().zip(&mut waits) {
            assert_eq!((poll(task, stopped), poll(task, stopped)), (Poll::Pending, Poll::Pending));
        }
        drop(waits.pop());
        assert_eq!(signal.0.waiting().wakers.len(), 2, "each waits once");
        signal.clone().stop();
        assert_eq!([0, 1, 2].map(|at| tasks[at].0.load(Ordering::SeqCst)), [true, true, false]);
        assert!(signal.is_stopped());
        assert_eq!(poll(&tasks[0], &mut waits[0]), Poll::Ready(()));
        assert_eq!(poll(&tasks[2], &mut signal.stopped()), Poll::Ready(()), "also who comes later");
    }

    #[test]
    fn clones_are_one_signal() {
        let (one, other) = (StopSignal::new(), StopSignal::new());
        assert_eq!(one, one.clone());
        assert_ne!(one, other);
        other.stop();
        assert!(!one.is_stopped());
    }
}
