//! Bars that are made up where sources proved that there are none: flat ones, at the close before them.

use std::iter::Peekable;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, UInt32Array, new_null_array,
};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use qmtl_history_api::arrow_select::interleave::interleave;
use qmtl_history_api::arrow_select::take::take;
use qmtl_history_api::{Coverage, Error, Interval, RangeSet, Result, TimeRange, Timestamp, frame};

use super::layout::{FILLED, role};
use crate::cli::ExportArgs;

/// What is known of the bars of a range that no row is stored for.
#[derive(Debug)]
pub(crate) struct Known {
    /// Closed bars that are neither stored nor proved absent.
    pub(crate) missing: RangeSet,
    /// Bars that are proved absent, and the price before them is known.
    pub(crate) flat: RangeSet,
    /// Bars that are proved absent, and no price before them is known.
    pub(crate) unpriced: u64,
}

impl Known {
    /// From the coverage up to the end of `range`, as of `now`.
    pub(crate) fn new(coverage: &Coverage, range: TimeRange, interval: Interval, now: Timestamp) -> Self {
        let present = coverage.present().on_grid(interval);
        let empty = coverage.empty_by_any(now).on_grid(interval).difference(&present);
        let known = present.union(&empty);
        let asked = asked(range, &known.within(range), interval, now);
        let missing = asked.map_or_else(RangeSet::new, RangeSet::from).difference(&known).on_grid(interval);
        let mut priced = RangeSet::new();
        for run in known.iter() {
            // Where a missing bar stands between, the close before the empty ones is that of nobody knows what.
            if let Some(first) = present.within(run).span()
                && let Some(rest) = TimeRange::checked(first.start(), run.end())
            {
                priced.insert(rest);
            }
        }
        let empty = empty.within(range).on_grid(interval);
        let flat = empty.intersection(&priced);
        let unpriced = empty.count(interval) - flat.count(interval);
        Self { missing, flat, unpriced }
    }
}

/// The range that was asked for as far as its bars have closed; an open side is as far as the series goes, and an end
/// behind a start goes up to now.
fn asked(range: TimeRange, known: &RangeSet, interval: Interval, now: Timestamp) -> Option<TimeRange> {
    let closed = interval.floor(now).unwrap_or(now);
    let (from_start, to_end) = (range.start() == Timestamp::MIN, range.end() == Timestamp::MAX);
    let span = known.span();
    let start = if from_start { span?.start() } else { range.start() };
    let end = match (from_start, to_end) {
        (true, true) => span?.end(),
        (false, true) => closed,
        (_, false) => range.end(),
    };
    TimeRange::checked(start, end.min(closed))
}

/// What becomes of a column in a bar that is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The close before.
    Price,
    /// None was traded.
    Volume,
    /// Nothing is known.
    Other,
}

impl Part {
    fn of(field: &Field, args: &ExportArgs) -> Self {
        let name = role(field.name(), args);
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            _ if !field.data_type().is_numeric() => Self::Other,
            "open" | "high" | "low" | "close" => Self::Price,
            "trades" => Self::Volume,
            name if name == "volume" || name.ends_with("_volume") => Self::Volume,
            _ => Self::Other,
        }
    }
}

/// Rows with bars made up between them, a few thousand at a time: memory does not grow with a hole.
pub(crate) struct Flat {
    schema: SchemaRef,
    parts: Vec<Part>,
    close: usize,
    points: Peekable<Box<dyn Iterator<Item = Timestamp> + Send>>,
    /// The last close, as an array of one.
    price: Option<ArrayRef>,
    rows: Option<Rows>,
    /// How many bars were made up.
    pub(crate) filled: u64,
    /// How many were not, though they could be by what was known of them: the close before is no number.
    pub(crate) unpriced: u64,
}

/// Stored rows that are under way.
struct Rows {
    batch: RecordBatch,
    times: Vec<i64>,
    /// The closes as doubles, to see which is a number.
    closes: Float64Array,
    next: usize,
    /// The last row before `next` whose close is a number.
    priced: Option<usize>,
}

/// A row of the export.
#[derive(Clone, Copy)]
enum Pick {
    Row(usize),
    /// Made up at this time, at the close of a row, or else at that of the rows before.
    Flat(i64, Option<usize>),
}

/// Rows that are made at once.
const CHUNK: usize = 8_192;

