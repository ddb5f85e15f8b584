//! Kolmogorov–Smirnov windowing.

use serde::{Deserialize, Serialize};

use super::parts::{Mean, Progress, SplitMix, read_progress};
use super::{ChangeDetector, State, check_value};
use crate::drift::{KsMethod, ks_two_sample};
use crate::{Error, Result};

/// KSWIN: the distribution of the latest rows of a window against that of a random sample of the rows before.
///
/// ```text
/// window of w = window_rows;  R: its latest r = recent_rows;  S: r of the w - r before, drawn anew at every row
/// D = max_x |F_R(x) - F_S(x)|,     change if D > min_distance and P(D_r >= D) <= alpha
/// ```
/// with the exact distribution of `D_r`, the Kolmogorov–Smirnov distance of two samples of `r` equal rows. It sees
/// changes of spread and shape that leave the mean alone. `alpha` is for one test and one is made at every row, so
/// choose it small; as neighbouring tests share most of their rows, false alarms come less often than `1/alpha` rows apart.
///
/// The window is kept in order, as a row comes and goes: an update is a search, a shift, `r` draws and one pass
/// over `w` places, and sorts nothing. The draws come from a generator in the state, so the same rows and
/// [`seed`](KswinBuilder::seed) give the same states.
///
/// [`changed_at`](ChangeDetector::changed_at) is the first of the recent rows; [`estimate`](ChangeDetector::estimate) is
/// the mean of all rows since the last change.
///
/// # Agreement
/// Change points equal those of `river.drift.KSWIN` 0.26 given the same draws (its generator is replaced by ours). River
/// starts with an empty window after a change, though it means to keep the recent rows, as the paper does:
/// [`KswinBuilder::keep_recent`] keeps them.
///
/// # Source
/// Raab, Heusinger and Schleif (2020), doi:10.1016/j.neucom.2019.11.111; draws by Floyd's method, Bentley and Floyd
/// (1987), doi:10.1145/30401.315746. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Kswin, State};
///
/// let mut detector = Kswin::builder().alpha(1e-4).window_rows(400).recent_rows(150).build()?;
/// let change = (0..1_000_u32).find(|i| {
///     let swing = if *i < 500 { 0.1 } else { 0.4 };
///     detector.update(0.5 + swing * f64::from(*i).sin()).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (500..650).contains(&row)), "{change:?}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Kswin {
    options: KswinBuilder,
    /// Values with their slots, in ascending order; the row of a slot is that number since the window began, modulo
    /// the window's length.
    sorted: Vec<(f64, u32)>,
    /// The value in each slot.
    slots: Vec<f64>,
    /// Slot of the next row.
    next: usize,
    /// What each slot is during a test: 1 in the sample, -1 in the recent rows; else 0.
    side: Vec<i8>,
    /// The least difference of counts that is a change; more than `recent_rows` if none is.
    critical: i32,
    draws: SplitMix,
    mean: Mean,
    progress: Progress,
}

/// What is stored, before it is known to be consistent.
#[derive(Clone, Serialize, Deserialize)]
struct Parts {
    options: KswinBuilder,
    slots: Vec<f64>,
    next: usize,
    draws: SplitMix,
    mean: Mean,
    progress: Progress,
}

impl From<Kswin> for Parts {
    fn from(detector: Kswin) -> Self {
        let Kswin { options, slots, next, draws, mean, progress, .. } = detector;
        Self { options, slots, next, draws, mean, progress }
    }
}

impl TryFrom<Parts> for Kswin {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self> {
        let Parts { options, slots, next, draws, mean, progress } = parts;
        let mut detector = options.build()?;
        let window = detector.window();
        let full = slots.len() == window && next < window;
        let filling = slots.len() < window && next == slots.len();
        if !(full || filling) || slots.iter().any(|x| check_value(*x).is_err()) {
            return Err(Error::invalid("slots", "do not fit the window; the stored state was altered"));
        }
        // -0 is 0, or the order would not be the same.
        let slots: Vec<f64> = slots.into_iter().map(|x| x + 0.0).collect();
        detector.sorted = slots.iter().zip(0..).map(|(x, slot)| (*x, slot)).collect();
        detector.sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(Self { slots, next, draws, mean, progress, ..detector })
    }
}

