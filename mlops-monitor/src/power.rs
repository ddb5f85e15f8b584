//! How many rows a verdict needs: the smallest n at which a declared effect can be seen.
//!
//! A test that says nothing on 50 rows has not shown that nothing changed. Ask first:
//!
//! ```
//! use mlops_core::Verdict;
//! use mlops_monitor::power;
//!
//! let needed = power::rows_for_proportions(0.05, 0.08, 0.05, 0.8)?; // per arm
//! assert_eq!(needed, 1_059);
//! let verdict = if 300 < needed { Verdict::Inconclusive } else { Verdict::Pass };
//! # assert_eq!(verdict, Verdict::Inconclusive);
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every function
//! - The result is a whole number of rows, rounded up, at least 1 and at most `u64::MAX`.
//! - `alpha` is the probability of a false alarm, both sides together, and `power` that of seeing an effect of the given
//!   size; both in (0, 1).
//! - Tests at a fixed number of rows, but for [`rows_for_width`], which is about looking at every row.

use crate::sequential::asymptotic_radius;
use crate::special::normal_quantile;
use crate::{Error, Result};

/// Rows for a test of one mean against a fixed value to see a difference of `effect`.
///
/// ```text
/// n = ((z_(1-α/2) + z_power) sd / effect)²
/// ```
/// `effect` and the standard deviation `sd` in the same units; for values in a range of width `w`, `sd <= w/2`.
///
/// # Errors
/// [`Error::InvalidInput`] if `effect` is 0, `sd` negative, either not finite, or `alpha` or `power` not in (0, 1).
///
/// # Source
/// The normal approximation, as in Chow, Shao and Wang (2008), "Sample size calculations in clinical research", 3.1;
/// `tests/golden/power.json`.
///
/// # Examples
/// ```
/// assert_eq!(mlops_monitor::power::rows_for_mean(0.1, 0.5, 0.05, 0.8)?, 197);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn rows_for_mean(effect: f64, sd: f64, alpha: f64, power: f64) -> Result<u64> {
    check_effect(effect)?;
    check_deviation("sd", sd)?;
    let z = z_sum(alpha, power)?;
    Ok(whole((z * sd / effect).powi(2)))
}

/// Rows of **each** of two arms to see a difference of `effect` between their means.
///
/// ```text
/// n = (z_(1-α/2) + z_power)² (sd_a² + sd_b²) / effect²
/// ```
///
/// # Errors
/// As [`rows_for_mean`].
///
/// # Source
/// As [`rows_for_mean`], 3.2; `tests/golden/power.json`.
///
/// # Examples
/// ```
/// assert_eq!(mlops_monitor::power::rows_for_means(0.1, 0.5, 0.5, 0.05, 0.8)?, 393);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn rows_for_means(effect: f64, sd_a: f64, sd_b: f64, alpha: f64, power: f64) -> Result<u64> {
    check_effect(effect)?;
    check_deviation("sd_a", sd_a)?;
    check_deviation("sd_b", sd_b)?;
    let z = z_sum(alpha, power)?;
    Ok(whole((z / effect * sd_a).powi(2) + (z / effect * sd_b).powi(2)))
}

/// Rows of **each** of two arms to see that their shares are `a` and `b`, by the pooled z-test.
///
/// ```text
/// n = (z_(1-α/2) sqrt(2 p (1-p)) + z_power sqrt(a (1-a) + b (1-b)))² / (a - b)²,      p = (a + b)/2
/// ```
///
/// # Errors
/// [`Error::InvalidInput`] if `a` or `b` is not in [0, 1], they are equal, or `alpha` or `power` is not in (0, 1).
///
/// # Source
/// Fleiss, Levin and Paik (2003), "Statistical methods for rates and proportions", equation 4.14 without the correction for
/// continuity; `tests/golden/power.json`.
///
/// # Examples
/// ```
/// assert_eq!(mlops_monitor::power::rows_for_proportions(0.1, 0.15, 0.05, 0.8)?, 686);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn rows_for_proportions(a: f64, b: f64, alpha: f64, power: f64) -> Result<u64> {
    for (what, p) in [("a", a), ("b", b)] {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::invalid(what, format!("must lie in [0, 1], got {p}")));
        }
    }
    if a == b {
        return Err(Error::invalid("b", format!("must differ from a = {a}, else there is no effect to see")));
    }
    check_levels(alpha, power)?;
    let p = f64::midpoint(a, b);
    let null = -normal_quantile(alpha / 2.0) * (2.0 * p * (1.0 - p)).sqrt();
    let alternative = normal_quantile(power) * (a * (1.0 - a) + b * (1.0 - b)).sqrt();
    Ok(whole(((null + alternative).max(0.0) / (a - b)).powi(2)))
}

