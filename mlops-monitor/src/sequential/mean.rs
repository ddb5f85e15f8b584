//! Confidence sequences for the mean of values in a declared range, with a state of constant size.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::boundary::{psi_exponential, stitched};
use super::{ConfidenceSequence, HedgedCs, check_alpha, describe};
use crate::{Error, Estimate, Result};

/// Largest share of the capital that empirical Bernstein stakes: `c` of its source.
const MOST_STAKED: f64 = 0.5;

/// Starts a confidence sequence for the mean of values in a declared range; the finishing call chooses the method.
///
/// | call | widths after 100, 1,000 and 10,000 rows | state |
/// | --- | --- | --- |
/// | [`empirical_bernstein`](BoundedMeanBuilder::empirical_bernstein) | 2.0, 1.8, 2.2; rare: 2.3, 1.9, 2.1 | 6 numbers |
/// | [`hedged`](BoundedMeanBuilder::hedged) | 1.5, 1.8, 2.2; rare: 2.1, 1.7, 1.9 | 4 numbers for each point of a grid |
/// | [`stitched`](BoundedMeanBuilder::stitched) | 4.0, 2.6, 2.3; rare: 3.9, 2.7, 2.6 | 3 numbers |
///
/// Widths are those of one uniform stream and one of rare errors (1 %), in units of the normal interval for a single look.
/// The value reported is the mean of the rows, moved into the interval where it falls outside.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::{ConfidenceSequence, Demand, bounded_mean};
///
/// let mut rating = bounded_mean().range(1.0, 5.0).alpha(0.05).empirical_bernstein()?;
/// for i in 0..3_000 {
///     rating.update(f64::from(i % 2) + 3.0)?;
/// }
/// assert_eq!(rating.verdict(Demand::AtLeast(3.2)), Verdict::Pass);
/// let mean = rating.estimate().expect("3,000 rows");
/// assert!(mean.low > 3.4 && mean.high < 3.6, "{rating}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
pub fn bounded_mean() -> BoundedMeanBuilder {
    BoundedMeanBuilder { low: 0.0, high: 1.0, alpha: 0.05, running: false }
}

/// Options of the sequences for bounded means; made by [`bounded_mean`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until a method is chosen"]
pub struct BoundedMeanBuilder {
    low: f64,
    high: f64,
    alpha: f64,
    running: bool,
}

impl BoundedMeanBuilder {
    /// Least and largest possible value (default 0 and 1). A row outside is an error.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        (self.low, self.high) = (low, high);
        self
    }

    /// Probability that any interval ever misses, both sides together (default 0.05).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Whether each interval is cut to the intersection of all so far (default no). That costs no validity, and the
    /// interval never grows; but such sequences do not merge, and one whose mean moves ends in a contradiction.
    pub fn running(mut self, running: bool) -> Self {
        self.running = running;
        self
    }

    /// The predictable plug-in empirical Bernstein sequence.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn empirical_bernstein(self) -> Result<EmpiricalBernsteinCs> {
        let frame = self.frame()?;
        Ok(EmpiricalBernsteinCs { frame, deviations: 0.0, stakes: 0.0, staked: 0.0, penalty: 0.0 })
    }

    /// The stitched empirical Bernstein sequence.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn stitched(self) -> Result<StitchedCs> {
        Ok(StitchedCs { frame: self.frame()?, variance: 0.0 })
    }

    /// The hedged betting sequence on `grid - 1` equally spaced means inside the range (`grid` from 10 to 100,000).
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn hedged(self, grid: usize) -> Result<HedgedCs> {
        HedgedCs::new(self.frame()?, grid)
    }

    fn frame(self) -> Result<Frame> {
        let Self { low, high, alpha, running } = self;
        check_alpha(alpha)?;
        let width = high - low;
        if !(width.is_finite() && width > 0.0) {
            return Err(Error::invalid(
                "range",
                format!(
                    "must be finite with low < high, got [{low}, {high}]; for values without known bounds use AsymptoticCs"
                ),
            ));
        }
        Ok(Frame { low, high, alpha, n: 0, sum: 0.0, running: running.then_some((0.0, 1.0)) })
    }
}

/// What the sequences for bounded means share. Rows and intervals inside are in units of the range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Frame {
    low: f64,
    high: f64,
    pub(super) alpha: f64,
    pub(super) n: u64,
    pub(super) sum: f64,
    /// The intersection of all intervals, if it is wanted.
    running: Option<(f64, f64)>,
}

