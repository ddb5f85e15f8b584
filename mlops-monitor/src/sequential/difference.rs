//! By how much two streams differ in the mean.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ConfidenceSequence, EmpiricalBernsteinCs, bounded_mean, describe};
use crate::{Error, Estimate, Result};

/// One of two streams that are compared.
#[allow(clippy::exhaustive_enums)] // Two arms are the contract; more are compared in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The first: the live model, the control.
    A,
    /// The second: the canary, the treatment.
    B,
}

/// Confidence sequence for the mean of stream `b` minus that of stream `a`.
///
/// ```text
/// [low_b - high_a, high_b - low_a]        alpha = alpha_a + alpha_b
/// ```
/// The union bound over the sequences of the two arms, of any kind; the arms may have any numbers of rows in any order, and
/// need not be independent. For arms of equal size and variance it is about √2 wider than one interval for the difference
/// could be. If both models answer the same rows, feed the differences to one sequence instead, or use
/// [`PairedSignTest`](super::PairedSignTest).
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::{Arm, ConfidenceSequence, Demand, DifferenceCs};
///
/// // Error rates: the canary gets every tenth request and may be worse by 5 points.
/// let mut test = DifferenceCs::bounded(0.0, 1.0, 0.05)?;
/// for i in 0..20_000 {
///     let arm = if i % 10 == 0 { Arm::B } else { Arm::A };
///     let wrong = if arm == Arm::B { i % 50 == 0 } else { i % 20 == 1 };
///     test.update(arm, if wrong { 1.0 } else { 0.0 })?;
/// }
/// assert_eq!(test.verdict(Demand::AtMost(0.05)), Verdict::Fail, "{test}"); // 20 % against 5.6 %
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceCs<C = EmpiricalBernsteinCs> {
    a: C,
    b: C,
}

impl DifferenceCs {
    /// Both arms with values in [`low`, `high`], each by [`EmpiricalBernsteinCs`] at `alpha/2`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range is empty or not finite or `alpha` is not in (0, 1).
    pub fn bounded(low: f64, high: f64, alpha: f64) -> Result<Self> {
        super::check_alpha(alpha)?;
        let arm = bounded_mean().range(low, high).alpha(alpha / 2.0).empirical_bernstein()?;
        Ok(Self { a: arm.clone(), b: arm })
    }
}

impl<C: ConfidenceSequence> DifferenceCs<C> {
    /// From the sequences of the arms, such as two [`HedgedCs`](super::HedgedCs) or two
    /// [`AsymptoticCs`](super::AsymptoticCs), at the level that their errors add up to.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the levels add up to 1 or more.
    pub fn new(a: C, b: C) -> Result<Self> {
        let alpha = a.alpha() + b.alpha();
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(Error::invalid("alpha", format!("that of both arms together must lie in (0, 1), got {alpha}")));
        }
        Ok(Self { a, b })
    }

    /// Takes the next row of an arm.
    ///
    /// # Errors
    /// As [`ConfidenceSequence::update`] of the arm; nothing is added then.
    pub fn update(&mut self, arm: Arm, x: f64) -> Result<()> {
        match arm {
            Arm::A => self.a.update(x),
            Arm::B => self.b.update(x),
        }
    }

    /// The sequence of an arm.
    #[must_use]
    pub fn arm(&self, arm: Arm) -> &C {
        match arm {
            Arm::A => &self.a,
            Arm::B => &self.b,
        }
    }

    /// Mean of `b` minus mean of `a` with its interval; `None` until both arms have one. `n` is that of both together.
    #[must_use]
    pub fn estimate(&self) -> Option<Estimate> {
        let (a, b) = (self.a.estimate()?, self.b.estimate()?);
        Some(Estimate::new(b.value - a.value, b.low - a.high, b.high - a.low, a.n.saturating_add(b.n)))
    }

    /// Probability that any interval ever misses.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.a.alpha() + self.b.alpha()
    }

    /// Whether the difference meets `demand`, as [`ConfidenceSequence::verdict`].
    #[must_use]
    pub fn verdict(&self, demand: super::Demand) -> mlops_core::Verdict {
        self.estimate().map_or(mlops_core::Verdict::Inconclusive, |estimate| demand.verdict(&estimate))
    }
}

impl<C: ConfidenceSequence> fmt::Display for DifferenceCs<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.a.n().saturating_add(self.b.n());
        describe(f, "difference of means", self.estimate(), n, self.alpha(), "union of both arms")
    }
}
