//! Moves of aliases and stages in one call, removals, withdrawals, and what was when.

use std::time::Duration;

use futures::future::join_all;
use mlops_core::clock::from_micros;
use mlops_core::{ArtifactStore, Clock as _, Error as CoreError, Finding, PromotionId, Role, SystemClock, Verdict};

use super::{ana, champion, dan, lacks, promote, request, rob, root, versions};
use crate::conformance::who;
use crate::{
    AliasPolicy, Error, EventKind, EvidenceRule, Limit, ModelRegistry, NewPromotion, NewStageMove, PromotionKind,
    PromotionState, StageTable, Target,
};

fn to(version: u64) -> NewPromotion {
    NewPromotion::new("m", version, "champion").reason("better")
}

async fn stage_of(registry: &dyn ModelRegistry, version: u64) -> String {
    registry.version("m", version).await.unwrap().stage
}

/// Contract: requests and carries out in one transaction, once.
pub async fn an_alias_moves_in_one_call(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    let first = registry.move_alias(&root(), to(1)).await.unwrap();
    assert_eq!((first.state, first.revision, first.requested_by.as_str()), (PromotionState::Promoted, Some(1), "root"));
    assert_eq!(registry.move_alias(&root(), to(1).reason("other words")).await.unwrap(), first, "{registry}");
    registry.move_alias(&root(), to(2)).await.unwrap();
    assert_eq!(champion(registry).await, (2, 2), "{registry}");
    let id = PromotionId::derived(from_micros(0), b"1");
    for _ in 0..2 {
        let back = registry.move_alias(&root(), to(1).id(id)).await.unwrap();
        assert_eq!((back.id, back.revision), (id, Some(3)), "{registry}");
    }
    if !lacks(registry, Limit::Governance) {
        assert_eq!(registry.promotions("m").await.unwrap().len(), 3, "{registry}");
    }
    assert_eq!(registry.version("m", 1).await.unwrap().aliases, ["champion"], "{registry}");
}

/// Contract: the request is kept where approvals are missing, and found again by the same call.
pub async fn a_call_that_lacks_approvals_leaves_a_request(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let error = registry.move_alias(&root(), to(2)).await.unwrap_err();
        let Error::ApprovalMissing { promotion, found: 0, needed: 1, .. } = error else {
            panic!("{registry}: {error}")
        };
        assert!(error.to_string().contains(&promotion.to_string()), "{registry}: {error}");
        ids.push(promotion);
    }
    assert_eq!(ids[0], ids[1], "{registry}");
    let open = registry.promotion(ids[0]).await.unwrap();
    assert_eq!((open.state, open.version), (PromotionState::Requested, 2), "{registry}");
    let own = registry.approve(&root(), ids[0], "").await.unwrap_err();
    assert!(matches!(own, Error::FourEyes { .. }), "{registry}: {own}");
    registry.approve(&rob(), ids[0], "").await.unwrap();
    let moved = registry.move_alias(&root(), to(2)).await.unwrap();
    assert_eq!((moved.id, moved.state), (ids[0], PromotionState::Promoted), "{registry}");
    // What a rule on evidence refuses would never pass, and is not kept.
    registry
        .set_policy(&root(), "m", "champion", AliasPolicy::default().evidence(EvidenceRule::AllPass))
        .await
        .unwrap();
    let error = registry.move_alias(&root(), to(1)).await.unwrap_err();
    assert!(matches!(error, Error::EvidenceMissing { .. }), "{registry}: {error}");
    assert_eq!(registry.promotions("m").await.unwrap().len(), 1, "{registry}");
    let passed = to(1).evidence([Finding::new("accuracy", Verdict::Pass, "better")]);
    registry.move_alias(&root(), passed).await.unwrap();
}

