//! Questions that footers and names answer: coverage, revision, files.

use std::time::UNIX_EPOCH;

use qmtl_history_api::{Coverage, EmptyProof, RangeSet, Result, SeriesKey, TimeRange};

use crate::backend::StoredPartition;
use crate::columns::check_listed;
use crate::layout::{Partition, SeriesFolder};
use crate::store::Store;

impl Store {
    pub(crate) fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let series = self.series_folder(key)?;
        let mut present = RangeSet::new();
        let mut proofs: Vec<EmptyProof> = Vec::new();
        let mut are_columns_known = false;
        for (partition, newest) in self.partitions(&series, range)? {
            // Once a handle: what is remembered was read when the list was sound.
            if !are_columns_known && self.states.get(&series.partition(partition), newest).is_none() {
                self.check_columns(&series, partition, newest.seq)?;
                are_columns_known = true;
            }
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

    /// `Corrupt` where the list of columns is damaged or gone: rows that cannot be read make nothing complete.
    fn check_columns(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<()> {
        let columns = self.columns(series)?;
        // A series of times alone has no list.
        if columns.version == 0 {
            for file in self.open(series, partition, seq)?.files() {
                check_listed(file, &columns.schema)?;
            }
        }
        Ok(())
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
}
