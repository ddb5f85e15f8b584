use std::fmt::{self, Display};

use async_trait::async_trait;

use super::openlineage::{
    ColumnLineageFacet, DataQualityMetricsFacet, Dataset, DeploymentFacet, EnvironmentFacet, ErrorMessageFacet,
    EventType, Facet, Facets, ModelFacet, NominalTimeFacet, ParentFacet, PredictionsFacet, RunEvent, SchemaFacet,
    SourceCodeLocationFacet, StepFacet, VersionFacet,
};
use super::{Edge, LineageStore, Node, NodeRef, Transport};
use crate::Result;

/// Records events in a [`LineageStore`], as [`graph_of`] reads them.
#[derive(Clone, Debug)]
pub struct StoreTransport<S> {
    store: S,
    home: String,
}

impl<S: LineageStore> StoreTransport<S> {
    /// Records in `store`. Datasets of the namespace `home` get the node that the rest of the toolkit gives them.
    pub fn new(store: S, home: impl Into<String>) -> Self {
        Self { store, home: home.into() }
    }
}

impl<S: LineageStore> Display for StoreTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lineage store {}", self.store)
    }
}

#[async_trait]
impl<S: LineageStore> Transport for StoreTransport<S> {
    async fn send(&self, event: &RunEvent) -> Result<()> {
        let (nodes, edges) = graph_of(event, &self.home);
        self.store.record(&nodes, &edges).await
    }
}

/// An event as nodes and edges: `job → run`, `input → run → output`, `run → parent`.
///
/// | in the event | node |
/// | --- | --- |
/// | a run; a run with [`StepFacet`] and [`ParentFacet`] | [`NodeRef::run`]; [`NodeRef::step`] of the parent |
/// | a dataset of the namespace `home`, with a version | `name@version`, as [`NodeRef::dataset`] |
/// | any other dataset | `namespace/name`, with `@version` if it has one |
/// | a dataset with [`ModelFacet`], [`DeploymentFacet`], [`PredictionsFacet`] | the model version, deployment, batch |
///
/// What else the known facets say becomes facts. A facet that cannot be read is left out.
///
/// ```
/// use mlops_core::lineage::openlineage::{Dataset, EventType, Job, Run, RunEvent};
/// use mlops_core::lineage::graph_of;
/// # let at: mlops_core::Timestamp = "1996-05-07T00:00:00Z".parse().unwrap();
/// let run = Run::new(mlops_core::RunId::new(at));
/// let event = RunEvent::new(EventType::Start, at, run, Job::new("shop", "load")).input(Dataset::new("s3://feeds", "a.csv"));
/// let (_, edges) = graph_of(&event, "shop");
/// assert_eq!(edges[0].from.to_string(), "job shop/load");
/// assert_eq!(edges[1].from.to_string(), "dataset s3://feeds/a.csv");
/// ```
#[must_use]
pub fn graph_of(event: &RunEvent, home: &str) -> (Vec<Node>, Vec<Edge>) {
    let run = node_of_run(event);
    let job = NodeRef::job(&event.job.namespace, &event.job.name);
    let here = run.node.clone();
    let mut edges = vec![Edge::new(job.clone(), here.clone())];
    let mut nodes = vec![Node::new(job)];
    if let Some(parent) = known::<_, ParentFacet>(&event.run.facets) {
        // A run that calls itself its parent is none.
        if parent.run.run_id != event.run.run_id {
            edges.push(Edge::new(here.clone(), NodeRef::run(parent.run.run_id)));
            edges.extend(steps_before(event, parent.run.run_id, &here));
        }
    }
    nodes.push(run);
    for input in &event.inputs {
        let node = node_of_dataset(&input.dataset, home);
        edges.push(Edge::new(node.node.clone(), here.clone()));
        nodes.push(node);
    }
    for output in &event.outputs {
        let node = node_of_dataset(&output.dataset, home);
        edges.push(Edge::new(here.clone(), node.node.clone()));
        nodes.push(node);
    }
    (nodes, edges)
}

/// The steps whose output this one takes, and the one of another run that computed its output.
fn steps_before(event: &RunEvent, parent: crate::RunId, here: &NodeRef) -> Vec<Edge> {
    let Some(step) = known::<_, StepFacet>(&event.run.facets) else { return Vec::new() };
    let inputs = step.inputs.keys().map(|input| NodeRef::step(parent, input));
    let computed = step.computed_by.filter(|&run| run != parent).map(|run| NodeRef::step(run, &step.step));
    inputs.chain(computed).map(|before| Edge::new(before, here.clone())).collect()
}

