//! McDiarmid's bound on weighted averages.

use serde::{Deserialize, Serialize};

use super::parts::{Progress, read_progress};
use super::{ChangeDetector, Direction, State, check_levels, check_unit};
use crate::{Error, Result};

/// HDDM-W: the weighted mean of the rows since the best beginning against that beginning, by McDiarmid's bound.
///
/// ```text
/// m_1 = x_1,  m_t = weight · x_t + (1 - weight) · m_(t-1)            of a run of rows in [0, 1]
/// v_0 = 1,    v_t = weight² + (1 - weight)² · v_(t-1)
/// cut: the beginning of the window that was last at its least m + sqrt(v · ln(1/change_level) / 2)
/// change  if m_after - m_beginning > sqrt((v_after + v_beginning) · ln(1/change_level) / 2),
/// warning if the same holds with warning_level;           falling means: the same for 1 - x
/// ```
/// The rows after the cut have a weighted mean of their own. No distribution is assumed, only independent rows in
/// [0, 1]. As the latest rows weigh most it finds slow changes that [`HddmA`](super::HddmA) averages away. The levels bound
/// one comparison, and so few rows have weight that the default ones give a false alarm every 13,000 rows at a steady error
/// rate of 20 %, every 2,500 at 30 %.
///
/// [`changed_at`](ChangeDetector::changed_at) is the row after the cut; [`estimate`](ChangeDetector::estimate) is the
/// weighted mean of the window.
///
/// # Agreement
/// States equal those of `river.drift.binary.HDDMW` 0.26: [`Direction::Both`] is its two-sided test, and any value in
/// [0, 1] is accepted. Direction `Down` is ours.
///
/// # Source
/// Frías-Blanco and others (2015), doi:10.1109/TKDE.2014.2345382, the W-test. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, HddmW, State};
///
/// let mut detector = HddmW::builder().build()?;
/// let change = (0..1_000_u32).find(|i| {
///     let wrong = if *i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     detector.update(f64::from(u8::from(wrong))).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (500..600).contains(&row)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HddmW {
    options: HddmWBuilder,
    window: Weighted,
    up: Cut,
    down: Cut,
    progress: Progress,
}

/// Weighted mean of a run of rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Weighted {
    any: bool,
    mean: f64,
    squares: f64,
}

impl Weighted {
    const EMPTY: Self = Self { any: false, mean: 0.0, squares: 1.0 };

    fn add(&mut self, x: f64, weight: f64) {
        let keep = 1.0 - weight;
        self.mean = if self.any { weight * x + keep * self.mean } else { x };
        self.squares = weight * weight + keep * keep * self.squares;
        self.any = true;
    }

    fn bound(self, level: f64) -> f64 {
        (self.squares * (1.0 / level).ln() / 2.0).sqrt()
    }
}

/// The beginning with the least bound, and the rows after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cut {
    before: Weighted,
    after: Weighted,
    /// The bound at the cut, once there is one.
    least: Option<f64>,
    since: u64,
}

impl Cut {
    const NONE: Self = Self { before: Weighted::EMPTY, after: Weighted::EMPTY, least: None, since: 0 };

    /// `bound` is that of the whole window; a cut is made where it is less than ever.
    fn add(&mut self, x: f64, window: Weighted, bound: f64, weight: f64, next_row: u64) {
        if self.least.is_none_or(|least| bound < least) {
            *self = Self { before: window, after: Weighted::EMPTY, least: Some(bound), since: next_row };
        } else {
            self.after.add(x, weight);
        }
    }

    fn judge(&self, gap: f64, options: &HddmWBuilder) -> State {
        if !(self.before.any && self.after.any && gap > 0.0) {
            return State::Stable;
        }
        let both = Weighted { squares: self.before.squares + self.after.squares, ..self.after };
        if gap > both.bound(options.change_level) {
            State::Change
        } else if gap > both.bound(options.warning_level) {
            State::Warning
        } else {
            State::Stable
        }
    }
}

/// Options of an [`HddmW`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct HddmWBuilder {
    change_level: f64,
    warning_level: f64,
    weight: f64,
    direction: Direction,
}

impl Default for HddmWBuilder {
    fn default() -> Self {
        Self { change_level: 0.001, warning_level: 0.005, weight: 0.05, direction: Direction::Up }
    }
}

impl HddmWBuilder {
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

    /// Weight of the latest row, in (0, 1] (default 0.05).
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
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
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<HddmW> {
        check_levels(self.change_level, self.warning_level)?;
        if !(self.weight > 0.0 && self.weight <= 1.0) {
            return Err(Error::invalid("weight", format!("must lie in (0, 1], got {}", self.weight)));
        }
        Ok(HddmW {
            options: self,
            window: Weighted::EMPTY,
            up: Cut::NONE,
            down: Cut::NONE,
            progress: Progress::default(),
        })
    }
}

impl HddmW {
    /// Options with their defaults; finish with [`HddmWBuilder::build`].
    pub fn builder() -> HddmWBuilder {
        HddmWBuilder::default()
    }

    fn empty_window(&mut self) {
        self.window = Weighted::EMPTY;
        self.up = Cut::NONE;
        self.down = Cut::NONE;
    }
}

impl ChangeDetector for HddmW {
    fn name(&self) -> &'static str {
        "hddm_w"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_unit(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        self.progress.next_row();
        let HddmWBuilder { change_level, weight, direction, .. } = self.options;
        let next_row = self.progress.n;
        self.window.add(x, weight);
        let (mean, bound) = (self.window.mean, self.window.bound(change_level));
        let (mut up, mut down) = (State::Stable, State::Stable);
        if direction != Direction::Down {
            self.up.add(x, self.window, mean + bound, weight, next_row);
            up = self.up.judge(self.up.after.mean - self.up.before.mean, &self.options);
        }
        if direction != Direction::Up {
            self.down.add(x, self.window, bound - mean, weight, next_row);
            down = self.down.judge(self.down.before.mean - self.down.after.mean, &self.options);
        }
        if up == State::Change {
            self.progress.change(self.up.since);
        } else if down == State::Change {
            self.progress.change(self.down.since);
        } else if up == State::Warning || down == State::Warning {
            self.progress.state = State::Warning;
        } else {
            self.progress.state = State::Stable;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.window.any.then_some(self.window.mean)
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}
