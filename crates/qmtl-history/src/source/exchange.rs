//! The fetchers of the exchanges that this build has.

use std::sync::Arc;

use qmtl_history_api::{DataFetcher, Result};
use qmtl_io_exchange::ExchangeConfig;

use super::{Asking, ExchangeSource, Names, Venue};

/// Opens the fetcher of an exchange; `Unsupported` for one that this build lacks.
pub(crate) fn open(
    source: &ExchangeSource,
    names: &[Names],
    asking: &Asking,
) -> Result<Arc<dyn DataFetcher>> {
    let mut config = match source.venue {
        Venue::Binance => ExchangeConfig::binance(),
        Venue::BinanceArchive => ExchangeConfig::archive(),
        Venue::Coinbase => ExchangeConfig::coinbase(),
    };
    config.clock = Arc::clone(&asking.clock);
    config.rules = source.rules;
    if let Some(url) = &source.base_url {
        config = config.with_base_url(url);
    }
    if let Some(rate) = asking.rate {
        config = config.with_requests_per_second(rate);
    }
    if let Some(retries) = asking.retries {
        config = config.with_retries(retries);
    }
    if let Some(longest) = asking.retry_for {
        config = config.with_retry_for(longest);
    }
    for Names { node, symbol, product } in names {
        let product = product.as_ref().filter(|_| source.venue == Venue::Coinbase);
        if let Some(name) = product.or(symbol.as_ref()) {
            config = config.with_symbol(node.clone(), name);
        }
    }
    Ok(match source.venue {
        #[cfg(feature = "binance")]
        Venue::Binance => Arc::new(qmtl_io_exchange::BinanceFetcher::new(config)?),
        #[cfg(feature = "binance")]
        Venue::BinanceArchive => Arc::new(match &asking.archive_folder {
            Some(folder) => qmtl_io_exchange::ArchiveFetcher::with_folder(config, folder)?,
            None => qmtl_io_exchange::ArchiveFetcher::new(config)?,
        }),
        #[cfg(feature = "coinbase")]
        Venue::Coinbase => Arc::new(qmtl_io_exchange::CoinbaseFetcher::new(config)?),
        #[cfg(not(all(feature = "binance", feature = "coinbase")))]
        venue => return Err(venue.not_built()),
    })
}
