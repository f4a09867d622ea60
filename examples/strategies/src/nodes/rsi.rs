//! The relative strength index.

use qmtl_history_api::{NodeId, Result};
use qmtl_runtime::{ComputeNode, Source, StatefulNode, Windows};

use super::state::{Smooth, bits_of, to_bytes, to_words, value_of};

/// The relative strength index of a column, 0 to 100: see [`Rsi`].
pub fn rsi(id: NodeId, length: usize, source: impl Into<Source>, column: &str) -> Result<ComputeNode> {
    Ok(ComputeNode::stateful(id, 1, Rsi::new(length)?).reads(source, column))
}

/// The relative strength index of its first read (Wilder 1978): which share of the average move was up, in percent.
///
/// The averages of the moves up and down have the weight 1 / length and are seeded with the means of the first `length`
/// changes. Without any move it is 0, as in TA-Lib.
#[derive(Clone, Debug, PartialEq)]
pub struct Rsi {
    before: Option<f64>,
    up: Smooth,
    down: Smooth,
}

impl Rsi {
    /// Of a length in rows; `InvalidInput` for 0.
    pub fn new(length: usize) -> Result<Self> {
        let smooth = Smooth::wilder(length)?;
        Ok(Self { before: None, up: smooth, down: smooth })
    }
}

impl StatefulNode for Rsi {
    fn version(&self) -> String {
        format!("rsi/{}", self.up.length())
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let value = windows.f64(0)[0];
        if value.is_nan() {
            return Ok(());
        }
        if let Some(before) = self.before.replace(value) {
            let change = value - before;
            let (up, down) = (self.up.push(change.max(0.0)), self.down.push((-change).max(0.0)));
            out[0] = if up + down == 0.0 { 0.0 } else { 100.0 * up / (up + down) };
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.before = None;
        self.up.reset();
        self.down.reset();
    }

    fn save(&self) -> Result<Vec<u8>> {
        let ([a, b], [c, d]) = (self.up.words(), self.down.words());
        Ok(to_bytes(&[bits_of(self.before), a, b, c, d]))
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let [before, a, b, c, d] = to_words(state)?;
        self.up.take([a, b])?;
        self.down.take([c, d])?;
        self.before = value_of(before);
        Ok(())
    }
}
