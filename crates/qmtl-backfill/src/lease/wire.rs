//! The HTTP protocol of coordinators as text: commands, replies and pages to JSON and back, one place for both ends.
//!
//! | call | body | answers |
//! |---|---|---|
//! | `POST /v1/leases/claim` | `{key, lease_ms}`, optional `worker`, `request_id` | 200 `{lease: {token, lease_until_ms, fence}, completion_ratio}`; 409 `{outcome, state, worker, lease_until_ms}`, outcome `held`, `dead`, `backoff` or `replayed` |
//! | `POST /v1/leases/renew` | `{key, token, lease_ms}`, optional `completion_ratio` | 200 as for a claim; 404; 409 |
//! | `POST /v1/leases/complete` | `{key, token}`, optional `missing`, `completion_ratio`, `retry_after_s` | 200 `{completion_ratio, state}`; 404; 409 |
//! | `POST /v1/leases/fail`, `…/release` | `{key, token, reason}`, optional `completion_ratio` | 200 `{completion_ratio, state}`; 404; 409 |
//! | `GET /v1/leases/inspect` | query `prefix`, `state`, `cursor`, `limit` | 200 `{now_ms, leases: […], cursor}` |
//!
//! 404 is a key that was never claimed, 409 a token that is not the key's current one, or a renewal that came too late.
//! `complete` and `fail` take `recover: true`, an operator's word that counts whatever the key's state, and
//! `force: true`, for which the token does not matter. Fields that nobody knows are ignored. Times are whole
//! milliseconds since the epoch. Refused requests are answered with `{error}`.

use std::time::Duration;

use qmtl_history_api::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Command, Grant, Lease, LeaseKey, Listed, Outcome, Page, Query, Refusal, Reply, State, Status};

/// The calls that change something; each is a `POST` of JSON to [`Call::path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Command::Claim`].
    Claim,
    /// [`Command::Renew`].
    Renew,
    /// [`Command::Complete`], and [`Command::Recover`] as done.
    Complete,
    /// [`Command::Fail`], and [`Command::Recover`] as open.
    Fail,
    /// [`Command::Release`].
    Release,
}

/// Where keys are listed, with `GET`.
pub const INSPECT: &str = "/v1/leases/inspect";

/// The largest body of a request in bytes, which holds every key.
pub const LARGEST_BODY: usize = 64 << 10;

