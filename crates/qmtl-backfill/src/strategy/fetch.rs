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

use super::{COPIES, Job, Source, batch};
use crate::budget::Share;
use crate::plan::{self, Window};

/// Small batches that are joined into one: the answers of a window full of single holes would
/// weigh many times their rows.
const LOOSE: usize = 256;

/// What came of a window's requests.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) window: Window,
    /// Canonical, ascending and disjoint; none without rows.
    pub(super) rows: Vec<RecordBatch>,
    /// Bytes of all rows.
    pub(super) bytes: u64,
    /// What each source gave that was asked.
    pub(super) parts: Vec<Part>,
    pub(super) dropped: Dropped,
    /// Why bars of the window were not told of by a source that was to be asked for them.
    pub(super) error: Option<Error>,
    /// Held until the rows are stored or given up.
    pub(super) share: Share,
}

/// What one source gave for a window.
#[derive(Debug)]
pub(super) struct Part {
    /// Its place among the sources.
    pub(super) source: usize,
    /// Where its rows stand.
    pub(super) present: RangeSet,
    pub(super) proofs: Vec<EmptyProof>,
    /// What it was asked for and answered.
    answered: RangeSet,
    rows: Vec<RecordBatch>,
    /// Rows that came after these, in many small batches.
    loose: Vec<RecordBatch>,
    bytes: u64,
}

impl Answer {
    fn new(window: Window, share: Share) -> Self {
        let (rows, parts) = (Vec::new(), Vec::new());
        Self { window, rows, bytes: 0, parts, dropped: Dropped::default(), error: None, share }
    }

    /// Gives up everything that was fetched.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// True when there is nothing to store.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.proofs().next().is_none()
    }

    pub(super) fn proofs(&self) -> impl Iterator<Item = &EmptyProof> {
        self.parts.iter().flat_map(|part| &part.proofs)
    }

    /// Where rows stand.
    pub(super) fn present(&self) -> RangeSet {
        self.parts.iter().fold(RangeSet::new(), |all, part| all.union(&part.present))
    }

    /// Grid points where a row stands or a source proved that it has none.
    pub(super) fn settled(&self) -> RangeSet {
        self.proofs().fold(self.present(), |all, proof| all.union(&proof.ranges))
    }

    /// Brings the rows of all sources together; a proof says nothing where another source had a row.
    fn assemble(&mut self, key: &SeriesKey) -> Result<()> {
        let present = self.present();
        let is_one = self.parts.iter().filter(|part| !part.present.is_empty()).count() <= 1;
        for part in &mut self.parts {
            part.tie(key)?;
            self.rows.append(&mut part.rows);
            if !is_one {
                part.proofs.iter_mut().for_each(|proof| proof.ranges = proof.ranges.difference(&present));
                part.proofs.retain(|proof| !proof.ranges.is_empty());
            }
        }
        self.bytes = self.parts.iter().map(|part| part.bytes).sum();
        if !is_one {
            let rows = std::mem::take(&mut self.rows);
            let joined = batch::join(key, &rows)?;
            self.rows = vec![frame::normalize(key, self.window.span(), &[joined])?.rows];
        }
        Ok(())
    }
}

impl Part {
    fn new(source: usize) -> Self {
        Self {
            source,
            present: RangeSet::new(),
            proofs: Vec::new(),
            answered: RangeSet::new(),
            rows: Vec::new(),
            loose: Vec::new(),
            bytes: 0,
        }
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
}

/// Adds a proof; those of one source and reason become one, as old as its oldest part: to believe a proof for
/// a little less long than one might is safe.
pub(super) fn add_proof(proofs: &mut Vec<EmptyProof>, proof: EmptyProof) {
    match proofs.iter_mut().find(|known| (&known.source, &known.reason) == (&proof.source, &proof.reason)) {
        Some(known) => {
            known.ranges.extend(proof.ranges);
            known.answered_at = known.answered_at.min(proof.answered_at);
        }
        None => proofs.push(proof),
    }
}

impl Job<'_> {
    /// Asks the sources for a window, one after another, each for what those before it did not give.
    pub(super) async fn fetch_window(&self, window: Window) -> Answer {
        let share = self.budget.reserve(self.estimate(&window)).await;
        let span = tracing::info_span!("backfill.window", window = %window.span());
        self.window_started(&window);
        let mut answer = Answer::new(window, share);
        let fetched = self.fetch_in_time(&mut answer).instrument(span).await;
        if let Err(clash) = answer.assemble(self.key) {
            answer.clear();
            answer.error = Some(clash.with("source", &self.source));
        } else {
            answer.error = fetched.err();
        }
        self.budget.shrink(&mut answer.share, COPIES * answer.bytes);
        answer
    }

