//! The cases of [`tracking_store_conformance!`](crate::tracking_store_conformance).

use futures::future::join_all;
use mlops_core::clock::from_micros;
use mlops_core::{DatasetRef, Digest, Error as CoreError, ExperimentId, Principal, Role, RunId, Timestamp};

mod artifacts;
mod deletion;
mod logged_models;
mod runs;
mod search;

pub use self::artifacts::*;
pub use self::deletion::*;
pub use self::logged_models::*;
pub use self::runs::*;
pub use self::search::*;
use super::{refused, who};
use crate::{
    ArtifactMode, Error, ExperimentEdit, Limit, LogBatch, LoggedModelEdit, LoggedModelId, LoggedModelStatus,
    NewExperiment, NewLoggedModel, NewRun, Run, RunEdit, RunModel, RunStatus, Search, TrackingStore,
    TrackingStoreExt as _,
};

fn ana() -> Principal {
    who("ana", Role::Contributor)
}

fn at(seconds: i64) -> Timestamp {
    from_micros(seconds * 1_000_000)
}

/// The bytes of every artifact that the suite names. A backend that takes them from an artifact store
/// ([`Limit::ArtifactDigests`]) is tested with a store that has them.
pub const ARTIFACTS: &[&[u8]] = &[
    b"",
    b"1",
    b"2",
    b"a",
    b"svg",
    b"old",
    b"newer",
    b"model",
    b"model.bak",
    b"model/MLmodel",
    b"model/data/w b.bin",
    b"model0",
    b"models/x",
    "é/模".as_bytes(),
];

fn lacks(store: &dyn TrackingStore, limit: Limit) -> bool {
    store.tracking_limits().contains(&limit)
}

/// What a run left: where the backend does not tell with the run, it is asked.
async fn left(store: &dyn TrackingStore, run: &Run) -> Vec<crate::Artifact> {
    if !lacks(store, Limit::ArtifactDigests) {
        return run.artifacts.clone();
    }
    assert!(run.artifacts.is_empty(), "{store}");
    store.artifacts(run.id().into(), "").await.unwrap()
}

async fn newest(store: &dyn TrackingStore, experiment: &str, limit: usize) -> Vec<Run> {
    store.newest_runs(experiment, limit).await.unwrap()
}

async fn run(store: &dyn TrackingStore) -> RunId {
    store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    store.start_run(&ana(), NewRun::new("e").name("r")).await.unwrap().id()
}

/// Contract: an experiment of the same name and tags is the same; other tags are refused.
pub async fn experiments_are_idempotent_by_name(store: &dyn TrackingStore) {
    let new = NewExperiment::new("e").tag("team", "x");
    let first = store.create_experiment(&ana(), new.clone()).await.unwrap();
    assert_eq!(store.create_experiment(&ana(), new).await.unwrap(), first, "{store}");
    assert_eq!(store.experiment("e").await.unwrap(), first, "{store}");
    let error = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
}

/// Contract: a run of the same id and contents is the same, as it is now; other contents are refused.
pub async fn runs_are_idempotent_by_id(store: &dyn TrackingStore) {
    store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    let id = RunId::derived(at(1), b"week 1");
    let new = NewRun::new("e").id(id).name("r").tag("k", "v");
    if lacks(store, Limit::ChosenIds) {
        return refused(Limit::ChosenIds, store.start_run(&ana(), new).await);
    }
    let first = store.start_run(&ana(), new.clone()).await.unwrap();
    assert_eq!((first.id(), first.info.status), (id, RunStatus::Running), "{store}");
    store.log_batch(&ana(), id, LogBatch::new().tag("k", "later")).await.unwrap();
    let again = store.start_run(&ana(), new.clone()).await.unwrap();
    assert_eq!((again.info, again.tags["k"].as_str()), (first.info, "later"), "{store}");
    for other in [new.clone().name("s"), new.clone().tag("k", "w"), new.parent(id)] {
        let error = store.start_run(&ana(), other).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    }
    let error = store.start_run(&who("bob", Role::Contributor), NewRun::new("e").id(id)).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    assert_eq!(newest(store, "e", 10).await.len(), 1, "{store}");
}

