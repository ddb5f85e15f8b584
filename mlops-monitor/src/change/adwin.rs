//! Adaptive windowing.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{ChangeDetector, State, check_value};
use crate::{Error, Result};

/// ADWIN: a window that grows while its mean is stable and drops its old part when that part's mean differs.
///
/// The window of `W` rows is split at each bucket boundary into an older part of `n0` rows and a newer part of `n1`.
/// It is cut when
///
/// ```text
/// |mean0 - mean1| > ε
/// ε  = sqrt(2 · v · δ' / h) + 2/3 · δ' / h
/// 1/h = 1/(n0 - min_window + 1) + 1/(n1 - min_window + 1),     δ' = ln(2 · ln(W) / delta)
/// ```
/// where `v` is the variance of the window. The bound holds for values in [0, 1]; on another scale the last term
/// makes it more (small values) or less (large values) cautious, so scale the stream first.
///
/// Buckets hold 1, 2, 4, ... rows, at most `max_buckets` (and one in passing) of a size, so memory is
/// `O(max_buckets · log W)`, and an update takes amortized constant time plus `O(max_buckets · log W / clock)`.
///
/// [`changed_at`](ChangeDetector::changed_at) is the split, when the change was detected, whose means differed most
/// against their bound.
///
/// # Agreement
/// Change points equal those of `river.drift.ADWIN` 0.26 with the same options. It differs from the paper in that
/// the whole window is dropped after a change, where the paper goes on with the newer part;
/// [`AdwinBuilder::keep_recent`] gives the paper's behaviour. (What river returns as `variance` is the sum of squared
/// deviations; here it is divided by the rows.)
///
/// # Source
/// Bifet and Gavaldà (2007), doi:10.1137/1.9781611972771.42, ADWIN2 with the bound for windows of small variance;
/// `tests/golden/change.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{Adwin, ChangeDetector, State};
///
/// let mut detector = Adwin::builder().delta(0.002).build()?;
/// let states: Vec<State> = (0..600)
///     .map(|i| detector.update(if i < 300 { 0.2 } else { 0.8 }))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(states.iter().position(|s| *s == State::Change), Some(319));
/// assert_eq!(detector.changed_at(), Some(300));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    options: AdwinBuilder,
    /// `rows[i]` holds buckets of `2^i` rows as (sum, sum of squared deviations), oldest first.
    rows: Vec<VecDeque<(f64, f64)>>,
    /// Rows, sum and sum of squared deviations of the window.
    width: u64,
    total: f64,
    deviations: f64,
    since_check: u64,
    n: u64,
    state: State,
    changed_at: Option<u64>,
    detections: u64,
}

/// Options of an [`Adwin`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct AdwinBuilder {
    delta: f64,
    clock: u64,
    max_buckets: u32,
    min_window: u64,
    grace_period: u64,
    keep_recent: bool,
}

impl Default for AdwinBuilder {
    fn default() -> Self {
        Self { delta: 0.002, clock: 32, max_buckets: 5, min_window: 5, grace_period: 10, keep_recent: false }
    }
}

impl AdwinBuilder {
    /// False-alarm level of one check, in (0, 1) (default 0.002).
    pub fn delta(mut self, delta: f64) -> Self {
        self.delta = delta;
        self
    }

    /// Rows between checks, at least 1 (default 32).
    pub fn clock(mut self, clock: u64) -> Self {
        self.clock = clock;
        self
    }

    /// Buckets of each size, at least 1 (default 5). More buckets, finer splits.
    pub fn max_buckets(mut self, max_buckets: u32) -> Self {
        self.max_buckets = max_buckets;
        self
    }

    /// Rows that either part of a split must have, at least 1 (default 5).
    pub fn min_window(mut self, rows: u64) -> Self {
        self.min_window = rows;
        self
    }

    /// Rows in the window up to which nothing is checked (default 10).
    pub fn grace_period(mut self, rows: u64) -> Self {
        self.grace_period = rows;
        self
    }

    /// Keeps the newer part of the window after a change (default `false`: starts afresh with the next row).
    pub fn keep_recent(mut self, keep: bool) -> Self {
        self.keep_recent = keep;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Adwin> {
        if !(self.delta > 0.0 && self.delta < 1.0) {
            return Err(Error::invalid("delta", format!("must lie in (0, 1), got {}", self.delta)));
        }
        for (what, value) in
            [("clock", self.clock), ("max_buckets", self.max_buckets.into()), ("min_window", self.min_window)]
        {
            if value == 0 {
                return Err(Error::invalid(what, "must be at least 1"));
            }
        }
        Ok(Adwin {
            options: self,
            rows: Vec::new(),
            width: 0,
            total: 0.0,
            deviations: 0.0,
            since_check: 0,
            n: 0,
            state: State::Stable,
            changed_at: None,
            detections: 0,
        })
    }
}

impl Adwin {
    /// Options with their defaults; finish with [`AdwinBuilder::build`].
    pub fn builder() -> AdwinBuilder {
        AdwinBuilder::default()
    }

    /// Rows in the window.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Variance of the rows in the window (divided by their number), 0 while it is empty.
    #[must_use]
    pub fn variance(&self) -> f64 {
        if self.width == 0 { 0.0 } else { self.deviations / self.width as f64 }
    }

    /// Changes detected so far.
    #[must_use]
    pub fn detections(&self) -> u64 {
        self.detections
    }

    fn empty_window(&mut self) {
        self.rows.clear();
        self.width = 0;
        self.total = 0.0;
        self.deviations = 0.0;
        self.since_check = 0;
    }

