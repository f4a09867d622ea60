#![doc = include_str!("../README.md")]

mod backend;
mod series;

pub use backend::MemoryBackend;
