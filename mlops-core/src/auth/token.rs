//! Opaque tokens for the network edges: random, hashed at rest, expiring, and never wider than who issued them.
//!
//! ```
//! # futures::executor::block_on(async {
//! use std::time::Duration;
//! use mlops_core::audit::MemoryAuditLog;
//! use mlops_core::auth::token::{MemoryTokens, NewToken, Tokens};
//! use mlops_core::{Authorizer, Permission, Principal, Resource, Role, RoleTable};
//! let tokens = Tokens::new(MemoryTokens::new(MemoryAuditLog::default()));
//! let root = Principal::new("root").with_role(Role::Admin);
//! let day = Duration::from_secs(86_400);
//! let (secret, info) = tokens.issue(&root, NewToken::new(day).speaks_as("ci").role_on(Role::Contributor, Resource::model("prices"))).await?;
//! // The secret is shown once, here; at the edge it comes back:
//! let ci = tokens.authenticate(secret.reveal()).await?.principal();
//! assert_eq!(ci.name, "ci");
//! assert!(RoleTable.check(&ci, Permission::Register, &Resource::model("prices")).is_ok());
//! tokens.revoke(&root, info.id, "the job is gone").await?;
//! assert!(tokens.authenticate(secret.reveal()).await.is_err());
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```
//!
//! # Rules
//! - A token is `mlops_<id>_<secret>`, the secret 256 bits from the operating system. What is kept is a BLAKE3 hash of it:
//!   a slow hash makes guessing a password dear, and nobody guesses 256 random bits. Hashes are compared in constant time
//!   (`blake3::Hash` compares so), and an unknown id costs the same hash and comparison as a wrong secret.
//! - A token holds **at most** what its issuer held when issuing it: the same role or any if they are admin, on the same
//!   resource or one in it. It speaks as its issuer; only an admin of all that it holds on makes one that speaks as
//!   somebody else, or two names would be one person's four eyes.
//! - Every token expires. What an issuer loses later their tokens keep: revoke them.
//! - Issuing and revoking are in the audit log, in the same step. Using one is not.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::lock::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Grant, Principal, Resource, Role};
use crate::audit::{AuditEvent, AuditLog};
use crate::{Clock, Digest, Error, Result, SystemClock, Timestamp, TokenId, clock};

const PREFIX: &str = "mlops_";

/// The text of a token, secret included: shown once, when it is issued.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The text, to be handed to whoever will use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// What is kept of a token's secret. Two are compared in constant time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    fn of(id: TokenId, secret: &[u8; 32]) -> Self {
        // A context of its own, so that no other digest of these bytes is this one; the id, so that a hash fits one row.
        let mut hasher = blake3::Hasher::new_derive_key("mlops-core 2026-11-25 secret of an API token");
        Self(hasher.update(id.as_uuid().as_bytes()).update(secret).finalize())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

impl FromStr for TokenHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse::<Digest>().map(|digest| Self(blake3::Hash::from_bytes(*digest.as_bytes())))
    }
}

/// Everything about a token but its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenInfo {
    /// Its id.
    pub id: TokenId,
    /// Whom it speaks as.
    pub speaks_as: String,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// Who issued it.
    pub issuer: String,
    /// When.
    pub created_at: Timestamp,
    /// From when on it is void.
    pub expires_at: Timestamp,
    /// Since when it is void before that, if it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl TokenInfo {
    /// A token, as a store reads it back; not revoked.
    #[must_use]
    pub fn new(id: TokenId, who: Principal, issuer: String, created_at: Timestamp, expires_at: Timestamp) -> Self {
        Self { id, speaks_as: who.name, grants: who.grants, issuer, created_at, expires_at, revoked_at: None }
    }

    /// Who acts through it.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal { name: self.speaks_as.clone(), grants: self.grants.clone() }
    }
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// What it says.
    pub info: TokenInfo,
    /// The hash of its secret.
    pub hash: TokenHash,
}

/// Keeps tokens. Callers use [`Tokens`], which decides who may issue what.
///
/// # Contract
/// - **Once.** A second `insert` of an id is [`Error::AlreadyExists`] and changes nothing.
/// - **Audit.** The event given with a change is in the audit log if the change is kept, and not if it is refused.
/// - **Revoking** a token again gives it as it is, keeps the first time, and audits nothing. A token that is not there
///   is [`Error::NotFound`].
/// - **Order.** `tokens` yields the oldest first, by time of creation and then id.
/// - **Times** are kept to the microsecond. **Clones** and pointers share one store.
#[async_trait]
pub trait TokenStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Keeps a new token.
    async fn insert(&self, token: StoredToken, event: AuditEvent) -> Result<()>;

    /// The token of that id, revoked and expired ones included.
    async fn find(&self, id: TokenId) -> Result<Option<StoredToken>>;

    /// Makes a token void from `at` on.
    async fn revoke(&self, id: TokenId, at: Timestamp, event: AuditEvent) -> Result<TokenInfo>;

    /// Every token, without hashes.
    async fn tokens(&self) -> Result<Vec<TokenInfo>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: TokenStore + ?Sized> TokenStore for Arc<S> {
    async fn insert(&self, token: StoredToken, event: AuditEvent) -> Result<()> {
        (**self).insert(token, event).await
    }

    async fn find(&self, id: TokenId) -> Result<Option<StoredToken>> {
        (**self).find(id).await
    }

    async fn revoke(&self, id: TokenId, at: Timestamp, event: AuditEvent) -> Result<TokenInfo> {
        (**self).revoke(id, at, event).await
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>> {
        (**self).tokens().await
    }
}

/// A token to be issued.
#[derive(Clone, Debug)]
#[must_use = "a token is issued by `Tokens::issue`"]
pub struct NewToken {
    lifetime: Duration,
    speaks_as: Option<String>,
    grants: Vec<Grant>,
    reason: String,
    until: Option<Timestamp>,
}

impl NewToken {
    /// A token that lives so long and may do nothing yet.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime, speaks_as: None, grants: Vec::new(), reason: String::new(), until: None }
    }

    /// Adds a grant.
    pub fn grant(mut self, grant: Grant) -> Self {
        self.grants.push(grant);
        self
    }

    /// Adds a role on everything.
    pub fn role(self, role: Role) -> Self {
        self.grant(Grant::everywhere(role))
    }

    /// Adds a role on one resource and what is in it.
    pub fn role_on(self, role: Role, resource: Resource) -> Self {
        self.grant(Grant::on(role, resource))
    }

    /// Lets it speak as somebody else than its issuer.
    pub fn speaks_as(mut self, name: impl Into<String>) -> Self {
        self.speaks_as = Some(name.into());
        self
    }

    /// Why it is issued, for the audit log.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Ends it no later than the token that its issuer came with: otherwise a token could renew itself for ever.
    pub fn under(mut self, token: &TokenInfo) -> Self {
        self.until = Some(token.expires_at);
        self
    }
}

/// Issues, checks and revokes the tokens of a [`TokenStore`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    longest: Duration,
}

impl Tokens {
    /// The tokens in that store, by the system's clock, each living at most 90 days.
    pub fn new(store: impl TokenStore) -> Self {
        Self { store: Arc::new(store), clock: Arc::new(SystemClock), longest: Duration::from_secs(90 * 86_400) }
    }

    /// What tells the time.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The longest that a token may live (default 90 days).
    #[must_use]
    pub fn longest(mut self, lifetime: Duration) -> Self {
        self.longest = lifetime;
        self
    }

    /// Issues a token. An issuer who came with a token themselves gives it to [`NewToken::under`].
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] naming the first grant that the issuer does not hold; [`Error::InvalidInput`] if the
    /// lifetime is zero or too long, nothing is granted, or the name is blank; those of the store.
    pub async fn issue(&self, issuer: &Principal, new: NewToken) -> Result<(Token, TokenInfo)> {
        let NewToken { lifetime, speaks_as, grants, reason, until } = new;
        if lifetime.is_zero() || lifetime > self.longest {
            let reason = format!("{lifetime:?} is not above zero and at most {:?}", self.longest);
            return Err(Error::invalid("token lifetime", reason));
        }
        if grants.is_empty() {
            return Err(Error::invalid("token", "it grants nothing: give it a role"));
        }
        let name = speaks_as.unwrap_or_else(|| issuer.name.clone());
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err(Error::invalid("token", format!("nobody is called {name:?}")));
        }
        let foreign = name != issuer.name;
        for grant in &grants {
            let admin = holds(issuer, Role::Admin, grant);
            let remedy = match (admin, foreign) {
                (true, _) => continue,
                (false, true) => "admin there, to speak as somebody else".to_owned(),
                (false, false) if holds(issuer, grant.role, grant) => continue,
                (false, false) => format!("{} or admin, there", grant.role.as_str()),
            };
            let (principal, permission) = (issuer.name.clone(), "issue a token");
            return Err(Error::PermissionDenied { principal, permission, resource: grant.to_string(), remedy });
        }
        let now = clock::from_micros(self.clock.now().timestamp_micros());
        let lifetime = chrono::TimeDelta::from_std(lifetime).ok().and_then(|lifetime| now.checked_add_signed(lifetime));
        let expires_at = lifetime.ok_or_else(|| Error::invalid("token lifetime", "it ends beyond the calendar"))?;
        let expires_at = until.map_or(expires_at, |until| until.min(expires_at));
        let (id, mut secret) = (TokenId::new(now), [0; 32]);
        getrandom::fill(&mut secret).map_err(|error| Error::Backend {
            backend: "operating system".to_owned(),
            operation: "give random bytes for",
            key: "token".to_owned(),
            retryable: true,
            source: error.into(),
        })?;
        let info = TokenInfo::new(id, Principal { name, grants }, issuer.name.clone(), now, expires_at);
        let after = serde_json::to_value(&info).map_err(|e| Error::invalid("token", e))?;
        let event = AuditEvent::new(now, &issuer.name, "token.issue", format!("token {id}")).because(reason);
        let stored = StoredToken { info: info.clone(), hash: TokenHash::of(id, &secret) };
        self.store.insert(stored, event.change(serde_json::Value::Null, after)).await?;
        let secret = Digest::from_bytes(secret);
        Ok((Token(format!("{PREFIX}{}_{secret}", id.as_uuid().simple())), info))
    }

    /// Whom a token speaks as, if it is one of ours and holds now.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]: an unknown token and a wrong secret are one case, and only who has the right secret
    /// learns that it expired or was revoked. Those of the store.
    pub async fn authenticate(&self, token: &str) -> Result<TokenInfo> {
        let (id, secret) =
            parse(token).ok_or_else(|| Error::unauthenticated("that is no token: expected mlops_ID_SECRET"))?;
        let given = TokenHash::of(id, &secret);
        let found = self.store.find(id).await?;
        // Compared also where nothing was found, with what no secret hashes to.
        let kept = found.as_ref().map_or(TokenHash(blake3::Hash::from_bytes([0; 32])), |token| token.hash);
        let info = match found {
            Some(token) if kept == given => token.info,
            _ => return Err(Error::unauthenticated("the token is not known, or its secret is another")),
        };
        if let Some(at) = info.revoked_at {
            return Err(Error::unauthenticated(format!("token {id} was revoked at {at}")));
        }
        if self.clock.now() >= info.expires_at {
            return Err(Error::unauthenticated(format!("token {id} expired at {}", info.expires_at)));
        }
        Ok(info)
    }

    /// Makes a token void at once, for good. Its issuer may, whom it speaks as, and an admin of all that it holds on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PermissionDenied`], [`Error::InvalidInput`] without a reason; those of the store.
    pub async fn revoke(&self, who: &Principal, id: TokenId, reason: &str) -> Result<TokenInfo> {
        if reason.trim().is_empty() {
            return Err(Error::invalid("reason", "must say why"));
        }
        let found = self.store.find(id).await?.ok_or_else(|| Error::not_found("token", id))?.info;
        if !may_see(who, &found) {
            let (principal, permission, resource) = (who.name.clone(), "revoke", format!("token {id}"));
            let remedy = "its issuer, whom it speaks as, or an admin of what it holds on".to_owned();
            return Err(Error::PermissionDenied { principal, permission, resource, remedy });
        }
        let now = clock::from_micros(self.clock.now().timestamp_micros());
        let event = AuditEvent::new(now, &who.name, "token.revoke", format!("token {id}")).because(reason);
        let (before, after) = (serde_json::json!({ "revoked_at": null }), serde_json::json!({ "revoked_at": now }));
        self.store.revoke(id, now, event.change(before, after)).await
    }

    /// The tokens that `who` may revoke, the oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, who: &Principal) -> Result<Vec<TokenInfo>> {
        let mut tokens = self.store.tokens().await?;
        tokens.retain(|token| may_see(who, token));
        Ok(tokens)
    }
}

