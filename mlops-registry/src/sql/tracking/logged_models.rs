use std::collections::{BTreeMap, HashMap};

use mlops_core::{Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::experiments::{self, Among, in_use, stage};
use super::runs::find_run;
use super::values::{MODEL_PARAMS, MODEL_TAGS, select_many, texts_of};
use crate::search::{Entity, LifecycleStage, Page, Plan, Search};
use crate::sql::db::{self, Backend as _, Conn};
use crate::sql::search::{Layout, Named, Sql, find};
use crate::sql::{SqlRegistry, audit};
use crate::tracking::{
    LoggedModel, LoggedModelEdit, LoggedModelId, LoggedModelStatus, Metric, MetricDataset, ModelMetric, NewLoggedModel,
};
use crate::{Result, check};

db::row! {
    pub(super) struct ModelRow {
        id: String,
        name: String,
        model_type: Option<String>,
        source_run: Option<String>,
        status: String,
        author: String,
        created_at: i64,
        updated_at: i64,
        deleted_at: Option<i64>,
        content: String,
        experiment: String,
        experiment_id: String,
        experiment_deleted_at: Option<i64>,
    }
}

macro_rules! select_models {
    ($condition:literal) => {
        concat!(
            "SELECT m.*, e.name AS experiment, e.id AS experiment_id, e.deleted_at AS experiment_deleted_at \
             FROM logged_models m JOIN experiments e ON e.key = m.experiment_key WHERE ",
            $condition
        )
    };
}

/// The status is stored as filters spell it.
const LAYOUT: Layout = Layout {
    entity: Entity::LoggedModels,
    columns: "m.id",
    from: "logged_models m",
    attribute: |name| match name {
        "name" => ("m.name", false),
        "model_id" => ("m.id", false),
        "model_type" => ("m.model_type", true),
        "status" => ("m.status", false),
        "source_run_id" => ("m.source_run", true),
        "creation_timestamp" => ("m.created_at", false),
        _ => ("m.updated_at", false),
    },
    tags: Named { table: "logged_model_tags", owner: "model_id", of: "m.id" },
    params: Some(Named { table: "logged_model_params", owner: "model_id", of: "m.id" }),
    metrics: Some(Named { table: "logged_model_metrics", owner: "model_id", of: "m.id" }),
    inputs: None,
};

impl ModelRow {
    fn stage(&self) -> LifecycleStage {
        stage(self.deleted_at.or(self.experiment_deleted_at))
    }

    fn model(self) -> Result<LoggedModel> {
        Ok(LoggedModel {
            stage: self.stage(),
            id: db::from_text(&self.id)?,
            experiment: db::from_text(&self.experiment_id)?,
            name: self.name,
            model_type: self.model_type,
            source_run: self.source_run.as_deref().map(db::from_text).transpose()?,
            status: db::from_word(&format!("LOGGED_MODEL_{}", self.status))?,
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
            metrics: Vec::new(),
            author: self.author,
            created_at: db::time(self.created_at),
            updated_at: db::time(self.updated_at),
        })
    }
}

db::row! {
    struct MetricRow {
        model_id: String,
        name: String,
        run_id: String,
        dataset: String,
        digest: String,
        step: i64,
        logged_at: i64,
        is_nan: i64,
        value: f64,
    }
}

impl MetricRow {
    fn metric(self) -> Result<ModelMetric> {
        let value = if self.is_nan == 0 { self.value } else { f64::NAN };
        let mut metric = Metric::new(self.name, value, self.step, db::time(self.logged_at));
        metric.model = Some(db::from_text(&self.model_id)?);
        if !(self.dataset.is_empty() && self.digest.is_empty()) {
            metric.dataset = Some(MetricDataset::new(self.dataset, self.digest));
        }
        Ok(ModelMetric { run: db::from_text(&self.run_id)?, metric })
    }
}

pub(super) async fn find_model(conn: &mut Conn, id: LoggedModelId) -> Result<ModelRow> {
    let id = id.to_string();
    let query = db::query(select_models!("m.id = $1")).bind(&id);
    let row: Option<ModelRow> = query.fetch_optional(conn).await.during("read logged model", &id)?;
    Ok(row.ok_or_else(|| CoreError::not_found("logged model", id))?)
}

async fn load(conn: &mut Conn, rows: Vec<ModelRow>) -> Result<Vec<LoggedModel>> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let mut models = rows.into_iter().map(ModelRow::model).collect::<Result<Vec<_>>>()?;
    let mut params = texts_of(conn, &MODEL_PARAMS, &ids).await?;
    let mut tags = texts_of(conn, &MODEL_TAGS, &ids).await?;
    let select = "SELECT * FROM logged_model_metrics WHERE model_id";
    let rows: Vec<MetricRow> = select_many(conn, select, &ids, "ORDER BY name, run_id, dataset, digest").await?;
    let mut metrics: HashMap<String, Vec<ModelMetric>> = HashMap::new();
    for row in rows {
        metrics.entry(row.model_id.clone()).or_default().push(row.metric()?);
    }
    for (model, id) in models.iter_mut().zip(&ids) {
        model.params = params.remove(id).unwrap_or_default();
        model.tags = tags.remove(id).unwrap_or_default();
        model.metrics = metrics.remove(id).unwrap_or_default();
    }
    Ok(models)
}

