//! A fetcher that reads candles from a file.

mod bytes;
mod columns;
mod config;
mod csv;
mod describe;
mod frame;
#[cfg(test)]
mod fuzz;
mod gaps;
mod index;
mod ipc;
mod lengths;
mod name;
mod one_series;
mod parquet;
mod set;
mod stamp;
mod table;
mod text;
mod time;
mod unpack;
mod zone;

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::frame::OffGridRule;
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, ErrorKind, FetchLimits, FetchRequest, Fetched, Interval, NodeId,
    PageOrder, RangeSet, Result, SeriesKey, SourceId, SourceProfile, TimeRange, Timestamp, async_trait,
};
use tokio::runtime::Handle;

pub use config::{ColumnType, Decimal, FileConfig, FileFormat};
pub use describe::{DescribedColumn, DescribedSeries, FileDescription};
pub use set::FileSet;
pub use stamp::Stamp;
pub use time::{TimeFormat, TsUnit};
pub use zone::Zone;

use bytes::{FileBytes, io_error};
use gaps::Spacing;
use index::Series;
use table::{Opened, Selection};

/// Serves the bars of one file, whose first scan told where they stand.
///
/// A fetch reads only the blocks that overlap its range, so rows may be in any order and thousands
/// of windows do not read the file again. From the bar of the first row of a series to that of the last one
/// the absence of a row is proof. Rows off the grid are given as they are. The file must not change while a
/// fetcher is open on it.
#[derive(Clone, Debug)]
pub struct FileFetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: FileConfig,
    version: Option<Version>,
    opened: Opened,
    source: SourceId,
    /// A node's name was compared with the file's own, and told when they differ.
    is_compared: AtomicBool,
}

const DAY_SECS: i64 = 86_400;

/// How far a close time may lie from the end of a bar, in microseconds: exchanges write the last millisecond or
/// microsecond of the bar, or the opening time of the next one.
const CLOSE_SLACK_MICROS: u64 = 1_000;

impl FileFetcher {
    /// Opens and scans a file: its times, its blocks, its columns and a hash of its content.
    ///
    /// Errors: `NotFound` when there is no such file; `InvalidInput` when it is no file, or when
    /// something must be said that the file does not say, such as which column holds the time;
    /// `Schema` for content that cannot be candles, naming line or row, column and value;
    /// `Corrupt` for damaged bytes; `Storage` when there is no room to unpack it; `Unavailable`
    /// when it cannot be read.
    pub async fn open(config: FileConfig) -> Result<Self> {
        let path = config.path.clone();
        let inner = blocking(move || Inner::open(config)).await;
        inner.map(|inner| Self(Arc::new(inner))).map_err(|e| e.with("file", path.display()))
    }

    /// The columns of every answer: `ts`, then the payload in file order.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.0.config.stamp.schema(self.0.opened.table.schema())
    }

    /// What was detected that a plain file does not have, such as another delimiter, and what was left out, one
    /// sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.opened.notes
    }

    /// From the first row of all symbols to the last one.
    pub(crate) fn bounds(&self) -> Option<TimeRange> {
        let opened = &self.0.opened;
        let (first, last) = opened.index.bounds()?;
        TimeRange::checked(opened.unit.instant(first)?, opened.unit.instant(last)?.checked_add_micros(1)?)
    }

    /// From the first bar of a series to the end of its last one.
    ///
    /// Errors: `NotFound` for a symbol that the file lacks, naming similar ones; `InvalidInput`
    /// when a node that is named after a symbol is read from a file of another one, when the file's name, its close
    /// times or the distances of its rows say that it holds bars of another interval, and when another one was
    /// vouched for.
    pub fn range(&self, key: &SeriesKey) -> Result<TimeRange> {
        self.0.series(key).map(|(_, range)| range).map_err(|e| self.0.in_file(e))
    }
}

