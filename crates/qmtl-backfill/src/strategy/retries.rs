//! What fetchers tell of requests that they make again, on its way to progress and report.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use qmtl_history_api::{ProgressEvent, Retry, RetrySink, TimeRange};

/// Counts retries by reason and passes them on. A fetcher's stream may outlive the run, so what it
/// holds is a sender and nothing of the run itself.
#[derive(Debug)]
pub(super) struct Retries {
    sink: Arc<Sender>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    receiver: UnboundedReceiver<(TimeRange, Retry)>,
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Sender(UnboundedSender<(TimeRange, Retry)>);

impl RetrySink for Sender {
    fn on_retry(&self, range: TimeRange, retry: Retry) {
        // Nobody listens any longer when the run is over.
        let _ = self.0.unbounded_send((range, retry));
    }
}

impl Default for Retries {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        let told = Told { receiver, reasons: BTreeMap::new() };
        Self { sink: Arc::new(Sender(sender)), told: Mutex::new(told) }
    }
}

impl Retries {
    /// What a fetcher is given.
    pub(super) fn sink(&self) -> Arc<dyn RetrySink> {
        Arc::<Sender>::clone(&self.sink)
    }

    /// Tells of retries as they come until `work` is done.
    pub(super) async fn tell_while<T>(
        &self,
        work: impl Future<Output = T>,
        tell: impl Fn(&ProgressEvent) + Send + Sync,
    ) -> T {
        let telling = poll_fn::<Infallible, _>(|context| {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            while let Poll::Ready(Some((window, retry))) = told.receiver.poll_next_unpin(context) {
                *told.reasons.entry(retry.reason).or_default() += 1;
                let Retry { attempt, after, reason, .. } = retry;
                tell(&ProgressEvent::Retrying { window, attempt, after, reason: reason.to_owned() });
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
        while let Ok((_, retry)) = told.receiver.try_recv() {
            *told.reasons.entry(retry.reason).or_default() += 1;
        }
        told.reasons
    }
}
