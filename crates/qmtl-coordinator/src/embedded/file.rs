//! The file and its SQL.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmtl_backfill::lease::{Command, Lease, LeaseClock, Page, Policy, Query, Reply, State, Status, Turn};
use qmtl_history_api::{Clock, Error, ErrorKind, Result, Timestamp};
use qmtl_observe::metrics;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};

use crate::sql::{COLUMNS, counts, is_in, number, state_at};

/// The version of the file that this program writes.
const VERSION: i32 = 1;

/// Keys are text that is compared byte by byte. Most keys are done: the index is of the others. `numbers` has what is
/// known of the whole file: the last `fence`, the latest `clock`, how many `keys` there are.
const SCHEMA: &str = "
    create table leases (
        key text primary key,
        fence integer not null,
        token text not null,
        status text not null,
        until_us integer not null,
        granted_us integer not null,
        changed_us integer not null,
        worker text,
        request_id text,
        attempts integer not null,
        ratio real not null,
        granted_ratio real not null,
        missing integer not null,
        reason text
    ) strict, without rowid;
    create index leases_open on leases (status, key) where status <> 'done';
    create table numbers (name text primary key, value integer not null) strict, without rowid;
    insert into numbers (name, value) values ('fence', 0), ('clock', 0), ('keys', 0);
";

/// How long another process may take to close the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most keys that are looked at to be forgotten at once, so that others do not wait long.
const FORGOTTEN: usize = 2_000;

pub(super) struct File {
    path: PathBuf,
    policy: Policy,
    /// By which leases expire.
    clock: LeaseClock,
    connection: Connection,
    /// Where forgetting goes on.
    cursor: String,
    /// Which file it was when it was opened; `None` where the system does not say.
    identity: Option<Identity>,
}

impl File {
    pub(super) fn open(path: &Path, policy: Policy, clock: Arc<dyn Clock>) -> Result<Self> {
        let broken = |e| failed(path, e);
        // The file is named by its absolute path, and not as a URI: SQLite keeps what is called `:memory:` in memory.
        let unnamed = |e| Error::invalid("the path of the lease store names no file").caused_by(e);
        let absolute = std::path::absolute(path).map_err(|e| unnamed(e).with("path", path.display()))?;
        let flags = OpenFlags::default() - OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(absolute, flags).map_err(broken)?;
        connection.busy_timeout(PATIENCE).map_err(broken)?;
        // The one process that has it open keeps its lock. A change is synced before the commit returns.
        connection
            .execute_batch(
                "pragma locking_mode = exclusive; pragma journal_mode = wal; pragma synchronous = full; \
                 pragma foreign_keys = off; pragma cache_size = -65536;",
            )
            .map_err(broken)?;
        connection.set_prepared_statement_cache_capacity(32);
        let mut file = Self {
            path: path.to_owned(),
            policy,
            clock: LeaseClock::new(Arc::clone(&clock), Timestamp::MIN),
            connection,
            cursor: String::new(),
            identity: identity(path),
        };
        file.migrate()?;
        let latest = file.number("clock")?;
        file.clock = LeaseClock::new(clock, Timestamp::from_micros(latest).unwrap_or(Timestamp::MIN));
        Ok(file)
    }

    /// Makes the tables where they are not there; takes the lock of the file.
    fn migrate(&mut self) -> Result<()> {
        let broken = |e| failed(&self.path, e);
        let change =
            self.connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(broken)?;
        let version: i32 = change.query_row("pragma user_version", [], |row| row.get(0)).map_err(broken)?;
        match version {
            VERSION => {}
            0 => {
                let tables = "select count(*) from sqlite_schema";
                let tables: i64 = change.query_row(tables, [], |row| row.get(0)).map_err(broken)?;
                if tables > 0 {
                    return Err(foreign(&self.path));
                }
                change.execute_batch(SCHEMA).map_err(broken)?;
                change.pragma_update(None, "user_version", VERSION).map_err(broken)?;
            }
            other => {
                let message = "the lease store was written by a newer version of this program: use that one, or another \
                               file";
                let error =
                    Error::new(ErrorKind::Corrupt, message).with("version", other).with("known", VERSION);
                return Err(error.with("file", self.path.display()));
            }
        }
        change.commit().map_err(broken)
    }

    fn number(&self, name: &str) -> Result<i64> {
        let sql = "select value from numbers where name = ?1";
        self.connection.query_row(sql, [name], |row| row.get(0)).map_err(|e| failed(&self.path, e))
    }

