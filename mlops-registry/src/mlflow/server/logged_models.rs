//! `logged-models/…`: what a run made, before and beside its registration.

use mlops_core::{Clock as _, Principal, Resource, SystemClock};
use serde_json::{Value, json};

use super::Server;
use super::args::Args;
use super::experiments::{location, search, wire_id, with_token};
use super::failure::{Answer, Failure};
use super::runs::run_id;
use crate::mlflow::wire::{self, pairs};
use crate::search::DatasetFilter;
use crate::{LifecycleStage, LoggedModel, LoggedModelEdit, LoggedModelId, LoggedModelStatus, NewLoggedModel};

impl Server {
    pub(super) async fn logged_model(&self, who: &Principal, id: &str) -> Answer<LoggedModel> {
        let missing = || Failure::missing(format!("Logged model with ID '{id}' not found."));
        let parsed: LoggedModelId = id.parse().map_err(|_| missing())?;
        let model = self.tracking.logged_model(parsed).await.map_err(|error| match error.is_not_found() {
            true => missing(),
            false => Failure::from(error),
        })?;
        let experiment = self.tracking.experiment_by_id(model.experiment).await?;
        self.may_read(who, Resource::experiment(&experiment.name))?;
        match model.stage {
            LifecycleStage::Active => Ok(model),
            LifecycleStage::Deleted => Err(missing()),
        }
    }

    pub(super) async fn model_uri(&self, model: &LoggedModel) -> Answer<String> {
        let at = location(&self.tracking.experiment_by_id(model.experiment).await?);
        Ok(format!("{}/models/{}/artifacts", at.trim_end_matches('/'), model.id))
    }

    async fn logged_message(&self, model: &LoggedModel) -> Answer {
        let experiment = self.tracking.experiment_by_id(model.experiment).await?;
        let id = wire_id(&experiment.name, experiment.id);
        let metric = |m: &crate::ModelMetric| {
            let mut one = wire::measured(&m.metric);
            one["model_id"] = model.id.to_string().into();
            one["run_id"] = wire::hex(m.run.as_uuid()).into();
            one
        };
        let mut info = json!({
            "model_id": model.id.to_string(),
            "experiment_id": id,
            "name": model.name,
            "creation_timestamp_ms": wire::millis(model.created_at),
            "last_updated_timestamp_ms": wire::millis(model.updated_at),
            "artifact_uri": self.model_uri(model).await?,
            "status": model.status.as_str(),
            "model_type": model.model_type,
            "tags": pairs(&model.tags),
        });
        if let Some(run) = model.source_run {
            info["source_run_id"] = wire::hex(run.as_uuid()).into();
        }
        Ok(json!({
            "info": info,
            "data": {
                "params": pairs(&model.params),
                "metrics": model.metrics.iter().map(metric).collect::<Vec<_>>(),
            },
        }))
    }

    async fn answer(&self, model: &LoggedModel) -> Answer {
        Ok(json!({ "model": self.logged_message(model).await? }))
    }

    pub(super) async fn create_logged_model(&self, who: &Principal, args: Args) -> Answer {
        let experiment = self.experiment(who, args.text("experiment_id")?).await?;
        let id = LoggedModelId::new(SystemClock.now());
        // The last digits are the random ones.
        let usual = format!("model-{}", &id.to_string()[26..]);
        let name = args.opt_text("name")?.filter(|name| !name.is_empty()).unwrap_or(&usual);
        let mut new = NewLoggedModel::new(experiment.id, name).id(id);
        new.model_type = args.opt_text("model_type")?.filter(|kind| !kind.is_empty()).map(str::to_owned);
        new.source_run = args.opt_text("source_run_id")?.filter(|id| !id.is_empty()).map(run_id).transpose()?;
        new.params = args.pairs("params")?;
        new.tags = args.pairs("tags")?;
        let model = self.tracking.create_logged_model(who, new).await?;
        self.answer(&model).await
    }

    pub(super) async fn get_logged_model(&self, who: &Principal, args: Args) -> Answer {
        let model = self.logged_model(who, args.text("model_id")?).await?;
        self.answer(&model).await
    }

    pub(super) async fn finish_logged_model(&self, who: &Principal, args: Args) -> Answer {
        let model = self.logged_model(who, args.text("model_id")?).await?;
        let wanted = args.text("status")?;
        let status = LoggedModelStatus::ALL.into_iter().find(|status| status.as_str() == wanted).ok_or_else(|| {
            Failure::invalid(format!(
                "Invalid model status: {wanted:?}. Expected LOGGED_MODEL_READY or LOGGED_MODEL_UPLOAD_FAILED."
            ))
        })?;
        let model = self.tracking.finish_logged_model(who, model.id, status).await?;
        self.answer(&model).await
    }

    pub(super) async fn delete_logged_model(&self, who: &Principal, args: Args) -> Answer {
        let model = self.logged_model(who, args.text("model_id")?).await?;
        self.tracking.delete_logged_model(who, model.id).await?;
        Ok(json!({}))
    }

    async fn edit_logged_model(&self, who: &Principal, args: &Args, edit: LoggedModelEdit) -> Answer<LoggedModel> {
        let model = self.logged_model(who, args.text("model_id")?).await?;
        Ok(self.tracking.edit_logged_model(who, model.id, edit).await?)
    }

    pub(super) async fn set_logged_model_tags(&self, who: &Principal, args: Args) -> Answer {
        let mut edit = LoggedModelEdit::new();
        edit.set_tags = args.pairs("tags")?;
        let model = self.edit_logged_model(who, &args, edit).await?;
        self.answer(&model).await
    }

    pub(super) async fn delete_logged_model_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = LoggedModelEdit::new().remove_tag(args.text("tag_key")?);
        self.edit_logged_model(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn log_model_params(&self, who: &Principal, args: Args) -> Answer {
        let mut edit = LoggedModelEdit::new();
        edit.params = args.pairs("params")?;
        self.edit_logged_model(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn search_logged_models(&self, who: &Principal, args: Args) -> Answer {
        let experiments = self.experiments(who, &args).await?;
        let mut search = search(&args.without("order_by"), 50, 1_000)?;
        let dataset = |args: &Args| -> Answer<Option<DatasetFilter>> {
            let Some(name) = args.opt_text("dataset_name")?.filter(|name| !name.is_empty()) else { return Ok(None) };
            let filter = DatasetFilter::named(name);
            Ok(Some(match args.opt_text("dataset_digest")?.filter(|digest| !digest.is_empty()) {
                Some(digest) => filter.digest(digest),
                None => filter,
            }))
        };
        for one in args.objects("datasets")? {
            if let Some(filter) = dataset(&one)? {
                search = search.dataset(filter);
            }
        }
        for order in args.objects("order_by")? {
            let ascending = order.opt_flag("ascending")?.unwrap_or(true);
            let key = format!("{} {}", order.text("field_name")?, if ascending { "ASC" } else { "DESC" });
            search = match dataset(&order)? {
                Some(filter) => search.order_by_on(key, filter),
                None => search.order_by(key),
            };
        }
        if experiments.is_empty() {
            return Ok(json!({}));
        }
        let page = self.tracking.search_logged_models(&experiments, search).await?;
        let mut models: Vec<Value> = Vec::with_capacity(page.items.len());
        for model in &page.items {
            models.push(self.logged_message(model).await?);
        }
        Ok(with_token(json!({ "models": models }), page.next))
    }
}
