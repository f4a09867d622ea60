//! What nodes have computed of a chunk of moments, while it is there.

use std::ops::Range;

use qmtl_history_api::Timestamp;

use super::node::{Chunk, Node, Results};
use crate::{Activation, CacheView, ComputeNode, Order};

/// A chunk of moments that nodes have run over, while what they computed of it is there.
pub(crate) struct Delivered<'a> {
    pub(super) chunk: &'a Chunk,
    pub(super) inputs: &'a [CacheView<'a>],
    pub(super) nodes: &'a [Node],
    pub(super) results: &'a [Results],
    /// Whether nodes run, and orders come, though a bar is missing.
    pub(super) holes_allowed: bool,
}

impl Delivered<'_> {
    /// The results that somebody hears of: all, or those of nodes that are recorded or have orders.
    pub(super) fn signals(&self, told_all: bool, has_orders: bool) -> impl Iterator<Item = Signal> {
        let nodes = self.nodes.iter().zip(self.results).enumerate();
        let heard = nodes.filter(move |(_, (node, _))| {
            told_all || node.spec.recorder.is_some() || node.spec.orders.is_some()
        });
        heard.flat_map(move |(at, (node, results))| {
            (results.before()..results.ts.len()).zip(&results.fired).map(move |(row, moment)| Signal {
                node: at,
                ts: results.ts[row],
                values: results.columns.iter().map(|column| column[row]).collect(),
                acts: has_orders && self.may_act(node, *moment),
            })
        })
    }

    /// How many bars close after `moment`.
    pub(crate) fn bars_after(&self, moment: Timestamp) -> u64 {
        let first = self.chunk.moments.partition_point(|at| *at <= moment);
        let late =
            |emits: &Vec<u32>| (emits.len() - emits.partition_point(|at| (*at as usize) < first)) as u64;
        self.chunk.emits.iter().map(late).sum()
    }

    /// What each node computed at moments after `moment`, with the orders that come of it.
    pub(crate) fn results_after(&self, moment: Timestamp) -> impl Iterator<Item = NodeRows<'_>> {
        let first = self.chunk.moments.partition_point(|at| *at <= moment);
        self.nodes.iter().zip(self.results).map(move |(node, results)| {
            let skipped = results.fired.partition_point(|at| (*at as usize) < first);
            let rows = results.before() + skipped..results.ts.len();
            NodeRows { delivered: self, node, results, rows, fired: &results.fired[skipped..] }
        })
    }

    /// Whether orders may come of a node at a moment: it has some, and of each input that it reads the period is there,
    /// with no bar missing in it.
    fn may_act(&self, node: &Node, moment: u32) -> bool {
        let is_clean = |input: &usize| {
            let rows = self.chunk.rows_at(*input, moment);
            let has_hole = || {
                let period = rows.saturating_sub(self.inputs[*input].period());
                let runs = self.chunk.runs[*input].as_ref();
                runs.zip(rows.checked_sub(1)).is_some_and(|(runs, last)| runs[last] > period)
            };
            let until = self.chunk.moments[moment as usize];
            self.inputs[*input].is_ready_at(rows, until) && (self.holes_allowed || !has_hole())
        };
        node.spec.orders.is_some() && node.inputs.iter().all(is_clean)
    }
}

/// Results of one node.
pub(crate) struct NodeRows<'a> {
    delivered: &'a Delivered<'a>,
    node: &'a Node,
    results: &'a Results,
    rows: Range<usize>,
    fired: &'a [u32],
}

impl NodeRows<'_> {
    /// The node.
    pub(crate) fn node(&self) -> &ComputeNode {
        &self.node.spec
    }

    /// When the bars open that the results are.
    pub(crate) fn ts(&self) -> &[Timestamp] {
        &self.results.ts[self.rows.clone()]
    }

    /// The moments at which they stand.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Timestamp> {
        self.fired.iter().map(|at| self.delivered.chunk.moments[*at as usize])
    }

    /// The values of each output.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &[f64]> {
        self.results.columns.iter().map(|column| &column[self.rows.clone()])
    }

    /// The orders that come of them, each with its moment.
    pub(crate) fn orders(&self, activation: &Activation) -> impl Iterator<Item = (Timestamp, Order)> {
        let signals = self.rows.clone().zip(self.fired).filter(|_| self.node.spec.orders.is_some());
        signals.filter_map(move |(row, at)| {
            let order = self.node.order(self.results.ts[row], self.results.columns[0][row], activation)?;
            let acts = self.delivered.may_act(self.node, *at);
            acts.then(|| (self.delivered.chunk.moments[*at as usize], order))
        })
    }
}

/// A result of a live moment.
#[derive(Clone, Debug)]
pub(super) struct Signal {
    pub(super) node: usize,
    pub(super) ts: Timestamp,
    pub(super) values: Vec<f64>,
    /// Whether an order may come of it.
    pub(super) acts: bool,
}
