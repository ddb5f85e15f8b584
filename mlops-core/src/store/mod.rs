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

mod blob;
mod cache;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod cloud;
#[cfg(feature = "encryption")]
#[cfg_attr(docsrs, doc(cfg(feature = "encryption")))]
mod encrypted;
mod gc;
mod lease;
#[cfg(feature = "local")]
#[cfg_attr(docsrs, doc(cfg(feature = "local")))]
mod local;
mod memory;
mod metered;
#[cfg(feature = "object")]
#[cfg_attr(docsrs, doc(cfg(feature = "object")))]
mod object;
mod retry;

use std::fmt::{Debug, Display};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};

#[cfg(feature = "datasets")]
pub(crate) use self::blob::is_whole;
pub use self::blob::{Blob, BlobReader, BlobWriter, chunks_key};
pub use self::cache::{CacheStats, CacheStore};
#[cfg(feature = "azure")]
pub use self::cloud::AzureOptions;
#[cfg(feature = "gcs")]
pub use self::cloud::GcsOptions;
#[cfg(feature = "s3")]
pub use self::cloud::S3Options;
#[cfg(feature = "encryption")]
pub use self::encrypted::{EncryptedStore, EncryptionKey, KeyProvider, KeyRing};
#[cfg(feature = "datasets")]
pub(crate) use self::gc::alone;
pub use self::gc::{Collected, Collector, CollectorBuilder, Roots, Usage, usage};
pub use self::lease::{Lease, LeaseBuilder};
#[cfg(feature = "local")]
pub use self::local::LocalStore;
pub use self::memory::MemoryStore;
pub use self::metered::{MeteredStore, Metrics, Operation};
#[cfg(feature = "object")]
pub use self::object::ObjectArtifactStore;
pub use self::retry::{RetryStore, RetryStoreBuilder};
use crate::{Clock as _, Digest, Error, Result, SystemClock, Timestamp};

/// What `put_opts` does when the key exists, and when the object is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutMode {
    /// Fail with [`Error::AlreadyExists`].
    Create,
    /// Replace the object.
    Overwrite,
    /// As `Create`, but durable only once [`ArtifactStore::sync`] has returned: for many objects that are worth nothing
    /// until a last one names them.
    Stage,
}

/// What a store knows of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its size in bytes, as `get` returns them.
    pub bytes: u64,
    /// When it was last written, by the store's clock.
    pub modified: Timestamp,
}

/// Byte storage for artifacts: the minimum a backend provides. Callers use [`ArtifactStoreExt`].
///
/// # Contract
/// - **Atomic.** A reader sees a whole object or [`Error::NotFound`], never a part.
/// - **Exclusive create.** Of N concurrent creates of a key, N - 1 get [`Error::AlreadyExists`].
/// - **Durable.** What `put_opts` acknowledged survives a kill; whether it survives a power failure is the backend's to
///   say. [`PutMode::Stage`] puts that off until the next `sync`, which covers what this handle and its clones staged.
/// - **Order.** `list` yields keys in ascending byte order, each once.
/// - **Ranges** are cut at the object's end; a start behind the end is [`Error::InvalidInput`].
/// - **Idempotent delete.** Deleting a missing key is `Ok(())`.
/// - **Missing** objects are [`Error::NotFound`] to `get`, `get_range` and `head`.
/// - **Keys** pass [`check_key`]; any other is [`Error::InvalidInput`]. A key is either an object or a folder of others;
///   whether a store takes both is unspecified.
/// - **Cancel safety.** Dropping a `put_opts` future leaves the old object or the new one.
/// - **Clones** and pointers share one store. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait ArtifactStore: Debug + Display + Send + Sync + 'static {
    /// Writes `data` under `key`.
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()>;

    /// Reads the object under `key`.
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// Reads bytes `range` of the object under `key`.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Describes the object under `key`.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;

    /// Removes the object under `key`, if there is one.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The objects whose keys start with `prefix`, which ends at a segment (`datasets/prices/`) or is empty.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>>;

    /// Makes durable what was staged.
    async fn sync(&self) -> Result<()>;
}

/// Conveniences for callers. Implemented for every store; never implement it by hand.
pub trait ArtifactStoreExt: ArtifactStore {
    /// Writes `data`, replacing any object under `key`.
    fn put(&self, key: &str, data: Bytes) -> impl Future<Output = Result<()>> + Send {
        async move { self.put_opts(key, data, PutMode::Overwrite).await }
    }

    /// Writes `data` under its digest and returns that. Writing the same bytes again changes nothing, unless those that
    /// are there are damaged: then it mends them.
    ///
    /// For bytes that fit in memory; [`put_blob`](Self::put_blob) takes any amount, in pieces.
    ///
    /// Until a row names them, they are garbage that a [`Collector`] spares for its grace. Equal bytes that are there
    /// and older than twelve hours are rewritten for that, so whoever has no [`Lease`] has twelve hours to name them.
    fn put_artifact(&self, data: Bytes) -> impl Future<Output = Result<Digest>> + Send {
        async move {
            let digest = Digest::of(&data);
            put_chunk(self, digest, data, PutMode::Create, false).await?;
            Ok(digest)
        }
    }

    /// Reads the bytes with that digest, however they were written, and checks that they have it.
    fn get_artifact(&self, digest: &Digest) -> impl Future<Output = Result<Bytes>> + Send {
        async move {
            match self.get(&artifact_key(digest)).await {
                Err(Error::NotFound { .. }) => blob::get_whole(self, digest).await,
                data => self.verified(data?, digest),
            }
        }
    }

