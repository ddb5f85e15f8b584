//! Garbage collection: mark what the roots name, sweep the rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::lease::{Claim, LEASES, LOCKS, Patience, SKEW, unavailable};
use super::{ArtifactStore, ObjectMeta, artifact_key, blob, chunks_key};
use crate::{Clock, Digest, Error, Result, SystemClock, Timestamp};

/// The default grace.
pub(super) const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a lock holds unless it is renewed.
const TTL: Duration = Duration::from_secs(600);
/// How long a collection waits for commits to end.
const WAIT: Duration = Duration::from_secs(30);
/// Calls to the store at the same time.
const PARALLEL: usize = 16;
/// Objects that are deleted between two looks at the lock.
const BATCH: usize = 256;

/// Knows what must stay: a registry, a dataset store, an audit log, whatever names artifacts.
///
/// # Contract
/// - **Complete.** A digest that anything it keeps refers to is named. Of a blob, its digest is enough.
/// - **Fresh.** What was acknowledged before the call is named.
/// - **Quick.** It is asked twice, and commits wait the second time: after eight minutes the lock is lost.
/// - **Errors** stop the collection before anything is deleted; a part of the answer is never used.
#[async_trait]
pub trait Roots: Send + Sync {
    /// Adds the digests of all artifacts and blobs that must stay.
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()>;
}

#[async_trait]
impl<R: Roots + ?Sized> Roots for Arc<R> {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        (**self).live(live).await
    }
}

/// Deletes what no root names.
///
/// ```
/// # futures::executor::block_on(async {
/// use std::{collections::BTreeSet, sync::Arc, time::Duration};
/// use mlops_core::store::{ArtifactStoreExt, Collector, MemoryStore, Roots};
/// use mlops_core::{Digest, Result};
///
/// struct Rows(Vec<Digest>);
/// #[async_trait::async_trait]
/// impl Roots for Rows {
///     async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
///         live.extend(&self.0);
///         Ok(())
///     }
/// }
///
/// let store = MemoryStore::default();
/// let kept = store.put_artifact("named by a row".into()).await?;
/// store.put_artifact("left by a crash".into()).await?;
/// let collector = Collector::builder(Arc::new(store)).roots(Rows(vec![kept])).grace(Duration::ZERO).build()?;
/// assert_eq!(collector.collect().await?.to_string(), "2 objects: 1 live (14 B), 1 deleted (15 B), 0 too young");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// Commits in any process go on meanwhile, but for the pauses in which it deletes: then it holds a lock, having waited
/// until no [`Lease`](super::Lease) is left, and marks once more what the commits up to then have named. It lets go after
/// each [`pause`](CollectorBuilder::pause) and goes on under a new lock. A collector that dies leaves garbage, and a lock
/// that expires after ten minutes; the assumptions are those of a lease.
///
/// # Grace
/// Writers without a lease are protected by age alone: an object younger than the grace stays. As such writers leave
/// alone what is younger than twelve hours, the grace must be at least twelve hours longer than the longest time between
/// writing an artifact and naming it. A shorter grace is safe only if all writers use leases.
///
/// # Memory
/// About 50 bytes for each live object, and the listings of a few 256ths of the store.
#[derive(Clone, Debug)]
pub struct Collector(CollectorBuilder);

impl Collector {
    /// A collector of `store`, without roots yet.
    pub fn builder(store: Arc<dyn ArtifactStore>) -> CollectorBuilder {
        CollectorBuilder {
            store,
            clock: Arc::new(SystemClock),
            roots: Vec::new(),
            grace: GRACE,
            dry_run: false,
            wait: WAIT,
            pause: Duration::from_secs(10),
            hurry: false,
        }
    }

