//! The cases of [`lineage_store_conformance!`](crate::lineage_store_conformance).

use crate::clock::from_micros;
use crate::lineage::{Edge, LineageStore, Node, NodeKind, NodeRef};
use crate::{DatasetRef, Digest, Error, RunId};

fn ids() -> (NodeRef, NodeRef, NodeRef) {
    let data = DatasetRef { name: "prices".to_owned(), digest: Digest::of(b"rows") };
    let run = RunId::derived(from_micros(0), b"run");
    (NodeRef::dataset(&data), NodeRef::run(run), NodeRef::model("prices", 1))
}

fn names(graph: &crate::lineage::Graph) -> Vec<NodeRef> {
    graph.nodes.iter().map(|n| n.node.clone()).collect()
}

/// Contract: nearest first, each once, the start included, no further than the depth.
pub async fn walks_reach_what_they_should(store: &dyn LineageStore) {
    let (data, run, model) = ids();
    let known = [Node::new(run.clone()).fact("commit", "abc")];
    let edges = [Edge::new(data.clone(), run.clone()), Edge::new(run.clone(), model.clone())];
    store.record(&known, &edges).await.unwrap();
    let up = store.upstream(&model, usize::MAX).await.unwrap();
    assert_eq!(names(&up), [model.clone(), run.clone(), data.clone()], "{store}");
    assert_eq!(up.edges.len(), 2, "{store}");
    assert_eq!(up.nodes[1].facts["commit"], "abc", "{store}");
    assert_eq!(names(&store.upstream(&model, 1).await.unwrap()), [model.clone(), run.clone()], "{store}");
    assert_eq!(names(&store.upstream(&model, 0).await.unwrap()), std::slice::from_ref(&model), "{store}");
    assert_eq!(names(&store.downstream(&data, 9).await.unwrap()), [data, run, model], "{store}");
}

/// Contract: recording again adds or replaces facts, nothing else.
pub async fn recording_again_changes_only_facts(store: &dyn LineageStore) {
    let (data, run, _) = ids();
    let edge = [Edge::new(data.clone(), run.clone())];
    store.record(&[Node::new(run.clone()).fact("a", 1).fact("b", 1)], &edge).await.unwrap();
    store.record(&[Node::new(run.clone()).fact("b", 2)], &edge).await.unwrap();
    let graph = store.upstream(&run, 5).await.unwrap();
    assert_eq!((graph.nodes.len(), graph.edges.len()), (2, 1), "{store}");
    assert_eq!((&*graph.nodes[0].facts["a"], &*graph.nodes[0].facts["b"]), ("1", "2"), "{store}");
}

/// Contract: cycles end by themselves.
pub async fn cycles_end(store: &dyn LineageStore) {
    let (a, b, c) = ids();
    let edges = [Edge::new(a.clone(), b.clone()), Edge::new(b.clone(), c.clone()), Edge::new(c.clone(), a.clone())];
    store.record(&[], &edges).await.unwrap();
    assert_eq!(store.upstream(&a, usize::MAX).await.unwrap().nodes.len(), 3, "{store}");
}

/// Nodes of every kind come back as they were, and are told apart by it.
pub async fn every_kind_reads_back(store: &dyn LineageStore) {
    use NodeKind::{Dataset, Deployment, Job, Model, Prediction, PredictionBatch, Run, Step};
    let kinds = [Dataset, Job, Run, Step, Model, Deployment, Prediction, PredictionBatch];
    let chain = kinds.map(|kind| NodeRef { kind, id: "same \"ß\n".to_owned() });
    let edges: Vec<Edge> = chain.windows(2).map(|pair| Edge::new(pair[0].clone(), pair[1].clone())).collect();
    store.record(&[], &edges).await.unwrap();
    assert_eq!(names(&store.downstream(&chain[0], usize::MAX).await.unwrap()), chain, "{store}");
    for kind in kinds {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str(), "the word is the one that is stored");
    }
}

/// Contract: a start that was never recorded is `NotFound`.
pub async fn unknown_starts_are_not_found(store: &dyn LineageStore) {
    assert!(matches!(store.upstream(&ids().0, 1).await, Err(Error::NotFound { .. })), "{store}");
}
