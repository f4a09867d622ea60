//! How a source's rows are brought into the canonical frame.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array,
};
use arrow_ord::ord::make_comparator;
use arrow_schema::{ArrowError, DataType, SortOptions, TimeUnit};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;

use super::odd::{conflict, no_price};
use super::{
    Conflict, NanRule, OffGrid, OffGridRule, Rules, TS, distinct_names, first_null, names, schema_of,
    timestamps, ts_only_schema,
};
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
    /// Rows without a number where a bar has its prices, left out by [`NanRule::Missing`].
    pub nan: u64,
}

impl Dropped {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.outside += other.outside;
        self.duplicate += other.duplicate;
        self.conflict += other.conflict;
        self.forming += other.forming;
        self.off_grid += other.off_grid;
        self.nan += other.nan;
    }

    /// All reasons together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.by_reason().into_iter().map(|(_, rows)| rows).sum()
    }

    /// The counts with their names in metrics and reports.
    #[must_use]
    pub fn by_reason(self) -> [(&'static str, u64); 6] {
        [
            ("outside", self.outside),
            ("duplicate", self.duplicate),
            ("conflict", self.conflict),
            ("forming", self.forming),
            ("off_grid", self.off_grid),
            ("nan", self.nan),
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
    /// The bars whose row was moved there, by [`OffGridRule::Floor`] or [`OffGridRule::Nearest`], ascending.
    pub moved: Vec<Timestamp>,
    /// The bars of rows that were left out by [`NanRule::Missing`], ascending.
    pub without_price: Vec<Timestamp>,
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
    normalize_by(key, window, batches, Rules::default())
}

/// As [`normalize`], with odd rows treated by `rules`.
///
/// Rows before the window that [`Rules::asked`] asks for, and do not come into it, are not counted. Also `Schema` where
/// a rule refuses a row.
pub fn normalize_by(
    key: &SeriesKey,
    window: TimeRange,
    batches: &[RecordBatch],
    rules: Rules,
) -> Result<Normalized> {
    let mut normal = Normalized {
        rows: RecordBatch::new_empty(ts_only_schema()),
        dropped: Dropped::default(),
        off_grid: Vec::new(),
        conflicts: Vec::new(),
        moved: Vec::new(),
        without_price: Vec::new(),
        span: None,
    };
    let Some(first) = batches.first() else { return Ok(normal) };
    distinct_names(key, &first.schema())?;
    let joined = concat_batches(&first.schema(), batches).map_err(|e| {
        Error::schema("the source's batches differ in columns").with("series", key).caused_by(e)
    })?;
    let own = instants(key, &joined)?;
    let ts = placed(key, &own, rules.off_grid);
    let (asked, is_moved) = (rules.asked(window, key.interval), |row: usize| ts[row] != own[row]);
    let mut order = Vec::with_capacity(ts.len());
    let mut strays = Vec::new();
    for (row, micros) in ts.iter().copied().enumerate() {
        match place(key, window, row, micros)? {
            Place::Inside => {
                order.push(
                    u32::try_from(row).map_err(|_| {
                        Error::schema("more than 2^32 rows in one window").with("series", key)
                    })?,
                );
                if is_moved(row) {
                    strays.push(OffGrid::new(Timestamp::from_micros(own[row])?, key.interval));
                }
            }
            Place::OffGrid(point) => normal.off_grid.push(OffGrid::new(point, key.interval)),
            // It was asked for because it might have come into the window, or is of the bar behind it.
            Place::Outside
                if asked != window
                    && Timestamp::from_micros(own[row]).is_ok_and(|own| asked.contains(own)) => {}
            Place::Outside => normal.dropped.outside += 1,
        }
    }
    normal.off_grid.sort_unstable();
    refuse_off_grid(key, rules, &normal.off_grid)?;
    normal.dropped.off_grid = normal.off_grid.len() as u64;
    let bounds = ts.iter().min().zip(ts.iter().max());
    if let Some((min, max)) = bounds {
        normal.span = Some((Timestamp::from_micros(*min)?, Timestamp::from_micros(*max)?));
    }
    let at = |row: u32| ts[row as usize];
    // Of two rows of one time the one that was there from the beginning stays, else the earlier one, else the source's
    // first one.
    let rank = |row: &u32| (at(*row), is_moved(*row as usize), own[*row as usize]);
    if !order.is_sorted_by_key(rank) {
        order.sort_by_key(rank);
    }
    strays.extend(&normal.off_grid);
    strays.sort_unstable();
    check_spacing(key, order.iter().filter(|row| !is_moved(**row as usize)).map(|row| at(*row)), &strays)?;
    without_doubles(&joined, &ts, &mut order, &mut normal)?;
    check_repeats(key, &normal, order.len())?;
    let moved = order.iter().filter(|row| is_moved(**row as usize));
    normal.moved = moved.map(|row| Timestamp::from_micros(at(*row))).collect::<Result<_>>()?;
    normal.rows = assemble(&joined, &ts, &order)?;
    without_prices(key, rules.nan, &mut normal)?;
    Ok(normal)
}

/// Takes out all but the first of the rows of one time, and counts and names what they differ in.
fn without_doubles(
    joined: &RecordBatch,
    ts: &[i64],
    order: &mut Vec<u32>,
    normal: &mut Normalized,
) -> Result<()> {
    let at = |row: u32| ts[row as usize];
    if !order.windows(2).any(|pair| at(pair[0]) == at(pair[1])) {
        return Ok(());
    }
    let differs = first_difference(joined)?;
    let mut failure = None;
    order.dedup_by(|later, kept| {
        let is_same_time = at(*later) == at(*kept);
        if is_same_time {
            match differs(*kept as usize, *later as usize) {
                None => normal.dropped.duplicate += 1,
                Some(column) => {
                    normal.dropped.conflict += 1;
                    if normal.conflicts.len() < CONFLICTS_NAMED {
                        match conflict(joined, at(*kept), column, [*kept, *later]) {
                            Ok(conflict) => normal.conflicts.push(conflict),
                            Err(error) => failure = Some(error),
                        }
                    }
                }
            }
        }
        is_same_time
    });
    failure.map_or(Ok(()), Err)
}

/// Where the rows stand by a rule.
fn placed<'a>(key: &SeriesKey, own: &'a [i64], rule: OffGridRule) -> Cow<'a, [i64]> {
    if !matches!(rule, OffGridRule::Floor | OffGridRule::Nearest(_)) {
        return Cow::Borrowed(own);
    }
    let moved = |micros: &i64| {
        Timestamp::from_micros(*micros).map_or(*micros, |ts| rule.moved(ts, key.interval).as_micros())
    };
    Cow::Owned(own.iter().map(moved).collect())
}

