//! Drift in slices of the rows: where did it happen?
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
//! use mlops_monitor::drift::profiles::ProfileCheck;
//! use mlops_monitor::segments::Segments;
//!
//! // Prices of one state of two double; over all rows that is less to see.
//! let rows = |vic: f64| {
//!     let state: ArrayRef = Arc::new(StringArray::from_iter_values((0..9_000).map(|i| if i % 3 == 0 { "VIC" } else { "NSW" })));
//!     let price = (0..9_000).map(|i| f64::from(i % 1_009) * if i % 3 == 0 { vic } else { 1.0 });
//!     RecordBatch::try_from_iter([("state", state), ("price", Arc::new(Float64Array::from_iter_values(price)))])
//! };
//! let mut training = Segments::builder().by("state").fit(&rows(1.0)?)?;
//! let mut live = training.fresh();
//! live.update(&rows(2.0)?)?;
//!
//! let worst = live.compare(&training, &ProfileCheck::default())?;
//! assert_eq!((worst[0].segment.as_str(), worst[0].column.as_str()), ("state = VIC", "price"));
//! assert!(worst[0].change.excess() > 1.0 && worst[1].change.excess() < 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//! - A segment is a combination of the values of the columns named: categories as they are, numbers by quantile bins of the
//!   reference, nulls as `(missing)`. Every row is in one.
//! - There are at most [`SegmentsBuilder::most`] segments, in the order in which they appear; rows beyond them are counted in
//!   [`left_out`](Segments::left_out).
//! - The intervals of all columns in all segments hold at once, as those of one report do. Each slice has fewer rows than the
//!   whole, and is compared with the same slice of the reference.
//! - The worst come first: by the lower end of the effect over its threshold, so that a slice of few rows and a large
//!   estimate does not come before one that is shown to have moved.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::DataType;
use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use crate::drift::profiles::{ColumnChange, ProfileCheck};
use crate::profile::{ColumnKind, Profile, ProfileBuilder, numbers_of};
use crate::{Error, Result};

/// A column that rows are divided by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Divider {
    column: String,
    kind: ColumnKind,
    /// Of numbers.
    edges: Vec<f64>,
}

/// Profiles of slices of some rows; see the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    dividers: Vec<Divider>,
    most: usize,
    /// Without rows, with the bins of the reference's rows.
    empty: Profile,
    segments: BTreeMap<String, Profile>,
    left_out: u64,
}

/// Options of [`Segments`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `fit`"]
pub struct SegmentsBuilder {
    by: Vec<String>,
    numeric_bins: usize,
    most: usize,
    profile: ProfileBuilder,
}

impl SegmentsBuilder {
    /// Divides by this column; several divide by the combinations of their values.
    pub fn by(mut self, column: impl Into<String>) -> Self {
        self.by.push(column.into());
        self
    }

    /// Quantile bins that a numeric column is divided into, 2 to 100 (default 4).
    pub fn numeric_bins(mut self, bins: usize) -> Self {
        self.numeric_bins = bins;
        self
    }

    /// Segments at most, 1 to 100,000 (default 100).
    pub fn most(mut self, segments: usize) -> Self {
        self.most = segments;
        self
    }

    /// How slices are profiled.
    pub fn profile(mut self, profile: ProfileBuilder) -> Self {
        self.profile = profile;
        self
    }

    /// Divides the rows of the reference and profiles each slice.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range, or `by` if no column is named; [`Error::Column`] for a
    /// column that is missing or that nothing can be divided by (bytes, nested types).
    pub fn fit(&self, batch: &RecordBatch) -> Result<Segments> {
        if self.by.is_empty() {
            return Err(Error::invalid("by", "name a column to divide by"));
        }
        if !(2..=100).contains(&self.numeric_bins) {
            return Err(Error::invalid("numeric_bins", format!("must lie in 2..=100, got {}", self.numeric_bins)));
        }
        if !(1..=100_000).contains(&self.most) {
            return Err(Error::invalid("most", format!("must lie in 1..=100000, got {}", self.most)));
        }
        let whole = self.profile.fit(batch)?;
        let mut dividers = Vec::new();
        for name in &self.by {
            let column = whole.column(name);
            let column = column.ok_or_else(|| Error::column(name, "is missing, or nothing can be divided by it"))?;
            let edges = match (column.kind(), column.numbers()) {
                (ColumnKind::Binary, _) => return Err(Error::column(name, "nothing can be divided by bytes")),
                (_, Some(numbers)) => numbers.quantiles().view().edges(self.numeric_bins),
                _ => Vec::new(),
            };
            dividers.push(Divider { column: name.clone(), kind: column.kind(), edges });
        }
        let empty = Profile::builder().against(&whole).build(&batch.schema())?;
        let mut segments = Segments { dividers, most: self.most, empty, segments: BTreeMap::new(), left_out: 0 };
        segments.update(batch)?;
        Ok(segments)
    }
}

impl Segments {
    /// Options with their defaults; finish with [`SegmentsBuilder::fit`].
    pub fn builder() -> SegmentsBuilder {
        SegmentsBuilder { by: Vec::new(), numeric_bins: 4, most: 100, profile: Profile::builder() }
    }

