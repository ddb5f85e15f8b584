//! Quantiles of a stream in little memory, the same for the same rows.

use serde::{Deserialize, Serialize};

use super::scramble;

/// Values that are taken in at once.
pub(crate) const BLOCK: usize = 512;
/// No level holds fewer values.
const LEAST: usize = 8;

/// A sketch of the distribution of numbers: ranks and quantiles with a bound on their error, mergeable.
///
/// A KLL sketch: level `h` holds values that stand for `2^h` rows each; a level that is full is sorted and every second
/// value, odd or even by a coin, goes one level up. Below 512 numbers it holds them all and is exact.
///
/// # Error
/// Halving a level of weight `w` moves the rank of any value by `w` rows at most, up or down by the coin; two halvings in
/// turn use opposite coins, so their errors partly cancel. With the sum `V` of `w²` over such pairs, which the sketch
/// keeps, `P(|error| > t) <= 2 exp(-t² / 2V)` for a rank asked for beforehand ([`rank_error`](Self::rank_error)).
/// At the default `k` of 512 it is about 1 % at 99 %, less in fact (0.3 % seen).
///
/// # Determinism
/// The coins come from a generator with a fixed start: the same numbers in the same order give the same sketch, however
/// they were cut into batches.
///
/// # Source
/// Karnin, Lang, Liberty (2016), arXiv:1603.05346; the bound is Hoeffding's inequality over the coins. Simulated in
/// `tests/it/profile.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    k: usize,
    n: u64,
    /// The latest values, in order, of weight 1; fewer than [`BLOCK`].
    pub(crate) pending: Vec<f64>,
    /// Sorted values of weight 2, 4, 8, ...
    levels: Vec<Vec<f64>>,
    /// Halvings of the pending values and of each level.
    flips: Vec<u64>,
    noise: f64,
}

