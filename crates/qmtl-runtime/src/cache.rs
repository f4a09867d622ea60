//! The bars that a strategy looks back on: a columnar ring per node and interval.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use qmtl_history_api::{
    Error, RangeSet, Result, SeriesKey, TimeRange, Timestamp, arrow_array, arrow_schema, arrow_select, frame,
};

use merge::{Plan, Run};
use rows::{Arriving, Rows};

pub use state::BackfillState;
pub use view::{CacheView, ColumnView};

mod merge;
mod rows;
mod state;
mod view;

/// What became of a live row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// It is the newest row now.
    New,
    /// It took the place of a row of history.
    Replaced,
    /// It was inserted behind the watermark, in order.
    Late,
    /// A live row of its bar is there already, which stays.
    Duplicate,
    /// It is older than everything that a full cache holds, and was left out.
    TooOld,
}

/// What became of the rows of a batch of history. The three counts add up to its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Rows that are in the cache now.
    pub added: usize,
    /// Rows left out because their bar is in the cache, or came earlier in the same batch.
    pub kept_out: usize,
    /// Rows left out because they are older than the newest `period` bars.
    pub too_old: usize,
}

/// The newest `period` bars of one node and interval, in columns.
///
/// **Schema.** It is fixed when the cache is built or by its first batch with rows. Columns are
/// matched by name: one that is missing and nullable is null, one that the schema lacks is left
/// out and counted, one of another type is an error.
///
/// **Rows** are ascending by bar, each bar once; every time is floored to the interval's grid. A
/// live row wins over a row of history, a row that is there over one that is merged in.
///
/// **Views** are contiguous: a column of doubles without nulls is a `&[f64]`, any other an Arrow
/// array that shares the cache's buffers. Neither copies, and the former does not allocate.
#[derive(Clone, Debug)]
pub struct NodeCache {
    key: SeriesKey,
    period: usize,
    /// How many bars are held for a while beyond the period.
    extra: usize,
    schema: Option<SchemaRef>,
    rows: Rows,
    state: BackfillState,
    known_empty: RangeSet,
    unknown_columns: u64,
    layout: Option<Layout>,
}

/// Where the columns of the cache stand in rows of one schema, which fit it.
#[derive(Clone, Debug)]
struct Layout {
    given: SchemaRef,
    /// For each column of the cache that column of the rows.
    columns: Vec<usize>,
    /// Columns of the rows that the cache lacks.
    unknown: u64,
}

impl NodeCache {
    /// An empty cache of the newest `period` bars of `key`; `InvalidInput` when `period` is 0.
    pub fn new(key: SeriesKey, period: usize) -> Result<Self> {
        if period == 0 {
            return Err(Error::invalid("a cache must hold at least one bar").with("series", key));
        }
        Ok(Self {
            key,
            period,
            extra: 0,
            schema: None,
            rows: Rows::default(),
            state: BackfillState::default(),
            known_empty: RangeSet::new(),
            unknown_columns: 0,
            layout: None,
        })
    }

    /// Fixes the payload columns. A field called `ts` is left out, since the cache keeps times
    /// itself. `Schema` when a name comes twice.
    pub fn with_schema(mut self, schema: &Schema) -> Result<Self> {
        self.fix_schema(payload_of(&self.key, schema)?);
        Ok(self)
    }

    fn fix_schema(&mut self, schema: SchemaRef) {
        self.rows = Rows::of_schema(&schema);
        self.schema = Some(schema);
    }

    /// The series whose bars these are.
    #[must_use]
    pub fn key(&self) -> &SeriesKey {
        &self.key
    }

    /// The most bars that the cache holds.
    #[must_use]
    pub fn period(&self) -> usize {
        self.period
    }

    /// Holds so many bars beyond the period from now on: those that are still to be delivered to nodes whose windows
    /// reach back further.
    pub(crate) fn set_extra(&mut self, bars: usize) {
        self.extra = bars;
    }

    /// Holds so many more.
    pub(crate) fn add_extra(&mut self, bars: usize) {
        self.extra = self.extra.saturating_add(bars);
    }

    /// How many bars are held beyond the period.
    pub(crate) fn extra(&self) -> usize {
        self.extra
    }

