//! Reading a range: small ones over the wire, large ones over exports.

use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{BatchStream, ReadRequest, Result, SeriesKey, StreamKind, TimeRange, frame};

use crate::schema::{Table, Time, schema_of};
use crate::store::Store;
use crate::transport::Scan;

/// Up to so many rows the wire is faster than an export.
const WIRE_ROWS: u32 = 10_000;

impl Store {
    /// The columns of a series.
    pub(crate) async fn columns(&self, key: &SeriesKey) -> Result<SchemaRef> {
        match self.table(&key.node_id).await? {
            Some(table) if self.has_rows(&table, key).await? => Ok(schema_of(&table.projected(key, None)?)),
            _ => Ok(frame::ts_only_schema()),
        }
    }

    pub(crate) async fn read(&self, request: &ReadRequest) -> Result<BatchStream> {
        match self.table(&request.key.node_id).await? {
            Some(table) => self.read_table(table, request).await,
            None => nothing(request),
        }
    }

    async fn read_table(&self, table: Table, request: &ReadRequest) -> Result<BatchStream> {
        let key = &request.key;
        if !self.has_rows(&table, key).await? {
            return nothing(request);
        }
        let columns = table.projected(key, request.columns.as_deref())?;
        let scan = Scan { table, key: key.clone(), range: request.range, columns };
        let is_odd = scan.table.time == Time::Seconds || !scan.table.dedup;
        if is_small(request) || (is_odd && !request.newest_first) {
            return self.over_wire(&scan, request).await;
        }
        let Some(extent) = self.extent(&scan.table, key, request.range).await? else {
            return Ok(BatchStream::empty(schema_of(&scan.columns)));
        };
        let rows = extent.range().and_then(|rows| TimeRange::intersect(rows, request.range));
        let scan = Scan { range: rows.unwrap_or(request.range), ..scan };
        if extent.count <= i64::from(WIRE_ROWS) || is_odd {
            self.over_wire(&scan, request).await
        } else {
            Ok(self.transport.export_rows(scan, (request.newest_first, request.limit)).limited(request.limit))
        }
    }

    /// The rows of a scan over the wire, in the order of the request. All are held at once where the newest
    /// come first: they are few, but in tables that no export can read.
    async fn over_wire(&self, scan: &Scan, request: &ReadRequest) -> Result<BatchStream> {
        let rows = self.transport.wire_rows(scan, StreamKind::Bars).await?;
        if !request.newest_first {
            return Ok(rows.limited(request.limit));
        }
        let rows = frame::reversed(&rows.into_batch().await?)?;
        Ok(BatchStream::from_batches(rows.schema(), vec![rows]).limited(request.limit))
    }
}

fn is_small(request: &ReadRequest) -> bool {
    request.range.count(request.key.interval) <= u64::from(WIRE_ROWS)
}

/// What is read of a series that was never written.
fn nothing(request: &ReadRequest) -> Result<BatchStream> {
    frame::project(&request.key, &frame::ts_only_schema(), request.columns.as_deref()).map(BatchStream::empty)
}