impl Quantiles {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, n: 0, pending: Vec::new(), levels: Vec::new(), flips: vec![0], noise: 0.0 }
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn is_sound(&self) -> bool {
        let kept = self.levels.iter().enumerate().try_fold(self.pending.len() as u64, |sum, (i, level)| {
            (level.len() as u64).checked_mul(1_u64.checked_shl(i as u32 + 1)?)?.checked_add(sum)
        });
        self.pending.len() < BLOCK
            && self.flips.len() == self.levels.len() + 1
            && self.noise >= 0.0
            && kept == Some(self.n)
            && (LEAST..=1 << 16).contains(&self.k)
            && self.levels.iter().chain([&self.pending]).flatten().all(|x| x.is_finite())
            && self.levels.iter().all(|level| level.is_sorted())
    }

    /// Counts a number that was put among the pending ones.
    pub(crate) fn grow(&mut self, by: usize) {
        self.n = self.n.saturating_add(by as u64);
    }

    /// Takes in a sorted block of [`BLOCK`] values that were pending.
    pub(crate) fn absorb(&mut self, sorted: &[f64]) {
        let half = self.halve(0, sorted);
        self.place(0, half);
    }

    /// Adds the levels of `other`, not its pending values.
    pub(crate) fn merge_levels(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n - other.pending.len() as u64);
        self.noise += other.noise;
        for (i, level) in other.levels.iter().enumerate() {
            if i >= self.levels.len() {
                self.levels.push(Vec::new());
                self.flips.push(0);
            }
            self.place(i, level.clone());
        }
    }

    fn capacity(&self, level: usize) -> usize {
        let depth = self.levels.len() - 1 - level;
        let share = (2.0_f64 / 3.0).powi(depth.min(64) as i32);
        ((self.k as f64 * share).ceil() as usize).max(LEAST)
    }

    /// Every second of an even number of sorted values of weight `2^level`.
    fn halve(&mut self, level: usize, sorted: &[f64]) -> Vec<f64> {
        let turn = self.flips[level];
        self.flips[level] = turn.wrapping_add(1);
        if turn.is_multiple_of(2) {
            self.noise += 4.0_f64.powi(level as i32);
        }
        let coin = scramble(scramble(turn / 2).wrapping_add(level as u64)) & 1 ^ turn & 1;
        sorted.iter().skip(coin as usize).step_by(2).copied().collect()
    }

    /// Puts sorted values of weight `2^(level + 1)` where they belong, and makes room above.
    fn place(&mut self, mut level: usize, mut values: Vec<f64>) {
        while !values.is_empty() {
            if level >= self.levels.len() {
                self.levels.push(Vec::new());
                self.flips.push(0);
            }
            let mut joined = join(&self.levels[level], &values);
            if joined.len() <= self.capacity(level) {
                self.levels[level] = joined;
                return;
            }
            let odd = joined.len() % 2;
            values = self.halve(level + 1, &joined[odd..]);
            joined.truncate(odd);
            self.levels[level] = joined;
            level += 1;
        }
    }

    /// How many numbers went in.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Whether ranks and quantiles are those of all numbers, without error.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.noise == 0.0
    }

    /// A share of rows by which the rank of a value is off at most, with probability `confidence` in (0, 1).
    #[must_use]
    pub fn rank_error(&self, confidence: f64) -> f64 {
        self.error(1.0 - confidence)
    }

    /// The same for the ranks of all values at once.
    #[must_use]
    pub fn rank_error_everywhere(&self, confidence: f64) -> f64 {
        self.error((1.0 - confidence) / self.n.max(1) as f64)
    }

    fn error(&self, alpha: f64) -> f64 {
        if self.is_exact() {
            return 0.0;
        }
        let error =
            (2.0 * self.noise * (2.0 / alpha.max(f64::MIN_POSITIVE)).ln().max(0.0)).sqrt() / self.n.max(1) as f64;
        error.clamp(0.0, 1.0)
    }

    /// Variance of the share of rows below a value, at most.
    pub(crate) fn rank_variance(&self) -> f64 {
        self.noise / (self.n.max(1) as f64).powi(2)
    }

    /// The values below which the shares `ranks`, each in [0, 1], lie; `None` without numbers.
    #[must_use]
    pub fn quantiles(&self, ranks: &[f64]) -> Option<Vec<f64>> {
        let view = self.view();
        (self.n > 0).then(|| ranks.iter().map(|rank| view.quantile(*rank)).collect())
    }

    /// The value below which a share `rank`, in [0, 1], of the numbers lies; `None` without numbers.
    #[must_use]
    pub fn quantile(&self, rank: f64) -> Option<f64> {
        self.quantiles(&[rank]).map(|found| found[0])
    }

    /// The share of numbers not above `value`, in [0, 1]; 0 without numbers.
    #[must_use]
    pub fn rank(&self, value: f64) -> f64 {
        self.view().up_to(value) as f64 / self.n.max(1) as f64
    }

    pub(crate) fn view(&self) -> View {
        let mut items: Vec<(f64, u64)> = self.pending.iter().map(|x| (*x, 1)).collect();
        for (i, level) in self.levels.iter().enumerate() {
            items.extend(level.iter().map(|x| (*x, 1_u64 << (i + 1).min(63))));
        }
        items.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut view = View { values: Vec::with_capacity(items.len()), up_to: Vec::with_capacity(items.len()) };
        let mut sum = 0_u64;
        for (value, weight) in items {
            sum = sum.saturating_add(weight);
            if view.values.last() == Some(&value) {
                view.up_to.pop();
            } else {
                view.values.push(value);
            }
            view.up_to.push(sum);
        }
        view
    }
}

/// The values of a sketch in ascending order, each once, with the rows up to each.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) values: Vec<f64>,
    up_to: Vec<u64>,
}

