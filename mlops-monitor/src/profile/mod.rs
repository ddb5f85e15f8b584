//! What rows are like, column by column: made in one pass, merged, stored with a model, compared with live rows.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
//! use mlops_monitor::profile::Profile;
//!
//! let price: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.05), Some(0.07), None, Some(0.09)]));
//! let state: ArrayRef = Arc::new(StringArray::from(vec!["NSW", "VIC", "NSW", "NSW"]));
//! let batch = RecordBatch::try_from_iter_with_nullable([("price", price, true), ("state", state, true)])?;
//!
//! // Shards are profiled where they are, and joined where they are wanted.
//! let mut profile = Profile::builder().build(&batch.schema())?;
//! profile.update(&batch.slice(0, 2))?;
//! let mut other = Profile::builder().build(&batch.schema())?;
//! other.update(&batch.slice(2, 2))?;
//! profile.merge(&other)?;
//!
//! let price = profile.column("price").expect("it is in the batch");
//! assert_eq!((price.rows(), price.nulls()), (4, 1));
//! let numbers = price.numbers().expect("it holds numbers");
//! assert_eq!((numbers.range(), numbers.quantiles().quantile(0.5)), (Some((0.05, 0.09)), Some(0.07)));
//! let state = profile.column("state").expect("it is in the batch");
//! assert_eq!((state.frequent(1)[0].value.as_str(), state.frequent(1)[0].rows), ("NSW", 3));
//! assert_eq!(Profile::from_json(&profile.to_json()?)?, profile);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is kept
//! | of | what | error |
//! | --- | --- | --- |
//! | all | rows, nulls; different values ([`Distinct`]) | exact; 1.6 % |
//! | numbers, times | NaN, ±∞, zeros, negatives, range; mean to kurtosis ([`Moments`]) | exact; rounding |
//! | | quantiles and ranks ([`Quantiles`]), frequent values | 1 % of rows at 99 %; 1 row in 257, as told |
//! | | rows in the bins of a reference, or its own after [`fit`](ProfileBuilder::fit) | exact |
//! | texts, booleans | rows of each category ([`Categories`]) | exact up to 512 of them, then 1 row in 257, as told |
//! | texts, bytes | length, classes of characters ([`TextProfile`]) | exact |
//!
//! # Rules
//! - Every Arrow type but nested ones and intervals is profiled; a column of those is listed in
//!   [`skipped`](Profile::skipped) with the reason. Dictionaries and views count as the values they stand for.
//! - The same rows in the same order give the same profile, byte for byte, however they are cut into batches.
//! - `a.merge(b)` equals one profile of both inputs: counts, ranges, bins, registers of distinct values exactly, moments up
//!   to rounding, quantiles and frequent values within their bounds, which merge too.
//! - Numbers are compared as `f64`: of whole numbers beyond 2^53 the range and the number of different ones are exact, and the
//!   rest is rounded. 0 and -0 are one value.
//! - Memory is bounded, whatever the rows: about 30 kB for a column, and as much stored. A text is named by 256 bytes at most.
//!
//! # Next
//! [`ReferenceProfile`] is what a model package holds; [`drift::profiles`](crate::drift::profiles) compares two profiles,
//! [`segments`](crate::segments) does so for slices of the rows.

mod column;
mod distinct;
mod frequent;
mod moments;
mod numbers;
mod quantiles;
mod text;

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Schema};
use serde::{Deserialize, Serialize};

pub use column::{ColumnKind, ColumnProfile};
pub use distinct::Distinct;
pub use frequent::{Categories, FrequentItem};
pub use moments::Moments;
pub use numbers::NumberProfile;
pub use quantiles::Quantiles;
#[cfg(feature = "alerts")]
pub(crate) use quantiles::View;
pub use text::{CharClass, TextProfile};

use crate::{Error, Result};

/// What profiles are stored as now. Those without a number hold detectors of numeric columns only.
const FORMAT: u32 = 1;

/// No profile has more rows than a machine can have read, so that sums of a few do not overflow.
const MOST_ROWS: u64 = 1 << 56;

