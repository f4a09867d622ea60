//! The server as clients on the network see it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, DistributedBackfillCoordinator, InProcessCoordinator, Page, Query, Reply,
    wire,
};
use qmtl_coordinator::{BearerTokens, LeaseStore, Limits, Server};
use qmtl_history_api::{Clock, Timestamp};
use qmtl_history_api::{ErrorKind, Result, StopSignal, async_trait};
use qmtl_observe::TokioClock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::suite;

/// A server on a port of its own.
struct Running {
    address: SocketAddr,
    stop: StopSignal,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(server: Server) -> Self {
        let listener = server.bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), StopSignal::new());
        let serving = tokio::spawn(server.serve(listener, stop.clone()));
        Self { address, stop, serving }
    }

    async fn plain() -> Self {
        Self::start(Server::new(store())).await
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self) -> DistributedBackfillCoordinator {
        DistributedBackfillCoordinator::new(&self.url()).unwrap()
    }

    /// Sends bytes as they are, and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Posts a body by hand: the status and the JSON of the answer.
    async fn post(&self, path: &str, body: &[u8], headers: &str) -> (u16, Value) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let answer = self.raw(&[head.as_bytes(), body].concat()).await.unwrap();
        parsed(&answer)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        parsed(
            &self
                .raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap(),
        )
    }
}

fn parsed(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn store() -> Arc<dyn LeaseStore> {
    Arc::new(InProcessCoordinator::new(suite::policy()))
}

#[tokio::test]
async fn its_client_holds() {
    let running = Running::plain().await;
    suite::run(running.client()).await;
}

/// A client of the Python original, to the letter.
#[tokio::test]
async fn clients_of_the_original_are_served() {
    let running = Running::plain().await;
    let key = "blake3:ab:60:1700:1760:world-1:2024-01-01T00:00:00Z";
    let post = async |call: &str, body: Value| {
        running.post(&format!("/v1/leases/{call}"), body.to_string().as_bytes(), "").await
    };
    let (status, claimed) = post("claim", json!({"key": key, "lease_ms": 60000})).await;
    let token = claimed["lease"]["token"].as_str().unwrap();
    assert!(status == 200 && claimed["lease"]["lease_until_ms"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(claimed["completion_ratio"], json!(0.0));
    let (status, refused) = post("claim", json!({"key": key, "lease_ms": 60000})).await;
    assert_eq!((status, &refused["outcome"]), (409, &json!("held")));
    assert_eq!(post("complete", json!({"key": key, "token": "stale"})).await.0, 409);
    assert_eq!(post("complete", json!({"key": "other", "token": token})).await.0, 404);
    assert_eq!(post("fail", json!({"key": key, "token": token, "reason": "r"})).await.0, 200);
    let (status, claimed) = post("claim", json!({"key": key, "lease_ms": 60000})).await;
    assert_eq!(status, 200, "what failed may be claimed at once");
    let token = &claimed["lease"]["token"];
    for _ in 0..2 {
        let (status, done) = post("complete", json!({"key": key, "token": token})).await;
        assert_eq!((status, &done["completion_ratio"]), (200, &json!(1.0)));
    }
    let (status, page) = running.get("/v1/leases/inspect?prefix=blake3%3Aab&state=done").await;
    assert_eq!((status, &page["leases"][0]["key"]), (200, &json!(key)));
    for path in ["/health", "/healthz"] {
        assert_eq!(running.get(path).await, (200, json!({"status": "ok", "store": "in-process"})));
    }
}

#[tokio::test]
async fn requests_that_nobody_should_send_are_refused() {
    let running = Running::plain().await;
    let path = "/v1/leases/claim";
    let padded = |bytes: usize| {
        let body = json!({"key": "k", "lease_ms": 1, "more": ""}).to_string();
        body.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - body.len())))
    };
    assert_eq!(
        running.post(path, padded(wire::LARGEST_BODY).as_bytes(), "").await.0,
        200,
        "what nobody knows is ignored"
    );
    let (status, told) = running.post(path, padded(wire::LARGEST_BODY + 1).as_bytes(), "").await;
    assert!(status == 413 && told["error"].as_str().unwrap().contains("65536"), "{status} {told}");
    for body in [
        "",
        "{}",
        "[]",
        "{\"key\": \"k\"}",
        "{\"key\": 1, \"lease_ms\": 1}",
        "\u{0}",
        "{\"key\": \"\", \"lease_ms\": 1}",
    ] {
        let (status, told) = running.post(path, body.as_bytes(), "").await;
        assert!(status == 400 && told["error"].is_string(), "{body}: {status} {told}");
    }
    assert_eq!(running.post(path, &[0xff, 0xfe], "").await.0, 400);
    assert_eq!(running.get(path).await.0, 405);
    assert_eq!(running.get("/v1/leases/nothing").await.0, 404);
    assert_eq!(running.get("/v1/leases/inspect?state=alive").await.0, 400);
    assert_eq!(running.get("/v1/leases/inspect?limit=100000").await.0, 400);
    assert!(running.raw(b"\x16\x03\x01\x02\x00 hello").await.is_ok_and(|answer| answer.contains("400")));
    assert_eq!(running.get("/health").await.0, 200);
}

