//! The server as a client sees it: every endpoint, every fault, and paging against a naive model.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod archive;
mod binance;
mod client;
mod coinbase;
mod faults;
mod lifecycle;
mod model;
mod program;
mod quiet;
mod time;
