use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Job, PRODUCER, Run, Uri, maybe_time, time};
#[cfg(feature = "datasets")]
use crate::dataset::{DatasetVersion, Value as Bound};
use crate::{Error, Result, Timestamp};

/// What a facet can say something about.
macro_rules! places {
    ($($(#[$doc:meta])* $name:ident;)+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name;
    )+ };
}

places! {
    /// Marks facets of a run.
    OfRun;
    /// Marks facets of a job.
    OfJob;
    /// Marks facets of a dataset, whoever reads or writes it.
    OfDataset;
    /// Marks facets of a dataset as one run reads it.
    OfInput;
    /// Marks facets of a dataset as one run writes it.
    OfOutput;
}

/// Something that is known of a run, a job or a dataset (`P`), with a name and a schema of its own.
///
/// Sealed: facets of your own go in with [`Facets::set_custom`] and come out with [`Facets::value`].
pub trait Facet<P>: sealed::Sealed + Serialize + DeserializeOwned {
    /// Its name among the facets.
    const NAME: &'static str;
    /// The schema that it follows.
    const SCHEMA_URL: &'static str;
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// Facets by name: those this crate knows and those it does not.
#[derive(Clone, PartialEq)]
pub struct Facets<P> {
    values: BTreeMap<String, Value>,
    place: PhantomData<P>,
}

impl<P> Facets<P> {
    /// Adds a facet, in place of one of its kind.
    pub fn set<F: Facet<P>>(&mut self, facet: &F) {
        // The facets of this crate are structs with keys that are text, so they always are an object.
        if let Ok(Value::Object(fields)) = serde_json::to_value(facet) {
            self.insert(F::NAME, F::SCHEMA_URL, fields);
        }
    }

    /// Adds a facet of your own, in place of one of that name. The standard asks for a name with a prefix of yours
    /// (`acme_budget`) and for a schema that can be found under `schema`.
    pub fn set_custom(&mut self, name: &str, schema: &Uri, fields: Map<String, Value>) {
        self.insert(name, schema.as_str(), fields);
    }

    fn insert(&mut self, name: &str, schema: &str, mut fields: Map<String, Value>) {
        fields.insert("_producer".to_owned(), PRODUCER.into());
        fields.insert("_schemaURL".to_owned(), schema.into());
        self.values.insert(name.to_owned(), Value::Object(fields));
    }

    /// The facet of that type, if there is one.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if what is there under its name cannot be read as one.
    pub fn find<F: Facet<P>>(&self) -> Result<Option<F>> {
        let Some(value) = self.values.get(F::NAME) else { return Ok(None) };
        F::deserialize(value).map(Some).map_err(|e| Error::invalid(format!("facet {}", F::NAME), e))
    }

    /// The facet of that name as it is, with its `_producer` and `_schemaURL`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// All facets as they are, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl<P> Default for Facets<P> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), place: PhantomData }
    }
}

impl<P> fmt::Debug for Facets<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

impl<P> Serialize for Facets<P> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(to)
    }
}

impl<'de, P> Deserialize<'de> for Facets<P> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let values = super::null_is_default(from)?;
        Ok(Self { values, place: PhantomData })
    }
}

