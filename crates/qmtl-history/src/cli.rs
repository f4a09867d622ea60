//! The command line: every flag, its help, and nothing else.

mod export;
mod leases;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use qmtl_history_api::frame::{NanRule, OffGridRule, Rules};
use qmtl_history_api::{Error, Interval, Timestamp};
use qmtl_io_exchange::{
    ColumnType, Decimal, FileConfig, FileFormat, Profile, Stamp, TimeFormat, TsUnit, Zone,
};
use qmtl_observe::format::LogFormat;

use crate::range::RangeArgs;

pub use export::{ExportArgs, ExportFormat, Filling, Reader, TsFormat};
pub use leases::{
    Action, CoordinatorArgs, InspectLeasesArgs, Leases, LeasesArgs, ListArgs, Loss, RecoverArgs, ServerArgs,
    WorkerArgs,
};

/// The bars of a history store.
#[derive(Debug, Parser)]
#[command(
    name = "qmtl-history",
    version,
    about = "Find the holes in your market history, fill them once, and use the bars.",
    long_about = "Finds the holes in your market history, fills them once, and serves the bars.\n\n\
        A store is a folder of plain Parquet files. A series is a node id and an interval. Bars that \
        a source proved not to exist are remembered, so that nothing is requested twice.",
    after_help = "Start with `qmtl-history demo`: real candles, a temporary store, a minute of your time.",
    after_long_help = EXIT_CODES,
    max_term_width = 110,
    arg_required_else_help = true
)]
#[non_exhaustive]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed and nothing new stored; `verify` found something
  2    usage: refused before anything was read or written
  3    some windows failed, or bars remain missing
  4    the store, or the lease coordinator, cannot be reached
  130  interrupted; what was stored is kept

Start with `qmtl-history demo`: real candles, a temporary store, a minute of your time.";

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct Global {
    /// The store: a folder, which a fill creates, s3://bucket/prefix, or questdb://user:pass@host:8812/qdb
    #[arg(long, global = true, value_name = "DIR|URL", env = "QMTL_HISTORY_STORE", hide_env_values = true, help_heading = GLOBAL)]
    pub store: Option<String>,
    /// Print one JSON object on stdout: times as epoch seconds, ranges as inclusive [first, last]
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Print results and errors only: no progress, no notes
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// Log to stderr; -vv logs more (RUST_LOG works too)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,
    /// When to use colours: auto (by terminal, NO_COLOR and TERM), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true, help_heading = GLOBAL)]
    pub color: ColorWhen,
    /// The format of log lines on stderr: human, event (`EVENT {json}`) or json
    #[arg(long, global = true, value_name = "FORM", default_value = "human", help_heading = GLOBAL)]
    pub log_format: LogFormat,
}

const GLOBAL: &str = "Global options";

/// When to colour: `auto`, `always`, `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Show the holes and what a backfill would request; writes nothing
    #[command(after_help = "\
Examples:
  qmtl-history plan --store ./history --source binance --node BTCUSDT --interval 1m --last 30d
  qmtl-history plan --store ./history --nodes series.toml --timerange 20240101-20240601 --json")]
    Plan(FillArgs),
    /// Fill the holes of one or many series from a source
    #[command(after_help = BACKFILL_HELP)]
    Backfill(BackfillArgs),
    /// Show what a file holds, how it is read, and the command that stores it; writes nothing
    #[command(after_help = INSPECT_HELP, mut_args = |arg| {
        let is_of_files = arg.get_help_heading() != Some("Source") || !NOT_OF_FILES.contains(&arg.get_id().as_str());
        arg.hide(!is_of_files)
    })]
    Inspect(InspectArgs),
    /// List the series of the store
    Ls,
    /// Show where rows are, where sources proved that there are none, and what is missing
    #[command(after_help = "\
Examples:
  qmtl-history coverage --store ./history
  qmtl-history coverage --store ./history --node BTCUSDT --interval 1m --last 90d")]
    Coverage(CoverageArgs),
    /// Print the exact list of current data files, for polars, DuckDB or pandas
    #[command(after_help = "\
A store may hold older files next to the current ones, so a glob over the folder can count rows twice;
this list cannot.

