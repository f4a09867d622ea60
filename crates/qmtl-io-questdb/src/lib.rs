#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod coverage;
mod error;
mod naming;
mod proofs;
#[cfg(feature = "provider")]
mod provider;
mod read;
mod recorder;
mod schema;
mod store;
mod transport;
mod values;
mod write;

pub use backend::QuestDbBackend;
pub use config::QuestDbConfig;
#[cfg(feature = "provider")]
pub use provider::{QuestDbHistoryProvider, QuestDbLoader};
pub use recorder::{QuestDbRecorder, RecorderConfig};
