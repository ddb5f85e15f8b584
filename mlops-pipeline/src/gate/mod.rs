//! The checks between "trained" and "in production": each gives a verdict with the numbers behind it.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, Float64Array, RecordBatch};
//! use mlops_core::Verdict;
//! use mlops_pipeline::gate::{ColumnRules, DataGate, GateSuite, Subject};
//!
//! let prices: ArrayRef = Arc::new(Float64Array::from(vec![0.05, 0.06, 7.0]));
//! let rows = RecordBatch::try_from_iter([("price", prices)]).map_err(mlops_core::Error::from)?;
//! let prices = DataGate::builder().column(ColumnRules::new("price").range(0.0, 1.0)).build()?;
//! let report = GateSuite::new("before training").block(prices).run(&Subject::new().data(&rows))?;
//! assert_eq!(report.verdict, Verdict::Fail);
//! assert!(report.to_string().contains(r#"column "price": 1 of 3 rows outside [0, 1], first at row 2 (7)"#));
//! # Ok::<(), mlops_pipeline::Error>(())
//! ```
//!
//! # Rules for every gate
//! - What is wrong with the thing under test is a `Fail` that names the cause; what is wrong with the question (a part
//!   missing, an option out of range, a hold-out without labels) is an error.
//! - `Inconclusive` means that the evidence cannot tell. It never counts as a pass.
//! - The same subject gives the same finding, in every digit, except for measured times, which stand in measurements only.
//! - Intervals are two-sided at the `confidence` asked for (0.95 where nothing is said), for one look at a fixed number
//!   of rows.
//!
//! # Next
//! [`GateSuite`] joins gates; write one with [`Gate`].

mod challenger;
mod data;
mod latency;
mod slice;
pub mod stats;
mod suite;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use mlops_core::{Finding, Predictor, PredictorExt, Verdict};

pub use self::challenger::{ChallengerGate, ChallengerGateBuilder};
pub use self::data::{ColumnRules, DataGate, DataGateBuilder};
pub use self::latency::{LatencyGate, LatencyGateBuilder};
pub use self::slice::{SliceGate, SliceGateBuilder};
pub use self::suite::{GateSuite, Severity, SuiteEntry, SuiteReport};
use crate::{Error, Result};

/// A check of data or of a model.
///
/// # Contract
/// - **Pure**, but for gates that measure time: equal subjects give equal findings, on any number of threads.
/// - **Verdict.** `Pass` only if the evidence shows that the condition holds; too little is `Inconclusive`.
/// - **Summary** is one sentence that names the cause: the column, the slice, the limit.
/// - **Errors** are for questions that cannot be asked: [`Error::MissingPart`] for a part the subject lacks.
/// - **No I/O, no runtime.** Call it from a blocking thread if its subject is large.
pub trait Gate: Debug + Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Checks `subject`.
    ///
    /// # Errors
    /// [`Error::MissingPart`], or what is wrong with a part that is not under test.
    fn check(&self, subject: &Subject<'_>) -> Result<Finding>;
}

impl<G: Gate + ?Sized> Gate for Arc<G> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        (**self).check(subject)
    }
}

impl<G: Gate + ?Sized> Gate for Box<G> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        (**self).check(subject)
    }
}

/// What gates look at. Every part is optional; a gate that misses one says so.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Subject<'a> {
    data: Option<&'a RecordBatch>,
    holdout: Option<Holdout<'a>>,
    candidate: Option<&'a dyn Predictor>,
    champion: Option<&'a dyn Predictor>,
}

/// Rows that no model was trained on, with the column that holds the right answers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Holdout<'a> {
    /// The rows: features and label.
    pub rows: &'a RecordBatch,
    /// The name of the label column.
    pub label: &'a str,
}

impl<'a> Subject<'a> {
    /// A subject without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows that data gates check.
    pub fn data(mut self, rows: &'a RecordBatch) -> Self {
        self.data = Some(rows);
        self
    }

    /// The rows that models are compared on, and the name of their label column: Boolean, or numbers that are 0 or 1.
    pub fn holdout(mut self, rows: &'a RecordBatch, label: &'a str) -> Self {
        self.holdout = Some(Holdout { rows, label });
        self
    }

    /// The model that wants to pass.
    pub fn candidate(mut self, model: &'a dyn Predictor) -> Self {
        self.candidate = Some(model);
        self
    }

    /// The model that serves now: `None` for the first of its name.
    pub fn champion(mut self, model: Option<&'a dyn Predictor>) -> Self {
        self.champion = model;
        self
    }

    /// The data, for the gate of that name.
    ///
    /// # Errors
    /// [`Error::MissingPart`] if there is none.
    pub fn need_data(&self, gate: &str) -> Result<&'a RecordBatch> {
        self.data.ok_or_else(|| missing(gate, "data", "data"))
    }

    /// The hold-out rows, for the gate of that name.
    ///
    /// # Errors
    /// [`Error::MissingPart`] if there are none.
    pub fn need_holdout(&self, gate: &str) -> Result<Holdout<'a>> {
        self.holdout.ok_or_else(|| missing(gate, "hold-out rows", "holdout"))
    }

    /// The candidate, for the gate of that name.
    ///
    /// # Errors
    /// [`Error::MissingPart`] if there is none.
    pub fn need_candidate(&self, gate: &str) -> Result<&'a dyn Predictor> {
        self.candidate.ok_or_else(|| missing(gate, "a candidate", "candidate"))
    }

    /// The champion, if there is one.
    #[must_use]
    pub fn current_champion(&self) -> Option<&'a dyn Predictor> {
        self.champion
    }
}

fn missing(gate: &str, part: &'static str, method: &'static str) -> Error {
    Error::MissingPart { gate: gate.to_owned(), part, method }
}

