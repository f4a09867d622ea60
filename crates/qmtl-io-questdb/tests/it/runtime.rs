//! With the rest of the system: a recorder that replays, an input that records and reads.

use std::sync::Arc;

use qmtl_backfill::{AugmentedHistoryProvider, LiveReplayBackfillStrategy};
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{
    BackfillRequest, EventRecorder, EventSource, HistoryBackend, HistoryBackendExt, HistoryProvider,
    ReadRequest, StreamBinding, TimeRange,
};
use qmtl_history_testkit::fixtures::{bar, key, span};
use qmtl_io_memory::MemoryBackend;
use qmtl_io_questdb::{QuestDbHistoryProvider, QuestDbRecorder};
use qmtl_runtime::{EventRecorderService, StreamInput};

use crate::server::{connect, fresh_dsn};

fn payload(close: f64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("close", DataType::Float64, true)]));
    RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![close]))]).unwrap()
}

/// Bars that a recorder stored, and bars that still wait in it, fill another store; what nobody saw
/// stays missing.
#[tokio::test]
async fn what_was_recorded_is_replayed_into_a_store() {
    let Some(dsn) = fresh_dsn() else { return };
    let recorder = QuestDbRecorder::new(&connect(&dsn).await);
    let key = key("ohlcv:binance:BTC/USDT:1m", "1m");
    recorder.bind_stream(&StreamBinding::bars(key.clone())).unwrap();
    let persist = async |index: u32| {
        let close = payload(f64::from(index));
        recorder.persist(&key.node_id, key.interval, bar(&key, index), close).await.unwrap();
    };
    for index in 0..50 {
        persist(index).await;
    }
    recorder.flush().await.unwrap();
    for index in 60..70 {
        persist(index).await;
    }
    assert_eq!(recorder.unwritten(), 10);

    let strategy = LiveReplayBackfillStrategy::of_events(recorder.clone());
    let provider = AugmentedHistoryProvider::new(MemoryBackend::new()).with_auto_backfill(strategy);
    let wanted = span(&key, 0, 70);
    let report = provider.ensure_range(&BackfillRequest::new(key.clone(), wanted)).await.unwrap();
    assert_eq!((report.rows_written, report.is_complete()), (60, false), "{report:?}");
    let rows =
        provider.fetch(&ReadRequest::new(key.clone(), wanted)).await.unwrap().into_batch().await.unwrap();
    let closes: Float64Array = (0..50_u32).chain(60..70).map(|index| Some(f64::from(index))).collect();
    assert_eq!(rows.column(1).as_ref(), &closes as &dyn qmtl_history_api::arrow_array::Array);
    recorder.flush().await.unwrap();
}

/// The guide's input: history from a QuestDB, events into it, and after a restart they are history.
#[tokio::test]
async fn what_an_input_records_is_its_history() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let input = |backend: &qmtl_io_questdb::QuestDbBackend| {
        StreamInput::builder("BTC")
            .interval("60s")
            .period(100)
            .history_provider(QuestDbHistoryProvider::new(backend.clone()))
            .event_service(EventRecorderService::new(QuestDbRecorder::new(backend)))
            .build()
            .unwrap()
    };
    let stream = input(&backend);
    let (key, service) = (stream.key().clone(), Arc::clone(stream.event_service().unwrap()));
    for index in 0..40 {
        service.record(&key, bar(&key, index), payload(f64::from(index))).await.unwrap();
    }
    service.shutdown().await.unwrap();
    assert_eq!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present(), &span(&key, 0, 40).into());

    let again = input(&connect(&dsn).await);
    again.load_history(bar(&key, 0), bar(&key, 40)).await.unwrap();
    assert_eq!(again.cache().read(qmtl_runtime::NodeCache::len), 40);
    let all = backend.read_all(&ReadRequest::new(key, TimeRange::ALL)).await.unwrap();
    assert_eq!(all.num_rows(), 40);
}

/// Plain events have a table of their own: the input's history knows nothing of them.
#[tokio::test]
async fn plain_events_of_an_input_are_no_history() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let recorder = QuestDbRecorder::new(&backend);
    let stream = StreamInput::builder("signals")
        .interval("1m")
        .plain_events()
        .event_service(EventRecorderService::new(recorder.clone()))
        .build()
        .unwrap();
    let key = stream.key().clone();
    let service = stream.event_service().unwrap();
    let off_grid = bar(&key, 0).checked_add_micros(7).unwrap();
    service.record(&key, off_grid, payload(1.0)).await.unwrap();
    service.flush().await.unwrap();
    let stored = recorder.stored(&key, TimeRange::ALL).await.unwrap().into_batch().await.unwrap();
    assert_eq!((stored.num_rows(), backend.list_series().await.unwrap()), (1, Vec::new()));
}
