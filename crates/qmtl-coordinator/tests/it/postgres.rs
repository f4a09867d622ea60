//! The store in a PostgreSQL database.

use std::collections::BTreeSet;
use std::time::Duration;

use qmtl_backfill::lease::{BackfillCoordinator, Command, Policy, Reply};
use qmtl_coordinator::{LeaseStore, PostgresStore};
use qmtl_history_api::{ErrorKind, Timestamp};
use qmtl_history_testkit::harness::number;
use qmtl_history_testkit::postgres::Cluster;

use crate::suite;

fn cluster() -> Option<Cluster> {
    Some(Cluster::start()?.unwrap())
}

fn claim() -> Command {
    Command::Claim { ttl: Duration::from_secs(600), worker: Some("w".into()), request_id: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.create("leases").unwrap();
    suite::run(PostgresStore::connect(&url, suite::policy()).await.unwrap()).await;
    let counts = PostgresStore::connect(&url, suite::policy()).await.unwrap().counts().await.unwrap();
    assert!(counts.iter().any(|(state, keys)| state.as_str() == "held" && *keys > 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tell_failures_from_pauses() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.create("leases").unwrap();
    let store = PostgresStore::connect(&url, suite::policy()).await.unwrap();
    suite::fail_and_pause(&store).await;
    // A pause of a second may be over before it is listed.
    let sql = "update qmtl_leases set until_us = until_us + 3600000000 where attempts = 2";
    cluster.execute("leases", sql).unwrap();
    suite::pages_tell_failures_from_pauses(&store).await;
}

/// Two servers that start together make the tables once, and grant no key twice.
#[tokio::test(flavor = "multi_thread")]
async fn several_servers_share_a_database() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.create("leases").unwrap();
    let connects = (0..4).map(|_| PostgresStore::connect(&url, Policy::default()));
    let stores = futures::future::try_join_all(connects).await.unwrap();
    for round in 0..20 {
        let key = format!("k{round}");
        let claims = stores.iter().map(|store| store.apply(&key, claim()));
        let replies = futures::future::try_join_all(claims).await.unwrap();
        let grants = replies.iter().filter(|reply| matches!(reply, Reply::Granted(_))).count();
        assert_eq!(grants, 1, "{replies:?}");
    }
    let forgotten = stores[0].forget(Timestamp::MAX).await.unwrap();
    assert_eq!(forgotten, 0, "what is held is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_cannot_do_is_told() {
    let Some(mut cluster) = cluster() else { return };
    for (url, kind) in [
        ("postgres://", ErrorKind::InvalidInput),
        ("postgres://host/db", ErrorKind::InvalidInput),
        ("mysql://canary", ErrorKind::InvalidInput),
        (&cluster.url("nothing"), ErrorKind::Unavailable),
        ("postgres://qmtl:canary@127.0.0.1:1/db", ErrorKind::Unavailable),
    ] {
        let error = PostgresStore::connect(url, Policy::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}: {}", error.chain());
        assert!(!error.chain().contains("canary"), "{}", error.chain());
    }
    let url = cluster.create("leases").unwrap();
    let store = PostgresStore::connect(&url, Policy::default()).await.unwrap();
    let Reply::Granted(grant) = store.apply("k", claim()).await.unwrap() else { panic!() };
    // A server that was killed and came back knows what it said before, and is used again.
    cluster.kill();
    let error = store.apply("k", claim()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{}", error.chain());
    cluster.restart().unwrap();
    let mut reply = store.apply("k", claim()).await;
    for _ in 0..20 {
        if reply.is_ok() {
            break;
        }
        reply = store.apply("k", claim()).await;
    }
    assert!(matches!(reply, Ok(Reply::Refused(_))), "{reply:?}");
    // Read-only, then of a newer version.
    cluster.execute("leases", "alter database leases set default_transaction_read_only = on").unwrap();
    let error = PostgresStore::connect(&url, Policy::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{}", error.chain());
    cluster.execute("postgres", "alter database leases set default_transaction_read_only = off").unwrap();
    cluster.execute("leases", "update qmtl_lease_version set version = 99").unwrap();
    let error = PostgresStore::connect(&url, Policy::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    let (token, retry_after) = (grant.token, Duration::ZERO);
    let complete = Command::Complete { token, missing: 0, ratio: 1.0, retry_after };
    assert!(matches!(store.apply("k", complete).await, Ok(Reply::Ended { .. })), "servers that run go on");
    cluster.execute("leases", "drop table qmtl_leases").unwrap();
    let error = store.apply("k", claim()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
}

/// A server process that hangs is given up, and others are asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.create("leases").unwrap();
    let store = PostgresStore::connect(&url, Policy::default()).await.unwrap();
    store.apply("k", claim()).await.unwrap();
    let sql = "select pid from pg_stat_activity where application_name = 'qmtl-coordinator'";
    let pids = cluster.execute("leases", sql).unwrap();
    let signal = |name: &str| {
        let kill = std::process::Command::new("kill").arg(name).args(pids.lines()).status();
        assert!(kill.unwrap().success());
    };
    signal("-STOP");
    let error = store.apply("l", claim()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{}", error.chain());
    let reply = store.apply("l", claim()).await;
    assert!(matches!(reply, Ok(Reply::Granted(_))), "by another process of the server: {reply:?}");
    signal("-CONT");
}

/// A database that is killed at any moment has lost nothing that was acknowledged, and the server goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_when_the_database_is_killed() {
    let Some(mut cluster) = cluster() else { return };
    let rounds = number("QMTL_SOAK_ROUNDS").map_or(5, |rounds| usize::try_from(rounds).unwrap());
    let url = cluster.create("leases").unwrap();
    let store = std::sync::Arc::new(PostgresStore::connect(&url, Policy::default()).await.unwrap());
    let mut known: Vec<(String, String, bool)> = Vec::new();
    for round in 0..rounds {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let store = std::sync::Arc::clone(&store);
                tokio::spawn(async move {
                    let mut known = Vec::new();
                    for number in 0.. {
                        let key = format!("{round}:{client}:{number}");
                        let Ok(Reply::Granted(grant)) = store.apply(&key, claim()).await else { break };
                        let (token, retry_after) = (grant.token.clone(), Duration::ZERO);
                        let complete = Command::Complete { token, missing: 0, ratio: 1.0, retry_after };
                        let done = store.apply(&key, complete).await;
                        known.push((key, grant.token, done.is_ok()));
                        if done.is_err() {
                            break;
                        }
                    }
                    known
                })
            })
            .collect();
        tokio::time::timeout(Duration::from_millis(100 + fastrand::u64(..300)), std::future::pending::<()>())
            .await
            .unwrap_err();
        cluster.kill();
        cluster.restart().unwrap();
        for client in clients {
            known.extend(client.await.unwrap());
        }
        let sql = "select convert_from(key, 'UTF8') || ' ' || token || ' ' || status from qmtl_leases";
        let stands = cluster.execute("leases", sql).unwrap();
        let stands: BTreeSet<_> = stands.lines().collect();
        for (key, token, is_done) in &known {
            let is = |status: &str| stands.contains(format!("{key} {token} {status}").as_str());
            assert!(is("done") || (!is_done && is("held")), "{key} {token}");
        }
    }
    let done = known.iter().filter(|(_, _, is_done)| *is_done).count();
    println!("figure: kills of PostgreSQL = {rounds}");
    println!("figure: acknowledged completions in PostgreSQL, none lost = {done}");
    assert!(done > 20 * rounds, "{done}");
}
