use mlops_core::{DatasetRef, Digest, Error as CoreError, ExperimentId};

use super::{ana, at, lacks, refused, run};
use crate::{
    Error, ExperimentEdit, Limit, LogBatch, Metric, MetricDataset, NewExperiment, NewRun, RunEdit, RunInput, RunStatus,
    TrackingStore,
};

/// An experiment is the same by its name and by its id.
pub async fn experiments_are_found_by_id(store: &dyn TrackingStore) {
    let new = NewExperiment::new("e").artifact_location("s3://bucket/e");
    let e = match store.create_experiment(&ana(), new.clone()).await {
        // Where places are the system's own, it may take none.
        Err(Error::Core(CoreError::InvalidInput { .. })) if lacks(store, Limit::OwnUris) => return,
        made => made.unwrap(),
    };
    assert_eq!((e.artifacts(), e.updated_at), ("s3://bucket/e".to_owned(), e.created_at), "{store}");
    assert_eq!(store.experiment_by_id(e.id).await.unwrap(), e, "{store}");
    let error = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: another location: {error}");
    let f = store.create_experiment(&ana(), NewExperiment::new("f")).await.unwrap();
    if lacks(store, Limit::OwnUris) {
        assert!(f.artifacts().starts_with("mlflow-artifacts:/"), "{store}: {f:?}");
        let uri = store.start_run(&ana(), NewRun::new("e")).await.unwrap().artifact_uri;
        assert!(uri.starts_with("s3://bucket/e/") && uri.ends_with("/artifacts"), "{store}: {uri}");
        return;
    }
    assert_eq!((f.artifact_location.clone(), f.artifacts()), (None, format!("mlflow-artifacts:/{}", f.id)), "{store}");
    assert_ne!(f.id, ExperimentId::derived(at(0), b""), "{store}");
    let run = store.start_run(&ana(), NewRun::new("e")).await.unwrap();
    assert_eq!(run.artifact_uri, format!("s3://bucket/e/{}/artifacts", run.id()), "{store}");
}

/// An experiment takes a new name and tags; its runs go with it, and the old name is free.
pub async fn experiments_are_renamed_and_tagged(store: &dyn TrackingStore) {
    let id = run(store).await;
    let before = store.experiment("e").await.unwrap();
    let edit = ExperimentEdit::new().rename("f").set_tag("a", "1").set_tag("b", "2");
    let edited = store.edit_experiment(&ana(), "e", edit).await.unwrap();
    assert_eq!((edited.id, &*edited.name, edited.tags.len()), (before.id, "f", 2), "{store}");
    assert!(edited.updated_at >= before.updated_at && edited.created_at == before.created_at, "{store}");
    assert_eq!(store.experiment_by_id(before.id).await.unwrap(), edited, "{store}");
    assert!(store.experiment("e").await.unwrap_err().is_not_found(), "{store}");
    let info = store.run(id).await.unwrap().info;
    assert_eq!((&*info.experiment, info.experiment_id), ("f", before.id), "{store}");
    let edit = ExperimentEdit::new().remove_tag("a").remove_tag("never there").set_tag("b", "3");
    let edited = store.edit_experiment(&ana(), "f", edit.clone()).await.unwrap();
    assert_eq!(edited.tags, [("b".to_owned(), "3".to_owned())].into(), "{store}");
    assert_eq!(store.edit_experiment(&ana(), "f", edit).await.unwrap(), edited, "{store}: again");
    let other = store.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    assert_ne!(other.id, before.id, "{store}");
    let error = store.edit_experiment(&ana(), "e", ExperimentEdit::new().rename("f")).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
    store.start_run(&ana(), NewRun::new("e")).await.unwrap();
    assert_eq!(super::newest(store, "f", 9).await.len(), 1, "{store}");
}

/// A run may be told of later, with the time it started at.
pub async fn a_run_may_have_started_before(store: &dyn TrackingStore) {
    let now = store.run(run(store).await).await.unwrap();
    let past = store.start_run(&ana(), NewRun::new("e").started_at(at(7))).await.unwrap();
    assert_eq!(past.info.started_at, at(7), "{store}");
    let order: Vec<_> = super::newest(store, "e", 9).await.iter().map(crate::Run::id).collect();
    assert_eq!(order, [now.id(), past.id()], "{store}");
}

