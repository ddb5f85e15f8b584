//! What can go wrong on the ground floor.

use crate::Digest;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors a caller can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing of that name exists.
    #[error("{what} {name:?} not found")]
    NotFound {
        /// The kind of thing looked for.
        what: &'static str,
        /// Its name, key or id.
        name: String,
    },
    /// Something of that name exists already and would have been replaced.
    #[error("{what} {name:?} exists already")]
    AlreadyExists {
        /// The kind of thing.
        what: &'static str,
        /// Its name, key or id.
        name: String,
    },
    /// A compare-and-swap lost: somebody else changed the row first. Read it again and decide anew.
    #[error("{what} {name:?} has changed: expected {expected}, found {found}")]
    Conflict {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What the caller had seen.
        expected: String,
        /// What is there now.
        found: String,
    },
    /// Stored bytes are not the ones that were written: their digest differs.
    #[error("{what} is corrupt: expected {expected}, read {found}; restore it from a copy or build it again")]
    Corrupt {
        /// What was read.
        what: String,
        /// The digest it was stored under.
        expected: Digest,
        /// The digest of what came back.
        found: Digest,
    },
    /// The principal's roles do not include the permission on that resource.
    #[error("{principal} may not {permission} on {resource}: needs a role that grants it ({remedy})")]
    PermissionDenied {
        /// Who asked.
        principal: String,
        /// What was asked.
        permission: &'static str,
        /// On what.
        resource: String,
        /// The roles that would do.
        remedy: String,
    },
    /// Who asks did not prove who they are.
    #[error("not authenticated: {reason}")]
    Unauthenticated {
        /// What is wrong with the proof.
        reason: String,
    },
    /// A proof was signed with a key that is not known: it may be new.
    #[error("not authenticated: signing key {key:?} is not known; fetch the issuer's keys again and retry")]
    UnknownKey {
        /// The key's id.
        key: String,
    },
    /// A value the caller gave is not acceptable.
    #[error("invalid {what}: {reason}")]
    InvalidInput {
        /// The field, column or option.
        what: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A batch does not have the columns that are wanted.
    #[error("column {column:?}: {reason}")]
    SchemaMismatch {
        /// The column at fault.
        column: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A backend itself failed; `retryable` says whether the same call may work later.
    #[error("{backend} could not {operation} {key:?}")]
    Backend {
        /// The backend's name.
        backend: String,
        /// The operation that failed.
        operation: &'static str,
        /// The key or name it worked on.
        key: String,
        /// Whether the same call may work later.
        retryable: bool,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A predictor failed on inputs that fit its signature.
    #[error("prediction failed in {runtime}")]
    Prediction {
        /// The runtime's name.
        runtime: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// An [`Error::InvalidInput`] for `what`, with a reason.
    pub fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::InvalidInput { what: what.into(), reason: reason.to_string() }
    }

    /// An [`Error::SchemaMismatch`] for `column`, with a reason.
    pub fn column(column: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::SchemaMismatch { column: column.into(), reason: reason.into() }
    }

    /// An [`Error::NotFound`].
    pub fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    /// An [`Error::Unauthenticated`], with a reason.
    pub fn unauthenticated(reason: impl Into<String>) -> Self {
        Self::Unauthenticated { reason: reason.into() }
    }

    /// Whether the same call may succeed later without a change by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend { retryable: true, .. })
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::invalid("record batch", error)
    }
}

/// An error and its causes on one line, for records that keep text.
///
/// ```
/// use mlops_core::{Error, with_causes};
/// let source = "disk full".into();
/// let (backend, key) = ("local".to_owned(), "a".to_owned());
/// let error = Error::Backend { backend, operation: "write", key, retryable: true, source };
/// assert_eq!(with_causes(&error), "local could not write \"a\": disk full");
/// ```
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
