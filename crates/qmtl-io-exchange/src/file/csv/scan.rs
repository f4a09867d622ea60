//! The one scan of a CSV file that finds its blocks, its times and the types of its columns.

use std::borrow::Cow;
use std::sync::Arc;

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result, frame};

use super::dialect::{is_time, is_word, name_of};
use super::layout::{self, Layout};
use super::number::{is_null, number};
use super::read::{CsvTable, Extent};
use super::split::{Record, Splitter};
use super::{BLOCK_BYTES, MAX_LINE_BYTES};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::clock::StepsBack;
use crate::file::config::{ColumnType, FileConfig};
use crate::file::index::{Index, IndexBuilder};
use crate::file::lengths::{ADD_HEADER, Lengths, NOT_KLINES};
use crate::file::one_series::OneSeries;
use crate::file::table::{NO_ROWS, Opened, symbol_of};
use crate::file::time::{Reading, not_of_form, parse_iso, parse_text, parse_wall};
use crate::file::zone::{FoldsSeen, Wall};

/// Scans the file, once unless its times must be read one by one; memory is bounded by a block, whatever the
/// file's size.
pub(in crate::file) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let (layout, mut notes) = layout::detect(bytes, config)?;
    if layout.reading == Reading::Text
        && let Some(unit) = config.ts_unit
    {
        return Err(Error::invalid(format!("the time column is declared in {unit}, but holds no integer"))
            .with("column", &layout.ts_name));
    }
    let mut found = Scan::new(bytes, layout.clone())?.run()?;
    let (min, max) = found.index.bounds().ok_or_else(|| Error::schema(NO_ROWS))?;
    if layout.reading == Reading::Undecided {
        let reading =
            Reading::of_integers(config.ts_unit, min, max).map_err(|e| e.with("column", &layout.ts_name))?;
        if reading.is_by_row() || !layout.local.is_plain() {
            found = Scan::new(bytes, Layout { reading, ..layout })?.run()?;
        } else {
            found.layout.reading = reading;
        }
    }
    if found.layout.local.is_open() && !found.layout.reading.is_epoch() {
        let folds = found.folds.decide(config.zone, "line")?;
        let local = found.layout.local.clone().decided(folds);
        found = Scan::new(bytes, Layout { local, ..found.layout })?.run()?;
    } else if let Some(zone) = config.zone.filter(|_| found.layout.local.is_open()) {
        notes.push(format!("times count from 1970 in UTC, so that the zone {zone} changes nothing"));
    }
    let Found { layout, extents, index, one_series, lengths, odd, steps_back, .. } = found;
    notes.extend(odd.notes());
    notes.extend(steps_back.note(layout.reading.unit(), index.usual_gap(), "line"));
    let sole = one_series.finish()?;
    let unit = layout.reading.unit();
    if layout.is_bare {
        lengths.are_one()?;
    }
    let ts = (frame::TS, DataType::Timestamp(unit.arrow(), Some("UTC".into())));
    let time = (layout.ts_name.clone(), layout.reading.told(layout.format.as_deref(), config.zone));
    let names = layout.payload.iter().map(|column| (column.own.clone(), column.name.clone())).collect();
    let table = CsvTable::new(bytes.clone(), layout, extents, unit, ts);
    Ok(Opened {
        table: Arc::new(table),
        index,
        unit,
        bar: lengths.usual(),
        sole,
        time,
        names,
        read_of: None,
        notes,
    })
}

/// What a scan found.
struct Found {
    layout: Layout,
    extents: Vec<Extent>,
    index: Index,
    one_series: OneSeries,
    lengths: Lengths,
    odd: OddLines,
    folds: FoldsSeen,
    steps_back: StepsBack,
}

/// Lines that are no rows and do no harm.
#[derive(Debug, Default)]
struct OddLines {
    /// How often the header comes again.
    headers: u64,
    /// Rows that say in words that there is no bar.
    nulls: u64,
    /// The first line of those behind which no row has come, why it is none, and how many there are.
    tail: Option<(u64, Error, u64)>,
    /// The last line has no end.
    is_open: bool,
}

/// The most lines behind the last row.
const MAX_TAIL_LINES: u64 = 20;

