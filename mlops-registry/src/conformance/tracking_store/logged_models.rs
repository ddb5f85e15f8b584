use mlops_core::{Error as CoreError, ExperimentId};

use super::{ana, at, lacks, refused, run};
use crate::{
    Error, LifecycleStage, Limit, LogBatch, LoggedModel, LoggedModelEdit, LoggedModelId, LoggedModelStatus, Metric,
    MetricDataset, NewLoggedModel, NewRun, RunModel, TrackingStore,
};

async fn experiment(store: &dyn TrackingStore) -> ExperimentId {
    store.experiment("e").await.unwrap().id
}

async fn model(store: &dyn TrackingStore, name: &str) -> LoggedModel {
    let new = NewLoggedModel::new(experiment(store).await, name);
    store.create_logged_model(&ana(), new).await.unwrap()
}

/// A logged model of the same id and contents is the same, as it is now; other contents are refused.
pub async fn logged_models_are_idempotent_by_id(store: &dyn TrackingStore) {
    let source = run(store).await;
    let (e, id) = (experiment(store).await, LoggedModelId::derived(at(1), b"week 1"));
    let new =
        NewLoggedModel::new(e, "mlp").id(id).model_type("agent").source_run(source).param("lr", 0.1).tag("k", "v");
    if lacks(store, Limit::ChosenIds) {
        refused(Limit::ChosenIds, store.create_logged_model(&ana(), new.clone()).await);
        let mut unnamed = new;
        unnamed.id = None;
        let made = store.create_logged_model(&ana(), unnamed).await.unwrap();
        assert_eq!((&*made.author, &*made.params["lr"], &*made.tags["k"]), ("ana", "0.1", "v"), "{store}");
        assert_eq!((made.source_run, made.model_type.as_deref()), (Some(source), Some("agent")), "{store}");
        assert_ne!(model(store, "mlp").await.id, made.id, "{store}: a name need not be unique");
        return;
    }
    let first = store.create_logged_model(&ana(), new.clone()).await.unwrap();
    assert_eq!(
        (first.id, first.status, first.stage),
        (id, LoggedModelStatus::Pending, LifecycleStage::Active),
        "{store}"
    );
    assert_eq!((first.experiment, first.source_run, &*first.author), (e, Some(source), "ana"), "{store}");
    assert_eq!(
        (first.model_type.as_deref(), &*first.params["lr"], &*first.tags["k"]),
        (Some("agent"), "0.1", "v"),
        "{store}"
    );
    let edit = LoggedModelEdit::new().set_tag("k", "w");
    let edited = store.edit_logged_model(&ana(), id, edit).await.unwrap();
    assert_eq!(store.create_logged_model(&ana(), new.clone()).await.unwrap(), edited, "{store}");
    for other in [new.clone().param("lr", 0.2), new.clone().tag("k", "w"), NewLoggedModel::new(e, "x").id(id)] {
        let error = store.create_logged_model(&ana(), other).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    }
    let unnamed = [model(store, "mlp").await.id, model(store, "mlp").await.id];
    assert!(unnamed[0] != unnamed[1] && unnamed[0] != id, "{store}: a name need not be unique");
}

/// It is finished, tags take the last value, params keep the first.
pub async fn logged_models_are_finished_and_edited(store: &dyn TrackingStore) {
    run(store).await;
    let id = model(store, "mlp").await.id;
    let error = store.finish_logged_model(&ana(), id, LoggedModelStatus::Pending).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{store}: {error}");
    for status in [LoggedModelStatus::UploadFailed, LoggedModelStatus::Ready] {
        let finished = store.finish_logged_model(&ana(), id, status).await.unwrap();
        assert_eq!(finished.status, status, "{store}");
        assert_eq!(store.finish_logged_model(&ana(), id, status).await.unwrap(), finished, "{store}: again");
    }
    let edit = LoggedModelEdit::new().set_tag("a", "1").set_tag("b", "2").param("p", 1);
    let edited = store.edit_logged_model(&ana(), id, edit.clone()).await.unwrap();
    assert_eq!(store.edit_logged_model(&ana(), id, edit).await.unwrap(), edited, "{store}: again");
    let edit = LoggedModelEdit::new().set_tag("a", "3").remove_tag("b").remove_tag("never there").param("q", 2);
    let edited = store.edit_logged_model(&ana(), id, edit).await.unwrap();
    assert_eq!((edited.tags.len(), &*edited.tags["a"], edited.params.len()), (1, "3", 2), "{store}");
    assert!(edited.updated_at >= edited.created_at, "{store}");
    let edit = LoggedModelEdit::new().set_tag("a", "4").param("p", 5);
    let error = store.edit_logged_model(&ana(), id, edit).await.unwrap_err();
    assert!(matches!(&error, Error::ParamChanged { key, .. } if key == "p"), "{store}: {error}");
    assert!(error.to_string().contains(&id.to_string()), "{store}: {error}");
    assert_eq!(store.logged_model(id).await.unwrap(), edited, "{store}: a refused edit leaves nothing");
}

