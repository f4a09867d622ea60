//! What to read and how: everything that a file cannot say about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use qmtl_history_api::frame::Rules;
use qmtl_history_api::{Error, Interval, NodeId, Result};

use super::bytes::{FileBytes, io_error};
use super::profile::Profile;
use super::stamp::Stamp;
use super::time::{TimeFormat, TsUnit};
use super::zone::Zone;

/// How a file's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileFormat {
    /// Text with columns that commas, semicolons, tabs or bars separate, with a header or with rows that prove what
    /// their columns are; UTF-8 or UTF-16.
    Csv,
    /// JSON: a list of rows, which are lists or objects, or one row a line; the list may stand in an object, and so may a
    /// list for each column.
    Json,
    /// A zip archive with files of the other formats.
    Zip,
    /// A file of another format, compressed with gzip.
    Gzip,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, as a file (Feather V2) or as a stream.
    Arrow,
}

impl FileFormat {
    /// The format that a file's extension names, in any case; what only packs another file names none.
    pub(super) fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" | "txt" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "feather" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }

    /// The format that a file's first bytes tell; text tells none.
    pub(super) fn of_content(head: &[u8]) -> Option<Self> {
        match head {
            [b'P', b'A', b'R', b'1', ..] => Some(Self::Parquet),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Self::Zip),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // The second is the continuation marker that a stream's messages start with.
            [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..] => Some(Self::Arrow),
            _ => None,
        }
    }

    /// Fails with `Schema` when the file's first bytes belong to another format.
    pub(super) fn check(self, bytes: &FileBytes) -> Result<()> {
        let mut head = [0; 8];
        let count = bytes.read_at(&mut head, 0).map_err(io_error)?;
        if head.starts_with(b"FEA1") {
            return Err(Error::schema("Feather V1 is not read; write the file as Feather V2 or Parquet"));
        }
        match Self::of_content(&head[..count]) {
            Some(found) if found == self => Ok(()),
            None if matches!(self, Self::Csv | Self::Json) => Ok(()),
            Some(found) => Err(Error::schema(format!(
                "the file is to be read as {self}, but its content is {found}; leave the format out (with_format)"
            ))),
            None => Err(Error::schema(format!("the file is to be read as {self}, but its content is not"))),
        }
    }
}

/// Prints the name that people use.
impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Zip => "zip",
            Self::Gzip => "gzip",
            Self::Parquet => "Parquet",
            Self::Arrow => "Arrow IPC",
        })
    }
}

/// The type of a CSV column, where it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnType {
    /// 64-bit floating point: the double nearest to a number with a fraction or an exponent. A whole
    /// number in plain digits that no double equals is refused, and so is one that none is as large as.
    Float64,
    /// 64-bit integer; text with a fraction or an exponent is refused.
    Int64,
    /// Text.
    Utf8,
}

/// What stands before the fraction of a number in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decimal {
    /// `1234.5`, with commas between thousands if anything.
    Point,
    /// `1234,5`, with points between thousands if anything.
    Comma,
}

/// Which file to read, and what of it cannot be told from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileConfig {
    pub(super) path: PathBuf,
    pub(super) is_stdin: bool,
    pub(super) format: Option<FileFormat>,
    pub(super) ts_column: Option<String>,
    pub(super) ts_unit: Option<TsUnit>,
    pub(super) symbol_column: Option<String>,
    pub(super) symbols: BTreeMap<NodeId, String>,
    pub(super) interval: Option<Interval>,
    pub(super) column_types: BTreeMap<String, ColumnType>,
    pub(super) max_unpacked_bytes: u64,
    pub(super) delimiter: Option<u8>,
    pub(super) decimal: Option<Decimal>,
    pub(super) has_header: Option<bool>,
    pub(super) columns: Vec<String>,
    pub(super) renamed: BTreeMap<String, String>,
    pub(super) skipped_lines: u64,
    pub(super) time_format: Option<TimeFormat>,
    pub(super) zone: Option<Zone>,
    pub(super) stamp: Option<Stamp>,
    pub(super) rules: Rules,
    pub(super) sample_bytes: Option<u64>,
    /// The layout that was named, or that none is to be taken; `None` takes the one that the file shows.
    pub(super) profile: Option<Option<Profile>>,
    /// Other names of columns, of those that a file has, from its profile.
    pub(super) usually_renamed: &'static [(&'static str, &'static str)],
}

