//! One Delta table: its log, and the dataset version that each of its versions is.

use std::collections::HashMap;
use std::sync::Arc;

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::Snapshot;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::read::open;
use super::schema;
use crate::clock::from_micros;
use crate::dataset::written::{columns, encode_schema, total};
use crate::dataset::{DataFile, DatasetVersion, FileFormat, Partition};
use crate::store::Blob;
use crate::{DatasetRef, Digest, Error, Result, Timestamp};

/// Log entries that are read at the same time.
const PARALLEL: usize = 16;

/// A table, found or not.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// Its files.
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) log: LogStoreRef,
}

/// What we keep of a version in its commit info, under `mlops`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ours {
    pub(super) digest: Digest,
    pub(super) author: String,
    pub(super) created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<DatasetRef>,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default)]
    pub(super) rows: u64,
    /// Whether this is no version, but the removal of the one with that digest, which was the newest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) emptied: bool,
}

/// The versions that a log has, by number, not read yet.
#[derive(Debug)]
pub(super) struct Log {
    commits: Vec<(u64, ObjectMeta)>,
    /// The first whose files it still tells.
    first: u64,
}

impl Log {
    /// The number of the newest version.
    pub(super) fn last(&self) -> Option<u64> {
        self.commits.last().map(|(number, _)| *number)
    }
}

/// A version of the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) ours: Option<Ours>,
    at: Timestamp,
    operation: String,
    user: String,
    /// Whether the log still tells its files.
    loadable: bool,
}

impl Entry {
    /// Whether it is a dataset version.
    pub(super) fn is_version(&self) -> bool {
        self.ours.as_ref().map_or(self.loadable, |ours| !ours.emptied)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<HashMap<String, Value>>,
}

/// The crate's engine asks for the runtime and panics without one.
pub(super) fn runtime() -> Result<()> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid("runtime", "Delta tables are read and written within a tokio runtime only")),
    }
}

/// The digest of the bytes of a file that we wrote, which its name tells.
pub(super) fn own_digest(path: &str) -> Option<Digest> {
    let rest = path.strip_prefix("part-")?;
    let after = rest.as_bytes().get(64)?;
    if !matches!(after, b'-' | b'.') { None } else { rest.get(..64)?.parse().ok() }
}

