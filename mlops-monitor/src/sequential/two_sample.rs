//! Two-sample tests by betting: do two streams have the same mean, the same distribution?

use std::fmt;

use mlops_core::Verdict;
use serde::{Deserialize, Serialize};

use super::betting::Capital;
use super::{Arm, BettingTest, CdfBand, EValue, check_alpha};
use crate::{Error, Estimate, Result};

/// Blocks of rows of both arms: each is closed by the row after which both arms have one. Where blocks end depends on the
/// arms of the rows, never on their values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Pairing {
    rows: [u64; 2],
    sums: [f64; 2],
}

impl Pairing {
    /// Adds a value; the mean of `b` minus that of `a` if that closes the block.
    fn add(&mut self, arm: Arm, value: f64) -> Option<f64> {
        let i = usize::from(arm == Arm::B);
        if let (Some(rows), Some(sum)) = (self.rows.get_mut(i), self.sums.get_mut(i)) {
            *rows = rows.saturating_add(1);
            *sum += value;
        }
        self.close()
    }

    fn close(&mut self) -> Option<f64> {
        let ([rows_a, rows_b], [sum_a, sum_b]) = (self.rows, self.sums);
        if rows_a == 0 || rows_b == 0 {
            return None;
        }
        *self = Self::default();
        // Rounding of a mean of values in [0, 1] must not leave the range of the bets.
        Some((sum_b / rows_b as f64 - sum_a / rows_a as f64).clamp(-1.0, 1.0))
    }

    fn merge(&mut self, other: &Self) -> Option<f64> {
        for ((rows, sum), (more, by)) in
            self.rows.iter_mut().zip(&mut self.sums).zip(other.rows.iter().zip(&other.sums))
        {
            *rows = rows.saturating_add(*more);
            *sum += by;
        }
        self.close()
    }
}

/// Tests whether two streams of values in a known range have the same mean, or means within a margin, by betting.
///
/// ```text
/// g_j = mean of b's rows in block j - mean of a's,  in units of the range, in [-1, 1]
/// E_n = 1/25 Σ_k Π_(j<=n) (1 ± f_k' (g_j ∓ margin))        null: |mean_b - mean_a| <= margin, each side by BettingTest
/// ```
/// The arms may have any numbers of rows in any order: a block ends as soon as both have one, so that a canary with 5 % of
/// the traffic is compared with the average of the rows of the live model since its last. Assumes that the means, given
/// the past, do not change; which arm a row goes to must not depend on its value.
///
/// [`merge`](Self::merge) joins shards; exact but for the blocks that are open in both.
///
/// # Source
/// Shekhar and Ramdas (2024), doi:10.1109/TIT.2023.3305867, with the difference of means as payoff; the bets are those of
/// [`BettingTest`]. `tests/golden/sequential.json`.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::{Arm, TwoSampleMeanTest};
///
/// let mut test = TwoSampleMeanTest::new(0.0, 1.0, 0.0)?;
/// for i in 0..4_000 {
///     test.update(Arm::A, f64::from(i % 10) / 9.0)?;
///     if i % 5 == 0 {
///         test.update(Arm::B, f64::from(i % 7) / 7.0)?; // 0.43 against 0.5 on average
///     }
/// }
/// assert_eq!(test.verdict(0.05)?, Verdict::Fail, "{test}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwoSampleMeanTest {
    low: f64,
    high: f64,
    rows: [u64; 2],
    sums: [f64; 2],
    pairing: Pairing,
    /// `(1 + g)/2` against `(1 + margin)/2` and `(1 - margin)/2`.
    at_margin: BettingTest,
    at_minus_margin: BettingTest,
}

