//! Experiments, runs and logged models: what was tried, with which settings, on which data, and what came out.
//!
//! [`TrackingStore`] keeps all that MLflow's tracking server keeps; [`search`](crate::search) says how it is searched.
//! [`MetricLogger`] logs from a training loop without making it wait, and [`RunTable`] puts runs side by side.

mod artifact;
mod experiment;
pub mod export;
mod logged_model;
mod logger;
mod run;
pub mod system;
mod table;

use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use mlops_core::{DatasetRef, Digest, ExperimentId, Principal, RunId};

pub use self::artifact::{Artifact, ArtifactMode, ArtifactOwner};
pub use self::experiment::{Experiment, ExperimentEdit, NewExperiment};
pub use self::logged_model::{
    LoggedModel, LoggedModelEdit, LoggedModelId, LoggedModelStatus, ModelMetric, NewLoggedModel, RunModel, RunModelRole,
};
pub use self::logger::{MetricLogger, MetricLoggerBuilder, MetricWriter, Written};
pub use self::run::{LogBatch, Metric, MetricDataset, NewRun, Run, RunEdit, RunInfo, RunInput, RunStatus};
pub use self::table::RunTable;
use crate::search::{Page, Search};
use crate::{Limit, Result};

/// Keeps experiments, runs and logged models: the minimum a backend provides. Callers also use [`TrackingStoreExt`].
///
/// # Contract
/// - **Permission.** Every call that changes something takes who does it, and is
///   [`PermissionDenied`](mlops_core::Error::PermissionDenied) without [`Permission::Track`](mlops_core::Permission::Track)
///   on the experiment. Reading is open: the edges check it.
/// - **Atomic.** A call is kept whole or not at all, also when its future is dropped or the process is killed. What has
///   returned `Ok` is there for every later call on any handle.
/// - **Idempotent.** The same call again changes nothing: an experiment of the same name and contents, a run or a logged
///   model of the same id and contents, the same params, metric points, tags, inputs, models, artifacts and edits. Other
///   contents under the same name or id are [`AlreadyExists`](mlops_core::Error::AlreadyExists).
/// - **Params** keep their first value: [`Error::ParamChanged`](crate::Error::ParamChanged). **Tags** take the last.
/// - **Metrics** keep every distinct point, NaN and ±infinity included. The latest is the greatest by step, then time,
///   then value, a NaN being below every number. Points of a run that are equal in all of these are one, with the model
///   and dataset that came first.
/// - **A logged model** keeps, for each metric that was logged of it, the latest point of each run and dataset.
/// - **Inputs** of a run are told apart by name, digest and context, and keep what was said of them first.
/// - **Artifacts** are written once, or overwritten where the caller says so. Paths are relative, with `/` between names.
/// - **Deletion** hides and can be undone; nothing is lost. With an experiment its runs and logged models are deleted,
///   and come back with it, but for those deleted by themselves. What is deleted takes no changes:
///   [`Conflict`](mlops_core::Error::Conflict). The name of a deleted experiment stays taken.
/// - **Search** finds what its filter and order say ([`search`](crate::search)), in pages without gap or overlap.
///   Experiments that are not there have no runs.
/// - **Times** are kept to the microsecond.
/// - **Order.** `metric_history` goes by step, then time, then value; `artifacts` by path.
/// - **Missing** experiments, runs and logged models are [`NotFound`](mlops_core::Error::NotFound), by name or id.
/// - **Lineage.** Where the backend keeps lineage, a run and its inputs appear in it, in the same transaction.
/// - **Audit.** Every change is audited in the same transaction, once; what changes nothing is not. Metric points are data
///   and are not. A value of more than 1,000 bytes is audited by its digest.
/// - **Clones** and pointers share one store. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait TrackingStore: Debug + Display + Send + Sync + 'static {
    /// What of this contract it does not do, where the system behind it cannot; empty for a database of this crate.
    fn tracking_limits(&self) -> &'static [Limit];

    /// Creates an experiment.
    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment>;

    /// The experiment of that name, deleted or not.
    async fn experiment(&self, name: &str) -> Result<Experiment>;

    /// The experiment of that id, deleted or not.
    async fn experiment_by_id(&self, id: ExperimentId) -> Result<Experiment>;

    /// Renames an experiment, sets and removes tags of it.
    async fn edit_experiment(&self, who: &Principal, name: &str, edit: ExperimentEdit) -> Result<Experiment>;

    /// Deletes an experiment.
    async fn delete_experiment(&self, who: &Principal, name: &str) -> Result<Experiment>;

    /// Takes the deletion of an experiment back.
    async fn restore_experiment(&self, who: &Principal, name: &str) -> Result<Experiment>;

    /// The experiments that a search finds.
    async fn search_experiments(&self, search: Search) -> Result<Page<Experiment>>;

    /// Starts a run: its status is [`RunStatus::Running`]. A repeated start finds the run as it is now.
    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run>;

    /// Adds params, metrics and tags to a run, ended or not.
    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()>;

    /// Says which dataset versions a run read, and for what.
    async fn log_inputs(&self, who: &Principal, run: RunId, inputs: Vec<RunInput>) -> Result<()>;

    /// Says which logged models a run read or made. A model that is told of again in the same role keeps its step.
    async fn log_models(&self, who: &Principal, run: RunId, models: Vec<RunModel>) -> Result<()>;

    /// Ends a run with a terminal status. Ending it again the same way changes nothing and keeps the first time of end;
    /// ending it another way is a [`Conflict`](mlops_core::Error::Conflict).
    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run>;

    /// Renames a run, gives it any status, removes tags. Unlike `finish_run` it also takes an end back.
    async fn edit_run(&self, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run>;

    /// Deletes a run.
    async fn delete_run(&self, who: &Principal, run: RunId) -> Result<Run>;

    /// Takes the deletion of a run back.
    async fn restore_run(&self, who: &Principal, run: RunId) -> Result<Run>;

    /// The run of that id, deleted or not.
    async fn run(&self, id: RunId) -> Result<Run>;

    /// The runs of these experiments that a search finds.
    async fn search_runs(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<Run>>;

    /// Every point of one metric; empty if there is none.
    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>>;

    /// At most `limit` (1 to 50,000) points of one metric, in the order of its history, behind the page before.
    async fn metric_page(&self, run: RunId, key: &str, limit: usize, page_token: Option<&str>) -> Result<Page<Metric>>;

    /// Creates a logged model.
    async fn create_logged_model(&self, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel>;

    /// Says whether the model's files are there: [`Ready`](LoggedModelStatus::Ready) or
    /// [`UploadFailed`](LoggedModelStatus::UploadFailed). The last word counts.
    async fn finish_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        status: LoggedModelStatus,
    ) -> Result<LoggedModel>;

    /// Sets and removes tags of a logged model, adds params.
    async fn edit_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        edit: LoggedModelEdit,
    ) -> Result<LoggedModel>;

    /// Deletes a logged model.
    async fn delete_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel>;

    /// Takes the deletion of a logged model back.
    async fn restore_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel>;

    /// The logged model of that id, deleted or not.
    async fn logged_model(&self, id: LoggedModelId) -> Result<LoggedModel>;

    /// The logged models of these experiments that a search finds.
    async fn search_logged_models(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<LoggedModel>>;

    /// Says that a run or a logged model left an artifact. The bytes are the caller's to store, before.
    async fn put_artifact(
        &self,
        who: &Principal,
        owner: ArtifactOwner,
        artifact: Artifact,
        mode: ArtifactMode,
    ) -> Result<()>;

    /// Forgets the artifact at `path`; one that is not there is no error.
    async fn remove_artifact(&self, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()>;

    /// The artifact at `path`.
    async fn artifact(&self, owner: ArtifactOwner, path: &str) -> Result<Artifact>;

    /// Every artifact under the directory `within`, however deep, or all if it is empty.
    async fn artifacts(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>>;
}

/// Conveniences for callers. Implemented for every store; never implement it by hand.
pub trait TrackingStoreExt: TrackingStore {
    /// Says that a run read a dataset version of this toolkit, and for what: `training`, `validation`.
    fn log_input(
        &self,
        who: &Principal,
        run: RunId,
        dataset: DatasetRef,
        context: &str,
    ) -> impl Future<Output = Result<()>> + Send {
        let input = RunInput::of(&dataset, context);
        async move { self.log_inputs(who, run, vec![input]).await }
    }

    /// Says that a run left `bytes` bytes with that digest at `path`, where nothing else may be.
    fn log_artifact(
        &self,
        who: &Principal,
        run: RunId,
        path: &str,
        digest: Digest,
        bytes: u64,
    ) -> impl Future<Output = Result<()>> + Send {
        let artifact = Artifact::new(path, digest, bytes);
        async move { self.put_artifact(who, run.into(), artifact, ArtifactMode::Create).await }
    }

    /// At most `limit` (1 to 50,000) runs in use of an experiment, newest first.
    fn newest_runs(&self, experiment: &str, limit: usize) -> impl Future<Output = Result<Vec<Run>>> + Send {
        async move {
            let id = self.experiment(experiment).await?.id;
            Ok(self.search_runs(&[id], Search::default().limit(limit)).await?.items)
        }
    }
}

impl<S: TrackingStore + ?Sized> TrackingStoreExt for S {}

macro_rules! forward {
    ($(async fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)+) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)] // a forgotten forward would use a default in silence
        impl<S: TrackingStore + ?Sized> TrackingStore for Arc<S> {
            fn tracking_limits(&self) -> &'static [Limit] {
                (**self).tracking_limits()
            }

            $(
            async fn $name(&self $(, $arg: $type)*) -> $result {
                (**self).$name($($arg),*).await
            }
            )+
        }
    };
}

