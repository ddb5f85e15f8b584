//! Reconstruction error and Hotelling's test.

use serde::{Deserialize, Serialize};

use super::categorical::quantile_interval;
use super::linalg::{cholesky, eigen, solve_cholesky};
use super::mmd::Moments;
use super::rows::{Standard, Table, both};
use super::tails::{f_sf, noncentral_f_sf};
use super::{Comparison, PValueBy, Rows};
use crate::error::check_confidence;
use crate::metrics::Estimate;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Most columns: Jacobi's rotations take time by their third power, some times over.
const MOST_COLUMNS: usize = 300;

/// Reconstruction error of a principal component analysis fitted on the baseline: has the relation between columns
/// changed?
///
/// ```text
/// z = (x - mean) / sd        of the baseline's columns, sd as of a population
/// error(x) = |z - V Vᵀ z|    V: the first components, as many as pass `share` of the variance
/// ```
/// The error of a sample is the mean over its rows. It rises when rows leave the plane that the baseline lies in, and may
/// fall when they come closer to it; a shift within that plane is not seen. The thresholds are the mean and three standard
/// deviations (of a population) of the errors of the baseline's chunks. This is NannyML's definition, for numbers, with
/// rows that have missing values left out rather than filled with means; scikit-learn gives the same error.
///
/// # Source
/// NannyML's documentation, "Data Reconstruction with PCA". `tests/golden/multivariate.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{PcaReconstruction, Rows};
///
/// // Two columns that go together, and then do not.
/// let before: Vec<f64> = (0..600).flat_map(|i| [f64::from(i % 50), f64::from(i % 50 + i % 3)]).collect();
/// let after: Vec<f64> = (0..600).flat_map(|i| [f64::from(i % 50), f64::from(i * 7 % 50)]).collect();
/// let model = PcaReconstruction::fit(Rows::new(&before, 2)?, 0.65, 100)?;
/// let score = model.score(Rows::new(&after, 2)?, 0.95)?;
/// assert!(score.statistic > model.thresholds().1);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct PcaReconstruction {
    mean: Vec<f64>,
    sd: Vec<f64>,
    /// One component after the other.
    components: Vec<f64>,
    error: Estimate,
    /// Standard error of `error`.
    se: f64,
    thresholds: (f64, f64),
    skipped: u64,
}

/// What is stored, before it is known to be consistent.
#[derive(Deserialize)]
struct Parts {
    mean: Vec<f64>,
    sd: Vec<f64>,
    components: Vec<f64>,
    error: Estimate,
    se: f64,
    thresholds: (f64, f64),
    skipped: u64,
}

impl TryFrom<Parts> for PcaReconstruction {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { mean, sd, components, error, se, thresholds, skipped } = parts;
        if mean.is_empty() || mean.len() != sd.len() {
            return Err(Error::shape("sd", mean.len().max(1), sd.len()));
        }
        if components.is_empty() || !components.len().is_multiple_of(mean.len()) {
            return Err(Error::invalid("components", format!("must be rows of {} numbers", mean.len())));
        }
        let finite = mean.iter().chain(&sd).chain(&components).chain([&error.value, &se]).all(|x| x.is_finite());
        if !finite || sd.iter().any(|sd| *sd <= 0.0) {
            return Err(Error::invalid("sd", "must be positive, and all numbers finite"));
        }
        Ok(Self { mean, sd, components, error, se, thresholds, skipped })
    }
}