/// Everything that was logged to a run is read back with it.
pub async fn what_was_logged_is_there(store: &dyn TrackingStore) {
    let parent = run(store).await;
    let id = store.start_run(&ana(), NewRun::new("e").parent(parent).tag("a", "1")).await.unwrap().id();
    let batch = LogBatch::new().param("lr", 0.1).metric("loss", 0.25, 3, at(9)).tag("b", "ß \u{1F600}\n");
    store.log_batch(&ana(), id, batch).await.unwrap();
    let dataset = DatasetRef { name: "d".into(), digest: Digest::of(b"rows") };
    store.log_input(&ana(), id, dataset.clone(), "training").await.unwrap();
    store.log_artifact(&ana(), id, "plots/roc.svg", Digest::of(b"svg"), 3).await.unwrap();
    let run = store.run(id).await.unwrap();
    assert_eq!((run.info.parent, run.info.author.as_str()), (Some(parent), "ana"), "{store}");
    assert_eq!(run.params["lr"], "0.1", "{store}");
    assert_eq!(run.metrics["loss"], crate::Metric::new("loss", 0.25, 3, at(9)), "{store}");
    assert_eq!((run.tags["a"].as_str(), run.tags["b"].as_str()), ("1", "ß \u{1F600}\n"), "{store}");
    let input = &run.inputs[0];
    assert_eq!((input.dataset_ref(), input.context.as_str()), (Some(dataset), "training"), "{store}");
    let artifact = &left(store, &run).await[0];
    assert_eq!((artifact.path.as_str(), artifact.bytes), ("plots/roc.svg", 3), "{store}");
    assert_eq!(newest(store, "e", 10).await.into_iter().find(|r| r.id() == id), Some(run), "{store}");
}

/// Contract: params keep their first value; the same value again is no error.
pub async fn params_keep_their_first_value(store: &dyn TrackingStore) {
    let id = run(store).await;
    let log = async |value: &str| store.log_batch(&ana(), id, LogBatch::new().param("lr", value)).await;
    log("0.1").await.unwrap();
    log("0.1").await.unwrap();
    let error = log("0.2").await.unwrap_err();
    assert!(matches!(&error, Error::ParamChanged { key, .. } if key == "lr"), "{store}: {error}");
    assert_eq!(store.run(id).await.unwrap().params["lr"], "0.1", "{store}");
}

/// Contract: a batch is kept whole or not at all.
pub async fn a_refused_batch_leaves_nothing(store: &dyn TrackingStore) {
    let id = run(store).await;
    store.log_batch(&ana(), id, LogBatch::new().param("z", 1)).await.unwrap();
    let batch = LogBatch::new().param("a", 1).param("z", 2).metric("m", 1.0, 0, at(0)).tag("t", "1");
    store.log_batch(&ana(), id, batch).await.unwrap_err();
    let run = store.run(id).await.unwrap();
    assert_eq!((run.params.len(), run.metrics.len(), run.tags.len()), (1, 0, 0), "{store}");
}

/// Contract: tags take the last value.
pub async fn tags_take_the_last_value(store: &dyn TrackingStore) {
    let id = run(store).await;
    for value in ["1", "2"] {
        store.log_batch(&ana(), id, LogBatch::new().tag("t", value)).await.unwrap();
    }
    assert_eq!(store.run(id).await.unwrap().tags["t"], "2", "{store}");
}

