//! Statistical test of equal proportions.

use serde::{Deserialize, Serialize};

use super::parts::{Bits, Progress, read_progress};
use super::{ChangeDetector, State, check_wrong};
use crate::special::normal_quantile;
use crate::{Error, Result};

/// STEPD: the error rate of the latest rows against that of all before them, by the test of equal proportions.
///
/// ```text
/// T = (e_r/r - e_o/o - ½ (1/o + 1/r)) / sqrt(p (1 - p) (1/o + 1/r)),     p = (e_o + e_r) / (o + r)
/// ```
/// with `e_r` errors among the latest `r = recent_rows` rows and `e_o` among the `o` rows before. The p-value is
/// `1 - Φ(T)`: below `warning_p` it is a warning, below `change_p` a change, from `2 r` rows on. Rows are 1 (the model was
/// wrong) or 0 (it was right); anything else is an error. Falling error rates are not reported.
///
/// The test is made at every row and not corrected for it; with the defaults a stream without change has an alarm
/// every two thousand rows or so.
///
/// [`changed_at`](ChangeDetector::changed_at) is the first row of the warning zone that led to the change, or the first of
/// the recent rows if there was none.
///
/// # Agreement
/// `frouros.STEPD` 0.9 computes the same `T` from accuracies with the sign dropped, so it reports falling error rates too,
/// and starts at 30 rows; where errors rise the first change points are equal.
///
/// # Source
/// Nishida and Yamauchi (2007), doi:10.1007/978-3-540-75488-6_27, whose options are the defaults.
/// `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, State, Stepd};
///
/// let mut detector = Stepd::builder().build()?;
/// let change = (0..1_000_u32).find(|i| {
///     let wrong = if *i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     detector.update(f64::from(u8::from(wrong))).is_ok_and(|state| state == State::Change)
/// });
/// assert!(change.is_some_and(|row| (500..530).contains(&row)));
/// assert!(detector.changed_at().is_some_and(|row| (500..530).contains(&row)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stepd {
    options: StepdBuilder,
    recent: Bits,
    older: u64,
    older_errors: u64,
    warned_at: Option<u64>,
    /// `T` above which the zones begin.
    warning_above: f64,
    change_above: f64,
    progress: Progress,
}

/// Options of a [`Stepd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct StepdBuilder {
    recent_rows: u32,
    warning_p: f64,
    change_p: f64,
}

impl Default for StepdBuilder {
    fn default() -> Self {
        Self { recent_rows: 30, warning_p: 0.05, change_p: 0.003 }
    }
}

impl StepdBuilder {
    /// Rows whose error rate is tested, 1 to 10,000,000 (default 30).
    pub fn recent_rows(mut self, rows: u32) -> Self {
        self.recent_rows = rows;
        self
    }

    /// p-value below which the warning zone begins, in \[`change_p`, 1) (default 0.05).
    pub fn warning_p(mut self, p: f64) -> Self {
        self.warning_p = p;
        self
    }

    /// p-value below which it is a change, in (0, 1) (default 0.003).
    pub fn change_p(mut self, p: f64) -> Self {
        self.change_p = p;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Stepd> {
        if !(1..=10_000_000).contains(&self.recent_rows) {
            return Err(Error::invalid("recent_rows", format!("must be 1 to 10,000,000, got {}", self.recent_rows)));
        }
        if !(self.change_p > 0.0 && self.change_p < 1.0) {
            return Err(Error::invalid("change_p", format!("must lie in (0, 1), got {}", self.change_p)));
        }
        if !(self.warning_p >= self.change_p && self.warning_p < 1.0) {
            let reason = format!("must lie in [change_p = {}, 1), got {}", self.change_p, self.warning_p);
            return Err(Error::invalid("warning_p", reason));
        }
        Ok(Stepd {
            recent: Bits::new(self.recent_rows as usize),
            older: 0,
            older_errors: 0,
            warned_at: None,
            warning_above: -normal_quantile(self.warning_p),
            change_above: -normal_quantile(self.change_p),
            options: self,
            progress: Progress::default(),
        })
    }
}

impl Stepd {
    /// Options with their defaults; finish with [`StepdBuilder::build`].
    pub fn builder() -> StepdBuilder {
        StepdBuilder::default()
    }

    fn empty_window(&mut self) {
        self.recent.clear();
        self.older = 0;
        self.older_errors = 0;
        self.warned_at = None;
    }

    fn statistic(&self) -> Option<f64> {
        if self.older < self.recent.len() as u64 {
            return None;
        }
        let (older, recent) = (self.older as f64, self.recent.len() as f64);
        let (older_errors, recent_errors) = (self.older_errors as f64, self.recent.ones() as f64);
        let p = (older_errors + recent_errors) / (older + recent);
        let inverse = 1.0 / older + 1.0 / recent;
        let variance = p * (1.0 - p) * inverse;
        (variance > 0.0).then(|| (recent_errors / recent - older_errors / older - 0.5 * inverse) / variance.sqrt())
    }
}

impl ChangeDetector for Stepd {
    fn name(&self) -> &'static str {
        "stepd"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        let wrong = check_wrong(x)?;
        if self.progress.is_over() {
            self.empty_window();
        }
        let row = self.progress.next_row();
        if let Some(gone) = self.recent.push(wrong) {
            self.older = self.older.saturating_add(1);
            self.older_errors = self.older_errors.saturating_add(gone.into());
        }
        self.progress.state = State::Stable;
        let Some(statistic) = self.statistic() else {
            return Ok(self.progress.state);
        };
        if statistic > self.change_above {
            let recent = self.progress.n.saturating_sub(self.recent.len() as u64);
            self.progress.change(self.warned_at.unwrap_or(recent));
        } else if statistic > self.warning_above {
            self.progress.state = State::Warning;
            self.warned_at.get_or_insert(row);
        } else {
            self.warned_at = None;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        let rows = self.older.saturating_add(self.recent.len() as u64);
        (rows > 0).then(|| self.older_errors.saturating_add(self.recent.ones()) as f64 / rows as f64)
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.empty_window();
    }

    read_progress!();
}