/// Rows of **each** of two samples so that the Kolmogorov–Smirnov test sees distributions at a `distance`.
///
/// ```text
/// n = ((sqrt(ln(2/α)) + sqrt(ln(1/(1-power)))) / distance)²
/// ```
/// A bound, not an approximation, with the test's asymptotic critical value `sqrt(ln(2/α)/n)`: by Hoeffding's inequality at
/// the point of the largest difference the power is at least `power`, whatever the distributions. For samples of other
/// sizes take `n = 2 n_a n_b/(n_a + n_b)`.
///
/// # Errors
/// [`Error::InvalidInput`] if `distance` is not in (0, 1] or `alpha` or `power` not in (0, 1).
///
/// # Source
/// Hoeffding (1963), doi:10.1080/01621459.1963.10500830, for the difference of two means; that the power is reached is
/// simulated in `tests/it/sequential.rs`.
///
/// # Examples
/// ```
/// assert_eq!(mlops_monitor::power::rows_for_ks(0.1, 0.05, 0.8)?, 1_018);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn rows_for_ks(distance: f64, alpha: f64, power: f64) -> Result<u64> {
    if !(distance > 0.0 && distance <= 1.0) {
        return Err(Error::invalid("distance", format!("must lie in (0, 1], got {distance}")));
    }
    check_levels(alpha, power)?;
    let critical = (2.0 / alpha).ln().sqrt();
    let margin = (-(1.0 - power).ln()).sqrt();
    Ok(whole(((critical + margin) / distance).powi(2)))
}

/// Rows after which an [`AsymptoticCs`](crate::sequential::AsymptoticCs) tuned for that many is `half_width` on either side:
/// what watching at every row costs. [`bounded_mean`](crate::sequential::bounded_mean)'s sequences need about twice
/// as many.
///
/// # Errors
/// [`Error::InvalidInput`] if `half_width` is not positive or `sd` negative, either not finite, or `alpha` not in (0, 1).
///
/// # Examples
/// ```
/// use mlops_monitor::power::{rows_for_mean, rows_for_width};
/// let watched = rows_for_width(0.01, 0.3, 0.05)?;
/// assert!((7_000..9_000).contains(&watched), "{watched}"); // one look: 1.96² · 0.3²/0.01² = 3,458
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn rows_for_width(half_width: f64, sd: f64, alpha: f64) -> Result<u64> {
    if !(half_width.is_finite() && half_width > 0.0) {
        return Err(Error::invalid("half_width", format!("must be finite and above 0, got {half_width}")));
    }
    check_deviation("sd", sd)?;
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(Error::invalid("alpha", format!("must lie in (0, 1), got {alpha}")));
    }
    // Tuned for the row it is looked at, the radius is a constant over the root of the rows.
    Ok(whole((sd * asymptotic_radius(1.0, alpha, 1.0) / half_width).powi(2)))
}

fn z_sum(alpha: f64, power: f64) -> Result<f64> {
    check_levels(alpha, power)?;
    // A power below α/2 needs no rows.
    Ok((normal_quantile(power) - normal_quantile(alpha / 2.0)).max(0.0))
}

fn check_levels(alpha: f64, power: f64) -> Result<()> {
    for (what, level) in [("alpha", alpha), ("power", power)] {
        if !(level > 0.0 && level < 1.0) {
            return Err(Error::invalid(what, format!("must lie in (0, 1), got {level}")));
        }
    }
    Ok(())
}

fn check_effect(effect: f64) -> Result<()> {
    if effect.is_finite() && effect != 0.0 {
        return Ok(());
    }
    Err(Error::invalid("effect", format!("must be finite and not 0, got {effect}")))
}

fn check_deviation(what: &str, sd: f64) -> Result<()> {
    if sd.is_finite() && sd >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(what, format!("must be finite and at least 0, got {sd}")))
}

/// Rounds up; a float beyond `u64` saturates.
fn whole(rows: f64) -> u64 {
    (rows.ceil() as u64).max(1)
}
