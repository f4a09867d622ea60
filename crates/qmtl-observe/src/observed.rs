//! A backend that measures the backend inside it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use futures_core::Stream;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, HistoryBackend, Maintenance, ReadRequest, Result,
    SeriesKey, TimeRange, WriteReceipt, WriteRequest,
};

use crate::metrics;

/// Passes every call on to `B` and records how long it took to answer and whether it failed
/// (`qmtl_store_operation_duration_seconds`, `qmtl_store_errors_total`).
///
/// A streaming call is measured until its stream stands; an error inside the stream is counted as
/// one of the call's. A call that is cancelled is not measured.
#[derive(Debug)]
pub struct Observed<B>(B);

impl<B: HistoryBackend> Observed<B> {
    /// Measures `backend`.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self(backend)
    }

    fn record<T>(&self, operation: &'static str, started: Instant, result: Result<T>) -> Result<T> {
        let backend = self.0.capabilities().name;
        metrics::store_operation(backend, operation, started.elapsed());
        result.inspect_err(|error| metrics::store_error(backend, operation, error.kind()))
    }

    fn watch<T: 'static>(
        &self,
        operation: &'static str,
        inner: BoxStream<Result<T>>,
    ) -> BoxStream<Result<T>> {
        Box::pin(Watched { inner, backend: self.0.capabilities().name, operation })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: HistoryBackend> HistoryBackend for Observed<B> {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        let started = Instant::now();
        let stream = self.record("read_range", started, self.0.read_range(request).await)?;
        Ok(BatchStream::new(stream.schema(), self.watch("read_range", Box::pin(stream))))
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        let started = Instant::now();
        self.record("schema", started, self.0.schema(key).await)
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let started = Instant::now();
        self.record("write_rows", started, self.0.write_rows(request, rows).await)
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let started = Instant::now();
        self.record("coverage", started, self.0.coverage(key, range).await)
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        let started = Instant::now();
        let stream = self.record("series", started, self.0.series().await)?;
        Ok(self.watch("series", stream))
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let started = Instant::now();
        self.record("revision", started, self.0.revision(key).await)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.0.maintenance()
    }
}

/// A stream that counts the errors that pass through it.
struct Watched<T> {
    inner: BoxStream<Result<T>>,
    backend: &'static str,
    operation: &'static str,
}

impl<T> Stream for Watched<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(Err(error))) = &next {
            metrics::store_error(self.backend, self.operation, error.kind());
        }
        next
    }
}
