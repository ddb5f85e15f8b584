//! Confidence sequences for quantiles and distribution functions, from counts in fine buckets.

use std::collections::BTreeMap;
use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use super::boundary::{lil_band, ln_beta};
use super::{ConfidenceSequence, Demand, check_alpha, describe};
use crate::{Error, Estimate, Result};

/// How many rows fell into each bucket of the floating-point numbers; a bucket is a run of neighbours that share sign,
/// exponent and the first `bits` bits of the mantissa. Its ends are numbers themselves, so nothing is rounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Buckets {
    bits: u32,
    n: u64,
    counts: BTreeMap<u32, u64>,
}

const MANTISSA: u32 = 52;

/// Bits that sort as the numbers do.
fn ordered(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits(); // -0 is 0
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

fn number(ordered: u64) -> f64 {
    f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered })
}

impl Buckets {
    pub(super) fn new(bits: u32) -> Result<Self> {
        if bits > 16 {
            return Err(Error::invalid("precision_bits", format!("must be 0 to 16, got {bits}")));
        }
        Ok(Self { bits, n: 0, counts: BTreeMap::new() })
    }

    fn shift(&self) -> u32 {
        MANTISSA - self.bits.min(16)
    }

    fn key(&self, x: f64) -> u32 {
        (ordered(x) >> self.shift()) as u32
    }

    pub(super) fn add(&mut self, x: f64) -> Result<()> {
        if !x.is_finite() {
            return Err(Error::invalid("x", format!("must be finite, got {x}; count missing values apart")));
        }
        self.n = self.n.saturating_add(1);
        let count = self.counts.entry(self.key(x)).or_insert(0);
        *count = count.saturating_add(1);
        Ok(())
    }

    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        if self.bits != other.bits {
            return Err(Error::invalid("other", format!("has {} precision bits, not {}", other.bits, self.bits)));
        }
        self.n = self.n.saturating_add(other.n);
        for (key, rows) in &other.counts {
            let count = self.counts.entry(*key).or_insert(0);
            *count = count.saturating_add(*rows);
        }
        Ok(())
    }

    pub(super) fn n(&self) -> u64 {
        self.n
    }

    /// Each bucket that holds rows: its largest number, the rows before it and the rows up to it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64, u64)> {
        self.counts.iter().scan(0_u64, |before, (key, rows)| {
            let from = *before;
            *before = before.saturating_add(*rows);
            Some((self.ends(*key).1, from, *before))
        })
    }

    /// Least and largest finite number of a bucket.
    fn ends(&self, key: u32) -> (f64, f64) {
        let (key, shift) = (u64::from(key), self.shift());
        let high = ((key + 1) << shift).wrapping_sub(1);
        (number(key << shift).max(f64::MIN), number(high).min(f64::MAX))
    }

    /// Ends of the bucket that holds the row of this rank, counted from 1.
    fn at_rank(&self, rank: u64) -> Option<(f64, f64)> {
        let mut before = 0_u64;
        for (key, rows) in &self.counts {
            before = before.saturating_add(*rows);
            if before >= rank {
                return (rank >= 1).then(|| self.ends(*key));
            }
        }
        None
    }

    /// A point for the row of this rank: the middle of its bucket.
    fn middle(&self, rank: u64) -> Option<f64> {
        self.at_rank(rank).map(|(low, high)| f64::midpoint(low, high))
    }

    /// Rows below the bucket of `x`, and rows up to its end.
    fn around(&self, x: f64) -> (u64, u64) {
        let key = self.key(x);
        let below = self.counts.range(..key).fold(0_u64, |sum, (_, rows)| sum.saturating_add(*rows));
        (below, below.saturating_add(self.counts.get(&key).copied().unwrap_or(0)))
    }
}

