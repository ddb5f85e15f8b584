//! What was made from what: a graph of datasets, runs, model versions, deployments and predictions.
//!
//! Edges point the way data travels: `dataset → run → model → deployment`. [`LineageStore::upstream`] walks against
//! them, [`LineageStore::downstream`] with them, and [`trace`] goes from one prediction back to its origins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Debug, Display};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::inference::{InferenceLog, InferenceRecord};
use crate::package::DatasetRef;
use crate::{Error, PredictionId, Result, RunId};

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeKind {
    /// A dataset version, `name@digest`.
    Dataset,
    /// A run.
    Run,
    /// One step of a pipeline run, `run/step`.
    Step,
    /// A model version, `name/number`.
    Model,
    /// A deployment, by name.
    Deployment,
    /// One prediction.
    Prediction,
}

impl NodeKind {
    /// The kind in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Run => "run",
            Self::Step => "step",
            Self::Model => "model",
            Self::Deployment => "deployment",
            Self::Prediction => "prediction",
        }
    }
}

/// Names a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    /// Its kind.
    pub kind: NodeKind,
    /// Its id within the kind.
    pub id: String,
}

impl NodeRef {
    /// A dataset version.
    #[must_use]
    pub fn dataset(dataset: &DatasetRef) -> Self {
        Self { kind: NodeKind::Dataset, id: format!("{}@{}", dataset.name, dataset.digest) }
    }

    /// A run.
    #[must_use]
    pub fn run(run: RunId) -> Self {
        Self { kind: NodeKind::Run, id: run.to_string() }
    }

    /// A step of a run.
    #[must_use]
    pub fn step(run: RunId, step: &str) -> Self {
        Self { kind: NodeKind::Step, id: format!("{run}/{step}") }
    }

    /// A model version.
    #[must_use]
    pub fn model(name: &str, version: u64) -> Self {
        Self { kind: NodeKind::Model, id: format!("{name}/{version}") }
    }

    /// A deployment.
    pub fn deployment(name: impl Into<String>) -> Self {
        Self { kind: NodeKind::Deployment, id: name.into() }
    }
}

impl Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// A node with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub node: NodeRef,
    /// Facts about it: `commit`, `rows`, `source`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Node {
    /// A node without facts.
    #[must_use]
    pub fn new(node: NodeRef) -> Self {
        Self { node, facts: BTreeMap::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.facts.insert(name.into(), value.to_string());
        self
    }
}

/// Data went from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Edge {
    /// Where it came from.
    pub from: NodeRef,
    /// Where it went.
    pub to: NodeRef,
}

impl Edge {
    /// `from → to`.
    #[must_use]
    pub fn new(from: NodeRef, to: NodeRef) -> Self {
        Self { from, to }
    }
}

/// Nodes and the edges between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The nodes, in the order they were reached.
    pub nodes: Vec<Node>,
    /// The edges among them.
    pub edges: Vec<Edge>,
}

impl Graph {
    /// The nodes of one kind.
    pub fn of_kind(&self, kind: NodeKind) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.node.kind == kind)
    }

    /// The graph as a Mermaid flow chart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let place = |wanted: &NodeRef| self.nodes.iter().position(|n| n.node == *wanted).unwrap_or(usize::MAX);
        let mut text = "flowchart LR\n".to_owned();
        for (i, node) in self.nodes.iter().enumerate() {
            let label = node.node.to_string().replace('"', "'");
            text.push_str(&format!("  n{i}[\"{label}\"]\n"));
        }
        for edge in &self.edges {
            text.push_str(&format!("  n{} --> n{}\n", place(&edge.from), place(&edge.to)));
        }
        text
    }
}

/// Keeps the graph.
///
/// # Contract
/// - **Idempotent.** Recording a node or an edge again changes nothing but facts, which are added or replaced.
/// - **Atomic.** One `record` call is kept whole or not at all.
/// - **Implied nodes.** An edge brings the nodes it names into being.
/// - **Walks** reach each node once, nearest first, the start included, and end at `depth` edges from it; a start that
///   was never recorded is [`Error::NotFound`]. Cycles end by themselves.
#[async_trait]
pub trait LineageStore: Debug + Display + Send + Sync + 'static {
    /// Adds nodes and edges.
    async fn record(&self, nodes: &[Node], edges: &[Edge]) -> Result<()>;

    /// What `node` was made from, up to `depth` edges away.
    async fn upstream(&self, node: &NodeRef, depth: usize) -> Result<Graph>;

    /// What was made from `node`, up to `depth` edges away.
    async fn downstream(&self, node: &NodeRef, depth: usize) -> Result<Graph>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: LineageStore + ?Sized> LineageStore for Arc<S> {
    async fn record(&self, nodes: &[Node], edges: &[Edge]) -> Result<()> {
        (**self).record(nodes, edges).await
    }

    async fn upstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        (**self).upstream(node, depth).await
    }

    async fn downstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        (**self).downstream(node, depth).await
    }
}

