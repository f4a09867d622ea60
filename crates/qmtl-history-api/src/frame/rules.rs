//! What becomes of rows that stand on no point of the grid, or that have no number where a bar has its prices.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Error, Interval, Result, TimeRange, Timestamp};

/// How a source's odd rows are treated: see [`SourceProfile`](crate::SourceProfile).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rules {
    /// Rows that stand on no point of the grid.
    pub off_grid: OffGridRule,
    /// Rows with NaN, infinity or null in a column of prices.
    pub nan: NanRule,
}

impl Rules {
    /// Treats rows off the grid by another rule.
    #[must_use]
    pub fn with_off_grid(mut self, rule: OffGridRule) -> Self {
        self.off_grid = rule;
        self
    }

    /// Treats rows without prices by another rule.
    #[must_use]
    pub fn with_nan(mut self, rule: NanRule) -> Self {
        self.nan = rule;
        self
    }

    /// What is to be requested of a source for the rows of `range`: more where rows before it may be moved into it.
    #[must_use]
    pub fn asked(self, range: TimeRange, interval: Interval) -> TimeRange {
        match self.off_grid {
            OffGridRule::Nearest(_) => {
                let start = range.start().checked_add_micros(-interval.as_micros()).unwrap_or(Timestamp::MIN);
                TimeRange::checked(start, range.end()).unwrap_or(range)
            }
            _ => range,
        }
    }
}

/// What becomes of a row that stands on no point of the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffGridRule {
    /// It is left out and listed, and its bar is missing.
    #[default]
    List,
    /// It is an error, which costs all rows of the same request.
    Refuse,
    /// It is left out and listed as no bar, so that its source may prove that its bar does not exist.
    Drop,
    /// It becomes the bar in which it stands. Of two rows of one bar the one on the grid stays, else the earlier one,
    /// and the other is listed as a conflict.
    Floor,
    /// It becomes the bar whose opening is nearest, if that is no further away than this; otherwise it is listed.
    Nearest(Duration),
}

impl OffGridRule {
    /// Where a row of bars of `interval` stands by this rule: on a point of the grid, or where it was.
    #[must_use]
    pub fn moved(self, ts: Timestamp, interval: Interval) -> Timestamp {
        match self {
            Self::List | Self::Refuse | Self::Drop => ts,
            Self::Floor => interval.floor(ts).unwrap_or(ts),
            Self::Nearest(within) => {
                let near = |point: Option<Timestamp>| {
                    let point = point?;
                    let distance = if point < ts { ts.since(point) } else { point.since(ts) };
                    (distance <= within).then_some((distance, point))
                };
                let nearest = [near(interval.floor(ts)), near(interval.ceil(ts))].into_iter().flatten().min();
                nearest.map_or(ts, |(_, point)| point)
            }
        }
    }
}

/// Prints what [`OffGridRule::from_str`] reads.
impl fmt::Display for OffGridRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => f.write_str("list"),
            Self::Refuse => f.write_str("refuse"),
            Self::Drop => f.write_str("drop"),
            Self::Floor => f.write_str("floor"),
            Self::Nearest(within) => write!(f, "nearest:{within:?}"),
        }
    }
}

/// Reads `list`, `refuse`, `drop`, `floor`, or `nearest:` and a distance such as `500ms` or `5s`.
impl FromStr for OffGridRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let distance = |text: &str| {
            let digits = text.find(|c: char| !c.is_ascii_digit())?;
            let count: u64 = text[..digits].parse().ok()?;
            let distance = match &text[digits..] {
                "us" => Duration::from_micros(count),
                "ms" => Duration::from_millis(count),
                "s" => Duration::from_secs(count),
                "m" => Duration::from_secs(count.checked_mul(60)?),
                "h" => Duration::from_secs(count.checked_mul(3_600)?),
                _ => return None,
            };
            (!distance.is_zero()).then_some(distance)
        };
        let rule = match text {
            "list" => Some(Self::List),
            "refuse" => Some(Self::Refuse),
            "drop" => Some(Self::Drop),
            "floor" => Some(Self::Floor),
            _ => text.strip_prefix("nearest:").and_then(distance).map(Self::Nearest),
        };
        rule.ok_or_else(|| {
            Error::invalid("use list, refuse, drop, floor, or nearest and a distance, such as nearest:5s")
                .with("rule", format_args!("{text:?}"))
        })
    }
}

/// What becomes of a row with NaN, infinity or null in a column of prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NanRule {
    /// It is stored as it is, and told.
    #[default]
    Keep,
    /// It is left out, and its bar is missing, so that another source may have it.
    Missing,
    /// It is an error, which costs all rows of the same request.
    Refuse,
}

/// Prints what [`NanRule::from_str`] reads.
impl fmt::Display for NanRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Missing => "missing",
            Self::Refuse => "refuse",
        })
    }
}

/// Reads `keep`, `missing` or `refuse`.
impl FromStr for NanRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "keep" => Ok(Self::Keep),
            "missing" => Ok(Self::Missing),
            "refuse" => Ok(Self::Refuse),
            _ => Err(Error::invalid("use keep, missing or refuse").with("rule", format_args!("{text:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_moves_a_row_onto_the_grid_or_leaves_it() {
        let minute: Interval = "1m".parse().unwrap();
        let moved = |rule: &str, millis: i64| {
            let ts = Timestamp::from_micros(millis * 1_000).unwrap();
            rule.parse::<OffGridRule>().unwrap().moved(ts, minute).as_micros() / 1_000
        };
        for (rule, at, to) in [
            ("list", 60_017, 60_017),
            ("drop", 60_017, 60_017),
            ("floor", 60_000, 60_000),
            ("floor", 119_999, 60_000),
            ("floor", -1, -60_000),
            ("nearest:5s", 65_000, 60_000),
            ("nearest:5s", 65_001, 65_001),
            ("nearest:5s", 55_000, 60_000),
            ("nearest:17ms", 60_017, 60_000),
            ("nearest:1h", 89_999, 60_000),
            ("nearest:1h", 90_001, 120_000),
        ] {
            assert_eq!(moved(rule, at), to, "{rule} {at}");
        }
    }

    #[test]
    fn rules_print_as_they_are_read() {
        for text in ["list", "refuse", "drop", "floor", "nearest:5s", "nearest:500ms"] {
            assert_eq!(text.parse::<OffGridRule>().unwrap().to_string(), text);
        }
        for text in ["keep", "missing", "refuse"] {
            assert_eq!(text.parse::<NanRule>().unwrap().to_string(), text);
        }
        for bad in ["", "nearest", "nearest:", "nearest:5", "nearest:0s", "nearest:5d", "ceil", "LIST"] {
            let error = bad.parse::<OffGridRule>().unwrap_err().to_string();
            assert!(error.contains("such as nearest:5s"), "{error}");
        }
        assert!("drop".parse::<NanRule>().is_err());
    }
}
