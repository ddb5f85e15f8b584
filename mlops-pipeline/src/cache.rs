//! What a step gave before, found again by everything that went into it.

use std::collections::BTreeSet;

use mlops_core::digest::Hasher;
use mlops_core::{ArtifactStore, ArtifactStoreExt, DatasetRef, Digest, Error, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::context::Used;
use crate::pipeline::{Node, Plan, Step, Stored};

/// A cache entry: `cache/<key>` in the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) step: String,
    pub(crate) output: Digest,
    pub(crate) run: RunId,
    pub(crate) at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) reads: BTreeSet<DatasetRef>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) writes: BTreeSet<DatasetRef>,
}

impl Record {
    pub(crate) fn used(self) -> Used {
        Used { reads: self.reads, writes: self.writes }
    }
}

/// The code that a step runs, as text, if anybody said.
pub(crate) fn code_of(plan: &Plan, step: &Step) -> Option<String> {
    let code = step.options.code.as_ref().or(plan.code.as_ref()).map(|c| c.as_str().to_owned());
    match (&step.options.version, code) {
        (None, code) => code,
        (Some(version), None) => Some(format!("version:{version}")),
        (Some(version), Some(code)) => Some(format!("{code} version:{version}")),
    }
}

/// The key of a step with these inputs in this run: `None` as soon as any part of it is not known.
pub(crate) fn key(plan: &Plan, name: &str, step: &Step, inputs: &[Stored], run: RunId) -> Option<Digest> {
    let code = code_of(plan, step)?;
    let mut hasher = Hasher::default();
    hasher.field(b"mlops-pipeline step 1").field(plan.name.as_bytes()).field(name.as_bytes()).field(code.as_bytes());
    let scope = if step.options.cached { None } else { Some(run.to_string()) };
    hasher.field(scope.unwrap_or_default().as_bytes());
    inputs.iter().for_each(|input| {
        hasher.field(input.digest.as_bytes());
    });
    Some(hasher.finish())
}

/// The entry under `key` with its output, if both are whole. Whatever is wrong with them, the step runs again instead.
pub(crate) async fn look_up(store: &dyn ArtifactStore, key: &Digest, node: &Node) -> Option<(Record, Stored)> {
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        tracing::warn!(step = node.name, %key, %error, "{what}; the step runs again");
        None
    };
    let record = match store.get(&place(key)).await {
        Ok(bytes) => bytes,
        Err(Error::NotFound { .. }) => return None,
        Err(error) => return broken("cache entry cannot be read", &error),
    };
    let record: Record = match serde_json::from_slice(&record) {
        Ok(record) => record,
        Err(error) => return broken("cache entry is damaged", &error),
    };
    let bytes = match store.get_artifact(&record.output).await {
        Ok(bytes) => bytes,
        Err(error) => return broken("cached output is gone or damaged", &error),
    };
    if let Err(error) = node.check(&bytes) {
        return broken("cached output has another type", &error);
    }
    let stored = Stored { digest: record.output, bytes };
    Some((record, stored))
}

/// Keeps an output. Its entry comes after it: a crash between the two leaves a loose artifact, never a false entry.
pub(crate) async fn keep_output(store: &dyn ArtifactStore, output: &Stored) -> mlops_core::Result<()> {
    // Overwrites, where `put_artifact` would leave damaged bytes under this digest as they are.
    store.put(&mlops_core::store::artifact_key(&output.digest), output.bytes.clone()).await
}

/// Keeps the entry that names an output, once everything else about it is kept.
pub(crate) async fn keep_entry(store: &dyn ArtifactStore, key: &Digest, record: &Record) -> mlops_core::Result<()> {
    store.put(&place(key), mlops_core::json::to_canonical(record)?.into()).await
}

fn place(key: &Digest) -> String {
    format!("cache/{key}")
}
