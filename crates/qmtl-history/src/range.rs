//! Which bars a command is about: the flags, and what they mean on a grid at a point in time.

use std::time::Duration;

use clap::Args;
use qmtl_history_api::{Error, Interval, Result, TimeRange, Timestamp};

use crate::cli::{parse_count, parse_length};

/// The ways to name a range of bars; one of them at a time.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Range (UTC; ends are exclusive)")]
#[non_exhaustive]
pub struct RangeArgs {
    /// The first bar: ISO 8601, a date such as 20240101, a year, or epoch seconds
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, conflicts_with_all = ["timerange", "last", "bars", "range"])]
    pub start: Option<Timestamp>,
    /// Where to stop; a bar that opens at this time is left out [default: now]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, conflicts_with_all = ["timerange", "last", "bars", "range"])]
    pub end: Option<Timestamp>,
    /// 20240101-20240601 or 2023-2024 (the end is exclusive), or 20240101- up to now
    #[arg(long, value_name = "FROM-TO", allow_negative_numbers = true, value_parser = parse_timerange, conflicts_with_all = ["last", "bars", "range"])]
    pub timerange: Option<Span>,
    /// The time before now: 36h, 30d, 4w
    #[arg(long, value_name = "SPAN", value_parser = parse_length, conflicts_with_all = ["bars", "range"])]
    pub last: Option<Duration>,
    /// The last N closed bars before now
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "range")]
    pub bars: Option<u64>,
    /// A range as this program prints it, both ends included: FIRST..=LAST
    #[arg(long, value_name = "FIRST..=LAST", value_parser = parse_inclusive)]
    pub range: Option<Span>,
}

/// A range that may still depend on the time and the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Span {
    /// Nothing was said.
    Whole,
    /// `[start, end)`; an open end is now, an open start the beginning of the series.
    Between(Option<Timestamp>, Option<Timestamp>),
    /// So much time before now.
    Last(Duration),
    /// So many closed bars before now.
    Bars(u64),
    /// Both ends named and on hand.
    Exact(TimeRange),
}

/// The range of a fill: what of the wish has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedRange {
    /// Only bars that have closed.
    pub range: TimeRange,
    /// Bars of the wish that have not, and are left out.
    pub left_out: u64,
}

impl RangeArgs {
    /// What was asked for; `InvalidInput` when a start is not before its end.
    pub fn span(&self) -> Result<Span> {
        let (given, open) = (self.timerange.or(self.range), (self.start, self.end));
        Ok(match (given, self.last, self.bars, open) {
            (Some(span), ..) => span,
            (_, Some(last), ..) => Span::Last(last),
            (_, _, Some(bars), _) => Span::Bars(bars),
            (.., (None, None)) => Span::Whole,
            (.., (start, end)) => between(start, end)?,
        })
    }
}

impl Span {
    /// Whether nothing says where it begins.
    pub(crate) fn has_no_start(self) -> bool {
        matches!(self, Self::Whole | Self::Between(None, _))
    }

    /// The range for reading: an end that was not named is as far as the series goes.
    pub fn resolve(self, interval: Interval, now: Timestamp) -> Result<TimeRange> {
        let floor = interval.floor(now).unwrap_or(Timestamp::MIN);
        let before = |micros: i64| {
            let start = floor.checked_add_micros(-micros).unwrap_or(Timestamp::MIN);
            TimeRange::new(start, floor).map_err(|e| e.with("interval", interval))
        };
        match self {
            Self::Whole => Ok(TimeRange::ALL),
            Self::Between(Some(start), None) if start > now => {
                Err(Error::invalid("the range begins in the future").with("start", start).with("now", now))
            }
            Self::Between(start, end) => {
                TimeRange::new(start.unwrap_or(Timestamp::MIN), end.unwrap_or(Timestamp::MAX))
            }
            Self::Exact(range) => Ok(range),
            Self::Last(span) => before(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)),
            Self::Bars(bars) => {
                before(i64::try_from(bars).unwrap_or(i64::MAX).saturating_mul(interval.as_micros()))
            }
        }
    }

    /// The range for a fill: it must have a start, and bars that have not closed are left out.
    pub fn resolve_closed(self, interval: Interval, now: Timestamp) -> Result<ClosedRange> {
        if self.has_no_start() {
            return Err(Error::invalid(
                "a fill from anything but files needs a start: use --start TIME [--end TIME], --timerange 20240101-20240601, \
                 --last 30d, --bars 500 or --range FIRST..=LAST",
            ));
        }
        let wish = self.resolve(interval, now)?;
        let closed = interval.floor(now).and_then(|end| TimeRange::checked(Timestamp::MIN, end));
        let range =
            closed.and_then(|closed| wish.intersect(closed)).filter(|range| range.count(interval) > 0);
        let Some(range) = range else {
            let message = if wish.count(interval) == 0 {
                "no bar opens inside the range"
            } else {
                "no bar of the range has closed yet"
            };
            return Err(Error::invalid(message)
                .with("range", wish)
                .with("interval", interval)
                .with("now", now));
        };
        let open_end = matches!(self, Self::Between(_, None));
        let left_out = if open_end { 0 } else { wish.count(interval) - range.count(interval) };
        Ok(ClosedRange { range, left_out })
    }
}

/// Reads `20240101-20240601`, `20240101-`, `-20240601`, with dates, years or epoch seconds.
fn parse_timerange(text: &str) -> Result<Span> {
    let bad = || {
        Error::invalid(
            "not a time range: use 20240101-20240601 or 20240101-; other forms go to --start and --end",
        )
        .with("value", format_args!("{text:?}"))
    };
    let (from, to) = text.split_once('-').ok_or_else(bad)?;
    if to.contains('-') || (from.is_empty() && to.is_empty()) {
        return Err(bad());
    }
    let end = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
    between(end(from)?, end(to)?)
}

