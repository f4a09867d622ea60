//! The Binance fetcher against a simulated exchange, with and without faults.

mod faults;
mod market;
mod requests;
