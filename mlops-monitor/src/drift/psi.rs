//! Population stability index over quantile bins.

use serde::{Deserialize, Serialize};

use super::{DriftDetector, DriftScore, Effect, sorted_finite};
use crate::error::{check_alert_at, check_confidence};
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Population stability index (PSI) between two binned samples.
///
/// ```text
/// PSI = Σ_i (e_i - o_i) · ln(e_i / o_i)
/// ```
/// `expected` and `observed` have shape `[bins]`; entry `i` is the share of rows in bin `i`,
/// in `(0, 1]`. The result is in nats, `>= 0`, symmetric, and 0 only for equal inputs.
///
/// # Errors
/// - [`Error::ShapeMismatch`] if the lengths differ.
/// - [`Error::InvalidInput`] if there is no bin, or a share is not in `(0, 1]`: smoothing changes the result,
///   so it is the caller's.
///
/// # Source
/// The symmetric divergence of doi:10.1214/aoms/1177729694, over bins; `tests/golden/psi.json`.
///
/// # Examples
/// ```
/// let psi = mlops_monitor::psi(&[0.5, 0.5], &[0.4, 0.6])?;
/// assert!((psi - 0.0405).abs() < 1e-4);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn psi(expected: &[f64], observed: &[f64]) -> Result<f64> {
    if expected.len() != observed.len() {
        return Err(Error::shape("observed", expected.len(), observed.len()));
    }
    if expected.is_empty() {
        return Err(Error::invalid("expected", "needs at least one bin"));
    }
    let mut sum = 0.0;
    for (i, (&e, &o)) in expected.iter().zip(observed).enumerate() {
        for (what, share) in [("expected", e), ("observed", o)] {
            if !(share > 0.0 && share <= 1.0) {
                return Err(Error::invalid(what, format!("share {i} must lie in (0, 1], got {share}")));
            }
        }
        // Two logarithms, because the quotient of two shares can overflow.
        sum += (e - o) * (e.ln() - o.ln());
    }
    Ok(sum)
}

/// Rows per bin of one sample: what a shard sends instead of its rows.
///
/// # Examples
/// ```
/// use mlops_monitor::PsiDetector;
///
/// let detector = PsiDetector::builder().bins(4).fit(&[1.0, 2.0, 3.0, 4.0])?;
/// let mut counts = detector.bin_counts(&[0.5, 3.5]);
/// counts.merge(&detector.bin_counts(&[9.0, f64::NAN]))?;
/// assert_eq!(counts, detector.bin_counts(&[0.5, 3.5, 9.0, f64::NAN]));
/// assert_eq!((counts.rows(), counts.skipped()), (3, 1));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinCounts {
    counts: Vec<u64>,
    skipped: u64,
}

impl BinCounts {
    pub(crate) fn new(counts: Vec<u64>, skipped: u64) -> Self {
        Self { counts, skipped }
    }

    /// Counts `values` between `edges`, which are ascending and belong to the bin below.
    pub(crate) fn of(edges: &[f64], values: &[f64]) -> Self {
        let mut counts = vec![0_u64; edges.len() + 1];
        let mut skipped = 0;
        for &x in values {
            if !x.is_finite() {
                skipped += 1;
                continue;
            }
            // Up to this many edges, comparing with all of them beats a search with its unpredictable branches.
            let bin = if edges.len() <= 32 {
                edges.iter().map(|e| usize::from(*e < x)).sum()
            } else {
                edges.partition_point(|e| *e < x)
            };
            counts[bin] += 1;
        }
        Self { counts, skipped }
    }

    /// Rows in each bin, lowest bin first.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Finite rows: the sum over the bins.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.counts.iter().fold(0, |sum, c| sum.saturating_add(*c))
    }

    /// Rows whose value was not finite; they are in no bin.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Adds the rows of `other`, which must come from the same detector.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the number of bins differs; `self` is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.counts.len() != other.counts.len() {
            return Err(Error::shape("other", self.counts.len(), other.counts.len()));
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.skipped = self.skipped.saturating_add(other.skipped);
        Ok(())
    }
}

