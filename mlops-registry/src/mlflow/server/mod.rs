//! An MLflow tracking server and model registry as an [`axum::Router`], to be mounted in a service of yours.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use mlops_core::auth::token::Tokens;
//! use mlops_core::store::MemoryStore;
//! use mlops_registry::SqlRegistry;
//! use mlops_registry::mlflow::server::MlflowServer;
//!
//! let store = MemoryStore::default();
//! let registry = SqlRegistry::builder().artifacts(store.clone()).open_sqlite("registry.db").await?;
//! let mlflow = MlflowServer::builder(registry.clone(), store).authenticator(Tokens::new(registry)).build();
//! let app: axum::Router = mlflow.router(); // `MLFLOW_TRACKING_URI=http://…` and `MLFLOW_TRACKING_TOKEN=mlops_…`
//! # let _ = app; Ok(()) }
//! ```
//!
//! # Rules
//! - **Who:** nobody is let in without a credential that the [`Authenticator`] knows. Roles decide the rest; what a
//!   client says of its user is kept as a tag and believed by nothing.
//! - **Aliases** move by their policy: where it asks for approvals, setting an alias is `PERMISSION_DENIED`, and the
//!   request that a reviewer approves is left behind.
//! - **Bytes** go through this server and are stored by their digest. The source of a model version must be here: a
//!   logged model, an artifact of a run, another version. A place elsewhere may change after it was approved.
//! - **Experiment `0`** is the one named `Default`, made when it is first used.

mod args;
mod artifacts;
mod edge;
mod experiments;
mod failure;
mod logged_models;
mod models;
mod runs;
#[cfg(all(feature = "webhooks", any(feature = "sqlite", feature = "postgres")))]
mod webhooks;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, RawPathParams, Request, State};
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use mlops_core::auth::Authenticator;
use mlops_core::{ArtifactStore, Authorizer, RoleTable};

use self::args::Args;
use self::failure::{Answer, Failure};
use super::wire::{self, Code};
use crate::{ModelRegistry, TrackingStore};

/// Serves MLflow's REST contract over a registry. Clones share it.
#[derive(Clone, Debug)]
pub struct MlflowServer(Arc<Server>);

struct Server {
    tracking: Arc<dyn TrackingStore>,
    registry: Arc<dyn ModelRegistry>,
    store: Arc<dyn ArtifactStore>,
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
    largest_artifact: u64,
    hosts: Option<Vec<String>>,
    #[cfg(all(feature = "webhooks", any(feature = "sqlite", feature = "postgres")))]
    webhooks: Option<crate::webhooks::WebhookDispatcher>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tracking, registry, store, authenticator, project, .. } = self;
        f.debug_struct("MlflowServer")
            .field("tracking", tracking)
            .field("registry", registry)
            .field("store", store)
            .field("authenticator", authenticator)
            .field("project", project)
            .finish_non_exhaustive()
    }
}

/// Nobody, until the caller says who.
#[derive(Debug)]
struct Closed;

#[async_trait::async_trait]
impl Authenticator for Closed {
    async fn authenticate(&self, _: &mlops_core::auth::Credential) -> mlops_core::Result<mlops_core::Principal> {
        Err(mlops_core::Error::unauthenticated("this server was given no authenticator, so it lets nobody in"))
    }
}

/// Puts a [`MlflowServer`] together.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct MlflowServerBuilder(Server);

