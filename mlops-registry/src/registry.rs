//! Models, versions and aliases: what exists, what is in use, and who said so.
//!
//! An alias (`champion`) names the version in use. Moving it takes a request with evidence, the approvals that the
//! alias's policy asks for, and one [`ModelRegistry::promote`] that checks both and moves it by compare-and-swap.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use mlops_core::{Digest, Finding, Principal, PromotionId, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Result;

/// A model to be registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewModel {
    /// Its name, unique in the registry: without `/`, `:` and `@`, at most 250 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
}

impl NewModel {
    /// A model without description and tags.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// A registered model: a name that versions are numbered under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Who registered it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// The number of its newest version, 0 without any.
    pub latest: u64,
}

/// A version to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewVersion {
    /// The model's name.
    pub model: String,
    /// The digest of the package, which is in the artifact store already.
    pub package: Digest,
    /// The run that made it. It is not looked up: it may be tracked elsewhere.
    pub run: Option<RunId>,
    /// What is new about it.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
}

impl NewVersion {
    /// A version of that model with that package.
    pub fn new(model: impl Into<String>, package: Digest) -> Self {
        Self { model: model.into(), package, run: None, description: String::new(), tags: BTreeMap::new() }
    }

    /// Names the run that made it.
    #[must_use]
    pub fn run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Says what is new about it.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// A version of a model: a package that never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelVersion {
    /// The model's name.
    pub model: String,
    /// Its number, from 1 without gaps.
    pub version: u64,
    /// The digest of its package.
    pub package: Digest,
    /// The run that made it.
    pub run: Option<RunId>,
    /// What is new about it.
    pub description: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Who registered it; never an approver of it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
}

impl Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, version, package, author, created_at, description, .. } = self;
        let at = created_at.format("%Y-%m-%d %H:%M");
        write!(f, "{model} v{version} ({}) by {author} at {at}", package.short())?;
        if description.is_empty() { Ok(()) } else { write!(f, ": {description}") }
    }
}

/// Which checks must stand behind a promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EvidenceRule {
    /// None.
    #[default]
    None,
    /// At least one finding, and every one a pass; `Inconclusive` is no pass.
    AllPass,
}

impl EvidenceRule {
    /// The rule in one word, as stored: `none`, `all_pass`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AllPass => "all_pass",
        }
    }
}

/// What it takes to move an alias. The default asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AliasPolicy {
    /// Approvals by different people, none of them the version's author or the one who asked.
    pub approvals: u32,
    /// Checks that must have passed.
    pub evidence: EvidenceRule,
}

impl AliasPolicy {
    /// Asks for that many approvals, and no evidence.
    #[must_use]
    pub const fn approvals(approvals: u32) -> Self {
        Self { approvals, evidence: EvidenceRule::None }
    }

    /// Asks for evidence as well.
    #[must_use]
    pub const fn evidence(mut self, evidence: EvidenceRule) -> Self {
        self.evidence = evidence;
        self
    }
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alias {
    /// The model's name.
    pub model: String,
    /// The alias.
    pub alias: String,
    /// The version it points at.
    pub version: u64,
    /// How often it has moved: 1 after the first time.
    pub revision: u64,
    /// When it moved last.
    pub moved_at: Timestamp,
    /// The promotion that moved it last.
    pub promotion: PromotionId,
}

impl Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} is v{} (revision {})", self.model, self.alias, self.version, self.revision)
    }
}

/// A request to point an alias at a version.
///
/// ```
/// use mlops_core::{Finding, Verdict};
/// use mlops_registry::NewPromotion;
/// let request = NewPromotion::new("prices", 2, "champion")
///     .evidence([Finding::new("accuracy", Verdict::Pass, "better than v1 on the hold-out rows")])
///     .reason("retrained after the drift alert");
/// assert_eq!(request.version, 2);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewPromotion {
    /// Its id; a new one when absent.
    pub id: Option<PromotionId>,
    /// The model's name.
    pub model: String,
    /// The version to point at.
    pub version: u64,
    /// The alias to move.
    pub alias: String,
    /// What the gates found.
    pub evidence: Vec<Finding>,
    /// Why.
    pub reason: String,
}

