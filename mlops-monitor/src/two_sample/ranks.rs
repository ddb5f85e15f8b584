//! Mann–Whitney and Anderson–Darling tests.

use serde::{Deserialize, Serialize};

use super::numeric::{Pass, finish, walk};
use super::sorted::check_sides;
use super::tails::{anderson_darling_sf, normal_two_sided, root};
use super::{Comparison, Method, PValueBy, Sorted};
use crate::error::check_confidence;
use crate::special::two_sided_z;
use crate::{Error, Result};

/// Rows on the smaller side up to which [`mann_whitney`] is exact unless told otherwise.
const EXACT: u64 = 8;
/// Largest `n · m` for which it can be: the number of values of `U`.
const EXACT_VALUES: u64 = 2_000_000;
/// Largest `n + m` for which the number of divisions is a finite `f64`.
const EXACT_ROWS: u64 = 1_000;

/// Mann–Whitney U test (Wilcoxon's rank sum), two-sided.
///
/// ```text
/// U = #{x > y} + ½ #{x = y}         over all pairs of a row x of the first side and y of the second
/// ```
/// The effect is `U/(nm) = P(X > Y) + ½ P(X = Y)`, the common-language effect size or area under the ROC curve: ½ for
/// no shift. Its interval is DeLong's, from the variances of the placements of both sides, on the logit scale with half
/// a pair added at either end; where these variances are 0 (the sides do not overlap, or are constants), it is
/// Newcombe's method 5.
///
/// [`Method::Auto`] is exact without ties if a side has at most 8 rows and `nm` is at most 2,000,000, else normal with
/// corrections for ties and continuity. Two equal constants have p-value 1.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value, `confidence` is not in (0, 1), or [`Method::Exact`] is asked
/// for with ties, with `nm` above 2,000,000, or with both sides above 8 and more than 1,000 rows together.
///
/// # Source
/// Mann and Whitney (1947), doi:10.1214/aoms/1177730491; DeLong, DeLong and Clarke-Pearson (1988), doi:10.2307/2531595;
/// Newcombe (2006), doi:10.1002/sim.2324. `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Method, Sorted, mann_whitney};
///
/// let (a, b) = (Sorted::new(&[5.0, 6.0, 7.0]), Sorted::new(&[1.0, 2.0, 6.5]));
/// let test = mann_whitney(&a, &b, Method::Auto, 0.95)?;
/// assert_eq!((test.statistic, test.effect.unwrap().value), (7.0, 7.0 / 9.0));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn mann_whitney(first: &Sorted, second: &Sorted, method: Method, confidence: f64) -> Result<Comparison> {
    check_sides(first, second, 1)?;
    walk(first, second, MannWhitney::default()).finish(first, second, method, confidence)
}

#[derive(Default)]
pub(super) struct MannWhitney {
    /// Twice U.
    double: u128,
    /// Σ (t³ - t) over groups of tied rows.
    ties: u128,
    /// Σ (2 · placement)² of the first side among the second, and the other way.
    squares: [u128; 2],
}

impl Pass for MannWhitney {
    #[inline(always)]
    fn value(&mut self, _: f64, below: [u64; 2], at: [u64; 2]) {
        let of_first = 2 * below[1] + at[1];
        let of_second = 2 * below[0] + at[0];
        self.double += u128::from(at[0]) * u128::from(of_first);
        self.squares[0] += u128::from(at[0]) * (u128::from(of_first) * u128::from(of_first));
        self.squares[1] += u128::from(at[1]) * (u128::from(of_second) * u128::from(of_second));
        let tied = at[0] + at[1];
        if tied > 1 {
            let t = u128::from(tied);
            self.ties += t * t * t - t;
        }
    }
}

impl MannWhitney {
    pub(super) fn finish(self, first: &Sorted, second: &Sorted, method: Method, level: f64) -> Result<Comparison> {
        check_confidence(level)?;
        let (rows_n, rows_m) = (first.rows(), second.rows());
        let pairs = rows_n * rows_m;
        let (n, m) = (rows_n as f64, rows_m as f64);
        let u = self.double as f64 / 2.0;
        let possible = pairs <= EXACT_VALUES && (rows_n + rows_m <= EXACT_ROWS || rows_n.min(rows_m) <= EXACT);
        let exact = match method {
            Method::Asymptotic => false,
            Method::Auto => self.ties == 0 && possible && rows_n.min(rows_m) <= EXACT,
            Method::Exact if self.ties > 0 => {
                return Err(Error::invalid("method", "is exact without ties only, use Auto or Asymptotic"));
            }
            Method::Exact if !possible => {
                let reason = format!(
                    "is exact up to {EXACT_VALUES} pairs of rows, got {rows_n} and {rows_m} rows, use Auto or Asymptotic"
                );
                return Err(Error::invalid("method", reason));
            }
            Method::Exact => true,
        };
        let from_mean = self.double.abs_diff(u128::from(pairs)) as f64 / 2.0;
        let (p_value, by) = if exact {
            // Without ties `double` is even. The tail is symmetric: count the lower one.
            let smaller = (self.double.min(2 * u128::from(pairs) - self.double) / 2) as u64;
            (2.0 * lower_tail(smaller, rows_n, rows_m), PValueBy::Exact)
        } else {
            let spread = n * m * self.null_variance(n, m).sqrt();
            let p = if from_mean <= 0.5 || spread <= 0.0 { 1.0 } else { normal_two_sided((from_mean - 0.5) / spread) };
            (p, PValueBy::Asymptotic)
        };
        let auc = self.auc(n, m);
        let interval = auc_interval(auc, self.variance(n, m), n, m, two_sided_z(level));
        Ok(finish("mann_whitney", u, first, second).p(p_value, by).effect(
            "P(first > second)",
            auc,
            Some(interval),
            level,
        ))
    }