impl MlflowServerBuilder {
    /// Who is let in, and as whom (default: nobody).
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.0.authenticator = Arc::new(authenticator);
        self
    }

    /// Who may read what (default: the role table). What changes something asks the registry's own.
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.0.authorizer = Arc::new(authorizer);
        self
    }

    /// The project that everything here is in; the same as the registry's.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.0.project = Some(name.into());
        self
    }

    /// The most bytes of one artifact (default 50 GiB). Other calls take 4 MiB.
    pub fn largest_artifact(mut self, bytes: u64) -> Self {
        self.0.largest_artifact = bytes;
        self
    }

    /// The names under which this server may be called, without port (default: any).
    ///
    /// For a server that asks for no token: a page of another site, shown by a browser that reaches this server, has a
    /// name of its own, even where that name was made to lead here (DNS rebinding).
    pub fn only_hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.0.hosts = Some(hosts.into_iter().map(|host| host.into().to_ascii_lowercase()).collect());
        self
    }

    /// The webhooks that clients may set up, and what tests them (default: none, and their calls are not served). Deliveries
    /// are made by whoever [runs](crate::webhooks::WebhookDispatcher::run) it, here or in another process.
    #[cfg(all(feature = "webhooks", any(feature = "sqlite", feature = "postgres")))]
    #[cfg_attr(docsrs, doc(cfg(feature = "webhooks")))]
    pub fn webhooks(mut self, dispatcher: crate::webhooks::WebhookDispatcher) -> Self {
        self.0.webhooks = Some(dispatcher);
        self
    }

    /// The server.
    #[must_use]
    pub fn build(self) -> MlflowServer {
        MlflowServer(Arc::new(self.0))
    }
}

impl MlflowServer {
    /// A server over a registry and the artifact store that the registry was given.
    pub fn builder<R>(registry: R, store: impl ArtifactStore) -> MlflowServerBuilder
    where
        R: TrackingStore + ModelRegistry,
    {
        let registry = Arc::new(registry);
        MlflowServerBuilder(Server {
            tracking: Arc::<R>::clone(&registry),
            registry,
            store: Arc::new(store),
            authenticator: Arc::new(Closed),
            authorizer: Arc::new(RoleTable),
            project: None,
            largest_artifact: 50 << 30,
            hosts: None,
            #[cfg(all(feature = "webhooks", any(feature = "sqlite", feature = "postgres")))]
            webhooks: None,
        })
    }

