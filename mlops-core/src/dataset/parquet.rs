use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::manifest::{self, Named};
use super::partitions::segments;
use super::stats::{self, ColumnSketch, ColumnStats};
use super::trail::{self, Announced, Change};
use super::{
    Base, Column, DataFile, DatasetStore, DatasetVersion, FileFormat, MoveTag, NewDataset, Partition, Removal, Rows,
    Scan, Tag, blocking, check_schema, files, same_columns, segment, sort_versions,
};
use crate::audit::{AuditEvent, AuditLog};
use crate::store::{ArtifactStore, ArtifactStoreExt, BlobWriter, Lease, PutMode, alone, check_name, is_whole};
use crate::{Clock, DatasetRef, Digest, Error, Result, SystemClock, Timestamp};

/// Segments that are encoded at the same time.
const PARALLEL: usize = 2;

/// Dataset versions in an artifact store: rows as Parquet, files as they are.
///
/// Rows are cut into files of about 16 MiB where their contents say so, and these into chunks that equal rows share: a
/// version that differs from another in a few places costs little more than these places. While rows are written or read
/// a few such files are in memory, never a version.
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
    pub(super) named: Arc<Mutex<BTreeMap<String, Named>>>,
}

impl ParquetDatasets {
    /// Dataset versions in `store`.
    pub fn new(store: impl ArtifactStore) -> Self {
        Self { store: Arc::new(store), clock: Arc::new(SystemClock), audit: None, named: Arc::default() }
    }

    /// The clock that tells when versions were committed and tags moved, and how long the leases hold that keep a garbage
    /// collection away from a commit (default: the system's).
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

    /// Writes the segments that `cut` gives, and learns from them.
    async fn write(&self, segments: BoxStream<'_, Result<(Partition, RecordBatch)>>, lease: &Lease) -> Result<Written> {
        let encoded = segments.map(|segment| async {
            let (partition, rows) = segment?;
            blocking(move || {
                let mut sketches = stats::empty(rows.num_columns())?;
                stats::update(&mut sketches, &rows)?;
                Ok((partition, rows.num_rows() as u64, sketches, segment::encode(&rows)?))
            })
            .await
        });
        let mut encoded = encoded.buffered(PARALLEL);
        let mut written = Written::default();
        while let Some((partition, rows, sketches, parts)) = encoded.try_next().await? {
            let mut writer = BlobWriter::under(&*self.store, lease);
            writer.write_parts(parts).await?;
            let blob = writer.finish().await?;
            written
                .add(DataFile { blob, rows, format: FileFormat::Parquet, partition, stats: Vec::new() }, sketches)?;
        }
        Ok(written)
    }

