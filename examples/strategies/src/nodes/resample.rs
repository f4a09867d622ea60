//! Coarse bars of fine ones.

use qmtl_history_api::{Error, Interval, NodeId, Result, Timestamp};
use qmtl_runtime::{ComputeNode, StatefulNode, StreamInput, Windows};

use super::state::{corrupt, to_bytes, to_words};

/// The bars of an input at a coarser interval: see [`Resample`]. `InvalidInput` unless every coarse bar consists of whole
/// bars of the input.
pub fn resample(id: NodeId, coarse: Interval, input: &StreamInput) -> Result<ComputeNode> {
    let fine = input.key().interval;
    if coarse.as_secs() % fine.as_secs() != 0 || !fine.is_on_grid(coarse.origin()) {
        let error = Error::invalid("coarse bars do not consist of whole fine ones");
        return Err(error.with("coarse", coarse).with("fine", fine));
    }
    Ok(ComputeNode::stateful(id, 1, Resample::new(coarse)).reads_bars(input))
}

/// Puts its reads open, high, low, close and volume together to coarse bars.
///
/// A coarse bar comes out at the moment at which its last fine bar closes, so never before it is whole; at every other
/// moment the node is silent, so that windows over its results are windows of coarse bars. The result stands at the last
/// fine bar: the coarse bar opens where the grid of the coarse interval has its point at or before that.
///
/// Fine bars that do not exist take no part. A coarse bar whose last fine bar does not exist is left out, since nothing
/// would say at its close that it is over, and so is the first one unless it was seen from its opening on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resample {
    coarse: Interval,
    forming: Option<Forming>,
    /// Whether the last fine bar has made it whole.
    is_over: bool,
}

/// A coarse bar that has not closed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Forming {
    opening: Timestamp,
    is_whole: bool,
    /// Open, high, low, close and volume.
    values: [f64; 5],
}

impl Resample {
    /// To bars of this length.
    #[must_use]
    pub fn new(coarse: Interval) -> Self {
        Self { coarse, forming: None, is_over: false }
    }

    /// The coarse bar with one more fine bar, which opens at `ts`.
    fn with(&self, ts: Timestamp, fine: [f64; 5]) -> Option<Forming> {
        let opening = self.coarse.floor(ts)?;
        let [_, high, low, close, volume] = fine;
        Some(match self.forming {
            Some(Forming { opening: same, is_whole, values: [open, highest, lowest, _, sum] })
                if same == opening =>
            {
                let values = [open, highest.max(high), lowest.min(low), close, sum + volume];
                Forming { opening, is_whole, values }
            }
            before => Forming { opening, is_whole: before.is_some() || ts == opening, values: fine },
        })
    }
}

impl StatefulNode for Resample {
    fn outputs(&self) -> &[&'static str] {
        &["open", "high", "low", "close", "volume"]
    }

    fn version(&self) -> String {
        format!("resample/{}", self.coarse)
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let fine = [0, 1, 2, 3, 4].map(|read| windows.f64(read)[0]);
        self.is_over = false;
        if fine.iter().any(|value| value.is_nan()) {
            return Ok(());
        }
        self.forming = self.with(windows.ts(), fine);
        if let Some(bar) = self.forming.filter(|bar| bar.is_whole && self.coarse.is_on_grid(windows.moment()))
        {
            out.copy_from_slice(&bar.values);
            self.is_over = true;
        }
        Ok(())
    }

    fn has_result(&self) -> bool {
        self.is_over
    }

    fn reset(&mut self) {
        self.forming = None;
    }

    fn save(&self) -> Result<Vec<u8>> {
        let Some(Forming { opening, is_whole, values }) = self.forming else { return Ok(Vec::new()) };
        let words = [opening.as_micros().cast_unsigned(), u64::from(is_whole)];
        Ok([to_bytes(&words), to_bytes(&values.map(f64::to_bits))].concat())
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        if state.is_empty() {
            self.forming = None;
            return Ok(());
        }
        let [opening, is_whole, values @ ..] = to_words::<7>(state)?;
        let opening = Timestamp::from_micros(opening.cast_signed())?;
        if is_whole > 1 || !self.coarse.is_on_grid(opening) {
            return Err(corrupt("the saved bar is none").with("opening", opening));
        }
        self.forming = Some(Forming { opening, is_whole: is_whole == 1, values: values.map(f64::from_bits) });
        Ok(())
    }
}
