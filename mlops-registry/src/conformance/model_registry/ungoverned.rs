//! What a backend without policies and history keeps, and how it refuses the rest.

use mlops_core::clock::from_micros;
use mlops_core::{ArtifactStore, Error as CoreError, PromotionId, Role};

use super::{ana, champion, dan, lacks, package, rob, root, versions};
use crate::conformance::{refused, who};
use crate::{
    AliasPolicy, Error, Limit, ModelEdit, ModelRegistry, NewModel, NewPromotion, NewStageMove, NewVersion,
    PromotionKind, PromotionState, StageTable, VersionEdit,
};

async fn point(registry: &dyn ModelRegistry, version: u64) {
    registry.move_alias(&root(), NewPromotion::new("m", version, "champion")).await.unwrap();
}

/// A removal is recorded, and told again by the same call.
pub async fn an_alias_is_removed_with_a_record(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    point(registry, 1).await;
    point(registry, 2).await;
    let removed = registry.remove_alias(&dan(), "m", "champion", "retired").await.unwrap();
    assert_eq!((removed.kind, removed.version, removed.revision), (PromotionKind::Remove, 2, Some(3)), "{registry}");
    assert_eq!(registry.remove_alias(&dan(), "m", "champion", "retired").await.unwrap(), removed, "{registry}");
    for result in [
        registry.alias("m", "champion").await.map(drop),
        registry.remove_alias(&dan(), "m", "champion", "in other words").await.map(drop),
        registry.remove_alias(&dan(), "m", "never", "retired").await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(error.is_not_found(), "{registry}: {error}");
    }
    assert!(registry.aliases("m").await.unwrap().is_empty(), "{registry}");
    assert!(registry.version("m", 2).await.unwrap().aliases.is_empty(), "{registry}");
    point(registry, 1).await;
    assert_eq!(champion(registry).await, (1, 4), "{registry}");
}

/// Stages are MLflow's; versions make way where that is asked for, and the newest of each is told.
pub async fn versions_change_their_stage(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 4).await;
    let stage = |version, to: &str| NewStageMove::new("m", version, to).reason("better");
    let moved = registry.move_stage(&root(), stage(1, "staging")).await.unwrap();
    assert_eq!((moved.state, moved.from_stage.as_deref()), (PromotionState::Promoted, Some("None")), "{registry}");
    assert_eq!(registry.move_stage(&root(), stage(1, "Staging")).await.unwrap(), moved, "{registry}: it stays");
    let found = registry.version("m", 1).await.unwrap();
    assert_eq!((found.stage.as_str(), found.stage_revision), ("Staging", 1), "{registry}");
    for version in [1, 2] {
        registry.move_stage(&root(), stage(version, "Production")).await.unwrap();
    }
    registry.move_stage(&root(), stage(4, "Staging")).await.unwrap();
    registry.move_stage(&root(), stage(3, "Production").archive_existing()).await.unwrap();
    let stages: Vec<String> = registry.versions("m").await.unwrap().into_iter().map(|version| version.stage).collect();
    assert_eq!(stages, ["Archived", "Archived", "Production", "Staging"], "{registry}");
    let numbers = async |stages: &[&str]| -> Vec<u64> {
        registry.latest_versions("m", stages).await.unwrap().iter().map(|v| v.version).collect()
    };
    assert_eq!(numbers(&[]).await, [4, 3, 2], "{registry}: Staging, Production, Archived");
    assert_eq!(numbers(&["archived", "None"]).await, [2], "{registry}");
    for result in [
        registry.move_stage(&root(), stage(1, "Live")).await.map(drop),
        registry.latest_versions("m", &["Live"]).await.map(drop),
        registry.move_stage(&root(), stage(4, "Archived").archive_existing()).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {error}");
    }
    assert_eq!(registry.stages(Some("m")).await.unwrap(), StageTable::default(), "{registry}");
}

