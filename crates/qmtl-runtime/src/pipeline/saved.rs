//! The state of a pipeline between two moments, saved and taken over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use qmtl_history_api::{Error, ErrorKind, NodeId, Result, Timestamp};

use super::Pipeline;
use super::merge::rows_up_to;
use super::node::{Node, Results, panicked};
use crate::NodeCache;
use crate::compute::Compute;
use crate::snapshot::{NodeState, Snapshot};

impl Pipeline {
    /// The state of all nodes, from which [`restore`](Self::restore) goes on with the next moment.
    ///
    /// `Unsupported`, naming the node, where a closure has no [version](crate::ComputeNode::version): nobody could tell
    /// whether its results are still right. A failed node's error, or the one of a node that cannot be saved.
    pub fn snapshot(&self) -> Result<Snapshot> {
        if let Some(failure) = self.failures().next() {
            return Err(failure.clone());
        }
        let save = |(node, results): (&Node, &Results)| {
            let Results { ts, columns, breaks, is_stale, .. } = results;
            let skipped = ts.len().saturating_sub(node.spec.keeps);
            if node.spec.version.is_none() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the state of a closure cannot be saved; give the node a version, or make it a StatefulNode",
                )
                .with("node_id", &node.spec.id));
            }
            let state = match &node.spec.compute {
                Compute::Stateful(state) => Some(guarded(&node.spec.id, || state.save())?),
                _ => None,
            };
            let bits = |column: &Vec<f64>| column[skipped..].iter().map(|value| value.to_bits()).collect();
            Ok(NodeState {
                ts: ts[skipped..].iter().map(|ts| ts.as_micros()).collect(),
                columns: columns.iter().map(bits).collect(),
                breaks: breaks
                    .iter()
                    .filter_map(|row| row.checked_sub(skipped))
                    .filter(|row| *row > 0)
                    .collect(),
                is_stale: *is_stale,
                state,
            })
        };
        let nodes = self.nodes.iter().zip(&self.results).map(save).collect::<Result<_>>()?;
        let watermarks = self.inputs.iter().map(|input| {
            let newest = |cache: &NodeCache| rows_up_to(cache, self.released).checked_sub(1);
            input.cache().read(|cache| newest(cache).map(|row| cache.view().timestamps()[row]))
        });
        Ok(Snapshot::new(self.fingerprint(), self.released, watermarks, nodes))
    }

    /// Takes over a state that was saved: what closes at its moment or before is not delivered any more, and only lies
    /// in the windows.
    ///
    /// `InvalidInput`, with the first difference, for the state of another graph or version, and once something was
    /// delivered; else the error of a node that does not take its state. The pipeline is as new then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        if self.moment().is_some() {
            return Err(Error::invalid("a state is restored before anything was delivered"));
        }
        let own = self.fingerprint();
        if own != snapshot.graph {
            let differ = own.iter().zip(&snapshot.graph).find(|(own, saved)| own != saved);
            let (own, saved) = differ.map_or(("more or fewer nodes", "another number"), |(a, b)| (a, b));
            return Err(Error::invalid("the saved state is that of another strategy")
                .with("saved", saved)
                .with("expected", own));
        }
        let taken = self.take_over(&snapshot.nodes);
        match taken {
            Ok(()) => self.released = snapshot.moment(),
            Err(_) => self.reset(),
        }
        taken
    }

    fn take_over(&mut self, states: &[NodeState]) -> Result<()> {
        let corrupt = |node: &Node| {
            let error = Error::new(ErrorKind::Corrupt, "a node's saved state does not hold together");
            error.with("node_id", &node.spec.id)
        };
        for ((node, results), saved) in self.nodes.iter_mut().zip(&mut self.results).zip(states) {
            let is_whole = saved.columns.len() == results.columns.len()
                && saved.columns.iter().all(|column| column.len() == saved.ts.len());
            match (&mut node.spec.compute, &saved.state) {
                _ if !is_whole => return Err(corrupt(node)),
                (Compute::Stateful(state), Some(bytes)) => {
                    guarded(&node.spec.id, || state.restore(bytes))?;
                }
                (Compute::Stateful(_), None) => return Err(corrupt(node)),
                _ => {}
            }
            let ts = saved.ts.iter().map(|micros| Timestamp::from_micros(*micros));
            results.ts = ts.collect::<Result<_>>().map_err(|e| corrupt(node).caused_by(e))?;
            for (column, bits) in results.columns.iter_mut().zip(&saved.columns) {
                *column = bits.iter().map(|bits| f64::from_bits(*bits)).collect();
            }
            results.breaks.clone_from(&saved.breaks);
            results.is_stale = saved.is_stale;
        }
        Ok(())
    }

    /// Forgets what nodes have computed.
    fn reset(&mut self) {
        for (node, results) in self.nodes.iter_mut().zip(&mut self.results) {
            if let Compute::Stateful(state) = &mut node.spec.compute {
                state.reset();
            }
            *results = Results::new(node.spec.outputs.len());
        }
    }

    /// What the results depend on besides bars.
    fn fingerprint(&self) -> Vec<String> {
        let holes = format!("holes allowed {}", self.holes_allowed);
        let stale = format!("waits for inputs {}", self.aligner.waits());
        self.graph.iter().cloned().chain([holes, stale]).collect()
    }
}

/// What a node's own code returns; its errors and panics name the node.
fn guarded<T>(id: &NodeId, run: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(returned) => returned.map_err(|e| e.with("node_id", id)),
        Err(panic) => Err(panicked(id, &*panic)),
    }
}
