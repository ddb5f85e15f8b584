//! Removing for good what was deleted long enough ago.

use mlops_core::{Permission, Principal, Resource};
use serde_json::{Value, json};

use super::db::{self, Backend as _};
use super::{SqlRegistry, Writing, audit};
use crate::registry::{Purged, Retention};
use crate::{Result, check};

const WHAT: &str = "purge";

/// Runs that nothing which stays refers to: no run within them, no logged model or its metrics, no version.
macro_rules! runs_to_purge {
    () => {
        "SELECT r.id FROM runs r WHERE r.deleted_at <= $1 \
         AND NOT EXISTS (SELECT 1 FROM runs c WHERE c.parent = r.id) \
         AND NOT EXISTS (SELECT 1 FROM logged_models l WHERE l.source_run = r.id) \
         AND NOT EXISTS (SELECT 1 FROM logged_model_metrics k WHERE k.run_id = r.id) \
         AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.run_id = r.id)"
    };
}

/// Logged models that no version which stays was made of.
macro_rules! logged_models_to_purge {
    () => {
        "SELECT l.id FROM logged_models l WHERE l.deleted_at <= $1 \
         AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.logged_model = l.id)"
    };
}

macro_rules! delete_of {
    ($column:literal in $which:ident; $($table:literal),+) => {
        [$(concat!("DELETE FROM ", $table, " WHERE ", $column, " IN (", $which!(), ")")),+]
    };
}

impl Writing {
    async fn delete(&mut self, query: &'static str, until: i64) -> Result<u64> {
        Ok(db::query(query).bind(until).execute(&mut self.tx).await.during(WHAT, "registry")?)
    }

    async fn purge(&mut self, until: i64) -> Result<Purged> {
        let mut purged = Purged::default();
        for query in [
            "DELETE FROM version_tags WHERE EXISTS (SELECT 1 FROM versions v WHERE v.model = version_tags.model \
             AND v.version = version_tags.version AND v.deleted_at <= $1)",
            "DELETE FROM holds WHERE EXISTS (SELECT 1 FROM versions v WHERE v.model = holds.model \
             AND v.version = holds.version AND v.deleted_at <= $1)",
        ] {
            self.delete(query, until).await?;
        }
        purged.versions = self.delete("DELETE FROM versions WHERE deleted_at <= $1", until).await?;
        // A model's name and number stay, so that neither is given twice.
        let emptied = "UPDATE models SET description = '', tags = '{}' WHERE deleted_at <= $1 \
                       AND (description <> '' OR tags <> '{}')";
        purged.models = self.delete(emptied, until).await?;
        let of_logged_models = delete_of!("model_id" in logged_models_to_purge;
            "logged_model_params", "logged_model_tags", "logged_model_metrics", "logged_model_artifacts", "run_models");
        for query in of_logged_models {
            self.delete(query, until).await?;
        }
        let query = concat!("DELETE FROM logged_models WHERE id IN (", logged_models_to_purge!(), ")");
        purged.logged_models = self.delete(query, until).await?;
        // From the innermost runs outwards.
        loop {
            let of_runs = delete_of!("run_id" in runs_to_purge;
                "run_params", "run_tags", "run_latest_metrics", "run_inputs", "run_artifacts", "run_models");
            let points = concat!(
                "DELETE FROM run_metrics WHERE series IN (SELECT series FROM run_latest_metrics WHERE run_id IN (",
                runs_to_purge!(),
                "))"
            );
            for query in [points].into_iter().chain(of_runs) {
                self.delete(query, until).await?;
            }
            let gone = self.delete(concat!("DELETE FROM runs WHERE id IN (", runs_to_purge!(), ")"), until).await?;
            purged.runs += gone;
            if gone == 0 {
                break;
            }
        }
        db::query("DELETE FROM package_files WHERE package NOT IN (SELECT package FROM versions)")
            .execute(&mut self.tx)
            .await
            .during(WHAT, "registry")?;
        Ok(purged)
    }
}

impl SqlRegistry {
    /// Removes for good what was deleted longer ago than `retention` says: versions, descriptions and tags of models, runs
    /// and logged models with all that was logged to them. Needs [`Permission::Administer`] on the registry.
    ///
    /// The audit log, the outbox, lineage and the history of promotions stay, and so do runs that a version or a logged
    /// model which is there came from or was measured in, and logged models that a version was made of. What they named in the artifact store is garbage from then on: the registry is
    /// the [`Roots`](mlops_core::store::Roots) of a [`Collector`](mlops_core::store::Collector), which frees its bytes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use mlops_core::store::{Collector, MemoryStore};
    /// use mlops_core::{Principal, Role};
    /// use mlops_registry::{Retention, SqlRegistry};
    /// let store = MemoryStore::default();
    /// # #[cfg(feature = "sqlite")] {
    /// let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await?;
    /// let root = Principal::new("root").with_role(Role::Admin);
    /// let month = Retention::older_than(Duration::from_secs(30 * 24 * 3600));
    /// let purged = registry.purge(&root, month, "retention policy 7").await?;
    /// assert_eq!(purged.versions, 0);
    /// let collector = Collector::builder(Arc::new(store)).roots(registry).build()?;
    /// assert_eq!(collector.collect().await?.deleted, 0);
    /// # }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PermissionDenied`](mlops_core::Error::PermissionDenied), [`InvalidInput`](mlops_core::Error::InvalidInput)
    /// without a reason, and those of the database.
    pub async fn purge(&self, who: &Principal, retention: Retention, reason: &str) -> Result<Purged> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::new("registry", "retention"))?;
        transaction!(self.write(WHAT, "registry"), |writing| {
            let until = i64::try_from(retention.older_than.as_micros()).unwrap_or(i64::MAX);
            let until = writing.at.timestamp_micros().saturating_sub(until);
            let purged = writing.purge(until).await?;
            if purged == Purged::default() {
                return Ok(purged);
            }
            let audited = writing.event(who, "registry.purge", "registry");
            let after = json!({ "deleted_until": db::time(until), "purged": purged });
            audit::append(&mut writing.tx, audited.change(Value::Null, after).because(reason)).await?;
            Ok(purged)
        })
    }
}
