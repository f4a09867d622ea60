#![doc = include_str!("../README.md")]

mod as_of;
mod backtest;
mod cache;
mod compute;
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
mod snapshot;
mod stream;
#[cfg(test)]
mod testing;
mod warmup;
mod windows;
mod world;

pub use as_of::AsOf;
pub use backtest::{Backtest, BacktestBatch, BacktestResults, BacktestRun};
pub use cache::{Appended, BackfillState, CacheView, ColumnView, Merged, NodeCache};
pub use compute::{ComputeNode, StatefulNode, VALUE};
pub use engine::{BackfillEngine, BackfillJob, EngineConfig, JobHandle, JobOutcome};
#[cfg(feature = "gateway")]
pub use gateway::World;
pub use graph::{Source, Strategy, StrategyBuilder};
pub use live::{LiveBar, LiveReceiver, LiveSender, LiveSource, live_channel};
pub use pipeline::{
    Alignment, Fed, GivenUp, LateBar, LateBars, LiveMoment, NodeResult, OnPanic, Parallelism, Pipeline,
    Replayed,
};
pub use recorder::EventRecorderService;
pub use runner::{Runner, Session};
pub use shared::SharedCache;
pub use snapshot::Snapshot;
pub use stream::{StreamInput, StreamInputBuilder};
pub use warmup::{InputReport, PeriodCounts, WarmupConfig, WarmupReport, warm_up};
pub use windows::{Bars, Windows};
pub use world::{Activation, Allowed, Mode, Order, Side, SideState};

/// The page's examples, run with this crate's tests.
#[cfg(all(doctest, feature = "gateway"))]
#[doc = include_str!("../../../docs/strategies.md")]
mod page {}
