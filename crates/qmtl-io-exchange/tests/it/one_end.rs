//! The fetchers' suite on an API that takes one end of a range alone and opens its days at 16:00 UTC.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, SchemaRef};
use qmtl_history_api::{Error, ErrorKind, PageOrder, Timestamp, frame};
use qmtl_history_testkit::fetchers::FetcherSubject;
use qmtl_io_exchange::{
    Answer, ApiSpec, Beginning, CandleApi, CandleRequest, ExchangeConfig, Failure, HttpRequest, Pager,
    Reason, page,
};
use qmtl_sim_exchange::{Ask, Candle, CandlesAsk, Refusal, Venue};
use serde::Deserialize;

/// `GET /bars?market=…&size=…&count=…&from=…`, or `&to=…` where the newest come first, times in milliseconds.
#[derive(Debug)]
struct OneEnd(ApiSpec);

impl OneEnd {
    const fn new(order: PageOrder) -> Self {
        let spec = ApiSpec::new("one-end", "One End", order, 100)
            .with_intervals(&[("1m", "1"), ("1d+16h", "D"), ("1w@thu", "W")])
            .with_beginning(Beginning::LookBack);
        Self(spec.with_open_end(true))
    }
}

#[derive(Deserialize)]
struct Says {
    says: String,
}

fn refusal(Says { says }: Says) -> Failure {
    match says.as_str() {
        "unknown" => Failure::lasting(Error::new(ErrorKind::NotFound, "the market is not known")),
        _ => Failure::passing(Reason::ServerError, Error::unavailable("the exchange is out of order")),
    }
}

impl CandleApi for OneEnd {
    fn spec(&self) -> &ApiSpec {
        &self.0
    }

    fn schema(&self) -> SchemaRef {
        frame::schema_of(["open", "high", "low", "close"].map(|name| (name, DataType::Float64)))
    }

    fn candles(&self, asked: &CandleRequest<'_>) -> HttpRequest {
        let request = HttpRequest::new(["bars"]).with("market", asked.symbol).with("size", asked.interval);
        let request = request.with("count", asked.rows);
        match self.0.order {
            PageOrder::NewestFirst => request.with("to", asked.last().as_millis()),
            _ => request.with("from", asked.first().as_millis()),
        }
    }

    fn rows(&self, _: &CandleRequest<'_>, answer: &Answer) -> Result<RecordBatch, Failure> {
        let rows = answer.json::<Vec<(i64, [f64; 4])>, _>("the exchange", refusal)?;
        let times = rows.iter().map(|(at, _)| Timestamp::from_millis(*at)).collect::<Result<Vec<_>, _>>();
        let times = times.map_err(|e| Failure::passing(Reason::BadAnswer, e))?;
        let column = |at: usize| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, prices)| prices[at])))
        };
        page(&self.schema(), times, (0..4).map(column))
    }
}

/// It serves from the end that is given up to the other end of its market.
#[derive(Debug)]
struct Server(PageOrder);

impl Venue for Server {
    fn asks(&self, path: &str, query: &[(String, String)]) -> Option<Ask> {
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let time = |name: &str| of(name)?.parse::<i64>().ok();
        let sizes = [("1", "1m"), ("D", "1d+16h"), ("W", "1w@thu")];
        let (_, interval) = sizes.into_iter().find(|(own, _)| Some(*own) == of("size"))?;
        let ask = CandlesAsk::new(of("market")?, interval, of("count")?.parse().ok()?);
        let ask = ask.with_window(time("from"), time("to")).with_newest(self.0 == PageOrder::NewestFirst);
        (path == "/bars").then_some(Ask::Candles(ask))
    }

    fn page(&self, candles: &[Candle]) -> String {
        let row = |c: &Candle| format!("[{},[{},{},{},{}]]", c.open_time, c.open, c.high, c.low, c.close);
        let mut rows: Vec<_> = candles.iter().map(row).collect();
        if self.0 == PageOrder::NewestFirst {
            rows.reverse();
        }
        format!("[{}]", rows.join(","))
    }

    fn refusal(&self, refusal: Refusal) -> (u16, String) {
        match refusal {
            Refusal::UnknownSymbol => (404, r#"{"says":"unknown"}"#.to_owned()),
            _ => (500, r#"{"says":"out of order"}"#.to_owned()),
        }
    }
}

fn subject(order: PageOrder) -> FetcherSubject {
    let make = move |host: &_| {
        Pager::with_api(OneEnd::new(order), super::conformance::settings(ExchangeConfig::new(""), host))
    };
    FetcherSubject::new(make).with_venue(Server(order))
}

mod newest_first {
    use super::*;

    async fn fresh() -> Option<FetcherSubject> {
        Some(subject(PageOrder::NewestFirst).with_interval("1d+16h"))
    }

    qmtl_history_testkit::fetcher_conformance!(fresh);
}

mod oldest_first {
    use super::*;

    async fn fresh() -> Option<FetcherSubject> {
        Some(subject(PageOrder::OldestFirst).with_interval("1w@thu"))
    }

    qmtl_history_testkit::fetcher_conformance!(fresh);
}