Examples:
  qmtl-history files --store ./history --node BTCUSDT --interval 1m
  qmtl-history files --store ./history --node BTCUSDT --interval 1m | python -c \\
      'import polars, sys; print(polars.scan_parquet(sys.stdin.read().splitlines()).collect())'
  duckdb -c \"from read_parquet([$(qmtl-history files --store ./history --node BTCUSDT \\
      --interval 1m | sed \"s/.*/'&'/\" | paste -sd,)])\"")]
    Files(ReadArgs),
    /// Write the bars of one or many series as CSV, JSON, Parquet, Arrow or Feather, also as other programs expect them
    #[command(after_help = export::HELP)]
    Export(ExportArgs),
    /// Read every bar and check coverage, order, grid, NaN, high and low, proofs; exits 1 if it finds anything
    #[command(after_help = "\
Examples:
  qmtl-history verify --store ./history
  qmtl-history verify --store ./history --node BTCUSDT --interval 1m --json")]
    Verify(VerifyArgs),
    /// Warm up a moving average as a starting strategy does, and report when each node became ready
    #[command(after_help = WARMUP_HELP)]
    Warmup(WarmupArgs),
    /// Remove files that were replaced at least an hour ago, and what killed writers left
    #[command(after_help = "\
Writers do this by themselves now and then; the command is for stores that nobody writes to any more,
and for use after a crash. Files that a reader of the last hour may still use stay.

Examples:
  qmtl-history gc --store ./history --dry-run
  qmtl-history gc --store ./history --grace 10m")]
    Gc(GcArgs),
    /// Remove the bars before a point in time
    #[command(after_help = "\
Examples:
  qmtl-history prune --store ./history --node BTCUSDT --interval 1s --before 2023-01-01 --dry-run
  qmtl-history prune --store ./history --all --before 2020-01-01")]
    Prune(PruneArgs),
    /// Forget which bars sources proved not to exist, so that a fill asks again
    #[command(after_help = "\
Examples:
  qmtl-history forget-empty --store ./history --node BTCUSDT --interval 1m --last 7d --dry-run
  qmtl-history forget-empty --store ./history --all --from binance")]
    ForgetEmpty(ForgetArgs),
    /// Rebuild series names and column lists that are lost or wrong
    #[command(after_help = "\
The files that name a folder's series (_series.json) and list its columns (_schema) are rebuilt from the
files that hold the rows, which are not changed. What cannot be rebuilt is reported, with exit code 1.

Examples:
  qmtl-history repair --store ./history --dry-run
  qmtl-history repair --store ./history")]
    Repair(RepairArgs),
    /// Serve leases to backfill workers on many machines, so that each window is filled once
    #[command(after_help = COORDINATOR_HELP)]
    Coordinator(CoordinatorArgs),
    /// List, inspect and recover the leases of a coordinator
    Leases(LeasesArgs),
    /// Fill a temporary store from real candles and show every step
    Demo(DemoArgs),
    /// Print the completion script for a shell
    #[command(after_help = "\
Examples:
  qmtl-history completions bash > ~/.local/share/bash-completion/completions/qmtl-history
  qmtl-history completions zsh > ~/.zfunc/_qmtl-history
  qmtl-history completions fish > ~/.config/fish/completions/qmtl-history.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

const BACKFILL_HELP: &str = "\
Without a range, a fill from files takes all that they have. Ends are exclusive: --end 2024-06-01
leaves out the bar that opens on June 1st. Bars that have not closed are never written. A stored row
is replaced only with --replace, which requests every bar of the range again; stored rows that the
source does not have stay. Ctrl-C keeps what is stored; run the same command again to continue.

Examples:
  qmtl-history backfill --store ./history --source binance --node BTCUSDT --interval 1m --last 30d
  qmtl-history backfill --store ./history --source binance-archive --source binance \\
      --node BTCUSDT --interval 1m --start 2020-01-01 --follow
  qmtl-history backfill --store ./history --source file:candles.csv --node BTCUSDT \\
      --interval 1m --start 2024-01-01 --end 2024-06-01
  qmtl-history backfill --store ./history --source 'file:data/BTCUSDT-1m-*.zip' --node BTCUSDT \\
      --interval 1m
  qmtl-history backfill --store ./history --nodes series.toml --last 30d --json

