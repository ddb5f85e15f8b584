//! What numbers are like.

use arrow::buffer::NullBuffer;
use serde::{Deserialize, Serialize};

use super::distinct::hash_bits;
use super::frequent::NumberCounts;
use super::quantiles::BLOCK;
use super::{Distinct, FrequentItem, Moments, Quantiles};
use crate::drift::BinCounts;

/// Bins of numbers whose own have not been counted.
const BINS: usize = 10;

/// Counts of numbers in bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Histogram {
    pub(crate) edges: Vec<f64>,
    pub(crate) counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new(edges: Vec<f64>) -> Self {
        let counts = vec![0; edges.len() + 1];
        Self { edges, counts }
    }

    fn absorb(&mut self, sorted: &[f64]) {
        let mut before = 0;
        for (edge, count) in self.edges.iter().zip(&mut self.counts) {
            let up_to = before + sorted[before..].partition_point(|x| x <= edge);
            *count += (up_to - before) as u64;
            before = up_to;
        }
        if let Some(last) = self.counts.last_mut() {
            *last += (sorted.len() - before) as u64;
        }
    }
}

/// Numbers, or times and durations as numbers of their unit: counts, range, moments, quantiles, frequent values.
///
/// Finite numbers are taken in 512 at a time: sorted once, a block gives its moments, its bins, its runs of equal values and
/// what goes into the sketches. Values that wait for their block are part of the state, and of every answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberProfile {
    nans: u64,
    infinite: [u64; 2],
    zeros: u64,
    negatives: u64,
    range: Option<(f64, f64)>,
    /// The same of whole numbers, which a float may not hold.
    whole_range: Option<(i64, i64)>,
    moments: Moments,
    quantiles: Quantiles,
    frequent: NumberCounts,
    distinct: Distinct,
    /// Different values as whole numbers, not as floats, were counted.
    whole: bool,
    histogram: Option<Histogram>,
}

impl NumberProfile {
    pub(crate) fn new(k: usize, edges: Option<Vec<f64>>) -> Self {
        Self {
            nans: 0,
            infinite: [0; 2],
            zeros: 0,
            negatives: 0,
            range: None,
            whole_range: None,
            moments: Moments::default(),
            quantiles: Quantiles::new(k),
            frequent: NumberCounts::default(),
            distinct: Distinct::default(),
            whole: false,
            histogram: edges.map(Histogram::new),
        }
    }

    /// Whether its parts agree with each other and with so many rows that are not null.
    pub(crate) fn is_sound(&self, present: u64) -> bool {
        let sum = |counts: &[u64]| counts.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        let (finite, pending) = (self.finite(), self.quantiles.pending.len() as u64);
        let counts = sum(&[self.nans, self.infinite[0], self.infinite[1], finite]) == Some(present)
            && sum(&[self.zeros, self.negatives, pending]).is_some_and(|n| n <= finite)
            && self.moments.n() == finite - pending
            && self.histogram.as_ref().is_none_or(|h| sum(&h.counts) == Some(finite - pending));
        let bins = self.histogram.as_ref().is_none_or(|h| {
            h.counts.len() == h.edges.len() + 1
                && h.edges.iter().all(|e| e.is_finite())
                && h.edges.is_sorted_by(|a, b| a < b)
        });
        let range = self.range.is_none_or(|(low, high)| low.is_finite() && high.is_finite());
        counts && bins && range && self.quantiles.is_sound() && self.frequent.is_sound() && self.moments.is_sound()
    }

    /// Adds values, of which those at nulls are none.
    pub(crate) fn extend(&mut self, values: &[f64], nulls: Option<&NullBuffer>) {
        let mut at = 0;
        while at < values.len() {
            let room = BLOCK - self.quantiles.pending.len();
            let end = (at + room).min(values.len());
            let before = self.quantiles.pending.len();
            let (mut kept, mut valid) = (before, 0);
            self.quantiles.pending.resize(before + end - at, 0.0);
            let pending = &mut self.quantiles.pending;
            // Every value is written, and stays if the next one is written behind it.
            match nulls {
                None => {
                    valid = end - at;
                    for x in &values[at..end] {
                        pending[kept] = *x + 0.0;
                        kept += usize::from(x.is_finite());
                    }
                }
                Some(nulls) => {
                    for (x, is_valid) in values[at..end].iter().zip(nulls.inner().slice(at, end - at).iter()) {
                        pending[kept] = *x + 0.0;
                        kept += usize::from(x.is_finite() & is_valid);
                        valid += usize::from(is_valid);
                    }
                }
            }
            pending.truncate(kept);
            if kept - before < valid {
                self.count_others(values, at, end, nulls);
            }
            self.quantiles.grow(kept - before);
            at = end;
            if kept == BLOCK {
                self.flush();
            }
        }
    }

