use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mlops_core::{ArtifactStore, Authorizer, Error, Result, RoleTable};

use super::http::{Connector, Http, Options};
use super::{Client, MlflowClient};

/// The longest that any delay may be: a day.
const MOST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Puts a [`MlflowClient`] together.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct MlflowClientBuilder {
    url: String,
    secret: Option<Secret>,
    agent: String,
    workspace: Option<String>,
    options: Options,
    page_size: usize,
    artifacts: Option<Arc<dyn ArtifactStore>>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
    experiment: String,
}

#[derive(Clone)]
enum Secret {
    Bearer(String),
    Basic(String, String),
}

impl MlflowClientBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            secret: None,
            agent: concat!("mlops-registry/", env!("CARGO_PKG_VERSION")).to_owned(),
            workspace: None,
            options: Options {
                timeout: Duration::from_secs(30),
                retries: 5,
                first_delay: Duration::from_millis(200),
                most_delay: Duration::from_secs(10),
            },
            page_size: 1_000,
            artifacts: None,
            authorizer: Arc::new(RoleTable),
            project: None,
            experiment: "Default".to_owned(),
        }
    }

    /// Sent as `Authorization: Bearer TOKEN`: MLflow's `MLFLOW_TRACKING_TOKEN`.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.secret = Some(Secret::Bearer(token.into()));
        self
    }

    /// Sent as `Authorization: Basic …`: MLflow's `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.secret = Some(Secret::Basic(user.into(), password.into()));
        self
    }

    /// How long to wait for an answer, or for the next piece of a file, more than nothing (default: 30 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// How many more attempts are made at a call that may be repeated (default: 5).
    pub fn retries(mut self, retries: usize) -> Self {
        self.options.retries = retries;
        self
    }

    /// The delay before the second attempt, and the longest before a later one (default: 200 ms and 10 s; at most a day).
    /// A random part is added, so that many clients do not come at once.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        (self.options.first_delay, self.options.most_delay) = (first.min(MOST_DELAY), most.min(MOST_DELAY));
        self
    }

    /// Most things that are asked for at once, 1 to 1,000 (default: 1,000); more come in several calls.
    pub fn page_size(mut self, things: usize) -> Self {
        self.page_size = things;
        self
    }

    /// What the client calls itself (default: `mlops-registry/VERSION`).
    pub fn user_agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = agent.into();
        self
    }

    /// The workspace of the server, where it has such (`mlflow server --enable-workspaces`).
    pub fn workspace(mut self, name: impl Into<String>) -> Self {
        self.workspace = Some(name.into());
        self
    }

    /// Where packages are registered from, and where packages and artifacts are put that are read (default: nowhere; calls
    /// that need it are refused).
    pub fn artifacts(mut self, store: impl ArtifactStore) -> Self {
        self.artifacts = Some(Arc::new(store));
        self
    }

    /// Who may do what, before the server is asked (default: the role table).
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// The project that everything there is in, for the authorizer.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into());
        self
    }

    /// The experiment that takes the files of registered packages that no run of the server made (default: `Default`); it
    /// must be there.
    pub fn packages_in(mut self, experiment: impl Into<String>) -> Self {
        self.experiment = experiment.into();
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a URL that is not `http://host` or `https://host`, that has a user, a query or a
    /// fragment, or that is `https` without the feature `mlflow-client-tls`; a token, name or password that cannot be sent; a
    /// time-out of nothing; a page size out of range. [`Error::Backend`] where no trusted certificates are found.
    pub fn build(self) -> Result<MlflowClient> {
        let invalid = |reason: &str| Error::invalid("MLflow server", reason);
        let base = self.url.trim_end_matches('/').to_owned();
        // The text is not repeated: it may hold a password.
        let url: Uri = base.parse().map_err(|_| invalid("is not a URL; write http://host:port"))?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") if cfg!(feature = "mlflow-client-tls") => {}
            Some("https") => {
                return Err(invalid(
                    "https is not compiled in; turn on the feature mlflow-client-tls of mlops-registry",
                ));
            }
            _ => return Err(invalid("has no scheme; write http://host:port")),
        }
        if url.authority().is_none_or(|a| a.host().is_empty() || a.as_str().contains('@')) {
            return Err(invalid("needs a host and takes no user; write http://host:port, and use `basic_auth`"));
        }
        if base.contains(['?', '#']) {
            return Err(invalid("has a query or a fragment; leave it out"));
        }
        if self.options.timeout.is_zero() {
            return Err(Error::invalid("timeout", "is nothing, so no answer could come; give it a second or more"));
        }
        if !(1..=1_000).contains(&self.page_size) {
            return Err(Error::invalid("page_size", format!("{} is not in 1..=1000", self.page_size)));
        }
        let header = |what: &str, text: &str| {
            let value = HeaderValue::try_from(text);
            value.map_err(|_| Error::invalid(what, "holds a character that a header cannot"))
        };
        let authorization = match self.secret {
            None => None,
            Some(Secret::Bearer(token)) => Some(header("bearer_token", &format!("Bearer {token}"))?),
            Some(Secret::Basic(user, _)) if user.contains(':') => {
                return Err(Error::invalid("basic_auth", "a name with ':' cannot be told from its password"));
            }
            Some(Secret::Basic(user, password)) => {
                Some(header("basic_auth", &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))?)
            }
        };
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let http = Http {
            base,
            authorization,
            agent: header("user_agent", &self.agent)?,
            workspace: self.workspace.as_deref().map(|name| header("workspace", name)).transpose()?,
            options: self.options,
            client: legacy::Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(20))
                .pool_timer(TokioTimer::new())
                .build(connector()?),
        };
        Ok(MlflowClient(Arc::new(Client {
            http,
            artifacts: self.artifacts,
            authorizer: self.authorizer,
            project: self.project,
            experiment: self.experiment,
            page_size: self.page_size,
            runs: Mutex::default(),
            packages: Mutex::default(),
        })))
    }
}

