//! The log as JSON lines: one entry a line in canonical spelling, then one line that says how many and with what head.

use std::collections::VecDeque;
use std::io::{BufRead, Read as _};

use futures::stream::{Stream, try_unfold};
use serde::{Deserialize, Serialize};

use super::{AuditEntry, AuditLog, ChainFault, ChainSummary, ChainVerifier, GENESIS, PAGE};
use crate::{Digest, Error, Result, json};

/// The longest line that [`verify_export`] reads, in bytes.
const LINE: u64 = 64 << 20;

/// The last line: without it a file that was cut off would be a whole chain in itself.
#[derive(PartialEq, Serialize, Deserialize)]
struct End {
    entries: u64,
    head: Digest,
}

/// The log as lines of JSON, each with its newline: the entries in order, then `{"entries":…,"head":…}`.
///
/// Entries are given as they are, whole chain or not; they are read a page at a time.
///
/// # Examples
/// ```
/// # futures::executor::block_on(async {
/// use futures::TryStreamExt;
/// use mlops_core::audit::{AuditEvent, AuditLog, MemoryAuditLog, export, verify_export};
/// # let at = "1997-01-01T00:00:00Z".parse().unwrap();
/// let log = MemoryAuditLog::default();
/// log.append(AuditEvent::new(at, "ana", "version.create", "model prices/1")).await?;
/// let file: String = export(&log).try_collect().await?;
/// assert_eq!(file.lines().count(), 2);
/// assert_eq!(verify_export(file.as_bytes())?.unwrap().entries, 1);
/// let fault = verify_export(file.replace("ana", "bob").as_bytes())?.unwrap_err();
/// assert_eq!(fault.to_string(), "line 1 of the audit export: its contents differ from its digest");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
pub fn export<L: AuditLog + ?Sized>(log: &L) -> impl Stream<Item = Result<String>> + Send + '_ {
    struct Progress {
        page: VecDeque<AuditEntry>,
        next: u64,
        told: End,
        ended: bool,
    }
    let start = Progress { page: VecDeque::new(), next: 1, told: End { entries: 0, head: GENESIS }, ended: false };
    try_unfold(start, move |mut at| async move {
        if at.ended {
            return Ok(None);
        }
        if at.page.is_empty() {
            at.page = log.entries(at.next, PAGE).await?.into();
        }
        let mut line = match at.page.pop_front() {
            Some(entry) => {
                at.next = entry.seq.saturating_add(1);
                at.told = End { entries: at.told.entries + 1, head: entry.digest };
                json::to_canonical(&entry)?
            }
            None => {
                at.ended = true;
                json::to_canonical(&at.told)?
            }
        };
        line.push('\n');
        Ok(Some((line, at)))
    })
}

/// Where an exported file stops being what [`export`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("line {line} of the audit export: {reason}")]
pub struct ExportFault {
    /// The first bad line, from 1. Line `n` holds entry `n`.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Checks an exported file, without the log and in constant memory: every byte of it, to the end.
///
/// The chain of a file that somebody wrote anew from some line on is whole;
#[cfg_attr(
    feature = "audit-proofs",
    doc = "[`verify_export_against`](super::verify_export_against) compares it with signed checkpoints."
)]
#[cfg_attr(not(feature = "audit-proofs"), doc = "feature `audit-proofs` compares it with signed checkpoints.")]
///
/// # Errors
/// [`Error::Backend`] if `file` cannot be read. What is wrong with its contents is the [`ExportFault`] within.
pub fn verify_export(file: impl BufRead) -> Result<Result<ChainSummary, ExportFault>> {
    let mut chain = ChainVerifier::default();
    let told = |ChainFault { seq: line, reason }| ExportFault { line, reason };
    let checked = read_lines(file, |entry| chain.push(entry).map_err(told))?;
    Ok(checked.map(|()| chain.summary()))
}

/// Gives each entry to `check`, and checks that the lines are spelled and ended as [`export`] does.
pub(super) fn read_lines(
    mut file: impl BufRead,
    mut check: impl FnMut(&AuditEntry) -> Result<(), ExportFault>,
) -> Result<Result<(), ExportFault>> {
    let mut told = End { entries: 0, head: GENESIS };
    let mut line = 0;
    loop {
        line += 1;
        let fault = |reason: String| Ok(Err(ExportFault { line, reason }));
        let mut text = Vec::new();
        file.by_ref().take(LINE).read_until(b'\n', &mut text).map_err(unreadable)?;
        if text.pop_if(|last| *last == b'\n').is_none() {
            return fault(match text.len() as u64 {
                0 => "the file ends before the line that ends an export".to_owned(),
                LINE => format!("longer than {LINE} bytes"),
                _ => "cut off in the middle".to_owned(),
            });
        }
        let misspelled = || fault("not spelled as an export spells it".to_owned());
        match serde_json::from_slice::<AuditEntry>(&text) {
            Ok(entry) => {
                if let Err(fault) = check(&entry) {
                    return Ok(Err(fault));
                }
                if json::to_canonical(&entry)?.as_bytes() != text {
                    return misspelled();
                }
                told = End { entries: told.entries + 1, head: entry.digest };
            }
            Err(error) => {
                let Ok(end) = serde_json::from_slice::<End>(&text) else {
                    return fault(format!("not an audit entry: {error}"));
                };
                if json::to_canonical(&end)?.as_bytes() != text {
                    return misspelled();
                }
                if end != told {
                    let (found, head) = (told.entries, told.head.short());
                    let End { entries, .. } = end;
                    return fault(format!(
                        "{found} entries up to {head} precede it, and it tells of {entries} up to {}",
                        end.head.short()
                    ));
                }
                if file.fill_buf().map_err(unreadable)?.is_empty() {
                    return Ok(Ok(()));
                }
                let reason = "there is something behind the end of the export".to_owned();
                return Ok(Err(ExportFault { line: line + 1, reason }));
            }
        }
    }
}

fn unreadable(error: std::io::Error) -> Error {
    let (backend, key) = ("audit export".to_owned(), String::new());
    Error::Backend { backend, operation: "read", key, retryable: false, source: error.into() }
}
