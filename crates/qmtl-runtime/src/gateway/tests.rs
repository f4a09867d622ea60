//! Runs in a world: orders only while the gateway vouches for them, computing always.

use std::sync::Mutex;

use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::{SeriesKey, Timestamp};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, batch, key};
use qmtl_history_testkit::gateway::{FakeGateway, FakeWorld, Phase, SideAnswer};
use qmtl_io_memory::MemoryBackend;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::{ComputeNode, LiveBar, LiveSender, Mode, Order, Side, StreamInput, live_channel};

/// The bars that had closed at the start, all of them flat.
const CLOSED: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

fn btc() -> SeriesKey {
    key("ohlcv:x:BTC/USDT", "1m")
}

fn minute(index: u32) -> Timestamp {
    bar(&btc(), index)
}

fn closes(points: &[Timestamp], value: f64) -> RecordBatch {
    let values = Float64Array::from(vec![value; points.len()]);
    batch(points, [("close", Arc::new(values) as ArrayRef)])
}

/// A strategy in a world, whose signal is the close, at work.
struct Scene {
    clock: ManualClock,
    gateway: FakeGateway,
    activation: Activation,
    live: LiveSender,
    computed: UnboundedReceiver<Timestamp>,
    orders: Arc<Mutex<Vec<Order>>>,
    run: JoinHandle<Result<Session>>,
    fed: u32,
}

fn strategy(
    clock: &ManualClock,
    computed: UnboundedSender<Timestamp>,
    orders: &Arc<Mutex<Vec<Order>>>,
) -> crate::StrategyBuilder {
    let flat = FakeFetcher::new("history")
        .with_rows(|request| closes(&request.range.points(request.key.interval).collect::<Vec<_>>(), 1.0));
    let input = StreamInput::builder(btc().node_id.as_str())
        .interval("1m")
        .period(3)
        .backend(MemoryBackend::new())
        .fetcher(flat)
        .clock(clock.clone())
        .build()
        .unwrap();
    let orders = Arc::clone(orders);
    let signal = ComputeNode::slices("signal".parse().unwrap(), 3, move |windows| {
        computed.send(windows.ts()).unwrap();
        windows.f64(0)[2]
    });
    let signal =
        signal.reads(btc(), "close").orders_to(move |order| orders.lock().unwrap().push(order.clone()));
    Strategy::builder().input(input).node(signal)
}

impl Scene {
    async fn start(world: FakeWorld, schedule: &[(Phase, usize)]) -> Self {
        let clock = ManualClock::new(minute(CLOSED));
        let gateway = FakeGateway::start(world, clock.clone()).await.unwrap();
        gateway.schedule(schedule.iter().copied());
        let world = World::new("the world/1", gateway.url())
            .unwrap()
            .with_clock(clock.clone())
            .with_poll_interval(SECOND)
            .with_stale_after(3 * SECOND);
        let (live, receiver) = live_channel(8);
        let (sender, computed) = unbounded_channel();
        let orders = Arc::default();
        let strategy = strategy(&clock, sender, &orders).live(receiver).build().unwrap();
        let activation = world.activation();
        let run = tokio::spawn(async move { Runner::new().run_in(strategy, &world).await });
        let mut scene = Self { clock, gateway, activation, live, computed, orders, run, fed: 0 };
        assert_eq!(scene.computed.recv().await, Some(minute(CLOSED - 1)), "the replay of history");
        scene
    }

    /// Lets polls happen until the long side may act, or may not.
    async fn until_allowed(&self, allowed: bool) {
        loop {
            // Only when the link and the live side wait, everything that came was looked at.
            self.clock.wait_for_sleepers(2).await;
            if self.activation.allowed(Side::Long).is_some() == allowed {
                return;
            }
            self.clock.advance(SECOND);
        }
    }

    /// Feeds one bar with this close, which is computed in any case.
    async fn feed(&mut self, close: f64) {
        let ts = minute(CLOSED + self.fed);
        self.fed += 1;
        self.live.send(LiveBar::new(btc(), ts, closes(&[ts], close))).await.unwrap();
        assert_eq!(self.computed.recv().await, Some(ts));
    }

    /// Ends the live data; the orders as bar, side and weight.
    async fn end(self) -> (Session, Vec<(u32, Side, f64)>) {
        drop(self.live);
        let session = self.run.await.unwrap().unwrap();
        let orders = self.orders.lock().unwrap();
        let bar_of =
            |order: &Order| u32::try_from((order.ts.as_secs() - minute(CLOSED).as_secs()) / 60).unwrap();
        let told = orders.iter().map(|order| (bar_of(order), order.side, order.allowed.weight)).collect();
        (session, told)
    }
}

