//! Dataset versions in Delta tables.

mod commit;
mod read;
mod schema;
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use deltalake_core::kernel::Snapshot;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use self::table::{Entry, Log, Table, own_digest, runtime};
use super::stats::ColumnSketch;
use super::written::{self, decode_schema, encode_schema, some_batch};
use super::{DataFile, DatasetStore, DatasetVersion, MoveTag, NewDataset, Removal, Scan, Tag, sort_versions, tags};
use crate::audit::{AuditEvent, AuditLog};
use crate::store::{ArtifactStore, ArtifactStoreExt, ObjectArtifactStore, PutMode, check_name};
use crate::{DatasetRef, Digest, Error, Result, Timestamp};

/// Where what a table has no place for is kept, beside the tables.
const SIDE: &str = "_mlops";

/// Dataset versions in Delta tables: each dataset is a table in one folder, each of its versions a version of the table,
/// with the same [number](DatasetVersion::number).
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # use std::sync::Arc;
/// # use arrow::array::{Float64Array, RecordBatch};
/// # let dir = tempfile::tempdir().unwrap();
/// use mlops_core::dataset::{DatasetStoreExt, DatasetStore, DeltaDatasets, NewDataset};
/// let datasets = DeltaDatasets::open(dir.path())?;
/// let rows = |price: Vec<f64>| RecordBatch::try_from_iter([("price", Arc::new(Float64Array::from(price)) as _)]);
/// let v0 = datasets.commit(NewDataset::new("prices", [rows(vec![0.05, 0.06])?]).author("ana")).await?;
/// let v1 = datasets.commit(NewDataset::new("prices", [rows(vec![0.07])?]).append_to(&v0).author("ana")).await?;
/// assert_eq!((v0.number, v1.number), (Some(0), Some(1)));
/// assert_eq!(datasets.read_all(&datasets.open_number("prices", 0).await?).await?.num_rows(), 2);
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// Other Delta readers find the newest version as the table, and the others by number; other writers may add versions of
/// their own, which are dataset versions here too. Runs within a tokio runtime only. A table is as durable as its store:
/// that of a directory is not forced to the disk.
///
/// # Two kinds of versions
/// - **Ours**, committed here. Author, source, parent and digest are in the commit info under `mlops`, the rest in the
///   folder `_mlops` beside the tables. The digest covers the bytes of the files, and each file is checked against its
///   own before its rows are read, which takes reading it whole.
/// - **Others**, like those of Python's `deltalake` or of Spark. The digest covers the table's id, the number, the
///   columns, and path, size and partition of each file, by the log: the files are not read for it, and what is checked
///   on reading is their size. The statistics are not covered, since a checkpoint may write them anew. The parent is the
///   version before, the time that of the commit, the author its `userName`; the order of files is by age, then by path.
///   Looking one up by digest reads the log up to it. Tables with deletion vectors or mapped columns are refused.
///
/// A table that another writer made is read only here: commit under another name, with its version as the parent.
///
/// # What a table cannot do
/// - Unsigned whole numbers, half floats, times of day and times in other units than microseconds are refused with the
///   type to cast to. [`NewDataset::files`] is refused: a table has rows, no files as they are.
/// - A table has one line of versions: adding to a version that is not the newest is [`Error::Conflict`], also when the
///   other commit came in between. Rows that replace all others never conflict.
/// - A removed version is not listed any more, but other readers find it by its number until the log's retention takes
///   it. Removing the newest leaves the table empty for them. [`purge`](Self::purge) deletes the files that only removed
///   versions had; the log goes on telling their bounds.
/// - Who deletes a table's folder must delete what `_mlops` has of that name too, before a table is made there again.
///
/// # VACUUM
/// Tables made here keep log and files for a hundred years (`delta.logRetentionDuration`,
/// `delta.deletedFileRetentionDuration`), so that no VACUUM takes the files of a version unless told to. If one was, or
/// the table is another writer's, versions whose files are gone stay listed, and reading them is [`Error::NotFound`]
/// naming the file. A clean-up of the log takes the versions of others before its first checkpoint from the list.
#[derive(Clone)]
pub struct DeltaDatasets {
    store: Arc<dyn ObjectStore>,
    root: Url,
    /// The folder with the tables.
    tables: Arc<dyn ObjectStore>,
    side: Arc<dyn ArtifactStore>,
    audit: Option<Arc<dyn AuditLog>>,
}

