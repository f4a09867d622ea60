//! Several files of one series as one source.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::{RecordBatch, RecordBatchOptions, new_null_array};
use qmtl_history_api::arrow_cast;
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef};
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, ErrorKind, FetchLimits, FetchRequest, Fetched, Interval, PageOrder,
    RangeSet, Result, SeriesKey, SourceId, SourceProfile, TimeRange, async_trait, frame,
};

use super::open::Unit;
use super::table::{NO_ROWS, is_empty};
use super::{FileConfig, FileFetcher, blocking, listing, name};

/// Of how many series a set remembers where its files have them.
const KNOWN_SERIES: usize = 256;

/// How many of the series in a source an error names.
const SHOWN: usize = 8;

/// The most files that are scanned at a time.
const MAX_SCANS: usize = 8;

/// Serves the bars of several files, such as those of the days of a month, as one source.
///
/// Of two files that hold the same bar, the one that was named first gives it. Where a file lacks a column that
/// another one has, it is null.
///
/// Absence is proven inside each file, as [`FileFetcher`] does, and between two files that are neighbours in
/// time, where the hole between the last bar of the one and the first bar of the other is shorter than half of
/// the shorter of the two. A longer one proves nothing: a file may have been forgotten.
///
/// Files whose names tell different symbols or intervals (`XBTUSD_60.csv`, `ETHUSD_60.csv`) are different series: a node
/// gets those that are named after it and hold its interval.
///
/// A fetch reads the files that overlap it. There may be any number of files: few of a process are open at a time. What is
/// unpacked from archives of less than 1 MiB each remains on disk as long as it is read, 2 GiB of it at most; larger ones
/// are unpacked again when many are read in turn.
#[derive(Clone, Debug)]
pub struct FileSet {
    files: Arc<[FileFetcher]>,
    schema: SchemaRef,
    source: SourceId,
    notes: Arc<[String]>,
    /// What their names tell of each, where they are of several series.
    names: Option<Arc<[Named]>>,
    /// What the files have of the series that were asked for.
    known: Arc<Mutex<HashMap<SeriesKey, Arc<Parts>>>>,
}

