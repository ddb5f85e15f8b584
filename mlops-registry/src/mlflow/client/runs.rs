//! `runs/…` and `metrics/…`

use std::collections::{BTreeMap, BTreeSet};

use mlops_core::{Clock as _, Error as CoreError, ExperimentId, Permission, Principal, Resource, RunId, SystemClock};
use serde_json::{Value, json};

use super::experiments::{in_use, search_call, view};
use super::http::Call;
use super::messages::{self, MetricMessage, RunMessage, experiment_id};
use super::query::Query;
use super::{MlflowClient, callers_only, unsupported};
use crate::mlflow::wire;
use crate::search::{Entity, Page, Search, check_limit, read_token, write_token};
use crate::{
    Error, LogBatch, LoggedModelId, Metric, NewRun, Result, Run, RunEdit, RunInput, RunModel, RunModelRole, RunStatus,
    check,
};

const WHAT: &str = "run";
/// Most bytes of a batch: MLflow takes 1,000,000, and some are around the lists.
const BATCH_BYTES: usize = 900_000;

fn wire_id(run: RunId) -> String {
    wire::hex(run.as_uuid())
}

/// Splits a batch by what MLflow takes at once. Params come first, so that one that is refused leaves nothing behind it.
fn split(batch: &LogBatch) -> Vec<Value> {
    let pair = |(key, value): (&String, &String)| json!({ "key": key, "value": value });
    let metric = |metric: &Metric| {
        let mut metric = metric.clone();
        if let Some(dataset) = &mut metric.dataset {
            dataset.digest = dataset.digest.chars().take(wire::DIGEST).collect();
        }
        wire::measured(&metric)
    };
    let kinds: [(&str, usize, Vec<Value>); 3] = [
        ("params", wire::PARAMS, batch.params.iter().map(pair).collect()),
        ("tags", wire::TAGS, batch.tags.iter().map(pair).collect()),
        ("metrics", wire::METRICS, batch.metrics.iter().map(metric).collect()),
    ];
    let mut calls = vec![BTreeMap::<&str, Vec<Value>>::new()];
    let (mut bytes, mut count) = (0, 0);
    for (kind, most, items) in kinds {
        for item in items {
            let size = item.to_string().len() + 1;
            let full = calls.last().and_then(|call| call.get(kind)).map_or(0, Vec::len) == most;
            if full || count == wire::BATCH || count > 0 && bytes + size > BATCH_BYTES {
                calls.push(BTreeMap::new());
                (bytes, count) = (0, 0);
            }
            (bytes, count) = (bytes + size, count + 1);
            if let Some(call) = calls.last_mut() {
                call.entry(kind).or_default().push(item);
            }
        }
    }
    calls.into_iter().map(|call| json!(call)).collect()
}

impl MlflowClient {
    pub(super) async fn read_run(&self, id: RunId) -> Result<Run> {
        let (wire_id, name) = (wire_id(id), id.to_string());
        let call = Call::get("read", "runs/get", [("run_id", &*wire_id)]).about(WHAT, &name);
        let mut run = self.http().send::<messages::OneRun>(call).await?.run.read()?;
        run.info.experiment = self.read_experiment_by_id(run.info.experiment_id).await?.name;
        self.remember(id, &run.info.experiment);
        Ok(run)
    }

    /// A run that takes changes, by somebody who may make them.
    async fn open_run(&self, who: &Principal, id: RunId) -> Result<Run> {
        let run = self.read_run(id).await?;
        self.allow(who, Permission::Track, Resource::experiment(&run.info.experiment))?;
        in_use(WHAT, id, run.info.stage)?;
        Ok(run)
    }

    async fn tell_run(
        &self,
        who: &Principal,
        run: RunId,
        operation: &'static str,
        path: &str,
        mut body: Value,
    ) -> Result<()> {
        body["run_id"] = wire_id(run).into();
        let name = run.to_string();
        self.http().tell(Call::post(operation, path, body).about(WHAT, &name).by(who)).await
    }

