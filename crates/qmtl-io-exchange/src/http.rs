//! Requests to exchanges: limits, time, caps and retries, in one place for all of them.

mod answer;
mod failure;
mod limiter;
mod reach;
mod request;
mod server_clock;
mod transport;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use chrono::DateTime;
use futures::future::{BoxFuture, Either, select};
use qmtl_history_api::{
    Error, ErrorKind, FetchRequest, Result, Retry, RetrySink, SourceId, TimeRange, Timestamp, Wait,
};
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

use self::limiter::Held;
use self::reach::Reach;
use crate::config::ExchangeConfig;

/// The longest pause that a header can impose on all jobs of the process; no exchange bans for longer.
const LONGEST_BAN: Duration = Duration::from_secs(3 * 86_400);
/// What a longer one is taken for: a mistake of the server's, which must not stop a process for days.
const ABSURD_BAN: Duration = Duration::from_secs(10 * 60);
/// More weight than any exchange grants in a minute.
const ABSURD_WEIGHT: u32 = 1_000_000;
/// How long a try may take at least when a host is about to be given up.
const LAST_TRY: Duration = Duration::from_secs(2);
/// How long a request may wait before that is told.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Makes something of what came of one try.
type Read<'a, T> = dyn Fn(Result<Answer, Failure>) -> Result<T, Failure> + Sync + 'a;

/// One request on its way.
#[derive(Debug)]
struct Call<'a> {
    url: Url,
    weight: u32,
    on_behalf: &'a FetchRequest,
}

