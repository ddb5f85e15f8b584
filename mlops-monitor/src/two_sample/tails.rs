//! Tail probabilities of the distributions that the tests refer to.

use std::f64::consts::PI;

const TINY: f64 = 1e-300;
const MOST_TERMS: u32 = 1_000_000;

/// `P(Z > z)` of a standard normal variable.
pub(super) fn normal_sf(z: f64) -> f64 {
    let tail = 0.5 * gamma_q(0.5, 0.5 * z * z);
    if z < 0.0 { 1.0 - tail } else { tail }
}

/// `P(|Z| > |z|)` of a standard normal variable.
pub(super) fn normal_two_sided(z: f64) -> f64 {
    gamma_q(0.5, 0.5 * z * z)
}

/// `P(X > x)` of a chi-square variable; 1 without degrees of freedom.
pub(super) fn chi2_sf(x: f64, df: f64) -> f64 {
    if df <= 0.0 { 1.0 } else { gamma_q(0.5 * df, 0.5 * x.max(0.0)) }
}

/// `P(X > x)` of a chi-square variable with noncentrality `lambda`: a Poisson mixture of central ones.
pub(super) fn noncentral_chi2_sf(x: f64, df: f64, lambda: f64) -> f64 {
    let (half, x2) = (0.5 * lambda, 0.5 * x);
    let width = 12.0 * half.sqrt() + 40.0;
    let from = (half - width).max(0.0).floor();
    let mut weight = poisson(from, half);
    let mut a = 0.5 * df + from;
    let mut tail = gamma_q(a, x2);
    let mut step = gamma_term(a, x2);
    let (mut sum, mut j) = (0.0, from);
    while j <= half + width {
        sum += weight * tail;
        j += 1.0;
        weight *= half / j;
        tail += step;
        a += 1.0;
        step *= x2 / a;
    }
    sum.min(1.0)
}

/// `P(F > f)` of Fisher's distribution.
pub(super) fn f_sf(f: f64, df1: f64, df2: f64) -> f64 {
    if f <= 0.0 { 1.0 } else { beta_inc(0.5 * df2, 0.5 * df1, df2 / (df2 + df1 * f)) }
}

/// `P(F > f)` of Fisher's distribution with noncentrality `lambda`: a Poisson mixture of beta tails.
pub(super) fn noncentral_f_sf(f: f64, df1: f64, df2: f64, lambda: f64) -> f64 {
    if f <= 0.0 {
        return 1.0;
    }
    let (half, b) = (0.5 * lambda, 0.5 * df2);
    let y = df2 / (df1 * f + df2);
    let x = df1 * f / (df1 * f + df2);
    let width = 12.0 * half.sqrt() + 40.0;
    let from = (half - width).max(0.0).floor();
    let mut weight = poisson(from, half);
    let mut a = 0.5 * df1 + from;
    let mut tail = beta_inc(b, a, y);
    let mut step = (ln_gamma(a + b) - ln_gamma(a + 1.0) - ln_gamma(b) + a * x.ln() + b * y.ln()).exp();
    let (mut sum, mut j) = (0.0, from);
    while j <= half + width {
        sum += weight * tail;
        j += 1.0;
        weight *= half / j;
        tail += step;
        step *= x * (a + b) / (a + 1.0);
        a += 1.0;
    }
    sum.min(1.0)
}

/// `P(X > x)` of the limit of the Cramér–von Mises statistic, `Σ χ²₁ / (jπ)²`.
pub(super) fn cramer_von_mises_sf(x: f64) -> f64 {
    // In y = u² the determinant is sin u / u, with u = (2k - ½ + s/2)π on the k-th piece.
    smirnov(x, |k, s| {
        let u = (2.0 * k - 0.5 + 0.5 * s) * PI;
        (u * u, u, 0.5 * PI * 2.0 * u)
    })
}

/// `P(X > x)` of the limit of the Anderson–Darling statistic, `Σ χ²₁ / (j(j + 1))`.
pub(super) fn anderson_darling_sf(x: f64) -> f64 {
    // In y = (v² - 1)/4 the determinant is -cos(πv/2) / (πy), with v = 4k + s on the k-th piece.
    smirnov(x, |k, s| {
        let v = 4.0 * k + s;
        let y = 0.25 * (v * v - 1.0);
        (y, PI * y, 0.5 * v)
    })
}