/// A graph in memory: the reference implementation. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLineage(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    nodes: BTreeMap<NodeRef, BTreeMap<String, String>>,
    edges: BTreeSet<Edge>,
}

impl Display for MemoryLineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl MemoryLineage {
    fn walk(&self, start: &NodeRef, depth: usize, upstream: bool) -> Result<Graph> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.nodes.contains_key(start) {
            return Err(Error::not_found("lineage node", start));
        }
        let mut graph = Graph::default();
        let mut seen = BTreeSet::from([start.clone()]);
        let mut queue = VecDeque::from([(start.clone(), 0)]);
        while let Some((node, at)) = queue.pop_front() {
            let facts = kept.nodes.get(&node).cloned().unwrap_or_default();
            graph.nodes.push(Node { node: node.clone(), facts });
            if at == depth {
                continue;
            }
            for edge in &kept.edges {
                let (here, there) = if upstream { (&edge.to, &edge.from) } else { (&edge.from, &edge.to) };
                if *here == node {
                    graph.edges.push(edge.clone());
                    if seen.insert(there.clone()) {
                        queue.push_back((there.clone(), at + 1));
                    }
                }
            }
        }
        Ok(graph)
    }
}

#[async_trait]
impl LineageStore for MemoryLineage {
    async fn record(&self, nodes: &[Node], edges: &[Edge]) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            kept.nodes.entry(node.node.clone()).or_default().extend(node.facts.clone());
        }
        for edge in edges {
            kept.nodes.entry(edge.from.clone()).or_default();
            kept.nodes.entry(edge.to.clone()).or_default();
            kept.edges.insert(edge.clone());
        }
        Ok(())
    }

    async fn upstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        self.walk(node, depth, true)
    }

    async fn downstream(&self, node: &NodeRef, depth: usize) -> Result<Graph> {
        self.walk(node, depth, false)
    }
}

/// One prediction and everything it came from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trace {
    /// The prediction: one row.
    pub prediction: InferenceRecord,
    /// Everything upstream of the model version that answered.
    pub origins: Graph,
}

impl Trace {
    /// The dataset versions the model was made from.
    pub fn datasets(&self) -> impl Iterator<Item = &Node> {
        self.origins.of_kind(NodeKind::Dataset)
    }

    /// The commit of the code that made the model: a fact of its version, else of the nearest run that has one.
    #[must_use]
    pub fn commit(&self) -> Option<&str> {
        self.origins.nodes.iter().find_map(|n| n.facts.get("commit")).map(String::as_str)
    }
}

impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.prediction;
        writeln!(f, "prediction {}", p.ids.first().map(ToString::to_string).unwrap_or_default())?;
        let (at, arm) = (p.at.format("%Y-%m-%d %H:%M"), &p.arm);
        writeln!(f, "  at {at} by {} v{}, arm {arm}, in {:?}", p.model, p.version, p.latency)?;
        for node in &self.origins.nodes {
            writeln!(f, "  from {}", node.node)?;
            // A step's facts are for the cache; the graph has them.
            for (name, value) in node.facts.iter().filter(|_| node.node.kind != NodeKind::Step) {
                writeln!(f, "       {name}: {value}")?;
            }
        }
        Ok(())
    }
}

/// Walks from one prediction back to the model version, the runs, the dataset versions and the code it came from.
///
/// # Errors
/// [`Error::NotFound`] if the log has no such prediction or the graph does not know its model version.
pub async fn trace(log: &dyn InferenceLog, lineage: &dyn LineageStore, id: PredictionId) -> Result<Trace> {
    let prediction = log.find(id).await?.ok_or_else(|| Error::not_found("prediction", id))?;
    let origins = lineage.upstream(&NodeRef::model(&prediction.model, prediction.version), usize::MAX).await?;
    Ok(Trace { prediction, origins })
}
