//! Requests to exchanges: limits, time, caps and retries, in one place for all of them.

mod answer;
mod failure;
mod limiter;
mod request;
mod server_clock;
mod transport;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use chrono::DateTime;
use futures::future::{BoxFuture, Either, select};
use qmtl_history_api::{Error, ErrorKind, FetchRequest, Result, Retry, SourceId, Timestamp};
use qmtl_observe::{events, metrics};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::runtime::Handle;

pub use answer::Answer;
pub use failure::{Failure, Reason};
pub use limiter::Limiter;
pub use request::HttpRequest;
pub use server_clock::ServerClock;
pub use transport::{Transport, TransportAnswer};

use crate::config::ExchangeConfig;

/// The longest pause that a header can impose on all jobs of the process; no exchange bans for longer.
const LONGEST_BAN: Duration = Duration::from_secs(3 * 86_400);

/// Makes something of what came of one try.
type Read<'a, T> = dyn Fn(Result<Answer, Failure>) -> Result<T, Failure> + Sync + 'a;

/// One request on its way.
#[derive(Debug)]
struct Call<'a> {
    url: Url,
    weight: u32,
    on_behalf: &'a FetchRequest,
}

/// A client of one host's API: it keeps to the host's limits, together with all clients of the host in this
/// process, repeats requests that failed in passing, counts that, and reads no answer without bound.
#[derive(Debug)]
pub struct HttpClient {
    config: ExchangeConfig,
    base: Url,
    source: SourceId,
    /// The answer's header that tells the weight used in the server's running minute.
    weight_header: Option<&'static str>,
    carrier: Carrier,
    limiter: Arc<Limiter>,
    retries: Mutex<BTreeMap<&'static str, u64>>,
}

/// What carries requests.
#[derive(Debug)]
enum Carrier {
    Network(Client),
    Given(Arc<dyn Transport>),
}

impl Carrier {
    /// The network; TLS trusts what the operating system trusts.
    fn network(base: &Url, config: &ExchangeConfig) -> Result<Self> {
        let builder = Client::builder()
            .connect_timeout(config.connect_timeout)
            // An API of candles sends nobody elsewhere.
            .redirect(Policy::none())
            .user_agent(concat!("qmtl/", env!("CARGO_PKG_VERSION")));
        let is_here = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = if is_here { builder.no_proxy() } else { builder };
        // A plain connection works on a system without certificates too.
        let builder = if base.scheme() == "https" { builder } else { builder.tls_certs_only([]) };
        let client =
            builder.build().map_err(|e| Error::unavailable("cannot set up an HTTP client").caused_by(e))?;
        Ok(Self::Network(client))
    }
}

