//! Binance's spot API.

mod page;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{PageOrder, Timestamp};

use crate::api::{ApiSpec, Beginning, CandleApi, CandleRequest};
use crate::http::{Answer, Failure, HttpRequest};
use crate::pager::Pager;

const SPEC: ApiSpec = ApiSpec::new("binance", "Binance", PageOrder::OldestFirst, 1_000)
    .with_own_hosts(&[
        "api.binance.com",
        "api1.binance.com",
        "api2.binance.com",
        "api3.binance.com",
        "api4.binance.com",
        "api-gcp.binance.com",
        "data-api.binance.vision",
    ])
    .with_intervals(&INTERVALS)
    .with_gapless(true)
    .with_beginning(Beginning::FirstRow)
    .with_weight(2, Some("x-mbx-used-weight-1m"));

/// The bars on offer; Binance's names are case-sensitive. Months (`1M`) have no fixed length.
pub(crate) const INTERVALS: [(&str, &str); 15] = [
    ("1s", "1s"),
    ("1m", "1m"),
    ("3m", "3m"),
    ("5m", "5m"),
    ("15m", "15m"),
    ("30m", "30m"),
    ("1h", "1h"),
    ("2h", "2h"),
    ("4h", "4h"),
    ("6h", "6h"),
    ("8h", "8h"),
    ("12h", "12h"),
    ("1d", "1d"),
    ("3d", "3d"),
    ("1w", "1w"),
];

/// Serves the closed bars of Binance's spot markets, or of any server with the same API, in pages of 1000 rows.
///
/// The exchange sends rows for bars without trades as well. When a symbol was listed is looked up once, where that
/// makes a difference.
///
/// Columns: `ts`, then the doubles `open`, `high`, `low`, `close`, `volume`, `quote_volume`, the
/// 64-bit integer `trades`, and the doubles `taker_base_volume` and `taker_quote_volume`, as an
/// archive of the same bars has them.
///
/// Errors of a fetch: those of a [`Pager`], and `NotFound` for a symbol that the exchange does not know.
pub type BinanceFetcher = Pager<BinanceApi>;

/// How Binance's spot API speaks.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BinanceApi;

impl CandleApi for BinanceApi {
    fn spec(&self) -> &ApiSpec {
        &SPEC
    }

    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&page::SCHEMA)
    }

    fn candles(&self, asked: &CandleRequest<'_>) -> HttpRequest {
        HttpRequest::new(["api", "v3", "klines"])
            .with("symbol", asked.symbol)
            .with("interval", asked.interval)
            .with("startTime", asked.first().as_millis())
            .with("endTime", asked.last().as_millis())
            .with("limit", asked.rows)
    }

    fn rows(&self, asked: &CandleRequest<'_>, answer: &Answer) -> Result<RecordBatch, Failure> {
        page::rows(asked.key, answer)
    }

    fn time(&self) -> Option<HttpRequest> {
        Some(HttpRequest::new(["api", "v3", "time"]))
    }

    fn time_in(&self, answer: &Answer) -> Result<Option<Timestamp>, Failure> {
        page::server_time(answer)
    }
}