/// Options of a [`Kswin`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct KswinBuilder {
    alpha: f64,
    window_rows: u32,
    recent_rows: u32,
    min_distance: f64,
    seed: u64,
    keep_recent: bool,
}

impl Default for KswinBuilder {
    fn default() -> Self {
        Self { alpha: 0.005, window_rows: 100, recent_rows: 30, min_distance: 0.1, seed: 0, keep_recent: false }
    }
}

impl KswinBuilder {
    /// False-alarm level of one test, in (0, 1) (default 0.005).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Rows of the window, at least twice `recent_rows` and at most 100,000 (default 100).
    pub fn window_rows(mut self, rows: u32) -> Self {
        self.window_rows = rows;
        self
    }

    /// Rows that are compared, and rows drawn, 1 to 10,000 (default 30).
    pub fn recent_rows(mut self, rows: u32) -> Self {
        self.recent_rows = rows;
        self
    }

    /// Distance up to which nothing is a change, in [0, 1] (default 0.1).
    pub fn min_distance(mut self, distance: f64) -> Self {
        self.min_distance = distance;
        self
    }

    /// Seed of the draws (default 0).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Keeps the recent rows in the window after a change (default `false`: starts afresh with the next row).
    pub fn keep_recent(mut self, keep: bool) -> Self {
        self.keep_recent = keep;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Kswin> {
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 1), got {}", self.alpha)));
        }
        if !(1..=10_000).contains(&self.recent_rows) {
            return Err(Error::invalid("recent_rows", format!("must be 1 to 10,000, got {}", self.recent_rows)));
        }
        if !(2 * self.recent_rows..=100_000).contains(&self.window_rows) {
            let least = 2 * self.recent_rows;
            return Err(Error::invalid("window_rows", format!("must be {least} to 100,000, got {}", self.window_rows)));
        }
        if !(0.0..=1.0).contains(&self.min_distance) {
            return Err(Error::invalid("min_distance", format!("must lie in [0, 1], got {}", self.min_distance)));
        }
        let window = self.window_rows as usize;
        Ok(Kswin {
            sorted: Vec::with_capacity(window),
            slots: Vec::with_capacity(window),
            next: 0,
            side: vec![0; window],
            critical: critical(self.recent_rows, self.alpha, self.min_distance)?,
            draws: SplitMix(self.seed),
            mean: Mean::default(),
            progress: Progress::default(),
            options: self,
        })
    }
}

/// The least `d` with `d/rows > min_distance` and `P(D >= d/rows) <= alpha` for two samples of `rows` each; one more
/// than `rows` if there is none.
fn critical(rows: u32, alpha: f64, min_distance: f64) -> Result<i32> {
    let ramp: Vec<f64> = (0..rows).map(f64::from).collect();
    let is_change = |d: u32| -> Result<bool> {
        let shifted: Vec<f64> = ramp.iter().map(|x| x + f64::from(d)).collect();
        let test = ks_two_sample(&ramp, &shifted, KsMethod::Exact)?;
        Ok(test.p_value <= alpha && test.statistic > min_distance)
    };
    let (mut no, mut yes) = (0, rows + 1);
    while yes - no > 1 {
        let middle = u32::midpoint(no, yes);
        if is_change(middle)? {
            yes = middle;
        } else {
            no = middle;
        }
    }
    Ok(i32::try_from(yes).unwrap_or(i32::MAX))
}

impl Kswin {
    /// Options with their defaults; finish with [`KswinBuilder::build`].
    pub fn builder() -> KswinBuilder {
        KswinBuilder::default()
    }

