//! Reactive drift detection method.

use serde::{Deserialize, Serialize};

use super::parts::{Bits, Mean, Progress, read_progress};
use super::{ChangeDetector, State, check_option, check_wrong};
use crate::{Error, Result};

/// RDDM: [`Ddm`](super::Ddm) that forgets the far past of a long window, and starts anew with the rows of its warning zone.
///
/// Statistics and zones are those of DDM. In addition
///
/// - the latest `short_window` rows are kept; once the window has `long_window` rows and is not in the warning zone, the
///   error rate is computed again from those alone, so that a long stable stretch does not make it slow; the best stays;
/// - more than `max_warnings` rows in the warning zone in succession are a change;
/// - after a change the window goes on with the rows since the warning zone began (of a change for too many warnings,
///   with the latest row), so the next `update` does not start with an empty one.
///
/// Rows are 1 (the model was wrong) or 0 (it was right); anything else is an error. Falling error rates are not reported.
/// [`changed_at`](ChangeDetector::changed_at) is the first row of the warning zone that led to the change, or the row of
/// the change if there was none. Memory is a bit for each of `short_window` rows.
///
/// # Agreement
/// With the paper's pseudocode, by an implementation of it in plain Python. `frouros.RDDM` 0.9 agrees up to the first
/// change or cut; from there on it keeps all latest rows, where the paper keeps those of the warning zone, and forgets the
/// best at a cut.
///
/// # Source
/// Barros, Cabral, Gonçalves and Santos (2017), doi:10.1016/j.eswa.2017.08.023, whose options are the defaults.
/// `tests/golden/change_more.json`.
///
/// # Examples
/// ```
/// use mlops_monitor::change::{ChangeDetector, Rddm, State};
///
/// let mut detector = Rddm::builder().build()?;
/// for i in 0..1_000 {
///     let wrong = if i < 500 { i % 10 == 0 } else { i % 2 == 0 };
///     if detector.update(if wrong { 1.0 } else { 0.0 })? == State::Change {
///         break;
///     }
/// }
/// assert!(detector.n() < 550);
/// assert!(detector.changed_at().is_some_and(|row| (500..550).contains(&row)));
/// # Ok::<(), mlops_monitor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rddm {
    options: RddmBuilder,
    rate: Mean,
    /// Error rate and standard deviation where their sum was smallest.
    best: Option<(f64, f64)>,
    latest: Bits,
    /// Rows in succession in the warning zone.
    warnings: u64,
    warned_at: Option<u64>,
    /// Whether the next row begins with statistics computed again from the latest rows.
    rebuild: bool,
    progress: Progress,
}

/// Options of an [`Rddm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use = "a builder does nothing until `build`"]
pub struct RddmBuilder {
    min_rows: u64,
    warning_at: f64,
    change_at: f64,
    long_window: u64,
    short_window: u32,
    max_warnings: u64,
}

impl Default for RddmBuilder {
    fn default() -> Self {
        Self {
            min_rows: 129,
            warning_at: 1.773,
            change_at: 2.258,
            long_window: 40_000,
            short_window: 7_000,
            max_warnings: 1_400,
        }
    }
}

impl RddmBuilder {
    /// Rows of a window from which on it is tested, at least 1 (default 129).
    pub fn min_rows(mut self, rows: u64) -> Self {
        self.min_rows = rows;
        self
    }

    /// Standard deviations above the best at which the warning zone begins (default 1.773).
    pub fn warning_at(mut self, deviations: f64) -> Self {
        self.warning_at = deviations;
        self
    }

    /// Standard deviations above the best that count as a change (default 2.258).
    pub fn change_at(mut self, deviations: f64) -> Self {
        self.change_at = deviations;
        self
    }

    /// Rows of a window after which it is cut, at least `short_window` (default 40,000).
    pub fn long_window(mut self, rows: u64) -> Self {
        self.long_window = rows;
        self
    }

    /// Rows to which it is cut, 1 to 10,000,000 (default 7,000).
    pub fn short_window(mut self, rows: u32) -> Self {
        self.short_window = rows;
        self
    }

    /// Rows in succession that the warning zone may have without being a change (default 1,400).
    pub fn max_warnings(mut self, rows: u64) -> Self {
        self.max_warnings = rows;
        self
    }

