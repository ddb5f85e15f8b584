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
//! A backend that says by [`Limit`]s what it cannot do is asked for the refusal, or for the lesser thing that the limit names.
//!
//! The crate that uses a macro needs `tokio` with its `macros` and `rt` features. A failed check panics, as a test does.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // these functions are tests: panicking is how they report

use mlops_core::{Principal, Role};

use crate::{Error, Limit};

pub mod model_registry;
pub mod tracking_store;

fn who(name: &str, role: Role) -> Principal {
    Principal::new(name).with_role(role)
}

/// Checks that what a backend says it cannot do is refused as [`Error::Unsupported`], in words that help.
fn refused<T: std::fmt::Debug>(limit: Limit, result: crate::Result<T>) {
    let error = result.unwrap_err();
    let Error::Unsupported { backend, operation, remedy } = &error else { panic!("{limit}: {error}") };
    assert!(!backend.is_empty() && !operation.is_empty() && !remedy.is_empty(), "{limit}: {error}");
    assert!(error.to_string().starts_with(&format!("{backend} cannot {operation}: {remedy}")), "{limit}: {error}");
}

/// Tests of [`TrackingStore`](crate::TrackingStore)'s contract: `tracking_store_conformance!(name, (store, keep_alive))`.
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
            concurrent_batches_all_arrive, experiments_are_found_by_id, experiments_are_renamed_and_tagged,
            a_deleted_experiment_keeps_its_name, an_experiment_takes_its_runs_along, deleted_runs_take_no_changes,
            a_run_may_have_started_before, runs_are_edited, inputs_of_other_tools_are_kept, metrics_come_in_pages,
            logged_models_are_idempotent_by_id, logged_models_are_finished_and_edited,
            logged_models_keep_what_runs_measured, runs_know_their_models, logged_models_are_deleted_and_restored,
            artifacts_are_overwritten_where_asked, artifacts_are_removed, artifacts_are_listed_by_directory,
            artifact_paths_stay_inside, runs_are_found_by_every_field, every_operator_filters, orders_put_nan_and_missing_last,
            pages_have_no_gap_and_no_overlap, page_tokens_belong_to_their_search, experiments_are_searched,
            logged_models_are_searched, wrong_searches_are_refused);
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

/// Tests of [`ModelRegistry`](crate::ModelRegistry)'s contract: `model_registry_conformance!(name, (registry, artifact_store, keep_alive))`.
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
            events_tell_every_change, evidence_reads_back,
            models_are_edited, a_renamed_model_takes_all_along, deleted_models_are_gone, versions_are_edited,
            a_key_makes_another_version, deleted_versions_take_their_aliases_along,
            protected_versions_are_not_deleted, holds_are_kept_until_released, searches_find_what_fits,
            edits_leave_requests_alone, an_alias_moves_in_one_call, a_call_that_lacks_approvals_leaves_a_request,
            a_removed_alias_comes_back, a_removal_makes_open_requests_stale, who_asked_may_withdraw,
            alias_history_tells_who_was_champion, stages_move_with_a_record, stages_move_by_the_table,
            existing_versions_make_way, a_protected_stage_needs_its_approvals, of_two_stage_moves_one_wins,
            stages_travel_in_time, approvals_count_as_the_policy_says, approvals_and_evidence_expire,
            named_checks_must_have_passed);
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

/// Tests of what of [`ModelRegistry`](crate::ModelRegistry)'s contract a backend with [`Limit::Governance`](crate::Limit::Governance) keeps:
/// models, versions, aliases and stages, and clear refusals of the rest. As [`model_registry_conformance!`](crate::model_registry_conformance).
#[macro_export]
macro_rules! ungoverned_model_registry_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::model_registry_conformance!(@ [$(#[$attribute])*] $suite, $fresh;
            models_are_idempotent_by_name, versions_count_from_one, a_repeated_version_is_the_same,
            a_version_needs_its_package, concurrent_versions_leave_no_gap, models_are_edited, versions_are_edited,
            a_key_makes_another_version, searches_find_what_fits, an_alias_moves_in_one_call,
            an_alias_is_removed_with_a_record, versions_change_their_stage, a_new_name_takes_aliases_along,
            deletions_take_aliases_along, odd_names_are_refused, missing_models_are_not_found,
            changes_need_their_permission, what_it_lacks_is_refused);
    };
}
