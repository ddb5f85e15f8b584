use mlops_core::{Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::values::{EXPERIMENT_TAGS, select_many, texts_of};
use crate::search::{Entity, LifecycleStage, Page, Plan, Search, View};
use crate::sql::db::{self, Backend as _, Conn};
use crate::sql::search::{self, Layout, Named, Sql};
use crate::sql::{SqlRegistry, audit};
use crate::tracking::{Experiment, ExperimentEdit, NewExperiment};
use crate::{Result, check};

db::row! {
    pub(super) struct ExperimentRow {
        pub(super) key: String,
        pub(super) id: String,
        pub(super) name: String,
        artifact_location: Option<String>,
        author: String,
        created_at: i64,
        updated_at: i64,
        pub(super) deleted_at: Option<i64>,
        content: String,
    }
}

pub(super) fn stage(deleted_at: Option<i64>) -> LifecycleStage {
    if deleted_at.is_some() { LifecycleStage::Deleted } else { LifecycleStage::Active }
}

/// Refuses changes to what is deleted.
pub(super) fn in_use(what: &'static str, name: impl ToString, stage: LifecycleStage) -> Result<()> {
    if stage == LifecycleStage::Active {
        return Ok(());
    }
    let (expected, found) = (LifecycleStage::Active.to_string(), stage.to_string());
    Err(CoreError::Conflict { what, name: name.to_string(), expected, found }.into())
}

const LAYOUT: Layout = Layout {
    entity: Entity::Experiments,
    columns: "e.key",
    from: "experiments e",
    attribute: |name| match name {
        "name" => ("e.name", false),
        "experiment_id" => ("e.id", false),
        "creation_time" => ("e.created_at", false),
        _ => ("e.updated_at", false),
    },
    tags: Named { table: "experiment_tags", owner: "experiment_key", of: "e.key" },
    params: None,
    metrics: None,
    inputs: None,
};

pub(super) async fn find(conn: &mut Conn, name: &str) -> Result<Option<ExperimentRow>> {
    let query = db::query("SELECT * FROM experiments WHERE name = $1").bind(name);
    Ok(query.fetch_optional(conn).await.during("read experiment", name)?)
}

async fn named(conn: &mut Conn, name: &str) -> Result<ExperimentRow> {
    Ok(find(conn, name).await?.ok_or_else(|| CoreError::not_found("experiment", name))?)
}

pub(super) async fn of_id(conn: &mut Conn, id: ExperimentId) -> Result<ExperimentRow> {
    let id = id.to_string();
    let query = db::query("SELECT * FROM experiments WHERE id = $1").bind(&id);
    let row: Option<ExperimentRow> = query.fetch_optional(conn).await.during("read experiment", &id)?;
    Ok(row.ok_or_else(|| CoreError::not_found("experiment", id))?)
}

async fn load(conn: &mut Conn, rows: Vec<ExperimentRow>) -> Result<Vec<Experiment>> {
    let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
    let mut tags = texts_of(conn, &EXPERIMENT_TAGS, &keys).await?;
    let experiment = |row: ExperimentRow| {
        Ok(Experiment {
            id: db::from_text(&row.id)?,
            name: row.name,
            tags: tags.remove(&row.key).unwrap_or_default(),
            artifact_location: row.artifact_location,
            stage: stage(row.deleted_at),
            author: row.author,
            created_at: db::time(row.created_at),
            updated_at: db::time(row.updated_at),
        })
    };
    rows.into_iter().map(experiment).collect()
}

async fn load_one(conn: &mut Conn, row: ExperimentRow) -> Result<Experiment> {
    let mut found = load(conn, vec![row]).await?;
    Ok(found.pop().expect("one row in, one experiment out"))
}

/// The experiments that are searched, by whether they are in use.
pub(super) struct Among {
    active: Vec<String>,
    deleted: Vec<String>,
}

impl Among {
    pub(super) async fn find(conn: &mut Conn, experiments: &[ExperimentId], view: View) -> Result<Self> {
        const MOST: usize = 10_000;
        if experiments.len() > MOST {
            let reason = format!("{} in one search; at most {MOST}", experiments.len());
            return Err(CoreError::invalid("experiments", reason).into());
        }
        let ids: Vec<String> = experiments.iter().map(ToString::to_string).collect();
        let rows: Vec<(String, Option<i64>)> =
            select_many(conn, "SELECT key, deleted_at FROM experiments WHERE id", &ids, "").await?;
        let (active, deleted): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, deleted_at)| deleted_at.is_none());
        let keys = |rows: Vec<(String, Option<i64>)>| rows.into_iter().map(|(key, _)| key).collect();
        let deleted = if view == View::Active { Vec::new() } else { keys(deleted) };
        Ok(Self { active: keys(active), deleted })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.deleted.is_empty()
    }

    /// The condition on rows with `experiment_key` and `deleted_at`, under an alias; there must be experiments.
    pub(super) fn scope(&self, sql: &mut Sql, alias: &str, view: View) {
        let of = |sql: &mut Sql, keys: &[String]| {
            sql.push(alias).push(".experiment_key IN ").list(keys.iter().cloned());
        };
        match view {
            View::Active => {
                of(sql, &self.active);
                sql.push(" AND ").push(alias).push(".deleted_at IS NULL");
            }
            View::All => of(sql, &[&*self.active, &*self.deleted].concat()),
            View::Deleted => {
                sql.push("(");
                if !self.deleted.is_empty() {
                    of(sql, &self.deleted);
                }
                if !self.active.is_empty() {
                    sql.push(if self.deleted.is_empty() { "" } else { " OR " });
                    of(sql, &self.active);
                    sql.push(" AND ").push(alias).push(".deleted_at IS NOT NULL");
                }
                sql.push(")");
            }
        }
    }
}

