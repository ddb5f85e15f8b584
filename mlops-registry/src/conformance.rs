//! Conformance suites: one function per sentence of a contract, runnable on any backend, this crate's or yours.
//!
//! Each macro makes a module of named tests. Its second argument is evaluated for each test, may `.await`, and gives a
//! fresh, empty backend with something to keep alive beside it (a temporary directory, or `()`). The backend must use
//! the built-in [`RoleTable`](mlops_core::RoleTable).
//!
//! ```
//! use mlops_core::store::MemoryStore;
//! use mlops_registry::SqlRegistry;
//! # use std::sync::Arc;
//! mlops_registry::tracking_store_conformance!(tracking, {
//!     (SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await.unwrap(), ())
//! });
//! // A registry comes with the artifact store that it finds packages in.
//! mlops_registry::model_registry_conformance!(registry, {
//!     let store = MemoryStore::default();
//!     let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await.unwrap();
//!     (registry, store, ())
//! });
//! # fn main() {}
//! ```
//!
//! The crate that uses a macro needs `tokio` with its `macros` and `rt` features. A failed check panics, as a test does.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // these functions are tests: panicking is how they report

use std::time::Duration;

use futures::future::join_all;
use mlops_core::clock::from_micros;
use mlops_core::signature::{ColumnSpec, ColumnType};
use mlops_core::{
    ArtifactStore, Clock as _, DatasetRef, Digest, Error as CoreError, Finding, Measurement, Package, Principal,
    PromotionId, Role, RunId, Signature, SystemClock, Timestamp, Verdict,
};

use crate::{
    AliasPolicy, Error, EventKind, EvidenceRule, LogBatch, ModelRegistry, NewExperiment, NewModel, NewPromotion,
    NewRun, NewVersion, PromotionKind, PromotionState, RunStatus, TrackingStore,
};

fn who(name: &str, role: Role) -> Principal {
    Principal::new(name).with_role(role)
}

/// Tests of [`TrackingStore`]'s contract: `tracking_store_conformance!(name, (store, keep_alive))`.
/// Attributes before the name go to each test: `#[ignore = "needs a server"]`.
#[macro_export]
macro_rules! tracking_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::tracking_store_conformance!(@ [$(#[$attribute])*] $suite, $fresh;
            experiments_are_idempotent_by_name, runs_are_idempotent_by_id, what_was_logged_is_there,
            params_keep_their_first_value, a_refused_batch_leaves_nothing, tags_take_the_last_value,
            metrics_keep_nan_and_infinity, the_latest_metric_is_by_step_time_value, repeated_points_are_one,
            inputs_and_artifacts_are_idempotent, runs_end_once, runs_are_listed_newest_first,
            missing_things_are_not_found, only_those_who_may_track, bad_input_is_refused,
            concurrent_batches_all_arrive);
    };
    (@ $attributes:tt $suite:ident, $fresh:expr; $($case:ident),+ $(,)?) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $($crate::tracking_store_conformance!(@@ $attributes $case, $fresh);)+
        }
    };
    (@@ [$(#[$attribute:meta])*] $case:ident, $fresh:expr) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $case() {
            let (fresh, _alive) = $fresh;
            $crate::conformance::tracking_store::$case(&fresh).await;
        }
    };
}

/// The cases of [`tracking_store_conformance!`](crate::tracking_store_conformance).
pub mod tracking_store {
    use super::*;

    fn ana() -> Principal {
        who("ana", Role::Contributor)
    }

