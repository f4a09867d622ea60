//! Which instant a value of the time column names: integers of a declared or proven unit, or
//! ISO 8601 text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use chrono::format::{Fixed, Item, Numeric, Parsed, StrftimeItems};
use chrono::{NaiveTime, Utc};
use qmtl_history_api::arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use qmtl_history_api::arrow_array::{ArrayRef, PrimitiveArray, types::ArrowTimestampType};
use qmtl_history_api::arrow_schema::TimeUnit;
use qmtl_history_api::{Error, Interval, Result, TimeRange, Timestamp};

use super::zone::{Wall, Zone};

/// 1990-01-01T00:00:00Z and 2101-01-01T00:00:00Z in seconds: between them lie the values by which
/// a value proves its unit. A factor of a thousand lies between units, and less than ten between
/// these two, so no value can fit two units.
const PLAUSIBLE_SECS: Range<i64> = 631_152_000..4_133_980_800;

/// The unit of an integer time column, counted from 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TsUnit {
    /// Seconds.
    Second,
    /// Milliseconds.
    Millisecond,
    /// Microseconds.
    Microsecond,
    /// Nanoseconds.
    Nanosecond,
}

impl fmt::Display for TsUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "seconds",
            Self::Millisecond => "milliseconds",
            Self::Microsecond => "microseconds",
            Self::Nanosecond => "nanoseconds",
        })
    }
}

impl TsUnit {
    const ALL: [Self; 4] = [Self::Second, Self::Millisecond, Self::Microsecond, Self::Nanosecond];

    fn per_second(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Millisecond => 1_000,
            Self::Microsecond => 1_000_000,
            Self::Nanosecond => 1_000_000_000,
        }
    }

    /// The values of this unit in the years 1990 to 2100.
    fn plausible(self) -> Range<i64> {
        PLAUSIBLE_SECS.start * self.per_second()..PLAUSIBLE_SECS.end * self.per_second()
    }

    /// The only unit that puts `value` into the years 1990 to 2100.
    fn of(value: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.plausible().contains(&value))
    }

    /// The instant `value` of this unit, rounded down to a microsecond; `None` outside 1678 to 9999.
    pub(super) fn instant(self, value: i64) -> Option<Timestamp> {
        let micros = match self {
            Self::Nanosecond => value.div_euclid(1_000),
            unit => value.checked_mul(1_000_000 / unit.per_second())?,
        };
        Timestamp::from_micros(micros).ok()
    }

    /// The values of this unit that name an instant inside `range`.
    pub(super) fn span(self, range: TimeRange) -> Range<i64> {
        let bound = |ts: Timestamp| match self {
            Self::Nanosecond => ts.as_micros().saturating_mul(1_000),
            // Rounded up: the first value that is not before the bound.
            unit => {
                let step = 1_000_000 / unit.per_second();
                (ts.as_micros() + step - 1).div_euclid(step)
            }
        };
        bound(range.start())..bound(range.end())
    }

    /// An instant in microseconds as a value of this unit.
    pub(super) fn value(self, micros: i64) -> i64 {
        match self {
            Self::Nanosecond => micros.saturating_mul(1_000),
            unit => micros.div_euclid(1_000_000 / unit.per_second()),
        }
    }

    /// The length of an interval in this unit.
    pub(super) fn steps(self, interval: Interval) -> u64 {
        (interval.as_secs() * self.per_second()).unsigned_abs()
    }

    /// A distance of two values in microseconds, rounded up.
    pub(super) fn distance_micros(self, distance: u64) -> u64 {
        let per_second = self.per_second().unsigned_abs();
        match self {
            Self::Nanosecond => distance.div_ceil(1_000),
            _ => distance.saturating_mul(1_000_000 / per_second),
        }
    }

    /// These values as a column of timestamps, UTC.
    pub(super) fn column(self, values: Vec<i64>) -> ArrayRef {
        fn of<T: ArrowTimestampType>(values: Vec<i64>) -> ArrayRef {
            Arc::new(PrimitiveArray::<T>::from_iter_values(values).with_timezone("UTC"))
        }
        match self {
            Self::Second => of::<TimestampSecondType>(values),
            Self::Millisecond => of::<TimestampMillisecondType>(values),
            Self::Microsecond => of::<TimestampMicrosecondType>(values),
            Self::Nanosecond => of::<TimestampNanosecondType>(values),
        }
    }

    /// The unit of the same name in Arrow.
    pub(super) fn arrow(self) -> TimeUnit {
        match self {
            Self::Second => TimeUnit::Second,
            Self::Millisecond => TimeUnit::Millisecond,
            Self::Microsecond => TimeUnit::Microsecond,
            Self::Nanosecond => TimeUnit::Nanosecond,
        }
    }

    /// The unit of the same name here.
    pub(super) fn of_arrow(unit: TimeUnit) -> Self {
        match unit {
            TimeUnit::Second => Self::Second,
            TimeUnit::Millisecond => Self::Millisecond,
            TimeUnit::Microsecond => Self::Microsecond,
            TimeUnit::Nanosecond => Self::Nanosecond,
        }
    }
}

