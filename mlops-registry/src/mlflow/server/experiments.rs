//! `experiments/…`

use mlops_core::{Error as CoreError, ExperimentId, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::Server;
use super::args::Args;
use super::failure::{Answer, Failure};
use crate::mlflow::wire;
use crate::{Error, Experiment, ExperimentEdit, NewExperiment, Search, View};

/// What MLflow calls experiment `0`.
const DEFAULT: &str = "Default";

pub(super) fn wire_id(name: &str, id: ExperimentId) -> String {
    if name == DEFAULT { "0".to_owned() } else { wire::hex(id.as_uuid()) }
}

/// Where the artifacts of an experiment go: through this server, unless the experiment says otherwise.
pub(super) fn location(experiment: &Experiment) -> String {
    let here = || format!("{}/{}", wire::PROXIED, wire_id(&experiment.name, experiment.id));
    experiment.artifact_location.clone().unwrap_or_else(here)
}

fn message(experiment: &Experiment) -> Value {
    json!({
        "experiment_id": wire_id(&experiment.name, experiment.id),
        "name": experiment.name,
        "artifact_location": location(experiment),
        "lifecycle_stage": experiment.stage.as_str(),
        "creation_time": wire::millis(experiment.created_at),
        "last_update_time": wire::millis(experiment.updated_at),
        "tags": wire::pairs(&experiment.tags),
    })
}

/// `view_type` or `run_view_type`.
pub(super) fn view(args: &Args, field: &str) -> Answer<View> {
    let Some(given) = args.opt_text(field)?.filter(|given| !given.is_empty()) else { return Ok(View::Active) };
    let known = wire::VIEWS.into_iter().find(|(_, word)| *word == given);
    known.map(|(view, _)| view).ok_or_else(|| {
        Failure::invalid(format!(
            "Invalid value {given:?} for parameter '{field}' supplied: expected ACTIVE_ONLY, DELETED_ONLY or ALL"
        ))
    })
}

/// The search that a call asks for, with at most `most` results and `usual` where it does not say.
pub(super) fn search(args: &Args, usual: usize, most: usize) -> Answer<Search> {
    let limit = match args.opt_integer("max_results")? {
        None => usual,
        Some(limit) => usize::try_from(limit).ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| {
            Failure::invalid(format!(
                "Invalid value {limit} for parameter 'max_results' supplied: expected 1 to {most}"
            ))
        })?,
    };
    let mut search = Search::new(args.opt_text("filter")?.unwrap_or_default()).limit(limit.min(50_000));
    for order in args.texts("order_by")? {
        search = search.order_by(order);
    }
    if let Some(token) = args.opt_text("page_token")?.filter(|token| !token.is_empty()) {
        search = search.after(token);
    }
    Ok(search)
}

impl Server {
    /// The experiment that a client names by its id.
    pub(super) async fn experiment(&self, who: &Principal, id: &str) -> Answer<Experiment> {
        let found = if id == "0" {
            match self.tracking.experiment(DEFAULT).await {
                // It is there from the start in MLflow; here the first who may makes it, and to others it is missing.
                Err(missing) if missing.is_not_found() => {
                    match self.tracking.create_experiment(who, NewExperiment::new(DEFAULT)).await {
                        Err(Error::Core(CoreError::PermissionDenied { .. })) => {
                            self.may_read(who, Resource::experiment(DEFAULT))?;
                            Err(missing)
                        }
                        made => Ok(made?),
                    }
                }
                other => other,
            }
        } else {
            match id.parse::<ExperimentId>() {
                Ok(id) => self.tracking.experiment_by_id(id).await,
                Err(_) => Err(CoreError::not_found("experiment", id).into()),
            }
        };
        let found = found.map_err(|error| match error.is_not_found() {
            true => Failure::missing(format!("No Experiment with id={id} exists")),
            false => error.into(),
        })?;
        self.may_read(who, Resource::experiment(&found.name))?;
        Ok(found)
    }

    pub(super) async fn create_experiment(&self, who: &Principal, args: Args) -> Answer {
        let mut new = NewExperiment::new(args.text("name")?);
        new.tags = args.pairs("tags")?;
        new.artifact_location = args.opt_text("artifact_location")?.filter(|l| !l.is_empty()).map(str::to_owned);
        // In the registry, creating an equal one again changes nothing; MLflow's clients expect to be told.
        match self.tracking.experiment(&new.name).await {
            Ok(_) => {
                self.may(who, Permission::Track, Resource::experiment(&new.name))?;
                return Err(CoreError::AlreadyExists { what: "experiment", name: new.name }.into());
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let made = self.tracking.create_experiment(who, new).await?;
        Ok(json!({ "experiment_id": wire_id(&made.name, made.id) }))
    }

    pub(super) async fn get_experiment(&self, who: &Principal, args: Args) -> Answer {
        Ok(json!({ "experiment": message(&self.experiment(who, args.text("experiment_id")?).await?) }))
    }

    pub(super) async fn get_experiment_by_name(&self, who: &Principal, args: Args) -> Answer {
        let name = args.text("experiment_name")?;
        self.may_read(who, Resource::experiment(name))?;
        let found = if name == DEFAULT {
            self.experiment(who, "0").await?
        } else {
            self.tracking.experiment(name).await.map_err(|error| match error.is_not_found() {
                true => Failure::missing(format!("Could not find experiment with name '{name}'")),
                false => error.into(),
            })?
        };
        Ok(json!({ "experiment": message(&found) }))
    }

    pub(super) async fn search_experiments(&self, who: &Principal, args: Args) -> Answer {
        let search = search(&args, 1_000, 50_000)?.view(view(&args, "view_type")?);
        let page = self.tracking.search_experiments(search).await?;
        let seen = page.items.iter().filter(|e| self.sees(who, Resource::experiment(&e.name)));
        Ok(with_token(json!({ "experiments": seen.map(message).collect::<Vec<_>>() }), page.next))
    }

    async fn edit_experiment(&self, who: &Principal, args: &Args, edit: ExperimentEdit) -> Answer {
        let found = self.experiment(who, args.text("experiment_id")?).await?;
        self.tracking.edit_experiment(who, &found.name, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn update_experiment(&self, who: &Principal, args: Args) -> Answer {
        let edit = match args.opt_text("new_name")? {
            Some(name) => ExperimentEdit::new().rename(name),
            None => ExperimentEdit::new(),
        };
        self.edit_experiment(who, &args, edit).await
    }

    pub(super) async fn set_experiment_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = ExperimentEdit::new().set_tag(args.text("key")?, args.any_text("value")?);
        self.edit_experiment(who, &args, edit).await
    }

    pub(super) async fn delete_experiment_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = ExperimentEdit::new().remove_tag(args.text("key")?);
        self.edit_experiment(who, &args, edit).await
    }

    pub(super) async fn delete_experiment(&self, who: &Principal, args: Args) -> Answer {
        let found = self.experiment(who, args.text("experiment_id")?).await?;
        self.tracking.delete_experiment(who, &found.name).await?;
        Ok(json!({}))
    }

    pub(super) async fn restore_experiment(&self, who: &Principal, args: Args) -> Answer {
        let found = self.experiment(who, args.text("experiment_id")?).await?;
        self.tracking.restore_experiment(who, &found.name).await?;
        Ok(json!({}))
    }
}

/// Adds the token of the next page, if there is one.
pub(super) fn with_token(mut answer: Value, next: Option<String>) -> Value {
    if let (Some(answer), Some(token)) = (answer.as_object_mut(), next) {
        answer.insert("next_page_token".to_owned(), token.into());
    }
    answer
}
