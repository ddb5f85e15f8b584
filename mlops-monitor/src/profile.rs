//! What live data is compared with: a profile of the rows a model was trained on.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
//! use mlops_monitor::ReferenceProfile;
//!
//! let price: ArrayRef = Arc::new(Float64Array::from(vec![0.05, 0.07, 0.06, 0.09]));
//! let state: ArrayRef = Arc::new(StringArray::from(vec!["NSW", "VIC", "NSW", "VIC"]));
//! let prob_up: ArrayRef = Arc::new(Float64Array::from(vec![0.2, 0.8, 0.4, 0.9]));
//! let inputs = RecordBatch::try_from_iter([("price", price), ("state", state)])?;
//! let outputs = RecordBatch::try_from_iter([("prob_up", prob_up)])?;
//! let profile = ReferenceProfile::fit(&inputs, &outputs)?;
//!
//! assert_eq!(profile.inputs()[0].name(), "price");
//! assert_eq!(profile.skipped()[0].column, "state"); // text is not profiled yet, and the profile says so
//! let stored = profile.to_json()?; // goes into the package as `mlops_core::package::REFERENCE_PROFILE`
//! assert_eq!(ReferenceProfile::from_json(&stored)?, profile);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//! - Numeric columns (integers, floats, decimals, booleans as 0 and 1) are profiled; a null counts as a missing value,
//!   like NaN. Columns of other types, and those without any finite value, are listed in
//!   [`skipped`](ReferenceProfile::skipped) with the reason.
//! - Same rows, same options, same profile, byte for byte.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use serde::{Deserialize, Serialize};

use crate::drift::{KsDetectorBuilder, PsiDetectorBuilder};
use crate::{Error, KsDetector, PsiDetector, Result};

/// One column of the training rows, as its detectors remember it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColumnProfile {
    name: String,
    psi: PsiDetector,
    ks: KsDetector,
    rows: u64,
    missing: u64,
    mean: f64,
    min: f64,
    max: f64,
}

impl ColumnProfile {
    /// The column's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bins and shares of all training rows.
    #[must_use]
    pub fn psi(&self) -> &PsiDetector {
        &self.psi
    }

    /// A sample of the training rows.
    #[must_use]
    pub fn ks(&self) -> &KsDetector {
        &self.ks
    }

    /// Training rows, missing ones included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Training rows without a finite value.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Mean of the finite training values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Smallest and largest finite training value.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        (self.min, self.max)
    }
}

/// A column that has no profile, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SkippedColumn {
    /// The column's name.
    pub column: String,
    /// Why it was left out.
    pub reason: String,
}

/// Profiles of the inputs and outputs of a model over its training rows; see the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReferenceProfile {
    rows: u64,
    inputs: Vec<ColumnProfile>,
    outputs: Vec<ColumnProfile>,
    #[serde(default)]
    skipped: Vec<SkippedColumn>,
}

/// Options of a [`ReferenceProfile`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `fit`"]
pub struct ReferenceProfileBuilder {
    psi: PsiDetectorBuilder,
    ks: KsDetectorBuilder,
    sample_rows: usize,
    seed: u64,
}

impl ReferenceProfileBuilder {
    /// Options of the PSI detectors: bins, threshold, confidence.
    pub fn psi(mut self, psi: PsiDetectorBuilder) -> Self {
        self.psi = psi;
        self
    }

    /// Options of the Kolmogorov–Smirnov detectors: threshold, confidence.
    pub fn ks(mut self, ks: KsDetectorBuilder) -> Self {
        self.ks = ks;
        self
    }

    /// Training rows kept for Kolmogorov–Smirnov, 1 to 1,000,000 (default 2,000). Each takes about 20 bytes a column in
    /// the stored profile; fewer widen the interval of every distance by about `1 / sqrt(rows)`.
    pub fn sample_rows(mut self, rows: usize) -> Self {
        self.sample_rows = rows;
        self
    }

    /// Fixes which rows are kept (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Learns the profile from the training rows and the model's answers to them.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for no rows or an option out of range; [`Error::ShapeMismatch`] if the two batches differ
    /// in length.
    pub fn fit(self, inputs: &RecordBatch, outputs: &RecordBatch) -> Result<ReferenceProfile> {
        let rows = inputs.num_rows();
        if outputs.num_rows() != rows {
            return Err(Error::shape("outputs", rows, outputs.num_rows()));
        }
        if rows == 0 {
            return Err(Error::invalid("inputs", "has no rows"));
        }
        if !(1..=1_000_000).contains(&self.sample_rows) {
            return Err(Error::invalid("sample_rows", format!("must lie in 1..=1000000, got {}", self.sample_rows)));
        }
        let kept = sample(rows, self.sample_rows, self.seed);
        let mut skipped = Vec::new();
        let inputs = self.columns(inputs, &kept, &mut skipped)?;
        let outputs = self.columns(outputs, &kept, &mut skipped)?;
        Ok(ReferenceProfile { rows: rows as u64, inputs, outputs, skipped })
    }

