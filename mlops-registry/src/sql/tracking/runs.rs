use std::collections::{BTreeMap, HashMap};

use mlops_core::lineage::{Edge, Node, NodeKind, NodeRef};
use mlops_core::{Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource, RunId};
use serde_json::{Value, json};

use super::experiments::{self, Among, in_use, stage};
use super::values::{RUN_PARAMS, RUN_TAGS, put_metrics, rank, select_many, texts_of};
use super::{artifacts, logged_models};
use crate::search::{self, Entity, LifecycleStage, Page, Plan, Search};
use crate::sql::db::{self, Arg, Backend as _, Conn, Lock};
use crate::sql::search::{Layout, Named, Sql, find};
use crate::sql::{SqlRegistry, audit, lineage};
use crate::tracking::{
    LogBatch, Metric, MetricDataset, NewRun, Run, RunEdit, RunInfo, RunInput, RunModel, RunModelRole, RunStatus,
};
use crate::{Result, check};

db::row! {
    pub(super) struct RunRow {
        id: String,
        name: String,
        parent: Option<String>,
        status: String,
        author: String,
        started_at: i64,
        ended_at: Option<i64>,
        deleted_at: Option<i64>,
        content: String,
        pub(super) experiment: String,
        experiment_id: String,
        experiment_deleted_at: Option<i64>,
        artifact_location: Option<String>,
    }
}

macro_rules! select_runs {
    ($condition:literal) => {
        concat!(
            "SELECT r.*, e.name AS experiment, e.id AS experiment_id, e.deleted_at AS experiment_deleted_at, \
             e.artifact_location FROM runs r JOIN experiments e ON e.key = r.experiment_key WHERE ",
            $condition
        )
    };
}

const LAYOUT: Layout = Layout {
    entity: Entity::Runs,
    columns: "r.id",
    from: "runs r",
    attribute: |name| match name {
        "run_id" => ("r.id", false),
        "run_name" => ("r.name", false),
        "user_id" => ("r.author", false),
        "status" => ("r.status", false),
        "start_time" => ("r.started_at", false),
        "end_time" => ("r.ended_at", true),
        _ => (
            "((SELECT COALESCE(e.artifact_location, 'mlflow-artifacts:/' || e.id) FROM experiments e \
             WHERE e.key = r.experiment_key) || '/' || r.id || '/artifacts')",
            false,
        ),
    },
    tags: Named { table: "run_tags", owner: "run_id", of: "r.id" },
    params: Some(Named { table: "run_params", owner: "run_id", of: "r.id" }),
    metrics: Some(Named { table: "run_latest_metrics", owner: "run_id", of: "r.id" }),
    inputs: Some(Named { table: "run_inputs", owner: "run_id", of: "r.id" }),
};

impl RunRow {
    fn stage(&self) -> LifecycleStage {
        stage(self.deleted_at.or(self.experiment_deleted_at))
    }

    /// The run with nothing logged to it yet.
    fn run(self) -> Result<Run> {
        let location = self.artifact_location.clone();
        let location = location.unwrap_or_else(|| format!("mlflow-artifacts:/{}", self.experiment_id));
        Ok(Run {
            artifact_uri: format!("{location}/{}/artifacts", self.id),
            info: RunInfo {
                stage: self.stage(),
                id: db::from_text(&self.id)?,
                experiment: self.experiment,
                experiment_id: db::from_text(&self.experiment_id)?,
                name: self.name,
                parent: self.parent.as_deref().map(db::from_text).transpose()?,
                status: db::from_word(&self.status)?,
                author: self.author,
                started_at: db::time(self.started_at),
                ended_at: self.ended_at.map(db::time),
            },
            params: BTreeMap::new(),
            metrics: BTreeMap::new(),
            tags: BTreeMap::new(),
            inputs: Vec::new(),
            models: Vec::new(),
            artifacts: Vec::new(),
        })
    }
}

