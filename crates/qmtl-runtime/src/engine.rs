//! Loads history into caches: many jobs at once, repeated where that may help, each with an outcome.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    Clock, Error, ErrorKind, HistoryProvider, NoProgress, ProgressEvent, ProgressSink, ReadRequest, Result,
    Retry, SeriesKey, TimeRange, Timestamp, frame,
};
use qmtl_observe::{TokioClock, events, metrics};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::SharedCache;

/// The longest pause between two tries of a job.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// What a [`BackfillEngine`] may do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineConfig {
    /// How often a job is retried after its first try, if the error is transient.
    pub max_retries: u32,
    /// The pause before the first retry; each further pause is twice as long, up to 30 s.
    pub retry_delay: Duration,
    /// How many jobs load at once; the others wait.
    pub max_concurrent: usize,
}

impl Default for EngineConfig {
    /// 3 retries, 500 ms, 8 at once.
    fn default() -> Self {
        Self { max_retries: 3, retry_delay: Duration::from_millis(500), max_concurrent: 8 }
    }
}

impl EngineConfig {
    /// Sets how often a job is repeated after its first try.
    #[must_use]
    pub fn with_max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// Sets the pause before the first repetition.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// Sets how many jobs load at once; 0 is taken as 1, and more than there can be as that many.
    #[must_use]
    pub fn with_max_concurrent(mut self, jobs: usize) -> Self {
        self.max_concurrent = jobs.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    fn delay_before(&self, retry: u32) -> Duration {
        let doublings = 2u32.saturating_pow(retry.saturating_sub(1));
        self.retry_delay.saturating_mul(doublings).min(MAX_DELAY)
    }
}

/// A range of history that is to be loaded into a cache.
#[derive(Clone, Debug)]
pub struct BackfillJob {
    cache: SharedCache,
    key: SeriesKey,
    provider: Arc<dyn HistoryProvider>,
    range: TimeRange,
}

impl BackfillJob {
    /// Loads the bars of `range` that have closed from `provider` into `cache`.
    #[must_use]
    pub fn new(cache: SharedCache, provider: Arc<dyn HistoryProvider>, range: TimeRange) -> Self {
        let key = cache.read(|cache| cache.key().clone());
        Self { cache, key, provider, range }
    }
}

/// What came of a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobOutcome {
    /// The cache's series.
    pub key: SeriesKey,
    /// The job's range.
    pub range: TimeRange,
    /// How often the provider was asked; 0 when everything was loaded already.
    pub attempts: u32,
    /// Rows that came into the cache.
    pub rows_added: usize,
    /// Why the job failed; of kind `Cancelled` when it was cancelled. What it had loaded stays.
    pub result: Result<()>,
}

impl JobOutcome {
    /// That of a job that has not come to its end.
    fn of(job: &BackfillJob) -> Self {
        let cancelled = Error::new(ErrorKind::Cancelled, "the job was cancelled").with("series", &job.key);
        let (key, range) = (job.key.clone(), job.range);
        Self { key, range, attempts: 0, rows_added: 0, result: Err(cancelled) }
    }
}

/// Cancels one job.
#[derive(Clone, Debug)]
pub struct JobHandle(Option<AbortHandle>);