series.toml (top-level keys are defaults, a series can override them; paths are relative to the file):
  interval = \"1m\"
  source = [\"binance-archive\", \"binance\"]

  [[series]]
  node = \"ohlcv:binance:BTC/USDT:1m\"
  symbol = \"BTCUSDT\"

  [[series]]
  node = \"ohlcv:binance:ETH/USDT:5m\"
  interval = \"5m\"
  source = \"file:eth.parquet\"";

const COORDINATOR_HELP: &str = "\
A lease says which worker fills which window; whether a window is complete is for the history store to say.
On Ctrl-C and SIGTERM, requests that have begun are answered before the server exits.

Examples:
  qmtl-history coordinator --store leases.db
  qmtl-history coordinator --listen 0.0.0.0:7470 --token-file tokens --store postgres://qmtl@db/leases
  qmtl-history backfill --coordinator http://127.0.0.1:7470 --store s3://bucket/history \\
      --nodes series.toml --last 90d";

/// Options of sources that a file has no use for.
const NOT_OF_FILES: [&str; 6] = ["source", "symbol", "product", "publish_lag", "retry_for", "archive_folder"];

const INSPECT_HELP: &str = "\
Without --symbol-column, a file with several series is shown with the column that tells them apart.

Examples:
  qmtl-history inspect candles.csv
  qmtl-history inspect EURUSD.txt --zone America/New_York --json";

const WARMUP_HELP: &str = "\
The last --period closed bars of each series are completed from the source, loaded into a cache and
replayed through a moving average, exactly as a strategy does before it goes live. Without a source
only the store is used. Exits 3 if a node did not become ready, 1 if no series has a bar for it.

Examples:
  qmtl-history warmup --store ./history --node BTCUSDT --interval 1m --period 200
  qmtl-history warmup --store ./history --source file:candles.csv --node BTCUSDT --interval 1m \\
      --period 200 --as-of 2024-06-01T00:00:00Z --json";

/// Which series.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Series")]
#[non_exhaustive]
pub struct SeriesArgs {
    /// A node id, any text up to 1 KB; may be repeated
    #[arg(long, value_name = "ID", requires = "interval")]
    pub node: Vec<String>,
    /// The distance between bars: 1s, 5m, 1h, 1d, 1w; if bars open later than on the hour, at midnight UTC or on
    /// Monday, append the offset: 1h+30m, 1d+16h, 1w+3d (or 1w@thu)
    #[arg(long, value_name = "INTERVAL", requires = "node")]
    pub interval: Option<String>,
    /// A TOML file that lists series, or - for stdin (see `backfill --help`)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "interval"])]
    pub nodes: Option<PathBuf>,
}

/// Where missing bars come from.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Source")]
#[non_exhaustive]
pub struct SourceArgs {
    /// Where missing bars come from: binance, binance-archive, coinbase, one of them at another address such as
    /// binance+http://host:port, file:PATH, or file:- for stdin; several in order of preference. PATH is a file, an
    /// archive of files, a folder, or a pattern such as 'data/BTCUSDT-1m-*.zip'
    #[arg(long, value_name = "SOURCE", num_args = 1..)]
    pub source: Vec<String>,
    /// The file's format, if its content does not show it: csv, json, parquet or arrow
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub source_format: Option<FileFormat>,
    /// The column that holds the opening time, if its name does not show it, as ts, timestamp, time or date do
    #[arg(long, value_name = "COLUMN")]
    pub ts_column: Option<String>,
    /// The unit of an integer time column: s, ms, us, ns
    #[arg(long, value_name = "UNIT", value_parser = parse_unit)]
    pub ts_unit: Option<TsUnit>,
    /// The column that distinguishes the series in a file
    #[arg(long, value_name = "COLUMN")]
    pub symbol_column: Option<String>,
    /// The symbol of a node on the exchange or in --symbol-column, if it is not the node id; may be repeated
    #[arg(long, value_name = "NODE=SYMBOL")]
    pub symbol: Vec<String>,
    /// The product of a node on Coinbase, if it is not its symbol; may be repeated
    #[arg(long, value_name = "NODE=PRODUCT")]
    pub product: Vec<String>,
    /// How long after its close a bar may still be published; until then its absence proves nothing [default: 2m]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub publish_lag: Option<Duration>,
    /// How long to wait for a source that has never answered [default: 1m]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub retry_for: Option<Duration>,
    /// Keep archives in this folder: they are fetched again only when they were revised
    #[arg(long, value_name = "DIR")]
    pub archive_folder: Option<PathBuf>,
    /// The type of a CSV column: float64, int64 or text; may be repeated
    #[arg(long, value_name = "COLUMN=TYPE", value_parser = parse_column_type)]
    pub column_type: Vec<(String, ColumnType)>,
    /// What separates the columns of a text file, if it cannot be detected: one character, or tab
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter)]
    pub delimiter: Option<char>,
    /// What stands before the fraction of numbers in a text file, if it cannot be detected: point or comma
    #[arg(long, value_name = "MARK", value_parser = parse_decimal)]
    pub decimal: Option<Decimal>,
    /// The text file has no header, though its first line looks like one
    #[arg(long)]
    pub no_header: bool,
    /// The names of a text file's columns in their order, in place of its header; an empty name leaves a column out
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', allow_hyphen_values = true)]
    pub columns: Vec<String>,
    /// Lines at the start of a text file that are no part of its table
    #[arg(long, value_name = "N")]
    pub skip_lines: Option<u64>,
    /// The form of times in text, if it is ambiguous, in the specifiers of strftime: "%d.%m.%Y %H:%M"
    #[arg(long, value_name = "FORM", value_parser = parse_time_format)]
    pub time_format: Option<TimeFormat>,
    /// The layout of a text file, such as mt4 or kraken, or none; `inspect --profiles` lists them [default: the one that
    /// the file shows for certain]
    #[arg(long, value_name = "NAME", value_parser = parse_profile)]
    pub profile: Option<ProfileChoice>,
    /// The time zone of times in the file that have no offset, such as America/New_York or +05:30 [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = parse_zone)]
    pub zone: Option<Zone>,
    /// What the times of the file's rows are: when a bar opened (open), when it closed (close), or its trading date,
    /// whatever the time of day (date) [default: open]
    #[arg(long, value_name = "TIME", value_parser = parse_stamp)]
    pub stamp: Option<Stamp>,
    /// What becomes of rows off the grid: list (left out, their bars missing), refuse, drop (left out, their bars may be
    /// proven absent), floor (moved to the bar in which they stand), or nearest:5s (moved if that close) [default: list]
    #[arg(long, value_name = "RULE", value_parser = parse_off_grid)]
    pub off_grid: Option<OffGridRule>,
    /// What becomes of rows with NaN or nothing for a price: keep, missing (left out, their bars missing) or refuse
    /// [default: keep]
    #[arg(long, value_name = "RULE", value_parser = parse_nan)]
    pub nan: Option<NanRule>,
    /// Other names for columns of the file, each with its own one.
    #[arg(skip)]
    pub rename: Vec<(String, String)>,
    /// The largest size a compressed file may unpack to [default: 4GB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_unpacked: Option<u64>,
    /// Vouch that the file's bars are one interval apart, though most of its rows lie further apart
    #[arg(long)]
    pub sparse: bool,
}

