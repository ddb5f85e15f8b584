mod artifacts;
mod experiments;
mod logged_models;
mod runs;
mod values;

use async_trait::async_trait;
use mlops_core::{ExperimentId, Principal, RunId};

use super::SqlRegistry;
use crate::search::{LifecycleStage, Page, Search};
use crate::tracking::{
    Artifact, ArtifactMode, ArtifactOwner, Experiment, ExperimentEdit, LogBatch, LoggedModel, LoggedModelEdit,
    LoggedModelId, LoggedModelStatus, Metric, NewExperiment, NewLoggedModel, NewRun, Run, RunEdit, RunInput, RunModel,
    RunStatus, TrackingStore,
};
use crate::{Limit, Result};

#[async_trait]
impl TrackingStore for SqlRegistry {
    fn tracking_limits(&self) -> &'static [Limit] {
        &[]
    }

    async fn create_experiment(&self, who: &Principal, new: NewExperiment) -> Result<Experiment> {
        experiments::create(self, who, new).await
    }

    async fn experiment(&self, name: &str) -> Result<Experiment> {
        experiments::read(self, name).await
    }

    async fn experiment_by_id(&self, id: ExperimentId) -> Result<Experiment> {
        experiments::read_by_id(self, id).await
    }

    async fn edit_experiment(&self, who: &Principal, name: &str, edit: ExperimentEdit) -> Result<Experiment> {
        experiments::edit(self, who, name, edit).await
    }

    async fn delete_experiment(&self, who: &Principal, name: &str) -> Result<Experiment> {
        experiments::set_stage(self, who, name, LifecycleStage::Deleted).await
    }

    async fn restore_experiment(&self, who: &Principal, name: &str) -> Result<Experiment> {
        experiments::set_stage(self, who, name, LifecycleStage::Active).await
    }

    async fn search_experiments(&self, search: Search) -> Result<Page<Experiment>> {
        experiments::find_all(self, &search).await
    }

    async fn start_run(&self, who: &Principal, new: NewRun) -> Result<Run> {
        runs::start(self, who, new).await
    }

    async fn log_batch(&self, who: &Principal, run: RunId, batch: LogBatch) -> Result<()> {
        runs::log(self, who, run, batch).await
    }

    async fn log_inputs(&self, who: &Principal, run: RunId, inputs: Vec<RunInput>) -> Result<()> {
        runs::log_inputs(self, who, run, inputs).await
    }

    async fn log_models(&self, who: &Principal, run: RunId, models: Vec<RunModel>) -> Result<()> {
        runs::log_models(self, who, run, models).await
    }

    async fn finish_run(&self, who: &Principal, run: RunId, status: RunStatus) -> Result<Run> {
        runs::finish(self, who, run, status).await
    }

    async fn edit_run(&self, who: &Principal, run: RunId, edit: RunEdit) -> Result<Run> {
        runs::edit(self, who, run, edit).await
    }

    async fn delete_run(&self, who: &Principal, run: RunId) -> Result<Run> {
        runs::set_stage(self, who, run, LifecycleStage::Deleted).await
    }

    async fn restore_run(&self, who: &Principal, run: RunId) -> Result<Run> {
        runs::set_stage(self, who, run, LifecycleStage::Active).await
    }

    async fn run(&self, id: RunId) -> Result<Run> {
        runs::read(self, id).await
    }

    async fn search_runs(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<Run>> {
        runs::find_all(self, experiments, &search).await
    }

    async fn metric_history(&self, run: RunId, key: &str) -> Result<Vec<Metric>> {
        runs::history(self, run, key).await
    }

    async fn metric_page(&self, run: RunId, key: &str, limit: usize, page_token: Option<&str>) -> Result<Page<Metric>> {
        runs::history_page(self, run, key, limit, page_token).await
    }

    async fn create_logged_model(&self, who: &Principal, new: NewLoggedModel) -> Result<LoggedModel> {
        logged_models::create(self, who, new).await
    }

    async fn finish_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        status: LoggedModelStatus,
    ) -> Result<LoggedModel> {
        logged_models::finish(self, who, model, status).await
    }

    async fn edit_logged_model(
        &self,
        who: &Principal,
        model: LoggedModelId,
        edit: LoggedModelEdit,
    ) -> Result<LoggedModel> {
        logged_models::edit(self, who, model, edit).await
    }

    async fn delete_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel> {
        logged_models::set_stage(self, who, model, LifecycleStage::Deleted).await
    }

    async fn restore_logged_model(&self, who: &Principal, model: LoggedModelId) -> Result<LoggedModel> {
        logged_models::set_stage(self, who, model, LifecycleStage::Active).await
    }

    async fn logged_model(&self, id: LoggedModelId) -> Result<LoggedModel> {
        logged_models::read(self, id).await
    }

    async fn search_logged_models(&self, experiments: &[ExperimentId], search: Search) -> Result<Page<LoggedModel>> {
        logged_models::find_all(self, experiments, &search).await
    }

    async fn put_artifact(
        &self,
        who: &Principal,
        owner: ArtifactOwner,
        artifact: Artifact,
        mode: ArtifactMode,
    ) -> Result<()> {
        artifacts::put(self, who, owner, artifact, mode).await
    }

    async fn remove_artifact(&self, who: &Principal, owner: ArtifactOwner, path: &str) -> Result<()> {
        artifacts::remove(self, who, owner, path).await
    }

    async fn artifact(&self, owner: ArtifactOwner, path: &str) -> Result<Artifact> {
        artifacts::read(self, owner, path).await
    }

    async fn artifacts(&self, owner: ArtifactOwner, within: &str) -> Result<Vec<Artifact>> {
        artifacts::list(self, owner, within).await
    }
}