impl FileSet {
    /// Opens files, folders, patterns of names such as `data/BTCUSDT-1m-*.zip`, and zip or tar archives of many files,
    /// in order of preference, and scans all files in them.
    ///
    /// The files of a folder, a pattern or an archive come in the natural order of their names. Those beside the data are
    /// left out: hidden files, checksums, pages that explain it, and text that is no table; [`FileSet::notes`] counts
    /// them. Of a folder the files are read and not the folders in it; `data/**/*.csv` reads these too. A path that is
    /// there is no pattern.
    ///
    /// Errors: as [`FileFetcher::open`] and [`FileSet::new`], naming the file and its place in an archive;
    /// `InvalidInput` where a folder holds no data, and `NotFound` where no name fits a pattern.
    pub async fn open(configs: impl IntoIterator<Item = FileConfig>) -> Result<Self> {
        let (mut files, mut notes) = (Vec::new(), Vec::new());
        for config in configs {
            let path = config.path.clone();
            let listed =
                blocking(move || listed(&config)).await.map_err(|e| e.with("path", path.display()))?;
            let (configs, note) = listed;
            notes.extend(note.map(|note| format!("{}: {note}", path.display())));
            let is_one_of_many = configs.len() > 1;
            files.extend(configs.into_iter().map(|config| (config, is_one_of_many)));
        }
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_SCANS);
        let is_compared = Arc::new(AtomicBool::new(false));
        let opened: Vec<Scanned> = stream::iter(files)
            .map(opened)
            .buffered(at_once)
            .map_ok(|(unit, is_one_of_many)| {
                let tables = unit.len();
                let is_one_of_many = is_one_of_many || tables > 1;
                stream::iter((0..tables).map(move |at| Ok((Arc::clone(&unit), at, is_one_of_many))))
            })
            .try_flatten()
            .map_ok(|(unit, at, is_one_of_many)| scanned(unit, at, is_one_of_many, Arc::clone(&is_compared)))
            .try_buffered(at_once)
            .try_collect()
            .await?;
        notes.extend(opened.iter().filter_map(|scanned| scanned.beside.clone()));
        let empty = opened.iter().filter(|scanned| scanned.file.is_none()).count();
        let files: Vec<_> = opened.into_iter().filter_map(|scanned| scanned.file).collect();
        if files.is_empty() && empty > 0 {
            return Err(Error::schema(NO_ROWS).with("files", empty));
        }
        let set = Self::new(files)?;
        notes.extend(set.notes.iter().cloned());
        match empty {
            0 => {}
            1 => notes.push("1 file without rows is left out".to_owned()),
            _ => notes.push(format!("{empty} files without rows are left out")),
        }
        Ok(Self { notes: notes.into(), ..set })
    }

    /// Files in order of preference.
    ///
    /// Its id does not depend on their order. Its name is that of the file whose name comes first, so that a set
    /// to which later days are added remains the same source in another version.
    ///
    /// Errors: `InvalidInput` when there is no file, or when two of them name different symbols, in a column or in what
    /// may be symbols in their names, and no symbol column was given; `Schema` when two files have a column of one name
    /// and different types, naming both.
    pub fn new(files: impl IntoIterator<Item = FileFetcher>) -> Result<Self> {
        let files: Arc<[_]> = files.into_iter().collect();
        let names = named(&files);
        if names.is_none() {
            are_one_series(&files)?;
        }
        let (schema, source) = (joined_schema(&files)?, joined_id(&files)?);
        let mut notes = joined_notes(&files);
        notes.extend(names.is_none().then(|| unlike(&files)).flatten());
        let notes = notes.into();
        Ok(Self { files, schema, source, notes, names, known: Arc::default() })
    }

    /// The columns of every answer: `ts`, then the payload in the order in which the files name it.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// What was left out, and [what was detected](FileFetcher::notes), one sentence each behind the name of its file.
    /// What several files have in common is told once.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the files are of several series, which their names tell apart.
    #[must_use]
    pub fn tells_series(&self) -> bool {
        self.names.is_some()
    }

    /// The files, each with the symbol that its name tells where they are of several series.
    pub(super) fn files(&self) -> impl Iterator<Item = (&FileFetcher, Option<&str>)> {
        let symbol = |at: usize| self.names.as_ref().map(|names| names[at].symbol.as_str());
        self.files.iter().enumerate().map(move |(at, file)| (file, symbol(at)))
    }

    /// The places of the files that may hold a series.
    ///
    /// `NotFound` where the names of files tell their series, and none is named after this one; `InvalidInput` where those
    /// of several symbols may be.
    fn places(&self, key: &SeriesKey) -> Result<Vec<usize>> {
        let Some(names) = &self.names else { return Ok((0..self.files.len()).collect()) };
        let node = key.node_id.as_str();
        let mut symbols: Vec<&str> = names.iter().map(|named| named.folded.as_str()).collect();
        symbols.sort_unstable();
        symbols.dedup();
        // Files of one symbol may be read for a node of any name.
        if symbols.len() > 1 {
            let best = names.iter().filter_map(|named| name::fit(&named.symbol, node)).max();
            let fitting =
                names.iter().filter(|named| best.is_some() && name::fit(&named.symbol, node) == best);
            symbols = fitting.map(|named| named.folded.as_str()).collect();
            symbols.sort_unstable();
            symbols.dedup();
        }
        if symbols.len() > 1 {
            return Err(Error::invalid(
                "files of several symbols fit the name of this series; call the node as the files call one of them",
            )
            .with("series", key)
            .with("symbols", symbols.join(", ")));
        }
        let is_it = |named: &Named| {
            symbols.contains(&named.folded.as_str())
                && named.interval.is_none_or(|interval| interval == key.interval)
        };
        let places: Vec<_> = (0..names.len()).filter(|at| is_it(&names[*at])).collect();
        if places.is_empty() {
            let mut known: Vec<_> = names.iter().map(Named::shown).collect();
            known.sort_unstable();
            known.dedup();
            let shown = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = if symbols.is_empty() {
                "no file is named after this series, and names tell the files of this source apart; call the node as \
                 the files call it"
            } else {
                "the files named after this node hold bars of another interval; ask for one of theirs"
            };
            return Err(Error::new(ErrorKind::NotFound, message)
                .with("series", key)
                .with("files_of", if known.len() > SHOWN { format!("{shown}, ...") } else { shown }));
        }
        Ok(places)
    }

    /// From the first bar of a series in any file to the end of its last one.
    ///
    /// Errors: as [`FileFetcher::range`], for a symbol only when all files lack it.
    pub fn range(&self, key: &SeriesKey) -> Result<TimeRange> {
        let parts = self.parts(key)?;
        let extents: RangeSet = parts.having.iter().map(|(_, extent)| *extent).collect();
        extents.span().ok_or_else(|| Error::unexpected("a set of files has a series and no bar of it"))
    }

    /// What the files have of a series. Errors: as [`FileSet::range`].
    fn parts(&self, key: &SeriesKey) -> Result<Arc<Parts>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parts) = known().get(key) {
            return Ok(Arc::clone(parts));
        }
        let (mut having, mut lacking) = (Vec::new(), Vec::new());
        let mut unknown = None;
        for at in self.places(key)? {
            let file = &self.files[at];
            match file.range(key) {
                Ok(extent) => having.push((at, extent)),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    lacking.extend(file.bounds());
                    unknown = unknown.or(Some(e));
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(e) = unknown.filter(|_| having.is_empty()) {
            return Err(e);
        }
        let mut proven = RangeSet::new();
        proven.extend(proven_by(having.iter().map(|(_, extent)| *extent).collect(), &lacking));
        let parts = Arc::new(Parts { having, proven });
        let mut known = known();
        if known.len() >= KNOWN_SERIES {
            known.clear();
        }
        known.insert(key.clone(), Arc::clone(&parts));
        Ok(parts)
    }
}

