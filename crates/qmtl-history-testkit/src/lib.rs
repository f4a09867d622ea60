#![doc = include_str!("../README.md")]

pub mod checks;
pub mod faults;
#[cfg(feature = "fetchers")]
pub mod fetchers;
pub mod fixtures;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod harness;
mod model;
#[cfg(all(unix, feature = "postgres"))]
pub mod postgres;
mod probe;
#[cfg(feature = "proxy")]
pub mod proxy;
mod suite;

/// The page's example, run with this crate's tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/stores.md")]
mod stores {}

pub use suite::{CHECKS, Check, Subject, run, told};
