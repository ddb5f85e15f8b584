//! Commits: files first, then one entry of the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TableReference, TransactionError};
use deltalake_core::kernel::{Action, Add, EagerSnapshot, Metadata, MetadataExt, Protocol, StructType, new_metadata};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde_json::json;

use super::table::{Ours, Table};
use super::{DeltaDatasets, schema};
use crate::dataset::partitions::segments;
use crate::dataset::stats;
use crate::dataset::written::{Kept, Origin, Written};
use crate::dataset::{
    Base, DataFile, DatasetStore, DatasetVersion, FileFormat, NewDataset, Partition, Rows, blocking, check_schema,
    same_columns, segment,
};
use crate::store::{ArtifactStore, Blob};
use crate::{Clock as _, Digest, Error, Result, SystemClock};

/// How often a commit is tried again because another came first.
const ATTEMPTS: usize = 100;
/// Segments that are encoded at the same time.
const PARALLEL: usize = 2;
/// Marks a table that this crate made, the only ones it commits to.
const MARK: &str = "mlops.datasets";
/// How long a table keeps its log and the files of old versions unless told otherwise: a hundred years.
const FOR_EVER: &str = "interval 36500 days";

fn now_millis() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

impl DeltaDatasets {
    pub(super) async fn commit_rows(&self, new: NewDataset) -> Result<DatasetVersion> {
        let NewDataset { name, rows, parent, base, mut partition_by, source, author, at } = new;
        let table = self.table(&name)?;
        let (schema, batches) = match rows {
            Rows::Stream(schema, batches) => (schema, batches),
            Rows::Batches(batches) => (batches[0].schema(), stream::iter(batches.into_iter().map(Ok)).boxed()),
            Rows::Files(..) => {
                let reason = "a Delta table has rows, no files as they are; read them and commit the rows, or commit \
                              them to `ParquetDatasets`";
                return Err(Error::invalid("dataset", reason));
            }
        };
        check_schema(&name, &schema)?;
        let base = match base {
            Some(base) => Some(self.base(&table, base, &schema, &mut partition_by).await?),
            None => None,
        };
        schema::check(&schema, &partition_by)?;
        let before = base.as_ref().map(|base| {
            let (Base::Append(before) | Base::ReplacePartitions(before)) = base;
            before
        });
        let mut taken: BTreeSet<String> =
            before.iter().flat_map(|before| &before.files).filter_map(|file| file.path.clone()).collect();
        let mut written = Written::default();
        let encoded = segments(Arc::clone(&schema), batches, &partition_by).map(|segment| async {
            let (partition, rows) = segment?;
            blocking(move || encode(partition, &rows)).await
        });
        let mut encoded = encoded.buffered(PARALLEL);
        while let Some((mut file, sketches, bytes)) = encoded.try_next().await? {
            let path = unused(&file, &taken)?;
            file.blob.new_bytes = put(&table, &path, bytes).await?;
            taken.insert(path.clone());
            file.path = Some(path);
            written.add(file, sketches)?;
        }
        drop(encoded);
        written.files.sort_by(|a, b| a.partition.cmp(&b.partition));
        if written.files.iter().all(|file| file.rows == 0) {
            return Err(Error::invalid("dataset", format!("{name} has no rows")));
        }
        if let Some(base) = &base {
            let sketches = match base {
                Base::Append(before) => self.sketches(before).await?,
                Base::ReplacePartitions(_) => Vec::new(),
            };
            written.onto(base, sketches, &partition_by)?;
        }
        let kept = Kept::put(&*self.side, &schema, &written.sketches).await?;
        let at = at.unwrap_or_else(|| SystemClock.now());
        let version = written.into_version(Origin { name, parent, source, author, at }, &schema, kept)?;
        // It tells nothing until an entry of the log names it. Who makes it knows that no entry up to here does.
        let last = table.read_log().await?.last();
        let manifest = Bytes::from(crate::json::to_canonical(&version)?);
        let key = Self::manifest_key(&version.name, &version.digest);
        let unseen = match self.side.put_opts(&key, manifest.clone(), crate::store::PutMode::Create).await {
            Ok(()) => last.map_or(0, |last| last + 1),
            Err(Error::AlreadyExists { .. }) => {
                self.side.put_opts(&key, manifest, crate::store::PutMode::Overwrite).await?;
                0
            }
            Err(error) => return Err(error),
        };
        let delta: StructType = (&*schema).try_into_kernel().map_err(|e| Error::invalid("schema", e))?;
        let expected = before.and_then(|before| before.number);
        self.append(&table, version, (unseen, expected), &schema, &delta, &partition_by).await
    }

