//! Faults of writing.

use std::sync::atomic::Ordering;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    EmptyProof, HistoryBackend, OnConflict, Result, SourceId, TimeRange, Timestamp, WriteReceipt,
    WriteRequest, frame,
};

use super::{Count, Fault, Faulty, until};

impl Faulty {
    /// The request that goes to the store instead.
    pub(super) async fn given(&self, request: &WriteRequest) -> Result<WriteRequest> {
        let mut given = request.clone();
        given.key = self.key(&request.key);
        match self.fault {
            Fault::KeepReplaces => given.on_conflict = OnConflict::Replace,
            Fault::ReplaceKeeps => given.on_conflict = OnConflict::KeepExisting,
            Fault::ForgetsProofs => given.empty.clear(),
            _ => {}
        }
        for proof in &mut given.empty {
            match self.fault {
                Fault::SourcesAreOne => proof.source = SourceId::new("any").expect("it is not empty"),
                Fault::ProofsNeverExpire => proof.answered_at = Timestamp::MAX,
                Fault::FirstAnswerStays => {
                    let known = self.inner.coverage(&given.key, TimeRange::ALL).await?;
                    for old in known.known_empty().iter().filter(|old| old.source == proof.source) {
                        proof.ranges = proof.ranges.difference(&old.ranges);
                    }
                }
                Fault::LosesRules => proof.rule = EmptyProof::RULE,
                Fault::LatestDateWins => {
                    let known = self.inner.coverage(&given.key, TimeRange::ALL).await?;
                    for old in known.known_empty().iter().filter(|old| old.source == proof.source) {
                        if old.answered_at > proof.answered_at {
                            proof.ranges = proof.ranges.difference(&old.ranges);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(given)
    }

    /// Stores rows as the fault has it.
    pub(super) async fn store(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let count = u64::try_from(rows.num_rows()).expect("rows are few");
        match self.fault {
            Fault::VisibleLate => {
                self.catch_up().await?;
                self.memory().unseen = Some((request.clone(), rows));
                Ok(WriteReceipt::new(count, 0, 0))
            }
            Fault::TornCommits => self.store_in_halves(request, &rows).await,
            Fault::StoresBeforeChecking => self.store_before_checking(request, rows).await,
            Fault::LosesConcurrentWrites => {
                let _write = Count::of(&self.writes);
                let first = self.writes.load(Ordering::SeqCst) == 1;
                until(|| self.writes.load(Ordering::SeqCst) > 1).await;
                let lost = Ok(WriteReceipt::new(count, 0, 0));
                if first { self.inner.write_rows(request, rows).await } else { lost }
            }
            Fault::CoverageRunsAhead => {
                let runs = frame::row_runs(&request.key, &rows)?;
                self.memory().claimed.push((request.key.clone(), runs));
                self.until_read().await;
                self.inner.write_rows(request, rows).await
            }
            Fault::CountsAllAsWritten => {
                self.inner.write_rows(request, rows).await.map(|_| WriteReceipt::new(count, 0, 0))
            }
            _ => self.inner.write_rows(request, rows).await,
        }
    }

    async fn store_in_halves(&self, request: &WriteRequest, rows: &RecordBatch) -> Result<WriteReceipt> {
        let half = rows.num_rows() / 2;
        let first = self.inner.write_rows(request, rows.slice(0, half)).await?;
        self.until_read().await;
        let rest = self.inner.write_rows(request, rows.slice(half, rows.num_rows() - half)).await?;
        Ok(WriteReceipt::new(
            first.rows_written + rest.rows_written,
            first.rows_replaced + rest.rows_replaced,
            first.rows_kept_out + rest.rows_kept_out,
        ))
    }

    async fn store_before_checking(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let result = self.inner.write_rows(request, rows.clone()).await;
        if result.is_err() {
            // The first row may be at fault by itself; the proofs never are.
            self.inner.write_rows(request, rows.slice(0, 1)).await.ok();
            let nothing = RecordBatch::new_empty(frame::ts_only_schema());
            self.inner.write_rows(request, nothing).await?;
        }
        result
    }

    /// Waits until a read has begun and ended: of two that end, the second one began in here.
    async fn until_read(&self) {
        let before = self.reads.load(Ordering::SeqCst);
        until(|| self.reads.load(Ordering::SeqCst) >= before + 2).await;
    }
}
