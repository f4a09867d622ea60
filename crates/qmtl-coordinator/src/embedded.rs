//! Leases in one file on a local disk.

mod row;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use qmtl_backfill::lease::{
    BackfillCoordinator, Command, LeaseClock, Page, Policy, Query, Reply, State, Status, admit,
};
use qmtl_history_api::{Clock, Error, ErrorKind, Result, Timestamp, async_trait};
use qmtl_observe::TokioClock;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use self::row::Row;
use self::writer::{Job, Writer};
use crate::LeaseStore;

/// Each key with its status and the rest of its row.
const LEASES: TableDefinition<'_, &str, (u8, &[u8])> = TableDefinition::new("leases");
/// What is known of the whole file: `format`, `fence`, `clock`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The format of the file that this version writes.
const FORMAT: u64 = 1;

/// Leases in one file, every change synced to disk before it is answered; one process at a time can have it open.
///
/// Changes that are asked for at the same time become durable together, with one sync. Leases expire by the wall clock
/// as it stood when the file was opened, from then on by the monotonic one, and never by less than any change before.
pub struct EmbeddedStore {
    file: Arc<File>,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// The file and what is kept in memory of it.
struct File {
    path: PathBuf,
    policy: Policy,
    clock: Arc<dyn Clock>,
    open: Mutex<Open>,
}

struct Open {
    /// `None` after a failure, until it is opened again.
    database: Option<Database>,
    /// By which leases expire.
    clock: LeaseClock,
    index: Index,
}

/// Which keys are in which state, but for those that are done, which are most.
#[derive(Debug, Default)]
struct Index {
    by_status: HashMap<Status, BTreeSet<Arc<str>>>,
    done: u64,
}

impl Index {
    fn add(&mut self, key: &str, status: Status) {
        match status {
            Status::Done => self.done += 1,
            status => drop(self.by_status.entry(status).or_default().insert(key.into())),
        }
    }

    fn remove(&mut self, key: &str, status: Status) {
        match status {
            Status::Done => self.done -= 1,
            status => {
                self.by_status.entry(status).or_default().remove(key);
            }
        }
    }

    /// The keys in this status from `from` on, as many as are looked at for a page, and one more.
    fn keys(&self, status: Status, from: Bound<&str>) -> Vec<Arc<str>> {
        let keys = self.by_status.get(&status).into_iter();
        let keys = keys.flat_map(|keys| keys.range::<str, _>((from, Bound::Unbounded)));
        keys.take(Query::LOOKED_AT + 1).cloned().collect()
    }
}

impl EmbeddedStore {
    /// Opens the file, or makes it with the folders above it.
    ///
    /// `Unavailable` when another process has it open; `Corrupt` for a file that is damaged, is none of ours, or was
    /// written by a newer version; `Storage` when the disk cannot take it.
    pub fn open(path: impl Into<PathBuf>, policy: Policy) -> Result<Self> {
        Self::open_with_clock(path, policy, TokioClock::new())
    }

    /// The same, by another clock.
    pub fn open_with_clock(path: impl Into<PathBuf>, policy: Policy, clock: impl Clock) -> Result<Self> {
        let (path, clock) = (path.into(), Arc::new(clock));
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let error =
                |e| Error::new(ErrorKind::Storage, "cannot make the folder of the lease store").caused_by(e);
            std::fs::create_dir_all(folder).map_err(|e| error(e).with("folder", folder.display()))?;
        }
        let open = Open::new(&path, Arc::clone(&clock) as Arc<dyn Clock>)?;
        let file = Arc::new(File { path, policy, clock, open: Mutex::new(open) });
        let (jobs, queue) = channel();
        let writer = Writer::new(Arc::clone(&file));
        let writer = thread::Builder::new().name("qmtl-leases".into()).spawn(move || writer.run(&queue));
        let writer = writer.map_err(|e| Error::unavailable("cannot start a thread").caused_by(e))?;
        Ok(Self { file, jobs: Some(jobs), writer: Some(writer) })
    }

    /// Lets the writer do a job, and waits for what comes of it.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let gone = || {
            Error::unexpected("the thread that writes leases has ended")
                .with("file", self.file.path.display())
        };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Reads on a thread of its own, since a disk may be slow.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&File) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || read(&file));
        read.await.map_err(|e| Error::unexpected("a read of leases panicked").caused_by(e))?
    }
}

/// Ends once everything that was asked for is written.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            // It panicked; whoever waited for it was told.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.file.path).finish_non_exhaustive()
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
        self.read(move |file| file.page(&query)).await
    }
}

#[async_trait]
impl LeaseStore for EmbeddedStore {
    async fn counts(&self) -> Result<Vec<(State, u64)>> {
        self.read(|file| file.counts()).await
    }

    async fn forget(&self, before: Timestamp) -> Result<u64> {
        self.ask(|answer| Job::Forget { before, answer }).await
    }
}

impl Open {
    fn new(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let (database, latest, index) = open(path)?;
        Ok(Self { database: Some(database), clock: LeaseClock::new(clock, latest), index })
    }
}

impl File {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A view of the file as it is now.
    fn view(&self, open: &Open) -> Result<ReadTransaction> {
        let Some(database) = &open.database else {
            let message = "the lease store failed, and is opened again with the next change";
            return Err(Error::new(ErrorKind::Storage, message).with("file", self.path.display()));
        };
        database.begin_read().map_err(|e| failed(&self.path, e))
    }

