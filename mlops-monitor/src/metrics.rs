//! Model quality from predictions and labels, each number with its interval.
//!
//! ```
//! use mlops_monitor::BinaryPerformance;
//!
//! let mut quality = BinaryPerformance::new();
//! for (prob, label) in [(0.9, true), (0.2, false), (0.6, false), (0.8, true)] {
//!     quality.update(prob, label)?;
//! }
//! let accuracy = quality.accuracy().expect("four rows");
//! assert_eq!(accuracy.to_string(), "0.750 [0.301, 0.954] (n = 4)");
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every metric
//! - Intervals are at 95 % where no level is given, and for one look at a fixed number of rows; for a number that is
//!   watched and acted upon as it grows see [`sequential`](crate::sequential).
//! - `a.merge(&b)` equals one accumulator fed both inputs: counts exactly, sums up to rounding.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Level of an interval where the caller names none.
pub const DEFAULT_CONFIDENCE: f64 = 0.95;

/// A value with an interval and the number of rows behind it.
///
/// # Examples
/// ```
/// let estimate = mlops_monitor::metrics::wilson(3_678, 4_368, 0.95)?;
/// assert_eq!(estimate.to_string(), "0.842 [0.831, 0.853] (n = 4,368)");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Point estimate.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Rows it was made from.
    pub n: u64,
}

impl Estimate {
    /// An estimate of any quantity.
    #[must_use]
    pub fn new(value: f64, low: f64, high: f64, n: u64) -> Self {
        Self { value, low, high, n }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high, n } = self;
        let digits = f.precision().unwrap_or(3);
        write!(f, "{value:.digits$} [{low:.digits$}, {high:.digits$}] (n = {})", grouped(*n))
    }
}

/// `4368` as `4,368`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share with its Wilson score interval.
///
/// ```text
/// p = successes / n,    (p + z²/2n ± z · sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
/// ```
/// The value is `p`; the interval lies in [0, 1] and has width above 0 for any `n`.
///
/// # Errors
/// [`Error::InvalidInput`] if `n` is 0, `successes > n`, or `confidence` is not in (0, 1).
///
/// # Source
/// Wilson (1927), doi:10.1080/01621459.1927.10502953; `tests/golden/wilson.json`.
///
/// # Examples
/// ```
/// let all_right = mlops_monitor::metrics::wilson(20, 20, 0.95)?;
/// assert!(all_right.low > 0.83 && all_right.high == 1.0); // 20 of 20 is not certainty
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn wilson(successes: u64, n: u64, confidence: f64) -> Result<Estimate> {
    check_confidence(confidence)?;
    if n == 0 {
        return Err(Error::invalid("n", "must be at least 1"));
    }
    if successes > n {
        return Err(Error::invalid("successes", format!("{successes} exceed n = {n}")));
    }
    Ok(wilson_unchecked(successes, n, confidence))
}

/// The `z` for which a standard normal variable lies in `[-z, z]` with probability `confidence`: the quantile in
/// [`wilson`] and in every other two-sided interval of that level.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// let z = mlops_monitor::metrics::z_two_sided(0.95)?;
/// assert!((z - 1.959_963_984_540_054).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn z_two_sided(confidence: f64) -> Result<f64> {
    check_confidence(confidence)?;
    Ok(two_sided_z(confidence))
}

fn wilson_unchecked(successes: u64, n: u64, confidence: f64) -> Estimate {
    let z = two_sided_z(confidence);
    let rows = n as f64;
    let p = successes as f64 / rows;
    let z2 = z * z;
    let centre = p + z2 / (2.0 * rows);
    let margin = z * (p * (1.0 - p) / rows + z2 / (4.0 * rows * rows)).sqrt();
    let scale = 1.0 + z2 / rows;
    // At the ends the exact bounds are 0 and 1; rounding would miss them.
    let low = if successes == 0 { 0.0 } else { ((centre - margin) / scale).max(0.0) };
    let high = if successes == n { 1.0 } else { ((centre + margin) / scale).min(1.0) };
    Estimate::new(p, low, high, n)
}

