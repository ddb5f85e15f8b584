//! Events of the [OpenLineage](https://openlineage.io) standard, version 2-0-2: what Marquez, Airflow, Spark and dbt write
//! and read.
//!
//! A [`RunEvent`] says that a run of a job started, completed, failed or was aborted, and which datasets went in and came
//! out. More is said in *facets*: those of the standard, and five of our own, under names that begin with `mlops_`, whose
//! JSON schemas are in this crate's `schemas/`. The standard knows no models, so a model version, a deployment and a batch
//! of predictions travel as datasets with a facet that says what they are: a reader that does not know the facet still
//! sees the whole graph.
//!
//! ```
//! use mlops_core::RunId;
//! use mlops_core::lineage::openlineage::{EnvironmentFacet, EventType, Job, Run, RunEvent, SchemaFacet, SchemaField};
//! use mlops_core::lineage::openlineage::Dataset;
//! # let at: mlops_core::Timestamp = "1996-05-07T00:00:00Z".parse().unwrap();
//! let run = Run::new(RunId::new(at)).facet(EnvironmentFacet::new().commit("4f92db1").dirty(false).seed(7u64));
//! let rows = Dataset::new("s3://feeds", "prices.csv").facet(SchemaFacet::new([SchemaField::new("price", "Float64")]));
//! let event = RunEvent::new(EventType::Start, at, run, Job::new("shop", "train")).input(rows);
//!
//! let text = event.to_json()?;
//! let read = RunEvent::from_json(&text)?;
//! assert_eq!(read, event);
//! assert_eq!(read.run.facets.find::<EnvironmentFacet>()?.unwrap().seed, Some(7));
//! # Ok::<(), mlops_core::Error>(())
//! ```
//!
//! # Rules
//! - What [`RunEvent::to_json`] gives is valid against the official JSON schemas, facets included, as long as the caller's
//!   own facets ([`Facets::set_custom`]) are.
//! - Facets of others are kept as they are, and written again.
//! - A number that JSON has no word for (NaN, infinities) is left out.

mod dataset;
mod facets;
mod ml;
mod uri;

use std::str::FromStr as _;

use chrono::{Datelike as _, SecondsFormat, TimeZone as _, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::dataset::{Dataset, InputDataset, OutputDataset};
pub use self::facets::{
    ColumnLineageFacet, ColumnMetrics, DataQualityMetricsFacet, ErrorMessageFacet, Facet, Facets, InputField,
    JobTypeFacet, LineageOfColumn, NominalTimeFacet, OfDataset, OfInput, OfJob, OfOutput, OfRun, ParentFacet,
    ParentRoot, SchemaFacet, SchemaField, SourceCodeLocationFacet, Transformation, VersionFacet,
};
pub use self::ml::{DeploymentFacet, EnvironmentFacet, ModelFacet, PredictionsFacet, StepFacet};
pub use self::uri::Uri;
use crate::{Error, Result, RunId, Timestamp};

/// Names this library as the producer of events and facets.
pub const PRODUCER: &str = concat!("https://docs.rs/mlops-core/", env!("CARGO_PKG_VERSION"));

/// The schema of [`RunEvent`]s.
pub const SCHEMA_URL: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// What became of a run. The standard asks for one `Start` and one of `Complete`, `Abort` and `Fail` for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum EventType {
    /// It began.
    Start,
    /// It goes on, and more is known of it.
    Running,
    /// It came to its end.
    Complete,
    /// It was stopped.
    Abort,
    /// It failed.
    Fail,
    /// Something else is known of it.
    #[default]
    Other,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunEvent {
    /// What happened; an event that does not say is read as `Other`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub event_type: EventType,
    /// When.
    #[serde(with = "time")]
    pub event_time: Timestamp,
    /// Who says so.
    pub producer: Uri,
    /// The schema that the event follows.
    #[serde(rename = "schemaURL")]
    pub schema_url: Uri,
    /// The run.
    pub run: Run,
    /// The job that it is a run of.
    pub job: Job,
    /// What it reads.
    #[serde(default, deserialize_with = "null_is_default")]
    pub inputs: Vec<InputDataset>,
    /// What it writes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub outputs: Vec<OutputDataset>,
}

impl RunEvent {
    /// Says what happened, when, to which run of which job.
    #[must_use]
    pub fn new(event_type: EventType, at: Timestamp, run: Run, job: Job) -> Self {
        Self {
            event_type,
            event_time: at,
            producer: Uri::known(PRODUCER),
            schema_url: Uri::known(SCHEMA_URL),
            run,
            job,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Adds a dataset that the run reads.
    #[must_use]
    pub fn input(mut self, dataset: impl Into<InputDataset>) -> Self {
        self.inputs.push(dataset.into());
        self
    }

    /// Adds a dataset that the run writes.
    #[must_use]
    pub fn output(mut self, dataset: impl Into<OutputDataset>) -> Self {
        self.outputs.push(dataset.into());
        self
    }

    /// Names the program that says so (default: [`PRODUCER`]). Its facets stay this library's.
    #[must_use]
    pub fn producer(mut self, producer: Uri) -> Self {
        self.producer = producer;
        self
    }

    /// The event as it travels: one line of JSON.
    ///
    /// # Errors
    /// None in practice: every event has a JSON form.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::invalid("lineage event", e))
    }

    /// Reads an event that this or another program wrote.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the field that is missing or of another type.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::invalid("lineage event", e))
    }
}

/// One execution of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Facets::is_empty")]
    pub facets: Facets<OfRun>,
}