impl SourceArgs {
    /// What becomes of a source's odd rows.
    pub(crate) fn rules(&self) -> Rules {
        let rules = Rules::default();
        rules.with_off_grid(self.off_grid.unwrap_or_default()).with_nan(self.nan.unwrap_or_default())
    }
}

/// Reads a length of time, which may be none: `0s`, `30s`, `2m`.
fn parse_span(text: &str) -> Result<Duration, String> {
    if text == "0" || text == "0s" {
        return Ok(Duration::ZERO);
    }
    parse_length(text).map_err(|_| "use a span such as 0s, 30s or 2m".to_owned())
}

/// Reads a length of time that is not nothing: `30s`, `36h`, `30d`.
pub(crate) fn parse_length(text: &str) -> Result<Duration, String> {
    let plain = text.parse().ok().filter(|interval: &Interval| interval.phase_secs() == 0);
    let use_unit = "use a number and one of s, m, h, d, w, from 1s to 3650d, such as 90s, 36h or 30d";
    plain.map(Interval::duration).ok_or_else(|| use_unit.to_owned())
}

/// Reads a number of bars that is not none.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("use a whole number, such as 500".to_owned()),
    }
}

/// Reads the format of a file by the name of its usual extension.
pub(crate) fn parse_format(text: &str) -> Result<FileFormat, String> {
    Ok(match text {
        "csv" => FileFormat::Csv,
        "json" => FileFormat::Json,
        "zip" => FileFormat::Zip,
        "gz" | "gzip" => FileFormat::Gzip,
        "parquet" => FileFormat::Parquet,
        "arrow" | "feather" | "ipc" => FileFormat::Arrow,
        _ => return Err("use csv, json, gzip, zip, parquet or arrow".into()),
    })
}

