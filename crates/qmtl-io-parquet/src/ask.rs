//! Questions that footers and names answer: coverage, revision, files, series.

use qmtl_history_api::{Coverage, EmptyProof, Interval, RangeSet, Result, SeriesKey, TimeRange};

use crate::backend::StoredPartition;
use crate::disk;
use crate::layout::{self, Partition, SeriesFolder};
use crate::store::{Known, Store, read_owner};
use crate::write::is_same_answer;

impl Store {
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
