//! The program with one rule broken at a time, and the invariant that must see it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use qmtl_backfill::FollowConfig;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Coverage, DataFetcher, FetchLimits, FetchRequest, Fetched,
    HistoryBackend, Maintenance, PageOrder, RangeSet, ReadRequest, Result, SeriesKey, SourceId,
    SourceProfile, TimeRange, WriteReceipt, WriteRequest, async_trait,
};
use qmtl_io_exchange::{Transport, TransportAnswer};
use serde_json::Value;

use crate::invariants::Invariant;
use crate::run::Rules;
use crate::world::{Fault, Kind, World};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 86_400_000_000;

/// A broken rule.
pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    /// What must be seen to break.
    pub(crate) trips: Invariant,
    pub(crate) rules: fn() -> Rules,
    /// Makes a world in which the rule matters; `false` when this one cannot be made so.
    pub(crate) world: fn(&mut World) -> bool,
}

/// Every mutation.
pub(crate) const ALL: &[Mutation] = &[
    Mutation {
        name: "believes that a bar is absent before it is due",
        trips: Invariant::ProofsHold,
        rules: || claims(|profile| profile.with_publish_lag(Duration::ZERO), kept),
        world: |world| world.only(&[Fault::Late]),
    },
    Mutation {
        name: "takes a short page for a whole one",
        trips: Invariant::ProofsHold,
        rules: || claims(|_| SourceProfile::new(PageOrder::Unpaged), kept),
        world: |world| world.only(&[Fault::ShortPages]),
    },
    Mutation {
        name: "takes pages that are newest first for oldest first",
        trips: Invariant::ProofsHold,
        rules: || claims(|_| SourceProfile::new(PageOrder::OldestFirst), kept),
        world: |world| is_of(world, Kind::Coinbase) && world.only(&[Fault::ShortPages]),
    },
    Mutation {
        name: "asks once about rows that are left out by chance",
        trips: Invariant::ProofsHold,
        rules: asks_once,
        world: |world| world.only(&[Fault::RandomPart]),
    },
    Mutation {
        name: "asks once about a page of its ends alone",
        trips: Invariant::ProofsHold,
        rules: asks_once,
        world: |world| world.only(&[Fault::EndsOnly]),
    },
    Mutation {
        name: "asks once about an empty page",
        trips: Invariant::ProofsHold,
        rules: asks_once,
        world: |world| world.only(&[Fault::EmptyPages]),
    },
    Mutation {
        name: "takes an answer of status 206 for a whole one",
        trips: Invariant::ProofsHold,
        rules: || with_transport(believe_part),
        world: |world| world.only(&[Fault::Partial]),
    },
    Mutation {
        name: "stores rows of a longer interval that hide how long they are",
        trips: Invariant::NothingInvented,
        rules: || with_transport(hide_lengths),
        world: |world| {
            world.window_bars = Some(7);
            is_of(world, Kind::Binance) && world.only(&[Fault::WrongInterval])
        },
    },
    Mutation {
        name: "takes a row beside the grid for none",
        trips: Invariant::ProofsHold,
        rules: || with_transport(drop_rows_off_grid),
        world: |world| world.only(&[Fault::OffGrid]),
    },
    Mutation {
        name: "dates its proofs by its own clock alone",
        trips: Invariant::ProofsHold,
        rules: || claims(|profile| profile, undated),
        world: |world| clock_is_set(world, 10 * MINUTE, &[Fault::Late]),
    },
    Mutation {
        name: "believes proofs from the future",
        trips: Invariant::ProofsHold,
        rules: || Rules {
            believed: |proof, now| {
                if proof.is_ahead_of(now) { proof.ranges.clone() } else { RangeSet::new() }
            },
            ..claims(|profile| profile, undated)
        },
        world: |world| clock_is_set(world, 20 * DAY, &[Fault::Late]),
    },
    Mutation {
        name: "goes by its own clock in what has closed",
        trips: Invariant::NothingInvented,
        // Nobody believes a proof here: that it stores bars which are open is to be seen.
        rules: || Rules { believed: |_, _| RangeSet::new(), ..with_transport(hide_time) },
        world: |world| clock_is_set(world, 10 * MINUTE, &[]),
    },
    Mutation {
        name: "falls silent when its clock steps back",
        trips: Invariant::NeverSilent,
        rules: || Rules { follow: None, ..Rules::default() },
        world: |world| clock_is_set(world, -10 * MINUTE, &[]),
    },
    Mutation {
        name: "reads no bar again that it stored early",
        trips: Invariant::NothingLost,
        rules: || Rules { follow: None, ..Rules::default() },
        world: |world| world.only(&[Fault::Revised]),
    },
    Mutation {
        name: "asks every second",
        trips: Invariant::RequestsBounded,
        rules: || Rules {
            follow: Some(FollowConfig::default().with_ask_after((1..59).map(Duration::from_secs).collect())),
            ..Rules::default()
        },
        world: |world| is_of(world, Kind::Coinbase) && world.only(&[]),
    },
    Mutation {
        name: "counts rows twice",
        trips: Invariant::CountsAddUp,
        rules: || Rules { backend: Box::new(|inner| Arc::new(Boastful(inner))), ..Rules::default() },
        world: |world| world.only(&[]),
    },
];