/// What the files of a set have of a series.
#[derive(Debug)]
struct Parts {
    /// The places of the files with rows of it, and where each has them.
    having: Vec<(usize, TimeRange)>,
    proven: RangeSet,
}

/// What a name tells of the series of a file.
#[derive(Debug)]
struct Named {
    symbol: String,
    /// The symbol as it is compared.
    folded: String,
    interval: Option<Interval>,
}

impl Named {
    /// Whether another name is that of another series.
    fn is_other(&self, other: &Self) -> bool {
        let has_other_bars = self.interval.zip(other.interval).is_some_and(|(own, other)| own != other);
        has_other_bars || self.folded != other.folded
    }

    fn shown(&self) -> String {
        match self.interval {
            Some(interval) => format!("{} of {interval}", self.symbol),
            None => self.symbol.clone(),
        }
    }
}

/// What the names of files tell of their series, where all tell and they are of several.
fn named(files: &[FileFetcher]) -> Option<Arc<[Named]>> {
    let named = |file: &FileFetcher| {
        let is_alone = file.0.config.symbol_column.is_none() && file.0.opened.sole.is_none();
        let symbol = file.0.by_name(name::symbol).filter(|_| is_alone)?;
        // Of BTCUSD_1 and BTCUSD_2 the number may be any: some rows must lie so far apart, and none closer.
        let least = || file.0.opened.index.series("").and_then(|series| series.gaps.least());
        let steps = |interval: &Interval| file.0.opened.unit.steps(*interval);
        let by_rows = || file.0.by_name(name::timeframe).filter(|interval| least() == Some(steps(interval)));
        let interval = file.0.by_name(name::told).map(|(_, interval)| interval).or_else(by_rows);
        Some(Named { folded: name::folded(&symbol), symbol, interval })
    };
    let names: Arc<[Named]> = files.iter().map(named).collect::<Option<_>>()?;
    let first = names.first()?;
    names.iter().any(|other| first.is_other(other)).then_some(names)
}

/// The files that a configuration stands for, and what is said of those that are left out.
fn listed(config: &FileConfig) -> Result<(Vec<FileConfig>, Option<String>)> {
    let listing = if config.is_stdin { None } else { listing::list(&config.path)? };
    Ok(match listing {
        None => (vec![config.clone()], None),
        Some(listing) => {
            let files = listing.files.into_iter().map(|path| FileConfig { path, ..config.clone() });
            (files.collect(), listing.note)
        }
    })
}

/// Opens a file, and says whether it is one of many.
async fn opened((config, is_one_of_many): (FileConfig, bool)) -> Result<(Arc<Unit>, bool)> {
    let path = config.path.clone();
    let unit = blocking(move || Unit::open(config)).await;
    unit.map(|unit| (Arc::new(unit), is_one_of_many)).map_err(|e| e.with("file", path.display()))
}

/// A table of a file.
struct Scanned {
    /// `None` where it has no row, and is one of many.
    file: Option<FileFetcher>,
    /// What was left out beside the first one of an archive.
    beside: Option<String>,
}

async fn scanned(
    unit: Arc<Unit>,
    at: usize,
    is_one_of_many: bool,
    is_compared: Arc<AtomicBool>,
) -> Result<Scanned> {
    let path = unit.path().to_owned();
    let beside = unit.note.as_ref().filter(|_| at == 0).map(|note| format!("{}: {note}", path.display()));
    match blocking(move || unit.table(at, is_compared)).await {
        Ok(inner) => Ok(Scanned { file: Some(FileFetcher(Arc::new(inner))), beside }),
        Err(e) if is_one_of_many && is_empty(&e) => Ok(Scanned { file: None, beside }),
        Err(e) => Err(e.with("file", path.display())),
    }
}