/// Contract: a removal is recorded, tells, and is undone by a rollback; a protected alias needs an administrator.
pub async fn a_removed_alias_comes_back(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    promote(registry, 1).await;
    promote(registry, 2).await;
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
    let then = removed.decision.as_ref().unwrap().at;
    assert_eq!(registry.alias_at("m", "champion", then).await.unwrap(), None, "{registry}");
    assert!(registry.aliases_at("m", then).await.unwrap().is_empty(), "{registry}");
    registry.rollback(&dan(), "m", "champion", None, "it is missed").await.unwrap();
    assert_eq!(champion(registry).await, (2, 4), "{registry}");
    registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
    assert_eq!(champion(registry).await, (1, 5), "{registry}");
    // Set again after a removal, a rollback leads to what was before that.
    registry.remove_alias(&dan(), "m", "champion", "retired").await.unwrap();
    promote(registry, 2).await;
    registry.rollback(&dan(), "m", "champion", None, "worse").await.unwrap();
    assert_eq!(champion(registry).await, (1, 8), "{registry}");
    registry.set_policy(&root(), "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    let error = registry.remove_alias(&dan(), "m", "champion", "x").await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::PermissionDenied { .. })), "{registry}: {error}");
    registry.remove_alias(&root(), "m", "champion", "x").await.unwrap();
    let told: Vec<_> = registry.events(0, 1_000).await.unwrap().into_iter().rev().take(1).collect();
    assert_eq!((told[0].kind, told[0].version, told[0].revision), (EventKind::AliasRemoved, Some(1), Some(9)));
}

/// A request that saw the alias elsewhere does not move it after it was removed.
pub async fn a_removal_makes_open_requests_stale(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    promote(registry, 1).await;
    let open = request(registry, 2).await;
    registry.remove_alias(&dan(), "m", "champion", "retired").await.unwrap();
    let error = registry.promote(&dan(), open).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("removed"), "{registry}: {error}");
    let error = registry.remove_alias(&dan(), "m", "champion", " ").await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {error}");
}

/// Contract: only who asked takes a request back, and its reason stays.
pub async fn who_asked_may_withdraw(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let id = request(registry, 1).await;
    let error = registry.withdraw(&who("eve", Role::Admin), id, "no").await.unwrap_err();
    assert!(matches!(&error, Error::NotWhoAsked { asked_by, .. } if asked_by == "ana"), "{registry}: {error}");
    let unexplained = registry.withdraw(&ana(), id, " ").await.unwrap_err();
    assert!(matches!(unexplained, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {unexplained}");
    for _ in 0..2 {
        let done = registry.withdraw(&ana(), id, "a better one comes").await.unwrap();
        assert_eq!(done.state, PromotionState::Withdrawn, "{registry}");
        assert!(done.to_string().ends_with(": a better one comes"), "{registry}: {done}");
    }
    let after = [registry.promote(&dan(), id).await, registry.approve(&rob(), id, "").await];
    for result in after {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Decided { state: PromotionState::Withdrawn, .. }), "{registry}: {error}");
    }
    let error = registry.withdraw(&ana(), id, "other words").await.unwrap_err();
    assert!(matches!(error, Error::Decided { .. }), "{registry}: {error}");
}

/// Contract: which versions an alias pointed at over a period, without gaps but where it was removed.
pub async fn alias_history_tells_who_was_champion(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 3).await;
    let pause = || std::thread::sleep(Duration::from_millis(2));
    for version in [1, 2] {
        promote(registry, version).await;
        pause();
    }
    registry.remove_alias(&dan(), "m", "champion", "retired").await.unwrap();
    pause();
    promote(registry, 3).await;
    let far = SystemClock.now() + Duration::from_secs(3_600);
    let all = registry.alias_history("m", "champion", from_micros(0), far).await.unwrap();
    let shown: Vec<(u64, &str)> = all.iter().map(|t| (t.version, t.by.as_str())).collect();
    assert_eq!(shown, [(1, "dan"), (2, "dan"), (3, "dan")], "{registry}");
    assert_eq!((all[0].until, all[2].until), (Some(all[1].from), None), "{registry}");
    assert!(all[1].until.unwrap() < all[2].from, "{registry}: nobody was in between");
    for tenure in &all {
        let then = registry.alias_at("m", "champion", tenure.from).await.unwrap();
        assert_eq!(then, Some(tenure.version), "{registry}");
    }
    let instant = Duration::from_micros(1);
    let second = registry.alias_history("m", "champion", all[1].from, all[1].from + instant).await.unwrap();
    assert_eq!(second, all[1..2], "{registry}");
    let before = registry.alias_history("m", "champion", from_micros(0), all[0].from).await.unwrap();
    assert!(before.is_empty(), "{registry}");
    let gap = registry.alias_history("m", "champion", all[1].until.unwrap(), all[2].from).await.unwrap();
    assert!(gap.is_empty(), "{registry}");
    registry.move_alias(&root(), NewPromotion::new("m", 1, "other")).await.unwrap();
    let now: Vec<(String, u64)> = registry.aliases_at("m", far).await.unwrap().into_iter().collect();
    assert_eq!(now, [("champion".to_owned(), 3), ("other".to_owned(), 1)], "{registry}");
}

