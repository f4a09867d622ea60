//! Files of every kind and a simulated exchange, read through the public API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod binance;
mod files;
mod formats;
mod series;
mod windows;
