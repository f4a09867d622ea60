//! What was asked of the server, in order, and what it answered.

use std::collections::VecDeque;

use crate::fault::Fault;

/// How many requests are remembered; the oldest are forgotten.
pub const LOG_CAPACITY: usize = 100_000;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Binance `/api/v3/ping`.
    Ping,
    /// Binance `/api/v3/time`.
    Time,
    /// Binance `/api/v3/exchangeInfo`.
    ExchangeInfo,
    /// Binance `/api/v3/klines`.
    Klines,
    /// Coinbase `/time`.
    CoinbaseTime,
    /// Coinbase `/products/{id}/candles`.
    ProductCandles,
    /// An archive file or its checksum under `/data/spot`.
    Archive,
    /// The candles of a [`Venue`](crate::Venue).
    VenueCandles,
    /// The time of a [`Venue`](crate::Venue).
    VenueTime,
    /// None of them: 404.
    Unknown,
}

/// The bars that a request asked for, as far as it made sense.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// The symbol or product.
    pub market: String,
    /// First opening time wanted, milliseconds, inclusive.
    pub first: Option<i64>,
    /// Last opening time wanted, milliseconds, inclusive.
    pub last: Option<i64>,
    /// Rows asked for at most, as sent or by default: above the exchange's maximum when the client was.
    pub limit: u64,
}

/// One request and its answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RequestRecord {
    /// Counts all requests of the server from 1.
    pub number: u64,
    /// The server's clock when it came, milliseconds since the epoch.
    pub time: i64,
    /// Such as `GET`.
    pub method: String,
    /// Such as `/api/v3/klines`.
    pub path: String,
    /// What follows the question mark, still encoded; empty without one.
    pub query: String,
    /// What the path leads to.
    pub endpoint: Endpoint,
    /// The bars asked for; none where the request is for no candles or is refused as malformed.
    pub asked: Option<Asked>,
    /// The fault that struck.
    pub fault: Option<Fault>,
    /// The status answered; none while there is no answer, and for ever when the fault sends none.
    pub status: Option<u16>,
    /// Rows in the answer, had it arrived whole.
    pub rows: usize,
}

impl RequestRecord {
    /// The decoded value of a query parameter.
    pub fn param(&self, name: &str) -> Option<String> {
        let found = form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned())
    }
}

/// The newest requests.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: VecDeque<RequestRecord>,
    count: u64,
}

impl Log {
    /// The number that the next request gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.count + 1
    }

    pub(crate) fn push(&mut self, record: RequestRecord) {
        self.count = record.number;
        if self.records.len() == LOG_CAPACITY {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// The record with this number, unless it is forgotten.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut RequestRecord> {
        let first = self.records.front()?.number;
        self.records.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        self.records.iter().cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.records.clear();
    }
}
