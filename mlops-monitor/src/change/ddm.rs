//! Drift detection method.

use serde::{Deserialize, Serialize};

use super::{ChangeDetector, State, check_option, check_wrong};
use crate::Result;

/// DDM: an error rate that has risen a number of standard deviations above its best.
///
/// ```text
/// p_t = errors / rows,     s_t = sqrt(p_t (1 - p_t) / rows)
/// p*, s*: those at the smallest p + s so far
/// warning if p_t + s_t > p* + warning_at · s*,     change if p_t + s_t > p* + change_at · s*
/// ```
/// Rows are 1 (the model was wrong) or 0 (it was right); anything else is an error. Falling error rates are not
/// reported. [`changed_at`](ChangeDetector::changed_at) is the first row of the warning zone that led to the
/// change, or the row of the change if there was none.
///
/// # Agreement
/// States equal those of `river.drift.binary.DDM` 0.26 with the same options. Both test from row `min_rows + 1` on,
/// and strictly above the bounds; the paper from row 30, at or above. As in both, a stream without any error in its
/// first `min_rows` rows has `p* = s* = 0`, so its first error is a change: expect that alarm on very good models,
/// or use [`Adwin`](super::Adwin).
///
/// # Source
/// Gama, Medas, Castillo and Rodrigues (2004), doi:10.1007/978-3-540-28645-5_29; `tests/golden/change.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Ddm, State};
///
/// let mut detector = Ddm::builder().build()?;
/// let mut seen = Vec::new();
/// for i in 0..1_000 {
///     let wrong = if i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     let state = detector.update(if wrong { 1.0 } else { 0.0 })?;
///     if seen.last() != Some(&state) {
///         seen.push(state);
///     }
///     if state == State::Change {
///         break;
///     }
/// }
/// assert_eq!(seen, [State::Stable, State::Warning, State::Change]);
/// assert!(detector.changed_at().is_some_and(|row| (500..600).contains(&row)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ddm {
    options: DdmBuilder,
    window: u64,
    rate: f64,
    /// Error rate and standard deviation where their sum was smallest.
    best: Option<(f64, f64)>,
    warned_at: Option<u64>,
    n: u64,
    state: State,
    changed_at: Option<u64>,
}

/// Options of a [`Ddm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct DdmBuilder {
    min_rows: u64,
    warning_at: f64,
    change_at: f64,
}

impl Default for DdmBuilder {
    fn default() -> Self {
        Self { min_rows: 30, warning_at: 2.0, change_at: 3.0 }
    }
}

impl DdmBuilder {
    /// Rows before the first test (default 30).
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Standard deviations above the best at which the warning zone begins (default 2).
    pub fn warning_at(mut self, deviations: f64) -> Self {
        self.warning_at = deviations;
        self
    }

    /// Standard deviations above the best that count as a change (default 3).
    pub fn change_at(mut self, deviations: f64) -> Self {
        self.change_at = deviations;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) naming the first option out of range.
    pub fn build(self) -> Result<Ddm> {
        check_option("warning_at", self.warning_at)?;
        check_option("change_at", self.change_at)?;
        Ok(Ddm {
            options: self,
            window: 0,
            rate: 0.0,
            best: None,
            warned_at: None,
            n: 0,
            state: State::Stable,
            changed_at: None,
        })
    }
}

impl Ddm {
    /// Options with their defaults; finish with [`DdmBuilder::build`].
    pub fn builder() -> DdmBuilder {
        DdmBuilder::default()
    }

    fn empty_window(&mut self) {
        self.window = 0;
        self.rate = 0.0;
        self.best = None;
        self.warned_at = None;
    }
}

impl ChangeDetector for Ddm {
    fn name(&self) -> &'static str {
        "ddm"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        check_wrong(x)?;
        if self.state == State::Change {
            self.empty_window();
        }
        let row = self.n;
        self.n = self.n.saturating_add(1);
        self.window = self.window.saturating_add(1);
        let rows = self.window as f64;
        self.rate += (1.0 / rows) * (x - self.rate);
        self.state = State::Stable;
        if self.window <= self.options.min_rows {
            return Ok(self.state);
        }
        let rate = self.rate;
        // Rounding may put a rate of 1 just above it.
        let deviation = (rate * (1.0 - rate) / rows).max(0.0).sqrt();
        let (best_rate, best_deviation) =
            self.best.filter(|(r, s)| rate + deviation > r + s).unwrap_or((rate, deviation));
        self.best = Some((best_rate, best_deviation));

        if rate + deviation > best_rate + self.options.change_at * best_deviation {
            self.state = State::Change;
            self.changed_at = Some(self.warned_at.unwrap_or(row));
        } else if rate + deviation > best_rate + self.options.warning_at * best_deviation {
            self.state = State::Warning;
            self.warned_at.get_or_insert(row);
        } else {
            self.warned_at = None;
        }
        Ok(self.state)
    }

    fn state(&self) -> State {
        self.state
    }

    fn estimate(&self) -> Option<f64> {
        (self.window > 0).then_some(self.rate)
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