#[tokio::test]
async fn without_a_token_nobody_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "first-token-of-two\nsecond-token-of-two\n").unwrap();
    let server = || Server::new(store());
    let outside = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let error = server().bind(outside).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let server = server().with_tokens(BearerTokens::from_file(&file).unwrap());
    assert!(server.bind(outside).await.is_ok());
    let running = Running::start(server).await;
    let body = br#"{"key": "k", "lease_ms": 60000}"#;
    for headers in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer first-token-of-tw\r\n",
        "Authorization: Basic first-token-of-two\r\n",
        "Authorization: first-token-of-two\r\n",
    ] {
        let (status, told) = running.post("/v1/leases/claim", body, headers).await;
        assert_eq!(status, 401, "{headers} {told}");
        assert!(!told.to_string().contains("first"));
    }
    assert_eq!(running.get("/v1/leases/inspect").await.0, 401);
    assert_eq!(running.get("/health").await.0, 200);
    for token in ["first-token-of-two", "second-token-of-two"] {
        let headers = format!("authorization: bearer {token}\r\n");
        assert_ne!(running.post("/v1/leases/claim", body, &headers).await.0, 401);
        let client = running.client().with_bearer(token).unwrap();
        client.inspect(&Query::new("")).await.unwrap();
        assert!(!format!("{client:?}").contains(token));
    }
    let error = running.client().inspect(&Query::new("")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.is_retryable(), "{error}");
    let error = running
        .client()
        .with_bearer("canary-of-a-token")
        .unwrap()
        .inspect(&Query::new(""))
        .await
        .unwrap_err();
    assert!(!error.chain().contains("canary"), "{error}");
}

/// A store that answers when it is let.
#[derive(Debug)]
struct Slow {
    inner: InProcessCoordinator,
    asked: Notify,
    let_go: Notify,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: InProcessCoordinator::default(), asked: Notify::new(), let_go: Notify::new() })
    }
}

#[async_trait]
impl BackfillCoordinator for Slow {
    fn id(&self) -> &str {
        "slow"
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        self.asked.notify_one();
        self.let_go.notified().await;
        self.inner.apply(key, command).await
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        self.inner.inspect(query).await
    }
}

#[async_trait]
impl LeaseStore for Slow {
    async fn counts(&self) -> Result<Vec<(qmtl_backfill::lease::State, u64)>> {
        self.inner.counts().await
    }

    async fn forget(&self, before: Timestamp) -> Result<u64> {
        self.inner.forget(before).await
    }
}

fn claim() -> Command {
    Command::Claim { ttl: Duration::from_secs(60), worker: None, request_id: None }
}

#[tokio::test]
async fn what_is_being_answered_is_answered_before_it_stops() {
    let slow = Slow::new();
    let running = Running::start(Server::new(Arc::clone(&slow) as Arc<dyn LeaseStore>)).await;
    let client = running.client();
    let asking = tokio::spawn(async move { client.apply("k", claim()).await });
    slow.asked.notified().await;
    running.stop.stop();
    // Nobody else is let in.
    while TcpStream::connect(running.address).await.is_ok() {
        TokioClock::new().sleep(Duration::from_millis(5)).await;
    }
    assert!(!running.serving.is_finished());
    slow.let_go.notify_one();
    assert!(matches!(asking.await.unwrap(), Ok(Reply::Granted(_))));
    running.serving.await.unwrap();
}

#[tokio::test]
async fn it_sheds_what_is_too_much_and_ends_what_takes_too_long() {
    let slow = Slow::new();
    let mut limits = Limits::default();
    (limits.requests, limits.request) = (2, Duration::from_millis(300));
    let server = Server::new(Arc::clone(&slow) as Arc<dyn LeaseStore>).with_limits(limits);
    let running = Running::start(server).await;
    let body = br#"{"key": "k", "lease_ms": 60000}"#;
    let all = join_all((0..6).map(|_| running.post("/v1/leases/claim", body, ""))).await;
    let told = |what: &str| {
        all.iter().filter(|(_, told)| told["error"].as_str().is_some_and(|told| told.contains(what))).count()
    };
    assert!(all.iter().all(|(status, _)| *status == 503), "{all:?}");
    assert_eq!((told("too many requests"), told("took too long")), (4, 2), "{all:?}");
    assert_eq!(running.get("/health").await.0, 200, "what says how it is never waits");
}

/// A head that is sent byte by byte, or never, keeps nobody else out.
#[tokio::test]
async fn slow_heads_and_a_thousand_connections_keep_nobody_out() {
    let mut limits = Limits::default();
    limits.head = Duration::from_millis(400);
    let running = Running::start(Server::new(store()).with_limits(limits)).await;
    let address = running.address;
    let idle: Vec<_> = join_all((0..1_000).map(|_| TcpStream::connect(address)))
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    suite::run(running.client()).await;
    drop(idle);
    let mut slow = TcpStream::connect(address).await.unwrap();
    let clock = TokioClock::new();
    let started = clock.monotonic();
    let mut is_closed = false;
    for byte in b"POST /v1/leases/claim HTTP/1.1\r\nHost: example\r\nX-Slow: "
        .iter()
        .chain(std::iter::repeat_n(&b'x', 300))
    {
        if slow.write_all(&[*byte]).await.is_err() {
            is_closed = true;
            break;
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
    assert!(is_closed, "after {:?}", clock.monotonic() - started);
}

/// A server that is down, or something else than a coordinator at its address, never means 'held'.
#[tokio::test]
async fn unreachable_is_not_held() {
    let running = Running::plain().await;
    let client = running.client().with_patience(Duration::from_secs(2), 2);
    running.stop.stop();
    running.serving.await.unwrap();
    let error = client.apply("k", claim()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    for url in
        ["coordinator:80", "ftp://x", "http://user:canary@host", "http://host/?a=canary", "not a url canary"]
    {
        let error = DistributedBackfillCoordinator::new(url).unwrap_err();
        assert!(
            error.kind() == ErrorKind::InvalidInput && !error.chain().contains("canary"),
            "{url}: {}",
            error.chain()
        );
    }
    assert_eq!(
        DistributedBackfillCoordinator::new("http://coordinator.local:8080/x/").unwrap().id(),
        "coordinator.local"
    );
}
