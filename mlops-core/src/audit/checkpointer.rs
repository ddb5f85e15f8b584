//! The layer that signs as the log grows.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::lock::Mutex;

use super::{AuditEntry, AuditEvent, AuditLog, Checkpoint, CheckpointSigner, Checkpoints, LogVerifier};
use crate::store::ArtifactStore;
use crate::{Clock, Error, Result, SystemClock, clock};

/// A log that signs itself: wraps a log, is one, and makes a checkpoint each so many entries and each so long.
///
/// A checkpoint reads and checks what the log has more since the last one, whoever appended it, and needs memory for the
/// right edge of the tree alone. An entry is in the log before its checkpoint is made, so `append` does not fail for
/// want of a checkpoint: [`Checkpointer::failure`] tells why the last one was not made, and the next append tries again.
/// Nothing runs by itself: where appends may be rare, call [`Checkpointer::checkpoint`] from a timer of yours.
///
/// Clones share one log. Several checkpointers on one log and one store, in several processes, agree: the first to sign a
/// size keeps it.
///
/// # Examples
/// ```
/// # futures::executor::block_on(async {
/// use mlops_core::audit::{AuditEvent, AuditLog, Checkpointer, CheckpointSigner, MemoryAuditLog, prove_inclusion, verify_log};
/// use mlops_core::store::MemoryStore;
/// # let at = "1997-01-01T00:00:00Z".parse().unwrap();
/// let signer = CheckpointSigner::from_seed("example.com/audit", &[7; 32])?; // 32 random bytes, in truth
/// let log = Checkpointer::builder(MemoryAuditLog::default(), signer, MemoryStore::default()).entries(2).open().await?;
/// let entry = log.append(AuditEvent::new(at, "ana", "version.create", "model prices/1")).await?;
/// log.append(AuditEvent::new(at, "dan", "alias.move", "model prices@champion")).await?;
///
/// let checkpoints = log.checkpoints().all().await?;
/// assert_eq!(checkpoints[0].entries(), 2);
/// assert_eq!(verify_log(&log, checkpoints.clone()).await?.unwrap().entries, 2);
/// prove_inclusion(&log, 1, 2).await?.verify(&entry, &checkpoints[0])?; // offline, with the public key
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
pub struct Checkpointer<L>(Arc<Inner<L>>);

struct Inner<L> {
    options: CheckpointerBuilder<L>,
    /// Where the next checkpoint goes on reading; held while one is made.
    reader: Mutex<LogVerifier>,
    /// Size and time of the last checkpoint, in microseconds.
    last: (AtomicU64, AtomicI64),
    failure: Lock<Option<String>>,
}

impl<L> Clone for Checkpointer<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: AuditLog> fmt::Debug for Checkpointer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckpointerBuilder { log, signer, entries, every, .. } = &self.0.options;
        let mut shown = f.debug_struct("Checkpointer");
        shown.field("log", log).field("signer", signer).field("entries", entries).field("every", every);
        shown.finish_non_exhaustive()
    }
}

impl<L: AuditLog> fmt::Display for Checkpointer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with checkpoints", self.0.options.log)
    }
}

impl<L: AuditLog> Checkpointer<L> {
    /// Starts a checkpointer over `log` that signs with `signer` and keeps its checkpoints in `store`.
    pub fn builder(log: L, signer: CheckpointSigner, store: impl ArtifactStore) -> CheckpointerBuilder<L> {
        let checkpoints = Checkpoints::new(store, signer.key().clone());
        let (clock, every) = (Arc::new(SystemClock), Duration::from_secs(3_600));
        CheckpointerBuilder { log, signer, checkpoints, clock, entries: 1_000, every }
    }

    /// Where the checkpoints are.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.0.options.checkpoints
    }

    /// Why the last checkpoint was not made, if it was not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a checkpoint of the log as it is, unless it has grown by nothing: then it gives the last, if there is one.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if what was appended does not follow what was signed: nothing is signed then;
    /// [`Error::Conflict`] if another history was signed; those of the log and the store.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let mut reader = self.0.reader.lock().await;
        let made = self.sign(&mut reader).await;
        let failed = made.as_ref().err().map(ToString::to_string);
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        made
    }

    async fn sign(&self, reader: &mut LogVerifier) -> Result<Option<Checkpoint>> {
        let Inner { options, last, .. } = &*self.0;
        let CheckpointerBuilder { log, signer, checkpoints, clock, .. } = options;
        let before = last.0.load(Ordering::Acquire);
        let mut ahead = reader.clone();
        if let Err(fault) = ahead.read(log).await? {
            return Err(Error::invalid("audit log", fault));
        }
        let summary = ahead.summary();
        if summary.entries == before {
            last.1.store(clock.now().timestamp_micros(), Ordering::Release);
            return if before == 0 { Ok(None) } else { checkpoints.of(before).await.map(Some) };
        }
        let now = clock::from_micros(clock.now().timestamp_micros());
        let kept = checkpoints.keep(signer.sign(summary, ahead.tree().clone(), now)).await?;
        *reader = ahead;
        last.0.store(summary.entries, Ordering::Release);
        last.1.store(now.timestamp_micros(), Ordering::Release);
        Ok(Some(kept))
    }

    fn is_due(&self, seq: u64) -> bool {
        let Inner { options, last, .. } = &*self.0;
        let CheckpointerBuilder { clock, entries, every, .. } = options;
        let (size, at) = (last.0.load(Ordering::Acquire), last.1.load(Ordering::Acquire));
        let waited = clock.now().timestamp_micros().saturating_sub(at);
        let every = i64::try_from(every.as_micros()).unwrap_or(i64::MAX);
        seq > size && (seq - size >= *entries || waited >= every)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: AuditLog> AuditLog for Checkpointer<L> {
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry> {
        let entry = self.0.options.log.append(event).await?;
        // Whoever holds the reader makes one already.
        if self.is_due(entry.seq) && self.0.reader.try_lock().is_some() {
            // The entry is kept; `failure` has the error, and the next append tries again.
            let _ = self.checkpoint().await;
        }
        Ok(entry)
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        self.0.options.log.entries(from, limit).await
    }
}

/// Opens a [`Checkpointer`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct CheckpointerBuilder<L> {
    log: L,
    signer: CheckpointSigner,
    checkpoints: Checkpoints,
    clock: Arc<dyn Clock>,
    entries: u64,
    every: Duration,
}

impl<L: AuditLog> CheckpointerBuilder<L> {
    /// A checkpoint after so many entries, at least 1 (default 1,000).
    pub fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// A checkpoint with the first append after so long (default one hour).
    pub fn every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }

    /// What tells the time (default [`SystemClock`]).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Goes on behind the last checkpoint in the store.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option out of range or the checkpoint that is not this signer's; those of the
    /// store.
    pub async fn open(self) -> Result<Checkpointer<L>> {
        if self.entries == 0 {
            return Err(Error::invalid("entries", "0 is not at least 1"));
        }
        let latest = self.checkpoints.latest().await?;
        let (reader, size, at) = match &latest {
            Some(last) => (LogVerifier::after(last), last.entries(), last.at()),
            None => (LogVerifier::new([]), 0, self.clock.now()),
        };
        let last = (AtomicU64::new(size), AtomicI64::new(at.timestamp_micros()));
        let (reader, failure) = (Mutex::new(reader), Lock::new(None));
        Ok(Checkpointer(Arc::new(Inner { options: self, reader, last, failure })))
    }
}
