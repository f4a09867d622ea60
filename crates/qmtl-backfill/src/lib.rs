//! Planner, strategies and the augmented provider of the qmtl history system.

mod budget;
mod config;
pub mod plan;
mod provider;
mod strategy;

pub use config::BackfillConfig;
pub use provider::AugmentedHistoryProvider;
pub use strategy::FetcherBackfillStrategy;
