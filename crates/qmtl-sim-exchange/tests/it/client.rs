//! A plain HTTP client: one connection a request, no retries, no redirects, no decompression.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use qmtl_sim_exchange::{Candle, Interval, Market, SimClock, SimConfig, SimExchange};
use serde_json::Value;
use tokio::net::TcpStream;

/// 2024-01-01T00:00:00Z, a Monday.
pub(crate) const START: i64 = 1_704_067_200_000;
pub(crate) const MINUTE: i64 = 60_000;

/// An answer whose body came whole.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The first field of every row.
    pub(crate) fn times(&self) -> Vec<i64> {
        let json = self.json();
        json.as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends one request and returns when the head of the answer is there.
pub(crate) async fn head(
    sim: &SimExchange,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(sim.addr()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

pub(crate) fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "sim").body(Empty::new()).unwrap()
}

pub(crate) async fn try_get(sim: &SimExchange, path: &str) -> hyper::Result<Got> {
    whole(head(sim, request(path)).await?).await
}

pub(crate) async fn whole(response: Response<Incoming>) -> hyper::Result<Got> {
    let (parts, body) = response.into_parts();
    Ok(Got { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

/// The whole answer; anything that hangs fails the test instead of stopping it.
pub(crate) async fn get(sim: &SimExchange, path: &str) -> Got {
    tokio::time::timeout(Duration::from_secs(60), try_get(sim, path)).await.unwrap().unwrap()
}

/// `ADABTC` / `ADA-BTC` with this many one-minute candles from [`START`] on.
pub(crate) fn market(count: usize) -> Market {
    let candles = Candle::random_walk(START, Interval::parse("1m").unwrap(), count, 7);
    Market::new("ADABTC", "1m", candles).unwrap().with_product("ADA-BTC")
}

/// A server of `market(count)` whose clock stands after the last candle.
pub(crate) async fn serve(count: usize) -> SimExchange {
    SimExchange::start(config(count)).await.unwrap()
}

pub(crate) fn config(count: usize) -> SimConfig {
    let end = START + MINUTE * i64::try_from(count).unwrap();
    SimConfig::new([market(count)]).with_clock(SimClock::Frozen(end))
}
