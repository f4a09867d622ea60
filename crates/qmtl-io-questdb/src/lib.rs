//! QuestDB: history backend.

mod backend;
mod config;
mod coverage;
mod error;
mod naming;
mod proofs;
mod read;
mod schema;
mod store;
mod transport;
mod values;
mod write;

pub use backend::QuestDbBackend;
pub use config::QuestDbConfig;
