//! A loopback gateway: it takes strategies, decides and activates for one world, keeps what is
//! published to it, and goes stale, down and back by schedule.

mod routes;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use qmtl_history_api::Clock;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use routes::Answer;

/// The largest request that is read.
const MAX_BODY: usize = 1 << 20;
/// Requests that are remembered.
const LOG: usize = 10_000;

/// How the gateway answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// As it should.
    #[default]
    Up,
    /// With decisions of long ago and activations that it says itself are old.
    Stale,
    /// Not at all: connections break off.
    Down,
}

/// What the world says of a side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SideAnswer {
    /// Whether it is active.
    pub active: bool,
    /// The share of its size that an order should have.
    pub weight: f64,
    /// Everything stands still.
    pub freeze: bool,
    /// Nothing new begins.
    pub drain: bool,
}

/// The world for which the gateway speaks.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeWorld {
    /// Its id.
    pub id: String,
    /// `validate`, `compute-only`, `paper`, `live` or `shadow`.
    pub mode: String,
    /// For how long a decision holds, such as `300s`.
    pub ttl: String,
    /// What it says of `long` and of `short`.
    pub sides: [SideAnswer; 2],
    /// The bearer token without which nothing is answered, if there is one.
    pub token: Option<String>,
}

impl FakeWorld {
    /// A world that is live, with both sides active.
    #[must_use]
    pub fn live(id: &str) -> Self {
        let active = SideAnswer { active: true, weight: 1.0, freeze: false, drain: false };
        Self { id: id.to_owned(), mode: "live".into(), ttl: "300s".into(), sides: [active; 2], token: None }
    }
}

/// A request that came, in the order of coming.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// `GET` or `POST`.
    pub method: String,
    /// Its path, as it was sent.
    pub path: String,
    /// What followed the question mark.
    pub query: BTreeMap<String, String>,
    /// Its JSON, null when it had none.
    pub body: Value,
    /// The answer's status; 0 when there was none.
    pub status: u16,
}

/// A running gateway. Dropping it closes the port and every connection.
///
/// ```
/// use qmtl_history_testkit::fixtures::{ManualClock, start};
/// use qmtl_history_testkit::gateway::{FakeGateway, FakeWorld, Phase};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let gateway = FakeGateway::start(FakeWorld::live("sample"), ManualClock::new(start())).await?;
/// // Ten answers, then nothing for four requests, then old answers for ever.
/// gateway.schedule([(Phase::Up, 10), (Phase::Down, 4), (Phase::Stale, usize::MAX)]);
/// assert!(gateway.url().starts_with("http://127.0.0.1:"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FakeGateway {
    url: String,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    world: FakeWorld,
    clock: Arc<dyn Clock>,
    /// The ids of strategies by their submission.
    strategies: BTreeMap<String, String>,
    /// What was published to each strategy.
    history: BTreeMap<String, Vec<Value>>,
    /// Phases to come, each with the requests that are left of it; after the last one it is up.
    schedule: VecDeque<(Phase, usize)>,
    seen: VecDeque<Seen>,
    came: usize,
}

impl FakeGateway {
    /// Binds 127.0.0.1 and serves on the current tokio runtime; decisions are of `clock`'s time.
    pub async fn start(world: FakeWorld, clock: impl Clock) -> io::Result<Self> {
        let state = watch::Sender::new(State {
            world,
            clock: Arc::new(clock),
            strategies: BTreeMap::new(),
            history: BTreeMap::new(),
            schedule: VecDeque::new(),
            seen: VecDeque::new(),
            came: 0,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Ok(Self { url, state, accepting })
    }

    /// Such as `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Goes through these phases, each for so many requests, from the next one on; then it is up.
    pub fn schedule(&self, phases: impl IntoIterator<Item = (Phase, usize)>) {
        self.state.send_modify(|state| state.schedule = phases.into_iter().collect());
    }

    /// Stays in one phase until told otherwise.
    pub fn set_phase(&self, phase: Phase) {
        self.schedule([(phase, usize::MAX)]);
    }

    /// Changes the world.
    pub fn change_world(&self, change: impl FnOnce(&mut FakeWorld)) {
        self.state.send_modify(|state| change(&mut state.world));
    }

    /// Forgets every strategy, as after a restart without a memory.
    pub fn forget(&self) {
        self.state.send_modify(|state| state.strategies.clear());
    }

    /// The requests so far, the newest 10,000, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.state.borrow().seen.iter().cloned().collect()
    }

    /// What was published to a strategy.
    #[must_use]
    pub fn history(&self, strategy_id: &str) -> Vec<Value> {
        self.state.borrow().history.get(strategy_id).cloned().unwrap_or_default()
    }

    /// Returns when `count` more requests have come since the call.
    pub async fn wait_for_requests(&self, count: usize) {
        let target = self.state.borrow().came + count;
        let came = self.state.subscribe().wait_for(|state| state.came >= target).await.is_ok();
        assert!(came, "the gateway holds the sender of its own channel");
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until it is aborted; its connections end with it.
async fn accept(listener: TcpListener, state: watch::Sender<State>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, state.clone()));
        }
    }
}

async fn connection(stream: TcpStream, state: watch::Sender<State>) {
    let service = service_fn(|request: HttpRequest<Incoming>| respond(request, &state));
    // How it ended is the client's to judge.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Nothing is answered, and the connection ends.
#[derive(Debug)]
struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the gateway is down")
    }
}

impl std::error::Error for NoAnswer {}

async fn respond(
    request: HttpRequest<Incoming>,
    state: &watch::Sender<State>,
) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| NoAnswer)?.to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let mut seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        status: 0,
    };
    let token = head.headers.get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    let mut answer = None;
    state.send_modify(|state| {
        let phase = state.next_phase();
        let is_known = state.world.token.is_none() || state.world.token.as_deref() == token;
        answer = (phase != Phase::Down).then(|| {
            if is_known { routes::answer(state, &seen, phase) } else { Answer::unauthorized(token) }
        });
        seen.status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        if state.seen.len() == LOG {
            state.seen.pop_front();
        }
        state.seen.push_back(seen);
        state.came += 1;
    });
    let Answer { status, body, is_stale } = answer.ok_or(NoAnswer)?;
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    if is_stale {
        let value = hyper::header::HeaderValue::from_static("true");
        response.headers_mut().insert("x-stale", value);
    }
    Ok(response)
}

impl State {
    /// The phase of a request that has come.
    fn next_phase(&mut self) -> Phase {
        while let Some((phase, left)) = self.schedule.front_mut() {
            if let Some(rest) = left.checked_sub(1) {
                // The last number stands for ever.
                *left = if *left == usize::MAX { *left } else { rest };
                return *phase;
            }
            self.schedule.pop_front();
        }
        Phase::Up
    }
}