    /// Checks that the rows fit to the version that they are added to, and takes over its partitions.
    async fn base(&self, table: &Table, base: Base, schema: &Schema, partition_by: &mut Vec<String>) -> Result<Base> {
        let (Base::Append(before) | Base::ReplacePartitions(before)) = &base;
        if before.name != table.name {
            let reason = format!("{before} is another table, whose files it keeps; read it and commit the rows");
            return Err(Error::invalid("dataset", reason));
        }
        // As it is kept, for its number and paths.
        let kept = match before.number {
            Some(number) => self.open_number(&before.name, number).await?,
            None => self.version(&before.name, &before.digest).await?,
        };
        let before =
            if kept.digest == before.digest { kept } else { self.version(&before.name, &before.digest).await? };
        same_columns(&*self.schema(table, &before).await?, schema)?;
        let by: Vec<String> = before.files.first().map(|f| f.partition.keys().cloned().collect()).unwrap_or_default();
        if partition_by.is_empty() {
            partition_by.clone_from(&by);
        }
        if partition_by.iter().collect::<BTreeSet<_>>() != by.iter().collect() {
            return Err(Error::invalid("partition_by", format!("the version is partitioned by {by:?}")));
        }
        Ok(match base {
            Base::Append(_) => Base::Append(before),
            Base::ReplacePartitions(_) => Base::ReplacePartitions(before),
        })
    }

    /// Writes the entry of the log that makes the table what the version says, unless one from number `unseen` on did, and
    /// if the newest is the one that was `expected`.
    async fn append(
        &self,
        table: &Table,
        mut version: DatasetVersion,
        (unseen, expected): (u64, Option<u64>),
        schema: &Schema,
        delta: &StructType,
        partition_by: &[String],
    ) -> Result<DatasetVersion> {
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let log = table.read_log().await?;
            if let Some(known) = self.committed(table, &log, unseen, &version.digest).await? {
                return Ok(known);
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            let last = log.last();
            if expected.is_some() && expected != last {
                let said = |number: Option<u64>| number.map_or("none".to_owned(), |number| format!("version {number}"));
                let (expected, found) = (said(expected), said(last));
                return Err(Error::Conflict { what: "Delta table", name: table.name.clone(), expected, found });
            }
            let head = head(table, last).await?;
            let target: BTreeSet<&str> = version.files.iter().filter_map(|file| file.path.as_deref()).collect();
            let mut actions = describe(head.as_ref(), table, schema, delta, partition_by)?;
            let mut there = BTreeSet::new();
            if let Some(head) = &head {
                let mut views = head.file_views(&*table.log, None);
                while let Some(view) = views.try_next().await.map_err(|e| table.failed("read", "files", e))? {
                    let path = view.object_store_path().to_string();
                    if !target.contains(path.as_str()) {
                        actions.push(Action::Remove(view.remove_action(true)));
                    }
                    there.insert(path);
                }
            }
            for file in &version.files {
                let path = file.path.as_deref().unwrap_or_default();
                if !there.contains(path) {
                    actions.push(Action::Add(add(file, path, schema)?));
                }
            }
            let ours = Ours {
                digest: version.digest,
                author: version.author.clone(),
                created_at: version.created_at,
                parent: version.parent.clone(),
                source: version.source.clone(),
                rows: version.rows,
                emptied: false,
            };
            let removes = actions.iter().any(|action| matches!(action, Action::Remove(_)));
            let mode = if removes { SaveMode::Overwrite } else { SaveMode::Append };
            let partition_by = (!partition_by.is_empty()).then(|| partition_by.to_vec());
            let operation = DeltaOperation::Write { mode, partition_by, predicate: None };
            match write(table, head.as_ref(), actions, operation, &ours).await {
                Ok(Some(number)) => {
                    version.number = Some(number);
                    return Ok(version);
                }
                Ok(None) => {}
                // It may have failed after the entry was written: the next turn tells.
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| busy(table)))
    }

