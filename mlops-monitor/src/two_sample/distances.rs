//! Distances and divergences of shares of categories.

use serde::{Deserialize, Serialize};

use super::{Comparison, CountTable};
use crate::drift::psi_estimate;
use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// The logarithm in a divergence: the unit of its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogBase {
    /// Bits: the Jensen–Shannon divergence is at most 1.
    #[default]
    Two,
    /// Nats: it is at most ln 2.
    E,
}

impl LogBase {
    fn ln(self) -> f64 {
        match self {
            Self::Two => std::f64::consts::LN_2,
            Self::E => 1.0,
        }
    }
}

/// A smooth divergence that is near `curvature · Σ (p - q)²/p` for close shares.
struct Smooth {
    name: &'static str,
    effect: &'static str,
    curvature: f64,
}

impl Smooth {
    /// `terms` gives the term of a category with its slopes in `p` and `q`. See [`jensen_shannon`] for the estimate.
    fn estimate(
        self,
        table: &CountTable,
        shares: impl Iterator<Item = (f64, f64)>,
        level: f64,
        terms: impl Fn(f64, f64) -> (f64, f64, f64),
    ) -> Comparison {
        let (n, m) = (table.n as f64, table.m as f64);
        let (mut sum, mut mean, mut square) = (0.0, [0.0; 2], [0.0; 2]);
        for (p, q) in shares {
            let (term, slope_p, slope_q) = terms(p, q);
            sum += term;
            for (side, share, slope) in [(0, p, slope_p), (1, q, slope_q)] {
                // A category that a side does not have adds nothing to its variance.
                if share > 0.0 {
                    mean[side] += share * slope;
                    square[side] += share * slope * slope;
                }
            }
        }
        let sum = f64::max(sum, 0.0);
        let rate = 1.0 / n + 1.0 / m;
        let df = table.first().len() as f64 - 1.0;
        let noise = self.curvature * df * rate;
        let variance = [0, 1].map(|side: usize| f64::max(square[side] - mean[side] * mean[side], 0.0));
        let se = (variance[0] / n + variance[1] / m + 2.0 * df * (self.curvature * rate).powi(2)).sqrt();
        let value = (sum - noise).max(0.0);
        let margin = two_sided_z(level) * se;
        Comparison::new(self.name, sum, [table.n, table.m]).effect(
            self.effect,
            value,
            Some(((value - margin).max(0.0), value + margin)),
            level,
        )
    }
}

/// Jensen–Shannon distance and divergence of two samples' shares.
///
/// ```text
/// JSD = ½ Σ p ln(p/c) + ½ Σ q ln(q/c)        c = (p + q)/2; distance = sqrt(JSD)
/// ```
/// The statistic is the distance, as `scipy.spatial.distance.jensenshannon`: in [0, 1] for [`LogBase::Two`]. (NannyML
/// takes base 2, Evidently base e.) Nothing is smoothed, as nothing is infinite.
///
/// The effect is the divergence above its noise:
///
/// ```text
/// effect   = max(0, JSD - (B - 1)(1/n + 1/m)/8)      B: categories
/// se²      = Var_p(∂JSD/∂p)/n + Var_q(∂JSD/∂q)/m + 2(B - 1)((1/n + 1/m)/8)²
/// interval = effect ± z · se, cut at its bounds
/// ```
/// The noise is what the divergence is on average without drift, the last term its spread: those of
/// [`PsiDetector`](crate::PsiDetector) over 8, as are the divergences for close shares. For many rows in each category.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Lin (1991), doi:10.1109/18.61115; Endres and Schindelin (2003), doi:10.1109/TIT.2003.813506.
/// `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, LogBase, jensen_shannon};
///
/// let apart = CountTable::from_counts(&[10, 0], &[0, 10])?;
/// assert_eq!(jensen_shannon(&apart, LogBase::Two, 0.95)?.statistic, 1.0);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn jensen_shannon(table: &CountTable, base: LogBase, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let smooth = Smooth { name: "jensen_shannon", effect: "divergence above noise", curvature: 0.125 / base.ln() };
    let unit = 0.5 / base.ln();
    let mut result = smooth.estimate(table, table.shares(), confidence, |p, q| {
        let c = 0.5 * (p + q);
        let log = |x: f64| if x > 0.0 { (x / c).ln() } else { 0.0 };
        (unit * (p * log(p) + q * log(q)), unit * log(p), unit * log(q))
    });
    let most = std::f64::consts::LN_2 / base.ln();
    result.statistic = result.statistic.min(most).sqrt();
    if let Some(effect) = &mut result.effect {
        effect.value = effect.value.min(most);
        effect.high = effect.high.map(|high| high.min(most));
    }
    Ok(result)
}

