//! MLflow's REST contract over the router: who may call what, and what odd input gets.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use mlops_core::auth::FixedPrincipal;
use mlops_core::auth::token::{NewToken, Tokens};
use mlops_core::store::MemoryStore;
use mlops_core::{Principal, Resource, Role};
use mlops_registry::mlflow::server::MlflowServer;
use mlops_registry::webhooks::{NewWebhook, WebhookDispatcher, WebhookEvent};
use mlops_registry::{EventKind, SqlRegistry};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const PROJECT: &str = "fraud";

struct Server {
    app: Router,
    tokens: Tokens,
    registry: SqlRegistry,
}

impl Server {
    async fn start() -> Self {
        let store = MemoryStore::default();
        let builder = SqlRegistry::builder().artifacts(store.clone()).project(PROJECT);
        let registry = builder.open_in_memory().await.unwrap();
        let tokens = Tokens::new(registry.clone());
        let server = MlflowServer::builder(registry.clone(), store)
            .authenticator(Tokens::new(registry.clone()))
            .project(PROJECT);
        let dispatcher =
            WebhookDispatcher::builder(registry.clone()).allow("127.0.0.0/8".parse().unwrap()).build().unwrap();
        let server = server.webhooks(dispatcher);
        Self { app: server.build().router(), tokens, registry }
    }

    async fn token(&self, role: Role, project: &str) -> String {
        let root = Principal::new("root").with_role(Role::Admin);
        let new = NewToken::new(Duration::from_secs(600))
            .speaks_as(format!("{}-of-{project}", role.as_str()))
            .role_on(role, Resource::project(project))
            .because("a test");
        self.tokens.issue(&root, new).await.unwrap().0.reveal().to_owned()
    }

    async fn send(&self, token: Option<&str>, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let path = format!("/api/2.0/mlflow/{path}");
        match body {
            Value::Null => self.send(Some(token), method, &path, Body::empty()).await,
            body => self.send(Some(token), method, &path, body.to_string()).await,
        }
    }

