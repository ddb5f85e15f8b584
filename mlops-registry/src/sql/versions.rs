//! Versions as rows: registering, editing and deleting them, and what keeps them from being deleted.

use std::collections::{BTreeMap, HashMap};

use mlops_core::lineage::{Edge, Node, NodeRef};
use mlops_core::package::Manifest;
use mlops_core::{Digest, Error as CoreError, Permission, Principal, Provenance, Resource, RunId};
use serde_json::{Value, json};

use super::db::{self, Arg, Backend as _, Conn};
use super::models::{audited_tags, check_edit, described, edit_tags, find_model};
use super::policies::{find_policy, find_stages};
use super::search::{self, Layout, Named, Sql};
use super::{SqlRegistry, Writing, aliases, audit, holds, lineage, promotions, requests, roots};
use crate::registry::{EventKind, ModelVersion, NewVersion, Target, VersionEdit, list};
use crate::search::{Entity, Page, Plan, Search};
use crate::{Error, Result, check};

db::row! {
    struct VersionRow {
        model: String,
        version: i64,
        package: String,
        run_id: String,
        source: String,
        run_link: String,
        logged_model: Option<String>,
        description: String,
        tags: String,
        author: String,
        created_at: i64,
        updated_at: i64,
        stage: String,
        stage_revision: i64,
        content: Option<String>,
    }
}

impl VersionRow {
    fn version(self, aliases: Vec<String>) -> Result<ModelVersion> {
        Ok(ModelVersion {
            model: self.model,
            version: db::number(self.version)?,
            package: db::from_text(&self.package)?,
            run: Some(self.run_id).filter(|r| !r.is_empty()).as_deref().map(db::from_text).transpose()?,
            description: self.description,
            tags: db::from_json(&self.tags)?,
            source: self.source,
            run_link: self.run_link,
            logged_model: self.logged_model,
            stage: self.stage,
            stage_revision: db::number(self.stage_revision)?,
            aliases,
            author: self.author,
            created_at: db::time(self.created_at),
            updated_at: db::time(self.updated_at),
        })
    }
}

/// How versions are searched.
const LAYOUT: Layout = Layout {
    entity: Entity::Versions,
    columns: "v.*",
    from: "versions v",
    attribute: |name| match name {
        "name" => ("v.model", false),
        "version_number" => ("v.version", false),
        "run_id" => ("NULLIF(v.run_id, '')", true),
        "source_path" => ("NULLIF(v.source, '')", true),
        "creation_timestamp" => ("v.created_at", false),
        _ => ("v.updated_at", false),
    },
    tags: Named { table: "version_tags", owner: "model, version", of: "(v.model, v.version)" },
    params: None,
    metrics: None,
    inputs: None,
};

/// Writes the tags that a version is searched by.
async fn index_tags(conn: &mut Conn, model: &str, version: u64, tags: &BTreeMap<String, String>) -> Result<()> {
    const WHAT: &str = "write tags of";
    let version = db::to_i64(version);
    db::query("DELETE FROM version_tags WHERE model = $1 AND version = $2")
        .bind(model)
        .bind(version)
        .execute(&mut *conn)
        .await
        .during(WHAT, model)?;
    let rows = tags.iter().map(|(name, value)| [Arg::from(model), version.into(), name.into(), value.into()]).collect();
    let insert = "INSERT INTO version_tags (model, version, name, value)";
    Ok(db::insert_all(conn, insert, rows, "").await.during(WHAT, model)?)
}

async fn with_aliases(conn: &mut Conn, row: VersionRow) -> Result<ModelVersion> {
    let aliases: Vec<String> = db::query("SELECT alias FROM aliases WHERE model = $1 AND version = $2 ORDER BY alias")
        .bind(&row.model)
        .bind(row.version)
        .fetch_all(conn)
        .await
        .during("read aliases of", &row.model)?;
    row.version(aliases)
}

pub(super) async fn find_version(conn: &mut Conn, model: &str, version: u64) -> Result<ModelVersion> {
    let row: Option<VersionRow> =
        db::query("SELECT * FROM versions WHERE model = $1 AND version = $2 AND deleted_at IS NULL")
            .bind(model)
            .bind(db::to_i64(version))
            .fetch_optional(&mut *conn)
            .await
            .during("read version of", model)?;
    match row {
        Some(row) => with_aliases(conn, row).await,
        None => {
            find_model(conn, model).await?;
            Err(CoreError::not_found("model version", format!("{model}/{version}")).into())
        }
    }
}

