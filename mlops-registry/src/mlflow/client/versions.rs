//! `model-versions/…`: packages become the files of a logged model, and the other way round.

use mlops_core::package::Manifest;
use mlops_core::{Digest, Error as CoreError, ExperimentId, Permission, Principal, Resource, RunId};
use serde_json::json;

use super::artifacts::behind;
use super::http::Call;
use super::messages::{self, AUTHOR, CREATED, Logged, VersionMessage, callers, experiment_id, given, time};
use super::models::{check_edit, in_use_only, number, record, search_call};
use super::query::Query;
use super::{MOST_REMEMBERED, MlflowClient, callers_only};
use crate::mlflow::wire;
use crate::search::{Entity, Page, Search};
use crate::{
    Artifact, LoggedModelStatus, ModelVersion, NewLoggedModel, NewVersion, Promotion, Result, StageTable, Target,
    VersionEdit, check,
};

const WHAT: &str = "model version";
/// The digest of a version's package, and of what tells one version from another.
const PACKAGE: &str = "mlops.package";
const IDENTITY: &str = "mlops.identity";
/// What a version was registered with, where the server's fields are taken or would not take it.
const RUN: &str = "mlops.run";
const SOURCE: &str = "mlops.source";
const LOGGED_MODEL: &str = "mlops.logged_model";
/// The last move of a version's stage.
pub(super) const STAGE: &str = "mlops.stage";

