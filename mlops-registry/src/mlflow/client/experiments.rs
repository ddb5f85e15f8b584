//! `experiments/…`

use mlops_core::{Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::Call;
use super::messages::{self, AUTHOR, CREATED, experiment_id};
use super::query::Query;
use super::{MlflowClient, callers_only};
use crate::mlflow::wire;
use crate::search::{Entity, LifecycleStage, Page, Search, View};
use crate::{Experiment, ExperimentEdit, NewExperiment, Result, check};

const WHAT: &str = "experiment";

pub(super) fn view(view: View) -> &'static str {
    wire::VIEWS.into_iter().find(|(known, _)| *known == view).map_or("ACTIVE_ONLY", |(_, word)| word)
}

/// What is deleted takes no changes.
pub(super) fn in_use(what: &'static str, name: impl ToString, stage: LifecycleStage) -> Result<()> {
    match stage {
        LifecycleStage::Active => Ok(()),
        LifecycleStage::Deleted => {
            let (expected, found) = ("in use".to_owned(), "deleted".to_owned());
            Err(CoreError::Conflict { what, name: name.to_string(), expected, found }.into())
        }
    }
}

impl MlflowClient {
    /// The experiment, and the digest of what it was created with, if it was by this client.
    async fn named_experiment(&self, name: &str) -> Result<(Experiment, Option<String>)> {
        let call = Call::get("read", "experiments/get-by-name", [("experiment_name", name)]).about(WHAT, name);
        let message = self.http().send::<messages::OneExperiment>(call).await?.experiment;
        let created = message.tags.get(CREATED).cloned();
        Ok((message.read()?, created))
    }

    pub(super) async fn read_experiment(&self, name: &str) -> Result<Experiment> {
        Ok(self.named_experiment(name).await?.0)
    }

    pub(super) async fn read_experiment_by_id(&self, id: ExperimentId) -> Result<Experiment> {
        let (wire_id, name) = (experiment_id(id), id.to_string());
        let call = Call::get("read", "experiments/get", [("experiment_id", &*wire_id)]).about(WHAT, &name);
        match self.http().fault::<messages::OneExperiment>(&call).await {
            Ok(answer) => answer.experiment.read(),
            // A server of numbered experiments has none whose id is no number.
            Err(fault) if fault.is_invalid() && wire_id.len() == 32 => Err(CoreError::not_found(WHAT, id).into()),
            Err(fault) => Err(fault.error(&call, &self.http().base)),
        }
    }

