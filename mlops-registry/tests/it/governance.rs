//! Audit, lineage and packages: what the registry records beside what it was asked to.

use mlops_core::audit::{AuditLog as _, AuditLogExt as _};
use mlops_core::clock::ManualClock;
use mlops_core::lineage::{LineageStore as _, NodeKind, NodeRef};
use mlops_core::signature::{ColumnSpec, ColumnType};
use mlops_core::store::{ArtifactStoreExt as _, MemoryStore, artifact_key};
use mlops_core::{
    DatasetRef, Digest, Error as CoreError, Finding, Measurement, ModelRef, ModelSource, Package, Provenance, Resource,
    Role, RunId, Selector, Signature, Verdict,
};
use mlops_registry::{
    AliasPolicy, Error, ModelRegistry, NewExperiment, NewModel, NewPromotion, NewRun, NewVersion, RunStatus,
    SqlRegistry, TrackingStore, TrackingStoreExt,
};
use sqlx::Connection as _;

use crate::{builder, in_file, in_memory, versions, who};

async fn mix(registry: &SqlRegistry, store: &MemoryStore) {
    let (ana, rob, dan, root) = (
        who("ana", Role::Contributor),
        who("rob", Role::Reviewer),
        who("dan", Role::Deployer),
        who("root", Role::Admin),
    );
    versions(registry, store, 2).await;
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    registry.finish_run(&ana, run, RunStatus::Finished).await.unwrap();
    registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(1)).await.unwrap();
    for version in [1, 2] {
        // Numbers whose nearest neighbours are easily confused when they are read back.
        let finding = Finding::new("accuracy", Verdict::Pass, "better")
            .with(Measurement::new("accuracy", 0.1 + 0.2).with_interval(1.0 / 3.0, 5e-324))
            .with(Measurement::new("ratio", f64::NAN));
        let new = NewPromotion::new("m", version, "champion").evidence([finding]).reason("better");
        let id = registry.request_promotion(&ana, new).await.unwrap().id;
        registry.approve(&rob, id, "looks right").await.unwrap();
        registry.promote(&dan, id).await.unwrap();
    }
    registry.rollback(&dan, "m", "champion", None, "errors in production").await.unwrap();
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_the_chain_holds() {
    let (registry, store, _dir) = in_file().await;
    mix(&registry, &store).await;
    let entries = registry.all_entries().await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|e| e.event.action.as_str()).collect();
    let expected = [
        "model.create",
        "version.create",
        "version.create",
        "experiment.create",
        "run.start",
        "run.finish",
        "policy.set",
        "promotion.request",
        "promotion.approve",
        "alias.move",
        "promotion.request",
        "promotion.approve",
        "alias.move",
        "alias.rollback",
    ];
    assert_eq!(actions, expected);
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, expected.len() as u64);
    let moved = &entries[12].event;
    assert_eq!((moved.actor.as_str(), moved.resource.as_str()), ("dan", "model m@champion"));
    assert_eq!((moved.before["version"].as_u64(), moved.after["version"].as_u64()), (Some(1), Some(2)));
    assert_eq!(moved.after["approved_by"], serde_json::json!(["rob"]));
    assert_eq!((moved.after["verdicts"]["accuracy"].as_str(), moved.reason.as_str()), (Some("pass"), "better"));
    assert_eq!(entries[13].event.reason, "errors in production");
}

#[tokio::test]
async fn a_row_changed_by_hand_breaks_the_chain_at_its_place() {
    let changes = [
        ("UPDATE audit_log SET actor = 'eve' WHERE seq = 9", 9),
        ("UPDATE audit_log SET at = at + 1 WHERE seq = 3", 3),
        ("UPDATE audit_log SET value_after = '{\"version\":9}' WHERE seq = 10", 10),
        ("UPDATE audit_log SET reason = '' WHERE seq = 14", 14),
        ("DELETE FROM audit_log WHERE seq = 5", 5),
        ("UPDATE audit_log SET digest = previous WHERE seq = 1", 1),
    ];
    for (change, place) in changes {
        let (registry, store, dir) = in_file().await;
        mix(&registry, &store).await;
        let path = dir.path().join("registry.db");
        let mut hand = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        sqlx::query(change).execute(&mut hand).await.unwrap();
        assert_eq!(registry.verify().await.unwrap().unwrap_err().seq, place, "{change}");
    }
}