/// Compares live values with a baseline by PSI over the baseline's quantile bins.
///
/// It keeps bin edges and counts only, so it fits in a model package, and [`BinCounts`] of shards can be joined
/// and scored in one place.
///
/// # Bins
/// `bins - 1` edges at the baseline's quantiles `k / bins` (lower empirical quantile). Equal edges are joined; a
/// value that alone holds more than one bin's share of the rows gets a bin of its own, so a constant or heavily
/// tied column is compared exactly. A value beyond the baseline's range falls in the outer bin.
///
/// # Estimate
/// With `n` baseline rows, `m` live rows and `B` bins that are not empty on both sides:
///
/// ```text
/// p_i = (a_i + 1/2) / (n + B/2)          q_i likewise from the live counts
/// statistic = PSI(p, q)
/// effect    = max(0, statistic - (B - 1)(1/n + 1/m))
/// se²       = Var_p(ln(p/q) + 1 - q/p)/n + Var_q(ln(q/p) + 1 - p/q)/m + 2(B - 1)(1/n + 1/m)²
/// interval  = effect ± z · se, cut at 0
/// ```
/// Half a row in every bin keeps an empty one finite and pulls both samples towards equal shares, by at most
/// `B/2` rows. Without drift the plug-in statistic is on average `(B - 1)(1/n + 1/m)`, not 0: this is subtracted.
/// The last term of `se²` is the spread of that noise, which the first-order terms miss when `p = q`.
/// The interval is approximate: below `min_rows` on either side no verdict is given.
///
/// # Source
/// Noise and its spread: `nm/(n+m) · PSI` is asymptotically chi-square with `B - 1` degrees of freedom when
/// nothing changed (Yurdakul and Naranjo 2020, doi:10.21314/JRMV.2020.227); the rest is the delta method.
/// `tests/golden/psi.json`; coverage is simulated in `tests/it/simulation.rs`.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::{DriftDetector, PsiDetector};
///
/// let baseline: Vec<f64> = (0..5_000).map(f64::from).collect();
/// let detector = PsiDetector::builder().fit(&baseline)?;
/// let tail: Vec<f64> = (4_000..5_000).map(f64::from).collect();
/// assert_eq!(detector.score(&tail)?.verdict, Verdict::Fail);
/// assert_eq!(detector.score(&tail[..8])?.verdict, Verdict::Inconclusive); // eight rows prove nothing
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct PsiDetector {
    edges: Vec<f64>,
    baseline: BinCounts,
    alert_at: f64,
    confidence: f64,
    min_rows: u64,
}

/// What is stored, before it is known to be consistent.
#[derive(Deserialize)]
struct Parts {
    edges: Vec<f64>,
    baseline: BinCounts,
    alert_at: f64,
    confidence: f64,
    min_rows: u64,
}

impl TryFrom<Parts> for PsiDetector {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { edges, baseline, alert_at, confidence, min_rows } = parts;
        if baseline.counts.len() != edges.len() + 1 {
            return Err(Error::shape("baseline", edges.len() + 1, baseline.counts.len()));
        }
        if !edges.iter().all(|e| e.is_finite()) || !edges.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("edges", "must be finite and ascending"));
        }
        check_options(alert_at, confidence)?;
        Ok(Self { edges, baseline, alert_at, confidence, min_rows })
    }
}

/// Options of a [`PsiDetector`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `fit`"]
pub struct PsiDetectorBuilder {
    bins: usize,
    alert_at: f64,
    confidence: f64,
    min_rows: u64,
}

impl PsiDetectorBuilder {
    /// Number of quantile bins, 2 to 1000 (default 10).
    pub fn bins(mut self, bins: usize) -> Self {
        self.bins = bins;
        self
    }

    /// PSI from which a change counts as drift, in nats (default 0.2, a convention).
    pub fn alert_at(mut self, alert_at: f64) -> Self {
        self.alert_at = alert_at;
        self
    }

    /// Coverage of the interval that the verdict rests on, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// Finite rows that each side needs before a verdict is given (default 30, a convention: the interval is a
    /// large-sample approximation).
    pub fn min_rows(mut self, min_rows: u64) -> Self {
        self.min_rows = min_rows;
        self
    }

    /// Learns the bin edges and shares from `baseline`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range, or `baseline` if it has no finite value.
    pub fn fit(self, baseline: &[f64]) -> Result<PsiDetector> {
        let Self { bins, alert_at, confidence, min_rows } = self;
        if !(2..=1_000).contains(&bins) {
            return Err(Error::invalid("bins", format!("must lie in 2..=1000, got {bins}")));
        }
        check_options(alert_at, confidence)?;
        let (sorted, skipped) = sorted_finite(baseline);
        if sorted.is_empty() {
            return Err(Error::invalid("baseline", format!("has no finite value ({skipped} skipped)")));
        }
        let edges = quantile_edges(&sorted, bins);
        let mut detector = PsiDetector {
            baseline: BinCounts { counts: vec![0; edges.len() + 1], skipped: 0 },
            edges,
            alert_at,
            confidence,
            min_rows,
        };
        detector.baseline = detector.bin_counts(&sorted);
        detector.baseline.skipped = skipped;
        Ok(detector)
    }
}

