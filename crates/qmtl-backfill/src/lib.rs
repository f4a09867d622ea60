#![doc = include_str!("../README.md")]

pub mod absence;
mod budget;
mod cached;
mod config;
mod follow;
pub mod lease;
mod live;
pub mod plan;
mod provider;
mod strategy;

pub use cached::Cached;
pub use config::BackfillConfig;
pub use follow::{FollowConfig, Follower, Round};
pub use live::LiveReplayBackfillStrategy;
pub use provider::AugmentedHistoryProvider;
pub use strategy::{FetcherBackfillStrategy, Reread};
