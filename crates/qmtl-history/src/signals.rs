//! The wishes of the user and the system that the program should end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qmtl_history_api::{Clock, StopSignal};
use tokio::sync::watch;

use crate::outcome::Outcome;

/// Signals that follow one another more closely are one wish.
const ONE_WISH: Duration = Duration::from_millis(200);

/// How long a fill may take to store what has come, after the second that everything has.
const FILL_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Counts the signals that ask the program to end, from its start on: one that comes while nobody
/// waits for it is not lost.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    heard: watch::Receiver<u32>,
    /// Set once a fill sees to it that it ends well.
    are_taken: Arc<AtomicBool>,
    /// Whether the first signal was the system's, and not a key.
    is_terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on; must be called in a runtime.
    pub(crate) fn listen() -> Self {
        let (count, received) = watch::channel(0);
        let is_terminated = Arc::new(AtomicBool::new(false));
        let terminated = Arc::clone(&is_terminated);
        let mut next = Next::register();
        tokio::spawn(async move {
            let mut last: Option<Instant> = None;
            while let Some(is_terminate) = next.wait().await {
                if last.is_none() {
                    terminated.store(is_terminate, Ordering::SeqCst);
                }
                // What sends a signal to a process and to its group means one.
                if last.is_none_or(|last| last.elapsed() >= ONE_WISH) {
                    count.send_modify(|count| *count += 1);
                }
                last = Some(Instant::now());
            }
        });
        Self { heard: received, are_taken: Arc::default(), is_terminated }
    }

    /// Whether it was asked to end by SIGTERM, as those do who run it.
    pub(crate) fn was_terminated(&self) -> bool {
        self.is_terminated.load(Ordering::SeqCst)
    }

    /// Returns once the program has been asked to end.
    pub(crate) async fn asked(&self) {
        self.asked_times(1).await;
    }

    /// What ends fills well when the program is asked to end. Whoever asks twice does not want to wait for that.
    pub(crate) fn stop(&self) -> StopSignal {
        let (signals, stop) = (self.clone(), StopSignal::new());
        self.are_taken.store(true, Ordering::SeqCst);
        let given = stop.clone();
        tokio::spawn(async move {
            signals.asked().await;
            given.stop();
            signals.asked_times(2).await;
            std::process::exit(Outcome::Interrupted.code().into());
        });
        stop
    }

    /// Ends the program a second after it was asked to, whatever holds it up, and a fill some seconds after, if it does
    /// not end by itself: a write to a reader that does not read keeps its thread, a read of a pipe that nobody writes
    /// to does, and a store may never answer. What was not stored by then is missing, and the next run brings it.
    pub(crate) fn end_for_certain(&self, clock: &Arc<dyn Clock>) {
        let (signals, clock) = (self.clone(), Arc::clone(clock));
        tokio::spawn(async move {
            signals.asked().await;
            clock.sleep(Duration::from_secs(1)).await;
            if signals.are_taken.load(Ordering::SeqCst) {
                clock.sleep(FILL_ENDS_WITHIN).await;
            }
            std::process::exit(Outcome::Interrupted.code().into());
        });
    }

    /// Returns once the program has been asked to end that often.
    pub(crate) async fn asked_times(&self, times: u32) {
        if self.heard.clone().wait_for(|count| *count >= times).await.is_err() {
            // Signals can no longer be heard, which is no wish to end.
            std::future::pending::<()>().await;
        }
    }
}

/// The next signal, of those that were registered.
#[cfg(unix)]
struct Next(Vec<(tokio::signal::unix::SignalKind, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Next {
    fn register() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.into_iter().filter_map(|kind| Some((kind, signal(kind).ok()?))).collect())
    }

    /// Whether it was SIGTERM; `None` when no signal can come any more.
    async fn wait(&mut self) -> Option<bool> {
        use tokio::signal::unix::SignalKind;
        if self.0.is_empty() {
            return None;
        }
        let waits = self.0.iter_mut().map(|(kind, signal)| {
            Box::pin(async move { signal.recv().await.map(|()| *kind == SignalKind::terminate()) })
        });
        futures::future::select_all(waits).await.0
    }
}

#[cfg(not(unix))]
struct Next;

#[cfg(not(unix))]
impl Next {
    fn register() -> Self {
        Self
    }

    async fn wait(&mut self) -> Option<bool> {
        tokio::signal::ctrl_c().await.ok().map(|()| false)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_kept() {
        let signals = Signals::listen();
        let mut delivered = signal(SignalKind::terminate()).unwrap();
        let terminate = || {
            let own = std::process::id().to_string();
            let kill = std::process::Command::new("kill").args(["-TERM", &own]).status();
            assert!(kill.unwrap().success());
        };
        terminate();
        delivered.recv().await.unwrap();
        signals.asked().await;
        signals.asked().await;
        let mut second = std::pin::pin!(signals.asked_times(2));
        assert!(futures::poll!(&mut second).is_pending());
        // What follows at once is the same wish.
        let heard = Instant::now();
        terminate();
        delivered.recv().await.unwrap();
        while heard.elapsed() < ONE_WISH {
            assert!(futures::poll!(&mut second).is_pending());
            tokio::task::yield_now().await;
        }
        let told = Instant::now();
        while told.elapsed() < ONE_WISH {
            tokio::task::yield_now().await;
        }
        terminate();
        second.await;
    }
}
