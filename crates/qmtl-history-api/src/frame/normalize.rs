//! How a source's rows are brought into the canonical frame.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array};
use arrow_ord::ord::make_comparator;
use arrow_schema::{DataType, SortOptions, TimeUnit};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;

use super::odd::conflict;
use super::{Conflict, OffGrid, TS, distinct_names, first_null, names, schema_of, ts_only_schema};
use crate::{Error, Result, SeriesKey, TimeRange, Timestamp};

/// How far outside its window a row may lie before its unit is taken to be wrong: ten years.
/// Seconds read as milliseconds land in January 1970, decades from most windows of market data.
const FAR_MICROS: i64 = 3_650 * 86_400 * 1_000_000;

/// Rows that [`normalize`] left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Rows before or after the window.
    pub outside: u64,
    /// Rows equal to another of the same time.
    pub duplicate: u64,
    /// Rows that contradict an earlier one of the same time; the first one stays.
    pub conflict: u64,
    /// Rows of bars that had not closed, which only whoever knows the time can tell.
    pub forming: u64,
    /// Rows that stand on no point of the grid.
    pub off_grid: u64,
}

impl Dropped {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.outside += other.outside;
        self.duplicate += other.duplicate;
        self.conflict += other.conflict;
        self.forming += other.forming;
        self.off_grid += other.off_grid;
    }

    /// All reasons together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.by_reason().into_iter().map(|(_, rows)| rows).sum()
    }

    /// The counts with their names in metrics and reports.
    #[must_use]
    pub fn by_reason(self) -> [(&'static str, u64); 5] {
        [
            ("outside", self.outside),
            ("duplicate", self.duplicate),
            ("conflict", self.conflict),
            ("forming", self.forming),
            ("off_grid", self.off_grid),
        ]
    }
}

/// Conflicts that [`normalize`] names; all are counted.
const CONFLICTS_NAMED: usize = 1_000;

/// From so many contradicting rows on, when they are half as many as there are times, rows are not of one series.
const FEWEST_REPEATS: u64 = 5;

/// What [`normalize`] made of a source's rows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Normalized {
    /// The rows, canonical.
    pub rows: RecordBatch,
    /// What was left out.
    pub dropped: Dropped,
    /// The rows inside the window that stand on no point of the grid, ascending.
    pub off_grid: Vec<OffGrid>,
    /// The first conflicts, ascending.
    pub conflicts: Vec<Conflict>,
    /// The earliest and the latest time of any row, also of those outside the window.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// Brings a source's rows into canonical form for a window of a series.
///
/// Accepts timestamps of any unit (with a zone or none, which is UTC), any order, duplicates and
/// rows outside the window. Rows off the grid are left out and listed; they cost no other row.
/// Nothing else is coerced: NaN and null stay as they are.
///
/// Errors, all `Schema` and naming series, column and row, nothing being returned of the window:
/// `ts` is missing, null or no timestamp; a row lies outside the years 1678 to 9999 or more than ten
/// years outside the window (the unit is wrong); most rows are off the grid and lie closer to each
/// other than bars of this interval can; five rows or more, and half as many as there are times, contradict
/// another of their time.
pub fn normalize(key: &SeriesKey, window: TimeRange, batches: &[RecordBatch]) -> Result<Normalized> {
    let mut normal = Normalized {
        rows: RecordBatch::new_empty(ts_only_schema()),
        dropped: Dropped::default(),
        off_grid: Vec::new(),
        conflicts: Vec::new(),
        span: None,
    };
    let Some(first) = batches.first() else { return Ok(normal) };
    distinct_names(key, &first.schema())?;
    let joined = concat_batches(&first.schema(), batches).map_err(|e| {
        Error::schema("the source's batches differ in columns").with("series", key).caused_by(e)
    })?;
    let ts = instants(key, &joined)?;
    let mut order = Vec::with_capacity(ts.len());
    for (row, micros) in ts.iter().copied().enumerate() {
        match place(key, window, row, micros)? {
            Place::Inside => order.push(
                u32::try_from(row)
                    .map_err(|_| Error::schema("more than 2^32 rows in one window").with("series", key))?,
            ),
            Place::OffGrid(point) => normal.off_grid.push(OffGrid::new(point, key.interval)),
            Place::Outside => normal.dropped.outside += 1,
        }
    }
    normal.off_grid.sort_unstable();
    normal.dropped.off_grid = normal.off_grid.len() as u64;
    let bounds = ts.iter().min().zip(ts.iter().max());
    if let Some((min, max)) = bounds {
        normal.span = Some((Timestamp::from_micros(*min)?, Timestamp::from_micros(*max)?));
    }
    let at = |row: u32| ts[row as usize];
    if !order.is_sorted_by_key(|row| at(*row)) {
        // Stable, so that of two rows that claim one time the source's first one stays.
        order.sort_by_key(|row| at(*row));
    }
    check_spacing(key, order.iter().map(|row| at(*row)), &normal.off_grid)?;
    if order.windows(2).any(|pair| at(pair[0]) == at(pair[1])) {
        let differs = first_difference(&joined)?;
        let mut failure = None;
        order.dedup_by(|later, kept| {
            let same_time = at(*later) == at(*kept);
            if same_time {
                match differs(*kept as usize, *later as usize) {
                    None => normal.dropped.duplicate += 1,
                    Some(column) => {
                        normal.dropped.conflict += 1;
                        if normal.conflicts.len() < CONFLICTS_NAMED {
                            match conflict(&joined, at(*kept), column, [*kept, *later]) {
                                Ok(conflict) => normal.conflicts.push(conflict),
                                Err(error) => failure = Some(error),
                            }
                        }
                    }
                }
            }
            same_time
        });
        if let Some(error) = failure {
            return Err(error);
        }
    }
    check_repeats(key, &normal, order.len())?;
    normal.rows = assemble(&joined, &ts, &order)?;
    Ok(normal)
}

