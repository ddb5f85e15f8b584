//! Experiments and runs: what was tried, with which settings, on which data, and what came out.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use mlops_core::{DatasetRef, Digest, ExperimentId, Principal, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Result;

/// An experiment to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewExperiment {
    /// Its name, unique in the store.
    pub name: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
}

impl NewExperiment {
    /// An experiment without tags.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), tags: BTreeMap::new() }
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
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
    /// Who created it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
}

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
}

impl Metric {
    /// A point.
    pub fn new(key: impl Into<String>, value: f64, step: i64, at: Timestamp) -> Self {
        Self { key: key.into(), value, step, at }
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
    pub fn metric(mut self, key: impl Into<String>, value: f64, step: i64, at: Timestamp) -> Self {
        self.metrics.push(Metric::new(key, value, step, at));
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
    /// A name for people; may be empty.
    pub name: String,
    /// The run it is a part of.
    pub parent: Option<RunId>,
    /// Where it stands.
    pub status: RunStatus,
    /// Who started it.
    pub author: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A dataset version that a run read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunInput {
    /// The dataset version.
    pub dataset: DatasetRef,
    /// What it was read for: `training`, `validation`.
    pub context: String,
}

/// An artifact that a run left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunArtifact {
    /// Its path within the run.
    pub path: String,
    /// The digest of its bytes, under which the artifact store has them.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
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
    /// The dataset versions it read, sorted.
    pub inputs: Vec<RunInput>,
    /// The artifacts it left, sorted by path.
    pub artifacts: Vec<RunArtifact>,
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

/// Keeps experiments and runs.
///
/// # Contract
/// - **Permission.** Every call that changes something takes who does it, and is
///   [`PermissionDenied`](mlops_core::Error::PermissionDenied) without [`Permission::Track`](mlops_core::Permission::Track)
///   on the experiment. Reading is open: the edges check it.
/// - **Atomic.** A call is kept whole or not at all, also when its future is dropped or the process is killed. What has
///   returned `Ok` is there for every later call on any handle.
/// - **Idempotent.** The same call again changes nothing: an experiment of the same name and tags, a run of the same id
///   and contents, the same params, metric points, tags, inputs and artifacts. Other contents under the same name or id
///   are [`AlreadyExists`](mlops_core::Error::AlreadyExists).
/// - **Params** keep their first value: [`Error::ParamChanged`](crate::Error::ParamChanged). **Tags** take the last.
/// - **Metrics** keep every distinct point, NaN and ±infinity included. The latest is the greatest by step, then time,
///   then value, a NaN being below every number.
/// - **Times** are kept to the microsecond.
/// - **Order.** `runs` goes from the newest start to the oldest; `metric_history` by step, then time, then value.
/// - **Missing** experiments and runs are [`NotFound`](mlops_core::Error::NotFound), by name.
/// - **Lineage.** Where the backend keeps lineage, a run and its inputs appear in it, in the same transaction.
/// - **Audit.** Creating an experiment, starting and ending a run, and what is said of one (params, tags, inputs,
///   artifacts) are audited in the same transaction, once; what changes nothing is not. Metric points are data and are
///   not. A value of more than 1,000 bytes is audited by its digest.
/// - **Clones** and pointers share one store. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait TrackingStore: Debug + Display + Send + Sync + 'static {
    /// Creates an experiment.
    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment>;

    /// The experiment of that name.
    async fn experiment(&self, name: &str) -> Result<Experiment>;

    /// Starts a run: its status is [`RunStatus::Running`]. A repeated start finds the run as it is now.
    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run>;

    /// Adds params, metrics and tags to a run, ended or not.
    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()>;

    /// Says that a run left `bytes` bytes with that digest at `path`. The bytes are the caller's to store, before.
    async fn log_artifact(&self, who: &Principal, run: RunId, path: &str, digest: Digest, bytes: u64) -> Result<()>;

    /// Says that a run read a dataset version, and for what: `training`, `validation`.
    async fn log_input(&self, who: &Principal, run: RunId, dataset: DatasetRef, context: &str) -> Result<()>;

    /// Ends a run with a terminal status. Ending it again the same way changes nothing and keeps the first time of end;
    /// ending it another way is a [`Conflict`](mlops_core::Error::Conflict).
    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run>;

    /// The run of that id.
    async fn run(&self, id: RunId) -> Result<Run>;

    /// At most `limit` (1 to 1,000) runs of an experiment, newest first, those that come after run `after`.
    async fn runs(&self, experiment: &str, limit: usize, after: Option<RunId>) -> Result<Vec<Run>>;

    /// Every point of one metric; empty if there is none.
    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a forgotten forward would use a default in silence
impl<S: TrackingStore + ?Sized> TrackingStore for Arc<S> {
    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment> {
        (**self).create_experiment(who, new).await
    }

    async fn experiment(&self, name: &str) -> Result<Experiment> {
        (**self).experiment(name).await
    }

    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run> {
        (**self).start_run(who, new).await
    }

    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
        (**self).log_batch(who, run, batch).await
    }

    async fn log_artifact(&self, who: &Principal, run: RunId, path: &str, digest: Digest, bytes: u64) -> Result<()> {
        (**self).log_artifact(who, run, path, digest, bytes).await
    }

    async fn log_input(&self, who: &Principal, run: RunId, dataset: DatasetRef, context: &str) -> Result<()> {
        (**self).log_input(who, run, dataset, context).await
    }

    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
        (**self).finish_run(who, run, status).await
    }

    async fn run(&self, id: RunId) -> Result<Run> {
        (**self).run(id).await
    }

    async fn runs(&self, experiment: &str, limit: usize, after: Option<RunId>) -> Result<Vec<Run>> {
        (**self).runs(experiment, limit, after).await
    }

    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>> {
        (**self).metric_history(run, key).await
    }
}
