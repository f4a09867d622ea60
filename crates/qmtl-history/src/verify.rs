//! The checks of `verify`: every row of a series is read, and what the store claims is compared with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{Array, Float64Array, RecordBatch};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    Coverage, EmptyProof, Error, HistoryBackend, RangeSet, ReadRequest, Result, SeriesKey, TimeRange,
    Timestamp, frame,
};

use crate::{outcome, text};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The check, a bounded word: `high_low`, `nan`, `coverage`.
    pub(crate) check: &'static str,
    /// The bar, or the first one of several.
    pub(crate) ts: Option<Timestamp>,
    /// The column.
    pub(crate) column: Option<String>,
    /// The value found.
    pub(crate) value: Option<String>,
    /// What is wrong, for people.
    pub(crate) message: String,
}

/// How a series is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// Which bars.
    pub(crate) range: TimeRange,
    /// How many findings are kept.
    pub(crate) keep: usize,
    pub(crate) now: Timestamp,
    /// The option of a command that names the store.
    pub(crate) store: &'a str,
}

/// What came of a series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Rows read.
    pub(crate) rows: u64,
    /// All findings, of which [`Verdict::findings`] holds the first.
    pub(crate) found: u64,
    /// The first findings, in the order of the rows, those about coverage and proofs last.
    pub(crate) findings: Vec<Finding>,
    /// What the next fill mends by itself.
    pub(crate) notes: Vec<Finding>,
    /// Whether the series could not be read to its end, which the last finding is about.
    pub(crate) unread: bool,
}

/// How often a series is read anew because somebody wrote to it meanwhile.
const ATTEMPTS: usize = 5;

/// Checks the bars of a series, and what was proven of it.
///
/// What cannot be read is a finding too, so that one damaged series does not hide the others.
pub(crate) async fn verify(backend: &dyn HistoryBackend, key: &SeriesKey, terms: Terms<'_>) -> Verdict {
    let mut attempt = 1;
    loop {
        let mut scan = Scan::new(key, terms);
        match scan.all(backend).await {
            Ok(was_still) if was_still || attempt == ATTEMPTS => return scan.verdict,
            Ok(_) => attempt += 1,
            Err(error) => {
                scan.report(Finding::of_error(&error));
                scan.verdict.unread = true;
                return scan.verdict;
            }
        }
    }
}

impl Verdict {
    /// Tells of every damaged file in place of the first one, where the reading ended; keeps at
    /// most `keep` findings.
    pub(crate) fn tell_files(&mut self, damaged: &[Error], keep: usize) {
        if damaged.is_empty() {
            return;
        }
        self.findings.pop_if(|finding| finding.check == READ);
        self.found += damaged.len() as u64 - 1;
        let room = keep.saturating_sub(self.findings.len());
        self.findings.extend(damaged.iter().take(room).map(Finding::of_error));
    }
}

/// The check that the files can be read.
const READ: &str = "read";

impl Finding {
    fn of_error(error: &Error) -> Self {
        Self { check: READ, ts: None, column: None, value: None, message: outcome::chain(error) }
    }
}

/// One pass over the rows of a series.
struct Scan<'a> {
    key: &'a SeriesKey,
    terms: Terms<'a>,
    verdict: Verdict,
    present: RangeSet,
    newest: Option<Timestamp>,
}

impl<'a> Scan<'a> {
    fn new(key: &'a SeriesKey, terms: Terms<'a>) -> Self {
        Self { key, terms, verdict: Verdict::default(), present: RangeSet::new(), newest: None }
    }

    fn report(&mut self, finding: Finding) {
        self.verdict.found += 1;
        if self.verdict.findings.len() < self.terms.keep {
            self.verdict.findings.push(finding);
        }
    }

