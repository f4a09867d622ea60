//! Several files of one series as one source.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::{RecordBatch, RecordBatchOptions, new_null_array};
use qmtl_history_api::arrow_cast;
use qmtl_history_api::arrow_schema::{DataType, Field, Schema, SchemaRef};
use qmtl_history_api::{
    BatchStream, DataFetcher, Error, ErrorKind, FetchLimits, FetchRequest, Fetched, PageOrder, RangeSet,
    Result, SeriesKey, SourceId, SourceProfile, TimeRange, async_trait, frame,
};

use super::{FileFetcher, name};

/// Serves the bars of several files, such as those of the days of a month, as one source.
///
/// Of two files that hold the same bar, the one that was named first gives it. Where a file lacks a column that
/// another one has, it is null.
///
/// Absence is proven inside each file, as [`FileFetcher`] does, and between two files that are neighbours in
/// time, where the hole between the last bar of the one and the first bar of the other is shorter than half of
/// the shorter of the two. A longer one proves nothing: a file may have been forgotten.
#[derive(Clone, Debug)]
pub struct FileSet {
    files: Arc<[FileFetcher]>,
    schema: SchemaRef,
    source: SourceId,
}

impl FileSet {
    /// Files in order of preference.
    ///
    /// Its id does not depend on their order. Its name is that of the file whose name comes first, so that a set
    /// to which later days are added remains the same source in another version.
    ///
    /// Errors: `InvalidInput` when there is no file, or when two of them name different symbols, in a column or
    /// in their names (`BTCUSDT.csv`, `ETHUSDT.csv`), and no symbol column was given; `Schema` when two files have a
    /// column of one name and different types, naming both.
    pub fn new(files: impl IntoIterator<Item = FileFetcher>) -> Result<Self> {
        let files: Arc<[_]> = files.into_iter().collect();
        are_one_series(&files)?;
        let (schema, source) = (joined_schema(&files)?, joined_id(&files)?);
        Ok(Self { files, schema, source })
    }

    /// The columns of every answer: `ts`, then the payload in the order in which the files name it.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The files by what they have of a series. Errors: as [`FileFetcher::range`], for a symbol only when all files
    /// lack it.
    fn parts(&self, key: &SeriesKey) -> Result<Parts<'_>> {
        let (mut parts, mut lacking) = (Vec::new(), Vec::new());
        let mut unknown = None;
        for file in self.files.iter() {
            match file.range(key) {
                Ok(extent) => parts.push((file, extent)),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    lacking.extend(file.bounds());
                    unknown = unknown.or(Some(e));
                }
                Err(e) => return Err(e),
            }
        }
        match unknown {
            Some(e) if parts.is_empty() => Err(e),
            _ => Ok(Parts { having: parts, lacking }),
        }
    }
}

/// What the files of a set have of a series.
struct Parts<'a> {
    /// Those with rows of it, and where each has them.
    having: Vec<(&'a FileFetcher, TimeRange)>,
    /// Where those reach that have rows of other symbols alone.
    lacking: Vec<TimeRange>,
}

#[async_trait]
impl DataFetcher for FileSet {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let parts = self.parts(&request.key)?;
        let Parts { having: parts, lacking } = parts;
        let extents: Vec<_> = parts.iter().map(|(_, extent)| *extent).collect();
        let mut answers = Vec::new();
        for (file, _) in parts.iter().filter(|(_, extent)| extent.intersect(request.range).is_some()) {
            answers.push(file.fetch(request).await?.batches);
        }
        let schema = self.schema();
        let batches = stream::iter(answers.into_iter().map(Ok))
            .try_flatten()
            .map(move |batch| batch.and_then(|batch| in_schema(&schema, &batch)));
        let mut proven = RangeSet::new();
        proven.extend(
            proven_by(extents, &lacking).into_iter().filter_map(|range| range.intersect(request.range)),
        );
        let reason = format!("no row between the first and the last one of a file of {}", self.source);
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

/// Fails when two files without a symbol column name different symbols: their rows would become one series.
fn are_one_series(files: &[FileFetcher]) -> Result<()> {
    let named = files.iter().filter(|file| file.0.config.symbol_column.is_none());
    let mut first: [Option<(String, &FileFetcher)>; 2] = [None, None];
    for file in named {
        let path = &file.0.config.path;
        let in_column = file.0.opened.sole.as_ref().map(|(_, value)| value.clone());
        for (known, symbol) in first.iter_mut().zip([in_column, name::capitals(path)]) {
            let Some(symbol) = symbol else { continue };
            match known {
                Some((other, of)) if !other.eq_ignore_ascii_case(&symbol) => {
                    return Err(Error::invalid(
                        "files of different symbols are named for one series; name one symbol's files, or the column \
                         that tells them apart (with_symbol_column)",
                    )
                    .with("symbols", format_args!("{other}, {symbol}"))
                    .with("files", format_args!("{}, {}", of.0.config.path.display(), path.display())));
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
                    .with("file", owner.0.config.path.display())
                    .with("type", known)
                    .with("other_file", file.0.config.path.display())
                    .with("other_type", other));
                }
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// `file:<the first name>+others#<a hash of all ids>`.
fn joined_id(files: &[FileFetcher]) -> Result<SourceId> {
    let mut ids: Vec<_> = files.iter().map(DataFetcher::source_id).collect();
    ids.sort_unstable();
    let name = ids.first().ok_or_else(|| Error::invalid("a set of files needs a file"))?.name();
    let mut hasher = blake3::Hasher::new();
    for id in &ids {
        hasher.update(id.as_str().as_bytes()).update(b"\n");
    }
    SourceId::new(format!("{name}+others#{}", &hasher.finalize().to_hex()[..16]))
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
