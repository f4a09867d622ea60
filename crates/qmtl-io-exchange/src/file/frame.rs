//! Brings the batches of a columnar file into the form of a fetcher: `ts` first, then payload.

use std::collections::HashMap;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Int64Type;
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
};
use qmtl_history_api::arrow_cast::{CastOptions, cast_with_options};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use qmtl_history_api::arrow_select::filter::filter;
use qmtl_history_api::{Error, Result, Timestamp, frame};

use super::clock::StepsBack;
use super::columns::{self, Payload, Roles};
use super::config::FileConfig;
use super::index::{Index, IndexBuilder};
use super::lengths::Lengths;
use super::one_series::{Holds, OneSeries};
use super::stamp::Stamp;
use super::table::Selection;
use super::time::{Reading, TimeFormat, TsUnit, not_of_form, parse_text, parse_wall};
use super::zone::{FoldsSeen, Local, Wall, Zone};

/// How the values of the time column name instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeKind {
    /// The column's type says the unit.
    Typed(TsUnit),
    /// Integers of a unit to be declared or proven.
    Integer,
    /// ISO 8601 text.
    Text,
}

/// The columns of a columnar file.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    schema: SchemaRef,
    roles: Roles,
    payload: Vec<Payload>,
    time: TimeKind,
    /// How times are read; of text the first row tells.
    reading: Option<Reading>,
    /// How text is, if that is not ISO 8601.
    format: Option<TimeFormat>,
    /// How what it says becomes an instant.
    local: Local,
    /// Whether the times of a column with a type are what clocks showed: those without a zone, and dates.
    is_wall: bool,
}

/// What a scan of all rows found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) columns: Columns,
    pub(super) index: Index,
    pub(super) unit: TsUnit,
    /// As in [`Opened`](super::table::Opened).
    pub(super) bar: Option<u64>,
    pub(super) sole: Option<(String, String)>,
    pub(super) notes: Vec<String>,
}

/// A scan under way.
struct Scan {
    columns: Columns,
    builder: IndexBuilder,
    one_series: OneSeries,
    lengths: Lengths,
    /// What tells how doubled hours are read, in a scan that finds that out.
    folds: FoldsSeen,
    /// Whether times without a zone look like those of local clocks.
    steps_back: Option<StepsBack>,
    /// The place of the next row in the file.
    row: u64,
}

/// Takes a batch of a scan; `false` when it has no row and so is no block.
type Take<'a> = dyn FnMut(&RecordBatch) -> Result<bool> + 'a;

impl Columns {
    /// Finds what the columns hold.
    pub(super) fn new(config: &FileConfig, schema: &SchemaRef) -> Result<Self> {
        if let Some(name) = config.column_types.keys().next() {
            return Err(Error::invalid("types are declared for CSV alone; this file carries its own")
                .with("column", name));
        }
        let named: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let called = columns::named(config, &named)?;
        let called: Vec<_> = called.iter().map(String::as_str).collect();
        let (roles, payload) = columns::find(config, &called, |_| None)?;
        let field = schema.field(roles.ts);
        let time = time_kind(field.data_type()).ok_or_else(|| {
            Error::schema("the time column is neither a timestamp, nor a date, an integer or text")
                .with("column", field.name())
                .with("type", field.data_type())
        })?;
        let reading = match (time, config.ts_unit) {
            (TimeKind::Typed(own), Some(declared)) if own != declared => {
                return Err(Error::invalid(format!(
                    "the time column is declared in {declared}, but its type says {own}"
                ))
                .with("column", field.name()));
            }
            (TimeKind::Typed(own), _) => Some(Reading::Unit(own)),
            (TimeKind::Integer, _) => Some(Reading::Undecided),
            (TimeKind::Text, _) => None,
        };
        let format = config.time_format.clone();
        let (own_zone, is_wall) = match field.data_type() {
            DataType::Timestamp(_, own) => (own.as_ref().and_then(|own| own.parse().ok()), own.is_none()),
            other => (None, matches!(other, DataType::Date32 | DataType::Date64)),
        };
        let local =
            Local::new(config.zone.or(own_zone.filter(|_| config.stamp() == Stamp::Date)), config.stamp());
        Ok(Self { schema: Arc::clone(schema), roles, payload, time, reading, format, local, is_wall })
    }

