#![doc = include_str!("../README.md")]

mod budget;
mod config;
pub mod plan;
mod provider;
mod strategy;

pub use config::BackfillConfig;
pub use provider::AugmentedHistoryProvider;
pub use strategy::FetcherBackfillStrategy;