db::row! {
    struct MetricRow {
        run_id: String,
        name: String,
        step: i64,
        logged_at: i64,
        is_nan: i64,
        value: f64,
        model_id: Option<String>,
        dataset: Option<String>,
        digest: Option<String>,
    }
}

impl MetricRow {
    fn metric(self) -> Result<Metric> {
        let value = if self.is_nan == 0 { self.value } else { f64::NAN };
        let mut metric = Metric::new(self.name, value, self.step, db::time(self.logged_at));
        metric.model = self.model_id.as_deref().map(db::from_text).transpose()?;
        metric.dataset = self.dataset.zip(self.digest).map(|(name, digest)| MetricDataset::new(name, digest));
        Ok(metric)
    }
}

db::row! {
    struct InputRow {
        run_id: String,
        dataset: String,
        digest: String,
        context: String,
        source_type: String,
        source: String,
        columns: Option<String>,
        profile: Option<String>,
        tags: String,
    }
}

impl InputRow {
    fn input(self) -> Result<RunInput> {
        let mut input = RunInput::new(self.dataset, self.digest, self.context).source(self.source_type, self.source);
        (input.schema, input.profile, input.tags) = (self.columns, self.profile, db::from_json(&self.tags)?);
        Ok(input)
    }
}

pub(super) async fn find_run(conn: &mut Conn, id: RunId) -> Result<RunRow> {
    let id = id.to_string();
    let row: Option<RunRow> =
        db::query(select_runs!("r.id = $1")).bind(&id).fetch_optional(conn).await.during("read run", &id)?;
    Ok(row.ok_or_else(|| CoreError::not_found("run", id))?)
}

/// Fills in what was logged to these runs: one query per table and thousand runs.
async fn load(conn: &mut Conn, rows: Vec<RunRow>) -> Result<Vec<Run>> {
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let place: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    let mut runs = rows.into_iter().map(RunRow::run).collect::<Result<Vec<Run>>>()?;
    let mut params = texts_of(conn, &RUN_PARAMS, &ids).await?;
    let mut tags = texts_of(conn, &RUN_TAGS, &ids).await?;
    for (run, id) in runs.iter_mut().zip(&ids) {
        run.params = params.remove(id).unwrap_or_default();
        run.tags = tags.remove(id).unwrap_or_default();
    }
    // Rows of a run that is not in the list cannot come back, so a missing place is skipped, not an error.
    let rows: Vec<MetricRow> = select_many(conn, "SELECT * FROM run_latest_metrics WHERE run_id", &ids, "").await?;
    for row in rows {
        if let Some(&i) = place.get(row.run_id.as_str()) {
            runs[i].metrics.insert(row.name.clone(), row.metric()?);
        }
    }
    let select = "SELECT * FROM run_inputs WHERE run_id";
    let rows: Vec<InputRow> = select_many(conn, select, &ids, "ORDER BY dataset, digest, context").await?;
    for row in rows {
        if let Some(&i) = place.get(row.run_id.as_str()) {
            runs[i].inputs.push(row.input()?);
        }
    }
    let select = "SELECT run_id, model_id, role, step FROM run_models WHERE run_id";
    let rows: Vec<(String, String, String, i64)> = select_many(conn, select, &ids, "ORDER BY model_id, role").await?;
    for (id, model, role, step) in rows {
        if let Some(&i) = place.get(id.as_str()) {
            let (model, role): (_, RunModelRole) = (db::from_text(&model)?, db::from_word(&role)?);
            runs[i].models.push(RunModel { model, role, step });
        }
    }
    for (id, artifact) in artifacts::of_runs(conn, &ids).await? {
        if let Some(&i) = place.get(id.as_str()) {
            runs[i].artifacts.push(artifact);
        }
    }
    Ok(runs)
}

async fn load_one(conn: &mut Conn, row: RunRow) -> Result<Run> {
    let mut runs = load(conn, vec![row]).await?;
    Ok(runs.pop().expect("one run in, one run out"))
}

