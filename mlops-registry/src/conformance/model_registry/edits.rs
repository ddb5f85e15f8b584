//! What may be changed and deleted, and what is found.

use mlops_core::clock::from_micros;
use mlops_core::{ArtifactStore, Error as CoreError, Role, RunId};

use super::{ana, champion, dan, lacks, package, promote, request, rob, root, versions};
use crate::conformance::{refused, who};
use crate::search::{Entity, Filter, Search};
use crate::{
    AliasPolicy, Error, EventKind, Limit, ModelEdit, ModelRegistry, ModelVersion, NewModel, NewStageMove, NewVersion,
    PromotionKind, PromotionState, VersionEdit,
};

async fn kinds(registry: &dyn ModelRegistry) -> Vec<EventKind> {
    registry.events(0, 1_000).await.unwrap().into_iter().map(|event| event.kind).collect()
}

/// What an edit does not name stays; the same edit again changes nothing, and neither does the same registration.
pub async fn models_are_edited(registry: &dyn ModelRegistry, _: &dyn ArtifactStore) {
    let new = NewModel::new("m").description("old").tag("a", "1").tag("b", "2");
    let before = registry.create_model(&ana(), new.clone()).await.unwrap();
    let edit =
        ModelEdit::new().description("new").set_tag("a", "3").set_tag("c", "4").remove_tag("b").remove_tag("none");
    let after = registry.edit_model(&ana(), "m", edit.clone()).await.unwrap();
    let tags: Vec<(&str, &str)> = after.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!((after.description.as_str(), tags), ("new", vec![("a", "3"), ("c", "4")]), "{registry}");
    assert!(after.updated_at >= before.updated_at && after.created_at == before.created_at, "{registry}");
    assert_eq!(registry.edit_model(&ana(), "m", edit).await.unwrap(), after, "{registry}");
    assert_eq!(registry.create_model(&ana(), new).await.unwrap(), after, "{registry}: registered so");
    let as_edited = NewModel::new("m").description("new").tag("a", "3").tag("c", "4");
    let error = registry.create_model(&ana(), as_edited).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
    if !lacks(registry, Limit::Governance) {
        use EventKind as K;
        let expected = [K::ModelCreated, K::ModelUpdated, K::ModelTagSet, K::ModelTagSet, K::ModelTagRemoved];
        assert_eq!(kinds(registry).await, expected, "{registry}");
        let events = registry.events(0, 9).await.unwrap();
        assert_eq!((&*events[2].details["key"], &*events[2].details["value"]), ("a", "3"), "{registry}");
    }
    let both = ModelEdit::new().set_tag("x", "1").remove_tag("x");
    let huge = ModelEdit::new().set_tag("x", "y".repeat(100_001));
    for edit in [both, huge, ModelEdit::new().rename("a/b")] {
        let error = registry.edit_model(&root(), "m", edit).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {error}");
    }
}

