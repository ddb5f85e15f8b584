//! Bringing deliveries to their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use mlops_core::{DeliveryId, Error as CoreError, Principal, WebhookId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::guard::{Guard, Network, Resolver, SystemResolver};
use super::send::{Answer, Letter, NoAnswer, Sender};
use super::{DeliveryState, WebhookEvent, event};
use crate::Result;
use crate::sql::{Claim, Outcome, SqlRegistry};

/// The longest that any delay may be: a day.
const MOST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that an answer may ask to wait.
const MOST_ASKED: Duration = Duration::from_secs(60 * 60);
/// How long a webhook rests whose next delivery cannot be made out.
const ASIDE: Duration = Duration::from_secs(60);
/// The statuses after which a delivery is tried again: MLflow's.
const AGAIN: [u16; 5] = [429, 500, 502, 503, 504];

/// Delivers to webhooks. Clones share it.
///
/// It does nothing by itself: the service spawns [`run`](Self::run), or calls [`deliver_pending`](Self::deliver_pending)
/// when it sees fit. Needs the caller's tokio runtime, with I/O and time.
#[derive(Clone, Debug)]
pub struct WebhookDispatcher(Arc<Dispatcher>);

#[derive(Debug)]
struct Dispatcher {
    registry: SqlRegistry,
    sender: Sender,
    options: Options,
}

#[derive(Clone, Debug)]
struct Options {
    timeout: Duration,
    lease: Option<Duration>,
    attempts: u32,
    first_delay: Duration,
    most_delay: Duration,
    at_once: usize,
}

/// How many deliveries came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dispatched {
    /// Were answered with 2xx.
    pub delivered: u64,
    /// Will be tried again later.
    pub put_off: u64,
    /// Were given up.
    pub failed: u64,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WebhookTest {
    /// Whether the answer was 2xx.
    pub success: bool,
    /// Its HTTP status, if there was one.
    pub status: Option<u16>,
    /// How its body began: at most 1,000 characters.
    pub body: Option<String>,
    /// Why there was none.
    pub error: Option<String>,
}

/// Puts a [`WebhookDispatcher`] together.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct WebhookDispatcherBuilder {
    registry: SqlRegistry,
    allowed: Vec<Network>,
    resolver: Arc<dyn Resolver>,
    options: Options,
    #[cfg(feature = "webhooks-tls")]
    trusted: Vec<Vec<u8>>,
}

impl fmt::Debug for WebhookDispatcherBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, allowed, resolver, options, .. } = self;
        let mut shown = f.debug_struct("WebhookDispatcherBuilder");
        shown.field("registry", registry).field("allowed", allowed).field("resolver", resolver);
        shown.field("options", options).finish_non_exhaustive()
    }
}

impl WebhookDispatcherBuilder {
    /// A network of one's own that webhooks may lead to, and without TLS (default: none). May be called for several.
    ///
    /// Whoever may set up a webhook can have requests sent to it, and see how an answer begins.
    pub fn allow(mut self, network: Network) -> Self {
        self.allowed.push(network);
        self
    }

    /// What finds the addresses of names (default: the operating system).
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// How long an attempt may take, from the name's address to the answer's end: 1 millisecond to 1 hour (default: 10 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// How long a delivery is claimed for, longer than the timeout (default: 30 s longer): if the process dies, another
    /// takes the delivery up after that.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = Some(lease);
        self
    }

    /// How often a delivery is tried before it has failed, 1 to 100 (default: 8).
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.options.attempts = attempts;
        self
    }

    /// The delay before the second attempt, which doubles each time, and the longest (default: 1 s and 60 s; at most a day).
    /// A random part of up to its half is added, so that many webhooks do not come at once.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        (self.options.first_delay, self.options.most_delay) = (first.min(MOST_DELAY), most.min(MOST_DELAY));
        self
    }

    /// To how many webhooks it delivers at once, 1 to 1,000 (default: 16).
    pub fn at_once(mut self, webhooks: usize) -> Self {
        self.options.at_once = webhooks;
        self
    }

    /// Certificates in PEM that are trusted besides those that the system trusts.
    #[cfg(feature = "webhooks-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "webhooks-tls")))]
    pub fn trust(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.trusted.push(pem.into());
        self
    }

    /// Checks everything. With the feature `webhooks-tls` it reads the certificates that the system trusts, or those that the
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name, as other programs do.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput) naming the option that is out of range, or the certificate that cannot be
    /// read.
    pub fn build(self) -> Result<WebhookDispatcher> {
        let Options { timeout, lease, attempts, at_once, .. } = self.options;
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&timeout) {
            return Err(CoreError::invalid("timeout", format!("{timeout:?} is not in 1 ms..=1 h")).into());
        }
        if lease.is_some_and(|lease| lease <= timeout || lease > MOST_DELAY) {
            let reason = format!("{lease:?} is not longer than the timeout, {timeout:?}, or is longer than a day");
            return Err(CoreError::invalid("lease", reason).into());
        }
        if !(1..=100).contains(&attempts) {
            return Err(CoreError::invalid("attempts", format!("{attempts} is not in 1..=100")).into());
        }
        if !(1..=1_000).contains(&at_once) {
            return Err(CoreError::invalid("at_once", format!("{at_once} is not in 1..=1000")).into());
        }
        let sender = Sender {
            guard: Guard { allowed: self.allowed, resolver: self.resolver },
            timeout,
            #[cfg(feature = "webhooks-tls")]
            tls: tls(&self.trusted)?,
        };
        Ok(WebhookDispatcher(Arc::new(Dispatcher { registry: self.registry, sender, options: self.options })))
    }
}

