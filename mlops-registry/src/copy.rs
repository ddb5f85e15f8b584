use mlops_core::package::Manifest;
use mlops_core::{ArtifactStore, Digest, Principal};

use crate::{Error, ModelRegistry, ModelVersion, NewModel, NewVersion, Result};

/// Copies a version from one registry to another: its package, checked byte by byte on the way, its description, tags, run
/// and source. From development to production, from an MLflow server into this toolkit, or back.
///
/// Each side is a registry with the artifact store that it finds packages in. The model `name` is made on the other side if
/// it is not there. Where the copy came from is kept in its tags: `copied_from` (`models:/NAME/VERSION`),
/// `copied_from_registry` and `copied_from_author`. The same copy again is the version that it made.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mlops_core::store::MemoryStore;
/// use mlops_core::{Package, Principal, Role};
/// use mlops_registry::{ModelRegistry as _, NewModel, NewVersion, SqlRegistry, copy_version};
/// # use mlops_core::signature::{ColumnSpec, ColumnType};
/// # let signature = mlops_core::Signature::new([ColumnSpec::new("x", ColumnType::Double)], [ColumnSpec::new("y", ColumnType::Double)])?;
/// let (here, there) = (MemoryStore::default(), MemoryStore::default());
/// let development = SqlRegistry::builder().artifacts(here.clone()).open_in_memory().await?;
/// let production = SqlRegistry::builder().artifacts(there.clone()).open_in_memory().await?;
/// let ana = Principal::new("ana").with_role(Role::Contributor);
/// let package = Package::builder(signature).flavor("mine", serde_json::json!({})).build()?.save(&here).await?;
/// development.create_model(&ana, NewModel::new("prices")).await?;
/// development.create_version(&ana, NewVersion::new("prices", package)).await?;
///
/// let copy = copy_version(&ana, (&development, &here), "prices", 1, (&production, &there), "prices").await?;
/// assert_eq!((copy.version, copy.package, &*copy.tags["copied_from"]), (1, package, "models:/prices/1"));
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// # Errors
/// Those of reading the version and its package, of writing the package, and of
/// [`create_version`](ModelRegistry::create_version); nothing is registered where a byte is missing or damaged.
pub async fn copy_version(
    who: &Principal,
    from: (&dyn ModelRegistry, &dyn ArtifactStore),
    model: &str,
    version: u64,
    to: (&dyn ModelRegistry, &dyn ArtifactStore),
    name: &str,
) -> Result<ModelVersion> {
    let found = from.0.version(model, version).await?;
    match to.0.model(name).await {
        Err(Error::Core(mlops_core::Error::NotFound { .. })) => {
            let description = from.0.model(model).await?.description;
            to.0.create_model(who, NewModel::new(name).description(description)).await?;
        }
        other => drop(other?),
    }
    let package = Manifest::copy(from.1, to.1, &found.package, None).await?.manifest;
    // What was there already is looked at too.
    package.verify(to.1).await?;
    let place = (from.0.to_string(), model, version);
    let mut new = NewVersion::new(name, found.package)
        .description(found.description)
        .source(found.source)
        .run_link(found.run_link)
        .key(format!("copy {}", Digest::of_json(&place)?));
    (new.run, new.logged_model, new.tags) = (found.run, found.logged_model, found.tags);
    let new = new
        .tag("copied_from", format!("models:/{model}/{version}"))
        .tag("copied_from_registry", place.0)
        .tag("copied_from_author", found.author);
    to.0.create_version(who, new).await
}