impl OddLines {
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let counted =
            |count: u64, of: &str| format!("{count} {of}{}", if count == 1 { " is" } else { "s are" });
        match self.headers {
            0 => {}
            1 => notes.push("the header comes again once".to_owned()),
            times => notes.push(format!("the header comes again {times} times")),
        }
        if self.nulls > 0 {
            notes.push(format!(
                "{} left out, with words such as null for all values",
                counted(self.nulls, "row")
            ));
        }
        match &self.tail {
            Some((_, _, 1)) if self.is_open => {
                notes.push("the last line is cut off and left out".to_owned());
            }
            Some((_, _, lines)) => {
                notes.push(format!("{} left out behind the table", counted(*lines, "line")))
            }
            None if self.is_open => {
                notes.push("the last line has no line end, so its last value may be cut off".to_owned());
            }
            None => {}
        }
        notes
    }
}

struct Scan<'a> {
    bytes: &'a FileBytes,
    layout: Layout,
    extents: Vec<Extent>,
    builder: IndexBuilder,
    /// Payload columns of no declared type, and whether every value so far was a number.
    undecided: Vec<(usize, bool)>,
    one_series: OneSeries,
    lengths: Lengths,
    odd: OddLines,
    /// All rows so far have a value in their last column.
    is_filled: bool,
    /// What tells how doubled hours are read, in a scan that finds that out.
    folds: FoldsSeen,
    /// Whether text without a zone looks like that of local clocks.
    steps_back: StepsBack,
    /// What the row before has in its last column, where that tells the time or the symbol.
    last_key: Vec<u8>,
    /// The symbol of the last row and its id: neighbouring rows often share it.
    symbol: (Vec<u8>, usize),
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a FileBytes, layout: Layout) -> Result<Self> {
        let mut last = [0];
        bytes.read_at(&mut last, bytes.len().saturating_sub(1)).map_err(io_error)?;
        let untyped =
            |(index, column): (usize, &layout::Column)| column.column_type.is_none().then_some((index, true));
        let undecided = layout.payload.iter().enumerate().filter_map(untyped).collect();
        let (extents, builder, symbol) = (Vec::new(), IndexBuilder::default(), (Vec::new(), 0));
        let one_series = layout.one_series.clone();
        let is_open = last != *b"\n";
        let (lengths, odd) = (Lengths::default(), OddLines { is_open, ..OddLines::default() });
        let (folds, steps_back) = (FoldsSeen::default(), StepsBack::new(layout.reading.unit()));
        let is_filled = true;
        Ok(Self {
            bytes,
            layout,
            extents,
            builder,
            undecided,
            one_series,
            lengths,
            odd,
            is_filled,
            folds,
            steps_back,
            last_key: Vec::new(),
            symbol,
        })
    }

    fn run(mut self) -> Result<Found> {
        // Of thousands of small files each would clear a block.
        let room = usize::try_from(self.bytes.len()).unwrap_or(usize::MAX);
        let mut buffer = vec![0; room.min(BLOCK_BYTES + MAX_LINE_BYTES)];
        let (mut filled, mut offset, mut line) = (0, self.layout.data_start, self.layout.data_line);
        let mut splitter = Splitter::new(self.layout.delimiter);
        self.symbol.1 = if self.layout.symbol.is_none() { self.builder.id("")? } else { usize::MAX };
        loop {
            let end = offset + filled as u64;
            filled += self.bytes.read_at(&mut buffer[filled..], end).map_err(io_error)?;
            let at_end = offset + filled as u64 >= self.bytes.len();
            let mut records = splitter.records(&buffer[..filled], line, at_end);
            while records.position < BLOCK_BYTES {
                let (at, byte) = (records.line, offset + records.position as u64);
                match records.next() {
                    Ok(Some(record)) => self.row(&record, byte)?,
                    Ok(None) => break,
                    Err(fault) => return Err(Error::schema(fault.message()).with("line", at)),
                }
            }
            let (used, next_line) = (records.position, records.line);
            if self.builder.end_block() {
                self.extents.push(Extent { offset, bytes: used, line });
            }
            if at_end && used == filled {
                break;
            }
            if used == 0 {
                return Err(Error::schema("a line is longer than 64 KiB").with("line", line));
            }
            buffer.copy_within(used..filled, 0);
            (filled, offset, line) = (filled - used, offset + used as u64, next_line);
        }
        let Self {
            mut layout,
            mut extents,
            builder,
            undecided,
            one_series,
            lengths,
            odd,
            folds,
            steps_back,
            ..
        } = self;
        if let Some((end, error, lines)) = &odd.tail {
            let is_short = *lines <= MAX_TAIL_LINES && !extents.is_empty();
            if !is_short {
                return Err(error.clone());
            }
            // A block without a row is none.
            if let Some(last) = extents.last_mut() {
                let bytes = usize::try_from(end.saturating_sub(last.offset)).unwrap_or(usize::MAX);
                last.bytes = last.bytes.min(bytes);
            }
        }
        for (index, is_number) in undecided {
            layout.payload[index].column_type =
                Some(if is_number { ColumnType::Float64 } else { ColumnType::Utf8 });
        }
        Ok(Found { layout, extents, index: builder.finish(), one_series, lengths, odd, folds, steps_back })
    }

    /// Takes a line that starts at this byte.
    fn row(&mut self, record: &Record<'_>, byte: u64) -> Result<()> {
        let layout = &self.layout;
        let may_be_cut = self.odd.is_open && byte + record.bytes() as u64 >= self.bytes.len();
        let time = match layout.row_time(record) {
            Ok(time) => time,
            Err(_) if layout.is_header(record) => {
                layout.check_header(record)?;
                self.odd.headers += 1;
                return Ok(());
            }
            Err(error) => return self.odd_line(record, byte, may_be_cut, error),
        };
        let is_filled = !record.field(layout.width - 1).is_empty();
        if may_be_cut
            && (layout.is_cut_price(record) || (self.is_filled && !is_filled) || self.is_cut_key(record))
        {
            let error = Error::schema("the last line is cut off").with("line", record.line);
            self.odd.tail = Some((byte, error, 1));
            return Ok(());
        }
        self.is_filled &= is_filled;
        if let Some((_, error, _)) = self.odd.tail.take() {
            // There is a row behind it.
            return Err(error);
        }
        if layout.local.is_open()
            && let Some(wall) = layout.wall(record)
        {
            layout.local.see(&mut self.folds, wall, &layout.symbol_text(record), record.line);
        }
        if layout.reading == Reading::Text && layout.local.is_plain() && layout.symbol.is_none() {
            self.steps_back.add(time, record.line);
        }
        // It is not read, but proves that there is no bar.
        if layout.is_no_bar(record) {
            self.odd.nulls += 1;
        } else {
            self.one_series.row(time, record.line, |at| record.field(at))?;
        }
        if let Some(at) = layout.close_time {
            let end = layout.end(record.field(at));
            let has_length = end.is_some_and(|end| self.lengths.add(time, end, record.line));
            if layout.is_bare {
                check_bare(record, has_length)?;
            }
        }
        if let Some(at) = layout.symbol {
            let symbol = symbol_of(record.field(at));
            if symbol.is_empty() {
                return Err(Error::schema("a row has no symbol").with("line", record.line));
            }
            if self.symbol.1 == usize::MAX || self.symbol.0 != symbol {
                let text = std::str::from_utf8(symbol)
                    .map_err(|_| Error::schema("a symbol is not UTF-8").with("line", record.line))?;
                let id = self.builder.id(text)?;
                self.symbol = (symbol.to_vec(), id);
            }
        }
        if layout.has_key_last() {
            self.last_key.clear();
            self.last_key.extend_from_slice(record.field(layout.width - 1));
        }
        self.builder.row(self.symbol.1, time);
        for (index, is_number) in self.undecided.iter_mut().filter(|(_, is_number)| *is_number) {
            let field = record.field(layout.payload[*index].at);
            *is_number = field.is_empty() || layout::reads_as_number(field, layout.notation);
        }
        Ok(())
    }

    /// Whether the last field of a row is a time, or a symbol, of which the end was cut off.
    fn is_cut_key(&self, record: &Record<'_>) -> bool {
        let layout = &self.layout;
        let field = record.field(layout.width - 1);
        if layout.symbol == Some(layout.width - 1) {
            return !self.builder.has(symbol_of(field)) && self.builder.has_longer(symbol_of(field));
        }
        layout.has_key_last() && field.len() < self.last_key.len()
    }

    /// Takes a line that is no row: an error, unless it may be behind the last one.
    fn odd_line(&mut self, record: &Record<'_>, byte: u64, is_cut: bool, error: Error) -> Result<()> {
        if let Some((_, _, lines)) = &mut self.odd.tail {
            *lines += 1;
            return Ok(());
        }
        let is_other = record.len() != self.layout.width;
        let layout = &self.layout;
        // A time of day, or the symbol that tells which of two hours is meant, may be what is missing.
        let is_readable =
            [Some(layout.ts), layout.clock, layout.symbol].iter().flatten().all(|at| *at < record.len());
        let has_time = record.len() > layout.ts
            && (is_time(record.field(layout.ts)) || (is_readable && layout.time(record).is_ok()));
        let is_empty =
            (0..record.len()).filter(|at| *at != self.layout.ts).all(|at| is_null(record.field(at)));
        // A line of totals has a word in place of the time.
        let is_total = !has_time && record.len() > self.layout.ts && is_word(record.field(self.layout.ts));
        if (is_other && (is_cut || !has_time)) || (!has_time && is_empty) || is_total {
            self.odd.tail = Some((byte, error, 1));
            return Ok(());
        }
        Err(error)
    }
}

