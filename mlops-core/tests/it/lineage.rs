//! The graph: walks, questions, drawings, and what events make of it.

use std::collections::{BTreeMap, BTreeSet};

use mlops_core::clock::from_micros;
use mlops_core::lineage::openlineage::*;
use mlops_core::lineage::{
    Edge, Graph, LineageQueue, LineageSink, LineageStore, LineageStoreExt, MemoryLineage, Node, NodeKind, NodeRef,
    StoreTransport, graph_of,
};
use mlops_core::{DatasetRef, Digest, Error, RunId};
use proptest::prelude::*;

fn dataset(name: &str) -> DatasetRef {
    DatasetRef { name: name.to_owned(), digest: Digest::of(name.as_bytes()) }
}

fn run(seed: &str) -> RunId {
    RunId::derived(from_micros(0), seed.as_bytes())
}

fn event(event_type: EventType, minute: i64, run: Run, job: &str) -> RunEvent {
    RunEvent::new(event_type, from_micros(minute * 60_000_000), run, Job::new("shop", job))
}

/// Feed → clean → two models, one of them deployed and used; and a third from other data.
async fn shop() -> MemoryLineage {
    let graph = MemoryLineage::default();
    let (sink, worker) = LineageQueue::new(StoreTransport::new(graph.clone(), "shop"), 100);
    let data = |name| Dataset::reference("shop", &dataset(name));
    let model = |version| Dataset::model("shop", ModelFacet::new("prices", version).package(Digest::of(b"package")));
    let environment = EnvironmentFacet::new().commit("4f92db1").dirty(false).seed(7u64).image("sha256:0a");
    let ingest = Run::new(run("ingest")).facet(environment.clone());
    sink.emit(event(EventType::Start, 0, ingest.clone(), "ingest").input(data("feed")));
    sink.emit(event(EventType::Complete, 1, ingest, "ingest").input(data("feed")).output(data("clean")));
    for (version, input) in [(1, "clean"), (2, "clean"), (3, "other")] {
        let train = Run::new(run(&format!("train {version}"))).facet(environment.clone());
        sink.emit(event(EventType::Complete, 2, train, "train").input(data(input)).output(model(version)));
    }
    let deploy = event(EventType::Complete, 3, Run::new(run("deploy")), "deploy");
    sink.emit(deploy.input(model(2)).output(Dataset::deployment("shop", DeploymentFacet::new("web"))));
    let batch = PredictionsFacet::new("1996-05-07").rows(48u64);
    let score = event(EventType::Complete, 4, Run::new(run("score")), "score");
    sink.emit(score.input(model(2)).input(data("today")).output(Dataset::predictions("shop", batch)));
    drop(sink);
    let counts = worker.run().await;
    assert_eq!((counts.emitted, counts.delivered), (7, 7), "{counts}");
    graph
}

fn ids<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<&'a str> {
    nodes.map(|n| n.node.id.as_str()).collect()
}

