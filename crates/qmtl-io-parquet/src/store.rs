//! The synchronous store behind the backend: who owns a folder, which commit is the newest, what
//! its footer says.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, ErrorKind, NodeId, Result, SeriesKey, TimeRange};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Stamp};
use crate::disk::{Disk, Put};
use crate::failpoints::{Step, reach};
use crate::file::{Encoder, StoredFile};
use crate::footer::{FORMAT, Footer, Link};
use crate::layout::{self, Partition, SeriesFolder};
use crate::listing::Listings;
use crate::state::State;
use crate::tips::Tips;
use crate::tree::first;
use crate::{ParquetConfig, error};

/// How often a race with another process is tried again before it is reported.
pub(crate) const ATTEMPTS: usize = 100;

/// The weight of all cached states; a range weighs 1 and is 16 bytes.
const STATE_CACHE: usize = 2_000_000;
/// The weight of all cached schemas; a column weighs 1.
const SCHEMA_CACHE: usize = 100_000;
/// What an entry weighs besides its ranges or columns.
pub(crate) const ENTRY: usize = 64;

/// The store of one root. Every method may block.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) config: ParquetConfig,
    pub(crate) states: Cache<Arc<State>>,
    pub(crate) schemas: Cache<(String, SchemaRef)>,
    /// The newest commit in a folder of commits.
    pub(crate) tips: Tips,
    /// The partitions in a folder of partitions, ascending.
    folders: Listings<Vec<Partition>>,
    /// Folders that were found to hold nothing that does not fit.
    checked: Mutex<HashSet<PathBuf>>,
    /// Folders whose entries are known to be on the disk, each with its newest commit that is.
    durable: Mutex<HashMap<PathBuf, u64>>,
}

/// The content of [`layout::SERIES_FILE`].
#[derive(Serialize, Deserialize)]
struct SeriesJson {
    format: u64,
    node_id: String,
}

impl Store {
    pub(crate) fn new(disk: Box<dyn Disk>, config: ParquetConfig) -> Self {
        Self {
            disk,
            config,
            states: Cache::new(STATE_CACHE),
            schemas: Cache::new(SCHEMA_CACHE),
            tips: Tips::default(),
            folders: Listings::new(),
            checked: Mutex::default(),
            durable: Mutex::default(),
        }
    }

    fn encoder(&self) -> Encoder {
        Encoder { codec: self.config.codec, row_group_rows: self.config.row_group_rows }
    }

    /// The folder of a series, checked to belong to its node; it need not exist.
    pub(crate) fn series_folder(&self, key: &SeriesKey) -> Result<SeriesFolder> {
        let folder = SeriesFolder::new(self.disk.root(), key);
        let node = folder.node();
        match self.read_owner(&node)? {
            Some(owner) if owner != key.node_id => {
                let name = node.join(layout::SERIES_FILE);
                let what = "the file that names the series says that the folder belongs to another node";
                Err(error::corrupt(&name, what).with("node_id", &key.node_id).with("owner", owner))
            }
            _ => Ok(folder),
        }
    }

    /// Makes a folder of the series last and, before it, the file that names its node.
    fn create(&self, series: &SeriesFolder, folder: &Path) -> Result<()> {
        if self.durable_commit(folder).is_some() && self.disk.has_folder(folder) {
            return Ok(());
        }
        let node = series.node();
        self.create_folders(&node)?;
        if self.read_owner(&node)?.is_none() {
            self.put_name(&node, &series.key.node_id)?;
        }
        self.series_folder(&series.key)?;
        self.disk.prove(&node.join(layout::SERIES_FILE))?;
        self.create_folders(folder)
    }

    /// Writes whose folder this is, unless that is written already.
    pub(crate) fn put_name(&self, node: &Path, node_id: &NodeId) -> Result<()> {
        let json = SeriesJson { format: FORMAT, node_id: node_id.as_str().to_owned() };
        let text = serde_json::to_vec(&json)
            .map_err(|e| Error::unexpected("cannot write a series' name").caused_by(e))?;
        self.disk.put_if_absent(node, layout::SERIES_FILE, text).map(drop)
    }