#[async_trait]
impl DataFetcher for FileFetcher {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = Arc::clone(&self.0);
        let (symbol, extent) = inner.series(&request.key).map_err(|e| inner.in_file(e))?;
        let stamp = inner.config.stamp;
        let span = inner.opened.unit.span(stamp.stamped(request));
        let blocks = inner.opened.index.blocks(&symbol, &span);
        let rows = Arc::new(Selection { span, symbol });
        inner.run(Inner::check_unchanged).await?;
        let batches = stream::iter(blocks)
            .then(move |block| {
                let (inner, rows) = (Arc::clone(&inner), Arc::clone(&rows));
                async move { inner.run(move |inner| inner.read(block, &rows)).await }
            })
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .try_flatten();
        let asked = request.clone();
        let batches = batches.map(move |batch| stamp.opened(batch?, &asked));
        let proven = extent.intersect(request.range).map_or_else(RangeSet::new, RangeSet::from);
        let reason = format!("no row between the first and the last one of {}", self.0.source);
        Ok(Fetched::new(BatchStream::new(self.schema(), batches.boxed())).with_proven(proven, reason))
    }

    fn source_id(&self) -> SourceId {
        self.0.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits::none()
    }

    fn profile(&self) -> SourceProfile {
        SourceProfile::new(PageOrder::Unpaged).with_rules(self.0.config.rules)
    }
}

impl Inner {
    fn open(config: FileConfig) -> Result<Self> {
        let file = if config.is_stdin { stdin() } else { File::open(&config.path) };
        let file = file.map_err(|e| if is_socket(&config.path) { socket(e) } else { io_error(e) })?;
        let metadata = file.metadata().map_err(io_error)?;
        Self::of(config, file, &metadata)
    }

    /// Scans an open file that was as its `metadata` say.
    fn of(config: FileConfig, file: File, metadata: &Metadata) -> Result<Self> {
        let is_stream = is_stream(metadata)?;
        if !config.symbols.is_empty() && config.symbol_column.is_none() {
            return Err(Error::invalid(
                "symbols are given, but not the column to find them in (with_symbol_column)",
            ));
        }
        // What came out of a pipe is ours.
        let version = Some(Version::of(metadata)).filter(|_| !is_stream && !config.is_stdin);
        let scanned = scan(&config, file, is_stream);
        // Of a file that was changed meanwhile the scan tells whatever it met.
        check_unchanged(&config.path, version)?;
        let (opened, source) = scanned?;
        Ok(Self { config, version, opened, source, is_compared: AtomicBool::new(false) })
    }

    fn in_file(&self, error: Error) -> Error {
        error.with("file", self.config.path.display())
    }

