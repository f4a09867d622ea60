//! Records what nodes emit without holding them up.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    Error, ErrorKind, EventRecorder, Interval, NodeId, Result, SeriesKey, StreamBinding, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// How many events wait for the recorder by default.
const QUEUE: usize = 1_024;

/// Hands events to an [`EventRecorder`] through a bounded queue, in the order in which they came.
///
/// An event that the recorder refuses is lost; [`flush`](Self::flush) and
/// [`shutdown`](Self::shutdown) say so. The task behind the queue starts with the first event, so
/// that a service can be built outside a runtime; dropping the service lets it finish its queue.
pub struct EventRecorderService {
    recorder: Arc<dyn EventRecorder>,
    queue: mpsc::Sender<Message>,
    /// The queue's other end until the task takes it.
    idle: Mutex<Option<mpsc::Receiver<Message>>>,
}

enum Message {
    Event { key: SeriesKey, ts: Timestamp, payload: RecordBatch },
    Flush { reply: oneshot::Sender<Result<()>>, then_stop: bool },
}

impl EventRecorderService {
    /// A service with room for 1,024 waiting events.
    #[must_use]
    pub fn new(recorder: impl EventRecorder) -> Self {
        Self::with_queue(recorder, QUEUE)
    }

    /// A service with room for `events` waiting events; 0 is taken as 1.
    #[must_use]
    pub fn with_queue(recorder: impl EventRecorder, events: usize) -> Self {
        let (queue, idle) = mpsc::channel(events.max(1));
        Self { recorder: Arc::new(recorder), queue, idle: Mutex::new(Some(idle)) }
    }

    /// Tells the recorder which stream it serves.
    pub fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
        self.recorder.bind_stream(binding)
    }

    /// Takes one event: `payload` has one row and no `ts`. Waits while the queue is full.
    /// `Cancelled` after the service was shut down or its recorder panicked, `Unsupported` outside of a runtime.
    pub async fn record(&self, key: &SeriesKey, ts: Timestamp, payload: RecordBatch) -> Result<()> {
        self.send(Message::Event { key: key.clone(), ts, payload }).await
    }

    /// As [`record`](Self::record), but where the queue is full the event is not taken:
    /// `Unavailable`, for callers that must not wait.
    pub fn try_record(&self, key: &SeriesKey, ts: Timestamp, payload: RecordBatch) -> Result<()> {
        self.start()?;
        self.queue.try_send(Message::Event { key: key.clone(), ts, payload }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::unavailable("the recorder's queue is full")
                .with("series", key)
                .with("events", self.queue.max_capacity()),
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }

    /// Returns when every event taken before is durable. Fails when the recorder cannot flush, and
    /// when it refused events since the last call: with the first refusal as the cause.
    pub async fn flush(&self) -> Result<()> {
        self.barrier(false).await
    }

    /// Flushes and stops; later events are refused.
    pub async fn shutdown(&self) -> Result<()> {
        self.barrier(true).await
    }

    async fn barrier(&self, then_stop: bool) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Flush { reply, then_stop }).await?;
        answer.await.map_err(|_| stopped())?
    }

    async fn send(&self, message: Message) -> Result<()> {
        self.start()?;
        self.queue.send(message).await.map_err(|_| stopped())
    }

    /// Starts the task unless it runs; `Unsupported` where it cannot, outside of a runtime.
    fn start(&self) -> Result<()> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_some() {
            let runtime = Handle::try_current();
            let runtime = runtime.map_err(|e| Error::outside_runtime("the event recorder").caused_by(e))?;
            idle.take().map(|queue| runtime.spawn(work(Arc::clone(&self.recorder), queue)));
        }
        Ok(())
    }
}

impl fmt::Debug for EventRecorderService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        f.debug_struct("EventRecorderService")
            .field("recorder", &self.recorder)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "the recorder service has stopped")
}

/// Events that the recorder refused since the last flush.
#[derive(Default)]
struct Refused {
    count: u64,
    first: Option<Error>,
}

async fn work(recorder: Arc<dyn EventRecorder>, mut queue: mpsc::Receiver<Message>) {
    let mut refused = Refused::default();
    while let Some(message) = queue.recv().await {
        match message {
            Message::Event { key, ts, payload } => {
                let (node_id, interval): (&NodeId, Interval) = (&key.node_id, key.interval);
                if let Err(error) = recorder.persist(node_id, interval, ts, payload).await {
                    refused.count += 1;
                    refused.first.get_or_insert(error.with("series", key).with("ts", ts));
                }
            }
            Message::Flush { reply, then_stop } => {
                let flushed = recorder.flush().await;
                // Whoever stopped waiting for the answer does not want it.
                let _ = reply.send(std::mem::take(&mut refused).or(flushed));
                if then_stop {
                    return;
                }
            }
        }
    }
    // The service was dropped: nobody is left to tell.
    let _ = recorder.flush().await;
}