/// Confidence sequence for one quantile of any distribution.
///
/// ```text
/// Q(p) = inf {x : F(x) >= p}  in  [X_(l), X_(u+1)],      {l, …, u} = {k : M_n(k) < 1/α}
/// M_n(k) = B(a + k, b + n - k) / (B(a, b) p^k (1-p)^(n-k)),     a = r/(1-p),  b = r/p
/// ```
/// `k` is the number of rows up to the quantile, `M` the beta-binomial mixture of likelihood ratios, which is exact for
/// ties too: with atoms any `k` between the rows below and the rows up to `Q(p)` is allowed for. `r` makes the interval
/// narrowest at [`tuned_for`](QuantileCsBuilder::tuned_for) rows. Assumes that each row, given the past, is below the
/// quantile with probability at most `p` and up to it with at least `p`, as independent rows of one distribution are.
///
/// # What is kept
/// Not the rows, but counts in buckets of numbers that agree in the first `precision_bits` (7) binary digits after the
/// leading one; both ends are moved outward to the ends of their buckets, by less than 1 part in 2^`precision_bits`
/// (0.8 %), which keeps the guarantee exact. Values that span a factor `s` take at most `2^precision_bits · log2 s`
/// buckets, all numbers together `2^(precision_bits + 12)`. Hence [`merge`](Self::merge) is exact.
///
/// # Source
/// Howard and Ramdas (2022), doi:10.3150/21-BEJ1388, theorem 1 with the beta-binomial boundary;
/// `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::{ConfidenceSequence, Demand, QuantileCs};
///
/// let mut p99 = QuantileCs::builder(0.99).alpha(0.01).build()?;
/// for i in 0..20_000_u32 {
///     p99.update(f64::from(i * 7_919 % 1_000))?; // 0 to 999 ms
/// }
/// let estimate = p99.estimate().expect("20,000 rows");
/// assert!(estimate.low > 970.0 && estimate.high < 1_000.0, "{p99}");
/// assert_eq!(p99.verdict(Demand::AtMost(800.0)), Verdict::Fail);
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantileCs {
    p: f64,
    alpha: f64,
    tuned_for: u64,
    buckets: Buckets,
}

/// Options of a [`QuantileCs`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct QuantileCsBuilder {
    p: f64,
    alpha: f64,
    tuned_for: u64,
    bits: u32,
}

impl QuantileCsBuilder {
    /// Probability that any interval ever misses, both sides together (default 0.05).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Rows at which the interval is narrowest in proportion, at least 1 (default 1,000).
    pub fn tuned_for(mut self, rows: u64) -> Self {
        self.tuned_for = rows;
        self
    }

    /// Binary digits kept of each value after the leading one, 0 to 16 (default 7).
    pub fn precision_bits(mut self, bits: u32) -> Self {
        self.bits = bits;
        self
    }

    /// The sequence, without rows yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<QuantileCs> {
        let Self { p, alpha, tuned_for, bits } = self;
        if !(1e-9..=1.0 - 1e-9).contains(&p) {
            return Err(Error::invalid("p", format!("must lie in [1e-9, 1 - 1e-9], got {p}")));
        }
        check_alpha(alpha)?;
        if tuned_for == 0 {
            return Err(Error::invalid("tuned_for", "must be at least 1 row"));
        }
        Ok(QuantileCs { p, alpha, tuned_for, buckets: Buckets::new(bits)? })
    }
}

/// The mixture martingale for `k` of `n` rows up to the `p` quantile.
fn log_beta_binomial(k: f64, n: f64, p: f64, r: f64) -> f64 {
    let (a, b) = (r / (1.0 - p), r / p);
    ln_beta(a + k, b + n - k) - ln_beta(a, b) - k * p.ln() - (n - k) * (-p).ln_1p()
}

impl QuantileCs {
    /// Options for the `p` quantile, `p` in (0, 1).
    pub fn builder(p: f64) -> QuantileCsBuilder {
        QuantileCsBuilder { p, alpha: 0.05, tuned_for: 1_000, bits: 7 }
    }

    /// The probability of which this is the quantile.
    #[must_use]
    pub fn p(&self) -> f64 {
        self.p
    }

    fn r(&self) -> f64 {
        // Variance at which a normal mixture would be tuned, less what the beta prior brings by itself.
        let variance = self.p * (1.0 - self.p);
        let level = -2.0 * self.alpha.ln();
        let rho = self.tuned_for as f64 * variance / (level + (1.0 + level).ln());
        (rho - variance).max(1e-3 * variance)
    }