impl TwoSampleMeanTest {
    /// A test for values in [`low`, `high`] whose means may differ by `margin` (in the units of the values), without rows
    /// yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range is empty or not finite, or `margin` is not in [0, 0.99 of its width].
    pub fn new(low: f64, high: f64, margin: f64) -> Result<Self> {
        let width = high - low;
        if !(width.is_finite() && width > 0.0) {
            return Err(Error::invalid("range", format!("must be finite with low < high, got [{low}, {high}]")));
        }
        let share = margin / width;
        if !(0.0..=0.99).contains(&share) {
            return Err(Error::invalid(
                "margin",
                format!("must be 0 to 0.99 of the width of the range, {width}, got {margin}"),
            ));
        }
        Ok(Self {
            low,
            high,
            rows: [0; 2],
            sums: [0.0; 2],
            pairing: Pairing::default(),
            at_margin: BettingTest::new((1.0 + share) / 2.0)?,
            at_minus_margin: BettingTest::new((1.0 - share) / 2.0)?,
        })
    }

    /// Adds a row of an arm.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `x` is not in the range; nothing is added then.
    pub fn update(&mut self, arm: Arm, x: f64) -> Result<()> {
        if !(x >= self.low && x <= self.high) {
            return Err(Error::invalid("x", format!("must lie in [{}, {}], got {x}", self.low, self.high)));
        }
        let y = ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let i = usize::from(arm == Arm::B);
        if let (Some(rows), Some(sum)) = (self.rows.get_mut(i), self.sums.get_mut(i)) {
            *rows = rows.saturating_add(1);
            *sum += y;
        }
        if let Some(difference) = self.pairing.add(arm, y) {
            self.bet(difference)?;
        }
        Ok(())
    }

    fn bet(&mut self, difference: f64) -> Result<()> {
        let x = f64::midpoint(1.0, difference);
        self.at_margin.update(x)?;
        self.at_minus_margin.update(x)
    }

    /// Adds the rows of `other`, which must be other rows than those seen here.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the range or the margin differs; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.low, self.high) != (other.low, other.high) {
            return Err(Error::invalid("other", format!("has range [{}, {}]", other.low, other.high)));
        }
        self.at_margin.merge(&other.at_margin)?;
        self.at_minus_margin.merge(&other.at_minus_margin)?;
        for ((rows, sum), (more, by)) in
            self.rows.iter_mut().zip(&mut self.sums).zip(other.rows.iter().zip(&other.sums))
        {
            *rows = rows.saturating_add(*more);
            *sum += by;
        }
        if let Some(difference) = self.pairing.merge(&other.pairing) {
            self.bet(difference)?;
        }
        Ok(())
    }

    /// Rows of each arm so far.
    #[must_use]
    pub fn rows(&self) -> (u64, u64) {
        (self.rows[0], self.rows[1])
    }

    /// Mean of `b` minus mean of `a` so far, in the units of the values; `None` until both have rows.
    #[must_use]
    pub fn difference(&self) -> Option<f64> {
        let ([a, b], [sum_a, sum_b]) = (self.rows, self.sums);
        (a > 0 && b > 0).then(|| (sum_b / b as f64 - sum_a / a as f64) * (self.high - self.low))
    }

    /// Evidence that `b`'s mean is above `a`'s by more than the margin.
    #[must_use]
    pub fn evidence_above(&self) -> EValue {
        self.at_margin.evidence_above()
    }

    /// Evidence that `b`'s mean is below `a`'s by more than the margin.
    #[must_use]
    pub fn evidence_below(&self) -> EValue {
        self.at_minus_margin.evidence_below()
    }

    /// Evidence that the means differ by more than the margin: the average of both sides.
    #[must_use]
    pub fn evidence_differ(&self) -> EValue {
        EValue::mean(&[self.evidence_above(), self.evidence_below()])
    }

    /// Evidence that the means differ by less than the margin: the smaller of both sides'. With margin 0 there is none.
    #[must_use]
    pub fn evidence_within(&self) -> EValue {
        let (below, above) = (self.at_margin.evidence_below(), self.at_minus_margin.evidence_above());
        if below.log() < above.log() { below } else { above }
    }

    /// `Fail` if the means are shown to differ by more than the margin, `Pass` if by less, each wrong with probability at
    /// most `alpha` over all looks together; else `Inconclusive`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `alpha` is not in (0, 1).
    pub fn verdict(&self, alpha: f64) -> Result<Verdict> {
        check_alpha(alpha)?;
        Ok(if self.evidence_differ().rejects(alpha) {
            Verdict::Fail
        } else if self.at_margin.mean0() > 0.5 && self.evidence_within().rejects(alpha) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        })
    }
}