    async fn ok(&self, token: &str, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(token, method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }
}

/// Names of things that are there, made by an admin.
struct Things {
    experiment: String,
    run: String,
    model: String,
    webhook: String,
}

async fn furnish(server: &Server, admin: &str) -> Things {
    let made = server.ok(admin, "POST", "experiments/create", json!({ "name": "e" })).await;
    let experiment = made["experiment_id"].as_str().unwrap().to_owned();
    let made = server.ok(admin, "POST", "runs/create", json!({ "experiment_id": experiment, "start_time": 1 })).await;
    let run = made["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    server.ok(admin, "POST", "runs/set-tag", json!({ "run_id": run, "key": "k", "value": "v" })).await;
    let new = json!({ "experiment_id": experiment, "name": "m", "source_run_id": run });
    let made = server.ok(admin, "POST", "logged-models", new).await;
    let model = made["model"]["info"]["model_id"].as_str().unwrap().to_owned();
    let path = format!("/api/2.0/mlflow-artifacts/artifacts/{experiment}/models/{model}/artifacts/MLmodel");
    assert_eq!(server.send(Some(admin), "PUT", &path, "flavors: {}\n").await.0, 200);
    let path = format!("/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/a.txt");
    assert_eq!(server.send(Some(admin), "PUT", &path, "a").await.0, 200);
    let done = json!({ "status": "LOGGED_MODEL_READY" });
    server.ok(admin, "PATCH", &format!("logged-models/{model}"), done).await;
    server.ok(admin, "POST", "registered-models/create", json!({ "name": "prices" })).await;
    for _ in 0..2 {
        let new = json!({ "name": "prices", "source": format!("models:/{model}"), "model_id": model });
        server.ok(admin, "POST", "model-versions/create", new).await;
    }
    let alias = json!({ "name": "prices", "alias": "champion", "version": "1" });
    server.ok(admin, "POST", "registered-models/alias", alias).await;
    // Nobody listens there, which is an answer, too.
    let new = json!({ "name": "ci", "url": "http://127.0.0.1:9/", "events": [created()] });
    let made = server.ok(admin, "POST", "webhooks", new).await;
    let webhook = made["webhook"]["webhook_id"].as_str().unwrap().to_owned();
    Things { experiment, run, model, webhook }
}

fn created() -> Value {
    json!({ "entity": "REGISTERED_MODEL", "action": "CREATED" })
}

const READERS: &[Role] = &Role::ALL;
const TRACKERS: &[Role] = &[Role::Contributor, Role::Admin];
const MOVERS: &[Role] = &[Role::Deployer, Role::Admin];
const ADMINS: &[Role] = &[Role::Admin];

/// Every endpoint, an order in which each call is possible, and which roles may make it alone.
fn endpoints(things: &Things) -> Vec<(&'static str, String, Value, &'static [Role])> {
    let Things { experiment: e, run: r, model: m, webhook: w } = things;
    let e = || json!({ "experiment_id": e });
    let r = || json!({ "run_id": r });
    let with = |mut body: Value, more: Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let model = || json!({ "name": "prices" });
    let version = |n: &str| json!({ "name": "prices", "version": n });
    let tag = || json!({ "key": "k", "value": "v" });
    let key = || json!({ "key": "k" });
    let exp = &things.experiment;
    let run = &things.run;
    let mut all = vec![
        ("GET", format!("experiments/get?experiment_id={exp}"), Value::Null, READERS),
        ("GET", "experiments/get-by-name?experiment_name=e".into(), Value::Null, READERS),
        ("POST", "experiments/search".into(), json!({}), READERS),
        ("GET", "experiments/search".into(), Value::Null, READERS),
        ("POST", "experiments/set-experiment-tag".into(), with(e(), tag()), TRACKERS),
        ("POST", "experiments/delete-experiment-tag".into(), with(e(), key()), TRACKERS),
        ("POST", "experiments/update".into(), with(e(), json!({ "new_name": "f" })), TRACKERS),
        ("POST", "experiments/create".into(), json!({ "name": "g" }), TRACKERS),
        ("POST", "runs/create".into(), with(e(), json!({ "start_time": 1 })), TRACKERS),
        ("GET", format!("runs/get?run_id={run}"), Value::Null, READERS),
        ("GET", format!("runs/get?run_uuid={run}"), Value::Null, READERS),
        ("POST", "runs/search".into(), json!({ "experiment_ids": [exp] }), READERS),
        ("GET", format!("metrics/get-history?run_id={run}&metric_key=x"), Value::Null, READERS),
        ("GET", format!("artifacts/list?run_id={run}"), Value::Null, READERS),
        ("POST", "runs/log-parameter".into(), with(r(), tag()), TRACKERS),
        ("POST", "runs/log-metric".into(), with(r(), json!({ "key": "x", "value": 1, "timestamp": 1 })), TRACKERS),
        ("POST", "runs/log-batch".into(), with(r(), json!({ "tags": [tag()] })), TRACKERS),
        ("POST", "runs/set-tag".into(), with(r(), tag()), TRACKERS),
        ("POST", "runs/delete-tag".into(), with(r(), key()), TRACKERS),
        (
            "POST",
            "runs/log-inputs".into(),
            with(r(), json!({ "datasets": [{ "dataset": { "name": "d", "digest": "1" } }] })),
            TRACKERS,
        ),
        ("POST", "runs/outputs".into(), with(r(), json!({ "models": [{ "model_id": m, "step": 0 }] })), TRACKERS),
        (
            "POST",
            "runs/log-model".into(),
            with(r(), json!({ "model_json": "{\"artifact_path\":\"m\",\"flavors\":{},\"run_id\":\"x\"}" })),
            TRACKERS,
        ),
        ("POST", "runs/update".into(), with(r(), json!({ "status": "FINISHED" })), TRACKERS),
        ("POST", "runs/delete".into(), r(), TRACKERS),
        ("POST", "runs/restore".into(), r(), TRACKERS),
        ("POST", "logged-models".into(), with(e(), json!({ "name": "n" })), TRACKERS),
        ("POST", "logged-models/search".into(), json!({ "experiment_ids": [exp] }), READERS),
        ("GET", format!("logged-models/{m}"), Value::Null, READERS),
        ("GET", format!("logged-models/{m}/artifacts/directories"), Value::Null, READERS),
        ("PATCH", format!("logged-models/{m}"), json!({ "status": "LOGGED_MODEL_READY" }), TRACKERS),
        ("PATCH", format!("logged-models/{m}/tags"), json!({ "tags": [tag()] }), TRACKERS),
        ("DELETE", format!("logged-models/{m}/tags/k"), Value::Null, TRACKERS),
        ("POST", format!("logged-models/{m}/params"), json!({ "params": [tag()] }), TRACKERS),
        ("GET", "webhooks".into(), Value::Null, ADMINS),
        ("GET", format!("webhooks/{w}"), Value::Null, ADMINS),
        (
            "POST",
            "webhooks".into(),
            json!({ "name": "n", "url": "http://127.0.0.1:9/", "events": [created()] }),
            ADMINS,
        ),
        ("POST", format!("webhooks/{w}/test"), json!({ "event": created() }), ADMINS),
        ("PATCH", format!("webhooks/{w}"), json!({ "status": "DISABLED" }), ADMINS),
        ("DELETE", format!("webhooks/{w}"), Value::Null, ADMINS),
        ("POST", "registered-models/create".into(), json!({ "name": "other" }), TRACKERS),
        ("GET", "registered-models/get?name=prices".into(), Value::Null, READERS),
        ("GET", "registered-models/search".into(), Value::Null, READERS),
        ("POST", "registered-models/get-latest-versions".into(), model(), READERS),
        ("GET", "registered-models/get-latest-versions?name=prices".into(), Value::Null, READERS),
        ("PATCH", "registered-models/update".into(), with(model(), json!({ "description": "d" })), TRACKERS),
        ("POST", "registered-models/set-tag".into(), with(model(), tag()), TRACKERS),
        ("DELETE", "registered-models/delete-tag".into(), with(model(), key()), TRACKERS),
        (
            "POST",
            "model-versions/create".into(),
            json!({ "name": "prices", "source": format!("models:/{m}"), "model_id": m }),
            TRACKERS,
        ),
        ("GET", "model-versions/get?name=prices&version=1".into(), Value::Null, READERS),
        ("GET", "model-versions/search?filter=name%3D'prices'".into(), Value::Null, READERS),
        ("GET", "model-versions/get-download-uri?name=prices&version=1".into(), Value::Null, READERS),
        ("PATCH", "model-versions/update".into(), with(version("1"), json!({ "description": "d" })), TRACKERS),
        ("POST", "model-versions/set-tag".into(), with(version("1"), tag()), TRACKERS),
        ("DELETE", "model-versions/delete-tag".into(), with(version("1"), key()), TRACKERS),
        ("GET", "registered-models/alias?name=prices&alias=champion".into(), Value::Null, READERS),
    ];
    all.extend([
        // Asking for a move and making it are two roles' work, but for an admin.
        ("POST", "registered-models/alias".into(), with(version("2"), json!({ "alias": "champion" })), ADMINS),
        ("DELETE", "registered-models/alias".into(), with(model(), json!({ "alias": "champion" })), MOVERS),
        (
            "POST",
            "model-versions/transition-stage".into(),
            with(version("1"), json!({ "stage": "Staging", "archive_existing_versions": false })),
            ADMINS,
        ),
        ("POST", "registered-models/rename".into(), with(model(), json!({ "new_name": "prices" })), TRACKERS),
        ("DELETE", "model-versions/delete".into(), version("1"), ADMINS),
        ("DELETE", "registered-models/delete".into(), model(), ADMINS),
        ("DELETE", format!("logged-models/{m}"), Value::Null, TRACKERS),
        ("POST", "experiments/delete".into(), e(), TRACKERS),
        ("POST", "experiments/restore".into(), e(), TRACKERS),
    ]);
    all
}

/// Each role on each endpoint is let through or refused as the table says; without a token it is 401, and with one of
/// another project 403 or nothing to see.
#[tokio::test]
async fn each_role_on_each_endpoint() {
    for role in Role::ALL {
        let server = Server::start().await;
        let admin = server.token(Role::Admin, PROJECT).await;
        let token = server.token(role, PROJECT).await;
        let stranger = server.token(role, "other").await;
        let things = furnish(&server, &admin).await;
        for (method, path, body, allowed) in endpoints(&things) {
            let what = format!("{} {method} {path}", role.as_str());
            let url = format!("/api/2.0/mlflow/{path}");
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let (status, answer) = server.send(None, method, &url, text.clone()).await;
            assert_eq!((status.as_u16(), &answer["error_code"]), (401, &json!("UNAUTHENTICATED")), "{what}: {answer}");
            let (status, answer) = server.send(Some("mlops_no"), method, &url, text).await;
            assert_eq!(status, 401, "{what}: {answer}");
            let (status, answer) = server.call(&stranger, method, &path, body.clone()).await;
            if path.contains("search") && !path.contains("runs") && !path.contains("logged") {
                assert!(
                    status == 200 && answer.as_object().unwrap().values().all(|v| v == &json!([])),
                    "{what}: {answer}"
                );
            } else {
                assert_eq!(
                    (status.as_u16(), &answer["error_code"]),
                    (403, &json!("PERMISSION_DENIED")),
                    "{what}: {answer}"
                );
            }
            let (status, answer) = server.call(&token, method, &path, body).await;
            if allowed.contains(&role) {
                assert_eq!(status, 200, "{what}: {answer}");
            } else {
                assert_eq!(
                    (status.as_u16(), &answer["error_code"]),
                    (403, &json!("PERMISSION_DENIED")),
                    "{what}: {answer}"
                );
            }
        }
    }
}

/// The artifact proxy asks the same.
#[tokio::test]
async fn each_role_on_artifacts() {
    for role in Role::ALL {
        let server = Server::start().await;
        let admin = server.token(Role::Admin, PROJECT).await;
        let token = server.token(role, PROJECT).await;
        let stranger = server.token(role, "other").await;
        let Things { experiment, run, model, .. } = furnish(&server, &admin).await;
        let at = "/api/2.0/mlflow-artifacts/artifacts";
        let folder = format!("{experiment}/{run}/artifacts");
        for (method, path, allowed) in [
            ("GET", format!("{at}?path={folder}"), READERS),
            ("GET", format!("{at}/{folder}/a.txt"), READERS),
            ("GET", format!("{at}/{experiment}/models/{model}/artifacts/MLmodel"), READERS),
            ("GET", format!("{at}/model-versions/prices/1/MLmodel"), READERS),
            ("PUT", format!("{at}/{folder}/b.txt"), TRACKERS),
            ("DELETE", format!("{at}/{folder}/a.txt"), TRACKERS),
        ] {
            let what = format!("{} {method} {path}", role.as_str());
            assert_eq!(server.send(None, method, &path, "b").await.0, 401, "{what}");
            assert_eq!(server.send(Some(&stranger), method, &path, "b").await.0, 403, "{what}");
            let wanted = if allowed.contains(&role) { 200 } else { 403 };
            assert_eq!(server.send(Some(&token), method, &path, "b").await.0, wanted, "{what}");
        }
    }
}

/// What a client may see and set of webhooks: MLflow's events, no secret, and nowhere but where they may lead.
#[tokio::test]
async fn webhooks_over_the_wire() {
    let server = Server::start().await;
    let admin = server.token(Role::Admin, PROJECT).await;
    let root = Principal::new("root").with_role_on(Role::Admin, Resource::project(PROJECT));
    let of = |kind| WebhookEvent::of(kind);
    let url = "http://127.0.0.1:9/hook";
    let mixed = NewWebhook::new("mixed", url, [of(EventKind::PromotionRequested), of(EventKind::AliasMoved)]);
    let mixed = server.registry.create_webhook(&root, mixed).await.unwrap();
    let ours = NewWebhook::new("ours", url, [of(EventKind::PromotionRequested)]);
    let ours = server.registry.create_webhook(&root, ours).await.unwrap();
    let new = json!({
        "name": "ci", "url": url, "description": "d", "secret": "hush-hush",
        "events": [created(), { "entity": "MODEL_VERSION_TAG", "action": "SET" }],
    });
    let made = server.ok(&admin, "POST", "webhooks", new.clone()).await["webhook"].clone();
    assert!(!made.to_string().contains("hush"), "{made}");
    assert_eq!((&made["events"], &made["status"], &made["url"]), (&new["events"], &json!("ACTIVE"), &json!(url)));
    let at = format!("webhooks/{}", made["webhook_id"].as_str().unwrap());
    assert_eq!(server.ok(&admin, "GET", &at, Value::Null).await["webhook"], made);
    // Newest first; a page may end where a webhook is that is gone by the next.
    let first = server.ok(&admin, "GET", "webhooks?max_results=1", Value::Null).await;
    assert_eq!(first["webhooks"], json!([made]));
    server.ok(&admin, "DELETE", &at, Value::Null).await;
    let token = first["next_page_token"].as_str().unwrap();
    let rest = server.ok(&admin, "GET", &format!("webhooks?page_token={token}"), Value::Null).await;
    assert_eq!(rest["webhooks"][0]["name"], "mixed");
    assert_eq!(rest["webhooks"][0]["events"], json!([{ "entity": "MODEL_VERSION_ALIAS", "action": "CREATED" }]));
    assert_eq!((rest["webhooks"].as_array().unwrap().len(), rest.get("next_page_token")), (1, None));
    // What MLflow does not know stays.
    let edit = json!({ "events": [created()], "name": "", "url": "", "description": "" });
    server.ok(&admin, "PATCH", &format!("webhooks/{}", mixed.id), edit).await;
    let edited = server.registry.webhook(mixed.id).await.unwrap();
    assert_eq!(edited.events, [of(EventKind::ModelCreated), of(EventKind::PromotionRequested)]);
    assert_eq!((&*edited.name, &*edited.url), ("mixed", url));
    let test = server.ok(&admin, "POST", &format!("webhooks/{}/test", mixed.id), json!({})).await;
    let error = test["result"]["error_message"].as_str().unwrap();
    assert!(error.contains("cannot connect to 127.0.0.1:9"), "{error}");
    assert_eq!((&test["result"]["success"], test["result"].get("response_status")), (&json!(false), None));
    for (method, path) in
        [("GET", at.clone()), ("DELETE", at), ("GET", format!("webhooks/{}", ours.id)), ("GET", "webhooks/x".into())]
    {
        let (status, answer) = server.call(&admin, method, &path, Value::Null).await;
        assert_eq!(
            (status.as_u16(), &answer["error_code"]),
            (404, &json!("RESOURCE_DOES_NOT_EXIST")),
            "{method} {path}"
        );
    }
    for (field, bad) in [
        ("name", json!("")),
        ("name", json!("-a")),
        ("name", json!("a b")),
        ("name", json!("x".repeat(64))),
        ("url", json!("")),
        ("url", json!("https://10.0.0.1/")),
        ("url", json!("http://169.254.169.254/latest/meta-data")),
        ("url", json!("http://[::1]/")),
        ("url", json!("http://[::ffff:127.0.0.1]/")),
        ("url", json!("file:///etc/passwd")),
        ("url", json!("http://1.1.1.1/")),
        ("url", json!("https://u:p@1.1.1.1/")),
        ("events", json!([])),
        ("events", json!([{ "entity": "PROMPT", "action": "CREATED" }])),
        ("events", json!(["registered_model.created"])),
        ("events", json!([{ "entity": "mlops.promotion", "action": "requested" }])),
        ("status", json!("PAUSED")),
        ("secret", json!("x".repeat(1_001))),
    ] {
        let mut new = new.clone();
        new[field] = bad.clone();
        let (status, answer) = server.call(&admin, "POST", "webhooks", new).await;
        assert_eq!(
            (status.as_u16(), &answer["error_code"]),
            (400, &json!("INVALID_PARAMETER_VALUE")),
            "{bad}: {answer}"
        );
    }
    for path in ["webhooks?max_results=0", "webhooks?max_results=1001", "webhooks?page_token=x"] {
        assert_eq!(server.call(&admin, "GET", path, Value::Null).await.0, 400, "{path}");
    }
}

/// What is registered stays as it was registered, and cannot be written to.
#[tokio::test]
async fn a_version_keeps_its_files() {
    let server = Server::start().await;
    let admin = server.token(Role::Admin, PROJECT).await;
    let Things { experiment, run, model, .. } = furnish(&server, &admin).await;
    let at = "/api/2.0/mlflow-artifacts/artifacts";
    let path = format!("{at}/{experiment}/models/{model}/artifacts/MLmodel");
    assert_eq!(server.send(Some(&admin), "PUT", &path, "flavors: {evil: {}}\n").await.0, 200);
    let uri = server.ok(&admin, "GET", "model-versions/get-download-uri?name=prices&version=1", Value::Null).await;
    assert_eq!(uri["artifact_uri"], "mlflow-artifacts:/model-versions/prices/1");
    let request = Request::get(format!("{at}/model-versions/prices/1/MLmodel"))
        .header(header::AUTHORIZATION, format!("Bearer {admin}"))
        .body(Body::empty())
        .unwrap();
    let response = server.app.clone().oneshot(request).await.unwrap();
    let headers = response.headers().clone();
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"MLmodel\"");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(to_bytes(response.into_body(), 1_000).await.unwrap(), "flavors: {}\n");
    for (method, path) in [
        ("PUT", format!("{at}/model-versions/prices/1/MLmodel")),
        ("DELETE", format!("{at}/model-versions/prices/1/MLmodel")),
        ("PUT", format!("{at}/{experiment}/{run}/artifacts")),
    ] {
        assert_eq!(server.send(Some(&admin), method, &path, "x").await.0, 400, "{method} {path}");
    }
    for source in [
        "s3://bucket/model",
        "file:///etc",
        "/etc/passwd",
        "runs:/../../etc",
        "models:/prices@champion",
        "models:/nothing/1",
    ] {
        let new = json!({ "name": "prices", "source": source });
        let (status, answer) = server.call(&admin, "POST", "model-versions/create", new).await;
        assert!(matches!(status.as_u16(), 400 | 404), "{source}: {status} {answer}");
    }
}

/// Experiment 0 is there once somebody who may make it asked; to others it is missing, not forbidden.
#[tokio::test]
async fn the_default_experiment_is_made_by_who_may() {
    let server = Server::start().await;
    let (viewer, ana) = (server.token(Role::Viewer, PROJECT).await, server.token(Role::Contributor, PROJECT).await);
    let stranger = server.token(Role::Admin, "other").await;
    let path = "experiments/get?experiment_id=0";
    assert_eq!(server.call(&viewer, "GET", path, Value::Null).await.0, 404);
    assert_eq!(server.call(&stranger, "GET", path, Value::Null).await.0, 403);
    let made = server.ok(&ana, "GET", path, Value::Null).await;
    assert_eq!(made["experiment"]["name"], "Default");
    assert_eq!(server.ok(&viewer, "GET", path, Value::Null).await, made);
}

/// Bad input is the caller's error, with the field's name, and never a 500.
#[tokio::test]
async fn bad_input_is_a_400() {
    let server = Server::start().await;
    let admin = server.token(Role::Admin, PROJECT).await;
    let things = furnish(&server, &admin).await;
    for (method, path, _, _) in endpoints(&things).iter().filter(|(method, ..)| *method != "GET") {
        for body in ["[]", "{", "\u{0}", "{\"run_id\": 3}", "{\"name\": {}, \"experiment_id\": [], \"run_id\": true}"] {
            let (status, answer) = server.send(Some(&admin), method, &format!("/api/2.0/mlflow/{path}"), body).await;
            // Some calls have no field that must be there.
            let may_be_well = body.contains("run_id") && (status == 200 || status == 404);
            assert!(status == 400 || may_be_well, "{method} {path} {body}: {status} {answer}");
        }
    }
    let run = &things.run;
    for (path, body, field) in [
        ("runs/log-metric", json!({ "run_id": run, "key": "x", "value": "many", "timestamp": 1 }), "'value'"),
        ("runs/log-metric", json!({ "run_id": run, "key": "x", "value": 1, "timestamp": i64::MAX }), "'timestamp'"),
        ("runs/log-metric", json!({ "run_id": run, "value": 1, "timestamp": 1 }), "'key'"),
        ("runs/log-batch", json!({ "run_id": run, "metrics": vec![json!({}); 1_001] }), "1001 metrics"),
        ("runs/update", json!({ "run_id": run, "status": "DONE" }), "'status'"),
        ("runs/search", json!({ "experiment_ids": ["0"], "max_results": 0 }), "'max_results'"),
        ("runs/search", json!({ "experiment_ids": ["0"], "run_view_type": "SOME" }), "'run_view_type'"),
    ] {
        let (status, answer) = server.call(&admin, "POST", path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(field), "{path}: {status} {answer}");
    }
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(5 << 20));
    let (status, answer) = server.send(Some(&admin), "POST", "/api/2.0/mlflow/experiments/create", huge).await;
    assert_eq!((status.as_u16(), &answer["error_code"]), (413, &json!("BAD_REQUEST")));
    let (status, answer) = server.send(Some(&admin), "GET", "/api/2.0/mlflow/no/such", "").await;
    assert_eq!((status.as_u16(), &answer["error_code"]), (404, &json!("ENDPOINT_NOT_FOUND")));
    for path in ["../x", "a/../../x", "e/r/artifacts/..%2f..%2fx", "e\\r"] {
        let (status, _) =
            server.send(Some(&admin), "PUT", &format!("/api/2.0/mlflow-artifacts/artifacts/{path}"), "x").await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
}

/// A server without tokens answers to its own names alone, and never to pages of other sites.
#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let store = MemoryStore::default();
    let registry = SqlRegistry::builder().artifacts(store.clone()).open_in_memory().await.unwrap();
    let everybody = FixedPrincipal::new(Principal::new("local").with_role(Role::Admin));
    let server = MlflowServer::builder(registry, store).authenticator(everybody).only_hosts(["localhost", "[::1]"]);
    let app = server.build().router();
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::get("/api/2.0/mlflow/experiments/search");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(ask(&[("host", "localhost:5000")]).await, 200);
    assert_eq!(ask(&[("host", "[::1]:5000")]).await, 200);
    assert_eq!(ask(&[("host", "localhost:5000"), ("origin", "http://localhost:5000")]).await, 200);
    for headers in [
        &[("host", "evil.example")][..],
        &[("host", "localhost.evil.example:5000")],
        &[("host", "localhost:5000"), ("origin", "http://evil.example")],
        &[("host", "localhost:5000"), ("origin", "null")],
        &[("host", "localhost:5000"), ("sec-fetch-site", "cross-site")],
        &[],
    ] {
        assert_eq!(ask(headers).await, 403, "{headers:?}");
    }
}

/// Numbers that JSON has no words for come back as they went.
#[tokio::test]
async fn metrics_keep_nan_and_infinity() {
    let server = Server::start().await;
    let admin = server.token(Role::Admin, PROJECT).await;
    let Things { run, .. } = furnish(&server, &admin).await;
    for value in [json!("NaN"), json!("Infinity"), json!("-Infinity"), json!(0.1)] {
        let point = json!({ "run_id": run, "key": "x", "value": value, "timestamp": 1_000, "step": "4" });
        server.ok(&admin, "POST", "runs/log-metric", point).await;
        let seen =
            server.ok(&admin, "GET", &format!("metrics/get-history?run_id={run}&metric_key=x"), Value::Null).await;
        let seen = seen["metrics"].as_array().unwrap();
        let point = json!({ "key": "x", "value": value, "timestamp": 1_000, "step": 4 });
        assert!(seen.contains(&point), "{seen:?}");
    }
}
