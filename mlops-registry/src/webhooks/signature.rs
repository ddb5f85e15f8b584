//! MLflow's signature of a delivery, which follows the Standard Webhooks convention.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mlops_core::{Error, Result, Timestamp};
use sha2::Sha256;

/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "X-MLflow-Signature";
/// The header with the time of the attempt, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "X-MLflow-Timestamp";
/// The header with the id of the delivery, the same in each attempt at it.
pub const DELIVERY_ID_HEADER: &str = "X-MLflow-Delivery-Id";

/// Longest secret, in bytes.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
const LONGEST: usize = 1_000;

/// What deliveries are signed with, known to both sides. `Debug` shows `***`.
///
/// ```
/// use std::time::Duration;
/// use mlops_registry::webhooks::{Received, Secret};
/// let secret = Secret::new("s3cret");
/// assert_eq!(format!("{secret:?}"), "***");
/// // What came: three headers and the body, as it came.
/// let received = Received {
///     delivery_id: "d-1",
///     timestamp: "1700000000",
///     signature: "v1,ffAlUwnIkZyROfdeDakYdx/QELuJ1gjEmzbfJrcVam0=",
///     payload: b"{}",
/// };
/// let now = mlops_core::clock::from_micros(1_700_000_060 * 1_000_000);
/// secret.verify(&received, now, Duration::from_secs(300))?;
/// assert!(Secret::new("another").verify(&received, now, Duration::from_secs(300)).is_err());
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret made of this text: 1 to 1,000 bytes, from a source of randomness.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.len() {
            1..=LONGEST if !self.0.contains('\0') => Ok(()),
            1..=LONGEST => Err(Error::invalid("webhook secret", "must not contain the character U+0000")),
            bytes => Err(Error::invalid("webhook secret", format!("has {bytes} bytes, which is not in 1..={LONGEST}"))),
        }
    }

    fn mac(&self, delivery_id: &str, timestamp: &str, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(self.0.as_bytes()).expect("HMAC takes a key of any length");
        for part in [delivery_id.as_bytes(), b".", timestamp.as_bytes(), b".", payload] {
            mac.update(part);
        }
        mac
    }

    /// The signature of a delivery: `v1,` and base64 of `HMAC-SHA256(secret, "{delivery_id}.{timestamp}.{payload}")`.
    #[must_use]
    pub fn sign(&self, delivery_id: &str, timestamp: &str, payload: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(delivery_id, timestamp, payload).finalize().into_bytes()))
    }

    /// Checks that a delivery was signed with this secret, in the same time for every signature, and at most `tolerance`
    /// before or after `now`: what was overheard is of no use later. Within that time, know a repeated delivery by its id.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], with the reason.
    pub fn verify(&self, received: &Received<'_>, now: Timestamp, tolerance: Duration) -> Result<()> {
        let refuse = |reason: &str| Err(Error::unauthenticated(reason));
        let Received { delivery_id, timestamp, signature, payload } = *received;
        let given = signature.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
        let Some(given) = given else { return refuse("the signature is not `v1,` and base64") };
        if self.mac(delivery_id, timestamp, payload).verify_slice(&given).is_err() {
            return refuse("the signature is not that of this secret, id, time and body");
        }
        let Ok(at) = timestamp.parse::<i64>() else { return refuse("the timestamp is not a number of seconds") };
        if at.abs_diff(now.timestamp()) > tolerance.as_secs() {
            return refuse("the delivery is too old, or from the future");
        }
        Ok(())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a receiver got, unchecked: three headers and the body.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The header [`DELIVERY_ID_HEADER`].
    pub delivery_id: &'a str,
    /// The header [`TIMESTAMP_HEADER`].
    pub timestamp: &'a str,
    /// The header [`SIGNATURE_HEADER`].
    pub signature: &'a str,
    /// The body, byte for byte.
    pub payload: &'a [u8],
}

#[cfg(test)]
mod tests {
    use mlops_core::clock::from_micros;

    use super::*;

    #[test]
    fn the_signature_is_mlflow_s() {
        let cases: Vec<[String; 5]> =
            serde_json::from_str(include_str!("../../tests/golden/webhook_signatures.json")).unwrap();
        assert_eq!(cases.len(), 3);
        for [secret, id, at, payload, expected] in &cases {
            assert_eq!(Secret::new(secret).sign(id, at, payload.as_bytes()), *expected);
        }
    }

    #[test]
    fn what_was_changed_or_is_old_is_refused() {
        let secret = Secret::new("s");
        let signature = secret.sign("id", "1000", b"body");
        let good = Received { delivery_id: "id", timestamp: "1000", signature: &signature, payload: b"body" };
        let tolerance = Duration::from_secs(300);
        let at = |seconds: i64| from_micros(seconds * 1_000_000);
        for now in [700, 1_000, 1_300] {
            secret.verify(&good, at(now), tolerance).unwrap();
        }
        for now in [699, 1_301, 0, i64::from(u32::MAX)] {
            assert!(secret.verify(&good, at(now), tolerance).unwrap_err().to_string().contains("too old"), "{now}");
        }
        let odd = secret.sign("id", "soon", b"body");
        for bad in [
            Received { payload: b"bodY", ..good },
            Received { delivery_id: "ie", ..good },
            Received { timestamp: "1001", ..good },
            Received { timestamp: "soon", signature: &odd, ..good },
            Received { signature: &signature[3..], ..good },
            Received { signature: "v1,", ..good },
            Received { signature: "v1,????", ..good },
            Received { signature: "", ..good },
        ] {
            let error = secret.verify(&bad, at(1_000), tolerance).unwrap_err();
            assert!(matches!(error, Error::Unauthenticated { .. }), "{bad:?}: {error}");
        }
        assert!(Secret::new("t").verify(&good, at(1_000), tolerance).is_err());
    }
}
