use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Edge, Graph, LineageStore, Node, NodeRef};
use crate::{Error, Result};

/// A graph in memory: the reference implementation. Clones share it.
///
/// A walk takes time in proportion to the nodes and edges it reaches, however large the rest of the graph is.
#[derive(Clone, Debug, Default)]
pub struct MemoryLineage(Arc<Mutex<BTreeMap<NodeRef, Kept>>>);

/// What is kept of one node.
#[derive(Debug, Default)]
struct Kept {
    facts: BTreeMap<String, String>,
    upstream: BTreeSet<NodeRef>,
    downstream: BTreeSet<NodeRef>,
}

impl Display for MemoryLineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl MemoryLineage {
    fn walk(&self, start: &NodeRef, depth: usize, upstream: bool) -> Result<Graph> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut graph = Graph::default();
        let mut seen = BTreeSet::from([start]);
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((node, at)) = queue.pop_front() {
            // Whatever an edge names is recorded with it, so only the start can be missing.
            let known = kept.get(node).ok_or_else(|| Error::not_found("lineage node", node))?;
            graph.nodes.push(Node { node: node.clone(), facts: known.facts.clone() });
            if at == depth {
                continue;
            }
            for there in if upstream { &known.upstream } else { &known.downstream } {
                let (from, to) = if upstream { (there, node) } else { (node, there) };
                graph.edges.push(Edge::new(from.clone(), to.clone()));
                if seen.insert(there) {
                    queue.push_back((there, at + 1));
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
            kept.entry(node.node.clone()).or_default().facts.extend(node.facts.clone());
        }
        for Edge { from, to } in edges {
            kept.entry(from.clone()).or_default().downstream.insert(to.clone());
            kept.entry(to.clone()).or_default().upstream.insert(from.clone());
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