/// A new name takes everything along; the old one is free, and its numbers are not.
pub async fn a_renamed_model_takes_all_along(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(0).check("a")).await.unwrap();
    registry.set_policy(&root(), "m", "other", AliasPolicy::approvals(1)).await.unwrap();
    registry.set_policy(&root(), "m", "champion", AliasPolicy::default()).await.unwrap();
    promote(registry, 1).await;
    registry.hold(&rob(), "m", 2, "asked for by the auditors").await.unwrap();
    let edit = ModelEdit::new().rename("n").description("new");
    let denied = registry.edit_model(&ana(), "m", edit.clone()).await.unwrap_err();
    assert!(matches!(denied, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {denied}");
    let renamed = registry.edit_model(&root(), "m", edit.clone()).await.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.latest, renamed.description.as_str()), ("n", 2, "new"), "{registry}");
    assert_eq!(registry.edit_model(&root(), "m", edit).await.unwrap(), renamed, "{registry}: again");
    assert_eq!(registry.versions("n").await.unwrap().len(), 2, "{registry}");
    assert_eq!(registry.alias("n", "champion").await.unwrap().version, 1, "{registry}");
    assert_eq!(registry.policy("n", "other").await.unwrap(), AliasPolicy::approvals(1), "{registry}");
    assert_eq!(registry.holds("n").await.unwrap().len(), 1, "{registry}");
    assert_eq!(registry.promotions("n").await.unwrap().len(), 1, "{registry}");
    let error = registry.model("m").await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("renamed n"), "{registry}: {error}");
    // Name and number are one version for ever.
    registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
    let next = registry.create_version(&ana(), NewVersion::new("m", package(store, "1").await)).await.unwrap();
    assert_eq!((next.version, registry.alias("m", "champion").await.is_err()), (3, true), "{registry}");
    for taken in ["m", "n"] {
        let other = if taken == "m" { "n" } else { "m" };
        let error = registry.edit_model(&root(), other, ModelEdit::new().rename(taken)).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {error}");
    }
    registry.edit_model(&root(), "n", ModelEdit::new().rename("o")).await.unwrap();
    registry.edit_model(&root(), "o", ModelEdit::new().rename("n")).await.unwrap();
    let again = registry.create_version(&ana(), NewVersion::new("n", package(store, "9").await)).await.unwrap();
    assert_eq!(again.version, 3, "{registry}");
    registry.create_model(&ana(), NewModel::new("gone").tag("a", "b")).await.unwrap();
    registry.delete_model(&root(), "gone", "never used").await.unwrap();
    registry.edit_model(&root(), "n", ModelEdit::new().rename("gone")).await.unwrap();
    assert!(registry.model("gone").await.unwrap().tags.is_empty(), "{registry}");
    assert!(kinds(registry).await.contains(&EventKind::ModelRenamed), "{registry}");
}

/// Contract: deleted models are not found, and their numbers are not given again.
pub async fn deleted_models_are_gone(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    promote(registry, 2).await;
    registry.set_policy(&root(), "m", "other", AliasPolicy::approvals(1)).await.unwrap();
    for _ in 0..2 {
        registry.delete_model(&root(), "m", "retired").await.unwrap();
    }
    assert!(registry.models().await.unwrap().is_empty(), "{registry}");
    let errors = [
        registry.model("m").await.map(drop),
        registry.version("m", 1).await.map(drop),
        registry.alias("m", "champion").await.map(drop),
        registry.edit_model(&ana(), "m", ModelEdit::new().description("x")).await.map(drop),
        registry.create_version(&ana(), NewVersion::new("m", package(store, "1").await)).await.map(drop),
        registry.delete_model(&root(), "never", "x").await,
    ];
    for result in errors {
        let error = result.unwrap_err();
        assert!(error.is_not_found(), "{registry}: {error}");
    }
    let anew = registry.create_model(&ana(), NewModel::new("m").tag("anew", "yes")).await.unwrap();
    assert_eq!((anew.latest, anew.tags.len()), (0, 1), "{registry}");
    assert_eq!(registry.policy("m", "other").await.unwrap(), AliasPolicy::default(), "{registry}");
    let next = registry.create_version(&ana(), NewVersion::new("m", package(store, "1").await)).await.unwrap();
    assert_eq!(next.version, 3, "{registry}");
    assert_eq!(promote(registry, 3).await, registry.promotions("m").await.unwrap().pop().unwrap().id, "{registry}");
    let path: Vec<_> = registry.promotions("m").await.unwrap().iter().map(|p| (p.kind, p.version)).collect();
    let expected = [(PromotionKind::Promote, 2), (PromotionKind::Remove, 2), (PromotionKind::Promote, 3)];
    assert_eq!(path, expected, "{registry}");
}