#[tokio::test]
async fn entries_cut_off_the_end_show_as_soon_as_something_is_done() {
    let (registry, store, dir) = in_file().await;
    mix(&registry, &store).await;
    let path = dir.path().join("registry.db");
    let mut hand = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("DELETE FROM audit_log WHERE seq > 12").execute(&mut hand).await.unwrap();
    registry.create_model(&who("ana", Role::Contributor), NewModel::new("next")).await.unwrap();
    assert_eq!(registry.verify().await.unwrap().unwrap_err().seq, 13);
    assert_eq!(registry.entries(13, 9).await.unwrap()[0].seq, 15);
}

#[tokio::test]
async fn a_refused_call_leaves_no_trace() {
    let (registry, store, _dir) = in_file().await;
    mix(&registry, &store).await;
    let entries = registry.verify().await.unwrap().unwrap().entries;
    let events = registry.events(0, 1_000).await.unwrap().len();
    let ana = who("ana", Role::Contributor);
    let open = registry.request_promotion(&ana, NewPromotion::new("m", 2, "champion")).await.unwrap().id;
    registry.promote(&who("dan", Role::Deployer), open).await.unwrap_err();
    registry.approve(&who("ana", Role::Reviewer), open, "").await.unwrap_err();
    registry.create_model(&who("eve", Role::Viewer), NewModel::new("n")).await.unwrap_err();
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, entries + 1);
    assert_eq!(registry.events(0, 1_000).await.unwrap().len(), events + 1);
}

#[tokio::test]
async fn a_role_on_one_alias_holds_on_that_alias() {
    let (registry, store) = in_memory().await;
    versions(&registry, &store, 2).await;
    let (ana, root) = (who("ana", Role::Contributor), who("root", Role::Admin));
    let on = |role, alias| who("x", Role::Viewer).with_role_on(role, Resource::alias("m", alias));
    let ask = async |alias, version| {
        registry.request_promotion(&ana, NewPromotion::new("m", version, alias)).await.unwrap().id
    };
    let denied = |result: mlops_registry::Result<mlops_registry::Promotion>| {
        assert!(matches!(&result, Err(Error::Core(CoreError::PermissionDenied { .. }))), "{result:?}");
    };
    let (champion, staging) = (ask("champion", 1).await, ask("staging", 1).await);
    denied(registry.approve(&on(Role::Reviewer, "staging"), champion, "").await);
    registry.approve(&on(Role::Reviewer, "champion"), champion, "").await.unwrap();
    denied(registry.promote(&on(Role::Deployer, "champion"), staging).await);
    registry.promote(&on(Role::Deployer, "champion"), champion).await.unwrap();
    denied(registry.reject(&on(Role::Reviewer, "champion"), staging, "no").await);
    registry.promote(&root, staging).await.unwrap();
    for alias in ["champion", "staging"] {
        let id = ask(alias, 2).await;
        registry.promote(&root, id).await.unwrap();
    }
    denied(registry.rollback(&on(Role::Deployer, "champion"), "m", "staging", None, "worse").await);
    registry.rollback(&on(Role::Deployer, "champion"), "m", "champion", None, "worse").await.unwrap();
    denied(registry.request_promotion(&on(Role::Contributor, "champion"), NewPromotion::new("m", 2, "other")).await);
    let policy = AliasPolicy::approvals(1);
    let error = registry.set_policy(&on(Role::Admin, "champion"), "m", "staging", policy).await.unwrap_err();
    let expected = "x may not administer on alias staging in model m: needs a role that grants it (admin)";
    assert_eq!(error.to_string(), expected);
    registry.set_policy(&on(Role::Admin, "champion"), "m", "champion", policy).await.unwrap();
}

#[tokio::test]
async fn a_registry_in_a_project_takes_grants_on_that_project() {
    let store = MemoryStore::default();
    let registry = builder(&store).project("fraud").open_in_memory().await.unwrap();
    versions(&registry, &store, 1).await;
    let on = |resource| who("x", Role::Viewer).with_role_on(Role::Contributor, resource);
    let create = async |who| registry.create_model(&who, NewModel::new("n")).await;
    for elsewhere in [Resource::project("fraud2"), Resource::model("n"), Resource::model("m").in_project("fraud")] {
        let error = create(on(elsewhere)).await.unwrap_err().to_string();
        assert!(error.contains("on model n in project fraud"), "{error}");
    }
    create(on(Resource::project("fraud"))).await.unwrap();
    registry.create_experiment(&on(Resource::project("fraud")), NewExperiment::new("e")).await.unwrap();
    let run = NewRun::new("e");
    registry.start_run(&on(Resource::experiment("e").in_project("fraud")), run.clone()).await.unwrap();
    assert!(registry.start_run(&on(Resource::experiment("e")), run).await.is_err());
}

