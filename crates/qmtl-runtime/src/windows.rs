//! What a compute node sees: the newest rows of everything that it reads.

use std::ops::Range;

use qmtl_history_api::Timestamp;

use crate::graph::Source;

/// What a node computes from: for each of its reads the newest values, oldest first.
///
/// Reads are numbered in the order in which they were declared, and named by their source and column.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    pub(crate) reads: &'a [(Source, String)],
    pub(crate) columns: &'a [&'a [f64]],
    pub(crate) source_of: &'a [usize],
    pub(crate) rows: &'a [Range<usize>],
    pub(crate) moment: Timestamp,
    pub(crate) ts: Timestamp,
}

/// The columns of one input's bars, oldest first, all of one length.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Bars<'a> {
    /// The first price of each bar.
    pub open: &'a [f64],
    /// The highest price of each bar.
    pub high: &'a [f64],
    /// The lowest price of each bar.
    pub low: &'a [f64],
    /// The last price of each bar.
    pub close: &'a [f64],
    /// What was traded in each bar.
    pub volume: &'a [f64],
}

impl Bars<'_> {
    /// The columns, as [`Windows::bars`] reads them.
    pub(crate) const COLUMNS: [&'static str; 5] = ["open", "high", "low", "close", "volume"];
}

impl<'a> Windows<'a> {
    /// The values of a read by its number; a null reads as NaN. Panics when the node declared no such read.
    ///
    /// Reads are numbered from 0, in the order of [`ComputeNode::reads`](crate::ComputeNode::reads). A closure over
    /// slices sees exactly the node's window. A batch function sees the window of its first result, followed by one
    /// row for each further result.
    #[must_use]
    pub fn f64(&self, read: usize) -> &'a [f64] {
        &self.columns[read][self.rows[self.source_of[read]].clone()]
    }

    /// The values of a read by its name: the id of an input or node, and its column. An input that the node reads at
    /// several intervals is named with its interval, as `BTC@1h`. Otherwise as [`f64`](Self::f64).
    ///
    /// Panics, naming the declared reads, when the node declared no such read, or several that match.
    #[must_use]
    pub fn get(&self, source: &str, column: &str) -> &'a [f64] {
        let is_meant = |(of, name): &(Source, String)| name == column && of.is_called(source);
        let mut meant = self.reads.iter().enumerate().filter(|(_, read)| is_meant(read));
        let Some((at, read)) = meant.next() else { self.unknown("no read is called", source, column) };
        // The same read may be declared twice.
        if meant.any(|(_, other)| other.0 != read.0) {
            self.unknown("several reads are called", source, column)
        }
        self.f64(at)
    }

    /// The bars of an input that the node [reads as bars](crate::ComputeNode::reads_bars). Panics as
    /// [`get`](Self::get) does.
    #[must_use]
    pub fn bars(&self, source: &str) -> Bars<'a> {
        let [open, high, low, close, volume] = Bars::COLUMNS.map(|column| self.get(source, column));
        Bars { open, high, low, close, volume }
    }

    /// The moment of the (last) result: when its bars close.
    #[must_use]
    pub fn moment(&self) -> Timestamp {
        self.moment
    }

    /// When the (last) result's own bar opens: the [moment](Self::moment) less the node's
    /// [interval](crate::Pipeline::interval).
    #[must_use]
    pub fn ts(&self) -> Timestamp {
        self.ts
    }

    fn unknown(&self, what: &str, source: &str, column: &str) -> ! {
        let reads = self.reads.iter().map(|(source, column)| format!("{source} {column}"));
        panic!("{what} {source} {column}; the node reads {}", reads.collect::<Vec<_>>().join(", "))
    }
}
