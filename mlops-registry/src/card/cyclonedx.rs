use mlops_core::{Digest, Measurement};
use serde_json::{Map, Value, json};

use super::ModelCard;

/// The SPDX identifiers that licences of models and data mostly have: a bill names only what SPDX lists by identifier.
const SPDX: [&str; 22] = [
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "EUPL-1.2",
    "GPL-2.0-only",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-3.0-only",
    "MIT",
    "MPL-2.0",
    "Unlicense",
    "Zlib",
];

impl ModelCard {
    /// The card as a CycloneDX 1.6 bill of materials: the model as a component with a model card, its package's files and
    /// the dataset versions it was made from, each with its BLAKE3 digest.
    ///
    /// The serial number follows from the contents, so equal cards are one bill.
    #[must_use]
    pub fn to_cyclonedx(&self) -> Value {
        let mut components: Vec<Value> = Vec::new();
        let mut data: Vec<Value> = Vec::new();
        for input in &self.datasets {
            let reference = format!("dataset:{}@{}", input.name, input.digest);
            if data.contains(&json!(reference)) {
                continue;
            }
            let mut component = json!({
                "type": "data",
                "bom-ref": reference,
                "name": input.name,
                "version": input.digest,
                "data": [{"type": "dataset", "name": input.name}],
            });
            // A digest of somebody else's making may be of any kind.
            if let Some(dataset) = input.dataset_ref() {
                component["hashes"] = hashes(&dataset.digest);
            }
            components.push(component);
            data.push(json!(reference));
        }
        for (path, file) in &self.files {
            components.push(json!({
                "type": "file",
                "bom-ref": format!("file:{path}"),
                "name": path,
                "hashes": hashes(&file.digest),
                "properties": [{"name": "mlops:bytes", "value": file.bytes.to_string()}],
            }));
        }
        let model = self.component(&data);
        let files = self.files.keys().map(|path| json!(format!("file:{path}")));
        let needs: Vec<Value> = data.iter().cloned().chain(files).collect();
        let mut metadata = json!({
            "tools": {"components": [{
                "type": "library", "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"),
            }]},
            "component": model,
        });
        if let Some(at) = self.created_at {
            metadata["timestamp"] = json!(at.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        let mut bill = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": metadata,
            "components": components,
            "dependencies": [{"ref": "model", "dependsOn": needs}],
        });
        let hex = Digest::of(mlops_core::json::canonical(&bill).as_bytes()).to_string();
        let serial = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-");
        bill["serialNumber"] = json!(format!("urn:uuid:{serial}"));
        bill
    }

    fn component(&self, data: &[Value]) -> Value {
        let mut model = Map::new();
        let mut set = |key: &str, value: Value| {
            if !is_empty(&value) {
                model.insert(key.to_owned(), value);
            }
        };
        set("type", json!("machine-learning-model"));
        set("bom-ref", json!("model"));
        set("name", json!(if self.model.is_empty() { super::document::UNSTATED } else { &self.model }));
        set("version", json!(self.version.map(|v| v.to_string())));
        set("description", json!(self.description.trim()));
        set("hashes", self.package.as_ref().map(hashes).unwrap_or_default());
        set("authors", self.author.as_ref().map(|name| json!([{ "name": name }])).unwrap_or_default());
        set("licenses", self.license.as_ref().map(|license| licenses(license)).unwrap_or_default());
        let mut tags: Vec<String> =
            self.tags.iter().map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}:{v}") }).collect();
        tags.dedup();
        set("tags", json!(tags));
        set("modelCard", self.card(data));
        set("properties", self.properties());
        Value::Object(model)
    }

    fn card(&self, data: &[Value]) -> Value {
        let side = |columns: &[mlops_core::signature::ColumnSpec]| -> Vec<Value> {
            let format = |c: &mlops_core::signature::ColumnSpec| {
                let kind = format!("{:?}", c.column_type).to_lowercase();
                json!({"format": format!("{}{}: {kind}", c.name, if c.required { "" } else { "?" })})
            };
            columns.iter().map(format).collect()
        };
        let metric = |evaluation: &super::Evaluation| {
            let slice = match (&evaluation.dataset, &evaluation.slice) {
                (Some(dataset), Some(slice)) => Some(format!("{dataset}: {slice}")),
                (one, other) => one.clone().or(other.clone()),
            };
            performance(&evaluation.measurement, slice)
        };
        let unfair = |entry: &super::Fairness| {
            pruned(json!({
                "groupAtRisk": entry.group, "benefits": entry.benefits, "harms": entry.harms,
                "mitigationStrategy": entry.mitigation,
            }))
        };
        let by_group = self.fairness.iter().flat_map(|entry| {
            entry.measurements.iter().map(|measurement| performance(measurement, Some(entry.group.clone())))
        });
        let risk = |risk: &super::Risk| pruned(json!({"name": risk.name, "mitigationStrategy": risk.mitigation}));
        let limits = self.limits.iter().cloned();
        let limits: Vec<String> =
            limits.chain(self.out_of_scope.iter().map(|text| format!("out of scope: {text}"))).collect();
        let references: Vec<Value> = data.iter().map(|reference| json!({ "ref": reference })).collect();
        let signature = self.signature.as_ref();
        pruned(json!({
            "modelParameters": pruned(json!({
                "task": self.task,
                "datasets": references,
                "inputs": signature.map(|s| side(s.inputs())),
                "outputs": signature.map(|s| side(s.outputs())),
            })),
            "quantitativeAnalysis": pruned(json!({
                "performanceMetrics": self.evaluations.iter().map(metric).chain(by_group).collect::<Vec<_>>(),
            })),
            "considerations": pruned(json!({
                "users": self.users,
                "useCases": self.intended_uses,
                "technicalLimitations": limits,
                "ethicalConsiderations": self.risks.iter().map(risk).collect::<Vec<_>>(),
                "fairnessAssessments": self.fairness.iter().map(unfair).collect::<Vec<_>>(),
            })),
        }))
    }

    fn properties(&self) -> Value {
        let provenance = self.provenance.clone().unwrap_or_default();
        let run = self.run.as_ref().map(|run| run.info.id).or(provenance.run);
        let single = [
            ("mlops:changes", (!self.changes.is_empty()).then(|| self.changes.clone())),
            ("mlops:run", run.map(|id| id.to_string())),
            ("mlops:commit", provenance.commit),
            ("mlops:dirty", provenance.dirty.map(|dirty| dirty.to_string())),
            ("mlops:changes_digest", provenance.changes.map(|digest| digest.to_string())),
            ("mlops:lock_file", provenance.lock_file.map(|digest| digest.to_string())),
            ("mlops:toolchain", provenance.toolchain),
            ("mlops:image", provenance.image),
            ("mlops:seed", provenance.seed.map(|seed| seed.to_string())),
        ];
        let single = single.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let several = self.flavors.iter().map(|flavor| ("mlops:flavor", flavor.clone()));
        let several = several.chain(self.aliases.iter().map(|alias| ("mlops:alias", alias.clone())));
        let several = several.chain(self.promotions.iter().map(|p| ("mlops:promotion", p.to_string())));
        single.chain(several).map(|(name, value)| json!({"name": name, "value": value})).collect()
    }
}

fn hashes(digest: &Digest) -> Value {
    json!([{"alg": "BLAKE3", "content": digest}])
}

fn licenses(license: &str) -> Value {
    match SPDX.iter().find(|id| id.eq_ignore_ascii_case(license)) {
        Some(id) => json!([{"license": {"id": id}}]),
        None => json!([{"license": {"name": license}}]),
    }
}

fn performance(measurement: &Measurement, slice: Option<String>) -> Value {
    let bounds =
        measurement.interval.map(|(low, high)| json!({"lowerBound": low.to_string(), "upperBound": high.to_string()}));
    pruned(json!({
        "type": measurement.name,
        "value": measurement.value.to_string(),
        "slice": slice,
        "confidenceInterval": bounds,
    }))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// An object without what is not stated.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(entries.into_iter().filter(|(_, v)| !is_empty(v)).collect()),
        other => other,
    }
}