fn node_of_run(event: &RunEvent) -> Node {
    let facets = &event.run.facets;
    let (parent, step) = (known::<_, ParentFacet>(facets), known::<_, StepFacet>(facets));
    let mut node = Node::new(match (&parent, &step) {
        (Some(parent), Some(step)) => NodeRef::step(parent.run.run_id, &step.step),
        _ => NodeRef::run(event.run.run_id),
    });
    let at = event.event_time.to_rfc3339();
    // A run without a state has not ended: whatever order its events come in, the facts end up the same.
    node = match event.event_type {
        EventType::Start => node.fact("started_at", at),
        EventType::Complete => node.fact("state", "complete").fact("ended_at", at),
        EventType::Fail => node.fact("state", "failed").fact("ended_at", at),
        EventType::Abort => node.fact("state", "aborted").fact("ended_at", at),
        EventType::Running | EventType::Other => node,
    };
    let mut say = |name: &str, value: Option<String>| {
        node.facts.extend(value.map(|value| (name.to_owned(), value)));
    };
    if let Some(location) = known::<_, SourceCodeLocationFacet>(&event.job.facets) {
        say("source", Some(location.url.to_string()));
        say("commit", location.version);
    }
    if let Some(environment) = known::<_, EnvironmentFacet>(facets) {
        say("commit", environment.commit);
        say("dirty", environment.dirty.map(|d| d.to_string()));
        say("lock_file", environment.lock_file.map(|d| d.to_string()));
        say("toolchain", environment.toolchain);
        say("image", environment.image);
        say("seed", environment.seed.map(|s| s.to_string()));
    }
    if let Some(step) = step {
        let cached = step.computed_by.zip(parent).map(|(by, parent)| by != parent.run.run_id);
        say("output", step.output.map(|d| d.to_string()));
        say("computed_by", step.computed_by.map(|r| r.to_string()));
        say("cached", cached.map(|c| c.to_string()));
        say("code", step.code);
        for (input, digest) in step.inputs {
            say(&format!("input.{input}"), Some(digest.to_string()));
        }
    }
    say("error", known::<_, ErrorMessageFacet>(facets).map(|e| e.message));
    say("nominal_time", known::<_, NominalTimeFacet>(facets).map(|t| t.nominal_start_time.to_rfc3339()));
    node
}

fn node_of_dataset(dataset: &Dataset, home: &str) -> Node {
    let facets = &dataset.facets;
    let mut node = if let Some(model) = known::<_, ModelFacet>(facets) {
        let node = Node::new(NodeRef::model(&model.name, model.version));
        model.package.iter().fold(node, |node, package| node.fact("package", package))
    } else if let Some(deployment) = known::<_, DeploymentFacet>(facets) {
        let node = Node::new(NodeRef::deployment(deployment.name));
        deployment.arms.iter().fold(node, |node, (arm, share)| node.fact(format!("arm.{arm}"), share))
    } else if let Some(predictions) = known::<_, PredictionsFacet>(facets) {
        let node = Node::new(NodeRef::prediction_batch(predictions.batch));
        let facts = [
            ("rows", predictions.rows.map(|n| n.to_string())),
            ("deployment", predictions.deployment),
            ("from", predictions.from.map(|t| t.to_rfc3339())),
            ("until", predictions.until.map(|t| t.to_rfc3339())),
        ];
        let said = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        said.fold(node, |node, (name, value)| node.fact(name, value))
    } else {
        let version = known::<_, VersionFacet>(facets).map(|v| format!("@{}", v.dataset_version));
        let (namespace, name) = (&dataset.namespace, &dataset.name);
        let id = match &version {
            Some(version) if namespace == home => format!("{name}{version}"),
            version => format!("{namespace}/{name}{}", version.as_deref().unwrap_or_default()),
        };
        Node::new(NodeRef { kind: super::NodeKind::Dataset, id }).fact("namespace", namespace)
    };
    if let Some(rows) = known::<_, DataQualityMetricsFacet>(facets).and_then(|quality| quality.row_count) {
        node = node.fact("rows", rows);
    }
    if let Some(schema) = known::<_, SchemaFacet>(facets) {
        let columns: Vec<String> = schema.fields.into_iter().map(|field| field.name).collect();
        node = node.fact("columns", columns.join(", "));
    }
    for (column, made) in known::<_, ColumnLineageFacet>(facets).map(|lineage| lineage.fields).unwrap_or_default() {
        let inputs = made.input_fields.iter().map(|i| format!("{}/{}.{}", i.namespace, i.name, i.field));
        node = node.fact(format!("column.{column}"), inputs.collect::<Vec<_>>().join(", "));
    }
    node
}

fn known<P, F: Facet<P>>(facets: &Facets<P>) -> Option<F> {
    facets.find().ok().flatten()
}
