use std::fmt::{self, Debug, Display};
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Transport;
use super::openlineage::RunEvent;
use crate::{Error, Result};

/// How much of an answer is read; a peer that sends more loses its connection.
const MOST_ANSWER: usize = 64 << 10;

/// The longest that any delay may be: a day.
const MOST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Posts events to an OpenLineage endpoint, such as Marquez, over plain HTTP.
///
/// An answer of 408, 429 or 5xx, no answer in time and a lost connection are tried again, after a delay that grows (or the
/// one that the answer asks for); any other answer but 2xx means that the event is refused. Redirects are not followed.
/// There is no TLS here: send to a proxy on this machine, or write a [`Transport`] of your own.
///
/// Needs the caller's tokio runtime, with I/O and time, and starts its connections' tasks there; elsewhere every event is
/// refused.
///
/// ```
/// use mlops_core::lineage::{HttpTransport, LineageQueue};
/// let marquez = HttpTransport::builder("http://127.0.0.1:5000").api_key("secret").build()?;
/// assert!(!format!("{marquez:?}").contains("secret"));
/// let (sink, worker) = LineageQueue::new(marquez, 10_000);
/// // tokio::spawn(worker.run()); ... at the end: sink.flush_within(Duration::from_secs(5)).await
/// # let _ = (sink, worker); Ok::<(), mlops_core::Error>(())
/// ```
pub struct HttpTransport {
    url: Uri,
    authorization: Option<HeaderValue>,
    options: Options,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Clone, Debug)]
struct Options {
    timeout: Duration,
    retries: usize,
    first_delay: Duration,
    most_delay: Duration,
}

/// Puts an [`HttpTransport`] together.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct HttpTransportBuilder {
    url: String,
    endpoint: String,
    api_key: Option<String>,
    options: Options,
}

impl HttpTransport {
    /// Posts to the server at `url`: `http://host:5000`, with a path if it lies behind one.
    pub fn builder(url: impl Into<String>) -> HttpTransportBuilder {
        HttpTransportBuilder {
            url: url.into(),
            endpoint: "api/v1/lineage".to_owned(),
            api_key: None,
            options: Options {
                timeout: Duration::from_secs(5),
                retries: 5,
                first_delay: Duration::from_millis(200),
                most_delay: Duration::from_secs(10),
            },
        }
    }

    /// One attempt.
    async fn post(&self, body: Bytes) -> Result<(), Attempt> {
        let mut request = Request::builder().method(Method::POST).uri(&self.url);
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.authorization {
            request = request.header(AUTHORIZATION, key);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.failed(false, e))?;
        let asked = tokio::time::timeout(self.options.timeout, self.client.request(request));
        let answer = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.failed(true, error)),
            Err(elapsed) => return Err(self.failed(true, elapsed)),
        };
        let (status, wait) = (answer.status(), retry_after(&answer));
        // The event has its answer already; the rest is read for the connection's sake and for the reason.
        let rest = Limited::new(answer.into_body(), MOST_ANSWER).collect();
        let rest = tokio::time::timeout(self.options.timeout, rest).await;
        if status.is_success() {
            return Ok(());
        }
        let rest = rest.ok().and_then(|rest| rest.ok()).map(|rest| rest.to_bytes()).unwrap_or_default();
        let said: String = String::from_utf8_lossy(&rest).chars().take(200).collect();
        let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        let retryable = status.is_server_error() || later.contains(&status);
        Err(Attempt { wait, ..self.failed(retryable, format!("answered {status}: {said}")) })
    }

    fn failed(&self, retryable: bool, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Attempt {
        let (backend, operation) = ("lineage endpoint".to_owned(), "take an event at");
        let key = self.url.to_string();
        Attempt { error: Error::Backend { backend, operation, key, retryable, source: source.into() }, wait: None }
    }
}