/// Reads a unit of time.
pub(crate) fn parse_unit(text: &str) -> Result<TsUnit, String> {
    Ok(match text {
        "s" => TsUnit::Second,
        "ms" => TsUnit::Millisecond,
        "us" => TsUnit::Microsecond,
        "ns" => TsUnit::Nanosecond,
        _ => return Err("use s, ms, us or ns".into()),
    })
}

/// Reads a column and its type.
fn parse_column_type(text: &str) -> Result<(String, ColumnType), String> {
    let (column, name) = text.rsplit_once('=').ok_or("use COLUMN=TYPE, such as trades=int64")?;
    Ok((column.to_owned(), column_type(name)?))
}

/// Reads the sign between columns.
pub(crate) fn parse_delimiter(text: &str) -> Result<char, String> {
    let mut signs = text.chars();
    let sign = match (text, signs.next(), signs.next()) {
        ("tab" | "\\t", ..) => '\t',
        (_, Some(sign), None) => sign,
        _ => return Err("use one character such as ; or |, or tab".into()),
    };
    FileConfig::new("").with_delimiter(sign).map_err(|e| e.message().to_owned())?;
    Ok(sign)
}

/// Reads what stands before a fraction.
pub(crate) fn parse_decimal(text: &str) -> Result<Decimal, String> {
    Ok(match text {
        "point" => Decimal::Point,
        "comma" => Decimal::Comma,
        _ => return Err("use point or comma".into()),
    })
}

/// Reads a form of times.
pub(crate) fn parse_time_format(text: &str) -> Result<TimeFormat, String> {
    TimeFormat::new(text).map_err(|e| e.message().to_owned())
}

/// A profile, or none. The parser of the command line takes an option of an option for a flag without a value.
pub(crate) type ProfileChoice = Option<Profile>;

/// Reads the name of a profile, or `none`.
pub(crate) fn parse_profile(text: &str) -> Result<ProfileChoice, String> {
    if text == "none" { Ok(None) } else { Profile::named(text).map(Some).map_err(|e| e.message().to_owned()) }
}

/// Reads a time zone.
pub(crate) fn parse_zone(text: &str) -> Result<Zone, String> {
    text.parse().map_err(|e: Error| e.to_string())
}

/// Reads which of its times a bar is stamped with.
pub(crate) fn parse_stamp(text: &str) -> Result<Stamp, String> {
    text.parse().map_err(|e: Error| e.message().to_owned())
}

/// Reads what becomes of rows off the grid.
pub(crate) fn parse_off_grid(text: &str) -> Result<OffGridRule, String> {
    text.parse().map_err(|e: Error| e.message().to_owned())
}

/// Reads what becomes of rows without prices.
pub(crate) fn parse_nan(text: &str) -> Result<NanRule, String> {
    text.parse().map_err(|e: Error| e.message().to_owned())
}

/// Reads the name that a column is to have, and its own; either may be empty.
fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, own)) => Ok((name.to_owned(), own.to_owned())),
        None => Err("use NEW=OLD, such as close=Schluss".into()),
    }
}

/// The type of a CSV column by its name.
pub(crate) fn column_type(name: &str) -> Result<ColumnType, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "float64" => ColumnType::Float64,
        "int64" => ColumnType::Int64,
        "text" | "utf8" => ColumnType::Utf8,
        _ => return Err("the types are float64, int64 and text".into()),
    })
}