#[cfg(not(feature = "mlflow-client-tls"))]
fn connector() -> Result<Connector> {
    Ok(Connector::new())
}

#[cfg(feature = "mlflow-client-tls")]
fn connector() -> Result<Connector> {
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let builder = builder.with_provider_and_native_roots(rustls::crypto::ring::default_provider());
    let builder = builder.map_err(|error| Error::Backend {
        backend: super::BACKEND.to_owned(),
        operation: "be reached over TLS, for want of",
        key: "trusted certificates".to_owned(),
        retryable: false,
        source: error.into(),
    })?;
    Ok(builder.https_or_http().enable_http1().build())
}

impl Debug for MlflowClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| "***");
        let Self { agent, workspace, options, page_size, project, experiment, .. } = self;
        // Not the URL: before `build` has looked at it, it may hold a password.
        f.debug_struct("MlflowClientBuilder")
            .field("secret", &secret)
            .field("user_agent", agent)
            .field("workspace", workspace)
            .field("options", options)
            .field("page_size", page_size)
            .field("project", project)
            .field("packages_in", experiment)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_server_is_refused_without_its_secrets() {
        let build = |url: &str| MlflowClientBuilder::new(url.to_owned()).build();
        for bad in ["", "host", "ftp://host", "http://", "http://u:hunter2@host", "http://h?k=hunter2", "http://h#x"] {
            let error = build(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid MLflow server") && !error.contains("hunter2"), "{bad}: {error}");
        }
        #[cfg(not(feature = "mlflow-client-tls"))]
        assert!(build("https://host").unwrap_err().to_string().contains("mlflow-client-tls"));
        let new = || MlflowClientBuilder::new("http://host:1/mlflow/".into());
        assert_eq!(new().build().unwrap().to_string(), "MLflow server at http://host:1/mlflow");
        for (error, what) in [
            (new().timeout(Duration::ZERO).build(), "timeout"),
            (new().page_size(0).build(), "page_size"),
            (new().page_size(1_001).build(), "page_size"),
            (new().bearer_token("a\nb").build(), "bearer_token"),
            (new().basic_auth("a:b", "c").build(), "basic_auth"),
            (new().user_agent("a\nb").build(), "user_agent"),
        ] {
            assert!(error.unwrap_err().to_string().starts_with(&format!("invalid {what}")));
        }
        for shown in [
            format!("{:?}", new().bearer_token("hunter2")),
            format!("{:?}", new().basic_auth("ana", "hunter2").build().unwrap()),
        ] {
            assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
        }
    }
}