fn check_options(alert_at: f64, confidence: f64) -> Result<()> {
    check_alert_at(alert_at, f64::MAX)?;
    check_confidence(confidence)
}

/// Upper edges (inclusive) of all bins but the last.
fn quantile_edges(sorted: &[f64], bins: usize) -> Vec<f64> {
    let n = sorted.len();
    let mut edges: Vec<f64> = Vec::with_capacity(bins - 1);
    let mut previous = None;
    for k in 1..bins {
        // Adding 0 turns -0 into 0, so that equal values give one edge. k·n cannot overflow for k < 1000.
        let value = sorted[(k * n).div_ceil(bins) - 1] + 0.0;
        if previous == Some(value) {
            continue;
        }
        previous = Some(value);
        let rows = sorted.partition_point(|x| *x <= value) - sorted.partition_point(|x| *x < value);
        let below = value.next_down();
        let alone = rows > 1 && rows * bins > n;
        if alone && below.is_finite() && edges.last().is_none_or(|last| *last < below) {
            edges.push(below);
        }
        edges.push(value);
    }
    edges
}

impl PsiDetector {
    /// Options with their defaults; finish with [`PsiDetectorBuilder::fit`].
    pub fn builder() -> PsiDetectorBuilder {
        PsiDetectorBuilder { bins: 10, alert_at: 0.2, confidence: 0.95, min_rows: 30 }
    }

    /// Upper edges of all bins but the last, each belonging to the bin below it; ascending.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// The baseline's rows per bin.
    #[must_use]
    pub fn baseline(&self) -> &BinCounts {
        &self.baseline
    }

    /// Counts `values` into the baseline's bins.
    #[must_use]
    pub fn bin_counts(&self, values: &[f64]) -> BinCounts {
        BinCounts::of(&self.edges, values)
    }

    /// Scores counts made by [`bin_counts`](Self::bin_counts), merged from any number of shards.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the counts come from a detector with another number of bins.
    pub fn score_counts(&self, live: &BinCounts) -> Result<DriftScore> {
        if live.counts.len() != self.baseline.counts.len() {
            return Err(Error::shape("live", self.baseline.counts.len(), live.counts.len()));
        }
        let (n, m) = (self.baseline.rows(), live.rows());
        let mut effect = Effect::new("psi above noise", 0.0, None, None, self.confidence);
        let mut statistic = 0.0;
        if n > 0 && m > 0 {
            let (raw, estimate, se) = estimate(&self.baseline.counts, &live.counts, n as f64, m as f64);
            statistic = raw;
            effect.value = estimate;
            if n.min(m) >= self.min_rows.max(1) {
                let margin = two_sided_z(self.confidence) * se;
                effect.low = Some((estimate - margin).max(0.0));
                effect.high = Some(estimate + margin);
            }
        }
        let mut score = DriftScore::new(self.name(), statistic, effect, self.alert_at);
        score.n_baseline = n;
        score.n_live = m;
        score.skipped_baseline = self.baseline.skipped;
        score.skipped_live = live.skipped;
        Ok(score)
    }
}

impl DriftDetector for PsiDetector {
    fn name(&self) -> &str {
        "psi"
    }

    fn score(&self, live: &[f64]) -> Result<DriftScore> {
        self.score_counts(&self.bin_counts(live))
    }
}

/// Plug-in PSI, the same less its noise, and the standard error, as in the docs of [`PsiDetector`].
pub(crate) fn estimate(baseline: &[u64], live: &[u64], n: f64, m: f64) -> (f64, f64, f64) {
    let occupied = || baseline.iter().zip(live).filter(|(a, b)| **a > 0 || **b > 0);
    let bins = occupied().count() as f64;
    let (mut psi, mut mean_p, mut square_p, mut mean_q, mut square_q) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in occupied() {
        let p = (*a as f64 + 0.5) / (n + 0.5 * bins);
        let q = (*b as f64 + 0.5) / (m + 0.5 * bins);
        let log_ratio = (p / q).ln();
        psi += (p - q) * log_ratio;
        let (slope_p, slope_q) = (log_ratio + 1.0 - q / p, 1.0 - log_ratio - p / q);
        mean_p += p * slope_p;
        square_p += p * slope_p * slope_p;
        mean_q += q * slope_q;
        square_q += q * slope_q * slope_q;
    }
    let rate = 1.0 / n + 1.0 / m;
    let first_order = (square_p - mean_p * mean_p).max(0.0) / n + (square_q - mean_q * mean_q).max(0.0) / m;
    let se = (first_order + 2.0 * (bins - 1.0) * rate * rate).sqrt();
    (psi, (psi - (bins - 1.0) * rate).max(0.0), se)
}