#[tokio::test]
async fn a_role_on_one_model_holds_on_that_model() {
    let (registry, store) = in_memory().await;
    versions(&registry, &store, 1).await;
    let own = who("x", Role::Viewer).with_role_on(Role::Contributor, Resource::model("m"));
    registry.request_promotion(&own, NewPromotion::new("m", 1, "a")).await.unwrap();
    let error = registry.create_model(&own, NewModel::new("n")).await.unwrap_err();
    let expected = "x may not register on model n: needs a role that grants it (contributor or admin)";
    assert_eq!(error.to_string(), expected);
}

fn built(provenance: Provenance) -> Package {
    let column = |name: &str| ColumnSpec::new(name, ColumnType::Double);
    let signature = Signature::new([column("x")], [column("y")]).unwrap();
    let package = Package::builder(signature).flavor("test", serde_json::json!({})).file("weights", "abc");
    package.provenance(provenance).build().unwrap()
}

fn provenance(run: RunId) -> Provenance {
    let mut made = Provenance::default();
    made.run = Some(run);
    made.datasets = vec![DatasetRef { name: "prices".into(), digest: Digest::of(b"rows") }];
    made.commit = Some("0123abcd".into());
    made.lock_file = Some(Digest::of(b"lock"));
    made.toolchain = Some("rustc 1.95.0".into());
    made.seed = Some(42);
    made
}

#[tokio::test]
async fn lineage_leads_from_a_version_to_its_data_and_code() {
    let (registry, store) = in_memory().await;
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e").name("mlp")).await.unwrap().id();
    let extra = DatasetRef { name: "holidays".into(), digest: Digest::of(b"days") };
    registry.log_input(&ana, run, extra, "training").await.unwrap();
    let package = built(provenance(run)).save(&store).await.unwrap();
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let version = registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
    assert_eq!(version.run, Some(run), "taken from the provenance");

    let graph = registry.upstream(&NodeRef::model("m", 1), 9).await.unwrap();
    let of = |kind| graph.of_kind(kind).cloned().collect::<Vec<_>>();
    assert_eq!(of(NodeKind::Dataset).len(), 2);
    let maker = &of(NodeKind::Run)[0];
    assert_eq!((maker.facts["name"].as_str(), maker.facts["experiment"].as_str()), ("mlp", "e"));
    let model = &of(NodeKind::Model)[0];
    assert_eq!((model.facts["commit"].as_str(), model.facts["seed"].as_str()), ("0123abcd", "42"));
    assert_eq!(model.facts["lock_file"], Digest::of(b"lock").to_string());
    assert_eq!(model.facts["package"], package.to_string());
    let data = DatasetRef { name: "prices".into(), digest: Digest::of(b"rows") };
    let downstream = registry.downstream(&NodeRef::dataset(&data), 9).await.unwrap();
    assert_eq!(downstream.of_kind(NodeKind::Model).count(), 1);
}

#[tokio::test]
async fn two_versions_of_one_run_keep_their_own_seed_and_data() {
    let (registry, store) = in_memory().await;
    let ana = who("ana", Role::Contributor);
    registry.create_experiment(&ana, NewExperiment::new("e")).await.unwrap();
    let run = registry.start_run(&ana, NewRun::new("e")).await.unwrap().id();
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let dataset = |n: u64| DatasetRef { name: "prices".into(), digest: Digest::of(&n.to_le_bytes()) };
    for n in 1..=2 {
        let mut made = provenance(run);
        (made.seed, made.datasets) = (Some(n), vec![dataset(n)]);
        let package = built(made).save(&store).await.unwrap();
        registry.create_version(&ana, NewVersion::new("m", package)).await.unwrap();
    }
    for n in 1..=2 {
        let graph = registry.upstream(&NodeRef::model("m", n), 9).await.unwrap();
        assert_eq!(graph.nodes[0].facts["seed"], n.to_string());
        let before: Vec<&NodeRef> = graph.nodes[1..].iter().map(|n| &n.node).collect();
        assert_eq!(before.len(), 2, "its run and its data, not the other version's: {before:?}");
        assert!(before.contains(&&NodeRef::run(run)) && before.contains(&&NodeRef::dataset(&dataset(n))), "{before:?}");
    }
    let run = registry.upstream(&NodeRef::run(run), 0).await.unwrap().nodes.remove(0);
    assert!(!run.facts.contains_key("seed"), "{run:?}");
}

