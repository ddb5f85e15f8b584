//! What can go wrong while a pipeline is built or run, or a gate is asked.

use std::time::Duration;

/// Any error a step may end with; `?` makes one of whatever implements [`std::error::Error`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors a caller can act on. Those of a step name it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A store, a dataset or a predictor failed, or refused its input.
    #[error(transparent)]
    Core(#[from] mlops_core::Error),
    /// The pipeline cannot be built as described.
    #[error("invalid pipeline {pipeline:?}: {reason}")]
    InvalidPipeline {
        /// The pipeline's name.
        pipeline: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A handle was given to a pipeline or a run that it does not belong to.
    #[error("handle {index} was made by another pipeline builder than that of {pipeline:?}")]
    ForeignHandle {
        /// The pipeline it was given to.
        pipeline: String,
        /// Its place in the builder that made it.
        index: usize,
    },
    /// The call was made outside a tokio runtime.
    #[error("pipelines run on the caller's tokio runtime, and there is none here")]
    NoRuntime,
    /// A step ended with an error, on its last attempt.
    #[error("step {step:?} failed after {attempts} attempt(s)")]
    StepFailed {
        /// The step.
        step: String,
        /// How many times it was tried.
        attempts: u32,
        /// What it ended with.
        source: BoxError,
    },
    /// A step panicked. It is not tried again: a panic is a bug.
    #[error("step {step:?} panicked: {message}")]
    StepPanicked {
        /// The step.
        step: String,
        /// The message of the panic.
        message: String,
    },
    /// A step took longer than it may, on its last attempt.
    #[error("step {step:?} took longer than {limit:?}, after {attempts} attempt(s)")]
    TimedOut {
        /// The step.
        step: String,
        /// How many times it was tried.
        attempts: u32,
        /// The time one attempt may take.
        limit: Duration,
    },
    /// A step gave a value that cannot be written as JSON and read back (a NaN, a map with keys that are not text).
    #[error("the output of step {step:?} cannot be written as JSON and read back")]
    InvalidOutput {
        /// The step.
        step: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// A step finished, but its output, cache record or lineage could not be kept.
    #[error("what step {step:?} gave could not be kept")]
    NotKept {
        /// The step.
        step: String,
        /// The store's error.
        source: mlops_core::Error,
    },
    /// An option of a gate is out of range.
    #[error("invalid gate {gate:?}: {reason}")]
    InvalidGate {
        /// The gate's name.
        gate: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A gate was given a subject without a part that it checks.
    #[error("gate {gate:?} needs {part}, and the subject has none; add it with `Subject::{method}`")]
    MissingPart {
        /// The gate's name.
        gate: String,
        /// What is missing.
        part: &'static str,
        /// The call that adds it.
        method: &'static str,
    },
}

impl Error {
    /// The step that the error is about, if it is about one.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::StepFailed { step, .. }
            | Self::StepPanicked { step, .. }
            | Self::TimedOut { step, .. }
            | Self::InvalidOutput { step, .. }
            | Self::NotKept { step, .. } => Some(step),
            _ => None,
        }
    }
}
