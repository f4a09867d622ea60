#![doc = include_str!("../README.md")]

mod clock;
pub mod events;
#[cfg(feature = "format")]
pub mod format;
pub mod metrics;
mod observed;
#[cfg(feature = "prometheus")]
pub mod prometheus;

pub use clock::TokioClock;
pub use observed::Observed;
