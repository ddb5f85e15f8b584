//! One attempt: to the address that was checked, and nowhere else.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mlops_core::Timestamp;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::guard::{Guard, Refused, Target};
use super::signature::{DELIVERY_ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// How much of an answer is read.
const MOST_ANSWER: usize = 4 << 10;
/// How much of it is kept, in characters.
const EXCERPT: usize = 1_000;

/// What is sent: the same in each attempt, but for the time and so the signature.
pub(super) struct Letter<'a> {
    pub(super) url: &'a str,
    pub(super) secret: Option<&'a Secret>,
    pub(super) delivery: String,
    pub(super) payload: &'a str,
    pub(super) at: Timestamp,
}

/// What the other side said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) excerpt: String,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct NoAnswer {
    pub(super) why: String,
    /// Whether another attempt may have one.
    pub(super) again: bool,
}

impl From<Refused> for NoAnswer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Forbidden(why) => Self { why, again: false },
            Refused::Unknown(why) => Self { why, again: true },
        }
    }
}

fn lost(what: &str, error: impl std::error::Error + 'static) -> NoAnswer {
    NoAnswer { why: format!("{what}: {}", mlops_core::with_causes(&error)), again: true }
}

/// Sends letters.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) guard: Guard,
    pub(super) timeout: Duration,
    #[cfg(feature = "webhooks-tls")]
    pub(super) tls: tokio_rustls::TlsConnector,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, timeout, .. } = self;
        f.debug_struct("Sender").field("guard", guard).field("timeout", timeout).finish_non_exhaustive()
    }
}

impl Sender {
    /// Whether a letter could go there now.
    pub(super) async fn check(&self, url: &str) -> Result<(), NoAnswer> {
        let target = read(url)?;
        match tokio::time::timeout(self.timeout, self.guard.addresses(&target)).await {
            Ok(found) => Ok(found.map(drop)?),
            Err(_) => Err(self.late()),
        }
    }

    /// Sends one letter, in the time that there is for all of it.
    pub(super) async fn post(&self, letter: &Letter<'_>) -> Result<Answer, NoAnswer> {
        let end = Instant::now() + self.timeout;
        let target = read(letter.url)?;
        let request = request(&target, letter)?;
        let stream = tokio::time::timeout_at(end, self.connect(&target)).await.map_err(|_| self.late())??;
        if !target.tls {
            return self.exchange(stream, request, end).await;
        }
        #[cfg(feature = "webhooks-tls")]
        {
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from(target.host.clone());
            let name = name.map_err(|error| NoAnswer { why: format!("{}: {error}", target.host), again: false })?;
            let shaken = tokio::time::timeout_at(end, self.tls.connect(name, stream)).await;
            let stream = shaken.map_err(|_| self.late())?.map_err(|error| lost("no TLS", error))?;
            self.exchange(stream, request, end).await
        }
        #[cfg(not(feature = "webhooks-tls"))]
        unreachable_without_tls()
    }

    /// Connects to the first address that answers, of those that were checked.
    async fn connect(&self, target: &Target) -> Result<TcpStream, NoAnswer> {
        let addresses: Vec<SocketAddr> = self.guard.addresses(target).await?;
        let mut last = NoAnswer { why: format!("{} has no address", target.host), again: true };
        // A share of the time for each, so that one that is silent does not keep the others from being tried.
        let share = self.timeout / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = lost(&format!("cannot connect to {address}"), error),
                Err(_) => last.why = format!("cannot connect to {address} in {share:?}"),
            }
        }
        Err(last)
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>, end: Instant) -> Result<Answer, NoAnswer>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = http1::Builder::new().max_buf_size(64 << 10).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| lost("no HTTP", error))?;
        let talk = Box::pin(async {
            let answer = tokio::time::timeout_at(end, sender.send_request(request)).await;
            let answer = answer.map_err(|_| self.late())?.map_err(|error| lost("no answer", error))?;
            Ok(heard(answer, end).await)
        });
        // No task of its own: the connection is driven here, and closed with the exchange.
        match select(talk, Box::pin(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, talk)) => talk.await,
        }
    }

    fn late(&self) -> NoAnswer {
        NoAnswer { why: format!("no answer in {:?}", self.timeout), again: true }
    }
}

fn read(url: &str) -> Result<Target, NoAnswer> {
    let target = Target::read(url).map_err(|error| NoAnswer { why: error.to_string(), again: false })?;
    if target.tls && cfg!(not(feature = "webhooks-tls")) {
        return Err(NoAnswer { why: "https needs the feature `webhooks-tls`".to_owned(), again: false });
    }
    Ok(target)
}

#[cfg(not(feature = "webhooks-tls"))]
fn unreachable_without_tls() -> Result<Answer, NoAnswer> {
    Err(NoAnswer { why: "https needs the feature `webhooks-tls`".to_owned(), again: false })
}

fn request(target: &Target, letter: &Letter<'_>) -> Result<Request<Full<Bytes>>, NoAnswer> {
    let timestamp = letter.at.timestamp().to_string();
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = target.uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, host)
        .header(CONNECTION, HeaderValue::from_static("close"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("mlops-registry/", env!("CARGO_PKG_VERSION"))))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(name(DELIVERY_ID_HEADER)?, &letter.delivery)
        .header(name(TIMESTAMP_HEADER)?, &timestamp);
    if let Some(secret) = letter.secret {
        let signature = secret.sign(&letter.delivery, &timestamp, letter.payload.as_bytes());
        request = request.header(name(SIGNATURE_HEADER)?, signature);
    }
    let body = Full::new(Bytes::copy_from_slice(letter.payload.as_bytes()));
    request.body(body).map_err(|error| NoAnswer { why: format!("cannot be asked: {error}"), again: false })
}

fn name(header: &str) -> Result<HeaderName, NoAnswer> {
    HeaderName::try_from(header).map_err(|error| NoAnswer { why: error.to_string(), again: false })
}

/// The answer, with as much of its body as is kept and comes in time.
async fn heard(answer: Response<Incoming>, end: Instant) -> Answer {
    let status = answer.status().as_u16();
    // Seconds only: a date would need this machine's clock to be right.
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while read.len() < MOST_ANSWER
        && let Ok(Some(Ok(frame))) = tokio::time::timeout_at(end, body.frame()).await
    {
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(MOST_ANSWER - read.len())]);
        }
    }
    let excerpt = String::from_utf8_lossy(&read).chars().filter(|c| *c != '\0').take(EXCERPT).collect();
    Answer { status, retry_after: retry_after.map(Duration::from_secs), excerpt }
}