impl View {
    #[cfg(feature = "alerts")]
    pub(crate) fn of_sorted(sorted: &[f64]) -> Self {
        let mut view = Self { values: Vec::new(), up_to: Vec::new() };
        for (i, value) in sorted.iter().enumerate() {
            if view.values.last() == Some(value) {
                view.up_to.pop();
            } else {
                view.values.push(*value);
            }
            view.up_to.push(i as u64 + 1);
        }
        view
    }

    pub(crate) fn n(&self) -> u64 {
        self.up_to.last().copied().unwrap_or(0)
    }

    pub(crate) fn up_to(&self, value: f64) -> u64 {
        let below = self.values.partition_point(|x| *x <= value);
        if below == 0 { 0 } else { self.up_to[below - 1] }
    }

    fn quantile(&self, rank: f64) -> f64 {
        let wanted = ((rank.clamp(0.0, 1.0) * self.n() as f64).ceil() as u64).max(1);
        self.at(wanted)
    }

    /// The value of the row of this rank, from 1 on.
    fn at(&self, wanted: u64) -> f64 {
        let i = self.up_to.partition_point(|sum| *sum < wanted).min(self.values.len().saturating_sub(1));
        self.values.get(i).copied().unwrap_or(f64::NAN)
    }

    /// Upper edges (inclusive) of all of `bins` bins but the last: lower empirical quantiles, each once, and a bin of its
    /// own for a value that alone has more than one bin's share of the rows.
    pub(crate) fn edges(&self, bins: usize) -> Vec<f64> {
        let n = self.n();
        let mut edges: Vec<f64> = Vec::with_capacity(bins - 1);
        let mut previous = None;
        for k in 1..bins as u64 {
            let wanted = (u128::from(k) * u128::from(n)).div_ceil(bins as u128) as u64;
            // Adding 0 turns -0 into 0, so that equal values give one edge.
            let value = self.at(wanted.max(1)) + 0.0;
            if previous == Some(value) || value.is_nan() {
                continue;
            }
            previous = Some(value);
            let below = value.next_down();
            let rows = self.up_to(value) - self.up_to(below);
            let alone = rows > 1 && rows.saturating_mul(bins as u64) > n;
            if alone && below.is_finite() && edges.last().is_none_or(|last| *last < below) {
                edges.push(below);
            }
            edges.push(value);
        }
        edges
    }

    /// Rows in each bin.
    pub(crate) fn counts(&self, edges: &[f64]) -> Vec<u64> {
        let mut before = 0;
        let mut counts: Vec<u64> = edges
            .iter()
            .map(|edge| {
                let up_to = self.up_to(*edge);
                let count = up_to - before;
                before = up_to;
                count
            })
            .collect();
        counts.push(self.n() - before);
        counts
    }

    /// The largest difference of the shares up to a value, and where it is; neither side may be empty.
    pub(crate) fn distance(&self, other: &Self) -> (f64, f64) {
        let (n, m) = (self.n() as f64, other.n() as f64);
        let (mut i, mut j, mut widest, mut at) = (0, 0, 0.0_f64, f64::NEG_INFINITY);
        while i < self.values.len() && j < other.values.len() {
            let x = self.values[i].min(other.values[j]);
            i += usize::from(self.values[i] == x);
            j += usize::from(other.values[j] == x);
            let rank = |up_to: &[u64], k: usize, n: f64| if k == 0 { 0.0 } else { up_to[k - 1] as f64 / n };
            let gap = (rank(&self.up_to, i, n) - rank(&other.up_to, j, m)).abs();
            if gap > widest {
                (widest, at) = (gap, x);
            }
        }
        (widest, at)
    }
}

/// Two sorted lists as one.
fn join(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut joined = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let first = a[i] <= b[j];
        joined.push(if first { a[i] } else { b[j] });
        i += usize::from(first);
        j += usize::from(!first);
    }
    joined.extend_from_slice(&a[i..]);
    joined.extend_from_slice(&b[j..]);
    joined
}