    pub(super) async fn insert_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment> {
        check::name("experiment name", &new.name)?;
        check::tags(&new.tags)?;
        callers_only(new.tags.keys())?;
        if let Some(location) = &new.artifact_location {
            check::text("artifact location", location, check::VALUE)?;
        }
        self.allow(who, Permission::Track, Resource::experiment(&new.name))?;
        let created = Digest::of_json(&new)?.to_string();
        let mut tags = new.tags.clone();
        tags.insert(AUTHOR.to_owned(), who.name.clone());
        tags.insert(CREATED.to_owned(), created.clone());
        let mut body = json!({ "name": new.name, "tags": wire::pairs(&tags) });
        if let Some(location) = &new.artifact_location {
            body["artifact_location"] = location.as_str().into();
        }
        // Repeated, it finds itself.
        let call = Call::post("create", "experiments/create", body).about(WHAT, &new.name).by(who);
        match self.http().send::<messages::MadeExperiment>(call).await {
            Ok(made) => self.read_experiment_by_id(messages::read_experiment_id(&made.experiment_id)?).await,
            Err(crate::Error::Core(CoreError::AlreadyExists { .. })) => {
                let (there, as_created) = self.named_experiment(&new.name).await?;
                let what = if there.stage == LifecycleStage::Deleted { "deleted experiment" } else { WHAT };
                let same = match as_created {
                    Some(digest) => digest == created,
                    None => {
                        let elsewhere =
                            new.artifact_location.is_some() && new.artifact_location != there.artifact_location;
                        there.tags == new.tags && !elsewhere
                    }
                };
                if same && there.stage == LifecycleStage::Active {
                    Ok(there)
                } else {
                    Err(CoreError::AlreadyExists { what, name: new.name }.into())
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn tell_experiment(
        &self,
        who: &Principal,
        of: &Experiment,
        operation: &'static str,
        path: &str,
        mut body: Value,
    ) -> Result<()> {
        body["experiment_id"] = experiment_id(of.id).into();
        self.http().tell(Call::post(operation, path, body).about(WHAT, &of.name).by(who)).await
    }

    pub(super) async fn change_experiment(
        &self,
        who: &Principal,
        name: &str,
        edit: ExperimentEdit,
    ) -> Result<Experiment> {
        check::tags(&edit.set_tags)?;
        callers_only(edit.set_tags.keys().chain(&edit.remove_tags))?;
        self.allow(who, Permission::Track, Resource::experiment(name))?;
        let renamed = edit.name.as_deref().filter(|new| *new != name);
        if let Some(new) = renamed {
            check::name("experiment name", new)?;
            self.allow(who, Permission::Track, Resource::experiment(new))?;
        }
        let found = self.read_experiment(name).await?;
        in_use(WHAT, name, found.stage)?;
        if let Some(new) = renamed {
            // The server's word for a name that is taken is not one of its own.
            match self.read_experiment(new).await {
                Ok(_) => return Err(CoreError::AlreadyExists { what: WHAT, name: new.to_owned() }.into()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for (key, value) in edit.set_tags.iter().filter(|(key, value)| found.tags.get(*key) != Some(*value)) {
            let body = json!({ "key": key, "value": value });
            self.tell_experiment(who, &found, "tag", "experiments/set-experiment-tag", body).await?;
        }
        for key in edit.remove_tags.iter().filter(|key| found.tags.contains_key(*key)) {
            let body = json!({ "key": key });
            self.tell_experiment(who, &found, "tag", "experiments/delete-experiment-tag", body).await?;
        }
        if let Some(new) = renamed {
            let body = json!({ "new_name": new });
            self.tell_experiment(who, &found, "rename", "experiments/update", body).await?;
            self.runs().clear();
        }
        self.read_experiment_by_id(found.id).await
    }

    pub(super) async fn stage_experiment(
        &self,
        who: &Principal,
        name: &str,
        wanted: LifecycleStage,
    ) -> Result<Experiment> {
        self.allow(who, Permission::Track, Resource::experiment(name))?;
        let found = self.read_experiment(name).await?;
        if found.stage == wanted {
            return Ok(found);
        }
        let (operation, path) = match wanted {
            LifecycleStage::Deleted => ("delete", "experiments/delete"),
            LifecycleStage::Active => ("restore", "experiments/restore"),
        };
        self.tell_experiment(who, &found, operation, path, json!({})).await?;
        self.read_experiment_by_id(found.id).await
    }

    pub(super) async fn find_experiments(&self, search: Search) -> Result<Page<Experiment>> {
        let query = Query::new(Entity::Experiments, &search, &())?;
        let body = json!({ "filter": query.filter, "order_by": query.order_by()?, "view_type": view(search.view) });
        let call = |limit, token: Option<&str>| {
            search_call("experiments/search", "search of experiments", body.clone(), limit, token)
        };
        let Page { items, next } = self.pages::<messages::Experiments, _>(&query, call).await?;
        Ok(Page::new(items.into_iter().map(messages::ExperimentMessage::read).collect::<Result<_>>()?, next))
    }

    /// A page of as many things as were asked for, of as many calls as that takes: `call` makes each, of at most so many
    /// things, from a token on.
    pub(super) async fn pages<A, T>(
        &self,
        query: &Query,
        call: impl Fn(usize, Option<&str>) -> Call<'static> + Send + Sync,
    ) -> Result<Page<T>>
    where
        A: DeserializeOwned + Into<(Vec<T>, Option<String>)>,
        T: Send,
    {
        let (mut items, mut token) = (Vec::new(), query.from.clone());
        loop {
            let limit = self.0.page_size.min(query.limit - items.len());
            let (more, next): (Vec<T>, _) = self.http().send::<A>(call(limit, token.as_deref())).await?.into();
            // A server that sends too much would make the next page begin at the wrong place.
            if more.len() > limit {
                return Err(messages::odd("a search", format!("{} things, asked for {limit}", more.len())));
            }
            items.extend(more);
            token = next;
            if token.is_none() || items.len() >= query.limit {
                return Ok(Page::new(items, token.map(|token| query.token(token))));
            }
        }
    }
}

/// A search of tracked things: its fields are in the body.
pub(super) fn search_call(
    path: &str,
    what: &'static str,
    mut body: Value,
    limit: usize,
    token: Option<&str>,
) -> Call<'static> {
    body["max_results"] = limit.into();
    if let Some(token) = token {
        body["page_token"] = token.into();
    }
    Call::post("search", path, body).about(what, "")
}
