//! `registered-models/…`

use std::collections::{BTreeMap, BTreeSet};

use mlops_core::{Digest, Error as CoreError, Permission, Principal, Resource};
use serde_json::{Value, json};

use super::http::Call;
use super::messages::{self, AUTHOR, CREATED, ModelMessage, Pairs, callers, odd, time};
use super::query::Query;
use super::{MlflowClient, callers_only, unsupported};
use crate::mlflow::wire;
use crate::search::{Entity, Page, Search, View};
use crate::{Error, Model, ModelEdit, NewModel, Result, check};

const WHAT: &str = "model";
const NO_MODEL: &str = "registered model";

pub(super) fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| odd("the number of a version", text))
}

impl ModelMessage {
    pub(super) fn read(self) -> Result<Model> {
        let mut latest = 0;
        for version in &self.latest_versions {
            latest = number(&version.version)?.max(latest);
        }
        Ok(Model {
            name: self.name,
            description: self.description,
            author: self.tags.get(AUTHOR).cloned().unwrap_or(self.user_id),
            tags: callers(self.tags),
            created_at: time(self.creation_timestamp)?,
            updated_at: time(self.last_updated_timestamp)?,
            latest,
        })
    }

    /// Where an alias points.
    pub(super) fn points(&self, alias: &str) -> Result<Option<u64>> {
        self.aliases.iter().find(|a| a.alias == alias).map(|a| number(&a.version)).transpose()
    }
}

/// Whether an edit's parts are what may be stored, and do not contradict each other.
pub(super) fn check_edit(description: Option<&str>, set: &Pairs, remove: &BTreeSet<String>) -> Result<()> {
    check::text("description", description.unwrap_or_default(), check::TEXT)?;
    check::labels(set)?;
    callers_only(set.keys().chain(remove))?;
    remove.iter().try_for_each(|key| check::name("tag", key))?;
    match remove.iter().find(|key| set.contains_key(*key)) {
        Some(key) => Err(CoreError::invalid("tag", format!("{key:?} is both to be set and to be removed")).into()),
        None => Ok(()),
    }
}

/// The registry knows only what is in use.
pub(super) fn in_use_only(view: View) -> Result<()> {
    match view {
        View::Active => Ok(()),
        View::Deleted | View::All => Err(unsupported("find what was deleted", "search what is in use: `View::Active`")),
    }
}

impl MlflowClient {
    pub(super) async fn model_message(&self, name: &str) -> Result<ModelMessage> {
        let call = Call::get("read", "registered-models/get", [("name", name)]).about(WHAT, name);
        match self.http().fault::<messages::OneModel>(&call).await {
            Ok(answer) => Ok(answer.registered_model),
            // A name that the server would not take is one that it does not have.
            Err(fault) if fault.is_invalid() => Err(CoreError::not_found(WHAT, name).into()),
            Err(fault) => Err(fault.error(&call, &self.http().base)),
        }
    }

