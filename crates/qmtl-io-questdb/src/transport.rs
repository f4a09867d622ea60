//! The ways to a server, and the only place that knows them: rows in over the line protocol, rows
//! out over the Parquet export or the PostgreSQL wire, which everything else goes over too.
//! A transport of later servers (QWP) comes in here.

mod export;
mod ilp;
mod rows;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Clock, Error, ErrorKind, Result, SeriesKey, StreamKind, TimeRange, Timestamp,
    frame,
};

use crate::config::QuestDbConfig;
use crate::error;
use crate::naming::{interval_number, literal, quoted, stored};
use crate::schema::{Column, INTERVAL, NODE_ID, Table, Time, schema_of, seconds_of};
use export::Export;
use ilp::Ilp;
use rows::{Gather, canonical};
pub(crate) use wire::{Micros, Param, Statement, Wire, in_runtime};

/// Rows of a batch over the wire.
const BATCH_ROWS: usize = 8_192;
/// Grid points of one export: a million are two rounds of [`EXPORTS`]. It must be in memory as a
/// whole: its index stands at its end.
const WINDOW_POINTS: i64 = 250_000;
/// Exports of one read at once; on two cores the server refuses a third.
const EXPORTS: usize = 2;
/// Between two looks at the write-ahead log of a server that knows no barrier.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The ways to one server.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) wire: Wire,
    ilp: Ilp,
    export: Export,
    clock: Arc<dyn Clock>,
}

/// How far the write-ahead log of a table is applied.
struct Log {
    acknowledged: i64,
    applied: i64,
    /// Why it is applied no further.
    suspended: Option<String>,
}

/// Rows of a series to read.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) table: Table,
    pub(crate) key: SeriesKey,
    pub(crate) range: TimeRange,
    pub(crate) columns: Vec<Column>,
}

