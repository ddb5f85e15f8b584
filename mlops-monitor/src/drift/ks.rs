//! Two-sample Kolmogorov–Smirnov test.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{DriftDetector, DriftScore, Effect, sorted_finite};
use crate::error::{check_alert_at, check_confidence};
use crate::{Error, Result};

/// Up to this many lattice points, [`KsMethod::Auto`] computes the exact p-value (some tens of milliseconds).
const AUTO_CELLS: f64 = 2e7;
/// Up to this many rows a side, [`KsMethod::Auto`] uses the closed form for samples of equal size.
const AUTO_EQUAL: usize = 1_000_000;

/// How the p-value of a Kolmogorov–Smirnov test is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KsMethod {
    /// Exact where that takes some tens of milliseconds at most, else asymptotic.
    #[default]
    Auto,
    /// Exact for samples of any size, in time proportional to `n · m · min(1, 2 D)`.
    Exact,
    /// The limit distribution with its finite-sample corrections.
    Asymptotic,
}

/// Result of [`ks_two_sample`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KsTest {
    /// `D`, in [0, 1].
    pub statistic: f64,
    /// Probability of a `D` at least this large when both samples come from one continuous distribution.
    pub p_value: f64,
    /// The method that was used: `Exact` or `Asymptotic`.
    pub method: KsMethod,
    /// Finite rows on each side.
    pub n: [u64; 2],
    /// Rows on each side left out because the value was not finite.
    pub skipped: [u64; 2],
}

/// Two-sample Kolmogorov–Smirnov test, two-sided.
///
/// ```text
/// D = sup_x |F(x) - G(x)|     F, G: the empirical distribution functions of the two samples
/// ```
/// The exact p-value is the share of lattice paths from (0, 0) to (n, m) that leave the band `|i/n - j/m| < D`.
/// With ties it is an upper bound (conservative). The asymptotic one is the Pelz–Good expansion of the one-sample
/// distribution at `N = round(nm / (n + m))`; beyond `N·D² = 2.2` it is twice the one-sided tail
/// `exp(-(6ND + 1)² / (18N))`, to a relative error of the order `N·D⁴`.
///
/// `scipy.stats.ks_2samp` goes asymptotic above 10,000 rows on either side; here the cost decides, so a small live
/// sample against a large baseline still gets its exact value.
///
/// # Errors
/// [`Error::InvalidInput`] if a side has no finite value.
///
/// # Source
/// Hodges (1958), doi:10.1007/BF02589501; Pelz and Good (1976), doi:10.1111/j.2517-6161.1976.tb01579.x; Maag and
/// Dicaire (1971), doi:10.1093/biomet/58.3.653. `tests/golden/ks.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::drift::{KsMethod, ks_two_sample};
///
/// let test = ks_two_sample(&[1.0, 2.0, 3.0, 4.0], &[3.5, 4.5, 5.5, 6.5], KsMethod::Auto)?;
/// assert_eq!(test.statistic, 0.75);
/// assert!((test.p_value - 0.228_571_428_571_428_57).abs() < 1e-12);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn ks_two_sample(first: &[f64], second: &[f64], method: KsMethod) -> Result<KsTest> {
    let (a, skipped_a) = sorted_finite(first);
    let (b, skipped_b) = sorted_finite(second);
    for (what, side) in [("first", &a), ("second", &b)] {
        if side.is_empty() {
            return Err(Error::invalid(what, "has no finite value"));
        }
    }
    let gap = Gap::between(&a, &b);
    let (p_value, method) = gap.p_value(method);
    Ok(KsTest {
        statistic: gap.statistic(),
        p_value,
        method,
        n: [a.len() as u64, b.len() as u64],
        skipped: [skipped_a, skipped_b],
    })
}

