//! Page–Hinkley test.

use serde::{Deserialize, Serialize};

use super::{ChangeDetector, State, check_option, check_value};
use crate::{Error, Result};

/// Page–Hinkley: a cumulative sum of deviations from the running mean that has moved far from its extreme.
///
/// ```text
/// d_t = x_t - mean(x_1..x_t)
/// up:    U_t = alpha · U_(t-1) + d_t - delta,   change if U_t - min_{s<=t} U_s > threshold
/// down:  L_t = alpha · L_(t-1) + d_t + delta,   change if max_{s<=t} L_s - L_t > threshold
/// ```
/// `delta` and `threshold` are in the units of the stream.
/// [`changed_at`](ChangeDetector::changed_at) is the row after the extreme: the start of the climb that ended in the alarm.
///
/// # Agreement
/// Change points equal those of `river.drift.PageHinkley` 0.26 with the same options. Page's scheme has no
/// forgetting; `alpha = 1` gives it. The test is not tried before row `min_rows`, but the sums run from the first.
///
/// # Source
/// Page (1954), doi:10.1093/biomet/41.1-2.100; Hinkley (1971), doi:10.1093/biomet/58.3.509;
/// `tests/golden/change.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, PageHinkley, State};
///
/// let mut detector = PageHinkley::builder().threshold(5.0).build()?;
/// let states: Vec<State> = (0..600)
///     .map(|i| detector.update(if i < 300 { 0.2 } else { 0.8 }))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(states.iter().position(|s| *s == State::Change), Some(308));
/// assert_eq!(detector.changed_at(), Some(300));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    options: PageHinkleyBuilder,
    window: u64,
    mean: f64,
    up: f64,
    down: f64,
    /// The lowest `up` and the row at which it was seen, once there is a row.
    lowest: Option<(f64, u64)>,
    highest: Option<(f64, u64)>,
    n: u64,
    state: State,
    changed_at: Option<u64>,
}

/// Which changes of the mean count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // There is no fourth direction.
pub enum Direction {
    /// Increases only.
    Up,
    /// Decreases only.
    Down,
    /// Either.
    #[default]
    Both,
}

/// Options of a [`PageHinkley`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct PageHinkleyBuilder {
    min_rows: u64,
    delta: f64,
    threshold: f64,
    alpha: f64,
    direction: Direction,
}

impl Default for PageHinkleyBuilder {
    fn default() -> Self {
        Self { min_rows: 30, delta: 0.005, threshold: 50.0, alpha: 1.0 - 0.0001, direction: Direction::Both }
    }
}

impl PageHinkleyBuilder {
    /// Rows before the first test (default 30).
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Change of the mean that is tolerated, at least 0 (default 0.005).
    pub fn delta(mut self, delta: f64) -> Self {
        self.delta = delta;
        self
    }

    /// Height of the alarm, at least 0 (default 50).
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.threshold = threshold;
        self
    }

    /// Weight of the past in the sums, in (0, 1] (default 0.9999).
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Which changes count (default both).
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<PageHinkley> {
        check_option("delta", self.delta)?;
        check_option("threshold", self.threshold)?;
        if !(self.alpha > 0.0 && self.alpha <= 1.0) {
            return Err(Error::invalid("alpha", format!("must lie in (0, 1], got {}", self.alpha)));
        }
        Ok(PageHinkley {
            options: self,
            window: 0,
            mean: 0.0,
            up: 0.0,
            down: 0.0,
            lowest: None,
            highest: None,
            n: 0,
            state: State::Stable,
            changed_at: None,
        })
    }
}

impl PageHinkley {
    /// Options with their defaults; finish with [`PageHinkleyBuilder::build`].
    pub fn builder() -> PageHinkleyBuilder {
        PageHinkleyBuilder::default()
    }

    fn empty_window(&mut self) {
        self.window = 0;
        self.mean = 0.0;
        self.up = 0.0;
        self.down = 0.0;
        self.lowest = None;
        self.highest = None;
    }
}

impl ChangeDetector for PageHinkley {
    fn name(&self) -> &'static str {
        "page_hinkley"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.state == State::Change {
            self.empty_window();
        }
        let row = self.n;
        self.n = self.n.saturating_add(1);
        self.window = self.window.saturating_add(1);
        self.mean += (1.0 / self.window as f64) * (x - self.mean);
        let off = x - self.mean;
        let PageHinkleyBuilder { min_rows, delta, threshold, alpha, direction } = self.options;
        self.up = alpha * self.up + off - delta;
        self.down = alpha * self.down + off + delta;

        let lowest = self.lowest.filter(|(least, _)| *least <= self.up).unwrap_or((self.up, row));
        let highest = self.highest.filter(|(most, _)| *most >= self.down).unwrap_or((self.down, row));
        self.lowest = Some(lowest);
        self.highest = Some(highest);

        self.state = State::Stable;
        if self.window >= min_rows {
            let began = if direction != Direction::Down && self.up - lowest.0 > threshold {
                Some(lowest.1)
            } else if direction != Direction::Up && highest.0 - self.down > threshold {
                Some(highest.1)
            } else {
                None
            };
            if let Some(extreme) = began {
                self.state = State::Change;
                self.changed_at = Some(extreme.saturating_add(1));
            }
        }
        Ok(self.state)
    }

    fn state(&self) -> State {
        self.state
    }

    fn estimate(&self) -> Option<f64> {
        (self.window > 0).then_some(self.mean)
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
    }
}