fn world() -> FakeWorld {
    FakeWorld::live("the world/1")
}

#[tokio::test]
async fn orders_follow_the_worlds_decision_and_activation() {
    let mut scene = Scene::start(world(), &[]).await;
    scene.until_allowed(true).await;
    scene.feed(2.0).await;
    scene.feed(-2.0).await;
    scene.feed(0.0).await;

    scene.gateway.change_world(|world| {
        world.sides[0] = SideAnswer { active: true, weight: 0.5, freeze: false, drain: false };
        world.sides[1] = SideAnswer { active: false, weight: 1.0, freeze: false, drain: false };
    });
    let halved = |activation: &Activation| activation.allowed(Side::Long).is_some_and(|a| a.weight == 0.5);
    while !halved(&scene.activation) || scene.activation.allowed(Side::Short).is_some() {
        scene.clock.wait_for_sleepers(2).await;
        scene.clock.advance(SECOND);
    }
    scene.feed(2.0).await;
    scene.feed(-2.0).await;

    scene.gateway.change_world(|world| world.mode = "compute-only".into());
    scene.until_allowed(false).await;
    assert_eq!(scene.activation.mode(), Some(Mode::ComputeOnly));
    scene.feed(2.0).await;

    let (session, orders) = scene.end().await;
    assert_eq!(orders, [(0, Side::Long, 1.0), (1, Side::Short, 1.0), (3, Side::Long, 0.5)]);
    assert!(session.warmup.is_ready() && session.pipeline.failures().next().is_none());
}

#[tokio::test]
async fn a_gateway_that_is_stale_or_down_halts_orders_but_not_the_strategy() {
    for phase in [Phase::Stale, Phase::Down] {
        let mut scene = Scene::start(world(), &[]).await;
        scene.until_allowed(true).await;
        scene.feed(2.0).await;
        scene.gateway.set_phase(phase);
        // What was allowed holds to its end, and no longer.
        scene.until_allowed(false).await;
        scene.feed(2.0).await;
        scene.gateway.set_phase(Phase::Up);
        scene.until_allowed(true).await;
        scene.feed(2.0).await;
        let (session, orders) = scene.end().await;
        assert_eq!(orders, [(0, Side::Long, 1.0), (2, Side::Long, 1.0)], "{phase:?}");
        assert_eq!(session.pipeline.results(&"signal".parse().unwrap()).unwrap().1.last(), Some(&2.0));
    }
}

#[tokio::test]
async fn a_gateway_that_comes_late_is_told_everything() {
    let mut scene = Scene::start(world(), &[(Phase::Down, 4), (Phase::Stale, 3)]).await;
    scene.feed(2.0).await;
    scene.until_allowed(true).await;
    scene.feed(2.0).await;
    scene.clock.wait_for_sleepers(2).await;
    let expected = json!([{
        "node_id": "ohlcv:x:BTC/USDT",
        "interval": 60,
        "rows": 3,
        "coverage_bounds": [minute(97).as_secs(), minute(99).as_secs()],
        "conformance_flags": {},
        "conformance_warnings": [],
        "as_of": minute(100).to_string(),
        "world_id": "the world/1",
    }]);
    assert_eq!(json!(scene.gateway.history("strategy-1")), expected);
    assert_eq!(scene.end().await.1, [(1, Side::Long, 1.0)]);
}

#[tokio::test]
async fn a_gateway_that_has_forgotten_the_strategy_is_told_again() {
    let mut scene = Scene::start(world(), &[]).await;
    scene.until_allowed(true).await;
    scene.gateway.forget();
    scene.until_allowed(false).await;
    scene.until_allowed(true).await;
    scene.feed(2.0).await;
    let submitted = |seen: &&qmtl_history_testkit::gateway::Seen| seen.path == "/strategies";
    assert_eq!(scene.gateway.requests().iter().filter(submitted).count(), 2);
    assert_eq!(scene.end().await.1.len(), 1);
}

#[tokio::test]
async fn what_the_gateway_is_asked_is_the_contracts() {
    let scene = Scene::start(world(), &[]).await;
    scene.until_allowed(true).await;
    let requests = scene.gateway.requests();
    let asked: Vec<_> =
        requests[..4].iter().map(|seen| (seen.method.as_str(), seen.path.as_str(), seen.status)).collect();
    assert_eq!(
        asked,
        [
            ("POST", "/strategies", 202),
            ("GET", "/worlds/the%20world%2F1/decide", 200),
            ("GET", "/worlds/the%20world%2F1/activation", 200),
            ("GET", "/worlds/the%20world%2F1/activation", 200),
        ]
    );
    let query = |name: &str| requests[3].query[name].as_str();
    assert_eq!((query("strategy_id"), query("side")), ("strategy-1", "short"));
    scene.end().await;
}

