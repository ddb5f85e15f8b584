//! Every call of the traits that changes something, and its entry in the audit log.

use mlops_core::audit::{AuditEvent, AuditLog as _, AuditLogExt as _};
use mlops_core::auth::token::{NewToken, Tokens};
use mlops_core::{Clock as _, DatasetRef, Digest, Finding, Principal, Role, SystemClock, Verdict, clock};
use mlops_registry::conformance::model_registry::package;
use mlops_registry::webhooks::{NewWebhook, Secret, WebhookEdit, WebhookEvent, WebhookStatus};
use mlops_registry::{
    AliasPolicy, Artifact, ArtifactMode, EventKind, ExperimentEdit, LogBatch, LoggedModelEdit, LoggedModelId,
    LoggedModelStatus, Metric, ModelEdit, ModelRegistry, NewExperiment, NewLoggedModel, NewModel, NewPromotion, NewRun,
    NewStageMove, NewVersion, RunEdit, RunInput, RunModel, RunStatus, StageTable, TrackingStore, TrackingStoreExt,
    VersionEdit,
};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::{builder, in_file, in_memory, who};

const NONE: Value = Value::Null;

/// Makes each call twice: the first adds these entries (actor, action, resource, before, after, reason), the second none.
macro_rules! audited {
    ($registry:expr; $($call:expr => [$(($actor:literal, $action:literal, $resource:expr, $before:expr, $after:expr, $reason:literal)),*];)+) => { $(
        let from = $registry.all_entries().await.unwrap().len() as u64 + 1;
        $call.await.unwrap();
        let added: Vec<AuditEvent> =
            $registry.entries(from, 100).await.unwrap().into_iter().map(|entry| entry.event).collect();
        let expected: Vec<(&str, &str, String, Value, Value, &str)> =
            vec![$(($actor, $action, $resource.to_string(), $before, $after, $reason)),*];
        let found: Vec<(&str, &str, String, Value, Value, &str)> = added.iter().map(|e| {
            (&*e.actor, &*e.action, e.resource.clone(), e.before.clone(), e.after.clone(), &*e.reason)
        }).collect();
        assert_eq!(found, expected, "{}", stringify!($call));
        $call.await.unwrap();
        assert_eq!($registry.all_entries().await.unwrap().len() as u64 + 1, from + expected.len() as u64,
            "again: {}", stringify!($call));
    )+ };
}