    fn at(seconds: i64) -> Timestamp {
        from_micros(seconds * 1_000_000)
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
        assert_eq!(store.runs("e", 10, None).await.unwrap().len(), 1, "{store}");
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
        assert_eq!((&run.inputs[0].dataset, run.inputs[0].context.as_str()), (&dataset, "training"), "{store}");
        let artifact = &run.artifacts[0];
        assert_eq!((artifact.path.as_str(), artifact.bytes), ("plots/roc.svg", 3), "{store}");
        assert_eq!(store.runs("e", 10, None).await.unwrap().into_iter().find(|r| r.id() == id), Some(run), "{store}");
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
            assert!(point.value.is_nan() && value.is_nan() || point.value == value, "{store}: {point} from {value}");
        }
    }

    /// Contract: the latest is the greatest by step, then time, then value, with NaN below every number, however the
    /// points came.
    pub async fn the_latest_metric_is_by_step_time_value(store: &dyn TrackingStore) {
        let id = run(store).await;
        // Each point beats the one before it.
        let ladder = [
            (f64::INFINITY, -1, 9),
            (f64::NAN, 0, 1),
            (f64::NEG_INFINITY, 0, 1),
            (-3.0, 0, 1),
            (5.0, 0, 1),
            (f64::NAN, 0, 2),
            (1.0, 0, 2),
            (0.5, 2, 0),
        ];
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
        let batch =
            LogBatch::new().metric("m", 1.0, 0, at(0)).metric("m", f64::NAN, 0, at(0)).metric("m", 1.0, 0, at(1));
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
        store.log_input(&ana(), id, dataset, "validation").await.unwrap();
        let error = store.log_artifact(&ana(), id, "a", Digest::of(b"2"), 1).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{store}: {error}");
        let run = store.run(id).await.unwrap();
        assert_eq!((run.inputs.len(), run.artifacts.len()), (2, 1), "{store}");
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
        let all = store.runs("e", 1_000, None).await.unwrap();
        assert_eq!(all.len(), 7, "{store}");
        assert!(all.is_sorted_by(|a, b| a.info.started_at >= b.info.started_at), "{store}");
        let mut paged = Vec::new();
        loop {
            let page = store.runs("e", 3, paged.last().map(crate::Run::id)).await.unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all, "{store}");
    }

    /// Contract: missing experiments and runs are `NotFound`, by name.
    pub async fn missing_things_are_not_found(store: &dyn TrackingStore) {
        let none = RunId::derived(at(0), b"none");
        let text = none.to_string();
        let errors = [
            (store.experiment("nowhere").await.unwrap_err(), "nowhere"),
            (store.runs("nowhere", 1, None).await.unwrap_err(), "nowhere"),
            (store.start_run(&ana(), NewRun::new("nowhere")).await.unwrap_err(), "nowhere"),
            (store.run(none).await.unwrap_err(), &text),
            (store.metric_history(none, "m").await.unwrap_err(), &text),
            (store.log_batch(&ana(), none, LogBatch::new()).await.unwrap_err(), &text),
            (store.finish_run(&ana(), none, RunStatus::Failed).await.unwrap_err(), &text),
        ];
        for (error, name) in errors {
            assert!(error.is_not_found() && error.to_string().contains(name), "{store}: {error}");
        }
        let id = run(store).await;
        assert!(store.metric_history(id, "nothing").await.unwrap().is_empty(), "{store}");
        assert!(store.start_run(&ana(), NewRun::new("e").parent(none)).await.unwrap_err().is_not_found(), "{store}");
    }

    /// Contract: permission, for every call that changes something.
    pub async fn only_those_who_may_track(store: &dyn TrackingStore) {
        let id = run(store).await;
        let dataset = DatasetRef { name: "d".into(), digest: Digest::of(b"rows") };
        for role in [Role::Viewer, Role::Reviewer, Role::Deployer] {
            let eve = who("eve", role);
            let refused = [
                store.create_experiment(&eve, NewExperiment::new("f")).await.map(drop),
                store.start_run(&eve, NewRun::new("e")).await.map(drop),
                store.log_batch(&eve, id, LogBatch::new().param("p", 1)).await,
                store.log_artifact(&eve, id, "a", Digest::of(b"a"), 1).await,
                store.log_input(&eve, id, dataset.clone(), "training").await,
                store.finish_run(&eve, id, RunStatus::Killed).await.map(drop),
            ];
            for result in refused {
                assert!(matches!(result, Err(Error::Core(CoreError::PermissionDenied { .. }))), "{store}: {result:?}");
            }
        }
        let run = store.run(id).await.unwrap();
        let nothing = run.params.is_empty() && run.inputs.is_empty() && run.artifacts.is_empty();
        assert!(nothing && run.info.status == RunStatus::Running, "{store}: {run}");
    }

    /// Names and texts that cannot be kept are refused, with a short message.
    pub async fn bad_input_is_refused(store: &dyn TrackingStore) {
        let id = run(store).await;
        let huge = "x".repeat(1 << 20);
        let refused = [
            store.create_experiment(&ana(), NewExperiment::new("")).await.map(drop),
            store.create_experiment(&ana(), NewExperiment::new(&huge)).await.map(drop),
            store.create_experiment(&who("", Role::Admin), NewExperiment::new("f")).await.map(drop),
            store.start_run(&ana(), NewRun::new("e").name(&huge)).await.map(drop),
            store.log_batch(&ana(), id, LogBatch::new().param("", 1)).await,
            store.log_batch(&ana(), id, LogBatch::new().param("p", &huge)).await,
            store.log_batch(&ana(), id, LogBatch::new().tag("t", "a\0b")).await,
            store.log_batch(&ana(), id, LogBatch::new().metric(&huge, 1.0, 0, at(0))).await,
            store.log_artifact(&ana(), id, "../a", Digest::of(b"a"), 1).await,
            store.runs("e", 0, None).await.map(drop),
        ];
        for (i, result) in refused.into_iter().enumerate() {
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
}

/// Tests of [`ModelRegistry`]'s contract: `model_registry_conformance!(name, (registry, artifact_store, keep_alive))`.
/// Attributes before the name go to each test: `#[ignore = "needs a server"]`.
#[macro_export]
macro_rules! model_registry_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::model_registry_conformance!(@ [$(#[$attribute])*] $suite, $fresh;
            models_are_idempotent_by_name, versions_count_from_one, a_repeated_version_is_the_same,
            a_version_needs_its_package, concurrent_versions_leave_no_gap, an_unprotected_alias_moves_on_request,
            a_protected_alias_needs_its_approvals, four_eyes_hold_whatever_the_role, approvals_count_people,
            evidence_must_have_passed, of_two_requests_one_wins, concurrent_promotions_move_once,
            a_rejected_request_keeps_its_reason, decided_is_decided, repeated_calls_change_nothing,
            rollbacks_undo_one_by_one, a_rollback_makes_open_requests_stale, aliases_travel_in_time,
            names_are_checked, missing_things_are_not_found, each_call_needs_its_permission,
            events_tell_every_change, evidence_reads_back);
    };
    (@ $attributes:tt $suite:ident, $fresh:expr; $($case:ident),+ $(,)?) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $($crate::model_registry_conformance!(@@ $attributes $case, $fresh);)+
        }
    };
    (@@ [$(#[$attribute:meta])*] $case:ident, $fresh:expr) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $case() {
            let (fresh, artifacts, _alive) = $fresh;
            $crate::conformance::model_registry::$case(&fresh, &artifacts).await;
        }
    };
}