    /// Stops asking when the time of the window or of the run is over.
    async fn fetch_in_time(&self, answer: &mut Answer) -> Result<()> {
        let now = self.clock.monotonic();
        let of_window = self.config.window_deadline.map(|longest| (now + longest, "window_deadline"));
        let of_run = self.config.deadline.map(|longest| (self.started + longest, "deadline"));
        let Some((until, which)) = of_window.into_iter().chain(of_run).min() else {
            return self.fetch_all(answer).await;
        };
        let passed = || {
            let error = Error::unavailable("the time for asking was over before all of it was answered");
            error.with("limit", which).exhausted()
        };
        if until <= now {
            return Err(passed());
        }
        tokio::select! {
            biased;
            fetched = self.fetch_all(answer) => fetched,
            () = self.clock.sleep(until - now) => Err(passed()),
        }
    }

    async fn fetch_all(&self, answer: &mut Answer) -> Result<()> {
        let mut left = answer.window.gaps.clone();
        let mut unanswered = RangeSet::new();
        let mut failure = None;
        for (index, source) in self.sources.iter().enumerate() {
            let asked = left.difference(&source.known_empty).on_grid(self.key.interval);
            if asked.is_empty() {
                continue;
            }
            answer.parts.push(Part::new(index));
            let outcome = self.ask(source, &asked, answer).await;
            let part = answer.parts.last_mut().expect("it was pushed above");
            if let Err(error) = outcome {
                if error.kind() == ErrorKind::Schema {
                    // Rows that contradict the frame put all that this source gave in doubt; after
                    // any other failure what it gave before is as good as ever.
                    *part = Part::new(index);
                }
                if source.decides {
                    unanswered = unanswered.union(&asked.difference(&part.answered));
                    failure.get_or_insert(error);
                } else {
                    tracing::debug!(source = %source.id, error = error.chain(), "a stand-in could not help");
                }
            }
            left = left.difference(&part.present);
        }
        // What another source gave, nobody needs to be asked for again.
        match failure {
            Some(error) if !unanswered.intersection(&left).is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a source's requests, one after another, up to the first that fails. One that does not
    /// know the series or its interval is not asked again in this run.
    async fn ask(&self, source: &Source<'_>, asked: &RangeSet, answer: &mut Answer) -> Result<()> {
        if let Some(refusal) = source.refusal.get() {
            return Err(refusal.clone());
        }
        for range in plan::pieces(asked, self.key.interval, source.max_rows) {
            if let Err(error) = self.fetch_range(source, range, answer).await {
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) {
                    let _ = source.refusal.set(error.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes one request and adds what came of it to the last part of `answer`.
    async fn fetch_range(&self, source: &Source<'_>, range: TimeRange, answer: &mut Answer) -> Result<()> {
        let started = self.clock.monotonic();
        self.requests.fetch_add(1, Ordering::Relaxed);
        let drained = AssertUnwindSafe(self.drain(source, range, answer))
            .catch_unwind()
            .instrument(tracing::info_span!("backfill.fetch", range = %range))
            .await
            .unwrap_or_else(|_| Err(Error::unexpected("the source's fetcher panicked")));
        let elapsed = self.clock.monotonic().saturating_sub(started);
        metrics::fetch_request(&source.id, drained.as_ref().map(drop).map_err(Error::kind), elapsed);
        let told = |error: Error| error.with("source", &source.id).with("request", range);
        let (batches, proven, reason) = drained.map_err(told)?;

        let answered_at = self.clock.now();
        let Normalized { rows, dropped } = self.normalize(range, &batches).map_err(told)?;
        answer.dropped.add(dropped);
        metrics::rows_dropped(dropped);
        let present = frame::row_runs(self.key, &rows)?;
        let empty = proven.within(range).difference(&present).on_grid(self.key.interval);
        let count = rows.num_rows() as u64;
        self.tell(&ProgressEvent::Fetched { window: answer.window.span(), rows: count });
        let part = answer.parts.last_mut().expect("a part is pushed before its source is asked");
        if !empty.is_empty() {
            add_proof(&mut part.proofs, EmptyProof::new(source.id.clone(), empty, reason, answered_at));
        }
        part.answered.insert(range);
        if count == 0 {
            return Ok(());
        }
        let rows = batch::owned(rows)?;
        self.row_bytes.fetch_max(batch::bytes(&rows).div_ceil(count), Ordering::Relaxed);
        part.present.extend(present);
        part.add_rows(self.key, rows).map_err(told)
    }

    /// Reads one answer of the source to its end, as the budget allows.
    async fn drain(
        &self,
        source: &Source<'_>,
        range: TimeRange,
        answer: &mut Answer,
    ) -> Result<(Vec<RecordBatch>, RangeSet, String)> {
        let request = FetchRequest::new(self.key.clone(), range)
            .with_retries(self.retries.sink())
            .with_begun_by(source.begun_by);
        let mut fetched = source.fetcher.fetch(&request).await?;
        let mut batches = Vec::new();
        let mut bytes: u64 = answer.parts.iter().map(|part| part.bytes).sum();
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
        let mut normal = frame::normalize(self.key, range, batches)?;
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
}