    /// Least and largest count of rows up to the quantile that are not rejected.
    fn counts(&self) -> (u64, u64) {
        let (n, r, threshold) = (self.n() as f64, self.r(), -self.alpha.ln());
        let kept = |k: u64| log_beta_binomial(k as f64, n, self.p, r) < threshold;
        // The martingale is convex in `k` with its minimum near the mean of the posterior mode.
        let centre = ((n * self.p).round() as u64).min(self.n());
        if !kept(centre) {
            return (0, self.n()); // Rounding only: at its minimum the martingale is at most 1 up to one row.
        }
        let (mut out, mut low) = (0, centre);
        if kept(0) {
            low = 0;
        }
        while low > out + 1 {
            let middle = u64::midpoint(out, low);
            if kept(middle) { low = middle } else { out = middle }
        }
        let (mut high, mut out) = (centre, self.n());
        if kept(out) {
            high = out;
        }
        while high.saturating_add(1) < out {
            let middle = u64::midpoint(high, out);
            if kept(middle) { high = middle } else { out = middle }
        }
        (low, high)
    }

    /// Both ends of the interval; `None` where the rows do not bound the quantile yet.
    #[must_use]
    pub fn bounds(&self) -> (Option<f64>, Option<f64>) {
        if self.n() == 0 {
            return (None, None);
        }
        let (least, most) = self.counts();
        let low = self.buckets.at_rank(least).map(|ends| ends.0);
        let high = if most < self.n() { self.buckets.at_rank(most + 1).map(|ends| ends.1) } else { None };
        (low, high)
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if an option differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.p, self.alpha, self.tuned_for) != (other.p, other.alpha, other.tuned_for) {
            return Err(Error::invalid("other", "has another p, alpha or tuned_for"));
        }
        self.buckets.merge(&other.buckets)
    }
}

impl ConfidenceSequence for QuantileCs {
    fn update(&mut self, x: f64) -> Result<()> {
        self.buckets.add(x)
    }

    fn estimate(&self) -> Option<Estimate> {
        let (Some(low), Some(high)) = self.bounds() else {
            return None;
        };
        let rank = ((self.n() as f64 * self.p).ceil() as u64).max(1);
        let value = self.buckets.middle(rank)?.max(low).min(high);
        Some(Estimate::new(value, low, high, self.n()))
    }

    fn alpha(&self) -> f64 {
        self.alpha
    }

    fn n(&self) -> u64 {
        self.buckets.n()
    }

    /// As for every sequence; an interval that is open on a side can still settle a demand on the other.
    fn verdict(&self, demand: Demand) -> Verdict {
        let (low, high) = self.bounds();
        demand.on(low, high)
    }
}

impl fmt::Display for QuantileCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = format!("quantile {}", self.p);
        describe(f, &what, self.estimate(), self.n(), self.alpha, "beta-binomial mixture")
    }
}

/// Confidence band for a whole distribution function, at all points and all looks together.
///
/// ```text
/// |F_n(x) - F(x)| <= 0.85 sqrt( (ln(1 + ln(n/m)) + 0.8 ln(1612/α)) / n )      for all x and all n >= m
/// ```
/// `m` is [`first_look`](CdfBandBuilder::first_look). Hence intervals for any number of probabilities and quantiles, chosen
/// after seeing the rows if need be. For one quantile that is fixed beforehand [`QuantileCs`] is narrower. Assumes
/// independent rows of one distribution. State and [`merge`](Self::merge) as in [`QuantileCs`].
///
/// # Source
/// Howard and Ramdas (2022), doi:10.3150/21-BEJ1388, theorem 2 (an anytime-valid form of the
/// Dvoretzky–Kiefer–Wolfowitz inequality); `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// let mut latency = mlops_monitor::sequential::CdfBand::builder().alpha(0.05).build()?;
/// for i in 0..10_000_u32 {
///     latency.update(f64::from(i % 100))?;
/// }
/// let slow = latency.share_up_to(49.5).expect("10,000 rows");
/// assert!(slow.value == 0.5 && slow.low > 0.46 && slow.high < 0.54);
/// let (low, high) = latency.quantile_bounds(0.9)?;
/// assert!(low.is_some_and(|x| x >= 85.0) && high.is_some_and(|x| x < 95.0));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CdfBand {
    alpha: f64,
    first_look: u64,
    buckets: Buckets,
}

/// Options of a [`CdfBand`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CdfBandBuilder {
    alpha: f64,
    first_look: u64,
    bits: u32,
}

impl CdfBandBuilder {
    /// Probability that the band ever misses, at most 0.3 (default 0.05).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Rows before which there is no band, at least 1 (default 100).
    pub fn first_look(mut self, rows: u64) -> Self {
        self.first_look = rows;
        self
    }

