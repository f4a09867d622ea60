//! The synchronous store behind the backend: who owns a folder, which commit is the newest, what
//! its footer says.

use std::fs;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::{Schema, SchemaRef};
use qmtl_history_api::{
    Coverage, EmptyProof, Error, ErrorKind, Interval, NodeId, RangeSet, Result, SeriesKey, TimeRange, frame,
};
use serde::{Deserialize, Serialize};

use crate::backend::StoredPartition;
use crate::cache::{Cache, Stamp};
use crate::file::{Encoder, StoredFile};
use crate::footer::{FORMAT, Footer, Kind};
use crate::layout::{self, Partition, SeriesFolder};
use crate::write::is_same_answer;
use crate::{ParquetConfig, disk, error};

/// How often a race with another process is tried again before it is reported.
pub(crate) const ATTEMPTS: usize = 100;

/// The weight of all cached footers; a range weighs 1 and is 16 bytes.
const FOOTER_CACHE: usize = 2_000_000;
/// The weight of all cached schemas; a column weighs 1.
const SCHEMA_CACHE: usize = 100_000;
/// What an entry weighs besides its ranges or columns.
const ENTRY: usize = 64;

/// The store of one root folder. Every method may block.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: ParquetConfig,
    footers: Cache<Arc<Footer>>,
    schemas: Cache<SchemaRef>,
}

/// The content of [`layout::SERIES_FILE`].
#[derive(Serialize, Deserialize)]
struct SeriesJson {
    format: u64,
    node_id: String,
}

/// A version of a series' columns.
pub(crate) struct Columns {
    /// 0 for a series that has no payload column yet.
    pub(crate) version: u64,
    pub(crate) schema: SchemaRef,
}

impl Store {
    pub(crate) fn new(config: ParquetConfig) -> Self {
        Self { config, footers: Cache::new(FOOTER_CACHE), schemas: Cache::new(SCHEMA_CACHE) }
    }

    pub(crate) fn encoder(&self) -> Encoder {
        Encoder { codec: self.config.codec, row_group_rows: self.config.row_group_rows }
    }

    /// The folder of a series, checked to belong to its node; it need not exist.
    pub(crate) fn series_folder(&self, key: &SeriesKey) -> Result<SeriesFolder> {
        let folder = SeriesFolder::new(&self.config.root, key);
        let node = folder.node();
        match read_owner(&node)? {
            Some(owner) if owner != key.node_id => {
                Err(error::corrupt(&node, "the folder belongs to another node")
                    .with("node_id", &key.node_id)
                    .with("owner", owner))
            }
            _ => Ok(folder),
        }
    }

    /// Makes a folder of the series and, first of all, the file that names its node.
    pub(crate) fn create(&self, series: &SeriesFolder, folder: &Path, durable: bool) -> Result<()> {
        let node = series.node();
        if durable || !folder.is_dir() {
            disk::create_folders(&self.config.root, &node, durable)?;
            if read_owner(&node)?.is_none() {
                let json = SeriesJson { format: FORMAT, node_id: series.key.node_id.as_str().to_owned() };
                let text = serde_json::to_vec(&json)
                    .map_err(|e| Error::unexpected("cannot write a series' name").caused_by(e))?;
                disk::put_if_absent(&node, layout::SERIES_FILE, &text)?;
            }
            self.series_folder(&series.key)?;
        }
        disk::create_folders(&self.config.root, folder, durable)
    }

    /// The partitions of a series that hold points of `range`, ascending, each with its newest commit.
    pub(crate) fn partitions(
        &self,
        series: &SeriesFolder,
        range: TimeRange,
    ) -> Result<Vec<(Partition, u64)>> {
        let mut partitions: Vec<Partition> = disk::list(&series.interval())?
            .iter()
            .filter_map(|name| Partition::parse(series.key.interval, name))
            .filter(|partition| partition.range().intersect(range).is_some())
            .collect();
        partitions.sort_unstable();
        partitions
            .into_iter()
            .filter_map(|partition| {
                disk::newest(&series.partition(partition)).transpose().map(|seq| Ok((partition, seq?)))
            })
            .collect()
    }