    /// Collects.
    ///
    /// # Errors
    /// The first error of a root or of the store, and [`Error::Corrupt`] for a live blob whose list of chunks is damaged:
    /// mend it or delete the row that names it. A retryable [`Error::Backend`] if another collection runs, if a lease is
    /// not released in time, or if the lock was lost. What was deleted by then was garbage.
    pub async fn collect(&self) -> Result<Collected> {
        let options = &self.0;
        let grace = TimeDelta::from_std(options.grace).unwrap_or(TimeDelta::MAX);
        let young = options.clock.now().checked_sub_signed(grace);
        let mut sweep =
            Sweep { options, live: BTreeSet::new(), lists: BTreeMap::new(), young, collected: Collected::default() };
        sweep.mark(None).await?;
        let mut waiting = VecDeque::new();
        let mut looked = Collected { dry_run: options.dry_run, ..Collected::default() };
        {
            let sweep = &sweep;
            let look = |prefix: String| async move { Ok::<_, Error>((sweep.sort(&prefix).await?, prefix)) };
            let mut listings = stream::iter(prefixes(&KINDS)).map(look).buffered(PARALLEL);
            while let Some((listed, prefix)) = listings.try_next().await? {
                if options.dry_run {
                    looked.deleted += listed.garbage.len() as u64;
                    looked.bytes_deleted += listed.garbage.iter().map(|object| object.bytes).sum::<u64>();
                } else if !listed.garbage.is_empty() {
                    // Listed and counted again under the lock.
                    waiting.push_back(prefix);
                    continue;
                }
                looked.count(&listed);
            }
        }
        sweep.collected = looked;
        while !waiting.is_empty() {
            let lock = self.lock().await?;
            let swept = sweep.run(&lock, &mut waiting).await;
            let released = lock.release().await;
            swept?;
            released?;
        }
        Ok(sweep.collected)
    }

    async fn lock(&self) -> Result<Claim> {
        let CollectorBuilder { store, clock, wait, hurry, .. } = &self.0;
        lock(store, clock, Patience::new(*wait, *hurry)).await
    }
}

/// Takes the lock and waits until no commit is under way.
async fn lock(store: &Arc<dyn ArtifactStore>, clock: &Arc<dyn Clock>, mut patience: Patience) -> Result<Claim> {
    let holder = format!("process {}", std::process::id());
    let lock = Claim::make(Arc::clone(store), Arc::clone(clock), LOCKS, &holder, TTL).await?;
    let alone = async {
        if let Some(other) = lock.others(LOCKS).await?.first() {
            let reason = format!("another collection runs: {other}");
            return Err(unavailable(&**store, "collect", LOCKS.trim_end_matches('/'), reason));
        }
        while let Some(other) = lock.others(LEASES).await?.first() {
            if !patience.wait().await {
                let reason = format!("a commit is under way: {other}");
                return Err(unavailable(&**store, "collect", LEASES.trim_end_matches('/'), reason));
            }
            lock.keep().await?;
        }
        lock.remove_expired(LOCKS).await?;
        lock.remove_expired(LEASES).await
    };
    let alone = alone.await;
    if alone.is_err() {
        lock.release().await.ok();
    }
    alone.map(|()| lock)
}

/// The lock of a collection for something else that no commit may be under way with. Commits wait until it is released.
#[cfg(feature = "datasets")]
pub(crate) async fn alone(store: &Arc<dyn ArtifactStore>, clock: &Arc<dyn Clock>) -> Result<Claim> {
    lock(store, clock, Patience::new(WAIT, false)).await
}

/// What artifacts are stored under. Lists of chunks go first, so that a sweep that is cut off leaves few without chunks.
const KINDS: [&str; 2] = ["chunks", "artifacts"];

/// The prefixes that hold a 256th of each kind.
fn prefixes(kinds: &[&'static str]) -> impl Iterator<Item = String> + Send + use<> {
    let kinds = kinds.to_vec();
    kinds.into_iter().flat_map(|kind| (0..=255_u8).map(move |i| format!("{kind}/{i:02x}/")))
}

/// The digest that an object is stored under, if it is an artifact or a list of chunks.
fn digest_of(object: &ObjectMeta) -> Option<Digest> {
    let digest = object.key.rsplit('/').next()?.parse().ok()?;
    (object.key == artifact_key(&digest) || object.key == chunks_key(&digest)).then_some(digest)
}

struct Sweep<'a> {
    options: &'a CollectorBuilder,
    /// All that stays.
    live: BTreeSet<Digest>,
    /// The lists of chunks that were read and will be the same when they look the same.
    lists: BTreeMap<Digest, (Timestamp, u64)>,
    /// What was written since stays; everything does if there is no such time.
    young: Option<Timestamp>,
    collected: Collected,
}

async fn keep(lock: Option<&Claim>) -> Result<()> {
    match lock {
        Some(lock) => lock.keep().await,
        None => Ok(()),
    }
}