/// Writes a facet with its fields: those it must have, then those it may have, each with a setter.
macro_rules! facet {
    (
        $(#[$doc:meta])* $name:ident { $($(#[$must_doc:meta])* $must:ident: $must_type:ty,)* }
        may have { $($(#[$may_doc:meta])* $may:ident: $may_type:ty,)* }
        $($place:ident: $key:literal = $url:expr;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$must_doc])* pub $must: $must_type,)*
            $(
                $(#[$may_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $may: Option<$may_type>,
            )*
        }

        impl $name {
            $(
                $(#[$may_doc])*
                #[must_use]
                pub fn $may(mut self, $may: impl Into<$may_type>) -> Self {
                    self.$may = Some($may.into());
                    self
                }
            )*
        }

        impl $crate::lineage::openlineage::facets::sealed::Sealed for $name {}
        $(
            impl $crate::lineage::openlineage::Facet<$place> for $name {
                const NAME: &'static str = $key;
                const SCHEMA_URL: &'static str = $url;
            }
        )+
    };
}
pub(super) use facet;

macro_rules! official {
    ($version:literal, $name:literal) => {
        concat!("https://openlineage.io/spec/facets/", $version, "/", $name, ".json#/$defs/", $name)
    };
}

facet! {
    /// The run that this one is a part of.
    ParentFacet {
        /// The parent: its id alone, as its facets are in its own events.
        run: Run,
        /// Its job.
        job: Job,
    }
    may have {
        /// The run at the top, where the parent has a parent.
        root: ParentRoot,
    }
    OfRun: "parent" = official!("1-2-0", "ParentRunFacet");
}

/// The run at the top of a tree of runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParentRoot {
    /// The run.
    pub run: Run,
    /// Its job.
    pub job: Job,
}

impl ParentRoot {
    /// That run of that job.
    #[must_use]
    pub fn new(run: Run, job: Job) -> Self {
        Self { run, job }
    }
}

impl ParentFacet {
    /// A part of that run of that job.
    #[must_use]
    pub fn new(run: Run, job: Job) -> Self {
        Self { run, job, root: None }
    }
}

facet! {
    /// Why a run failed.
    ErrorMessageFacet {
        /// The error, for people.
        message: String,
        /// The language of the program that failed.
        programming_language: String,
    }
    may have {
        /// Where it failed.
        stack_trace: String,
    }
    OfRun: "errorMessage" = official!("1-0-1", "ErrorMessageRunFacet");
}

impl ErrorMessageFacet {
    /// The error of a Rust program.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), programming_language: "Rust".to_owned(), stack_trace: None }
    }
}

facet! {
    /// The time that a scheduled run stands for, which may be long before it runs.
    NominalTimeFacet {
        /// Its begin.
        #[serde(with = "time")]
        nominal_start_time: Timestamp,
        /// Its end, not included.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_time")]
        nominal_end_time: Option<Timestamp>,
    }
    may have {}
    OfRun: "nominalTime" = official!("1-0-1", "NominalTimeRunFacet");
}

impl NominalTimeFacet {
    /// From `start` on.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { nominal_start_time: start, nominal_end_time: None }
    }

    /// Up to `end`, which is not included.
    #[must_use]
    pub fn until(mut self, end: Timestamp) -> Self {
        self.nominal_end_time = Some(end);
        self
    }
}

facet! {
    /// Where the code of a job lies.
    SourceCodeLocationFacet {
        /// What keeps it: `git`.
        #[serde(rename = "type")]
        kind: String,
        /// The page or file that shows it.
        url: Uri,
    }
    may have {
        /// The repository, in whatever form its tool takes.
        repo_url: String,
        /// The path within it.
        path: String,
        /// The commit.
        version: String,
        /// The tag.
        tag: String,
        /// The branch.
        branch: String,
        /// The number of the pull request.
        pull_request_number: String,
    }
    OfJob: "sourceCodeLocation" = official!("1-1-0", "SourceCodeLocationJobFacet");
}

impl SourceCodeLocationFacet {
    /// In a git repository, shown at `url`.
    #[must_use]
    pub fn git(url: Uri) -> Self {
        let (repo_url, path, version, tag, branch, pull_request_number) = (None, None, None, None, None, None);
        Self { kind: "git".to_owned(), url, repo_url, path, version, tag, branch, pull_request_number }
    }
}

facet! {
    /// What kind of job it is.
    JobTypeFacet {
        /// `BATCH`, `STREAMING` or `SERVICE`.
        processing_type: String,
        /// Which tool runs it: `MLOPS`.
        integration: String,
    }
    may have {
        /// What it is to that tool: `PIPELINE`, `STEP`.
        job_type: String,
    }
    OfJob: "jobType" = official!("2-0-4", "JobTypeJobFacet");
}

