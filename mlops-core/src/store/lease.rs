//! Announcements in the store itself, by which commits and collections keep out of each other's way.
//!
//! Both sides do as Dekker's algorithm does: announce yourself, *then* look for the other. As a store is strongly
//! consistent, at least one of the two sees the other; the commit gives way, the collection waits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ArtifactStore, ArtifactStoreExt, PutMode};
use crate::clock::from_micros;
use crate::{Clock, Error, Result, SystemClock, Timestamp};

/// Where commits announce themselves.
pub(super) const LEASES: &str = "leases/";
/// Where collections announce themselves.
pub(super) const LOCKS: &str = "gc/";
/// By how much the clocks of two processes may differ, and how long a process may stand still between its last check
/// and the end of the call that follows.
pub(super) const SKEW: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(600);
/// The longest a claim may hold without being renewed.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The time `by` after `at`, or the last one there is.
fn after(at: Timestamp, by: Duration) -> Timestamp {
    let by = TimeDelta::from_std(by).unwrap_or(TimeDelta::MAX);
    at.checked_add_signed(by).unwrap_or(Timestamp::MAX_UTC)
}

/// What an announcement says.
#[derive(Debug, Serialize, Deserialize)]
struct Notice {
    /// Microseconds since 1970.
    expires: i64,
    holder: String,
}

/// An announcement: an object that says until when.
#[derive(Debug)]
pub(crate) struct Claim {
    store: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    key: String,
    holder: String,
    ttl: Duration,
    expires: Mutex<Timestamp>,
}

/// A claim of somebody else.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) key: String,
    pub(super) holder: String,
    pub(super) expires: Timestamp,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} until {}", self.key, self.holder, self.expires)
    }
}

