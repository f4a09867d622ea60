//! The protocol of recording what a node emits, and of reading it back.

use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::{BatchStream, Interval, NodeId, Result, SeriesKey, TimeRange, Timestamp};

/// What a stream's events are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Closed bars on the grid: they share the table of the series' bars and are coverage.
    #[default]
    Bars,
    /// Anything else: a table of their own, no deduplication, never coverage.
    Events,
}

/// What a stream tells its provider and its recorder when it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamBinding {
    /// The stream's series.
    pub key: SeriesKey,
    /// What its events are.
    pub kind: StreamKind,
}

impl StreamBinding {
    /// A stream of bars.
    #[must_use]
    pub fn bars(key: SeriesKey) -> Self {
        Self { key, kind: StreamKind::Bars }
    }

    /// A stream of plain events.
    #[must_use]
    pub fn events(key: SeriesKey) -> Self {
        Self { key, kind: StreamKind::Events }
    }
}

/// Persists what a node emits, exactly as emitted.
#[async_trait]
pub trait EventRecorder: Debug + Send + Sync + 'static {
    /// Takes one event; `payload` has exactly one row and no `ts` column. It may be buffered:
    /// only what `flush` returned after is durable. `Schema` for a payload of another shape.
    async fn persist(
        &self,
        node_id: &NodeId,
        interval: Interval,
        timestamp: Timestamp,
        payload: RecordBatch,
    ) -> Result<()>;

    /// Returns when every event taken before the call is durable.
    async fn flush(&self) -> Result<()>;

    /// Tells the recorder which stream it serves, from which it may infer a table.
    fn bind_stream(&self, binding: &StreamBinding) -> Result<()>;
}

/// The read side of a recorder: what `LiveReplayBackfillStrategy` fills from.
#[async_trait]
pub trait EventSource: Debug + Send + Sync + 'static {
    /// Events that are durable already, canonical and ascending.
    async fn stored(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream>;

    /// Events that are still in the buffer, canonical and ascending.
    async fn buffered(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream>;
}

macro_rules! forward_events {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: EventRecorder + ?Sized> EventRecorder for $pointer {
            async fn persist(&self, node_id: &NodeId, interval: Interval, timestamp: Timestamp, payload: RecordBatch) -> Result<()> {
                (**self).persist(node_id, interval, timestamp, payload).await
            }

            async fn flush(&self) -> Result<()> {
                (**self).flush().await
            }

            fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
                (**self).bind_stream(binding)
            }
        }

        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: EventSource + ?Sized> EventSource for $pointer {
            async fn stored(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream> {
                (**self).stored(key, range).await
            }

            async fn buffered(&self, key: &SeriesKey, range: TimeRange) -> Result<BatchStream> {
                (**self).buffered(key, range).await
            }
        }
    )*};
}

forward_events!(Arc<T>, Box<T>);
