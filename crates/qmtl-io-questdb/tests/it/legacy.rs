//! Tables of the Python original (integer seconds, no keys, no WAL) and of earlier builds, and times of before both.

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array};
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, OnConflict, RangeSet, ReadRequest, SeriesKey, TimeRange,
    Timestamp, WriteRequest,
};
use qmtl_history_testkit::fixtures::{bar, batch, key, span};
use std::sync::Arc;

use crate::server::{client, connect, fresh_dsn, number};

#[tokio::test]
async fn a_table_of_the_original_is_read_covered_and_written_on_request() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let table = backend.table_of(&key.node_id);
    client
        .batch_execute(&format!(
            "create table \"{table}\" (ts long, node_id string, interval int, close double)"
        ))
        .await
        .unwrap();
    // Out of order, one of them twice, one of another node, one of another interval.
    for (index, node, interval, close) in [
        (3, "BTC", 60, 3.0),
        (0, "BTC", 60, 0.5),
        (1, "BTC", 60, 1.0),
        (1, "BTC", 60, 1.0),
        (2, "ETH", 60, 9.0),
        (5, "BTC", 300, 9.0),
    ] {
        let ts = bar(&key, index).as_secs();
        let sql = format!("insert into \"{table}\" values ({ts}, '{node}', {interval}, {close})");
        client.batch_execute(&sql).await.unwrap();
    }
    let closes = async |backend: &qmtl_io_questdb::QuestDbBackend| {
        let rows = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        rows.column(1).as_primitive::<Float64Type>().values().to_vec()
    };
    assert_eq!(closes(&backend).await, [0.5, 1.0, 3.0]);
    let coverage = backend.coverage(&key, TimeRange::ALL).await.unwrap();
    assert_eq!(coverage.present(), &[span(&key, 0, 2), span(&key, 3, 4)].into_iter().collect());
    let before = backend.revision(&key).await.unwrap();
    assert!(before.is_some() && backend.list_series().await.unwrap().contains(&key));

    let column: ArrayRef = Arc::new(Float64Array::from(vec![7.0, 7.0]));
    let rows = batch(&[bar(&key, 1), bar(&key, 2)], [("close", column)]);
    let request = WriteRequest::new(key.clone());
    let error = backend.write_rows(&request, rows.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("allow_legacy=true"), "{error}");
    let allowed = connect(&format!("{dsn}&allow_legacy=true")).await;
    let receipt = allowed.write_rows(&request, rows.clone()).await.unwrap();
    assert_eq!((receipt.rows_written, receipt.rows_kept_out), (1, 1));
    assert_eq!(closes(&backend).await, [0.5, 1.0, 7.0, 3.0]);
    assert_ne!(backend.revision(&key).await.unwrap(), before);
    let replace = request.with_on_conflict(OnConflict::Replace);
    assert_eq!(allowed.write_rows(&replace, rows).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(number(&client, &format!("select count() from \"{table}\"")).await, 7);
}

/// A table as builds made it before intervals had a phase: the column holds seconds and nothing else.
#[tokio::test]
async fn a_table_of_the_build_without_phases_keeps_its_series_and_takes_phases_beside_them() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let (minute, day, late) = (key("BTC", "1m"), key("BTC", "1d"), key("BTC", "1d+16h"));
    let table = backend.table_of(&minute.node_id);
    let statements = format!(
        "CREATE TABLE \"{table}\" (ts TIMESTAMP, node_id SYMBOL CAPACITY 256, interval LONG, close DOUBLE) \
         TIMESTAMP(ts) PARTITION BY MONTH WAL DEDUP UPSERT KEYS(ts, node_id, interval)"
    );
    client.batch_execute(&statements).await.unwrap();
    for (key, index) in [(&minute, 0), (&minute, 1), (&minute, 5), (&day, 0), (&day, 2)] {
        let (ts, secs) = (bar(key, index), key.interval.as_secs());
        let sql = format!("insert into \"{table}\" values ('{ts}', 'BTC', {secs}, {index})");
        client.batch_execute(&sql).await.unwrap();
    }
    // Asked for itself: the server leaves out what nobody reads.
    client.query_one(&format!("select wait_wal_table('{table}')"), &[]).await.unwrap();

    let series = async || backend.list_series().await.unwrap();
    assert_eq!(series().await, [minute.clone(), day.clone()]);
    let present =
        async |key: &SeriesKey| backend.coverage(key, TimeRange::ALL).await.unwrap().present().clone();
    let of_minute = [span(&minute, 0, 2), span(&minute, 5, 6)].into_iter().collect();
    let of_day = [span(&day, 0, 1), span(&day, 2, 3)].into_iter().collect();
    assert_eq!(
        (present(&minute).await, present(&day).await),
        (RangeSet::clone(&of_minute), RangeSet::clone(&of_day))
    );

    let column: ArrayRef = Arc::new(Float64Array::from(vec![7.0, 8.0]));
    let rows = batch(&[bar(&late, 0), bar(&late, 1)], [("close", column)]);
    backend.write_rows(&WriteRequest::new(late.clone()), rows).await.unwrap();
    assert_eq!(series().await, [minute.clone(), day.clone(), late.clone()]);
    assert_eq!((present(&minute).await, present(&day).await), (of_minute, of_day), "nothing moved");
    assert_eq!(present(&late).await, span(&late, 0, 2).into());
    let stored = format!("select interval from \"{table}\" order by interval desc limit 1");
    assert_eq!(number(&client, &stored).await, 86_400 + (57_600 << 32));
}

#[tokio::test]
async fn a_bar_before_1970_is_refused_whole_with_the_time_that_cannot_be_held() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, key) = (connect(&dsn).await, key("IBM", "1d"));
    let opens = |text: &str| text.parse::<Timestamp>().unwrap();
    let column: ArrayRef = Arc::new(Float64Array::from(vec![571.0, 577.0]));
    let rows = batch(&[opens("1962-01-02"), opens("2024-01-02")], [("close", column)]);
    let error = backend.write_rows(&WriteRequest::new(key.clone()), rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("IBM@1d") && error.to_string().contains("1962-01-02"), "{error}");
    assert!(backend.list_series().await.unwrap().is_empty());
}
