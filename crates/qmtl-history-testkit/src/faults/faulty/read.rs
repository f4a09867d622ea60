//! Faults of reading rows, coverage and the list of series.

use std::sync::{Arc, PoisonError};
use std::task::Poll;

use futures::{StreamExt, stream};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    BatchStream, Coverage, Error, ErrorKind, HistoryBackend, HistoryBackendExt, RangeSet, ReadRequest,
    Result, SeriesKey, TimeRange, frame,
};

use super::{Fault, Faulty};
use crate::faults::rows;

impl Faulty {
    /// The request that goes to the store instead.
    pub(super) async fn asked(&self, request: &ReadRequest) -> Result<ReadRequest> {
        let mut asked = request.clone();
        asked.key = self.key(&request.key);
        let (start, end) = (request.range.start(), request.range.end());
        let range = match self.fault {
            Fault::EndInclusive => end.checked_add_micros(1).and_then(|end| TimeRange::checked(start, end)),
            Fault::RoundsStartDown => {
                request.key.interval.floor(start).and_then(|start| TimeRange::checked(start, end))
            }
            _ => None,
        };
        asked.range = range.unwrap_or(request.range);
        match self.fault {
            Fault::IgnoresLimit => asked.limit = None,
            Fault::IgnoresOrder => asked.newest_first = false,
            _ => {}
        }
        if let Some(columns) = &mut asked.columns {
            let stored = self.stored_schema(&asked.key).await?;
            match self.fault {
                Fault::ProjectsInStoredOrder => columns.sort_by_key(|name| stored.index_of(name).ok()),
                Fault::UnknownColumnsVanish => columns.retain(|name| stored.index_of(name).is_ok()),
                Fault::IgnoresProjection => asked.columns = None,
                Fault::NamedTwiceReadOnce => columns.dedup(),
                Fault::TsIsNoColumn if columns.iter().any(|name| name == frame::TS) => {
                    let error = Error::new(ErrorKind::NotFound, "the series has no such column");
                    return Err(error.with("column", frame::TS));
                }
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Reads all at once and bends the rows.
    pub(super) async fn bent(&self, request: &ReadRequest) -> Result<BatchStream> {
        let rows = match self.fault {
            Fault::LimitsBeforeTurning if request.newest_first => {
                let mut oldest_first = request.clone();
                oldest_first.newest_first = false;
                frame::reversed(&self.inner.read_all(&oldest_first).await?)?
            }
            _ => self.inner.read_all(request).await?,
        };
        let rows = match self.fault {
            Fault::ProofsHideRows => rows::without(&rows, &self.proven(&request.key)),
            fault => rows::read(fault, rows),
        };
        let schema = rows.schema();
        Ok(match self.fault {
            Fault::BatchesDifferFromStream => {
                BatchStream::from_batches(schema, vec![rows::columns_reversed(&rows)])
            }
            Fault::DroppedStreamLocks => self.locking(rows),
            _ => BatchStream::from_batches(schema, vec![rows]),
        })
    }

    /// A stream that holds the lock until it has been read to its end.
    fn locking(&self, rows: RecordBatch) -> BatchStream {
        self.memory().locked = true;
        let memory = Arc::clone(&self.memory);
        let unlock = stream::poll_fn(move |_| {
            memory.lock().unwrap_or_else(PoisonError::into_inner).locked = false;
            Poll::Ready(None)
        });
        BatchStream::new(rows.schema(), Box::pin(stream::iter([Ok(rows)]).chain(unlock)))
    }

    /// What is said to be known.
    pub(super) async fn known(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        let mut coverage = self.inner.coverage(key, range).await?;
        match self.fault {
            Fault::PresentHasNoHoles => {
                let span: RangeSet = coverage.present().span().into_iter().collect();
                coverage.add_present(&span);
            }
            Fault::CoverageIsNotCut => coverage = self.inner.coverage(key, TimeRange::ALL).await?,
            Fault::ProofsHideRows => {
                coverage = Coverage::of_present(coverage.present().difference(&self.proven(key)));
                for (_, proof) in self.memory().proofs.iter().filter(|(of, _)| of == key) {
                    coverage.add_empty(proof);
                }
                coverage = coverage.within(range);
            }
            Fault::CoverageRunsAhead => {
                for (_, runs) in self.memory().claimed.iter().filter(|(of, _)| of == key) {
                    coverage.add_present(&runs.within(range));
                }
            }
            Fault::LosesConfirmations => {
                let known = coverage.clone();
                coverage = Coverage::of_present(known.present().clone());
                for proof in known.known_empty() {
                    coverage.add_empty(&proof.clone().with_confirmed(0));
                }
            }
            Fault::UnknownSeriesFails if self.inner.revision(key).await?.is_none() => {
                return Err(Error::new(ErrorKind::NotFound, "no such series").with("series", key));
            }
            _ => {}
        }
        Ok(coverage)
    }

    /// What is listed for one series.
    pub(super) async fn listed(&self, key: SeriesKey) -> Result<Vec<SeriesKey>> {
        Ok(match self.fault {
            Fault::ListsTwice => vec![key.clone(), key],
            Fault::HidesSeriesWithoutRows => {
                let present = !self.inner.scan_present(&key, TimeRange::ALL).await?.is_empty();
                present.then_some(key).into_iter().collect()
            }
            _ => vec![key],
        })
    }
}
