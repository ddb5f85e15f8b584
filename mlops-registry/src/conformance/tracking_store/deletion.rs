use mlops_core::{Digest, Error as CoreError, ExperimentId};

use super::{ana, lacks, newest, run};
use crate::{
    ArtifactMode, Error, ExperimentEdit, LifecycleStage, Limit, LogBatch, Metric, NewExperiment, NewLoggedModel,
    NewRun, RunEdit, RunInput, RunModel, RunStatus, Search, TrackingStore, View,
};

async fn found(store: &dyn TrackingStore, experiment: ExperimentId, view: View) -> usize {
    store.search_runs(&[experiment], Search::default().view(view)).await.unwrap().items.len()
}

/// A deleted experiment is still found by name and id, says that it is deleted, takes no changes and keeps its name taken.
pub async fn a_deleted_experiment_keeps_its_name(store: &dyn TrackingStore) {
    let e = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    let deleted = store.delete_experiment(&ana(), "e").await.unwrap();
    assert_eq!((deleted.id, deleted.stage), (e.id, LifecycleStage::Deleted), "{store}");
    assert_eq!(store.delete_experiment(&ana(), "e").await.unwrap(), deleted, "{store}: again");
    assert_eq!(store.experiment("e").await.unwrap(), deleted, "{store}");
    assert_eq!(store.experiment_by_id(e.id).await.unwrap(), deleted, "{store}");
    let error = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    assert!(error.to_string().contains("deleted"), "{store}: {error}");
    store.create_experiment(&ana(), NewExperiment::new("f")).await.unwrap();
    let refused = [
        store.edit_experiment(&ana(), "e", ExperimentEdit::new().set_tag("a", "1")).await.map(drop),
        store.start_run(&ana(), NewRun::new("e")).await.map(drop),
        store.create_logged_model(&ana(), NewLoggedModel::new(e.id, "m")).await.map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.is_conflict() && error.to_string().contains("deleted"), "{store}: {error}");
    }
    let restored = store.restore_experiment(&ana(), "e").await.unwrap();
    assert_eq!((restored.stage, restored.id), (LifecycleStage::Active, e.id), "{store}");
    assert_eq!(store.restore_experiment(&ana(), "e").await.unwrap(), restored, "{store}: again");
    store.start_run(&ana(), NewRun::new("e")).await.unwrap();
}

/// With an experiment its runs and logged models go and come back, but for those deleted by themselves.
pub async fn an_experiment_takes_its_runs_along(store: &dyn TrackingStore) {
    let (first, second) = (run(store).await, store.start_run(&ana(), NewRun::new("e")).await.unwrap().id());
    let e = store.experiment("e").await.unwrap().id;
    let model = store.create_logged_model(&ana(), NewLoggedModel::new(e, "m")).await.unwrap().id;
    let other = store.create_experiment(&ana(), NewExperiment::new("other")).await.unwrap().id;
    store.start_run(&ana(), NewRun::new("other")).await.unwrap();
    store.delete_run(&ana(), first).await.unwrap();
    store.delete_experiment(&ana(), "e").await.unwrap();
    for run in [first, second] {
        assert_eq!(store.run(run).await.unwrap().info.stage, LifecycleStage::Deleted, "{store}");
    }
    if !lacks(store, Limit::Cascades) {
        assert_eq!(store.logged_model(model).await.unwrap().stage, LifecycleStage::Deleted, "{store}");
    }
    let views = [View::Active, View::Deleted, View::All];
    for (view, runs) in views.into_iter().zip([0, 2, 2]) {
        assert_eq!(found(store, e, view).await, runs, "{store}: {view:?}");
    }
    let both = store.search_runs(&[e, other], Search::default().view(View::All)).await.unwrap().items;
    assert_eq!(both.len(), 3, "{store}");
    let deleted = store.search_runs(&[e, other], Search::default().view(View::Deleted)).await.unwrap().items;
    assert_eq!(deleted.len(), 2, "{store}");
    let error = store.log_batch(&ana(), second, LogBatch::new().param("p", 1)).await.unwrap_err();
    assert!(error.is_conflict(), "{store}: {error}");
    store.restore_experiment(&ana(), "e").await.unwrap();
    if lacks(store, Limit::Cascades) {
        assert_eq!(store.run(second).await.unwrap().info.stage, LifecycleStage::Active, "{store}");
        return;
    }
    assert_eq!(store.run(first).await.unwrap().info.stage, LifecycleStage::Deleted, "{store}");
    assert_eq!(newest(store, "e", 9).await.iter().map(crate::Run::id).collect::<Vec<_>>(), [second], "{store}");
    assert_eq!(store.logged_model(model).await.unwrap().stage, LifecycleStage::Active, "{store}");
    for (view, runs) in views.into_iter().zip([1, 1, 2]) {
        assert_eq!(found(store, e, view).await, runs, "{store}: {view:?}");
    }
}

/// What is deleted is there to be read, takes no changes, and comes back whole.
pub async fn deleted_runs_take_no_changes(store: &dyn TrackingStore) {
    let id = run(store).await;
    let e = store.experiment("e").await.unwrap().id;
    let model = store.create_logged_model(&ana(), NewLoggedModel::new(e, "m")).await.unwrap().id;
    store.log_batch(&ana(), id, LogBatch::new().param("p", 1)).await.unwrap();
    let before = store.run(id).await.unwrap();
    let deleted = store.delete_run(&ana(), id).await.unwrap();
    assert_eq!((deleted.info.stage, &deleted.params), (LifecycleStage::Deleted, &before.params), "{store}");
    assert_eq!(store.delete_run(&ana(), id).await.unwrap(), deleted, "{store}: again");
    let artifact = crate::Artifact::new("a", Digest::of(b"a"), 1);
    let refused = [
        store.log_batch(&ana(), id, LogBatch::new()).await,
        store.log_inputs(&ana(), id, vec![RunInput::new("d", "1", "")]).await,
        store.log_models(&ana(), id, vec![RunModel::input(model)]).await,
        store.put_artifact(&ana(), id.into(), artifact, ArtifactMode::Create).await,
        store.remove_artifact(&ana(), id.into(), "a").await,
        store.finish_run(&ana(), id, RunStatus::Finished).await.map(drop),
        store.edit_run(&ana(), id, RunEdit::new().rename("x")).await.map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.is_conflict(), "{store}: {error}");
    }
    assert_eq!(store.restore_run(&ana(), id).await.unwrap(), before, "{store}");
    assert_eq!(store.restore_run(&ana(), id).await.unwrap(), before, "{store}: again");
    store.delete_logged_model(&ana(), model).await.unwrap();
    let point = Metric::new("m", 1.0, 0, super::at(0)).of(model);
    let error = store.log_batch(&ana(), id, LogBatch::new().point(point)).await.unwrap_err();
    let gone = lacks(store, Limit::DeletedLoggedModels) && error.is_not_found();
    assert!(error.is_conflict() || gone, "{store}: {error}");
}
