use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use mlops_core::code::{CodeVersion, Environment};
use mlops_core::{DatasetRef, ExperimentId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Artifact, LoggedModelId, RunModel};
use crate::search::{DatasetFilter, Field, LifecycleStage, Order, Searched, Value};

/// A run to be started.
///
/// ```
/// use mlops_core::{RunId, Clock, SystemClock};
/// use mlops_registry::NewRun;
/// let at = SystemClock.now();
/// // With an id derived from what the run stands for, starting it again after a crash finds it.
/// let run = NewRun::new("prices").name("mlp").id(RunId::derived(at, b"week 27")).tag("host", "a");
/// assert_eq!(run.experiment, "prices");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewRun {
    /// Its id; a new one when absent.
    pub id: Option<RunId>,
    /// The experiment's name.
    pub experiment: String,
    /// A name for people; need not be unique.
    pub name: String,
    /// The run it is a part of.
    pub parent: Option<RunId>,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// When it started; now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

impl NewRun {
    /// A run of that experiment.
    pub fn new(experiment: impl Into<String>) -> Self {
        Self { experiment: experiment.into(), ..Self::default() }
    }

    /// Gives it that id, which makes starting it idempotent.
    #[must_use]
    pub fn id(mut self, id: RunId) -> Self {
        self.id = Some(id);
        self
    }

    /// Gives it a name for people.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Says when it started, for a run that is told of later.
    #[must_use]
    pub fn started_at(mut self, at: Timestamp) -> Self {
        self.started_at = Some(at);
        self
    }

    /// Makes it a part of another run.
    #[must_use]
    pub fn parent(mut self, parent: RunId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Says which code it runs, by [tags](CodeVersion::tags).
    #[must_use]
    pub fn code(mut self, code: &CodeVersion) -> Self {
        self.tags.extend(code.tags());
        self
    }

    /// Says what it runs in, by [tags](Environment::tags).
    #[must_use]
    pub fn environment(mut self, environment: &Environment) -> Self {
        self.tags.extend(environment.tags());
        self
    }
}

/// Where a run stands, in MLflow's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum RunStatus {
    /// Under way.
    Running,
    /// To be started later.
    Scheduled,
    /// Ended well.
    Finished,
    /// Ended with an error.
    Failed,
    /// Stopped from outside.
    Killed,
}

impl RunStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Running, Self::Scheduled, Self::Finished, Self::Failed, Self::Killed];

    /// MLflow's spelling: `RUNNING`, `SCHEDULED`, `FINISHED`, `FAILED`, `KILLED`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Scheduled => "SCHEDULED",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }

    /// Whether a run in this state has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Killed)
    }
}

impl Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The dataset that a metric was measured on, by the name and digest that its caller has for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricDataset {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: String,
}

impl MetricDataset {
    /// A dataset by name and digest.
    pub fn new(name: impl Into<String>, digest: impl Into<String>) -> Self {
        Self { name: name.into(), digest: digest.into() }
    }
}

impl From<&DatasetRef> for MetricDataset {
    fn from(dataset: &DatasetRef) -> Self {
        Self::new(&dataset.name, dataset.digest.to_string())
    }
}

/// One point of a metric.
///
/// Equality is that of floating point: a point with a NaN differs from itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metric {
    /// The metric's name.
    pub key: String,
    /// The value; NaN and the infinities are kept.
    #[serde(with = "mlops_core::json::lossless_f64")]
    pub value: f64,
    /// The training step, epoch or whatever counts; may be negative.
    pub step: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// The logged model that it was measured of, which keeps it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<LoggedModelId>,
    /// The dataset that it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<MetricDataset>,
}

impl Metric {
    /// A point.
    pub fn new(key: impl Into<String>, value: f64, step: i64, at: Timestamp) -> Self {
        Self { key: key.into(), value, step, at, model: None, dataset: None }
    }

    /// Of a logged model.
    #[must_use]
    pub fn of(mut self, model: LoggedModelId) -> Self {
        self.model = Some(model);
        self
    }

    /// On a dataset.
    #[must_use]
    pub fn on(mut self, dataset: impl Into<MetricDataset>) -> Self {
        self.dataset = Some(dataset.into());
        self
    }
}

impl Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at step {}", self.key, self.value, self.step)
    }
}

