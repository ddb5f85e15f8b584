//! Principals from the tokens of an identity provider: OIDC and OAuth 2 access tokens as signed JWTs.
//!
//! ```
//! use mlops_core::auth::{Grant, Role};
//! use mlops_core::auth::jwt::JwtVerifier;
//! # let jwks = r#"{"keys": []}"#;
//! let verifier = JwtVerifier::builder("https://id.example.com/realms/ml", "mlops")
//!     .roles_at(["realm_access", "roles"])
//!     .role("ml-deployers", Grant::everywhere(Role::Deployer))
//!     .build(jwks)?; // the text at the provider's `jwks_uri`, which the caller fetches
//! let error = verifier.verify("eyJhbGciOiJub25lIn0.e30.").unwrap_err();
//! assert_eq!(error.to_string(), "not authenticated: the token's header is not one that is accepted");
//! # Ok::<(), mlops_core::Error>(())
//! ```
//!
//! # Rules
//! - **Algorithms** are those of public keys: no `none`, no shared secret, so that a public key is never taken for one.
//!   A token's algorithm must be allowed and fit its key's type and, where the key states one, its algorithm.
//! - **Keys** are those the caller gave. What a token says of where to find keys is not looked at.
//! - **Roles** come from a claim, through a list of names; a name that is not in it grants nothing, and who has none of
//!   them may do nothing.
//! - **Time** is the clock's, within a leeway; a token without an end is refused.
//! - Nothing is fetched. A token by a key that is not known is [`Error::UnknownKey`]: fetch the key set,
//!   [`JwtVerifier::set_keys`], try again; not more often than every few minutes, as anybody can write a key id.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::{Grant, Principal};
use crate::{Clock, Error, Result, SystemClock};

/// The longest token that is looked at, in bytes.
pub const LONGEST: usize = 16 << 10;
/// The longest key set, in bytes.
const LONGEST_KEYS: usize = 1 << 20;
/// The largest leeway: a longer one is a clock that is wrong.
const LONGEST_LEEWAY: Duration = Duration::from_secs(600);

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JwtAlgorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::RS256 => Self::Rs256,
            Algorithm::RS384 => Self::Rs384,
            Algorithm::RS512 => Self::Rs512,
            Algorithm::PS256 => Self::Ps256,
            Algorithm::PS384 => Self::Ps384,
            Algorithm::PS512 => Self::Ps512,
            Algorithm::ES256 => Self::Es256,
            Algorithm::ES384 => Self::Es384,
            Algorithm::EdDSA => Self::EdDsa,
            _ => return None,
        })
    }
}

/// What a key can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyType {
    fn checks(self, algorithm: JwtAlgorithm) -> bool {
        use JwtAlgorithm as A;
        match algorithm {
            A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512 => self == Self::Rsa,
            A::Es256 => self == Self::P256,
            A::Es384 => self == Self::P384,
            A::EdDsa => self == Self::Ed25519,
        }
    }
}

struct Key {
    id: Option<String>,
    of: KeyType,
    only: Option<KeyAlgorithm>,
    key: DecodingKey,
}

/// Checks tokens of one issuer for one audience. Clones share their keys.
#[derive(Clone)]
pub struct JwtVerifier(Arc<Inner>);

struct Inner {
    rules: JwtVerifierBuilder,
    keys: RwLock<Arc<Vec<Key>>>,
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<Option<String>> = self.keys().iter().map(|key| key.id.clone()).collect();
        f.debug_struct("JwtVerifier").field("rules", &self.0.rules).field("keys", &ids).finish()
    }
}

impl JwtVerifier {
    /// Starts a verifier of tokens that `issuer` made out for `audience`, both compared letter by letter.
    pub fn builder(issuer: impl Into<String>, audience: impl Into<String>) -> JwtVerifierBuilder {
        JwtVerifierBuilder {
            issuer: issuer.into(),
            audience: audience.into(),
            algorithms: vec![JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa],
            leeway: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
            name_at: vec!["sub".to_owned()],
            name_prefix: String::new(),
            roles_at: vec!["roles".to_owned()],
            roles: Vec::new(),
        }
    }

