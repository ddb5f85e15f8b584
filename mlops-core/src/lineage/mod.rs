//! What was made from what: a graph of datasets, jobs, runs, steps, model versions, deployments and predictions.
//!
//! Edges point the way data travels: `dataset → run → model → deployment`. [`LineageStore::upstream`] walks against
//! them, [`LineageStore::downstream`] with them. [`LineageStoreExt`] asks the usual questions of any store, and [`trace`]
//! goes from one prediction back to its origins.
//!
//! The graph is filled by [`record`](LineageStore::record), or by events of the OpenLineage standard
//! ([`openlineage::RunEvent`]) that a program gives to a [`LineageSink`]: into a store, a file, or over HTTP.
//!
//! ```
//! # futures::executor::block_on(async {
//! use mlops_core::lineage::openlineage::{Dataset, EventType, Job, ModelFacet, Run, RunEvent};
//! use mlops_core::lineage::{LineageQueue, LineageSink, LineageStoreExt, MemoryLineage, NodeRef, StoreTransport};
//! use mlops_core::{DatasetRef, Digest, RunId};
//! # let at: mlops_core::Timestamp = "1996-05-07T00:00:00Z".parse().unwrap();
//! let graph = MemoryLineage::default();
//! let (sink, worker) = LineageQueue::new(StoreTransport::new(graph.clone(), "shop"), 1000);
//! // In a service: `tokio::spawn(worker.run())`.
//!
//! let rows = DatasetRef { name: "prices".to_owned(), digest: Digest::of(b"rows") };
//! let trained = RunEvent::new(EventType::Complete, at, Run::new(RunId::new(at)), Job::new("shop", "train"))
//!     .input(Dataset::reference("shop", &rows))
//!     .output(Dataset::model("shop", ModelFacet::new("prices", 3)));
//! sink.emit(trained); // never waits
//!
//! drop(sink);
//! assert_eq!(worker.run().await.delivered, 1);
//! let impact = graph.impact(&NodeRef::dataset(&rows)).await?;
//! assert_eq!(impact.models().next().unwrap().node, NodeRef::model("prices", 3));
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```

mod events;
mod file;
mod graph;
#[cfg(feature = "lineage-http")]
#[cfg_attr(docsrs, doc(cfg(feature = "lineage-http")))]
mod http;
mod memory;
pub mod openlineage;
mod query;
mod queue;
mod sink;
mod store;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::events::LineageEvents;
pub use self::file::{EventFile, FileTransport};
pub use self::graph::Graph;
#[cfg(feature = "lineage-http")]
pub use self::http::{HttpTransport, HttpTransportBuilder};
pub use self::memory::MemoryLineage;
pub use self::query::{Impact, LineageStoreExt, Origins, SeenBy, Trace, trace};
pub use self::queue::{LineageQueue, LineageWorker, Transport};
pub use self::sink::{Dropped, FanOut, LineageSink, MemorySink, SinkCounts};
pub use self::store::{StoreTransport, graph_of};
use crate::package::DatasetRef;
use crate::{Result, RunId};

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeKind {
    /// A dataset version, `name@digest`.
    Dataset,
    /// What is run again and again, `namespace/name`.
    Job,
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
    /// Predictions that were made together, by a name of the caller's.
    PredictionBatch,
}

impl NodeKind {
    /// The kind in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Job => "job",
            Self::Run => "run",
            Self::Step => "step",
            Self::Model => "model",
            Self::Deployment => "deployment",
            Self::Prediction => "prediction",
            Self::PredictionBatch => "prediction_batch",
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

    /// A job.
    #[must_use]
    pub fn job(namespace: &str, name: &str) -> Self {
        Self { kind: NodeKind::Job, id: format!("{namespace}/{name}") }
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

    /// Predictions that were made together.
    pub fn prediction_batch(name: impl Into<String>) -> Self {
        Self { kind: NodeKind::PredictionBatch, id: name.into() }
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

/// Keeps the graph.
///
/// # Contract
/// - **Idempotent.** Recording a node or an edge again changes nothing but facts, which are added or replaced.
/// - **Atomic.** One `record` call is kept whole or not at all.
/// - **Implied nodes.** An edge brings the nodes it names into being.
/// - **Walks** reach each node once, nearest first, the start included, and end at `depth` edges from it; a start that
///   was never recorded is [`Error::NotFound`](crate::Error::NotFound). Cycles end by themselves.
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
