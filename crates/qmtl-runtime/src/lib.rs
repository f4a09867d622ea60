//! Node caches, backfill engine, warm-up and replay: what primes a strategy with history and
//! hands it over to live data without a bar lost or doubled.

mod cache;
mod engine;
mod graph;
mod pipeline;
mod recorder;
mod shared;
mod stream;

pub use cache::{Appended, BackfillState, CacheView, ColumnView, Merged, NodeCache};
pub use engine::{BackfillEngine, BackfillJob, EngineConfig, JobHandle, JobOutcome};
pub use graph::{ComputeNode, Strategy, StrategyBuilder, VALUE, Windows};
pub use pipeline::{Fed, LateBars, OnPanic, Parallelism, Pipeline, Replayed};
pub use recorder::EventRecorderService;
pub use shared::SharedCache;
pub use stream::{StreamInput, StreamInputBuilder};
