use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::{DatasetStore, DatasetVersion};
use crate::lineage::{LineageStore, NodeKind, NodeRef};
use crate::{Digest, Error, Result, Timestamp};

/// Why a version was removed: it stays when the version is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Why.
    pub reason: String,
    /// By whom.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed on {} by {}: {}", self.at.format("%Y-%m-%d"), self.by, self.reason)
    }
}

/// Which versions of a dataset may go. What is kept by any of these stays: the newest few, the young, the tagged, those
/// that a run, model, deployment or other dataset was made from, and those that the versions kept were made from in one
/// step (so that each can be compared with what it came from).
#[derive(Clone, Debug)]
#[must_use]
pub struct Retention {
    keep_last: usize,
    keep_for: TimeDelta,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_last: 10, keep_for: TimeDelta::days(30) }
    }
}

impl Retention {
    /// Keeps that many of the newest versions (default 10, at least 1).
    pub fn keep_last(mut self, versions: usize) -> Self {
        self.keep_last = versions.max(1);
        self
    }

    /// Keeps what was committed within that time (default 30 days).
    pub fn keep_for(mut self, time: TimeDelta) -> Self {
        self.keep_for = time;
        self
    }
}

/// What [`retain`] did.
#[derive(Clone, Debug, Default)]
pub struct Retained {
    /// The versions that were removed.
    pub removed: Vec<DatasetVersion>,
    /// The versions that were old enough to go and stay, with the reason.
    pub held: Vec<(DatasetVersion, String)>,
    /// How many versions stay.
    pub kept: usize,
}

impl fmt::Display for Retained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} versions removed, {} kept", self.removed.len(), self.kept)?;
        self.held.iter().try_for_each(|(version, reason)| write!(f, "\n  {version} stays: {reason}"))
    }
}

/// Removes the versions of a dataset that a policy lets go. Their bytes go with the next garbage collection.
///
/// # Errors
/// Those of the store and of the lineage; what was removed by then stays removed.
pub async fn retain(
    store: &dyn DatasetStore,
    lineage: &dyn LineageStore,
    name: &str,
    policy: &Retention,
    by: &str,
    now: Timestamp,
) -> Result<Retained> {
    let versions = store.versions(name).await?;
    let tags = store.tags(name).await?;
    let young = versions.len().saturating_sub(policy.keep_last);
    let mut outcome = Retained::default();
    let mut kept: BTreeSet<Digest> = BTreeSet::new();
    let mut going = Vec::new();
    for (i, version) in versions.into_iter().enumerate() {
        if i >= young || now - version.created_at <= policy.keep_for {
            kept.insert(version.digest);
            kept.extend(version.parent.map(|p| p.digest));
            continue;
        }
        let tag = tags.iter().find(|tag| tag.version == Some(version.digest));
        let reason = match tag {
            Some(tag) => Some(format!("it is tagged {:?}", tag.tag)),
            None => used_by(lineage, &version).await?.map(|user| format!("{user} was made from it")),
        };
        match reason {
            Some(reason) => {
                kept.insert(version.digest);
                kept.extend(version.parent.as_ref().map(|p| p.digest));
                outcome.held.push((version, reason));
            }
            None => going.push(version),
        }
    }
    let removal = Removal { reason: "retention".to_owned(), by: by.to_owned(), at: now };
    for version in going {
        if kept.contains(&version.digest) {
            outcome.held.push((version, "a version that is kept was made from it".to_owned()));
            continue;
        }
        store.remove(&version, removal.clone()).await?;
        outcome.removed.push(version);
    }
    outcome.kept = store.versions(name).await?.len();
    Ok(outcome)
}

/// What was made from `version` itself; later versions of its dataset and what came of them apart.
async fn made_from(lineage: &dyn LineageStore, own: &str, node: &NodeRef) -> Result<Vec<NodeRef>> {
    let graph = match lineage.downstream(node, 1).await {
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        graph => graph?,
    };
    let version_of_own = |node: &NodeRef| node.kind == NodeKind::Dataset && node.id.split('@').next() == Some(own);
    Ok(graph.nodes.into_iter().map(|n| n.node).filter(|n| n != node && !version_of_own(n)).collect())
}

/// A run, model, deployment or other dataset that was made from `version`.
pub(super) async fn used_by(lineage: &dyn LineageStore, version: &DatasetVersion) -> Result<Option<NodeRef>> {
    Ok(made_from(lineage, &version.name, &NodeRef::dataset(&version.reference())).await?.into_iter().next())
}

/// All that was made from `version`, in any number of steps, but not by way of later versions of its dataset.
pub(super) async fn reached(lineage: &dyn LineageStore, version: &DatasetVersion) -> Result<BTreeSet<NodeRef>> {
    let mut reached = BTreeSet::new();
    let mut waiting = VecDeque::from([NodeRef::dataset(&version.reference())]);
    while let Some(node) = waiting.pop_front() {
        for next in made_from(lineage, &version.name, &node).await? {
            if reached.insert(next.clone()) {
                waiting.push_back(next);
            }
        }
    }
    Ok(reached)
}