impl PcaReconstruction {
    /// Learns the components from the baseline, and the thresholds from chunks of `chunk_rows` of its rows in their order
    /// (the rest, if fewer, is a chunk too, as in NannyML). `share` of the variance to be passed is in (0, 1); NannyML's
    /// default is 0.65.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming an option out of range, `baseline` if it has fewer than two finite rows or more than
    /// 300 columns, or `share` if all components are needed to pass it: nothing could be seen.
    pub fn fit(baseline: Rows<'_>, share: f64, chunk_rows: usize) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::invalid("share", format!("must lie in (0, 1), got {share}")));
        }
        if chunk_rows == 0 {
            return Err(Error::invalid("chunk_rows", "must be at least 1"));
        }
        let p = baseline.columns();
        if p > MOST_COLUMNS {
            return Err(Error::invalid("baseline", format!("has {p} columns, at most {MOST_COLUMNS} can be fitted")));
        }
        let mut table = Table::finite(baseline);
        let n = table.rows();
        if n < 2 {
            return Err(Error::invalid("baseline", format!("has {n} finite rows, and 2 are needed")));
        }
        let standard = Standard::of(&[&table]);
        standard.apply(&mut table);
        let (values, vectors) = eigen(covariance(&table, &vec![0.0; p], n as f64), p);
        let all: f64 = values.iter().map(|v| v.max(0.0)).sum();
        let mut passed = 0.0;
        let mut kept = 0;
        while kept < p && (kept == 0 || passed <= share * all) {
            passed += values[kept].max(0.0);
            kept += 1;
        }
        if kept >= p {
            let reason =
                format!("needs all {p} components for {share} of the variance, which leaves no error, lower it");
            return Err(Error::invalid("share", reason));
        }
        let mut model = Self {
            mean: standard.mean,
            sd: standard.sd,
            components: vectors[..kept * p].to_vec(),
            error: Estimate::new(0.0, 0.0, 0.0, n as u64),
            se: 0.0,
            thresholds: (0.0, 0.0),
            skipped: table.skipped,
        };
        let errors: Vec<f64> = table.iter().map(|row| model.error_of(row)).collect();
        let (mean, se) = mean_error(&errors);
        let margin = two_sided_z(crate::metrics::DEFAULT_CONFIDENCE) * se;
        model.error = Estimate::new(mean, (mean - margin).max(0.0), mean + margin, n as u64);
        model.se = se;
        let chunks: Vec<f64> = errors.chunks(chunk_rows).map(|chunk| mean_error(chunk).0).collect();
        let count = chunks.len() as f64;
        let centre = chunks.iter().sum::<f64>() / count;
        let spread = (chunks.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / count).sqrt();
        model.thresholds = ((centre - 3.0 * spread).max(0.0), centre + 3.0 * spread);
        Ok(model)
    }

    /// Number of components that are kept.
    #[must_use]
    pub fn components(&self) -> usize {
        self.components.len() / self.mean.len()
    }

    /// The baseline's mean error, with its interval at 95 %.
    #[must_use]
    pub fn baseline_error(&self) -> Estimate {
        self.error
    }

    /// Errors of a chunk below or above which NannyML alerts.
    #[must_use]
    pub fn thresholds(&self) -> (f64, f64) {
        self.thresholds
    }

    /// The mean error of live rows, as statistic. The effect is its change relative to the baseline's error,
    /// `live / baseline - 1`, with an interval from the standard errors of both. There is no p-value: the components fit
    /// the baseline a little better than anything else.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the number of columns differs; [`Error::InvalidInput`] if there is no finite row, or
    /// `confidence` is not in (0, 1).
    pub fn score(&self, live: Rows<'_>, confidence: f64) -> Result<Comparison> {
        check_confidence(confidence)?;
        let p = self.mean.len();
        if live.columns() != p {
            return Err(Error::shape("live", p, live.columns()));
        }
        let mut table = Table::finite(live);
        if table.rows() == 0 {
            return Err(Error::invalid("live", format!("has no finite row ({} skipped)", table.skipped)));
        }
        Standard { mean: self.mean.clone(), sd: self.sd.clone() }.apply(&mut table);
        let errors: Vec<f64> = table.iter().map(|row| self.error_of(row)).collect();
        let (mean, se) = mean_error(&errors);
        let mut result = Comparison::new("pca_reconstruction", mean, [self.error.n, table.rows() as u64]);
        result.skipped = [self.skipped, table.skipped];
        let before = self.error.value;
        if before <= 0.0 || !mean.is_finite() {
            return Ok(result);
        }
        let ratio = mean / before;
        // One row has no standard error, and then there is no interval.
        let margin = two_sided_z(confidence) * (se / before).hypot(ratio * self.se / before);
        let interval = (table.rows() > 1).then_some(((ratio - 1.0 - margin).max(-1.0), ratio - 1.0 + margin));
        Ok(result.effect("relative change of the error", ratio - 1.0, interval, confidence))
    }

    /// Of a standardised row.
    fn error_of(&self, row: &[f64]) -> f64 {
        let mut rest = row.to_vec();
        for v in self.components.chunks_exact(row.len()) {
            let along: f64 = v.iter().zip(row).map(|(v, x)| v * x).sum();
            rest.iter_mut().zip(v).for_each(|(r, v)| *r -= along * v);
        }
        rest.iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}

/// Mean and its standard error.
fn mean_error(errors: &[f64]) -> (f64, f64) {
    let mut moments = Moments::default();
    errors.iter().for_each(|x| moments.add(*x));
    (moments.mean, (moments.variance() / errors.len() as f64).sqrt())
}

/// Sums of products of the columns less their centre, over `divisor`.
fn covariance(table: &Table, centre: &[f64], divisor: f64) -> Vec<f64> {
    let p = table.columns;
    let mut sums = vec![0.0; p * p];
    for row in table.iter() {
        for i in 0..p {
            let x = (row[i] - centre[i]) / divisor;
            for j in 0..=i {
                sums[i * p + j] += x * (row[j] - centre[j]);
            }
        }
    }
    for i in 0..p {
        for j in 0..i {
            sums[j * p + i] = sums[i * p + j];
        }
    }
    sums
}