fn invalid(gate: &str, reason: impl Into<String>) -> Error {
    Error::InvalidGate { gate: gate.to_owned(), reason: reason.into() }
}

fn check_share(gate: &str, option: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(invalid(gate, format!("{option} must lie in [0, 1), got {value}")))
}

fn check_confidence(gate: &str, value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(invalid(gate, format!("confidence must lie in (0, 1), got {value}")))
}

/// What two models are held to: how the answers of a binary classifier are read, and what difference is wanted.
#[derive(Clone, Debug)]
struct Terms {
    name: String,
    output: String,
    threshold: f64,
    /// The least difference in accuracy that passes: `-margin` or `gain`.
    least: f64,
    floor: f64,
    confidence: f64,
    min_rows: usize,
}

impl Terms {
    fn new(name: &str, output: String) -> Self {
        Self { name: name.to_owned(), output, threshold: 0.5, least: 0.0, floor: 0.5, confidence: 0.95, min_rows: 100 }
    }

    fn check(&self) -> Result<()> {
        check_confidence(&self.name, self.confidence)?;
        check_share(&self.name, "floor", self.floor)?;
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(invalid(&self.name, format!("threshold must lie in [0, 1], got {}", self.threshold)));
        }
        if !(self.least > -1.0 && self.least < 1.0) {
            let given = self.least.abs();
            return Err(invalid(&self.name, format!("margin and gain must lie in [0, 1), got {given}")));
        }
        Ok(())
    }

    /// The wanted difference in words: `> -0.01`, or `>= 0.02`.
    fn bound(&self) -> String {
        if self.least > 0.0 { format!(">= {}", self.least) } else { format!("> {}", self.least) }
    }

    fn passes(&self, low: f64) -> bool {
        if self.least > 0.0 { low >= self.least } else { low > self.least }
    }

    /// For each row, whether `model` answers right. The inner error says why `model` cannot answer.
    fn right(&self, model: &dyn Predictor, holdout: Holdout<'_>, labels: &[bool]) -> Result<Result<Vec<bool>, String>> {
        if !model.signature().outputs().iter().any(|c| c.name == self.output) {
            let reason = format!("missing from the outputs of the model, {}", model.signature());
            return Err(mlops_core::Error::column(&self.output, reason).into());
        }
        let inputs = model.signature().check_inputs(holdout.rows)?;
        let outputs = match model.run(&inputs) {
            Ok(outputs) => outputs,
            Err(error) => return Ok(Err(mlops_core::with_causes(&error))),
        };
        let probabilities = numbers(&outputs, &self.output)?;
        if let Some(row) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let value = probabilities[row];
            return Ok(Err(format!("column {:?} at row {row} is {value}, not a probability", self.output)));
        }
        Ok(Ok(probabilities.iter().zip(labels).map(|(p, label)| (*p >= self.threshold) == *label).collect()))
    }

    /// The answers of the candidate and, if there is one, of the champion. A candidate that cannot answer is a finding.
    fn answers(&self, subject: &Subject<'_>) -> Result<Answers> {
        let holdout = subject.need_holdout(&self.name)?;
        let candidate = subject.need_candidate(&self.name)?;
        let rows = holdout.rows.num_rows();
        if rows < self.min_rows.max(1) {
            let summary = format!("{rows} hold-out rows, fewer than the {} wanted", self.min_rows.max(1));
            return Ok(Answers::Settled(Finding::new(&self.name, Verdict::Inconclusive, summary)));
        }
        let labels = labels(holdout)?;
        let candidate = match self.right(candidate, holdout, &labels)? {
            Ok(right) => right,
            Err(why) => {
                let summary = format!("the candidate cannot answer the hold-out rows: {why}");
                return Ok(Answers::Settled(Finding::new(&self.name, Verdict::Fail, summary)));
            }
        };
        let champion = match subject.champion {
            None => None,
            Some(champion) => Some(self.right(champion, holdout, &labels)?.map_err(|why| {
                mlops_core::Error::invalid("champion", format!("it cannot answer the hold-out rows: {why}"))
            })?),
        };
        Ok(Answers::Given { candidate, champion })
    }
}

enum Answers {
    Settled(Finding),
    Given { candidate: Vec<bool>, champion: Option<Vec<bool>> },
}

/// A column as numbers; nulls become NaN.
fn numbers(rows: &RecordBatch, column: &str) -> Result<Vec<f64>> {
    let array = rows.column_by_name(column).ok_or_else(|| mlops_core::Error::column(column, "missing"))?;
    let array = cast(array, &DataType::Float64).map_err(mlops_core::Error::from)?;
    Ok(array.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(f64::NAN)).collect())
}

fn labels(holdout: Holdout<'_>) -> Result<Vec<bool>> {
    let refuse = |reason: String| Error::from(mlops_core::Error::column(holdout.label, reason));
    let array = holdout
        .rows
        .column_by_name(holdout.label)
        .ok_or_else(|| refuse("missing from the hold-out rows; it should hold the labels".to_owned()))?;
    if let Some(flags) = array.as_any().downcast_ref::<BooleanArray>() {
        return flags
            .iter()
            .enumerate()
            .map(|(row, v)| v.ok_or_else(|| refuse(format!("row {row} is null; every hold-out row needs a label"))))
            .collect();
    }
    if !array.data_type().is_numeric() {
        return Err(refuse(format!("labels must be Boolean, 0 or 1, not {}", array.data_type())));
    }
    numbers(holdout.rows, holdout.label)?
        .into_iter()
        .enumerate()
        .map(|(row, v)| match v {
            0.0 => Ok(false),
            1.0 => Ok(true),
            other => Err(refuse(format!("row {row} is {other}; labels must be Boolean, 0 or 1"))),
        })
        .collect()
}