    fn insert(&mut self, x: f64) {
        if self.width > 0 {
            let before = self.width as f64;
            let off = x - self.total / before;
            self.deviations += before * off * off / (before + 1.0);
        }
        self.width = self.width.saturating_add(1);
        self.total += x;
        if self.rows.is_empty() {
            self.rows.push(VecDeque::new());
        }
        self.rows[0].push_back((x, 0.0));
        self.compress();
    }

    /// Joins the two oldest buckets of a size that has too many into one of the next size.
    fn compress(&mut self) {
        let most = self.options.max_buckets as usize;
        // Sizes are powers of two, so that to multiply by an inverse is to divide.
        let (mut size, mut inverse) = (1.0, 1.0);
        for i in 0.. {
            if self.rows.get(i).is_none_or(|row| row.len() <= most) {
                break;
            }
            let (Some((sum_a, dev_a)), Some((sum_b, dev_b))) = (self.rows[i].pop_front(), self.rows[i].pop_front())
            else {
                break;
            };
            let off = sum_a * inverse - sum_b * inverse;
            let joined = (sum_a + sum_b, dev_a + dev_b + size * size * off * off * (0.5 * inverse));
            if i + 1 == self.rows.len() {
                self.rows.push(VecDeque::new());
            }
            self.rows[i + 1].push_back(joined);
            size *= 2.0;
            inverse *= 0.5;
        }
    }

    /// Drops the oldest bucket.
    fn drop_oldest(&mut self) {
        let Some(last) = self.rows.len().checked_sub(1) else { return };
        let size = 1_u64 << last.min(63);
        if let Some((sum, deviations)) = self.rows[last].pop_front() {
            self.width = self.width.saturating_sub(size);
            self.total -= sum;
            let (dropped, kept) = (size as f64, self.width as f64);
            if self.width > 0 {
                let off = sum / dropped - self.total / kept;
                self.deviations -= deviations + dropped * kept * off * off / (dropped + kept);
            }
        }
        while self.rows.last().is_some_and(VecDeque::is_empty) {
            self.rows.pop();
        }
    }

    /// Rows after the split of the window whose means differ most against the bound, if any exceeds it.
    fn strongest_split(&self) -> Option<u64> {
        let width = self.width as f64;
        let min_window = self.options.min_window as f64;
        let log_term = (2.0 * width.ln() / self.options.delta).ln();
        let spread = 2.0 * self.variance() * log_term;
        let square = (2.0 / 3.0 * log_term) * (2.0 / 3.0 * log_term);
        let (mut n0, mut n1) = (0.0, width);
        let (mut sum0, mut sum1) = (0.0, self.total);
        let mut size = 2.0_f64.powi(self.rows.len() as i32 - 1);
        let mut strongest = None;
        let mut most = 1.0;
        for row in self.rows.iter().rev() {
            for (sum, _) in row {
                n0 += size;
                n1 -= size;
                sum0 += sum;
                sum1 -= sum;
                if n0 < min_window || n1 < min_window {
                    continue;
                }
                // Most splits are far from their bound: the sum of the squares of its terms is below its square, and times
                // all denominators needs no root and no division. What rounding may hide is allowed for.
                let (a, b) = (n0 - min_window + 1.0, n1 - min_window + 1.0);
                let (left, right) = (sum0 * n1, sum1 * n0);
                let most_gap = (left - right).abs() + 1e-12 * (left.abs() + right.abs());
                let (ab, rows, both) = (a * b, n0 * n1, a + b);
                let (gap, scale) = (most_gap * ab, rows * rows);
                if gap * gap < (1.0 - 1e-9) * scale * both * (spread * ab + square * both) {
                    continue;
                }
                let inverse_h = 1.0 / (n0 - min_window + 1.0) + 1.0 / (n1 - min_window + 1.0);
                let bound = (spread * inverse_h).sqrt() + 2.0 / 3.0 * log_term * inverse_h;
                let gap = (sum0 / n0 - sum1 / n1).abs();
                if gap > most * bound {
                    most = gap / bound;
                    strongest = Some(n1 as u64);
                }
            }
            size /= 2.0;
        }
        strongest
    }
}

impl ChangeDetector for Adwin {
    fn name(&self) -> &'static str {
        "adwin"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.state == State::Change && !self.options.keep_recent {
            self.empty_window();
        }
        self.insert(x);
        self.n = self.n.saturating_add(1);
        self.since_check = self.since_check.saturating_add(1);
        self.state = State::Stable;
        if self.since_check >= self.options.clock {
            self.since_check = 0;
            if self.width > self.options.grace_period
                && let Some(newer) = self.strongest_split()
            {
                self.state = State::Change;
                self.detections = self.detections.saturating_add(1);
                self.changed_at = Some(self.n.saturating_sub(newer));
                self.drop_oldest();
                while self.strongest_split().is_some() {
                    self.drop_oldest();
                }
            }
        }
        Ok(self.state)
    }

    fn state(&self) -> State {
        self.state
    }

    fn estimate(&self) -> Option<f64> {
        (self.width > 0).then(|| self.total / self.width as f64)
    }

    fn n(&self) -> u64 {
        self.n
    }

    fn changed_at(&self) -> Option<u64> {
        self.changed_at
    }

    fn reset(&mut self) {
        self.empty_window();
        self.n = 0;
        self.state = State::Stable;
        self.changed_at = None;
        self.detections = 0;
    }
}