    /// Scans all rows, twice where their times must be read one by one. `read` hands over all batches of the
    /// columns at the given places, in their order.
    pub(super) fn scan(
        self,
        config: &FileConfig,
        mut read: impl FnMut(Vec<usize>, &mut Take<'_>) -> Result<()>,
    ) -> Result<Scanned> {
        let mut run = |columns: Self| {
            let mut scan = Scan::new(columns);
            let places = scan.places();
            read(places, &mut |batch| scan.take(batch, config.ts_unit)).map(|()| scan)
        };
        let mut scan = run(self)?;
        if scan.columns.reading == Some(Reading::Undecided) {
            let (min, max) = scan.builder.bounds().ok_or_else(no_row)?;
            let name = scan.columns.name(scan.columns.roles.ts);
            let reading =
                Reading::of_integers(config.ts_unit, min, max).map_err(|e| e.with("column", name))?;
            scan.columns.reading = Some(reading);
            if reading.is_by_row() || !scan.columns.local.is_plain() {
                scan = run(scan.columns)?;
            }
        }
        let mut notes = Vec::new();
        if scan.columns.local.is_open() && scan.columns.are_walls() {
            let folds = scan.folds.decide(config.zone, "row")?;
            let local = scan.columns.local.clone().decided(folds);
            scan = run(Self { local, ..scan.columns })?;
        } else if let Some(zone) = config.zone.filter(|_| scan.columns.local.is_open()) {
            notes.push(format!("times are instants already, so that the zone {zone} changes nothing"));
        }
        let Scan { columns, builder, one_series, lengths, steps_back, .. } = scan;
        let index = builder.finish();
        let unit = columns.reading.ok_or_else(no_row)?.unit();
        index.bounds().ok_or_else(no_row)?;
        notes.extend(steps_back.and_then(|steps| steps.note(unit, index.usual_gap(), "row")));
        Ok(Scanned { columns, index, unit, bar: lengths.usual(), sole: one_series.finish()?, notes })
    }

    fn name(&self, at: usize) -> &str {
        self.schema.field(at).name()
    }

    /// The column that holds the time, and how it is read.
    pub(super) fn time(&self, zone: Option<Zone>) -> (String, String) {
        let field = self.schema.field(self.roles.ts);
        let told = match self.time {
            TimeKind::Typed(_) => match field.data_type() {
                DataType::Timestamp(_, Some(own)) => format!("timestamps, {own}"),
                _ => {
                    format!("timestamps, {}", zone.map_or_else(|| "UTC".to_owned(), |zone| zone.to_string()))
                }
            },
            _ => self.reading.unwrap_or(Reading::Undecided).told(self.format.as_ref(), zone),
        };
        (field.name().clone(), told)
    }

    /// The names of the payload columns, each with the one under which it comes out.
    pub(super) fn names(&self) -> Vec<(String, String)> {
        self.payload.iter().map(|column| (column.own.clone(), column.name.clone())).collect()
    }

    /// The schema of [`Columns::select`].
    pub(super) fn output(&self, unit: TsUnit) -> SchemaRef {
        let ts = Field::new(frame::TS, DataType::Timestamp(unit.arrow(), Some("UTC".into())), false);
        let payload = self.payload.iter().map(|Payload { at, name, .. }| {
            Field::new(name, self.schema.field(*at).data_type().clone(), true)
        });
        Arc::new(Schema::new(std::iter::once(ts).chain(payload).collect::<Vec<_>>()))
    }

    /// The selected rows of a batch of all columns, whose first one is at this place in the file.
    pub(super) fn select(
        &self,
        (batch, first_row): (&RecordBatch, u64),
        rows: &Selection,
        (unit, output): (TsUnit, &SchemaRef),
    ) -> Result<RecordBatch> {
        let fault = |e| Error::unexpected("cannot select rows of a block").caused_by(e);
        let times = self.times(batch, first_row)?;
        let symbols = self.symbols(batch)?;
        let is_wanted = |row: usize| {
            rows.span.contains(&times.value(row))
                && symbols.as_ref().is_none_or(|symbols| symbols.value(row) == rows.symbol)
        };
        let wanted: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_wanted(row))).collect();
        let kept = times.values().iter().zip(wanted.values()).filter(|(_, wanted)| *wanted);
        let mut columns = vec![unit.column(kept.map(|(time, _)| *time).collect())];
        let is_whole = columns[0].len() == batch.num_rows();
        for Payload { at, .. } in &self.payload {
            let column = batch.column(*at);
            columns.push(if is_whole {
                Arc::clone(column)
            } else {
                filter(column, &wanted).map_err(fault)?
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(columns[0].len()));
        RecordBatch::try_new_with_options(Arc::clone(output), columns, &options).map_err(fault)
    }

    /// Whether the time column says what clocks showed, and not how much time has passed since the epoch.
    fn are_walls(&self) -> bool {
        match self.time {
            TimeKind::Typed(_) => self.is_wall,
            _ => self.reading.is_some_and(|reading| !reading.is_epoch()),
        }
    }

    /// The time column as instants, integers of the file's unit.
    fn times(&self, batch: &RecordBatch, first_row: u64) -> Result<Int64Array> {
        let plain = self.plain_times(batch, first_row)?;
        if self.local.is_plain() || self.reading == Some(Reading::Undecided) {
            return Ok(plain);
        }
        let (unit, walls) = (self.reading.unwrap_or(Reading::Undecided).unit(), self.walls(batch, &plain)?);
        let symbols = self.symbols(batch)?;
        let symbol = |row: usize| symbols.as_ref().map_or("", |symbols| symbols.value(row));
        let instant = |(row, value): (usize, &i64)| {
            let micros = unit.instant(*value).map_or(*value, Timestamp::as_micros);
            let instant = match &walls {
                None => self.local.of_instant(micros),
                Some(walls) => {
                    let place = first_row + row as u64;
                    self.local
                        .instant(walls[row], symbol(row), place)
                        .map_err(|e| e.with("column", self.name(self.roles.ts)).with("row", place))?
                }
            };
            // What a zone moves keeps what is finer than a microsecond.
            let rest =
                if unit == TsUnit::Nanosecond && walls.is_none() { 0 } else { value - unit.value(micros) };
            Ok(unit.value(instant) + if self.local.is_date() { 0 } else { rest })
        };
        plain.values().iter().enumerate().map(instant).collect::<Result<Vec<_>>>().map(Into::into)
    }

    /// What clocks showed at the times of a batch; `None` where these count from the epoch.
    fn walls(&self, batch: &RecordBatch, plain: &Int64Array) -> Result<Option<Vec<Wall>>> {
        if !self.are_walls() {
            return Ok(None);
        }
        let unit = self.reading.unwrap_or(Reading::Undecided).unit();
        let unzoned = |value: &i64| Wall {
            micros: unit.instant(*value).map_or(*value, Timestamp::as_micros),
            offset: None,
        };
        if self.reading != Some(Reading::Text) {
            return Ok(Some(plain.values().iter().map(unzoned).collect()));
        }
        let name = self.name(self.roles.ts);
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let texts = text(column, name)?;
        let wall = |(row, value): (usize, &i64)| {
            parse_wall(texts.value(row).trim_ascii(), self.format.as_ref()).unwrap_or_else(|| unzoned(value))
        };
        Ok(Some(plain.values().iter().enumerate().map(wall).collect()))
    }

    /// The time column as integers of the file's unit, as they stand.
    fn plain_times(&self, batch: &RecordBatch, first_row: u64) -> Result<Int64Array> {
        let name = self.name(self.roles.ts);
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::unexpected("a block lacks the time column").with("column", name))?;
        let place = |error: Error, row: usize| error.with("column", name).with("row", first_row + row as u64);
        if let Some(row) = column.logical_nulls().and_then(|nulls| nulls.iter().position(|valid| !valid)) {
            return Err(place(Error::schema("a row has no time"), row));
        }
        let reading = self.reading.unwrap_or(Reading::Undecided);
        if self.time != TimeKind::Text {
            let integers = integers(column, name)?;
            if !reading.is_by_row() {
                return Ok(integers);
            }
            let read = |(row, value): (usize, &i64)| {
                reading.integer(*value).map_err(|e| place(e, row).with("value", value))
            };
            return integers
                .values()
                .iter()
                .enumerate()
                .map(read)
                .collect::<Result<Vec<_>>>()
                .map(Into::into);
        }
        let text = text(column, name)?;
        let read = |row: usize| {
            let value = text.value(row).trim_ascii();
            let time = match reading {
                Reading::Text => parse_text(value, self.format.as_ref()).ok_or_else(|| match &self.format {
                    Some(format) => not_of_form(format),
                    None => Error::schema(
                        "a time is not an ISO 8601 date or date and time; give its format (with_time_format)",
                    ),
                }),
                reading => value
                    .parse()
                    .map_err(|_| Error::schema("a time is not an integer, although the first one is"))
                    .and_then(|value| reading.integer(value)),
            };
            time.map_err(|e| place(e, row).with("value", format_args!("{:?}", text.value(row))))
        };
        (0..text.len()).map(read).collect::<Result<Vec<_>>>().map(Int64Array::from)
    }