impl HttpClient {
    /// A client of the API called `name` at the address of the settings, whose usual hosts are `own_hosts`;
    /// elsewhere the source is called `name:host`, so that what a test's server proves is not taken for the
    /// exchange's word. It asks nothing.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub fn new(config: ExchangeConfig, name: &str, own_hosts: &[&str]) -> Result<Self> {
        config.check_room()?;
        let base = config.url()?;
        let source = match base.host_str() {
            Some(host) if own_hosts.contains(&host) => SourceId::new(name),
            _ => SourceId::new(format!("{name}:{}", base.authority())),
        }?;
        let carrier = match &config.transport {
            Some(transport) => Carrier::Given(Arc::clone(transport)),
            None => Carrier::network(&base, &config)?,
        };
        let host = base.host_str().unwrap_or_default();
        let port = base.port_or_known_default().unwrap_or_default();
        let (weight, rate) = (config.weight_per_minute, config.requests_per_second);
        let limiter = Limiter::shared(&format!("{host}:{port}"), weight, rate);
        let retries = Mutex::default();
        Ok(Self { config, base, source, weight_header: None, carrier, limiter, retries })
    }

    /// Takes in the weight that the server says was used in its running minute, which it tells in this header,
    /// in lower case.
    #[must_use]
    pub fn with_weight_header(mut self, header: Option<&'static str>) -> Self {
        self.weight_header = header;
        self
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ExchangeConfig {
        &self.config
    }

    /// Who answers.
    #[must_use]
    pub fn source(&self) -> &SourceId {
        &self.source
    }

    /// How many requests were repeated so far, by reason: [`Reason::as_str`].
    #[must_use]
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until `read` makes something of an answer, as long as that is worth trying. `read` gets
    /// the answers that say something of the request: those of success, and refusals (4xx) but for 403, 418 and
    /// 429. It is `on_behalf` of a fetch: its series goes into metrics and logs, its sink hears of retries.
    ///
    /// Errors: that of `read`, or `Unavailable`; exhausted where retries did not help. `Unsupported` outside of a
    /// runtime.
    pub async fn get<T: Send + 'static>(
        &self,
        request: &HttpRequest,
        on_behalf: &FetchRequest,
        read: impl Fn(&Answer) -> Result<T, Failure> + Send + Sync,
    ) -> Result<T> {
        self.ask(request, on_behalf, &|tried| read(&tried?)).await
    }

    /// The time of the server by the date of its answer at the address itself, which may say anything else, a
    /// refusal too; `None` where answers have no date. Errors: `Unavailable`, exhausted, where there is no answer.
    pub async fn date(&self, on_behalf: &FetchRequest) -> Result<Option<Timestamp>> {
        let date = |tried: Result<Answer, Failure>| match tried {
            Ok(answer) => Ok(answer.date),
            Err(failure) => failure.date.map(Some).ok_or(failure),
        };
        self.ask(&HttpRequest::new([]), on_behalf, &date).await
    }

    /// Asks until `read` makes something of a try, as long as that is worth it.
    async fn ask<T: Send + 'static>(
        &self,
        request: &HttpRequest,
        on_behalf: &FetchRequest,
        read: &Read<'_, T>,
    ) -> Result<T> {
        in_runtime()?;
        let repeated = AtomicU32::new(0);
        let call = Call { url: request.url(&self.base)?, weight: request.weight(), on_behalf };
        self.tries(&call, read, &repeated).await.map_err(|failure| {
            let error = failure.error.with("host", self.base.authority());
            match failure.reason {
                Some(_) => error.with("tries", repeated.into_inner() + 1).exhausted(),
                None => error,
            }
        })
    }

    /// Boxed, because the compiler cannot see through the types of a retry that it is `Send`.
    fn tries<'a, T: Send + 'static>(
        &'a self,
        call: &'a Call<'a>,
        read: &'a Read<'a, T>,
        repeated: &'a AtomicU32,
    ) -> BoxFuture<'a, Result<T, Failure>> {
        let deadline = self.config.clock.monotonic() + self.config.deadline;
        let clock = Arc::clone(&self.config.clock);
        let attempt = move || async move { read(self.attempt(call, deadline).await) };
        let retried = attempt
            .retry(self.backoff())
            .sleep(move |pause| {
                let clock = Arc::clone(&clock);
                async move { clock.sleep(pause).await }
            })
            .when(|failure: &Failure| failure.reason.is_some())
            .adjust(move |failure: &Failure, pause| {
                let pause = pause?.max(failure.pause);
                (self.config.clock.monotonic() + pause < deadline).then_some(pause)
            })
            .notify(move |failure: &Failure, pause| {
                let attempt = repeated.fetch_add(1, Ordering::Relaxed) + 1;
                let reason = failure.reason.map_or("", Reason::as_str);
                self.count_retry(call, Retry::new(attempt, pause, reason));
            });
        Box::pin(retried)
    }

    /// From half a second to half a minute, doubling, with up to as much again by chance.
    fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(30))
            .with_max_times(self.config.retries)
    }

    fn count_retry(&self, call: &Call<'_>, retry: Retry) {
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner).entry(retry.reason).or_default() += 1;
        metrics::retry(&call.on_behalf.key);
        events::backfill_retry(&call.on_behalf.key, retry.attempt);
        if let Some(sink) = &call.on_behalf.retries {
            sink.on_retry(call.on_behalf.range, retry);
        }
    }

    /// One try: waits for its weight, then for the answer.
    async fn attempt(&self, call: &Call<'_>, deadline: Duration) -> Result<Answer, Failure> {
        let waited =
            self.limiter.acquire(call.weight, &*self.config.clock, deadline).await.map_err(|wait| {
                let error = Error::unavailable("the source's rate limit leaves no room before the deadline");
                Failure::lasting(error.with("wait", format_args!("{wait:?}")).exhausted())
            })?;
        metrics::rate_limit_wait(&self.source, waited);
        let timeout = self.config.timeout.min(deadline.saturating_sub(self.config.clock.monotonic()));
        match select(pin!(self.exchange(call)), self.config.clock.sleep(timeout)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(Failure::passing(
                Reason::Timeout,
                Error::unavailable("the source did not answer in time")
                    .with("timeout", format_args!("{timeout:?}")),
            )),
        }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let client = match &self.carrier {
            Carrier::Network(client) => client,
            Carrier::Given(transport) => {
                let TransportAnswer { status, headers, body } =
                    transport.get(call.url.as_str()).await.map_err(|e| {
                        let error = Error::unavailable("the source cannot be reached").caused_by(e);
                        Failure::passing(Reason::Connection, error)
                    })?;
                self.look_at(status, &headers)?;
                return Ok(Answer::new(status.as_u16(), body).with_date(date(&headers)));
            }
        };
        let response = client.get(call.url.clone()).send().await.map_err(no_answer)?;
        let status = response.status();
        self.look_at(status, response.headers())?;
        let date = date(response.headers());
        let body = self.body(response).await?;
        Ok(Answer::new(status.as_u16(), body).with_date(date))
    }

    /// What the head of an answer says of limits, and whether it is a refusal already.
    fn look_at(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
        let now = self.config.clock.monotonic();
        if let Some(used) = self.weight_header.and_then(|name| number(headers, name)) {
            self.limiter.observe(now, used);
        }
        let Some(failure) = refused(status, headers) else { return Ok(()) };
        self.limiter.block(now + failure.pause);
        Err(failure)
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let broke_off = |e: reqwest::Error| {
            let error = Error::unavailable("the source's answer broke off").caused_by(e);
            Failure::passing(Reason::Truncated, error)
        };
        // A promise of the answer's, so it is not believed beyond the cap.
        let promised = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
        let mut body = Vec::with_capacity(promised.unwrap_or_default().min(self.config.max_body_bytes));
        while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
            if body.len() + chunk.len() > self.config.max_body_bytes {
                let error = Error::unavailable("the source's answer is larger than any right one");
                let cap = self.config.max_body_bytes;
                return Err(Failure::passing(Reason::TooLarge, error.with("cap_bytes", cap)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Timers, connections and tasks panic without a runtime.
pub(crate) fn in_runtime() -> Result<()> {
    Handle::try_current().map(drop).map_err(|e| Error::outside_runtime("an exchange's fetcher").caused_by(e))
}

/// The failure of an answer whose status speaks for itself.
fn refused(status: StatusCode, headers: &HeaderMap) -> Option<Failure> {
    let (reason, message) = match status {
        StatusCode::TOO_MANY_REQUESTS => (Reason::RateLimited, "the source asks for fewer requests"),
        StatusCode::IM_A_TEAPOT => (Reason::Banned, "the source has banned this address for a while"),
        StatusCode::FORBIDDEN => (Reason::Forbidden, "a firewall before the source refuses the request"),
        _ if status.is_server_error() => (Reason::ServerError, "the source is out of order"),
        _ if status.is_redirection() => {
            (Reason::Redirected, "the source sends to another address, which is not followed")
        }
        _ => return None,
    };
    let mut error = Error::new(ErrorKind::Unavailable, message).with("status", status.as_u16());
    if let Some(location) = headers.get(reqwest::header::LOCATION) {
        error = error.with("location", String::from_utf8_lossy(location.as_bytes()));
    }
    let pause = number(headers, RETRY_AFTER.as_str()).unwrap_or(0);
    let failure =
        Failure::passing(reason, error).with_pause(Duration::from_secs(pause.into()).min(LONGEST_BAN));
    Some(Failure { date: date(headers), ..failure })
}

fn no_answer(error: reqwest::Error) -> Failure {
    let (reason, message) = match &error {
        e if e.is_timeout() => (Reason::Timeout, "the source did not accept a connection in time"),
        _ => (Reason::Connection, "the source cannot be reached"),
    };
    Failure::passing(reason, Error::unavailable(message).caused_by(error))
}

/// The time of an answer by its server's clock, in whole seconds.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
    Timestamp::from_secs(date.timestamp()).ok()
}

/// A header that is a whole number.
fn number(headers: &HeaderMap, name: &str) -> Option<u32> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn pause(retry_after: &'static str) -> Duration {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(retry_after))]);
        refused(StatusCode::TOO_MANY_REQUESTS, &headers).unwrap().pause
    }

    #[test]
    fn the_date_of_an_answer_is_the_servers_time() {
        let of = |text: &'static str| date(&HeaderMap::from_iter([(DATE, HeaderValue::from_static(text))]));
        assert_eq!(of("Mon, 01 Jan 2024 00:00:07 GMT"), Timestamp::from_secs(1_704_067_207).ok());
        assert_eq!((of("yesterday"), date(&HeaderMap::new())), (None, None));
    }

    #[test]
    fn a_pause_is_as_long_as_the_source_says_but_not_for_ever() {
        assert_eq!(pause("30"), Duration::from_secs(30));
        assert_eq!(pause("4000000000"), LONGEST_BAN);
        assert_eq!(pause("soon"), Duration::ZERO);
        assert!(refused(StatusCode::OK, &HeaderMap::new()).is_none());
        assert!(refused(StatusCode::BAD_REQUEST, &HeaderMap::new()).is_none());
    }
}