/// What `plan` takes, and `backfill` besides its own.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct FillArgs {
    /// Which series.
    #[command(flatten)]
    pub series: SeriesArgs,
    /// Which bars.
    #[command(flatten)]
    pub range: RangeArgs,
    /// Where from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Take the column that a file calls OLD as if it were called NEW, or leave it out if NEW is empty; may be repeated
    #[arg(long, value_name = "NEW=OLD", value_parser = parse_rename, help_heading = "Source")]
    pub column: Vec<(String, String)>,
    /// Bars in a window, the unit that is fetched, stored and reported [default: depends on the source]
    #[arg(long, value_name = "BARS", value_parser = parse_count, help_heading = LIMITS)]
    pub window_bars: Option<u64>,
    /// Windows in flight at once, all series together; each makes one request at a time [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = LIMITS)]
    pub concurrency: Option<u32>,
    /// The most requests a second to one host, all series together [default: what the exchange allows]
    #[arg(long, value_name = "N", value_parser = parse_rate, help_heading = LIMITS)]
    pub rate: Option<f64>,
    /// Allow more than 10,000 windows
    #[arg(short, long, help_heading = LIMITS)]
    pub yes: bool,
}

const LIMITS: &str = "Limits";

/// What `backfill` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct BackfillArgs {
    /// What and where from.
    #[command(flatten)]
    pub fill: FillArgs,
    /// With whom.
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Stay current: fill, then fetch each bar as it closes, through outages, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// The most retries of a request, once the source has answered (until then see --retry-for) [default: 8]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub retries: Option<usize>,
    /// Stop fetching after this time, such as 30m or 8h; what was fetched is stored
    #[arg(long, value_name = "SPAN", value_parser = parse_length, help_heading = LIMITS)]
    pub deadline: Option<Duration>,
    /// Memory for rows in flight, all series together: 64MB, 1GB [default: 128MB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, help_heading = LIMITS)]
    pub memory: Option<u64>,
    /// Request all bars of the range and replace stored ones with them; needs --reason
    #[arg(long, requires = "reason", conflicts_with = "follow", help_heading = REPLACING)]
    pub replace: bool,
    /// Why stored bars are replaced, for the log and the report
    #[arg(long, value_name = "TEXT", requires = "replace", value_parser = clap::builder::NonEmptyStringValueParser::new(), help_heading = REPLACING)]
    pub reason: Option<String>,
    /// Request all bars of the range, list where they differ from the stored ones, and write nothing; exits 1 if any
    /// differs
    #[arg(long, conflicts_with_all = ["replace", "follow", "dry_run"])]
    pub compare: bool,
    /// Show what would be requested, like `plan`; write nothing
    #[arg(long)]
    pub dry_run: bool,
}

const REPLACING: &str = "Replacing";

/// Reads a rate: a number that lets a request through within a quarter of an hour.
fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.002..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "use a number of requests a second from 0.002 to 1000000, such as 5 or 0.5".into())
}

/// Reads a number of bytes: `134217728`, `128MB`, `1GB` (powers of two).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return Err("use a number of bytes such as 64MB or 1GB".into()),
    };
    count
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(scale))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "use a number of bytes such as 64MB or 1GB".into())
}

/// What `inspect` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct InspectArgs {
    /// The file, as --source takes it: a path, file:PATH, or - for stdin
    #[arg(value_name = "FILE", required_unless_present = "profiles")]
    pub file: Option<String>,
    /// List the layouts that --profile knows
    #[arg(long, conflicts_with = "file")]
    pub profiles: bool,
    /// How it is to be read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Take the column that the file calls OLD as if it were called NEW, or leave it out if NEW is empty; may be repeated
    #[arg(long, value_name = "NEW=OLD", value_parser = parse_rename, help_heading = "Source")]
    pub column: Vec<(String, String)>,
    /// Read all of a file over 64 MB, and not only its beginning and its end
    #[arg(long)]
    pub full: bool,
    /// How many rows to show
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
}

/// What reading commands take.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct ReadArgs {
    /// Which series; every one of the store when none is named.
    #[command(flatten)]
    pub series: SeriesArgs,
    /// Which bars; the whole series when none are named.
    #[command(flatten)]
    pub range: RangeArgs,
}