impl Claim {
    pub(super) async fn make(
        store: Arc<dyn ArtifactStore>,
        clock: Arc<dyn Clock>,
        prefix: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Self> {
        if ttl <= 2 * SKEW || ttl > LONGEST {
            let reason =
                format!("must be more than {:?}, twice what clocks may differ by, and at most a day", 2 * SKEW);
            return Err(Error::invalid("ttl", reason));
        }
        let (key, expires) = (format!("{prefix}{}", Uuid::new_v4()), after(clock.now(), ttl));
        let claim = Self { store, clock, key, holder: holder.to_owned(), ttl, expires: Mutex::new(expires) };
        claim.store.put_opts(&claim.key, claim.notice(expires)?, PutMode::Create).await?;
        Ok(claim)
    }

    fn notice(&self, expires: Timestamp) -> Result<Bytes> {
        let notice = Notice { expires: expires.timestamp_micros(), holder: self.holder.clone() };
        serde_json::to_vec(&notice).map(Bytes::from).map_err(|e| Error::invalid("holder", e))
    }

    pub(super) fn expires(&self) -> Timestamp {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it holds still, by anybody's clock.
    pub(crate) fn check(&self) -> Result<()> {
        if after(self.clock.now(), SKEW) < self.expires() { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> Error {
        unavailable(&*self.store, "keep", &self.key, format!("it expired at {}: do it all again", self.expires()))
    }

    pub(super) async fn renew(&self) -> Result<()> {
        // Whoever thought it expired has removed it.
        match self.store.head(&self.key).await {
            Err(Error::NotFound { .. }) => return Err(self.lost()),
            found => found?,
        };
        let expires = after(self.clock.now(), self.ttl);
        self.check()?;
        self.store.put(&self.key, self.notice(expires)?).await?;
        // A renewal that arrived late may have come after a collection that saw none.
        self.check()?;
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
        Ok(())
    }

    /// Renews it when half of its time is over.
    pub(crate) async fn keep(&self) -> Result<()> {
        self.check()?;
        if after(self.clock.now(), self.ttl / 2) < self.expires() { Ok(()) } else { self.renew().await }
    }

    pub(crate) async fn release(&self) -> Result<()> {
        self.store.delete(&self.key).await
    }

    /// The claims under `prefix` that hold still, this one apart.
    pub(super) async fn others(&self, prefix: &str) -> Result<Vec<Other>> {
        let mut others = claims(&*self.store, prefix).await?;
        let now = self.clock.now();
        others.retain(|other| other.key != self.key && other.expires > now);
        Ok(others)
    }

    /// Removes the claims under `prefix` that expired: their holders are dead, or know that they hold no more.
    pub(super) async fn remove_expired(&self, prefix: &str) -> Result<()> {
        let now = self.clock.now();
        for other in claims(&*self.store, prefix).await? {
            if other.expires <= now && other.key != self.key {
                self.store.delete(&other.key).await?;
            }
        }
        Ok(())
    }
}

/// All claims under `prefix`.
async fn claims<S: ArtifactStore + ?Sized>(store: &S, prefix: &str) -> Result<Vec<Other>> {
    let mut found = Vec::new();
    for object in store.list(prefix).await? {
        let notice = match store.get(&object.key).await {
            Err(Error::NotFound { .. }) => continue,
            notice => notice?,
        };
        let notice: Notice = serde_json::from_slice(&notice).map_err(|e| {
            Error::invalid(&*object.key, format!("is no lease ({e}): remove it if no process of an older version runs"))
        })?;
        found.push(Other { key: object.key, holder: notice.holder, expires: from_micros(notice.expires) });
    }
    Ok(found)
}

/// What keeps a caller waiting, as an error that is worth another try.
pub(super) fn unavailable<S: ArtifactStore + ?Sized>(
    store: &S,
    operation: &'static str,
    key: &str,
    reason: String,
) -> Error {
    Error::Backend {
        backend: store.to_string(),
        operation,
        key: key.to_owned(),
        retryable: true,
        source: reason.into(),
    }
}

/// Waits between looks, longer each time, for a bounded time in all.
#[derive(Debug)]
pub(super) struct Patience {
    delays: backon::ExponentialBackoff,
    /// For ever, if there is no such time.
    until: Option<Instant>,
    hurry: bool,
}

impl Patience {
    pub(super) fn new(wait: Duration, hurry: bool) -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_jitter();
        Self { delays: delays.build(), until: Instant::now().checked_add(wait), hurry }
    }

    /// Waits; false if the time is over.
    pub(super) async fn wait(&mut self) -> bool {
        let left = self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return false;
        }
        let delay = if self.hurry { Duration::ZERO } else { self.delays.next().unwrap_or(left) };
        super::pause(delay.min(left)).await;
        true
    }
}

/// Keeps what a commit reads and writes from being collected, in this process and in any other.
///
/// ```
/// # futures::executor::block_on(async {
/// use std::sync::Arc;
/// use mlops_core::SystemClock;
/// use mlops_core::store::{ArtifactStore, ArtifactStoreExt, BlobWriter, Lease, MemoryStore};
/// let store = MemoryStore::default();
/// let lease = Lease::acquire(Arc::new(store.clone()), Arc::new(SystemClock)).await?;
/// let mut writer = BlobWriter::under(&store, &lease);
/// writer.write("weights".into()).await?;
/// let blob = writer.finish().await?;
/// store.sync().await?;
/// lease.check()?;
/// store.put("rows/1", blob.digest.to_string().into()).await?; // what the collector's roots will find
/// lease.check()?; // only now tell anybody
/// lease.release().await?;
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// # Rules
/// - Acquire it before the first chunk is written or found to be there; [`check`](Self::check) it before the row that
///   names the chunks is written and again before that is acknowledged. A commit whose second check fails may name what
///   is gone: remove the row.
/// - While a collection runs, `acquire` waits; while leases are held, a collection does.
/// - A crash, or a lease that is dropped and not released, holds collections up until it expires (ten minutes), no more.
///
/// # Assumptions
/// The store is strongly consistent. The clocks of all processes that use it differ by less than a minute: by that much,
/// a lease ends earlier for its holder than for a collector. No process stands still for a minute between a check and
/// the end of the call that follows it.
#[derive(Debug)]
pub struct Lease(Claim);

impl Lease {
    /// A lease with the usual options.
    ///
    /// # Errors
    /// A retryable [`Error::Backend`] if a collection runs and does not end within a minute; those of the store.
    pub async fn acquire(store: Arc<dyn ArtifactStore>, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::builder(store, clock).acquire().await
    }

    /// A lease with options of your own.
    pub fn builder(store: Arc<dyn ArtifactStore>, clock: Arc<dyn Clock>) -> LeaseBuilder {
        let (holder, wait) = (format!("process {}", std::process::id()), Duration::from_secs(60));
        LeaseBuilder { store, clock, holder, ttl: TTL, wait, hurry: false }
    }

    /// Whether the lease holds still; costs nothing.
    ///
    /// # Errors
    /// A retryable [`Error::Backend`] if it expired: what it covered may be gone, so the whole commit has to be done
    /// again.
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }

    /// Starts its time anew.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of the store.
    pub async fn renew(&self) -> Result<()> {
        self.0.renew().await
    }

    /// Renews it when half of its time is over; cheap enough to call for each chunk.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub async fn keep(&self) -> Result<()> {
        self.0.keep().await
    }