/// Compares live values with a baseline by the Kolmogorov–Smirnov distance.
///
/// The baseline is sorted once, at `fit`; each score sorts the live rows only.
///
/// # Verdict
/// On the distance `D` itself, with a bound that holds for any distributions and any number of rows
/// (Dvoretzky–Kiefer–Wolfowitz with Massart's constant, once for each side):
///
/// ```text
/// |D - sup_x |F - G|| <= ε(n, α·m/(n+m)) + ε(m, α·n/(n+m))     with probability >= confidence = 1 - α
/// ε(n, α) = sqrt(ln(2/α) / (2n))
/// ```
/// The smaller side gets most of the error probability, which makes the sum nearly as small as it can be. Against
/// a large baseline, a distance of 0 is told from the default threshold of 0.1 from about 200 live rows on.
/// The p-value is reported and does not decide: with enough rows it is small for any change at all.
///
/// # Source
/// Massart (1990), doi:10.1214/aop/1176990746. `tests/golden/ks.json`.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::{DriftDetector, KsDetector};
///
/// let baseline: Vec<f64> = (0..10_000).map(f64::from).collect();
/// let detector = KsDetector::builder().alert_at(0.1).fit(&baseline)?;
/// let live: Vec<f64> = (0..5_000).map(|i| 2.0 * f64::from(i)).collect();
/// assert_eq!(detector.score(&live)?.verdict, Verdict::Pass);
/// assert_eq!(detector.score(&live[2_500..])?.verdict, Verdict::Fail);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct KsDetector {
    sorted: Vec<f64>,
    skipped: u64,
    alert_at: f64,
    confidence: f64,
    method: KsMethod,
}

/// What is stored, before it is known to be consistent.
#[derive(Deserialize)]
struct Parts {
    sorted: Vec<f64>,
    skipped: u64,
    alert_at: f64,
    confidence: f64,
    method: KsMethod,
}

impl TryFrom<Parts> for KsDetector {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let builder =
            KsDetectorBuilder { alert_at: parts.alert_at, confidence: parts.confidence, method: parts.method };
        let mut detector = builder.fit(&parts.sorted)?;
        detector.skipped = detector.skipped.saturating_add(parts.skipped);
        Ok(detector)
    }
}

/// Options of a [`KsDetector`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `fit`"]
pub struct KsDetectorBuilder {
    alert_at: f64,
    confidence: f64,
    method: KsMethod,
}

impl KsDetectorBuilder {
    /// Distance from which a change counts as drift, in (0, 1] (default 0.1, a convention).
    pub fn alert_at(mut self, alert_at: f64) -> Self {
        self.alert_at = alert_at;
        self
    }

    /// Coverage of the interval that the verdict rests on, in (0, 1) (default 0.95).
    pub fn confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// How the p-value is computed (default [`KsMethod::Auto`]).
    pub fn method(mut self, method: KsMethod) -> Self {
        self.method = method;
        self
    }

    /// Sorts `baseline` and keeps its finite values.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range, or `baseline` if it has no finite value.
    pub fn fit(self, baseline: &[f64]) -> Result<KsDetector> {
        let Self { alert_at, confidence, method } = self;
        check_alert_at(alert_at, 1.0)?;
        check_confidence(confidence)?;
        let (sorted, skipped) = sorted_finite(baseline);
        if sorted.is_empty() {
            return Err(Error::invalid("baseline", format!("has no finite value ({skipped} skipped)")));
        }
        Ok(KsDetector { sorted, skipped, alert_at, confidence, method })
    }
}

impl KsDetector {
    /// Options with their defaults; finish with [`KsDetectorBuilder::fit`].
    pub fn builder() -> KsDetectorBuilder {
        KsDetectorBuilder { alert_at: 0.1, confidence: 0.95, method: KsMethod::Auto }
    }
}

impl DriftDetector for KsDetector {
    fn name(&self) -> &str {
        "ks"
    }