#[cfg(feature = "webhooks-tls")]
fn tls(trusted: &[Vec<u8>]) -> Result<tokio_rustls::TlsConnector> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
    let refused = |error: &dyn std::error::Error| CoreError::invalid("certificate", error);
    let mut roots = RootCertStore::empty();
    // What the system has and this library cannot read is left out, as browsers do.
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read some of the certificates that the system trusts");
    }
    roots.add_parsable_certificates(found.certs);
    for certificate in trusted.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)) {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

impl WebhookDispatcher {
    /// A dispatcher for the webhooks of that registry.
    pub fn builder(registry: SqlRegistry) -> WebhookDispatcherBuilder {
        WebhookDispatcherBuilder {
            registry,
            allowed: Vec::new(),
            resolver: Arc::new(SystemResolver),
            options: Options {
                timeout: Duration::from_secs(10),
                lease: None,
                attempts: 8,
                first_delay: Duration::from_secs(1),
                most_delay: Duration::from_secs(60),
                at_once: 16,
            },
            #[cfg(feature = "webhooks-tls")]
            trusted: Vec::new(),
        }
    }

    /// The registry whose webhooks these are.
    #[must_use]
    pub fn registry(&self) -> &SqlRegistry {
        &self.0.registry
    }

    /// Whether deliveries could go to that address now: its form, and where its name leads.
    ///
    /// # Errors
    /// [`InvalidInput`](CoreError::InvalidInput), with the reason.
    pub async fn check_url(&self, url: &str) -> Result<()> {
        let checked = self.0.sender.check(url).await;
        checked.map_err(|refused| CoreError::invalid("webhook URL", refused.why).into())
    }

    /// Delivers what is due, until nothing is, and does not wait for what will be tried again later.
    ///
    /// Dropping the future leaves the deliveries under way to whoever comes after their claims have run out.
    ///
    /// # Errors
    /// The first error of the registry, once the deliveries under way are over. What the receivers say is no error: it is in
    /// the result, and in [`SqlRegistry::deliveries`].
    pub async fn deliver_pending(&self) -> Result<Dispatched> {
        let (mut sum, mut busy, mut under_way) = (Dispatched::default(), BTreeSet::new(), FuturesUnordered::new());
        let mut failed = None;
        loop {
            if failed.is_none() {
                match self.0.registry.due_webhooks().await {
                    Ok((due, _)) => {
                        for id in due {
                            if busy.len() < self.0.options.at_once && busy.insert(id) {
                                under_way.push(self.0.step(id));
                            }
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            match under_way.next().await {
                Some((id, Ok(state))) => {
                    busy.remove(&id);
                    sum.count(state);
                }
                Some((_, Err(error))) => failed = failed.or(Some(error)),
                None => return failed.map_or(Ok(sum), Err),
            }
        }
    }

    /// Delivers what there is and what comes, through lost connections and whatever else may work later. Dropping the future
    /// loses nothing; see [`deliver_pending`](Self::deliver_pending).
    ///
    /// # Errors
    /// Only what says that it will never work, such as a database that this crate cannot read.
    pub async fn run(&self) -> Result<std::convert::Infallible> {
        let registry = &self.0.registry;
        let (mut busy, mut under_way) = (BTreeSet::new(), FuturesUnordered::new());
        let mut aside: BTreeMap<WebhookId, Instant> = BTreeMap::new();
        let mut alarm = registry.alarm();
        loop {
            let mut pause = alarm.set().await;
            match registry.due_webhooks().await {
                Ok((due, next)) => {
                    pause = next.map_or(pause, |next| pause.min(next));
                    let now = Instant::now();
                    aside.retain(|_, until| *until > now);
                    for id in due {
                        if busy.len() < self.0.options.at_once && !aside.contains_key(&id) && busy.insert(id) {
                            under_way.push(self.0.step(id));
                        }
                    }
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "cannot look for deliveries; trying again");
                }
                Err(error) => return Err(error),
            }
            let landed = async {
                match under_way.next().await {
                    Some(landed) => landed,
                    None => std::future::pending().await,
                }
            };
            if let Either::Left(((id, done), _)) = select(Box::pin(landed), Box::pin(alarm.rings(pause))).await {
                busy.remove(&id);
                if let Err(error) = done {
                    let error = mlops_core::with_causes(&error);
                    tracing::error!(webhook = %id, error, "cannot deliver; trying again in a minute");
                    aside.insert(id, Instant::now() + ASIDE);
                }
            }
        }
    }

    /// Sends an example of `event` to a webhook, or of its first event, once and now, whatever its status.
    ///
    /// # Errors
    /// [`NotFound`](CoreError::NotFound); [`PermissionDenied`](CoreError::PermissionDenied) to all who may not administer
    /// webhooks.
    pub async fn test(&self, who: &Principal, id: WebhookId, event: Option<WebhookEvent>) -> Result<WebhookTest> {
        let (webhook, secret) = self.0.registry.webhook_to_test(who, id).await?;
        let first = || webhook.events.first().copied();
        let event = event.or_else(first).ok_or_else(|| CoreError::invalid("webhook event", "there is none"))?;
        let at = self.0.registry.now();
        let payload = event::envelope(event, at, &event.example());
        let delivery = DeliveryId::new(at).to_string();
        let letter = Letter { url: &webhook.url, secret: secret.as_ref(), delivery, payload: &payload, at };
        Ok(match self.0.sender.post(&letter).await {
            Ok(Answer { status, excerpt, .. }) => {
                let success = (200..300).contains(&status);
                WebhookTest { success, status: Some(status), body: Some(excerpt), error: None }
            }
            Err(NoAnswer { why, .. }) => WebhookTest { success: false, status: None, body: None, error: Some(why) },
        })
    }
}

impl Dispatched {
    fn count(&mut self, state: Option<DeliveryState>) {
        match state {
            Some(DeliveryState::Delivered) => self.delivered += 1,
            Some(DeliveryState::Pending) => self.put_off += 1,
            Some(DeliveryState::Failed) => self.failed += 1,
            None => {}
        }
    }
}

impl Dispatcher {
    /// One attempt at what a webhook is to be told next, if it is still this dispatcher's turn.
    async fn step(&self, id: WebhookId) -> (WebhookId, Result<Option<DeliveryState>>) {
        (id, Box::pin(self.attempt(id)).await)
    }

    async fn attempt(&self, id: WebhookId) -> Result<Option<DeliveryState>> {
        let Options { timeout, lease, attempts, .. } = self.options;
        let lease = lease.unwrap_or(timeout + Duration::from_secs(30));
        let Some(claim) = self.registry.claim_delivery(id, lease, attempts).await? else { return Ok(None) };
        let Claim { url, secret, delivery, payload, .. } = &claim;
        let at = self.registry.now();
        let letter = Letter { url, secret: secret.as_ref(), delivery: delivery.to_string(), payload, at };
        let outcome = self.judge(self.sender.post(&letter).await, claim.attempt);
        let mut tries = 0;
        loop {
            match self.registry.settle_delivery(&claim, &outcome).await {
                // What was answered is worth more than one attempt to write it down.
                Err(error) if error.is_retryable() && tries < 5 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50 << tries)).await;
                }
                done => break done?,
            }
        }
        if outcome.state == DeliveryState::Failed {
            let why = outcome.error.as_deref().unwrap_or_default();
            tracing::warn!(webhook = %id, %delivery, attempts = claim.attempt, why, "webhook delivery failed");
        }
        Ok(Some(outcome.state))
    }

    fn judge(&self, heard: Result<Answer, NoAnswer>, attempt: u32) -> Outcome {
        let (again, asked, status, error, excerpt) = match heard {
            Ok(Answer { status, excerpt, .. }) if (200..300).contains(&status) => {
                let (state, delay) = (DeliveryState::Delivered, Duration::ZERO);
                return Outcome { state, delay, status: Some(status), error: None, excerpt: Some(excerpt) };
            }
            Ok(Answer { status, retry_after, excerpt }) => {
                let hint = if (300..400).contains(&status) { ", and redirects are not followed" } else { "" };
                let error = format!("answered {status}{hint}");
                (AGAIN.contains(&status), retry_after, Some(status), error, Some(excerpt))
            }
            Err(NoAnswer { why, again }) => (again, None, None, why, None),
        };
        let again = again && attempt < self.options.attempts;
        let state = if again { DeliveryState::Pending } else { DeliveryState::Failed };
        let delay = if again { self.delay(attempt, asked) } else { Duration::ZERO };
        Outcome { state, delay, status, error: Some(error), excerpt }
    }

    /// How long after that attempt the next one is due.
    fn delay(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let Options { first_delay, most_delay, .. } = self.options;
        let doubled = first_delay.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        let delay = doubled.min(most_delay);
        let random = (Uuid::new_v4().as_u128() >> 96) as f64 / (f64::from(u32::MAX) + 1.0);
        (delay + delay.mul_f64(random / 2.0)).max(asked.unwrap_or_default().min(MOST_ASKED))
    }
}