    /// Takes another set of keys from now on.
    ///
    /// Keys of types that are not used here are passed over: symmetric keys, those for encryption, other curves.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no key set (RFC 7517) or a key of ours in it is malformed or too short; the keys
    /// stay as they were.
    pub fn set_keys(&self, jwks: &str) -> Result<()> {
        let keys = read_keys(jwks)?;
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    fn keys(&self) -> Arc<Vec<Key>> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who the bearer of `token` is.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] if the key set may be out of date, else [`Error::Unauthenticated`] with what is wrong.
    pub fn verify(&self, token: &str) -> Result<Principal> {
        let refuse = |reason: &str| Error::unauthenticated(reason);
        if token.len() > LONGEST {
            return Err(refuse(&format!("the token is longer than {LONGEST} bytes")));
        }
        let rules = &self.0.rules;
        let parts =
            token.rsplit_once('.').and_then(|(signed, signature)| Some((signed, signed.split_once('.')?.1, signature)));
        let (signed, payload, signature) =
            parts.filter(|(_, payload, _)| !payload.contains('.')).ok_or_else(|| refuse("that is no signed JWT"))?;
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| refuse("the token's header is not one that is accepted"))?;
        let algorithm = JwtAlgorithm::of(header.alg).filter(|algorithm| rules.algorithms.contains(algorithm));
        let algorithm = algorithm
            .ok_or_else(|| refuse(&format!("the token is signed with {:?}, which is not allowed", header.alg)))?;
        if header.crit.is_some() {
            return Err(refuse("the token asks for an extension that is not known here"));
        }
        let known =
            |typ: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known));
        if header.typ.as_deref().is_some_and(|typ| !known(typ)) {
            return Err(refuse("the token is of a type that proves no identity"));
        }
        let keys = self.keys();
        let fits =
            |key: &&Key| key.of.checks(algorithm) && key.only.is_none_or(|only| only == KeyAlgorithm::from(header.alg));
        let candidates: Vec<&Key> = match &header.kid {
            Some(id) if keys.iter().any(|key| key.id.as_ref() == Some(id)) => {
                keys.iter().filter(|key| key.id.as_ref() == Some(id)).filter(fits).collect()
            }
            Some(id) => return Err(Error::UnknownKey { key: id.chars().take(80).collect() }),
            // Which key is meant must be beyond doubt.
            None => Some(keys.iter().filter(fits).collect())
                .filter(|fitting: &Vec<_>| fitting.len() == 1)
                .unwrap_or_default(),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| refuse("the token's signature is not Base64"))?;
        let valid = |key: &&Key| {
            let verifier = (DEFAULT_PROVIDER.verifier_factory)(&header.alg, &key.key);
            verifier.is_ok_and(|verifier| verifier.verify(signed.as_bytes(), &signature).is_ok())
        };
        if !candidates.iter().any(valid) {
            return Err(refuse("the token's signature does not fit any of the issuer's keys"));
        }
        let claims = URL_SAFE_NO_PAD.decode(payload).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        let claims = claims.filter(Value::is_object).ok_or_else(|| refuse("the token's claims are no JSON object"))?;
        rules.check(&claims)?;
        rules.principal(&claims)
    }
}

/// Says which tokens a [`JwtVerifier`] takes and what they are worth.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct JwtVerifierBuilder {
    issuer: String,
    audience: String,
    algorithms: Vec<JwtAlgorithm>,
    leeway: Duration,
    clock: Arc<dyn Clock>,
    name_at: Vec<String>,
    name_prefix: String,
    roles_at: Vec<String>,
    roles: Vec<(String, Grant)>,
}

impl JwtVerifierBuilder {
    /// The algorithms that are allowed (default RS256, ES256, EdDSA).
    pub fn algorithms(mut self, algorithms: impl IntoIterator<Item = JwtAlgorithm>) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// How far the issuer's clock may be from ours (default one minute, at most ten).
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// What tells the time (default [`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where the principal's name is: the claim, or the way to it through objects (default `["sub"]`).
    ///
    /// Approvals count names, so let it be one that an account keeps and cannot choose.
    pub fn name_at<S: Into<String>>(mut self, claim: impl IntoIterator<Item = S>) -> Self {
        self.name_at = claim.into_iter().map(Into::into).collect();
        self
    }