    pub(super) async fn insert_run(&self, who: &Principal, new: NewRun) -> Result<Run> {
        check::name("experiment name", &new.experiment)?;
        check::text("run name", &new.name, check::NAME)?;
        check::tags(&new.tags)?;
        callers_only(new.tags.keys())?;
        self.allow(who, Permission::Track, Resource::experiment(&new.experiment))?;
        if new.id.is_some() {
            let remedy = "leave the id out, keep the one that the answer has, and find the run again by a tag";
            return Err(unsupported("start a run under an id that is given", remedy));
        }
        let experiment = self.read_experiment(&new.experiment).await?;
        in_use("experiment", &new.experiment, experiment.stage)?;
        let mut tags = new.tags;
        if let Some(parent) = new.parent {
            let found = self.read_run(parent).await?;
            if found.info.experiment_id != experiment.id {
                let reason = format!("{parent} is of experiment {:?}, not of this one", found.info.experiment);
                return Err(CoreError::invalid("parent run", reason).into());
            }
            tags.insert(wire::PARENT_TAG.to_owned(), wire_id(parent));
        }
        tags.insert(wire::USER_TAG.to_owned(), who.name.clone());
        let started = new.started_at.unwrap_or_else(|| SystemClock.now());
        let mut body = json!({
            "experiment_id": experiment_id(experiment.id),
            "user_id": who.name,
            "start_time": wire::millis(started),
            "tags": wire::pairs(&tags),
        });
        if !new.name.is_empty() {
            body["run_name"] = new.name.into();
        }
        let call = Call::post("start", "runs/create", body).about("run of", &experiment.name).by(who).once();
        let mut run = self.http().send::<messages::OneRun>(call).await?.run.read()?;
        run.info.experiment = experiment.name;
        self.remember(run.id(), &run.info.experiment);
        Ok(run)
    }