/// Whether a row without a header may be a kline.
fn check_bare(record: &Record<'_>, has_length: bool) -> Result<()> {
    let number = |at: usize| number(record.field(at));
    let fault = if !has_length {
        Some((6, "the 7th is no close time after the opening time"))
    } else if number(11).is_none() {
        Some((11, "the 12th is no number"))
    } else if let (Some(open), Some(high), Some(low), Some(close)) =
        (number(1), number(2), number(3), number(4))
    {
        let faults = [
            (high < low, 2, "the 3rd would be a high below the low"),
            (high < open.max(close), 2, "the 3rd would be a high below the open or the close"),
            (low > open.min(close), 3, "the 4th would be a low above the open or the close"),
        ];
        faults.into_iter().find(|(is_fault, ..)| *is_fault).map(|(_, at, fault)| (at, fault))
    } else {
        None
    };
    let Some((at, fault)) = fault else { return Ok(()) };
    Err(Error::schema(format!("{NOT_KLINES}: {fault}; {ADD_HEADER}"))
        .with("line", record.line)
        .with("field", at + 1)
        .with("value", record.quote(at)))
}

impl Layout {
    /// The time of a line that has as many fields as a row, in the unit of the reading.
    pub(super) fn row_time(&self, record: &Record<'_>) -> Result<i64> {
        if record.len() != self.width {
            return Err(Error::schema("a line does not have as many fields as the header or the first line")
                .with("line", record.line)
                .with("fields", record.len())
                .with("expected", self.width));
        }
        self.time(record)
    }

