//! Reading stored bars once more, because exchanges revise them.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch};
use qmtl_history_api::frame::{self, Conflict};
use qmtl_history_api::{
    DataFetcher, Error, ErrorKind, FetchRequest, HistoryBackend, HistoryBackendExt, OnConflict, RangeSet,
    ReadRequest, Result, Retry, RetrySink, SeriesKey, SourceId, StopSignal, TimeRange, Timestamp, Wait,
    WriteRequest,
};
use tokio::sync::mpsc;

use super::{FetcherBackfillStrategy, batch};
use crate::{absence, plan};

/// What reading stored bars once more has shown.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Reread {
    /// The bars that the source has given as final: at least its publish lag after their close. What it did
    /// not give is not among them.
    pub checked: RangeSet,
    /// When it answered, by the earlier of its clock and ours; `None` when it was not asked.
    pub as_of: Option<Timestamp>,
    /// The rows that differed and were replaced, with the first column that did: `kept` is what was
    /// stored, `other` what is stored now.
    pub revised: Vec<Conflict>,
}

impl FetcherBackfillStrategy {
    /// Reads the bars of `given`, the canonical rows that `source` gave before, once more from it, and replaces
    /// the stored rows that differ, each by its own later version.
    ///
    /// A stored row that is not the given one any more is somebody else's and stays. Bars that the source may still
    /// change are left for later, and so are those that it no longer has. Once `stop` is given it asks nothing more,
    /// and says what it has looked at by then.
    /// Nothing waits for a second look: a request that its source would make again, or hold back, is given up.
    ///
    /// Errors: `NotFound` for a source that this strategy does not have; that of a request which was given up; else
    /// those of the source and of the store.
    pub async fn reread(
        &self,
        key: &SeriesKey,
        (source, given): (&SourceId, &RecordBatch),
        backend: &dyn HistoryBackend,
        stop: &StopSignal,
    ) -> Result<Reread> {
        let fetcher = self.stand_ins.iter().chain(&self.fetchers).find(|own| own.source_id() == *source);
        let fetcher = fetcher.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the strategy has no such source").with("source", source)
        })?;
        let mut reread = Reread::default();
        let bars = frame::row_runs(key, given)?;
        for piece in plan::pieces(&bars, key.interval, fetcher.limits().max_rows) {
            let Some(range) = piece.span() else { continue };
            let (rows, as_of) = tokio::select! {
                biased;
                () = stop.stopped() => break,
                answer = self.rows_now(key, &**fetcher, range) => answer?,
            };
            reread.as_of = reread.as_of.into_iter().chain([as_of]).min();
            let wait = key.interval.duration() + self.config.profile_of(&**fetcher).publish_lag;
            let rows = batch::within(&rows, &absence::opened_by(as_of, wait, &piece))?;
            let stored = backend.read_all(&ReadRequest::new(key.clone(), range)).await?;
            let rows = batch::named_as_stored(&rows, &stored.schema());
            reread.checked = reread.checked.union(&frame::row_runs(key, &rows)?);
            let others: RangeSet = others_in(key, (&stored, given))?;
            let rows = batch::within(&rows, &RangeSet::from(range).difference(&others))?;
            let revised = frame::differences(&stored, &rows)?;
            if !revised.is_empty() {
                let points = revised.iter().map(|row| row.ts);
                let points = RangeSet::from_sorted_points(points, key.interval);
                let newer = with_newer(&batch::within(&stored, &points)?, &batch::within(&rows, &points)?)?;
                let write = WriteRequest::new(key.clone()).with_on_conflict(OnConflict::Replace);
                backend.write_rows(&write, newer).await?;
            }
            reread.revised.extend(revised);
        }
        Ok(reread)
    }

    /// The rows of `range` as the source has them now, and when that is.
    async fn rows_now(
        &self,
        key: &SeriesKey,
        fetcher: &dyn DataFetcher,
        range: TimeRange,
    ) -> Result<(RecordBatch, Timestamp)> {
        let asked_at = self.clock.now();
        let (sink, mut given_up) = mpsc::unbounded_channel();
        let rules = self.config.profile_of(fetcher).rules;
        let request = FetchRequest::new(key.clone(), rules.asked(range, key.interval))
            .with_begun_by(Some(range.start()))
            .with_retries(Arc::new(Impatient(sink)));
        let answer = async {
            let mut fetched = fetcher.fetch(&request).await?;
            let mut batches = Vec::new();
            while let Some(batch) = fetched.batches.next_batch().await {
                batches.push(batch?);
            }
            Ok((batches, fetched.as_of))
        };
        let (batches, as_of) = tokio::select! {
            biased;
            answer = answer => answer,
            // The request holds the sender until it is dropped.
            Some(error) = given_up.recv() => Err(error),
        }?;
        let dated = absence::dated(as_of, (asked_at, self.clock.now()));
        Ok((frame::normalize_by(key, range, &batches, rules)?.rows, dated))
    }
}

/// Hears of the first reason for which a request is made again or waits.
#[derive(Debug)]
struct Impatient(mpsc::UnboundedSender<Error>);

impl RetrySink for Impatient {
    fn on_retry(&self, _: TimeRange, retry: Retry) {
        // Nobody listens any more when the request has been given up.
        let _ = self.0.send(retry.error.unwrap_or_else(|| Error::unavailable(retry.reason)));
    }

    fn on_wait(&self, _: TimeRange, wait: Wait) {
        let _ = self.0.send(wait.error());
    }
}

/// Where `stored` has another row than `ours`, which somebody else has put there.
pub(super) fn others_in(key: &SeriesKey, (stored, ours): (&RecordBatch, &RecordBatch)) -> Result<RangeSet> {
    let points = frame::differences(stored, ours)?.into_iter().map(|row| row.ts);
    Ok(RangeSet::from_sorted_points(points, key.interval))
}

/// `stored` with the columns that `newer`, which has the same times, has of them.
fn with_newer(stored: &RecordBatch, newer: &RecordBatch) -> Result<RecordBatch> {
    let schema = stored.schema();
    let columns = schema.fields().iter().zip(stored.columns()).map(|(field, column)| {
        let given =
            newer.column_by_name(field.name()).filter(|given| given.data_type() == column.data_type());
        Arc::clone(given.unwrap_or(column))
    });
    let columns: Vec<ArrayRef> = columns.collect();
    RecordBatch::try_new(stored.schema(), columns)
        .map_err(|e| Error::unexpected("cannot put a revised row together").caused_by(e))
}
