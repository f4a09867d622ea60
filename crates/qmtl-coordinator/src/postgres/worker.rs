//! Changes of leases: what was asked for at the same time is one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Client, Pool};
use futures::future::try_join3;
use qmtl_backfill::lease::{Command, Lease, Policy, Reply, Turn};
use qmtl_history_api::{Error, Result, Timestamp};
use qmtl_observe::metrics;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;

use super::{NOW, client, failed, key, lease, micros};
use crate::sql::{COLUMNS, number};

/// How long a transaction may take; a little longer than the server lets a statement take.
const PATIENCE: Duration = Duration::from_secs(9);
/// The most changes of one transaction.
const BATCH: usize = 128;

/// A step of a key that is asked for.
pub(super) struct Job {
    pub(super) key: String,
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Reply>>,
}

pub(super) struct Worker {
    pool: Pool,
    policy: Arc<Policy>,
}

impl Worker {
    pub(super) fn new(pool: Pool, policy: Arc<Policy>) -> Self {
        Self { pool, policy }
    }

    /// Works until nobody can ask any more.
    pub(super) async fn run(self, queue: Arc<Mutex<mpsc::Receiver<Job>>>) {
        loop {
            let mut jobs = Vec::new();
            if queue.lock().await.recv_many(&mut jobs, BATCH).await == 0 {
                return;
            }
            match self.change_in_time(&jobs).await {
                // Whoever does not wait any more has no use for an answer.
                Ok(replies) => {
                    jobs.into_iter().zip(replies).for_each(|(job, reply)| drop(job.answer.send(Ok(reply))))
                }
                Err(error) => jobs.into_iter().for_each(|job| drop(job.answer.send(Err(error.clone())))),
            }
        }
    }

    /// Makes changes, or gives the connection up: a server process that hangs enforces no timeout of its own.
    async fn change_in_time(&self, jobs: &[Job]) -> Result<Vec<Reply>> {
        let mut client = client(&self.pool).await?;
        match timeout(PATIENCE, self.change(&mut client, jobs)).await {
            Ok(done) => done,
            Err(_) => {
                // It would keep whoever gets it next waiting.
                drop(Client::take(client));
                Err(Error::unavailable("the database of leases does not answer"))
            }
        }
    }

    /// Makes changes in one transaction, and tells what came of each.
    async fn change(&self, client: &mut Client, jobs: &[Job]) -> Result<Vec<Reply>> {
        let keys: Vec<&[u8]> = jobs.iter().map(|job| job.key.as_bytes()).collect();
        // In one order everywhere, so that no two transactions wait for each other.
        let mut locks: Vec<i64> = keys.iter().map(|key| lock(key)).collect();
        locks.sort_unstable();
        locks.dedup();
        let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
        let lock_all = client
            .prepare_cached("select pg_advisory_xact_lock(lock) from unnest($1::bigint[]) as locks (lock)")
            .await
            .map_err(failed)?;
        let look =
            client.prepare_cached(&format!("select {COLUMNS} from qmtl_leases where key = any($1)")).await;
        let look = look.map_err(failed)?;
        let fences = client
            .prepare_cached(&format!(
                "select nextval('qmtl_lease_fence') as fence, {NOW} from generate_series(1, $1::bigint)"
            ))
            .await
            .map_err(failed)?;
        let store = client.prepare_cached(STORE).await.map_err(failed)?;
        let change = client.transaction().await.map_err(failed)?;
        // One round trip: the server gets them in the order in which they are first polled, and runs them one after another. A
        // statement sees what was committed before it began, so the rows are read once the locks are there.
        let locks: [&(dyn ToSql + Sync); 1] = [&locks];
        let (keys, count): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&keys], [&count]);
        let steps = try_join3(
            change.execute(&lock_all, &locks),
            change.query(&look, &keys),
            change.query(&fences, &count),
        );
        let (_, rows, turns) = steps.await.map_err(failed)?;
        let mut leases = BTreeMap::new();
        for row in &rows {
            leases.insert(key(row)?, lease(row)?);
        }
        let mut changed = BTreeMap::new();
        let mut replies = Vec::with_capacity(jobs.len());
        for (job, turn) in jobs.iter().zip(&turns) {
            let before = leases.get(&job.key);
            // The server's clock may be set back; the key's time is not. The maximum is not that of all keys, or a clock that
            // was ahead for a moment would stop time for every one of them.
            let last = before.map_or(Timestamp::MIN, |lease| lease.changed_at);
            let turn = Turn {
                now: micros(turn, "now_us")?.max(last),
                fence: turn.get::<_, i64>("fence").unsigned_abs(),
                nonce: fastrand::u64(..),
            };
            let (after, reply) = self.policy.step(before, turn, &job.command);
            if let Some(after) = after {
                changed.insert(job.key.clone(), after.clone());
                leases.insert(job.key.clone(), after);
            }
            replies.push(reply);
        }
        let started = Instant::now();
        if changed.is_empty() {
            change.rollback().await.map_err(failed)?;
            return Ok(replies);
        }
        let columns = Columns::of(&changed);
        change.execute(&store, &columns.parameters()).await.map_err(failed)?;
        change.commit().await.map_err(failed)?;
        metrics::coordinator_commit(started.elapsed());
        Ok(replies)
    }
}

