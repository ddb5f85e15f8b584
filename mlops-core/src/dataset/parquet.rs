use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::segment::{self, Segmenter};
use super::stats::{self, ColumnSketch, ColumnStats};
use super::{
    Base, Column, DataFile, DatasetStore, DatasetVersion, FileFormat, MoveTag, NewDataset, Partition, Removal, Rows,
    Scan, Tag, blocking, check_schema, files, same_columns, sort_versions,
};
use crate::audit::{AuditEvent, AuditLog};
use crate::store::{ArtifactStore, ArtifactStoreExt, BlobWriter, Lease, ObjectMeta, PutMode, Roots, check_name};
use crate::{Clock, Digest, Error, Result, SystemClock, Timestamp};

/// The most partitions of one commit.
const MOST_PARTITIONS: usize = 10_000;
/// Manifests that are read at the same time.
const MANIFESTS: usize = 16;
/// How long ago an object must have been written to look different should it be written again.
const SETTLED: TimeDelta = TimeDelta::seconds(60);
/// Where a manifest has its seal.
const SEAL: &str = "seal";
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
/// ```
#[derive(Clone, Debug)]
pub struct ParquetDatasets {
    store: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    audit: Option<Arc<dyn AuditLog>>,
    /// What the manifests named when a collection asked last.
    named: Arc<Mutex<BTreeMap<String, Named>>>,
}

/// What one manifest names, and how it looked in the listing.
#[derive(Clone, Debug)]
struct Named {
    key: String,
    modified: Timestamp,
    bytes: u64,
    digests: Vec<Digest>,
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

    /// Where commits, moves of tags and removals are recorded. An entry is appended once the change is made: after a crash
    /// between the two, repeat the commit. A tag that moved or a version that went has its own record in the store.
    #[must_use]
    pub fn audit(mut self, log: impl AuditLog) -> Self {
        self.audit = Some(Arc::new(log));
        self
    }

    async fn record(&self, event: impl FnOnce() -> AuditEvent) -> Result<()> {
        match &self.audit {
            Some(log) => log.append(event()).await.map(drop),
            None => Ok(()),
        }
    }

    fn named(&self) -> MutexGuard<'_, BTreeMap<String, Named>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
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
            }
            let file = DataFile { blob, rows, format, partition: Partition::new(), stats: Vec::new() };
            written.add(file, sketches)?;
        }
        let schema = schema.ok_or_else(|| Error::invalid("dataset", "has no files"))?;
        Ok((schema, written))
    }

    async fn commit_under(&self, new: NewDataset, lease: &Lease) -> Result<DatasetVersion> {
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
                    written.merge(self.sketches(&before).await?)?;
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
        lease.check()?;
        let manifest = seal(&version)?;
        let key = Self::manifest_key(&version.name, &version.digest);
        match self.store.put_opts(&key, manifest.clone().into(), PutMode::Create).await {
            Ok(()) => {
                if let Err(expired) = lease.check() {
                    // A collection may have taken what it names.
                    self.store.delete(&key).await?;
                    return Err(expired);
                }
                Ok(version)
            }
            Err(Error::AlreadyExists { .. }) => match self.version(&version.name, &version.digest).await {
                // What is there is damaged: the same version, written anew, mends it.
                Err(Error::Corrupt { .. } | Error::InvalidInput { .. }) => {
                    self.store.put_opts(&key, manifest.into(), PutMode::Overwrite).await?;
                    Ok(version)
                }
                known => known,
            },
            Err(error) => Err(error),
        }
    }

    fn manifest_key(name: &str, digest: &Digest) -> String {
        format!("datasets/{name}/{digest}")
    }

    async fn grave(&self, name: &str, digest: &Digest) -> Result<Option<Grave>> {
        match self.store.get(&format!("removed/{name}/{digest}")).await {
            Ok(grave) => Ok(serde_json::from_slice(&grave).ok()),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest revision of a tag; none for one that was never set.
    async fn newest(&self, dataset: &str, tag: &str) -> Result<Option<Tag>> {
        let mut moves = self.store.list(&format!("tags/{dataset}/{tag}/")).await?;
        moves.retain(|object| tag_moved(&object.key).is_some());
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
struct Grave {
    parent: Option<crate::package::DatasetRef>,
    created_at: Timestamp,
    rows: u64,
    removal: Removal,
}

/// A version as it is stored: with a digest over all of it, as its own digest is not over what follows from its rows.
fn seal(version: &DatasetVersion) -> Result<String> {
    let failed = |error| Error::invalid("manifest", error);
    let mut manifest: serde_json::Map<String, Value> =
        serde_json::to_value(version).and_then(serde_json::from_value).map_err(failed)?;
    let seal = Digest::of_json(&manifest)?;
    manifest.insert(SEAL.to_owned(), json!(seal));
    crate::json::to_canonical(&manifest)
}

/// The version that was stored so. A manifest of a state before there were seals has none.
fn unseal(name: &str, manifest: &[u8]) -> Result<DatasetVersion> {
    let unreadable = |error| Error::invalid(format!("manifest of {name}"), error);
    let mut manifest: serde_json::Map<String, Value> = serde_json::from_slice(manifest).map_err(unreadable)?;
    if let Some(seal) = manifest.remove(SEAL) {
        let expected: Digest = serde_json::from_value(seal).map_err(unreadable)?;
        let found = Digest::of_json(&manifest)?;
        if found != expected {
            return Err(Error::Corrupt { what: format!("manifest of dataset {name}"), expected, found });
        }
    }
    serde_json::from_value(Value::Object(manifest)).map_err(unreadable)
}

fn encode_schema(schema: &Schema) -> Result<Bytes> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema)?;
    writer.finish()?;
    Ok(writer.into_inner()?.into())
}

fn decode_schema(data: Bytes) -> Result<SchemaRef> {
    Ok(arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(data), None)?.schema())
}