    /// Takes all files out of the table, if `removed` is its newest version.
    pub(super) async fn empty(&self, table: &Table, removed: &DatasetVersion, by: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let last = table.read_log().await?.last();
            if last != removed.number {
                return Ok(());
            }
            let Some(head) = head(table, last).await? else { return Ok(()) };
            let views = head.file_views(&*table.log, None);
            let remove = views.map_ok(|view| Action::Remove(view.remove_action(true)));
            let actions: Vec<Action> = remove.try_collect().await.map_err(|e| table.failed("read", "files", e))?;
            let ours = Ours {
                digest: removed.digest,
                author: by.to_owned(),
                created_at: removed.created_at,
                parent: None,
                source: String::new(),
                rows: 0,
                emptied: true,
            };
            if write(table, Some(&head), actions, DeltaOperation::Delete { predicate: None }, &ours).await?.is_some() {
                return Ok(());
            }
        }
        Err(busy(table))
    }

    /// Checks that this crate made the table.
    pub(super) async fn check_ours(&self, table: &Table) -> Result<()> {
        match head(table, table.read_log().await?.last()).await? {
            Some(head) => ours(table, head.metadata()),
            None => Ok(()),
        }
    }
}

fn busy(table: &Table) -> Error {
    let reason = format!("{ATTEMPTS} times another commit came first");
    let backend = format!("Delta table {}", table.name);
    Error::Backend { backend, operation: "commit", key: String::new(), retryable: true, source: reason.into() }
}

fn ours(table: &Table, metadata: &Metadata) -> Result<()> {
    if metadata.configuration().contains_key(MARK) {
        return Ok(());
    }
    let reason = "was made by another writer and is read only; commit under another name, with its version as parent";
    Err(Error::invalid(format!("Delta table {}", table.name), reason))
}

/// The table at its newest version.
async fn head(table: &Table, last: Option<u64>) -> Result<Option<EagerSnapshot>> {
    let Some(last) = last else { return Ok(None) };
    let head = EagerSnapshot::try_new(&*table.log, Some(last)).await;
    head.map(Some).map_err(|e| table.failed("read", &format!("version {last}"), e))
}

/// Writes one entry and tells its number; none if another came first.
async fn write(
    table: &Table,
    head: Option<&EagerSnapshot>,
    actions: Vec<Action>,
    operation: DeltaOperation,
    ours: &Ours,
) -> Result<Option<u64>> {
    let properties = CommitProperties::default()
        .with_metadata([("mlops".to_owned(), json!(ours)), ("userName".to_owned(), json!(ours.author))])
        .with_max_retries(0)
        .with_cleanup_expired_logs(Some(false));
    let head = head.map(|head| head as &dyn TableReference);
    let commit = CommitBuilder::from(properties).with_actions(actions);
    match commit.build(head, Arc::clone(&table.log), operation).await {
        Ok(done) => Ok(Some(done.version())),
        Err(
            DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::MaxCommitAttempts(_) | TransactionError::VersionAlreadyExists(_),
            },
        ) => Ok(None),
        Err(error) => Err(table.failed("commit to", "_delta_log", error)),
    }
}