/// What [`DeltaDatasets::purge`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What stays of a version that was removed.
#[derive(Serialize, Deserialize)]
struct Grave {
    digest: Digest,
    parent: Option<DatasetRef>,
    created_at: Timestamp,
    rows: u64,
    removal: Removal,
}

impl fmt::Debug for DeltaDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is inside the store may show its credentials.
        f.debug_struct("DeltaDatasets").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

impl fmt::Display for DeltaDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delta tables in {}", self.root)
    }
}

impl DeltaDatasets {
    /// Tables in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a directory that cannot be made or opened.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let unusable = |error: std::io::Error| Error::invalid(format!("directory {}", dir.display()), error);
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let whole = std::fs::canonicalize(dir).map_err(unusable)?;
        let url = Url::from_directory_path(&whole)
            .map_err(|()| Error::invalid(format!("directory {}", dir.display()), "has no URL"))?;
        Self::new(Arc::new(LocalFileSystem::new()), url.as_str())
    }

    /// Tables in a store of the `object_store` crate, in the folder that the path of `url` names: `s3://bucket/tables`,
    /// for a store of that bucket. The store must create exclusively, as all of that crate but a plain HTTP server do.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a text that is no URL of a folder.
    pub fn new(store: Arc<dyn ObjectStore>, url: &str) -> Result<Self> {
        let invalid = |error: &dyn fmt::Display| Error::invalid("URL of tables", error);
        let mut root = Url::parse(url).map_err(|e| invalid(&e))?;
        if root.cannot_be_a_base() || root.query().is_some() || root.fragment().is_some() {
            return Err(invalid(&"must have a path, and nothing behind it"));
        }
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        let path = ObjectPath::from_url_path(root.path()).map_err(|e| invalid(&e))?;
        let tables: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(&store), path.clone()));
        let side = PrefixStore::new(Arc::clone(&store), path.join(SIDE));
        let side = Arc::new(ObjectArtifactStore::new(Arc::new(side), format!("{SIDE} beside Delta tables")));
        Ok(Self { store, root, tables, side, audit: None })
    }

    /// Where commits, moves of tags and removals are recorded, once they are made; see
    /// [`ParquetDatasets::audit`](super::ParquetDatasets::audit).
    #[must_use]
    pub fn audit(mut self, log: impl AuditLog) -> Self {
        self.audit = Some(Arc::new(log));
        self
    }

    /// The dataset version that version `number` of the table is.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the table has no such version, or it was removed; [`Error::InvalidInput`] for one that
    /// cannot be read, with the reason.
    pub async fn open_number(&self, name: &str, number: u64) -> Result<DatasetVersion> {
        check_name("dataset name", name)?;
        let table = self.table(name)?;
        let removed = self.removed(name).await?.contains(&number);
        let log = table.read_log().await?;
        match table.newest(&log, number).await? {
            Some(entry) if entry.number == number && !removed => self.one(&table, &log, &entry).await,
            _ => Err(Error::not_found("dataset version", format!("{name}@v{number}"))),
        }
    }

    /// Deletes the data files, written here before `before`, that no listed version and no table has any more: those of
    /// removed versions and of commits that failed. Files of other writers are left to VACUUM. Choose `before` such that
    /// no commit that began before it is still going on.
    ///
    /// # Errors
    /// Those of the store; what was deleted by then stays deleted.
    pub async fn purge(&self, name: &str, before: Timestamp) -> Result<Purged> {
        check_name("dataset name", name)?;
        let table = self.table(name)?;
        let log = table.read_log().await?;
        let mut live: BTreeSet<String> = BTreeSet::new();
        let versions = self.versions(name).await?;
        live.extend(versions.iter().flat_map(|version| &version.files).filter_map(|file| file.path.clone()));
        if let Some(last) = log.last() {
            let head = table.snapshot(last, None).await?;
            let paths = head.file_views(&*table.log, None).map_ok(|view| view.object_store_path().to_string());
            let paths: Vec<String> = paths.try_collect().await.map_err(|e| table.failed("read", "files", e))?;
            live.extend(paths);
        }
        let objects = table.store.list_with_delimiter(None).await.map_err(|e| table.failed("list", name, e))?.objects;
        let mut purged = Purged::default();
        for object in objects {
            let path = object.location.as_ref();
            if own_digest(path).is_none() || live.contains(path) || object.last_modified >= before {
                continue;
            }
            table.store.delete(&object.location).await.map_err(|e| table.failed("delete", path, e))?;
            purged.files += 1;
            purged.bytes += object.size;
        }
        // Their manifests tell bounds of what was in the files.
        for (_, grave) in self.graves(name).await? {
            if !versions.iter().any(|version| version.digest == grave.digest) {
                self.side.delete(&Self::manifest_key(name, &grave.digest)).await?;
            }
        }
        Ok(purged)
    }

    async fn record(&self, event: impl FnOnce() -> AuditEvent) -> Result<()> {
        match &self.audit {
            Some(log) => log.append(event()).await.map(drop),
            None => Ok(()),
        }
    }

    fn table(&self, name: &str) -> Result<Table> {
        if name == SIDE {
            return Err(Error::invalid("dataset name", format!("{SIDE:?} is a folder of its own beside the tables")));
        }
        Table::new(&self.store, &self.root, name)
    }

    fn manifest_key(name: &str, digest: &Digest) -> String {
        format!("datasets/{name}/{digest}")
    }

    /// The versions that were removed, by number.
    async fn graves(&self, name: &str) -> Result<Vec<(u64, Grave)>> {
        let mut graves = Vec::new();
        for object in self.side.list(&format!("removed/{name}/")).await? {
            let what = || format!("record of the removal {}", object.key);
            let number = object.key.rsplit('/').next().unwrap_or_default();
            let number = number.parse().map_err(|e| Error::invalid(what(), e))?;
            let grave = serde_json::from_slice(&self.side.get(&object.key).await?);
            graves.push((number, grave.map_err(|e| Error::invalid(what(), e))?));
        }
        Ok(graves)
    }

    /// The numbers of the versions that were removed.
    async fn removed(&self, name: &str) -> Result<BTreeSet<u64>> {
        let objects = self.side.list(&format!("removed/{name}/")).await?;
        Ok(objects.iter().filter_map(|object| object.key.rsplit('/').next()?.parse().ok()).collect())
    }

    /// The dataset versions that the log has from number `from` on, without those that were removed.
    async fn listed(&self, table: &Table, log: &Log, from: u64) -> Result<Vec<Entry>> {
        let entries = table.entries(log, from).await?;
        if entries.is_empty() {
            return Ok(entries);
        }
        let removed = self.removed(&table.name).await?;
        Ok(entries.into_iter().filter(|entry| entry.is_version() && !removed.contains(&entry.number)).collect())
    }

    /// A version of ours, by what the log and its manifest tell.
    async fn kept(&self, table: &Table, entry: &Entry, digest: &Digest) -> Result<DatasetVersion> {
        let manifest = match self.side.get(&Self::manifest_key(&table.name, digest)).await {
            Err(Error::NotFound { .. }) => {
                let what = format!("{}@{digest}, in the folder {SIDE} beside the table", table.name);
                return Err(Error::not_found("manifest of dataset version", what));
            }
            manifest => manifest?,
        };
        let mut version: DatasetVersion =
            serde_json::from_slice(&manifest).map_err(|e| Error::invalid(format!("manifest of {}", table.name), e))?;
        let found = version.digest_of()?;
        if found != *digest || version.digest != found {
            let what = format!("manifest of dataset {}", table.name);
            return Err(Error::Corrupt { what, expected: *digest, found });
        }
        version.number = Some(entry.number);
        // Of two commits of equal rows at one time, the one in the log was first.
        if let Some(ours) = &entry.ours {
            version.author.clone_from(&ours.author);
            version.created_at = ours.created_at;
        }
        Ok(version)
    }

    /// The version that was committed here with that digest, if one was from number `from` on.
    async fn committed(&self, table: &Table, log: &Log, from: u64, digest: &Digest) -> Result<Option<DatasetVersion>> {
        let entries = self.listed(table, log, from).await?;
        match entries.iter().find(|entry| entry.ours.as_ref().is_some_and(|ours| ours.digest == *digest)) {
            Some(entry) => self.kept(table, entry, digest).await.map(Some),
            None => Ok(None),
        }
    }

    /// The version that an entry of the log is.
    async fn one(&self, table: &Table, log: &Log, entry: &Entry) -> Result<DatasetVersion> {
        if let Some(ours) = &entry.ours {
            return self.kept(table, entry, &ours.digest).await;
        }
        let before = match entry.number.checked_sub(1) {
            Some(before) => table.newest(log, before).await?,
            None => None,
        };
        let (parent, snapshot) = match before {
            None => (None, None),
            Some(Entry { ours: Some(ours), .. }) => {
                (Some(DatasetRef { name: table.name.clone(), digest: ours.digest }), None)
            }
            Some(before) => {
                let snapshot = table.snapshot(before.number, None).await?;
                (Some(table.derive(&snapshot, &before, None).await?.reference()), Some(snapshot))
            }
        };
        let snapshot = table.snapshot(entry.number, snapshot).await?;
        table.derive(&snapshot, entry, parent).await
    }

    /// The versions of other writers.
    async fn others(&self, table: &Table, log: &Log) -> Result<Vec<DatasetVersion>> {
        let removed = self.removed(&table.name).await?;
        let (mut snapshot, mut parent): (Option<Arc<Snapshot>>, Option<DatasetRef>) = (None, None);
        let mut versions = Vec::new();
        for entry in table.entries(log, 0).await?.iter().filter(|entry| entry.is_version()) {
            let digest = match &entry.ours {
                Some(ours) => ours.digest,
                None => {
                    let now = table.snapshot(entry.number, snapshot).await?;
                    let version = table.derive(&now, entry, parent.take()).await?;
                    let digest = version.digest;
                    versions.extend((!removed.contains(&entry.number)).then_some(version));
                    snapshot = Some(now);
                    digest
                }
            };
            parent = Some(DatasetRef { name: table.name.clone(), digest });
        }
        Ok(versions)
    }

    /// The columns of a version: kept beside the tables, or told by the log.
    async fn schema(&self, table: &Table, version: &DatasetVersion) -> Result<SchemaRef> {
        match self.side.get_artifact(&version.schema).await {
            Ok(kept) => return decode_schema(kept),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let number =
            version.number.ok_or_else(|| Error::invalid("dataset version", format!("{version} has no number")))?;
        let schema = table.snapshot(number, None).await?.arrow_schema();
        let found = Digest::of(&encode_schema(&schema)?);
        if found != version.schema {
            return Err(Error::Corrupt { what: format!("schema of {version}"), expected: version.schema, found });
        }
        Ok(schema)
    }
}

