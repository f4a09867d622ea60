//! The observing wrapper over a backend that fails on purpose.

use async_trait::async_trait;
use futures::stream;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::frame::ts_only_schema;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, Error, ErrorKind, HistoryBackend, ReadRequest, Result,
    SeriesKey, TimeRange, WriteReceipt, WriteRequest,
};
use qmtl_observe::Observed;

use crate::recorded::{Recorded, Value};
use crate::{key, window};

/// Reads end in an error midway, writes fail at once, the rest works.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl HistoryBackend for Broken {
    async fn read_range(&self, _: &ReadRequest) -> Result<BatchStream> {
        let damaged = Error::new(ErrorKind::Corrupt, "a page is damaged");
        Ok(BatchStream::new(ts_only_schema(), Box::pin(stream::iter([Err(damaged)]))))
    }

    async fn schema(&self, _: &SeriesKey) -> Result<SchemaRef> {
        Ok(ts_only_schema())
    }

    async fn write_rows(&self, _: &WriteRequest, _: RecordBatch) -> Result<WriteReceipt> {
        Err(Error::new(ErrorKind::Storage, "the disk is full"))
    }

    async fn coverage(&self, _: &SeriesKey, _: TimeRange) -> Result<Coverage> {
        Ok(Coverage::default())
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        Err(Error::unavailable("the store is away"))
    }

    async fn revision(&self, _: &SeriesKey) -> Result<Option<u64>> {
        Ok(None)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("broken", |_| true)
    }
}

#[test]
fn calls_are_measured_and_their_errors_counted_by_kind_also_inside_a_stream() {
    let rows = Recorded::of(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Observed::new(Broken);
            let mut read = store.read_range(&ReadRequest::new(key("a"), window())).await.unwrap();
            assert_eq!(read.next_batch().await.unwrap().unwrap_err().kind(), ErrorKind::Corrupt);
            let batch = RecordBatch::new_empty(ts_only_schema());
            assert!(store.write_rows(&WriteRequest::new(key("a")), batch).await.is_err());
            assert!(store.coverage(&key("a"), window()).await.is_ok());
            assert!(store.series().await.is_err());
            assert!(store.revision(&key("a")).await.is_ok());
        });
    });
    let counted: Vec<_> = rows.iter().filter(|(id, _)| id.starts_with("qmtl_store_errors_total")).collect();
    let expected = [
        (
            "qmtl_store_errors_total{backend=broken,operation=read_range,kind=corrupt}".to_owned(),
            Value::Counter(1),
        ),
        (
            "qmtl_store_errors_total{backend=broken,operation=series,kind=unavailable}".to_owned(),
            Value::Counter(1),
        ),
        (
            "qmtl_store_errors_total{backend=broken,operation=write_rows,kind=storage}".to_owned(),
            Value::Counter(1),
        ),
    ];
    assert_eq!(counted, expected.iter().collect::<Vec<_>>());
    for operation in ["coverage", "read_range", "revision", "series", "write_rows"] {
        let id = format!("qmtl_store_operation_duration_seconds{{backend=broken,operation={operation}}}");
        let times = rows.iter().find(|(row, _)| *row == id).map(|(_, value)| value);
        assert!(matches!(times, Some(Value::Histogram(times)) if times.len() == 1), "{operation}: {times:?}");
    }
}