#[tokio::test]
async fn every_request_has_the_token_and_none_is_told() {
    let clock = ManualClock::new(minute(CLOSED));
    let locked = FakeWorld { token: Some("canary-1".into()), ..FakeWorld::live("w") };
    let gateway = FakeGateway::start(locked, TokioClock::new()).await.unwrap();
    let run = async |token: &str| {
        let (computed, _kept) = unbounded_channel();
        let strategy = strategy(&clock, computed, &Arc::default()).build().unwrap();
        let world = World::new("w", gateway.url()).unwrap().with_token(token).unwrap();
        (format!("{world:?}"), Runner::new().run_in(strategy, &world).await)
    };
    let (_, session) = run("canary-1").await;
    assert_eq!(session.unwrap().replayed.bars, 3);
    assert!(gateway.requests().iter().all(|seen| seen.status < 300));
    let (told, refused) = run("canary-2").await;
    let told = format!("{told} {}", refused.unwrap_err().chain());
    assert!(told.contains("status: 401") && !told.contains("canary"), "{told}");
    for bad in ["", "two words", "ca\nary", "é"] {
        let error = World::new("w", gateway.url()).unwrap().with_token(bad).unwrap_err();
        assert_eq!(error.to_string(), "a bearer token is one word of printable ASCII (world: w)");
    }
}

#[tokio::test]
async fn the_hash_of_the_graph_changes_with_a_nodes_version() {
    let hash = |version: Option<&str>| {
        let (computed, _kept) = unbounded_channel();
        let node = ComputeNode::slices("own".parse().unwrap(), 1, |_| 0.0).reads(btc(), "close");
        let node = version.into_iter().fold(node, ComputeNode::version);
        let strategy = strategy(&ManualClock::new(minute(CLOSED)), computed, &Arc::default());
        let submission = wire::Submission::new(&strategy.node(node).build().unwrap(), "w");
        serde_json::to_value(submission).unwrap()["meta"]["graph_hash"].as_str().unwrap().to_owned()
    };
    assert_eq!((hash(None).len(), hash(Some("1"))), (64, hash(Some("1"))));
    assert!(hash(Some("1")) != hash(Some("2")) && hash(Some("1")) != hash(None));
}

#[tokio::test]
async fn without_live_data_it_ends_when_the_history_is_published() {
    let clock = ManualClock::new(minute(CLOSED));
    let gateway = FakeGateway::start(FakeWorld::live("w"), TokioClock::new()).await.unwrap();
    let (computed, _kept) = unbounded_channel();
    let strategy = strategy(&clock, computed, &Arc::default()).build().unwrap();
    let session = Runner::run(strategy, "w", gateway.url()).await.unwrap();
    assert_eq!((session.replayed.bars, gateway.history("strategy-1").len()), (3, 1));
}

#[tokio::test]
async fn a_strategy_that_is_refused_does_not_run() {
    let clock = ManualClock::new(minute(CLOSED));
    let gateway = FakeGateway::start(FakeWorld::live("another"), clock.clone()).await.unwrap();
    let (computed, _kept) = unbounded_channel();
    let (_live, receiver) = live_channel(1);
    let strategy = strategy(&clock, computed, &Arc::default()).live(receiver).build().unwrap();
    let error = Runner::run(strategy, "w", gateway.url()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the gateway refuses (status: 422, answer: {\"detail\":\"the strategy is not for this world\"}, world: w)"
    );
}

#[tokio::test]
async fn a_password_in_the_url_is_never_told() {
    let gateway = FakeGateway::start(world(), ManualClock::new(minute(0))).await.unwrap();
    gateway.set_phase(Phase::Down);
    let url = gateway.url().replace("://", "://desk:canary@");
    let world = World::new("w", &url).unwrap();
    let error = Client::new(&world).unwrap().decide("w").await.err().unwrap();
    let told = format!("{world:?} {error:?} {}", error.chain());
    assert!(told.contains("the gateway does not answer") && !told.contains("canary"), "{told}");
    for bad in ["ftp://desk:canary@host", "canary", "http://", ""] {
        let error = World::new("w", bad).unwrap_err();
        assert!(error.to_string().starts_with("a gateway is an HTTP URL"), "{error}");
        assert!(!error.chain().contains("canary"), "{}", error.chain());
    }
    assert_eq!(World::new("", "http://host").unwrap_err().to_string(), "a world needs an id");
}
