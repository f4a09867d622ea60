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
#[cfg(all(test, feature = "binance", feature = "coinbase"))]
mod fuzz;
#[cfg(feature = "http")]
mod http;
mod kline;
#[cfg(feature = "http")]
mod pager;

/// The page's examples, run with this crate's tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/fetchers.md")]
mod fetchers {}

#[cfg(feature = "http")]
pub use api::{ApiSpec, Beginning, CandleApi, CandleRequest, doubles, page};
#[cfg(feature = "binance")]
pub use archive::{ArchiveFetcher, Revision};
#[cfg(feature = "binance")]
pub use binance::{BinanceApi, BinanceFetcher};
#[cfg(feature = "coinbase")]
pub use coinbase::{CoinbaseApi, CoinbaseFetcher};
#[cfg(feature = "http")]
pub use config::ExchangeConfig;
pub use file::{
    ColumnType, Decimal, DescribedColumn, DescribedSeries, FileConfig, FileDescription, FileFetcher,
    FileFormat, FileSet, Profile, Stamp, TimeFormat, TsUnit, Zone,
};
#[cfg(feature = "http")]
pub use http::{
    Answer, Failure, HttpClient, HttpRequest, Limiter, Reason, ServerClock, Transport, TransportAnswer,
};
#[cfg(feature = "http")]
pub use pager::Pager;
