//! The trait's methods, each where it is done, and what MLflow cannot do.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mlops_core::{
    Error as CoreError, ModelRef, ModelSource, Package, Principal, PromotionId, ResolvedModel, Selector, Timestamp,
};

use super::{LIMITS, MlflowClient, unsupported};
use crate::registry::{
    Alias, AliasPolicy, Event, Hold, Model, ModelEdit, ModelRegistry, ModelVersion, NewModel, NewPromotion,
    NewStageMove, NewVersion, Promotion, StageTable, Tenure, VersionEdit,
};
use crate::search::{Page, Search};
use crate::{Limit, Result};

/// Where governance is: the remedy of everything about it that is refused.
const GOVERNED: &str = "keep the registry in a `SqlRegistry`, and copy versions into it with `copy_version`";
const AT_ONCE: &str = "`move_alias` and `move_stage` move at once; for requests and approvals keep the registry in a \
                       `SqlRegistry`";

fn governed<T>(operation: &str) -> Result<T> {
    Err(unsupported(operation, GOVERNED))
}

fn at_once<T>(operation: &str) -> Result<T> {
    Err(unsupported(operation, AT_ONCE))
}

#[async_trait]
impl ModelRegistry for MlflowClient {
    fn registry_limits(&self) -> &'static [Limit] {
        LIMITS
    }

    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        self.insert_model(who, new).await
    }

    async fn edit_model(&self, who: &Principal, name: &str, edit: ModelEdit) -> Result<Model> {
        self.change_model(who, name, edit).await
    }

    async fn delete_model(&self, who: &Principal, name: &str, reason: &str) -> Result<()> {
        self.remove_model(who, name, reason).await
    }

    async fn model(&self, name: &str) -> Result<Model> {
        self.model_message(name).await?.read()
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.all_models().await
    }

    async fn search_models(&self, search: Search) -> Result<Page<Model>> {
        self.find_models(search).await
    }

    async fn set_policy(&self, _: &Principal, _: &str, _: &str, _: AliasPolicy) -> Result<()> {
        governed("keep a policy of an alias")
    }

    /// Nothing is asked: MLflow has no policies.
    async fn policy(&self, model: &str, _: &str) -> Result<AliasPolicy> {
        self.model_message(model).await.map(|_| AliasPolicy::default())
    }

    async fn set_stage_policy(&self, _: &Principal, _: &str, _: &str, _: AliasPolicy) -> Result<()> {
        governed("keep a policy of a stage")
    }

    /// Nothing is asked: MLflow has no policies.
    async fn stage_policy(&self, model: &str, _: &str) -> Result<AliasPolicy> {
        self.model_message(model).await.map(|_| AliasPolicy::default())
    }

    async fn set_stages(&self, _: &Principal, _: Option<&str>, _: StageTable) -> Result<()> {
        governed("have other stages than its four")
    }

    /// MLflow's.
    async fn stages(&self, model: Option<&str>) -> Result<StageTable> {
        if let Some(model) = model {
            self.model_message(model).await?;
        }
        Ok(StageTable::default())
    }

    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        self.insert_version(who, new).await
    }

    async fn edit_version(
        &self,
        who: &Principal,
        model: &str,
        version: u64,
        edit: VersionEdit,
    ) -> Result<ModelVersion> {
        self.change_version(who, model, version, edit).await
    }

    async fn delete_version(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        self.remove_version(who, model, version, reason).await
    }

    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion> {
        self.read_version(model, version).await
    }

    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        self.all_versions(model).await
    }

    async fn search_versions(&self, search: Search) -> Result<Page<ModelVersion>> {
        self.find_versions(search).await
    }

    async fn latest_versions(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        self.newest_versions(model, stages).await
    }

    async fn request_promotion(&self, _: &Principal, _: NewPromotion) -> Result<Promotion> {
        at_once("keep a request for an alias to move")
    }

    async fn request_stage(&self, _: &Principal, _: NewStageMove) -> Result<Promotion> {
        at_once("keep a request for a stage to move")
    }

    async fn approve(&self, _: &Principal, _: PromotionId, _: &str) -> Result<Promotion> {
        at_once("keep an approval")
    }

    async fn reject(&self, _: &Principal, _: PromotionId, _: &str) -> Result<Promotion> {
        at_once("keep a rejection")
    }

    async fn withdraw(&self, _: &Principal, _: PromotionId, _: &str) -> Result<Promotion> {
        at_once("withdraw a request")
    }

    async fn promote(&self, _: &Principal, _: PromotionId) -> Result<Promotion> {
        at_once("carry a request out")
    }

    /// Moves the alias, then writes down the move: two calls, without compare-and-swap.
    async fn move_alias(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        self.set_alias(who, new).await
    }

    /// As [`move_alias`](ModelRegistry::move_alias). Versions that make way are moved by the server in the same call, and
    /// not written down.
    async fn move_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        self.set_stage(who, new).await
    }

    async fn remove_alias(&self, who: &Principal, model: &str, alias: &str, reason: &str) -> Result<Promotion> {
        self.take_alias(who, model, alias, reason).await
    }

    async fn rollback(&self, _: &Principal, _: &str, _: &str, _: Option<PromotionId>, _: &str) -> Result<Promotion> {
        Err(unsupported("roll an alias back: it keeps no history", "move the alias to the version that you want"))
    }

    /// The revision counts the moves by clients of this toolkit. Of a move by another, revision and time are 0 and the
    /// promotion is nil.
    async fn alias(&self, model: &str, alias: &str) -> Result<Alias> {
        self.read_alias(model, alias).await
    }

    async fn aliases(&self, model: &str) -> Result<Vec<Alias>> {
        self.read_aliases(model).await
    }

    async fn alias_at(&self, _: &str, _: &str, _: Timestamp) -> Result<Option<u64>> {
        governed("tell where an alias pointed")
    }

    async fn aliases_at(&self, _: &str, _: Timestamp) -> Result<BTreeMap<String, u64>> {
        governed("tell where aliases pointed")
    }

    async fn alias_history(&self, _: &str, _: &str, _: Timestamp, _: Timestamp) -> Result<Vec<Tenure>> {
        governed("tell where an alias pointed")
    }

    async fn stage_at(&self, _: &str, _: u64, _: Timestamp) -> Result<Option<String>> {
        governed("tell which stage a version was in")
    }

    async fn promotions(&self, _: &str) -> Result<Vec<Promotion>> {
        governed("tell which moves there were")
    }

    async fn promotion(&self, _: PromotionId) -> Result<Promotion> {
        governed("find a move by its id")
    }

    async fn hold(&self, _: &Principal, _: &str, _: u64, _: &str) -> Result<Hold> {
        governed("keep a version from being deleted")
    }

    async fn release(&self, _: &Principal, _: &str, _: u64, _: &str) -> Result<()> {
        governed("release a version")
    }

    /// None: MLflow keeps no holds.
    async fn holds(&self, model: &str) -> Result<Vec<Hold>> {
        self.model_message(model).await.map(|_| Vec::new())
    }

    async fn events(&self, _: u64, _: usize) -> Result<Vec<Event>> {
        Err(unsupported("tell what happened", "poll `alias` and `search_versions`, or use MLflow's webhooks"))
    }
}

