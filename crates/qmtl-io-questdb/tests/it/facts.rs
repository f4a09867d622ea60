//! What QuestDB does that a client must know, and what we make of it. Each was measured first.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, OnConflict, ReadRequest, TimeRange, WriteRequest,
};
use qmtl_history_testkit::fixtures::{bar, bars, batch, key, span};

use crate::server::{client, connect, fresh_dsn, number};

#[tokio::test]
async fn a_suspended_table_is_an_error_with_its_remedy_and_nothing_is_lost() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let write =
        async |from, count| backend.write_rows(&request(&key), bars(&key, bar(&key, from), count)).await;
    write(0, 10).await.unwrap();
    let table = backend.table_of(&key.node_id);
    client.batch_execute(&format!("ALTER TABLE \"{table}\" SUSPEND WAL")).await.unwrap();
    let error = write(10, 10).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Storage, false), "{error:?}");
    assert!(error.to_string().contains(&format!("ALTER TABLE \"{table}\" RESUME WAL")), "{error}");
    client.batch_execute(&format!("ALTER TABLE \"{table}\" RESUME WAL")).await.unwrap();
    let receipt = write(0, 20).await.unwrap();
    assert_eq!(receipt.rows_written + receipt.rows_kept_out, 20);
    assert_eq!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present(), &span(&key, 0, 20).into());
}

#[tokio::test]
async fn a_plain_client_sees_the_rows_under_the_node_id() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("ohlcv:binance:BTC/USDT:1m", "1m");
    backend.write_rows(&request(&key), bars(&key, bar(&key, 0), 100)).await.unwrap();
    let table = backend.table_of(&key.node_id);
    let sql = format!(
        "select count() from \"{table}\" where node_id = 'ohlcv:binance:BTC/USDT:1m' and interval = 60"
    );
    assert_eq!(number(&client, &sql).await, 100);
    let sql = "select count() from table_columns('T') where upsertKey".replace('T', &table);
    assert_eq!(number(&client, &sql).await, 3, "the keys are ts, node_id and interval");
}

#[tokio::test]
async fn nan_is_refused_unless_null_is_asked_for_and_the_smallest_integer_always() {
    let Some(dsn) = fresh_dsn() else { return };
    let key = key("BTC", "1m");
    let points = [bar(&key, 0), bar(&key, 1)];
    let column: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 1.0]));
    let rows = batch(&points, [("close", column)]);
    let error = connect(&dsn).await.write_rows(&request(&key), rows.clone()).await.unwrap_err();
    assert!(error.to_string().contains("nan_as_null=true") && error.kind() == ErrorKind::Schema, "{error}");
    let lenient = connect(&format!("{dsn}&nan_as_null=true")).await;
    lenient.write_rows(&request(&key), rows).await.unwrap();
    let read = lenient.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!((read.column(1).null_count(), read.num_rows()), (1, 2));
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, i64::MIN]));
    let error = lenient.write_rows(&request(&key), batch(&points, [("trades", column)])).await.unwrap_err();
    assert!(error.to_string().contains("row: 1"), "{error}");
}

#[tokio::test]
async fn integers_are_stored_and_come_back() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let key = key("BTC", "1m");
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(-1)]));
    let rows = batch(&[bar(&key, 0), bar(&key, 1), bar(&key, 2)], [("trades", column)]);
    backend.write_rows(&request(&key), rows.clone()).await.unwrap();
    assert_eq!(backend.read_all(&ReadRequest::new(key, TimeRange::ALL)).await.unwrap(), rows);
}

#[tokio::test]
async fn columns_are_added_on_request_only() {
    let Some(dsn) = fresh_dsn() else { return };
    let key = key("BTC", "1m");
    let column = |name| {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        batch(&[bar(&key, 0)], [(name, values)])
    };
    let backend = connect(&dsn).await;
    backend.write_rows(&request(&key), column("close")).await.unwrap();
    let replace = request(&key).with_on_conflict(OnConflict::Replace);
    let error = backend.write_rows(&replace, column("vwap")).await.unwrap_err();
    assert!(error.to_string().contains("vwap") && error.to_string().contains("add_columns=true"), "{error}");
    let error = backend.write_rows(&replace, column("Close")).await.unwrap_err();
    assert!(error.to_string().contains("stored: close DOUBLE"), "{error}");
    connect(&format!("{dsn}&add_columns=true")).await.write_rows(&replace, column("vwap")).await.unwrap();
    let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!(read.schema().field(2).name(), "vwap");
}

/// Names, literals, values: whatever stands in them stays data, over the export too.
#[tokio::test]
async fn nothing_that_is_injected_runs() {
    let Some(dsn) = fresh_dsn() else { return };
    let (_, prefix) = dsn.split_once("prefix=").unwrap();
    let backend = connect(&dsn.replace(&format!("prefix={prefix}"), &format!("table={prefix}shared"))).await;
    let ids =
        ["x' or '1'='1", "x\"; drop table y; --", "x'; drop table y; --", "\\'", "'' union select 1 --"];
    let rows = 12_000;
    for (index, id) in (0..).zip(ids) {
        let key = key(id, "1m");
        backend.write_rows(&request(&key), bars(&key, bar(&key, index), rows)).await.unwrap();
    }
    for (index, id) in (0..).zip(ids) {
        let key = key(id, "1m");
        let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!(read, bars(&key, bar(&key, index), rows), "{id}");
        let present = backend.coverage(&key, TimeRange::ALL).await.unwrap();
        assert_eq!(present.present(), &span(&key, index, index + 12_000).into(), "{id}");
    }
    let key = key(ids[0], "1m");
    let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let rows = batch(&[bar(&key, 0)], [("x\"; drop table y; --", column)]);
    assert_eq!(backend.write_rows(&request(&key), rows).await.unwrap_err().kind(), ErrorKind::Schema);
    assert_eq!(backend.list_series().await.unwrap().len(), ids.len());
}

