//! Cumulative sums.

use serde::{Deserialize, Serialize};

use super::parts::{InControl, Mean, Progress, read_progress};
use super::{ChangeDetector, Direction, State, check_option, check_value};
use crate::{Error, Result};

/// CUSUM: sums, up and down, of how far rows are off the mean by more than a tolerated part.
///
/// ```text
/// z_t = (x_t - mean) / deviation
/// up:    U_t = max(0, U_(t-1) + z_t - slack),   change if U_t > threshold
/// down:  D_t = max(0, D_(t-1) - z_t - slack),   change if D_t > threshold
/// ```
/// `slack` and `threshold` are in standard deviations; a slack of half the shift that matters finds that shift
/// soonest. With the defaults and independent normal rows the mean run between false alarms is 465 rows, and a shift
/// by one deviation is found after 10.4 rows in the mean; a threshold of 8 gives 9,200 and 16 rows.
///
/// The mean and deviation in control are [given](CusumBuilder::in_control), or learnt from the first
/// [`baseline_rows`](CusumBuilder::baseline_rows) of each window; no test is made on those. Learnt ones err, and a window
/// that they are off in has its false alarm much sooner: learn from several hundred rows.
///
/// [`changed_at`](ChangeDetector::changed_at) is the row after the one at which the sum that gave the alarm was last 0.
///
/// # Source
/// Page (1954), doi:10.1093/biomet/41.1-2.100; in tabular form Montgomery, *Introduction to Statistical Quality
/// Control* (2009), section 9.1, with the run lengths; head start: Lucas and Crosier (1982),
/// doi:10.1080/00401706.1982.10487759. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Cusum, State};
///
/// let mut detector = Cusum::builder().in_control(0.5, 0.1).build()?;
/// for i in 0..300 {
///     assert_eq!(detector.update(0.46 + f64::from(i % 2) * 0.08)?, State::Stable);
/// }
/// while detector.update(0.66)? != State::Change {}
/// assert_eq!((detector.n(), detector.changed_at()), (305, Some(300)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    options: CusumBuilder,
    in_control: InControl,
    window: Mean,
    up: f64,
    down: f64,
    /// The row after the last at which the sum was 0.
    up_since: u64,
    down_since: u64,
    progress: Progress,
}

/// Options of a [`Cusum`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct CusumBuilder {
    in_control: Option<(f64, f64)>,
    baseline_rows: u64,
    slack: f64,
    threshold: f64,
    head_start: f64,
    direction: Direction,
}

impl Default for CusumBuilder {
    fn default() -> Self {
        Self {
            in_control: None,
            baseline_rows: 100,
            slack: 0.5,
            threshold: 5.0,
            head_start: 0.0,
            direction: Direction::Both,
        }
    }
}

impl CusumBuilder {
    /// Mean and standard deviation of the stream in control (default: learnt).
    pub fn in_control(mut self, mean: f64, deviation: f64) -> Self {
        self.in_control = Some((mean, deviation));
        self
    }

    /// Rows of each window that mean and deviation are learnt from, at least 2 (default 100); none if they are given.
    pub fn baseline_rows(mut self, rows: u64) -> Self {
        self.baseline_rows = rows;
        self
    }

    /// Part of each row that is tolerated, in standard deviations, at least 0 (default 0.5).
    pub fn slack(mut self, deviations: f64) -> Self {
        self.slack = deviations;
        self
    }

    /// Height of the alarm in standard deviations, at least 0 (default 5).
    pub fn threshold(mut self, deviations: f64) -> Self {
        self.threshold = deviations;
        self
    }

    /// Share of the threshold at which the sums start, in [0, 1) (default 0); ½ finds a stream that is off from the start.
    pub fn head_start(mut self, share: f64) -> Self {
        self.head_start = share;
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
    pub fn build(self) -> Result<Cusum> {
        check_option("slack", self.slack)?;
        check_option("threshold", self.threshold)?;
        if !(0.0..1.0).contains(&self.head_start) {
            return Err(Error::invalid("head_start", format!("must lie in [0, 1), got {}", self.head_start)));
        }
        let start = self.head_start * self.threshold;
        Ok(Cusum {
            in_control: InControl::new(self.in_control, self.baseline_rows)?,
            options: self,
            window: Mean::default(),
            up: start,
            down: start,
            up_since: 0,
            down_since: 0,
            progress: Progress::default(),
        })
    }
}

impl Cusum {
    /// Options with their defaults; finish with [`CusumBuilder::build`].
    pub fn builder() -> CusumBuilder {
        CusumBuilder::default()
    }

    /// The sums up and down, in standard deviations.
    #[must_use]
    pub fn sums(&self) -> (f64, f64) {
        (self.up, self.down)
    }

    /// Mean and standard deviation that rows are compared with, `None` while they are learnt.
    #[must_use]
    pub fn in_control(&self) -> Option<(f64, f64)> {
        self.in_control.known()
    }

    fn empty_window(&mut self) {
        self.in_control.restart();
        self.window = Mean::default();
        self.up = self.options.head_start * self.options.threshold;
        self.down = self.up;
        self.up_since = self.progress.n;
        self.down_since = self.progress.n;
    }
}

impl ChangeDetector for Cusum {
    fn name(&self) -> &'static str {
        "cusum"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        self.progress.next_row();
        self.window.add(x);
        self.progress.state = State::Stable;
        let CusumBuilder { slack, threshold, direction, .. } = self.options;
        let Some(z) = self.in_control.standardize(x) else {
            (self.up_since, self.down_since) = (self.progress.n, self.progress.n);
            return Ok(self.progress.state);
        };
        self.up = (self.up + z - slack).max(0.0);
        self.down = (self.down - z - slack).max(0.0);
        if self.up == 0.0 {
            self.up_since = self.progress.n;
        }
        if self.down == 0.0 {
            self.down_since = self.progress.n;
        }
        if direction != Direction::Down && self.up > threshold {
            self.progress.change(self.up_since);
        } else if direction != Direction::Up && self.down > threshold {
            self.progress.change(self.down_since);
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
