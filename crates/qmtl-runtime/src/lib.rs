#![doc = include_str!("../README.md")]

mod as_of;
mod cache;
mod engine;
#[cfg(feature = "gateway")]
mod gateway;
mod graph;
mod live;
#[cfg(test)]
mod mistakes;
mod pipeline;
mod recorder;
mod runner;
mod shared;
mod stream;
#[cfg(test)]
mod testing;
mod warmup;
mod world;

pub use as_of::AsOf;
pub use cache::{Appended, BackfillState, CacheView, ColumnView, Merged, NodeCache};
pub use engine::{BackfillEngine, BackfillJob, EngineConfig, JobHandle, JobOutcome};
#[cfg(feature = "gateway")]
pub use gateway::World;
pub use graph::{ComputeNode, Source, Strategy, StrategyBuilder, VALUE, Windows};
pub use live::{LiveBar, LiveReceiver, LiveSender, LiveSource, live_channel};
pub use pipeline::{
    Alignment, Fed, GivenUp, LateBar, LateBars, LiveMoment, OnPanic, Parallelism, Pipeline, Replayed,
};
pub use recorder::EventRecorderService;
pub use runner::{Runner, Session};
pub use shared::SharedCache;
pub use stream::{StreamInput, StreamInputBuilder};
pub use warmup::{InputReport, PeriodCounts, WarmupConfig, WarmupReport, warm_up};
pub use world::{Activation, Allowed, Mode, Order, Side, SideState};

/// The page's examples, run with this crate's tests.
#[cfg(all(doctest, feature = "gateway"))]
#[doc = include_str!("../../../docs/strategies.md")]
mod page {}
