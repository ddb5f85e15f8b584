use serde::{Deserialize, Serialize};

#[cfg(feature = "datasets")]
use super::{DataQualityMetricsFacet, SchemaFacet, SchemaField};
use super::{DeploymentFacet, Facet, Facets, ModelFacet, OfDataset, OfInput, OfOutput, PredictionsFacet, VersionFacet};
#[cfg(feature = "datasets")]
use crate::dataset::DatasetVersion;
use crate::package::DatasetRef;

/// A dataset, by namespace (what keeps it: a bucket, a database, a registry) and name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dataset {
    /// What keeps it.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Facets::is_empty")]
    pub facets: Facets<OfDataset>,
}

impl Dataset {
    /// The dataset of that name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into(), facets: Facets::default() }
    }

    /// A dataset version of this toolkit: its name, and its digest as the version.
    pub fn reference(namespace: impl Into<String>, dataset: &DatasetRef) -> Self {
        Self::new(namespace, &dataset.name).facet(VersionFacet::new(dataset.digest))
    }

    /// A dataset version of this toolkit, with its columns, rows and bytes.
    #[cfg(feature = "datasets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "datasets")))]
    pub fn version(namespace: impl Into<String>, version: &DatasetVersion) -> Self {
        let columns = version.columns.iter().map(|c| SchemaField::new(&c.name, &c.data_type));
        Self::reference(namespace, &version.reference())
            .facet(SchemaFacet::new(columns))
            .facet(DataQualityMetricsFacet::from(version))
    }

    /// A model version, as the dataset `models/NAME`.
    pub fn model(namespace: impl Into<String>, model: ModelFacet) -> Self {
        let name = format!("models/{}", model.name);
        Self::new(namespace, name).facet(VersionFacet::new(model.version)).facet(model)
    }

    /// A deployment, as the dataset `deployments/NAME`.
    pub fn deployment(namespace: impl Into<String>, deployment: DeploymentFacet) -> Self {
        Self::new(namespace, format!("deployments/{}", deployment.name)).facet(deployment)
    }

    /// Predictions that were made together, as the dataset `predictions/BATCH`.
    pub fn predictions(namespace: impl Into<String>, predictions: PredictionsFacet) -> Self {
        Self::new(namespace, format!("predictions/{}", predictions.batch)).facet(predictions)
    }

    /// Adds a facet, in place of one of its kind.
    #[must_use]
    pub fn facet(mut self, facet: impl Facet<OfDataset>) -> Self {
        self.facets.set(&facet);
        self
    }
}

/// A dataset that a run reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct InputDataset {
    /// The dataset.
    #[serde(flatten)]
    pub dataset: Dataset,
    /// What is known of it as this run reads it.
    #[serde(default, skip_serializing_if = "Facets::is_empty")]
    pub input_facets: Facets<OfInput>,
}

impl InputDataset {
    /// Adds a facet of the dataset as this run reads it, in place of one of its kind.
    #[must_use]
    pub fn input_facet(mut self, facet: impl Facet<OfInput>) -> Self {
        self.input_facets.set(&facet);
        self
    }
}

impl From<Dataset> for InputDataset {
    fn from(dataset: Dataset) -> Self {
        Self { dataset, input_facets: Facets::default() }
    }
}

/// A dataset that a run writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OutputDataset {
    /// The dataset.
    #[serde(flatten)]
    pub dataset: Dataset,
    /// What is known of it as this run writes it.
    #[serde(default, skip_serializing_if = "Facets::is_empty")]
    pub output_facets: Facets<OfOutput>,
}

impl From<Dataset> for OutputDataset {
    fn from(dataset: Dataset) -> Self {
        Self { dataset, output_facets: Facets::default() }
    }
}
