//! When a series is asked again, and from where on: time alone decides.

use std::time::Duration;

use qmtl_history_api::{Interval, TimeRange, Timestamp};

use super::FollowConfig;

/// The pauses before a round that failed is made again.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// The pace of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    interval: Interval,
    start: Timestamp,
    from: Timestamp,
    due: Timestamp,
    again: Duration,
}

impl Pace {
    pub(super) fn new(interval: Interval, start: Timestamp) -> Self {
        Self { interval, start, from: start, due: Timestamp::MIN, again: AGAIN }
    }

    pub(super) fn due(&self) -> Timestamp {
        self.due
    }

    pub(super) fn due_now(&mut self) {
        self.due = Timestamp::MIN;
    }

    /// The bars of a round at `now`; `None` before it is due, and before the first bar has closed.
    pub(super) fn range(&self, now: Timestamp) -> Option<TimeRange> {
        let closed = self.interval.floor(now)?;
        TimeRange::checked(self.from, closed)
            .or_else(|| self.bar_before(closed))
            .filter(|range| self.due <= now && range.start() >= self.start)
    }

    /// The newest bar when a clock that was set back has left nothing after `from`.
    fn bar_before(&self, closed: Timestamp) -> Option<TimeRange> {
        TimeRange::checked(closed.checked_add_micros(-self.interval.as_micros())?, closed)
    }

    /// Takes in that a round at `now` could not even be tried.
    pub(super) fn failed(&mut self, now: Timestamp, config: &FollowConfig) {
        self.settle((now, now), Some(self.from), true, config);
    }

    /// Takes in what a round at `now` up to the close `newest` has left: from where on something failed, and
    /// whether the newest bar is still to come.
    pub(super) fn settle(
        &mut self,
        (now, newest): (Timestamp, Timestamp),
        failed_from: Option<Timestamp>,
        is_waiting: bool,
        config: &FollowConfig,
    ) {
        let recent = now.checked_sub(config.look_back).unwrap_or(Timestamp::MIN);
        self.from = failed_from.map_or(recent, |failed| failed.min(recent)).max(self.start);
        let next = self.next_close(now, config);
        if failed_from.is_some() {
            let again = now.checked_add(self.again).unwrap_or(Timestamp::MAX);
            self.due = again.min(next.max(now.checked_add(AGAIN).unwrap_or(Timestamp::MAX)));
            self.again = (self.again * 2).min(AGAIN_AT_MOST);
            return;
        }
        self.again = AGAIN;
        let passed = now.since(newest);
        let later = config.ask_after.iter().find(|after| **after > passed).filter(|_| is_waiting);
        let again = later.and_then(|after| newest.checked_add(*after));
        self.due = again.map_or(next, |again| again.min(next));
    }

    /// When the next bar is asked for the first time. A bar whose time to be asked for has not come although
    /// it has closed is the next one.
    fn next_close(&self, now: Timestamp, config: &FollowConfig) -> Timestamp {
        let grace = config.ask_after.first().copied().unwrap_or_default();
        let settled = now.checked_sub(grace).unwrap_or(Timestamp::MIN);
        self.interval.next(settled).and_then(|close| close.checked_add(grace)).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2024-03-10T{text}Z").parse().unwrap()
    }

    fn pace() -> Pace {
        Pace::new(Interval::MINUTE, "2024-01-01".parse().unwrap())
    }

    fn settle(pace: &mut Pace, now: &str, newest: &str, failed: Option<Timestamp>, is_waiting: bool) {
        pace.settle((at(now), at(newest)), failed, is_waiting, &FollowConfig::default());
    }

    #[test]
    fn a_series_that_is_current_is_asked_at_the_next_close() {
        let mut pace = pace();
        settle(&mut pace, "12:00:30", "12:00:00", None, false);
        assert_eq!((pace.due, pace.range(at("12:01:00.5"))), (at("12:01:01"), None));
        assert_eq!(pace.range(at("12:01:01")).unwrap().end(), at("12:01:00"));
        assert_eq!(pace.from, "2024-03-02T12:00:30Z".parse().unwrap());
    }

    #[test]
    fn no_close_is_slept_through() {
        // A bar may be as short as the time that an exchange is given to publish it.
        let mut short = Pace::new("1s".parse().unwrap(), "2024-01-01".parse().unwrap());
        settle(&mut short, "12:00:30.1", "12:00:29", None, false);
        assert_eq!(short.due, at("12:00:31"));
        // And a round may end after the next bar has closed.
        let mut pace = pace();
        settle(&mut pace, "12:01:00.5", "12:00:00", None, false);
        assert_eq!(pace.due, at("12:01:01"));
    }

    #[test]
    fn a_bar_that_is_late_is_asked_for_after_growing_pauses_and_then_with_the_next() {
        let mut pace = pace();
        let mut now = at("12:00:01");
        let mut asked = Vec::new();
        for _ in 0..5 {
            pace.settle((now, at("12:00:00")), None, true, &FollowConfig::default());
            now = pace.due;
            asked.push(now.since(at("12:00:00")).as_secs());
        }
        assert_eq!(asked, [3, 7, 15, 30, 61]);
    }

    #[test]
    fn what_failed_is_asked_for_again_from_its_beginning_after_growing_pauses() {
        let mut pace = pace();
        let failed: Timestamp = "2024-02-01".parse().unwrap();
        settle(&mut pace, "12:00:30", "12:00:00", Some(failed), true);
        assert_eq!((pace.from, pace.due), (failed, at("12:00:31")));
        let mut pauses = Vec::new();
        for _ in 0..4 {
            settle(&mut pace, "12:00:05", "12:00:00", Some(failed), true);
            pauses.push(pace.due.since(at("12:00:05")).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16]);
        settle(&mut pace, "12:00:31", "12:00:00", Some("2023-01-01".parse().unwrap()), true);
        assert_eq!(pace.from, pace.start);
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_a_bar_to_look_at() {
        let mut pace = Pace::new(Interval::MINUTE, at("11:00:00"));
        settle(&mut pace, "12:00:30", "12:00:00", None, false);
        pace.due_now();
        assert_eq!(pace.range(at("11:50:10")).unwrap().end(), at("11:50:00"));
        assert_eq!(pace.range(at("10:00:00")), None, "before its beginning nothing is wanted");
    }
}