impl NewPromotion {
    /// A request without evidence or reason.
    pub fn new(model: impl Into<String>, version: u64, alias: impl Into<String>) -> Self {
        let (model, alias) = (model.into(), alias.into());
        Self { id: None, model, version, alias, evidence: Vec::new(), reason: String::new() }
    }

    /// Gives it that id, which makes requesting it idempotent.
    #[must_use]
    pub fn id(mut self, id: PromotionId) -> Self {
        self.id = Some(id);
        self
    }

    /// Adds findings.
    #[must_use]
    pub fn evidence(mut self, findings: impl IntoIterator<Item = Finding>) -> Self {
        self.evidence.extend(findings);
        self
    }

    /// Says why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// Which way an alias goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromotionKind {
    /// To a version that was asked for.
    Promote,
    /// Back to where it pointed before.
    Rollback,
}

impl PromotionKind {
    /// The kind in one word: `promote`, `rollback`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        }
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromotionState {
    /// Asked for, not decided.
    Requested,
    /// Turned down by a reviewer.
    Rejected,
    /// Carried out: the alias moved.
    Promoted,
}

impl PromotionState {
    /// The state in one word: `requested`, `rejected`, `promoted`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Rejected => "rejected",
            Self::Promoted => "promoted",
        }
    }
}

impl Display for PromotionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One reviewer's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Approval {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What they said.
    pub comment: String,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// Who rejected it or moved the alias.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why it was rejected; empty for a promotion, whose reason is the request's.
    pub reason: String,
}

/// The record of one move of an alias, from the request to the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Promotion {
    /// Its id.
    pub id: PromotionId,
    /// Which way.
    pub kind: PromotionKind,
    /// The model's name.
    pub model: String,
    /// The version the alias is to point at.
    pub version: u64,
    /// The alias.
    pub alias: String,
    /// Where it stands.
    pub state: PromotionState,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: Timestamp,
    /// Why.
    pub reason: String,
    /// What the gates found.
    pub evidence: Vec<Finding>,
    /// The alias's revision when it was asked for; the move happens on that one or not at all. 0 if unset.
    pub seen_revision: u64,
    /// Where the alias pointed at that revision.
    pub from: Option<u64>,
    /// Who approved, in order.
    pub approvals: Vec<Approval>,
    /// How it ended.
    pub decision: Option<Decision>,
    /// The alias's revision that the move made.
    pub revision: Option<u64>,
}

impl Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, alias, version, .. } = self;
        match self.kind {
            PromotionKind::Promote => write!(f, "{model}@{alias} ")?,
            PromotionKind::Rollback => write!(f, "{model}@{alias} back ")?,
        }
        match self.from {
            Some(from) => write!(f, "v{from} → v{version}")?,
            None => write!(f, "→ v{version}")?,
        }
        write!(f, ": {}", self.state)?;
        if let Some(decision) = &self.decision {
            write!(f, " by {} at {}", decision.by, decision.at.format("%Y-%m-%d %H:%M"))?;
        }
        if self.kind == PromotionKind::Promote {
            write!(f, ", asked by {}", self.requested_by)?;
        }
        if !self.approvals.is_empty() {
            let names: Vec<&str> = self.approvals.iter().map(|a| a.by.as_str()).collect();
            write!(f, ", approved by {}", names.join(" and "))?;
        }
        match (&self.decision, self.state) {
            (Some(decision), PromotionState::Rejected) => write!(f, ": {}", decision.reason),
            _ if self.reason.is_empty() => Ok(()),
            _ => write!(f, ": {}", self.reason),
        }
    }
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A model was registered.
    ModelCreated,
    /// A version was registered.
    VersionCreated,
    /// Somebody asked for an alias to move.
    PromotionRequested,
    /// Somebody approved that.
    PromotionApproved,
    /// Somebody rejected it.
    PromotionRejected,
    /// An alias points at another version.
    AliasMoved,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ModelCreated,
        Self::VersionCreated,
        Self::PromotionRequested,
        Self::PromotionApproved,
        Self::PromotionRejected,
        Self::AliasMoved,
    ];

    /// The kind in one word, as stored: `alias_moved`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelCreated => "model_created",
            Self::VersionCreated => "version_created",
            Self::PromotionRequested => "promotion_requested",
            Self::PromotionApproved => "promotion_approved",
            Self::PromotionRejected => "promotion_rejected",
            Self::AliasMoved => "alias_moved",
        }
    }
}