    /// The symbol column as text without blanks around it; a null is the empty symbol.
    fn symbols(&self, batch: &RecordBatch) -> Result<Option<StringArray>> {
        let Some(at) = self.roles.symbol else { return Ok(None) };
        let name = self.name(at);
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::unexpected("a block lacks the symbol column").with("column", name))?;
        let symbols = text(column, name)?;
        let trimmed = symbols.iter().map(|symbol| symbol.unwrap_or_default().trim());
        Ok(Some(StringArray::from_iter_values(trimmed)))
    }
}

impl Scan {
    fn new(columns: Columns) -> Self {
        let suspects = columns.payload.iter().map(|Payload { at, own, .. }| {
            let holds = match columns.schema.field(*at).data_type() {
                kind if time_kind(kind) == Some(TimeKind::Text) => Holds::Text,
                kind if kind.is_integer() => Holds::Anything,
                _ => Holds::Other,
            };
            (*at, own.as_str(), holds)
        });
        let one_series = match columns.roles.symbol {
            Some(_) => OneSeries::default(),
            None => OneSeries::new("row", suspects),
        };
        let is_watched = columns.is_wall && columns.local.is_plain() && columns.roles.symbol.is_none();
        let steps_back = columns.reading.filter(|_| is_watched).map(|reading| StepsBack::new(reading.unit()));
        Self {
            columns,
            steps_back,
            builder: IndexBuilder::default(),
            one_series,
            lengths: Lengths::default(),
            folds: FoldsSeen::default(),
            row: 0,
        }
    }

