//! Moving averages: the plain and the exponential one.

use qmtl_history_api::{NodeId, Result};
use qmtl_runtime::{ComputeNode, Source, StatefulNode, Windows};

use super::state::{Smooth, check_length, to_bytes, to_words};

/// The mean of the last `length` rows of a column, in its unit. It has no state. `InvalidInput` for a length of 0.
pub fn sma(id: NodeId, length: usize, source: impl Into<Source>, column: &str) -> Result<ComputeNode> {
    check_length(length)?;
    let node = ComputeNode::slices(id, length, |windows| {
        let values = windows.f64(0);
        values.iter().sum::<f64>() / values.len() as f64
    });
    Ok(node.version(format!("sma/{length}")).reads(source, column))
}

/// An exponential average of a column with the weight 2 / (length + 1), in its unit: see [`Ema`].
pub fn ema(id: NodeId, length: usize, source: impl Into<Source>, column: &str) -> Result<ComputeNode> {
    Ok(ComputeNode::stateful(id, 1, Ema::new(length)?).reads(source, column))
}

/// An exponential average of its first read.
///
/// The seed is the mean of the first `length` values, which is what TA-Lib does unless its compatibility is set to
/// Metastock's, where the seed is the first value.
#[derive(Clone, Debug, PartialEq)]
pub struct Ema(Smooth);

impl Ema {
    /// Of a length in rows; `InvalidInput` for 0.
    pub fn new(length: usize) -> Result<Self> {
        Smooth::exponential(length).map(Self)
    }
}

impl StatefulNode for Ema {
    fn version(&self) -> String {
        format!("ema/{}", self.0.length())
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let value = windows.f64(0)[0];
        if !value.is_nan() {
            out[0] = self.0.push(value);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(to_bytes(&self.0.words()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.0.take(to_words(state)?)
    }
}
