//! Points in time and the grid that bars stand on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, TimeZone, Utc};

use crate::{Error, Result};

const MICROS: i64 = 1_000_000;
const DAY_SECS: i64 = 86_400;
const WEEK_SECS: i64 = 7 * DAY_SECS;
/// 1970-01-05, the first Monday of the epoch.
const MONDAY_SECS: i64 = 4 * DAY_SECS;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, from 1970 to the end of 9999.
///
/// Every value that exists lies in that span, so arithmetic within it cannot overflow; what would
/// leave it is `None` or an error, never a wrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const MIN: Self = Self(0);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_800 * MICROS - 1);

    /// The point `micros` microseconds after the epoch; `InvalidInput` outside 1970 to 9999.
    #[inline]
    pub fn from_micros(micros: i64) -> Result<Self> {
        if (Self::MIN.0..=Self::MAX.0).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(Error::invalid("timestamp is outside the years 1970 to 9999").with("microseconds", micros))
        }
    }

    /// The point `secs` seconds after the epoch; `InvalidInput` outside 1970 to 9999.
    pub fn from_secs(secs: i64) -> Result<Self> {
        secs.checked_mul(MICROS)
            .filter(|micros| (Self::MIN.0..=Self::MAX.0).contains(micros))
            .map(Self)
            .ok_or_else(|| {
                Error::invalid("timestamp is outside the years 1970 to 9999").with("seconds", secs)
            })
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn as_secs(self) -> i64 {
        self.0 / MICROS
    }

    /// This point moved by `micros` microseconds (negative: earlier); `None` outside 1970 to 9999.
    #[inline]
    #[must_use]
    pub fn checked_add_micros(self, micros: i64) -> Option<Self> {
        self.0.checked_add(micros).map(Self).filter(|ts| (Self::MIN..=Self::MAX).contains(ts))
    }

    /// This point moved forward; `None` beyond 9999.
    #[must_use]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.checked_add_micros(i64::try_from(duration.as_micros()).ok()?)
    }

    /// This point moved back; `None` before 1970.
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.checked_add_micros(-i64::try_from(duration.as_micros()).ok()?)
    }

    /// The time from `earlier` to this point, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// The point as a date and time of the Gregorian calendar, UTC.
    #[must_use]
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).expect("years 1970 to 9999 are within chrono's span")
    }
}

impl TryFrom<DateTime<Utc>> for Timestamp {
    type Error = Error;

    fn try_from(value: DateTime<Utc>) -> Result<Self> {
        Self::from_micros(value.timestamp_micros())
    }
}

/// Prints ISO 8601 in UTC with as many digits as are needed: `2018-01-10T04:55:00Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads epoch seconds (`1515560100`), a year (`2024`), a compact date (`20240101`), an ISO 8601 date
/// (`2024-01-01`) or date and time (`2024-01-01T00:00:00Z`, an offset or none, which is UTC;
/// a blank instead of the `T`).
///
/// Four digits are a year and eight a date: as seconds they would lie in 1970. Other numbers of fewer than nine
/// digits are refused, except for `0`, which is the epoch; and so are numbers that are milliseconds,
/// microseconds or nanoseconds of the years 1990 to 2100.
impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid("not a time: use ISO 8601 such as 2024-01-01T00:00:00Z, a date such as 20240101, or epoch seconds")
                .with("value", format_args!("{text:?}"))
        };
        let midnight = |date: NaiveDate| {
            Self::try_from(Utc.from_utc_datetime(&date.and_hms_opt(0, 0, 0).ok_or_else(bad)?))
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let number: i64 = text.parse().map_err(|e| bad().caused_by(e))?;
            return match text.len() {
                4 => midnight(
                    i32::try_from(number)
                        .ok()
                        .and_then(|year| NaiveDate::from_ymd_opt(year, 1, 1))
                        .ok_or_else(bad)?,
                ),
                8 => midnight(NaiveDate::parse_from_str(text, "%Y%m%d").map_err(|e| bad().caused_by(e))?),
                1..9 if text != "0" => Err(few_digits(text)),
                _ => finer_than_seconds(number).map_or_else(|| Self::from_secs(number), Err),
            };
        }
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return midnight(date);
        }
        let with_t = text.replacen(' ', "T", 1);
        if let Ok(time) = DateTime::parse_from_rfc3339(&with_t) {
            return Self::try_from(time.to_utc());
        }
        for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
            if let Ok(time) = NaiveDateTime::parse_from_str(&with_t, format) {
                return Self::try_from(Utc.from_utc_datetime(&time));
            }
        }
        Err(bad())
    }
}

/// The refusal of a number that is neither a year nor a date, and too small for epoch seconds.
fn few_digits(text: &str) -> Error {
    Error::invalid(
        "too few digits for epoch seconds: write a year such as 2024, a date such as 20240101, or ISO 8601 such as \
         2024-01-01T00:00:00Z",
    )
    .with("value", format_args!("{text:?}"))
}

