//! Tables of the Python original: integer seconds, no keys, no WAL.

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array};
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, OnConflict, ReadRequest, TimeRange, WriteRequest,
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
