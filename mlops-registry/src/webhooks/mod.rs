//! Webhooks: registry changes told to HTTP addresses, in MLflow's words and with its signature.
//!
//! ```
//! # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use mlops_core::{Principal, Role, store::MemoryStore};
//! # use mlops_registry::{EventKind, ModelRegistry, NewModel, SqlRegistry};
//! use mlops_registry::webhooks::{NewWebhook, Secret, WebhookDispatcher, WebhookEvent};
//! # let registry = SqlRegistry::builder().artifacts(MemoryStore::default()).open_in_memory().await?;
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let url = format!("http://{}/hook", listener.local_addr()?);
//! # let app = axum::Router::new().route("/hook", axum::routing::post(async || "thanks"));
//! # tokio::spawn(async move { axum::serve(listener, app).await });
//! let root = Principal::new("root").with_role(Role::Admin);
//! let new = NewWebhook::new("ci", url, [WebhookEvent::of(EventKind::ModelCreated)]).secret(Secret::new("s3cret"));
//! let webhook = registry.create_webhook(&root, new).await?;
//! registry.create_model(&root, NewModel::new("prices")).await?;
//!
//! // In a service: `tokio::spawn(async move { dispatcher.run().await })`, in as many of its processes as there are.
//! let dispatcher = WebhookDispatcher::builder(registry.clone()).allow("127.0.0.0/8".parse()?).build()?;
//! assert_eq!(dispatcher.deliver_pending().await?.delivered, 1);
//! assert_eq!(registry.deliveries(webhook.id, 10).await?[0].last_status, Some(200));
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! # Rules
//! - **From the outbox:** what is told was written in the transaction of the change, so a change is told if and only if it
//!   took effect. A webhook is told what happens after it was created, and of each kind of event after that was asked for.
//! - **At least once, in order, one at a time** for each webhook, with any number of dispatchers in any number of processes.
//!   Who delivers holds a claim that runs out; if it dies before the answer is recorded (or stands still for that long), the
//!   same delivery is made again, with the same [`DeliveryId`] and the same body, by which the receiver knows it.
//! - **Tried again** after 429, 500, 502, 503, 504 and where no answer came, later each time, and not before `Retry-After`
//!   says. After any other answer but 2xx, or when its attempts are used up, a delivery has [failed](DeliveryState::Failed):
//!   that is listed, and the next one goes on.
//! - **A disabled webhook** is told nothing, and never what happened before it is active again, but for a delivery that was
//!   begun: that one goes on then.
//! - **Only to public addresses,** over TLS. The address that is connected to is the one that was checked, a name with any
//!   other address is refused, redirects are not followed, and answers are cut. Networks of one's own are
//!   [named](WebhookDispatcherBuilder::allow), and may be reached without TLS.
//! - **The secret** is shown by nothing. It is encrypted in the database where the registry was given keys
//!   ([`SqlRegistryBuilder::webhook_keys`](crate::SqlRegistryBuilder::webhook_keys)), and stored as it is where not: then
//!   protect the file, its copies and the server.
//! - **Who:** webhooks are set up with [`Administer`](mlops_core::Permission::Administer) on `webhooks` of the registry, and
//!   each change is audited; of the address only the host and a digest, as some hold a token.
//! - Clocks of processes that share a database agree to within a few seconds.
//!
//! A receiver checks what came with [`Secret::verify`].

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod dispatch;
mod event;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod guard;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod send;
mod signature;

use std::fmt;

use mlops_core::{DeliveryId, Timestamp, WebhookId};
use serde::{Deserialize, Serialize};

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use self::dispatch::{Dispatched, WebhookDispatcher, WebhookDispatcherBuilder, WebhookTest};
pub use self::event::WebhookEvent;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::event::body;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use self::guard::{Network, Resolver, SystemResolver};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::guard::{check, origin};
pub use self::signature::{DELIVERY_ID_HEADER, Received, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// Whether a webhook is told anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum WebhookStatus {
    /// It is.
    #[default]
    Active,
    /// It is not, until it is active again.
    Disabled,
}

