//! The log of proofs: what is revoked, what older builds wrote, what a wrong clock dated.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    Clock, EmptyProof, HistoryBackend, Maintenance, RangeSet, SeriesKey, TimeRange, WriteRequest, frame,
};
use qmtl_history_testkit::fixtures::{ManualClock, bar, bars, key, proof, source, span};
use qmtl_io_questdb::{QuestDbBackend, QuestDbConfig};

use crate::server::{client, connect, fresh_dsn, number};

async fn prove(backend: &QuestDbBackend, key: &SeriesKey, proof: EmptyProof) {
    let nothing = RecordBatch::new_empty(frame::ts_only_schema());
    backend.write_rows(&WriteRequest::new(key.clone()).with_empty(proof), nothing).await.unwrap();
}

async fn known(backend: &QuestDbBackend, key: &SeriesKey) -> Vec<EmptyProof> {
    backend.coverage(key, TimeRange::ALL).await.unwrap().known_empty().to_vec()
}

/// The table of proofs of the store at this address.
fn table(dsn: &str) -> String {
    let (_, prefix) = dsn.split_once("prefix=").unwrap();
    format!("{prefix}qmtl_known_empty")
}

#[tokio::test]
async fn forgotten_proofs_are_gone_for_every_handle_and_come_back_when_proven_again() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, other) = (connect(&dsn).await, connect(&dsn).await);
    let key = key("BTC", "1m");
    assert_eq!(backend.forget_empty(&key, TimeRange::ALL, None, false).await.unwrap().empty_bars, 0);
    assert_eq!(backend.revision(&key).await.unwrap(), None, "to forget nothing makes no series");

    let given = [
        proof("a", span(&key, 0, 10), bar(&key, 50)),
        proof("b", span(&key, 0, 10), bar(&key, 50)),
        proof("f#1", span(&key, 0, 10), bar(&key, 50)),
    ];
    for proof in &given {
        prove(&backend, &key, proof.clone()).await;
    }
    backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 9), 1)).await.unwrap();
    let before = other.revision(&key).await.unwrap();
    // Bars are forgotten whole, wherever between two of them the range begins and ends.
    let moved = |index| bar(&key, index).checked_add_micros(-1).unwrap();
    let some = TimeRange::new(moved(5), moved(30)).unwrap();
    assert_eq!(backend.forget_empty(&key, some, Some(&source("a")), true).await.unwrap().empty_bars, 4);
    assert_eq!(other.revision(&key).await.unwrap(), before, "a dry run changes nothing");
    assert_eq!(backend.forget_empty(&key, some, Some(&source("a")), false).await.unwrap().empty_bars, 4);
    assert_ne!(other.revision(&key).await.unwrap(), before);
    let all = RangeSet::from(span(&key, 0, 9));
    let left = [given[0].about(span(&key, 0, 5).into()), given[1].about(all.clone()), given[2].about(all)];
    for handle in [&backend, &other] {
        assert_eq!(known(handle, &key).await, left);
    }
    let after = other.revision(&key).await.unwrap();
    assert_eq!(backend.forget_empty(&key, some, Some(&source("a")), false).await.unwrap().empty_bars, 0);
    assert_eq!(other.revision(&key).await.unwrap(), after, "the same again changes nothing");

    // A source is named without its version, or none is.
    assert_eq!(
        other.forget_empty(&key, TimeRange::ALL, Some(&source("f#2")), false).await.unwrap().empty_bars,
        9
    );
    assert_eq!(known(&backend, &key).await, left[..2]);
    assert_eq!(other.forget_empty(&key, TimeRange::ALL, None, false).await.unwrap().empty_bars, 5 + 9);
    assert_eq!(known(&backend, &key).await, []);
    // The very same answer counts when it is given again.
    prove(&other, &key, given[1].clone()).await;
    assert_eq!(known(&backend, &key).await, left[1..2]);
}

#[tokio::test]
async fn what_is_written_counts_after_what_was_there_whatever_clocks_say() {
    let Some(dsn) = fresh_dsn() else { return };
    let key = key("BTC", "1m");
    let honest = ManualClock::new(bar(&key, 100));
    let wrong = ManualClock::new(bar(&key, 100 + 20 * 1_440));
    let open = async |clock: &ManualClock| {
        let config = QuestDbConfig::from_dsn(&dsn).unwrap();
        QuestDbBackend::connect(config).await.unwrap().with_clock(clock.clone())
    };
    let (ahead, right) = (open(&wrong).await, open(&honest).await);
    prove(&ahead, &key, proof("a", span(&key, 0, 10), wrong.now())).await;
    let answer = proof("a", span(&key, 0, 10), honest.now());
    prove(&right, &key, answer.clone()).await;
    assert_eq!(known(&right, &key).await, [answer]);
    ahead.forget_empty(&key, TimeRange::ALL, None, false).await.unwrap();
    let later = proof("a", span(&key, 0, 10), bar(&key, 101));
    prove(&right, &key, later.clone()).await;
    assert_eq!(known(&right, &key).await, [later]);
}

#[tokio::test]
async fn a_table_of_an_older_build_is_read_as_it_is_and_widened_by_the_first_write() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let (key, table) = (key("BTC", "1m"), table(&dsn));
    client
        .batch_execute(&format!(
            "CREATE TABLE \"{table}\" (ts TIMESTAMP, node_id SYMBOL, interval LONG, source VARCHAR, \
             reason VARCHAR, range_start LONG, range_end LONG, written LONG) \
             TIMESTAMP(ts) PARTITION BY YEAR WAL \
             DEDUP UPSERT KEYS(ts, node_id, interval, source, reason, range_start, range_end)"
        ))
        .await
        .unwrap();
    let older = proof("a", span(&key, 0, 10), bar(&key, 50)).with_rule(1);
    let insert = async |written: i64| {
        let sql = format!(
            "insert into \"{table}\" (ts, node_id, interval, source, reason, range_start, range_end, written) \
             values ({}, 'BTC', 60, 'a', '{}', {}, {}, {written})",
            older.answered_at.as_micros(),
            older.reason,
            bar(&key, 0).as_micros(),
            bar(&key, 10).as_micros()
        );
        client.batch_execute(&sql).await.unwrap();
        client.query_one(&format!("select wait_wal_table('{table}')"), &[]).await.unwrap();
    };
    insert(7).await;
    assert_eq!(known(&backend, &key).await, std::slice::from_ref(&older));
    assert!(backend.revision(&key).await.unwrap().is_some());
    let columns = format!("select count() from table_columns('{table}')");
    assert_eq!(number(&client, &columns).await, 8, "to look changes nothing");

    // The same answer by another rule stands beside it, and counts before it.
    let newer = older.about(span(&key, 0, 5).into()).with_rule(EmptyProof::RULE);
    prove(&backend, &key, newer.clone()).await;
    let expected = [older.about(span(&key, 5, 10).into()), newer];
    assert_eq!(known(&backend, &key).await, expected);
    assert_eq!(number(&client, &columns).await, 10);
    // An older build passes over what revokes, whose range runs backwards, and goes on writing.
    assert_eq!(backend.forget_empty(&key, TimeRange::ALL, None, false).await.unwrap().empty_bars, 10);
    assert_eq!(known(&backend, &key).await, []);
    let backwards = format!("select count() from \"{table}\" where range_start > range_end");
    assert_eq!(number(&client, &backwards).await, 1);
    insert(i64::MAX).await;
    assert_eq!(known(&backend, &key).await, [older]);
}