    #[cold]
    fn count_others(&mut self, values: &[f64], at: usize, end: usize, nulls: Option<&NullBuffer>) {
        for (i, x) in values[at..end].iter().enumerate() {
            if nulls.is_none_or(|nulls| nulls.is_valid(at + i)) {
                self.nans += u64::from(x.is_nan());
                self.infinite[0] += u64::from(*x == f64::NEG_INFINITY);
                self.infinite[1] += u64::from(*x == f64::INFINITY);
            }
        }
    }

    /// Adds whole numbers themselves to what floats would lose: their range and how many there are.
    pub(crate) fn extend_whole(&mut self, values: impl Iterator<Item = i64>) {
        self.whole = true;
        let mut range = self.whole_range.unwrap_or((i64::MAX, i64::MIN));
        let mut any = self.whole_range.is_some();
        for value in values {
            any = true;
            range = (range.0.min(value), range.1.max(value));
            self.distinct.add(hash_bits(value as u64));
        }
        self.whole_range = any.then_some(range);
    }

    /// The same for values that are no `i64`, by their bytes.
    pub(crate) fn extend_exact(&mut self, hashes: impl Iterator<Item = u64>) {
        self.whole = true;
        hashes.for_each(|hash| self.distinct.add(hash));
    }

    fn flush(&mut self) {
        let mut block = std::mem::take(&mut self.quantiles.pending);
        self.absorb(&mut block);
        self.quantiles.absorb(&block);
        block.clear();
        self.quantiles.pending = block;
    }

