//! Statistics for two models on the same rows.

use mlops_monitor::metrics::{Estimate, wilson};

use super::{check_confidence, invalid};
use crate::Result;

/// How two models did on the same rows: a cell for each pair of outcomes.
///
/// ```
/// use mlops_pipeline::gate::stats::Paired;
/// let paired = Paired::count(&[true, true, false], &[true, false, false]);
/// assert_eq!((paired.only_candidate, paired.only_champion, paired.n()), (1, 0, 3));
/// ```
#[allow(clippy::exhaustive_structs)] // the four cells are all there can be
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paired {
    /// Rows that both answered right.
    pub both: u64,
    /// Rows that only the candidate answered right.
    pub only_candidate: u64,
    /// Rows that only the champion answered right.
    pub only_champion: u64,
    /// Rows that neither answered right.
    pub neither: u64,
}

impl Paired {
    /// Counts two lists of outcomes of the same rows, up to the length of the shorter one.
    #[must_use]
    pub fn count(candidate: &[bool], champion: &[bool]) -> Self {
        let mut paired = Self::default();
        for outcome in candidate.iter().zip(champion) {
            *match outcome {
                (true, true) => &mut paired.both,
                (true, false) => &mut paired.only_candidate,
                (false, true) => &mut paired.only_champion,
                (false, false) => &mut paired.neither,
            } += 1;
        }
        paired
    }

    /// Rows in all.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.both + self.only_candidate + self.only_champion + self.neither
    }
}

/// Difference in accuracy, candidate minus champion, with Tango's score interval.
///
/// With `b` rows that only the candidate answered right, `c` that only the champion did, and `n` in all, the value is
/// `(b - c) / n`, and the limits are the two differences `δ` for which
///
/// ```text
/// (b - c - nδ) / sqrt(n (2q + δ(1 - δ))) = ±z
/// q = (sqrt(B² - 8nC) - B) / 4n,   B = (2n - b + c)δ - b - c,   C = -c δ (1 - δ)
/// ```
/// where `q` is the most likely share of "only the champion" rows if the difference were `δ`. The interval lies in
/// [-1, 1], has width above 0 for any counts, and holds its level in small samples where the usual (Wald) one does not.
/// For identical answers it is `± z² / (n + z²)`.
///
/// # Errors
/// [`Error::InvalidGate`](crate::Error::InvalidGate) if there is no row or `confidence` is not in (0, 1).
///
/// # Source
/// Tango (1998), Statistics in Medicine 17:891-908. `tests/golden/paired.json`.
///
/// # Examples
/// ```
/// use mlops_pipeline::gate::stats::{Paired, paired_difference};
/// let paired = Paired { both: 1, only_candidate: 1, only_champion: 7, neither: 12 };
/// let difference = paired_difference(&paired, 0.95)?;
/// assert_eq!(difference.to_string(), "-0.286 [-0.517, -0.026] (n = 21)");
/// # Ok::<(), mlops_pipeline::Error>(())
/// ```
pub fn paired_difference(paired: &Paired, confidence: f64) -> Result<Estimate> {
    check_confidence("paired difference", confidence)?;
    if paired.n() == 0 {
        return Err(invalid("paired difference", "there are no rows"));
    }
    let z = z_of(confidence)?;
    let (n, b, c) = (paired.n() as f64, paired.only_candidate as f64, paired.only_champion as f64);
    let score = |delta: f64| {
        let big_b = (2.0 * n - b + c) * delta - b - c;
        let root = (big_b * big_b + 8.0 * n * c * delta * (1.0 - delta)).max(0.0).sqrt();
        let q = ((root - big_b) / (4.0 * n)).max(0.0);
        let variance = n * (2.0 * q + delta * (1.0 - delta)).max(0.0);
        let distance = b - c - n * delta;
        if variance > 0.0 { distance / variance.sqrt() } else { distance.signum() * f64::INFINITY }
    };
    let value = (b - c) / n;
    // The score falls from +∞ to -∞ as δ goes from -1 to 1, and is 0 at the value.
    let solve = |mut below: f64, mut above: f64, target: f64| {
        for _ in 0..200 {
            let middle = 0.5 * (below + above);
            if middle <= below || middle >= above {
                break;
            }
            if score(middle) > target { below = middle } else { above = middle }
        }
        0.5 * (below + above)
    };
    let low = if value <= -1.0 { -1.0 } else { solve(-1.0, value, z) };
    let high = if value >= 1.0 { 1.0 } else { solve(value, 1.0, -z) };
    Ok(Estimate::new(value, low, high, paired.n()))
}

/// McNemar's exact test, two-sided: how likely a split of the discordant rows at least this uneven is, if candidate and
/// champion are equally good.
///
/// ```text
/// p = min(1, 2 · P(X <= min(b, c))),   X ~ Binomial(b + c, 1/2)
/// ```
/// The result is in (0, 1], and 1 without discordant rows.
///
/// # Source
/// McNemar (1947), doi:10.1007/BF02295996, with the binomial distribution. `tests/golden/paired.json`.
///
/// # Examples
/// ```
/// use mlops_pipeline::gate::stats::{Paired, mcnemar_exact};
/// let paired = Paired { both: 1, only_candidate: 1, only_champion: 7, neither: 12 };
/// assert!((mcnemar_exact(&paired) - 0.0703125).abs() < 1e-12);
/// ```
#[must_use]
pub fn mcnemar_exact(paired: &Paired) -> f64 {
    let few = paired.only_candidate.min(paired.only_champion);
    let n = paired.only_candidate + paired.only_champion;
    if 2 * few == n {
        return 1.0;
    }
    // From the largest term downwards, until what is left cannot change the sum.
    let mut term = (ln_factorial(n) - ln_factorial(few) - ln_factorial(n - few) - n as f64 * 2_f64.ln()).exp();
    let mut sum = term;
    for k in (1..=few).rev() {
        term *= k as f64 / (n - k + 1) as f64;
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    (2.0 * sum).min(1.0)
}

/// `ln n!`: a sum where that is short, else Stirling's series, whose next term is below 1e-19 from there on.
fn ln_factorial(n: u64) -> f64 {
    if n < 256 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + series
}

/// `z` such that a standard normal lies in `[-z, z]` with that probability.
fn z_of(confidence: f64) -> Result<f64> {
    // Wilson's lower limit for one success in one trial is 1 / (1 + z²): one quantile function serves both crates.
    let low = share(1, 1, confidence)?.low;
    Ok((1.0 / low - 1.0).max(0.0).sqrt())
}

/// A share with its Wilson interval.
pub(super) fn share(part: u64, whole: u64, confidence: f64) -> Result<Estimate> {
    wilson(part, whole, confidence).map_err(|error| invalid("share", error.to_string()))
}
