//! Confidence sequence for a bounded mean by betting on both sides of every candidate.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::mean::{Frame, plug_in_stake};
use super::{ConfidenceSequence, describe};
use crate::{Error, Estimate, Result};

/// Largest share of what could be lost that is staked: `c` of the source.
const MOST_STAKED: f64 = 0.5;

/// Rows between two foldings of the products into logarithms: a factor lies in [1/2, 1 + grid/2].
const FOLD_EVERY: u32 = 16;

/// Confidence sequence for a bounded mean: hedged betting on a grid.
///
/// ```text
/// K⁺_t(m) = Π (1 + λ⁺_i(m) (x_i - m)),   λ⁺_i(m) = min(λ_i, ½/m)
/// K⁻_t(m) = Π (1 - λ⁻_i(m) (x_i - m)),   λ⁻_i(m) = min(λ_i, ½/(1-m))
/// interval: the m with max(½ K⁺, ½ K⁻) < 1/α,    λ_t = sqrt(2 ln(2/α) / (σ²_(t-1) t ln(1+t)))
/// ```
/// for values in [0, 1]; others are mapped there; σ² as in [`EmpiricalBernsteinCs`](super::EmpiricalBernsteinCs). `K⁺` falls
/// and `K⁻` rises with `m`, so each end of the interval is the innermost grid point that is rejected: exact up to
/// one step of the grid, on the wide side. An update costs time in proportion to the grid. Assumes one mean, given the
/// past, for all rows.
///
/// [`merge`](Self::merge) multiplies the capitals of shards that watch one mean: valid at every look, but not equal to one
/// sequence fed all rows.
///
/// # Source
/// Waudby-Smith and Ramdas (2024), doi:10.1093/jrsssb/qkad009, theorem 3; `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::sequential::{ConfidenceSequence, bounded_mean};
///
/// let mut error = bounded_mean().running(true).hedged(1_000)?;
/// (0..2_000).try_for_each(|i| error.update(if i % 50 == 0 { 1.0 } else { 0.0 }))?;
/// let estimate = error.estimate().expect("2,000 rows");
/// assert!(estimate.low > 0.008 && estimate.high < 0.04, "{error}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct HedgedCs {
    frame: Frame,
    deviations: f64,
    /// For `m = (i + 1)/grid`, the logarithm of the capital, without `products`.
    logs_above: Vec<f64>,
    logs_below: Vec<f64>,
    /// Factors since the logarithms were last taken.
    products_above: Vec<f64>,
    products_below: Vec<f64>,
    pending: u32,
}

/// A [`HedgedCs`] as it is stored, before the lengths are checked.
#[derive(Deserialize)]
struct Parts {
    frame: Frame,
    deviations: f64,
    logs_above: Vec<f64>,
    logs_below: Vec<f64>,
    products_above: Vec<f64>,
    products_below: Vec<f64>,
    pending: u32,
}

impl TryFrom<Parts> for HedgedCs {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { frame, deviations, logs_above, logs_below, products_above, products_below, pending } = parts;
        check_grid(logs_above.len() + 1)?;
        for (what, got) in [
            ("logs_below", logs_below.len()),
            ("products_above", products_above.len()),
            ("products_below", products_below.len()),
        ] {
            if got != logs_above.len() {
                return Err(Error::shape(what, logs_above.len(), got));
            }
        }
        Ok(Self { frame, deviations, logs_above, logs_below, products_above, products_below, pending })
    }
}

fn check_grid(grid: usize) -> Result<()> {
    if (10..=100_000).contains(&grid) {
        return Ok(());
    }
    Err(Error::invalid("grid", format!("must be 10 to 100,000 steps, got {grid}")))
}

impl HedgedCs {
    pub(super) fn new(frame: Frame, grid: usize) -> Result<Self> {
        check_grid(grid)?;
        let (logs, products) = (vec![0.0; grid - 1], vec![1.0; grid - 1]);
        Ok(Self {
            frame,
            deviations: 0.0,
            logs_above: logs.clone(),
            logs_below: logs,
            products_above: products.clone(),
            products_below: products,
            pending: 0,
        })
    }