pub(super) async fn create(registry: &SqlRegistry, who: &Principal, new: NewExperiment) -> Result<Experiment> {
    check::name("experiment name", &new.name)?;
    check::tags(&new.tags)?;
    if let Some(location) = &new.artifact_location {
        check::text("artifact location", location, check::VALUE)?;
    }
    registry.allow(who, Permission::Track, Resource::experiment(&new.name))?;
    let content = Digest::of_json(&new)?.to_string();
    let mut writing = registry.write("create experiment", &new.name).await?;
    let conn = &mut writing.tx;
    if let Some(row) = find(conn, &new.name).await? {
        let what = if row.deleted_at.is_some() { "deleted experiment" } else { "experiment" };
        let (same, unknown) = (row.content == content, row.content.is_empty());
        let found = load_one(conn, row).await?;
        let alike = (&found.tags, &found.artifact_location) == (&new.tags, &new.artifact_location);
        if found.stage == LifecycleStage::Active && (same || unknown && alike) {
            return Ok(found);
        }
        return Err(CoreError::AlreadyExists { what, name: new.name }.into());
    }
    let id = ExperimentId::new(writing.at).to_string();
    let at = writing.at.timestamp_micros();
    db::query(
        "INSERT INTO experiments (key, id, name, artifact_location, author, created_at, updated_at, content) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&id)
    .bind(&id)
    .bind(&new.name)
    .bind(&new.artifact_location)
    .bind(&who.name)
    .bind(at)
    .bind(at)
    .bind(&content)
    .execute(&mut *conn)
    .await
    .during("create experiment", &new.name)?;
    EXPERIMENT_TAGS.change(conn, &id, &new.tags, &Default::default()).await?;
    let mut after = json!({ "tags": new.tags });
    if let Some(location) = &new.artifact_location {
        after["artifact_location"] = json!(location);
    }
    let event = writing.event(who, "experiment.create", format!("experiment {}", new.name));
    audit::append(&mut writing.tx, event.change(Value::Null, after)).await?;
    let row = named(&mut writing.tx, &new.name).await?;
    let experiment = load_one(&mut writing.tx, row).await?;
    writing.commit().await?;
    Ok(experiment)
}

pub(super) async fn read(registry: &SqlRegistry, name: &str) -> Result<Experiment> {
    let mut tx = registry.read("read experiment", name).await?;
    let row = named(&mut tx, name).await?;
    load_one(&mut tx, row).await
}

pub(super) async fn read_by_id(registry: &SqlRegistry, id: ExperimentId) -> Result<Experiment> {
    let mut tx = registry.read("read experiment", &id.to_string()).await?;
    let row = of_id(&mut tx, id).await?;
    load_one(&mut tx, row).await
}

pub(super) async fn edit(
    registry: &SqlRegistry,
    who: &Principal,
    name: &str,
    edit: ExperimentEdit,
) -> Result<Experiment> {
    check::tags(&edit.set_tags)?;
    registry.allow(who, Permission::Track, Resource::experiment(name))?;
    let mut writing = registry.write("edit experiment", name).await?;
    let conn = &mut writing.tx;
    let row = named(conn, name).await?;
    in_use("experiment", name, stage(row.deleted_at))?;
    let tags = EXPERIMENT_TAGS.change(conn, &row.key, &edit.set_tags, &edit.remove_tags).await?;
    let mut change = (json!({}), json!({}));
    if !tags.is_empty() {
        change = (json!({ "tags": tags.before }), json!({ "tags": tags.after }));
    }
    let renamed = edit.name.filter(|new| new != name);
    if let Some(new) = &renamed {
        check::name("experiment name", new)?;
        registry.allow(who, Permission::Track, Resource::experiment(new))?;
        if let Some(taken) = find(conn, new).await? {
            let what = if taken.deleted_at.is_some() { "deleted experiment" } else { "experiment" };
            return Err(CoreError::AlreadyExists { what, name: new.clone() }.into());
        }
        (change.0["name"], change.1["name"]) = (json!(name), json!(new));
    } else if tags.is_empty() {
        return load_one(conn, row).await;
    }
    db::query("UPDATE experiments SET name = $1, updated_at = $2 WHERE key = $3")
        .bind(renamed.as_deref().unwrap_or(name))
        .bind(writing.at.timestamp_micros())
        .bind(&row.key)
        .execute(conn)
        .await
        .during("edit experiment", name)?;
    let event = writing.event(who, "experiment.edit", format!("experiment {name}")).change(change.0, change.1);
    audit::append(&mut writing.tx, event).await?;
    let row = named(&mut writing.tx, renamed.as_deref().unwrap_or(name)).await?;
    let experiment = load_one(&mut writing.tx, row).await?;
    writing.commit().await?;
    Ok(experiment)
}

/// Deletes or restores.
pub(super) async fn set_stage(
    registry: &SqlRegistry,
    who: &Principal,
    name: &str,
    wanted: LifecycleStage,
) -> Result<Experiment> {
    let (operation, action, deleting) = match wanted {
        LifecycleStage::Deleted => ("delete experiment", "experiment.delete", true),
        LifecycleStage::Active => ("restore experiment", "experiment.restore", false),
    };
    registry.allow(who, Permission::Track, Resource::experiment(name))?;
    let mut writing = registry.write(operation, name).await?;
    let row = named(&mut writing.tx, name).await?;
    let before = stage(row.deleted_at);
    if before == wanted {
        return load_one(&mut writing.tx, row).await;
    }
    let at = writing.at.timestamp_micros();
    db::query("UPDATE experiments SET deleted_at = $1, updated_at = $2 WHERE key = $3")
        .bind(deleting.then_some(at))
        .bind(at)
        .bind(&row.key)
        .execute(&mut writing.tx)
        .await
        .during(operation, name)?;
    let event = writing.event(who, action, format!("experiment {name}"));
    audit::append(&mut writing.tx, event.change(json!({ "stage": before }), json!({ "stage": wanted }))).await?;
    let row = named(&mut writing.tx, name).await?;
    let experiment = load_one(&mut writing.tx, row).await?;
    writing.commit().await?;
    Ok(experiment)
}

pub(super) async fn find_all(registry: &SqlRegistry, search: &Search) -> Result<Page<Experiment>> {
    let plan = Plan::new(Entity::Experiments, search, &())?;
    let mut tx = registry.read("search", "experiments").await?;
    let scope = |sql: &mut Sql| {
        sql.push(match plan.view {
            View::Active => "e.deleted_at IS NULL",
            View::Deleted => "e.deleted_at IS NOT NULL",
            View::All => "1 = 1",
        });
    };
    let keys: Vec<String> = search::find(&mut tx, &LAYOUT, &plan, scope).await?;
    let mut rows: Vec<ExperimentRow> = select_many(&mut tx, "SELECT * FROM experiments WHERE key", &keys, "").await?;
    let place: std::collections::HashMap<&str, usize> = keys.iter().enumerate().map(|(i, k)| (k.as_str(), i)).collect();
    rows.sort_by_key(|row| place.get(row.key.as_str()).copied());
    Ok(plan.page(load(&mut tx, rows).await?))
}
