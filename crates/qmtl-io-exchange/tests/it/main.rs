//! Files of every kind and a simulated exchange, read through the public API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod bad_input;
mod binance;
mod clocks;
mod coinbase;
mod conformance;
mod files;
mod folders;
mod formats;
mod json;
mod klines;
mod one_end;
mod series;
mod sets;
mod shapes;
mod units;
mod windows;