    /// Steps of the grid; each end of the interval is at most one step too wide.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.logs_above.len() + 1
    }

    fn bet(&mut self, y: f64, stake: f64) {
        let step = 1.0 / self.grid() as f64;
        let pairs = self.products_above.iter_mut().zip(&mut self.products_below).enumerate();
        if stake <= MOST_STAKED {
            // No candidate cuts the stake.
            for (i, (above, below)) in pairs {
                let gain = stake * (y - (i as f64 + 1.0) * step);
                *above *= 1.0 + gain;
                *below *= 1.0 - gain;
            }
        } else {
            for (i, (above, below)) in pairs {
                let m = (i as f64 + 1.0) * step;
                *above *= 1.0 + stake.min(MOST_STAKED / m) * (y - m);
                *below *= 1.0 - stake.min(MOST_STAKED / (1.0 - m)) * (y - m);
            }
        }
        self.pending = self.pending.saturating_add(1);
        if self.pending >= FOLD_EVERY {
            self.fold();
        }
    }

    fn fold(&mut self) {
        let above = self.logs_above.iter_mut().zip(&mut self.products_above);
        for (log, product) in above.chain(self.logs_below.iter_mut().zip(&mut self.products_below)) {
            *log += product.ln();
            *product = 1.0;
        }
        self.pending = 0;
    }

    fn interval(&self) -> (f64, f64) {
        let (grid, threshold) = (self.grid(), (2.0 / self.frame.alpha).ln());
        let rejected = |logs: &[f64], products: &[f64], i: usize| {
            let log = logs.get(i).zip(products.get(i)).map_or(0.0, |(log, product)| log + product.ln());
            log >= threshold
        };
        // Both searches keep: everything outside [kept_from, kept_to) is rejected by one side.
        let (mut low, mut high) = (0, grid - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if rejected(&self.logs_above, &self.products_above, middle) { low = middle + 1 } else { high = middle }
        }
        let kept_from = low;
        (low, high) = (0, grid - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if rejected(&self.logs_below, &self.products_below, middle) { high = middle } else { low = middle + 1 }
        }
        let kept_to = low;
        // Candidate `i` is the mean `(i + 1)/grid`: the last one rejected below is `kept_from - 1`, above `kept_to`.
        (kept_from as f64 / grid as f64, (kept_to as f64 + 1.0) / grid as f64)
    }

    /// Adds the rows of `other`, which must be other rows of the same mean.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range, `alpha` or the grid differs or either keeps a running intersection; nothing
    /// is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.grid() != other.grid() {
            return Err(Error::invalid("other", format!("has a grid of {}, not {}", other.grid(), self.grid())));
        }
        let (n, m) = (self.frame.n as f64, other.frame.n as f64);
        let between =
            if n > 0.0 && m > 0.0 { (self.frame.sum / n - other.frame.sum / m).powi(2) * n * m / (n + m) } else { 0.0 };
        self.frame.merge(&other.frame)?;
        self.deviations += other.deviations + between;
        self.fold();
        let theirs = |logs: &[f64], products: &[f64], ours: &mut [f64]| {
            for ((ours, log), product) in ours.iter_mut().zip(logs).zip(products) {
                *ours += log + product.ln();
            }
        };
        theirs(&other.logs_above, &other.products_above, &mut self.logs_above);
        theirs(&other.logs_below, &other.products_below, &mut self.logs_below);
        Ok(())
    }

    /// As [`EmpiricalBernsteinCs::contradicted`](super::EmpiricalBernsteinCs::contradicted).
    #[must_use]
    pub fn contradicted(&self) -> bool {
        self.frame.contradicted()
    }
}

impl ConfidenceSequence for HedgedCs {
    fn update(&mut self, x: f64) -> Result<()> {
        let y = self.frame.unit(x)?;
        let stake = plug_in_stake(self.frame.alpha, self.deviations, self.frame.n);
        self.bet(y, stake);
        self.frame.add(y);
        self.deviations += (y - self.frame.shrunk_mean()).powi(2);
        if self.frame.is_running() {
            let interval = self.interval();
            self.frame.intersect(interval);
        }
        Ok(())
    }

    fn estimate(&self) -> Option<Estimate> {
        self.frame.estimate(self.interval())
    }

    fn alpha(&self) -> f64 {
        self.frame.alpha
    }

    fn n(&self) -> u64 {
        self.frame.n
    }
}

impl fmt::Display for HedgedCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "mean", self.estimate(), self.n(), self.alpha(), "hedged betting")
    }
}
