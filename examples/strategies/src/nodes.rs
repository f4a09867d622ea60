//! Reference nodes: the usual indicators as compute nodes, with what they start from written down.
//!
//! | node | outputs | first value |
//! |---|---|---|
//! | [`sma`] | `value` | once the window is full; silent before |
//! | [`ema`] | `value` | at bar `length`: the mean of the first `length` values |
//! | [`rsi`] | `value` | at bar `length + 1`: the first change needs two closes |
//! | [`atr`] | `value` | at bar `length + 1`: the first bar has no close before it, and its range is left out |
//! | [`macd`] | `macd`, `signal`, `histogram` | at bar `slow + signal - 1` |
//! | [`vwap`] | `value` | at the first bar with volume |
//! | [`resample`] | `open`, `high`, `low`, `close`, `volume` | when the first whole bar closes |
//!
//! All but the first carry a state, which a snapshot saves: as little-endian words of eight bytes. They give NaN where they
//! have no value; [`resample`] is silent there, so that whoever reads it sees the coarse bars alone.
//!
//! A row with NaN in it is left out: the result is NaN, and the state stays as it was. Neighbouring rows count as neighbouring bars: a window of one row holds no
//! hole, so that a bar that is missing does not silence these nodes. A reader that must not act across a hole also reads
//! the input itself, with a window in which none may lie.
//!
//! How long a recursive node remembers is no window: `n` bars after its seed an average of weight `w` owes `(1 - w)^n` of
//! its value to it. Give its input a period that is long enough, or go on from a [snapshot](qmtl_runtime::Snapshot).

mod atr;
mod average;
mod macd;
mod resample;
mod rsi;
mod state;
mod vwap;

pub use atr::{Atr, atr};
pub use average::{Ema, ema, sma};
pub use macd::{Macd, macd};
pub use resample::{Resample, resample};
pub use rsi::{Rsi, rsi};
pub use vwap::{Anchor, Vwap, vwap};