/// The cases of [`model_registry_conformance!`](crate::model_registry_conformance).
pub mod model_registry {
    use super::*;

    fn ana() -> Principal {
        who("ana", Role::Contributor)
    }
    fn rob() -> Principal {
        who("rob", Role::Reviewer)
    }
    fn dan() -> Principal {
        who("dan", Role::Deployer)
    }
    fn root() -> Principal {
        who("root", Role::Admin)
    }

    /// A package that differs by its seed.
    pub async fn package(store: &dyn ArtifactStore, seed: &str) -> Digest {
        let column = |name: &str| ColumnSpec::new(name, ColumnType::Double);
        let signature = Signature::new([column("x")], [column("y")]).unwrap();
        let package = Package::builder(signature)
            .flavor("test", serde_json::json!({ "seed": seed }))
            .file("weights", seed.as_bytes().to_vec())
            .build()
            .unwrap();
        package.save(store).await.unwrap()
    }

    /// Model `m` with versions 1 to `n`, registered by ana.
    async fn versions(registry: &dyn ModelRegistry, store: &dyn ArtifactStore, n: u64) {
        registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
        for i in 1..=n {
            let package = package(store, &i.to_string()).await;
            let version = registry.create_version(&ana(), NewVersion::new("m", package)).await.unwrap();
            assert_eq!(version.version, i, "{registry}");
        }
    }

    async fn request(registry: &dyn ModelRegistry, version: u64) -> PromotionId {
        let new = NewPromotion::new("m", version, "champion").reason("better");
        registry.request_promotion(&ana(), new).await.unwrap().id
    }

    async fn promote(registry: &dyn ModelRegistry, version: u64) -> PromotionId {
        let id = request(registry, version).await;
        registry.promote(&dan(), id).await.unwrap();
        id
    }

    async fn champion(registry: &dyn ModelRegistry) -> (u64, u64) {
        let alias = registry.alias("m", "champion").await.unwrap();
        (alias.version, alias.revision)
    }

