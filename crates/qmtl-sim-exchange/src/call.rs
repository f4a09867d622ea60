//! What a request is: its path, query and parameters, read before anything is answered.

use crate::answer::Answer;
use crate::archive::{ARCHIVES, FileName};
use crate::binance::Klines;
use crate::coinbase::Candles;
use crate::log::{Asked, Endpoint};
use crate::venue::{Ask, Venue};

/// The parts of an HTTP request that matter here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) if_none_match: Option<String>,
}

/// What a request turned out to be.
#[derive(Debug)]
pub(crate) enum Call {
    Ping,
    Time,
    ExchangeInfo,
    Klines(Result<Klines, Answer>),
    CoinbaseTime,
    ProductCandles(Result<Candles, Answer>),
    Archive(Option<FileName>),
    Venue(Ask),
    Unknown,
}

impl Call {
    pub(crate) fn parse(request: &Request, venue: Option<&dyn Venue>) -> Self {
        if let Some(venue) = venue {
            let query: Vec<_> = form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
            if let Some(ask) = venue.asks(&request.path, &query) {
                return Self::Venue(ask);
            }
        }
        match request.path.as_str() {
            "/api/v3/ping" => Self::Ping,
            "/api/v3/time" => Self::Time,
            "/api/v3/exchangeInfo" => Self::ExchangeInfo,
            "/api/v3/klines" => Self::Klines(Klines::parse(&request.query)),
            "/time" => Self::CoinbaseTime,
            path => {
                let product = path.strip_prefix("/products/").and_then(|rest| rest.strip_suffix("/candles"));
                match product.filter(|product| !product.contains('/')) {
                    Some(product) => Self::ProductCandles(Candles::parse(product, &request.query)),
                    None if path.starts_with(ARCHIVES) => Self::Archive(FileName::parse(path)),
                    None => Self::Unknown,
                }
            }
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Ping => Endpoint::Ping,
            Self::Time => Endpoint::Time,
            Self::ExchangeInfo => Endpoint::ExchangeInfo,
            Self::Klines(_) => Endpoint::Klines,
            Self::CoinbaseTime => Endpoint::CoinbaseTime,
            Self::ProductCandles(_) => Endpoint::ProductCandles,
            Self::Archive(_) => Endpoint::Archive,
            Self::Venue(Ask::Candles(_)) => Endpoint::VenueCandles,
            Self::Venue(Ask::Time) => Endpoint::VenueTime,
            Self::Unknown => Endpoint::Unknown,
        }
    }

    pub(crate) fn asked(&self) -> Option<Asked> {
        match self {
            Self::Klines(Ok(klines)) => Some(klines.asked()),
            Self::ProductCandles(Ok(candles)) => Some(candles.asked()),
            Self::Archive(Some(name)) => Some(name.asked()),
            Self::Venue(Ask::Candles(candles)) => Some(candles.asked()),
            _ => None,
        }
    }
}
