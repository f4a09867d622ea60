//! The store in a file.

use std::time::Duration;

use qmtl_backfill::lease::{BackfillCoordinator, Command, Policy, Query, Reply, State};
use qmtl_coordinator::{EmbeddedStore, LeaseStore};
use qmtl_history_api::{ErrorKind, Timestamp};
use qmtl_history_testkit::fixtures::ManualClock;

use crate::suite;

#[tokio::test]
async fn it_holds() {
    let folder = tempfile::tempdir().unwrap();
    suite::run(EmbeddedStore::open(folder.path().join("a/b/leases.db"), suite::policy()).unwrap()).await;
}

fn claim(secs: u64) -> Command {
    Command::Claim { ttl: Duration::from_secs(secs), worker: Some("w".into()), request_id: None }
}

async fn granted(store: &EmbeddedStore, key: &str, secs: u64) -> (u64, String) {
    match store.apply(key, claim(secs)).await.unwrap() {
        Reply::Granted(grant) => (grant.fence, grant.token),
        other => panic!("{other:?}"),
    }
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs).unwrap()
}

#[tokio::test]
async fn leases_outlive_the_process_and_its_clock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.db");
    let open = |clock: &ManualClock| EmbeddedStore::open_with_clock(&path, Policy::default(), clock.clone());
    let clock = ManualClock::new(at(1_000_000));
    let store = open(&clock).unwrap();
    let (fence, token) = granted(&store, "k", 100).await;
    // A clock that is set tells nothing about how much time has passed.
    clock.set(at(5_000_000));
    assert!(matches!(store.apply("k", claim(100)).await.unwrap(), Reply::Refused(_)));
    let second = open(&clock).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Unavailable, "{second}");
    drop(store);
    // Even one that was set back before the start.
    let clock = ManualClock::new(at(10));
    let store = open(&clock).unwrap();
    assert!(matches!(store.apply("k", claim(100)).await.unwrap(), Reply::Refused(_)));
    assert!(granted(&store, "other", 100).await.0 > fence);
    clock.advance(Duration::from_secs(100));
    assert!(granted(&store, "k", 100).await.0 > fence);
    let complete = Command::Complete { token, missing: 0, ratio: 1.0, retry_after: Duration::ZERO };
    assert_eq!(store.apply("k", complete).await.unwrap(), Reply::Stale);
}

#[tokio::test]
async fn pages_tell_failures_from_pauses() {
    let folder = tempfile::tempdir().unwrap();
    let (path, clock) = (folder.path().join("leases.db"), ManualClock::new(at(1_000_000)));
    let store = EmbeddedStore::open_with_clock(&path, suite::policy(), clock).unwrap();
    suite::fail_and_pause(&store).await;
    suite::pages_tell_failures_from_pauses(&store).await;
}

#[tokio::test]
async fn keys_are_counted_and_the_old_ones_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.db");
    let clock = ManualClock::new(at(1_000_000));
    let open = || EmbeddedStore::open_with_clock(&path, Policy::default(), clock.clone()).unwrap();
    let store = open();
    for number in 0..50 {
        let key = format!("k{number:02}");
        let (_, token) = granted(&store, &key, if number < 2 { 5 } else { 600 }).await;
        let command = match number {
            0..5 => continue,
            5..10 => Command::Fail { token, reason: "r".into(), ratio: None },
            10..15 => Command::Release { token, reason: "r".into(), ratio: None },
            _ => Command::Complete { token, missing: 0, ratio: 1.0, retry_after: Duration::ZERO },
        };
        store.apply(&key, command).await.unwrap();
    }
    clock.advance(Duration::from_secs(10));
    let wanted =
        [(State::Expired, 2), (State::Held, 3), (State::Failed, 5), (State::Released, 5), (State::Done, 35)];
    let counted = async |store: &EmbeddedStore| {
        let counts = store.counts().await.unwrap();
        counts.into_iter().filter(|(_, keys)| *keys > 0).collect::<Vec<_>>()
    };
    let sorted = |mut counts: Vec<(State, u64)>| {
        counts.sort_by_key(|(state, _)| state.as_str());
        counts
    };
    assert_eq!(sorted(counted(&store).await), sorted(wanted.to_vec()));
    drop(store);
    let store = open();
    assert_eq!(sorted(counted(&store).await), sorted(wanted.to_vec()), "also after it was opened again");
    assert_eq!(store.forget(at(1_000_000)).await.unwrap(), 0);
    assert_eq!(store.forget(at(1_000_005)).await.unwrap(), 40, "what is done or given back");
    assert_eq!(store.inspect(&Query::new("k")).await.unwrap().leases.len(), 10);
    assert_eq!(sorted(counted(&store).await), sorted(wanted[..3].to_vec()));
}

/// What is written to a file that was deleted, or to one that was never there, is lost: nothing is granted then.
#[tokio::test]
async fn a_lease_is_granted_only_where_it_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.db");
    let store = EmbeddedStore::open(&path, Policy::default()).unwrap();
    granted(&store, "k", 600).await;
    store.close().await.unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let copied = EmbeddedStore::open(&copy, Policy::default()).unwrap();
    assert_eq!(copied.inspect(&Query::new("k")).await.unwrap().leases.len(), 1, "one file has all of it");
    #[cfg(unix)]
    {
        std::fs::rename(&copy, &path).unwrap();
        let error = store.apply("l", claim(1)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("replaced"), "{error:?}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(store.counts().await.unwrap_err().kind(), ErrorKind::Storage);
    }
    assert_eq!(EmbeddedStore::open("", Policy::default()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let named = folder.path().join(":memory:");
    let store = EmbeddedStore::open(&named, Policy::default()).unwrap();
    granted(&store, "k", 600).await;
    drop(store);
    let store = EmbeddedStore::open(&named, Policy::default()).unwrap();
    assert_eq!(store.inspect(&Query::new("k")).await.unwrap().leases.len(), 1);
}

#[tokio::test]
async fn what_is_no_lease_store_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.db");
    let open = || EmbeddedStore::open(&path, Policy::default());
    std::fs::write(&path, "key,token\n").unwrap();
    let error = open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("leases.db"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let store = open().unwrap();
    for number in 0..400 {
        granted(&store, &format!("key-of-a-window-{number}"), 600).await;
    }
    drop(store);
    // Damage behind the first page, as a disk does it.
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 40_000, "{}", bytes.len());
    bytes[4_096..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let error = match open() {
        Ok(store) => store.apply("key-of-a-window-7", claim(1)).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(EmbeddedStore::open(folder.path(), Policy::default()).unwrap_err().kind(), ErrorKind::Storage);
}
