//! The writing half of a run: gathers windows and stores them together, ascending.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    Coverage, Error, ErrorKind, HistoryBackendExt, RangeSet, ReadRequest, Result, WriteReceipt, WriteRequest,
    frame,
};
use qmtl_observe::metrics;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::Instrument;

use super::fetch::Answer;
use super::tally::Tally;
use super::{Job, batch, fetch, reread};

/// How long the first rows wait for others to be written with; twice as long after each such wait. Whoever watches a slow
/// fill sees that rows are stored.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Failed writes in a row after which the store is taken to be gone.
const WRITES_IN_VAIN: u32 = 3;

/// Stores answers; the only one of its run that writes.
pub(super) struct Writer<'a> {
    job: &'a Job<'a>,
    /// The stored columns and those of the rows accepted since.
    columns: SchemaRef,
    /// Answers not written yet, by the ordinal of their window.
    pending: BTreeMap<u64, Answer>,
    pending_bytes: u64,
    /// When the oldest of them came, on the monotonic clock.
    since: Duration,
    /// How long they wait for others.
    wait: Duration,
    in_vain: u32,
    tally: Tally,
}

/// What the writer does next.
enum Step {
    Accept(Box<Answer>),
    /// Write what is due, or all of it.
    Flush {
        all: bool,
    },
    /// Write all: it has waited long enough.
    Waited,
    End,
}

