use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;

use mlops_core::{Error as CoreError, ExperimentId, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Metric, MetricDataset};
use crate::edit::tag_setters;
use crate::search::{DatasetFilter, Field, LifecycleStage, Order, Searched, Value};

/// Names a logged model: `m-` and 32 hexadecimal digits, MLflow's form.
///
/// ```
/// use mlops_registry::LoggedModelId;
/// let id: LoggedModelId = "m-0194f1d2c3b47a5e8f60718293a4b5c6".parse()?;
/// assert_eq!(id.to_string(), "m-0194f1d2c3b47a5e8f60718293a4b5c6");
/// assert!("0194f1d2c3b47a5e8f60718293a4b5c6".parse::<LoggedModelId>().is_err());
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LoggedModelId(Uuid);

impl LoggedModelId {
    /// A new id for something that happens at `at`; ids sort by time.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self(*RunId::new(at).as_uuid())
    }

    /// The id of the model that is logged at `at` and described by `seed`: equal input, equal id.
    #[must_use]
    pub fn derived(at: Timestamp, seed: &[u8]) -> Self {
        Self(*RunId::derived(at, &[b"logged model ", seed].concat()).as_uuid())
    }
}

impl Display for LoggedModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m-{}", self.0.simple())
    }
}

impl FromStr for LoggedModelId {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        let digits = text.strip_prefix("m-").filter(|d| d.len() == 32 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        digits.and_then(|digits| Uuid::parse_str(digits).ok()).map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            CoreError::invalid("logged model id", format!("{shown:?} is not m- and 32 hexadecimal digits"))
        })
    }
}

impl From<LoggedModelId> for String {
    fn from(id: LoggedModelId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for LoggedModelId {
    type Error = CoreError;

    fn try_from(text: String) -> Result<Self, CoreError> {
        text.parse()
    }
}

/// A logged model to be created: its status is [`LoggedModelStatus::Pending`] until its files are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewLoggedModel {
    /// Its id; a new one when absent.
    pub id: Option<LoggedModelId>,
    /// The experiment.
    pub experiment: ExperimentId,
    /// A name for people; need not be unique.
    pub name: String,
    /// What kind of model: free text.
    pub model_type: Option<String>,
    /// The run that made it.
    pub source_run: Option<RunId>,
    /// Settings.
    pub params: BTreeMap<String, String>,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
}

impl NewLoggedModel {
    /// A model in that experiment.
    pub fn new(experiment: ExperimentId, name: impl Into<String>) -> Self {
        Self {
            id: None,
            experiment,
            name: name.into(),
            model_type: None,
            source_run: None,
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Gives it that id, which makes creating it idempotent.
    #[must_use]
    pub fn id(mut self, id: LoggedModelId) -> Self {
        self.id = Some(id);
        self
    }

    /// What kind of model it is.
    #[must_use]
    pub fn model_type(mut self, model_type: impl Into<String>) -> Self {
        self.model_type = Some(model_type.into());
        self
    }

    /// The run that made it.
    #[must_use]
    pub fn source_run(mut self, run: RunId) -> Self {
        self.source_run = Some(run);
        self
    }

    /// Adds a param.
    #[must_use]
    pub fn param(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.params.insert(key.into(), value.to_string());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// Whether a logged model's files are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LoggedModelStatus {
    /// They are being written.
    #[serde(rename = "LOGGED_MODEL_PENDING")]
    Pending,
    /// They are there.
    #[serde(rename = "LOGGED_MODEL_READY")]
    Ready,
    /// They could not be written.
    #[serde(rename = "LOGGED_MODEL_UPLOAD_FAILED")]
    UploadFailed,
}

impl LoggedModelStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Ready, Self::UploadFailed];

    /// MLflow's spelling on the wire: `LOGGED_MODEL_PENDING`, `LOGGED_MODEL_READY`, `LOGGED_MODEL_UPLOAD_FAILED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "LOGGED_MODEL_PENDING",
            Self::Ready => "LOGGED_MODEL_READY",
            Self::UploadFailed => "LOGGED_MODEL_UPLOAD_FAILED",
        }
    }

    /// MLflow's spelling in filters: `PENDING`, `READY`, `UPLOAD_FAILED`.
    #[must_use]
    pub fn as_filter(self) -> &'static str {
        &self.as_str()["LOGGED_MODEL_".len()..]
    }
}

impl Display for LoggedModelStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_filter())
    }
}

/// A metric of a logged model: the latest point of one run on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelMetric {
    /// The run that measured it.
    pub run: RunId,
    /// The point; its dataset is the one it was measured on, its model this one.
    pub metric: Metric,
}