    fn score(&self, live: &[f64]) -> Result<DriftScore> {
        let (live, skipped_live) = sorted_finite(live);
        let mut effect = Effect::new("distance", 0.0, Some(0.0), Some(1.0), self.confidence);
        let mut p_value = None;
        if !live.is_empty() {
            let gap = Gap::between(&self.sorted, &live);
            let margin = dkw_margin(gap.n as f64, gap.m as f64, self.confidence);
            effect.value = gap.statistic();
            effect.low = Some((effect.value - margin).max(0.0));
            effect.high = Some((effect.value + margin).min(1.0));
            p_value = Some(gap.p_value(self.method).0);
        }
        let mut score = DriftScore::new(self.name(), effect.value, effect, self.alert_at);
        score.p_value = p_value;
        score.n_baseline = self.sorted.len() as u64;
        score.n_live = live.len() as u64;
        score.skipped_baseline = self.skipped;
        score.skipped_live = skipped_live;
        Ok(score)
    }
}

/// Half the width of the interval that [`KsDetector`] documents, for `n` and `m` rows.
pub(crate) fn dkw_margin(n: f64, m: f64, confidence: f64) -> f64 {
    let alpha = 1.0 - confidence;
    let dkw = |rows: f64, alpha: f64| ((2.0 / alpha).ln() / (2.0 * rows)).sqrt();
    dkw(n, alpha * m / (n + m)) + dkw(m, alpha * n / (n + m))
}

/// The largest gap between two empirical distribution functions, as the integer `h` in `D = h · gcd / (n·m)`.
pub(crate) struct Gap {
    n: usize,
    m: usize,
    gcd: usize,
    h: u128,
}

impl Gap {
    /// Both sides are sorted, finite and not empty.
    pub(crate) fn between(a: &[f64], b: &[f64]) -> Self {
        let (n, m) = (a.len(), b.len());
        let gcd = gcd(n, m);
        let (up, down) = ((m / gcd) as i128, (n / gcd) as i128);
        let (mut i, mut j, mut gap, mut widest) = (0, 0, 0_i128, 0_u128);
        while i < n && j < m {
            let x = if b[j] < a[i] { b[j] } else { a[i] };
            while i < n && a[i] == x {
                gap += up;
                i += 1;
            }
            while j < m && b[j] == x {
                gap -= down;
                j += 1;
            }
            widest = widest.max(gap.unsigned_abs());
        }
        // Once a side is used up the gap only closes.
        Self { n, m, gcd, h: widest }
    }

    pub(crate) fn statistic(&self) -> f64 {
        self.h as f64 / ((self.n / self.gcd) as f64 * self.m as f64)
    }

    pub(crate) fn p_value(&self, method: KsMethod) -> (f64, KsMethod) {
        let (n, m) = (self.n as f64, self.m as f64);
        let exact = match method {
            KsMethod::Exact => true,
            KsMethod::Asymptotic => false,
            KsMethod::Auto if self.n == self.m => self.n <= AUTO_EQUAL,
            KsMethod::Auto => n * m * (2.0 * self.statistic()).min(1.0) <= AUTO_CELLS,
        };
        if exact {
            let p = if self.n == self.m { self.exact_equal() } else { self.exact_lattice() };
            return (p.clamp(0.0, 1.0), KsMethod::Exact);
        }
        (asymptotic((n * m / (n + m)).round(), self.statistic()).clamp(0.0, 1.0), KsMethod::Asymptotic)
    }

    /// `P(D >= h/n)` for `n = m`: `2 Σ_k (-1)^(k-1) C(2n, n - kh) / C(2n, n)`.
    fn exact_equal(&self) -> f64 {
        let (n, h) = (self.n, self.h as usize); // h <= n here
        if h == 0 {
            return 1.0;
        }
        let (mut term, mut sum, mut sign, mut start) = (1.0_f64, 0.0, 1.0, 0);
        while start + h <= n && term > 0.0 {
            for j in start..start + h {
                term *= (n - j) as f64 / (n + j + 1) as f64;
            }
            sum += sign * term;
            if term < 1e-18 * f64::abs(sum) {
                break;
            }
            sign = -sign;
            start += h;
        }
        2.0 * sum
    }

