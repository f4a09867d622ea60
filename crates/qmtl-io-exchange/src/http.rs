//! Requests to exchanges: limits, time, caps and retries, in one place for all of them.

mod failure;
mod limiter;
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
use qmtl_history_api::{Clock, Error, ErrorKind, FetchRequest, Result, Retry, SourceId, Timestamp};
use qmtl_observe::{events, metrics};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tokio::runtime::Handle;

pub(crate) use failure::{Failure, Reason};
pub(crate) use reqwest::{StatusCode, Url};
pub(crate) use server_clock::ServerClock;
pub use transport::{Transport, TransportAnswer};

use limiter::Limiter;

/// The longest pause that a header can impose on all jobs of the process; no exchange bans for longer.
const LONGEST_BAN: Duration = Duration::from_secs(3 * 86_400);

/// What bounds the requests to one host.
#[derive(Clone, Debug)]
pub(crate) struct HttpLimits {
    /// For one try, from sending to the last byte.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// For a request with all its tries and pauses.
    pub(crate) deadline: Duration,
    /// Repetitions after the first try.
    pub(crate) retries: usize,
    /// Bytes of a body after decompression.
    pub(crate) max_body: usize,
    /// Weight that may be used in any minute.
    pub(crate) weight_per_minute: u32,
    /// Requests that may be made in a second.
    pub(crate) requests_per_second: Option<f64>,
    /// The answer's header that tells the weight used in the server's running minute.
    pub(crate) weight_header: Option<&'static str>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) url: Url,
    pub(crate) weight: u32,
    /// On whose behalf: its series goes into metrics and logs, its sink hears of retries.
    pub(crate) request: FetchRequest,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What its `Date` header says.
    pub(crate) date: Option<Timestamp>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Whether it is all that the server has to say: a page of part of the rows (206), or from somebody
    /// between it and us, brings rows and proves nothing.
    pub(crate) fn is_whole(&self) -> bool {
        self.status == StatusCode::OK
    }
}

/// Makes something of an answer.
pub(crate) type Read<'a, T> = dyn Fn(&Answer) -> Result<T, Failure> + Sync + 'a;