/// As for models.
pub async fn versions_are_edited(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let new = NewVersion::new("m", package(store, "1").await);
    let edit = VersionEdit::new().description("better").set_tag("checked", "yes").remove_tag("none");
    let after = registry.edit_version(&ana(), "m", 1, edit.clone()).await.unwrap();
    assert_eq!((after.description.as_str(), after.tags["checked"].as_str()), ("better", "yes"), "{registry}");
    assert_eq!(registry.edit_version(&ana(), "m", 1, edit).await.unwrap(), after, "{registry}");
    assert_eq!(registry.create_version(&ana(), new).await.unwrap(), after, "{registry}: registered so");
    let bare = registry.edit_version(&ana(), "m", 1, VersionEdit::new().remove_tag("checked")).await.unwrap();
    assert_eq!((bare.tags.len(), bare.description.as_str()), (0, "better"), "{registry}");
    assert_eq!(registry.version("m", 1).await.unwrap(), bare, "{registry}");
    if lacks(registry, Limit::Governance) {
        return;
    }
    use EventKind as K;
    let expected = [K::ModelCreated, K::VersionCreated, K::VersionUpdated, K::VersionTagSet, K::VersionTagRemoved];
    assert_eq!(kinds(registry).await, expected, "{registry}");
}

/// Source, link and logged model read back; another key is another version.
pub async fn a_key_makes_another_version(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
    let run = RunId::derived(from_micros(0), b"run");
    let new = NewVersion::new("m", package(store, "1").await).run(run).source("models:/m-1").logged_model("m-1");
    let new = new.run_link("https://example.com/runs/1");
    let first = registry.create_version(&ana(), new.clone()).await.unwrap();
    let told = (first.source.as_str(), first.run_link.as_str(), first.logged_model.as_deref());
    assert_eq!(told, ("models:/m-1", "https://example.com/runs/1", Some("m-1")), "{registry}");
    assert_eq!(registry.version("m", 1).await.unwrap(), first, "{registry}");
    for _ in 0..2 {
        let second = registry.create_version(&ana(), new.clone().key("again")).await.unwrap();
        assert_eq!((second.version, second.package), (2, first.package), "{registry}");
    }
    let other = registry.create_version(&ana(), new.source("elsewhere")).await.unwrap_err();
    assert!(matches!(other, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {other}");
}

/// Contract: a deleted version is not found, its aliases go, its open requests are withdrawn, its number stays taken.
pub async fn deleted_versions_take_their_aliases_along(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 3).await;
    promote(registry, 1).await;
    promote(registry, 3).await;
    let moved = registry.promotions("m").await.unwrap()[1].decision.as_ref().unwrap().at;
    registry.create_model(&ana(), NewModel::new("else")).await.unwrap();
    let open = registry.request_promotion(&ana(), crate::NewPromotion::new("m", 3, "other")).await.unwrap().id;
    for _ in 0..2 {
        registry.delete_version(&root(), "m", 3, "leaks").await.unwrap();
    }
    assert!(registry.version("m", 3).await.unwrap_err().is_not_found(), "{registry}");
    assert!(registry.alias("m", "champion").await.unwrap_err().is_not_found(), "{registry}");
    assert_eq!(registry.versions("m").await.unwrap().len(), 2, "{registry}");
    assert_eq!(registry.model("m").await.unwrap().latest, 2, "{registry}");
    let asked = registry.promotion(open).await.unwrap();
    assert_eq!(asked.state, PromotionState::Withdrawn, "{registry}");
    assert!(asked.decision.unwrap().reason.contains("leaks"), "{registry}");
    assert_eq!(registry.alias_at("m", "champion", moved).await.unwrap(), Some(3), "{registry}: history stays");
    let anew = registry.create_version(&ana(), NewVersion::new("m", package(store, "3").await)).await.unwrap();
    assert_eq!(anew.version, 4, "{registry}");
    // A rollback passes over what was deleted.
    registry.rollback(&dan(), "m", "champion", None, "it is missed").await.unwrap();
    assert_eq!(champion(registry).await.0, 1, "{registry}");
    let never = registry.delete_version(&root(), "m", 9, "x").await.unwrap_err();
    assert!(never.is_not_found(), "{registry}: {never}");
}

/// Contract: what protects a version is named, all of it, with what to do about it.
pub async fn protected_versions_are_not_deleted(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    promote(registry, 1).await;
    registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    registry.hold(&rob(), "m", 1, "asked for by the auditors").await.unwrap();
    let stage = NewStageMove::new("m", 1, "Production");
    registry.move_stage(&root(), stage).await.unwrap();
    registry.set_stage_policy(&root(), "m", "Production", AliasPolicy::approvals(1)).await.unwrap();
    let open = registry.request_promotion(&ana(), crate::NewPromotion::new("m", 1, "other")).await.unwrap().id;
    registry.approve(&rob(), open, "").await.unwrap();
    let whole = registry.delete_model(&root(), "m", "retired").await.unwrap_err();
    assert!(matches!(&whole, Error::Protected { what, .. } if what == "m"), "{registry}: {whole}");
    let expected = ["rob holds it", "champion, which asks for 1 approval", "it is in Production", "approved by rob"];
    for left in (0..=expected.len()).rev() {
        match registry.delete_version(&root(), "m", 1, "leaks").await {
            Ok(()) => assert_eq!(left, 0, "{registry}: deleted although protected"),
            Err(Error::Protected { what, by }) => {
                assert_eq!((what.as_str(), by.len()), ("m v1", left), "{registry}: {by:?}");
                for (reason, found) in expected[expected.len() - left..].iter().zip(&by) {
                    assert!(found.contains(reason), "{registry}: {found}");
                }
            }
            Err(other) => panic!("{registry}: {other}"),
        }
        match left {
            4 => registry.release(&root(), "m", 1, "audit is over").await.unwrap(),
            3 => drop(registry.remove_alias(&root(), "m", "champion", "retired").await.unwrap()),
            2 => drop(registry.move_stage(&root(), NewStageMove::new("m", 1, "Archived")).await.unwrap()),
            1 => drop(registry.withdraw(&ana(), open, "not any more").await.unwrap()),
            _ => {}
        }
    }
    registry.delete_model(&root(), "m", "retired").await.unwrap();
}

/// Contract: holds, by whom and why, once each.
pub async fn holds_are_kept_until_released(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    let ria = who("ria", Role::Reviewer);
    let first = registry.hold(&rob(), "m", 2, "for the auditors").await.unwrap();
    assert_eq!(registry.hold(&rob(), "m", 2, "for the auditors").await.unwrap(), first, "{registry}");
    let other = registry.hold(&rob(), "m", 2, "for others").await.unwrap_err();
    assert!(matches!(other, Error::Core(CoreError::AlreadyExists { .. })), "{registry}: {other}");
    registry.hold(&ria, "m", 2, "for the court").await.unwrap();
    registry.hold(&ria, "m", 1, "for the court").await.unwrap();
    let holds = registry.holds("m").await.unwrap();
    let shown: Vec<(u64, &str)> = holds.iter().map(|h| (h.version, h.by.as_str())).collect();
    assert_eq!(shown, [(1, "ria"), (2, "rob"), (2, "ria")], "{registry}");
    assert!(holds[1].to_string().ends_with("for the auditors"), "{registry}: {}", holds[1]);
    for _ in 0..2 {
        registry.release(&root(), "m", 2, "over").await.unwrap();
    }
    assert_eq!(registry.holds("m").await.unwrap().len(), 1, "{registry}");
    registry.hold(&rob(), "m", 2, "for the auditors").await.unwrap();
    use EventKind as K;
    let held: Vec<K> = kinds(registry).await.split_off(3);
    assert_eq!(held, [K::VersionHeld, K::VersionHeld, K::VersionHeld, K::VersionReleased, K::VersionHeld]);
}

/// Searches find what the filter's meaning says, in pages that join to the whole, and nothing that was deleted.
pub async fn searches_find_what_fits(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    for name in ["prices", "Prices", "demand", "gone"] {
        let new = NewModel::new(name).tag("team", if name == "demand" { "b" } else { "a" });
        registry.create_model(&ana(), new).await.unwrap();
        for seed in ["1", "2", "3"] {
            let mut new = NewVersion::new(name, package(store, seed).await).source(format!("models:/{name}/{seed}"));
            if seed != "3" {
                new = new.tag("checked", seed).run(RunId::derived(from_micros(0), seed.as_bytes()));
            }
            registry.create_version(&ana(), new).await.unwrap();
        }
    }
    promote_of(registry, "demand", 2).await;
    registry.delete_model(&root(), "gone", "retired").await.unwrap();
    registry.delete_version(&root(), "prices", 1, "leaks").await.unwrap();
    let models = registry.models().await.unwrap();
    let filters = [
        ("", 3),
        ("name = 'prices'", 1),
        ("name LIKE '%rices'", 2),
        ("name ILIKE 'PRI%'", 2),
        ("tags.team = 'b'", 1),
        ("tags.team != 'b'", 2),
        ("name LIKE '%' AND tags.`mlflow.prompt.is_prompt` != 'true'", 3),
        ("tags.none = 'x'", 0),
    ];
    for (filter, expected) in filters {
        let found = registry.search_models(Search::new(filter)).await.unwrap();
        let meant = Filter::parse(Entity::Models, filter).unwrap();
        let fitting: Vec<_> = models.iter().filter(|model| meant.fits(*model, &[])).cloned().collect();
        assert_eq!((&found.items, found.items.len()), (&fitting, expected), "{registry}: {filter}");
    }
    let run = RunId::derived(from_micros(0), b"2");
    let filters = [
        ("".to_owned(), 8),
        ("name = 'demand'".to_owned(), 3),
        ("name IN ('demand', 'prices') AND version_number > 1".to_owned(), 4),
        (format!("run_id = '{run}'"), 3),
        ("source_path LIKE 'models:/demand/%'".to_owned(), 3),
        ("tags.checked = '1'".to_owned(), 2),
        ("tags.checked IS NULL".to_owned(), 3),
    ];
    for (filter, expected) in filters {
        if lacks(registry, Limit::Filters) && filter.contains("NULL") {
            refused(Limit::Filters, registry.search_versions(Search::new(&filter)).await);
            continue;
        }
        // Versions come from where the system put their files.
        if lacks(registry, Limit::OwnUris) && filter.contains("source_path") {
            continue;
        }
        let mut all: Vec<ModelVersion> = Vec::new();
        for model in registry.models().await.unwrap() {
            all.extend(registry.versions(&model.name).await.unwrap().into_iter().rev());
        }
        let meant = Filter::parse(Entity::Versions, &filter).unwrap();
        all.retain(|version| meant.fits(version, &[]));
        let mut found = Vec::new();
        let mut search = Search::new(&filter).limit(2);
        loop {
            let page = registry.search_versions(search.clone()).await.unwrap();
            found.extend(page.items);
            let Some(next) = page.next else { break };
            search = search.after(next);
        }
        assert_eq!((&found, found.len()), (&all, expected), "{registry}: {filter}");
    }
    let newest = Search::new("").order_by("version_number DESC").order_by("name DESC").limit(1);
    let newest = registry.search_versions(newest).await.unwrap();
    assert_eq!((newest.items[0].model.as_str(), newest.items[0].version), ("prices", 3), "{registry}");
    let champion = registry.search_versions(Search::new("name = 'demand' AND version_number = 2")).await.unwrap();
    assert_eq!(champion.items[0].aliases, ["champion"], "{registry}");
    for bad in ["name > 'a'", "metrics.x > 1", "name = 1"] {
        let error = registry.search_models(Search::new(bad)).await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {error}");
    }
}

async fn promote_of(registry: &dyn ModelRegistry, model: &str, version: u64) {
    registry.move_alias(&root(), crate::NewPromotion::new(model, version, "champion")).await.unwrap();
}

/// An edit of what an open request is about does not touch the request.
pub async fn edits_leave_requests_alone(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let open = request(registry, 1).await;
    registry.edit_version(&ana(), "m", 1, VersionEdit::new().set_tag("a", "b")).await.unwrap();
    registry.edit_model(&ana(), "m", ModelEdit::new().set_tag("a", "b")).await.unwrap();
    registry.edit_model(&root(), "m", ModelEdit::new().rename("n")).await.unwrap();
    let done = registry.promote(&dan(), open).await.unwrap();
    assert_eq!((done.model.as_str(), done.revision), ("n", Some(1)), "{registry}");
}
