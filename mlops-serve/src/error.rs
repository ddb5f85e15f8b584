//! What can go wrong while serving.

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors a caller can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something on the ground floor failed: a bad batch, a missing model, a corrupt package, a denied permission.
    #[error(transparent)]
    Core(#[from] mlops_core::Error),
    /// A statistic could not be computed.
    #[error(transparent)]
    Monitor(#[from] mlops_monitor::Error),
    /// No runtime that is compiled in and given can load the package.
    #[error("no runtime for {model}: its flavors are [{flavors}], the runtimes at hand [{runtimes}]{hint}")]
    NoRuntime {
        /// The model.
        model: String,
        /// The flavors in its package.
        flavors: String,
        /// The runtimes given.
        runtimes: String,
        /// The cargo feature that would help, if there is one.
        hint: &'static str,
    },
    /// A package cannot be loaded: a file is damaged, missing, or does not fit the architecture.
    #[error("cannot load {file}: {reason}")]
    InvalidModel {
        /// The file in the package.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A split of traffic, a rollout plan or an option is not acceptable.
    #[error("invalid {what}: {reason}")]
    InvalidInput {
        /// The field or option.
        what: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The model's own code panicked; the request is lost, the deployment goes on.
    #[error("{model} panicked: {message}")]
    Panicked {
        /// The model.
        model: String,
        /// The panic's message.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::InvalidInput { what: what.into(), reason: reason.to_string() }
    }
}
