//! Data that a model can be traced back to: immutable versions, addressed by their contents.
//!
//! ```
//! # futures::executor::block_on(async {
//! # use std::sync::Arc;
//! # use arrow::array::{Float64Array, RecordBatch};
//! use mlops_core::dataset::{DatasetStore, DatasetStoreExt, NewDataset, ParquetDatasets, Scan, col};
//! use mlops_core::store::MemoryStore;
//! let datasets = ParquetDatasets::new(MemoryStore::default());
//! let rows = |price: Vec<f64>| RecordBatch::try_from_iter([("price", Arc::new(Float64Array::from(price)) as _)]);
//! let v1 = datasets.commit(NewDataset::new("prices", [rows(vec![0.05, 0.06])?]).source("feed.csv").author("ana")).await?;
//! let v2 = datasets.commit(NewDataset::new("prices", [rows(vec![0.07])?]).append_to(&v1).author("ana")).await?;
//! assert_eq!(datasets.read_all(&v2).await?.num_rows(), 3);
//! let cheap = datasets.select(&v2, Scan::all().filter(col("price").lt(0.06))).await?;
//! assert_eq!(cheap.num_rows(), 1);
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```
//!
//! # Next
//! [`DatasetStoreExt::open`] finds a version by tag, time or distance; [`diff`] compares two; [`retain`] removes old
//! ones; [`erase`] forgets a person's rows; [`GuardedDatasets`] asks first who may.

#[cfg(feature = "delta")]
mod delta;
mod diff;
mod erase;
mod expr;
mod files;
mod guard;
mod import;
mod looks;
mod manifest;
mod open;
mod parquet;
mod partitions;
mod retention;
mod segment;
mod stats;
mod tags;
mod trail;
mod written;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

#[cfg(feature = "delta")]
#[cfg_attr(docsrs, doc(cfg(feature = "delta")))]
pub use self::delta::{DeltaDatasets, Purged};
pub use self::diff::{ColumnDiff, DatasetDiff, RowDiff, diff};
pub use self::erase::{Erasure, ErasureReport, Held, Unchecked, erase};
pub use self::expr::{ColumnExpr, Comparison, Expr, Value, col};
pub use self::files::FileFormat;
pub use self::guard::{DatasetsAs, GuardedDatasets};
pub use self::open::DatasetSpec;
pub use self::parquet::ParquetDatasets;
pub use self::retention::{Removal, Retained, Retention, retain};
pub use self::stats::{ColumnSketch, ColumnStats};
use crate::lineage::{Edge, Node, NodeRef};
use crate::package::DatasetRef;
use crate::store::{Blob, blocking};
use crate::{Digest, Error, Result, Timestamp};

/// One column of a dataset version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its Arrow type, as text: `Float64`, `Timestamp(Microsecond, Some("UTC"))`.
    pub data_type: String,
    /// Whether it may hold nulls.
    pub nullable: bool,
}

/// The values of the columns a dataset is partitioned by; `None` for null.
pub type Partition = BTreeMap<String, Option<String>>;

/// One file of a dataset version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DataFile {
    /// Its bytes in the store.
    #[serde(flatten)]
    pub blob: Blob,
    /// Where it lies in its table, for a store that keeps tables of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its rows.
    pub rows: u64,
    /// The digest of its rows, if it was made from rows: a later commit of the same keeps the file as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_digest: Option<Digest>,
    /// Its format.
    #[serde(default)]
    pub format: FileFormat,
    /// What the rows have in common, if the dataset is partitioned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition: Partition,
    /// What is known of each column, in the version's order: by it a scan passes over the file.
    #[serde(default)]
    pub stats: Vec<ColumnStats>,
}

impl DataFile {
    fn new(blob: Blob, rows: u64, format: FileFormat, partition: Partition) -> Self {
        Self { blob, path: None, rows, rows_digest: None, format, partition, stats: Vec::new() }
    }
}

/// An immutable version of a dataset: what it holds and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DatasetVersion {
    /// The dataset's name.
    pub name: String,
    /// The digest over name, columns, files, parent and source: equal data from an equal source is one version.
    pub digest: Digest,
    /// Its number, where the store numbers the versions of a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: u64,
    /// Its files, in row order.
    pub files: Vec<DataFile>,
    /// The version it was made from, of this dataset or another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<DatasetRef>,
    /// Where the rows came from, in the committer's words.
    pub source: String,
    /// When it was first committed.
    pub created_at: Timestamp,
    /// Who committed it first.
    pub author: String,
    /// What is known of each column, in order.
    #[serde(default)]
    pub stats: Vec<ColumnStats>,
    /// The artifact with the [`ColumnSketch`] of each column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketches: Option<Digest>,
    /// The artifact with the Arrow schema, as an IPC stream without batches.
    pub schema: Digest,
}

impl DatasetVersion {
    /// Name and digest.
    #[must_use]
    pub fn reference(&self) -> DatasetRef {
        DatasetRef { name: self.name.clone(), digest: self.digest }
    }

    /// What lineage should know of it: its node, with rows, source and author, and the edge from its parent.
    ///
    /// Hand both to [`LineageStore::record`](crate::lineage::LineageStore::record).
    #[must_use]
    pub fn lineage(&self) -> (Node, Vec<Edge>) {
        let here = NodeRef::dataset(&self.reference());
        let edges = self.parent.iter().map(|parent| Edge::new(NodeRef::dataset(parent), here.clone())).collect();
        let node = Node::new(here).fact("rows", self.rows).fact("source", &self.source).fact("author", &self.author);
        (node, edges)
    }

    /// How many bytes its files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.blob.bytes).sum()
    }

    /// How many bytes the commit that made this value added to the store; 0 for a version that was read back.
    #[must_use]
    pub fn new_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.blob.new_bytes).sum()
    }

    /// The digest that such a version has.
    fn digest_of(&self) -> Result<Digest> {
        let files: Vec<_> = self.files.iter().map(|f| (f.blob, f.rows, f.format, &f.partition)).collect();
        Digest::of_json(&(&self.name, &self.columns, self.schema, files, &self.parent, &self.source))
    }
}

impl Display for DatasetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} rows, {} columns)", self.reference(), self.rows, self.columns.len())
    }
}

/// Where the rows of a [`NewDataset`] come from.
enum Rows {
    Batches(Vec<RecordBatch>),
    Stream(SchemaRef, BoxStream<'static, Result<RecordBatch>>),
    Files(Vec<PathBuf>, Option<SchemaRef>),
}

/// What becomes of the files of the version that new rows are added to.
#[derive(Clone, Debug)]
enum Base {
    Append(DatasetVersion),
    ReplacePartitions(DatasetVersion),
}

/// Rows to commit.
#[must_use = "rows are kept once they are committed"]
pub struct NewDataset {
    name: String,
    rows: Rows,
    parent: Option<DatasetRef>,
    base: Option<Base>,
    partition_by: Vec<String>,
    source: String,
    author: String,
    at: Option<Timestamp>,
}

impl Debug for NewDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match &self.rows {
            Rows::Batches(batches) => format!("{} batches", batches.len()),
            Rows::Stream(..) => "a stream".to_owned(),
            Rows::Files(paths, _) => format!("{paths:?}"),
        };
        let Self { name, parent, source, author, at, .. } = self;
        let mut shown = f.debug_struct("NewDataset");
        shown.field("name", name).field("rows", &rows).field("parent", parent).field("source", source);
        shown.field("author", author).field("at", at).finish_non_exhaustive()
    }
}

impl NewDataset {
    fn of(name: String, rows: Rows) -> Self {
        let (source, author) = (String::new(), String::new());
        Self { name, rows, parent: None, base: None, partition_by: Vec::new(), source, author, at: None }
    }

    /// Rows for the dataset `name`.
    pub fn new(name: impl Into<String>, batches: impl IntoIterator<Item = RecordBatch>) -> Self {
        Self::of(name.into(), Rows::Batches(batches.into_iter().collect()))
    }

    /// Rows that come one batch at a time, so that they never need to be in memory together.
    pub fn stream(
        name: impl Into<String>,
        schema: SchemaRef,
        batches: impl futures::Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Self {
        Self::of(name.into(), Rows::Stream(schema, Box::pin(batches)))
    }

    /// Files on disk, kept as they are, byte for byte; the ending of each name tells its [`FileFormat`]. All have the
    /// columns of the first, or those of [`schema`](Self::schema): CSV files in their header, in that order; lines of JSON
    /// may lack some, which are null then.
    pub fn files<P: Into<PathBuf>>(name: impl Into<String>, paths: impl IntoIterator<Item = P>) -> Self {
        Self::of(name.into(), Rows::Files(paths.into_iter().map(Into::into).collect(), None))
    }

    /// The columns of CSV and JSON-lines files, instead of those found by reading them through.
    pub fn schema(mut self, schema: SchemaRef) -> Self {
        if let Rows::Files(_, wanted) = &mut self.rows {
            *wanted = Some(schema);
        }
        self
    }

    /// The version these rows were made from.
    pub fn parent(mut self, parent: &DatasetVersion) -> Self {
        self.parent = Some(parent.reference());
        self
    }

    /// Puts these rows behind those of `parent`, whose files are not written again.
    pub fn append_to(mut self, parent: &DatasetVersion) -> Self {
        self.base = Some(Base::Append(parent.clone()));
        self.parent(parent)
    }

    /// Puts these rows, which must be [partitioned](Self::partition_by), in the place of the partitions of `parent` that
    /// they belong to. Its other partitions stay as they are and are not written again.
    pub fn replace_partitions_of(mut self, parent: &DatasetVersion) -> Self {
        self.base = Some(Base::ReplacePartitions(parent.clone()));
        self.parent(parent)
    }

    /// Keeps rows with different values in `columns` in different files, in the order of those values; at most 10,000.
    pub fn partition_by<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.partition_by = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Where the rows came from.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Who commits them.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = author.into();
        self
    }

    /// When (default: what the store's clock tells).
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }

    /// Checks what can be known before the rows are read.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that is not plain, no rows, or no columns; [`Error::SchemaMismatch`] for
    /// batches whose columns differ.
    pub fn check(&self) -> Result<()> {
        crate::store::check_name("dataset name", &self.name)?;
        if matches!(self.base, Some(Base::ReplacePartitions(_))) && self.partition_by.is_empty() {
            return Err(Error::invalid("partition_by", "must name columns where partitions are to be replaced"));
        }
        match &self.rows {
            Rows::Files(paths, _) if paths.is_empty() => {
                Err(Error::invalid("dataset", format!("{} has no files", self.name)))
            }
            Rows::Files(..) if !self.partition_by.is_empty() => {
                Err(Error::invalid("partition_by", "files are kept as they are; read them and commit their rows"))
            }
            Rows::Batches(batches) => {
                let Some(first) = batches.first().filter(|_| batches.iter().any(|b| b.num_rows() > 0)) else {
                    return Err(Error::invalid("dataset", format!("{} has no rows", self.name)));
                };
                let wanted = first.schema();
                batches.iter().try_for_each(|batch| same_columns(&wanted, &batch.schema()))
            }
            _ => Ok(()),
        }
    }
}

/// Sorts the versions of a dataset as [`DatasetStore::versions`] lists them.
fn sort_versions(versions: &mut [DatasetVersion]) {
    let known: BTreeMap<Digest, (Timestamp, Option<Digest>)> =
        versions.iter().map(|v| (v.digest, (v.created_at, v.parent.as_ref().map(|parent| parent.digest)))).collect();
    // How many versions of the same time it was made from, one by one.
    let steps = |version: &DatasetVersion| {
        let then = |digest: &Digest| known.get(digest).filter(|(at, _)| *at == version.created_at);
        std::iter::successors(then(&version.digest), |(_, parent)| then(&(*parent)?)).skip(1).count()
    };
    versions.sort_by_cached_key(|version| (version.created_at, steps(version), version.digest));
}

/// Checks what every schema must be.
fn check_schema(name: &str, schema: &Schema) -> Result<()> {
    if schema.fields().is_empty() {
        return Err(Error::invalid("dataset", format!("{name} has no columns")));
    }
    let mut names = std::collections::BTreeSet::new();
    match schema.fields().iter().find(|field| !names.insert(field.name())) {
        Some(twice) => Err(Error::column(twice.name(), "is the name of two columns")),
        None => segment::check_types(schema),
    }
}

fn same_columns(wanted: &Schema, found: &Schema) -> Result<()> {
    for field in wanted.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => return Err(Error::column(field.name(), "is missing from later rows")),
            Ok(other) if other.data_type() != field.data_type() => {
                let reason = format!("was {} and is {} in later rows", field.data_type(), other.data_type());
                return Err(Error::column(field.name(), reason));
            }
            Ok(_) => {}
        }
    }
    match found.fields().iter().find(|f| wanted.field_with_name(f.name()).is_err()) {
        Some(extra) => Err(Error::column(extra.name(), "is only in later rows")),
        None if wanted.fields() == found.fields() => Ok(()),
        None => Err(Error::column(wanted.field(0).name(), "columns are ordered differently in later rows")),
    }
}

/// What to read of a version.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Scan {
    columns: Option<Vec<String>>,
    filter: Option<Expr>,
    batch_rows: usize,
    /// Whether text files must name the columns as the schema does. A version that was committed is read as it was then.
    strict: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self::all()
    }
}

impl Scan {
    /// All rows and columns, in batches of at most 65,536 rows.
    pub fn all() -> Self {
        Self { columns: None, filter: None, batch_rows: 65_536, strict: false }
    }

    /// Only these columns, in the version's order. Parquet files are read only where these columns are.
    pub fn columns<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Only rows that pass. Files whose statistics show that none can are not read.
    pub fn filter(mut self, filter: Expr) -> Self {
        self.filter = Some(match self.filter.take() {
            Some(first) => first.and(filter),
            None => filter,
        });
        self
    }

    /// The most rows of a batch (default 65,536, at least 1).
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Checks that the columns it names are there.
    fn check(&self, columns: &[Column]) -> Result<()> {
        let asked = self.columns.iter().flatten().map(String::as_str);
        let mut asked = asked.chain(self.filter.iter().flat_map(Expr::columns));
        match asked.find(|name| !columns.iter().any(|c| c.name == *name)) {
            Some(missing) => {
                let known: Vec<&str> = columns.iter().map(|c| &*c.name).take(20).collect();
                Err(Error::column(missing, format!("no such column; there are {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match &self.filter {
            Some(filter) => self.project(&filter.select(batch)?),
            None => self.project(batch),
        }
    }

    fn project(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some(columns) = &self.columns else { return Ok(batch.clone()) };
        let schema = batch.schema();
        let wanted = (0..schema.fields().len()).filter(|&i| columns.contains(schema.field(i).name()));
        Ok(batch.project(&wanted.collect::<Vec<_>>())?)
    }
}

/// A name for a version that can be moved to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tag {
    /// The tag.
    pub tag: String,
    /// The version it names; none once it is removed.
    pub version: Option<Digest>,
    /// How often it was moved, from 1.
    pub revision: u64,
    /// When it was moved last.
    pub at: Timestamp,
    /// Who moved it.
    pub by: String,
}

/// A tag to be set, moved or removed.
#[derive(Clone, Debug)]
#[must_use = "a tag moves once it is given to `tag`"]
pub struct MoveTag {
    dataset: String,
    tag: String,
    to: Option<Digest>,
    from: Option<Digest>,
    by: String,
    at: Option<Timestamp>,
}

impl MoveTag {
    /// Sets a tag that does not exist to `version`.
    pub fn create(tag: impl Into<String>, version: &DatasetVersion) -> Self {
        let (dataset, to) = (version.name.clone(), Some(version.digest));
        Self { dataset, tag: tag.into(), to, from: None, by: String::new(), at: None }
    }

    /// Removes a tag that names `version`.
    pub fn remove(tag: impl Into<String>, version: &DatasetVersion) -> Self {
        Self { to: None, from: Some(version.digest), ..Self::create(tag, version) }
    }

    /// The version that the tag must name now: if it names another, somebody else was faster.
    pub fn from(mut self, version: &DatasetVersion) -> Self {
        self.from = Some(version.digest);
        self
    }

    /// Who moves it.
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = by.into();
        self
    }

    /// When (default: what the store's clock tells).
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }
}

/// Immutable versions of datasets.
///
/// # Contract
/// - **Immutable.** A version that `commit` returned reads back the same rows, bit for bit, until it is removed.
/// - **Idempotent.** Committing equal rows with equal name, parent and source returns the version that exists, with its
///   first author and time.
/// - **Atomic.** A version is listed only when all its rows can be read; a crash leaves nothing or everything.
/// - **Verified.** Damaged files are [`Error::Corrupt`], never rows.
/// - **Tags** move by compare-and-swap: of two that move one tag from one version, one gets [`Error::Conflict`].
/// - **Missing** versions are [`Error::NotFound`].
/// - **Adding** to a version that is not the newest makes a branch. A store whose versions are one line, like a Delta
///   table, answers [`Error::Conflict`].
#[async_trait]
pub trait DatasetStore: Debug + Display + Send + Sync + 'static {
    /// Keeps rows as a version.
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion>;

    /// The version with that digest.
    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion>;

    /// All versions of a dataset, by time of commit; of those of one time, each after the one it was made from, then by
    /// digest. Empty for a name never committed.
    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>>;

    /// The names of all datasets that have a version, in order.
    async fn names(&self) -> Result<Vec<String>>;

    /// Rows of a version, in order.
    async fn scan(&self, version: &DatasetVersion, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>>;

    /// The sketch of each column of a version, in order.
    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>>;

    /// Moves a tag.
    async fn tag(&self, change: MoveTag) -> Result<Tag>;

    /// The tags of a dataset that name a version, by name.
    async fn tags(&self, name: &str) -> Result<Vec<Tag>>;

    /// Removes a version: it is not listed any more, and a later garbage collection may take its files. What it was and
    /// why it went stays. A tagged version is [`Error::InvalidInput`]; removing a removed one changes nothing.
    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()>;
}

/// Conveniences for callers. Implemented for every store; never implement it by hand.
pub trait DatasetStoreExt: DatasetStore {
    /// The rows of a version, in order.
    fn read(
        &self,
        version: &DatasetVersion,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<RecordBatch>>>> + Send {
        async move { self.scan(version, Scan::all()).await }
    }

    /// All rows of a version as one batch.
    fn read_all(&self, version: &DatasetVersion) -> impl Future<Output = Result<RecordBatch>> + Send {
        async move { self.select(version, Scan::all()).await }
    }

    /// What a scan finds, as one batch.
    fn select(&self, version: &DatasetVersion, scan: Scan) -> impl Future<Output = Result<RecordBatch>> + Send {
        async move {
            let batches: Vec<RecordBatch> = self.scan(version, scan).await?.try_collect().await?;
            let schema = batches.first().ok_or_else(|| Error::not_found("rows of dataset", version))?.schema();
            Ok(arrow::compute::concat_batches(&schema, &batches)?)
        }
    }

    /// Finds the version that `spec` names: see [`DatasetSpec`] for how.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a text that names none; [`Error::NotFound`] if there is no such version.
    fn open(&self, spec: &str) -> impl Future<Output = Result<DatasetVersion>> + Send {
        async move { spec.parse::<DatasetSpec>()?.find(self).await }
    }
}

impl<S: DatasetStore + ?Sized> DatasetStoreExt for S {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: DatasetStore + ?Sized> DatasetStore for Arc<S> {
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion> {
        (**self).commit(new).await
    }

    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion> {
        (**self).version(name, digest).await
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        (**self).versions(name).await
    }

    async fn names(&self) -> Result<Vec<String>> {
        (**self).names().await
    }

    async fn scan(&self, version: &DatasetVersion, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        (**self).scan(version, scan).await
    }

    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>> {
        (**self).sketches(version).await
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        (**self).tag(change).await
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        (**self).tags(name).await
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        (**self).remove(version, removal).await
    }
}
