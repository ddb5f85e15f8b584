//! `registered-models/…` and `model-versions/…`

use std::collections::BTreeMap;

use mlops_core::package::Manifest;
use mlops_core::{Clock as _, Digest, Error as CoreError, Principal, PromotionId, Resource, RunId, SystemClock};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Server;
use super::args::Args;
use super::artifacts::Place;
use super::experiments::{search, with_token};
use super::failure::{Answer, Failure};
use super::runs::run_id;
use crate::mlflow::wire::{self, pairs};
use crate::{
    Artifact, LoggedModelStatus, Model, ModelEdit, ModelVersion, NewModel, NewPromotion, NewStageMove, NewVersion,
    VersionEdit,
};

/// Why something that came over MLflow's wire was done: its calls have no field for a reason.
pub(super) const REASON: &str = "asked for through MLflow's interface";

fn version_message(version: &ModelVersion) -> Value {
    let mut message = json!({
        "name": version.model,
        "version": version.version.to_string(),
        "creation_timestamp": wire::millis(version.created_at),
        "last_updated_timestamp": wire::millis(version.updated_at),
        "user_id": version.author,
        "current_stage": version.stage,
        "description": version.description,
        "source": source(version),
        "status": "READY",
        "run_link": version.run_link,
        "tags": pairs(&version.tags),
        "aliases": version.aliases,
    });
    if let Some(run) = version.run {
        message["run_id"] = wire::hex(run.as_uuid()).into();
    }
    if let Some(model) = &version.logged_model {
        message["model_id"] = model.as_str().into();
    }
    message
}

/// Where the files of a version are. They are those of its package, whatever became of the run's artifacts since.
fn uri(model: &str, version: u64) -> String {
    format!("mlflow-artifacts:/model-versions/{}/{version}", utf8_percent_encode(model, NON_ALPHANUMERIC))
}

/// The source as the client gave it; a version that was registered here has its own address.
fn source(version: &ModelVersion) -> String {
    match version.source.as_str() {
        "" => uri(&version.model, version.version),
        given => given.to_owned(),
    }
}

impl Server {
    async fn model(&self, who: &Principal, name: &str) -> Answer<Model> {
        self.may_read(who, Resource::model(name))?;
        self.registry.model(name).await.map_err(|error| match error.is_not_found() {
            true => Failure::missing(format!("Registered Model with name={name} not found")),
            false => error.into(),
        })
    }

    pub(super) async fn version(&self, who: &Principal, args: &Args) -> Answer<ModelVersion> {
        self.version_of(who, args.text("name")?, args.version("version")?).await
    }

    pub(super) async fn version_of(&self, who: &Principal, name: &str, version: u64) -> Answer<ModelVersion> {
        self.may_read(who, Resource::model(name))?;
        self.registry.version(name, version).await.map_err(|error| match error.is_not_found() {
            true => Failure::missing(format!("Model Version (name={name}, version={version}) not found")),
            false => error.into(),
        })
    }

    async fn message(&self, model: &Model) -> Answer {
        let latest = self.registry.latest_versions(&model.name, &[]).await?;
        let aliases = self.registry.aliases(&model.name).await?;
        Ok(json!({
            "name": model.name,
            "creation_timestamp": wire::millis(model.created_at),
            "last_updated_timestamp": wire::millis(model.updated_at),
            "user_id": model.author,
            "description": model.description,
            "latest_versions": latest.iter().map(version_message).collect::<Vec<_>>(),
            "tags": pairs(&model.tags),
            "aliases": aliases
                .iter()
                .map(|alias| json!({ "alias": alias.alias, "version": alias.version.to_string() }))
                .collect::<Vec<_>>(),
        }))
    }

    async fn answer_model(&self, model: &Model) -> Answer {
        Ok(json!({ "registered_model": self.message(model).await? }))
    }

    pub(super) async fn create_model(&self, who: &Principal, args: Args) -> Answer {
        let mut new = NewModel::new(args.text("name")?).description(args.opt_text("description")?.unwrap_or_default());
        new.tags = args.pairs("tags")?;
        // In the registry, creating an equal one again changes nothing; MLflow's clients expect to be told.
        if self.sees(who, Resource::model(&new.name)) && self.registry.model(&new.name).await.is_ok() {
            return Err(CoreError::AlreadyExists { what: "registered model", name: new.name }.into());
        }
        let model = self.registry.create_model(who, new).await?;
        self.answer_model(&model).await
    }

    pub(super) async fn get_model(&self, who: &Principal, args: Args) -> Answer {
        let model = self.model(who, args.text("name")?).await?;
        self.answer_model(&model).await
    }

    async fn edit_model(&self, who: &Principal, args: &Args, edit: ModelEdit) -> Answer<Model> {
        let model = self.model(who, args.text("name")?).await?;
        Ok(self.registry.edit_model(who, &model.name, edit).await?)
    }

    pub(super) async fn rename_model(&self, who: &Principal, args: Args) -> Answer {
        let edit = ModelEdit::new().rename(args.text("new_name")?);
        let model = self.edit_model(who, &args, edit).await?;
        self.answer_model(&model).await
    }