/// Params, metrics and tags that are logged together: all or none.
///
/// ```
/// use mlops_core::{Clock, SystemClock};
/// use mlops_registry::LogBatch;
/// let now = SystemClock.now();
/// let batch = LogBatch::new().param("lr", 0.1).metric("loss", 0.69, 0, now).metric("loss", 0.41, 1, now);
/// assert_eq!((batch.params.len(), batch.metrics.len()), (1, 2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogBatch {
    /// Settings: each key keeps its first value for ever.
    pub params: BTreeMap<String, String>,
    /// Points of metrics, any number per key.
    pub metrics: Vec<Metric>,
    /// Labels: a key takes the last value given.
    pub tags: BTreeMap<String, String>,
}

impl LogBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a param. Within one batch a later value for the same key replaces the earlier.
    #[must_use]
    pub fn param(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.params.insert(key.into(), value.to_string());
        self
    }

    /// Adds a point of a metric.
    #[must_use]
    pub fn metric(self, key: impl Into<String>, value: f64, step: i64, at: Timestamp) -> Self {
        self.point(Metric::new(key, value, step, at))
    }

    /// Adds a point of a metric, with the model or the dataset it belongs to.
    #[must_use]
    pub fn point(mut self, metric: Metric) -> Self {
        self.metrics.push(metric);
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// What is known of a run from its start and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunInfo {
    /// Its id.
    pub id: RunId,
    /// The experiment's name.
    pub experiment: String,
    /// The experiment's id.
    pub experiment_id: ExperimentId,
    /// A name for people; may be empty.
    pub name: String,
    /// The run it is a part of.
    pub parent: Option<RunId>,
    /// Whether it is in use; deleted also while its experiment is.
    pub stage: LifecycleStage,
    /// Where it stands.
    pub status: RunStatus,
    /// Who started it.
    pub author: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What is to be changed of a run: all that MLflow's `runs/update` may change.
///
/// ```
/// use mlops_registry::{RunEdit, RunStatus};
/// // Going on with a run that has ended.
/// let resume = RunEdit::new().status(RunStatus::Running);
/// assert_eq!(resume.ended_at, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunEdit {
    /// A new name for people.
    pub name: Option<String>,
    /// Another status. One that is not terminal takes the time of end away.
    pub status: Option<RunStatus>,
    /// When it ended; without it, a terminal status ends the run now unless it had ended before.
    pub ended_at: Option<Timestamp>,
    /// Tags to take away; one that is not there is no error.
    pub remove_tags: BTreeSet<String>,
}

impl RunEdit {
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

    /// Gives it another status.
    #[must_use]
    pub fn status(mut self, status: RunStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Says when it ended.
    #[must_use]
    pub fn ended_at(mut self, at: Timestamp) -> Self {
        self.ended_at = Some(at);
        self
    }

    /// Takes a tag away.
    #[must_use]
    pub fn remove_tag(mut self, key: impl Into<String>) -> Self {
        self.remove_tags.insert(key.into());
        self
    }
}

/// A dataset version that a run read: MLflow's `DatasetInput`.
///
/// ```
/// use mlops_core::{DatasetRef, Digest};
/// use mlops_registry::RunInput;
/// let rows = DatasetRef { name: "prices".into(), digest: Digest::of(b"rows") };
/// let input = RunInput::of(&rows, "training");
/// assert_eq!(input.dataset_ref(), Some(rows));
/// assert_eq!(RunInput::new("prices", "a1b2c3", "training").dataset_ref(), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunInput {
    /// The dataset's name.
    pub name: String,
    /// What tells this version of it from others: one of our digests, or any text of another tool's.
    pub digest: String,
    /// What it was read for: `training`, `validation`; MLflow's tag `mlflow.data.context`.
    pub context: String,
    /// What kind of thing `source` names: `local`, `s3`, `hugging_face`.
    pub source_type: String,
    /// Where it was read from, as a URI or JSON.
    pub source: String,
    /// Its columns, as JSON of the tool's.
    pub schema: Option<String>,
    /// Statistics of it, as JSON of the tool's.
    pub profile: Option<String>,
    /// Free labels, the context aside.
    pub tags: BTreeMap<String, String>,
}

/// What [`RunInput::of`] gives as the type of its source: a dataset version of this toolkit.
const OWN_SOURCE: &str = "mlops";

