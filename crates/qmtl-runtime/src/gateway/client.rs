//! Requests to a gateway, each with an answer of bounded size in bounded time.

use std::time::Duration;

use qmtl_history_api::{Error, ErrorKind, Result};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::World;
use super::wire::{Activated, Decision, HistoryReport, Known, Submission};
use crate::Side;

/// The largest answer that is read; right ones have a few hundred bytes.
const MAX_BODY: usize = 1 << 20;
/// How much of a refusal's text is repeated.
const MAX_TOLD: usize = 200;

pub(super) struct Client {
    http: reqwest::Client,
    gateway: Url,
    token: Option<String>,
}

/// An answer, and whether the gateway itself says that it is an old one.
pub(super) struct Answer<T> {
    pub(super) content: T,
    pub(super) is_stale: bool,
}

impl Client {
    pub(super) fn new(world: &World) -> Result<Self> {
        let builder = reqwest::Client::builder()
            .timeout(world.timeout)
            .connect_timeout(world.timeout)
            // A gateway decides by itself; another host must not.
            .redirect(Policy::none())
            .user_agent(concat!("qmtl/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(Duration::from_secs(30));
        // A plain connection works on a system without certificates too.
        let builder = if world.gateway.scheme() == "https" { builder } else { builder.tls_certs_only([]) };
        let is_here = matches!(world.gateway.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = if is_here { builder.no_proxy() } else { builder };
        let http =
            builder.build().map_err(|e| Error::unavailable("cannot set up an HTTP client").caused_by(e))?;
        Ok(Self { http, gateway: world.gateway.clone(), token: world.token.clone() })
    }

    /// Submits a strategy; its id at the gateway, also when it was known there before.
    pub(super) async fn submit(&self, submission: &Submission) -> Result<String> {
        let url = self.url(&["strategies"]);
        let (status, _, body) = self.exchange(self.posted(url, submission)?).await?;
        let known = status.is_success() || status == StatusCode::CONFLICT;
        if !known {
            return Err(self.refused(status, &body));
        }
        let id = parse::<Known>(&body)?.strategy_id();
        id.ok_or_else(|| Error::unavailable("the gateway knows the strategy but does not say its id"))
    }

    pub(super) async fn decide(&self, world: &str) -> Result<Answer<Decision>> {
        self.get(self.url(&["worlds", world, "decide"])).await
    }

    pub(super) async fn activation(
        &self,
        world: &str,
        strategy: &str,
        side: Side,
    ) -> Result<Answer<Activated>> {
        let mut url = self.url(&["worlds", world, "activation"]);
        url.query_pairs_mut().append_pair("strategy_id", strategy).append_pair("side", side.as_str());
        self.get(url).await
    }

    pub(super) async fn publish(&self, strategy: &str, report: &HistoryReport) -> Result<()> {
        let url = self.url(&["strategies", strategy, "history"]);
        let (status, _, body) = self.exchange(self.posted(url, report)?).await?;
        if status.is_success() { Ok(()) } else { Err(self.refused(status, &body)) }
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<Answer<T>> {
        let (status, headers, body) = self.exchange(self.http.get(url)).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let is_stale = headers.get("x-stale").is_some_and(|value| value.as_bytes() == b"true");
        Ok(Answer { content: parse(&body)?, is_stale })
    }

    fn posted(&self, url: Url, content: &impl Serialize) -> Result<RequestBuilder> {
        let body = serde_json::to_vec(content)
            .map_err(|e| Error::unexpected("cannot write a request as JSON").caused_by(e))?;
        Ok(self.http.post(url).header(CONTENT_TYPE, "application/json").body(body))
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<(StatusCode, HeaderMap, Vec<u8>)> {
        // The error would repeat the URL, which may hold a password.
        let away = |e: reqwest::Error| {
            Error::unavailable("the gateway does not answer")
                .with("gateway", self.gateway.authority().rsplit('@').next().unwrap_or_default())
                .caused_by(e.without_url())
        };
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let mut response = request.send().await.map_err(away)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Error::unavailable("the gateway's answer is larger than any right one")
                    .with("cap_bytes", MAX_BODY));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, headers, body))
    }

    /// What a status says that is no success: `NotFound`, `InvalidInput` for what will never be taken,
    /// else `Unavailable`.
    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        let kind = match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ErrorKind::Unavailable,
            _ if status.is_client_error() => ErrorKind::InvalidInput,
            _ => ErrorKind::Unavailable,
        };
        let mut text = String::from_utf8_lossy(body).into_owned();
        if let Some(token) = &self.token {
            // A gateway may repeat what it was sent.
            text = text.replace(token, "***");
        }
        let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect();
        Error::new(kind, "the gateway refuses").with("status", status.as_u16()).with("answer", text)
    }

    /// The gateway's URL with these segments, whatever characters they have.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.gateway.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Error::unavailable("the gateway's answer is not what was asked for").caused_by(e))
}
