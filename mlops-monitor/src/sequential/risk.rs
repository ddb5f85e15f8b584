//! Has the risk of a model risen by more than is tolerated?

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use super::{ConfidenceSequence, StitchedCs, bounded_mean, check_alpha};
use crate::{Error, Estimate, Result};

/// The test of Podkopaev and Ramdas for a *harmful* shift: not any change of the data, but a rise of the risk over that on
/// held-out source rows by more than a tolerance.
///
/// ```text
/// alarm at the first n with  L_n > U_source + tolerance
/// U_source: upper bound of the source risk at α_source,  s̄ + sqrt(2 V ln(2/α_s)/m) + 7 ln(2/α_s)/(3(m-1))
/// L_n: lower confidence sequence of the live risk, averaged over the rows so far, at α_live
/// P(ever an alarm while the average live risk is at most the source risk + tolerance) <= α_source + α_live = α
/// ```
/// Losses are in a known range, [0, 1] unless told otherwise (0/1 errors, Brier terms). `V` is the sample variance of the `m`
/// source losses, which must be independent and not those the model was fitted on. `L_n` is the lower end of a
/// [`StitchedCs`], so the live risk may wander. The mirror image, the upper end below the source's lower bound plus the
/// tolerance, is a [`Verdict::Pass`], wrong with probability at most `α` as well.
///
/// The alarm is latched: once raised it stays, whatever follows.
///
/// # Source
/// Podkopaev and Ramdas (2022), "Tracking the risk of a deployed model and detecting harmful distribution shifts", ICLR,
/// arXiv:2110.06177, algorithm 1; the fixed-n bound: Maurer and Pontil (2009), arXiv:0907.3740, theorem 4.
/// `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::RiskTest;
///
/// let held_out: Vec<f64> = (0..2_000).map(|i| if i % 10 == 0 { 1.0 } else { 0.0 }).collect(); // 10 % wrong
/// let mut test = RiskTest::builder().tolerance(0.05).alpha(0.05).build(&held_out)?;
/// for i in 0..3_000 {
///     test.update(if i % 3 == 0 { 1.0 } else { 0.0 })?; // 33 % wrong
/// }
/// assert_eq!(test.verdict(), Verdict::Fail, "{test}");
/// assert!(test.alarm_at().is_some_and(|n| n < 1_000), "{test}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskTest {
    tolerance: f64,
    alpha: f64,
    source: Estimate,
    live: StitchedCs,
    alarm_at: Option<u64>,
}

/// Options of a [`RiskTest`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct RiskTestBuilder {
    low: f64,
    high: f64,
    tolerance: f64,
    alpha: f64,
    source_share: f64,
}

impl RiskTestBuilder {
    /// Least and largest possible loss (default 0 and 1).
    pub fn range(mut self, low: f64, high: f64) -> Self {
        (self.low, self.high) = (low, high);
        self
    }

    /// Tolerated rise of the risk, in the units of the losses, at least 0 (default 0.05).
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Probability of ever raising a false alarm, below 0.5 (default 0.05).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Share of `alpha` spent on the source risk, in (0, 1) (default 0.5).
    pub fn source_share(mut self, share: f64) -> Self {
        self.source_share = share;
        self
    }

    /// The test against the losses of held-out source rows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option or loss out of range; at least two losses are needed.
    pub fn build(self, source_losses: &[f64]) -> Result<RiskTest> {
        let Self { low, high, tolerance, alpha, source_share } = self;
        check_alpha(alpha)?;
        if alpha >= 0.5 {
            return Err(Error::invalid("alpha", format!("must be below 0.5, got {alpha}")));
        }
        if !(source_share > 0.0 && source_share < 1.0) {
            return Err(Error::invalid("source_share", format!("must lie in (0, 1), got {source_share}")));
        }
        if !(tolerance.is_finite() && tolerance >= 0.0) {
            return Err(Error::invalid("tolerance", format!("must be finite and at least 0, got {tolerance}")));
        }
        // One side of a two-sided sequence is a one-sided one at half the level.
        let live = bounded_mean().range(low, high).alpha(2.0 * alpha * (1.0 - source_share)).stitched()?;
        let source = source_risk(source_losses, low, high, alpha * source_share)?;
        Ok(RiskTest { tolerance, alpha, source, live, alarm_at: None })
    }
}