impl fmt::Display for TwoSampleMeanTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.rows();
        match self.difference() {
            Some(difference) => write!(f, "difference of means {difference:.4}")?,
            None => f.write_str("difference of means unknown")?,
        }
        write!(
            f,
            " (n = {} and {}), {} that it is beyond the margin",
            crate::metrics::grouped(a),
            crate::metrics::grouped(b),
            self.evidence_differ()
        )
    }
}

/// Tests whether two streams have the same distribution, by betting on the cut where they have differed most.
///
/// ```text
/// g_j = s_j (mean of 1{x <= c_j} over b's rows in block j - the same for a's),  in [-1, 1]
/// E_n = 1/25 Σ_k Π_(j<=n) (1 + f_k g_j)                                         null: one distribution
/// (c_j, s_j): the cut and sign of the largest distance between the distributions of the rows so far
/// ```
/// The cut is looked for anew whenever the blocks have grown by an eighth, from rows before the block that is bet on; blocks
/// and stakes as in [`TwoSampleMeanTest`]. Any change of the distribution is found in the end, the mean's or not. Rows of
/// an arm must be independent of each other and of the other arm's under the null.
///
/// The state is two [`CdfBand`]s and 50 numbers. Shards do not merge, as their cuts differ: average their evidence
/// ([`EValue::mean`]), or multiply it where the shards are independent.
///
/// # Source
/// Shekhar and Ramdas (2024), doi:10.1109/TIT.2023.3305867, the Kolmogorov–Smirnov test of their section 4.
///
/// # Examples
/// ```
/// use mlops_core::Verdict;
/// use mlops_monitor::sequential::{Arm, Demand, TwoSampleKsTest};
///
/// let mut test = TwoSampleKsTest::new(0.05)?;
/// for i in 0..10_000_u32 {
///     let u = f64::from(i * 7_919 % 1_000) / 1_000.0;
///     test.update(Arm::A, u)?;
///     test.update(Arm::B, 0.25 + 0.5 * u)?; // the same mean, half the spread
/// }
/// assert_eq!(test.verdict(0.05)?, Verdict::Fail);
/// let distance = test.distance().expect("10,000 rows of each"); // 0.25
/// assert_eq!(Demand::AtMost(0.1).verdict(&distance), Verdict::Fail, "{test}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwoSampleKsTest {
    a: CdfBand,
    b: CdfBand,
    pairing: Pairing,
    blocks: u64,
    /// Blocks at which the cut is looked for again.
    renew_at: u64,
    /// The cut, and 1 if `b` has had more rows up to it than `a`, else -1.
    cut: Option<(f64, f64)>,
    capital: Capital,
}

