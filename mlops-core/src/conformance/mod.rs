//! Conformance suites: one function per sentence of a contract, runnable on any backend, this crate's or yours.
//!
//! Each macro makes a module of named tests. Its second argument is evaluated for each test, may `.await`, and gives a
//! fresh, empty backend with something to keep alive beside it (a temporary directory, or `()`):
//!
//! ```
//! use mlops_core::store::MemoryStore;
//! mlops_core::artifact_store_conformance!(memory, (MemoryStore::default(), ()));
//! # fn main() {}
//! ```
//!
//! The crate that uses a macro needs `tokio` with its `macros` and `rt` features. A failed check panics, as a test does.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // these functions are tests: panicking is how they report

pub mod artifact_store;
pub mod audit_log;
#[cfg(feature = "datasets")]
pub mod dataset_store;
pub mod inference_log;
pub mod lineage_sink;
pub mod lineage_store;
mod openlineage;
pub mod token_store;

pub use self::openlineage::OpenLineageSchemas;

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr, $cases:ident; $($case:ident),+ $(,)?) => {
        $crate::__conformance!(@ [$(#[$attribute])*] $suite, $fresh, $cases; $($case),+);
    };
    (@ $attributes:tt $suite:ident, $fresh:expr, $cases:ident; $($case:ident),+) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $($crate::__conformance!(@@ $attributes $case, $fresh, $cases);)+
        }
    };
    (@@ [$(#[$attribute:meta])*] $case:ident, $fresh:expr, $cases:ident) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $case() {
            let (fresh, _alive) = $fresh;
            $crate::conformance::$cases::$case(&fresh).await;
        }
    };
}

/// Tests of [`ArtifactStore`](crate::store::ArtifactStore)'s contract: `artifact_store_conformance!(name, (store,
/// keep_alive))`. Attributes before the name go to each test: `#[ignore = "needs a server"]`.
#[macro_export]
macro_rules! artifact_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, artifact_store;
            reads_what_was_written, missing_is_not_found, create_is_exclusive, one_of_many_creates_wins,
            overwrite_replaces, list_is_sorted_and_scoped, delete_is_idempotent, bad_keys_are_refused,
            ranges_are_cut_at_the_end, objects_are_described, staged_objects_are_kept, artifacts_are_verified,
            artifacts_are_idempotent, blobs_read_back_whole_and_in_part, nearly_equal_blobs_share_their_chunks,
            damaged_blobs_are_corrupt);
    };
}

#[cfg(feature = "datasets")]
/// Tests of [`DatasetStore`](crate::dataset::DatasetStore)'s contract: `dataset_store_conformance!(name, (store,
/// keep_alive))`.
#[macro_export]
macro_rules! dataset_store_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, dataset_store;
            rows_read_back_bit_for_bit, equal_rows_are_one_version, versions_are_listed_in_order,
            parents_and_sources_are_kept, missing_versions_are_not_found, what_cannot_be_kept_is_refused,
            tags_move_by_compare_and_swap, a_version_that_is_missing_cannot_be_tagged,
            removed_versions_are_gone_and_told_of, tagged_versions_are_not_removed,
            a_commit_that_fails_leaves_nothing, scans_filter_and_project, sketches_are_of_all_rows);
    };
}

/// Tests of [`AuditLog`](crate::audit::AuditLog)'s contract: `audit_log_conformance!(name, (log, keep_alive))`.
#[macro_export]
macro_rules! audit_log_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, audit_log;
            an_empty_log_verifies, entries_come_back_in_order, concurrent_appends_get_distinct_places,
            everything_about_an_event_is_kept, a_repeated_append_adds_nothing, pages_of_any_size_join_up,
            long_and_foreign_text_is_kept, concurrent_repeats_are_one_entry, exports_verify);
    };
}

/// Tests of [`TokenStore`](crate::auth::token::TokenStore)'s contract:
/// `token_store_conformance!(name, ((store, its audit log), keep_alive))`.
#[macro_export]
macro_rules! token_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, token_store;
            tokens_read_back, an_id_is_given_once, revoking_is_idempotent_and_audited_once,
            tokens_are_listed_by_age, one_of_many_inserts_wins, issued_tokens_authenticate);
    };
}

/// Tests of [`LineageStore`](crate::lineage::LineageStore)'s contract: `lineage_store_conformance!(name, (store,
/// keep_alive))`.
#[macro_export]
macro_rules! lineage_store_conformance {
    ($(#[$attribute:meta])* $suite:ident, $fresh:expr) => {
        $crate::__conformance!($(#[$attribute])* $suite, $fresh, lineage_store;
            walks_reach_what_they_should, recording_again_changes_only_facts, cycles_end, unknown_starts_are_not_found,
            every_kind_reads_back);
    };
}

/// Tests of [`LineageSink`](crate::lineage::LineageSink)'s contract: `lineage_sink_conformance!(name, (sink,
/// keep_alive))`. The sink is one that delivers, with room for at least 200 events.
#[macro_export]
macro_rules! lineage_sink_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, lineage_sink;
            counts_add_up_at_every_moment, flush_settles_everything, many_threads_may_emit);
    };
}

/// Tests of the contracts of [`InferenceSink`](crate::inference::InferenceSink) and
/// [`InferenceLog`](crate::inference::InferenceLog), for a type that is both: `inference_log_conformance!(name, (log,
/// keep_alive))`.
#[macro_export]
macro_rules! inference_log_conformance {
    ($suite:ident, $fresh:expr) => {
        $crate::__conformance!($suite, $fresh, inference_log;
            what_was_flushed_is_found, rows_of_one_request_are_found_one_by_one, the_answer_wins_over_its_shadow,
            flushes_of_one_moment_keep_apart, scans_are_half_open_and_sorted, records_of_unequal_length_are_refused);
    };
}
