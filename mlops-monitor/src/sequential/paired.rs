//! Two models on the same rows.

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use super::EValue;
use super::betting::{STAKES, mixture};
use crate::{Error, Estimate, Result};

/// Is model `b` worse than model `a` on the same rows, by more than `margin` of accuracy?
///
/// Let `d` be 1 on a row where only `b` is right, -1 where only `a` is, 0 where they agree; its mean `δ` is the
/// difference of the accuracies. With `x = (1 + d)/2` in {0, ½, 1}, the evidence is that of
/// [`BettingTest`](super::BettingTest):
///
/// | evidence | null hypothesis | tested as |
/// | --- | --- | --- |
/// | [`evidence_worse`](Self::evidence_worse) | `δ >= -margin` | mean of `x` below `(1 - margin)/2` |
/// | [`evidence_noninferior`](Self::evidence_noninferior) | `δ <= -margin` | mean of `x` above `(1 - margin)/2` |
/// | [`evidence_better`](Self::evidence_better) | `δ <= 0` | mean of `x` above `½` |
///
/// With `margin = 0` rows on which the models agree have no effect at all: it is a sign test, mixed over its
/// alternatives as by Robbins. Because `x` takes three values and the bets are constant, three counts are the whole
/// state; `update` is one addition, `merge` is exact, and the mean has a confidence sequence.
///
/// # Source
/// As [`BettingTest`](super::BettingTest); mixtures of likelihood ratios: Robbins (1970), doi:10.1214/aoms/1177696786.
/// `tests/golden/betting.json`; error rates and power are simulated in `tests/it/simulation.rs`.
///
/// # Examples
/// ```
/// let mut test = mlops_monitor::PairedSignTest::new(0.0)?;
/// for i in 0..200 {
///     test.update(i % 4 == 0, true);
/// }
/// assert!(test.evidence_better().rejects(0.001));
/// let difference = test.difference(0.95)?.expect("200 rows");
/// assert!(difference.low > 0.5 && difference.value == 0.75);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedSignTest {
    margin: f64,
    only_a: u64,
    only_b: u64,
    same: u64,
}

impl PairedSignTest {
    /// A test that tolerates a loss of `margin` accuracy (0.01 is one point), without rows yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `margin` is not in [0, 0.99].
    pub fn new(margin: f64) -> Result<Self> {
        if !(0.0..=0.99).contains(&margin) {
            return Err(Error::invalid("margin", format!("must lie in [0, 0.99], got {margin}")));
        }
        Ok(Self { margin, only_a: 0, only_b: 0, same: 0 })
    }

    /// The test after these rows: on which only `a` was right, only `b` was, and both or neither were.
    ///
    /// # Errors
    /// As [`PairedSignTest::new`].
    pub fn from_counts(margin: f64, only_a: u64, only_b: u64, same: u64) -> Result<Self> {
        Ok(Self { only_a, only_b, same, ..Self::new(margin)? })
    }

    /// Adds a row: whether each model was right on it.
    pub fn update(&mut self, a_correct: bool, b_correct: bool) {
        let cell = match (a_correct, b_correct) {
            (true, false) => &mut self.only_a,
            (false, true) => &mut self.only_b,
            _ => &mut self.same,
        };
        *cell = cell.saturating_add(1);
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the margins differ; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.margin != other.margin {
            return Err(Error::invalid("other", format!("has margin {}, not {}", other.margin, self.margin)));
        }
        self.only_a = self.only_a.saturating_add(other.only_a);
        self.only_b = self.only_b.saturating_add(other.only_b);
        self.same = self.same.saturating_add(other.same);
        Ok(())
    }

