//! Fetchers that break one promise each: they prove that the checks can fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch};
use qmtl_history_api::arrow_select::concat::{concat, concat_batches};
use qmtl_history_api::{
    DataFetcher, Error, ErrorKind, FetchLimits, FetchRequest, Fetched, PageOrder, RangeSet, Result, SourceId,
    SourceProfile, Timestamp, async_trait, frame,
};

use super::FetcherSubject;
use crate::faults::faults;

faults! {
    /// A page lacks its newest row.
    DropsARow breaks "H-FETCH-01" "H-FETCH-07";
    /// Each row of a page has the values of the one before it.
    ShiftsValues breaks "H-FETCH-01";
    /// A page without a row that was asked for is an error.
    TakesNoRowsForAnError breaks "H-FETCH-01";
    /// A page has a row of the bar that is open.
    ServesTheOpenBar breaks "H-FETCH-02";
    /// The source's time is not told.
    TellsNoTime breaks "H-FETCH-02";
    /// The order of pages is declared the other way round.
    DeclaresTheOtherOrder breaks "H-FETCH-03";
    /// A bar that lacks between two rows is not proven.
    ProvesNothing breaks "H-FETCH-04";
    /// A page lacks its newest row, and its bar is proven empty.
    ProvesWhatIsThere breaks "H-FETCH-04";
    /// All that was asked for is proven empty but for the rows.
    ProvesAll breaks "H-FETCH-05" "H-FETCH-06";
    /// Repetitions are not told.
    TellsNoRetries breaks "H-FETCH-07";
    /// An error is not marked as exhausted.
    ForgetsThatItGaveUp breaks "H-FETCH-09";
    /// An error is taken for an answer without rows.
    TakesErrorsForNoRows breaks "H-FETCH-09" "H-FETCH-10" "H-FETCH-12";
    /// The source has the same id wherever it is.
    HasOneIdEverywhere breaks "H-FETCH-11";
    /// A fetch that is dropped midway lets no other through.
    DroppedFetchLocks breaks "H-FETCH-12";
    /// A fetch starts a task without looking whether there is a runtime.
    PanicsOutside breaks "H-FETCH-12";
}

impl Fault {
    /// The subject with a fetcher that is wrong in this way.
    #[must_use]
    pub fn wrap(self, subject: FetcherSubject) -> FetcherSubject {
        subject.map(move |inner| Faulty { inner, fault: self, locked: AtomicBool::new(false) })
    }
}

/// A fetcher with a fault.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn DataFetcher>,
    fault: Fault,
    locked: AtomicBool,
}

/// Locks a fetcher for ever unless it is let go.
struct Turn<'a>(Option<&'a AtomicBool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(locked) = self.0 {
            locked.store(true, Ordering::SeqCst);
        }
    }
}

impl Faulty {
    /// The rows with a change.
    fn rows(&self, request: &FetchRequest, rows: &RecordBatch) -> Result<RecordBatch> {
        let count = rows.num_rows();
        Ok(match self.fault {
            Fault::DropsARow | Fault::ProvesWhatIsThere => {
                let times = frame::timestamps(rows)?;
                let is_descending = count > 1 && times.value(0) > times.value(1);
                rows.slice(usize::from(is_descending), count.saturating_sub(1))
            }
            Fault::ShiftsValues if count > 1 => {
                let columns = rows.columns().iter().enumerate().map(|(at, column)| -> ArrayRef {
                    if at == 0 { Arc::clone(column) } else { shifted(column) }
                });
                rebuilt(rows, columns.collect())?
            }
            Fault::ServesTheOpenBar if count > 0 => {
                let (key, range) = (&request.key, request.range);
                let times = frame::timestamps(rows)?;
                let newest = times.values().iter().max().copied().unwrap_or_default();
                let open = newest + key.interval.as_micros();
                if open >= range.end().as_micros() {
                    return Ok(rows.clone());
                }
                let one = rows.slice(0, 1);
                let mut columns = one.columns().to_vec();
                columns[0] = Arc::new(frame::ts_array([Timestamp::from_micros(open)?]));
                concat_batches(&rows.schema(), [rows, &rebuilt(&one, columns)?]).map_err(unmade)?
            }
            _ => rows.clone(),
        })
    }

    fn proven(&self, request: &FetchRequest, proven: RangeSet) -> RangeSet {
        match self.fault {
            Fault::ProvesNothing => RangeSet::new(),
            Fault::ProvesAll => {
                request.range.on_grid(request.key.interval).map_or_else(RangeSet::new, RangeSet::from)
            }
            _ => proven,
        }
    }
}

/// The values of a column, moved on by one row.
fn shifted(column: &ArrayRef) -> ArrayRef {
    let parts = [column.slice(0, 1), column.slice(0, column.len() - 1)];
    concat(&[&parts[0], &parts[1]]).unwrap_or_else(|_| Arc::clone(column))
}

fn rebuilt(rows: &RecordBatch, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(rows.schema(), columns).map_err(unmade)
}

fn unmade(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unexpected("the fault cannot be made of these rows").caused_by(cause)
}

#[async_trait]
impl DataFetcher for Faulty {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        if self.fault == Fault::PanicsOutside {
            drop(tokio::spawn(async {}));
        }
        if self.locked.load(Ordering::SeqCst) {
            return Err(Error::unexpected("a fetch that was dropped has locked the fetcher"));
        }
        let mut turn = Turn(Some(&self.locked).filter(|_| self.fault == Fault::DroppedFetchLocks));
        let asked = match self.fault {
            Fault::TellsNoRetries => FetchRequest::new(request.key.clone(), request.range),
            _ => request.clone(),
        };
        let fetched = match self.inner.fetch(&asked).await {
            Err(_) if self.fault == Fault::TakesErrorsForNoRows => {
                Fetched::from_batch(RecordBatch::new_empty(frame::ts_only_schema()))
            }
            Err(error) if self.fault == Fault::ForgetsThatItGaveUp => {
                return Err(Error::new(ErrorKind::Unavailable, error.to_string()));
            }
            other => other?,
        };
        turn.0 = None;
        let (as_of, proven, reason) = (fetched.as_of, fetched.proven, fetched.reason);
        let rows = fetched.batches.into_batch().await?;
        if self.fault == Fault::TakesNoRowsForAnError && rows.num_rows() == 0 {
            return Err(Error::schema("the page has no row"));
        }
        let changed = Fetched::from_batch(self.rows(request, &rows)?);
        let proven = self.proven(request, proven);
        let as_of = as_of.filter(|_| self.fault != Fault::TellsNoTime);
        Ok(changed.with_proven(proven, reason).with_as_of(as_of))
    }

    fn source_id(&self) -> SourceId {
        match self.fault {
            Fault::HasOneIdEverywhere => {
                SourceId::new("everywhere").unwrap_or_else(|_| self.inner.source_id())
            }
            _ => self.inner.source_id(),
        }
    }

    fn limits(&self) -> FetchLimits {
        self.inner.limits()
    }

    fn profile(&self) -> SourceProfile {
        let mut profile = self.inner.profile();
        if self.fault == Fault::DeclaresTheOtherOrder {
            profile.order = match profile.order {
                PageOrder::OldestFirst => PageOrder::NewestFirst,
                _ => PageOrder::OldestFirst,
            };
        }
        profile
    }
}
