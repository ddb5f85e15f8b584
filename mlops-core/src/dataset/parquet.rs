use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{ready, try_join3};
use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};

use super::stats::{self, ColumnSketch};
use super::trail::{self, Announced, Change};
use super::written::{self, Kept, Origin, Written, decode_schema, segments, some_batch};
use super::{
    Base, DataFile, DatasetStore, DatasetVersion, FileFormat, MoveTag, NewDataset, Partition, Removal, Rows, Scan, Tag,
    blocking, check_schema, files, same_columns, segment, tags,
};
use crate::audit::{AuditEvent, AuditLog};
use crate::store::{
    ArtifactStore, ArtifactStoreExt, Blob, BlobReader, BlobWriter, Lease, PutMode, Roots, alone, check_name, is_whole,
};
use crate::{Clock, Digest, Error, Result, SystemClock, Timestamp};

/// Segments that are encoded at the same time.
const PARALLEL: usize = 2;

/// Dataset versions in an artifact store: rows as Parquet, files as they are.
///
/// Rows are cut into files of about 16 MiB where their contents say so, and these into chunks that equal rows share: a
/// version that differs from another in a few places costs little more than these places. Files that the newest version has
/// of the same rows are checked and kept. While rows are written or read a few such files are in memory, never a version.
///
/// # Layout
/// ```text
/// datasets/NAME/DIGEST        manifest of a version     artifacts/, chunks/   its files, schema and sketches
/// tags/NAME/TAG/REVISION      each move of a tag        removed/NAME/DIGEST   what was removed, when and why
/// pending/NAME/ID             a change that may not be in the audit log yet
/// ```
#[derive(Clone, Debug)]
pub struct ParquetDatasets {
    pub(super) store: Arc<dyn ArtifactStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Option<Arc<dyn AuditLog>>,
}

impl ParquetDatasets {
    /// Dataset versions in `store`.
    pub fn new(store: impl ArtifactStore) -> Self {
        Self { store: Arc::new(store), clock: Arc::new(SystemClock), audit: None }
    }

    /// The clock of the leases that keep a garbage collection away from a commit (default: the system's).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where commits, moves of tags and removals are recorded. A change is acknowledged once its entry is in the log. One
    /// that was made by a process that crashed before that has its entry before the next change of that dataset is made,
    /// or by [`reconcile_audit`](Self::reconcile_audit).
    #[must_use]
    pub fn audit(mut self, log: impl AuditLog) -> Self {
        self.audit = Some(Arc::new(log));
        self
    }

    async fn schema(&self, version: &DatasetVersion) -> Result<SchemaRef> {
        decode_schema(self.store.get_artifact(&version.schema).await?)
    }

    /// Writes segments, and learns from them. Rows that are in a `known` file are not encoded again.
    async fn write(
        &self,
        segments: BoxStream<'_, Result<(Partition, RecordBatch)>>,
        known: &BTreeMap<Digest, Blob>,
        lease: &Lease,
    ) -> Result<Written> {
        let encoded = segments.map(|segment| async {
            let (partition, rows) = segment?;
            let described = blocking(move || segment::digest(&rows).map(|digest| (rows, digest)));
            let (rows, digest) = described.await?;
            let kept = match known.get(&digest) {
                Some(blob) if self.is_whole(blob).await => Some(*blob),
                _ => None,
            };
            blocking(move || {
                let mut sketches = stats::empty(rows.num_columns())?;
                stats::update(&mut sketches, &rows)?;
                let parts = if kept.is_none() { segment::encode(&rows)? } else { Vec::new() };
                Ok(Encoded { partition, rows: rows.num_rows() as u64, digest, kept, parts, sketches })
            })
            .await
        });
        let mut encoded = encoded.buffered(PARALLEL);
        let mut written = Written::default();
        let mut next = encoded.try_next().await?;
        while let Some(Encoded { partition, rows, digest, kept, parts, sketches }) = next {
            let put = async {
                if let Some(kept) = kept {
                    return Ok(kept);
                }
                let mut writer = BlobWriter::under(&*self.store, lease);
                writer.write_parts(parts).await?;
                writer.finish().await
            };
            // Meanwhile what the segments before have staged goes to the disk, and those behind are encoded.
            let blob;
            (blob, (), next) = try_join3(put, self.store.sync(), encoded.try_next()).await?;
            let rows_digest = Some(digest);
            let mut file = DataFile::new(blob, rows, FileFormat::Parquet, partition);
            file.rows_digest = rows_digest;
            written.add(file, sketches)?;
        }
        Ok(written)
    }

