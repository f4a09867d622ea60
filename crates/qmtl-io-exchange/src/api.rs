//! A host with an API: its settings, its name as a source, its client, and what its answers hold.

use std::sync::Arc;

use qmtl_history_api::{Error, ErrorKind, FetchRequest, Interval, Result, SourceId, TimeRange, Timestamp};
use serde::Deserialize;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::config::ExchangeConfig;
use crate::http::{Answer, Call, Failure, HttpClient, Reason, Url, in_runtime};

/// Who is asked, and how.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) config: ExchangeConfig,
    pub(crate) http: HttpClient,
    pub(crate) source: SourceId,
    base: Url,
}

impl Api {
    /// The API called `name` at the address of the settings, whose usual hosts are `own_hosts` and whose
    /// answers tell the weight used in `weight_header`. Asks nothing.
    ///
    /// Errors: `InvalidInput` for a base URL that is none, has a scheme other than http and https,
    /// or holds a password, and for limits that leave no room for a request; `Unavailable` when the
    /// system's certificates cannot be read.
    pub(crate) fn open(
        config: ExchangeConfig,
        name: &str,
        own_hosts: &[&str],
        weight_header: Option<&'static str>,
    ) -> Result<Self> {
        config.check_room()?;
        let base = config.url()?;
        let source = match base.host_str() {
            Some(host) if own_hosts.contains(&host) => SourceId::new(name),
            _ => SourceId::new(format!("{name}:{}", base.authority())),
        }?;
        let limits = config.limits(weight_header);
        let (clock, transport) = (Arc::clone(&config.clock), config.transport.clone());
        let http = HttpClient::new(&base, source.clone(), limits, clock, transport)?;
        Ok(Self { config, http, source, base })
    }

    /// A request for what lies at `path` under the address.
    pub(crate) fn call<'a>(
        &self,
        path: impl IntoIterator<Item = &'a str>,
        weight: u32,
        request: &FetchRequest,
    ) -> Call {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Call { url, weight, request: request.clone() }
    }
}

/// Whether `interval` is one of `secs` seconds without a phase, which is what the exchanges here offer: they open
/// days at midnight UTC and weeks on Mondays.
pub(crate) fn is_plain(interval: Interval, secs: i64) -> bool {
    interval.as_secs() == secs && interval.phase_secs() == 0
}

/// The part of `range` that an exchange can be asked for when its open bar opens at `open`: what has closed, and
/// nothing before the epoch, which no API of theirs can name.
pub(crate) fn askable(range: TimeRange, open: Timestamp) -> Option<TimeRange> {
    range.intersect(TimeRange::checked(Timestamp::EPOCH, open)?)
}

/// Runs `work` as a task of its own, which ends with this future: pages that are asked for side by side by
/// one task are read on all threads, each where its connection is.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    in_runtime()?;
    let mut task = JoinSet::new();
    task.spawn(work.in_current_span());
    match task.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(ended)) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => Err(Error::unexpected("a request was given up").caused_by(ended)),
        },
        None => Err(Error::unexpected("a request was never made")),
    }
}

/// What a body holds; an object of type `R` is the failure that `refusal` makes of it. `api` names whose
/// answers these are, for people.
pub(crate) fn decode<'a, T: Deserialize<'a>, R: Deserialize<'a>>(
    api: &str,
    Answer { status, body, .. }: &'a Answer,
    refusal: impl FnOnce(R) -> Failure,
) -> Result<T, Failure> {
    if let Ok(told) = serde_json::from_slice(body) {
        return Err(refusal(told));
    }
    if !status.is_success() {
        let message = format!("the address answers, but not as {api}'s API does");
        let error = Error::new(ErrorKind::Unavailable, message).with("status", status.as_u16());
        return Err(Failure::lasting(error.retryable(false)));
    }
    // Checked once as a whole, not string by string.
    let text = std::str::from_utf8(body).map_err(serde::de::Error::custom);
    text.and_then(serde_json::from_str).map_err(|e: serde_json::Error| {
        let start: String = String::from_utf8_lossy(body).chars().take(60).collect();
        let error = Error::unavailable(format!("the answer is not what {api}'s API sends"))
            .with("begins", format_args!("{start:?}"))
            .caused_by(e);
        Failure::passing(Reason::BadAnswer, error)
    })
}
