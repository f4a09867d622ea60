//! A fetcher of the archives of data.binance.vision: a file a day and a file a month.

mod names;
mod shelf;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_cast;
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, FetchLimits, FetchRequest, Fetched, Interval, PageOrder, RangeSet,
    Result, SourceId, SourceProfile, TimeRange, async_trait, frame,
};
use tokio::sync::Mutex;

use crate::binance::INTERVALS;
use crate::config::ExchangeConfig;
use crate::file::{FileConfig, FileFetcher, FileFormat};
use crate::http::{Answer, Failure, HttpClient, HttpRequest, Reason};
use names::Period;
use shelf::{Kept, Shelf};

const OWN_HOSTS: [&str; 1] = ["data.binance.vision"];

/// How long a file is taken to be what it was, or not to be there, before it is asked for again.
const TRUSTED_FOR: Duration = Duration::from_secs(3_600);
/// The file of a month comes out some days after its end; until then its days are asked for.
const MONTH_OUT_AFTER_MICROS: i64 = 35 * 86_400 * 1_000_000;
/// Files that are open at once; the oldest is closed.
const OPEN_FILES: usize = 64;

/// Serves the bars of data.binance.vision, or of any server with the same files.
///
/// Of a range, whole months that are over come as one file, else each day as one. Every file is
/// compared with the SHA-256 beside it. Between two rows of a file, or of files that follow one another, the
/// absence of a row is proof: where a file begins or ends without rows, the checksum of the day beside it
/// is looked for, since a file that exists has rows. A proof names the date and the checksum of its file,
/// and ends when the file is revised. What is not out yet, or was never made, such as a whole day without a
/// trade, is not an error and proves nothing: put the exchange's API behind this source for the rest.
///
/// Files are kept in a folder ([`ArchiveFetcher::with_folder`]) or until the fetcher goes. A kept
/// file is used again while its checksum is the one that the server gives; one that was revised
/// since is fetched anew and stands in [`ArchiveFetcher::revised`].
///
/// Columns are those of [`BinanceFetcher`](crate::BinanceFetcher).
///
/// Errors of a fetch: `InvalidInput` for an interval without archives or a symbol that cannot be one;
/// `Schema` for a file that has other rows than its name says; `Storage` when there is no room;
/// `Unavailable` for the rest.
#[derive(Clone, Debug)]
pub struct ArchiveFetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: HttpClient,
    shelf: Arc<Shelf>,
    files: StdMutex<HashMap<String, Slot>>,
    revised: StdMutex<Vec<Revision>>,
    /// Paths of months whose files were revised since something was proven by them: what they say now is to
    /// be read, also for a few bars.
    months: StdMutex<BTreeSet<String>>,
}

/// What is known of a file; the lock is held by who asks for it.
type Slot = Arc<Mutex<Option<Known>>>;

#[derive(Clone, Debug)]
struct Known {
    /// On the monotonic clock.
    at: Duration,
    file: Option<Open>,
}

/// A file that is there.
#[derive(Clone, Debug)]
struct Open {
    sha256: String,
    rows: FileFetcher,
}

/// A file that is not what it was when it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revision {
    /// Its name, such as `BTCUSDT-1m-2024-01.zip`.
    pub file: String,
    /// SHA-256 of what was kept.
    pub before: String,
    /// SHA-256 of what it is now.
    pub now: String,
}

impl ArchiveFetcher {
    /// A fetcher of these settings, which asks nothing yet. Files are kept in a temporary folder.
    ///
    /// Errors: as [`BinanceFetcher::new`](crate::BinanceFetcher::new), and `Storage` when there is no
    /// room for the folder.
    pub fn new(config: ExchangeConfig) -> Result<Self> {
        Self::keeping(config, None)
    }

    /// As [`ArchiveFetcher::new`], with a folder in which files are kept for the next time.
    pub fn with_folder(config: ExchangeConfig, folder: impl Into<PathBuf>) -> Result<Self> {
        Self::keeping(config, Some(&folder.into()))
    }

