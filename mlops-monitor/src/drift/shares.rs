//! Two samples counted over the same bins or categories: statistics, intervals and what each bin adds.

use super::psi::estimate;
use super::{Effect, Method};
use crate::special::two_sided_z;

/// Counts of both sides over the same bins, and the variance that a sketch adds to a share at most.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) reference: Vec<u64>,
    pub(crate) live: Vec<u64>,
    pub(crate) noise: (f64, f64),
}

/// What a method makes of two samples.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) statistic: f64,
    pub(crate) p_value: Option<f64>,
    pub(crate) effect: Effect,
    /// What each bin adds to the statistic.
    pub(crate) terms: Vec<f64>,
}

fn total(counts: &[u64]) -> f64 {
    counts.iter().map(|c| *c as f64).sum()
}

impl Shares {
    /// The shares of both sides in bin `i`.
    pub(crate) fn shares(&self, i: usize) -> (f64, f64) {
        let share = |counts: &[u64]| counts[i] as f64 / total(counts).max(1.0);
        (share(&self.reference), share(&self.live))
    }

    /// Bins that are not empty on both sides.
    fn occupied(&self) -> f64 {
        self.reference.iter().zip(&self.live).filter(|(a, b)| **a > 0 || **b > 0).count() as f64
    }

    /// By a method that is for bins.
    pub(crate) fn measure(&self, method: Method, confidence: f64, min_rows: u64) -> Measured {
        let (n, m) = (total(&self.reference), total(&self.live));
        let name = method.effect();
        if n == 0.0 || m == 0.0 {
            let effect = Effect::new(name, 0.0, None, None, confidence);
            return Measured { statistic: 0.0, p_value: None, effect, terms: vec![0.0; self.live.len()] };
        }
        let mut measured = match method {
            Method::JensenShannon => self.jensen_shannon(n, m, confidence),
            Method::ChiSquare => self.chi_square(n, m, confidence),
            Method::LInfinity => self.largest(n, m, confidence),
            _ => self.psi(n, m, confidence),
        };
        if n.min(m) < min_rows.max(1) as f64 && method != Method::LInfinity {
            (measured.effect.low, measured.effect.high) = (None, None);
        }
        measured
    }

    /// As in the docs of [`PsiDetector`](super::PsiDetector), with the noise of sketches.
    fn psi(&self, n: f64, m: f64, confidence: f64) -> Measured {
        let (statistic, value, se) = estimate(&self.reference, &self.live, n, m);
        let bins = self.occupied();
        let (mut terms, mut noise, mut lift) = (Vec::with_capacity(self.live.len()), 0.0, 0.0);
        for (a, b) in self.reference.iter().zip(&self.live) {
            if *a == 0 && *b == 0 {
                terms.push(0.0);
                continue;
            }
            let p = (*a as f64 + 0.5) / (n + 0.5 * bins);
            let q = (*b as f64 + 0.5) / (m + 0.5 * bins);
            let ratio = (p / q).ln();
            terms.push((p - q) * ratio);
            let (slope_p, slope_q) = (ratio + 1.0 - q / p, 1.0 - ratio - p / q);
            noise += slope_p * slope_p * self.noise.0 + slope_q * slope_q * self.noise.1;
            lift += self.noise.0 / p + self.noise.1 / q;
        }
        let margin = two_sided_z(confidence) * (se * se + noise + 2.0 * lift * lift).sqrt();
        let (low, high) = ((value - margin - lift).max(0.0), value + margin);
        let effect = Effect::new(Method::Psi.effect(), value, Some(low), Some(high), confidence);
        Measured { statistic, p_value: None, effect, terms }
    }

    fn jensen_shannon(&self, n: f64, m: f64, confidence: f64) -> Measured {
        let mut terms = Vec::with_capacity(self.live.len());
        let (mut mean_p, mut square_p, mut mean_q, mut square_q, mut noise) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (a, b) in self.reference.iter().zip(&self.live) {
            let (p, q) = (*a as f64 / n, *b as f64 / m);
            let middle = 0.5 * (p + q);
            let slope = |x: f64| if x > 0.0 { 0.5 * (x / middle).ln() } else { 0.0 };
            let (slope_p, slope_q) = (slope(p), slope(q));
            terms.push(p * slope_p + q * slope_q);
            mean_p += p * slope_p;
            square_p += p * slope_p * slope_p;
            mean_q += q * slope_q;
            square_q += q * slope_q * slope_q;
            noise += slope_p * slope_p * self.noise.0 + slope_q * slope_q * self.noise.1;
        }
        let statistic = terms.iter().sum::<f64>().max(0.0);
        let spare = (self.occupied() - 1.0).max(0.0) / 8.0 * (1.0 / n + 1.0 / m);
        let value = (statistic - spare).max(0.0);
        let first_order = (square_p - mean_p * mean_p).max(0.0) / n + (square_q - mean_q * mean_q).max(0.0) / m;
        let bins = (self.occupied() - 1.0).max(1.0);
        let se = (first_order + noise + 2.0 * spare * spare / bins).sqrt();
        let margin = two_sided_z(confidence) * se;
        let root = |x: f64| x.max(0.0).sqrt();
        let (low, high) = (root(value - margin), root(value + margin));
        let effect = Effect::new(Method::JensenShannon.effect(), root(value), Some(low), Some(high), confidence);
        Measured { statistic, p_value: None, effect, terms }
    }

