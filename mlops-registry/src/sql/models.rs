//! Models as rows: registering, editing, renaming and deleting them.

use std::collections::{BTreeMap, BTreeSet};

use mlops_core::lineage::{Edge, Node, NodeRef};
use mlops_core::{Digest, Error as CoreError, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::db::{self, Arg, Backend as _, Conn};
use super::search::{self, Layout, Named, Sql};
use super::versions::{drop_version, live_numbers, protections};
use super::{SqlRegistry, Writing, audit, lineage};
use crate::registry::{EventKind, Model, ModelEdit, NewModel};
use crate::search::{Entity, Page, Plan, Search};
use crate::{Error, Result, check};

db::row! {
    struct ModelRow {
        name: String,
        description: String,
        tags: String,
        author: String,
        created_at: i64,
        updated_at: i64,
        last_version: i64,
        content: Option<String>,
        deleted_at: Option<i64>,
        renamed_to: Option<String>,
        latest: i64,
    }
}

macro_rules! select_models {
    ($rest:literal) => {
        concat!(
            "SELECT m.*, (SELECT COALESCE(MAX(v.version), 0) FROM versions v WHERE v.model = m.name \
             AND v.deleted_at IS NULL) AS latest FROM models m ",
            $rest
        )
    };
}

impl ModelRow {
    fn model(self) -> Result<Model> {
        Ok(Model {
            name: self.name,
            description: self.description,
            tags: db::from_json(&self.tags)?,
            author: self.author,
            created_at: db::time(self.created_at),
            updated_at: db::time(self.updated_at),
            latest: db::number(self.latest)?,
        })
    }

    fn is_live(&self) -> bool {
        self.deleted_at.is_none()
    }

    fn missing(self) -> Error {
        match self.renamed_to {
            Some(new) => CoreError::not_found("model", format!("{} (renamed {new})", self.name)).into(),
            None => CoreError::not_found("model", self.name).into(),
        }
    }
}

/// The digest of what a model is registered with.
fn content(description: &str, tags: &BTreeMap<String, String>) -> Result<String> {
    Ok(Digest::of_json(&(description, tags))?.to_string())
}

async fn find_row(conn: &mut Conn, name: &str) -> Result<Option<ModelRow>> {
    Ok(db::query(select_models!("WHERE m.name = $1"))
        .bind(name)
        .fetch_optional(conn)
        .await
        .during("read model", name)?)
}

pub(super) async fn find_model(conn: &mut Conn, name: &str) -> Result<Model> {
    match find_row(conn, name).await? {
        Some(row) if row.is_live() => row.model(),
        Some(row) => Err(row.missing()),
        None => Err(CoreError::not_found("model", name).into()),
    }
}

/// A tag before and after.
pub(super) type TagChange = (String, Option<String>, Option<String>);

/// The tags after an edit, and those that change by it.
pub(super) fn edit_tags(
    before: &BTreeMap<String, String>,
    set: &BTreeMap<String, String>,
    remove: &BTreeSet<String>,
) -> Result<(BTreeMap<String, String>, Vec<TagChange>)> {
    let (mut after, mut changes) = (before.clone(), Vec::new());
    for (key, value) in set {
        let old = after.insert(key.clone(), value.clone());
        if old.as_ref() != Some(value) {
            changes.push((key.clone(), old, Some(value.clone())));
        }
    }
    for key in remove {
        if let Some(old) = after.remove(key) {
            changes.push((key.clone(), Some(old), None));
        }
    }
    check::labels(&after)?;
    Ok((after, changes))
}

/// Whether an edit's parts are what may be stored, and do not contradict each other.
pub(super) fn check_edit(
    description: Option<&str>,
    set: &BTreeMap<String, String>,
    remove: &BTreeSet<String>,
) -> Result<()> {
    if let Some(text) = description {
        check::text("description", text, check::TEXT)?;
    }
    check::labels(set)?;
    remove.iter().try_for_each(|key| check::name("tag", key))?;
    match remove.iter().find(|key| set.contains_key(*key)) {
        Some(key) => Err(CoreError::invalid("tag", format!("{key:?} is both to be set and to be removed")).into()),
        None => Ok(()),
    }
}

/// What the audit log keeps of changed tags: the digest in place of a long value.
pub(super) fn audited_tags(changes: &[TagChange]) -> (Value, Value) {
    const MOST: usize = 1_000;
    let shown = |value: &String| match value.len() {
        0..=MOST => json!(value),
        bytes => json!({ "digest": Digest::of(value.as_bytes()), "bytes": bytes }),
    };
    let before: BTreeMap<&str, Value> =
        changes.iter().filter_map(|(key, old, _)| Some((key.as_str(), shown(old.as_ref()?)))).collect();
    let after: BTreeMap<&str, Value> =
        changes.iter().filter_map(|(key, _, new)| Some((key.as_str(), shown(new.as_ref()?)))).collect();
    (json!(before), json!(after))
}

/// What followers are told of something new: its description and tags, unless they are long.
pub(super) fn described<'a>(description: &'a str, tags: &'a str) -> Vec<(&'static str, &'a str)> {
    const MOST: usize = 64 << 10;
    if description.len() + tags.len() > MOST {
        return Vec::new();
    }
    vec![("description", description), ("tags", tags)]
}

