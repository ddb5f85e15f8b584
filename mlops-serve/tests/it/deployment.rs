use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use mlops_core::audit::{AuditLogExt, MemoryAuditLog};
use mlops_core::clock::from_micros;
use mlops_core::inference::{InferenceLog, InferenceRecord, InferenceSink, MemoryInferenceLog, SHADOW};
use mlops_core::lineage::{LineageStore, MemoryLineage, NodeRef};
use mlops_core::{ManualClock, ModelRef, Permission, PredictionId, Principal, Role};
use mlops_serve::{Deployment, Error, Request, Split, StaticSource};

use crate::support::{first, rows, rule};

fn v(version: u64) -> ModelRef {
    ModelRef::version("m", version)
}

fn models() -> StaticSource {
    StaticSource::default().with("m", 1, rule(|x| x)).with("m", 2, rule(|x| 2.0 * x))
}

fn dora() -> Principal {
    Principal::new("dora").with_role(Role::Deployer)
}

fn only(version: u64) -> Split {
    Split::only("champion", v(version))
}

#[tokio::test]
async fn a_request_is_answered_and_captured() {
    let log = MemoryInferenceLog::default();
    let clock = ManualClock::at(from_micros(1_000_000));
    let deployment = Deployment::builder("d", models()).sink(log.clone()).clock(clock).start(only(2)).await.unwrap();
    let id = PredictionId::derived(from_micros(5), b"mine");
    let answer = deployment.predict(Request::new("k", rows(vec![3.0])).ids(vec![id])).await.unwrap();
    assert_eq!((first(&answer.outputs), answer.version, answer.ids[0]), (6.0, 2, id));
    deployment.drain().await;
    let found = log.find(id).await.unwrap().unwrap();
    assert_eq!((&*found.arm, found.version, found.at), ("champion", 2, from_micros(1_000_000)));
    assert_eq!((first(&found.inputs), first(&found.outputs), &*found.key), (3.0, 6.0, "k"));
}