    fn chi_square(&self, n: f64, m: f64, confidence: f64) -> Measured {
        let all = n + m;
        let mut terms = Vec::with_capacity(self.live.len());
        for (a, b) in self.reference.iter().zip(&self.live) {
            let (a, b) = (*a as f64, *b as f64);
            // Both cells of the bin; the difference of shares is the same in each.
            let gap = a / n - b / m;
            terms.push(if a + b > 0.0 { gap * gap * n * m / (a + b) } else { 0.0 });
        }
        let statistic: f64 = terms.iter().sum();
        let spare = (self.occupied() - 1.0).max(0.0);
        let p_value = chi_square_tail(statistic, spare);
        let above = (statistic - spare).max(0.0);
        let margin = two_sided_z(confidence) * (2.0 * (spare + 2.0 * above)).sqrt();
        let v = |x: f64| (x.max(0.0) / all).sqrt().min(1.0);
        let (low, high) = (v(above - margin), v(above + margin));
        let effect = Effect::new(Method::ChiSquare.effect(), v(above), Some(low), Some(high), confidence);
        Measured { statistic, p_value: Some(p_value), effect, terms }
    }

    fn largest(&self, n: f64, m: f64, confidence: f64) -> Measured {
        let gaps: Vec<f64> = (0..self.live.len()).map(|i| self.shares(i)).map(|(p, q)| (p - q).abs()).collect();
        let at = (0..gaps.len()).max_by(|i, j| gaps[*i].total_cmp(&gaps[*j])).unwrap_or(0);
        let value = gaps.get(at).copied().unwrap_or(0.0);
        let terms = (0..gaps.len()).map(|i| if i == at { value } else { 0.0 }).collect();
        let alpha = (1.0 - confidence) / 2.0;
        let bins = self.occupied().max(1.0);
        let bound = |rows: f64| {
            // Hoeffding for each bin, or the two ends of the bin by Dvoretzky, Kiefer and Wolfowitz.
            let each = ((2.0 * bins / alpha).ln() / (2.0 * rows)).sqrt();
            each.min(2.0 * ((2.0 / alpha).ln() / (2.0 * rows)).sqrt())
        };
        let sketched = two_sided_z(confidence) * (self.noise.0.sqrt() + self.noise.1.sqrt());
        let margin = bound(n) + bound(m) + sketched;
        let (low, high) = ((value - margin).max(0.0), (value + margin).min(1.0));
        let effect = Effect::new(Method::LInfinity.effect(), value, Some(low), Some(high), confidence);
        Measured { statistic: value, p_value: None, effect, terms }
    }
}

/// `P(X >= x)` of a chi-square variable with `df` degrees of freedom: the upper incomplete gamma function, by its series or
/// its continued fraction (Press et al. 2007, 6.2).
pub(crate) fn chi_square_tail(x: f64, df: f64) -> f64 {
    if df <= 0.0 || x <= 0.0 {
        return 1.0;
    }
    let (a, x) = (0.5 * df, 0.5 * x);
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        for _ in 0..100_000 {
            k += 1.0;
            term *= x / k;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        return (1.0 - sum * scale).clamp(0.0, 1.0);
    }
    let tiny = f64::MIN_POSITIVE / f64::EPSILON;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut h = d;
    for i in 1..100_000 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        let nonzero = |x: f64| if x.abs() < tiny { tiny } else { x };
        d = 1.0 / nonzero(an * d + b);
        c = nonzero(b + an / c);
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (scale * h).clamp(0.0, 1.0)
}

/// The logarithm of the gamma function for `x > 0`, by Stirling's series after steps up to 10.
fn ln_gamma(mut x: f64) -> f64 {
    let mut product = 1.0;
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series = 1.0 / 12.0
        - y * (1.0 / 360.0 - y * (1.0 / 1260.0 - y * (1.0 / 1680.0 - y * (1.0 / 1188.0 - y * 691.0 / 360_360.0))));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series / x - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chi_square_tails_match_tables() {
        // R: pchisq(x, df, lower.tail = FALSE)
        for (x, df, p) in [
            (3.841_458_820_694_124, 1.0, 0.05),
            (18.307_038_053_275_14, 10.0, 0.05),
            (0.5, 3.0, 0.918_891_411_654_676),
            (100.0, 20.0, 1.259_608_459_166_491_8e-12),
        ] {
            let found = chi_square_tail(x, df);
            assert!((found - p).abs() < 1e-11 * p.max(1e-3), "{x} {df}: {found} for {p}");
        }
    }
}
