#![doc = include_str!("../README.md")]

mod ask;
mod backend;
mod cache;
mod check;
mod columns;
mod config;
mod disk;
mod error;
mod file;
mod footer;
mod layout;
mod read;
mod store;
mod types;
mod write;

pub use backend::{ParquetBackend, StoredPartition};
pub use check::{Finding, Problem};
pub use config::{Codec, ParquetConfig};
