//! Reading a range: small ones over the wire, large ones over exports.

use qmtl_history_api::backend::unknown_column;
use qmtl_history_api::{BatchStream, ReadRequest, Result, StreamKind, TimeRange, frame};

use crate::schema::{Table, Time, schema_of};
use crate::store::Store;
use crate::transport::Scan;

/// Up to so many rows the wire is faster than an export.
const WIRE_ROWS: u32 = 10_000;

impl Store {
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
        if is_small(request) || scan.table.time == Time::Seconds || !scan.table.dedup {
            return self.transport.wire_rows(&scan, StreamKind::Bars).await;
        }
        let Some(extent) = self.extent(&scan.table, key, request.range).await? else {
            return Ok(BatchStream::empty(schema_of(&scan.columns)));
        };
        let rows = extent.range().and_then(|rows| TimeRange::intersect(rows, request.range));
        let scan = Scan { range: rows.unwrap_or(request.range), ..scan };
        if extent.count <= i64::from(WIRE_ROWS) {
            self.transport.wire_rows(&scan, StreamKind::Bars).await
        } else {
            Ok(self.transport.export_rows(scan))
        }
    }
}

fn is_small(request: &ReadRequest) -> bool {
    request.range.count(request.key.interval) <= u64::from(WIRE_ROWS)
}

/// What is read of a series that was never written.
fn nothing(request: &ReadRequest) -> Result<BatchStream> {
    match request.columns.as_deref().unwrap_or_default().first() {
        Some(column) => Err(unknown_column(&request.key, column)),
        None => Ok(BatchStream::empty(frame::ts_only_schema())),
    }
}
