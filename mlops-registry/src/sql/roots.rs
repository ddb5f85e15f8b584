//! What the registry names in the artifact store, for the collector.

use std::collections::BTreeSet;

use async_trait::async_trait;
use mlops_core::package::Manifest;
use mlops_core::store::Roots;
use mlops_core::{Digest, Error, Result};

use super::SqlRegistry;
use super::db::{self, Backend as _, Conn};

/// Writes down what a package consists of.
pub(super) async fn remember(conn: &mut Conn, package: &Digest, files: &[Digest]) -> Result<()> {
    let package = package.to_string();
    for digest in files {
        db::query(
            "INSERT INTO package_files (package, digest) VALUES ($1, $2) ON CONFLICT (package, digest) DO NOTHING",
        )
        .bind(&package)
        .bind(digest.to_string())
        .execute(&mut *conn)
        .await
        .during("record package", &package)?;
    }
    Ok(())
}

/// The packages of all versions, deleted ones until they are purged, and the artifacts of all runs and logged
/// models.
#[async_trait]
impl Roots for SqlRegistry {
    async fn live(&self, live: &mut BTreeSet<Digest>) -> Result<()> {
        const WHAT: &str = "mark what is live in";
        let label = &self.0.label;
        // Registered before files were written down.
        let unknown: Vec<String> =
            db::query("SELECT DISTINCT package FROM versions WHERE package NOT IN (SELECT package FROM package_files)")
                .fetch_all(&self.0.database)
                .await
                .during(WHAT, label)?;
        for package in unknown {
            let package: Digest = db::from_text(&package)?;
            match Manifest::load(&*self.0.artifacts, &package).await {
                Ok(manifest) => live.extend(manifest.files().values().map(|file| file.digest)),
                // Nothing of it can be read any more.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let named: Vec<String> = db::query(
            "SELECT package FROM versions UNION SELECT f.digest FROM package_files f \
             WHERE f.package IN (SELECT package FROM versions) UNION SELECT digest FROM run_artifacts \
             UNION SELECT digest FROM logged_model_artifacts",
        )
        .fetch_all(&self.0.database)
        .await
        .during(WHAT, label)?;
        for digest in named {
            live.insert(db::from_text(&digest)?);
        }
        Ok(())
    }
}
