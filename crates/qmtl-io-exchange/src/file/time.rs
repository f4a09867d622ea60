//! Which instant a value of the time column names: integers of a declared or proven unit, or
//! ISO 8601 text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use qmtl_history_api::arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use qmtl_history_api::arrow_array::{ArrayRef, PrimitiveArray, types::ArrowTimestampType};
use qmtl_history_api::arrow_schema::TimeUnit;
use qmtl_history_api::{Error, Result, TimeRange, Timestamp};

/// 1990-01-01T00:00:00Z and 2101-01-01T00:00:00Z in seconds: between them lie the values by which
/// a file proves its unit. A factor of a thousand lies between units, and less than ten between
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

    /// The instant `value` of this unit, rounded down to a microsecond; `None` outside 1970 to 9999.
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
                (ts.as_micros() + step - 1) / step
            }
        };
        bound(range.start())..bound(range.end())
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

/// The unit of integers from `min` to `max`: proven by them, or declared and not disproven.
pub(super) fn unit_of(declared: Option<TsUnit>, min: i64, max: i64) -> Result<TsUnit> {
    let plausible = |unit: &TsUnit| {
        let scale = unit.per_second();
        PLAUSIBLE_SECS.contains(&min.div_euclid(scale)) && PLAUSIBLE_SECS.contains(&max.div_euclid(scale))
    };
    let proven = TsUnit::ALL.into_iter().find(plausible);
    let fault = |message: String| Error::schema(message).with("smallest", min).with("largest", max);
    match (declared, proven) {
        (None, Some(unit)) => Ok(unit),
        (None, None) => Err(fault(
            "the unit of the time column cannot be proven: no unit puts every value into the years 1990 to 2100; \
             declare seconds, milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text"
                .into(),
        )),
        (Some(unit), Some(other)) if unit != other => {
            Err(fault(format!("the time column is declared in {unit}, but its values can only be {other}")))
        }
        (Some(unit), _) => match (unit.instant(min), unit.instant(max)) {
            (Some(_), Some(_)) => Ok(unit),
            _ => Err(fault(format!("the time column is declared in {unit}, but leaves the years 1970 to 9999"))),
        },
    }
}

/// Microseconds of an ISO 8601 date or date and time; `None` for anything else, for instants
/// outside 1970 to 9999, and for those between two microseconds, which nothing here could hold.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    let is_finer = text.split_once('.').is_some_and(|(_, fraction)| {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit);
        digits.skip(6).any(|digit| digit != b'0')
    });
    if is_number || is_finer {
        return None;
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_micros)
}

#[cfg(test)]
mod tests;
