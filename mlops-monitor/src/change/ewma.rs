//! The chart of an exponentially weighted moving average.

use serde::{Deserialize, Serialize};

use super::parts::{InControl, Mean, Progress, read_progress};
use super::{ChangeDetector, Direction, State, check_value};
use crate::{Error, Result};

/// EWMA chart: an exponentially weighted moving average against limits that are exact from the first row on.
///
/// ```text
/// z_t = (x_t - mean) / deviation
/// E_t = (1 - weight) · E_(t-1) + weight · z_t,     E_0 = 0
/// s_t = sqrt(weight / (2 - weight) · (1 - (1 - weight)^(2t)))
/// warning if |E_t| > warning_at · s_t,     change if |E_t| > limit · s_t
/// ```
/// `E` has standard deviation `s_t` for independent rows in control, whatever their distribution. Small weights find
/// small shifts; with `weight = 1` this is a [`Shewhart`](super::Shewhart) chart with its first rule alone. With the
/// defaults and normal rows the mean run between false alarms is about 550 rows.
///
/// The mean and deviation in control are [given](EwmaBuilder::in_control), or learnt from the first
/// [`baseline_rows`](EwmaBuilder::baseline_rows) of each window; no test is made on those.
///
/// [`changed_at`](ChangeDetector::changed_at) is the row at which the average last crossed the centre before the alarm.
///
/// # Source
/// Roberts (1959), doi:10.1080/00401706.1959.10489860; exact limits and run lengths: Lucas and Saccucci (1990),
/// doi:10.1080/00401706.1990.10484583; where it began: Nishina (1992), doi:10.1002/qre.4680080605.
/// `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Ewma, State};
///
/// let mut detector = Ewma::builder().in_control(0.5, 0.1).build()?;
/// for i in 0..300 {
///     assert_eq!(detector.update(0.45 + f64::from(i % 2) * 0.1)?, State::Stable);
/// }
/// while detector.update(0.65)? != State::Change {}
/// assert!((301..310).contains(&detector.n()));
/// assert!(detector.changed_at().is_some_and(|row| row.abs_diff(300) <= 1));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ewma {
    options: EwmaBuilder,
    in_control: InControl,
    window: Mean,
    average: f64,
    /// `(1 - weight)^(2t)`.
    decay: f64,
    /// The first row since when the average is on its side of the centre.
    side_since: u64,
    progress: Progress,
}

/// Options of an [`Ewma`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct EwmaBuilder {
    in_control: Option<(f64, f64)>,
    baseline_rows: u64,
    weight: f64,
    limit: f64,
    warning_at: f64,
    direction: Direction,
}

impl Default for EwmaBuilder {
    fn default() -> Self {
        Self {
            in_control: None,
            baseline_rows: 100,
            weight: 0.2,
            limit: 3.0,
            warning_at: 2.0,
            direction: Direction::Both,
        }
    }
}

impl EwmaBuilder {
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

    /// Weight of the latest row, in (0, 1] (default 0.2).
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Distance that counts as a change, in standard deviations of the average, above 0 (default 3).
    pub fn limit(mut self, deviations: f64) -> Self {
        self.limit = deviations;
        self
    }

    /// Distance at which the warning zone begins, in (0, `limit`] (default 2).
    pub fn warning_at(mut self, deviations: f64) -> Self {
        self.warning_at = deviations;
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
    pub fn build(self) -> Result<Ewma> {
        if !(self.weight > 0.0 && self.weight <= 1.0) {
            return Err(Error::invalid("weight", format!("must lie in (0, 1], got {}", self.weight)));
        }
        if !(self.limit > 0.0 && self.limit.is_finite()) {
            return Err(Error::invalid("limit", format!("must be finite and above 0, got {}", self.limit)));
        }
        if !(self.warning_at > 0.0 && self.warning_at <= self.limit) {
            let reason = format!("must lie in (0, limit = {}], got {}", self.limit, self.warning_at);
            return Err(Error::invalid("warning_at", reason));
        }
        Ok(Ewma {
            in_control: InControl::new(self.in_control, self.baseline_rows)?,
            options: self,
            window: Mean::default(),
            average: 0.0,
            decay: 1.0,
            side_since: 0,
            progress: Progress::default(),
        })
    }
}

impl Ewma {
    /// Options with their defaults; finish with [`EwmaBuilder::build`].
    pub fn builder() -> EwmaBuilder {
        EwmaBuilder::default()
    }

    /// The average of standardized rows, and its standard deviation in control.
    #[must_use]
    pub fn average(&self) -> (f64, f64) {
        let weight = self.options.weight;
        (self.average, (weight / (2.0 - weight) * (1.0 - self.decay)).sqrt())
    }

    /// Mean and standard deviation that rows are compared with, `None` while they are learnt.
    #[must_use]
    pub fn in_control(&self) -> Option<(f64, f64)> {
        self.in_control.known()
    }

    fn empty_window(&mut self) {
        self.in_control.restart();
        self.window = Mean::default();
        self.average = 0.0;
        self.decay = 1.0;
        self.side_since = self.progress.n;
    }
}

impl ChangeDetector for Ewma {
    fn name(&self) -> &'static str {
        "ewma"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_value(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        self.window.add(x);
        self.progress.state = State::Stable;
        let Some(z) = self.in_control.standardize(x) else {
            return Ok(self.progress.state);
        };
        let keep = 1.0 - self.options.weight;
        let before = self.average;
        self.average = keep * before + self.options.weight * z;
        self.decay *= keep * keep;
        if before == 0.0 || before.is_sign_positive() != self.average.is_sign_positive() {
            self.side_since = row;
        }
        let off = match self.options.direction {
            Direction::Up => self.average,
            Direction::Down => -self.average,
            Direction::Both => self.average.abs(),
        };
        let (_, deviation) = self.average();
        if off > self.options.limit * deviation {
            self.progress.change(self.side_since);
        } else if off > self.options.warning_at * deviation {
            self.progress.state = State::Warning;
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