/// Share of equal entries, with its 95 % Wilson interval.
///
/// `predicted` and `labels` have shape `[rows]`.
///
/// # Errors
/// - [`Error::ShapeMismatch`] if the lengths differ.
/// - [`Error::InvalidInput`] if there is no row.
///
/// # Examples
/// ```
/// let accuracy = mlops_monitor::metrics::accuracy(&["cat", "dog", "dog"], &["cat", "dog", "cat"])?;
/// assert!((accuracy.value - 2.0 / 3.0).abs() < 1e-15);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn accuracy<T: PartialEq>(predicted: &[T], labels: &[T]) -> Result<Estimate> {
    if predicted.len() != labels.len() {
        return Err(Error::shape("labels", predicted.len(), labels.len()));
    }
    let right = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
    wilson(right as u64, labels.len() as u64, DEFAULT_CONFIDENCE)
}

/// Brier score of binary probabilities, with a 95 % interval.
///
/// ```text
/// Σ_i (prob_i - label_i)² / n     in [0, 1], lower is better
/// ```
/// `probs` (each in [0, 1]) and `labels` have shape `[rows]`. The interval is that of [`BinaryPerformance::brier`].
///
/// # Errors
/// - [`Error::ShapeMismatch`] if the lengths differ.
/// - [`Error::InvalidInput`] if there is no row or a probability is not in [0, 1].
///
/// # Source
/// Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2, halved as is usual for two classes.
///
/// # Examples
/// ```
/// let brier = mlops_monitor::metrics::brier(&[0.8, 0.4], &[true, false])?;
/// assert!((brier.value - 0.1).abs() < 1e-15);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn brier(probs: &[f64], labels: &[bool]) -> Result<Estimate> {
    if probs.len() != labels.len() {
        return Err(Error::shape("labels", probs.len(), labels.len()));
    }
    let mut quality = BinaryPerformance::new();
    for (prob, label) in probs.iter().zip(labels) {
        quality.update(*prob, *label)?;
    }
    quality.brier().ok_or_else(|| Error::invalid("probs", "needs at least one row"))
}

/// Quality of a binary classifier, accumulated row by row or shard by shard.
///
/// A row is the predicted probability of the positive class and the label; a probability of at least
/// [`threshold`](Self::threshold) (0.5) predicts the positive class.
///
/// # Examples
/// ```
/// use mlops_monitor::BinaryPerformance;
///
/// let (mut a, mut b) = (BinaryPerformance::new(), BinaryPerformance::new());
/// a.update(0.7, true)?;
/// b.update(0.4, true)?;
/// a.merge(&b)?;
/// assert_eq!((a.n(), a.true_positives(), a.false_negatives()), (2, 1, 1));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BinaryPerformance {
    threshold: f64,
    true_positives: u64,
    false_positives: u64,
    true_negatives: u64,
    false_negatives: u64,
    /// Mean and sum of squared deviations of the squared errors.
    brier_mean: f64,
    brier_deviations: f64,
    log_loss_sum: f64,
}

impl Default for BinaryPerformance {
    fn default() -> Self {
        Self::new()
    }
}

impl BinaryPerformance {
    /// No rows yet, threshold 0.5.
    #[must_use]
    pub fn new() -> Self {
        Self {
            threshold: 0.5,
            true_positives: 0,
            false_positives: 0,
            true_negatives: 0,
            false_negatives: 0,
            brier_mean: 0.0,
            brier_deviations: 0.0,
            log_loss_sum: 0.0,
        }
    }

