//! A strategy as a graph: inputs, and compute nodes that read windows of inputs and of each other.

use std::collections::{HashMap, HashSet};
use std::fmt;

use qmtl_history_api::arrow_schema::{DataType, Schema};
use qmtl_history_api::{Error, ErrorKind, NodeId, Result, SeriesKey};

use crate::compute::ComputeNode;
use crate::{LiveSource, NodeCache, StreamInput};

/// What a compute node reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The input of this series.
    Input(SeriesKey),
    /// The results of another node.
    Node(NodeId),
}

impl Source {
    /// Whether this is its id, or of an input its series.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        match self {
            Self::Input(key) => {
                key.node_id.as_str() == name || (name.contains('@') && key.to_string() == name)
            }
            Self::Node(id) => id.as_str() == name,
        }
    }
}

impl From<SeriesKey> for Source {
    fn from(key: SeriesKey) -> Self {
        Self::Input(key)
    }
}

impl From<&SeriesKey> for Source {
    fn from(key: &SeriesKey) -> Self {
        Self::Input(key.clone())
    }
}

impl From<&StreamInput> for Source {
    fn from(input: &StreamInput) -> Self {
        Self::Input(input.key().clone())
    }
}

impl From<NodeId> for Source {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

impl From<&NodeId> for Source {
    fn from(node: &NodeId) -> Self {
        Self::Node(node.clone())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(key) => key.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// The place of a [`Source`] among a strategy's inputs or nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Input(usize),
    Node(usize),
}

/// Inputs and the nodes that compute from them; made by [`Strategy::builder`].
#[derive(Debug)]
pub struct Strategy {
    pub(crate) inputs: Vec<StreamInput>,
    /// So ordered that a node stands after those that it reads.
    pub(crate) nodes: Vec<ComputeNode>,
    /// For every node what each of its reads reads.
    pub(crate) sources: Vec<Vec<Place>>,
    /// For every node the length of the longest chain of nodes that it reads.
    pub(crate) levels: Vec<usize>,
    /// Where live bars come from when it is run.
    pub(crate) live: Option<Box<dyn LiveSource>>,
}

impl Strategy {
    /// Starts an empty strategy.
    #[must_use]
    pub fn builder() -> StrategyBuilder {
        StrategyBuilder::default()
    }

    /// The inputs, in the order in which bars of one time are delivered.
    #[must_use]
    pub fn inputs(&self) -> &[StreamInput] {
        &self.inputs
    }

    /// What the graph is: two strategies with the same text compute the same, as far as the versions of their nodes
    /// tell. One line for each input, then for each node.
    pub(crate) fn describe(&self) -> Vec<String> {
        let inputs = self
            .inputs
            .iter()
            .map(|input| format!("input {} period {}", input.key(), input.cache().read(NodeCache::period)));
        let nodes = self.nodes.iter().map(|node| {
            let reads = node.reads.iter().map(|(source, column)| format!("{source} {column}"));
            format!(
                "node {} version {} window {} reads {} gives {}",
                node.id,
                node.version.as_deref().unwrap_or("none"),
                node.window,
                reads.collect::<Vec<_>>().join(", "),
                node.outputs.join(", ")
            )
        });
        inputs.chain(nodes).collect()
    }
}

/// Compares what `nodes` read of `input` with the columns that it has.
///
/// `NotFound`, naming the columns that there are, for one that it lacks, `Schema` for one that is not of doubles.
pub(crate) fn check_columns<'a>(
    nodes: impl IntoIterator<Item = &'a ComputeNode>,
    input: &StreamInput,
    columns: &Schema,
) -> Result<()> {
    for node in nodes {
        for (_, column) in node.reads.iter().filter(|(source, _)| *source == Source::from(input)) {
            let fault = |kind, message: &str| {
                let error = Error::new(kind, message).with("reader", &node.id);
                error.with("series", input.key()).with("column", column)
            };
            match columns.field_with_name(column).map(|field| field.data_type()) {
                Ok(DataType::Float64) => {}
                Ok(other) => {
                    return Err(fault(
                        ErrorKind::Schema,
                        "a compute node reads a column that is not of doubles",
                    )
                    .with("type", other));
                }
                Err(_) => {
                    let known: Vec<_> = columns.fields().iter().map(|field| field.name().as_str()).collect();
                    return Err(fault(
                        ErrorKind::NotFound,
                        "a compute node reads a column that its input lacks",
                    )
                    .with("columns", known.join(", ")));
                }
            }
        }
    }
    Ok(())
}

/// Builds a [`Strategy`]. Mistakes are reported by [`build`](Self::build).
#[derive(Debug, Default)]
pub struct StrategyBuilder {
    inputs: Vec<StreamInput>,
    nodes: Vec<ComputeNode>,
    live: Option<Box<dyn LiveSource>>,
}

impl StrategyBuilder {
    /// Adds an input. A node may be an input at several intervals.
    #[must_use]
    pub fn input(mut self, input: StreamInput) -> Self {
        self.inputs.push(input);
        self
    }