    /// The most bars that are held now: the period and those beyond it.
    pub(crate) fn capacity(&self) -> usize {
        self.period.saturating_add(self.extra)
    }

    /// The payload columns, once they are fixed.
    #[must_use]
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// The number of bars in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when no bar is in the cache.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest bar.
    #[must_use]
    pub fn watermark(&self) -> Option<Timestamp> {
        self.rows.ts().last().copied()
    }

    /// The oldest bar.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.rows.ts().first().copied()
    }

    /// All bars.
    #[must_use]
    pub fn view(&self) -> CacheView<'_> {
        CacheView::new(self, 0..self.len())
    }

    /// The newest `bars` bars, or all where there are fewer.
    #[must_use]
    pub fn last(&self, bars: usize) -> CacheView<'_> {
        CacheView::new(self, self.len().saturating_sub(bars)..self.len())
    }

    /// Takes a live bar: `payload` is one row, its columns matched by name, a `ts` ignored.
    ///
    /// `Schema`, naming node and column, for a payload of another shape or type, and for a time
    /// whose bar would open before 1678. A cache that failed is unchanged.
    pub fn append(&mut self, ts: Timestamp, payload: &RecordBatch) -> Result<Appended> {
        self.append_within(ts, payload, self.capacity())
    }

    /// As [`NodeCache::append`], but the newest `keep` bars stay.
    pub(crate) fn append_within(
        &mut self,
        ts: Timestamp,
        payload: &RecordBatch,
        keep: usize,
    ) -> Result<Appended> {
        if payload.num_rows() != 1 {
            return Err(Error::schema("a live bar is exactly one row")
                .with("series", &self.key)
                .with("rows", payload.num_rows()));
        }
        let bar = floor(&self.key, ts, 0)?;
        if self.rows.ts().last().is_none_or(|newest| *newest < bar) && self.push(bar, payload) {
            self.trim(keep);
            return Ok(Appended::New);
        }
        let schema = self.schema_for(payload)?;
        let schema_of_rows = payload.schema_ref();
        let (payload, unknown) = conform(&self.key, &schema, payload)?;
        if self.schema.is_none() {
            self.fix_schema(schema);
        }
        self.unknown_columns += unknown;
        self.layout = Layout::of(schema_of_rows, self.schema.as_ref(), unknown);
        let (appended, plan) = match self.rows.ts().binary_search(&bar) {
            Ok(at) if self.rows.is_live(at) => return Ok(Appended::Duplicate),
            Ok(at) => (Appended::Replaced, insertion(at, at + 1, self.len())),
            Err(at) if at == self.len() => (Appended::New, insertion(at, at, at)),
            Err(0) if self.len() >= keep => return Ok(Appended::TooOld),
            Err(at) => (Appended::Late, insertion(at, at, self.len())),
        };
        self.rows.apply(plan, &Arriving { ts: &[bar], columns: payload.columns(), live: true });
        self.trim(keep);
        Ok(appended)
    }

    /// Puts a row behind all others without a look at its columns' names and types, when the last row that was looked
    /// at had the same schema and all is doubles without nulls; false when it is not so.
    fn push(&mut self, bar: Timestamp, payload: &RecordBatch) -> bool {
        let Some(layout) =
            self.layout.as_ref().filter(|known| Arc::ptr_eq(&known.given, payload.schema_ref()))
        else {
            return false;
        };
        let is_pushed = self.rows.push(bar, layout.columns.iter().map(|column| payload.column(*column)));
        if is_pushed {
            self.unknown_columns += layout.unknown;
        }
        is_pushed
    }

    /// Merges ascending rows of history in canonical columns (`ts` and payload), and keeps the
    /// newest [`NodeCache::period`] bars. Times are floored to the grid; of two rows of one bar
    /// the one in the cache stays, within the batch the first one.
    ///
    /// `Schema`, naming node, column and row, for rows that are not ascending, have no time, or
    /// contradict the cache's columns. A cache that failed is unchanged.
    pub fn backfill_bulk(&mut self, batch: &RecordBatch) -> Result<Merged> {
        self.merge(batch, self.capacity())
    }

    /// As [`NodeCache::backfill_bulk`], but the newest `keep` bars stay.
    pub(crate) fn merge(&mut self, batch: &RecordBatch, keep: usize) -> Result<Merged> {
        let stamped = Stamped::of(&self.key, batch)?;
        if stamped.ts.is_empty() {
            return Ok(Merged::default());
        }
        let distinct = stamped.distinct_rows(batch)?;
        let schema = self.schema_for(&distinct)?;
        let (distinct, unknown) = conform(&self.key, &schema, &distinct)?;
        if self.schema.is_none() {
            self.fix_schema(schema);
        }
        self.unknown_columns += unknown;

        let mut plan = Plan::keeping_old(self.rows.ts(), &stamped.ts);
        let placed = plan.new_rows();
        let excess = (plan.at + plan.len()).saturating_sub(keep);
        let from_front = excess.min(plan.at);
        plan.skip(excess - from_front);
        let added = plan.new_rows();
        self.rows.apply(plan, &Arriving { ts: &stamped.ts, columns: distinct.columns(), live: false });
        self.drop_oldest(from_front);
        self.state.record(&stamped.runs);
        if excess > 0 {
            self.forget_dropped();
        }
        Ok(Merged { added, kept_out: batch.num_rows() - placed, too_old: placed - added })
    }

    /// Drops the oldest bars beyond the newest `keep`.
    pub(crate) fn trim(&mut self, keep: usize) {
        let excess = self.len().saturating_sub(keep);
        if excess > 0 {
            self.drop_oldest(excess);
            self.forget_dropped();
        }
    }

    fn drop_oldest(&mut self, rows: usize) {
        self.rows.drop_oldest(rows, self.period);
    }

    fn forget_dropped(&mut self) {
        if let Some(oldest) = self.oldest() {
            self.state.forget_before(oldest);
        }
    }

    /// Drops every bar and forgets what was loaded; the schema stays.
    pub fn clear(&mut self) {
        if let Some(schema) = self.schema.take() {
            self.fix_schema(schema);
        }
        self.state = BackfillState::default();
        self.known_empty = RangeSet::new();
    }

    /// Notes bars that are proven not to exist: they count as there for
    /// [`NodeCache::is_ready`] and are not missing.
    pub fn note_known_empty(&mut self, bars: &RangeSet) {
        self.known_empty = self.known_empty.union(&bars.on_grid(self.key.interval));
    }

    /// For each of the first `rows` bars the oldest one from which on no bar up to it is missing; `None` when none is.
    /// One that is proven not to exist is not missing.
    pub(crate) fn runs(&self, rows: usize) -> Option<Vec<usize>> {
        let (ts, step) = (&self.rows.ts()[..rows], self.key.interval.as_micros());
        let (first, last) = (ts.first()?, ts.last()?);
        if usize::try_from((last.as_micros() - first.as_micros()) / step) == Ok(rows - 1) {
            return None;
        }
        let mut start = 0;
        let mut runs = Vec::with_capacity(rows);
        runs.push(0);
        for (row, pair) in ts.windows(2).enumerate() {
            if pair[0].checked_add_micros(step) != Some(pair[1]) && self.lacks_between(pair[0], pair[1]) {
                start = row + 1;
            }
            runs.push(start);
        }
        (start > 0).then_some(runs)
    }

    /// Whether a bar between these two is not proven to be absent.
    fn lacks_between(&self, before: Timestamp, after: Timestamp) -> bool {
        let between = self.key.interval.next(before).and_then(|next| TimeRange::checked(next, after));
        between.is_some_and(|between| {
            let proven = self.known_empty.within(between);
            proven.count(self.key.interval) < between.count(self.key.interval)
        })
    }

    /// The close of the last bar that could have closed by `moment`, if all behind the one at `newest` are proven not
    /// to exist.
    pub(crate) fn settled_until(&self, newest: Timestamp, moment: Timestamp) -> Option<Timestamp> {
        // Closes lie on the grid of openings.
        let close = self.key.interval.floor(moment)?;
        (!self.lacks_between(newest, close)).then_some(close)
    }

    /// True when `period` bars are there, or each of the last `period` bars up to the newest that
    /// is there or proven not to exist.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready_at(self.len(), Timestamp::MAX)
    }

    /// Whether it was so when the first `rows` bars were there, all of which open before `until`.
    fn is_ready_at(&self, rows: usize, until: Timestamp) -> bool {
        rows >= self.period
            || (!self.known_empty.is_empty() && self.settled_points(rows, until) >= self.period as u64)
    }

    /// How many of the last `period` grid points up to the newest known one have a row or a proof.
    fn settled_points(&self, rows: usize, until: Timestamp) -> u64 {
        let interval = self.key.interval;
        let present = RangeSet::from_sorted_points(self.rows.ts()[..rows].iter().copied(), interval);
        let past = TimeRange::checked(Timestamp::MIN, until).map(|past| self.known_empty.within(past));
        let known = present.union(&past.unwrap_or_default());
        let Some(span) = known.span() else { return 0 };
        let micros = i64::try_from(self.period).ok().and_then(|bars| bars.checked_mul(interval.as_micros()));
        let start =
            micros.and_then(|micros| span.end().checked_add_micros(-micros)).unwrap_or(Timestamp::MIN);
        TimeRange::checked(start, span.end()).map_or(0, |window| known.within(window).count(interval))
    }

    /// True when a bar between the oldest and the newest is not there, and nobody proved that it
    /// does not exist; also between history and live.
    #[must_use]
    pub fn has_missing_bars(&self) -> bool {
        let (Some(first), Some(last)) = (self.oldest(), self.watermark()) else { return false };
        let steps = (last.as_micros() - first.as_micros()) / self.key.interval.as_micros();
        steps.unsigned_abs() + 1 > self.len() as u64 && !self.missing().is_empty()
    }

    /// The bars between the oldest and the newest that are not there and not proven to be absent.
    #[must_use]
    pub fn missing(&self) -> RangeSet {
        let present = RangeSet::from_sorted_points(self.rows.ts().iter().copied(), self.key.interval);
        present.span().map_or_else(RangeSet::new, |span| {
            RangeSet::from(span).difference(&present).difference(&self.known_empty)
        })
    }

    /// Which ranges of history are loaded; it never outlives the rows.
    #[must_use]
    pub fn backfill_state(&self) -> &BackfillState {
        &self.state
    }

    /// The shortest range that holds everything of `range` which history has yet to bring:
    /// neither loaded nor proven empty, and not older than what a full cache could take.
    #[must_use]
    pub fn unfinished(&self, range: TimeRange) -> Option<TimeRange> {
        let room = match self.oldest() {
            Some(oldest) if self.len() >= self.capacity() => {
                range.intersect(TimeRange::checked(oldest, Timestamp::MAX)?)?
            }
            _ => range,
        };
        self.state.remaining(room).difference(&self.known_empty).on_grid(self.key.interval).span()
    }

    /// Bytes that the cache keeps allocated for rows.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.rows.resident_bytes()
    }

    /// How often a column was left out because the schema lacks it: once a batch and column.
    #[must_use]
    pub fn unknown_columns(&self) -> u64 {
        self.unknown_columns
    }

    fn schema_for(&self, batch: &RecordBatch) -> Result<SchemaRef> {
        match &self.schema {
            Some(schema) => Ok(Arc::clone(schema)),
            None => payload_of(&self.key, batch.schema_ref()),
        }
    }
}

