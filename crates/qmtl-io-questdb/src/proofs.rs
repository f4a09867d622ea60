//! What sources proved, in a table of its own: a log, of which an answer that is repeated stays once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use qmtl_history_api::arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, ErrorKind, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp,
    frame,
};
use tokio_postgres::types::Type;

use crate::naming::{proofs_table, quoted, stored};
use crate::schema::{INTERVAL, NODE_ID};
use crate::store::Store;
use crate::transport::{Micros, Param, Statement};

/// The number of the newest proof that this process wrote: later ones get higher numbers.
static NEWEST: AtomicI64 = AtomicI64::new(0);

/// What is logged of a series' proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) count: i64,
    pub(crate) newest: i64,
}

impl Store {
    /// Logs proofs of a series.
    pub(crate) async fn record(&self, key: &SeriesKey, proofs: &[EmptyProof]) -> Result<()> {
        let rows = self.rows_of(key, proofs)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let table = proofs_table(&self.config);
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (ts TIMESTAMP, {NODE_ID} SYMBOL CAPACITY 256, {INTERVAL} LONG, \
             source VARCHAR, reason VARCHAR, range_start LONG, range_end LONG, written LONG) \
             TIMESTAMP(ts) PARTITION BY YEAR WAL \
             DEDUP UPSERT KEYS(ts, {NODE_ID}, {INTERVAL}, source, reason, range_start, range_end)",
            quoted(&table)
        );
        self.transport.wire.run("make the table of proofs", &table, &sql).await?;
        self.transport.send(&table, key, &rows).await?;
        self.transport.settle(&table).await
    }

    /// A row for each range of each proof; `ts` is the time of the answer.
    fn rows_of(&self, key: &SeriesKey, proofs: &[EmptyProof]) -> Result<RecordBatch> {
        let mut rows: Vec<(&EmptyProof, TimeRange, i64)> = Vec::new();
        for proof in proofs {
            let now = self.clock.now().as_micros();
            let number = NEWEST
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |newest| Some(now.max(newest + 1)))
                .map_or(now, |newest| now.max(newest + 1));
            let ranges = proof.ranges.on_grid(key.interval);
            rows.extend(ranges.iter().map(|range| (proof, range, number)));
        }
        let numbers = |of: fn(&(&EmptyProof, TimeRange, i64)) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(of)))
        };
        let texts = |of: for<'a> fn(&'a EmptyProof) -> &'a str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(proof, ..)| of(proof))))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(frame::ts_array(rows.iter().map(|(proof, ..)| proof.answered_at))),
            texts(|proof| proof.source.as_str()),
            texts(|proof| &proof.reason),
            numbers(|(_, range, _)| range.start().as_micros()),
            numbers(|(_, range, _)| range.end().as_micros()),
            numbers(|(.., number)| *number),
        ];
        let schema = frame::schema_of([
            ("source", DataType::Utf8),
            ("reason", DataType::Utf8),
            ("range_start", DataType::Int64),
            ("range_end", DataType::Int64),
            ("written", DataType::Int64),
        ]);
        RecordBatch::try_new(schema, columns).map_err(|e| Error::unexpected("cannot log proofs").caused_by(e))
    }

    /// What is known empty of a series by its log, whatever rows there are.
    pub(crate) async fn proofs(&self, key: &SeriesKey) -> Result<Coverage> {
        let table = proofs_table(&self.config);
        let sql = format!(
            "select ts, source, reason, range_start, range_end, written from {} \
             where {NODE_ID} = $1 and {INTERVAL} = $2 order by written",
            quoted(&table)
        );
        let types = [Type::VARCHAR, Type::INT8];
        let statement = Statement { doing: "read proofs", table: &table, sql: &sql, types: &types };
        let params: [Param<'_>; 2] = [&stored(&key.node_id), &key.interval.as_secs()];
        let rows = match self.transport.wire.query(statement, &params).await {
            Ok(rows) => rows,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Coverage::default()),
            Err(error) => return Err(error),
        };
        let mut coverage = Coverage::default();
        let mut pending: Option<(i64, EmptyProof)> = None;
        for row in &rows {
            let at = |column| Timestamp::from_micros(row.get(column));
            let Some(range) = TimeRange::checked(at(3)?, at(4)?) else { continue };
            let number: i64 = row.get(5);
            match &mut pending {
                // The ranges of one proof were logged under one number.
                Some((last, proof)) if *last == number => proof.ranges.insert(range),
                _ => {
                    if let Some((_, proof)) = pending.take() {
                        coverage.add_empty(&proof);
                    }
                    let answered_at = Timestamp::from_micros(row.get::<_, Micros>(0).0)?;
                    let (source, reason): (&str, Option<&str>) = (row.get(1), row.get(2));
                    let source = SourceId::new(source)?;
                    let reason = reason.unwrap_or_default();
                    pending =
                        Some((number, EmptyProof::new(source, RangeSet::from(range), reason, answered_at)));
                }
            }
        }
        if let Some((_, proof)) = pending {
            coverage.add_empty(&proof);
        }
        Ok(coverage)
    }

    /// How much is logged of a series; `None` when nothing is.
    pub(crate) async fn logged(&self, key: &SeriesKey) -> Result<Option<Logged>> {
        let table = proofs_table(&self.config);
        let sql = format!(
            "select count(), max(written) from {} where {NODE_ID} = $1 and {INTERVAL} = $2",
            quoted(&table)
        );
        let types = [Type::VARCHAR, Type::INT8];
        let statement = Statement { doing: "count proofs", table: &table, sql: &sql, types: &types };
        let params: [Param<'_>; 2] = [&stored(&key.node_id), &key.interval.as_secs()];
        match self.transport.wire.query(statement, &params).await {
            Ok(rows) => Ok(rows.first().and_then(|row| {
                let count: i64 = row.get(0);
                Some(Logged { count, newest: row.get::<_, Option<i64>>(1)? })
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
