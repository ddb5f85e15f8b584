use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutOptions, path::Path as ObjectPath};

use super::{ArtifactStore, PutMode, check_key, check_prefix};
use crate::{Error, Result};

/// A store over the `object_store` crate: a local directory, or any store of that crate that creates exclusively.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, ObjectArtifactStore};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// let store = ObjectArtifactStore::local(dir)?;
/// let digest = store.put_artifact("weights".into()).await?;
/// assert_eq!(store.get_artifact(&digest).await?, "weights");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// A local write goes to a file beside the target and is renamed (or linked, for exclusive create) into place, so a
/// reader or a crash never meets a part. Bytes are handed to the operating system, not forced to the disk: a power
/// failure may lose the last artifacts written, which reading then reports as missing or corrupt.
#[derive(Clone, Debug)]
pub struct ObjectArtifactStore {
    inner: Arc<dyn ObjectStore>,
    name: String,
}

impl ObjectArtifactStore {
    /// A store in a local directory, which is created if it is missing.
    ///
    /// # Errors
    /// [`Error::Backend`] if the directory cannot be created or opened.
    pub fn local(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Backend {
            backend: "local directory".to_owned(),
            operation: "open",
            key: dir.display().to_string(),
            retryable: false,
            source,
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(e.into()))?;
        let inner = object_store::local::LocalFileSystem::new_with_prefix(dir).map_err(|e| failed(e.into()))?;
        Ok(Self { inner: Arc::new(inner), name: format!("local directory {}", dir.display()) })
    }

    /// A store over any [`ObjectStore`]; `name` is what messages call it.
    pub fn new(inner: Arc<dyn ObjectStore>, name: impl Into<String>) -> Self {
        Self { inner, name: name.into() }
    }

    fn failed(&self, operation: &'static str, key: &str, error: object_store::Error) -> Error {
        use object_store::Error as E;
        match error {
            E::NotFound { .. } => Error::not_found("object", key),
            E::AlreadyExists { .. } => Error::AlreadyExists { what: "object", name: key.to_owned() },
            other => Error::Backend {
                backend: self.name.clone(),
                operation,
                key: key.to_owned(),
                retryable: matches!(other, E::Generic { .. } | E::JoinError { .. }),
                source: other.into(),
            },
        }
    }
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
            PutMode::Create => object_store::PutMode::Create,
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

    async fn delete(&self, key: &str) -> Result<()> {
        match self.inner.delete(&path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key, error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        check_prefix(prefix)?;
        let under = match prefix.strip_suffix('/') {
            Some(folder) => Some(path(folder)?),
            None => None,
        };
        let found = self.inner.list(under.as_ref()).map_ok(|meta| meta.location.to_string());
        let mut keys: Vec<String> = found.try_collect().await.map_err(|e| self.failed("list", prefix, e))?;
        keys.sort_unstable();
        Ok(keys)
    }
}