    /// Whether a line is the header again: has its names, but for one that was added to fit the rows, or changed.
    pub(super) fn is_header(&self, record: &Record<'_>) -> bool {
        let Some(header) = &self.header else { return false };
        let is_name = |at: &usize| {
            name_in(record, *at).is_some_and(|name| header.iter().any(|own| own.eq_ignore_ascii_case(name)))
        };
        let names = header.iter().filter(|name| !name.is_empty()).count();
        let found = (0..record.len()).filter(is_name).count();
        found > 0 && found >= names.min(2) && found + 1 >= names && record.len() <= header.len() + 1
    }

    /// `Schema` where a header that comes again has its columns in another order.
    fn check_header(&self, record: &Record<'_>) -> Result<()> {
        let header = self.header.as_deref().unwrap_or_default();
        let is_moved = |at: usize| {
            name_in(record, at).is_some_and(|name| {
                let is_name = |own: &String| own.eq_ignore_ascii_case(name);
                !is_name(&header[at]) && header.iter().any(is_name)
            })
        };
        if record.len() != header.len() || !(0..record.len()).any(is_moved) {
            return Ok(());
        }
        Err(Error::schema(
            "the header comes again with its columns in another order; make a file of its own of the rows below it",
        )
        .with("line", record.line))
    }

    /// Whether the last column tells the time or the symbol.
    fn has_key_last(&self) -> bool {
        let last = self.width - 1;
        self.ts == last || self.clock == Some(last) || self.symbol == Some(last)
    }

    /// Whether the last field of a row is a price that does not go with the others, as one does that was cut off.
    fn is_cut_price(&self, record: &Record<'_>) -> bool {
        let at = |name: &str| self.payload.iter().find(|column| column.name == name).map(|column| column.at);
        let value = |name: &str| at(name).and_then(|at| self.notation.number(record.field(at)));
        let is_last = |name: &&str| at(name) == Some(self.width - 1);
        let (Some(high), Some(low)) = (value("high"), value("low")) else { return false };
        let are_between =
            ["open", "close"].iter().filter_map(|name| value(name)).all(|v| low <= v && v <= high);
        ["open", "high", "low", "close"].iter().any(is_last) && !(low <= high && are_between)
    }

    /// Whether a row says in words that it has no value, so that there is no bar.
    pub(super) fn is_no_bar(&self, record: &Record<'_>) -> bool {
        if self.keeps_nulls {
            return false;
        }
        let mut fields = self.payload.iter().map(|column| record.field(column.at));
        fields.clone().any(|field| !field.trim_ascii().is_empty()) && fields.all(is_null)
    }

