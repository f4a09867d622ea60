//! What fetchers tell of requests that they make again, on its way to progress and report.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use qmtl_history_api::{Clock, Error, ProgressEvent, Retry, RetrySink, TimeRange, Wait};

/// Counts retries by reason and passes them on, waits too. A fetcher's stream may outlive the run, so what it
/// holds is a sender and nothing of the run itself.
#[derive(Debug)]
pub(super) struct Retries {
    sink: Arc<Sender>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    receiver: UnboundedReceiver<ProgressEvent>,
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Sender {
    events: UnboundedSender<ProgressEvent>,
    /// How the last try of each request failed that is being made again, in the order in which that happened.
    pending: Mutex<Vec<(TimeRange, Error)>>,
    /// The clock of the run, and when it is to end on it.
    clock: Arc<dyn Clock>,
    until: Option<Duration>,
}

impl Sender {
    fn pending(&self) -> MutexGuard<'_, Vec<(TimeRange, Error)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RetrySink for Sender {
    fn on_retry(&self, window: TimeRange, retry: Retry) {
        if let Some(error) = retry.error.clone() {
            let mut pending = self.pending();
            pending.retain(|(range, _)| *range != window);
            pending.push((window, error));
        }
        // Nobody listens any longer when the run is over.
        let _ = self.events.unbounded_send(ProgressEvent::Retrying { window, retry });
    }

    fn on_wait(&self, window: TimeRange, wait: Wait) {
        let mut pending = self.pending();
        if pending.iter().all(|(range, _)| *range != window) {
            pending.push((window, wait.error()));
        }
        drop(pending);
        let _ = self.events.unbounded_send(ProgressEvent::Waiting { window, wait });
    }

    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_sub(self.clock.monotonic()))
    }
}

impl Retries {
    /// For a run that is to end at this time of its clock, which is monotonic.
    pub(super) fn new(clock: Arc<dyn Clock>, until: Option<Duration>) -> Self {
        let (events, receiver) = unbounded();
        let told = Told { receiver, reasons: BTreeMap::new() };
        let sink = Sender { events, pending: Mutex::default(), clock, until };
        Self { sink: Arc::new(sink), told: Mutex::new(told) }
    }

    /// What a fetcher is given.
    pub(super) fn sink(&self) -> Arc<dyn RetrySink> {
        Arc::<Sender>::clone(&self.sink)
    }

    /// Takes in that the request for `range` has come to an end.
    pub(super) fn ended(&self, range: TimeRange) {
        self.sink.pending().retain(|(other, _)| *other != range);
    }

    /// Why a request for bars of `range` is being made again, or waits; the newest reason of several.
    pub(super) fn pending(&self, range: TimeRange) -> Option<Error> {
        let pending = self.sink.pending();
        let of_range = pending.iter().rev().find(|(of, _)| range.intersect(*of).is_some());
        of_range.map(|(_, error)| error.clone())
    }

    /// Tells of retries and waits as they come until `work` is done.
    pub(super) async fn tell_while<T>(
        &self,
        work: impl Future<Output = T>,
        tell: impl Fn(ProgressEvent) + Send + Sync,
    ) -> T {
        let telling = poll_fn::<Infallible, _>(|context| {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            while let Poll::Ready(Some(event)) = told.receiver.poll_next_unpin(context) {
                told.count(&event);
                tell(event);
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            never = telling => match never {},
            done = work => done,
        }
    }

    /// All retries by reason.
    pub(super) fn into_reasons(self) -> BTreeMap<&'static str, u64> {
        let mut told = self.told.into_inner().unwrap_or_else(PoisonError::into_inner);
        while let Ok(event) = told.receiver.try_recv() {
            told.count(&event);
        }
        told.reasons
    }
}

impl Told {
    fn count(&mut self, event: &ProgressEvent) {
        if let ProgressEvent::Retrying { retry, .. } = event {
            *self.reasons.entry(retry.reason).or_default() += 1;
        }
    }
}