#[async_trait]
impl DataFetcher for FileSet {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let parts = self.parts(&request.key)?;
        let overlaps = |extent: &TimeRange| extent.intersect(request.range).is_some();
        let places = parts.having.iter().filter(|(_, extent)| overlaps(extent)).map(|(at, _)| *at);
        let (files, own, schema) = (Arc::clone(&self.files), Arc::new(request.clone()), self.schema());
        // One file after the other: a long range would have all of them open.
        let batches = stream::iter(places.collect::<Vec<_>>())
            .then(move |at| {
                let (files, request) = (Arc::clone(&files), Arc::clone(&own));
                async move { files[at].fetch(&request).await.map(|fetched| fetched.batches) }
            })
            .try_flatten()
            .map(move |batch| batch.and_then(|batch| in_schema(&schema, &batch)));
        let proven = parts.proven.intersection(&request.range.into());
        let of = if self.files.len() == 1 { "" } else { "a file of " };
        let reason = format!("no row between the first and the last one of {of}{}", self.source);
        Ok(Fetched::new(BatchStream::new(self.schema(), batches.boxed())).with_proven(proven, reason))
    }

    fn source_id(&self) -> SourceId {
        self.source.clone()
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits::none()
    }

    fn profile(&self) -> SourceProfile {
        let rules = self.files.first().map(|file| file.0.config.rules).unwrap_or_default();
        SourceProfile::new(PageOrder::Unpaged).with_rules(rules)
    }
}

/// What files say about themselves, each sentence once: behind the name of the first file that says it, and how many
/// others do.
fn joined_notes(files: &[FileFetcher]) -> Vec<String> {
    let mut found: Vec<(&str, &FileFetcher, usize)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for file in files {
        for note in file.notes() {
            let at = *places.entry(note).or_insert(found.len());
            match found.get_mut(at) {
                Some((_, _, times)) => *times += 1,
                None => found.push((note, file, 1)),
            }
        }
    }
    let told = |(note, file, times): (&str, &FileFetcher, usize)| match times {
        1 => format!("{}: {note}", file.0.shown()),
        2 => format!("{} and 1 other: {note}", file.0.shown()),
        _ => format!("{} and {} others: {note}", file.0.shown(), times - 1),
    };
    found.into_iter().map(told).collect()
}

/// That files are called after different things, which may be symbols, and are read as one series all the same.
fn unlike(files: &[FileFetcher]) -> Option<String> {
    let untold =
        files.iter().filter(|file| file.0.config.symbol_column.is_none() && file.0.opened.sole.is_none());
    let mut named = untold.filter_map(|file| Some((file.0.by_name(name::words_alone)?, file)));
    let (words, first) = named.next()?;
    let (_, other) = named.find(|(others, _)| *others != words)?;
    Some(format!(
        "{} and {} are read as one series, though they are called differently",
        first.0.shown(),
        other.0.shown()
    ))
}

/// Fails when two files without a symbol column name different symbols: their rows would become one series.
fn are_one_series(files: &[FileFetcher]) -> Result<()> {
    let named = files.iter().filter(|file| file.0.config.symbol_column.is_none());
    let mut first: [Option<(String, &FileFetcher)>; 2] = [None, None];
    for file in named {
        let in_column = file.0.opened.sole.as_ref().map(|(_, value)| value.clone());
        for (known, symbol) in first.iter_mut().zip([in_column, file.0.by_name(name::capitals)]) {
            let Some(symbol) = symbol else { continue };
            match known {
                Some((other, of)) if !other.eq_ignore_ascii_case(&symbol) => {
                    return Err(Error::invalid(
                        "files of different symbols are named for one series; name one symbol's files, in a folder by a \
                         pattern such as BTCUSDT-*, or the column that tells them apart (with_symbol_column)",
                    )
                    .with("symbols", format_args!("{other}, {symbol}"))
                    .with("files", format_args!("{}, {}", of.0.shown(), file.0.shown())));
                }
                Some(_) => {}
                None => *known = Some((symbol, file)),
            }
        }
    }
    Ok(())
}

/// What files prove that reach so far: what is inside each, and short holes between neighbours, unless a file that
/// lacks the series lies there: it may hold it under another name.
fn proven_by(mut extents: Vec<TimeRange>, lacking: &[TimeRange]) -> Vec<TimeRange> {
    extents.sort_unstable_by_key(|extent| (extent.start(), extent.end()));
    let mut proven = extents.clone();
    // The file that reaches furthest so far is the neighbour of the next one.
    let mut before: Option<TimeRange> = None;
    for next in extents {
        if let Some(before) = before
            && let Some(hole) = TimeRange::checked(before.end(), next.start())
            && hole.micros() < before.micros().min(next.micros()) / 2
            && lacking.iter().all(|other| other.intersect(hole).is_none())
        {
            proven.push(hole);
        }
        before = before.filter(|before| before.end() >= next.end()).or(Some(next));
    }
    proven
}

