//! Watching a run: every event goes to each [`RunObserver`] of the [`Runner`](crate::Runner).

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlops_core::{Digest, RunId};
use serde::Serialize;

use crate::RunReport;

/// Is told what happens in a run.
///
/// # Contract
/// - **Order.** Events of one step come in order; those of steps that run at the same time are interleaved. A run's
///   first event is [`RunEvent::RunStarted`] and its last [`RunEvent::RunFinished`], which comes unless the run's
///   future is dropped.
/// - **Threads.** `on_event` is called from many threads at once, and from async code: it must not block for long.
/// - **Sharing.** One observer may watch many runs; each event says whose it is.
pub trait RunObserver: Debug + Send + Sync + 'static {
    /// Something happened in `run`.
    fn on_event(&self, run: RunId, event: &RunEvent);
}

impl<O: RunObserver + ?Sized> RunObserver for Arc<O> {
    fn on_event(&self, run: RunId, event: &RunEvent) {
        (**self).on_event(run, event);
    }
}

/// Something that happened in a run. `Display` is one line for people.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunEvent {
    /// The run begins.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// How many steps it has.
        steps: usize,
    },
    /// An attempt at a step begins; a step taken from the cache has none.
    StepStarted {
        /// The step.
        step: String,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// A step says how far it is.
    StepProgress {
        /// The step.
        step: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// An attempt ended with an error, and another follows.
    StepRetrying {
        /// The step.
        step: String,
        /// The attempt that failed.
        attempt: u32,
        /// How long until the next.
        delay: Duration,
        /// The error and its causes.
        error: String,
    },
    /// A step's output was taken from the cache.
    StepCached {
        /// The step.
        step: String,
        /// The run that computed it.
        computed_by: RunId,
        /// The digest of the output.
        output: Digest,
    },
    /// A step's output was computed and kept.
    StepFinished {
        /// The step.
        step: String,
        /// How many attempts it took.
        attempts: u32,
        /// The time from its first attempt until its output was kept.
        elapsed: Duration,
        /// The digest of the output.
        output: Digest,
    },
    /// A step failed for good.
    StepFailed {
        /// The step.
        step: String,
        /// How many attempts were made.
        attempts: u32,
        /// The error and its causes.
        error: String,
    },
    /// The run is over.
    RunFinished {
        /// What became of each step.
        report: RunReport,
    },
}

impl fmt::Display for RunEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunStarted { pipeline, steps } => write!(f, "{pipeline}: {steps} steps"),
            Self::StepStarted { step, attempt: 1 } => write!(f, "{step}: started"),
            Self::StepStarted { step, attempt } => write!(f, "{step}: attempt {attempt} started"),
            Self::StepProgress { step, done, total } => write!(f, "{step}: {done}/{total}"),
            Self::StepRetrying { step, attempt, delay, error } => {
                write!(f, "{step}: attempt {attempt} failed, next in {delay:.1?}: {error}")
            }
            Self::StepCached { step, computed_by, .. } => write!(f, "{step}: cached, computed by run {computed_by}"),
            Self::StepFinished { step, elapsed, output, .. } => {
                write!(f, "{step}: done in {elapsed:.1?}, output {}", output.short())
            }
            Self::StepFailed { step, error, .. } => write!(f, "{step}: {error}"),
            Self::RunFinished { report } => f.write_str(&report.summary()),
        }
    }
}

/// Keeps every event, for tests. Clones share them.
///
/// ```
/// let seen = mlops_pipeline::MemoryObserver::default();
/// assert!(seen.events().is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryObserver(Arc<Mutex<Vec<RunEvent>>>);

impl MemoryObserver {
    /// The events so far, of all runs, in the order they came.
    #[must_use]
    pub fn events(&self) -> Vec<RunEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RunObserver for MemoryObserver {
    fn on_event(&self, _run: RunId, event: &RunEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
