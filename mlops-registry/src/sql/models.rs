//! Models, versions, aliases and policies as rows; the trait's methods that concern them.

use mlops_core::lineage::{Edge, Node, NodeRef};
use mlops_core::{Digest, Error as CoreError, Package, Permission, Principal, Provenance, Resource, RunId, Timestamp};
use serde_json::json;

use super::db::{self, Backend as _, Conn};
use super::{SqlRegistry, audit, lineage};
use crate::registry::{Alias, AliasPolicy, Event, EventKind, Model, ModelVersion, NewModel, NewVersion};
use crate::{Result, check};

db::row! {
    struct ModelRow {
        name: String,
        description: String,
        tags: String,
        author: String,
        created_at: i64,
        last_version: i64,
    }
}

impl ModelRow {
    fn model(self) -> Result<Model> {
        Ok(Model {
            name: self.name,
            description: self.description,
            tags: db::from_json(&self.tags)?,
            author: self.author,
            created_at: db::time(self.created_at),
            latest: db::number(self.last_version)?,
        })
    }
}

db::row! {
    struct VersionRow {
        model: String,
        version: i64,
        package: String,
        run_id: String,
        description: String,
        tags: String,
        author: String,
        created_at: i64,
    }
}

impl VersionRow {
    fn version(self) -> Result<ModelVersion> {
        Ok(ModelVersion {
            model: self.model,
            version: db::number(self.version)?,
            package: db::from_text(&self.package)?,
            run: Some(self.run_id).filter(|r| !r.is_empty()).as_deref().map(db::from_text).transpose()?,
            description: self.description,
            tags: db::from_json(&self.tags)?,
            author: self.author,
            created_at: db::time(self.created_at),
        })
    }
}

db::row! {
    pub(super) struct AliasRow {
        model: String,
        alias: String,
        version: i64,
        revision: i64,
        moved_at: i64,
        promotion: String,
        /// The promotion that the next rollback undoes.
        pub(super) standing: String,
    }
}

impl AliasRow {
    pub(super) fn alias(self) -> Result<Alias> {
        Ok(Alias {
            model: self.model,
            alias: self.alias,
            version: db::number(self.version)?,
            revision: db::number(self.revision)?,
            moved_at: db::time(self.moved_at),
            promotion: db::from_text(&self.promotion)?,
        })
    }
}

db::row! {
    struct EventRow {
        seq: i64,
        at: i64,
        kind: String,
        model: String,
        version: Option<i64>,
        alias: Option<String>,
        revision: Option<i64>,
        promotion: Option<String>,
    }
}

impl EventRow {
    fn event(self) -> Result<Event> {
        Ok(Event {
            seq: db::number(self.seq)?,
            at: db::time(self.at),
            kind: db::from_word(&self.kind)?,
            model: self.model,
            version: self.version.map(db::number).transpose()?,
            alias: self.alias,
            revision: self.revision.map(db::number).transpose()?,
            promotion: self.promotion.as_deref().map(db::from_text).transpose()?,
        })
    }
}

