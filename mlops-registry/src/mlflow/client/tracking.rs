//! The trait's methods, each where it is done.

use async_trait::async_trait;
use mlops_core::{ExperimentId, Principal, RunId};

use super::{LIMITS, MlflowClient, unsupported};
use crate::search::{LifecycleStage, Page, Search};
use crate::tracking::{
    Artifact, ArtifactMode, ArtifactOwner, Experiment, ExperimentEdit, LogBatch, LoggedModel, LoggedModelEdit,
    LoggedModelId, LoggedModelStatus, Metric, NewExperiment, NewLoggedModel, NewRun, Run, RunEdit, RunInput, RunModel,
    RunStatus, TrackingStore,
};
use crate::{Limit, Result};

#[async_trait]
impl TrackingStore for MlflowClient {
    fn tracking_limits(&self) -> &'static [Limit] {
        LIMITS
    }

    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment> {
        self.insert_experiment(who, new).await
    }

    async fn experiment(&self, name: &str) -> Result<Experiment> {
        self.read_experiment(name).await
    }

    async fn experiment_by_id(&self, id: ExperimentId) -> Result<Experiment> {
        self.read_experiment_by_id(id).await
    }

    async fn edit_experiment(&self, who: &Principal, name: &str, edit: ExperimentEdit) -> Result<Experiment> {
        self.change_experiment(who, name, edit).await
    }

    async fn delete_experiment(&self, who: &Principal, name: &str) -> Result<Experiment> {
        self.stage_experiment(who, name, LifecycleStage::Deleted).await
    }

    async fn restore_experiment(&self, who: &Principal, name: &str) -> Result<Experiment> {
        self.stage_experiment(who, name, LifecycleStage::Active).await
    }

    async fn search_experiments(&self, search: Search) -> Result<Page<Experiment>> {
        self.find_experiments(search).await
    }

    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run> {
        self.insert_run(who, new).await
    }

    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
        self.write_batch(who, run, batch).await
    }

    async fn log_inputs(&self, who: &Principal, run: RunId, inputs: Vec<RunInput>) -> Result<()> {
        self.write_inputs(who, run, inputs).await
    }

    async fn log_models(&self, who: &Principal, run: RunId, models: Vec<RunModel>) -> Result<()> {
        self.write_models(who, run, models).await
    }

    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
        self.end_run(who, run, status).await
    }

    async fn edit_run(&self, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run> {
        self.change_run(who, run, edit).await
    }

    async fn delete_run(&self, who: &Principal, run: RunId) -> Result<Run> {
        self.stage_run(who, run, true).await
    }

    async fn restore_run(&self, who: &Principal, run: RunId) -> Result<Run> {
        self.stage_run(who, run, false).await
    }

    async fn run(&self, id: RunId) -> Result<Run> {
        self.read_run(id).await
    }

    async fn search_runs(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<Run>> {
        self.find_runs(experiments, search).await
    }

    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>> {
        self.whole_history(run, key).await
    }

    async fn metric_page(&self, run: RunId, key: &str, limit: usize, page_token: Option<&str>) -> Result<Page<Metric>> {
        self.history_page(run, key, limit, page_token).await
    }

    async fn create_logged_model(&self, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel> {
        self.insert_logged(who, new).await
    }

    async fn finish_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        status: LoggedModelStatus,
    ) -> Result<LoggedModel> {
        self.end_logged(who, model, status).await
    }

    async fn edit_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        edit: LoggedModelEdit,
    ) -> Result<LoggedModel> {
        self.change_logged(who, model, edit).await
    }

    async fn delete_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel> {
        self.remove_logged(who, model).await
    }

    /// Refused: MLflow's interface has no such call.
    async fn restore_logged_model(&self, _: &Principal, _: LoggedModelId) -> Result<LoggedModel> {
        Err(unsupported("restore a logged model", "log the model again"))
    }

    async fn logged_model(&self, id: LoggedModelId) -> Result<LoggedModel> {
        Ok(self.read_logged(id).await?.model)
    }

    async fn search_logged_models(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<LoggedModel>> {
        self.find_logged(experiments, search).await
    }

    async fn put_artifact(
        &self,
        who: &Principal,
        owner: ArtifactOwner,
        artifact: Artifact,
        mode: ArtifactMode,
    ) -> Result<()> {
        self.write_artifact(who, owner, artifact, mode).await
    }

    async fn remove_artifact(&self, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()> {
        self.delete_artifact(who, owner, path).await
    }

    async fn artifact(&self, owner: ArtifactOwner, path: &str) -> Result<Artifact> {
        self.read_artifact(owner, path).await
    }

    async fn artifacts(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>> {
        self.read_artifacts(owner, within).await
    }
}
