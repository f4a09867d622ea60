//! The candles of one symbol and interval, and the page of them that a request gets.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::candle::Candle;
use crate::interval::Interval;
use crate::publishing::Publishing;
use crate::{Error, Result};

/// One symbol's candles at one interval. A bar that is not there is a hole; the first one is the listing.
#[derive(Debug, Clone)]
pub struct Market {
    symbol: String,
    product: String,
    interval: Interval,
    candles: Vec<Candle>,
}

/// A row to be served: the candle and the opening time that is claimed for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    pub(crate) time: i64,
    pub(crate) candle: Candle,
}

/// The bars that a request wants: opening times from `first` to `last`, both inclusive, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
    pub(crate) limit: usize,
}

impl Market {
    /// A market from candles in time order, such as `Market::new("ADABTC", "5m", candles)`.
    ///
    /// Refused: an unknown interval, a symbol that no exchange would have, candles that are not
    /// ascending, off the grid, before 1970 or not finite.
    pub fn new(symbol: &str, interval: &str, candles: Vec<Candle>) -> Result<Self> {
        Self::with_interval(symbol, Interval::parse(interval)?, candles)
    }

    /// As [`Market::new`], at any interval.
    pub fn with_interval(symbol: &str, interval: Interval, candles: Vec<Candle>) -> Result<Self> {
        if !is_symbol(symbol) {
            return Err(Error::input(format!("symbol '{symbol}': 1 to 20 of A-Z 0-9 - _ .")));
        }
        let market = Self { symbol: symbol.into(), product: symbol.into(), interval, candles };
        market.candles.iter().try_for_each(|candle| market.check(candle))?;
        match market.candles.windows(2).find(|pair| pair[0].open_time >= pair[1].open_time) {
            Some(pair) => Err(Error::input(format!("{symbol}: {} does not ascend", pair[1].open_time))),
            None => Ok(market),
        }
    }

    /// A market from a CSV file with the header `open_time,open,high,low,close,volume`.
    pub fn from_csv(symbol: &str, interval: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path)
            .map_err(|source| Error::Io(format!("opening {}", path.display()), source))?;
        Self::new(symbol, interval, Candle::read_csv(file)?)
    }

    /// Names the Coinbase product, such as `ADA-BTC`; otherwise it is called like the symbol.
    #[must_use]
    pub fn with_product(mut self, product: impl Into<String>) -> Self {
        self.product = product.into();
        self
    }

    /// Cuts a hole: drops the candles that open in `range` (milliseconds, half-open).
    #[must_use]
    pub fn with_hole(mut self, range: Range<i64>) -> Self {
        self.candles.retain(|candle| !range.contains(&candle.open_time));
        self
    }

    /// The Binance symbol.
    pub fn symbol(&self) -> &str {
        &self.symbol
    }

    /// The Coinbase product.
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The length of a bar.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// All candles in time order, also those that the server's clock has not reached yet.
    pub fn candles(&self) -> &[Candle] {
        &self.candles
    }

    /// The rows that exist at `now`, oldest first: from `first` on when it is given, otherwise the
    /// newest up to `last`.
    pub(crate) fn page(&self, wanted: Wanted, now: i64, publishing: Publishing) -> Vec<Row> {
        let before = |time: i64| self.candles.partition_point(|candle| candle.open_time < time);
        let newest = publishing.newest(now, self.interval);
        let last = wanted.last.map_or(newest, |last| last.min(newest));
        let end = before(last.saturating_add(1));
        let begin = match wanted.first {
            Some(first) => before(first).min(end),
            None => end.saturating_sub(wanted.limit),
        };
        let end = end.min(begin.saturating_add(wanted.limit));
        let version = |candle: &Candle| publishing.version(candle, now, self.interval);
        let row = |candle: &Candle| Row { time: candle.open_time, candle: version(candle) };
        self.candles[begin..end].iter().map(row).collect()
    }

    /// The same market at an interval `factor` times as long.
    pub(crate) fn coarser(&self, factor: i64) -> Self {
        let interval = self.interval.times(factor);
        let grid = |candle: &Candle| interval.floor(candle.open_time);
        let bars = self.candles.chunk_by(|a, b| grid(a) == grid(b));
        let candles = bars.filter_map(|bar| Candle::together(grid(bar.first()?), bar)).collect();
        Self { interval, candles, symbol: self.symbol.clone(), product: self.product.clone() }
    }

    /// Replaces the candles that open at the same times and adds the others.
    pub(crate) fn revise(&mut self, candles: Vec<Candle>) -> Result<()> {
        candles.iter().try_for_each(|candle| self.check(candle))?;
        let mut all: BTreeMap<i64, Candle> = self.candles.iter().map(|c| (c.open_time, *c)).collect();
        all.extend(candles.into_iter().map(|candle| (candle.open_time, candle)));
        self.candles = all.into_values().collect();
        Ok(())
    }

    fn check(&self, candle: &Candle) -> Result<()> {
        let (symbol, time) = (&self.symbol, candle.open_time);
        if time < 0 || self.interval.floor(time) != time {
            return Err(Error::input(format!(
                "{symbol}: {time} is not on the grid of {}",
                self.interval.name()
            )));
        }
        if !candle.is_finite() {
            return Err(Error::input(format!(
                "{symbol}: the candle at {time} has a number that is not finite"
            )));
        }
        Ok(())
    }
}

/// Whether a text has the form of a symbol.
pub(crate) fn is_symbol(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    (1..=20).contains(&text.len()) && text.bytes().all(allowed)
}