/// The dataset and the version whose manifest is stored under a key; none for a stranger among them.
fn manifest(key: &str) -> Option<(&str, Digest)> {
    let (name, digest) = key.strip_prefix("datasets/")?.split_once('/')?;
    check_name("dataset name", name).ok()?;
    Some((name, digest.parse().ok()?))
}

/// The tag whose move is stored under a key; none for a stranger.
fn tag_moved(key: &str) -> Option<&str> {
    let mut parts = key.strip_prefix("tags/")?.split('/').skip(1);
    let (tag, revision) = (parts.next()?, parts.next()?);
    (revision.parse::<u64>().is_ok() && parts.next().is_none()).then_some(tag)
}

/// Splits a batch by the values of some columns.
fn split(batch: &RecordBatch, by: &[String]) -> Result<Vec<(Vec<Option<String>>, RecordBatch)>> {
    if by.is_empty() {
        return Ok(vec![(Vec::new(), batch.clone())]);
    }
    let columns = by.iter().map(|name| {
        let column = batch.column_by_name(name).ok_or_else(|| Error::column(name, "no such column to partition by"))?;
        cast(column, &DataType::Utf8).map_err(|e| Error::column(name, format!("cannot be partitioned by: {e}")))
    });
    let columns: Vec<_> = columns.collect::<Result<_>>()?;
    let mut groups: BTreeMap<Vec<Option<String>>, Vec<u32>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let value = |column: &arrow::array::ArrayRef| {
            let column = column.as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let row = u32::try_from(row).map_err(|_| Error::invalid("batch", "has more than 4 billion rows"))?;
        groups.entry(columns.iter().map(value).collect()).or_default().push(row);
    }
    let take = |(key, rows)| Ok((key, take_record_batch(batch, &UInt32Array::from(rows))?));
    groups.into_iter().map(take).collect()
}

