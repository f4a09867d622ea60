//! The backend: the store's calls, off the async threads and one writer of a partition at a time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Collected, Coverage, Error, ErrorKind, Finding, HistoryBackend,
    Maintenance, ReadRequest, Removed, Repaired, Result, SeriesKey, SourceId, TimeRange, Timestamp,
    WriteReceipt, WriteRequest, async_trait, frame, stream_of,
};
use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::columns::Columns;
use crate::config::ParquetConfig;
use crate::disk::{self, Disk};
use crate::layout::{Partition, SeriesFolder};
use crate::store::Store;
use crate::write::{self, Part};
use crate::{read, types};

/// Partitions that one write commits at once: enough that their waits for the disk overlap.
const WRITE_CONCURRENCY: usize = 4;

/// The locks of partitions by folder, so that writers of one process do not race in vain.
type Locks = Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>;

/// A history store of plain Parquet files in a folder, or in a bucket (feature `s3`).
///
/// Handles are cheap to clone and share everything. Several processes may use one store: commits
/// are exact between them. Every call needs a Tokio runtime, whose blocking threads do the work, and is
/// `Unsupported` without one; requests to a bucket have a thread of their own.
#[derive(Clone, Debug)]
pub struct ParquetBackend {
    store: Arc<Store>,
    locks: Arc<Locks>,
}

/// A file that counts: together such files hold exactly the rows of a series, each once. A partition
/// has one with most of its rows, and one with those that were added since when there are any. Older
/// commits may lie beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredPartition {
    /// The Parquet file; in a bucket its URL.
    pub path: PathBuf,
    /// The span of time that the file answers for.
    pub partition: TimeRange,
    /// Rows in the file; none when it holds proofs of emptiness alone.
    pub rows: u64,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The commit's number within its partition, from 1.
    pub seq: u64,
}

impl ParquetBackend {
    /// Opens the store of `config`. Nothing is created before the first write.
    ///
    /// Errors: `InvalidInput` for a value out of bounds, `Storage` when a file stands in the place
    /// of the folder, `NotFound` when there is no store and [`ParquetConfig::create`] is false. Of a
    /// bucket besides: `Unsupported` when it is of a kind that cannot hold a store or that this build
    /// does not know, `Storage` when there is no such bucket or it refuses, `Unavailable` when it does
    /// not answer.
    pub async fn open(config: ParquetConfig) -> Result<Self> {
        config.validate()?;
        blocking(move || Self::open_at(disk::at(&config.root)?, config)).await
    }

    /// Opens the store of `config` in a bucket that its user has opened: with credentials of another
    /// kind, of another cloud, in memory. The root is a URL whose path is the prefix of the store's
    /// keys; the rest of it is only shown. The bucket must list in the order of keys, as all but S3's
    /// directory buckets do, and must know [`object_store::PutMode::Create`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> qmtl_history_api::Result<()> {
    /// use std::sync::Arc;
    ///
    /// use qmtl_io_parquet::object_store::memory::InMemory;
    /// use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
    ///
    /// let bucket = Arc::new(InMemory::new());
    /// let store = ParquetBackend::open_in(bucket, ParquetConfig::new("memory:///history")).await?;
    /// # drop(store);
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: those of [`open`](Self::open).
    #[cfg(feature = "s3")]
    pub async fn open_in(bucket: Arc<dyn object_store::ObjectStore>, config: ParquetConfig) -> Result<Self> {
        config.validate()?;
        blocking(move || {
            let url = config.root.to_string_lossy().into_owned();
            Self::open_at(Box::new(disk::bucket::Bucket::of_store(&url, bucket)?), config)
        })
        .await
    }

    fn open_at(disk: Box<dyn Disk>, config: ParquetConfig) -> Result<Self> {
        disk.check(config.create)?;
        Ok(Self { store: Arc::new(Store::new(disk, config)), locks: Arc::default() })
    }

    /// The files that hold the series' rows in `range` and nothing else of the store, ascending in
    /// time: what to hand to another reader of Parquet. Partitions are listed whole.
    ///
    /// They stay for the grace time ([`ParquetConfig::grace`]), whatever is written meanwhile.
    pub async fn files(&self, key: &SeriesKey, range: TimeRange) -> Result<Vec<StoredPartition>> {
        let key = key.clone();
        self.call(move |store| store.files(&key, range)).await
    }

    /// Runs `work` on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        blocking(move || work(&store)).await
    }

    /// Writes one part, alone in this process.
    async fn write_part(
        &self,
        series: &SeriesFolder,
        (partition, part): (Partition, Part),
        request: &WriteRequest,
    ) -> Result<WriteReceipt> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(series.partition(partition)).or_default())
        };
        let guard = lock.lock_owned().await;
        let (series, on_conflict) = (series.clone(), request.on_conflict);
        self.call(move |store| {
            // The guard comes along to this thread: a caller that gives up does not free the
            // partition while its commit is under way.
            let _guard = guard;
            write::commit(store, &series, (partition, &part), on_conflict)
        })
        .await
    }
}