    pub(super) async fn write_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
        check::batch(&batch)?;
        callers_only(batch.tags.keys())?;
        self.may_log(who, run).await?;
        // The server would take one that is not there for a failure of its own.
        let models: BTreeSet<LoggedModelId> = batch.metrics.iter().filter_map(|metric| metric.model).collect();
        for model in models {
            self.read_logged(model).await?;
        }
        for body in split(&batch) {
            // Equal points, params and tags again change nothing.
            match self.tell_run(who, run, "log to", "runs/log-batch", body).await {
                Err(Error::Core(CoreError::InvalidInput { what, reason })) if !batch.params.is_empty() => {
                    let there = self.read_run(run).await?.params;
                    let differs = |(key, new): (&String, &String)| {
                        there.get(key).filter(|old| *old != new).map(|old| (key.clone(), old.clone(), new.clone()))
                    };
                    return Err(match batch.params.iter().find_map(differs) {
                        Some((key, old, new)) => Error::ParamChanged { of: run.into(), key, old, new },
                        None => CoreError::InvalidInput { what, reason }.into(),
                    });
                }
                other => other?,
            }
        }
        Ok(())
    }

    pub(super) async fn write_inputs(&self, who: &Principal, run: RunId, inputs: Vec<RunInput>) -> Result<()> {
        check::inputs(&inputs)?;
        inputs.iter().try_for_each(|input| callers_only(input.tags.keys()))?;
        let mut known = self.open_run(who, run).await?.inputs;
        let mut messages = Vec::new();
        for input in inputs {
            let same = |old: &&RunInput| (&old.name, &old.digest) == (&input.name, &input.digest);
            match known.iter().find(same) {
                Some(old) if old.context == input.context => continue,
                Some(old) => {
                    let (name, old, new) = (&input.name, &old.context, &input.context);
                    let operation = format!("say that a run reads {name} for {new:?} too: it reads it for {old:?}");
                    return Err(unsupported(operation, "log one context that names both, or a run for each"));
                }
                None => {}
            }
            let mut short = input.clone();
            if input.digest.chars().count() > wire::DIGEST {
                short.digest = input.digest.chars().take(wire::DIGEST).collect();
                short.tags.insert(wire::DIGEST_TAG.to_owned(), input.digest.clone());
            }
            if short.source.is_empty() {
                // The server takes none for an error.
                short.source = short.name.clone();
            }
            messages.push(wire::input(&short));
            known.push(input);
        }
        if messages.is_empty() {
            return Ok(());
        }
        let body = json!({ "datasets": messages });
        self.tell_run(who, run, "log an input of", "runs/log-inputs", body).await
    }

    pub(super) async fn write_models(&self, who: &Principal, run: RunId, models: Vec<RunModel>) -> Result<()> {
        check::count("models", models.len(), check::BATCH.1)?;
        let mut known = self.open_run(who, run).await?.models;
        let (mut read, mut made) = (Vec::new(), Vec::new());
        for one in models {
            if known.iter().any(|old| (old.model, old.role) == (one.model, one.role)) {
                continue;
            }
            self.read_logged(one.model).await?;
            let id = one.model.to_string();
            match one.role {
                RunModelRole::Input => read.push(json!({ "model_id": id })),
                RunModelRole::Output => made.push(json!({ "model_id": id, "step": one.step })),
            }
            known.push(one);
        }
        if !read.is_empty() {
            let body = json!({ "models": read });
            self.tell_run(who, run, "log an input of", "runs/log-inputs", body).await?;
        }
        if !made.is_empty() {
            let body = json!({ "run_id": wire_id(run), "models": made });
            let name = run.to_string();
            // The server takes a second time for an error.
            let call = Call::post("log an output of", "runs/outputs", body).about(WHAT, &name).by(who).once();
            self.http().tell(call).await?;
        }
        Ok(())
    }

    pub(super) async fn end_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
        if !status.is_terminal() {
            let reason = format!("{status} does not end a run; use FINISHED, FAILED or KILLED");
            return Err(CoreError::invalid("status", reason).into());
        }
        let found = self.open_run(who, run).await?;
        let before = found.info.status;
        if before == status {
            return Ok(found);
        }
        if before.is_terminal() {
            let (expected, found) = ("a run under way".to_owned(), before.to_string());
            return Err(CoreError::Conflict { what: WHAT, name: run.to_string(), expected, found }.into());
        }
        self.change_run(who, run, RunEdit::new().status(status)).await
    }

    pub(super) async fn change_run(&self, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run> {
        if let Some(name) = &edit.name {
            check::text("run name", name, check::NAME)?;
        }
        callers_only(&edit.remove_tags)?;
        let found = self.open_run(who, run).await?;
        let mut body = json!({});
        if let Some(name) = edit.name.as_deref().filter(|name| *name != found.info.name) {
            if name.is_empty() {
                return Err(unsupported("take the name of a run away", "give it another one"));
            }
            body["run_name"] = name.into();
        }
        if let Some(status) = edit.status {
            body["status"] = status.as_str().into();
        }
        if edit.status.unwrap_or(found.info.status).is_terminal() {
            let now = || found.info.ended_at.is_none().then(|| SystemClock.now());
            if let Some(at) = edit.ended_at.or_else(now) {
                body["end_time"] = wire::millis(at).into();
            }
        }
        for key in edit.remove_tags.iter().filter(|key| found.tags.contains_key(*key)) {
            match self.tell_run(who, run, "tag", "runs/delete-tag", json!({ "key": key })).await {
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
        if body != json!({}) {
            self.tell_run(who, run, "change", "runs/update", body).await?;
        }
        self.read_run(run).await
    }

    pub(super) async fn stage_run(&self, who: &Principal, run: RunId, deleted: bool) -> Result<Run> {
        self.may_log(who, run).await?;
        let (operation, path) = if deleted { ("delete", "runs/delete") } else { ("restore", "runs/restore") };
        self.tell_run(who, run, operation, path, json!({})).await?;
        self.read_run(run).await
    }

    pub(super) async fn find_runs(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<Run>> {
        let query = Query::new(Entity::Runs, &search, &experiments)?;
        let mut names = BTreeMap::new();
        for id in experiments {
            match self.read_experiment_by_id(*id).await {
                Ok(found) => drop(names.insert(*id, found.name)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if names.is_empty() {
            return Ok(Page::new(Vec::new(), None));
        }
        let ids: Vec<String> = names.keys().map(|id| experiment_id(*id)).collect();
        let body = json!({
            "experiment_ids": ids, "filter": query.filter, "order_by": query.order_by()?,
            "run_view_type": view(search.view),
        });
        let call =
            |limit, token: Option<&str>| search_call("runs/search", "search of runs", body.clone(), limit, token);
        let Page { items, next } = self.pages::<messages::Runs, _>(&query, call).await?;
        let read = |message: RunMessage| {
            let mut run = message.read()?;
            run.info.experiment = names.get(&run.info.experiment_id).cloned().unwrap_or_default();
            Ok(run)
        };
        Ok(Page::new(items.into_iter().map(read).collect::<Result<_>>()?, next))
    }

    async fn history(
        &self,
        run: RunId,
        key: &str,
        limit: usize,
        token: Option<&str>,
    ) -> Result<(Vec<Metric>, Option<String>)> {
        let (wire_id, name, limit) = (wire_id(run), run.to_string(), limit.to_string());
        let mut fields = vec![("run_id", &*wire_id), ("metric_key", key), ("max_results", &limit)];
        fields.extend(token.map(|token| ("page_token", token)));
        let call = Call::get("read a metric of", "metrics/get-history", fields).about(WHAT, &name);
        let (items, next): (Vec<MetricMessage>, _) = self.http().send::<messages::History>(call).await?.into();
        Ok((items.into_iter().map(MetricMessage::read).collect::<Result<_>>()?, next))
    }

    pub(super) async fn whole_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>> {
        if key.is_empty() {
            return self.read_run(run).await.map(|_| Vec::new());
        }
        let (mut all, mut token) = (Vec::new(), None::<String>);
        loop {
            let (more, next) = self.history(run, key, wire::HISTORY, token.as_deref()).await?;
            all.extend(more);
            token = next;
            if token.is_none() {
                break;
            }
        }
        // The server's goes by time before step.
        let rank = |m: &Metric| (m.step, m.at, !m.value.is_nan());
        let values = |a: &Metric, b: &Metric| a.value.partial_cmp(&b.value).unwrap_or(std::cmp::Ordering::Equal);
        all.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| values(a, b)));
        Ok(all)
    }

    pub(super) async fn history_page(
        &self,
        run: RunId,
        key: &str,
        limit: usize,
        page_token: Option<&str>,
    ) -> Result<Page<Metric>> {
        check_limit(limit)?;
        let from: Option<(RunId, String, String)> = page_token.map(read_token).transpose()?;
        if from.as_ref().is_some_and(|(of, metric, _)| (of, metric.as_str()) != (&run, key)) {
            return Err(CoreError::invalid("page token", "it belongs to another metric").into());
        }
        let token = from.as_ref().map(|(.., token)| token.as_str());
        let (items, next) = self.history(run, key, limit.min(wire::HISTORY), token).await?;
        Ok(Page::new(items, next.map(|token| write_token(&(run, key, token)))))
    }
}

#[cfg(test)]
mod tests {
    use mlops_core::clock::from_micros;

    use super::*;

    #[test]
    fn batches_are_split_by_mlflows_limits_params_first() {
        let mut batch = LogBatch::new();
        for i in 0..150 {
            batch = batch.param(format!("p{i}"), i).tag(format!("t{i}"), "x");
        }
        for i in 0..2_500 {
            batch = batch.metric("m", i as f64, i, from_micros(0));
        }
        let calls = split(&batch);
        let count = |call: &Value, kind: &str| call[kind].as_array().map_or(0, Vec::len);
        let shape: Vec<[usize; 3]> = calls.iter().map(|c| ["params", "tags", "metrics"].map(|k| count(c, k))).collect();
        assert_eq!(shape, [[100, 0, 0], [50, 100, 0], [0, 50, 950], [0, 0, 1_000], [0, 0, 550]]);
        let long = (0..100).fold(LogBatch::new(), |b, i| b.param(format!("p{i}"), "é".repeat(30_000)));
        assert!(split(&long).iter().all(|call| call.to_string().len() < 1_000_000));
        assert_eq!(split(&LogBatch::new()), [json!({})]);
    }
}
