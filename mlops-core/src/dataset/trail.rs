//! The audit entries of a dataset store. Each follows from an object in the store, so that one which a crash kept from the
//! log is made from that object later: a notice, written before the change, says where to look.

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::parquet::{Grave, ParquetDatasets};
use super::{DatasetStore, DatasetVersion, Tag};
use crate::audit::AuditEvent;
use crate::clock::from_micros;
use crate::store::{ArtifactStore, PutMode, check_name};
use crate::{Clock, Digest, Error, Result};

/// Where changes are announced: `pending/NAME/ID`.
const PENDING: &str = "pending/";
/// After that time, a change that was announced and cannot be seen did not happen.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A change of a dataset, by the object that shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Commit(Digest),
    Tag(String, u64),
    Remove(Digest),
}

/// What is written before a change.
#[derive(Serialize, Deserialize)]
struct Notice {
    change: Change,
    /// Microseconds since 1970.
    at: i64,
}

/// The key of a notice; none where there is no log.
#[must_use = "a change that was announced has to be recorded"]
pub(super) struct Announced(Option<String>);

pub(super) fn tag_key(dataset: &str, tag: &str, revision: u64) -> String {
    format!("tags/{dataset}/{tag}/{revision:020}")
}

/// The tag whose move is stored under a key; none for a stranger.
pub(super) fn tag_moved(key: &str) -> Option<&str> {
    let mut parts = key.strip_prefix("tags/")?.split('/').skip(1);
    let (tag, revision) = (parts.next()?, parts.next()?);
    (revision.parse::<u64>().is_ok() && parts.next().is_none()).then_some(tag)
}

pub(super) fn committed(version: &DatasetVersion) -> AuditEvent {
    let DatasetVersion { name, digest, rows, parent, source, .. } = version;
    let after = json!({"version": digest, "rows": rows, "parent": parent, "source": source});
    AuditEvent::new(version.created_at, &version.author, "dataset.commit", format!("dataset {name}"))
        .change(Value::Null, after)
}

pub(super) fn tagged(dataset: &str, before: Option<Digest>, moved: &Tag) -> AuditEvent {
    // With its revision: a tag that goes forth and back and forth at one time makes three entries.
    let after = json!({"version": moved.version, "revision": moved.revision});
    AuditEvent::new(moved.at, &moved.by, "dataset.tag", format!("dataset {dataset}@{}", moved.tag))
        .change(json!({"version": before}), after)
}

pub(super) fn removed(dataset: &str, digest: &Digest, grave: &Grave) -> AuditEvent {
    let mut before = json!({"version": digest, "rows": grave.rows});
    if let Some(id) = grave.id {
        before["removal"] = json!(id);
    }
    AuditEvent::new(grave.removal.at, &grave.removal.by, "dataset.remove", format!("dataset {dataset}"))
        .change(before, Value::Null)
        .because(&grave.removal.reason)
}

impl ParquetDatasets {
    /// Says that a change is about to be made.
    pub(super) async fn announce(&self, dataset: &str, change: Change) -> Result<Announced> {
        if self.audit.is_none() {
            return Ok(Announced(None));
        }
        let notice = Notice { change, at: self.clock.now().timestamp_micros() };
        let key = format!("{PENDING}{dataset}/{}", Uuid::new_v4());
        self.store.put_opts(&key, crate::json::to_canonical(&notice)?.into(), PutMode::Create).await?;
        Ok(Announced(Some(key)))
    }

    /// Takes back what was announced: somebody else made another change in its place.
    pub(super) async fn retract(&self, announced: Announced) {
        if let Some(key) = announced.0 {
            // One that stays is read once more, and says nothing new.
            self.store.delete(&key).await.ok();
        }
    }

    /// Puts the entry of a change that was made into the log.
    pub(super) async fn record(&self, announced: Announced, event: AuditEvent) -> Result<()> {
        if let Some(log) = &self.audit {
            log.append(event).await?;
            self.retract(announced).await;
        }
        Ok(())
    }

