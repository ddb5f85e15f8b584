use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use super::{Graph, LineageStore, Node, NodeKind, NodeRef};
use crate::inference::{InferenceLog, InferenceRecord};
use crate::{Error, PredictionId, Result};

/// The facts that say which code and machine made something, in the order they are told.
const ENVIRONMENT: [&str; 7] = ["commit", "dirty", "code", "lock_file", "toolchain", "image", "seed"];

/// The usual questions. Implemented for every store; never implement it by hand.
///
/// Each is answered from one walk without a limit of depth, and is [`Error::NotFound`] for a node never recorded.
pub trait LineageStoreExt: LineageStore {
    /// Which data and which code made this?
    fn origins(&self, node: &NodeRef) -> impl Future<Output = Result<Origins>> + Send {
        async move { Ok(Origins { node: node.clone(), graph: self.upstream(node, usize::MAX).await? }) }
    }

    /// Which models saw this dataset version, or data made from it?
    fn models_of(&self, dataset: &NodeRef) -> impl Future<Output = Result<SeenBy>> + Send {
        async move {
            let graph = self.downstream(dataset, usize::MAX).await?;
            Ok(SeenBy { dataset: dataset.clone(), models: graph.of_kind(NodeKind::Model).cloned().collect() })
        }
    }

    /// What is wrong, or may be, if this dataset version is bad?
    ///
    /// A run is bad as a whole: what came from any of its steps is counted, whether or not the data reached it.
    fn impact(&self, dataset: &NodeRef) -> impl Future<Output = Result<Impact>> + Send {
        async move { Ok(Impact { dataset: dataset.clone(), graph: self.downstream(dataset, usize::MAX).await? }) }
    }
}

impl<S: LineageStore + ?Sized> LineageStoreExt for S {}

/// Everything that went into a node. `Display` is a short report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origins {
    /// What was asked about.
    pub node: NodeRef,
    /// Everything upstream of it, itself included.
    pub graph: Graph,
}

impl Origins {
    /// The dataset versions, nearest first.
    pub fn datasets(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.node, NodeKind::Dataset)
    }

    /// The runs, nearest first.
    pub fn runs(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.node, NodeKind::Run)
    }

    /// The model versions it was made from or with, nearest first.
    pub fn models(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.node, NodeKind::Model)
    }

    /// The commits of the code that took part.
    #[must_use]
    pub fn commits(&self) -> BTreeSet<&str> {
        self.graph.nodes.iter().filter_map(|n| n.facts.get("commit")).map(String::as_str).collect()
    }

    /// The different environments, nearest first: commit, whether the tree was dirty, code, lock file, toolchain,
    /// container image and seed, as far as they are known.
    #[must_use]
    pub fn environments(&self) -> Vec<BTreeMap<&str, &str>> {
        let mut found = Vec::new();
        for node in &self.graph.nodes {
            let facts = node.facts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let here: BTreeMap<_, _> = facts.filter(|(name, _)| ENVIRONMENT.contains(name)).collect();
            if !here.is_empty() && !found.contains(&here) {
                found.push(here);
            }
        }
        found
    }
}

impl Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} was made", self.node)?;
        let mut known = false;
        for (word, nodes) in
            [("from", nodes(self.datasets())), ("with", nodes(self.models())), ("in", nodes(self.runs()))]
        {
            for node in nodes {
                known = true;
                writeln!(f, "  {word} {}", node.node)?;
            }
        }
        for environment in self.environments() {
            known = true;
            let facts = ENVIRONMENT.iter().filter_map(|&name| Some(format!("{name} {}", environment.get(name)?)));
            writeln!(f, "  by {}", facts.collect::<Vec<_>>().join(", "))?;
        }
        if known { Ok(()) } else { writeln!(f, "  from nothing that was recorded") }
    }
}

/// The models that saw a dataset version. `Display` is a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenBy {
    /// The dataset version.
    pub dataset: NodeRef,
    /// The model versions, nearest first.
    pub models: Vec<Node>,
}

impl Display for SeenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} was seen by {}", self.dataset, counted(self.models.len(), "model"))?;
        self.models.iter().try_for_each(|model| writeln!(f, "  {}", model.node.id))
    }
}

/// Everything that a dataset version went into. `Display` is a short report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Impact {
    /// The dataset version.
    pub dataset: NodeRef,
    /// Everything downstream of it, itself included.
    pub graph: Graph,
}

impl Impact {
    /// The dataset versions made from it, nearest first.
    pub fn derived(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.dataset, NodeKind::Dataset)
    }

    /// The model versions, nearest first.
    pub fn models(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.dataset, NodeKind::Model)
    }

    /// The deployments, nearest first.
    pub fn deployments(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.dataset, NodeKind::Deployment)
    }

    /// The batches of predictions, nearest first.
    pub fn prediction_batches(&self) -> impl Iterator<Item = &Node> {
        others(&self.graph, &self.dataset, NodeKind::PredictionBatch)
    }
}

impl Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("derived dataset", nodes(self.derived())),
            ("model", nodes(self.models())),
            ("deployment", nodes(self.deployments())),
            ("prediction batch", nodes(self.prediction_batches())),
        ];
        let counts: Vec<String> = parts.iter().map(|(what, nodes)| counted(nodes.len(), what)).collect();
        writeln!(f, "{} went into {}", self.dataset, counts.join(", "))?;
        for (what, nodes) in parts {
            for node in nodes {
                writeln!(f, "  {what} {}", node.node.id)?;
            }
        }
        Ok(())
    }
}

fn others<'a>(graph: &'a Graph, start: &'a NodeRef, kind: NodeKind) -> impl Iterator<Item = &'a Node> {
    graph.of_kind(kind).filter(move |n| n.node != *start)
}

fn nodes<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<&'a Node> {
    nodes.collect()
}

fn counted(n: usize, what: &str) -> String {
    match (n, what.strip_suffix("ch")) {
        (1, _) => format!("1 {what}"),
        (_, Some(_)) => format!("{n} {what}es"),
        (_, None) => format!("{n} {what}s"),
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
