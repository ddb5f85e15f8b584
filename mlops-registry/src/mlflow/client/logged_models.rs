//! `logged-models/…`

use mlops_core::{Error as CoreError, ExperimentId, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::experiments::{in_use, search_call};
use super::http::Call;
use super::messages::{self, AUTHOR, Logged, experiment_id};
use super::query::Query;
use super::{MlflowClient, callers_only, encoded, unsupported};
use crate::mlflow::wire;
use crate::search::{DatasetFilter, Entity, LifecycleStage, Page, Search, View};
use crate::{Error, LoggedModel, LoggedModelEdit, LoggedModelId, LoggedModelStatus, NewLoggedModel, Result, check};

const WHAT: &str = "logged model";

impl MlflowClient {
    pub(super) async fn read_logged(&self, id: LoggedModelId) -> Result<Logged> {
        let name = id.to_string();
        let call = Call::get("read", &format!("logged-models/{name}"), []).about(WHAT, &name);
        self.http().send::<messages::OneLogged>(call).await?.model.read()
    }

    /// A logged model that is there, for somebody who may change it.
    async fn open_logged(&self, who: &Principal, id: LoggedModelId) -> Result<LoggedModel> {
        let model = self.read_logged(id).await?.model;
        let experiment = self.read_experiment_by_id(model.experiment).await?.name;
        self.allow(who, Permission::Track, Resource::experiment(experiment))?;
        Ok(model)
    }

    pub(super) async fn insert_logged(&self, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel> {
        check::name("logged model name", &new.name)?;
        check::text("model type", new.model_type.as_deref().unwrap_or_default(), check::NAME)?;
        check::params(&new.params)?;
        check::tags(&new.tags)?;
        callers_only(new.tags.keys())?;
        let experiment = self.read_experiment_by_id(new.experiment).await?;
        self.allow(who, Permission::Track, Resource::experiment(&experiment.name))?;
        if new.id.is_some() {
            let remedy = "leave the id out, keep the one that the answer has, and find the model again by a tag";
            return Err(unsupported("create a logged model under an id that is given", remedy));
        }
        in_use("experiment", &experiment.name, experiment.stage)?;
        Ok(self.make_logged(who, new).await?.model)
    }

    /// Creates a logged model, this client's own tags included.
    pub(super) async fn make_logged(&self, who: &Principal, new: NewLoggedModel) -> Result<Logged> {
        let mut tags = new.tags;
        tags.insert(AUTHOR.to_owned(), who.name.clone());
        let mut body = json!({
            "experiment_id": experiment_id(new.experiment),
            "name": new.name,
            "params": wire::pairs(&new.params),
            "tags": wire::pairs(&tags),
        });
        if let Some(kind) = &new.model_type {
            body["model_type"] = kind.as_str().into();
        }
        if let Some(run) = new.source_run {
            body["source_run_id"] = wire::hex(run.as_uuid()).into();
        }
        let call = Call::post("create", "logged-models", body).about(WHAT, &new.name).by(who).once();
        self.http().send::<messages::OneLogged>(call).await?.model.read()
    }

    /// Says whether its files are there, without asking who says so.
    pub(super) async fn settle_logged(
        &self,
        who: &Principal,
        model: LoggedModelId,
        status: LoggedModelStatus,
    ) -> Result<()> {
        let name = model.to_string();
        let body = json!({ "model_id": name, "status": status.as_str() });
        self.http().tell(Call::patch("finish", &format!("logged-models/{name}"), body).about(WHAT, &name).by(who)).await
    }

    pub(super) async fn end_logged(
        &self,
        who: &Principal,
        model: LoggedModelId,
        status: LoggedModelStatus,
    ) -> Result<LoggedModel> {
        if status == LoggedModelStatus::Pending {
            return Err(CoreError::invalid("status", "PENDING is no end; use READY or UPLOAD_FAILED").into());
        }
        let found = self.open_logged(who, model).await?;
        if found.status == status {
            return Ok(found);
        }
        self.settle_logged(who, model, status).await?;
        Ok(self.read_logged(model).await?.model)
    }

    pub(super) async fn change_logged(
        &self,
        who: &Principal,
        model: LoggedModelId,
        edit: LoggedModelEdit,
    ) -> Result<LoggedModel> {
        check::tags(&edit.set_tags)?;
        check::params(&edit.params)?;
        callers_only(edit.set_tags.keys().chain(&edit.remove_tags))?;
        let found = self.open_logged(who, model).await?;
        let mut params = edit.params;
        for (key, new) in &params {
            if let Some(old) = found.params.get(key).filter(|old| *old != new) {
                let (key, old, new) = (key.clone(), old.clone(), new.clone());
                return Err(Error::ParamChanged { of: model.into(), key, old, new });
            }
        }
        params.retain(|key, _| !found.params.contains_key(key));
        let name = model.to_string();
        let path = format!("logged-models/{name}");
        if !params.is_empty() {
            let body = json!({ "model_id": name, "params": wire::pairs(&params) });
            // The server takes a second time for an error.
            let call = Call::post("log to", &format!("{path}/params"), body).about(WHAT, &name).by(who).once();
            self.http().tell(call).await?;
        }
        let mut tags = edit.set_tags;
        tags.retain(|key, value| found.tags.get(key) != Some(value));
        if !tags.is_empty() {
            let body = json!({ "model_id": name, "tags": wire::pairs(&tags) });
            self.http().tell(Call::patch("tag", &format!("{path}/tags"), body).about(WHAT, &name).by(who)).await?;
        }
        for key in edit.remove_tags.iter().filter(|key| found.tags.contains_key(*key)) {
            let call = Call::delete("tag", &format!("{path}/tags/{}", encoded(key)), json!({}));
            self.http().tell(call.about(WHAT, &name).by(who)).await?;
        }
        Ok(self.read_logged(model).await?.model)
    }

    pub(super) async fn remove_logged(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel> {
        let mut found = self.open_logged(who, model).await?;
        let name = model.to_string();
        let call = Call::delete("delete", &format!("logged-models/{name}"), json!({}));
        self.http().tell(call.about(WHAT, &name).by(who)).await?;
        found.stage = LifecycleStage::Deleted;
        Ok(found)
    }

    pub(super) async fn find_logged(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<LoggedModel>> {
        let query = Query::new(Entity::LoggedModels, &search, &experiments)?;
        match search.view {
            View::Active => {}
            View::Deleted | View::All => {
                return Err(unsupported("find deleted logged models", "search those in use: `View::Active`"));
            }
        }
        if experiments.is_empty() {
            return Ok(Page::new(Vec::new(), None));
        }
        let dataset = |filter: &DatasetFilter| match &filter.digest {
            Some(digest) => json!({ "dataset_name": filter.name, "dataset_digest": digest }),
            None => json!({ "dataset_name": filter.name }),
        };
        let ids: Vec<String> = experiments.iter().map(|id| experiment_id(*id)).collect();
        let datasets: Vec<Value> = search.datasets.iter().map(dataset).collect();
        let body = json!({
            "experiment_ids": ids, "filter": query.filter, "order_by": query.order_messages()?, "datasets": datasets,
        });
        let call = |limit, token: Option<&str>| {
            search_call("logged-models/search", "search of logged models", body.clone(), limit, token)
        };
        let Page { items, next } = self.pages::<messages::LoggedModels, _>(&query, call).await?;
        let read = |message: messages::LoggedMessage| Ok(message.read()?.model);
        Ok(Page::new(items.into_iter().map(read).collect::<Result<_>>()?, next))
    }
}
