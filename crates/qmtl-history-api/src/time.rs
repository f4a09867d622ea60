//! Points in time and the grid that bars stand on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, SecondsFormat, Utc};

use crate::{Error, Result};

const MICROS: i64 = 1_000_000;
const DAY_SECS: i64 = 86_400;
const WEEK_SECS: i64 = 7 * DAY_SECS;
/// 1970-01-05, the first Monday of the epoch.
const MONDAY_SECS: i64 = 4 * DAY_SECS;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, from 1678 to the end of 9999.
///
/// Every value that exists lies in that span, so arithmetic within it cannot overflow; what would
/// leave it is `None` or an error, never a wrap.
///
/// It begins with the first whole year that a 64-bit count of nanoseconds can name, which is what pandas and
/// most files of bars hold: no price series is older, and what other systems write for "no time" lies before
/// it (year 1 in .NET, 1601 in Windows, 1677-09-21 for the NaT of pandas) and is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// What is said of a time outside the span.
const OUTSIDE: &str = "timestamp is outside the years 1678 to 9999";

impl Timestamp {
    /// 1678-01-01T00:00:00Z, the earliest point.
    pub const MIN: Self = Self(-9_214_560_000 * MICROS);
    /// 1970-01-01T00:00:00Z, from which every grid and every partition is counted.
    pub const EPOCH: Self = Self(0);
    /// 9999-12-31T23:59:59.999999Z, the latest point.
    pub const MAX: Self = Self(253_402_300_800 * MICROS - 1);

    /// The point `micros` microseconds after the epoch (negative: before it); `InvalidInput` outside 1678 to
    /// 9999.
    #[inline]
    pub fn from_micros(micros: i64) -> Result<Self> {
        if (Self::MIN.0..=Self::MAX.0).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(Error::invalid(OUTSIDE).with("microseconds", micros))
        }
    }

    /// The point `secs` seconds after the epoch (negative: before it); `InvalidInput` outside 1678 to 9999.
    pub fn from_secs(secs: i64) -> Result<Self> {
        secs.checked_mul(MICROS)
            .filter(|micros| (Self::MIN.0..=Self::MAX.0).contains(micros))
            .map(Self)
            .ok_or_else(|| Error::invalid(OUTSIDE).with("seconds", secs))
    }

    /// The point `millis` milliseconds after the epoch (negative: before it); `InvalidInput` outside 1678 to 9999.
    pub fn from_millis(millis: i64) -> Result<Self> {
        millis
            .checked_mul(1_000)
            .filter(|micros| (Self::MIN.0..=Self::MAX.0).contains(micros))
            .map(Self)
            .ok_or_else(|| Error::invalid(OUTSIDE).with("milliseconds", millis))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(MICROS)
    }

    /// Seconds since the epoch with their fraction, for gauges: exact to the microsecond until the year 2255.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / MICROS as f64
    }

    /// This point moved by `micros` microseconds (negative: earlier); `None` outside 1678 to 9999.
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

    /// This point moved back; `None` before 1678.
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.checked_add_micros(-i64::try_from(duration.as_micros()).ok()?)
    }

    /// The time from `earlier` to this point, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// Year, month from 1 and day from 1 of the point in the Gregorian calendar, UTC.
    #[must_use]
    pub fn date(self) -> (i32, u32, u32) {
        let date = self.datetime();
        (date.year(), date.month(), date.day())
    }

    fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).expect("years 1678 to 9999 are within chrono's span")
    }
}

