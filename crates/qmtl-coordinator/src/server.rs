//! The protocol over HTTP: routes, limits, stopping.

mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use qmtl_history_api::{Clock, Error, Result, StopSignal};
use qmtl_observe::prometheus::Exporter;
use qmtl_observe::{TokioClock, metrics};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{BearerTokens, LeaseStore};

/// How much a server takes; the defaults suit most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections that are open at once; further ones wait to be taken.
    pub connections: usize,
    /// Requests that are answered at once; further ones get 503.
    pub requests: usize,
    /// How long a client may take to send the head of a request, and a connection may be idle.
    pub head: Duration,
    /// How long a request may take, its body included; then it gets 503.
    pub request: Duration,
    /// How long requests are waited for that are being answered when the server is stopped.
    pub grace: Duration,
}

impl Default for Limits {
    /// 4,096 connections, 1,024 requests, 15 seconds for a head, 10 for a request, 4 of grace.
    fn default() -> Self {
        let [head, request, grace] = [15, 10, 4].map(Duration::from_secs);
        Self { connections: 4_096, requests: 1_024, head, request, grace }
    }
}

/// A lease server around a store.
#[derive(Clone, Debug)]
pub struct Server {
    store: Arc<dyn LeaseStore>,
    tokens: Option<Arc<BearerTokens>>,
    exporter: Option<Exporter>,
    limits: Limits,
    keep: Duration,
}

impl Server {
    /// Serves this store to whoever can connect.
    #[must_use]
    pub fn new(store: Arc<dyn LeaseStore>) -> Self {
        Self { store, tokens: None, exporter: None, limits: Limits::default(), keep: KEEP }
    }

    /// Answers the calls about leases only to who has one of these tokens.
    #[must_use]
    pub fn with_tokens(mut self, tokens: BearerTokens) -> Self {
        self.tokens = Some(Arc::new(tokens));
        self
    }

    /// Shows these metrics at `/metrics`.
    #[must_use]
    pub fn with_exporter(mut self, exporter: Exporter) -> Self {
        self.exporter = Some(exporter);
        self
    }

    /// Changes how much it takes.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long the record of a finished window is kept; 30 days otherwise.
    #[must_use]
    pub fn with_keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// The routes alone, for a server of one's own.
    pub fn router(&self) -> Router {
        routes::router(self)
    }

    /// Listens at an address.
    ///
    /// `InvalidInput` when others than this machine can reach the address and there is no token; `Unavailable` when
    /// the address is taken or is not one of this machine's.
    pub async fn bind(&self, address: SocketAddr) -> Result<TcpListener> {
        if self.tokens.is_none() && !address.ip().is_loopback() {
            return Err(Error::invalid(
                "other machines can reach this address, and there is no bearer token: give a file of tokens, or \
                 listen on 127.0.0.1",
            )
            .with("address", address));
        }
        let refused = |error| Error::unavailable("cannot listen").with("address", address).caused_by(error);
        TcpListener::bind(address).await.map_err(refused)
    }

    /// Answers until it is stopped; then takes no more connections, and waits for what it is answering.
    pub async fn serve(self, listener: TcpListener, stop: StopSignal) {
        let router = self.router();
        let sweeping = tokio::spawn(sweep(Arc::clone(&self.store), self.keep));
        let mut builder = http1::Builder::new();
        // Some clients send all they have to say and close their side before they read.
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.head).half_close(true);
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let (stream, permit) = tokio::select! {
                biased;
                () = stop.stopped() => break,
                accepted = accept(&listener, &room) => match accepted {
                    Ok(accepted) => accepted,
                    // Such as no more handles: others will be closed.
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a connection");
                        TokioClock::new().sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                let _permit = permit;
                let _open = metrics::Guard::connection();
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke off");
                }
            });
        }
        drop(listener);
        sweeping.abort();
        let answered = tokio::time::timeout(self.limits.grace, graceful.shutdown()).await;
        if answered.is_err() {
            tracing::warn!(grace = ?self.limits.grace, "connections with a request were cut when the grace was over");
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(error = error.chain(), "the lease store could not be readied for being copied");
        }
    }
}

/// How long the record of a finished window is kept.
const KEEP: Duration = Duration::from_secs(30 * 86_400);
/// How often some old records are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Forgets what has been over for long, a little at a time.
async fn sweep(store: Arc<dyn LeaseStore>, keep: Duration) {
    let clock = TokioClock::new();
    loop {
        clock.sleep(SWEEP_EVERY).await;
        let Some(before) = clock.now().checked_sub(keep) else { continue };
        match store.forget(before).await {
            Ok(0) => {}
            Ok(keys) => tracing::debug!(keys, "records of finished windows were forgotten"),
            Err(error) => tracing::warn!(error = error.chain(), "old records could not be forgotten"),
        }
    }
}

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Requests and answers are small and are waited for.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
