use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use mlops_core::lineage::{Edge, Graph, LineageStore, MemoryLineage, Node, NodeKind, NodeRef};
use mlops_core::store::MemoryStore;
use mlops_core::{Digest, Error, Result, RunId};
use mlops_pipeline::Runner;

use crate::support::{dataset, pipeline, run_id};

#[tokio::test]
async fn a_run_leads_back_to_its_datasets_and_code() {
    let lineage = MemoryLineage::default();
    let run = run_id("one");
    pipeline().run(&Runner::new(MemoryStore::default()).run_id(run).lineage(lineage.clone())).await.unwrap();
    let graph = lineage.upstream(&NodeRef::run(run), usize::MAX).await.unwrap();
    let mut datasets: Vec<String> = graph.of_kind(NodeKind::Dataset).map(|n| n.node.id.clone()).collect();
    datasets.sort();
    assert_eq!(datasets.len(), 2);
    assert!(datasets[0].starts_with("feed@") && datasets[1].starts_with("prices@"), "{datasets:?}");
    let train = graph.nodes.iter().find(|n| n.node == NodeRef::step(run, "train")).unwrap();
    assert_eq!(train.facts["code"], "declared:v1");
    assert_eq!(train.facts["cached"], "false");
    assert_eq!(train.facts["input.rate"], Digest::of(b"0.5").to_string());
    let made = lineage.downstream(&NodeRef::dataset(&dataset("feed")), 2).await.unwrap();
    assert!(made.nodes.iter().any(|n| n.node == NodeRef::dataset(&dataset("prices"))));
}

#[tokio::test]
async fn a_cached_step_leads_back_to_the_one_that_computed_it_and_writes_nothing() {
    let (store, lineage) = (MemoryStore::default(), MemoryLineage::default());
    let (one, two) = (run_id("one"), run_id("two"));
    for run in [one, two] {
        pipeline().run(&Runner::new(store.clone()).run_id(run).lineage(lineage.clone())).await.unwrap();
    }
    let edges = around(&lineage, two).await;
    for step in ["ingest", "train"] {
        let node = lineage.upstream(&NodeRef::step(two, step), 0).await.unwrap().nodes.remove(0);
        assert_eq!((&*node.facts["cached"], &node.facts["computed_by"]), ("true", &one.to_string()));
        let computed = format!("{} -> {}", NodeRef::step(one, step), NodeRef::step(two, step));
        assert!(edges.contains(&computed), "{edges:?}");
    }
    let (feed, prices) = (NodeRef::dataset(&dataset("feed")), NodeRef::dataset(&dataset("prices")));
    assert!(
        edges.contains(&format!("{feed} -> {}", NodeRef::step(two, "ingest"))),
        "it still stands for what was read"
    );
    assert!(!edges.contains(&format!("{} -> {prices}", NodeRef::step(two, "ingest"))), "the first run wrote it");
    let before = lineage.upstream(&NodeRef::run(one), usize::MAX).await.unwrap();
    assert!(
        before.nodes.iter().all(|n| !n.node.id.contains(&two.to_string())),
        "no later run stands before an earlier one"
    );
}

/// The edges at the run and at its steps.
async fn around(lineage: &MemoryLineage, run: RunId) -> BTreeSet<String> {
    let mut edges = BTreeSet::new();
    for node in [NodeRef::run(run), NodeRef::step(run, "ingest"), NodeRef::step(run, "train")] {
        let up = lineage.upstream(&node, 1).await.unwrap().edges;
        let down = lineage.downstream(&node, 1).await.unwrap().edges;
        edges.extend(up.into_iter().chain(down).map(|e| format!("{} -> {}", e.from, e.to)));
    }
    edges
}

#[tokio::test]
async fn starting_a_run_again_leaves_the_same_graph() {
    let (store, lineage) = (MemoryStore::default(), MemoryLineage::default());
    let runner = Runner::new(store).run_id(run_id("one")).lineage(lineage.clone());
    pipeline().run(&runner).await.unwrap();
    let before = lineage.upstream(&NodeRef::run(run_id("one")), usize::MAX).await.unwrap();
    pipeline().run(&runner).await.unwrap();
    assert_eq!(lineage.upstream(&NodeRef::run(run_id("one")), usize::MAX).await.unwrap(), before);
}

/// Refuses what is recorded of `ingest` as long as it is broken.
#[derive(Clone, Debug, Default)]
struct Flaky {
    inner: MemoryLineage,
    broken: Arc<AtomicBool>,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

// What `#[async_trait]` writes, for this one test.
impl LineageStore for Flaky {
    fn record<'s: 'f, 'n: 'f, 'e: 'f, 'f>(&'s self, nodes: &'n [Node], edges: &'e [Edge]) -> BoxFuture<'f, Result<()>> {
        if self.broken.load(Ordering::SeqCst) && nodes.iter().any(|n| n.node.id.ends_with("ingest")) {
            return Box::pin(std::future::ready(Err(Error::invalid("lineage", "down"))));
        }
        self.inner.record(nodes, edges)
    }

    fn upstream<'s: 'f, 'n: 'f, 'f>(&'s self, node: &'n NodeRef, depth: usize) -> BoxFuture<'f, Result<Graph>> {
        self.inner.upstream(node, depth)
    }

    fn downstream<'s: 'f, 'n: 'f, 'f>(&'s self, node: &'n NodeRef, depth: usize) -> BoxFuture<'f, Result<Graph>> {
        self.inner.downstream(node, depth)
    }
}

#[tokio::test]
async fn a_step_whose_lineage_could_not_be_kept_is_not_taken_from_the_cache() {
    let (store, lineage) = (MemoryStore::default(), Flaky::default());
    let (one, two) = (run_id("one"), run_id("two"));
    let runner = |run| Runner::new(store.clone()).run_id(run).lineage(lineage.clone());
    lineage.broken.store(true, Ordering::SeqCst);
    let error = pipeline().run(&runner(one)).await.unwrap_err();
    assert!(matches!(&error, mlops_pipeline::Error::NotKept { step, .. } if step == "ingest"), "{error:?}");
    lineage.broken.store(false, Ordering::SeqCst);
    let run = pipeline().run(&runner(two)).await.unwrap();
    assert_eq!(run.report().cached().count(), 0);
    let wrote = format!("{} -> {}", NodeRef::step(two, "ingest"), NodeRef::dataset(&dataset("prices")));
    assert!(around(&lineage.inner, two).await.contains(&wrote));
}

#[tokio::test]
async fn a_hit_records_what_a_run_without_lineage_computed() {
    let (store, lineage) = (MemoryStore::default(), MemoryLineage::default());
    let (one, two) = (run_id("one"), run_id("two"));
    pipeline().run(&Runner::new(store.clone()).run_id(one)).await.unwrap();
    pipeline().run(&Runner::new(store.clone()).run_id(two).lineage(lineage.clone())).await.unwrap();
    let edges = around(&lineage, one).await;
    let (ingest, feed) = (NodeRef::step(one, "ingest"), NodeRef::dataset(&dataset("feed")));
    for edge in [
        format!("{ingest} -> {}", NodeRef::dataset(&dataset("prices"))),
        format!("{feed} -> {ingest}"),
        format!("{ingest} -> {}", NodeRef::run(one)),
    ] {
        assert!(edges.contains(&edge), "{edge} in {edges:?}");
    }
    let node = lineage.upstream(&ingest, 0).await.unwrap().nodes.remove(0);
    assert_eq!((&*node.facts["cached"], &node.facts["computed_by"]), ("false", &one.to_string()));
    assert_eq!(node.facts["code"], "declared:v1");
}