/// Reads `FIRST..=LAST`.
fn parse_inclusive(text: &str) -> Result<Span> {
    let (first, last) = text.split_once("..=").ok_or_else(|| {
        Error::invalid("not a range: use FIRST..=LAST, such as 2024-01-01T00:00:00Z..=2024-01-31T23:59:00Z")
            .with("value", format_args!("{text:?}"))
    })?;
    TimeRange::inclusive(first.trim().parse()?, last.trim().parse()?).map(Span::Exact)
}

fn between(start: Option<Timestamp>, end: Option<Timestamp>) -> Result<Span> {
    match (start, end) {
        (Some(start), Some(end)) => TimeRange::new(start, end).map(Span::Exact),
        _ => Ok(Span::Between(start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn range(start: &str, end: &str) -> TimeRange {
        TimeRange::new(at(start), at(end)).unwrap()
    }

    #[test]
    fn a_timerange_has_compact_ends() {
        let whole = range("2024-01-01", "2024-06-01");
        assert_eq!(parse_timerange("20240101-20240601").unwrap(), Span::Exact(whole));
        assert_eq!(parse_timerange("1704067200-1717200000").unwrap(), Span::Exact(whole));
        let year = range("2024-01-01", "2025-01-01");
        assert_eq!(parse_timerange("2024-2025").unwrap(), Span::Exact(year));
        assert_eq!(parse_timerange("20240101-2025").unwrap(), Span::Exact(year));
        assert_eq!(parse_timerange("2024-").unwrap(), Span::Between(Some(at("2024-01-01")), None));
        let error = parse_timerange("2024-06").unwrap_err().to_string();
        assert!(error.starts_with("too few digits for epoch seconds"), "{error}");
        assert_eq!(parse_timerange("20240101-").unwrap(), Span::Between(Some(at("2024-01-01")), None));
        assert_eq!(parse_timerange("-20240601").unwrap(), Span::Between(None, Some(at("2024-06-01"))));
        for bad in ["", "-", "20240101", "2024-01-01-2024-06-01", "20240101-x", "20240601-20240101"] {
            assert!(parse_timerange(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_printed_range_is_taken_back_with_its_last_bar() {
        let Span::Exact(range) = parse_inclusive("2024-01-01T00:00:00Z..=2024-01-01T00:10:00Z").unwrap()
        else {
            panic!("a printed range has both ends")
        };
        let five = "5m".parse().unwrap();
        assert_eq!(range.bounds(five), Some((at("2024-01-01"), at("2024-01-01T00:10:00Z"))));
        let error = parse_inclusive("2024-01-02..2024-01-01").unwrap_err().to_string();
        assert!(error.starts_with("not a range: use FIRST..=LAST"), "{error}");
        let error = parse_inclusive("2024-01-02..=2024-01-01").unwrap_err().to_string();
        assert!(error.contains("first bar must not be after its last"), "{error}");
    }

    #[test]
    fn relative_spans_end_with_the_last_closed_bar() {
        let (five, now) = ("5m".parse().unwrap(), at("2024-03-01T12:07:30Z"));
        assert_eq!(
            Span::Bars(2).resolve(five, now).unwrap(),
            range("2024-03-01T11:55:00Z", "2024-03-01T12:05:00Z")
        );
        assert_eq!(
            Span::Last(Duration::from_secs(3_600)).resolve(five, now).unwrap(),
            range("2024-03-01T11:05:00Z", "2024-03-01T12:05:00Z")
        );
        assert_eq!(Span::Bars(u64::MAX).resolve(five, now).unwrap().start(), Timestamp::MIN);
    }

    #[test]
    fn a_fill_leaves_bars_out_that_have_not_closed() {
        let (five, now) = ("5m".parse().unwrap(), at("2024-03-01T12:07:30Z"));
        let wish = Span::Exact(range("2024-03-01T12:00:00Z", "2024-03-01T12:20:00Z"));
        let closed = wish.resolve_closed(five, now).unwrap();
        assert_eq!(closed.range, range("2024-03-01T12:00:00Z", "2024-03-01T12:05:00Z"));
        assert_eq!(closed.left_out, 3);
        let open = Span::Between(Some(at("2024-03-01")), None).resolve_closed(five, now).unwrap();
        assert_eq!((open.range.end(), open.left_out), (at("2024-03-01T12:05:00Z"), 0));
    }

    #[test]
    fn a_fill_says_what_it_cannot_do() {
        let (five, now) = ("5m".parse().unwrap(), at("2024-03-01T12:07:30Z"));
        let fail = |span: Span| span.resolve_closed(five, now).unwrap_err().to_string();
        assert!(
            fail(Span::Whole).starts_with("a fill from anything but files needs a start: use --start TIME")
        );
        assert!(
            fail(Span::Between(None, Some(now))).starts_with("a fill from anything but files needs a start")
        );
        assert_eq!(
            fail(Span::Between(Some(at("2025-01-01")), None)),
            "the range begins in the future (start: 2025-01-01T00:00:00Z, now: 2024-03-01T12:07:30Z)"
        );
        assert_eq!(
            fail(Span::Exact(range("2025-01-01", "2025-01-02"))),
            "no bar of the range has closed yet (range: [2025-01-01T00:00:00Z, 2025-01-02T00:00:00Z), \
             interval: 5m, now: 2024-03-01T12:07:30Z)"
        );
        assert!(
            fail(Span::Exact(range("2024-01-01T00:01:00Z", "2024-01-01T00:02:00Z")))
                .starts_with("no bar opens inside the range")
        );
    }
}