impl WebhookStatus {
    /// The status as MLflow writes it: `ACTIVE`, `DISABLED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Disabled => "DISABLED",
        }
    }
}

/// A webhook to be set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewWebhook {
    /// Its id, where it is given by the caller so that the call may be repeated.
    pub id: Option<WebhookId>,
    /// Its name for people: 1 to 63 letters, digits, `.`, `_` and `-`, a letter or digit at both ends. Several may have one.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where to: `https://host/path`.
    pub url: String,
    /// Of what, at least one.
    pub events: Vec<WebhookEvent>,
    /// What deliveries are signed with.
    pub secret: Option<Secret>,
    /// Whether it is told anything.
    pub status: WebhookStatus,
}

impl NewWebhook {
    /// An active webhook without description and secret.
    pub fn new(
        name: impl Into<String>,
        url: impl Into<String>,
        events: impl IntoIterator<Item = WebhookEvent>,
    ) -> Self {
        Self {
            id: None,
            name: name.into(),
            description: String::new(),
            url: url.into(),
            events: events.into_iter().collect(),
            secret: None,
            status: WebhookStatus::Active,
        }
    }

    /// Gives it an id, so that the call may be repeated.
    #[must_use]
    pub fn id(mut self, id: WebhookId) -> Self {
        self.id = Some(id);
        self
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// What deliveries are signed with.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Whether it is told anything.
    #[must_use]
    pub fn status(mut self, status: WebhookStatus) -> Self {
        self.status = status;
        self
    }
}

/// What to change of a webhook; what is not named stays.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WebhookEdit {
    /// Another name.
    pub name: Option<String>,
    /// Another description.
    pub description: Option<String>,
    /// Another address.
    pub url: Option<String>,
    /// All events from now on.
    pub events: Option<Vec<WebhookEvent>>,
    /// Another secret, or none from now on.
    pub secret: Option<Option<Secret>>,
    /// Whether it is told anything.
    pub status: Option<WebhookStatus>,
}

impl WebhookEdit {
    /// An edit that changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Another description.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Another address; a delivery that is not over goes there, too.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// All events from now on. Those that it had go on where they are.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = WebhookEvent>) -> Self {
        self.events = Some(events.into_iter().collect());
        self
    }

    /// Another secret.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(Some(secret));
        self
    }

    /// No secret, and so no signature, from now on.
    #[must_use]
    pub fn no_secret(mut self) -> Self {
        self.secret = Some(None);
        self
    }

    /// Whether it is told anything.
    #[must_use]
    pub fn status(mut self, status: WebhookStatus) -> Self {
        self.status = Some(status);
        self
    }
}

/// A webhook: an address, and what it is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where to. Some addresses hold a token: who may see this may send there.
    pub url: String,
    /// Of what.
    pub events: Vec<WebhookEvent>,
    /// Whether it is told anything.
    pub status: WebhookStatus,
    /// Whether deliveries are signed: whether it has a secret.
    pub signed: bool,
    /// Who set it up.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeliveryState {
    /// It is being made, or will be made again.
    Pending,
    /// It was answered with 2xx.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// One thing told to one webhook. The last thousand of each webhook are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Delivery {
    /// Its id, in the header `X-MLflow-Delivery-Id` of every attempt.
    pub id: DeliveryId,
    /// The place of the event among all of the registry.
    pub seq: u64,
    /// What it tells.
    pub event: WebhookEvent,
    /// How far it is.
    pub state: DeliveryState,
    /// How many attempts were begun.
    pub attempts: u32,
    /// When it is tried again, while it is pending.
    pub next_at: Option<Timestamp>,
    /// When the last attempt began or ended.
    pub updated_at: Timestamp,
    /// The HTTP status of the last answer, if there was one.
    pub last_status: Option<u16>,
    /// What went wrong in the last attempt that ended.
    pub last_error: Option<String>,
    /// How the last answer began: at most 1,000 characters.
    pub excerpt: Option<String>,
}

impl fmt::Display for WebhookStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