/// The .NET ticks (100 ns since the start of the year 1) of the years 1990 to 2100. As nanoseconds since 1970
/// they would lie between November 1989 and the end of 1990.
const PLAUSIBLE_TICKS: Range<i64> = ticks(PLAUSIBLE_SECS.start)..ticks(PLAUSIBLE_SECS.end);

/// Seconds from the start of the year 1 to the epoch.
const YEAR_ONE_SECS: i64 = 62_135_596_800;

const TICKS_PER_SECOND: i64 = 10_000_000;

const fn ticks(epoch_secs: i64) -> i64 {
    (epoch_secs + YEAR_ONE_SECS) * TICKS_PER_SECOND
}

/// How the values of a time column are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Integers as they stand: the unit is told by the smallest and the largest of a file.
    Undecided,
    /// Integers that all count one unit, as they stand.
    Unit(TsUnit),
    /// Integers of which each must be looked at, because the smallest and the largest do not tell that all
    /// count one unit. They come out in `unit`.
    Each { declared: Option<TsUnit>, unit: TsUnit },
    /// Integers of eight digits that are dates, such as 20240108. They come out in microseconds.
    Dates,
    /// Text. It comes out in microseconds.
    Text,
}

impl Reading {
    /// How integers from `min` to `max` are read: by a unit that is declared or proven where these two
    /// suffice to say so, otherwise one by one.
    ///
    /// `InvalidInput` where a unit is declared of what can only be dates.
    pub(super) fn of_integers(declared: Option<TsUnit>, min: i64, max: i64) -> Result<Self> {
        let are_dates = date(min).is_some() && date(max).is_some();
        match declared {
            Some(unit) if are_dates => Err(Error::invalid(format!(
                "the time column is declared in {unit}, but holds dates such as {min}; leave the unit out \
                 (with_ts_unit)"
            ))
            .with("smallest", min)
            .with("largest", max)),
            Some(unit) => {
                let is_other = |other: &TsUnit| {
                    *other != unit && min < other.plausible().end && max >= other.plausible().start
                };
                let is_sure = unit.instant(min).is_some()
                    && unit.instant(max).is_some()
                    && !TsUnit::ALL.iter().any(is_other);
                Ok(if is_sure { Self::Unit(unit) } else { Self::Each { declared, unit } })
            }
            None if are_dates => Ok(Self::Dates),
            None => Ok(match (TsUnit::of(min), TsUnit::of(max)) {
                (Some(unit), Some(other))
                    if unit == other
                        && !PLAUSIBLE_TICKS.contains(&min)
                        && !PLAUSIBLE_TICKS.contains(&max) =>
                {
                    Self::Unit(unit)
                }
                // The largest value has the finest unit.
                (_, finest) => Self::Each { declared, unit: finest.unwrap_or(TsUnit::Nanosecond) },
            }),
        }
    }

    /// Whether values must be read anew after the file was read with [`Reading::Undecided`].
    pub(super) fn is_by_row(self) -> bool {
        matches!(self, Self::Each { .. } | Self::Dates)
    }

    /// How times are read, in words.
    pub(super) fn told(self, format: Option<&TimeFormat>, zone: Option<Zone>) -> String {
        let zone = || zone.map_or_else(|| "UTC".to_owned(), |zone| zone.to_string());
        match self {
            Self::Unit(unit) => format!("{unit} since 1970"),
            Self::Undecided | Self::Each { .. } => "numbers since 1970, each in its own unit".to_owned(),
            Self::Dates => format!("dates of eight digits, {}", zone()),
            Self::Text => match format {
                Some(format) if format.tells_offset() => format!("text as {format}"),
                Some(format) => format!("text as {format}, {}", zone()),
                None => format!("ISO 8601 text, {} unless it says otherwise", zone()),
            },
        }
    }

    /// Whether values count from the epoch, and so are instants whatever the zone.
    pub(super) fn is_epoch(self) -> bool {
        matches!(self, Self::Undecided | Self::Unit(_) | Self::Each { .. })
    }

