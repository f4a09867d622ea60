#![doc = include_str!("../README.md")]

#[cfg(feature = "http")]
mod api;
#[cfg(feature = "binance")]
mod archive;
#[cfg(feature = "binance")]
mod binance;
#[cfg(feature = "coinbase")]
mod coinbase;
#[cfg(feature = "http")]
mod config;
mod file;
#[cfg(feature = "http")]
mod http;
mod kline;

#[cfg(feature = "binance")]
pub use archive::{ArchiveFetcher, Revision};
#[cfg(feature = "binance")]
pub use binance::BinanceFetcher;
#[cfg(feature = "coinbase")]
pub use coinbase::CoinbaseFetcher;
#[cfg(feature = "http")]
pub use config::ExchangeConfig;
pub use file::{ColumnType, FileConfig, FileFetcher, FileFormat, FileSet, TsUnit};
#[cfg(feature = "http")]
pub use http::{Transport, TransportAnswer};