    /// The files of the newest version, by their rows. Whatever cannot be read is not known.
    async fn known(&self, name: &str) -> BTreeMap<Digest, Blob> {
        let found = self.store.list(&format!("datasets/{name}/")).await.unwrap_or_default();
        let newest = found.iter().max_by_key(|object| object.modified);
        let digest = newest.and_then(|object| object.key.rsplit('/').next()?.parse().ok());
        let version = match digest {
            Some(digest) => self.version(name, &digest).await.ok(),
            None => None,
        };
        version.iter().flat_map(|v| &v.files).filter_map(|file| Some((file.rows_digest?, file.blob))).collect()
    }

    /// Whether all bytes of a file are there.
    async fn is_whole(&self, blob: &Blob) -> bool {
        let Ok(reader) = BlobReader::open_as(Arc::clone(&self.store), blob).await else { return false };
        reader.stream().try_for_each(|_| ready(Ok(()))).await.is_ok()
    }

    /// Commits as long as the lease holds, and says whether it did to the end.
    async fn commit_under(&self, new: NewDataset, lease: &Lease) -> Result<(DatasetVersion, Announced, Result<()>)> {
        if let Some(Base::Append(before) | Base::ReplacePartitions(before)) = &new.base {
            // Should it be removed from here on, its files stay while the lease is held.
            self.version(&before.name, &before.digest).await?;
        }
        let NewDataset { name, rows, parent, base, partition_by, source, author, at } = new;
        let (schema, mut written) = match rows {
            Rows::Files(paths, schema) => self.import(paths, schema, lease).await?,
            Rows::Batches(_) | Rows::Stream(..) => {
                let (schema, batches) = match rows {
                    Rows::Stream(schema, batches) => (schema, batches),
                    Rows::Batches(batches) => (batches[0].schema(), stream::iter(batches.into_iter().map(Ok)).boxed()),
                    Rows::Files(..) => unreachable!("matched above"),
                };
                check_schema(&name, &schema)?;
                let known = self.known(&name).await;
                let segments = segments(Arc::clone(&schema), batches, &partition_by);
                let mut written = self.write(segments, &known, lease).await?;
                written.files.sort_by(|a, b| a.partition.cmp(&b.partition));
                (schema, written)
            }
        };
        if written.files.iter().all(|file| file.rows == 0) {
            return Err(Error::invalid("dataset", format!("{name} has no rows")));
        }
        if let Some(base) = &base {
            let (Base::Append(before) | Base::ReplacePartitions(before)) = base;
            same_columns(&*self.schema(before).await?, &schema)?;
            let sketches = match base {
                Base::Append(before) => self.sketches(before).await?,
                Base::ReplacePartitions(_) => Vec::new(),
            };
            written.onto(base, sketches, &partition_by)?;
        }
        let kept = Kept::put(&*self.store, &schema, &written.sketches).await?;
        let version = written.into_version(Origin { name, parent, source, author, at }, &schema, kept)?;
        // Nothing may name the files before they are safe.
        self.store.sync().await?;
        let manifest = crate::json::to_canonical(&version)?;
        let key = Self::manifest_key(&version.name, &version.digest);
        let announced = self.announce(&version.name, Change::Commit(version.digest)).await?;
        lease.check()?;
        let version = loop {
            match self.store.put_opts(&key, manifest.clone().into(), PutMode::Create).await {
                Ok(()) => break version,
                Err(Error::AlreadyExists { .. }) => match self.version(&version.name, &version.digest).await {
                    // What is there is damaged: the same version, written anew, mends it.
                    Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => {
                        self.store.put_opts(&key, manifest.into(), PutMode::Overwrite).await?;
                        break version;
                    }
                    // Removed since.
                    Err(Error::NotFound { .. }) => {}
                    known => break known?,
                },
                Err(error) => return Err(error),
            }
        };
        Ok((version, announced, lease.check()))
    }