impl JobHandle {
    /// Stops the job where it is; it then ends with an outcome of kind `Cancelled`.
    pub fn cancel(&self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Runs jobs that load history.
///
/// Jobs that are [submitted](Self::submit) run as tokio tasks, and dropping the engine cancels them; one that is
/// [run](Self::run) ends with its future. Both take a slot.
pub struct BackfillEngine {
    clock: Arc<dyn Clock>,
    config: EngineConfig,
    progress: Arc<dyn ProgressSink>,
    slots: Arc<Semaphore>,
    ledger: Arc<Ledger>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Default for BackfillEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl BackfillEngine {
    /// An engine with the default configuration, on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            clock: Arc::new(TokioClock::new()),
            config: EngineConfig::default(),
            progress: Arc::new(NoProgress),
            slots: Arc::new(Semaphore::new(EngineConfig::default().max_concurrent)),
            ledger: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// The clock by which deadlines and pauses pass.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets what the engine may do.
    #[must_use]
    pub fn with_config(mut self, config: EngineConfig) -> Self {
        self.slots = Arc::new(Semaphore::new(config.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)));
        self.config = config;
        self
    }

    /// Reports the progress of every job.
    #[must_use]
    pub fn with_progress(mut self, progress: impl ProgressSink + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// Starts a job. Outside of a tokio runtime it ends at once, with an outcome of kind `Unsupported`.
    pub fn submit(&self, job: BackfillJob) -> JobHandle {
        let mut entry = Entry::open(Arc::clone(&self.ledger), &job);
        let runtime = match Handle::try_current() {
            Ok(runtime) => runtime,
            Err(e) => {
                let error = Error::outside_runtime("a backfill engine").caused_by(e);
                entry.close(Err(error.with("series", &job.key)));
                return JobHandle(None);
            }
        };
        let (run, slots) = (self.prepared(job), Arc::clone(&self.slots));
        let task = runtime.spawn(async move {
            let result = run.in_slot(&slots, &mut entry.outcome).await;
            entry.close(result);
        });
        let handle = task.abort_handle();
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.clone());
        JobHandle(Some(handle))
    }

    /// Runs a job to its end; dropping the future cancels it. [`wait`](Self::wait) knows nothing of it.
    pub async fn run(&self, job: BackfillJob) -> JobOutcome {
        let mut outcome = JobOutcome::of(&job);
        outcome.result = self.prepared(job).in_slot(&self.slots, &mut outcome).await;
        outcome
    }

    fn prepared(&self, job: BackfillJob) -> Run {
        let (clock, progress) = (Arc::clone(&self.clock), Arc::clone(&self.progress));
        Run { job, clock, config: self.config.clone(), progress }
    }

    /// Returns when every job has ended, with the outcomes of all that ended since the last call,
    /// in the order in which they ended. A failed job does not hide the others.
    ///
    /// Dropping the future cancels nothing; jobs submitted meanwhile are waited for as well.
    pub async fn wait(&self) -> Vec<JobOutcome> {
        let ended = self.ledger.open.subscribe().wait_for(|open| *open == 0).await.is_ok();
        debug_assert!(ended, "the ledger outlives its receivers");
        std::mem::take(&mut *self.ledger.outcomes())
    }

    /// Cancels every job that has not ended.
    pub fn cancel(&self) {
        for task in self.tasks().drain(..) {
            task.abort();
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BackfillEngine {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for BackfillEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackfillEngine")
            .field("config", &self.config)
            .field("open_jobs", &*self.ledger.open.borrow())
            .finish_non_exhaustive()
    }
}

/// The jobs under way, counted, and what came of the others.
#[derive(Debug, Default)]
struct Ledger {
    open: watch::Sender<usize>,
    ended: Mutex<Vec<JobOutcome>>,
}

impl Ledger {
    fn outcomes(&self) -> std::sync::MutexGuard<'_, Vec<JobOutcome>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's line in the ledger. However the job ends, dropping it writes the outcome down.
#[derive(Debug)]
struct Entry {
    ledger: Arc<Ledger>,
    outcome: JobOutcome,
}

impl Entry {
    fn open(ledger: Arc<Ledger>, job: &BackfillJob) -> Self {
        ledger.open.send_modify(|open| *open += 1);
        Self { ledger, outcome: JobOutcome::of(job) }
    }

    fn close(mut self, result: Result<()>) {
        self.outcome.result = result;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outcome.result =
                Err(Error::unexpected("the job panicked").with("series", &self.outcome.key));
        }
        self.ledger.outcomes().push(self.outcome.clone());
        self.ledger.open.send_modify(|open| *open -= 1);
    }
}

/// A job with what it needs.
struct Run {
    job: BackfillJob,
    clock: Arc<dyn Clock>,
    config: EngineConfig,
    progress: Arc<dyn ProgressSink>,
}

impl Run {
    async fn in_slot(&self, slots: &Semaphore, outcome: &mut JobOutcome) -> Result<()> {
        let _slot = slots.acquire().await.expect("the engine never closes its slots");
        self.to_end(outcome).await
    }

    async fn to_end(&self, outcome: &mut JobOutcome) -> Result<()> {
        let Some(mut rest) = self.unfinished() else { return Ok(()) };
        let _counted = metrics::Guard::job();
        let BackfillJob { key, range, .. } = &self.job;
        events::backfill_start(key, *range);
        let bars = rest.count(key.interval);
        self.tell(&ProgressEvent::Planned { bars, windows: 1, requests: 1 });
        loop {
            outcome.attempts += 1;
            let Err(error) = self.load(rest, outcome).await else { break };
            if !error.is_retryable() || outcome.attempts > self.config.max_retries {
                metrics::failure(key);
                events::backfill_failed(key, outcome.attempts);
                self.tell(&ProgressEvent::WindowFailed { window: rest, error: error.clone() });
                return Err(error);
            }
            self.pause(rest, outcome.attempts, &error).await;
            // What came before the error is in the cache and is not asked for again.
            match self.unfinished() {
                Some(still) => rest = still,
                None => break,
            }
        }
        events::backfill_complete(key, *range);
        Ok(())
    }

    /// What of the job's range has closed and is not loaded yet.
    fn unfinished(&self) -> Option<TimeRange> {
        let interval = self.job.key.interval;
        let closed = TimeRange::checked(Timestamp::MIN, interval.floor(self.clock.now())?)?;
        let range = self.job.range.intersect(closed)?;
        self.job.cache.read(|cache| cache.unfinished(range))
    }

    async fn load(&self, window: TimeRange, outcome: &mut JobOutcome) -> Result<()> {
        self.tell(&ProgressEvent::WindowStarted { window });
        let request = ReadRequest::new(self.job.key.clone(), window);
        let mut stream = self.job.provider.fetch(&request).await?;
        let (mut fetched, before) = (0, outcome.rows_added);
        while let Some(batch) = stream.next_batch().await {
            let batch = rows_before(&batch?, window.end())?;
            let merged = self.job.cache.write(|cache| cache.backfill_bulk(&batch))?;
            fetched += batch.num_rows();
            outcome.rows_added += merged.added;
            if merged.added > 0
                && let Some(newest) = self.job.cache.read(|cache| newest_of(&batch, cache.key()))
            {
                metrics::last_timestamp(&self.job.key, newest);
            }
        }
        self.tell(&ProgressEvent::Fetched { window, rows: fetched as u64 });
        let (rows, bars) = ((outcome.rows_added - before) as u64, window.count(self.job.key.interval));
        self.tell(&ProgressEvent::WindowStored { window, rows, bars });
        Ok(())
    }

    async fn pause(&self, window: TimeRange, attempt: u32, error: &Error) {
        let after = self.config.delay_before(attempt);
        metrics::retry(&self.job.key);
        events::backfill_retry(&self.job.key, attempt);
        let retry = Retry::new(attempt, after, error.kind().as_str()).with_error(error.clone());
        self.tell(&ProgressEvent::Retrying { window, retry });
        self.clock.sleep(after).await;
    }

    fn tell(&self, event: &ProgressEvent) {
        self.progress.on_event(&self.job.key, event);
    }
}

/// The rows before `end`: a provider that answers beyond its request may not bring a bar that is
/// still forming.
fn rows_before(batch: &RecordBatch, end: Timestamp) -> Result<RecordBatch> {
    let ts = frame::timestamps(batch)?.values();
    Ok(match ts.iter().position(|micros| *micros >= end.as_micros()) {
        Some(rows) => batch.slice(0, rows),
        None => batch.clone(),
    })
}

fn newest_of(batch: &RecordBatch, key: &SeriesKey) -> Option<Timestamp> {
    let micros = frame::timestamps(batch).ok()?.values().last().copied()?;
    key.interval.floor(Timestamp::from_micros(micros).ok()?)
}

#[cfg(test)]
mod tests;