impl Refused {
    fn or(self, flushed: Result<()>) -> Result<()> {
        match self.first {
            Some(first) => Err(Error::new(first.kind(), "the recorder refused events, which are lost")
                .with("events", self.count)
                .caused_by(first)),
            None => flushed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt;
    use qmtl_history_api::async_trait;
    use qmtl_history_testkit::fixtures::{bar, key};
    use tokio::sync::Semaphore;

    use super::*;

    /// Lets an event pass for each permit; refuses those whose second is odd.
    #[derive(Clone, Debug)]
    struct Gated {
        gate: Arc<Semaphore>,
        taken: Arc<Mutex<Vec<Timestamp>>>,
        flushes: Arc<AtomicU64>,
    }

    impl Gated {
        fn new(permits: usize) -> Self {
            Self { gate: Arc::new(Semaphore::new(permits)), taken: Arc::default(), flushes: Arc::default() }
        }
    }

    #[async_trait]
    impl EventRecorder for Gated {
        async fn persist(&self, _: &NodeId, _: Interval, ts: Timestamp, _: RecordBatch) -> Result<()> {
            self.gate.acquire().await.unwrap().forget();
            if ts.as_secs() % 2 == 1 {
                return Err(Error::schema("odd"));
            }
            self.taken.lock().unwrap().push(ts);
            Ok(())
        }

        async fn flush(&self) -> Result<()> {
            self.flushes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn bind_stream(&self, _: &StreamBinding) -> Result<()> {
            Ok(())
        }
    }

    fn payload() -> RecordBatch {
        let options = qmtl_history_api::arrow_array::RecordBatchOptions::new().with_row_count(Some(1));
        let schema = Arc::new(qmtl_history_api::arrow_schema::Schema::empty());
        RecordBatch::try_new_with_options(schema, vec![], &options).unwrap()
    }

    #[test]
    fn outside_of_a_runtime_there_is_an_error_and_nothing_is_lost() {
        let (recorder, key) = (Gated::new(1), key("n", "1m"));
        let service = EventRecorderService::new(recorder.clone());
        let refused = service.record(&key, bar(&key, 0), payload()).now_or_never();
        assert_eq!(refused.unwrap().unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(service.try_record(&key, bar(&key, 0), payload()).is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(service.record(&key, bar(&key, 0), payload())).unwrap();
        runtime.block_on(service.shutdown()).unwrap();
        assert_eq!(*recorder.taken.lock().unwrap(), [bar(&key, 0)]);
    }

    #[tokio::test]
    async fn events_arrive_in_order_and_are_durable_after_shutdown() {
        let (recorder, key) = (Gated::new(100), key("n", "1m"));
        let service = EventRecorderService::new(recorder.clone());
        let times: Vec<_> = (0..10).map(|i| bar(&key, i)).collect();
        for ts in &times {
            service.record(&key, *ts, payload()).await.unwrap();
        }
        service.shutdown().await.unwrap();
        assert_eq!(*recorder.taken.lock().unwrap(), times);
        assert_eq!(recorder.flushes.load(Ordering::SeqCst), 1);
        let error = service.record(&key, times[0], payload()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Cancelled, "the recorder service has stopped")
        );
        assert!(service.shutdown().await.is_err());
    }

    #[tokio::test]
    async fn a_full_queue_is_said_and_nothing_of_it_is_lost() {
        let (recorder, key) = (Gated::new(0), key("n", "1m"));
        let service = EventRecorderService::with_queue(recorder.clone(), 2);
        let mut taken = 0;
        let error = loop {
            match service.try_record(&key, bar(&key, taken), payload()) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(error.to_string(), "the recorder's queue is full (series: n@1m, events: 2)");
        assert!(error.is_retryable());
        recorder.gate.add_permits(100);
        service.flush().await.unwrap();
        assert_eq!(recorder.taken.lock().unwrap().len(), taken as usize);
    }

    #[tokio::test]
    async fn refused_events_surface_at_the_next_flush_once() {
        let (recorder, key) = (Gated::new(100), key("n", "1s"));
        let service = EventRecorderService::new(recorder);
        for index in 0..5 {
            service.record(&key, bar(&key, index), payload()).await.unwrap();
        }
        let error = service.flush().await.unwrap_err();
        assert_eq!(
            error.chain(),
            "the recorder refused events, which are lost (events: 2): odd (series: n@1s, ts: 2024-01-01T00:00:01Z)"
        );
        service.flush().await.unwrap();
    }

    #[tokio::test]
    async fn dropping_the_service_still_flushes() {
        let (recorder, key) = (Gated::new(100), key("n", "1m"));
        let service = EventRecorderService::new(recorder.clone());
        service.record(&key, bar(&key, 0), payload()).await.unwrap();
        drop(service);
        while recorder.flushes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(recorder.taken.lock().unwrap().len(), 1);
    }
}