    /// Takes in a block apart from its quantiles, and sorts it.
    fn absorb(&mut self, block: &mut [f64]) {
        if block.is_empty() {
            return;
        }
        self.moments.merge(&Moments::of(block));
        sort(block);
        let zeros = block.partition_point(|x| *x < 0.0);
        let above = zeros + block[zeros..].partition_point(|x| *x <= 0.0);
        self.negatives += zeros as u64;
        self.zeros += (above - zeros) as u64;
        let (low, high) = (block[0], block[block.len() - 1]);
        self.range = Some(self.range.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
        let mut runs: Vec<(f64, u64)> = Vec::with_capacity(block.len());
        runs.extend(block.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)));
        if !self.whole {
            runs.iter().for_each(|run| self.distinct.add(hash_bits(run.0.to_bits())));
        }
        self.frequent.absorb(&runs);
        if let Some(histogram) = &mut self.histogram {
            histogram.absorb(block);
        }
    }

    /// As if the pending values had filled a block.
    fn settled(&self) -> Self {
        let mut settled = self.clone();
        let mut block = std::mem::take(&mut settled.quantiles.pending);
        settled.absorb(&mut block);
        settled
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.nans += other.nans;
        self.infinite[0] += other.infinite[0];
        self.infinite[1] += other.infinite[1];
        self.zeros += other.zeros;
        self.negatives += other.negatives;
        let widest = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
        self.range = either(self.range, other.range, widest);
        self.whole_range = either(self.whole_range, other.whole_range, |a, b| (a.0.min(b.0), a.1.max(b.1)));
        self.whole |= other.whole;
        self.moments.merge(&other.moments);
        self.frequent.merge(&other.frequent);
        self.distinct.merge(&other.distinct);
        self.quantiles.merge_levels(&other.quantiles);
        if let (Some(mine), Some(theirs)) = (&mut self.histogram, &other.histogram) {
            mine.counts.iter_mut().zip(&theirs.counts).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
        }
        self.extend(&other.quantiles.pending, None);
    }

    pub(crate) fn edges(&self) -> Option<&[f64]> {
        self.histogram.as_ref().map(|h| h.edges.as_slice())
    }

    /// The edges of its bins, or of quantile bins by its sketch.
    pub(crate) fn bin_edges(&self) -> Vec<f64> {
        self.edges().map_or_else(|| self.quantiles.view().edges(BINS), <[f64]>::to_vec)
    }

    pub(crate) fn set_histogram(&mut self, histogram: Option<Histogram>) {
        self.histogram = histogram;
    }

    /// Rows in the bins between `edges`, and how sure each count is: the variance of a share, at most.
    pub(crate) fn counts_in(&self, edges: &[f64]) -> (Vec<u64>, f64) {
        if let Some(histogram) = self.histogram.as_ref().filter(|h| h.edges == edges) {
            let mut histogram = histogram.clone();
            let mut pending = self.quantiles.pending.clone();
            sort(&mut pending);
            histogram.absorb(&pending);
            return (histogram.counts, 0.0);
        }
        // A bin lies between two ranks.
        (self.quantiles.view().counts(edges), 2.0 * self.quantiles.rank_variance())
    }

    /// NaNs.
    #[must_use]
    pub fn nans(&self) -> u64 {
        self.nans
    }

    /// Values of minus and of plus infinity.
    #[must_use]
    pub fn infinite(&self) -> (u64, u64) {
        (self.infinite[0], self.infinite[1])
    }

    /// Finite values.
    #[must_use]
    pub fn finite(&self) -> u64 {
        self.quantiles.n()
    }

    /// Zeros.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros + self.quantiles.pending.iter().filter(|x| **x == 0.0).count() as u64
    }

    /// Finite values below zero.
    #[must_use]
    pub fn negatives(&self) -> u64 {
        self.negatives + self.quantiles.pending.iter().filter(|x| **x < 0.0).count() as u64
    }

    /// The smallest and the largest finite value; `None` without one.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        self.quantiles
            .pending
            .iter()
            .fold(self.range, |range, x| Some(range.map_or((*x, *x), |(low, high)| (low.min(*x), high.max(*x)))))
    }

    /// The exact range of whole numbers, and of times in their unit since 1970; `None` for other numbers.
    #[must_use]
    pub fn whole_range(&self) -> Option<(i64, i64)> {
        self.whole_range
    }

    /// Mean and further moments of the finite values.
    #[must_use]
    pub fn moments(&self) -> Moments {
        let mut moments = self.moments;
        moments.merge(&Moments::of(&self.quantiles.pending));
        moments
    }

    /// The distribution of the finite values.
    #[must_use]
    pub fn quantiles(&self) -> &Quantiles {
        &self.quantiles
    }

    /// Rows between the edges of the reference that the profile was made against, or of its own bins, which a profile has
    /// that was made by `fit`; missing values are counted as skipped.
    #[must_use]
    pub fn histogram(&self) -> Option<(Vec<f64>, BinCounts)> {
        let edges = self.edges()?;
        Some((edges.to_vec(), BinCounts::new(self.counts_in(edges).0, self.nans + self.infinite[0] + self.infinite[1])))
    }

    pub(crate) fn distinct(&self) -> (Distinct, Option<u64>) {
        let settled = self.settled();
        let all = settled.frequent.error == 0 && self.floats_hold_all();
        (settled.distinct, all.then_some(settled.frequent.items().len() as u64))
    }

    /// Unequal whole numbers beyond 2^53 may be equal as floats.
    fn floats_hold_all(&self) -> bool {
        const MOST: i64 = 1 << 53;
        !self.whole || self.whole_range.is_some_and(|(low, high)| low >= -MOST && high <= MOST)
    }

    /// The most frequent values, those with the most rows first: all of them while there are few (up to 256 at least),
    /// beyond that with a bound of at most 1 row in 257, as of [`Categories`](super::Categories).
    #[must_use]
    pub fn frequent(&self) -> Vec<FrequentItem> {
        let settled = self.settled();
        let error = settled.frequent.error;
        let mut items = settled.frequent.items().to_vec();
        items.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.total_cmp(&b.0)));
        let item = |(value, rows): (f64, u64)| FrequentItem {
            value: value.to_string(),
            rows,
            rows_at_most: rows.saturating_add(error).min(self.finite()),
        };
        items.into_iter().map(item).collect()
    }
}

fn either<T>(a: Option<T>, b: Option<T>, both: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (a, b) => a.or(b),
    }
}

/// Ascending, for at most [`BLOCK`] finite values. As whole numbers in the same order they sort in two thirds of the time.
fn sort(block: &mut [f64]) {
    let flip = |bits: i64| bits ^ ((bits >> 63) as u64 >> 1) as i64;
    let mut keys = [0_i64; BLOCK];
    let keys = &mut keys[..block.len().min(BLOCK)];
    keys.iter_mut().zip(&*block).for_each(|(key, x)| *key = flip(x.to_bits() as i64));
    keys.sort_unstable();
    block.iter_mut().zip(keys).for_each(|(x, key)| *x = f64::from_bits(flip(*key) as u64));
}
