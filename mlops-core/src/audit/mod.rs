//! Who did what, when and why: append-only, each entry bound to the one before it by its digest.
//!
//! ```
//! # futures::executor::block_on(async {
//! use mlops_core::audit::{AuditEvent, AuditLog, AuditLogExt, MemoryAuditLog};
//! # let at = "1997-01-01T00:00:00Z".parse().unwrap();
//! let log = MemoryAuditLog::default();
//! log.append(AuditEvent::new(at, "ana", "version.create", "model prices/1").because("retrained")).await?;
//! assert_eq!(log.verify().await?.unwrap().entries, 1);
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```
//!
//! # Rules
//! - **What is audited:** each change of what is served, allowed or recorded as having been done. Metric points and
//!   predictions are data, in amounts that data has, and are not.
//! - **The chain** names the first entry that was changed, removed or moved: [`AuditLogExt::verify`], in constant memory.
//!   It cannot see entries cut off the end, nor a chain that somebody wrote anew from some place on.
#![cfg_attr(
    feature = "audit-proofs",
    doc = "- **Signed checkpoints** see both: [`Checkpointer`] makes them, [`verify_log`] reads the log against them, and"
)]
#![cfg_attr(
    feature = "audit-proofs",
    doc = "  [`InclusionProof`] and [`ConsistencyProof`] convince somebody who has nothing but the public key."
)]
#![cfg_attr(
    not(feature = "audit-proofs"),
    doc = "- **Signed checkpoints** see both, and come with inclusion and consistency proofs: feature `audit-proofs`."
)]
//! - **Export:** [`export`] gives JSON lines, [`verify_export`] checks such a file without the log.

mod chain;
#[cfg(feature = "audit-proofs")]
mod checkpoint;
#[cfg(feature = "audit-proofs")]
mod checkpointer;
mod export;
mod memory;
#[cfg(feature = "audit-proofs")]
mod tree;
#[cfg(feature = "audit-proofs")]
mod verify;

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::chain::{ChainFault, ChainSummary, ChainVerifier, verify_chain};
pub use self::export::{ExportFault, export, verify_export};
pub use self::memory::MemoryAuditLog;
#[cfg(feature = "audit-proofs")]
#[cfg_attr(docsrs, doc(cfg(feature = "audit-proofs")))]
pub use self::{
    checkpoint::{Checkpoint, CheckpointKey, CheckpointSigner, Checkpoints},
    checkpointer::{Checkpointer, CheckpointerBuilder},
    tree::{ConsistencyProof, InclusionProof, MerkleFrontier, TreeHash, prove_consistency, prove_inclusion},
    verify::{LogFault, LogVerifier, verify_export_against, verify_log},
};
use crate::{Digest, Result, Timestamp};

/// The digest before the first entry.
pub const GENESIS: Digest = Digest::from_bytes([0; 32]);

/// Something that was done, not yet in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEvent {
    /// When.
    pub at: Timestamp,
    /// Who: a principal's name.
    pub actor: String,
    /// What was done: `alias.move`, `version.create`.
    pub action: String,
    /// To what: `model prices@champion`.
    pub resource: String,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What is there now.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub after: Value,
    /// Why, in the actor's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl AuditEvent {
    /// An event without before, after or reason.
    pub fn new(
        at: Timestamp,
        actor: impl Into<String>,
        action: impl Into<String>,
        resource: impl Into<String>,
    ) -> Self {
        Self {
            at,
            actor: actor.into(),
            action: action.into(),
            resource: resource.into(),
            before: Value::Null,
            after: Value::Null,
            reason: String::new(),
        }
    }

    /// Adds what was there before and what is there now.
    #[must_use]
    pub fn change(mut self, before: Value, after: Value) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// An event in the log: its place, and the digests that hold it there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its place, from 1 without gaps.
    pub seq: u64,
    /// What was done.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The digest of the entry before, [`GENESIS`] for the first.
    pub previous: Digest,
    /// The digest over place, event and `previous`.
    pub digest: Digest,
}

impl AuditEntry {
    /// Puts `event` at place `seq` after the entry with digest `previous`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if the event cannot be written as JSON.
    pub fn seal(seq: u64, event: AuditEvent, previous: Digest) -> Result<Self> {
        let digest = Self::digest_of(seq, &event, previous)?;
        Ok(Self { seq, event, previous, digest })
    }

    /// An entry as a store read it back, its digest not yet checked.
    #[must_use]
    pub fn from_parts(seq: u64, event: AuditEvent, previous: Digest, digest: Digest) -> Self {
        Self { seq, event, previous, digest }
    }

    /// Whether its contents are those its digest was made from. Its neighbours are [`ChainVerifier`]'s business.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        Self::digest_of(self.seq, &self.event, self.previous).is_ok_and(|digest| digest == self.digest)
    }

    fn digest_of(seq: u64, event: &AuditEvent, previous: Digest) -> Result<Digest> {
        let event = crate::json::to_canonical(event)?;
        let mut hasher = crate::digest::Hasher::default();
        hasher.field(&seq.to_le_bytes()).field(previous.as_bytes()).field(event.as_bytes());
        Ok(hasher.finish())
    }
}

impl Display for AuditEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuditEvent { at, actor, action, resource, reason, .. } = &self.event;
        write!(f, "#{} {} {actor} {action} {resource}", self.seq, at.format("%Y-%m-%d %H:%M"))?;
        if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
    }
}

/// The log.
///
/// # Contract
/// - **Append-only.** There is no other way to change it; `append` returns once the entry is durable in that backend.
/// - **Once.** An event that is equal in every field, its time included, to one in the log is that one: `append` gives
///   its entry and adds none. So a call can be repeated when its answer was lost.
/// - **Order.** `entries` yields ascending places without gaps, as many as there are up to `limit`; concurrent appends
///   get distinct places. A page past the end is empty.
/// - **Clones** and pointers share one log.
#[async_trait]
pub trait AuditLog: Debug + Display + Send + Sync + 'static {
    /// Puts an event at the end of the log.
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry>;

    /// At most `limit` entries from place `from` (1 is the first).
    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>>;
}

/// Entries read at a time where a whole log is read.
pub(crate) const PAGE: usize = 256;

/// Conveniences for callers. Implemented for every log; never implement it by hand.
pub trait AuditLogExt: AuditLog {
    /// Every entry, oldest first, in memory: for small logs and for tests. [`export`] streams them.
    fn all_entries(&self) -> impl Future<Output = Result<Vec<AuditEntry>>> + Send {
        async move {
            let mut all: Vec<AuditEntry> = Vec::new();
            loop {
                let from = all.last().map_or(1, |e| e.seq.saturating_add(1));
                let page = self.entries(from, PAGE).await?;
                if page.is_empty() {
                    return Ok(all);
                }
                all.extend(page);
            }
        }
    }

    /// Reads the whole log, a page at a time, and checks its chain.
    fn verify(&self) -> impl Future<Output = Result<Result<ChainSummary, ChainFault>>> + Send {
        async move {
            let mut chain = ChainVerifier::default();
            loop {
                let page = self.entries(chain.summary().entries + 1, PAGE).await?;
                if page.is_empty() {
                    return Ok(Ok(chain.summary()));
                }
                for entry in &page {
                    if let Err(fault) = chain.push(entry) {
                        return Ok(Err(fault));
                    }
                }
            }
        }
    }
}

impl<L: AuditLog + ?Sized> AuditLogExt for L {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: AuditLog + ?Sized> AuditLog for Arc<L> {
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry> {
        (**self).append(event).await
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        (**self).entries(from, limit).await
    }
}
