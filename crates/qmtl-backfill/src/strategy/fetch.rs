//! The reading half of a run: one window's requests, brought into form.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::OptionFuture;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::frame::{self, Dropped, Normalized, OffGrid, OffGridRule, Rules};
use qmtl_history_api::{
    EmptyProof, Error, ErrorKind, FetchRequest, Fetched, PageOrder, ProgressEvent, RangeSet, Result,
    SeriesKey, SourceId, TimeRange, Timestamp,
};
use qmtl_observe::metrics;
use tracing::Instrument;

use super::leased::Lack;
use super::notes::Notes;
use super::{COPIES, Job, Source, batch};
use crate::absence::{self, Inquiry, Reply, Spacing, Verdict};
use crate::budget::Share;
use crate::lease::HeldLease;
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
    /// The bars that rows were moved to.
    pub(super) moved: RangeSet,
    /// The bars of rows that were left out because they have no price.
    pub(super) without_price: RangeSet,
    /// What is odd about the rows.
    pub(super) notes: Notes,
    /// Bars that no source had and that one of them may still publish.
    pub(super) too_young: RangeSet,
    /// The date of the earliest answer.
    pub(super) dated: Option<Timestamp>,
    /// Why bars of the window were not told of by a source that was to be asked for them.
    pub(super) error: Option<Error>,
    /// Held until the rows are stored or given up.
    pub(super) share: Share,
    /// The lease of the window, where windows are leased.
    pub(super) lease: Option<HeldLease>,
    /// Why nobody was asked, where that is so.
    pub(super) lack: Option<Lack>,
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
    /// How far its rows lie apart.
    spacing: Spacing,
    /// Its rows that stand on no point of the grid.
    pub(super) off_grid: Vec<OffGrid>,
    rows: Vec<RecordBatch>,
    /// Rows that came after these, in many small batches.
    loose: Vec<RecordBatch>,
    bytes: u64,
}

