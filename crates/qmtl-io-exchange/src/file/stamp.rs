//! Which of its times a bar is stamped with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::TimestampMicrosecondType;
use qmtl_history_api::arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use qmtl_history_api::arrow_cast;
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::frame::OffGridRule;
use qmtl_history_api::{Error, FetchRequest, Interval, Result, TimeRange, Timestamp, frame};

/// What the time of a bar says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stamp {
    /// When it opened.
    #[default]
    Open,
    /// When it closed: the opening time of the next one, or up to [`frame::close_slack`] before it.
    Close,
    /// The date on which it was traded, whatever time of day stands beside it: bars of a day or longer, which come out
    /// at midnight UTC of that date.
    Date,
}

/// Prints what [`Stamp::from_str`] reads.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Date => "date",
        })
    }
}

/// Reads `open`, `close` or `date`.
impl FromStr for Stamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "open" => Ok(Self::Open),
            "close" => Ok(Self::Close),
            "date" => Ok(Self::Date),
            _ => Err(Error::invalid("use open, close or date").with("stamp", format_args!("{text:?}"))),
        }
    }
}

impl Stamp {
    /// When a bar with this time opened; `None` before 1678. A time at which no bar closes stays as it is where rows are
    /// moved to the bar in which they stand.
    pub(super) fn opening(self, ts: Timestamp, interval: Interval, rule: OffGridRule) -> Option<Timestamp> {
        if self != Self::Close {
            return Some(ts);
        }
        let is_near = |end: &Timestamp| end.since(ts) <= frame::close_slack(interval);
        match interval.ceil(ts).filter(is_near) {
            None if rule == OffGridRule::Floor => Some(ts),
            end => end.unwrap_or(ts).checked_add_micros(-interval.as_micros()),
        }
    }

    /// Where the times of the rows stand that may be asked for.
    pub(super) fn stamped(self, request: &FetchRequest) -> TimeRange {
        let (range, length) = (request.range, request.key.interval.as_micros());
        if self != Self::Close {
            return range;
        }
        let later = |ts: Timestamp, micros| ts.checked_add_micros(micros).unwrap_or(Timestamp::MAX);
        // A row that is no close may be moved within its bar.
        TimeRange::checked(range.start(), later(range.end(), length)).unwrap_or(range)
    }

    /// The columns of rows with the opening times of their bars.
    pub(super) fn schema(self, own: SchemaRef) -> SchemaRef {
        if self != Self::Close {
            return own;
        }
        let payload = own.fields().iter().skip(1).cloned();
        Arc::new(Schema::new(std::iter::once(Arc::new(frame::ts_field())).chain(payload).collect::<Vec<_>>()))
    }

    /// The rows that are asked for, with the opening times of their bars.
    pub(super) fn opened(
        self,
        batch: RecordBatch,
        request: &FetchRequest,
        rule: OffGridRule,
    ) -> Result<RecordBatch> {
        if self != Self::Close {
            return Ok(batch);
        }
        let fault = |e| Error::unexpected("cannot give rows the opening times of their bars").caused_by(e);
        let times = arrow_cast::cast(batch.column(0), &frame::ts_type()).map_err(fault)?;
        let times = times.as_primitive::<TimestampMicrosecondType>().values();
        let opening =
            |time: &i64| self.opening(Timestamp::from_micros(*time).ok()?, request.key.interval, rule);
        let openings: Vec<_> = times.iter().map(opening).collect();
        let is_wanted = |ts: &Option<Timestamp>| Some(ts.is_some_and(|ts| request.range.contains(ts)));
        let wanted: BooleanArray = openings.iter().map(is_wanted).collect();
        let ts = frame::ts_array(openings.into_iter().map(|ts| ts.unwrap_or(Timestamp::MIN)));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ts)];
        columns.extend(batch.columns().iter().skip(1).cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let moved = RecordBatch::try_new_with_options(self.schema(batch.schema()), columns, &options);
        filter_record_batch(&moved.map_err(fault)?, &wanted).map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_is_stamped_with_its_close_opened_an_interval_before() {
        let minute = Interval::MINUTE;
        for (close, open) in [
            (60_000_000, 0),
            (59_999_000, 0),
            (59_999_999, 0),
            (59_000_000, 0),
            (58_999_999, -1_000_001),
            (90_000_000, 30_000_000),
        ] {
            let open = Timestamp::from_micros(open).unwrap();
            assert_eq!(
                Stamp::Close.opening(Timestamp::from_micros(close).unwrap(), minute, OffGridRule::List),
                Some(open),
                "{close}"
            );
        }
        // One that is no close stands in the bar that it is moved to.
        for (ts, moved) in [(90_000_000, 90_000_000), (59_999_000, 0)] {
            let ts = Timestamp::from_micros(ts).unwrap();
            let moved = Timestamp::from_micros(moved).ok();
            assert_eq!(Stamp::Close.opening(ts, minute, OffGridRule::Floor), moved);
        }
    }
}
