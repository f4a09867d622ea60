//! What sources proved, in a table of its own: a log of proofs and of what was revoked of them.
//! QuestDB deletes no rows, so a proof that is forgotten is one that a later row revokes.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, ErrorKind, RangeSet, Result, SeriesKey, SourceId, TimeRange, Timestamp,
    frame,
};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::naming::{interval_number, proofs_table, quoted, stored};
use crate::schema::{INTERVAL, NODE_ID, Table};
use crate::store::Store;
use crate::transport::{Micros, Param, Statement};

/// The column of a proof's rule, added last to a table of an older build: where it is, all are.
const RULE: &str = "rule";
/// The rule of a proof that names none, as builds that knew one rule wrote them.
const FIRST_RULE: u32 = 1;
/// What stands as the reason of a row that revokes, for people who look at the table.
const REVOKED: &str = "revoked";
/// What makes two rows the same: all that tells entries apart, so that only a request that is sent
/// twice stays once.
const KEYS: &str = "ts, node_id, interval, source, reason, range_start, range_end, written";

/// What is logged of a series' proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) count: i64,
    pub(crate) newest: i64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Proven(EmptyProof),
    /// Nothing that was proven of the range so far counts: by a source in any version, or by all.
    Revoked {
        source: Option<SourceId>,
        range: TimeRange,
    },
}

impl Entry {
    /// What a row says; `None` when that is nothing. A range that runs backwards revokes, which
    /// builds that knew no revocation pass over.
    fn of(row: &Row) -> Result<Option<Self>> {
        let ends = (row.get::<_, i64>(3), row.get::<_, i64>(4));
        let range = |start, end| {
            let (start, end) = (Timestamp::from_micros(start)?, Timestamp::from_micros(end)?);
            Ok::<_, Error>(TimeRange::checked(start, end))
        };
        let source = row.get::<_, Option<&str>>(1).map(SourceId::new).transpose()?;
        Ok(match (range(ends.0, ends.1)?, range(ends.1, ends.0)?, source) {
            (Some(range), _, Some(source)) => {
                let number = |column| row.get::<_, Option<i64>>(column).and_then(|n| u32::try_from(n).ok());
                let reason = row.get::<_, Option<&str>>(2).unwrap_or_default();
                let answered_at = Timestamp::from_micros(row.get::<_, Micros>(0).0)?;
                let proof = EmptyProof::new(source, range.into(), reason, answered_at)
                    .with_rule(number(6).unwrap_or(FIRST_RULE))
                    .with_confirmed(number(7).unwrap_or_default());
                Some(Self::Proven(proof))
            }
            (None, Some(range), source) => Some(Self::Revoked { source, range }),
            _ => None,
        })
    }

    /// Takes the next entry in where both are parts of one proof.
    fn is_joined_by(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Proven(proof), Self::Proven(next)) if proof.is_same_answer(next) => {
                proof.ranges.extend(next.ranges.iter());
                true
            }
            _ => false,
        }
    }
}

/// What is known once all entries are written, in their order.
fn folded(entries: Vec<Entry>) -> Coverage {
    let mut revoked: Vec<(Option<SourceId>, RangeSet)> = Vec::new();
    let mut left = Vec::new();
    for entry in entries.into_iter().rev() {
        match entry {
            Entry::Revoked { source, range } => revoked.push((source, range.into())),
            Entry::Proven(proof) => {
                let meant = revoked.iter().filter(|(source, _)| is_meant(source.as_ref(), &proof));
                let gone = meant.fold(RangeSet::new(), |all, (_, ranges)| all.union(ranges));
                left.push(proof.about(proof.ranges.difference(&gone)));
            }
        }
    }
    let mut coverage = Coverage::default();
    left.iter().rev().for_each(|proof| coverage.add_empty(proof));
    coverage
}

/// Whether a proof is one by this source in any version; by any source when none is named.
fn is_meant(source: Option<&SourceId>, proof: &EmptyProof) -> bool {
    source.is_none_or(|source| source.name() == proof.source.name())
}

/// A row of the log as it is written.
struct Line<'a> {
    ts: Timestamp,
    source: Option<&'a str>,
    reason: &'a str,
    start: Timestamp,
    end: Timestamp,
    written: i64,
    rule: Option<u32>,
    confirmed: Option<u32>,
}