/// A column that has no profile, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SkippedColumn {
    /// The column's name.
    pub column: String,
    /// Why it was left out.
    pub reason: String,
}

/// Profiles of the columns of some rows; see the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
#[non_exhaustive]
pub struct Profile {
    format: u32,
    rows: u64,
    columns: Vec<ColumnProfile>,
    skipped: Vec<SkippedColumn>,
}

/// What is stored, before it is known to be consistent.
#[derive(Deserialize)]
struct Parts {
    format: u32,
    rows: u64,
    columns: Vec<ColumnProfile>,
    skipped: Vec<SkippedColumn>,
}

impl TryFrom<Parts> for Profile {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { format, rows, columns, skipped } = parts;
        check_format(Some(format))?;
        if rows > MOST_ROWS {
            return Err(Error::invalid("profile", format!("has {rows} rows, more than can have been seen")));
        }
        let mut names = BTreeSet::new();
        for column in &columns {
            column.check()?;
            if column.rows() != rows || !names.insert(column.name()) {
                return Err(Error::column(column.name(), "its profile contradicts the others; fit it anew"));
            }
        }
        Ok(Self { format, rows, columns, skipped })
    }
}

fn check_format(format: Option<u32>) -> Result<()> {
    match format {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(Error::invalid(
            "profile",
            format!("is of format {other}, this version reads {FORMAT}: fit it anew from the training rows"),
        )),
        None => Err(Error::invalid(
            "profile",
            "has no `format`, so an earlier version made it: fit it anew from the training rows",
        )),
    }
}

/// Options of a [`Profile`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` or `fit`"]
pub struct ProfileBuilder {
    quantile_k: usize,
    bins: usize,
    against: Option<Vec<ColumnProfile>>,
}

impl ProfileBuilder {
    /// Size of the sketches of quantiles, 8 to 65,536 (default 512: ranks are within 1 % at 99 %). The error is about
    /// `5 / k`; a sketch takes `60 · k` bytes stored.
    pub fn quantile_k(mut self, k: usize) -> Self {
        self.quantile_k = k;
        self
    }

    /// Number of quantile bins that [`fit`](Self::fit) counts numbers in, 2 to 1000 (default 10).
    pub fn bins(mut self, bins: usize) -> Self {
        self.bins = bins;
        self
    }

    /// Profiles the columns of `reference`, and counts numbers in its bins: those that `fit` counted, or the quantile bins of
    /// its sketch. Rows that come batch by batch are counted exactly on both sides by going through those of the reference
    /// once more, against the profile of the first time.
    pub fn against(mut self, reference: &Profile) -> Self {
        self.against = Some(reference.columns.iter().map(ColumnProfile::fresh).collect());
        self
    }

    /// A profile without rows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range; [`Error::Column`] for two columns of one name, or if a
    /// column of the reference is missing or holds something else.
    pub fn build(&self, schema: &Schema) -> Result<Profile> {
        if !(8..=65_536).contains(&self.quantile_k) {
            return Err(Error::invalid("quantile_k", format!("must lie in 8..=65536, got {}", self.quantile_k)));
        }
        if !(2..=1_000).contains(&self.bins) {
            return Err(Error::invalid("bins", format!("must lie in 2..=1000, got {}", self.bins)));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(Error::column(twice.name(), "there are two of this name"));
        }
        let mut profile = Profile { format: FORMAT, rows: 0, columns: Vec::new(), skipped: Vec::new() };
        if let Some(columns) = &self.against {
            for column in columns {
                let field = schema.field_with_name(column.name());
                let field = field.map_err(|_| Error::column(column.name(), "is missing"))?;
                column.check_type(field.data_type())?;
            }
            profile.columns.clone_from(columns);
            return Ok(profile);
        }
        for field in schema.fields() {
            let (name, kind) = (field.name(), field.data_type());
            match ColumnKind::of(kind) {
                Some(of) => profile.columns.push(ColumnProfile::new(name, kind, of, self.quantile_k, None)),
                None => {
                    let reason = format!("values of type {kind} are not profiled");
                    profile.skipped.push(SkippedColumn { column: name.clone(), reason });
                }
            }
        }
        Ok(profile)
    }

