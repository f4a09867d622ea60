//! Where things stand in the folder tree: series folders, partitions of the grid, file names.

use std::path::{Path, PathBuf};

use qmtl_history_api::{Interval, NodeId, SeriesKey, TimeRange, Timestamp};

/// The bars of a partition; fixed by the format.
pub(crate) const PARTITION_BARS: i64 = 50_000;

/// The file in a node's folder that holds the node id.
pub(crate) const SERIES_FILE: &str = "_series.json";

/// The folder in an interval's folder that holds the column versions.
pub(crate) const SCHEMA_FOLDER: &str = "_schema";

/// What the names of files that are still being written start with.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

/// A span of [`PARTITION_BARS`] bars of an interval's grid, aligned to its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition(TimeRange);

impl Partition {
    /// The partition around `ts`. They are counted from the first grid point that is not before the epoch, and
    /// the ends of time cut the first and the last one.
    pub(crate) fn around(interval: Interval, ts: Timestamp) -> Self {
        let first = interval.index(ts).div_euclid(PARTITION_BARS) * PARTITION_BARS;
        let beginning = || interval.ceil(Timestamp::MIN).unwrap_or(Timestamp::MIN);
        let start = interval.opening(first).unwrap_or_else(beginning);
        let end = interval.opening(first.saturating_add(PARTITION_BARS)).unwrap_or(Timestamp::MAX);
        Self(TimeRange::checked(start, end).expect("a partition starts at a whole second, MAX is none"))
    }

    /// The partitions that hold a grid point of `range`, ascending.
    pub(crate) fn over(interval: Interval, range: TimeRange) -> impl Iterator<Item = Self> {
        let bounds = range.bounds(interval);
        std::iter::successors(bounds.map(|(first, _)| Self::around(interval, first)), move |partition| {
            let next = partition.0.end();
            bounds.is_some_and(|(_, last)| next <= last).then(|| Self::around(interval, next))
        })
    }

    /// The span of time.
    pub(crate) fn range(self) -> TimeRange {
        self.0
    }

    /// The folder's name: the start in basic ISO 8601, which sorts by time.
    pub(crate) fn name(self) -> String {
        self.0.start().to_string().replace(['-', ':'], "")
    }

    /// The partition of a folder's name, `None` for a name that this format does not give.
    pub(crate) fn parse(interval: Interval, name: &str) -> Option<Self> {
        if name.len() != 16 || !name.is_ascii() {
            return None;
        }
        let iso =
            format!("{}-{}-{}:{}:{}", &name[..4], &name[4..6], &name[6..11], &name[11..13], &name[13..]);
        let partition = Self::around(interval, iso.parse().ok()?);
        (partition.name() == name).then_some(partition)
    }
}

/// The folder of one series.
#[derive(Clone, Debug)]
pub(crate) struct SeriesFolder {
    pub(crate) key: SeriesKey,
    node: PathBuf,
    interval: PathBuf,
}

impl SeriesFolder {
    pub(crate) fn new(root: &Path, key: &SeriesKey) -> Self {
        let node = root.join(node_folder(&key.node_id));
        let interval = node.join(key.interval.to_string());
        Self { key: key.clone(), node, interval }
    }

    /// The folder of the node, which all its intervals share.
    pub(crate) fn node(&self) -> PathBuf {
        self.node.clone()
    }

    pub(crate) fn interval(&self) -> PathBuf {
        self.interval.clone()
    }

    pub(crate) fn schemas(&self) -> PathBuf {
        self.interval.join(SCHEMA_FOLDER)
    }

    pub(crate) fn partition(&self, partition: Partition) -> PathBuf {
        self.interval.join(partition.name())
    }

    /// The file of a partition's commit.
    pub(crate) fn commit(&self, partition: Partition, seq: u64) -> PathBuf {
        self.partition(partition).join(commit_file(seq))
    }
}

/// The name of a node's folder: readable ASCII of the id, then 16 hex digits of its BLAKE3 hash,
/// which tell apart what the readable part cannot.
pub(crate) fn node_folder(node_id: &NodeId) -> String {
    const SLUG_CHARS: usize = 40;
    let mut slug = String::with_capacity(SLUG_CHARS);
    for c in node_id.as_str().chars() {
        match c {
            _ if slug.len() == SLUG_CHARS => break,
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    let slug = match slug.trim_end_matches('-') {
        "" => "node",
        slug => slug,
    };
    format!("{slug}-{}", &blake3::hash(node_id.as_str().as_bytes()).to_hex()[..16])
}

/// Whether a folder is called as those of nodes are.
pub(crate) fn is_node_folder(name: &str) -> bool {
    let is_hash =
        |hash: &str| hash.len() == 16 && hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    name.rsplit_once('-').is_some_and(|(slug, hash)| !slug.is_empty() && is_hash(hash))
}

/// The name of the commit `seq`.
pub(crate) fn commit_file(seq: u64) -> String {
    format!("{seq:010}.parquet")
}

/// Whether a file looks like a commit whose name was changed: no writer gives such a name.
pub(crate) fn is_odd_commit(name: &str) -> bool {
    let is_parquet = name.len() > 8 && name.to_ascii_lowercase().ends_with(".parquet");
    is_parquet && !name.starts_with(TEMP_PREFIX) && parse_commit(name).is_none()
}

/// The number of a commit's file, `None` for a name that this format does not give.
pub(crate) fn parse_commit(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".parquet")?;
    let is_padded = digits.len() == 10 || (digits.len() > 10 && !digits.starts_with('0'));
    // A sign would parse too.
    let is_number = is_padded && digits.bytes().all(|byte| byte.is_ascii_digit());
    // There is always a next one.
    digits.parse().ok().filter(|seq| is_number && (1..u64::MAX / 2).contains(seq))
}

#[cfg(test)]
mod tests;
