//! Node caches, backfill engine, warm-up and replay: what primes a strategy with history and
//! hands it over to live data without a bar lost or doubled.

mod cache;
mod engine;
mod shared;

pub use cache::{Appended, BackfillState, CacheView, ColumnView, Merged, NodeCache};
pub use engine::{BackfillEngine, BackfillJob, EngineConfig, JobHandle, JobOutcome};
pub use shared::SharedCache;
