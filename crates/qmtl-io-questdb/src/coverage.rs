//! Where rows are: the server finds the holes, and what it found in a partition is believed while
//! the partition stays as it is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::{
    Coverage, Interval, RangeSet, Result, SeriesKey, StreamKind, TimeRange, Timestamp, frame,
};

use crate::naming::{literal, quoted};
use crate::schema::{Table, Time};
use crate::store::Store;
use crate::transport::{Bounds, Micros, Scan, Statement};

/// Up to so many grid points are one question, whatever is remembered.
const QUESTION_POINTS: u64 = 250_000;
/// Rows that one question looks through, and questions of one answer at once: the server's search
/// for holes is one thread's work.
const QUESTION_ROWS: i64 = 500_000;
const QUESTIONS: usize = 2;
/// Series whose partitions are remembered at most.
const REMEMBERED: usize = 1_024;

/// The rows of a range: how many, the first and the last.
pub(crate) struct Extent {
    pub(crate) count: i64,
    first: Timestamp,
    last: Timestamp,
}

impl Extent {
    /// From the first row to just behind the last one.
    pub(crate) fn range(&self) -> Option<TimeRange> {
        TimeRange::checked(self.first, self.last.checked_add_micros(1)?)
    }
}

/// What the server says of a partition. Rows are only ever added to one, or it is dropped whole: one
/// that looks the same has the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Partition {
    first: i64,
    last: i64,
    rows: i64,
}

impl Partition {
    fn touches(self, range: TimeRange) -> bool {
        span(self.first, self.last).is_some_and(|span| span.intersect(range).is_some())
    }

    /// The bars that open in it.
    fn bars(self, interval: Interval) -> Option<TimeRange> {
        span(self.first, self.last)?.on_grid(interval)
    }
}

/// The bars of partitions, as they were when the partitions looked so.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashMap<SeriesKey, HashMap<Partition, RangeSet>>>);

impl Remembered {
    fn of(&self, key: &SeriesKey) -> HashMap<Partition, RangeSet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    fn put(&self, key: &SeriesKey, partitions: HashMap<Partition, RangeSet>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED && !all.contains_key(key) {
            all.clear();
        }
        all.insert(key.clone(), partitions);
    }
}