/// Contract: stages move as aliases do, with a record; in any case of letters; not to where they are.
pub async fn stages_move_with_a_record(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    assert_eq!(stage_of(registry, 1).await, "None", "{registry}");
    let passed = Finding::new("accuracy", Verdict::Pass, "better");
    let new = NewStageMove::new("m", 1, "staging").evidence([passed.clone()]).reason("to be tried");
    let id = registry.request_stage(&ana(), new).await.unwrap().id;
    registry.approve(&rob(), id, "looks right").await.unwrap();
    assert_eq!(stage_of(registry, 1).await, "None", "{registry}");
    let done = registry.promote(&dan(), id).await.unwrap();
    assert_eq!((done.from_stage.as_deref(), done.target.clone()), (Some("None"), Target::Stage("Staging".into())));
    assert_eq!((done.seen_revision, done.revision, &*done.evidence), (0, Some(1), &[passed][..]), "{registry}");
    let shown = "m v1 None → Staging: promoted by dan at ";
    assert!(done.to_string().starts_with(shown), "{registry}: {done}");
    assert!(done.to_string().ends_with(", asked by ana, approved by rob: to be tried"), "{registry}: {done}");
    let found = registry.version("m", 1).await.unwrap();
    assert_eq!((found.stage.as_str(), found.stage_revision), ("Staging", 1), "{registry}");
    let again = registry.request_stage(&ana(), NewStageMove::new("m", 1, "STAGING")).await.unwrap_err();
    assert!(matches!(again, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {again}");
    let same = registry.move_stage(&root(), NewStageMove::new("m", 1, "Staging")).await.unwrap();
    assert_eq!(same.id, id, "{registry}: it stays");
    let unknown = registry.move_stage(&root(), NewStageMove::new("m", 1, "Live")).await.unwrap_err();
    let named = "\"Live\" is not one of None, Staging, Production, Archived";
    assert!(unknown.to_string().contains(named), "{registry}: {unknown}");
    let told = registry.events(0, 1_000).await.unwrap().pop().unwrap();
    assert_eq!((told.kind, told.stage.as_deref(), told.version), (EventKind::StageMoved, Some("Staging"), Some(1)));
    assert_eq!((told.details["from"].as_str(), told.alias), ("None", None), "{registry}");
}

/// Contract: legal moves are those of the table, of the model, else of the registry.
pub async fn stages_move_by_the_table(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    let stage = |version, to: &str| NewStageMove::new("m", version, to);
    registry.set_stages(&root(), None, StageTable::strict().allow("None", "Archived")).await.unwrap();
    assert_eq!(registry.stages(Some("m")).await.unwrap(), registry.stages(None).await.unwrap(), "{registry}");
    let error = registry.move_stage(&root(), stage(1, "Production")).await.unwrap_err();
    let expected = "m v1 may not go from None to Production; from None the table lets it go to Archived or Staging";
    assert!(error.to_string().contains(expected), "{registry}: {error}");
    let open = registry.request_stage(&ana(), stage(2, "Staging")).await.unwrap().id;
    registry.move_stage(&root(), stage(1, "Staging")).await.unwrap();
    let own = StageTable::new(["dev", "qa", "live", "old"]).archive("old").allow("dev", "qa").allow("qa", "live");
    let error = registry.set_stages(&root(), Some("m"), own.clone()).await.unwrap_err();
    assert!(error.to_string().contains("m v1 is in Staging"), "{registry}: {error}");
    registry.move_stage(&root(), stage(1, "Production")).await.unwrap();
    registry.delete_version(&root(), "m", 1, "leaks").await.unwrap();
    registry.set_stages(&root(), Some("m"), own.clone()).await.unwrap();
    assert_eq!(stage_of(registry, 2).await, "dev", "{registry}: one that never moved begins in the first");
    // The table is that of the moment of the move.
    let error = registry.promote(&dan(), open).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {error}");
    registry.move_stage(&root(), stage(2, "QA")).await.unwrap();
    assert_eq!(stage_of(registry, 2).await, "qa", "{registry}");
    registry.set_stages(&root(), None, StageTable::default()).await.unwrap();
    assert_eq!(registry.stages(Some("m")).await.unwrap(), own, "{registry}");
    let bad = registry.set_stages(&root(), None, StageTable::new(["a", "A"])).await.unwrap_err();
    assert!(matches!(bad, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {bad}");
}

/// Contract: what makes way is recorded too, in the same transaction.
pub async fn existing_versions_make_way(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 4).await;
    let stage = |version, to: &str| NewStageMove::new("m", version, to);
    for version in [1, 2] {
        registry.move_stage(&root(), stage(version, "Production")).await.unwrap();
    }
    registry.move_stage(&root(), stage(4, "Staging")).await.unwrap();
    registry.move_stage(&root(), stage(3, "Production").archive_existing()).await.unwrap();
    let mut found = Vec::new();
    for version in 1..=4 {
        found.push(stage_of(registry, version).await);
    }
    assert_eq!(found, ["Archived", "Archived", "Production", "Staging"], "{registry}");
    let moves = registry.promotions("m").await.unwrap();
    let last: Vec<(u64, &str)> = moves[moves.len() - 3..].iter().map(|p| (p.version, p.target.name())).collect();
    assert_eq!(last, [(3, "Production"), (1, "Archived"), (2, "Archived")], "{registry}");
    assert!(moves[moves.len() - 1].reason.contains(&moves[moves.len() - 3].id.to_string()), "{registry}");
    let numbers = async |stages: &[&str]| -> Vec<u64> {
        registry.latest_versions("m", stages).await.unwrap().iter().map(|v| v.version).collect()
    };
    assert_eq!(numbers(&[]).await, [4, 3, 2], "{registry}: Staging, Production, Archived");
    assert_eq!(numbers(&["archived", "None"]).await, [2], "{registry}");
    let unknown = registry.latest_versions("m", &["Live"]).await.unwrap_err();
    assert!(matches!(unknown, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {unknown}");
    let nowhere = registry.move_stage(&root(), stage(4, "Archived").archive_existing()).await.unwrap_err();
    assert!(matches!(nowhere, Error::Core(CoreError::InvalidInput { .. })), "{registry}: {nowhere}");
    // All or nothing: Production may not be left by this table.
    let table = StageTable::default().allow("Staging", "Production");
    registry.set_stages(&root(), Some("m"), table).await.unwrap();
    let refused = registry.move_stage(&root(), stage(4, "Production").archive_existing()).await.unwrap_err();
    assert!(refused.to_string().contains("m v3 may not go from Production to Archived"), "{registry}: {refused}");
    assert_eq!(
        (stage_of(registry, 4).await, registry.promotions("m").await.unwrap().len()),
        ("Staging".into(), moves.len())
    );
}

/// Contract: a stage with a policy asks for it as an alias does.
pub async fn a_protected_stage_needs_its_approvals(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let policy = AliasPolicy::approvals(1).check("accuracy");
    registry.set_stage_policy(&root(), "m", "production", policy.clone()).await.unwrap();
    assert_eq!(registry.stage_policy("m", "Production").await.unwrap(), policy, "{registry}");
    assert_eq!(registry.policy("m", "Production").await.unwrap(), AliasPolicy::default(), "{registry}: no alias");
    let new = NewStageMove::new("m", 1, "Production");
    let passed = new.clone().evidence([Finding::new("accuracy", Verdict::Pass, "better")]);
    for _ in 0..2 {
        let error = registry.move_stage(&root(), passed.clone()).await.unwrap_err();
        let Error::ApprovalMissing { promotion, .. } = error else { panic!("{registry}: {error}") };
        if stage_of(registry, 1).await == "None" && registry.promotion(promotion).await.unwrap().approvals.is_empty() {
            registry.approve(&rob(), promotion, "").await.unwrap();
            break;
        }
    }
    registry.move_stage(&root(), passed).await.unwrap();
    assert_eq!(stage_of(registry, 1).await, "Production", "{registry}");
    registry.move_stage(&root(), NewStageMove::new("m", 1, "None")).await.unwrap();
    let bare = registry.request_stage(&ana(), new).await.unwrap().id;
    registry.approve(&rob(), bare, "").await.unwrap();
    let error = registry.promote(&dan(), bare).await.unwrap_err();
    assert!(error.to_string().contains("asks for accuracy, and the request does not have it"), "{registry}: {error}");
}

/// Contract: compare-and-swap, of stages.
pub async fn of_two_stage_moves_one_wins(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let mut ids = Vec::new();
    for to in ["Staging", "Production", "Archived", "Staging"] {
        ids.push(registry.request_stage(&ana(), NewStageMove::new("m", 1, to)).await.unwrap().id);
    }
    let dan = dan();
    let results = join_all(ids.iter().map(|id| registry.promote(&dan, *id))).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 3), "{registry}");
    for error in lost {
        let error = error.unwrap_err();
        assert!(error.is_conflict() && error.to_string().contains("m/1"), "{registry}: {error}");
    }
    let found = registry.version("m", 1).await.unwrap();
    assert_eq!((found.stage.as_str(), found.stage_revision), (won[0].as_ref().unwrap().target.name(), 1), "{registry}");
}

/// Contract: `stage_at` answers for any past moment, from the registration to the deletion.
pub async fn stages_travel_in_time(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 2).await;
    let pause = || std::thread::sleep(Duration::from_millis(2));
    let created = registry.version("m", 1).await.unwrap().created_at;
    let mut moved = Vec::new();
    for to in ["Staging", "Production"] {
        pause();
        moved.push(registry.move_stage(&root(), NewStageMove::new("m", 1, to)).await.unwrap().decision.unwrap().at);
    }
    pause();
    registry.delete_version(&root(), "m", 1, "leaks").await.unwrap();
    let instant = Duration::from_micros(1);
    let far = SystemClock.now() + Duration::from_secs(3_600);
    let cases = [
        (created - instant, None),
        (created, Some("None")),
        (moved[0] - instant, Some("None")),
        (moved[0], Some("Staging")),
        (moved[1], Some("Production")),
        (far, None),
    ];
    for (at, expected) in cases {
        let then = registry.stage_at("m", 1, at).await.unwrap();
        assert_eq!(then.as_deref(), expected, "{registry}: at {at}");
    }
    assert_eq!(registry.stage_at("m", 2, far).await.unwrap().as_deref(), Some("None"), "{registry}");
    assert!(registry.stage_at("m", 9, far).await.unwrap_err().is_not_found(), "{registry}");
}

/// Contract: approvals count as the policy names people and roles, and the error says whose are missing.
pub async fn approvals_count_as_the_policy_says(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let ria = who("ria", Role::Reviewer);
    let boss = who("boss", Role::Admin);
    // ana asks and registered: her name on the list helps nobody.
    let named = AliasPolicy::approvals(2).reviewers(["ana", "ria", "zoe", "kim"]);
    registry.set_policy(&root(), "m", "champion", named.clone()).await.unwrap();
    let id = request(registry, 1).await;
    for reviewer in [&rob(), &ria] {
        registry.approve(reviewer, id, "").await.unwrap();
    }
    let error = registry.promote(&dan(), id).await.unwrap_err();
    let text = "1 of 2 approvals given, 1 missing from kim or zoe (that of rob does not count)";
    assert!(error.to_string().contains(text), "{registry}: {error}");
    registry.set_policy(&root(), "m", "champion", named.role(Role::Admin)).await.unwrap();
    let error = registry.promote(&dan(), id).await.unwrap_err();
    assert!(error.to_string().contains("1 missing from kim, zoe or an admin"), "{registry}: {error}");
    let given = registry.approve(&boss, id, "").await.unwrap();
    assert_eq!(given.approvals[2].roles, [Role::Admin], "{registry}");
    registry.promote(&dan(), id).await.unwrap();
    let never = AliasPolicy::approvals(2).reviewers(["rob"]);
    let error = registry.set_policy(&root(), "m", "champion", never).await.unwrap_err();
    assert!(error.to_string().contains("2 of 1 reviewers can never approve"), "{registry}: {error}");
}

/// Contract: an approval and evidence that are too old do not count; who gave the approval may give it again.
pub async fn approvals_and_evidence_expire(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    let policy = AliasPolicy::approvals(1).approvals_max_age(Duration::from_millis(1));
    registry.set_policy(&root(), "m", "champion", policy).await.unwrap();
    let passed = to(1).evidence([Finding::new("accuracy", Verdict::Pass, "better")]);
    let id = registry.request_promotion(&ana(), passed).await.unwrap().id;
    let first = registry.approve(&rob(), id, "fine").await.unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let error = registry.promote(&dan(), id).await.unwrap_err();
    assert!(
        matches!(&error, Error::ApprovalMissing { found: 0, ignored, .. } if ignored.len() == 1),
        "{registry}: {error}"
    );
    assert!(error.to_string().contains("that of rob is older than"), "{registry}: {error}");
    let second = registry.approve(&rob(), id, "still fine").await.unwrap();
    assert_eq!(second.approvals.len(), 1, "{registry}");
    assert!(second.approvals[0].at > first.approvals[0].at, "{registry}");
    let policy = AliasPolicy::approvals(1).check("accuracy").evidence_max_age(Duration::from_millis(1));
    registry.set_policy(&root(), "m", "champion", policy.clone()).await.unwrap();
    let error = registry.promote(&dan(), id).await.unwrap_err();
    assert!(error.to_string().contains("ask again with new ones"), "{registry}: {error}");
    registry.set_policy(&root(), "m", "champion", policy.evidence_max_age(Duration::from_secs(60))).await.unwrap();
    registry.promote(&dan(), id).await.unwrap();
}

/// Contract: named checks must be there and have passed, whatever became of others.
pub async fn named_checks_must_have_passed(registry: &dyn ModelRegistry, store: &dyn ArtifactStore) {
    versions(registry, store, 1).await;
    registry.set_policy(&root(), "m", "champion", AliasPolicy::default().check("fair").check("good")).await.unwrap();
    let check = |name: &str, verdict| Finding::new(name, verdict, "measured");
    let (fair, good) = (check("fair", Verdict::Pass), check("good", Verdict::Pass));
    let cases = [
        (vec![], "asks for fair and good"),
        (vec![fair.clone()], "asks for good"),
        (vec![fair.clone(), check("good", Verdict::Inconclusive)], "good (inconclusive)"),
    ];
    for (evidence, expected) in cases {
        let error = registry.move_alias(&root(), to(1).evidence(evidence)).await.unwrap_err();
        assert!(matches!(error, Error::EvidenceMissing { .. }), "{registry}: {error}");
        assert!(error.to_string().contains(expected), "{registry}: {error}");
    }
    let other = check("slow", Verdict::Fail);
    registry.move_alias(&root(), to(1).evidence([fair, good, other])).await.unwrap();
}