    /// The places of the columns that the scan reads, ascending.
    fn places(&self) -> Vec<usize> {
        let Roles { ts, symbol, close_time, .. } = self.columns.roles;
        let mut places: Vec<_> =
            [Some(ts), symbol, close_time].into_iter().flatten().chain(self.one_series.places()).collect();
        places.sort_unstable();
        places
    }

    /// Adds the rows of a batch; `false` when it has none.
    fn take(&mut self, batch: &RecordBatch, declared: Option<TsUnit>) -> Result<bool> {
        if batch.num_rows() == 0 {
            return Ok(false);
        }
        self.decide(batch, declared)?;
        let times = self.columns.times(batch, self.row)?;
        self.look_for_folds(batch, &times)?;
        self.add_lengths(batch, &times)?;
        match self.columns.symbols(batch)? {
            None => {
                self.look_for_series(batch, &times)?;
                let id = self.builder.id("")?;
                times.values().iter().for_each(|time| self.builder.row(id, *time));
                if let Some(steps) = &mut self.steps_back {
                    (self.row..).zip(times.values()).for_each(|(row, time)| steps.add(*time, row));
                }
            }
            Some(symbols) => {
                let mut last = None;
                for (row, time) in times.values().iter().enumerate() {
                    let symbol = symbols.value(row);
                    if symbol.is_empty() {
                        return Err(Error::schema("a row has no symbol").with("row", self.row + row as u64));
                    }
                    let id = match last {
                        Some((known, id)) if known == symbol => id,
                        _ => self.builder.id(symbol)?,
                    };
                    last = Some((symbol, id));
                    self.builder.row(id, *time);
                }
            }
        }
        self.row += batch.num_rows() as u64;
        Ok(self.builder.end_block())
    }

    /// Looks how the rows go through the hours that clocks show twice, while that is not known.
    fn look_for_folds(&mut self, batch: &RecordBatch, times: &Int64Array) -> Result<()> {
        let columns = &self.columns;
        if !columns.local.is_open() {
            return Ok(());
        }
        let (Some(walls), symbols) = (columns.walls(batch, times)?, columns.symbols(batch)?) else {
            return Ok(());
        };
        for (row, wall) in walls.into_iter().enumerate() {
            let symbol = symbols.as_ref().map_or("", |symbols| symbols.value(row));
            columns.local.see(&mut self.folds, wall, symbol, self.row + row as u64);
        }
        Ok(())
    }

