//! What an author of a fetcher says of an exchange's API for candles; the rest is the [`Pager`](crate::Pager)'s.

use std::fmt::Debug;
use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, Interval, PageOrder, Result, SeriesKey, TimeRange, Timestamp, frame};

use crate::http::{Answer, Failure, HttpRequest};

/// How an API for candles speaks. A [`Pager`](crate::Pager) makes a fetcher of it.
pub trait CandleApi: Debug + Send + Sync + 'static {
    /// What its documentation says.
    fn spec(&self) -> &ApiSpec;

    /// The columns of its pages: `ts`, then the payload.
    fn schema(&self) -> SchemaRef;

    /// The request for a page.
    fn candles(&self, asked: &CandleRequest<'_>) -> HttpRequest;

    /// The rows of an answer to [`candles`](Self::candles), with the columns of [`schema`](Self::schema).
    ///
    /// Rows come as they are: in whatever order, twice, off the grid. Rows beside those asked for are passed on too, but
    /// a page without any of the latter is refused, unless the API pays no heed to one end of a range
    /// ([`ApiSpec::with_open_end`]). What no right answer can have is a passing [`Failure`], what the next answer would have again a lasting one.
    fn rows(&self, asked: &CandleRequest<'_>, answer: &Answer) -> Result<RecordBatch, Failure>;

    /// The request for the server's clock. Where an API has none, the date of any answer tells the time.
    fn time(&self) -> Option<HttpRequest> {
        None
    }

    /// The server's time in an answer to [`time`](Self::time); the date of the answer unless an API says it better, in
    /// milliseconds.
    fn time_in(&self, answer: &Answer) -> Result<Option<Timestamp>, Failure> {
        Ok(answer.date)
    }
}

/// How the beginning of a series is found. What is absent before it is no proof: there was nothing to trade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Beginning {
    /// The API is asked for the first row since the epoch: it takes any range and sends the earliest rows.
    FirstRow,
    /// The API is asked for pages that lie farther and farther back, until one has a row.
    LookBack,
    /// It is not looked for: only after a row that is known is anything proven.
    #[default]
    Unknown,
}

/// What the documentation of an API says.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ApiSpec {
    /// The name of the source in reports, metrics and proofs: `binance`.
    pub name: &'static str,
    /// What people call it: `Binance`.
    pub title: &'static str,
    /// The hosts that answer for the exchange itself.
    pub own_hosts: &'static [&'static str],
    /// The bars on offer: an interval as [`Interval`] reads it, such as `1m` or `1d+16h`, and the API's name of it.
    pub intervals: &'static [(&'static str, &'static str)],
    /// The order of the rows of a page.
    pub order: PageOrder,
    /// Rows of a page at most.
    pub max_rows: u64,
    /// Whether a row is sent for a bar without trades too.
    pub gapless: bool,
    /// How the beginning of a series is found.
    pub beginning: Beginning,
    /// Whether the API pays no heed to the far end of a range, or takes none: its page goes on beyond it, to bars
    /// before the range where the newest come first, to bars after it where the oldest do.
    pub open_end: bool,
    /// How many of its newest bars the API has; `None` is all.
    pub newest_bars: Option<u64>,
    /// What a page costs of [`weight_per_minute`](crate::ExchangeConfig::weight_per_minute).
    pub weight: u32,
    /// The header, in lower case, in which answers tell the weight used in the server's running minute.
    pub weight_header: Option<&'static str>,
}

impl ApiSpec {
    /// An API of this name, which people call so, with pages of `max_rows` rows in this order.
    #[must_use]
    pub const fn new(name: &'static str, title: &'static str, order: PageOrder, max_rows: u64) -> Self {
        Self {
            name,
            title,
            own_hosts: &[],
            intervals: &[],
            order,
            max_rows,
            gapless: false,
            beginning: Beginning::Unknown,
            open_end: false,
            newest_bars: None,
            weight: 1,
            weight_header: None,
        }
    }

    /// Says which bars are on offer: [`intervals`](Self::intervals).
    #[must_use]
    pub const fn with_intervals(mut self, intervals: &'static [(&'static str, &'static str)]) -> Self {
        self.intervals = intervals;
        self
    }

