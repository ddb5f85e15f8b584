//! The MLflow client: against our own server on a loopback port, against `mlflow server` where one is given, and against
//! servers that fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _};
use axum::routing::any;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mlops_core::auth::FixedPrincipal;
use mlops_core::store::{ArtifactStoreExt as _, MemoryStore};
use mlops_core::{Error as CoreError, ModelRef, ModelSource as _, Package, Principal, Role};
use mlops_registry::conformance::{model_registry, tracking_store};
use mlops_registry::mlflow::client::{MlflowClient, MlflowClientBuilder};
use mlops_registry::mlflow::server::MlflowServer;
use mlops_registry::{
    ArtifactOwner, Error, Limit, LogBatch, ModelRegistry as _, NewExperiment, NewModel, NewPromotion, NewRun,
    NewVersion, SqlRegistry, TrackingStore as _, copy_version, tracking_store_conformance,
    ungoverned_model_registry_conformance,
};
use tokio::task::JoinHandle;

/// A server that ends with its last owner.
struct Served {
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(app: Router) -> Served {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Served { url, task }
}

fn ana() -> Principal {
    Principal::new("ana").with_role(Role::Admin)
}

/// A registry of ours with its server; whoever calls is ana.
async fn own() -> (Served, SqlRegistry, MemoryStore) {
    let store = MemoryStore::default();
    let registry = crate::builder(&store).open_in_memory().await.unwrap();
    let server = MlflowServer::builder(registry.clone(), store.clone()).authenticator(FixedPrincipal::new(ana()));
    (serve(server.build().router()).await, registry, store)
}

/// A store that has what the suite names.
async fn furnished() -> MemoryStore {
    let store = MemoryStore::default();
    for bytes in tracking_store::ARTIFACTS {
        store.put_artifact((*bytes).into()).await.unwrap();
    }
    store
}

async fn to_ours() -> (MlflowClient, MemoryStore, Served) {
    let (served, ..) = own().await;
    let store = furnished().await;
    let client = MlflowClient::builder(&served.url).bearer_token("t").artifacts(store.clone()).page_size(3).build();
    (client.unwrap(), store, served)
}

tracking_store_conformance!(tracking_on_ours, {
    let (client, _, served) = to_ours().await;
    (client, served)
});
ungoverned_model_registry_conformance!(models_on_ours, to_ours().await);

/// A client of the `mlflow server` that was given, in a workspace of its own.
async fn to_theirs() -> (MlflowClient, MemoryStore, ()) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let url = std::env::var("MLOPS_TEST_MLFLOW").unwrap();
    let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let body = format!("{{\"name\":\"{name}\"}}");
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let request = format!(
        "POST /api/3.0/mlflow/workspaces HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{answer}");
    let store = furnished().await;
    let client = MlflowClient::builder(url).workspace(name).artifacts(store.clone()).packages_in("packages");
    (client.build().unwrap(), store, ())
}

tracking_store_conformance!(
    #[ignore = "needs MLOPS_TEST_MLFLOW=http://127.0.0.1:PORT of `mlflow server --enable-workspaces`"]
    tracking_on_mlflow,
    {
        let (client, _, alive) = to_theirs().await;
        (client, alive)
    }
);
ungoverned_model_registry_conformance!(
    #[ignore = "needs MLOPS_TEST_MLFLOW=http://127.0.0.1:PORT of `mlflow server --enable-workspaces`"]
    models_on_mlflow,
    {
        let (client, store, alive) = to_theirs().await;
        client.create_experiment(&ana(), NewExperiment::new("packages")).await.unwrap();
        (client, store, alive)
    }
);

fn quick(url: &str) -> MlflowClientBuilder {
    let (first, most) = (Duration::from_millis(1), Duration::from_millis(5));
    MlflowClient::builder(url).timeout(Duration::from_secs(5)).retries(3).backoff(first, most)
}