impl Transport {
    pub(crate) fn new(config: &QuestDbConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { wire: Wire::new(config)?, ilp: Ilp::new(config)?, export: Export::new(config)?, clock })
    }

    pub(crate) fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sends rows; they are acknowledged when it returns, not visible: see [`Self::settle`].
    pub(crate) async fn send(&self, table: &str, key: &SeriesKey, rows: &RecordBatch) -> Result<()> {
        self.ilp.send(table, key, rows).await
    }

    /// Returns when everything that the server acknowledged for the table is visible. `Storage`,
    /// with the remedy, when the table is suspended.
    pub(crate) async fn settle(&self, table: &str) -> Result<()> {
        let sql = format!("select wait_wal_table({})", literal(table));
        let statement = Statement { doing: "wait until rows are visible", table, sql: &sql, types: &[] };
        match self.wire.query(statement, &[]).await {
            Ok(_) => Ok(()),
            // The function is not documented: a later server may not have it.
            Err(error) if error.kind() == ErrorKind::Unsupported => self.watch(table).await,
            Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
            Err(error) => match self.log(table).await {
                Ok(Some(Log { suspended: Some(reason), .. })) => Err(error::suspended(table, &reason)),
                _ => Err(error),
            },
        }
    }

    /// The same by looking at the log again and again.
    async fn watch(&self, table: &str) -> Result<()> {
        let (mut goal, mut waited) = (None, Duration::ZERO);
        loop {
            // A table without a log shows what it accepts at once.
            let Some(log) = self.log(table).await? else { return Ok(()) };
            if let Some(reason) = log.suspended {
                return Err(error::suspended(table, &reason));
            }
            // Others may go on writing: equality might never come.
            if log.applied >= *goal.get_or_insert(log.acknowledged) {
                return Ok(());
            }
            if waited >= self.wire.deadline() {
                return Err(Error::unavailable("rows did not become visible in time").with("table", table));
            }
            self.clock.sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
        }
    }

    /// The log of a table, where it has one.
    async fn log(&self, table: &str) -> Result<Option<Log>> {
        let sql = "select name, sequencerTxn, writerTxn, suspended, errorMessage from wal_tables()";
        let statement = Statement { doing: "look at the write-ahead log", table, sql, types: &[] };
        let rows = self.wire.query(statement, &[]).await?;
        let named = rows.iter().find(|row| row.get::<_, &str>(0).eq_ignore_ascii_case(table));
        Ok(named.map(|row| Log {
            acknowledged: row.get(1),
            applied: row.get(2),
            suspended: row.get::<_, bool>(3).then(|| row.get::<_, Option<String>>(4).unwrap_or_default()),
        }))
    }

    /// The rows of a scan as they come over the wire, ascending: bars canonical, events as they are.
    pub(crate) async fn wire_rows(&self, scan: &Scan, kind: StreamKind) -> Result<BatchStream> {
        let Scan { table, key, range, columns } = scan;
        let sql = format!(
            "select {} from {} where {} order by \"ts\"",
            table.select_list(columns),
            quoted(&table.name),
            table.filter()
        );
        let types = table.filter_types();
        let statement = Statement { doing: "read rows", table: &table.name, sql: &sql, types: &types };
        let rows = {
            let bounds = Bounds::new(table, key, *range);
            self.wire.stream(statement, &bounds.params()).await?
        };
        let (deadline, interval) = (self.wire.deadline(), key.interval);
        let shaped = move |rows, after: &mut Option<i64>| match kind {
            StreamKind::Bars => canonical(rows, interval, after),
            StreamKind::Events => Ok(rows),
        };
        let schema = schema_of(columns);
        let gather = Gather::new(SchemaRef::clone(&schema), table.time, columns);
        let batches = stream::try_unfold(Some((rows, gather, None)), move |state| async move {
            let Some((mut rows, mut gather, mut after)) = state else { return Ok(None) };
            while gather.rows() < BATCH_ROWS {
                let Some(row) = rows.next(deadline).await? else {
                    let last = shaped(gather.finish()?, &mut after)?;
                    return Ok((last.num_rows() > 0).then_some((last, None)));
                };
                gather.take(&row)?;
            }
            let batch = shaped(gather.finish()?, &mut after)?;
            Ok(Some((batch, Some((rows, gather, after)))))
        });
        Ok(BatchStream::new(schema, Box::pin(batches)))
    }

    /// The rows of a scan, of which there are many, over exports of some windows of time each; a
    /// window that the server does not export for now comes over the wire. With a limit the first windows are
    /// short, for it may be reached in them.
    pub(crate) fn export_rows(&self, scan: Scan, (newest_first, limit): (bool, Option<u64>)) -> BatchStream {
        let (schema, windows) = (schema_of(&scan.columns), windows(&scan, newest_first, limit));
        let transport = self.clone();
        let parts = stream::iter(windows)
            .map(move |range| {
                let (transport, scan) = (transport.clone(), Scan { range, ..scan.clone() });
                async move {
                    let rows = transport.window(&scan).await?;
                    if newest_first { rows.iter().rev().map(frame::reversed).collect() } else { Ok(rows) }
                }
            })
            .buffered(if limit.is_some() { 1 } else { EXPORTS })
            .flat_map(|part: Result<Vec<RecordBatch>>| {
                let batches: BoxStream<Result<RecordBatch>> = match part {
                    Ok(batches) => Box::pin(stream::iter(batches.into_iter().map(Ok))),
                    Err(error) => Box::pin(stream::iter([Err(error)])),
                };
                batches
            });
        BatchStream::new(schema, Box::pin(parts))
    }

    async fn window(&self, scan: &Scan) -> Result<Vec<RecordBatch>> {
        let Scan { table, key, range, columns } = scan;
        // The export takes no values: the node id is a literal, the rest are numbers.
        let sql = format!(
            "select {} from {} where \"{NODE_ID}\" = {} and \"{INTERVAL}\" = {} and \"ts\" >= {} and \"ts\" < {} order by \"ts\"",
            table.select_list(columns),
            quoted(&table.name),
            literal(&stored(&key.node_id)),
            interval_number(key.interval),
            from_epoch(range.start()).0,
            from_epoch(range.end()).0,
        );
        let mut after = None;
        match self.export.rows(&sql, schema_of(columns)).await {
            Ok(batches) => {
                batches.into_iter().map(|batch| canonical(batch, key.interval, &mut after)).collect()
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::debug!(table = table.name, reason = error.chain(), "reading over the wire instead");
                let mut rows = self.wire_rows(scan, StreamKind::Bars).await?;
                let mut batches = Vec::new();
                while let Some(batch) = rows.next_batch().await {
                    batches.push(batch?);
                }
                Ok(batches)
            }
            Err(error) => Err(error.with("series", key).with("table", &table.name)),
        }
    }
}