impl Call {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Claim, Self::Renew, Self::Complete, Self::Fail, Self::Release];

    /// The path on the server.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Claim => "/v1/leases/claim",
            Self::Renew => "/v1/leases/renew",
            Self::Complete => "/v1/leases/complete",
            Self::Fail => "/v1/leases/fail",
            Self::Release => "/v1/leases/release",
        }
    }

    /// The last part of the path: what it is called in labels of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct ClaimBody {
    key: String,
    lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct RenewBody {
    key: String,
    token: String,
    lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completion_ratio: Option<f64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct EndBody {
    key: String,
    #[serde(default)]
    token: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completion_ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<f64>,
    #[serde(default, skip_serializing_if = "is_false")]
    recover: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    force: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The call and the body that ask for `command`.
#[must_use]
pub fn request(key: &str, command: &Command) -> (Call, Value) {
    let key = key.to_owned();
    let ended = |call, body: EndBody| (call, json!(body));
    match command.clone() {
        Command::Claim { ttl, worker, request_id } => {
            (Call::Claim, json!(ClaimBody { key, lease_ms: millis(ttl), worker, request_id }))
        }
        Command::Renew { token, ttl, ratio } => {
            (Call::Renew, json!(RenewBody { key, token, lease_ms: millis(ttl), completion_ratio: ratio }))
        }
        Command::Complete { token, missing: 0, .. } => {
            ended(Call::Complete, EndBody { key, token, ..Default::default() })
        }
        Command::Complete { token, missing, ratio, retry_after } => ended(
            Call::Complete,
            EndBody {
                key,
                token,
                missing: Some(missing),
                completion_ratio: Some(ratio),
                retry_after_s: Some(retry_after.as_secs_f64()),
                ..Default::default()
            },
        ),
        Command::Fail { token, reason, ratio } => {
            let body = EndBody { key, token, reason, completion_ratio: ratio, ..Default::default() };
            ended(Call::Fail, body)
        }
        Command::Release { token, reason, ratio } => {
            let body = EndBody { key, token, reason, completion_ratio: ratio, ..Default::default() };
            ended(Call::Release, body)
        }
        Command::Recover { token, is_done, reason } => {
            let force = token.is_none();
            let token = token.unwrap_or_default();
            let call = if is_done { Call::Complete } else { Call::Fail };
            ended(call, EndBody { key, token, reason, recover: true, force, ..Default::default() })
        }
    }
}

/// The key and the command that the body of a call asks for; `InvalidInput` when it asks for nothing that can be done.
pub fn command(call: Call, body: &[u8]) -> Result<(String, Command)> {
    match call {
        Call::Claim => {
            let ClaimBody { key, lease_ms, worker, request_id } = parsed(call, body)?;
            Ok((key, Command::Claim { ttl: Duration::from_millis(lease_ms), worker, request_id }))
        }
        Call::Renew => {
            let RenewBody { key, token, lease_ms, completion_ratio } = parsed(call, body)?;
            Ok((key, Command::Renew { token, ttl: Duration::from_millis(lease_ms), ratio: completion_ratio }))
        }
        Call::Complete | Call::Fail | Call::Release => {
            let EndBody { key, token, reason, missing, completion_ratio, retry_after_s, recover, force } =
                parsed(call, body)?;
            if token.is_empty() && !force {
                return Err(malformed(call, "missing field `token`"));
            }
            let command = match call {
                Call::Release if recover || force => {
                    return Err(malformed(call, "a lease is recovered by complete or fail"));
                }
                Call::Release => Command::Release { token, reason, ratio: completion_ratio },
                call if recover || force => {
                    let token = Some(token).filter(|_| !force);
                    Command::Recover { token, is_done: call == Call::Complete, reason }
                }
                Call::Complete => {
                    let missing = missing.unwrap_or(0);
                    let retry_after = Duration::try_from_secs_f64(retry_after_s.unwrap_or(0.0));
                    let retry_after = retry_after.map_err(|error| malformed(call, &error.to_string()))?;
                    let ratio = completion_ratio.unwrap_or_else(|| settled(&key, missing));
                    Command::Complete { token, missing, ratio, retry_after }
                }
                _ => Command::Fail { token, reason, ratio: completion_ratio },
            };
            Ok((key, command))
        }
    }
}

/// The share of a key's bars that is settled when so many are missing; 0 where the key does not say how many it has.
#[must_use]
pub fn settled(key: &str, missing: u64) -> f64 {
    match key.parse::<LeaseKey>().map(|key| key.points()) {
        Ok(points) if points > 0 => points.saturating_sub(missing) as f64 / points as f64,
        _ => 0.0,
    }
}

fn parsed<'a, T: Deserialize<'a>>(call: Call, body: &'a [u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| malformed(call, &error.to_string()))
}

fn malformed(call: Call, why: &str) -> Error {
    Error::invalid("the body of the request does not fit the call")
        .with("call", call.path())
        .with("reason", why)
}

/// The status and the body that tell a reply.
#[must_use]
pub fn answer(reply: &Reply) -> (u16, Value) {
    match reply {
        Reply::Granted(grant) | Reply::Renewed(grant) => {
            let Grant { fence, token, until, ratio, .. } = grant;
            let lease = json!({"token": token, "lease_until_ms": until.as_millis(), "fence": fence});
            (200, json!({"lease": lease, "completion_ratio": ratio}))
        }
        Reply::Ended { ratio, status } => (200, json!({"completion_ratio": ratio, "state": status.as_str()})),
        Reply::Refused(Refusal { outcome, status, worker, until }) => {
            let (outcome, state) = (outcome.as_str(), status.as_str());
            let until = until.as_millis();
            (409, json!({"outcome": outcome, "state": state, "worker": worker, "lease_until_ms": until}))
        }
        Reply::Unknown => (404, json!({"outcome": "unknown", "error": "this key was never claimed"})),
        Reply::Stale => (
            409,
            json!({"outcome": "stale", "error": "this token is not the key's current one, or its lease is over"}),
        ),
    }
}

/// The reply that an answer of a coordinator tells. `Unavailable` for what no coordinator says: it must never be taken
/// for 'somebody else holds it'.
pub fn reply(call: Call, status: u16, body: &[u8]) -> Result<Reply> {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let understood = match (status, call) {
        (200, Call::Claim) => granted(&value).map(Reply::Granted),
        (200, Call::Renew) => granted(&value).map(Reply::Renewed),
        (200, _) => value["completion_ratio"].as_f64().map(|ratio| {
            let status = value["state"].as_str().and_then(Status::named);
            Reply::Ended { ratio, status: status.unwrap_or(ended_by(call)) }
        }),
        (404, _) if value["outcome"] == "unknown" => Some(Reply::Unknown),
        (409, Call::Claim) => value["outcome"].as_str().and_then(Outcome::named).map(|outcome| {
            let worker = value["worker"].as_str().map(str::to_owned);
            let until = time(&value["lease_until_ms"]).unwrap_or(Timestamp::MIN);
            let status = value["state"].as_str().and_then(Status::named).unwrap_or(match outcome {
                Outcome::Held => Status::Held,
                Outcome::Dead => Status::Dead,
                Outcome::Backoff | Outcome::Replayed => Status::Failed,
            });
            Reply::Refused(Refusal { outcome, status, worker, until })
        }),
        (409, _) => Some(Reply::Stale),
        _ => None,
    };
    understood.ok_or_else(|| refused(status, body))
}

/// The error that an answer is which tells no reply.
#[must_use]
pub fn refused(status: u16, body: &[u8]) -> Error {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let error = match (status, &value["error"]) {
        (400 | 413, Value::String(told)) => {
            Error::invalid(format!("the coordinator refuses the request: {told}"))
        }
        (401 | 403, _) => {
            let message = "the coordinator does not accept the bearer token, or was shown none: give it with \
                           --token-file, or with_bearer in a program of yours";
            Error::unavailable(message).retryable(false)
        }
        (200..300 | 404 | 409, _) => Error::unavailable("the answer is not one of a lease coordinator"),
        (500.., Value::String(told)) => {
            Error::unavailable(format!("the coordinator cannot do this now: {told}"))
        }
        _ => Error::unavailable("the coordinator cannot do this now"),
    };
    error.with("status", status)
}

/// What a key is after a call on a server that does not say.
fn ended_by(call: Call) -> Status {
    match call {
        Call::Fail => Status::Failed,
        Call::Release => Status::Released,
        _ => Status::Done,
    }
}

fn granted(value: &Value) -> Option<Grant> {
    let lease = &value["lease"];
    Some(Grant {
        fence: lease["fence"].as_u64().unwrap_or(0),
        token: lease["token"].as_str()?.to_owned(),
        until: time(&lease["lease_until_ms"])?,
        ratio: value["completion_ratio"].as_f64().unwrap_or(0.0),
        has_expired: false,
    })
}

fn time(value: &Value) -> Option<Timestamp> {
    Timestamp::from_millis(value.as_i64()?).ok()
}

/// The parameters of an address that ask for a page.
#[must_use]
pub fn parameters(query: &Query) -> Vec<(&'static str, String)> {
    let Query { prefix, state, after, limit } = query;
    let mut parameters = vec![("limit", limit.to_string())];
    parameters.extend((!prefix.is_empty()).then(|| ("prefix", prefix.clone())));
    parameters.extend(state.map(|state| ("state", state.as_str().to_owned())));
    parameters.extend(after.clone().map(|after| ("cursor", after)));
    parameters
}

/// The query that the parameters of an address ask for; `InvalidInput` for a state or a limit that is none.
pub fn query<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Query> {
    let mut query = Query::new("");
    for (name, value) in parameters {
        match name {
            "prefix" => value.clone_into(&mut query.prefix),
            "state" if !value.is_empty() => query = query.with_state(State::named(value)?),
            "cursor" if !value.is_empty() => query = query.with_after(value),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=Query::LONGEST).contains(limit));
                let error =
                    || Error::invalid("a page has 1 to 1000 keys").with("limit", format_args!("{value:?}"));
                query = query.with_limit(limit.ok_or_else(error)?);
            }
            _ => {}
        }
    }
    Ok(query)
}