/// When a version was deleted; nothing if it was not.
async fn deleted_at(conn: &mut Conn, model: &str, version: u64) -> Result<Option<i64>> {
    let found: Option<Option<i64>> = db::query("SELECT deleted_at FROM versions WHERE model = $1 AND version = $2")
        .bind(model)
        .bind(db::to_i64(version))
        .fetch_optional(conn)
        .await
        .during("read version of", model)?;
    Ok(found.flatten())
}

/// The numbers of a model's versions that were not deleted.
pub(super) async fn live_numbers(conn: &mut Conn, model: &str) -> Result<Vec<u64>> {
    let rows: Vec<i64> =
        db::query("SELECT version FROM versions WHERE model = $1 AND deleted_at IS NULL ORDER BY version")
            .bind(model)
            .fetch_all(conn)
            .await
            .during("list versions of", model)?;
    Ok(rows.into_iter().map(db::number).collect::<Result<_, _>>()?)
}

/// The digest of what a version is registered with, beside its key.
fn content(
    description: &str,
    tags: &BTreeMap<String, String>,
    (source, run_link, logged_model): (&str, &str, Option<&str>),
) -> Result<String> {
    Ok(Digest::of_json(&(description, tags, source, run_link, logged_model))?.to_string())
}

fn content_of(version: &ModelVersion) -> Result<String> {
    let from = (version.source.as_str(), version.run_link.as_str(), version.logged_model.as_deref());
    content(&version.description, &version.tags, from)
}

async fn find_same(conn: &mut Conn, new: &NewVersion, run: Option<RunId>) -> Result<Option<ModelVersion>> {
    let row: Option<VersionRow> = db::query(
        "SELECT * FROM versions WHERE model = $1 AND package = $2 AND run_id = $3 AND request_key = $4 \
         AND deleted_at IS NULL",
    )
    .bind(&new.model)
    .bind(new.package.to_string())
    .bind(run.map(|r| r.to_string()).unwrap_or_default())
    .bind(&new.key)
    .fetch_optional(&mut *conn)
    .await
    .during("read versions of", &new.model)?;
    let Some(row) = row else { return Ok(None) };
    let registered = row.content.clone();
    let found = with_aliases(conn, row).await?;
    let from = (new.source.as_str(), new.run_link.as_str(), new.logged_model.as_deref());
    if registered.map_or_else(|| content_of(&found), Ok)? == content(&new.description, &new.tags, from)? {
        return Ok(Some(found));
    }
    let name = format!("{}/{} (same package and run, other description, tags or source)", found.model, found.version);
    Err(CoreError::AlreadyExists { what: "model version", name }.into())
}

/// What the graph learns from a new version: all of it of the version itself, as one run may make several.
fn origins(version: &ModelVersion, provenance: Option<&Provenance>) -> (Node, Vec<Edge>) {
    let model = NodeRef::model(&version.model, version.version);
    let mut node = Node::new(model.clone()).fact("package", version.package).fact("author", &version.author);
    if !version.source.is_empty() {
        node = node.fact("source", &version.source);
    }
    let mut edges: Vec<Edge> = version.run.map(|run| Edge::new(NodeRef::run(run), model.clone())).into_iter().collect();
    if let Some(made) = provenance {
        let facts = [
            ("commit", made.commit.clone()),
            ("dirty", made.dirty.map(|d| d.to_string())),
            ("changes", made.changes.map(|d| d.to_string())),
            ("lock_file", made.lock_file.map(|d| d.to_string())),
            ("toolchain", made.toolchain.clone()),
            ("image", made.image.clone()),
            ("seed", made.seed.map(|s| s.to_string())),
        ];
        let known = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        node = known.fold(node, |node, (name, value)| node.fact(name, value));
        edges.extend(made.datasets.iter().map(|d| Edge::new(NodeRef::dataset(d), model.clone())));
    }
    (node, edges)
}

