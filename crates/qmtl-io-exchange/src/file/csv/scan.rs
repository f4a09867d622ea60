//! The one scan of a CSV file that finds its blocks, its times and the types of its columns.

use std::sync::Arc;

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result, frame};

use super::layout::{self, Layout};
use super::read::{CsvTable, Extent};
use super::split::{Record, Splitter};
use super::{BLOCK_BYTES, MAX_LINE_BYTES};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::config::{ColumnType, FileConfig};
use crate::file::index::{Index, IndexBuilder};
use crate::file::lengths::{ADD_HEADER, Lengths, NOT_KLINES};
use crate::file::one_series::OneSeries;
use crate::file::table::{Opened, symbol_of};
use crate::file::time::{Reading, parse_iso};

/// Scans the file, once unless its times must be read one by one; memory is bounded by a block, whatever the
/// file's size.
pub(in crate::file) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let layout = layout::detect(bytes, config)?;
    if layout.reading == Reading::Iso
        && let Some(unit) = config.ts_unit
    {
        return Err(Error::invalid(format!("the time column is declared in {unit}, but holds no integer"))
            .with("column", &layout.ts_name));
    }
    let mut found = Scan::new(bytes, layout.clone()).run()?;
    let (min, max) =
        found.index.bounds().ok_or_else(|| Error::schema("the file has a header but no rows"))?;
    if layout.reading == Reading::Undecided {
        let reading =
            Reading::of_integers(config.ts_unit, min, max).map_err(|e| e.with("column", &layout.ts_name))?;
        if reading.is_by_row() {
            found = Scan::new(bytes, Layout { reading, ..layout }).run()?;
        } else {
            found.layout.reading = reading;
        }
    }
    let Found { layout, extents, index, one_series, lengths } = found;
    let sole = one_series.finish()?;
    let unit = layout.reading.unit();
    if layout.is_bare {
        lengths.are_one()?;
    }
    let ts = (frame::TS, DataType::Timestamp(unit.arrow(), Some("UTC".into())));
    let table = CsvTable::new(bytes.clone(), layout, extents, unit, ts);
    Ok(Opened { table: Arc::new(table), index, unit, bar: lengths.usual(), sole })
}

/// What a scan found.
struct Found {
    layout: Layout,
    extents: Vec<Extent>,
    index: Index,
    one_series: OneSeries,
    lengths: Lengths,
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
    /// The symbol of the last row and its id: neighbouring rows often share it.
    symbol: (Vec<u8>, usize),
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a FileBytes, layout: Layout) -> Self {
        let untyped =
            |(index, column): (usize, &layout::Column)| column.column_type.is_none().then_some((index, true));
        let undecided = layout.payload.iter().enumerate().filter_map(untyped).collect();
        let (extents, builder, symbol) = (Vec::new(), IndexBuilder::default(), (Vec::new(), 0));
        let one_series = layout.one_series.clone();
        Self { bytes, layout, extents, builder, undecided, one_series, lengths: Lengths::default(), symbol }
    }

    fn run(mut self) -> Result<Found> {
        let mut buffer = vec![0; BLOCK_BYTES + MAX_LINE_BYTES];
        let (mut filled, mut offset, mut line) = (0, self.layout.data_start, self.layout.data_line);
        let mut splitter = Splitter::new();
        self.symbol.1 = if self.layout.symbol.is_none() { self.builder.id("")? } else { usize::MAX };
        loop {
            let end = offset + filled as u64;
            filled += self.bytes.read_at(&mut buffer[filled..], end).map_err(io_error)?;
            let at_end = offset + filled as u64 >= self.bytes.len();
            let mut records = splitter.records(&buffer[..filled], line, at_end);
            while records.position < BLOCK_BYTES {
                let at = records.line;
                match records.next() {
                    Ok(Some(record)) => self.row(&record)?,
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
        let Self { mut layout, extents, builder, undecided, one_series, lengths, .. } = self;
        for (index, is_number) in undecided {
            layout.payload[index].column_type =
                Some(if is_number { ColumnType::Float64 } else { ColumnType::Utf8 });
        }
        Ok(Found { layout, extents, index: builder.finish(), one_series, lengths })
    }

    fn row(&mut self, record: &Record<'_>) -> Result<()> {
        let layout = &self.layout;
        if record.len() != layout.width {
            return Err(Error::schema("a line does not have as many fields as the header or the first line")
                .with("line", record.line)
                .with("fields", record.len())
                .with("expected", layout.width));
        }
        let time = layout.time(record)?;
        self.one_series.row(time, record.line, |at| record.field(at))?;
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
        self.builder.row(self.symbol.1, time);
        for (index, is_number) in self.undecided.iter_mut().filter(|(_, is_number)| *is_number) {
            let field = record.field(layout.payload[*index].at);
            *is_number = field.is_empty() || layout::reads_as_number(field);
        }
        Ok(())
    }
}

/// Whether a row without a header may be a kline.
fn check_bare(record: &Record<'_>, has_length: bool) -> Result<()> {
    let number = |at: usize| layout::number(record.field(at));
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
    /// The time of a row in the unit of the reading.
    pub(super) fn time(&self, record: &Record<'_>) -> Result<i64> {
        let field = record.field(self.ts);
        let time = match self.reading {
            Reading::Iso => iso(field),
            Reading::Undecided | Reading::Unit(_) => layout::integer(field),
            reading => match layout::integer(field).map(|value| reading.integer(value)) {
                Some(Err(e)) => return Err(self.at(e, record)),
                time => time.and_then(Result::ok),
            },
        };
        time.ok_or_else(|| {
            let message = match (field.trim_ascii().is_empty(), self.reading) {
                (true, _) => "a row has no time",
                (_, Reading::Iso) => "a time is neither an integer nor an ISO 8601 date or date and time",
                _ => "a time is not an integer, although the first one is",
            };
            self.at(Error::schema(message), record)
        })
    }

    /// Names the row's line, the time column and its value.
    fn at(&self, error: Error, record: &Record<'_>) -> Error {
        error.with("line", record.line).with("column", &self.ts_name).with("value", record.quote(self.ts))
    }

    /// Where a kline ends, one step after its close time.
    fn end(&self, close_time: &[u8]) -> Option<i64> {
        match self.reading {
            Reading::Iso => iso(close_time)?.checked_add(1),
            reading => reading.integer(layout::integer(close_time)?.checked_add(1)?).ok(),
        }
    }
}

fn iso(field: &[u8]) -> Option<i64> {
    std::str::from_utf8(field).ok().and_then(|text| parse_iso(text.trim_ascii()))
}
