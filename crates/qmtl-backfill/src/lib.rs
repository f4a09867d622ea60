//! Planner, strategies and the augmented provider of the qmtl history system.

mod budget;
mod config;
pub mod plan;

pub use config::BackfillConfig;