/// How models are searched.
const LAYOUT: Layout = Layout {
    entity: Entity::Models,
    columns: "m.*, (SELECT COALESCE(MAX(v.version), 0) FROM versions v WHERE v.model = m.name \
              AND v.deleted_at IS NULL) AS latest",
    from: "models m",
    attribute: |name| match name {
        "name" => ("m.name", false),
        "creation_timestamp" => ("m.created_at", false),
        _ => ("m.updated_at", false),
    },
    tags: Named { table: "model_tags", owner: "model", of: "m.name" },
    params: None,
    metrics: None,
    inputs: None,
};

impl Writing {
    /// Writes the tags that a model is searched by.
    async fn index_tags(&mut self, model: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        const WHAT: &str = "write tags of";
        db::query("DELETE FROM model_tags WHERE model = $1")
            .bind(model)
            .execute(&mut self.tx)
            .await
            .during(WHAT, model)?;
        let rows = tags.iter().map(|(name, value)| [Arg::from(model), name.into(), value.into()]).collect();
        let insert = "INSERT INTO model_tags (model, name, value)";
        Ok(db::insert_all(&mut self.tx, insert, rows, "").await.during(WHAT, model)?)
    }

    /// Tells of each changed tag.
    pub(super) async fn tell_tags(&mut self, model: &str, version: Option<u64>, changes: &[TagChange]) -> Result<()> {
        let (set, removed) = match version {
            Some(_) => (EventKind::VersionTagSet, EventKind::VersionTagRemoved),
            None => (EventKind::ModelTagSet, EventKind::ModelTagRemoved),
        };
        for (key, _, new) in changes {
            match new {
                Some(value) => self.tell_of(set, model, version, &[("key", key), ("value", value)]).await?,
                None => self.tell_of(removed, model, version, &[("key", key)]).await?,
            }
        }
        Ok(())
    }

    /// Gives a model another name. Keys that refer to it follow; the old name stays known, with the numbers it has given.
    async fn rename(&mut self, before: &Model, new: &str) -> Result<()> {
        const WHAT: &str = "rename model";
        let (old, at) = (&before.name, self.at.timestamp_micros());
        let tx = &mut self.tx;
        let mut last: i64 = db::query("SELECT last_version FROM models WHERE name = $1")
            .bind(old)
            .fetch_one(&mut *tx)
            .await
            .during(WHAT, old)?;
        if let Some(there) = find_row(tx, new).await? {
            let left: i64 = db::query(
                "SELECT (SELECT COUNT(*) FROM versions WHERE model = $1) \
                 + (SELECT COUNT(*) FROM promotions WHERE model = $1)",
            )
            .bind(new)
            .fetch_one(&mut *tx)
            .await
            .during(WHAT, new)?;
            if there.is_live() || left > 0 {
                let why = if there.is_live() { "" } else { " (deleted, and its history stays)" };
                return Err(CoreError::AlreadyExists { what: "model", name: format!("{new}{why}") }.into());
            }
            last = last.max(there.last_version);
            db::query("DELETE FROM models WHERE name = $1").bind(new).execute(&mut *tx).await.during(WHAT, new)?;
        }
        db::query("UPDATE models SET name = $1, last_version = $2 WHERE name = $3")
            .bind(new)
            .bind(last)
            .bind(old)
            .execute(&mut *tx)
            .await
            .during(WHAT, old)?;
        db::query("UPDATE stage_tables SET model = $1 WHERE model = $2")
            .bind(new)
            .bind(old)
            .execute(&mut *tx)
            .await
            .during(WHAT, old)?;
        db::query("UPDATE models SET renamed_to = $1 WHERE renamed_to = $2")
            .bind(new)
            .bind(old)
            .execute(&mut *tx)
            .await
            .during(WHAT, old)?;
        db::query(
            "INSERT INTO models (name, description, tags, author, created_at, updated_at, last_version, deleted_at, \
             renamed_to) VALUES ($1, '', '{}', $2, $3, $4, $5, $4, $6)",
        )
        .bind(old)
        .bind(&before.author)
        .bind(before.created_at.timestamp_micros())
        .bind(at)
        .bind(last)
        .bind(new)
        .execute(&mut *tx)
        .await
        .during(WHAT, old)?;
        // What logs and sinks know by the old name is found from the new one, and the other way round.
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        for version in live_numbers(tx, new).await? {
            let (was, is) = (NodeRef::model(old, version), NodeRef::model(new, version));
            nodes.push(Node::new(is.clone()).fact("renamed_from", &was.id));
            edges.push(Edge::new(was, is));
        }
        lineage::record(tx, &nodes, &edges).await?;
        Ok(())
    }
}

