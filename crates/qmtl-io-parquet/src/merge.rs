//! Merging rows by time: whole partitions for a commit, a full file and its delta for a read.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::arrow_select::interleave::interleave_record_batch;
use qmtl_history_api::{Error, Result, frame};

/// The rows of both, by time; at one time the new row is taken.
pub(crate) fn merge(stored: &[RecordBatch], new: &RecordBatch) -> Result<RecordBatch> {
    let Some(first) = stored.first() else { return Ok(new.clone()) };
    let schema = frame::union(&first.schema(), &new.schema())?;
    let batches =
        stored.iter().chain([new]).map(|batch| frame::conform(batch, &schema)).collect::<Result<Vec<_>>>()?;
    let new_ts = frame::timestamps(new)?.values();
    let last = stored.last().and_then(|batch| frame::timestamps(batch).ok()?.values().last().copied());
    if new_ts.first() > last.as_ref() {
        return concat_batches(&schema, &batches).map_err(fault);
    }
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

/// The rows of a full file and its delta, which have no time in common, ascending. All batches have
/// one schema; those of the full file that no row of the delta falls into are passed on untouched.
pub(crate) fn weave(full: Vec<RecordBatch>, delta: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let Some(schema) = delta.first().map(RecordBatch::schema) else { return Ok(full) };
    let delta = concat_batches(&schema, delta).map_err(fault)?;
    let added = frame::timestamps(&delta)?.values();
    let mut woven = Vec::with_capacity(full.len() + 2);
    let mut from = 0;
    for batch in full {
        let ts = frame::timestamps(&batch)?.values();
        let (Some(first), Some(last)) = (ts.first(), ts.last()) else { continue };
        let start = added.partition_point(|ts| ts < first);
        let end = added.partition_point(|ts| ts <= last);
        if from < start {
            woven.push(delta.slice(from, start - from));
        }
        from = end;
        woven.push(if start == end { batch } else { merge(&[batch], &delta.slice(start, end - start))? });
    }
    if from < added.len() {
        woven.push(delta.slice(from, added.len() - from));
    }
    Ok(woven)
}

/// Whether `rows` are the stored ones, bit for bit.
pub(crate) fn is_equal(stored: &[RecordBatch], rows: &RecordBatch) -> bool {
    let mut from = 0;
    stored.iter().all(|batch| {
        let length = batch.num_rows().min(rows.num_rows() - from);
        let same = *batch == rows.slice(from, length);
        from += length;
        same
    }) && from == rows.num_rows()
}

fn fault(error: qmtl_history_api::arrow_schema::ArrowError) -> Error {
    Error::unexpected("cannot merge rows with the stored ones").caused_by(error)
}

#[cfg(test)]
mod tests;
