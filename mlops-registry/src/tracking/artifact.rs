use std::fmt::{self, Display};

use mlops_core::{Digest, RunId};
use serde::{Deserialize, Serialize};

use super::LoggedModelId;

/// What an artifact belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArtifactOwner {
    /// A run.
    Run(RunId),
    /// A logged model.
    LoggedModel(LoggedModelId),
}

impl From<RunId> for ArtifactOwner {
    fn from(run: RunId) -> Self {
        Self::Run(run)
    }
}

impl From<LoggedModelId> for ArtifactOwner {
    fn from(model: LoggedModelId) -> Self {
        Self::LoggedModel(model)
    }
}

/// `run 0194…` or `logged model m-0194…`.
impl Display for ArtifactOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => write!(f, "run {run}"),
            Self::LoggedModel(model) => write!(f, "logged model {model}"),
        }
    }
}

/// What happens to an artifact that is at the path already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArtifactMode {
    /// It stays; other contents are refused.
    #[default]
    Create,
    /// It is replaced.
    Overwrite,
}

/// An artifact: bytes that a run or a logged model left, by their digest.
///
/// The bytes are in the artifact store as a blob under that digest
/// ([`put_blob`](mlops_core::ArtifactStoreExt::put_blob)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Artifact {
    /// Its path within its owner: `plots/roc.svg`.
    pub path: String,
    /// The digest of its bytes, under which the artifact store has them.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Artifact {
    /// An artifact of that digest and size.
    pub fn new(path: impl Into<String>, digest: Digest, bytes: u64) -> Self {
        Self { path: path.into(), digest, bytes }
    }
}