forward! {
    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment>;
    async fn experiment(&self, name: &str) -> Result<Experiment>;
    async fn experiment_by_id(&self, id: ExperimentId) -> Result<Experiment>;
    async fn edit_experiment(&self, who: &Principal, name: &str, edit: ExperimentEdit) -> Result<Experiment>;
    async fn delete_experiment(&self, who: &Principal, name: &str) -> Result<Experiment>;
    async fn restore_experiment(&self, who: &Principal, name: &str) -> Result<Experiment>;
    async fn search_experiments(&self, search: Search) -> Result<Page<Experiment>>;
    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run>;
    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()>;
    async fn log_inputs(&self, who: &Principal, run: RunId, inputs: Vec<RunInput>) -> Result<()>;
    async fn log_models(&self, who: &Principal, run: RunId, models: Vec<RunModel>) -> Result<()>;
    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run>;
    async fn edit_run(&self, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run>;
    async fn delete_run(&self, who: &Principal, run: RunId) -> Result<Run>;
    async fn restore_run(&self, who: &Principal, run: RunId) -> Result<Run>;
    async fn run(&self, id: RunId) -> Result<Run>;
    async fn search_runs(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<Run>>;
    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>>;
    async fn metric_page(&self, run: RunId, key: &str, limit: usize, page_token: Option<&str>) -> Result<Page<Metric>>;
    async fn create_logged_model(&self, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel>;
    async fn finish_logged_model(&self, who: &Principal, model: LoggedModelId, status: LoggedModelStatus) -> Result<LoggedModel>;
    async fn edit_logged_model(&self, who: &Principal, model: LoggedModelId, edit: LoggedModelEdit) -> Result<LoggedModel>;
    async fn delete_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel>;
    async fn restore_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel>;
    async fn logged_model(&self, id: LoggedModelId) -> Result<LoggedModel>;
    async fn search_logged_models(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<LoggedModel>>;
    async fn put_artifact(&self, who: &Principal, owner: ArtifactOwner, artifact: Artifact, mode: ArtifactMode) -> Result<()>;
    async fn remove_artifact(&self, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()>;
    async fn artifact(&self, owner: ArtifactOwner, path: &str) -> Result<Artifact>;
    async fn artifacts(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>>;
}
