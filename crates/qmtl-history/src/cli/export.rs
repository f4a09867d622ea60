//! The flags of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ReadArgs;

pub(super) const HELP: &str = "\
Numbers are written in the shortest form that reads back as the same double, so importing the CSV
again gives the same bits. JSON has no NaN and no infinity: both become null.

A name that ends in .gz or .zst compresses CSV, JSON and JSON lines. --out DIR/ writes a file for each
series that is named, or for every series of the store. --fill flat adds a bar, marked in the column
`filled`, where a source proved that there is none; a bar that is merely missing is never made up.

Examples:
  qmtl-history export --store ./history --node BTCUSDT --interval 1m --out bars.parquet
  qmtl-history export --store ./history --node BTCUSDT --interval 1m --columns close --last 7d
  qmtl-history export --store ./history --node BTCUSDT --interval 1m --rename ts=date --out bars.jsonl.zst
  qmtl-history export --store ./history --node BTC/USDT --interval 1h --for freqtrade \\
      --out user_data/data/binance/BTC_USDT-1h.feather
  qmtl-history export --store ./history --node BTCUSDT --interval 1m --fill flat --strict --out bars.csv
  qmtl-history export --store ./history --format parquet --out everything/";

/// What `export` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct ExportArgs {
    /// What to export.
    #[command(flatten)]
    pub read: ReadArgs,
    /// Where to write: a file, - for stdout, or a folder (one that exists, or ends in /) for a file of each series
    #[arg(short, long, value_name = "FILE|DIR/", default_value = "-")]
    pub out: PathBuf,
    /// The file's format [default: by the extension of --out, else what --for expects, else csv]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ExportFormat>,
    /// Write what a program expects: its columns, their names and order, its format and form of times
    #[arg(long = "for", value_name = "PROGRAM")]
    pub reader: Option<Reader>,
    /// The form of times in CSV and JSON [default: iso, or what --for expects]
    #[arg(long, value_name = "FORM")]
    pub ts_format: Option<TsFormat>,
    /// Only these columns, by their stored names, after the time, in this order
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// Call the column OLD NEW in the export, such as ts=date; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_new_name)]
    pub rename: Vec<(String, String)>,
    /// Add bars where a source proved that there are none: flat ones, at the close before them, with no volume
    #[arg(long, value_name = "HOW")]
    pub fill: Option<Filling>,
    /// Fail, before anything is written, if closed bars of the range are missing: neither stored nor proved absent
    #[arg(long)]
    pub strict: bool,
}

/// Reads the name of a column and the one that it gets.
fn parse_new_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("use OLD=NEW, such as ts=date".into()),
    }
}

/// The form of an exported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum ExportFormat {
    /// Text with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC: a file (Feather V2), on stdout or into a pipe a stream.
    Arrow,
    /// Feather V2, which is an Arrow IPC file, wherever it goes.
    Feather,
    /// JSON: an array with an object for each row.
    Json,
    /// JSON lines: an object for each row, on a line of its own.
    Jsonl,
}

/// The form of times in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TsFormat {
    /// ISO 8601 in UTC.
    Iso,
    /// Epoch seconds.
    S,
    /// Epoch milliseconds.
    Ms,
    /// Epoch microseconds.
    Us,
}

/// A program that reads exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Reader {
    /// A data folder of freqtrade.
    Freqtrade,
    /// pandas, with the time as the index.
    Pandas,
    /// backtrader's `GenericCSVData` as it is by default.
    Backtrader,
    /// QuantConnect LEAN, crypto.
    Lean,
    /// backtesting.py.
    Backtesting,
}

/// How bars are made up that are proved not to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Filling {
    /// At the close before, with no volume.
    Flat,
}