    /// Contract: a model of the same name and contents is the same; other contents are refused.
    pub async fn models_are_idempotent_by_name(registry: &dyn ModelRegistry, _: &dyn ArtifactStore) {
        let new = NewModel::new("m").description("prices").tag("team", "x");
        let first = registry.create_model(&ana(), new.clone()).await.unwrap();
        assert_eq!(registry.create_model(&root(), new).await.unwrap(), first, "{registry}");
        let error = registry.create_model(&ana(), NewModel::new("m")).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
        registry.create_model(&ana(), NewModel::new("a")).await.unwrap();
        let names: Vec<String> = registry.models().await.unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["a", "m"], "{registry}");
    }

    /// Contract: numbers are 1, 2, 3, … per model.
    pub async fn versions_count_from_one(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 3).await;
        registry.create_model(&ana(), NewModel::new("other")).await.unwrap();
        let new = NewVersion::new("other", package(store, "1").await).description("first").tag("k", "v");
        let other = registry.create_version(&ana(), new).await.unwrap();
        assert_eq!((other.version, other.author.as_str(), other.description.as_str()), (1, "ana", "first"));
        assert_eq!(registry.version("other", 1).await.unwrap(), other, "{registry}");
        let numbers: Vec<u64> = registry.versions("m").await.unwrap().iter().map(|v| v.version).collect();
        assert_eq!(numbers, [1, 2, 3], "{registry}");
        assert_eq!(registry.model("m").await.unwrap().latest, 3, "{registry}");
    }

    /// Contract: the same model, package and run is the same version; another run makes another version.
    pub async fn a_repeated_version_is_the_same(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
        let run = |n: u8| RunId::derived(from_micros(0), &[n]);
        let package = package(store, "1").await;
        let new = NewVersion::new("m", package).run(run(1));
        let first = registry.create_version(&ana(), new.clone()).await.unwrap();
        assert_eq!(registry.create_version(&root(), new.clone()).await.unwrap(), first, "{registry}");
        let error = registry.create_version(&ana(), new.description("other")).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
        let second = registry.create_version(&ana(), NewVersion::new("m", package).run(run(2))).await.unwrap();
        let third = registry.create_version(&ana(), NewVersion::new("m", package)).await.unwrap();
        let again = registry.create_version(&ana(), NewVersion::new("m", package)).await.unwrap();
        assert_eq!((second.version, third.version, again.version), (2, 3, 3), "{registry}");
    }

    /// The package is in the artifact store before the row that names it.
    pub async fn a_version_needs_its_package(registry: &dyn ModelRegistry, _: &dyn ArtifactStore) {
        registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
        let error = registry.create_version(&ana(), NewVersion::new("m", Digest::of(b"none"))).await.unwrap_err();
        assert!(error.is_not_found(), "{registry}: {error}");
        assert!(registry.versions("m").await.unwrap().is_empty(), "{registry}");
    }

    /// Contract: without gap or duplicate, whoever registers at the same time.
    pub async fn concurrent_versions_leave_no_gap(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
        let ana = ana();
        let create = async |i: usize| {
            let package = package(store, &(i / 2).to_string()).await; // every package twice
            registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap().version
        };
        let mut numbers = join_all((0..24).map(create)).await;
        numbers.sort_unstable();
        let expected: Vec<u64> = (1..=12).flat_map(|n| [n, n]).collect();
        assert_eq!(numbers, expected, "{registry}");
    }

    /// Contract: an alias without a policy moves on request.
    pub async fn an_unprotected_alias_moves_on_request(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 2).await;
        let first = registry.promotion(promote(registry, 1).await).await.unwrap();
        assert_eq!((first.state, first.from, first.revision), (PromotionState::Promoted, None, Some(1)), "{registry}");
        let second = registry.promotion(promote(registry, 2).await).await.unwrap();
        assert_eq!((second.from, second.seen_revision, second.revision), (Some(1), 1, Some(2)), "{registry}");
        assert_eq!(second.decision.unwrap().by, "dan", "{registry}");
        let alias = registry.alias("m", "champion").await.unwrap();
        assert_eq!((alias.version, alias.revision, alias.promotion), (2, 2, second.id), "{registry}");
        assert_eq!(registry.aliases("m").await.unwrap(), [alias], "{registry}");
        let again = registry.request_promotion(&ana(), NewPromotion::new("m", 2, "champion")).await.unwrap_err();
        assert!(matches!(again, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {again}");
    }

    /// Contract: too few approvals are named, with the roles that may give them; the policy is that of the moment.
    pub async fn a_protected_alias_needs_its_approvals(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let id = request(registry, 1).await;
        assert_eq!(registry.policy("m", "champion").await.unwrap(), AliasPolicy::default(), "{registry}");
        let policy = AliasPolicy::approvals(2);
        registry.set_policy(&root(), "m", "champion", policy).await.unwrap();
        assert_eq!(registry.policy("m", "champion").await.unwrap(), policy, "{registry}");
        registry.approve(&rob(), id, "fine").await.unwrap();
        let error = registry.promote(&dan(), id).await.unwrap_err();
        assert!(matches!(error, Error::ApprovalMissing { found: 1, needed: 2, .. }), "{registry}: {error}");
        assert!(error.to_string().contains("1 missing from a reviewer or admin"), "{registry}: {error}");
        assert!(registry.alias("m", "champion").await.unwrap_err().is_not_found(), "{registry}");
        registry.approve(&who("ria", Role::Reviewer), id, "fine").await.unwrap();
        let done = registry.promote(&dan(), id).await.unwrap();
        let names: Vec<&str> = done.approvals.iter().map(|a| a.by.as_str()).collect();
        assert_eq!(names, ["rob", "ria"], "{registry}");
        assert_eq!(registry.promotion(id).await.unwrap(), done, "{registry}");
    }

    /// Contract: four eyes.
    pub async fn four_eyes_hold_whatever_the_role(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let bob = who("bob", Role::Admin);
        let new = NewPromotion::new("m", 1, "champion");
        let id = registry.request_promotion(&bob, new).await.unwrap().id;
        for (name, expected) in [("ana", "registered that version"), ("bob", "asked for it")] {
            let error = registry.approve(&who(name, Role::Admin), id, "mine").await.unwrap_err();
            assert!(matches!(error, Error::FourEyes { .. }), "{registry}: {error}");
            assert!(error.to_string().contains(expected), "{registry}: {error}");
        }
        assert!(registry.promotion(id).await.unwrap().approvals.is_empty(), "{registry}");
        registry.approve(&root(), id, "").await.unwrap();
    }

    /// Contract: approvals are by different people.
    pub async fn approvals_count_people(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let id = request(registry, 1).await;
        registry.approve(&rob(), id, "yes").await.unwrap();
        assert_eq!(registry.approve(&rob(), id, "yes").await.unwrap().approvals.len(), 1, "{registry}");
        let error = registry.approve(&rob(), id, "yes, yes").await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
        assert_eq!(registry.promotion(id).await.unwrap().approvals.len(), 1, "{registry}");
    }

    /// Contract: lacking evidence is named; `Inconclusive` is no pass.
    pub async fn evidence_must_have_passed(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let policy = AliasPolicy::default().evidence(EvidenceRule::AllPass);
        registry.set_policy(&root(), "m", "champion", policy).await.unwrap();
        let finding = |name: &str, verdict| Finding::new(name, verdict, "");
        let cases = [
            (vec![], "none"),
            (vec![finding("a", Verdict::Pass), finding("slices", Verdict::Fail)], "slices (fail)"),
            (vec![finding("accuracy", Verdict::Inconclusive)], "accuracy (inconclusive)"),
        ];
        for (evidence, expected) in cases {
            let new = NewPromotion::new("m", 1, "champion").evidence(evidence);
            let id = registry.request_promotion(&ana(), new).await.unwrap().id;
            let error = registry.promote(&dan(), id).await.unwrap_err();
            assert!(matches!(error, Error::EvidenceMissing { .. }), "{registry}: {error}");
            assert!(error.to_string().contains(expected), "{registry}: {error}");
        }
        let new = NewPromotion::new("m", 1, "champion").evidence([finding("a", Verdict::Pass)]);
        let id = registry.request_promotion(&ana(), new).await.unwrap().id;
        registry.promote(&dan(), id).await.unwrap();
    }

    /// Contract: of two requests on one revision, at most one is carried out.
    pub async fn of_two_requests_one_wins(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 3).await;
        let (early, late) = (request(registry, 1).await, request(registry, 2).await);
        registry.promote(&dan(), late).await.unwrap();
        let error = registry.promote(&dan(), early).await.unwrap_err();
        assert!(error.is_conflict(), "{registry}: {error}");
        let text = error.to_string();
        assert!(text.contains("expected no alias, found revision 1 (v2)"), "{registry}: {text}");
        let (one, three) = (request(registry, 1).await, request(registry, 3).await);
        registry.promote(&dan(), one).await.unwrap();
        let text = registry.promote(&dan(), three).await.unwrap_err().to_string();
        assert!(text.contains("expected revision 1 (v2), found revision 2 (v1)"), "{registry}: {text}");
        assert_eq!(champion(registry).await, (1, 2), "{registry}");
        assert_eq!(registry.promotion(three).await.unwrap().state, PromotionState::Requested, "{registry}");
    }

    /// The same, at the same time.
    pub async fn concurrent_promotions_move_once(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 8).await;
        let mut ids = Vec::new();
        for version in 1..=8 {
            ids.push(request(registry, version).await);
        }
        let dan = dan();
        let results = join_all(ids.into_iter().map(|id| registry.promote(&dan, id))).await;
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 7), "{registry}");
        assert!(lost.iter().all(|r| r.as_ref().is_err_and(Error::is_conflict)), "{registry}: {lost:?}");
        assert_eq!(champion(registry).await, (won[0].as_ref().unwrap().version, 1), "{registry}");
    }

    /// Contract: a rejected request stays in the history, with its reason, and is over.
    pub async fn a_rejected_request_keeps_its_reason(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let id = request(registry, 1).await;
        let unexplained = registry.reject(&rob(), id, " ").await.unwrap_err();
        assert!(matches!(unexplained, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {unexplained}");
        let rejected = registry.reject(&rob(), id, "too few rows").await.unwrap();
        assert_eq!(rejected.state, PromotionState::Rejected, "{registry}");
        assert_eq!(registry.reject(&rob(), id, "too few rows").await.unwrap(), rejected, "{registry}");
        let kept = &registry.promotions("m").await.unwrap()[0];
        assert_eq!(kept.decision.as_ref().unwrap().reason, "too few rows", "{registry}");
        assert!(kept.to_string().ends_with(", asked by ana: too few rows"), "{registry}: {kept}");
        let error = registry.promote(&dan(), id).await.unwrap_err();
        assert!(matches!(error, Error::Decided { state: PromotionState::Rejected, .. }), "{registry}: {error}");
    }

    /// A request that was decided takes no more approvals or rejections.
    pub async fn decided_is_decided(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let id = promote(registry, 1).await;
        for result in [registry.approve(&rob(), id, "late").await, registry.reject(&rob(), id, "late").await] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Decided { state: PromotionState::Promoted, .. }), "{registry}: {error}");
        }
    }

    /// Contract: the same call again changes nothing, also after the alias has moved on; other contents are refused.
    pub async fn repeated_calls_change_nothing(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 2).await;
        let id = |n: u8| PromotionId::derived(from_micros(0), &[n]);
        let new = |n: u8, version| NewPromotion::new("m", version, "champion").id(id(n)).reason("better");
        registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
        for round in 0..2 {
            for (n, version) in [(1, 1), (2, 2)] {
                registry.request_promotion(&ana(), new(n, version)).await.unwrap();
                registry.approve(&rob(), id(n), "ok").await.unwrap();
                let done = registry.promote(&dan(), id(n)).await.unwrap();
                assert_eq!(done.revision, Some(u64::from(n)), "{registry}: round {round}");
            }
            let back = registry.rollback(&dan(), "m", "champion", Some(id(3)), "worse").await.unwrap();
            assert_eq!((back.version, back.revision), (1, Some(3)), "{registry}: round {round}");
            registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
            assert_eq!(registry.events(0, 1_000).await.unwrap().len(), 3 + 3 + 3 + 1, "{registry}: round {round}");
            assert_eq!(registry.promotions("m").await.unwrap().len(), 3, "{registry}: round {round}");
        }
        let others = [
            registry.request_promotion(&ana(), new(1, 2)).await,
            registry.request_promotion(&who("bob", Role::Contributor), new(1, 1)).await,
            registry.request_promotion(&ana(), new(1, 1).reason("other")).await,
            registry.rollback(&dan(), "m", "champion", Some(id(3)), "another reason").await,
            registry.rollback(&dan(), "m", "champion", Some(id(1)), "worse").await,
        ];
        for result in others {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
        }
    }

    /// Contract: each rollback undoes one more promotion, and is recorded.
    pub async fn rollbacks_undo_one_by_one(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 4).await;
        for version in [1, 2, 3] {
            promote(registry, version).await;
        }
        let back = async |expected: u64| {
            let done = registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
            assert_eq!((done.kind, done.version), (PromotionKind::Rollback, expected), "{registry}");
            assert_eq!(champion(registry).await.0, expected, "{registry}");
        };
        back(2).await;
        promote(registry, 4).await;
        back(2).await;
        back(1).await;
        let error = registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap_err();
        assert!(error.is_not_found(), "{registry}: {error}");
        assert_eq!(champion(registry).await, (1, 7), "{registry}");
        let path: Vec<(Option<u64>, u64)> =
            registry.promotions("m").await.unwrap().iter().map(|p| (p.from, p.version)).collect();
        let expected = [(None, 1), (Some(1), 2), (Some(2), 3), (Some(3), 2), (Some(2), 4), (Some(4), 2), (Some(2), 1)];
        assert_eq!(path, expected, "{registry}");
    }

    /// A request made before a rollback saw another alias.
    pub async fn a_rollback_makes_open_requests_stale(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 3).await;
        promote(registry, 1).await;
        promote(registry, 2).await;
        let open = request(registry, 3).await;
        registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
        let error = registry.promote(&dan(), open).await.unwrap_err();
        assert!(error.is_conflict(), "{registry}: {error}");
    }

    /// Contract: `alias_at` answers for any past moment.
    pub async fn aliases_travel_in_time(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 2).await;
        promote(registry, 1).await;
        promote(registry, 2).await;
        registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
        let moves = registry.promotions("m").await.unwrap();
        let times: Vec<Timestamp> = moves.iter().map(|p| p.decision.as_ref().unwrap().at).collect();
        assert!(times.is_sorted(), "{registry}");
        let instant = Duration::from_micros(1);
        let before = registry.alias_at("m", "champion", times[0] - instant).await.unwrap();
        assert_eq!(before, None, "{registry}");
        for (i, made) in moves.iter().enumerate() {
            // Of moves in one microsecond, the last is the answer.
            if times.get(i + 1).is_none_or(|next| *next > times[i]) {
                let then = registry.alias_at("m", "champion", times[i]).await.unwrap();
                assert_eq!(then, Some(made.version), "{registry}: move {i}");
            }
        }
        let now = SystemClock.now().max(times[2]) + Duration::from_secs(3_600);
        assert_eq!(registry.alias_at("m", "champion", now).await.unwrap(), Some(1), "{registry}");
        assert_eq!(registry.alias_at("m", "never", now).await.unwrap(), None, "{registry}");
    }

    /// Contract: names.
    pub async fn names_are_checked(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let huge = "x".repeat(1 << 20);
        let mut results = Vec::new();
        for name in ["", " ", "a/b", "a:b", "a@b", "a\0", &huge] {
            results.push(registry.create_model(&ana(), NewModel::new(name)).await.map(drop));
        }
        for alias in ["", "latest", "LATEST", "v1", "V23", "a b", "a/b", &huge] {
            results.push(registry.request_promotion(&ana(), NewPromotion::new("m", 1, alias)).await.map(drop));
            results.push(registry.set_policy(&root(), "m", alias, AliasPolicy::approvals(1)).await);
        }
        let new = NewPromotion::new("m", 1, "champion");
        results.push(registry.request_promotion(&ana(), new.clone().reason(&huge)).await.map(drop));
        let finding = Finding::new("c", Verdict::Pass, &huge);
        results.push(registry.request_promotion(&ana(), new.evidence([finding])).await.map(drop));
        results.push(registry.create_model(&ana(), NewModel::new("d").description(&huge)).await.map(drop));
        results.push(registry.create_model(&who(&huge, Role::Admin), NewModel::new("d")).await.map(drop));
        results.push(registry.events(0, 0).await.map(drop));
        for (i, result) in results.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: case {i}: {error}");
            assert!(error.to_string().len() < 300, "{registry}: case {i}: {error}");
        }
    }

    /// Contract: missing models, versions, aliases and promotions are `NotFound`, by name.
    pub async fn missing_things_are_not_found(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let none = PromotionId::derived(from_micros(0), b"none");
        let digest = package(store, "1").await;
        let errors = [
            (registry.model("nil").await.map(drop), "\"nil\""),
            (registry.versions("nil").await.map(drop), "\"nil\""),
            (registry.aliases("nil").await.map(drop), "\"nil\""),
            (registry.promotions("nil").await.map(drop), "\"nil\""),
            (registry.policy("nil", "champion").await.map(drop), "\"nil\""),
            (registry.alias("nil", "champion").await.map(drop), "\"nil\""),
            (registry.alias_at("nil", "champion", from_micros(0)).await.map(drop), "\"nil\""),
            (registry.create_version(&ana(), NewVersion::new("nil", digest)).await.map(drop), "\"nil\""),
            (registry.set_policy(&root(), "nil", "champion", AliasPolicy::approvals(1)).await, "\"nil\""),
            (registry.rollback(&dan(), "nil", "champion", None, "x").await.map(drop), "\"nil\""),
            (registry.version("m", 2).await.map(drop), "m/2"),
            (registry.version("m", u64::MAX).await.map(drop), "m/18446744073709551615"),
            (registry.request_promotion(&ana(), NewPromotion::new("m", 2, "a")).await.map(drop), "m/2"),
            (registry.alias("m", "champion").await.map(drop), "m@champion"),
            (registry.rollback(&dan(), "m", "champion", None, "x").await.map(drop), "m@champion"),
            (registry.promotion(none).await.map(drop), &none.to_string()),
            (registry.approve(&rob(), none, "").await.map(drop), &none.to_string()),
            (registry.reject(&rob(), none, "x").await.map(drop), &none.to_string()),
            (registry.promote(&dan(), none).await.map(drop), &none.to_string()),
        ];
        for (result, name) in errors {
            let error = result.unwrap_err();
            assert!(error.is_not_found() && error.to_string().contains(name), "{registry}: {error}");
        }
    }

    /// Contract: permission. The whole table, role by call.
    pub async fn each_call_needs_its_permission(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 2).await;
        promote(registry, 1).await;
        let open = request(registry, 2).await;
        let digest = package(store, "new").await;
        for role in Role::ALL {
            let eve = who(&format!("eve the {}", role.as_str()), role);
            let model = NewModel::new(format!("by {}", role.as_str()));
            let policy = AliasPolicy::approvals(1);
            let contributes = matches!(role, Role::Contributor | Role::Admin);
            let calls = [
                ("create_model", contributes, registry.create_model(&eve, model).await.map(drop)),
                (
                    "create_version",
                    contributes,
                    registry.create_version(&eve, NewVersion::new("m", digest)).await.map(drop),
                ),
                (
                    "request_promotion",
                    contributes,
                    registry.request_promotion(&eve, NewPromotion::new("m", 2, "champion")).await.map(drop),
                ),
                (
                    "approve",
                    matches!(role, Role::Reviewer | Role::Admin),
                    registry.approve(&eve, open, "").await.map(drop),
                ),
                ("set_policy", role == Role::Admin, registry.set_policy(&eve, "m", "other", policy).await),
            ];
            for (call, may, result) in calls {
                match result {
                    Ok(()) => assert!(may, "{registry}: {role:?} could {call}"),
                    Err(Error::Core(CoreError::PermissionDenied { .. })) => {
                        assert!(!may, "{registry}: {role:?} could not {call}");
                    }
                    Err(other) => panic!("{registry}: {role:?} {call}: {other}"),
                }
            }
            if !matches!(role, Role::Reviewer | Role::Admin) {
                let error = registry.reject(&eve, open, "no").await.unwrap_err();
                assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
            }
            if !matches!(role, Role::Deployer | Role::Admin) {
                let errors = [
                    registry.promote(&eve, open).await.unwrap_err(),
                    registry.rollback(&eve, "m", "champion", None, "no").await.unwrap_err(),
                ];
                for error in errors {
                    assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
                }
            }
        }
        assert_eq!(champion(registry).await, (1, 1), "{registry}");
    }

    /// Every change leaves one event, in order and without gaps; reading goes on from any place.
    pub async fn events_tell_every_change(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 2).await;
        promote(registry, 1).await;
        let id = request(registry, 2).await;
        registry.approve(&rob(), id, "").await.unwrap();
        registry.promote(&dan(), id).await.unwrap();
        registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
        let id = request(registry, 2).await;
        registry.reject(&rob(), id, "no").await.unwrap();
        let events = registry.events(0, 1_000).await.unwrap();
        let kinds: Vec<EventKind> = events.iter().map(|e| e.kind).collect();
        use EventKind as K;
        let expected = [
            K::ModelCreated,
            K::VersionCreated,
            K::VersionCreated,
            K::PromotionRequested,
            K::AliasMoved,
            K::PromotionRequested,
            K::PromotionApproved,
            K::AliasMoved,
            K::AliasMoved,
            K::PromotionRequested,
            K::PromotionRejected,
        ];
        assert_eq!(kinds, expected, "{registry}");
        assert!(events.iter().zip(1..).all(|(e, n)| e.seq == n), "{registry}");
        let moves: Vec<(Option<u64>, Option<u64>)> =
            events.iter().filter(|e| e.kind == K::AliasMoved).map(|e| (e.version, e.revision)).collect();
        assert_eq!(moves, [(Some(1), Some(1)), (Some(2), Some(2)), (Some(1), Some(3))], "{registry}");
        assert_eq!(registry.events(4, 2).await.unwrap(), events[4..6], "{registry}");
        assert!(registry.events(11, 2).await.unwrap().is_empty(), "{registry}");
    }

    /// Findings come back as they were given, odd numbers included; what would not is refused.
    pub async fn evidence_reads_back(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
        versions(registry, store, 1).await;
        let finding = Finding::new("accuracy", Verdict::Pass, "\"better\"\n")
            .with(Measurement::new("accuracy", 0.1 + 0.2).with_interval(1.0 / 3.0, 2.0 / 3.0).with_n(u64::MAX))
            .with(Measurement::new("ratio", f64::INFINITY).with_bound("> 1"));
        let new = NewPromotion::new("m", 1, "champion").evidence([finding.clone()]);
        let id = registry.request_promotion(&ana(), new).await.unwrap().id;
        assert_eq!(registry.promotion(id).await.unwrap().evidence, [finding], "{registry}");
    }
}
