//! Filling from what was seen live: a replay source, a recorder's stored events, its buffer.

use std::sync::Arc;

use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, EventSource, FetchLimits,
    FetchRequest, Fetched, HistoryBackend, PageOrder, ProgressSink, Result, SourceId, SourceProfile,
    async_trait,
};

use crate::{BackfillConfig, FetcherBackfillStrategy};

/// Completes a range with what was seen live, without asking an outside service.
///
/// The sources are asked in this order, each for what those before it did not have: the replay
/// source, the recorder's stored events, its buffer. Events prove nothing about bars that are not
/// among them, so what nobody has stays missing. Otherwise it fills as
/// [`FetcherBackfillStrategy`] does: only bars that have closed, only what is missing, in windows
/// side by side. Events that are no bars (off the series' grid) are listed and not stored.
#[derive(Clone, Debug)]
pub struct LiveReplayBackfillStrategy(FetcherBackfillStrategy);

impl LiveReplayBackfillStrategy {
    /// The name in metric labels.
    pub const NAME: &'static str = "live_replay";

    /// Fills from a replay source, at the time of the system's clock.
    #[must_use]
    pub fn of_replay(replay: impl DataFetcher) -> Self {
        Self(FetcherBackfillStrategy::named(Self::NAME, vec![Arc::new(replay)]))
    }

    /// Fills from the read side of a recorder, at the time of the system's clock.
    #[must_use]
    pub fn of_events(events: impl EventSource) -> Self {
        let parts = recorded(events).map(|part| Arc::new(part) as Arc<dyn DataFetcher>);
        Self(FetcherBackfillStrategy::named(Self::NAME, parts.into()))
    }

    /// Asks the read side of a recorder for what those before it did not have.
    #[must_use]
    pub fn with_events(self, events: impl EventSource) -> Self {
        Self(recorded(events).into_iter().fold(self.0, FetcherBackfillStrategy::then))
    }

    /// The clock by which bars close and pauses pass.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        Self(self.0.with_clock(clock))
    }

    /// Changes how it fills.
    #[must_use]
    pub fn with_config(self, config: BackfillConfig) -> Self {
        Self(self.0.with_config(config))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl AutoBackfillStrategy for LiveReplayBackfillStrategy {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn sources(&self) -> Vec<SourceId> {
        self.0.sources()
    }

    async fn ensure_range(
        &self,
        request: &BackfillRequest,
        backend: &dyn HistoryBackend,
        progress: &dyn ProgressSink,
    ) -> Result<BackfillReport> {
        self.0.ensure_range(request, backend, progress).await
    }
}

/// The stored events of a recorder and its buffer, in this order.
fn recorded(events: impl EventSource) -> [Recorded; 2] {
    let events: Arc<dyn EventSource> = Arc::new(events);
    [Part::Stored, Part::Buffered].map(|part| Recorded { events: Arc::clone(&events), part })
}

/// One part of what a recorder has.
#[derive(Debug)]
struct Recorded {
    events: Arc<dyn EventSource>,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Stored,
    Buffered,
}

#[async_trait]
impl DataFetcher for Recorded {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let events = match self.part {
            Part::Stored => self.events.stored(&request.key, request.range).await?,
            Part::Buffered => self.events.buffered(&request.key, request.range).await?,
        };
        Ok(Fetched::new(events))
    }

    fn source_id(&self) -> SourceId {
        let id = match self.part {
            Part::Stored => "recorder:stored",
            Part::Buffered => "recorder:buffer",
        };
        SourceId::new(id).expect("the id is a constant and not empty")
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits::none()
    }

    /// Events come whole, and prove nothing whatever is not among them.
    fn profile(&self) -> SourceProfile {
        SourceProfile::new(PageOrder::Unpaged)
    }
}