/// Something that happened in the registry, for those who follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its place, from 1 without gaps, in the order the changes took effect.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The model's name.
    pub model: String,
    /// The version concerned.
    pub version: Option<u64>,
    /// The alias concerned.
    pub alias: Option<String>,
    /// The alias's revision after a move.
    pub revision: Option<u64>,
    /// The promotion concerned.
    pub promotion: Option<PromotionId>,
}

/// Keeps models, versions and aliases, and lets an alias move only as its policy says.
///
/// # Contract
/// - **Permission.** Every call that changes something takes who does it, and is
///   [`PermissionDenied`](mlops_core::Error::PermissionDenied) without the permission that the method names, on the
///   model or, where an alias is concerned, on that alias. Reading is open: the edges check it.
/// - **Atomic.** A call is kept whole, with its audit entry and its event, or not at all, also when its future is
///   dropped or the process is killed. What has returned `Ok` is there for every later call on any handle.
/// - **Idempotent.** The same call again changes nothing, audits nothing and returns what exists: a model of the same
///   name, a version of the same model, package and run, a request or rollback of the same id, the same policy, an
///   approval or rejection by the same person in the same words, a promotion that was carried out. Other contents under
///   the same name or id are [`AlreadyExists`](mlops_core::Error::AlreadyExists).
/// - **Numbers** of versions are 1, 2, 3, … per model, without gap or duplicate, whoever registers at the same time.
/// - **Compare-and-swap.** A promotion moves its alias only from the revision it saw when it was requested, and is
///   [`Conflict`](mlops_core::Error::Conflict) otherwise: of two requests on one revision, at most one is carried out.
/// - **Four eyes.** Neither who registered a version nor who asked for a promotion may approve it, whatever their
///   roles: [`Error::FourEyes`](crate::Error::FourEyes).
/// - **Policy** is that of the moment of the move: too few approvals are
///   [`Error::ApprovalMissing`](crate::Error::ApprovalMissing), lacking evidence is
///   [`Error::EvidenceMissing`](crate::Error::EvidenceMissing). An alias without a policy moves on request.
/// - **History.** Requests, rejections, moves and rollbacks stay; `alias_at` answers from them for any past moment. The
///   times of an alias's moves never go back, even where the clock does.
/// - **Names.** A model's name has 1 to 250 characters, without `/`, `:`, `@`; an alias 1 to 255 letters, digits, `_` or
///   `-`, and is neither `latest` nor `v` and digits, in any case.
/// - **Order.** Models and aliases by name, versions by number, promotions as they were requested, events by place.
/// - **Missing** models, versions, aliases and promotions are [`NotFound`](mlops_core::Error::NotFound), by name.
/// - **Clones** and pointers share one registry. **No hidden runtime:** none is started, none blocked.
#[async_trait]
pub trait ModelRegistry: Debug + Display + Send + Sync + 'static {
    /// Registers a model. Needs [`Permission::Register`](mlops_core::Permission::Register).
    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model>;

    /// The model of that name.
    async fn model(&self, name: &str) -> Result<Model>;

    /// Every model.
    async fn models(&self) -> Result<Vec<Model>>;

    /// Says what it takes to move an alias, set or not. Needs [`Permission::Administer`](mlops_core::Permission::Administer).
    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()>;

    /// What it takes to move an alias.
    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy>;

    /// Registers a version: the package must be in the artifact store. Needs
    /// [`Permission::Register`](mlops_core::Permission::Register).
    ///
    /// Lineage gets an edge from the run (the one given, else the one that the package's provenance names; two that
    /// differ are [`InvalidInput`](mlops_core::Error::InvalidInput)) to the version, and what the provenance says: code
    /// commit, lock file, toolchain and seed as facts of the version, and an edge from each dataset version to it. Two
    /// versions of one run keep their own.
    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion>;

    /// One version.
    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion>;

    /// Every version of a model.
    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>>;

    /// Asks for an alias to be pointed at a version that exists and that it does not point at. Needs
    /// [`Permission::RequestPromotion`](mlops_core::Permission::RequestPromotion).
    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion>;

    /// Says yes to a request. Needs [`Permission::Review`](mlops_core::Permission::Review), and four eyes.
    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion>;

    /// Turns a request down for good, with a reason. Needs [`Permission::Review`](mlops_core::Permission::Review).
    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion>;

    /// Carries a request out: checks the policy and moves the alias. Needs
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias).
    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion>;

    /// Points an alias back at the version before, without approvals, and records that as a promotion of its own. Needs
    /// [`Permission::MoveAlias`](mlops_core::Permission::MoveAlias).
    ///
    /// Each rollback undoes one more promotion: after moves to 1, 2 and 3, two rollbacks lead to 2 and then to 1. With
    /// nothing left to go back to it is [`NotFound`](mlops_core::Error::NotFound). Give an `id` where the call may be
    /// repeated: with it the second call changes nothing.
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

    /// The version an alias pointed at, at that moment; `None` before it was first set.
    async fn alias_at(&self, model: &str, alias: &str, at: Timestamp) -> Result<Option<u64>>;

    /// Every request for a promotion of that model, and every rollback.
    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>>;

    /// The promotion of that id.
    async fn promotion(&self, id: PromotionId) -> Result<Promotion>;

    /// At most `limit` (1 to 1,000) events with a place above `after`; 0 starts from the first.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // a forgotten forward would use a default in silence
