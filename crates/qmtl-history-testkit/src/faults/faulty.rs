//! The wrapper: a backend that is right but for one fault.

mod read;
mod write;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{TryStreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, EmptyProof, Error, HistoryBackend, HistoryBackendExt,
    Interval, Maintenance, NodeId, OnConflict, RangeSet, ReadRequest, Result, SeriesKey, TimeRange,
    WriteReceipt, WriteRequest, async_trait, frame,
};

use super::{Fault, rows};

/// How long a fault waits for the company in which it shows: so many turns of the scheduler.
const PATIENCE: usize = 10_000;

/// A backend with one [`Fault`].
#[derive(Debug)]
pub struct Faulty {
    fault: Fault,
    inner: Arc<dyn HistoryBackend>,
    memory: Arc<Mutex<Memory>>,
    calls: AtomicUsize,
    writes: AtomicUsize,
    reads: AtomicUsize,
}

/// What faults remember of earlier calls.
#[derive(Debug, Default)]
struct Memory {
    unseen: Option<(WriteRequest, RecordBatch)>,
    proofs: Vec<(SeriesKey, EmptyProof)>,
    claimed: Vec<(SeriesKey, RangeSet)>,
    made_of_nothing: BTreeSet<SeriesKey>,
    locked: bool,
}

impl Faulty {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(fault: Fault, inner: Arc<dyn HistoryBackend>) -> Self {
        let memory = Arc::default();
        let (calls, writes, reads) = Default::default();
        Self { fault, inner, memory, calls, writes, reads }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call as under way until the guard falls; what does not bear company fails.
    async fn enter(&self) -> Result<Count<'_>> {
        let call = Count::of(&self.calls);
        let alone_only = self.fault == Fault::OneCallAtATime;
        if alone_only && until(|| self.calls.load(Ordering::SeqCst) > 1).await {
            return Err(Error::unavailable("busy with another call"));
        }
        if self.memory().locked {
            return Err(Error::unavailable("locked by a stream that is gone"));
        }
        Ok(call)
    }

    fn key(&self, key: &SeriesKey) -> SeriesKey {
        let node_id = key.node_id.as_str();
        let node_id = match self.fault {
            Fault::IgnoresCase => node_id.to_lowercase(),
            Fault::FlattensIds => node_id.replace(|c: char| !c.is_alphanumeric(), "_"),
            _ => node_id.to_owned(),
        };
        let length = key.interval.as_secs();
        let interval = match self.fault {
            Fault::JoinsIntervals if length % 60 == 0 => Interval::MINUTE,
            Fault::JoinsPhases => Interval::from_secs(length).expect("a length is one without a phase"),
            _ => key.interval,
        };
        SeriesKey { node_id: NodeId::new(node_id).expect("it is no longer than it was"), interval }
    }

    fn error(&self, error: Error) -> Error {
        match self.fault {
            Fault::AlwaysRetryable => error.retryable(true),
            Fault::NamesNothing => Error::new(error.kind(), "bad input"),
            _ => error,
        }
    }

    async fn stored_schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.inner.schema(key).await
    }

    fn proven(&self, key: &SeriesKey) -> RangeSet {
        let memory = self.memory();
        let proofs = memory.proofs.iter().filter(|(of, _)| of == key);
        proofs.fold(RangeSet::new(), |all, (_, proof)| all.union(&proof.ranges))
    }

    /// Makes the last write visible, one call too late.
    async fn catch_up(&self) -> Result<()> {
        let unseen = self.memory().unseen.take();
        if let Some((request, rows)) = unseen {
            self.inner.write_rows(&request, rows).await?;
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl HistoryBackend for Faulty {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        let _call = self.enter().await?;
        let asked = self.asked(request).await?;
        let read = self.bent(&asked).await.map_err(|e| self.error(e));
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.catch_up().await?;
        read
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        let _call = self.enter().await?;
        if self.fault == Fault::SchemaOfNothing {
            return Ok(frame::ts_only_schema());
        }
        self.stored_schema(&self.key(key)).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let _call = self.enter().await?;
        let given = self.given(request).await?;
        let stored = self.stored_schema(&given.key).await?;
        let rows = rows::written(self.fault, &given.key, rows, &stored)?;
        let rows = match self.fault {
            Fault::ReplaceMerges if request.on_conflict == OnConflict::Replace => {
                let old = self.inner.read_all(&ReadRequest::new(given.key.clone(), TimeRange::ALL)).await?;
                rows::merged(rows, &old)
            }
            _ => rows,
        };
        let receipt = self.store(&given, rows).await.map_err(|e| self.error(e))?;
        let mut memory = self.memory();
        memory.made_of_nothing.insert(given.key.clone());
        memory.proofs.extend(given.empty.into_iter().map(|proof| (given.key.clone(), proof)));
        Ok(receipt)
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let _call = self.enter().await?;
        let coverage = self.known(&self.key(key), range).await.map_err(|e| self.error(e));
        self.catch_up().await?;
        coverage
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        let _call = self.enter().await?;
        let keys: Vec<SeriesKey> = self.inner.series().await?.try_collect().await?;
        let mut listed = Vec::new();
        for key in keys {
            listed.extend(self.listed(key).await?);
        }
        if self.fault == Fault::NothingMakesASeries {
            let made = self.memory().made_of_nothing.clone();
            listed.extend(made.into_iter().filter(|key| !listed.contains(key)).collect::<Vec<_>>());
        }
        Ok(Box::pin(stream::iter(listed.into_iter().map(Ok))))
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let _call = self.enter().await?;
        let revision = self.inner.revision(&self.key(key)).await?;
        Ok(match self.fault {
            Fault::RevisionStands => revision.map(|_| 1),
            Fault::RevisionIsNeverNone => revision.or(Some(0)),
            _ => revision,
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.inner.maintenance()
    }
}

/// Waits, not for ever, until something is so, and says whether it came to be.
async fn until(is_so: impl Fn() -> bool + Send) -> bool {
    for _ in 0..PATIENCE {
        if is_so() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Counts something as long as it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn of(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