/// Why a version may not be deleted, each reason with what to do about it.
pub(super) async fn protections(conn: &mut Conn, model: &str, version: u64) -> Result<Vec<String>> {
    let found = find_version(conn, model, version).await?;
    let mut by = Vec::new();
    for hold in holds::open(conn, model, Some(version)).await? {
        let since = hold.at.format("%Y-%m-%d %H:%M");
        by.push(format!("{} holds it since {since} ({}); release it first", hold.by, hold.reason));
    }
    for alias in &found.aliases {
        let policy = find_policy(conn, model, &Target::Alias(alias.clone())).await?.unwrap_or_default();
        if policy.protects() {
            by.push(format!("{alias}, which asks for {policy}, points at it; move or remove that first"));
        }
    }
    let policy = find_policy(conn, model, &Target::Stage(found.stage.clone())).await?.unwrap_or_default();
    if policy.protects() {
        by.push(format!("it is in {}, which asks for {policy}; move it to another stage first", found.stage));
    }
    for request in promotions::open(conn, model, version).await? {
        let names: Vec<&str> = request.approvals.iter().map(|a| a.by.as_str()).collect();
        if !names.is_empty() {
            let (id, target, names) = (request.id, &request.target, list(&names, "and"));
            by.push(format!("promotion {id} to {target} is open and approved by {names}; reject or withdraw it first"));
        }
    }
    Ok(by)
}

/// Deletes a version that nothing protects: its aliases are removed and its open requests withdrawn.
pub(super) async fn drop_version(
    writing: &mut Writing,
    who: &Principal,
    model: &str,
    version: u64,
    reason: &str,
) -> Result<()> {
    let found = find_version(&mut writing.tx, model, version).await?;
    let because = format!("v{version} was deleted: {reason}");
    let because: String = because.chars().take(check::TEXT).collect();
    for alias in &found.aliases {
        aliases::remove(writing, who, model, alias, &because).await?;
    }
    for mut request in promotions::open(&mut writing.tx, model, version).await? {
        requests::withdraw(writing, who, &mut request, &because).await?;
    }
    db::query("UPDATE versions SET deleted_at = $1 WHERE model = $2 AND version = $3")
        .bind(writing.at.timestamp_micros())
        .bind(model)
        .bind(db::to_i64(version))
        .execute(&mut writing.tx)
        .await
        .during("delete version of", model)?;
    writing.tell_of(EventKind::VersionDeleted, model, Some(version), &[]).await
}

