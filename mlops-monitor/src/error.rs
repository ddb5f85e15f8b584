//! The error of this crate.

/// What can go wrong while fitting, scoring or updating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value or an option is outside what the method is defined for.
    #[error("{what}: {reason}")]
    InvalidInput {
        /// The argument or option that was refused.
        what: String,
        /// Why, with the value where that helps.
        reason: String,
    },
    /// Two inputs that must have the same length have not.
    #[error("{what}: expected length {expected}, got {got}")]
    ShapeMismatch {
        /// The argument that was refused.
        what: String,
        /// The length it should have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A batch or a profile does not have a column that is wanted, or not as what it should be.
    #[error("column {column:?}: {reason}")]
    Column {
        /// The column at fault.
        column: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// An alert could not be delivered; `retryable` says whether the same call may work later.
    #[error("{sink} could not deliver the alert")]
    Sink {
        /// The sink's name.
        sink: String,
        /// Whether the same call may work later.
        retryable: bool,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of `mlops-core` failed.
    #[error(transparent)]
    Core(#[from] mlops_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same call may succeed later without a change by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Sink { retryable, .. } => *retryable,
            Self::Core(error) => error.is_retryable(),
            _ => false,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidInput { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn column(column: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Column { column: column.into(), reason: reason.into() }
    }

    pub(crate) fn shape(what: impl Into<String>, expected: usize, got: usize) -> Self {
        Self::ShapeMismatch { what: what.into(), expected, got }
    }
}

/// Checks that a confidence level lies strictly between 0 and 1.
pub(crate) fn check_confidence(confidence: f64) -> Result<()> {
    if confidence > 0.0 && confidence < 1.0 {
        return Ok(());
    }
    Err(Error::invalid("confidence", format!("must lie in (0, 1), got {confidence}")))
}

/// Checks that a drift threshold is finite and positive.
pub(crate) fn check_alert_at(alert_at: f64, most: f64) -> Result<()> {
    if alert_at > 0.0 && alert_at <= most {
        return Ok(());
    }
    Err(Error::invalid("alert_at", format!("must lie in (0, {most}], got {alert_at}")))
}