    /// Reads and compares everything; false when there is a finding that somebody who wrote
    /// meanwhile may have caused.
    async fn all(&mut self, backend: &dyn HistoryBackend) -> Result<bool> {
        let range = self.terms.range;
        let before = backend.revision(self.key).await?;
        let coverage = backend.coverage(self.key, range).await?;
        let mut rows = backend.read_range(&ReadRequest::new(self.key.clone(), range)).await?;
        while let Some(batch) = rows.next_batch().await {
            let batch = batch?;
            let mut found = self.times(&batch)?;
            found.extend(numbers(&batch));
            found.extend(candles(&batch)?);
            // Stable: findings about one bar stay in the order of the checks.
            found.sort_by_key(|finding| finding.ts);
            found.into_iter().for_each(|finding| self.report(finding));
            self.verdict.rows += batch.num_rows() as u64;
        }
        self.compare(&coverage);
        self.doubt(&coverage);
        Ok(self.verdict.found == 0 || backend.revision(self.key).await? == before)
    }

    /// Order, duplicates, grid.
    fn times(&mut self, batch: &RecordBatch) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        let interval = self.key.interval;
        for micros in frame::timestamps(batch)?.values() {
            let ts = Timestamp::from_micros(*micros)?;
            let wrong = match self.newest {
                Some(newest) if ts == newest => Some(("duplicate", "the time stands twice")),
                Some(newest) if ts < newest => Some(("order", "the row is older than the one before it")),
                _ if !interval.is_on_grid(ts) => Some(("grid", "no bar of the interval opens at this time")),
                _ => None,
            };
            if let Some((check, message)) = wrong {
                found.push(Finding {
                    check,
                    ts: Some(ts),
                    column: Some(frame::TS.to_owned()),
                    value: Some(ts.to_string()),
                    message: message.to_owned(),
                });
            }
            let end = ts.checked_add_micros(interval.as_micros()).unwrap_or(Timestamp::MAX);
            if let Some(bar) = TimeRange::checked(ts, end).filter(|_| interval.is_on_grid(ts)) {
                self.present.insert(bar);
            }
            self.newest = self.newest.max(Some(ts));
        }
        Ok(found)
    }

    /// What the store claims against what was read.
    fn compare(&mut self, coverage: &Coverage) {
        let claimed = coverage.present().on_grid(self.key.interval);
        let empty =
            coverage.known_empty().iter().fold(RangeSet::new(), |all, proof| all.union(&proof.ranges));
        let read = std::mem::take(&mut self.present).on_grid(self.key.interval);
        for (ranges, check, message) in [
            (claimed.difference(&read), "coverage", "the coverage claims rows that are not there"),
            (read.difference(&claimed), "coverage", "rows are there that the coverage does not know of"),
            (read.intersection(&empty), "known_empty", "rows are where a source proved that there are none"),
        ] {
            for (first, last) in ranges.inclusive(self.key.interval) {
                self.report(Finding {
                    check,
                    ts: Some(first),
                    column: None,
                    value: Some(format!("{first}..={last}")),
                    message: message.to_owned(),
                });
            }
        }
    }

    /// What sources proved and nobody believes, by source: a finding where a clock was wrong, a note
    /// where an older rule decided, since the next fill asks once more.
    fn doubt(&mut self, coverage: &Coverage) {
        let mut doubtful: BTreeMap<(&str, &str), EmptyProof> = BTreeMap::new();
        for proof in coverage.known_empty() {
            let check = match (proof.is_ahead_of(self.terms.now), proof.is_by_trusted_rule()) {
                (true, _) => FUTURE,
                (false, false) => OLDER_RULE,
                (false, true) => continue,
            };
            let all = doubtful.entry((check, proof.source.name())).or_insert_with(|| proof.clone());
            all.ranges = all.ranges.union(&proof.ranges);
            all.answered_at = all.answered_at.max(proof.answered_at);
        }
        for ((check, source), proof) in doubtful {
            let interval = self.key.interval;
            let Some(span) = proof.ranges.span().filter(|span| span.count(interval) > 0) else { continue };
            let (bars, range) =
                (text::counted(proof.ranges.count(interval), "bar"), text::range(span, interval));
            let forget = format!(
                "qmtl-history forget-empty {} {} {} {} {}",
                self.terms.store,
                text::option("--node", self.key.node_id.as_str()),
                text::option("--interval", &interval.to_string()),
                text::option("--range", &range),
                text::option("--from", proof.source.as_str()),
            );
            let message = if check == FUTURE {
                format!(
                    "the proof by {source} about {bars} is dated {}, in the future: a clock was wrong, so it is \
                     ignored; to remove it: {forget}",
                    proof.answered_at
                )
            } else {
                format!(
                    "the proof by {source} about {bars} was made under an older rule and is ignored; run the backfill \
                     again to renew it, or remove it: {forget}"
                )
            };
            let ts = span.bounds(interval).map(|(first, _)| first);
            let finding = Finding { check, ts, column: None, value: Some(range), message };
            if check == FUTURE { self.report(finding) } else { self.verdict.notes.push(finding) }
        }
    }
}