    /// Keeps files as they are, and reads them once for their rows and statistics.
    async fn import(
        &self,
        paths: Vec<PathBuf>,
        schema: Option<SchemaRef>,
        lease: &Lease,
    ) -> Result<(SchemaRef, Written)> {
        let mut schema = schema;
        let mut written = Written::default();
        for path in paths {
            // Finding the columns of a text file takes a pass over it, in which nothing renews the lease.
            lease.keep().await?;
            let format = FileFormat::of(&path)?;
            let what = format!("file {}", path.display());
            let found = {
                let path = path.clone();
                let known = schema.clone();
                blocking(move || {
                    // The columns of a text file are what we say; the others say it themselves.
                    match (format, known) {
                        (FileFormat::Csv | FileFormat::JsonLines, Some(known)) => Ok(known),
                        _ => format.schema(&path).map(Arc::new),
                    }
                })
                .await?
            };
            lease.keep().await?;
            let wanted = Arc::clone(schema.get_or_insert_with(|| Arc::clone(&found)));
            check_schema(&what, &wanted)?;
            same_columns(&wanted, &found)?;
            let mut writer = BlobWriter::under(&*self.store, lease);
            let mut pieces = files::pieces(files::open(&path)?);
            while let Some(piece) = pieces.try_next().await? {
                writer.write(piece).await?;
            }
            let blob = writer.finish().await?;
            let scan = Arc::new(Scan::all().strict());
            let unreadable = |error: Error| match error {
                Error::InvalidInput { reason, .. } => Error::invalid(what.clone(), reason),
                other => other,
            };
            let read = files::read(Arc::clone(&self.store), blob, format, Arc::clone(&wanted), scan).await;
            let mut batches = read.map_err(unreadable)?;
            let mut sketches = stats::empty(wanted.fields().len())?;
            let mut rows = 0;
            while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
                rows += batch.num_rows() as u64;
                stats::update(&mut sketches, &batch)?;
                lease.keep().await?;
            }
            let file = DataFile { blob, rows, format, partition: Partition::new(), stats: Vec::new() };
            written.add(file, sketches)?;
        }
        let schema = schema.ok_or_else(|| Error::invalid("dataset", "has no files"))?;
        Ok((schema, written))
    }

    /// Commits as long as the lease holds, and says whether it did to the end.
    async fn commit_under(&self, new: NewDataset, lease: &Lease) -> Result<(DatasetVersion, Announced, Result<()>)> {
        let before = match &new.base {
            Some(Base::Append(before) | Base::ReplacePartitions(before)) => Some(before.reference()),
            None => None,
        };
        // Should it be removed from here on, its files stay while the lease is held.
        self.check_there(before.as_ref()).await?;
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
                let mut written = self.write(segments(Arc::clone(&schema), batches, &partition_by), lease).await?;
                written.files.sort_by(|a, b| a.partition.cmp(&b.partition));
                (schema, written)
            }
        };
        if written.files.iter().all(|file| file.rows == 0) {
            return Err(Error::invalid("dataset", format!("{name} has no rows")));
        }
        if let Some(base) = base {
            let (Base::Append(before) | Base::ReplacePartitions(before)) = &base;
            same_columns(&*self.schema(before).await?, &schema)?;
            let mut kept = before.files.clone();
            kept.iter_mut().for_each(|file| file.blob.new_bytes = 0);
            match base {
                // A sketch cannot forget: the rows that were replaced stay in it, and so it is not kept.
                Base::ReplacePartitions(_) => {
                    let new: BTreeSet<&Partition> = written.files.iter().map(|file| &file.partition).collect();
                    if let Some(odd) =
                        kept.iter().find(|f| !f.partition.keys().eq(partition_by.iter().collect::<BTreeSet<_>>()))
                    {
                        let by: Vec<&String> = odd.partition.keys().collect();
                        return Err(Error::invalid("partition_by", format!("the version is partitioned by {by:?}")));
                    }
                    kept.retain(|file| !new.contains(&file.partition));
                    written.sketches.clear();
                    written.files.extend(kept);
                    written.files.sort_by(|a, b| a.partition.cmp(&b.partition));
                }
                Base::Append(before) => {
                    written.merge(self.sketches_under(&before, Some(lease)).await?)?;
                    kept.append(&mut written.files);
                    written.files = kept;
                }
            }
        }
        let columns = schema.fields().iter().map(|f| Column {
            name: f.name().clone(),
            data_type: f.data_type().to_string(),
            nullable: f.is_nullable(),
        });
        let mut stats = vec![ColumnStats::default(); schema.fields().len()];
        written.files.iter().for_each(|file| stats.iter_mut().zip(&file.stats).for_each(|(all, more)| all.merge(more)));
        let sketches = if written.sketches.is_empty() {
            None
        } else {
            let sketches = serde_json::to_vec(&written.sketches).map_err(|e| Error::invalid("sketches", e))?;
            Some(self.store.put_artifact(sketches.into()).await?)
        };
        let mut version = DatasetVersion {
            name,
            digest: Digest::from_bytes([0; 32]),
            columns: columns.collect(),
            rows: written.files.iter().map(|file| file.rows).sum(),
            files: written.files,
            parent,
            source,
            created_at: at.unwrap_or_else(|| self.clock.now()),
            author,
            stats,
            sketches,
            schema: self.store.put_artifact(encode_schema(&schema)?).await?,
        };
        version.digest = version.digest_of()?;
        // Nothing may name the files before they are safe.
        self.store.sync().await?;
        self.check_there(before.as_ref()).await?;
        let sealed = manifest::seal(&version)?;
        let key = Self::manifest_key(&version.name, &version.digest);
        let announced = self.announce(&version.name, Change::Commit(version.digest)).await?;
        lease.check()?;
        let version = loop {
            match self.store.put_opts(&key, sealed.clone().into(), PutMode::Create).await {
                Ok(()) => {
                    // An erasure that removed it before it could see this version shall not find its rows here again; one
                    // that removes it later lists the versions once more.
                    if let Err(gone) = self.check_there(before.as_ref()).await {
                        self.store.delete(&key).await?;
                        self.retract(announced).await;
                        return Err(gone);
                    }
                    break version;
                }
                Err(Error::AlreadyExists { .. }) => match self.version(&version.name, &version.digest).await {
                    // What is there is damaged: the same version, written anew, mends it.
                    Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => {
                        self.store.put_opts(&key, sealed.into(), PutMode::Overwrite).await?;
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

    /// The sketches that were kept, or those of all rows if there are none or they are of an earlier format.
    async fn sketches_under(&self, version: &DatasetVersion, lease: Option<&Lease>) -> Result<Vec<ColumnSketch>> {
        if let Some(kept) = &version.sketches {
            let kept = self.store.get_artifact(kept).await?;
            let invalid = |error: &dyn fmt::Display| Error::invalid(format!("sketches of {version}"), error);
            let sketches: Vec<ColumnSketch> = serde_json::from_slice(&kept).map_err(|e| invalid(&e))?;
            if sketches.len() != version.columns.len() {
                return Err(invalid(&format!("there are {} for {} columns", sketches.len(), version.columns.len())));
            }
            if sketches.iter().all(ColumnSketch::is_current) {
                return Ok(sketches);
            }
        }
        let mut sketches = stats::empty(version.columns.len())?;
        let mut batches = self.scan(version, Scan::all()).await?;
        while let Some(batch) = batches.try_next().await? {
            stats::update(&mut sketches, &batch)?;
            if let Some(lease) = lease {
                lease.keep().await?;
            }
        }
        Ok(sketches)
    }

    async fn check_there(&self, version: Option<&DatasetRef>) -> Result<()> {
        match version {
            Some(DatasetRef { name, digest }) => self.version(name, digest).await.map(drop),
            None => Ok(()),
        }
    }

    async fn check_untagged(&self, version: &DatasetVersion) -> Result<()> {
        match self.tags(&version.name).await?.iter().find(|tag| tag.version == Some(version.digest)) {
            Some(tag) => {
                let reason = format!("{version} is tagged {:?}; move or remove the tag first", tag.tag);
                Err(Error::invalid("dataset version", reason))
            }
            None => Ok(()),
        }
    }

    /// Deletes a manifest, unless a tag names the version. Whoever tags it meanwhile looks for the manifest afterwards, as
    /// this looks for tags: one of the two sees the other. Under the lease the files of one that is put back are there.
    async fn unlist(&self, version: &DatasetVersion, lease: &Lease) -> Result<()> {
        let key = Self::manifest_key(&version.name, &version.digest);
        let manifest = match self.store.get(&key).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            manifest => manifest?,
        };
        self.store.delete(&key).await?;
        let untagged = self.check_untagged(version).await;
        if untagged.is_err() {
            lease.check()?;
            match self.store.put_opts(&key, manifest, PutMode::Create).await {
                Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        untagged
    }

    /// Writes the next move of a tag and records it; an error if somebody else did.
    async fn move_tag(&self, dataset: &str, from: Option<Digest>, moved: &Tag) -> Result<()> {
        let announced = self.announce(dataset, Change::Tag(moved.tag.clone(), moved.revision)).await?;
        let key = trail::tag_key(dataset, &moved.tag, moved.revision);
        match self.store.put_opts(&key, crate::json::to_canonical(moved)?.into(), PutMode::Create).await {
            Ok(()) => self.record(announced, trail::tagged(dataset, from, moved)).await,
            Err(Error::AlreadyExists { .. }) => {
                self.retract(announced).await;
                let now = self.newest(dataset, &moved.tag).await?.and_then(|tag| tag.version);
                Err(conflict(dataset, &moved.tag, from, now))
            }
            Err(error) => Err(error),
        }
    }

    /// Decides about a manifest that came after its lease was over: a collection may have taken what it names. Others may
    /// have committed the same version, found the manifest and acknowledged it, whoever wrote it; so it goes only if
    /// something is missing while nobody commits: whoever has acknowledged it has seen to it that nothing is.
    async fn settle(&self, version: &DatasetVersion, expired: Error) -> Result<()> {
        let lock = alone(&self.store, &self.clock).await?;
        let settled = async {
            for digest in manifest::artifacts(version) {
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

    /// The newest revision of a tag; none for one that was never set.
    async fn newest(&self, dataset: &str, tag: &str) -> Result<Option<Tag>> {
        let mut moves = self.store.list(&format!("tags/{dataset}/{tag}/")).await?;
        moves.retain(|object| trail::tag_moved(&object.key).is_some());
        let Some(newest) = moves.pop() else { return Ok(None) };
        let data = self.store.get(&newest.key).await?;
        serde_json::from_slice(&data).map(Some).map_err(|e| Error::invalid(format!("stored tag {}", newest.key), e))
    }
}

/// What was written of a version so far.
#[derive(Default)]
struct Written {
    files: Vec<DataFile>,
    sketches: Vec<ColumnSketch>,
}

impl Written {
    fn add(&mut self, mut file: DataFile, sketches: Vec<ColumnSketch>) -> Result<()> {
        file.stats = sketches.iter().map(|s| s.stats.clone()).collect();
        self.files.push(file);
        self.merge(sketches)
    }

    fn merge(&mut self, sketches: Vec<ColumnSketch>) -> Result<()> {
        if self.sketches.is_empty() {
            self.sketches = sketches;
            return Ok(());
        }
        self.sketches.iter_mut().zip(&sketches).try_for_each(|(all, more)| all.merge(more))
    }
}

/// What stays of a version that was removed.
#[derive(Serialize, Deserialize)]
pub(super) struct Grave {
    /// Tells it from another removal of a version that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Uuid>,
    parent: Option<DatasetRef>,
    created_at: Timestamp,
    pub(super) rows: u64,
    pub(super) removal: Removal,
    /// What the audit log says of its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<AuditEvent>,
}

fn conflict(dataset: &str, tag: &str, expected: Option<Digest>, found: Option<Digest>) -> Error {
    let said = |digest: Option<Digest>| digest.map_or("no version".to_owned(), |d| d.to_string());
    Error::Conflict { what: "tag", name: format!("{dataset}@{tag}"), expected: said(expected), found: said(found) }
}

fn encode_schema(schema: &Schema) -> Result<Bytes> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema)?;
    writer.finish()?;
    Ok(writer.into_inner()?.into())
}

fn decode_schema(data: Bytes) -> Result<SchemaRef> {
    Ok(arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(data), None)?.schema())
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
        let version = manifest::unseal(name, &manifest)?;
        let found = version.digest_of()?;
        if found == *digest && version.digest == found && version.name == name {
            Ok(version)
        } else {
            Err(Error::Corrupt { what: format!("manifest of dataset {name}"), expected: *digest, found })
        }
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        check_name("dataset name", name)?;
        let objects = self.store.list(&format!("datasets/{name}/")).await?;
        let found: Vec<Digest> = objects.iter().filter_map(|object| Some(manifest::of_key(&object.key)?.1)).collect();
        let read = |digest: Digest| async move {
            match self.version(name, &digest).await {
                // Removed since it was listed.
                Err(Error::NotFound { .. }) => Ok(None),
                version => version.map(Some),
            }
        };
        let read = stream::iter(found).map(read).buffer_unordered(manifest::PARALLEL);
        let mut versions: Vec<_> = read.try_filter_map(|version| async { Ok(version) }).try_collect().await?;
        sort_versions(&mut versions);
        Ok(versions)
    }

    async fn names(&self) -> Result<Vec<String>> {
        let objects = self.store.list("datasets/").await?;
        let names: BTreeSet<&str> =
            objects.iter().filter_map(|object| Some(manifest::of_key(&object.key)?.0)).collect();
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
        // Where no row is found, one empty batch tells at least the columns.
        let any = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&any);
        let batches = batches.try_flatten().try_filter(|batch| futures::future::ready(batch.num_rows() > 0));
        let batches = batches.inspect(move |_| seen.store(true, Ordering::Relaxed));
        let empty = stream::once(async move { (!any.load(Ordering::Relaxed)).then_some(Ok(none)) });
        Ok(batches.chain(empty.filter_map(futures::future::ready)).boxed())
    }

    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>> {
        self.sketches_under(version, None).await
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        let MoveTag { dataset, tag, to, from, by, at } = change;
        self.reconcile(&dataset).await?;
        check_name("tag", &tag)?;
        let now = self.newest(&dataset, &tag).await?;
        let seen = now.as_ref().and_then(|tag| tag.version);
        if seen != from {
            return Err(conflict(&dataset, &tag, from, seen));
        }
        let there = async |version: Option<Digest>| match version {
            Some(digest) => self.version(&dataset, &digest).await.map(drop),
            None => Ok(()),
        };
        there(to).await?;
        let (revision, at) = (now.map_or(1, |tag| tag.revision + 1), at.unwrap_or_else(|| self.clock.now()));
        let mut moved = Tag { tag, version: to, revision, at, by };
        self.move_tag(&dataset, from, &moved).await?;
        match there(to).await {
            Err(removed @ Error::NotFound { .. }) => {
                // Back to where it was, or nowhere if that went too; unless somebody moved it on.
                for back in [from, None] {
                    let now = std::mem::replace(&mut moved.version, back);
                    moved.revision += 1;
                    match self.move_tag(&dataset, now, &moved).await {
                        Ok(()) if matches!(there(back).await, Err(Error::NotFound { .. })) => {}
                        Ok(()) | Err(Error::Conflict { .. }) => break,
                        Err(error) => return Err(error),
                    }
                }
                Err(removed)
            }
            there => there.map(|()| moved),
        }
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        check_name("dataset name", name)?;
        // Keys sort by revision, so the last of each tag is the newest.
        let objects = self.store.list(&format!("tags/{name}/")).await?;
        let newest: BTreeMap<&str, &str> =
            objects.iter().filter_map(|o| Some((trail::tag_moved(&o.key)?, o.key.as_str()))).collect();
        let mut tags = Vec::new();
        for key in newest.values() {
            let data = self.store.get(key).await?;
            let tag: Tag = serde_json::from_slice(&data).map_err(|e| Error::invalid(format!("stored tag {key}"), e))?;
            tags.extend(tag.version.is_some().then_some(tag));
        }
        Ok(tags)
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        self.reconcile(&version.name).await?;
        self.check_untagged(version).await?;
        let (name, digest) = (&version.name, &version.digest);
        let stored = match self.version(name, digest).await {
            Ok(stored) => stored,
            Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => version.clone(),
            Err(Error::NotFound { .. }) if self.grave(name, digest).await?.is_some() => return Ok(()),
            Err(error) => return Err(error),
        };
        let committed = Some(trail::committed(&stored));
        let DatasetVersion { parent, created_at, rows, .. } = stored;
        let grave = Grave { id: Some(Uuid::new_v4()), parent, created_at, rows, removal, committed };
        let announced = self.announce(name, Change::Remove(*digest)).await?;
        // One that is there is of an earlier removal: of a version that came back, or one that was not carried out.
        self.store.put(&format!("removed/{name}/{digest}"), crate::json::to_canonical(&grave)?.into()).await?;
        let lease = Lease::acquire(Arc::clone(&self.store), Arc::clone(&self.clock)).await?;
        let unlisted = self.unlist(version, &lease).await;
        lease.release().await.ok();
        if let Err(error) = unlisted {
            if matches!(error, Error::InvalidInput { .. }) {
                self.retract(announced).await;
            }
            return Err(error);
        }
        self.record(announced, trail::removed(name, digest, &grave)).await
    }
}
