//! Calls: sent, repeated where that is safe, and their answers read.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use mlops_core::Error as CoreError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Fault;
use crate::Result;
use crate::mlflow::wire;

/// Most bytes of an answer that is JSON.
const MOST_ANSWER: usize = 64 << 20;
/// Most bytes of an answer that refuses.
const MOST_REFUSAL: usize = 64 << 10;

#[cfg(not(feature = "mlflow-client-tls"))]
pub(super) type Connector = hyper_util::client::legacy::connect::HttpConnector;
#[cfg(feature = "mlflow-client-tls")]
pub(super) type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

type Boxed = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, Boxed>;

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) timeout: Duration,
    pub(super) retries: usize,
    pub(super) first_delay: Duration,
    pub(super) most_delay: Duration,
}

pub(super) struct Http {
    /// Without a slash at its end.
    pub(super) base: String,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) agent: HeaderValue,
    pub(super) workspace: Option<HeaderValue>,
    pub(super) options: Options,
    pub(super) client: Client<Connector, Body>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, authorization, workspace, options, .. } = self;
        let secret = authorization.as_ref().map(|_| "***");
        f.debug_struct("Http")
            .field("base", base)
            .field("authorization", &secret)
            .field("workspace", workspace)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

/// When a call is sent again after it failed in a way that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Doing it twice is doing it once.
    Always,
    /// The same, and what is gone at the second attempt went at the first.
    Deletion,
    /// Doing it twice makes two: only where the server cannot have begun.
    Unsent,
}

/// One call, and what it is about, for the words of its errors.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    method: Method,
    path: String,
    body: Option<Value>,
    repeat: Repeat,
    pub(super) what: &'static str,
    pub(super) name: &'a str,
    pub(super) operation: &'static str,
    pub(super) who: Option<&'a str>,
}

impl<'a> Call<'a> {
    fn new(method: Method, operation: &'static str, path: &str, body: Option<Value>) -> Self {
        let repeat = if method == Method::DELETE { Repeat::Deletion } else { Repeat::Always };
        let path = format!("{}/{path}", wire::API);
        Self { method, path, body, repeat, what: "object", name: "", operation, who: None }
    }

    pub(super) fn post(operation: &'static str, path: &str, body: Value) -> Self {
        Self::new(Method::POST, operation, path, Some(body))
    }

    pub(super) fn patch(operation: &'static str, path: &str, body: Value) -> Self {
        Self::new(Method::PATCH, operation, path, Some(body))
    }

    pub(super) fn delete(operation: &'static str, path: &str, body: Value) -> Self {
        Self::new(Method::DELETE, operation, path, Some(body))
    }

    pub(super) fn get<'q>(
        operation: &'static str,
        path: &str,
        query: impl IntoIterator<Item = (&'q str, &'q str)>,
    ) -> Self {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        Self::new(Method::GET, operation, &path, None)
    }

    /// Lists a folder of the artifact proxy.
    pub(super) fn list(folder: &str) -> Self {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("path", folder).finish();
        let mut call = Self::new(Method::GET, "list artifacts of", "", None);
        call.path = format!("{}/artifacts?{query}", wire::PROXY);
        call
    }

    /// Concerns a file of the artifact proxy.
    pub(super) fn file(method: Method, operation: &'static str, path: &str) -> Self {
        let encoded: Vec<String> = path.split('/').map(super::encoded).collect();
        let mut call = Self::new(method, operation, "", None);
        call.path = format!("{}/artifacts/{}", wire::PROXY, encoded.join("/"));
        call
    }

    pub(super) fn about(mut self, what: &'static str, name: &'a str) -> Self {
        (self.what, self.name) = (what, name);
        self
    }

    pub(super) fn by(mut self, who: &'a mlops_core::Principal) -> Self {
        self.who = Some(&who.name);
        self
    }

    /// It makes something anew each time.
    pub(super) fn once(mut self) -> Self {
        self.repeat = Repeat::Unsent;
        self
    }
}

