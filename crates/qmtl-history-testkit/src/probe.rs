//! One series of a store under test: the calls of the checks, each of which must succeed or panic.

use std::fmt::Display;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_cast::display::array_value_to_string;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, HistoryBackend, HistoryBackendExt, OnConflict, RangeSet, ReadRequest,
    SeriesKey, TimeRange, Timestamp, WriteReceipt, WriteRequest, frame,
};

use crate::Subject;
use crate::fixtures;

/// A series and the handle through which it is used.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) backend: Arc<dyn HistoryBackend>,
    pub(crate) key: SeriesKey,
}

/// Everything that can be seen of a series.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) rows: RecordBatch,
    pub(crate) coverage: Coverage,
    pub(crate) revision: Option<u64>,
}

impl Subject {
    /// The series of a node at an interval such as `1m`.
    pub(crate) fn probe(&self, node_id: &str, interval: &str) -> Probe {
        Probe { backend: self.backend(), key: fixtures::key(node_id, interval) }
    }

    /// The one-minute series `BTC`, where a check needs no other.
    pub(crate) fn btc(&self) -> Probe {
        self.probe("BTC", "1m")
    }
}

impl Probe {
    /// The same series through another handle.
    pub(crate) fn through(&self, backend: &Arc<dyn HistoryBackend>) -> Self {
        Self { backend: Arc::clone(backend), key: self.key.clone() }
    }

    pub(crate) fn bar(&self, index: u32) -> Timestamp {
        fixtures::bar(&self.key, index)
    }

    pub(crate) fn span(&self, first: u32, end: u32) -> TimeRange {
        fixtures::span(&self.key, first, end)
    }

    /// The points of these bars.
    pub(crate) fn points(&self, bars: impl IntoIterator<Item = u32>) -> Vec<Timestamp> {
        bars.into_iter().map(|index| self.bar(index)).collect()
    }

    /// Where these bars, which must ascend, are.
    pub(crate) fn ranges(&self, bars: impl IntoIterator<Item = u32>) -> RangeSet {
        RangeSet::from_sorted_points(self.points(bars), self.key.interval)
    }

    /// Rows of one `Float64` column `close`, given as `(bar, close)`.
    pub(crate) fn rows(&self, rows: impl IntoIterator<Item = (u32, f64)>) -> RecordBatch {
        let (bars, closes): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        self.column("close", bars, Arc::new(Float64Array::from(closes)))
    }

    /// Rows of one column.
    pub(crate) fn column(
        &self,
        name: &str,
        bars: impl IntoIterator<Item = u32>,
        values: ArrayRef,
    ) -> RecordBatch {
        fixtures::batch(&self.points(bars), [(name, values)])
    }

    pub(crate) fn request(&self, on_conflict: OnConflict) -> WriteRequest {
        WriteRequest::new(self.key.clone()).with_on_conflict(on_conflict)
    }

    pub(crate) async fn write(&self, request: &WriteRequest, rows: RecordBatch) -> WriteReceipt {
        self.backend.write_rows(request, rows).await.expect("a good write is taken")
    }

    pub(crate) async fn keep(&self, rows: RecordBatch) -> WriteReceipt {
        self.write(&self.request(OnConflict::KeepExisting), rows).await
    }

    pub(crate) async fn replace(&self, rows: RecordBatch) -> WriteReceipt {
        self.write(&self.request(OnConflict::Replace), rows).await
    }

    /// Writes a proof without rows.
    pub(crate) async fn prove(&self, proof: EmptyProof) {
        let request = self.request(OnConflict::KeepExisting).with_empty(proof);
        let receipt = self.write(&request, RecordBatch::new_empty(frame::ts_only_schema())).await;
        assert_eq!(receipt, WriteReceipt::default(), "a proof is no row");
    }

    /// Makes a write that must be refused: for good, and without a trace of it in the store.
    pub(crate) async fn refused(&self, request: &WriteRequest, rows: RecordBatch) -> Error {
        let before = self.snapshot().await;
        let error = match self.backend.write_rows(request, rows.clone()).await {
            Ok(receipt) => panic!("a write that must be refused was taken: {receipt:?}\n{rows:?}"),
            Err(error) => error,
        };
        assert!(!error.is_retryable(), "the same write cannot succeed later: {error}");
        assert_eq!(self.snapshot().await, before, "a refused write left something behind: {error}");
        error
    }

    pub(crate) async fn read(&self, range: TimeRange) -> RecordBatch {
        let request = ReadRequest::new(self.key.clone(), range);
        self.backend.read_all(&request).await.expect("a series can be read")
    }

