//! What is answered at which path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, RawQuery, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use qmtl_backfill::lease::wire::{self, Call};
use qmtl_backfill::lease::{Command, Query, Reply};
use qmtl_history_api::{Error, ErrorKind, Result};
use qmtl_observe::metrics;
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::Server;

pub(super) fn router(server: &Server) -> Router {
    let server = Arc::new(server.clone());
    let mut leases = Router::new().route(wire::INSPECT, get(inspect));
    for call in Call::ALL {
        let handler = move |State(server): State<Arc<Server>>, request: Request| async move {
            change(&server, call, request).await
        };
        leases = leases.route(call.path(), post(handler));
    }
    let leases = leases
        .layer(DefaultBodyLimit::max(wire::LARGEST_BODY))
        .layer(from_fn_with_state(Arc::clone(&server), admitted))
        .layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(async |_: BoxError| overloaded()))
                .load_shed()
                .layer(GlobalConcurrencyLimitLayer::new(server.limits.requests)),
        );
    Router::new()
        .route("/health", get(health))
        .route("/healthz", get(health))
        .route("/metrics", get(exported))
        .merge(leases)
        .fallback(async || told(404, json!({"error": "no such path; the calls begin with /v1/leases/"})))
        .with_state(server)
}

/// Lets those in who may, and no request last too long.
async fn admitted(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    if let Some(tokens) = &server.tokens
        && !bearer(request.headers()).is_some_and(|token| tokens.admit(token))
    {
        metrics::coordinator_request(name_of(request.uri().path()), "unauthorized", None);
        let body = json!({"error": "this coordinator asks for a bearer token: `Authorization: Bearer …`"});
        return ([(WWW_AUTHENTICATE, "Bearer")], told(401, body)).into_response();
    }
    let name = name_of(request.uri().path());
    match tokio::time::timeout(server.limits.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            metrics::coordinator_request(name, "timeout", None);
            told(503, json!({"error": "the request took too long; it may have been carried out"}))
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The call at a path, in labels of metrics.
fn name_of(path: &str) -> &'static str {
    Call::ALL.into_iter().find(|call| call.path() == path).map_or("inspect", Call::name)
}

async fn change(server: &Server, call: Call, request: Request) -> Response {
    let started = Instant::now();
    let body = match axum::body::to_bytes(request.into_body(), wire::LARGEST_BODY).await {
        Ok(body) => body,
        Err(_) => {
            metrics::coordinator_request(call.name(), "invalid_input", Some(started.elapsed()));
            let error = "the body broke off, or is longer than 65536 bytes, which is the limit";
            return told(413, json!({"error": error}));
        }
    };
    let done = async {
        let (key, command) = wire::command(call, &body)?;
        let worker = match &command {
            Command::Claim { worker, .. } => worker.clone(),
            _ => None,
        };
        let reply = server.store.apply(&key, command).await?;
        note(call, &key, worker.as_deref(), &reply);
        Ok(reply)
    }
    .await;
    let outcome = match &done {
        Ok(reply) => outcome(reply),
        Err(error) => Error::kind(error).as_str(),
    };
    metrics::coordinator_request(call.name(), outcome, Some(started.elapsed()));
    match done {
        Ok(reply) => {
            let (status, body) = wire::answer(&reply);
            told(status, body)
        }
        Err(error) => failed(&error),
    }
}

/// Logs what an operator would look for.
fn note(call: Call, key: &str, worker: Option<&str>, reply: &Reply) {
    match reply {
        Reply::Granted(grant) => {
            if grant.has_expired {
                metrics::lease_expired();
                tracing::warn!(lease_key = key, worker, "a lease that expired was granted anew");
            }
            tracing::debug!(lease_key = key, worker, fence = grant.fence, "granted");
        }
        Reply::Ended { status, ratio } => {
            tracing::debug!(lease_key = key, call = call.name(), %status, ratio, "ended");
        }
        other => tracing::debug!(lease_key = key, call = call.name(), outcome = outcome(other), "refused"),
    }
}

/// A reply in labels of metrics.
fn outcome(reply: &Reply) -> &'static str {
    match reply {
        Reply::Granted(_) | Reply::Renewed(_) | Reply::Ended { .. } => "ok",
        Reply::Refused(refusal) => refusal.outcome.as_str(),
        Reply::Unknown => "unknown",
        _ => "stale",
    }
}

async fn inspect(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Response {
    let started = Instant::now();
    let done = listed(&server, query.as_deref().unwrap_or_default()).await;
    let outcome = done.as_ref().map_or_else(|error| error.kind().as_str(), |_| "ok");
    metrics::coordinator_request("inspect", outcome, Some(started.elapsed()));
    match done {
        Ok(page) => told(200, page),
        Err(error) => failed(&error),
    }
}

async fn listed(server: &Server, query: &str) -> Result<Value> {
    let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let query = wire::query(parameters.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))?;
    Ok(wire::listing(&server.store.inspect(&query).await?))
}

/// Whether the store answers.
async fn health(State(server): State<Arc<Server>>) -> Response {
    let any = Query::new("").with_limit(1);
    match tokio::time::timeout(HEALTH, server.store.inspect(&any)).await {
        Ok(Ok(_)) => told(200, json!({"status": "ok", "store": server.store.id()})),
        Ok(Err(error)) => {
            tracing::warn!(error = error.chain(), "the store of leases does not answer");
            told(503, json!({"status": "failing", "store": server.store.id(), "error": error.to_string()}))
        }
        Err(_) => told(503, json!({"status": "failing", "store": server.store.id(), "error": "no answer"})),
    }
}

/// How long the store may take to show that it is there.
const HEALTH: Duration = Duration::from_secs(5);

async fn exported(State(server): State<Arc<Server>>) -> Response {
    let Some(exporter) = &server.exporter else {
        return told(404, json!({"error": "this server exports no metrics"}));
    };
    match tokio::time::timeout(HEALTH, server.store.counts()).await {
        Ok(Ok(counts)) => {
            metrics::coordinator_keys(counts.into_iter().map(|(state, keys)| (state.as_str(), keys)))
        }
        Ok(Err(error)) => tracing::warn!(error = error.chain(), "the store of leases cannot be counted"),
        Err(_) => tracing::warn!("the store of leases cannot be counted in time"),
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], exporter.render()).into_response()
}

fn overloaded() -> Response {
    metrics::coordinator_request("any", "overloaded", None);
    let body = json!({"error": "too many requests are being answered; try again in a second"});
    ([(RETRY_AFTER, "1")], told(503, body)).into_response()
}

fn failed(error: &Error) -> Response {
    let kind = error.kind();
    if !matches!(kind, ErrorKind::InvalidInput) {
        tracing::error!(error = error.chain(), "a request failed");
    }
    told(wire::status_of(error), json!({"error": error.to_string()}))
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for the answer")]
fn told(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "application/json")], Body::from(body.to_string())).into_response()
}