    /// Runs blocking work on a thread for it; its errors name the file.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(self);
        blocking(move || work(&inner)).await.map_err(|e| self.in_file(e))
    }

    /// A node's symbol, and where the file proves the absence of its bars.
    fn series(&self, key: &SeriesKey) -> Result<(String, TimeRange)> {
        let symbol = self.symbol(&key.node_id);
        match self.opened.index.series(&symbol) {
            Some(series) => {
                self.check_spelling(&symbol)?;
                let extent = self.extent(key, series)?;
                self.check_symbol(&key.node_id)?;
                Ok((symbol, extent))
            }
            None => Err(Error::new(ErrorKind::NotFound, "the file has no row of this symbol")
                .with("series", key)
                .with("symbol", format_args!("{symbol:?}"))
                .with("nearest", self.nearest(&symbol))),
        }
    }

    fn symbol(&self, node: &NodeId) -> String {
        match (&self.config.symbol_column, self.config.symbols.get(node)) {
            (None, _) => String::new(),
            (Some(_), Some(symbol)) => symbol.clone(),
            (Some(_), None) => node.as_str().to_owned(),
        }
    }

    /// Up to three symbols of the file that are spelled most like `symbol`.
    fn nearest(&self, symbol: &str) -> String {
        // A node id may be long, and the file may hold many symbols.
        let wanted: String = symbol.chars().take(64).collect::<String>().to_lowercase();
        let distance = |other: &str| strsim::levenshtein(&wanted, &other.to_lowercase());
        let mut known: Vec<_> = self.opened.index.symbols().map(|other| (distance(other), other)).collect();
        known.sort_unstable();
        known.iter().take(3).map(|(_, other)| format!("{other:?}")).collect::<Vec<_>>().join(", ")
    }

    /// `InvalidInput` where the file has the symbol in another case too: rows of it would be taken for absent.
    fn check_spelling(&self, symbol: &str) -> Result<()> {
        let is_twin = |other: &&str| *other != symbol && other.to_lowercase() == symbol.to_lowercase();
        match self.opened.index.symbols().find(is_twin) {
            None => Ok(()),
            Some(other) => {
                Err(Error::invalid("the file spells a symbol in two ways; use one spelling for both")
                    .with("spellings", format_args!("{symbol:?}, {other:?}")))
            }
        }
    }

    /// `InvalidInput` where the file names another symbol than a node that is called after one. A node may be
    /// called anything else: then it is told, once.
    fn check_symbol(&self, node: &NodeId) -> Result<()> {
        let by_column = self.opened.sole.as_ref().map(|(column, value)| (column.as_str(), value.clone()));
        let is_told = self.config.symbol_column.is_some();
        let by_name = || name::told(&self.config.path).map(|(symbol, _)| ("the file's name", symbol));
        let Some((place, symbol)) = by_column.or_else(|| by_name().filter(|_| !is_told)) else {
            return Ok(());
        };
        let folded = |name: &str| {
            name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>()
        };
        if folded(node.as_str()).contains(&folded(&symbol)) {
            return Ok(());
        }
        if is_symbol(node.as_str()) {
            let remedy = match self.opened.sole {
                Some(_) => {
                    "if it is the right file, say which symbol is the node's in it (with_symbol_column, with_symbol)"
                }
                None => "if it is the right file, rename it",
            };
            let message = format!("the file holds another symbol than the node is named after; {remedy}");
            return Err(Error::invalid(message).with("node", node).with("symbol", symbol).with("by", place));
        }
        if !self.is_compared.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                file = %self.config.path.display(),
                by = place,
                symbol,
                node = node.as_str(),
                "the file names another symbol than the node it is read for"
            );
        }
        Ok(())
    }

    /// From the bar of the first row of a series to the end of its last row's, unless the file says that it
    /// holds bars of another interval.
    fn extent(&self, key: &SeriesKey, series: &Series) -> Result<TimeRange> {
        let (unit, interval) = (self.opened.unit, key.interval);
        let refuse = |message: String| Err(Error::invalid(message).with("series", key));
        let shown = |distance: u64| Duration::from_micros(unit.distance_micros(distance));
        if let Some(vouched) = self.config.interval.filter(|vouched| *vouched != interval) {
            return refuse(format!(
                "the file is said to hold bars of {vouched} (with_interval), not of {interval}"
            ));
        }
        if let Some((_, named)) = name::told(&self.config.path).filter(|(_, named)| *named != interval) {
            return refuse(format!(
                "the file's name says that it holds bars of {named}, not of {interval}; ask for bars of {named}, or \
                 rename the file if that is wrong"
            ));
        }
        let of_interval = interval.as_micros().unsigned_abs();
        let is_other = |bar: &u64| unit.distance_micros(*bar).abs_diff(of_interval) > CLOSE_SLACK_MICROS;
        if let Some(bar) = self.opened.bar.filter(is_other) {
            return refuse(format!(
                "by their opening and close times the rows of the file last {:?}, so it does not hold bars of {interval}; \
                 ask for the interval it holds",
                shown(bar)
            ));
        }
        match series.gaps.spacing(unit.steps(interval)) {
            Spacing::Closer(gap) => {
                return refuse(format!(
                    "most neighbouring rows of the file lie {:?} apart, so it holds bars of a shorter interval than \
                     {interval}; ask for the interval it holds",
                    shown(gap)
                ));
            }
            Spacing::Wider(gap) if self.config.interval.is_none() => {
                return refuse(format!(
                    "most neighbouring rows of the file lie {:?} apart, so it does not hold bars of {interval}; ask for \
                     the interval it holds, or vouch that it is a sparse series (with_interval)",
                    shown(gap)
                ));
            }
            Spacing::Wider(_) | Spacing::Fits => {}
        }
        let instant = |value| {
            let outside = || Error::schema("a time lies outside the years 1678 to 9999").with("value", value);
            unit.instant(value).ok_or_else(outside)
        };
        let first = instant(series.first)?;
        let is_kept = matches!(self.config.rules.off_grid, OffGridRule::List | OffGridRule::Refuse);
        if is_kept
            && series.rows > 1
            && self.config.stamp != Stamp::Close
            && !interval.is_on_grid(first)
            && series.gaps.are_multiples_of(unit.steps(interval))
            && let Some(told) = all_elsewhere(first, interval)
        {
            return Err(Error::invalid(told).with("series", key).with("first", first));
        }
        if self.config.stamp == Stamp::Date && interval.as_secs() % DAY_SECS != 0 {
            return refuse(
                "bars that are labelled with their date last a day or longer (with_stamp)".to_owned(),
            );
        }
        let (first, last) = (self.bar_of(first, interval), self.bar_of(instant(series.last)?, interval));
        TimeRange::new(first, last.checked_add_micros(interval.as_micros()).unwrap_or(Timestamp::MAX))
    }

    /// The bar of a row.
    fn bar_of(&self, ts: Timestamp, interval: Interval) -> Timestamp {
        let opening = self.config.stamp.opening(ts, interval).unwrap_or(ts);
        let placed = self.config.rules.off_grid.moved(opening, interval);
        interval.floor(placed).unwrap_or(placed)
    }

    /// Reads a block, which must still be what was scanned.
    fn read(&self, block: usize, rows: &Selection) -> Result<Vec<RecordBatch>> {
        let batches = self.opened.table.read(block, rows);
        self.check_unchanged()?;
        batches
    }

    fn check_unchanged(&self) -> Result<()> {
        check_unchanged(&self.config.path, self.version)
    }
}

