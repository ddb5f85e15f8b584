use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use mlops_core::lineage::{Edge, Node, NodeRef};
use mlops_core::{DatasetRef, Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource, RunId};
use serde_json::{Value, json};

use super::db::{self, Arg, Backend as _, Conn, Lock};
use super::{SqlRegistry, audit, lineage};
use crate::tracking::{
    Experiment, LogBatch, Metric, NewExperiment, NewRun, Run, RunArtifact, RunInfo, RunInput, RunStatus, TrackingStore,
};
use crate::{Error, Result, check};

db::row! {
    struct ExperimentRow {
        name: String,
        id: String,
        tags: String,
        author: String,
        created_at: i64,
    }
}

impl ExperimentRow {
    fn experiment(self) -> Result<Experiment> {
        Ok(Experiment {
            id: db::from_text(&self.id)?,
            name: self.name,
            tags: db::from_json(&self.tags)?,
            author: self.author,
            created_at: db::time(self.created_at),
        })
    }
}

db::row! {
    struct RunRow {
        id: String,
        experiment: String,
        name: String,
        parent: Option<String>,
        status: String,
        author: String,
        started_at: i64,
        ended_at: Option<i64>,
        content: String,
    }
}

impl RunRow {
    fn info(self) -> Result<RunInfo> {
        Ok(RunInfo {
            id: db::from_text(&self.id)?,
            experiment: self.experiment,
            name: self.name,
            parent: self.parent.as_deref().map(db::from_text).transpose()?,
            status: db::from_word(&self.status)?,
            author: self.author,
            started_at: db::time(self.started_at),
            ended_at: self.ended_at.map(db::time),
        })
    }
}

type MetricRow = (String, i64, i64, i64, f64);

fn metric((key, step, at, is_nan, value): MetricRow) -> Metric {
    Metric { key, value: if is_nan == 0 { value } else { f64::NAN }, step, at: db::time(at) }
}

/// The order that decides which point is the latest.
fn rank(metric: &Metric) -> (i64, i64, bool, f64) {
    let number = !metric.value.is_nan();
    (metric.step, metric.at.timestamp_micros(), number, if number { metric.value } else { 0.0 })
}