/// Hellinger distance of two samples' shares.
///
/// ```text
/// H = sqrt(½ Σ (√p - √q)²) = sqrt(1 - Σ √(pq))
/// ```
/// in [0, 1]. Nothing is smoothed. The effect is `H²` above its noise, with the estimate of [`jensen_shannon`].
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Hellinger (1909), doi:10.1515/crll.1909.136.210. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, hellinger};
///
/// let table = CountTable::from_counts(&[1, 1], &[1, 0])?;
/// assert!((hellinger(&table, 0.95)?.statistic.powi(2) - (1.0 - 0.5_f64.sqrt())).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn hellinger(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let smooth = Smooth { name: "hellinger", effect: "squared distance above noise", curvature: 0.125 };
    let mut result = smooth.estimate(table, table.shares(), confidence, |p, q| {
        let (p, q) = (p.sqrt(), q.sqrt());
        let slope = |a: f64, b: f64| if a > 0.0 { 0.5 * (1.0 - b / a) } else { 0.0 };
        (0.5 * (p - q).powi(2), slope(p, q), slope(q, p))
    });
    result.statistic = result.statistic.min(1.0).sqrt();
    if let Some(effect) = &mut result.effect {
        effect.value = effect.value.min(1.0);
        effect.high = effect.high.map(|high| high.min(1.0));
    }
    Ok(result)
}

/// Kullback–Leibler divergence of the second sample's shares from the first's.
///
/// ```text
/// KL = Σ p ln(p/q)          p, q: (rows + s) / (all rows + B s) of the first and the second
/// ```
/// in nats; not symmetric. `s` is `smoothing`, rows added to each of the `B` categories on both sides: ½ is usual and
/// that of [`PsiDetector`](crate::PsiDetector). With 0 it is the plain divergence, which is infinite, here an error, where
/// the second has no row in a category of the first. The effect is the divergence above its noise, with the estimate of
/// [`jensen_shannon`] and `½` in place of `1/8`.
///
/// # Errors
/// [`Error::InvalidInput`] if `smoothing` is negative or not finite, is 0 where it is needed, or `confidence` is not in
/// (0, 1).
///
/// # Source
/// Kullback and Leibler (1951), doi:10.1214/aoms/1177729694. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, kl};
///
/// let table = CountTable::from_counts(&[50, 50], &[100, 0])?;
/// assert!(kl(&table, 0.0, 0.95).is_err());
/// assert!((kl(&table, 0.5, 0.95)?.statistic - 1.963_468).abs() < 1e-6);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn kl(table: &CountTable, smoothing: f64, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    if !(0.0..=1e9).contains(&smoothing) {
        return Err(Error::invalid("smoothing", format!("must lie in [0, 1e9], got {smoothing}")));
    }
    if smoothing == 0.0 && table.first().iter().zip(table.second()).any(|(a, b)| *a > 0 && *b == 0) {
        let reason = "must be positive where the second side has no row in a category of the first";
        return Err(Error::invalid("smoothing", reason));
    }
    let categories = table.first().len() as f64;
    let (n, m) = (table.n as f64 + categories * smoothing, table.m as f64 + categories * smoothing);
    let shares = table.pairs().map(|(a, b)| ((a + smoothing) / n, (b + smoothing) / m));
    let smooth = Smooth { name: "kl", effect: "divergence above noise", curvature: 0.5 };
    Ok(smooth.estimate(table, shares, confidence, |p, q| {
        if p == 0.0 {
            return (q, 0.0, 1.0);
        }
        // p ln(p/q) - p + q: the same sum, of terms that are all positive.
        let log = (p / q).ln();
        (p * log - p + q, log, 1.0 - p / q)
    }))
}