/// An attempt that did not succeed.
struct Attempt {
    fault: Fault,
    /// Whether another may.
    passes: bool,
    /// Whether the server surely did nothing.
    unsent: bool,
    wait: Option<Duration>,
}

/// Seconds only: a date would need this machine's clock to be right.
fn retry_after<B>(answer: &Response<B>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl Http {
    /// Elsewhere than in a tokio runtime the client and its timers would panic.
    fn in_runtime(&self) -> Result<(), Fault> {
        tokio::runtime::Handle::try_current().map(|_| ()).map_err(|error| Fault::broken(false, error))
    }

    fn request(
        &self,
        call: &Call<'_>,
        body: Body,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<Body>, Fault> {
        let url = format!("{}{}", self.base, call.path);
        let mut request = Request::builder().method(call.method.clone()).uri(url).header(USER_AGENT, &self.agent);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(secret) = &self.authorization {
            request = request.header(AUTHORIZATION, secret);
        }
        if let Some(workspace) = &self.workspace {
            request = request.header("x-mlflow-workspace", workspace);
        }
        request.body(body).map_err(|error| Fault::broken(false, error))
    }

    /// Sends one attempt, up to the head of its answer; any status but 2xx is a failure.
    async fn attempt(&self, request: Request<Body>, patience: Option<Duration>) -> Result<Response<Incoming>, Attempt> {
        let failed =
            |passes, unsent, error: Boxed| Attempt { fault: Fault::broken(passes, error), passes, unsent, wait: None };
        let asked = self.client.request(request);
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, asked).await.map_err(|e| failed(true, false, e.into()))?,
            None => asked.await,
        };
        let answer = answer.map_err(|error| failed(true, error.is_connect(), error.into()))?;
        let (status, wait) = (answer.status(), retry_after(&answer));
        if status.is_success() {
            return Ok(answer);
        }
        let rest = Limited::new(answer.into_body(), MOST_REFUSAL).collect();
        let rest = tokio::time::timeout(self.options.timeout, rest).await;
        let rest = rest.ok().and_then(Result::ok).map(|rest| rest.to_bytes()).unwrap_or_default();
        let passes = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let unsent = status == StatusCode::TOO_MANY_REQUESTS;
        Err(Attempt { fault: Fault::answered(status, &rest, passes), passes, unsent, wait })
    }

    fn delays(&self) -> backon::ExponentialBackoff {
        let Options { retries, first_delay, most_delay, .. } = self.options;
        let delays =
            ExponentialBuilder::default().with_min_delay(first_delay).with_max_delay(most_delay.max(first_delay));
        delays.with_max_times(retries).with_jitter().build()
    }

    async fn wait(&self, delay: Duration, asked: Option<Duration>) {
        tokio::time::sleep(delay.max(asked.unwrap_or_default().min(self.options.most_delay))).await;
    }

    /// Sends a call until it is answered or has no attempts left, and reads the answer.
    pub(super) async fn fault<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Fault> {
        self.in_runtime()?;
        let mut delays = self.delays();
        let mut first = true;
        loop {
            let attempt = match self.exchange(call).await {
                Ok(answer) => return Ok(answer),
                Err(attempt) => attempt,
            };
            if !first && call.repeat == Repeat::Deletion && attempt.fault.is_missing() {
                return serde_json::from_slice(b"{}").map_err(|error| Fault::broken(false, error));
            }
            first = false;
            let again = attempt.passes && (call.repeat != Repeat::Unsent || attempt.unsent);
            let Some(delay) = again.then(|| delays.next()).flatten() else { return Err(attempt.fault) };
            self.wait(delay, attempt.wait).await;
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Attempt> {
        let failed =
            |passes, error: Boxed| Attempt { fault: Fault::broken(passes, error), passes, unsent: false, wait: None };
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut headers = vec![(ACCEPT, HeaderValue::from_static("application/json"))];
        if call.body.is_some() {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let request = self.request(call, body, &headers).map_err(|fault| Attempt {
            fault,
            passes: false,
            unsent: true,
            wait: None,
        })?;
        let answer = self.attempt(request, Some(self.options.timeout)).await?;
        let rest = Limited::new(answer.into_body(), MOST_ANSWER).collect();
        let rest = tokio::time::timeout(self.options.timeout, rest).await.map_err(|e| failed(true, e.into()))?;
        let rest = rest.map_err(|error| failed(true, error))?.to_bytes();
        let rest = if rest.iter().all(u8::is_ascii_whitespace) { &b"{}"[..] } else { &rest };
        serde_json::from_slice(rest).map_err(|error| Attempt {
            fault: Fault::unread(rest, &error),
            passes: false,
            unsent: false,
            wait: None,
        })
    }

    /// As [`fault`](Self::fault), with the error of this crate.
    pub(super) async fn send<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T> {
        self.fault(&call).await.map_err(|fault| fault.error(&call, &self.base))
    }

    /// Sends a call whose answer says nothing.
    pub(super) async fn tell(&self, call: Call<'_>) -> Result<()> {
        self.send::<Value>(call).await.map(|_| ())
    }

    /// Reads a file. What comes is not checked: MLflow keeps no digests.
    pub(super) async fn download(&self, call: Call<'_>) -> Result<BoxStream<'static, mlops_core::Result<Bytes>>> {
        let error = |fault: Fault| fault.error(&call, &self.base);
        self.in_runtime().map_err(error)?;
        let mut delays = self.delays();
        let answer = loop {
            let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
            let request = self.request(&call, body, &[]).map_err(error)?;
            let attempt = match self.attempt(request, Some(self.options.timeout)).await {
                Ok(answer) => break answer,
                Err(attempt) => attempt,
            };
            let Some(delay) = attempt.passes.then(|| delays.next()).flatten() else { return Err(error(attempt.fault)) };
            self.wait(delay, attempt.wait).await;
        };
        let announced: Option<u64> =
            answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let (key, timeout) = (call.name.to_owned(), self.options.timeout);
        let broken = move |error: Boxed| CoreError::Backend {
            backend: super::BACKEND.to_owned(),
            operation: "read to its end",
            key: key.clone(),
            retryable: true,
            source: error,
        };
        let pieces = stream::try_unfold((answer.into_body(), 0_u64), move |(mut body, mut seen)| {
            let broken = broken.clone();
            async move {
                loop {
                    let next = tokio::time::timeout(timeout, body.frame()).await.map_err(|e| broken(e.into()))?;
                    match next.transpose().map_err(|e| broken(e.into()))? {
                        Some(frame) => {
                            let Ok(piece) = frame.into_data() else { continue };
                            seen += piece.len() as u64;
                            return Ok(Some((piece, (body, seen))));
                        }
                        None if announced.is_some_and(|all| all != seen) => {
                            return Err(broken(format!("{seen} bytes came, fewer than announced").into()));
                        }
                        None => return Ok(None),
                    }
                }
            }
        });
        Ok(pieces.boxed())
    }

    /// Writes a file, as it comes. Not repeated: the pieces are gone.
    pub(super) async fn upload(
        &self,
        call: Call<'_>,
        bytes: Option<u64>,
        pieces: BoxStream<'static, mlops_core::Result<Bytes>>,
    ) -> Result<()> {
        let error = |fault: Fault| fault.error(&call, &self.base);
        self.in_runtime().map_err(error)?;
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        headers.extend(bytes.map(|bytes| (CONTENT_LENGTH, bytes.into())));
        let body = StreamBody::new(pieces.map_ok(Frame::data).map_err(Boxed::from));
        let request = self.request(&call, body.boxed_unsync(), &headers).map_err(error)?;
        // As long as it takes: how long depends on the bytes.
        let answer = self.attempt(request, None).await.map_err(|attempt| error(attempt.fault))?;
        let rest = Limited::new(answer.into_body(), MOST_REFUSAL).collect();
        drop(tokio::time::timeout(self.options.timeout, rest).await);
        Ok(())
    }
}