/// A client of one host.
#[derive(Debug)]
pub(crate) struct HttpClient {
    carrier: Carrier,
    clock: Arc<dyn Clock>,
    limits: HttpLimits,
    limiter: Arc<Limiter>,
    source: SourceId,
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
    fn network(base: &Url, limits: &HttpLimits) -> Result<Self> {
        let builder = Client::builder()
            .connect_timeout(limits.connect_timeout)
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
    /// A client of `base`'s host, whose requests `transport` carries instead of the network when there is
    /// one; all clients of a host share its weight.
    pub(crate) fn new(
        base: &Url,
        source: SourceId,
        limits: HttpLimits,
        clock: Arc<dyn Clock>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Self> {
        let carrier = match transport {
            Some(transport) => Carrier::Given(transport),
            None => Carrier::network(base, &limits)?,
        };
        let host = base.host_str().unwrap_or_default();
        let port = base.port_or_known_default().unwrap_or_default();
        let (weight, rate) = (limits.weight_per_minute, limits.requests_per_second);
        let limiter = Limiter::shared(&format!("{host}:{port}"), weight, rate);
        Ok(Self { carrier, clock, limits, limiter, source, retries: Mutex::default() })
    }

    /// Repetitions so far, by reason.
    pub(crate) fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until `read` makes something of an answer, as long as that is worth trying. `read` gets
    /// the answers that say something of the request: those of success, and refusals (4xx).
    ///
    /// An error that retries did not help against is exhausted; `Unsupported` outside of a runtime.
    pub(crate) async fn get<T: Send + 'static>(&self, call: &Call, read: &Read<'_, T>) -> Result<T> {
        in_runtime()?;
        let repeated = AtomicU32::new(0);
        self.tries(call, read, &repeated).await.map_err(|failure| {
            let error = failure.error.with("host", call.url.authority());
            match failure.reason {
                Some(_) => error.with("tries", repeated.into_inner() + 1).exhausted(),
                None => error,
            }
        })
    }

    /// Boxed, because the compiler cannot see through the types of a retry that it is `Send`.
    fn tries<'a, T: Send + 'static>(
        &'a self,
        call: &'a Call,
        read: &'a Read<'a, T>,
        repeated: &'a AtomicU32,
    ) -> BoxFuture<'a, Result<T, Failure>> {
        let deadline = self.clock.monotonic() + self.limits.deadline;
        let clock = Arc::clone(&self.clock);
        let attempt = move || async move { read(&self.attempt(call, deadline).await?) };
        let retried = attempt
            .retry(self.backoff())
            .sleep(move |pause| {
                let clock = Arc::clone(&clock);
                async move { clock.sleep(pause).await }
            })
            .when(|failure: &Failure| failure.reason.is_some())
            .adjust(move |failure: &Failure, pause| {
                let pause = pause?.max(failure.pause);
                (self.clock.monotonic() + pause < deadline).then_some(pause)
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
            .with_max_times(self.limits.retries)
    }

    fn count_retry(&self, call: &Call, retry: Retry) {
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner).entry(retry.reason).or_default() += 1;
        metrics::retry(&call.request.key);
        events::backfill_retry(&call.request.key, retry.attempt);
        if let Some(sink) = &call.request.retries {
            sink.on_retry(call.request.range, retry);
        }
    }

    /// One try: waits for its weight, then for the answer.
    async fn attempt(&self, call: &Call, deadline: Duration) -> Result<Answer, Failure> {
        let waited = self.limiter.acquire(call.weight, &*self.clock, deadline).await.map_err(|wait| {
            let error = Error::unavailable("the source's rate limit leaves no room before the deadline");
            Failure::lasting(error.with("wait", format_args!("{wait:?}")).exhausted())
        })?;
        metrics::rate_limit_wait(&self.source, waited);
        let timeout = self.limits.timeout.min(deadline.saturating_sub(self.clock.monotonic()));
        match select(pin!(self.exchange(call)), self.clock.sleep(timeout)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(Failure::passing(
                Reason::Timeout,
                Error::unavailable("the source did not answer in time")
                    .with("timeout", format_args!("{timeout:?}")),
            )),
        }
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, Failure> {
        let client = match &self.carrier {
            Carrier::Network(client) => client,
            Carrier::Given(transport) => {
                let TransportAnswer { status, headers, body } =
                    transport.get(call.url.as_str()).await.map_err(|e| {
                        let error = Error::unavailable("the source cannot be reached").caused_by(e);
                        Failure::passing(Reason::Connection, error)
                    })?;
                self.look_at(status, &headers)?;
                return Ok(Answer { status, date: date(&headers), body });
            }
        };
        let response = client.get(call.url.clone()).send().await.map_err(no_answer)?;
        let status = response.status();
        self.look_at(status, response.headers())?;
        let date = date(response.headers());
        let body = self.body(response).await?;
        Ok(Answer { status, date, body })
    }

    /// What the head of an answer says of limits, and whether it is a refusal already.
    fn look_at(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
        let now = self.clock.monotonic();
        if let Some(used) = self.limits.weight_header.and_then(|name| number(headers, name)) {
            self.limiter.budget().observe(now, used);
        }
        let Some(failure) = refused(status, headers) else { return Ok(()) };
        self.limiter.budget().block(now + failure.pause);
        Err(failure)
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let broke_off = |e: reqwest::Error| {
            let error = Error::unavailable("the source's answer broke off").caused_by(e);
            Failure::passing(Reason::Truncated, error)
        };
        // A promise of the answer's, so it is not believed beyond the cap.
        let promised = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
        let mut body = Vec::with_capacity(promised.unwrap_or_default().min(self.limits.max_body));
        while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
            if body.len() + chunk.len() > self.limits.max_body {
                let error = Error::unavailable("the source's answer is larger than any right one");
                let cap = self.limits.max_body;
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
    Some(Failure::passing(reason, error).with_pause(Duration::from_secs(pause.into()).min(LONGEST_BAN)))
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
