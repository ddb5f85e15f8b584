//! Domain classifier: can a model tell the two samples apart?

use std::fmt;

use serde::{Deserialize, Serialize};

use super::linalg::{cholesky, solve_cholesky};
use super::numeric::walk;
use super::ranks::{MannWhitney, auc_interval};
use super::rows::{Rng, Standard, Table, both, draw};
use super::tails::normal_sf;
use super::{Comparison, PValueBy, Rows, Sorted};
use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Most columns: a step of the fit costs rows times columns squared.
const MOST_COLUMNS: usize = 1_000;

/// Area under the ROC curve of a classifier that is to tell the second sample from the first.
///
/// A logistic regression on standardised columns, with the penalty `|w|²/(2C)` beside the log loss, is fitted on all folds
/// but one and ranks the rows of that one; the statistic is the mean over folds of `P(score of a second row > score of a
/// first row)`: ½ where nothing can be told apart, 1 where everything can.
///
/// # What it cannot see
/// A linear score sees shifts of means along some direction. A change of spread, of correlation or of shape with the same
/// means is invisible to it, unless squares or products are given as columns; [`Mmd`](super::Mmd) and
/// [`EnergyTest`](super::EnergyTest) see those. Rows that belong together (one user, one day) in several folds make
/// it too sure.
///
/// # Interval and p-value
/// Within a fold the classifier is fixed, so the area has DeLong's variance there; the variance of the mean adds those up
/// as if folds were independent. The p-value is one-sided, of the Mann–Whitney statistics of the folds.
///
/// # Source
/// Lopez-Paz and Oquab (2017), arXiv:1610.06545; DeLong and others (1988), doi:10.2307/2531595.
/// `tests/golden/multivariate.json` (scikit-learn); level and power are simulated in `tests/it/multivariate.rs`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{DomainClassifier, Rows};
///
/// let before: Vec<f64> = (0..400).map(|i| f64::from(i * 37 % 101)).collect();
/// let after: Vec<f64> = before.iter().enumerate().map(|(i, x)| if i % 2 == 1 { x + 30.0 } else { *x }).collect();
/// let report = DomainClassifier::builder().compare(Rows::new(&before, 2)?, Rows::new(&after, 2)?, &["age", "income"])?;
/// assert_eq!(report.weights[0].name, "income");
/// assert!(report.test.statistic > 0.6);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `compare`"]
pub struct DomainClassifier {
    folds: usize,
    c: f64,
    max_rows: usize,
    seed: u64,
    confidence: f64,
}

/// What a [`DomainClassifier`] or a [`TextClassifier`](super::TextClassifier) gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DomainReport {
    /// The area, as statistic and as effect with its interval.
    pub test: Comparison,
    /// What tells the samples apart, the largest in size first.
    pub weights: Vec<Weight>,
}

/// How much a column speaks for the second sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Weight {
    /// The column, or term.
    pub name: String,
    /// Change of the log odds of "second" for one standard deviation more, of a classifier fitted on all rows; for
    /// terms, see [`TextClassifier`](super::TextClassifier).
    pub weight: f64,
}

impl fmt::Display for DomainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.test)?;
        for (i, weight) in self.weights.iter().take(5).enumerate() {
            let before = if i == 0 { "; by " } else { ", " };
            write!(f, "{before}{} {:+.2}", weight.name, weight.weight)?;
        }
        Ok(())
    }
}

impl DomainClassifier {
    /// Options with their defaults; finish with [`compare`](Self::compare).
    pub fn builder() -> Self {
        Self { folds: 5, c: 1.0, max_rows: 20_000, seed: 0, confidence: 0.95 }
    }

    /// Number of folds, 2 to 50 (default 5).
    pub fn folds(mut self, folds: usize) -> Self {
        self.folds = folds;
        self
    }

    /// Inverse of the penalty, positive (default 1, scikit-learn's).
    pub fn c(mut self, c: f64) -> Self {
        self.c = c;
        self
    }

    /// Most rows to use from each side, at least 10 (default 20,000).
    pub fn max_rows(mut self, max_rows: usize) -> Self {
        self.max_rows = max_rows;
        self
    }