    /// Says which hosts answer for the exchange itself.
    #[must_use]
    pub const fn with_own_hosts(mut self, hosts: &'static [&'static str]) -> Self {
        self.own_hosts = hosts;
        self
    }

    /// Says that bars without trades have rows too.
    #[must_use]
    pub const fn with_gapless(mut self, gapless: bool) -> Self {
        self.gapless = gapless;
        self
    }

    /// Says how the beginning of a series is found.
    #[must_use]
    pub const fn with_beginning(mut self, beginning: Beginning) -> Self {
        self.beginning = beginning;
        self
    }

    /// Says that a page goes on beyond the far end of a range: [`open_end`](Self::open_end).
    #[must_use]
    pub const fn with_open_end(mut self, open_end: bool) -> Self {
        self.open_end = open_end;
        self
    }

    /// Says that the API has so many of its newest bars alone.
    #[must_use]
    pub const fn with_newest_bars(mut self, bars: u64) -> Self {
        self.newest_bars = Some(bars);
        self
    }

    /// Says what a page costs, and in which header answers tell what was used.
    #[must_use]
    pub const fn with_weight(mut self, weight: u32, header: Option<&'static str>) -> Self {
        self.weight = weight;
        self.weight_header = header;
        self
    }

    /// What the API calls bars of `interval`; `InvalidInput`, naming those on offer, for others.
    pub(crate) fn interval(&self, key: &SeriesKey) -> Result<&'static str> {
        let is_wanted = |ours: &str| ours.parse::<Interval>().is_ok_and(|interval| interval == key.interval);
        let offered = self.intervals.iter().find(|(ours, _)| is_wanted(ours));
        offered.map(|(_, name)| *name).ok_or_else(|| {
            let offered: Vec<_> = self.intervals.iter().map(|(ours, _)| *ours).collect();
            Error::invalid(format!("{} does not offer bars of this interval", self.title))
                .with("series", key)
                .with("offered", offered.join(", "))
        })
    }
}

/// The page that is asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CandleRequest<'a> {
    /// The series.
    pub key: &'a SeriesKey,
    /// What the exchange calls its node.
    pub symbol: &'a str,
    /// What the API calls its interval.
    pub interval: &'static str,
    /// From the first bar to the end of the last one, both on the grid; all have closed.
    pub range: TimeRange,
    /// Rows that are wanted at most, of those in the range the first in the API's order.
    pub rows: u64,
}

impl<'a> CandleRequest<'a> {
    /// A request for the bars of `range`, whose ends are on the grid.
    #[must_use]
    pub fn new(
        key: &'a SeriesKey,
        symbol: &'a str,
        interval: &'static str,
        range: TimeRange,
        rows: u64,
    ) -> Self {
        Self { key, symbol, interval, range, rows }
    }

    /// When the first bar opens.
    #[must_use]
    pub fn first(&self) -> Timestamp {
        self.range.start()
    }

    /// When the last bar opens.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        let length = self.key.interval.as_micros();
        self.range.end().checked_add_micros(-length).unwrap_or(self.range.start())
    }
}

/// The doubles that texts are nearest to; `Schema`, naming column, row and text, where one is no finite number.
pub fn doubles<'a>(column: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<Float64Array> {
    let parsed = texts.into_iter().enumerate().map(|(row, text)| {
        let value = lexical_core::parse(text.as_bytes()).ok().filter(|value: &f64| value.is_finite());
        value.ok_or_else(|| {
            let start: String = text.chars().take(40).collect();
            Error::schema("a value is not a number that a double can hold")
                .with("row", row)
                .with("column", column)
                .with("value", format_args!("{start:?}"))
        })
    });
    parsed.collect::<Result<Vec<_>>>().map(Float64Array::from)
}

/// The rows of a page: `ts` and the payload, in the order of `schema`.
pub fn page(
    schema: &SchemaRef,
    times: impl IntoIterator<Item = Timestamp>,
    payload: impl IntoIterator<Item = ArrayRef>,
) -> Result<RecordBatch, Failure> {
    let ts: ArrayRef = Arc::new(frame::ts_array(times));
    let columns = std::iter::once(ts).chain(payload).collect();
    RecordBatch::try_new(SchemaRef::clone(schema), columns)
        .map_err(|e| Failure::lasting(Error::unexpected("cannot assemble the rows of a page").caused_by(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_on_offer_are_found_by_length_and_phase() {
        let spec = ApiSpec::new("acme", "Acme", PageOrder::OldestFirst, 10).with_intervals(&[
            ("1m", "60"),
            ("1d+16h", "1D"),
            ("1d", "1Dutc"),
        ]);
        let of = |interval: &str| spec.interval(&SeriesKey::new("BTC", interval.parse().unwrap()).unwrap());
        assert_eq!((of("60s").unwrap(), of("1d+16h").unwrap(), of("1d").unwrap()), ("60", "1D", "1Dutc"));
        let error = of("1m+30s").unwrap_err().to_string();
        assert!(error.contains("Acme does not offer") && error.contains("1m, 1d+16h, 1d"), "{error}");
    }

    #[test]
    fn doubles_are_the_nearest_ones() {
        assert_eq!(doubles("open", ["0.1", "5.33e-5"]).unwrap().values().to_vec(), [0.1, 5.33e-5]);
        for bad in ["", "1,5", "NaN", "1e999", " 1"] {
            let error = doubles("open", ["1", bad]).unwrap_err().to_string();
            assert!(error.contains("row: 1") && error.contains("column: open"), "{bad}: {error}");
        }
    }
}