/// A page as JSON.
#[must_use]
pub fn listing(page: &Page) -> Value {
    let leases: Vec<_> = page.leases.iter().map(|listed| listed_json(listed, page.now)).collect();
    json!({"now_ms": page.now.as_millis(), "leases": leases, "cursor": page.next})
}

/// A key as JSON: what `inspect` lists.
#[must_use]
pub fn listed_json(Listed { key, lease }: &Listed, now: Timestamp) -> Value {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    add("key", json!(key));
    add("state", json!(lease.state(now).as_str()));
    add("worker", json!(lease.worker));
    add("token", json!(lease.token));
    add("fence", json!(lease.fence));
    add("lease_until_ms", json!(lease.until.as_millis()));
    add("granted_at_ms", json!(lease.granted_at.as_millis()));
    add("changed_at_ms", json!(lease.changed_at.as_millis()));
    add("age_s", json!(now.since(lease.granted_at).as_secs()));
    add("attempts", json!(lease.attempts));
    add("completion_ratio", json!(lease.ratio));
    add("missing", json!(lease.missing));
    add("reason", json!(lease.reason));
    Value::Object(fields)
}

/// The page that an answer tells; `Unavailable` for what no coordinator says.
pub fn page(status: u16, body: &[u8]) -> Result<Page> {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let understood = || {
        let leases = value["leases"].as_array()?.iter().map(listed).collect::<Option<Vec<_>>>()?;
        let next = value["cursor"].as_str().map(str::to_owned);
        Some(Page { now: time(&value["now_ms"])?, leases, next })
    };
    let page = if status == 200 { understood() } else { None };
    page.ok_or_else(|| refused(status, body))
}

