//! Compute nodes: what they read, how they compute, and where their results go.

use std::fmt;
use std::sync::Arc;

use qmtl_history_api::{NodeId, Result};

use crate::graph::Source;
use crate::windows::{Bars, Windows};
use crate::{EventRecorderService, Order};

/// The column of a node's results, unless the node names its outputs itself.
pub const VALUE: &str = "value";

/// A node that carries a state from one moment to the next, such as an exponential average.
///
/// A closure may have a state too, but only a `StatefulNode` can be [saved](crate::Pipeline::snapshot) with it.
pub trait StatefulNode: Send {
    /// The names of what it computes, in order: [`VALUE`] alone by default.
    fn outputs(&self) -> &[&'static str] {
        &[VALUE]
    }

    /// Names the code and includes every parameter, such as `ema/20`. A state that was saved under another version is
    /// not restored: change the version whenever the same bars would give other results, or the saved bytes have
    /// another meaning.
    fn version(&self) -> String;

    /// Processes a moment, and writes one value for each output to `out`, which is NaN at first.
    ///
    /// An error fails the node as a panic does: it stops, together with the nodes that read it.
    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()>;

    /// Whether the last update gave a result; true by default. If not, the node is silent at that moment: its readers
    /// do not run, and their windows hold only results that exist. This is how a node of one-minute bars gives one
    /// result an hour.
    fn has_result(&self) -> bool {
        true
    }

    /// Returns to the state before the first update.
    fn reset(&mut self);

    /// The state, from which [`restore`](Self::restore) makes a node that continues exactly as this one would.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over a saved state. After an error the node is [reset](Self::reset).
    fn restore(&mut self, state: &[u8]) -> Result<()>;
}

pub(crate) type SliceFn = dyn FnMut(&Windows<'_>) -> f64 + Send;
/// One value for each of many moments, or for each of many outputs at one.
pub(crate) type FillFn = dyn FnMut(&Windows<'_>, &mut [f64]) + Send;
pub(crate) type OrderFn = dyn FnMut(&Order) + Send;

pub(crate) enum Compute {
    Slices(Box<SliceFn>),
    Batch(Box<FillFn>),
    Outputs(Box<FillFn>),
    Stateful(Box<dyn StatefulNode>),
}

/// A node that computes from the newest rows of what it reads.
///
/// It runs once at every moment at which a source that it reads has a new row, provided that each source has `window`
/// rows and no bar is missing between them or behind the last. Of a source that has no bar at that moment it sees the
/// last rows. A result must depend only on the node's windows and its own state: when history is replayed, a node may
/// run over many bars before the next node does.
pub struct ComputeNode {
    pub(crate) id: NodeId,
    pub(crate) reads: Vec<(Source, String)>,
    pub(crate) window: usize,
    pub(crate) outputs: Vec<String>,
    pub(crate) keeps: usize,
    pub(crate) version: Option<String>,
    pub(crate) recorder: Option<Arc<EventRecorderService>>,
    pub(crate) orders: Option<Box<OrderFn>>,
    pub(crate) compute: Compute,
}

impl ComputeNode {
    /// A node called `id` whose closure sees the last `window` rows of each read.
    #[must_use]
    pub fn slices(
        id: NodeId,
        window: usize,
        compute: impl FnMut(&Windows<'_>) -> f64 + Send + 'static,
    ) -> Self {
        Self::new(id, window, Compute::Slices(Box::new(compute)))
    }

    /// A node called `id` that fills many results at once: for `n` results, each read holds
    /// `window - 1 + n` rows, and result `i` stands at row `window - 1 + i`.
    ///
    /// It gets many bars at once when it reads a single source and history is replayed, else one.
    #[must_use]
    pub fn batch(
        id: NodeId,
        window: usize,
        compute: impl FnMut(&Windows<'_>, &mut [f64]) + Send + 'static,
    ) -> Self {
        Self::new(id, window, Compute::Batch(Box::new(compute)))
    }

    /// A node called `id` with several named outputs, such as a middle, an upper and a lower band: the closure writes
    /// one value for each to its slice, which is NaN at first.
    #[must_use]
    pub fn outputs(
        id: NodeId,
        window: usize,
        outputs: impl IntoIterator<Item = impl Into<String>>,
        compute: impl FnMut(&Windows<'_>, &mut [f64]) + Send + 'static,
    ) -> Self {
        let outputs = outputs.into_iter().map(Into::into).collect();
        Self { outputs, ..Self::new(id, window, Compute::Outputs(Box::new(compute))) }
    }

    /// A node called `id` with a state that can be saved.
    #[must_use]
    pub fn stateful(id: NodeId, window: usize, node: impl StatefulNode + 'static) -> Self {
        let outputs = node.outputs().iter().map(|name| (*name).to_owned()).collect();
        let version = Some(node.version());
        Self { outputs, version, ..Self::new(id, window, Compute::Stateful(Box::new(node))) }
    }

    fn new(id: NodeId, window: usize, compute: Compute) -> Self {
        let outputs = vec![VALUE.to_owned()];
        Self {
            id,
            reads: Vec::new(),
            window,
            outputs,
            keeps: 1,
            version: None,
            recorder: None,
            orders: None,
            compute,
        }
    }

    /// Reads a column of an input, named by itself or its series, or an output of another node, named by its id.
    #[must_use]
    pub fn reads(mut self, source: impl Into<Source>, column: impl Into<String>) -> Self {
        self.reads.push((source.into(), column.into()));
        self
    }

    /// Reads the open, high, low, close and volume of an input, for [`Windows::bars`].
    #[must_use]
    pub fn reads_bars(self, source: impl Into<Source>) -> Self {
        let source = source.into();
        Bars::COLUMNS.into_iter().fold(self, |node, column| node.reads(source.clone(), column))
    }

    /// Keeps at least the newest `results`; 1 by default and at least, and as many as its readers need.
    #[must_use]
    pub fn keeps(mut self, results: usize) -> Self {
        self.keeps = results.max(1);
        self
    }

    /// Names the code of a closure and its parameters, such as `mean/20`, and declares that it has no state, so that
    /// its strategy can be [saved](crate::Pipeline::snapshot). A [`StatefulNode`] has a version of its own.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Records the results of live bars under the node's id.
    #[must_use]
    pub fn recorded_by(mut self, service: impl Into<Arc<EventRecorderService>>) -> Self {
        self.recorder = Some(service.into());
        self
    }

    /// Makes orders of the node's results, or of its first output if it has several: at every live moment, a result
    /// above zero is an order for the long side, one below zero for the short side; zero and NaN give none. `sink`
    /// gets the orders that the world allows: none offline, none in replay, and none without a fresh
    /// [activation](crate::Activation).
    #[must_use]
    pub fn orders_to(mut self, sink: impl FnMut(&Order) + Send + 'static) -> Self {
        self.orders = Some(Box::new(sink));
        self
    }
}

impl fmt::Debug for ComputeNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputeNode")
            .field("id", &self.id)
            .field("reads", &self.reads)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