impl SqlRegistry {
    /// The run's row, if `who` may track to its experiment.
    pub(super) async fn tracked(&self, conn: &mut Conn, who: &Principal, run: RunId) -> Result<RunRow> {
        let row = find_run(conn, run).await?;
        self.allow(who, Permission::Track, Resource::experiment(&row.experiment))?;
        Ok(row)
    }

    /// The same, and it must be in use.
    pub(super) async fn changed(&self, conn: &mut Conn, who: &Principal, run: RunId) -> Result<RunRow> {
        let row = self.tracked(conn, who, run).await?;
        in_use("run", run, row.stage())?;
        Ok(row)
    }
}

pub(super) async fn start(registry: &SqlRegistry, who: &Principal, new: NewRun) -> Result<Run> {
    check::name("experiment name", &new.experiment)?;
    check::text("run name", &new.name, check::NAME)?;
    check::tags(&new.tags)?;
    registry.allow(who, Permission::Track, Resource::experiment(&new.experiment))?;
    let content = Digest::of_json(&(&who.name, &new))?.to_string();
    transaction!(registry.write("start run", &new.experiment), |writing| {
        let conn = &mut writing.tx;
        if let Some(id) = new.id {
            match find_run(conn, id).await {
                Ok(row) if row.content == content => return load_one(conn, row).await,
                Ok(_) => return Err(CoreError::AlreadyExists { what: "run", name: id.to_string() }.into()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let Some(experiment) = experiments::find(conn, &new.experiment).await? else {
            return Err(CoreError::not_found("experiment", &new.experiment).into());
        };
        in_use("experiment", &new.experiment, stage(experiment.deleted_at))?;
        if let Some(parent) = new.parent {
            find_run(conn, parent).await?;
        }
        let id = new.id.unwrap_or_else(|| RunId::new(writing.at));
        let text = id.to_string();
        db::query(
            "INSERT INTO runs (id, experiment_key, name, parent, status, author, started_at, content) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&text)
        .bind(&experiment.key)
        .bind(&new.name)
        .bind(new.parent.map(|p| p.to_string()))
        .bind(RunStatus::Running.as_str())
        .bind(&who.name)
        .bind(new.started_at.unwrap_or(writing.at).timestamp_micros())
        .bind(&content)
        .execute(&mut *conn)
        .await
        .during("start run", &text)?;
        RUN_TAGS.change(conn, &text, &new.tags, &Default::default()).await?;
        let mut node = Node::new(NodeRef::run(id)).fact("experiment", &new.experiment).fact("author", &who.name);
        if !new.name.is_empty() {
            node = node.fact("name", &new.name);
        }
        lineage::record(conn, &[node], &[]).await?;
        let mut after =
            json!({ "experiment": new.experiment, "name": new.name, "parent": new.parent, "tags": new.tags });
        if let Some(at) = new.started_at {
            after["started_at"] = json!(at);
        }
        let event = writing.event(who, "run.start", format!("run {id}")).change(Value::Null, after);
        audit::append(&mut writing.tx, event).await?;
        let row = find_run(&mut writing.tx, id).await?;
        let run = load_one(&mut writing.tx, row).await?;
        Ok(run)
    })
}

pub(super) async fn log(registry: &SqlRegistry, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
    check::batch(&batch)?;
    let id = run.to_string();
    // What is only points of this run needs no place in the audit log, and so waits for nobody who has one.
    let alone = batch.params.is_empty() && batch.tags.is_empty() && batch.metrics.iter().all(|m| m.model.is_none());
    let lock = if alone { Lock::Run } else { Lock::AuditedRun };
    transaction!(registry.begin(lock, "log to run", &id), |writing| {
        registry.changed(&mut writing.tx, who, run).await?;
        let models: std::collections::BTreeSet<_> = batch.metrics.iter().filter_map(|metric| metric.model).collect();
        for model in models {
            registry.changed_model(&mut writing.tx, who, model).await?;
        }
        let params = RUN_PARAMS.add(&mut writing.tx, run.into(), &batch.params).await?;
        let tags = RUN_TAGS.change(&mut writing.tx, &id, &batch.tags, &Default::default()).await?;
        put_metrics(&mut writing.tx, run, &batch.metrics).await?;
        if !(params.is_empty() && tags.is_empty()) {
            let change = (json!({ "tags": tags.before }), json!({ "params": params, "tags": tags.after }));
            let event = writing.event(who, "run.log", format!("run {run}")).change(change.0, change.1);
            audit::append(&mut writing.tx, event).await?;
        }
        Ok(())
    })
}

pub(super) async fn log_inputs(
    registry: &SqlRegistry,
    who: &Principal,
    run: RunId,
    inputs: Vec<RunInput>,
) -> Result<()> {
    check::inputs(&inputs)?;
    let id = run.to_string();
    transaction!(registry.write("log input of run", &id), |writing| {
        registry.changed(&mut writing.tx, who, run).await?;
        for input in &inputs {
            let added = db::query(
            "INSERT INTO run_inputs (run_id, dataset, digest, context, source_type, source, columns, profile, tags) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (run_id, dataset, digest, context) DO NOTHING",
        )
        .bind(&id)
        .bind(&input.name)
        .bind(&input.digest)
        .bind(&input.context)
        .bind(&input.source_type)
        .bind(&input.source)
        .bind(&input.schema)
        .bind(&input.profile)
        .bind(db::json(&input.tags)?)
        .execute(&mut writing.tx)
        .await
        .during("log input of run", &id)?;
            if added == 1 {
                let after = json!({ "dataset": input.name, "digest": input.digest, "context": input.context });
                let event = writing.event(who, "run.input", format!("run {run}")).change(Value::Null, after);
                audit::append(&mut writing.tx, event).await?;
            }
            let node = NodeRef { kind: NodeKind::Dataset, id: format!("{}@{}", input.name, input.digest) };
            lineage::record(&mut writing.tx, &[], &[Edge::new(node, NodeRef::run(run))]).await?;
        }
        Ok(())
    })
}

pub(super) async fn log_models(
    registry: &SqlRegistry,
    who: &Principal,
    run: RunId,
    models: Vec<RunModel>,
) -> Result<()> {
    check::count("models", models.len(), check::BATCH.1)?;
    let id = run.to_string();
    transaction!(registry.write("log models of run", &id), |writing| {
        registry.changed(&mut writing.tx, who, run).await?;
        let mut added = Vec::new();
        for &link in &models {
            logged_models::find_model(&mut writing.tx, link.model).await?;
            let fresh = db::query(
                "INSERT INTO run_models (run_id, model_id, role, step) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (run_id, model_id, role) DO NOTHING",
            )
            .bind(&id)
            .bind(link.model.to_string())
            .bind(link.role.as_str())
            .bind(link.step)
            .execute(&mut writing.tx)
            .await
            .during("log models of run", &id)?;
            if fresh == 1 {
                added.push(link);
            }
        }
        if !added.is_empty() {
            let event = writing.event(who, "run.models", format!("run {run}"));
            audit::append(&mut writing.tx, event.change(Value::Null, json!({ "models": added }))).await?;
        }
        Ok(())
    })
}

pub(super) async fn finish(registry: &SqlRegistry, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
    if !status.is_terminal() {
        let reason = format!("a run ends as FINISHED, FAILED or KILLED, not as {status}");
        return Err(CoreError::invalid("run status", reason).into());
    }
    let id = run.to_string();
    transaction!(registry.write("finish run", &id), |writing| {
        let row = registry.changed(&mut writing.tx, who, run).await?;
        let before: RunStatus = db::from_word(&row.status)?;
        if before == status {
            return load_one(&mut writing.tx, row).await;
        }
        if before.is_terminal() {
            let (expected, found) = (RunStatus::Running.to_string(), before.to_string());
            return Err(CoreError::Conflict { what: "run", name: id.clone(), expected, found }.into());
        }
        db::query("UPDATE runs SET status = $1, ended_at = $2 WHERE id = $3")
            .bind(status.as_str())
            .bind(writing.at.timestamp_micros())
            .bind(&id)
            .execute(&mut writing.tx)
            .await
            .during("finish run", &id)?;
        let change = (json!({ "status": before }), json!({ "status": status }));
        let event = writing.event(who, "run.finish", format!("run {id}")).change(change.0, change.1);
        audit::append(&mut writing.tx, event).await?;
        let row = find_run(&mut writing.tx, run).await?;
        let run = load_one(&mut writing.tx, row).await?;
        Ok(run)
    })
}

pub(super) async fn edit(registry: &SqlRegistry, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run> {
    if let Some(name) = &edit.name {
        check::text("run name", name, check::NAME)?;
    }
    let id = run.to_string();
    transaction!(registry.write("edit run", &id), |writing| {
        let row = registry.changed(&mut writing.tx, who, run).await?;
        let before = (row.name.clone(), db::from_word::<RunStatus>(&row.status)?, row.ended_at);
        let name = edit.name.clone().unwrap_or_else(|| row.name.clone());
        let status = edit.status.unwrap_or(before.1);
        let ended_at = match edit.ended_at {
            _ if !status.is_terminal() => None,
            Some(at) => Some(at.timestamp_micros()),
            None => row.ended_at.or(Some(writing.at.timestamp_micros())),
        };
        let tags = RUN_TAGS.change(&mut writing.tx, &id, &BTreeMap::new(), &edit.remove_tags).await?;
        let after = (name, status, ended_at);
        if before == after && tags.is_empty() {
            return load_one(&mut writing.tx, row).await;
        }
        db::query("UPDATE runs SET name = $1, status = $2, ended_at = $3 WHERE id = $4")
            .bind(&after.0)
            .bind(after.1.as_str())
            .bind(after.2)
            .bind(&id)
            .execute(&mut writing.tx)
            .await
            .during("edit run", &id)?;
        let mut change = (json!({}), json!({}));
        let mut changed = |what: &str, old: Value, new: Value| {
            if old != new {
                (change.0[what], change.1[what]) = (old, new);
            }
        };
        changed("name", json!(before.0), json!(after.0));
        changed("status", json!(before.1), json!(after.1));
        changed("ended_at", json!(before.2.map(db::time)), json!(after.2.map(db::time)));
        if !tags.is_empty() {
            changed("tags", json!(tags.before), json!(tags.after));
        }
        let event = writing.event(who, "run.edit", format!("run {id}")).change(change.0, change.1);
        audit::append(&mut writing.tx, event).await?;
        let row = find_run(&mut writing.tx, run).await?;
        let run = load_one(&mut writing.tx, row).await?;
        Ok(run)
    })
}

/// Deletes or restores.
pub(super) async fn set_stage(
    registry: &SqlRegistry,
    who: &Principal,
    run: RunId,
    wanted: LifecycleStage,
) -> Result<Run> {
    let (operation, action, deleting) = match wanted {
        LifecycleStage::Deleted => ("delete run", "run.delete", true),
        LifecycleStage::Active => ("restore run", "run.restore", false),
    };
    let id = run.to_string();
    transaction!(registry.write(operation, &id), |writing| {
        let row = registry.tracked(&mut writing.tx, who, run).await?;
        let before = stage(row.deleted_at);
        if before == wanted {
            return load_one(&mut writing.tx, row).await;
        }
        db::query("UPDATE runs SET deleted_at = $1 WHERE id = $2")
            .bind(deleting.then_some(writing.at.timestamp_micros()))
            .bind(&id)
            .execute(&mut writing.tx)
            .await
            .during(operation, &id)?;
        let event = writing.event(who, action, format!("run {id}"));
        audit::append(&mut writing.tx, event.change(json!({ "stage": before }), json!({ "stage": wanted }))).await?;
        let row = find_run(&mut writing.tx, run).await?;
        let run = load_one(&mut writing.tx, row).await?;
        Ok(run)
    })
}

pub(super) async fn read(registry: &SqlRegistry, id: RunId) -> Result<Run> {
    let mut tx = registry.read("read run", &id.to_string()).await?;
    let row = find_run(&mut tx, id).await?;
    load_one(&mut tx, row).await
}

pub(super) async fn find_all(
    registry: &SqlRegistry,
    experiments: &[ExperimentId],
    search: &Search,
) -> Result<Page<Run>> {
    let plan = Plan::new(Entity::Runs, search, &experiments)?;
    let mut tx = registry.read("search", "runs").await?;
    let among = Among::find(&mut tx, experiments, plan.view).await?;
    if among.is_empty() {
        return Ok(Page::new(Vec::new(), None));
    }
    let scope = |sql: &mut Sql| among.scope(sql, "r", plan.view);
    let ids: Vec<String> = find(&mut tx, &LAYOUT, &plan, scope).await?;
    let mut rows: Vec<RunRow> = select_many(&mut tx, select_runs!("r.id"), &ids, "").await?;
    let place: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    rows.sort_by_key(|row| place.get(row.id.as_str()).copied());
    Ok(plan.page(load(&mut tx, rows).await?))
}

pub(super) async fn history(registry: &SqlRegistry, run: RunId, key: &str) -> Result<Vec<Metric>> {
    let id = run.to_string();
    let mut tx = registry.read("read metrics of run", &id).await?;
    find_run(&mut tx, run).await?;
    let rows: Vec<MetricRow> = db::query(
        "SELECT l.run_id, l.name, p.* FROM run_latest_metrics l JOIN run_metrics p ON p.series = l.series \
         WHERE l.run_id = $1 AND l.name = $2 ORDER BY p.step, p.logged_at, p.is_nan DESC, p.value",
    )
    .bind(&id)
    .bind(key)
    .fetch_all(&mut tx)
    .await
    .during("read metrics of run", &id)?;
    rows.into_iter().map(MetricRow::metric).collect()
}

pub(super) async fn history_page(
    registry: &SqlRegistry,
    run: RunId,
    key: &str,
    limit: usize,
    token: Option<&str>,
) -> Result<Page<Metric>> {
    search::check_limit(limit)?;
    let id = run.to_string();
    let query = Digest::of_json(&(&id, key))?.to_string()[..16].to_owned();
    let after: Option<(i64, i64, bool, u64)> = match token {
        None => None,
        Some(token) => {
            let (of, place): (String, _) = search::read_token(token)?;
            if of != query {
                let reason = "it belongs to another metric; take it from the page before";
                return Err(CoreError::invalid("page token", reason).into());
            }
            Some(place)
        }
    };
    let mut tx = registry.read("read metrics of run", &id).await?;
    find_run(&mut tx, run).await?;
    let mut sql = Sql::new(&tx);
    sql.push("SELECT l.run_id, l.name, p.* FROM run_latest_metrics l JOIN run_metrics p ON p.series = l.series");
    sql.push(" WHERE l.run_id = ").bind(id).push(" AND l.name = ").bind(key.to_owned());
    if let Some((step, at, is_number, bits)) = after {
        // The bound on the step alone is what the index is entered by.
        sql.push(" AND p.step >= ").bind(step);
        sql.push(" AND (p.step, p.logged_at, 1 - p.is_nan, p.value) > (").bind(step);
        let place: [Arg<'static>; 3] = [at.into(), is_number.into(), f64::from_bits(bits).into()];
        for value in place {
            sql.push(", ").bind(value);
        }
        sql.push(")");
    }
    sql.push(" ORDER BY p.step, p.logged_at, p.is_nan DESC, p.value LIMIT ").bind(db::to_i64(limit as u64 + 1));
    let rows: Vec<MetricRow> = sql.fetch_all(&mut tx, "read metrics of run", key).await?;
    let mut items = rows.into_iter().map(MetricRow::metric).collect::<Result<Vec<_>>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| {
        let (step, at, is_number, value) = rank(last);
        search::write_token(&(query, (step, at, is_number, value.to_bits())))
    });
    Ok(Page::new(items, next))
}