    /// When it expires unless it is renewed; its holder must be done a minute before.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.0.expires()
    }

    /// Ends it.
    ///
    /// # Errors
    /// Those of the store; the lease then ends when it expires.
    pub async fn release(self) -> Result<()> {
        self.0.release().await
    }
}

/// Options of a [`Lease`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `acquire`"]
pub struct LeaseBuilder {
    store: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    holder: String,
    ttl: Duration,
    wait: Duration,
    hurry: bool,
}

impl LeaseBuilder {
    /// Who holds it, for people (default: the process number).
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// How long it holds unless renewed, more than two minutes and at most a day (default ten minutes).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait for a collection to end (default one minute).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Looks again at once rather than after a while: for tests that run in a time of their own.
    #[doc(hidden)]
    pub fn hurry(mut self) -> Self {
        self.hurry = true;
        self
    }

    /// Acquires it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for `ttl`; else as [`Lease::acquire`].
    pub async fn acquire(self) -> Result<Lease> {
        let mut patience = Patience::new(self.wait, self.hurry);
        loop {
            let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
            let claim = Claim::make(store, clock, LEASES, &self.holder, self.ttl).await?;
            let running = match claim.others(LOCKS).await {
                Ok(running) => running,
                Err(error) => {
                    claim.release().await.ok();
                    return Err(error);
                }
            };
            let Some(collection) = running.first() else {
                claim.check()?;
                return Ok(Lease(claim));
            };
            claim.release().await?;
            if !patience.wait().await {
                let reason = format!("a collection runs: {collection}");
                return Err(unavailable(&*self.store, "lease", LEASES.trim_end_matches('/'), reason));
            }
        }
    }
}

/// Makes an object young, for a writer that has no lease: rewrites it, and returns once no collection can still delete
/// it for its former age.
pub(super) async fn refresh<S: ArtifactStore + ?Sized>(store: &S, key: &str, data: &Bytes) -> Result<()> {
    let mut patience = Patience::new(Duration::from_secs(60), false);
    let mut gone = true;
    loop {
        if gone {
            store.put(key, data.clone()).await?;
        }
        // A collection that runs may have looked at the object before it was rewritten; one that starts later sees
        // that it is young.
        let now = SystemClock.now();
        let running = claims(store, LOCKS).await?.into_iter().find(|claim| claim.expires > now);
        gone = match store.head(key).await {
            Err(Error::NotFound { .. }) => true,
            found => found.map(|_| false)?,
        };
        match running {
            None if !gone => return Ok(()),
            _ if patience.wait().await => {}
            Some(collection) => {
                return Err(unavailable(store, "refresh", key, format!("a collection runs: {collection}")));
            }
            None => return Err(unavailable(store, "refresh", key, "it is deleted again and again".to_owned())),
        }
    }
}
