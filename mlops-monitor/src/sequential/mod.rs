//! Anytime-valid inference: evidence and intervals that may be looked at after every row.
//!
//! A p-value is good for one look at a number of rows fixed beforehand; watched until it is small, it will be. The
//! evidence here is an *e-process*: under the null hypothesis the chance that it **ever** reaches `1/α` is at most
//! `α`, however often it is looked at and whenever the rows end. A *confidence sequence* is the same for intervals: the
//! chance that **any** of them misses the true value is at most `α`.
//!
//! ```
//! use mlops_core::Verdict;
//! use mlops_monitor::PairedSignTest;
//!
//! // The live model `a` and the canary `b` answer the same rows; 1 point of accuracy may be lost.
//! let mut test = PairedSignTest::new(0.01)?;
//! for i in 0..1_000 {
//!     test.update(i % 10 != 0, i % 10 > 1); // 90 % against 80 % right
//!     if test.verdict(0.01)? == Verdict::Fail {
//!         break;
//!     }
//! }
//! assert!(test.n() < 300, "stopped early at {}", test.n());
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every type
//! - Valid at every look for rows whose conditional mean given the past obeys the hypothesis: no independence and no
//!   distribution is assumed, unless the type's docs say otherwise.
//! - A value the type is not defined for is an error and leaves the state as it was. A range is declared, never learned
//!   from the rows: a bound that follows the largest row seen so far guarantees nothing about the next.
//! - The whole state is serde data, and does not grow with the rows ([`QuantileCs`] and [`CdfBand`] say how far theirs
//!   may).
//! - What merges stays valid at every look; the docs say whether it also equals one state fed both inputs.
//! - One-sided evidence for each side is separate; deciding on whichever is first spends `α` on each.
//!
//! # Choosing
//! | question | type | assumes |
//! | --- | --- | --- |
//! | the mean of values in a known range | [`EmpiricalBernsteinCs`]; narrower, slower: [`HedgedCs`] | one mean |
//! | the same, when the mean itself may wander: the average so far | [`StitchedCs`] | |
//! | the mean of unbounded values, such as a latency | [`AsymptoticCs`] | independent rows, many of them |
//! | a quantile; the whole distribution | [`QuantileCs`]; [`CdfBand`] | independent rows of one distribution |
//! | by how much two streams differ in the mean | [`DifferenceCs`] | as the sequences of its arms |
//! | a bounded mean against one value | [`BettingTest`] | |
//! | two streams: other means; other distributions | [`TwoSampleMeanTest`]; [`TwoSampleKsTest`] | |
//! | two models on the same rows | [`PairedSignTest`] | |
//! | has the risk risen by more than is tolerated? | [`RiskTest`] | |
//!
//! Many tests at once: [`multiple`](crate::multiple). Rows needed to see an effect: [`power`](crate::power).

mod asymptotic;
mod betting;
mod boundary;
mod difference;
mod evalue;
mod hedged;
mod mean;
mod paired;
mod quantile;
mod risk;
mod two_sample;

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

pub(crate) use asymptotic::asymptotic_radius;
pub use asymptotic::{AsymptoticCs, AsymptoticCsBuilder};
pub use betting::BettingTest;
pub(crate) use betting::{BETS, STAKES};
pub use boundary::poly_stitched;
pub use difference::{Arm, DifferenceCs};
pub use evalue::EValue;
pub use hedged::HedgedCs;
pub use mean::{BoundedMeanBuilder, EmpiricalBernsteinCs, StitchedCs, bounded_mean};
pub use paired::PairedSignTest;
#[cfg(feature = "alerts")]
pub(crate) use paired::{share, share_below};
pub use quantile::{CdfBand, CdfBandBuilder, QuantileCs, QuantileCsBuilder};
pub use risk::{RiskTest, RiskTestBuilder};
pub use two_sample::{TwoSampleKsTest, TwoSampleMeanTest};

use crate::{Error, Estimate, Result};

/// Intervals for one number, valid at all looks together.
///
/// # Contract
/// - **Coverage.** `P(some interval ever misses the true value) <= alpha`, under what the type assumes.
/// - **Errors leave no trace.** After an `Err` from `update` the sequence is as before the call.
/// - **Deterministic.** The same rows in the same order give the same intervals.
/// - **Never panics**, whatever the values.
pub trait ConfidenceSequence: fmt::Debug + fmt::Display {
    /// Takes the next row.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the sequence is not defined for `x`.
    fn update(&mut self, x: f64) -> Result<()>;

