use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{
    Base, ColumnSketch, DatasetStore, DatasetVersion, Erasure, ErasureReport, MoveTag, NewDataset, Removal, Retained,
    Retention, Scan, Tag, erase, retain,
};
use crate::audit::AuditLog;
use crate::lineage::LineageStore;
use crate::{Authorizer, Digest, Permission, Principal, Resource, Result, RoleTable, Timestamp};

/// Datasets behind an [`Authorizer`]: nobody reads or changes any but by [`acting_as`](Self::acting_as) somebody.
///
/// ```
/// # futures::executor::block_on(async {
/// # use std::sync::Arc;
/// # use arrow::array::{Float64Array, RecordBatch};
/// use mlops_core::dataset::{DatasetStore, GuardedDatasets, NewDataset, ParquetDatasets};
/// use mlops_core::{Principal, Role, store::MemoryStore};
/// # let rows = RecordBatch::try_from_iter([("price", Arc::new(Float64Array::from(vec![0.05])) as _)])?;
/// let datasets = GuardedDatasets::new(ParquetDatasets::new(MemoryStore::default()));
/// let ana = datasets.acting_as(&Principal::new("ana").with_role(Role::Contributor));
/// let version = ana.commit(NewDataset::new("prices", [rows.clone()])).await?;
/// assert_eq!(version.author, "ana");
///
/// let eve = datasets.acting_as(&Principal::new("eve").with_role(Role::Viewer));
/// let denied = eve.commit(NewDataset::new("prices", [rows])).await.unwrap_err().to_string();
/// assert_eq!(denied, "eve may not commit data on dataset prices: needs a role that grants it (contributor or admin)");
/// # Ok::<(), mlops_core::Error>(()) }).unwrap();
/// ```
///
/// | call | needs |
/// | --- | --- |
/// | `version`, `versions`, `scan`, `sketches`, `tags` | [`Permission::Read`] on the dataset |
/// | `names` | [`Permission::Read`] on all of them: a list with gaps would let an erasure miss rows |
/// | `commit`, `tag` | [`Permission::CommitData`] on the dataset; to append to another also [`Permission::Read`] on that |
/// | `remove`, [`retain`](DatasetsAs::retain) | [`Permission::Administer`] on the dataset |
/// | [`erase`](DatasetsAs::erase) | [`Permission::Administer`] on all of them |
///
/// "All of them" is the project, or, where there is none, what is granted everywhere.
#[derive(Clone, Debug)]
pub struct GuardedDatasets {
    inner: Arc<dyn DatasetStore>,
    authorizer: Arc<dyn Authorizer>,
    project: Option<String>,
}

impl GuardedDatasets {
    /// The datasets in `inner`, guarded by the role table, in no project.
    pub fn new(inner: impl DatasetStore) -> Self {
        Self { inner: Arc::new(inner), authorizer: Arc::new(RoleTable), project: None }
    }

    /// What decides who may do what (default [`RoleTable`]).
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// The project that all datasets here belong to (default none): grants on it hold here, and grants that name no project
    /// or another do not, unless they hold everywhere.
    #[must_use]
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into());
        self
    }

    /// The datasets as `who` may use them: a store in which each act is checked and carries their name.
    #[must_use]
    pub fn acting_as(&self, who: &Principal) -> DatasetsAs {
        DatasetsAs { guard: self.clone(), who: who.clone() }
    }
}

impl fmt::Display for GuardedDatasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// [`GuardedDatasets`] in the hands of one principal.
///
/// The author of a version, the mover of a tag and the remover of a version are that principal, whatever the call says.
/// What is read is the version as it is stored: one that was altered in memory to name other files reads none of them.
#[derive(Clone, Debug)]
pub struct DatasetsAs {
    guard: GuardedDatasets,
    who: Principal,
}

impl DatasetsAs {
    /// Forgets rows in the principal's name: [`erase`](super::erase()), refused as a whole to who may not do all of it.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`](crate::Error::PermissionDenied) before anything is looked at; those of
    /// [`erase`](super::erase()).
    pub async fn erase(
        &self,
        lineage: &dyn LineageStore,
        audit: &dyn AuditLog,
        erasure: &Erasure,
    ) -> Result<ErasureReport> {
        self.may_with_all(Permission::Administer)?;
        erase(self, lineage, audit, &erasure.clone().by(&self.who.name)).await
    }

    /// Removes the versions that a policy lets go, in the principal's name: [`retain`](super::retain()).
    ///
    /// # Errors
    /// [`Error::PermissionDenied`](crate::Error::PermissionDenied) before anything is looked at; those of
    /// [`retain`](super::retain()).
    pub async fn retain(
        &self,
        lineage: &dyn LineageStore,
        name: &str,
        policy: &Retention,
        now: Timestamp,
    ) -> Result<Retained> {
        self.may(Permission::Administer, name)?;
        retain(self, lineage, name, policy, &self.who.name, now).await
    }

    fn may(&self, permission: Permission, dataset: &str) -> Result<()> {
        let dataset = Resource::dataset(dataset);
        let dataset = match &self.guard.project {
            Some(project) => dataset.in_project(project),
            None => dataset,
        };
        self.guard.authorizer.check(&self.who, permission, &dataset)
    }

    fn may_with_all(&self, permission: Permission) -> Result<()> {
        match &self.guard.project {
            Some(project) => self.guard.authorizer.check(&self.who, permission, &Resource::project(project)),
            // No dataset has that name.
            None => self.may(permission, "*"),
        }
    }

    /// The version as it is stored: the one in hand may say anything of its name and files.
    async fn stored(&self, version: &DatasetVersion) -> Result<DatasetVersion> {
        self.version(&version.name, &version.digest).await
    }
}

impl fmt::Display for DatasetsAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.guard, self.who)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl DatasetStore for DatasetsAs {
    async fn commit(&self, mut new: NewDataset) -> Result<DatasetVersion> {
        self.may(Permission::CommitData, &new.name)?;
        if let Some(Base::Append(before) | Base::ReplacePartitions(before)) = &mut new.base {
            *before = self.stored(before).await?;
        }
        self.guard.inner.commit(new.author(&self.who.name)).await
    }

    async fn version(&self, name: &str, digest: &Digest) -> Result<DatasetVersion> {
        self.may(Permission::Read, name)?;
        self.guard.inner.version(name, digest).await
    }

    async fn versions(&self, name: &str) -> Result<Vec<DatasetVersion>> {
        self.may(Permission::Read, name)?;
        self.guard.inner.versions(name).await
    }

    async fn names(&self) -> Result<Vec<String>> {
        self.may_with_all(Permission::Read)?;
        self.guard.inner.names().await
    }

    async fn scan(&self, version: &DatasetVersion, scan: Scan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.guard.inner.scan(&self.stored(version).await?, scan).await
    }

    async fn sketches(&self, version: &DatasetVersion) -> Result<Vec<ColumnSketch>> {
        self.guard.inner.sketches(&self.stored(version).await?).await
    }

    async fn tag(&self, change: MoveTag) -> Result<Tag> {
        self.may(Permission::CommitData, &change.dataset)?;
        self.guard.inner.tag(change.by(&self.who.name)).await
    }

    async fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        self.may(Permission::Read, name)?;
        self.guard.inner.tags(name).await
    }

    async fn remove(&self, version: &DatasetVersion, removal: Removal) -> Result<()> {
        self.may(Permission::Administer, &version.name)?;
        self.guard.inner.remove(version, Removal { by: self.who.name.clone(), ..removal }).await
    }
}
