use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use mlops_core::verdict::short;
use mlops_core::{Finding, Measurement, Verdict};
use mlops_monitor::metrics::Estimate;

use super::stats::{Paired, paired_difference, share};
use super::{Answers, Gate, Subject, Terms, invalid, numbers};
use crate::Result;

/// The most slices one gate looks at: a column with more distinct values is no slicing.
const MOST_SLICES: usize = 1_000;

/// Passes a candidate that is not worse than the champion by more than a margin in any slice of the hold-out rows.
///
/// Slices are the distinct values of a column, bins between its quantiles, or what a closure says; several slicings are
/// checked together, so a row may be in several slices. In each of the `m` slices with at least `min_rows` rows, the
/// difference in accuracy (without a champion, the accuracy) gets an interval `[low, high]` of level
/// `1 - (1 - confidence) / m`, Bonferroni's correction, so that all of them hold at once at `confidence`:
///
/// ```text
/// Fail           high <= -margin (no champion: high <= floor) in any slice
/// Pass           low > -margin (no champion: low > floor) in all of them
/// Inconclusive   else, and if no slice is large enough
/// ```
/// The summary names the worst slice. Slices smaller than `min_rows` are counted and named as inconclusive, and do not
/// decide the verdict. The correction holds however slices overlap; on the passing side it is stricter than it must be.
///
/// ```
/// use mlops_pipeline::gate::SliceGate;
/// let gate = SliceGate::builder("probability").values("day").quantiles("price", 4).margin(0.05).build()?;
/// # let _ = gate; Ok::<(), mlops_pipeline::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SliceGate {
    terms: Terms,
    slicings: Vec<Slicing>,
}

/// Puts a [`SliceGate`] together.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SliceGateBuilder(SliceGate);

type NameRows = dyn Fn(&RecordBatch) -> mlops_core::Result<Vec<String>> + Send + Sync;

#[derive(Clone)]
enum Slicing {
    Values(String),
    Quantiles(String, usize),
    By(String, Arc<NameRows>),
}

impl fmt::Debug for Slicing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(column) => write!(f, "Values({column})"),
            Self::Quantiles(column, bins) => write!(f, "Quantiles({column}, {bins})"),
            Self::By(name, _) => write!(f, "By({name})"),
        }
    }
}

impl SliceGate {
    /// Starts a gate named `slices`; `output` is the column that holds the probability of the positive class.
    pub fn builder(output: impl Into<String>) -> SliceGateBuilder {
        let terms = Terms { min_rows: 50, ..Terms::new("slices", output.into()) };
        SliceGateBuilder(Self { terms, slicings: Vec::new() })
    }
}