/// A number that stands for a key among advisory locks; two keys with one number only wait for each other.
fn lock(key: &[u8]) -> i64 {
    let hash = blake3::hash(key);
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    i64::from_be_bytes(*first)
}

const STORE: &str = "\
    insert into qmtl_leases (key, fence, token, status, until_us, granted_us, changed_us, worker, request_id, attempts, \
                             ratio, granted_ratio, missing, reason) \
    select * from unnest($1::bytea[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], \
                         $8::text[], $9::text[], $10::integer[], $11::float8[], $12::float8[], $13::bigint[], \
                         $14::text[]) \
    on conflict (key) do update set \
        fence = excluded.fence, token = excluded.token, status = excluded.status, until_us = excluded.until_us, \
        granted_us = excluded.granted_us, changed_us = excluded.changed_us, worker = excluded.worker, \
        request_id = excluded.request_id, attempts = excluded.attempts, ratio = excluded.ratio, \
        granted_ratio = excluded.granted_ratio, missing = excluded.missing, reason = excluded.reason";

/// Leases as columns, in the order of `STORE`.
#[derive(Default)]
struct Columns<'a> {
    keys: Vec<&'a [u8]>,
    fences: Vec<i64>,
    tokens: Vec<&'a str>,
    statuses: Vec<&'static str>,
    until: Vec<i64>,
    granted: Vec<i64>,
    changed: Vec<i64>,
    workers: Vec<Option<&'a str>>,
    requests: Vec<Option<&'a str>>,
    attempts: Vec<i32>,
    ratios: Vec<f64>,
    granted_ratios: Vec<f64>,
    missing: Vec<i64>,
    reasons: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(leases: &'a BTreeMap<String, Lease>) -> Self {
        let mut columns = Self::default();
        for (key, lease) in leases {
            columns.keys.push(key.as_bytes());
            columns.fences.push(number(lease.fence));
            columns.tokens.push(&lease.token);
            columns.statuses.push(lease.status.as_str());
            columns.until.push(lease.until.as_micros());
            columns.granted.push(lease.granted_at.as_micros());
            columns.changed.push(lease.changed_at.as_micros());
            columns.workers.push(lease.worker.as_deref());
            columns.requests.push(lease.request_id.as_deref());
            columns.attempts.push(i32::try_from(lease.attempts).unwrap_or(i32::MAX));
            columns.ratios.push(lease.ratio);
            columns.granted_ratios.push(lease.granted_ratio);
            columns.missing.push(number(lease.missing));
            columns.reasons.push(lease.reason.as_deref());
        }
        columns
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.keys,
            &self.fences,
            &self.tokens,
            &self.statuses,
            &self.until,
            &self.granted,
            &self.changed,
            &self.workers,
            &self.requests,
            &self.attempts,
            &self.ratios,
            &self.granted_ratios,
            &self.missing,
            &self.reasons,
        ]
    }
}
