//! The recorder: bars and events, order, back-pressure, what is buffered.

use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{
    ErrorKind, EventRecorder, EventSource, HistoryBackend, HistoryBackendExt, ReadRequest, StreamBinding,
    TimeRange,
};
use qmtl_history_testkit::fixtures::{bar, key, span};
use qmtl_io_questdb::{QuestDbRecorder, RecorderConfig};

use crate::server::{client, connect, fresh_dsn, number};

fn payload(close: f64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("close", DataType::Float64, true)]));
    RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![close]))]).unwrap()
}

#[tokio::test]
async fn bars_become_the_series_and_its_coverage() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let recorder = QuestDbRecorder::with_config(&backend, RecorderConfig::default().with_sizes(1_000, 3_000));
    let key = key("blake3:9f/BTC", "1s");
    recorder.bind_stream(&StreamBinding::bars(key.clone())).unwrap();
    // Backwards, in pairs of one time of which the later one counts, more than the buffer holds.
    for index in (0..4_000_u32).rev() {
        for close in [-1.0, f64::from(index)] {
            recorder.persist(&key.node_id, key.interval, bar(&key, index), payload(close)).await.unwrap();
        }
    }
    recorder.flush().await.unwrap();
    assert_eq!(recorder.unwritten(), 0);
    let rows = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
    let closes = Float64Array::from_iter_values((0..4_000_u32).map(f64::from));
    assert_eq!(rows.column(1).as_ref(), &closes as &dyn qmtl_history_api::arrow_array::Array);
    let coverage = backend.coverage(&key, TimeRange::ALL).await.unwrap();
    assert_eq!(coverage.present(), &span(&key, 0, 4_000).into());
    let stored = recorder.stored(&key, span(&key, 10, 20)).await.unwrap().into_batch().await.unwrap();
    assert_eq!(stored.num_rows(), 10);
}

#[tokio::test]
async fn what_waits_can_be_read_and_is_written_when_it_is_old() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let slow = RecorderConfig::default().with_delay(Duration::from_secs(3_600));
    let recorder = QuestDbRecorder::with_config(&backend, slow);
    let key = key("BTC", "1m");
    for index in [2, 0, 1] {
        recorder
            .persist(&key.node_id, key.interval, bar(&key, index), payload(f64::from(index)))
            .await
            .unwrap();
    }
    let waiting = recorder.buffered(&key, span(&key, 0, 2)).await.unwrap().into_batch().await.unwrap();
    assert_eq!(
        waiting.column(1).as_ref(),
        &Float64Array::from(vec![0.0, 1.0]) as &dyn qmtl_history_api::arrow_array::Array
    );
    assert_eq!((recorder.unwritten(), backend.list_series().await.unwrap().len()), (3, 0));
    recorder.flush().await.unwrap();
    let waiting = recorder.buffered(&key, TimeRange::ALL).await.unwrap().into_batch().await.unwrap();
    assert_eq!((waiting.num_rows(), recorder.unwritten()), (0, 0));
}

#[tokio::test]
async fn plain_events_have_a_table_of_their_own_and_are_no_series() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let recorder = QuestDbRecorder::new(&backend);
    let key = key("signals", "1m");
    recorder.bind_stream(&StreamBinding::events(key.clone())).unwrap();
    let off_grid = bar(&key, 0).checked_add_micros(1).unwrap();
    for close in [1.0, 2.0, 2.0] {
        recorder.persist(&key.node_id, key.interval, off_grid, payload(close)).await.unwrap();
    }
    recorder.flush().await.unwrap();
    let table = backend.table_of(&key.node_id);
    assert_eq!(number(&client, &format!("select count() from \"{table}_events\"")).await, 3);
    assert_eq!(backend.list_series().await.unwrap(), []);
    assert!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present().is_empty());
    // They come back as they are, off the grid and at one time.
    let stored = recorder.stored(&key, TimeRange::ALL).await.unwrap().into_batch().await.unwrap();
    let mut closes = stored.column(1).as_primitive::<Float64Type>().values().to_vec();
    closes.sort_by(f64::total_cmp);
    assert_eq!(closes, [1.0, 2.0, 2.0]);
}

#[tokio::test]
async fn what_is_no_event_is_refused_at_once() {
    let Some(dsn) = fresh_dsn() else { return };
    let recorder = QuestDbRecorder::new(&connect(&dsn).await);
    let key = key("BTC", "1m");
    let persist =
        async |at, payload| recorder.persist(&key.node_id, key.interval, at, payload).await.unwrap_err();
    let off_grid = bar(&key, 0).checked_add_micros(1).unwrap();
    assert!(persist(off_grid, payload(1.0)).await.to_string().contains("grid"));
    assert!(persist(bar(&key, 0), payload(1.0).slice(0, 0)).await.to_string().contains("exactly one row"));
    assert_eq!(persist(bar(&key, 0), payload(f64::NAN)).await.kind(), ErrorKind::Schema);
    assert_eq!(recorder.unwritten(), 0);
    recorder.flush().await.unwrap();
}

#[tokio::test]
async fn events_that_the_table_refuses_are_told_at_the_flush() {
    let Some(dsn) = fresh_dsn() else { return };
    let (backend, client) = (connect(&dsn).await, client(&dsn).await);
    let key = key("BTC", "1m");
    let table = backend.table_of(&key.node_id);
    let sql = format!(
        "create table \"{table}\" (ts timestamp, node_id symbol, interval long, close varchar) \
         timestamp(ts) partition by day wal dedup upsert keys(ts, node_id, interval)"
    );
    client.batch_execute(&sql).await.unwrap();
    let recorder = QuestDbRecorder::new(&backend);
    recorder.persist(&key.node_id, key.interval, bar(&key, 0), payload(1.0)).await.unwrap();
    let error = recorder.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("events: 1"), "{error:?}");
    recorder.flush().await.unwrap();
}