/// A new name takes versions and aliases along.
pub async fn a_new_name_takes_aliases_along(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    point(registry, 1).await;
    registry.create_model(&ana(), NewModel::new("taken")).await.unwrap();
    let taken = registry.edit_model(&root(), "m", ModelEdit::new().rename("taken")).await.unwrap_err();
    assert!(matches!(taken, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {taken}");
    let edit = ModelEdit::new().rename("n").description("new");
    let denied = registry.edit_model(&ana(), "m", edit.clone()).await.unwrap_err();
    assert!(matches!(denied, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {denied}");
    let renamed = registry.edit_model(&root(), "m", edit).await.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.latest, renamed.description.as_str()), ("n", 2, "new"), "{registry}");
    assert_eq!(registry.versions("n").await.unwrap().len(), 2, "{registry}");
    let alias = registry.alias("n", "champion").await.unwrap();
    assert_eq!((alias.version, alias.revision), (1, 1), "{registry}");
    assert!(registry.model("m").await.unwrap_err().is_not_found(), "{registry}");
}

/// A deleted version takes its aliases along, and its number stays taken while the model is there.
pub async fn deletions_take_aliases_along(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 3).await;
    point(registry, 3).await;
    registry.delete_version(&root(), "m", 3, "leaks").await.unwrap();
    assert!(registry.version("m", 3).await.unwrap_err().is_not_found(), "{registry}");
    assert!(registry.alias("m", "champion").await.unwrap_err().is_not_found(), "{registry}");
    assert_eq!(registry.versions("m").await.unwrap().len(), 2, "{registry}");
    assert_eq!(registry.model("m").await.unwrap().latest, 2, "{registry}");
    let anew = registry.create_version(&ana(), NewVersion::new("m", package(store, "3").await)).await.unwrap();
    assert_eq!(anew.version, 4, "{registry}");
    registry.delete_model(&root(), "m", "retired").await.unwrap();
    assert!(registry.models().await.unwrap().is_empty(), "{registry}");
    for result in [
        registry.model("m").await.map(drop),
        registry.version("m", 1).await.map(drop),
        registry.versions("m").await.map(drop),
    ] {
        assert!(result.unwrap_err().is_not_found(), "{registry}");
    }
}

/// Contract: names, and texts that cannot be kept.
pub async fn odd_names_are_refused(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let huge = "x".repeat(1 << 20);
    let mut results = Vec::new();
    for name in ["", " ", "a/b", "a:b", "a@b", "a\0", &huge] {
        results.push(registry.create_model(&ana(), NewModel::new(name)).await.map(drop));
    }
    for alias in ["", "latest", "LATEST", "v1", "V23", "a b", "a/b", &huge] {
        results.push(registry.move_alias(&root(), NewPromotion::new("m", 1, alias)).await.map(drop));
    }
    for key in ["", " a", &huge] {
        results.push(registry.edit_version(&ana(), "m", 1, VersionEdit::new().set_tag(key, "")).await.map(drop));
    }
    results.push(registry.edit_model(&ana(), "m", ModelEdit::new().description(&huge)).await.map(drop));
    results.push(registry.move_stage(&root(), NewStageMove::new("m", 1, &huge)).await.map(drop));
    results.push(registry.delete_version(&root(), "m", 1, "").await);
    results.push(registry.delete_model(&root(), "m", &huge).await);
    results.push(registry.create_model(&who(&huge, Role::Admin), NewModel::new("d")).await.map(drop));
    for (i, result) in results.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: case {i}: {error}");
        assert!(error.to_string().len() < 300, "{registry}: case {i}: {error}");
    }
}

/// Contract: missing models, versions and aliases are `NotFound`, by name.
pub async fn missing_models_are_not_found(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let digest = package(store, "1").await;
    let nil = "\"nil\"";
    let errors = [
        (registry.model("nil").await.map(drop), nil),
        (registry.versions("nil").await.map(drop), nil),
        (registry.aliases("nil").await.map(drop), nil),
        (registry.alias("nil", "champion").await.map(drop), nil),
        (registry.policy("nil", "champion").await.map(drop), nil),
        (registry.stages(Some("nil")).await.map(drop), nil),
        (registry.holds("nil").await.map(drop), nil),
        (registry.latest_versions("nil", &[]).await.map(drop), nil),
        (registry.create_version(&ana(), NewVersion::new("nil", digest)).await.map(drop), nil),
        (registry.edit_model(&ana(), "nil", ModelEdit::new()).await.map(drop), nil),
        (registry.delete_model(&root(), "nil", "x").await, nil),
        (registry.move_alias(&root(), NewPromotion::new("nil", 1, "a")).await.map(drop), nil),
        (registry.move_stage(&root(), NewStageMove::new("nil", 1, "Staging")).await.map(drop), nil),
        (registry.remove_alias(&dan(), "nil", "champion", "x").await.map(drop), nil),
        (registry.edit_version(&ana(), "m", 2, VersionEdit::new()).await.map(drop), "m/2"),
        (registry.delete_version(&root(), "m", 2, "x").await, "m/2"),
        (registry.version("m", 2).await.map(drop), "m/2"),
        (registry.version("m", u64::MAX).await.map(drop), "m/18446744073709551615"),
        (registry.move_alias(&root(), NewPromotion::new("m", 2, "a")).await.map(drop), "m/2"),
        (registry.move_stage(&root(), NewStageMove::new("m", 2, "Staging")).await.map(drop), "m/2"),
        (registry.alias("m", "champion").await.map(drop), "m@champion"),
        (registry.remove_alias(&dan(), "m", "champion", "x").await.map(drop), "m@champion"),
    ];
    for (result, name) in errors {
        let error = result.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains(name), "{registry}: {error}");
    }
}