#[tokio::test]
async fn mirrored_arms_predict_too_and_never_answer() {
    let log = MemoryInferenceLog::default();
    let split = only(1).arm("canary", v(2), 0.5).mirrored();
    let deployment = Deployment::builder("d", models()).sink(log.clone()).start(split).await.unwrap();
    for i in 0..50 {
        let answer = deployment.predict(Request::new(format!("caller {i}"), rows(vec![1.0]))).await.unwrap();
        assert_eq!(first(&answer.outputs), answer.version as f64, "the arm that was chosen answered");
    }
    deployment.drain().await;
    let records = log.scan(from_micros(0), from_micros(i64::MAX / 2)).await.unwrap();
    let (shadows, answers): (Vec<_>, Vec<_>) = records.iter().partition(|r| &*r.arm == SHADOW);
    assert_eq!((shadows.len(), answers.len()), (50, 50));
    for shadow in shadows {
        let answered = answers.iter().find(|a| a.ids == shadow.ids).unwrap();
        assert_eq!(answered.version + shadow.version, 3, "a pair has one prediction of each version");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_dropped_while_versions_are_swapped() {
    let deployment = Deployment::builder("d", models()).start(only(1)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<[AtomicUsize; 4]> = Arc::default();
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (deployment, stop, answered) = (deployment.clone(), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = deployment.predict(Request::new("k", rows(vec![1.0]))).await.unwrap();
                    assert_eq!(first(&answer.outputs), answer.version as f64);
                    answered[caller].fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut swaps = 0;
    let busy = || answered.iter().all(|n| n.load(Ordering::Relaxed) >= 50);
    while (swaps < 200 || !busy()) && callers.iter().all(|caller| !caller.is_finished()) {
        swaps += 1;
        assert!(deployment.apply(&dora(), only(1 + swaps % 2), "swap").await.unwrap());
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(busy() && swaps >= 200);
}

#[tokio::test]
async fn changes_need_the_role_and_leave_a_record() {
    let (audit, lineage) = (MemoryAuditLog::default(), MemoryLineage::default());
    let builder = Deployment::builder("d", models()).audit(audit.clone()).lineage(lineage.clone());
    let deployment = builder.start(only(1)).await.unwrap();
    for role in Role::ALL {
        let outcome = deployment.apply(&Principal::new("p").with_role(role), only(1), "").await;
        assert_eq!(outcome.is_ok(), role.grants(Permission::Deploy), "{role:?}");
    }
    assert!(!deployment.apply(&dora(), only(1), "nothing changes").await.unwrap());
    assert!(deployment.apply(&dora(), only(2), "v2 is better").await.unwrap());
    let entries = audit.all_entries().await.unwrap();
    assert_eq!(entries.len(), 1, "only the change is written down");
    let event = &entries[0].event;
    assert_eq!((&*event.actor, &*event.action, &*event.reason), ("dora", "deployment.split", "v2 is better"));
    assert_eq!((&event.before["arms"][0]["model"], &event.after["arms"][0]["model"]), (&"m v1".into(), &"m v2".into()));
    let deployed = lineage.upstream(&NodeRef::deployment("d"), 1).await.unwrap();
    assert_eq!(deployed.nodes.len(), 3, "the deployment and both versions");
}

#[tokio::test]
async fn a_change_that_cannot_be_loaded_changes_nothing() {
    let deployment = Deployment::builder("d", models()).start(only(1)).await.unwrap();
    let error = deployment.apply(&dora(), only(1).arm("canary", v(9), 0.5), "").await.unwrap_err();
    assert_eq!(error.to_string(), "model \"models:/m/9\" not found");
    assert!(deployment.apply(&dora(), only(1).arm("canary", v(2), 1.5), "").await.is_err());
    assert_eq!(deployment.split(), only(1));
    assert!(Deployment::builder("d", models()).start(only(9)).await.is_err());
}

#[tokio::test]
async fn bad_inputs_are_named() {
    let deployment = Deployment::builder("d", models()).start(only(1)).await.unwrap();
    let error = deployment.predict(Request::new("k", rows(vec![1.0, f64::NAN]))).await.unwrap_err().to_string();
    assert!(error.contains("\"x\"") && error.contains("row 1"), "{error}");
    assert!(deployment.predict(Request::new("k", rows(vec![]))).await.is_err());
    assert_eq!(deployment.failures("m", 1), 0, "the callers' faults, not the model's");
    let one_id = vec![PredictionId::derived(from_micros(0), b"")];
    assert!(deployment.predict(Request::new("k", rows(vec![1.0, 2.0])).ids(one_id)).await.is_err());
}

#[tokio::test]
async fn a_model_that_panics_loses_one_request() {
    let model = rule(|x| if x < 0.0 { panic!("negative") } else { x });
    let deployment =
        Deployment::builder("d", StaticSource::default().with("m", 1, model)).start(only(1)).await.unwrap();
    let error = deployment.predict(Request::new("k", rows(vec![-1.0]))).await.unwrap_err();
    assert!(matches!(&error, Error::Panicked { message, .. } if message == "negative"), "{error}");
    assert!(deployment.predict(Request::new("k", rows(vec![1.0]))).await.is_ok());
}

#[tokio::test]
async fn a_failing_shadow_is_counted_and_harmless() {
    let models = models().with("m", 3, rule(|_| f64::NAN)).with("m", 4, rule(|_| panic!("shadow")));
    for bad in [3, 4] {
        let split = only(1).arm("canary", v(bad), 0.0).mirrored();
        let deployment = Deployment::builder("d", models.clone()).start(split).await.unwrap();
        for _ in 0..5 {
            assert!(deployment.predict(Request::new("k", rows(vec![1.0]))).await.is_ok());
        }
        deployment.drain().await;
        assert_eq!(deployment.health().shadow_failures, 5, "version {bad}");
        assert_eq!((deployment.failures("m", bad), deployment.failures("m", 1)), (5, 0), "counted by version");
    }
}

#[derive(Debug, Default)]
struct FullDisk(AtomicUsize);

impl std::fmt::Display for FullDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("full disk")
    }
}

#[async_trait]
impl InferenceSink for FullDisk {
    async fn write(&self, _: InferenceRecord) -> mlops_core::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(mlops_core::Error::invalid("disk", "full"))
    }

    async fn flush(&self) -> mlops_core::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_sink_that_fails_does_not_fail_the_answer() {
    let deployment = Deployment::builder("d", models()).sink(FullDisk::default()).start(only(1)).await.unwrap();
    assert!(deployment.predict(Request::new("k", rows(vec![1.0]))).await.is_ok());
    assert_eq!(deployment.health().capture_failures, 1);
}