impl<'a> Writer<'a> {
    pub(super) fn new(job: &'a Job<'a>, columns: SchemaRef) -> Self {
        Self {
            job,
            columns,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            since: Duration::ZERO,
            wait: FIRST_WAIT.min(job.flush_after()),
            in_vain: 0,
            tally: Tally::new(job.sources.iter().map(|source| source.id.clone()).collect()),
        }
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Writes until the channel ends. An error means that to go on is vain.
    pub(super) async fn run(&mut self, mut answers: UnboundedReceiver<Box<Answer>>) -> Result<()> {
        loop {
            match self.step(&mut answers).await {
                Step::Accept(answer) => {
                    let mut stop = self.accept(answer);
                    while let Ok(answer) = answers.try_recv() {
                        stop = stop.or(self.accept(answer));
                    }
                    let all = stop.is_some() || self.job.budget.is_starved();
                    self.flush(all).await?;
                    if let Some(error) = stop {
                        return Err(error);
                    }
                }
                Step::Flush { all } => self.flush(all).await?,
                Step::Waited => {
                    self.wait = (self.wait * 2).min(self.job.flush_after());
                    self.flush(true).await?;
                }
                Step::End => return self.flush(true).await,
            }
        }
    }

    async fn step(&self, answers: &mut UnboundedReceiver<Box<Answer>>) -> Step {
        let is_waiting = !self.pending.is_empty();
        let Job { clock, budget, .. } = self.job;
        let waited = clock.monotonic().saturating_sub(self.since);
        tokio::select! {
            biased;
            answer = answers.recv() => answer.map_or(Step::End, Step::Accept),
            () = budget.starved(), if is_waiting => Step::Flush { all: budget.is_starved() },
            () = clock.sleep(self.wait.saturating_sub(waited)), if is_waiting => Step::Waited,
        }
    }

    /// Takes an answer in; the error is the reason to stop asking the source.
    fn accept(&mut self, mut answer: Box<Answer>) -> Option<Error> {
        if let Some(lack) = answer.lack.take() {
            return self.job.lacking(&answer.window, lack, &mut self.tally);
        }
        self.tally.noticed(&answer, self.job.key.interval);
        let joined = answer.rows.iter().try_fold(SchemaRef::clone(&self.columns), |columns, rows| {
            batch::with_columns(self.job.key, &columns, rows)
        });
        match joined {
            Ok(columns) => self.columns = columns,
            Err(clash) => {
                answer.clear();
                answer.error = Some(clash.with("source", &self.job.source));
            }
        }
        // A source's contract: these two kinds speak of the series, not of the request.
        let is_vain = self.job.sources.iter().all(|source| !source.decides || source.refusal.get().is_some());
        let stop = answer.error.clone().filter(|_| is_vain);
        if let Some(error) = &answer.error
            && answer.is_empty()
        {
            self.fail(&answer, error.clone());
            self.job.end_lease(&mut answer, None);
            return stop;
        }
        if self.pending.is_empty() {
            self.since = self.job.clock.monotonic();
        }
        self.pending_bytes += answer.bytes;
        self.pending.insert(answer.window.ordinal, *answer);
        stop
    }

    /// Writes whole chunks of pending answers, or with `all` the rest as well.
    async fn flush(&mut self, all: bool) -> Result<()> {
        while self.pending_bytes >= self.job.config.flush_bytes.max(1) || (all && !self.pending.is_empty()) {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            while bytes < self.job.config.flush_bytes.max(1)
                && let Some((_, answer)) = self.pending.pop_first()
            {
                bytes += answer.bytes;
                chunk.push(answer);
            }
            self.pending_bytes -= bytes;
            self.write(chunk).await?;
        }
        Ok(())
    }

    /// Writes `chunk` as one. Where the store refuses what the rows are, each window is tried by
    /// itself, so that one with a value that cannot be held does not take the others with it.
    async fn write(&mut self, chunk: Vec<Answer>) -> Result<()> {
        let mut chunks = VecDeque::from([chunk]);
        while let Some(chunk) = chunks.pop_front() {
            let chunk = self.job.still_leased(chunk, &mut self.tally);
            if chunk.is_empty() {
                continue;
            }
            match self.store(&chunk).await {
                Ok((receipt, others)) => {
                    self.in_vain = 0;
                    let after = self.job.look_after(&chunk).await;
                    self.conclude(chunk, receipt, (&others, after.as_ref()));
                }
                Err(error) if is_refusal(&error) && chunk.len() > 1 => {
                    chunks.extend(chunk.into_iter().map(|answer| vec![answer]));
                }
                Err(error) => {
                    let error = error.with("rows", chunk.iter().map(row_count).sum::<u64>());
                    for mut answer in chunk {
                        self.tally.unsure(&answer);
                        self.fail(&answer, error.clone());
                        answer.error = Some(error.clone());
                        self.job.end_lease(&mut answer, None);
                    }
                    self.in_vain += u32::from(!is_refusal(&error));
                    if is_fatal(&error) || self.in_vain >= WRITES_IN_VAIN {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores a chunk; says too where another writer's rows stand instead of ours.
    async fn store(&self, chunk: &[Answer]) -> Result<(WriteReceipt, RangeSet)> {
        let pieces: Vec<_> = chunk.iter().flat_map(|answer| answer.rows.iter().cloned()).collect();
        let rows = batch::join(self.job.key, &pieces)?;
        let mut request = WriteRequest::new(self.job.key.clone());
        for proof in chunk.iter().flat_map(Answer::proofs) {
            fetch::add_proof(&mut request.empty, proof.clone());
        }
        if rows.num_rows() == 0 && request.empty.is_empty() {
            return Ok(Default::default());
        }
        let span = tracing::info_span!("backfill.write", rows = rows.num_rows());
        let receipt = self.job.backend.write_rows(&request, rows.clone()).instrument(span).await?;
        let others = if receipt.rows_kept_out > 0 { self.others(&rows).await } else { RangeSet::new() };
        Ok((receipt, others))
    }

    /// Where the store has other rows than these. A store that does not answer now says nothing of that.
    async fn others(&self, rows: &RecordBatch) -> RangeSet {
        let key = self.job.key;
        let look = async {
            let Some(span) = frame::row_runs(key, rows)?.span() else { return Ok(RangeSet::new()) };
            let stored = self.job.backend.read_all(&ReadRequest::new(key.clone(), span)).await?;
            reread::others_in(key, (&stored, rows))
        };
        look.await.unwrap_or_else(|error: Error| {
            tracing::debug!(series = %key, error = error.chain(), "cannot tell whose rows were kept");
            RangeSet::new()
        })
    }

    /// Reports the windows of a chunk that is stored.
    fn conclude(
        &mut self,
        chunk: Vec<Answer>,
        receipt: WriteReceipt,
        (others, after): (&RangeSet, Option<&Coverage>),
    ) {
        let interval = self.job.key.interval;
        self.tally.written(receipt);
        metrics::rows_written(self.job.key, receipt.rows_written);
        let newest = chunk.iter().rev().find_map(|answer| answer.present().span());
        if let Some((_, newest)) = newest.and_then(|rows| rows.bounds(interval)) {
            metrics::last_timestamp(self.job.key, newest);
        }
        let mut unassigned = receipt.rows_written;
        for mut answer in chunk {
            self.tally.stored(&answer, others);
            // A receipt speaks of the chunk; where others wrote beside us, the first windows count.
            let rows = row_count(&answer).min(unassigned);
            unassigned -= rows;
            match &answer.error {
                Some(error) => self.fail(&answer, error.clone()),
                None => {
                    let bars = answer.settled().count(interval);
                    self.job.window_stored(&answer.window, rows, bars);
                    self.tally.conclude(&answer.window);
                }
            }
            self.job.end_lease(&mut answer, after);
        }
    }

    fn fail(&mut self, answer: &Answer, error: Error) {
        self.job.window_failed(&answer.window, &error);
        self.tally.failed(&answer.window, error);
    }
}

fn row_count(answer: &Answer) -> u64 {
    answer.rows.iter().map(|rows| rows.num_rows() as u64).sum()
}

/// The store will not have these rows, whatever its state.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Schema | ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

/// The store will have no rows at all before somebody has mended it.
fn is_fatal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Storage | ErrorKind::Corrupt)
}