/// Rows as segments, each with its partition.
fn segments<'a>(
    schema: SchemaRef,
    batches: BoxStream<'a, Result<RecordBatch>>,
    by: &'a [String],
) -> BoxStream<'a, Result<(Partition, RecordBatch)>> {
    type Open = BTreeMap<Vec<Option<String>>, Segmenter>;
    let named = move |key: &[Option<String>]| -> Partition { by.iter().cloned().zip(key.iter().cloned()).collect() };
    let step = move |(mut batches, mut open, ended): (BoxStream<'a, Result<RecordBatch>>, Open, bool)| {
        let schema = Arc::clone(&schema);
        async move {
            if ended {
                return Ok::<_, Error>(None);
            }
            let Some(batch) = batches.try_next().await? else {
                let rest = open.iter_mut().map(|(key, segmenter)| Ok((named(key), segmenter.finish()?)));
                let rest: Vec<_> = rest.collect::<Result<_>>()?;
                let rest = rest.into_iter().filter_map(|(key, rows)| Some(Ok((key, rows?)))).collect::<Vec<_>>();
                return Ok(Some((rest, (batches, open, true))));
            };
            same_columns(&schema, &batch.schema())?;
            let mut done = Vec::new();
            for (key, rows) in split(&batch, by)? {
                let named = named(&key);
                let segmenter = open.entry(key).or_insert_with(|| Segmenter::new(Arc::clone(&schema)));
                done.extend(segmenter.push(&rows)?.into_iter().map(|rows| Ok((named.clone(), rows))));
            }
            if open.len() > MOST_PARTITIONS {
                let reason =
                    format!("{by:?} has more than {MOST_PARTITIONS} different values; choose a coarser column");
                return Err(Error::invalid("partition_by", reason));
            }
            Ok(Some((done, (batches, open, false))))
        }
    };
    stream::try_unfold((batches, Open::new(), false), step).map_ok(stream::iter).try_flatten().boxed()
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
        let lease = Lease::acquire(Arc::clone(&self.store), Arc::clone(&self.clock)).await?;
        let committed = self.commit_under(new, &lease).await;
        // A lease that cannot be removed expires; the commit stands or fell without it.
        lease.release().await.ok();
        let version = committed?;
        self.record(|| {
            let DatasetVersion { name, digest, rows, parent, source, .. } = &version;
            let after = json!({"version": digest, "rows": rows, "parent": parent, "source": source});
            AuditEvent::new(version.created_at, &version.author, "dataset.commit", format!("dataset {name}"))
                .change(Value::Null, after)
        })
        .await?;
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
        let version = unseal(name, &manifest)?;
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
        let found: Vec<Digest> = objects.iter().filter_map(|object| Some(manifest(&object.key)?.1)).collect();
        let read = |digest: Digest| async move {
            match self.version(name, &digest).await {
                // Removed since it was listed.
                Err(Error::NotFound { .. }) => Ok(None),
                version => version.map(Some),
            }
        };
        let read = stream::iter(found).map(read).buffer_unordered(MANIFESTS);
        let mut versions: Vec<_> = read.try_filter_map(|version| async { Ok(version) }).try_collect().await?;
        sort_versions(&mut versions);
        Ok(versions)
    }

    async fn names(&self) -> Result<Vec<String>> {
        let objects = self.store.list("datasets/").await?;
        let names: BTreeSet<&str> = objects.iter().filter_map(|object| Some(manifest(&object.key)?.0)).collect();
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
        if let Some(kept) = &version.sketches {
            let kept = self.store.get_artifact(kept).await?;
            let invalid = |error: &dyn fmt::Display| Error::invalid(format!("sketches of {version}"), error);
            let sketches: Vec<ColumnSketch> = serde_json::from_slice(&kept).map_err(|e| invalid(&e))?;
            if sketches.len() != version.columns.len() {
                return Err(invalid(&format!("there are {} for {} columns", sketches.len(), version.columns.len())));
            }
            return Ok(sketches);
        }
        let mut sketches = stats::empty(version.columns.len())?;
        let mut batches = self.scan(version, Scan::all()).await?;
        while let Some(batch) = batches.try_next().await? {
            stats::update(&mut sketches, &batch)?;
        }
        Ok(sketches)
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        let MoveTag { dataset, tag, to, from, by, at } = change;
        check_name("dataset name", &dataset)?;
        check_name("tag", &tag)?;
        let now = self.newest(&dataset, &tag).await?;
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
        let (revision, at) = (now.map_or(1, |tag| tag.revision + 1), at.unwrap_or_else(|| self.clock.now()));
        let moved = Tag { tag: tag.clone(), version: to, revision, at, by };
        let key = format!("tags/{dataset}/{tag}/{revision:020}");
        let data = crate::json::to_canonical(&moved)?;
        match self.store.put_opts(&key, data.into(), PutMode::Create).await {
            Ok(()) => {
                self.record(|| {
                    AuditEvent::new(at, &moved.by, "dataset.tag", format!("dataset {dataset}@{tag}"))
                        .change(json!(from), json!(to))
                })
                .await?;
                Ok(moved)
            }
            Err(Error::AlreadyExists { .. }) => {
                Err(conflict(self.newest(&dataset, &tag).await?.and_then(|tag| tag.version)))
            }
            Err(error) => Err(error),
        }
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        check_name("dataset name", name)?;
        // Keys sort by revision, so the last of each tag is the newest.
        let objects = self.store.list(&format!("tags/{name}/")).await?;
        let newest: BTreeMap<&str, &str> =
            objects.iter().filter_map(|o| Some((tag_moved(&o.key)?, o.key.as_str()))).collect();
        let mut tags = Vec::new();
        for key in newest.values() {
            let data = self.store.get(key).await?;
            let tag: Tag = serde_json::from_slice(&data).map_err(|e| Error::invalid(format!("stored tag {key}"), e))?;
            tags.extend(tag.version.is_some().then_some(tag));
        }
        Ok(tags)
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        check_name("dataset name", &version.name)?;
        if let Some(tag) = self.tags(&version.name).await?.iter().find(|t| t.version == Some(version.digest)) {
            let reason = format!("{version} is tagged {:?}; move or remove the tag first", tag.tag);
            return Err(Error::invalid("dataset version", reason));
        }
        let (name, digest) = (&version.name, &version.digest);
        let grave =
            Grave { parent: version.parent.clone(), created_at: version.created_at, rows: version.rows, removal };
        let event = AuditEvent::new(grave.removal.at, &grave.removal.by, "dataset.remove", format!("dataset {name}"))
            .change(json!({"version": digest, "rows": version.rows}), Value::Null)
            .because(&grave.removal.reason);
        let grave = crate::json::to_canonical(&grave)?;
        match self.store.put_opts(&format!("removed/{name}/{digest}"), grave.into(), PutMode::Create).await {
            Ok(()) | Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
        self.store.delete(&Self::manifest_key(name, digest)).await?;
        self.record(|| event).await
    }
}