/// `edit_run` renames, ends, takes an end back, removes tags; the same again changes nothing.
pub async fn runs_are_edited(store: &dyn TrackingStore) {
    let id = run(store).await;
    store.log_batch(&ana(), id, LogBatch::new().tag("a", "1").tag("b", "2")).await.unwrap();
    let edit = async |edit: RunEdit| {
        let edited = store.edit_run(&ana(), id, edit.clone()).await.unwrap();
        assert_eq!(store.edit_run(&ana(), id, edit).await.unwrap(), edited, "{store}: again");
        assert_eq!(store.run(id).await.unwrap(), edited, "{store}");
        edited
    };
    let run = edit(RunEdit::new().rename("other").remove_tag("a").remove_tag("never there")).await;
    assert_eq!((&*run.info.name, run.tags.len(), run.info.status), ("other", 1, RunStatus::Running), "{store}");
    let run = edit(RunEdit::new().status(RunStatus::Failed).ended_at(at(99))).await;
    assert_eq!((run.info.status, run.info.ended_at), (RunStatus::Failed, Some(at(99))), "{store}");
    let run = edit(RunEdit::new().status(RunStatus::Running)).await;
    assert_eq!((run.info.status, run.info.ended_at), (RunStatus::Running, None), "{store}");
    let run = edit(RunEdit::new().status(RunStatus::Finished)).await;
    assert!(run.info.ended_at >= Some(run.info.started_at), "{store}");
    let run = edit(RunEdit::new().status(RunStatus::Scheduled).ended_at(at(1))).await;
    assert_eq!(run.info.ended_at, None, "{store}: it has not ended");
}

/// What another tool knows of a dataset is kept as it is, and by name, digest and context what was said first.
pub async fn inputs_of_other_tools_are_kept(store: &dyn TrackingStore) {
    let id = run(store).await;
    let foreign = RunInput::new("wine", "5a3f", "eval")
        .source("http", r#"{"url": "http://x"}"#)
        .schema("{}")
        .profile("[1]")
        .tag("k", "v");
    let own = RunInput::of(&DatasetRef { name: "wine".into(), digest: Digest::of(b"rows") }, "training");
    let mut both = vec![foreign.clone(), own.clone()];
    store.log_inputs(&ana(), id, both.clone()).await.unwrap();
    store.log_inputs(&ana(), id, vec![RunInput::new("wine", "5a3f", "eval").source("s3", "b")]).await.unwrap();
    both.sort();
    assert_eq!(store.run(id).await.unwrap().inputs, both, "{store}");
    let other = store.log_inputs(&ana(), id, vec![RunInput::new("wine", "5a3f", "test")]).await;
    if lacks(store, Limit::InputContexts) {
        return refused(Limit::InputContexts, other);
    }
    other.unwrap();
    assert_eq!(store.run(id).await.unwrap().inputs.len(), 3, "{store}: another context is another input");
}

/// A metric's history comes in pages without gap or overlap, NaN and models and datasets included.
pub async fn metrics_come_in_pages(store: &dyn TrackingStore) {
    let id = run(store).await;
    let dataset = MetricDataset::new("d", "1");
    let mut batch = LogBatch::new().metric("other", 1.0, 0, at(0));
    for (step, second, value) in [
        (0, 0, f64::NAN),
        (0, 0, -1.0),
        (0, 0, f64::INFINITY),
        (0, 1, 0.0),
        (-3, 9, 2.0),
        (5, 0, f64::NAN),
        (5, 0, 1.0),
    ] {
        batch = batch.point(Metric::new("m", value, step, at(second)).on(dataset.clone()));
    }
    store.log_batch(&ana(), id, batch).await.unwrap();
    let all = store.metric_history(id, "m").await.unwrap();
    let origin = (!lacks(store, Limit::MetricOrigin)).then_some(&dataset);
    assert!(all.len() == 7 && all.iter().all(|m| m.dataset.as_ref() == origin), "{store}");
    for limit in 1..=8 {
        let (mut paged, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = store.metric_page(id, "m", limit, token.as_deref()).await.unwrap();
            assert!(page.items.len() <= limit, "{store}");
            paged.extend(page.items);
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        let [mut paged, mut whole] =
            [&paged, &all].map(|points| points.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>());
        if lacks(store, Limit::MetricOrigin) {
            paged.sort();
            whole.sort();
        }
        assert_eq!(paged, whole, "{store}: pages of {limit}");
    }
    let token = store.metric_page(id, "m", 1, None).await.unwrap().next.unwrap();
    let error = store.metric_page(id, "other", 1, Some(&token)).await.unwrap_err();
    assert!(error.to_string().starts_with("invalid page token"), "{store}: {error}");
}