impl JobTypeFacet {
    /// A job with an end, run by this toolkit.
    #[must_use]
    pub fn batch() -> Self {
        Self { processing_type: "BATCH".to_owned(), integration: "MLOPS".to_owned(), job_type: None }
    }

    /// A service without an end, run by this toolkit.
    #[must_use]
    pub fn service() -> Self {
        Self { processing_type: "SERVICE".to_owned(), ..Self::batch() }
    }
}

facet! {
    /// The columns of a dataset.
    SchemaFacet {
        /// In order.
        #[serde(default)]
        fields: Vec<SchemaField>,
    }
    may have {}
    OfDataset: "schema" = official!("1-2-0", "SchemaDatasetFacet");
}

/// A column, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SchemaField {
    /// Its name.
    pub name: String,
    /// Its type, in the words of whatever keeps it.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its place, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal_position: Option<u64>,
    /// Its parts, if it is a struct.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<SchemaField>,
}

impl SchemaField {
    /// A column of that type.
    pub fn new(name: impl Into<String>, data_type: impl Into<String>) -> Self {
        let data_type = Some(data_type.into());
        Self { name: name.into(), data_type, description: None, ordinal_position: None, fields: Vec::new() }
    }

    /// What it means.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// A part of it.
    #[must_use]
    pub fn field(mut self, part: SchemaField) -> Self {
        self.fields.push(part);
        self
    }
}

impl SchemaFacet {
    /// These columns, in order.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = SchemaField>) -> Self {
        let numbered = |(i, field): (u64, SchemaField)| SchemaField { ordinal_position: Some(i), ..field };
        Self { fields: (1..).zip(fields).map(numbered).collect() }
    }
}

facet! {
    /// Which version of a dataset it is.
    VersionFacet {
        /// The version: a digest, for datasets of this toolkit.
        dataset_version: String,
    }
    may have {}
    OfDataset: "version" = official!("1-0-1", "DatasetVersionDatasetFacet");
}

impl VersionFacet {
    /// That version.
    pub fn new(version: impl ToString) -> Self {
        Self { dataset_version: version.to_string() }
    }
}

facet! {
    /// Counts and ranges of a dataset: as a whole, or of the rows that one run read.
    DataQualityMetricsFacet {
        /// By column.
        #[serde(default)]
        column_metrics: BTreeMap<String, ColumnMetrics>,
        /// When the dataset was last changed.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_time")]
        last_updated: Option<Timestamp>,
    }
    may have {
        /// Rows.
        row_count: u64,
        /// Bytes.
        bytes: u64,
        /// Files.
        file_count: u64,
    }
    OfDataset: "dataQualityMetrics" = official!("1-0-0", "DataQualityMetricsDatasetFacet");
    OfInput: "dataQualityMetrics" = official!("1-0-3", "DataQualityMetricsInputDatasetFacet");
}

impl DataQualityMetricsFacet {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Self {
        let (row_count, bytes, file_count) = (None, None, None);
        Self { column_metrics: BTreeMap::new(), last_updated: None, row_count, bytes, file_count }
    }

    /// Adds a column.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, metrics: ColumnMetrics) -> Self {
        self.column_metrics.insert(name.into(), metrics);
        self
    }
}

impl Default for DataQualityMetricsFacet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "datasets")]
#[cfg_attr(docsrs, doc(cfg(feature = "datasets")))]
impl From<&DatasetVersion> for DataQualityMetricsFacet {
    fn from(version: &DatasetVersion) -> Self {
        let number = |bound: &Option<Bound>| match bound {
            Some(Bound::Int(v)) => Some(*v as f64),
            Some(Bound::Float(v)) => Some(*v),
            _ => None,
        };
        let facet = Self::new().row_count(version.rows).bytes(version.bytes()).file_count(version.files.len() as u64);
        version.columns.iter().zip(&version.stats).fold(facet, |facet, (column, stats)| {
            let metrics = ColumnMetrics {
                null_count: Some(stats.nulls),
                count: Some((stats.rows - stats.nulls) as f64),
                min: number(&stats.min),
                max: number(&stats.max),
                ..ColumnMetrics::default()
            };
            facet.column(&column.name, metrics)
        })
    }
}

