//! Our own facets. Each has its schema in `schemas/`, as the standard's facets have theirs.

use std::collections::BTreeMap;

use serde::Serializer;

use super::facets::facet;
use super::{OfDataset, OfRun, maybe_time};
use crate::package::Provenance;
use crate::{Digest, RunId, Timestamp};

/// The version is that of the crate in which a schema was last changed.
macro_rules! own {
    ($name:literal) => {
        concat!("https://docs.rs/crate/mlops-core/0.1.0/source/schemas/", $name, ".json#/$defs/", $name)
    };
}

facet! {
    /// Says that a dataset is a model version.
    ModelFacet {
        /// The model's name.
        name: String,
        /// The version's number.
        version: u64,
    }
    may have {
        /// The digest of its package.
        package: Digest,
    }
    OfDataset: "mlops_model" = own!("MlopsModelDatasetFacet");
}

impl ModelFacet {
    /// That version of that model.
    pub fn new(name: impl Into<String>, version: u64) -> Self {
        Self { name: name.into(), version, package: None }
    }
}

facet! {
    /// Says that a dataset is a deployment.
    DeploymentFacet {
        /// Its name.
        name: String,
        /// By arm, the share of the traffic that it gets, in `[0, 1]`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty", serialize_with = "shares")]
        arms: BTreeMap<String, f64>,
    }
    may have {}
    OfDataset: "mlops_deployment" = own!("MlopsDeploymentDatasetFacet");
}

impl DeploymentFacet {
    /// The deployment of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), arms: BTreeMap::new() }
    }

    /// An arm and the share of the traffic that it gets, in `[0, 1]`; what is outside is written as the nearest end, and
    /// NaN not at all.
    #[must_use]
    pub fn arm(mut self, name: impl Into<String>, share: f64) -> Self {
        self.arms.insert(name.into(), share);
        self
    }
}

fn shares<S: Serializer>(arms: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(arms.iter().filter(|(_, share)| !share.is_nan()).map(|(arm, share)| (arm, share.clamp(0.0, 1.0))))
}

facet! {
    /// Says that a dataset is predictions that were made together.
    PredictionsFacet {
        /// Their name.
        batch: String,
        /// When the first was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_time")]
        from: Option<Timestamp>,
        /// When the last had been asked for; not included.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_time")]
        until: Option<Timestamp>,
    }
    may have {
        /// How many there are.
        rows: u64,
        /// The deployment that made them.
        deployment: String,
    }
    OfDataset: "mlops_predictions" = own!("MlopsPredictionsDatasetFacet");
}

impl PredictionsFacet {
    /// The batch of that name.
    pub fn new(batch: impl Into<String>) -> Self {
        Self { batch: batch.into(), from: None, until: None, rows: None, deployment: None }
    }

    /// The time in which they were asked for: `from..until`.
    #[must_use]
    pub fn between(mut self, from: Timestamp, until: Timestamp) -> Self {
        (self.from, self.until) = (Some(from), Some(until));
        self
    }
}

facet! {
    /// Which code ran, and on what: enough to run it again.
    EnvironmentFacet {}
    may have {
        /// The commit of the code.
        commit: String,
        /// Whether the working tree differed from that commit.
        dirty: bool,
        /// The digest of the lock file that pins the dependencies.
        lock_file: Digest,
        /// The compiler or interpreter: `rustc 1.95.0`.
        toolchain: String,
        /// The container image, by digest.
        image: String,
        /// The seed that fixes the run.
        seed: u64,
    }
    OfRun: "mlops_environment" = own!("MlopsEnvironmentRunFacet");
}

impl EnvironmentFacet {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Self {
        Self { commit: None, dirty: None, lock_file: None, toolchain: None, image: None, seed: None }
    }
}

impl Default for EnvironmentFacet {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&Provenance> for EnvironmentFacet {
    fn from(made: &Provenance) -> Self {
        Self {
            commit: made.commit.clone(),
            dirty: made.dirty,
            lock_file: made.lock_file,
            toolchain: made.toolchain.clone(),
            image: None,
            seed: made.seed,
        }
    }
}

facet! {
    /// Says that a run is one step of its [parent](super::ParentFacet).
    StepFacet {
        /// The step's name.
        step: String,
        /// The steps whose output it takes, each with the output's digest.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        inputs: BTreeMap<String, Digest>,
    }
    may have {
        /// The digest of its output.
        output: Digest,
        /// The run that computed the output; another one if it was taken from the cache.
        computed_by: RunId,
        /// The code that it runs, as far as it says.
        code: String,
    }
    OfRun: "mlops_step" = own!("MlopsStepRunFacet");
}

impl StepFacet {
    /// The step of that name.
    pub fn new(step: impl Into<String>) -> Self {
        Self { step: step.into(), inputs: BTreeMap::new(), output: None, computed_by: None, code: None }
    }

    /// A step whose output it takes.
    #[must_use]
    pub fn input(mut self, step: impl Into<String>, output: Digest) -> Self {
        self.inputs.insert(step.into(), output);
        self
    }
}
