//! The reading half of a run: one window's requests, brought into form.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::frame::{self, Dropped, Normalized};
use qmtl_history_api::{
    EmptyProof, Error, ErrorKind, FetchRequest, ProgressEvent, RangeSet, Result, SeriesKey, TimeRange,
};
use qmtl_observe::metrics;
use tracing::Instrument;

use super::{COPIES, Job, batch};
use crate::budget::Share;
use crate::plan::Window;

/// Small batches that are joined into one: the answers of a window full of single holes would
/// weigh many times their rows.
const LOOSE: usize = 256;

/// What came of a window's requests.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) window: Window,
    /// Canonical, ascending and disjoint; none without rows.
    pub(super) rows: Vec<RecordBatch>,
    /// Rows that came after these, in many small batches.
    loose: Vec<RecordBatch>,
    /// Bytes of all rows.
    pub(super) bytes: u64,
    /// Where the rows stand.
    pub(super) present: RangeSet,
    pub(super) proofs: Vec<EmptyProof>,
    pub(super) dropped: Dropped,
    /// Why the window's remaining requests were not made.
    pub(super) error: Option<Error>,
    /// Held until the rows are stored or given up.
    pub(super) share: Share,
}

impl Answer {
    /// Gives up everything that was fetched.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.loose.clear();
        self.present = RangeSet::new();
        self.proofs.clear();
        self.bytes = 0;
    }

    /// True when there is nothing to store.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.proofs.is_empty()
    }

    /// Adds the rows of one request, which come after all others.
    fn add_rows(&mut self, key: &SeriesKey, rows: RecordBatch) -> Result<()> {
        self.bytes += batch::bytes(&rows);
        self.loose.push(rows);
        if self.loose.len() < LOOSE { Ok(()) } else { self.tie(key) }
    }

    /// Joins what is loose; `Schema` when the requests' answers contradict each other in a type.
    fn tie(&mut self, key: &SeriesKey) -> Result<()> {
        if !self.loose.is_empty() {
            self.rows.push(batch::join(key, &std::mem::take(&mut self.loose))?);
        }
        Ok(())
    }

    /// Where the source proved that there is no row.
    pub(super) fn empty(&self) -> impl Iterator<Item = &RangeSet> {
        self.proofs.iter().map(|proof| &proof.ranges)
    }
}

/// Adds a proof; those of one reason become one, as old as its oldest part: to believe a proof for
/// a little less long than one might is safe.
pub(super) fn add_proof(proofs: &mut Vec<EmptyProof>, proof: EmptyProof) {
    match proofs.iter_mut().find(|known| known.reason == proof.reason) {
        Some(known) => {
            known.ranges.extend(proof.ranges);
            known.answered_at = known.answered_at.min(proof.answered_at);
        }
        None => proofs.push(proof),
    }
}

impl Job<'_> {
    /// Makes a window's requests, one after another, up to the first that fails.
    pub(super) async fn fetch_window(&self, window: Window) -> Answer {
        let share = self.budget.reserve(self.estimate(&window)).await;
        let span = tracing::info_span!("backfill.window", window = %window.span());
        self.window_started(&window);
        let mut answer = Answer {
            window,
            rows: Vec::new(),
            loose: Vec::new(),
            bytes: 0,
            present: RangeSet::new(),
            proofs: Vec::new(),
            dropped: Dropped::default(),
            error: None,
            share,
        };
        if let Err(error) = self.fetch_all(&mut answer).instrument(span).await {
            // Rows that contradict the frame put the whole window in doubt; after any other
            // failure what the source gave before is as good as ever.
            if error.kind() == ErrorKind::Schema {
                answer.clear();
            }
            answer.error = Some(error);
        }
        self.budget.shrink(&mut answer.share, COPIES * answer.bytes);
        answer
    }

    async fn fetch_all(&self, answer: &mut Answer) -> Result<()> {
        let window = answer.window.clone();
        let mut outcome = Ok(());
        for range in window.requests() {
            outcome = self.fetch_range(range, answer).await;
            if outcome.is_err() {
                break;
            }
        }
        answer.tie(self.key).map_err(|clash| clash.with("source", &self.source)).and(outcome)
    }

    /// Makes one request and adds what came of it to `answer`.
    async fn fetch_range(&self, range: TimeRange, answer: &mut Answer) -> Result<()> {
        let started = self.clock.monotonic();
        self.requests.fetch_add(1, Ordering::Relaxed);
        let drained = AssertUnwindSafe(self.drain(range, answer))
            .catch_unwind()
            .instrument(tracing::info_span!("backfill.fetch", range = %range))
            .await
            .unwrap_or_else(|_| Err(Error::unexpected("the source's fetcher panicked")));
        let elapsed = self.clock.monotonic().saturating_sub(started);
        metrics::fetch_request(&self.source, drained.as_ref().map(drop).map_err(Error::kind), elapsed);
        let (batches, proven, reason) = drained.map_err(|error| self.told(error, range))?;

        let answered_at = self.clock.now();
        let Normalized { rows, dropped } = self.normalize(range, &batches)?;
        answer.dropped.add(dropped);
        metrics::rows_dropped(dropped);
        let present = frame::row_runs(self.key, &rows)?;
        let empty = proven.within(range).difference(&present).on_grid(self.key.interval);
        if !empty.is_empty() {
            add_proof(&mut answer.proofs, EmptyProof::new(self.source.clone(), empty, reason, answered_at));
        }
        let count = rows.num_rows() as u64;
        self.tell(&ProgressEvent::Fetched { window: answer.window.span(), rows: count });
        if count == 0 {
            return Ok(());
        }
        let rows = batch::owned(rows)?;
        self.row_bytes.fetch_max(batch::bytes(&rows).div_ceil(count), Ordering::Relaxed);
        answer.present.extend(present);
        answer.add_rows(self.key, rows).map_err(|clash| self.told(clash, range))
    }

    /// Reads one answer of the source to its end, as the budget allows.
    async fn drain(
        &self,
        range: TimeRange,
        answer: &mut Answer,
    ) -> Result<(Vec<RecordBatch>, RangeSet, String)> {
        let mut fetched = self.fetcher.fetch(&FetchRequest::new(self.key.clone(), range)).await?;
        let mut batches = Vec::new();
        let mut bytes = answer.bytes;
        while let Some(batch) = fetched.batches.next().await {
            let batch = batch?;
            bytes += batch::bytes(&batch);
            self.budget.grow(&mut answer.share, COPIES * bytes).await;
            batches.push(batch);
        }
        Ok((batches, fetched.proven, fetched.reason))
    }

    /// Brings rows into form, and tells those of the forming bar from others outside the request.
    fn normalize(&self, range: TimeRange, batches: &[RecordBatch]) -> Result<Normalized> {
        let mut normal =
            frame::normalize(self.key, range, batches).map_err(|error| self.told(error, range))?;
        if normal.dropped.outside > 0
            && let Some(forming) = self.forming
            && let Ok(late) = frame::normalize(self.key, forming, batches)
        {
            let rows = late.rows.num_rows() as u64 + late.dropped.total() - late.dropped.outside;
            normal.dropped.outside -= rows;
            normal.dropped.forming += rows;
        }
        Ok(normal)
    }

    fn told(&self, error: Error, range: TimeRange) -> Error {
        error.with("source", &self.source).with("request", range)
    }
}
