//! Hoeffding's bound on averages.

use serde::{Deserialize, Serialize};

use super::parts::{Mean, Progress, read_progress};
use super::{ChangeDetector, Direction, State, check_levels, check_unit};
use crate::Result;

/// HDDM-A: the mean of a window of values in [0, 1] against that of its best beginning, by Hoeffding's bound.
///
/// ```text
/// cut: the beginning (n rows, mean x) of the window (N rows, mean z) that was last at its least x + ε(n),
///      ε(n) = sqrt(ln(1/change_level) / (2n))
/// change  if z - x >= sqrt((N - n)/(n N) / 2 · ln(2/change_level)),
/// warning if the same holds with warning_level;           falling means: the same for 1 - x
/// ```
/// No distribution is assumed, only independent rows in [0, 1]. The levels bound one comparison; as it is made after
/// every row, false alarms come somewhat more often. Best for sudden changes; [`HddmW`](super::HddmW) for slow ones.
///
/// [`changed_at`](ChangeDetector::changed_at) is the row after the cut.
///
/// # Agreement
/// States equal those of `river.drift.binary.HDDMA` 0.26: [`Direction::Both`] is its two-sided test, and any value in
/// [0, 1] is accepted. Direction `Down` is ours.
///
/// # Source
/// Frías-Blanco, del Campo-Ávila, Ramos-Jiménez, Morales-Bueno, Ortiz-Díaz and Caballero-Mota (2015),
/// doi:10.1109/TKDE.2014.2345382, the A-test. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, HddmA, State};
///
/// let mut detector = HddmA::builder().build()?;
/// let change = (0..1_000_u32).find(|i| {
///     let wrong = if *i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     detector.update(f64::from(u8::from(wrong))).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (500..600).contains(&row)));
/// assert!(detector.changed_at().is_some_and(|row| row.abs_diff(500) < 20));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HddmA {
    options: HddmABuilder,
    window: Mean,
    window_since: u64,
    /// The beginnings with the least upper and the greatest lower bound, each with its ε.
    lowest: (Mean, f64),
    highest: (Mean, f64),
    progress: Progress,
}

/// Options of an [`HddmA`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct HddmABuilder {
    change_level: f64,
    warning_level: f64,
    direction: Direction,
}

impl Default for HddmABuilder {
    fn default() -> Self {
        Self { change_level: 0.001, warning_level: 0.005, direction: Direction::Up }
    }
}

impl HddmABuilder {
    /// Error probability at which it is a change, in (0, 1) (default 0.001).
    pub fn change_level(mut self, level: f64) -> Self {
        self.change_level = level;
        self
    }

    /// Error probability at which the warning zone begins, in \[`change_level`, 1) (default 0.005).
    pub fn warning_level(mut self, level: f64) -> Self {
        self.warning_level = level;
        self
    }

    /// Which changes count (default up).
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) naming the first option out of range.
    pub fn build(self) -> Result<HddmA> {
        check_levels(self.change_level, self.warning_level)?;
        Ok(HddmA {
            options: self,
            window: Mean::default(),
            window_since: 0,
            lowest: (Mean::default(), 0.0),
            highest: (Mean::default(), 0.0),
            progress: Progress::default(),
        })
    }
}

impl HddmA {
    /// Options with their defaults; finish with [`HddmABuilder::build`].
    pub fn builder() -> HddmABuilder {
        HddmABuilder::default()
    }

    fn empty_window(&mut self) {
        self.window = Mean::default();
        self.window_since = self.progress.n;
        self.lowest = (Mean::default(), 0.0);
        self.highest = (Mean::default(), 0.0);
    }

    /// What the window says about a beginning from which its mean is `gap` away, in the direction looked at.
    fn judge(&self, beginning: &Mean, gap: f64) -> State {
        if beginning.rows >= self.window.rows || gap <= 0.0 {
            return State::Stable;
        }
        let (n, all) = (beginning.rows as f64, self.window.rows as f64);
        let half = (all - n) / n * (1.0 / all) / 2.0;
        let least = |level: f64| (half * (2.0 / level).ln()).sqrt();
        if gap >= least(self.options.change_level) {
            State::Change
        } else if gap >= least(self.options.warning_level) {
            State::Warning
        } else {
            State::Stable
        }
    }
}

impl ChangeDetector for HddmA {
    fn name(&self) -> &'static str {
        "hddm_a"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_unit(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        self.progress.next_row();
        self.window.add(x);
        let HddmABuilder { change_level, direction, .. } = self.options;
        let (mean, rows) = (self.window.mean, self.window.rows as f64);
        let bound = (1.0 / (2.0 * rows) * (1.0 / change_level).ln()).sqrt();
        if self.lowest.0.rows == 0 || self.lowest.0.mean + self.lowest.1 >= mean + bound {
            self.lowest = (self.window.clone(), bound);
        }
        if self.highest.0.rows == 0 || self.highest.0.mean - self.highest.1 <= mean - bound {
            self.highest = (self.window.clone(), bound);
        }
        let up = match direction {
            Direction::Down => State::Stable,
            _ => self.judge(&self.lowest.0, mean - self.lowest.0.mean),
        };
        let down = match direction {
            Direction::Up => State::Stable,
            _ => self.judge(&self.highest.0, self.highest.0.mean - mean),
        };
        if up == State::Change {
            self.progress.change(self.window_since.saturating_add(self.lowest.0.rows));
        } else if down == State::Change {
            self.progress.change(self.window_since.saturating_add(self.highest.0.rows));
        } else if up == State::Warning || down == State::Warning {
            self.progress.state = State::Warning;
        } else {
            self.progress.state = State::Stable;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.window.value()
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}