/// Prints ISO 8601 in UTC with as many digits as are needed: `2018-01-10T04:55:00Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.datetime().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads epoch seconds (`1515560100`), a year (`2024`), a compact date (`20240101`), an ISO 8601 date
/// (`2024-01-01`) or date and time (`2024-01-01T00:00:00Z`, with or without seconds; a blank instead of the `T`;
/// `+01:00`, `+0100`, `+01` or no offset, which is UTC; compact, with its `T`: `20240101T000000Z`).
///
/// Four digits are a year and eight a date: as seconds they would lie in 1970. Other numbers of fewer than nine
/// digits are refused, except for `0`, which is the epoch; and so are numbers that are milliseconds,
/// microseconds or nanoseconds of the years 1990 to 2100. Seconds before the epoch are negative
/// (`-252460800` is 1962) and take nine digits too.
impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid("not a time: use ISO 8601 such as 2024-01-01T00:00:00Z, a date such as 20240101, or epoch seconds")
                .with("value", format_args!("{text:?}"))
        };
        let midnight = |date: NaiveDate| {
            Self::from_micros(date.and_hms_opt(0, 0, 0).ok_or_else(bad)?.and_utc().timestamp_micros())
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
        if let Some(digits) = text.strip_prefix('-')
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
        {
            let number: i64 = text.parse().map_err(|e| bad().caused_by(e))?;
            return if digits.len() < 9 { Err(few_digits(text)) } else { Self::from_secs(number) };
        }
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return midnight(date);
        }
        date_and_time(text).ok_or_else(bad).and_then(Self::from_micros)
    }
}

/// Microseconds of an ISO 8601 date and time, in the extended form with a `T` or a blank, or in the compact one with a
/// `T`; UTC where no offset follows. `None` for anything else.
fn date_and_time(text: &str) -> Option<i64> {
    let with_t = text.replacen(' ', "T", 1);
    if let Ok(time) = DateTime::parse_from_rfc3339(&with_t) {
        return Some(time.timestamp_micros());
    }
    let (local, offset_secs) = without_offset(&with_t)?;
    let (date, time) = local.split_once('T')?;
    let is_compact = date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit());
    let formats = match time.split('.').next()?.len() {
        // A blank between two numbers may separate anything.
        _ if is_compact && text.contains(' ') => return None,
        4 if is_compact => ["%Y%m%dT%H%M"].as_slice(),
        6 if is_compact => &["%Y%m%dT%H%M%S%.f"],
        _ if is_compact => return None,
        _ => &["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"],
    };
    let local = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(local, format).ok())?;
    Some(local.and_utc().timestamp_micros() - offset_secs * MICROS)
}

/// Cuts off `Z`, `+01:00`, `+0100` or `+01` behind a time of day: what is before it, and the offset in seconds, 0 where
/// none follows. `None` for an offset that cannot be.
fn without_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(utc) = text.strip_suffix(['Z', 'z']) {
        return Some((utc, 0));
    }
    let time = text.find('T')?;
    let Some(sign) = text[time..].find(['+', '-']).map(|at| time + at) else { return Some((text, 0)) };
    let offset = &text.as_bytes()[sign + 1..];
    let (hours, minutes) = match offset {
        [_, _] => (offset, b"00".as_slice()),
        [hours @ .., b':', _, _] if hours.len() == 2 => (hours, &offset[3..]),
        [_, _, minutes @ ..] if minutes.len() == 2 => (&offset[..2], minutes),
        _ => return None,
    };
    let below = |digits: &[u8], bound: i64| {
        let digits =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse().ok().filter(|number: &i64| *number < bound)
    };
    let secs = below(hours, 24)? * 3_600 + below(minutes, 60)? * 60;
    Some((&text[..sign], if text.as_bytes()[sign] == b'-' { -secs } else { secs }))
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

/// The grid that the bars of a series open on: their distance, and where it starts.
///
/// The **length** is a positive whole number of seconds, at most 3,650 days. Bars open at its multiples since
/// the epoch, those of whole weeks on Mondays. The **phase**, shorter than the length, moves the whole grid
/// later: hours that open at half past are `1h+30m`, days that open at 16:00Z are `1d+16h`, weeks that open on
/// Thursdays are `1w+3d`. Two series of one length and two phases are two series.
///
/// All rounding to a grid goes through [`Interval::floor`] and [`Interval::ceil`], and every count of bars
/// through [`Interval::index`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    secs: i64,
    phase_secs: i64,
}