    /// Decides about a manifest that came after its lease was over: a collection may have taken what it names. Others may
    /// have committed the same version, found the manifest and acknowledged it, whoever wrote it; so it goes only if
    /// something is missing while nobody commits: whoever has acknowledged it has seen to it that nothing is.
    async fn settle(&self, version: &DatasetVersion, expired: Error) -> Result<()> {
        let lock = alone(&self.store, &self.clock).await?;
        let settled = async {
            for digest in named(version) {
                lock.keep().await?;
                if !is_whole(&*self.store, &digest).await? {
                    lock.check()?;
                    self.store.delete(&Self::manifest_key(&version.name, &version.digest)).await?;
                    return Err(expired);
                }
            }
            lock.check()
        };
        let settled = settled.await;
        lock.release().await.ok();
        settled
    }

    fn manifest_key(name: &str, digest: &Digest) -> String {
        format!("datasets/{name}/{digest}")
    }

    pub(super) async fn grave(&self, name: &str, digest: &Digest) -> Result<Option<Grave>> {
        match self.store.get(&format!("removed/{name}/{digest}")).await {
            Ok(grave) => Ok(serde_json::from_slice(&grave).ok()),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A segment that is ready to be written.
struct Encoded {
    partition: Partition,
    rows: u64,
    digest: Digest,
    /// The file that has it already.
    kept: Option<Blob>,
    parts: Vec<Bytes>,
    sketches: Vec<ColumnSketch>,
}

/// What stays of a version that was removed.
#[derive(Serialize, Deserialize)]
pub(super) struct Grave {
    parent: Option<crate::package::DatasetRef>,
    created_at: Timestamp,
    pub(super) rows: u64,
    pub(super) removal: Removal,
    /// What the audit log says of its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<AuditEvent>,
}

/// All artifacts that a version names.
fn named(version: &DatasetVersion) -> impl Iterator<Item = Digest> {
    let files = version.files.iter().map(|file| file.blob.digest);
    files.chain(version.sketches).chain([version.schema])
}

impl fmt::Display for ParquetDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parquet in {}", self.store)
    }
}

#[async_trait]
impl DatasetStore for ParquetDatasets {
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion> {
        new.check()?;
        self.reconcile(&new.name).await?;
        let lease = Lease::acquire(Arc::clone(&self.store), Arc::clone(&self.clock)).await?;
        let committed = self.commit_under(new, &lease).await;
        // A lease that cannot be removed expires; the commit stands or fell without it.
        lease.release().await.ok();
        let (version, announced, held) = committed?;
        if let Err(expired) = held {
            self.settle(&version, expired).await?;
        }
        self.record(announced, trail::committed(&version)).await?;
        Ok(version)
    }

    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion> {
        check_name("dataset name", name)?;
        let manifest = match self.store.get(&Self::manifest_key(name, digest)).await {
            Err(Error::NotFound { .. }) => {
                let gone = self.grave(name, digest).await?.map(|grave| format!(" ({})", grave.removal));
                return Err(Error::not_found(
                    "dataset version",
                    format!("{name}@{digest}{}", gone.unwrap_or_default()),
                ));
            }
            other => other?,
        };
        let version: DatasetVersion =
            serde_json::from_slice(&manifest).map_err(|e| Error::invalid(format!("manifest of {name}"), e))?;
        let found = version.digest_of()?;
        if found == *digest && version.digest == found {
            Ok(version)
        } else {
            Err(Error::Corrupt { what: format!("manifest of dataset {name}"), expected: *digest, found })
        }
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        check_name("dataset name", name)?;
        let mut versions = Vec::new();
        for object in self.store.list(&format!("datasets/{name}/")).await? {
            let digest = object.key.rsplit('/').next().unwrap_or_default().parse()?;
            match self.version(name, &digest).await {
                // Removed since it was listed.
                Err(Error::NotFound { .. }) => {}
                version => versions.push(version?),
            }
        }
        versions.sort_by_key(|v| (v.created_at, v.digest));
        Ok(versions)
    }