    /// The unit of the times that come out.
    pub(super) fn unit(self) -> TsUnit {
        match self {
            Self::Unit(unit) | Self::Each { unit, .. } => unit,
            Self::Undecided | Self::Dates | Self::Text => TsUnit::Microsecond,
        }
    }

    /// The time that an integer names, in the unit of this reading. Whoever knows its line, column and value
    /// adds them to the error.
    pub(super) fn integer(self, value: i64) -> Result<i64> {
        match self {
            Self::Undecided | Self::Unit(_) | Self::Text => Ok(value),
            Self::Dates => date(value).ok_or_else(|| {
                Error::schema(
                    "a time is not a date of eight digits such as 20240108, although others are; correct it, or write \
                     ISO 8601 text",
                )
            }),
            Self::Each { declared: Some(unit), .. } => match TsUnit::of(value) {
                Some(other) if other != unit => Err(Error::schema(format!(
                    "the time column is declared in {unit}, but this value can only be {other}; leave the unit out, \
                     so that each value is read by its own (with_ts_unit)"
                ))),
                _ if unit.instant(value).is_some() => Ok(value),
                _ => Err(Error::schema(format!(
                    "the time column is declared in {unit}, but this value leaves the years 1678 to 9999"
                ))),
            },
            Self::Each { declared: None, .. } if PLAUSIBLE_TICKS.contains(&value) => {
                let text = |ts: Option<Timestamp>| ts.map_or_else(String::new, |ts| ts.to_string());
                let micros = (value - YEAR_ONE_SECS * TICKS_PER_SECOND) / 10;
                Err(Error::invalid(
                    "a time may count nanoseconds since 1970 or .NET ticks since the year 1; if it counts nanoseconds, \
                     say so (with_ts_unit), otherwise write ISO 8601 text",
                )
                .with("as_nanoseconds", text(TsUnit::Nanosecond.instant(value)))
                .with("as_ticks", text(Timestamp::from_micros(micros).ok())))
            }
            Self::Each { declared: None, unit } => match TsUnit::of(value) {
                Some(own) => Ok(value * (unit.per_second() / own.per_second())),
                None => Err(Error::schema(
                    "the unit of a time cannot be proven: no unit puts it into the years 1990 to 2100; correct it, \
                     declare seconds, milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text",
                )),
            },
        }
    }
}

/// Microseconds of a date of eight digits, such as 20240108, or of one with hours and minutes, and perhaps seconds,
/// behind it: 202401081430, 20240108143000. `None` for any other number.
fn date(value: i64) -> Option<i64> {
    let length = match value {
        10_000_000..100_000_000 => 8,
        // No unit puts these into the years 1990 to 2100.
        100_000_000_000..300_000_000_000 => 12,
        10_000_000_000_000..30_000_000_000_000 => 14,
        _ => return None,
    };
    let digits = value.to_string();
    let date: Timestamp = digits[..8].parse().ok()?;
    let number = |at: usize| digits.get(at..at + 2).filter(|_| length > at)?.parse::<i64>().ok();
    let part = |at: usize, bound: i64| if length > at { number(at).filter(|n| *n < bound) } else { Some(0) };
    let (hours, minutes, seconds) = (part(8, 24)?, part(10, 60)?, part(12, 60)?);
    Some(date.as_micros() + ((hours * 60 + minutes) * 60 + seconds) * 1_000_000)
}

/// Microseconds of an ISO 8601 date or date and time; `None` for anything else, for instants
/// outside 1678 to 9999, and for those between two microseconds, which nothing here could hold.
///
/// Blanks may stand doubled and before an offset, `UTC` or `GMT` in place of one, and 24:00 for the end of a day.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let is_number = text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
    let is_finer = text.split_once('.').is_some_and(|(_, fraction)| {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit);
        digits.skip(6).any(|digit| digit != b'0')
    });
    if is_number || is_finer {
        return None;
    }
    let read = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_micros);
    read(text).or_else(|| {
        let tidy = tidied(text);
        match end_of_day(&tidy) {
            Some(next) => read(&next)?.checked_add(86_400_000_000),
            None => read(&tidy),
        }
    })
}