/// An attempt that did not succeed, and how long the other side asks to wait.
struct Attempt {
    error: Error,
    wait: Option<Duration>,
}

/// Seconds only: a date would need this machine's clock to be right.
fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, event: &RunEvent) -> Result<()> {
        // Elsewhere the client and its timers would panic.
        if let Err(error) = tokio::runtime::Handle::try_current() {
            return Err(self.failed(false, error).error);
        }
        let body = Bytes::from(event.to_json()?);
        let Options { retries, first_delay, most_delay, .. } = self.options;
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(first_delay)
            .with_max_delay(most_delay.max(first_delay))
            .with_max_times(retries)
            .with_jitter()
            .build();
        loop {
            let Err(Attempt { error, wait }) = self.post(body.clone()).await else { return Ok(()) };
            let next = if error.is_retryable() { delays.next() } else { None };
            let Some(delay) = next else { return Err(error) };
            tokio::time::sleep(delay.max(wait.unwrap_or_default().min(most_delay))).await;
        }
    }
}

impl Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.authorization.as_ref().map(|_| "***");
        let Self { url, options, .. } = self;
        f.debug_struct("HttpTransport").field("url", url).field("api_key", &key).field("options", options).finish()
    }
}

impl Display for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

impl HttpTransportBuilder {
    /// The path below the server's URL (default: `api/v1/lineage`, as Marquez has it).
    pub fn endpoint(mut self, path: impl Into<String>) -> Self {
        self.endpoint = path.into();
        self
    }

    /// The key sent as `Authorization: Bearer KEY`.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// How long to wait for an answer, more than nothing (default: 5 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// How many more attempts are made at one event (default: 5).
    pub fn retries(mut self, retries: usize) -> Self {
        self.options.retries = retries;
        self
    }

    /// The delay before the second attempt, and the longest before a later one (default: 200 ms and 10 s; at most a day).
    /// A random part is added, so that many senders do not come at once.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        (self.options.first_delay, self.options.most_delay) = (first.min(MOST_DELAY), most.min(MOST_DELAY));
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a URL that is not `http://host`, has a user, a query or a fragment; a key that cannot be
    /// sent; a time-out of nothing.
    pub fn build(self) -> Result<HttpTransport> {
        let url = format!("{}/{}", self.url.trim_end_matches('/'), self.endpoint.trim_start_matches('/'));
        let invalid = |reason: &str| Error::invalid("lineage endpoint", reason);
        // The text is not repeated: it may hold a password.
        let url: Uri = url.parse().map_err(|_| invalid("is not a URL; write http://host:port"))?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(invalid("https is not compiled in; send to a proxy on this machine over http"));
            }
            _ => return Err(invalid("has no scheme; write http://host:port")),
        }
        if url.authority().is_none_or(|a| a.host().is_empty() || a.as_str().contains('@')) {
            return Err(invalid(
                "needs a host and takes no user; write http://host:port, and give a key with `api_key`",
            ));
        }
        if self.url.contains(['?', '#']) {
            return Err(invalid("has a query or a fragment; put a query into `endpoint`"));
        }
        if self.options.timeout.is_zero() {
            return Err(Error::invalid("timeout", "is nothing, so no answer could come; give it a second or more"));
        }
        let header = |key: String| {
            let value = HeaderValue::try_from(format!("Bearer {key}"));
            let mut value = value.map_err(|_| Error::invalid("api_key", "holds a character that a header cannot"))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        let authorization = self.api_key.map(header).transpose()?;
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http();
        Ok(HttpTransport { url, authorization, options: self.options, client })
    }
}

impl Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.api_key.as_ref().map(|_| "***");
        let Self { endpoint, options, .. } = self;
        // Not the URL: before `build` has looked at it, it may hold a password.
        f.debug_struct("HttpTransportBuilder")
            .field("endpoint", endpoint)
            .field("api_key", &key)
            .field("options", options)
            .finish_non_exhaustive()
    }
}