impl SqlRegistry {
    /// Reads a package of the artifact store through, in pieces: every byte must be there before anything names it. Gives
    /// its files and its provenance, if it has one.
    async fn read_package(&self, package: &Digest) -> Result<(Vec<Digest>, Option<Provenance>)> {
        let store = &*self.0.artifacts;
        let manifest = Manifest::load(store, package).await?;
        manifest.verify(store).await?;
        let provenance = match manifest.provenance(store).await {
            Ok(provenance) => Some(provenance),
            Err(CoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok((manifest.files().values().map(|file| file.digest).collect(), provenance))
    }

    pub(super) async fn insert_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        check::text("description", &new.description, check::TEXT)?;
        check::labels(&new.tags)?;
        check::text("source", &new.source, check::VALUE)?;
        check::text("run link", &new.run_link, check::VALUE)?;
        check::text("key", &new.key, check::NAME)?;
        new.logged_model.iter().try_for_each(|id| check::name("logged model", id))?;
        self.allow(who, Permission::Register, Resource::model(&new.model))?;
        let mut reading = self.read("create version of", &new.model).await?;
        find_model(&mut reading, &new.model).await?;
        if new.run.is_some()
            && let Some(found) = find_same(&mut reading, &new, new.run).await?
        {
            return Ok(found);
        }
        drop(reading);
        // Outside the writing transaction: reading a package may take long, and a package never changes.
        let (files, provenance) = self.read_package(&new.package).await?;
        let told = provenance.as_ref().and_then(|p| p.run);
        if let (Some(given), Some(told)) = (new.run, told)
            && given != told
        {
            let reason = format!("the package says that run {told} made it, not run {given}");
            return Err(CoreError::invalid("run", reason).into());
        }
        let run = new.run.or(told);
        transaction!(self.write("create version of", &new.model), |writing| {
            find_model(&mut writing.tx, &new.model).await?;
            if let Some(found) = find_same(&mut writing.tx, &new, run).await? {
                return Ok(found);
            }
            let at = writing.at.timestamp_micros();
            let number: i64 = db::query(
                "UPDATE models SET last_version = last_version + 1, updated_at = $2 WHERE name = $1 \
                 RETURNING last_version",
            )
            .bind(&new.model)
            .bind(at)
            .fetch_one(&mut writing.tx)
            .await
            .during("create version of", &new.model)?;
            let version = ModelVersion {
                model: new.model.clone(),
                version: db::number(number)?,
                package: new.package,
                run,
                description: new.description.clone(),
                tags: new.tags.clone(),
                source: new.source.clone(),
                run_link: new.run_link.clone(),
                logged_model: new.logged_model.clone(),
                stage: find_stages(&mut writing.tx, Some(&new.model)).await?.first().to_owned(),
                stage_revision: 0,
                aliases: Vec::new(),
                author: who.name.clone(),
                created_at: db::time(at),
                updated_at: db::time(at),
            };
            db::query(
                "INSERT INTO versions (model, version, package, run_id, request_key, source, run_link, logged_model, \
                 description, tags, author, created_at, updated_at, stage, stage_revision, stage_moved_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, 0, $12)",
            )
            .bind(&version.model)
            .bind(number)
            .bind(version.package.to_string())
            .bind(run.map(|r| r.to_string()).unwrap_or_default())
            .bind(&new.key)
            .bind(&version.source)
            .bind(&version.run_link)
            .bind(&version.logged_model)
            .bind(&version.description)
            .bind(db::json(&version.tags)?)
            .bind(&version.author)
            .bind(at)
            .bind(&version.stage)
            .execute(&mut writing.tx)
            .await
            .during("create version of", &version.model)?;
            index_tags(&mut writing.tx, &version.model, version.version, &version.tags).await?;
            roots::remember(&mut writing.tx, &new.package, &files).await?;
            let (node, edges) = origins(&version, provenance.as_ref());
            lineage::record(&mut writing.tx, &[node], &edges).await?;
            let resource = format!("model {}/{number}", version.model);
            let mut after = json!({
                "package": version.package, "run": run, "description": version.description, "tags": version.tags,
            });
            for (name, given) in [("source", &new.source), ("run_link", &new.run_link), ("key", &new.key)] {
                if !given.is_empty() {
                    after[name] = json!(given);
                }
            }
            if let Some(id) = &new.logged_model {
                after["logged_model"] = json!(id);
            }
            let audited = writing.event(who, "version.create", resource).change(json!(null), after);
            audit::append(&mut writing.tx, audited).await?;
            let (tags, run) = (db::json(&version.tags)?, version.run.map(|run| run.to_string()));
            let mut details = described(&version.description, &tags);
            details.extend(run.as_deref().map(|run| ("run", run)));
            details.extend(Some(("source", version.source.as_str())).filter(|(_, source)| !source.is_empty()));
            writing.tell_of(EventKind::VersionCreated, &version.model, Some(version.version), &details).await?;
            Ok(version)
        })
    }

    pub(super) async fn change_version(
        &self,
        who: &Principal,
        model: &str,
        version: u64,
        edit: VersionEdit,
    ) -> Result<ModelVersion> {
        check_edit(edit.description.as_deref(), &edit.set_tags, &edit.remove_tags)?;
        self.allow(who, Permission::Register, Resource::model(model))?;
        transaction!(self.write("edit version of", model), |writing| {
            let before = find_version(&mut writing.tx, model, version).await?;
            let (tags, changes) = edit_tags(&before.tags, &edit.set_tags, &edit.remove_tags)?;
            let description = edit.description.as_ref().filter(|text| **text != before.description);
            if description.is_none() && changes.is_empty() {
                return Ok(before);
            }
            db::query(
                "UPDATE versions SET description = $3, tags = $4, updated_at = $5, content = COALESCE(content, $6) \
                 WHERE model = $1 AND version = $2",
            )
            .bind(model)
            .bind(db::to_i64(version))
            .bind(description.unwrap_or(&before.description))
            .bind(db::json(&tags)?)
            .bind(writing.at.timestamp_micros())
            .bind(content_of(&before)?)
            .execute(&mut writing.tx)
            .await
            .during("edit version of", model)?;
            let (mut was, mut is) = (json!({}), json!({}));
            if let Some(text) = description {
                (was["description"], is["description"]) = (json!(before.description), json!(text));
                writing.tell_of(EventKind::VersionUpdated, model, Some(version), &[]).await?;
            }
            if !changes.is_empty() {
                (was["tags"], is["tags"]) = audited_tags(&changes);
                index_tags(&mut writing.tx, model, version, &tags).await?;
                writing.tell_tags(model, Some(version), &changes).await?;
            }
            let audited = writing.event(who, "version.edit", format!("model {model}/{version}")).change(was, is);
            audit::append(&mut writing.tx, audited).await?;
            find_version(&mut writing.tx, model, version).await
        })
    }

    pub(super) async fn remove_version(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::model(model))?;
        transaction!(self.write("delete version of", model), |writing| {
            if deleted_at(&mut writing.tx, model, version).await?.is_some() {
                return Ok(());
            }
            let by = protections(&mut writing.tx, model, version).await?;
            if !by.is_empty() {
                return Err(Error::Protected { what: format!("{model} v{version}"), by });
            }
            let before = find_version(&mut writing.tx, model, version).await?;
            drop_version(&mut writing, who, model, version, reason).await?;
            let before = json!({ "package": before.package, "stage": before.stage, "aliases": before.aliases });
            let audited = writing.event(who, "version.delete", format!("model {model}/{version}"));
            audit::append(&mut writing.tx, audited.change(before, Value::Null).because(reason)).await?;
            Ok(())
        })
    }