    /// Adds a node, before or after those that it reads.
    #[must_use]
    pub fn node(mut self, node: ComputeNode) -> Self {
        self.nodes.push(node);
        self
    }

    /// Says where live bars come from when the strategy is run; offline it is left alone.
    #[must_use]
    pub fn live(mut self, source: impl LiveSource + 'static) -> Self {
        self.live = Some(Box::new(source));
        self
    }

    /// Checks and orders the graph.
    ///
    /// `InvalidInput` for two inputs of one series, two nodes of one id or a node with the id of an input, a node
    /// without a read, without an output, with two outputs of one name or with an empty window, a read of something
    /// unknown or of fewer rows than its source keeps, and a cycle, whose nodes are named. Where an input's columns are
    /// fixed, `NotFound` for a read of one that it lacks and `Schema` for one that is not of doubles.
    pub fn build(self) -> Result<Strategy> {
        let places = self.places()?;
        for node in &self.nodes {
            self.check_node(node, &places)?;
        }
        for input in &self.inputs {
            if let Some(columns) = input.cache().read(|cache| cache.schema().cloned()) {
                check_columns(&self.nodes, input, &columns)?;
            }
        }
        let levels = self.levels(&places)?;
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|node| levels[*node]);
        let mut place = vec![0; order.len()];
        for (at, node) in order.iter().enumerate() {
            place[*node] = at;
        }
        let resolve = |read: &(Source, String)| match places[&read.0] {
            Place::Node(node) => Place::Node(place[node]),
            input @ Place::Input(_) => input,
        };
        let sources =
            order.iter().map(|node| self.nodes[*node].reads.iter().map(resolve).collect()).collect();
        let levels = order.iter().map(|node| levels[*node]).collect();
        let mut nodes: Vec<_> = self.nodes.into_iter().enumerate().collect();
        nodes.sort_by_key(|(node, _)| place[*node]);
        let nodes = nodes.into_iter().map(|(_, node)| node).collect();
        Ok(Strategy { inputs: self.inputs, nodes, sources, levels, live: self.live })
    }

    fn places(&self) -> Result<HashMap<Source, Place>> {
        let inputs =
            self.inputs.iter().enumerate().map(|(at, input)| (Source::from(input), Place::Input(at)));
        let nodes = self.nodes.iter().enumerate().map(|(at, node)| (Source::from(&node.id), Place::Node(at)));
        let mut places = HashMap::new();
        for (source, place) in inputs.chain(nodes) {
            let is_taken = |id: &NodeId| self.inputs.iter().any(|input| input.key().node_id == *id);
            // What it records would be taken for rows of the input.
            let is_input = matches!(&source, Source::Node(id) if is_taken(id));
            if is_input || places.contains_key(&source) {
                return Err(Error::invalid("two parts of a strategy have one name").with("name", source));
            }
            places.insert(source, place);
        }
        Ok(places)
    }

