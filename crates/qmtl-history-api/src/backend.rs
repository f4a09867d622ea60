//! The storage protocol.
//!
//! Guarantees are numbered; every number is quoted by a check of the conformance suite in
//! `qmtl-history-testkit`, so the suite is this page made executable.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;

use crate::{
    BatchStream, BoxStream, Coverage, EmptyProof, Error, ErrorKind, Maintenance, RangeSet, Result, SeriesKey,
    TimeRange, Timestamp, frame,
};

/// What to read: one series over `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadRequest {
    /// The series.
    pub key: SeriesKey,
    /// Rows with `ts` inside are returned.
    pub range: TimeRange,
    /// The payload columns wanted, in this order after `ts`; `None` is all stored ones.
    pub columns: Option<Vec<String>>,
    /// The most rows returned, the first ones in the order of the read; `None` is all.
    pub limit: Option<u64>,
    /// Whether rows come newest first, descending in time.
    pub newest_first: bool,
}

impl ReadRequest {
    /// All columns of `key` over `range`.
    #[must_use]
    pub fn new(key: SeriesKey, range: TimeRange) -> Self {
        Self { key, range, columns: None, limit: None, newest_first: false }
    }

    /// Only these payload columns, in this order, after `ts`, which always comes first.
    #[must_use]
    pub fn with_columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// At most so many rows: the oldest ones, or the newest ones where they come first.
    #[must_use]
    pub fn with_limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Rows newest first.
    #[must_use]
    pub fn with_newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// Where the rows are that a read of this request returns, given where rows are: the range, cut by the limit.
    /// What a store reads by this it need not throw away.
    #[must_use]
    pub fn reach(&self, present: &RangeSet) -> Option<TimeRange> {
        let Some(limit) = self.limit else { return Some(self.range) };
        let last = limit.checked_sub(1)?;
        let (interval, rows) = (self.key.interval, present.within(self.range));
        let Some(more) = rows.count(interval).checked_sub(limit) else { return Some(self.range) };
        if self.newest_first {
            TimeRange::checked(rows.nth(more, interval)?, self.range.end())
        } else {
            TimeRange::checked(self.range.start(), rows.nth(last, interval)?.checked_add_micros(1)?)
        }
    }
}

/// Which row stays when one is stored already at a written timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnConflict {
    /// The stored row stays, the written one is counted as kept out.
    #[default]
    KeepExisting,
    /// The written row replaces the stored one as a whole.
    Replace,
}

/// Where rows go, and what the source proved besides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteRequest {
    /// The series.
    pub key: SeriesKey,
    /// Which row stays.
    pub on_conflict: OnConflict,
    /// Proofs of emptiness that came with the rows; they become known-empty where no row is.
    pub empty: Vec<EmptyProof>,
}

impl WriteRequest {
    /// A write to `key` that keeps existing rows and proves nothing.
    #[must_use]
    pub fn new(key: SeriesKey) -> Self {
        Self { key, on_conflict: OnConflict::KeepExisting, empty: Vec::new() }
    }

    /// Chooses which row stays.
    #[must_use]
    pub fn with_on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Adds a proof of emptiness.
    #[must_use]
    pub fn with_empty(mut self, proof: EmptyProof) -> Self {
        self.empty.push(proof);
        self
    }
}

/// What a write did. The three counts add up to the rows of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteReceipt {
    /// Rows stored at timestamps where none was.
    pub rows_written: u64,
    /// Rows that took the place of a stored one ([`OnConflict::Replace`]).
    pub rows_replaced: u64,
    /// Rows left out because one was stored already ([`OnConflict::KeepExisting`]).
    pub rows_kept_out: u64,
}

impl WriteReceipt {
    /// A receipt of these counts.
    #[must_use]
    pub fn new(rows_written: u64, rows_replaced: u64, rows_kept_out: u64) -> Self {
        Self { rows_written, rows_replaced, rows_kept_out }
    }
}

/// Which types a backend holds.
type Holds = dyn Fn(&DataType) -> bool + Send + Sync;

/// What a backend can hold and promise. Callers and the conformance suite ask, never guess.
#[derive(Clone)]
#[non_exhaustive]
pub struct Capabilities {
    /// A short name for metrics and messages: `memory`, `parquet`.
    pub name: &'static str,
    holds: Arc<Holds>,
    /// Whether NaN survives; where not, a write of NaN is refused.
    pub nan: bool,
    /// Whether a write may bring columns that the series does not have yet (null in older rows).
    pub adds_columns: bool,
    /// Whether keep-existing is exact while other processes write the same timestamps.
    pub concurrent_keep_existing: bool,
    /// The earliest time that a row can have; a write of an earlier one is refused.
    pub earliest: Timestamp,
}

impl Capabilities {
    /// A backend called `name` that holds the types for which `holds` answers true, NaN included,
    /// adds columns, keeps existing rows whoever writes beside it, and holds rows of any time.
    #[must_use]
    pub fn new(name: &'static str, holds: impl Fn(&DataType) -> bool + Send + Sync + 'static) -> Self {
        Self {
            name,
            holds: Arc::new(holds),
            nan: true,
            adds_columns: true,
            concurrent_keep_existing: true,
            earliest: Timestamp::MIN,
        }
    }