    /// No rows yet, with another threshold.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `threshold` is not in [0, 1].
    pub fn with_threshold(threshold: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::invalid("threshold", format!("must lie in [0, 1], got {threshold}")));
        }
        Ok(Self { threshold, ..Self::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `prob` is not in [0, 1]; nothing is added then.
    pub fn update(&mut self, prob: f64, label: bool) -> Result<()> {
        if !(0.0..=1.0).contains(&prob) {
            return Err(Error::invalid("prob", format!("must lie in [0, 1], got {prob}")));
        }
        let cell = match (prob >= self.threshold, label) {
            (true, true) => &mut self.true_positives,
            (true, false) => &mut self.false_positives,
            (false, false) => &mut self.true_negatives,
            (false, true) => &mut self.false_negatives,
        };
        *cell = cell.saturating_add(1);
        let error = prob - f64::from(u8::from(label));
        let off = error * error - self.brier_mean;
        self.brier_mean += off / self.n() as f64;
        self.brier_deviations += off * (error * error - self.brier_mean);
        self.log_loss_sum -= (1.0 - error.abs()).max(f64::EPSILON).ln();
        Ok(())
    }

    /// Adds the rows of `other`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the thresholds differ; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.threshold != other.threshold {
            return Err(Error::invalid("other", format!("has threshold {}, not {}", other.threshold, self.threshold)));
        }
        let (n, m) = (self.n() as f64, other.n() as f64);
        if m > 0.0 {
            let off = other.brier_mean - self.brier_mean;
            self.brier_mean += off * m / (n + m);
            self.brier_deviations += other.brier_deviations + off * off * n * m / (n + m);
            self.log_loss_sum += other.log_loss_sum;
        }
        self.true_positives = self.true_positives.saturating_add(other.true_positives);
        self.false_positives = self.false_positives.saturating_add(other.false_positives);
        self.true_negatives = self.true_negatives.saturating_add(other.true_negatives);
        self.false_negatives = self.false_negatives.saturating_add(other.false_negatives);
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.predicted_positives().saturating_add(self.true_negatives).saturating_add(self.false_negatives)
    }

    /// Probability from which the positive class is predicted.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Rows rightly predicted positive.
    #[must_use]
    pub fn true_positives(&self) -> u64 {
        self.true_positives
    }

    /// Rows wrongly predicted positive.
    #[must_use]
    pub fn false_positives(&self) -> u64 {
        self.false_positives
    }

    /// Rows rightly predicted negative.
    #[must_use]
    pub fn true_negatives(&self) -> u64 {
        self.true_negatives
    }

    /// Rows wrongly predicted negative.
    #[must_use]
    pub fn false_negatives(&self) -> u64 {
        self.false_negatives
    }

    /// Rows rightly predicted.
    #[must_use]
    pub fn correct(&self) -> u64 {
        self.true_positives.saturating_add(self.true_negatives)
    }

    fn predicted_positives(&self) -> u64 {
        self.true_positives.saturating_add(self.false_positives)
    }

    /// Share of rows rightly predicted, with its Wilson interval; `None` without rows.
    #[must_use]
    pub fn accuracy(&self) -> Option<Estimate> {
        share(self.correct(), self.n())
    }

    /// Share of predicted positives that are positive, with its Wilson interval; `None` if none was predicted.
    #[must_use]
    pub fn precision(&self) -> Option<Estimate> {
        share(self.true_positives, self.predicted_positives())
    }

    /// Share of positives that were predicted positive, with its Wilson interval; `None` if there was none.
    #[must_use]
    pub fn recall(&self) -> Option<Estimate> {
        share(self.true_positives, self.true_positives.saturating_add(self.false_negatives))
    }

    /// Mean squared error of the probabilities, in [0, 1]; `None` without rows.
    ///
    /// With `v` the sample variance of the squared errors, the interval is
    ///
    /// ```text
    /// n >= 30:  mean ± z · sqrt(v/n)                                            (normal approximation)
    /// n <  30:  mean ± (sqrt(2 v ln(4/α) / n) + 7 ln(4/α) / (3(n - 1)))         (empirical Bernstein, any n)
    /// ```
    /// cut at 0 and 1, and [0, 1] for a single row. Equal squared errors always get the second form.
    ///
    /// # Source
    /// Maurer and Pontil (2009), arXiv:0907.3740, theorem 4, for both sides.
    #[must_use]
    pub fn brier(&self) -> Option<Estimate> {
        let n = self.n();
        if n == 0 {
            return None;
        }
        let mean = self.brier_mean.clamp(0.0, 1.0);
        if n == 1 {
            return Some(Estimate::new(mean, 0.0, 1.0, n));
        }
        let rows = n as f64;
        let variance = self.brier_deviations.max(0.0) / (rows - 1.0);
        let margin = if n >= 30 && variance > 0.0 {
            two_sided_z(DEFAULT_CONFIDENCE) * (variance / rows).sqrt()
        } else {
            let log_term = (4.0 / (1.0 - DEFAULT_CONFIDENCE)).ln();
            (2.0 * variance * log_term / rows).sqrt() + 7.0 * log_term / (3.0 * (rows - 1.0))
        };
        Some(Estimate::new(mean, (mean - margin).max(0.0), (mean + margin).min(1.0), n))
    }

    /// Mean of `-ln(probability given to the label)` in nats; `None` without rows.
    ///
    /// A probability below `f64::EPSILON` (2.2e-16) counts as that, so one row cannot make it infinite. It has no
    /// interval, because a loss without a bound has none that holds for every model.
    #[must_use]
    pub fn log_loss(&self) -> Option<f64> {
        (self.n() > 0).then(|| self.log_loss_sum / self.n() as f64)
    }
}

fn share(part: u64, whole: u64) -> Option<Estimate> {
    (whole > 0).then(|| wilson_unchecked(part, whole, DEFAULT_CONFIDENCE))
}
