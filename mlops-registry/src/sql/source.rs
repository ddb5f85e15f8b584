use async_trait::async_trait;
use mlops_core::{ModelRef, ModelSource, Package, ResolvedModel, Result, Selector};

use super::SqlRegistry;
use super::db::{self, Backend as _};
use crate::ModelRegistry as _;

#[async_trait]
impl ModelSource for SqlRegistry {
    /// The revision is the alias's, the newest number for `latest`, 0 for a fixed version.
    async fn resolve(&self, wanted: &ModelRef) -> Result<ResolvedModel> {
        let name = wanted.name.clone();
        match &wanted.selector {
            Selector::Alias(alias) => {
                let row: Option<(i64, i64, String)> = db::query(
                    "SELECT a.version, a.revision, v.package FROM aliases a \
                     JOIN versions v ON v.model = a.model AND v.version = a.version \
                     WHERE a.model = $1 AND a.alias = $2 AND v.deleted_at IS NULL",
                )
                .bind(&name)
                .bind(alias)
                .fetch_optional(&self.0.database)
                .await
                .during("resolve", &name)?;
                let Some((version, revision, package)) = row else {
                    // Says which of the two is missing; should somebody have set the alias just now, that is found.
                    let found = self.alias(&name, alias).await?;
                    let package = self.version(&name, found.version).await?.package;
                    return Ok(ResolvedModel { name, version: found.version, revision: found.revision, package });
                };
                let (version, revision) = (db::number(version)?, db::number(revision)?);
                Ok(ResolvedModel { name, version, revision, package: db::from_text(&package)? })
            }
            Selector::Latest => {
                let version = self.model(&name).await?.latest;
                if version == 0 {
                    return Err(mlops_core::Error::not_found("model version", format!("{name}/latest")));
                }
                let package = self.version(&name, version).await?.package;
                Ok(ResolvedModel { name, version, revision: version, package })
            }
            Selector::Version(version) => {
                let package = self.version(&name, *version).await?.package;
                Ok(ResolvedModel { name, version: *version, revision: 0, package })
            }
            other => Err(mlops_core::Error::invalid("model reference", format!("{other:?} is not supported"))),
        }
    }

    async fn package(&self, model: &ResolvedModel) -> Result<Package> {
        Package::load(&*self.0.artifacts, &model.package).await
    }
}