#[async_trait]
impl DatasetStore for DeltaDatasets {
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion> {
        new.check()?;
        let version = self.commit_rows(new).await?;
        self.record(|| {
            let DatasetVersion { name, digest, number, rows, parent, source, .. } = &version;
            let after = json!({"version": digest, "number": number, "rows": rows, "parent": parent, "source": source});
            AuditEvent::new(version.created_at, &version.author, "dataset.commit", format!("dataset {name}"))
                .change(Value::Null, after)
        })
        .await?;
        Ok(version)
    }

    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion> {
        check_name("dataset name", name)?;
        let table = self.table(name)?;
        let log = table.read_log().await?;
        if let Some(known) = self.committed(&table, &log, 0, digest).await? {
            return Ok(known);
        }
        let others = self.others(&table, &log).await?;
        if let Some(found) = others.into_iter().find(|version| version.digest == *digest) {
            return Ok(found);
        }
        let graves = self.graves(name).await?;
        let gone = graves.iter().find(|(_, grave)| grave.digest == *digest);
        let gone = gone.map(|(_, grave)| format!(" ({})", grave.removal)).unwrap_or_default();
        Err(Error::not_found("dataset version", format!("{name}@{digest}{gone}")))
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        check_name("dataset name", name)?;
        let table = self.table(name)?;
        let log = table.read_log().await?;
        let mut versions = self.others(&table, &log).await?;
        for entry in self.listed(&table, &log, 0).await? {
            if let Some(ours) = &entry.ours {
                versions.push(self.kept(&table, &entry, &ours.digest).await?);
            }
        }
        sort_versions(&mut versions);
        Ok(versions)
    }