#[async_trait]
impl ModelSource for MlflowClient {
    /// The revision is that of the alias's record, the newest number for `latest`, 0 for a fixed version. Where another tool
    /// moved an alias it is the version's number beyond 2^32: another one whenever the alias points elsewhere.
    async fn resolve(&self, wanted: &ModelRef) -> mlops_core::Result<ResolvedModel> {
        let name = wanted.name.clone();
        let (version, revision) = match &wanted.selector {
            Selector::Alias(alias) => {
                let found = self.read_alias(&name, alias).await?;
                let foreign = (1 << 32) + found.version;
                (found.version, if found.revision == 0 { foreign } else { found.revision })
            }
            Selector::Latest => match self.model_message(&name).await?.read()?.latest {
                0 => return Err(CoreError::not_found("model version", format!("{name}/latest"))),
                latest => (latest, latest),
            },
            Selector::Version(version) => (*version, 0),
            other => return Err(CoreError::invalid("model reference", format!("{other:?} is not supported"))),
        };
        let package = self.read_version(&name, version).await?.package;
        Ok(ResolvedModel { name, version, revision, package })
    }

    /// From the artifact store; what is not there yet is fetched from the server.
    async fn package(&self, model: &ResolvedModel) -> mlops_core::Result<Package> {
        let store = self.store("load a package")?;
        match Package::load(&**store, &model.package).await {
            Err(CoreError::NotFound { .. }) => {}
            loaded => return loaded,
        }
        let found =
            self.fetch_package(&model.name, model.version).await.map_err(CoreError::from)?.save(&**store).await?;
        if found != model.package {
            let what = format!("{} v{} on {self}", model.name, model.version);
            return Err(CoreError::Corrupt { what, expected: model.package, found });
        }
        Package::load(&**store, &found).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_operation_the_backend_and_the_remedy() {
        let error = governed::<()>("keep a policy of an alias").unwrap_err();
        let crate::Error::Unsupported { backend, .. } = &error else { panic!("{error}") };
        assert_eq!(*backend, "MLflow server");
        let expected = "MLflow server cannot keep a policy of an alias: keep the registry in a `SqlRegistry`";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
