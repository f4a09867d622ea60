//! The protocol of upkeep: what removes from a store on purpose, and what looks for damage.

use std::fmt;
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::{Error, ErrorKind, NodeId, Result, SeriesKey, SourceId, TimeRange, Timestamp};

/// What was removed from a series, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Rows.
    pub rows: u64,
    /// Bars that were known to be empty, each counted for each source that said so.
    pub empty_bars: u64,
    /// Partitions with a change, where the store has partitions of its own.
    pub partitions: Option<u64>,
}

impl Removed {
    /// So many rows, and bars that were known to be empty.
    #[must_use]
    pub fn new(rows: u64, empty_bars: u64) -> Self {
        Self { rows, empty_bars, partitions: None }
    }

    /// Says how many partitions changed.
    #[must_use]
    pub fn with_partitions(mut self, partitions: u64) -> Self {
        self.partitions = Some(partitions);
        self
    }
}

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The files, in the order of their removal; in a bucket their URLs.
    pub files: Vec<PathBuf>,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// Something that is not as it should be in the place where a series is stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The file; in a bucket its URL.
    pub path: PathBuf,
    /// What is wrong there.
    pub problem: Problem,
}

impl Finding {
    /// A problem at a path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, problem: Problem) -> Self {
        Self { path: path.into(), problem }
    }
}

/// What can be wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// It cannot be read whole, or it says something else about its rows than they do. The error has the remedy.
    Damaged(Error),
    /// A writer left it behind when it was killed, or is writing it now. It does no harm; when no writer runs it
    /// can be deleted.
    Unfinished,
}

/// Prints the problem; the path of what is damaged stands in its error.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Damaged(error) => f.write_str(&error.chain()),
            Problem::Unfinished => {
                let path = self.path.display();
                write!(f, "unfinished file, to be deleted when no writer runs (path: {path})")
            }
        }
    }
}

/// Something that was lost and that a repair rebuilt, or would rebuild, from what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Where it stands; in a bucket its URL.
    pub path: PathBuf,
    /// What it says.
    pub what: Rebuilt,
}

/// What a repair can rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store is named and has columns; whoever tells of a repair tells of both"
)]
pub enum Rebuilt {
    /// Whose rows stand in a place.
    Name(NodeId),
    /// Columns of a series that its rows have.
    Columns {
        /// The series.
        key: SeriesKey,
        /// Their names.
        columns: Vec<String>,
    },
}

impl Repaired {
    /// What was rebuilt at a path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, what: Rebuilt) -> Self {
        Self { path: path.into(), what }
    }
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Rebuilt::Name(node_id) => write!(f, "the name of {node_id}")?,
            Rebuilt::Columns { key, columns } => write!(f, "columns of {key}: {}", columns.join(", "))?,
        }
        write!(f, " (path: {})", self.path.display())
    }
}

/// Upkeep of a store, which a backend offers by [`HistoryBackend::maintenance`](crate::HistoryBackend::maintenance).
///
/// What a store has no way to do is `Unsupported`, which is the default of every call. With `dry_run` nothing is
/// changed, and the answer is what would be.
#[async_trait]
pub trait Maintenance: Debug + Send + Sync {
    /// Removes the rows and proofs of a series before a point. The bars are missing afterwards: a fill that is
    /// asked for them brings them back.
    async fn prune(&self, key: &SeriesKey, before: Timestamp, dry_run: bool) -> Result<Removed> {
        let _ = (before, dry_run);
        Err(unsupported(key, "this store has no way to prune bars"))
    }

    /// Forgets proofs of emptiness in a range, those of one source and all its versions or of every source, so
    /// that a fill asks again.
    async fn forget_empty(
        &self,
        key: &SeriesKey,
        range: TimeRange,
        source: Option<&SourceId>,
        dry_run: bool,
    ) -> Result<Removed> {
        let _ = (range, source, dry_run);
        Err(unsupported(key, "this store has no way to forget proofs"))
    }

    /// Removes what newer commits of a series have replaced so long before `now` that no reader needs it, and what
    /// killed writers left behind.
    async fn collect(&self, key: &SeriesKey, now: Timestamp, dry_run: bool) -> Result<Collected> {
        let _ = (now, dry_run);
        Err(unsupported(key, "this store has no files to collect"))
    }

    /// Reads every byte that a series is stored in and says what is wrong with it; nothing found is an empty list.
    async fn verify(&self, key: &SeriesKey) -> Result<Vec<Finding>> {
        Err(unsupported(key, "this store has no files to check"))
    }

    /// Rebuilds what is lost or wrong in the whole store and can be had from what is left: names of series, lists of
    /// columns. No row changes. What stays damaged is told by [`HistoryBackend::series`](crate::HistoryBackend::series)
    /// and [`Maintenance::verify`].
    async fn repair(&self, dry_run: bool) -> Result<Vec<Repaired>> {
        let _ = dry_run;
        Err(Error::new(ErrorKind::Unsupported, "this store has nothing to rebuild"))
    }
}

fn unsupported(key: &SeriesKey, message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, message).with("series", key)
}
