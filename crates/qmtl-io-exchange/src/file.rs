//! A fetcher that reads candles from a file.

mod bytes;
mod clock;
mod columns;
mod config;
mod csv;
mod describe;
mod frame;
#[cfg(test)]
mod fuzz;
mod gaps;
mod handles;
mod index;
mod ipc;
mod json;
mod lengths;
mod listing;
mod members;
mod name;
mod one_series;
mod open;
mod parquet;
mod profile;
mod set;
mod spool;
mod stamp;
mod table;
mod text;
mod time;
mod unpack;
mod zone;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::frame::{OffGrid, OffGridRule, close_stamps};
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, ErrorKind, FetchLimits, FetchRequest, Fetched, Interval, NodeId,
    PageOrder, RangeSet, Result, SeriesKey, SourceId, SourceProfile, TimeRange, Timestamp, async_trait,
};
use tokio::runtime::Handle;

pub use config::{ColumnType, Decimal, FileConfig, FileFormat};
pub use describe::{DescribedColumn, DescribedSeries, FileDescription};
pub use profile::Profile;
pub use set::FileSet;
pub use stamp::Stamp;
pub use time::{TimeFormat, TsUnit};
pub use zone::Zone;

use gaps::Spacing;
use index::Series;
use open::{Unit, Version, check_unchanged};
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
    /// The name of the file in an archive of several.
    member: Option<String>,
    version: Option<Version>,
    opened: Opened,
    source: SourceId,
    /// A node's name was compared with the file's own, and told when they differ. Files of one set share it.
    is_compared: Arc<AtomicBool>,
}

const DAY_SECS: i64 = 86_400;

/// How far a close time may lie from the end of a bar, in microseconds: exchanges write the last millisecond or
/// microsecond of the bar, or the opening time of the next one.
const CLOSE_SLACK_MICROS: u64 = 1_000;

