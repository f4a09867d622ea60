//! The rows and proofs of one series.

use std::collections::{BTreeMap, HashMap};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::arrow_select::interleave::interleave_record_batch;
use qmtl_history_api::{
    BatchStream, Coverage, Error, OnConflict, ReadRequest, Result, TimeRange, WriteReceipt, WriteRequest,
    frame,
};

/// The most rows of one batch of a read.
const BATCH_ROWS: usize = 65_536;
/// Rows that may wait in the batches in which they came before all are packed anew.
const LOOSE_ROWS: usize = 8_192;

/// Where a row is: the batch, and the row in it.
type Place = (usize, usize);

/// Batches as they were written, and for every timestamp the place of the row that counts.
///
/// A batch has the columns it came with; reading gives it the ones it lacks.
pub(crate) struct Series {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rows: BTreeMap<i64, Place>,
    coverage: Coverage,
    /// Grows by one with every change; 0 is a series that does not exist.
    revision: u64,
    loose_rows: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            schema: frame::ts_only_schema(),
            batches: Vec::new(),
            rows: BTreeMap::new(),
            coverage: Coverage::default(),
            revision: 0,
            loose_rows: 0,
        }
    }
}

impl Series {
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    pub(crate) fn coverage(&self, range: TimeRange) -> Coverage {
        self.coverage.within(range)
    }

    /// Copies the rows of a range, as they are now.
    pub(crate) fn read(&self, request: &ReadRequest) -> Result<BatchStream> {
        let schema = frame::project(&request.key, &self.schema, request.columns.as_deref())?;
        let span = request.range.start().as_micros()..request.range.end().as_micros();
        let limit = request.limit.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let rows = self.rows.range(span).map(|(_, place)| *place);
        let places: Vec<_> =
            if request.newest_first { rows.rev().take(limit).collect() } else { rows.take(limit).collect() };
        let batches = self.gather(&schema, &places)?;
        Ok(BatchStream::from_batches(schema, batches))
    }

    /// Stores a canonical batch and the request's proofs. Fails before it changes anything.
    pub(crate) fn write(&mut self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        frame::check_types(&request.key, &rows.schema(), &self.schema)?;
        let columns = frame::union(&self.schema, &rows.schema())?;
        let points = frame::timestamps(&rows)?.values().clone();
        let runs = frame::row_runs(&request.key, &rows)?;
        self.pack()?;
        let batch = self.batches.len();
        let mut receipt = WriteReceipt::default();
        for (row, micros) in points.iter().copied().enumerate() {
            let known = self.rows.contains_key(&micros);
            match (known, request.on_conflict) {
                (true, OnConflict::KeepExisting) => {
                    receipt.rows_kept_out += 1;
                    continue;
                }
                (true, OnConflict::Replace) => receipt.rows_replaced += 1,
                (false, _) => receipt.rows_written += 1,
            }
            self.rows.insert(micros, (batch, row));
        }
        let stores_rows = receipt.rows_written + receipt.rows_replaced > 0;
        if stores_rows {
            self.schema = columns;
            self.loose_rows += rows.num_rows();
            self.batches.push(rows);
        }
        let coverage_before = self.coverage.clone();
        self.coverage.add_present(&runs);
        for proof in &request.empty {
            let mut proof = proof.clone();
            proof.ranges = proof.ranges.on_grid(request.key.interval);
            self.coverage.add_empty(&proof);
        }
        if stores_rows || self.coverage != coverage_before {
            self.revision += 1;
        }
        Ok(receipt)
    }

    /// The rows at `places`, in that order, in batches of [`BATCH_ROWS`].
    fn gather(&self, schema: &SchemaRef, places: &[Place]) -> Result<Vec<RecordBatch>> {
        places.chunks(BATCH_ROWS).map(|chunk| self.gather_batch(schema, chunk)).collect()
    }

    fn gather_batch(&self, schema: &SchemaRef, places: &[Place]) -> Result<RecordBatch> {
        let mut sources = Vec::new();
        let mut positions = HashMap::new();
        let mut indices = Vec::with_capacity(places.len());
        for (batch, row) in places.iter().copied() {
            let position = match positions.get(&batch) {
                Some(position) => *position,
                None => {
                    sources.push(frame::conform(&self.batches[batch], schema)?);
                    positions.insert(batch, sources.len() - 1);
                    sources.len() - 1
                }
            };
            indices.push((position, row));
        }
        interleave_record_batch(&sources.iter().collect::<Vec<_>>(), &indices)
            .map_err(|e| Error::unexpected("cannot put rows of one series together").caused_by(e))
    }

    /// Copies the rows that count into new batches once enough have come since the last time: so
    /// replaced rows do not stay for ever, and the copying takes constant time per written row.
    fn pack(&mut self) -> Result<()> {
        if self.loose_rows < LOOSE_ROWS.max(self.rows.len() / 4) {
            return Ok(());
        }
        let places: Vec<_> = self.rows.values().copied().collect();
        self.batches = self.gather(&self.schema, &places)?;
        for (index, place) in self.rows.values_mut().enumerate() {
            *place = (index / BATCH_ROWS, index % BATCH_ROWS);
        }
        self.loose_rows = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