impl Layout {
    /// The layout of rows that fit a cache, and have so many columns that it lacks; `None` where they lack one.
    fn of(given: &SchemaRef, cached: Option<&SchemaRef>, unknown: u64) -> Option<Self> {
        let columns = cached?.fields().iter().map(|field| given.index_of(field.name()).ok());
        Some(Self { given: Arc::clone(given), columns: columns.collect::<Option<_>>()?, unknown })
    }
}

/// A plan that puts one new row at `at` before the old rows from `rest` on.
fn insertion(at: usize, rest: usize, len: usize) -> Plan {
    let mut runs = vec![Run::New(0..1)];
    if rest < len {
        runs.push(Run::Old(rest..len));
    }
    Plan { at, runs }
}

/// The times of a batch, floored to the grid.
struct Stamped {
    /// Strictly ascending.
    ts: Vec<Timestamp>,
    /// The spans of neighbouring bars.
    runs: RangeSet,
    /// Rows whose bar came earlier in the batch.
    duplicates: Vec<usize>,
}

impl Stamped {
    fn of(key: &SeriesKey, batch: &RecordBatch) -> Result<Self> {
        let column = frame::timestamps(batch).map_err(|e| e.with("series", key))?;
        if let Some(row) = column.nulls().and_then(|nulls| nulls.iter().position(|valid| !valid)) {
            return Err(Error::schema("a row has no time")
                .with("series", key)
                .with("column", frame::TS)
                .with("row", row));
        }
        let step = key.interval.as_micros();
        let mut stamped =
            Self { ts: Vec::with_capacity(column.len()), runs: RangeSet::new(), duplicates: Vec::new() };
        let mut run: Option<TimeRange> = None;
        for (row, micros) in column.values().iter().copied().enumerate() {
            let ts = Timestamp::from_micros(micros).map_err(|e| e.with("series", key).with("row", row))?;
            // In a run without holes the next bar is known without a division.
            let expected = run.filter(|run| run.end() == ts);
            let bar = if expected.is_some() { ts } else { floor(key, ts, row)? };
            match stamped.ts.last() {
                Some(last) if bar < *last => return Err(unsorted(key, row, ts)),
                Some(last) if bar == *last => {
                    stamped.duplicates.push(row);
                    continue;
                }
                _ => stamped.ts.push(bar),
            }
            let end = bar.checked_add_micros(step).unwrap_or(Timestamp::MAX);
            let start = run.filter(|run| run.end() == bar).map_or(bar, TimeRange::start);
            if start == bar {
                stamped.runs.extend(run);
            }
            run = TimeRange::checked(start, end);
        }
        stamped.runs.extend(run);
        Ok(stamped)
    }

