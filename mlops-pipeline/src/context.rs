use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mlops_core::{ArtifactStore, DatasetRef, RunId, Timestamp};

use crate::runner::Session;
use crate::{BoxError, RunEvent};

/// What a step is given beside its inputs: who it is, and where it says what it does. Clones are the same.
#[derive(Clone)]
pub struct StepContext {
    session: Arc<Session>,
    step: String,
    attempt: u32,
    used: Arc<Mutex<Used>>,
}

/// The dataset versions that an attempt said it used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) reads: BTreeSet<DatasetRef>,
    pub(crate) writes: BTreeSet<DatasetRef>,
}

impl StepContext {
    pub(crate) fn new(session: Arc<Session>, step: String, attempt: u32) -> Self {
        Self { session, step, attempt, used: Arc::default() }
    }

    pub(crate) fn used(&self) -> Used {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        self.session.run
    }

    /// The step's name.
    #[must_use]
    pub fn step(&self) -> &str {
        &self.step
    }

    /// The attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The store that outputs are kept in: put large things there and give their digest.
    #[must_use]
    pub fn artifacts(&self) -> &Arc<dyn ArtifactStore> {
        &self.session.store
    }

    /// The time by the runner's clock. A step whose output depends on it should be
    /// [uncached](crate::StepOptions::uncached).
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.session.clock.now()
    }

    /// Tells the observers that `done` of `total` units (epochs, files, rows) are done.
    pub fn progress(&self, done: u64, total: u64) {
        self.session.tell(&RunEvent::StepProgress { step: self.step.clone(), done, total });
    }

    /// Says that the step reads this dataset version: an edge from it to the step in the lineage graph, now and
    /// whenever the step's output is taken from the cache.
    pub fn reads(&self, dataset: &DatasetRef) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).reads.insert(dataset.clone());
    }

    /// Says that the step wrote this dataset version: an edge from the step to it, as with
    /// [`reads`](Self::reads).
    pub fn writes(&self, dataset: &DatasetRef) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).writes.insert(dataset.clone());
    }

    /// Runs work that keeps a processor busy (training, hashing) on the runtime's threads for blocking work, so that
    /// other steps go on meanwhile. A time-out stops waiting for it, but cannot stop it.
    ///
    /// # Errors
    /// Those of `work`.
    ///
    /// # Panics
    /// With the panic of `work`; the step then ends as if it had panicked itself.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, BoxError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, BoxError> + Send + 'static,
    {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepContext({}/{}, attempt {})", self.session.run, self.step, self.attempt)
    }
}
