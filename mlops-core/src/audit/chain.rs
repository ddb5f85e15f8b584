use super::{AuditEntry, GENESIS};
use crate::Digest;

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
    let mut chain = ChainVerifier::default();
    entries.into_iter().try_for_each(|entry| chain.push(entry))?;
    Ok(chain.summary())
}

/// Checks a chain entry by entry, in constant memory.
#[derive(Clone, Copy, Debug)]
pub struct ChainVerifier(ChainSummary);

impl Default for ChainVerifier {
    fn default() -> Self {
        Self::after(ChainSummary { entries: 0, head: GENESIS })
    }
}

impl ChainVerifier {
    /// Goes on behind a chain that was checked before.
    #[must_use]
    pub fn after(checked: ChainSummary) -> Self {
        Self(checked)
    }

    /// Checks the next entry.
    ///
    /// # Errors
    /// [`ChainFault`] if it does not belong there; what was checked so far stands.
    pub fn push(&mut self, entry: &AuditEntry) -> Result<(), ChainFault> {
        let seq = self.0.entries.saturating_add(1);
        let fault = |reason: String| Err(ChainFault { seq, reason });
        if entry.seq != seq {
            return fault(format!("found entry {} in its place", entry.seq));
        }
        if entry.previous != self.0.head {
            return fault("it does not follow the entry before it".to_owned());
        }
        if !entry.is_intact() {
            return fault("its contents differ from its digest".to_owned());
        }
        self.0 = ChainSummary { entries: seq, head: entry.digest };
        Ok(())
    }

    /// The chain up to here.
    #[must_use]
    pub fn summary(&self) -> ChainSummary {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::AuditEvent;
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