    async fn names(&self) -> Result<Vec<String>> {
        let objects = self.store.list("datasets/").await?;
        let names: BTreeSet<&str> = objects.iter().filter_map(|object| object.key.split('/').nth(1)).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    async fn scan(&self, version: &DatasetVersion, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        scan.check(&version.columns)?;
        let schema = self.schema(version).await?;
        let place = |name: &str| version.columns.iter().position(|column| column.name == name);
        let wanted = |file: &&DataFile| match &scan.filter {
            Some(filter) => filter.may_match(&|name: &str| file.stats.get(place(name)?)),
            None => true,
        };
        let chosen: Vec<DataFile> = version.files.iter().filter(wanted).cloned().collect();
        let none = scan.project(&RecordBatch::new_empty(Arc::clone(&schema)))?;
        let (store, scan) = (Arc::clone(&self.store), Arc::new(scan));
        let batches = stream::iter(chosen).then(move |file| {
            files::read(Arc::clone(&store), file.blob, file.format, Arc::clone(&schema), Arc::clone(&scan))
        });
        Ok(some_batch(batches.try_flatten(), none))
    }

    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>> {
        match written::kept_sketches(&*self.store, version).await? {
            Some(kept) => Ok(kept),
            None => written::sketch(version.columns.len(), self.scan(version, Scan::all()).await?).await,
        }
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        let MoveTag { dataset, tag, to, from, by, at } = change;
        self.reconcile(&dataset).await?;
        check_name("tag", &tag)?;
        let now = tags::newest(&*self.store, &dataset, &tag).await?;
        let seen = now.as_ref().and_then(|tag| tag.version);
        let conflict = |found: Option<Digest>| {
            let said = |digest: Option<Digest>| digest.map_or("no version".to_owned(), |d| d.to_string());
            Error::Conflict { what: "tag", name: format!("{dataset}@{tag}"), expected: said(from), found: said(found) }
        };
        if seen != from {
            return Err(conflict(seen));
        }
        if let Some(to) = &to {
            self.version(&dataset, to).await?;
        }
        let revision = now.map_or(1, |tag| tag.revision + 1);
        let moved = Tag { tag: tag.clone(), version: to, revision, at, by };
        let data = crate::json::to_canonical(&moved)?;
        let announced = self.announce(&dataset, Change::Tag(tag.clone(), revision)).await?;
        match self.store.put_opts(&trail::tag_key(&dataset, &tag, revision), data.into(), PutMode::Create).await {
            Ok(()) => {
                self.record(announced, trail::tagged(&dataset, from, &moved)).await?;
                Ok(moved)
            }
            Err(Error::AlreadyExists { .. }) => {
                self.retract(announced).await;
                Err(conflict(tags::newest(&*self.store, &dataset, &tag).await?.and_then(|tag| tag.version)))
            }
            Err(error) => Err(error),
        }
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        tags::list(&*self.store, name).await
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        self.reconcile(&version.name).await?;
        tags::check_untagged(&*self.store, version).await?;
        let (name, digest) = (&version.name, &version.digest);
        let stored = match self.version(name, digest).await {
            Ok(stored) => stored,
            Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => version.clone(),
            Err(Error::NotFound { .. }) if self.grave(name, digest).await?.is_some() => return Ok(()),
            Err(error) => return Err(error),
        };
        let committed = Some(trail::committed(&stored));
        let DatasetVersion { parent, created_at, rows, .. } = stored;
        let grave = Grave { parent, created_at, rows, removal, committed };
        let announced = self.announce(name, Change::Remove(*digest)).await?;
        // One that is there is of an earlier removal: of a version that came back, or one that was not carried out.
        self.store.put(&format!("removed/{name}/{digest}"), crate::json::to_canonical(&grave)?.into()).await?;
        self.store.delete(&Self::manifest_key(name, digest)).await?;
        self.record(announced, trail::removed(name, digest, &grave)).await
    }
}

/// All that the versions name: hand it to a [`Collector`](crate::store::Collector) that frees what they do not.
#[async_trait]
impl Roots for ParquetDatasets {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        for name in self.names().await? {
            for version in self.versions(&name).await? {
                live.extend(named(&version));
            }
        }
        Ok(())
    }
}