/// A scan's range in pieces of [`WINDOW_POINTS`] grid points, in the order of the read; where a limit is given,
/// the first ones have twice as many points as rows are wanted, then more and more.
fn windows(scan: &Scan, newest_first: bool, limit: Option<u64>) -> Vec<TimeRange> {
    let mut points = limit.map_or(WINDOW_POINTS, |rows| {
        i64::try_from(rows.saturating_mul(2)).unwrap_or(WINDOW_POINTS).clamp(1_000, WINDOW_POINTS)
    });
    let mut left = Some(scan.range);
    let mut windows = Vec::new();
    while let Some(rest) = left {
        let length = scan.key.interval.as_micros().saturating_mul(points);
        let (start, end) = (rest.start(), rest.end());
        let cut =
            if newest_first { end.checked_add_micros(-length) } else { start.checked_add_micros(length) };
        let Some(cut) = cut.filter(|cut| start < *cut && *cut < end) else {
            windows.push(rest);
            break;
        };
        let (near, far) = (TimeRange::checked(start, cut), TimeRange::checked(cut, end));
        let (window, rest) = if newest_first { (far, near) } else { (near, far) };
        windows.extend(window);
        left = rest;
        points = points.saturating_mul(4).min(WINDOW_POINTS);
    }
    windows
}

/// The values of a table's filter.
pub(crate) struct Bounds<'a> {
    node_id: Cow<'a, str>,
    interval: i64,
    micros: [Micros; 2],
    seconds: [i64; 2],
    time: Time,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(table: &Table, key: &'a SeriesKey, range: TimeRange) -> Self {
        let seconds = seconds_of(range);
        Self {
            node_id: stored(&key.node_id),
            interval: interval_number(key.interval),
            micros: [from_epoch(range.start()), from_epoch(range.end())],
            seconds: [seconds.0, seconds.1],
            time: table.time,
        }
    }

    pub(crate) fn params(&self) -> [Param<'_>; 4] {
        let [from, to]: [Param<'_>; 2] = match self.time {
            Time::Designated => [&self.micros[0], &self.micros[1]],
            Time::Seconds => [&self.seconds[0], &self.seconds[1]],
        };
        [&self.node_id, &self.interval, from, to]
    }
}

/// A bound of a filter: QuestDB knows no time before 1970.
fn from_epoch(ts: Timestamp) -> Micros {
    Micros(ts.max(Timestamp::EPOCH).as_micros())
}

/// The time column alone.
pub(crate) fn ts_of(batch: &RecordBatch) -> Result<&[i64]> {
    frame::timestamps(batch)
        .map(|ts| ts.values().as_ref())
        .map_err(|e| Error::unexpected("rows of QuestDB have no time column").caused_by(e))
}

#[cfg(test)]
mod tests {
    use qmtl_history_testkit::fixtures::{key, span};

    use super::*;

    #[test]
    fn windows_are_the_range_cut_in_order() {
        let key = key("BTC", "1s");
        let table = Table { name: "t".into(), time: Time::Designated, dedup: true, columns: Vec::new() };
        let of = |count| {
            let range = span(&key, 0, count);
            let scan = Scan { table: table.clone(), key: key.clone(), range, columns: Vec::new() };
            let mut newest_first = windows(&scan, true, None);
            newest_first.reverse();
            let all = |windows: Vec<TimeRange>| windows.into_iter().collect::<qmtl_history_api::RangeSet>();
            for limit in [1, 700, 1_000_000] {
                assert_eq!(all(windows(&scan, true, Some(limit))), range.into());
                assert_eq!(all(windows(&scan, false, Some(limit))), range.into());
            }
            assert_eq!(windows(&scan, true, Some(700))[0].end(), range.end());
            assert_eq!(newest_first.len(), windows(&scan, false, None).len());
            windows(&scan, false, None)
        };
        assert_eq!(of(250_000), [span(&key, 0, 250_000)]);
        assert_eq!(
            of(550_000),
            [span(&key, 0, 250_000), span(&key, 250_000, 500_000), span(&key, 500_000, 550_000)]
        );
    }
}