    /// Binary digits kept of each value after the leading one, 0 to 16 (default 7).
    pub fn precision_bits(mut self, bits: u32) -> Self {
        self.bits = bits;
        self
    }

    /// The band, without rows yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<CdfBand> {
        let Self { alpha, first_look, bits } = self;
        if !(alpha > 0.0 && alpha <= 0.3) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 0.3], got {alpha}")));
        }
        if first_look == 0 {
            return Err(Error::invalid("first_look", "must be at least 1 row"));
        }
        Ok(CdfBand { alpha, first_look, buckets: Buckets::new(bits)? })
    }
}

impl CdfBand {
    /// Options, at first the defaults.
    pub fn builder() -> CdfBandBuilder {
        CdfBandBuilder { alpha: 0.05, first_look: 100, bits: 7 }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `x` is not finite; nothing is added then.
    pub fn update(&mut self, x: f64) -> Result<()> {
        self.buckets.add(x)
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if an option differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.alpha, self.first_look) != (other.alpha, other.first_look) {
            return Err(Error::invalid("other", "has another alpha or first_look"));
        }
        self.buckets.merge(&other.buckets)
    }

    /// Rows so far.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.buckets.n()
    }

    /// Probability that the band ever misses.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Half the height of the band now, in (0, 1]; 1 before the first look.
    #[must_use]
    pub fn half_height(&self) -> f64 {
        lil_band(self.n(), self.alpha, self.first_look)
    }

    /// Probability of a value up to `x`, with its interval; `None` before the first look or if `x` is not a number. Where
    /// rows share the bucket of `x` the interval covers both ends of it.
    #[must_use]
    pub fn share_up_to(&self, x: f64) -> Option<Estimate> {
        if self.n() < self.first_look || x.is_nan() {
            return None;
        }
        let (below, up_to) = self.buckets.around(x);
        let (rows, half) = (self.n() as f64, self.half_height());
        let (least, most) = (below as f64 / rows, up_to as f64 / rows);
        Some(Estimate::new(f64::midpoint(least, most), (least - half).max(0.0), (most + half).min(1.0), self.n()))
    }

    /// Ends of the interval for the `p` quantile; `None` where the rows do not bound it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `p` is not in (0, 1).
    pub fn quantile_bounds(&self, p: f64) -> Result<(Option<f64>, Option<f64>)> {
        if !(p > 0.0 && p < 1.0) {
            return Err(Error::invalid("p", format!("must lie in (0, 1), got {p}")));
        }
        let (rows, half) = (self.n() as f64, self.half_height());
        // F(Q) >= p, so at least n(p - half) rows are up to Q; F(Q-) <= p, so at most n(p + half) are below it.
        let (least, most) = ((rows * (p - half)).ceil(), (rows * (p + half)).floor());
        let low = if least >= 1.0 { self.buckets.at_rank(least as u64).map(|ends| ends.0) } else { None };
        let high = if most < rows { self.buckets.at_rank(most as u64 + 1).map(|ends| ends.1) } else { None };
        Ok((low, high))
    }

    pub(super) fn buckets(&self) -> &Buckets {
        &self.buckets
    }
}

impl fmt::Display for CdfBand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "distribution ± {:.4} (n = {}), alpha {} at all points and looks together",
            self.half_height(),
            crate::metrics::grouped(self.n()),
            self.alpha
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_falls_into_them() {
        for bits in [0, 7, 16] {
            let buckets = Buckets::new(bits).unwrap();
            let mut last = None;
            for x in [
                f64::MIN,
                -1e300,
                -3.5,
                -1.0,
                -1e-300,
                -5e-324,
                -0.0,
                0.0,
                5e-324,
                1e-310,
                1e-5,
                1.0,
                1.007,
                3.5,
                1e9,
                f64::MAX,
            ] {
                let (low, high) = buckets.ends(buckets.key(x));
                assert!(low <= x && x <= high, "{x}: {low} {high}");
                assert!(high - low <= x.abs() / 2.0_f64.powi(bits as i32) + 1e-307, "{x}: {low} {high}");
                assert!(last <= Some(buckets.key(x)), "{x}");
                last = Some(buckets.key(x));
            }
        }
    }
}
