//! What the gateway answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use qmtl_history_api::{Interval, Timestamp};
use serde_json::{Value, json};

use super::{Phase, Seen, SideAnswer, State};

/// An answer before it is sent.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    pub(super) is_stale: bool,
}

impl Answer {
    fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body, is_stale: false }
    }

    /// To a request without the right token, which it repeats as a careless gateway might.
    pub(super) fn unauthorized(token: Option<&str>) -> Self {
        let detail = format!("no such token: {}", token.unwrap_or("none"));
        Self::refusal(StatusCode::UNAUTHORIZED, &detail)
    }

    fn refusal(status: StatusCode, detail: &str) -> Self {
        Self::new(status, json!({ "detail": detail }))
    }
}

pub(super) fn answer(state: &mut State, request: &Seen, phase: Phase) -> Answer {
    let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("GET", ["health"]) => Answer::new(StatusCode::OK, json!({ "status": "ok" })),
        ("POST", ["strategies"]) => submit(state, &request.body),
        ("POST", ["strategies", id, "history"]) => publish(state, id, &request.body),
        ("GET", ["worlds", world, _]) if decoded(world) != state.world.id => {
            Answer::refusal(StatusCode::NOT_FOUND, "no such world")
        }
        ("GET", ["worlds", _, "decide"]) => decide(state, phase),
        ("GET", ["worlds", _, "activation"]) => activation(state, request, phase),
        _ => Answer::refusal(StatusCode::NOT_FOUND, "no such route"),
    }
}

/// A path's segment without its percent signs, as far as ids need it.
fn decoded(segment: &str) -> String {
    // A form is decoded in the same way, but for the plus.
    let text = segment.replace('+', "%2B");
    form_urlencoded::parse(text.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

fn submit(state: &mut State, body: &Value) -> Answer {
    let invalid = |why: &str| Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, why);
    let Some(dag) = body["dag_json"].as_str() else { return invalid("dag_json is missing") };
    let nodes = STANDARD.decode(dag).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let Some(nodes) = nodes.as_ref().and_then(|dag| dag["nodes"].as_array()) else {
        return invalid("dag_json is not a graph in base64");
    };
    let mut checksum = crc32fast::Hasher::new();
    nodes.iter().filter_map(|node| node["node_id"].as_str()).for_each(|id| checksum.update(id.as_bytes()));
    if body["node_ids_crc32"].as_u64() != Some(u64::from(checksum.finalize())) {
        return invalid("node_ids_crc32 is not that of the nodes");
    }
    if body["world_ids"] != json!([state.world.id]) {
        return invalid("the strategy is not for this world");
    }
    if let Some(id) = state.strategies.get(dag) {
        let detail = json!({ "detail": { "code": "E_DUPLICATE", "strategy_id": id } });
        return Answer::new(StatusCode::CONFLICT, detail);
    }
    let id = format!("strategy-{}", state.strategies.len() + 1);
    state.strategies.insert(dag.to_owned(), id.clone());
    let queues = json!({ "strategy_id": id, "queue_map": {}, "node_ids_crc32": body["node_ids_crc32"] });
    Answer::new(StatusCode::ACCEPTED, queues)
}

fn publish(state: &mut State, id: &str, body: &Value) -> Answer {
    if !state.strategies.values().any(|known| known == id) {
        return Answer::refusal(StatusCode::NOT_FOUND, "no such strategy");
    }
    if !body["node_id"].is_string() || !body["interval"].is_i64() {
        return Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, "node_id and interval are needed");
    }
    state.history.entry(id.to_owned()).or_default().push(body.clone());
    Answer::new(StatusCode::OK, json!({ "status": "ok" }))
}

fn decide(state: &State, phase: Phase) -> Answer {
    let now = state.clock.now();
    let ttl = state.world.ttl.parse::<Interval>().map_or(0, Interval::as_micros);
    let as_of = match phase {
        // Just too old.
        Phase::Stale => now.checked_add_micros(-ttl).unwrap_or(Timestamp::MIN),
        _ => now,
    };
    let body = json!({
        "world_id": state.world.id,
        "policy_version": 1,
        "effective_mode": state.world.mode,
        "reason": "by the test",
        "as_of": as_of.to_string(),
        "ttl": state.world.ttl,
        "etag": format!("w:{}:v1", state.world.id),
    });
    Answer::new(StatusCode::OK, body)
}

fn activation(state: &State, request: &Seen, phase: Phase) -> Answer {
    let word = |name: &str| request.query.get(name).map(String::as_str);
    let strategy = word("strategy_id").unwrap_or_default();
    if !state.strategies.values().any(|known| known == strategy) {
        return Answer::refusal(StatusCode::NOT_FOUND, "no such strategy");
    }
    let [long, short] = state.world.sides;
    let SideAnswer { active, weight, freeze, drain } = match word("side") {
        Some("long") => long,
        Some("short") => short,
        _ => return Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, "side is long or short"),
    };
    let body = json!({
        "world_id": state.world.id,
        "strategy_id": strategy,
        "side": word("side"),
        "active": active,
        "weight": weight,
        "freeze": freeze,
        "drain": drain,
        "effective_mode": state.world.mode,
        "etag": format!("act:{}:{strategy}", state.world.id),
        "ts": state.clock.now().to_string(),
    });
    Answer { is_stale: phase == Phase::Stale, ..Answer::new(StatusCode::OK, body) }
}
