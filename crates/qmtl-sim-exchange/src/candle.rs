//! One candle, and where candles come from: a CSV file or a seeded random walk.

use std::io::Read;

use crate::interval::Interval;
use crate::{Error, Result};

/// The prices and volumes of one bar. Doubles are served in their shortest exact decimal form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candle {
    /// Opening time, milliseconds since the epoch, on the interval's grid.
    pub open_time: i64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Base asset traded.
    pub volume: f64,
    /// Quote asset traded.
    pub quote_volume: f64,
    /// Number of trades.
    pub trades: u64,
    /// Base asset bought by takers.
    pub taker_base: f64,
    /// Quote asset spent by takers.
    pub taker_quote: f64,
}

impl Candle {
    /// A candle from open, high, low, close and volume; quote volume, trades and taker volumes are
    /// made up to fit.
    pub fn new(open_time: i64, [open, high, low, close]: [f64; 4], volume: f64) -> Self {
        let quote_volume = volume * (open + close) / 2.0;
        Self {
            open_time,
            open,
            high,
            low,
            close,
            volume,
            quote_volume,
            trades: u64::from(volume > 0.0),
            taker_base: volume / 2.0,
            taker_quote: quote_volume / 2.0,
        }
    }

    /// Reads a CSV with the header `open_time,open,high,low,close,volume`, times in milliseconds.
    /// Errors name the line.
    pub fn read_csv(input: impl Read) -> Result<Vec<Self>> {
        const HEADER: [&str; 6] = ["open_time", "open", "high", "low", "close", "volume"];
        let mut reader = csv::Reader::from_reader(input);
        let header = reader.headers().map_err(|e| Error::input(format!("candles: {e}")))?;
        if header != HEADER.as_slice() {
            return Err(Error::input(format!("candles: the header is not {}", HEADER.join(","))));
        }
        reader
            .deserialize()
            .map(|row| {
                let (open_time, open, high, low, close, volume) =
                    row.map_err(|e| Error::input(format!("candles: {e}")))?;
                Ok(Self::new(open_time, [open, high, low, close], volume))
            })
            .collect()
    }

    /// `count` candles without a hole from `first` (milliseconds, moved down to the grid) on: prices
    /// walk in steps of at most 0.1% from 100, with two decimals. The same seed walks the same way.
    pub fn random_walk(first: i64, interval: Interval, count: usize, seed: u64) -> Vec<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let cents = |price: f64| (price * 100.0).round() / 100.0;
        let mut last = 100.0;
        let times = (interval.floor(first)..).step_by(usize::try_from(interval.ms()).unwrap_or(usize::MAX));
        let mut step = || 1.0 + (random.f64() - 0.5) / 500.0;
        times
            .take(count)
            .map(|open_time| {
                let (open, close) = (last, cents(last * step()));
                let (high, low) = (cents(open.max(close) * 1.0005), cents(open.min(close) * 0.9995));
                last = close;
                Self::new(open_time, [open, high, low, close], cents(1_000.0 * step()))
            })
            .collect()
    }

    /// The candle as it stands at `now`, milliseconds: unchanged once the bar is over; before that its
    /// price has not moved from the open, and the share of the time that is over has been traded.
    pub(crate) fn at(&self, now: i64, interval: Interval) -> Self {
        let over = now - self.open_time;
        if over >= interval.ms() {
            return *self;
        }
        let share = |parts: i64| f64::from(i32::try_from(parts).unwrap_or(i32::MAX));
        let volume = self.volume * (share(over) / share(interval.ms()));
        Self { trades: self.trades, ..Self::new(self.open_time, [self.open; 4], volume) }
    }

    /// One candle of several in time order that opens at `open_time`: open of the first, high and low of
    /// all, close of the last, sums of the rest. None without a candle.
    pub(crate) fn together(open_time: i64, candles: &[Self]) -> Option<Self> {
        let joined = |sum: Self, next: &Self| Self {
            high: sum.high.max(next.high),
            low: sum.low.min(next.low),
            close: next.close,
            volume: sum.volume + next.volume,
            quote_volume: sum.quote_volume + next.quote_volume,
            trades: sum.trades.saturating_add(next.trades),
            taker_base: sum.taker_base + next.taker_base,
            taker_quote: sum.taker_quote + next.taker_quote,
            ..sum
        };
        let (first, rest) = candles.split_first()?;
        Some(rest.iter().fold(Self { open_time, ..*first }, joined))
    }

    pub(crate) fn is_finite(&self) -> bool {
        let Self { open, high, low, close, volume, quote_volume, taker_base, taker_quote, .. } = *self;
        [open, high, low, close, volume, quote_volume, taker_base, taker_quote].iter().all(|x| x.is_finite())
    }
}
