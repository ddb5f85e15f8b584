//! `runs/…` and `metrics/…`

use std::collections::BTreeMap;

use mlops_core::{Clock as _, ExperimentId, Principal, Resource, RunId, SystemClock};
use serde_json::{Value, json};

use super::Server;
use super::args::Args;
use super::experiments::{location, search, view, wire_id, with_token};
use super::failure::{Answer, Failure};
use crate::mlflow::wire::{self, BATCH, METRICS, NAME_TAG, PARAMS, PARENT_TAG, TAGS, USER_TAG, pairs};
use crate::{
    LifecycleStage, LogBatch, LoggedModelId, Metric, MetricDataset, NewRun, Run, RunEdit, RunInput, RunModel,
    RunModelRole, RunStatus,
};

pub(super) fn run_id(text: &str) -> Answer<RunId> {
    text.parse().map_err(|_| Failure::missing(format!("Run with id={text} not found")))
}

fn read_metric(args: &Args) -> Answer<Metric> {
    let at = args
        .opt_time("timestamp")?
        .ok_or_else(|| Failure::invalid("Missing value for required parameter 'timestamp'."))?;
    let mut metric = Metric::new(args.text("key")?, args.number("value")?, args.opt_integer("step")?.unwrap_or(0), at);
    metric.model = args.opt_text("model_id")?.filter(|id| !id.is_empty()).map(str::parse).transpose()?;
    let name = args.opt_text("dataset_name")?.filter(|name| !name.is_empty());
    if let (Some(name), Some(digest)) = (name, args.opt_text("dataset_digest")?) {
        metric = metric.on(MetricDataset::new(name, digest));
    }
    Ok(metric)
}

fn status(text: &str) -> Answer<RunStatus> {
    RunStatus::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
        Failure::invalid(format!("Invalid value {text:?} for parameter 'status' supplied: no such status of a run"))
    })
}

fn input(args: &Args) -> Answer<RunInput> {
    let dataset =
        args.object("dataset")?.ok_or_else(|| Failure::invalid("Missing value for required parameter 'dataset'."))?;
    let mut input = wire::read_input_tags(args.pairs("tags")?, dataset.text("digest")?);
    input.name = dataset.text("name")?.to_owned();
    input.source_type = dataset.opt_text("source_type")?.unwrap_or_default().to_owned();
    input.source = dataset.opt_text("source")?.unwrap_or_default().to_owned();
    input.schema = dataset.opt_text("schema")?.map(str::to_owned);
    input.profile = dataset.opt_text("profile")?.map(str::to_owned);
    Ok(input)
}