impl Store {
    pub(crate) async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        // Proofs before rows: a row that arrives in between wins over them.
        let (mut coverage, table) = tokio::try_join!(self.proofs(key), self.table(&key.node_id))?;
        let Some(table) = table else { return Ok(coverage.within(range)) };
        // A bar that opens before the range and ends inside it counts for the part inside.
        let first = key.interval.floor(range.start()).unwrap_or(range.start());
        let around = TimeRange::checked(first, range.end()).unwrap_or(range);
        coverage.add_present(&self.present_in(&table, key, around).await?);
        Ok(coverage.within(range))
    }

    /// Where the rows of a series are.
    pub(crate) async fn present_in(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<RangeSet> {
        if table.time == Time::Seconds || !table.dedup {
            let scan = Scan { table: table.clone(), key: key.clone(), range, columns: Vec::new() };
            return runs(key, self.transport.wire_rows(&scan, StreamKind::Bars).await?).await;
        }
        if range.count(key.interval) <= QUESTION_POINTS {
            return self.by_lag(table, key, range).await;
        }
        // Partitions first: one that changes while it is looked at looks another way next time.
        let partitions = self.partitions(&table.name).await?;
        let asked: Vec<_> = partitions.iter().copied().filter(|partition| partition.touches(range)).collect();
        let remembered = self.remembered.of(key);
        let bars: HashMap<_, _> = stream::iter(questions(&asked, &remembered))
            .map(|question| async move { self.ask(table, key, &question).await })
            .buffered(QUESTIONS)
            .try_fold(HashMap::new(), |mut all, answer| async move {
                all.extend(answer);
                Ok(all)
            })
            .await?;
        let of = |partition: &Partition| bars.get(partition).or_else(|| remembered.get(partition)).cloned();
        let now: HashMap<_, _> = partitions.iter().filter_map(|p| Some((*p, of(p)?))).collect();
        let mut present = RangeSet::new();
        asked.iter().filter_map(|p| now.get(p)).for_each(|bars| present.extend(bars.iter()));
        self.remembered.put(key, now);
        Ok(range.on_grid(key.interval).map_or_else(RangeSet::new, |range| present.within(range)))
    }

    /// The partitions of a table that have rows, by time.
    async fn partitions(&self, table: &str) -> Result<Vec<Partition>> {
        let sql = format!(
            "select minTimestamp, maxTimestamp, numRows from table_partitions({}) where attached",
            literal(table)
        );
        let statement = Statement { doing: "list partitions", table, sql: &sql, types: &[] };
        let rows = self.transport.wire.query(statement, &[]).await?;
        let partition = |row: &tokio_postgres::Row| {
            let at = |column| row.get::<_, Option<Micros>>(column).map(|at| at.0);
            Some(Partition { first: at(0)?, last: at(1)?, rows: row.get(2) })
        };
        let mut partitions: Vec<_> = rows.iter().filter_map(partition).collect();
        partitions.sort_unstable_by_key(|partition| partition.first);
        Ok(partitions)
    }

    /// The bars of neighbouring partitions.
    async fn ask(
        &self,
        table: &Table,
        key: &SeriesKey,
        partitions: &[Partition],
    ) -> Result<Vec<(Partition, RangeSet)>> {
        let ends = partitions.first().zip(partitions.last());
        let Some(range) = ends.and_then(|(first, last)| span(first.first, last.last)) else {
            return Ok(Vec::new());
        };
        let present = self.by_lag(table, key, range).await?;
        let within = |partition: &Partition| {
            let bars = partition.bars(key.interval);
            (*partition, bars.map_or_else(RangeSet::new, |bars| present.within(bars)))
        };
        Ok(partitions.iter().map(within).collect())
    }

    /// The rows of a range; `None` when there is none.
    pub(crate) async fn extent(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
    ) -> Result<Option<Extent>> {
        let sql = format!(
            "select count(), min(\"ts\"), max(\"ts\") from {} where {}",
            quoted(&table.name),
            table.filter()
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
    async fn by_lag(&self, table: &Table, key: &SeriesKey, range: TimeRange) -> Result<RangeSet> {
        let Some(last) = self.last(table, key, range, "").await? else { return Ok(RangeSet::new()) };
        let starts = self.starts(table, key, range, "").await?;
        let is_on_grid = |start: &(Timestamp, Option<Timestamp>)| key.interval.is_on_grid(start.0);
        if starts.iter().all(is_on_grid) {
            // From bar to bar it is one interval, so every row of a run is on the grid as its first is.
            return Ok(between(&starts, last, key.interval));
        }
        let on_grid = on_grid(key.interval);
        let Some(last) = self.last(table, key, range, &on_grid).await? else { return Ok(RangeSet::new()) };
        Ok(between(&self.starts(table, key, range, &on_grid).await?, last, key.interval))
    }

    /// The last row of a range that fulfils a condition.
    async fn last(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
        condition: &str,
    ) -> Result<Option<Timestamp>> {
        let sql = format!(
            "select \"ts\" from {} where {} {condition} order by \"ts\" desc limit 1",
            quoted(&table.name),
            table.filter()
        );
        let types = table.filter_types();
        let statement =
            Statement { doing: "find the last row", table: &table.name, sql: &sql, types: &types };
        let bounds = Bounds::new(table, key, range);
        let rows = self.transport.wire.query(statement, &bounds.params()).await?;
        rows.first().map(|row| Timestamp::from_micros(row.get::<_, Micros>(0).0)).transpose()
    }

    /// The first row of every run of a range, and the row before it; both fulfil a condition.
    async fn starts(
        &self,
        table: &Table,
        key: &SeriesKey,
        range: TimeRange,
        condition: &str,
    ) -> Result<Vec<(Timestamp, Option<Timestamp>)>> {
        let sql = format!(
            "select ts, p from (select \"ts\" ts, lag(\"ts\") over (order by \"ts\") p from {} where {} {condition}) \
             where p is null or ts - p <> {}",
            quoted(&table.name),
            table.filter(),
            key.interval.as_micros()
        );
        let types = table.filter_types();
        let statement = Statement { doing: "find holes", table: &table.name, sql: &sql, types: &types };
        let bounds = Bounds::new(table, key, range);
        let rows = self.transport.wire.query(statement, &bounds.params()).await?;
        rows.iter()
            .map(|row| {
                let before = row.get::<_, Option<Micros>>(1);
                let before = before.map(|before| Timestamp::from_micros(before.0)).transpose()?;
                Ok((Timestamp::from_micros(row.get::<_, Micros>(0).0)?, before))
            })
            .collect()
    }
}

/// Neighbouring partitions that are not remembered, in questions of some rows each.
fn questions(partitions: &[Partition], remembered: &HashMap<Partition, RangeSet>) -> Vec<Vec<Partition>> {
    let mut questions = Vec::new();
    let (mut question, mut rows) = (Vec::new(), 0);
    for partition in partitions {
        let is_known = remembered.contains_key(partition);
        if is_known || rows + partition.rows > QUESTION_ROWS {
            questions.push(std::mem::take(&mut question));
            rows = 0;
        }
        if !is_known {
            question.push(*partition);
            rows += partition.rows;
        }
    }
    questions.push(question);
    questions.retain(|question| !question.is_empty());
    questions
}

/// From the first microsecond to just behind the last one.
fn span(first: i64, last: i64) -> Option<TimeRange> {
    let at = |micros| Timestamp::from_micros(micros).ok();
    TimeRange::checked(at(first)?, at(last)?.checked_add_micros(1)?)
}

/// The runs that start so, the last of which ends with `last`.
fn between(starts: &[(Timestamp, Option<Timestamp>)], last: Timestamp, interval: Interval) -> RangeSet {
    let ends = starts.iter().skip(1).filter_map(|(_, before)| *before).chain([last]);
    let run = |(first, last)| TimeRange::checked(first, interval.next(last).unwrap_or(Timestamp::MAX));
    starts.iter().map(|(first, _)| *first).zip(ends).filter_map(run).collect()
}

/// Whether a row stands on the interval's grid. Rows of ours do; another writer's may not.
fn on_grid(interval: Interval) -> String {
    format!("and (\"ts\" - {}) % {} = 0", interval.origin().as_micros(), interval.as_micros())
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
    use qmtl_history_testkit::fixtures::{bar, key, span};

    use super::*;

    #[test]
    fn weeks_start_on_mondays() {
        assert_eq!(on_grid("1m".parse().unwrap()), "and (\"ts\" - 0) % 60000000 = 0");
        assert_eq!(on_grid("1w".parse().unwrap()), "and (\"ts\" - 345600000000) % 604800000000 = 0");
    }

    #[test]
    fn a_question_has_neighbours_that_nobody_remembers_and_a_bounded_number_of_rows() {
        let partition = |first, rows| Partition { first, last: first + 9, rows };
        let all: Vec<_> = [200_000, 200_000, 120_000, 10, 600_000, 1]
            .iter()
            .zip(0..)
            .map(|(r, n)| partition(n * 10, *r))
            .collect();
        let of = |remembered: &[Partition]| {
            let remembered = remembered.iter().map(|p| (*p, RangeSet::new())).collect();
            let firsts = |question: Vec<Partition>| question.iter().map(|p| p.first / 10).collect::<Vec<_>>();
            questions(&all, &remembered).into_iter().map(firsts).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        assert_eq!(of(&all[1..3]), [vec![0], vec![3], vec![4], vec![5]]);
        assert_eq!(of(&[partition(0, 199_999)]), of(&[]), "it looks another way now");
        assert_eq!(of(&all), Vec::<Vec<i64>>::new());
    }

    #[test]
    fn runs_lie_between_a_start_and_the_row_before_the_next_one() {
        let key = key("BTC", "1m");
        let at = |index| bar(&key, index);
        let starts = [(at(0), None), (at(5), Some(at(2))), (at(9), Some(at(5)))];
        let runs = between(&starts, at(11), key.interval);
        assert_eq!(runs, [span(&key, 0, 3), span(&key, 5, 6), span(&key, 9, 12)].into_iter().collect());
    }

    #[test]
    fn a_partition_has_the_bars_that_open_in_it() {
        let key = key("BTC", "1m");
        let ends = (bar(&key, 0).as_micros() + 1, bar(&key, 3).as_micros() + 5);
        let partition = Partition { first: ends.0, last: ends.1, rows: 2 };
        assert_eq!(partition.bars(key.interval), Some(span(&key, 1, 4)));
        assert!(partition.touches(span(&key, 0, 1)) && partition.touches(span(&key, 3, 9)));
        assert!(!partition.touches(span(&key, 4, 9)), "nothing there is asked about");
    }
}
