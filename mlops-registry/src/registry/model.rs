//! Models and versions, and what may be changed of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::time::Duration;

use mlops_core::{Digest, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::edit::tag_setters;
use crate::search::{DatasetFilter, Field, Order, Searched, Value};

/// A model to be registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewModel {
    /// Its name, unique in the registry: without `/`, `:` and `@`, at most 250 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
}

impl NewModel {
    /// A model without description and tags.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// A registered model: a name that versions are numbered under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Who registered it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// When its name, description or tags changed last.
    pub updated_at: Timestamp,
    /// The number of its newest version, 0 without any.
    pub latest: u64,
}

impl Searched for Model {
    fn values(&self, field: &Field, _datasets: &[DatasetFilter]) -> Vec<Value> {
        vec![match field {
            Field::Tag(key) => self.tags.get(key).cloned().into(),
            Field::Attribute("name") => Value::Text(self.name.clone()),
            Field::Attribute("creation_timestamp") => Value::Time(self.created_at.timestamp_micros()),
            Field::Attribute("last_updated_timestamp") => Value::Time(self.updated_at.timestamp_micros()),
            _ => Value::Missing,
        }]
    }

    fn key(&self, order: &Order) -> Value {
        self.values(&order.field, &[]).pop().unwrap_or(Value::Missing)
    }
}

/// What is to change of a model; what it does not name stays.
///
/// ```
/// use mlops_registry::ModelEdit;
/// let edit = ModelEdit::new().description("euro per MWh").set_tag("team", "energy").remove_tag("draft");
/// assert_eq!(edit.name, None); // keeps its name
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelEdit {
    /// The new name.
    pub name: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// Tags that are set, new or over the value that was.
    pub set_tags: BTreeMap<String, String>,
    /// Tags that go, where they are.
    pub remove_tags: BTreeSet<String>,
}

impl ModelEdit {
    /// Changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Renames it. Versions, aliases, policies and history go with the name; the old one stays known as renamed.
    #[must_use]
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    tag_setters!();
}

/// A version to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewVersion {
    /// The model's name.
    pub model: String,
    /// The digest of the package, which is in the artifact store already.
    pub package: Digest,
    /// The run that made it. It is not looked up: it may be tracked elsewhere.
    pub run: Option<RunId>,
    /// What is new about it.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Where it came from, in the words of who registers it: `models:/m-…`, `runs:/…/model`.
    #[serde(default)]
    pub source: String,
    /// Where its run can be looked at.
    #[serde(default)]
    pub run_link: String,
    /// The logged model that it was made of: `m-…`.
    #[serde(default)]
    pub logged_model: Option<String>,
    /// What tells it from another version of the same package and run; see [`NewVersion::key`].
    #[serde(default)]
    pub key: String,
}

impl NewVersion {
    /// A version of that model with that package.
    pub fn new(model: impl Into<String>, package: Digest) -> Self {
        Self {
            model: model.into(),
            package,
            run: None,
            description: String::new(),
            tags: BTreeMap::new(),
            source: String::new(),
            run_link: String::new(),
            logged_model: None,
            key: String::new(),
        }
    }

    /// Names the run that made it.
    #[must_use]
    pub fn run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Says what is new about it.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Says where it came from.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Says where its run can be looked at.
    #[must_use]
    pub fn run_link(mut self, link: impl Into<String>) -> Self {
        self.run_link = link.into();
        self
    }

    /// Names the logged model that it was made of.
    #[must_use]
    pub fn logged_model(mut self, id: impl Into<String>) -> Self {
        self.logged_model = Some(id.into());
        self
    }

    /// Gives it a key, of at most 250 characters: the same package and run under another key is another version. Without one (the default) there is
    /// one version of each package and run, so that a repeated registration changes nothing.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }
}

/// A version of a model: a package that never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelVersion {
    /// The model's name.
    pub model: String,
    /// Its number, from 1 without gaps.
    pub version: u64,
    /// The digest of its package.
    pub package: Digest,
    /// The run that made it.
    pub run: Option<RunId>,
    /// What is new about it.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Where it came from, as who registered it said.
    pub source: String,
    /// Where its run can be looked at; empty if nobody said.
    pub run_link: String,
    /// The logged model that it was made of.
    pub logged_model: Option<String>,
    /// The stage it is in.
    pub stage: String,
    /// How often its stage has moved.
    pub stage_revision: u64,
    /// The aliases that point at it, by name.
    pub aliases: Vec<String>,
    /// Who registered it; never an approver of it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// When its description, tags or stage changed last.
    pub updated_at: Timestamp,
}

impl Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, version, package, author, created_at, description, .. } = self;
        let at = created_at.format("%Y-%m-%d %H:%M");
        write!(f, "{model} v{version} ({}) by {author} at {at}", package.short())?;
        if description.is_empty() { Ok(()) } else { write!(f, ": {description}") }
    }
}

impl Searched for ModelVersion {
    fn values(&self, field: &Field, _datasets: &[DatasetFilter]) -> Vec<Value> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        vec![match field {
            Field::Tag(key) => self.tags.get(key).cloned().into(),
            Field::Attribute("name") => Value::Text(self.model.clone()),
            Field::Attribute("version_number") => Value::Count(i64::try_from(self.version).unwrap_or(i64::MAX)),
            Field::Attribute("run_id") => self.run.map(|run| run.to_string()).into(),
            Field::Attribute("source_path") => given(&self.source).into(),
            Field::Attribute("creation_timestamp") => Value::Time(self.created_at.timestamp_micros()),
            Field::Attribute("last_updated_timestamp") => Value::Time(self.updated_at.timestamp_micros()),
            _ => Value::Missing,
        }]
    }

    fn key(&self, order: &Order) -> Value {
        self.values(&order.field, &[]).pop().unwrap_or(Value::Missing)
    }
}

/// What is to change of a version; what it does not name stays, and its package always does.
///
/// ```
/// use mlops_registry::VersionEdit;
/// let edit = VersionEdit::new().description("with holidays").set_tag("validated", "yes");
/// assert!(edit.remove_tags.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VersionEdit {
    /// The new description.
    pub description: Option<String>,
    /// Tags that are set, new or over the value that was.
    pub set_tags: BTreeMap<String, String>,
    /// Tags that go, where they are.
    pub remove_tags: BTreeSet<String>,
}

impl VersionEdit {
    /// Changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what is new about it.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    tag_setters!();
}

/// What keeps a version from being deleted, whatever else is asked: an audit hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hold {
    /// The model's name.
    pub model: String,
    /// The version that is held.
    pub version: u64,
    /// Who placed it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, version, by, at, reason } = self;
        write!(f, "{model} v{version} held by {by} since {}: {reason}", at.format("%Y-%m-%d %H:%M"))
    }
}

/// How long what was deleted is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retention {
    /// What was deleted longer ago goes.
    pub older_than: Duration,
}

impl Retention {
    /// Keeps what was deleted for that long.
    #[must_use]
    pub fn older_than(older_than: Duration) -> Self {
        Self { older_than }
    }
}

/// What a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Purged {
    /// Versions.
    pub versions: u64,
    /// Models whose description and tags went; name and number stay taken.
    pub models: u64,
    /// Runs, with their params, metrics, tags, inputs and artifacts.
    pub runs: u64,
    /// Logged models, with theirs.
    pub logged_models: u64,
}