    fn columns(
        &self,
        batch: &RecordBatch,
        kept: &[usize],
        skipped: &mut Vec<SkippedColumn>,
    ) -> Result<Vec<ColumnProfile>> {
        let mut profiles = Vec::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let mut skip = |reason: String| skipped.push(SkippedColumn { column: field.name().clone(), reason });
            let Some(values) = numbers(column)? else {
                skip(format!("values of type {} are not profiled", field.data_type()));
                continue;
            };
            let finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
            if finite.is_empty() {
                skip("has no finite value".to_owned());
                continue;
            }
            let mut sampled: Vec<f64> = kept.iter().map(|row| values[*row]).collect();
            if !sampled.iter().any(|x| x.is_finite()) {
                // A sparse column: the sampled rows missed all its values.
                sampled = sample(finite.len(), self.sample_rows, self.seed).iter().map(|row| finite[*row]).collect();
            }
            profiles.push(ColumnProfile {
                name: field.name().clone(),
                psi: self.psi.clone().fit(&values)?,
                ks: self.ks.clone().fit(&sampled)?,
                rows: values.len() as u64,
                missing: (values.len() - finite.len()) as u64,
                mean: mean(&finite),
                min: finite.iter().copied().fold(f64::INFINITY, f64::min),
                max: finite.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            });
        }
        Ok(profiles)
    }
}

impl ReferenceProfile {
    /// Options with their defaults; finish with [`ReferenceProfileBuilder::fit`].
    pub fn builder() -> ReferenceProfileBuilder {
        ReferenceProfileBuilder { psi: PsiDetector::builder(), ks: KsDetector::builder(), sample_rows: 2_000, seed: 0 }
    }

    /// The profile of these training rows and of the model's answers to them, with default options.
    ///
    /// # Errors
    /// Those of [`ReferenceProfileBuilder::fit`].
    pub fn fit(inputs: &RecordBatch, outputs: &RecordBatch) -> Result<Self> {
        Self::builder().fit(inputs, outputs)
    }

    /// Training rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The profiled input columns, in their order.
    #[must_use]
    pub fn inputs(&self) -> &[ColumnProfile] {
        &self.inputs
    }

    /// The profiled output columns, in their order.
    #[must_use]
    pub fn outputs(&self) -> &[ColumnProfile] {
        &self.outputs
    }

    /// The columns without a profile, and why.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedColumn] {
        &self.skipped
    }

    /// The profile as JSON, for [`mlops_core::package::REFERENCE_PROFILE`].
    ///
    /// # Errors
    /// None in practice: everything in a profile has a JSON form.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid("reference profile", e.to_string()))
    }

    /// The profile that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] saying where the text is at fault.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|e| Error::invalid("reference profile", e.to_string()))
    }
}

/// The column's values with NaN for null; `None` if they are not numbers.
pub(crate) fn numbers(column: &ArrayRef) -> Result<Option<Vec<f64>>> {
    let kind = column.data_type();
    if !(kind.is_numeric() || *kind == DataType::Boolean) {
        return Ok(None);
    }
    let cast = arrow::compute::cast(column, &DataType::Float64)
        .map_err(|e| Error::invalid("column", format!("{kind} does not turn into a number: {e}")))?;
    let cast = cast.as_primitive::<Float64Type>();
    Ok(Some(if cast.null_count() == 0 {
        cast.values().to_vec()
    } else {
        cast.iter().map(|value| value.unwrap_or(f64::NAN)).collect()
    }))
}

/// The mean without overflow on the way.
fn mean(values: &[f64]) -> f64 {
    values.iter().enumerate().fold(0.0, |mean, (i, x)| {
        let weight = 1.0 / (i + 1) as f64;
        mean * (1.0 - weight) + x * weight
    })
}

/// `most` of the numbers below `rows`, ascending, each as likely as any other (Fan, Muller and Rezucha 1962, method 1).
fn sample(rows: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut wanted = most.min(rows);
    (0..rows)
        .filter(|row| {
            let left = (rows - row) as f64;
            let take = uniform(&mut state) * left < wanted as f64;
            wanted -= usize::from(take);
            take
        })
        .collect()
}

/// A number in [0, 1) from the SplitMix64 generator.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    (scramble(*state) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The finalizer of SplitMix64: a bijection that leaves no pattern.
pub(crate) fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_their_size_and_no_row_twice() {
        for (rows, most) in [(10, 3), (10, 10), (3, 10), (1, 1), (100_000, 2_000)] {
            let kept = sample(rows, most, 7);
            assert_eq!(kept.len(), most.min(rows));
            assert!(kept.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(sample(1_000, 50, 1), sample(1_000, 50, 1));
        assert_ne!(sample(1_000, 50, 1), sample(1_000, 50, 2));
    }
}