impl<R: ModelRegistry + ?Sized> ModelRegistry for Arc<R> {
    async fn create_model(&self, who: &Principal, new: NewModel) -> Result<Model> {
        (**self).create_model(who, new).await
    }

    async fn model(&self, name: &str) -> Result<Model> {
        (**self).model(name).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        (**self).models().await
    }

    async fn set_policy(&self, who: &Principal, model: &str, alias: &str, policy: AliasPolicy) -> Result<()> {
        (**self).set_policy(who, model, alias, policy).await
    }

    async fn policy(&self, model: &str, alias: &str) -> Result<AliasPolicy> {
        (**self).policy(model, alias).await
    }

    async fn create_version(&self, who: &Principal, new: NewVersion) -> Result<ModelVersion> {
        (**self).create_version(who, new).await
    }

    async fn version(&self, model: &str, version: u64) -> Result<ModelVersion> {
        (**self).version(model, version).await
    }

    async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        (**self).versions(model).await
    }

    async fn request_promotion(&self, who: &Principal, new: NewPromotion) -> Result<Promotion> {
        (**self).request_promotion(who, new).await
    }

    async fn approve(&self, who: &Principal, id: PromotionId, comment: &str) -> Result<Promotion> {
        (**self).approve(who, id, comment).await
    }

    async fn reject(&self, who: &Principal, id: PromotionId, reason: &str) -> Result<Promotion> {
        (**self).reject(who, id, reason).await
    }

    async fn promote(&self, who: &Principal, id: PromotionId) -> Result<Promotion> {
        (**self).promote(who, id).await
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

    async fn promotions(&self, model: &str) -> Result<Vec<Promotion>> {
        (**self).promotions(model).await
    }

    async fn promotion(&self, id: PromotionId) -> Result<Promotion> {
        (**self).promotion(id).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        (**self).events(after, limit).await
    }
}
