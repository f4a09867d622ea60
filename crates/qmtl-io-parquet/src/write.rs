//! Writing: cut a batch at the partitions, merge each part with the newest commit, commit the next.

use std::collections::BTreeMap;

use qmtl_history_api::arrow_array::{BooleanArray, RecordBatch};
use qmtl_history_api::arrow_select::filter::filter_record_batch;
use qmtl_history_api::arrow_select::interleave::interleave_record_batch;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, OnConflict, Result, SeriesKey, TimeRange, Timestamp, WriteReceipt,
    WriteRequest, frame,
};

use crate::columns::with_columns;
use crate::disk;
use crate::footer::{Footer, Kind};
use crate::layout::{Partition, SeriesFolder};
use crate::store::{ATTEMPTS, Store, lost_races};
use crate::types::conform;

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
                match part.empty.last_mut().filter(|last| is_same_answer(last, proof)) {
                    Some(last) => last.ranges.extend(within),
                    None => {
                        let (source, reason) = (proof.source.clone(), proof.reason.clone());
                        let ranges = within.into_iter().collect();
                        part.empty.push(EmptyProof::new(source, ranges, reason, proof.answered_at));
                    }
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
        let known = match disk::newest(&series.partition(*partition))? {
            Some(seq) => store.footer(series, *partition, seq)?.footer.coverage.clone(),
            None => Coverage::default(),
        };
        let receipt = Change::plan(&series.key, &known, part, on_conflict)?.receipt;
        if receipt.rows_written + receipt.rows_replaced > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two proofs are parts of one answer.
pub(crate) fn is_same_answer(a: &EmptyProof, b: &EmptyProof) -> bool {
    (&a.source, &a.reason, a.answered_at) == (&b.source, &b.reason, b.answered_at)
}

/// Writes one part: exact whoever else writes, since the next number goes to one writer alone and
/// the others merge with what it stored.
pub(crate) fn commit(
    store: &Store,
    series: &SeriesFolder,
    (partition, part): (Partition, &Part),
    on_conflict: OnConflict,
) -> Result<WriteReceipt> {
    let folder = series.partition(partition);
    for _ in 0..ATTEMPTS {
        let base = match disk::newest(&folder)? {
            Some(seq) => Some(store.footer(series, partition, seq)?.footer),
            None => None,
        };
        let (built_on, known) =
            base.map_or((0, Coverage::default()), |footer| (footer.seq, footer.coverage.clone()));
        let change = Change::plan(&series.key, &known, part, on_conflict)?;
        if change.receipt.rows_written + change.receipt.rows_replaced == 0 && change.coverage == known {
            store.settle(series, &folder, built_on)?;
            return Ok(change.receipt);
        }
        let stored = if built_on == 0 {
            Vec::new()
        } else {
            let file = store.open(series, partition, built_on)?;
            if file.footer().seq != built_on {
                continue;
            }
            file.read(TimeRange::ALL, file.schema())?
        };
        let rows = merge(&stored, &change.rows)?;
        if change.coverage == known && is_equal(&stored, &rows) {
            store.settle(series, &folder, built_on)?;
            return Ok(change.receipt);
        }
        let footer = Footer {
            kind: Kind::Full,
            key: series.key.clone(),
            partition: Some(partition),
            seq: built_on + 1,
            built_on,
            rows: u64::try_from(rows.num_rows()).unwrap_or(u64::MAX),
            coverage: change.coverage,
        };
        if store.commit(series, &footer, &rows)? {
            return Ok(change.receipt);
        }
    }
    Err(lost_races(&folder))
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

/// The rows of both, by time; at one time the new row is taken.
fn merge(stored: &[RecordBatch], new: &RecordBatch) -> Result<RecordBatch> {
    let fault = |e| Error::unexpected("cannot merge rows with the stored ones").caused_by(e);
    let Some(first) = stored.first() else { return Ok(new.clone()) };
    let schema = with_columns(&first.schema(), &new.schema()).unwrap_or_else(|| first.schema());
    let batches =
        stored.iter().chain([new]).map(|batch| conform(batch, &schema)).collect::<Result<Vec<_>>>()?;
    let new_ts = frame::timestamps(new)?.values();
    let mut next = 0;
    let mut picks = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for (batch, rows) in stored.iter().enumerate() {
        for (row, ts) in frame::timestamps(rows)?.values().iter().enumerate() {
            while new_ts.get(next).is_some_and(|new| new < ts) {
                picks.push((stored.len(), next));
                next += 1;
            }
            if new_ts.get(next) == Some(ts) {
                picks.push((stored.len(), next));
                next += 1;
            } else {
                picks.push((batch, row));
            }
        }
    }
    picks.extend((next..new_ts.len()).map(|row| (stored.len(), row)));
    interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &picks).map_err(fault)
}

/// Whether `rows` are the stored ones, bit for bit.
fn is_equal(stored: &[RecordBatch], rows: &RecordBatch) -> bool {
    let mut from = 0;
    stored.iter().all(|batch| {
        let length = batch.num_rows().min(rows.num_rows() - from);
        let same = *batch == rows.slice(from, length);
        from += length;
        same
    }) && from == rows.num_rows()
}

#[cfg(test)]
mod tests;