fn listed(value: &Value) -> Option<Listed> {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let ratio = value["completion_ratio"].as_f64()?;
    let lease = Lease {
        fence: value["fence"].as_u64()?,
        token: text("token")?,
        status: State::named(value["state"].as_str()?).ok()?.status(),
        until: time(&value["lease_until_ms"])?,
        granted_at: time(&value["granted_at_ms"])?,
        changed_at: time(&value["changed_at_ms"])?,
        worker: text("worker"),
        request_id: None,
        attempts: u32::try_from(value["attempts"].as_u64()?).ok()?,
        ratio,
        granted_ratio: ratio,
        missing: value["missing"].as_u64()?,
        reason: text("reason"),
    };
    Some(Listed { key: text("key")?, lease })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The status of an answer to a request that an error ended.
#[must_use]
pub fn status_of(error: &Error) -> u16 {
    match error.kind() {
        ErrorKind::InvalidInput => 400,
        ErrorKind::Unavailable | ErrorKind::Storage => 503,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn commands() -> Vec<Command> {
        let ttl = Duration::from_millis(120_000);
        let (token, reason) = (text("9-ab"), text("no \"disk\""));
        vec![
            Command::Claim { ttl, worker: None, request_id: None },
            Command::Claim { ttl, worker: Some(text("w")), request_id: Some(text("r")) },
            Command::Renew { token: token.clone(), ttl, ratio: Some(0.5) },
            Command::Renew { token: token.clone(), ttl, ratio: None },
            Command::Complete { token: token.clone(), missing: 0, ratio: 1.0, retry_after: Duration::ZERO },
            Command::Complete {
                token: token.clone(),
                missing: 3,
                ratio: 0.25,
                retry_after: Duration::from_millis(1_500),
            },
            Command::Fail { token: token.clone(), reason: reason.clone(), ratio: Some(0.5) },
            Command::Release { token: token.clone(), reason: reason.clone(), ratio: None },
            Command::Recover { token: Some(token), is_done: true, reason: reason.clone() },
            Command::Recover { token: None, is_done: false, reason },
        ]
    }

    #[test]
    fn commands_go_there_and_back() {
        let key = "blake3:ab:60:1700:1760:world-1:2024-01-01T00:00:00Z";
        for asked in commands() {
            let (call, body) = request(key, &asked);
            let (found, got) = command(call, body.to_string().as_bytes()).unwrap();
            assert_eq!((found.as_str(), got), (key, asked));
        }
    }

    #[test]
    fn replies_go_there_and_back() {
        let grant = Grant {
            fence: 9,
            token: text("9-ab"),
            until: Timestamp::from_millis(2_000).unwrap(),
            ratio: 0.5,
            has_expired: false,
        };
        let refusal = Refusal {
            outcome: Outcome::Backoff,
            status: Status::Partial,
            worker: Some(text("w")),
            until: grant.until,
        };
        for (call, told) in [
            (Call::Claim, Reply::Granted(grant.clone())),
            (Call::Claim, Reply::Refused(refusal)),
            (Call::Renew, Reply::Renewed(grant)),
            (Call::Renew, Reply::Stale),
            (Call::Complete, Reply::Ended { ratio: 1.0, status: Status::Done }),
            (Call::Complete, Reply::Unknown),
            (Call::Fail, Reply::Ended { ratio: 0.0, status: Status::Dead }),
        ] {
            let (status, body) = answer(&told);
            assert_eq!(reply(call, status, body.to_string().as_bytes()).unwrap(), told);
        }
    }

    #[test]
    fn bodies_of_the_original_are_understood() {
        let claim = br#"{"key": "n:60:1700:1760::", "lease_ms": 60000, "hint": [1]}"#;
        let ttl = Duration::from_secs(60);
        assert_eq!(
            command(Call::Claim, claim).unwrap().1,
            Command::Claim { ttl, worker: None, request_id: None }
        );
        let complete = br#"{"key": "n:60:0:600::", "token": "t", "missing": 4}"#;
        let partial =
            Command::Complete { token: text("t"), missing: 4, ratio: 0.6, retry_after: Duration::ZERO };
        assert_eq!(command(Call::Complete, complete).unwrap().1, partial);
        assert_eq!(settled("opaque", 4), 0.0);
        for (call, body) in [
            (Call::Claim, r#"{"key": "n"}"#),
            (Call::Claim, r#"{"key": "n", "lease_ms": -1}"#),
            (Call::Claim, "[]"),
            (Call::Complete, r#"{"key": "n"}"#),
            (Call::Complete, r#"{"key": "n", "token": "t", "retry_after_s": -1}"#),
            (Call::Release, r#"{"key": "n", "token": "t", "force": true}"#),
            (Call::Fail, "{"),
        ] {
            assert_eq!(command(call, body.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidInput, "{body}");
        }
    }

    /// A proxy that answers for a server that is down, a page of a router, a token that is wrong: none of them says that
    /// somebody else holds the lease.
    #[test]
    fn what_no_coordinator_says_is_an_error() {
        for (status, body) in [
            (200, "<html>"),
            (200, "{}"),
            (404, "not found"),
            (409, "{}"),
            (401, r#"{"error": "no"}"#),
            (502, "bad gateway"),
            (503, r#"{"error": "full"}"#),
            (301, ""),
        ] {
            let error = reply(Call::Claim, status, body.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{status} {body}");
            assert_eq!(error.is_retryable(), status != 401, "{status}");
        }
        let error = reply(Call::Claim, 400, br#"{"error": "a lease key has 1 to 4096 bytes"}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn pages_go_there_and_back() {
        let now = Timestamp::from_millis(5_000).unwrap();
        let lease = Lease {
            fence: 3,
            token: text("3-ab"),
            status: Status::Held,
            until: Timestamp::from_millis(4_000).unwrap(),
            granted_at: Timestamp::from_millis(1_000).unwrap(),
            changed_at: Timestamp::from_millis(2_000).unwrap(),
            worker: Some(text("w")),
            request_id: None,
            attempts: 2,
            ratio: 0.5,
            granted_ratio: 0.5,
            missing: 0,
            reason: None,
        };
        let told =
            Page { now, leases: vec![Listed { key: text("k:\u{1f980}"), lease }], next: Some(text("k")) };
        let body = listing(&told);
        assert_eq!(
            (&body["leases"][0]["state"], &body["leases"][0]["age_s"]),
            (&json!("expired"), &json!(4))
        );
        assert_eq!(page(200, body.to_string().as_bytes()).unwrap(), told);
        assert!(page(200, b"{}").is_err() && page(500, body.to_string().as_bytes()).is_err());
        let asked = Query::new("k:").with_state(State::Dead).with_after("k:1").with_limit(7);
        let parameters = parameters(&asked);
        assert_eq!(query(parameters.iter().map(|(name, value)| (*name, value.as_str()))).unwrap(), asked);
        assert!(query([("state", "alive")]).is_err() && query([("limit", "0")]).is_err());
    }
}