/// `prices/3`
pub(super) fn version_name(model: &str, version: u64) -> String {
    format!("{model}/{version}")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl MlflowClient {
    pub(super) async fn version_message(&self, model: &str, version: u64) -> Result<VersionMessage> {
        let (name, text) = (version_name(model, version), version.to_string());
        // More than the server's database can count.
        if i32::try_from(version).is_err() {
            return Err(CoreError::not_found(WHAT, name).into());
        }
        let call = Call::get("read", "model-versions/get", [("name", model), ("version", &*text)]).about(WHAT, &name);
        match self.http().fault::<messages::OneVersion>(&call).await {
            Ok(answer) => Ok(answer.model_version),
            Err(fault) if fault.is_invalid() => Err(CoreError::not_found(WHAT, name).into()),
            Err(fault) => Err(fault.error(&call, &self.http().base)),
        }
    }

    pub(super) async fn read_version(&self, model: &str, version: u64) -> Result<ModelVersion> {
        let message = self.version_message(model, version).await?;
        self.read_message(message).await
    }

    async fn read_message(&self, message: VersionMessage) -> Result<ModelVersion> {
        let version = number(&message.version)?;
        let package = self.package_of(&message, version).await?;
        let stage = given(message.current_stage).unwrap_or_else(|| StageTable::default().first().to_owned());
        let moved: Option<Promotion> = record(&message.tags, STAGE);
        let run = message.tags.get(RUN).cloned().or_else(|| given(message.run_id));
        let mut aliases = message.aliases;
        aliases.sort();
        Ok(ModelVersion {
            model: message.name,
            version,
            package,
            // Other tools may give anything for a run.
            run: run.and_then(|run| run.parse::<RunId>().ok()),
            description: message.description,
            source: message.tags.get(SOURCE).cloned().unwrap_or(match message.tags.contains_key(PACKAGE) {
                true => String::new(),
                false => message.source,
            }),
            run_link: message.run_link,
            logged_model: message.tags.get(LOGGED_MODEL).cloned().or_else(|| given(message.model_id)),
            stage,
            stage_revision: moved.and_then(|moved| moved.revision).unwrap_or(0),
            aliases,
            author: message.tags.get(AUTHOR).cloned().unwrap_or(message.user_id),
            tags: callers(message.tags),
            created_at: time(message.creation_timestamp)?,
            updated_at: time(message.last_updated_timestamp)?,
        })
    }

    /// The digest of a version's package: as this client registered it, else of the files that are there.
    async fn package_of(&self, message: &VersionMessage, version: u64) -> Result<Digest> {
        if let Some(digest) = message.tags.get(PACKAGE).and_then(|digest| digest.parse().ok()) {
            return Ok(digest);
        }
        let key = (message.name.clone(), version, message.source.clone());
        if let Some(known) = self.packages().get(&key) {
            return Ok(*known);
        }
        let (manifest, store) = (self.fetch_package(&message.name, version).await?, self.store("read a package")?);
        let digest = manifest.save(&**store).await?;
        let mut packages = self.packages();
        if packages.len() >= MOST_REMEMBERED {
            packages.clear();
        }
        packages.insert(key, digest);
        Ok(digest)
    }

    /// Brings the files of a version into the artifact store.
    pub(super) async fn fetch_package(&self, model: &str, version: u64) -> Result<Manifest> {
        let (name, text) = (version_name(model, version), version.to_string());
        let fields = [("name", model), ("version", &*text)];
        let call = Call::get("find the files of", "model-versions/get-download-uri", fields).about(WHAT, &name);
        let uri = self.http().send::<messages::Place>(call).await?.artifact_uri;
        let root = behind(&uri)?;
        let mut manifest = Manifest::builder();
        for file in self.walk(root, "").await? {
            let Artifact { path, digest, bytes, .. } = self.fetch(root, &file.path).await?;
            manifest = manifest.entry(path, bytes, digest);
        }
        Ok(manifest.build()?)
    }

    /// A logged model with the files of a package: one that is there, else a new one.
    async fn logged_package(&self, who: &Principal, new: &NewVersion, manifest: &Manifest) -> Result<Logged> {
        let (experiment, run) = self.home(new.run).await?;
        let tagged = format!("tags.`{PACKAGE}` = '{}'", new.package);
        let body = json!({ "experiment_ids": [experiment_id(experiment)], "filter": tagged, "max_results": 50 });
        let call = Call::post("search", "logged-models/search", body).about("logged models of", &new.model);
        let (there, _): (Vec<messages::LoggedMessage>, Option<String>) =
            self.http().send::<messages::LoggedModels>(call).await?.into();
        for message in there {
            let logged = message.read()?;
            if logged.model.status == LoggedModelStatus::Ready && logged.model.source_run == run {
                return Ok(logged);
            }
        }
        // Names of logged models are narrower than those of registered ones.
        let name = new.model.replace(['/', ':', '.', '%', '"', '\''], "-");
        let mut model = NewLoggedModel::new(experiment, name).tag(PACKAGE, new.package.to_string());
        model.source_run = run;
        let logged = self.make_logged(who, model).await?;
        let sent = async {
            let root = behind(&logged.uri)?;
            for (path, file) in manifest.files() {
                self.send_blob(who, root, &Artifact::new(path, file.digest, file.bytes)).await?;
            }
            self.settle_logged(who, logged.model.id, LoggedModelStatus::Ready).await
        };
        if let Err(error) = sent.await {
            // The first error is the one to tell; the model stays pending where even this is not heard.
            drop(self.settle_logged(who, logged.model.id, LoggedModelStatus::UploadFailed).await);
            return Err(error);
        }
        Ok(logged)
    }

    /// The experiment that a package's files go to, and its run, if the server has that.
    async fn home(&self, run: Option<RunId>) -> Result<(ExperimentId, Option<RunId>)> {
        if let Some(run) = run {
            match self.read_run(run).await {
                Ok(found) => return Ok((found.info.experiment_id, Some(run))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok((self.read_experiment(&self.0.experiment).await?.id, None))
    }

    pub(super) async fn insert_version(&self, who: &Principal, mut new: NewVersion) -> Result<ModelVersion> {
        check_edit(Some(&new.description), &new.tags, &Default::default())?;
        check::text("source", &new.source, check::VALUE)?;
        check::text("run link", &new.run_link, check::VALUE)?;
        check::text("key", &new.key, check::NAME)?;
        new.logged_model.iter().try_for_each(|id| check::name("logged model", id))?;
        self.allow(who, Permission::Register, Resource::model(&new.model))?;
        self.model_message(&new.model).await?;
        let store = self.store("register a package")?;
        let manifest = Manifest::load(&**store, &new.package).await?;
        manifest.verify(&**store).await?;
        let told = match manifest.provenance(&**store).await {
            Ok(provenance) => provenance.run,
            Err(CoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let (Some(given), Some(told)) = (new.run, told)
            && given != told
        {
            let reason = format!("the package says that run {told} made it, not run {given}");
            return Err(CoreError::invalid("run", reason).into());
        }
        new.run = new.run.or(told);
        let identity = Digest::of_json(&(new.package, new.run, &new.key))?.to_string();
        let created = Digest::of_json(&new)?.to_string();
        let same = Search::new(format!("name = {} AND tags.`{IDENTITY}` = '{identity}'", quoted(&new.model)));
        if let Some(there) = self.search_messages(&same).await?.items.into_iter().next() {
            let name = version_name(&there.name, number(&there.version)?);
            if there.tags.get(CREATED) != Some(&created) {
                return Err(CoreError::AlreadyExists { what: WHAT, name }.into());
            }
            return self.read_message(there).await;
        }
        let logged = self.logged_package(who, &new, &manifest).await?;
        let mut tags = new.tags.clone();
        let own = [
            (AUTHOR, Some(who.name.clone())),
            (CREATED, Some(created)),
            (IDENTITY, Some(identity)),
            (PACKAGE, Some(new.package.to_string())),
            (RUN, new.run.map(|run| run.to_string())),
            (SOURCE, given(new.source.clone())),
            (LOGGED_MODEL, new.logged_model.clone()),
        ];
        tags.extend(own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        let id = logged.model.id.to_string();
        let mut body = json!({
            "name": new.model,
            "source": format!("models:/{id}"),
            "model_id": id,
            "description": new.description,
            "run_link": new.run_link,
            "tags": wire::pairs(&tags),
        });
        if let Some(run) = new.run {
            body["run_id"] = wire::hex(run.as_uuid()).into();
        }
        let call = Call::post("register", "model-versions/create", body).about(WHAT, &new.model).by(who).once();
        let made = self.http().send::<messages::OneVersion>(call).await?.model_version;
        self.read_version(&made.name, number(&made.version)?).await
    }

    pub(super) async fn tag_version(
        &self,
        who: &Principal,
        model: &str,
        version: u64,
        key: &str,
        value: &str,
    ) -> Result<()> {
        let name = version_name(model, version);
        let body = json!({ "name": model, "version": version.to_string(), "key": key, "value": value });
        self.http().tell(Call::post("tag", "model-versions/set-tag", body).about(WHAT, &name).by(who)).await
    }

    pub(super) async fn change_version(
        &self,
        who: &Principal,
        model: &str,
        version: u64,
        edit: VersionEdit,
    ) -> Result<ModelVersion> {
        check_edit(edit.description.as_deref(), &edit.set_tags, &edit.remove_tags)?;
        callers_only(&edit.remove_tags)?;
        self.allow(who, Permission::Register, Resource::model(model))?;
        let found = self.version_message(model, version).await?;
        let name = version_name(model, version);
        if let Some(text) = edit.description.as_ref().filter(|text| **text != found.description) {
            let body = json!({ "name": model, "version": version.to_string(), "description": text });
            self.http().tell(Call::patch("describe", "model-versions/update", body).about(WHAT, &name).by(who)).await?;
        }
        for (key, value) in edit.set_tags.iter().filter(|(key, value)| found.tags.get(*key) != Some(*value)) {
            self.tag_version(who, model, version, key, value).await?;
        }
        for key in edit.remove_tags.iter().filter(|key| found.tags.contains_key(*key)) {
            let body = json!({ "name": model, "version": version.to_string(), "key": key });
            let call = Call::delete("tag", "model-versions/delete-tag", body);
            self.http().tell(call.about(WHAT, &name).by(who)).await?;
        }
        self.read_version(model, version).await
    }

    pub(super) async fn remove_version(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::model(model))?;
        let name = version_name(model, version);
        let body = json!({ "name": model, "version": version.to_string() });
        self.http().tell(Call::delete("delete", "model-versions/delete", body).about(WHAT, &name).by(who)).await
    }

    async fn search_messages(&self, search: &Search) -> Result<Page<VersionMessage>> {
        in_use_only(search.view)?;
        let query = Query::new(Entity::Versions, search, &())?;
        let order_by = query.order_by()?;
        let call = |limit, token: Option<&str>| {
            search_call("model-versions/search", "search of versions", &query, &order_by, limit, token)
        };
        self.pages::<messages::Versions, _>(&query, call).await
    }

    pub(super) async fn find_versions(&self, search: Search) -> Result<Page<ModelVersion>> {
        let Page { items, next } = self.search_messages(&search).await?;
        let mut found = Vec::with_capacity(items.len());
        for message in self.with_aliases(items).await? {
            found.push(self.read_message(message).await?);
        }
        Ok(Page::new(found, next))
    }

    /// Searches and lists of some servers leave the aliases out.
    async fn with_aliases(&self, mut versions: Vec<VersionMessage>) -> Result<Vec<VersionMessage>> {
        let mut models: Vec<String> = versions.iter().map(|version| version.name.clone()).collect();
        models.sort();
        models.dedup();
        for name in models {
            let (_, aliases) = self.all_aliases(&name).await?;
            for version in versions.iter_mut().filter(|version| version.name == name) {
                let number = number(&version.version)?;
                version.aliases =
                    aliases.iter().filter(|(_, v)| **v == number).map(|(alias, _)| alias.clone()).collect();
            }
        }
        Ok(versions)
    }

    pub(super) async fn all_versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        self.model_message(model).await?;
        let search = Search::new(format!("name = {}", quoted(model))).order_by("version_number ASC").limit(50_000);
        let (mut all, mut search) = (Vec::new(), search);
        loop {
            let page = self.find_versions(search.clone()).await?;
            all.extend(page.items);
            let Some(next) = page.next else { return Ok(all) };
            search = search.after(next);
        }
    }

    pub(super) async fn newest_versions(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        let table = StageTable::default();
        let mut wanted = Vec::new();
        for stage in stages {
            wanted.push(find_stage(&table, stage)?.to_owned());
        }
        let body = json!({ "name": model, "stages": wanted });
        let call = Call::post("list the newest versions of", "registered-models/get-latest-versions", body);
        let page = self.http().send::<messages::Versions>(call.about("model", model)).await?;
        let (mut found, _): (Vec<VersionMessage>, Option<String>) = page.into();
        let place = |version: &VersionMessage| table.stages.iter().position(|s| *s == version.current_stage);
        found.sort_by_key(place);
        let mut versions = Vec::with_capacity(found.len());
        for message in found {
            let version = number(&message.version)?;
            // The list leaves out what is not in its answer: tags and aliases are read with the version.
            versions.push(self.read_version(model, version).await?);
        }
        Ok(versions)
    }
}

/// The stage of that name, as it is written.
pub(super) fn find_stage<'a>(table: &'a StageTable, stage: &str) -> Result<&'a str> {
    check::name("stage", stage)?;
    table.find(stage).ok_or_else(|| {
        let reason = format!("{stage:?} is not one of {}", table.stages.join(", "));
        CoreError::invalid("stage", reason).into()
    })
}

/// Whether a record is of the move that led to this stage.
pub(super) fn led_to(moved: &Promotion, stage: &str) -> bool {
    matches!(&moved.target, Target::Stage(target) if target == stage)
}