#[tokio::test]
async fn without_http_reads_go_over_the_wire_and_writes_say_what_is_missing() {
    let Some(dsn) = fresh_dsn() else { return };
    let key = key("BTC", "1m");
    let rows = bars(&key, bar(&key, 0), 30_000);
    connect(&dsn).await.write_rows(&request(&key), rows.clone()).await.unwrap();
    let (address, parameters) = dsn.split_once('?').unwrap();
    let (_, prefix) = parameters.split_once('&').unwrap();
    let deaf = connect(&format!("{address}?http=1&{prefix}")).await;
    let read = deaf.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!(read, rows);
    let error = deaf.write_rows(&request(&key), bars(&key, bar(&key, 40_000), 1)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("127.0.0.1:1"), "{error:?}");
}

#[tokio::test]
async fn a_table_that_would_hold_rows_twice_is_not_written() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let table = backend.table_of(&key.node_id);
    let sql = format!(
        "create table \"{table}\" (ts timestamp, node_id symbol, interval long, close double) \
         timestamp(ts) partition by day wal"
    );
    client.batch_execute(&sql).await.unwrap();
    let error = backend.write_rows(&request(&key), one(&key)).await.unwrap_err();
    assert!(error.to_string().contains("DEDUP ENABLE UPSERT KEYS(ts, node_id, interval)"), "{error}");
}

#[tokio::test]
async fn ten_thousand_gaps_are_found_over_either_way() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let key = key("BTC", "1s");
    // 120,000 rows are more than the server looks through, 60,000 are not.
    for (from, runs) in [(0_u32, 12_000_u32), (1_000_000, 6_000)] {
        let present: qmtl_history_api::RangeSet =
            (0..runs).map(|run| span(&key, from + run * 12, from + run * 12 + 10)).collect();
        let rows = qmtl_history_testkit::fixtures::sparse_bars(&key, &present);
        backend.write_rows(&request(&key), rows).await.unwrap();
        let range = span(&key, from, from + runs * 12);
        assert_eq!(backend.coverage(&key, range).await.unwrap().present(), &present);
    }
}

/// Three days of seconds, a partition each: what a handle has seen of them does not hide what others do.
#[tokio::test]
async fn what_changes_in_a_partition_is_seen_by_a_handle_that_looked_before() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, other, client) = (connect(&dsn).await, connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1s");
    const DAY: u32 = 86_400;
    let holes = [span(&key, 100, 200), span(&key, DAY + 5, DAY + 6)];
    let first: qmtl_history_api::RangeSet =
        qmtl_history_api::RangeSet::from(span(&key, 0, 3 * DAY)).difference(&holes.into_iter().collect());
    let rows =
        |ranges: qmtl_history_api::RangeSet| qmtl_history_testkit::fixtures::sparse_bars(&key, &ranges);
    backend.write_rows(&request(&key), rows(first.clone())).await.unwrap();
    let present = async || backend.coverage(&key, TimeRange::ALL).await.unwrap().present().clone();
    assert_eq!(present().await, first);
    assert_eq!(present().await, first, "from memory");
    other.write_rows(&request(&key), rows(holes[1].into())).await.unwrap();
    let second = first.union(&holes[1].into());
    assert_eq!(present().await, second);
    other.write_rows(&request(&key), rows(span(&key, 3 * DAY, 3 * DAY + 7).into())).await.unwrap();
    let third = second.union(&span(&key, 3 * DAY, 3 * DAY + 7).into());
    assert_eq!(present().await, third);
    let table = backend.table_of(&key.node_id);
    let drop = format!("ALTER TABLE \"{table}\" DROP PARTITION LIST '2024-01-02'");
    client.batch_execute(&drop).await.unwrap();
    client.query_one(&format!("select wait_wal_table('{table}')"), &[]).await.unwrap();
    assert_eq!(present().await, third.difference(&span(&key, DAY, 2 * DAY).into()));
}

/// Rows of another writer that stand off the grid are no bars, also right between bars.
#[tokio::test]
async fn rows_off_the_grid_are_no_coverage() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    backend.write_rows(&request(&key), bars(&key, bar(&key, 0), 10)).await.unwrap();
    let table = backend.table_of(&key.node_id);
    for micros in [bar(&key, 4).as_micros() + 5, bar(&key, 20).as_micros() - 1] {
        let sql = format!("insert into \"{table}\" (ts, node_id, interval) values ({micros}, 'BTC', 60)");
        client.batch_execute(&sql).await.unwrap();
    }
    client.query_one(&format!("select wait_wal_table('{table}')"), &[]).await.unwrap();
    let coverage = backend.coverage(&key, TimeRange::ALL).await.unwrap();
    assert_eq!(coverage.present(), &span(&key, 0, 10).into());
    let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    assert_eq!(read.num_rows(), 10);
}

fn request(key: &qmtl_history_api::SeriesKey) -> WriteRequest {
    WriteRequest::new(key.clone())
}

fn one(key: &qmtl_history_api::SeriesKey) -> RecordBatch {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    batch(&[bar(key, 0)], [("close", column)])
}
