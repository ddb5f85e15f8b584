//! One binary: the conformance suites on every backend, and what only this backend promises.

#![allow(clippy::unwrap_used)] // a test reports by panicking

mod audit;
mod card;
mod conformance;
mod durability;
mod governance;
mod group;
mod history;
mod kills;
mod mlflow;
mod mlflow_client;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod processes;
mod retention;
mod tracking;
mod watch;
mod webhooks;

use mlops_core::store::MemoryStore;
use mlops_core::{ArtifactStore, Principal, Role};
use mlops_registry::{NewModel, NewVersion, SqlRegistry, SqlRegistryBuilder};
use tempfile::TempDir;

pub(crate) fn who(name: &str, role: Role) -> Principal {
    Principal::new(name).with_role(role)
}

pub(crate) fn builder(store: &MemoryStore) -> SqlRegistryBuilder {
    SqlRegistry::builder().artifacts(store.clone())
}

/// A registry in a file of its own.
pub(crate) async fn in_file() -> (SqlRegistry, MemoryStore, TempDir) {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let registry = builder(&store).open_sqlite(dir.path().join("registry.db")).await.unwrap();
    (registry, store, dir)
}

pub(crate) async fn in_memory() -> (SqlRegistry, MemoryStore) {
    let store = MemoryStore::default();
    (builder(&store).open_in_memory().await.unwrap(), store)
}

/// Model `m` with versions 1 to `n`, registered by ana.
pub(crate) async fn versions(registry: &impl mlops_registry::ModelRegistry, store: &dyn ArtifactStore, n: u64) {
    let ana = who("ana", Role::Contributor);
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    for i in 1..=n {
        let package = mlops_registry::conformance::model_registry::package(store, &i.to_string()).await;
        registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
    }
}
