use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ArtifactStore, ObjectMeta, PutMode, check_key, check_prefix, clamp};
use crate::{Clock as _, Error, Result, SystemClock, Timestamp};

/// A store in memory: the reference implementation. Clones share their contents.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<BTreeMap<String, (Bytes, Timestamp)>>>);

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl ArtifactStore for MemoryStore {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        check_key(key)?;
        let mut objects = self.objects();
        if mode != PutMode::Overwrite && objects.contains_key(key) {
            return Err(Error::AlreadyExists { what: "object", name: key.to_owned() });
        }
        objects.insert(key.to_owned(), (data, SystemClock.now()));
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        check_key(key)?;
        self.objects().get(key).map(|(data, _)| data.clone()).ok_or_else(|| Error::not_found("object", key))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let data = self.get(key).await?;
        let range = clamp(&range, data.len() as u64)?;
        // Both ends are at most the length, which is a `usize`.
        Ok(data.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        check_key(key)?;
        let objects = self.objects();
        let (data, modified) = objects.get(key).ok_or_else(|| Error::not_found("object", key))?;
        Ok(ObjectMeta { key: key.to_owned(), bytes: data.len() as u64, modified: *modified })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.objects().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let objects = self.objects();
        let under = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let describe = |(key, (data, modified)): (&String, &(Bytes, Timestamp))| ObjectMeta {
            key: key.clone(),
            bytes: data.len() as u64,
            modified: *modified,
        };
        Ok(under.map(describe).collect())
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}