/// Hotelling's two-sample T²: a shift of the means, in units of the rows' own spread.
///
/// ```text
/// T² = nm/(n + m) · (x̄ - ȳ)ᵀ S⁻¹ (x̄ - ȳ)         S: pooled covariance of the columns, over n + m - 2
/// F  = (n + m - p - 1) / ((n + m - 2)p) · T²     with p and n + m - p - 1 degrees of freedom, for p columns
/// ```
/// The effect is the Mahalanobis distance of the means, `sqrt((n + m)/(nm) · T²)`, one standard deviation being 1, with
/// the interval of the noncentral F distribution. p-value and interval suppose normal rows of one covariance; the first
/// holds for any distribution with many rows.
///
/// `ridge`, as a share of each column's variance, is added to the diagonal of `S` (0: plain). It lets columns depend on
/// each other; there is then neither p-value nor interval.
///
/// # Errors
/// - [`Error::InvalidInput`] if a side has fewer than two finite rows or both have fewer than `p + 2`, `ridge` is not in
///   [0, 1], `confidence` is not in (0, 1), or a column depends on those before it: the error names its number.
/// - [`Error::ShapeMismatch`] if the numbers of columns differ.
///
/// # Source
/// Hotelling (1931), doi:10.1214/aoms/1177732979. `tests/golden/multivariate.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Rows, hotelling};
///
/// let before = [1.0, 2.0, 2.0, 1.0, 3.0, 3.0, 4.0, 5.0];
/// let after = [11.0, 2.0, 12.0, 1.0, 13.0, 3.0, 14.0, 5.0];
/// let test = hotelling(Rows::new(&before, 2)?, Rows::new(&after, 2)?, 0.0, 0.95)?;
/// assert!(test.p_value.unwrap() < 0.001);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn hotelling(first: Rows<'_>, second: Rows<'_>, ridge: f64, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    if !(0.0..=1.0).contains(&ridge) {
        return Err(Error::invalid("ridge", format!("must lie in [0, 1], got {ridge}")));
    }
    let p = first.columns();
    if p > MOST_COLUMNS {
        return Err(Error::invalid("first", format!("has {p} columns, at most {MOST_COLUMNS} can be compared")));
    }
    let mut sides = both(first, second, 2)?;
    let [n, m] = [sides[0].rows() as f64, sides[1].rows() as f64];
    let df2 = n + m - p as f64 - 1.0;
    if df2 < 1.0 {
        return Err(Error::invalid("first", format!("both sides together need {} rows for {p} columns", p + 2)));
    }
    // The statistic does not change with the columns' units; the rounding does.
    let standard = Standard::of(&[&sides[0], &sides[1]]);
    sides.iter_mut().for_each(|side| standard.apply(side));
    let means = [Standard::of(&[&sides[0]]).mean, Standard::of(&[&sides[1]]).mean];
    let mut pooled = covariance(&sides[0], &means[0], n + m - 2.0);
    pooled.iter_mut().zip(covariance(&sides[1], &means[1], n + m - 2.0)).for_each(|(a, b)| *a += b);
    for i in 0..p {
        pooled[i * p + i] *= 1.0 + ridge;
    }
    let gap: Vec<f64> = means[0].iter().zip(&means[1]).map(|(a, b)| a - b).collect();
    if let Err(column) = cholesky(&mut pooled, p) {
        let reason =
            format!("column {column} (from 0) is constant or depends on those before it, drop it or set ridge");
        return Err(Error::invalid("first", reason));
    }
    let mut solved = gap.clone();
    solve_cholesky(&pooled, p, &mut solved);
    let distance2: f64 = solved.iter().zip(&gap).map(|(a, b)| a * b).sum::<f64>().max(0.0);
    let per_row = n * m / (n + m);
    let t2 = per_row * distance2;
    let mut result = Comparison::new("hotelling", t2, [n as u64, m as u64]);
    result.skipped = [sides[0].skipped, sides[1].skipped];
    let value = distance2.sqrt();
    if ridge > 0.0 {
        return Ok(result.effect("mahalanobis distance", value, None, confidence));
    }
    let p = p as f64;
    let f = df2 / ((n + m - 2.0) * p) * t2;
    let most = 4.0 * t2 + 40.0 * (1.0 + two_sided_z(confidence)) * (1.0 + t2.sqrt());
    // The sum over the mixture grows with the root of the noncentrality; far beyond it no interval is needed to decide.
    let interval = (t2 < 1e8).then(|| {
        let (low, high) = quantile_interval(|lambda| noncentral_f_sf(f, p, df2, lambda), most, confidence);
        ((low / per_row).sqrt().min(value), (high / per_row).sqrt().max(value))
    });
    Ok(result.p(f_sf(f, p, df2), PValueBy::Asymptotic).effect("mahalanobis distance", value, interval, confidence))
}