/// What `coverage` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct CoverageArgs {
    /// What to look at.
    #[command(flatten)]
    pub read: ReadArgs,
    /// Draw a strip of days for each month even if stdout is not a terminal
    #[arg(long)]
    pub strip: bool,
    /// How many months the strip shows, ending with the newest
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub months: usize,
}

/// What `verify` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct VerifyArgs {
    /// What to check.
    #[command(flatten)]
    pub read: ReadArgs,
    /// How many findings to list per series; all are counted
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub max_findings: usize,
}

/// What `warmup` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct WarmupArgs {
    /// Which series.
    #[command(flatten)]
    pub series: SeriesArgs,
    /// Where from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// How many closed bars the average covers
    #[arg(long, value_name = "BARS", value_parser = clap::value_parser!(u64).range(1..=10_000_000), help_heading = WARMUP)]
    pub period: u64,
    /// Warm up as of this time, with only the bars that had closed by then [default: now]
    #[arg(long, value_name = "TIME", help_heading = WARMUP)]
    pub as_of: Option<Timestamp>,
    /// How long to wait for missing bars [default: 3m]
    #[arg(long, value_name = "SPAN", value_parser = parse_length, help_heading = WARMUP)]
    pub deadline: Option<Duration>,
    /// Search at most this many grid points back for stored bars [default: ten times the period]
    #[arg(long, value_name = "POINTS", value_parser = clap::value_parser!(u64).range(1..=100_000_000), help_heading = WARMUP)]
    pub max_lookback: Option<u64>,
    /// Count a series as ready even if a bar is missing
    #[arg(long, help_heading = WARMUP)]
    pub allow_holes: bool,
    /// The column to average
    #[arg(long, value_name = "COLUMN", default_value = "close", help_heading = WARMUP)]
    pub column: String,
}

const WARMUP: &str = "Warm-up";

/// What `gc` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct GcArgs {
    /// Which series; every one of the store when none is named.
    #[command(flatten)]
    pub series: SeriesArgs,
    /// How long replaced files stay for readers that may still use them [default: 1h]
    #[arg(long, value_name = "SPAN", value_parser = parse_length)]
    pub grace: Option<Duration>,
    /// Show what would be removed; remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `repair` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct RepairArgs {
    /// Show what would be rebuilt; change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What every command takes that removes rows or proofs.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct RemoveArgs {
    /// Which series.
    #[command(flatten)]
    pub series: SeriesArgs,
    /// Every series of the store
    #[arg(long, conflicts_with_all = ["node", "nodes"])]
    pub all: bool,
    /// Show what would be removed; remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `prune` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct PruneArgs {
    /// Which series.
    #[command(flatten)]
    pub remove: RemoveArgs,
    /// Remove the bars that open before this time: ISO 8601, a date such as 20240101, a year, or epoch seconds
    #[arg(long, value_name = "TIME")]
    pub before: Timestamp,
}

/// What `forget-empty` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct ForgetArgs {
    /// Which series.
    #[command(flatten)]
    pub remove: RemoveArgs,
    /// Which bars; the whole series when none are named.
    #[command(flatten)]
    pub range: RangeArgs,
    /// Only what this source proved, in any version: binance, file:candles.csv
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,
}

/// What `demo` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct DemoArgs {
    /// Keep the store in this folder, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_the_readme_has_all_of_it() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        let readme = include_str!("../README.md");
        for command in cli.get_subcommands() {
            assert!(readme.contains(&format!("| `{}` |", command.get_name())), "{}", command.get_name());
            let flags =
                command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help");
            for flag in flags {
                assert!(readme.contains(&format!("--{flag}")), "{} --{flag}", command.get_name());
            }
        }
    }

    #[test]
    fn bytes_are_powers_of_two() {
        assert_eq!(parse_bytes("64MB"), Ok(64 << 20));
        assert_eq!((parse_bytes("1g"), parse_bytes("12")), (Ok(1 << 30), Ok(12)));
        assert!(["", "0", "MB", "1XB", "99999999999GB"].into_iter().all(|bad| parse_bytes(bad).is_err()));
    }
}
