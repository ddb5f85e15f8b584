//! Deployments and predictions as OpenLineage events, against the official schemas, and the questions they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mlops_core::audit::{AuditEntry, AuditEvent, AuditLog, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::conformance::OpenLineageSchemas;
use mlops_core::inference::{InferenceLog, InferenceRecord, InferenceSink, MemoryInferenceLog};
use mlops_core::lineage::openlineage::*;
use mlops_core::lineage::{
    LineageEvents, LineageStoreExt, MemoryLineage, MemorySink, NodeRef, StoreTransport, Transport,
};
use mlops_core::store::MemoryStore;
use mlops_core::{DatasetRef, Digest, Error, ManualClock, ModelRef, Predictor, Principal, Role, RunId};
use mlops_serve::{Deployment, Loader, ParquetInferenceLog, Request, Split, StaticSource, TracedSink};

use crate::support::{rows, rule};

fn v(version: u64) -> ModelRef {
    ModelRef::version("m", version)
}

fn models() -> StaticSource {
    StaticSource::default().with("m", 1, rule(|x| x)).with("m", 2, rule(|x| 2.0 * x))
}

fn dora() -> Principal {
    Principal::new("dora").with_role(Role::Deployer)
}

fn events(sink: &MemorySink) -> LineageEvents {
    LineageEvents::to(sink.clone()).namespace("shop").environment(EnvironmentFacet::new().commit("4f92db1"))
}

fn dataset(name: &str) -> DatasetRef {
    DatasetRef { name: name.to_owned(), digest: Digest::of(name.as_bytes()) }
}

/// `deploy.d COMPLETE`, in order, once each event is valid.
fn told(sink: &MemorySink) -> Vec<String> {
    OpenLineageSchemas::new().check(&sink.events());
    let word = |e: &RunEvent| serde_json::to_value(e.event_type).unwrap().as_str().unwrap().to_owned();
    sink.events().iter().map(|e| format!("{} {}", e.job.name, word(e))).collect()
}

const DEPLOYED: [&str; 2] = ["deploy.d START", "deploy.d COMPLETE"];
const PREDICTED: [&str; 2] = ["predict.d START", "predict.d COMPLETE"];

#[tokio::test]
async fn each_change_is_a_run_from_model_versions_to_the_deployment() {
    let sink = MemorySink::default();
    let builder = Deployment::builder("d", models()).lineage_events(events(&sink));
    let deployment = builder.start(Split::only("champion", v(1))).await.unwrap();
    assert_eq!(told(&sink), DEPLOYED);
    // What changes nothing, or may not be done, is no run.
    assert!(!deployment.apply(&dora(), Split::only("champion", v(1)), "").await.unwrap());
    deployment.apply(&Principal::new("eve"), Split::only("champion", v(2)), "").await.unwrap_err();
    assert_eq!(told(&sink).len(), 2);
    let both = Split::only("champion", v(1)).arm("canary", v(2), 0.25).arm("control", v(1), 0.5);
    assert!(deployment.apply(&dora(), both, "try it").await.unwrap());
    assert_eq!(told(&sink), [DEPLOYED, DEPLOYED].concat());
    let all = sink.events();
    assert_eq!(all[2].run, all[3].run);
    assert_ne!(all[1].run.run_id, all[3].run.run_id);
    let models: Vec<_> =
        all[3].inputs.iter().map(|i| i.dataset.facets.find::<ModelFacet>().unwrap().unwrap()).collect();
    assert_eq!(models.iter().map(|m| m.version).collect::<Vec<_>>(), [1, 2], "each version once");
    assert_eq!(models[0].package, Some(Digest::of(b"m/1")));
    let facet = all[3].outputs[0].dataset.facets.find::<DeploymentFacet>().unwrap().unwrap();
    let shares: Vec<_> = facet.arms.iter().map(|(arm, share)| (arm.as_str(), *share)).collect();
    assert_eq!(shares, [("canary", 0.125), ("champion", 0.375), ("control", 0.5)]);
    assert_eq!(all[3].run.facets.find::<EnvironmentFacet>().unwrap().unwrap().commit.as_deref(), Some("4f92db1"));
}

/// A log that cannot be written.
#[derive(Debug)]
struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("full")
    }
}

