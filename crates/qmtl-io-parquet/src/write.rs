//! Writing: cut a batch at the partitions, and find what each part changes in its partition.

use std::collections::BTreeMap;

use qmtl_history_api::arrow_array::{BooleanArray, RecordBatch};
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, OnConflict, Result, SeriesKey, Timestamp, WriteReceipt, WriteRequest, frame,
};

use crate::commit::Edit;
use crate::layout::{Partition, SeriesFolder};
use crate::state::State;
use crate::store::Store;

/// The most partitions that one write may touch; a proof of emptiness over centuries of minutes
/// would be a file for each of them.
const MAX_PARTITIONS: usize = 10_000;

/// What a write brings to one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) rows: Option<RecordBatch>,
    pub(crate) empty: Vec<EmptyProof>,
}

/// Cuts a canonical batch and its proofs at the partitions. `InvalidInput` for too many of them.
pub(crate) fn cut(request: &WriteRequest, rows: &RecordBatch) -> Result<BTreeMap<Partition, Part>> {
    let interval = request.key.interval;
    let mut parts: BTreeMap<Partition, Part> = BTreeMap::new();
    let ts = frame::timestamps(rows)?.values();
    let mut from = 0;
    while let Some(first) = ts.get(from) {
        let partition = Partition::around(interval, Timestamp::from_micros(*first)?);
        let end = partition.range().end().as_micros();
        let length = ts[from..].partition_point(|micros| *micros < end);
        parts.entry(partition).or_default().rows = Some(rows.slice(from, length));
        from += length;
    }
    for proof in &request.empty {
        for range in proof.ranges.on_grid(interval).iter() {
            for partition in Partition::over(interval, range) {
                let part = parts.entry(partition).or_default();
                let within = range.intersect(partition.range());
                match part.empty.last_mut().filter(|last| last.is_same_answer(proof)) {
                    Some(last) => last.ranges.extend(within),
                    None => part.empty.push(proof.about(within.into_iter().collect())),
                }
                if parts.len() > MAX_PARTITIONS {
                    return Err(Error::invalid(
                        "one write touches more than 10000 partitions; cut it by time",
                    )
                    .with("series", &request.key)
                    .with("span", proof.ranges.span().unwrap_or(range)));
                }
            }
        }
    }
    Ok(parts)
}

/// Whether the write stores a row, now that nothing but rows can have been added since the footers
/// were read.
pub(crate) fn stores_rows(
    store: &Store,
    series: &SeriesFolder,
    parts: &BTreeMap<Partition, Part>,
    on_conflict: OnConflict,
) -> Result<bool> {
    for (partition, part) in parts.iter().filter(|(_, part)| part.rows.is_some()) {
        let known = match store.newest(&series.partition(*partition))? {
            Some(newest) => store.state(series, *partition, newest)?.coverage().clone(),
            None => Coverage::default(),
        };
        let receipt = Change::plan(&series.key, &known, part, on_conflict)?.receipt;
        if receipt.rows_written + receipt.rows_replaced > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes one part: exact whoever else writes, since the next number goes to one writer alone and
/// the others merge with what it stored.
pub(crate) fn commit(
    store: &Store,
    series: &SeriesFolder,
    (partition, part): (Partition, &Part),
    on_conflict: OnConflict,
) -> Result<WriteReceipt> {
    store.transact(series, partition, |base| {
        let nothing = Coverage::default();
        let known = base.map_or(&nothing, State::coverage);
        let Change { rows, receipt, coverage } = Change::plan(&series.key, known, part, on_conflict)?;
        let is_none = receipt.rows_written + receipt.rows_replaced == 0 && coverage == *known;
        let edit = if is_none { None } else { Some(Edit::Add { rows, coverage }) };
        Ok((receipt, edit))
    })
}

/// What a part does to a partition of known coverage.
struct Change {
    /// The rows that are to be stored, at new points or in the place of stored ones.
    rows: RecordBatch,
    receipt: WriteReceipt,
    /// The coverage afterwards.
    coverage: Coverage,
}

impl Change {
    fn plan(key: &SeriesKey, known: &Coverage, part: &Part, on_conflict: OnConflict) -> Result<Self> {
        let mut coverage = known.clone();
        let mut receipt = WriteReceipt::default();
        let mut rows = RecordBatch::new_empty(frame::ts_only_schema());
        if let Some(given) = &part.rows {
            let is_new = frame::timestamps(given)?
                .values()
                .iter()
                .map(|micros| Ok(!known.present().contains(Timestamp::from_micros(*micros)?)))
                .collect::<Result<BooleanArray>>()?;
            let new = u64::try_from(is_new.true_count()).unwrap_or(u64::MAX);
            let old = u64::try_from(is_new.false_count()).unwrap_or(u64::MAX);
            (rows, receipt) = match on_conflict {
                OnConflict::Replace => (given.clone(), WriteReceipt::new(new, old, 0)),
                OnConflict::KeepExisting if old == 0 => (given.clone(), WriteReceipt::new(new, 0, 0)),
                OnConflict::KeepExisting => {
                    let rows = filter_record_batch(given, &is_new)
                        .map_err(|e| Error::unexpected("cannot select the new rows").caused_by(e))?;
                    (rows, WriteReceipt::new(new, 0, old))
                }
            };
            coverage.add_present(&frame::row_runs(key, &rows)?);
        }
        for proof in &part.empty {
            coverage.add_empty(proof);
        }
        Ok(Self { rows, receipt, coverage })
    }
}

#[cfg(test)]
mod tests;
