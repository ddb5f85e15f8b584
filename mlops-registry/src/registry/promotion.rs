//! Requests, approvals and moves, of aliases and of stages.

use std::fmt::{self, Display};

use mlops_core::{Finding, PromotionId, Resource, Role, Timestamp};
use serde::{Deserialize, Serialize};

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

/// For how long an alias pointed at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tenure {
    /// The version.
    pub version: u64,
    /// From when.
    pub from: Timestamp,
    /// Until when, exclusive; open for the present one.
    pub until: Option<Timestamp>,
    /// The promotion that pointed it there.
    pub promotion: PromotionId,
    /// Who carried that out.
    pub by: String,
}

impl Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, from, by, .. } = self;
        write!(f, "v{version} from {}", from.format("%Y-%m-%d %H:%M"))?;
        if let Some(until) = self.until {
            write!(f, " to {}", until.format("%Y-%m-%d %H:%M"))?;
        }
        write!(f, ", moved by {by}")
    }
}

/// What a promotion moves: an alias to a version, or a version to a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// The alias of that name, which is to point at the version.
    Alias(String),
    /// The stage of that name, which the version is to enter.
    Stage(String),
}

impl Target {
    /// `alias` or `stage`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Alias(_) => "alias",
            Self::Stage(_) => "stage",
        }
    }

    /// The name of the alias or stage.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Alias(name) | Self::Stage(name) => name,
        }
    }

    /// What permissions are asked on: the alias or the stage, in its model.
    #[must_use]
    pub fn resource(&self, model: &str) -> Resource {
        Resource::new(self.kind(), self.name()).within(Resource::model(model))
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
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

/// A request to move a version to a stage.
///
/// ```
/// use mlops_registry::NewStageMove;
/// let request = NewStageMove::new("prices", 2, "Production").archive_existing().reason("passed a week in staging");
/// assert!(request.archive_existing);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewStageMove {
    /// Its id; a new one when absent.
    pub id: Option<PromotionId>,
    /// The model's name.
    pub model: String,
    /// The version to move.
    pub version: u64,
    /// The stage to move it to, in any case of letters.
    pub stage: String,
    /// Whether the other versions in that stage leave it for the one that the table names for that.
    pub archive_existing: bool,
    /// What the gates found.
    pub evidence: Vec<Finding>,
    /// Why.
    pub reason: String,
}

impl NewStageMove {
    /// A request without evidence or reason, which leaves other versions where they are.
    pub fn new(model: impl Into<String>, version: u64, stage: impl Into<String>) -> Self {
        let (model, stage) = (model.into(), stage.into());
        let (evidence, reason) = (Vec::new(), String::new());
        Self { id: None, model, version, stage, archive_existing: false, evidence, reason }
    }

    /// Gives it that id, which makes requesting it idempotent.
    #[must_use]
    pub fn id(mut self, id: PromotionId) -> Self {
        self.id = Some(id);
        self
    }

    /// Archives the other versions in that stage, in the same transaction. Each such move is recorded as one of its own;
    /// it has to be legal by the table and needs no approval.
    #[must_use]
    pub fn archive_existing(mut self) -> Self {
        self.archive_existing = true;
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

/// What a promotion does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PromotionKind {
    /// Points an alias at a version, or moves a version to a stage.
    Promote,
    /// Points an alias back to where it pointed before.
    Rollback,
    /// Takes an alias from its version: it points nowhere.
    Remove,
}

impl PromotionKind {
    /// The kind in one word: `promote`, `rollback`, `remove`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Remove => "remove",
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
    /// Taken back by who asked.
    Withdrawn,
    /// Carried out: the alias or the version moved.
    Promoted,
}

impl PromotionState {
    /// The state in one word: `requested`, `rejected`, `withdrawn`, `promoted`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
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
    /// The roles that they held on the alias or stage then.
    #[serde(default)]
    pub roles: Vec<Role>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// Who rejected it, withdrew it or carried it out.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why it was rejected or withdrawn; empty for a promotion, whose reason is the request's.
    pub reason: String,
}

/// The record of one move of an alias or a stage, from the request to the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Promotion {
    /// Its id.
    pub id: PromotionId,
    /// What it does.
    pub kind: PromotionKind,
    /// The model's name.
    pub model: String,
    /// The version concerned: the one that the alias is to point at or is taken from, or that enters the stage.
    pub version: u64,
    /// The alias or stage.
    pub target: Target,
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
    /// The revision, of the alias or of the version's stage, when it was asked for; the move happens on that one or not
    /// at all. 0 if it never moved.
    pub seen_revision: u64,
    /// Where the alias pointed at that revision.
    pub from: Option<u64>,
    /// The stage that the version was in at that revision.
    pub from_stage: Option<String>,
    /// Whether the other versions in the stage leave it.
    pub archive_existing: bool,
    /// Who approved, in order.
    pub approvals: Vec<Approval>,
    /// How it ended.
    pub decision: Option<Decision>,
    /// The revision that the move made.
    pub revision: Option<u64>,
}

impl Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, target, version, .. } = self;
        match (target, self.kind) {
            (Target::Stage(stage), _) => {
                let from = self.from_stage.as_deref().unwrap_or("?");
                write!(f, "{model} v{version} {from} → {stage}")?;
            }
            (Target::Alias(alias), PromotionKind::Remove) => write!(f, "{model}@{alias} removed from v{version}")?,
            (Target::Alias(alias), kind) => {
                let back = if kind == PromotionKind::Rollback { "back " } else { "" };
                write!(f, "{model}@{alias} {back}")?;
                match self.from {
                    Some(from) => write!(f, "v{from} → v{version}")?,
                    None => write!(f, "→ v{version}")?,
                }
            }
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
            (Some(decision), PromotionState::Rejected | PromotionState::Withdrawn) => {
                write!(f, ": {}", decision.reason)
            }
            _ if self.reason.is_empty() => Ok(()),
            _ => write!(f, ": {}", self.reason),
        }
    }
}