    /// The tolerated loss of accuracy.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// Rows so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.only_a.saturating_add(self.only_b).saturating_add(self.same)
    }

    /// Rows on which only `a` was right, and on which only `b` was.
    #[must_use]
    pub fn discordant(&self) -> (u64, u64) {
        (self.only_a, self.only_b)
    }

    /// Evidence that `b` is worse than `a` by more than the margin.
    #[must_use]
    pub fn evidence_worse(&self) -> EValue {
        paired_evidence(self.only_a, self.same, self.only_b, (1.0 + self.margin) / 2.0)
    }

    /// Evidence that `b` is not worse than `a` by the margin or more.
    #[must_use]
    pub fn evidence_noninferior(&self) -> EValue {
        paired_evidence(self.only_b, self.same, self.only_a, (1.0 - self.margin) / 2.0)
    }

    /// Evidence that `b` is better than `a`; the margin plays no part.
    #[must_use]
    pub fn evidence_better(&self) -> EValue {
        paired_evidence(self.only_b, self.same, self.only_a, 0.5)
    }

    /// `Fail` if `b` is shown to be worse by more than the margin, `Pass` if it is shown not to be, each wrong with
    /// probability at most `alpha` over all looks together; else `Inconclusive`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `alpha` is not in (0, 1).
    pub fn verdict(&self, alpha: f64) -> Result<Verdict> {
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 1), got {alpha}")));
        }
        Ok(if self.evidence_worse().rejects(alpha) {
            Verdict::Fail
        } else if self.evidence_noninferior().rejects(alpha) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        })
    }

    /// Accuracy of `b` minus that of `a`, in [-1, 1], with a confidence sequence: all looks together, the intervals
    /// cover the true difference with probability at least `confidence`. `None` without rows.
    ///
    /// The interval holds the differences that neither side's evidence rejects at `(1 - confidence)/2`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `confidence` is not in (0, 1).
    pub fn difference(&self, confidence: f64) -> Result<Option<Estimate>> {
        crate::error::check_confidence(confidence)?;
        let n = self.n();
        if n == 0 {
            return Ok(None);
        }
        let alpha = (1.0 - confidence) / 2.0;
        let value = (self.only_b as f64 - self.only_a as f64) / n as f64;
        let low = 2.0 * lowest_mean(self.only_b, self.same, self.only_a, alpha) - 1.0;
        let high = 1.0 - 2.0 * lowest_mean(self.only_a, self.same, self.only_b, alpha);
        Ok(Some(Estimate::new(value, low.min(value), high.max(value), n)))
    }
}

/// Evidence that the mean of `ones` 1s, `halves` ½s and `zeros` 0s is above `mean0`.
fn paired_evidence(ones: u64, halves: u64, zeros: u64, mean0: f64) -> EValue {
    let log_gain = |rows: u64, factor: f64| if rows == 0 { 0.0 } else { rows as f64 * factor.ln_1p() };
    let logs = STAKES.map(|stake| {
        log_gain(ones, stake * (1.0 - mean0) / mean0)
            + log_gain(halves, stake * (0.5 - mean0) / mean0)
            + log_gain(zeros, -stake)
    });
    mixture(&logs)
}

/// Evidence that a share is below `mean0`, from `ones` of `n` rows: that of a [`BettingTest`] fed the same rows in any
/// order, because its bets are constant.
#[cfg(feature = "alerts")]
pub(crate) fn share_below(ones: u64, n: u64, mean0: f64) -> EValue {
    paired_evidence(n.saturating_sub(ones), 0, ones.min(n), 1.0 - mean0)
}

/// A share with the means that the evidence on neither side rejects at `alpha`; needs a row.
#[cfg(feature = "alerts")]
pub(crate) fn share(ones: u64, n: u64, alpha: f64) -> Estimate {
    let zeros = n.saturating_sub(ones);
    let value = ones as f64 / n as f64;
    let (low, high) = (lowest_mean(ones, 0, zeros, alpha), 1.0 - lowest_mean(zeros, 0, ones, alpha));
    Estimate::new(value, low.min(value), high.max(value), n)
}

/// The largest mean that the evidence for a larger one rejects at `alpha`, 0 if it rejects none.
///
/// Every factor falls as the mean tested against rises, so the rejected means are those below one point.
fn lowest_mean(ones: u64, halves: u64, zeros: u64, alpha: f64) -> f64 {
    let (mut rejected, mut kept) = (0.0, 1.0);
    while kept - rejected > 1e-12 {
        let middle = f64::midpoint(rejected, kept);
        if paired_evidence(ones, halves, zeros, middle).rejects(alpha) {
            rejected = middle;
        } else {
            kept = middle;
        }
    }
    rejected
}

#[cfg(all(test, feature = "alerts"))]
mod tests {
    use super::*;
    use crate::BettingTest;

    #[test]
    fn a_share_is_tested_as_if_row_by_row() {
        let mut test = BettingTest::new(0.85).unwrap();
        for i in 0..300_u64 {
            test.update(if i % 3 == 0 { 0.0 } else { 1.0 }).unwrap();
            let right = i + 1 - (i / 3 + 1);
            let (got, wanted) = (share_below(right, i + 1, 0.85), test.evidence_below());
            assert!((got.log() - wanted.log()).abs() < 1e-9, "{i}: {got} {wanted}");
            let high = share(right, i + 1, 0.001).high;
            assert_eq!(high < 0.85, got.rejects(0.001), "{i}: the interval and the test agree");
        }
    }
}