    /// Whether a payload column of this type survives a round trip bit for bit.
    #[must_use]
    pub fn holds(&self, data_type: &DataType) -> bool {
        (self.holds)(data_type)
    }

    /// Fails with `Unsupported` when a bar of `range` opens before the backend's
    /// [`earliest`](Self::earliest) time.
    pub fn check_range(&self, key: &SeriesKey, range: TimeRange) -> Result<()> {
        match range.bounds(key.interval) {
            Some((first, _)) if first < self.earliest => Err(Error::new(
                ErrorKind::Unsupported,
                "the store holds no bars of that time: start the range later",
            )
            .with("series", key)
            .with("first", first)
            .with("store", self.name)
            .with("earliest", self.earliest)),
            _ => Ok(()),
        }
    }
}

impl Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities")
            .field("name", &self.name)
            .field("nan", &self.nan)
            .field("adds_columns", &self.adds_columns)
            .field("concurrent_keep_existing", &self.concurrent_keep_existing)
            .field("earliest", &self.earliest)
            .finish_non_exhaustive()
    }
}

/// The guarantees of [`HistoryBackend`], as its page lists them: one on each line, ``- `H-READ-01` `` before it.
pub const GUARANTEES: &str = include_str!("../docs/guarantees.md");

/// A store of bars: rows by series and timestamp, with what is known about their absence.
///
/// **Frame.** Rows are record batches in the canonical form of [`frame`]: `ts` first, then
/// payload columns in the order in which the series first saw them.
///
/// **Guarantees** (quoted by the conformance suite)
#[doc = include_str!("../docs/guarantees.md")]
#[async_trait]
pub trait HistoryBackend: Debug + Send + Sync + 'static {
    /// Streams the rows of a range (`H-READ-01` … `H-READ-07`).
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream>;

    /// The columns of a series, `ts` first, without reading a row (`H-READ-08`).
    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef>;

    /// Stores a canonical batch and the request's proofs (`H-WRITE-01` … `H-WRITE-10`).
    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt>;

    /// What is stored and proven of a range (`H-COV-01` … `H-COV-07`).
    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage>;

    /// Every series of the store, in no promised order (`H-SER-01`, `H-SER-02`).
    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>>;

    /// A number that changes whenever anything of the series changes (`H-REV-01`).
    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>>;

    /// What this backend can hold and promise; constant for its life.
    fn capabilities(&self) -> Capabilities;

    /// Upkeep, where the backend offers any.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }
}

macro_rules! forward_backend {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: HistoryBackend + ?Sized> HistoryBackend for $pointer {
            async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
                (**self).read_range(request).await
            }

            async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
                (**self).schema(key).await
            }

            async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
                (**self).write_rows(request, rows).await
            }

            async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
                (**self).coverage(key, range).await
            }

            async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
                (**self).series().await
            }

            async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
                (**self).revision(key).await
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }

            fn maintenance(&self) -> Option<&dyn Maintenance> {
                (**self).maintenance()
            }
        }
    )*};
}

forward_backend!(Arc<T>, Box<T>);

/// Conveniences over any backend; never implemented by hand.
#[allow(async_fn_in_trait, reason = "the future is Send through the explicit return types")]
pub trait HistoryBackendExt: HistoryBackend {
    /// Reads a range into one batch. The caller answers for the memory.
    fn read_all(&self, request: &ReadRequest) -> impl Future<Output = Result<RecordBatch>> + Send {
        async move { self.read_range(request).await?.into_batch().await }
    }

    /// The newest `rows` rows of a series, ascending; all where there are fewer. The caller answers for the memory.
    fn read_last(&self, key: &SeriesKey, rows: u64) -> impl Future<Output = Result<RecordBatch>> + Send {
        async move {
            let request = ReadRequest::new(key.clone(), TimeRange::ALL).with_limit(rows).with_newest_first();
            frame::reversed(&self.read_all(&request).await?)
        }
    }

    /// All series, sorted.
    fn list_series(&self) -> impl Future<Output = Result<Vec<SeriesKey>>> + Send {
        async move {
            let mut stream = self.series().await?;
            let mut keys = Vec::new();
            while let Some(key) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
                keys.push(key?);
            }
            keys.sort();
            Ok(keys)
        }
    }

    /// Recomputes from the rows where they stand: the truth that `coverage` must agree with.
    fn scan_present(
        &self,
        key: &SeriesKey,
        range: TimeRange,
    ) -> impl Future<Output = Result<RangeSet>> + Send {
        async move {
            let request = ReadRequest::new(key.clone(), range).with_columns(Vec::<String>::new());
            let mut stream = self.read_range(&request).await?;
            let mut present = RangeSet::new();
            while let Some(batch) = stream.next_batch().await {
                present.extend(frame::row_runs(key, &batch?)?);
            }
            Ok(present)
        }
    }
}

impl<T: HistoryBackend + ?Sized> HistoryBackendExt for T {}