impl SqlRegistry {
    pub(super) async fn insert_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        check::model(&new.name)?;
        check::text("description", &new.description, check::TEXT)?;
        check::labels(&new.tags)?;
        self.allow(who, Permission::Register, Resource::model(&new.name))?;
        let given = content(&new.description, &new.tags)?;
        transaction!(self.write("create model", &new.name), |writing| {
            let found = find_row(&mut writing.tx, &new.name).await?;
            let query = match found {
                Some(row) if row.is_live() => {
                    let registered = row.content.clone();
                    let model = row.model()?;
                    if registered.map_or_else(|| content(&model.description, &model.tags), Ok)? == given {
                        return Ok(model);
                    }
                    return Err(CoreError::AlreadyExists { what: "model", name: new.name.clone() }.into());
                }
                // Numbers go on where they ended.
                Some(_) => {
                    "UPDATE models SET description = $2, tags = $3, author = $4, created_at = $5, updated_at = $5, \
                     content = NULL, deleted_at = NULL, renamed_to = NULL WHERE name = $1"
                }
                None => {
                    "INSERT INTO models (name, description, tags, author, created_at, updated_at, last_version) \
                     VALUES ($1, $2, $3, $4, $5, $5, 0)"
                }
            };
            db::query(query)
                .bind(&new.name)
                .bind(&new.description)
                .bind(db::json(&new.tags)?)
                .bind(&who.name)
                .bind(writing.at.timestamp_micros())
                .execute(&mut writing.tx)
                .await
                .during("create model", &new.name)?;
            writing.index_tags(&new.name, &new.tags).await?;
            let after = json!({ "description": new.description, "tags": new.tags });
            let audited = writing.event(who, "model.create", format!("model {}", new.name)).change(json!(null), after);
            audit::append(&mut writing.tx, audited).await?;
            let tags = db::json(&new.tags)?;
            let details = described(&new.description, &tags);
            writing.tell_of(EventKind::ModelCreated, &new.name, None, &details).await?;
            find_model(&mut writing.tx, &new.name).await
        })
    }

    pub(super) async fn change_model(&self, who: &Principal, name: &str, edit: ModelEdit) -> Result<Model> {
        check_edit(edit.description.as_deref(), &edit.set_tags, &edit.remove_tags)?;
        self.allow(who, Permission::Register, Resource::model(name))?;
        if let Some(new) = edit.name.as_ref().filter(|new| *new != name) {
            check::model(new)?;
            self.allow(who, Permission::Administer, Resource::model(name))?;
            self.allow(who, Permission::Register, Resource::model(new))?;
        }
        transaction!(self.write("edit model", name), |writing| {
            let row = find_row(&mut writing.tx, name).await?;
            let row = row.ok_or_else(|| CoreError::not_found("model", name))?;
            let before = match &edit.name {
                _ if row.is_live() => row.model()?,
                // The same call again: it has that name already.
                Some(new) if row.renamed_to.as_ref() == Some(new) => find_model(&mut writing.tx, new).await?,
                _ => return Err(row.missing()),
            };
            let (tags, changes) = edit_tags(&before.tags, &edit.set_tags, &edit.remove_tags)?;
            let name = edit.name.as_ref().filter(|new| **new != before.name);
            let description = edit.description.as_ref().filter(|text| **text != before.description);
            if name.is_none() && description.is_none() && changes.is_empty() {
                return Ok(before);
            }
            if let Some(new) = name {
                writing.rename(&before, new).await?;
            }
            let current = name.unwrap_or(&before.name);
            db::query(
                "UPDATE models SET description = $2, tags = $3, updated_at = $4, content = COALESCE(content, $5) \
                 WHERE name = $1",
            )
            .bind(current)
            .bind(description.unwrap_or(&before.description))
            .bind(db::json(&tags)?)
            .bind(writing.at.timestamp_micros())
            .bind(content(&before.description, &before.tags)?)
            .execute(&mut writing.tx)
            .await
            .during("edit model", current)?;
            let (mut was, mut is) = (json!({}), json!({}));
            if let Some(new) = name {
                (was["name"], is["name"]) = (json!(before.name), json!(new));
                writing.tell_of(EventKind::ModelRenamed, &before.name, None, &[("name", new)]).await?;
            }
            if let Some(text) = description {
                (was["description"], is["description"]) = (json!(before.description), json!(text));
                writing.tell_of(EventKind::ModelUpdated, current, None, &[]).await?;
            }
            if !changes.is_empty() {
                (was["tags"], is["tags"]) = audited_tags(&changes);
                writing.index_tags(current, &tags).await?;
                writing.tell_tags(current, None, &changes).await?;
            }
            let audited = writing.event(who, "model.edit", format!("model {}", before.name)).change(was, is);
            audit::append(&mut writing.tx, audited).await?;
            find_model(&mut writing.tx, current).await
        })
    }

    pub(super) async fn remove_model(&self, who: &Principal, name: &str, reason: &str) -> Result<()> {
        const WHAT: &str = "delete model";
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::model(name))?;
        transaction!(self.write(WHAT, name), |writing| {
            let row = find_row(&mut writing.tx, name).await?;
            let row = row.ok_or_else(|| CoreError::not_found("model", name))?;
            if !row.is_live() {
                return if row.renamed_to.is_some() { Err(row.missing()) } else { Ok(()) };
            }
            let numbers = live_numbers(&mut writing.tx, name).await?;
            let mut by = Vec::new();
            for version in &numbers {
                let reasons = protections(&mut writing.tx, name, *version).await?;
                by.extend(reasons.into_iter().map(|reason| format!("v{version}: {reason}")));
            }
            if !by.is_empty() {
                return Err(Error::Protected { what: name.to_owned(), by });
            }
            for version in &numbers {
                drop_version(&mut writing, who, name, *version, reason).await?;
            }
            for query in [
                "DELETE FROM policies WHERE model = $1",
                "DELETE FROM stage_tables WHERE model = $1",
                "DELETE FROM model_tags WHERE model = $1",
            ] {
                db::query(query).bind(name).execute(&mut writing.tx).await.during(WHAT, name)?;
            }
            db::query("UPDATE models SET deleted_at = $1 WHERE name = $2")
                .bind(writing.at.timestamp_micros())
                .bind(name)
                .execute(&mut writing.tx)
                .await
                .during(WHAT, name)?;
            let model = row.model()?;
            let before = json!({ "description": model.description, "versions": numbers });
            let audited = writing.event(who, "model.delete", format!("model {name}"));
            audit::append(&mut writing.tx, audited.change(before, Value::Null).because(reason)).await?;
            writing.tell_of(EventKind::ModelDeleted, name, None, &[]).await
        })
    }

    pub(super) async fn find_models(&self, search: Search) -> Result<Page<Model>> {
        let plan = Plan::new(Entity::Models, &search, &())?;
        let mut tx = self.read("search", "models").await?;
        let scope = |sql: &mut Sql| {
            sql.push("m.deleted_at IS NULL");
        };
        let rows: Vec<ModelRow> = search::find(&mut tx, &LAYOUT, &plan, scope).await?;
        Ok(plan.page(rows.into_iter().map(ModelRow::model).collect::<Result<_>>()?))
    }

    pub(super) async fn list_models(&self) -> Result<Vec<Model>> {
        let rows: Vec<ModelRow> = db::query(select_models!("WHERE m.deleted_at IS NULL ORDER BY m.name"))
            .fetch_all(&self.0.database)
            .await
            .during("list", "models")?;
        rows.into_iter().map(ModelRow::model).collect()
    }
}