    async fn names(&self) -> Result<Vec<String>> {
        runtime()?;
        let folders = self.tables.list_with_delimiter(None).await.map_err(|error| Error::Backend {
            backend: self.to_string(),
            operation: "list",
            key: String::new(),
            retryable: false,
            source: error.into(),
        })?;
        let mut names = Vec::new();
        for folder in folders.common_prefixes {
            let Some(name) = folder.filename().filter(|name| *name != SIDE && check_name("", name).is_ok()) else {
                continue;
            };
            let table = self.table(name)?;
            if !self.listed(&table, &table.read_log().await?, 0).await?.is_empty() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn scan(&self, version: &DatasetVersion, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        scan.check(&version.columns)?;
        check_name("dataset name", &version.name)?;
        let table = Arc::new(self.table(&version.name)?);
        let schema = self.schema(&table, version).await?;
        let place = |name: &str| version.columns.iter().position(|column| column.name == name);
        let wanted = |file: &&DataFile| match &scan.filter {
            Some(filter) => filter.may_match(&|name: &str| file.stats.get(place(name)?)),
            None => true,
        };
        let chosen: Vec<DataFile> = version.files.iter().filter(wanted).cloned().collect();
        let none = scan.project(&RecordBatch::new_empty(Arc::clone(&schema)))?;
        let of: Arc<str> = match version.number {
            Some(number) => format!("{version}, version {number} of its table"),
            None => version.to_string(),
        }
        .into();
        let scan = Arc::new(scan);
        let batches = stream::iter(chosen).then(move |file| {
            read::read(Arc::clone(&table), Arc::clone(&of), file, Arc::clone(&schema), Arc::clone(&scan))
        });
        Ok(some_batch(batches.try_flatten(), none))
    }

    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>> {
        match written::kept_sketches(&*self.side, version).await? {
            Some(kept) => Ok(kept),
            None => written::sketch(version.columns.len(), self.scan(version, Scan::all()).await?).await,
        }
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        change.check()?;
        if let Some(to) = &change.to {
            self.version(&change.dataset, to).await?;
        }
        let (moved, event) = tags::move_tag(&*self.side, change).await?;
        self.record(|| event).await?;
        Ok(moved)
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        tags::list(&*self.side, name).await
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        check_name("dataset name", &version.name)?;
        tags::check_untagged(&*self.side, version).await?;
        let (name, digest) = (&version.name, version.digest);
        let known = match self.version(name, &digest).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            known => known?,
        };
        let number = known.number.ok_or_else(|| Error::invalid("dataset version", format!("{known} has no number")))?;
        let table = self.table(name)?;
        self.check_ours(&table).await?;
        let event = AuditEvent::new(removal.at, &removal.by, "dataset.remove", format!("dataset {name}"))
            .change(json!({"version": digest, "number": number, "rows": known.rows}), Value::Null)
            .because(&removal.reason);
        // First, so that a removal that was cut off between the two can be repeated.
        self.empty(&table, &known, &removal.by).await?;
        let (parent, created_at, rows) = (known.parent.clone(), known.created_at, known.rows);
        let grave = crate::json::to_canonical(&Grave { digest, parent, created_at, rows, removal })?;
        let key = format!("removed/{name}/{number:020}");
        match self.side.put_opts(&key, grave.into(), PutMode::Create).await {
            Ok(()) | Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
        self.record(|| event).await
    }
}
