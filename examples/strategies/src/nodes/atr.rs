//! The average true range.

use qmtl_history_api::{NodeId, Result};
use qmtl_runtime::{ComputeNode, Source, StatefulNode, Windows};

use super::state::{Smooth, bits_of, to_bytes, to_words, value_of};

/// The average true range of a source's `high`, `low` and `close`, in the unit of the price: see [`Atr`].
pub fn atr(id: NodeId, length: usize, source: impl Into<Source>) -> Result<ComputeNode> {
    let (node, source) = (ComputeNode::stateful(id, 1, Atr::new(length)?), source.into());
    Ok(node.reads(source.clone(), "high").reads(source.clone(), "low").reads(source, "close"))
}

/// The average true range (Wilder 1978) of its reads high, low and close.
///
/// The range of a bar reaches to the close before it. Its average has the weight 1 / length and is seeded with the mean
/// of the first `length` ranges, beginning with the second bar, as in TA-Lib: the first has no close before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Atr {
    close: Option<f64>,
    range: Smooth,
}

impl Atr {
    /// Of a length in rows; `InvalidInput` for 0.
    pub fn new(length: usize) -> Result<Self> {
        Ok(Self { close: None, range: Smooth::wilder(length)? })
    }
}

impl StatefulNode for Atr {
    fn version(&self) -> String {
        format!("atr/{}", self.range.length())
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let [high, low, close] = [0, 1, 2].map(|read| windows.f64(read)[0]);
        if high.is_nan() || low.is_nan() || close.is_nan() {
            return Ok(());
        }
        if let Some(before) = self.close.replace(close) {
            out[0] = self.range.push(high.max(before) - low.min(before));
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.close = None;
        self.range.reset();
    }

    fn save(&self) -> Result<Vec<u8>> {
        let [seen, level] = self.range.words();
        Ok(to_bytes(&[bits_of(self.close), seen, level]))
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let [close, seen, level] = to_words(state)?;
        self.range.take([seen, level])?;
        self.close = value_of(close);
        Ok(())
    }
}
