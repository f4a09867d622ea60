//! The HTTP server: connections on loopback, and the faults that break them.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::archive::ARCHIVES;
use crate::call::Request;
use crate::candle::Candle;
use crate::config::SimConfig;
use crate::deliver::{Body, deliver, pause};
use crate::exchange::{Exchange, Outcome};
use crate::fault::Fault;
use crate::log::RequestRecord;
use crate::rule::FaultRule;
use crate::{Error, Result};

/// Connections at once; the next one waits to be accepted.
const MAX_CONNECTIONS: usize = 1_024;
/// How late a timer fires on average: tokio counts in full milliseconds, and so does what wakes it.
const TIMER_DELAY: Duration = Duration::from_millis(2);

/// A running exchange. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct SimExchange {
    addr: SocketAddr,
    exchange: Arc<Exchange>,
    accepting: JoinHandle<()>,
}

impl SimExchange {
    /// Binds 127.0.0.1 and serves on the current tokio runtime.
    ///
    /// Errors: a market given twice, and the port not to be had.
    pub async fn start(config: SimConfig) -> Result<Self> {
        let serving = Serving { latency: config.latency, body_cap: config.body_cap };
        let bind = (Ipv4Addr::LOCALHOST, config.port);
        let failed = |source| Error::Io(format!("binding 127.0.0.1:{}", bind.1), source);
        let exchange = Arc::new(Exchange::new(config)?);
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let accepting = tokio::spawn(accept(listener, Arc::clone(&exchange), serving));
        Ok(Self { addr, exchange, accepting })
    }

    /// The address in use.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Such as `http://127.0.0.1:40123`, for all exchanges and the archives.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The server's clock, milliseconds since the epoch.
    pub fn now(&self) -> i64 {
        self.exchange.state().time.now()
    }

    /// Sets the server's clock, milliseconds since the epoch; a running clock runs on from there.
    pub fn set_now(&self, to: i64) {
        self.exchange.state().time.set(to);
    }

    /// Moves the server's clock on.
    pub fn advance(&self, by: Duration) {
        self.exchange.state().time.advance(by);
    }

    /// Sets the milliseconds that the server says it is later than it is; see
    /// [`SimConfig::with_clock_error`].
    pub fn set_clock_error(&self, ms: i64) {
        self.exchange.state().clock_error = ms;
    }

    /// Sets how long after its close a bar appears; see [`SimConfig::with_publish_delay`].
    pub fn set_publish_delay(&self, delay: Duration) {
        self.exchange.state().publishing.delay = delay;
    }

    /// Sets how long after its close a bar has a first version; see [`SimConfig::with_first_version`].
    pub fn set_first_version(&self, lasts: Duration) {
        self.exchange.state().publishing.first_version = lasts;
    }

    /// The newest requests, at most [`LOG_CAPACITY`](crate::LOG_CAPACITY), oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.exchange.state().log.records()
    }

    /// Forgets the requests so far; numbers go on.
    pub fn clear_requests(&self) {
        self.exchange.state().log.clear();
    }

    /// Adds a fault, after those that are set.
    pub fn inject(&self, rule: FaultRule) {
        self.exchange.state().faults.push(rule);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.exchange.state().faults.clear();
    }

    /// Revises history: candles replace those that open at the same times, others are added. Pages and
    /// archives change, and with them the archives' checksums and ETags.
    pub fn revise(&self, symbol: &str, interval: &str, candles: Vec<Candle>) -> Result<()> {
        self.exchange.change(symbol, interval, |market| market.revise(candles))
    }

    /// Removes the candles that open in `range`, milliseconds, half-open.
    pub fn remove(&self, symbol: &str, interval: &str, range: Range<i64>) -> Result<()> {
        self.exchange.change(symbol, interval, |market| {
            *market = market.clone().with_hole(range);
            Ok(())
        })
    }

    /// Closes the port and every connection, and returns when they are closed.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // Cancelled is what it is meant to be.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for SimExchange {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Debug, Clone, Copy)]
struct Serving {
    latency: Duration,
    body_cap: u64,
}

/// Accepts until it is aborted; its connections end with it.
async fn accept(listener: TcpListener, exchange: Arc<Exchange>, serving: Serving) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let exchange = Arc::clone(&exchange);
                connections.spawn(async move {
                    connection(stream, exchange, serving).await;
                    drop(place);
                });
            }
            // No descriptors left, say: what is open must close first.
            Err(_) => pause(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, exchange: Arc<Exchange>, serving: Serving) {
    // Small answers go out at once; a socket that refuses this is closed already.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let to_reset = Arc::clone(&reset);
    let service = service_fn(move |request: HttpRequest<Incoming>| -> BoxFuture<'static, _> {
        respond(Arc::clone(&exchange), serving, request, Arc::clone(&to_reset)).boxed()
    });
    // Answers carry the date of the server's clock. Those that hyper gives by itself, to what is no HTTP,
    // carry none rather than the system's.
    let mut http =
        http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
    // How it ended is the client's to judge.
    let _ = poll_fn(|cx| http.poll_without_shutdown(cx)).await;
    if reset.load(Ordering::Acquire) {
        // With linger zero, closing sends RST instead of FIN.
        let _ = http.into_parts().io.into_inner().set_zero_linger();
    }
}

/// Nothing is answered, and the connection ends.
#[derive(Debug)]
struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the fault sends no answer")
    }
}

impl std::error::Error for NoAnswer {}

async fn respond(
    exchange: Arc<Exchange>,
    serving: Serving,
    http: HttpRequest<Incoming>,
    reset: Arc<AtomicBool>,
) -> std::result::Result<Response<Body>, NoAnswer> {
    let arrived = Instant::now();
    let request = Request {
        method: http.method().to_string(),
        path: http.uri().path().to_owned(),
        query: http.uri().query().unwrap_or_default().to_owned(),
        if_none_match: http.headers().get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned),
    };
    let Outcome { number, answer, fault } = work_out(&exchange, request).await?;
    // Working the answer out is part of the latency.
    let left = serving.latency.saturating_sub(arrived.elapsed() + TIMER_DELAY);
    if !left.is_zero() {
        pause(left).await;
    }
    match fault {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Reset) => {
            reset.store(true, Ordering::Release);
            return Err(NoAnswer);
        }
        _ => {}
    }
    exchange.answered(number, answer.status, answer.rows);
    Ok(deliver(answer, fault.as_ref(), serving.body_cap))
}

/// The answer; packing a month must not keep the runtime from its other tasks.
async fn work_out(exchange: &Arc<Exchange>, request: Request) -> std::result::Result<Outcome, NoAnswer> {
    if !request.path.starts_with(ARCHIVES) {
        return Ok(exchange.answer(&request));
    }
    let exchange = Arc::clone(exchange);
    // It fails only when it panicked or the runtime shuts down.
    tokio::task::spawn_blocking(move || exchange.answer(&request)).await.map_err(|_| NoAnswer)
}
