//! Questions that footers and names answer: coverage, revision, files, series.

use std::path::Path;
use std::time::UNIX_EPOCH;

use qmtl_history_api::{
    Coverage, EmptyProof, Error, ErrorKind, Interval, RangeSet, Result, SeriesKey, TimeRange,
};

use crate::backend::StoredPartition;
use crate::layout::{self, Partition};
use crate::store::Store;

impl Store {
    pub(crate) fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let series = self.series_folder(key)?;
        let mut present = RangeSet::new();
        let mut proofs: Vec<EmptyProof> = Vec::new();
        for (partition, newest) in self.partitions(&series, range)? {
            let known = self.state(&series, partition, newest)?;
            let coverage = known.coverage().within(range);
            present.extend(coverage.present().iter());
            for proof in coverage.known_empty() {
                match proofs.iter_mut().find(|known| known.is_same_answer(proof)) {
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

    /// A hash over the newest commits and the version of each one's file, so that a store that was
    /// taken away and filled again under an open handle differs too.
    pub(crate) fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        let series = self.series_folder(key)?;
        let partitions = self.partitions(&series, TimeRange::ALL)?;
        if partitions.is_empty() {
            return Ok(None);
        }
        let mut hash = blake3::Hasher::new();
        let columns = self.newest(&series.schemas())?.map_or(0, |newest| newest.seq);
        hash.update(&columns.to_le_bytes());
        for (partition, newest) in partitions {
            let changed = newest.modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
            hash.update(&partition.range().start().as_micros().to_le_bytes());
            hash.update(&newest.seq.to_le_bytes());
            hash.update(&newest.bytes.to_le_bytes());
            hash.update(&changed.unwrap_or_default().as_nanos().to_le_bytes());
            hash.update(&newest.tag.to_le_bytes());
        }
        let mut number = [0; 8];
        hash.finalize_xof().fill(&mut number);
        Ok(Some(u64::from_le_bytes(number)))
    }

    pub(crate) fn files(&self, key: &SeriesKey, range: TimeRange) -> Result<Vec<StoredPartition>> {
        let series = self.series_folder(key)?;
        let mut files = Vec::new();
        for (partition, newest) in self.partitions(&series, range)? {
            for file in self.open(&series, partition, newest.seq)?.files() {
                files.push(StoredPartition {
                    path: file.path().to_owned(),
                    partition: partition.range(),
                    rows: file.footer().rows,
                    bytes: file.bytes()?,
                    seq: file.footer().seq,
                });
            }
        }
        Ok(files)
    }

    /// Every series of the folder tree that has a commit, an error for each that cannot be named;
    /// what is not ours is passed over.
    pub(crate) fn series(&self) -> Result<Vec<Result<SeriesKey>>> {
        let mut keys = Vec::new();
        for name in self.disk.folders(self.disk.root())? {
            let node = self.disk.root().join(&name);
            let intervals = self.intervals_with_commits(&node)?;
            match self.read_owner(&node) {
                Ok(Some(node_id)) if layout::node_folder(&node_id) == name => {
                    let key = |interval| Ok(SeriesKey { node_id: node_id.clone(), interval });
                    keys.extend(intervals.into_iter().map(key));
                }
                Ok(None) if !intervals.is_empty() => keys.push(Err(nameless(&node))),
                Ok(_) => tracing::debug!(path = %node.display(), "not a series folder"),
                Err(e) => keys.push(Err(e)),
            }
        }
        Ok(keys)
    }

    /// The intervals of a node's folder under which a partition has a commit.
    fn intervals_with_commits(&self, node: &Path) -> Result<Vec<Interval>> {
        let mut found = Vec::new();
        for name in self.disk.list(node)? {
            let Some(interval) =
                name.parse::<Interval>().ok().filter(|interval| interval.to_string() == name)
            else {
                continue;
            };
            let folder = node.join(&name);
            for partition in self.disk.list(&folder)? {
                if Partition::parse(interval, &partition).is_some()
                    && self.disk.newest(&folder.join(&partition), None)?.is_some()
                {
                    found.push(interval);
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// The error of a folder whose series nobody can name.
fn nameless(node: &Path) -> Error {
    let message = "the file that names the series of a folder is missing; restore it from a copy, or write to the \
                   series, which makes it anew";
    Error::new(ErrorKind::Corrupt, message).with("path", node.join(layout::SERIES_FILE).display())
}