impl Server {
    /// The experiments that a search is in, those that exist: one that does not has nothing in it.
    pub(super) async fn experiments(&self, who: &Principal, args: &Args) -> Answer<Vec<ExperimentId>> {
        let mut found = Vec::new();
        for id in args.texts("experiment_ids")? {
            match self.experiment(who, &id).await {
                Ok(experiment) => found.push(experiment.id),
                Err(failure) if failure.code == wire::Code::ResourceDoesNotExist => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    /// The run, if the caller may look at it.
    async fn run(&self, who: &Principal, args: &Args) -> Answer<Run> {
        self.run_of(who, args.text_or("run_id", "run_uuid")?).await
    }

    pub(super) async fn run_of(&self, who: &Principal, id: &str) -> Answer<Run> {
        let run = self.tracking.run(run_id(id)?).await.map_err(|error| match error.is_not_found() {
            true => Failure::missing(format!("Run with id={id} not found")),
            false => Failure::from(error),
        })?;
        self.may_read(who, Resource::experiment(&run.info.experiment))?;
        Ok(run)
    }

    /// A run that is not deleted: only those take more.
    async fn open_run(&self, who: &Principal, args: &Args) -> Answer<RunId> {
        let run = self.run(who, args).await?;
        match run.info.stage {
            LifecycleStage::Active => Ok(run.id()),
            LifecycleStage::Deleted => Err(Failure::invalid(format!(
                "The run {} must be in the 'active' state. Current state is deleted.",
                wire::hex(run.id().as_uuid())
            ))),
        }
    }

    /// Where the artifacts of a run are.
    pub(super) async fn run_uri(&self, run: &Run) -> Answer<String> {
        let at = location(&self.tracking.experiment_by_id(run.info.experiment_id).await?);
        Ok(format!("{}/{}/artifacts", at.trim_end_matches('/'), wire::hex(run.id().as_uuid())))
    }

    async fn info(&self, run: &Run) -> Answer {
        let id = wire::hex(run.id().as_uuid());
        let mut info = json!({
            "run_id": id,
            "run_uuid": id,
            "run_name": run.info.name,
            "experiment_id": wire_id(&run.info.experiment, run.info.experiment_id),
            "user_id": run.info.author,
            "status": run.info.status.as_str(),
            "start_time": wire::millis(run.info.started_at),
            "artifact_uri": self.run_uri(run).await?,
            "lifecycle_stage": run.info.stage.as_str(),
        });
        if let Some(at) = run.info.ended_at {
            info["end_time"] = wire::millis(at).into();
        }
        Ok(info)
    }

    pub(super) async fn run_message(&self, run: &Run) -> Answer {
        let used = |role: RunModelRole, full: bool| -> Vec<Value> {
            let of = run.models.iter().filter(|model| model.role == role);
            of.map(|model| match full {
                true => json!({ "model_id": model.model.to_string(), "step": model.step }),
                false => json!({ "model_id": model.model.to_string() }),
            })
            .collect()
        };
        let mut all = run.tags.clone();
        // What a client of MLflow looks for is there also on runs that were not made by one.
        if !run.info.name.is_empty() {
            all.insert(NAME_TAG.to_owned(), run.info.name.clone());
        }
        all.entry(USER_TAG.to_owned()).or_insert_with(|| run.info.author.clone());
        if let Some(parent) = run.info.parent {
            all.insert(PARENT_TAG.to_owned(), wire::hex(parent.as_uuid()));
        }
        Ok(json!({
            "info": self.info(run).await?,
            "data": {
                "metrics": run.metrics.values().map(wire::metric).collect::<Vec<_>>(),
                "params": pairs(&run.params),
                "tags": pairs(&all),
            },
            "inputs": {
                "dataset_inputs": run.inputs.iter().map(wire::input).collect::<Vec<_>>(),
                "model_inputs": used(RunModelRole::Input, false),
            },
            "outputs": { "model_outputs": used(RunModelRole::Output, true) },
        }))
    }

    pub(super) async fn create_run(&self, who: &Principal, args: Args) -> Answer {
        let experiment =
            self.experiment(who, args.opt_text("experiment_id")?.filter(|id| !id.is_empty()).unwrap_or("0")).await?;
        let mut all = args.pairs("tags")?;
        let id = RunId::new(SystemClock.now());
        let given = args.opt_text("run_name")?.unwrap_or_default().to_owned();
        let tagged = all.get(NAME_TAG).cloned().unwrap_or_default();
        if !given.is_empty() && !tagged.is_empty() && given != tagged {
            return Err(Failure::invalid(format!(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values \
                 (run_name='{given}', mlflow.runName='{tagged}')."
            )));
        }
        let name = [given, tagged].into_iter().find(|name| !name.is_empty());
        // The last digits are the random ones.
        let name = name.unwrap_or_else(|| format!("run-{}", &wire::hex(id.as_uuid())[24..]));
        all.insert(NAME_TAG.to_owned(), name.clone());
        let mut new = NewRun::new(&experiment.name).id(id).name(name);
        if let Some(parent) = all.get(PARENT_TAG).and_then(|parent| parent.parse::<RunId>().ok())
            && self.tracking.run(parent).await.is_ok_and(|run| run.info.experiment == experiment.name)
        {
            new = new.parent(parent);
        }
        new.tags = all;
        new.started_at = args.opt_time("start_time")?;
        let run = self.tracking.start_run(who, new).await?;
        Ok(json!({ "run": self.run_message(&run).await? }))
    }

    pub(super) async fn get_run(&self, who: &Principal, args: Args) -> Answer {
        let run = self.run(who, &args).await?;
        Ok(json!({ "run": self.run_message(&run).await? }))
    }

    pub(super) async fn update_run(&self, who: &Principal, args: Args) -> Answer {
        let id = self.open_run(who, &args).await?;
        let mut edit = RunEdit::new();
        let mut batch = LogBatch::new();
        if let Some(text) = args.opt_text("status")? {
            edit = edit.status(status(text)?);
        }
        edit.ended_at = args.opt_time("end_time")?;
        if let Some(name) = args.opt_text("run_name")?.filter(|name| !name.is_empty()) {
            edit = edit.rename(name);
            batch = batch.tag(NAME_TAG, name);
        }
        if !batch.tags.is_empty() {
            self.tracking.log_batch(who, id, batch).await?;
        }
        let run = self.tracking.edit_run(who, id, edit).await?;
        Ok(json!({ "run_info": self.info(&run).await? }))
    }

    pub(super) async fn delete_run(&self, who: &Principal, args: Args) -> Answer {
        let run = self.run(who, &args).await?;
        self.tracking.delete_run(who, run.id()).await?;
        Ok(json!({}))
    }

    pub(super) async fn restore_run(&self, who: &Principal, args: Args) -> Answer {
        let run = self.run(who, &args).await?;
        self.tracking.restore_run(who, run.id()).await?;
        Ok(json!({}))
    }

    async fn log(&self, who: &Principal, args: &Args, batch: LogBatch) -> Answer {
        let id = self.open_run(who, args).await?;
        if let Some(name) = batch.tags.get(NAME_TAG).filter(|name| !name.is_empty()) {
            self.tracking.edit_run(who, id, RunEdit::new().rename(name)).await?;
        }
        self.tracking.log_batch(who, id, batch).await?;
        Ok(json!({}))
    }

    pub(super) async fn log_parameter(&self, who: &Principal, args: Args) -> Answer {
        let batch = LogBatch::new().param(args.text("key")?, args.any_text("value")?);
        self.log(who, &args, batch).await
    }

    pub(super) async fn log_metric(&self, who: &Principal, args: Args) -> Answer {
        let mut batch = LogBatch::new();
        batch.metrics.push(read_metric(&args)?);
        self.log(who, &args, batch).await
    }

    pub(super) async fn log_batch(&self, who: &Principal, args: Args) -> Answer {
        let mut all = 0;
        for (field, most) in [("metrics", METRICS), ("params", PARAMS), ("tags", TAGS)] {
            let count = args.objects(field)?.len();
            all += count;
            if count > most {
                return Err(Failure::invalid(format!(
                    "A batch logging request can contain at most {most} {field}. Got {count} {field}. Please split up \
                     {field} across multiple requests and try again."
                )));
            }
        }
        if all > BATCH {
            return Err(Failure::invalid(format!(
                "A batch logging request can contain at most {BATCH} metrics, params and tags together. Got {all}."
            )));
        }
        let mut batch = LogBatch::new();
        for metric in args.objects("metrics")? {
            batch.metrics.push(read_metric(&metric)?);
        }
        let mut params = BTreeMap::new();
        for param in args.objects("params")? {
            let (key, value) = (param.text("key")?.to_owned(), param.opt_text("value")?.unwrap_or_default().to_owned());
            match params.insert(key.clone(), value.clone()) {
                Some(first) if first != value => {
                    return Err(Failure::invalid(format!("Duplicate parameter keys have been submitted: {key:?}.")));
                }
                _ => {}
            }
        }
        batch.params = params;
        batch.tags = args.pairs("tags")?;
        self.log(who, &args, batch).await
    }

    pub(super) async fn set_run_tag(&self, who: &Principal, args: Args) -> Answer {
        let batch = LogBatch::new().tag(args.text("key")?, args.any_text("value")?);
        self.log(who, &args, batch).await
    }

    pub(super) async fn delete_run_tag(&self, who: &Principal, args: Args) -> Answer {
        let id = self.open_run(who, &args).await?;
        let key = args.text("key")?;
        if !self.tracking.run(id).await?.tags.contains_key(key) {
            return Err(Failure::missing(format!(
                "No tag with name: {key} in run with id {}",
                wire::hex(id.as_uuid())
            )));
        }
        self.tracking.edit_run(who, id, RunEdit::new().remove_tag(key)).await?;
        Ok(json!({}))
    }

    pub(super) async fn log_inputs(&self, who: &Principal, args: Args) -> Answer {
        let id = self.open_run(who, &args).await?;
        let mut inputs = args.objects("datasets")?.iter().map(input).collect::<Answer<Vec<_>>>()?;
        // As MLflow has it, a run reads a dataset once, and what was said of it first holds.
        let known = self.tracking.run(id).await?.inputs;
        inputs.retain(|new| !known.iter().any(|old| (&old.name, &old.digest) == (&new.name, &new.digest)));
        if !inputs.is_empty() {
            self.tracking.log_inputs(who, id, inputs).await?;
        }
        self.log_models(who, id, &args, RunModelRole::Input).await
    }

    pub(super) async fn log_outputs(&self, who: &Principal, args: Args) -> Answer {
        let id = self.open_run(who, &args).await?;
        self.log_models(who, id, &args, RunModelRole::Output).await
    }

    async fn log_models(&self, who: &Principal, run: RunId, args: &Args, role: RunModelRole) -> Answer {
        let model = |args: &Args| -> Answer<RunModel> {
            let id: LoggedModelId = args.text("model_id")?.parse()?;
            Ok(match role {
                RunModelRole::Input => RunModel::input(id),
                _ => RunModel::output(id, args.opt_integer("step")?.unwrap_or(0)),
            })
        };
        let models = args.objects("models")?.iter().map(model).collect::<Answer<Vec<_>>>()?;
        if !models.is_empty() {
            self.tracking.log_models(who, run, models).await?;
        }
        Ok(json!({}))
    }

    /// What 2.x clients say of a model they put among the run's artifacts: a list under one tag, as MLflow keeps it.
    pub(super) async fn log_old_model(&self, who: &Principal, args: Args) -> Answer {
        const TAG: &str = "mlflow.log-model.history";
        let run = self.run(who, &args).await?;
        let text = args.text("model_json")?;
        let new: Value =
            serde_json::from_str(text).map_err(|e| Failure::invalid(format!("'model_json' is not JSON: {e}")))?;
        for field in ["artifact_path", "flavors", "run_id"] {
            if new.get(field).is_none() {
                return Err(Failure::invalid(format!("Missing mandatory fields in 'model_json': {field}")));
            }
        }
        let mut history: Vec<Value> =
            run.tags.get(TAG).and_then(|old| serde_json::from_str(old).ok()).unwrap_or_default();
        history.push(new);
        let batch = LogBatch::new().tag(TAG, Value::Array(history).to_string());
        self.log(who, &args, batch).await
    }

    pub(super) async fn search_runs(&self, who: &Principal, args: Args) -> Answer {
        let search = search(&args, 1_000, 50_000)?.view(view(&args, "run_view_type")?);
        let experiments = self.experiments(who, &args).await?;
        if experiments.is_empty() {
            return Ok(json!({}));
        }
        let page = self.tracking.search_runs(&experiments, search).await?;
        let mut runs = Vec::with_capacity(page.items.len());
        for run in &page.items {
            runs.push(self.run_message(run).await?);
        }
        Ok(with_token(json!({ "runs": runs }), page.next))
    }

    pub(super) async fn metric_history(&self, who: &Principal, args: Args) -> Answer {
        const PAGE: i64 = wire::HISTORY as i64;
        let run = self.run(who, &args).await?;
        let limit = args.opt_integer("max_results")?.unwrap_or(PAGE).clamp(1, PAGE);
        let token = args.opt_text("page_token")?.filter(|token| !token.is_empty());
        let page = self.tracking.metric_page(run.id(), args.text("metric_key")?, limit as usize, token).await?;
        Ok(with_token(json!({ "metrics": page.items.iter().map(wire::metric).collect::<Vec<_>>() }), page.next))
    }
}