/// Contract: NaN and the infinities are kept, and every number bit for bit.
pub async fn metrics_keep_nan_and_infinity(store: &dyn TrackingStore) {
    let id = run(store).await;
    let values =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1 + 0.2, f64::MAX, f64::MIN_POSITIVE, -1.5e-308, 5e-324];
    let batch = values.iter().enumerate().fold(LogBatch::new(), |b, (i, &v)| b.metric("m", v, i as i64, at(0)));
    store.log_batch(&ana(), id, batch).await.unwrap();
    let history = store.metric_history(id, "m").await.unwrap();
    assert_eq!(history.len(), values.len(), "{store}");
    for (point, value) in history.iter().zip(values) {
        let extreme = value.is_infinite() && lacks(store, Limit::MetricExtremes);
        let same = if extreme { point.value.abs() >= f64::MAX } else { point.value == value };
        assert!(point.value.is_nan() && value.is_nan() || same, "{store}: {point} from {value}");
    }
}

/// Contract: the latest is the greatest by step, then time, then value, with NaN below every number, however the
/// points came.
pub async fn the_latest_metric_is_by_step_time_value(store: &dyn TrackingStore) {
    let id = run(store).await;
    // Each point beats the one before it.
    let mut ladder = vec![
        (f64::INFINITY, -1, 9),
        (f64::NAN, 0, 1),
        (f64::NEG_INFINITY, 0, 1),
        (-3.0, 0, 1),
        (5.0, 0, 1),
        (f64::NAN, 0, 2),
        (1.0, 0, 2),
        (0.5, 2, 0),
    ];
    if lacks(store, Limit::MetricExtremes) {
        ladder.retain(|(value, ..)| value.is_finite());
    }
    for n in 1..=ladder.len() {
        let (up, down, whole) = (format!("up{n}"), format!("down{n}"), format!("whole{n}"));
        let mut together = LogBatch::new();
        for &(value, step, second) in &ladder[..n] {
            let batch = LogBatch::new().metric(&up, value, step, at(second));
            store.log_batch(&ana(), id, batch).await.unwrap();
            together = together.metric(&whole, value, step, at(second));
        }
        for &(value, step, second) in ladder[..n].iter().rev() {
            let batch = LogBatch::new().metric(&down, value, step, at(second));
            store.log_batch(&ana(), id, batch).await.unwrap();
        }
        store.log_batch(&ana(), id, together).await.unwrap();
        let run = store.run(id).await.unwrap();
        let (value, step, second) = ladder[n - 1];
        for key in [up, down, whole] {
            let found = &run.metrics[&key];
            let same = found.value == value || found.value.is_nan() && value.is_nan();
            assert!(same && (found.step, found.at) == (step, at(second)), "{store}: {key} is {found:?}");
        }
    }
}

/// Contract: the same point again changes nothing, NaN included.
pub async fn repeated_points_are_one(store: &dyn TrackingStore) {
    let id = run(store).await;
    let batch = LogBatch::new().metric("m", 1.0, 0, at(0)).metric("m", f64::NAN, 0, at(0)).metric("m", 1.0, 0, at(1));
    for _ in 0..2 {
        store.log_batch(&ana(), id, batch.clone()).await.unwrap();
    }
    assert_eq!(store.metric_history(id, "m").await.unwrap().len(), 3, "{store}");
}

/// Contract: the same input or artifact again changes nothing; another artifact at the same path is refused.
pub async fn inputs_and_artifacts_are_idempotent(store: &dyn TrackingStore) {
    let id = run(store).await;
    let dataset = DatasetRef { name: "d".into(), digest: Digest::of(b"rows") };
    for _ in 0..2 {
        store.log_input(&ana(), id, dataset.clone(), "training").await.unwrap();
        store.log_artifact(&ana(), id, "a", Digest::of(b"1"), 1).await.unwrap();
    }
    let validation = store.log_input(&ana(), id, dataset, "validation").await;
    let inputs = if lacks(store, Limit::InputContexts) {
        refused(Limit::InputContexts, validation);
        1
    } else {
        validation.unwrap();
        2
    };
    let error = store.log_artifact(&ana(), id, "a", Digest::of(b"2"), 1).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    let run = store.run(id).await.unwrap();
    assert_eq!((run.inputs.len(), left(store, &run).await.len()), (inputs, 1), "{store}");
}

