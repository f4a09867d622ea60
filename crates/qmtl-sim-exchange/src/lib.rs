#![doc = include_str!("../README.md")]

mod answer;
mod archive;
mod binance;
mod call;
mod candle;
mod clock;
mod coinbase;
mod config;
mod deliver;
mod error;
mod exchange;
mod fault;
mod interval;
mod limit;
mod log;
mod market;
mod publishing;
mod rule;
mod server;
mod spoil;
mod venue;

pub use candle::Candle;
pub use clock::SimClock;
pub use config::SimConfig;
pub use error::{Error, Result};
pub use fault::Fault;
pub use interval::Interval;
pub use log::{Asked, Endpoint, LOG_CAPACITY, RequestRecord};
pub use market::Market;
pub use rule::{FaultRule, Target, When};
pub use server::SimExchange;
pub use venue::{Ask, CandlesAsk, Refusal, Venue};
