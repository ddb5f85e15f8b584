//! The trait's methods, each where it is done.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mlops_core::{Principal, PromotionId, Timestamp};

use super::SqlRegistry;
use super::models::find_model;
use super::requests::Asked;
use super::versions::find_version;
use crate::registry::{
    Alias, AliasPolicy, Event, Hold, Model, ModelEdit, ModelRegistry, ModelVersion, NewModel, NewPromotion,
    NewStageMove, NewVersion, Promotion, StageTable, Target, Tenure, VersionEdit,
};
use crate::search::{Page, Search};
use crate::{Limit, Result};

#[async_trait]
impl ModelRegistry for SqlRegistry {
    fn registry_limits(&self) -> &'static [Limit] {
        &[]
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
        find_model(&mut self.read("read model", name).await?, name).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.list_models().await
    }

    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()> {
        self.put_policy(who, model, Target::Alias(alias.to_owned()), policy).await
    }

    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy> {
        self.read_policy(model, Target::Alias(alias.to_owned())).await
    }

    async fn set_stage_policy(&self, who: &Principal, model: &str, stage: &str, policy: AliasPolicy) -> Result<()> {
        self.put_policy(who, model, Target::Stage(stage.to_owned()), policy).await
    }

    async fn stage_policy(&self, model: &str, stage: &str) -> Result<AliasPolicy> {
        self.read_policy(model, Target::Stage(stage.to_owned())).await
    }

    async fn set_stages(&self, who: &Principal, model: Option<&str>, table: StageTable) -> Result<()> {
        self.put_stages(who, model, table).await
    }

    async fn stages(&self, model: Option<&str>) -> Result<StageTable> {
        self.read_stages(model).await
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
        find_version(&mut self.read("read version of", model).await?, model, version).await
    }

    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        self.list_versions(model).await
    }

    async fn search_models(&self, search: Search) -> Result<Page<Model>> {
        self.find_models(search).await
    }

    async fn search_versions(&self, search: Search) -> Result<Page<ModelVersion>> {
        self.find_versions(search).await
    }

    async fn latest_versions(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        self.newest_by_stage(model, stages).await
    }

    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        self.insert_request(who, Asked::alias(who, new)?).await
    }

    async fn request_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        self.insert_request(who, Asked::stage(who, new)?).await
    }

    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        self.insert_approval(who, id, comment).await
    }

    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        self.reject_request(who, id, reason).await
    }

    async fn withdraw(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        self.withdraw_request(who, id, reason).await
    }

    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        self.carry_request_out(who, id).await
    }

    async fn move_alias(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        self.request_and_move(who, Asked::alias(who, new)?).await
    }

    async fn move_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        self.request_and_move(who, Asked::stage(who, new)?).await
    }

    async fn remove_alias(&self, who: &Principal, model: &str, alias: &str, reason: &str) -> Result<Promotion> {
        self.take_alias(who, model, alias, reason).await
    }

    async fn rollback(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion> {
        self.move_back(who, model, alias, id, reason).await
    }

    async fn alias(&self, model: &str, alias: &str) -> Result<Alias> {
        self.read_alias(model, alias).await
    }

    async fn aliases(&self, model: &str) -> Result<Vec<Alias>> {
        self.list_aliases(model).await
    }

    async fn alias_at(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>> {
        self.alias_then(model, alias, at).await
    }

    async fn aliases_at(&self, model: &str, at: Timestamp) -> Result<BTreeMap<String, u64>> {
        self.aliases_then(model, at).await
    }

    async fn alias_history(&self, model: &str, alias: &str, from: Timestamp, until: Timestamp) -> Result<Vec<Tenure>> {
        self.tenures(model, alias, from, until).await
    }

    async fn stage_at(&self, model: &str, version: u64, at: Timestamp) -> Result<Option<String>> {
        self.stage_then(model, version, at).await
    }

    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>> {
        self.list_promotions(model).await
    }

    async fn promotion(&self, id: PromotionId) -> Result<Promotion> {
        self.read_promotion(id).await
    }

    async fn hold(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<Hold> {
        self.place_hold(who, model, version, reason).await
    }

    async fn release(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        self.end_holds(who, model, version, reason).await
    }

    async fn holds(&self, model: &str) -> Result<Vec<Hold>> {
        self.list_holds(model).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.list_events(after, limit).await
    }
}