/// The batch of these rows.
fn batch(lines: &[Line<'_>]) -> Result<RecordBatch> {
    let numbers = |of: fn(&Line<'_>) -> Option<i64>| -> ArrayRef {
        Arc::new(lines.iter().map(of).collect::<Int64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(frame::ts_array(lines.iter().map(|line| line.ts))),
        Arc::new(lines.iter().map(|line| line.source).collect::<StringArray>()),
        Arc::new(lines.iter().map(|line| Some(line.reason)).collect::<StringArray>()),
        numbers(|line| Some(line.start.as_micros())),
        numbers(|line| Some(line.end.as_micros())),
        numbers(|line| Some(line.written)),
        numbers(|line| line.rule.map(i64::from)),
        numbers(|line| line.confirmed.map(i64::from)),
    ];
    let schema = frame::schema_of([
        ("source", DataType::Utf8),
        ("reason", DataType::Utf8),
        ("range_start", DataType::Int64),
        ("range_end", DataType::Int64),
        ("written", DataType::Int64),
        (RULE, DataType::Int64),
        ("confirmed", DataType::Int64),
    ]);
    RecordBatch::try_new(schema, columns).map_err(|e| Error::unexpected("cannot log proofs").caused_by(e))
}

impl Store {
    /// Logs proofs of a series.
    pub(crate) async fn record(&self, key: &SeriesKey, proofs: &[EmptyProof]) -> Result<()> {
        let proofs: Vec<_> = proofs
            .iter()
            .map(|proof| (proof, proof.ranges.on_grid(key.interval)))
            .filter(|(_, ranges)| !ranges.is_empty())
            .collect();
        if proofs.is_empty() {
            return Ok(());
        }
        let first = self.next_number(key).await?;
        // The ranges of one proof are logged under one number.
        let numbered = (first..).zip(&proofs);
        let lines: Vec<_> = numbered
            .flat_map(|(written, (proof, ranges))| {
                ranges.iter().map(move |range| Line {
                    // QuestDB knows no time before it; an answer of then is of a clock that is wrong.
                    ts: proof.answered_at.max(Timestamp::EPOCH),
                    source: Some(proof.source.as_str()),
                    reason: &proof.reason,
                    start: range.start(),
                    end: range.end(),
                    written,
                    rule: Some(proof.rule),
                    confirmed: Some(proof.confirmed),
                })
            })
            .collect();
        self.append(key, &lines).await
    }

    /// Revokes the proofs of a range by one source and all its versions, or by all sources; with
    /// `dry_run` it only counts. The bars that were known to be empty, for each source that said so.
    pub(crate) async fn forget_empty(
        &self,
        key: &SeriesKey,
        (range, source): (TimeRange, Option<&SourceId>),
        dry_run: bool,
    ) -> Result<u64> {
        // A range is the bars that open inside of it.
        let Some(range) = range.on_grid(key.interval) else { return Ok(0) };
        let _turn = self.turn(key).await;
        let count = |coverage: &Coverage| -> u64 {
            let meant = coverage.known_empty().iter().filter(|proof| is_meant(source, proof));
            meant.map(|proof| proof.ranges.count(key.interval)).sum()
        };
        let bars = count(&self.coverage(key, range).await?);
        // What rows hide is forgotten too: they may be dropped with their partition.
        if !dry_run && count(&self.proofs(key).await?.within(range)) > 0 {
            let line = Line {
                ts: self.clock.now(),
                source: source.map(SourceId::name),
                reason: REVOKED,
                start: range.end(),
                end: range.start(),
                written: self.next_number(key).await?,
                rule: None,
                confirmed: None,
            };
            self.append(key, &[line]).await?;
        }
        Ok(bars)
    }

    /// Makes room for entries of a series, and says the number of the next one: above those of all
    /// entries so far, since the clock of another writer, or this one earlier, may have been ahead.
    async fn next_number(&self, key: &SeriesKey) -> Result<i64> {
        let (name, wire) = (proofs_table(&self.config), &self.transport.wire);
        let (table, logged) = tokio::try_join!(Table::load(wire, &name), self.logged(key))?;
        let quoted = quoted(&name);
        match table {
            None => {
                let sql = format!(
                    "CREATE TABLE IF NOT EXISTS {quoted} (ts TIMESTAMP, {NODE_ID} SYMBOL CAPACITY 256, \
                     {INTERVAL} LONG, source VARCHAR, reason VARCHAR, range_start LONG, range_end LONG, \
                     written LONG, {RULE} LONG, confirmed LONG) \
                     TIMESTAMP(ts) PARTITION BY YEAR WAL DEDUP UPSERT KEYS({KEYS})"
                );
                wire.run("make the table of proofs", &name, &sql).await?;
            }
            Some(table) if table.column(RULE).is_none() => {
                for change in [
                    format!("DEDUP ENABLE UPSERT KEYS({KEYS})"),
                    "ADD COLUMN IF NOT EXISTS confirmed LONG".to_owned(),
                    format!("ADD COLUMN IF NOT EXISTS {RULE} LONG"),
                ] {
                    let sql = format!("ALTER TABLE {quoted} {change}");
                    wire.run("widen the table of proofs", &name, &sql).await?;
                }
                self.transport.settle(&name).await?;
            }
            Some(_) => {}
        }
        let newest = logged.map_or(0, |logged| logged.newest);
        Ok(self.clock.now().as_micros().max(newest.saturating_add(1)))
    }

    /// Writes entries and returns when every reader sees them.
    async fn append(&self, key: &SeriesKey, lines: &[Line<'_>]) -> Result<()> {
        let table = proofs_table(&self.config);
        self.transport.send(&table, key, &batch(lines)?).await?;
        self.transport.settle(&table).await
    }

    /// What is known empty of a series by its log, whatever rows there are.
    pub(crate) async fn proofs(&self, key: &SeriesKey) -> Result<Coverage> {
        let rows = match self.log_of(key, "rule, confirmed").await {
            // A table that an older build made has no such columns until this one writes into it.
            Err(error) if error.kind() == ErrorKind::Schema => {
                self.log_of(key, "null::long, null::long").await
            }
            other => other,
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Coverage::default()),
            Err(error) => return Err(error),
        };
        let mut entries: Vec<(i64, Entry)> = Vec::new();
        for row in &rows {
            let Some(entry) = Entry::of(row)? else { continue };
            let number = row.get(5);
            let last = entries.last_mut().filter(|(last, _)| *last == number);
            if !last.is_some_and(|(_, last)| last.is_joined_by(&entry)) {
                entries.push((number, entry));
            }
        }
        Ok(folded(entries.into_iter().map(|(_, entry)| entry).collect()))
    }

    /// The rows of a series' log in the order in which they were written.
    async fn log_of(&self, key: &SeriesKey, told: &str) -> Result<Vec<Row>> {
        let table = proofs_table(&self.config);
        let sql = format!(
            "select ts, source, reason, range_start, range_end, written, {told} from {} \
             where {NODE_ID} = $1 and {INTERVAL} = $2 order by written, ts",
            quoted(&table)
        );
        let types = [Type::VARCHAR, Type::INT8];
        let statement = Statement { doing: "read proofs", table: &table, sql: &sql, types: &types };
        let params: [Param<'_>; 2] = [&stored(&key.node_id), &interval_number(key.interval)];
        self.transport.wire.query(statement, &params).await
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
        let params: [Param<'_>; 2] = [&stored(&key.node_id), &interval_number(key.interval)];
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

#[cfg(test)]
mod tests {
    use qmtl_history_testkit::fixtures::{bar, key, proof, source, span};

    use super::*;

    #[test]
    fn what_was_revoked_counts_no_longer_and_confirms_nothing() {
        let key = key("BTC", "1m");
        let at = |minutes: u32| bar(&key, 100 + minutes);
        let first = proof("a", span(&key, 0, 10), at(0));
        let other = proof("b", span(&key, 0, 10), at(0));
        let revoked = |id: Option<&str>, first, end| Entry::Revoked {
            source: id.map(source),
            range: span(&key, first, end),
        };
        let proven = |proof: &EmptyProof| Entry::Proven(proof.clone());
        let fold = |entries: &[Entry]| folded(entries.to_vec()).known_empty().to_vec();
        // A second answer, when the first one has expired.
        let second = proof("a", span(&key, 0, 10), at(60));
        assert_eq!(fold(&[proven(&first), proven(&second)]), [second.clone().with_confirmed(1)]);
        let some = [proven(&first), proven(&other), revoked(Some("a"), 3, 5)];
        let left = RangeSet::from(span(&key, 0, 10)).difference(&span(&key, 3, 5).into());
        assert_eq!(fold(&some), [first.about(left.clone()), other.clone()]);
        // What comes later counts, and where it repeats nothing it is no confirmation.
        let parts = [second.about(span(&key, 3, 5).into()), second.about(left).with_confirmed(1), other];
        assert_eq!(fold(&[&some[..], &[proven(&second)]].concat()), parts);
        assert_eq!(fold(&[&some[..], &[revoked(None, 0, 10)]].concat()), []);
        // One source's versions go together.
        let version = proof("f#1", span(&key, 0, 10), at(0));
        assert_eq!(fold(&[proven(&version), revoked(Some("f"), 0, 10)]), []);
        assert_eq!(fold(&[revoked(None, 0, 10), proven(&version)]), [version]);
    }

    #[test]
    fn only_parts_of_one_proof_are_joined() {
        let key = key("BTC", "1m");
        let part = |first, rule| {
            Entry::Proven(proof("a", span(&key, first, first + 1), bar(&key, 9)).with_rule(rule))
        };
        let mut entry = part(0, 2);
        assert!(entry.is_joined_by(&part(5, 2)) && !entry.is_joined_by(&part(7, 1)));
        let Entry::Proven(joined) = &entry else { panic!("{entry:?}") };
        assert_eq!(joined.ranges.count(key.interval), 2);
        let mut revoked = Entry::Revoked { source: None, range: span(&key, 0, 1) };
        assert!(!revoked.is_joined_by(&part(0, 2)));
    }
}
