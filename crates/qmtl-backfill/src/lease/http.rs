//! The client of a coordinator on another machine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures::future::{BoxFuture, Either, select};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use qmtl_history_api::{Clock, Error, ErrorKind, Result, async_trait};
use qmtl_observe::TokioClock;
use reqwest::{Client, Url};

use super::{BackfillCoordinator, Command, Page, Query, Reply, admit, wire};

/// Carries requests to a coordinator; tests bring one that loses and doubles them.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends a request and reads its whole answer, up to 16 MB. An error is the network's, `Unavailable`.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>>;
}

/// A lease coordinator reached over HTTP: the guide's `DistributedBackfillCoordinator`.
///
/// Requests share a pool of connections. One that is not answered in time, or with 5xx, is repeated with growing
/// pauses, with the same request id, so that a claim whose answer was lost gets the same lease again. What nobody
/// answered is an error of kind `Unavailable`, and says nothing of the lease.
#[derive(Clone)]
pub struct DistributedBackfillCoordinator {
    base: Url,
    id: String,
    transport: Arc<dyn Transport>,
    bearer: Option<HeaderValue>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    tries: usize,
}

impl DistributedBackfillCoordinator {
    /// A client of the coordinator at this address, such as `http://coordinator.local:8080`. It asks nothing yet.
    ///
    /// `InvalidInput` for an address that is none, or that has a user, a password, a query or another scheme than http
    /// and https; `Unavailable` when the system's certificates cannot be read.
    pub fn new(url: &str) -> Result<Self> {
        // The address is not shown: what is no address may be a password.
        let invalid = |message: &str| Error::invalid(message).with("expected", "http://HOST:PORT");
        let base = Url::parse(url).map_err(|e| invalid("not an address of a coordinator").caused_by(e))?;
        let (true, Some(host)) = (matches!(base.scheme(), "http" | "https"), base.host_str()) else {
            return Err(invalid("the address of a coordinator begins with http:// or https://"));
        };
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid(
                "the address of a coordinator has no user and no password; it takes a bearer token",
            ));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("the address of a coordinator has nothing behind its path"));
        }
        let id = host.to_owned();
        let transport = Arc::new(Network::new(&base)?);
        let clock = Arc::new(TokioClock::new());
        Ok(Self { base, id, transport, bearer: None, clock, timeout: Duration::from_secs(5), tries: 4 })
    }

    /// Shows this bearer token with every request. `InvalidInput` for one that a header cannot hold.
    pub fn with_bearer(mut self, token: &str) -> Result<Self> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| Error::invalid("the bearer token holds characters that a header cannot"))?;
        value.set_sensitive(true);
        self.bearer = Some(value);
        Ok(self)
    }

    /// How long an answer may take, five seconds otherwise, and how often a request is sent at most, four times
    /// otherwise.
    #[must_use]
    pub fn with_patience(mut self, timeout: Duration, tries: usize) -> Self {
        (self.timeout, self.tries) = (timeout, tries.max(1));
        self
    }

    /// Another way to the coordinator than the network.
    #[must_use]
    pub fn with_transport(mut self, transport: impl Transport) -> Self {
        self.transport = Arc::new(transport);
        self
    }

    /// The clock by which answers are waited for.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sends a request until somebody has answered it: the status, below 500, and the body of the answer. Boxed, because
    /// the compiler cannot see through the types of a retry that it is `Send`.
    fn ask<'a>(&'a self, call: &'a Asked) -> BoxFuture<'a, Result<(u16, Vec<u8>)>> {
        let backoff = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(self.tries - 1);
        let attempt = move || self.once(call);
        let clock = Arc::clone(&self.clock);
        let sleep = move |pause| {
            let clock = Arc::clone(&clock);
            async move { clock.sleep(pause).await }
        };
        Box::pin(attempt.retry(backoff).when(Error::is_retryable).sleep(sleep))
    }

    async fn once(&self, Asked { method, url, body }: &Asked) -> Result<(u16, Vec<u8>)> {
        let mut request = Request::new(body.clone());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|e| Error::unexpected("not a URI").caused_by(e))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let answer = match select(self.transport.send(request), self.clock.sleep(self.timeout)).await {
            Either::Left((answer, _)) => answer?,
            Either::Right(_) => {
                return Err(Error::unavailable("the coordinator did not answer in time")
                    .with("timeout", format_args!("{:?}", self.timeout)));
            }
        };
        let (status, body) = (answer.status().as_u16(), answer.into_body());
        if status >= 500 { Err(wire::refused(status, &body)) } else { Ok((status, body)) }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }
}

#[async_trait]
impl BackfillCoordinator for DistributedBackfillCoordinator {
    /// The host of its address.
    fn id(&self) -> &str {
        &self.id
    }

    async fn apply(&self, key: &str, mut command: Command) -> Result<Reply> {
        admit(key, &mut command)?;
        if let Command::Claim { request_id, .. } = &mut command {
            request_id.get_or_insert_with(|| format!("{:032x}", fastrand::u128(..)));
        }
        let (call, body) = wire::request(key, &command);
        let asked =
            Asked { method: Method::POST, url: self.url(call.path()), body: body.to_string().into_bytes() };
        let told = self.ask(&asked).await.and_then(|(status, body)| wire::reply(call, status, &body));
        told.map_err(|error| error.with("coordinator", self.base.as_str()))
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        let mut url = self.url(wire::INSPECT);
        url.query_pairs_mut().extend_pairs(wire::parameters(query));
        let asked = Asked { method: Method::GET, url, body: Vec::new() };
        let told = self.ask(&asked).await.and_then(|(status, body)| wire::page(status, &body));
        told.map_err(|error| error.with("coordinator", self.base.as_str()))
    }
}

/// One request on its way.
struct Asked {
    method: Method,
    url: Url,
    body: Vec<u8>,
}

/// Shows no token.
impl fmt::Debug for DistributedBackfillCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedBackfillCoordinator")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// The largest answer that is read, in bytes: a page of the longest keys.
const LARGEST_ANSWER: usize = 16 << 20;

#[derive(Debug)]
struct Network(Client);

impl Network {
    /// TLS trusts what the operating system trusts.
    fn new(base: &Url) -> Result<Self> {
        let builder = Client::builder()
            .connect_timeout(Duration::from_secs(3))
            // Shorter than servers keep idle connections.
            .pool_idle_timeout(Duration::from_secs(8))
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .user_agent(concat!("qmtl/", env!("CARGO_PKG_VERSION")));
        let is_here = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = if is_here { builder.no_proxy() } else { builder };
        // A plain connection works on a system without certificates too.
        let builder = if base.scheme() == "https" { builder } else { builder.tls_certs_only([]) };
        let client =
            builder.build().map_err(|e| Error::unavailable("cannot set up an HTTP client").caused_by(e))?;
        Ok(Self(client))
    }
}

#[async_trait]
impl Transport for Network {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::outside_runtime("a client of a coordinator"));
        }
        let lost =
            |message: &str, error: reqwest::Error| Error::unavailable(message).caused_by(error.without_url());
        let request = request.try_into().map_err(|e| lost("the request cannot be sent", e))?;
        let sent = self.0.execute(request).await;
        let mut answer = sent.map_err(|e| {
            let message = if e.is_connect() { "the coordinator cannot be reached" } else { "no answer came" };
            lost(message, e)
        })?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| lost("the answer broke off", e))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                let message = "the answer is too large for one of a coordinator";
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .with("limit", LARGEST_ANSWER)
                    .retryable(false));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = answer.status();
        Ok(response)
    }
}