    /// What is put before the name, so that two issuers' accounts of one name are two principals (default nothing).
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = prefix.into();
        self
    }

    /// Where the names of roles are, as [`JwtVerifierBuilder::name_at`] (default `["roles"]`): an array of strings, or
    /// one string of words.
    pub fn roles_at<S: Into<String>>(mut self, claim: impl IntoIterator<Item = S>) -> Self {
        self.roles_at = claim.into_iter().map(Into::into).collect();
        self
    }

    /// Grants something to whoever has that role by the issuer. May be called several times for one role.
    pub fn role(mut self, name: impl Into<String>, grant: Grant) -> Self {
        self.roles.push((name.into(), grant));
        self
    }

    /// Makes the verifier, with the issuer's keys as the JSON of a key set.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option that is missing or out of range, or as in [`JwtVerifier::set_keys`].
    pub fn build(self, jwks: &str) -> Result<JwtVerifier> {
        for (what, missing) in [
            ("issuer", self.issuer.is_empty()),
            ("audience", self.audience.is_empty()),
            ("algorithms", self.algorithms.is_empty()),
            ("name_at", self.name_at.is_empty()),
            ("roles_at", self.roles_at.is_empty()),
        ] {
            if missing {
                return Err(Error::invalid(what, "must not be empty"));
            }
        }
        if self.leeway > LONGEST_LEEWAY {
            return Err(Error::invalid("leeway", format!("{:?} is above {LONGEST_LEEWAY:?}", self.leeway)));
        }
        let keys = RwLock::new(Arc::new(read_keys(jwks)?));
        Ok(JwtVerifier(Arc::new(Inner { rules: self, keys })))
    }

    /// Issuer, audience and times.
    fn check(&self, claims: &Value) -> Result<()> {
        let refuse = |reason: &str| Err(Error::unauthenticated(reason));
        if claims["iss"].as_str() != Some(&self.issuer) {
            return refuse("the token is by another issuer");
        }
        let meant = match &claims["aud"] {
            Value::Array(all) => all.iter().any(|one| one.as_str() == Some(&self.audience)),
            one => one.as_str() == Some(&self.audience),
        };
        if !meant {
            return refuse("the token is for another audience");
        }
        // Seconds since 1970, perhaps with a fraction: a double is exact to the microsecond for centuries.
        let now = self.clock.now().timestamp_micros() as f64 / 1e6;
        let leeway = self.leeway.as_secs_f64();
        let time = |claim: &str| match &claims[claim] {
            Value::Null => Ok(None),
            value => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| Error::unauthenticated(format!("the token's {claim:?} is no time"))),
        };
        match time("exp")? {
            None => return refuse("the token has no end"),
            Some(end) if now >= end + leeway => return refuse("the token has expired"),
            Some(_) => {}
        }
        if time("nbf")?.is_some_and(|start| now < start - leeway) {
            return refuse("the token is not valid yet");
        }
        if time("iat")?.is_some_and(|made| now < made - leeway) {
            return refuse("the token was made in the future");
        }
        Ok(())
    }

    fn principal(&self, claims: &Value) -> Result<Principal> {
        let find = |way: &[String]| way.iter().try_fold(claims, |at, step| at.get(step));
        let name = find(&self.name_at)
            .and_then(Value::as_str)
            .filter(|name| !name.trim().is_empty() && !name.contains(char::is_control));
        let name = name.ok_or_else(|| {
            Error::unauthenticated(format!("the token does not say whose it is: no claim {:?}", self.name_at.join(".")))
        })?;
        let said: Vec<&str> = match find(&self.roles_at) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(words)) => words.split_whitespace().collect(),
            _ => Vec::new(),
        };
        let granted = self.roles.iter().filter(|(name, _)| said.contains(&name.as_str()));
        let grants = granted.map(|(_, grant)| grant.clone()).collect();
        Ok(Principal { name: format!("{}{name}", self.name_prefix), grants })
    }
}

fn read_keys(jwks: &str) -> Result<Vec<Key>> {
    let refuse = |reason: String| Error::invalid("key set", reason);
    if jwks.len() > LONGEST_KEYS {
        return Err(refuse(format!("it is longer than {LONGEST_KEYS} bytes")));
    }
    let set: Value = serde_json::from_str(jwks).map_err(|e| refuse(format!("it is not JSON: {e}")))?;
    let Some(keys) = set["keys"].as_array() else {
        return Err(refuse("it has no array \"keys\"".to_owned()));
    };
    let mut read = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        if let Some(key) = read_key(key).map_err(|reason| refuse(format!("key {place}: {reason}")))? {
            read.push(key);
        }
    }
    Ok(read)
}

/// A key, `None` for one that is not for us.
fn read_key(key: &Value) -> Result<Option<Key>, String> {
    let of = match (key["kty"].as_str(), key["crv"].as_str()) {
        (Some("RSA"), _) => KeyType::Rsa,
        (Some("EC"), Some("P-256")) => KeyType::P256,
        (Some("EC"), Some("P-384")) => KeyType::P384,
        (Some("OKP"), Some("Ed25519")) => KeyType::Ed25519,
        _ => return Ok(None),
    };
    let jwk: Jwk = serde_json::from_value(key.clone()).map_err(|e| e.to_string())?;
    if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
        return Ok(None);
    }
    let bytes = |what: &str, text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{what:?} is not Base64"));
    let sized = |what: &str, text: &str, size: usize| match bytes(what, text)?.len() {
        found if found == size => Ok(()),
        found => Err(format!("{what:?} has {found} bytes, not {size}")),
    };
    // The library slices some of these without looking at their length.
    match (&jwk.algorithm, of) {
        (AlgorithmParameters::RSA(rsa), KeyType::Rsa) => {
            let n = bytes("n", &rsa.n)?;
            let bits = n.iter().skip_while(|byte| **byte == 0).count() * 8;
            if !(2_048..=4_096).contains(&bits) {
                return Err(format!("an RSA key of {bits} bits, not of 2048 to 4096"));
            }
            bytes("e", &rsa.e)?;
        }
        (AlgorithmParameters::EllipticCurve(ec), KeyType::P256 | KeyType::P384) => {
            let size = if ec.curve == EllipticCurve::P256 { 32 } else { 48 };
            sized("x", &ec.x, size)?;
            sized("y", &ec.y, size)?;
        }
        (AlgorithmParameters::OctetKeyPair(pair), KeyType::Ed25519) => sized("x", &pair.x, 32)?,
        _ => return Err("its parameters are those of another type".to_owned()),
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|e| e.to_string())?;
    Ok(Some(Key { id: jwk.common.key_id, of, only: jwk.common.key_algorithm, key: decoding }))
}
