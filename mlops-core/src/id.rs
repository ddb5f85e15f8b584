//! Names of things that happen: UUID v7, so that they sort by time.
//!
//! An id is either new ([`RunId::new`]) or *derived* from what it stands for ([`RunId::derived`]). A derived id is the
//! same each time it is computed, so a call repeated after a crash names the same thing and can be recognised.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Digest, Error, Timestamp};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id for something that happens at `at`.
            #[must_use]
            pub fn new(at: Timestamp) -> Self {
                let random = Uuid::new_v4();
                Self(v7(at, random.as_bytes()))
            }

            /// The id of the thing that happens at `at` and is described by `seed`: equal input, equal id.
            #[must_use]
            pub fn derived(at: Timestamp, seed: &[u8]) -> Self {
                let mut hasher = crate::digest::Hasher::default();
                let digest: Digest = hasher.field($what.as_bytes()).field(seed).finish();
                Self(v7(at, digest.as_bytes()))
            }

            /// The id made of this UUID, whatever its version.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Uuid::parse_str(text).map(Self).map_err(|e| Error::invalid(concat!($what, " id"), e))
            }
        }
    )+ };
}

ids! {
    /// Names an experiment: a group of runs.
    ExperimentId = "experiment";
    /// Names a run: one execution that was tracked.
    RunId = "run";
    /// Names one row that was predicted; labels come back under it.
    PredictionId = "prediction";
    /// Names one request to move an alias, with its approvals and its outcome.
    PromotionId = "promotion";
    /// Names a rollout: one version's way from shadow to champion or back.
    RolloutId = "rollout";
    /// Names an alert that was raised.
    AlertId = "alert";
    /// Names an API token, without its secret.
    TokenId = "token";
    /// Names a webhook: an address that is told what happens.
    WebhookId = "webhook";
    /// Names one thing told to one webhook, however often it was tried.
    DeliveryId = "webhook delivery";
}

/// UUID v7: 48 bits of milliseconds, then bits taken from `entropy` (at least ten bytes).
fn v7(at: Timestamp, entropy: &[u8]) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    let mut tail = [0; 10];
    tail.copy_from_slice(&entropy[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_repeat_and_differ_by_kind_time_and_seed() {
        let at: Timestamp = "1997-01-01T00:00:00Z".parse().unwrap();
        let later: Timestamp = "1997-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(RunId::derived(at, b"a"), RunId::derived(at, b"a"));
        assert_ne!(RunId::derived(at, b"a"), RunId::derived(at, b"b"));
        assert_ne!(RunId::derived(at, b"a"), RunId::derived(later, b"a"));
        assert_ne!(RunId::derived(at, b"a").as_uuid(), PromotionId::derived(at, b"a").as_uuid());
        assert_eq!(RunId::derived(at, b"a").as_uuid().get_version_num(), 7);
        assert!(RunId::derived(at, b"z") < RunId::derived(later, b"a"));
    }

    #[test]
    fn new_ids_are_distinct() {
        let at: Timestamp = "1997-01-01T00:00:00Z".parse().unwrap();
        assert_ne!(RunId::new(at), RunId::new(at));
    }
}