impl Run {
    /// The run with that id.
    #[must_use]
    pub fn new(run_id: RunId) -> Self {
        Self { run_id, facets: Facets::default() }
    }

    /// The run that stands for one step of another: the same id whenever it is asked for, as a step has none of its own.
    ///
    /// ```
    /// use mlops_core::{RunId, lineage::openlineage::Run};
    /// let run = RunId::new("1996-05-07T00:00:00Z".parse().unwrap());
    /// assert_eq!(Run::step(run, "train"), Run::step(run, "train"));
    /// assert_ne!(Run::step(run, "train").run_id, run);
    /// ```
    #[must_use]
    pub fn step(run: RunId, step: &str) -> Self {
        let (seconds, nanos) = run.as_uuid().get_timestamp().map_or((0, 0), |t| t.to_unix());
        let at = i64::try_from(seconds).ok().and_then(|s| Utc.timestamp_opt(s, nanos).single()).unwrap_or_default();
        Self::new(RunId::derived(at, format!("{run}/{step}").as_bytes()))
    }

    /// Adds a facet, in place of one of its kind.
    #[must_use]
    pub fn facet(mut self, facet: impl Facet<OfRun>) -> Self {
        self.facets.set(&facet);
        self
    }
}

impl From<RunId> for Run {
    fn from(run: RunId) -> Self {
        Self::new(run)
    }
}

/// What is run again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// Where the name counts: the team's or the service's.
    pub namespace: String,
    /// Its name; one step of a job is `job.step` by convention.
    pub name: String,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Facets::is_empty")]
    pub facets: Facets<OfJob>,
}

impl Job {
    /// The job of that name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into(), facets: Facets::default() }
    }

    /// Adds a facet, in place of one of its kind.
    #[must_use]
    pub fn facet(mut self, facet: impl Facet<OfJob>) -> Self {
        self.facets.set(&facet);
        self
    }
}

/// Reads `null` as nothing said: some clients write it where others leave the field out.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// RFC 3339 to the microsecond, as the standard's `date-time` wants it; years that it has no word for become the nearest.
fn time_text(at: &Timestamp) -> String {
    let nearest = match at.year() {
        ..0 => "0000-01-01T00:00:00.000000Z",
        0..=9999 => return at.to_rfc3339_opts(SecondsFormat::Micros, true),
        _ => "9999-12-31T23:59:59.999999Z",
    };
    nearest.to_owned()
}

mod time {
    use super::*;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&time_text(at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Timestamp::from_str(&text).map_err(serde::de::Error::custom)
    }
}

mod maybe_time {
    use super::*;

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        at.as_ref().map(time_text).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Option::<Timestamp>::deserialize(from)
    }
}