/// The mean with a one-sided bound at `alpha` on either side.
fn source_risk(losses: &[f64], low: f64, high: f64, alpha: f64) -> Result<Estimate> {
    if losses.len() < 2 {
        return Err(Error::invalid("source_losses", format!("needs at least 2 rows, got {}", losses.len())));
    }
    let (mut mean, mut deviations, mut n) = (0.0, 0.0, 0.0);
    for loss in losses {
        if !(*loss >= low && *loss <= high) {
            return Err(Error::invalid("source_losses", format!("must lie in [{low}, {high}], got {loss}")));
        }
        let y = (loss - low) / (high - low);
        n += 1.0;
        let off = y - mean;
        mean += off / n;
        deviations += off * (y - mean);
    }
    let level = (2.0 / alpha).ln();
    let radius = (2.0 * deviations / (n - 1.0) * level / n).sqrt() + 7.0 * level / (3.0 * (n - 1.0));
    let scaled = |unit: f64| low + (high - low) * unit.clamp(0.0, 1.0);
    Ok(Estimate::new(scaled(mean), scaled(mean - radius), scaled(mean + radius), losses.len() as u64))
}

impl RiskTest {
    /// Options, at first the defaults.
    pub fn builder() -> RiskTestBuilder {
        RiskTestBuilder { low: 0.0, high: 1.0, tolerance: 0.05, alpha: 0.05, source_share: 0.5 }
    }

    /// Takes the loss of the next live row.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `loss` is not in the range; nothing is added then.
    pub fn update(&mut self, loss: f64) -> Result<()> {
        self.live.update(loss)?;
        if self.alarm_at.is_none() && self.exceeds() {
            self.alarm_at = Some(self.live.n());
        }
        Ok(())
    }

    fn exceeds(&self) -> bool {
        self.live.estimate().is_some_and(|live| live.low > self.source.high + self.tolerance)
    }

    /// Adds the live rows of `other`, which must be other rows against the same source. The alarm of `other` stays its own.
    ///
    /// Each test that raises alarms spends its `alpha`: to watch shards at one, merge them all into a test without rows and
    /// look at the [`verdict`](Self::verdict) of that.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the source or an option differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.tolerance, self.alpha, self.source) != (other.tolerance, other.alpha, other.source) {
            return Err(Error::invalid("other", "has another source, tolerance or alpha"));
        }
        self.live.merge(&other.live)
    }

    /// Risk on the source rows, with its bounds for one look.
    #[must_use]
    pub fn source(&self) -> Estimate {
        self.source
    }

    /// Average risk on the live rows so far, with the bounds used by the test; `None` without rows.
    #[must_use]
    pub fn live(&self) -> Option<Estimate> {
        self.live.estimate()
    }

    /// Live rows so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.live.n()
    }

    /// Probability of ever raising a false alarm.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Live rows after which `update` raised the alarm, `None` before it does.
    #[must_use]
    pub fn alarm_at(&self) -> Option<u64> {
        self.alarm_at
    }

    /// `Fail` after an alarm or if the rows at hand raise one, `Pass` while the live risk is shown to be tolerable, else `Inconclusive`.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.alarm_at.is_some() || self.exceeds() {
            Verdict::Fail
        } else if self.live.estimate().is_some_and(|live| live.high <= self.source.low + self.tolerance) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        }
    }
}

impl fmt::Display for RiskTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.verdict())?;
        match self.live.estimate() {
            Some(live) => write!(f, "live risk {live}")?,
            None => f.write_str("no live rows")?,
        }
        write!(f, ", source risk {}, tolerated rise {}", self.source, self.tolerance)?;
        match self.alarm_at {
            Some(n) => write!(f, ", alarm after row {}", crate::metrics::grouped(n)),
            None => Ok(()),
        }
    }
}
