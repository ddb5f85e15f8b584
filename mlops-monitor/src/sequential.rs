//! Anytime-valid tests: evidence that may be looked at after every row.
//!
//! A p-value is good for one look at a number of rows fixed beforehand; watched until it is small, it will be. The
//! evidence here is an *e-process*: under the null hypothesis the chance that it **ever** reaches `1/α` is at most
//! `α`, however often it is looked at and whenever the rows end.
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
//! # Rules for every test
//! - Valid at every look for rows whose conditional mean given the past obeys the null hypothesis: no independence
//!   and no distribution is assumed.
//! - Bets do not depend on the order of the rows, so `a.merge(&b)` equals one test fed both inputs and replicas can
//!   be joined at every look.
//! - One-sided evidence for each side is separate; deciding on whichever is first spends `α` on each.

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use crate::{Error, Estimate, Result};

/// Number of constant bets that are mixed.
pub(crate) const BETS: usize = 25;

/// The stakes: shares of the capital risked on a row, `0.99 · 2^(-k/2)` down to `0.99 / 4096`.
pub(crate) const STAKES: [f64; BETS] = {
    let mut stakes = [0.99; BETS];
    let mut k = 1;
    while k < BETS {
        stakes[k] = stakes[k - 1] * std::f64::consts::FRAC_1_SQRT_2;
        k += 1;
    }
    stakes
};

/// Rows between two foldings of the running products into logarithms: few enough that none over- or underflows.
const FOLD_EVERY: u32 = 16;

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

impl fmt::Display for EValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value();
        if (1e-3..1e6).contains(&value) { write!(f, "e = {value:.3}") } else { write!(f, "log e = {:.1}", self.log) }
    }
}

/// Tests the mean of a stream of values in [0, 1] against `mean0`, both ways, by betting.
///
/// ```text
/// above:  E_n = 1/25 Σ_k Π_(i<=n) (1 + f_k (x_i - mean0) / mean0)               null: mean <= mean0
/// below:  E_n = 1/25 Σ_k Π_(i<=n) (1 + f_k (mean0 - x_i) / (1 - mean0))         null: mean >= mean0
/// f_k = 0.99 · 2^(-k/2),  k = 0..24
/// ```
/// Each product is the capital of a constant bet, whose conditional expectation cannot grow under the null; a
/// mixture of such is one as well, and by Ville's inequality `P(E_n >= 1/α for some n) <= α`. The 25 stakes span the
/// best bets for gaps from about the whole range down to a few ten-thousandths of it, at a price of at most
/// `ln 25 = 3.2` nats against knowing the best one.
///
/// # Source
/// Waudby-Smith and Ramdas (2024), doi:10.1093/jrsssb/qkad009: the capital process, and mixing constant bets as in
/// their diversified Kelly betting. `tests/golden/betting.json`.
///
/// # Examples
/// ```
/// let mut errors = mlops_monitor::BettingTest::new(0.05)?; // at most 5 % may fail
/// for i in 0..400 {
///     errors.update(if i % 5 == 0 { 1.0 } else { 0.0 })?; // 20 % do
/// }
/// assert!(errors.evidence_above().rejects(0.001));
/// assert!(!errors.evidence_below().rejects(0.5));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BettingTest {
    mean0: f64,
    n: u64,
    sum: f64,
    above: Capital,
    below: Capital,
}

/// Capital of each constant bet, as `exp(log) · product`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Capital {
    log: [f64; BETS],
    product: [f64; BETS],
    pending: u32,
}

impl Capital {
    const START: Self = Self { log: [0.0; BETS], product: [1.0; BETS], pending: 0 };

    /// `gain` is the return on a stake of one, at least -1.
    fn bet(&mut self, gain: f64) {
        for (product, stake) in self.product.iter_mut().zip(STAKES) {
            *product *= 1.0 + stake * gain;
        }
        self.pending = self.pending.saturating_add(1);
        if self.pending >= FOLD_EVERY {
            self.fold();
        }
    }

    fn fold(&mut self) {
        for (log, product) in self.log.iter_mut().zip(&mut self.product) {
            *log += product.ln();
            *product = 1.0;
        }
        self.pending = 0;
    }

    fn merge(&mut self, other: &Self) {
        self.fold();
        for ((log, theirs), product) in self.log.iter_mut().zip(other.log).zip(other.product) {
            *log += theirs + product.ln();
        }
    }

    fn evidence(&self) -> EValue {
        let mut logs = self.log;
        for (log, product) in logs.iter_mut().zip(self.product) {
            *log += product.ln();
        }
        mixture(&logs)
    }
}

/// The mean of the capitals with the given logarithms.
fn mixture(logs: &[f64; BETS]) -> EValue {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
    EValue { log: most + (sum / BETS as f64).ln() }
}

impl BettingTest {
    /// A test against `mean0`, without rows yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `mean0` is not in [1e-9, 1 - 1e-9].
    pub fn new(mean0: f64) -> Result<Self> {
        if !(1e-9..=1.0 - 1e-9).contains(&mean0) {
            return Err(Error::invalid("mean0", format!("must lie in [1e-9, 1 - 1e-9], got {mean0}")));
        }
        Ok(Self { mean0, n: 0, sum: 0.0, above: Capital::START, below: Capital::START })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `x` is not in [0, 1]; nothing is added then.
    pub fn update(&mut self, x: f64) -> Result<()> {
        if !(0.0..=1.0).contains(&x) {
            return Err(Error::invalid("x", format!("must lie in [0, 1], got {x}")));
        }
        self.n = self.n.saturating_add(1);
        self.sum += x;
        self.above.bet((x - self.mean0) / self.mean0);
        self.below.bet((self.mean0 - x) / (1.0 - self.mean0));
        Ok(())
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `mean0` differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.mean0 != other.mean0 {
            return Err(Error::invalid("other", format!("tests against {}, not {}", other.mean0, self.mean0)));
        }
        self.n = self.n.saturating_add(other.n);
        self.sum += other.sum;
        self.above.merge(&other.above);
        self.below.merge(&other.below);
        Ok(())
    }

    /// The mean tested against.
    #[must_use]
    pub fn mean0(&self) -> f64 {
        self.mean0
    }

    /// Rows so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Mean of the rows, `None` without rows.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }

    /// Evidence that the mean is above `mean0`.
    #[must_use]
    pub fn evidence_above(&self) -> EValue {
        self.above.evidence()
    }

    /// Evidence that the mean is below `mean0`.
    #[must_use]
    pub fn evidence_below(&self) -> EValue {
        self.below.evidence()
    }
}

/// Is model `b` worse than model `a` on the same rows, by more than `margin` of accuracy?
///
/// Let `d` be 1 on a row where only `b` is right, -1 where only `a` is, 0 where they agree; its mean `δ` is the
/// difference of the accuracies. With `x = (1 + d)/2` in {0, ½, 1}, the evidence is that of [`BettingTest`]:
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
/// As [`BettingTest`]; mixtures of likelihood ratios: Robbins (1970), doi:10.1214/aoms/1177696786.
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