    /// Makes changes durable, all or none, and tells what came of each.
    pub(super) fn apply(&mut self, changes: &[(String, Command)]) -> Result<Vec<Reply>> {
        self.is_there()?;
        let now = self.clock.now();
        let (policy, path) = (&self.policy, &self.path);
        let connection = &mut self.connection;
        let done = (|| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (mut replies, mut new_keys, mut has_changed) = (Vec::with_capacity(changes.len()), 0, false);
            {
                let mut look =
                    change.prepare_cached(&format!("select {COLUMNS} from leases where key = ?1"))?;
                let mut store = change.prepare_cached(&format!(
                    "insert or replace into leases ({COLUMNS}) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
                     ?12, ?13, ?14)"
                ))?;
                let mut fence: i64 = change
                    .prepare_cached("select value from numbers where name = 'fence'")?
                    .query_row([], |row| row.get(0))?;
                for (key, command) in changes {
                    let lease = look.query_row([key], |row| Ok(lease(row))).optional()?.transpose()?;
                    let turn = Turn { now, fence: fence.unsigned_abs() + 1, nonce: fastrand::u64(..) };
                    let (changed, reply) = policy.step(lease.as_ref(), turn, command);
                    if let Some(changed) = changed {
                        has_changed = true;
                        new_keys += i64::from(lease.is_none());
                        fence = fence.max(number(changed.fence));
                        store.execute(params![
                            key,
                            number(changed.fence),
                            changed.token,
                            changed.status.as_str(),
                            changed.until.as_micros(),
                            changed.granted_at.as_micros(),
                            changed.changed_at.as_micros(),
                            changed.worker,
                            changed.request_id,
                            changed.attempts,
                            changed.ratio,
                            changed.granted_ratio,
                            number(changed.missing),
                            changed.reason,
                        ])?;
                    }
                    replies.push(reply);
                }
                if has_changed {
                    let mut set = change.prepare_cached("update numbers set value = ?2 where name = ?1")?;
                    set.execute(params!["fence", fence])?;
                    set.execute(params!["clock", now.as_micros()])?;
                    if new_keys > 0 {
                        let sql = "update numbers set value = value + ?1 where name = 'keys'";
                        change.prepare_cached(sql)?.execute([new_keys])?;
                    }
                }
            }
            let started = Instant::now();
            if has_changed {
                change.commit()?;
                metrics::coordinator_commit(started.elapsed());
            }
            Ok(replies)
        })();
        done.map_err(|failure: Failure| failure.told(path))
    }

    pub(super) fn page(&self, query: &Query) -> Result<Page> {
        let now = self.clock.now();
        let (from, comparison) = match query.start() {
            Bound::Excluded(key) => (key, ">"),
            Bound::Included(key) => (key, ">="),
            Bound::Unbounded => ("", ">="),
        };
        let is_wanted = is_in(query.state, "?2");
        let sql = format!(
            "select {COLUMNS} from leases where key {comparison} ?1 and {is_wanted} order by key limit ?3"
        );
        let page = (|| {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![from, now.as_micros(), limit], |row| {
                Ok((row.get::<_, String>(0)?, lease(row)))
            })?;
            query.page(
                now,
                rows.map(|row| {
                    let (key, lease) = row?;
                    Ok((key, lease?))
                }),
            )
        })();
        page.map_err(|failure: Failure| failure.told(&self.path))
    }

    /// A file that was deleted or replaced can still be written, and what is written is lost with the process.
    fn is_there(&self) -> Result<()> {
        if self.identity.is_some() && identity(&self.path) != self.identity {
            let message = "the lease store was deleted or replaced while it was in use: stop the coordinator, put the file \
                           back if there is a copy, and start it again";
            return Err(Error::new(ErrorKind::Storage, message).with("file", self.path.display()));
        }
        Ok(())
    }

    /// Moves all changes into the one file, so that a copy of it has them.
    pub(super) fn close(&self) -> Result<()> {
        let checkpoint = self.connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()));
        checkpoint.map_err(|e| failed(&self.path, e))
    }

    pub(super) fn counts(&self) -> Result<Vec<(State, u64)>> {
        self.is_there()?;
        let state = state_at("?1");
        let sql = format!("select {state}, count(*) from leases where status <> 'done' group by 1");
        let open = (|| {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let now = self.clock.now().as_micros();
            let rows = statement.query_map([now], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })();
        let open = open.map_err(|failure: Failure| failure.told(&self.path))?;
        counts(&open, self.number("keys")?.unsigned_abs())
    }

    /// Forgets some of the keys that are over and have not changed since.
    pub(super) fn forget(&mut self, before: Timestamp) -> Result<u64> {
        let (connection, cursor) = (&mut self.connection, &mut self.cursor);
        let forgotten = (|| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let seen: Vec<(String, Lease)> = {
                let sql = format!("select {COLUMNS} from leases where key > ?1 order by key limit ?2");
                let mut page = change.prepare_cached(&sql)?;
                let limit = i64::try_from(FORGOTTEN).unwrap_or(i64::MAX);
                let rows = page
                    .query_map(params![&*cursor, limit], |row| Ok((row.get::<_, String>(0)?, lease(row))))?;
                rows.map(|row| {
                    let (key, lease) = row?;
                    Ok((key, lease?))
                })
                .collect::<Result<_, Failure>>()?
            };
            let last = seen.last().filter(|_| seen.len() == FORGOTTEN).map(|(key, _)| key.clone());
            let old: Vec<_> = seen.into_iter().filter(|(_, lease)| lease.is_over_since(before)).collect();
            for (key, _) in &old {
                change.prepare_cached("delete from leases where key = ?1")?.execute([key])?;
            }
            if !old.is_empty() {
                let sql = "update numbers set value = value - ?1 where name = 'keys'";
                change.execute(sql, [i64::try_from(old.len()).unwrap_or(0)])?;
                change.commit()?;
            }
            *cursor = last.unwrap_or_default();
            Ok(old.len() as u64)
        })();
        forgotten.map_err(|failure: Failure| failure.told(&self.path))
    }
}