    /// Makes the detector.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the first option out of range.
    pub fn build(self) -> Result<Rddm> {
        if self.min_rows == 0 {
            return Err(Error::invalid("min_rows", "must be at least 1"));
        }
        check_option("warning_at", self.warning_at)?;
        check_option("change_at", self.change_at)?;
        if !(1..=10_000_000).contains(&self.short_window) {
            return Err(Error::invalid("short_window", format!("must be 1 to 10,000,000, got {}", self.short_window)));
        }
        if self.long_window < self.short_window.into() {
            let reason = format!("must be at least short_window = {}, got {}", self.short_window, self.long_window);
            return Err(Error::invalid("long_window", reason));
        }
        Ok(Rddm {
            latest: Bits::new(self.short_window as usize),
            options: self,
            rate: Mean::default(),
            best: None,
            warnings: 0,
            warned_at: None,
            rebuild: false,
            progress: Progress::default(),
        })
    }
}

impl Rddm {
    /// Options with their defaults; finish with [`RddmBuilder::build`].
    pub fn builder() -> RddmBuilder {
        RddmBuilder::default()
    }

    /// Error rate, and its standard deviation.
    fn spread(&self) -> (f64, f64) {
        let rate = self.rate.mean;
        // Rounding may put a rate of 1 just above it.
        (rate, (rate * (1.0 - rate) / self.rate.rows as f64).max(0.0).sqrt())
    }

    fn note_best(&mut self) -> (f64, f64) {
        let (rate, deviation) = self.spread();
        let best = self.best.filter(|(r, s)| rate + deviation >= r + s).unwrap_or((rate, deviation));
        self.best = Some(best);
        best
    }

    /// Computes the statistics again from the latest rows; the best is another only after a change.
    fn rebuild(&mut self) {
        self.rebuild = false;
        self.rate = Mean::default();
        if self.progress.is_over() {
            self.best = None;
        }
        self.warnings = 0;
        self.warned_at = None;
        for i in 0..self.latest.len() {
            self.rate.add(f64::from(u8::from(self.latest.get(i))));
            if self.progress.is_over() && self.rate.rows > self.options.min_rows {
                self.note_best();
            }
        }
    }

    /// Notes a change; the next window begins with the latest rows from `first` on.
    fn change(&mut self, row: u64, first: u64) {
        let began = self.warned_at.unwrap_or(row);
        let kept = usize::try_from(row.saturating_sub(first)).unwrap_or(usize::MAX).saturating_add(1);
        self.latest.drop_first(self.latest.len().saturating_sub(kept));
        self.rebuild = true;
        self.progress.change(began);
    }
}

impl ChangeDetector for Rddm {
    fn name(&self) -> &'static str {
        "rddm"
    }

    fn update(&mut self, x: f64) -> Result<State> {
        let wrong = check_wrong(x)?;
        if self.rebuild {
            self.rebuild();
        }
        let row = self.progress.next_row();
        self.latest.push(wrong);
        self.rate.add(x);
        self.progress.state = State::Stable;
        if self.rate.rows < self.options.min_rows {
            return Ok(self.progress.state);
        }
        let (best_rate, best_deviation) = self.note_best();
        let (rate, deviation) = self.spread();
        if rate + deviation > best_rate + self.options.change_at * best_deviation {
            self.change(row, self.warned_at.unwrap_or(row));
            return Ok(self.progress.state);
        }
        if rate + deviation > best_rate + self.options.warning_at * best_deviation {
            self.warned_at.get_or_insert(row);
            if self.warnings >= self.options.max_warnings {
                self.change(row, row);
                return Ok(self.progress.state);
            }
            self.warnings += 1;
            self.progress.state = State::Warning;
        } else {
            self.warnings = 0;
            self.warned_at = None;
            self.rebuild = self.rate.rows >= self.options.long_window;
        }
        Ok(self.progress.state)
    }

    fn estimate(&self) -> Option<f64> {
        self.rate.value()
    }

    fn reset(&mut self) {
        self.progress = Progress::default();
        self.latest.clear();
        self.best = None;
        self.rebuild();
    }

    read_progress!();
}