impl Interval {
    /// One minute.
    pub const MINUTE: Self = Self::plain(60);
    /// One hour.
    pub const HOUR: Self = Self::plain(3_600);
    /// One day.
    pub const DAY: Self = Self::plain(DAY_SECS);
    const MAX_SECS: i64 = 3_650 * DAY_SECS;

    const fn plain(secs: i64) -> Self {
        Self { secs, phase_secs: 0 }
    }

    /// An interval of `secs` seconds on the plain grid; `InvalidInput` for zero, less, or more than 3,650 days.
    pub fn from_secs(secs: i64) -> Result<Self> {
        if (1..=Self::MAX_SECS).contains(&secs) {
            Ok(Self::plain(secs))
        } else {
            Err(Error::invalid("an interval is a whole number of seconds from 1 to 315360000")
                .with("seconds", secs))
        }
    }

    /// The grid of this length that lies `secs` seconds after the plain one; `InvalidInput` unless that is at
    /// least zero and shorter than the length.
    pub fn with_phase(self, secs: i64) -> Result<Self> {
        if (0..self.secs).contains(&secs) {
            Ok(Self { phase_secs: secs, ..self })
        } else {
            Err(Error::invalid("a phase is a whole number of seconds, at least 0 and less than the interval")
                .with("interval", Self::plain(self.secs))
                .with("seconds", secs))
        }
    }

    /// The grid of this length that has a bar at `ts`; `None` when `ts` is no whole second.
    #[must_use]
    pub fn through(self, ts: Timestamp) -> Option<Self> {
        let behind = (ts.0 - Self::plain(self.secs).anchor()).rem_euclid(self.as_micros());
        (behind % MICROS == 0).then_some(Self { phase_secs: behind / MICROS, ..self })
    }

    /// The length in seconds.
    #[must_use]
    pub fn as_secs(self) -> i64 {
        self.secs
    }

    /// The length in microseconds.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.secs * MICROS
    }

    /// The length as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.secs.unsigned_abs())
    }

    /// How many seconds after the plain grid this one lies; 0 on the plain one.
    #[must_use]
    pub fn phase_secs(self) -> i64 {
        self.phase_secs
    }

    /// Microseconds from the epoch to a point of the grid, which lies less than an interval and a week after it.
    fn anchor(self) -> i64 {
        let monday = if self.secs % WEEK_SECS == 0 { MONDAY_SECS } else { 0 };
        (monday + self.phase_secs) * MICROS
    }

    /// The first grid point that is not before the epoch, from which bars are numbered.
    #[must_use]
    pub fn origin(self) -> Timestamp {
        Timestamp(self.anchor().rem_euclid(self.as_micros()))
    }

    /// The number of the bar around `ts`: 0 for the one that opens at the [origin](Self::origin), negative
    /// before it.
    #[must_use]
    pub fn index(self, ts: Timestamp) -> i64 {
        (ts.0 - self.origin().0).div_euclid(self.as_micros())
    }

    /// The opening of the bar of that number; `None` outside 1678 to 9999.
    #[must_use]
    pub fn opening(self, index: i64) -> Option<Timestamp> {
        self.origin().checked_add_micros(index.checked_mul(self.as_micros())?)
    }

    /// The newest grid point that is not after `ts`; `None` when it lies before 1678.
    #[must_use]
    pub fn floor(self, ts: Timestamp) -> Option<Timestamp> {
        Timestamp::from_micros(ts.0 - self.behind(ts)).ok()
    }

    /// The oldest grid point that is not before `ts`; `None` when it lies beyond 9999.
    #[must_use]
    pub fn ceil(self, ts: Timestamp) -> Option<Timestamp> {
        let behind = self.behind(ts);
        if behind == 0 { Some(ts) } else { ts.checked_add_micros(self.as_micros() - behind) }
    }

    /// True when a bar may open at `ts`.
    #[must_use]
    pub fn is_on_grid(self, ts: Timestamp) -> bool {
        self.behind(ts) == 0
    }

    /// The grid point after `ts`'s; `None` beyond 9999.
    #[must_use]
    pub fn next(self, ts: Timestamp) -> Option<Timestamp> {
        ts.checked_add_micros(self.as_micros() - self.behind(ts))
    }

    /// Microseconds from the newest grid point that is not after `ts` to `ts`.
    fn behind(self, ts: Timestamp) -> i64 {
        (ts.0 - self.anchor()).rem_euclid(self.as_micros())
    }
}