async fn find_experiment(conn: &mut Conn, name: &str) -> Result<Option<Experiment>> {
    let row: Option<ExperimentRow> = db::query("SELECT * FROM experiments WHERE name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await
        .during("read experiment", name)?;
    row.map(ExperimentRow::experiment).transpose()
}

async fn find_run(conn: &mut Conn, id: RunId) -> Result<RunRow> {
    let id = id.to_string();
    let row: Option<RunRow> =
        db::query("SELECT * FROM runs WHERE id = $1").bind(&id).fetch_optional(conn).await.during("read run", &id)?;
    Ok(row.ok_or_else(|| CoreError::not_found("run", id))?)
}

/// Fills in what was logged to these runs: one query per table, however many runs.
async fn load(conn: &mut Conn, infos: Vec<RunInfo>) -> Result<Vec<Run>> {
    // `IN ()` is SQLite's alone.
    if infos.is_empty() {
        return Ok(Vec::new());
    }
    let blank = |info| Run {
        info,
        params: BTreeMap::new(),
        metrics: BTreeMap::new(),
        tags: BTreeMap::new(),
        inputs: Vec::new(),
        artifacts: Vec::new(),
    };
    let ids: Vec<String> = infos.iter().map(|i| i.id.to_string()).collect();
    let place: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    let mut runs: Vec<Run> = infos.into_iter().map(blank).collect();
    // Rows of a run that is not in the list cannot come back, so a missing place is skipped, not an error.
    let what = "read runs";
    let rows: Vec<(String, String, String)> =
        db::select_in(conn, "SELECT run_id, name, value FROM run_params WHERE run_id", &ids, "")
            .await
            .during(what, "params")?;
    for (id, name, value) in rows {
        place.get(id.as_str()).map(|&i| runs[i].params.insert(name, value));
    }
    let rows: Vec<(String, String, String)> =
        db::select_in(conn, "SELECT run_id, name, value FROM run_tags WHERE run_id", &ids, "")
            .await
            .during(what, "tags")?;
    for (id, name, value) in rows {
        place.get(id.as_str()).map(|&i| runs[i].tags.insert(name, value));
    }
    let rows: Vec<(String, String, i64, i64, i64, f64)> = db::select_in(
        conn,
        "SELECT run_id, name, step, logged_at, is_nan, value FROM run_latest_metrics WHERE run_id",
        &ids,
        "",
    )
    .await
    .during(what, "metrics")?;
    for (id, name, step, at, is_nan, value) in rows {
        place.get(id.as_str()).map(|&i| runs[i].metrics.insert(name.clone(), metric((name, step, at, is_nan, value))));
    }
    let rows: Vec<(String, String, String, String)> = db::select_in(
        conn,
        "SELECT run_id, dataset, digest, context FROM run_inputs WHERE run_id",
        &ids,
        "ORDER BY dataset, digest, context",
    )
    .await
    .during(what, "inputs")?;
    for (id, name, digest, context) in rows {
        if let Some(&i) = place.get(id.as_str()) {
            let dataset = DatasetRef { name, digest: db::from_text(&digest)? };
            runs[i].inputs.push(RunInput { dataset, context });
        }
    }
    let rows: Vec<(String, String, String, i64)> = db::select_in(
        conn,
        "SELECT run_id, path, digest, bytes FROM run_artifacts WHERE run_id",
        &ids,
        "ORDER BY path",
    )
    .await
    .during(what, "artifacts")?;
    for (id, path, digest, bytes) in rows {
        if let Some(&i) = place.get(id.as_str()) {
            runs[i].artifacts.push(RunArtifact { path, digest: db::from_text(&digest)?, bytes: db::number(bytes)? });
        }
    }
    Ok(runs)
}

async fn load_one(conn: &mut Conn, info: RunInfo) -> Result<Run> {
    let mut runs = load(conn, vec![info]).await?;
    Ok(runs.pop().expect("one run in, one run out"))
}

/// A value as the audit log keeps it: a long one by its digest.
fn brief(value: &str) -> Value {
    const MOST: usize = 1_000;
    match value.len() {
        0..=MOST => value.into(),
        bytes => json!({ "digest": Digest::of(value.as_bytes()), "bytes": bytes }),
    }
}

/// Gives those that were not there yet.
async fn put_params(
    conn: &mut Conn,
    run: RunId,
    params: &BTreeMap<String, String>,
) -> Result<serde_json::Map<String, Value>> {
    if params.is_empty() {
        return Ok(serde_json::Map::new());
    }
    let id = run.to_string();
    let rows: Vec<(String, String)> = db::query("SELECT name, value FROM run_params WHERE run_id = $1")
        .bind(&id)
        .fetch_all(&mut *conn)
        .await
        .during("log to run", &id)?;
    let known: HashMap<String, String> = rows.into_iter().collect();
    let mut fresh = Vec::new();
    for (key, new) in params {
        match known.get(key) {
            None => fresh.push((key, new)),
            Some(old) if old == new => {}
            Some(old) => {
                let shorten = |text: &str| text.chars().take(80).collect();
                return Err(Error::ParamChanged { run, key: key.clone(), old: shorten(old), new: shorten(new) });
            }
        }
    }
    let rows = fresh.iter().map(|(name, value)| [Arg::from(&id), Arg::from(*name), Arg::from(*value)]).collect();
    db::insert_all(conn, "INSERT INTO run_params (run_id, name, value)", rows, "").await.during("log to run", &id)?;
    Ok(fresh.into_iter().map(|(name, value)| (name.clone(), brief(value))).collect())
}

/// Gives those that changed: what they were, if they were there, and what they are.
async fn put_tags(
    conn: &mut Conn,
    run: &str,
    tags: &BTreeMap<String, String>,
) -> Result<(serde_json::Map<String, Value>, serde_json::Map<String, Value>)> {
    if tags.is_empty() {
        return Ok(Default::default());
    }
    let rows: Vec<(String, String)> = db::query("SELECT name, value FROM run_tags WHERE run_id = $1")
        .bind(run)
        .fetch_all(&mut *conn)
        .await
        .during("log to run", run)?;
    let known: HashMap<String, String> = rows.into_iter().collect();
    let tags: Vec<_> = tags.iter().filter(|(name, value)| known.get(*name) != Some(*value)).collect();
    let before = tags.iter().filter_map(|(name, _)| Some(((*name).clone(), brief(known.get(*name)?)))).collect();
    let after = tags.iter().map(|(name, value)| ((*name).clone(), brief(value))).collect();
    let rows = tags.iter().map(|(name, value)| [Arg::from(run), Arg::from(*name), Arg::from(*value)]).collect();
    let insert = "INSERT INTO run_tags (run_id, name, value)";
    let conflict = "ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value";
    db::insert_all(conn, insert, rows, conflict).await.during("log to run", run)?;
    Ok((before, after))
}

async fn put_metrics(conn: &mut Conn, run: &str, metrics: &[Metric]) -> Result<()> {
    let mut latest: BTreeMap<&str, &Metric> = BTreeMap::new();
    for metric in metrics {
        let best = latest.entry(&metric.key).or_insert(metric);
        if rank(metric) > rank(best) {
            *best = metric;
        }
    }
    fn row<'q>(run: &'q str, metric: &'q Metric) -> [Arg<'q>; 6] {
        let (step, at, is_number, value) = rank(metric);
        [run.into(), Arg::from(&metric.key), step.into(), at.into(), (!is_number).into(), value.into()]
    }
    db::insert_all(
        conn,
        "INSERT INTO run_metrics (run_id, name, step, logged_at, is_nan, value)",
        metrics.iter().map(|metric| row(run, metric)).collect(),
        "ON CONFLICT (run_id, name, step, logged_at, is_nan, value) DO NOTHING",
    )
    .await
    .during("log to run", run)?;
    db::insert_all(
        conn,
        "INSERT INTO run_latest_metrics (run_id, name, step, logged_at, is_nan, value)",
        latest.into_values().map(|metric| row(run, metric)).collect(),
        "ON CONFLICT (run_id, name) DO UPDATE SET \
           step = excluded.step, logged_at = excluded.logged_at, is_nan = excluded.is_nan, value = excluded.value \
         WHERE (excluded.step, excluded.logged_at, 1 - excluded.is_nan, excluded.value) \
             > (run_latest_metrics.step, run_latest_metrics.logged_at, \
                1 - run_latest_metrics.is_nan, run_latest_metrics.value)",
    )
    .await
    .during("log to run", run)
    .map_err(Into::into)
}

