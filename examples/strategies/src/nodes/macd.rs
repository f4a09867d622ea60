//! The convergence and divergence of two exponential averages.

use qmtl_history_api::{Error, NodeId, Result};
use qmtl_runtime::{ComputeNode, Source, StatefulNode, Windows};

use super::state::{Smooth, to_bytes, to_words};

/// MACD of a column, with the outputs `macd`, `signal` and `histogram`, in its unit: see [`Macd`].
pub fn macd(id: NodeId, lengths: [usize; 3], source: impl Into<Source>, column: &str) -> Result<ComputeNode> {
    Ok(ComputeNode::stateful(id, 1, Macd::new(lengths)?).reads(source, column))
}

/// The fast exponential average of its first read less the slow one, the exponential average of that, and their
/// difference.
///
/// Each average is seeded with the mean of its first values. As in TA-Lib both averages begin at one bar: the fast one
/// leaves out the first `slow - fast` values, so that its seed ends where the slow one's does. None of the three
/// outputs has a value before the signal does.
#[derive(Clone, Debug, PartialEq)]
pub struct Macd {
    fast: Smooth,
    slow: Smooth,
    signal: Smooth,
}

impl Macd {
    /// Of the lengths of the fast average, the slow one and the signal, in rows, usually 12, 26 and 9. `InvalidInput`
    /// for a length of 0, and unless the fast one is the shorter one.
    pub fn new([fast, slow, signal]: [usize; 3]) -> Result<Self> {
        if fast >= slow {
            let error = Error::invalid("the fast average is not shorter than the slow one");
            return Err(error.with("fast", fast).with("slow", slow));
        }
        Ok(Self {
            fast: Smooth::exponential(fast)?,
            slow: Smooth::exponential(slow)?,
            signal: Smooth::exponential(signal)?,
        })
    }
}

impl StatefulNode for Macd {
    fn outputs(&self) -> &[&'static str] {
        &["macd", "signal", "histogram"]
    }

    fn version(&self) -> String {
        format!("macd/{}/{}/{}", self.fast.length(), self.slow.length(), self.signal.length())
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let value = windows.f64(0)[0];
        if value.is_nan() {
            return Ok(());
        }
        let begins = self.slow.lacks() <= self.fast.length();
        let fast = if begins { self.fast.push(value) } else { f64::NAN };
        let macd = fast - self.slow.push(value);
        if macd.is_nan() {
            return Ok(());
        }
        let signal = self.signal.push(macd);
        if !signal.is_nan() {
            out.copy_from_slice(&[macd, signal, macd - signal]);
        }
        Ok(())
    }

    fn reset(&mut self) {
        [&mut self.fast, &mut self.slow, &mut self.signal].into_iter().for_each(Smooth::reset);
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(to_bytes([self.fast.words(), self.slow.words(), self.signal.words()].as_flattened()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let [a, b, c, d, e, f] = to_words(state)?;
        self.fast.take([a, b])?;
        self.slow.take([c, d])?;
        self.signal.take([e, f])
    }
}
