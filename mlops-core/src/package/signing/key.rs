use std::fmt;

use async_trait::async_trait;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use sha2::{Digest as _, Sha256};

use super::statement::hex;
use crate::{Error, Result};

/// A public key on P-256 or P-384.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    curve: Curve,
    id: String,
    pem: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Curve {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Reads a key from PEM text: `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no key on P-256 or P-384.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let p256 = || p256::ecdsa::VerifyingKey::from_public_key_pem(pem).map(Curve::P256);
        let p384 = |_| p384::ecdsa::VerifyingKey::from_public_key_pem(pem).map(Curve::P384);
        let curve = p256().or_else(p384);
        Self::new(curve.map_err(|e| {
            Error::invalid("public key", format!("is no PEM text of a public key on P-256 or P-384: {e}"))
        })?)
    }

    fn new(curve: Curve) -> Result<Self> {
        let pem = match &curve {
            Curve::P256(key) => key.to_public_key_pem(LineEnding::LF),
            Curve::P384(key) => key.to_public_key_pem(LineEnding::LF),
        };
        let pem = pem.map_err(|e| Error::invalid("public key", e))?;
        Ok(Self { id: hex(&Sha256::digest(&pem)), curve, pem })
    }

    /// What a bundle names the key by: the SHA-256 of its PEM text, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Whether `signature`, in DER, is this key's over `message`.
    pub(super) fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.curve {
            Curve::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
            Curve::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// Who signs: a [`SigningKey`], or a key that a service keeps.
///
/// # Contract
/// - **Form.** `sign` gives the ECDSA signature over `message` in DER, hashed with SHA-256 on P-256 and SHA-384 on P-384.
/// - **Key.** It is made with the private key of `public_key`. What is not is an error before it is stored.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public key of what signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message`.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// A private key in memory. It is wiped when it is dropped.
pub struct SigningKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl SigningKey {
    /// Reads a key from PEM text in PKCS#8 form: `-----BEGIN PRIVATE KEY-----`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no such key on P-256 or P-384.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let p256 = || p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map(Secret::P256);
        let p384 = |_| p384::ecdsa::SigningKey::from_pkcs8_pem(pem).map(Secret::P384);
        let secret = p256().or_else(p384).map_err(|e| {
            let reason = format!(
                "is no PEM text of a PKCS#8 key on P-256 or P-384 ({e}); \
                 `openssl pkcs8 -topk8 -nocrypt` makes one of other forms"
            );
            Error::invalid("private key", reason)
        })?;
        let public = match &secret {
            Secret::P256(key) => Curve::P256(*key.verifying_key()),
            Secret::P384(key) => Curve::P384(*key.verifying_key()),
        };
        Ok(Self { secret, public: PublicKey::new(public)? })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(***, {})", self.public.id)
    }
}

#[async_trait]
impl Signer for SigningKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(match &self.secret {
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
            Secret::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).map_err(|e| failed(&e))?;
                signature.to_der().as_bytes().to_vec()
            }
        })
    }
}

fn failed(error: &impl fmt::Display) -> Error {
    Error::invalid("private key", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_none_are_refused() {
        for bad in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", include_str!("key.rs")] {
            assert!(PublicKey::from_pem(bad).is_err());
            assert!(SigningKey::from_pem(bad).unwrap_err().to_string().contains("openssl pkcs8 -topk8"));
        }
    }
}
