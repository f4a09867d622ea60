//! The thread that changes the file: what was asked for at the same time becomes durable with one sync.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use qmtl_backfill::lease::{Command, Reply, Status, Turn};
use qmtl_history_api::{Error, Result, Timestamp};
use qmtl_observe::metrics;
use redb::{ReadableTable, WriteTransaction};
use tokio::sync::oneshot;

use super::row::Row;
use super::{File, LEASES, META, Open, failed};

/// The most changes that become durable together.
const BATCH: usize = 256;
/// The most keys that are looked at to be forgotten at once, so that others do not wait long.
const FORGOTTEN: usize = 2_000;

/// What the writer is asked for.
pub(super) enum Job {
    /// A step of a key.
    Apply { key: String, command: Command, answer: oneshot::Sender<Result<Reply>> },
    /// Forget keys that are done and have not changed since.
    Forget { before: Timestamp, answer: oneshot::Sender<Result<u64>> },
}

pub(super) struct Writer {
    file: Arc<File>,
    /// Where forgetting goes on.
    cursor: Option<String>,
}

/// A change of the index that is made once the file has it: a key, its status before and after.
type Moved = (String, Option<Status>, Option<Status>);

impl Writer {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, cursor: None }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let mut jobs = vec![job];
            jobs.extend(queue.try_iter().take(BATCH - 1));
            let mut changes = Vec::new();
            let mut answers = Vec::new();
            let mut sweeps = Vec::new();
            for job in jobs {
                match job {
                    Job::Apply { key, command, answer } => {
                        changes.push((key, command));
                        answers.push(answer);
                    }
                    Job::Forget { before, answer } => sweeps.push((before, answer)),
                }
            }
            if !changes.is_empty() {
                match self.commit(&changes) {
                    // Whoever does not wait any more has no use for an answer.
                    Ok(replies) => answers
                        .into_iter()
                        .zip(replies)
                        .for_each(|(answer, reply)| drop(answer.send(Ok(reply)))),
                    Err(error) => {
                        answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))))
                    }
                }
            }
            for (before, answer) in sweeps {
                let _ = answer.send(self.forget(before));
            }
        }
    }

    /// Makes changes durable, all or none, and tells what came of each.
    fn commit(&self, changes: &[(String, Command)]) -> Result<Vec<Reply>> {
        let now = self.opened()?.clock.now();
        let steps = |change: &WriteTransaction| {
            let mut leases = change.open_table(LEASES).map_err(redb::Error::from)?;
            let mut meta = change.open_table(META).map_err(redb::Error::from)?;
            let mut fence = meta.get("fence")?.map_or(0, |fence| fence.value());
            let first = fence;
            let (mut replies, mut moved) = (Vec::with_capacity(changes.len()), Vec::new());
            for (key, command) in changes {
                let lease = match leases.get(key.as_str())? {
                    Some(row) => {
                        let (status, rest) = row.value();
                        Some(Row::decode(status, rest)?)
                    }
                    None => None,
                };
                let turn = Turn { now, fence: fence + 1, nonce: fastrand::u64(..) };
                let (changed, reply) = self.file.policy.step(lease.as_ref(), turn, command);
                if let Some(changed) = changed {
                    fence = fence.max(changed.fence);
                    let (status, rest) = Row::encode(&changed)?;
                    leases.insert(key.as_str(), (status, rest.as_slice()))?;
                    moved.push((key.clone(), lease.map(|lease| lease.status), Some(changed.status)));
                }
                replies.push(reply);
            }
            if fence != first {
                meta.insert("fence", fence)?;
            }
            Ok((replies, moved))
        };
        self.change(now, steps)
    }

    /// Forgets some of the keys that are done and have not changed since.
    fn forget(&mut self, before: Timestamp) -> Result<u64> {
        let now = self.opened()?.clock.now();
        let mut next = None;
        let from = self.cursor.take().unwrap_or_default();
        let steps = |change: &WriteTransaction| {
            let mut leases = change.open_table(LEASES).map_err(redb::Error::from)?;
            let mut old = Vec::new();
            for (looked_at, row) in leases.range::<&str>(from.as_str()..)?.enumerate() {
                let (key, row) = row?;
                if looked_at == FORGOTTEN {
                    next = Some(key.value().to_owned());
                    break;
                }
                let (number, rest) = row.value();
                let lease = Row::decode(number, rest)?;
                if lease.is_over_since(before) {
                    old.push((key.value().to_owned(), Some(lease.status), None));
                }
            }
            for (key, ..) in &old {
                leases.remove(key.as_str())?;
            }
            Ok((old.len() as u64, old))
        };
        let forgotten = self.change(now, steps)?;
        self.cursor = next;
        Ok(forgotten)
    }

    /// Runs steps in one change of the file, and makes it durable when they moved anything.
    fn change<T>(
        &self,
        now: Timestamp,
        steps: impl FnOnce(&WriteTransaction) -> Result<(T, Vec<Moved>), Failure>,
    ) -> Result<T> {
        let done = self.try_change(now, steps);
        if let Err(Failure::Database(_)) = &done {
            // What is in the file is known only once it has been opened again.
            self.file.lock().database = None;
        }
        done.map_err(|failure| match failure {
            Failure::Database(error) => failed(&self.file.path, error),
            Failure::Row(error) => error.with("file", self.file.path.display()),
        })
    }

    fn try_change<T>(
        &self,
        now: Timestamp,
        steps: impl FnOnce(&WriteTransaction) -> Result<(T, Vec<Moved>), Failure>,
    ) -> Result<T, Failure> {
        let change = match &self.file.lock().database {
            Some(database) => database.begin_write().map_err(redb::Error::from)?,
            None => return Err(Failure::Row(Error::unexpected("the lease store is not open"))),
        };
        let (done, moved) = steps(&change)?;
        if moved.is_empty() {
            change.abort().map_err(redb::Error::from)?;
            return Ok(done);
        }
        let clock = u64::try_from(now.as_micros()).unwrap_or(0);
        change.open_table(META).map_err(redb::Error::from)?.insert("clock", clock)?;
        let started = std::time::Instant::now();
        change.commit().map_err(redb::Error::from)?;
        metrics::coordinator_commit(started.elapsed());
        let index = &mut self.file.lock().index;
        for (key, before, after) in moved {
            if let Some(before) = before {
                index.remove(&key, before);
            }
            if let Some(after) = after {
                index.add(&key, after);
            }
        }
        Ok(done)
    }

    /// Opens the file again where that is needed.
    fn opened(&self) -> Result<std::sync::MutexGuard<'_, Open>> {
        let mut open = self.file.lock();
        if open.database.is_none() {
            *open = Open::new(&self.file.path, Arc::clone(&self.file.clock))?;
            tracing::info!(file = %self.file.path.display(), "the lease store was opened again");
        }
        Ok(open)
    }
}

/// Why a change did not come about.
enum Failure {
    /// The database failed, and is to be opened again.
    Database(redb::Error),
    /// A row cannot be read or written.
    Row(Error),
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        Self::Database(error)
    }
}

impl From<redb::StorageError> for Failure {
    fn from(error: redb::StorageError) -> Self {
        Self::Database(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Row(error)
    }
}