impl Flat {
    /// For rows of these columns and bars at these points.
    pub(crate) fn new(
        read: &SchemaRef,
        flat: &RangeSet,
        interval: Interval,
        args: &ExportArgs,
    ) -> Result<Self> {
        let ranges: Vec<_> = flat.iter().collect();
        let points: Box<dyn Iterator<Item = Timestamp> + Send> =
            Box::new(ranges.into_iter().flat_map(move |range| range.points(interval)));
        let close =
            read.fields().iter().position(|field| role(field.name(), args).eq_ignore_ascii_case("close"));
        let mark = Arc::new(Field::new(FILLED, DataType::Boolean, false));
        Ok(Self {
            schema: Arc::new(Schema::new(read.fields().iter().cloned().chain([mark]).collect::<Vec<_>>())),
            parts: read.fields().iter().map(|field| Part::of(field, args)).collect(),
            close: close.ok_or_else(|| Error::unexpected("no close is read to make bars from"))?,
            points: points.peekable(),
            price: None,
            rows: None,
            filled: 0,
            unpriced: 0,
        })
    }

    /// Whether a bar is made up before this time, or at all, so that the close before the range is needed.
    pub(crate) fn begins_before(&mut self, first: Option<Timestamp>) -> bool {
        self.points.peek().is_some_and(|point| first.is_none_or(|first| *point < first))
    }

    /// The name of the column that prices come from.
    pub(crate) fn close(&self) -> &str {
        self.schema.field(self.close).name()
    }

    /// Starts from the close of a row before the range.
    pub(crate) fn start_from(&mut self, close: &ArrayRef) -> Result<()> {
        if let Some(last) = close.len().checked_sub(1)
            && is_number(&doubles(close)?, last)
        {
            self.price = Some(one_of(close, last)?);
        }
        Ok(())
    }

    /// Gives the next stored rows; what was given before must have been taken to its end.
    pub(crate) fn give(&mut self, batch: RecordBatch) -> Result<()> {
        let times = frame::timestamps(&batch)?.values().to_vec();
        let closes = doubles(batch.column(self.close))?;
        self.rows = Some(Rows { batch, times, closes, next: 0, priced: None });
        Ok(())
    }

    /// The next rows of what was given; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Result<Option<RecordBatch>> {
        let Some(mut rows) = self.rows.take() else { return Ok(None) };
        let mut picks = Vec::new();
        while picks.len() < CHUNK && rows.next < rows.times.len() {
            let ts = rows.times[rows.next];
            match self.points.next_if(|point| point.as_micros() <= ts) {
                // A row that arrived after it was looked up what is empty.
                Some(point) if point.as_micros() == ts => {}
                Some(point) if rows.priced.is_some() || self.price.is_some() => {
                    picks.push(Pick::Flat(point.as_micros(), rows.priced));
                }
                Some(_) => self.unpriced += 1,
                None => {
                    if is_number(&rows.closes, rows.next) {
                        rows.priced = Some(rows.next);
                    }
                    picks.push(Pick::Row(rows.next));
                    rows.next += 1;
                }
            }
        }
        let made = self.make(&rows.batch, &picks)?;
        if rows.next < rows.times.len() {
            self.rows = Some(rows);
        } else if let Some(last) = rows.priced {
            self.price = Some(one_of(rows.batch.column(self.close), last)?);
        }
        Ok(Some(made))
    }

    /// The next bars behind the last stored row; `None` at their end.
    pub(crate) fn take_rest(&mut self) -> Result<Option<RecordBatch>> {
        if self.price.is_none() {
            self.unpriced += u64::try_from(self.points.by_ref().count()).unwrap_or(u64::MAX);
        }
        let picks: Vec<_> =
            self.points.by_ref().take(CHUNK).map(|point| Pick::Flat(point.as_micros(), None)).collect();
        if picks.is_empty() {
            return Ok(None);
        }
        let read = Schema::new(self.schema.fields()[..self.parts.len()].to_vec());
        self.make(&RecordBatch::new_empty(Arc::new(read)), &picks).map(Some)
    }

    fn make(&mut self, rows: &RecordBatch, picks: &[Pick]) -> Result<RecordBatch> {
        let marks: BooleanArray = picks.iter().map(|pick| Some(matches!(pick, Pick::Flat(..)))).collect();
        self.filled += u64::try_from(marks.true_count()).unwrap_or(u64::MAX);
        let mut columns = Vec::with_capacity(self.parts.len() + 1);
        let first = picks.first().map(|pick| if let Pick::Row(row) = pick { *row } else { 0 });
        for (at, column) in rows.columns().iter().enumerate() {
            columns.push(match (first, at) {
                // Nothing was made up: the rows as they are.
                (Some(first), _) if marks.true_count() == 0 => column.slice(first, picks.len()),
                (_, 0) => Arc::new(self.times(rows, picks)?) as ArrayRef,
                _ => self.column(at, rows, picks).map_err(fault)?,
            });
        }
        columns.push(Arc::new(marks));
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(fault)
    }

    fn times(&self, rows: &RecordBatch, picks: &[Pick]) -> Result<impl Array + use<>> {
        let stored = frame::timestamps(rows)?.values();
        let points = picks.iter().map(|pick| match pick {
            Pick::Row(row) => Timestamp::from_micros(stored[*row]),
            Pick::Flat(micros, _) => Timestamp::from_micros(*micros),
        });
        Ok(frame::ts_array(points.collect::<Result<Vec<_>>>()?))
    }

    /// A column of the rows with the values of bars that are made up between.
    fn column(&self, at: usize, rows: &RecordBatch, picks: &[Pick]) -> Result<ArrayRef, ArrowError> {
        let stored = rows.column(at);
        let data_type = stored.data_type();
        let none = || new_null_array(data_type, 1);
        let (alone, beside) = match self.parts[at] {
            Part::Price => {
                let before =
                    self.price.as_ref().map_or_else(|| Ok(none()), |price| cast(price, data_type))?;
                (before, cast(rows.column(self.close), data_type)?)
            }
            Part::Volume => (cast(&Int64Array::from(vec![0]), data_type)?, none()),
            Part::Other => (none(), none()),
        };
        let is_price = self.parts[at] == Part::Price;
        let indices: Vec<_> = picks
            .iter()
            .map(|pick| match pick {
                Pick::Row(row) => (0, *row),
                Pick::Flat(_, Some(row)) if is_price => (2, *row),
                Pick::Flat(..) => (1, 0),
            })
            .collect();
        interleave(&[stored.as_ref(), alone.as_ref(), beside.as_ref()], &indices)
    }
}

