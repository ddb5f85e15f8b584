//! A bounded mean against one value, by a mixture of constant bets.

use serde::{Deserialize, Serialize};

use super::EValue;
use crate::{Error, Result};

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
pub(super) struct Capital {
    log: [f64; BETS],
    product: [f64; BETS],
    pending: u32,
}

impl Capital {
    pub(super) const START: Self = Self { log: [0.0; BETS], product: [1.0; BETS], pending: 0 };

    /// `gain` is the return on a stake of one, at least -1.
    pub(super) fn bet(&mut self, gain: f64) {
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

    pub(super) fn merge(&mut self, other: &Self) {
        self.fold();
        for ((log, theirs), product) in self.log.iter_mut().zip(other.log).zip(other.product) {
            *log += theirs + product.ln();
        }
    }

    pub(super) fn evidence(&self) -> EValue {
        let mut logs = self.log;
        for (log, product) in logs.iter_mut().zip(self.product) {
            *log += product.ln();
        }
        mixture(&logs)
    }
}

/// The mean of the capitals with the given logarithms.
pub(super) fn mixture(logs: &[f64; BETS]) -> EValue {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
    EValue::from_log(most + (sum / BETS as f64).ln())
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
