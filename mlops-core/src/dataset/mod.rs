//! Data that a model can be traced back to: immutable versions, addressed by their contents.
//!
//! ```
//! # futures::executor::block_on(async {
//! # use std::sync::Arc;
//! # use arrow::array::{Float64Array, RecordBatch};
//! use mlops_core::dataset::{DatasetStore, DatasetStoreExt, NewDataset, ParquetDatasets};
//! use mlops_core::store::MemoryStore;
//! let datasets = ParquetDatasets::new(MemoryStore::default());
//! let rows = RecordBatch::try_from_iter([("price", Arc::new(Float64Array::from(vec![0.05, 0.06])) as _)])?;
//! let v1 = datasets.commit(NewDataset::new("prices", [rows]).source("feed.csv").author("ana")).await?;
//! assert_eq!(v1.rows, 2);
//! assert_eq!(datasets.read_all(&v1).await?.num_rows(), 2);
//! # Ok::<(), mlops_core::Error>(()) }).unwrap();
//! ```

#[cfg(feature = "datasets")]
#[cfg_attr(docsrs, doc(cfg(feature = "datasets")))]
mod parquet;

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

#[cfg(feature = "datasets")]
pub use self::parquet::ParquetDatasets;
use crate::clock::from_micros;
use crate::lineage::{Edge, Node, NodeRef};
use crate::package::DatasetRef;
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

/// One file of a dataset version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// The digest it is stored under.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// An immutable version of a dataset: what it holds and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DatasetVersion {
    /// The dataset's name.
    pub name: String,
    /// The digest over name, columns, files, parent and source: equal data from an equal source is one version.
    pub digest: Digest,
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

    /// The digest that such a version has.
    #[cfg(feature = "datasets")]
    fn digest_of(
        name: &str,
        columns: &[Column],
        files: &[DataFile],
        parent: Option<&DatasetRef>,
        source: &str,
    ) -> Result<Digest> {
        Digest::of_json(&(name, columns, files, parent, source))
    }
}

impl Display for DatasetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} rows, {} columns)", self.reference(), self.rows, self.columns.len())
    }
}

/// Rows to commit.
#[derive(Clone, Debug)]
#[must_use = "rows are kept once they are committed"]
pub struct NewDataset {
    name: String,
    batches: Vec<RecordBatch>,
    parent: Option<DatasetRef>,
    source: String,
    author: String,
    at: Timestamp,
}

impl NewDataset {
    /// Rows for the dataset `name`.
    pub fn new(name: impl Into<String>, batches: impl IntoIterator<Item = RecordBatch>) -> Self {
        Self {
            name: name.into(),
            batches: batches.into_iter().collect(),
            parent: None,
            source: String::new(),
            author: String::new(),
            at: from_micros(0),
        }
    }

    /// The version these rows were made from.
    pub fn parent(mut self, parent: &DatasetVersion) -> Self {
        self.parent = Some(parent.reference());
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

    /// When (default: 1970, so that nothing reads a clock by itself).
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = at;
        self
    }

    /// Checks what every store asks of new rows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that is not plain, no rows, or no columns; [`Error::SchemaMismatch`] for
    /// batches whose columns differ.
    pub fn check(&self) -> Result<()> {
        crate::store::check_name("dataset name", &self.name)?;
        let Some(first) = self.batches.first() else {
            return Err(Error::invalid("dataset", format!("{} has no rows", self.name)));
        };
        if first.num_columns() == 0 {
            return Err(Error::invalid("dataset", format!("{} has no columns", self.name)));
        }
        if self.batches.iter().all(|b| b.num_rows() == 0) {
            return Err(Error::invalid("dataset", format!("{} has no rows", self.name)));
        }
        let wanted = first.schema();
        self.batches.iter().try_for_each(|batch| same_columns(&wanted, &batch.schema()))
    }
}

fn same_columns(wanted: &Schema, found: &Schema) -> Result<()> {
    for field in wanted.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => return Err(Error::column(field.name(), "missing from a later batch")),
            Ok(other) if other.data_type() != field.data_type() => {
                let reason = format!("is {} in one batch and {} in another", field.data_type(), other.data_type());
                return Err(Error::column(field.name(), reason));
            }
            Ok(_) => {}
        }
    }
    match found.fields().iter().find(|f| wanted.field_with_name(f.name()).is_err()) {
        Some(extra) => Err(Error::column(extra.name(), "only in a later batch")),
        None if wanted.fields() == found.fields() => Ok(()),
        None => Err(Error::column(wanted.field(0).name(), "columns are ordered differently in a later batch")),
    }
}

/// Immutable versions of datasets.
///
/// # Contract
/// - **Immutable.** A version that `commit` returned reads back the same rows, bit for bit, for as long as it exists.
/// - **Idempotent.** Committing equal rows with equal name, parent and source returns the version that exists, with its
///   first author and time.
/// - **Atomic.** A version is listed only when all its rows can be read; a crash leaves nothing or everything.
/// - **Verified.** Damaged files are [`Error::Corrupt`], never rows.
/// - **Missing** versions are [`Error::NotFound`].
#[async_trait]
pub trait DatasetStore: Debug + Display + Send + Sync + 'static {
    /// Keeps rows as a version.
    async fn commit(&self, new: NewDataset) -> Result<DatasetVersion>;

    /// The version with that digest.
    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion>;

    /// All versions of a dataset, by time of commit, then by digest; empty for a name never committed.
    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>>;

    /// The rows of a version, in order.
    async fn read(&self, version: &DatasetVersion) -> Result<BoxStream<'static, Result<RecordBatch>>>;
}

/// Conveniences for callers. Implemented for every store; never implement it by hand.
pub trait DatasetStoreExt: DatasetStore {
    /// All rows of a version as one batch.
    fn read_all(&self, version: &DatasetVersion) -> impl Future<Output = Result<RecordBatch>> + Send {
        async move {
            let batches: Vec<RecordBatch> = self.read(version).await?.try_collect().await?;
            let schema = batches.first().ok_or_else(|| Error::not_found("rows of dataset", version))?.schema();
            Ok(arrow::compute::concat_batches(&schema, &batches)?)
        }
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

    async fn read(&self, version: &DatasetVersion) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        (**self).read(version).await
    }
}
