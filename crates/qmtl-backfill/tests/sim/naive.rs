//! A loop that follows by the wall clock alone, for the proof that the invariants see what is wrong with it.

use std::sync::Arc;
use std::time::Duration;

use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, HistoryBackend, NoProgress, SeriesKey,
    TimeRange, Timestamp,
};

use crate::run::Told;

/// How long after its close a bar is asked for, and again when it lacks.
const GRACE: Duration = Duration::from_secs(1);

/// Follows series, sleeps through to the next close by the wall clock, and reads no bar twice.
#[derive(Debug)]
pub(crate) struct NaiveFollower {
    clock: Arc<dyn Clock>,
    series: Vec<Naive>,
}

#[derive(Debug)]
struct Naive {
    key: SeriesKey,
    start: Timestamp,
    strategy: FetcherBackfillStrategy,
    due: Timestamp,
}

impl NaiveFollower {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, series: Vec::new() }
    }

    pub(crate) fn follow(&mut self, key: SeriesKey, start: Timestamp, strategy: FetcherBackfillStrategy) {
        self.series.push(Naive { key, start, strategy, due: Timestamp::MIN });
    }

    pub(crate) fn take_in(&mut self, report: &BackfillReport) {
        let now = self.clock.now();
        let Some(own) = self.series.iter_mut().find(|own| own.key == report.key) else { return };
        let settled = now.checked_sub(GRACE).unwrap_or(Timestamp::MIN);
        let close = own.key.interval.next(settled).and_then(|close| close.checked_add(GRACE));
        let lacks = !report.failed.is_empty()
            || report.missing.span().is_some_and(|span| span.end() >= report.wanted.end());
        let again = now.checked_add(if lacks { GRACE * 10 } else { Duration::MAX });
        own.due = again.into_iter().chain(close).min().unwrap_or(Timestamp::MAX);
    }

    pub(crate) async fn next(&mut self, backend: &dyn HistoryBackend) -> Vec<Told> {
        let due = self.series.iter().map(|own| own.due).min().unwrap_or(Timestamp::MAX);
        self.clock.sleep(due.since(self.clock.now()).max(Duration::from_millis(10))).await;
        let now = self.clock.now();
        let mut told = Vec::new();
        for (number, own) in self.series.iter_mut().enumerate().filter(|(_, own)| own.due <= now) {
            own.due = now.checked_add(GRACE * 10).unwrap_or(Timestamp::MAX);
            let range = own.key.interval.floor(now).and_then(|end| TimeRange::checked(own.start, end));
            let Some(range) = range else { continue };
            let request = BackfillRequest::new(own.key.clone(), range);
            let filled = own.strategy.ensure_range(&request, backend, &NoProgress).await;
            told.push(Told { series: number, filled: Some(filled), revised: 0 });
        }
        for report in told.iter().filter_map(|told| told.filled.as_ref()?.as_ref().ok()) {
            self.take_in(report);
        }
        told
    }
}