    fn check_node(&self, node: &ComputeNode, places: &HashMap<Source, Place>) -> Result<()> {
        let fault = |message: &str| Error::invalid(message).with("node_id", &node.id);
        if node.reads.is_empty() {
            return Err(fault("a compute node must read something"));
        }
        if node.window == 0 {
            return Err(fault("a compute node's window must hold at least one row"));
        }
        let distinct: HashSet<&String> = node.outputs.iter().collect();
        if node.outputs.is_empty() || distinct.len() < node.outputs.len() {
            return Err(fault("a compute node's outputs must have names, each its own")
                .with("outputs", node.outputs.join(", ")));
        }
        for (source, column) in &node.reads {
            match places.get(source) {
                None => return Err(fault("a compute node reads something unknown").with("source", source)),
                Some(Place::Input(input)) => {
                    let period = self.inputs[*input].cache().read(NodeCache::period);
                    if node.window > period {
                        return Err(fault("a compute node's window is longer than its input's period")
                            .with("source", source)
                            .with("window", node.window)
                            .with("period", period));
                    }
                }
                Some(Place::Node(other)) => {
                    let outputs = &self.nodes[*other].outputs;
                    if !outputs.contains(column) {
                        return Err(fault("a compute node reads an output that its source lacks")
                            .with("source", source)
                            .with("column", column)
                            .with("outputs", outputs.join(", ")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every node's level, by repeatedly settling those whose sources are settled.
    fn levels(&self, places: &HashMap<Source, Place>) -> Result<Vec<usize>> {
        let mut levels: Vec<Option<usize>> = vec![None; self.nodes.len()];
        loop {
            let mut settled_one = false;
            for (at, node) in
                self.nodes.iter().enumerate().filter(|(at, _)| levels[*at].is_none()).collect::<Vec<_>>()
            {
                let of_sources = node.reads.iter().map(|(source, _)| match places[source] {
                    Place::Input(_) => Some(0),
                    Place::Node(other) => levels[other].map(|level| level + 1),
                });
                if let Some(deepest) = of_sources.collect::<Option<Vec<_>>>() {
                    levels[at] = deepest.into_iter().max();
                    settled_one = true;
                }
            }
            if !settled_one {
                break;
            }
        }
        let open = |at: usize| levels[at].is_none();
        match (0..levels.len()).find(|at| open(*at)) {
            Some(first) => Err(Error::invalid("compute nodes read each other in a cycle")
                .with("cycle", self.cycle_from(first, places, &open).join(" -> "))),
            None => Ok(levels.into_iter().flatten().collect()),
        }
    }

    /// The ids of a cycle that is reached from an unsettled node, the first one repeated at the end.
    fn cycle_from(
        &self,
        first: usize,
        places: &HashMap<Source, Place>,
        open: &dyn Fn(usize) -> bool,
    ) -> Vec<&str> {
        let mut path = vec![first];
        loop {
            let last = path[path.len() - 1];
            let next = self.nodes[last].reads.iter().find_map(|(source, _)| match places[source] {
                Place::Node(node) if open(node) => Some(node),
                _ => None,
            });
            let Some(next) = next else { break };
            let seen = path.iter().position(|node| *node == next);
            path.push(next);
            if let Some(start) = seen {
                path.drain(..start);
                break;
            }
        }
        path.into_iter().map(|node| self.nodes[node].id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VALUE;

    fn input(id: &str, period: usize) -> StreamInput {
        StreamInput::builder(id).interval("1m").period(period).build().unwrap()
    }

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    /// What is read of `in` is an input, anything else a node.
    fn source(text: &str) -> Source {
        if text == "in" {
            Source::Input(SeriesKey::new("in", "1m".parse().unwrap()).unwrap())
        } else {
            id(text).into()
        }
    }

    fn node(name: &str, sources: &[&str]) -> ComputeNode {
        let node = ComputeNode::slices(id(name), 2, |_| 0.0);
        sources.iter().fold(node, |node, read| node.reads(source(read), VALUE))
    }

    #[test]
    fn nodes_are_ordered_whatever_the_order_of_their_building() {
        let strategy = Strategy::builder()
            .node(node("c", &["b", "in"]))
            .node(node("b", &["a"]))
            .node(node("a", &["in"]))
            .node(node("d", &["in"]))
            .input(input("in", 5))
            .build()
            .unwrap();
        let ids: Vec<_> = strategy.nodes.iter().map(|n| n.id.as_str()).collect();
        assert_eq!(ids, ["a", "d", "b", "c"]);
        assert_eq!(strategy.levels, [0, 0, 1, 2]);
        assert_eq!(strategy.sources[3], [Place::Node(2), Place::Input(0)]);
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let build = |nodes: Vec<ComputeNode>| {
            let start = Strategy::builder().input(input("in", 2));
            nodes.into_iter().fold(start, StrategyBuilder::node).build().unwrap_err().to_string()
        };
        assert_eq!(
            build(vec![node("x", &["a"]), node("a", &["b", "in"]), node("b", &["c"]), node("c", &["a"])]),
            "compute nodes read each other in a cycle (cycle: a -> b -> c -> a)"
        );
        assert_eq!(
            build(vec![node("a", &["a"])]),
            "compute nodes read each other in a cycle (cycle: a -> a)"
        );
        assert_eq!(build(vec![node("in", &["in"])]), "two parts of a strategy have one name (name: in)");
        assert_eq!(build(vec![node("a", &[])]), "a compute node must read something (node_id: a)");
        assert_eq!(
            build(vec![node("a", &["nope"])]),
            "a compute node reads something unknown (node_id: a, source: nope)"
        );
        assert_eq!(
            build(vec![ComputeNode::slices(id("a"), 3, |_| 0.0).reads(source("in"), "close")]),
            "a compute node's window is longer than its input's period (node_id: a, source: in@1m, window: 3, period: 2)"
        );
        assert_eq!(
            build(vec![ComputeNode::slices(id("a"), 0, |_| 0.0).reads(source("in"), "close")]),
            "a compute node's window must hold at least one row (node_id: a)"
        );
        assert_eq!(
            build(vec![node("a", &["in"]), ComputeNode::slices(id("b"), 1, |_| 0.0).reads(id("a"), "close")]),
            "a compute node reads an output that its source lacks (node_id: b, source: a, column: close, outputs: value)"
        );
    }
}