/// Contract: a run ends with a terminal status; ending it again the same way keeps the time, another way is refused.
pub async fn runs_end_once(store: &dyn TrackingStore) {
    let id = run(store).await;
    let error = store.finish_run(&ana(), id, RunStatus::Running).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: {error}");
    let ended = store.finish_run(&ana(), id, RunStatus::Finished).await.unwrap();
    assert_eq!(ended.info.status, RunStatus::Finished, "{store}");
    assert!(ended.info.ended_at >= Some(ended.info.started_at), "{store}");
    assert_eq!(store.finish_run(&ana(), id, RunStatus::Finished).await.unwrap(), ended, "{store}");
    for other in [RunStatus::Failed, RunStatus::Killed] {
        let error = store.finish_run(&ana(), id, other).await.unwrap_err();
        assert!(error.is_conflict(), "{store}: {error}");
    }
    assert_eq!(store.run(id).await.unwrap(), ended, "{store}");
}

/// Contract: newest first, in pages without gap or overlap.
pub async fn runs_are_listed_newest_first(store: &dyn TrackingStore) {
    store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    store.create_experiment(&ana(), NewExperiment::new("other")).await.unwrap();
    store.start_run(&ana(), NewRun::new("other")).await.unwrap();
    for _ in 0..7 {
        store.start_run(&ana(), NewRun::new("e")).await.unwrap();
    }
    let all = newest(store, "e", 1_000).await;
    assert_eq!(all.len(), 7, "{store}");
    assert!(all.is_sorted_by(|a, b| a.info.started_at >= b.info.started_at), "{store}");
    let e = store.experiment("e").await.unwrap().id;
    let (mut paged, mut search) = (Vec::new(), Search::default().limit(3));
    loop {
        let page = store.search_runs(&[e], search.clone()).await.unwrap();
        paged.extend(page.items);
        let Some(next) = page.next else { break };
        search = search.after(next);
    }
    assert_eq!(paged, all, "{store}");
}

