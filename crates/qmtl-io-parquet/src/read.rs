//! Reading: plan the partitions, decode them one after the other with the next ones under way.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{BatchStream, ReadRequest, Result, frame};

use crate::backend::blocking;
use crate::columns::check_listed;
use crate::layout::{Partition, SeriesFolder};
use crate::store::Store;

/// The most partitions that are decoded at once: what is ahead of the caller stays in memory.
const MAX_AHEAD: usize = 8;

/// A read whose commits and columns are fixed and whose rows are still on the disk.
struct Plan {
    series: SeriesFolder,
    request: ReadRequest,
    schema: SchemaRef,
    /// In the order of the read.
    partitions: Vec<(Partition, u64)>,
}

/// Streams the rows of a range.
pub(crate) async fn read_range(store: Arc<Store>, request: ReadRequest) -> Result<BatchStream> {
    let plan = {
        let store = Arc::clone(&store);
        Arc::new(blocking(move || Plan::new(&store, request)).await?)
    };
    let (schema, limit) = (Arc::clone(&plan.schema), plan.request.limit);
    let partitions = (0..plan.partitions.len()).map(move |index| {
        let (store, plan) = (Arc::clone(&store), Arc::clone(&plan));
        blocking(move || plan.read(&store, index))
    });
    let batches = stream::iter(partitions)
        .buffered(if limit.is_some() { 1 } else { ahead() })
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
        .try_flatten();
    Ok(BatchStream::new(schema, batches.boxed()).limited(limit))
}

/// Partitions that are decoded at once: one a core and one for the caller.
fn ahead() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1).clamp(2, MAX_AHEAD)
}

impl Plan {
    fn new(store: &Store, request: ReadRequest) -> Result<Self> {
        let series = store.series_folder(&request.key)?;
        let partitions = store.partitions(&series, request.range)?;
        let mut partitions: Vec<_> =
            partitions.into_iter().map(|(partition, newest)| (partition, newest.seq)).collect();
        if request.newest_first {
            partitions.reverse();
        }
        let stored = store.columns(&series)?.schema;
        let schema = frame::project(&request.key, &stored, request.columns.as_deref())?;
        Ok(Self { series, request, schema, partitions })
    }

    /// The rows of one partition inside the range, in the order of the read.
    fn read(&self, store: &Store, index: usize) -> Result<Vec<RecordBatch>> {
        let (partition, seq) = self.partitions[index];
        store.with_open(&self.series, partition, seq, |snapshot| {
            // A newer commit, read because the listed one is gone, may have newer columns.
            if self.request.columns.is_none() && snapshot.seq() == seq {
                snapshot.files().try_for_each(|file| check_listed(file, &self.schema))?;
            }
            let request = &self.request;
            let range = match request.limit {
                None => request.range,
                Some(_) => match request.reach(&snapshot.present()) {
                    Some(range) => range,
                    None => return Ok(Vec::new()),
                },
            };
            let rows = snapshot.read(range, &self.schema)?;
            if request.newest_first { rows.iter().rev().map(frame::reversed).collect() } else { Ok(rows) }
        })
    }
}