/// Fails when many of the rows, which have so many `times`, contradict another of their time.
fn check_repeats(key: &SeriesKey, normal: &Normalized, times: usize) -> Result<()> {
    let conflicts = normal.dropped.conflict;
    if conflicts < FEWEST_REPEATS || conflicts * 2 < times as u64 {
        return Ok(());
    }
    let first = normal.conflicts.first().map(|conflict| conflict.ts.to_string());
    Err(Error::schema(
        "many times have several rows that contradict each other: the rows belong to several series, or are not bars",
    )
    .with("series", key)
    .with("times", times)
    .with("contradicting_rows", conflicts)
    .with("first", first.unwrap_or_default()))
}

/// Where a row stands in respect to the window.
enum Place {
    Inside,
    OffGrid(Timestamp),
    Outside,
}

fn place(key: &SeriesKey, window: TimeRange, row: usize, micros: i64) -> Result<Place> {
    let wrong_unit = |message: &str| {
        let hint = [1_000, 1_000_000, 1_000_000_000]
            .into_iter()
            .find_map(|factor: i64| {
                let near = |scaled: i64| (window.start().as_micros() - scaled).abs() <= FAR_MICROS;
                match micros {
                    m if m.checked_mul(factor).is_some_and(near) => {
                        Some(format!("its value times {factor} would fit"))
                    }
                    m if near(m / factor) => Some(format!("its value divided by {factor} would fit")),
                    _ => None,
                }
            })
            .unwrap_or_else(|| "check the source's unit".into());
        Error::schema(message)
            .with("series", key)
            .with("column", TS)
            .with("row", row)
            .with("value", micros)
            .with("window", window)
            .with("hint", hint)
    };
    let point = Timestamp::from_micros(micros)
        .map_err(|_| wrong_unit("a row's time is outside the years 1678 to 9999"))?;
    if window.contains(point) {
        return Ok(if key.interval.is_on_grid(point) { Place::Inside } else { Place::OffGrid(point) });
    }
    let far =
        window.start().as_micros() - micros > FAR_MICROS || micros - window.end().as_micros() > FAR_MICROS;
    if far {
        Err(wrong_unit("a row lies more than ten years outside its window"))
    } else {
        Ok(Place::Outside)
    }
}