/// Counts and range of one column. A float that JSON has no word for is not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ColumnMetrics {
    /// Nulls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_count: Option<u64>,
    /// Different values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_count: Option<u64>,
    /// The sum of the values.
    #[serde(skip_serializing_if = "is_unwritable")]
    pub sum: Option<f64>,
    /// Values.
    #[serde(skip_serializing_if = "is_unwritable")]
    pub count: Option<f64>,
    /// The least.
    #[serde(skip_serializing_if = "is_unwritable")]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(skip_serializing_if = "is_unwritable")]
    pub max: Option<f64>,
    /// By the share of values at or below: `0.25`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "finite_only")]
    pub quantiles: BTreeMap<String, f64>,
}

fn is_unwritable(value: &Option<f64>) -> bool {
    !value.is_some_and(f64::is_finite)
}

fn finite_only<S: Serializer>(values: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(values.iter().filter(|(_, value)| value.is_finite()))
}

facet! {
    /// Which columns of which datasets each column was made from.
    ColumnLineageFacet {
        /// By column of this dataset.
        fields: BTreeMap<String, LineageOfColumn>,
        /// What the dataset as a whole depends on: filters, joins, sort orders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dataset: Vec<InputField>,
    }
    may have {}
    OfDataset: "columnLineage" = official!("1-2-0", "ColumnLineageDatasetFacet");
}

impl ColumnLineageFacet {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Self {
        Self { fields: BTreeMap::new(), dataset: Vec::new() }
    }

    /// Says what a column was made from.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, inputs: impl IntoIterator<Item = InputField>) -> Self {
        self.fields.insert(name.into(), LineageOfColumn { input_fields: inputs.into_iter().collect() });
        self
    }

    /// Says what the whole dataset depends on: a column that it is filtered, joined or sorted by.
    #[must_use]
    pub fn whole(mut self, input: InputField) -> Self {
        self.dataset.push(input);
        self
    }
}

impl Default for ColumnLineageFacet {
    fn default() -> Self {
        Self::new()
    }
}

/// What one column was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineageOfColumn {
    /// The columns.
    pub input_fields: Vec<InputField>,
}

/// A column of a dataset that another column was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InputField {
    /// The dataset's namespace.
    pub namespace: String,
    /// The dataset's name.
    pub name: String,
    /// The column.
    pub field: String,
    /// What was done to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transformations: Vec<Transformation>,
}

impl InputField {
    /// That column of that dataset.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, field: impl Into<String>) -> Self {
        let (namespace, name, field) = (namespace.into(), name.into(), field.into());
        Self { namespace, name, field, transformations: Vec::new() }
    }

    /// What was done to it.
    #[must_use]
    pub fn transformation(mut self, done: Transformation) -> Self {
        self.transformations.push(done);
        self
    }
}

/// What was done to a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transformation {
    /// `DIRECT` if its values went in, `INDIRECT` if they decided about others.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which: `IDENTITY`, `AGGREGATION`; `FILTER`, `JOIN`, `SORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether the values cannot be told from the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<bool>,
}

impl Transformation {
    /// The values went in.
    pub fn direct(subtype: impl Into<String>) -> Self {
        Self { kind: "DIRECT".to_owned(), subtype: Some(subtype.into()), description: None, masking: None }
    }

    /// The values decided about others.
    pub fn indirect(subtype: impl Into<String>) -> Self {
        Self { kind: "INDIRECT".to_owned(), ..Self::direct(subtype) }
    }
}
