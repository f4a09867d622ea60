#![doc = include_str!("../README.md")]

pub mod checks;
pub mod faults;
#[cfg(feature = "fetchers")]
pub mod fetchers;
pub mod fixtures;
#[cfg(feature = "gateway")]
pub mod gateway;
mod model;
mod probe;
mod suite;

pub use suite::{CHECKS, Check, Subject, run, told};
