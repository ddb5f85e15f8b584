use std::collections::{BTreeMap, BTreeSet};

use mlops_core::{ExperimentId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::edit::tag_setters;
use crate::search::{DatasetFilter, Field, LifecycleStage, Order, Searched, Value};

/// An experiment to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewExperiment {
    /// Its name, unique in the store.
    pub name: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Where clients put artifacts, as a URI; see [`Experiment::artifacts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_location: Option<String>,
}

impl NewExperiment {
    /// An experiment without tags.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Where clients put artifacts, as a URI.
    #[must_use]
    pub fn artifact_location(mut self, uri: impl Into<String>) -> Self {
        self.artifact_location = Some(uri.into());
        self
    }
}

/// A group of runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Experiment {
    /// Its id.
    pub id: ExperimentId,
    /// Its name.
    pub name: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Where clients put artifacts, as it was given.
    pub artifact_location: Option<String>,
    /// Whether it is in use.
    pub stage: LifecycleStage,
    /// Who created it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// When it was last edited, deleted or restored.
    pub updated_at: Timestamp,
}

impl Experiment {
    /// The URI that clients put artifacts under: as it was given, else `mlflow-artifacts:/` and the id, by which MLflow's
    /// clients use the tracking server itself.
    #[must_use]
    pub fn artifacts(&self) -> String {
        self.artifact_location.clone().unwrap_or_else(|| format!("mlflow-artifacts:/{}", self.id))
    }
}

impl Searched for Experiment {
    fn values(&self, field: &Field, _datasets: &[DatasetFilter]) -> Vec<Value> {
        vec![match field {
            Field::Tag(key) => self.tags.get(key).cloned().into(),
            Field::Attribute("name") => Value::Text(self.name.clone()),
            Field::Attribute("experiment_id") => Value::Text(self.id.to_string()),
            Field::Attribute("creation_time") => Value::Time(self.created_at.timestamp_micros()),
            Field::Attribute("last_update_time") => Value::Time(self.updated_at.timestamp_micros()),
            _ => Value::Missing,
        }]
    }

    fn key(&self, order: &Order) -> Value {
        self.values(&order.field, &[]).pop().unwrap_or(Value::Missing)
    }
}

/// What is to be changed of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExperimentEdit {
    /// A new name.
    pub name: Option<String>,
    /// Tags to set.
    pub set_tags: BTreeMap<String, String>,
    /// Tags to take away; one that is not there is no error.
    pub remove_tags: BTreeSet<String>,
}

impl ExperimentEdit {
    /// No change yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it another name.
    #[must_use]
    pub fn rename(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    tag_setters!();
}
