//! Model cards: what a version is, what it is for, how good it is and who let it through, on one page.
//!
//! [`ModelCard::gather`] takes from the registry what it knows; the caller adds what no registry can know. What nobody
//! stated, the card says is not stated. It is written as Markdown (with the front matter that Hugging Face reads), as one
//! HTML page that needs nothing else, and as a CycloneDX bill of materials. Equal cards give equal bytes.
//!
//! ```
//! use mlops_core::Measurement;
//! use mlops_registry::card::{Evaluation, ModelCard};
//! let card = ModelCard::new("prices")
//!     .license("Apache-2.0")
//!     .task("tabular-classification")
//!     .intended_use("say an hour ahead whether the price will rise")
//!     .limit("knows no holidays")
//!     .evaluation(Evaluation::new(Measurement::new("accuracy", 0.91).with_interval(0.90, 0.92)).dataset("elec2"))
//!     .evaluation(Evaluation::new(Measurement::new("accuracy", 0.88)).dataset("elec2").slice("at night"));
//! assert!(card.to_markdown().contains("| accuracy | 0.88 | not stated | not stated | at night | elec2 | not stated |"));
//! assert!(card.to_html().starts_with("<!doctype html>"));
//! assert_eq!(card.to_cyclonedx()["specVersion"], "1.6");
//! ```

mod cyclonedx;
mod document;
mod gather;
mod html;
mod markdown;

use std::collections::BTreeMap;

use mlops_core::package::FileEntry;
use mlops_core::{Digest, Measurement, Provenance, Signature, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Promotion, Run, RunInput};

/// One number of an evaluation: what was measured, on which data and which part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// The number, its interval and how many rows it is from.
    pub measurement: Measurement,
    /// The data it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The part of that data; all of it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
}

impl Evaluation {
    /// A number on data that is not stated.
    #[must_use]
    pub fn new(measurement: Measurement) -> Self {
        Self { measurement, dataset: None, slice: None }
    }

    /// Names the data.
    #[must_use]
    pub fn dataset(mut self, name: impl Into<String>) -> Self {
        self.dataset = Some(name.into());
        self
    }

    /// Names the part of the data.
    #[must_use]
    pub fn slice(mut self, name: impl Into<String>) -> Self {
        self.slice = Some(name.into());
        self
    }
}

/// How the model treats one group of people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Fairness {
    /// The group at risk.
    pub group: String,
    /// What it was measured by.
    pub measurements: Vec<Measurement>,
    /// What the group gains.
    pub benefits: String,
    /// What it may suffer.
    pub harms: String,
    /// What is done against that.
    pub mitigation: String,
}

impl Fairness {
    /// An entry about a group, of which nothing is stated yet.
    #[must_use]
    pub fn new(group: impl Into<String>) -> Self {
        Self { group: group.into(), ..Self::default() }
    }

    /// Adds a number.
    #[must_use]
    pub fn measured(mut self, measurement: Measurement) -> Self {
        self.measurements.push(measurement);
        self
    }

    /// Says what the group gains.
    #[must_use]
    pub fn benefits(mut self, text: impl Into<String>) -> Self {
        self.benefits = text.into();
        self
    }

    /// Says what it may suffer.
    #[must_use]
    pub fn harms(mut self, text: impl Into<String>) -> Self {
        self.harms = text.into();
        self
    }

    /// Says what is done against that.
    #[must_use]
    pub fn mitigation(mut self, text: impl Into<String>) -> Self {
        self.mitigation = text.into();
        self
    }
}

/// What could go wrong, and what is done against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Risk {
    /// What could go wrong.
    pub name: String,
    /// What is done against it; empty if that is not stated.
    pub mitigation: String,
}

/// The facts of a model card. Every one may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelCard {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: Option<u64>,
    /// What the model is for, in the registry's words.
    pub description: String,
    /// What is new about this version.
    pub changes: String,
    /// Free labels, the version's over the model's.
    pub tags: BTreeMap<String, String>,
    /// Who registered the version.
    pub author: Option<String>,
    /// When.
    pub created_at: Option<Timestamp>,
    /// The aliases that point at it, sorted.
    pub aliases: Vec<String>,
    /// The digest of its package.
    pub package: Option<Digest>,
    /// The runtimes that can load it.
    pub flavors: Vec<String>,
    /// What it takes and gives.
    pub signature: Option<Signature>,
    /// The files of its package.
    pub files: BTreeMap<String, FileEntry>,
    /// What its package says it was made from.
    pub provenance: Option<Provenance>,
    /// The run that made it.
    pub run: Option<Run>,
    /// The dataset versions that the run read or the package names, sorted.
    pub datasets: Vec<RunInput>,
    /// Every request to point an alias at it, with evidence and approvals.
    pub promotions: Vec<Promotion>,
    /// An SPDX identifier, or the licence in words.
    pub license: Option<String>,
    /// The kind of task, in the words of Hugging Face: `tabular-classification`.
    pub task: Option<String>,
    /// What it shall be used for.
    pub intended_uses: Vec<String>,
    /// Who shall use it.
    pub users: Vec<String>,
    /// What it shall not be used for.
    pub out_of_scope: Vec<String>,
    /// Where it is known to be weak.
    pub limits: Vec<String>,
    /// What could go wrong.
    pub risks: Vec<Risk>,
    /// How good it is.
    pub evaluations: Vec<Evaluation>,
    /// How it treats groups of people.
    pub fairness: Vec<Fairness>,
}

impl ModelCard {
    /// A card of which nothing but the name is stated.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }

    /// States the licence: an SPDX identifier where there is one.
    #[must_use]
    pub fn license(mut self, license: impl Into<String>) -> Self {
        self.license = Some(license.into());
        self
    }

    /// States the kind of task.
    #[must_use]
    pub fn task(mut self, task: impl Into<String>) -> Self {
        self.task = Some(task.into());
        self
    }

    /// Adds a use that is intended.
    #[must_use]
    pub fn intended_use(mut self, text: impl Into<String>) -> Self {
        self.intended_uses.push(text.into());
        self
    }

    /// Adds somebody who shall use it.
    #[must_use]
    pub fn user(mut self, text: impl Into<String>) -> Self {
        self.users.push(text.into());
        self
    }

    /// Adds a use that is not intended.
    #[must_use]
    pub fn out_of_scope(mut self, text: impl Into<String>) -> Self {
        self.out_of_scope.push(text.into());
        self
    }

    /// Adds a known weakness.
    #[must_use]
    pub fn limit(mut self, text: impl Into<String>) -> Self {
        self.limits.push(text.into());
        self
    }

    /// Adds a risk, and what is done against it.
    #[must_use]
    pub fn risk(mut self, name: impl Into<String>, mitigation: impl Into<String>) -> Self {
        self.risks.push(Risk { name: name.into(), mitigation: mitigation.into() });
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn evaluation(mut self, evaluation: Evaluation) -> Self {
        self.evaluations.push(evaluation);
        self
    }

    /// Adds an entry about a group of people.
    #[must_use]
    pub fn fairness(mut self, entry: Fairness) -> Self {
        self.fairness.push(entry);
        self
    }

    /// `prices v3`.
    fn title(&self) -> String {
        let name = if self.model.is_empty() { document::UNSTATED } else { &self.model };
        match self.version {
            Some(version) => format!("{name} v{version}"),
            None => name.to_owned(),
        }
    }
}