impl Answer {
    fn new(window: Window, share: Share) -> Self {
        let (rows, parts) = (Vec::new(), Vec::new());
        let (dropped, notes, too_young) = (Dropped::default(), Notes::default(), RangeSet::new());
        Self {
            window,
            rows,
            bytes: 0,
            parts,
            dropped,
            moved: RangeSet::new(),
            without_price: RangeSet::new(),
            notes,
            too_young,
            dated: None,
            error: None,
            share,
            lease: None,
            lack: None,
        }
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
        self.too_young = self.too_young.difference(&present);
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
            spacing: Spacing::default(),
            off_grid: Vec::new(),
            rows: Vec::new(),
            loose: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes in the rows off the grid of an answer about `asked`. One that came before is one, and one that does
    /// not come again was a mistake of the answer before.
    fn take_off_grid(&mut self, asked: TimeRange, rows: &[OffGrid]) {
        self.off_grid.retain(|known| !asked.contains(known.ts));
        self.off_grid.extend(rows);
    }

    /// Adds rows that come after all others.
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
    pub(super) async fn fetch_window(&self, mut window: Window) -> Answer {
        self.begun.fetch_max(window.ordinal + 1, Ordering::Relaxed);
        let lease = match self.leasing {
            None => None,
            Some(leasing) => match leasing.take(&mut window).await {
                Ok(lease) => lease,
                Err(lack) => {
                    let share = self.budget.reserve(0).await;
                    return Answer { lack: Some(lack), ..Answer::new(window, share) };
                }
            },
        };
        let share = self.budget.reserve(self.estimate(&window)).await;
        let span = tracing::info_span!("backfill.window", window = %window.span());
        self.window_started(&window);
        let mut answer = Answer { lease, ..Answer::new(window, share) };
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

    /// Stops asking when the time of the window or of the run is over, and when the window's lease is lost: then it is
    /// somebody else's.
    async fn fetch_in_time(&self, answer: &mut Answer) -> Result<()> {
        let lost = OptionFuture::from(answer.lease.as_ref().map(HeldLease::lost));
        let now = self.clock.monotonic();
        let of_window = self.config.window_deadline.map(|longest| (now + longest, "window_deadline"));
        let of_run = self.until.map(|until| (until, "deadline"));
        let ends = of_window.into_iter().chain(of_run).min();
        let window = answer.window.span();
        let passed = |which| Err(self.passed(which, self.retries.pending(window)));
        if let Some((_, which)) = ends.filter(|(until, _)| *until <= now) {
            return passed(which);
        }
        let over = OptionFuture::from(ends.map(|(until, which)| async move {
            self.clock.sleep(until - now).await;
            which
        }));
        tokio::select! {
            biased;
            fetched = self.fetch_all(answer) => return fetched,
            Some(()) = lost => {}
            Some(which) = over => return passed(which),
        }
        answer.lack = Some(Lack::Lost);
        Ok(())
    }

    async fn fetch_all(&self, answer: &mut Answer) -> Result<()> {
        let mut left = answer.window.gaps.clone();
        let mut unanswered = RangeSet::new();
        let mut failure = None;
        for (index, source) in self.sources.iter().enumerate() {
            let asked = left.difference(&source.known_empty).on_grid(self.key.interval);
            let asked = source.reach.map_or_else(RangeSet::new, |reach| asked.within(reach));
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

    /// Asks a source for what of a window is left, a page after the other, up to the first request that
    /// fails. One that does not know the series or its interval is not asked again in this run.
    async fn ask(&self, source: &Source<'_>, asked: &RangeSet, answer: &mut Answer) -> Result<()> {
        if let Some(refusal) = source.refusal.get() {
            return Err(refusal.clone());
        }
        for wanted in plan::pieces(asked, self.key.interval, source.max_rows) {
            if let Err(error) = self.inquire(source, wanted, answer).await {
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) {
                    let _ = source.refusal.set(error.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks for a page of bars until its source has answered for all of them, and adds what came of it to
    /// the last part of `answer`.
    async fn inquire(&self, source: &Source<'_>, wanted: RangeSet, answer: &mut Answer) -> Result<()> {
        let mut inquiry = Inquiry::new(wanted.clone(), self.key.interval, source.profile);
        let (mut pages, mut versions) = (Vec::new(), Vec::new());
        let (mut reason, mut failure) = (String::new(), None::<Error>);
        let mut seen = RangeSet::new();
        loop {
            let page = match inquiry.ask() {
                Ok(None) => break,
                Ok(Some(range)) => self.fetch_page(source, range, answer).await,
                Err(error) => Err(error.with("source", &source.id)),
            };
            // A row that comes again is no second one in step.
            let checked = page.and_then(|page| {
                seen = seen.union(&page.reply.present);
                self.check_spacing(source, (&page.reply.present, &seen), answer)?;
                Ok(page)
            });
            match checked {
                Ok(page) => {
                    inquiry.take(&page.reply);
                    pages.push(page.rows);
                    versions.extend(page.versions);
                    reason = page.reason;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failure.take_if(|error| error.kind() == ErrorKind::Schema) {
            return Err(error);
        }
        self.add_rows(&wanted, &pages, answer)?;
        if let Some(error) = failure {
            return Err(error);
        }
        let part = answer.parts.last_mut().expect("a part is pushed before its source is asked");
        part.spacing.take(&seen, self.key.interval);
        part.answered = part.answered.union(&wanted);
        let Verdict { empty, too_young, dated, contradicted } = inquiry.verdict();
        answer.too_young = answer.too_young.union(&too_young);
        if let Some(dated) = dated {
            let told = Told { source: &source.id, reason: &reason, dated };
            told.proofs(empty, &versions).into_iter().for_each(|proof| add_proof(&mut part.proofs, proof));
        }
        match contradicted.span() {
            Some(span) => Err(Error::unavailable(
                "the source contradicts itself: one response lacked bars that another one had, so bars that all of \
                 them lack are not taken to be absent",
            )
            .with("source", &source.id)
            .with("bars", contradicted.count(self.key.interval))
            .with("within", span)
            .exhausted()),
            None => Ok(()),
        }
    }

    /// `Schema` when the rows of a page, or those seen in an inquiry with those before it, lie further apart than
    /// bars do. A right page beside a wrong one does not make it right.
    fn check_spacing(
        &self,
        source: &Source<'_>,
        (page, seen): (&RangeSet, &RangeSet),
        answer: &Answer,
    ) -> Result<()> {
        let mut own = Spacing::default();
        own.take(page, self.key.interval);
        let mut all = answer.parts.last().map(|part| part.spacing).unwrap_or_default();
        all.take(seen, self.key.interval);
        let apart = [own, all].iter().find_map(|spacing| spacing.contradiction(source.profile.gapless));
        match apart {
            Some(bars) if source.profile.order != PageOrder::Unpaged => Err(Error::schema(
                "the source's rows are bars of a longer interval: all of them lie a multiple of it apart; ask for bars \
                 of that interval",
            )
            .with("series", self.key)
            .with("bars_apart", bars)
            .with("source", &source.id)),
            _ => Ok(()),
        }
    }

    /// Adds the rows of an inquiry's pages that were wanted.
    fn add_rows(&self, wanted: &RangeSet, pages: &[RecordBatch], answer: &mut Answer) -> Result<()> {
        let pages: Vec<_> = pages.iter().filter(|page| page.num_rows() > 0).cloned().collect();
        let (mut rows, span) = match (pages.as_slice(), wanted.span()) {
            ([], _) | (_, None) => return Ok(()),
            ([one], Some(span)) => (one.clone(), span),
            // Later pages hold what earlier ones lacked, so that the rows are out of order.
            (several, Some(span)) => {
                let joined = batch::join(self.key, several)?;
                let normal = frame::normalize(self.key, span, &[joined])?;
                answer.notes.conflicts(&normal.conflicts);
                answer.dropped.conflict += normal.dropped.conflict;
                (normal.rows, span)
            }
        };
        if *wanted != span.into() {
            rows = batch::within(&rows, wanted)?;
        }
        let count = rows.num_rows() as u64;
        if count == 0 {
            return Ok(());
        }
        let rows = batch::owned(rows)?;
        answer.notes.not_numbers(&frame::not_numbers(&rows));
        self.row_bytes.fetch_max(batch::bytes(&rows).div_ceil(count), Ordering::Relaxed);
        let part = answer.parts.last_mut().expect("a part is pushed before its source is asked");
        part.present.extend(frame::row_runs(self.key, &rows)?);
        part.add_rows(self.key, rows)
    }

    /// Makes one request.
    async fn fetch_page(&self, source: &Source<'_>, range: TimeRange, answer: &mut Answer) -> Result<Page> {
        let (started, asked_at) = (self.clock.monotonic(), self.clock.now());
        self.requests.fetch_add(1, Ordering::Relaxed);
        let drained = AssertUnwindSafe(self.drain(source, range, answer))
            .catch_unwind()
            .instrument(tracing::info_span!("backfill.fetch", range = %range))
            .await
            .unwrap_or_else(|_| Err(Error::unexpected("the source's fetcher panicked")));
        self.retries.ended(range);
        let elapsed = self.clock.monotonic().saturating_sub(started);
        metrics::fetch_request(&source.id, drained.as_ref().map(drop).map_err(Error::kind), elapsed);
        let told = |error: Error| error.with("source", &source.id).with("request", range);
        let Drained { batches, proven, reason, versions, as_of } = drained.map_err(told)?;

        let dated = absence::dated(as_of, (asked_at, self.clock.now()));
        let rules = source.profile.rules;
        let Normalized { rows, mut dropped, off_grid, conflicts, span, moved, without_price, .. } =
            self.normalize((range, rules), as_of, &batches).map_err(told)?;
        // A series that has rows, of an earlier run or page, stands on its grid: then these are odd ones.
        let is_new = self.columns.fields().len() <= 1 && answer.present().is_empty();
        if is_new
            && rows.num_rows() == 0
            && let Some(other) = frame::other_grid(self.key, &off_grid)
        {
            return Err(told(other));
        }
        // Counted once the source has said all that it has to say.
        (dropped.off_grid, dropped.nan) = (0, 0);
        let rows = batch::named_as_stored(&rows, &self.columns);
        // Where most rows stand on another grid, what lacks on ours means nothing.
        let is_dropped = rules.off_grid == OffGridRule::Drop;
        let is_other_grid = off_grid.len() > rows.num_rows().max(2) && !is_dropped;
        let proven = if is_other_grid { RangeSet::new() } else { proven };
        answer.dropped.add(dropped);
        answer.notes.conflicts(&conflicts);
        let points = |points| RangeSet::from_sorted_points(points, self.key.interval);
        let without_price = points(without_price);
        answer.moved = answer.moved.union(&points(moved));
        answer.without_price = answer.without_price.union(&without_price);
        self.tell(&ProgressEvent::Fetched { window: answer.window.span(), rows: rows.num_rows() as u64 });
        let present = frame::row_runs(self.key, &rows)?;
        let part = answer.parts.last_mut().expect("a part is pushed before its source is asked");
        part.take_off_grid(range, &off_grid);
        let off_grid = off_grid.iter().filter(|_| !is_dropped);
        let mut doubtful: RangeSet = off_grid.filter_map(|row| row.bars(self.key.interval)).collect();
        doubtful.extend(without_price.iter());
        answer.dated = answer.dated.into_iter().chain([dated]).min();
        let reply = Reply { asked: range, present, doubtful, span, proven, dated };
        Ok(Page { reply, rows, reason, versions })
    }

    /// Reads one answer of the source to its end, as the budget allows.
    async fn drain(&self, source: &Source<'_>, range: TimeRange, answer: &mut Answer) -> Result<Drained> {
        let asked = source.profile.rules.asked(range, self.key.interval);
        let request = FetchRequest::new(self.key.clone(), asked)
            .with_retries(self.retries.sink())
            .with_begun_by(source.begun_by);
        let mut fetched = source.fetcher.fetch(&request).await?;
        let mut batches = Vec::new();
        let mut bytes: u64 = answer.parts.iter().map(|part| part.bytes).sum();
        while let Some(batch) = fetched.batches.next_batch().await {
            let batch = batch?;
            bytes += batch::bytes(&batch);
            self.budget.grow(&mut answer.share, COPIES * bytes).await;
            batches.push(batch);
        }
        let Fetched { proven, reason, versions, as_of, .. } = fetched;
        Ok(Drained { batches, proven, reason, versions, as_of })
    }

    /// Brings rows into form, and tells those of the forming bar from others outside the request. A bar
    /// counts as closed when it has by our clock, which the request goes by, and by the source's.
    fn normalize(
        &self,
        (range, rules): (TimeRange, Rules),
        as_of: Option<Timestamp>,
        batches: &[RecordBatch],
    ) -> Result<Normalized> {
        let mut normal = frame::normalize_by(self.key, range, batches, rules)?;
        if normal.dropped.outside > 0
            && let Some(forming) = self.forming
            && let Ok(late) = frame::normalize_by(self.key, forming, batches, rules)
        {
            let rows = late.rows.num_rows() as u64 + late.dropped.total() - late.dropped.outside;
            normal.dropped.outside -= rows;
            normal.dropped.forming += rows;
        }
        let open = as_of.map(|as_of| self.key.interval.floor(as_of).unwrap_or(Timestamp::MIN));
        if let Some(open) = open.filter(|open| *open < range.end()) {
            let closed = TimeRange::checked(range.start(), open).into_iter().collect();
            let rows = batch::within(&normal.rows, &closed)?;
            normal.dropped.forming += (normal.rows.num_rows() - rows.num_rows()) as u64;
            normal.rows = rows;
        }
        Ok(normal)
    }
}

/// What one request brought, read to its end.
struct Drained {
    batches: Vec<RecordBatch>,
    proven: RangeSet,
    reason: String,
    versions: Vec<(RangeSet, String)>,
    as_of: Option<Timestamp>,
}

/// What one request brought, in form.
struct Page {
    reply: Reply,
    rows: RecordBatch,
    reason: String,
    versions: Vec<(RangeSet, String)>,
}

/// Who proved, and when.
struct Told<'a> {
    source: &'a SourceId,
    reason: &'a str,
    dated: Timestamp,
}

impl Told<'_> {
    /// The proofs that `empty` comes to: one for each version of the source that answered, and one for
    /// the rest.
    fn proofs(&self, mut empty: RangeSet, versions: &[(RangeSet, String)]) -> Vec<EmptyProof> {
        let mut proofs = Vec::new();
        let mut add = |source: SourceId, ranges: RangeSet| {
            if !ranges.is_empty() {
                proofs.push(EmptyProof::new(source, ranges, self.reason, self.dated));
            }
        };
        for (ranges, version) in versions {
            add(self.source.with_version(version), empty.intersection(ranges));
            empty = empty.difference(ranges);
        }
        add(self.source.clone(), empty);
        proofs
    }
}