/// How far a time in text says that its clocks are ahead of UTC, in microseconds, if it says so.
fn iso_offset(text: &str) -> Option<i64> {
    /// Behind the day of a date, in any of its forms.
    const CLOCK: usize = "20240101".len();
    let text = text.trim_ascii();
    if ["Z", "z", "UTC", "GMT", "utc", "gmt"].iter().any(|word| text.ends_with(word)) {
        return Some(0);
    }
    let rest = text.get(CLOCK..)?;
    let at = rest.rfind(['+', '-'])?;
    let digits: String = rest[at + 1..].chars().filter(char::is_ascii_digit).collect();
    let part = |from: usize| digits.get(from..from + 2).map_or(Some(0), |digits| digits.parse::<i64>().ok());
    let secs = (part(0)? * 60 + part(2)?) * 60 + part(4)?;
    // In a date alone, this is the dash before its day.
    let is_date = at == 0 || !text.contains([':', 'T', 't', ' ']);
    (!is_date).then_some(if rest[at..].starts_with('-') { -secs } else { secs } * 1_000_000)
}

/// A time of 24:00 as the beginning of its day.
fn end_of_day(text: &str) -> Option<String> {
    const DATE: usize = "2024-01-01".len();
    let clock = text.get(DATE + 1..)?.strip_prefix("24")?;
    let zone = clock.find(|c: char| !c.is_ascii_digit() && !":.".contains(c)).unwrap_or(clock.len());
    let is_zero = clock[..zone].starts_with(":00") && clock[..zone].chars().all(|c| "0:.".contains(c));
    is_zero.then(|| format!("{}00{clock}", &text[..=DATE]))
}

/// Microseconds of a time in text: of the given form, or ISO 8601 where there is none.
pub(super) fn parse_text(text: &str, format: Option<&TimeFormat>) -> Option<i64> {
    format.map_or_else(|| parse_iso(text), |format| format.micros(text))
}

/// What clocks showed at a time in text, of the given form, or ISO 8601 where there is none.
pub(super) fn parse_wall(text: &str, format: Option<&TimeFormat>) -> Option<Wall> {
    match format {
        Some(format) => format.wall(text),
        None => {
            let (micros, offset) = (parse_iso(text)?, iso_offset(text));
            Some(Wall { micros: micros + offset.unwrap_or(0), offset })
        }
    }
}

/// A time without what people add to it: doubled blanks, one before an offset, the word UTC.
fn tidied(text: &str) -> String {
    let text =
        ["UTC", "GMT", "utc", "gmt"].iter().find_map(|word| text.trim().strip_suffix(word)).unwrap_or(text);
    let words: Vec<_> = text.split_whitespace().collect();
    let mut tidy = words.join(" ");
    for sign in [" +", " -", " Z"] {
        if let Some(at) = tidy.rfind(sign).filter(|at| *at > 8) {
            tidy.remove(at);
        }
    }
    tidy
}

/// That a time in text is not of the form that its column has.
pub(super) fn not_of_form(format: &TimeFormat) -> Error {
    Error::schema(format!(
        "a time does not have the format {format}; correct it, or give another format (with_time_format)"
    ))
}

/// A written form of times that ISO 8601 does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    pattern: String,
    items: Vec<Item<'static>>,
    /// How many digits each number has. Where nothing stands between two parts, a lost zero would make other ones of
    /// them.
    digits: Vec<Option<usize>>,
    tells_offset: bool,
}

impl TimeFormat {
    /// A form by the specifiers of `strftime`, such as `%d.%m.%Y %H:%M`. Without an offset (`%z`) times are UTC,
    /// without a time of day they are midnight. `InvalidInput` for a specifier that there is not.
    pub fn new(pattern: impl Into<String>) -> Result<Self> {
        let pattern = pattern.into();
        let bad = |why: &str| {
            Err(Error::invalid(format!("not a time format: {why}"))
                .with("format", format_args!("{pattern:?}")))
        };
        let Ok(items) = StrftimeItems::new(&pattern).parse_to_owned() else {
            return bad("it has an unknown specifier; use those of strftime, such as %d.%m.%Y %H:%M:%S");
        };
        if !items.iter().any(|item| matches!(item, Item::Numeric(..) | Item::Fixed(_))) {
            return bad("it has no specifier; use those of strftime, such as %d.%m.%Y %H:%M:%S");
        }
        if items.contains(&Item::Fixed(Fixed::TimezoneName)) {
            return bad(
                "the name of a time zone does not tell an offset; write times with one (%z), or in UTC",
            );
        }
        let (digits, tells_offset) = (digits(&items), tells_offset(&pattern, &items));
        Ok(Self { pattern, items, digits, tells_offset })
    }

    /// Whether a time in this form says how far it is from UTC.
    pub(super) fn tells_offset(&self) -> bool {
        self.tells_offset
    }

    /// Microseconds of a time in this form; `None` for anything else and for instants outside 1678 to 9999.
    pub(super) fn micros(&self, text: &str) -> Option<i64> {
        let Wall { micros, offset } = self.wall(text)?;
        Timestamp::from_micros(micros - offset.unwrap_or(0)).ok().map(Timestamp::as_micros)
    }

