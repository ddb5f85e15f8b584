//! Models, versions, aliases and stages: what exists, what is in use, and who said so.
//!
//! An alias (`champion`) names the version in use; a stage (`Production`) says how far a version has come. Moving either
//! takes a request with evidence, the approvals that its policy asks for, and one [`ModelRegistry::promote`] that checks
//! both and moves it by compare-and-swap. Where the policy asks for no approvals, [`ModelRegistry::move_alias`] and
//! [`ModelRegistry::move_stage`] do all of it in one call.

mod cache;
mod event;
mod model;
mod policy;
mod promotion;
mod stage;

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use mlops_core::{Principal, PromotionId, Timestamp};

pub use self::cache::ResolveCache;
pub use self::event::{Event, EventKind};
pub use self::model::{Hold, Model, ModelEdit, ModelVersion, NewModel, NewVersion, Purged, Retention, VersionEdit};
pub use self::policy::{AliasPolicy, EvidenceRule};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::policy::{counted, list, span};
pub use self::promotion::{
    Alias, Approval, Decision, NewPromotion, NewStageMove, Promotion, PromotionKind, PromotionState, Target, Tenure,
};
pub use self::stage::StageTable;
use crate::search::{Page, Search};
use crate::{Limit, Result};

/// Keeps models, versions, aliases and stages, and lets an alias or a stage move only as its policy says.
///
/// # Contract
/// - **Permission.** Every call that changes something takes who does it, and is
///   [`PermissionDenied`](mlops_core::Error::PermissionDenied) without the permission that the method names, on the
///   model or, where an alias or a stage is concerned, on that. Reading is open: the edges check it.
/// - **Atomic.** A call is kept whole, with its audit entry and its events, or not at all, also when its future is
///   dropped or the process is killed. What has returned `Ok` is there for every later call on any handle.
/// - **Idempotent.** The same call again changes nothing, audits nothing and returns what exists: a model of the same
///   name, a version of the same model, package, run and key, a request or rollback of the same id, the same policy, an
///   approval, rejection or withdrawal by the same person in the same words, a promotion that was carried out, an edit,
///   a deletion, a hold. Other contents under the same name or id are
///   [`AlreadyExists`](mlops_core::Error::AlreadyExists). Editing a model or version does not change what it is
///   registered with.
/// - **Numbers** of versions are 1, 2, 3, … per model, without gap or duplicate, whoever registers at the same time. The
///   number of a deleted version is never given again, also not under a model's name that was deleted or renamed away
///   and is registered anew: name and number are one version for ever.
/// - **Compare-and-swap.** A promotion moves its alias, or its version's stage, only from the revision it saw when it was
///   requested, and is [`Conflict`](mlops_core::Error::Conflict) otherwise: of two requests on one revision, at most one
///   is carried out.
/// - **Four eyes.** Neither who registered a version nor who asked for a promotion may approve it, whatever their
///   roles: [`Error::FourEyes`](crate::Error::FourEyes).
/// - **Policy** is that of the moment of the move: too few approvals that count are
///   [`Error::ApprovalMissing`](crate::Error::ApprovalMissing), lacking or stale evidence is
///   [`Error::EvidenceMissing`](crate::Error::EvidenceMissing). An alias or stage without a policy moves on request.
/// - **Stages** are those of the model's table, else of the registry's, else MLflow's. A move that the table does not
///   have is [`InvalidInput`](mlops_core::Error::InvalidInput), naming the legal ones, when it is asked for and when it is
///   made.
/// - **History.** Requests, rejections, moves and rollbacks stay; `alias_at` and `stage_at` answer from them for any past
///   moment. The times of the moves of an alias or of a version never go back, even where the clock does.
/// - **Deleted** models and versions are [`NotFound`](mlops_core::Error::NotFound), and their history stays. A version
///   that is held, that a protected alias points at, that is in a protected stage, or whose approved promotion is open is
///   [`Error::Protected`](crate::Error::Protected) from being deleted, also with its model.
/// - **Names.** A model's name has 1 to 250 characters, without `/`, `:`, `@`; an alias 1 to 255 letters, digits, `_` or
///   `-`, and is neither `latest` nor `v` and digits, in any case.
/// - **Order.** Models and aliases by name, versions by number, promotions as they were requested, events by place.
/// - **Missing** models, versions, aliases and promotions are [`NotFound`](mlops_core::Error::NotFound), by name.
/// - **Clones** and pointers share one registry. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait ModelRegistry: Debug + Display + Send + Sync + 'static {
    /// What of this contract it does not do, where the system behind it cannot; empty for a database of this crate.
    fn registry_limits(&self) -> &'static [Limit];

    /// Registers a model. Needs [`Permission::Register`](mlops_core::Permission::Register).
    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model>;

    /// Changes a model's name, description or tags. Needs [`Permission::Register`](mlops_core::Permission::Register); a
    /// new name needs [`Permission::Administer`](mlops_core::Permission::Administer) on the old one, too, as whoever uses
    /// that no longer finds it.
    ///
    /// A new name takes versions, aliases, policies, holds and history along, and is
    /// [`AlreadyExists`](mlops_core::Error::AlreadyExists) if a model has it, or had it and left history behind.
    async fn edit_model(&self, who: &Principal, name: &str, edit: ModelEdit) -> Result<Model>;

    /// Deletes a model with its versions, aliases, policies and stages. Needs
    /// [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn delete_model(&self, who: &Principal, name: &str, reason: &str) -> Result<()>;

    /// The model of that name.
    async fn model(&self, name: &str) -> Result<Model>;

    /// Every model.
    async fn models(&self) -> Result<Vec<Model>>;

    /// The models that a search finds, in its order: see [`search`](crate::search).
    async fn search_models(&self, search: Search) -> Result<Page<Model>>;

    /// Says what it takes to move an alias, set or not. Needs [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()>;

    /// What it takes to move an alias.
    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy>;

    /// Says what it takes to move a version to a stage. Needs
    /// [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn set_stage_policy(&self, who: &Principal, model: &str, stage: &str, policy: AliasPolicy) -> Result<()>;

    /// What it takes to move a version to a stage.
    async fn stage_policy(&self, model: &str, stage: &str) -> Result<AliasPolicy>;

    /// Says which stages there are and which moves between them are legal, for one model or for all that have no table of
    /// their own. Needs [`Permission::Administer`](mlops_core::Permission::Administer), on the model or on the registry.
    ///
    /// Versions that never moved begin in the new first stage. One that did and is in a stage that the table lacks makes
    /// it [`InvalidInput`](mlops_core::Error::InvalidInput): move it first.
    async fn set_stages(&self, who: &Principal, model: Option<&str>, table: StageTable) -> Result<()>;

    /// The stages of that model, or those of models without a table of their own.
    async fn stages(&self, model: Option<&str>) -> Result<StageTable>;

    /// Registers a version: the package must be in the artifact store. Needs
    /// [`Permission::Register`](mlops_core::Permission::Register).
    ///
    /// Lineage gets an edge from the run (the one given, else the one that the package's provenance names; two that
    /// differ are [`InvalidInput`](mlops_core::Error::InvalidInput)) to the version, and what the provenance says: code
    /// commit, lock file, toolchain and seed as facts of the version, and an edge from each dataset version to it. Two
    /// versions of one run keep their own.
    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion>;

    /// Changes a version's description or tags. Needs [`Permission::Register`](mlops_core::Permission::Register).
    async fn edit_version(&self, who: &Principal, model: &str, version: u64, edit: VersionEdit)
    -> Result<ModelVersion>;

    /// Deletes a version; the aliases that point at it are removed, and its open requests withdrawn. Needs
    /// [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn delete_version(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()>;

    /// One version.
    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion>;

    /// Every version of a model.
    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>>;

    /// The versions of all models that a search finds, in its order: see [`search`](crate::search).
    async fn search_versions(&self, search: Search) -> Result<Page<ModelVersion>>;

    /// The newest version in each of these stages, or in each stage if none is named, in the order of the table. Stages
    /// without a version are left out.
    async fn latest_versions(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>>;

    /// Asks for an alias to be pointed at a version that exists and that it does not point at. Needs
    /// [`Permission::RequestPromotion`](mlops_core::Permission::RequestPromotion).
    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion>;

    /// Asks for a version to be moved to a stage that it is not in. Needs
    /// [`Permission::RequestPromotion`](mlops_core::Permission::RequestPromotion), on the stage.
    async fn request_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion>;

    /// Says yes to a request. Needs [`Permission::Review`](mlops_core::Permission::Review), and four eyes. An approval that
    /// the policy counts as too old is given again by the same call.
    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion>;

    /// Turns a request down for good, with a reason. Needs [`Permission::Review`](mlops_core::Permission::Review).
    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion>;

    /// Takes a request back, with a reason. Only who asked may, with
    /// [`Permission::RequestPromotion`](mlops_core::Permission::RequestPromotion).
    async fn withdraw(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion>;

    /// Carries a request out: checks the policy and moves the alias or the version. Needs
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias), on the alias or stage.
    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion>;

    /// Requests and carries out in one transaction. Needs
    /// [`Permission::RequestPromotion`](mlops_core::Permission::RequestPromotion) and
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias).
    ///
    /// Where approvals are missing the request is kept, and the error
    /// [`ApprovalMissing`](crate::Error::ApprovalMissing) names it. The same call by the same person finds that request
    /// again, as long as the alias has not moved, and carries it out once it is approved. An alias that points at the
    /// version already stays, and the answer is what pointed it there.
    async fn move_alias(&self, who: &Principal, new: NewPromotion) -> Result<Promotion>;

    /// As [`move_alias`](Self::move_alias), for a stage.
    async fn move_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion>;

    /// Takes an alias away and records that as a promotion of its own; a rollback brings it back. Needs
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias), and
    /// [`Permission::Administer`](mlops_core::Permission::Administer) where the alias's policy asks for anything.
    async fn remove_alias(&self, who: &Principal, model: &str, alias: &str, reason: &str) -> Result<Promotion>;

    /// Points an alias back at the version before, without approvals, and records that as a promotion of its own. Needs
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias).
    ///
    /// Each rollback undoes one more promotion: after moves to 1, 2 and 3, two rollbacks lead to 2 and then to 1. Deleted
    /// versions are passed over. With nothing left to go back to it is [`NotFound`](mlops_core::Error::NotFound). Give an
    /// `id` where the call may be repeated: with it the second call changes nothing.
    async fn rollback(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion>;

    /// Where an alias points.
    async fn alias(&self, model: &str, alias: &str) -> Result<Alias>;

    /// Every alias of a model.
    async fn aliases(&self, model: &str) -> Result<Vec<Alias>>;

    /// The version an alias pointed at, at that moment; `None` before it was first set and while it was removed.
    async fn alias_at(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>>;

    /// Where each alias of a model pointed at that moment.
    async fn aliases_at(&self, model: &str, at: Timestamp) -> Result<BTreeMap<String, u64>>;

    /// Which versions an alias pointed at between two moments, the second exclusive, from the oldest on. Those of no
    /// duration are left out.
    async fn alias_history(&self, model: &str, alias: &str, from: Timestamp, until: Timestamp) -> Result<Vec<Tenure>>;

    /// The stage a version was in at that moment; `None` before it was registered and after it was deleted.
    async fn stage_at(&self, model: &str, version: u64, at: Timestamp) -> Result<Option<String>>;

    /// Every request for a promotion of that model, every rollback and every removal.
    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>>;

    /// The promotion of that id.
    async fn promotion(&self, id: PromotionId) -> Result<Promotion>;

    /// Keeps a version from being deleted until it is released. Needs [`Permission::Review`](mlops_core::Permission::Review).
    /// Each person may hold a version once at a time.
    async fn hold(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<Hold>;

    /// Ends all holds of a version. Needs [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn release(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()>;

    /// The holds of a model's versions, by version and in the order they were placed.
    async fn holds(&self, model: &str) -> Result<Vec<Hold>>;

    /// At most `limit` (1 to 1,000) events with a place above `after`; 0 starts from the first.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a forgotten forward would use a default in silence
impl<R: ModelRegistry + ?Sized> ModelRegistry for Arc<R> {
    fn registry_limits(&self) -> &'static [Limit] {
        (**self).registry_limits()
    }

    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        (**self).create_model(who, new).await
    }

    async fn edit_model(&self, who: &Principal, name: &str, edit: ModelEdit) -> Result<Model> {
        (**self).edit_model(who, name, edit).await
    }

    async fn delete_model(&self, who: &Principal, name: &str, reason: &str) -> Result<()> {
        (**self).delete_model(who, name, reason).await
    }

    async fn model(&self, name: &str) -> Result<Model> {
        (**self).model(name).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        (**self).models().await
    }

    async fn search_models(&self, search: Search) -> Result<Page<Model>> {
        (**self).search_models(search).await
    }

    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()> {
        (**self).set_policy(who, model, alias, policy).await
    }

    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy> {
        (**self).policy(model, alias).await
    }

    async fn set_stage_policy(&self, who: &Principal, model: &str, stage: &str, policy: AliasPolicy) -> Result<()> {
        (**self).set_stage_policy(who, model, stage, policy).await
    }

    async fn stage_policy(&self, model: &str, stage: &str) -> Result<AliasPolicy> {
        (**self).stage_policy(model, stage).await
    }

    async fn set_stages(&self, who: &Principal, model: Option<&str>, table: StageTable) -> Result<()> {
        (**self).set_stages(who, model, table).await
    }

    async fn stages(&self, model: Option<&str>) -> Result<StageTable> {
        (**self).stages(model).await
    }

    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        (**self).create_version(who, new).await
    }

    async fn edit_version(
        &self,
        who: &Principal,
        model: &str,
        version: u64,
        edit: VersionEdit,
    ) -> Result<ModelVersion> {
        (**self).edit_version(who, model, version, edit).await
    }

    async fn delete_version(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        (**self).delete_version(who, model, version, reason).await
    }

    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion> {
        (**self).version(model, version).await
    }

    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        (**self).versions(model).await
    }

    async fn search_versions(&self, search: Search) -> Result<Page<ModelVersion>> {
        (**self).search_versions(search).await
    }

    async fn latest_versions(&self, model: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        (**self).latest_versions(model, stages).await
    }

    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        (**self).request_promotion(who, new).await
    }

    async fn request_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        (**self).request_stage(who, new).await
    }

    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        (**self).approve(who, id, comment).await
    }

    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        (**self).reject(who, id, reason).await
    }

    async fn withdraw(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        (**self).withdraw(who, id, reason).await
    }

    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        (**self).promote(who, id).await
    }

    async fn move_alias(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        (**self).move_alias(who, new).await
    }

    async fn move_stage(&self, who: &Principal, new: NewStageMove) -> Result<Promotion> {
        (**self).move_stage(who, new).await
    }

    async fn remove_alias(&self, who: &Principal, model: &str, alias: &str, reason: &str) -> Result<Promotion> {
        (**self).remove_alias(who, model, alias, reason).await
    }

    async fn rollback(
        &self,
        who: &Principal,
        model: &str,
        alias: &str,
        id: Option<PromotionId>,
        reason: &str,
    ) -> Result<Promotion> {
        (**self).rollback(who, model, alias, id, reason).await
    }

    async fn alias(&self, model: &str, alias: &str) -> Result<Alias> {
        (**self).alias(model, alias).await
    }

    async fn aliases(&self, model: &str) -> Result<Vec<Alias>> {
        (**self).aliases(model).await
    }

    async fn alias_at(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>> {
        (**self).alias_at(model, alias, at).await
    }

    async fn aliases_at(&self, model: &str, at: Timestamp) -> Result<BTreeMap<String, u64>> {
        (**self).aliases_at(model, at).await
    }

    async fn alias_history(&self, model: &str, alias: &str, from: Timestamp, until: Timestamp) -> Result<Vec<Tenure>> {
        (**self).alias_history(model, alias, from, until).await
    }

    async fn stage_at(&self, model: &str, version: u64, at: Timestamp) -> Result<Option<String>> {
        (**self).stage_at(model, version, at).await
    }

    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>> {
        (**self).promotions(model).await
    }

    async fn promotion(&self, id: PromotionId) -> Result<Promotion> {
        (**self).promotion(id).await
    }

    async fn hold(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<Hold> {
        (**self).hold(who, model, version, reason).await
    }

    async fn release(&self, who: &Principal, model: &str, version: u64, reason: &str) -> Result<()> {
        (**self).release(who, model, version, reason).await
    }

    async fn holds(&self, model: &str) -> Result<Vec<Hold>> {
        (**self).holds(model).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        (**self).events(after, limit).await
    }
}