    pub(crate) async fn all(&self) -> RecordBatch {
        self.read(TimeRange::ALL).await
    }

    /// The rows of a range as `(microseconds, close)`.
    pub(crate) async fn closes(&self, range: TimeRange) -> Vec<(i64, f64)> {
        closes(&self.read(range).await)
    }

    /// The rows of a request as `(microseconds, close)`, in the order in which they come.
    pub(crate) async fn ordered(&self, request: &ReadRequest) -> Vec<(i64, f64)> {
        closes(&self.backend.read_all(request).await.expect("a series can be read"))
    }

    /// The given rows in the form of [`Probe::closes`].
    pub(crate) fn expected(&self, rows: impl IntoIterator<Item = (u32, f64)>) -> Vec<(i64, f64)> {
        closes(&self.rows(rows))
    }

    pub(crate) async fn coverage(&self, range: TimeRange) -> Coverage {
        self.backend.coverage(&self.key, range).await.expect("a coverage can be asked for")
    }

    /// Where coverage says that rows are, its ends on the grid.
    pub(crate) async fn present(&self, range: TimeRange) -> RangeSet {
        self.coverage(range).await.present().on_grid(self.key.interval)
    }

    pub(crate) async fn revision(&self) -> Option<u64> {
        self.backend.revision(&self.key).await.expect("a revision can be asked for")
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        Snapshot {
            rows: self.all().await,
            coverage: self.coverage(TimeRange::ALL).await,
            revision: self.revision().await,
        }
    }

    /// The series of the store, sorted.
    pub(crate) async fn listed(&self) -> Vec<SeriesKey> {
        self.backend.list_series().await.expect("the series can be listed")
    }
}

/// Panics unless a read gave exactly these rows, and shows the first that differs.
pub(crate) fn assert_closes(read: &[(i64, f64)], expected: &[(i64, f64)], what: impl Display) {
    let at = read.iter().zip(expected).take_while(|(read, expected)| read == expected).count();
    if at == read.len() && at == expected.len() {
        return;
    }
    let row = |rows: &[(i64, f64)]| {
        let (micros, close) = rows.get(at)?;
        let ts = Timestamp::from_micros(*micros).expect("a read gives times that there are");
        Some(format!("ts={ts} close={close}"))
    };
    differ(what, at, (read.len(), row(read)), (expected.len(), row(expected)));
}

/// The same of batches, by the values of all columns.
pub(crate) fn assert_rows(read: &RecordBatch, expected: &RecordBatch, what: impl Display) {
    if read.columns() == expected.columns() {
        return;
    }
    let shared = read.num_rows().min(expected.num_rows());
    let differs = |at: &usize| read.slice(*at, 1).columns() != expected.slice(*at, 1).columns();
    let at = (0..shared).find(differs).unwrap_or(shared);
    let row = |rows: &RecordBatch| {
        let (schema, columns) = (rows.schema(), rows.columns());
        let value = |column| array_value_to_string(column, at).unwrap_or_default();
        let cells =
            schema.fields().iter().zip(columns).map(|(field, c)| format!("{}={}", field.name(), value(c)));
        (at < rows.num_rows()).then(|| cells.collect::<Vec<_>>().join(" "))
    };
    differ(what, at, (read.num_rows(), row(read)), (expected.num_rows(), row(expected)));
}

/// Panics with how many rows there are of each and what stands in row `at`, the first that differs.
fn differ(
    what: impl Display,
    at: usize,
    read: (usize, Option<String>),
    expected: (usize, Option<String>),
) -> ! {
    let shown = |row: Option<String>| row.unwrap_or_else(|| "no row".to_owned());
    panic!(
        "{what}: {} rows instead of {}; row {at} is {} instead of {}",
        read.0,
        expected.0,
        shown(read.1),
        shown(expected.1),
    );
}

/// The rows of a batch as `(microseconds, close)`; a null is NaN.
pub(crate) fn closes(batch: &RecordBatch) -> Vec<(i64, f64)> {
    let ts = frame::timestamps(batch).expect("a read gives a time column").values();
    let Some(close) = batch.column_by_name("close") else {
        assert_eq!(batch.num_rows(), 0, "rows were read without the column that was written");
        return Vec::new();
    };
    let close = close.as_primitive::<Float64Type>();
    ts.iter().copied().zip(close.iter().map(|value| value.unwrap_or(f64::NAN))).collect()
}