impl FileConfig {
    /// How many bytes a compressed file may unpack to unless said otherwise: 4 GiB.
    pub const MAX_UNPACKED_BYTES: u64 = 4 << 30;

    /// Reads the program's stdin to its end, the format told by how it begins. Errors call it `-`.
    #[must_use]
    pub fn stdin() -> Self {
        Self { is_stdin: true, ..Self::new("-") }
    }

    /// Reads the file at `path`, and tells what it is by its content. A pipe, such as a
    /// FIFO or `/dev/stdin`, is read to its end when it is opened.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_stdin: false,
            format: None,
            ts_column: None,
            ts_unit: None,
            symbol_column: None,
            symbols: BTreeMap::new(),
            interval: None,
            column_types: BTreeMap::new(),
            max_unpacked_bytes: Self::MAX_UNPACKED_BYTES,
            delimiter: None,
            decimal: None,
            has_header: None,
            columns: Vec::new(),
            renamed: BTreeMap::new(),
            skipped_lines: 0,
            time_format: None,
            zone: None,
            stamp: None,
            rules: Rules::default(),
            sample_bytes: None,
            profile: None,
            usually_renamed: &[],
        }
    }

    /// Reads the file as `format`, whatever its extension says. Without this its content tells.
    #[must_use]
    pub fn with_format(mut self, format: FileFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// The column that holds the opening time of the bars. Without this it is the one that is named like a time: ts,
    /// timestamp, time, date, datetime, open_time, unix and the like (case, blanks, underscores and dashes do not
    /// matter). Of several such columns it is the most precise one if the others say the same; a date and a time of day
    /// are taken together, also beside a date that is named here.
    #[must_use]
    pub fn with_ts_column(mut self, name: impl Into<String>) -> Self {
        self.ts_column = Some(name.into());
        self
    }

    /// The unit of an integer time column. Without this each value must prove its own: exactly one unit
    /// puts it into the years 1990 to 2100. A value that can only be of another unit is refused.
    #[must_use]
    pub fn with_ts_unit(mut self, unit: TsUnit) -> Self {
        self.ts_unit = Some(unit);
        self
    }

    /// The column that says which series a row belongs to. Without this the file is one series,
    /// which is served to whichever node asks, and is refused where a column tells several series apart.
    #[must_use]
    pub fn with_symbol_column(mut self, name: impl Into<String>) -> Self {
        self.symbol_column = Some(name.into());
        self
    }

    /// Serves `node` from the rows of `symbol`. A node without a symbol looks for its own id.
    #[must_use]
    pub fn with_symbol(mut self, node: NodeId, symbol: impl Into<String>) -> Self {
        self.symbols.insert(node, symbol.into());
        self
    }

    /// Vouches that the file's bars are `interval` apart, so that a bar it lacks is proven not to
    /// exist. Needed where most neighbouring rows lie further apart than that: a sparse series.
    /// Requests for another interval are refused then.
    #[must_use]
    pub fn with_interval(mut self, interval: Interval) -> Self {
        self.interval = Some(interval);
        self
    }

    /// The type of a CSV column, which may be named as the file does or as it comes out. Without this the
    /// usual columns of a candle are numbers, `trades` an integer, and any other is a number when every value
    /// of the file is one, else text.
    #[must_use]
    pub fn with_column_type(mut self, name: impl Into<String>, column_type: ColumnType) -> Self {
        self.column_types.insert(name.into(), column_type);
        self
    }

    /// How many bytes a compressed file may unpack to; more is taken for a decompression bomb.
    #[must_use]
    pub fn with_max_unpacked_bytes(mut self, bytes: u64) -> Self {
        self.max_unpacked_bytes = bytes;
        self
    }

    /// The sign between the columns of a text file. Without this it is the one of comma, semicolon, tab and bar that
    /// cuts most lines into the same number of fields. `InvalidInput` unless it is one ASCII character that is no
    /// quote, letter, digit or line end.
    pub fn with_delimiter(mut self, delimiter: char) -> Result<Self> {
        let byte = u8::try_from(delimiter)
            .ok()
            .filter(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"\"\r\n\0".contains(byte));
        self.delimiter = Some(byte.ok_or_else(|| {
            Error::invalid("not a sign between columns; use one such as , or ; or | or a tab")
                .with("delimiter", format_args!("{delimiter:?}"))
        })?);
        Ok(self)
    }

    /// What stands before the fraction of numbers in text. Without this the numbers tell.
    #[must_use]
    pub fn with_decimal(mut self, decimal: Decimal) -> Self {
        self.decimal = Some(decimal);
        self
    }

    /// Whether the first line of a text file, behind those that are left out, names its columns. Without this it does
    /// when most of its fields are words.
    #[must_use]
    pub fn with_header(mut self, has_header: bool) -> Self {
        self.has_header = Some(has_header);
        self
    }

    /// The names of a text file's columns in their order, for one without a header or in place of it. A column whose
    /// name is empty is not read.
    #[must_use]
    pub fn with_columns(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = names.into_iter().map(Into::into).collect();
        self
    }

    /// Takes the column that the file calls `own` as if it were called `name`. One whose name is empty is not read.
    #[must_use]
    pub fn with_column(mut self, name: impl Into<String>, own: impl Into<String>) -> Self {
        self.renamed.insert(own.into(), name.into());
        self
    }

    /// How many lines at the start of a text file are no part of its table. Lines before the header that do not look
    /// like it are left out without this.
    #[must_use]
    pub fn with_skipped_lines(mut self, lines: u64) -> Self {
        self.skipped_lines = lines;
        self
    }

    /// The form of times in text. Without this it is ISO 8601, or the only usual one that fits the first rows. Where a
    /// date and a time of day stand in two columns, it is that of both with a blank between them.
    #[must_use]
    pub fn with_time_format(mut self, format: TimeFormat) -> Self {
        self.time_format = Some(format);
        self
    }
    /// The time zone of times that do not say how far they are from UTC: text without an offset, dates, timestamps
    /// without a zone. Without this they are UTC. Where clocks are put back, the rows must go through the hour that
    /// comes twice two times, in the order of the file; otherwise the file is refused.
    #[must_use]
    pub fn with_zone(mut self, zone: Zone) -> Self {
        self.zone = Some(zone);
        self
    }

    /// What the time of a row says of its bar. Without this it is when the bar opened.
    #[must_use]
    pub fn with_stamp(mut self, stamp: Stamp) -> Self {
        self.stamp = Some(stamp);
        self
    }

    /// What becomes of rows off the grid and of rows without prices when they are stored; the fetcher gives them as
    /// they are.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Reads only the beginning and the end of a larger text file, so many bytes together, to describe it
    /// ([`FileFetcher::describe`](super::FileFetcher::describe)): its rows between them are not seen, so that what it
    /// would prove to be absent is not.
    #[must_use]
    pub fn with_sample(mut self, bytes: u64) -> Self {
        self.sample_bytes = Some(bytes);
        self
    }

    /// The layout of a text file. Without this it is the one that the file shows for certain, if any; `None` is none.
    /// What is said otherwise counts more.
    #[must_use]
    pub fn with_profile(mut self, profile: Option<Profile>) -> Self {
        self.profile = Some(profile);
        self
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp.unwrap_or_default()
    }
}