    /// The profile of `batch`, with quantile bins for its numbers, counted in a second pass.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn fit(&self, batch: &RecordBatch) -> Result<Profile> {
        self.fit_all(std::slice::from_ref(batch))
    }

    /// The same for rows in several batches of one schema.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`Profile::update`]; [`Error::InvalidInput`] for no batch at all.
    pub fn fit_all(&self, batches: &[RecordBatch]) -> Result<Profile> {
        let first = batches.first().ok_or_else(|| Error::invalid("batches", "there are none"))?;
        let mut profile = self.build(&first.schema())?;
        batches.iter().try_for_each(|batch| profile.update(batch))?;
        if self.against.is_none() {
            for column in &mut profile.columns {
                let name = column.name().to_owned();
                let arrays: Vec<&ArrayRef> = batches.iter().filter_map(|batch| batch.column_by_name(&name)).collect();
                column.count_bins(self.bins, &arrays)?;
            }
        }
        Ok(profile)
    }
}

impl Profile {
    /// Options with their defaults; finish with [`ProfileBuilder::fit`] or [`ProfileBuilder::build`].
    pub fn builder() -> ProfileBuilder {
        ProfileBuilder { quantile_k: 512, bins: 10, against: None }
    }

    /// The profile of `batch`, with default options.
    ///
    /// # Errors
    /// Those of [`ProfileBuilder::fit`].
    pub fn fit(batch: &RecordBatch) -> Result<Self> {
        Self::builder().fit(batch)
    }

    /// Adds the rows of `batch`. Columns that are not profiled are not looked at.
    ///
    /// # Errors
    /// [`Error::Column`] naming a column that is missing or holds something else; the profile is then as before.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let array = batch.column_by_name(column.name());
            let array = array.ok_or_else(|| Error::column(column.name(), "is missing"))?;
            column.check_type(array.data_type())?;
            arrays.push(array);
        }
        let before = self.clone_if_fallible(&arrays);
        let done = self.columns.iter_mut().zip(arrays).try_for_each(|(column, array)| column.update(array));
        if let (Err(_), Some(before)) = (&done, before) {
            *self = before;
        }
        done?;
        self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        Ok(())
    }

    /// Only dictionaries of odd types may fail to turn into their values.
    fn clone_if_fallible(&self, arrays: &[&ArrayRef]) -> Option<Self> {
        let odd = |array: &&ArrayRef| matches!(array.data_type(), DataType::Dictionary(..));
        arrays.iter().any(odd).then(|| self.clone())
    }

    /// Adds the rows of `other`, a profile of the same columns.
    ///
    /// # Errors
    /// [`Error::Column`] naming the first column that differs in name, kind or bins; the profile is then as before.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.columns.len() != other.columns.len() {
            return Err(Error::shape("other", self.columns.len(), other.columns.len()));
        }
        let mut columns = self.columns.clone();
        columns.iter_mut().zip(&other.columns).try_for_each(|(mine, theirs)| mine.merge(theirs))?;
        self.columns = columns;
        self.rows = self.rows.saturating_add(other.rows);
        Ok(())
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The profiled columns, in their order.
    #[must_use]
    pub fn columns(&self) -> &[ColumnProfile] {
        &self.columns
    }

    /// The profile of one column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ColumnProfile> {
        self.columns.iter().find(|column| column.name() == name)
    }

    /// The columns without a profile, and why.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedColumn] {
        &self.skipped
    }

    /// The profile as JSON; equal profiles give equal bytes.
    ///
    /// # Errors
    /// None in practice: everything in a profile has a JSON form.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid("profile", e.to_string()))
    }

    /// The profile that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] saying where the text is at fault, or that another version made it.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        read(json)
    }
}