/// A server that answers so, and how often it was asked.
async fn answering(status: u16, body: &'static str, then: Option<&'static str>) -> (Served, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move || {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let again = then.filter(|_| n > 0);
        async move {
            match again {
                Some(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
                None => (StatusCode::from_u16(status).unwrap(), Html(body)).into_response(),
            }
        }
    };
    (serve(Router::new().fallback(any(answer))).await, asked)
}

const EXPERIMENT: &str = r#"{"experiment":{"experiment_id":"7","name":"e","lifecycle_stage":"active","creation_time":"1","last_update_time":1}}"#;

#[tokio::test]
async fn what_may_be_repeated_is_repeated() {
    for status in [408, 429, 502, 503, 504] {
        let (served, asked) = answering(status, "<html>busy</html>", Some(EXPERIMENT)).await;
        let found = quick(&served.url).build().unwrap().experiment("e").await.unwrap();
        assert_eq!((found.name.as_str(), asked.load(Ordering::Relaxed)), ("e", 2), "{status}");
    }
    let (served, asked) = answering(503, "<html>down</html>", None).await;
    let error = quick(&served.url).build().unwrap().experiment("e").await.unwrap_err();
    assert!(error.is_retryable() && asked.load(Ordering::Relaxed) == 4, "{error}");
    for status in [400, 401, 403, 404, 500, 501] {
        let (served, asked) = answering(status, "<html>no</html>", Some(EXPERIMENT)).await;
        let error = quick(&served.url).build().unwrap().experiment("e").await.unwrap_err();
        assert_eq!(asked.load(Ordering::Relaxed), 1, "{status}");
        let text = mlops_core::with_causes(&error);
        assert!(text.contains(&status.to_string()) && text.contains("<html>no</html>"), "{text}");
    }
}

#[tokio::test]
async fn a_create_is_not_sent_twice_where_it_may_have_been_done() {
    let run = NewRun::new("e");
    // The experiment is found, and each further call answered so.
    for (status, expected) in [(502, 1), (503, 1), (504, 1), (500, 1), (429, 4)] {
        let creates = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&creates);
        let create = move || {
            count.fetch_add(1, Ordering::Relaxed);
            async move { StatusCode::from_u16(status).unwrap() }
        };
        let app = Router::new()
            .route("/api/2.0/mlflow/runs/create", any(create))
            .fallback(async || ([(header::CONTENT_TYPE, "application/json")], EXPERIMENT));
        let served = serve(app).await;
        quick(&served.url).build().unwrap().start_run(&ana(), run.clone()).await.unwrap_err();
        assert_eq!(creates.load(Ordering::Relaxed), expected, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_as_such() {
    let url = {
        let (served, _) = answering(200, "{}", None).await;
        served.url.clone()
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = quick(&url).build().unwrap().experiment("e").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let expected = format!("MLflow server could not read \"experiment e at {url}\"");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let served = serve(Router::new().fallback(async || std::future::pending::<()>().await)).await;
    let client = quick(&served.url).timeout(Duration::from_millis(50)).retries(1).build().unwrap();
    let start = Instant::now();
    let error = client.experiment("e").await.unwrap_err();
    assert!(error.is_retryable() && start.elapsed() < Duration::from_secs(3), "{error}");
}

#[tokio::test]
async fn answers_of_another_program_are_errors_not_panics() {
    for body in ["", "[]", "{}", "null", "<html></html>", r#"{"experiment":{"experiment_id":"x","name":"e"}}"#, "\u{0}"]
    {
        let (served, _) = answering(200, body, None).await;
        let error = quick(&served.url).build().unwrap().experiment("e").await.unwrap_err();
        assert!(matches!(error, Error::Core(CoreError::Backend { retryable: false, .. })), "{body:?}: {error}");
    }
}

#[tokio::test]
async fn files_stream_both_ways() {
    let (client, store, _served) = to_ours().await;
    client.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    let run: ArtifactOwner = client.start_run(&ana(), NewRun::new("e")).await.unwrap().id().into();
    let pieces = || stream::iter((0..64_u8).map(|i| Ok(vec![i; 128 << 10].into())));
    client.upload(&ana(), run, "big/a b.bin", None, pieces()).await.unwrap();
    let files = client.files(run, "").await.unwrap();
    assert_eq!((files[0].path.as_str(), files[0].bytes), ("big/a b.bin", 8 << 20));
    let bytes: Vec<bytes::Bytes> = client.download(run, "big/a b.bin").await.unwrap().try_collect().await.unwrap();
    let wanted: Vec<u8> = (0..64_u8).flat_map(|i| vec![i; 128 << 10]).collect();
    assert!(bytes.concat() == wanted);
    let artifact = client.artifact(run, "big/a b.bin").await.unwrap();
    assert_eq!(artifact.digest, mlops_core::Digest::of(&wanted));
    assert_eq!(store.get_artifact(&artifact.digest).await.unwrap(), wanted);
    // A body that breaks off leaves nothing.
    let broken = pieces().take(3).chain(stream::iter([Err(CoreError::invalid("piece", "lost"))]));
    client.upload(&ana(), run, "broken", None, broken).await.unwrap_err();
    assert!(client.artifact(run, "broken").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn artifacts_elsewhere_are_refused_by_their_scheme() {
    let (client, ..) = to_ours().await;
    let (client, _served) = {
        drop(client);
        let (client, _, served) = to_ours().await;
        (client, served)
    };
    client.create_experiment(&ana(), NewExperiment::new("e").artifact_location("s3://bucket/e")).await.unwrap();
    let run = client.start_run(&ana(), NewRun::new("e")).await.unwrap();
    let error = client.artifacts(run.id().into(), "").await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(
        error.to_string().contains("the scheme \"s3\"") && error.to_string().contains("ObjectArtifactStore"),
        "{error}"
    );
}

#[tokio::test]
async fn more_than_mlflow_takes_at_once_is_sent_in_parts() {
    let (client, _, _served) = to_ours().await;
    client.create_experiment(&ana(), NewExperiment::new("e")).await.unwrap();
    let run = client.start_run(&ana(), NewRun::new("e")).await.unwrap().id();
    let at = mlops_core::clock::from_micros(0);
    let mut batch = LogBatch::new();
    for i in 0..250 {
        batch = batch.param(format!("p{i}"), i).tag(format!("t{i}"), "x");
    }
    for i in 0..2_500 {
        batch = batch.metric("m", 0.5, i, at);
    }
    client.log_batch(&ana(), run, batch).await.unwrap();
    let found = client.run(run).await.unwrap();
    assert_eq!((found.params.len(), found.tags.len()), (250, 250));
    assert_eq!(client.metric_history(run, "m").await.unwrap().len(), 2_500);
}

#[tokio::test]
async fn a_client_without_a_store_says_so() {
    let (served, ..) = own().await;
    let client = quick(&served.url).build().unwrap();
    client.create_model(&ana(), NewModel::new("m")).await.unwrap();
    let package = NewVersion::new("m", mlops_core::Digest::of(b"x"));
    let error = client.create_version(&ana(), package).await.unwrap_err();
    assert!(error.to_string().contains("without an artifact store: give one to the builder"), "{error}");
}

#[tokio::test]
async fn tags_of_the_client_are_its_own() {
    let (client, _, _served) = to_ours().await;
    for error in [
        client.create_model(&ana(), NewModel::new("m").tag("mlops.author", "eve")).await.unwrap_err(),
        client.create_experiment(&ana(), NewExperiment::new("e").tag("mlops.x", "1")).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("are this client's own"), "{error}");
    }
    assert_eq!(client.registry_limits(), Limit::ALL);
}

/// What was registered on the other side, by another tool, is a package here: the same bytes under the same digest.
#[tokio::test]
async fn a_version_of_another_tool_is_a_package() {
    let (served, registry, theirs) = own().await;
    let package = model_registry::package(&theirs, "1").await;
    registry.create_model(&ana(), NewModel::new("m")).await.unwrap();
    registry.create_version(&ana(), NewVersion::new("m", package)).await.unwrap();
    let here = MemoryStore::default();
    let client = quick(&served.url).artifacts(here.clone()).build().unwrap();
    let found = client.version("m", 1).await.unwrap();
    assert_eq!(found.package, package);
    assert_eq!(Package::load(&here, &package).await.unwrap().file("weights").unwrap(), "1");
    client.move_alias(&ana(), NewPromotion::new("m", 1, "champion")).await.unwrap();
    let resolved = client.resolve(&ModelRef::alias("m", "champion")).await.unwrap();
    assert_eq!((resolved.version, resolved.revision, resolved.package), (1, 1, package));
    // And the other way round: what this client registers is a version there.
    let other = model_registry::package(&here, "2").await;
    let made = client.create_version(&ana(), NewVersion::new("m", other)).await.unwrap();
    assert_eq!(registry.version("m", made.version).await.unwrap().package, other);
    let empty = quick(&served.url).artifacts(MemoryStore::default()).build().unwrap();
    let resolved = empty.resolve(&ModelRef::alias("m", "champion")).await.unwrap();
    assert_eq!(empty.package(&resolved).await.unwrap().file("weights").unwrap(), "1");
}

/// A copy has the bytes, says where it came from, and is made once; what is damaged is not copied.
#[tokio::test]
async fn versions_are_copied_between_registries() {
    let ((development, here), (production, there)) = (crate::in_memory().await, crate::in_memory().await);
    let package = model_registry::package(&here, "1").await;
    development.create_model(&ana(), NewModel::new("m").description("prices")).await.unwrap();
    let new = NewVersion::new("m", package).description("first").tag("k", "v");
    development.create_version(&ana(), new).await.unwrap();
    for _ in 0..2 {
        let copy = copy_version(&ana(), (&development, &here), "m", 1, (&production, &there), "n").await.unwrap();
        assert_eq!((copy.version, copy.package, copy.description.as_str()), (1, package, "first"));
        let tags = ["k", "copied_from", "copied_from_author"].map(|key| copy.tags[key].as_str());
        assert_eq!(tags, ["v", "models:/m/1", "ana"]);
    }
    assert_eq!(production.model("n").await.unwrap().description, "prices");
    let (original, copied) =
        (Package::load(&here, &package).await.unwrap(), Package::load(&there, &package).await.unwrap());
    assert_eq!(original.signature().unwrap(), copied.signature().unwrap());
    assert_eq!(copied.file("weights").unwrap(), "1");
    // From an MLflow server, too.
    let (client, store, _served) = to_ours().await;
    client.create_model(&ana(), NewModel::new("far")).await.unwrap();
    let other = model_registry::package(&store, "2").await;
    client.create_version(&ana(), NewVersion::new("far", other)).await.unwrap();
    let copy = copy_version(&ana(), (&client, &store), "far", 1, (&production, &there), "n").await.unwrap();
    assert_eq!((copy.version, copy.package), (2, other));
    let back = copy_version(&ana(), (&production, &there), "n", 1, (&client, &store), "far").await.unwrap();
    assert_eq!((back.version, back.package), (2, package));
    // A package with a damaged file stays where it is.
    let third = model_registry::package(&here, "3").await;
    development.create_version(&ana(), NewVersion::new("m", third)).await.unwrap();
    let key = mlops_core::store::artifact_key(&mlops_core::Digest::of(b"3"));
    here.put(&key, "X".into()).await.unwrap();
    let error = copy_version(&ana(), (&development, &here), "m", 2, (&production, &there), "n").await.unwrap_err();
    assert!(matches!(error, Error::Core(CoreError::Corrupt { .. })), "{error}");
    assert_eq!(production.model("n").await.unwrap().latest, 2);
}