#[async_trait]
impl AuditLog for Full {
    async fn append(&self, _: AuditEvent) -> mlops_core::Result<AuditEntry> {
        Err(Error::invalid("disk", "full"))
    }

    async fn entries(&self, _: u64, _: usize) -> mlops_core::Result<Vec<AuditEntry>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_change_that_fails_is_told_with_its_reason() {
    let sink = MemorySink::default();
    let builder = Deployment::builder("d", models()).audit(Full).lineage_events(events(&sink));
    let deployment = builder.start(Split::only("champion", v(1))).await.unwrap();
    deployment.apply(&dora(), Split::only("champion", v(9)), "").await.unwrap_err();
    deployment.apply(&dora(), Split::only("champion", v(2)), "").await.unwrap_err();
    let failed = ["deploy.d START", "deploy.d FAIL"];
    assert_eq!(told(&sink), [DEPLOYED, failed, failed].concat());
    let reason = |n: usize| sink.events()[n].run.facets.find::<ErrorMessageFacet>().unwrap().unwrap().message;
    assert_eq!((reason(3).as_str(), reason(5).as_str()), ("model \"models:/m/9\" not found", "invalid disk: full"));
    let builder = Deployment::builder("e", models()).audit(MemoryAuditLog::default()).lineage_events(events(&sink));
    builder.start(Split::only("champion", v(9))).await.unwrap_err();
    assert_eq!(told(&sink)[6..], ["deploy.e START", "deploy.e FAIL"]);
}

/// Never ends loading anything.
#[derive(Debug)]
struct Slow(StaticSource);

#[async_trait]
impl Loader for Slow {
    async fn resolve(&self, wanted: &ModelRef) -> mlops_serve::Result<mlops_core::ResolvedModel> {
        self.0.resolve(wanted).await
    }

    async fn load(&self, _: &mlops_core::ResolvedModel) -> mlops_serve::Result<Arc<dyn Predictor>> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_start_that_is_given_up_is_aborted() {
    let sink = MemorySink::default();
    let start = Deployment::builder("d", Slow(models())).lineage_events(events(&sink)).start(Split::only("c", v(1)));
    assert!(tokio::time::timeout(Duration::from_millis(20), start).await.is_err());
    assert_eq!(told(&sink), ["deploy.d START", "deploy.d ABORT"]);
}

#[tokio::test]
async fn what_was_predicted_between_two_flushes_is_a_batch_for_each_version() {
    let (sink, log) = (MemorySink::default(), MemoryInferenceLog::default());
    let clock = ManualClock::at(from_micros(1_000_000));
    let traced = TracedSink::new(log.clone(), events(&sink)).clock(clock.clone()).dataset(&dataset("day"));
    let split = Split::only("champion", v(1)).arm("canary", v(2), 0.0).mirrored();
    let builder = Deployment::builder("d", models()).sink(traced.clone()).clock(clock.clone());
    let deployment = builder.start(split).await.unwrap();
    for _ in 0..3 {
        deployment.predict(Request::new("k", rows(vec![1.0, 2.0]))).await.unwrap();
        deployment.drain().await;
        clock.advance(Duration::from_secs(1));
    }
    assert!(told(&sink).is_empty(), "what is not kept yet is not told");
    traced.flush().await.unwrap();
    traced.flush().await.unwrap();
    assert_eq!(told(&sink), [PREDICTED, PREDICTED].concat(), "the champion's and the shadow's, once");
    for (n, version) in [(1, 1), (3, 2)] {
        let event = &sink.events()[n];
        let model = Dataset::model("shop", ModelFacet::new("m", version));
        assert_eq!(event.inputs, [model.into(), Dataset::reference("shop", &dataset("day")).into()]);
        let made = event.outputs[0].dataset.facets.find::<PredictionsFacet>().unwrap().unwrap();
        assert_eq!((made.rows, made.deployment.as_deref()), (Some(6), Some("d")));
        assert_eq!((made.from, made.until), (Some(from_micros(1_000_000)), Some(from_micros(3_000_001))));
        assert_eq!(sink.events()[n - 1].event_time, from_micros(1_000_000), "from its first request on");
    }
    let (from, until) = (from_micros(1_000_000), from_micros(3_000_001));
    assert_eq!(log.scan(from, until).await.unwrap().len(), 12, "the times are those of all its rows");
}

/// A sink whose flush fails, or never ends.
#[derive(Clone, Debug, Default)]
struct Stuck {
    log: MemoryInferenceLog,
    fails: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stuck")
    }
}

#[async_trait]
impl InferenceSink for Stuck {
    async fn write(&self, record: InferenceRecord) -> mlops_core::Result<()> {
        self.log.write(record).await
    }