/// Profiles of the inputs and outputs of a model over its training rows: what live data is compared with.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
/// use mlops_monitor::ReferenceProfile;
///
/// let price: ArrayRef = Arc::new(Float64Array::from(vec![0.05, 0.07, 0.06, 0.09]));
/// let state: ArrayRef = Arc::new(StringArray::from(vec!["NSW", "VIC", "NSW", "VIC"]));
/// let prob_up: ArrayRef = Arc::new(Float64Array::from(vec![0.2, 0.8, 0.4, 0.9]));
/// let inputs = RecordBatch::try_from_iter([("price", price), ("state", state)])?;
/// let outputs = RecordBatch::try_from_iter([("prob_up", prob_up)])?;
/// let profile = ReferenceProfile::fit(&inputs, &outputs)?;
///
/// assert_eq!(profile.inputs().columns()[1].distinct().map(|d| d.value), Some(2.0));
/// let stored = profile.to_json()?; // goes into the package as `mlops_core::package::REFERENCE_PROFILE`
/// assert_eq!(ReferenceProfile::from_json(&stored)?, profile);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReferenceProfile {
    format: u32,
    inputs: Profile,
    outputs: Profile,
}

impl ReferenceProfile {
    /// The profile of these training rows and of the model's answers to them, with default options.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for no rows; [`Error::ShapeMismatch`] if the two batches differ in length; those of
    /// [`ProfileBuilder::fit`].
    pub fn fit(inputs: &RecordBatch, outputs: &RecordBatch) -> Result<Self> {
        Self::fit_with(&Profile::builder(), inputs, outputs)
    }

    /// The same with options.
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit).
    pub fn fit_with(options: &ProfileBuilder, inputs: &RecordBatch, outputs: &RecordBatch) -> Result<Self> {
        Self::new(options.fit(inputs)?, options.fit(outputs)?)
    }

    /// The reference made of two profiles, such as those that shards were merged into.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for no rows; [`Error::ShapeMismatch`] if the two are of different rows.
    pub fn new(inputs: Profile, outputs: Profile) -> Result<Self> {
        if inputs.rows != outputs.rows {
            return Err(Error::shape("outputs", inputs.rows as usize, outputs.rows as usize));
        }
        if inputs.rows == 0 {
            return Err(Error::invalid("inputs", "has no rows"));
        }
        Ok(Self { format: FORMAT, inputs, outputs })
    }

    /// Training rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.inputs.rows
    }

    /// The inputs.
    #[must_use]
    pub fn inputs(&self) -> &Profile {
        &self.inputs
    }

    /// The model's answers.
    #[must_use]
    pub fn outputs(&self) -> &Profile {
        &self.outputs
    }

    /// The columns without a profile, inputs first, and why.
    pub fn skipped(&self) -> impl Iterator<Item = &SkippedColumn> {
        self.inputs.skipped.iter().chain(&self.outputs.skipped)
    }

    /// The profile as JSON, for [`mlops_core::package::REFERENCE_PROFILE`].
    ///
    /// # Errors
    /// None in practice: everything in a profile has a JSON form.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid("profile", e.to_string()))
    }

    /// The profile that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] saying where the text is at fault, or that another version made it: then the profile is to be
    /// fitted anew.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        read(json)
    }
}

/// The format first: it tells a profile of another version from one that is damaged.
fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Header {
        format: Option<u32>,
    }
    let invalid = |e: serde_json::Error| Error::invalid("profile", e.to_string());
    check_format(serde_json::from_slice::<Header>(json).map_err(invalid)?.format)?;
    serde_json::from_slice(json).map_err(invalid)
}

/// The column's values with NaN for null; `None` if they are neither numbers nor times.
pub(crate) fn numbers_of(array: &ArrayRef) -> Result<Option<Vec<f64>>> {
    let kind = array.data_type();
    if !ColumnKind::of(kind).is_some_and(ColumnKind::is_ordered) {
        return Ok(None);
    }
    let floats = column::floats(array)
        .map_err(|e| Error::invalid("column", format!("{kind} does not turn into a number: {e}")))?;
    let floats = floats.as_primitive::<Float64Type>();
    Ok(Some(if floats.null_count() == 0 {
        floats.values().to_vec()
    } else {
        floats.iter().map(|value| value.unwrap_or(f64::NAN)).collect()
    }))
}

/// The finalizer of SplitMix64: a bijection that leaves no pattern.
#[inline]
pub(crate) fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
