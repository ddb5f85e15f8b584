use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use super::{ArtifactStore, ArtifactStoreExt, ObjectMeta, PutMode, clamp};
use crate::{Digest, Result};

/// What is cached: artifacts, and no other key. Only their bytes can never change, and only they can be checked.
const CACHED: &str = "artifacts/";

/// A layer that keeps the artifacts that were read last in another store, usually a [`LocalStore`](super::LocalStore) near by.
///
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::store::{ArtifactStoreExt, CacheStore, MemoryStore};
/// let far = MemoryStore::default();
/// let digest = far.put_artifact("weights".into()).await?;
/// let store = CacheStore::open(far, MemoryStore::default(), 1 << 30).await?;
/// for _ in 0..3 {
///     assert_eq!(store.get_artifact(&digest).await?, "weights");
/// }
/// assert_eq!((store.stats().hits, store.stats().misses), (2, 1));
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// - What is served from the cache has the digest it is asked for; an entry that does not is fetched again. Damage to the
///   store behind, or a delete there by somebody else, is not noticed while an entry lasts.
/// - The least recently read entries make room before a new one is written, so the cache never holds more than the limit.
/// - Readers of one artifact that come together fetch it once. A range is served from an entry, else from behind.
/// - A cache that fails is no error: the store behind answers. Writes, lists and all other keys go behind.
/// - One process at a time per cache. After a restart it knows its entries again, by their time of writing.
///
/// The index takes about 300 bytes of memory for each entry.
#[derive(Debug)]
pub struct CacheStore<S, C> {
    inner: S,
    cache: C,
    state: Arc<State>,
}

impl<S: Clone, C: Clone> Clone for CacheStore<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), cache: self.cache.clone(), state: Arc::clone(&self.state) }
    }
}

#[derive(Debug, Default)]
struct State {
    limit: u64,
    index: Mutex<Index>,
    busy: Mutex<HashMap<String, Arc<futures::lock::Mutex<()>>>>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
}

/// The entries, by key and by turn of their last use.
#[derive(Debug, Default)]
struct Index {
    entries: HashMap<Arc<str>, (u64, u64)>,
    turns: BTreeMap<u64, Arc<str>>,
    turn: u64,
    bytes: u64,
    /// What is no entry any more and has to be deleted: a call that is cancelled leaves that to the next.
    leaving: BTreeSet<Arc<str>>,
}

impl Index {
    fn take(&mut self, key: &str) {
        if let Some((turn, bytes)) = self.entries.remove(key) {
            self.turns.remove(&turn);
            self.bytes -= bytes;
        }
    }

    fn remove(&mut self, key: &str) {
        self.take(key);
        self.leaving.insert(key.into());
    }

    fn insert(&mut self, key: &str, bytes: u64) {
        self.take(key);
        self.leaving.remove(key);
        let key: Arc<str> = key.into();
        self.turn += 1;
        self.entries.insert(Arc::clone(&key), (self.turn, bytes));
        self.turns.insert(self.turn, key);
        self.bytes += bytes;
    }

    /// Whether the key is there; if so, it was used just now.
    fn touch(&mut self, key: &str) -> bool {
        let Some(&(_, bytes)) = self.entries.get(key) else { return false };
        self.insert(key, bytes);
        true
    }

    /// Takes out what was used least recently, until `bytes` more fit under `limit`; how many entries that were.
    fn make_room(&mut self, bytes: u64, limit: u64) -> u64 {
        let mut out = 0;
        while self.bytes.saturating_add(bytes) > limit {
            let Some((_, key)) = self.turns.pop_first() else { break };
            if let Some((_, bytes)) = self.entries.remove(&key) {
                self.bytes -= bytes;
            }
            self.leaving.insert(key);
            out += 1;
        }
        out
    }
}

