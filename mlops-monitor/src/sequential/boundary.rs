//! Curves that a random walk ever crosses with a small probability.

use super::check_alpha;
use crate::{Error, Result};

/// `s` and `eta` of the stitched boundary.
const S: f64 = 1.4;
const ETA: f64 = 2.0;
/// Riemann's zeta at [`S`].
const ZETA_S: f64 = 3.105_547_277_977_580_4;

/// The polynomial stitched boundary: a sub-gamma random walk with variance process `V_n` and scale `c` ever exceeds
/// `u(V_n)` with probability at most `alpha`.
///
/// ```text
/// u(v) = sqrt(k1² (v ∨ m) ℓ + k2² c² ℓ²) + k2 c ℓ,     ℓ = s ln ln(η (v ∨ m)/m) + ln(ζ(s) / (α ln^s η))
/// k1 = (η^¼ + η^-¼)/√2,   k2 = (√η + 1)/2,   η = 2,   s = 1.4
/// ```
/// `m` is the variance from which on the boundary is tight; all in the units of the walk (`v` and `m` squared). It grows
/// as `sqrt(v ln ln v)`, the least that is possible.
///
/// # Errors
/// [`Error::InvalidInput`] if `v` or `c` is negative or not finite, `m` is not positive and finite, or `alpha` is not in
/// (0, 1).
///
/// # Source
/// Howard, Ramdas, McAuliffe and Sekhon (2021), doi:10.1214/20-AOS1991, equation 10; `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// let u = mlops_monitor::sequential::poly_stitched(100.0, 0.05, 10.0, 3.0)?;
/// assert!((u - 64.48755).abs() < 1e-5);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn poly_stitched(v: f64, alpha: f64, m: f64, c: f64) -> Result<f64> {
    check_alpha(alpha)?;
    for (what, value) in [("v", v), ("c", c)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(Error::invalid(what, format!("must be finite and at least 0, got {value}")));
        }
    }
    if !(m.is_finite() && m > 0.0) {
        return Err(Error::invalid("m", format!("must be finite and above 0, got {m}")));
    }
    Ok(stitched(v, alpha, m, c))
}

pub(super) fn stitched(v: f64, alpha: f64, m: f64, c: f64) -> f64 {
    let v = v.max(m);
    let level = S * (ETA * (v / m)).ln().ln() + (ZETA_S / (alpha * ETA.ln().powf(S))).ln();
    let k1_squared = (ETA.powf(0.25) + ETA.powf(-0.25)).powi(2) / 2.0;
    let gamma = f64::midpoint(ETA.sqrt(), 1.0) * c * level;
    (k1_squared * v * level + gamma * gamma).sqrt() + gamma
}

/// `-ln(1 - x) - x` for `x` in [0, 1), without cancellation.
pub(super) fn psi_exponential(x: f64) -> f64 {
    if x < 0.03 {
        // The terms after x^10/10 are below 1e-15 of the first.
        return x * x * (2..=10).rev().fold(0.0, |sum, k| sum * x + 1.0 / f64::from(k));
    }
    -(-x).ln_1p() - x
}

/// Largest distance of the empirical from the true distribution function that is ever exceeded with probability
/// `alpha`, for `alpha` up to 0.3 and from row `start` on.
///
/// Howard and Ramdas (2022), doi:10.3150/21-BEJ1388, theorem 2 with A = 0.85 and C = 0.8 ln(1612/α); that this C is
/// large enough for every `alpha` up to 0.3 is checked in `tests/golden/make_sequential.py`.
pub(super) fn lil_band(n: u64, alpha: f64, start: u64) -> f64 {
    let (n, start) = (n as f64, start.max(1) as f64);
    if n < start {
        return 1.0;
    }
    (0.85 * (((n / start).ln() + 1.0).ln() / n + 0.8 * (1_612.0 / alpha).ln() / n).sqrt()).min(1.0)
}

/// Natural logarithm of Euler's gamma function for `x > 0`.
///
/// Lanczos' series with g = 7 and nine terms (Godfrey); relative error about 1e-15.
pub(super) fn ln_gamma(x: f64) -> f64 {
    const G: f64 = 7.0;
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = TERMS.iter().enumerate().skip(1).fold(TERMS[0], |sum, (i, term)| sum + term / (x + i as f64));
    let t = x + G + 0.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_gamma_matches_tables() {
        for (x, want) in [
            (0.1, 2.252_712_651_734_206),
            (0.5, 0.572_364_942_924_700_1),
            (1.0, 0.0),
            (3.7, 1.428_072_326_665_387_3),
            (100.0, 359.134_205_369_575_4),
            (1e6, 12_815_504.569_147_611),
        ] {
            let got: f64 = ln_gamma(x);
            assert!((got - want).abs() <= 1e-13 * want.abs().max(0.1), "{x}: {got}");
        }
    }

    #[test]
    fn psi_has_no_seam() {
        for x in [1e-9_f64, 0.029_999_999, 0.030_000_001] {
            let exact = -(-x).ln_1p() - x;
            assert!((psi_exponential(x) - exact).abs() < 1e-16_f64.max(1e-12 * exact), "{x}");
        }
    }
}
