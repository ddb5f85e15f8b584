//! The cases of [`model_registry_conformance!`](crate::model_registry_conformance).

mod edits;
mod moves;
mod ungoverned;

use std::time::Duration;

use futures::future::join_all;
use mlops_core::clock::from_micros;
use mlops_core::signature::{ColumnSpec, ColumnType};
use mlops_core::{
    ArtifactStore, Clock as _, Digest, Error as CoreError, Finding, Measurement, Package, Principal, PromotionId, Role,
    RunId, Signature, SystemClock, Timestamp, Verdict,
};

pub use self::edits::*;
pub use self::moves::*;
pub use self::ungoverned::*;
use super::who;
use crate::{
    AliasPolicy, Error, EventKind, EvidenceRule, Limit, ModelEdit, ModelRegistry, NewModel, NewPromotion, NewStageMove,
    NewVersion, PromotionKind, PromotionState, StageTable, Target, VersionEdit,
};

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

fn lacks(registry: &dyn ModelRegistry, limit: Limit) -> bool {
    registry.registry_limits().contains(&limit)
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
    if lacks(registry, Limit::CompareAndSwap) {
        // Of two registrations of one package at the same time both may be kept.
        let create = async |i: usize| {
            let package = package(store, &i.to_string()).await;
            registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap().version
        };
        let mut numbers = join_all((0..8).map(create)).await;
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=8).collect::<Vec<u64>>(), "{registry}");
        return;
    }
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
    registry.set_policy(&root(), "m", "champion", policy.clone()).await.unwrap();
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
        assert_eq!(registry.events(0, 1_000).await.unwrap().len(), 3 + 1 + 3 + 3 + 1, "{registry}: round {round}");
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
    for key in ["", " a", &huge] {
        results.push(registry.edit_version(&ana(), "m", 1, VersionEdit::new().set_tag(key, "")).await.map(drop));
    }
    let digest = package(store, "1").await;
    results.push(registry.create_version(&ana(), NewVersion::new("m", digest).source(&huge)).await.map(drop));
    results.push(registry.edit_model(&ana(), "m", ModelEdit::new().description(&huge)).await.map(drop));
    results.push(registry.move_stage(&root(), NewStageMove::new("m", 1, &huge)).await.map(drop));
    results.push(registry.set_stage_policy(&root(), "m", "Live", AliasPolicy::approvals(1)).await);
    results.push(registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1).check(&huge)).await);
    results.push(registry.hold(&rob(), "m", 1, " ").await.map(drop));
    results.push(registry.delete_version(&root(), "m", 1, "").await);
    results.push(registry.delete_model(&root(), "m", &huge).await);
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
        (registry.edit_model(&ana(), "nil", ModelEdit::new()).await.map(drop), "\"nil\""),
        (registry.delete_model(&root(), "nil", "x").await, "\"nil\""),
        (registry.set_stages(&root(), Some("nil"), StageTable::strict()).await, "\"nil\""),
        (registry.stages(Some("nil")).await.map(drop), "\"nil\""),
        (registry.stage_policy("nil", "Staging").await.map(drop), "\"nil\""),
        (registry.latest_versions("nil", &[]).await.map(drop), "\"nil\""),
        (registry.move_alias(&root(), NewPromotion::new("nil", 1, "a")).await.map(drop), "\"nil\""),
        (registry.move_stage(&root(), NewStageMove::new("nil", 1, "Staging")).await.map(drop), "\"nil\""),
        (registry.aliases_at("nil", from_micros(0)).await.map(drop), "\"nil\""),
        (registry.alias_history("nil", "a", from_micros(0), from_micros(9)).await.map(drop), "\"nil\""),
        (registry.stage_at("nil", 1, from_micros(0)).await.map(drop), "\"nil\""),
        (registry.holds("nil").await.map(drop), "\"nil\""),
        (registry.remove_alias(&dan(), "nil", "champion", "x").await.map(drop), "\"nil\""),
        (registry.edit_version(&ana(), "m", 2, VersionEdit::new()).await.map(drop), "m/2"),
        (registry.delete_version(&root(), "m", 2, "x").await, "m/2"),
        (registry.hold(&rob(), "m", 2, "x").await.map(drop), "m/2"),
        (registry.release(&root(), "m", 2, "x").await, "m/2"),
        (registry.request_stage(&ana(), NewStageMove::new("m", 2, "Staging")).await.map(drop), "m/2"),
        (registry.remove_alias(&dan(), "m", "champion", "x").await.map(drop), "m@champion"),
        (registry.withdraw(&ana(), none, "x").await.map(drop), &none.to_string()),
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
            ("approve", matches!(role, Role::Reviewer | Role::Admin), registry.approve(&eve, open, "").await.map(drop)),
            ("set_policy", role == Role::Admin, registry.set_policy(&eve, "m", "other", policy.clone()).await),
            ("set_stage_policy", role == Role::Admin, registry.set_stage_policy(&eve, "m", "Archived", policy).await),
            ("set_stages", role == Role::Admin, registry.set_stages(&eve, Some("m"), StageTable::default()).await),
            ("set_stages of all", role == Role::Admin, registry.set_stages(&eve, None, StageTable::strict()).await),
            (
                "edit_model",
                contributes,
                registry.edit_model(&eve, "m", ModelEdit::new().set_tag("by", role.as_str())).await.map(drop),
            ),
            (
                "edit_version",
                contributes,
                registry.edit_version(&eve, "m", 2, VersionEdit::new().set_tag("by", role.as_str())).await.map(drop),
            ),
            (
                "request_stage",
                contributes,
                registry.request_stage(&eve, NewStageMove::new("m", 2, "Staging")).await.map(drop),
            ),
            (
                "move_alias",
                role == Role::Admin,
                registry.move_alias(&eve, NewPromotion::new("m", 2, "other")).await.map(drop),
            ),
            (
                "move_stage",
                role == Role::Admin,
                registry.move_stage(&eve, NewStageMove::new("m", 1, "Staging")).await.map(drop),
            ),
            (
                "hold",
                matches!(role, Role::Reviewer | Role::Admin),
                registry.hold(&eve, "m", 1, "audit").await.map(drop),
            ),
            ("release", role == Role::Admin, registry.release(&eve, "m", 1, "over").await),
        ];
        for (call, may, result) in calls {
            match result {
                Ok(()) => assert!(may, "{registry}: {role:?} could {call}"),
                Err(Error::Core(CoreError::PermissionDenied { .. })) => {
                    assert!(!may, "{registry}: {role:?} could not {call}");
                }
                Err(Error::ApprovalMissing { .. }) => assert!(may, "{registry}: {role:?} could {call}"),
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
                registry.remove_alias(&eve, "m", "champion", "no").await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
            }
        }
    }
    let dora = who("dora", Role::Deployer);
    for eve in [&ana(), &rob(), &dora, &who("vic", Role::Viewer)] {
        let errors = [
            registry.edit_model(eve, "m", ModelEdit::new().rename("mine")).await.map(drop),
            registry.delete_version(eve, "m", 2, "no").await,
            registry.delete_model(eve, "m", "no").await,
            registry.withdraw(&who("vic", Role::Viewer), open, "no").await.map(drop),
        ];
        for result in errors {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
        }
    }
    // What holds on one alias or stage holds on no other.
    let on = |target: Target| target.resource("m");
    let narrow = Principal::new("nora")
        .with_role_on(Role::Admin, on(Target::Alias("staging".into())))
        .with_role_on(Role::Admin, on(Target::Stage("Production".into())));
    registry.move_alias(&narrow, NewPromotion::new("m", 1, "staging")).await.unwrap();
    registry.move_stage(&narrow, NewStageMove::new("m", 2, "production")).await.unwrap();
    for result in [
        registry.move_alias(&narrow, NewPromotion::new("m", 2, "champion")).await,
        registry.move_stage(&narrow, NewStageMove::new("m", 2, "Archived")).await,
        registry.remove_alias(&narrow, "m", "champion", "no").await,
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
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