/// The content of a file and its id.
fn scan(config: &FileConfig, file: File, is_stream: bool) -> Result<(Opened, SourceId)> {
    let cap = config.max_unpacked_bytes;
    let bytes =
        if is_stream { unpack::stream(file, cap)? } else { FileBytes::new(file).map_err(io_error)? };
    if bytes.len() == 0 {
        return Err(Error::schema("the file is empty"));
    }
    let format = match format_of(config) {
        // A pipe has no name to tell by, and any name may be that of text.
        Err(e) => FileFormat::of_bytes(&bytes)?.ok_or(e)?,
        Ok(format) => format,
    };
    format.check(&bytes)?;
    let source = source_id(&config.path, &bytes)?;
    let opened = match format {
        FileFormat::Csv => open_text(&bytes, config),
        FileFormat::Zip => open_unpacked(&unpack::zip(&bytes, cap)?, config),
        FileFormat::Gzip => open_unpacked(&unpack::gzip(&bytes, cap)?, config),
        FileFormat::Parquet => parquet::open(&bytes, config),
        FileFormat::Arrow => ipc::open(&bytes, config),
    };
    Ok((opened?, source))
}

/// `Conflict` where a file is not of this version any more.
fn check_unchanged(path: &Path, version: Option<Version>) -> Result<()> {
    let Some(version) = version else { return Ok(()) };
    if Version::of(&std::fs::metadata(path).map_err(io_error)?) == version {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the file changed after it was opened; open it again"))
}

/// Where the rows of a series stand of which one at `first` is off the grid, and the others are bars away from it; `None`
/// where that tells nothing.
fn all_elsewhere(first: Timestamp, interval: Interval) -> Option<String> {
    if let Some(fits) = interval.through(first) {
        return Some(format!(
            "no row is on the grid of {interval}, but all are on that of {fits}: use that interval, or say that rows are \
             stamped otherwise (with_stamp) or moved onto the grid (with_off_grid)"
        ));
    }
    let is_close = interval.ceil(first).is_some_and(|end| end.since(first) <= Duration::from_millis(1));
    is_close.then(|| {
        format!(
            "every row stands at the last millisecond of a bar of {interval}: they are stamped with their close \
             (with_stamp)"
        )
    })
}

/// Whether a path is that of a socket, which cannot be opened.
fn is_socket(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
    }
    #[cfg(not(unix))]
    false
}

fn socket(cause: std::io::Error) -> Error {
    let message = "a socket is given where a file is read: name a file, or pipe one into it";
    Error::invalid(message).caused_by(cause)
}