    /// The batch without the rows whose bar came earlier in it.
    fn distinct_rows(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if self.duplicates.is_empty() {
            return Ok(batch.clone());
        }
        let mut keep = vec![true; batch.num_rows()];
        for row in &self.duplicates {
            keep[*row] = false;
        }
        filter_record_batch(batch, &BooleanArray::from(keep))
            .map_err(|e| Error::unexpected("cannot leave out the later rows of one bar").caused_by(e))
    }
}

fn floor(key: &SeriesKey, ts: Timestamp, row: usize) -> Result<Timestamp> {
    key.interval.floor(ts).ok_or_else(|| {
        Error::schema("a row's bar would open before 1678")
            .with("series", key)
            .with("column", frame::TS)
            .with("row", row)
            .with("value", ts)
    })
}

fn unsorted(key: &SeriesKey, row: usize, ts: Timestamp) -> Error {
    Error::schema("rows of history must be ascending in time")
        .with("series", key)
        .with("column", frame::TS)
        .with("row", row)
        .with("value", ts)
}

/// The fields besides `ts`.
fn payload_of(key: &SeriesKey, schema: &Schema) -> Result<SchemaRef> {
    let fields: Vec<_> = schema.fields().iter().filter(|field| field.name() != frame::TS).cloned().collect();
    for (at, field) in fields.iter().enumerate() {
        if fields[..at].iter().any(|other| other.name() == field.name()) {
            return Err(Error::schema("column names must be distinct")
                .with("series", key)
                .with("column", field.name()));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// `batch` with the columns of the cache, which it fits, and how many it has besides.
fn conform(key: &SeriesKey, schema: &SchemaRef, batch: &RecordBatch) -> Result<(RecordBatch, u64)> {
    schema
        .fields()
        .iter()
        .try_for_each(|field| check_column(key, field, batch.column_by_name(field.name())))?;
    let known = |field: &Field| field.name() == frame::TS || schema.field_with_name(field.name()).is_ok();
    let unknown = batch.schema_ref().fields().iter().filter(|field| !known(field)).count();
    Ok((frame::conform(batch, schema)?, unknown as u64))
}

fn check_column(key: &SeriesKey, field: &Field, column: Option<&ArrayRef>) -> Result<()> {
    let fault = |message: &str| {
        Error::schema(message)
            .with("node_id", &key.node_id)
            .with("interval", key.interval)
            .with("column", field.name())
    };
    match column {
        Some(array) if array.data_type() != field.data_type() => {
            Err(fault("the cache holds this column with another type")
                .with("cached", field.data_type())
                .with("given", array.data_type()))
        }
        Some(array) if !field.is_nullable() && array.null_count() > 0 => {
            Err(fault("this column must not be null"))
        }
        None if !field.is_nullable() => Err(fault("the rows lack a column that must not be null")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