    /// `P(D >= D_observed)` by the chance that a random lattice path to `(i, j)` has touched the outside of the band.
    ///
    /// Every term is positive, so small probabilities keep their relative accuracy.
    fn exact_lattice(&self) -> f64 {
        if self.h == 0 {
            return 1.0;
        }
        let (short, long) = (self.n.min(self.m), self.n.max(self.m));
        let (step, width) = ((long / self.gcd) as u128, (short / self.gcd) as u128);
        let inverse: Vec<f64> = (0..=short + long).map(|k| 1.0 / k as f64).collect();
        let mut touched = vec![1.0_f64; long + 1];
        for i in 0..=short {
            // Inside: |i·step - j·width| < h.
            let centre = i as u128 * step;
            let first = if centre >= self.h { ((centre - self.h) / width + 1) as usize } else { 0 };
            let last = ((centre + self.h - 1) / width).min(long as u128) as usize;
            let mut left = 1.0;
            if i == 0 {
                touched[0] = 0.0;
                left = 0.0;
            }
            for j in first.max(usize::from(i == 0))..=last {
                let share = inverse[i + j];
                left = i as f64 * share * touched[j] + j as f64 * share * left;
                touched[j] = left;
            }
        }
        touched[long]
    }
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// `P(D_N >= d)` of the one-sample statistic for large `N = rows`.
pub(super) fn asymptotic(rows: f64, d: f64) -> f64 {
    let z2 = rows * d * d;
    if d <= 0.0 || rows < 1.0 {
        return 1.0;
    }
    if z2 >= 2.2 {
        let t = 6.0 * rows * d + 1.0;
        return 2.0 * (-t * t / (18.0 * rows)).exp();
    }
    1.0 - pelz_good(rows, z2.sqrt())
}

/// `P(D_N <= z/sqrt(N))` as `K0(z) + K1(z)/N^½ + K2(z)/N + K3(z)/N^(3/2)`.
fn pelz_good(rows: f64, z: f64) -> f64 {
    let pi2 = PI * PI;
    let z2 = z * z;
    // Below this the first term is under the smallest positive number.
    if pi2 / (8.0 * z2) > 740.0 {
        return 0.0;
    }
    let (z4, z6, z8) = (z2 * z2, z2 * z2 * z2, z2 * z2 * z2 * z2);
    let mut k = [0.0_f64; 4];
    let terms = (16.0 * z / PI).ceil() as u32;
    for i in (1..=terms).rev() {
        let odd2 = f64::from(2 * i - 1).powi(2) * pi2 / 4.0;
        let q = (-odd2 / (2.0 * z2)).exp();
        k[0] += q;
        k[1] += q * (odd2 - z2);
        k[2] += q * (6.0 * z6 + 2.0 * z4 + (2.0 * z4 - 5.0 * z2) * odd2 + (1.0 - 2.0 * z2) * odd2 * odd2);
        k[3] += q
            * (-30.0 * z6 - 90.0 * z8
                + (135.0 * z4 - 96.0 * z6) * odd2
                + (212.0 * z4 - 60.0 * z2) * odd2 * odd2
                + (5.0 - 30.0 * z2) * odd2 * odd2 * odd2);
    }
    let root = (2.0 * PI).sqrt();
    k[0] *= root / z;
    k[1] *= root / (6.0 * z4);
    k[2] *= root / (72.0 * z6 * z);
    k[3] *= root / (6480.0 * z8 * z2);
    for i in (1..=terms).rev() {
        let even2 = f64::from(i).powi(2) * pi2;
        let q = (-even2 / (2.0 * z2)).exp();
        k[2] -= root / (36.0 * z2 * z) * even2 * q;
        k[3] += root / (216.0 * z6) * (3.0 * z2 - even2) * even2 * q;
    }
    k[0] + k[1] / rows.sqrt() + k[2] / rows + k[3] / rows.powf(1.5)
}