    fn keeping(config: ExchangeConfig, folder: Option<&Path>) -> Result<Self> {
        let http = HttpClient::new(config, "binance-archive", &OWN_HOSTS)?;
        let shelf = Arc::new(Shelf::new(folder)?);
        let (files, revised, months) = (StdMutex::default(), StdMutex::default(), StdMutex::default());
        Ok(Self(Arc::new(Inner { http, shelf, files, revised, months })))
    }

    /// How many requests were repeated so far, by reason, as
    /// [`BinanceFetcher::retries`](crate::BinanceFetcher::retries).
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.0.http.retries()
    }

    /// The files that were revised since they had been kept, as far as this fetcher has noticed.
    #[must_use]
    pub fn revised(&self) -> Vec<Revision> {
        self.0.revised.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl DataFetcher for ArchiveFetcher {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let inner = &self.0;
        let (symbol, interval) = inner.series(request)?;
        let files = inner.files(request, (&symbol, interval)).await?;
        let (mut parts, mut proven, mut versions) = (Vec::new(), RangeSet::new(), Vec::new());
        let mut begun = request.begun_by;
        for (at, (period, file)) in files.iter().enumerate() {
            let Some(range) = request.range.intersect(period.range) else { continue };
            let extent = file.rows.range(&request.key)?;
            if !period.range.contains_range(extent) {
                return Err(Error::schema("an archive has rows from a time that its name does not cover")
                    .with("file", period.path(&symbol, interval))
                    .with("has", extent));
            }
            let had_begun = extent.start() <= range.start()
                || begun.is_some_and(|begun| begun <= period.range.start())
                || inner.has_day(request, period.day_before(), (&symbol, interval)).await?;
            let goes_on = extent.end() >= range.end()
                || files.get(at + 1).is_some_and(|(next, _)| next.range.start() == period.range.end())
                || inner.has_day(request, period.day_after(), (&symbol, interval)).await?;
            let from = if had_begun { range.start() } else { extent.start() };
            let until = if goes_on { range.end() } else { extent.end() };
            if let Some(told) = TimeRange::checked(from, until) {
                proven.insert(told);
                versions.push((RangeSet::from(told), version(period, &file.sha256)));
            }
            begun = begun.into_iter().chain([extent.start()]).min();
            parts.push(file.rows.fetch(&FetchRequest::new(request.key.clone(), range)).await?.batches);
        }
        let schema = parts.first().map_or_else(frame::ts_only_schema, |part| in_micros(&part.schema()));
        let columns = SchemaRef::clone(&schema);
        let rows = stream::iter(parts.into_iter().map(Ok)).try_flatten();
        let batches = rows.map(move |batch| batch.and_then(|batch| to_micros(&columns, &batch))).boxed();
        let reason = format!("no row in a file of {}", inner.http.source());
        let fetched = Fetched::new(BatchStream::new(schema, batches)).with_proven(proven, reason);
        Ok(versions.into_iter().fold(fetched, |fetched, (ranges, id)| fetched.with_version(ranges, id)))
    }

    fn source_id(&self) -> SourceId {
        self.0.http.source().clone()
    }

    fn limits(&self) -> FetchLimits {
        let rate = f64::from(self.0.http.config().weight_per_minute) / 60.0;
        FetchLimits::none()
            .with_requests_per_second(
                self.0.http.config().requests_per_second.map_or(rate, |own| own.min(rate)),
            )
            .with_burst(self.0.http.config().weight_per_minute.into())
    }

    fn profile(&self) -> SourceProfile {
        let config = self.0.http.config();
        SourceProfile::new(PageOrder::Unpaged).with_publish_lag(config.publish_lag).with_rules(config.rules)
    }

    /// A proof ends with the file that it is from: asks for the checksum that the file has now. While the
    /// server does not tell, what was proven stands.
    async fn is_current(&self, request: &FetchRequest, version: &str) -> bool {
        let Ok((symbol, interval)) = self.0.series(request) else { return true };
        let Some((date, sha256)) = version.rsplit_once('-') else { return true };
        let Some(period) = Period::of_date(date) else { return true };
        let path = period.path(&symbol, interval);
        match self.0.current_sum(request, &path).await {
            Ok(sum) => {
                let is_current = sum.is_some_and(|sum| sum.starts_with(sha256));
                if !is_current && period.is_month() {
                    self.0.lock_months().insert(path);
                }
                is_current
            }
            Err(error) => {
                tracing::debug!(path, error = error.chain(), "a file's checksum cannot be looked up");
                true
            }
        }
    }
}