/// A method that is new to one of the traits belongs in this table, or in the list of those that change nothing.
#[tokio::test]
async fn every_call_that_changes_something_is_audited_once() {
    let (registry, store) = in_memory().await;
    let [ana, rob, dan, root] = [
        who("ana", Role::Contributor),
        who("rob", Role::Reviewer),
        who("dan", Role::Deployer),
        who("root", Role::Admin),
    ];
    let run = mlops_core::RunId::derived(clock::from_micros(1), b"run");
    let [first, second, third, back, staging, staged, archived, taken] =
        [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]
            .map(|n| mlops_core::PromotionId::derived(clock::from_micros(1), n));
    let at = clock::from_micros(1);
    let (one, two) = (package(&store, "1").await, package(&store, "2").await);
    let rows = DatasetRef { name: "prices".into(), digest: Digest::of(b"rows") };
    let long = "x".repeat(1_001);
    let passed = [Finding::new("accuracy", Verdict::Pass, "better")];
    let ask =
        |id, version| NewPromotion::new("m", version, "champion").id(id).evidence(passed.clone()).reason("better");
    let on_run = format!("run {run}");
    audited!(registry;
        registry.create_experiment(&ana, NewExperiment::new("e").tag("team", "a")) =>
            [("ana", "experiment.create", "experiment e", NONE, json!({"tags": {"team": "a"}}), "")];
        registry.start_run(&ana, NewRun::new("e").id(run).name("mlp").tag("host", "a")) =>
            [("ana", "run.start", on_run, NONE, json!({"experiment": "e", "name": "mlp", "parent": null, "tags": {"host": "a"}}), "")];
        registry.log_batch(&ana, run, LogBatch::new().param("lr", 0.1).tag("host", "b").tag("gpu", "no")) =>
            [("ana", "run.log", on_run, json!({"tags": {"host": "a"}}),
                json!({"params": {"lr": "0.1"}, "tags": {"gpu": "no", "host": "b"}}), "")];
        registry.log_batch(&ana, run, LogBatch::new().param("lr", 0.1).param("notes", &long).tag("host", "b")) =>
            [("ana", "run.log", on_run, json!({"tags": {}}),
                json!({"params": {"notes": {"digest": Digest::of(long.as_bytes()), "bytes": 1_001}}, "tags": {}}), "")];
        registry.log_batch(&ana, run, LogBatch::new().metric("loss", 0.5, 1, at)) => [];
        registry.log_artifact(&ana, run, "model/weights", Digest::of(b"w"), 1) =>
            [("ana", "run.artifact", on_run, NONE, json!({"path": "model/weights", "digest": Digest::of(b"w"), "bytes": 1}), "")];
        registry.log_input(&ana, run, rows.clone(), "training") =>
            [("ana", "run.input", on_run, NONE, json!({"dataset": "prices", "digest": rows.digest, "context": "training"}), "")];
        registry.finish_run(&ana, run, RunStatus::Finished) =>
            [("ana", "run.finish", on_run, json!({"status": "RUNNING"}), json!({"status": "FINISHED"}), "")];
    );
    let experiment = registry.experiment("e").await.unwrap().id;
    let ended = registry.run(run).await.unwrap().info.ended_at;
    let logged = LoggedModelId::derived(at, b"net");
    let on_logged = format!("logged model {logged}");
    let artifact = Artifact::new("model/weights", Digest::of(b"w2"), 2);
    audited!(registry;
        registry.log_inputs(&ana, run, vec![RunInput::new("wine", "5a", "eval"), RunInput::of(&rows, "training")]) =>
            [("ana", "run.input", on_run, NONE, json!({"dataset": "wine", "digest": "5a", "context": "eval"}), "")];
        registry.edit_run(&ana, run, RunEdit::new().rename("net").status(RunStatus::Killed).ended_at(at).remove_tag("gpu")) =>
            [("ana", "run.edit", on_run, json!({"name": "mlp", "status": "FINISHED", "ended_at": ended, "tags": {"gpu": "no"}}),
                json!({"name": "net", "status": "KILLED", "ended_at": at, "tags": {"gpu": null}}), "")];
        registry.delete_run(&ana, run) =>
            [("ana", "run.delete", on_run, json!({"stage": "active"}), json!({"stage": "deleted"}), "")];
        registry.restore_run(&ana, run) =>
            [("ana", "run.restore", on_run, json!({"stage": "deleted"}), json!({"stage": "active"}), "")];
        registry.put_artifact(&ana, run.into(), artifact.clone(), ArtifactMode::Overwrite) =>
            [("ana", "run.artifact", on_run, json!({"path": "model/weights", "digest": Digest::of(b"w"), "bytes": 1}), json!(artifact), "")];
        registry.remove_artifact(&ana, run.into(), "model/weights") =>
            [("ana", "run.artifact.remove", on_run, json!(artifact), NONE, "")];
        registry.create_logged_model(&ana, NewLoggedModel::new(experiment, "net").id(logged).source_run(run).param("p", 1).tag("t", "u")) =>
            [("ana", "logged_model.create", on_logged, NONE, json!({"experiment": "e", "name": "net", "model_type": null,
                "source_run": run, "params": {"p": "1"}, "tags": {"t": "u"}}), "")];
        registry.log_models(&ana, run, vec![RunModel::output(logged, 3)]) =>
            [("ana", "run.models", on_run, NONE, json!({"models": [{"model": logged, "role": "output", "step": 3}]}), "")];
        registry.log_batch(&ana, run, LogBatch::new().point(Metric::new("acc", 0.5, 1, at).of(logged))) => [];
        registry.finish_logged_model(&ana, logged, LoggedModelStatus::Ready) =>
            [("ana", "logged_model.finish", on_logged, json!({"status": "PENDING"}), json!({"status": "READY"}), "")];
        registry.edit_logged_model(&ana, logged, LoggedModelEdit::new().param("q", 2).set_tag("v", "w").remove_tag("t")) =>
            [("ana", "logged_model.edit", on_logged, json!({"tags": {"t": "u"}}), json!({"params": {"q": "2"}, "tags": {"t": null, "v": "w"}}), "")];
        registry.put_artifact(&ana, logged.into(), artifact.clone(), ArtifactMode::Create) =>
            [("ana", "logged_model.artifact", on_logged, NONE, json!(artifact), "")];
        registry.remove_artifact(&ana, logged.into(), "model/weights") =>
            [("ana", "logged_model.artifact.remove", on_logged, json!(artifact), NONE, "")];
        registry.delete_logged_model(&ana, logged) =>
            [("ana", "logged_model.delete", on_logged, json!({"stage": "active"}), json!({"stage": "deleted"}), "")];
        registry.restore_logged_model(&ana, logged) =>
            [("ana", "logged_model.restore", on_logged, json!({"stage": "deleted"}), json!({"stage": "active"}), "")];
        registry.edit_experiment(&ana, "e", ExperimentEdit::new().set_tag("team", "b")) =>
            [("ana", "experiment.edit", "experiment e", json!({"tags": {"team": "a"}}), json!({"tags": {"team": "b"}}), "")];
        registry.delete_experiment(&ana, "e") =>
            [("ana", "experiment.delete", "experiment e", json!({"stage": "active"}), json!({"stage": "deleted"}), "")];
        registry.restore_experiment(&ana, "e") =>
            [("ana", "experiment.restore", "experiment e", json!({"stage": "deleted"}), json!({"stage": "active"}), "")];
        registry.create_model(&ana, NewModel::new("m")) =>
            [("ana", "model.create", "model m", NONE, json!({"description": "", "tags": {}}), "")];
        registry.create_version(&ana, NewVersion::new("m", one).run(run)) =>
            [("ana", "version.create", "model m/1", NONE, json!({"package": one, "run": run, "description": "", "tags": {}}), "")];
        registry.create_version(&ana, NewVersion::new("m", two).run(run)) =>
            [("ana", "version.create", "model m/2", NONE, json!({"package": two, "run": run, "description": "", "tags": {}}), "")];
        registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(1)) =>
            [("root", "policy.set", "model m@champion", NONE, json!(AliasPolicy::approvals(1)), "")];
        registry.set_policy(&root, "m", "champion", AliasPolicy::approvals(0)) =>
            [("root", "policy.set", "model m@champion", json!(AliasPolicy::approvals(1)), json!(AliasPolicy::approvals(0)), "")];
        registry.request_promotion(&ana, ask(first, 1)) =>
            [("ana", "promotion.request", "model m@champion", NONE,
                json!({"promotion": first, "version": 1, "seen_revision": 0, "evidence": passed}), "better")];
        registry.approve(&rob, first, "looks right") =>
            [("rob", "promotion.approve", "model m@champion", NONE, json!({"promotion": first, "version": 1, "approvals": 1}), "looks right")];
        registry.promote(&dan, first) =>
            [("dan", "alias.move", "model m@champion", NONE, json!({"version": 1, "revision": 1, "promotion": first,
                "requested_by": "ana", "approved_by": ["rob"], "verdicts": {"accuracy": "pass"}}), "better")];
        registry.request_promotion(&ana, ask(second, 2)) =>
            [("ana", "promotion.request", "model m@champion", NONE,
                json!({"promotion": second, "version": 2, "seen_revision": 1, "evidence": passed}), "better")];
        registry.request_promotion(&ana, ask(third, 2)) =>
            [("ana", "promotion.request", "model m@champion", NONE,
                json!({"promotion": third, "version": 2, "seen_revision": 1, "evidence": passed}), "better")];
        registry.reject(&rob, third, "one is enough") =>
            [("rob", "promotion.reject", "model m@champion", NONE, json!({"promotion": third, "version": 2}), "one is enough")];
        registry.promote(&dan, second) =>
            [("dan", "alias.move", "model m@champion", json!({"version": 1, "revision": 1}), json!({"version": 2, "revision": 2,
                "promotion": second, "requested_by": "ana", "approved_by": [], "verdicts": {"accuracy": "pass"}}), "better")];
        registry.move_alias(&root, NewPromotion::new("m", 1, "staging").id(staging).reason("to try")) =>
            [("root", "promotion.request", "model m@staging", NONE,
                json!({"promotion": staging, "version": 1, "seen_revision": 0, "evidence": []}), "to try"),
             ("root", "alias.move", "model m@staging", NONE, json!({"version": 1, "revision": 1, "promotion": staging,
                "requested_by": "root", "approved_by": [], "verdicts": {}}), "to try")];
        registry.set_stages(&root, Some("m"), StageTable::default()) =>
            [("root", "stages.set", "model m", NONE, json!(StageTable::default()), "")];
        registry.set_stage_policy(&root, "m", "staging", AliasPolicy::approvals(1).reviewers(["rob"])) =>
            [("root", "policy.set", "stage Staging of model m", NONE, json!({"approvals": 1, "reviewers": ["rob"], "evidence": "none"}), "")];
        registry.request_stage(&ana, NewStageMove::new("m", 2, "Staging").id(staged).reason("to try")) =>
            [("ana", "promotion.request", "model m/2", NONE, json!({"promotion": staged, "version": 2, "seen_revision": 0,
                "evidence": [], "stage": "Staging", "archive_existing": false}), "to try")];
        registry.approve(&rob, staged, "yes") =>
            [("rob", "promotion.approve", "model m/2", NONE, json!({"promotion": staged, "version": 2, "approvals": 1}), "yes")];
        registry.promote(&dan, staged) =>
            [("dan", "stage.move", "model m/2", json!({"stage": "None", "revision": 0}), json!({"stage": "Staging", "revision": 1,
                "promotion": staged, "requested_by": "ana", "approved_by": ["rob"], "verdicts": {}}), "to try")];
        registry.move_stage(&root, NewStageMove::new("m", 1, "Archived").id(archived)) =>
            [("root", "promotion.request", "model m/1", NONE, json!({"promotion": archived, "version": 1, "seen_revision": 0,
                "evidence": [], "stage": "Archived", "archive_existing": false}), ""),
             ("root", "stage.move", "model m/1", json!({"stage": "None", "revision": 0}), json!({"stage": "Archived", "revision": 1,
                "promotion": archived, "requested_by": "root", "approved_by": [], "verdicts": {}}), "")];
        registry.request_promotion(&ana, NewPromotion::new("m", 2, "staging").id(taken).reason("hm")) =>
            [("ana", "promotion.request", "model m@staging", NONE,
                json!({"promotion": taken, "version": 2, "seen_revision": 1, "evidence": []}), "hm")];
        registry.withdraw(&ana, taken, "not yet") =>
            [("ana", "promotion.withdraw", "model m@staging", NONE, json!({"promotion": taken, "version": 2}), "not yet")];
        registry.edit_model(&ana, "m", ModelEdit::new().description("prices").set_tag("team", "a").set_tag("long", &long)) =>
            [("ana", "model.edit", "model m", json!({"description": "", "tags": {}}), json!({"description": "prices",
                "tags": {"team": "a", "long": {"digest": Digest::of(long.as_bytes()), "bytes": 1_001}}}), "")];
        registry.edit_version(&ana, "m", 1, VersionEdit::new().description("first").set_tag("ok", "yes")) =>
            [("ana", "version.edit", "model m/1", json!({"description": "", "tags": {}}),
                json!({"description": "first", "tags": {"ok": "yes"}}), "")];
        registry.edit_version(&ana, "m", 1, VersionEdit::new().remove_tag("ok")) =>
            [("ana", "version.edit", "model m/1", json!({"tags": {"ok": "yes"}}), json!({"tags": {}}), "")];
        registry.hold(&rob, "m", 1, "for the auditors") =>
            [("rob", "version.hold", "model m/1", NONE, json!({"held_by": "rob"}), "for the auditors")];
        registry.release(&root, "m", 1, "audit is over") =>
            [("root", "version.release", "model m/1", json!({"held_by": ["rob"]}), NONE, "audit is over")];
        registry.rollback(&dan, "m", "champion", Some(back), "errors in production") =>
            [("dan", "alias.rollback", "model m@champion", json!({"version": 2, "revision": 2}), json!({"version": 1, "revision": 3,
                "promotion": back, "requested_by": "dan", "approved_by": [], "verdicts": {}}), "errors in production")];
        registry.edit_model(&root, "m", ModelEdit::new().rename("n")) =>
            [("root", "model.edit", "model m", json!({"name": "m"}), json!({"name": "n"}), "")];
    );
    let hook = mlops_core::WebhookId::derived(at, b"hook");
    let on_hook = format!("webhook {hook}");
    let url = |url: &str| json!({"origin": "https://ci.example", "digest": Digest::of(url.as_bytes())});
    let (old, new) = ("https://ci.example/t0ken", "https://ci.example/");
    let created = WebhookEvent::of(EventKind::ModelCreated);
    let more = [created, WebhookEvent::of(EventKind::PromotionRequested)];
    audited!(registry;
        registry.create_webhook(&root, NewWebhook::new("ci", old, [created]).id(hook).secret(Secret::new("hush"))) =>
            [("root", "webhook.create", on_hook, NONE, json!({"name": "ci", "description": "", "url": url(old),
                "events": ["registered_model.created"], "status": "ACTIVE", "signed": true}), "")];
        registry.edit_webhook(&root, hook, WebhookEdit::new().url(new).events(more).status(WebhookStatus::Disabled)) =>
            [("root", "webhook.edit", on_hook, json!({"url": url(old), "events": ["registered_model.created"], "status": "ACTIVE"}),
                json!({"url": url(new), "events": ["registered_model.created", "mlops.promotion.requested"], "status": "DISABLED"}), "")];
        registry.edit_webhook(&root, hook, WebhookEdit::new().secret(Secret::new("hush 2"))) =>
            [("root", "webhook.edit", on_hook, json!({"signed": true}), json!({"signed": true, "secret": "changed"}), "")];
        registry.edit_webhook(&root, hook, WebhookEdit::new().no_secret()) =>
            [("root", "webhook.edit", on_hook, json!({"signed": true}), json!({"signed": false, "secret": "removed"}), "")];
        registry.delete_webhook(&root, hook, "nobody listens") =>
            [("root", "webhook.delete", on_hook, json!({"name": "ci", "url": url(new)}), NONE, "nobody listens")];
    );
    // What gets an id of its own.
    let last = async |n: usize| -> Vec<AuditEvent> {
        let mut entries = registry.all_entries().await.unwrap();
        entries.split_off(entries.len() - n).into_iter().map(|entry| entry.event).collect()
    };
    for _ in 0..2 {
        let removed = registry.remove_alias(&dan, "n", "champion", "retired").await.unwrap();
        let event = last(1).await.remove(0);
        assert_eq!((&*event.action, &*event.resource, &*event.reason), ("alias.remove", "model n@champion", "retired"));
        assert_eq!(event.before, json!({"version": 1, "revision": 3}));
        assert_eq!(
            event.after,
            json!({"version": null, "revision": 4, "promotion": removed.id, "requested_by": "dan",
            "approved_by": [], "verdicts": {}})
        );
    }
    for _ in 0..2 {
        registry.delete_version(&root, "n", 1, "leaks").await.unwrap();
        let events = last(2).await;
        assert_eq!((&*events[0].action, &*events[0].reason), ("alias.remove", "v1 was deleted: leaks"));
        assert_eq!(
            (&*events[1].action, &*events[1].resource, &*events[1].reason),
            ("version.delete", "model n/1", "leaks")
        );
        let before = json!({"package": one, "stage": "Archived", "aliases": ["staging"]});
        assert_eq!((&events[1].before, &events[1].after), (&before, &NONE));
    }
    registry.set_stage_policy(&root, "n", "Staging", AliasPolicy::default()).await.unwrap();
    for _ in 0..2 {
        registry.delete_model(&root, "n", "over").await.unwrap();
        let event = last(1).await.remove(0);
        assert_eq!((&*event.action, &*event.resource, &*event.reason), ("model.delete", "model n", "over"));
        assert_eq!((event.before, event.after), (json!({"description": "prices", "versions": [2]}), NONE));
    }
    let tokens = Tokens::new(registry.clone());
    let new = NewToken::new(std::time::Duration::from_secs(60)).role(Role::Admin).because("for the night");
    let (_, token) = tokens.issue(&root, new).await.unwrap();
    let issued = registry.all_entries().await.unwrap().pop().unwrap().event;
    assert_eq!((&*issued.action, &*issued.reason, issued.after), ("token.issue", "for the night", json!(token)));
    let on_token = format!("token {}", token.id);
    let times = async || tokens.list(&root).await.unwrap()[0].revoked_at;
    tokens.revoke(&root, token.id, "morning").await.unwrap();
    let (revoked, at) = (registry.all_entries().await.unwrap().pop().unwrap().event, times().await);
    assert_eq!((&*revoked.action, revoked.resource, &*revoked.reason), ("token.revoke", on_token, "morning"));
    assert_eq!((revoked.before, revoked.after), (json!({"revoked_at": null}), json!({"revoked_at": at})));
    registry.verify().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_repeated_append_is_found_among_many_of_one_moment_and_before_the_migration() {
    let (registry, _, dir) = in_file().await;
    let event = |n: u64| AuditEvent::new(clock::from_micros(5), "ana", "act", format!("thing {n}"));
    for n in 1..=300 {
        assert_eq!(registry.append(event(n)).await.unwrap().seq, n);
    }
    let path = dir.path().join("registry.db");
    let mut hand = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    // As entries are that an older version wrote.
    sqlx::query("UPDATE audit_log SET event = NULL WHERE seq <= 100").execute(&mut hand).await.unwrap();
    // A hand that leads the look-up astray gains a second entry, not the wrong one.
    sqlx::query("UPDATE audit_log SET event = (SELECT event FROM audit_log WHERE seq = 200) WHERE seq = 150")
        .execute(&mut hand)
        .await
        .unwrap();
    for n in [1, 100, 101, 300] {
        assert_eq!(registry.append(event(n)).await.unwrap().seq, n);
    }
    assert_eq!(registry.append(event(200)).await.unwrap().event, event(200));
    let plan: Vec<(i64, i64, i64, String)> =
        sqlx::query_as("EXPLAIN QUERY PLAN SELECT * FROM audit_log WHERE event = 'x' ORDER BY seq LIMIT 1")
            .fetch_all(&mut hand)
            .await
            .unwrap();
    assert!(plan[0].3.contains("audit_log_by_event"), "{plan:?}");
    registry.verify().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_registry_of_the_first_schema_is_brought_up_to_date() {
    let (store, dir) = (mlops_core::store::MemoryStore::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("registry.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let mut first = sqlx::migrate!("./migrations");
    first.migrations.to_mut().truncate(1);
    first.run(&mut old).await.unwrap();
    let event = AuditEvent::new(SystemClock.now(), "ana", "act", "thing");
    let entry = mlops_core::audit::AuditEntry::seal(1, event.clone(), mlops_core::audit::GENESIS).unwrap();
    sqlx::query("INSERT INTO audit_log VALUES (1, $1, 'ana', 'act', 'thing', 'null', 'null', '', $2, $3)")
        .bind(event.at.timestamp_micros())
        .bind(entry.previous.to_string())
        .bind(entry.digest.to_string())
        .execute(&mut old)
        .await
        .unwrap();
    sqlx::query("UPDATE heads SET seq = 1, digest = $1 WHERE name = 'audit'")
        .bind(entry.digest.to_string())
        .execute(&mut old)
        .await
        .unwrap();
    old.close().await.unwrap();
    let registry = builder(&store).open_sqlite(&path).await.unwrap();
    assert_eq!(registry.append(event).await.unwrap(), entry, "the entry of the old schema is found");
    registry.create_model(&who("ana", Role::Contributor), NewModel::new("m")).await.unwrap();
    assert_eq!(registry.verify().await.unwrap().unwrap().entries, 2);
    assert!(Tokens::new(registry).list(&Principal::new("x")).await.unwrap().is_empty());
}