    /// Without rows, divided in the same way: for live rows, or a shard of them.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self {
            segments: BTreeMap::new(),
            left_out: 0,
            dividers: self.dividers.clone(),
            empty: self.empty.clone(),
            ..*self
        }
    }

    /// Adds the rows of `batch`.
    ///
    /// # Errors
    /// [`Error::Column`] naming a column that is missing or holds something else; nothing is added then.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut labels = Vec::with_capacity(self.dividers.len());
        for divider in &self.dividers {
            labels.push(divider.labels(batch)?);
        }
        let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut label = String::new();
        for row in 0..batch.num_rows() {
            label.clear();
            for (i, (divider, values)) in self.dividers.iter().zip(&labels).enumerate() {
                label.push_str(if i > 0 { ", " } else { "" });
                label.push_str(&divider.column);
                values.write(row, &mut label);
            }
            match rows.get_mut(&label) {
                Some(rows) => rows.push(row as u64),
                None => {
                    rows.insert(label.clone(), vec![row as u64]);
                }
            }
        }
        // In the order of their first rows, so that the batches' own order decides which are left out.
        let mut rows: Vec<(String, Vec<u64>)> = rows.into_iter().collect();
        rows.sort_by_key(|(_, rows)| rows[0]);
        // What cannot be added is found before anything is.
        self.empty.clone().update(&batch.slice(0, 0))?;
        for (label, rows) in rows {
            let n = rows.len() as u64;
            if self.segments.len() >= self.most && !self.segments.contains_key(&label) {
                self.left_out = self.left_out.saturating_add(n);
                continue;
            }
            let slice = take_record_batch(batch, &UInt64Array::from(rows))
                .map_err(|e| Error::invalid("batch", e.to_string()))?;
            self.segments.entry(label).or_insert_with(|| self.empty.clone()).update(&slice)?;
        }
        Ok(())
    }

    /// Adds the rows of `other`, which must be divided in the same way.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is not.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.dividers != other.dividers || self.empty != other.empty {
            return Err(Error::invalid("other", "is divided in another way: make both by `fresh` of one reference"));
        }
        self.left_out = self.left_out.saturating_add(other.left_out);
        for (label, profile) in &other.segments {
            if self.segments.len() >= self.most && !self.segments.contains_key(label) {
                self.left_out = self.left_out.saturating_add(profile.rows());
                continue;
            }
            self.segments.entry(label.clone()).or_insert_with(|| self.empty.clone()).merge(profile)?;
        }
        Ok(())
    }

    /// The slices and their profiles, by name.
    pub fn segments(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.segments.iter().map(|(label, profile)| (label.as_str(), profile))
    }

    /// Rows of slices beyond the most.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Compares every slice with the same of `reference`: each column in each slice, the worst first. The columns that rows
    /// are divided by are not compared within a slice. A slice that one side lacks is not in the list; a change of the
    /// slices' sizes is a drift of the column that divides.
    ///
    /// # Errors
    /// Those of [`merge`](Self::merge) and [`ProfileCheck::compare`].
    pub fn compare(&self, reference: &Self, check: &ProfileCheck) -> Result<Vec<SegmentChange>> {
        if self.dividers != reference.dividers {
            return Err(Error::invalid("reference", "is divided in another way: make the live side by its `fresh`"));
        }
        let shared: Vec<_> = self
            .segments
            .iter()
            .filter_map(|(label, live)| Some((label, reference.segments.get(label)?, live)))
            .collect();
        let mut changes = Vec::new();
        for (label, reference, live) in &shared {
            let drift = check.compare_among(reference, live, shared.len())?;
            for change in drift.columns {
                if self.dividers.iter().all(|divider| divider.column != change.column) {
                    let column = change.column.clone();
                    changes.push(SegmentChange { segment: (*label).clone(), column, rows: live.rows(), change });
                }
            }
        }
        changes.sort_by(|a, b| b.change.excess().total_cmp(&a.change.excess()));
        Ok(changes)
    }
}

/// How one column changed in one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SegmentChange {
    /// The slice, such as `state = VIC, demand in (0.4, 0.6]`.
    pub segment: String,
    /// The column.
    pub column: String,
    /// Live rows of the slice.
    pub rows: u64,
    /// What changed.
    pub change: ColumnChange,
}

impl SegmentChange {
    /// Whether the column drifted in the slice.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.change.verdict
    }
}

/// The values of a column that rows are divided by.
enum Labels {
    Numbers(Vec<f64>, Vec<f64>),
    Texts(ArrayRef),
}

impl Divider {
    fn labels(&self, batch: &RecordBatch) -> Result<Labels> {
        let array = batch.column_by_name(&self.column).ok_or_else(|| Error::column(&self.column, "is missing"))?;
        if ColumnKind::of(array.data_type()) != Some(self.kind) {
            return Err(Error::column(&self.column, format!("expected {}, got {}", self.kind, array.data_type())));
        }
        if let Some(numbers) = numbers_of(array)? {
            return Ok(Labels::Numbers(numbers, self.edges.clone()));
        }
        let texts = cast(array, &DataType::LargeUtf8).map_err(|e| Error::column(&self.column, e.to_string()))?;
        Ok(Labels::Texts(texts))
    }
}

impl Labels {
    fn write(&self, row: usize, label: &mut String) {
        match self {
            Self::Numbers(values, _) if !values[row].is_finite() => label.push_str(" = (missing)"),
            Self::Numbers(values, edges) => {
                let bin = edges.partition_point(|edge| *edge < values[row]);
                let from = bin.checked_sub(1).map_or("(-∞".to_owned(), |i| format!("({}", edges[i]));
                let to = edges.get(bin).map_or("∞)".to_owned(), |edge| format!("{edge}]"));
                label.push_str(&format!(" in {from}, {to}"));
            }
            Self::Texts(texts) if texts.is_null(row) => label.push_str(" = (missing)"),
            Self::Texts(texts) => {
                let value = texts.as_string::<i64>().value(row);
                label.push_str(" = ");
                // Two combinations must not read alike.
                if value.contains([',', '"', '(']) {
                    label.push_str(&format!("{value:?}"));
                } else {
                    label.push_str(value);
                }
            }
        }
    }
}
