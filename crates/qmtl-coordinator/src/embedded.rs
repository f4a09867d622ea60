//! Leases in one file on a local disk.

mod file;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use qmtl_backfill::lease::{BackfillCoordinator, Command, Page, Policy, Query, Reply, State, admit};
use qmtl_history_api::{Clock, Error, ErrorKind, Result, Timestamp, async_trait};
use qmtl_observe::TokioClock;
use tokio::sync::oneshot;

use self::file::File;
use crate::LeaseStore;

/// The most changes that become durable together.
const BATCH: usize = 256;

/// Leases in one SQLite file, every change synced to disk before it is answered; one process at a time has it open.
///
/// Changes that are asked for at the same time become durable together, with one sync. Leases expire by the wall clock
/// as it stood when the file was opened, from then on by the monotonic one, and never by less than any change before.
pub struct EmbeddedStore {
    path: PathBuf,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

type Answer<T> = oneshot::Sender<Result<T>>;

/// What the thread that has the file is asked for.
enum Job {
    /// A step of a key.
    Apply { key: String, command: Command, answer: Answer<Reply> },
    /// A page of keys.
    Inspect { query: Query, answer: Answer<Page> },
    /// How many keys are in each state.
    Count { answer: Answer<Vec<(State, u64)>> },
    /// Forget keys that are over and have not changed since.
    Forget { before: Timestamp, answer: Answer<u64> },
    /// Move everything into the one file.
    Close { answer: Answer<()> },
}

impl EmbeddedStore {
    /// Opens the file, or makes it with the folders above it.
    ///
    /// `InvalidInput` for a path that names no file; `Unavailable` when another process has it open; `Corrupt` for a file
    /// that is damaged, is none of ours, or was written by a newer version; `Storage` when the disk cannot take it.
    pub fn open(path: impl Into<PathBuf>, policy: Policy) -> Result<Self> {
        Self::open_with_clock(path, policy, TokioClock::new())
    }

    /// The same, by another clock.
    pub fn open_with_clock(path: impl Into<PathBuf>, policy: Policy, clock: impl Clock) -> Result<Self> {
        let path = path.into();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let error =
                |e| Error::new(ErrorKind::Storage, "cannot make the folder of the lease store").caused_by(e);
            std::fs::create_dir_all(folder).map_err(|e| error(e).with("folder", folder.display()))?;
        }
        let file = File::open(&path, policy, Arc::new(clock))?;
        let (jobs, queue) = channel();
        let worker = thread::Builder::new().name("qmtl-leases".into()).spawn(move || work(file, &queue));
        let worker = worker.map_err(|e| Error::unavailable("cannot start a thread").caused_by(e))?;
        Ok(Self { path, jobs: Some(jobs), worker: Some(worker) })
    }

    /// Lets the thread do a job, and waits for what comes of it.
    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let gone = || {
            let message = "the thread that has the lease store has ended";
            Error::unexpected(message).with("file", self.path.display())
        };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Works until nobody can ask any more.
fn work(mut file: File, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        let mut jobs = vec![job];
        jobs.extend(queue.try_iter().take(BATCH - 1));
        let (mut changes, mut answers) = (Vec::new(), Vec::new());
        let mut others = Vec::new();
        for job in jobs {
            match job {
                Job::Apply { key, command, answer } => {
                    changes.push((key, command));
                    answers.push(answer);
                }
                other => others.push(other),
            }
        }
        if !changes.is_empty() {
            // Whoever does not wait any more has no use for an answer.
            match file.apply(&changes) {
                Ok(replies) => {
                    answers.into_iter().zip(replies).for_each(|(answer, reply)| drop(answer.send(Ok(reply))))
                }
                Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
            }
        }
        for job in others {
            match job {
                Job::Apply { .. } => {}
                Job::Inspect { query, answer } => drop(answer.send(file.page(&query))),
                Job::Count { answer } => drop(answer.send(file.counts())),
                Job::Forget { before, answer } => drop(answer.send(file.forget(before))),
                Job::Close { answer } => drop(answer.send(file.close())),
            }
        }
    }
}

/// Ends once everything that was asked for is written.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(worker) = self.worker.take() {
            // It panicked; whoever waited for it was told.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl BackfillCoordinator for EmbeddedStore {
    /// `embedded`.
    fn id(&self) -> &str {
        "embedded"
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        admit(key, &mut command)?;
        let key = key.to_owned();
        self.ask(|answer| Job::Apply { key, command, answer }).await
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let query = query.clone();
        self.ask(|answer| Job::Inspect { query, answer }).await
    }
}

#[async_trait]
impl LeaseStore for EmbeddedStore {
    async fn counts(&self) -> Result<Vec<(State, u64)>> {
        self.ask(|answer| Job::Count { answer }).await
    }

    async fn forget(&self, before: Timestamp) -> Result<u64> {
        self.ask(|answer| Job::Forget { before, answer }).await
    }

    async fn close(&self) -> Result<()> {
        self.ask(|answer| Job::Close { answer }).await
    }
}