impl TwoSampleKsTest {
    /// A test without rows yet, whose [`distance`](Self::distance) has an interval of level `1 - alpha`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `alpha` is not in (0, 0.6].
    pub fn new(alpha: f64) -> Result<Self> {
        if !(alpha > 0.0 && alpha <= 0.6) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 0.6], got {alpha}")));
        }
        let band = CdfBand::builder().alpha(alpha / 2.0).build()?;
        Ok(Self {
            a: band.clone(),
            b: band,
            pairing: Pairing::default(),
            blocks: 0,
            renew_at: 8,
            cut: None,
            capital: Capital::START,
        })
    }

    /// Adds a row of an arm.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `x` is not finite; nothing is added then.
    pub fn update(&mut self, arm: Arm, x: f64) -> Result<()> {
        match arm {
            Arm::A => self.a.update(x)?,
            Arm::B => self.b.update(x)?,
        }
        let below = self.cut.map_or(0.0, |(cut, _)| f64::from(u8::from(x <= cut)));
        if let Some(difference) = self.pairing.add(arm, below) {
            if let Some((_, sign)) = self.cut {
                self.capital.bet(sign * difference);
            }
            self.blocks = self.blocks.saturating_add(1);
            if self.blocks >= self.renew_at {
                self.renew_at = self.blocks.saturating_add(self.blocks / 8 + 1);
                self.cut = self.widest_cut();
            }
        }
        Ok(())
    }

    /// The edge of a bucket at which the two distributions differ most.
    fn widest_cut(&self) -> Option<(f64, f64)> {
        let mut best: Option<(f64, f64)> = None;
        self.each_step(|edge, a, b| {
            let gap = b.1 - a.1;
            if best.is_none_or(|(_, most)| gap.abs() > most.abs()) {
                best = Some((edge, gap));
            }
        });
        best.filter(|(_, gap)| *gap != 0.0).map(|(edge, gap)| (edge, gap.signum()))
    }

    /// Calls with every bucket's last number and each arm's share of rows before and up to it.
    fn each_step(&self, mut visit: impl FnMut(f64, (f64, f64), (f64, f64))) {
        let (rows_a, rows_b) = (self.a.n().max(1) as f64, self.b.n().max(1) as f64);
        let (mut left, mut right) =
            (self.a.buckets().cumulative().peekable(), self.b.buckets().cumulative().peekable());
        let (mut done_a, mut done_b) = (0.0, 0.0);
        loop {
            let edge = match (left.peek(), right.peek()) {
                (Some((x, ..)), Some((y, ..))) => x.min(*y),
                (Some((x, ..)), None) | (None, Some((x, ..))) => *x,
                (None, None) => return,
            };
            let (before_a, before_b) = (done_a, done_b);
            if let Some((_, _, up_to)) = left.next_if(|(x, ..)| *x <= edge) {
                done_a = up_to as f64 / rows_a;
            }
            if let Some((_, _, up_to)) = right.next_if(|(x, ..)| *x <= edge) {
                done_b = up_to as f64 / rows_b;
            }
            visit(edge, (before_a, done_a), (before_b, done_b));
        }
    }

    /// Rows of each arm so far.
    #[must_use]
    pub fn rows(&self) -> (u64, u64) {
        (self.a.n(), self.b.n())
    }

    /// Evidence that the distributions differ.
    #[must_use]
    pub fn evidence(&self) -> EValue {
        self.capital.evidence()
    }

    /// Kolmogorov–Smirnov distance of the distributions, in [0, 1], with an interval valid at all looks together
    /// ([`CdfBand`] of each arm at half of the `alpha` given to [`new`](Self::new)); `None` before 100 rows of each. Its value is the largest distance at an edge of a bucket.
    ///
    /// A drift that matters is a distance above some bound, not evidence against equality, which grows under the least
    /// difference: hold this against a [`Demand`](super::Demand).
    #[must_use]
    pub fn distance(&self) -> Option<Estimate> {
        if self.a.half_height() >= 1.0 || self.b.half_height() >= 1.0 {
            return None;
        }
        let (mut at_edges, mut inside) = (0.0_f64, 0.0_f64);
        self.each_step(|_, a, b| {
            at_edges = at_edges.max((a.1 - b.1).abs());
            inside = inside.max(a.1 - b.0).max(b.1 - a.0);
        });
        let band = self.a.half_height() + self.b.half_height();
        let n = self.a.n().saturating_add(self.b.n());
        Some(Estimate::new(at_edges, (at_edges - band).max(0.0), (inside + band).min(1.0), n))
    }

    /// `Fail` if the distributions are shown to differ, wrong with probability at most `alpha` over all looks together;
    /// else `Inconclusive`, as no number of rows shows that they are equal.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if `alpha` is not in (0, 1).
    pub fn verdict(&self, alpha: f64) -> Result<Verdict> {
        check_alpha(alpha)?;
        Ok(if self.evidence().rejects(alpha) { Verdict::Fail } else { Verdict::Inconclusive })
    }
}

impl fmt::Display for TwoSampleKsTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.distance() {
            Some(distance) => write!(f, "distance of distributions {distance}")?,
            None => {
                let (a, b) = self.rows();
                let (a, b) = (crate::metrics::grouped(a), crate::metrics::grouped(b));
                write!(f, "distance of distributions unknown (n = {a} and {b})")?;
            }
        }
        write!(f, ", {} that they differ", self.evidence())
    }
}