/// What an interval's units are called, and how long they last, the longest first.
const UNITS: [(i64, &str); 5] = [(WEEK_SECS, "w"), (DAY_SECS, "d"), (3_600, "h"), (60, "m"), (1, "s")];
/// The days on which a week may open, by their distance in days from Monday.
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A length in the shortest form.
fn shortest(f: &mut fmt::Formatter<'_>, secs: i64) -> fmt::Result {
    let unit = UNITS.into_iter().find(|(length, _)| secs % length == 0);
    let (length, unit) = unit.expect("every length is a multiple of a second");
    write!(f, "{}{unit}", secs / length)
}

/// Prints the shortest form: `90s`, `5m`, `1h`, `1d`, `1w`, and behind a `+` the phase, where there is one:
/// `1h+30m`, `1d+16h`, `1w+3d`.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shortest(f, self.secs)?;
        if self.phase_secs > 0 {
            f.write_str("+")?;
            shortest(f, self.phase_secs)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a positive number and one of `s m h d w`, case-sensitive (`1s 60s 1m 5m 1h 1d 1w`), and a phase of
/// the same form behind a `+` (`1h+30m 1d+16h`); of one week the day on which it opens too (`1w@thu`).
impl FromStr for Interval {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |hint: &str| {
            Error::invalid(format!("not an interval: {hint}")).with("value", format_args!("{text:?}"))
        };
        let (length, rest) = text.split_at(text.find(['+', '@']).unwrap_or(text.len()));
        let interval = seconds(length)
            .and_then(|secs| Self::from_secs(secs).map_err(|_| "it must last from 1 second to 3650 days"));
        let interval = interval.map_err(bad)?;
        let phase = match rest.strip_prefix('@') {
            Some(day) if length == "1w" => {
                let day = WEEKDAYS.into_iter().zip(0..).find(|(name, _)| *name == day);
                day.map(|(_, days): (_, i64)| days * DAY_SECS)
                    .ok_or("a week opens @mon, @tue, @wed, @thu, @fri, @sat or @sun")
            }
            Some(_) => Err("only 1w can open @ a day; write a phase, such as 2w+3d"),
            None => rest.strip_prefix('+').map_or(Ok(0), seconds),
        };
        let phase = phase.map_err(bad)?;
        interval
            .with_phase(phase)
            .map_err(|_| bad("its phase, behind the +, must be shorter than the interval"))
    }
}

/// The seconds of a number and a unit, or what is wrong with them.
fn seconds(text: &str) -> Result<i64, &'static str> {
    const USE: &str = "use a number and one of s, m, h, d, w, such as 60s, 5m, 1h, 1d, 1w; a phase stands behind a +, \
                       such as 1d+16h";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let length = match unit {
        "M" => {
            return Err(
                "M would be a month, which has no fixed length: keep days, 1d, and make months of them; \
                        minutes are written m",
            );
        }
        "" if digits > 0 => return Err("the unit is missing; seconds are written s, such as 60s"),
        unit => UNITS.into_iter().find(|(_, name)| *name == unit).ok_or(USE)?.0,
    };
    count.parse::<i64>().map_err(|_| USE)?.checked_mul(length).ok_or("it is too long")
}

#[cfg(test)]
mod tests;