impl Table {
    /// The table `name` in the folder `root` of `store`.
    pub(super) fn new(store: &Arc<dyn ObjectStore>, root: &Url, name: &str) -> Result<Self> {
        runtime()?;
        let place = |error: &dyn std::fmt::Display| Error::invalid(format!("place of table {name}"), error);
        let url = root.join(&format!("{name}/")).map_err(|e| place(&e))?;
        let path = ObjectPath::from_url_path(url.path()).map_err(|e| place(&e))?;
        let files: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(store), path));
        let log = default_logstore(Arc::clone(&files), Arc::clone(store), &url, &StorageConfig::default());
        Ok(Self { name: name.to_owned(), store: files, log })
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        key: &str,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let source = error.into();
        let store = match source.downcast_ref::<DeltaTableError>() {
            Some(DeltaTableError::ObjectStore { source }) => Some(source),
            Some(_) => None,
            None => source.downcast_ref::<object_store::Error>(),
        };
        let retryable =
            matches!(store, Some(object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }));
        let backend = format!("Delta table {}", self.name);
        Error::Backend { backend, operation, key: key.to_owned(), retryable, source }
    }

    /// The versions that the log has; none for a table that is not there.
    pub(super) async fn read_log(&self) -> Result<Log> {
        let folder = ObjectPath::from("_delta_log");
        let listed = match self.store.list_with_delimiter(Some(&folder)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(Log { commits: Vec::new(), first: 0 }),
            listed => listed.map_err(|e| self.failed("list", "_delta_log", e))?.objects,
        };
        let mut commits: Vec<(u64, ObjectMeta)> = Vec::new();
        let mut checkpoint = u64::MAX;
        for object in listed {
            let Some((number, rest)) = object.location.filename().and_then(|name| name.split_once('.')) else {
                continue;
            };
            match number.parse() {
                Ok(number) if rest == "json" => commits.push((number, object)),
                Ok(number) if rest.starts_with("checkpoint") => checkpoint = checkpoint.min(number),
                _ => {}
            }
        }
        commits.sort_unstable_by_key(|(number, _)| *number);
        let first = if commits.first().is_some_and(|(number, _)| *number == 0) { 0 } else { checkpoint };
        Ok(Log { commits, first })
    }

    async fn entry(&self, (number, object): &(u64, ObjectMeta), first: u64) -> Result<Entry> {
        let key = object.location.as_ref();
        let failed = |error| self.failed("read", key, error);
        let data = self.store.get(&object.location).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let data = String::from_utf8_lossy(&data);
        let lines = data.lines().filter(|line| line.contains("\"commitInfo\""));
        let mut info = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()?.commit_info);
        let mut info = info.next().unwrap_or_default();
        let millis = ["inCommitTimestamp", "timestamp"].iter().find_map(|key| info.get(*key)?.as_i64());
        let at = millis.map_or(object.last_modified, |millis| from_micros(millis.saturating_mul(1_000)));
        let text = |key| info.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (operation, user) = (text("operation"), text("userName"));
        let ours = info.remove("mlops").and_then(|ours| serde_json::from_value(ours).ok());
        Ok(Entry { number: *number, ours, at, operation, user, loadable: *number >= first })
    }

    /// What the log says of each version from number `from` on.
    pub(super) async fn entries(&self, log: &Log, from: u64) -> Result<Vec<Entry>> {
        let wanted: Vec<_> = log.commits.iter().filter(|(number, _)| *number >= from).cloned().collect();
        let first = log.first;
        let read = wanted.into_iter().map(|commit| async move { self.entry(&commit, first).await });
        stream::iter(read).buffered(PARALLEL).try_collect().await
    }

    /// What the log says of the newest dataset version up to `number`.
    pub(super) async fn newest(&self, log: &Log, number: u64) -> Result<Option<Entry>> {
        for commit in log.commits.iter().rev() {
            if commit.0 > number {
                continue;
            }
            let entry = self.entry(commit, log.first).await?;
            if entry.is_version() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// What the log says of version `number`; from `before`, an earlier one, if that was read.
    pub(super) async fn snapshot(&self, number: u64, before: Option<Arc<Snapshot>>) -> Result<Arc<Snapshot>> {
        let snapshot = match before {
            Some(before) => before.update(self.log.engine(None), Some(number)).await,
            None => Snapshot::try_new(&*self.log, Some(number)).await.map(Arc::new),
        };
        snapshot.map_err(|e| self.failed("read", &format!("version {number}"), e))
    }

    /// The dataset version that a version of another writer is.
    pub(super) async fn derive(
        &self,
        snapshot: &Snapshot,
        entry: &Entry,
        parent: Option<DatasetRef>,
    ) -> Result<DatasetVersion> {
        let of = format!("{} v{}", self.name, entry.number);
        let metadata = snapshot.metadata();
        let mapping = metadata.configuration().get("delta.columnMapping.mode");
        if mapping.is_some_and(|mode| mode != "none") {
            let reason = "has its columns mapped to other names, which is not supported; write it anew without";
            return Err(Error::invalid(format!("Delta table {of}"), reason));
        }
        let schema = snapshot.arrow_schema();
        let mut files: Vec<(i64, DataFile)> = Vec::new();
        let mut views = snapshot.file_views(&*self.log, None);
        while let Some(view) = views.try_next().await.map_err(|e| self.failed("read", &of, e))? {
            let path = view.object_store_path().to_string();
            if view.deletion_vector_descriptor().is_some() {
                let reason = "has deletion vectors, which are not supported; purge them (REORG TABLE … APPLY (PURGE))";
                return Err(Error::invalid(format!("Delta table {of}"), reason));
            }
            if view.path().contains("://") {
                let reason = format!("has files of another place, like {path}; copy the table instead of cloning it");
                return Err(Error::invalid(format!("Delta table {of}"), reason));
            }
            // A table has no empty text in a partition: it stands for null.
            let values = view.partition_values_map().into_iter();
            let partition: Partition = values.map(|(k, v)| (k, v.filter(|text| !text.is_empty()))).collect();
            let bytes = u64::try_from(view.size()).map_err(|e| Error::invalid(format!("size of {path} of {of}"), e))?;
            let digest = match own_digest(&path) {
                Some(digest) => digest,
                None => Digest::of_json(&("delta file", metadata.id(), &path, bytes, &partition))?,
            };
            let stats = view.stats();
            let known = stats.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            let blob = Blob { digest, bytes, chunks: None, new_bytes: 0 };
            let mut file = DataFile::new(blob, 0, FileFormat::Parquet, partition);
            file.path = Some(path);
            file.rows = match known.and_then(|known| known["numRecords"].as_u64()) {
                Some(rows) => rows,
                None => open(self, &of, &file).await?.rows().await?,
            };
            file.stats = schema::from_log(&schema, file.rows, stats.as_deref(), &file.partition);
            files.push((view.modification_time(), file));
        }
        // The log has no order of files: the older first.
        files.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.path.cmp(&y.path)));
        let files: Vec<DataFile> = files.into_iter().map(|(_, file)| file).collect();
        let columns = columns(&schema);
        let covered: Vec<_> = files.iter().map(|file| (&file.path, file.blob.bytes, &file.partition)).collect();
        let digest = Digest::of_json(&("delta version", metadata.id(), entry.number, &self.name, &columns, &covered))?;
        let stats = total(columns.len(), &files);
        Ok(DatasetVersion {
            name: self.name.clone(),
            digest,
            number: Some(entry.number),
            columns,
            rows: files.iter().map(|file| file.rows).sum(),
            files,
            parent,
            source: format!("delta: {}", entry.operation),
            created_at: entry.at,
            author: entry.user.clone(),
            stats,
            sketches: None,
            schema: Digest::of(&encode_schema(&schema)?),
        })
    }
}