/// All columns of all files; times in the finest unit among them.
fn joined_schema(files: &[FileFetcher]) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = Vec::new();
    let mut places: HashMap<String, (usize, &FileFetcher)> = HashMap::new();
    for file in files {
        for field in file.schema().fields() {
            let Some((at, owner)) = places.get(field.name()) else {
                places.insert(field.name().clone(), (fields.len(), file));
                fields.push(field.as_ref().clone());
                continue;
            };
            match (fields[*at].data_type(), field.data_type()) {
                (DataType::Timestamp(known, _), DataType::Timestamp(unit, _))
                    if field.name() == frame::TS =>
                {
                    // Seconds come first in the order of units and nanoseconds last.
                    if unit > known {
                        fields[*at] = field.as_ref().clone();
                    }
                }
                (known, other) if known == other => {}
                (known, other) => {
                    return Err(Error::schema(
                        "a column has different types in two files of one series; declare its type for CSV \
                         (with_column_type), or read the files one by one under different nodes",
                    )
                    .with("column", field.name())
                    .with("file", owner.0.shown())
                    .with("type", known)
                    .with("other_file", file.0.shown())
                    .with("other_type", other));
                }
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// `file:<the first name>+others#<a hash of all ids>`; the own one of a single file, which may be an archive.
fn joined_id(files: &[FileFetcher]) -> Result<SourceId> {
    let mut ids: Vec<_> = files.iter().map(DataFetcher::source_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let first = ids.first().ok_or_else(|| Error::invalid("a set of files needs a file"))?;
    if ids.len() == 1 {
        return Ok(first.clone());
    }
    let mut hasher = blake3::Hasher::new();
    for id in &ids {
        hasher.update(id.as_str().as_bytes()).update(b"\n");
    }
    SourceId::new(format!("{}+others#{}", first.name(), &hasher.finalize().to_hex()[..16]))
}

/// A batch of one file with the columns of all.
fn in_schema(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let fault =
        |e| Error::schema("the rows of a file cannot be brought into the columns of all files").caused_by(e);
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => arrow_cast::cast(column, field.data_type()).map_err(fault),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_>>()?, &options)
        .map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: i64, end: i64) -> TimeRange {
        let at = |hours: i64| qmtl_history_api::Timestamp::from_secs(hours * 3_600).unwrap();
        TimeRange::new(at(start), at(end)).unwrap()
    }

    fn proven(extents: &[(i64, i64)]) -> RangeSet {
        proven_beside(extents, &[])
    }

    fn proven_beside(extents: &[(i64, i64)], lacking: &[TimeRange]) -> RangeSet {
        let mut set = RangeSet::new();
        set.extend(proven_by(extents.iter().map(|(start, end)| range(*start, *end)).collect(), lacking));
        set
    }

    #[test]
    fn a_hole_in_which_a_file_of_other_symbols_lies_is_not_proven() {
        assert_eq!(
            proven_beside(&[(0, 24), (25, 48)], &[range(24, 25)]).as_slice(),
            [range(0, 24), range(25, 48)]
        );
        assert_eq!(proven_beside(&[(0, 24), (25, 48)], &[range(50, 60)]).as_slice(), [range(0, 48)]);
    }

    #[test]
    fn a_short_hole_between_neighbours_is_proven() {
        assert_eq!(proven(&[(0, 24), (25, 48)]).as_slice(), [range(0, 48)]);
        assert_eq!(proven(&[(25, 48), (0, 24)]).as_slice(), [range(0, 48)], "whatever their order");
        // A day was forgotten.
        assert_eq!(proven(&[(0, 24), (48, 72)]).as_slice(), [range(0, 24), range(48, 72)]);
        // Half of the shorter one is the limit.
        assert_eq!(proven(&[(0, 240), (244, 252)]).as_slice(), [range(0, 240), range(244, 252)]);
        assert_eq!(proven(&[(0, 240), (243, 252)]).as_slice(), [range(0, 252)]);
        // A file inside another one is no neighbour of what comes after both.
        assert_eq!(proven(&[(0, 100), (10, 11), (120, 220)]).as_slice(), [range(0, 220)]);
        assert_eq!(proven(&[]).as_slice(), []);
    }
}
