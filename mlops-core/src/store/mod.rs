//! Where bytes live: a small trait for backends, verified content addressing for callers.
//!
//! ```
//! # futures::executor::block_on(async {
//! use mlops_core::store::{ArtifactStoreExt, MemoryStore};
//! let store = MemoryStore::default();
//! let digest = store.put_artifact("weights".into()).await?;
//! assert_eq!(store.get_artifact(&digest).await?, "weights");
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```
//!
//! # Rules for every store
//! - Artifacts are written under their digest and checked against it when read: damaged bytes are
//!   [`Error::Corrupt`], never an answer.
//! - A key that is not plain (`..`, an empty segment, a leading slash, a control character) is [`Error::InvalidInput`]
//!   before anything is touched.

mod memory;
#[cfg(feature = "local")]
#[cfg_attr(docsrs, doc(cfg(feature = "local")))]
mod object;

use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::memory::MemoryStore;
#[cfg(feature = "local")]
pub use self::object::ObjectArtifactStore;
use crate::{Digest, Error, Result};

/// What `put_opts` does when the key exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutMode {
    /// Fail with [`Error::AlreadyExists`].
    Create,
    /// Replace the object.
    Overwrite,
}

/// Byte storage for artifacts: the minimum a backend provides. Callers use [`ArtifactStoreExt`].
///
/// # Contract
/// - **Atomic.** A reader sees a whole object or [`Error::NotFound`], never a part.
/// - **Exclusive create.** Of N concurrent creates of a key, N - 1 get [`Error::AlreadyExists`].
/// - **Order.** `list` yields keys in ascending byte order, each once.
/// - **Idempotent delete.** Deleting a missing key is `Ok(())`.
/// - **Keys** pass [`check_key`]; any other is [`Error::InvalidInput`].
/// - **Cancel safety.** Dropping a `put_opts` future leaves the old object or the new one.
/// - **Clones** and pointers share one store. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait ArtifactStore: Debug + Display + Send + Sync + 'static {
    /// Writes `data` under `key`.
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()>;

    /// Reads the object under `key`.
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// Removes the object under `key`, if there is one.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The keys that start with `prefix`, which ends at a segment (`datasets/prices/`) or is empty.
    async fn list(&self, prefix: &str) -> Result<Vec<String>>;
}

/// Conveniences for callers. Implemented for every store; never implement it by hand.
pub trait ArtifactStoreExt: ArtifactStore {
    /// Writes `data`, replacing any object under `key`.
    fn put(&self, key: &str, data: Bytes) -> impl Future<Output = Result<()>> + Send {
        async move { self.put_opts(key, data, PutMode::Overwrite).await }
    }

    /// Writes `data` under its digest and returns that. Writing the same bytes again changes nothing, unless those that
    /// are there are damaged: then it mends them.
    fn put_artifact(&self, data: Bytes) -> impl Future<Output = Result<Digest>> + Send {
        async move {
            let digest = Digest::of(&data);
            let key = artifact_key(&digest);
            match self.put_opts(&key, data.clone(), PutMode::Create).await {
                Err(Error::AlreadyExists { .. }) if self.get(&key).await? != data => {
                    self.put_opts(&key, data, PutMode::Overwrite).await?;
                }
                Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
            Ok(digest)
        }
    }

    /// Reads the bytes with that digest, and checks that they have it.
    fn get_artifact(&self, digest: &Digest) -> impl Future<Output = Result<Bytes>> + Send {
        async move {
            let data = match self.get(&artifact_key(digest)).await {
                Err(Error::NotFound { .. }) => return Err(Error::not_found("artifact", digest)),
                other => other?,
            };
            let found = Digest::of(&data);
            if found == *digest {
                Ok(data)
            } else {
                Err(Error::Corrupt { what: format!("artifact in {self}"), expected: *digest, found })
            }
        }
    }
}

impl<S: ArtifactStore + ?Sized> ArtifactStoreExt for S {}

/// The key an artifact is stored under: `artifacts/ab/abcd…`, spread over 256 folders.
#[must_use]
pub fn artifact_key(digest: &Digest) -> String {
    let hex = digest.to_string();
    format!("artifacts/{}/{hex}", &hex[..2])
}

/// Checks a key: one or more segments joined by `/`, at most 1,024 bytes in all, each segment made of
/// `A-Z a-z 0-9 . _ - = , @ + ~`, and neither empty, `.` nor `..`.
///
/// # Errors
/// [`Error::InvalidInput`] quoting the key.
pub fn check_key(key: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-=,@+~".contains(&b);
    let plain = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(legal);
    if key.len() <= 1_024 && key.split('/').all(plain) {
        return Ok(());
    }
    let shown: String = key.chars().take(80).collect();
    Err(Error::invalid(
        "key",
        format!("{shown:?} is not a relative path of at most 1024 letters, digits, '/' or '._-=,@+~'"),
    ))
}

/// Checks a prefix for `list`: empty, or a key followed by `/`.
///
/// # Errors
/// [`Error::InvalidInput`] quoting the prefix.
pub fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        _ if prefix.is_empty() => Ok(()),
        Some(key) => check_key(key),
        None => Err(Error::invalid("prefix", format!("{prefix:?} must be empty or end with '/'"))),
    }
}

/// Checks a name that becomes part of a key and is shown to people: 1 to 250 of `A-Z a-z 0-9 . _ -`, not starting with
/// a dot.
///
/// # Errors
/// [`Error::InvalidInput`] naming `what` it is.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=250).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::invalid(
        what,
        format!("{shown:?} must be 1 to 250 letters, digits, '.', '_' or '-', not starting with '.'"),
    ))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a forgotten forward would use a default in silence
impl<S: ArtifactStore + ?Sized> ArtifactStore for Arc<S> {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        (**self).put_opts(key, data, mode).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        (**self).get(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        (**self).list(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_escape_are_refused() {
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a b", "a\n", "ä", &"x".repeat(1_025)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.json", "a/..b", "a/b=c,d@e"] {
            check_key(good).unwrap();
        }
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", ".hidden", "..", "a/b", "a b", "naïve", &"x".repeat(251)] {
            assert!(check_name("dataset name", bad).is_err(), "{bad:?}");
        }
        check_name("dataset name", "elec2.half-hourly_v1").unwrap();
    }
}