/// The actions that make the table, or change its columns.
fn describe(
    head: Option<&EagerSnapshot>,
    table: &Table,
    schema: &Schema,
    delta: &StructType,
    partition_by: &[String],
) -> Result<Vec<Action>> {
    let local = schema.fields().iter().find(|field| schema::has_local_times(field.data_type()));
    let failed = |e: &dyn std::fmt::Display| Error::invalid(format!("description of Delta table {}", table.name), e);
    let Some(head) = head else {
        let protocol = match local {
            None => json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            Some(_) => json!({
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["timestampNtz"], "writerFeatures": ["timestampNtz"],
            }),
        };
        let protocol: Protocol = serde_json::from_value(protocol).map_err(|e| failed(&e))?;
        let kept = [
            (MARK, "1"),
            // What Spark takes too; the crate's own default of 100 makes each commit read up to 99 entries.
            ("delta.checkpointInterval", "10"),
            ("delta.logRetentionDuration", FOR_EVER),
            ("delta.deletedFileRetentionDuration", FOR_EVER),
        ];
        let metadata = new_metadata(delta, partition_by, kept).map_err(|e| failed(&e))?;
        return Ok(vec![Action::Protocol(protocol), Action::Metadata(metadata)]);
    };
    ours(table, head.metadata())?;
    if let Some(field) = local
        && head.protocol().min_reader_version() < 3
    {
        let reason = "is a time without a zone, and the table was made without such; cast it to \
                      Timestamp(Microsecond, Some(\"UTC\")), or commit under another name";
        return Err(Error::column(field.name(), reason));
    }
    let now: BTreeSet<&String> = head.metadata().partition_columns().iter().collect();
    if *head.schema() == *delta && now == partition_by.iter().collect() {
        return Ok(Vec::new());
    }
    let metadata = new_metadata(delta, partition_by, head.metadata().configuration()).map_err(|e| failed(&e))?;
    let metadata = metadata.with_table_id(head.metadata().id().to_owned()).map_err(|e| failed(&e))?;
    Ok(vec![Action::Metadata(metadata)])
}

fn add(file: &DataFile, path: &str, schema: &Schema) -> Result<Add> {
    Ok(Add {
        path: path.to_owned(),
        partition_values: file.partition.clone().into_iter().collect(),
        size: i64::try_from(file.blob.bytes).map_err(|e| Error::invalid("file size", e))?,
        modification_time: now_millis(),
        data_change: true,
        stats: Some(schema::to_log(schema, file.rows, &file.stats, &file.partition)),
        ..Add::default()
    })
}

type Encoded = (DataFile, Vec<stats::ColumnSketch>, Bytes);

/// A segment as a file without the columns of its partition.
fn encode(partition: Partition, rows: &RecordBatch) -> Result<Encoded> {
    if let Some((column, _)) = partition.iter().find(|(_, value)| value.as_deref() == Some("")) {
        let reason = "has an empty text, which a Delta table takes for null; name it, or do not partition by it";
        return Err(Error::column(column, reason));
    }
    let mut sketches = stats::empty(rows.num_columns())?;
    stats::update(&mut sketches, rows)?;
    let schema = rows.schema();
    let kept: Vec<usize> =
        (0..rows.num_columns()).filter(|&i| !partition.contains_key(schema.field(i).name())).collect();
    let bytes = Bytes::from(segment::encode(&rows.project(&kept)?)?.concat());
    let blob = Blob { digest: Digest::of(&bytes), bytes: bytes.len() as u64, chunks: None, new_bytes: 0 };
    let count = rows.num_rows() as u64;
    Ok((DataFile::new(blob, count, FileFormat::Parquet, partition), sketches, bytes))
}

/// The name of a file: its digest, that of its partition, and a number should both occur twice in a version.
fn unused(file: &DataFile, taken: &BTreeSet<String>) -> Result<String> {
    let mut stem = format!("part-{}", file.blob.digest);
    if !file.partition.is_empty() {
        stem.push('-');
        stem.extend(Digest::of_json(&file.partition)?.to_string().chars().take(16));
    }
    let mut path = format!("{stem}.zstd.parquet");
    let mut again = 1;
    while taken.contains(&path) {
        path = format!("{stem}-{again}.zstd.parquet");
        again += 1;
    }
    Ok(path)
}

/// Writes a file, and tells how many bytes that added. One that is there is written again: it may be damaged, and whoever
/// clears away what is old finds it young.
async fn put(table: &Table, path: &str, bytes: Bytes) -> Result<u64> {
    let key = ObjectPath::from(path);
    let size = bytes.len() as u64;
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match table.store.put_opts(&key, bytes.clone().into(), create).await {
        Ok(_) => Ok(size),
        Err(object_store::Error::AlreadyExists { .. }) => {
            table.store.put(&key, bytes.into()).await.map_err(|e| table.failed("write", path, e))?;
            Ok(0)
        }
        Err(error) => Err(table.failed("write", path, error)),
    }
}