/// Whether `who` holds `role` on all that `wanted` would hold on.
fn holds(who: &Principal, role: Role, wanted: &Grant) -> bool {
    who.grants.iter().filter(|held| held.role == role).any(|held| match (&held.on, &wanted.on) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(held), Some(wanted)) => held.covers(wanted),
    })
}

fn may_see(who: &Principal, token: &TokenInfo) -> bool {
    who.name == token.issuer
        || who.name == token.speaks_as
        || (!token.grants.is_empty() && token.grants.iter().all(|grant| holds(who, Role::Admin, grant)))
}

fn parse(text: &str) -> Option<(TokenId, [u8; 32])> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let id = TokenId::from_uuid(Uuid::try_parse(id).ok()?);
    // One spelling per token: UUIDs have several.
    let canonical = id.as_uuid().simple().to_string();
    let secret: Digest = secret.parse().ok()?;
    (text.get(PREFIX.len()..PREFIX.len() + 32) == Some(&canonical)).then_some((id, *secret.as_bytes()))
}

/// Tokens in memory: the reference implementation. Its audit entries go to the log it is given.
#[derive(Clone, Debug)]
pub struct MemoryTokens {
    audit: Arc<dyn AuditLog>,
    tokens: Arc<Mutex<BTreeMap<TokenId, StoredToken>>>,
}