    pub(super) async fn update_model(&self, who: &Principal, args: Args) -> Answer {
        let mut edit = ModelEdit::new();
        edit.description = args.opt_text("description")?.map(str::to_owned);
        let model = self.edit_model(who, &args, edit).await?;
        self.answer_model(&model).await
    }

    pub(super) async fn delete_model(&self, who: &Principal, args: Args) -> Answer {
        let model = self.model(who, args.text("name")?).await?;
        self.registry.delete_model(who, &model.name, REASON).await?;
        Ok(json!({}))
    }

    pub(super) async fn set_model_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = ModelEdit::new().set_tag(args.text("key")?, args.any_text("value")?);
        self.edit_model(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn delete_model_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = ModelEdit::new().remove_tag(args.text("key")?);
        self.edit_model(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn search_models(&self, who: &Principal, args: Args) -> Answer {
        let page = self.registry.search_models(search(&args, 100, 1_000)?).await?;
        let mut models = Vec::with_capacity(page.items.len());
        for model in page.items.iter().filter(|model| self.sees(who, Resource::model(&model.name))) {
            models.push(self.message(model).await?);
        }
        Ok(with_token(json!({ "registered_models": models }), page.next))
    }

    pub(super) async fn latest_versions(&self, who: &Principal, args: Args) -> Answer {
        let model = self.model(who, args.text("name")?).await?;
        let stages = args.texts("stages")?;
        let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
        let versions = self.registry.latest_versions(&model.name, &stages).await?;
        Ok(json!({ "model_versions": versions.iter().map(version_message).collect::<Vec<_>>() }))
    }

    pub(super) async fn get_alias(&self, who: &Principal, args: Args) -> Answer {
        let (name, alias) = (args.text("name")?, args.text("alias")?);
        self.may_read(who, Resource::alias(name, alias))?;
        self.model(who, name).await?;
        let found = self.registry.alias(name, alias).await.map_err(|error| match error.is_not_found() {
            // 400, not 404: as MLflow has it, and its clients test for.
            true => Failure::invalid(format!("Registered model alias {alias} not found.")),
            false => error.into(),
        })?;
        let version = self.registry.version(name, found.version).await?;
        Ok(json!({ "model_version": version_message(&version) }))
    }

    pub(super) async fn set_alias(&self, who: &Principal, args: Args) -> Answer {
        let version = self.version(who, &args).await?;
        let new = NewPromotion::new(&version.model, version.version, args.text("alias")?).reason(REASON);
        self.registry.move_alias(who, new).await?;
        Ok(json!({}))
    }

    pub(super) async fn delete_alias(&self, who: &Principal, args: Args) -> Answer {
        let model = self.model(who, args.text("name")?).await?;
        let removed = self.registry.remove_alias(who, &model.name, args.text("alias")?, REASON).await;
        match removed {
            // One that is not there is removed already.
            Err(error) if error.is_not_found() => Ok(json!({})),
            other => other.map(|_| json!({})).map_err(Failure::from),
        }
    }

    /// The files that a source names, by their path in the package.
    async fn files(&self, who: &Principal, source: &str) -> Answer<BTreeMap<String, (u64, Digest)>> {
        let elsewhere = || {
            Failure::invalid(format!(
                "Invalid model version source: '{source}'. It must be a logged model (models:/m-…), artifacts of a run \
                 (runs:/… or mlflow-artifacts:/…) or another version (models:/NAME/VERSION) of this server: files \
                 elsewhere could change after they were approved."
            ))
        };
        let place = if let Some(rest) = source.strip_prefix("runs:/") {
            let (run, path) = rest.trim_start_matches('/').split_once('/').unwrap_or((rest, ""));
            Place::Run { run: self.run_of(who, run).await?, path: path.to_owned() }
        } else if let Some(id) =
            source.strip_prefix("models:/").filter(|id| id.starts_with("m-") && !id.contains(['/', '@']))
        {
            let model = self.logged_model(who, id).await?;
            if model.status != LoggedModelStatus::Ready {
                return Err(Failure::invalid(format!(
                    "The logged model '{id}' is not READY: its files are not all there."
                )));
            }
            Place::LoggedModel { model, path: String::new() }
        } else if let Some(reference) = source.strip_prefix("models:/") {
            let (name, number) = reference.rsplit_once('/').ok_or_else(elsewhere)?;
            let number = number.parse().map_err(|_| elsewhere())?;
            Place::Version { version: self.version_of(who, name, number).await?, path: String::new() }
        } else if let Some(path) = source.strip_prefix("mlflow-artifacts:/") {
            self.place(who, path.trim_start_matches('/')).await?
        } else {
            return Err(elsewhere());
        };
        let files = self.files_of(&place).await?;
        let under = place.path().trim_matches('/').to_owned();
        let within = |path: &str| -> Option<String> {
            if under.is_empty() {
                return Some(path.to_owned());
            }
            path.strip_prefix(&under)?.strip_prefix('/').map(str::to_owned)
        };
        let files: BTreeMap<_, _> =
            files.into_iter().filter_map(|file| Some((within(&file.path)?, (file.bytes, file.digest)))).collect();
        if files.is_empty() {
            return Err(Failure::invalid(format!("Unable to find a model at '{source}': there are no files.")));
        }
        Ok(files)
    }

    pub(super) async fn create_version(&self, who: &Principal, args: Args) -> Answer {
        let model = self.model(who, args.text("name")?).await?;
        let source = args.text("source")?;
        let logged = args.opt_text("model_id")?.filter(|id| !id.is_empty());
        let mut manifest = Manifest::builder();
        for (path, (bytes, digest)) in self.files(who, source).await? {
            manifest = manifest.entry(path, bytes, digest);
        }
        let package = manifest.build()?.save(&*self.store).await?;
        let key = PromotionId::new(SystemClock.now()).to_string();
        let mut new = NewVersion::new(&model.name, package)
            .description(args.opt_text("description")?.unwrap_or_default())
            .source(source)
            .run_link(args.opt_text("run_link")?.unwrap_or_default())
            // Each call makes a version, also of files that are registered already.
            .key(key);
        new.tags = args.pairs("tags")?;
        let named = source.strip_prefix("models:/").filter(|id| id.starts_with("m-"));
        let mut run: Option<RunId> = args.opt_text("run_id")?.filter(|id| !id.is_empty()).map(run_id).transpose()?;
        if let Some(id) = logged.or(named) {
            let logged = self.logged_model(who, id).await?;
            if named.is_some_and(|named| named != id) {
                return Err(Failure::invalid(format!("The source '{source}' is not the logged model '{id}'.")));
            }
            run = run.or(logged.source_run);
            new = new.logged_model(id);
        }
        new.run = run;
        let version = self.registry.create_version(who, new).await?;
        Ok(json!({ "model_version": version_message(&version) }))
    }

    pub(super) async fn get_version(&self, who: &Principal, args: Args) -> Answer {
        Ok(json!({ "model_version": version_message(&self.version(who, &args).await?) }))
    }

    async fn edit_version(&self, who: &Principal, args: &Args, edit: VersionEdit) -> Answer<ModelVersion> {
        let version = self.version(who, args).await?;
        Ok(self.registry.edit_version(who, &version.model, version.version, edit).await?)
    }

    pub(super) async fn update_version(&self, who: &Principal, args: Args) -> Answer {
        let mut edit = VersionEdit::new();
        edit.description = args.opt_text("description")?.map(str::to_owned);
        let version = self.edit_version(who, &args, edit).await?;
        Ok(json!({ "model_version": version_message(&version) }))
    }

    pub(super) async fn set_version_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = VersionEdit::new().set_tag(args.text("key")?, args.any_text("value")?);
        self.edit_version(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn delete_version_tag(&self, who: &Principal, args: Args) -> Answer {
        let edit = VersionEdit::new().remove_tag(args.text("key")?);
        self.edit_version(who, &args, edit).await?;
        Ok(json!({}))
    }

    pub(super) async fn delete_version(&self, who: &Principal, args: Args) -> Answer {
        let version = self.version(who, &args).await?;
        self.registry.delete_version(who, &version.model, version.version, REASON).await?;
        Ok(json!({}))
    }

    pub(super) async fn search_versions(&self, who: &Principal, args: Args) -> Answer {
        let mut search = search(&args, 10_000, 200_000)?;
        if args.texts("order_by")?.is_empty() {
            search = search.order_by("last_updated_timestamp DESC");
        }
        let page = self.registry.search_versions(search).await?;
        let seen = page.items.iter().filter(|version| self.sees(who, Resource::model(&version.model)));
        Ok(with_token(json!({ "model_versions": seen.map(version_message).collect::<Vec<_>>() }), page.next))
    }

    pub(super) async fn download_uri(&self, who: &Principal, args: Args) -> Answer {
        let version = self.version(who, &args).await?;
        Ok(json!({ "artifact_uri": uri(&version.model, version.version) }))
    }

    pub(super) async fn transition_stage(&self, who: &Principal, args: Args) -> Answer {
        let version = self.version(who, &args).await?;
        let archive = args.opt_flag("archive_existing_versions")?.unwrap_or(false);
        let stage = args.text("stage")?;
        let table = self.registry.stages(Some(&version.model)).await?;
        let wanted = table.find(stage).unwrap_or(stage);
        if archive && (wanted == table.first() || table.archive.as_deref() == Some(wanted)) {
            return Err(Failure::invalid(format!(
                "Model versions cannot be archived as others move to the stage {wanted:?}: leave out archive_existing_versions"
            )));
        }
        let mut new = NewStageMove::new(&version.model, version.version, stage).reason(REASON);
        new.archive_existing = archive;
        self.registry.move_stage(who, new).await?;
        let version = self.registry.version(&version.model, version.version).await?;
        Ok(json!({ "model_version": version_message(&version) }))
    }

    /// The files of a version's package.
    pub(super) async fn package_files(&self, package: &Digest) -> Answer<Vec<Artifact>> {
        let manifest = Manifest::load(&*self.store, package).await?;
        Ok(manifest.files().iter().map(|(path, file)| Artifact::new(path, file.digest, file.bytes)).collect())
    }
}
