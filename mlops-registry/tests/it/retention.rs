//! Deletion, retention and the bytes that they free; lineage and events of renames; the schema before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlops_core::audit::AuditLogExt as _;
use mlops_core::clock::{ManualClock, from_micros};
use mlops_core::lineage::{LineageStore as _, NodeRef};
use mlops_core::store::{ArtifactStoreExt as _, Collector, MemoryStore, Roots as _, usage};
use mlops_core::{ModelRef, ModelSource as _, PromotionId, Role, RunId};
use mlops_registry::conformance::model_registry::package;
use mlops_registry::{
    AliasPolicy, Artifact, ArtifactMode, EvidenceRule, LogBatch, ModelEdit, ModelRegistry, NewExperiment, NewModel,
    NewPromotion, NewRun, NewVersion, Retention, Search, SqlRegistry, Target, TrackingStore,
};
use sqlx::Connection as _;

use crate::{builder, in_memory, versions, who};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn collect(registry: &SqlRegistry, store: &MemoryStore) -> u64 {
    let collector = Collector::builder(Arc::new(store.clone())).roots(registry.clone()).grace(Duration::ZERO);
    collector.build().unwrap().collect().await.unwrap().bytes_deleted
}

#[tokio::test]
async fn bytes_go_down_only_once_a_deleted_version_is_purged() {
    let clock = ManualClock::at("1997-01-01T00:00:00Z".parse().unwrap());
    let store = MemoryStore::default();
    let registry = builder(&store).clock(clock.clone()).open_in_memory().await.unwrap();
    let (root, rob) = (who("root", Role::Admin), who("rob", Role::Reviewer));
    versions(&registry, &store, 5).await;
    // 1 is pointed at, 2 held, 3 approved, 4 and 5 nothing.
    registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    let first = registry.move_alias(&root, NewPromotion::new("m", 1, "other")).await.unwrap();
    assert_eq!(first.revision, Some(1));
    registry.set_policy(&root, "m", "other", AliasPolicy::approvals(1)).await.unwrap();
    registry.hold(&rob, "m", 2, "audit").await.unwrap();
    let ana = who("ana", Role::Contributor);
    let open = registry.request_promotion(&ana, NewPromotion::new("m", 3, "champion")).await.unwrap().id;
    registry.approve(&rob, open, "").await.unwrap();
    let before = usage(&store, "artifacts/").await.unwrap();
    let mut gone = Vec::new();
    for version in 1..=5 {
        if registry.delete_version(&root, "m", version, "cleaning up").await.is_ok() {
            gone.push(version);
        }
    }
    assert_eq!(gone, [4, 5]);
    assert_eq!(collect(&registry, &store).await, 0, "deleted, and not purged yet");
    let month = Retention::older_than(DAY * 30);
    clock.advance(DAY * 29);
    assert_eq!(registry.purge(&root, month, "policy 7").await.unwrap().versions, 0);
    clock.advance(DAY * 2);
    registry.purge(&who("dan", Role::Deployer), month, "policy 7").await.unwrap_err();
    registry.purge(&root, month, " ").await.unwrap_err();
    let purged = registry.purge(&root, month, "policy 7").await.unwrap();
    assert_eq!((purged.versions, purged.models, purged.runs), (2, 0, 0));
    let freed = collect(&registry, &store).await;
    let after = usage(&store, "artifacts/").await.unwrap();
    assert!(freed > 0, "nothing was freed");
    assert_eq!(after.bytes, before.bytes - freed);
    // Lists, descriptions and weights of two packages; what packages share stays.
    assert!(after.objects < before.objects, "{before} {after}");
    for version in 1..=3 {
        let found = registry.resolve(&ModelRef::version("m", version)).await.unwrap();
        registry.package(&found).await.unwrap();
    }
    let last = registry.all_entries().await.unwrap().pop().unwrap().event;
    assert_eq!(
        (&*last.action, &*last.reason, last.after["purged"]["versions"].as_u64()),
        ("registry.purge", "policy 7", Some(2))
    );
    registry.verify().await.unwrap().unwrap();
    let next = registry.create_version(&ana, NewVersion::new("m", package(&store, "9").await)).await.unwrap();
    assert_eq!(next.version, 6, "numbers outlive the purge");
}