    /// Writes bytes that come in pieces, in content-defined chunks, and never holds more than about 16 MiB of them.
    ///
    /// ```
    /// # futures::executor::block_on(async {
    /// use futures::{TryStreamExt, stream};
    /// use mlops_core::store::{ArtifactStoreExt, MemoryStore};
    /// let store = MemoryStore::default();
    /// let blob = store.put_blob(stream::iter(["wei".into(), "ghts".into()].map(Ok))).await?;
    /// assert_eq!((blob.bytes, store.get_artifact(&blob.digest).await?.as_ref()), (7, b"weights".as_ref()));
    /// # Ok::<(), mlops_core::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// The first error of `pieces`, or of the store. Chunks written by then stay, as garbage.
    fn put_blob(&self, pieces: impl Stream<Item = Result<Bytes>> + Send) -> impl Future<Output = Result<Blob>> + Send {
        async move {
            let mut writer = BlobWriter::new(self);
            let mut pieces = pin!(pieces);
            while let Some(piece) = pieces.next().await {
                writer.write(piece?).await?;
            }
            let blob = writer.finish().await?;
            self.sync().await?;
            Ok(blob)
        }
    }

    /// Finds the artifact with that digest, so that it can be read in pieces or in part.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no such artifact is stored.
    fn open_blob(&self, digest: &Digest) -> impl Future<Output = Result<BlobReader<&Self>>> + Send {
        async move { BlobReader::open(self, digest).await }
    }

    /// `data`, if it has that digest.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it has another.
    #[doc(hidden)]
    fn verified(&self, data: Bytes, digest: &Digest) -> Result<Bytes> {
        let found = Digest::of(&data);
        if found == *digest {
            Ok(data)
        } else {
            Err(Error::Corrupt { what: format!("artifact in {self}"), expected: *digest, found })
        }
    }
}

/// Writes an artifact, and mends one that is there and damaged. Whether it was missing or damaged.
///
/// One that is there and old enough to be collected soon is made young, unless a lease keeps it.
async fn put_chunk<S: ArtifactStore + ?Sized>(
    store: &S,
    digest: Digest,
    data: Bytes,
    mode: PutMode,
    leased: bool,
) -> Result<bool> {
    let key = artifact_key(&digest);
    match store.put_opts(&key, data.clone(), mode).await {
        Err(Error::AlreadyExists { .. }) => match store.get(&key).await {
            Ok(there) if there == data => {
                if !leased {
                    keep_young(store, &key, &data).await?;
                }
                Ok(false)
            }
            // Deleted, or read as damaged by a layer: written anew in either case.
            Ok(_) | Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {
                store.put_opts(&key, data, PutMode::Overwrite).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        },
        written => written.map(|()| true),
    }
}

/// Rewrites an object that is older than half of the usual grace, for a writer without a lease.
async fn keep_young<S: ArtifactStore + ?Sized>(store: &S, key: &str, data: &Bytes) -> Result<()> {
    if is_old(store, key).await? { lease::refresh(store, key, data).await } else { Ok(()) }
}

async fn is_old<S: ArtifactStore + ?Sized>(store: &S, key: &str) -> Result<bool> {
    match store.head(key).await {
        Ok(meta) => Ok((SystemClock.now() - meta.modified).to_std().is_ok_and(|age| age >= gc::GRACE / 2)),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Rewrites what is old of an artifact that is there, so that whoever is about to name it has as long as after writing it.
pub(crate) async fn keep_blob_young<S: ArtifactStore + ?Sized>(store: &S, digest: &Digest) -> Result<()> {
    let blob = store.open_blob(digest).await?;
    for chunk in blob.chunks() {
        let key = artifact_key(&chunk);
        if is_old(store, &key).await? {
            lease::refresh(store, &key, &store.get_artifact(&chunk).await?).await?;
        }
    }
    let key = chunks_key(digest);
    match store.get(&key).await {
        Err(Error::NotFound { .. }) => Ok(()),
        list => keep_young(store, &key, &list?).await,
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

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        (**self).get_range(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        (**self).head(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        (**self).list(prefix).await
    }

    async fn sync(&self) -> Result<()> {
        (**self).sync().await
    }
}

/// The part of `range` that an object of `bytes` bytes has.
fn clamp(range: &Range<u64>, bytes: u64) -> Result<Range<u64>> {
    if range.start > bytes || range.end < range.start {
        let reason = format!("{}..{} does not start within an object of {bytes} bytes", range.start, range.end);
        return Err(Error::invalid("range", reason));
    }
    Ok(range.start..range.end.min(bytes))
}

/// Runs file operations on tokio's blocking pool when inside a tokio runtime, else in place.
#[cfg(any(feature = "local", feature = "datasets"))]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return work() };
    runtime.spawn_blocking(work).await.map_err(|error| Error::Backend {
        backend: "blocking pool".to_owned(),
        operation: "run",
        key: String::new(),
        retryable: false,
        source: error.into(),
    })?
}

/// Lets time pass: on tokio's timer when inside a tokio runtime, else in place.
async fn pause(time: Duration) {
    if time.is_zero() {
        let mut resumed = false;
        return std::future::poll_fn(|context| {
            if std::mem::replace(&mut resumed, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
    #[cfg(any(feature = "local", feature = "object", feature = "datasets", feature = "lineage-http"))]
    if tokio::runtime::Handle::try_current().is_ok() {
        return tokio::time::sleep(time).await;
    }
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "local", feature = "object", feature = "datasets", feature = "lineage-http"))]
    #[tokio::test]
    async fn a_pause_lets_other_work_of_the_runtime_go_on() {
        let other = tokio::spawn(async {});
        pause(Duration::from_millis(50)).await;
        assert!(other.is_finished(), "it stood still meanwhile");
    }

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
