//! The suites of core's traits and of this crate's, on a file, in memory, and behind a pointer.

use std::sync::Arc;

use mlops_core::{audit_log_conformance, lineage_store_conformance, token_store_conformance};
use mlops_registry::{ModelRegistry, TrackingStore, model_registry_conformance, tracking_store_conformance};

use crate::{in_file, in_memory};

tracking_store_conformance!(tracking_in_file, {
    let (registry, _, dir) = in_file().await;
    (registry, dir)
});
tracking_store_conformance!(tracking_in_memory, (in_memory().await.0, ()));
tracking_store_conformance!(tracking_shared, (Arc::new(in_memory().await.0) as Arc<dyn TrackingStore>, ()));

model_registry_conformance!(models_in_file, in_file().await);
model_registry_conformance!(models_in_memory, {
    let (registry, store) = in_memory().await;
    (registry, store, ())
});
model_registry_conformance!(models_shared, {
    let (registry, store) = in_memory().await;
    (Arc::new(registry) as Arc<dyn ModelRegistry>, store, ())
});

audit_log_conformance!(audit_in_file, {
    let (registry, _, dir) = in_file().await;
    (registry, dir)
});
audit_log_conformance!(audit_in_memory, (in_memory().await.0, ()));

lineage_store_conformance!(lineage_in_file, {
    let (registry, _, dir) = in_file().await;
    (registry, dir)
});
lineage_store_conformance!(lineage_in_memory, (in_memory().await.0, ()));

token_store_conformance!(tokens_in_file, {
    let (registry, _, dir) = in_file().await;
    ((registry.clone(), registry), dir)
});
token_store_conformance!(tokens_in_memory, {
    let (registry, _) = in_memory().await;
    ((registry.clone(), registry), ())
});
