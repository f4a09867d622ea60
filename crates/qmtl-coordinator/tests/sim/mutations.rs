//! Ways in which the system is wrong, each of which an invariant sees.

use std::sync::Arc;
use std::time::Duration;

use qmtl_backfill::lease::{BackfillCoordinator, Command, Outcome, Page, Query, Reply};
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, DataFetcher, FetchLimits, FetchRequest, Fetched,
    HistoryBackend, OnConflict, ReadRequest, Result, SeriesKey, SourceId, TimeRange, WriteReceipt,
    WriteRequest, async_trait, frame,
};
use qmtl_history_testkit::fixtures;

use crate::invariants::Invariant;
use crate::leases::Flaw;
use crate::run::Rules;

pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    pub(crate) trips: Invariant,
    pub(crate) rules: fn() -> Rules,
}

pub(crate) const ALL: [Mutation; 10] = [
    Mutation {
        name: "grants what is held",
        trips: Invariant::OneHolder,
        rules: || flawed(Flaw::GrantsWhatIsHeld),
    },
    Mutation {
        name: "forgets its fences when it is restarted",
        trips: Invariant::FencesIncrease,
        rules: || flawed(Flaw::ForgetsFences),
    },
    Mutation {
        name: "takes any token when a window is completed",
        trips: Invariant::OwnTokens,
        rules: || flawed(Flaw::TakesAnyToken),
    },
    Mutation {
        name: "calls a window done that is not",
        trips: Invariant::WholeIsWhole,
        rules: || client(Lie::CompletesWhatItGivesBack),
    },
    Mutation {
        name: "writes after its lease is over",
        trips: Invariant::WritesAreLeased,
        // A clock that is so slow believes in a lease for longer than it lasts.
        rules: || Rules { ppm: -300_000, ..Rules::default() },
    },
    Mutation {
        name: "replaces rows that are there",
        trips: Invariant::NothingChanges,
        rules: || Rules { backend: Box::new(|inner| Arc::new(Replaces(inner))), ..Rules::default() },
    },
    Mutation {
        name: "asks twice",
        trips: Invariant::OnceAGrant,
        rules: || Rules { fetcher: Box::new(|inner| Arc::new(AsksTwice(inner))), ..Rules::default() },
    },
    Mutation {
        name: "says now and then that somebody holds what nobody holds",
        trips: Invariant::Linear,
        rules: || flawed(Flaw::SaysHeld),
    },
    Mutation {
        name: "has a clock that stands still once it was restarted",
        trips: Invariant::Ends,
        rules: || flawed(Flaw::StandsStill),
    },
    Mutation {
        name: "takes every window for dead",
        trips: Invariant::NothingLost,
        rules: || client(Lie::TakesAllForDead),
    },
];

fn flawed(flaw: Flaw) -> Rules {
    Rules { flaw, ..Rules::default() }
}

fn client(lie: Lie) -> Rules {
    Rules { coordinator: Box::new(move |inner| Arc::new(Lying { inner, lie })), ..Rules::default() }
}

/// What a client gets wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    CompletesWhatItGivesBack,
    TakesAllForDead,
}

#[derive(Debug)]
struct Lying {
    inner: Arc<dyn BackfillCoordinator>,
    lie: Lie,
}

#[async_trait]
impl BackfillCoordinator for Lying {
    fn id(&self) -> &str {
        "lying"
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        let command = match (self.lie, command) {
            (Lie::TakesAllForDead, Command::Claim { ttl, worker, .. }) => {
                // The first one is granted to nobody.
                let ghost = Command::Claim { ttl, worker: Some("ghost".into()), request_id: None };
                drop(self.inner.apply(key, ghost).await);
                Command::Claim { ttl, worker, request_id: None }
            }
            (Lie::CompletesWhatItGivesBack, Command::Release { token, .. }) => {
                Command::Complete { token, missing: 0, ratio: 1.0, retry_after: Duration::ZERO }
            }
            (_, command) => command,
        };
        let mut reply = self.inner.apply(key, command).await;
        if let (Lie::TakesAllForDead, Ok(Reply::Refused(refusal))) = (self.lie, &mut reply) {
            refusal.outcome = Outcome::Dead;
        }
        reply
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        self.inner.inspect(query).await
    }
}

/// A fetcher that asks for everything twice.
#[derive(Debug)]
struct AsksTwice(Arc<dyn DataFetcher>);

#[async_trait]
impl DataFetcher for AsksTwice {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.0.fetch(request).await?;
        self.0.fetch(request).await
    }

    fn source_id(&self) -> SourceId {
        self.0.source_id()
    }

    fn limits(&self) -> FetchLimits {
        self.0.limits()
    }
}

/// A store whose writes win over what is there, with rows of their own.
#[derive(Debug)]
struct Replaces(Arc<dyn HistoryBackend>);

#[async_trait]
impl HistoryBackend for Replaces {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.0.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.0.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let mut request = request.clone();
        request.on_conflict = OnConflict::Replace;
        let points: Vec<_> = frame::row_runs(&request.key, &rows)?.points(request.key.interval).collect();
        let other = fastrand::f64();
        let column = || -> ArrayRef { Arc::new(Float64Array::from(vec![other; points.len()])) };
        let rows = ["open", "high", "low", "close", "volume"].map(|name| (name, column()));
        self.0.write_rows(&request, fixtures::batch(&points, rows)).await
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        self.0.coverage(key, range).await
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.0.series().await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.0.revision(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}
