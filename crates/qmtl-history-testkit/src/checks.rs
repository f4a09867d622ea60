//! The checks of the suite, one function each, named after the guarantee that it holds a store to.
//!
//! Each wants an empty store of its own and panics, saying what it saw, when a guarantee of
//! [`HistoryBackend`](qmtl_history_api::HistoryBackend) is broken.

mod concurrency;
mod coverage;
mod read;
mod series;
mod values;
mod write;

pub use crate::model::model_random_operations;
pub use concurrency::*;
pub use coverage::*;
pub use read::*;
pub use series::*;
pub use values::*;
pub use write::*;