fn is_of(world: &World, kind: Kind) -> bool {
    world.markets.iter().all(|market| market.kind == kind)
}

/// A clock that is wrong by so much from the third minute to a minute before the calm.
fn clock_is_set(world: &mut World, by: i64, faults: &[Fault]) -> bool {
    let suits = world.only(faults);
    let calm = world.calm.as_micros() - crate::world::begin().as_micros();
    world.set_clock(3 * MINUTE, calm - MINUTE, by);
    suits
}

fn asks_once() -> Rules {
    claims(|profile| profile.with_gapless(false), kept)
}

/// A fetcher that says other things of itself and of its answers than are true.
#[derive(Debug)]
struct Claims {
    inner: Arc<dyn DataFetcher>,
    profile: fn(SourceProfile) -> SourceProfile,
    answer: fn(Fetched) -> Fetched,
}

fn claims(profile: fn(SourceProfile) -> SourceProfile, answer: fn(Fetched) -> Fetched) -> Rules {
    Rules { fetcher: Box::new(move |inner| Arc::new(Claims { inner, profile, answer })), ..Rules::default() }
}

fn kept(answer: Fetched) -> Fetched {
    answer
}

fn undated(answer: Fetched) -> Fetched {
    answer.with_as_of(None)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl DataFetcher for Claims {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.inner.fetch(request).await.map(self.answer)
    }

    fn source_id(&self) -> SourceId {
        self.inner.source_id()
    }

    fn limits(&self) -> FetchLimits {
        self.inner.limits()
    }

    fn profile(&self) -> SourceProfile {
        (self.profile)(self.inner.profile())
    }

    async fn is_current(&self, request: &FetchRequest, version: &str) -> bool {
        self.inner.is_current(request, version).await
    }
}

type Change = fn(&str, TransportAnswer) -> TransportAnswer;

/// An exchange whose answers are changed on their way.
#[derive(Debug)]
struct Changed(Arc<dyn Transport>, Change);

fn with_transport(change: Change) -> Rules {
    Rules { transport: Box::new(move |inner| Arc::new(Changed(inner, change))), ..Rules::default() }
}

#[async_trait]
impl Transport for Changed {
    async fn get(&self, url: &str) -> io::Result<TransportAnswer> {
        self.0.get(url).await.map(|answer| (self.1)(url, answer))
    }
}

/// The answer with other rows, where it has some.
fn with_rows(answer: TransportAnswer, change: impl FnOnce(&mut Vec<Value>)) -> TransportAnswer {
    let mut answer = answer;
    if let Ok(Value::Array(mut rows)) = serde_json::from_slice(&answer.body) {
        change(&mut rows);
        answer.body = Value::Array(rows).to_string().into_bytes();
    }
    answer
}

/// Milliseconds of the bars that a page of Binance was asked for; nothing of others.
fn length(url: &str) -> Option<i64> {
    [("interval=1m&", 60_000), ("interval=5m&", 300_000)]
        .into_iter()
        .find(|(name, _)| url.contains(name))
        .map(|(_, length)| length)
}

fn hide_lengths(url: &str, answer: TransportAnswer) -> TransportAnswer {
    let Some(length) = length(url) else { return answer };
    with_rows(answer, |rows| {
        for row in rows.iter_mut().filter_map(Value::as_array_mut) {
            row[6] = (row[0].as_i64().unwrap_or(0) + length - 1).into();
        }
    })
}

fn drop_rows_off_grid(url: &str, answer: TransportAnswer) -> TransportAnswer {
    let Some(length) = length(url) else { return answer };
    with_rows(answer, |rows| {
        rows.retain(|row| row[0].as_i64().is_some_and(|opens| opens % length == 0));
    })
}

fn believe_part(_: &str, answer: TransportAnswer) -> TransportAnswer {
    let mut answer = answer;
    if answer.status.as_u16() == 206 {
        answer.status = TransportAnswer::new(200, "").status;
    }
    answer
}

fn hide_time(url: &str, answer: TransportAnswer) -> TransportAnswer {
    let mut answer = answer;
    answer.headers.clear();
    if url.ends_with("/time") { TransportAnswer::new(404, "") } else { answer }
}

/// A store that reports twice as many rows as it has stored.
#[derive(Debug)]
struct Boastful(Arc<dyn HistoryBackend>);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl HistoryBackend for Boastful {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.0.read_range(request).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.0.schema(key).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        let mut receipt = self.0.write_rows(request, rows).await?;
        receipt.rows_written *= 2;
        Ok(receipt)
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

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.0.maintenance()
    }
}
