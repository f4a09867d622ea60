//! When a moment has come: which live bars are waited for, for how long, and who was given up.

use std::collections::VecDeque;
use std::time::Duration;

use qmtl_history_api::{Interval, Timestamp};

/// How long nodes wait for the inputs that close a bar at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alignment {
    /// Until each input has its bar or is known not to have one, or until `grace` has passed since the first bar of
    /// the moment came.
    Wait {
        /// That time, on the monotonic clock.
        grace: Duration,
    },
    /// No waiting: the first bar of a moment triggers it, and nodes see the last bar of every other input, however old
    /// it is. Not to be confused with the clock [`AsOf`](crate::AsOf).
    AsOf,
}

impl Default for Alignment {
    /// Ten seconds: longer than a healthy feed is late, shorter than a bar.
    fn default() -> Self {
        Self::Wait { grace: Duration::from_secs(10) }
    }
}

impl Alignment {
    fn grace(self) -> Duration {
        match self {
            Self::Wait { grace } => grace,
            Self::AsOf => Duration::ZERO,
        }
    }
}

/// A moment that nothing is waited for any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ripe {
    pub(super) at: Timestamp,
    /// The inputs that have not said whether they have a bar that closes by then, each with the close up to which
    /// they had.
    pub(super) given_up: Vec<(usize, Timestamp)>,
}

/// The moments of live bars, from when their first bar comes until they are ripe.
#[derive(Debug)]
pub(super) struct Aligner {
    alignment: Alignment,
    intervals: Vec<Interval>,
    /// For every input the close up to which it is known which bars it has.
    settled: Vec<Timestamp>,
    /// Each moment, ascending, and when its first bar came, on the monotonic clock.
    moments: VecDeque<(Timestamp, Duration)>,
}

impl Aligner {
    pub(super) fn new(intervals: Vec<Interval>) -> Self {
        let settled = vec![Timestamp::MIN; intervals.len()];
        Self { alignment: Alignment::default(), intervals, settled, moments: VecDeque::new() }
    }

    pub(super) fn set_alignment(&mut self, alignment: Alignment) {
        self.alignment = alignment;
    }

    /// Whether the bar that an input lacks at a moment is missing, and not only on its way.
    pub(super) fn waits(&self) -> bool {
        self.alignment != Alignment::AsOf
    }

    /// Takes in that an input has a bar that closes at `close`, and so none before it that is still to come.
    pub(super) fn came(&mut self, input: usize, close: Timestamp, now: Duration) {
        self.settle(input, close);
        let at = self.moments.partition_point(|(moment, _)| *moment < close);
        if self.moments.get(at).is_none_or(|(moment, _)| *moment != close) {
            self.moments.insert(at, (close, now));
        }
    }

    /// Takes in that up to `close` it is known which bars an input has.
    pub(super) fn settle(&mut self, input: usize, close: Timestamp) {
        self.settled[input] = self.settled[input].max(close);
    }

    /// Forgets the moments up to one that has been delivered.
    pub(super) fn delivered(&mut self, up_to: Timestamp) {
        let delivered = self.moments.partition_point(|(moment, _)| *moment <= up_to);
        self.moments.drain(..delivered);
    }

    /// The oldest moment if it is ripe; with `at_end` no input has anything more to say.
    pub(super) fn ripe(&self, now: Duration, at_end: bool) -> Option<Ripe> {
        let (at, since) = self.moments.front()?;
        let lacking = (0..self.intervals.len()).filter(|input| self.lacks(*input, *at));
        let given_up: Vec<_> = lacking.map(|input| (input, self.settled[input])).collect();
        let is_over = at_end || now >= since.saturating_add(self.alignment.grace());
        (given_up.is_empty() || is_over).then_some(Ripe { at: *at, given_up })
    }

    /// When the oldest moment is ripe at the latest.
    pub(super) fn due(&self) -> Option<Duration> {
        self.moments.front().map(|(_, since)| since.saturating_add(self.alignment.grace()))
    }

    /// The last moment of which every input has said which bars it has.
    pub(super) fn settled(&self) -> Option<Timestamp> {
        let next = self.intervals.iter().zip(&self.settled);
        let next = next.map(|(interval, settled)| interval.next(*settled).unwrap_or(Timestamp::MAX)).min();
        next.and_then(|next| next.checked_add_micros(-1))
    }

    /// Whether an input may still have a bar that closes at `at` or before. Closes lie on the grid of openings.
    fn lacks(&self, input: usize, at: Timestamp) -> bool {
        self.intervals[input].floor(at).is_some_and(|last| last > self.settled[input])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs).unwrap()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn ripe(aligner: &Aligner, now: u64) -> Option<(i64, Vec<usize>)> {
        let inputs = |ripe: &Ripe| ripe.given_up.iter().map(|(input, _)| *input).collect();
        aligner.ripe(secs(now), false).map(|ripe| (ripe.at.as_secs(), inputs(&ripe)))
    }

    /// Minutes twice, and hours.
    fn aligner() -> Aligner {
        let mut aligner = Aligner::new(vec![Interval::MINUTE, Interval::MINUTE, Interval::HOUR]);
        (0..3).for_each(|input| aligner.settle(input, at(7_200)));
        aligner
    }

    #[test]
    fn a_moment_waits_for_the_inputs_that_close_a_bar_then_and_for_no_other() {
        let mut aligner = aligner();
        aligner.came(0, at(7_260), secs(1));
        assert_eq!(ripe(&aligner, 2), None);
        aligner.came(1, at(7_260), secs(2));
        assert_eq!(ripe(&aligner, 2), Some((7_260, vec![])));
        aligner.delivered(at(7_260));
        // At the full hour the hours are waited for as well.
        aligner.came(0, at(10_800), secs(60));
        aligner.came(1, at(10_800), secs(60));
        assert_eq!(ripe(&aligner, 61), None);
        aligner.came(2, at(10_800), secs(62));
        assert_eq!(ripe(&aligner, 62), Some((10_800, vec![])));
    }

    #[test]
    fn a_later_bar_and_a_proof_say_that_there_is_none_and_grace_gives_up() {
        let mut aligner = aligner();
        aligner.came(0, at(7_260), secs(1));
        aligner.came(1, at(7_320), secs(2));
        assert_eq!(ripe(&aligner, 2), Some((7_260, vec![])));
        aligner.delivered(at(7_260));
        assert_eq!((ripe(&aligner, 11), aligner.due()), (None, Some(secs(12))));
        assert_eq!(ripe(&aligner, 12), Some((7_320, vec![0])));
        aligner.settle(0, at(7_320));
        assert_eq!(ripe(&aligner, 3), Some((7_320, vec![])));
    }

    #[test]
    fn as_of_waits_for_nobody_and_the_end_for_nobody_any_more() {
        let mut aligner = aligner();
        aligner.came(1, at(7_260), secs(1));
        assert_eq!(aligner.ripe(secs(1), true).map(|ripe| ripe.given_up), Some(vec![(0, at(7_200))]));
        aligner.set_alignment(Alignment::AsOf);
        assert_eq!(ripe(&aligner, 1), Some((7_260, vec![0])));
    }

    #[test]
    fn what_everybody_has_told_of_is_settled() {
        let mut aligner = aligner();
        aligner.settle(1, at(7_500));
        assert_eq!(aligner.settled(), at(7_260).checked_add_micros(-1));
        aligner.settle(0, at(7_500));
        assert_eq!(aligner.settled(), at(7_560).checked_add_micros(-1));
    }
}