pub(super) async fn find_model(conn: &mut Conn, name: &str) -> Result<Model> {
    let row: Option<ModelRow> = db::query("SELECT * FROM models WHERE name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await
        .during("read model", name)?;
    row.ok_or_else(|| CoreError::not_found("model", name))?.model()
}

pub(super) async fn find_version(conn: &mut Conn, model: &str, version: u64) -> Result<ModelVersion> {
    let row: Option<VersionRow> = db::query("SELECT * FROM versions WHERE model = $1 AND version = $2")
        .bind(model)
        .bind(db::to_i64(version))
        .fetch_optional(&mut *conn)
        .await
        .during("read version of", model)?;
    match row {
        Some(row) => row.version(),
        None => {
            find_model(conn, model).await?;
            Err(CoreError::not_found("model version", format!("{model}/{version}")).into())
        }
    }
}

pub(super) async fn find_alias(conn: &mut Conn, model: &str, alias: &str) -> Result<Option<AliasRow>> {
    Ok(db::query("SELECT * FROM aliases WHERE model = $1 AND alias = $2")
        .bind(model)
        .bind(alias)
        .fetch_optional(conn)
        .await
        .during("read alias of", model)?)
}

pub(super) async fn find_policy(conn: &mut Conn, model: &str, alias: &str) -> Result<Option<AliasPolicy>> {
    let row: Option<(i64, String)> =
        db::query("SELECT approvals, evidence FROM alias_policies WHERE model = $1 AND alias = $2")
            .bind(model)
            .bind(alias)
            .fetch_optional(conn)
            .await
            .during("read policy of", model)?;
    row.map(|(approvals, evidence)| {
        let approvals = u32::try_from(approvals).unwrap_or(u32::MAX);
        Ok(AliasPolicy { approvals, evidence: db::from_word(&evidence)? })
    })
    .transpose()
}

async fn find_same(conn: &mut Conn, new: &NewVersion, run: Option<RunId>) -> Result<Option<ModelVersion>> {
    let row: Option<VersionRow> = db::query("SELECT * FROM versions WHERE model = $1 AND package = $2 AND run_id = $3")
        .bind(&new.model)
        .bind(new.package.to_string())
        .bind(run.map(|r| r.to_string()).unwrap_or_default())
        .fetch_optional(conn)
        .await
        .during("read versions of", &new.model)?;
    let Some(found) = row.map(VersionRow::version).transpose()? else { return Ok(None) };
    if (&found.description, &found.tags) == (&new.description, &new.tags) {
        return Ok(Some(found));
    }
    let name = format!("{}/{} (same package and run, other description or tags)", found.model, found.version);
    Err(CoreError::AlreadyExists { what: "model version", name }.into())
}

/// Tells followers what happened, in the same transaction. The place is given here.
pub(super) async fn tell(conn: &mut Conn, event: Event) -> Result<()> {
    let seq = db::next_place(conn, "event").await?;
    db::query(
        "INSERT INTO events (seq, at, kind, model, version, alias, revision, promotion) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(event.at.timestamp_micros())
    .bind(event.kind.as_str())
    .bind(&event.model)
    .bind(event.version.map(db::to_i64))
    .bind(&event.alias)
    .bind(event.revision.map(db::to_i64))
    .bind(event.promotion.map(|p| p.to_string()))
    .execute(conn)
    .await
    .during("write event of", &event.model)?;
    Ok(())
}

fn event(at: Timestamp, kind: EventKind, model: &str, version: Option<u64>) -> Event {
    Event { seq: 0, at, kind, model: model.to_owned(), version, alias: None, revision: None, promotion: None }
}

/// What the graph learns from a new version: all of it of the version itself, as one run may make several.
fn origins(version: &ModelVersion, provenance: Option<&Provenance>) -> (Node, Vec<Edge>) {
    let model = NodeRef::model(&version.model, version.version);
    let mut node = Node::new(model.clone()).fact("package", version.package).fact("author", &version.author);
    let mut edges: Vec<Edge> = version.run.map(|run| Edge::new(NodeRef::run(run), model.clone())).into_iter().collect();
    if let Some(made) = provenance {
        let facts = [
            ("commit", made.commit.clone()),
            ("dirty", made.dirty.map(|d| d.to_string())),
            ("lock_file", made.lock_file.map(|d| d.to_string())),
            ("toolchain", made.toolchain.clone()),
            ("seed", made.seed.map(|s| s.to_string())),
        ];
        let known = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        node = known.fold(node, |node, (name, value)| node.fact(name, value));
        edges.extend(made.datasets.iter().map(|d| Edge::new(NodeRef::dataset(d), model.clone())));
    }
    (node, edges)
}

impl SqlRegistry {
    pub(super) async fn insert_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        check::model(&new.name)?;
        check::text("description", &new.description, check::TEXT)?;
        check::tags(&new.tags)?;
        self.allow(who, Permission::Register, Resource::model(&new.name))?;
        transaction!(self.write("create model", &new.name), |writing| {
            match find_model(&mut writing.tx, &new.name).await {
                Ok(found) if (&found.description, &found.tags) == (&new.description, &new.tags) => return Ok(found),
                Ok(_) => return Err(CoreError::AlreadyExists { what: "model", name: new.name.clone() }.into()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            db::query(
                "INSERT INTO models (name, description, tags, author, created_at, last_version) \
                 VALUES ($1, $2, $3, $4, $5, 0)",
            )
            .bind(&new.name)
            .bind(&new.description)
            .bind(db::json(&new.tags)?)
            .bind(&who.name)
            .bind(writing.at.timestamp_micros())
            .execute(&mut writing.tx)
            .await
            .during("create model", &new.name)?;
            let after = json!({ "description": new.description, "tags": new.tags });
            let audited = writing.event(who, "model.create", format!("model {}", new.name)).change(json!(null), after);
            audit::append(&mut writing.tx, audited).await?;
            tell(&mut writing.tx, event(writing.at, EventKind::ModelCreated, &new.name, None)).await?;
            let model = find_model(&mut writing.tx, &new.name).await?;
            Ok(model)
        })
    }

    pub(super) async fn put_policy(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        policy: AliasPolicy,
    ) -> Result<()> {
        check::alias(alias)?;
        self.allow(who, Permission::Administer, Resource::alias(model, alias))?;
        transaction!(self.write("set policy of", model), |writing| {
            find_model(&mut writing.tx, model).await?;
            let before = find_policy(&mut writing.tx, model, alias).await?;
            if before == Some(policy) {
                return Ok(());
            }
            db::query(
                "INSERT INTO alias_policies (model, alias, approvals, evidence) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (model, alias) DO UPDATE SET approvals = excluded.approvals, evidence = excluded.evidence",
            )
            .bind(model)
            .bind(alias)
            .bind(i64::from(policy.approvals))
            .bind(policy.evidence.as_str())
            .execute(&mut writing.tx)
            .await
            .during("set policy of", model)?;
            let audited = writing.event(who, "policy.set", format!("model {model}@{alias}"));
            audit::append(&mut writing.tx, audited.change(json!(before), json!(policy))).await?;
            Ok(())
        })
    }

    /// The provenance of a package in the artifact store, if it has one.
    async fn provenance(&self, package: &Digest) -> Result<Option<Provenance>> {
        let package = Package::load(&*self.0.artifacts, package).await?;
        match package.provenance() {
            Ok(provenance) => Ok(Some(provenance)),
            Err(CoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn insert_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        check::text("description", &new.description, check::TEXT)?;
        check::tags(&new.tags)?;
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
        let provenance = self.provenance(&new.package).await?;
        let told = provenance.as_ref().and_then(|p| p.run);
        if let (Some(given), Some(told)) = (new.run, told)
            && given != told
        {
            let reason = format!("the package says that run {told} made it, not run {given}");
            return Err(CoreError::invalid("run", reason).into());
        }
        let run = new.run.or(told);
        transaction!(self.write("create version of", &new.model), |writing| {
            if let Some(found) = find_same(&mut writing.tx, &new, run).await? {
                return Ok(found);
            }
            let number: i64 =
                db::query("UPDATE models SET last_version = last_version + 1 WHERE name = $1 RETURNING last_version")
                    .bind(&new.model)
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
                author: who.name.clone(),
                created_at: db::time(writing.at.timestamp_micros()),
            };
            db::query(
                "INSERT INTO versions (model, version, package, run_id, description, tags, author, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(&version.model)
            .bind(number)
            .bind(version.package.to_string())
            .bind(run.map(|r| r.to_string()).unwrap_or_default())
            .bind(&version.description)
            .bind(db::json(&version.tags)?)
            .bind(&version.author)
            .bind(version.created_at.timestamp_micros())
            .execute(&mut writing.tx)
            .await
            .during("create version of", &version.model)?;
            let (node, edges) = origins(&version, provenance.as_ref());
            lineage::record(&mut writing.tx, &[node], &edges).await?;
            let resource = format!("model {}/{number}", version.model);
            let after = json!({
                "package": version.package, "run": run, "description": version.description, "tags": version.tags,
            });
            let audited = writing.event(who, "version.create", resource).change(json!(null), after);
            audit::append(&mut writing.tx, audited).await?;
            let happened = event(writing.at, EventKind::VersionCreated, &version.model, Some(version.version));
            tell(&mut writing.tx, happened).await?;
            Ok(version)
        })
    }

    pub(super) async fn list_models(&self) -> Result<Vec<Model>> {
        let rows: Vec<ModelRow> = db::query("SELECT * FROM models ORDER BY name")
            .fetch_all(&self.0.database)
            .await
            .during("list", "models")?;
        rows.into_iter().map(ModelRow::model).collect()
    }

    pub(super) async fn list_versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        let mut tx = self.read("list versions of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<VersionRow> = db::query("SELECT * FROM versions WHERE model = $1 ORDER BY version")
            .bind(model)
            .fetch_all(&mut tx)
            .await
            .during("list versions of", model)?;
        rows.into_iter().map(VersionRow::version).collect()
    }

    pub(super) async fn list_aliases(&self, model: &str) -> Result<Vec<Alias>> {
        let mut tx = self.read("list aliases of", model).await?;
        find_model(&mut tx, model).await?;
        let rows: Vec<AliasRow> = db::query("SELECT * FROM aliases WHERE model = $1 ORDER BY alias")
            .bind(model)
            .fetch_all(&mut tx)
            .await
            .during("list aliases of", model)?;
        rows.into_iter().map(AliasRow::alias).collect()
    }

    pub(super) async fn list_events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        let rows: Vec<EventRow> = db::query("SELECT * FROM events WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(db::to_i64(after))
            .bind(check::page(limit)?)
            .fetch_all(&self.0.database)
            .await
            .during("read", "events")?;
        rows.into_iter().map(EventRow::event).collect()
    }
}