    /// The estimate with its interval; `None` while there is no interval with two ends.
    fn estimate(&self) -> Option<Estimate>;

    /// Probability that any interval ever misses.
    fn alpha(&self) -> f64;

    /// Rows so far.
    fn n(&self) -> u64;

    /// Whether the number meets `demand`. Looked at after every row, a `Pass` or `Fail` is ever wrong with probability
    /// at most [`alpha`](Self::alpha), for any number of demands together.
    fn verdict(&self, demand: Demand) -> Verdict {
        self.estimate().map_or(Verdict::Inconclusive, |estimate| demand.verdict(&estimate))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<C: ConfidenceSequence + ?Sized> ConfidenceSequence for Box<C> {
    fn update(&mut self, x: f64) -> Result<()> {
        (**self).update(x)
    }

    fn estimate(&self) -> Option<Estimate> {
        (**self).estimate()
    }

    fn alpha(&self) -> f64 {
        (**self).alpha()
    }

    fn n(&self) -> u64 {
        (**self).n()
    }

    fn verdict(&self, demand: Demand) -> Verdict {
        (**self).verdict(demand)
    }
}

/// What a number should be.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::{Estimate, sequential::Demand};
///
/// let error = Estimate::new(0.04, 0.03, 0.06, 900);
/// assert_eq!(Demand::AtMost(0.1).verdict(&error), Verdict::Pass);
/// assert_eq!(Demand::AtMost(0.05).verdict(&error), Verdict::Inconclusive);
/// assert_eq!(Demand::AtLeast(0.1).verdict(&error), Verdict::Fail);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Demand {
    /// Not above the bound: an error rate, a latency, a distance.
    AtMost(f64),
    /// Not below the bound: an accuracy.
    AtLeast(f64),
    /// Not below the first and not above the second bound.
    Within(f64, f64),
}

impl Demand {
    /// `Pass` if the whole interval meets the demand, `Fail` if no point of it does, else `Inconclusive`; so too for an
    /// interval that is not a number.
    #[must_use]
    pub fn verdict(self, estimate: &Estimate) -> Verdict {
        self.on(Some(estimate.low), Some(estimate.high))
    }

    /// The verdict on an interval that may be open on a side.
    fn on(self, low: Option<f64>, high: Option<f64>) -> Verdict {
        let (least, most) = match self {
            Self::AtMost(most) => (None, Some(most)),
            Self::AtLeast(least) => (Some(least), None),
            Self::Within(least, most) => (Some(least), Some(most)),
        };
        // A side without a demand is met; one without an end of the interval is not known to be.
        let met = |end: Option<f64>, bound: Option<f64>, holds: fn(f64, f64) -> bool| {
            bound.is_none_or(|bound| end.is_some_and(|end| holds(end, bound)))
        };
        let beyond = |end: Option<f64>, bound: Option<f64>, holds: fn(f64, f64) -> bool| {
            bound.is_some_and(|bound| end.is_some_and(|end| holds(end, bound)))
        };
        if beyond(low, most, |low, most| low > most) || beyond(high, least, |high, least| high < least) {
            Verdict::Fail
        } else if met(high, most, |high, most| high <= most) && met(low, least, |low, least| low >= least) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Within(least, most) => write!(f, "in [{least}, {most}]"),
        }
    }
}

/// One line for a sequence: `mean 0.412 [0.361, 0.463] (n = 900), alpha 0.05 at all looks together, hedged betting`.
fn describe(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    estimate: Option<Estimate>,
    n: u64,
    alpha: f64,
    how: &str,
) -> fmt::Result {
    write!(f, "{what} ")?;
    match estimate {
        Some(estimate) => fmt::Display::fmt(&estimate, f)?,
        None => write!(f, "not bounded yet (n = {})", crate::metrics::grouped(n))?,
    }
    write!(f, ", alpha {alpha} at all looks together, {how}")
}

/// Checks an error probability.
fn check_alpha(alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha < 1.0 {
        return Ok(());
    }
    Err(Error::invalid("alpha", format!("must lie in (0, 1), got {alpha}")))
}
