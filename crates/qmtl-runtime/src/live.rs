//! Where live bars come from.

use std::fmt;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{Error, ErrorKind, Result, SeriesKey, Timestamp, async_trait};
use tokio::sync::mpsc;

/// A closed bar, as it came.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveBar {
    /// The input's series.
    pub input: SeriesKey,
    /// When the bar opened.
    pub ts: Timestamp,
    /// One row, its columns named and typed as in history. `ts` is optional, and must equal that of the bar; an absent
    /// column is null.
    pub payload: RecordBatch,
}

impl LiveBar {
    /// A bar of `input` that opened at `ts`.
    #[must_use]
    pub fn new(input: SeriesKey, ts: Timestamp, payload: RecordBatch) -> Self {
        Self { input, ts, payload }
    }
}

/// A stream of closed bars of all inputs of a strategy.
#[async_trait]
pub trait LiveSource: fmt::Debug + Send {
    /// The next bar, `None` when there will be no more. Dropping the future must lose no bar.
    async fn next(&mut self) -> Option<LiveBar>;
}

/// A live source that is fed from elsewhere, with room for `bars` bars that wait; 0 is taken as 1.
#[must_use]
pub fn live_channel(bars: usize) -> (LiveSender, LiveReceiver) {
    let (sender, receiver) = mpsc::channel(bars.max(1));
    (LiveSender(sender), LiveReceiver(receiver))
}

/// Feeds a [`LiveReceiver`]; clones feed the same one, which ends when all are dropped.
#[derive(Clone, Debug)]
pub struct LiveSender(mpsc::Sender<LiveBar>);

impl LiveSender {
    /// Hands a bar over; waits while too many wait. `Cancelled` when the receiver is gone.
    pub async fn send(&self, bar: LiveBar) -> Result<()> {
        self.0.send(bar).await.map_err(|refused| {
            Error::new(ErrorKind::Cancelled, "nobody takes live bars any more")
                .with("series", refused.0.input)
        })
    }
}

/// The channel's other end.
#[derive(Debug)]
pub struct LiveReceiver(mpsc::Receiver<LiveBar>);

#[async_trait]
impl LiveSource for LiveReceiver {
    async fn next(&mut self) -> Option<LiveBar> {
        self.0.recv().await
    }
}