#[tokio::test]
async fn the_impact_of_a_bad_dataset_is_everything_made_from_it_and_nothing_else() {
    let graph = shop().await;
    let impact = graph.impact(&NodeRef::dataset(&dataset("feed"))).await.unwrap();
    assert_eq!(impact.derived().map(|n| &n.node).collect::<Vec<_>>(), [&NodeRef::dataset(&dataset("clean"))]);
    assert_eq!(ids(impact.models()), ["prices/1", "prices/2"]);
    assert_eq!(ids(impact.deployments()), ["web"]);
    assert_eq!(ids(impact.prediction_batches()), ["1996-05-07"]);
    let text = impact.to_string();
    let counts = "went into 1 derived dataset, 2 models, 1 deployment, 1 prediction batch\n";
    assert!(text.lines().next().unwrap().len() > 60 && text.contains(counts), "{text}");
    assert!(text.contains("  deployment web\n"), "{text}");
    let harmless = graph.impact(&NodeRef::prediction_batch("1996-05-07")).await.unwrap().to_string();
    assert!(harmless.ends_with("0 derived datasets, 0 models, 0 deployments, 0 prediction batches\n"), "{harmless}");
    let unknown = graph.impact(&NodeRef::dataset(&dataset("never"))).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn models_of_a_dataset_are_those_that_saw_it() {
    let graph = shop().await;
    let seen = graph.models_of(&NodeRef::dataset(&dataset("clean"))).await.unwrap();
    assert_eq!(ids(seen.models.iter()), ["prices/1", "prices/2"]);
    assert!(seen.to_string().ends_with("was seen by 2 models\n  prices/1\n  prices/2\n"), "{seen}");
    assert_eq!(graph.models_of(&NodeRef::dataset(&dataset("today"))).await.unwrap().models, []);
}

#[tokio::test]
async fn origins_tell_data_and_code() {
    let graph = shop().await;
    let origins = graph.origins(&NodeRef::prediction_batch("1996-05-07")).await.unwrap();
    let datasets: BTreeSet<_> = origins.datasets().map(|n| n.node.id.split('@').next().unwrap()).collect();
    assert_eq!(datasets, BTreeSet::from(["clean", "feed", "today"]));
    assert_eq!(ids(origins.models()), ["prices/2"]);
    assert_eq!(origins.runs().count(), 3);
    assert_eq!(origins.commits(), BTreeSet::from(["4f92db1"]));
    let expected = BTreeMap::from([("commit", "4f92db1"), ("dirty", "false"), ("image", "sha256:0a"), ("seed", "7")]);
    assert_eq!(origins.environments(), [expected]);
    let text = origins.to_string();
    assert!(text.starts_with("prediction_batch 1996-05-07 was made\n  from dataset today@"), "{text}");
    assert!(text.contains("  with model prices/2\n"), "{text}");
    assert!(text.ends_with("  by commit 4f92db1, dirty false, image sha256:0a, seed 7\n"), "{text}");
    let raw = graph.origins(&NodeRef::dataset(&dataset("feed"))).await.unwrap();
    assert!(raw.to_string().ends_with("from nothing that was recorded\n"), "{raw}");
}

#[tokio::test]
async fn a_run_has_the_same_facts_whatever_order_its_events_come_in() {
    let here = Run::new(run("one"));
    let start = event(EventType::Start, 1, here.clone(), "load");
    let fail = event(EventType::Fail, 2, here.facet(ErrorMessageFacet::new("no feed")), "load");
    let mut graphs = Vec::new();
    for order in [[&start, &fail], [&fail, &start]] {
        let graph = MemoryLineage::default();
        for event in order {
            let (nodes, edges) = graph_of(event, "shop");
            graph.record(&nodes, &edges).await.unwrap();
        }
        graphs.push(graph.upstream(&NodeRef::run(run("one")), 9).await.unwrap());
    }
    assert_eq!(graphs[0], graphs[1]);
    let facts = &graphs[0].nodes[0].facts;
    assert_eq!((&*facts["state"], &*facts["error"]), ("failed", "no feed"));
    assert_eq!(
        (&*facts["started_at"], &*facts["ended_at"]),
        ("1970-01-01T00:01:00+00:00", "1970-01-01T00:02:00+00:00")
    );
    assert_eq!(graphs[0].nodes[1].node, NodeRef::job("shop", "load"));
}

#[test]
fn steps_and_foreign_datasets_get_nodes_of_their_own() {
    let (here, before) = (run("here"), run("before"));
    let step = StepFacet::new("train").input("ingest", Digest::of(b"rows")).computed_by(before);
    let part = Run::step(here, "train").facet(ParentFacet::new(Run::new(here), Job::new("shop", "prices"))).facet(step);
    let event = event(EventType::Complete, 0, part, "prices.train")
        .input(Dataset::reference("elsewhere", &dataset("rows")))
        .input(Dataset::new("s3://feeds", "a.csv"))
        .output(Dataset::reference("shop", &dataset("rows")));
    let (nodes, edges) = graph_of(&event, "shop");
    let train = NodeRef::step(here, "train");
    let foreign = |id: String| NodeRef { kind: NodeKind::Dataset, id };
    let expected = [
        (NodeRef::job("shop", "prices.train"), train.clone()),
        (train.clone(), NodeRef::run(here)),
        (NodeRef::step(here, "ingest"), train.clone()),
        (NodeRef::step(before, "train"), train.clone()),
        (foreign(format!("elsewhere/rows@{}", Digest::of(b"rows"))), train.clone()),
        (foreign("s3://feeds/a.csv".to_owned()), train.clone()),
        (train.clone(), NodeRef::dataset(&dataset("rows"))),
    ];
    assert_eq!(edges, expected.map(|(from, to)| Edge::new(from, to)));
    let facts = &nodes.iter().find(|n| n.node == train).unwrap().facts;
    assert_eq!((&*facts["cached"], &facts["input.ingest"]), ("true", &Digest::of(b"rows").to_string()));
}

const HOSTILE: [&str; 8] = [
    "\"]; click n0 call alert(1)",
    "a\nb\r\nc\u{2028}d",
    "<script>alert('x')</script>",
    "\\",
    "\\\" , shape=none]; n9 [label=\"",
    "`markdown` **bold** #quot; #35; &quot;",
    "end; subgraph x { } --> | y |",
    "ß名\u{0}\u{202e}",
];

#[test]
fn drawings_show_hostile_names_as_they_are() {
    let edges: Vec<Edge> =
        HOSTILE.iter().map(|name| Edge::new(NodeRef::deployment(*name), NodeRef::model(name, 1))).collect();
    let graph = Graph { nodes: Vec::new(), edges };
    let (mermaid, dot) = (graph.to_mermaid(), graph.to_dot());
    assert_eq!(mermaid, graph.clone().to_mermaid());
    // One line for each node and edge, however many lines the names have.
    assert_eq!(mermaid.lines().count(), 1 + 16 + 8, "{mermaid}");
    for line in mermaid.lines().filter(|l| l.contains('[')) {
        let label = line.trim().split_once("[\"").unwrap().1.strip_suffix("\"]").unwrap();
        assert!(!label.contains(['"', '<', '>', '[', ']', '`', '&', '{', '|', '\\']), "{line}");
    }
    assert!(mermaid.contains("n4[\"deployment #60;script#62;alert#40;#39;x#39;#41;#60;/script#62;\"]"), "{mermaid}");
    assert_eq!(dot.lines().count(), 2 + 16 + 8 + 1, "{dot}");
    for (i, line) in dot.lines().filter(|l| l.contains("[label=")).enumerate() {
        let rest = line.split_once("[label=\"").unwrap().1;
        // The label ends at the first quote without an odd number of backslashes before it.
        let mut label = String::new();
        let mut chars = rest.chars();
        loop {
            match chars.next().unwrap() {
                '"' => break,
                '\\' => label.push(chars.next().unwrap()),
                c => label.push(c),
            }
        }
        let shape = if i % 2 == 0 { ", shape=house];" } else { ", shape=component];" };
        assert_eq!(chars.as_str(), shape, "{line}");
        let name: String = HOSTILE[i / 2].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        assert!(label.replace("&amp;", "&").contains(&name), "{label} is not {name}");
    }
}

fn node(n: u8) -> NodeRef {
    NodeRef::model("m", n.into())
}

/// What can be reached, by trying every edge again and again.
fn closure(edges: &[(u8, u8)], start: u8, depth: usize) -> BTreeSet<u8> {
    let mut reached = BTreeSet::from([start]);
    for _ in 0..depth.min(edges.len()) {
        let more: Vec<u8> = edges.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to).collect();
        reached.extend(more);
    }
    reached
}