    /// Puts into the audit log what a crash kept from it, and returns how many changes that were. Each change of a dataset
    /// does this for that dataset first; a service that starts does it for all.
    ///
    /// # Errors
    /// Those of the store and the log; [`Error::InvalidInput`] if there is no log.
    pub async fn reconcile_audit(&self) -> Result<u64> {
        if self.audit.is_none() {
            return Err(Error::invalid("audit", "there is no log: give one to `ParquetDatasets::audit`"));
        }
        self.catch_up(PENDING).await
    }

    /// The same for one dataset, if there is a log.
    pub(super) async fn reconcile(&self, dataset: &str) -> Result<()> {
        check_name("dataset name", dataset)?;
        self.catch_up(&format!("{PENDING}{dataset}/")).await.map(drop)
    }

    async fn catch_up(&self, prefix: &str) -> Result<u64> {
        let Some(log) = &self.audit else { return Ok(0) };
        let mut found = 0;
        for object in self.store.list(prefix).await? {
            let notice = match self.store.get(&object.key).await {
                // Recorded since.
                Err(Error::NotFound { .. }) => continue,
                notice => notice?,
            };
            let Notice { change, at } = serde_json::from_slice(&notice)
                .map_err(|e| Error::invalid(&*object.key, format!("is no notice of a change ({e}): remove it")))?;
            let Some(dataset) = object.key.split('/').nth(1) else { continue };
            let forgotten =
                from_micros(at).checked_add_signed(TimeDelta::from_std(FORGOTTEN).unwrap_or(TimeDelta::MAX));
            let shown = self.event_of(dataset, &change).await?;
            let is_settled = shown.as_ref().is_some_and(|(_, is_settled)| *is_settled);
            if let Some((event, _)) = shown {
                log.append(event).await?;
                found += 1;
            }
            // Otherwise it may still be made.
            if is_settled || forgotten.is_some_and(|at| at <= self.clock.now()) {
                self.store.delete(&object.key).await?;
            }
        }
        Ok(found)
    }

    /// The entry of a change, from the object that shows it, and whether that is all there is to come of it; none if it
    /// cannot be seen.
    async fn event_of(&self, dataset: &str, change: &Change) -> Result<Option<(AuditEvent, bool)>> {
        match change {
            Change::Commit(digest) => match self.version(dataset, digest).await {
                Ok(version) => Ok(Some((committed(&version), true))),
                // Removed by somebody who kept no log; or it was, and is about to come back.
                Err(Error::NotFound { .. }) => {
                    let grave = self.grave(dataset, digest).await?;
                    Ok(grave.and_then(|grave| grave.committed).map(|event| (event, false)))
                }
                // Damaged: whoever mends it records it.
                Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => Ok(None),
                Err(error) => Err(error),
            },
            Change::Tag(tag, revision) => {
                let Some(moved) = self.tag_at(dataset, tag, *revision).await? else { return Ok(None) };
                let before = match revision.checked_sub(1) {
                    Some(before) => self.tag_at(dataset, tag, before).await?.and_then(|tag| tag.version),
                    None => None,
                };
                Ok(Some((tagged(dataset, before, &moved), true)))
            }
            Change::Remove(digest) => match self.version(dataset, digest).await {
                Err(Error::NotFound { .. }) => {
                    let grave = self.grave(dataset, digest).await?;
                    Ok(grave.map(|grave| (removed(dataset, digest, &grave), true)))
                }
                Ok(_) | Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    async fn tag_at(&self, dataset: &str, tag: &str, revision: u64) -> Result<Option<Tag>> {
        let key = tag_key(dataset, tag, revision);
        match self.store.get(&key).await {
            Ok(data) => {
                serde_json::from_slice(&data).map(Some).map_err(|e| Error::invalid(format!("stored tag {key}"), e))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
