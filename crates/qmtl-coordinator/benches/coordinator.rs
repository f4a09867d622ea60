//! How many windows a coordinator grants and completes a second over loopback, every change synced to disk, for 1, 8 and
//! 64 clients that each wait for their answers; prints pairs a second and the times of one call. Then a file that knows
//! a million windows: how long a claim and a page take.
//!
//! With `QMTL_TEST_POSTGRES_BIN` also of a PostgreSQL of its own.

#![expect(clippy::print_stdout, reason = "the table is what a bench is run for")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmtl_backfill::lease::{
    BackfillCoordinator, Command, DistributedBackfillCoordinator, Policy, Query, Reply, State,
};
use qmtl_coordinator::{EmbeddedStore, LeaseStore, PostgresStore, Server};
use qmtl_history_api::StopSignal;
use qmtl_history_testkit::postgres::Cluster;
use tokio::runtime::Runtime;

const CLIENTS: [usize; 3] = [1, 8, 64];
const WARM_UP: Duration = Duration::from_millis(500);
const LENGTH: Duration = Duration::from_secs(4);
/// Windows that a file knows in the second part.
const KNOWN: u64 = 1_000_000;

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("leases.db");
    let open = |path: &Path| EmbeddedStore::open(path, Policy::default()).expect("a new file");
    for clients in CLIENTS {
        let store = Arc::new(open(&path));
        measure(&runtime, "embedded", store, clients);
    }
    if let Some(cluster) = Cluster::start() {
        let url = cluster.and_then(|cluster| Ok((cluster.create("leases")?, cluster)));
        let (url, _cluster) = url.expect("a database");
        for clients in CLIENTS {
            let store =
                runtime.block_on(PostgresStore::connect(&url, Policy::default())).expect("its tables");
            measure(&runtime, "postgres", Arc::new(store), clients);
        }
    }
    let path = folder.path().join("million.db");
    drop(open(&path));
    fill(&path);
    let started = Instant::now();
    let store = Arc::new(open(&path));
    println!("coordinator: open {KNOWN} windows {:.1} ms", millis(started.elapsed()));
    measure(&runtime, "million", Arc::clone(&store) as Arc<dyn LeaseStore>, 8);
    for (name, query) in [
        ("first", Query::new("")),
        ("middle", Query::new("").with_after(key(KNOWN / 2))),
        ("dead", Query::new("").with_state(State::Dead)),
    ] {
        let times = sorted((0..200).map(|_| {
            let started = Instant::now();
            runtime.block_on(store.inspect(&query)).expect("a page");
            started.elapsed()
        }));
        println!("coordinator: page {name} p50 {:.2} ms, p99 {:.2} ms", at(&times, 50), at(&times, 99));
    }
}

fn key(number: u64) -> String {
    let start = 1_700_000_000 + number * 54_000;
    format!("ohlcv:binance:BTC/USDT:1m:60:{start}:{}:world-production:", start + 54_000)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}

/// The time below which so many of a hundred are, in milliseconds.
fn at(times: &[Duration], percent: usize) -> f64 {
    millis(times[times.len().saturating_sub(1) * percent / 100])
}

/// Lets clients claim and complete new windows over HTTP.
fn measure(runtime: &Runtime, name: &str, store: Arc<dyn LeaseStore>, clients: usize) {
    let (pairs, times) = runtime.block_on(async {
        let server = Server::new(store);
        let listener = server.bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let stop = StopSignal::new();
        let serving = tokio::spawn(server.serve(listener, stop.clone()));
        let client = DistributedBackfillCoordinator::new(&url).expect("an address");
        let begun = Instant::now();
        let run = begun.elapsed().as_nanos() ^ u128::from(fastrand::u64(..));
        let working = (0..clients).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let (mut pairs, mut times) = (0_u64, Vec::new());
                for window in 0_u64.. {
                    if begun.elapsed() > WARM_UP + LENGTH {
                        break;
                    }
                    let key = format!("ohlcv:bench:{run:x}:{number}:60:{window}:{}::", window + 1);
                    let started = Instant::now();
                    let worker = Some("bench".to_owned());
                    let claim = Command::Claim { ttl: Duration::from_secs(120), worker, request_id: None };
                    let Ok(Reply::Granted(grant)) = client.apply(&key, claim).await else {
                        panic!("not granted")
                    };
                    let claimed = Instant::now();
                    let (token, retry_after) = (grant.token, Duration::ZERO);
                    let complete = Command::Complete { token, missing: 0, ratio: 1.0, retry_after };
                    client.apply(&key, complete).await.expect("an answer");
                    if started.duration_since(begun) > WARM_UP {
                        pairs += 1;
                        times.extend([claimed - started, claimed.elapsed()]);
                    }
                }
                (pairs, times)
            })
        });
        let done = futures::future::join_all(working).await;
        stop.stop();
        serving.await.expect("it ends");
        let done: Vec<_> = done.into_iter().map(|done| done.expect("no panic")).collect();
        let pairs: u64 = done.iter().map(|(pairs, _)| pairs).sum();
        (pairs, sorted(done.into_iter().flat_map(|(_, times)| times)))
    });
    println!(
        "coordinator: {name} {clients} clients {:.0} pairs/s, p50 {:.2} ms, p99 {:.2} ms",
        pairs as f64 / LENGTH.as_secs_f64(),
        at(&times, 50),
        at(&times, 99)
    );
}

/// Writes a million finished windows, as years of work leave them.
fn fill(path: &Path) {
    let mut file = rusqlite::Connection::open(path).expect("the file");
    let change = file.transaction().expect("its lock");
    {
        let mut insert = change
            .prepare(
                "insert into leases values (?1, ?2, ?3, 'done', 1700000000000000, 1700000000000000, 1700000000000000, \
                 'worker-42', ?3, 0, 1.0, 0.0, 0, null)",
            )
            .expect("its table");
        for number in 0..KNOWN {
            let fence = i64::try_from(number + 1).expect("a million");
            insert
                .execute(rusqlite::params![key(number), fence, format!("{fence:x}-0123456789abcdef")])
                .expect("room");
        }
    }
    let numbers = format!("update numbers set value = {KNOWN} where name in ('fence', 'keys')");
    change.execute(&numbers, []).expect("its numbers");
    change.commit().expect("room");
}
