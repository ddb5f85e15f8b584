//! The log against what was signed: what its chain alone cannot show.

use std::collections::VecDeque;
use std::io::BufRead;

use super::export::read_lines;
use super::{
    AuditEntry, AuditLog, ChainFault, ChainSummary, ChainVerifier, Checkpoint, ExportFault, MerkleFrontier, PAGE,
};
use crate::Result;

/// How a log differs from what was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault {
    /// An entry was changed, removed or moved.
    #[error("audit chain breaks at entry {seq}: {reason}; the checkpoint of {trusted} entries still holds")]
    Broken {
        /// The place of the first entry that does not fit.
        seq: u64,
        /// What does not fit.
        reason: String,
        /// The last checkpoint before it that holds, 0 for none.
        trusted: u64,
    },
    /// Entries were cut off the end.
    #[error(
        "audit log ends before entry {seq}, and the checkpoint of {signed} entries was signed; that of {trusted} still \
         holds"
    )]
    CutOff {
        /// The place of the first entry that is missing.
        seq: u64,
        /// The smallest checkpoint that the log does not reach.
        signed: u64,
        /// The last checkpoint that holds, 0 for none.
        trusted: u64,
    },
    /// The chain is whole and is not the one that was signed: somebody wrote it anew.
    #[error(
        "audit log was written anew somewhere from entry {seq} to {signed}: the checkpoint of {signed} entries does \
         not hold, that of {trusted} still does"
    )]
    Rewritten {
        /// The first entry that may be another than the one signed.
        seq: u64,
        /// The smallest checkpoint that does not hold.
        signed: u64,
        /// The last checkpoint that holds, 0 for none.
        trusted: u64,
    },
}

impl LogFault {
    /// The first entry that is wrong or, where the chain is whole, may be.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            Self::Broken { seq, .. } | Self::CutOff { seq, .. } | Self::Rewritten { seq, .. } => *seq,
        }
    }

    /// How many entries from the first on are those that were signed.
    #[must_use]
    pub fn trusted(&self) -> u64 {
        match self {
            Self::Broken { trusted, .. } | Self::CutOff { trusted, .. } | Self::Rewritten { trusted, .. } => *trusted,
        }
    }
}

/// Checks entries one by one against their chain and against checkpoints, in memory for the checkpoints alone.
#[derive(Clone, Debug)]
pub struct LogVerifier {
    chain: ChainVerifier,
    tree: MerkleFrontier,
    trusted: u64,
    signed: VecDeque<Checkpoint>,
}

impl LogVerifier {
    /// Checks from the first entry, against these checkpoints in any order.
    pub fn new(checkpoints: impl IntoIterator<Item = Checkpoint>) -> Self {
        let mut signed: Vec<Checkpoint> = checkpoints.into_iter().collect();
        signed.sort_by_key(Checkpoint::entries);
        Self { chain: ChainVerifier::default(), tree: MerkleFrontier::default(), trusted: 0, signed: signed.into() }
    }

    /// Goes on behind the entries of a checkpoint, taking its signature for them.
    #[must_use]
    pub fn after(checkpoint: &Checkpoint) -> Self {
        let chain = ChainVerifier::after(ChainSummary { entries: checkpoint.entries(), head: checkpoint.head() });
        Self { chain, tree: checkpoint.tree().clone(), trusted: checkpoint.entries(), signed: VecDeque::new() }
    }

    /// Checks the next entry.
    ///
    /// # Errors
    /// [`LogFault`] if it does not belong there, or is the last of a checkpoint that does not hold.
    pub fn push(&mut self, entry: &AuditEntry) -> Result<(), LogFault> {
        let trusted = self.trusted;
        self.chain.push(entry).map_err(|ChainFault { seq, reason }| LogFault::Broken { seq, reason, trusted })?;
        self.tree.push(entry.digest.as_bytes());
        while let Some(next) = self.signed.front()
            && next.entries() == entry.seq
        {
            if (next.root(), next.head()) != (self.tree.root(), entry.digest) {
                return Err(LogFault::Rewritten { seq: trusted + 1, signed: entry.seq, trusted });
            }
            self.trusted = entry.seq;
            self.signed.pop_front();
        }
        Ok(())
    }

    /// Ends the check: every checkpoint must have been reached.
    ///
    /// # Errors
    /// [`LogFault::CutOff`] if one was not.
    pub fn finish(self) -> Result<ChainSummary, LogFault> {
        let summary = self.chain.summary();
        match self.signed.front() {
            Some(next) => {
                let (seq, signed, trusted) = (summary.entries + 1, next.entries(), self.trusted);
                Err(LogFault::CutOff { seq, signed, trusted })
            }
            None => Ok(summary),
        }
    }

    /// The tree over the entries so far.
    #[must_use]
    pub fn tree(&self) -> &MerkleFrontier {
        &self.tree
    }

    /// The chain up to here.
    #[must_use]
    pub fn summary(&self) -> ChainSummary {
        self.chain.summary()
    }

    /// Reads what the log has more, a page at a time.
    pub(super) async fn read<L: AuditLog + ?Sized>(&mut self, log: &L) -> Result<Result<(), LogFault>> {
        loop {
            let page = log.entries(self.summary().entries + 1, PAGE).await?;
            if page.is_empty() {
                return Ok(Ok(()));
            }
            if let Err(fault) = page.iter().try_for_each(|entry| self.push(entry)) {
                return Ok(Err(fault));
            }
        }
    }
}

/// Reads the whole log, a page at a time, and checks it against its chain and against `checkpoints`.
///
/// Names the first entry changed, removed or moved; sees entries cut off the end and a chain that was written anew, and
/// says from which checkpoint on. What was appended behind the last checkpoint is guarded by the chain alone, and whoever
/// can remove a checkpoint can remove what it says: keep the last one, or the store they are in, where the log's owner
/// cannot write.
///
/// # Errors
/// Those of the log. What is wrong with its contents is the [`LogFault`] within.
pub async fn verify_log<L: AuditLog + ?Sized>(
    log: &L,
    checkpoints: impl IntoIterator<Item = Checkpoint>,
) -> Result<Result<ChainSummary, LogFault>> {
    let mut verifier = LogVerifier::new(checkpoints);
    Ok(match verifier.read(log).await? {
        Ok(()) => verifier.finish(),
        Err(fault) => Err(fault),
    })
}

/// [`verify_export`](super::verify_export), and the same file against checkpoints. Needs no log and no store.
///
/// # Errors
/// [`Error::Backend`](crate::Error::Backend) if `file` cannot be read. What is wrong with its contents is the
/// [`ExportFault`] within.
pub fn verify_export_against(
    file: impl BufRead,
    checkpoints: impl IntoIterator<Item = Checkpoint>,
) -> Result<Result<ChainSummary, ExportFault>> {
    let mut verifier = LogVerifier::new(checkpoints);
    let told = |fault: LogFault| {
        let line = fault.seq();
        let reason = match fault {
            LogFault::Broken { reason, .. } => reason,
            other => other.to_string(),
        };
        ExportFault { line, reason }
    };
    Ok(match read_lines(file, |entry| verifier.push(entry).map_err(told))? {
        Ok(()) => verifier.finish().map_err(told),
        Err(fault) => Err(fault),
    })
}