#[tokio::test]
async fn a_package_that_names_another_run_is_refused() {
    let (registry, store) = in_memory().await;
    let ana = who("ana", Role::Contributor);
    registry.create_model(&ana, NewModel::new("m")).await.unwrap();
    let run = |n: u8| RunId::derived(mlops_core::clock::from_micros(0), &[n]);
    let package = built(provenance(run(1))).save(&store).await.unwrap();
    let error = registry.create_version(&ana, NewVersion::new("m", package).run(run(2))).await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::InvalidInput { .. })), "{error}");
    registry.create_version(&ana, NewVersion::new("m", package).run(run(1))).await.unwrap();
}

#[tokio::test]
async fn references_resolve_to_packages_that_are_verified() {
    let (registry, store, _dir) = in_file().await;
    versions(&registry, &store, 2).await;
    let source: &dyn ModelSource = &registry;
    for name in ["nil", "m"] {
        let error = source.resolve(&ModelRef::alias(name, "champion")).await.unwrap_err();
        assert!(matches!(error, CoreError::NotFound { .. }), "{error}");
    }
    mixless_promote(&registry, 1).await;
    let first = source.resolve(&ModelRef::alias("m", "champion")).await.unwrap();
    assert_eq!((first.version, first.revision), (1, 1));
    mixless_promote(&registry, 2).await;
    let second = source.resolve(&ModelRef::alias("m", "champion")).await.unwrap();
    assert_eq!((second.version, second.revision), (2, 2));
    let latest = ModelRef { name: "m".into(), selector: Selector::Latest };
    assert_eq!(source.resolve(&latest).await.unwrap().version, 2);
    let fixed = source.resolve(&ModelRef::version("m", 1)).await.unwrap();
    assert_eq!((fixed.package, fixed.revision), (first.package, 0));
    assert_eq!(source.package(&second).await.unwrap().file("weights").unwrap(), "2");

    let weights = Digest::of(b"2");
    store.put(&artifact_key(&weights), "3".into()).await.unwrap();
    let error = source.package(&second).await.unwrap_err();
    assert!(matches!(error, CoreError::Corrupt { .. }), "{error}");

    registry.create_model(&who("ana", Role::Contributor), NewModel::new("empty")).await.unwrap();
    let latest = ModelRef { name: "empty".into(), selector: Selector::Latest };
    let error = source.resolve(&latest).await.unwrap_err();
    assert_eq!(error.to_string(), "model version \"empty/latest\" not found");
}

async fn mixless_promote(registry: &SqlRegistry, version: u64) {
    let new = NewPromotion::new("m", version, "champion");
    let id = registry.request_promotion(&who("ana", Role::Contributor), new).await.unwrap().id;
    registry.promote(&who("dan", Role::Deployer), id).await.unwrap();
}

#[tokio::test]
async fn an_alias_never_moves_back_in_time() {
    let (store, clock) = (MemoryStore::default(), ManualClock::at("1997-01-02T00:00:00Z".parse().unwrap()));
    let registry = builder(&store).clock(clock.clone()).open_in_memory().await.unwrap();
    versions(&registry, &store, 2).await;
    mixless_promote(&registry, 1).await;
    clock.set("1997-01-01T00:00:00Z".parse().unwrap());
    mixless_promote(&registry, 2).await;
    let at = |text: &str| text.parse().unwrap();
    assert_eq!(registry.alias_at("m", "champion", at("1997-01-01T12:00:00Z")).await.unwrap(), None);
    assert_eq!(registry.alias_at("m", "champion", at("1997-01-02T00:00:00Z")).await.unwrap(), Some(2));
    assert_eq!(registry.alias("m", "champion").await.unwrap().moved_at, at("1997-01-02T00:00:00Z"));
}

#[tokio::test]
async fn records_read_well() {
    let (store, clock) = (MemoryStore::default(), ManualClock::at("1997-01-02T00:00:00Z".parse().unwrap()));
    let registry = builder(&store).clock(clock).open_in_memory().await.unwrap();
    mix(&registry, &store).await;
    let promotions = registry.promotions("m").await.unwrap();
    assert_eq!(
        promotions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "m@champion → v1: promoted by dan at 1997-01-02 00:00, asked by ana, approved by rob: better",
            "m@champion v1 → v2: promoted by dan at 1997-01-02 00:00, asked by ana, approved by rob: better",
            "m@champion back v2 → v1: promoted by dan at 1997-01-02 00:00: errors in production",
        ]
    );
    let version = registry.version("m", 1).await.unwrap();
    let short = version.package.short();
    assert_eq!(version.to_string(), format!("m v1 ({short}) by ana at 1997-01-02 00:00"));
    let run = &registry.newest_runs("e", 1).await.unwrap()[0];
    assert_eq!(run.to_string(), format!("run {} of e: FINISHED, by ana at 1997-01-02 00:00", run.id()));
}
