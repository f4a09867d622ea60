#![doc = include_str!("../README.md")]

pub mod backend;
mod backfill;
mod clock;
mod coverage;
mod error;
mod fetcher;
pub mod frame;
#[cfg(test)]
mod fuzz;
mod maintenance;
mod provider;
mod range;
mod recorder;
mod series;
mod stop;
mod stream;
mod time;

pub use arrow_array;
pub use arrow_cast;
pub use arrow_ord;
pub use arrow_schema;
pub use arrow_select;
pub use async_trait::async_trait;

pub use backend::{
    Capabilities, GUARANTEES, HistoryBackend, HistoryBackendExt, OnConflict, ReadRequest, WriteReceipt,
    WriteRequest,
};
pub use backfill::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, NoProgress, ProgressEvent, ProgressSink,
};
pub use clock::{Clock, Moment};
pub use coverage::{Coverage, EmptyProof, SourceId};
pub use error::{Error, ErrorKind, Result};
pub use fetcher::{
    DataFetcher, FETCHER_GUARANTEES, FetchLimits, FetchRequest, Fetched, FetcherFn, PageOrder, Retry,
    RetrySink, SourceProfile, Wait, fetcher_fn,
};
pub use maintenance::{Collected, Finding, Maintenance, Problem, Rebuilt, Removed, Repaired};
pub use provider::{HistoryProvider, ProviderCapabilities, ProviderFn, provider_fn};
pub use range::{RangeSet, TimeRange};
pub use recorder::{EventRecorder, EventSource, StreamBinding, StreamKind};
pub use series::{NodeId, SeriesKey};
pub use stop::{StopSignal, Stopped};
pub use stream::{BatchStream, BoxStream, stream_of};
pub use time::{Interval, Timestamp};