/// Stdin as the file, or the pipe, that it is.
fn stdin() -> std::io::Result<File> {
    #[cfg(unix)]
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdin = std::os::windows::io::AsHandle::as_handle(&std::io::stdin()).try_clone_to_owned()?;
    Ok(File::from(stdin))
}

/// Whether bytes come one after another, once; `InvalidInput` for what has no end or none at all.
fn is_stream(metadata: &Metadata) -> Result<bool> {
    if metadata.is_dir() {
        return Err(Error::invalid("a directory was given where a file is expected"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            return Err(Error::invalid(
                "a device was given where a file is expected: name a file, or pipe one into it",
            ));
        }
        // What the system makes up as it is read, such as a file of /proc, has no length either.
        Ok(kind.is_fifo() || kind.is_socket() || metadata.len() == 0)
    }
    #[cfg(not(unix))]
    Ok(!metadata.is_file())
}

/// What tells that a file was not written since: its length and the time of its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(u64, Option<SystemTime>);

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.len(), metadata.modified().ok())
    }
}

/// Whether a node is called as markets and shares are: capitals and digits, perhaps in two parts.
fn is_symbol(node: &str) -> bool {
    let is_of_symbol = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "./_-".contains(c);
    node.len() <= 24 && node.chars().all(is_of_symbol) && node.chars().any(|c| c.is_ascii_uppercase())
}

fn format_of(config: &FileConfig) -> Result<FileFormat> {
    let extension = config.path.extension().unwrap_or_default().to_string_lossy();
    config.format.or_else(|| FileFormat::of_extension(&extension)).ok_or_else(|| {
        Error::invalid(
            "neither the file's extension nor its content is of a format that is read (csv, csv.gz, zip, parquet, arrow, \
             feather, ipc); say which one it is (with_format)",
        )
    })
}

/// Opens what was inside a compressed file.
fn open_unpacked(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    FileFormat::Csv.check(bytes)?;
    open_text(bytes, config)
}

/// Opens text in any encoding and with any line ends that are known.
fn open_text(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    let (text, mut notes) = text::plain(bytes, config.max_unpacked_bytes)?;
    let mut opened = csv::open(text.as_ref().unwrap_or(bytes), config)?;
    notes.append(&mut opened.notes);
    Ok(Opened { notes, ..opened })
}

/// `file:<name>#<the first 16 hex digits of the content's BLAKE3 hash>`.
fn source_id(path: &Path, bytes: &FileBytes) -> Result<SourceId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(bytes.cursor()).map_err(io_error)?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    SourceId::new(format!("file:{}#{}", name.display(), &hasher.finalize().to_hex()[..16]))
}

/// Runs blocking work on a thread for it; `Unsupported` outside of a runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let runtime =
        Handle::try_current().map_err(|e| Error::outside_runtime("a file's fetcher").caused_by(e))?;
    runtime.spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(if e.is_panic() {
            Error::unexpected("reading the file panicked").caused_by(e)
        } else {
            Error::new(ErrorKind::Cancelled, "the runtime is shutting down").caused_by(e)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_while_it_is_scanned_is_told_as_one_that_changed() {
        let whole = "ts,close\n1704067200,1\n1704067260,2\n";
        for left in [0, 5, 9, 15, whole.len()] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.csv");
            std::fs::write(&path, whole).unwrap();
            let file = File::open(&path).unwrap();
            let metadata = file.metadata().unwrap();
            File::options().write(true).open(&path).unwrap().set_len(left as u64).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let error = Inner::of(FileConfig::new(&path), file, &metadata).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{left}: {error}");
        }
    }

    #[test]
    fn a_node_may_be_called_after_a_symbol() {
        for node in ["BTCUSDT", "BTC-USD", "BTC/USDT", "AAPL", "BRK.B", "600519.SH", "X"] {
            assert!(is_symbol(node), "{node}");
        }
        for node in
            ["ohlcv:binance:BTC/USDT:1m", "btc", "my node", "000001", "", "blake3:9F", &"A".repeat(25)]
        {
            assert!(!is_symbol(node), "{node}");
        }
    }
}
