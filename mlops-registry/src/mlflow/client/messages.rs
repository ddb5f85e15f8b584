//! What the server answers.

use std::collections::BTreeMap;

use mlops_core::{Error as CoreError, ExperimentId, RunId, Timestamp};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::BACKEND;
use crate::mlflow::wire;
use crate::search::LifecycleStage;
use crate::{
    Experiment, LoggedModel, LoggedModelId, LoggedModelStatus, Metric, MetricDataset, ModelMetric, Result, Run,
    RunInfo, RunInput, RunModel, RunStatus,
};

/// What this toolkit keeps in tags of its own: what MLflow has no field for.
pub(super) const OWN: &str = "mlops.";
/// Who created an experiment, a model or a version.
pub(super) const AUTHOR: &str = "mlops.author";
/// The digest of what an experiment, a model or a version was created with.
pub(super) const CREATED: &str = "mlops.created";

/// An answer that lacks something, or has something that cannot be.
pub(super) fn odd(what: &str, found: impl std::fmt::Debug) -> crate::Error {
    let (backend, operation) = (BACKEND.to_owned(), "answer as MLflow does about");
    let source = format!("{found:?}").chars().take(200).collect::<String>().into();
    CoreError::Backend { backend, operation, key: what.to_owned(), retryable: false, source }.into()
}

/// A 64-bit integer, as a number or as text.
fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(from)?;
    if value.is_null() {
        return Ok(0);
    }
    wire::read_integer(&value).ok_or_else(|| serde::de::Error::custom(format!("{value} is no integer")))
}

fn float<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let value = Value::deserialize(from)?;
    wire::read_number(&value).ok_or_else(|| serde::de::Error::custom(format!("{value} is no number")))
}

/// Text that is absent, null or empty where there is none.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

pub(super) fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn time(millis: i64) -> Result<Timestamp> {
    wire::read_millis(millis).ok_or_else(|| odd("a time", millis))
}

/// The id of an experiment: a number in MLflow's own servers, a UUID in ours.
///
/// A number is the last 64 bits of a UUID that nothing else makes (version 8, and `mlflow` at its beginning).
const NUMBERED: u64 = 0x6d6c_666c_6f77_8000;
const VARIANT: u64 = 1 << 63;

pub(super) fn read_experiment_id(text: &str) -> Result<ExperimentId> {
    if text.len() < 20
        && let Ok(number) = text.parse::<u64>()
    {
        let low = VARIANT | number & (VARIANT / 2 - 1);
        let uuid = uuid::Uuid::from_u64_pair(NUMBERED | number >> 62, low);
        return Ok(ExperimentId::from_uuid(uuid));
    }
    text.parse().map_err(|_| odd("the id of an experiment, a number or 32 hexadecimal digits", text))
}

pub(super) fn experiment_id(id: ExperimentId) -> String {
    let (high, low) = id.as_uuid().as_u64_pair();
    if high & !3 == NUMBERED && low >> 62 == 2 {
        return ((high & 3) << 62 | low & (VARIANT / 2 - 1)).to_string();
    }
    wire::hex(id.as_uuid())
}

pub(super) fn run_id(text: &str) -> Result<RunId> {
    text.parse().map_err(|_| odd("the id of a run, 32 hexadecimal digits", text))
}

#[derive(Debug, Deserialize)]
pub(super) struct Pair {
    pub(super) key: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) value: String,
}

pub(super) type Pairs = BTreeMap<String, String>;

fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
    let pairs: Option<Vec<Pair>> = Option::deserialize(from)?;
    Ok(pairs.unwrap_or_default().into_iter().map(|pair| (pair.key, pair.value)).collect())
}

/// The tags that callers gave, without this toolkit's own.
pub(super) fn callers(mut tags: Pairs) -> Pairs {
    tags.retain(|key, _| !key.starts_with(OWN));
    tags
}

fn stage(text: &str) -> LifecycleStage {
    if text == LifecycleStage::Deleted.as_str() { LifecycleStage::Deleted } else { LifecycleStage::Active }
}

#[derive(Debug, Deserialize)]
pub(super) struct ExperimentMessage {
    pub(super) experiment_id: String,
    pub(super) name: String,
    #[serde(default, deserialize_with = "text")]
    artifact_location: String,
    #[serde(default, deserialize_with = "text")]
    lifecycle_stage: String,
    #[serde(default, deserialize_with = "integer")]
    creation_time: i64,
    #[serde(default, deserialize_with = "integer")]
    last_update_time: i64,
    #[serde(default, deserialize_with = "pairs")]
    pub(super) tags: Pairs,
}