fn refuse_off_grid(key: &SeriesKey, rules: Rules, off_grid: &[OffGrid]) -> Result<()> {
    match off_grid.first().filter(|_| rules.off_grid == OffGridRule::Refuse) {
        None => Ok(()),
        Some(row) => Err(Error::schema("rows are off the grid, which is to be refused (with_off_grid)")
            .with("series", key)
            .with("rows", off_grid.len())
            .with("first", row.ts)),
    }
}

/// Takes rows without a price out, or refuses them, as the rule says.
fn without_prices(key: &SeriesKey, rule: NanRule, normal: &mut Normalized) -> Result<()> {
    if rule == NanRule::Keep {
        return Ok(());
    }
    let is_without = no_price(&normal.rows);
    let ts = timestamps(&normal.rows)?.values();
    let found = ts.iter().zip(&is_without).filter(|(_, is_without)| **is_without);
    let found: Vec<_> = found.map(|(micros, _)| Timestamp::from_micros(*micros)).collect::<Result<_>>()?;
    let Some(first) = found.first() else { return Ok(()) };
    if rule == NanRule::Refuse {
        return Err(Error::schema("rows have no number for a price, which is to be refused (with_nan)")
            .with("series", key)
            .with("rows", found.len())
            .with("first", first));
    }
    let kept: BooleanArray = is_without.iter().map(|is_without| Some(!is_without)).collect();
    normal.rows = filter_record_batch(&normal.rows, &kept)
        .map_err(|e| Error::unexpected("cannot take out rows without prices").caused_by(e))?;
    normal.dropped.nan = found.len() as u64;
    normal.without_price = found;
    Ok(())
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

/// In which column but that of times two rows of `batch` differ first, bit for bit; `None` when in none.
fn first_difference(batch: &RecordBatch) -> Result<impl Fn(usize, usize) -> Option<usize>> {
    let fields = batch.schema();
    let payload = batch.columns().iter().enumerate().filter(|(at, _)| fields.field(*at).name() != TS);
    let compare = payload
        .map(|(at, column)| Ok((at, make_comparator(column, column, SortOptions::default())?)))
        .collect::<std::result::Result<Vec<_>, ArrowError>>()
        .map_err(|e| {
            Error::schema("rows of one time cannot be compared in a column of this type").caused_by(e)
        })?;
    Ok(move |a, b| compare.iter().find(|(_, order)| !order(a, b).is_eq()).map(|(at, _)| *at))
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
