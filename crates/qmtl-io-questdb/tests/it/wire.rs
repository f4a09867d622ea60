//! What QuestDB's dialect does that a client must know, and that ours lives with it.

use std::sync::Arc;

use futures::future::join_all;
use qmtl_history_api::arrow_array::{Array, ArrayRef, Float64Array, StringArray};
use qmtl_history_api::{HistoryBackend, HistoryBackendExt, OnConflict, ReadRequest, TimeRange, WriteRequest};
use qmtl_history_testkit::fixtures::{bar, bars, batch, key, span};
use tokio_postgres::types::Type;

use crate::server::{client, connect, fresh_dsn, number};

#[tokio::test]
async fn start_transaction_is_no_statement_and_begin_is_one() {
    let Some(dsn) = fresh_dsn() else { return };
    let mut client = client(&dsn).await;
    assert!(client.transaction().await.is_err(), "it sends START TRANSACTION");
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
}

/// What a client of PostgreSQL would lean on: codes of errors, its own deadline, types that a cast
/// tells, rows that can be deleted.
#[tokio::test]
async fn what_the_dialect_lacks_is_not_leaned_on() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 10)).await.unwrap();
    let table = backend.table_of(&key.node_id);
    for refused in [format!("delete from \"{table}\""), "select * from nowhere".into(), "selec 1".into()] {
        let error = client.batch_execute(&refused).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "00000", "{refused}");
    }
    client.batch_execute("set statement_timeout = 1").await.unwrap();
    let long = "select count() from long_sequence(100000000) where x % 7 = 3";
    assert_eq!(number(&client, long).await, 14_285_714, "it takes longer than a millisecond");
    let cast = format!("select ts from \"{table}\" where ts >= $1::timestamp");
    assert_eq!(client.prepare(&cast).await.unwrap().params(), [Type::FLOAT8]);
    let typed = client.prepare_typed(&cast.replace("::timestamp", ""), &[Type::TIMESTAMP]).await.unwrap();
    assert_eq!(typed.params(), [Type::TIMESTAMP]);
    assert!(
        backend.coverage(&key, TimeRange::ALL).await.unwrap().present().contains_range(span(&key, 0, 10))
    );
}

/// The server takes names that differ by case for one table: what stands in a row tells its node.
#[tokio::test]
async fn case_tells_node_ids_apart() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let nodes = ["BTC", "btc", "Btc"].map(|id| key(id, "1m"));
    let rows = |at: u32| bars(&nodes[0], bar(&nodes[0], at), 10 + usize::try_from(at).unwrap());
    for (index, key) in (0..).zip(&nodes) {
        backend.write_rows(&WriteRequest::new(key.clone()), rows(index)).await.unwrap();
    }
    for (index, key) in (0..).zip(&nodes) {
        let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(read, rows(index), "{key}");
    }
    let shouted = backend.table_of(&nodes[1].node_id).to_uppercase();
    assert_eq!(number(&client, &format!("select count() from \"{shouted}\"")).await, 10 + 11 + 12);
    assert_eq!(backend.list_series().await.unwrap().len(), 3);
}

/// A name of 127 é is accepted, and there is no such table afterwards: no name of ours is like that.
#[tokio::test]
async fn a_long_name_makes_no_table_and_a_long_node_id_has_one() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let id = "é".repeat(127);
    let create = format!(
        "create table if not exists \"{id}\" (ts timestamp, v long) timestamp(ts) partition by day wal"
    );
    client.batch_execute(&create).await.unwrap();
    assert!(client.batch_execute(&format!("select count() from \"{id}\"")).await.is_err());
    for id in [id, "a".repeat(1_000), "blake3:".repeat(20)] {
        let key = key(&id, "1m");
        let table = backend.table_of(&key.node_id);
        assert!(table.is_ascii() && table.len() < 127, "{table}");
        backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 3)).await.unwrap();
        assert_eq!(number(&client, &format!("select count() from \"{table}\"")).await, 3);
        let present = backend.coverage(&key, TimeRange::ALL).await.unwrap();
        assert_eq!(present.present(), &span(&key, 0, 3).into());
    }
}

#[tokio::test]
async fn names_are_refused_even_when_quoted_and_node_ids_are_not() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let names = "/\\:?,'()+*%~\u{1}".chars().map(|c| format!("x{c}y")).chain([".x".into(), "x.".into()]);
    for (index, name) in (0..).zip(names) {
        assert!(
            client.batch_execute(&format!("create table \"{name}\" (ts timestamp)")).await.is_err(),
            "{name:?}"
        );
        let key = key(&name, "1m");
        backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, index), 1)).await.unwrap();
        let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(read, bars(&key, bar(&key, index), 1), "{name:?}");
    }
}