#[tokio::test]
async fn a_purged_model_keeps_its_name_and_numbers_and_its_history() {
    let (registry, store) = in_memory().await;
    let (root, ana) = (who("root", Role::Admin), who("ana", Role::Contributor));
    versions(&registry, &store, 2).await;
    registry.edit_model(&ana, "m", ModelEdit::new().description("secret").set_tag("owner", "ana")).await.unwrap();
    registry.move_alias(&root, NewPromotion::new("m", 2, "champion")).await.unwrap();
    registry.delete_model(&root, "m", "over").await.unwrap();
    let purged = registry.purge(&root, Retention::older_than(Duration::ZERO), "over").await.unwrap();
    assert_eq!((purged.models, purged.versions), (1, 2));
    assert_eq!(registry.purge(&root, Retention::older_than(Duration::ZERO), "over").await.unwrap(), Default::default());
    assert!(collect(&registry, &store).await > 0);
    assert_eq!(usage(&store, "artifacts/").await.unwrap().objects, 0);
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let next = registry.create_version(&ana, NewVersion::new("m", package(&store, "1").await)).await.unwrap();
    assert_eq!((next.version, registry.promotions("m").await.unwrap().len()), (3, 2));
    assert!(registry.rollback(&root, "m", "champion", None, "worse").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn runs_are_purged_inside_out_but_not_those_that_made_a_version() {
    let (registry, store) = in_memory().await;
    let (root, ana) = (who("root", Role::Admin), who("ana", Role::Contributor));
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let outer = registry.start_run(&ana, NewRun::new("e").name("outer")).await.unwrap().id();
    let inner = registry.start_run(&ana, NewRun::new("e").name("inner").parent(outer)).await.unwrap().id();
    let made = registry.start_run(&ana, NewRun::new("e").name("made")).await.unwrap().id();
    registry.log_batch(&ana, inner, LogBatch::new().metric("loss", 0.5, 1, from_micros(1))).await.unwrap();
    let digest = store.put_artifact("curve".into()).await.unwrap();
    let artifact = Artifact::new("curve.png", digest, 5);
    registry.put_artifact(&ana, inner.into(), artifact, ArtifactMode::Create).await.unwrap();
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    registry.create_version(&ana, NewVersion::new("m", package(&store, "1").await).run(made)).await.unwrap();
    let mut live = BTreeSet::new();
    registry.live(&mut live).await.unwrap();
    assert!(live.contains(&digest), "an artifact of a run is live");
    for run in [outer, inner, made] {
        registry.delete_run(&root, run).await.unwrap();
    }
    let purged = registry.purge(&root, Retention::older_than(Duration::ZERO), "over").await.unwrap();
    assert_eq!(purged.runs, 2);
    registry.run(made).await.unwrap();
    assert!(registry.run(outer).await.unwrap_err().is_not_found());
    // What is numbered next finds no points of what was purged.
    let next = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    registry.log_batch(&ana, next, LogBatch::new().metric("loss", 0.25, 2, from_micros(2))).await.unwrap();
    assert_eq!(registry.metric_history(next, "loss").await.unwrap().len(), 1);
    collect(&registry, &store).await;
    assert!(store.get_artifact(&digest).await.is_err());
    let found = registry.resolve(&ModelRef::version("m", 1)).await.unwrap();
    registry.package(&found).await.unwrap();
}

#[tokio::test]
async fn a_renamed_version_is_found_from_both_names() {
    let (registry, store) = in_memory().await;
    let (root, ana) = (who("root", Role::Admin), who("ana", Role::Contributor));
    let run = RunId::derived(from_micros(1), b"run");
    registry.create_model(&ana, NewModel::new("old")).await.unwrap();
    registry.create_version(&ana, NewVersion::new("old", package(&store, "1").await).run(run)).await.unwrap();
    registry.edit_model(&root, "old", ModelEdit::new().rename("new")).await.unwrap();
    let above = registry.upstream(&NodeRef::model("new", 1), 9).await.unwrap();
    let ids: Vec<&str> = above.nodes.iter().map(|n| n.node.id.as_str()).collect();
    assert!(ids.contains(&"old/1") && ids.contains(&run.to_string().as_str()), "{ids:?}");
    let error = registry.resolve(&ModelRef::version("old", 1)).await.unwrap_err();
    assert!(error.to_string().contains("renamed new"), "{error}");
    registry.move_alias(&root, NewPromotion::new("new", 1, "champion")).await.unwrap();
    registry.remove_alias(&root, "new", "champion", "over").await.unwrap();
    assert!(registry.resolve(&ModelRef::alias("new", "champion")).await.is_err());
    registry.edit_model(&root, "new", ModelEdit::new().rename("newer")).await.unwrap();
    let error = registry.model("old").await.unwrap_err();
    assert!(error.to_string().contains("renamed newer"), "{error}");
}

#[tokio::test]
async fn what_an_older_schema_holds_is_kept() {
    let (store, dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let mut first = sqlx::migrate!("./migrations");
    first.migrations.to_mut().truncate(2);
    first.run(&mut old).await.unwrap();
    let digest = package(&store, "1").await;
    let [moved, open] = [b"1", b"2"].map(|n| PromotionId::derived(from_micros(1), n));
    let rows = format!(
        "INSERT INTO models VALUES ('m', 'prices', '{{\"team\":\"a\"}}', 'ana', 1, 2);
         INSERT INTO alias_policies VALUES ('m', 'champion', 2, 'all_pass');
         INSERT INTO versions VALUES ('m', 1, '{digest}', '', 'first', '{{\"k\":\"v\"}}', 'ana', 5);
         INSERT INTO versions VALUES ('m', 2, '{digest}', '0', '', '{{}}', 'ana', 6);
         INSERT INTO promotions VALUES ('{moved}', 1, 'promote', 'm', 1, 'champion', 'promoted', 'ana', 7, 'better', '[]',
            'x', 0, NULL, 'dan', 9, '', 1, NULL);
         INSERT INTO promotions VALUES ('{open}', 2, 'promote', 'm', 1, 'other', 'requested', 'ana', 7, '', '[]', 'y', 0,
            NULL, NULL, NULL, NULL, NULL, NULL);
         INSERT INTO approvals VALUES ('{moved}', 0, 'rob', 8, 'fine');
         INSERT INTO aliases VALUES ('m', 'champion', 1, 1, 9, '{moved}', '{moved}');
         INSERT INTO events VALUES (1, 9, 'alias_moved', 'm', 1, 'champion', 1, '{moved}');
         UPDATE heads SET seq = 1 WHERE name = 'event';
         UPDATE heads SET seq = 2 WHERE name = 'promotion'"
    );
    let rows = rows.replace(", '0', '', '{}'", &format!(", '{}', '', '{{}}'", RunId::derived(from_micros(1), b"r")));
    for row in rows.split(';') {
        sqlx::query(sqlx::AssertSqlSafe(row.to_owned())).execute(&mut old).await.unwrap();
    }
    old.close().await.unwrap();
    let registry = builder(&store).open_sqlite(&path).await.unwrap();
    let (ana, dan) = (who("ana", Role::Contributor), who("dan", Role::Deployer));
    let policy = AliasPolicy::approvals(2).evidence(EvidenceRule::AllPass);
    assert_eq!(registry.policy("m", "champion").await.unwrap(), policy);
    let version = registry.version("m", 1).await.unwrap();
    assert_eq!((version.stage.as_str(), version.aliases.as_slice()), ("None", &["champion".to_owned()][..]));
    let again = NewVersion::new("m", digest).description("first").tag("k", "v");
    assert_eq!(registry.create_version(&ana, again).await.unwrap(), version);
    let model = NewModel::new("m").description("prices").tag("team", "a");
    assert_eq!(registry.create_model(&ana, model).await.unwrap().latest, 2);
    assert_eq!(registry.search_models(Search::new("tags.team = 'a'")).await.unwrap().items.len(), 1);
    assert_eq!(registry.search_versions(Search::new("tags.k = 'v'")).await.unwrap().items, [version]);
    let kept = registry.promotion(moved).await.unwrap();
    assert_eq!((kept.target, kept.approvals[0].by.as_str()), (Target::Alias("champion".into()), "rob"));
    assert_eq!(registry.alias_at("m", "champion", from_micros(9)).await.unwrap(), Some(1));
    assert_eq!(registry.promote(&dan, open).await.unwrap().revision, Some(1));
    assert_eq!(registry.events(0, 9).await.unwrap()[0].alias.as_deref(), Some("champion"));
    // Whose files nobody had written down yet.
    let mut live = BTreeSet::new();
    registry.live(&mut live).await.unwrap();
    assert!(live.contains(&digest) && live.len() > 2, "{}", live.len());
}
