//! Drift detection: has the data moved since the model was trained?
//!
//! ```
//! use mlops_core::Verdict;
//! use mlops_monitor::{DriftDetector, PsiDetector};
//!
//! let baseline: Vec<f64> = (0..10_000).map(|i| f64::from(i % 1_000)).collect();
//! let detector = PsiDetector::builder().bins(10).fit(&baseline)?;
//!
//! let same: Vec<f64> = (0..2_000).map(|i| f64::from(i * 7 % 1_000)).collect();
//! assert_eq!(detector.score(&same)?.verdict, Verdict::Pass);
//!
//! let moved: Vec<f64> = same.iter().map(|x| x * 0.5).collect();
//! let score = detector.score(&moved)?;
//! assert_eq!(score.verdict, Verdict::Fail);
//! println!("{score}"); // drift: psi above noise 3.1631 [2.5790, 3.7472] (alert at 0.2), …
//! # Ok::<(), mlops_monitor::Error>(())
//! ```
//!
//! # Rules for every detector
//! - Rows with a non-finite value are counted in [`DriftScore::skipped_live`] (or `skipped_baseline`), never
//!   as mass in a bin or a step of a distribution.
//! - The verdict compares an interval for the *effect size* with the threshold, not a p-value with a level:
//!   [`Verdict::Fail`] when the whole interval lies above, [`Verdict::Pass`] when it lies below, and
//!   [`Verdict::Inconclusive`] when it straddles the threshold. More rows of the same two distributions
//!   narrow the interval around the same value, so they settle a verdict and do not turn it over.
//! - Same input, same score; the order of rows does not matter.
//! - A detector is plain data (serde): store it beside the model and load it where the traffic is.
//!
//! # Next
//! [`psi`](PsiDetector) keeps only bin edges and counts and joins shards; [`ks`](KsDetector) needs no bins and
//! keeps the baseline. [`profiles`] compares whole [`Profile`](crate::profile::Profile)s, categories too. For a stream instead of two samples see [`change`](crate::change).

mod ks;
mod method;
pub mod profiles;
mod psi;
mod shares;

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

pub(crate) use ks::{Gap, dkw_margin};
pub use ks::{KsDetector, KsDetectorBuilder, KsMethod, KsTest, ks_two_sample};
pub use method::{Choice, Family, Method, MethodTable, Rule};
pub(crate) use psi::estimate as psi_estimate;
pub use psi::{BinCounts, PsiDetector, PsiDetectorBuilder, psi};

use crate::Result;

/// A fitted comparison of live values with a baseline.
///
/// # Contract
/// - **Pure.** `score` depends on the detector and the values only, not on their order, the time or earlier calls.
/// - **Missing values.** Non-finite values are counted as skipped and otherwise ignored.
/// - **Too few rows** give [`Verdict::Inconclusive`], not an error, down to none at all.
/// - **Never panics**, whatever the values.
pub trait DriftDetector: fmt::Debug + Send + Sync {
    /// The method's usual short name, such as `psi`.
    fn name(&self) -> &str;

    /// Compares `live` (any length and order) with the baseline.
    ///
    /// # Errors
    /// An implementation's own; the detectors of this crate have none.
    fn score(&self, live: &[f64]) -> Result<DriftScore>;
}

#[deny(clippy::missing_trait_methods)]
impl<D: DriftDetector + ?Sized> DriftDetector for Box<D> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn score(&self, live: &[f64]) -> Result<DriftScore> {
        (**self).score(live)
    }
}

/// How far live values are from the baseline, and how sure that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DriftScore {
    /// [`DriftDetector::name`] of the method.
    pub method: String,
    /// The method's raw statistic; 0 when a side has no finite row.
    pub statistic: f64,
    /// Probability of a statistic at least this large if nothing had changed, where the method has one.
    ///
    /// It goes to 0 with more rows under the least change, hence the verdict does not use it.
    pub p_value: Option<f64>,
    /// The quantity that the verdict is about.
    pub effect: Effect,
    /// Effect size from which the change counts as drift: a convention, not a property of the data.
    pub alert_at: f64,
    /// Finite rows in the baseline.
    pub n_baseline: u64,
    /// Finite live rows.
    pub n_live: u64,
    /// Baseline rows left out because the value was not finite.
    pub skipped_baseline: u64,
    /// Live rows left out because the value was not finite.
    pub skipped_live: u64,
    /// `Pass`: the effect is below `alert_at`. `Fail`: it is above. `Inconclusive`: too few rows to tell.
    pub verdict: Verdict,
}

/// The size of a change, in the units of its method, with an interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Effect {
    /// What is measured.
    pub name: String,
    /// Point estimate.
    pub value: f64,
    /// Lower end of the interval, where one can be given.
    pub low: Option<f64>,
    /// Upper end of the interval, where one can be given.
    pub high: Option<f64>,
    /// Probability that an interval made like this one covers the true value.
    pub confidence: f64,
}

impl DriftScore {
    /// A score for a detector outside this crate. The verdict follows from `effect` and `alert_at` by the rule
    /// for every detector.
    #[must_use]
    pub fn new(method: impl Into<String>, statistic: f64, effect: Effect, alert_at: f64) -> Self {
        let verdict = effect.verdict(alert_at);
        Self {
            method: method.into(),
            statistic,
            p_value: None,
            effect,
            alert_at,
            n_baseline: 0,
            n_live: 0,
            skipped_baseline: 0,
            skipped_live: 0,
            verdict,
        }
    }
}

impl Effect {
    /// An effect with its interval; `None` where no bound can be given.
    #[must_use]
    pub fn new(name: impl Into<String>, value: f64, low: Option<f64>, high: Option<f64>, confidence: f64) -> Self {
        Self { name: name.into(), value, low, high, confidence }
    }

    /// The verdict for a threshold: which side of it the interval lies on.
    #[must_use]
    pub fn verdict(&self, alert_at: f64) -> Verdict {
        if self.low.is_some_and(|low| low > alert_at) {
            Verdict::Fail
        } else if self.high.is_some_and(|high| high < alert_at) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.4}", self.name, self.value)?;
        match (self.low, self.high) {
            (Some(low), Some(high)) => write!(f, " [{low:.4}, {high:.4}]"),
            (Some(low), None) => write!(f, " [{low:.4}, ...)"),
            (None, Some(high)) => write!(f, " (..., {high:.4}]"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for DriftScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "no drift",
            Verdict::Fail => "drift",
            Verdict::Inconclusive => "inconclusive",
        };
        write!(f, "{verdict}: {} (alert at {}), {} {:.4}", self.effect, self.alert_at, self.method, self.statistic)?;
        if let Some(p) = self.p_value {
            write!(f, ", p = {p:.3e}")?;
        }
        write!(
            f,
            ", n = {} against {}",
            crate::metrics::grouped(self.n_live),
            crate::metrics::grouped(self.n_baseline)
        )?;
        let skipped = self.skipped_live + self.skipped_baseline;
        if skipped > 0 {
            write!(f, ", {} skipped", crate::metrics::grouped(skipped))?;
        }
        Ok(())
    }
}

/// The finite values in ascending order and how many others there were.
fn sorted_finite(values: &[f64]) -> (Vec<f64>, u64) {
    let mut finite: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    finite.sort_unstable_by(f64::total_cmp);
    let skipped = (values.len() - finite.len()) as u64;
    (finite, skipped)
}