    /// The least distance that is a change with these options; `None` if so few rows cannot show one.
    #[must_use]
    pub fn critical_distance(&self) -> Option<f64> {
        let rows = f64::from(self.options.recent_rows);
        (f64::from(self.critical) <= rows).then(|| f64::from(self.critical) / rows)
    }

    fn window(&self) -> usize {
        self.options.window_rows as usize
    }

    fn empty_window(&mut self) {
        self.sorted.clear();
        self.slots.clear();
        self.next = 0;
        self.mean = Mean::default();
    }

    /// Where a row is, or would be, in the order.
    fn place(&self, x: f64, slot: u32) -> usize {
        self.sorted.partition_point(|(y, other)| *y < x || (*y == x && *other < slot))
    }

    fn insert(&mut self, x: f64) {
        let slot = self.next as u32;
        if self.slots.len() < self.window() {
            let to = self.place(x, slot);
            self.sorted.insert(to, (x, slot));
            self.slots.push(x);
        } else {
            let from = self.place(self.slots[self.next], slot);
            let to = self.place(x, slot);
            // What lies between the two places moves by one.
            if from < to {
                self.sorted.copy_within(from + 1..to, from);
                self.sorted[to - 1] = (x, slot);
            } else {
                self.sorted.copy_within(to..from, to + 1);
                self.sorted[to] = (x, slot);
            }
            self.slots[self.next] = x;
        }
        self.next = if self.next + 1 == self.window() { 0 } else { self.next + 1 };
    }

    /// The slot of the row of that age in a full window, 0 for the oldest.
    fn slot_of(&self, age: usize) -> usize {
        let slot = self.next + age;
        if slot >= self.window() { slot - self.window() } else { slot }
    }

    /// Draws the sample and marks both sides of an unmarked window.
    fn draw(&mut self) {
        let (window, recent) = (self.window(), self.options.recent_rows as usize);
        let older = window - recent;
        for age in older - recent..older {
            let drawn = self.draws.below(age + 1);
            let slot = self.slot_of(drawn);
            let slot = if self.side[slot] == 0 { slot } else { self.slot_of(age) };
            self.side[slot] = 1;
        }
        for age in older..window {
            let slot = self.slot_of(age);
            self.side[slot] = -1;
        }
    }

    /// The largest difference of the counts of the two sides.
    fn gap(&self) -> i32 {
        let (mut gap, mut widest) = (0_i32, 0_i32);
        for (i, (x, slot)) in self.sorted.iter().enumerate() {
            gap += i32::from(self.side[*slot as usize]);
            // Only after the last of equal values.
            if self.sorted.get(i + 1).is_none_or(|(next, _)| next != x) {
                widest = widest.max(gap.abs());
            }
        }
        widest
    }

    /// Leaves the recent rows alone in the window.
    fn keep_recent(&mut self) {
        let (window, recent) = (self.window(), self.options.recent_rows as usize);
        let rows: Vec<f64> = (window - recent..window).map(|age| self.slots[self.slot_of(age)]).collect();
        self.empty_window();
        for x in rows {
            self.insert(x);
            self.mean.add(x);
        }
    }
}

impl ChangeDetector for Kswin {
    fn name(&self) -> &'static str {
        "kswin"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.progress.is_over() {
            if self.options.keep_recent && self.slots.len() == self.window() {
                self.keep_recent();
            } else {
                self.empty_window();
            }
        }
        self.progress.next_row();
        self.mean.add(x);
        // -0 is 0.
        self.insert(x + 0.0);
        self.progress.state = State::Stable;
        if self.slots.len() == self.window() {
            self.draw();
            let gap = self.gap();
            self.side.fill(0);
            if gap >= self.critical {
                self.progress.change(self.progress.n.saturating_sub(self.options.recent_rows.into()));
            }
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.mean.value()
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.draws = SplitMix(self.options.seed);
        self.empty_window();
    }

    read_progress!();
}