impl SqlRegistry {
    /// The run's row, if `who` may track to its experiment.
    async fn tracked(&self, conn: &mut Conn, who: &Principal, run: RunId) -> Result<RunRow> {
        let row = find_run(conn, run).await?;
        self.allow(who, Permission::Track, Resource::experiment(&row.experiment))?;
        Ok(row)
    }
}

#[async_trait]
impl TrackingStore for SqlRegistry {
    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment> {
        check::name("experiment name", &new.name)?;
        check::tags(&new.tags)?;
        self.allow(who, Permission::Track, Resource::experiment(&new.name))?;
        transaction!(self.write("create experiment", &new.name), |writing| {
            if let Some(found) = find_experiment(&mut writing.tx, &new.name).await? {
                if found.tags == new.tags {
                    return Ok(found);
                }
                return Err(CoreError::AlreadyExists { what: "experiment", name: new.name.clone() }.into());
            }
            let experiment = Experiment {
                id: ExperimentId::new(writing.at),
                name: new.name.clone(),
                tags: new.tags.clone(),
                author: who.name.clone(),
                created_at: writing.at,
            };
            db::query("INSERT INTO experiments (name, id, tags, author, created_at) VALUES ($1, $2, $3, $4, $5)")
                .bind(&experiment.name)
                .bind(experiment.id.to_string())
                .bind(db::json(&experiment.tags)?)
                .bind(&experiment.author)
                .bind(experiment.created_at.timestamp_micros())
                .execute(&mut writing.tx)
                .await
                .during("create experiment", &experiment.name)?;
            let event = writing.event(who, "experiment.create", format!("experiment {}", experiment.name));
            audit::append(&mut writing.tx, event.change(json!(null), json!({ "tags": experiment.tags }))).await?;
            Ok(experiment)
        })
    }