/// All that the versions name: hand it to a [`Collector`](crate::store::Collector) that frees what they do not.
#[async_trait]
impl Roots for ParquetDatasets {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        let settled = self.clock.now().checked_sub_signed(SETTLED).unwrap_or(Timestamp::MIN_UTC);
        let before = self.named().clone();
        let objects = self.store.list("datasets/").await?;
        let read = |object: ObjectMeta| {
            let known = before
                .get(&object.key)
                .filter(|known| (known.modified, known.bytes) == (object.modified, object.bytes));
            let known = known.cloned();
            async move {
                if known.is_some() {
                    return Ok(known);
                }
                let Some((name, digest)) = manifest(&object.key) else { return Ok(None) };
                let version = match self.version(name, &digest).await {
                    // Removed since it was listed.
                    Err(Error::NotFound { .. }) => return Ok(None),
                    version => version?,
                };
                let files = version.files.iter().map(|file| file.blob.digest);
                let digests = files.chain(version.sketches).chain([version.schema]).collect();
                Ok::<_, Error>(Some(Named { key: object.key, modified: object.modified, bytes: object.bytes, digests }))
            }
        };
        let mut read = stream::iter(objects).map(read).buffer_unordered(MANIFESTS);
        let mut named = BTreeMap::new();
        while let Some(found) = read.try_next().await? {
            let Some(found) = found else { continue };
            live.extend(found.digests.iter());
            // Where times are coarse, a manifest that is written anew at once may look the same.
            if found.modified < settled {
                named.insert(found.key.clone(), found);
            }
        }
        drop(read);
        *self.named() = named;
        Ok(())
    }
}