    pub(super) fn auc(&self, n: f64, m: f64) -> f64 {
        self.double as f64 / 2.0 / (n * m)
    }

    /// DeLong's variance of the area; `None` with one row on a side or where it is 0 up to rounding.
    pub(super) fn variance(&self, n: f64, m: f64) -> Option<f64> {
        // Variance of placements in [0, 1], from sums of twice the numbers of rows.
        let placements = |side: usize, rows: f64, others: f64, sum: f64| {
            let mean = sum / rows;
            let centred = (self.squares[side] as f64 - rows * mean * mean).max(0.0);
            centred / (rows - 1.0) / (4.0 * others * others)
        };
        if n < 2.0 || m < 2.0 {
            return None;
        }
        let double = self.double as f64;
        let variance = placements(0, n, m, double) / n + placements(1, m, n, 2.0 * n * m - double) / m;
        (variance > 1e-14 / n.min(m)).then_some(variance)
    }

    /// Variance of the area when both sides have one distribution, with ties taken into account.
    pub(super) fn null_variance(&self, n: f64, m: f64) -> f64 {
        let rows = n + m;
        ((rows + 1.0 - self.ties as f64 / (rows * (rows - 1.0))) / (12.0 * n * m)).max(0.0)
    }
}

/// The interval that [`mann_whitney`] documents.
pub(super) fn auc_interval(auc: f64, variance: Option<f64>, n: f64, m: f64, z: f64) -> (f64, f64) {
    let Some(variance) = variance else { return newcombe_auc(auc, n, m, z) };
    let centre = (auc * n * m + 0.5) / (n * m + 1.0);
    let logit = (centre / (1.0 - centre)).ln();
    let margin = z * variance.sqrt() / (centre * (1.0 - centre));
    let back = |x: f64| 1.0 / (1.0 + (-x).exp());
    (back(logit - margin).min(auc), back(logit + margin).max(auc))
}

/// Where `|θ - auc| = z sqrt(V(θ))`, with the variance of two exponential samples whose areas are θ.
fn newcombe_auc(auc: f64, n: f64, m: f64, z: f64) -> (f64, f64) {
    let half = 0.5 * (n + m) - 1.0;
    let margin = |theta: f64| {
        let spread = 1.0 + half * (1.0 - theta) / (2.0 - theta) + half * theta / (1.0 + theta);
        z * (theta * (1.0 - theta) * spread / (n * m)).sqrt()
    };
    let low = if auc <= 0.0 { 0.0 } else { root(0.0, auc, |theta| theta + margin(theta) - auc) };
    let high = if auc >= 1.0 { 1.0 } else { root(auc, 1.0, |theta| theta - margin(theta) - auc) };
    (low, high)
}

/// `P(U <= u)` without ties: coefficients of the Gaussian binomial up to `u`.
fn lower_tail(u: u64, n: u64, m: u64) -> f64 {
    let (short, long) = (n.min(m), n.max(m));
    let mut ways = vec![0.0_f64; u as usize + 1];
    ways[0] = 1.0;
    let mut all = 1.0;
    for i in 1..=short as usize {
        // Times (1 - q^(long + i)) / (1 - q^i).
        for k in (long as usize + i..ways.len()).rev() {
            ways[k] -= ways[k - long as usize - i];
        }
        for k in i..ways.len() {
            ways[k] += ways[k - i];
        }
        all *= (long as f64 + i as f64) / i as f64;
    }
    ways.iter().sum::<f64>() / all
}

/// Which empirical distribution function [`anderson_darling`] compares at a tied value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ties {
    /// The mean of the values below and at it (Scholz and Stephens, equation 7).
    Midrank,
    /// The value at it, right-continuous (equation 6).
    #[default]
    Right,
}