    async fn experiment(&self, name: &str) -> Result<Experiment> {
        let mut tx = self.read("read experiment", name).await?;
        let found = find_experiment(&mut tx, name).await?;
        Ok(found.ok_or_else(|| CoreError::not_found("experiment", name))?)
    }

    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run> {
        check::name("experiment name", &new.experiment)?;
        check::text("run name", &new.name, check::NAME)?;
        check::tags(&new.tags)?;
        self.allow(who, Permission::Track, Resource::experiment(&new.experiment))?;
        let content = Digest::of_json(&(&who.name, &new))?.to_string();
        transaction!(self.write("start run", &new.experiment), |writing| {
            let conn = &mut writing.tx;
            if let Some(id) = new.id {
                match find_run(conn, id).await {
                    Ok(row) if row.content == content => return load_one(conn, row.info()?).await,
                    Ok(_) => return Err(CoreError::AlreadyExists { what: "run", name: id.to_string() }.into()),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            if find_experiment(conn, &new.experiment).await?.is_none() {
                return Err(CoreError::not_found("experiment", &new.experiment).into());
            }
            if let Some(parent) = new.parent {
                find_run(conn, parent).await?;
            }
            let id = new.id.unwrap_or_else(|| RunId::new(writing.at));
            let text = id.to_string();
            db::query(
                "INSERT INTO runs (id, experiment, name, parent, status, author, started_at, content) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(&text)
            .bind(&new.experiment)
            .bind(&new.name)
            .bind(new.parent.map(|p| p.to_string()))
            .bind(RunStatus::Running.as_str())
            .bind(&who.name)
            .bind(writing.at.timestamp_micros())
            .bind(&content)
            .execute(&mut *conn)
            .await
            .during("start run", &text)?;
            put_tags(conn, &text, &new.tags).await?;
            let mut node = Node::new(NodeRef::run(id)).fact("experiment", &new.experiment).fact("author", &who.name);
            if !new.name.is_empty() {
                node = node.fact("name", &new.name);
            }
            lineage::record(conn, &[node], &[]).await?;
            let after =
                json!({ "experiment": new.experiment, "name": new.name, "parent": new.parent, "tags": new.tags });
            let event = writing.event(who, "run.start", format!("run {id}")).change(json!(null), after);
            audit::append(&mut writing.tx, event).await?;
            let info = find_run(&mut writing.tx, id).await?.info()?;
            let run = load_one(&mut writing.tx, info).await?;
            Ok(run)
        })
    }

    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
        check::batch(&batch)?;
        let id = run.to_string();
        let audited = !(batch.params.is_empty() && batch.tags.is_empty());
        let lock = if audited { Lock::AuditedRun } else { Lock::Run };
        transaction!(self.begin(lock, "log to run", &id), |writing| {
            self.tracked(&mut writing.tx, who, run).await?;
            let params = put_params(&mut writing.tx, run, &batch.params).await?;
            let (tags_before, tags) = put_tags(&mut writing.tx, &id, &batch.tags).await?;
            put_metrics(&mut writing.tx, &id, &batch.metrics).await?;
            if !(params.is_empty() && tags.is_empty()) {
                let change = (json!({ "tags": tags_before }), json!({ "params": params, "tags": tags }));
                let event = writing.event(who, "run.log", format!("run {run}")).change(change.0, change.1);
                audit::append(&mut writing.tx, event).await?;
            }
            Ok(())
        })
    }

    async fn log_artifact(&self, who: &Principal, run: RunId, path: &str, digest: Digest, bytes: u64) -> Result<()> {
        mlops_core::store::check_key(path)?;
        let bytes = i64::try_from(bytes).map_err(|e| CoreError::invalid("artifact size", e))?;
        let (id, digest) = (run.to_string(), digest.to_string());
        transaction!(self.write("log artifact of run", &id), |writing| {
            self.tracked(&mut writing.tx, who, run).await?;
            let known: Option<(String, i64)> =
                db::query("SELECT digest, bytes FROM run_artifacts WHERE run_id = $1 AND path = $2")
                    .bind(&id)
                    .bind(path)
                    .fetch_optional(&mut writing.tx)
                    .await
                    .during("log artifact of run", &id)?;
            if let Some(known) = known {
                if known == (digest.clone(), bytes) {
                    return Ok(());
                }
                return Err(CoreError::AlreadyExists { what: "artifact", name: format!("{path} of run {run}") }.into());
            }
            db::query("INSERT INTO run_artifacts (run_id, path, digest, bytes) VALUES ($1, $2, $3, $4)")
                .bind(&id)
                .bind(path)
                .bind(&digest)
                .bind(bytes)
                .execute(&mut writing.tx)
                .await
                .during("log artifact of run", &id)?;
            let after = json!({ "path": path, "digest": digest, "bytes": bytes });
            let event = writing.event(who, "run.artifact", format!("run {run}")).change(Value::Null, after);
            audit::append(&mut writing.tx, event).await?;
            Ok(())
        })
    }

    async fn log_input(&self, who: &Principal, run: RunId, dataset: DatasetRef, context: &str) -> Result<()> {
        check::name("dataset name", &dataset.name)?;
        check::text("context", context, check::NAME)?;
        let id = run.to_string();
        transaction!(self.write("log input of run", &id), |writing| {
            self.tracked(&mut writing.tx, who, run).await?;
            let added = db::query(
                "INSERT INTO run_inputs (run_id, dataset, digest, context) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (run_id, dataset, digest, context) DO NOTHING",
            )
            .bind(&id)
            .bind(&dataset.name)
            .bind(dataset.digest.to_string())
            .bind(context)
            .execute(&mut writing.tx)
            .await
            .during("log input of run", &id)?;
            if added == 1 {
                let after = json!({ "dataset": dataset.name, "digest": dataset.digest, "context": context });
                let event = writing.event(who, "run.input", format!("run {run}")).change(Value::Null, after);
                audit::append(&mut writing.tx, event).await?;
            }
            let edge = Edge::new(NodeRef::dataset(&dataset), NodeRef::run(run));
            lineage::record(&mut writing.tx, &[], &[edge]).await?;
            Ok(())
        })
    }

    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
        if !status.is_terminal() {
            let reason = format!("a run ends as FINISHED, FAILED or KILLED, not as {status}");
            return Err(CoreError::invalid("run status", reason).into());
        }
        let id = run.to_string();
        transaction!(self.write("finish run", &id), |writing| {
            let row = self.tracked(&mut writing.tx, who, run).await?;
            let mut info = row.info()?;
            if info.status == status {
                return load_one(&mut writing.tx, info).await;
            }
            if info.status.is_terminal() {
                let (expected, found) = (RunStatus::Running.to_string(), info.status.to_string());
                return Err(CoreError::Conflict { what: "run", name: id.clone(), expected, found }.into());
            }
            let before = info.status;
            (info.status, info.ended_at) = (status, Some(writing.at));
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
            let run = load_one(&mut writing.tx, info).await?;
            Ok(run)
        })
    }

    async fn run(&self, id: RunId) -> Result<Run> {
        let mut tx = self.read("read run", &id.to_string()).await?;
        let info = find_run(&mut tx, id).await?.info()?;
        load_one(&mut tx, info).await
    }

    async fn runs(&self, experiment: &str, limit: usize, after: Option<RunId>) -> Result<Vec<Run>> {
        let limit = check::page(limit)?;
        let mut tx = self.read("list runs of", experiment).await?;
        if find_experiment(&mut tx, experiment).await?.is_none() {
            return Err(CoreError::not_found("experiment", experiment).into());
        }
        // Above every start there is, so that without `after` all come.
        let (started, id) = match after {
            Some(after) => (find_run(&mut tx, after).await?.started_at, after.to_string()),
            None => (i64::MAX, String::new()),
        };
        let rows: Vec<RunRow> = db::query(
            "SELECT * FROM runs WHERE experiment = $1 AND (started_at, id) < ($2, $3) \
             ORDER BY started_at DESC, id DESC LIMIT $4",
        )
        .bind(experiment)
        .bind(started)
        .bind(id)
        .bind(limit)
        .fetch_all(&mut tx)
        .await
        .during("list runs of", experiment)?;
        let infos: Result<Vec<RunInfo>> = rows.into_iter().map(RunRow::info).collect();
        load(&mut tx, infos?).await
    }

    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>> {
        let id = run.to_string();
        let mut tx = self.read("read metrics of run", &id).await?;
        find_run(&mut tx, run).await?;
        let rows: Vec<MetricRow> = db::query(
            "SELECT name, step, logged_at, is_nan, value FROM run_metrics WHERE run_id = $1 AND name = $2 \
             ORDER BY step, logged_at, is_nan DESC, value",
        )
        .bind(&id)
        .bind(key)
        .fetch_all(&mut tx)
        .await
        .during("read metrics of run", &id)?;
        Ok(rows.into_iter().map(metric).collect())
    }
}