impl RunInput {
    /// A dataset by the name and digest that another tool has for it.
    pub fn new(name: impl Into<String>, digest: impl Into<String>, context: impl Into<String>) -> Self {
        Self { name: name.into(), digest: digest.into(), context: context.into(), ..Self::default() }
    }

    /// A dataset version of this toolkit.
    pub fn of(dataset: &DatasetRef, context: impl Into<String>) -> Self {
        Self {
            source_type: OWN_SOURCE.to_owned(),
            source: format!("{}@{}", dataset.name, dataset.digest),
            ..Self::new(&dataset.name, dataset.digest.to_string(), context)
        }
    }

    /// The dataset version, where the digest is one of this toolkit's.
    #[must_use]
    pub fn dataset_ref(&self) -> Option<DatasetRef> {
        Some(DatasetRef { name: self.name.clone(), digest: self.digest.parse().ok()? })
    }

    /// Where it was read from.
    #[must_use]
    pub fn source(mut self, source_type: impl Into<String>, source: impl Into<String>) -> Self {
        (self.source_type, self.source) = (source_type.into(), source.into());
        self
    }

    /// Its columns.
    #[must_use]
    pub fn schema(mut self, json: impl Into<String>) -> Self {
        self.schema = Some(json.into());
        self
    }

    /// Statistics of it.
    #[must_use]
    pub fn profile(mut self, json: impl Into<String>) -> Self {
        self.profile = Some(json.into());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// A run with everything logged to it, metrics by their latest point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Run {
    /// Start, end and origin.
    pub info: RunInfo,
    /// Settings.
    pub params: BTreeMap<String, String>,
    /// By key, the latest point: the greatest by step, then time, then value, with NaN below every number.
    pub metrics: BTreeMap<String, Metric>,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// The dataset versions it read, sorted by name, digest and context.
    pub inputs: Vec<RunInput>,
    /// The logged models that it read or made, sorted.
    pub models: Vec<RunModel>,
    /// The artifacts it left, sorted by path.
    pub artifacts: Vec<Artifact>,
    /// The URI that clients put its artifacts under.
    pub artifact_uri: String,
}

impl Run {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.info.id
    }

    /// The latest value of a metric.
    #[must_use]
    pub fn metric(&self, key: &str) -> Option<f64> {
        self.metrics.get(key).map(|m| m.value)
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunInfo { id, experiment, name, status, author, started_at, .. } = &self.info;
        let title = if name.is_empty() { id.to_string() } else { format!("{name} ({id})") };
        write!(f, "run {title} of {experiment}: {status}, by {author} at {}", started_at.format("%Y-%m-%d %H:%M"))?;
        for (key, value) in &self.params {
            write!(f, ", {key}={value}")?;
        }
        for (key, metric) in &self.metrics {
            write!(f, ", {key} {}", metric.value)?;
        }
        Ok(())
    }
}

impl Searched for Run {
    fn values(&self, field: &Field, _datasets: &[DatasetFilter]) -> Vec<Value> {
        let text = |text: &str| Value::Text(text.to_owned());
        vec![match field {
            Field::Metric(key) => self.metrics.get(key).map_or(Value::Missing, |m| Value::Number(m.value)),
            Field::Param(key) => self.params.get(key).cloned().into(),
            Field::Tag(key) => self.tags.get(key).cloned().into(),
            Field::Dataset(part) => {
                let part = |input: &RunInput| match *part {
                    "name" => text(&input.name),
                    "digest" => text(&input.digest),
                    _ => text(&input.context),
                };
                return self.inputs.iter().map(part).collect();
            }
            Field::Attribute("run_id") => Value::Text(self.info.id.to_string()),
            Field::Attribute("run_name") => text(&self.info.name),
            Field::Attribute("user_id") => text(&self.info.author),
            Field::Attribute("status") => text(self.info.status.as_str()),
            Field::Attribute("artifact_uri") => text(&self.artifact_uri),
            Field::Attribute("start_time") => Value::Time(self.info.started_at.timestamp_micros()),
            Field::Attribute("end_time") => {
                self.info.ended_at.map_or(Value::Missing, |at| Value::Time(at.timestamp_micros()))
            }
            Field::Attribute(_) => Value::Missing,
        }]
    }

    fn key(&self, order: &Order) -> Value {
        self.values(&order.field, &[]).pop().unwrap_or(Value::Missing)
    }
}
