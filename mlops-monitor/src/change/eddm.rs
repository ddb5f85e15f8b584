//! Early drift detection method.

use serde::{Deserialize, Serialize};

use super::parts::{Mean, Progress, read_progress};
use super::{ChangeDetector, State, check_wrong};
use crate::{Error, Result};

/// EDDM: errors that follow one another in shorter distances than at their best.
///
/// ```text
/// p_t, s_t: mean and standard deviation of the distances between errors, in rows
/// level = (p_t + 2 s_t) / max_{u<=t} (p_u + 2 s_u)
/// warning if level < warning_below,     change if level < change_below
/// ```
/// Rows are 1 (the model was wrong) or 0 (it was right); anything else is an error. It looks at errors alone: between
/// two of them the state stays, and [`estimate`](ChangeDetector::estimate) is the error rate.
///
/// It finds slow rises of low error rates, where DDM is late, and pays with false alarms: at a steady rate of 20 % one every
/// 300 rows with the defaults, until a window happens to begin with distances that are hard to undercut; that one then lasts.
///
/// [`changed_at`](ChangeDetector::changed_at) is the first row of the warning zone that led to the change, or the row
/// of the change if there was none.
///
/// # Agreement
/// States equal those of `river.drift.binary.EDDM` 0.26 with the same options: the deviation is that of a sample
/// (divided by errors − 1), distances count from row `min_rows + 1` and from error `min_rows + 1` on. The paper asks for
/// 30 errors and says no more.
///
/// # Source
/// Baena-García, del Campo-Ávila, Fidalgo, Bifet, Gavaldà and Morales-Bueno (2006), *Early drift detection method*,
/// ECML PKDD workshop on knowledge discovery from data streams. `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Eddm, State};
///
/// let mut detector = Eddm::builder().build()?;
/// let mut states = Vec::new();
/// for i in 0..2_000 {
///     let wrong = if i < 1_000 { i % 20 == 19 } else { i % 4 == 0 };
///     states.push(detector.update(if wrong { 1.0 } else { 0.0 })?);
/// }
/// assert!(states[..1_000].iter().all(|state| *state == State::Stable));
/// let change = states.iter().position(|state| *state == State::Change);
/// assert!(change.is_some_and(|row| (1_000..1_400).contains(&row)), "{change:?}");
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eddm {
    options: EddmBuilder,
    window: u64,
    last_error: u64,
    distances: Mean,
    squares: f64,
    /// The largest `p + 2 s` so far.
    best: Option<f64>,
    warned_at: Option<u64>,
    progress: Progress,
}

/// Options of an [`Eddm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct EddmBuilder {
    min_rows: u64,
    warning_below: f64,
    change_below: f64,
}

impl Default for EddmBuilder {
    fn default() -> Self {
        Self { min_rows: 30, warning_below: 0.95, change_below: 0.9 }
    }
}

impl EddmBuilder {
    /// Rows, and errors, before the first test (default 30).
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Level below which the warning zone begins, in \[`change_below`, 1\] (default 0.95).
    pub fn warning_below(mut self, level: f64) -> Self {
        self.warning_below = level;
        self
    }

    /// Level below which it is a change, in (0, 1] (default 0.9).
    pub fn change_below(mut self, level: f64) -> Self {
        self.change_below = level;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Eddm> {
        if !(self.change_below > 0.0 && self.change_below <= 1.0) {
            return Err(Error::invalid("change_below", format!("must lie in (0, 1], got {}", self.change_below)));
        }
        if !(self.warning_below >= self.change_below && self.warning_below <= 1.0) {
            let reason = format!("must lie in [change_below = {}, 1], got {}", self.change_below, self.warning_below);
            return Err(Error::invalid("warning_below", reason));
        }
        Ok(Eddm {
            options: self,
            window: 0,
            last_error: 0,
            distances: Mean::default(),
            squares: 0.0,
            best: None,
            warned_at: None,
            progress: Progress::default(),
        })
    }
}

impl Eddm {
    /// Options with their defaults; finish with [`EddmBuilder::build`].
    pub fn builder() -> EddmBuilder {
        EddmBuilder::default()
    }

    fn empty_window(&mut self) {
        self.window = 0;
        self.last_error = 0;
        self.distances = Mean::default();
        self.squares = 0.0;
        self.best = None;
        self.warned_at = None;
        self.progress.state = State::Stable;
    }

    /// Takes the distance of a new error from the one before.
    fn error(&mut self, distance: f64, row: u64) {
        let before = self.distances.mean;
        self.distances.add(distance);
        self.squares += (distance - before) * (distance - self.distances.mean);
        if self.window <= self.options.min_rows {
            return;
        }
        let errors = self.distances.rows;
        let variance = if errors > 1 { (self.squares / (errors as f64 - 1.0)).max(0.0) } else { 0.0 };
        let spread = self.distances.mean + 2.0 * variance.sqrt();
        let Some(best) = self.best.filter(|best| spread <= *best) else {
            self.best = Some(spread);
            return;
        };
        if errors <= self.options.min_rows {
            return;
        }
        let level = spread / best;
        if level < self.options.change_below {
            self.progress.change(self.warned_at.unwrap_or(row));
        } else if level < self.options.warning_below {
            self.progress.state = State::Warning;
            self.warned_at.get_or_insert(row);
        } else {
            self.progress.state = State::Stable;
            self.warned_at = None;
        }
    }
}

impl ChangeDetector for Eddm {
    fn name(&self) -> &'static str {
        "eddm"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        let wrong = check_wrong(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        self.window = self.window.saturating_add(1);
        if wrong {
            let distance = self.window.saturating_sub(self.last_error) as f64;
            self.last_error = self.window;
            self.error(distance, row);
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        (self.window > 0).then(|| self.distances.rows as f64 / self.window as f64)
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}
