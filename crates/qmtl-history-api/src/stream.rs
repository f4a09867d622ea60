//! Streams of record batches whose schema is known before the first batch.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use futures_core::Stream;

use crate::{Error, Result};

/// A boxed stream that owns what it needs.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// A stream of what is already there, such as the keys that [`HistoryBackend::series`](crate::HistoryBackend::series)
/// lists.
#[must_use]
pub fn stream_of<T: Send + Unpin + 'static>(items: Vec<T>) -> BoxStream<T> {
    Box::pin(Ready(items.into_iter()))
}

/// Batches of rows, all of one schema, which is known even when there is no batch.
///
/// Dropping the stream ends the work behind it.
pub struct BatchStream {
    schema: SchemaRef,
    batches: BoxStream<Result<RecordBatch>>,
}

impl BatchStream {
    /// Wraps a stream whose batches all have `schema`.
    #[must_use]
    pub fn new(schema: SchemaRef, batches: BoxStream<Result<RecordBatch>>) -> Self {
        Self { schema, batches }
    }

    /// A stream of batches that are already there.
    #[must_use]
    pub fn from_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self::new(schema, stream_of(batches.into_iter().map(Ok).collect()))
    }

    /// A stream without rows.
    #[must_use]
    pub fn empty(schema: SchemaRef) -> Self {
        Self::from_batches(schema, Vec::new())
    }

    /// The stream up to its first `rows` rows, where a limit is given; then it ends, and so does the work behind it.
    #[must_use]
    pub fn limited(self, rows: Option<u64>) -> Self {
        match rows {
            None => self,
            Some(0) => Self::empty(self.schema),
            Some(left) => {
                Self { schema: self.schema, batches: Box::pin(Limited { inner: Some(self.batches), left }) }
            }
        }
    }

    /// The schema of every batch.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// The next batch, `None` at the end.
    pub async fn next_batch(&mut self) -> Option<Result<RecordBatch>> {
        poll_fn(|cx| self.batches.as_mut().poll_next(cx)).await
    }

    /// Reads the stream to its end into one batch. The caller answers for the memory.
    pub async fn into_batch(mut self) -> Result<RecordBatch> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next_batch().await {
            batches.push(batch?);
        }
        concat_batches(&self.schema, &batches)
            .map_err(|e| Error::unexpected("the batches of one stream differ in schema").caused_by(e))
    }
}

impl Stream for BatchStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Batches up to a number of rows.
struct Limited {
    /// Dropped at the end.
    inner: Option<BoxStream<Result<RecordBatch>>>,
    left: u64,
}

impl Stream for Limited {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let Poll::Ready(next) = inner.as_mut().poll_next(cx) else { return Poll::Pending };
        let next = next.map(|batch| {
            let batch = batch?;
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let kept = batch.num_rows().min(left);
            self.left -= kept as u64;
            Ok(if kept < batch.num_rows() { batch.slice(0, kept) } else { batch })
        });
        if self.left == 0 || next.is_none() {
            self.inner = None;
        }
        Poll::Ready(next)
    }
}

struct Ready<T>(std::vec::IntoIter<T>);

impl<T: Unpin> Stream for Ready<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready(self.0.next())
    }
}