/// One listing, sorted out.
#[derive(Default)]
struct Listed {
    live: u64,
    bytes_live: u64,
    young: u64,
    garbage: Vec<ObjectMeta>,
}

impl Sweep<'_> {
    /// Asks all roots, and reads the lists of chunks that are new or changed.
    async fn mark(&mut self, lock: Option<&Claim>) -> Result<()> {
        let mut named = BTreeSet::new();
        for root in &self.options.roots {
            root.live(&mut named).await?;
            keep(lock).await?;
        }
        let skew = TimeDelta::from_std(SKEW).unwrap_or_default();
        let settled = self.options.clock.now().checked_sub_signed(skew).unwrap_or(Timestamp::MIN_UTC);
        let store = &self.options.store;
        let mut listings =
            stream::iter(prefixes(&KINDS[..1])).map(async |prefix| store.list(&prefix).await).buffered(PARALLEL);
        let mut changed = Vec::new();
        while let Some(listing) = listings.try_next().await? {
            keep(lock).await?;
            let wanted = listing.into_iter().filter_map(|list| Some((digest_of(&list)?, list)));
            changed.extend(wanted.filter(|(digest, list)| {
                named.contains(digest) && self.lists.get(digest) != Some(&(list.modified, list.bytes))
            }));
        }
        drop(listings);
        let read = |(digest, list): (Digest, ObjectMeta)| async move {
            let chunks = match store.get(&list.key).await {
                Err(Error::NotFound { .. }) => Vec::new(),
                found => {
                    let found = found?;
                    let what = format!("list of chunks in {store}");
                    let damaged = || Error::Corrupt { what, expected: digest, found: Digest::of(&found) };
                    blob::named(&found).ok_or_else(damaged)?
                }
            };
            Ok::<_, Error>((digest, list, chunks))
        };
        let mut lists = stream::iter(changed).map(read).buffer_unordered(PARALLEL);
        while let Some((digest, list, chunks)) = lists.try_next().await? {
            keep(lock).await?;
            self.live.extend(chunks);
            // Where times are coarse, a list that is rewritten at once may look the same.
            if list.modified < settled {
                self.lists.insert(digest, (list.modified, list.bytes));
            }
        }
        self.live.extend(named);
        Ok(())
    }

    /// Lists a prefix and tells what is live, young or garbage.
    async fn sort(&self, prefix: &str) -> Result<Listed> {
        let mut listed = Listed::default();
        for object in self.options.store.list(prefix).await? {
            // What no store of ours has written is not ours to delete.
            let Some(digest) = digest_of(&object) else { continue };
            if self.live.contains(&digest) {
                listed.live += 1;
                listed.bytes_live += object.bytes;
            } else if self.is_young(&object) {
                listed.young += 1;
            } else {
                listed.garbage.push(object);
            }
        }
        Ok(listed)
    }

    fn is_young(&self, object: &ObjectMeta) -> bool {
        self.young.is_none_or(|since| object.modified > since)
    }

    /// Sweeps the first of the waiting prefixes, for as long as commits may have to wait.
    async fn run(&mut self, lock: &Claim, waiting: &mut VecDeque<String>) -> Result<()> {
        let begin = Instant::now();
        self.mark(Some(lock)).await?;
        while let Some(prefix) = waiting.front() {
            let mut listed = self.sort(prefix).await?;
            let garbage = std::mem::take(&mut listed.garbage);
            let mut rest = &garbage[..];
            while !rest.is_empty() {
                lock.keep().await?;
                let (now, later) = rest.split_at(rest.len().min(BATCH));
                rest = later;
                let now = now.to_vec();
                let mut outcomes = stream::iter(now).map(|object| self.delete(lock, object)).buffer_unordered(PARALLEL);
                let mut collected = (0, 0);
                while let Some(outcome) = outcomes.next().await {
                    match outcome? {
                        Some(bytes) => collected = (collected.0 + 1, collected.1 + bytes),
                        None => listed.young += 1,
                    }
                }
                drop(outcomes);
                self.collected.deleted += collected.0;
                self.collected.bytes_deleted += collected.1;
                if !rest.is_empty() && begin.elapsed() >= self.options.pause {
                    return Ok(());
                }
            }
            self.collected.count(&listed);
            waiting.pop_front();
            if begin.elapsed() >= self.options.pause {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deletes an object, unless it was rewritten since it was listed. Its size if it is gone.
    async fn delete(&self, lock: &Claim, object: ObjectMeta) -> Result<Option<u64>> {
        let store = &self.options.store;
        match store.head(&object.key).await {
            Ok(now) if self.is_young(&now) => return Ok(None),
            Ok(_) => {}
            Err(Error::NotFound { .. }) => return Ok(Some(object.bytes)),
            Err(error) => return Err(error),
        }
        lock.check()?;
        store.delete(&object.key).await?;
        Ok(Some(object.bytes))
    }
}

/// Options of a [`Collector`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct CollectorBuilder {
    store: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    roots: Vec<Arc<dyn Roots>>,
    grace: Duration,
    dry_run: bool,
    wait: Duration,
    pause: Duration,
    hurry: bool,
}

impl fmt::Debug for CollectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("store", &self.store)
            .field("roots", &self.roots.len())
            .field("grace", &self.grace)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

impl CollectorBuilder {
    /// Adds roots. What none of them names is deleted, so all that name artifacts of this store must be there.
    pub fn roots(mut self, roots: impl Roots + 'static) -> Self {
        self.roots.push(Arc::new(roots));
        self
    }

    /// How young an object is that stays although nothing names it (default 24 hours; see [`Collector`]).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Counts what would be deleted, and deletes nothing; takes no lock.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// How long to wait for commits to end, while new ones wait (default 30 seconds).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How long commits may have to wait while objects are deleted; after that they have a turn (default 10 seconds).
    /// Marking and one batch of deletes are the least it takes.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Tells the time (default: the system's clock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Looks again at once rather than after a while: for tests that run in a time of their own.
    #[doc(hidden)]
    pub fn hurry(mut self) -> Self {
        self.hurry = true;
        self
    }

    /// The collector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there are no roots: everything would be garbage.
    pub fn build(self) -> Result<Collector> {
        if self.roots.is_empty() {
            return Err(Error::invalid("roots", "at least one is needed: without any, everything would be deleted"));
        }
        Ok(Collector(self))
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Collected {
    /// Objects that roots name, and chunks of blobs that they name.
    pub live: u64,
    /// Their bytes.
    pub bytes_live: u64,
    /// Objects that are gone; in a dry run, that would be.
    pub deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Objects that nothing names, and that are too young to be deleted.
    pub kept_by_grace: u64,
    /// Whether nothing was really deleted.
    pub dry_run: bool,
}

impl Collected {
    fn count(&mut self, listed: &Listed) {
        self.live += listed.live;
        self.bytes_live += listed.bytes_live;
        self.kept_by_grace += listed.young;
    }

    /// Objects that were looked at.
    #[must_use]
    pub fn examined(&self) -> u64 {
        self.live + self.deleted + self.kept_by_grace
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = if self.dry_run { "would be deleted" } else { "deleted" };
        write!(
            f,
            "{} objects: {} live ({}), {} {deleted} ({}), {} too young",
            self.examined(),
            self.live,
            size(self.bytes_live),
            self.deleted,
            size(self.bytes_deleted),
            self.kept_by_grace
        )
    }
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// How many objects.
    pub objects: u64,
    /// Their bytes, as `get` returns them.
    pub bytes: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects, {}", self.objects, size(self.bytes))
    }
}

/// Counts the objects under a prefix, as [`list`](ArtifactStore::list) takes it. `artifacts/` and `chunks/` are listed a
/// 256th at a time; any other prefix at once.
///
/// # Errors
/// Those of the store.
pub async fn usage<S: ArtifactStore + ?Sized>(store: &S, prefix: &str) -> Result<Usage> {
    let kind = prefix.strip_suffix('/').and_then(|kind| KINDS.iter().find(|k| **k == kind));
    let parts = match kind {
        Some(kind) => prefixes(&[kind]).collect(),
        None => vec![prefix.to_owned()],
    };
    let mut usage = Usage::default();
    for part in parts {
        for object in store.list(&part).await? {
            usage.objects += 1;
            usage.bytes += object.bytes;
        }
    }
    Ok(usage)
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let scale = bytes.checked_ilog2().unwrap_or(0) / 10;
    match units.get((scale as usize).wrapping_sub(1)) {
        Some(unit) => format!("{:.1} {unit}", bytes as f64 / f64::from(1 << 10).powi(scale as i32)),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_for_people() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "16.0 EiB"]);
    }
}