#[async_trait]
impl HistoryBackend for ParquetBackend {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        read::read_range(Arc::clone(&self.store), request.clone()).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        let key = key.clone();
        self.call(move |store| Ok(store.columns(&store.series_folder(&key)?)?.schema)).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let (series, parts) = {
            let request = request.clone();
            self.call(move |store| prepare(store, &request, &rows)).await?
        };
        let outcomes: Vec<Result<WriteReceipt>> = stream::iter(parts)
            .map(|part| self.write_part(&series, part, request))
            .buffer_unordered(WRITE_CONCURRENCY)
            .collect()
            .await;
        outcomes.into_iter().try_fold(WriteReceipt::default(), |all, one| {
            let one = one?;
            Ok(WriteReceipt::new(
                all.rows_written + one.rows_written,
                all.rows_replaced + one.rows_replaced,
                all.rows_kept_out + one.rows_kept_out,
            ))
        })
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let key = key.clone();
        self.call(move |store| store.coverage(&key, range)).await
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        Ok(stream_of(self.call(Store::series).await?))
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let key = key.clone();
        self.call(move |store| store.revision(&key)).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("parquet", types::holds)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }
}

#[async_trait]
impl Maintenance for ParquetBackend {
    async fn prune(&self, key: &SeriesKey, before: Timestamp, dry_run: bool) -> Result<Removed> {
        let key = key.clone();
        self.call(move |store| store.prune(&key, before, dry_run)).await
    }

    async fn forget_empty(
        &self,
        key: &SeriesKey,
        range: TimeRange,
        source: Option<&SourceId>,
        dry_run: bool,
    ) -> Result<Removed> {
        let (key, source) = (key.clone(), source.cloned());
        self.call(move |store| store.forget_empty(&key, (range, source.as_ref()), dry_run)).await
    }

    /// Removes the commits that newer ones have replaced for the grace time ([`ParquetConfig::grace`]), and the
    /// unfinished files of writers that were killed as long ago. Writers do the same for their partition now
    /// and then. The newest state always stays.
    async fn collect(&self, key: &SeriesKey, now: Timestamp, dry_run: bool) -> Result<Collected> {
        let key = key.clone();
        self.call(move |store| store.collect(&key, now, dry_run)).await
    }

    /// Checks checksums, that rows are canonical, and that each footer claims exactly the rows of its file. Lists
    /// unfinished files besides.
    async fn verify(&self, key: &SeriesKey) -> Result<Vec<Finding>> {
        let key = key.clone();
        self.call(move |store| store.check(&key)).await
    }

    /// Rebuilds `_series.json` and `_schema` from the footers and columns of the newest commits.
    async fn repair(&self, dry_run: bool) -> Result<Vec<Repaired>> {
        self.call(move |store| store.repair(dry_run)).await
    }
}

/// Refuses what cannot be stored, before anything is; then makes room for new columns.
fn prepare(
    store: &Store,
    request: &WriteRequest,
    rows: &RecordBatch,
) -> Result<(SeriesFolder, Vec<(Partition, Part)>)> {
    let key = &request.key;
    frame::check(key, rows)?;
    let fields = rows.schema_ref().fields();
    if let Some(field) = fields.iter().find(|field| !types::holds(field.data_type())) {
        return Err(Error::schema(
            "a Parquet store cannot hold a column of this type unchanged; cast it first",
        )
        .with("series", key)
        .with("column", field.name())
        .with("type", field.data_type()));
    }
    let series = store.series_folder(key)?;
    let Columns { version, schema: stored, .. } = store.columns(&series)?;
    frame::check_types(key, rows.schema_ref(), &stored)?;
    let payload = fields.iter().skip(1).map(|field| (field.name().as_str(), field.data_type().clone()));
    let rows = frame::conform(rows, &frame::schema_of(payload))?;
    let parts = write::cut(request, &rows)?;
    if frame::union(&stored, rows.schema_ref())? == stored {
        store.settle_columns(&series, version)?;
    } else if write::stores_rows(store, &series, &parts, request.on_conflict)? {
        store.add_columns(&series, rows.schema_ref())?;
    }
    Ok((series, parts.into_iter().collect()))
}

/// Runs `work` on a thread that may block; a panic there goes on here. `Unsupported` outside of a runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime =
        Handle::try_current().map_err(|e| Error::outside_runtime("a Parquet store").caused_by(e))?;
    runtime.spawn_blocking(work).await.unwrap_or_else(|e| match JoinError::try_into_panic(e) {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(e) => Err(Error::new(ErrorKind::Cancelled, "the runtime is shutting down").caused_by(e)),
    })
}
