//! E-values: evidence, how to combine it, and its exchange with p-values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Evidence against a null hypothesis: the capital of a gambler who started with 1 and bet against it.
///
/// Kept as a logarithm, because real evidence exceeds what a floating-point number holds.
///
/// # Examples
/// ```
/// let evidence = mlops_monitor::EValue::from_log(4.0);
/// assert!(evidence.rejects(0.05) && !evidence.rejects(0.01)); // e^4 = 54.6 is above 20, below 100
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EValue {
    log: f64,
}

impl EValue {
    /// Evidence with the given natural logarithm.
    #[must_use]
    pub fn from_log(log: f64) -> Self {
        Self { log }
    }

    /// Natural logarithm of the capital; 0 is no evidence either way.
    #[must_use]
    pub fn log(self) -> f64 {
        self.log
    }

    /// The capital, at most [`f64::MAX`].
    #[must_use]
    pub fn value(self) -> f64 {
        self.log.exp().min(f64::MAX)
    }

    /// Whether the null hypothesis is rejected at level `alpha`: the capital has reached `1/alpha`.
    #[must_use]
    pub fn rejects(self, alpha: f64) -> bool {
        self.log >= -alpha.ln()
    }

    /// `min(1, 1/e)`: a p-value that is valid at every look.
    #[must_use]
    pub fn p_value(self) -> f64 {
        (-self.log).exp().min(1.0)
    }
}

impl EValue {
    /// No evidence either way: `e = 1`.
    pub const NONE: Self = Self { log: 0.0 };

    /// The average, which is evidence against the common null hypothesis **whatever the dependence**: of tests that saw
    /// the same rows, of shards, of looks at one row count each. [`EValue::NONE`] for no values.
    ///
    /// # Source
    /// Vovk and Wang (2021), doi:10.1214/20-AOS2020: the average dominates every other symmetric combination of
    /// dependent e-values.
    ///
    /// # Examples
    /// ```
    /// use mlops_monitor::EValue;
    /// let mean = EValue::mean(&[EValue::from_value(60.0)?, EValue::from_value(0.0)?]);
    /// assert!((mean.value() - 30.0).abs() < 1e-9 && mean.rejects(0.05));
    /// # Ok::<(), mlops_monitor::Error>(())
    /// ```
    #[must_use]
    pub fn mean(values: &[Self]) -> Self {
        // Evidence that is not a number counts as none at all: a capital of 0.
        let logs = || values.iter().map(|value| if value.log.is_nan() { f64::NEG_INFINITY } else { value.log });
        let most = logs().fold(f64::NEG_INFINITY, f64::max);
        if values.is_empty() {
            return Self::NONE;
        }
        if most.is_infinite() {
            return Self { log: most };
        }
        let sum: f64 = logs().map(|log| (log - most).exp()).sum();
        Self { log: most + (sum / values.len() as f64).ln() }
    }

    /// The product, which is evidence against the common null hypothesis if the values are **independent**, or each is
    /// evidence given the ones before. [`EValue::NONE`] for no values.
    ///
    /// # Source
    /// Vovk and Wang (2021), doi:10.1214/20-AOS2020.
    ///
    /// # Examples
    /// ```
    /// use mlops_monitor::EValue;
    /// let product = EValue::product(&[EValue::from_value(6.0)?, EValue::from_value(5.0)?]);
    /// assert!((product.value() - 30.0).abs() < 1e-9);
    /// # Ok::<(), mlops_monitor::Error>(())
    /// ```
    #[must_use]
    pub fn product(values: &[Self]) -> Self {
        let log: f64 = values.iter().map(|value| value.log).sum();
        // Infinite against infinitely little, or not a number: a capital of 0.
        Self { log: if log.is_nan() { f64::NEG_INFINITY } else { log } }
    }

    /// Evidence of the given size, `value >= 0`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `value` is negative or not a number.
    pub fn from_value(value: f64) -> Result<Self> {
        if value >= 0.0 {
            return Ok(Self { log: value.ln() });
        }
        Err(Error::invalid("value", format!("must be at least 0, got {value}")))
    }

    /// Evidence from a p-value, for one look: `κ p^(κ - 1)` with `κ` in (0, 1). Smaller `κ` pays more for very small `p`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `p` is not in [0, 1] or `kappa` not in (0, 1).
    ///
    /// # Source
    /// Vovk and Wang (2021), doi:10.1214/20-AOS2020, section 2.
    ///
    /// # Examples
    /// ```
    /// let e = mlops_monitor::EValue::from_p_value(0.0001, 0.5)?;
    /// assert!((e.value() - 50.0).abs() < 1e-9);
    /// # Ok::<(), mlops_monitor::Error>(())
    /// ```
    pub fn from_p_value(p: f64, kappa: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::invalid("p", format!("must lie in [0, 1], got {p}")));
        }
        if !(kappa > 0.0 && kappa < 1.0) {
            return Err(Error::invalid("kappa", format!("must lie in (0, 1), got {kappa}")));
        }
        Ok(Self { log: kappa.ln() + (kappa - 1.0) * p.ln() })
    }

    /// Evidence from a p-value, for one look, without a parameter: the average of `κ p^(κ - 1)` over all `κ`.
    ///
    /// ```text
    /// e = (1 - p + p ln p) / (p ln² p)
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `p` is not in [0, 1].
    ///
    /// # Source
    /// Vovk and Wang (2021), doi:10.1214/20-AOS2020, equation 2.
    ///
    /// # Examples
    /// ```
    /// let e = mlops_monitor::EValue::from_p_value_mixed(0.0001)?;
    /// assert!((e.value() - 117.762).abs() < 1e-3);
    /// # Ok::<(), mlops_monitor::Error>(())
    /// ```
    pub fn from_p_value_mixed(p: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::invalid("p", format!("must lie in [0, 1], got {p}")));
        }
        let l = -p.ln();
        // ∫ κ e^((1-κ) l) dκ = (e^l - 1 - l)/l²; near p = 1 its series, as the difference cancels.
        let log = if l < 1e-3 {
            (0.5 + l / 6.0 + l * l / 24.0).ln()
        } else if l.is_infinite() {
            f64::INFINITY
        } else {
            l + (-(1.0 + l) * p).ln_1p() - 2.0 * l.ln()
        };
        Ok(Self { log })
    }
}

impl fmt::Display for EValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value();
        if (1e-3..1e6).contains(&value) { write!(f, "e = {value:.3}") } else { write!(f, "log e = {:.1}", self.log) }
    }
}