    /// The newest columns of a series. Take the list of commits first: columns are committed before
    /// the rows that need them.
    pub(crate) fn columns(&self, series: &SeriesFolder) -> Result<Columns> {
        let folder = series.schemas();
        let none = || Columns { version: 0, schema: frame::ts_only_schema() };
        let Some(version) = disk::newest(&folder)? else { return Ok(none()) };
        let Some(stamp) = disk::stamp(&folder, version)? else { return Ok(none()) };
        let schema = match self.schemas.get(&folder, stamp) {
            Some(schema) => schema,
            None => {
                let path = folder.join(layout::commit_file(version));
                let Some(file) = open_checked(&path, series, Kind::Schema, None, version)? else {
                    return Ok(none());
                };
                let schema = plain(file.schema());
                self.schemas.put(&folder, stamp, Arc::clone(&schema), ENTRY + schema.fields().len());
                schema
            }
        };
        Ok(Columns { version, schema })
    }

    /// Makes sure that every column of `batch` stands in the series' schema with its type. The
    /// version is taken by put-if-absent, so that of two processes which add one column with two
    /// types the second is refused before it stores a row.
    pub(crate) fn add_columns(&self, series: &SeriesFolder, batch: &Schema) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Columns { version, schema } = self.columns(series)?;
            frame::check_types(&series.key, batch, &schema)?;
            let Some(grown) = with_columns(&schema, batch) else { return Ok(()) };
            let folder = series.schemas();
            self.create(series, &folder, true)?;
            let footer = Footer {
                kind: Kind::Schema,
                key: series.key.clone(),
                partition: None,
                seq: version + 1,
                built_on: version,
                rows: 0,
                coverage: Coverage::default(),
            };
            let bytes = self.encoder().encode(&footer, &RecordBatch::new_empty(grown))?;
            if disk::put_if_absent(&folder, &layout::commit_file(version + 1), &bytes)? {
                return Ok(());
            }
        }
        Err(lost_races(&series.schemas()))
    }

    /// Opens the newest file of a partition at least as new as `seq`: one that vanishes between
    /// listing and opening makes room for its successor.
    pub(crate) fn open(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<StoredFile> {
        let folder = series.partition(partition);
        let mut seq = seq;
        for _ in 0..ATTEMPTS {
            let path = series.commit(partition, seq);
            if let Some(file) = open_checked(&path, series, Kind::Full, Some(partition), seq)? {
                return Ok(file);
            }
            seq = disk::newest(&folder)?.unwrap_or(seq);
        }
        Err(Error::unavailable("the files of a partition keep vanishing while they are read; try again")
            .with("path", folder.display()))
    }

    /// What the newest commit of a partition says, from memory when the file is known.
    pub(crate) fn footer(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<Known> {
        let folder = series.partition(partition);
        if let Some(stamp) = disk::stamp(&folder, seq)?
            && let Some(footer) = self.footers.get(&folder, stamp)
        {
            return Ok(Known { stamp, footer });
        }
        let file = self.open(series, partition, seq)?;
        let seq = file.footer().seq;
        let stamp = disk::stamp(&folder, seq)?.unwrap_or(Stamp { seq, bytes: 0, modified: None });
        let footer = Arc::new(file.footer().clone());
        let ranges = footer.coverage.known_empty().iter().map(|proof| ENTRY + proof.ranges.len());
        let weight = ENTRY + footer.coverage.present().len() + ranges.sum::<usize>();
        self.footers.put(&folder, stamp, Arc::clone(&footer), weight);
        Ok(Known { stamp, footer })
    }

    pub(crate) fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let series = self.series_folder(key)?;
        let mut present = RangeSet::new();
        let mut proofs: Vec<EmptyProof> = Vec::new();
        for (partition, seq) in self.partitions(&series, range)? {
            let known = self.footer(&series, partition, seq)?;
            let coverage = known.footer.coverage.within(range);
            present.extend(coverage.present().iter());
            for proof in coverage.known_empty() {
                match proofs.iter_mut().find(|known| is_same_answer(known, proof)) {
                    Some(known) => known.ranges.extend(proof.ranges.iter()),
                    None => proofs.push(proof.clone()),
                }
            }
        }
        proofs.sort_by_key(|proof| proof.answered_at);
        let mut coverage = Coverage::of_present(present);
        for proof in &proofs {
            coverage.add_empty(proof);
        }
        Ok(coverage)
    }

    /// The newest commits' numbers added up with the schema's version: it grows with every change.
    pub(crate) fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let series = self.series_folder(key)?;
        let partitions = self.partitions(&series, TimeRange::ALL)?;
        if partitions.is_empty() {
            return Ok(None);
        }
        let version = disk::newest(&series.schemas())?.unwrap_or(0);
        Ok(Some(version + partitions.iter().map(|(_, seq)| seq).sum::<u64>()))
    }

    pub(crate) fn files(&self, key: &SeriesKey, range: TimeRange) -> Result<Vec<StoredPartition>> {
        let series = self.series_folder(key)?;
        self.partitions(&series, range)?
            .into_iter()
            .map(|(partition, seq)| {
                let Known { stamp, footer } = self.footer(&series, partition, seq)?;
                Ok(StoredPartition {
                    path: series.commit(partition, stamp.seq),
                    partition: partition.range(),
                    rows: footer.rows,
                    bytes: stamp.bytes,
                    seq: stamp.seq,
                })
            })
            .collect()
    }

    /// Every series of the folder tree that has a commit; what is not ours is passed over.
    pub(crate) fn series(&self) -> Result<Vec<Result<SeriesKey>>> {
        let mut keys = Vec::new();
        for name in disk::list(&self.config.root)? {
            let node = self.config.root.join(&name);
            let owner = match node.is_dir().then(|| read_owner(&node)) {
                Some(Ok(Some(owner))) if layout::node_folder(&owner) == name => owner,
                Some(Err(e)) => {
                    keys.push(Err(e));
                    continue;
                }
                _ => {
                    tracing::debug!(path = %node.display(), "not a series folder");
                    continue;
                }
            };
            for interval in disk::list(&node)? {
                let Some(parsed) = interval.parse::<Interval>().ok().filter(|i| i.to_string() == interval)
                else {
                    continue;
                };
                let series = SeriesFolder::new(
                    &self.config.root,
                    &SeriesKey { node_id: owner.clone(), interval: parsed },
                );
                if self.has_commit(&series)? {
                    keys.push(Ok(series.key));
                }
            }
        }
        Ok(keys)
    }

    fn has_commit(&self, series: &SeriesFolder) -> Result<bool> {
        for name in disk::list(&series.interval())? {
            if let Some(partition) = Partition::parse(series.key.interval, &name)
                && disk::newest(&series.partition(partition))?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A footer and the version of the file that it was read from.
pub(crate) struct Known {
    pub(crate) stamp: Stamp,
    pub(crate) footer: Arc<Footer>,
}

/// The error of a writer that others overtook again and again.
pub(crate) fn lost_races(folder: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "other writers committed first, again and again; write again when they rest",
    )
    .with("path", folder.display())
    .with("attempts", ATTEMPTS)
    .retryable(true)
}

/// The node whose folder this is, `None` when no name stands in it.
pub(crate) fn read_owner(node: &Path) -> Result<Option<NodeId>> {
    let path: PathBuf = node.join(layout::SERIES_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == Io::NotFound => return Ok(None),
        Err(e) => return Err(error::storage("read a series' name", &path, e)),
    };
    let damaged = || error::corrupt(&path, "the file that names the series is damaged");
    let json: SeriesJson = serde_json::from_slice(&text).map_err(|e| damaged().caused_by(e))?;
    if json.format > FORMAT {
        return Err(error::newer(&path, json.format, FORMAT));
    }
    NodeId::new(&json.node_id).map(Some).map_err(|e| damaged().caused_by(e))
}

/// Opens a file and checks that it says of itself what its path says.
fn open_checked(
    path: &Path,
    series: &SeriesFolder,
    kind: Kind,
    partition: Option<Partition>,
    seq: u64,
) -> Result<Option<StoredFile>> {
    let Some(file) = StoredFile::open(path)? else { return Ok(None) };
    let footer = file.footer();
    if (&footer.key, footer.kind, footer.partition, footer.seq) != (&series.key, kind, partition, seq) {
        return Err(error::corrupt(path, "the file belongs to another place of a store")
            .with("series", &series.key)
            .with("owner", &footer.key)
            .with("seq", footer.seq));
    }
    Ok(Some(file))
}

/// The canonical schema of a file's columns.
fn plain(schema: &Schema) -> SchemaRef {
    let payload = schema.fields().iter().filter(|field| field.name() != frame::TS);
    frame::schema_of(payload.map(|field| (field.name().as_str(), field.data_type().clone())))
}

/// `schema` with the columns of `batch` that it lacks behind its own; `None` when it lacks none.
pub(crate) fn with_columns(schema: &Schema, batch: &Schema) -> Option<SchemaRef> {
    let new: Vec<_> = batch.fields().iter().filter(|f| schema.field_with_name(f.name()).is_err()).collect();
    let all = schema.fields().iter().chain(new.iter().copied());
    let payload = all.filter(|field| field.name() != frame::TS);
    (!new.is_empty())
        .then(|| frame::schema_of(payload.map(|field| (field.name().as_str(), field.data_type().clone()))))
}
