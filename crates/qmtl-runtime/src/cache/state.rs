//! What of history a cache has loaded.

use qmtl_history_api::{RangeSet, TimeRange, Timestamp};

/// The ranges of history whose rows are in one [`NodeCache`](crate::NodeCache).
///
/// It is a part of that cache and shrinks with its rows: what was dropped or cleared is asked for
/// again, what is there is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackfillState {
    finished: RangeSet,
}

impl BackfillState {
    /// Where history is loaded.
    #[must_use]
    pub fn finished(&self) -> &RangeSet {
        &self.finished
    }

    /// True when all of `range` is loaded.
    #[must_use]
    pub fn is_finished(&self, range: TimeRange) -> bool {
        self.finished.contains_range(range)
    }

    /// What of `range` is yet to be loaded.
    #[must_use]
    pub fn remaining(&self, range: TimeRange) -> RangeSet {
        RangeSet::from(range).difference(&self.finished)
    }

    pub(super) fn record(&mut self, loaded: &RangeSet) {
        self.finished = self.finished.union(loaded);
    }

    pub(super) fn forget_before(&mut self, oldest: Timestamp) {
        let reaches_back = self.finished.span().is_some_and(|span| span.start() < oldest);
        if let Some(rest) = TimeRange::checked(oldest, Timestamp::MAX).filter(|_| reaches_back) {
            self.finished = self.finished.within(rest);
        }
    }
}