impl Frame {
    /// `x` in units of the range.
    pub(super) fn unit(&self, x: f64) -> Result<f64> {
        if x >= self.low && x <= self.high {
            return Ok(((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0));
        }
        Err(Error::invalid(
            "x",
            format!(
                "must lie in the declared range [{}, {}], got {x}; declare a wider one, or use AsymptoticCs",
                self.low, self.high
            ),
        ))
    }

    /// Counts a row in units of the range.
    pub(super) fn add(&mut self, y: f64) {
        self.n = self.n.saturating_add(1);
        self.sum += y;
    }

    /// Mean of the rows and half a row more in the middle of the range: predictable, and never at an end.
    pub(super) fn shrunk_mean(&self) -> f64 {
        (0.5 + self.sum) / (self.n as f64 + 1.0)
    }

    pub(super) fn intersect(&mut self, interval: (f64, f64)) {
        if let Some((low, high)) = &mut self.running {
            *low = low.max(interval.0);
            *high = high.min(interval.1);
        }
    }

    /// Whether the intervals so far have a point in common, as far as that is recorded.
    pub(super) fn contradicted(&self) -> bool {
        self.running.is_some_and(|(low, high)| low > high)
    }

    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.low, self.high, self.alpha) != (other.low, other.high, other.alpha) {
            return Err(Error::invalid(
                "other",
                format!(
                    "has range [{}, {}] and alpha {}, not [{}, {}] and {}",
                    other.low, other.high, other.alpha, self.low, self.high, self.alpha
                ),
            ));
        }
        if self.running.is_some() || other.running.is_some() {
            return Err(Error::invalid(
                "other",
                "running intersections of two streams do not merge at one alpha; build both without",
            ));
        }
        self.n = self.n.saturating_add(other.n);
        self.sum += other.sum;
        Ok(())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The interval at this look, in the units of the rows.
    pub(super) fn estimate(&self, interval: (f64, f64)) -> Option<Estimate> {
        if self.n == 0 {
            return None;
        }
        let (low, high) = match self.running {
            Some((low, high)) if low <= high => (low, high),
            _ => interval,
        };
        let (low, high) = (low.max(0.0), high.min(1.0));
        let mean = (self.sum / self.n as f64).max(low).min(high);
        let width = self.high - self.low;
        // Rounding must not carry an end beyond the range.
        let scaled = |unit: f64| (self.low + width * unit).max(self.low).min(self.high);
        Some(Estimate::new(scaled(mean), scaled(low), scaled(high), self.n))
    }
}

/// Confidence sequence for a bounded mean: predictable plug-in empirical Bernstein.
///
/// ```text
/// mean in  (Σ λ_i x_i ± (ln(2/α) + Σ (x_i - μ_(i-1))² ψ(λ_i))) / Σ λ_i,       ψ(λ) = -ln(1-λ) - λ
/// λ_t = min(½, sqrt(2 ln(2/α) / (σ²_(t-1) t ln(1+t))))
/// μ_t = (½ + Σ x_i)/(t+1),   σ²_t = (¼ + Σ (x_i - μ_i)²)/(t+1)
/// ```
/// for values in [0, 1]; others are mapped there. The centre is a weighted mean. Assumes one mean, given the past, for all rows. The width
/// goes down as `sqrt(ln n / n)`, in proportion to the standard deviation.
///
/// [`merge`](Self::merge) joins shards that watch one mean: the sums add up and the joint interval is valid at every
/// look, but it is not that of one sequence fed all rows, whose stakes would be others.
///
/// # Source
/// Waudby-Smith and Ramdas (2024), doi:10.1093/jrsssb/qkad009, theorem 2; `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::sequential::{ConfidenceSequence, bounded_mean};
///
/// let mut error = bounded_mean().alpha(0.05).empirical_bernstein()?;
/// (0..2_000).try_for_each(|i| error.update(if i % 20 == 0 { 1.0 } else { 0.0 }))?;
/// let estimate = error.estimate().expect("2,000 rows");
/// assert!(estimate.low > 0.02 && estimate.high < 0.08, "{error}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmpiricalBernsteinCs {
    frame: Frame,
    /// `Σ (x_i - μ_i)²`.
    deviations: f64,
    /// `Σ λ_i`.
    stakes: f64,
    /// `Σ λ_i x_i`.
    staked: f64,
    /// `Σ (x_i - μ_(i-1))² ψ(λ_i)`.
    penalty: f64,
}

/// `λ_t` before it is cut: sqrt(2 ln(2/α) / (σ²_(t-1) t ln(1+t))).
pub(super) fn plug_in_stake(alpha: f64, deviations: f64, rows_before: u64) -> f64 {
    let t = rows_before as f64 + 1.0;
    let variance = (0.25 + deviations) / t;
    (2.0 * (2.0 / alpha).ln() / (variance * t * t.ln_1p())).sqrt()
}