/// Contract: missing experiments and runs are `NotFound`, by name.
pub async fn missing_things_are_not_found(store: &dyn TrackingStore) {
    let none = RunId::derived(at(0), b"none");
    let (unlogged, nobody) = (LoggedModelId::derived(at(0), b"none"), ExperimentId::derived(at(0), b"none"));
    let (text, model) = (none.to_string(), unlogged.to_string());
    let errors = [
        (store.experiment("nowhere").await.unwrap_err(), "nowhere"),
        (store.newest_runs("nowhere", 1).await.unwrap_err(), "nowhere"),
        (store.edit_experiment(&ana(), "nowhere", ExperimentEdit::new()).await.unwrap_err(), "nowhere"),
        (store.delete_experiment(&ana(), "nowhere").await.unwrap_err(), "nowhere"),
        (store.restore_experiment(&ana(), "nowhere").await.unwrap_err(), "nowhere"),
        (store.experiment_by_id(nobody).await.unwrap_err(), &nobody.to_string()),
        (store.create_logged_model(&ana(), NewLoggedModel::new(nobody, "m")).await.unwrap_err(), &nobody.to_string()),
        (store.start_run(&ana(), NewRun::new("nowhere")).await.unwrap_err(), "nowhere"),
        (store.run(none).await.unwrap_err(), &text),
        (store.metric_history(none, "m").await.unwrap_err(), &text),
        (store.log_batch(&ana(), none, LogBatch::new()).await.unwrap_err(), &text),
        (store.finish_run(&ana(), none, RunStatus::Failed).await.unwrap_err(), &text),
        (store.edit_run(&ana(), none, RunEdit::new()).await.unwrap_err(), &text),
        (store.delete_run(&ana(), none).await.unwrap_err(), &text),
        (store.restore_run(&ana(), none).await.unwrap_err(), &text),
        (store.log_inputs(&ana(), none, vec![]).await.unwrap_err(), &text),
        (store.log_models(&ana(), none, vec![]).await.unwrap_err(), &text),
        (store.metric_page(none, "m", 1, None).await.unwrap_err(), &text),
        (store.artifacts(none.into(), "").await.unwrap_err(), &text),
        (store.artifact(none.into(), "a").await.unwrap_err(), &text),
        (store.log_artifact(&ana(), none, "a", Digest::of(b"a"), 1).await.unwrap_err(), &text),
        (store.remove_artifact(&ana(), none.into(), "a").await.unwrap_err(), &text),
        (store.logged_model(unlogged).await.unwrap_err(), &model),
        (store.finish_logged_model(&ana(), unlogged, LoggedModelStatus::Ready).await.unwrap_err(), &model),
        (store.edit_logged_model(&ana(), unlogged, LoggedModelEdit::new()).await.unwrap_err(), &model),
        (store.delete_logged_model(&ana(), unlogged).await.unwrap_err(), &model),
        (store.artifacts(unlogged.into(), "").await.unwrap_err(), &model),
    ];
    let restored = store.restore_logged_model(&ana(), unlogged).await;
    if lacks(store, Limit::DeletedLoggedModels) {
        refused(Limit::DeletedLoggedModels, restored);
    } else {
        assert!(restored.unwrap_err().is_not_found(), "{store}");
    }
    for (error, name) in errors {
        assert!(error.is_not_found() && error.to_string().contains(name), "{store}: {error}");
    }
    assert!(store.search_runs(&[nobody], Search::default()).await.unwrap().items.is_empty(), "{store}");
    let id = run(store).await;
    let unknown = store.log_models(&ana(), id, vec![RunModel::output(unlogged, 1)]).await.unwrap_err();
    assert!(unknown.is_not_found() && unknown.to_string().contains(&model), "{store}: {unknown}");
    let unknown = crate::Metric::new("m", 1.0, 0, at(0)).of(unlogged);
    assert!(store.log_batch(&ana(), id, LogBatch::new().point(unknown)).await.unwrap_err().is_not_found(), "{store}");
    assert!(store.artifact(id.into(), "nothing").await.unwrap_err().is_not_found(), "{store}");
    assert!(store.metric_history(id, "nothing").await.unwrap().is_empty(), "{store}");
    assert!(store.start_run(&ana(), NewRun::new("e").parent(none)).await.unwrap_err().is_not_found(), "{store}");
}

/// Contract: permission, for every call that changes something.
pub async fn only_those_who_may_track(store: &dyn TrackingStore) {
    let id = run(store).await;
    let dataset = DatasetRef { name: "d".into(), digest: Digest::of(b"rows") };
    let e = store.experiment("e").await.unwrap().id;
    let model = store.create_logged_model(&ana(), NewLoggedModel::new(e, "m")).await.unwrap().id;
    let before = (store.run(id).await.unwrap(), store.logged_model(model).await.unwrap());
    let artifact = crate::Artifact::new("a", Digest::of(b"a"), 1);
    for role in [Role::Viewer, Role::Reviewer, Role::Deployer] {
        let eve = who("eve", role);
        let denied = [
            store.create_experiment(&eve, NewExperiment::new("f")).await.map(drop),
            store.start_run(&eve, NewRun::new("e")).await.map(drop),
            store.log_batch(&eve, id, LogBatch::new().param("p", 1)).await,
            store.log_artifact(&eve, id, "a", Digest::of(b"a"), 1).await,
            store.log_input(&eve, id, dataset.clone(), "training").await,
            store.finish_run(&eve, id, RunStatus::Killed).await.map(drop),
            store.edit_experiment(&eve, "e", ExperimentEdit::new().rename("f")).await.map(drop),
            store.delete_experiment(&eve, "e").await.map(drop),
            store.restore_experiment(&eve, "e").await.map(drop),
            store.edit_run(&eve, id, RunEdit::new().rename("s")).await.map(drop),
            store.delete_run(&eve, id).await.map(drop),
            store.restore_run(&eve, id).await.map(drop),
            store.log_models(&eve, id, vec![RunModel::output(model, 0)]).await,
            store.put_artifact(&eve, id.into(), artifact.clone(), ArtifactMode::Overwrite).await,
            store.remove_artifact(&eve, id.into(), "a").await,
            store.create_logged_model(&eve, NewLoggedModel::new(e, "n")).await.map(drop),
            store.finish_logged_model(&eve, model, LoggedModelStatus::Ready).await.map(drop),
            store.edit_logged_model(&eve, model, LoggedModelEdit::new().set_tag("k", "v")).await.map(drop),
            store.delete_logged_model(&eve, model).await.map(drop),
            store.put_artifact(&eve, model.into(), artifact.clone(), ArtifactMode::Create).await,
            store.remove_artifact(&eve, model.into(), "a").await,
        ];
        for result in denied {
            assert!(matches!(result, Err(Error::Core(CoreError::PermissionDenied { .. }))), "{store}: {result:?}");
        }
        let restored = store.restore_logged_model(&eve, model).await;
        if lacks(store, Limit::DeletedLoggedModels) {
            refused(Limit::DeletedLoggedModels, restored);
        } else {
            assert!(matches!(restored, Err(Error::Core(CoreError::PermissionDenied { .. }))), "{store}: {restored:?}");
        }
    }
    let after = (store.run(id).await.unwrap(), store.logged_model(model).await.unwrap());
    assert_eq!(after, before, "{store}");
}

