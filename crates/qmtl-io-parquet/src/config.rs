//! How a store is opened.

use std::path::PathBuf;
use std::time::Duration;

use qmtl_history_api::{Error, Result};

/// How long replaced commits stay, unless the configuration says otherwise.
const GRACE: Duration = Duration::from_secs(3_600);

/// How the pages of a file are compressed. Files of different codecs live side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// LZ4 block: half the size of plain bars at nearly the speed of no compression.
    #[default]
    Lz4,
    /// Zstandard, level 1: a third smaller than LZ4, at about twice the time of a write.
    Zstd,
    /// No compression: the fastest reads, two to three times the size.
    None,
}

/// Where a store is and how it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParquetConfig {
    /// The folder of the store, or the URL of its place in a bucket: `s3://bucket/prefix` with the
    /// feature `s3`, with credentials, region and endpoint from the usual variables (`AWS_REGION`,
    /// `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and the like) or the role of the
    /// machine. `file:///data/x` is the folder `/data/x`, `memory:///` a new store each time.
    pub root: PathBuf,
    /// How new files are compressed.
    pub codec: Codec,
    /// Rows in a row group, the smallest part of a file that is read: 1 to 50,000.
    pub row_group_rows: usize,
    /// Whether a write may create the folder; `false` refuses to open a store that is not there.
    pub create: bool,
    /// How long a commit stays after a newer one has replaced it, an hour at first: for readers that
    /// were told of it. Of the replaced commits of a partition the newest 128 stay that long, others
    /// for a minute.
    pub grace: Duration,
}

impl ParquetConfig {
    /// A store under `root`, a folder or URL, which the first write creates when it is not there.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            codec: Codec::default(),
            row_group_rows: 10_000,
            create: true,
            grace: GRACE,
        }
    }

    /// Chooses how new files are compressed.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Chooses the rows of a row group, 1 to 50,000.
    #[must_use]
    pub fn with_row_group_rows(mut self, rows: usize) -> Self {
        self.row_group_rows = rows;
        self
    }

    /// Chooses whether a write may create the folder. With `false`, opening a store that is not
    /// there is `NotFound`: a command that only reads tells its user about a mistyped path.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Chooses how long replaced commits stay.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let limit = usize::try_from(crate::layout::PARTITION_BARS).unwrap_or(usize::MAX);
        if (1..=limit).contains(&self.row_group_rows) {
            Ok(())
        } else {
            Err(Error::invalid("row_group_rows must be 1 to 50000").with("value", self.row_group_rows))
        }
    }
}
