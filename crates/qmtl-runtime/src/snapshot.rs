//! What a strategy has computed, as bytes: with it a new process goes on where another one stopped.

use qmtl_history_api::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// Of the bytes; another one is refused.
const FORMAT: u32 = 2;
/// The checksum behind the JSON: eight hexadecimal digits.
const CHECKSUM: usize = 8;

/// The state of a strategy between two moments: each node's newest results and the state of each
/// [`StatefulNode`](crate::StatefulNode), with the graph that they belong to. Bars are not in it: they are loaded
/// again.
///
/// [`Pipeline::snapshot`](crate::Pipeline::snapshot) takes one,
/// [`Runner::with_snapshot`](crate::Runner::with_snapshot) goes on from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    /// [`Strategy::describe`](crate::Strategy), and what else its results depend on.
    pub(crate) graph: Vec<String>,
    /// Microseconds.
    moment: i64,
    /// For every input the opening of the newest bar that was delivered, in microseconds.
    watermarks: Vec<Option<i64>>,
    pub(crate) nodes: Vec<NodeState>,
}

/// What one node has computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// Microseconds.
    pub(crate) ts: Vec<i64>,
    /// For every output its values, as the bits of doubles: JSON has no NaN.
    pub(crate) columns: Vec<Vec<u64>>,
    /// The results before which the node was silent although it was warm.
    pub(crate) breaks: Vec<usize>,
    /// It was silent so at its last moment.
    pub(crate) is_stale: bool,
    pub(crate) state: Option<Vec<u8>>,
}

impl Snapshot {
    pub(crate) fn new(
        graph: Vec<String>,
        moment: Timestamp,
        watermarks: impl Iterator<Item = Option<Timestamp>>,
        nodes: Vec<NodeState>,
    ) -> Self {
        let watermarks = watermarks.map(|ts| ts.map(Timestamp::as_micros)).collect();
        Self { format: FORMAT, graph, moment: moment.as_micros(), watermarks, nodes }
    }

    /// The newest moment that had been delivered.
    #[must_use]
    pub fn moment(&self) -> Timestamp {
        Timestamp::from_micros(self.moment).unwrap_or(Timestamp::MIN)
    }

    /// For every input, in the strategy's order, the opening of the newest bar that had been delivered.
    pub fn watermarks(&self) -> impl Iterator<Item = Option<Timestamp>> {
        self.watermarks.iter().map(|micros| micros.and_then(|micros| Timestamp::from_micros(micros).ok()))
    }

    /// As bytes, for a file: JSON and a checksum. Write them to a temporary file, then rename it, so that a kill
    /// leaves the previous snapshot intact.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|e| Error::unexpected("cannot write a snapshot as JSON").caused_by(e))?;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("{checksum:0CHECKSUM$x}").as_bytes());
        Ok(bytes)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. `Corrupt` for anything else, and for another version's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = |message: &str| Error::new(ErrorKind::Corrupt, message);
        let (json, checksum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM));
        if format!("{:0CHECKSUM$x}", crc32fast::hash(json)).as_bytes() != checksum {
            return Err(corrupt("the snapshot is damaged: its checksum differs"));
        }
        let snapshot: Self =
            serde_json::from_slice(json).map_err(|e| corrupt("the snapshot cannot be read").caused_by(e))?;
        if snapshot.format != FORMAT {
            return Err(corrupt("the snapshot has another format")
                .with("format", snapshot.format)
                .with("expected", FORMAT));
        }
        Ok(snapshot)
    }
}
