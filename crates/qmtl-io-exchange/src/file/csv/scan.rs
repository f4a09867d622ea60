//! The one scan of a CSV file that finds its blocks, its times and the types of its columns.

use std::sync::Arc;

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Error, Result, frame};

use super::layout::{self, Layout};
use super::read::{CsvTable, Extent};
use super::split::{Record, Splitter};
use super::{BLOCK_BYTES, MAX_LINE_BYTES};
use crate::file::bytes::{FileBytes, io_error};
use crate::file::columns::OneSeries;
use crate::file::config::{ColumnType, FileConfig};
use crate::file::index::IndexBuilder;
use crate::file::table::Opened;
use crate::file::time::{TsUnit, parse_iso, unit_of};

/// Scans the file once; memory is bounded by a block, whatever the file's size.
pub(in crate::file) fn open(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let layout = layout::detect(bytes, config)?;
    if !layout.integer_time
        && let Some(unit) = config.ts_unit
    {
        return Err(Error::invalid(format!("the time column is declared in {unit}, but holds no integer"))
            .with("column", &layout.ts_name));
    }
    let mut scan = Scan::new(bytes, layout);
    scan.run()?;
    let Scan { mut layout, extents, builder, undecided, .. } = scan;
    for (index, is_number) in undecided {
        layout.payload[index].column_type =
            Some(if is_number { ColumnType::Float64 } else { ColumnType::Utf8 });
    }
    let index = builder.finish();
    let (min, max) = index.bounds().ok_or_else(|| Error::schema("the file has a header and no row"))?;
    let unit = if layout.integer_time {
        unit_of(config.ts_unit, min, max).map_err(|e| e.with("column", &layout.ts_name))?
    } else {
        TsUnit::Microsecond
    };
    let ts = (frame::TS, DataType::Timestamp(unit.arrow(), Some("UTC".into())));
    let table = CsvTable::new(bytes.clone(), layout, extents, unit, ts);
    Ok(Opened { table: Arc::new(table), index, unit })
}

struct Scan<'a> {
    bytes: &'a FileBytes,
    layout: Layout,
    extents: Vec<Extent>,
    builder: IndexBuilder,
    /// Payload columns of no declared type, and whether every value so far was a number.
    undecided: Vec<(usize, bool)>,
    one_series: OneSeries,
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
        Self { bytes, layout, extents, builder, undecided, one_series, symbol }
    }

    fn run(&mut self) -> Result<()> {
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
                return Ok(());
            }
            if used == 0 {
                return Err(Error::schema("a line is longer than 64 KiB").with("line", line));
            }
            buffer.copy_within(used..filled, 0);
            (filled, offset, line) = (filled - used, offset + used as u64, next_line);
        }
    }

    fn row(&mut self, record: &Record<'_>) -> Result<()> {
        let layout = &self.layout;
        if record.len() != layout.width {
            return Err(Error::schema("a line has another number of fields than the first one")
                .with("line", record.line)
                .with("fields", record.len())
                .with("expected", layout.width));
        }
        let time = layout.time(record)?;
        self.one_series.row(|at| record.field(at)).map_err(|e| e.with("line", record.line))?;
        if let Some(at) = layout.symbol {
            let symbol = record.field(at);
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
            *is_number = field.is_empty() || layout::number(field).is_some();
        }
        Ok(())
    }
}

impl Layout {
    /// The time of a row in the file's unit.
    pub(super) fn time(&self, record: &Record<'_>) -> Result<i64> {
        let field = record.field(self.ts);
        let time = if self.integer_time {
            layout::integer(field)
        } else {
            std::str::from_utf8(field).ok().and_then(|text| parse_iso(text.trim_ascii()))
        };
        time.ok_or_else(|| {
            let message = match (field.trim_ascii().is_empty(), self.integer_time) {
                (true, _) => "a row has no time",
                (_, true) => "a time is not an integer, although the first one is",
                (_, false) => "a time is neither an integer nor an ISO 8601 date or date and time",
            };
            Error::schema(message)
                .with("line", record.line)
                .with("column", &self.ts_name)
                .with("value", record.quote(self.ts))
        })
    }
}