/// Contract: permission.
pub async fn changes_need_their_permission(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    point(registry, 1).await;
    let digest = package(store, "new").await;
    for role in Role::ALL {
        let eve = who("eve", role);
        let contributes = matches!(role, Role::Contributor | Role::Admin);
        let admin = role == Role::Admin;
        let (model, version) = (format!("by {}", role.as_str()), NewVersion::new("m", digest).key(role.as_str()));
        let calls = [
            (contributes, registry.create_model(&eve, NewModel::new(model)).await.map(drop)),
            (contributes, registry.create_version(&eve, version).await.map(drop)),
            (
                contributes,
                registry.edit_model(&eve, "m", ModelEdit::new().set_tag("by", role.as_str())).await.map(drop),
            ),
            (contributes, registry.edit_version(&eve, "m", 2, VersionEdit::new().set_tag("by", "x")).await.map(drop)),
            (admin, registry.move_alias(&eve, NewPromotion::new("m", 2, "other")).await.map(drop)),
            (admin, registry.move_stage(&eve, NewStageMove::new("m", 1, "Staging")).await.map(drop)),
        ];
        for (i, (may, result)) in calls.into_iter().enumerate() {
            match result {
                Ok(()) => assert!(may, "{registry}: {role:?} could make call {i}"),
                Err(Error::Core(CoreError::PermissionDenied { .. })) => {
                    assert!(!may, "{registry}: {role:?} could not make call {i}");
                }
                Err(other) => panic!("{registry}: {role:?}, call {i}: {other}"),
            }
        }
        if !admin {
            let denied = [
                registry.delete_version(&eve, "m", 2, "no").await,
                registry.delete_model(&eve, "m", "no").await,
                registry.edit_model(&eve, "m", ModelEdit::new().rename("mine")).await.map(drop),
            ];
            for result in denied {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
            }
        }
    }
    assert_eq!(champion(registry).await, (1, 1), "{registry}");
}

/// Every operation that the backend says it lacks is refused by name, and leaves nothing.
pub async fn what_it_lacks_is_refused(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    assert!(lacks(registry, Limit::Governance), "{registry}: run the whole suite");
    versions(registry, store, 2).await;
    point(registry, 1).await;
    let (limit, id, at) = (Limit::Governance, PromotionId::derived(from_micros(0), b"1"), from_micros(0));
    let policy = || AliasPolicy::approvals(1);
    refused(limit, registry.set_policy(&root(), "m", "champion", policy()).await);
    refused(limit, registry.set_stage_policy(&root(), "m", "Production", policy()).await);
    refused(limit, registry.set_stages(&root(), Some("m"), StageTable::strict()).await);
    refused(limit, registry.request_promotion(&ana(), NewPromotion::new("m", 2, "champion")).await);
    refused(limit, registry.request_stage(&ana(), NewStageMove::new("m", 2, "Staging")).await);
    refused(limit, registry.approve(&rob(), id, "").await);
    refused(limit, registry.reject(&rob(), id, "no").await);
    refused(limit, registry.withdraw(&ana(), id, "no").await);
    refused(limit, registry.promote(&dan(), id).await);
    refused(limit, registry.rollback(&dan(), "m", "champion", None, "worse").await);
    refused(limit, registry.alias_at("m", "champion", at).await);
    refused(limit, registry.aliases_at("m", at).await);
    refused(limit, registry.alias_history("m", "champion", at, at).await);
    refused(limit, registry.stage_at("m", 1, at).await);
    refused(limit, registry.promotions("m").await);
    refused(limit, registry.promotion(id).await);
    refused(limit, registry.hold(&rob(), "m", 1, "audit").await);
    refused(limit, registry.release(&root(), "m", 1, "over").await);
    refused(limit, registry.events(0, 10).await);
    assert_eq!(registry.policy("m", "champion").await.unwrap(), AliasPolicy::default(), "{registry}");
    assert_eq!(registry.stage_policy("m", "Production").await.unwrap(), AliasPolicy::default(), "{registry}");
    assert!(registry.holds("m").await.unwrap().is_empty(), "{registry}");
    assert_eq!(champion(registry).await, (1, 1), "{registry}");
}