proptest! {
    #[test]
    fn walks_reach_what_a_closure_does(
        edges in prop::collection::vec((0u8..12, 0u8..12), 1..40),
        depth in prop_oneof![0usize..6, Just(usize::MAX)],
    ) {
        let start = edges[0].0;
        let graph = MemoryLineage::default();
        let recorded: Vec<Edge> = edges.iter().map(|(from, to)| Edge::new(node(*from), node(*to))).collect();
        let reversed: Vec<(u8, u8)> = edges.iter().map(|(from, to)| (*to, *from)).collect();
        let walks = futures::executor::block_on(async {
            graph.record(&[], &recorded).await.unwrap();
            [graph.downstream(&node(start), depth).await.unwrap(), graph.upstream(&node(start), depth).await.unwrap()]
        });
        for (walk, edges) in walks.iter().zip([&edges, &reversed]) {
            let reached: Vec<&NodeRef> = walk.nodes.iter().map(|n| &n.node).collect();
            let expected: BTreeSet<NodeRef> = closure(edges, start, depth).into_iter().map(node).collect();
            prop_assert_eq!(reached.len(), expected.len(), "each once");
            prop_assert_eq!(reached.into_iter().cloned().collect::<BTreeSet<_>>(), expected);
            // The edges are those that leave a node less than `depth` away, each once.
            let inner = if depth == 0 { BTreeSet::new() } else { closure(edges, start, depth - 1) };
            let expected = edges.iter().filter(|(from, _)| inner.contains(from)).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(walk.edges.len(), expected);
            prop_assert_eq!(walk.edges.iter().collect::<BTreeSet<_>>().len(), expected);
        }
    }
}

#[tokio::test]
async fn a_walk_of_a_hundred_thousand_edges_is_linear() {
    let graph = MemoryLineage::default();
    let edges: Vec<Edge> =
        (0..100_000).map(|n| Edge::new(NodeRef::model("m", n), NodeRef::model("m", n + 1))).collect();
    graph.record(&[], &edges).await.unwrap();
    // A scan of all edges for each node would be ten thousand million comparisons.
    assert_eq!(graph.downstream(&NodeRef::model("m", 0), usize::MAX).await.unwrap().nodes.len(), 100_001);
}