fn fault(error: ArrowError) -> Error {
    Error::unexpected("cannot make up bars").caused_by(error)
}

fn doubles(column: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(column, &DataType::Float64).map_err(fault)?.as_primitive::<Float64Type>().clone())
}

fn is_number(closes: &Float64Array, row: usize) -> bool {
    closes.is_valid(row) && closes.value(row).is_finite()
}

/// One value by itself, so that it does not keep the others.
fn one_of(column: &ArrayRef, row: usize) -> Result<ArrayRef> {
    let row = u32::try_from(row).map_err(|_| Error::schema("more than 2^32 rows"))?;
    take(column, &UInt32Array::from(vec![row]), None).map_err(fault)
}

#[cfg(test)]
mod tests {
    use qmtl_history_api::{EmptyProof, SourceId};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_secs(1_704_067_200 + minute * 60).unwrap()
    }

    fn bars(first: i64, end: i64) -> TimeRange {
        TimeRange::new(at(first), at(end)).unwrap()
    }

    /// Bars 5 to 9 and 15 to 19 are stored; 0 to 4, 10 to 12, 14 and 20 to 29 are proved absent; 13 is missing.
    fn known(range: TimeRange) -> Known {
        let set = |ranges: &[(i64, i64)]| {
            ranges.iter().fold(RangeSet::new(), |all, (first, end)| all.union(&bars(*first, *end).into()))
        };
        let mut coverage = Coverage::of_present(set(&[(5, 10), (15, 20)]));
        let (source, empty) = (SourceId::new("x").unwrap(), set(&[(0, 5), (10, 13), (14, 15), (20, 30)]));
        let now = at(100_000);
        coverage.add_empty(&EmptyProof::new(source, empty, "no row", now));
        Known::new(&coverage, range, "1m".parse().unwrap(), now)
    }

    #[test]
    fn a_bar_is_flat_where_all_is_known_back_to_the_last_row() {
        let minute = "1m".parse().unwrap();
        let all = known(TimeRange::ALL);
        assert_eq!(all.missing.inclusive(minute), [(at(13), at(13))]);
        assert_eq!(all.flat.inclusive(minute), [(at(10), at(12)), (at(20), at(29))]);
        assert_eq!(all.unpriced, 6, "the five in front, and the one behind the missing one");
        let part = known(bars(11, 13));
        assert_eq!(
            part.flat.inclusive(minute),
            [(at(11), at(12))],
            "the close is that of a row before the range"
        );
        assert!(part.missing.is_empty());
        // An end that has not come is not missing, a start before the first bar is.
        assert_eq!(known(bars(-5, 2)).missing.count(minute), 5);
        assert_eq!(known(bars(25, 200_000)).missing.inclusive(minute), [(at(30), at(99_999))]);
    }

    fn args() -> ExportArgs {
        use clap::Parser;
        let words = ["qmtl-history", "export", "--fill", "flat"];
        match crate::cli::Cli::try_parse_from(words).unwrap().command {
            crate::cli::Command::Export(args) => args,
            _ => panic!("it is an export"),
        }
    }

    /// What a bar is in the model below.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bar {
        Row(f64),
        Empty,
        Missing,
    }

    /// Minute, close, volume and mark of each row, bar by bar.
    fn model(bars: &[Bar]) -> Vec<(i64, u64, f64, bool)> {
        let (mut price, mut is_known) = (None, false);
        let mut rows = Vec::new();
        for (minute, bar) in (0..).zip(bars) {
            match bar {
                Bar::Row(close) => {
                    price = Some(*close).filter(|close| close.is_finite()).or(price);
                    is_known = true;
                    rows.push((minute, close.to_bits(), 7.0, false));
                }
                Bar::Empty => {
                    let price: Option<f64> = price.filter(|_| is_known);
                    rows.extend(price.map(|price| (minute, price.to_bits(), 0.0, true)));
                }
                Bar::Missing => is_known = false,
            }
        }
        rows
    }

    /// The same by way of a coverage and batches of some rows.
    fn made(bars: &[Bar], rows_of_a_batch: usize) -> Vec<(i64, u64, f64, bool)> {
        let (minute, now) = ("1m".parse().unwrap(), at(100_000));
        let of = |wanted: fn(&Bar) -> bool| {
            let points = (0..).zip(bars).filter(|(_, bar)| wanted(bar)).map(|(minute, _)| at(minute));
            RangeSet::from_sorted_points(points, minute)
        };
        let mut coverage = Coverage::of_present(of(|bar| matches!(bar, Bar::Row(_))));
        let (source, empty) = (SourceId::new("x").unwrap(), of(|bar| *bar == Bar::Empty));
        coverage.add_empty(&EmptyProof::new(source, empty, "no row", now));
        let known = Known::new(&coverage, TimeRange::ALL, minute, now);
        let read = frame::schema_of([("close", DataType::Float64), ("volume", DataType::Float64)]);
        let mut flat = Flat::new(&read, &known.flat, minute, &args()).unwrap();
        let rows: Vec<_> = (0..)
            .zip(bars)
            .filter_map(
                |(minute, bar)| if let Bar::Row(close) = bar { Some((at(minute), *close)) } else { None },
            )
            .collect();
        let mut batches = Vec::new();
        for rows in rows.chunks(rows_of_a_batch) {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(frame::ts_array(rows.iter().map(|(ts, _)| *ts))),
                Arc::new(rows.iter().map(|(_, close)| Some(*close)).collect::<Float64Array>()),
                Arc::new(Float64Array::from(vec![7.0; rows.len()])),
            ];
            flat.give(RecordBatch::try_new(Arc::clone(&read), columns).unwrap()).unwrap();
            while let Some(batch) = flat.take().unwrap() {
                batches.push(batch);
            }
        }
        while let Some(batch) = flat.take_rest().unwrap() {
            batches.push(batch);
        }
        let told = flat.filled + flat.unpriced + known.unpriced;
        let empty = bars.iter().filter(|bar| **bar == Bar::Empty).count();
        assert_eq!(told, u64::try_from(empty).unwrap(), "every empty bar is made up or counted");
        let rows = batches.iter().flat_map(|batch| {
            let ts = frame::timestamps(batch).unwrap();
            let number = |at: usize| batch.column(at).as_primitive::<Float64Type>();
            let row = |row: usize| {
                let minute = (ts.value(row) - at(0).as_micros()) / 60_000_000;
                (
                    minute,
                    number(1).value(row).to_bits(),
                    number(2).value(row),
                    batch.column(3).as_boolean().value(row),
                )
            };
            (0..batch.num_rows()).map(row).collect::<Vec<_>>()
        });
        rows.collect()
    }

    #[test]
    fn rows_and_bars_made_up_are_those_of_a_simple_model() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for case in 0..500 {
            let bars: Vec<_> = (0..40_u32)
                .map(|minute| match random(10) {
                    0..4 => Bar::Row(f64::from(minute) + 0.5),
                    4 => Bar::Row(f64::NAN),
                    5..9 => Bar::Empty,
                    _ => Bar::Missing,
                })
                .collect();
            let rows = usize::try_from(random(9)).unwrap() + 1;
            assert_eq!(made(&bars, rows), model(&bars), "case {case}: {bars:?} in batches of {rows}");
        }
    }
}
