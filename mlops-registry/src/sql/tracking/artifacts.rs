use mlops_core::{Error as CoreError, Principal};
use serde_json::{Value, json};

use super::logged_models::find_model;
use super::runs::find_run;
use super::values::{id_of, select_many};
use crate::sql::db::{self, Backend as _, Conn};
use crate::sql::{SqlRegistry, audit};
use crate::tracking::{Artifact, ArtifactMode, ArtifactOwner};
use crate::{Result, check};

/// The statements on one table of artifacts.
struct Table {
    one: &'static str,
    within: &'static str,
    put: &'static str,
    remove: &'static str,
    action: &'static str,
    removal: &'static str,
}

macro_rules! table {
    ($table:literal, $owner:literal, $action:literal) => {
        Table {
            one: concat!("SELECT path, digest, bytes FROM ", $table, " WHERE ", $owner, " = $1 AND path = $2"),
            within: concat!(
                "SELECT path, digest, bytes FROM ",
                $table,
                " WHERE ",
                $owner,
                " = $1 AND path >= $2 AND path < $3 ORDER BY path"
            ),
            put: concat!(
                "INSERT INTO ",
                $table,
                " (",
                $owner,
                ", path, digest, bytes) VALUES ($1, $2, $3, $4) ON CONFLICT (",
                $owner,
                ", path) DO UPDATE SET digest = excluded.digest, bytes = excluded.bytes"
            ),
            remove: concat!("DELETE FROM ", $table, " WHERE ", $owner, " = $1 AND path = $2"),
            action: concat!($action, ".artifact"),
            removal: concat!($action, ".artifact.remove"),
        }
    };
}

const OF_RUNS: Table = table!("run_artifacts", "run_id", "run");
const OF_MODELS: Table = table!("logged_model_artifacts", "model_id", "logged_model");

fn table(owner: ArtifactOwner) -> &'static Table {
    match owner {
        ArtifactOwner::Run(_) => &OF_RUNS,
        ArtifactOwner::LoggedModel(_) => &OF_MODELS,
    }
}

type ArtifactRow = (String, String, i64);

fn artifact((path, digest, bytes): ArtifactRow) -> Result<Artifact> {
    Ok(Artifact::new(path, db::from_text(&digest)?, db::number(bytes)?))
}

/// By run, sorted by path within each.
pub(super) async fn of_runs(conn: &mut Conn, ids: &[String]) -> Result<Vec<(String, Artifact)>> {
    let select = "SELECT run_id, path, digest, bytes FROM run_artifacts WHERE run_id";
    let rows: Vec<(String, String, String, i64)> = select_many(conn, select, ids, "ORDER BY path").await?;
    rows.into_iter().map(|(id, path, digest, bytes)| Ok((id, artifact((path, digest, bytes))?))).collect()
}

async fn find(conn: &mut Conn, owner: ArtifactOwner, path: &str) -> Result<Option<Artifact>> {
    let id = id_of(owner);
    let row: Option<ArtifactRow> =
        db::query(table(owner).one).bind(&id).bind(path).fetch_optional(conn).await.during("read artifact of", &id)?;
    row.map(artifact).transpose()
}

async fn may_change(registry: &SqlRegistry, conn: &mut Conn, who: &Principal, owner: ArtifactOwner) -> Result<()> {
    match owner {
        ArtifactOwner::Run(run) => registry.changed(conn, who, run).await.map(drop),
        ArtifactOwner::LoggedModel(model) => registry.changed_model(conn, who, model).await.map(drop),
    }
}

async fn exists(conn: &mut Conn, owner: ArtifactOwner) -> Result<()> {
    match owner {
        ArtifactOwner::Run(run) => find_run(conn, run).await.map(drop),
        ArtifactOwner::LoggedModel(model) => find_model(conn, model).await.map(drop),
    }
}

fn shown(artifact: &Artifact) -> Value {
    json!({ "path": artifact.path, "digest": artifact.digest, "bytes": artifact.bytes })
}

pub(super) async fn put(
    registry: &SqlRegistry,
    who: &Principal,
    owner: ArtifactOwner,
    artifact: Artifact,
    mode: ArtifactMode,
) -> Result<()> {
    const WHAT: &str = "log artifact of";
    check::path("artifact path", &artifact.path)?;
    let bytes = i64::try_from(artifact.bytes).map_err(|e| CoreError::invalid("artifact size", e))?;
    let id = id_of(owner);
    let mut writing = registry.write(WHAT, &id).await?;
    may_change(registry, &mut writing.tx, who, owner).await?;
    let known = find(&mut writing.tx, owner, &artifact.path).await?;
    if known.as_ref() == Some(&artifact) {
        return Ok(());
    }
    if known.is_some() && mode == ArtifactMode::Create {
        let name = format!("{} of {owner}", artifact.path);
        return Err(CoreError::AlreadyExists { what: "artifact", name }.into());
    }
    db::query(table(owner).put)
        .bind(&id)
        .bind(&artifact.path)
        .bind(artifact.digest.to_string())
        .bind(bytes)
        .execute(&mut writing.tx)
        .await
        .during(WHAT, &id)?;
    let event = writing.event(who, table(owner).action, owner.to_string());
    let before = known.as_ref().map_or(Value::Null, shown);
    audit::append(&mut writing.tx, event.change(before, shown(&artifact))).await?;
    writing.commit().await
}

pub(super) async fn remove(registry: &SqlRegistry, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()> {
    const WHAT: &str = "remove artifact of";
    check::path("artifact path", path)?;
    let id = id_of(owner);
    let mut writing = registry.write(WHAT, &id).await?;
    may_change(registry, &mut writing.tx, who, owner).await?;
    let Some(known) = find(&mut writing.tx, owner, path).await? else { return Ok(()) };
    db::query(table(owner).remove).bind(&id).bind(path).execute(&mut writing.tx).await.during(WHAT, &id)?;
    let event = writing.event(who, table(owner).removal, owner.to_string());
    audit::append(&mut writing.tx, event.change(shown(&known), Value::Null)).await?;
    writing.commit().await
}

pub(super) async fn read(registry: &SqlRegistry, owner: ArtifactOwner, path: &str) -> Result<Artifact> {
    check::path("artifact path", path)?;
    let mut tx = registry.read("read artifact of", &id_of(owner)).await?;
    exists(&mut tx, owner).await?;
    let found = find(&mut tx, owner, path).await?;
    Ok(found.ok_or_else(|| CoreError::not_found("artifact", format!("{path} of {owner}")))?)
}

pub(super) async fn list(registry: &SqlRegistry, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>> {
    let within = within.strip_suffix('/').filter(|within| !within.is_empty()).unwrap_or(within);
    // From the directory's `/` up to the character after it; everything lies below the greatest character.
    let (from, to) = match within {
        "" => (String::new(), char::MAX.to_string()),
        within => {
            check::path("artifact path", within)?;
            (format!("{within}/"), format!("{within}0"))
        }
    };
    let id = id_of(owner);
    let mut tx = registry.read("list artifacts of", &id).await?;
    exists(&mut tx, owner).await?;
    let rows: Vec<ArtifactRow> = db::query(table(owner).within)
        .bind(&id)
        .bind(from)
        .bind(to)
        .fetch_all(&mut tx)
        .await
        .during("list artifacts of", &id)?;
    rows.into_iter().map(artifact).collect()
}