/// Population stability index of two samples' shares, in nats.
///
/// Half a row is added to each category on both sides, and effect and interval are those of
/// [`PsiDetector`](crate::PsiDetector), which documents them; the statistic is the plain index of the smoothed shares.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, psi_of_counts};
///
/// let table = CountTable::from_counts(&[500, 500], &[400, 600])?;
/// assert!((psi_of_counts(&table, 0.95)?.statistic - 0.0404).abs() < 1e-4);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn psi_of_counts(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let (statistic, value, se) = psi_estimate(table.first(), table.second(), table.n as f64, table.m as f64);
    let margin = two_sided_z(confidence) * se;
    let interval = ((value - margin).max(0.0), value + margin);
    Ok(Comparison::new("psi", statistic, [table.n, table.m]).effect(
        "psi above noise",
        value,
        Some(interval),
        confidence,
    ))
}

/// Total variation distance: the share of rows that would have to change category.
///
/// ```text
/// TV = ½ Σ |p - q|
/// ```
/// in [0, 1]; nothing is smoothed. The interval holds for any shares and numbers of rows, and is wide for many
/// categories: `TV ± Σ_sides (½ sqrt((B - 1)/n) + sqrt(ln(2/α) / 2n))`, from the mean of the error of a side and
/// McDiarmid's inequality, with half of `α = 1 - confidence` for each side.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Mean error: Cauchy–Schwarz; McDiarmid (1989), doi:10.1017/CBO9781107359949.008. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, total_variation};
///
/// let table = CountTable::from_counts(&[30, 70], &[50, 50])?;
/// assert!((total_variation(&table, 0.95)?.statistic - 0.2).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn total_variation(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let distance = (0.5 * table.shares().map(|(p, q)| (p - q).abs()).sum::<f64>()).min(1.0);
    let (df, alpha) = (table.first().len() as f64 - 1.0, 1.0 - confidence);
    let error = |rows: f64| 0.5 * (df / rows).sqrt() + ((2.0 / alpha).ln() / (2.0 * rows)).sqrt();
    Ok(bounded("total_variation", "share of rows", distance, error, table, confidence))
}

/// Largest change of a category's share.
///
/// ```text
/// L∞ = max |p - q|
/// ```
/// in [0, 1]; nothing is smoothed. The interval holds for any shares and numbers of rows: a share is a step of a
/// distribution function, so its error is at most twice the one that Dvoretzky, Kiefer, Wolfowitz and Massart bound,
/// `L∞ ± Σ_sides 2 sqrt(ln(4/α) / 2n)`, and no more than that of `2B` Hoeffding bounds a side, `sqrt(ln(4B/α) / 2n)`.
///
/// # Errors
/// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
///
/// # Source
/// Massart (1990), doi:10.1214/aop/1176990746; Hoeffding (1963), doi:10.1080/01621459.1963.10500830.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{CountTable, l_infinity};
///
/// let table = CountTable::from_counts(&[30, 70, 0], &[50, 40, 10])?;
/// assert!((l_infinity(&table, 0.95)?.statistic - 0.3).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn l_infinity(table: &CountTable, confidence: f64) -> Result<Comparison> {
    check_confidence(confidence)?;
    let distance = table.shares().map(|(p, q)| (p - q).abs()).fold(0.0, f64::max);
    let (categories, alpha) = (table.first().len() as f64, 1.0 - confidence);
    let factor = (2.0 * (4.0 / alpha).ln().sqrt()).min((4.0 * categories / alpha).ln().sqrt());
    let error = |rows: f64| factor / (2.0 * rows).sqrt();
    Ok(bounded("l_infinity", "change of a share", distance, error, table, confidence))
}

fn bounded(
    name: &str,
    effect: &str,
    distance: f64,
    error: impl Fn(f64) -> f64,
    table: &CountTable,
    confidence: f64,
) -> Comparison {
    let margin = error(table.n as f64) + error(table.m as f64);
    let interval = ((distance - margin).max(0.0), (distance + margin).min(1.0));
    Comparison::new(name, distance, [table.n, table.m]).effect(effect, distance, Some(interval), confidence)
}
