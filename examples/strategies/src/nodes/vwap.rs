//! The price weighted with the volume.

use qmtl_history_api::{NodeId, Result};
use qmtl_runtime::{ComputeNode, Source, StatefulNode, Windows};

use super::state::{corrupt, to_bytes, to_words};

/// From where on volume counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The bar that opens at midnight UTC, or the first one after it.
    UtcDay,
    /// The first bar of all.
    Start,
}

/// The average price of a source's bars, weighted with their volume, in the unit of the price: see [`Vwap`].
pub fn vwap(id: NodeId, anchor: Anchor, source: impl Into<Source>) -> ComputeNode {
    let (node, source) = (ComputeNode::stateful(id, 1, Vwap::new(anchor)), source.into());
    ["high", "low", "close", "volume"]
        .into_iter()
        .fold(node, |node, column| node.reads(source.clone(), column))
}

/// The average of the typical price (high + low + close) / 3 of its reads high, low, close and volume, weighted with the
/// volume since the [`Anchor`]. A bar belongs to the day in which it opens. NaN until something has been traded.
#[derive(Clone, Debug, PartialEq)]
pub struct Vwap {
    anchor: Anchor,
    /// Days since 1970.
    day: i64,
    traded: f64,
    volume: f64,
}

impl Vwap {
    /// Before any bar.
    #[must_use]
    pub fn new(anchor: Anchor) -> Self {
        Self { anchor, day: 0, traded: 0.0, volume: 0.0 }
    }
}

impl StatefulNode for Vwap {
    fn version(&self) -> String {
        match self.anchor {
            Anchor::UtcDay => "vwap/utc-day".to_owned(),
            Anchor::Start => "vwap/start".to_owned(),
        }
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let [high, low, close, volume] = [0, 1, 2, 3].map(|read| windows.f64(read)[0]);
        let traded = (high + low + close) / 3.0 * volume;
        if traded.is_nan() {
            return Ok(());
        }
        let day = windows.ts().as_secs().div_euclid(86_400);
        if self.anchor == Anchor::UtcDay && day != self.day {
            (self.traded, self.volume) = (0.0, 0.0);
        }
        self.day = day;
        self.traded += traded;
        self.volume += volume;
        if self.volume > 0.0 {
            out[0] = self.traded / self.volume;
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.anchor);
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(to_bytes(&[self.day.cast_unsigned(), self.traded.to_bits(), self.volume.to_bits()]))
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let [day, traded, volume] = to_words(state)?;
        let [traded, volume] = [traded, volume].map(f64::from_bits);
        if !traded.is_finite() || !volume.is_finite() {
            return Err(corrupt("the saved sums are none").with("traded", traded).with("volume", volume));
        }
        (self.day, self.traded, self.volume) = (day.cast_signed(), traded, volume);
        Ok(())
    }
}