    pub(super) async fn insert_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        check::model(&new.name)?;
        check_edit(Some(&new.description), &new.tags, &BTreeSet::new())?;
        self.allow(who, Permission::Register, Resource::model(&new.name))?;
        let created = Digest::of_json(&(&new.description, &new.tags))?.to_string();
        let mut tags = new.tags.clone();
        tags.insert(AUTHOR.to_owned(), who.name.clone());
        tags.insert(CREATED.to_owned(), created.clone());
        let body = json!({ "name": new.name, "description": new.description, "tags": wire::pairs(&tags) });
        // Repeated, it finds itself.
        let call = Call::post("register", "registered-models/create", body).about(NO_MODEL, &new.name).by(who);
        match self.http().send::<messages::OneModel>(call).await {
            Ok(_) => self.model_message(&new.name).await?.read(),
            Err(Error::Core(CoreError::AlreadyExists { what, name })) => {
                let there = self.model_message(&new.name).await?;
                let as_created = there.tags.get(CREATED).cloned();
                let there = there.read()?;
                let same = match as_created {
                    Some(digest) => digest == created,
                    None => there.description == new.description && there.tags == new.tags,
                };
                if same { Ok(there) } else { Err(CoreError::AlreadyExists { what, name }.into()) }
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn tag_model(&self, who: &Principal, name: &str, key: &str, value: &str) -> Result<()> {
        let body = json!({ "name": name, "key": key, "value": value });
        self.http().tell(Call::post("tag", "registered-models/set-tag", body).about(WHAT, name).by(who)).await
    }

    pub(super) async fn change_model(&self, who: &Principal, name: &str, edit: ModelEdit) -> Result<Model> {
        check_edit(edit.description.as_deref(), &edit.set_tags, &edit.remove_tags)?;
        self.allow(who, Permission::Register, Resource::model(name))?;
        let renamed = edit.name.as_deref().filter(|new| *new != name);
        if let Some(new) = renamed {
            check::model(new)?;
            self.allow(who, Permission::Administer, Resource::model(name))?;
            self.allow(who, Permission::Register, Resource::model(new))?;
        }
        let found = self.model_message(name).await?.read()?;
        if let Some(text) = edit.description.as_ref().filter(|text| **text != found.description) {
            let body = json!({ "name": name, "description": text });
            self.http()
                .tell(Call::patch("describe", "registered-models/update", body).about(WHAT, name).by(who))
                .await?;
        }
        for (key, value) in edit.set_tags.iter().filter(|(key, value)| found.tags.get(*key) != Some(*value)) {
            self.tag_model(who, name, key, value).await?;
        }
        for key in edit.remove_tags.iter().filter(|key| found.tags.contains_key(*key)) {
            let body = json!({ "name": name, "key": key });
            let call = Call::delete("tag", "registered-models/delete-tag", body);
            self.http().tell(call.about(WHAT, name).by(who)).await?;
        }
        if let Some(new) = renamed {
            let body = json!({ "name": name, "new_name": new });
            // At a second time the old name would be missing.
            let call = Call::post("rename", "registered-models/rename", body).about(NO_MODEL, new).by(who).once();
            self.http().tell(call).await?;
        }
        self.model_message(renamed.unwrap_or(name)).await?.read()
    }

    pub(super) async fn remove_model(&self, who: &Principal, name: &str, reason: &str) -> Result<()> {
        check::reason("reason", reason)?;
        self.allow(who, Permission::Administer, Resource::model(name))?;
        let call = Call::delete("delete", "registered-models/delete", json!({ "name": name }));
        self.http().tell(call.about(WHAT, name).by(who)).await
    }

    pub(super) async fn find_models(&self, search: Search) -> Result<Page<Model>> {
        in_use_only(search.view)?;
        let query = Query::new(Entity::Models, &search, &())?;
        let order_by = query.order_by()?;
        let call = |limit, token: Option<&str>| {
            search_call("registered-models/search", "search of models", &query, &order_by, limit, token)
        };
        let Page { items, next } = self.pages::<messages::Models, _>(&query, call).await?;
        Ok(Page::new(items.into_iter().map(ModelMessage::read).collect::<Result<_>>()?, next))
    }

    pub(super) async fn all_models(&self) -> Result<Vec<Model>> {
        let (mut all, mut search) = (Vec::new(), Search::default().limit(50_000));
        loop {
            let page = self.find_models(search.clone()).await?;
            all.extend(page.items);
            let Some(next) = page.next else { break };
            search = search.after(next);
        }
        // The server's database may order by other rules than bytes.
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn all_aliases(&self, name: &str) -> Result<(ModelMessage, BTreeMap<String, u64>)> {
        let message = self.model_message(name).await?;
        let mut all = BTreeMap::new();
        for alias in &message.aliases {
            all.insert(alias.alias.clone(), number(&alias.version)?);
        }
        Ok((message, all))
    }
}

/// A search of the registry: its fields are in the query.
pub(super) fn search_call(
    path: &str,
    what: &'static str,
    query: &Query,
    order_by: &[String],
    limit: usize,
    token: Option<&str>,
) -> Call<'static> {
    let limit = limit.to_string();
    let mut fields = vec![("filter", query.filter.as_str()), ("max_results", limit.as_str())];
    fields.extend(order_by.iter().map(|key| ("order_by", key.as_str())));
    fields.extend(token.map(|token| ("page_token", token)));
    Call::get("search", path, fields).about(what, "")
}

/// One of this client's records in a tag.
pub(super) fn record<T: serde::de::DeserializeOwned>(tags: &Pairs, key: &str) -> Option<T> {
    serde_json::from_str(tags.get(key)?).ok()
}

pub(super) fn written(record: &impl serde::Serialize) -> Result<String> {
    let value: Value = serde_json::to_value(record).map_err(|error| CoreError::invalid("record", error))?;
    Ok(value.to_string())
}
