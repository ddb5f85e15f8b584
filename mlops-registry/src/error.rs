use mlops_core::PromotionId;

use crate::registry::{PromotionState, Target};
use crate::tracking::ArtifactOwner;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors a caller can act on.
///
/// What is not there, exists already, has changed meanwhile, is not allowed or is not acceptable input is
/// [`Error::Core`], with the kind and the name of the thing; the rest is the registry's own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of the errors all crates share: `NotFound`, `AlreadyExists`, `Conflict`, `PermissionDenied`,
    /// `InvalidInput`, `Corrupt`, `Backend`.
    #[error(transparent)]
    Core(#[from] mlops_core::Error),
    /// The alias or stage is protected and the request has too few approvals that count.
    #[error(
        "{model} v{version} may not become {target} yet: {found} of {needed} approvals given, {} missing from {from}{}; \
         once promotion {promotion} is approved, promote it",
        needed - found,
        in_brackets(ignored)
    )]
    ApprovalMissing {
        /// The request that waits for them.
        promotion: PromotionId,
        /// The model.
        model: String,
        /// The version that was to move.
        version: u64,
        /// The alias or stage.
        target: Target,
        /// Approvals that count.
        found: u32,
        /// Approvals that the policy asks for.
        needed: u32,
        /// Whose approvals would count: `a reviewer or admin`, `ria or zoe`.
        from: Box<str>,
        /// Approvals that were given and do not count, each with the reason.
        ignored: Box<[String]>,
    },
    /// Who registered a version or asked for its promotion does not approve it.
    #[error("{who} may not approve {model} v{version} as {target}: {because}, and four eyes are needed")]
    FourEyes {
        /// Who tried to approve.
        who: String,
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The alias or stage.
        target: Target,
        /// What they did themselves: `they registered that version`.
        because: &'static str,
    },
    /// The alias or stage takes only passed checks, and some did not pass, are too old or are not there.
    #[error("{model} v{version} may not become {target}: {reason}")]
    EvidenceMissing {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The alias or stage.
        target: Target,
        /// Which checks are missing or did not pass, or how old they are.
        reason: String,
    },
    /// Only who asked for a promotion takes it back.
    #[error(
        "{who} may not withdraw promotion {promotion}: {asked_by} asked for it, and only they take it back; a reviewer may \
         reject it"
    )]
    NotWhoAsked {
        /// Who tried to.
        who: String,
        /// The request.
        promotion: PromotionId,
        /// Who asked for it.
        asked_by: String,
    },
    /// A version that something depends on is not deleted, and its model neither.
    #[error("{what} may not be deleted: {}", by.join("; "))]
    Protected {
        /// What was to be deleted: `prices v3`.
        what: String,
        /// What protects it, each with what to do about it.
        by: Vec<String>,
    },
    /// A request that was decided is not decided again.
    #[error("promotion {id} was {state} already")]
    Decided {
        /// The request.
        id: PromotionId,
        /// How it ended.
        state: PromotionState,
    },
    /// The system behind the backend cannot do it: see [`Limit`](crate::Limit).
    #[error("{backend} cannot {operation}: {remedy}")]
    Unsupported {
        /// The system: `MLflow server`.
        backend: &'static str,
        /// What was asked for.
        operation: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A parameter of a run or a logged model keeps its first value.
    #[error("param {key:?} of {of} is {old:?} and may not become {new:?}; log it under another key")]
    ParamChanged {
        /// The run or the logged model.
        of: ArtifactOwner,
        /// The parameter.
        key: String,
        /// Its value.
        old: String,
        /// The value that was refused.
        new: String,
    },
}

fn in_brackets(ignored: &[String]) -> String {
    if ignored.is_empty() { String::new() } else { format!(" ({})", ignored.join("; ")) }
}

impl Error {
    /// Whether the same call may succeed later without a change by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Core(error) if error.is_retryable())
    }

    /// Whether it is [`mlops_core::Error::NotFound`].
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Core(mlops_core::Error::NotFound { .. }))
    }

    /// Whether it is [`mlops_core::Error::Conflict`]: somebody else was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Core(mlops_core::Error::Conflict { .. }))
    }
}

/// For calls through core's traits: what the registry refuses becomes [`mlops_core::Error::InvalidInput`], its message
/// kept.
impl From<Error> for mlops_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            refused => Self::invalid("registry call", refused),
        }
    }
}