    pub(super) async fn list_versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        let mut tx = self.read("list versions of", model).await?;
        find_model(&mut tx, model).await?;
        read_versions(&mut tx, model).await
    }

    pub(super) async fn find_versions(&self, search: Search) -> Result<Page<ModelVersion>> {
        let plan = Plan::new(Entity::Versions, &search, &())?;
        let mut tx = self.read("search", "model versions").await?;
        let scope = |sql: &mut Sql| {
            sql.push("v.deleted_at IS NULL");
        };
        let rows: Vec<VersionRow> = search::find(&mut tx, &LAYOUT, &plan, scope).await?;
        Ok(plan.page(all_with_aliases(&mut tx, rows).await?))
    }

    pub(super) async fn newest_by_stage(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        let mut tx = self.read("list versions of", model).await?;
        find_model(&mut tx, model).await?;
        let table = find_stages(&mut tx, Some(model)).await?;
        let mut wanted = Vec::new();
        for stage in stages {
            wanted.push(super::policies::known_stage(&table, stage)?);
        }
        let newest: Vec<(String, i64)> = db::query(
            "SELECT stage, MAX(version) FROM versions WHERE model = $1 AND deleted_at IS NULL GROUP BY stage",
        )
        .bind(model)
        .fetch_all(&mut tx)
        .await
        .during("list versions of", model)?;
        let newest: HashMap<String, i64> = newest.into_iter().collect();
        let mut found = Vec::new();
        for stage in table.stages.iter().filter(|stage| wanted.is_empty() || wanted.contains(stage)) {
            if let Some(version) = newest.get(stage) {
                found.push(find_version(&mut tx, model, db::number(*version)?).await?);
            }
        }
        Ok(found)
    }
}

async fn read_versions(conn: &mut Conn, model: &str) -> Result<Vec<ModelVersion>> {
    let rows: Vec<VersionRow> =
        db::query("SELECT * FROM versions WHERE model = $1 AND deleted_at IS NULL ORDER BY version")
            .bind(model)
            .fetch_all(&mut *conn)
            .await
            .during("list versions of", model)?;
    all_with_aliases(conn, rows).await
}

/// The versions of rows, of any models, with the aliases that point at them.
async fn all_with_aliases(conn: &mut Conn, rows: Vec<VersionRow>) -> Result<Vec<ModelVersion>> {
    // Far below the number of parameters that a statement may have.
    const AT_ONCE: usize = 10_000;
    let mut models: Vec<String> = rows.iter().map(|row| row.model.clone()).collect();
    models.sort_unstable();
    models.dedup();
    let mut aliases: HashMap<(String, i64), Vec<String>> = HashMap::new();
    for some in models.chunks(AT_ONCE) {
        const SELECT: &str = "SELECT model, version, alias FROM aliases WHERE version IS NOT NULL AND model";
        let pointing: Vec<(String, i64, String)> =
            db::select_in(conn, SELECT, some, "ORDER BY alias").await.during("list aliases of", &some[0])?;
        for (model, version, alias) in pointing {
            aliases.entry((model, version)).or_default().push(alias);
        }
    }
    rows.into_iter()
        .map(|row| {
            let pointing = aliases.remove(&(row.model.clone(), row.version)).unwrap_or_default();
            row.version(pointing)
        })
        .collect()
}