    /// Decides by its first row whether text holds integers.
    fn decide(&mut self, batch: &RecordBatch, declared: Option<TsUnit>) -> Result<()> {
        let name = self.columns.name(self.columns.roles.ts);
        let (None, Some(column)) = (self.columns.reading, batch.column_by_name(name)) else { return Ok(()) };
        let first = text(&column.slice(0, 1), name)?;
        let is_integer = self.columns.format.is_none()
            && first.is_valid(0)
            && first.value(0).trim_ascii().parse::<i64>().is_ok();
        match declared {
            Some(declared) if !is_integer => {
                Err(Error::invalid(format!("the time column is declared in {declared}, but holds text"))
                    .with("column", name))
            }
            _ => {
                self.columns.reading = Some(if is_integer { Reading::Undecided } else { Reading::Text });
                Ok(())
            }
        }
    }

    /// Adds the lengths of klines whose close time is of the type of their opening time.
    fn add_lengths(&mut self, batch: &RecordBatch, times: &Int64Array) -> Result<()> {
        let Some(at) = self.columns.roles.close_time.filter(|_| self.columns.local.is_plain()) else {
            return Ok(());
        };
        let (ts, name) = (self.columns.roles.ts, self.columns.name(at));
        let is_same = self.columns.schema.field(at).data_type() == self.columns.schema.field(ts).data_type();
        let (Some(column), true) =
            (batch.column_by_name(name), is_same && self.columns.time != TimeKind::Text)
        else {
            return Ok(());
        };
        let reading = self.columns.reading.unwrap_or(Reading::Undecided);
        for (row, (open, close)) in times.values().iter().zip(&integers(column, name)?).enumerate() {
            let end = close.and_then(|close| reading.integer(close.checked_add(1)?).ok());
            // A row without a close time says nothing.
            if let Some(end) = end {
                self.lengths.add(*open, end, self.row + row as u64);
            }
        }
        Ok(())
    }

    /// Looks at the columns of a batch that may tell series apart.
    fn look_for_series(&mut self, batch: &RecordBatch, times: &Int64Array) -> Result<()> {
        let mut columns = HashMap::new();
        for at in self.one_series.places() {
            let name = self.columns.name(at);
            // What no text can be made of tells no series apart.
            if let Some(values) = batch.column_by_name(name).and_then(|column| text(column, name).ok()) {
                columns.insert(at, values);
            }
        }
        if columns.is_empty() {
            return Ok(());
        }
        let value = |at: usize, row: usize| {
            columns
                .get(&at)
                .filter(|values| values.is_valid(row))
                .map_or(&b""[..], |values| values.value(row).as_bytes())
        };
        for (row, time) in times.values().iter().enumerate() {
            self.one_series.row(*time, self.row + row as u64, |at| value(at, row))?;
        }
        Ok(())
    }
}

fn no_row() -> Error {
    Error::schema("the file has columns but no rows")
}

/// What dates are read as: both of Arrow's date types are whole milliseconds.
const MILLISECONDS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

fn time_kind(data_type: &DataType) -> Option<TimeKind> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(TimeKind::Typed(TsUnit::of_arrow(*unit))),
        DataType::Date32 | DataType::Date64 => Some(TimeKind::Typed(TsUnit::Millisecond)),
        DataType::Dictionary(_, values) => time_kind(values).filter(|kind| *kind == TimeKind::Text),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(TimeKind::Text),
        other => other.is_integer().then_some(TimeKind::Integer),
    }
}

fn text(column: &ArrayRef, name: &str) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8, name)?.as_string::<i32>().clone())
}

/// A column of integers, timestamps or dates as integers.
fn integers(column: &ArrayRef, name: &str) -> Result<Int64Array> {
    let integers = match column.data_type() {
        DataType::Date32 | DataType::Date64 => cast(column, &MILLISECONDS, name)?,
        _ => Arc::clone(column),
    };
    Ok(cast(&integers, &DataType::Int64, name)?.as_primitive::<Int64Type>().clone())
}

/// Casts without loss: a value that does not fit is an error.
fn cast(column: &ArrayRef, to: &DataType, name: &str) -> Result<ArrayRef> {
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() }).map_err(|e| {
        Error::schema(format!("the column cannot be read as {to}"))
            .with("column", name)
            .with("type", column.data_type())
            .caused_by(e)
    })
}
