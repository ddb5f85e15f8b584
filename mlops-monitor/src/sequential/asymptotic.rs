//! Confidence sequence for the mean of unbounded values, valid in the limit of many rows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ConfidenceSequence, check_alpha, describe};
use crate::{Error, Estimate, Result};

/// **Asymptotic** confidence sequence for the mean of values without known bounds, such as latencies.
///
/// ```text
/// mean ± s_n sqrt( 2 (nρ² + 1)/(n²ρ²) · ln( sqrt(nρ² + 1)/α ) ),     ρ² = (-2 ln α + ln(1 - 2 ln α)) / t*
/// ```
/// `s_n²` is the variance of the rows (divisor `n`), `t*` the number of rows at which the interval is narrowest in
/// proportion. The guarantee is the time-uniform analogue of the central limit theorem: for independent rows of one
/// distribution with somewhat more than two moments the error goes to that of an exact sequence as the *first look* goes
/// to infinity. It says nothing about few rows: there is no interval before
/// [`first_look`](AsymptoticCsBuilder::first_look) rows, and where heavy tails meet few rows the true error is above
/// `alpha`. If bounds are known, [`bounded_mean`](super::bounded_mean) gives a guarantee that needs no limit.
///
/// [`merge`](Self::merge) equals one sequence fed both inputs, up to rounding.
///
/// # Source
/// Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), doi:10.1214/24-AOS2408, theorem 2.2 and the tuning of ρ in its
/// appendix; `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::sequential::{AsymptoticCs, ConfidenceSequence};
///
/// let mut latency_ms = AsymptoticCs::builder().alpha(0.05).first_look(200).build()?;
/// for i in 0..1_000 {
///     latency_ms.update(20.0 + f64::from(i % 10))?;
///     assert_eq!(latency_ms.estimate().is_some(), i >= 199);
/// }
/// let mean = latency_ms.estimate().expect("1,000 rows");
/// assert!((mean.value - 24.5).abs() < 1e-9 && mean.high - mean.low < 0.8);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AsymptoticCs {
    alpha: f64,
    tuned_for: u64,
    first_look: u64,
    n: u64,
    mean: f64,
    /// Sum of squared deviations from the mean.
    deviations: f64,
}

/// Options of an [`AsymptoticCs`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AsymptoticCsBuilder {
    alpha: f64,
    tuned_for: u64,
    first_look: u64,
}

impl AsymptoticCsBuilder {
    /// Probability that any interval ever misses, in the limit (default 0.05).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Rows at which the interval is narrowest in proportion, at least 1 (default 1,000).
    pub fn tuned_for(mut self, rows: u64) -> Self {
        self.tuned_for = rows;
        self
    }

    /// Rows before which there is no interval, at least 2 (default 100).
    pub fn first_look(mut self, rows: u64) -> Self {
        self.first_look = rows;
        self
    }

    /// The sequence, without rows yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<AsymptoticCs> {
        let Self { alpha, tuned_for, first_look } = self;
        check_alpha(alpha)?;
        if tuned_for == 0 {
            return Err(Error::invalid("tuned_for", "must be at least 1 row"));
        }
        if first_look < 2 {
            return Err(Error::invalid("first_look", format!("must be at least 2 rows, got {first_look}")));
        }
        Ok(AsymptoticCs { alpha, tuned_for, first_look, n: 0, mean: 0.0, deviations: 0.0 })
    }
}

/// Half the width of the interval after `n` rows, in standard deviations.
pub(crate) fn asymptotic_radius(n: f64, alpha: f64, tuned_for: f64) -> f64 {
    let rho2 = (-2.0 * alpha.ln() + (1.0 - 2.0 * alpha.ln()).ln()) / tuned_for;
    let scaled = n * rho2 + 1.0;
    (2.0 * scaled / (n * n * rho2) * (0.5 * scaled.ln() - alpha.ln())).sqrt()
}

impl AsymptoticCs {
    /// Options, at first the defaults.
    pub fn builder() -> AsymptoticCsBuilder {
        AsymptoticCsBuilder { alpha: 0.05, tuned_for: 1_000, first_look: 100 }
    }

    /// Standard deviation of the rows (divisor `n`), `None` without rows.
    #[must_use]
    pub fn standard_deviation(&self) -> Option<f64> {
        (self.n > 0).then(|| (self.deviations / self.n as f64).sqrt())
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if an option differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.alpha, self.tuned_for, self.first_look) != (other.alpha, other.tuned_for, other.first_look) {
            return Err(Error::invalid("other", "has another alpha, tuned_for or first_look"));
        }
        let (n, m) = (self.n as f64, other.n as f64);
        if m > 0.0 {
            let off = other.mean - self.mean;
            self.mean += off * (m / (n + m));
            self.deviations += other.deviations + off * off * (n * m / (n + m));
        }
        self.n = self.n.saturating_add(other.n);
        Ok(())
    }
}

impl ConfidenceSequence for AsymptoticCs {
    fn update(&mut self, x: f64) -> Result<()> {
        // Squares beyond this would add up to infinity.
        if !x.is_finite() || x.abs() > 1e100 {
            return Err(Error::invalid("x", format!("must be finite and within ±1e100, got {x}")));
        }
        self.n = self.n.saturating_add(1);
        let off = x - self.mean;
        self.mean += off / self.n as f64;
        self.deviations += off * (x - self.mean);
        Ok(())
    }

    fn estimate(&self) -> Option<Estimate> {
        if self.n < self.first_look {
            return None;
        }
        let deviation = self.standard_deviation()?;
        let radius = deviation * asymptotic_radius(self.n as f64, self.alpha, self.tuned_for as f64);
        Some(Estimate::new(self.mean, self.mean - radius, self.mean + radius, self.n))
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }

    fn n(&self) -> u64 {
        self.n
    }
}

impl fmt::Display for AsymptoticCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "mean", self.estimate(), self.n, self.alpha, "asymptotic")
    }
}