    /// What clocks showed at a time in this form; `None` for anything else.
    fn wall(&self, text: &str) -> Option<Wall> {
        let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
        if numbers
            .zip(&self.digits)
            .any(|(number, digits)| digits.is_some_and(|digits| number.len() != digits))
        {
            return None;
        }
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, text, self.items.iter()).ok()?;
        if parsed.timestamp().is_some() {
            let micros = parsed.to_datetime_with_timezone(&Utc).ok()?.timestamp_micros();
            return Some(Wall { micros, offset: Some(0) });
        }
        let date = parsed.to_naive_date().ok()?;
        let has_time = parsed.hour_div_12().is_some() || parsed.hour_mod_12().is_some();
        if has_time && parsed.minute().is_none() {
            // An hour alone is a full one.
            parsed.set_minute(0).ok()?;
        }
        let time = if has_time { parsed.to_naive_time().ok()? } else { NaiveTime::MIN };
        let told = parsed.offset().map(|secs| i64::from(secs) * 1_000_000);
        let offset = told.or(self.tells_offset.then_some(0));
        Some(Wall { micros: date.and_time(time).and_utc().timestamp_micros(), offset })
    }

    /// The only known form in which all of these times are written. `None` where there is none; the names of several
    /// forms of which each puts the parts of a date into another order, even if that makes no difference here: behind
    /// these times there may be others.
    pub(super) fn of<'a>(
        times: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Option<Result<Self, Vec<String>>> {
        let form = |date: &str, clock: &str| {
            let format = Self::new(format!("{date}{clock}")).ok()?;
            times.clone().all(|text| format.micros(text).is_some()).then_some(format)
        };
        times.clone().next()?;
        let mut found: Vec<Self> =
            DATES.iter().filter_map(|date| CLOCKS.iter().find_map(|clock| form(date, clock))).collect();
        match found.len() {
            0 => None,
            1 => found.pop().map(Ok),
            _ => Some(Err(found.into_iter().map(|format| format.pattern).collect())),
        }
    }
}

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

fn tells_offset(pattern: &str, items: &[Item<'_>]) -> bool {
    let is_utc = |text: &str| text.contains("UTC") || text.contains("GMT");
    let is_zone = |item: &Item<'_>| match item {
        Item::Literal(text) => is_utc(text),
        Item::OwnedLiteral(text) => is_utc(text),
        Item::Numeric(Numeric::Timestamp, _) => true,
        Item::Fixed(Fixed::RFC2822 | Fixed::RFC3339) => true,
        _ => false,
    };
    items.iter().any(is_zone) || pattern.contains("%z") || pattern.contains("%:z") || pattern.contains("%#z")
}

/// The digits of each number of a form, known where it has several parts.
fn digits(items: &[Item<'_>]) -> Vec<Option<usize>> {
    let is_numeric = |item: &Item<'_>| matches!(item, Item::Numeric(..));
    let width = |item: &Item<'_>| match item {
        Item::Numeric(Numeric::Year | Numeric::IsoYear, _) => Some(4),
        Item::Numeric(Numeric::Ordinal, _) => Some(3),
        Item::Numeric(Numeric::Timestamp | Numeric::Nanosecond | Numeric::Internal(_), _) => None,
        _ => Some(2),
    };
    let numbers = items.chunk_by(|a, b| is_numeric(a) && is_numeric(b)).filter(|parts| is_numeric(&parts[0]));
    numbers
        .map(|parts| if parts.len() > 1 { parts.iter().map(width).sum::<Option<usize>>() } else { None })
        .collect()
}

/// How dates are written, and below how a time of day may follow.
const DATES: [&str; 22] = [
    "%Y.%m.%d",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%B %d, %Y",
    "%B %d %Y",
    "%d %B %Y",
    "%d-%B-%Y",
    "%a, %d %B %Y",
    "%A, %B %d, %Y",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%y.%m.%d",
    "%y/%m/%d",
    "%y-%m-%d",
    "%d-%B-%y",
    "%Y-%m-%d",
];

const CLOCKS: [&str; 14] = [
    "",
    " %H:%M",
    " %H:%M:%S%.f",
    " %H%M",
    " %H%M%S",
    " %I:%M %p",
    " %I:%M:%S %p",
    " %H:%M %#z",
    " %H:%M:%S%.f %#z",
    " %H:%M UTC",
    " %H:%M:%S%.f UTC",
    " %H:%M:%S%.f GMT",
    "T%H:%M",
    "T%H:%M:%S%.f",
];

#[cfg(test)]
mod tests;