/// What a [`CacheStore`] did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheStats {
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads of artifacts that went behind.
    pub misses: u64,
    /// Entries that were damaged or gone.
    pub damaged: u64,
    /// Entries that made room.
    pub evicted: u64,
    /// Entries now.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl<S: ArtifactStore, C: ArtifactStore> CacheStore<S, C> {
    /// Keeps up to `limit` bytes of `inner`'s artifacts in `cache`, which belongs to this layer alone.
    ///
    /// # Errors
    /// Those of `cache`, which is listed.
    pub async fn open(inner: S, cache: C, limit: u64) -> Result<Self> {
        let store = Self { inner, cache, state: Arc::new(State { limit, ..State::default() }) };
        let mut found = store.cache.list(CACHED).await?;
        found.sort_by_key(|object| object.modified);
        {
            let mut index = store.index();
            found.iter().for_each(|object| index.insert(&object.key, object.bytes));
            store.state.evicted.fetch_add(index.make_room(0, limit), Ordering::Relaxed);
        }
        store.delete_leaving().await;
        Ok(store)
    }

    /// What it did since it was opened.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let (state, index) = (&self.state, self.index());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: count(&state.hits),
            misses: count(&state.misses),
            damaged: count(&state.damaged),
            evicted: count(&state.evicted),
            entries: index.entries.len() as u64,
            bytes: index.bytes,
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.state.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delete_leaving(&self) {
        loop {
            let Some(key) = self.index().leaving.first().cloned() else { return };
            // What cannot be deleted is found again when the cache is opened next.
            self.cache.delete(&key).await.ok();
            self.index().leaving.remove(&key);
        }
    }

    /// The entry, if it is there and whole.
    async fn cached(&self, key: &str, digest: &Digest) -> Option<Bytes> {
        if !self.index().touch(key) {
            return None;
        }
        match self.cache.get(key).await {
            Ok(data) if Digest::of(&data) == *digest => {
                self.state.hits.fetch_add(1, Ordering::Relaxed);
                Some(data)
            }
            _ => {
                self.state.damaged.fetch_add(1, Ordering::Relaxed);
                self.forget(key).await;
                None
            }
        }
    }

    async fn forget(&self, key: &str) {
        self.index().remove(key);
        self.delete_leaving().await;
    }

    async fn keep(&self, key: &str, data: &Bytes) {
        let bytes = data.len() as u64;
        if bytes > self.state.limit {
            return;
        }
        {
            let mut index = self.index();
            self.state.evicted.fetch_add(index.make_room(bytes, self.state.limit), Ordering::Relaxed);
            index.insert(key, bytes);
        }
        self.delete_leaving().await;
        let written = self.cache.put(key, data.clone()).await;
        // It may have had to make room already.
        if written.is_err() || !self.index().entries.contains_key(key) {
            self.forget(key).await;
        }
    }

    /// Runs `work` while nobody else works on that key.
    async fn alone<T>(&self, key: &str, work: impl Future<Output = T>) -> T {
        let lock = Arc::clone(self.state.busy().entry(key.to_owned()).or_default());
        let turn = Turn { state: &self.state, key, lock };
        let _locked = turn.lock.lock().await;
        work.await
    }
}

impl State {
    fn busy(&self) -> MutexGuard<'_, HashMap<String, Arc<futures::lock::Mutex<()>>>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work on one key, waiting or going on.
struct Turn<'a> {
    state: &'a State,
    key: &'a str,
    lock: Arc<futures::lock::Mutex<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self.state.busy();
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.lock) == 2 {
            busy.remove(self.key);
        }
    }
}

fn digest(key: &str) -> Option<Digest> {
    key.strip_prefix(CACHED)?.get(3..)?.parse().ok()
}

impl<S: ArtifactStore, C: ArtifactStore> fmt::Display for CacheStore<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<S: ArtifactStore, C: ArtifactStore> ArtifactStore for CacheStore<S, C> {
    async fn put_opts(&self, key: &str, data: Bytes, mode: PutMode) -> Result<()> {
        let write = self.inner.put_opts(key, data, mode);
        if digest(key).is_none() || mode != PutMode::Overwrite {
            return write.await;
        }
        let write = async {
            let written = write.await;
            self.forget(key).await;
            written
        };
        self.alone(key, write).await
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let Some(digest) = digest(key) else { return self.inner.get(key).await };
        if let Some(data) = self.cached(key, &digest).await {
            return Ok(data);
        }
        let fetch = async {
            if let Some(data) = self.cached(key, &digest).await {
                return Ok(data);
            }
            self.state.misses.fetch_add(1, Ordering::Relaxed);
            let data = self.inner.get(key).await?;
            if Digest::of(&data) == digest {
                self.keep(key, &data).await;
            }
            Ok(data)
        };
        self.alone(key, fetch).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        if let Some(digest) = digest(key)
            && let Some(data) = self.cached(key, &digest).await
        {
            let range = clamp(&range, data.len() as u64)?;
            // Both ends are at most the length, which is a `usize`.
            return Ok(data.slice(range.start as usize..range.end as usize));
        }
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let delete = self.inner.delete(key);
        if digest(key).is_none() {
            return delete.await;
        }
        let delete = async {
            let deleted = delete.await;
            self.forget(key).await;
            deleted
        };
        self.alone(key, delete).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        self.inner.list(prefix).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }
}