impl EmpiricalBernsteinCs {
    fn interval(&self) -> (f64, f64) {
        if self.frame.n == 0 {
            return (0.0, 1.0);
        }
        let radius = ((2.0 / self.frame.alpha).ln() + self.penalty) / self.stakes;
        let centre = self.staked / self.stakes;
        (centre - radius, centre + radius)
    }

    /// Adds the rows of `other`, which must be other rows of the same mean.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range or `alpha` differs or either keeps a running intersection; nothing is added.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let (n, m) = (self.frame.n as f64, other.frame.n as f64);
        let between =
            if n > 0.0 && m > 0.0 { (self.frame.sum / n - other.frame.sum / m).powi(2) * n * m / (n + m) } else { 0.0 };
        self.frame.merge(&other.frame)?;
        self.deviations += other.deviations + between;
        self.stakes += other.stakes;
        self.staked += other.staked;
        self.penalty += other.penalty;
        Ok(())
    }

    /// Whether the running intersection is empty: no mean fits all looks, so it has moved, or the `alpha` case has
    /// happened. The estimate is then that of the latest look alone.
    #[must_use]
    pub fn contradicted(&self) -> bool {
        self.frame.contradicted()
    }
}

impl ConfidenceSequence for EmpiricalBernsteinCs {
    fn update(&mut self, x: f64) -> Result<()> {
        let y = self.frame.unit(x)?;
        let stake = plug_in_stake(self.frame.alpha, self.deviations, self.frame.n).min(MOST_STAKED);
        self.stakes += stake;
        self.staked += stake * y;
        self.penalty += (y - self.frame.shrunk_mean()).powi(2) * psi_exponential(stake);
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

impl fmt::Display for EmpiricalBernsteinCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "mean", self.estimate(), self.n(), self.alpha(), "empirical Bernstein")
    }
}

/// Confidence sequence for the average of the conditional means so far of bounded values: stitched empirical Bernstein.
///
/// ```text
/// 1/n Σ E[x_i | past]  in  1/n (Σ x_i ± u(V_n)),      V_n = Σ (x_i - μ_(i-1))²,    μ_t = (½ + Σ x_i)/(t+1)
/// ```
/// for values in [0, 1]; others are mapped there. `u` is [`poly_stitched`](super::poly_stitched) at `α/2`, with `m = 1`
/// and `c = 1`. Nothing is assumed but the range: the mean may wander, and the interval is about its average over the
/// rows seen. (With [`running`](BoundedMeanBuilder::running) that average must be constant.) The width goes down as
/// `sqrt(ln ln n / n)`.
///
/// [`merge`](Self::merge) adds up the sums, which is valid at every look.
///
/// # Source
/// Howard, Ramdas, McAuliffe and Sekhon (2021), doi:10.1214/20-AOS1991, theorem 4 with equation 10;
/// `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::sequential::{ConfidenceSequence, bounded_mean};
///
/// let (mut a, mut b) = (bounded_mean().stitched()?, bounded_mean().stitched()?);
/// for i in 0..2_000 {
///     a.update(f64::from(i % 2))?;
///     b.update(f64::from(i % 4) / 3.0)?;
/// }
/// a.merge(&b)?;
/// let average = a.estimate().expect("4,000 rows");
/// assert!(average.n == 4_000 && average.high - average.low < 0.08, "{a}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StitchedCs {
    frame: Frame,
    /// `V_n`.
    variance: f64,
}

impl StitchedCs {
    fn interval(&self) -> (f64, f64) {
        if self.frame.n == 0 {
            return (0.0, 1.0);
        }
        let rows = self.frame.n as f64;
        let radius = stitched(self.variance, self.frame.alpha / 2.0, 1.0, 1.0) / rows;
        let mean = self.frame.sum / rows;
        (mean - radius, mean + radius)
    }

    /// Adds the rows of `other`, which must be other rows.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range or `alpha` differs or either keeps a running intersection; nothing is added.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.frame.merge(&other.frame)?;
        self.variance += other.variance;
        Ok(())
    }

    /// As [`EmpiricalBernsteinCs::contradicted`].
    #[must_use]
    pub fn contradicted(&self) -> bool {
        self.frame.contradicted()
    }
}

impl ConfidenceSequence for StitchedCs {
    fn update(&mut self, x: f64) -> Result<()> {
        let y = self.frame.unit(x)?;
        self.variance += (y - self.frame.shrunk_mean()).powi(2);
        self.frame.add(y);
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

impl fmt::Display for StitchedCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "average mean", self.estimate(), self.n(), self.alpha(), "stitched empirical Bernstein")
    }
}
