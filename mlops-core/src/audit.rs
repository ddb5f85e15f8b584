//! Who did what, when and why: append-only, each entry bound to the one before it by its digest.
//!
//! Changing, removing or reordering an entry breaks the chain at that place, and [`verify_chain`] names it. Cutting
//! entries off the end leaves a shorter chain that is whole in itself: to see that, compare [`ChainSummary::head`] with
//! one kept elsewhere.

use std::fmt::{self, Debug, Display};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Error, Result, Timestamp};

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
    /// [`Error::InvalidInput`] if the event cannot be written as JSON.
    pub fn seal(seq: u64, event: AuditEvent, previous: Digest) -> Result<Self> {
        let digest = Self::digest_of(seq, &event, previous)?;
        Ok(Self { seq, event, previous, digest })
    }

    /// An entry as a store read it back, its digest not yet checked.
    #[must_use]
    pub fn from_parts(seq: u64, event: AuditEvent, previous: Digest, digest: Digest) -> Self {
        Self { seq, event, previous, digest }
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

/// A chain that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainSummary {
    /// How many entries it has.
    pub entries: u64,
    /// The digest of the last one, [`GENESIS`] when there is none.
    pub head: Digest,
}

/// Where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("audit chain breaks at entry {seq}: {reason}")]
pub struct ChainFault {
    /// The place of the first entry that does not fit.
    pub seq: u64,
    /// What does not fit.
    pub reason: String,
}

/// Checks entries given in order, from the first.
///
/// # Errors
/// [`ChainFault`] naming the first entry that was changed, removed or moved.
///
/// # Examples
/// ```
/// use mlops_core::audit::{AuditEntry, AuditEvent, GENESIS, verify_chain};
/// # let at = "1997-01-01T00:00:00Z".parse().unwrap();
/// let first = AuditEntry::seal(1, AuditEvent::new(at, "ana", "version.create", "model prices/1"), GENESIS).unwrap();
/// let mut forged = first.clone();
/// forged.event.actor = "bob".to_owned();
/// assert_eq!(verify_chain([&first]).unwrap().entries, 1);
/// assert_eq!(verify_chain([&forged]).unwrap_err().seq, 1);
/// ```
pub fn verify_chain<'a>(entries: impl IntoIterator<Item = &'a AuditEntry>) -> Result<ChainSummary, ChainFault> {
    let mut summary = ChainSummary { entries: 0, head: GENESIS };
    for entry in entries {
        let seq = summary.entries + 1;
        let fault = |reason: &str| ChainFault { seq, reason: reason.to_owned() };
        if entry.seq != seq {
            return Err(fault(&format!("found entry {} in its place", entry.seq)));
        }
        if entry.previous != summary.head {
            return Err(fault("it does not follow the entry before it"));
        }
        match AuditEntry::digest_of(seq, &entry.event, entry.previous) {
            Ok(digest) if digest == entry.digest => summary = ChainSummary { entries: seq, head: digest },
            _ => return Err(fault("its contents differ from its digest")),
        }
    }
    Ok(summary)
}

/// The log.
///
/// # Contract
/// - **Append-only.** There is no other way to change it; `append` returns once the entry is durable in that backend.
/// - **Once.** An event that is equal in every field, its time included, to one in the log is that one: `append` gives
///   its entry and adds none. So a call can be repeated when its answer was lost.
/// - **Order.** `entries` yields ascending places without gaps; concurrent appends get distinct places.
/// - **Clones** and pointers share one log.
#[async_trait]
pub trait AuditLog: Debug + Display + Send + Sync + 'static {
    /// Puts an event at the end of the log.
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry>;

    /// At most `limit` entries from place `from` (1 is the first).
    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>>;
}

/// Conveniences for callers. Implemented for every log; never implement it by hand.
pub trait AuditLogExt: AuditLog {
    /// Every entry, oldest first.
    fn all_entries(&self) -> impl Future<Output = Result<Vec<AuditEntry>>> + Send {
        async move {
            const PAGE: usize = 1_000;
            let mut all = Vec::new();
            loop {
                let page = self.entries(all.len() as u64 + 1, PAGE).await?;
                let last = page.len() < PAGE;
                all.extend(page);
                if last {
                    return Ok(all);
                }
            }
        }
    }

    /// Reads the whole log and checks its chain.
    fn verify(&self) -> impl Future<Output = Result<Result<ChainSummary, ChainFault>>> + Send {
        async move { Ok(verify_chain(&self.all_entries().await?)) }
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

/// A log in memory: the reference implementation.
#[derive(Clone, Debug, Default)]
pub struct MemoryAuditLog(Arc<Mutex<Vec<AuditEntry>>>);

impl Display for MemoryAuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl AuditLog for MemoryAuditLog {
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = log.iter().find(|e| e.event == event) {
            return Ok(known.clone());
        }
        let previous = log.last().map_or(GENESIS, |e| e.digest);
        let entry = AuditEntry::seal(log.len() as u64 + 1, event, previous)?;
        log.push(entry.clone());
        Ok(entry)
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(from.saturating_sub(1)).map_err(|e| Error::invalid("from", e))?;
        Ok(log.iter().skip(skip).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: u64) -> Vec<AuditEntry> {
        let mut entries: Vec<AuditEntry> = Vec::new();
        for seq in 1..=n {
            let event =
                AuditEvent::new(crate::clock::from_micros(seq as i64), "ana", "run.create", format!("run {seq}"));
            let previous = entries.last().map_or(GENESIS, |e| e.digest);
            entries.push(AuditEntry::seal(seq, event, previous).unwrap());
        }
        entries
    }

    #[test]
    fn a_whole_chain_verifies() {
        let entries = chain(50);
        assert_eq!(verify_chain(&entries).unwrap(), ChainSummary { entries: 50, head: entries[49].digest });
    }

    #[test]
    fn the_first_entry_that_was_touched_is_named() {
        let whole = chain(9);
        let mut changed = whole.clone();
        changed[4].event.reason = "no reason".into();
        assert_eq!(verify_chain(&changed).unwrap_err().seq, 5);
        let mut removed = whole.clone();
        removed.remove(2);
        assert_eq!(verify_chain(&removed).unwrap_err().seq, 3);
        let mut swapped = whole.clone();
        swapped.swap(6, 7);
        assert_eq!(verify_chain(&swapped).unwrap_err().seq, 7);
        let mut resealed = whole;
        let forged = AuditEvent { actor: "bob".into(), ..resealed[3].event.clone() };
        resealed[3] = AuditEntry::seal(4, forged, resealed[3].previous).unwrap();
        assert_eq!(verify_chain(&resealed).unwrap_err().seq, 5, "the next entry no longer follows");
    }
}
