//! Runs a strategy in a world: what a gateway decides there says which sides may act.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Error, Result};
use qmtl_observe::TokioClock;
use reqwest::Url;
use tokio::sync::mpsc;

use crate::runner::NoLive;
use crate::{Activation, Runner, Session, Strategy};
use client::Client;
use link::Link;

mod client;
mod link;
mod wire;

/// A deployment environment (paper, live), and the gateway server that controls it: it states which sides may trade.
///
/// The gateway is polled. Its decision (the mode) is valid for as long as it says, its activation (the sides) for
/// [`stale_after`](Self::with_stale_after). When it is unreachable or its answers are stale, no side may trade, and
/// the strategy goes on computing.
#[derive(Clone)]
pub struct World {
    id: String,
    gateway: Url,
    clock: Arc<dyn Clock>,
    activation: Activation,
    token: Option<String>,
    poll: Duration,
    stale_after: Duration,
    timeout: Duration,
}

impl World {
    /// The world `id` behind the gateway at `gateway_url`, which is asked every 5 s; an activation
    /// holds for 15 s, and a request may take 5 s.
    ///
    /// `InvalidInput` for an empty id and for what is no HTTP URL.
    pub fn new(id: impl Into<String>, gateway_url: &str) -> Result<Self> {
        let id = id.into();
        if id.is_empty() {
            return Err(Error::invalid("a world needs an id"));
        }
        // The URL may hold a password and is not repeated.
        let bad =
            || Error::invalid("a gateway is an HTTP URL, such as http://localhost:8000").with("world", &id);
        let gateway = Url::parse(gateway_url).map_err(|e| bad().caused_by(e))?;
        if !matches!(gateway.scheme(), "http" | "https") || gateway.host_str().is_none() {
            return Err(bad().with("scheme", gateway.scheme()));
        }
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        Ok(Self {
            activation: Activation::new(Arc::clone(&clock)),
            id,
            gateway,
            clock,
            token: None,
            poll: Duration::from_secs(5),
            stale_after: Duration::from_secs(15),
            timeout: Duration::from_secs(5),
        })
    }

    /// Sets the clock by which answers grow old. Call it before [`activation`](Self::activation).
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self.activation = Activation::new(Arc::clone(&self.clock));
        self
    }

    /// Sets the bearer token that goes with every request; it is in no error and no log. `InvalidInput` for an empty
    /// one and for characters that no header can hold.
    pub fn with_token(mut self, token: impl Into<String>) -> Result<Self> {
        let token = token.into();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                Error::invalid("a bearer token is one word of printable ASCII").with("world", &self.id)
            );
        }
        self.token = Some(token);
        Ok(self)
    }

    /// Sets how often the gateway is asked.
    #[must_use]
    pub fn with_poll_interval(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets how long an activation holds after the request that brought it.
    #[must_use]
    pub fn with_stale_after(mut self, stale_after: Duration) -> Self {
        self.stale_after = stale_after;
        self
    }

    /// Sets how long one request may take, and how long a strategy that has ended waits for its
    /// history to be published.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What the world allows now, to look at from outside or from a node.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.activation.clone()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("id", &self.id)
            .field("gateway", &self.gateway.host_str())
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// Runs `strategy` in a world with default settings, as [`Runner::run_in`] does.
    pub async fn run(strategy: Strategy, world_id: &str, gateway_url: &str) -> Result<Session> {
        Self::new().run_in(strategy, &World::new(world_id, gateway_url)?).await
    }

    /// Runs `strategy` in a world until its live source ends: the same warm-up and replay as
    /// [`Runner::prime`], then live bars, whose signals become orders where the world allows it.
    ///
    /// Meanwhile the strategy's graph is submitted to the gateway with a hash of it, which changes with the version
    /// of any node ([`ComputeNode::version`](crate::ComputeNode::version)), the world's decision and activation are
    /// asked for again and again, and what the warm-up found is published. A gateway that is away does not stop the
    /// strategy: it computes, no side acts, and the gateway is tried until it is back; one that has forgotten the
    /// strategy is told of it again.
    ///
    /// Fails as [`Runner::follow`] does, and when the gateway refuses the strategy. Dropping the
    /// future cancels.
    pub async fn run_in(&self, mut strategy: Strategy, world: &World) -> Result<Session> {
        let mut live = strategy.live.take().unwrap_or_else(|| Box::new(NoLive));
        let link = Link::new(world, &strategy, Client::new(world)?);
        let mut runner = self.clone();
        runner.warmup.world = Some(world.id.clone());

        let (told, reports) = mpsc::channel(1);
        let mut link = pin!(link.run(reports));
        let work = runner.session(strategy, (&mut *live, None), Some((world.activation(), &told)));
        let session = tokio::select! {
            session = work => session?,
            // It ends by itself only when the strategy was refused, or has nothing to tell any more.
            ended = &mut link => return Err(ended.err().unwrap_or_else(|| Error::unexpected("the world's link ended"))),
        };
        // Nothing more is to be told: the link ends when it has told the rest.
        drop(told);
        tokio::select! {
            ended = link => ended?,
            () = world.clock.sleep(world.timeout) => {}
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests;
