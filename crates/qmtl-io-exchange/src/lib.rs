#![doc = include_str!("../README.md")]

#[cfg(feature = "binance")]
mod binance;
mod file;
#[cfg(feature = "binance")]
mod http;
mod kline;

#[cfg(feature = "binance")]
pub use binance::{BinanceConfig, BinanceFetcher};
pub use file::{ColumnType, FileConfig, FileFetcher, FileFormat, TsUnit};
