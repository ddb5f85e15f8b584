use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{AuditEntry, AuditEvent, AuditLog, GENESIS};
use crate::{Digest, Error, Result};

/// A log in memory: the reference implementation.
#[derive(Clone, Debug, Default)]
pub struct MemoryAuditLog(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    log: Vec<AuditEntry>,
    /// Place of each event in `log`, by the digest of its canonical JSON.
    known: HashMap<Digest, usize>,
}

impl fmt::Display for MemoryAuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl AuditLog for MemoryAuditLog {
    async fn append(&self, event: AuditEvent) -> Result<AuditEntry> {
        let key = Digest::of_json(&event)?;
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { log, known } = &mut *entries;
        if let Some(&place) = known.get(&key) {
            return Ok(log[place].clone());
        }
        let previous = log.last().map_or(GENESIS, |e| e.digest);
        let entry = AuditEntry::seal(log.len() as u64 + 1, event, previous)?;
        known.insert(key, log.len());
        log.push(entry.clone());
        Ok(entry)
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(from.saturating_sub(1)).map_err(|e| Error::invalid("from", e))?;
        Ok(entries.log.iter().skip(skip).take(limit).cloned().collect())
    }
}