    async fn flush(&self) -> mlops_core::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::invalid("disk", "full"));
        }
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_batch_that_could_not_be_flushed_is_told_whole_when_it_can() {
    let (sink, stuck) = (MemorySink::default(), Stuck::default());
    let traced = TracedSink::new(stuck.clone(), events(&sink)).batch_rows(4);
    let deployment = Deployment::builder("d", models()).sink(traced.clone());
    let deployment = deployment.start(Split::only("champion", v(1))).await.unwrap();
    let ask = async || deployment.predict(Request::new("k", rows(vec![1.0]))).await.unwrap();
    stuck.fails.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        ask().await;
    }
    assert_eq!(deployment.health().capture_failures, 1, "tried once, at the fourth row");
    stuck.fails.store(false, Ordering::SeqCst);
    stuck.hangs.store(true, Ordering::SeqCst);
    assert!(tokio::time::timeout(Duration::from_millis(20), traced.flush()).await.is_err());
    stuck.hangs.store(false, Ordering::SeqCst);
    assert!(told(&sink).is_empty());
    for _ in 0..3 {
        ask().await;
    }
    assert_eq!(told(&sink), PREDICTED, "a full batch flushes by itself");
    let made = sink.events()[1].outputs[0].dataset.facets.find::<PredictionsFacet>().unwrap().unwrap();
    assert_eq!(made.rows, Some(8));
}

#[tokio::test]
async fn bad_data_leads_to_the_deployment_and_the_predictions() {
    let sink = MemorySink::default();
    let log = ParquetInferenceLog::new(MemoryStore::default(), "log").unwrap();
    let traced = TracedSink::new(log, events(&sink)).dataset(&dataset("asked"));
    let at = from_micros(0);
    // As a pipeline tells it.
    let trained = RunEvent::new(EventType::Complete, at, Run::new(RunId::new(at)), Job::new("shop", "train"));
    let trained = trained.input(Dataset::reference("shop", &dataset("prices")));
    let trained = trained.output(Dataset::model("shop", ModelFacet::new("m", 2)));
    let builder = Deployment::builder("d", models()).sink(traced.clone()).lineage_events(events(&sink));
    let deployment = builder.start(Split::only("champion", v(1))).await.unwrap();
    deployment.predict(Request::new("k", rows(vec![1.0]))).await.unwrap();
    traced.flush().await.unwrap();
    deployment.apply(&dora(), Split::only("champion", v(2)), "better").await.unwrap();
    deployment.predict(Request::new("k", rows(vec![1.0]))).await.unwrap();
    traced.flush().await.unwrap();
    assert_eq!(told(&sink), [DEPLOYED, PREDICTED, DEPLOYED, PREDICTED].concat());

    let graph = MemoryLineage::default();
    let into = StoreTransport::new(graph.clone(), "shop");
    for event in [trained].iter().chain(&sink.events()) {
        into.send(event).await.unwrap();
    }
    let prices = NodeRef::dataset(&dataset("prices"));
    let seen: Vec<_> = graph.models_of(&prices).await.unwrap().models.into_iter().map(|m| m.node).collect();
    assert_eq!(seen, [NodeRef::model("m", 2)]);
    let impact = graph.impact(&prices).await.unwrap();
    let deployments: Vec<_> = impact.deployments().collect();
    assert_eq!((deployments.len(), &deployments[0].node), (1, &NodeRef::deployment("d")));
    assert_eq!(deployments[0].facts["arm.champion"], "1");
    assert_eq!(impact.prediction_batches().count(), 1, "that of version 2, not that of version 1");
    let asked = graph.impact(&NodeRef::dataset(&dataset("asked"))).await.unwrap();
    assert_eq!((asked.prediction_batches().count(), asked.deployments().count()), (2, 0));
}