/// Names and texts that cannot be kept are refused, with a short message.
pub async fn bad_input_is_refused(store: &dyn TrackingStore) {
    let id = run(store).await;
    let huge = "x".repeat(1 << 20);
    let invalid = [
        store.create_experiment(&ana(), NewExperiment::new("")).await.map(drop),
        store.create_experiment(&ana(), NewExperiment::new(&huge)).await.map(drop),
        store.create_experiment(&who("", Role::Admin), NewExperiment::new("f")).await.map(drop),
        store.start_run(&ana(), NewRun::new("e").name(&huge)).await.map(drop),
        store.log_batch(&ana(), id, LogBatch::new().param("", 1)).await,
        store.log_batch(&ana(), id, LogBatch::new().param("p", &huge)).await,
        store.log_batch(&ana(), id, LogBatch::new().tag("t", "a\0b")).await,
        store.log_batch(&ana(), id, LogBatch::new().metric(&huge, 1.0, 0, at(0))).await,
        store.log_artifact(&ana(), id, "../a", Digest::of(b"a"), 1).await,
        store.newest_runs("e", 0).await.map(drop),
        store.metric_page(id, "m", 0, None).await.map(drop),
        store.metric_page(id, "m", 1, Some("no token")).await.map(drop),
        store.edit_experiment(&ana(), "e", ExperimentEdit::new().rename("")).await.map(drop),
        store.edit_run(&ana(), id, RunEdit::new().rename(&huge)).await.map(drop),
        store.log_inputs(&ana(), id, vec![crate::RunInput::new("", "d", "c")]).await,
        store.log_inputs(&ana(), id, vec![crate::RunInput::new("d", "", "c")]).await,
    ];
    for (i, result) in invalid.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: case {i}: {error}");
        assert!(error.to_string().len() < 300, "{store}: case {i}: {error}");
    }
}

/// Batches that are logged at the same time are all there afterwards.
pub async fn concurrent_batches_all_arrive(store: &dyn TrackingStore) {
    let id = run(store).await;
    let ana = ana();
    let log = |i: i64| {
        let batch = LogBatch::new().metric("m", i as f64, i, at(i)).param(format!("p{i}"), i);
        store.log_batch(&ana, id, batch)
    };
    for result in join_all((0..20).map(log)).await {
        result.unwrap();
    }
    let run = store.run(id).await.unwrap();
    assert_eq!((run.params.len(), run.metric("m")), (20, Some(19.0)), "{store}");
    assert_eq!(store.metric_history(id, "m").await.unwrap().len(), 20, "{store}");
}