    /// The routes, from `/api/2.0/mlflow/…` on, with `/health` and `/version`.
    pub fn router(&self) -> Router {
        macro_rules! call {
            ($method:ident) => {
                |State(server): State<Arc<Server>>, Call { headers, args }: Call| async move {
                    let who = server.caller(&headers).await?;
                    server.$method(&who, args).await.map(axum::Json)
                }
            };
        }
        let api = Router::new()
            .route("/experiments/create", post(call!(create_experiment)))
            .route("/experiments/get", get(call!(get_experiment)))
            .route("/experiments/get-by-name", get(call!(get_experiment_by_name)))
            .route("/experiments/search", get(call!(search_experiments)).post(call!(search_experiments)))
            .route("/experiments/update", post(call!(update_experiment)))
            .route("/experiments/delete", post(call!(delete_experiment)))
            .route("/experiments/restore", post(call!(restore_experiment)))
            .route("/experiments/set-experiment-tag", post(call!(set_experiment_tag)))
            .route("/experiments/delete-experiment-tag", post(call!(delete_experiment_tag)))
            .route("/runs/create", post(call!(create_run)))
            .route("/runs/update", post(call!(update_run)))
            .route("/runs/get", get(call!(get_run)))
            .route("/runs/delete", post(call!(delete_run)))
            .route("/runs/restore", post(call!(restore_run)))
            .route("/runs/log-parameter", post(call!(log_parameter)))
            .route("/runs/log-metric", post(call!(log_metric)))
            .route("/runs/log-batch", post(call!(log_batch)))
            .route("/runs/set-tag", post(call!(set_run_tag)))
            .route("/runs/delete-tag", post(call!(delete_run_tag)))
            .route("/runs/log-inputs", post(call!(log_inputs)))
            .route("/runs/outputs", post(call!(log_outputs)))
            .route("/runs/log-model", post(call!(log_old_model)))
            .route("/runs/search", post(call!(search_runs)))
            .route("/metrics/get-history", get(call!(metric_history)))
            .route("/artifacts/list", get(call!(list_run_artifacts)))
            .route("/logged-models", post(call!(create_logged_model)))
            .route("/logged-models/search", post(call!(search_logged_models)))
            .route(
                "/logged-models/{model_id}",
                get(call!(get_logged_model)).patch(call!(finish_logged_model)).delete(call!(delete_logged_model)),
            )
            .route("/logged-models/{model_id}/tags", patch(call!(set_logged_model_tags)))
            .route("/logged-models/{model_id}/tags/{tag_key}", delete(call!(delete_logged_model_tag)))
            .route("/logged-models/{model_id}/params", post(call!(log_model_params)))
            .route("/logged-models/{model_id}/artifacts/directories", get(call!(list_model_artifacts)))
            .route("/registered-models/create", post(call!(create_model)))
            .route("/registered-models/rename", post(call!(rename_model)))
            .route("/registered-models/update", patch(call!(update_model)))
            .route("/registered-models/delete", delete(call!(delete_model)))
            .route("/registered-models/get", get(call!(get_model)))
            .route("/registered-models/search", get(call!(search_models)))
            .route("/registered-models/get-latest-versions", get(call!(latest_versions)).post(call!(latest_versions)))
            .route("/registered-models/set-tag", post(call!(set_model_tag)))
            .route("/registered-models/delete-tag", delete(call!(delete_model_tag)))
            .route("/registered-models/alias", get(call!(get_alias)).post(call!(set_alias)).delete(call!(delete_alias)))
            .route("/model-versions/create", post(call!(create_version)))
            .route("/model-versions/get", get(call!(get_version)))
            .route("/model-versions/update", patch(call!(update_version)))
            .route("/model-versions/delete", delete(call!(delete_version)))
            .route("/model-versions/search", get(call!(search_versions)))
            .route("/model-versions/get-download-uri", get(call!(download_uri)))
            .route("/model-versions/transition-stage", post(call!(transition_stage)))
            .route("/model-versions/set-tag", post(call!(set_version_tag)))
            .route("/model-versions/delete-tag", delete(call!(delete_version_tag)))
            .layer(DefaultBodyLimit::max(BODY));
        #[cfg(all(feature = "webhooks", any(feature = "sqlite", feature = "postgres")))]
        let api = api.merge(webhooks::routes().layer(DefaultBodyLimit::max(BODY)));
        Router::new()
            .route("/health", get(async || "OK"))
            .route("/version", get(async || env!("CARGO_PKG_VERSION")))
            .route("/api/3.0/mlflow/server-info", get(call!(server_info)))
            .nest(wire::API, api)
            .nest(wire::PROXY, artifacts::router())
            .fallback(async |request: Request| {
                Failure::new(
                    Code::EndpointNotFound,
                    format!("no such endpoint: {} {}", request.method(), request.uri().path()),
                )
            })
            .layer(from_fn_with_state(Arc::clone(&self.0), edge::from_here))
            .with_state(Arc::clone(&self.0))
    }
}

/// The most bytes in the body of a call that carries no artifact: MLflow's client sends at most 1 MiB.
const BODY: usize = 4 << 20;

/// A call: the fields of its path, query and body, and its headers.
struct Call {
    headers: HeaderMap,
    args: Args,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let path = RawPathParams::from_request_parts(&mut parts, state).await.map_err(IntoResponse::into_response)?;
        let mut args = Args::query(parts.uri.query().unwrap_or_default());
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), state).await.map_err(|rejection| {
            let code = if rejection.status().as_u16() == 413 { Code::TooLarge } else { Code::BadRequest };
            Failure::new(code, rejection.body_text()).into_response()
        })?;
        args.extend(Args::body(&body).map_err(IntoResponse::into_response)?);
        args.path(&path);
        Ok(Self { headers, args })
    }
}

impl Server {
    async fn server_info(&self, _: &mlops_core::Principal, _: Args) -> Answer {
        let off = ["workspaces", "trace_archival", "multipart_uploads", "multipart_downloads"];
        let mut info: serde_json::Map<_, _> =
            off.iter().map(|name| (format!("{name}_enabled"), false.into())).collect();
        info.insert("store_type".to_owned(), "SqlStore".into());
        info.insert("presigned_upload_run_id_supported".to_owned(), false.into());
        info.insert("presigned_upload_model_id_supported".to_owned(), false.into());
        info.insert("features_enabled".to_owned(), serde_json::json!({}));
        Ok(info.into())
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |e| e.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
