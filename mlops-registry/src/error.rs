use mlops_core::PromotionId;

use crate::registry::PromotionState;
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
    /// The alias is protected and the request has too few approvals.
    #[error(
        "{model} v{version} may not become {alias} yet: {found} of {needed} approvals given, {} missing from {from}",
        needed - found
    )]
    ApprovalMissing {
        /// The model.
        model: String,
        /// The version that was to be pointed at.
        version: u64,
        /// The alias.
        alias: String,
        /// Approvals that count.
        found: u32,
        /// Approvals that the policy asks for.
        needed: u32,
        /// The roles that may approve: `a reviewer or admin`.
        from: String,
    },
    /// Who registered a version or asked for its promotion does not approve it.
    #[error("{who} may not approve {model} v{version} as {alias}: {because}, and four eyes are needed")]
    FourEyes {
        /// Who tried to approve.
        who: String,
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The alias.
        alias: String,
        /// What they did themselves: `they registered that version`.
        because: &'static str,
    },
    /// The alias moves only on passed checks, and some did not pass or there are none.
    #[error("{model} v{version} may not become {alias}: {reason}")]
    EvidenceMissing {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The alias.
        alias: String,
        /// Which checks did not pass, or that none is there.
        reason: String,
    },
    /// A request that was decided is not decided again.
    #[error("promotion {id} was {state} already")]
    Decided {
        /// The request.
        id: PromotionId,
        /// How it ended.
        state: PromotionState,
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