/// Anderson–Darling test that two samples come from one distribution; weighs the tails more than
/// [`cramer_von_mises`](super::cramer_von_mises).
///
/// ```text
/// A² = Σ_i 1/n_i Σ_j (l_j/N) (N M_ij - n_i B_j)² / (B_j(N - B_j))     over sides i and distinct values j
/// T  = (A² - 1) / sd(A²)
/// ```
/// with `l_j` rows at the value, `B_j` rows up to it and `M_ij` those of side `i`; for [`Ties::Midrank`] with half of
/// those at it, `N l_j/4` less in the denominator and `(N - 1)/N` before the sum. `sd` is the exact one without ties.
/// `T` is the statistic; it has no effect size.
///
/// With heavy ties [`Ties::Midrank`] errs too often, as its `sd` is that of untied rows: 8 % of the time at a level of
/// 5 %, where eight values are shared by a hundred rows. [`Ties::Right`] keeps its level.
///
/// The p-value is that of the limit distribution with the same mean and deviation, at any size; scipy's comes from a
/// table and is cut to [0.001, 0.25].
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value, or both together have fewer than four.
///
/// # Source
/// Scholz and Stephens (1987), doi:10.2307/2288805; Anderson and Darling (1952), doi:10.1214/aoms/1177729437.
/// `tests/golden/two_sample.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::two_sample::{Sorted, Ties, anderson_darling};
///
/// let (a, b) = (Sorted::new(&[1.0, 2.0, 3.0, 4.0]), Sorted::new(&[11.0, 12.0, 13.0, 14.0]));
/// assert!(anderson_darling(&a, &b, Ties::Right)?.p_value.unwrap() < 0.02);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn anderson_darling(first: &Sorted, second: &Sorted, ties: Ties) -> Result<Comparison> {
    check_sides(first, second, 1)?;
    if first.rows() + second.rows() < 4 {
        return Err(Error::invalid("first", "both sides together need four finite values"));
    }
    Ok(walk(first, second, AndersonDarling::new(first, second, ties)).finish(first, second))
}

pub(super) struct AndersonDarling {
    ties: Ties,
    n: f64,
    m: f64,
    sum: f64,
}

impl AndersonDarling {
    pub(super) fn new(first: &Sorted, second: &Sorted, ties: Ties) -> Self {
        Self { ties, n: first.rows() as f64, m: second.rows() as f64, sum: 0.0 }
    }
}

impl Pass for AndersonDarling {
    #[inline(always)]
    fn value(&mut self, _: f64, below: [u64; 2], at: [u64; 2]) {
        let all = self.n + self.m;
        let (l0, l1) = (at[0] as f64, at[1] as f64);
        let rows = l0 + l1;
        let up_to = if self.ties == Ties::Midrank { 0.5 } else { 1.0 };
        let (m0, m1) = (below[0] as f64 + up_to * l0, below[1] as f64 + up_to * l1);
        let b = m0 + m1;
        let midrank = if self.ties == Ties::Midrank { 0.25 * all * rows } else { 0.0 };
        let denominator = b * (all - b) - midrank;
        if denominator > 0.0 {
            // N·M₁ - n·B = m·M₁ - n·M₂, and the other side has the same with the other sign.
            let gap = self.m * m0 - self.n * m1;
            self.sum += rows * gap * gap / denominator;
        }
    }
}

impl AndersonDarling {
    pub(super) fn finish(self, first: &Sorted, second: &Sorted) -> Comparison {
        let Self { ties, n, m, sum } = self;
        let all = n + m;
        let mut a2 = sum * (1.0 / n + 1.0 / m) / all;
        if ties == Ties::Midrank {
            a2 *= (all - 1.0) / all;
        }
        let t = (a2 - 1.0) / deviation(n, m);
        // The limit has mean 1 and variance 2 Σ 1/(j(j+1))².
        let limit_sd = (2.0 * (std::f64::consts::PI.powi(2) / 3.0 - 3.0)).sqrt();
        finish("anderson_darling", t, first, second).p(anderson_darling_sf(1.0 + t * limit_sd), PValueBy::Asymptotic)
    }
}

/// Standard deviation of A² for two samples without ties.
fn deviation(n: f64, m: f64) -> f64 {
    let all = n + m;
    // h = Σ 1/i and g = Σ_i Σ_j>i 1/((N - i) j), both below N.
    let (mut tail, mut g, mut i) = (0.0, 0.0, 2.0);
    while i < all {
        tail += 1.0 / (all + 1.0 - i);
        g += tail / i;
        i += 1.0;
    }
    let h = 1.0 + tail;
    let (k, sides) = (2.0, 1.0 / n + 1.0 / m);
    let a = (4.0 * g - 6.0) * (k - 1.0) + (10.0 - 6.0 * g) * sides;
    let b = (2.0 * g - 4.0) * k * k + 8.0 * h * k + (2.0 * g - 14.0 * h - 4.0) * sides - 8.0 * h + 4.0 * g - 6.0;
    let c = (6.0 * h + 2.0 * g - 2.0) * k * k + (4.0 * h - 4.0 * g + 6.0) * k + (2.0 * h - 6.0) * sides + 4.0 * h;
    let d = (2.0 * h + 6.0) * k * k - 4.0 * h * k;
    ((a * all.powi(3) + b * all * all + c * all + d) / ((all - 1.0) * (all - 2.0) * (all - 3.0))).sqrt()
}