    fn create_folders(&self, folder: &Path) -> Result<()> {
        let root = self.disk.root();
        self.disk.create_folders(folder, &|folder| self.durable_commit(folder).is_some())?;
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
            self.set_durable(folder, 0);
        }
        Ok(())
    }

    /// Commits a file: `None` when another writer took the number first, or a collector took our
    /// temporary file for one that was left behind.
    pub(crate) fn commit(
        &self,
        series: &SeriesFolder,
        footer: &Footer,
        rows: &RecordBatch,
    ) -> Result<Option<Link>> {
        let folder = match footer.partition {
            Some(partition) => series.partition(partition),
            None => series.schemas(),
        };
        let (bytes, id) = self.encoder().encode(footer, rows)?;
        if footer.seq == 1 {
            // Nothing is there, whatever was when this handle looked last.
            self.forget_durable(&folder);
        }
        self.create(series, &folder)?;
        reach(Step::Encoded)?;
        match self.disk.put_if_absent(&folder, &layout::commit_file(footer.seq), bytes)? {
            Put::Done => {
                self.set_durable(&folder, footer.seq);
                Ok(Some(Link { seq: footer.seq, id }))
            }
            Put::Taken => Ok(None),
            Put::Swept => {
                self.forget_durable(&folder);
                Ok(None)
            }
        }
    }

    /// Makes sure that a commit survives a power cut: another process may have made it a moment ago
    /// and not have flushed its folder yet.
    pub(crate) fn settle(&self, series: &SeriesFolder, folder: &Path, seq: u64) -> Result<()> {
        if self.durable_commit(folder).is_none_or(|known| known < seq) {
            self.create(series, folder)?;
            self.disk.sync_folder(folder)?;
            self.set_durable(folder, seq);
        }
        Ok(())
    }

    fn durable_commit(&self, folder: &Path) -> Option<u64> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied()
    }

    /// Whoever removed a folder under us makes us create it again.
    fn forget_durable(&self, folder: &Path) {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }

    fn set_durable(&self, folder: &Path, seq: u64) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let known = durable.entry(folder.to_owned()).or_default();
        *known = seq.max(*known);
    }

    /// The partitions of a series that have a folder and hold points of `range`, ascending.
    pub(crate) fn partition_folders(
        &self,
        series: &SeriesFolder,
        range: TimeRange,
    ) -> Result<Vec<Partition>> {
        let folder = series.interval();
        let all = self
            .folders
            .get(&*self.disk, &folder, || self.fitting_partitions(series.key.interval, &folder))?;
        let asked = all.iter().copied().filter(|one| one.range().intersect(range).is_some());
        asked.map(|one| self.check_depth(&series.partition(one)).map(|()| one)).collect()
    }

    /// The partitions of a series that hold points of `range`, ascending, each with its newest commit.
    pub(crate) fn partitions(
        &self,
        series: &SeriesFolder,
        range: TimeRange,
    ) -> Result<Vec<(Partition, Stamp)>> {
        let interval = series.key.interval;
        // By time, not by bars: a range that begins inside a bar has a part of that bar.
        let last = range.end().checked_add_micros(-1).unwrap_or(range.start());
        let names = [range.start(), last].map(|ts| Partition::around(interval, ts).name());
        if let Some(listed) =
            self.disk.newest_of_each(&series.interval(), [names[0].as_str(), names[1].as_str()])?
        {
            let folder = series.interval();
            self.check_once(&folder, || self.fitting_partitions(interval, &folder).map(drop))?;
            let partition =
                |(name, stamp): (String, Stamp)| Some((Partition::parse(interval, &name)?, stamp));
            return Ok(listed.into_iter().filter_map(partition).collect());
        }
        self.partition_folders(series, range)?
            .into_iter()
            .filter_map(|partition| {
                let folder = series.partition(partition);
                self.newest(&folder).transpose().map(|stamp| Ok((partition, stamp?)))
            })
            .collect()
    }

    /// `Corrupt` for a folder in a partition that holds commits: nobody would look for them there.
    fn check_depth(&self, partition: &Path) -> Result<()> {
        self.check_once(partition, || {
            first(self.strays(partition, &self.disk.entries(partition)?, |_| false)?)
        })
    }

    /// Looks for what does not fit in a folder, once for each handle: where nobody tells that a folder has changed, each
    /// look is a request.
    fn check_once(&self, folder: &Path, check: impl FnOnce() -> Result<()>) -> Result<()> {
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if !checked().contains(folder) {
            check()?;
            checked().insert(folder.to_owned());
        }
        Ok(())
    }

    /// The newest commit in a folder.
    pub(crate) fn newest(&self, folder: &Path) -> Result<Option<Stamp>> {
        self.tips.newest(&*self.disk, folder, |stamp| {
            self.states.get(folder, stamp).is_some_and(|state| state.is_delta())
        })
    }

    /// The node whose folder this is, `None` when no name stands in it.
    pub(crate) fn read_owner(&self, node: &Path) -> Result<Option<NodeId>> {
        let path: PathBuf = node.join(layout::SERIES_FILE);
        let Some(text) = self.disk.read_name(&path)? else { return Ok(None) };
        let damaged = || error::corrupt(&path, "the file that names the series is damaged");
        let json: SeriesJson = serde_json::from_slice(&text).map_err(|e| damaged().caused_by(e))?;
        if json.format > FORMAT {
            return Err(error::newer(&path, json.format, FORMAT));
        }
        NodeId::new(&json.node_id).map(Some).map_err(|e| damaged().caused_by(e))
    }

    /// Opens a file and checks that it says of itself what its path says.
    pub(crate) fn open_checked(
        &self,
        path: &Path,
        series: &SeriesFolder,
        partition: Option<Partition>,
        seq: u64,
    ) -> Result<Option<StoredFile>> {
        let Some(file) = StoredFile::open(&*self.disk, path)? else { return Ok(None) };
        let footer = file.footer();
        if (&footer.key, footer.partition, footer.seq) != (&series.key, partition, seq) {
            // Nothing can be rebuilt in its place while it stands there.
            let message = "the file belongs to another place of a store; move it back there, or out of the store and run \
                           the backfill again";
            return Err(Error::new(ErrorKind::Corrupt, message)
                .with("path", path.display())
                .with("series", &series.key)
                .with("owner", &footer.key)
                .with("seq", footer.seq));
        }
        Ok(Some(file))
    }
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
