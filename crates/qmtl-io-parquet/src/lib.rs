#![doc = include_str!("../README.md")]

mod ask;
mod backend;
mod cache;
mod check;
mod collect;
mod columns;
mod commit;
mod config;
mod disk;
mod error;
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub mod failpoints;
#[cfg(not(feature = "failpoints"))]
mod failpoints;
mod file;
mod footer;
#[cfg(test)]
mod fuzz;
mod layout;
mod listing;
mod merge;
mod read;
mod remove;
mod repair;
mod state;
mod store;
mod tips;
mod tree;
mod types;
mod write;

pub use backend::{ParquetBackend, StoredPartition};
pub use config::{Codec, ParquetConfig};
#[cfg(feature = "s3")]
pub use object_store;
