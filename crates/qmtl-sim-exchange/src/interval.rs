//! The bar lengths of Binance, by their case-sensitive names.

use crate::{Error, Result};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Every name the exchange knows. The month has no fixed length, so no market here is made of months.
const INTERVALS: [(&str, Option<i64>); 16] = [
    ("1s", Some(SECOND)),
    ("1m", Some(MINUTE)),
    ("3m", Some(3 * MINUTE)),
    ("5m", Some(5 * MINUTE)),
    ("15m", Some(15 * MINUTE)),
    ("30m", Some(30 * MINUTE)),
    ("1h", Some(HOUR)),
    ("2h", Some(2 * HOUR)),
    ("4h", Some(4 * HOUR)),
    ("6h", Some(6 * HOUR)),
    ("8h", Some(8 * HOUR)),
    ("12h", Some(12 * HOUR)),
    ("1d", Some(DAY)),
    ("3d", Some(3 * DAY)),
    ("1w", Some(7 * DAY)),
    ("1M", None),
];

/// Weeks start on Monday; the epoch was a Thursday.
const FIRST_MONDAY: i64 = 4 * DAY;

/// A bar length with a grid: `1s` to `1w`, or one of a venue's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    name: &'static str,
    ms: i64,
    /// A grid point, milliseconds since the epoch: 0 <= shift < ms.
    shift: i64,
}

impl Interval {
    /// The interval of a Binance name, such as `5m`; an error that names what is allowed.
    pub fn parse(name: &str) -> Result<Self> {
        match INTERVALS.iter().find(|(known, _)| *known == name) {
            Some(&(name, Some(ms))) => {
                Ok(Self { name, ms, shift: if name == "1w" { FIRST_MONDAY } else { 0 } })
            }
            Some((_, None)) => {
                Err(Error::input("interval '1M': months have no fixed length, the longest is '1w'"))
            }
            None => Err(Error::input(format!(
                "interval '{name}': not one of 1s 1m 3m 5m … 1d 3d 1w (case counts)"
            ))),
        }
    }

    /// An interval that a [`Venue`](crate::Venue) offers under any name: bars of `ms` milliseconds that open `shift`
    /// milliseconds after the epoch and in steps of their length from there, such as
    /// `Interval::new("1Dutc8", 86_400_000, 57_600_000)`. Refused: a length that is not positive, and a shift that is
    /// not below it.
    pub fn new(name: &'static str, ms: i64, shift: i64) -> Result<Self> {
        if ms <= 0 || !(0..ms).contains(&shift) {
            return Err(Error::input(format!("interval '{name}': no bars of {ms} ms open at {shift} ms")));
        }
        Ok(Self { name, ms, shift })
    }

    /// The name, such as `5m`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The length in milliseconds.
    pub fn ms(self) -> i64 {
        self.ms
    }

    /// The interval `factor` times as long, on a grid of its own that begins with this one's. It keeps the
    /// name.
    pub(crate) fn times(self, factor: i64) -> Self {
        Self { ms: self.ms * factor, ..self }
    }

    /// The last grid point at or before `at`, milliseconds since the epoch.
    pub fn floor(self, at: i64) -> i64 {
        at - (at - self.shift).rem_euclid(self.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_case_sensitive_and_months_are_refused() {
        assert_eq!(Interval::parse("15m").unwrap().ms(), 900_000);
        assert!(Interval::parse("5M").unwrap_err().to_string().contains("'5M'"));
        assert!(Interval::parse("1M").unwrap_err().to_string().contains("months"));
    }

    #[test]
    fn weeks_start_on_monday() {
        let week = Interval::parse("1w").unwrap();
        // 2024-01-03 was a Wednesday, 2024-01-01 a Monday.
        assert_eq!(week.floor(1_704_240_000_000), 1_704_067_200_000);
        assert_eq!(week.floor(1_704_067_200_000), 1_704_067_200_000);
        assert_eq!(Interval::parse("1m").unwrap().floor(-1), -60_000);
    }

    #[test]
    fn an_interval_of_a_venue_opens_where_it_is_said_to() {
        let day = Interval::new("1Dutc8", 86_400_000, 57_600_000).unwrap();
        assert_eq!(day.floor(86_400_000), 57_600_000);
        assert_eq!(day.floor(57_599_999), -28_800_000);
        for (ms, shift) in [(0, 0), (60_000, 60_000), (60_000, -1)] {
            assert!(Interval::new("odd", ms, shift).unwrap_err().to_string().contains("'odd'"));
        }
    }
}