/// The check that no clock dated a proof after now.
const FUTURE: &str = "proof_from_the_future";
/// The check that proofs were decided by the rule of now.
const OLDER_RULE: &str = "proof_of_an_older_rule";

/// NaN and infinities of every column of doubles.
fn numbers(batch: &RecordBatch) -> Vec<Finding> {
    let mut found = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let Some(values) = column.as_primitive_opt::<Float64Type>() else { continue };
        for (row, value) in values.iter().enumerate() {
            let (check, message) = match value {
                Some(value) if value.is_nan() => {
                    ("nan", "not a number (NaN); whatever is computed from it is NaN too")
                }
                Some(value) if value.is_infinite() => ("infinite", "not finite"),
                _ => continue,
            };
            let value = value.map(|value| value.to_string());
            found.push(at((batch, row), check, (field.name(), value), message.to_owned()));
        }
    }
    found
}

/// High is not below low; open and close lie between them.
fn candles(batch: &RecordBatch) -> Result<Vec<Finding>> {
    let (Some(high), Some(low)) = (price(batch, "high")?, price(batch, "low")?) else {
        return Ok(Vec::new());
    };
    let ends = [("open", price(batch, "open")?), ("close", price(batch, "close")?)];
    let mut found = Vec::new();
    for row in 0..batch.num_rows() {
        let value = |prices: &Float64Array| prices.is_valid(row).then(|| prices.value(row));
        let (Some(top), Some(bottom)) = (value(&high), value(&low)) else { continue };
        if top < bottom {
            let message = format!("high is below low, which is {bottom}");
            found.push(at((batch, row), "high_low", ("high", Some(top.to_string())), message));
            continue;
        }
        for (name, prices) in &ends {
            if let Some(price) = prices.as_ref().and_then(value).filter(|p| *p < bottom || *p > top) {
                let message = format!("{name} lies outside low to high, {bottom} to {top}");
                found.push(at((batch, row), "open_close", (name, Some(price.to_string())), message));
            }
        }
    }
    Ok(found)
}

/// A finding about one value.
fn at(
    (batch, row): (&RecordBatch, usize),
    check: &'static str,
    (column, value): (&str, Option<String>),
    message: String,
) -> Finding {
    let ts = frame::timestamps(batch).ok().and_then(|ts| Timestamp::from_micros(ts.value(row)).ok());
    Finding { check, ts, column: Some(column.to_owned()), value, message }
}

/// The numbers of a column called `name` in any case, when it has such.
fn price(batch: &RecordBatch, name: &str) -> Result<Option<Float64Array>> {
    let schema = batch.schema();
    let Some(index) = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name)) else {
        return Ok(None);
    };
    let column = Arc::clone(batch.column(index));
    if !column.data_type().is_numeric() {
        return Ok(None);
    }
    cast(&column, &DataType::Float64)
        .map(|column| Some(column.as_primitive::<Float64Type>().clone()))
        .map_err(|e| Error::unexpected("cannot read the column as numbers").with("column", name).caused_by(e))
}

#[cfg(test)]
mod tests;