/// Why something did not come about.
enum Failure {
    /// SQLite said so.
    Sql(rusqlite::Error),
    /// A row is none of ours.
    Row(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Row(error)
    }
}

impl Failure {
    fn told(self, path: &Path) -> Error {
        match self {
            Self::Sql(error) => failed(path, error),
            Self::Row(error) => error.with("file", path.display()),
        }
    }
}

/// The lease of a row of all columns.
fn lease(row: &Row<'_>) -> Result<Lease, Failure> {
    let damaged = || Error::new(ErrorKind::Corrupt, "a row of the lease store is none of ours");
    let status = Status::named(row.get_ref(3)?.as_str().map_err(|_| damaged())?).ok_or_else(damaged)?;
    let time = |column| -> Result<Timestamp, Failure> {
        Timestamp::from_micros(row.get(column)?).map_err(|e| damaged().caused_by(e).into())
    };
    let mut lease = Lease::new(row.get::<_, i64>(1)?.unsigned_abs(), row.get(2)?, status);
    (lease.until, lease.granted_at, lease.changed_at) = (time(4)?, time(5)?, time(6)?);
    (lease.worker, lease.request_id, lease.reason) = (row.get(7)?, row.get(8)?, row.get(13)?);
    (lease.attempts, lease.missing) = (row.get(9)?, row.get::<_, i64>(12)?.unsigned_abs());
    (lease.ratio, lease.granted_ratio) = (row.get(10)?, row.get(11)?);
    Ok(lease)
}

/// The device and the number of a file.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    // A file that is not there is another one than any that was.
    Some(std::fs::metadata(path).map_or((0, 0), |metadata| (metadata.dev(), metadata.ino())))
}

/// Elsewhere the system keeps a file that is open from being deleted.
#[cfg(not(unix))]
fn identity(_: &Path) -> Option<Identity> {
    None
}

fn foreign(path: &Path) -> Error {
    let message = "the file is no lease store: give another path, or move it away";
    Error::new(ErrorKind::Corrupt, message).with("file", path.display())
}

/// An error of SQLite in our words.
fn failed(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, ReadOnly,
    };
    let storage = |message: &str| Error::new(ErrorKind::Storage, message);
    let ours = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => Error::unavailable(
            "another process has the lease store open: one coordinator at a time can use a file; several share a \
             PostgreSQL database (--store postgres://…)",
        ),
        Some(NotADatabase) => return foreign(path).caused_by(error),
        Some(DatabaseCorrupt) => Error::new(
            ErrorKind::Corrupt,
            "the lease store is damaged: restore it from a backup, or move it away to begin without leases",
        ),
        Some(DiskFull) => {
            storage("there is no room for the lease store: give it some, and it goes on by itself")
        }
        Some(ReadOnly) => {
            storage("the lease store is read-only: let this user write the file and its folder")
        }
        Some(CannotOpen) => storage("the lease store cannot be opened: is it a folder, or one of others?"),
        _ => storage(
            "the lease store cannot be read or written: the disk fails, or takes no more bytes (no room, a quota, ulimit -f)",
        ),
    };
    ours.with("file", path.display()).caused_by(error)
}
