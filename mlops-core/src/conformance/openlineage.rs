use std::collections::BTreeMap;

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use crate::lineage::openlineage::{RunEvent, SCHEMA_URL};

/// The validators of an OpenLineage event and of every facet that this crate writes, by the URL of its schema. Nothing is
/// fetched: a reference to a schema that is not here fails to build.
///
/// ```
/// use mlops_core::conformance::OpenLineageSchemas;
/// use mlops_core::lineage::openlineage::{EventType, Job, Run, RunEvent};
/// # let at: mlops_core::Timestamp = "1996-05-07T00:00:00Z".parse().unwrap();
/// let event = RunEvent::new(EventType::Start, at, Run::new(mlops_core::RunId::new(at)), Job::new("shop", "train"));
/// OpenLineageSchemas::new().check(&[event]);
/// ```
#[derive(Debug)]
pub struct OpenLineageSchemas(BTreeMap<String, Validator>);

impl Default for OpenLineageSchemas {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenLineageSchemas {
    /// Builds the validators.
    #[must_use]
    pub fn new() -> Self {
        let documents = documents();
        let id = |document: &Value| document["$id"].as_str().unwrap().to_owned();
        let registry = documents.iter().fold(Registry::new(), |r, d| r.add(id(d), d.clone()).unwrap());
        let registry = registry.prepare().unwrap();
        let mut validators = BTreeMap::new();
        for document in &documents {
            for name in document["$defs"].as_object().unwrap().keys() {
                let url = format!("{}#/$defs/{name}", id(document));
                let options = jsonschema::draft202012::options().with_registry(&registry);
                let validator = options.should_validate_formats(true).build(&json!({ "$ref": url })).unwrap();
                validators.insert(url, validator);
            }
        }
        Self(validators)
    }

    /// The URLs of the schemas.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is wrong with an event or one of its facets.
    #[must_use]
    pub fn faults(&self, event: &Value) -> Vec<String> {
        let mut faults = self.against(event["schemaURL"].as_str().unwrap_or(SCHEMA_URL), event);
        let datasets = ["inputs", "outputs"].into_iter().flat_map(|side| event[side].as_array().into_iter().flatten());
        let owners = datasets.chain([&event["run"], &event["job"]]);
        let facets = owners.flat_map(|owner| ["facets", "inputFacets", "outputFacets"].map(|part| &owner[part]));
        for (name, facet) in facets.filter_map(Value::as_object).flatten() {
            match facet["_schemaURL"].as_str() {
                Some(url) => faults.extend(self.against(url, facet)),
                None => faults.push(format!("facet {name} has no schema")),
            }
        }
        faults
    }

    /// Panics with what is wrong with the first event that is not valid.
    pub fn check(&self, events: &[RunEvent]) {
        for event in events {
            let event: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
            let faults = self.faults(&event);
            assert!(faults.is_empty(), "{faults:?} in {event}");
        }
    }

    fn against(&self, url: &str, value: &Value) -> Vec<String> {
        let Some(validator) = self.0.get(url) else { return vec![format!("no schema {url}")] };
        validator.iter_errors(value).map(|e| format!("{url}: {}: {e}", e.instance_path())).collect()
    }
}

/// The JSON schemas that lineage events follow: of OpenLineage 2-0-2, of its facets and of our own. Each has its name
/// under `$id`, and every `$ref` of one leads to another.
fn documents() -> Vec<serde_json::Value> {
    macro_rules! schemas {
        ($($file:literal),+ $(,)?) => { [$(include_str!(concat!("../../schemas/", $file, ".json"))),+] };
    }
    let texts = schemas!(
        "openlineage/OpenLineage",
        "openlineage/facets/ColumnLineageDatasetFacet",
        "openlineage/facets/DataQualityMetricsDatasetFacet",
        "openlineage/facets/DataQualityMetricsInputDatasetFacet",
        "openlineage/facets/DatasetVersionDatasetFacet",
        "openlineage/facets/ErrorMessageRunFacet",
        "openlineage/facets/JobTypeJobFacet",
        "openlineage/facets/NominalTimeRunFacet",
        "openlineage/facets/ParentRunFacet",
        "openlineage/facets/SchemaDatasetFacet",
        "openlineage/facets/SourceCodeLocationJobFacet",
        "MlopsDeploymentDatasetFacet",
        "MlopsEnvironmentRunFacet",
        "MlopsModelDatasetFacet",
        "MlopsPredictionsDatasetFacet",
        "MlopsStepRunFacet",
    );
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}
