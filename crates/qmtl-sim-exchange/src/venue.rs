//! An exchange that is not built in: what its requests ask for, and how its answers are written.

use std::fmt::Debug;
use std::sync::Arc;

use hyper::StatusCode;

use crate::answer::{Answer, Style};
use crate::candle::Candle;
use crate::log::Asked;
use crate::market::{Row, Wanted};
use crate::spoil::Begins;

/// How an exchange speaks, in a few pure functions: a server of it serves the same markets, under the same clock and
/// with the same faults as the exchanges that are built in.
pub trait Venue: Debug + Send + Sync + 'static {
    /// What is asked for at this path with this decoded query; `None` is answered 404.
    fn asks(&self, path: &str, query: &[(String, String)]) -> Option<Ask>;

    /// The body of a page with these candles, which are in time order here, whatever the exchange's.
    fn page(&self, candles: &[Candle]) -> String;

    /// The body that tells the time, milliseconds since the epoch: the number alone unless the venue says more. One
    /// without an address for its time is never asked.
    fn time(&self, now: i64) -> String {
        now.to_string()
    }

    /// The status and the body of a refusal.
    fn refusal(&self, refusal: Refusal) -> (u16, String);
}

impl<T: Venue + ?Sized> Venue for Arc<T> {
    fn asks(&self, path: &str, query: &[(String, String)]) -> Option<Ask> {
        (**self).asks(path, query)
    }

    fn page(&self, candles: &[Candle]) -> String {
        (**self).page(candles)
    }

    fn time(&self, now: i64) -> String {
        (**self).time(now)
    }

    fn refusal(&self, refusal: Refusal) -> (u16, String) {
        (**self).refusal(refusal)
    }
}

/// What a request of a [`Venue`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// The server's time.
    Time,
    /// A page of candles.
    Candles(CandlesAsk),
}

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CandlesAsk {
    /// The symbol, as the market is called.
    pub symbol: String,
    /// The interval as the market names it, such as `1m`; any other one is refused.
    pub interval: String,
    /// First opening time wanted, milliseconds since the epoch, inclusive.
    pub first: Option<i64>,
    /// Last opening time wanted, milliseconds since the epoch, inclusive.
    pub last: Option<i64>,
    /// Rows at most.
    pub limit: u64,
    /// Of more rows than that, the newest are served instead of the oldest.
    pub newest: bool,
}

/// Why a [`Venue`] refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No market has the symbol.
    UnknownSymbol,
    /// The symbol has no candles of this interval.
    UnknownInterval,
    /// The client asks too much. The server adds `Retry-After` where a fault says so.
    TooManyRequests,
    /// The exchange is out of order for a while.
    OutOfOrder,
}

impl CandlesAsk {
    /// The oldest `limit` candles of a symbol, at an interval by the name that the market has for it.
    #[must_use]
    pub fn new(symbol: impl Into<String>, interval: impl Into<String>, limit: u64) -> Self {
        let (symbol, interval) = (symbol.into(), interval.into());
        Self { symbol, interval, first: None, last: None, limit, newest: false }
    }

    /// Only those that open from `first` to `last`, both inclusive, milliseconds since the epoch.
    #[must_use]
    pub fn with_window(mut self, first: Option<i64>, last: Option<i64>) -> Self {
        (self.first, self.last) = (first, last);
        self
    }

    /// The newest of them instead of the oldest.
    #[must_use]
    pub fn with_newest(mut self, newest: bool) -> Self {
        self.newest = newest;
        self
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked { market: self.symbol.clone(), first: self.first, last: self.last, limit: self.limit }
    }

    /// All rows of the window: which of them are served is decided by [`Self::cut`].
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted { first: Some(self.first.unwrap_or(0)), last: self.last, limit: usize::MAX }
    }

    /// Where the page begins in the venue's order.
    pub(crate) fn begins(&self) -> Begins {
        if self.newest { Begins::AtLast(self.last) } else { Begins::AtFirst(self.first) }
    }

    /// Leaves as many rows as were asked for and there is room for.
    pub(crate) fn cut(&self, rows: &mut Vec<Row>, room: usize) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX).min(room);
        if self.newest {
            rows.drain(..rows.len().saturating_sub(limit));
        } else {
            rows.truncate(limit);
        }
    }
}

/// A page in the venue's words. Numbers of 401 digits are no doubles, so that fault leaves the page as it is.
pub(crate) fn page(venue: &dyn Venue, rows: &[Row], style: Style) -> Answer {
    let unit = if style == Style::WrongTimeUnit { 1_000 } else { 1 };
    let candle = |row: &Row| Candle { open_time: row.time / unit, ..row.candle };
    let candles: Vec<_> = rows.iter().map(candle).collect();
    Answer::json(StatusCode::OK, venue.page(&candles)).with_rows(rows.len())
}

/// A refusal in the venue's words, with its own status or another.
pub(crate) fn refused(venue: &dyn Venue, refusal: Refusal, status: Option<StatusCode>) -> Answer {
    let (own, body) = venue.refusal(refusal);
    let own = StatusCode::from_u16(own).unwrap_or(StatusCode::BAD_REQUEST);
    Answer::json(status.unwrap_or(own), body)
}
