//! Central moments that merge.

use mlops_core::json::lossless_f64;
use serde::{Deserialize, Serialize};

/// Mean, variance, skewness and kurtosis of numbers, from one pass, mergeable up to rounding.
///
/// ```text
/// M_p = Σ (x - mean)^p
/// variance = M_2 / (n - 1),    skewness = √n · M_3 / M_2^(3/2),    kurtosis = n · M_4 / M_2² - 3
/// ```
/// Numbers come in blocks: the mean of a block is corrected by the sum of the differences from it, so that the error of a
/// block does not grow with its length; blocks join by the pairwise formulas. A moment whose powers an `f64` cannot hold (of
/// numbers near the largest, or some 1e-70 apart) is none rather than wrong.
///
/// # Source
/// Chan, Golub, LeVeque (1983), doi:10.1080/00031305.1983.10483115; orders 3 and 4 by Pébay (2008), SAND2008-6212.
/// `tests/golden/profile.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::profile::Moments;
///
/// let mut moments = Moments::of(&[1.0, 2.0]);
/// moments.merge(&Moments::of(&[3.0, 10.0]));
/// assert_eq!((moments.mean(), moments.variance()), (Some(4.0), Some(50.0 / 3.0)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    n: u64,
    mean: f64,
    #[serde(with = "lossless_f64")]
    m2: f64,
    #[serde(with = "lossless_f64")]
    m3: f64,
    #[serde(with = "lossless_f64")]
    m4: f64,
}

/// Powers below this have lost digits to underflow.
const LEAST: f64 = 1e-280;

/// Accumulators side by side: enough for the processor to add them all at once.
const LANES: usize = 8;

impl Moments {
    /// The moments of these numbers, which must be finite; others make all moments none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let n = values.len() as f64;
        let sum = lanes(values, |x| [x])[0];
        // A sum may be infinite where the mean is not.
        let rough = if sum.is_finite() { sum / n } else { lanes(values, |x| [x / n])[0] };
        let [d1, d2, d3, d4] = lanes(values, |x| {
            let d = x - rough;
            let dd = d * d;
            [d, dd, dd * d, dd * dd]
        });
        // The same about the exact mean, which is `rough + e`.
        let e = d1 / n;
        let mean = rough + e;
        if !e.is_finite() || !mean.is_finite() {
            return Self {
                n: values.len() as u64,
                mean: finite_or_zero(rough),
                m2: f64::INFINITY,
                m3: f64::INFINITY,
                m4: f64::INFINITY,
            };
        }
        let m2 = d2 - n * e * e;
        let m3 = d3 - 3.0 * e * d2 + 2.0 * n * e * e * e;
        let m4 = d4 - 4.0 * e * d3 + 6.0 * e * e * d2 - 3.0 * n * e * e * e * e;
        Self { n: values.len() as u64, mean, m2: m2.max(0.0), m3, m4: m4.max(0.0) }.held()
    }

    /// Adds one number.
    pub(crate) fn push(&mut self, value: f64) {
        self.merge(&Self { n: 1, mean: value, ..Self::default() });
    }

    /// Adds the numbers of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        if self.n == 0 {
            *self = *other;
            return;
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let n = a + b;
        let delta = other.mean - self.mean;
        let (wa, wb) = (a / n, b / n);
        let mean = self.mean + delta * wb;
        // The difference of two numbers may be infinite, their mean is not.
        let mean = if mean.is_finite() { mean } else { self.mean * wa + other.mean * wb };
        let d2 = delta * delta;
        let m4 = self.m4
            + other.m4
            + d2 * d2 * a * wb * (wa * wa - wa * wb + wb * wb)
            + 6.0 * d2 * (wa * wa * other.m2 + wb * wb * self.m2)
            + 4.0 * delta * (wa * other.m3 - wb * self.m3);
        let m3 = self.m3 + other.m3 + d2 * delta * a * wb * (wa - wb) + 3.0 * delta * (wa * other.m2 - wb * self.m2);
        let m2 = self.m2 + other.m2 + d2 * a * wb;
        *self = Self { n: self.n.saturating_add(other.n), mean, m2, m3, m4: m4.max(0.0) }.held();
    }

    /// What is not a number is written as infinite: unknown, and so it stays.
    fn held(mut self) -> Self {
        for m in [&mut self.m2, &mut self.m3, &mut self.m4] {
            if !m.is_finite() {
                *m = f64::INFINITY;
            }
        }
        self
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.mean.is_finite() && !(self.m2.is_nan() || self.m3.is_nan() || self.m4.is_nan())
    }

    /// How many numbers there are.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The mean; `None` without numbers.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }

    /// The variance with `n - 1`; `None` below two numbers, or if it is too large for an `f64`.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        (self.n > 1 && self.m2.is_finite()).then(|| self.m2 / (self.n - 1) as f64)
    }

    /// The square root of the [`variance`](Self::variance).
    #[must_use]
    pub fn std(&self) -> Option<f64> {
        self.variance().map(f64::sqrt)
    }

    /// Skewness, 0 for a symmetric distribution (the biased estimate, `scipy.stats.skew`); `None` for equal numbers.
    #[must_use]
    pub fn skewness(&self) -> Option<f64> {
        let scale = self.m2.powf(1.5);
        let skewness = (self.n as f64).sqrt() * self.m3 / scale;
        (LEAST..f64::INFINITY).contains(&scale).then_some(skewness).filter(|s| s.is_finite())
    }

    /// Kurtosis above that of the normal distribution (the biased estimate, `scipy.stats.kurtosis`); `None` for equal
    /// numbers.
    #[must_use]
    pub fn kurtosis(&self) -> Option<f64> {
        let scale = self.m2 * self.m2;
        let kurtosis = self.n as f64 * self.m4 / scale - 3.0;
        (LEAST..f64::INFINITY).contains(&scale).then_some(kurtosis).filter(|k| k.is_finite())
    }
}

fn finite_or_zero(x: f64) -> f64 {
    if x.is_finite() { x } else { 0.0 }
}

/// Sums of `N` functions of the values, in lanes.
fn lanes<const N: usize>(values: &[f64], f: impl Fn(f64) -> [f64; N]) -> [f64; N] {
    let mut sums = [[0.0; LANES]; N];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let terms = f(chunk[lane]);
            for i in 0..N {
                sums[i][lane] += terms[i];
            }
        }
    }
    let mut total = sums.map(|lanes| lanes.iter().sum::<f64>());
    for x in rest {
        for (sum, term) in total.iter_mut().zip(f(*x)) {
            *sum += term;
        }
    }
    total
}
