use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutOptions, path::Path as ObjectPath};

use super::{ArtifactStore, ObjectMeta, PutMode, check_key, check_prefix, clamp};
use crate::{Error, Result};

/// A store over the `object_store` crate: any store of that crate that creates exclusively. Those of cloud providers have
/// options of their own, behind the features `s3`, `gcs` and `azure`.
///
/// ```
/// # futures::executor::block_on(async {
/// use std::sync::Arc;
/// use mlops_core::store::{ArtifactStoreExt, ObjectArtifactStore};
/// let store = ObjectArtifactStore::new(Arc::new(object_store::memory::InMemory::new()), "memory");
/// let digest = store.put_artifact("weights".into()).await?;
/// assert_eq!(store.get_artifact(&digest).await?, "weights");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct ObjectArtifactStore {
    inner: Arc<dyn ObjectStore>,
    name: String,
}

impl fmt::Debug for ObjectArtifactStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is inside may show its credentials.
        f.debug_struct("ObjectArtifactStore").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ObjectArtifactStore {
    /// A store over any [`ObjectStore`]; `name` is what messages call it.
    pub fn new(inner: Arc<dyn ObjectStore>, name: impl Into<String>) -> Self {
        Self { inner, name: name.into() }
    }

    fn failed(&self, operation: &'static str, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as E;
        let status = status(&error);
        // S3 says so when creates of one key meet, and to all of them: nobody knows who wins.
        let undecided = status == Some(409) && said(&error, "ConditionalRequestConflict").is_some();
        match error {
            E::NotFound { .. } => Error::not_found("object", key),
            E::AlreadyExists { .. } if !undecided => Error::AlreadyExists { what: "object", name: key.to_owned() },
            other => {
                let passing = match status {
                    Some(status) => status >= 500 || matches!(status, 408 | 429) || undecided,
                    // A redirect is to another region, which is an option.
                    None if said(&other, "Received redirect").is_some() => false,
                    None => matches!(other, E::Generic { .. } | E::JoinError { .. }),
                };
                Error::Backend {
                    backend: self.name.clone(),
                    operation,
                    key: key.to_owned(),
                    retryable: passing,
                    source: other.into(),
                }
            }
        }
    }
}

/// What follows `words` in what an error or one of its causes says.
fn said(error: &object_store::Error, words: &str) -> Option<String> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some((_, rest)) = error.to_string().split_once(words) {
            return Some(rest.to_owned());
        }
        cause = error.source();
    }
    None
}

/// The status of the server's answer, which the crate tells in words only. No key can hold these words.
fn status(error: &object_store::Error) -> Option<u16> {
    said(error, "non-2xx status code: ")?.get(..3)?.parse().ok()
}

impl fmt::Display for ObjectArtifactStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn path(key: &str) -> Result<ObjectPath> {
    check_key(key)?;
    ObjectPath::parse(key).map_err(|e| Error::invalid("key", e))
}

#[async_trait]
impl ArtifactStore for ObjectArtifactStore {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        let mode = match mode {
            PutMode::Create | PutMode::Stage => object_store::PutMode::Create,
            PutMode::Overwrite => object_store::PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let written = self.inner.put_opts(&path(key)?, data.into(), options).await;
        written.map(drop).map_err(|e| self.failed("write", key, e))
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let found = self.inner.get(&path(key)?).await.map_err(|e| self.failed("read", key, e))?;
        found.bytes().await.map_err(|e| self.failed("read", key, e))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let location = path(key)?;
        if range.is_empty() {
            clamp(&range, self.head(key).await?.bytes)?;
            return Ok(Bytes::new());
        }
        match self.inner.get_range(&location, range.clone()).await {
            Ok(data) => Ok(data),
            // Stores differ in what they say of a range that goes past the end; the size decides.
            Err(error) => match self.head(key).await {
                Ok(meta) => {
                    let wanted = clamp(&range, meta.bytes)?;
                    if wanted == range {
                        return Err(self.failed("read", key, error));
                    }
                    if wanted.is_empty() {
                        return Ok(Bytes::new());
                    }
                    self.inner.get_range(&location, wanted).await.map_err(|e| self.failed("read", key, e))
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let meta = self.inner.head(&path(key)?).await.map_err(|e| self.failed("look up", key, e))?;
        // A prefixed store tells the whole location.
        Ok(ObjectMeta { key: key.to_owned(), ..describe(meta) })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.inner.delete(&path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key, error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let under = match prefix.strip_suffix('/') {
            Some(folder) => Some(path(folder)?),
            None => None,
        };
        let found = self.inner.list(under.as_ref()).map_ok(describe);
        let mut found: Vec<ObjectMeta> = found.try_collect().await.map_err(|e| self.failed("list", prefix, e))?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn describe(meta: object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta { key: meta.location.to_string(), bytes: meta.size, modified: meta.last_modified }
}