/// A model as it was logged, before or without being registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoggedModel {
    /// Its id.
    pub id: LoggedModelId,
    /// The experiment.
    pub experiment: ExperimentId,
    /// A name for people.
    pub name: String,
    /// What kind of model: free text.
    pub model_type: Option<String>,
    /// The run that made it.
    pub source_run: Option<RunId>,
    /// Whether its files are there.
    pub status: LoggedModelStatus,
    /// Whether it is in use; deleted also while its experiment is.
    pub stage: LifecycleStage,
    /// Settings: each key keeps its first value.
    pub params: BTreeMap<String, String>,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// What runs measured of it, sorted by key, run and dataset.
    pub metrics: Vec<ModelMetric>,
    /// Who created it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// When it was last finished, edited or deleted.
    pub updated_at: Timestamp,
}

impl LoggedModel {
    /// The latest point of a metric over all runs, on that dataset or on any: the greatest by step, then time, then value.
    #[must_use]
    pub fn metric(&self, key: &str, dataset: Option<&DatasetFilter>) -> Option<&ModelMetric> {
        let on = |m: &&ModelMetric| {
            let (name, digest) = m.metric.dataset.as_ref().map_or(("", ""), |d| (&*d.name, &*d.digest));
            m.metric.key == key && dataset.is_none_or(|wanted| wanted.fits(name, digest))
        };
        self.metrics.iter().filter(on).max_by(|a, b| {
            let rank = |m: &Metric| (m.step, m.at.timestamp_micros(), !m.value.is_nan());
            let values = a.metric.value.partial_cmp(&b.metric.value).unwrap_or(std::cmp::Ordering::Equal);
            rank(&a.metric).cmp(&rank(&b.metric)).then(values)
        })
    }
}

impl Searched for LoggedModel {
    fn values(&self, field: &Field, datasets: &[DatasetFilter]) -> Vec<Value> {
        let on = |dataset: Option<&MetricDataset>| {
            let (name, digest) = dataset.map_or(("", ""), |d| (&*d.name, &*d.digest));
            datasets.is_empty() || datasets.iter().any(|wanted| wanted.fits(name, digest))
        };
        vec![match field {
            Field::Metric(key) => {
                let named = self.metrics.iter().filter(|m| m.metric.key == *key && on(m.metric.dataset.as_ref()));
                return named.map(|m| Value::Number(m.metric.value)).collect();
            }
            Field::Param(key) => self.params.get(key).cloned().into(),
            Field::Tag(key) => self.tags.get(key).cloned().into(),
            Field::Attribute("name") => Value::Text(self.name.clone()),
            Field::Attribute("model_id") => Value::Text(self.id.to_string()),
            Field::Attribute("model_type") => self.model_type.clone().into(),
            Field::Attribute("status") => Value::Text(self.status.as_filter().to_owned()),
            Field::Attribute("source_run_id") => self.source_run.map(|run| run.to_string()).into(),
            Field::Attribute("creation_timestamp") => Value::Time(self.created_at.timestamp_micros()),
            Field::Attribute("last_updated_timestamp") => Value::Time(self.updated_at.timestamp_micros()),
            _ => Value::Missing,
        }]
    }

    fn key(&self, order: &Order) -> Value {
        match &order.field {
            Field::Metric(key) => {
                let latest = self.metric(key, order.dataset.as_ref());
                latest.map_or(Value::Missing, |m| Value::Number(m.metric.value))
            }
            field => self.values(field, &[]).pop().unwrap_or(Value::Missing),
        }
    }
}

/// What is to be changed of a logged model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoggedModelEdit {
    /// Tags to set.
    pub set_tags: BTreeMap<String, String>,
    /// Tags to take away; one that is not there is no error.
    pub remove_tags: BTreeSet<String>,
    /// Params to add; one that is there keeps its value.
    pub params: BTreeMap<String, String>,
}

impl LoggedModelEdit {
    /// No change yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a param.
    #[must_use]
    pub fn param(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.params.insert(key.into(), value.to_string());
        self
    }

    tag_setters!();
}

/// Whether a run read a model or made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunModelRole {
    /// It read it.
    Input,
    /// It made it.
    Output,
}

impl RunModelRole {
    /// `input`, `output`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// A logged model that a run read or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunModel {
    /// The model.
    pub model: LoggedModelId,
    /// Whether the run read it or made it.
    pub role: RunModelRole,
    /// The training step at which it was made; 0 for one that was read.
    pub step: i64,
}

impl RunModel {
    /// A model that the run read.
    #[must_use]
    pub fn input(model: LoggedModelId) -> Self {
        Self { model, role: RunModelRole::Input, step: 0 }
    }

    /// A model that the run made at that step.
    #[must_use]
    pub fn output(model: LoggedModelId, step: i64) -> Self {
        Self { model, role: RunModelRole::Output, step }
    }
}
