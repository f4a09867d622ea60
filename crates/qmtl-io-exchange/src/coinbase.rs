//! Coinbase Exchange's API.

mod page;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{PageOrder, Timestamp};

use crate::api::{ApiSpec, Beginning, CandleApi, CandleRequest};
use crate::http::{Answer, Failure, HttpRequest};
use crate::pager::Pager;

const SPEC: ApiSpec = ApiSpec::new("coinbase", "Coinbase", PageOrder::NewestFirst, 300)
    .with_own_hosts(&["api.exchange.coinbase.com", "api.pro.coinbase.com"])
    .with_intervals(&[
        ("1m", "60"),
        ("5m", "300"),
        ("15m", "900"),
        ("1h", "3600"),
        ("6h", "21600"),
        ("1d", "86400"),
    ])
    .with_beginning(Beginning::LookBack);

/// Serves the closed bars of Coinbase Exchange, or of any server with the same API, in pages of 300 rows.
///
/// The exchange sends the newest rows first, none for bars without a trade, and does not say when a product was
/// listed. So what a page lacks is reported as absent only after a bar that is known: the fetcher looks back for one,
/// once, where a range begins without.
///
/// Columns: `ts` and the doubles `open`, `high`, `low`, `close`, `volume`.
///
/// Errors of a fetch: those of a [`Pager`], and `NotFound` for a product that the exchange does not know.
pub type CoinbaseFetcher = Pager<CoinbaseApi>;

/// How Coinbase Exchange's API speaks.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CoinbaseApi;

impl CandleApi for CoinbaseApi {
    fn spec(&self) -> &ApiSpec {
        &SPEC
    }

    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&page::SCHEMA)
    }

    fn candles(&self, asked: &CandleRequest<'_>) -> HttpRequest {
        HttpRequest::new(["products", asked.symbol, "candles"])
            .with("granularity", asked.interval)
            .with("start", asked.first())
            .with("end", asked.last())
    }

    fn rows(&self, _: &CandleRequest<'_>, answer: &Answer) -> Result<RecordBatch, Failure> {
        page::rows(answer)
    }

    fn time(&self) -> Option<HttpRequest> {
        Some(HttpRequest::new(["time"]))
    }

    fn time_in(&self, answer: &Answer) -> Result<Option<Timestamp>, Failure> {
        page::server_time(answer)
    }
}