impl SliceGateBuilder {
    /// The gate's name (default `slices`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.terms.name = name.into();
        self
    }

    /// A slice for each distinct value of `column`; nulls are one value.
    pub fn values(mut self, column: impl Into<String>) -> Self {
        self.0.slicings.push(Slicing::Values(column.into()));
        self
    }

    /// A slice for each of `bins` ranges of a numeric `column` that hold about equally many hold-out rows, 2 to 100.
    /// Equal values share a bin, so there may be fewer; nulls and NaN are a slice of their own.
    pub fn quantiles(mut self, column: impl Into<String>, bins: usize) -> Self {
        self.0.slicings.push(Slicing::Quantiles(column.into(), bins));
        self
    }

    /// A slice for each name that `slice_of` gives to rows; it must give one name per row.
    pub fn by<F>(mut self, name: impl Into<String>, slice_of: F) -> Self
    where
        F: Fn(&RecordBatch) -> mlops_core::Result<Vec<String>> + Send + Sync + 'static,
    {
        self.0.slicings.push(Slicing::By(name.into(), Arc::new(slice_of)));
        self
    }

    /// The probability from which the answer is "positive" (default 0.5).
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.0.terms.threshold = threshold;
        self
    }

    /// How much lower the candidate's accuracy may be in a slice, in [0, 1) (default 0).
    pub fn margin(mut self, margin: f64) -> Self {
        self.0.terms.least = 0.0 - margin; // not -margin, which would print no margin as -0
        self
    }

    /// The accuracy that the first model of a name must exceed in each slice, in [0, 1) (default 0.5).
    pub fn floor(mut self, floor: f64) -> Self {
        self.0.terms.floor = floor;
        self
    }

    /// The level at which all intervals hold together, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.0.terms.confidence = confidence;
        self
    }

    /// How many rows a slice needs to be judged (default 50).
    pub fn min_rows(mut self, rows: usize) -> Self {
        self.0.terms.min_rows = rows;
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::InvalidGate`](crate::Error::InvalidGate) naming the first option out of range, or if there is no slicing.
    pub fn build(self) -> Result<SliceGate> {
        let gate = self.0;
        gate.terms.check()?;
        let name = &gate.terms.name;
        if gate.terms.least > 0.0 {
            return Err(invalid(name, format!("margin must lie in [0, 1), got {}", -gate.terms.least)));
        }
        if gate.slicings.is_empty() {
            return Err(invalid(name, "say what to slice by: `values`, `quantiles` or `by`"));
        }
        for slicing in &gate.slicings {
            if let Slicing::Quantiles(column, bins) = slicing
                && !(2..=100).contains(bins)
            {
                return Err(invalid(name, format!("quantiles of {column:?} must be 2 to 100 bins, got {bins}")));
            }
        }
        Ok(gate)
    }
}

impl Slicing {
    /// For each slice, the rows in it.
    fn slices(&self, rows: &RecordBatch) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut slices: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        match self {
            Self::Values(column) => {
                let array = rows.column_by_name(column).ok_or_else(|| absent(column))?;
                for row in 0..rows.num_rows() {
                    let value = if array.is_null(row) {
                        "null".to_owned()
                    } else {
                        array_value_to_string(array, row).map_err(mlops_core::Error::from)?
                    };
                    slices.entry(format!("{column} = {value}")).or_default().push(row);
                }
            }
            Self::Quantiles(column, bins) => {
                rows.column_by_name(column).ok_or_else(|| absent(column))?;
                let values = numbers(rows, column)?;
                let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
                sorted.sort_unstable_by(f64::total_cmp);
                // The upper ends of all bins but the last, each an observed value.
                let mut ends: Vec<f64> = (1..*bins)
                    .filter_map(|k| sorted.get((k * sorted.len()).div_ceil(*bins).max(1) - 1))
                    .copied()
                    .collect();
                ends.dedup();
                ends.retain(|end| Some(end) != sorted.last());
                // Short names, unless two bins would then share one.
                let shortened: std::collections::BTreeSet<String> = ends.iter().map(|end| short(*end)).collect();
                let told = |end: f64| if shortened.len() == ends.len() { short(end) } else { end.to_string() };
                for (row, value) in values.iter().enumerate() {
                    let name = if value.is_nan() {
                        format!("{column} not a number")
                    } else {
                        let bin = ends.partition_point(|end| end < value);
                        match (bin.checked_sub(1).map(|b| ends[b]), ends.get(bin)) {
                            (None, None) => format!("{column} any"),
                            (None, Some(&high)) => format!("{column} <= {}", told(high)),
                            (Some(low), Some(&high)) => format!("{} < {column} <= {}", told(low), told(high)),
                            (Some(low), None) => format!("{column} > {}", told(low)),
                        }
                    };
                    slices.entry(name).or_default().push(row);
                }
            }
            Self::By(name, slice_of) => {
                let names = slice_of(rows)?;
                if names.len() != rows.num_rows() {
                    let reason = format!("gave {} names for {} rows", names.len(), rows.num_rows());
                    return Err(mlops_core::Error::invalid(format!("slicing {name:?}"), reason).into());
                }
                for (row, value) in names.into_iter().enumerate() {
                    slices.entry(format!("{name} = {value}")).or_default().push(row);
                }
            }
        }
        Ok(slices)
    }
}

fn absent(column: &str) -> mlops_core::Error {
    mlops_core::Error::column(column, "missing from the hold-out rows, which are to be sliced by it")
}

/// One slice that is large enough, with its interval.
struct Judged {
    slice: String,
    estimate: Estimate,
    verdict: Verdict,
}

impl Gate for SliceGate {
    fn name(&self) -> &str {
        &self.terms.name
    }

    fn check(&self, subject: &Subject<'_>) -> Result<Finding> {
        let terms = &self.terms;
        let rows = subject.need_holdout(&terms.name)?.rows;
        let (candidate, champion) = match terms.answers(subject)? {
            Answers::Settled(finding) => return Ok(finding),
            Answers::Given { candidate, champion } => (candidate, champion),
        };
        let mut slices = BTreeMap::new();
        for slicing in &self.slicings {
            for (slice, members) in slicing.slices(rows)? {
                if slices.contains_key(&slice) {
                    return Err(invalid(&terms.name, format!("two slicings both have a slice {slice:?}; rename one")));
                }
                slices.insert(slice, members);
            }
        }
        if slices.len() > MOST_SLICES {
            let reason = format!("there are {} slices, more than {MOST_SLICES}; use quantiles", slices.len());
            return Err(invalid(&terms.name, reason));
        }
        let (large, small): (Vec<_>, Vec<_>) =
            slices.into_iter().partition(|(_, members)| members.len() >= terms.min_rows.max(1));
        let level = 1.0 - (1.0 - terms.confidence) / large.len().max(1) as f64;
        let pick = |from: &[bool], members: &[usize]| -> Vec<bool> { members.iter().map(|&row| from[row]).collect() };
        let least = if champion.is_some() { terms.least } else { terms.floor };
        let mut judged = Vec::with_capacity(large.len());
        for (slice, members) in large {
            let ours = pick(&candidate, &members);
            let estimate = match &champion {
                Some(champion) => paired_difference(&Paired::count(&ours, &pick(champion, &members)), level)?,
                None => share(ours.iter().filter(|right| **right).count() as u64, ours.len() as u64, level)?,
            };
            let verdict = if estimate.low > least {
                Verdict::Pass
            } else if estimate.high <= least {
                Verdict::Fail
            } else {
                Verdict::Inconclusive
            };
            judged.push(Judged { slice, estimate, verdict });
        }
        Ok(self.finding(judged, &small, champion.is_some(), least))
    }
}

impl SliceGate {
    fn finding(
        &self,
        mut judged: Vec<Judged>,
        small: &[(String, Vec<usize>)],
        has_champion: bool,
        least: f64,
    ) -> Finding {
        let terms = &self.terms;
        // The worst first: those that fail, by how sure that is, then the others by how bad they may be.
        let rank = |j: &Judged| match j.verdict {
            Verdict::Fail => (0, j.estimate.high),
            Verdict::Inconclusive => (1, j.estimate.low),
            Verdict::Pass => (2, j.estimate.low),
        };
        judged.sort_by(|a, b| rank(a).0.cmp(&rank(b).0).then(rank(a).1.total_cmp(&rank(b).1)));
        let (what, condition) = if has_champion {
            ("accuracy_difference", format!("at most {} worse than the champion", 0.0 - least))
        } else {
            ("accuracy", format!("above an accuracy of {least}"))
        };
        let of = |verdict: Verdict| judged.iter().filter(|j| j.verdict == verdict).count();
        let (all, failed, open) = (judged.len(), of(Verdict::Fail), of(Verdict::Inconclusive));
        let (verdict, mut summary) = match judged.first() {
            None => (Verdict::Inconclusive, format!("no slice has the {} rows wanted", terms.min_rows)),
            Some(worst) if failed > 0 => {
                (Verdict::Fail, format!("{failed} of {all} slices not {condition}, worst {}", worst.slice))
            }
            Some(worst) if open > 0 => {
                let summary = format!("{open} of {all} slices cannot tell whether they are {condition}");
                (Verdict::Inconclusive, format!("{summary}, worst {}", worst.slice))
            }
            Some(worst) => (Verdict::Pass, format!("all {all} slices are {condition}, worst {}", worst.slice)),
        };
        if !small.is_empty() {
            let names: Vec<&str> = small.iter().take(3).map(|(name, _)| name.as_str()).collect();
            let more = if small.len() > 3 { ", ..." } else { "" };
            summary.push_str(&format!("; {} too small to tell ({}{more})", small.len(), names.join(", ")));
        }
        let mut finding = Finding::new(&terms.name, verdict, summary);
        for Judged { slice, estimate, .. } in judged {
            finding = finding.with(
                Measurement::new(format!("{what}, {slice}"), estimate.value)
                    .with_interval(estimate.low, estimate.high)
                    .with_n(estimate.n)
                    .with_bound(format!("> {least}")),
            );
        }
        if small.is_empty() { finding } else { finding.with(Measurement::new("slices_too_small", small.len() as f64)) }
    }
}