    /// The time of a row in the unit of the reading.
    fn time(&self, record: &Record<'_>) -> Result<i64> {
        if self.local.is_plain() { self.plain_time(record) } else { self.local_time(record) }
    }

    /// The same where it is not simply what is written.
    fn local_time(&self, record: &Record<'_>) -> Result<i64> {
        let plain = self.plain_time(record)?;
        let unit = self.reading.unit();
        match self.wall(record) {
            Some(wall) => self
                .local
                .instant(wall, &self.symbol_text(record), record.line)
                .map_err(|e| self.at(e, record)),
            None if self.reading == Reading::Undecided => Ok(plain),
            None => {
                Ok(unit.instant(plain).map_or(plain, |ts| unit.value(self.local.of_instant(ts.as_micros()))))
            }
        }
    }

    /// What clocks showed at the time of a row; `None` where it counts from the epoch.
    pub(super) fn wall(&self, record: &Record<'_>) -> Option<Wall> {
        match self.reading {
            Reading::Text => self.text_of(record, |text| parse_wall(text, self.format.as_deref())),
            Reading::Dates => {
                let micros = self.reading.integer(layout::epoch(record.field(self.ts))?).ok()?;
                Some(Wall { micros, offset: None })
            }
            _ => None,
        }
    }

    /// The symbol of a row, empty where the file has no column for it.
    fn symbol_text<'r>(&self, record: &'r Record<'_>) -> Cow<'r, str> {
        self.symbol.map_or(Cow::Borrowed(""), |at| String::from_utf8_lossy(symbol_of(record.field(at))))
    }

    fn plain_time(&self, record: &Record<'_>) -> Result<i64> {
        let field = record.field(self.ts);
        let time = match self.reading {
            Reading::Text => self.text_time(record),
            Reading::Undecided | Reading::Unit(_) => layout::epoch(field),
            reading => match layout::epoch(field).map(|value| reading.integer(value)) {
                Some(Err(e)) => return Err(self.at(e, record)),
                time => time.and_then(Result::ok),
            },
        };
        time.ok_or_else(|| {
            let has_exponent = field.iter().any(|b| b"eE".contains(b)) && number(field).is_some();
            let error = match (field.trim_ascii().is_empty(), self.reading, &self.format) {
                (true, _, _) => Error::schema("a row has no time"),
                _ if self.clock.is_some_and(|at| record.field(at).trim_ascii().is_empty()) => {
                    Error::schema("a row has a date but no time of day; correct or remove it")
                }
                (_, Reading::Text, Some(format)) => not_of_form(format),
                _ if has_exponent => Error::schema(
                    "a time has lost its digits, as spreadsheets cut them; write the file anew without a spreadsheet",
                ),
                (_, Reading::Text, None) => Error::schema(
                    "a time is neither an integer nor an ISO 8601 date or date and time; give its format \
                     (with_time_format)",
                ),
                _ => Error::schema(
                    "a time is not an integer, although the first one is; write all times in one format",
                ),
            };
            self.at(error, record)
        })
    }

    /// A time in text, in microseconds.
    fn text_time(&self, record: &Record<'_>) -> Option<i64> {
        self.text_of(record, |text| parse_text(text, self.format.as_deref()))
    }

    /// What is made of the text of a row's time.
    fn text_of<T>(&self, record: &Record<'_>, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = |at: usize| std::str::from_utf8(record.field(at)).ok().map(str::trim);
        match self.clock {
            None => read(text(self.ts)?),
            // A date alone would be read as midnight.
            Some(clock) if text(clock)?.is_empty() => None,
            Some(clock) => read(&format!("{} {}", text(self.ts)?, text(clock)?)),
        }
    }

    /// Names the row's line, the time column and its value.
    fn at(&self, error: Error, record: &Record<'_>) -> Error {
        error.with("line", record.line).with("column", &self.ts_name).with("value", record.quote(self.ts))
    }

    /// Where a kline ends, one step after its close time.
    fn end(&self, close_time: &[u8]) -> Option<i64> {
        match self.reading {
            Reading::Text => iso(close_time)?.checked_add(1),
            reading => reading.integer(layout::epoch(close_time)?.checked_add(1)?).ok(),
        }
    }
}

/// The name that a line has at a place, if it is a header.
fn name_in<'r>(record: &Record<'r>, at: usize) -> Option<&'r str> {
    let field = std::str::from_utf8(record.field(at)).ok()?;
    Some(name_of(field, at)).filter(|name| !name.is_empty())
}

fn iso(field: &[u8]) -> Option<i64> {
    std::str::from_utf8(field).ok().and_then(|text| parse_iso(text.trim_ascii()))
}
