//! A remote MLflow server as a [`TrackingStore`](crate::TrackingStore) and [`ModelRegistry`](crate::ModelRegistry): a
//! service in Rust beside the MLflow that a company has already.
//!
//! ```
//! use mlops_core::store::MemoryStore;
//! use mlops_registry::mlflow::client::MlflowClient;
//! use mlops_registry::{Limit, ModelRegistry as _};
//!
//! let mlflow = MlflowClient::builder("http://127.0.0.1:5000")
//!     .bearer_token("secret")
//!     .artifacts(MemoryStore::default()) // or a directory: where packages and artifacts pass through
//!     .build()?;
//! assert!(!format!("{mlflow:?}").contains("secret"));
//! assert!(mlflow.registry_limits().contains(&Limit::Governance));
//! // let experiment = mlflow.create_experiment(&who, NewExperiment::new("prices")).await?; …
//! # Ok::<(), mlops_registry::Error>(())
//! ```
//!
//! # Rules
//! - **What MLflow cannot do** is in [`tracking_limits`](crate::TrackingStore::tracking_limits) and
//!   [`registry_limits`](crate::ModelRegistry::registry_limits), and refused as
//!   [`Error::Unsupported`] with what to do instead: nothing is dropped in silence. A call that
//!   says several things is several calls there, and may be kept in part: repeat it.
//! - **Compare-and-swap** there is none. A move of an alias or stage reads, then writes: of two at the same time the last one
//!   stays, and neither is told.
//! - **Tags that begin with `mlops.`** are this client's, and callers neither see nor set them: `mlops.author`,
//!   `mlops.created` (the digest of what a thing was created with, by which a repeated creation is known),
//!   `mlops.package`, `mlops.identity`, `mlops.run`, `mlops.source` and `mlops.logged_model` of versions, `mlops.stage` and
//!   `mlops.alias.NAME` (the last move), `mlops.digest` of dataset inputs (MLflow's have 36 characters, ours 64).
//! - **Who** is checked against an [`Authorizer`] here (the role table, if no other is given), then
//!   by the server, which knows the client's credential only. An experiment's name is remembered for a minute for that.
//! - **Bytes** go through the server (`mlflow-artifacts:` URIs), as they come, never a whole file in memory. Files that
//!   clients of MLflow write to `s3:` and other places themselves are refused by name. MLflow keeps no digests:
//!   [`put_artifact`](crate::TrackingStore::put_artifact) takes the bytes from the artifact store that the builder was given,
//!   and reading an artifact puts them there. [`upload`](MlflowClient::upload), [`download`](MlflowClient::download) and
//!   [`files`](MlflowClient::files) do without that store.
//! - **Packages** of versions that this client registered are the files of a logged model of MLflow 3, under the digest that
//!   they were registered with. Of a version that another tool registered, the files are fetched into the artifact store the
//!   first time this client sees it, in listings too: that is how it gets a digest.
//! - **Repeats.** What fails in a way that may pass (no connection, no answer in time, 408, 429, 502, 503, 504) is sent
//!   again, after longer and longer waits; what would make a second run, model or version only where the server surely did
//!   nothing (no connection, 429). Uploads are not repeated.
//! - **No hidden runtime:** it runs on the caller's tokio runtime, with I/O and time, reads no environment and follows no
//!   redirect. TLS is the feature `mlflow-client-tls`.

mod artifacts;
mod builder;
mod experiments;
mod failure;
mod http;
mod logged_models;
mod messages;
mod models;
mod moves;
mod query;
mod registry;
mod runs;
mod tracking;
mod versions;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mlops_core::{ArtifactStore, Authorizer, Digest, Permission, Principal, Resource, RunId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use self::artifacts::File;
pub use self::builder::MlflowClientBuilder;
use self::http::Http;
use crate::{Error, Limit, Result, check};

const BACKEND: &str = "MLflow server";

/// How long the name of an experiment is believed where only a permission hangs on it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Most runs and packages that are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// What MLflow does not do of the traits' contracts.
const LIMITS: &[Limit] = Limit::ALL;

/// A remote MLflow server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct MlflowClient(Arc<Client>);

#[derive(Debug)]
struct Client {
    http: Http,
    artifacts: Option<Arc<dyn ArtifactStore>>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
    /// Where the logged models of packages go that no run of the server made.
    experiment: String,
    page_size: usize,
    runs: Mutex<BTreeMap<RunId, (String, Instant)>>,
    /// The packages of versions that another tool registered, by model, version and source.
    packages: Mutex<BTreeMap<(String, u64, String), Digest>>,
}

/// `MLflow server at http://host:5000`.
impl Display for MlflowClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BACKEND} at {}", self.0.http.base)
    }
}

impl MlflowClient {
    /// A client of the server at `url`: `http://host:5000`, with a path if it lies behind one.
    pub fn builder(url: impl Into<String>) -> MlflowClientBuilder {
        MlflowClientBuilder::new(url.into())
    }

    fn http(&self) -> &Http {
        &self.0.http
    }

    fn allow(&self, who: &Principal, permission: Permission, resource: Resource) -> Result<()> {
        check::principal(who)?;
        let resource = match &self.0.project {
            Some(project) => resource.in_project(project),
            None => resource,
        };
        Ok(self.0.authorizer.check(who, permission, &resource)?)
    }

    /// Whether `who` may track to the experiment of that run, which exists.
    async fn may_log(&self, who: &Principal, run: RunId) -> Result<()> {
        let known = self.runs().get(&run).filter(|(_, seen)| seen.elapsed() < REMEMBERED).map(|(name, _)| name.clone());
        let experiment = match known {
            Some(name) => name,
            None => self.read_run(run).await?.info.experiment,
        };
        self.allow(who, Permission::Track, Resource::experiment(experiment))
    }

    fn remember(&self, run: RunId, experiment: &str) {
        let mut runs = self.runs();
        if runs.len() >= MOST_REMEMBERED {
            runs.clear();
        }
        runs.insert(run, (experiment.to_owned(), Instant::now()));
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunId, (String, Instant)>> {
        // A map of what can be asked again is whole whatever happened to its user.
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packages(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, u64, String), Digest>> {
        self.0.packages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The artifact store that the builder was given.
    fn store(&self, operation: &str) -> Result<&Arc<dyn ArtifactStore>> {
        self.0.artifacts.as_ref().ok_or_else(|| {
            unsupported(format!("{operation} without an artifact store"), "give one to the builder: `artifacts(store)`")
        })
    }
}

fn unsupported(operation: impl Into<String>, remedy: &'static str) -> Error {
    Error::Unsupported { backend: BACKEND, operation: operation.into(), remedy }
}

/// A part of a path.
fn encoded(part: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(part, KEPT).to_string()
}

/// Tags that callers may set: not those that are this client's.
fn callers_only<'a>(tags: impl IntoIterator<Item = &'a String>) -> Result<()> {
    match tags.into_iter().find(|key| key.starts_with(messages::OWN)) {
        Some(key) => {
            let reason = format!("{key:?}: tags that begin with {:?} are this client's own", messages::OWN);
            Err(mlops_core::Error::invalid("tag", reason).into())
        }
        None => Ok(()),
    }
}