impl ExperimentMessage {
    pub(super) fn read(self) -> Result<Experiment> {
        Ok(Experiment {
            id: read_experiment_id(&self.experiment_id)?,
            name: self.name,
            artifact_location: given(self.artifact_location),
            stage: stage(&self.lifecycle_stage),
            author: self.tags.get(AUTHOR).cloned().unwrap_or_default(),
            tags: callers(self.tags),
            created_at: time(self.creation_time)?,
            updated_at: time(self.last_update_time)?,
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct MetricMessage {
    key: String,
    #[serde(deserialize_with = "float")]
    value: f64,
    #[serde(default, deserialize_with = "integer")]
    timestamp: i64,
    #[serde(default, deserialize_with = "integer")]
    step: i64,
    #[serde(default, deserialize_with = "text")]
    model_id: String,
    #[serde(default, deserialize_with = "text")]
    dataset_name: String,
    #[serde(default, deserialize_with = "text")]
    dataset_digest: String,
    #[serde(default, deserialize_with = "text")]
    run_id: String,
}

impl MetricMessage {
    pub(super) fn read(self) -> Result<Metric> {
        let mut metric = Metric::new(self.key, self.value, self.step, time(self.timestamp)?);
        metric.model = given(self.model_id).map(|id| id.parse()).transpose()?;
        metric.dataset = given(self.dataset_name).map(|name| MetricDataset::new(name, self.dataset_digest));
        Ok(metric)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DatasetMessage {
    name: String,
    digest: String,
    #[serde(deserialize_with = "text")]
    source_type: String,
    #[serde(deserialize_with = "text")]
    source: String,
    schema: Option<String>,
    profile: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DatasetInputMessage {
    #[serde(default, deserialize_with = "pairs")]
    tags: Pairs,
    #[serde(default)]
    dataset: DatasetMessage,
}

impl DatasetInputMessage {
    fn read(self) -> RunInput {
        let DatasetMessage { name, digest, source_type, source, schema, profile } = self.dataset;
        let mut input = wire::read_input_tags(self.tags, &digest);
        (input.name, input.source_type, input.source) = (name, source_type, source);
        (input.schema, input.profile) = (schema.and_then(given), profile.and_then(given));
        input
    }
}

#[derive(Debug, Deserialize)]
struct UsedModel {
    model_id: String,
    #[serde(default, deserialize_with = "integer")]
    step: i64,
}

#[derive(Debug, Deserialize)]
struct RunInfoMessage {
    #[serde(alias = "run_uuid")]
    run_id: String,
    experiment_id: String,
    #[serde(default, deserialize_with = "text")]
    run_name: String,
    #[serde(default, deserialize_with = "text")]
    user_id: String,
    status: RunStatus,
    #[serde(default, deserialize_with = "integer")]
    start_time: i64,
    #[serde(default, deserialize_with = "integer")]
    end_time: i64,
    #[serde(default, deserialize_with = "text")]
    artifact_uri: String,
    #[serde(default, deserialize_with = "text")]
    lifecycle_stage: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunDataMessage {
    #[serde(deserialize_with = "list")]
    metrics: Vec<MetricMessage>,
    #[serde(deserialize_with = "pairs")]
    params: Pairs,
    #[serde(deserialize_with = "pairs")]
    tags: Pairs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputsMessage {
    #[serde(deserialize_with = "list")]
    dataset_inputs: Vec<DatasetInputMessage>,
    #[serde(deserialize_with = "list")]
    model_inputs: Vec<UsedModel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputsMessage {
    #[serde(deserialize_with = "list")]
    model_outputs: Vec<UsedModel>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunMessage {
    info: Value,
    #[serde(default)]
    data: RunDataMessage,
    #[serde(default)]
    inputs: InputsMessage,
    #[serde(default)]
    outputs: OutputsMessage,
}

impl RunMessage {
    /// The run, but for the name of its experiment.
    pub(super) fn read(self) -> Result<Run> {
        let mut info = self.info;
        // Both spellings are sent, and serde takes two names of one field for a mistake.
        if let Some(fields) = info.as_object_mut()
            && fields.contains_key("run_id")
        {
            fields.remove("run_uuid");
        }
        let info: RunInfoMessage = serde_json::from_value(info).map_err(|error| odd("a run", error))?;
        let mut tags = callers(self.data.tags);
        let parent = tags.remove(wire::PARENT_TAG).and_then(|parent| parent.parse().ok());
        let author = tags.remove(wire::USER_TAG).unwrap_or(info.user_id);
        let name = tags.remove(wire::NAME_TAG).filter(|_| info.run_name.is_empty()).unwrap_or(info.run_name);
        let ended = (info.status.is_terminal() && info.end_time > 0).then(|| time(info.end_time)).transpose()?;
        let mut metrics = BTreeMap::new();
        for metric in self.data.metrics {
            let mut metric = metric.read()?;
            // Where the latest came from is not told, so it is told of none.
            (metric.model, metric.dataset) = (None, None);
            metrics.insert(metric.key.clone(), metric);
        }
        let mut inputs: Vec<RunInput> = self.inputs.dataset_inputs.into_iter().map(DatasetInputMessage::read).collect();
        inputs.sort();
        let mut models = Vec::new();
        for used in self.inputs.model_inputs {
            models.push(RunModel::input(used.model_id.parse()?));
        }
        for made in self.outputs.model_outputs {
            models.push(RunModel::output(made.model_id.parse()?, made.step));
        }
        models.sort();
        Ok(Run {
            info: RunInfo {
                id: run_id(&info.run_id)?,
                experiment: String::new(),
                experiment_id: read_experiment_id(&info.experiment_id)?,
                name,
                parent,
                stage: stage(&info.lifecycle_stage),
                status: info.status,
                author,
                started_at: time(info.start_time)?,
                ended_at: ended,
            },
            params: self.data.params,
            metrics,
            tags,
            inputs,
            models,
            artifacts: Vec::new(),
            artifact_uri: info.artifact_uri,
        })
    }
}

#[derive(Debug, Deserialize)]
struct LoggedInfo {
    model_id: String,
    experiment_id: String,
    #[serde(default, deserialize_with = "text")]
    name: String,
    #[serde(default, deserialize_with = "integer")]
    creation_timestamp_ms: i64,
    #[serde(default, deserialize_with = "integer")]
    last_updated_timestamp_ms: i64,
    #[serde(default, deserialize_with = "text")]
    artifact_uri: String,
    status: LoggedModelStatus,
    #[serde(default, deserialize_with = "text")]
    model_type: String,
    #[serde(default, deserialize_with = "text")]
    source_run_id: String,
    #[serde(default, deserialize_with = "pairs")]
    tags: Pairs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoggedData {
    #[serde(deserialize_with = "pairs")]
    params: Pairs,
    #[serde(deserialize_with = "list")]
    metrics: Vec<MetricMessage>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LoggedMessage {
    info: LoggedInfo,
    #[serde(default)]
    data: LoggedData,
}

/// A logged model with where its files are.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) model: LoggedModel,
    pub(super) uri: String,
}

impl LoggedMessage {
    pub(super) fn read(self) -> Result<Logged> {
        let info = self.info;
        let id: LoggedModelId = info.model_id.parse()?;
        // The server may tell every point; what is kept is the latest of each run and dataset.
        let mut latest: BTreeMap<(String, RunId, Option<MetricDataset>), Metric> = BTreeMap::new();
        let rank = |m: &Metric| (m.step, m.at, !m.value.is_nan());
        for message in self.data.metrics {
            let run = run_id(&message.run_id)?;
            let mut metric = message.read()?;
            metric.model = Some(id);
            let key = (metric.key.clone(), run, metric.dataset.clone());
            let beaten = latest
                .get(&key)
                .is_none_or(|old| rank(old) < rank(&metric) || rank(old) == rank(&metric) && old.value < metric.value);
            if beaten {
                latest.insert(key, metric);
            }
        }
        let metrics = latest.into_iter().map(|((_, run, _), metric)| ModelMetric { run, metric }).collect();
        let model = LoggedModel {
            id,
            experiment: read_experiment_id(&info.experiment_id)?,
            name: info.name,
            model_type: given(info.model_type),
            source_run: given(info.source_run_id).map(|id| run_id(&id)).transpose()?,
            status: info.status,
            // A deleted one is not answered.
            stage: LifecycleStage::Active,
            params: self.data.params,
            metrics,
            author: info.tags.get(AUTHOR).cloned().unwrap_or_default(),
            tags: callers(info.tags),
            created_at: time(info.creation_timestamp_ms)?,
            updated_at: time(info.last_updated_timestamp_ms)?,
        };
        Ok(Logged { model, uri: info.artifact_uri })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct AliasMessage {
    pub(super) alias: String,
    pub(super) version: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ModelMessage {
    pub(super) name: String,
    #[serde(default, deserialize_with = "integer")]
    pub(super) creation_timestamp: i64,
    #[serde(default, deserialize_with = "integer")]
    pub(super) last_updated_timestamp: i64,
    #[serde(default, deserialize_with = "text")]
    pub(super) user_id: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "list")]
    pub(super) latest_versions: Vec<VersionMessage>,
    #[serde(default, deserialize_with = "pairs")]
    pub(super) tags: Pairs,
    #[serde(default, deserialize_with = "list")]
    pub(super) aliases: Vec<AliasMessage>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct VersionMessage {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(default, deserialize_with = "integer")]
    pub(super) creation_timestamp: i64,
    #[serde(default, deserialize_with = "integer")]
    pub(super) last_updated_timestamp: i64,
    #[serde(default, deserialize_with = "text")]
    pub(super) user_id: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) current_stage: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) source: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) run_id: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) run_link: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) model_id: String,
    #[serde(default, deserialize_with = "pairs")]
    pub(super) tags: Pairs,
    #[serde(default, deserialize_with = "list")]
    pub(super) aliases: Vec<String>,
}

macro_rules! answers {
    ($($name:ident { $field:ident: $type:ty },)+) => { $(
        #[derive(Debug, Deserialize)]
        pub(super) struct $name {
            pub(super) $field: $type,
        }
    )+ };
}

answers! {
    OneExperiment { experiment: ExperimentMessage },
    MadeExperiment { experiment_id: String },
    OneRun { run: RunMessage },
    OneLogged { model: LoggedMessage },
    OneModel { registered_model: ModelMessage },
    OneVersion { model_version: VersionMessage },
    Place { artifact_uri: String },
}

macro_rules! pages {
    ($($name:ident { $field:ident: $type:ty },)+) => { $(
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            #[serde(deserialize_with = "list")]
            $field: Vec<$type>,
            #[serde(deserialize_with = "text")]
            next_page_token: String,
        }

        impl From<$name> for (Vec<$type>, Option<String>) {
            fn from(page: $name) -> Self {
                (page.$field, given(page.next_page_token))
            }
        }
    )+ };
}

pages! {
    Experiments { experiments: ExperimentMessage },
    Runs { runs: RunMessage },
    History { metrics: MetricMessage },
    LoggedModels { models: LoggedMessage },
    Models { registered_models: ModelMessage },
    Versions { model_versions: VersionMessage },
    Files { files: FileMessage },
}

#[derive(Debug, Deserialize)]
pub(super) struct FileMessage {
    pub(super) path: String,
    #[serde(default)]
    pub(super) is_dir: bool,
    #[serde(default, deserialize_with = "integer")]
    pub(super) file_size: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_experiments_pass_both_ways() {
        for text in ["0", "1", "4611686018427387904", "9223372036854775807", "0194f1d2c3b47a5e8f60718293a4b5c6"] {
            assert_eq!(experiment_id(read_experiment_id(text).unwrap()), text);
        }
        assert_eq!(read_experiment_id("7").unwrap().as_uuid().get_version_num(), 8);
        assert_ne!(read_experiment_id("0").unwrap(), read_experiment_id("1").unwrap());
        assert!(read_experiment_id("my experiment").is_err());
    }

    #[test]
    fn integers_and_absent_fields_are_read_as_protobuf_writes_them() {
        let run = serde_json::json!({
            "info": {
                "run_id": "0194f1d2c3b47a5e8f60718293a4b5c6", "run_uuid": "0194f1d2c3b47a5e8f60718293a4b5c6",
                "experiment_id": "3", "status": "RUNNING", "start_time": "1500", "end_time": null,
            },
            "data": { "metrics": [{ "key": "m", "value": "NaN", "timestamp": "7" }], "tags": [{ "key": "mlops.x" }] },
        });
        let run = serde_json::from_value::<RunMessage>(run).unwrap().read().unwrap();
        assert_eq!((run.info.started_at.timestamp_millis(), run.info.ended_at), (1_500, None));
        assert!(run.metrics["m"].value.is_nan() && run.tags.is_empty());
    }
}
