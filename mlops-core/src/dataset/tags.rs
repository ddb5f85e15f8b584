//! Tags of dataset versions in an artifact store: `tags/NAME/TAG/REVISION`, one object for each move.

use std::collections::BTreeMap;

#[cfg(feature = "delta")]
use super::MoveTag;
use super::{DatasetVersion, Tag};
#[cfg(feature = "delta")]
use crate::audit::AuditEvent;
use crate::store::{ArtifactStore, check_name};
use crate::{Error, Result};

#[cfg(feature = "delta")]
impl MoveTag {
    pub(super) fn check(&self) -> Result<()> {
        check_name("dataset name", &self.dataset)?;
        check_name("tag", &self.tag)
    }
}

/// Moves a tag to a version that the caller knows to exist, and tells what the audit log should know.
#[cfg(feature = "delta")]
pub(super) async fn move_tag(store: &dyn ArtifactStore, change: MoveTag) -> Result<(Tag, AuditEvent)> {
    let MoveTag { dataset, tag, to, from, by, at } = change;
    let now = newest(store, &dataset, &tag).await?;
    let seen = now.as_ref().and_then(|tag| tag.version);
    let conflict = |found: Option<crate::Digest>| {
        let said = |digest: Option<crate::Digest>| digest.map_or("no version".to_owned(), |d| d.to_string());
        Error::Conflict { what: "tag", name: format!("{dataset}@{tag}"), expected: said(from), found: said(found) }
    };
    if seen != from {
        return Err(conflict(seen));
    }
    let revision = now.map_or(1, |tag| tag.revision + 1);
    let at = at.unwrap_or_else(|| crate::Clock::now(&crate::SystemClock));
    let moved = Tag { tag: tag.clone(), version: to, revision, at, by };
    let key = super::trail::tag_key(&dataset, &tag, revision);
    let data = crate::json::to_canonical(&moved)?;
    match store.put_opts(&key, data.into(), crate::store::PutMode::Create).await {
        Ok(()) => {
            let event = super::trail::tagged(&dataset, from, &moved);
            Ok((moved, event))
        }
        Err(Error::AlreadyExists { .. }) => {
            Err(conflict(newest(store, &dataset, &tag).await?.and_then(|tag| tag.version)))
        }
        Err(error) => Err(error),
    }
}

/// The tags of a dataset that name a version, by name.
pub(super) async fn list(store: &dyn ArtifactStore, name: &str) -> Result<Vec<Tag>> {
    check_name("dataset name", name)?;
    // Keys sort by revision, so the last of each tag is the newest.
    let objects = store.list(&format!("tags/{name}/")).await?;
    let newest: BTreeMap<&str, &str> =
        objects.iter().filter_map(|o| Some((super::trail::tag_moved(&o.key)?, o.key.as_str()))).collect();
    let mut tags = Vec::new();
    for key in newest.values() {
        let tag = read(store, key).await?;
        tags.extend(tag.version.is_some().then_some(tag));
    }
    Ok(tags)
}

/// Checks that no tag keeps a version from being removed.
pub(super) async fn check_untagged(store: &dyn ArtifactStore, version: &DatasetVersion) -> Result<()> {
    match list(store, &version.name).await?.iter().find(|tag| tag.version == Some(version.digest)) {
        Some(tag) => {
            let reason = format!("{version} is tagged {:?}; move or remove the tag first", tag.tag);
            Err(Error::invalid("dataset version", reason))
        }
        None => Ok(()),
    }
}

/// The newest revision of a tag; none for one that was never set.
pub(super) async fn newest(store: &dyn ArtifactStore, dataset: &str, tag: &str) -> Result<Option<Tag>> {
    let mut moves = store.list(&format!("tags/{dataset}/{tag}/")).await?;
    moves.retain(|object| super::trail::tag_moved(&object.key).is_some());
    match moves.pop() {
        Some(newest) => read(store, &newest.key).await.map(Some),
        None => Ok(None),
    }
}

async fn read(store: &dyn ArtifactStore, key: &str) -> Result<Tag> {
    let data = store.get(key).await?;
    serde_json::from_slice(&data).map_err(|e| Error::invalid(format!("stored tag {key}"), e))
}