impl FileFetcher {
    /// Opens and scans a file: its times, its blocks, its columns and a hash of its content.
    ///
    /// Errors: `NotFound` when there is no such file; `InvalidInput` when it is no file, when it is an archive of
    /// several, which a [`FileSet`] reads, or when
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
        self.0.config.stamp().schema(self.0.opened.table.schema())
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
        let stamp = inner.config.stamp();
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
        let (asked, rule) = (request.clone(), self.0.config.rules.off_grid);
        let batches = batches.map(move |batch| stamp.opened(batch?, &asked, rule));
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
        Unit::open(config)?.sole()
    }

    fn in_file(&self, error: Error) -> Error {
        let error = match &self.member {
            Some(member) => error.with("member", member),
            None => error,
        };
        error.with("file", self.config.path.display())
    }

    /// What a name says of the bars: that of the file, or of the archive that it is in.
    fn by_name<T>(&self, told: impl Fn(&Path) -> Option<T>) -> Option<T> {
        let by_member = self.member.as_ref().and_then(|member| told(Path::new(member)));
        by_member.or_else(|| told(&self.config.path))
    }

    /// How it is called in a note.
    fn shown(&self) -> String {
        let path = self.config.path.display();
        match &self.member {
            Some(member) => format!("{path}, {member}"),
            None => path.to_string(),
        }
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
        let by_name = || self.by_name(name::symbol).map(|symbol| ("the file's name", symbol));
        let Some((place, symbol)) = by_column.or_else(|| by_name().filter(|_| !is_told)) else {
            return Ok(());
        };
        if name::fit(&symbol, node.as_str()).is_some() {
            return Ok(());
        }
        // A number and a word may be names of one thing.
        let is_id = symbol.bytes().all(|byte| byte.is_ascii_digit());
        let is_word = !node.as_str().bytes().any(|byte| byte.is_ascii_digit());
        if is_symbol(node.as_str()) && !(is_id && is_word) {
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
                file = self.shown(),
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
        // As intervals are written, where it is one.
        let shown = |distance: u64| {
            let length = Duration::from_micros(unit.distance_micros(distance));
            let secs = i64::try_from(length.as_secs()).ok().filter(|_| length.subsec_nanos() == 0);
            let interval = secs.and_then(|secs| Interval::from_secs(secs).ok());
            interval.map_or_else(|| format!("{length:?}"), |interval| interval.to_string())
        };
        if let Some(vouched) = self.config.interval.filter(|vouched| *vouched != interval) {
            return refuse(format!(
                "the file is said to hold bars of {vouched} (with_interval), not of {interval}"
            ));
        }
        if let Some((_, named)) = self.by_name(name::told).filter(|(_, named)| *named != interval) {
            return refuse(format!(
                "the file's name says that it holds bars of {named}, not of {interval}; ask for bars of {named}, or \
                 rename the file if that is wrong"
            ));
        }
        let of_interval = interval.as_micros().unsigned_abs();
        let is_other = |bar: &u64| unit.distance_micros(*bar).abs_diff(of_interval) > CLOSE_SLACK_MICROS;
        if let Some(bar) = self.opened.bar.filter(is_other) {
            return refuse(format!(
                "by their opening and close times the rows of the file last {}, so it does not hold bars of {interval}; \
                 ask for the interval it holds",
                shown(bar)
            ));
        }
        match series.gaps.spacing(unit.steps(interval)) {
            Spacing::Closer(gap) => {
                return refuse(format!(
                    "most neighbouring rows of the file lie {} apart, so it holds bars of a shorter interval than \
                     {interval}; ask for the interval it holds",
                    shown(gap)
                ));
            }
            Spacing::Wider(_) if self.config.interval.is_none() && series.gaps.are_months(unit) => {
                return refuse(format!(
                    "the rows of the file lie a month apart, which no interval is, so it does not hold bars of {interval}; \
                     keep days or weeks, and make months of them"
                ));
            }
            Spacing::Wider(gap) if self.config.interval.is_none() => {
                return refuse(format!(
                    "most neighbouring rows of the file lie {} apart, so it does not hold bars of {interval}; ask for \
                     the interval it holds, or vouch that it is a sparse series (with_interval)",
                    shown(gap)
                ));
            }
            Spacing::Mixed(gap) if self.config.interval.is_none() => {
                return refuse(format!(
                    "a part of the file holds bars of {interval}, and many rows in another part lie {} apart, so that nothing \
                     between them is proven absent; make a file of each part, or vouch that it is a sparse series \
                     (with_interval)",
                    shown(gap)
                ));
            }
            Spacing::Mixed(_) | Spacing::Wider(_) | Spacing::Fits => {}
        }
        let instant = |value| {
            let outside = || Error::schema("a time lies outside the years 1678 to 9999").with("value", value);
            unit.instant(value).ok_or_else(outside)
        };
        let first = instant(series.first)?;
        let is_kept = matches!(self.config.rules.off_grid, OffGridRule::List | OffGridRule::Refuse);
        if is_kept
            && series.rows > 1
            && self.config.stamp() != Stamp::Close
            && !interval.is_on_grid(first)
            && series.gaps.are_multiples_of(unit.steps(interval))
            && let Some(told) = all_elsewhere(first, interval)
        {
            return Err(Error::invalid(told).with("series", key).with("first", first));
        }
        if self.config.stamp() == Stamp::Date && interval.as_secs() % DAY_SECS != 0 {
            return refuse(
                "bars that are labelled with their date last a day or longer (with_stamp)".to_owned(),
            );
        }
        let (first, last) = (self.bar_of(first, interval), self.bar_of(instant(series.last)?, interval));
        TimeRange::new(first, last.checked_add_micros(interval.as_micros()).unwrap_or(Timestamp::MAX))
    }

    /// The bar of a row.
    fn bar_of(&self, ts: Timestamp, interval: Interval) -> Timestamp {
        let opening = self.config.stamp().opening(ts, interval, self.config.rules.off_grid).unwrap_or(ts);
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

/// Where the rows of a series stand of which one at `first` is off the grid, and the others are bars away from it; `None`
/// where that tells nothing.
fn all_elsewhere(first: Timestamp, interval: Interval) -> Option<String> {
    if let Some(told) = close_stamps(interval, &[OffGrid::new(first, interval)]) {
        return Some(told);
    }
    interval.through(first).map(|fits| {
        format!(
            "no row is on the grid of {interval}, but all are on that of {fits}: use that interval, or say that rows are \
             stamped otherwise (with_stamp) or moved onto the grid (with_off_grid)"
        )
    })
}

/// Whether a node is called as markets and shares are: capitals and digits, perhaps in two parts. A single letter is
/// what somebody calls anything.
fn is_symbol(node: &str) -> bool {
    let is_of_symbol = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "./_-".contains(c);
    (2..=24).contains(&node.len())
        && node.chars().all(is_of_symbol)
        && node.chars().any(|c| c.is_ascii_uppercase())
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
    use std::fs::File;
    use std::time::SystemTime;

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
            let opened = Unit::of(FileConfig::new(&path), file, &metadata);
            let error = opened.and_then(|unit| unit.sole()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{left}: {error}");
        }
    }

    #[test]
    fn a_node_may_be_called_after_a_symbol() {
        for node in ["BTCUSDT", "BTC-USD", "BTC/USDT", "AAPL", "BRK.B", "600519.SH", "GE"] {
            assert!(is_symbol(node), "{node}");
        }
        for node in
            ["X", "ohlcv:binance:BTC/USDT:1m", "btc", "my node", "000001", "", "blake3:9F", &"A".repeat(25)]
        {
            assert!(!is_symbol(node), "{node}");
        }
    }
}
