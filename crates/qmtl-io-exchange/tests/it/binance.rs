//! The Binance fetcher against a simulated exchange, with and without faults.

pub(crate) mod faults;
pub(crate) mod market;
mod reach;
mod requests;
