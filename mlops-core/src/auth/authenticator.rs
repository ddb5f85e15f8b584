//! Who stands at a network edge: from what a request shows to a [`Principal`].
//!
//! ```
//! use mlops_core::auth::{Authenticator, Credential, FixedPrincipal};
//! use mlops_core::{Principal, Role};
//! # futures::executor::block_on(async {
//! // On a loopback address of a developer's machine, everybody is the developer.
//! let edge = FixedPrincipal::new(Principal::new("dev").with_role(Role::Admin));
//! assert_eq!(edge.authenticate(&Credential::None).await?.name, "dev");
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::Principal;
use super::token::Tokens;
use crate::{Error, Result};

/// What a request shows of who sends it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing.
    None,
    /// A token (RFC 6750).
    Bearer(String),
    /// A name and a password (RFC 7617).
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bearer(_) => f.write_str("Bearer(***)"),
            Self::Basic { user, .. } => write!(f, "Basic({user:?}, ***)"),
        }
    }
}

/// Finds out who a request comes from.
///
/// # Contract
/// - Who cannot be told is [`Error::Unauthenticated`] (or [`Error::UnknownKey`]), never a principal without roles.
/// - The answer does not tell a wrong name from a wrong secret.
/// - Nothing of a credential is logged or kept.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Whom the credential proves.
    async fn authenticate(&self, credential: &Credential) -> Result<Principal>;
}

#[async_trait]
impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    async fn authenticate(&self, credential: &Credential) -> Result<Principal> {
        (**self).authenticate(credential).await
    }
}

#[async_trait]
impl<A: Authenticator + ?Sized> Authenticator for Box<A> {
    async fn authenticate(&self, credential: &Credential) -> Result<Principal> {
        (**self).authenticate(credential).await
    }
}

fn missing() -> Error {
    Error::unauthenticated("send a token: `Authorization: Bearer TOKEN`, or as the password of any name")
}

/// A token as bearer, or as the password of any name: clients that know only names and passwords can use tokens too.
#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, credential: &Credential) -> Result<Principal> {
        match credential {
            Credential::None => Err(missing()),
            Credential::Bearer(token) | Credential::Basic { password: token, .. } => {
                Ok(Tokens::authenticate(self, token).await?.principal())
            }
        }
    }
}

/// A token of the identity provider as bearer, or as the password of any name.
#[cfg(feature = "jwt")]
#[async_trait]
impl Authenticator for super::jwt::JwtVerifier {
    async fn authenticate(&self, credential: &Credential) -> Result<Principal> {
        match credential {
            Credential::None => Err(missing()),
            Credential::Bearer(token) | Credential::Basic { password: token, .. } => self.verify(token),
        }
    }
}

/// The first of several that knows the credential: tokens of our own, then those of an identity provider.
#[derive(Clone, Debug)]
pub struct AnyOf(Vec<Arc<dyn Authenticator>>);

impl AnyOf {
    /// Asks these in order.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Authenticator>>) -> Self {
        Self(all.into_iter().collect())
    }
}

#[async_trait]
impl Authenticator for AnyOf {
    async fn authenticate(&self, credential: &Credential) -> Result<Principal> {
        let mut refused = missing();
        for one in &self.0 {
            match one.authenticate(credential).await {
                Err(error @ (Error::Unauthenticated { .. } | Error::UnknownKey { .. })) => refused = error,
                known => return known,
            }
        }
        Err(refused)
    }
}

/// Everybody is this principal, whatever they show. For an address that only its owner reaches.
#[derive(Clone, Debug)]
pub struct FixedPrincipal(Principal);

impl FixedPrincipal {
    /// Everybody is `who`.
    #[must_use]
    pub fn new(who: Principal) -> Self {
        Self(who)
    }
}

#[async_trait]
impl Authenticator for FixedPrincipal {
    async fn authenticate(&self, _: &Credential) -> Result<Principal> {
        Ok(self.0.clone())
    }
}