/// A metric that is logged of a model is kept on it too: the latest point of each run and dataset.
pub async fn logged_models_keep_what_runs_measured(store: &dyn TrackingStore) {
    let first = run(store).await;
    let second = store.start_run(&ana(), NewRun::new("e")).await.unwrap().id();
    let (one, other) = (model(store, "one").await.id, model(store, "other").await.id);
    let (test, eval) = (MetricDataset::new("test", "1"), MetricDataset::new("eval", "2"));
    let point = |value, step| Metric::new("acc", value, step, at(step)).of(one);
    let batch = LogBatch::new()
        .point(point(0.5, 2).on(test.clone()))
        .point(point(0.4, 1).on(test.clone()))
        .point(Metric::new("acc", f64::NAN, 1, at(7)).of(one).on(eval.clone()))
        .point(point(0.3, 0))
        .point(Metric::new("acc", 0.9, 9, at(9)).of(other))
        .metric("acc", 0.1, 10, at(10));
    for _ in 0..if lacks(store, Limit::MetricOrigin) { 1 } else { 2 } {
        store.log_batch(&ana(), first, batch.clone()).await.unwrap();
    }
    let older = Metric::new("acc", 0.45, 1, at(8)).of(one).on(test.clone());
    store.log_batch(&ana(), first, LogBatch::new().point(older)).await.unwrap();
    store.log_batch(&ana(), second, LogBatch::new().point(point(0.6, 3).on(test.clone()))).await.unwrap();
    let found = store.logged_model(one).await.unwrap();
    let shown = |m: &crate::ModelMetric| {
        let dataset = m.metric.dataset.as_ref().map(|d| d.name.clone()).unwrap_or_default();
        (m.run, dataset, m.metric.value.to_string(), m.metric.step)
    };
    let mut metrics: Vec<_> = found.metrics.iter().map(shown).collect();
    if lacks(store, Limit::MetricExtremes) {
        metrics.iter_mut().filter(|m| m.1 == "eval" && m.2 == "0").for_each(|m| m.2 = "NaN".to_owned());
    }
    metrics.sort();
    let mut expected = vec![
        (first, String::new(), "0.3".to_owned(), 0),
        (first, "eval".to_owned(), "NaN".to_owned(), 1),
        (first, "test".to_owned(), "0.5".to_owned(), 2),
        (second, "test".to_owned(), "0.6".to_owned(), 3),
    ];
    expected.sort();
    assert_eq!(metrics, expected, "{store}");
    assert!(found.metrics.iter().all(|m| m.metric.model == Some(one)), "{store}");
    assert_eq!(found.metric("acc", None).unwrap().metric.value, 0.6, "{store}");
    // The run has all of them, and says of which model and dataset.
    let history = store.metric_history(first, "acc").await.unwrap();
    assert_eq!(history.len(), 7, "{store}");
    let of_two = history.iter().find(|m| m.step == 2).unwrap();
    let origin = if lacks(store, Limit::MetricOrigin) { (None, None) } else { (Some(one), Some(&test)) };
    assert_eq!((of_two.model, of_two.dataset.as_ref()), origin, "{store}");
    assert_eq!(store.run(first).await.unwrap().metrics["acc"].model, None, "{store}: the latest has no model");
}

/// A run says which models it read and made, and at which step; told again, the first step stays.
pub async fn runs_know_their_models(store: &dyn TrackingStore) {
    let id = run(store).await;
    let (a, b) = (model(store, "a").await.id, model(store, "b").await.id);
    let mut links = vec![RunModel::output(b, 7), RunModel::input(a), RunModel::output(a, 3)];
    store.log_models(&ana(), id, links.clone()).await.unwrap();
    store.log_models(&ana(), id, vec![RunModel::output(b, 8)]).await.unwrap();
    links.sort();
    assert_eq!(store.run(id).await.unwrap().models, links, "{store}");
}

/// A deleted model is hidden, takes no changes, and comes back.
pub async fn logged_models_are_deleted_and_restored(store: &dyn TrackingStore) {
    run(store).await;
    let id = model(store, "m").await.id;
    let deleted = store.delete_logged_model(&ana(), id).await.unwrap();
    assert_eq!(deleted.stage, LifecycleStage::Deleted, "{store}");
    if lacks(store, Limit::DeletedLoggedModels) {
        assert!(store.logged_model(id).await.unwrap_err().is_not_found(), "{store}");
        assert!(store.delete_logged_model(&ana(), id).await.unwrap_err().is_not_found(), "{store}: again");
        let late = store.edit_logged_model(&ana(), id, LoggedModelEdit::new()).await.unwrap_err();
        assert!(late.is_not_found(), "{store}: {late}");
        return refused(Limit::DeletedLoggedModels, store.restore_logged_model(&ana(), id).await);
    }
    assert_eq!(store.delete_logged_model(&ana(), id).await.unwrap(), deleted, "{store}: again");
    assert_eq!(store.logged_model(id).await.unwrap(), deleted, "{store}");
    let conflicts = [
        store.finish_logged_model(&ana(), id, LoggedModelStatus::Ready).await.map(drop),
        store.edit_logged_model(&ana(), id, LoggedModelEdit::new()).await.map(drop),
    ];
    for error in conflicts.map(Result::unwrap_err) {
        assert!(error.is_conflict(), "{store}: {error}");
    }
    let restored = store.restore_logged_model(&ana(), id).await.unwrap();
    assert_eq!(restored.stage, LifecycleStage::Active, "{store}");
    store.finish_logged_model(&ana(), id, LoggedModelStatus::Ready).await.unwrap();
}
