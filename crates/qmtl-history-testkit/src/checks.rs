//! The checks of the suite, one function each, named after the guarantee that it holds a store to.
//!
//! Each wants an empty store of its own and panics, saying what it saw, when a guarantee of
//! [`HistoryBackend`](qmtl_history_api::HistoryBackend) is broken.

mod read;
mod values;
mod write;

pub use read::*;
pub use values::*;
pub use write::*;