/// The refusal of a number that counts parts of a second, in which it lies in the years 1990 to 2100.
fn finer_than_seconds(number: i64) -> Option<Error> {
    const PLAUSIBLE_SECS: std::ops::Range<i64> = 631_152_000..4_133_980_800;
    [("milliseconds", 1_000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)].into_iter().find_map(
        |(unit, per_second)| {
            let secs = Some(number / per_second).filter(|secs| PLAUSIBLE_SECS.contains(secs))?;
            let micros =
                if per_second > MICROS { secs * MICROS } else { number * (MICROS / per_second) };
            let meant = Timestamp::from_micros(micros).ok()?;
            Some(
                Error::invalid(format!(
                    "a number this long counts {unit}, but epoch seconds are wanted: divide it by {per_second}, \
                     or write the time in ISO 8601"
                ))
                .with("value", number)
                .with("probably_meant", meant),
            )
        },
    )
}

/// The distance of two bars: a positive whole number of seconds, at most 3,650 days.
///
/// An interval has a grid, on which every bar of a series opens: its multiples since the epoch;
/// whole weeks are counted from Monday. All rounding to that grid goes through
/// [`Interval::floor`] and [`Interval::ceil`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(i64);

impl Interval {
    /// One minute.
    pub const MINUTE: Self = Self(60);
    /// One hour.
    pub const HOUR: Self = Self(3_600);
    /// One day.
    pub const DAY: Self = Self(DAY_SECS);
    const MAX_SECS: i64 = 3_650 * DAY_SECS;

    /// An interval of `secs` seconds; `InvalidInput` for zero, less, or more than 3,650 days.
    pub fn from_secs(secs: i64) -> Result<Self> {
        if (1..=Self::MAX_SECS).contains(&secs) {
            Ok(Self(secs))
        } else {
            Err(Error::invalid("an interval is a whole number of seconds from 1 to 315360000")
                .with("seconds", secs))
        }
    }

    /// The length in seconds.
    #[must_use]
    pub fn as_secs(self) -> i64 {
        self.0
    }

    /// The length in microseconds.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0 * MICROS
    }

    /// The length as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.unsigned_abs())
    }

    /// Microseconds from the epoch to a point of the grid.
    fn offset(self) -> i64 {
        if self.0 % WEEK_SECS == 0 { MONDAY_SECS * MICROS } else { 0 }
    }

    /// The newest grid point that is not after `ts`; `None` when it lies before 1970.
    #[must_use]
    pub fn floor(self, ts: Timestamp) -> Option<Timestamp> {
        Timestamp::from_micros(ts.0 - (ts.0 - self.offset()).rem_euclid(self.as_micros())).ok()
    }

    /// The oldest grid point that is not before `ts`; `None` when it lies beyond 9999.
    #[must_use]
    pub fn ceil(self, ts: Timestamp) -> Option<Timestamp> {
        let behind = (ts.0 - self.offset()).rem_euclid(self.as_micros());
        if behind == 0 { Some(ts) } else { ts.checked_add_micros(self.as_micros() - behind) }
    }

    /// True when a bar may open at `ts`.
    #[must_use]
    pub fn is_on_grid(self, ts: Timestamp) -> bool {
        (ts.0 - self.offset()).rem_euclid(self.as_micros()) == 0
    }

    /// The grid point after `ts`'s; `None` beyond 9999.
    #[must_use]
    pub fn next(self, ts: Timestamp) -> Option<Timestamp> {
        let behind = (ts.0 - self.offset()).rem_euclid(self.as_micros());
        ts.checked_add_micros(self.as_micros() - behind)
    }
}

/// Prints the shortest form: `90s`, `5m`, `1h`, `1d`, `1w`.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = [(WEEK_SECS, 'w'), (DAY_SECS, 'd'), (3_600, 'h'), (60, 'm')]
            .into_iter()
            .find(|(secs, _)| self.0 % secs == 0)
            .map_or((self.0, 's'), |(secs, unit)| (self.0 / secs, unit));
        write!(f, "{count}{unit}")
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a positive number and one of `s m h d w`, case-sensitive: `1s 60s 1m 5m 1h 1d 1w`.
impl FromStr for Interval {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |hint: &str| {
            Error::invalid(format!("not an interval: {hint}")).with("value", format_args!("{text:?}"))
        };
        const USE: &str = "use a number and one of s, m, h, d, w, such as 60s, 5m, 1h, 1d, 1w";
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let unit_secs = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => DAY_SECS,
            "w" => WEEK_SECS,
            "M" => return Err(bad("M would be a month, which has no fixed length; minutes are written m")),
            "" if digits > 0 => return Err(bad("the unit is missing; seconds are written s, such as 60s")),
            _ => return Err(bad(USE)),
        };
        let count: i64 = count.parse().map_err(|_| bad(USE))?;
        count.checked_mul(unit_secs).ok_or_else(|| bad("it is too long")).and_then(|secs| {
            Self::from_secs(secs).map_err(|_| bad("it must last from 1 second to 3650 days"))
        })
    }
}

#[cfg(test)]
mod tests;
