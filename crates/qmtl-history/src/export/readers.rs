//! What other programs expect of a file: one table, which `--for` looks up.

use qmtl_history_api::arrow_schema::{DataType, SchemaRef, TimeUnit};
use qmtl_history_api::frame;

use crate::cli::{ExportFormat, Reader};
use crate::table_writer::{TextForm, TimeForm};

/// What a program expects.
#[derive(Debug)]
pub(crate) struct Expected {
    reader: Reader,
    /// How the program is called.
    pub(crate) name: &'static str,
    /// What it reads; the first one unless another is asked for.
    pub(crate) formats: &'static [ExportFormat],
    /// Whether it reads text that is compressed.
    pub(crate) reads_compressed: bool,
    /// Its columns in their order, the time first; none where it takes those of the series.
    pub(crate) columns: Option<&'static [Column]>,
    /// How its CSV stands.
    pub(crate) csv: TextForm,
    /// How its JSON stands.
    pub(crate) json: TextForm,
    /// How times stand in its text; `None` is the default, or what `--ts-format` says.
    pub(crate) time: Option<TimeForm>,
    /// The unit of its times where they are no text; `None` leaves them as they are.
    pub(crate) unit: Option<TimeUnit>,
    /// The type of its numbers; `None` leaves them as they are.
    pub(crate) numbers: Option<DataType>,
    /// Whether a table says that the time is its index, as pandas notes it.
    pub(crate) has_index: bool,
}

/// A column that a program expects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// What the program calls it.
    pub(crate) name: &'static str,
    /// What it is filled from.
    pub(crate) from: From,
}

/// What a column is filled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The time.
    Time,
    /// The column of this name.
    Series(&'static str),
    /// Nothing that a series has: 0.
    Zero,
}

const fn column(name: &'static str, from: From) -> Column {
    Column { name, from }
}

const OPEN: From = From::Series("open");
const HIGH: From = From::Series("high");
const LOW: From = From::Series("low");
const CLOSE: From = From::Series("close");
const VOLUME: From = From::Series("volume");

/// The order that nearly all have.
const PLAIN: [Column; 6] = [
    column("date", From::Time),
    column("open", OPEN),
    column("high", HIGH),
    column("low", LOW),
    column("close", CLOSE),
    column("volume", VOLUME),
];
const CAPITAL: [Column; 6] = [
    column("Date", From::Time),
    column("Open", OPEN),
    column("High", HIGH),
    column("Low", LOW),
    column("Close", CLOSE),
    column("Volume", VOLUME),
];
const WITH_INTEREST: [Column; 7] = [
    column("datetime", From::Time),
    column("open", OPEN),
    column("high", HIGH),
    column("low", LOW),
    column("close", CLOSE),
    column("volume", VOLUME),
    column("openinterest", From::Zero),
];

static EXPECTED: [Expected; 5] = [
    Expected {
        reader: Reader::Freqtrade,
        name: "freqtrade",
        formats: &[ExportFormat::Feather, ExportFormat::Json, ExportFormat::Parquet],
        reads_compressed: true,
        columns: Some(&PLAIN),
        csv: TextForm::Csv,
        json: TextForm::JsonArrays,
        time: Some(TimeForm::Millis),
        unit: Some(TimeUnit::Millisecond),
        numbers: Some(DataType::Float64),
        has_index: false,
    },
    Expected {
        reader: Reader::Pandas,
        name: "pandas",
        formats: &[
            ExportFormat::Csv,
            ExportFormat::Parquet,
            ExportFormat::Feather,
            ExportFormat::Arrow,
            ExportFormat::Json,
            ExportFormat::Jsonl,
        ],
        reads_compressed: true,
        columns: None,
        csv: TextForm::Csv,
        json: TextForm::Json,
        time: None,
        unit: None,
        numbers: None,
        has_index: true,
    },
    Expected {
        reader: Reader::Backtrader,
        name: "backtrader",
        formats: &[ExportFormat::Csv],
        reads_compressed: false,
        columns: Some(&WITH_INTEREST),
        csv: TextForm::Csv,
        json: TextForm::Json,
        time: Some(TimeForm::Spaced),
        unit: None,
        numbers: None,
        has_index: false,
    },
    Expected {
        reader: Reader::Lean,
        name: "LEAN",
        formats: &[ExportFormat::Csv],
        reads_compressed: false,
        columns: Some(&PLAIN),
        csv: TextForm::Lean,
        json: TextForm::Json,
        // Of hours and days; shorter bars stand in a file a day, at their time of day.
        time: Some(TimeForm::Compact),
        unit: None,
        numbers: None,
        has_index: false,
    },
    Expected {
        reader: Reader::Backtesting,
        name: "backtesting.py",
        formats: &[ExportFormat::Csv],
        reads_compressed: true,
        columns: Some(&CAPITAL),
        csv: TextForm::Csv,
        json: TextForm::Json,
        time: Some(TimeForm::Spaced),
        unit: None,
        numbers: None,
        has_index: false,
    },
];

impl Expected {
    /// What a program expects.
    pub(crate) fn by(reader: Reader) -> Option<&'static Self> {
        EXPECTED.iter().find(|expected| expected.reader == reader)
    }

    /// The columns of a series that has all that is expected, and no rows.
    pub(crate) fn empty(&self) -> Option<SchemaRef> {
        let names = self.columns?.iter().filter_map(|column| match column.from {
            From::Series(name) => Some((name, DataType::Float64)),
            From::Time | From::Zero => None,
        });
        Some(frame::schema_of(names))
    }

    /// Whether its files are those of LEAN, whose shorter bars stand in a file a day.
    pub(crate) fn is_lean(&self) -> bool {
        self.reader == Reader::Lean
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_program_has_its_row_whose_time_comes_first() {
        for reader in Reader::value_variants() {
            let expected = Expected::by(*reader).unwrap();
            assert!(expected.columns.is_none_or(|columns| columns[0].from == From::Time), "{reader:?}");
            assert!(!expected.formats.is_empty());
        }
    }
}