impl Call<'_> {
    /// When a pause that the host imposes must be over: at the deadline of the request, or when its answer is of no
    /// use any more to whoever listens.
    fn useful_until(&self, now: Duration, deadline: Duration) -> Duration {
        let left = self.on_behalf.retries.as_ref().and_then(|sink| sink.left());
        left.map_or(deadline, |left| deadline.min(now.saturating_add(left)))
    }

    /// Passes something on to whoever wants to hear of the request.
    fn tell(&self, what: impl FnOnce(&dyn RetrySink, TimeRange)) {
        if let Some(sink) = &self.on_behalf.retries {
            what(&**sink, self.on_behalf.range);
        }
    }
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
    reach: Reach,
    /// Told of a count that cannot be.
    doubts: Once,
    retries: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    Answer,
    /// Its share of what the host grants.
    Room,
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
        let (reach, retries) = (Reach::new(config.retry_for), Mutex::default());
        Ok(Self {
            config,
            base,
            source,
            weight_header: None,
            carrier,
            limiter,
            reach,
            doubts: Once::new(),
            retries,
        })
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
    /// the answers that say something of the request: those of success, and refusals (4xx) but for 401, 403, 407, 418,
    /// 429 and 451. It is `on_behalf` of a fetch: its series goes into metrics and logs, its sink hears of retries.
    ///
    /// Errors: that of `read`, or `Unavailable`; exhausted where retries did not help. `Unsupported` outside of a
    /// runtime.
    pub async fn get<T: Send + 'static>(
        &self,
        request: &HttpRequest,
        on_behalf: &FetchRequest,
        read: impl Fn(&Answer) -> Result<T, Failure> + Send + Sync,
    ) -> Result<T> {
        let read_or_give_up = |tried: Result<Answer, Failure>| match tried {
            Ok(answer) => read(&answer),
            Err(failure) => {
                if failure.is_of_all {
                    // The others need not find out by themselves.
                    let error = failure.error.clone().with("host", self.base.authority());
                    self.reach.give_up(self.config.clock.monotonic(), &error);
                }
                Err(failure)
            }
        };
        self.ask(request, on_behalf, &read_or_give_up).await
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
            if let Err(given_up) = self.reach.check(self.config.clock.monotonic()) {
                return given_up;
            }
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
                let now = self.config.clock.monotonic();
                let left = self.reach.until().map(|until| until.saturating_sub(now));
                if left.is_some_and(|left| left.is_zero() || self.config.retries == 0) {
                    self.give_up(&failure.error);
                    return None;
                }
                if !failure.pause.is_zero() && now + failure.pause >= call.useful_until(now, deadline) {
                    return None;
                }
                let pause = pause?.max(failure.pause);
                match left {
                    // The last try comes when the time is over.
                    Some(left) => Some(pause.min(left)).filter(|pause| now + *pause < deadline),
                    None if repeated.load(Ordering::Relaxed) as usize >= self.config.retries => None,
                    None => (now + pause < deadline).then_some(pause),
                }
            })
            .notify(move |failure: &Failure, pause| {
                let attempt = repeated.fetch_add(1, Ordering::Relaxed) + 1;
                let reason = failure.reason.map_or("", Reason::as_str);
                let end = self.reach.until().map_or(deadline, |until| until.min(deadline));
                let retry = Retry::new(attempt, pause, reason)
                    .with_error(failure.error.clone().with("host", self.base.authority()))
                    .with_at_most(end.saturating_sub(self.config.clock.monotonic()));
                self.count_retry(call, retry);
            });
        Box::pin(retried)
    }

    /// Ends the waiting for a host that has never answered, for all requests.
    fn give_up(&self, last: &Error) {
        let error = Error::unavailable(
            "the source has never answered; check its address and the network, or wait longer (with_retry_for)",
        )
        .with("host", self.base.authority())
        .with("waited", format_args!("{:.1?}", self.reach.waited(self.config.clock.monotonic())))
        .caused_by(last.clone());
        self.reach.give_up(self.config.clock.monotonic(), &error.exhausted());
    }

    /// From half a second to half a minute, doubling, with up to as much again by chance.
    fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(30))
            // How often is decided with each failure.
            .with_max_times(if self.config.retries == 0 { 0 } else { usize::MAX })
    }

    fn count_retry(&self, call: &Call<'_>, retry: Retry) {
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner).entry(retry.reason).or_default() += 1;
        metrics::retry(&call.on_behalf.key);
        events::backfill_retry(&call.on_behalf.key, retry.attempt);
        call.tell(|sink, range| sink.on_retry(range, retry));
    }

    /// Does some work for a request, and tells what it waits for when that takes longer than a moment.
    async fn patiently<T>(
        &self,
        call: &Call<'_>,
        (what, at_most): (Awaited, Duration),
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        match select(&mut work, self.config.clock.sleep(TOLD_AFTER)).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                let clock = &*self.config.clock;
                let (what, status, next) = match what {
                    Awaited::Answer => ("answer", None, None),
                    Awaited::Room => {
                        let held = self.limiter.held(clock.monotonic());
                        (held.as_str(), held.status(), self.limiter.free_in(call.weight, clock))
                    }
                };
                let wait = Wait::new(what, self.base.authority(), at_most.saturating_sub(TOLD_AFTER));
                let wait = wait.with_next(next).with_status(status);
                call.tell(|sink, range| sink.on_wait(range, wait));
                work.await
            }
        }
    }

    /// One try: waits for its weight, then for the answer.
    async fn attempt(&self, call: &Call<'_>, deadline: Duration) -> Result<Answer, Failure> {
        let clock = &*self.config.clock;
        // Those that wait for the first one to be answered need not find out by themselves.
        self.reach.check(clock.monotonic()).map_err(Failure::lasting)?;
        let useful_until = call.useful_until(clock.monotonic(), deadline);
        let left = useful_until.saturating_sub(clock.monotonic());
        let room = self.limiter.acquire(call.weight, clock, useful_until);
        let waited = self
            .patiently(call, (Awaited::Room, left), room)
            .await
            .map_err(|wait| no_room(self.limiter.held(clock.monotonic()), wait))?;
        metrics::rate_limit_wait(&self.source, waited);
        let now = clock.monotonic();
        self.reach.begin(now);
        let timeout = self.config.timeout.min(deadline.saturating_sub(now));
        // The last try has a chance, too.
        let first = self.reach.until().map(|until| until.saturating_sub(now).max(LAST_TRY));
        let timeout = first.map_or(timeout, |first| timeout.min(first));
        let exchange = self.patiently(call, (Awaited::Answer, timeout), self.exchange(call));
        match select(pin!(exchange), clock.sleep(timeout)).await {
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
        match self.weight_header.and_then(|name| number(headers, name)) {
            Some(used) if used > ABSURD_WEIGHT => self.doubts.call_once(|| {
                let host = self.base.authority();
                tracing::warn!(
                    host,
                    used,
                    "the source counts more weight than any grants; its count is ignored"
                );
            }),
            Some(used) => self.limiter.observe(now, used),
            None => {}
        }
        let failure = refused(status, headers, self.reach.has_served());
        let is_service = failure.as_ref().is_none_or(|failure| {
            !matches!(failure.reason, None | Some(Reason::Forbidden | Reason::Redirected))
        });
        self.reach.answered(is_service);
        let Some(failure) = failure else { return Ok(()) };
        self.limiter.block(now + failure.pause, status.as_u16());
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
                let error = Error::unavailable("the source's answer is larger than any valid one");
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

/// The failure of a request for which the host leaves no room in time: it would have to wait for this long.
fn no_room(held: Held, wait: Duration) -> Failure {
    let error = Error::unavailable(match held {
        Held::UsedUp => "the source's rate limit leaves no room before the deadline",
        Held::Paused(_) => "the source has asked for a pause that ends after the deadline; try again then",
        Held::Banned(_) => "the source has banned this address until after the deadline; try again then",
    });
    let error = held.status().into_iter().fold(error, |error, status| error.with("status", status));
    Failure::lasting(error.with("wait", format_args!("{wait:.1?}")).exhausted())
}

/// The failure of an answer whose status speaks for itself. One that sends all requests from here away, from the first
/// one on, will go on doing so; one that has served us asks for patience.
fn refused(status: StatusCode, headers: &HeaderMap, has_served: bool) -> Option<Failure> {
    let (reason, message) = match status {
        StatusCode::TOO_MANY_REQUESTS => (Some(Reason::RateLimited), "the source asks for fewer requests"),
        StatusCode::IM_A_TEAPOT => (Some(Reason::Banned), "the source has banned this address for a while"),
        StatusCode::FORBIDDEN if has_served => {
            (Some(Reason::Forbidden), "a firewall in front of the source refuses the request")
        }
        StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => (
            None,
            "the source does not serve this machine, as some exchanges do not serve some countries and data centres; use \
             another address of it, its archive, or another source",
        ),
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => (
            None,
            "the source asks for credentials, which candles do not need; check its address, or the proxy",
        ),
        _ if status.is_server_error() => {
            (Some(Reason::ServerError), "the source answered with a server error")
        }
        _ if leads_elsewhere(status) && has_served => {
            (Some(Reason::Redirected), "the source redirects to another address, which is not followed")
        }
        _ if leads_elsewhere(status) => (
            None,
            "the source redirects to another address, which is not followed; use that address if you trust it",
        ),
        _ => return None,
    };
    let mut error = Error::new(ErrorKind::Unavailable, message).with("status", status.as_u16());
    if let Some(location) = headers.get(reqwest::header::LOCATION) {
        error = error.with("location", shown_location(location.as_bytes()));
    }
    let asked = retry_after(headers).unwrap_or_default();
    let pause = if asked > LONGEST_BAN { ABSURD_BAN } else { asked };
    if !asked.is_zero() {
        error = error.with("asks_to_wait_s", asked.as_secs());
    }
    if pause < asked {
        error = error.with("taken_for_s", pause.as_secs());
    }
    let failure = match reason {
        Some(reason) => Failure::passing(reason, error).with_pause(pause),
        // A redirection is of one path.
        None => Failure { is_of_all: !leads_elsewhere(status), ..Failure::lasting(error.retryable(false)) },
    };
    Some(Failure { date: date(headers), ..failure })
}

/// Whether an answer names another address. Others of 3xx say nothing that an API of candles could mean.
fn leads_elsewhere(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads, as it can be shown: without what may be a secret, and not at any length.
fn shown_location(location: &[u8]) -> String {
    let text = String::from_utf8_lossy(location);
    let place = text.split(['?', '#']).next().unwrap_or_default();
    if place.contains('@') { "***".to_owned() } else { place.chars().take(200).collect() }
}

/// How long the server asks to be left alone: seconds, or a date by its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are no shorter a time.
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    Some(http_date(text)?.since(date(headers)?))
}

fn no_answer(error: reqwest::Error) -> Failure {
    if error.is_timeout() {
        let error = Error::unavailable("the source did not accept a connection in time").caused_by(error);
        return Failure::passing(Reason::Timeout, error);
    }
    if let Some(why) = distrust(&error) {
        return Failure::lasting(Error::unavailable(why).retryable(false).caused_by(error));
    }
    Failure::passing(Reason::Connection, Error::unavailable("the source cannot be reached").caused_by(error))
}

const DISTRUSTED: &str = "the source's certificate cannot be verified; check its address and this machine's clock, or add \
                          the certificate authority that it uses (SSL_CERT_FILE)";
const NO_TLS: &str =
    "the source does not speak TLS at this address; check the port, or use http:// if that is what you mean";

/// Why no repetition helps where TLS does not trust the other side, or where that does not speak TLS.
fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Some(DISTRUSTED),
                rustls::Error::InvalidMessage(_) => Some(NO_TLS),
                _ => None,
            };
        }
        // An I/O error shows what it wraps to none but those who ask for it.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

