//! Where rows are: counted on the server, and looked at only where the count leaves a doubt.

use futures::StreamExt;
use qmtl_history_api::{Coverage, Interval, RangeSet, Result, SeriesKey, TimeRange, Timestamp, frame};

use crate::naming::quoted;
use crate::schema::{Table, Time};
use crate::store::Store;
use crate::transport::{Bounds, Micros, Scan, Statement};

/// Up to so many rows the server finds the holes itself; beyond, their times come over the export
/// and are looked at here, which is faster.
const LAG_ROWS: i64 = 100_000;

/// The rows of a range on the grid: how many, the first and the last.
pub(crate) struct Extent {
    pub(crate) count: i64,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

impl Extent {
    /// From the first row to just behind the last one.
    pub(crate) fn range(&self) -> Option<TimeRange> {
        TimeRange::checked(self.first, self.last.checked_add_micros(1)?)
    }

    fn is_without_holes(&self, interval: Interval) -> bool {
        let bars = (self.last.as_micros() - self.first.as_micros()) / interval.as_micros() + 1;
        bars == self.count
    }
}

impl Store {
    pub(crate) async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        // Proofs first: a row that arrives in between wins over them.
        let mut coverage = self.proofs(key).await?;
        // A bar that opens before the range and ends inside it counts for the part inside.
        let first = key.interval.floor(range.start()).unwrap_or(range.start());
        let around = TimeRange::checked(first, range.end()).unwrap_or(range);
        coverage.add_present(&self.present(key, around).await?);
        Ok(coverage.within(range))
    }

    /// Where the rows of a series are.
    pub(crate) async fn present(&self, key: &SeriesKey, range: TimeRange) -> Result<RangeSet> {
        match self.table(&key.node_id).await? {
            Some(table) => self.present_in(table, key, range).await,
            None => Ok(RangeSet::new()),
        }
    }

    pub(crate) async fn present_in(
        &self,
        table: Table,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<RangeSet> {
        if table.time == Time::Seconds || !table.dedup {
            let scan = Scan { table, key: key.clone(), range, columns: Vec::new() };
            return runs(key, self.transport.wire_rows(&scan).await?).await;
        }
        let Some(extent) = self.extent(&table, key, range).await? else { return Ok(RangeSet::new()) };
        let Some(rows) = extent.range() else { return Ok(RangeSet::new()) };
        if extent.is_without_holes(key.interval) {
            return Ok(run(extent.first, extent.last, key.interval).into_iter().collect());
        }
        if extent.count <= LAG_ROWS {
            return self.by_lag(&table, key, rows, &extent).await;
        }
        let scan = Scan { table, key: key.clone(), range: rows, columns: Vec::new() };
        runs(key, self.transport.export_rows(scan)).await
    }

    /// The rows of a range that stand on the grid; `None` when there is none.
    pub(crate) async fn extent(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<Option<Extent>> {
        let sql = format!(
            "select count(), min(\"ts\"), max(\"ts\") from {} where {} and {}",
            quoted(&table.name),
            table.filter(),
            on_grid(key.interval)
        );
        let types = table.filter_types();
        let statement = Statement { doing: "count rows", table: &table.name, sql: &sql, types: &types };
        let bounds = Bounds::new(table, key, range);
        let rows = self.transport.wire.query(statement, &bounds.params()).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (count, first, last) =
            (row.get(0), row.get::<_, Option<Micros>>(1), row.get::<_, Option<Micros>>(2));
        match (first, last) {
            (Some(first), Some(last)) => Ok(Some(Extent {
                count,
                first: Timestamp::from_micros(first.0)?,
                last: Timestamp::from_micros(last.0)?,
            })),
            _ => Ok(None),
        }
    }

    /// The runs of rows between the holes, which the server finds.
    async fn by_lag(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
        extent: &Extent,
    ) -> Result<RangeSet> {
        let sql = format!(
            "select ts, p from (select \"ts\" ts, lag(\"ts\") over (order by \"ts\") p from {} where {} and {}) \
             where p is null or ts - p <> {}",
            quoted(&table.name),
            table.filter(),
            on_grid(key.interval),
            key.interval.as_micros()
        );
        let types = table.filter_types();
        let statement = Statement { doing: "find holes", table: &table.name, sql: &sql, types: &types };
        let bounds = Bounds::new(table, key, range);
        let rows = self.transport.wire.query(statement, &bounds.params()).await?;
        let mut starts = Vec::with_capacity(rows.len());
        let mut ends = Vec::with_capacity(rows.len());
        for row in &rows {
            starts.push(Timestamp::from_micros(row.get::<_, Micros>(0).0)?);
            if let Some(end) = row.get::<_, Option<Micros>>(1) {
                ends.push(Timestamp::from_micros(end.0)?);
            }
        }
        ends.push(extent.last);
        Ok(starts.into_iter().zip(ends).filter_map(|(first, last)| run(first, last, key.interval)).collect())
    }
}

/// The bars from `first` to `last`.
fn run(first: Timestamp, last: Timestamp, interval: Interval) -> Option<TimeRange> {
    TimeRange::checked(first, interval.next(last).unwrap_or(Timestamp::MAX))
}

/// Whether a row stands on the interval's grid. Rows of ours do; another writer's may not.
fn on_grid(interval: Interval) -> String {
    let origin = interval.ceil(Timestamp::MIN).map_or(0, Timestamp::as_micros);
    format!("(\"ts\" - {origin}) % {} = 0", interval.as_micros())
}

async fn runs(key: &SeriesKey, mut rows: qmtl_history_api::BatchStream) -> Result<RangeSet> {
    let mut present = RangeSet::new();
    while let Some(batch) = StreamExt::next(&mut rows).await {
        present.extend(frame::row_runs(key, &batch?)?);
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_start_on_mondays() {
        assert_eq!(on_grid("1m".parse().unwrap()), "(\"ts\" - 0) % 60000000 = 0");
        assert_eq!(on_grid("1w".parse().unwrap()), "(\"ts\" - 345600000000) % 604800000000 = 0");
    }
}