async fn load_one(conn: &mut Conn, row: ModelRow) -> Result<LoggedModel> {
    let mut models = load(conn, vec![row]).await?;
    Ok(models.pop().expect("one row in, one model out"))
}

impl SqlRegistry {
    /// The model's row, if `who` may track to its experiment.
    async fn tracked_model(&self, conn: &mut Conn, who: &Principal, model: LoggedModelId) -> Result<ModelRow> {
        let row = find_model(conn, model).await?;
        self.allow(who, Permission::Track, Resource::experiment(&row.experiment))?;
        Ok(row)
    }

    /// The same, and it must be in use.
    pub(super) async fn changed_model(
        &self,
        conn: &mut Conn,
        who: &Principal,
        model: LoggedModelId,
    ) -> Result<ModelRow> {
        let row = self.tracked_model(conn, who, model).await?;
        in_use("logged model", model, row.stage())?;
        Ok(row)
    }
}

pub(super) async fn create(registry: &SqlRegistry, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel> {
    check::name("logged model name", &new.name)?;
    check::text("model type", new.model_type.as_deref().unwrap_or_default(), check::NAME)?;
    check::params(&new.params)?;
    check::tags(&new.tags)?;
    let content = Digest::of_json(&(&who.name, &new))?.to_string();
    let mut writing = registry.write("create logged model", &new.name).await?;
    let conn = &mut writing.tx;
    let experiment = experiments::of_id(conn, new.experiment).await?;
    registry.allow(who, Permission::Track, Resource::experiment(&experiment.name))?;
    if let Some(id) = new.id {
        match find_model(conn, id).await {
            Ok(row) if row.content == content => return load_one(conn, row).await,
            Ok(_) => return Err(CoreError::AlreadyExists { what: "logged model", name: id.to_string() }.into()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    in_use("experiment", &experiment.name, stage(experiment.deleted_at))?;
    if let Some(run) = new.source_run {
        find_run(conn, run).await?;
    }
    let id = new.id.unwrap_or_else(|| LoggedModelId::new(writing.at));
    let (text, at) = (id.to_string(), writing.at.timestamp_micros());
    db::query(
        "INSERT INTO logged_models \
         (id, experiment_key, name, model_type, source_run, status, author, created_at, updated_at, content) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&text)
    .bind(&experiment.key)
    .bind(&new.name)
    .bind(&new.model_type)
    .bind(new.source_run.map(|run| run.to_string()))
    .bind(LoggedModelStatus::Pending.as_filter())
    .bind(&who.name)
    .bind(at)
    .bind(at)
    .bind(content)
    .execute(&mut *conn)
    .await
    .during("create logged model", &text)?;
    let params = MODEL_PARAMS.add(conn, id.into(), &new.params).await?;
    let tags = MODEL_TAGS.change(conn, &text, &new.tags, &Default::default()).await?.after;
    let after = json!({
        "experiment": experiment.name, "name": new.name, "model_type": new.model_type, "source_run": new.source_run,
        "params": params, "tags": tags,
    });
    let event = writing.event(who, "logged_model.create", format!("logged model {id}")).change(Value::Null, after);
    audit::append(&mut writing.tx, event).await?;
    let row = find_model(&mut writing.tx, id).await?;
    let model = load_one(&mut writing.tx, row).await?;
    writing.commit().await?;
    Ok(model)
}

/// Where a change of a row is finished: its time, its entry, what it has become.
async fn finish_change(
    mut writing: crate::sql::Writing,
    who: &Principal,
    action: &str,
    id: LoggedModelId,
    change: (Value, Value),
) -> Result<LoggedModel> {
    let event = writing.event(who, action, format!("logged model {id}")).change(change.0, change.1);
    audit::append(&mut writing.tx, event).await?;
    let row = find_model(&mut writing.tx, id).await?;
    let model = load_one(&mut writing.tx, row).await?;
    writing.commit().await?;
    Ok(model)
}

pub(super) async fn finish(
    registry: &SqlRegistry,
    who: &Principal,
    id: LoggedModelId,
    status: LoggedModelStatus,
) -> Result<LoggedModel> {
    if status == LoggedModelStatus::Pending {
        let reason = "a logged model becomes READY or UPLOAD_FAILED, not PENDING again";
        return Err(CoreError::invalid("logged model status", reason).into());
    }
    let text = id.to_string();
    let mut writing = registry.write("finish logged model", &text).await?;
    let row = registry.changed_model(&mut writing.tx, who, id).await?;
    if row.status == status.as_filter() {
        return load_one(&mut writing.tx, row).await;
    }
    db::query("UPDATE logged_models SET status = $1, updated_at = $2 WHERE id = $3")
        .bind(status.as_filter())
        .bind(writing.at.timestamp_micros())
        .bind(&text)
        .execute(&mut writing.tx)
        .await
        .during("finish logged model", &text)?;
    let change = (json!({ "status": row.status }), json!({ "status": status.as_filter() }));
    finish_change(writing, who, "logged_model.finish", id, change).await
}

pub(super) async fn edit(
    registry: &SqlRegistry,
    who: &Principal,
    id: LoggedModelId,
    edit: LoggedModelEdit,
) -> Result<LoggedModel> {
    check::tags(&edit.set_tags)?;
    check::params(&edit.params)?;
    let text = id.to_string();
    let mut writing = registry.write("edit logged model", &text).await?;
    let row = registry.changed_model(&mut writing.tx, who, id).await?;
    let params = MODEL_PARAMS.add(&mut writing.tx, id.into(), &edit.params).await?;
    let tags = MODEL_TAGS.change(&mut writing.tx, &text, &edit.set_tags, &edit.remove_tags).await?;
    if params.is_empty() && tags.is_empty() {
        return load_one(&mut writing.tx, row).await;
    }
    db::query("UPDATE logged_models SET updated_at = $1 WHERE id = $2")
        .bind(writing.at.timestamp_micros())
        .bind(&text)
        .execute(&mut writing.tx)
        .await
        .during("edit logged model", &text)?;
    let change = (json!({ "tags": tags.before }), json!({ "params": params, "tags": tags.after }));
    finish_change(writing, who, "logged_model.edit", id, change).await
}

/// Deletes or restores.
pub(super) async fn set_stage(
    registry: &SqlRegistry,
    who: &Principal,
    id: LoggedModelId,
    wanted: LifecycleStage,
) -> Result<LoggedModel> {
    let (operation, action, deleting) = match wanted {
        LifecycleStage::Deleted => ("delete logged model", "logged_model.delete", true),
        LifecycleStage::Active => ("restore logged model", "logged_model.restore", false),
    };
    let text = id.to_string();
    let mut writing = registry.write(operation, &text).await?;
    let row = registry.tracked_model(&mut writing.tx, who, id).await?;
    let before = stage(row.deleted_at);
    if before == wanted {
        return load_one(&mut writing.tx, row).await;
    }
    let at = writing.at.timestamp_micros();
    db::query("UPDATE logged_models SET deleted_at = $1, updated_at = $2 WHERE id = $3")
        .bind(deleting.then_some(at))
        .bind(at)
        .bind(&text)
        .execute(&mut writing.tx)
        .await
        .during(operation, &text)?;
    finish_change(writing, who, action, id, (json!({ "stage": before }), json!({ "stage": wanted }))).await
}

pub(super) async fn read(registry: &SqlRegistry, id: LoggedModelId) -> Result<LoggedModel> {
    let mut tx = registry.read("read logged model", &id.to_string()).await?;
    let row = find_model(&mut tx, id).await?;
    load_one(&mut tx, row).await
}

pub(super) async fn find_all(
    registry: &SqlRegistry,
    experiments: &[ExperimentId],
    search: &Search,
) -> Result<Page<LoggedModel>> {
    let plan = Plan::new(Entity::LoggedModels, search, &experiments)?;
    let mut tx = registry.read("search", "logged models").await?;
    let among = Among::find(&mut tx, experiments, plan.view).await?;
    if among.is_empty() {
        return Ok(Page::new(Vec::new(), None));
    }
    let scope = |sql: &mut Sql| among.scope(sql, "m", plan.view);
    let ids: Vec<String> = find(&mut tx, &LAYOUT, &plan, scope).await?;
    let mut rows: Vec<ModelRow> = select_many(&mut tx, select_models!("m.id"), &ids, "").await?;
    let place: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    rows.sort_by_key(|row| place.get(row.id.as_str()).copied());
    Ok(plan.page(load(&mut tx, rows).await?))
}