/// Smirnov's formula for `P(Σ λ_j χ²₁ > x)` where the determinant is `±cos(πs/2) / d` on the k-th piece:
/// `(1/π) Σ_k (-1)^(k+1) ∫ exp(-xy/2) / (y sqrt|D(y)|) dy` over `[1/λ_(2k-1), 1/λ_2k]`.
///
/// `piece(k, s)` is `(y, d, dy/ds)`, `s` in (-1, 1). The integrals are Gauss–Chebyshev sums, which take the
/// singularities at both ends exactly. Every digit holds for small probabilities too.
fn smirnov(x: f64, piece: impl Fn(f64, f64) -> (f64, f64, f64)) -> f64 {
    if x <= 0.003 {
        return 1.0;
    }
    let mut sum = 0.0;
    for k in 1..2_000 {
        let k = f64::from(k);
        let (low, _, _) = piece(k, -1.0);
        let (high, _, _) = piece(k, 1.0);
        let scale = (-0.5 * x * low).exp();
        if scale < 1e-18 * sum || scale == 0.0 {
            break;
        }
        let nodes = 48 + (0.5 * x * (high - low)).min(2_000.0) as u32;
        let mut integral = 0.0;
        for i in 0..nodes {
            let theta = PI * (f64::from(i) + 0.5) / f64::from(nodes);
            let (s, y_gap) = (theta.cos(), theta.sin());
            // 1 - |s| without cancellation.
            let edge = 2.0 * (0.5 * theta.min(PI - theta)).sin().powi(2);
            let (y, d, slope) = piece(k, s);
            let cosine = (0.5 * PI * edge).sin();
            integral += (-0.5 * x * (y - low)).exp() * slope / y * (d / cosine).sqrt() * y_gap;
        }
        integral *= scale * PI / f64::from(nodes);
        sum += if k % 2.0 == 1.0 { integral } else { -integral };
    }
    (sum / PI).clamp(0.0, 1.0)
}

/// `ln Γ(x)` for `x > 0` (Stirling's series above 10).
pub(super) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 1.0);
    while x < 10.0 {
        shift *= x;
        x += 1.0;
    }
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * PI).ln() + stirling(x) - shift.ln()
}

/// What Stirling's formula leaves out of `ln Γ(x)`, for `x >= 10`.
fn stirling(x: f64) -> f64 {
    let r = 1.0 / (x * x);
    (1.0 / 12.0
        - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r * (1.0 / 1188.0 - r * 691.0 / 360_360.0)))))
        / x
}

fn poisson(k: f64, mean: f64) -> f64 {
    if mean <= 0.0 {
        return f64::from(u8::from(k == 0.0));
    }
    gamma_term(k, mean)
}

/// `x^a e^(-x) / Γ(a + 1)`.
fn gamma_term(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return f64::from(u8::from(a == 0.0));
    }
    if a < 10.0 {
        return (a * x.ln() - x - ln_gamma(a + 1.0)).exp();
    }
    let t = (x - a) / a;
    let exponent = if t > -0.5 { a * (t.ln_1p() - t) } else { a * (x / a).ln() + a - x };
    (exponent - stirling(a)).exp() / (2.0 * PI * a).sqrt()
}

/// The upper incomplete gamma function over `Γ(a)`, for `a > 0`.
pub(super) fn gamma_q(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x == f64::INFINITY {
        return 0.0;
    }
    let front = gamma_term(a, x);
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0, 1.0, a);
        for _ in 0..MOST_TERMS {
            k += 1.0;
            term *= x / k;
            sum += term;
            if term < 1e-17 * sum {
                break;
            }
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    // Lentz's method for the continued fraction.
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..MOST_TERMS {
        let i = f64::from(i);
        let step = -i * (i - a);
        b += 2.0;
        d = 1.0 / avoid_zero(step * d + b);
        c = avoid_zero(b + step / c);
        let change = d * c;
        h *= change;
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (front * a * h).clamp(0.0, 1.0)
}

fn avoid_zero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}

/// The regularised incomplete beta function `I_x(a, b)`.
pub(super) fn beta_inc(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_inc(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp() / a;
    let (mut c, mut d) = (1.0, 1.0 / avoid_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut h = d;
    for i in 1..MOST_TERMS {
        let i = f64::from(i);
        for step in [
            i * (b - i) * x / ((a + 2.0 * i - 1.0) * (a + 2.0 * i)),
            -(a + i) * (a + b + i) * x / ((a + 2.0 * i) * (a + 2.0 * i + 1.0)),
        ] {
            d = 1.0 / avoid_zero(1.0 + step * d);
            c = avoid_zero(1.0 + step / c);
            h *= d * c;
        }
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

/// Where an increasing function crosses 0 in `[low, high]`, to the last bits.
pub(super) fn root(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if f(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