/// Fails when the rows are bars of a shorter interval: at least half of them are off the grid, and
/// the distance that most neighbours have is shorter than the interval.
fn check_spacing(key: &SeriesKey, on_grid: impl Iterator<Item = i64>, off_grid: &[OffGrid]) -> Result<()> {
    let mut times: Vec<_> = on_grid.chain(off_grid.iter().map(|row| row.ts.as_micros())).collect();
    if off_grid.len() < 2 || off_grid.len() * 2 < times.len() {
        return Ok(());
    }
    times.sort_unstable();
    let mut distances: Vec<_> =
        times.windows(2).map(|pair| pair[1] - pair[0]).filter(|distance| *distance > 0).collect();
    distances.sort_unstable();
    let common = distances.chunk_by(|a, b| a == b).max_by_key(|alike| alike.len()).map(|alike| alike[0]);
    match common.filter(|common| *common < key.interval.as_micros()) {
        Some(common) => Err(Error::schema(
            "the rows are bars of a shorter interval: most neighbours lie closer than the bars asked for; ask for \
             the interval that they have",
        )
        .with("series", key)
        .with("distance", format_args!("{:?}", Duration::from_micros(common.unsigned_abs())))
        .with("first", off_grid[0].ts)),
        None => Ok(()),
    }
}

/// The time column in microseconds, one value a row, whatever its unit was.
fn instants(key: &SeriesKey, batch: &RecordBatch) -> Result<Vec<i64>> {
    let fault = |message: &str| Error::schema(message).with("series", key).with("column", TS);
    let column = batch.column_by_name(TS).ok_or_else(|| {
        fault("the source's rows have no time column").with("columns", names(&batch.schema()))
    })?;
    if let Some(row) = first_null(column) {
        return Err(fault("a row has no time").with("row", row));
    }
    let scale = |values: &[i64], factor: i64| {
        values
            .iter()
            .enumerate()
            .map(|(row, value)| {
                value.checked_mul(factor).ok_or_else(|| {
                    fault("a row's time is outside the years 1678 to 9999")
                        .with("row", row)
                        .with("value", value)
                })
            })
            .collect::<Result<Vec<_>>>()
    };
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            scale(column.as_primitive::<TimestampSecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            scale(column.as_primitive::<TimestampMillisecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(column.as_primitive::<TimestampMicrosecondType>().values().to_vec())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = column.as_primitive::<TimestampNanosecondType>().values();
            Ok(values.iter().map(|nanos| whole_micros(*nanos)).collect())
        }
        other => Err(fault("the time column is not a timestamp; give it a unit").with("type", other)),
    }
}

/// Microseconds of a time in nanoseconds, rounded down, but never onto a grid: grids are of whole
/// seconds, so that a time between two microseconds can stand on none.
fn whole_micros(nanos: i64) -> i64 {
    let micros = nanos.div_euclid(1_000);
    let is_between = nanos.rem_euclid(1_000) != 0;
    if is_between && micros.rem_euclid(1_000_000) == 0 { micros + 1 } else { micros }
}

/// In which column two rows of `batch` differ first, bit for bit; `None` when in none.
fn first_difference(batch: &RecordBatch) -> Result<impl Fn(usize, usize) -> Option<usize>> {
    let compare = batch
        .columns()
        .iter()
        .map(|column| make_comparator(column, column, SortOptions::default()))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| {
            Error::schema("rows of one time cannot be compared in a column of this type").caused_by(e)
        })?;
    Ok(move |a, b| compare.iter().position(|order| !order(a, b).is_eq()))
}

/// The rows `order` of `batch`, `ts` first in canonical type, every payload field nullable.
fn assemble(batch: &RecordBatch, ts: &[i64], order: &[u32]) -> Result<RecordBatch> {
    let fault = |e| Error::unexpected("cannot assemble the canonical batch").caused_by(e);
    let is_identity =
        order.len() == batch.num_rows() && order.iter().enumerate().all(|(at, row)| at == *row as usize);
    let taken;
    let rows = if is_identity {
        batch
    } else {
        taken = take_record_batch(batch, &UInt32Array::from(order.to_vec())).map_err(fault)?;
        &taken
    };
    let instants = order.iter().map(|row| ts[*row as usize]).collect::<Vec<_>>();
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(TimestampMicrosecondArray::from(instants).with_timezone("UTC"))];
    let mut payload = Vec::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if field.name() != TS {
            payload.push((field.name().as_str(), field.data_type().clone()));
            columns.push(Arc::clone(column));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(order.len()));
    RecordBatch::try_new_with_options(schema_of(payload), columns, &options).map_err(fault)
}
