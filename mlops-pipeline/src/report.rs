use std::fmt;
use std::time::Duration;

use mlops_core::{Digest, RunId};
use serde::Serialize;

/// What became of each step of a run. `Display` is a table.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RunReport {
    /// The pipeline's name.
    pub pipeline: String,
    /// The run.
    pub run: RunId,
    /// The steps, in the order they were defined.
    pub steps: Vec<StepReport>,
    /// How long the run took.
    pub elapsed: Duration,
}

/// What became of one step.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// The step.
    pub step: String,
    /// What became of it.
    #[serde(flatten)]
    pub status: StepStatus,
    /// How many attempts were made; 0 for a cached step and one that did not start.
    pub attempts: u32,
    /// How long it took, cache look-up and bookkeeping included.
    pub elapsed: Duration,
    /// The digest of its output, if it has one.
    pub output: Option<Digest>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// It ran, and its output was kept.
    Computed,
    /// Its output was computed before, by that run: another one, or an earlier start of this one.
    Cached {
        /// The run that computed it.
        computed_by: RunId,
    },
    /// It failed.
    Failed {
        /// The error and its causes.
        error: String,
    },
    /// It was stopped because another step failed.
    Cancelled,
    /// It did not start because another step failed.
    NotStarted,
}

impl StepStatus {
    /// The status in one or two words.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Computed => "computed",
            Self::Cached { .. } => "cached",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::NotStarted => "not started",
        }
    }
}

impl RunReport {
    /// The entry of one step.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepReport> {
        self.steps.iter().find(|s| s.step == name)
    }

    /// The names of the steps that ran to their end in this run.
    pub fn computed(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter(|s| s.status == StepStatus::Computed).map(|s| s.step.as_str())
    }

    /// The names of the steps whose output was computed before.
    pub fn cached(&self) -> impl Iterator<Item = &str> {
        let is_cached = |s: &&StepReport| matches!(s.status, StepStatus::Cached { .. });
        self.steps.iter().filter(is_cached).map(|s| s.step.as_str())
    }

    /// One line: how many steps came to what.
    pub(crate) fn summary(&self) -> String {
        let names = ["computed", "cached", "failed", "cancelled", "not started"];
        let count = |name: &&str| self.steps.iter().filter(|s| s.status.as_str() == *name).count();
        let parts: Vec<String> = names
            .iter()
            .map(|name| (name, count(name)))
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        format!("{}: {} in {:.1?}", self.pipeline, parts.join(", "), self.elapsed)
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|s| s.step.len()).max().unwrap_or(0).max(4);
        writeln!(f, "{:width$}  {:11}  {:>8}  {:>9}  output", "step", "status", "attempts", "time")?;
        for s in &self.steps {
            let output = s.output.as_ref().map_or_else(|| "-".to_owned(), Digest::short);
            let time = format!("{:.1?}", s.elapsed);
            write!(f, "{:width$}  {:11}  {:>8}  {time:>9}  {output}", s.step, s.status.as_str(), s.attempts)?;
            match &s.status {
                StepStatus::Cached { computed_by } => writeln!(f, "  from run {computed_by}")?,
                StepStatus::Failed { error } => writeln!(f, "  {error}")?,
                _ => writeln!(f)?,
            }
        }
        f.write_str(&self.summary())
    }
}