/// The version of a source that has files: the date of one and the beginning of its checksum.
fn version(period: &Period, sha256: &str) -> String {
    format!("{}-{}", period.date, sha256.get(..16).unwrap_or(sha256))
}

impl Inner {
    /// A series as the archives call it.
    fn series(&self, request: &FetchRequest) -> Result<(String, &'static str)> {
        let key = &request.key;
        let wanted = Some(key.interval).filter(|interval| *interval <= Interval::DAY).map(|i| i.to_string());
        let offered = INTERVALS.iter().find(|(ours, _)| wanted.as_deref() == Some(*ours));
        let (_, interval) = offered.ok_or_else(|| {
            Error::invalid("there are no archives of bars of this interval").with("series", key)
        })?;
        let symbol = self.http.config().symbol(&key.node_id);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if symbol.is_empty() || symbol.starts_with('.') || !symbol.chars().all(is_plain) {
            return Err(Error::invalid(
                "not a symbol of the archives; say which one the node's bars are of, such as BTCUSDT (with_symbol)",
            )
            .with("series", key));
        }
        Ok((symbol.to_owned(), interval))
    }

    /// The files for a request that are there, ascending.
    async fn files(
        &self,
        request: &FetchRequest,
        (symbol, interval): (&str, &str),
    ) -> Result<Vec<(Period, Open)>> {
        let now = self.http.config().clock.now();
        let mut there = Vec::new();
        for period in names::files(request.range, now) {
            let revised =
                period.month().filter(|month| self.lock_months().contains(&month.path(symbol, interval)));
            let period = revised.unwrap_or(period);
            if there.last().is_some_and(|(last, _)| *last == period) {
                continue;
            }
            if let Some(file) = self.file(request, &period.path(symbol, interval)).await? {
                there.push((period, file));
                continue;
            }
            let is_due =
                period.range.end().checked_add_micros(MONTH_OUT_AFTER_MICROS).is_some_and(|out| out <= now);
            let Some(part) = request.range.intersect(period.range).filter(|_| period.is_month() && !is_due)
            else {
                continue;
            };
            for day in names::days(part, now) {
                if let Some(file) = self.file(request, &day.path(symbol, interval)).await? {
                    there.push((day, file));
                }
            }
        }
        Ok(there)
    }

    /// Whether there is a file of a day, and so a row of the series.
    async fn has_day(
        &self,
        request: &FetchRequest,
        day: Option<Period>,
        (symbol, interval): (&str, &str),
    ) -> Result<bool> {
        match day {
            Some(day) => Ok(self.current_sum(request, &day.path(symbol, interval)).await?.is_some()),
            None => Ok(false),
        }
    }

    /// The checksum of a file, asked for unless that was done lately.
    async fn current_sum(&self, request: &FetchRequest, path: &str) -> Result<Option<String>> {
        let slot = self.slot(path);
        let known = slot.lock().await;
        let now = self.http.config().clock.monotonic();
        match known.as_ref().filter(|known| now < known.at + TRUSTED_FOR) {
            Some(known) => Ok(known.file.as_ref().map(|file| file.sha256.clone())),
            None => self.sum(request, path).await,
        }
    }

    /// The file at a path, fetched unless it is at hand; `None` when there is none.
    async fn file(&self, request: &FetchRequest, path: &str) -> Result<Option<Open>> {
        let slot = self.slot(path);
        let mut known = slot.lock().await;
        let now = self.http.config().clock.monotonic();
        if let Some(known) = known.as_ref().filter(|known| now < known.at + TRUSTED_FOR) {
            return Ok(known.file.clone());
        }
        let file = match self.sum(request, path).await? {
            None => None,
            Some(sha256) => match known.take().and_then(|known| known.file) {
                Some(file) if file.sha256 == sha256 => Some(file),
                _ => Some(self.open(request, path, sha256).await?),
            },
        };
        *known = Some(Known { at: now, file: file.clone() });
        Ok(file)
    }