    /// Seed of the folds and of the rows that are drawn (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Coverage of the interval, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// Compares two tables whose columns have these names.
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] naming the first option out of range, or a side with fewer than two finite rows a fold.
    /// - [`Error::ShapeMismatch`] if the numbers of columns differ, or that of the names.
    pub fn compare(self, first: Rows<'_>, second: Rows<'_>, names: &[&str]) -> Result<DomainReport> {
        check_confidence(self.confidence)?;
        check_folds(self.folds)?;
        if !(self.c > 0.0 && self.c.is_finite()) {
            return Err(Error::invalid("c", format!("must be finite and positive, got {}", self.c)));
        }
        if self.max_rows < 10 {
            return Err(Error::invalid("max_rows", format!("must be at least 10, got {}", self.max_rows)));
        }
        if first.columns() > MOST_COLUMNS {
            let reason = format!("has {} columns, at most {MOST_COLUMNS} can be fitted", first.columns());
            return Err(Error::invalid("first", reason));
        }
        if names.len() != first.columns() {
            return Err(Error::shape("names", first.columns(), names.len()));
        }
        let mut sides = both(first, second, 2 * self.folds)?;
        let mut rng = Rng::new(self.seed);
        draw(&mut sides, self.max_rows, &mut rng);
        let folds = [0, 1].map(|side: usize| assign(sides[side].rows(), self.folds, &mut rng));
        let mut areas = Areas::default();
        for fold in 0..self.folds {
            let part = |side: usize, inside: bool| {
                let table = &sides[side];
                let rows = table.iter().zip(&folds[side]).filter(|(_, f)| (**f == fold) == inside);
                let data = rows.flat_map(|(row, _)| row.iter().copied()).collect();
                Table { data, columns: table.columns, skipped: 0 }
            };
            let (mut train, mut test) = ([part(0, false), part(1, false)], [part(0, true), part(1, true)]);
            let standard = Standard::of(&[&train[0], &train[1]]);
            train.iter_mut().chain(&mut test).for_each(|table| standard.apply(table));
            let w = logistic(&train, self.c);
            let scores = |table: &Table| -> Vec<f64> { table.iter().map(|row| dot(&w, row)).collect() };
            areas.add(&scores(&test[0]), &scores(&test[1]));
        }
        let rows = [sides[0].rows() as u64, sides[1].rows() as u64];
        let mut test = areas.finish("domain_classifier", rows, self.confidence);
        test.skipped = [sides[0].skipped, sides[1].skipped];
        let standard = Standard::of(&[&sides[0], &sides[1]]);
        sides.iter_mut().for_each(|side| standard.apply(side));
        let w = logistic(&sides, self.c);
        let mut weights: Vec<Weight> =
            names.iter().zip(&w).map(|(name, weight)| Weight { name: (*name).to_owned(), weight: *weight }).collect();
        weights.sort_by(|a, b| b.weight.abs().total_cmp(&a.weight.abs()));
        Ok(DomainReport { test, weights })
    }
}

pub(super) fn check_folds(folds: usize) -> Result<()> {
    if (2..=50).contains(&folds) {
        return Ok(());
    }
    Err(Error::invalid("folds", format!("must lie in 2..=50, got {folds}")))
}

/// A fold for each row, in random order and of sizes that differ by one at most.
pub(super) fn assign(rows: usize, folds: usize, rng: &mut Rng) -> Vec<usize> {
    let mut of: Vec<usize> = (0..rows).map(|i| i % folds).collect();
    rng.shuffle(&mut of);
    of
}

/// Areas of folds, which are joined into one.
#[derive(Default)]
pub(super) struct Areas {
    folds: f64,
    area: f64,
    /// `None` once a fold has none.
    variance: Option<f64>,
    null_variance: f64,
}

impl Areas {
    /// Scores of the rows of both sides in a fold, each with one row at least.
    pub(super) fn add(&mut self, first: &[f64], second: &[f64]) {
        let (first, second) = (Sorted::new(first), Sorted::new(second));
        let (n, m) = (first.rows() as f64, second.rows() as f64);
        if n == 0.0 || m == 0.0 {
            return;
        }
        let ranks = walk(&second, &first, MannWhitney::default());
        let variance = ranks.variance(m, n);
        self.variance = if self.folds == 0.0 { variance } else { self.variance.zip(variance).map(|(a, b)| a + b) };
        self.area += ranks.auc(m, n);
        self.null_variance += ranks.null_variance(m, n);
        self.folds += 1.0;
    }