impl MemoryTokens {
    /// An empty store.
    pub fn new(audit: impl AuditLog) -> Self {
        Self { audit: Arc::new(audit), tokens: Arc::default() }
    }
}

impl fmt::Display for MemoryTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl TokenStore for MemoryTokens {
    async fn insert(&self, token: StoredToken, event: AuditEvent) -> Result<()> {
        let mut tokens = self.tokens.lock().await;
        if tokens.contains_key(&token.info.id) {
            return Err(Error::AlreadyExists { what: "token", name: token.info.id.to_string() });
        }
        self.audit.append(event).await?;
        tokens.insert(token.info.id, token);
        Ok(())
    }

    async fn find(&self, id: TokenId) -> Result<Option<StoredToken>> {
        Ok(self.tokens.lock().await.get(&id).cloned())
    }

    async fn revoke(&self, id: TokenId, at: Timestamp, event: AuditEvent) -> Result<TokenInfo> {
        let mut tokens = self.tokens.lock().await;
        let token = tokens.get_mut(&id).ok_or_else(|| Error::not_found("token", id))?;
        if token.info.revoked_at.is_none() {
            self.audit.append(event).await?;
            token.info.revoked_at = Some(at);
        }
        Ok(token.info.clone())
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>> {
        let mut tokens: Vec<TokenInfo> = self.tokens.lock().await.values().map(|token| token.info.clone()).collect();
        tokens.sort_by_key(|token| (token.created_at, token.id));
        Ok(tokens)
    }
}
