//! Manifests: how a version is stored, and what of the store a collection has to leave alone for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use super::{DatasetStore, DatasetVersion, ParquetDatasets};
use crate::store::{ArtifactStore, ObjectMeta, Roots, check_name};
use crate::{Digest, Error, Result, Timestamp};

/// Manifests that are read at the same time.
pub(super) const PARALLEL: usize = 16;
/// How long ago an object must have been written to look different should it be written again.
const SETTLED: TimeDelta = TimeDelta::seconds(60);
/// Where a manifest has its seal.
const SEAL: &str = "seal";

/// A version as it is stored: with a digest over all of it, as its own digest is not over what follows from its rows.
pub(super) fn seal(version: &DatasetVersion) -> Result<String> {
    let failed = |error| Error::invalid("manifest", error);
    let mut manifest: Map<String, Value> =
        serde_json::to_value(version).and_then(serde_json::from_value).map_err(failed)?;
    let seal = Digest::of_json(&manifest)?;
    manifest.insert(SEAL.to_owned(), json!(seal));
    crate::json::to_canonical(&manifest)
}

/// The version that was stored so. A manifest of a state before there were seals has none.
pub(super) fn unseal(name: &str, manifest: &[u8]) -> Result<DatasetVersion> {
    let unreadable = |error| Error::invalid(format!("manifest of {name}"), error);
    let mut manifest: Map<String, Value> = serde_json::from_slice(manifest).map_err(unreadable)?;
    if let Some(seal) = manifest.remove(SEAL) {
        let expected: Digest = serde_json::from_value(seal).map_err(unreadable)?;
        let found = Digest::of_json(&manifest)?;
        if found != expected {
            return Err(Error::Corrupt { what: format!("manifest of dataset {name}"), expected, found });
        }
    }
    serde_json::from_value(Value::Object(manifest)).map_err(unreadable)
}

/// The dataset and the version whose manifest is stored under a key; none for a stranger among them.
pub(super) fn of_key(key: &str) -> Option<(&str, Digest)> {
    let (name, digest) = key.strip_prefix("datasets/")?.split_once('/')?;
    check_name("dataset name", name).ok()?;
    Some((name, digest.parse().ok()?))
}

/// All artifacts that a version names.
pub(super) fn artifacts(version: &DatasetVersion) -> impl Iterator<Item = Digest> {
    let files = version.files.iter().map(|file| file.blob.digest);
    files.chain(version.sketches).chain([version.schema])
}

/// What one manifest names, and how it looked in the listing.
#[derive(Clone, Debug)]
pub(super) struct Named {
    modified: Timestamp,
    bytes: u64,
    digests: Vec<Digest>,
}

/// All that the versions name: hand it to a [`Collector`](crate::store::Collector) that frees what they do not.
#[async_trait]
impl Roots for ParquetDatasets {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        let settled = self.clock.now().checked_sub_signed(SETTLED).unwrap_or(Timestamp::MIN_UTC);
        let known = std::mem::take(&mut *self.named.lock().unwrap_or_else(PoisonError::into_inner));
        let read = |ObjectMeta { key, modified, bytes }: ObjectMeta| {
            let same = |known: &&Named| (known.modified, known.bytes) == (modified, bytes);
            let known = known.get(&key).filter(same).cloned();
            async move {
                if let Some(known) = known {
                    return Ok(Some((key, known)));
                }
                let Some((name, digest)) = of_key(&key) else { return Ok(None) };
                let digests = match self.version(name, &digest).await {
                    // Removed since it was listed.
                    Err(Error::NotFound { .. }) => return Ok(None),
                    version => artifacts(&version?).collect(),
                };
                Ok::<_, Error>(Some((key, Named { modified, bytes, digests })))
            }
        };
        let objects = self.store.list("datasets/").await?;
        let mut read = stream::iter(objects).map(read).buffer_unordered(PARALLEL);
        let mut named = BTreeMap::new();
        while let Some(found) = read.try_next().await? {
            let Some((key, found)) = found else { continue };
            live.extend(found.digests.iter());
            // Where times are coarse, a manifest that is written anew at once may look the same.
            if found.modified < settled {
                named.insert(key, found);
            }
        }
        drop(read);
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = named;
        Ok(())
    }
}