    pub(super) fn finish(self, method: &str, rows: [u64; 2], confidence: f64) -> Comparison {
        let k = self.folds.max(1.0);
        let area = if self.folds > 0.0 { self.area / k } else { 0.5 };
        let spread = self.null_variance.sqrt() / k;
        let p = if spread > 0.0 { normal_sf((area - 0.5) / spread) } else { 1.0 };
        let variance = self.variance.map(|v| v / (k * k));
        let interval = auc_interval(area, variance, rows[0] as f64, rows[1] as f64, two_sided_z(confidence));
        Comparison::new(method, area, rows).p(p, PValueBy::Asymptotic).effect("auc", area, Some(interval), confidence)
    }
}

/// `w · row` and the intercept, which is the last weight.
fn dot(w: &[f64], row: &[f64]) -> f64 {
    row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + w[row.len()]
}

/// Weights and intercept that minimise `Σ log loss + |w|²/(2c)`, by Newton's method with halved steps.
fn logistic(sides: &[Table; 2], c: f64) -> Vec<f64> {
    let p = sides[0].columns + 1;
    let mut w = vec![0.0; p];
    let rows = || sides.iter().zip([-1.0, 1.0]).flat_map(|(table, sign)| table.iter().map(move |row| (row, sign)));
    let loss = |w: &[f64]| {
        let penalty = w[..p - 1].iter().map(|w| w * w).sum::<f64>() / (2.0 * c);
        let soft = |t: f64| if t > 0.0 { t + (-t).exp().ln_1p() } else { t.exp().ln_1p() };
        rows().map(|(row, sign)| soft(-sign * dot(w, row))).sum::<f64>() + penalty
    };
    let mut now = loss(&w);
    for _ in 0..100 {
        let (mut gradient, mut hessian) = (vec![0.0; p], vec![0.0; p * p]);
        for (row, sign) in rows() {
            let chance = 1.0 / (1.0 + (-dot(&w, row)).exp());
            let (error, weight) = (chance - if sign > 0.0 { 1.0 } else { 0.0 }, chance * (1.0 - chance));
            for (i, x) in row.iter().chain(&[1.0]).enumerate() {
                gradient[i] += error * x;
                let scaled = weight * x;
                let line = &mut hessian[i * p..=i * p + i];
                for (h, y) in line.iter_mut().zip(row.iter().chain(&[1.0])) {
                    *h += scaled * y;
                }
            }
        }
        for i in 0..p - 1 {
            gradient[i] += w[i] / c;
            hessian[i * p + i] += 1.0 / c;
        }
        // With all rows told apart for sure the intercept's part is nearly 0.
        hessian[p * p - 1] += 1e-10;
        let mut step = gradient.clone();
        let diagonal = (0..p).map(|i| hessian[i * p + i]).fold(0.0, f64::max);
        if cholesky(&mut hessian, p).is_err() {
            // Down the slope, with a step that the curvature allows.
            step.iter_mut().for_each(|g| *g /= diagonal.max(1e-10));
        } else {
            solve_cholesky(&hessian, p, &mut step);
        }
        let decrease: f64 = step.iter().zip(&gradient).map(|(s, g)| s * g).sum();
        if decrease.is_nan() || decrease <= 1e-22 * (1.0 + now) {
            break;
        }
        let mut length = 1.0;
        let mut moved = false;
        for _ in 0..40 {
            let next: Vec<f64> = w.iter().zip(&step).map(|(w, s)| w - length * s).collect();
            let then = loss(&next);
            // Near the minimum the loss cannot tell steps apart, and Newton's is right.
            if then <= now || (length == 1.0 && then - now <= 1e-13 * now) {
                (w, now, moved) = (next, then, true);
                break;
            }
            length *= 0.5;
        }
        if !moved {
            break;
        }
    }
    w
}