/// Issue 7201 of QuestDB, fixed after 9.3.4: a count of groups with a condition is wrong. Ours are
/// counted over rows alone.
#[tokio::test]
async fn a_count_over_groups_cannot_be_believed_and_ours_can() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 5_000)).await.unwrap();
    let table = backend.table_of(&key.node_id);
    let groups = format!("(select ts, count() n from \"{table}\" sample by 1d) where n < 1440");
    let counted = number(&client, &format!("select count() from {groups}")).await;
    let listed = client.query(&format!("select ts, n from {groups}"), &[]).await.unwrap();
    assert_ne!(usize::try_from(counted).unwrap(), listed.len(), "QuestDB has mended issue 7201");
    let present = backend.coverage(&key, TimeRange::ALL).await.unwrap();
    assert_eq!(present.present(), &span(&key, 0, 5_000).into());
}

/// `select *` of a prepared statement fails once the table has another column; ours name theirs.
#[tokio::test]
async fn statements_outlive_a_new_column() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let rows = bars(&key, bar(&key, 0), 10);
    backend.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap();
    let table = backend.table_of(&key.node_id);
    let star = client.prepare(&format!("select * from \"{table}\"")).await.unwrap();
    let read = async || backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!(read().await, rows);
    client.batch_execute(&format!("alter table \"{table}\" add column vwap double")).await.unwrap();
    client.query_one(&format!("select wait_wal_table('{table}')"), &[]).await.unwrap();
    assert!(client.query(&star, &[]).await.is_err());
    let wider = read().await;
    assert_eq!((wider.num_columns(), wider.num_rows()), (rows.num_columns() + 1, 10));
    assert_eq!(wider.project(&(0..rows.num_columns()).collect::<Vec<_>>()).unwrap(), rows);
}

/// The server's upsert nulls what a row does not have, and the last one wins: keeping rows is ours to do.
#[tokio::test]
async fn replacing_takes_the_whole_row_and_keeping_leaves_it() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let key = key("BTC", "1m");
    let column = |value| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
    let wide = batch(&[bar(&key, 0)], [("close", column(1.0)), ("volume", column(2.0))]);
    let narrow = batch(&[bar(&key, 0)], [("close", column(3.0))]);
    let request = WriteRequest::new(key.clone());
    backend.write_rows(&request, wide.clone()).await.unwrap();
    let read = async || backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!(backend.write_rows(&request, narrow.clone()).await.unwrap().rows_kept_out, 1);
    assert_eq!(read().await, wide);
    backend.write_rows(&request.with_on_conflict(OnConflict::Replace), narrow).await.unwrap();
    let replaced = read().await;
    assert_eq!((replaced.column(1).as_ref(), replaced.column(2).null_count()), (column(3.0).as_ref(), 1));
}

#[tokio::test]
async fn texts_stay_what_they_are() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let texts = [
        "'; drop table x; --",
        "\" or \"1\"=\"1",
        "a,b=c d\nevil,node_id=x close=1 0",
        "\\\\\" \t\r\n",
        "🦀 é \u{202e}",
        "",
    ];
    let points: Vec<_> = (0..).map(|index| bar(&key, index)).take(texts.len()).collect();
    let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let rows = batch(&points, [("note", column)]);
    backend.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap();
    assert_eq!(backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap(), rows);
    let table = backend.table_of(&key.node_id);
    assert_eq!(number(&client, &format!("select count() from \"{table}\"")).await, 6);
}

/// What is asked side by side waits for nobody who waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_enough() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&format!("{dsn}&connections=1&timeout=20")).await;
    let key = key("BTC", "1m");
    let rows = bars(&key, bar(&key, 0), 300);
    backend.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap();
    let request = ReadRequest::new(key.clone(), span(&key, 0, 300));
    for reads in [1, 2, 9] {
        for read in join_all((0..reads).map(|_| backend.read_all(&request))).await {
            assert_eq!(read.unwrap(), rows);
        }
        let coverage = backend.coverage(&key, TimeRange::ALL).await.unwrap();
        assert_eq!(coverage.present(), &span(&key, 0, 300).into());
    }
}
