//! What many runs came to, in numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::world::Fault;

/// Sums over runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) runs: u64,
    /// Processes, at least one a run.
    pub(crate) lives: u64,
    /// Fills and rounds.
    pub(crate) rounds: u64,
    /// Requests that reached an exchange.
    pub(crate) requests: u64,
    /// Rows that the exchanges gave.
    pub(crate) rows: u64,
    /// Bars that are stored at the end.
    pub(crate) bars: u64,
    /// Bars that are known empty at the end.
    pub(crate) empty: u64,
    /// Rows that were replaced because they were revised.
    pub(crate) revised: u64,
    /// Bars whose first version could not be known to be one.
    pub(crate) exempt: u64,
    /// Virtual time.
    pub(crate) passed: Duration,
    /// The most requests by planned request, of a round without faults.
    pub(crate) most_by_planned: u64,
    /// Requests and closes of series that were followed without faults.
    pub(crate) steady: (u64, u64),
    /// The most requests for each close, of one series, in hundredths.
    pub(crate) most_by_close: u64,
    pub(crate) faults: BTreeMap<Fault, u64>,
}

impl Figures {
    /// Adds a series that was followed without faults.
    pub(crate) fn steady(&mut self, requests: u64, closes: u64) {
        self.steady = (self.steady.0 + requests, self.steady.1 + closes);
        if closes >= 5 {
            self.most_by_close = self.most_by_close.max(requests * 100 / closes);
        }
    }

    /// Adds other runs.
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.lives += other.lives;
        self.rounds += other.rounds;
        self.requests += other.requests;
        self.rows += other.rows;
        self.bars += other.bars;
        self.empty += other.empty;
        self.revised += other.revised;
        self.exempt += other.exempt;
        self.passed += other.passed;
        self.most_by_planned = self.most_by_planned.max(other.most_by_planned);
        self.steady = (self.steady.0 + other.steady.0, self.steady.1 + other.steady.1);
        self.most_by_close = self.most_by_close.max(other.most_by_close);
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, closes) = self.steady;
        let hours = self.passed.as_secs() / 3_600;
        let lines = [
            ("runs", self.runs.to_string()),
            ("virtual hours", hours.to_string()),
            ("processes", self.lives.to_string()),
            ("fills and rounds", self.rounds.to_string()),
            ("requests", self.requests.to_string()),
            ("rows given", self.rows.to_string()),
            ("bars stored", self.bars.to_string()),
            ("bars known empty", self.empty.to_string()),
            ("rows revised", self.revised.to_string()),
            ("bars left in their first version by a process that ended", self.exempt.to_string()),
            ("requests by planned request, at most", self.most_by_planned.to_string()),
            ("requests by close, mean", hundredths(requests * 100 / closes.max(1))),
            ("requests by close, at most", hundredths(self.most_by_close)),
        ];
        for (name, value) in lines {
            writeln!(f, "figure: {name} = {value}")?;
        }
        for (fault, count) in &self.faults {
            writeln!(f, "figure: fault {fault:?} = {count}")?;
        }
        Ok(())
    }
}

fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}