    fn page(&self, query: &Query) -> Result<Page> {
        let failed = |e: redb::Error| failed(&self.path, e);
        let after = query.after.as_deref().filter(|after| *after >= query.prefix.as_str());
        let from = after.map_or(Bound::Included(query.prefix.as_str()), Bound::Excluded);
        let (view, now, keys) = {
            let open = self.lock();
            let status = query.state.map(State::status).filter(|status| *status != Status::Done);
            let keys = status.map(|status| open.index.keys(status, from));
            (self.view(&open)?, open.clock.now(), keys)
        };
        let leases = view.open_table(LEASES).map_err(|e| failed(e.into()))?;
        let read = |key: &str, (status, rest): (u8, &[u8])| Ok((key.to_owned(), Row::decode(status, rest)?));
        match keys {
            Some(keys) => query.page(
                now,
                keys.iter().filter_map(|key| match leases.get(&**key) {
                    Ok(row) => row.map(|row| read(key, row.value())),
                    Err(e) => Some(Err(failed(e.into()))),
                }),
            ),
            None => {
                let found = leases.range::<&str>((from, Bound::Unbounded)).map_err(|e| failed(e.into()))?;
                query.page(
                    now,
                    found.map(|row| {
                        let (key, row) = row.map_err(|e| failed(e.into()))?;
                        read(key.value(), row.value())
                    }),
                )
            }
        }
    }

    fn counts(&self) -> Result<Vec<(State, u64)>> {
        let (view, now, open_keys, mut counts) = {
            let open = self.lock();
            let of = |status| open.index.by_status.get(&status).map_or(0, |keys| keys.len() as u64);
            // Whether a lease has expired stands in its row; these are few.
            let keys: Vec<_> = [Status::Held, Status::Failed]
                .into_iter()
                .flat_map(|status| open.index.keys(status, Bound::Unbounded))
                .collect();
            let counts = [
                (State::Released, of(Status::Released)),
                (State::Partial, of(Status::Partial)),
                (State::Done, open.index.done),
                (State::Dead, of(Status::Dead)),
            ];
            (self.view(&open)?, open.clock.now(), keys, counts.to_vec())
        };
        let leases = view.open_table(LEASES).map_err(|e| failed(&self.path, e))?;
        let mut several =
            [State::Held, State::Expired, State::Failed, State::Backoff].map(|state| (state, 0));
        for key in open_keys {
            let Some(row) = leases.get(&*key).map_err(|e| failed(&self.path, e))? else { continue };
            let (status, rest) = row.value();
            let state = Row::decode(status, rest)?.state(now);
            several.iter_mut().filter(|(own, _)| *own == state).for_each(|(_, keys)| *keys += 1);
        }
        counts.extend(several);
        Ok(counts)
    }
}

/// Opens the file; also the latest time by which anything was judged in it, and the index.
fn open(path: &Path) -> Result<(Database, Timestamp, Index)> {
    let broken = |e: redb::Error| failed(path, e);
    let mut builder = Database::builder();
    // Damage is an error and not a panic.
    builder.set_check_integrity_on_open(true);
    let database = builder.create(path).map_err(|e| broken(e.into()))?;
    let mut latest = 0;
    let mut index = Index::default();
    let change = database.begin_write().map_err(|e| broken(e.into()))?;
    {
        let mut meta = change.open_table(META).map_err(|e| broken(e.into()))?;
        let number = |name| Ok(meta.get(name).map_err(|e| broken(e.into()))?.map(|value| value.value()));
        let (format, clock) = (number("format")?, number("clock")?);
        match format {
            None => drop(meta.insert("format", FORMAT).map_err(|e| broken(e.into()))?),
            Some(FORMAT) => latest = clock.unwrap_or(0),
            Some(other) => {
                let message = "the lease store was written by a newer version of this program: use that one, or another file";
                let error =
                    Error::new(ErrorKind::Corrupt, message).with("format", other).with("known", FORMAT);
                return Err(error.with("file", path.display()));
            }
        }
        let leases = change.open_table(LEASES).map_err(|e| broken(e.into()))?;
        for row in leases.iter().map_err(|e| broken(e.into()))? {
            let (key, row) = row.map_err(|e| broken(e.into()))?;
            index.add(key.value(), row::status(row.value().0)?);
        }
    }
    change.commit().map_err(|e| broken(e.into()))?;
    let latest = i64::try_from(latest).ok().and_then(|micros| Timestamp::from_micros(micros).ok());
    Ok((database, latest.unwrap_or(Timestamp::MIN), index))
}

/// An error of the database in our words.
fn failed(path: &Path, error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let ours = match &error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Error::unavailable(
            "another process has the lease store open: one coordinator at a time can use a file; several share a \
             PostgreSQL database (--store postgres://…)",
        ),
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => Error::new(
            ErrorKind::Corrupt,
            "the lease store is damaged, or no lease store: restore it from a backup, or move it away to begin with no leases",
        ),
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            Error::new(ErrorKind::Corrupt, "the file is no lease store: give another path, or move it away")
        }
        redb::Error::Io(io)
            if matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::FileTooLarge) =>
        {
            Error::new(
                ErrorKind::Storage,
                "there is no room for the lease store: give it some, and it goes on by itself",
            )
        }
        _ => Error::new(ErrorKind::Storage, "the lease store cannot be read or written"),
    };
    ours.with("file", path.display()).caused_by(error)
}