/// The time of an answer by its server's clock, in whole seconds.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

fn http_date(text: &str) -> Option<Timestamp> {
    Timestamp::from_secs(DateTime::parse_from_rfc2822(text).ok()?.timestamp()).ok()
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
        let date = "Mon, 01 Jan 2024 00:00:07 GMT";
        let headers = [(RETRY_AFTER, retry_after), (DATE, date)];
        let headers = headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
        refused(StatusCode::TOO_MANY_REQUESTS, &headers.collect(), true).unwrap().pause
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
        assert_eq!(pause("Mon, 01 Jan 2024 00:00:47 GMT"), Duration::from_secs(40));
        assert_eq!(pause("Mon, 01 Jan 2024 00:00:00 GMT"), Duration::ZERO);
        assert_eq!(pause("259200"), LONGEST_BAN);
        let absurd = ["259201", "18446744073709551615", "18446744073709551616", "99999999999999999999999"];
        assert_eq!(absurd.map(pause), [ABSURD_BAN; 4]);
        assert_eq!(pause("soon"), Duration::ZERO);
        let absurd = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("4000000000"))]);
        let said = refused(StatusCode::TOO_MANY_REQUESTS, &absurd, true).unwrap().error.to_string();
        assert!(said.ends_with("(status: 429, asks_to_wait_s: 4000000000, taken_for_s: 600)"), "{said}");
    }

    #[test]
    fn where_a_redirect_leads_is_shown_without_secrets_and_not_at_any_length() {
        let shown = |text: &str| shown_location(text.as_bytes());
        assert_eq!(shown("https://example.com/a"), "https://example.com/a");
        assert_eq!([shown("/a?token=PW"), shown("/a#PW"), shown("//u:PW@h/a")], ["/a", "/a", "***"]);
        assert_eq!(shown(&"x".repeat(20_000)).len(), 200);
    }

    #[test]
    fn a_refusal_that_will_not_change_is_not_repeated() {
        let reason = |status, has_served| {
            refused(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), has_served)
                .map(|failure| failure.reason)
        };
        // Whoever has served us may have a firewall that is wary for a while.
        assert_eq!([403, 302].map(|status| reason(status, false)), [Some(None); 2]);
        assert_eq!(
            [403, 302].map(|status| reason(status, true)),
            [Some(Some(Reason::Forbidden)), Some(Some(Reason::Redirected))]
        );
        assert_eq!([401, 407, 451].map(|status| reason(status, true)), [Some(None); 3]);
        assert_eq!([200, 206, 304, 400, 404].map(|status| reason(status, false)), [None; 5]);
        assert_eq!(reason(503, false), Some(Some(Reason::ServerError)));
    }
}