    fn slot(&self, path: &str) -> Slot {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES && !files.contains_key(path) {
            // Names end in a date: the earliest goes first, as fills go forward in time.
            if let Some(earliest) = files.keys().min().cloned() {
                files.remove(&earliest);
            }
        }
        Arc::clone(files.entry(path.to_owned()).or_default())
    }

    /// The checksum that the server gives for a file.
    async fn sum(&self, request: &FetchRequest, path: &str) -> Result<Option<String>> {
        let read = |answer: &Answer| {
            let status = answer.status;
            let text = std::str::from_utf8(&answer.body).unwrap_or_default();
            let sum = text.split_whitespace().next().unwrap_or_default();
            let is_sum = sum.len() == 64 && sum.bytes().all(|c| c.is_ascii_hexdigit());
            match status {
                404 => Ok(None),
                _ if !answer.is_success() => Err(refusal(status)),
                _ if is_sum => Ok(Some(sum.to_ascii_lowercase())),
                _ => Err(Failure::passing(
                    Reason::BadAnswer,
                    Error::unavailable("the answer is not a checksum"),
                )),
            }
        };
        self.http.get(&at(&format!("{path}.CHECKSUM")), request, read).await
    }

    /// Opens the file of this checksum: one that is kept, else the server's.
    async fn open(&self, request: &FetchRequest, path: &str, sha256: String) -> Result<Open> {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".zip");
        let at = match self.shelf.find(name, &sha256).await {
            Some(at) => at,
            None => {
                let bytes = self.download(request, path, &sha256).await?;
                let Kept { path, revised_from } = self.shelf.keep(name, &sha256, bytes).await?;
                if let Some(before) = revised_from {
                    let revision = Revision { file: format!("{name}.zip"), before, now: sha256.clone() };
                    tracing::warn!(file = revision.file, "an archive was revised since it was kept");
                    self.lock_revised().push(revision);
                }
                path
            }
        };
        // A day with few trades may have no two neighbouring bars.
        let config = FileConfig::new(at).with_format(FileFormat::Zip).with_interval(request.key.interval);
        Ok(Open { sha256, rows: FileFetcher::open(config).await? })
    }

    fn lock_months(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.months.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_revised(&self) -> MutexGuard<'_, Vec<Revision>> {
        self.revised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn download(&self, request: &FetchRequest, path: &str, sha256: &str) -> Result<Vec<u8>> {
        let read = |answer: &Answer| {
            if !answer.is_success() {
                return Err(refusal(answer.status));
            }
            let found = shelf::checksum(&answer.body);
            if found != sha256 {
                let error = Error::unavailable("an archive does not match its checksum");
                let error = error.with("sha256", found).with("expected", sha256);
                return Err(Failure::passing(Reason::BadAnswer, error));
            }
            Ok(answer.body.clone())
        };
        self.http.get(&at(path), request, read).await
    }
}

/// The request for a file.
fn at(path: &str) -> HttpRequest {
    HttpRequest::new(path.split('/'))
}

/// The schema with times in microseconds: files before 2025 count milliseconds.
fn in_micros(schema: &Schema) -> SchemaRef {
    let payload = schema.fields().iter().filter(|field| field.name() != frame::TS).cloned();
    Arc::new(Schema::new(std::iter::once(Arc::new(frame::ts_field())).chain(payload).collect::<Vec<_>>()))
}

fn to_micros(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let fault = |e| Error::schema("an archive's times cannot be counted in microseconds").caused_by(e);
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name());
        let column = column
            .ok_or_else(|| Error::schema("archives differ in their columns").with("column", field.name()))?;
        arrow_cast::cast(column, field.data_type()).map_err(fault)
    });
    RecordBatch::try_new(SchemaRef::clone(schema), columns.collect::<Result<_>>()?).map_err(fault)
}

/// A status that is neither success nor one of those that may pass.
fn refusal(status: u16) -> Failure {
    let error = Error::unavailable("the server has archives, but does not give this one");
    Failure::lasting(error.with("status", status).retryable(false))
}
