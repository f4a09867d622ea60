//! What goes over the wire to a gateway and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use qmtl_history_api::{Error, Interval, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::graph::Place;
use crate::{InputReport, Mode, SideState, Strategy};

/// How long a decision holds that does not say so.
const DEFAULT_TTL: &str = "300s";

/// The phase of an interval in seconds, where it has one.
fn phase(interval: Interval) -> Option<i64> {
    Some(interval.phase_secs()).filter(|phase| *phase > 0)
}

/// `POST /strategies`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Submission {
    /// The graph as JSON, in base64.
    dag_json: String,
    /// A hash of the graph and of its nodes' versions: the same graph computes the same.
    meta: Value,
    world_ids: Vec<String>,
    /// Of the nodes' ids in their order.
    node_ids_crc32: u32,
}

impl Submission {
    pub(super) fn new(strategy: &Strategy, world: &str) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        let inputs = strategy.inputs.iter().map(|input| {
            let id = input.key().node_id.as_str();
            checksum.update(id.as_bytes());
            let mut node = json!({
                "node_id": id,
                "node_type": "StreamInput",
                "interval": input.key().interval.as_secs(),
                "period": input.cache().read(crate::NodeCache::period),
                "inputs": [],
            });
            if let Some(phase) = phase(input.key().interval) {
                node["phase"] = phase.into();
            }
            node
        });
        let mut nodes: Vec<Value> = inputs.collect();
        for (node, sources) in strategy.nodes.iter().zip(&strategy.sources) {
            checksum.update(node.id.as_str().as_bytes());
            let reads: Vec<&str> = sources
                .iter()
                .map(|source| match *source {
                    Place::Input(input) => strategy.inputs[input].key().node_id.as_str(),
                    Place::Node(other) => strategy.nodes[other].id.as_str(),
                })
                .collect();
            nodes.push(json!({
                "node_id": node.id.as_str(),
                "node_type": "ComputeNode",
                "interval": null,
                "period": node.window,
                "inputs": reads,
            }));
        }
        Self {
            dag_json: STANDARD.encode(json!({ "nodes": nodes }).to_string()),
            meta: json!({ "graph_hash": blake3::hash(strategy.describe().join("\n").as_bytes()).to_hex().as_str() }),
            world_ids: vec![world.to_owned()],
            node_ids_crc32: checksum.finalize(),
        }
    }
}

/// The gateway's word that it knows the strategy: the answer to a submission, and to a second one.
#[derive(Debug, Deserialize)]
pub(super) struct Known {
    strategy_id: Option<String>,
    detail: Option<Box<Self>>,
}

impl Known {
    pub(super) fn strategy_id(self) -> Option<String> {
        self.strategy_id.or_else(|| self.detail.and_then(|detail| detail.strategy_id()))
    }
}

/// `GET /worlds/{id}/decide`.
#[derive(Debug, Deserialize)]
pub(super) struct Decision {
    effective_mode: String,
    as_of: String,
    ttl: Option<String>,
}

impl Decision {
    /// The mode, when it was decided, and for how long that holds.
    pub(super) fn read(&self) -> Result<(Mode, Timestamp, Interval)> {
        let ttl = self.ttl.as_deref().unwrap_or(DEFAULT_TTL).parse();
        let ttl = ttl.map_err(|e: Error| e.with("field", "ttl"))?;
        let as_of = self.as_of.parse().map_err(|e: Error| e.with("field", "as_of"))?;
        Ok((self.effective_mode.parse()?, as_of, ttl))
    }
}

/// `GET /worlds/{id}/activation`.
#[derive(Debug, Deserialize)]
pub(super) struct Activated {
    active: bool,
    weight: f64,
    #[serde(default)]
    freeze: bool,
    #[serde(default)]
    drain: bool,
}

impl From<Activated> for SideState {
    fn from(answer: Activated) -> Self {
        let Activated { active, weight, freeze, drain } = answer;
        Self { active, weight, freeze, drain }
    }
}

/// `POST /strategies/{id}/history`: what an input's warm-up found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HistoryReport {
    node_id: String,
    /// Seconds.
    interval: i64,
    /// Seconds; left out on the plain grid, of which the original knows alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<i64>,
    rows: usize,
    /// The first and the last bar, epoch seconds.
    coverage_bounds: Option<(i64, i64)>,
    /// How many bars of each flaw.
    conformance_flags: Value,
    conformance_warnings: Vec<String>,
    /// Bars that had closed by then were looked for.
    as_of: String,
    world_id: String,
}

impl HistoryReport {
    pub(super) fn new(report: &InputReport, world: &str) -> Self {
        let missing = report.missing.count(report.key.interval);
        Self {
            node_id: report.key.node_id.as_str().to_owned(),
            interval: report.key.interval.as_secs(),
            phase: phase(report.key.interval),
            rows: report.bars,
            coverage_bounds: report
                .first
                .zip(report.last)
                .map(|(first, last)| (first.as_secs(), last.as_secs())),
            conformance_flags: if missing == 0 { json!({}) } else { json!({ "missing_bars": missing }) },
            conformance_warnings: report.error.iter().map(ToString::to_string).collect(),
            as_of: report.window.end().to_string(),
            world_id: world.to_owned(),
        }
    }
}
