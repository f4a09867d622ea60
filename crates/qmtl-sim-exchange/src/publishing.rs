//! When a bar comes out, and in which version.

use std::time::Duration;

use crate::candle::Candle;
use crate::clock::millis;
use crate::interval::Interval;

/// How a server publishes its bars in pages. By default a bar is there from its opening time on, as it
/// stands, and final at its close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Publishing {
    /// From a bar's close to its first row; with any delay, a bar that is forming has none.
    pub(crate) delay: Duration,
    /// From a bar's close to its final numbers.
    pub(crate) first_version: Duration,
}

impl Publishing {
    /// The last opening time, milliseconds, of which there may be a row at `now`.
    pub(crate) fn newest(self, now: i64, interval: Interval) -> i64 {
        match millis(self.delay) {
            0 => now,
            delay => now.saturating_sub(interval.ms()).saturating_sub(delay),
        }
    }

    /// The candle as a row has it at `now`, milliseconds: in its first version as it stood in the middle
    /// of its bar.
    pub(crate) fn version(self, candle: &Candle, now: i64, interval: Interval) -> Candle {
        let since_close = now - candle.open_time - interval.ms();
        let first = (0..millis(self.first_version)).contains(&since_close);
        candle.at(if first { candle.open_time + interval.ms() / 2 } else { now }, interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_counts_from_the_close_and_hides_the_forming_bar() {
        let minute = Interval::parse("1m").unwrap();
        assert_eq!(Publishing::default().newest(60_000, minute), 60_000);
        let late = Publishing { delay: Duration::from_secs(3), ..Publishing::default() };
        assert_eq!([62_999, 63_000].map(|now| late.newest(now, minute)), [-1, 0]);
        let never = Publishing { delay: Duration::MAX, ..Publishing::default() };
        assert!(never.newest(0, minute) < 0);
    }

    #[test]
    fn a_first_version_lasts_from_the_close_for_its_time() {
        let minute = Interval::parse("1m").unwrap();
        let candle = Candle::new(0, [1.0, 4.0, 0.5, 2.0], 8.0);
        let early = Publishing { first_version: Duration::from_secs(5), ..Publishing::default() };
        let seen = [15_000, 59_999, 60_000, 64_999, 65_000].map(|now| early.version(&candle, now, minute));
        assert_eq!(seen[..2], [15_000, 59_999].map(|now| candle.at(now, minute)));
        assert_eq!([seen[2].close, seen[2].volume], [1.0, 4.0]);
        assert_eq!((seen[3], seen[4]), (seen[2], candle));
    }
}
